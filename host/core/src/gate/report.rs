//! What a gate has found: of one node, and of all of them.

use super::spec::{GateSpec, Mode};
use crate::{limits, names::SlotId, text};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// What a version goes through, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// What it wants, beside the version before. On one node.
    Interface,
    /// `migrate` of every session.
    Migrate,
    /// The history of a sample, on both versions.
    Replay,
    /// What these messages cost.
    Cost,
}

/// Where a stage is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    #[default]
    Waiting,
    Running,
    Passed,
    /// It has found what stops the version.
    Stopped,
    /// It had nothing to do.
    Skipped,
}

/// In what the versions differ, or what the new one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Reply,
    ContentType,
    Event,
    Effect,
    /// It rejected what the version before answered.
    Rejection,
    Trap,
    /// It took longer than a call may.
    Late,
    /// It passed another limit.
    Limit,
    /// It failed in another way.
    Failed,
    /// `migrate` refused a session, or failed on it.
    Migrate,
    /// The state after the messages.
    State,
    Cost,
    /// It wants what the version before did not.
    Want,
    /// It keeps something in memory between calls: another instance gives another outcome.
    KeepsMemory,
}

/// What was found, counted where it is the same in kind and place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub kind: Kind,
    /// What it is of and a place in it, as `line.$.at`; a reason; a want. With `kind` and a dot before it is what
    /// `ignore` takes.
    pub path: String,
    pub count: u64,
    /// Whether it stops the version.
    pub stops: bool,
    pub example: Example,
}

/// One message of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Empty: it is of no session.
    pub session: String,
    /// 0: of no message.
    pub seq: u64,
    /// As it is with the version before.
    pub stored: String,
    /// As it is with the new one.
    pub came: String,
    /// A capture of it, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,
}

/// A sentence, and of how many sessions it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub why: String,
    /// 0: it is of none.
    pub sessions: u64,
    /// One of them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub example: String,
}

/// How much of something messages took. Counts by size, in steps of a thirty-second: two of them can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    pub total: u64,
    /// Sizes, as [`Spread::step_of`] has them, and how many there were of each.
    pub steps: BTreeMap<u16, u64>,
}

/// What messages of one kind cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Of messages, by their JSON's `type` or `kind`, or by their content type.
    pub of: String,
    pub messages: u64,
    /// Fuel: about one for each instruction. Of the version before, and of the new one.
    pub before: Spread,
    pub after: Spread,
}

/// A stage, on a node or on all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageResult {
    pub stage: Stage,
    pub standing: Standing,
    /// Why it has stopped, or was skipped.
    #[serde(default)]
    pub why: Vec<Reason>,
    /// Sessions that were seen, and those that are to be; messages that were run.
    pub seen: u64,
    pub of: u64,
    #[serde(default)]
    pub messages: u64,
    /// What was not seen, and why.
    #[serde(default)]
    pub unseen: Vec<Reason>,
    pub elapsed_ms: u64,
    #[serde(default)]
    pub groups: Vec<Group>,
    #[serde(default)]
    pub costs: Vec<Cost>,
    /// Bytes of linear memory that one instance has come to.
    #[serde(default)]
    pub memory_before: u64,
    #[serde(default)]
    pub memory_after: u64,
}

/// One node's part of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateShare {
    pub node: String,
    /// `Passed` or `Stopped` when it is at its end, whether it has seen all or not. Of the slots that are done; at
    /// the end of the others, too.
    pub result: StageResult,
    /// Slots that it has seen all of: what goes on later, here or elsewhere, leaves them out.
    pub done: Vec<SlotId>,
    pub slots_of: u32,
    /// Sessions that were seen of slots that are not done.
    pub under_way: u64,
}

/// All stages, of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    pub stages: Vec<StageResult>,
}

impl Stage {
    pub const ALL: [Self; 4] = [Self::Interface, Self::Migrate, Self::Replay, Self::Cost];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Migrate => "migrate",
            Self::Replay => "replay",
            Self::Cost => "cost",
        }
    }

    /// The one after it.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage > self)
    }

    /// Whether it looks at sessions: then it runs on each node, for the node's own slots.
    pub fn is_of_sessions(self) -> bool {
        self != Self::Interface
    }
}

