//! Snapshots over a real store and real places for objects, with a log that trims and fails.
#![allow(clippy::unwrap_used)]

mod anew;
mod cost;
mod damage;
mod places;
mod random;
mod zombie;

use super::{Objects, SnapshotError, SnapshotOptions, Snapshots, Target};
use crate::{
    database::StorageOptions,
    effects::{Change, rows},
    level,
    log::{
        Append, Claim, LogError, Logged, Position, SlotLog, Term,
        record::{Activate, Batch, Delete, Entry, Event, Head, Message, Pin, Record, Write},
    },
    names::{ServiceName, SessionKey, SlotId},
    state::{
        SlotMeta,
        changes::Changes,
        rows::{Rows, WholeSlots},
    },
    storage::DataDir,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

const SLOT: SlotId = 3;

/// Counts what is put, and fails requests once its budget is used up.
pub struct Faults {
    budget: AtomicI64,
    /// Whether the request that fails has its effect all the same.
    lands: bool,
    /// Whether only puts of manifests count, and fail.
    manifests: bool,
    bytes: AtomicU64,
    puts: AtomicU64,
}

impl Faults {
    fn after(requests: i64, lands: bool) -> Arc<Self> {
        let (budget, bytes, puts) = (requests.into(), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { budget, lands, manifests: false, bytes, puts })
    }

    /// Fails the puts of manifests.
    fn manifests(lands: bool) -> Arc<Self> {
        let (budget, bytes, puts) = (0.into(), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { budget, lands, manifests: true, bytes, puts })
    }

    pub fn step(&self) -> Result<(), SnapshotError> {
        match self.manifests || self.budget.fetch_sub(1, Ordering::Relaxed) > 0 {
            true => Ok(()),
            false => Err(SnapshotError::Unavailable("as the test wants".into())),
        }
    }

    pub async fn put(
        &self,
        name: &str,
        bytes: usize,
        put: impl Future<Output = Result<(), SnapshotError>>,
    ) -> Result<(), SnapshotError> {
        let step = match self.manifests && name.starts_with('m') {
            true => Err(SnapshotError::Unavailable("as the test wants".into())),
            false => self.step(),
        };
        let last = self.manifests || self.budget.load(Ordering::Relaxed) == -1;
        if step.is_ok() || self.lands && last {
            put.await?;
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            self.puts.fetch_add(1, Ordering::Relaxed);
        }
        step
    }

    fn put_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A log in memory whose positions have gaps, and that says when it is trimmed.
#[derive(Default)]
struct MemoryLog {
    slots: Mutex<BTreeMap<SlotId, MemorySlot>>,
}

#[derive(Default)]
struct MemorySlot {
    term: Term,
    last: Position,
    trimmed: Position,
    batches: Vec<Logged>,
    bytes: u64,
}

impl MemoryLog {
    fn push(&self, slot: SlotId, batch: Bytes) -> Position {
        let mut slots = self.slots.lock();
        let state = slots.entry(slot).or_default();
        state.last += 3;
        state.bytes += batch.len() as u64;
        state.batches.push(Logged { position: state.last, batch });
        state.last
    }
}

impl SlotLog for MemoryLog {
    fn claim(&self, slot: SlotId, claimant: &str) -> BoxFuture<'static, Result<Claim, LogError>> {
        let term = {
            let mut slots = self.slots.lock();
            let state = slots.entry(slot).or_default();
            state.term += 1;
            state.term
        };
        let records = vec![Record::Claim { node: claimant.to_owned() }];
        let batch = Batch { slot, term, attempt: 0, records };
        let position = self.push(slot, batch.encode().unwrap());
        Box::pin(async move { Ok(Claim { term, position }) })
    }

    fn commit(&self, append: Append) -> BoxFuture<'static, Result<Position, LogError>> {
        let (term, last) = {
            let mut slots = self.slots.lock();
            let state = slots.entry(append.slot).or_default();
            (state.term, state.last)
        };
        let done = match term == append.term && last == append.after {
            true => Ok(self.push(append.slot, append.batch)),
            false => Err(LogError::Fenced { slot: append.slot, term, position: last }),
        };
        Box::pin(async move { done })
    }

    fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Vec<Logged>, LogError>> {
        let mut slots = self.slots.lock();
        let state = slots.entry(slot).or_default();
        let mut bytes = 0;
        let page = state.batches.iter().filter(|logged| logged.position > after);
        let page = page.take_while(|logged| {
            let first = bytes == 0;
            bytes += logged.batch.len();
            first || bytes <= bytes_max
        });
        let read = match after < state.trimmed {
            true => Err(LogError::Trimmed { slot, after }),
            false => Ok(page.cloned().collect()),
        };
        Box::pin(async move { read })
    }

    fn trim(&self, slot: SlotId, up_to: Position) -> BoxFuture<'static, Result<(), LogError>> {
        let mut slots = self.slots.lock();
        let state = slots.entry(slot).or_default();
        state.trimmed = state.trimmed.max(up_to);
        let trimmed = state.trimmed;
        state.batches.retain(|logged| logged.position > trimmed);
        Box::pin(async { Ok(()) })
    }
}

