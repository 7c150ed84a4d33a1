//! What an audit has found, over all nodes.

use crate::{
    cluster::reports::SilentNode,
    limits,
    names::{ServiceName, SlotId},
    replay::{AuditShare, Finding, Reason, Standing, add_reason},
};
use serde::Serialize;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// A node's part, without what it has found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NodeAudit {
    pub node: String,
    pub standing: Standing,
    /// Slots that it has seen all of, and those that it had.
    pub slots: u32,
    pub slots_of: u32,
    pub sessions: u64,
    pub messages: u64,
    pub elapsed_ms: u64,
    pub threads: u32,
}

/// What an audit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is under way.
    Running,
    /// All that was run came out as it is stored.
    Same,
    Differs,
    /// Nothing differs, and not all was seen.
    Incomplete,
}

/// What an audit has found, over all nodes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditReport {
    /// To ask for it again.
    pub audit: String,
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub verdict: Verdict,
    /// The size of the sample that was asked for, and its seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Sessions that were run.
    pub sessions: u64,
    /// Those that came out as they are stored.
    pub same: u64,
    /// Those that were not compared to their end, without a difference; `reasons` says why.
    pub partly: u64,
    pub differing: u64,
    pub messages: u64,
    /// Of one thread, on the average.
    pub messages_per_second: u64,
    pub elapsed_ms: u64,
    /// Slots of which no node has seen all.
    pub slots_unseen: u32,
    pub findings: Vec<Finding>,
    pub reasons: Vec<Reason>,
    pub nodes: Vec<NodeAudit>,
    /// Nodes that did not report, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentNode>,
}

impl AuditReport {
    /// `slot_count`: of all slots; `None`: the audit is of one session, in one slot.
    pub fn new(
        audit: String,
        service: ServiceName,
        slot_count: Option<u16>,
        shares: Vec<AuditShare>,
        silent: Vec<SilentNode>,
    ) -> Self {
        let slots: BTreeSet<SlotId> = shares.iter().flat_map(|share| share.slots.clone()).collect();
        let sum = |of: fn(&AuditShare) -> u64| shares.iter().map(of).sum::<u64>();
        let is_running = shares.iter().any(|share| share.standing == Standing::Running);
        let is_whole = shares.iter().all(|share| share.standing == Standing::Done);
        let (messages, differing) = (sum(|share| share.messages), sum(|share| share.differing));
        let partly = sum(|share| share.partly);
        let unseen = usize::from(slot_count.unwrap_or(1)).saturating_sub(slots.len());
        let verdict = match differing {
            _ if is_running => Verdict::Running,
            0 if is_whole && silent.is_empty() && unseen == 0 && partly == 0 => Verdict::Same,
            0 => Verdict::Incomplete,
            _ => Verdict::Differs,
        };
        let thread_ms = sum(|share| share.elapsed_ms * u64::from(share.threads.max(1)));
        let mut reasons = Vec::new();
        for reason in shares.iter().flat_map(|share| share.reasons.clone()) {
            add_reason(&mut reasons, reason);
        }
        let sample = shares.iter().find_map(|share| share.sample);
        Self {
            audit,
            service,
            verdict,
            sample,
            seed: sample.and_then(|_| shares.first().map(|share| share.seed)),
            sessions: sum(|share| share.sessions),
            same: sum(|share| share.same),
            partly,
            differing,
            messages,
            messages_per_second: (messages * 1_000).checked_div(thread_ms).unwrap_or(0),
            elapsed_ms: shares.iter().map(|share| share.elapsed_ms).max().unwrap_or(0),
            slots_unseen: u32::try_from(unseen).unwrap_or(u32::MAX),
            findings: shares
                .iter()
                .flat_map(|share| share.findings.clone())
                .take(limits::AUDIT_FINDINGS_MAX)
                .collect(),
            reasons,
            nodes: shares.into_iter().map(NodeAudit::from).collect(),
            silent,
        }
    }
}

impl From<AuditShare> for NodeAudit {
    fn from(share: AuditShare) -> Self {
        Self {
            node: share.node,
            standing: share.standing,
            slots: share.slots.len() as u32,
            slots_of: share.slots_of,
            sessions: share.sessions,
            messages: share.messages,
            elapsed_ms: share.elapsed_ms,
            threads: share.threads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(node: &str, slots: &[SlotId]) -> AuditShare {
        AuditShare {
            standing: Standing::Done,
            slots: slots.to_vec(),
            sessions: 3,
            same: 3,
            messages: 4_000,
            elapsed_ms: 500,
            ..AuditShare::new(node, slots.len(), None, 2)
        }
    }

    fn report(shares: Vec<AuditShare>, silent: Vec<SilentNode>) -> AuditReport {
        let service = ServiceName::parse("s").unwrap();
        AuditReport::new("a".into(), service, Some(4), shares, silent)
    }

    /// A node that did not answer, or a slot that moved meanwhile, may have what differs: "same" would be a lie.
    #[test]
    fn what_was_not_seen_is_not_the_same() {
        let both = || vec![share("a", &[0, 1]), share("b", &[2, 3])];
        let whole = report(both(), Vec::new());
        assert_eq!((whole.verdict, whole.slots_unseen, whole.sessions), (Verdict::Same, 0, 6));
        assert_eq!(whole.messages_per_second, 4_000);
        let silent = vec![SilentNode { node: "c".into(), why: "gone".into() }];
        assert_eq!(report(both(), silent).verdict, Verdict::Incomplete);
        let moved = report(vec![share("a", &[0, 1]), share("b", &[3])], Vec::new());
        assert_eq!((moved.verdict, moved.slots_unseen), (Verdict::Incomplete, 1));
        let mut partly = both();
        partly[1].not_compared("it was imported", "x");
        assert_eq!(report(partly, Vec::new()).verdict, Verdict::Incomplete);
        let mut late = both();
        late[1].standing = Standing::OutOfTime;
        assert_eq!(report(late.clone(), Vec::new()).verdict, Verdict::Incomplete);
        late[0].differing = 1;
        assert_eq!(report(late.clone(), Vec::new()).verdict, Verdict::Differs);
        late[0].standing = Standing::Running;
        assert_eq!(report(late, Vec::new()).verdict, Verdict::Running);
    }
}
