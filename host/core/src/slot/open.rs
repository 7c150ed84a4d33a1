//! How a slot's task begins and ends: claims the slot, brings the store up to the claim, serves, and says
//! why it could not.

use crate::{
    error::{Cause, Error},
    limits,
    log::{
        Claim, Last, LogError, Term,
        record::{Batch, Record},
    },
    names::SlotId,
    slot::{
        Mail, Mailbox, Order, Reply, SlotContext, SlotStats, TaskLock,
        commits::commit_error,
        flush::{CatchUp, catch_up_alone},
        relaxed_store,
        seated::Occupant,
        shared::Shared,
        shell::{Served, Shell},
        wakes,
    },
    telemetry::{metrics, repeats},
};
use futures_util::FutureExt;
use std::sync::{Arc, atomic::Ordering};
use tokio::sync::{OwnedMutexGuard, mpsc};

/// What a task needs to open its slot.
pub(super) struct Open {
    pub slot: SlotId,
    pub task_lock: TaskLock,
    pub context: Arc<SlotContext>,
    /// Where the owner before has released it.
    pub last: Option<Last>,
    /// Is told when the slot is open, or why it can't be.
    pub reply: Option<Reply<Term>>,
}

/// Opens the slot, serves it and ends; mail that can't be served is answered with the reason.
pub(super) async fn run(
    open: Open,
    ending: Ending,
    mut orders: mpsc::Receiver<Order>,
    stats: Arc<SlotStats>,
) {
    let Ending { shared, occupant } = &ending;
    let (slot, context) = (open.slot, open.context.clone());
    let mut opened = open_while_wanted(open, occupant, stats).await;
    if let Ok(shell) = &mut opened {
        shell.shared = Some(shared.clone());
    }
    let was_open = opened.is_ok();
    let error = match opened {
        Ok(shell) => match Box::new(shell).serve(shared, &mut orders).await {
            (mut shell, Served::Stop) => {
                occupant.stopping();
                match shell.finish(shared).await {
                    Ok(asked) => {
                        occupant.ended_in_order();
                        if let Some(asked) = asked {
                            let _ = asked.send(Ok((shell.core.term(), shell.core.position())));
                        }
                        return;
                    }
                    Err(error) => error,
                }
            }
            (_, Served::Failed(error)) => error,
        },
        Err(error) => error,
    };
    metrics().slot_failures.increment(1);
    if repeats::admit("slots stopped", error.code.as_str()) {
        tracing::warn!(slot, %error, "slot stopped");
    }
    occupant.stopping();
    orders.close();
    Mailbox(shared.clone()).close(context.turns.get());
    let readable = !was_open && has_whole_copy(slot, &context, &error).await;
    while let Some(mail) = shared.next_mail() {
        match readable && mail.is_read() {
            true => read_copy(slot, context.clone(), mail).await,
            false => mail.refuse(error.clone()),
        }
    }
    occupant.failed(Some(error));
    if context.cluster.is_none() {
        wakes::wake_later(&context, slot);
    }
}

/// However a slot's task ends: what waits is answered, and nothing of the slot is kept.
pub(super) struct Ending {
    pub shared: Arc<Shared>,
    pub occupant: Occupant,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Where it has not said how it ended: a panic, or the end of the process.
        let turns = self.occupant.context.turns.get().cloned();
        self.occupant.failed(None);
        Mailbox(self.shared.clone()).end(turns.as_ref());
    }
}

/// Whether reads can be answered although the slot can't be opened, for want of room to write the
/// claim: nobody else writes to a slot of a node that stands alone, and the store has all of it.
async fn has_whole_copy(slot: SlotId, context: &SlotContext, error: &Error) -> bool {
    if context.cluster.is_some() || !error.is(Cause::Storage) {
        return false;
    }
    let Ok(meta) = context.store.slot(slot) else { return false };
    let tail = context.log.read(slot, meta.applied, limits::CATCH_UP_BYTES_MAX).await;
    tail.is_ok_and(|tail| {
        tail.iter().all(|logged| {
            Batch::decode(&logged.batch).is_ok_and(|batch| {
                batch.records.iter().all(|record| matches!(record, Record::Claim { .. }))
            })
        })
    })
}

/// Takes one mail, a read, without having the slot: from what the store has.
pub async fn read_copy(slot: SlotId, context: Arc<SlotContext>, mail: Mail) {
    let meta = match context.store.slot(slot) {
        Ok(meta) => meta,
        Err(error) => return mail.refuse(error.into()),
    };
    // Its own, which nobody waits for: nothing is written.
    let lock = Arc::new(TaskLock::default().lock().await);
    let claim = Claim { term: meta.term, position: meta.applied };
    let mut shell = Shell::new(slot, context, Arc::default(), lock, claim, meta, Vec::new());
    shell.take(mail).await;
}

