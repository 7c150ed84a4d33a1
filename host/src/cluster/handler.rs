//! What this node does with its peers' requests.

use super::{
    Cluster,
    control::{self, ControlRequest, ControlResponse},
};
use crate::{
    error::{Cause, Error},
    limits,
    message::{Incoming, Purpose, gone},
    names::{SessionKey, SlotId},
    operation::{Message, operations},
    router::{Place, Routed},
    rpc::{Handler, Request, Response},
    slot::{Mail, Mailed, Reply},
};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use std::sync::{Arc, OnceLock};
use tokio::sync::oneshot;

/// What the cluster asks of its own node beyond its slots.
pub trait LocalNode: Send + Sync + 'static {
    fn slots(&self) -> Vec<crate::rpc::SlotInfo>;
    fn swap(&self, service: &crate::names::ServiceName) -> Option<crate::swap::SwapShare>;
    /// How many sessions of a service are here, by deployment.
    fn sessions(
        &self,
        service: crate::names::ServiceName,
    ) -> BoxFuture<'static, Result<crate::state::SessionCounts, Error>>;
    fn usage(
        &self,
        ask: crate::quota::usage::Ask,
    ) -> BoxFuture<'static, Result<crate::quota::usage::UsageShare, Error>>;
    /// What the slots here store.
    fn stored(&self) -> BoxFuture<'static, Result<crate::state::stored::StoredByService, Error>>;
    fn purge(
        &self,
        service: &crate::names::ServiceName,
    ) -> Option<crate::cluster::reports::PurgeShare>;
    /// Begins this node's part of an audit.
    fn start_audit(
        &self,
        ask: control::AuditAsk,
        spec: crate::replay::AuditSpec,
        sessions_of_all: u64,
    ) -> BoxFuture<'static, Result<Option<crate::replay::AuditShare>, Error>>;
    /// How far this node's part of a gate is, which begins if there is a job.
    fn gate(
        &self,
        ask: &control::GateAsk,
        job: Option<control::GateJob>,
    ) -> Option<crate::gate_report::GateShare>;
    fn audit(&self, ask: &control::AuditAsk, cancel: bool) -> Option<crate::replay::AuditShare>;
    /// What was counted here of a step of a service's canary.
    fn canary(
        &self,
        service: &crate::names::ServiceName,
        trial: (u64, u8),
    ) -> Option<crate::cluster::reports::CanaryShare>;
    fn captures(
        &self,
        asked: control::CapturesAsk,
    ) -> BoxFuture<'static, Result<control::CapturesGiven, Error>>;
    fn not_ready(&self) -> Option<String>;
    /// Gives everything away and ends the process.
    fn drain(&self);
}

/// Handles requests once there is a node to handle them.
#[derive(Default)]
pub struct LateHandler(OnceLock<(Arc<Cluster>, Arc<dyn LocalNode>)>);

type Handled = BoxFuture<'static, Result<Response, Error>>;

impl LateHandler {
    pub fn set(&self, cluster: Arc<Cluster>, local: Arc<dyn LocalNode>) {
        let _ = self.0.set((cluster, local));
    }
}

impl Handler for LateHandler {
    fn handle(&self, from: &Arc<str>, request: Request) -> Handled {
        let Some((cluster, local)) = self.0.get() else {
            let error = Error::of(Cause::Stopping, "the node is starting");
            return ready(Err(error)).boxed();
        };
        handle(cluster, local, from, request)
    }
}

macro_rules! handle {
    (forwarded { $($Op:ident,)* } $($rest:tt)*) => {
        fn handle(
            cluster: &Arc<Cluster>,
            local: &Arc<dyn LocalNode>,
            from: &Arc<str>,
            request: Request,
        ) -> Handled {
            match request {
                $(Request::$Op(operation) => cluster.operation(operation),)*
                Request::Message { key, message, lane } => {
                    cluster.message(from, key, message, lane)
                }
                Request::Slots => ready(Ok(Response::Slots(local.slots()))).boxed(),
                Request::Control(words) => {
                    let (cluster, local, from) = (cluster.clone(), local.clone(), from.clone());
                    async move {
                        let response = cluster.answer(&*local, &from, &words).await?;
                        Ok(Response::Control(control::encode(&response)?))
                    }
                    .boxed()
                }
            }
        }
    };
}
operations!(handle);

impl Cluster {
    /// A message for a slot that should be here.
    fn message(&self, from: &Arc<str>, key: SessionKey, message: Incoming, lane: u64) -> Handled {
        let slot = self.router.slot_of(&key);
        if self.forwarder.refused().has(from, slot, lane) {
            return ready(Ok(self.not_owner(slot))).boxed();
        }
        let from = from.clone();
        self.deliver(
            slot,
            |reply| Message::new(key, message).mail(reply),
            Response::Sent,
            Purpose::Message,
            move |this| this.forwarder.refused().add(&from, slot, lane),
        )
    }

    /// An operation on a slot that should be here.
    fn operation<O: Routed>(&self, operation: O) -> Handled {
        let slot = operation.slot(self.router.slot_count());
        self.deliver(slot, |reply| operation.mail(reply), O::response, O::PURPOSE, |_| {})
    }