/// An owner of [`SLOT`]: a store, and what its slot's task would do.
struct Owner {
    log: Arc<MemoryLog>,
    store: Arc<dyn WholeSlots>,
    claim: Claim,
    last: Position,
    meta: SlotMeta,
    changes: Changes,
    heads: BTreeMap<SessionKey, Head>,
    dir: Arc<DataDir>,
}

impl Owner {
    /// Claims the slot, and replays what the store lacks.
    async fn start(log: &Arc<MemoryLog>, dir: &Arc<DataDir>) -> Self {
        let claim = log.claim(SLOT, "test").await.unwrap();
        let store = dir.state();
        let meta = store.slot(SLOT).unwrap();
        let (log, last) = (log.clone(), claim.position);
        let (changes, heads) = (Changes::default(), BTreeMap::new());
        let mut this = Self { log, store, claim, last, meta, changes, heads, dir: dir.clone() };
        this.replay().await;
        this.flush();
        this
    }

    async fn replay(&mut self) {
        for logged in self.log.read(SLOT, self.meta.applied, usize::MAX).await.unwrap() {
            let batch = Batch::decode(&logged.batch).unwrap();
            self.changes.fold(&mut self.meta, logged.position, batch);
        }
    }

    fn head(&self, key: &SessionKey) -> Option<Head> {
        let head = self.heads.get(key).cloned();
        head.or_else(|| self.store.head(SLOT, key).unwrap()).filter(|head| head.seq > 0)
    }

    fn message(&mut self, name: &str, body: &[u8], writes: Vec<Write>, pinned: bool) -> Record {
        let key = session(name);
        let mut head = self.head(&key).unwrap_or_else(|| {
            let number = self.meta.next_session;
            self.meta.next_session += 1;
            Head { session_number: number, deployment: 1, ..Head::default() }
        });
        head.seq += 1;
        head.pinned = pinned.then(|| Pin { against: 2, reason: "no".into() });
        self.heads.insert(key.clone(), head.clone());
        let entry = entry(head.seq, body).into();
        let (fingerprint, session_number) = (u128::from(head.seq), head.session_number);
        // Each message moves the session's timer.
        let was_due = (head.seq > 1).then(|| due(head.seq - 1));
        let effects = vec![timer(was_due, Some(due(head.seq)))];
        let message = Message { key, session_number, entry, fingerprint, writes, head, effects };
        Record::Message(Box::new(message))
    }

    async fn send(&mut self, name: &str, body: &[u8], writes: Vec<Write>) {
        let record = self.message(name, body, writes, false);
        self.commit(vec![record]).await.unwrap();
    }

    async fn delete(&mut self, name: &str) {
        let key = session(name);
        let Some(head) = self.head(&key) else { return };
        self.heads.insert(key.clone(), Head::default());
        let effects = vec![timer(Some(due(head.seq)), None)];
        let delete = Delete { key, session_number: head.session_number, effects };
        self.commit(vec![Record::Delete(delete)]).await.unwrap();
    }

    async fn commit(&mut self, records: Vec<Record>) -> Result<(), LogError> {
        let term = self.claim.term;
        let batch = Batch { slot: SLOT, term, attempt: u128::from(self.last), records };
        let append = Append {
            slot: SLOT,
            term,
            after: self.last,
            batch: batch.encode_at(level::NEWEST).unwrap(),
        };
        self.last = self.log.commit(append).await?;
        self.changes.fold(&mut self.meta, self.last, batch);
        Ok(())
    }

    fn flush(&mut self) {
        self.store.apply(SLOT, &std::mem::take(&mut self.changes), &self.meta).unwrap();
        self.heads.clear();
    }

    async fn take(&mut self, snapshots: &Snapshots) -> Result<super::Taken, SnapshotError> {
        self.flush();
        snapshots.take(SLOT, self.claim.term, &*self.log, &self.store).await
    }

    /// Takes, confirms, trims up to the newest snapshot and collects.
    async fn take_and_trim(&mut self, snapshots: &Snapshots) -> super::Taken {
        let taken = self.take(snapshots).await.unwrap();
        self.commit(Vec::new()).await.unwrap();
        self.log.trim(SLOT, taken.position).await.unwrap();
        snapshots.collect(SLOT, self.claim.term).await.unwrap();
        taken
    }
}

fn session(name: &str) -> SessionKey {
    SessionKey::parse("chat", name).unwrap()
}

fn service() -> ServiceName {
    ServiceName::parse("chat").unwrap()
}

