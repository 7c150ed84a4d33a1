//! One session: run from its beginning, and compared with what is stored.

use super::{
    cause::{self, Cause},
    choice::AuditSpec,
    report::{Finding, Looks},
    stored::{History, Stored},
    versions::Versions,
};
use crate::{
    effects::Origin,
    error::StateError,
    level::HTTP_FROM,
    limits,
    log::record::{DeploymentId, Entry},
    plugin::Isolation,
    replay_engine::{
        Base, Difference, Instances, Outcome, Replay, Runs, Seen, Step, Unable, Version, What,
        differences,
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// What the threads of a job share while they run.
#[derive(Debug)]
pub struct Progress {
    /// Messages that were run.
    pub messages: AtomicU64,
    stop: AtomicBool,
    until: Instant,
}

impl Progress {
    pub fn new(until: Instant) -> Self {
        Self { messages: AtomicU64::new(0), stop: AtomicBool::new(false), until }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more is to be run.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || crate::clock::now() >= self.until
    }
}

/// Messages between two looks at the clock.
pub const LOOK: u64 = 64;

/// What became of a session.
#[derive(Debug)]
pub enum Checked {
    /// What is stored came out, all of it.
    Same,
    /// As far as it goes. Why no further.
    Partly(Arc<str>),
    Differs(Box<Finding>),
    /// The job is over.
    Stopped,
}

/// Why a session was not run to its end.
#[derive(Debug)]
pub enum Left {
    Because(Arc<str>),
    /// The store is damaged there.
    Damage(String),
    Stopped,
}

impl From<StateError> for Left {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Corrupt(why) => Self::Damage(why),
            StateError::Unavailable(why) => Self::Because(why.into()),
        }
    }
}

impl From<Unable> for Left {
    fn from(why: Unable) -> Self {
        match why {
            Unable::State(error) => error.into(),
            why @ (Unable::NoInstance(_) | Unable::Cut | Unable::TooLarge { .. }) => {
                Self::Because(why.to_string().into())
            }
        }
    }
}

/// A session's history, read in its order and within its time. Counts what was run.
pub struct Reading<'a> {
    history: History<'a>,
    progress: &'a Progress,
    until: Instant,
    /// So often is the time looked at, in messages.
    every: u64,
    /// The last message that is wanted.
    to: Option<u64>,
    /// There are others behind it.
    is_cut: bool,
    last: u64,
    last_ms: u64,
}

impl<'a> Reading<'a> {
    pub fn new(stored: Stored<'a>, progress: &'a Progress, every: u64) -> Self {
        let until = crate::clock::now() + limits::AUDIT_SESSION_TIME;
        let history = stored.history();
        Self { history, progress, until, every, to: None, is_cut: false, last: 0, last_ms: 0 }
    }

    /// # Errors
    /// There is no time for it, or the store is damaged.
    pub fn next(&mut self) -> Result<Option<Arc<Entry>>, Left> {
        let next = self.history.next()?;
        if next.as_ref().is_some_and(|entry| entry.seq.is_multiple_of(self.every)) {
            if self.progress.is_over() {
                return Err(Left::Stopped);
            }
            if crate::clock::now() >= self.until {
                let most = limits::AUDIT_SESSION_TIME;
                let why = format!("the session takes longer than {most:?} to run");
                return Err(Left::Because(why.into()));
            }
        }
        let Some(entry) = next else { return Ok(None) };
        if self.to.is_some_and(|to| entry.seq > to) {
            self.is_cut = true;
            return Ok(None);
        }
        check_order(&entry, self.last, self.last_ms)?;
        (self.last, self.last_ms) = (entry.seq, entry.time_ms);
        self.progress.messages.fetch_add(1, Ordering::Relaxed);
        Ok(Some(entry))
    }
}

/// The versions that the entries of one history run on.
pub struct Cast<'a> {
    versions: &'a Versions,
    /// The last one: mostly it is the next one's.
    last: Option<Arc<Version>>,
}

impl<'a> Cast<'a> {
    pub fn new(versions: &'a Versions) -> Self {
        Self { versions, last: None }
    }

    /// Runs an entry on the version that has handled it.
    ///
    /// # Errors
    /// Why it can't be run.
    pub async fn step(
        &mut self,
        replay: &mut Replay,
        entry: &Entry,
        instances: &mut Instances,
    ) -> Result<Step, Left> {
        let (on, from) = self.of(entry, replay.deployment()).await?;
        let runs = Runs { on: &on, from: from.as_deref() };
        Ok(replay.step(entry, runs, instances).await?)
    }

