//! The batch in flight: appended when none is, and what leaves once it is durable.

use crate::{
    error::{Cause, Error},
    limits,
    log::{
        Append,
        record::{Batch, Entry, Record},
    },
    message::Consistency,
    names::ServiceName,
    random,
    slot::{
        Reply,
        batch::{Building, Gate, commit_error},
        relaxed_store,
        session::Session,
        shared::{Decided, Shared},
        task::{End, Task},
    },
    telemetry::{metrics, services::Committed},
};
use futures_util::future::BoxFuture;
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// A batch that is on its way into the log.
pub(super) struct InFlight {
    pub number: u64,
    commit: Commit,
    pub started: Instant,
    batch: Batch,
    bytes: usize,
    pub gate: Gate,
}

/// How its end is learnt.
enum Commit {
    /// The log calls [`Shared::committed`].
    Told,
    Future(BoxFuture<'static, Decided>),
}

impl InFlight {
    /// Its end, if it has to be asked for.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decided> {
        match &mut self.commit {
            Commit::Told => Poll::Pending,
            Commit::Future(commit) => commit.as_mut().poll(cx),
        }
    }
}

impl Task {
    pub(super) fn submit(&mut self) {
        // What filled after a failed commit rests on it: it must never reach the log.
        if self.failed.is_some() || self.in_flight.is_some() || !self.building.is_due() {
            return;
        }
        let next = Building::new(self.building.number + 1);
        let mut building = std::mem::replace(&mut self.building, next);
        let gate = building.take_gate();
        let batch = Batch {
            slot: self.slot,
            term: self.term,
            attempt: random::batch_id(),
            records: building.records,
        };
        let encoded = match batch.encode_at(self.context.level.get()) {
            Ok(encoded) => encoded,
            Err(error) => {
                let error = commit_error(&error);
                gate.refuse(&error);
                self.failed = Some(error);
                return;
            }
        };
        let (slot, term, after) = (self.slot, self.term, self.position);
        let append = Append { slot, term, after, batch: encoded };
        let (bytes, started) = (append.batch.len(), crate::clock::now());
        let commit = match &self.shared {
            Some(shared) => {
                let shared = shared.clone();
                self.context.log.commit_then(append, Box::new(move |it| shared.committed(it)))
            }
            None => Some(self.context.log.commit(append)),
        };
        self.attention |= commit.is_some();
        self.in_flight = Some(InFlight {
            number: building.number,
            bytes,
            commit: commit.map_or(Commit::Told, Commit::Future),
            started,
            batch,
            gate,
        });
    }

    /// The commit in flight has ended: answers and events leave, or everyone is told.
    pub(super) fn on_committed(&mut self, result: Decided) {
        let Some(in_flight) = self.in_flight.take() else { return };
        match result {
            Ok(position) => {
                self.position = position;
                self.committed_batch = in_flight.number;
                self.last_commit = crate::clock::now();
                relaxed_store(&self.stats.position, position);
                relaxed_store(&self.stats.sessions, self.live_sessions);
                in_flight.gate.open();
                self.subscribers.publish(in_flight.number, &in_flight.batch.records);
                self.on_durable(&in_flight.batch.records, in_flight.started.elapsed());
                self.keep_for_flush(position, in_flight.batch, in_flight.bytes);
                self.trim_behind_snapshot();
                if self.unflushed_bytes >= limits::UNFLUSHED_BYTES_MAX {
                    self.start_flush();
                }
                self.submit();
            }
            Err(error) => {
                let error = commit_error(&error);
                in_flight.gate.refuse(&error);
                self.failed = Some(error);
            }
        }
    }

    fn on_durable(&mut self, records: &[Record], took: Duration) {
        let mut messages = 0;
        // A batch is of one service as a rule: its counters are looked up once.
        let mut sums: Vec<(&ServiceName, Committed)> = Vec::new();
        for record in records {
            match record {
                Record::Message(message) => {
                    messages += 1;
                    let service = &message.key.service;
                    match sums.iter_mut().find(|(known, _)| *known == service) {
                        Some((_, sum)) => sum.add(&message.entry),
                        None => {
                            let mut sum = Committed::default();
                            sum.add(&message.entry);
                            sums.push((service, sum));
                        }
                    }
                }
                Record::Activate(_) => {
                    self.stats.show_active(&self.context.catalogue, &self.active);
                }
                _ => {}
            }
        }
        metrics().append_seconds.record(took);
        for (service, sum) in sums {
            self.services.of(service).committed(sum);
        }
        metrics().batch_messages.record(messages as f64);
    }