/// When a session's timer is due after so many messages.
fn due(seq: u64) -> u64 {
    1_000_000 - 10 * seq
}

fn timer(was_due: Option<u64>, due: Option<u64>) -> Change {
    let value = due.map(|due| Bytes::from(due.to_string()));
    Change { row: Bytes::from_static(b"\x01close"), value, was_due, due }
}

fn write(key: &str, value: &str) -> Write {
    Write { key: Bytes::copy_from_slice(key.as_bytes()), value: Some(value.to_owned().into()) }
}

fn entry(seq: u64, body: &[u8]) -> Entry {
    Entry {
        seq,
        id: Some(format!("id-{seq}")),
        sender: Some("ada".into()),
        time_ms: 1_700_000_000_000 + seq,
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        reply_content_type: "text/plain".into(),
        reply: Bytes::from_static(b"ok"),
        deployment: 1,
        events: vec![Event {
            kind: "line".into(),
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"event"),
        }],
        origin: None,
        caused: Vec::new(),
    }
}

/// All that a store says of [`SLOT`], to compare.
fn dump(store: &Arc<dyn WholeSlots>) -> Vec<String> {
    let meta = store.slot(SLOT).unwrap();
    let mut out = vec![format!("{meta:?}")];
    for (id, head) in store.sessions(SLOT, &service(), "", None, usize::MAX).unwrap() {
        let number = head.session_number;
        let history = store.history(SLOT, number, 0, usize::MAX, usize::MAX).unwrap();
        let seqs: Vec<_> = history.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (1..=head.seq).collect::<Vec<_>>(), "no gap in history");
        for entry in &history {
            let id = entry.id.as_deref().unwrap();
            assert_eq!(store.remembered(SLOT, number, id).unwrap().unwrap().seq, entry.seq);
        }
        let values = store.scan(SLOT, number, b"", None, usize::MAX, usize::MAX).unwrap();
        let timers = rows::of_session(number);
        let timers = store.scan(SLOT, timers, b"", None, usize::MAX, usize::MAX).unwrap();
        assert_eq!(timers.len(), 1, "each has its timer");
        out.push(format!("{id} {head:?} {values:?} {timers:?} {history:?}"));
    }
    let due = store.scan(SLOT, rows::DUE, b"", None, usize::MAX, usize::MAX).unwrap();
    assert_eq!(due.len(), out.len() - 1, "each is due once");
    out.push(format!("due {due:?}"));
    let pinned = store.pinned(SLOT, &service(), None, usize::MAX).unwrap();
    out.push(format!("pinned {pinned:?}"));
    out
}

/// Rows of the slot of sessions that are not live, once deleted ones were collected.
fn leftovers(dir: &DataDir) -> usize {
    let rows = dir.rows_by_session(SLOT);
    let heads = dir.state().view(SLOT).unwrap().page(Rows::Heads, None, usize::MAX).unwrap();
    let heads = heads.rows.heads.values().flatten();
    let live: Vec<u64> = heads.map(|head| head.session_number).collect();
    // Names of deleted sessions are remembered for a while. What is due goes row by row.
    let is_left = |number: &u64| {
        let of = |live: &u64| number == live || *number == rows::of_session(*live);
        *number < rows::DUE && !live.iter().any(of)
    };
    rows.into_iter().filter(is_left).count()
}

/// A directory that goes away, in memory where the system has such a place.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(path: &Path) -> Arc<DataDir> {
    let options = StorageOptions { slot_count: 8, ..StorageOptions::default() };
    Arc::new(DataDir::open(path, options).unwrap())
}

async fn directory(path: &Path) -> Objects {
    Objects::open(&Target::Directory(path.to_owned()), "test", None).await.unwrap()
}

/// Small sizes, so that a short history has all that a long one has.
fn small() -> SnapshotOptions {
    SnapshotOptions {
        tail_bytes_min: 0,
        piece_bytes: 2_000,
        deltas_bytes_min: 3_000,
        delta_small_bytes: 1_000,
        deltas_small_max: 4,
        dead_entries_slack: 5,
    }
}

fn counted(objects: Objects, faults: &Arc<Faults>) -> Snapshots {
    Snapshots::new(Objects::Failing(Box::new(objects), faults.clone()), small())
}

/// Restores into an empty store, and compares it with what `source` has at that position.
async fn check_restore(snapshots: &Snapshots, owner: &Owner, taken: super::Taken) {
    let home = scratch();
    let dir = open(home.path());
    let store = dir.state();
    let meta = snapshots.restore(SLOT, &*owner.log, &store).await.unwrap();
    assert_eq!(meta.applied, taken.position);
    assert_eq!(dump(&store), dump(&owner.store));
    assert_eq!(leftovers(&dir), 0, "rows of deleted sessions came back");
}
