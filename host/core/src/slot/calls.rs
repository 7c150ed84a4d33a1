//! The calls that a slot makes: on an instance of the deployment's, beside commits, and what it has to
//! do when one takes long.

use crate::{
    error::{Cause, Code, Error},
    limits,
    loads::Admitted,
    log::record::{DeploymentId, Event, Head},
    names::{ServiceName, SessionKey},
    plugin::{self, Begin, Call, Caller, Cut, Failure, Guests, Input, Outcome, PluginError, Work},
    service::Deployment,
    slot::{
        SlotStats, commits::decided, core, overlay::Transaction, session::Session, shell::Shell,
    },
    telemetry::{repeats, services::Called},
};
use futures_util::FutureExt;
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

/// A call's transaction, and what it came to.
pub(super) type Settled = (Box<Transaction>, Result<Done, Failure>);

/// What a call gave.
pub(super) struct Done {
    pub reply: plugin::Reply,
    pub events: Vec<Event>,
    pub ephemeral: Vec<Event>,
    /// Whether the guest read or wrote the state.
    pub used_state: bool,
}

impl Shell {
    /// A deployment, loaded if need be. What is being loaded goes on when it is not waited for any more, so
    /// that it is there for one of the next messages.
    pub(super) async fn guests(
        &mut self,
        service: &ServiceName,
        deployment: DeploymentId,
        caller: &mut Caller<'_>,
    ) -> Result<Arc<Guests>, Error> {
        match self.context.plugins.pool().get(service, deployment) {
            Some(guests) => Ok(guests),
            // Boxed: it is rare, and large.
            None => Box::pin(self.load(service, deployment, caller)).await,
        }
    }

    async fn load(
        &mut self,
        service: &ServiceName,
        deployment: DeploymentId,
        caller: &mut Caller<'_>,
    ) -> Result<Arc<Guests>, Error> {
        let known = self.deployment(service, deployment, caller).await?;
        let context = self.context.clone();
        let label = known.label;
        // All who wait for one load, here and in other slots, wait as long as a call may run, and not each
        // anew.
        let begun = context.plugins.loading_since(known.digest).unwrap_or_else(crate::clock::now);
        let load = async { context.plugins.load(known.digest).await };
        match self.unless_cut(load, begun, caller).await {
            Ok(Ok(plugin)) => Ok(context.plugins.pool().add(service, deployment, label, plugin)),
            Ok(Err(why)) => {
                if repeats::admit("a plugin is not loaded", &label) {
                    tracing::warn!(
                        slot = self.slot,
                        %service,
                        plugin = %label,
                        "can't load {label}: {why}; its messages get 503"
                    );
                }
                Err(unavailable(&label, why))
            }
            Err(why) => Err(not_waited_for(&label, why)),
        }
    }

    /// A deployment that a record names.
    pub(super) async fn deployment(
        &mut self,
        service: &ServiceName,
        id: DeploymentId,
        caller: &mut Caller<'_>,
    ) -> Result<Deployment, Error> {
        let mut known = self.context.catalogue.deployment(service, id);
        let registry = self.context.registry().cloned();
        if let (None, Some(registry)) = (&known, registry) {
            // Another node deployed it a moment ago.
            let ensure = registry.ensure(service, id);
            let ensured = self.unless_cut(ensure, crate::clock::now(), caller).await;
            let label = || self.context.catalogue.label(service, id);
            known = ensured.map_err(|why| not_waited_for(&label(), why))??.deployment(id).cloned();
        }
        known.ok_or_else(|| {
            Error::new(
                Code::PluginUnavailable,
                format!("deployment {id} of {service} is not in this node's catalogue"),
            )
        })
    }

    /// Runs a guest's call while commits go on. Whoever came before does not wait for a call that has to be waited for:
    /// what was applied for them is sent to the log first.
    async fn beside_commits<T>(&mut self, mut call: Pin<&mut impl Future<Output = T>>) -> T {
        let mut waits = false;
        loop {
            tokio::select! {
                biased;
                output = &mut call => return output,
                result = decided(&mut self.commit, &self.shared), if self.core.is_in_flight() => self.on_committed(result),
                () = std::future::ready(()), if !waits => {
                    waits = true;
                    // It waits for something, or goes on elsewhere: the thread is others'.
                    self.admitted = Admitted::default();
                    if self.core.sends_before_mail() {
                        self.submit();
                    }
                }
            }
        }
    }

