//! Batches on their way into the log, and what leaves once one is durable.

use crate::{
    error::{Cause, Error},
    log::{
        Append, LogError,
        record::{Entry, Record},
    },
    names::ServiceName,
    random,
    slot::{
        answers,
        core::{Durable, End, Event},
        relaxed_store,
        shared::{Decided, Shared},
        shell::Shell,
    },
    telemetry::{metrics, services::Committed},
};
use futures_util::future::BoxFuture;
use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

/// The end of the commit in flight, where it has to be asked for. `None`: the log calls
/// [`Shared::committed`].
pub(super) type Commit = Option<BoxFuture<'static, Decided>>;

impl Shell {
    /// Sends what filled to the log, if it is due and nothing is in flight.
    pub(super) fn submit(&mut self) {
        if !self.core.sends() {
            return;
        }
        let (attempt, now) = (random::batch_id(), crate::clock::now());
        let Some((after, batch)) = self.core.send(attempt, now) else { return };
        let (slot, term) = (batch.slot, batch.term);
        let batch = match batch.encode_at(self.context.level.get()) {
            Ok(batch) => batch,
            Err(error) => return self.on_committed(Err(error)),
        };
        self.core.sent(batch.len());
        let append = Append { slot, term, after, batch };
        self.commit = match &self.shared {
            Some(shared) => {
                let shared = shared.clone();
                self.context.log.commit_then(append, Box::new(move |it| shared.committed(it)))
            }
            None => Some(self.context.log.commit(append)),
        };
        self.attention |= self.commit.is_some();
    }

    /// The commit in flight has ended: answers and events leave, or everyone is told. What filled
    /// meanwhile follows.
    pub(super) fn on_committed(&mut self, decided: Decided) {
        self.commit = None;
        self.on(Event::Committed(decided.map_err(|error| commit_error(&error))));
        self.submit();
    }

    pub(super) fn on_durable(&mut self, durable: Durable<answers::Held>) {
        let Durable { batch, held, took, trim, flush, due } = durable;
        relaxed_store(&self.stats.position, self.core.position());
        relaxed_store(&self.stats.sessions, self.core.sessions());
        // First: whoever has an answer finds in the metrics what it tells of.
        self.count(took);
        answers::send(held);
        self.subscribers.publish(batch, self.core.newest());
        self.stats.dirty.store(true, Ordering::Relaxed);
        self.look_at_outbox();
        self.attention |= due;
        self.abort_cancelled();
        if let Some(position) = trim {
            self.trim_behind_snapshot(position);
        }
        if flush {
            self.start_flush();
        }
    }

    fn count(&mut self, took: Duration) {
        let mut messages = 0;
        // A batch is of one service as a rule: its counters are looked up once.
        let mut sums: Vec<(&ServiceName, Committed)> = Vec::new();
        for record in self.core.newest() {
            match record {
                Record::Message(message) => {
                    messages += 1;
                    let service = &message.key.service;
                    let client = message.entry.client();
                    self.used.add(&self.context.usage, service, client, |amounts| {
                        amounts.messages += 1;
                        amounts.bytes_in += message.entry.body.len() as u64;
                    });
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
                    self.stats.show_active(&self.context.catalogue, self.core.running().all());
                }
                _ => {}
            }
        }
        self.used.flush(&self.context.usage);
        metrics().append_seconds.record(took);
        for (service, sum) in sums {
            self.services.of(service).committed(sum);
        }
        metrics().batch_messages.record(messages as f64);
    }

    /// Ends a slot that is broken: why, which is told to everyone who waits.
    pub(super) fn end(&mut self) -> Option<Error> {
        let End { error, undecided, kept_out, asked } = self.core.end()?;
        self.used.flush(&self.context.usage);
        answers::refuse_undecided(undecided, &error);
        answers::refuse(kept_out, &error);
        if let Some(asked) = asked {
            let _ = asked.send(Err(error.clone()));
        }
        Some(error)
    }
}

/// The end of the commit in flight, for who works on the slot; there must be one.
pub(super) async fn decided(commit: &mut Commit, shared: &Option<Arc<Shared>>) -> Decided {
    poll_fn(|cx| match (&mut *commit, shared) {
        (Some(commit), _) => commit.as_mut().poll(cx),
        (None, Some(shared)) => shared.poll_decided(cx),
        (None, None) => Poll::Pending,
    })
    .await
}

/// What an asker is told when its batch failed with `error`.
pub(super) fn commit_error(error: &LogError) -> Error {
    match error {
        LogError::Fenced { .. } => Error::of(
            Cause::NotOwner,
            "another node has taken over the slot; the message was not kept",
        ),
        LogError::Unavailable(why) => Error::of(
            Cause::Storage,
            format!("the log refused the write; the message was not kept: {why}"),
        ),
        LogError::Undecided(why) => Error::of(
            Cause::Undecided,
            format!(
                "the write failed and may or may not be durable; \
                 repeat the message with the same idempotency key: {why}"
            ),
        ),
        LogError::Trimmed { .. } => Error::internal(error.to_string()),
        LogError::Corrupt(why) => Error::internal(format!("the log is damaged: {why}")),
    }
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
