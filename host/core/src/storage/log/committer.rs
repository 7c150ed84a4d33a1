//! The committer's thread: wait for requests ([`queue`](super::queue)), one durable write, then the answers.

use super::{Answer, FENCE_KEY, FenceRow, Kind, Request, Shared, Tables};
use crate::{
    database::{db::Db, engine::WriteError, record::Writer, rows::WriteBatch},
    limits,
    log::{
        Claim, LogError,
        record::{Batch, Record},
    },
    names::SlotId,
    random,
    telemetry::metrics,
};
use bytes::Bytes;
use slotd_quota::limits::{WRITES_RATE_FIRST, WRITES_UNDER_WAY};
use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

struct Commit {
    writer: Writer,
    /// Those who wait for this commit, with the term their slot has after it.
    waiting: Vec<(SlotId, u64, Answer)>,
    /// Those who are refused. Answered without a lock: who waits may go on with what it has.
    refused: Vec<(Answer, LogError)>,
    /// By slot: whether it has a batch in this commit.
    taken: Vec<bool>,
    /// It is written even without batches.
    marks: bool,
    pace: Pace,
}

/// How much a commit takes, so that small batches do not wait for long.
struct Pace {
    /// Bytes a second that large commits had lately.
    rate: f64,
    /// When a small batch came last.
    small: Option<Instant>,
    /// Since when large batches wait for the store.
    held: Option<Instant>,
}

impl Pace {
    fn new() -> Self {
        Self { rate: WRITES_RATE_FIRST, small: None, held: None }
    }

    /// How many bytes a commit takes: as many as take a short time, while small batches come.
    fn bytes_max(&mut self, held: &VecDeque<Request>, now: Instant) -> usize {
        let is_small = |request: &Request| request.bytes() <= limits::SMALL_BATCH_BYTES_MAX;
        if held.iter().any(is_small) {
            self.small = Some(now);
        }
        let most = limits::GROUP_COMMIT_BYTES_MAX;
        match self.small {
            Some(at) if now.saturating_duration_since(at) <= limits::SMALL_BATCHES_LATELY => {
                let short = (self.rate * WRITES_UNDER_WAY.as_secs_f64()) as usize;
                short.clamp(limits::LARGE_COMMIT_BYTES, most)
            }
            _ => most,
        }
    }

    /// Whether large batches wait for the store, which is `behind`: not for ever.
    fn holds(&mut self, behind: bool, now: Instant) -> bool {
        self.held = match (behind, self.held) {
            (true, since) => since.or(Some(now)),
            (false, _) => None,
        };
        let waits = |since| now.saturating_duration_since(since) < limits::LARGE_BATCH_HELD_MAX;
        self.held.is_some_and(waits)
    }

    fn committed(&mut self, bytes: usize, took: Duration) {
        if !took.is_zero() {
            self.rate += (bytes as f64 / took.as_secs_f64() - self.rate) * 0.2;
        }
    }
}

/// `runtime` is where those who wait for answers run, if there is one.
pub fn run(shared: &Shared, runtime: Option<&Handle>) {
    let mut commit = Commit {
        writer: Writer::new(),
        waiting: Vec::new(),
        refused: Vec::new(),
        taken: vec![false; usize::from(shared.engine.identity.slot_count)],
        marks: false,
        pace: Pace::new(),
    };
    // What did not fit the commit before, in order of arrival.
    let mut held = VecDeque::new();
    let mut last = 0;
    while shared.queue.take(&mut held, last) {
        last = group_commit(shared, runtime, &mut commit, &mut held);
    }
}

