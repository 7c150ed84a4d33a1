//! Canaries: begins them, drives them from step to step, and carries out what operators say about them.
//!
//! Every node counts what its own slots do. One of them, chosen by the cluster's members alike, looks at what all have
//! counted and does what [`plan`] decides: it changes the service's record by compare-and-swap, and each node follows that as
//! it follows a deploy. When the driving node is gone, the members are others and the choice falls on another. Nothing of a
//! canary is anywhere else than in the record, but for the counts of the step, which begin anew where a node does.

use super::*;
use crate::{
    audit,
    level::{CANARY_FROM, Level},
    service::canary::{
        Canary, CanaryOptions, Left, Verdict, Wanted,
        counts::Counts,
        plan::{self, Next, Sight},
        verdict::Seen,
    },
    telemetry::{metrics, repeats},
};
use serde::Serialize;
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

/// What an operator wants of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryChange {
    Promote,
    Hold,
    Resume,
    Abort,
}

impl CanaryChange {
    pub const NAMES: [&str; 4] = ["promote", "hold", "resume", "abort"];

    /// One of [`CanaryChange::NAMES`].
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Promote, Self::Hold, Self::Resume, Self::Abort];
        Self::NAMES.iter().zip(all).find(|(known, _)| **known == name).map(|(_, change)| change)
    }
}

/// A service's canary: a version that runs in some of its slots first, or what became of the last one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CanaryInfo {
    /// Its version.
    pub deployment: DeploymentInfo,
    /// The label of the version that it is compared with.
    pub before: String,
    /// `running`: it goes on by itself. `held`: it stays at its step. `promoted`: its version is the service's now. `aborted`:
    /// the version before runs in all slots again.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// Why it is held, or has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Its step, from 1.
    pub step: u8,
    /// Of each step, how many thousandths of the slots have its version.
    pub steps: Vec<u16>,
    /// Slots that have its version at this step.
    pub slots: u16,
    pub of: u16,
    pub started_ms: u64,
    /// When it came to this step.
    pub since_ms: u64,
    /// How long a step takes at least.
    pub pause_ms: u64,
    /// How many messages and queries its version has to have handled in a step.
    pub messages: u64,
    /// Who began it, as the request said. Nobody has checked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Who that was shown to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Of the steps that it has done, and of the one at which it went back.
    pub verdicts: Vec<CanaryVerdict>,
    /// What was counted at this step so far, on all nodes that answer; only where the swap is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<CanarySight>,
}

/// What a step has shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CanaryVerdict {
    pub step: u8,
    pub at_ms: u64,
    pub good: bool,
    /// What was bad.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    pub before: CanarySeen,
    pub canary: CanarySeen,
    /// Sessions that it had handled last when it went back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Why they stay on its version; absent: they go back, or the `migrate` of the version before decides for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stays: Option<String>,
}

/// What is seen of a step that is not over.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CanarySight {
    pub before: CanarySeen,
    pub canary: CanarySeen,
    /// Why it does not go on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Nodes that do not answer, or that have not switched all of their slots.
    pub behind: usize,
}

/// What was seen of a version in one step.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CanarySeen {
    /// Messages and queries.
    pub messages: u64,
    pub traps: u64,
    pub deadlines: u64,
    pub rejections: u64,
    pub limits: u64,
    /// Sessions that it was to take over, and those of them that it has not.
    pub migrations: u64,
    pub pins: u64,
    /// The 99th percentile of the time of a call.
    pub p99_us: u64,
    /// Bytes of its largest instance.
    pub memory: u64,
}

impl From<&Seen> for CanarySeen {
    fn from(seen: &Seen) -> Self {
        Self {
            messages: seen.messages,
            traps: seen.traps,
            deadlines: seen.deadlines,
            rejections: seen.rejections,
            limits: seen.limits,
            migrations: seen.migrations,
            pins: seen.pins,
            p99_us: seen.p99_us,
            memory: seen.memory,
        }
    }
}

impl From<&Verdict> for CanaryVerdict {
    fn from(verdict: &Verdict) -> Self {
        Self {
            step: verdict.step.saturating_add(1),
            at_ms: verdict.at_ms,
            good: verdict.good,
            reasons: verdict.reasons.clone(),
            before: (&verdict.before).into(),
            canary: (&verdict.canary).into(),
            left: verdict.left.as_ref().map(|left| left.sessions),
            stays: verdict.left.as_ref().and_then(|left| left.stays.clone()),
        }
    }
}