    /// Ends the task after the mail at hand; the next one opens the slot from its log.
    pub(super) fn give_up(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }

    /// What filled since the failed commit was never sent to the log.
    pub(super) fn fail(&mut self, error: Error) -> End {
        let kept_out = match error.cause {
            Some(Cause::NotOwner) => error.clone(),
            _ => Error::of(
                Cause::Storage,
                format!("the slot stopped before the message was written: {}", error.detail),
            ),
        };
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.gate.refuse(&Error::of(
                Cause::Undecided,
                "the slot stopped while the message was written; \
                 repeat it with the same idempotency key",
            ));
        }
        self.building.take_gate().refuse(&kept_out);
        End::Failed(kept_out)
    }

    /// Sends an answer once all that it rests on is durable: the batches up to `changed_in`.
    pub(super) fn hold<T: Send + 'static>(
        &mut self,
        changed_in: u64,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        if changed_in <= self.committed_batch {
            let _ = reply.send(answer);
            return;
        }
        match &mut self.in_flight {
            Some(in_flight) if changed_in <= in_flight.number => {
                in_flight.gate.hold(reply, answer);
            }
            _ => self.building.hold(reply, answer),
        }
    }

    /// The batch that a session's message is in; 0: it has been durable for long.
    pub(super) fn batch_of(&self, session: &Session, seq: u64) -> u64 {
        let number = session.head.session_number;
        let is_it = |record: &Record| match record {
            Record::Message(message) => {
                message.entry.seq == seq
                    && message.session_number == number
                    && message.key == session.key
            }
            _ => false,
        };
        if self.building.records.iter().any(is_it) {
            return self.building.number;
        }
        let in_flight = self.in_flight.as_ref();
        let in_flight = in_flight.filter(|batch| batch.batch.records.iter().any(is_it));
        in_flight.map_or(0, |batch| batch.number)
    }

    /// Sends the answer of a read. In a cluster nobody else may have written meanwhile: it waits
    /// for a commit that is sent after it, which fails if this node was fenced.
    pub(super) fn hold_read<T: Send + 'static>(
        &mut self,
        changed_in: u64,
        consistency: Consistency,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        match (&self.context.cluster, consistency) {
            (Some(_), Consistency::Current) => {
                self.building.barrier = true;
                self.building.hold_read(reply, answer);
            }
            _ => self.hold(changed_in, reply, answer),
        }
    }

    /// The log has not answered for too long: who waits is told, and nothing is built on it.
    pub(super) fn check_patience(&mut self) {
        if let Some(in_flight) = &self.in_flight
            && in_flight.started.elapsed() >= self.context.options.engine_timeout
        {
            self.give_up(Error::of(Cause::Storage, "the log has not answered for a while"));
        }
    }

    /// As [`Self::hold`], for an answer that rests on everything that the slot has.
    pub(super) fn hold_for_all<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        if self.context.cluster.is_some() {
            self.building.barrier = true;
            return self.building.hold_read(reply, answer);
        }
        let last = match (&self.in_flight, self.building.has_records()) {
            (_, true) => self.building.number,
            (Some(in_flight), false) => in_flight.number,
            (None, false) => 0,
        };
        self.hold(last, reply, answer);
    }
}

/// The end of the commit in flight, for who works on the slot; never without one.
pub(super) async fn decided(
    in_flight: &mut Option<InFlight>,
    shared: &Option<Arc<Shared>>,
) -> Decided {
    poll_fn(|cx| match (&mut *in_flight, shared) {
        (None, _) => Poll::Pending,
        (Some(InFlight { commit: Commit::Told, .. }), Some(shared)) => shared.poll_decided(cx),
        (Some(in_flight), _) => in_flight.poll(cx),
    })
    .await
}

impl Committed {
    fn add(&mut self, entry: &Entry) {
        self.messages += 1;
        self.events += entry.events.len() as u64;
        self.bytes_in += entry.body.len() as u64;
        let events: usize = entry.events.iter().map(|event| event.body.len()).sum();
        self.bytes_out += (entry.reply.len() + events) as u64;
    }
}
