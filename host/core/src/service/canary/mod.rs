//! A canary: a new version that runs in a few of a service's slots first, then in more, as long as it does no worse
//! than the version in the others.
//!
//! Which slots those are follows from the service's record alone ([`Share`]), so every node knows it, and one that joins
//! or takes a slot over learns it as it learns what the service runs. Each step is a generation of its own: slots switch
//! to it as in a swap, and a slot that missed it is found as one that missed a swap.
//!
//! [`plan`] decides what is to be done next, from what [`counts`] has counted, by the tests of [`verdict`].

pub mod counts;
pub mod plan;
#[cfg(test)]
mod tests;
pub mod verdict;

use super::{
    Change, Deployment,
    deployments::{Author, Service},
};
use crate::{
    error::{Code, Error},
    level::Unknown,
    limits,
    log::record::DeploymentId,
    names::SlotId,
    plugin::Digest,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use verdict::Seen;

/// All of a service's slots, in thousandths.
pub const ALL: u16 = 1000;
/// The steps where nobody says others: 1 %, 10 %, 50 %, all.
pub const STEPS_DEFAULT: [u16; 4] = [10, 100, 500, ALL];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryOptions {
    /// Thousandths of the slots, rising; the last is [`ALL`].
    pub steps: Vec<u16>,
    /// How long a step takes at least.
    pub pause_ms: u64,
    /// How many messages and queries the new version has to have handled in a step before it goes on.
    pub messages: u64,
}

impl Default for CanaryOptions {
    fn default() -> Self {
        let pause_ms = limits::CANARY_PAUSE_DEFAULT.as_millis() as u64;
        Self { steps: STEPS_DEFAULT.into(), pause_ms, messages: limits::CANARY_MESSAGES_DEFAULT }
    }
}

impl CanaryOptions {
    /// Adds the last step, if it is not there, and checks all.
    ///
    /// # Errors
    /// Why they can't be used.
    pub fn checked(mut self) -> Result<Self, String> {
        if self.steps.last().is_some_and(|last| *last < ALL) {
            self.steps.push(ALL);
        }
        let rise = self.steps.windows(2).all(|pair| pair[0] < pair[1]);
        let first = self.steps.first().copied().unwrap_or_default();
        if !rise || !(1..ALL).contains(&first) || self.steps.last() != Some(&ALL) {
            return Err(
                "the steps of a canary rise, from above 0 to 100 %, and the first is below 100 %"
                    .into(),
            );
        }
        if self.steps.len() > limits::CANARY_STEPS_MAX {
            return Err(format!("a canary has at most {} steps", limits::CANARY_STEPS_MAX));
        }
        let max = limits::CANARY_PAUSE_MAX;
        if u128::from(self.pause_ms) > max.as_millis() {
            return Err(format!("a canary's pause is at most {} days", max.as_secs() / 86_400));
        }
        let range = limits::CANARY_MESSAGES_MIN..=limits::CANARY_MESSAGES_MAX;
        if !range.contains(&self.messages) {
            return Err(format!(
                "a step of a canary waits for {} to {} messages",
                range.start(),
                range.end()
            ));
        }
        Ok(self)
    }
}

/// What is to become of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// It goes on by itself.
    Running,
    /// It stays at its step. If it does badly, it goes back all the same.
    Held,
    /// Its version is the service's now.
    Promoted,
    /// The version before runs in all slots again.
    Aborted,
}

impl Wanted {
    pub fn as_str(self) -> &'static str {
        match self {
            Wanted::Running => "running",
            Wanted::Held => "held",
            Wanted::Promoted => "promoted",
            Wanted::Aborted => "aborted",
        }
    }
}

