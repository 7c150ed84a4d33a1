#![allow(clippy::unwrap_used)]

mod damage;
mod failure;
mod fold;
mod log;
mod model;
mod sealed;
mod stored;

use super::DataDir;
use crate::{
    database::{OpenError, StorageOptions},
    level::NEWEST,
    log::{
        Append, Claim, LogError, Position, SlotLog,
        record::{Batch, Delete, Entry, Event, Head, Message, Pin, Record, Write},
        sealed::SealedLog,
    },
    names::{SessionKey, SlotId},
    state::{SlotMeta, changes::Changes, rows::WholeSlots},
};
use bytes::Bytes;
use std::{collections::BTreeMap, path::Path, sync::Arc};

fn options(slot_count: u16) -> StorageOptions {
    StorageOptions { slot_count, ..StorageOptions::default() }
}

fn open(path: &Path) -> DataDir {
    DataDir::open(path, options(8)).unwrap()
}

/// The log as slots have it.
fn log_of(dir: &DataDir) -> Arc<dyn SlotLog> {
    SealedLog::over(dir.log(), dir.keys())
}

fn session(name: &str) -> SessionKey {
    SessionKey::parse("chat", name).unwrap()
}

/// One slot as its task would drive it: fold what was committed, apply, trim.
struct Slot {
    slot: SlotId,
    claim: Claim,
    last: Position,
    meta: SlotMeta,
    changes: Changes,
    heads: BTreeMap<SessionKey, Head>,
}

impl Slot {
    async fn start(dir: &DataDir, slot: SlotId) -> Self {
        let claim = log_of(dir).claim(slot, "test").await.unwrap();
        let mut this = Self {
            slot,
            claim,
            last: claim.position,
            meta: dir.state().slot(slot).unwrap(),
            changes: Changes::default(),
            heads: BTreeMap::new(),
        };
        for logged in log_of(dir).read(slot, this.meta.applied, usize::MAX).await.unwrap() {
            let batch = Batch::decode(&logged.batch).unwrap();
            this.changes.fold(&mut this.meta, logged.position, batch);
        }
        this
    }

    fn head(&self, dir: &DataDir, key: &SessionKey) -> Option<Head> {
        let head = self.heads.get(key).cloned();
        head.or_else(|| dir.state().head(self.slot, key).unwrap()).filter(|head| head.seq > 0)
    }

    /// A message that writes `writes`; what a slot would make of it.
    fn message(&mut self, dir: &DataDir, name: &str, body: &[u8], writes: Vec<Write>) -> Record {
        let key = session(name);
        let mut head = self.head(dir, &key).unwrap_or_else(|| {
            let number = self.meta.next_session;
            self.meta.next_session += 1;
            Head { session_number: number, deployment: 1, ..Head::default() }
        });
        head.seq += 1;
        self.heads.insert(key.clone(), head.clone());
        let entry = entry(head.seq, body);
        let fingerprint = u128::from(head.seq);
        let session_number = head.session_number;
        Record::Message(Box::new(Message {
            key,
            session_number,
            entry: entry.into(),
            fingerprint,
            writes,
            head,
            effects: Vec::new(),
        }))
    }

    fn delete(&mut self, dir: &DataDir, name: &str) -> Option<Record> {
        let key = session(name);
        let session_number = self.head(dir, &key)?.session_number;
        self.heads.insert(key.clone(), Head::default());
        Some(Record::Delete(Delete::new(key, session_number)))
    }

    fn batch(&self, records: Vec<Record>) -> Batch {
        let term = self.claim.term;
        Batch { slot: self.slot, term, attempt: u128::from(self.last), records }
    }

    async fn try_commit(&mut self, dir: &DataDir, records: Vec<Record>) -> Result<(), LogError> {
        let batch = self.batch(records);
        let (slot, term, after) = (self.slot, self.claim.term, self.last);
        // Of the oldest format that can have it.
        let encoded = batch.encode().or_else(|_| batch.encode_at(NEWEST));
        let append = Append { slot, term, after, batch: encoded.unwrap() };
        self.last = log_of(dir).commit(append).await?;
        self.changes.fold(&mut self.meta, self.last, batch);
        Ok(())
    }

    async fn commit(&mut self, dir: &DataDir, records: Vec<Record>) {
        self.try_commit(dir, records).await.unwrap();
    }

    async fn flush(&mut self, dir: &DataDir) {
        dir.state().apply(self.slot, &std::mem::take(&mut self.changes), &self.meta).unwrap();
        log_of(dir).trim(self.slot, self.meta.applied).await.unwrap();
        self.heads.clear();
    }
}

fn entry(seq: u64, body: &[u8]) -> Entry {
    Entry {
        seq,
        id: Some(format!("id-{seq}")),
        sender: Some("ada-lovelace".into()),
        time_ms: 1_700_000_000_000 + seq,
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        reply_content_type: "text/plain".into(),
        reply: Bytes::from_static(b"ok"),
        deployment: 1,
        events: vec![Event {
            kind: "line".into(),
            content_type: "text/plain".into(),
            body: Bytes::copy_from_slice(body),
        }],
        origin: None,
        caused: Vec::new(),
    }
}

