//! The last messages of a session, on the new version: from the state that the version before had at that place.
//!
//! The history is run from its begin on the versions that have handled it. From the place on the new version runs beside
//! them, on a session of its own, which it takes over as it would have there; what comes out of the two is compared.
//! A message that fails on the new version has its session set to where the other one is, so that what follows is not
//! counted for the same fault. A session that is run from its first message is set there once in the middle: the first half
//! runs as in a session that is new, the second as in one that was taken over. Behind the last message the state of the one is compared with that of the other, migrated:
//! to migrate and then run comes to the same as to run and then migrate.

use super::part::{Fresh, Wanted};
use crate::{
    gate_report::{Example, Group, Kind, StageResult, Want},
    limits,
    log::record::Entry,
    plugin::Isolation,
    replay::{
        check::{Cast, LOOK, Left, Progress, Reading, check_entered, says_effects},
        stored::Stored,
        versions::Versions,
    },
    replay_engine::{
        Base, Handled, Instances, Outcome, Replay, Runs, Seen, Step, Version,
        compare::{Found, Ignores, compare, compare_states, wants},
        differences, shown,
    },
};

/// What the replays of a part share.
pub struct Setting<'a> {
    pub candidate: &'a Version,
    pub versions: &'a Versions,
    pub ignores: &'a Ignores,
    pub progress: &'a Progress,
    pub fresh: &'a Fresh,
    pub wanted: &'a Wanted,
    /// The last messages that are run on the new version.
    pub messages: u64,
}

/// Of one thread.
pub struct Replayer<'a> {
    setting: Setting<'a>,
    before: Instances,
    after: Instances,
    fresh: Instances,
}

/// The new version's session, and one of it on new instances.
struct Lane {
    replay: Replay,
    /// `None`: it is not time for it, or there is none left.
    fresh: Option<Replay>,
    failed: u32,
    /// It has taken the session over, and did not begin it.
    has_taken: bool,
}

impl Lane {
    /// Sets it to where the version before is.
    fn set(&mut self, stored: &Stored<'_>, to: &Replay) -> Result<(), Left> {
        self.replay = Replay::new(stored.key.clone(), to.base())?;
        (self.fresh, self.has_taken) = (None, true);
        Ok(())
    }
}

/// Where a message is.
struct At<'a> {
    stored: Stored<'a>,
    seq: u64,
}

impl<'a> Replayer<'a> {
    pub fn new(setting: Setting<'a>) -> Self {
        let shared = || Instances::new(Isolation::Shared);
        Self { setting, before: shared(), after: shared(), fresh: Instances::new(Isolation::Call) }
    }

    pub async fn session(
        &mut self,
        stored: Stored<'_>,
        result: &mut StageResult,
    ) -> Result<(), Left> {
        let place = stored.head.seq.saturating_sub(self.setting.messages);
        let mut replay = Replay::new(stored.key.clone(), Base::default())?;
        let mut reading = Reading::new(stored, self.setting.progress, LOOK);
        let mut cast = Cast::new(self.setting.versions);
        let middle = if place == 0 { stored.head.seq / 2 } else { 0 };
        let (mut lane, mut has_caused) = (None::<Lane>, false);
        while let Some(entry) = reading.next()? {
            has_caused |= says_effects(&entry);
            if lane.is_none() && entry.seq > place {
                let has_taken = replay.deployment().is_some();
                let replay = Replay::new(stored.key.clone(), replay.base())?;
                lane = Some(Lane { replay, fresh: None, failed: 0, has_taken });
            }
            let Some(handled) = self.before(&mut replay, &mut cast, &entry).await? else {
                // What was entered is there for both. Of parts of an answer handlers know nothing.
                if let Some(lane) = lane.as_mut().filter(|_| entry.is_operators()) {
                    lane.set(&stored, &replay)?;
                }
                continue;
            };
            let seen = Seen::from(&handled.outcome);
            if !differences(Seen::stored(&entry, has_caused), seen).is_empty() {
                let why = "its history does not come out again on the version that has handled it \
                           (slotd audit says why)";
                return Err(Left::Because(why.into()));
            }
            let Outcome::Replied(replied) = &handled.outcome else {
                return Err(Left::Because("its history has a message that fails".into()));
            };
            let Some(lane) = &mut lane else { continue };
            if lane.failed >= limits::GATE_FAILURES_PER_SESSION {
                // What comes behind so many follows from them.
                return Ok(());
            }
            result.messages += 1;
            let at = At { stored, seq: entry.seq };
            if lane.fresh.is_none()
                && stored.head.seq.saturating_sub(entry.seq) < limits::GATE_FRESH_MESSAGES
                && self.setting.fresh.begin()
            {
                lane.fresh = Some(Replay::new(stored.key.clone(), lane.replay.base())?);
            }
            let outcome = self.after(lane, &entry, &at, result).await?;
            for found in compare(replied, &outcome, self.setting.ignores) {
                result.add(group(found, &at));
            }
            if let Outcome::Replied(after) = &outcome {
                self.setting.wanted.add(wants(replied));
                for want in wants(after) {
                    result.add(group_of_want(&want, &at));
                }
            } else {
                lane.failed += 1;
            }
            if entry.seq == middle || !matches!(outcome, Outcome::Replied(_)) {
                lane.set(&stored, &replay)?;
            }
        }
        match lane {
            Some(lane) => self.compare_states(&mut replay, &lane, &stored, result).await,
            None => Ok(()),
        }
    }

