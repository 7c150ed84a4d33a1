//! The ring: a pure function from a membership view to a slot table.
//!
//! The ring only *proposes* an owner; a claim in the slot's log decides. Two nodes with the same
//! view compute the same table, whatever order they learnt of each other in, on whatever machine
//! and compiler: every hash is XXH3-64 over bytes that are written out here, pinned by golden tests.
//!
//! 1. Each node stands on the ring at [`VIRTUAL_NODES`] points; a slot prefers the node at the
//!    first point clockwise of its own.
//! 2. A plain ring is uneven (the busiest of 8 nodes has 1.22 times the mean, of 32 nodes 1.57
//!    times), so no node keeps more than [`cap`] slots. Where more prefer it, it keeps those that
//!    hash lowest with it, and the rest go clockwise, in their own pinned order, to the first
//!    node that has room. Slots that stay where they prefer to be never make way for others.

mod hash;
#[cfg(test)]
mod moves;
mod ranges;
#[cfg(test)]
mod tests;

pub use ranges::format_ranges;

use crate::names::SlotId;
use hash::{PinnedHash, Point};
use hashring::HashRing;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
    sync::Arc,
};
use utoipa::ToSchema;

/// Names this function, its hash and its constants. It travels with membership; nodes whose
/// schemes differ compute different tables and refuse to join each other.
pub const RING_SCHEME: &str = "hashring-xxh3-v128-b110-1";
/// Points of each node on the ring.
pub const VIRTUAL_NODES: u32 = 128;
/// The most slots that a node may have, in percent of the mean.
pub const CAP_PERCENT: u64 = 110;

/// A numbered set of live nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Rises with every change of the membership.
    pub number: u64,
    /// Sorted, without repeats.
    nodes: Arc<[Arc<str>]>,
}

impl View {
    /// Order and repeats of `nodes` do not matter. At most `u16::MAX - 1` nodes count; membership
    /// bounds them far below.
    pub fn new(number: u64, nodes: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        let mut nodes: Vec<Arc<str>> = nodes.into_iter().map(Into::into).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.truncate(usize::from(NOBODY));
        Self { number, nodes: nodes.into() }
    }
    /// Sorted, without repeats.
    pub fn nodes(&self) -> &[Arc<str>] {
        &self.nodes
    }
}

/// Stands for "no node" in [`Table::owners`].
const NOBODY: u16 = u16::MAX;

/// The owner that the ring proposes for every slot. A look-up is an array index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    view: View,
    cap: u32,
    /// Index into the view's nodes, by slot.
    owners: Box<[u16]>,
}

/// The most slots that one of `nodes` nodes may have: `ceil(mean * 1.10)` or all there are, in whole
/// numbers so that no rounding mode has a part in it. 0 without nodes.
pub fn cap(slot_count: u16, nodes: usize) -> u32 {
    match nodes as u64 {
        0 => 0,
        n => {
            let slots = u64::from(slot_count);
            (slots * CAP_PERCENT).div_ceil(n * 100).min(slots) as u32
        }
    }
}

impl Table {
    /// Computes the table of a view; once per view. About 2 ms for 512 slots and 32 nodes.
    pub fn new(view: &View, slot_count: u16) -> Self {
        Self::with_cap(view, slot_count, cap(slot_count, view.nodes.len()))
    }

    /// The caps of all nodes must add up to the slots at least.
    fn with_cap(view: &View, slot_count: u16, cap: u32) -> Self {
        let mut table =
            Self { view: view.clone(), cap, owners: vec![NOBODY; usize::from(slot_count)].into() };
        match view.nodes.len() {
            0 => {}
            1 => table.owners.fill(0),
            _ => table.place(),
        }
        table
    }