/// Gives how many batches it had.
fn group_commit(
    shared: &Shared,
    runtime: Option<&Handle>,
    commit: &mut Commit,
    held: &mut VecDeque<Request>,
) -> usize {
    // Held until the answers are given: the store is not opened again under a commit.
    let db = shared.engine.open_db();
    let ready =
        db.as_ref().map_err(Clone::clone).and_then(|db| shared.engine.check_upkeep().map(|()| db));
    let db = match ready {
        Ok(db) => db,
        Err(why) => {
            let _context = runtime.map(Handle::enter);
            for request in held.drain(..) {
                request.answer.give(Err(LogError::Unavailable(why.clone())));
            }
            return 0;
        }
    };
    let fence = {
        let tables = shared.tables.lock();
        let now = crate::clock::now();
        // The store lets nobody write while more than it can hold waits to be in tables.
        let holds = commit.pace.holds(db.log_is_behind(), now);
        let bytes_max = commit.pace.bytes_max(held, now);
        commit.fill(&tables, held, bytes_max, holds);
        tables.fence_wanted.then(|| tables.fence_row())
    };
    if !commit.refused.is_empty() {
        let _context = runtime.map(Handle::enter);
        commit.refused.drain(..).for_each(|(answer, why)| answer.give(Err(why)));
    }
    let batches = commit.waiting.len();
    if batches == 0 && !commit.marks {
        return 0;
    }
    let number = shared.tables.lock().last + 1;
    let salt = shared.engine.identity.salt;
    let (value, chain) = commit.writer.finish(db.seqno_floor(), salt);
    let bytes = value.len();
    let mut batch = db.batch(2, true);
    batch.insert(&db.log, &number.to_be_bytes(), value);
    let fence = fence.filter(|fence| insert_fence(db, &mut batch, fence));
    let started = crate::clock::now();
    let written = shared.engine.commit(db, batch);
    let metrics = metrics();
    let took = started.elapsed();
    metrics.commit_seconds.record(took);
    if bytes >= limits::LARGE_COMMIT_BYTES {
        commit.pace.committed(bytes, took);
        shared.note_large(bytes, took);
    }
    metrics.commit_slots.record(batches as f64);
    metrics.commit_bytes.record(bytes as f64);
    metrics.fsyncs.increment(1);
    if written.is_ok() {
        commit.note_written(&mut shared.tables.lock(), (number, chain), fence.as_ref());
    }
    for (slot, ..) in &commit.waiting {
        commit.taken[usize::from(*slot)] = false;
    }
    let waiting = std::mem::take(&mut commit.waiting);
    let answer_all = move || answer_all(waiting, &written, number);
    match runtime {
        // From here each answer would wake a worker with a system call of its own; on a worker
        // they cost one together.
        Some(runtime) if batches > 1 || bytes > limits::ANSWER_HERE_BYTES_MAX => {
            drop(crate::task::run_on(runtime, async move { answer_all() }))
        }
        runtime => {
            let _context = runtime.map(Handle::enter);
            answer_all();
        }
    }
    batches
}

fn answer_all(waiting: Vec<(SlotId, u64, Answer)>, written: &Result<(), WriteError>, number: u64) {
    for (_, term, to) in waiting {
        let answer = match written {
            Ok(()) => Ok(Claim { term, position: number }),
            Err(WriteError::Refused(why)) => Err(LogError::Unavailable(why.clone())),
            Err(WriteError::Undecided(why)) => Err(LogError::Undecided(why.clone())),
        };
        to.give(answer);
    }
}

fn insert_fence(db: &Db, batch: &mut WriteBatch, fence: &FenceRow) -> bool {
    let encoded = postcard::to_allocvec(fence);
    if let Ok(row) = &encoded {
        batch.insert(&db.meta, FENCE_KEY.as_bytes(), &db.value(row));
    }
    encoded.is_ok()
}

impl Commit {
    /// The record is durable: its number and chain, and those of the slots that have a part in it.
    fn note_written(
        &self,
        tables: &mut Tables,
        (number, chain): (u64, u64),
        fence: Option<&FenceRow>,
    ) {
        (tables.last, tables.chain) = (number, chain);
        if let Some(fence) = fence {
            tables.fence_wanted = false;
            tables.droppable = fence.dropped_through;
        }
        for (slot, term, _) in &self.waiting {
            if let Some(state) = tables.slots.get_mut(usize::from(*slot)) {
                (state.term, state.last) = (*term, number);
                state.live.push_back(number);
            }
        }
    }

