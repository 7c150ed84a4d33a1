//! The core of a slot: what it decides, without a clock, a channel, a task or a store.
//!
//! It has the batch that fills and the one in flight, the answers that wait for each, what is durable and
//! not yet in the state store, what the slot runs, and how the slot ends. Its shell
//! ([`Shell`](super::shell::Shell)) calls handlers, reads the store, appends and flushes. It reports what came
//! of it to [`Core::on`], which returns what to do. Mail takes three calls: [`Core::begin_mail`],
//! [`Core::push`] for each record, [`Core::end_mail`]; its answer waits in a [`Core::gate`]. Between two
//! mails, [`Core::switch`] has the slot run something else. Time is an argument.
//!
//! | event | the core | effect |
//! |---|---|---|
//! | [`Committed`](Event::Committed) | the batch in flight is durable and waits for the next flush | [`Durable`](Effect::Durable): answers and events leave |
//! | `Committed` with an error | *broken* | [`Refuse`](Effect::Refuse): the batch's askers get the error |
//! | [`Flushed`](Event::Flushed) | the store has all that was durable when the flush began | [`Stored`](Effect::Stored) |
//! | `Flushed` with an error | *broken* | |
//! | [`Snapshot`](Event::Snapshot) | the log is trimmed behind it, once a later commit is durable | `trim` of a later `Durable` |
//! | [`Look`](Event::Look) | *broken*, if the log has not answered for too long | |
//! | [`IfIdle`](Event::IfIdle) | as `Look` | |
//! | `IfIdle`, idle | *stopping* on a node that stands alone, else the same | [`Close`](Effect::Close), [`Rest`](Effect::Rest) |
//! | [`Prove`](Event::Prove), watched, nothing committed for a while | an empty batch is due | |
//! | [`Abandon`](Event::Abandon) for a later term, [`Broken`](Event::Broken) | *broken* | |
//! | [`Stop`](Event::Stop), and the next owner has not loaded what the slot runs | the same | [`Refused`](Effect::Refused) |
//! | `Stop`, on a slot that serves | *stopping* | `Close` |
//! | `Stop`, on one that stops or is over | the same | `Refused` |
//! | [`Drained`](Event::Drained), and no mail is carried out | *stopping*: no more mail; a release record is due, if one is wanted | |
//!
//! *Stopping*: [`Core::step`] says what is left to do. *Broken*: nothing is sent, flushed, trimmed or taken any
//! more; [`Core::end`] gives all that waits back, once the mail at hand is done. All else changes nothing.

mod behind;
mod due;
mod event;
mod filling;
mod outbox;
mod running;
#[cfg(test)]
mod tests;

pub use due::{DueRows, Wanted};
pub use event::{Durable, Effect, End, Event, Room, Step, Stored};
pub use outbox::{Outbox, Piece};
pub use running::Running;

use crate::{
    error::{Cause, Error},
    limits,
    loads::UnderWay,
    log::{
        Claim, Position, Term,
        record::{Activate, Batch, Record},
    },
    names::{SessionKey, SlotId},
    slot::Loaded,
    state::{SlotMeta, deleted},
};
use behind::Behind;
use filling::Filling;
use std::time::{Duration, Instant};

/// The decisions of one slot. `H`: an answer that is held back. `S`: who asked the slot to stop.
pub struct Core<H, S> {
    slot: SlotId,
    term: Term,
    position: Position,
    options: Options,
    filling: Filling<H>,
    in_flight: Option<InFlight<H>>,
    /// The last batch that is durable.
    durable: u64,
    behind: Behind,
    due: DueRows,
    outbox: Outbox,
    running: Running,
    next_session: u64,
    sessions: u64,
    phase: Phase<S>,
    /// Mail is being carried out; its handler may be running.
    at_work: bool,
    broken: Option<Error>,
    last_use: Instant,
    last_commit: Instant,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Other nodes may have claimed the slot: reads wait for a commit, the store is a copy.
    pub cluster: bool,
    /// How long the log may take for an answer.
    pub engine_timeout: Duration,
    /// Of the log, since its last snapshot.
    pub log_bytes: usize,
}

enum Phase<S> {
    Serving,
    Stopping(Stopping<S>),
    Over,
}

struct Stopping<S> {
    /// Goes into the log as the last record.
    release: Option<Record>,
    /// Who asked hears of it before the flush, as the next owner does not need that.
    early: bool,
    asked: Option<S>,
    /// No more mail comes.
    drained: bool,
}