/// Opens the slot, and says so. When nobody waits for that any more, nobody would ever know of the
/// task, which would keep its successors out.
async fn open_while_wanted(
    open: Open,
    occupant: &Occupant,
    stats: Arc<SlotStats>,
) -> Result<Shell, Error> {
    let Open { slot, task_lock, context, last, reply } = open;
    let open = async {
        let lock = Arc::new(task_lock.lock().await);
        let shell = Shell::open(slot, context, stats, lock, last).await?;
        // Before anybody is told of it.
        occupant.opened(shell.core.term()).map(|()| shell)
    };
    let Some(mut reply) = reply else { return open.await };
    let given_up = || Error::of(Cause::GivenUp, "the slot is no longer needed on this node");
    let opened = tokio::select! {
        biased;
        () = reply.closed() => return Err(given_up()),
        opened = open => opened,
    };
    let term = opened.as_ref().map(|shell| shell.core.term()).map_err(Clone::clone);
    if reply.send(term).is_err() && opened.is_ok() {
        return Err(given_up());
    }
    opened
}

impl Shell {
    /// Claims the slot and brings the state store up to the claim. Where the owner before has said
    /// what it wrote last, what came before the claim is read while the claim is on its way.
    async fn open(
        slot: SlotId,
        context: Arc<SlotContext>,
        stats: Arc<SlotStats>,
        lock: Arc<OwnedMutexGuard<()>>,
        last: Option<Last>,
    ) -> Result<Self, Error> {
        let claim = match last {
            Some(last) => context.log.claim_after(slot, &context.node, last),
            None => {
                let claim = context.log.claim(slot, &context.node);
                async move { Ok((claim.await?, false)) }.boxed()
            }
        };
        let claim = tokio::time::timeout(context.options.engine_timeout, claim);
        let behind = async {
            match last {
                Some(last) => {
                    let until = CatchUp::To(last.position);
                    catch_up_alone(slot, context.clone(), until, lock.clone()).await.ok()
                }
                None => None,
            }
        };
        let (claim, caught_up) = tokio::join!(claim, behind);
        let claim = claim.unwrap_or_else(|_| Err(LogError::Undecided("no answer".into())));
        let (claim, follows) = claim.map_err(|e| match e {
            LogError::Undecided(why) | LogError::Unavailable(why) => {
                Error::of(Cause::Storage, format!("can't claim the slot: {why}"))
            }
            other => commit_error(&other),
        })?;
        let at = last.map(|last| last.position);
        let caught_up = caught_up.filter(|meta| follows && Some(meta.applied) == at);
        let (meta, unflushed) = match caught_up {
            // All that is missing is the claim itself, which is in nobody's way.
            Some(meta) => {
                let records = vec![Record::Claim { node: context.node.clone() }];
                let batch = Batch { slot, term: claim.term, attempt: 0, records };
                (meta, vec![(claim.position, batch)])
            }
            None => {
                let until = CatchUp::To(claim.position);
                (catch_up_alone(slot, context.clone(), until, lock.clone()).await?, Vec::new())
            }
        };
        relaxed_store(&stats.term, claim.term);
        relaxed_store(&stats.position, claim.position);
        relaxed_store(&stats.applied, meta.applied);
        relaxed_store(&stats.sessions, meta.sessions);
        stats.show_active(&context.catalogue, meta.active.values());
        metrics().slot_starts.increment(1);
        tracing::debug!(slot, term = claim.term, position = claim.position, "slot opened");
        stats.dirty.store(!unflushed.is_empty(), Ordering::Relaxed);
        let mut shell = Self::new(slot, context, stats, lock, claim, meta, unflushed);
        if shell.context.cluster.is_some() {
            shell.switch_to_current();
        }
        shell.look_for_sent()?;
        shell.look_at_outbox();
        shell.look_for_due();
        Ok(shell)
    }

    /// Another node may have had the slot while its service was swapped, or in the middle of it.
    fn switch_to_current(&mut self) {
        for service in self.context.catalogue.all() {
            let target = service.target();
            let current = self.core.running().generation(&service.name);
            let is_behind = target.is_ahead_of(current);
            // Sessions of a removed service of the same name are deleted first.
            let waits =
                !target.is_removal() && self.check_purged(&service.name, service.since).is_err();
            // It stays with what it runs until what is current is loaded, and is told then.
            let is_loading = current.is_some() && !target.is_loaded(&self.context.plugins);
            if is_behind && !waits && !is_loading {
                self.switch_to(&target);
            }
        }
    }
}