impl Standing {
    /// Nothing more comes of it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Passed | Self::Stopped | Self::Skipped)
    }
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Reply,
        Self::ContentType,
        Self::Event,
        Self::Effect,
        Self::Rejection,
        Self::Trap,
        Self::Late,
        Self::Limit,
        Self::Failed,
        Self::Migrate,
        Self::State,
        Self::Cost,
        Self::Want,
        Self::KeepsMemory,
    ];

    /// Those that may be what a version is deployed for.
    pub const IGNORABLE: [Self; 6] =
        [Self::Reply, Self::ContentType, Self::Event, Self::Effect, Self::Rejection, Self::State];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::ContentType => "content-type",
            Self::Event => "event",
            Self::Effect => "effect",
            Self::Rejection => "rejection",
            Self::Trap => "trap",
            Self::Late => "late",
            Self::Limit => "limit",
            Self::Failed => "failed",
            Self::Migrate => "migrate",
            Self::State => "state",
            Self::Cost => "cost",
            Self::Want => "want",
            Self::KeepsMemory => "keeps-memory",
        }
    }

    pub fn can_be_ignored(self) -> bool {
        Self::IGNORABLE.contains(&self)
    }

    /// Whether it stops a version that nobody has accepted it of.
    pub fn stops(self, mode: Mode) -> bool {
        let is_fault = match self {
            Self::Reply | Self::ContentType | Self::Event | Self::Effect | Self::State => false,
            Self::Rejection
            | Self::Trap
            | Self::Late
            | Self::Limit
            | Self::Failed
            | Self::Migrate
            | Self::Cost
            | Self::Want
            | Self::KeepsMemory => true,
        };
        match mode {
            Mode::Strict => true,
            Mode::Report => is_fault,
            Mode::Off => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no kind of difference"))
    }
}

impl Spread {
    pub fn add(&mut self, size: u64) {
        self.total = self.total.saturating_add(size);
        *self.steps.entry(Self::step_of(size)).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        for (step, count) in &other.steps {
            *self.steps.entry(*step).or_default() += count;
        }
    }

    pub fn count(&self) -> u64 {
        self.steps.values().sum()
    }

    /// The size that so many of a thousand are not above: up to a thirty-second less than it is.
    pub fn per_mille(&self, per_mille: u64) -> u64 {
        let wanted = (u128::from(self.count()) * u128::from(per_mille)).div_ceil(1_000).max(1);
        let mut counted = 0;
        for (step, count) in &self.steps {
            counted += u128::from(*count);
            if counted >= wanted {
                return Self::size_of(*step);
            }
        }
        0
    }

    pub fn p50(&self) -> u64 {
        self.per_mille(500)
    }

    pub fn p99(&self) -> u64 {
        self.per_mille(990)
    }

    /// The step of a size: the exponent, and five bits behind the first.
    pub fn step_of(size: u64) -> u16 {
        if size < 32 {
            return size as u16;
        }
        let exponent = size.ilog2();
        let mantissa = (size >> (exponent - 5)) & 31;
        (32 * (exponent - 4)) as u16 + mantissa as u16
    }

    /// The smallest size of a step.
    pub fn size_of(step: u16) -> u64 {
        if step < 32 {
            return u64::from(step);
        }
        let (exponent, mantissa) = (u32::from(step / 32 + 4), u64::from(step % 32));
        if exponent > 63 {
            return u64::MAX;
        }
        (32 + mantissa) << (exponent - 5)
    }
}

impl Cost {
    pub fn merge(&mut self, other: &Self) {
        self.messages += other.messages;
        self.before.merge(&other.before);
        self.after.merge(&other.after);
    }

    /// How many times as much they cost, in all.
    #[allow(clippy::cast_precision_loss)]
    pub fn ratio(&self) -> f64 {
        self.after.total as f64 / self.before.total.max(1) as f64
    }
}

/// Adds a reason to those that are known, which are bounded.
pub fn add_reason(reasons: &mut Vec<Reason>, reason: Reason) {
    let why = text::cut(&reason.why, limits::GATE_TEXT_BYTES_MAX);
    if let Some(known) = reasons.iter_mut().find(|known| known.why == why) {
        known.sessions += reason.sessions;
        return;
    }
    if reasons.len() < limits::GATE_REASONS_MAX {
        reasons.push(Reason { why: why.into(), ..reason });
        return;
    }
    // The last place is for all that have none.
    if let Some(last) = reasons.last_mut() {
        last.why = "other reasons".into();
        last.sessions += reason.sessions;
    }
}