    /// Puts mail into a slot's mailbox before it returns. If the slot is not here, or leaves
    /// meanwhile, calls `turned_away` and then returns where the slot went.
    fn deliver<T: Send + 'static>(
        &self,
        slot: SlotId,
        mail: impl FnOnce(Reply<T>) -> Mail,
        response: impl FnOnce(T) -> Response + Send + 'static,
        asked: Purpose,
        turned_away: impl FnOnce(&Self) + Send + 'static,
    ) -> Handled {
        let (reply, answer) = oneshot::channel();
        let delivered = match self.router.place(slot) {
            Place::Here => self.router.mail_here(slot, mail(reply)),
            _ => Ok(self.router.read_copy(slot, || mail(reply))),
        };
        match delivered {
            Ok(true) => {
                let me = self.me.clone();
                async move {
                    match answer.await.unwrap_or_else(|_| Err(gone(asked))) {
                        Ok(value) => Ok(response(value)),
                        Err(error) => match me.upgrade() {
                            Some(this) if error.is(Cause::NotOwner) => {
                                turned_away(&this);
                                this.moved(slot).await
                            }
                            _ => Err(error),
                        },
                    }
                }
                .boxed()
            }
            Ok(false) => {
                turned_away(self);
                self.when_moved(slot)
            }
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    pub(super) fn not_owner(&self, slot: SlotId) -> Response {
        let (owner, term) = match (self.router.place(slot), self.router.held(slot)) {
            (Place::Away { owner, term }, _) => (owner, term),
            // It could not take the request, and has the slot all the same: nobody is to take it over.
            (_, Some(term)) => (Some(self.own.clone()), term),
            (_, None) => (None, 0),
        };
        Response::NotOwner { owner, term, position: 0 }
    }

    fn when_moved(&self, slot: SlotId) -> Handled {
        match (self.router.place(slot), self.me.upgrade()) {
            (Place::Moving, Some(this)) => async move { this.moved(slot).await }.boxed(),
            _ => ready(Ok(self.not_owner(slot))).boxed(),
        }
    }

    /// Holds a request for a slot that is moving, and then returns where it went.
    async fn moved(&self, slot: SlotId) -> Result<Response, Error> {
        let mut place = self.router.watch_place(slot)?;
        let settled = place.wait_for(|place| *place != Place::Moving);
        let _ = tokio::time::timeout(limits::HANDOFF_DEADLINE, settled).await;
        Ok(self.not_owner(slot))
    }

    async fn answer(
        &self,
        local: &dyn LocalNode,
        from: &Arc<str>,
        words: &Bytes,
    ) -> Result<ControlResponse, Error> {
        Ok(match control::decode(words)? {
            ControlRequest::Owned => ControlResponse::Owned(self.router.here()),
            ControlRequest::Own(slots) => {
                self.learn(from, &slots);
                ControlResponse::Done
            }
            ControlRequest::Release { slot, to, loaded } => {
                let (term, position) = self.release(slot, &to, loaded).await?;
                ControlResponse::Released { term, position }
            }
            ControlRequest::Taken { slot, term } => {
                let pause = self.taken(slot, from, term);
                ControlResponse::Taken { pause_us: pause.as_micros() as u64 }
            }
            ControlRequest::Moves => ControlResponse::Moves(self.moves.list()),
            ControlRequest::CancelMove { id } => ControlResponse::Cancelled(self.cancel_move(id)),
            ControlRequest::Retry { slot } => {
                self.retry(slot);
                ControlResponse::Done
            }
            ControlRequest::Drain => {
                local.drain();
                ControlResponse::Done
            }
            ControlRequest::View => ControlResponse::View(Box::new(self.view(local.not_ready()))),
            ControlRequest::Swap { service } => ControlResponse::Swap(local.swap(&service)),
            ControlRequest::Purge { service } => ControlResponse::Purge(local.purge(&service)),
            ControlRequest::Usage(ask) => ControlResponse::Usage(Box::new(local.usage(ask).await?)),
            ControlRequest::Stored => ControlResponse::Stored(local.stored().await?),
            ControlRequest::StartAudit { ask, spec, sessions_of_all } => {
                let share = local.start_audit(ask, spec, sessions_of_all).await?;
                ControlResponse::Audit(share.map(Box::new))
            }
            ControlRequest::Audit { ask } => {
                ControlResponse::Audit(local.audit(&ask, false).map(Box::new))
            }
            ControlRequest::CancelAudit { ask } => {
                ControlResponse::Audit(local.audit(&ask, true).map(Box::new))
            }
            ControlRequest::Canary { service, trial } => {
                ControlResponse::Canary(local.canary(&service, trial).map(Box::new))
            }
            ControlRequest::Captures(asked) => {
                ControlResponse::Captures(Box::new(local.captures(asked).await?))
            }
            ControlRequest::Gate { ask, job } => {
                ControlResponse::Gate(local.gate(&ask, job.map(|job| *job)).map(Box::new))
            }
            ControlRequest::Sessions { service } => {
                ControlResponse::Sessions(local.sessions(service).await?)
            }
        })
    }
}
