//! The node's part in sealing all of a cluster's data with the key in use, and what is shown of it.
//!
//! Once all nodes keep what they write in the same way, each has its slots make snapshots that need nothing from before their
//! term, a few at a time, and notes in the registry which ones have. See `registry/sealing.rs`.

use super::Node;
use crate::{
    error::Error,
    limits,
    log::Term,
    names::SlotId,
    registry::{Reader, Registry, Sealing},
    seal::CLEAR,
    slot::Order,
    telemetry::{metrics, repeats},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Weak,
    time::Instant,
};
use tokio::sync::watch;
use utoipa::ToSchema;

/// How data is sealed, and what still needs which key.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SealInfo {
    /// The answering node.
    pub node: String,
    /// What new data is sealed with: the id of a key, or `clear text`.
    pub kept_as: String,
    /// The keys that the node has, and those that something still needs.
    pub keys: Vec<SealKey>,
    pub directory: SealDirectory,
    /// Absent on a node that stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SealCluster>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SealKey {
    pub id: String,
    /// The answering node has it.
    pub held: bool,
    /// The answering node seals with it.
    pub seals: bool,
    /// What may be sealed with it. With nothing here, and if no node seals with it, it can be deleted.
    pub needed_by: Vec<String>,
}

/// The answering node's data directory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SealDirectory {
    /// All of it is kept as new data is.
    pub done: bool,
    /// What is being done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// Rows that were looked at since the node started, and those that were written anew.
    pub looked_at: u64,
    pub rewritten: u64,
    /// Rows that can't be opened with any key.
    pub unopened: u64,
}

/// The logs and snapshots of a cluster.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SealCluster {
    /// What all of it is being kept as: the id of a key, or `clear text`.
    pub kept_as: String,
    /// All of it is.
    pub done: bool,
    /// Nodes that still keep what they write otherwise: it begins when there are none.
    pub waits_for: Vec<String>,
    pub slots_done: u32,
    pub slots: u32,
}

impl Node {
    /// How data is sealed, and what still needs which key.
    ///
    /// # Errors
    /// `storage-unavailable`: the registry can't be read.
    pub async fn sealing(&self) -> Result<SealInfo, Error> {
        let keys = self.data_dir.keys();
        let progress = self.data_dir.reseal_progress();
        let shared = match &self.registry {
            Some(registry) => registry.sealing().await?,
            None => None,
        };
        let mut needed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut need = |ids: &[String], by: String| {
            for id in ids {
                needed.entry(id.clone()).or_default().push(by.clone());
            }
        };
        if let Some(shared) = &shared {
            need(&shared.keys, "the logs and snapshots of the cluster".into());
        }
        need(&progress.sealed_with, format!("the data directory of {}", self.name));
        for (name, node) in shared.iter().flat_map(|shared| &shared.nodes) {
            if *name != self.name {
                need(&node.needs, format!("the data directory of {name}"));
            }
        }
        let held: BTreeSet<_> = keys.ids().map(|id| id.to_string()).collect();
        let all: BTreeSet<_> = held.iter().chain(needed.keys()).cloned().collect();
        let key = |id: String| SealKey {
            held: held.contains(&id),
            seals: keys.kept_as() == id,
            needed_by: needed.remove(&id).unwrap_or_default(),
            id,
        };
        let slots = self.router.slot_count();
        let readers = self.registry.as_ref().map(Registry::readers).unwrap_or_default();
        Ok(SealInfo {
            node: self.name.clone(),
            kept_as: keys.kept_as(),
            keys: all.into_iter().map(key).collect(),
            directory: SealDirectory {
                done: progress.done,
                doing: progress.doing,
                looked_at: progress.looked_at,
                rewritten: progress.rewritten,
                unopened: progress.unopened,
            },
            cluster: self.cluster.is_some().then(|| SealCluster::of(shared, &readers, slots)),
        })
    }
}

