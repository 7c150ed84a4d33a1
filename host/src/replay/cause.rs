//! Runs a session that differs again, in three ways side by side: on the instances that have run other sessions, on
//! one that has run nothing else, and on a new one for each message. A component that keeps nothing gives the same on
//! all of them.

use super::{
    check::{Cast, Left, Progress},
    report::Looks,
    stored::Stored,
    versions::Versions,
};
use crate::{
    limits,
    log::record::Entry,
    plugin::Isolation,
    replay_engine::{Base, Instances, Outcome, Replay, Seen, Step, differences},
};

/// What a difference looks like, and why.
pub(super) struct Cause {
    pub looks: Looks,
    pub because: String,
}

/// One of the ways.
struct Lane<'a> {
    on: &'static str,
    replay: Replay,
    instances: &'a mut Instances,
}

/// Runs a session up to message `until`. `used` are the instances that have shown the difference.
pub(super) async fn of(
    stored: Stored<'_>,
    versions: &Versions,
    used: &mut Instances,
    until: u64,
    progress: &Progress,
) -> Cause {
    match compare(stored, versions, used, until, progress).await {
        Ok(Some(because)) => Cause { looks: Looks::KeepsMemory, because },
        Ok(None) => Cause {
            looks: Looks::StoredDiffers,
            because: "it comes out the same whenever it is run, and is not what is stored: the \
                      component kept something in memory when it handled the message, what is \
                      stored was changed, or slotd has a fault"
                .into(),
        },
        Err(left) => Cause {
            looks: Looks::NotLookedAt,
            because: match left {
                Left::Because(why) => format!("it could not be run again: {why}"),
                Left::Damage(why) => format!("it could not be read again: {why}"),
                Left::Stopped => "there was no time to run it again".into(),
            },
        },
    }
}

/// In what the ways differ, if they do.
async fn compare(
    stored: Stored<'_>,
    versions: &Versions,
    used: &mut Instances,
    until: u64,
    progress: &Progress,
) -> Result<Option<String>, Left> {
    let (mut alone, mut fresh) =
        (Instances::new(Isolation::Shared), Instances::new(Isolation::Shared));
    let replay = || Replay::new(stored.key.clone(), Base::default());
    let mut lanes = [
        Lane { on: "an instance that has run other messages", replay: replay()?, instances: used },
        Lane { on: "one that has run only this session", replay: replay()?, instances: &mut alone },
        Lane { on: "a new instance", replay: replay()?, instances: &mut fresh },
    ];
    let fresh_from = until.saturating_sub(limits::REPLAY_FRESH_MESSAGES_MAX);
    let (mut history, mut cast) = (stored.history(), Cast::new(versions));
    while let Some(entry) = history.next()? {
        if entry.seq > until {
            break;
        }
        if progress.is_over() {
            return Err(Left::Stopped);
        }
        if entry.seq > fresh_from {
            // Messages of long ago had one for all of them: a new one for each would take too long.
            *lanes[2].instances = Instances::new(Isolation::Call);
        }
        let mut outcomes = Vec::with_capacity(lanes.len());
        for lane in &mut lanes {
            outcomes.push((lane.on, step(lane, &mut cast, &entry).await?));
        }
        if let Some(because) = disagreement(&entry, &outcomes) {
            return Ok(Some(because));
        }
    }
    Ok(None)
}

async fn step(
    lane: &mut Lane<'_>,
    cast: &mut Cast<'_>,
    entry: &Entry,
) -> Result<Option<Outcome>, Left> {
    match cast.step(&mut lane.replay, entry, lane.instances).await? {
        Step::Handled(handled) => Ok(Some(handled.outcome)),
        Step::Part | Step::Entered { .. } => Ok(None),
    }
}

fn disagreement(entry: &Entry, outcomes: &[(&str, Option<Outcome>)]) -> Option<String> {
    let mut of_all = outcomes.iter().filter_map(|(on, outcome)| Some((*on, outcome.as_ref()?)));
    // The new instance has nothing that it could have kept.
    let (new, expected) = of_all.next_back()?;
    let (other, outcome) = of_all.find(|(_, outcome)| outcome.digest() != expected.digest())?;
    let found = differences(Seen::from(expected), Seen::from(outcome));
    let seq = entry.seq;
    Some(match found.first() {
        Some(difference) => format!(
            "message {seq} gives another {} on {other} than on {new}: {} instead of {}",
            difference.what.as_str(),
            difference.came,
            difference.stored
        ),
        None => format!(
            "message {seq} writes another state, or other effects, on {other} than on {new}"
        ),
    })
}
