//! Keyspaces, batches and moments of the database, as the rest of slotd sees them: which store is
//! behind them is known to this folder only (`cargo xtask lint` looks). Values of keyspaces that are
//! sealed are sealed and opened here.

use crate::seal::{self, Keyring, Unopened};
use fjall::{OwnedWriteBatch, Readable as _};
use std::{ops::Bound, path::Path};

/// The database's error of an operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error(transparent)]
    Store(#[from] fjall::Error),
    /// A row is there, and can't be read.
    #[error("a row can't be opened: {0}")]
    Sealed(#[from] Unopened),
}

pub type Result<T> = std::result::Result<T, DbError>;

/// Bytes of a row. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slice(fjall::Slice);

impl std::ops::Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The first byte of a value that is sealed. Others begin with other formats, or are empty.
const SEALED: u8 = 3;

/// What the values of a keyspace are sealed by, if they are, and opened.
#[derive(Clone)]
struct Seal {
    keys: Keyring,
    /// The keyspace: a row of one is none of another.
    name: &'static str,
}

impl Seal {
    fn place<'a>(&self, key: &'a [u8]) -> [&'a [u8]; 3] {
        [b"row", self.name.as_bytes(), key]
    }

    /// `None`: as it is.
    fn seal(&self, key: &[u8], value: &[u8]) -> std::result::Result<Option<Vec<u8>>, String> {
        if self.keys.sealing().is_none() || value.is_empty() {
            return Ok(None);
        }
        let mut sealed = vec![SEALED];
        self.keys.seal(&self.place(key), value, &mut sealed)?;
        Ok(Some(sealed))
    }

    /// Whether a value is not kept as it would be now: sealed with another key, or in clear text, or sealed where it
    /// would not be.
    fn is_outdated(&self, value: &[u8]) -> bool {
        match (value.split_first(), self.keys.sealing()) {
            // Nothing is to be seen in it.
            (None, _) => false,
            (Some((&SEALED, sealed)), now) => now.is_none() || seal::key_of(sealed) != now,
            (Some(_), now) => now.is_some(),
        }
    }

    fn open(&self, key: &[u8], value: fjall::Slice) -> Result<Slice> {
        match value.split_first() {
            Some((&SEALED, sealed)) => {
                let opened = self.keys.open(&self.place(key), sealed)?;
                Ok(Slice(opened.into()))
            }
            _ => Ok(Slice(value)),
        }
    }
}

/// Keys with their values, in order of the keys.
#[derive(Clone)]
pub struct Keyspace {
    pub(super) inner: fjall::Keyspace,
    seal: Option<Seal>,
}

impl Keyspace {
    /// Values are kept as they are given.
    pub(super) fn plain(inner: fjall::Keyspace) -> Self {
        Self { inner, seal: None }
    }

    /// Values are sealed, if there are keys, and opened where they are sealed.
    pub(super) fn sealed(inner: fjall::Keyspace, name: &'static str, keys: &Keyring) -> Self {
        Self { inner, seal: Some(Seal { keys: keys.clone(), name }) }
    }

    fn opened(&self, key: &[u8], value: Option<fjall::Slice>) -> Result<Option<Slice>> {
        match (&self.seal, value) {
            (Some(seal), Some(value)) => seal.open(key, value).map(Some),
            (_, value) => Ok(value.map(Slice)),
        }
    }
}

impl Keyspace {
    pub fn id(&self) -> u64 {
        self.inner.id()
    }

    /// The folder of its tables.
    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        self.opened(key, self.inner.get(key)?)
    }

    pub fn contains_key(&self, key: &[u8]) -> Result<bool> {
        Ok(self.inner.contains_key(key)?)
    }

    /// The first key.
    pub fn first(&self) -> Result<Option<Slice>> {
        let first = self.inner.first_key_value().map(fjall::Guard::key).transpose()?;
        Ok(first.map(Slice))
    }

    fn rows(&self, iter: fjall::Iter) -> Rows {
        Rows { iter, seal: self.seal.clone() }
    }

    pub fn iter(&self) -> Rows {
        self.rows(self.inner.iter())
    }

    pub fn prefix(&self, prefix: &[u8]) -> Rows {
        self.rows(self.inner.prefix(prefix))
    }

    pub fn range(&self, range: Range) -> Rows {
        self.rows(self.inner.range(range))
    }
}

/// What [`Keyspace::outdated`] has found.
pub struct Outdated {
    pub keys: Vec<Slice>,
    /// Rows that were looked at.
    pub rows: usize,
    /// After which row the next look begins; `None`: this was the last one.
    pub next: Option<Vec<u8>>,
}