    /// Waits for what a call needs, beside commits: no longer than its caller does, nor than others can wait
    /// for their slot. `begun`: since when it is waited for.
    async fn unless_cut<T>(
        &mut self,
        needed: impl Future<Output = T>,
        begun: Instant,
        caller: &mut Caller<'_>,
    ) -> Result<T, Cut> {
        let deadline = self.context.plugins.deadline();
        let ending = ending(self.stats.clone(), begun, deadline, deadline);
        let (mut needed, mut ending) = (pin!(needed), pin!(ending));
        let waiting = pin!(poll_fn(|cx| {
            if let Poll::Ready(output) = needed.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if caller(cx).is_ready() {
                return Poll::Ready(Err(Cut::Gone));
            }
            ending.as_mut().poll(cx).map(Err)
        }));
        self.beside_commits(waiting).await
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
        let client = call.input.client().cloned();
        let (context, signal, key) =
            (self.context.clone(), self.signal.clone(), call.session.clone());
        let offload = context.plugins.offload_pool();
        let begin = match self.long.cost(&guests.service) {
            Some(cost) => Begin::Offloaded { cost },
            None if !offload.may_begin_here(&guests.service) => {
                Begin::Offloaded { cost: Duration::ZERO }
            }
            None => Begin::Here,
        };
        signal.reset();
        let future = guests.clone().call(call, signal.clone()).boxed();
        let work = Work { service: Some(&guests.service), begin, signal: &signal, future };
        let alone = context.plugins.deadline() * limits::LONG_CALL_DEADLINES;
        let (stats, begun) = (self.stats.clone(), crate::clock::now());
        let ending = || ending(stats, begun, context.plugins.deadline(), alone).boxed();
        let ran = {
            let running = pin!(offload.run(work, caller, ending));
            self.beside_commits(running).await
        };
        if let Some(elapsed) = ran.output.elapsed {
            let used = guest_time(elapsed, begin, ran.offloaded);
            self.guest_time += used;
            self.context.quota.spent(&key, client.as_deref(), used);
            let counted = self.services.of(&guests.service);
            counted.called(called, elapsed, ran.output.host_calls.into());
            let meter = &self.context.usage;
            self.used.add(meter, &guests.service, client.as_ref(), |amounts| {
                amounts.guest_time_ns += u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
            });
            // What is kept is counted with its commit.
            if ran.output.result.is_err() || !matches!(called, Called::Handle) {
                self.used.flush(meter);
            }
            self.count_work(&guests.service, begin, elapsed, ran.offloaded);
        }
        if !matches!(called, Called::Migrate)
            && let Some(trial) = context.trials.of(&guests.service)
        {
            let result = ran.output.result.as_ref().map(|_| ());
            trial.called(guests.deployment, &key.session, ran.output.elapsed, result);
        }
        if let Some(took) = ran.offloaded {
            let was_cut = matches!(ran.output.result, Err(Failure::Cut(_)));
            self.long.note(&guests.service, begin, took, was_cut);
        }
        self.settle(guests, key, ran.output)
    }

    /// Counts what a call has used as its service's.
    fn count_work(
        &self,
        service: &ServiceName,
        begin: Begin,
        elapsed: Duration,
        offloaded: Option<Duration>,
    ) {
        let Some(loads) = &self.context.loads else { return };
        match offloaded {
            // It knows whose it is without a search.
            None if self.admitted.took(elapsed) => {}
            None => loads.took(service, elapsed, Duration::ZERO),
            Some(aside) => {
                // What it waited for is in `elapsed`, too.
                let began_here = begin == Begin::Here;
                let slice = if began_here { limits::GUEST_SLICE } else { Duration::ZERO };
                loads.took(service, slice.min(elapsed), aside);
            }
        }
    }

    /// What the sender of a failed call is told.
    pub(super) fn failure_error(&self, label: &Arc<str>, failure: Failure) -> Error {
        failure_error(label, failure, self.context.plugins.deadline())
    }