/// A batch that is on its way into the log.
struct InFlight<H> {
    number: u64,
    batch: Batch,
    bytes: usize,
    started: Instant,
    gate: Vec<H>,
    _under_way: Vec<UnderWay>,
}

impl<H, S> Core<H, S> {
    /// A slot that was claimed, whose store has what `meta` says. `unflushed` are the batches in between.
    pub fn new(
        slot: SlotId,
        claim: Claim,
        meta: &SlotMeta,
        unflushed: Vec<(Position, Batch)>,
        options: Options,
        now: Instant,
    ) -> Self {
        Self {
            slot,
            term: claim.term,
            position: claim.position,
            options,
            filling: Filling::new(1),
            in_flight: None,
            durable: 0,
            behind: Behind::new(unflushed, options.log_bytes, now),
            due: DueRows::new(),
            outbox: Outbox::default(),
            running: Running::new(meta.active.clone()),
            // 0 is never given: a default head must not look like a session's.
            next_session: meta.next_session.max(1),
            sessions: meta.sessions,
            phase: Phase::Serving,
            at_work: false,
            broken: None,
            last_use: now,
            last_commit: now,
        }
    }

    pub fn on(&mut self, event: Event<S>, now: Instant) -> Effect<H, S> {
        match event {
            Event::Stop { release, loaded, asked } => return self.stop(release, loaded, asked),
            _ if self.is_over() => {}
            Event::Committed(decided) => return self.committed(decided, now),
            Event::Flushed(flushed) => return self.flushed(flushed),
            Event::Snapshot(Some(0)) => self.behind.has_snapshot(None),
            // Only a commit that is sent after it shows that this node was still the owner, and may trim.
            Event::Snapshot(Some(position)) => {
                self.behind.has_snapshot(Some((position, self.filling.number)));
                self.filling.barrier = true;
            }
            Event::Snapshot(None) => self.behind.lacks_snapshot(),
            Event::Broken(error) => self.break_off(error),
            Event::Abandon { term } if term > self.term => {
                self.break_off(Error::of(Cause::NotOwner, "the slot has another owner now"));
            }
            Event::Look => self.look(now),
            Event::IfIdle { idle, watched, waiting, due } => {
                self.look(now);
                if !watched && !waiting && !due && self.is_idle(idle, now) {
                    return match self.options.cluster {
                        true => Effect::Rest,
                        false => self.stop(None, None, None),
                    };
                }
            }
            Event::Prove { watched } => {
                let quiet = now.saturating_duration_since(self.last_commit);
                self.filling.barrier |= watched && quiet >= limits::PROVE_INTERVAL;
            }
            Event::Drained => self.drained(),
            Event::Abandon { .. } => {}
        }
        Effect::Nothing
    }

    // ---- mail ----------------------------------------------------------------------------------

    /// Whether mail can be taken. `writable`: the store takes flushes.
    pub fn takes_mail(&self, writable: impl FnOnce() -> bool) -> bool {
        if self.at_work || self.broken.is_some() {
            return false;
        }
        match &self.phase {
            Phase::Serving => self.has_room(writable),
            // Without a commit or a flush under way nothing else would make room.
            Phase::Stopping(stopping) if !stopping.drained => {
                self.has_room(writable) || (self.in_flight.is_none() && !self.is_flushing())
            }
            Phase::Stopping(_) | Phase::Over => false,
        }
    }

    fn has_room(&self, writable: impl FnOnce() -> bool) -> bool {
        let held = self.in_flight.as_ref().map_or(0, |in_flight| in_flight.gate.len());
        // A flush that can't keep up with the commits holds new mail back; one that can't be made does not.
        self.filling.has_room()
            && held < limits::HELD_ANSWERS_MAX
            && (!self.behind.is_too_much() || !writable())
    }

    /// Whether mail that has come to the slot is carried out. As long as the store takes nothing, nothing
    /// makes room for what writes; reads go on.
    pub fn admits(&mut self, writes: bool, writable: impl FnOnce() -> bool, now: Instant) -> bool {
        self.last_use = now;
        !writes || !self.behind.is_too_much() || writable()
    }

