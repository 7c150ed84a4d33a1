//! A log, a store and askers around a core, and what has to be so of each thing that it does.

mod ending;

use super::{Id, KIB, Mail, Outcome, Step};
use crate::{
    error::{Cause, Error},
    limits,
    log::{
        Claim, Position, Term,
        record::{Activate, Batch, Delete, Entry, Head, Message, Record},
    },
    names::{ServiceName, SessionKey, SlotId},
    service::catalogue::REMOVED,
    slot::core::{Core, Effect, Event, Options},
    state::{SlotMeta, changes::Changes},
};
use bytes::Bytes;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

type Check = Result<(), TestCaseError>;

const SLOT: SlotId = 3;
const ENGINE_TIMEOUT: Duration = Duration::from_secs(10);

/// A session as the slot's cache has it.
#[derive(Clone, Copy, Default)]
struct Cached {
    number: u64,
    seq: u64,
    changed_in: u64,
}

/// Who waits, and until which batch is durable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    id: Id,
    batch: u64,
}

pub struct Model {
    cluster: bool,
    pub core: Core<Id, Id>,
    now: Instant,
    writable: bool,
    last_id: Id,
    /// All that is durable, whoever wrote it.
    log: Vec<(Position, Batch)>,
    term: Term,
    /// What the store has.
    meta: SlotMeta,

    // What is known of the core, which knows it itself.
    sessions: BTreeMap<u8, Cached>,
    generation: u64,
    pub waiting: Vec<Waiting>,
    last_use: Instant,
    last_commit: Instant,
    asked: Option<Id>,
    pub at_work: Option<Mail>,
    filling: Vec<Record>,
    barrier: bool,
    /// The number of the batch that fills.
    number: u64,
    in_flight: Option<Batch>,
    durable: u64,
    stored: u64,
    flush: Option<(u64, Vec<(Position, Batch)>)>,
    snapshotting: bool,
    trim_after: Option<(Position, u64)>,
    stopping: bool,
    /// Who asked for it is told before the last flush.
    early: bool,
    drained: bool,
    broken: bool,
    pub over: bool,
}

fn service() -> ServiceName {
    ServiceName::parse("s").unwrap()
}

fn key(session: u8) -> SessionKey {
    SessionKey::parse("s", &format!("x{session}")).unwrap()
}

fn error(cause: Cause) -> Error {
    Error::of(cause, "says the test")
}

impl Model {
    pub fn new(cluster: bool) -> Self {
        let (now, meta) = (Instant::now(), SlotMeta::default());
        let core = Self::core(cluster, Claim { term: 0, position: 0 }, &meta, Vec::new(), now);
        let mut world = Self {
            cluster,
            core,
            now,
            writable: true,
            last_id: 0,
            log: Vec::new(),
            term: 0,
            meta,
            sessions: BTreeMap::new(),
            generation: 0,
            waiting: Vec::new(),
            last_use: now,
            last_commit: now,
            asked: None,
            at_work: None,
            filling: Vec::new(),
            barrier: false,
            number: 1,
            in_flight: None,
            durable: 0,
            stored: 0,
            flush: None,
            snapshotting: false,
            trim_after: None,
            stopping: false,
            early: false,
            drained: false,
            broken: false,
            over: true,
        };
        world.open();
        world
    }

    fn core(
        cluster: bool,
        claim: Claim,
        meta: &SlotMeta,
        unflushed: Vec<(Position, Batch)>,
        now: Instant,
    ) -> Core<Id, Id> {
        let options = Options {
            cluster,
            engine_timeout: ENGINE_TIMEOUT,
            log_bytes: limits::SNAPSHOT_LOG_BYTES,
        };
        Core::new(SLOT, claim, meta, unflushed, options, now)
    }

