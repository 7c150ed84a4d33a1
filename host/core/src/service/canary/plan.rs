//! What a canary does next. Pure: the node that drives it carries it out.

use super::{
    Canary, Verdict, Wanted,
    counts::Counts,
    verdict::{self, Reason, Seen},
};
use crate::{level::Unknown, limits};

/// What the driving node sees of a step.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    pub now_ms: u64,
    /// Of all nodes.
    pub before: Counts,
    pub canary: Counts,
    /// Nodes that do not answer, or whose slots have not all switched to this step.
    pub behind: usize,
    /// The last look that was taken at this step, by this node.
    pub looked: Option<u32>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing yet; why not.
    Wait(&'static str),
    /// The next step.
    Step(Verdict),
    /// It is the service's version.
    Promote(Verdict),
    /// The version before in all slots.
    GoBack(Verdict),
    /// Somebody has to decide.
    Hold(String),
}

/// Decides, and says which look was taken.
pub fn next(canary: &Canary, sight: &Sight) -> (Next, Option<u32>) {
    let counted = sight.before.seen();
    // Where all slots run the canary's version, it is compared with what the step before has seen.
    let before = match (canary.has_all(), canary.verdicts.last()) {
        (true, Some(last)) => &last.before,
        _ => &counted,
    };
    let seen = sight.canary.seen();
    // Of a version that takes over no session, another one handles all messages.
    let due = verdict::look_at(seen.messages.max(seen.migrations));
    let elapsed = sight.now_ms.saturating_sub(canary.since_ms);
    let is_over = elapsed >= canary.pause_ms
        && seen.messages >= canary.messages
        && enough_before(before, canary);
    let runs = canary.wanted == Wanted::Running;
    // At each doubling of the messages; and once more before it goes on.
    let goes_on = is_over && runs && sight.behind == 0;
    let looks = due.is_some() && (due > sight.looked || goes_on);
    let found = match (looks, due) {
        (true, Some(due)) => verdict::look(before, &sight.canary, verdict::alpha_at(due)),
        _ => verdict::Found::default(),
    };
    let looked = due.max(sight.looked);
    let verdict = |good: bool, reasons: Vec<Reason>| Verdict {
        step: canary.step,
        at_ms: sight.now_ms,
        good,
        before: before.clone(),
        canary: seen.clone(),
        reasons: reasons.into_iter().map(|reason| reason.of(before, &seen)).collect(),
        left: None,
        unknown: Unknown::default(),
    };
    if !found.bad.is_empty() {
        return (Next::GoBack(verdict(false, found.bad)), looked);
    }
    if !runs {
        return (Next::Wait("it is held"), looked);
    }
    let is_suspect = !found.suspect.is_empty();
    let why = if elapsed < canary.pause_ms {
        "its pause is not over"
    } else if sight.behind > 0 {
        "not all slots have switched, or a node does not answer"
    } else if !is_over {
        "too few messages"
    } else if is_suspect {
        "one or two sessions fail more often"
    } else {
        let good = verdict(true, Vec::new());
        return match canary.has_all() {
            true => (Next::Promote(good), looked),
            false => (Next::Step(good), looked),
        };
    };
    let patience = canary.pause_ms.saturating_add(limits::CANARY_PATIENCE.as_millis() as u64);
    if elapsed < patience {
        return (Next::Wait(why), looked);
    }
    let why = format!(
        "{why} ({} of {} of the canary's, {} of the version before)",
        seen.messages, canary.messages, before.messages
    );
    (Next::Hold(why), looked)
}

/// Whether the version before was seen enough to be compared with: as often as the canary has to be, as far as slots
/// of its are left.
fn enough_before(before: &Seen, canary: &Canary) -> bool {
    before.messages >= canary.messages.min(limits::CANARY_MESSAGES_MIN)
}