    /// Takes requests into the commit until it is full, and refuses those that are fenced. `holds`: large ones, and what is
    /// behind them of their slot, stay.
    fn fill(
        &mut self,
        tables: &Tables,
        held: &mut VecDeque<Request>,
        bytes_max: usize,
        holds: bool,
    ) {
        small_first(held, bytes_max);
        self.writer.start(tables.last + 1, tables.chain);
        self.marks = false;
        let mut stay = HashSet::new();
        for _ in 0..held.len() {
            let Some(request) = held.pop_front() else { break };
            let (slot, bytes) = (request.slot, request.bytes());
            if holds && bytes > limits::SMALL_BATCH_BYTES_MAX {
                stay.insert(slot);
            }
            let full = self.writer.len() >= bytes_max;
            if full || self.taken[usize::from(slot)] || stay.contains(&slot) {
                held.push_back(request);
            } else {
                self.take(tables, request);
            }
        }
    }

    fn take(&mut self, tables: &Tables, request: Request) {
        let Request { slot, kind, answer } = request;
        let Some(state) = tables.slots.get(usize::from(slot)) else {
            let why = LogError::Unavailable(format!("there is no slot {slot}"));
            self.refused.push((answer, why));
            return;
        };
        let (term, batch) = match kind {
            Kind::Append { term, after, .. } if term != state.term || after != state.last => {
                let (term, position) = (state.term, state.last);
                self.refused.push((answer, LogError::Fenced { slot, term, position }));
                return;
            }
            Kind::Append { term, batch, .. } => (term, batch),
            Kind::Mark => {
                self.marks = true;
                return;
            }
            Kind::Claim { claimant } => match claim_batch(slot, state.term + 1, claimant) {
                Ok(batch) => (state.term + 1, batch),
                Err(why) => {
                    self.refused.push((answer, LogError::Unavailable(why)));
                    return;
                }
            },
        };
        if batch.len() > limits::LOG_BATCH_BYTES_MAX {
            let why = format!(
                "a batch of {} bytes is over the limit of {}",
                batch.len(),
                limits::LOG_BATCH_BYTES_MAX
            );
            self.refused.push((answer, LogError::Unavailable(why)));
            return;
        }
        self.writer.push(slot, term, &batch);
        self.taken[usize::from(slot)] = true;
        self.waiting.push((slot, term, answer));
    }
}

/// Where not all fits one commit, has small batches go before large ones: they would wait for the bytes of all that came
/// before. The first one stays first and half of the commit is for the rest, so that large ones go on. Those of one
/// slot keep their order.
fn small_first(held: &mut VecDeque<Request>, bytes_max: usize) {
    if held.iter().map(Request::bytes).sum::<usize>() <= bytes_max {
        return;
    }
    let Some(first) = held.pop_front() else { return };
    let mut slots = HashSet::from([first.slot]);
    let (mut small, mut rest, mut room) = (VecDeque::new(), VecDeque::new(), bytes_max / 2);
    for request in held.drain(..) {
        let bytes = request.bytes();
        let is_small = bytes <= limits::SMALL_BATCH_BYTES_MAX && bytes <= room;
        if is_small && !slots.contains(&request.slot) {
            room -= bytes;
            small.push_back(request);
        } else {
            slots.insert(request.slot);
            rest.push_back(request);
        }
    }
    held.push_back(first);
    held.append(&mut small);
    held.append(&mut rest);
}

impl Request {
    fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Append { batch, .. } => batch.len(),
            Kind::Claim { .. } | Kind::Mark => 0,
        }
    }
}

