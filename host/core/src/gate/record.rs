//! A deploy that is on its way through the gate: what is kept of it, so that it goes on when the node that drives it is
//! gone, and whom it belongs to.
//!
//! One node drives: it writes the record again while it does ([`GateRecord::beat`]). Each write is a compare-and-swap, so of
//! two that think that they drive, one learns that it does not. Which one it is does not matter for what is right: nothing
//! moves before the end, and what moves then is itself a compare-and-swap against the generation that the gate was begun for.

use super::{GateReport, GateShare, GateSpec, Group, Stage, StageResult, Standing};
use crate::{
    level::Unknown,
    limits,
    log::record::DeploymentId,
    names::{ServiceName, SlotId},
    service::{Author, Change, Deployment, Signer, canary::CanaryOptions},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a gated deploy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Phase {
    /// This stage is under way.
    Running { stage: Stage },
    /// All stages are through. Somebody has to confirm what differs.
    Confirming,
    /// It is decided: the slots are to switch.
    Switching,
    /// All stages are through, and more was not asked for.
    Passed,
    /// The slots switch, or have switched, to this generation.
    Deployed { generation: u64 },
    /// A stage has stopped it. Nothing has moved.
    Stopped { stage: Stage, why: String },
    /// It was ended before its end. Nothing has moved.
    Aborted { why: String },
}

impl Phase {
    pub fn has_ended(&self) -> bool {
        !matches!(self, Self::Running { .. } | Self::Confirming | Self::Switching)
    }

    /// Whether it may be ended without having switched anything: from `switching` on it can't.
    pub fn may_abort(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Confirming)
    }
}

/// A deploy through the gate. A service has one at a time, and the last one is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateRecord {
    pub id: String,
    pub service: ServiceName,
    /// The service's, when it was begun: once there is another one, it is void.
    pub generation: u64,
    /// What ran then.
    pub current: DeploymentId,
    /// Its label.
    pub from: Arc<str>,
    /// What is to run: as it is numbered if nothing comes in between.
    pub candidate: Deployment,
    /// The version that was asked for; `None`: the component's own.
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub same_state: bool,
    /// It ends when its stages are through.
    #[serde(default)]
    pub dry_run: bool,
    /// Differences are to be confirmed.
    #[serde(default)]
    pub confirm: bool,
    /// In the end some of the slots run it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryOptions>,
    /// Who asked for it, as the request said, and as it was shown.
    #[serde(default)]
    pub by: Option<Arc<str>>,
    #[serde(default)]
    pub identity: Option<Arc<str>>,
    #[serde(default)]
    pub signer: Option<Signer>,
    pub spec: GateSpec,
    pub begun_ms: u64,
    #[serde(default)]
    pub ended_ms: Option<u64>,
    pub phase: Phase,
    /// The node that drives it.
    pub driver: Arc<str>,
    /// Rises whenever the driver writes: the others see by it that it is there.
    pub beat: u64,
    /// How often the stage was given out. More than once if slots moved, or nodes left, meanwhile.
    pub round: u32,
    /// What the rounds before have found in this stage, and which slots they have seen.
    #[serde(default)]
    pub before: Option<GateShare>,
    /// What was found so far.
    pub report: GateReport,
    /// What stopped gates of this service before, and this one: looked at first in the next one.
    #[serde(default)]
    pub remembered: Vec<Remembered>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A message, or a session, that has stopped a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub session: String,
    /// 0: the session as it is, as for a `migrate` that fails.
    pub seq: u64,
}

impl GateRecord {
    /// The change that it makes of the service in the end.
    pub fn change(&self, now_ms: u64) -> Change {
        Change {
            same_state: self.same_state,
            by: Author { said: self.by.clone(), identity: self.identity.clone() },
            now_ms,
            signer: self.signer.clone(),
        }
    }

    /// The stage that is under way.
    pub fn stage(&self) -> Option<Stage> {
        match &self.phase {
            Phase::Running { stage } => Some(*stage),
            _ => None,
        }
    }

    /// Whether it asks for what this one asks for: whoever asks again wants to know how it goes on.
    pub fn is_like(&self, other: &Self) -> bool {
        self.candidate.digest == other.candidate.digest
            && (self.generation, self.same_state, self.dry_run, self.confirm)
                == (other.generation, other.same_state, other.dry_run, other.confirm)
            && self.version == other.version
            && self.canary == other.canary
            && GateSpec { seed: 0, ..self.spec.clone() }
                == GateSpec { seed: 0, ..other.spec.clone() }
    }

