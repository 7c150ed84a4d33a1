//! What is shown of a gate.

use crate::{
    gate_report::{GateRecord, GateReport, GateSpec, Phase, StageResult, Want},
    names::ServiceName,
    plugin::Digest,
};
use serde::Serialize;
use utoipa::ToSchema;

/// A service's gate, on all nodes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GateView {
    pub gate: String,
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// `running`, `confirming` (somebody has to confirm what differs), `switching`, `passed` (of a dry run), `deployed`,
    /// `stopped` or `aborted`.
    pub verdict: GateVerdict,
    /// The stage that is under way, or has stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub stage: Option<&'static str>,
    /// Why it was stopped or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The service's, since it was deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The label of what ran when it began.
    pub from: String,
    /// The label of what is to run.
    pub to: String,
    #[schema(value_type = String)]
    pub digest: Digest,
    pub dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    pub begun_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// The node that drives it, or did last.
    pub driver: String,
    /// Of all slots, those that were seen to their end in the stage that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots_seen: Option<u32>,
    pub slots: u32,
    /// How long the stage that is under way still takes, if it goes on as it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// What it was asked for.
    #[schema(value_type = Object)]
    pub spec: GateSpec,
    /// What nobody has accepted, as `accept` takes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<String>,
    /// What was found, stage by stage: see docs/gate.md.
    #[schema(value_type = Vec<Object>)]
    pub stages: Vec<StageResult>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GateVerdict {
    Running,
    Confirming,
    Switching,
    Passed,
    Deployed,
    Stopped,
    Aborted,
}

impl GateView {
    pub fn of(record: &GateRecord, slots: u16) -> Self {
        let verdict = match &record.phase {
            Phase::Running { .. } => GateVerdict::Running,
            Phase::Confirming => GateVerdict::Confirming,
            Phase::Switching => GateVerdict::Switching,
            Phase::Passed => GateVerdict::Passed,
            Phase::Deployed { .. } => GateVerdict::Deployed,
            Phase::Stopped { .. } => GateVerdict::Stopped,
            Phase::Aborted { .. } => GateVerdict::Aborted,
        };
        let stage = match &record.phase {
            Phase::Running { stage } | Phase::Stopped { stage, .. } => Some(*stage),
            _ => None,
        };
        let why = match &record.phase {
            Phase::Stopped { why, .. } | Phase::Aborted { why } => Some(why.clone()),
            _ => None,
        };
        let generation = match &record.phase {
            Phase::Deployed { generation } => Some(*generation),
            _ => None,
        };
        let running = record.stage();
        let now = running.and_then(|stage| record.report.stages.iter().find(|s| s.stage == stage));
        Self {
            gate: record.id.clone(),
            service: record.service.clone(),
            verdict,
            stage: stage.map(|stage| stage.as_str()),
            why,
            generation,
            from: record.from.to_string(),
            to: record.candidate.label.to_string(),
            digest: record.candidate.digest,
            dry_run: record.dry_run,
            by: record.by.as_deref().map(Into::into),
            identity: record.identity.as_deref().map(Into::into),
            begun_ms: record.begun_ms,
            ended_ms: record.ended_ms,
            driver: record.driver.to_string(),
            slots_seen: running.map(|_| record.done().len() as u32),
            slots: u32::from(slots),
            remaining_ms: now.and_then(StageResult::remaining_ms),
            spec: record.spec.clone(),
            wants: wants(&record.report),
            stages: record.report.stages.clone(),
        }
    }
}

/// What stops it, and can be accepted.
fn wants(report: &GateReport) -> Vec<String> {
    let groups = report.stages.iter().flat_map(|stage| &stage.groups).filter(|group| group.stops);
    let wants = groups.filter(|group| group.path.parse::<Want>().is_ok());
    wants.map(|group| group.path.clone()).collect()
}
