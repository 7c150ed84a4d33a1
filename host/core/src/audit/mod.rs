//! The audit log: who changed what on this node or cluster, and what came of it.
//!
//! A change is two lines: an *intent*, durable before anything is done, and an *outcome*, durable
//! before its answer. So there is no change without a line, whatever fails in between: an intent
//! without an outcome is listed as of unknown outcome. What changes by itself, or was refused
//! before it began, is one line.
//!
//! A lone node keeps files in its data directory (`files`), a cluster a stream of JetStream that
//! all nodes write and read (`stream`). Each line carries the hash of the one before it (`verify`).

mod files;
mod line;
mod page;
mod stream;
pub mod verify;

#[cfg(test)]
mod tests;

pub use line::{Change, FORMAT, Kind, Line};
pub use page::{Listed, Outcome, Page, RawLine, RawPage};
pub use stream::AuditStream;

use crate::{
    clock,
    error::{Code, Error},
    limits, random,
};
use bytes::Bytes;
use files::Files;
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Its folder in a data directory.
pub const FOLDER: &str = "audit";

/// A node's access to the audit log. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    node: String,
    store: Store,
    unidentified: Mutex<Allowance>,
    /// Of those who are known, and may not do what they ask for.
    identified: Mutex<Allowance>,
    /// Requests that were refused and not written, since the last line.
    missed: AtomicU64,
    /// The ids of changes that have begun and not ended.
    under_way: Mutex<HashSet<String>>,
}

enum Store {
    Files(Arc<Mutex<Files>>),
    Stream(Box<AuditStream>),
}

/// A change that has begun: its intent is durable. [`Audit::end`] writes what came of it.
#[must_use = "its outcome has to be written"]
pub struct Begun {
    change: Change,
    audit: Audit,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.audit.inner.under_way.lock().remove(&self.change.id);
    }
}

impl Audit {
    /// In a lone node's data directory. Blocks on the disk. What is wrong there is logged, and tried
    /// again with each line.
    pub fn in_folder(data_dir: &Path, node: &str) -> Self {
        let mut files = Files::new(data_dir.join(FOLDER), files::Limits::default());
        if let Err(why) = files.open(node, clock::now_ms()) {
            tracing::error!(
                why,
                "the audit log can't be opened: until it can, changes are refused"
            );
        }
        Self::over(node, Store::Files(Arc::new(Mutex::new(files))))
    }

    /// In a cluster's stream.
    pub fn in_stream(stream: AuditStream, node: &str) -> Self {
        Self::over(node, Store::Stream(Box::new(stream)))
    }

