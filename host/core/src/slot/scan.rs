//! One page of a session's state in the order of its keys: what the transaction wrote before what
//! the cache knows before what the store has. Works for what the page shows, not for what the
//! session holds.

use crate::{error::StateError, limits, names::SlotId, plugin::StateFault, state::StateStore};
use bytes::Bytes;
use std::cmp::Ordering;

/// Where the pairs that are not in memory come from.
pub(super) struct Source<'a> {
    pub store: &'a dyn StateStore,
    pub slot: SlotId,
    /// `None`: the session has nothing in the store.
    pub session: Option<u64>,
}

/// Up to `limit` pairs with `prefix` after `after`, and up to [`limits::STATE_SCAN_BYTES_MAX`] but
/// one at least. `cached` and `written` begin behind `after`, in order; `None` hides a key.
///
/// # Errors
/// When the store can't be read.
pub(super) fn page<'a>(
    source: Source<'_>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    cached: impl Iterator<Item = (&'a str, &'a Option<Bytes>)>,
    written: impl Iterator<Item = (&'a str, &'a Option<Bytes>)>,
) -> Result<Vec<(String, Bytes)>, StateFault> {
    let mut known = Known {
        cached: cached.take_while(|(key, _)| key.starts_with(prefix)).peekable(),
        written: written.take_while(|(key, _)| key.starts_with(prefix)).peekable(),
    };
    let mut stored = Stored::new(source, prefix, after, limit);
    let mut page: Vec<(String, Bytes)> = Vec::new();
    let mut bytes = 0;
    let (mut next_known, mut next_stored) = (known.next(), stored.next()?);
    while page.len() < limit {
        let order = match (&next_known, &next_stored) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((known, _)), Some((stored, _))) => (*known).cmp(stored),
        };
        let pair = if order == Ordering::Greater {
            let pair = next_stored.take();
            next_stored = stored.next()?;
            pair
        } else {
            if order == Ordering::Equal {
                next_stored = stored.next()?;
            }
            let pair = next_known.take();
            next_known = known.next();
            pair.and_then(|(key, value)| Some((key.to_owned(), value.clone()?)))
        };
        let Some((key, value)) = pair else { continue };
        let more = bytes + key.len() + value.len();
        if !page.is_empty() && more > limits::STATE_SCAN_BYTES_MAX {
            break;
        }
        bytes = more;
        page.push((key, value));
    }
    Ok(page)
}

/// What is known in memory: what was written hides what is cached.
struct Known<C: Iterator, W: Iterator> {
    cached: std::iter::Peekable<C>,
    written: std::iter::Peekable<W>,
}

impl<'a, C, W> Iterator for Known<C, W>
where
    C: Iterator<Item = (&'a str, &'a Option<Bytes>)>,
    W: Iterator<Item = (&'a str, &'a Option<Bytes>)>,
{
    type Item = (&'a str, &'a Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.cached.peek(), self.written.peek()) {
            (Some((cached, _)), Some((written, _))) => cached.cmp(written),
            (_, None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.cached.next(),
            Ordering::Equal => {
                self.cached.next();
                self.written.next()
            }
            Ordering::Greater => self.written.next(),
        }
    }
}

/// The pairs of the store, read a page at a time as they are needed.
struct Stored<'a> {
    source: Source<'a>,
    prefix: &'a str,
    limit: usize,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
    /// The last key that was read.
    reached: Option<Bytes>,
    ended: bool,
}

impl<'a> Stored<'a> {
    fn new(source: Source<'a>, prefix: &'a str, after: Option<&str>, limit: usize) -> Self {
        let ended = source.session.is_none() || limit == 0;
        let reached = after.map(|after| Bytes::copy_from_slice(after.as_bytes()));
        Self { source, prefix, limit, page: Vec::new().into_iter(), reached, ended }
    }

    fn next(&mut self) -> Result<Option<(String, Bytes)>, StateFault> {
        if self.page.len() == 0 && !self.ended {
            self.read()?;
        }
        let Some((key, value)) = self.page.next() else { return Ok(None) };
        let key = String::from_utf8(key.into())
            .map_err(|_| StateError::Corrupt("a state key is not UTF-8".into()))?;
        Ok(Some((key, value)))
    }