fn write(key: &str, value: &str) -> Write {
    Write { key: Bytes::copy_from_slice(key.as_bytes()), value: Some(value.to_owned().into()) }
}

fn pin(reason: &str) -> Option<Pin> {
    Some(Pin { against: 2, reason: reason.to_owned() })
}

/// All that a store says of its slots, to compare.
fn dump(dir: &DataDir, slots: u16) -> Vec<String> {
    let state = dir.state();
    let mut out = Vec::new();
    let service = session("x").service;
    for slot in 0..slots {
        let meta = state.slot(slot).unwrap();
        // Claims of later starts move these on.
        let meta = SlotMeta { applied: 0, term: 0, ..meta };
        out.push(format!("slot {slot} {meta:?}"));
        for (id, head) in state.sessions(slot, &service, "", None, usize::MAX).unwrap() {
            let number = head.session_number;
            let history = state.history(slot, number, 0, usize::MAX, usize::MAX).unwrap();
            let seqs: Vec<_> = history.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, (1..=head.seq).collect::<Vec<_>>(), "no gap in history");
            for entry in &history {
                let id = entry.id.as_deref().unwrap();
                assert_eq!(state.remembered(slot, number, id).unwrap().unwrap().seq, entry.seq);
            }
            let values = state.scan(slot, number, b"", None, usize::MAX, usize::MAX).unwrap();
            let key = SessionKey { service: service.clone(), session: id.clone() };
            check_view(&dir.state(), slot, (&key, &head), &history, &values);
            out.push(format!("{slot}/{id} {head:?} {values:?} {history:?}"));
        }
        let pinned = state.pinned(slot, &service, None, usize::MAX).unwrap();
        out.push(format!("pinned {pinned:?}"));
    }
    out
}

/// A session as a view has it, page by page, must be the session as the store has it.
fn check_view(
    state: &Arc<dyn WholeSlots>,
    slot: SlotId,
    (key, head): (&SessionKey, &Head),
    history: &[Arc<Entry>],
    values: &[(Bytes, Bytes)],
) {
    let view = state.view(slot).unwrap();
    assert_eq!(view.head(key).unwrap().as_ref(), Some(head));
    let mut all = Vec::new();
    while let [.., last] = &*view.sessions(&key.service, all.last(), 2).unwrap() {
        all.push(last.0.clone());
    }
    assert!(all.is_sorted() && !all.is_empty());
    let number = head.session_number;
    let mut read = Vec::new();
    loop {
        let after = read.last().map_or(0, |entry: &Arc<Entry>| entry.seq);
        let page = view.history(number, after, 3, usize::MAX).unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, history);
    let mut read: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let page = view.values(number, read.last().map(|(key, _)| &**key), usize::MAX, 1).unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, values);
}

/// A directory with some of everything, part of it in tables and part in the journal. Gives what
/// it holds.
async fn populate(path: &Path, rounds: u64, close: bool) -> Vec<String> {
    populate_with(path, options(8), rounds, close).await
}

async fn populate_with(
    path: &Path,
    options: StorageOptions,
    rounds: u64,
    close: bool,
) -> Vec<String> {
    let dir = DataDir::open(path, options.clone()).unwrap();
    dir.meta_put_durable("catalogue", b"what is deployed").unwrap();
    let mut slots = Vec::new();
    for slot in 0..4 {
        slots.push(Slot::start(&dir, slot).await);
    }
    for round in 0..rounds {
        for slot in &mut slots {
            let name = format!("room-{}", round % 7);
            let body = format!("line {round} of slot {}", slot.slot);
            let writes = vec![write("count", &format!("{round}")), write(&body, "v")];
            // One of each slot is so large that it lies apart.
            let body = format!("{body:0$}", if round == 5 { 20_000 } else { 0 });
            let mut records = vec![slot.message(&dir, &name, body.as_bytes(), writes)];
            if round % 5 == 4 {
                records.extend(slot.delete(&dir, &format!("room-{}", round % 3)));
            }
            slot.commit(&dir, records).await;
            if round % 4 == u64::from(slot.slot) {
                slot.flush(&dir).await;
            }
        }
        if round == rounds / 2 {
            dir.engine_for_test().open_db().unwrap().flush().unwrap();
        }
    }
    if close {
        for slot in &mut slots {
            slot.flush(&dir).await;
        }
    }
    drop(slots);
    drop(dir);
    // What the log holds beyond the state is replayed by this.
    let dir = DataDir::open(path, options).unwrap();
    let dump = dump(&dir, 8);
    if close {
        dir.close();
    }
    dump
}

/// Copies a directory's files.
fn copy(from: &Path, to: &Path) {
    try_copy(from, to).unwrap();
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            try_copy(&path, &target)?;
        } else if path.extension().is_some_and(|ext| ext == "jnl") {
            // Journals are mostly preallocated zeros.
            let bytes = std::fs::read(&path)?;
            let used = bytes.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
            std::fs::write(&target, &bytes[..used])?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// A directory that goes away, in memory where the system has such a place: hundreds of small
/// copies cost minutes on some file systems.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