    /// A claim, by this node or another.
    fn claim(&mut self) -> Claim {
        self.term += 1;
        let records = vec![Record::Claim { node: "n".into() }];
        let batch = Batch { slot: SLOT, term: self.term, attempt: 0, records };
        let position = self.append(batch);
        Claim { term: self.term, position }
    }

    fn append(&mut self, batch: Batch) -> Position {
        let position = self.log.last().map_or(0, |(position, _)| *position) + 2;
        self.log.push((position, batch));
        position
    }

    /// The next task begins from the log, which must be whole.
    pub fn open(&mut self) {
        let claim = self.claim();
        self.meta = SlotMeta::default();
        let mut sessions: BTreeMap<u8, Cached> = BTreeMap::new();
        for (position, batch) in self.log.clone() {
            for record in &batch.records {
                match record {
                    Record::Message(message) => {
                        let cached = sessions.entry(of(&message.key)).or_default();
                        (cached.number, cached.seq) = (message.session_number, message.entry.seq);
                    }
                    Record::Delete(delete) => drop(sessions.remove(&of(&delete.key))),
                    _ => {}
                }
            }
            Changes::default().fold(&mut self.meta, position, batch);
        }
        self.sessions = sessions;
        self.core = Self::core(self.cluster, claim, &self.meta, Vec::new(), self.now);
        (self.filling, self.barrier, self.number, self.in_flight) = (Vec::new(), false, 1, None);
        (self.durable, self.stored, self.flush) = (0, 0, None);
        (self.last_use, self.last_commit) = (self.now, self.now);
        (self.snapshotting, self.trim_after) = (false, None);
        (self.stopping, self.drained, self.broken, self.over) = (false, false, false, false);
    }

    fn id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    fn goes_on(&self) -> bool {
        !self.broken && !self.over
    }

    // ---- what is reported ----------------------------------------------------------------------

    pub fn take(&mut self, step: Step) -> Check {
        match step {
            Step::Mail(mail, long) => self.mail(mail, long)?,
            Step::Return => self.carry_out()?,
            Step::Send(bytes) => self.send(bytes)?,
            Step::Decide(outcome) => self.decide(outcome)?,
            Step::Flush => self.start_flush()?,
            Step::Flushed(written) => self.flushed(written)?,
            Step::Snapshot(taken) => self.snapshot(taken)?,
            Step::Wait(seconds) => self.now += Duration::from_secs(seconds),
            Step::Look => {
                self.broken |= self.is_silent();
                self.quiet(Event::Look)?;
            }
            Step::IfIdle(idle, watched, waiting) => self.if_idle(idle, watched, waiting)?,
            Step::Prove(watched) => {
                let quiet = self.now - self.last_commit;
                self.barrier |= watched && !self.over && quiet >= limits::PROVE_INTERVAL;
                self.quiet(Event::Prove { watched })?;
            }
            Step::Abandon(later) => {
                self.broken |= later && !self.over;
                self.quiet(Event::Abandon { term: self.term + u64::from(later) })?;
            }
            Step::Broken => {
                self.broken |= !self.over;
                self.quiet(Event::Broken(error(Cause::Storage)))?;
            }
            Step::Stop(release, ready) => self.stop(release, ready)?,
            Step::Drained => self.drain()?,
            Step::Go => self.go()?,
            Step::End => self.end()?,
            Step::Writable(writable) => self.writable = writable,
        }
        self.check()
    }

    /// An event that has no effect but in the core.
    fn quiet(&mut self, event: Event<Id>) -> Check {
        let effect = self.core.on(event, self.now);
        prop_assert!(matches!(effect, Effect::Nothing), "{effect:?}");
        Ok(())
    }