/// A service's canary, or what became of the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Of the service's deployments: the one that is tried.
    pub deployment: DeploymentId,
    /// The one that it is compared with.
    pub before: DeploymentId,
    /// The generation in which it began.
    pub begun: u64,
    /// The service's slots.
    pub slot_count: u16,
    /// Thousandths of the slots.
    pub steps: Vec<u16>,
    /// Which one it is at, from 0.
    pub step: u8,
    pub started_ms: u64,
    /// When it came to this step.
    pub since_ms: u64,
    pub pause_ms: u64,
    pub messages: u64,
    pub wanted: Wanted,
    /// Why it is held, or has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of the steps that it has done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// Who began it, as the request said and as it was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<str>>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a step has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub step: u8,
    pub at_ms: u64,
    pub good: bool,
    /// Of the version before, in the same time; of the last step, which all slots take part in: in the step before.
    pub before: Seen,
    pub canary: Seen,
    /// What was bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Of one that went back: the sessions that it had handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The sessions that a canary which goes back has handled last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub sessions: u64,
    /// Why they stay on its version; absent: they go back, or the `migrate` of the version before decides for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays: Option<String>,
}

/// Which of a service's slots run a canary's version.
///
/// The slots have an order of the canary's own, and a step takes the first of it: so each step has the slots of the one
/// before. The order is a permutation `a·slot + b` of the numbers of slots, which needs no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    slot_count: u16,
    /// How many have it.
    taken: u16,
    a: u32,
    b: u32,
}

impl Share {
    fn new(seed: u64, slot_count: u16, permille: u16) -> Self {
        let count = u32::from(slot_count.max(1));
        // Rounded up: no step is empty.
        let taken = (count * u32::from(permille.min(ALL))).div_ceil(u32::from(ALL));
        let hash = xxhash_rust::xxh3::xxh3_64(&seed.to_le_bytes());
        let mut a = (hash as u32 % count).max(1);
        while gcd(a, count) != 1 {
            a = a % count + 1;
        }
        let b = (hash >> 32) as u32 % count;
        Self { slot_count: slot_count.max(1), taken: taken as u16, a, b }
    }

    pub fn has(&self, slot: SlotId) -> bool {
        let count = u64::from(self.slot_count);
        let rank = (u64::from(self.a) * u64::from(slot) + u64::from(self.b)) % count;
        rank < u64::from(self.taken)
    }