    /// Runs an entry on the version that has handled it. `None`: no handler was called for it.
    async fn before(
        &mut self,
        replay: &mut Replay,
        cast: &mut Cast<'_>,
        entry: &Entry,
    ) -> Result<Option<Box<Handled>>, Left> {
        match cast.step(replay, entry, &mut self.before).await? {
            Step::Handled(handled) => Ok(Some(handled)),
            Step::Part => Ok(None),
            Step::Entered { import, is_known } => {
                check_entered(entry.seq, import, is_known)?;
                Ok(None)
            }
        }
    }

    /// Runs a message on the new version, and once more on a new instance while there is time for that.
    async fn after(
        &mut self,
        lane: &mut Lane,
        entry: &Entry,
        at: &At<'_>,
        result: &mut StageResult,
    ) -> Result<Outcome, Left> {
        let Setting { candidate, versions, .. } = self.setting;
        let mut outcome =
            step(&mut lane.replay, candidate, versions, entry, &mut self.after).await?.outcome;
        if matches!(outcome, Outcome::Failed { kind: "deadline", .. }) {
            // May say more of a busy machine than of the version.
            outcome =
                step(&mut lane.replay, candidate, versions, entry, &mut self.after).await?.outcome;
        }
        if let Some(replay) = &mut lane.fresh {
            let begun = crate::clock::now();
            let handled = step(replay, candidate, versions, entry, &mut self.fresh).await;
            self.setting.fresh.used(begun.elapsed());
            let handled = handled?;
            let is_late = |of: &Outcome| matches!(of, Outcome::Failed { kind: "deadline", .. });
            if handled.outcome.digest() != outcome.digest() && !is_late(&handled.outcome) {
                result.add(kept(&handled.outcome, &outcome, at));
                lane.fresh = None;
            }
        }
        Ok(outcome)
    }

    /// Whether it comes to the same to run and then to migrate.
    async fn compare_states(
        &mut self,
        replay: &mut Replay,
        lane: &Lane,
        stored: &Stored<'_>,
        result: &mut StageResult,
    ) -> Result<(), Left> {
        let Setting { candidate, versions, ignores, .. } = self.setting;
        // Or nothing has run on it since it was set to where the other one is.
        if !lane.has_taken || lane.replay.deployment() != Some(candidate.id) {
            return Ok(());
        }
        let head = stored.head;
        let from = replay.deployment().filter(|of| *of != candidate.id);
        if let Some(from) = from.and_then(|from| versions.version_of(from)) {
            let migrated = replay.migrate(candidate, &from, head.updated_ms, &mut self.after);
            if migrated.await?.is_err() {
                // The stage of migrations says it.
                return Ok(());
            }
        }
        let at = At { stored: *stored, seq: head.seq };
        for found in compare_states(replay.state(), lane.replay.state(), ignores) {
            result.add(group(found, &at));
        }
        Ok(())
    }
}

/// Runs a message on a version, whichever one has the session.
pub async fn step(
    replay: &mut Replay,
    on: &Version,
    versions: &Versions,
    entry: &Entry,
    instances: &mut Instances,
) -> Result<Box<Handled>, Left> {
    let from = match replay.deployment().filter(|of| *of != on.id) {
        Some(of) => Some(versions.version_of(of).ok_or_else(|| {
            Left::Because(format!("deployment {of} is not in the catalogue").into())
        })?),
        None => None,
    };
    let runs = Runs { on, from: from.as_deref() };
    match replay.step(entry, runs, instances).await? {
        Step::Handled(handled) => Ok(handled),
        // It was looked before.
        Step::Part | Step::Entered { .. } => Err(Left::Because("a bug: no message".into())),
    }
}

fn group(found: Found, at: &At<'_>) -> Group {
    let Found { kind, path, stored, came } = found;
    Group {
        kind,
        path,
        count: 1,
        stops: false,
        example: Example {
            session: at.stored.key.session.to_string(),
            seq: at.seq,
            stored,
            came,
            capture: None,
        },
    }
}

fn group_of_want(want: &Want, at: &At<'_>) -> Group {
    let found = Found {
        kind: Kind::Want,
        path: want.to_string(),
        stored: "-".into(),
        came: format!("it {}", want.sentence()),
    };
    group(found, at)
}

fn kept(fresh: &Outcome, used: &Outcome, at: &At<'_>) -> Group {
    let (stored, came) = match differences(Seen::from(fresh), Seen::from(used)).into_iter().next() {
        Some(difference) => (difference.stored, difference.came),
        None => ("another state, or other effects".into(), shown(b"-")),
    };
    let found = Found {
        kind: Kind::KeepsMemory,
        path: String::new(),
        stored: format!("on a new instance: {stored}"),
        came: format!("on one that has run other messages: {came}"),
    };
    group(found, at)
}