    fn mail(&mut self, mail: Mail, long: bool) -> Check {
        let writable = self.writable;
        let takes = self.core.takes_mail(|| writable);
        let may = self.goes_on() && self.at_work.is_none() && !self.drained;
        prop_assert!(may || !takes, "it takes mail that it can't carry out");
        if !takes {
            return Ok(());
        }
        self.last_use = self.now;
        let writes = matches!(mail, Mail::Message(_) | Mail::Delete(_));
        if !self.core.admits(writes, || writable, self.now) {
            prop_assert!(writes && !writable);
            return Ok(());
        }
        self.core.begin_mail();
        self.at_work = Some(mail);
        // Nothing else calls a handler.
        match long && matches!(mail, Mail::Message(_) | Mail::Read(..)) {
            true => Ok(()),
            false => self.carry_out(),
        }
    }

    /// The mail at hand is done.
    fn carry_out(&mut self) -> Check {
        let Some(mail) = self.at_work.take() else { return Ok(()) };
        match mail {
            Mail::Message(session) => {
                let id = self.message(session);
                self.core.hold(id);
                self.waiting.push(Waiting { id, batch: self.number });
            }
            Mail::Repeat(session) => {
                let Cached { number, seq, .. } =
                    self.sessions.get(&session).copied().unwrap_or_default();
                let rests_on = self.core.batch_of(&key(session), number, seq);
                let is_it = |record: &Record| match record {
                    Record::Message(message) => {
                        message.session_number == number && message.entry.seq == seq
                    }
                    _ => false,
                };
                let is_in = |records: &[Record]| records.iter().any(is_it);
                let expected = match &self.in_flight {
                    _ if is_in(&self.filling) => self.number,
                    Some(batch) if is_in(&batch.records) => self.number - 1,
                    _ => 0,
                };
                prop_assert_eq!(rests_on, expected);
                self.answer(rests_on, false)?;
            }
            Mail::Read(session, current) => {
                let changed_in = self.sessions.get(&session).map_or(0, |s| s.changed_in);
                self.answer(changed_in, current)?;
            }
            Mail::ReadAll => {
                let rests_on = self.core.last_change();
                let changes = !self.filling.is_empty();
                let mut sessions = self.sessions.values();
                let is_durable = sessions.all(|session| session.changed_in <= self.durable);
                prop_assert!(is_durable || rests_on > self.durable);
                prop_assert_eq!(rests_on == self.number, changes);
                self.answer(rests_on, true)?;
            }
            Mail::Delete(session) => {
                let session = self.sessions.get_mut(&session).map(|s| (session, s));
                if let Some((name, session)) = session.filter(|(_, session)| session.seq > 0) {
                    let session_number = session.number;
                    *session = Cached { changed_in: self.number, ..Cached::default() };
                    let delete = Delete::new(key(name), session_number);
                    self.push(Record::Delete(delete));
                    let id = self.id();
                    self.core.hold(id);
                    self.waiting.push(Waiting { id, batch: self.number });
                }
            }
            Mail::Switch => {
                self.generation += 1;
                let (service, generation) = (service(), self.generation);
                let to = Activate { service, generation, deployment: REMOVED + 1 };
                self.filling.push(Record::Activate(to.clone()));
                self.core.switch(to);
            }
        }
        self.core.end_mail();
        Ok(())
    }

    /// The next message of a session, with its asker's number as its key.
    fn message(&mut self, session: u8) -> Id {
        let id = self.id();
        let cached = self.sessions.entry(session).or_default();
        if cached.seq == 0 {
            cached.number = self.core.next_session();
        }
        cached.seq += 1;
        cached.changed_in = self.number;
        let Cached { number, seq, .. } = *cached;
        let entry = Entry {
            seq,
            id: Some(id.to_string()),
            sender: None,
            time_ms: 1,
            content_type: String::new(),
            body: Bytes::from_static(&[0; 300 * KIB]),
            reply_content_type: String::new(),
            reply: Bytes::new(),
            deployment: 1,
            events: Vec::new(),
            origin: None,
            caused: Vec::new(),
        };
        let head = Head { session_number: number, seq, ..Head::default() };
        let (key, entry) = (key(session), Arc::new(entry));
        let message = Message {
            key,
            session_number: number,
            entry,
            fingerprint: 0,
            writes: vec![],
            head,
            effects: vec![],
        };
        self.push(Record::Message(Box::new(message)));
        id
    }

