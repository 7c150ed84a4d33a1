//! What happens to a service's sessions when another version becomes current. Checked before a
//! deploy or rollback becomes durable.

use super::*;
use crate::{
    gate_report::{Mode, Want},
    plugin::Migrates,
    service::{
        canary::CanaryOptions,
        compatibility::{Migrate, takes_over},
    },
    slot::SlotHandle,
};

/// An operator's options for a deploy or rollback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeployOptions {
    /// Continue even if sessions will stay on their version.
    pub force: bool,
    /// The version reads the state of every other version unchanged.
    pub same_state: bool,
    pub by: Author,
    /// Of the component, not checked yet.
    pub signature: Option<Vec<u8>>,
    /// Try it in some of the slots first. Of a deploy.
    pub canary: Option<CanaryOptions>,
    pub gate: GateOptions,
}

/// What a deploy asks of the gate, over what the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateOptions {
    pub mode: Option<Mode>,
    /// In addition.
    pub accept: Vec<Want>,
    pub sessions: Option<u64>,
    pub messages: Option<u64>,
    pub seed: Option<u64>,
    pub time_ms: Option<u64>,
    pub threads: Option<usize>,
    /// The gate, and no more.
    pub dry_run: bool,
    /// What differs is to be confirmed before slots switch.
    pub confirm: bool,
}

impl DeployOptions {
    pub(super) fn change(&self) -> Change {
        Change { same_state: self.same_state, by: self.by.clone(), now_ms: now_ms(), signer: None }
    }
}

impl Node {
    /// How many sessions run on each deployment of a service, over all nodes, and which nodes did
    /// not answer. It reads every session's head: some two seconds per million on each node, off
    /// the serving threads.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn count_sessions(
        &self,
        service: &ServiceName,
    ) -> Result<(SessionCounts, Vec<SilentNode>), Error> {
        let Some(cluster) = &self.cluster else {
            return Ok((self.count_here(service.clone()).await?, Vec::new()));
        };
        let (counted, is_whole) =
            cluster.over_all_slots(self.count_everywhere(cluster, service)).await;
        let (counts, mut silent) = counted?;
        if silent.is_empty() && !is_whole {
            let why = "slots move, or have no owner yet".into();
            silent.push(SilentNode { node: cluster.own().to_string(), why });
        }
        Ok((counts, silent))
    }

    async fn count_everywhere(
        &self,
        cluster: &Cluster,
        service: &ServiceName,
    ) -> Result<(SessionCounts, Vec<SilentNode>), Error> {
        let mut counts = self.count_here(service.clone()).await?;
        let mut silent = Vec::new();
        let ask = ControlRequest::Sessions { service: service.clone() };
        for (node, answer) in cluster.ask_all_within(&ask, limits::SESSIONS_COUNT_WAIT).await {
            match answer {
                Ok(ControlResponse::Sessions(theirs)) => {
                    for (id, count) in theirs {
                        counts.entry(id).or_default().add(count);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let why = error.detail.into();
                    silent.push(SilentNode { node: node.to_string(), why });
                }
            }
        }
        Ok((counts, silent))
    }

    /// As [`Node::count_sessions`], for the local slots.
    pub(super) fn count_here(
        &self,
        service: ServiceName,
    ) -> impl Future<Output = Result<SessionCounts, Error>> + Send + use<> {
        let slots: Vec<SlotId> = match &self.cluster {
            Some(cluster) => cluster.here().collect(),
            None => (0..self.router.slot_count()).collect(),
        };
        let (router, context) = (self.router.clone(), self.context.clone());
        async move {
            flush(&router, &slots).await;
            let count = move || {
                let mut all = SessionCounts::new();
                for slot in slots {
                    for (id, count) in context.store.count_sessions(slot, &service)? {
                        all.entry(id).or_default().add(count);
                    }
                }
                Ok::<_, Error>(all)
            };
            let counted = crate::task::blocking(count).await;
            counted.map_err(|e| Error::internal(format!("counting failed: {e}")))?
        }
    }

    /// What happens to the sessions of a service under `target`, a deployment of `next`'s, whose plugin is
    /// `plugin`: those that run on another one.
    ///
    /// # Errors
    /// Unless forced: `sessions-would-stay` if some would stay behind; `unavailable` if a node does
    /// not answer.
    pub(super) async fn outlook(
        &self,
        next: &Service,
        target: &Deployment,
        plugin: &Plugin,
        options: &DeployOptions,
    ) -> Result<Vec<SessionsOutlook>, Error> {
        let goes_back = |from: &Deployment| {
            takes_over(Migrate::None, &from.version, &target.version, target.same_state).is_err()
        };
        // A later version takes over every session, unless its own `migrate` refuses: there is
        // nothing to count.
        if !next.deployments.iter().any(goes_back) {
            return Ok(Vec::new());
        }
        let (counts, silent) = self.count_sessions(&next.name).await?;
        if let Some(SilentNode { node, why }) = silent.first().filter(|_| !options.force) {
            return Err(Error::new(
                Code::Unavailable,
                format!(
                    "can't count the sessions that would stay behind, because node {node} did not \
                     answer ({why}): try again, or use --force"
                ),
            ));
        }
        let mut outlook = Vec::new();
        for (id, count) in counts {
            let Some(from) = next.deployment(id).filter(|from| from.id != target.id) else {
                continue;
            };
            let stays = self.stays(&next.name, from, target, plugin).await;
            // Pinned sessions stay where they are whether or not this is done.
            let sessions = match &stays {
                Some(_) => count.sessions.saturating_sub(count.pinned),
                None => count.sessions,
            };
            if sessions > 0 {
                outlook.push(SessionsOutlook { from: from.label.to_string(), sessions, stays });
            }
        }
        let stay = outlook.iter().filter(|line| line.stays.is_some());
        let sessions: u64 = stay.clone().map(|line| line.sessions).sum();
        match stay.clone().next() {
            Some(first) if !options.force => {
                Err(would_stay(&next.name, target, sessions, first.stays.as_deref()))
            }
            _ => Ok(outlook),
        }
    }

    /// Why sessions of `from` would stay there; `None`: they move to `target`, or its `migrate`
    /// decides for each.
    pub(super) async fn stays(
        &self,
        service: &ServiceName,
        from: &Deployment,
        target: &Deployment,
        plugin: &Plugin,
    ) -> Option<String> {
        let Ok(session) = SessionId::parse("slotd-asks-migrate") else { return None };
        let key = SessionKey { service: service.clone(), session };
        let migrates = plugin.probe_migrate(key, &from.version).await;
        let migrate = match migrates {
            Ok(Migrates::ByState) => return None,
            Ok(Migrates::Refuses(why)) => return Some(why),
            Ok(Migrates::Nothing) => Migrate::None,
            Err(why) => return Some(why.to_string()),
        };
        let taken = takes_over(migrate, &from.version, &target.version, target.same_state);
        taken.err().map(|refusal| refusal.reason(&from.version, &target.version).to_string())
    }
}