impl Keyspace {
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// Whether its values are sealed where there are keys.
    pub fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// Which rows after `after` are sealed otherwise than they would be now. Looks at rows until the outdated ones have
    /// more than `bytes_max`, or there were `rows_max`.
    pub fn outdated(
        &self,
        after: Option<Vec<u8>>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Outdated> {
        let mut found = Outdated { keys: Vec::new(), rows: 0, next: None };
        let Some(seal) = &self.seal else { return Ok(found) };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        for row in self.inner.range::<Vec<u8>, Range>((start, Bound::Unbounded)) {
            let (key, value) = row.into_inner()?;
            found.rows += 1;
            if seal.is_outdated(&value) {
                bytes += key.len() + value.len();
                found.keys.push(Slice(key.clone()));
            }
            if bytes > bytes_max || found.rows >= rows_max {
                found.next = Some(key.to_vec());
                break;
            }
        }
        Ok(found)
    }

    /// A row, if it is there and outdated still.
    pub fn get_outdated(&self, key: &[u8]) -> Result<Option<Slice>> {
        let value = self.inner.get(key)?;
        let value = value.filter(|it| self.seal.as_ref().is_some_and(|seal| seal.is_outdated(it)));
        self.opened(key, value)
    }
}

pub type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Rows in order.
pub struct Rows {
    iter: fjall::Iter,
    seal: Option<Seal>,
}

impl Rows {
    fn row(&self, guard: fjall::Guard) -> Result<(Slice, Slice)> {
        let (key, value) = guard.into_inner()?;
        let value = match &self.seal {
            Some(seal) => seal.open(&key, value)?,
            None => Slice(value),
        };
        Ok((Slice(key), value))
    }
}

impl Iterator for Rows {
    type Item = Result<(Slice, Slice)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.iter.next()?;
        Some(self.row(next))
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Self::Item> {
        let next = self.iter.next_back()?;
        Some(self.row(next))
    }
}

impl Rows {
    /// With the key also of a row whose value can't be opened.
    pub fn by_key(mut self) -> impl Iterator<Item = Result<(Slice, Result<Slice>)>> {
        std::iter::from_fn(move || {
            let row = self.iter.next()?.into_inner().map_err(DbError::from);
            Some(row.map(|(key, value)| {
                let value = match &self.seal {
                    Some(seal) => seal.open(&key, value),
                    None => Ok(Slice(value)),
                };
                (Slice(key), value)
            }))
        })
    }
}

/// All keyspaces at one moment. What is written later does not show.
pub struct Snapshot(pub(super) fjall::Snapshot);

impl Snapshot {
    pub fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Slice>> {
        keyspace.opened(key, self.0.get(&keyspace.inner, key)?)
    }

    pub fn contains_key(&self, keyspace: &Keyspace, key: &[u8]) -> Result<bool> {
        Ok(self.0.contains_key(&keyspace.inner, key)?)
    }

    pub fn range(&self, keyspace: &Keyspace, range: Range) -> Rows {
        keyspace.rows(self.0.range(&keyspace.inner, range))
    }
}

/// Writes that are done all or not at all.
pub struct WriteBatch {
    pub(super) batch: OwnedWriteBatch,
    /// Whether it is durable when it is committed.
    pub(super) sync: bool,
    /// The keyspaces that it writes to, a bit each.
    pub(super) touched: u16,
    /// Whether one of them is sealed.
    pub(super) sealed: bool,
    /// Why something can't be sealed: then nothing is written.
    pub(super) unsealed: Option<String>,
}

impl WriteBatch {
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Copies both. A key is written once in a batch: of two, which one counts is undefined.
    pub fn insert(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        self.touch(keyspace);
        match keyspace.seal.as_ref().map_or(Ok(None), |seal| seal.seal(key, value)) {
            Ok(None) => self.batch.insert(&keyspace.inner, key, value),
            Ok(Some(sealed)) => self.batch.insert(&keyspace.inner, key, sealed),
            Err(why) => self.unsealed = Some(why),
        }
    }

    fn touch(&mut self, keyspace: &Keyspace) {
        self.touched |= bit(&keyspace.inner);
        self.sealed |= keyspace.is_sealed();
    }

    pub fn remove(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.touch(keyspace);
        self.batch.remove(&keyspace.inner, key);
    }
}

/// Keyspaces have ids from 1 to 10.
pub(super) fn bit(keyspace: &fjall::Keyspace) -> u16 {
    1_u16.checked_shl(keyspace.id() as u32).unwrap_or(u16::MAX)
}

#[cfg(test)]
impl Keyspace {
    /// A value as it is on the disk.
    pub fn raw(&self, key: &[u8]) -> Vec<u8> {
        let value = self.inner.get(key).ok().flatten();
        value.map(|value| value.to_vec()).unwrap_or_default()
    }

    pub fn put_raw(&self, key: &[u8], value: &[u8]) {
        let put = self.inner.insert(key, value);
        assert!(put.is_ok());
    }

    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.inner.is_empty()?)
    }

    pub fn disk_bytes(&self) -> u64 {
        self.inner.disk_space()
    }

    /// Full memtables that are not written to tables yet.
    pub fn sealed_memtables(&self) -> usize {
        self.inner.sealed_memtable_count()
    }

    /// The worker writes none of its memtables to a table while this is held.
    pub fn hold_flushes(&self) -> impl Sized + '_ {
        use fjall::AbstractTree as _;
        self.inner.tree.get_flush_lock()
    }

    /// The first and the last key of each table.
    pub fn table_ranges(&self) -> Vec<(Slice, Slice)> {
        use fjall::AbstractTree as _;
        let version = self.inner.tree.current_version();
        let ranges = version.iter_tables().map(|table| {
            let range = &table.metadata.key_range;
            (Slice(range.min().clone()), Slice(range.max().clone()))
        });
        ranges.collect()
    }
}