    /// The version that has handled an entry, and the one that its session was on before, if it was another.
    pub async fn of(
        &mut self,
        entry: &Entry,
        before: Option<DeploymentId>,
    ) -> Result<(Arc<Version>, Option<String>), Left> {
        let is_handled = is_handled(entry);
        if let Some(last) = self.last.as_ref().filter(|_| !is_handled) {
            // It is not run: any version does.
            return Ok((last.clone(), None));
        }
        let before = before.filter(|_| is_handled);
        let known = self.last.as_ref().filter(|last| last.id == entry.deployment);
        let on = match known {
            Some(known) => known.clone(),
            None => {
                let found = self.versions.get(entry.deployment).await.map_err(Left::Because)?;
                self.last.insert(found).clone()
            }
        };
        let Some(before) = before.filter(|before| *before != on.id) else { return Ok((on, None)) };
        let version = self.versions.version_of(before).ok_or_else(|| {
            Left::Because(format!("deployment {before} is not in the catalogue").into())
        })?;
        Ok((on, Some(version)))
    }
}

/// Whether a handler was called for an entry.
pub fn is_handled(entry: &Entry) -> bool {
    let origin = entry.origin.as_deref();
    !entry.is_operators() && !matches!(origin, Some(Origin::Part(_) | Origin::Inherited(_)))
}

/// Runs sessions, one after the other, on instances of its own.
pub struct Checker<'a> {
    versions: &'a Versions,
    spec: &'a AuditSpec,
    progress: &'a Progress,
    /// Whether there are few enough that differ to look closer.
    diagnoses: &'a dyn Fn() -> bool,
    instances: Instances,
}

/// A message that differs.
struct Differing {
    seq: u64,
    deployment: DeploymentId,
    differences: Vec<Difference>,
}

/// What was found on the way.
#[derive(Default)]
struct Found {
    first: Option<Differing>,
    more: u64,
    /// Feature levels before say nothing of effects where an entry has none.
    has_caused: bool,
}

impl Found {
    fn add(&mut self, differing: Differing) {
        match &self.first {
            None => self.first = Some(differing),
            Some(_) => self.more += 1,
        }
    }

    fn count(&self) -> usize {
        self.first.iter().count() + usize::try_from(self.more).unwrap_or(usize::MAX)
    }
}

impl<'a> Checker<'a> {
    pub fn new(
        versions: &'a Versions,
        spec: &'a AuditSpec,
        progress: &'a Progress,
        diagnoses: &'a dyn Fn() -> bool,
    ) -> Self {
        let instances = Instances::new(Isolation::Shared);
        Self { versions, spec, progress, diagnoses, instances }
    }

    pub async fn check(&mut self, stored: Stored<'_>) -> Checked {
        let mut found = Found::default();
        let ran = self.run(stored, &mut found).await;
        let left = match ran {
            Ok(()) => None,
            Err(Left::Stopped) => return Checked::Stopped,
            Err(Left::Because(why)) => Some(why),
            Err(Left::Damage(why)) => {
                // What is damaged can't be run: what differs before is a finding of its own.
                let seq = found.first.as_ref().map_or(0, |first| first.seq);
                let cause = Cause { looks: Looks::Damage, because: why.clone() };
                let difference =
                    Difference { what: What::History, stored: why, came: "-".to_owned() };
                let differing = Differing {
                    seq,
                    deployment: stored.head.deployment,
                    differences: vec![difference],
                };
                return Checked::Differs(self.finding(stored, differing, found.more, cause).into());
            }
        };
        let Some(first) = found.first else {
            return left.map_or(Checked::Same, Checked::Partly);
        };
        let cause = match (self.diagnoses)() {
            true => {
                let until = first.seq;
                cause::of(stored, self.versions, &mut self.instances, until, self.progress).await
            }
            false => Cause {
                looks: Looks::NotLookedAt,
                because: "too many sessions differ to run each again".into(),
            },
        };
        Checked::Differs(self.finding(stored, first, found.more, cause).into())
    }

    fn finding(
        &self,
        stored: Stored<'_>,
        differing: Differing,
        more: u64,
        cause: Cause,
    ) -> Finding {
        let Differing { seq, deployment, differences } = differing;
        Finding {
            session: stored.key.session.to_string(),
            seq,
            deployment: self.versions.label(deployment).to_string(),
            differences: differences.into_iter().map(Into::into).collect(),
            more,
            looks_like: cause.looks,
            because: cause.because,
        }
    }