    /// Mail is being carried out. Nothing else is until [`Core::end_mail`], but commits go on.
    pub fn begin_mail(&mut self) {
        debug_assert!(!self.at_work, "one mail at a time");
        debug_assert!(!self.is_broken(), "what it has may never become durable");
        self.at_work = true;
        self.filling.was_due = self.filling.is_due();
    }

    pub fn end_mail(&mut self) {
        self.at_work = false;
    }

    // ---- the batch that fills, and what waits for it ----------------------------------------------

    /// The number of the batch that fills, from 1: of what changes now.
    pub fn batch(&self) -> u64 {
        self.filling.number
    }

    /// The next record's place: its batch, and where it is in there.
    pub fn place(&self) -> (u64, usize) {
        (self.filling.number, self.filling.records.len())
    }

    pub fn has_records(&self) -> bool {
        !self.filling.records.is_empty()
    }

    /// Whether the batch that fills takes more records.
    pub fn batch_has_room(&self) -> bool {
        self.filling.has_room()
    }

    /// Adds a record to the batch that fills. Sessions are numbered and counted as the fold does it
    /// (`state/changes.rs`). Gives about how many bytes it takes.
    pub fn push(&mut self, record: Record) -> usize {
        match &record {
            Record::Message(message) => {
                self.sessions += u64::from(message.entry.begins());
                self.next_session = self.next_session.max(message.session_number.saturating_add(1));
                self.effects_change(&message.key, message.session_number, &message.effects);
            }
            Record::Delete(delete) if !deleted::is_of_names(delete) => {
                self.sessions = self.sessions.saturating_sub(1);
                self.effects_change(&delete.key, delete.session_number, &delete.effects);
            }
            Record::Effects(effects) => {
                self.effects_change(&effects.key, effects.session_number, &effects.changes);
            }
            Record::Received(received) => self.outbox.receive(received.from, received.mark),
            _ => {}
        }
        self.filling.push(record)
    }

    /// Whose bytes the last record is.
    pub fn is_under_way(&mut self, bytes: UnderWay) {
        self.filling.is_under_way(bytes);
    }

    /// Something else waits for the batch that fills, and takes so many bytes meanwhile.
    pub fn keep_beside(&mut self, bytes: usize) {
        self.filling.keep_beside(bytes);
    }

    /// Holds an answer back until the batch that fills is durable.
    pub fn hold(&mut self, held: H) {
        self.filling.gate.push(held);
    }

    /// As [`Core::hold`], with a commit even if there is nothing to write: it shows that the slot was
    /// still this node's when the answer was made.
    pub fn hold_current(&mut self, held: H) {
        self.filling.barrier = true;
        self.filling.gate.push(held);
    }

    /// Where an answer waits that rests on the batches up to `batch`. `None`: they are durable, and it can
    /// leave.
    pub fn gate(&mut self, batch: u64) -> Option<&mut Vec<H>> {
        match &mut self.in_flight {
            _ if batch <= self.durable => None,
            Some(in_flight) if batch <= in_flight.number => Some(&mut in_flight.gate),
            _ => Some(&mut self.filling.gate),
        }
    }

    /// The last batch that changes something; what an answer rests on that has seen the whole slot.
    pub fn last_change(&self) -> u64 {
        match &self.in_flight {
            _ if self.has_records() => self.filling.number,
            Some(in_flight) => in_flight.number,
            None => 0,
        }
    }

    /// The batch that a session's message is in; 0: it has been durable for long.
    pub fn batch_of(&self, key: &SessionKey, session_number: u64, seq: u64) -> u64 {
        let is_it = |record: &Record| match record {
            Record::Message(message) => {
                message.entry.seq == seq
                    && message.session_number == session_number
                    && message.key == *key
            }
            _ => false,
        };
        if self.filling.records.iter().any(is_it) {
            return self.filling.number;
        }
        let in_flight = self.in_flight.as_ref();
        let in_flight = in_flight.filter(|sent| sent.batch.records.iter().any(is_it));
        in_flight.map_or(0, |sent| sent.number)
    }

    // ---- commits -------------------------------------------------------------------------------

    /// Whether [`Core::send`] has something: a batch is due, and none is in flight.
    pub fn sends(&self) -> bool {
        // What filled after a failed commit rests on it: it must never reach the log.
        self.goes_on() && self.in_flight.is_none() && self.filling.is_due()
    }