    fn read(&mut self) -> Result<(), StateFault> {
        let Source { store, slot, session } = &self.source;
        let Some(session) = *session else { return Ok(()) };
        let (prefix, after) = (self.prefix.as_bytes(), self.reached.as_deref());
        let bytes_max = limits::STATE_SCAN_BYTES_MAX;
        let page = store.scan(*slot, session, prefix, after, self.limit, bytes_max)?;
        let bytes: usize = page.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.ended = page.len() < self.limit && bytes < bytes_max;
        if let Some((last, _)) = page.last() {
            self.reached = Some(last.clone());
        }
        self.page = page.into_iter();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::StorageOptions,
        state::{SlotMeta, changes::Changes},
        storage::DataDir,
    };
    use std::{cell::Cell, collections::BTreeMap};

    /// A scan that looked at all that a session holds would take seconds right after a million keys
    /// were written, whatever its limit: longer than a call may take, with the slot standing still.
    #[test]
    fn a_page_costs_what_it_shows() {
        let home = tempfile::tempdir().unwrap();
        let data = DataDir::open(home.path(), StorageOptions::default()).unwrap();
        let store = data.state();
        let mut changes = Changes::default();
        let big = Bytes::from(vec![1; 512 * 1024]);
        changes.sessions.entry(1).or_default().state =
            (0..40).map(|n| (Bytes::from(format!("k{n:05}x")), Some(big.clone()))).collect();
        store.apply(0, &changes, &SlotMeta::default()).unwrap();
        let values: BTreeMap<String, Option<Bytes>> =
            (0..50_000).map(|n| (format!("k{n:05}"), Some(Bytes::from_static(b"v")))).collect();
        let looked = Cell::new(0);
        let known = || {
            values.iter().map(|(key, value)| {
                looked.set(looked.get() + 1);
                (key.as_str(), value)
            })
        };
        let source = || Source { store: &*store, slot: 0, session: Some(1) };
        let page = page(source(), "k", None, 10, known(), known()).unwrap();
        let keys: Vec<_> = page.iter().map(|(key, _)| key.as_str()).collect();
        let first = ["k00000", "k00000x", "k00001", "k00001x", "k00002"];
        assert_eq!(keys[..5], first);
        assert_eq!(page.len(), 10);
        assert!(looked.get() < 40, "{} looked at for ten", looked.get());
        // Values of half a MiB: the page ends on its bytes, and no more is read from the store.
        let none = std::iter::empty;
        let all = super::page(source(), "k", None, 1_000, none(), none()).unwrap();
        let bytes: usize = all.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(bytes <= limits::STATE_SCAN_BYTES_MAX && all.len() == 7, "{}", all.len());
        let read = store.scan(0, 1, b"k", None, 1_000, limits::STATE_SCAN_BYTES_MAX).unwrap();
        assert_eq!(read.len(), 8);
    }

    /// What a transaction deleted must not show again from the cache or the store, nor end a page.
    #[test]
    fn what_is_hidden_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let data = DataDir::open(home.path(), StorageOptions::default()).unwrap();
        let store = data.state();
        let mut changes = Changes::default();
        changes.sessions.entry(1).or_default().state = (0..100)
            .map(|n| (Bytes::from(format!("k{n:03}")), Some(Bytes::from_static(b"stored"))))
            .collect();
        store.apply(0, &changes, &SlotMeta::default()).unwrap();
        let hidden: BTreeMap<String, Option<Bytes>> =
            (0..95).map(|n| (format!("k{n:03}"), None)).collect();
        let hidden = hidden.iter().map(|(key, value)| (key.as_str(), value));
        let source = Source { store: &*store, slot: 0, session: Some(1) };
        let page = page(source, "k", None, 3, std::iter::empty(), hidden).unwrap();
        let keys: Vec<_> = page.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["k095", "k096", "k097"]);
    }
}