impl StageResult {
    pub fn new(stage: Stage) -> Self {
        Self {
            stage,
            standing: Standing::Waiting,
            why: Vec::new(),
            seen: 0,
            of: 0,
            messages: 0,
            unseen: Vec::new(),
            elapsed_ms: 0,
            groups: Vec::new(),
            costs: Vec::new(),
            memory_before: 0,
            memory_after: 0,
        }
    }

    /// Adds what was found. Those that stop the version have a place, whatever else there is.
    pub fn add(&mut self, mut group: Group) {
        for shown in [&mut group.path, &mut group.example.stored, &mut group.example.came] {
            shown.truncate(text::cut(shown, limits::GATE_TEXT_BYTES_MAX).len());
        }
        let same = |known: &&mut Group| known.kind == group.kind && known.path == group.path;
        if let Some(known) = self.groups.iter_mut().find(same) {
            known.count += group.count;
            known.stops |= group.stops;
            return;
        }
        if self.groups.len() < limits::GATE_GROUPS_MAX {
            self.groups.push(group);
            return;
        }
        let stops = group.stops;
        let of_kind = |known: &&mut Group| known.kind == group.kind && known.path == OTHERS;
        if let Some(others) = self.groups.iter_mut().find(of_kind) {
            others.count += group.count;
            others.stops |= stops;
        } else if self.groups.len() < limits::GATE_GROUPS_MAX + Kind::ALL.len() {
            self.groups.push(Group { path: OTHERS.into(), ..group });
        }
    }

    pub fn add_unseen(&mut self, why: &str, session: &str) {
        let reason = Reason { why: why.into(), sessions: 1, example: session.into() };
        add_reason(&mut self.unseen, reason);
    }

    /// Sessions that were not seen.
    pub fn unseen(&self) -> u64 {
        self.unseen.iter().map(|reason| reason.sessions).sum()
    }

    /// How long the rest takes, if it goes on as it has begun.
    pub fn remaining_ms(&self) -> Option<u64> {
        let left = u128::from(self.of.checked_sub(self.seen)?);
        let all = (left * u128::from(self.elapsed_ms)).checked_div(u128::from(self.seen))?;
        u64::try_from(all).ok()
    }

    /// Another node's, or what was found before this one was begun again.
    pub fn merge(&mut self, other: Self) {
        self.seen += other.seen;
        self.of += other.of;
        self.messages += other.messages;
        self.elapsed_ms = self.elapsed_ms.max(other.elapsed_ms);
        self.memory_before = self.memory_before.max(other.memory_before);
        self.memory_after = self.memory_after.max(other.memory_after);
        other.groups.into_iter().for_each(|group| self.add(group));
        other.why.into_iter().for_each(|why| add_reason(&mut self.why, why));
        other.unseen.into_iter().for_each(|why| add_reason(&mut self.unseen, why));
        for cost in other.costs {
            add_cost(&mut self.costs, cost);
        }
        self.standing = match (self.standing, other.standing) {
            (Standing::Running, _) | (_, Standing::Running) => Standing::Running,
            (Standing::Waiting, _) | (_, Standing::Waiting) => Standing::Waiting,
            (Standing::Stopped, _) | (_, Standing::Stopped) => Standing::Stopped,
            (Standing::Passed, _) | (_, Standing::Passed) => Standing::Passed,
            (Standing::Skipped, Standing::Skipped) => Standing::Skipped,
        };
    }
}

/// Adds to the costs that are known, which are bounded.
pub fn add_cost(costs: &mut Vec<Cost>, cost: Cost) {
    if let Some(known) = costs.iter_mut().find(|known| known.of == cost.of) {
        known.merge(&cost);
    } else if costs.len() < limits::GATE_KINDS_MAX {
        costs.push(cost);
    } else if let Some(last) = costs.last_mut() {
        last.of = OTHERS.into();
        last.merge(&cost);
    }
}

/// Of groups and costs that have no place of their own.
pub const OTHERS: &str = "others";

