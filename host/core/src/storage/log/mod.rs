//! The log of a node on its own: one record of the store per *group commit*, fsynced once.
//!
//! A separate thread, the committer, takes the ready batches of all slots, checks each append
//! against its slot's fence, writes one record and answers all. A position is the number of the
//! group commit, so a slot has one batch in a commit at most; a second one waits for the next.
//!
//! What the log has to remember of a slot once its batches are trimmed, the term and the last
//! position, is in the state store's `SlotMeta` and, before tables of the log are dropped, in the
//! row [`FENCE_KEY`] of `meta`.

mod committer;
mod queue;

use crate::{
    database::{db::Db, engine::Engine, record},
    error::StateError,
    limits,
    log::{Append, Claim, LogError, Logged, Position, SlotLog, Term, Then},
    names::SlotId,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use queue::{Queue, Refused};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, sync::oneshot};

pub(crate) const FENCE_KEY: &str = "log-fence";

/// The embedded log of every slot of a node.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
}

/// Written before tables of the log are dropped: what their records contained.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct FenceRow {
    /// Records up to here may be gone; those after it must all be there.
    pub dropped_through: u64,
    /// Term and last position, by slot.
    pub slots: Vec<(Term, Position)>,
}

pub(crate) struct Shared {
    pub engine: Arc<Engine>,
    queue: Queue,
    tables: Mutex<Tables>,
    /// Where those who wait for answers run, if there is one.
    runtime: OnceLock<Handle>,
    /// What large commits had, and how long they took, in nanoseconds.
    large_bytes: AtomicU64,
    large_ns: AtomicU64,
}

struct Request {
    slot: SlotId,
    kind: Kind,
    answer: Answer,
}

/// Where the answer goes. If it is dropped, the outcome is unknown.
struct Answer(Option<To>);

enum To {
    Waiter(oneshot::Sender<Result<Claim, LogError>>),
    Then(Then),
}

impl Answer {
    fn waiter() -> (Self, oneshot::Receiver<Result<Claim, LogError>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(To::Waiter(sender))), receiver)
    }

    fn give(mut self, answer: Result<Claim, LogError>) {
        self.give_once(answer);
    }

    fn give_once(&mut self, answer: Result<Claim, LogError>) {
        match self.0.take() {
            // Whoever asked may have gone; what it asked for stands.
            Some(To::Waiter(sender)) => drop(sender.send(answer)),
            Some(To::Then(then)) => then(answer.map(|claim| claim.position)),
            None => {}
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.give_once(Err(LogError::Undecided("the log was closed".into())));
    }
}

enum Kind {
    Append {
        term: Term,
        after: Position,
        batch: Bytes,
    },
    Claim {
        claimant: String,
    },
    /// A record, if no batch makes one.
    Mark,
}

/// What the log knows in memory. Rebuilt from the store when it opens.
#[derive(Default)]
pub(crate) struct Tables {
    pub slots: Vec<SlotState>,
    /// The last group commit that is durable, and the chain of its record.
    pub last: u64,
    pub chain: u64,
    /// Set when a group commit is to carry a [`FenceRow`], so that tables can be dropped.
    pub fence_wanted: bool,
    /// Records up to here may be dropped: a durable row has what they contained, and the state store
    /// has durably what they led to.
    pub droppable: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SlotState {
    pub term: Term,
    pub last: Position,
    /// Group commits that have a batch of this slot which is not trimmed.
    pub live: VecDeque<u64>,
    /// The last one that is trimmed, or was applied when the store was opened.
    pub trimmed: Position,
}

impl SlotState {
    fn trim(&mut self, up_to: Position) {
        while let Some(&number) = self.live.front().filter(|&&number| number <= up_to) {
            self.live.pop_front();
            self.trimmed = number;
        }
    }
}

impl Tables {
    /// Every record up to here is trimmed by every slot that has a batch in it.
    fn floor(&self) -> u64 {
        let oldest = self.slots.iter().filter_map(|slot| slot.live.front()).min();
        oldest.map_or(self.last, |oldest| oldest - 1)
    }

    pub fn fence_row(&self) -> FenceRow {
        let slots = self.slots.iter().map(|slot| (slot.term, slot.last)).collect();
        FenceRow { dropped_through: self.floor(), slots }
    }
}

impl Shared {
    pub fn new(engine: Arc<Engine>) -> Arc<Self> {
        let slots = usize::from(engine.identity.slot_count);
        Arc::new(Self {
            engine,
            queue: Queue::new(slots * limits::COMMIT_QUEUE_PER_SLOT_MAX),
            tables: Mutex::default(),
            runtime: OnceLock::new(),
            large_bytes: AtomicU64::new(0),
            large_ns: AtomicU64::new(0),
        })
    }

    /// Starts the committer. It ends when [`Shared::stop`] is called.
    pub fn start(self: &Arc<Self>) -> std::io::Result<std::thread::JoinHandle<()>> {
        let shared = self.clone();
        if let Ok(runtime) = Handle::try_current() {
            let _ = self.runtime.set(runtime);
        }
        crate::thread::start("log-committer", move || committer::run(&shared, shared.runtime.get()))
    }

    /// Puts what was recovered in place. The caller holds the store's write lock.
    pub fn set_tables(&self, tables: Tables) {
        *self.tables.lock() = tables;
    }

    /// Answers what is queued, then ends the committer.
    pub fn stop(&self) {
        self.queue.close();
    }

