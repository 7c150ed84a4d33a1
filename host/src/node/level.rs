//! The node's part in the feature level ([`crate::level`]): who can read what, and when it is raised.
//!
//! An operator raises it, or it rises automatically once every reader could read it for
//! `level_wait`: until then every node can be downgraded.

use super::Node;
use crate::{
    cluster::reports::{LevelInfo, LevelOf},
    error::{Code, Error},
    level::{self, Level},
    limits,
    peer::member::Member,
    registry::{self, Reader},
    telemetry::repeats,
};
use std::{collections::HashMap, sync::Weak, time::Instant};
use tokio::sync::watch;

impl Node {
    /// The current level, and what each node can read.
    pub fn level(&self) -> LevelInfo {
        let level = self.context.level.get();
        let nodes = self.readers();
        let may_rise_to = next(level).filter(|&to| short_of(to, &nodes).next().is_none());
        LevelInfo { level, may_rise_to, nodes }
    }

    fn readers(&self) -> Vec<LevelOf> {
        let Some((cluster, registry)) = self.cluster.as_ref().zip(self.registry.as_ref()) else {
            return vec![LevelOf { node: self.name.clone(), reads: level::NEWEST }];
        };
        let members = cluster.members();
        let reads = members.alive.iter().map(|member| LevelOf {
            node: member.name.to_string(),
            reads: match *member.name == *self.name {
                true => level::NEWEST,
                false => registry.reads(&member.name, member.instance),
            },
        });
        reads.collect()
    }

    /// Raises the level permanently, by default to the next one.
    ///
    /// # Errors
    /// `request-invalid`: there is no such level, or the node does not know it; `level-unreadable`:
    /// some nodes can't read it; `unavailable`: slots are moving, or are owned by nodes that this
    /// one does not see; `storage-unavailable`, `outcome-unknown`: it can't be written.
    pub async fn raise_level(&self, to: Option<Level>) -> Result<LevelInfo, Error> {
        let level = self.context.level.get();
        let to = to.or_else(|| next(level)).unwrap_or(level);
        if !(level..=level::NEWEST).contains(&to) {
            return Err(Error::new(
                Code::RequestInvalid,
                format!(
                    "the level is {level} and can be raised up to {}, which is what this slotd \
                     reads; it is never lowered",
                    level::NEWEST
                ),
            ));
        }
        let readers = self.readers();
        let short = short_of(to, &readers);
        let short: Vec<_> =
            short.map(|of| format!("{} reads up to {}", of.node, of.reads)).collect();
        if !short.is_empty() {
            return Err(Error::new(
                Code::LevelUnreadable,
                format!(
                    "not every node can read level {to}: {}; upgrade them first",
                    short.join(", ")
                ),
            ));
        }
        if to > level {
            // A part of a cluster that does not see the rest must not decide for it.
            if let Some(cluster) = &self.cluster
                && !cluster.has_all_slots().await
            {
                return Err(Error::new(
                    Code::Unavailable,
                    "the nodes that this one sees do not have every slot: see `slotd nodes`, and \
                     raise the level when the cluster is whole",
                ));
            }
            self.write_level(to).await?;
            tracing::info!(from = level, to, "the feature level was raised");
        }
        Ok(self.level())
    }

    async fn write_level(&self, to: Level) -> Result<(), Error> {
        if let Some(registry) = &self.registry {
            return registry.raise_level(to).await.map(drop);
        }
        let data_dir = self.data_dir.clone();
        let raised = crate::task::blocking(move || data_dir.raise_level(to)).await;
        let raised = raised.map_err(|_| Error::internal("the level was not written"))?;
        raised.map_err(|e| {
            Error::new(Code::StorageUnavailable, format!("the data directory's identity: {e}"))
        })
    }
}

/// Nodes that can't read a level.
fn short_of(level: Level, readers: &[LevelOf]) -> impl Iterator<Item = &LevelOf> {
    readers.iter().filter(move |reader| reader.reads < level)
}

