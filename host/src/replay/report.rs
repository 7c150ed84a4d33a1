//! What an audit has found on one node.

use crate::{
    limits,
    names::{SessionId, SlotId},
    replay_engine::{Difference, What},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a difference looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Looks {
    /// The component gives something else on an instance that has run other messages: it keeps something in memory
    /// between calls.
    KeepsMemory,
    /// What is stored can't be read, or has a gap.
    Damage,
    /// It comes out the same whenever it is run, and is not what is stored.
    StoredDiffers,
    /// It was not run again to find out.
    NotLookedAt,
}

/// In what a message differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shown {
    /// `reply`, `content-type`, `events`, `effects`, `result`, `state` (behind the last message) or `history`.
    pub what: String,
    /// As it is stored, from a little before the place where it differs.
    pub stored: String,
    /// As it came out.
    pub came: String,
}

impl From<Difference> for Shown {
    fn from(difference: Difference) -> Self {
        let Difference { what, stored, came } = difference;
        Self { what: what.as_str().into(), stored, came }
    }
}

/// A session that does not come out as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub session: String,
    /// The first message that differs; 0: what can't be read is not one of them.
    pub seq: u64,
    /// The label of the deployment that had handled it.
    pub deployment: String,
    pub differences: Vec<Shown>,
    /// Messages behind it that differ, too. They mostly follow from the first, and not all are looked for.
    pub more: u64,
    pub looks_like: Looks,
    /// What that rests on.
    pub because: String,
}

impl Finding {
    /// Of a session of which nothing can be run, as its head can't be read.
    pub fn unreadable(session: &SessionId, why: String) -> Self {
        let difference =
            Difference { what: What::History, stored: why.clone(), came: "-".to_owned() };
        Self {
            session: session.to_string(),
            seq: 0,
            deployment: "-".to_owned(),
            differences: vec![difference.into()],
            more: 0,
            looks_like: Looks::Damage,
            because: why,
        }
    }
}

/// Why sessions were not compared, or not to their end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    pub why: String,
    pub sessions: u64,
    /// One of them.
    pub example: String,
}

/// Where an audit is on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Running,
    Done,
    /// Its time was over before it had seen all.
    OutOfTime,
    Cancelled,
}

/// A node's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditShare {
    pub node: String,
    pub standing: Standing,
    /// It is of one session: the other nodes have nothing to do.
    pub of_one: bool,
    pub sample: Option<u64>,
    pub seed: u64,
    /// Slots that it has seen all of.
    pub slots: Vec<SlotId>,
    /// Slots that it has, or had.
    pub slots_of: u32,
    pub sessions: u64,
    pub same: u64,
    pub partly: u64,
    pub differing: u64,
    pub messages: u64,
    pub elapsed_ms: u64,
    pub threads: u32,
    pub findings: Vec<Finding>,
    pub reasons: Vec<Reason>,
}

impl AuditShare {
    /// Of a node that begins. `sample`: its size, and its seed.
    pub fn new(node: &str, slots: usize, sample: Option<(u64, u64)>, threads: usize) -> Self {
        Self {
            node: node.into(),
            standing: Standing::Running,
            of_one: false,
            sample: sample.map(|(size, _)| size),
            seed: sample.map_or(0, |(_, seed)| seed),
            slots: Vec::new(),
            slots_of: u32::try_from(slots).unwrap_or(u32::MAX),
            sessions: 0,
            same: 0,
            partly: 0,
            differing: 0,
            messages: 0,
            elapsed_ms: 0,
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            findings: Vec::new(),
            reasons: Vec::new(),
        }
    }

    /// Counts a session that was not compared to its end.
    pub fn not_compared(&mut self, why: &str, session: &str) {
        self.partly += 1;
        add_reason(
            &mut self.reasons,
            Reason { why: why.into(), sessions: 1, example: session.into() },
        );
    }
}

/// Adds a reason to those that are known, which are bounded.
pub fn add_reason(reasons: &mut Vec<Reason>, reason: Reason) {
    if let Some(known) = reasons.iter_mut().find(|known| known.why == reason.why) {
        known.sessions += reason.sessions;
        return;
    }
    if reasons.len() < limits::AUDIT_REASONS_MAX {
        reasons.push(reason);
        return;
    }
    // The last place is for all that have none.
    if let Some(last) = reasons.last_mut() {
        last.why = "other reasons".into();
        last.sessions += reason.sessions;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_together_and_bounded() {
        let mut share = AuditShare::new("a", 0, None, 1);
        for n in 0..3 * limits::AUDIT_REASONS_MAX {
            share.not_compared(&format!("reason {}", n / 2), &format!("session-{n}"));
        }
        assert_eq!(share.reasons.len(), limits::AUDIT_REASONS_MAX);
        assert_eq!(share.reasons[0].sessions, 2);
        let all: u64 = share.reasons.iter().map(|reason| reason.sessions).sum();
        assert_eq!((all, share.partly), (96, 96));
    }
}