    /// What large commits had since the node started, and how long they took.
    pub fn large(&self) -> (u64, Duration) {
        let time = Duration::from_nanos(self.large_ns.load(Ordering::Relaxed));
        (self.large_bytes.load(Ordering::Relaxed), time)
    }

    fn note_large(&self, bytes: usize, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.large_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.large_ns.fetch_add(took, Ordering::Relaxed);
    }

    /// The last group commit that is durable.
    pub fn last(&self) -> u64 {
        self.tables.lock().last
    }

    /// Trims each slot up to what the store has of it durably.
    pub fn trim_durable(&self, durable: impl Fn(SlotId) -> Position) {
        let mut tables = self.tables.lock();
        for (slot, state) in (0..).zip(&mut tables.slots) {
            if !state.live.is_empty() {
                state.trim(durable(slot));
            }
        }
    }

    /// How far tables may be dropped; asks for more when the floor is higher than that and
    /// `table_end` can be dropped then.
    pub fn droppable(&self, table_end: u64) -> u64 {
        let mut tables = self.tables.lock();
        if tables.droppable < table_end && tables.floor() >= table_end {
            tables.fence_wanted = true;
        }
        tables.droppable
    }

    /// Has a record written, empty if there is nothing else to write. Nobody waits for it.
    pub fn mark(&self) {
        self.push(0, Kind::Mark, Answer(None));
    }

    fn push(&self, slot: SlotId, kind: Kind, answer: Answer) {
        if slot >= self.engine.identity.slot_count {
            return answer.give(Err(LogError::Unavailable(format!("there is no slot {slot}"))));
        }
        let (request, why) = match self.queue.push(Request { slot, kind, answer }) {
            Ok(()) => return,
            Err(Refused::Closed(request)) => (request, "the log is closed"),
            Err(Refused::Full(request)) => (request, "too many appends are waiting"),
        };
        request.answer.give(Err(LogError::Unavailable(why.to_owned())));
    }

    fn read(&self, slot: SlotId, after: Position, max: usize) -> Result<Vec<Logged>, LogError> {
        let db = self.engine.open_db().map_err(LogError::Unavailable)?;
        let numbers: Vec<u64> = {
            let tables = self.tables.lock();
            let state = tables.slots.get(usize::from(slot));
            if state.is_some_and(|state| after < state.trimmed) {
                return Err(LogError::Trimmed { slot, after });
            }
            let live = state.map(|state| &state.live).into_iter().flatten();
            live.copied().filter(|&number| number > after).collect()
        };
        let mut out = Vec::new();
        let mut bytes = 0;
        for number in numbers {
            let logged = self.read_one(&db, slot, number)?;
            bytes += logged.batch.len();
            out.push(logged);
            if bytes >= max {
                break;
            }
        }
        Ok(out)
    }

    fn read_one(&self, db: &Db, slot: SlotId, number: u64) -> Result<Logged, LogError> {
        let engine = &self.engine;
        let key = number.to_be_bytes();
        let value = db.log.get(&key).map_err(|e| match engine.read_error(&db.log, &e) {
            StateError::Corrupt(why) => LogError::Corrupt(why),
            StateError::Unavailable(why) => LogError::Unavailable(why),
        })?;
        let corrupt = |why: String| LogError::Corrupt(engine.value_error(&db.log, why).to_string());
        let value = value.ok_or_else(|| corrupt(format!("log record {number} is missing")))?;
        let record = record::read(&key, &value, engine.identity.salt).map_err(corrupt)?;
        let entry =
            record.entries.iter().find(|entry| entry.slot == slot).ok_or_else(|| {
                corrupt(format!("log record {number} has no batch of slot {slot}"))
            })?;
        Ok(Logged { position: number, batch: Bytes::copy_from_slice(entry.batch) })
    }
}

impl EmbeddedLog {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn answer(
        receiver: oneshot::Receiver<Result<Claim, LogError>>,
    ) -> Result<Claim, LogError> {
        let closed = || LogError::Undecided("the log was closed".into());
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl SlotLog for EmbeddedLog {
    fn claim(&self, slot: SlotId, claimant: &str) -> BoxFuture<'static, Result<Claim, LogError>> {
        let (answer, receiver) = Answer::waiter();
        self.shared.push(slot, Kind::Claim { claimant: claimant.to_owned() }, answer);
        Box::pin(Self::answer(receiver))
    }

    fn commit(&self, append: Append) -> BoxFuture<'static, Result<Position, LogError>> {
        let Append { slot, term, after, batch } = append;
        let (answer, receiver) = Answer::waiter();
        self.shared.push(slot, Kind::Append { term, after, batch }, answer);
        Box::pin(async move { Ok(Self::answer(receiver).await?.position) })
    }

    fn commit_then(
        &self,
        append: Append,
        then: Then,
    ) -> Option<BoxFuture<'static, Result<Position, LogError>>> {
        if self.shared.runtime.get().is_none() {
            return Some(self.commit(append));
        }
        let Append { slot, term, after, batch } = append;
        self.shared.push(slot, Kind::Append { term, after, batch }, Answer(Some(To::Then(then))));
        None
    }

    fn read(
        &self,
        slot: SlotId,
        after: Position,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<Vec<Logged>, LogError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.read(slot, after, bytes_max) })
    }

    fn trim(&self, slot: SlotId, up_to: Position) -> BoxFuture<'static, Result<(), LogError>> {
        {
            let mut tables = self.shared.tables.lock();
            if let Some(state) = tables.slots.get_mut(usize::from(slot)) {
                state.trim(up_to);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