    async fn run(&mut self, stored: Stored<'_>, found: &mut Found) -> Result<(), Left> {
        let mut replay = Replay::new(stored.key.clone(), Base::default())?;
        let mut reading = Reading { to: self.spec.to, ..Reading::new(stored, self.progress, LOOK) };
        let mut cast = Cast::new(self.versions);
        while let Some(entry) = reading.next()? {
            // What comes behind so many follows from them. But for an import: what is before it does not count.
            let is_enough = found.count() >= limits::AUDIT_DIFFERENCES_PER_SESSION;
            if !is_enough || entry.is_operators() {
                self.step(&mut replay, &mut cast, &entry, found).await?;
            }
        }
        if reading.is_cut {
            return Ok(());
        }
        if reading.last != stored.head.seq {
            return Err(Left::Damage(format!(
                "the session is at message {}, and its history ends with message {}",
                stored.head.seq, reading.last,
            )));
        }
        if found.first.is_none() {
            let differences = differing_state(&replay, stored)?;
            if !differences.is_empty() {
                let (seq, deployment) = (stored.head.seq, stored.head.deployment);
                found.add(Differing { seq, deployment, differences });
            }
        }
        Ok(())
    }

    async fn step(
        &mut self,
        replay: &mut Replay,
        cast: &mut Cast<'_>,
        entry: &Entry,
        found: &mut Found,
    ) -> Result<(), Left> {
        found.has_caused |= says_effects(entry);
        let handled = match cast.step(replay, entry, &mut self.instances).await? {
            Step::Handled(handled) => handled,
            Step::Part => return Ok(()),
            Step::Entered { import, is_known } => {
                return entered(entry.seq, import, is_known, found);
            }
        };
        if let Outcome::Failed { kind: "deadline" | "store", why } = &handled.outcome {
            // It says more of this machine than of the message.
            let why = format!("message {} could not be run: {why}", entry.seq);
            return Err(Left::Because(why.into()));
        }
        if !self.spec.covers(entry.seq) {
            return Ok(());
        }
        let stored = Seen::stored(entry, found.has_caused);
        let differences = differences(stored, Seen::from(&handled.outcome));
        if !differences.is_empty() {
            let (seq, deployment) = (entry.seq, entry.deployment);
            found.add(Differing { seq, deployment, differences });
        }
        Ok(())
    }
}

/// Entries are written at a feature level that says what effects they had.
pub fn says_effects(entry: &Entry) -> bool {
    let level = entry.origin.as_ref().map_or(0, |origin| origin.level());
    !entry.caused.is_empty() || level >= HTTP_FROM
}

fn check_order(entry: &Entry, last: u64, last_ms: u64) -> Result<(), Left> {
    check_follows(entry, last).map_err(Left::Damage)?;
    if entry.time_ms < last_ms {
        let why = format!(
            "message {} is of {} ms, and the one before of {last_ms}",
            entry.seq, entry.time_ms
        );
        return Err(Left::Damage(why));
    }
    Ok(())
}

/// Whether an entry is the one behind message `last`.
///
/// # Errors
/// Which it is.
pub fn check_follows(entry: &Entry, last: u64) -> Result<(), String> {
    // A session that was forked off another one begins where it was.
    match entry.seq == last + 1 || last == 0 && entry.begins() {
        true => Ok(()),
        false => Err(format!("message {} follows message {last}", entry.seq)),
    }
}

/// What is before an import does not count.
fn entered(seq: u64, import: bool, is_known: bool, found: &mut Found) -> Result<(), Left> {
    if import {
        // The messages before it were handled elsewhere, perhaps by other versions.
        (found.first, found.more) = (None, 0);
    }
    check_entered(seq, import, is_known)
}

/// What is behind an operator's entry is not known where its values are not in the history.
pub fn check_entered(seq: u64, import: bool, is_known: bool) -> Result<(), Left> {
    if is_known {
        return Ok(());
    }
    Err(Left::Because(match import {
        true => {
            "the session was imported or forked, and its history does not have the state that came with it".into()
        }
        false => format!(
            "an operator has changed the state with message {seq}, and the history does not have the values"
        )
        .into(),
    }))
}

/// The first keys whose values differ.
fn differing_state(replay: &Replay, stored: Stored<'_>) -> Result<Vec<Difference>, StateError> {
    const SHOWN: usize = 4;
    let mut found = Vec::new();
    let (mut ours, mut theirs) = (replay.state().peekable(), stored.state());
    let mut next = theirs.next()?;
    while found.len() < SHOWN {
        let order = match (ours.peek(), &next) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((key, _)), Some((other, _))) => key.as_bytes().cmp(other),
        };
        let came = if order.is_le() { ours.next() } else { None };
        let kept = if order.is_ge() { next.take() } else { None };
        if order.is_ge() {
            next = theirs.next()?;
        }
        let (came, kept) = (came, kept.as_ref());
        let values = (kept.map(|(_, value)| &value[..]), came.map(|(_, value)| &value[..]));
        if values.0 != values.1 {
            let key = match (came, kept) {
                (Some((key, _)), _) => key.into(),
                (None, Some((key, _))) => String::from_utf8_lossy(key),
                (None, None) => break,
            };
            found.push(Difference::of_state(&key, values.0, values.1));
        }
    }
    Ok(found)
}