impl CanaryInfo {
    pub(super) fn of(service: &Service, canary: &Canary) -> Option<Self> {
        let before = service.deployment(canary.before).map(|d| d.label.to_string());
        Some(Self {
            deployment: DeploymentInfo::of(service, canary.deployment)?,
            before: before.unwrap_or_default(),
            state: canary.wanted.as_str(),
            why: canary.why.clone(),
            step: canary.step.saturating_add(1),
            steps: canary.steps.clone(),
            slots: if canary.wanted == Wanted::Aborted { 0 } else { canary.share().slots() },
            of: canary.slot_count,
            started_ms: canary.started_ms,
            since_ms: canary.since_ms,
            pause_ms: canary.pause_ms,
            messages: canary.messages,
            by: canary.by.as_deref().map(Into::into),
            identity: canary.identity.as_deref().map(Into::into),
            verdicts: canary.verdicts.iter().map(Into::into).collect(),
            now: None,
        })
    }
}

/// Looks at canaries until the node ends.
pub(super) async fn drive(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    // The last look that was taken of each step.
    let mut looked = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(limits::CANARY_LOOK) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(node) = node.upgrade() else { return };
        let services = node.context.catalogue.all();
        looked.retain(|(name, trial), _| {
            let of = services.iter().find(|service| service.name == *name);
            of.and_then(|of| of.live_canary()).is_some_and(|canary| canary.trial() == *trial)
        });
        for service in services {
            node.context.trials.follow(&service);
            let Some(canary) = service.live_canary() else { continue };
            if !node.drives(&service.name) {
                continue;
            }
            let last = looked.entry((service.name.clone(), canary.trial())).or_default();
            if let Err(error) = node.look_at_canary(&service, canary, last).await
                && repeats::admit("a canary does not go on", &service.name)
            {
                tracing::warn!(service = %service.name, %error, "a canary does not go on; trying again");
            }
        }
    }
}

/// What becomes of a canary, for logs and the audit log.
struct Done {
    event: &'static str,
    why: String,
}