    fn push(&mut self, record: Record) {
        self.filling.push(record.clone());
        self.core.push(record);
    }

    /// An answer that rests on the batches up to `rests_on`: with whom it leaves is certain.
    fn answer(&mut self, rests_on: u64, current: bool) -> Check {
        let id = self.id();
        if self.cluster && current {
            // No batch that was sent before shows that the slot is still this node's.
            self.core.hold_current(id);
            self.barrier = true;
            self.waiting.push(Waiting { id, batch: self.number });
            return Ok(());
        }
        match self.core.gate(rests_on) {
            Some(gate) => {
                prop_assert!(rests_on > self.durable, "it waits for nothing");
                gate.push(id);
                // What rests on a commit that failed is refused with what filled since.
                let batch = if self.in_flight.is_some() { rests_on } else { self.number };
                self.waiting.push(Waiting { id, batch });
            }
            None => prop_assert!(rests_on <= self.durable, "it leaves before {rests_on}"),
        }
        Ok(())
    }

    fn send(&mut self, bytes: usize) -> Check {
        let due = !self.filling.is_empty() || self.barrier;
        let expected = due && self.in_flight.is_none() && self.goes_on();
        let position = self.core.position();
        let sent = self.core.send(u128::from(self.number), self.now);
        prop_assert_eq!(sent.is_some(), expected, "due: {}", due);
        let Some((after, batch)) = sent else { return Ok(()) };
        prop_assert_eq!(after, position);
        prop_assert!(batch.records == self.filling && batch.term == self.term);
        self.in_flight = Some(batch.clone());
        self.core.sent(bytes);
        (self.filling, self.barrier) = (Vec::new(), false);
        self.number += 1;
        Ok(())
    }

    fn decide(&mut self, outcome: Outcome) -> Check {
        let Some(batch) = self.in_flight.take() else {
            return self.quiet(Event::Committed(Ok(1 << 40)));
        };
        let decided = match outcome {
            Outcome::Durable => Ok(self.append(batch)),
            Outcome::Refused => Err(error(Cause::Storage)),
            Outcome::Undecided(is_there) => {
                if is_there {
                    self.append(batch);
                }
                Err(error(Cause::Undecided))
            }
            Outcome::Fenced => {
                self.claim();
                Err(error(Cause::NotOwner))
            }
        };
        let number = self.number - 1;
        let behind: Vec<Id> =
            self.waiting.iter().filter(|w| w.batch == number).map(|w| w.id).collect();
        self.waiting.retain(|w| w.batch != number);
        match (decided.clone(), self.core.on(Event::Committed(decided), self.now)) {
            (Ok(position), Effect::Durable(durable)) => {
                (self.durable, self.last_commit) = (number, self.now);
                prop_assert_eq!(durable.batch, number);
                prop_assert_eq!(durable.held, behind, "who waited for it, in order");
                prop_assert_eq!(self.core.position(), position);
                let trim = self.trim_after.filter(|(_, batch)| *batch <= number);
                let trim = trim.filter(|_| self.goes_on());
                prop_assert_eq!(durable.trim, trim.map(|(position, _)| position));
                if trim.is_some() {
                    self.trim_after = None;
                }
                self.check_counts()?;
                prop_assert!(!durable.flush || (self.goes_on() && self.flush.is_none()));
                if durable.flush {
                    self.start_flush()?;
                }
            }
            (Err(why), Effect::Refuse(refused, error)) => {
                prop_assert_eq!(refused, behind);
                prop_assert_eq!(error.cause, why.cause);
                self.broken = true;
            }
            (_, effect) => prop_assert!(false, "{effect:?}"),
        }
        Ok(())
    }