impl SealCluster {
    fn of(shared: Option<Sealing>, readers: &[Reader], slots: u16) -> Self {
        let slots = u32::from(slots);
        match shared {
            // Nothing was ever sealed.
            None => Self {
                kept_as: CLEAR.into(),
                done: true,
                waits_for: Vec::new(),
                slots_done: slots,
                slots,
            },
            Some(shared) => Self {
                waits_for: shared.others().chain(shared.unheard(readers)).map(Into::into).collect(),
                slots_done: if shared.done { slots } else { shared.slots.len() as u32 },
                kept_as: shared.kept_as,
                done: shared.done,
                slots,
            },
        }
    }
}

/// What [`keep`] remembers between two looks.
#[derive(Default)]
struct Seen {
    /// The round, from 1, and how the cluster's data was kept when it began: another one begins with each process that may
    /// write to slots and could not before.
    round: u64,
    found: Option<Sealing>,
    /// When slots were asked for the round.
    asked: BTreeMap<SlotId, Instant>,
    /// What was noted of the directory.
    needs: Option<Vec<String>>,
}

/// Has this node's slots and its directory kept as new data is, and notes it.
pub(super) async fn keep(node: Weak<Node>, instance: String, mut stopping: watch::Receiver<bool>) {
    let mut seen = Seen::default();
    let mut pause = limits::RESEAL_LOOK;
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Some(node) = node.upgrade() else { return };
        let Some(registry) = &node.registry else { return };
        let looked = tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            looked = node.look_at_sealing(registry, &instance, &mut seen) => looked,
        };
        pause = match looked {
            Ok(true) => limits::RESEAL_LOOK_DONE,
            Ok(false) => limits::RESEAL_LOOK,
            Err(error) => {
                if repeats::admit("sealing was not looked at", "sealing") {
                    tracing::warn!(%error, "can't seal the cluster's data anew now; trying again");
                }
                limits::RESEAL_LOOK
            }
        };
    }
}

impl Node {
    /// Gives whether nothing is left to do.
    async fn look_at_sealing(
        &self,
        registry: &Registry,
        instance: &str,
        seen: &mut Seen,
    ) -> Result<bool, Error> {
        let Some(shared) = registry.sealing().await? else { return Ok(true) };
        let directory = self.data_dir.reseal_progress();
        if seen.found.as_ref().is_none_or(|found| !shared.has_writers_of(found)) {
            seen.round += 1;
            seen.asked.clear();
        }
        let own = self.data_dir.keys().kept_as();
        // What some node writes otherwise may be written to any slot.
        let readers = registry.readers();
        let all_said = shared.unheard(&readers).next().is_none();
        let alike = shared.kept_as == own && shared.others().next().is_none() && all_said;
        let finished = match alike && !shared.done {
            true => self.ask_slots(&shared, seen),
            false => BTreeMap::new(),
        };
        let needs = &directory.sealed_with;
        if !finished.is_empty() || seen.needs.as_ref() != Some(needs) {
            registry.note_sealing((&self.name, instance), (&shared, &finished), needs).await?;
            metrics().slots_resealed.increment(finished.len() as u64);
            seen.needs = Some(needs.clone());
        }
        let done = shared.done && directory.done;
        seen.found = Some(shared);
        Ok(done)
    }

    /// Asks some slots to be sealed anew. Gives those that have been.
    fn ask_slots(&self, shared: &Sealing, seen: &mut Seen) -> BTreeMap<SlotId, Term> {
        let mut finished = BTreeMap::new();
        let (now, mut under_way) = (crate::clock::now(), 0);
        for (slot, handle) in self.router.all_running() {
            if shared.slots.contains_key(&slot) {
                continue;
            }
            let all_since = *handle.stats.all_since.lock();
            if let Some((_, term)) = all_since.filter(|(round, _)| *round == seen.round) {
                finished.insert(slot, term);
                continue;
            }
            if under_way >= limits::RESEAL_SLOTS_AT_A_TIME {
                continue;
            }
            under_way += 1;
            // It may have been given up, as when the slot has moved meanwhile.
            let again = |at: &Instant| now.duration_since(*at) >= limits::RESEAL_ASK_AGAIN;
            if seen.asked.get(&slot).is_none_or(again)
                && handle.try_order(Order::Reseal { round: seen.round })
            {
                seen.asked.insert(slot, now);
            }
        }
        finished
    }
}
