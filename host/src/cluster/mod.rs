//! A cluster of nodes: who is in it, who owns which slot, and how slots move.
//!
//! Membership is a hint for liveness and the ring proposes; the slot's log decides who owns it.
//! [`plan`] decides what this node should do about its slots, [`coordinator`] does it, [`handoff`] is
//! the protocol between the old owner and the new, [`control`] its messages.

pub mod control;
mod coordinator;
mod fitness;
mod handler;
mod handoff;
mod links;
mod move_backoff;
pub mod moves;
mod plan;
pub mod reports;
#[cfg(test)]
mod tests;
mod trust;

pub use coordinator::{ClusterOptions, ClusterParts};
pub use fitness::EngineProbe;
pub use handler::{LateHandler, LocalNode};

use crate::{
    cluster::reports::{Drained, NodeView, NodesInfo, Rebalanced, SilentNode},
    error::{Cause, Code, Error},
    limits,
    log::Term,
    names::{ServiceName, SlotId},
    peer::member::{Members, Unfit},
    registry::Placement,
    ring::{Table, View},
    router::{Place, Router, forward::Forwarder},
    rpc::{Request, Response, SlotInfo},
    slot::SlotContext,
    swap::SwapShare,
};
use control::{ControlRequest, ControlResponse};
use futures_util::future::BoxFuture;
use move_backoff::Backoffs;
use moves::Moves;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};
use trust::Trust;

/// Slots that an operator drained, and the node that each must not be on.
pub type Avoid = BTreeMap<SlotId, Arc<str>>;

/// This node's part in its cluster.
pub struct Cluster {
    me: Weak<Self>,
    own: Arc<str>,
    router: Arc<Router>,
    context: Arc<SlotContext>,
    pub forwarder: Arc<Forwarder>,
    pub moves: Moves,
    members: watch::Receiver<Arc<Members>>,
    placement: watch::Receiver<Arc<Placement>>,
    /// What the ring proposes for the latest view.
    table: RwLock<Arc<Table>>,
    /// Slots that must not be tried again yet.
    backoffs: Backoffs,
    /// Whether this process ran all the time.
    trust: Trust,
    /// Whether the others' reports of their fitness count.
    steady: watch::Sender<bool>,
    /// Processes that have reported what they own, or had time to.
    reported: Mutex<HashSet<u128>>,
    /// When slots that are being given away were sealed.
    sealed: Mutex<HashMap<SlotId, Instant>>,
    /// Slots that this node has opened and not reported to its peers yet.
    gained: Mutex<Vec<(SlotId, Term)>>,
    /// How often this node has opened a slot.
    claims: Mutex<BTreeMap<SlotId, u64>>,
    nudge: Notify,
    /// Which links with the others are missing.
    links: Mutex<links::Links>,
    /// Every slot that the ring gives this node was taken once.
    settled: AtomicBool,
    joined: AtomicBool,
    /// This node is stopping: it takes no more slots.
    closed: watch::Sender<bool>,
    leave: Box<dyn Fn() + Send + Sync>,
    report_unfit: Box<ReportUnfit>,
    engine: Box<EngineProbe>,
    change_avoid: Box<ChangeAvoid>,
}

/// A change of the slots to avoid; may be made several times, on what is there each time.
pub type AvoidChange = Box<dyn Fn(&mut Avoid) + Send + Sync>;
/// Writes such a change where all nodes see it.
pub type ChangeAvoid = dyn Fn(AvoidChange) -> BoxFuture<'static, Result<(), Error>> + Send + Sync;

/// Reports to the others that this node can't serve, or that it can again.
pub type ReportUnfit = dyn Fn(Option<Unfit>) + Send + Sync;

/// Who has which slot, and under which term.
#[derive(Debug, PartialEq, Eq)]
struct Owners {
    owners: BTreeMap<(SlotId, Term), Arc<str>>,
    slot_count: u16,
}

impl Owners {
    /// Whether each slot has exactly one owner.
    fn is_whole(&self) -> bool {
        self.owners.len() == usize::from(self.slot_count)
            && (0..self.slot_count).zip(self.owners.keys()).all(|(slot, (owned, _))| slot == *owned)
    }
}

