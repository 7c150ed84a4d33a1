use crate::{Error, encode::to_json, host::Host};
use serde::{Serialize, de::DeserializeOwned};
use std::{marker::PhantomData, ops::Deref, vec};

/// The session's state, to read: a sorted map from text keys to bytes. Sees the writes of its own
/// call. Typed values are JSON.
#[derive(Clone)]
pub struct StateView {
    host: Host,
}

/// The session's state, to read and to write. A key has 1,024 bytes at most, a value 1 MiB, and
/// what one message writes 4 MiB; past a limit the call ends in a trap and nothing is kept.
#[derive(Clone)]
pub struct State {
    view: StateView,
}

impl StateView {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }
    /// The value under `key`, from JSON.
    ///
    /// # Errors
    /// When there is a value that is not the JSON of a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.get_bytes(key).map(|bytes| decode(key, &bytes)).transpose()
    }
    pub fn get_bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.host.get(key)
    }
    /// The pairs whose key starts with `prefix`, in order of the keys' bytes, with the value from
    /// JSON. Reads pages as it goes: a write behind it is not seen, one ahead of it may be.
    pub fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Scan<T> {
        Scan { pages: self.scan_bytes(prefix), value: PhantomData }
    }
    /// As [`Self::scan`], with the values as bytes.
    pub fn scan_bytes(&self, prefix: &str) -> ScanBytes {
        ScanBytes {
            host: self.host.clone(),
            prefix: prefix.to_owned(),
            after: None,
            page: Vec::new().into_iter(),
            limit: PAGE_FIRST,
            last: false,
        }
    }
    /// One page of a scan as the host gives it, with no more than `limit` pairs (1,000 at most).
    #[doc(hidden)]
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<(String, Vec<u8>)> {
        self.host.scan(prefix, after, limit)
    }
}

impl State {
    pub(crate) fn new(host: Host) -> Self {
        Self { view: StateView::new(host) }
    }
    /// Stores `value` under `key` as JSON.
    ///
    /// # Errors
    /// When `value` has no form in JSON that comes back as it was: `NaN` and the infinities, whole
    /// numbers of more than 64 bits, more than 127 levels. Nothing is stored then.
    pub fn set<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), Error> {
        let bytes = to_json(value)
            .map_err(|error| Error::Encode { what: format!("the value of {key:?}"), error })?;
        self.set_bytes(key, &bytes);
        Ok(())
    }
    pub fn set_bytes(&mut self, key: &str, value: &[u8]) {
        self.view.host.set(key, value);
    }
    /// Deleting what is not there is no error.
    pub fn delete(&mut self, key: &str) {
        self.view.host.delete(key);
    }
}

/// Reading is the same with and without the right to write.
impl Deref for State {
    type Target = StateView;
    fn deref(&self) -> &StateView {
        &self.view
    }
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Decode { key: key.to_owned(), error })
}

/// Most scans are short, or taken from the front: begin small, grow to the host's limit.
const PAGE_FIRST: u32 = 64;
const PAGE_MAX: u32 = 1_000;

/// The pairs of a [`StateView::scan_bytes`].
pub struct ScanBytes {
    host: Host,
    prefix: String,
    after: Option<String>,
    page: vec::IntoIter<(String, Vec<u8>)>,
    limit: u32,
    /// The page in hand is the last one.
    last: bool,
}

impl ScanBytes {
    /// Starts behind `key`.
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }
}

impl Iterator for ScanBytes {
    type Item = (String, Vec<u8>);
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.page.next() {
            return Some(pair);
        }
        if self.last {
            return None;
        }
        let page = self.host.scan(&self.prefix, self.after.as_deref(), self.limit);
        // A host may end a page early; only an empty one says that there is no more.
        self.last = page.is_empty();
        self.after = page.last().map(|(key, _)| key.clone());
        self.limit = (self.limit * 4).min(PAGE_MAX);
        self.page = page.into_iter();
        self.page.next()
    }
}

/// The pairs of a [`StateView::scan`].
pub struct Scan<T> {
    pages: ScanBytes,
    value: PhantomData<fn() -> T>,
}

impl<T> Scan<T> {
    /// Starts behind `key`.
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.pages = self.pages.after(key);
        self
    }
}

impl<T: DeserializeOwned> Iterator for Scan<T> {
    type Item = Result<(String, T), Error>;
    fn next(&mut self) -> Option<Self::Item> {
        let (key, bytes) = self.pages.next()?;
        Some(decode(&key, &bytes).map(|value| (key, value)))
    }
}
