//! The node's part in the feature level ([`crate::level`]): who can read what, and when it is raised.
//!
//! An operator raises it, or it rises automatically once every reader could read it for
//! `level_wait`: until then every node can be downgraded.

use super::Node;
use crate::{
    audit,
    cluster::reports::{LevelInfo, LevelOf, NodeForgotten},
    error::{Code, Error},
    level::{self, Level},
    limits,
    peer::member::{Member, Members},
    registry::{self, Reader, Registry},
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

    /// The current level alone.
    pub fn level_now(&self) -> Level {
        self.context.level.get()
    }

    fn readers(&self) -> Vec<LevelOf> {
        let Some((cluster, registry)) = self.cluster.as_ref().zip(self.registry.as_ref()) else {
            return vec![LevelOf { node: self.name.clone(), reads: level::NEWEST, away: false }];
        };
        let reads = |member: &Member| match *member.name == *self.name {
            true => level::NEWEST,
            false => registry.reads(&member.name, member.instance),
        };
        all_readers(&cluster.members(), reads, registry.readers())
    }

    /// Removes what is known of a node that is gone for good: the level waits for it no more.
    ///
    /// # Errors
    /// `node-alive`; `node-not-found` if nothing is known of it; `storage-unavailable`,
    /// `outcome-unknown`.
    pub async fn forget_node(&self, node: &str) -> Result<NodeForgotten, Error> {
        let is_alive = match &self.cluster {
            Some(cluster) => cluster.members().get(node).is_some(),
            None => node == self.name,
        };
        if is_alive {
            return Err(Error::new(
                Code::NodeAlive,
                format!("node {node} is alive; `slotd node drain {node}` stops it"),
            ));
        }
        let forgotten = match &self.registry {
            Some(registry) => registry.forget(node).await?,
            None => None,
        };
        let Some(reader) = forgotten else {
            return Err(Error::new(
                Code::NodeNotFound,
                format!("nothing is known of a node {node:?}; `slotd level` lists those that are"),
            ));
        };
        tracing::info!(node, reads = reader.newest, "an operator had a node forgotten");
        Ok(NodeForgotten { node: node.to_owned(), reads: reader.newest })
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
            short.map(|of| format!("{} reads up to {}", describe(of), of.reads)).collect();
        if !short.is_empty() {
            let gone = match readers.iter().any(|of| of.away) {
                true => ", or `slotd node forget` those that are gone for good",
                false => "",
            };
            let short = short.join(", ");
            return Err(Error::new(
                Code::LevelUnreadable,
                format!("not every node can read level {to}: {short}; upgrade them first{gone}"),
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

/// What every node can read: the members, and those that are away and may come back as they were.
fn all_readers(
    members: &Members,
    reads: impl Fn(&Member) -> Level,
    known: Vec<Reader>,
) -> Vec<LevelOf> {
    let alive = members.alive.iter().map(|member| LevelOf {
        node: member.name.to_string(),
        reads: reads(member),
        away: false,
    });
    let away = known.into_iter().filter(|reader| members.get(&reader.name).is_none());
    let away = away.map(|reader| LevelOf {
        node: reader.name.to_string(),
        reads: reader.newest,
        away: true,
    });
    alive.chain(away).collect()
}

fn describe(of: &LevelOf) -> String {
    match of.away {
        true => format!("{}, which is away,", of.node),
        false => of.node.clone(),
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
    /// To which level it could be raised, and since when.
    able_since: Option<(Level, Instant)>,
    /// When this node's record was last written, and old ones removed.
    refreshed: Option<Instant>,
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
            // Another process of this name may have overwritten it before it was refused, or an operator
            // removed it who does not see this node.
            let since = |at: Instant| at.elapsed() >= limits::NODE_RECORD_REFRESH;
            let is_old = seen.refreshed.is_some_and(since);
            if is_old || !registry.knows(&duties.reader) {
                match registry.introduce(&duties.reader).await {
                    Ok(()) => seen.refreshed = None,
                    Err(error) => tracing::debug!(
                        %error,
                        "what this node reads can't be written to the registry now"
                    ),
                }
            }
            if seen.refreshed.is_none() {
                seen.refreshed = Some(crate::clock::now());
                self.forget_old_nodes(registry).await;
            }
            self.expel_old(level, &mut seen.doubted, duties).await;
        }
        let settled = self.cluster.as_ref().is_none_or(|cluster| cluster.is_settled());
        let able = if settled && self.ready().is_ok() { self.level().may_rise_to } else { None };
        // Each level has its own wait: some node may not have read it for as long as the one before.
        let same = |to| seen.able_since.filter(|(known, _)| *known == to);
        let since = able.map(|to| same(to).unwrap_or_else(|| (to, crate::clock::now())));
        seen.able_since = since;
        if since.is_none_or(|(_, since)| since.elapsed() < self.options.level_wait) {
            return;
        }
        match self.raise_level(None).await {
            // Another node may have been first, which is fine.
            Ok(raised) if raised.level <= level => {}
            Ok(raised) => {
                let mut change = audit::Change::event("level-raised");
                change.before.insert("level".into(), level.into());
                change.after.insert("level".into(), raised.level.into());
                self.audit.note(change).await;
            }
            Err(error) if repeats::admit("the feature level was not raised", "levels") => {
                tracing::warn!(%error, "can't raise the feature level; trying again");
            }
            Err(_) => {}
        }
    }

    async fn forget_old_nodes(&self, registry: &Registry) {
        let members = self.cluster.as_ref().map(|cluster| cluster.members());
        // One that sees nobody else can't say who is gone.
        if members.as_ref().is_none_or(|all| all.alive.len() < 2) {
            return;
        }
        let lives = |name: &str| members.as_ref().is_some_and(|all| all.get(name).is_some());
        match registry.forget_old(lives).await {
            Ok(forgotten) => {
                for reader in forgotten {
                    let (node, reads) = (&reader.name, reader.newest);
                    tracing::info!(%node, reads, "a node was away for long and is forgotten");
                    let mut change = audit::Change::event("node-forgotten");
                    change.subject.insert("node".into(), node.to_string());
                    change.before.insert("reads".into(), reads.into());
                    self.audit.note(change).await;
                }
            }
            // The next day, or another node.
            Err(error) => tracing::debug!(%error, "old records of nodes can't be removed now"),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The level would rise past a node that is away for maintenance, which could then not come back
    /// without an upgrade.
    #[test]
    fn those_that_are_away_are_waited_for() {
        let address = "127.0.0.1:1".parse().unwrap();
        let member = |name: &str| Member {
            name: name.into(),
            peer: address,
            api: address,
            boot: 1,
            instance: 1,
            leaving: false,
            unfit: None,
            version: "1".into(),
        };
        let members =
            Members { number: 1, own: "a".into(), alive: [member("a"), member("b")].into() };
        let reader = |name: &str, newest| Reader {
            name: name.into(),
            newest,
            instance: String::new(),
            version: "1".into(),
        };
        // A member counts by what its process reads, whatever one before it has left.
        let known = vec![reader("b", 1), reader("c", 1), reader("d", 2)];
        let all = all_readers(&members, |_| 2, known);
        let shown: Vec<_> = all.iter().map(|of| (&*of.node, of.reads, of.away)).collect();
        assert_eq!(shown, [("a", 2, false), ("b", 2, false), ("c", 1, true), ("d", 2, true)]);
        let short: Vec<_> = short_of(2, &all).map(describe).collect();
        assert_eq!(short, ["c, which is away,"]);
    }
}