impl Cluster {
    pub fn members(&self) -> Arc<Members> {
        self.members.borrow().clone()
    }

    /// What the ring proposes for the latest view.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Asks a peer about the cluster.
    ///
    /// # Errors
    /// `unavailable` when it does not answer in time, or its own refusal.
    pub async fn ask(&self, peer: &str, ask: &ControlRequest) -> Result<ControlResponse, Error> {
        self.ask_within(peer, ask, limits::CONTROL_TIMEOUT).await
    }

    /// As [`Cluster::ask`], for what takes longer, or must not.
    ///
    /// # Errors
    /// As [`Cluster::ask`].
    pub async fn ask_within(
        &self,
        peer: &str,
        ask: &ControlRequest,
        wait: Duration,
    ) -> Result<ControlResponse, Error> {
        let late = |_| Error::of(Cause::Unreachable, format!("node {peer} did not answer in time"));
        let request = Request::Control(control::encode(ask)?);
        let answer = self.forwarder.peers().call(peer, request);
        let answer = answer.map_err(|e| Error::of(Cause::Unreachable, e.to_string()))?;
        let answer = tokio::time::timeout(wait, answer).await;
        match answer.map_err(late)? {
            Ok(Response::Control(bytes)) => control::decode(&bytes),
            Ok(_) => Err(Error::internal(format!("node {peer} sent an unexpected answer"))),
            Err(crate::rpc::PeerError::Refused(error)) => Err(error),
            // It names the node.
            Err(error) => Err(Error::of(Cause::Unreachable, error.to_string())),
        }
    }

    /// Asks every other member at once.
    pub async fn ask_all(
        &self,
        ask: &ControlRequest,
    ) -> Vec<(Arc<str>, Result<ControlResponse, Error>)> {
        self.ask_all_within(ask, limits::CONTROL_TIMEOUT).await
    }

    /// As [`Cluster::ask_all`], for what takes a while.
    pub async fn ask_all_within(
        &self,
        ask: &ControlRequest,
        wait: Duration,
    ) -> Vec<(Arc<str>, Result<ControlResponse, Error>)> {
        let members = self.members();
        let others = members.alive.iter().filter(|member| member.name != self.own);
        let asked = others.map(|member| async {
            (member.name.clone(), self.ask_within(&member.name, ask, wait).await)
        });
        futures_util::future::join_all(asked).await
    }

    /// What this node believes.
    pub fn view(&self, not_ready: Option<String>) -> NodeView {
        let members = self.members();
        let table = self.table();
        let own = members.get(&self.own);
        let names = |leaving: bool| {
            let some = members.alive.iter().filter(move |m| !leaving || m.leaving);
            some.map(|member| member.name.to_string()).collect()
        };
        let (takeovers, handoffs) = self.moves.running();
        NodeView {
            node: self.own.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            peer: own.map(|m| m.peer.to_string()).unwrap_or_default(),
            api: own.map(|m| m.api.to_string()).unwrap_or_default(),
            view: members.number,
            members: names(false),
            leaving: names(true),
            owned: self.router.here().len() as u32,
            proposed: table.slots_of(&self.own).len() as u32,
            moving: (takeovers + handoffs) as u32,
            not_ready,
            unfit: own.and_then(|own| own.unfit).map(|why| why.to_string()),
            links: self.linked().ok().flatten(),
        }
    }

    /// What every node believes.
    pub async fn nodes(&self, not_ready: Option<String>) -> NodesInfo {
        let (mut nodes, mut silent) = (vec![self.view(not_ready)], Vec::new());
        for (node, answer) in self.ask_all(&ControlRequest::View).await {
            match answer {
                Ok(ControlResponse::View(view)) => nodes.push(*view),
                Ok(_) => {}
                Err(error) => {
                    silent.push(SilentNode { node: node.to_string(), why: error.detail.into() });
                }
            }
        }
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        NodesInfo { own: self.own.to_string(), nodes, silent }
    }

    /// This node's name.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// Runs `work`, which sums up each node's report of its slots, and returns whether it covers all
    /// of them: a slot without an owner, or one that moves meanwhile, is in no report, or in two.
    pub async fn over_all_slots<T>(&self, work: impl Future<Output = T>) -> (T, bool) {
        let before = self.owners().await;
        let done = work.await;
        (done, before.is_whole() && before == self.owners().await)
    }