impl Node {
    /// Whether this node is the one that drives the service's canary: all that see the same members agree.
    fn drives(&self, service: &ServiceName) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        let members = cluster.members();
        let rank = |name: &str| xxh3_64(format!("{service}\0{name}").as_bytes());
        // One that is unfit may not reach the registry.
        let fit = |unfit: bool| {
            let staying = members.staying().filter(move |member| unfit || member.unfit.is_none());
            staying.min_by_key(|member| rank(&member.name)).map(|member| member.name.clone())
        };
        fit(false).or_else(|| fit(true)).is_none_or(|chosen| *chosen == *self.name)
    }

    /// The service after a deployment of `digest`: in all slots, or with a canary at its first step. `None`: that is what
    /// runs already.
    ///
    /// # Errors
    /// `level-unreadable` where not all nodes would know of a canary; as [`Service::deployed`] and [`Service::with_canary`].
    pub(super) fn deployed(
        &self,
        existing: Option<&Service>,
        service: &ServiceName,
        version: Option<&str>,
        digest: crate::plugin::Digest,
        change: &Change,
        canary: Option<&CanaryOptions>,
    ) -> Result<Option<Service>, Error> {
        let Some(options) = canary else {
            return Service::deployed(existing, service, version, digest, change);
        };
        check_level(self.context.level.get())?;
        let existing = existing.ok_or_else(|| {
            Error::new(
                Code::RequestInvalid,
                format!("{service} runs nothing yet: its first version can't be a canary"),
            )
        })?;
        existing.with_canary(version, digest, change, options, self.router.slot_count())
    }

    /// What this node has counted of a step.
    pub(super) fn canary_here(
        &self,
        service: &ServiceName,
        trial: (u64, u8),
    ) -> Option<CanaryShare> {
        let known = self.context.catalogue.get(service)?;
        let canary = known.live_canary().filter(|canary| canary.trial() == trial)?;
        self.context.trials.follow(&known);
        let counted = self.context.trials.at(service, canary.trial())?;
        let [mut before, mut own] = counted.counts();
        for (counts, id) in [&mut before, &mut own].into_iter().zip(counted.deployments()) {
            let guests = self.context.plugins.pool().get(service, id);
            counts.memory = guests.map_or(0, |guests| guests.largest());
        }
        let target = known.target();
        let is_behind = |(_, handle): &(SlotId, crate::slot::SlotHandle)| {
            let active = handle.stats.active.lock();
            target.is_ahead_of(active.get(service).map(|(generation, _)| *generation))
        };
        let behind = self.router.all_running().iter().any(is_behind);
        Some(CanaryShare { before, canary: own, behind })
    }

    /// What all nodes have counted.
    async fn sight(&self, service: &ServiceName, canary: &Canary) -> Sight {
        let trial = canary.trial();
        let ask = ControlRequest::Canary { service: service.clone(), trial };
        let own = self.canary_here(service, trial);
        let others = match &self.cluster {
            Some(cluster) => cluster.ask_all(&ask).await,
            None => Vec::new(),
        };
        let (mut before, mut counted, mut behind) = (Counts::default(), Counts::default(), 0);
        let others = others.into_iter().map(|(_, answer)| match answer {
            Ok(ControlResponse::Canary(share)) => share.map(|share| *share),
            _ => None,
        });
        for share in others.chain([own]) {
            match share {
                Some(share) => {
                    before.add(&share.before);
                    counted.add(&share.canary);
                    behind += usize::from(share.behind);
                }
                None => behind += 1,
            }
        }
        Sight { now_ms: now_ms(), before, canary: counted, behind, looked: None }
    }

    async fn look_at_canary(
        &self,
        service: &Service,
        canary: &Canary,
        looked: &mut Option<u32>,
    ) -> Result<(), Error> {
        let sight = Sight { looked: *looked, ..self.sight(&service.name, canary).await };
        let (next, taken) = plan::next(canary, &sight);
        *looked = taken;
        // A part of a cluster that does not see the rest must not decide for it.
        if let (Next::Step(_) | Next::Promote(_), Some(cluster)) = (&next, &self.cluster)
            && !cluster.has_all_slots().await
        {
            return Ok(());
        }
        let (changed, done) = match next {
            Next::Wait(_) => return Ok(()),
            Next::Step(verdict) => {
                metrics().canary_steps.increment(1);
                let why = format!("step {} was good", canary.step.saturating_add(1));
                (service.with_next_step(verdict, now_ms())?, Done { event: "canary-step", why })
            }
            Next::Promote(verdict) => {
                let why = "every step was good".to_owned();
                let done = Done { event: "canary-promoted", why: why.clone() };
                (service.with_canary_promoted(why, Some(verdict), None, now_ms())?, done)
            }
            Next::Hold(why) => {
                let done = Done { event: "canary-held", why: why.clone() };
                (service.with_canary_held(Some(cut(why)))?, done)
            }
            Next::GoBack(mut verdict) => {
                metrics().canary_returns.increment(1);
                verdict.reasons.iter_mut().for_each(|why| *why = cut(std::mem::take(why)));
                let why = cut(verdict.reasons.join("; "));
                verdict.left = self.left(service, canary).await;
                let done = Done { event: "canary-went-back", why: why.clone() };
                (service.with_canary_aborted(why, Some(verdict))?, done)
            }
        };
        let label = canary.label(service).unwrap_or_default();
        let name = service.name.clone();
        let turn = self.turn(&name).await?;
        // Somebody else may have changed it while it was looked at.
        let now = self.context.catalogue.get(&name);
        if now.is_none_or(|now| now.generation != service.generation) {
            return Ok(());
        }
        self.switch_canary(changed).await?;
        drop(turn);
        tracing::info!(service = %name, canary = %label, why = done.why, "{}", done.event);
        let mut change = audit::Change::event(done.event);
        change.subject.insert("service".into(), name.to_string());
        change.before.insert("canary".into(), (&*label).into());
        change.after.insert("why".into(), done.why.into());
        self.audit.note(change).await;
        Ok(())
    }

    /// The sessions that a canary has handled last, and whether they stay there, as far as that can be found out soon.
    async fn left(&self, service: &Service, canary: &Canary) -> Option<Left> {
        let look = async {
            let (counts, _) = self.count_sessions(&service.name).await.ok()?;
            let sessions = counts.get(&canary.deployment).map_or(0, |count| count.sessions);
            let (from, to) =
                (service.deployment(canary.deployment)?, service.deployment(canary.before)?);
            let plugin = service.target().load_own(&self.context.plugins).await.ok()?;
            let stays = match sessions {
                0 => None,
                _ => self.stays(&service.name, from, to, &plugin).await.map(cut),
            };
            Some(Left { sessions, stays })
        };
        tokio::time::timeout(limits::CANARY_LEFT_WAIT, look).await.ok().flatten()
    }

    /// Makes a changed record durable, and the slots follow it. The caller has the service's turn.
    async fn switch_canary(&self, next: Service) -> Result<Option<Arc<Swap>>, Error> {
        let target = next.target();
        // As in a deploy: what can't be had must not become current.
        let tried = self.tried(&target).await?;
        let next = self.make_durable(next).await?;
        self.context.trials.follow(&next);
        self.place(&target, tried);
        // In a cluster, all nodes follow the registry.
        match self.registry {
            Some(_) => Ok(None),
            None => Ok(Some(self.start_swap(Activation { target }, self.before(&next)))),
        }
    }

    /// Carries out what an operator says about a service's canary.
    ///
    /// # Errors
    /// `service-not-found`; `deployment-not-found` if it has no canary; `swap-in-progress`; `storage-unavailable`.
    pub async fn change_canary(
        &self,
        service: &ServiceName,
        change: CanaryChange,
        by: Author,
    ) -> Result<ServiceInfo, Error> {
        let turn = self.turn(service).await?;
        let known = self.context.catalogue.require(service)?;
        let next = match change {
            CanaryChange::Promote => {
                let why = "promoted by hand".to_owned();
                known.with_canary_promoted(why, None, Some(by), now_ms())?
            }
            CanaryChange::Hold => known.with_canary_held(Some("held by hand".to_owned()))?,
            CanaryChange::Resume => known.with_canary_resumed(now_ms())?,
            CanaryChange::Abort => {
                let verdict = match known.live_canary() {
                    Some(canary) => {
                        let sight = self.sight(service, canary).await;
                        Some(Verdict {
                            step: canary.step,
                            at_ms: sight.now_ms,
                            good: false,
                            before: sight.before.seen(),
                            canary: sight.canary.seen(),
                            reasons: Vec::new(),
                            left: self.left(&known, canary).await,
                            unknown: crate::level::Unknown::default(),
                        })
                    }
                    None => None,
                };
                known.with_canary_aborted("aborted by hand".into(), verdict)?
            }
        };
        let generation = next.generation;
        let swap = self.switch_canary(next).await?;
        drop(turn);
        match swap {
            Some(swap) => swap.wait(limits::SWAP_WAIT).await,
            None => _ = self.wait_for_cluster(service, generation).await,
        }
        self.service_of_cluster(service).await
    }

    /// A service as [`Node::service_of_cluster`] gives it, with what is seen of its canary now.
    ///
    /// # Errors
    /// `service-not-found`.
    pub async fn swap_of_cluster(&self, service: &ServiceName) -> Result<ServiceInfo, Error> {
        let mut info = self.service_of_cluster(service).await?;
        let known = self.context.catalogue.require(service)?;
        if let (Some(canary), Some(shown)) = (known.live_canary(), info.canary.as_mut()) {
            let sight = self.sight(service, canary).await;
            let waits = match plan::next(canary, &Sight { looked: Some(u32::MAX), ..sight.clone() })
            {
                (Next::Wait(why), _) => Some(why.to_owned()),
                _ => None,
            };
            shown.now = Some(CanarySight {
                before: (&sight.before.seen()).into(),
                canary: (&sight.canary.seen()).into(),
                waits,
                behind: sight.behind,
            });
        }
        Ok(info)
    }
}

/// # Errors
/// `level-unreadable`: not every node would run the canary's version in its slots.
fn check_level(level: Level) -> Result<(), Error> {
    if level >= CANARY_FROM {
        return Ok(());
    }
    Err(Error::new(
        Code::LevelUnreadable,
        format!(
            "a canary needs feature level {CANARY_FROM}, and level {level} is in force: see `slotd level`"
        ),
    ))
}

/// A text that has room in a service's record.
fn cut(mut text: String) -> String {
    let mut end = limits::CANARY_TEXT_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that does not know canaries would run the old version in the slots that it takes over.
    #[test]
    fn nothing_is_tried_while_a_node_would_not_know_of_it() {
        let refused = check_level(CANARY_FROM - 1).map_err(|error| (error.code, error.detail));
        let Err((Code::LevelUnreadable, detail)) = refused else { panic!("{refused:?}") };
        assert!(detail.contains("level 7 is in force"), "{detail}");
        assert!(check_level(CANARY_FROM).is_ok());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = "é".repeat(limits::CANARY_TEXT_BYTES_MAX);
        let cut = cut(format!("a{text}"));
        assert!(cut.len() == limits::CANARY_TEXT_BYTES_MAX - 1 && cut.ends_with('é'));
    }
}