    /// Takes in what a round has found; `slots` are all that there are. Gives those that nobody has seen all of.
    pub fn add_round(&mut self, stage: Stage, shares: Vec<GateShare>, slots: u16) -> Vec<SlotId> {
        let mut before = self.before.take().unwrap_or_else(|| GateShare {
            node: "the rounds before".into(),
            result: StageResult { standing: Standing::Skipped, ..StageResult::new(stage) },
            done: Vec::new(),
            slots_of: u32::from(slots),
            under_way: 0,
        });
        for mut share in shares {
            // What had not come to its end has seen what it has seen.
            if !share.result.standing.is_over() {
                share.result.standing = Standing::Passed;
            }
            before.result.merge(share.result);
            before.done.extend(share.done);
        }
        before.done.sort_unstable();
        before.done.dedup();
        let unseen = (0..slots).filter(|slot| before.done.binary_search(slot).is_err());
        let unseen = match stage.is_of_sessions() {
            true => unseen.collect(),
            false => Vec::new(),
        };
        self.before = Some(before);
        self.round += 1;
        unseen
    }

    /// Slots that need not be looked at again in this stage.
    pub fn done(&self) -> &[SlotId] {
        self.before.as_ref().map_or(&[], |before| &before.done)
    }

    /// The record after a stage that is through.
    pub fn after(mut self, stage: Stage) -> Self {
        self.phase = match stage.next() {
            Some(stage) => Phase::Running { stage },
            None if self.dry_run => Phase::Passed,
            None if self.confirm && self.report.differs() => Phase::Confirming,
            None => Phase::Switching,
        };
        (self.round, self.before) = (0, None);
        self
    }

    /// Without what makes it large, for one that is too large to be kept.
    #[must_use]
    pub fn shed(mut self) -> Self {
        self.before = None;
        for stage in &mut self.report.stages {
            stage.groups.clear();
            stage.costs.clear();
        }
        self
    }

    pub fn is_shed(&self) -> bool {
        let is_empty = |stage: &StageResult| stage.groups.is_empty() && stage.costs.is_empty();
        self.before.is_none() && self.report.stages.iter().all(is_empty)
    }

    /// The record, ended.
    pub fn ended(mut self, phase: Phase, now_ms: u64) -> Self {
        if matches!(phase, Phase::Stopped { .. }) {
            let groups = self.report.stages.iter().flat_map(|stage| &stage.groups);
            let mut found: Vec<_> = groups.filter_map(Remembered::of).collect();
            found.append(&mut self.remembered);
            self.remembered = bounded(found);
        }
        (self.phase, self.ended_ms) = (phase, Some(now_ms));
        (self.round, self.before) = (0, None);
        self
    }
}

impl GateRecord {
    /// Adds this one, as it ended, to the reports that are kept of a service's deployments. They are bounded.
    pub fn keep_among(reports: &mut Vec<Self>, record: &Self) {
        reports.retain(|known| known.id != record.id);
        reports.push(Self { remembered: Vec::new(), before: None, ..record.clone() });
        let size = |of: &Self| serde_json::to_vec(of).map_or(0, |bytes| bytes.len());
        let mut bytes: usize = reports.iter().map(size).sum();
        let over = |count, bytes| {
            count > limits::GATE_REPORTS_MAX
                || (count > 1 && bytes > limits::GATE_REPORTS_BYTES_MAX)
        };
        while over(reports.len(), bytes) {
            bytes -= size(&reports.remove(0));
        }
    }
}

impl Remembered {
    fn of(group: &Group) -> Option<Self> {
        let example = &group.example;
        let is_of_session = group.stops && !example.session.is_empty();
        is_of_session.then(|| Self { session: example.session.clone(), seq: example.seq })
    }
}

