//! How a slot ends in order: it takes no more mail, finishes what is there, and leaves nothing unflushed.

use crate::{
    error::{Cause, Error},
    limits,
    log::{Position, Term, record::Record},
    slot::{
        Reply,
        commits::decided,
        flush::flushed,
        shared::Shared,
        task::{End, Task},
    },
};

impl Task {
    /// Takes no more mail, finishes what is there, and leaves nothing unflushed.
    pub(super) async fn finish(
        &mut self,
        shared: &Shared,
        release: bool,
        reply: &mut Option<Reply<(Term, Position)>>,
    ) -> Result<(Term, Position), Error> {
        // Whoever waits for the slot waits for its calls too.
        self.stats.asked();
        shared.close();
        let asked = self.stats.asked_since().unwrap_or_else(crate::clock::now);
        let until = asked + self.context.plugins.deadline().max(limits::STOP_DRAIN);
        let mut drained = false;
        let mut released = !release;
        loop {
            // In one batch with what came last, also behind a commit in flight: the next owner waits
            // for it.
            if drained && !released {
                released = true;
                self.building.push(Record::Release { node: self.context.node.clone() });
            }
            self.submit();
            if let Some(error) = self.failed.take() {
                let End::Failed(error) = self.fail(error) else { continue };
                return Err(error);
            }
            let committed_all = self.in_flight.is_none() && !self.building.is_due();
            if drained && committed_all {
                // The next owner need not wait for what this node writes for itself.
                if release && let Some(reply) = reply.take() {
                    let _ = reply.send(Ok((self.term, self.position)));
                }
            }
            if drained && committed_all && self.flushing.is_none() {
                if self.unflushed.is_empty() {
                    return Ok((self.term, self.position));
                }
                self.start_flush();
                // In a cluster the store is a copy: whoever opens the slot next has the log.
                if self.flushing.is_none() && self.context.cluster.is_some() {
                    return Ok((self.term, self.position));
                }
                if self.flushing.is_none() {
                    return Err(Error::of(
                        Cause::Storage,
                        "the state store refuses writes; acknowledged messages are safe in the log",
                    ));
                }
            }
            let since =
                self.in_flight.as_ref().map_or_else(crate::clock::now, |commit| commit.started);
            let impatient = since + self.context.options.engine_timeout;
            // Without a commit or a flush under way nothing else would make room.
            let has_room = self.has_room() || (self.in_flight.is_none() && self.flushing.is_none());
            tokio::select! {
                biased;
                result = decided(&mut self.in_flight, &self.shared), if self.in_flight.is_some() => self.on_committed(result),
                result = flushed(&mut self.flushing), if self.flushing.is_some() => {
                    self.on_flushed(result);
                }
                // Maintenance looks only at slots that serve: this one checks by itself.
                () = tokio::time::sleep_until(impatient.into()), if self.in_flight.is_some() => {
                    self.check_patience();
                }
                () = tokio::task::consume_budget(), if has_room && !drained => match shared.next_mail() {
                    Some(next) if next.takes_time() && crate::clock::now() >= until => {
                        next.refuse(Error::of(
                            Cause::Stopping,
                            "the slot is moving or stopping and has no time left for waiting \
                             messages; nothing was kept",
                        ));
                    }
                    Some(next) => self.take(next).await,
                    None => drained = true,
                },
            }
        }
    }
}
