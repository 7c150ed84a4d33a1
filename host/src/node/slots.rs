//! Requests of operators on slots.

use super::*;
use crate::slot::seat::SeatPhase;

impl Node {
    pub async fn slots(&self) -> Result<Vec<SlotInfo>, Error> {
        let Some(cluster) = &self.cluster else {
            return (0..self.router.slot_count()).map(|slot| self.slot_info(slot)).collect();
        };
        let mut slots: BTreeMap<SlotId, SlotInfo> = cluster.slots_of_peers().await;
        for slot in 0..self.router.slot_count() {
            let own = self.slot_info(slot)?;
            // The greater term is the owner, whatever each node believes. A copy that follows an
            // owner elsewhere has the owner's term, and is behind.
            let newer = slots
                .get(&slot)
                .is_none_or(|other| own.state != SlotInfo::UNKNOWN && own.term > other.term);
            if newer {
                slots.insert(slot, own);
            }
        }
        Ok(slots.into_values().collect())
    }

    /// # Errors
    /// `slot-not-found`.
    pub async fn slot(&self, slot: SlotId) -> Result<SlotInfo, Error> {
        let own = self.slot_info(slot)?;
        let Some(cluster) = self.cluster.as_ref().filter(|_| own.state != "running") else {
            return Ok(own);
        };
        Ok(cluster.slots_of_peers().await.remove(&slot).unwrap_or(own))
    }

    pub(super) fn slot_info(&self, slot: SlotId) -> Result<SlotInfo, Error> {
        let owner = match &self.cluster {
            Some(cluster) => cluster.owner(slot).unwrap_or_default(),
            None => self.name.clone(),
        };
        if let Some(running) = self.router.running(slot)? {
            let stats = &running.stats;
            let state = match self.router.phase(slot)? {
                SeatPhase::Opening { .. } => "opening",
                SeatPhase::Serving { .. } => "running",
                _ => "draining",
            };
            let active = stats.active.lock();
            let shown = active.iter().filter(|(_, (_, label))| **label != *REMOVED_LABEL);
            let plugins = shown.map(|(s, (_, l))| (s.to_string(), l.to_string())).collect();
            return Ok(SlotInfo {
                slot,
                owner,
                state: state.into(),
                term: stats.term.load(Ordering::Relaxed),
                position: stats.position.load(Ordering::Relaxed),
                applied: stats.applied.load(Ordering::Relaxed),
                mailbox: running.mailbox_depth(),
                sessions: stats.sessions.load(Ordering::Relaxed),
                plugins,
            });
        }
        let meta = self.context.store.slot(slot)?;
        let catalogue = &self.context.catalogue;
        let label = |a: &crate::log::record::Activate| catalogue.label(&a.service, a.deployment);
        let active = meta.active.values().filter(|active| active.deployment != REMOVED);
        Ok(SlotInfo {
            slot,
            state: if owner == self.name { "stopped" } else { SlotInfo::UNKNOWN }.into(),
            owner,
            term: meta.term,
            position: meta.applied,
            applied: meta.applied,
            mailbox: 0,
            sessions: meta.sessions,
            plugins: active.map(|a| (a.service.to_string(), label(a).to_string())).collect(),
        })
    }

    /// Moves a slot to another node. On a standalone node for test suites, it is drained and starts
    /// again there: it finishes its work, writes a release record and stops its task. Mail that
    /// arrives meanwhile is held for the next task, not refused.
    ///
    /// # Errors
    /// `slot-not-found`; `no-other-node`; or why the last commit failed.
    pub async fn drain_slot(&self, slot: SlotId) -> Result<Drained, Error> {
        if let Some(cluster) = &self.cluster {
            return cluster.drain_slot(slot).await;
        }
        if !self.options.resettable {
            // First check that the slot exists.
            self.router.running(slot)?;
            return Err(Error::new(
                Code::NoOtherNode,
                format!("no other node can take slot {slot}"),
            ));
        }
        let (reply, drained) = oneshot::channel();
        self.router.order(slot, Order::Stop { release: true, loaded: None, reply }).await?;
        let (term, position) = drained.await.unwrap_or_else(|_| Err(gone(Purpose::Step)))?;
        Ok(Drained { slot, term, position, to: self.name.clone() })
    }

    /// Applies the ring's proposal, including to slots that were drained by hand. A standalone node
    /// has nowhere to move them.
    ///
    /// # Errors
    /// `storage-unavailable` when the cluster's settings can't be written.
    pub async fn rebalance(&self) -> Result<Rebalanced, Error> {
        match &self.cluster {
            Some(cluster) => cluster.rebalance().await,
            None => Ok(Rebalanced {
                view: self.table.view().number,
                moves: 0,
                detail: format!("{} is the only node and owns every slot", self.name),
            }),
        }
    }

