//! How a slot ends in order: it takes no more mail, finishes what is there, and leaves nothing unflushed.

use crate::{
    error::{Cause, Error},
    limits,
    log::{Position, Term},
    slot::{
        Mailbox, Reply,
        commits::decided,
        core::{Event, Step},
        flush::flushed,
        shared::Shared,
        shell::Shell,
    },
};
use std::sync::Arc;

/// To who asked a slot to stop: where its log ends.
pub(super) type StopReply = Reply<(Term, Position)>;

impl Shell {
    /// Takes no more mail, and does what is left. Gives who asked for it, if it was not told yet.
    pub(super) async fn finish(
        &mut self,
        shared: &Arc<Shared>,
    ) -> Result<Option<StopReply>, Error> {
        // Whoever waits for the slot waits for its calls too.
        self.stats.asked();
        Mailbox(shared.clone()).close(self.context.turns.get());
        // The next owner makes its own.
        self.snapshotting = None;
        let asked = self.stats.asked_since().unwrap_or_else(crate::clock::now);
        let until = asked + self.context.plugins.deadline().max(limits::STOP_DRAIN);
        loop {
            self.submit();
            if let Some(error) = self.end() {
                return Err(error);
            }
            match self.core.step(self.context.store.is_writable()) {
                Step::Wait => {}
                // The next owner need not wait for what this node writes for itself.
                Step::Released(asked) => {
                    let _ = asked.send(Ok((self.core.term(), self.core.position())));
                    continue;
                }
                Step::Flush => {
                    self.start_flush();
                    continue;
                }
                Step::Over(asked) => {
                    self.ended_in_order = true;
                    return Ok(asked);
                }
                Step::Unflushed(asked) => {
                    let error = Error::of(
                        Cause::Storage,
                        "the state store refuses writes; acknowledged messages are safe in the log",
                    );
                    if let Some(asked) = asked {
                        let _ = asked.send(Err(error.clone()));
                    }
                    return Err(error);
                }
            }
            let engine_deadline = self.core.engine_deadline();
            let takes_mail = self.takes_mail();
            tokio::select! {
                biased;
                result = decided(&mut self.commit, &self.shared), if self.core.is_in_flight() => self.on_committed(result),
                result = flushed(&mut self.flushing), if self.flushing.is_some() => {
                    self.on_flushed(result);
                }
                // Maintenance looks only at slots that serve: this one checks by itself.
                () = sleep_until(engine_deadline), if engine_deadline.is_some() => self.on(Event::Look),
                () = tokio::task::consume_budget(), if takes_mail => match shared.next_mail() {
                    Some(next) if next.takes_time() && crate::clock::now() >= until => {
                        next.refuse(Error::of(
                            Cause::Stopping,
                            "the slot is moving or stopping and has no time left for waiting \
                             messages; nothing was kept",
                        ));
                    }
                    Some(next) => self.take(next).await,
                    None => self.on(Event::Drained),
                },
            }
        }
    }
}

async fn sleep_until(instant: Option<std::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