    /// Takes the state back from a call.
    fn settle(
        &mut self,
        guests: &Guests,
        key: SessionKey,
        outcome: Outcome,
    ) -> Result<Settled, (Box<Session>, Error)> {
        match &outcome.result {
            // Of the node's memory it says itself what is in use.
            Ok(_) | Err(Failure::NoInstance(PluginError::NoMemory(_)) | Failure::Cut(_)) => {}
            Err(failure @ Failure::NoInstance(why)) => {
                self.services.of(&guests.service).trapped(failure.kind());
                if repeats::admit("no instance of a plugin", &guests.label) {
                    tracing::warn!(
                        slot = self.slot,
                        service = %guests.service,
                        plugin = %guests.label,
                        "can't instantiate {}: {why}; its messages get 503",
                        guests.label
                    );
                }
            }
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
                        "a call failed; replacing its instance"
                    );
                }
            }
        }
        let Outcome { state, result, events, ephemeral, used_state, .. } = outcome;
        match Transaction::from_state(state) {
            Some(tx) => Ok((tx, result.map(|reply| Done { reply, events, ephemeral, used_state }))),
            None => {
                // The slot opens again from its log; this stands in for the session till then.
                let error = Error::internal("a call did not give its state back");
                self.on(core::Event::Broken(error.clone()));
                Err((Box::new(Session::new(key, Head::default())), error))
            }
        }
    }
}