    /// Whether the nodes that answer have every slot, each one of them.
    pub async fn has_all_slots(&self) -> bool {
        self.owners().await.is_whole()
    }

    /// Which node has which slot, as reported by the nodes that answer.
    async fn owners(&self) -> Owners {
        let mut owners = BTreeMap::new();
        owners.extend(self.router.here().into_iter().map(|slot| (slot, self.own.clone())));
        for (node, answer) in self.ask_all(&ControlRequest::Owned).await {
            if let Ok(ControlResponse::Owned(slots)) = answer {
                owners.extend(slots.into_iter().map(|slot| (slot, node.clone())));
            }
        }
        Owners { owners, slot_count: self.router.slot_count() }
    }

    /// Every slot is somewhere where the ring wants it, as far as this node has a part in it.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// It was so at least once.
    pub fn was_settled(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// How often this node has won a slot, of those that it has.
    pub fn claims(&self) -> Vec<(SlotId, u64)> {
        self.claims.lock().iter().map(|(slot, won)| (*slot, *won)).collect()
    }

    /// The slots that are here.
    pub fn here(&self) -> impl Iterator<Item = SlotId> {
        self.router.here().into_iter().map(|(slot, _)| slot)
    }

    /// Who owns a slot, as far as this node knows.
    pub fn owner(&self, slot: SlotId) -> Option<String> {
        match self.router.place(slot) {
            Place::Here | Place::Moving => Some(self.own.to_string()),
            Place::Away { owner, .. } => owner.map(|owner| owner.to_string()),
        }
    }

    /// The other nodes' reports of the slots that they own.
    pub async fn slots_of_peers(&self) -> BTreeMap<SlotId, SlotInfo> {
        let members = self.members();
        let others = members.alive.iter().filter(|member| member.name != self.own);
        let asked = others.map(|member| async {
            let answer = self.forwarder.peers().call(&member.name, Request::Slots);
            let answer = tokio::time::timeout(limits::CONTROL_TIMEOUT, answer.ok()?).await;
            match answer.ok()?.ok()? {
                Response::Slots(slots) => Some(slots),
                _ => None,
            }
        });
        let answers = futures_util::future::join_all(asked).await;
        let mut slots: BTreeMap<SlotId, SlotInfo> = BTreeMap::new();
        for info in answers.into_iter().flatten().flatten() {
            let newer = slots.get(&info.slot).is_none_or(|other| info.term > other.term);
            if newer {
                slots.insert(info.slot, info);
            }
        }
        slots
    }

    /// What the other nodes have done of a service's last swap, and how many did not answer.
    pub async fn swap_shares(&self, service: &ServiceName) -> (Vec<SwapShare>, usize) {
        let (mut shares, mut silent) = (Vec::new(), 0);
        for (_, answer) in self.ask_all(&ControlRequest::Swap { service: service.clone() }).await {
            match answer {
                Ok(ControlResponse::Swap(Some(share))) => shares.push(share),
                _ => silent += 1,
            }
        }
        (shares, silent)
    }

    /// Moves a slot off the node that has it, and keeps it off until the next rebalance.
    ///
    /// # Errors
    /// `no-other-node` when no other node can take it; `unavailable` when none took it in time;
    /// `storage-unavailable` when the cluster's settings can't be written.
    pub async fn drain_slot(&self, slot: SlotId) -> Result<Drained, Error> {
        let mut place = self.router.watch_place(slot)?;
        let from = self.owner(slot).ok_or_else(|| {
            Error::of(Cause::NoOwner, format!("no known node owns slot {slot} right now"))
        })?;
        let nobody =
            || Error::new(Code::NoOtherNode, format!("no other node can take slot {slot}"));
        if self.members().staying().all(|member| *member.name == *from) {
            return Err(nobody());
        }
        let name: Arc<str> = from.as_str().into();
        self.change_avoid(Box::new(move |avoid| {
            avoid.insert(slot, name.clone());
        }))
        .await?;
        self.retry_everywhere(Some(slot)).await;
        let moved = place.wait_for(|place| match place {
            Place::Here => *from != *self.own,
            Place::Away { owner: Some(owner), .. } => **owner != *from,
            _ => false,
        });
        let moved = tokio::time::timeout(limits::SLOT_DRAIN_WAIT, moved).await.is_ok();
        if !moved {
            return Err(Error::of(
                Cause::GivenUp,
                format!("slot {slot} is still on {from}; check `slotd moves`"),
            ));
        }
        let info = self.slots_of_peers().await.remove(&slot);
        let term = info.as_ref().map_or(0, |info| info.term);
        let position = info.as_ref().map_or(0, |info| info.position);
        Ok(Drained { slot, term, position, to: self.owner(slot).unwrap_or_default() })
    }

    /// Forgets what was drained by hand, and looks at what should be done.
    ///
    /// # Errors
    /// `storage-unavailable` when the cluster's settings can't be written.
    pub async fn rebalance(&self) -> Result<Rebalanced, Error> {
        self.change_avoid(Box::new(Avoid::clear)).await?;
        let silent = self.retry_everywhere(None).await;
        let members = self.members();
        let view = View::new(members.number, members.on_ring(*self.steady.borrow()));
        let table = Table::new(&view, self.router.slot_count());
        let misplaced = (0..self.router.slot_count())
            .filter(|&slot| self.owner(slot).as_deref() != table.owner(slot).map(|owner| &**owner));
        let moves = misplaced.count() as u32;
        let nodes = view.nodes().len();
        let what = if moves == 1 { "slot moves" } else { "slots move" };
        let mut detail =
            format!("{moves} {what} between {nodes} nodes; follow them with `slotd moves`");
        if !silent.is_empty() {
            detail +=
                &format!("; moves that were cancelled stay cancelled on {}", silent.join(", "));
        }
        Ok(Rebalanced { view: view.number, moves, detail })
    }

    /// Cancels a move to this node: its slot stays where it is until the view changes, or somebody
    /// asks for a move of it. Whether there was such a move, that had not come too far.
    pub fn cancel_move(&self, id: u64) -> bool {
        self.moves.cancel(id, self.members.borrow().number)
    }

    /// Forgets the moves of a slot (`None`: of all) that were cancelled here.
    fn retry(&self, slot: Option<SlotId>) {
        self.moves.retry(slot);
        self.nudge();
    }

    /// As [`Self::retry`], on all nodes. Returns those that could not be reached.
    async fn retry_everywhere(&self, slot: Option<SlotId>) -> Vec<String> {
        self.retry(slot);
        let answers = self.ask_all(&ControlRequest::Retry { slot }).await.into_iter();
        answers.filter(|(_, answer)| answer.is_err()).map(|(name, _)| name.to_string()).collect()
    }

    async fn change_avoid(&self, change: AvoidChange) -> Result<(), Error> {
        (self.change_avoid)(change).await
    }

    /// Looks again at what should be done, now.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// From now on no slot is asked for or claimed, whatever the views say. A move for which the old
    /// owner has been asked goes on: nobody would serve its slot.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// # Errors
    /// This node is stopping.
    fn check_open(&self) -> Result<(), Error> {
        match *self.closed.borrow() {
            true => Err(Error::of(Cause::Stopping, "the node is stopping")),
            false => Ok(()),
        }
    }

    /// Gives all slots away; returns how many are left when it is done, or after `wait`.
    pub async fn drain(&self, wait: Duration) -> usize {
        // Its views show that it leaves only a moment later.
        self.close();
        (self.leave)();
        let until = crate::clock::now() + wait;
        let (mut moved, mut takers) = (self.router.watch_moved(), self.members.clone());
        loop {
            moved.mark_unchanged();
            takers.mark_unchanged();
            let slots = 0..self.router.slot_count();
            let left = slots.filter(|&slot| !matches!(self.router.place(slot), Place::Away { .. }));
            let left = left.count();
            let members = self.members();
            let stay = members.staying().filter(|member| member.name != self.own).count();
            if left == 0 || stay == 0 || crate::clock::now() >= until {
                return left;
            }
            tokio::select! {
                Ok(()) = moved.changed() => {}
                Ok(()) = takers.changed() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}