    fn start_flush(&mut self) -> Check {
        let flush = self.core.flush(self.now);
        let taken = self.flush.as_ref().and_then(|(_, batches)| batches.last());
        let from = taken.map_or(self.meta.applied, |(position, _)| *position);
        let ours = self.core.position();
        let tail = self.log.iter().filter(|(position, _)| *position > from && *position <= ours);
        let tail: Vec<_> = tail.cloned().collect();
        let expected = !tail.is_empty() && self.flush.is_none() && self.goes_on();
        prop_assert_eq!(flush.is_some(), expected);
        let Some(batches) = flush else { return Ok(()) };
        prop_assert_eq!(batches.last().map(|(position, _)| *position), Some(ours));
        let records = |batches: &[(Position, Batch)]| {
            batches.iter().flat_map(|(_, batch)| batch.records.clone()).collect::<Vec<_>>()
        };
        prop_assert!(records(&batches) == records(&tail), "not what is durable, all of it");
        self.flush = Some((self.durable, batches));
        Ok(())
    }

    fn flushed(&mut self, written: bool) -> Check {
        let outcome = if written { Ok(()) } else { Err(error(Cause::Storage)) };
        let Some((up_to, batches)) = self.flush.take() else {
            return self.quiet(Event::Flushed(outcome));
        };
        let effect = self.core.on(Event::Flushed(outcome), self.now);
        match effect {
            Effect::Stored(stored) if written => {
                for (position, batch) in batches {
                    Changes::default().fold(&mut self.meta, position, batch);
                }
                self.stored = up_to;
                prop_assert_eq!(stored.up_to, up_to);
                prop_assert!(self.goes_on() || !(stored.snapshot || stored.flush));
                prop_assert!(!stored.snapshot || (self.cluster && !self.snapshotting));
                self.snapshotting |= stored.snapshot;
                if stored.flush {
                    self.start_flush()?;
                }
            }
            Effect::Nothing if self.over => {}
            Effect::Nothing if !written => self.broken = true,
            effect => prop_assert!(false, "{effect:?}"),
        }
        Ok(())
    }

    fn snapshot(&mut self, taken: Option<bool>) -> Check {
        if !std::mem::take(&mut self.snapshotting) {
            return Ok(());
        }
        let position = taken.map(|earlier| if earlier { self.meta.applied } else { 0 });
        if let Some(position) = position.filter(|position| *position > 0 && !self.over) {
            self.trim_after = Some((position, self.number));
            self.barrier = true;
        }
        self.quiet(Event::Snapshot(position))
    }

    /// The log has not answered for too long.
    fn is_silent(&self) -> bool {
        self.core.engine_deadline().is_some_and(|end| self.now >= end)
    }

    fn if_idle(&mut self, idle: u64, watched: bool, waiting: bool) -> Check {
        self.broken |= self.is_silent();
        let is_busy = self.at_work.is_some()
            || self.in_flight.is_some()
            || !self.filling.is_empty()
            || self.flush.is_some()
            || (!self.cluster && self.core.is_dirty());
        let idle = Duration::from_secs(idle);
        let is_used = is_busy || watched || waiting || self.now - self.last_use < idle;
        match self.core.on(Event::IfIdle { idle, watched, waiting, due: false }, self.now) {
            Effect::Nothing => {
                let stops = self.over || (self.stopping && !self.cluster);
                prop_assert!(is_used || stops, "it is idle");
            }
            _ if is_used || self.over => prop_assert!(false, "it is in use"),
            Effect::Rest => prop_assert!(self.cluster),
            Effect::Close => {
                prop_assert!(!self.cluster && !self.stopping);
                self.stopping = true;
            }
            effect => prop_assert!(false, "{effect:?}"),
        }
        Ok(())
    }
}

fn of(key: &SessionKey) -> u8 {
    key.session.as_str()[1..].parse().unwrap()
}