/// Resolves when a slot has something to do that can't wait any more for a call, or for what one needs: an
/// order, when the call, or the order, has waited for as long as a call may run; mail, after `alone`. So an
/// order waits for one call's time, however many calls are in the mailbox before it.
async fn ending(stats: Arc<SlotStats>, begun: Instant, deadline: Duration, alone: Duration) -> Cut {
    let mut asked = stats.asked.subscribe();
    let ordered = async {
        loop {
            // It can't be gone: it is this slot's own.
            let urgent = asked.wait_for(|asked| asked.since.is_some()).await.map(|asked| *asked);
            let Some(since) = urgent.unwrap_or_default().since else { continue };
            tokio::time::sleep_until((since.min(begun) + deadline).into()).await;
            // The order may have been given up meanwhile, and another may have come.
            if asked.borrow().since == Some(since) {
                return;
            }
        }
    };
    let has_mail = || stats.waiting.load(Ordering::Relaxed) > 0;
    let crowded = async {
        tokio::time::sleep_until((begun + alone).into()).await;
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

/// What a call has used of a processor. One that came to the pool has waited there for its turns.
fn guest_time(elapsed: Duration, began: Begin, offloaded: Option<Duration>) -> Duration {
    match (offloaded, began) {
        (None, _) => elapsed,
        (Some(took), Begin::Here) => elapsed.min(took + limits::GUEST_SLICE),
        (Some(took), Begin::Offloaded { .. }) => took,
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

/// Why a call was not made that needs something to be loaded first.
fn not_waited_for(label: &Arc<str>, why: Cut) -> Error {
    let error = match why {
        // Who forwards it may find the slot elsewhere.
        Cut::Ending => Error::of(
            Cause::Cut,
            format!(
                "the slot is moving, stopping or switching its version, and plugin {label} is not \
                 loaded yet; nothing was kept"
            ),
        ),
        Cut::Gone | Cut::Full | Cut::Crowded => Error::new(
            Code::PluginUnavailable,
            format!(
                "plugin {label} is still being loaded, and others are waiting for the slot; \
                 nothing was kept, try again"
            ),
        ),
    };
    error.with_plugin(&**label)
}

/// What the sender of a failed call is told; `deadline` is that of a call.
pub fn failure_error(label: &Arc<str>, failure: Failure, deadline: Duration) -> Error {
    let error = match failure {
        Failure::Rejected(rejection) => {
            let mut error = Error::of(Cause::Rejected, rejection.message.clone());
            error.rejection = Some(Box::new(rejection));
            error
        }
        Failure::Trapped(why) => Error::of(
            Cause::Trapped,
            format!("plugin {label} trapped; nothing it did was kept: {why}"),
        ),
        Failure::Deadline(deadline) => Error::of(
            Cause::Deadline,
            format!("plugin {label} took longer than {deadline:?}; nothing it did was kept"),
        ),
        Failure::Limit(what) => Error::of(
            Cause::Limit,
            format!("plugin {label} exceeded a limit; nothing it did was kept: {what}"),
        ),
        Failure::Store(error) => return error.into(),
        // A code that every peer knows.
        Failure::Level(what) => Error::new(
            Code::PluginUnavailable,
            format!("plugin {label} does what this feature level lacks; nothing was kept: {what}"),
        ),
        Failure::Full(what) => Error::of(Cause::OutboxFull, format!("nothing was kept: {what}")),
        Failure::Crowded(what) => Error::of(Cause::SendsFull, format!("nothing was kept: {what}")),
        Failure::Forbidden(what) => {
            Error::of(Cause::SendRefused, format!("nothing was kept: {what}"))
        }
        Failure::RequestForbidden(what) => {
            Error::of(Cause::RequestRefused, format!("nothing was kept: {what}"))
        }
        Failure::NoMemory(why) => Error::new(Code::MemoryFull, why.to_string()),
        Failure::NoInstance(why) => return unavailable(label, why),
        Failure::Cut(Cut::Full) => Error::new(
            Code::GuestsBusy,
            format!(
                "{} long-running plugin calls are already active on this node; nothing was kept",
                limits::LONG_CALLS_MAX
            ),
        ),
        Failure::Cut(Cut::Ending) => Error::of(
            Cause::Cut,
            "the slot is moving, stopping or switching its version, and can't wait for this long \
             call; nothing was kept",
        ),
        Failure::Cut(Cut::Crowded) => Error::new(
            Code::GuestsBusy,
            format!(
                "the call got too little processor time within {:?} while others waited for its \
                 slot; nothing was kept",
                deadline * limits::LONG_CALL_DEADLINES
            ),
        ),
        Failure::Cut(Cut::Gone) => {
            Error::of(Cause::Cut, "no client was waiting for the call any more; nothing was kept")
        }
    };
    error.with_plugin(&**label)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot's other sessions would wait for a call that gets no turns for as long as its client
    /// waits; but where nobody waits, it is to have the time.
    #[tokio::test]
    async fn a_call_is_cut_once_others_wait_for_its_slot() {
        let (stats, deadline) = (Arc::<SlotStats>::default(), Duration::from_millis(1));
        let ending = ending(stats.clone(), Instant::now(), deadline, 2 * deadline);
        let mut ending = Box::pin(ending);
        let long = 2 * deadline + 3 * limits::LONG_CALL_LOOK;
        assert!(tokio::time::timeout(long, &mut ending).await.is_err(), "nobody waits");
        stats.waiting.store(1, Ordering::Relaxed);
        assert_eq!(ending.await, Cut::Crowded);
    }

    /// An order would wait for one call after the other: as long as there is mail.
    #[tokio::test]
    async fn an_order_waits_for_one_deadline_and_not_for_one_a_call() {
        let (stats, deadline) = (Arc::<SlotStats>::default(), Duration::from_secs(600));
        stats.asked();
        let earlier = Instant::now() - deadline;
        stats.asked.send_modify(|asked| asked.since = Some(earlier));
        let next = ending(stats.clone(), Instant::now(), deadline, deadline);
        assert_eq!(next.await, Cut::Ending);
        // One that has had its time does not get more.
        stats.asked.send_modify(|asked| asked.since = Some(Instant::now()));
        let begun = ending(stats, earlier, deadline, deadline);
        assert_eq!(begun.await, Cut::Ending);
    }

    /// A call would be cut for an order that was given up in time.
    #[tokio::test]
    async fn an_order_that_is_given_up_cuts_nothing() {
        let (stats, deadline) = (Arc::<SlotStats>::default(), Duration::from_millis(50));
        stats.asked();
        let mut ending = Box::pin(ending(stats.clone(), Instant::now(), deadline, deadline));
        assert!(poll_fn(|cx| Poll::Ready(ending.as_mut().poll(cx).is_pending())).await);
        stats.taken();
        assert!(tokio::time::timeout(4 * deadline, &mut ending).await.is_err(), "it was cut");
        stats.asked();
        assert_eq!(ending.await, Cut::Ending);
    }
}