    fn over(node: &str, store: Store) -> Self {
        let inner = Inner {
            node: node.to_owned(),
            store,
            unidentified: Mutex::new(Allowance::of(limits::AUDIT_UNIDENTIFIED_PER_MINUTE)),
            identified: Mutex::new(Allowance::of(limits::AUDIT_REFUSED_PER_MINUTE)),
            missed: AtomicU64::new(0),
            under_way: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Writes that a change is about to be made. It is durable when this returns; before that,
    /// nothing may be changed.
    ///
    /// # Errors
    /// `storage-unavailable`: the change must not be made.
    pub async fn begin(&self, mut change: Change) -> Result<Begun, Error> {
        change.id = random::hex_id();
        self.inner.under_way.lock().insert(change.id.clone());
        let begun = Begun { change, audit: self.clone() };
        let written = self.write(Kind::Intent, begun.change.clone()).await;
        written.map(|_| begun).map_err(|why| {
            let detail = format!("the audit log can't be written, so nothing was changed: {why}");
            Error::new(Code::StorageUnavailable, detail)
        })
    }

    /// Writes what came of a change. `note` is what its handler has said of it.
    ///
    /// # Errors
    /// `outcome-unknown`: the change may be made, and its outcome is not in the log.
    pub async fn end(&self, mut begun: Begun, note: impl FnOnce(&mut Change)) -> Result<(), Error> {
        note(&mut begun.change);
        self.write(Kind::Outcome, begun.change.clone()).await.map(drop).map_err(|why| {
            let detail = format!(
                "the audit log has the request, but its outcome can't be written there: {why}. The \
                 change may have been made: look before you repeat it"
            );
            Error::new(Code::OutcomeUnknown, detail)
        })
    }

    /// Writes that a request was refused before it began. Only some are written, of those of nobody in particular
    /// (`identified` is false) fewer, and the others counted: else whoever reaches the listener, or has any token,
    /// could push everything else out of the log.
    pub async fn refused(&self, mut change: Change, identified: bool) {
        let allowance = if identified { &self.inner.identified } else { &self.inner.unidentified };
        if !allowance.lock().take(clock::now_ms()) {
            self.inner.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        change.id = random::hex_id();
        let missed = self.inner.missed.swap(0, Ordering::Relaxed);
        change.missed = missed;
        if let Err(why) = self.write(Kind::Outcome, change).await {
            self.inner.missed.fetch_add(missed + 1, Ordering::Relaxed);
            tracing::warn!(why, "a refused request is not in the audit log");
        }
    }

    /// Writes a change that nobody asked for over HTTP.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn event(&self, mut change: Change) -> Result<(), Error> {
        change.id = random::hex_id();
        self.write(Kind::Event, change).await.map(drop).map_err(|why| {
            Error::new(Code::StorageUnavailable, format!("the audit log can't be written: {why}"))
        })
    }

    /// As [`Self::event`], of something that has happened whether there is a line or not.
    pub async fn note(&self, change: Change) {
        let action = change.action.clone();
        if let Err(error) = self.event(change).await {
            tracing::error!(%error, action, "a change is not in the audit log");
        }
    }

    async fn write(&self, kind: Kind, mut change: Change) -> Result<u64, String> {
        change.bound();
        let node = self.inner.node.clone();
        match &self.inner.store {
            Store::Files(files) => {
                let files = files.clone();
                let under_way = self.inner.under_way.lock().len();
                let written = crate::task::blocking(move || {
                    files.lock().append(&node, clock::now_ms(), kind, change, under_way)
                });
                written.await.map_err(|_| "the write was cancelled".to_owned())?
            }
            Store::Stream(stream) => stream.append(&node, kind, change).await,
        }
    }

    fn is_under_way(&self, id: &str) -> bool {
        self.inner.under_way.lock().contains(id)
    }

    /// Lists changes: those after line `after`, or since a time, the oldest first; else the latest.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn page(
        &self,
        after: Option<u64>,
        since_ms: Option<u64>,
        limit: usize,
    ) -> Result<Page, Error> {
        page::page(self, after, since_ms, limit).await.map_err(unreadable)
    }

    /// Lines as they are stored, after line `after`, the oldest first.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn raw(&self, after: u64, limit: usize) -> Result<RawPage, Error> {
        page::raw(self, after, limit).await.map_err(unreadable)
    }

    /// The numbers of the first and of the last line; `None`: it is empty.
    async fn bounds(&self) -> Result<Option<(u64, u64)>, String> {
        match &self.inner.store {
            Store::Files(files) => {
                let files = files.clone();
                blocking(move || files.lock().bounds()).await
            }
            Store::Stream(stream) => stream.bounds().await,
        }
    }

    /// Up to `count` lines from number `from` on; fewer, where there are no more.
    async fn read(&self, from: u64, count: usize) -> Result<Vec<(u64, Bytes)>, String> {
        match &self.inner.store {
            Store::Files(files) => {
                let files = files.clone();
                blocking(move || {
                    // Not under the lock: it may be a whole file.
                    let dir = files.lock().dir().to_owned();
                    files::read(&dir, from, count)
                })
                .await
            }
            Store::Stream(stream) => stream.read(from, count).await,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    crate::task::blocking(work).await.map_err(|_| "the read was cancelled".to_owned())?
}

fn unreadable(why: String) -> Error {
    Error::new(Code::StorageUnavailable, format!("the audit log can't be read: {why}"))
}

/// How many lines of refused requests of a kind may be written now.
#[derive(Debug)]
struct Allowance {
    per_minute: u32,
    left: u32,
    minute: u64,
}

impl Allowance {
    fn of(per_minute: u32) -> Self {
        Self { per_minute, left: per_minute, minute: 0 }
    }
    fn take(&mut self, now_ms: u64) -> bool {
        let minute = now_ms / 60_000;
        if minute != self.minute {
            (self.left, self.minute) = (self.per_minute, minute);
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}