impl GateReport {
    /// A stage of all nodes, in the place of what was known of it. Decides it when they are all at the end.
    pub fn merge(&mut self, stage: Stage, spec: &GateSpec, shares: &[GateShare]) -> &StageResult {
        let mut parts = shares.iter().map(|share| &share.result).filter(|it| it.stage == stage);
        let mut result = parts.next().cloned().unwrap_or_else(|| StageResult::new(stage));
        parts.cloned().for_each(|part| result.merge(part));
        if result.standing.is_over() && result.standing != Standing::Skipped {
            super::verdict::decide(&mut result, spec);
        }
        let at = match self.stages.iter().position(|known| known.stage >= stage) {
            Some(at) if self.stages[at].stage == stage => {
                self.stages[at] = result;
                at
            }
            at => {
                let at = at.unwrap_or(self.stages.len());
                self.stages.insert(at, result);
                at
            }
        };
        &self.stages[at]
    }

    /// The stage that has stopped the version.
    pub fn stopped(&self) -> Option<&StageResult> {
        self.stages.iter().find(|stage| stage.standing == Standing::Stopped)
    }

    /// Whether anything differs, stopping or not.
    pub fn differs(&self) -> bool {
        self.stages.iter().any(|stage| !stage.groups.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(kind: Kind, path: String) -> Group {
        Group { kind, path, count: 1, stops: false, example: Example::default() }
    }

    /// A version that differs in every session has a report all the same; and a trap among so many replies shows.
    #[test]
    fn groups_are_counted_and_bounded() {
        let mut result = StageResult::new(Stage::Replay);
        for n in 0..3 * limits::GATE_GROUPS_MAX {
            result.add(group(Kind::Reply, format!("$.{}", n / 2)));
        }
        result.add(group(Kind::Trap, "at last".into()));
        let of = |path: &str| result.groups.iter().find(|group| group.path == path).unwrap();
        assert_eq!((of("$.0").count, of(OTHERS).count), (2, 100));
        assert_eq!(result.groups.len(), limits::GATE_GROUPS_MAX + 2);
        let traps = result.groups.iter().filter(|group| group.kind == Kind::Trap);
        assert_eq!(traps.map(|group| group.count).sum::<u64>(), 1);
        let mut unseen = StageResult::new(Stage::Migrate);
        (0..100).for_each(|n| unseen.add_unseen(&format!("reason {n}"), "x"));
        assert_eq!((unseen.unseen.len(), unseen.unseen()), (limits::GATE_REASONS_MAX, 100));
        let mut costs = Vec::new();
        (0..100).for_each(|n| {
            add_cost(&mut costs, Cost { of: format!("{n}"), messages: 1, ..Cost::default() })
        });
        assert_eq!(costs.len(), limits::GATE_KINDS_MAX);
        assert_eq!(costs.iter().map(|cost| cost.messages).sum::<u64>(), 100);
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        let mut result = StageResult::new(Stage::Migrate);
        assert_eq!(result.remaining_ms(), None);
        (result.seen, result.of, result.elapsed_ms) = (1_000, 4_000, 500);
        assert_eq!(result.remaining_ms(), Some(1_500));
    }

    proptest! {
        /// What nodes have counted apart comes to what one would have counted, and to what it was, but for a thirty-second.
        #[test]
        fn spreads_add_up(sizes in prop::collection::vec(0_u64..1 << 50, 1..60), at in 0_usize..60) {
            let of = |sizes: &[u64]| {
                let mut spread = Spread::default();
                sizes.iter().for_each(|size| spread.add(*size));
                spread
            };
            let at = at.min(sizes.len());
            let mut merged = of(&sizes[..at]);
            merged.merge(&of(&sizes[at..]));
            prop_assert_eq!(&merged, &of(&sizes));
            let mut sorted = sizes.clone();
            sorted.sort_unstable();
            for (shown, real) in [
                (merged.p50(), sorted[(sorted.len() - 1) / 2]),
                (merged.p99(), sorted[(sorted.len() * 99).div_ceil(100) - 1]),
            ] {
                prop_assert!(shown <= real && real - shown <= real / 32, "{shown} {real}");
            }
        }

        #[test]
        fn a_size_is_in_its_step(size in any::<u64>()) {
            let step = Spread::step_of(size);
            prop_assert!(Spread::size_of(step) <= size);
            prop_assert!(size < Spread::size_of(step + 1) || step == Spread::step_of(u64::MAX));
        }
    }
}