/// The level after this one that this build knows.
fn next(level: Level) -> Option<Level> {
    (level < level::NEWEST).then_some(level + 1)
}

/// What a cluster node does about the level besides raising it.
pub struct LevelDuties {
    /// Reads what this process has published about itself.
    pub reader: Reader,
    /// Orders a process that can't read the level to exit.
    pub expel: Box<dyn Fn(u128) + Send + Sync>,
}

/// What [`keep`] remembers between two checks.
#[derive(Default)]
struct Seen {
    /// Since when the level could be raised.
    able_since: Option<Instant>,
    /// Since when each member has seemed too old; information on a new member may be outdated.
    doubted: HashMap<u128, Instant>,
}

/// Raises the level automatically, ends the node when the level is too new for it, and orders
/// processes that can't read it to exit.
pub(super) async fn keep(
    node: Weak<Node>,
    duties: Option<LevelDuties>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut seen = Seen::default();
    let mut tick = tokio::time::interval(limits::LEVEL_LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            _ = tick.tick() => {}
        }
        let Some(node) = node.upgrade() else { return };
        let level = node.context.level.get();
        if level > level::NEWEST {
            node.fatal.send_replace(Some(registry::too_old(level)));
            return;
        }
        // It may wait for JetStream.
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = node.look_at_level(level, duties.as_ref(), &mut seen) => {}
        }
    }
}

impl Node {
    async fn look_at_level(&self, level: Level, duties: Option<&LevelDuties>, seen: &mut Seen) {
        if let Some((duties, registry)) = duties.zip(self.registry.as_ref()) {
            // Another process of this name may have overwritten it before it was refused.
            if !registry.knows(&duties.reader)
                && let Err(error) = registry.introduce(&duties.reader).await
            {
                tracing::debug!(%error, "what this node reads can't be written to the registry now");
            }
            self.expel_old(level, &mut seen.doubted, duties).await;
        }
        let settled = self.cluster.as_ref().is_none_or(|cluster| cluster.is_settled());
        let able = settled && self.ready().is_ok() && self.level().may_rise_to.is_some();
        let since = able.then(|| seen.able_since.unwrap_or_else(crate::clock::now));
        seen.able_since = since;
        if since.is_some_and(|since| since.elapsed() >= self.options.level_wait)
            // Another node may have been first, which is fine.
            && let Err(error) = self.raise_level(None).await
            && repeats::admit("the feature level was not raised", "levels")
        {
            tracing::warn!(%error, "can't raise the feature level; trying again");
        }
    }

    /// Members that can't read the level, because they were away when it was raised or joined at
    /// that moment.
    async fn expel_old(
        &self,
        level: Level,
        doubted: &mut HashMap<u128, Instant>,
        duties: &LevelDuties,
    ) {
        let Some((cluster, registry)) = self.cluster.as_ref().zip(self.registry.as_ref()) else {
            return;
        };
        let members = cluster.members();
        let others = members.alive.iter().filter(|member| *member.name != *self.name);
        let short = |member: &&Member| registry.reads(&member.name, member.instance) < level;
        let short: Vec<&Member> = others.filter(short).collect();
        doubted.retain(|instance, _| short.iter().any(|member| member.instance == *instance));
        for member in short {
            let since = *doubted.entry(member.instance).or_insert_with(crate::clock::now);
            if since.elapsed() < limits::EXPEL_AFTER {
                continue;
            }
            let reads = registry.reads_now(&member.name, member.instance).await;
            if reads.is_ok_and(|reads| reads < level) {
                if repeats::admit("a node is too old for the feature level", &member.name) {
                    tracing::error!(
                        node = %member.name, version = %member.version, level,
                        "a node can't read what the others write and is ordered to exit; upgrade it"
                    );
                }
                (duties.expel)(member.instance);
            }
        }
    }
}