fn claim_batch(slot: SlotId, term: u64, node: String) -> Result<Bytes, String> {
    let attempt = random::lasting_id().map_err(|e| format!("/dev/urandom: {e}"))?;
    let batch = Batch { slot, term, attempt, records: vec![Record::Claim { node }] };
    batch.encode().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The store would keep all of them waiting for as long as it writes tables.
    #[test]
    fn large_batches_wait_for_a_store_that_is_behind_and_small_ones_do_not() {
        let state = |last| super::super::SlotState { term: 1, last, ..Default::default() };
        let tables = Tables { slots: (0..8).map(|_| state(0)).collect(), ..Tables::default() };
        let mut commit = Commit {
            writer: Writer::new(),
            waiting: Vec::new(),
            refused: Vec::new(),
            taken: vec![false; 8],
            marks: false,
            pace: Pace::new(),
        };
        let append = |slot, bytes: usize| Request {
            slot,
            kind: Kind::Append { term: 1, after: 0, batch: vec![0; bytes].into() },
            answer: Answer::waiter().0,
        };
        let claim = |slot| Request {
            slot,
            kind: Kind::Claim { claimant: "n".into() },
            answer: Answer::waiter().0,
        };
        let mut held = VecDeque::from([append(1, 200_000), append(2, 100), claim(1), claim(3)]);
        let now = Instant::now();
        assert!(commit.pace.holds(true, now));
        commit.fill(&tables, &mut held, limits::GROUP_COMMIT_BYTES_MAX, true);
        let slots = |held: &VecDeque<Request>| held.iter().map(|it| it.slot).collect::<Vec<_>>();
        assert_eq!(commit.waiting.iter().map(|(slot, ..)| *slot).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(slots(&held), [1, 1], "the claim is behind what it would fence");
        // Not for ever: the slot would take the log for dead.
        assert!(!commit.pace.holds(true, now + limits::LARGE_BATCH_HELD_MAX));
        commit.fill(&tables, &mut held, limits::GROUP_COMMIT_BYTES_MAX, false);
        assert_eq!(slots(&held), [1]);
    }

    /// A small batch would wait for eight megabytes that came in the same moment.
    #[test]
    fn commits_are_short_while_small_batches_come() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        let append = |bytes: usize| {
            let kind = Kind::Append { term: 1, after: 0, batch: vec![0; bytes].into() };
            VecDeque::from([Request { slot: 1, kind, answer: Answer::waiter().0 }])
        };
        assert_eq!(pace.bytes_max(&append(200_000), now), limits::GROUP_COMMIT_BYTES_MAX);
        for _ in 0..50 {
            pace.committed(1_000_000, Duration::from_millis(10));
        }
        let short = pace.bytes_max(&append(100), now);
        assert!((1_900_000..2_100_000).contains(&short), "{short}: 20 ms at 100 MB/s");
        assert_eq!(pace.bytes_max(&append(200_000), now + Duration::from_millis(10)), short);
        let later = now + limits::SMALL_BATCHES_LATELY + Duration::from_millis(1);
        assert_eq!(pace.bytes_max(&append(200_000), later), limits::GROUP_COMMIT_BYTES_MAX);
    }

    /// A slot that writes a hundred bytes would wait for the megabytes of all others.
    #[test]
    fn small_batches_go_before_large_ones_where_not_all_fits() {
        let request = |slot, bytes: usize| {
            let kind = Kind::Append { term: 1, after: 0, batch: vec![0; bytes].into() };
            Request { slot, kind, answer: Answer::waiter().0 }
        };
        let large = limits::LOG_BATCH_BYTES_MAX;
        let all = [(1, large), (2, large), (3, 100), (2, 50), (4, large), (5, 100), (3, 60)];
        let order = |bytes_max| {
            let mut held: VecDeque<_> =
                all.iter().map(|(slot, bytes)| request(*slot, *bytes)).collect();
            small_first(&mut held, bytes_max);
            held.iter().map(|request| (request.slot, request.bytes())).collect::<Vec<_>>()
        };
        let sorted = [(1, large), (3, 100), (5, 100), (3, 60), (2, large), (2, 50), (4, large)];
        assert_eq!(order(2 * large), sorted);
        assert_eq!(order(4 * large), all, "all fits");
        // Small ones take half of a commit at most.
        assert_eq!(order(300)[..3], [(1, large), (3, 100), (2, large)]);
    }
}