    /// The view of every node of the cluster; on a standalone node, its own.
    pub async fn nodes(&self) -> NodesInfo {
        let not_ready = self.ready().err().map(|error| error.detail.into_owned());
        if let Some(cluster) = &self.cluster {
            return cluster.nodes(not_ready).await;
        }
        let slots = u32::from(self.router.slot_count());
        let view = NodeView {
            node: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            peer: String::new(),
            api: String::new(),
            view: self.table.view().number,
            members: vec![self.name.clone()],
            leaving: Vec::new(),
            owned: slots,
            proposed: slots,
            moving: 0,
            not_ready,
            unfit: None,
            links: None,
        };
        NodesInfo { own: self.name.clone(), nodes: vec![view], silent: Vec::new() }
    }

    /// The moves of all nodes: every one in progress, and at most `ended_max` others.
    pub async fn moves(&self, ended_max: usize) -> MovesInfo {
        let Some(cluster) = &self.cluster else { return MovesInfo::default() };
        let (mut moves, mut silent) = (cluster.moves.list(), Vec::new());
        for (node, answer) in cluster.ask_all(&ControlRequest::Moves).await {
            match answer {
                Ok(ControlResponse::Moves(answer)) => moves.extend(answer),
                Ok(_) => {}
                Err(error) => {
                    silent.push(SilentNode { node: node.to_string(), why: error.detail.into() });
                }
            }
        }
        MovesInfo::new(moves, silent, ended_max)
    }

    /// Cancels a move to `node`: its slot stays where it is until the view changes, the slot is
    /// drained, or the cluster rebalanced. A takeover starts again, because no node serves its
    /// slot.
    ///
    /// # Errors
    /// `node-not-found`, `move-not-found`; `move-too-late` once the old owner was asked to release
    /// the slot; `unavailable` if the node does not answer.
    pub async fn cancel_move(&self, node: &str, id: u64) -> Result<MoveCancelled, Error> {
        self.require_node(node)?;
        let own = self.cluster.as_ref().filter(|_| node == self.name);
        let cancelled = match (own, &self.cluster) {
            (Some(cluster), _) => cluster.cancel_move(id),
            (None, Some(cluster)) => {
                matches!(
                    cluster.ask(node, &ControlRequest::CancelMove { id }).await?,
                    ControlResponse::Cancelled(true)
                )
            }
            (None, None) => false,
        };
        if cancelled {
            return Ok(MoveCancelled { node: node.to_owned(), id });
        }
        let known = match (own, &self.cluster) {
            (Some(cluster), _) => cluster.moves.list(),
            (None, Some(cluster)) => match cluster.ask(node, &ControlRequest::Moves).await? {
                ControlResponse::Moves(moves) => moves,
                _ => Vec::new(),
            },
            (None, None) => Vec::new(),
        };
        Err(match known.iter().find(|info| info.id == id) {
            None => Error::new(Code::MoveNotFound, format!("node {node} has no move {id}")),
            Some(info) if info.state.has_ended() => {
                Error::new(Code::MoveTooLate, format!("move {id} of slot {} is over", info.slot))
            }
            Some(info) => Error::new(
                Code::MoveTooLate,
                format!("move {id} of slot {} is in its last steps and ends soon", info.slot),
            ),
        })
    }

    /// Makes a node hand over all its slots and end, as SIGTERM does. Returns when it has begun.
    ///
    /// # Errors
    /// `node-not-found`; `no-other-node` to take the slots; `unavailable` if it does not answer.
    pub async fn drain_node(&self, node: &str) -> Result<NodeDraining, Error> {
        self.require_node(node)?;
        let mut takers = Vec::new();
        if let Some(cluster) = &self.cluster {
            let members = cluster.members();
            let others = members.staying().filter(|member| *member.name != *node);
            takers.extend(others.map(|member| member.name.to_string()));
        }
        let Some(cluster) = self.cluster.as_ref().filter(|_| !takers.is_empty()) else {
            return Err(Error::new(
                Code::NoOtherNode,
                format!(
                    "no other node can take the slots of {node}; to stop it anyway, send SIGTERM"
                ),
            ));
        };
        let owned = |slot: &SlotId| cluster.owner(*slot).as_deref() == Some(node);
        let slots = (0..self.router.slot_count()).filter(owned).count() as u32;
        if node == self.name {
            self.drained.send_replace(true);
        } else {
            cluster.ask(node, &ControlRequest::Drain).await?;
        }
        Ok(NodeDraining { node: node.to_owned(), slots, takers })
    }

    fn require_node(&self, node: &str) -> Result<(), Error> {
        let known = match &self.cluster {
            Some(cluster) => cluster.members().get(node).is_some(),
            None => node == self.name,
        };
        let unknown = || {
            Error::new(
                Code::NodeNotFound,
                format!("{} knows no node {node:?}; `slotd nodes` lists them", self.name),
            )
        };
        known.then_some(()).ok_or_else(unknown)
    }

    /// Resolves when an operator or a peer has ordered this node to hand over everything and end.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut drained = self.drained.subscribe();
        async move {
            if drained.wait_for(|drained| *drained).await.is_err() {
                // The node ended without an order.
                std::future::pending().await
            }
        }
    }

    pub fn ring(&self) -> RingInfo {
        self.cluster.as_ref().map_or_else(|| self.table.info(), |cluster| cluster.table().info())
    }
}