fn would_stay(
    service: &ServiceName,
    target: &Deployment,
    sessions: u64,
    why: Option<&str>,
) -> Error {
    let them = if sessions == 1 { "1 session".into() } else { format!("{sessions} sessions") };
    Error::new(
        Code::SessionsWouldStay,
        format!(
            "{them} of {service} would stay on the version that last handled them: {}.\n\
             To move them, deploy a version whose migrate can read their state, or pass \
             --same-state if version {} reads it as it is.\n\
             With --force they stay on their version and keep working, and the others switch.",
            why.unwrap_or_default(),
            target.version
        ),
    )
}

/// Waits until everything acknowledged before is in the store, at most
/// [`limits::SESSIONS_FLUSH_WAIT`].
pub(super) async fn flush(router: &Router, slots: &[SlotId]) {
    let behind = slots.iter().filter_map(|&slot| {
        let handle = router.running(slot).ok().flatten()?;
        let position = handle.stats.position.load(Ordering::Relaxed);
        Some((handle, position))
    });
    let mut behind: Vec<(SlotHandle, u64)> = behind.collect();
    let until = crate::clock::now() + limits::SESSIONS_FLUSH_WAIT;
    loop {
        behind.retain(|(handle, position)| {
            !handle.is_closed() && handle.stats.applied.load(Ordering::Relaxed) < *position
        });
        if behind.is_empty() || crate::clock::now() > until {
            return;
        }
        for (handle, _) in &behind {
            handle.try_order(Order::Flush);
        }
        tokio::time::sleep(limits::SESSIONS_FLUSH_POLL).await;
    }
}