    fn place(&mut self) {
        let nodes = Arc::clone(&self.view.nodes);
        let mut points: Vec<Point> = (0..nodes.len())
            .flat_map(|node| (0..VIRTUAL_NODES).map(move |index| (node, index)))
            .map(|(node, index)| Point::of_node(node as u16, &nodes[node], index))
            .collect();
        let mut ring = HashRing::with_hasher(PinnedHash);
        // One sort for all, of a list whose order is fixed: points that collide stay in that order.
        ring.batch_add(points.clone());

        // What each slot prefers, and by node the slots that prefer it.
        let mut preferred: Vec<Point> = Vec::with_capacity(self.owners.len());
        let mut wanted: Vec<Vec<SlotId>> = vec![Vec::new(); nodes.len()];
        for slot in 0..self.owners.len() as u16 {
            let Some(point) = ring.get(&Point::of_slot(slot)) else { return };
            wanted[usize::from(point.node)].push(slot);
            preferred.push(point.clone());
        }

        let cap = self.cap as usize;
        let mut room: Vec<usize> = Vec::with_capacity(nodes.len());
        let mut homeless: Vec<SlotId> = Vec::new();
        for (node, mut slots) in wanted.into_iter().enumerate() {
            if slots.len() > cap {
                slots.sort_by_cached_key(|&slot| (hash::affinity(slot, &nodes[node]), slot));
                homeless.extend(slots.drain(cap..));
            }
            room.push(cap - slots.len());
            slots.into_iter().for_each(|slot| self.owners[usize::from(slot)] = node as u16);
        }
        if homeless.is_empty() {
            return;
        }

        // Clockwise from the preferred point to the first node with room. The caps add up to more
        // than there are slots, so there always is one.
        homeless.sort_by_cached_key(|&slot| (hash::priority(slot), slot));
        // The ring does not show its points under a hasher of our own; this is its order (stable too).
        points.sort_by_cached_key(|point| PinnedHash.hash_one(point));
        let clockwise = points;
        let place_of: HashMap<(u16, u32), usize> =
            clockwise.iter().enumerate().map(|(i, p)| ((p.node, p.index), i)).collect();
        for slot in homeless {
            let from = &preferred[usize::from(slot)];
            let start = place_of.get(&(from.node, from.index)).copied().unwrap_or_default();
            let free = clockwise[start..]
                .iter()
                .chain(&clockwise[..start])
                .find(|point| room[usize::from(point.node)] > 0);
            if let Some(point) = free {
                room[usize::from(point.node)] -= 1;
                self.owners[usize::from(slot)] = point.node;
            }
        }
    }

    /// The table with slots kept off nodes that an operator drained them from: each goes to the
    /// node that has the fewest then, the first by name among several.
    #[must_use]
    pub fn avoiding(mut self, avoid: &BTreeMap<SlotId, Arc<str>>) -> Self {
        let nodes = Arc::clone(&self.view.nodes);
        let mut load = vec![0_u32; nodes.len()];
        for &owner in &self.owners {
            if let Some(load) = load.get_mut(usize::from(owner)) {
                *load += 1;
            }
        }
        for (&slot, from) in avoid {
            if self.owner(slot) != Some(from) {
                continue;
            }
            let others = (0..nodes.len()).filter(|&node| nodes[node] != *from);
            let Some(to) = others.min_by_key(|&node| load[node]) else { continue };
            let old = std::mem::replace(&mut self.owners[usize::from(slot)], to as u16);
            load[usize::from(old)] -= 1;
            load[to] += 1;
        }
        self
    }

    pub fn view(&self) -> &View {
        &self.view
    }
    pub fn slot_count(&self) -> u16 {
        self.owners.len() as u16
    }
    /// The most slots that a node of this table may have.
    #[cfg(test)]
    pub fn cap(&self) -> u32 {
        self.cap
    }
    /// The node that should have `slot`. `None`: the view is empty, or there is no such slot.
    pub fn owner(&self, slot: SlotId) -> Option<&Arc<str>> {
        let node = *self.owners.get(usize::from(slot))?;
        self.view.nodes.get(usize::from(node))
    }
    /// The slots that `node` should have, in order.
    pub fn slots_of(&self, node: &str) -> Vec<SlotId> {
        let Ok(node) = self.view.nodes.binary_search_by(|n| (**n).cmp(node)) else {
            return Vec::new();
        };
        self.owners
            .iter()
            .enumerate()
            .filter_map(|(slot, &owner)| (usize::from(owner) == node).then_some(slot as SlotId))
            .collect()
    }
    /// What `slotd ring` and the admin API show.
    pub fn info(&self) -> RingInfo {
        let node = |name: &Arc<str>| {
            let slots = self.slots_of(name);
            RingNode {
                node: name.to_string(),
                slots: slots.len() as u32,
                ranges: format_ranges(&slots),
            }
        };
        RingInfo {
            scheme: RING_SCHEME.into(),
            view: self.view.number,
            slot_count: self.slot_count(),
            virtual_nodes: VIRTUAL_NODES,
            cap: self.cap,
            nodes: self.view.nodes.iter().map(node).collect(),
        }
    }
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RingInfo {
    pub scheme: String,
    /// The view's number.
    pub view: u64,
    pub slot_count: u16,
    pub virtual_nodes: u32,
    /// The most slots that a node may have.
    pub cap: u32,
    pub nodes: Vec<RingNode>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RingNode {
    pub node: String,
    pub slots: u32,
    /// As ranges, `0-511`.
    pub ranges: String,
}