    /// How many slots have it.
    pub fn slots(&self) -> u16 {
        self.taken
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Canary {
    /// Whether its version runs in some slots only because of it.
    pub fn is_live(&self) -> bool {
        matches!(self.wanted, Wanted::Running | Wanted::Held)
    }

    pub fn permille(&self) -> u16 {
        self.steps.get(usize::from(self.step)).copied().unwrap_or(ALL)
    }

    /// Whether it is at the step that has all slots.
    pub fn has_all(&self) -> bool {
        self.permille() >= ALL
    }

    pub fn share(&self) -> Share {
        let seed = self.begun ^ u64::from(self.deployment).rotate_left(32);
        Share::new(seed, self.slot_count, self.permille())
    }

    /// What is counted belongs to a step of a canary.
    pub fn trial(&self) -> (u64, u8) {
        (self.begun, self.step)
    }

    fn author(&self) -> Author {
        Author { said: self.by.clone(), identity: self.identity.clone() }
    }
}

impl Service {
    /// The canary that runs or is held.
    pub fn live_canary(&self) -> Option<&Canary> {
        self.canary.as_ref().filter(|canary| canary.is_live())
    }

    /// The service with a canary of `digest` at its first step; `None`: that is what runs already.
    ///
    /// # Errors
    /// `swap-in-progress` if it has a canary, `request-invalid` if it runs nothing, or has had too many deployments.
    pub fn with_canary(
        &self,
        version: Option<&str>,
        digest: Digest,
        change: &Change,
        options: &CanaryOptions,
        slot_count: u16,
    ) -> Result<Option<Service>, Error> {
        self.check_no_canary()?;
        if self.is_removed() {
            return Err(Error::new(
                Code::RequestInvalid,
                format!("{} runs nothing yet: its first version can't be a canary", self.name),
            ));
        }
        if self.runs_already(digest, change) {
            return Ok(None);
        }
        let options = options.clone().checked();
        let options = options.map_err(|why| Error::new(Code::RequestInvalid, why))?;
        let mut next = self.clone();
        let deployment = next.add(version, digest, change)?;
        next.generation += 1;
        next.canary = Some(Canary {
            deployment,
            before: self.target().id(),
            begun: next.generation,
            slot_count,
            steps: options.steps,
            step: 0,
            started_ms: change.now_ms,
            since_ms: change.now_ms,
            pause_ms: options.pause_ms,
            messages: options.messages,
            wanted: Wanted::Running,
            why: None,
            verdicts: Vec::new(),
            by: change.by.said.clone(),
            identity: change.by.identity.clone(),
            unknown: Unknown::default(),
        });
        Ok(Some(next))
    }

    /// # Errors
    /// `swap-in-progress`: it has a canary.
    pub fn check_no_canary(&self) -> Result<(), Error> {
        let Some(canary) = self.live_canary() else { return Ok(()) };
        let label = self.deployment(canary.deployment).map_or("", |d| &*d.label);
        Err(Error::new(
            Code::SwapInProgress,
            format!(
                "{0} has a canary, {label}: end it first, with `slotd swap {0} --promote` or `slotd swap {0} --abort`",
                self.name
            ),
        ))
    }

    /// # Errors
    /// `deployment-not-found`: it has none.
    fn changed_canary(&self, change: impl FnOnce(&mut Canary)) -> Result<Service, Error> {
        let mut next = self.clone();
        let Some(canary) = next.canary.as_mut().filter(|canary| canary.is_live()) else {
            let why = format!("{} has no canary", self.name);
            return Err(Error::new(Code::DeploymentNotFound, why));
        };
        change(canary);
        next.generation += 1;
        Ok(next)
    }

    /// At the next step, after `verdict`.
    ///
    /// # Errors
    /// `deployment-not-found`: it has no canary.
    pub fn with_next_step(&self, verdict: Verdict, now_ms: u64) -> Result<Service, Error> {
        self.changed_canary(|canary| {
            canary.step = canary.step.saturating_add(1);
            canary.since_ms = now_ms;
            canary.why = None;
            canary.keep(verdict);
        })
    }

    /// # Errors
    /// As [`Self::with_next_step`].
    pub fn with_canary_held(&self, why: Option<String>) -> Result<Service, Error> {
        self.changed_canary(|canary| {
            canary.wanted = Wanted::Held;
            canary.why = why;
        })
    }

    /// Going on, as long as there is time for a step again.
    ///
    /// # Errors
    /// As [`Self::with_next_step`].
    pub fn with_canary_resumed(&self, now_ms: u64) -> Result<Service, Error> {
        self.changed_canary(|canary| {
            canary.wanted = Wanted::Running;
            canary.why = None;
            canary.since_ms = now_ms;
        })
    }

    /// With the version before in all slots again.
    ///
    /// # Errors
    /// As [`Self::with_next_step`].
    pub fn with_canary_aborted(
        &self,
        why: String,
        verdict: Option<Verdict>,
    ) -> Result<Service, Error> {
        self.changed_canary(|canary| {
            canary.wanted = Wanted::Aborted;
            canary.why = Some(why);
            if let Some(verdict) = verdict {
                canary.keep(verdict);
            }
        })
    }

    /// With the canary's version as the service's; a rollback goes back to the one before. `by`: who says so, if it is
    /// not by itself.
    ///
    /// # Errors
    /// As [`Self::with_next_step`].
    pub fn with_canary_promoted(
        &self,
        why: String,
        verdict: Option<Verdict>,
        by: Option<Author>,
        now_ms: u64,
    ) -> Result<Service, Error> {
        let mut ended = self.changed_canary(|canary| {
            canary.wanted = Wanted::Promoted;
            canary.why = Some(why);
            if let Some(verdict) = verdict {
                canary.keep(verdict);
            }
        })?;
        if let Some(canary) = ended.canary.clone() {
            let by = by.unwrap_or_else(|| canary.author());
            // One generation for both.
            ended.generation -= 1;
            ended.promote(canary.deployment, &Change { by, now_ms, ..Change::default() });
            ended.canary = Some(canary);
        }
        Ok(ended)
    }
}

impl Canary {
    fn keep(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
        let extra = self.verdicts.len().saturating_sub(limits::CANARY_VERDICTS_MAX);
        self.verdicts.drain(..extra);
    }

    /// The label of its version.
    pub fn label(&self, of: &Service) -> Option<Arc<str>> {
        of.deployment(self.deployment).map(|d: &Deployment| d.label.clone())
    }
}
