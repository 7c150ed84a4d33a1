//! Answers of a slot: they leave at once if all that they rest on is durable, else the core holds them back.

use crate::{
    error::{Cause, Error},
    message::{Consistency, Sent},
    slot::{Reply, shell::Shell},
    telemetry::services::ServiceMetrics,
};
use std::{sync::Arc, time::Instant};

/// Is told why the batch is not durable, or that it is.
type Later = Box<dyn FnOnce(Option<&Error>) + Send>;

/// Since when a message is on its way here, and where it is counted how long that took.
pub(super) struct Since {
    pub came: Instant,
    pub metrics: Arc<ServiceMetrics>,
}

/// An answer that waits for a batch.
pub(super) enum Held {
    /// A new message's: nearly all there are.
    Sent(Reply<Sent>, Sent, Since),
    /// Nothing of it can be kept or lost.
    Read(Later),
    Other(Later),
}

impl Held {
    /// Who has no answer to wait for, but that it is durable.
    pub(super) fn told(reply: Reply<()>) -> Self {
        Self::answer(reply, Ok(()))
    }

    fn answer<T: Send + 'static>(reply: Reply<T>, answer: Result<T, Error>) -> Self {
        Self::Other(Box::new(move |failed| {
            let answer = match failed {
                // A refusal that rests on uncommitted state is as void as an answer.
                Some(error) => Err(error.clone()),
                None => answer,
            };
            let _ = reply.send(answer);
        }))
    }

    fn read<T: Send + 'static>(reply: Reply<T>, answer: Result<T, Error>) -> Self {
        Self::Read(Box::new(move |failed| {
            let answer = match failed {
                Some(error) if error.is(Cause::Undecided) => Err(Error::of(
                    Cause::Storage,
                    "the log did not confirm in time that this node still owns the slot",
                )),
                Some(error) => Err(error.clone()),
                None => answer,
            };
            let _ = reply.send(answer);
        }))
    }

    /// The asker may have gone away meanwhile: nothing to do about it.
    fn leave(self, failed: Option<&Error>) {
        match (self, failed) {
            (Held::Sent(reply, sent, since), None) => {
                since.metrics.answered(since.came.elapsed());
                drop(reply.send(Ok(sent)));
            }
            (Held::Sent(reply, ..), Some(error)) => drop(reply.send(Err(error.clone()))),
            (Held::Read(answer) | Held::Other(answer), failed) => answer(failed),
        }
    }
}

/// Their batch is durable.
pub(super) fn send(held: Vec<Held>) {
    held.into_iter().for_each(|held| held.leave(None));
}

/// Their batch is not durable, or nobody knows: every asker is told.
pub(super) fn refuse(held: Vec<Held>, error: &Error) {
    held.into_iter().for_each(|held| held.leave(Some(error)));
}

/// Nobody knows whether their batch is durable, and the slot ends for `error`. A read need not know: where another
/// node has the slot, it can be asked there.
pub(super) fn refuse_undecided(held: Vec<Held>, error: &Error) {
    let undecided = Error::of(
        Cause::Undecided,
        "the slot stopped while the message was written; \
         repeat it with the same idempotency key",
    );
    for held in held {
        let is_elsewhere = matches!(held, Held::Read(_)) && error.is(Cause::NotOwner);
        held.leave(Some(if is_elsewhere { error } else { &undecided }));
    }
}

impl Shell {
    /// Sends an answer once all that it rests on is durable: the batches up to `changed_in`.
    pub(super) fn hold<T: Send + 'static>(
        &mut self,
        changed_in: u64,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        match self.core.gate(changed_in) {
            Some(gate) => gate.push(Held::answer(reply, answer)),
            None => drop(reply.send(answer)),
        }
    }

    /// As [`Self::hold`], for what rests on the batch that fills.
    pub(super) fn hold_new<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        self.core.hold(Held::answer(reply, answer));
    }

    /// As [`Self::hold`], for an answer that rests on everything that the slot has.
    pub(super) fn hold_for_all<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        answer: Result<T, Error>,
    ) {
        self.hold_read(self.core.last_change(), Consistency::Current, reply, answer);
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
            (Some(_), Consistency::Current) => self.core.hold_current(Held::read(reply, answer)),
            _ => self.hold(changed_in, reply, answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// A read that waits for a commit when another node takes the slot over would be an error to its client,
    /// which a read of the new owner is not; a message may have been kept.
    #[test]
    fn a_read_of_a_slot_that_is_lost_is_asked_elsewhere() {
        let causes = |why: Cause| {
            let ((read, read_gets), (write, write_gets)) = (oneshot::channel(), oneshot::channel());
            let held = vec![Held::read(read, Ok(1)), Held::answer(write, Ok(2))];
            refuse_undecided(held, &Error::of(why, "says the test"));
            let cause = |mut gets: oneshot::Receiver<Result<i32, Error>>| {
                gets.try_recv().unwrap().unwrap_err().cause.unwrap()
            };
            (cause(read_gets), cause(write_gets))
        };
        assert_eq!(causes(Cause::NotOwner), (Cause::NotOwner, Cause::Undecided));
        assert_eq!(causes(Cause::Storage), (Cause::Storage, Cause::Undecided));
    }
}