    /// As [`Core::sends`], where the mail at hand has to wait: what came before it does not wait for it. What it has
    /// added itself, such as the deployment that it runs on, goes with the rest of it.
    pub fn sends_before_mail(&self) -> bool {
        self.filling.was_due && self.sends()
    }

    /// The batch to append, and the position that it follows. [`Core::sent`] and [`Event::Committed`] are to
    /// follow. `attempt` is its own.
    pub fn send(&mut self, attempt: u128, now: Instant) -> Option<(Position, &Batch)> {
        if !self.sends() {
            return None;
        }
        let next = Filling::new(self.filling.number + 1);
        let Filling { number, records, gate, under_way, .. } =
            std::mem::replace(&mut self.filling, next);
        let batch = Batch { slot: self.slot, term: self.term, attempt, records };
        let in_flight =
            InFlight { number, batch, bytes: 0, started: now, gate, _under_way: under_way };
        Some((self.position, &self.in_flight.insert(in_flight).batch))
    }

    /// The batch in flight takes so many bytes of the log.
    pub fn sent(&mut self, bytes: usize) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.bytes = bytes;
        }
    }

    fn committed(&mut self, decided: Result<Position, Error>, now: Instant) -> Effect<H, S> {
        let Some(in_flight) = self.in_flight.take() else { return Effect::Nothing };
        let InFlight { number, batch, bytes, started, gate, .. } = in_flight;
        match decided {
            Ok(position) => {
                (self.position, self.durable, self.last_commit) = (position, number, now);
                let due = self.due.is_durable(number);
                self.behind.add(position, batch, bytes);
                Effect::Durable(Durable {
                    batch: number,
                    held: gate,
                    took: now.saturating_duration_since(started),
                    trim: self.goes_on().then(|| self.behind.trim(number)).flatten(),
                    flush: self.flush_is_due(),
                    due,
                })
            }
            Err(error) => {
                self.broken = Some(error.clone());
                Effect::Refuse(gate, error)
            }
        }
    }

    /// What the batch has that became durable last.
    pub fn newest(&self) -> &[Record] {
        self.behind.newest()
    }

    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// When the log will have been silent for too long.
    pub fn engine_deadline(&self) -> Option<Instant> {
        Some(self.in_flight.as_ref()?.started + self.options.engine_timeout)
    }

    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The next piece of what is on its way to other slots; only of what is durable. As long as the slot serves.
    pub fn next_piece(&mut self) -> Option<Piece> {
        self.settles().then(|| self.outbox.next(self.durable))?
    }

    /// Whether [`Core::next_piece`] has something.
    pub fn sends_out(&self) -> bool {
        self.settles() && self.outbox.sends(self.durable)
    }

    /// Whether what came of a piece can be written down. Else the slot is ending: its next owner sends it again.
    pub fn settles(&self) -> bool {
        matches!(self.phase, Phase::Serving) && self.goes_on()
    }

    // ---- flushes -------------------------------------------------------------------------------

    /// Begins a flush of what is durable: in the order of the log. `None`: there is nothing, or one runs.
    pub fn flush(&mut self, now: Instant) -> Option<Vec<(Position, Batch)>> {
        self.goes_on().then(|| self.behind.flush(self.durable, now))?
    }

    fn flush_is_due(&self) -> bool {
        self.goes_on() && self.behind.is_late()
    }

    fn flushed(&mut self, flushed: Result<(), Error>) -> Effect<H, S> {
        let Some(up_to) = self.behind.flushed(flushed.is_ok()) else { return Effect::Nothing };
        match flushed {
            Ok(()) => {
                self.due.stored(up_to);
                let snapshots = self.options.cluster && self.goes_on();
                let snapshot = snapshots && self.behind.begin_snapshot();
                Effect::Stored(Stored { up_to, snapshot, flush: self.flush_is_due() })
            }
            // The batches are in the log: the next task replays them from there.
            Err(error) => {
                self.break_off(error);
                Effect::Nothing
            }
        }
    }

    pub fn is_flushing(&self) -> bool {
        self.behind.is_flushing()
    }

    /// Durable batches wait for a flush.
    pub fn is_dirty(&self) -> bool {
        !self.behind.is_empty()
    }

    /// What changed last in this batch, or in one before, is in the store.
    pub fn stored(&self) -> u64 {
        self.behind.stored()
    }

    pub fn room(&self, now: Instant) -> Room {
        match self.is_dirty() {
            false => Room::Evict,
            true if self.behind.flushed_before(now, limits::FLUSH_INTERVAL_MIN) => Room::Flush,
            true => Room::Wait,
        }
    }

    // ---- what it has and runs ------------------------------------------------------------------

    pub fn term(&self) -> Term {
        self.term
    }

    /// Of the last durable batch.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The number of the next session that is made.
    pub fn next_session(&self) -> u64 {
        self.next_session
    }

    /// Sessions that there are.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Runs something else from here on, as the batch that fills says.
    pub fn switch(&mut self, to: Activate) {
        self.running.switch(to.clone());
        self.push(Record::Activate(to));
    }

    // ---- the end -------------------------------------------------------------------------------

    pub fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_))
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Neither broken nor over.
    fn goes_on(&self) -> bool {
        !self.is_broken() && !self.is_over()
    }

    fn break_off(&mut self, error: Error) {
        self.broken.get_or_insert(error);
    }

    fn look(&mut self, now: Instant) {
        if self.engine_deadline().is_some_and(|end| now >= end) {
            self.break_off(Error::of(Cause::Storage, "the log has not answered for a while"));
        }
    }

    fn is_idle(&self, idle: Duration, now: Instant) -> bool {
        // Alone, it would end in vain where the store takes no flush: it serves reads as long as it is there.
        let keeps = !self.options.cluster && self.is_dirty();
        !keeps
            && now.saturating_duration_since(self.last_use) >= idle
            && !self.at_work
            && self.in_flight.is_none()
            && !self.has_records()
            && !self.is_flushing()
    }

    fn stop(
        &mut self,
        release: Option<Record>,
        loaded: Option<Loaded>,
        asked: Option<S>,
    ) -> Effect<H, S> {
        let ahead = loaded.and_then(|loaded| self.running.not_loaded(self.slot, &loaded));
        let refusal = match self.phase {
            Phase::Serving => ahead,
            Phase::Stopping(_) | Phase::Over => {
                Some(Error::of(Cause::Stopping, "the slot is stopping already"))
            }
        };
        match (refusal, asked) {
            (Some(error), Some(asked)) => Effect::Refused(asked, error),
            (Some(_), None) => Effect::Nothing,
            (None, asked) => {
                let early = release.is_some();
                self.phase = Phase::Stopping(Stopping { release, early, asked, drained: false });
                Effect::Close
            }
        }
    }

    fn drained(&mut self) {
        // What mail leads to that is carried out comes before a release.
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        if self.at_work {
            return;
        }
        stopping.drained = true;
        // In one batch with what came last, also behind a commit in flight: the next owner waits for it.
        if let Some(release) = stopping.release.take() {
            self.push(release);
        }
    }

    /// What is next for a slot that stops, after what is due was sent. `writable`: the store takes flushes.
    pub fn step(&mut self, writable: bool) -> Step<S> {
        let waits = self.broken.is_some() || self.is_in_flight();
        let flushing = self.is_flushing();
        let Phase::Stopping(stopping) = &mut self.phase else { return Step::Wait };
        if waits || !stopping.drained || self.filling.is_due() {
            return Step::Wait;
        }
        if let Some(asked) = stopping.asked.take_if(|_| stopping.early) {
            return Step::Released(asked);
        }
        if flushing {
            return Step::Wait;
        }
        let is_stored = self.behind.is_empty();
        if !is_stored && writable {
            return Step::Flush;
        }
        let asked = stopping.asked.take();
        self.phase = Phase::Over;
        // In a cluster the store is a copy: whoever opens the slot next has the log.
        match is_stored || self.options.cluster {
            true => Step::Over(asked),
            false => Step::Unflushed(asked),
        }
    }

    /// Ends a broken slot: `None` if it is not, or while mail is carried out.
    pub fn end(&mut self) -> Option<End<H, S>> {
        if self.at_work {
            return None;
        }
        let error = match self.broken.take()? {
            error if error.is(Cause::NotOwner) => error,
            error => Error::of(
                Cause::Storage,
                format!("the slot stopped before the message was written: {}", error.detail),
            ),
        };
        let asked = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Stopping(stopping) => stopping.asked,
            Phase::Serving | Phase::Over => None,
        };
        let undecided = self.in_flight.take().map(|in_flight| in_flight.gate).unwrap_or_default();
        let kept_out = std::mem::take(&mut self.filling.gate);
        Some(End { error, undecided, kept_out, asked })
    }
}
