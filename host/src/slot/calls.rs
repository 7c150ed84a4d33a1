//! The calls that a slot makes: on an instance of the deployment's, beside commits, and what it has to
//! do when one takes long.

use crate::{
    error::{Code, Error},
    limits,
    log::record::{DeploymentId, Event, Head},
    names::{ServiceName, SessionKey},
    plugin::{self, Begin, Call, Caller, Cut, Failure, Guests, Input, Outcome, PluginError, Work},
    service::Deployment,
    slot::{
        Mail, SlotStats, flush::store_error, overlay::Transaction, session::Session, task::Task,
    },
    telemetry::{repeats, services::Called},
};
use futures_util::FutureExt;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// A call's transaction, and what it came to.
pub(super) type Settled = (Box<Transaction>, Result<Done, Failure>);

/// What a call gave.
pub(super) struct Done {
    pub reply: plugin::Reply,
    pub events: Vec<Event>,
    /// Whether the guest read or wrote the state.
    pub used_state: bool,
}

impl Task {
    /// A deployment, loaded if need be.
    pub(super) async fn guests(
        &mut self,
        service: &ServiceName,
        deployment: DeploymentId,
    ) -> Result<Arc<Guests>, Error> {
        if let Some(guests) = self.context.plugins.pool().get(service, deployment) {
            return Ok(guests);
        }
        let known = self.deployment(service, deployment).await?;
        let context = self.context.clone();
        let label = known.label;
        let load = async { context.plugins.load(known.digest).await };
        let plugin = self.beside_commits(load).await.map_err(|why| unavailable(&label, why))?;
        Ok(context.plugins.pool().add(service, deployment, label, plugin))
    }

    /// A deployment that a record names.
    pub(super) async fn deployment(
        &mut self,
        service: &ServiceName,
        id: DeploymentId,
    ) -> Result<Deployment, Error> {
        let mut known = self.context.catalogue.deployment(service, id);
        let registry = self.context.cluster.as_ref().and_then(|cluster| cluster.registry.clone());
        if let (None, Some(registry)) = (&known, registry) {
            // Another node deployed it a moment ago.
            let ensured = self.beside_commits(registry.ensure(service, id)).await;
            known = ensured?.deployment(id).cloned();
        }
        known.ok_or_else(|| {
            Error::new(
                Code::PluginUnavailable,
                format!("deployment {id} of {service} is not in this node's catalogue"),
            )
        })
    }

    /// Runs a call beside commits: on this thread for its first slice, unless those of this slot, or
    /// of the service, tend to be long.
    pub(super) async fn call(
        &mut self,
        guests: &Arc<Guests>,
        call: Call,
        caller: &mut Caller<'_>,
    ) -> Result<Settled, (Box<Session>, Error)> {
        let called = match call.input {
            Input::Handle { .. } => Called::Handle,
            Input::Query { .. } => Called::Query,
            Input::Migrate { .. } => Called::Migrate,
        };
        let (context, signal, key) =
            (self.context.clone(), self.signal.clone(), call.session.clone());
        let lane = context.plugins.lane();
        let begin = match self.long.get(&guests.service) {
            Some(cost) => Begin::Lane { cost: *cost },
            None if !lane.may_begin_here(&guests.service) => Begin::Lane { cost: Duration::ZERO },
            None => Begin::Here,
        };
        signal.reset();
        let future = guests.clone().call(call, signal.clone()).boxed();
        let work = Work { service: Some(&guests.service), begin, signal: &signal, future };
        let ending = ending(self.stats.clone(), context.plugins.deadline(), self.mailbox.clone());
        let ran = self.beside_commits(lane.run(work, caller, ending)).await;
        if let Some(elapsed) = ran.output.elapsed {
            let counted = self.services.of(&guests.service);
            counted.called(called, elapsed, ran.output.host_calls.into());
        }
        if let Some(took) = ran.lane {
            let was_cut = matches!(ran.output.result, Err(Failure::Cut(_)));
            self.note_long(&guests.service, begin, took, was_cut);
        }
        self.settle(guests, key, ran.output)
    }

    /// Remembers what a long call cost: where the next of its slot begins, and whose comes first.
    fn note_long(&mut self, service: &ServiceName, began: Begin, took: Duration, was_cut: bool) {
        if began != Begin::Here && took < limits::GUEST_SLICE {
            // One that was cut before it had its first turn says nothing.
            if !was_cut {
                self.long.remove(service);
            }
            return;
        }
        let cost = self.long.entry(service.clone()).or_default();
        *cost = *cost / 2 + took;
    }