/// The first ones, without repeats.
fn bounded(all: Vec<Remembered>) -> Vec<Remembered> {
    let mut some: Vec<Remembered> = Vec::new();
    for one in all {
        if some.len() < limits::GATE_REMEMBERED_MAX && !some.contains(&one) {
            some.push(one);
        }
    }
    some
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        gate::{Example, Kind},
        plugin::Digest,
        service::Change,
    };

    pub(crate) fn record() -> GateRecord {
        let service = ServiceName::parse("chat").unwrap();
        let change = Change::default();
        let deploy = |before: Option<&crate::service::catalogue::Service>, n| {
            crate::service::catalogue::Service::deployed(
                before,
                &service,
                Some("1.0.0"),
                Digest([n; 32]),
                &change,
            )
        };
        let first = deploy(None, 1).unwrap().unwrap();
        let next = deploy(Some(&first), 2).unwrap().unwrap();
        GateRecord {
            id: "a".into(),
            service: service.clone(),
            generation: 1,
            current: 1,
            from: "1.0.0+01".into(),
            candidate: next.deployment(2).unwrap().clone(),
            version: None,
            same_state: false,
            dry_run: false,
            confirm: false,
            canary: None,
            by: None,
            identity: None,
            signer: None,
            spec: GateSpec::default(),
            begun_ms: 1,
            ended_ms: None,
            phase: Phase::Running { stage: Stage::Interface },
            driver: "a".into(),
            beat: 1,
            round: 0,
            before: None,
            report: GateReport::default(),
            remembered: Vec::new(),
            unknown: Unknown::default(),
        }
    }

    fn share(done: &[SlotId], seen: u64, standing: Standing) -> GateShare {
        let stage = Stage::Migrate;
        let result = StageResult { standing, seen, of: seen, ..StageResult::new(stage) };
        GateShare { node: "n".into(), result, done: done.to_vec(), slots_of: 4, under_way: 0 }
    }

    /// A slot that moved while its stage ran, or whose node died, would pass for seen.
    #[test]
    fn what_no_round_has_seen_is_given_out_again() {
        let mut record = record();
        let (over, running) = (Standing::Passed, Standing::Running);
        let shares = vec![share(&[0, 1], 5, over), share(&[2], 2, running)];
        assert_eq!(record.add_round(Stage::Migrate, shares, 4), [3]);
        assert_eq!((record.done(), record.round), (&[0, 1, 2][..], 1));
        assert_eq!(record.add_round(Stage::Migrate, vec![share(&[3], 1, over)], 4), [] as [u16; 0]);
        let before = record.before.as_ref().unwrap();
        assert_eq!((before.result.seen, before.result.standing), (8, Standing::Passed));
        let next = record.after(Stage::Migrate);
        assert_eq!((next.stage(), next.done().len(), next.round), (Some(Stage::Replay), 0, 0));
    }

    /// A dry run that switched, or a deploy that nobody confirmed, would be the worst that a gate can do.
    #[test]
    fn what_comes_after_the_last_stage_is_what_was_asked_for() {
        let last = |record: GateRecord| record.after(Stage::Cost).phase;
        assert_eq!(last(record()), Phase::Switching);
        assert_eq!(last(GateRecord { dry_run: true, ..record() }), Phase::Passed);
        let mut asks = GateRecord { confirm: true, ..record() };
        assert_eq!(last(asks.clone()), Phase::Switching, "nothing differs");
        let mut result = StageResult::new(Stage::Replay);
        result.add(Group {
            kind: Kind::Reply,
            path: "reply".into(),
            count: 1,
            stops: false,
            example: Example { session: "s".into(), seq: 3, ..Example::default() },
        });
        asks.report.stages.push(result);
        assert_eq!(last(asks.clone()), Phase::Confirming);
        assert!(asks.clone().ended(Phase::Passed, 2).remembered.is_empty());
        asks.report.stages[0].groups[0].stops = true;
        let stopped = Phase::Stopped { stage: Stage::Replay, why: "x".into() };
        let ended = asks.ended(stopped, 2);
        assert_eq!(ended.remembered, [Remembered { session: "s".into(), seq: 3 }]);
    }

    /// The reports of a service that is deployed every hour would fill the registry.
    #[test]
    fn few_reports_are_kept_and_the_last_one_is() {
        let mut reports = Vec::new();
        for n in 0..3 * limits::GATE_REPORTS_MAX {
            GateRecord::keep_among(&mut reports, &GateRecord { id: n.to_string(), ..record() });
        }
        assert_eq!(reports.len(), limits::GATE_REPORTS_MAX);
        assert_eq!(reports.last().unwrap().id, (3 * limits::GATE_REPORTS_MAX - 1).to_string());
        let large =
            GateRecord { version: Some("v".repeat(limits::GATE_REPORTS_BYTES_MAX)), ..record() };
        GateRecord::keep_among(&mut reports, &large);
        assert_eq!(reports.len(), 1);
    }

    /// A later version's field, in a record that this one goes on with, would be lost.
    #[test]
    fn what_a_later_version_has_written_is_kept() {
        let mut later = serde_json::to_value(record()).unwrap();
        later["shadow"] = serde_json::json!({"slots": [1]});
        let read: GateRecord = serde_json::from_value(later).unwrap();
        assert_eq!(read.clone().after(Stage::Interface).stage(), Some(Stage::Migrate));
        assert_eq!(serde_json::to_value(read).unwrap()["shadow"]["slots"][0], 1);
    }
}