    /// Takes the state back from a call.
    fn settle(
        &mut self,
        guests: &Guests,
        key: SessionKey,
        outcome: Outcome,
    ) -> Result<Settled, (Box<Session>, Error)> {
        match &outcome.result {
            Ok(_) | Err(Failure::NoInstance(_) | Failure::Cut(_)) => {}
            Err(Failure::Rejected(_)) => self.services.of(&guests.service).rejected(),
            Err(failure) => {
                self.services.of(&guests.service).trapped(failure.kind());
                let about = format_args!("{} {}", guests.service, failure.kind());
                if repeats::admit("a call failed", about) {
                    tracing::warn!(
                        slot = self.slot,
                        service = %guests.service,
                        plugin = %guests.label,
                        kind = failure.kind(),
                        %failure,
                        "a call failed; its instance is replaced"
                    );
                }
            }
        }
        let Outcome { state, result, events, used_state, .. } = outcome;
        match Transaction::from_state(state) {
            Some(tx) => Ok((tx, result.map(|reply| Done { reply, events, used_state }))),
            None => {
                // The slot opens again from its log; this stands in for the session till then.
                let error = Error::internal("a call did not give its state back");
                self.give_up(error.clone());
                Err((Box::new(Session::new(key, Head::default())), error))
            }
        }
    }
}

/// Resolves when a slot has something to do that can't wait for a long call any more: an order, when the
/// call has had as long as it may run; mail, when it has had that several times.
async fn ending(
    stats: Arc<SlotStats>,
    deadline: Duration,
    mailbox: Option<mpsc::WeakSender<Mail>>,
) -> Cut {
    let begun = tokio::time::Instant::now();
    let mut asked = stats.asked.subscribe();
    let ordered = async {
        // It can't be gone: it is this slot's own.
        let _ = asked.wait_for(|asked| *asked > 0).await;
        tokio::time::sleep_until(begun + deadline).await;
    };
    let has_mail = || {
        let mailbox = mailbox.as_ref().and_then(mpsc::WeakSender::upgrade);
        mailbox.is_some_and(|mailbox| mailbox.capacity() < mailbox.max_capacity())
    };
    let crowded = async {
        tokio::time::sleep_until(begun + deadline * limits::LONG_CALL_DEADLINES).await;
        while !has_mail() {
            tokio::time::sleep(limits::LONG_CALL_LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = ordered => Cut::Ending,
        () = crowded => Cut::Crowded,
    }
}

/// Why there is no instance.
fn unavailable(label: &Arc<str>, why: PluginError) -> Error {
    let code = match why {
        PluginError::NoMemory(_) => Code::MemoryFull,
        _ => Code::PluginUnavailable,
    };
    Error::new(code, why.to_string()).with_plugin(&**label)
}

/// What the sender of a failed call is told.
pub(super) fn failure_error(label: &Arc<str>, failure: Failure) -> Error {
    let error = match failure {
        Failure::Rejected(rejection) => {
            let mut error = Error::new(Code::Rejected, rejection.message.clone());
            error.rejection = Some(Box::new(rejection));
            error
        }
        Failure::Trapped(why) => Error::new(
            Code::PluginTrapped,
            format!("plugin {label} trapped, nothing it did was kept: {why}"),
        ),
        Failure::Deadline(deadline) => Error::new(
            Code::PluginDeadline,
            format!("plugin {label} took longer than its {deadline:?}, nothing it did was kept"),
        ),
        Failure::Limit(what) => Error::new(
            Code::PluginLimit,
            format!("plugin {label} passed a limit, nothing it did was kept: {what}"),
        ),
        Failure::Store(error) => return store_error(error),
        Failure::NoMemory(why) => Error::new(Code::MemoryFull, why.to_string()),
        Failure::NoInstance(why) => return unavailable(label, why),
        Failure::Cut(Cut::Full) => Error::new(
            Code::GuestsBusy,
            format!(
                "{} calls of plugins compute for long on this node already; nothing was kept",
                limits::LONG_CALLS_MAX
            ),
        ),
        Failure::Cut(Cut::Ending) => Error::new(
            Code::Unavailable,
            "the slot moves, stops or changes its version, and the call takes too long to wait for; \
             nothing was kept",
        ),
        Failure::Cut(Cut::Crowded) => Error::new(
            Code::GuestsBusy,
            "others wait for the slot, and too many calls of plugins compute for long on this node for \
             this one to end; nothing was kept",
        ),
        Failure::Cut(Cut::Gone) => {
            Error::new(Code::Unavailable, "nobody waited for the call any more; nothing was kept")
        }
    };
    error.with_plugin(&**label)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot's other sessions would wait for a call that gets no turns for as long as its client has
    /// patience; but where nobody waits, it is to have the time.
    #[tokio::test]
    async fn a_call_is_cut_once_others_wait_for_its_slot() {
        let (mailbox, _mail) = mpsc::channel(4);
        let deadline = Duration::from_millis(1);
        let mut ending = Box::pin(ending(Arc::default(), deadline, Some(mailbox.downgrade())));
        let long = deadline * limits::LONG_CALL_DEADLINES + 3 * limits::LONG_CALL_LOOK;
        assert!(tokio::time::timeout(long, &mut ending).await.is_err(), "nobody waits");
        let (reply, _) = tokio::sync::oneshot::channel();
        let key = SessionKey::parse("s", "x").unwrap();
        assert!(mailbox.try_send(Mail::Delete { key, reply }).is_ok());
        assert_eq!(ending.await, Cut::Crowded);
    }
}
