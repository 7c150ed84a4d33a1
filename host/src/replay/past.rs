//! A session as it was: its history, run up to a message, on a thread beside those that serve.
//!
//! Whoever wants it reads the history, wherever that is, and gives it to a [`Run`] a page at a time; so the next page is read
//! while one is run. What comes out is compared with what is stored on the way: a state that can't be relied on is not given.

use super::{
    aside,
    check::{Cast, Left, Progress, check_follows, is_handled, says_effects},
    versions::Versions,
};
use crate::{
    effects::Forked,
    error::{Cause, Code, Error},
    limits,
    log::record::Entry,
    message::gone,
    names::SessionKey,
    plugin::{self, Failure, Isolation, PluginError},
    replay_engine::{
        Base, Instances, Outcome, Place, Question, Replay, Runs, Seen, Step, Unable, differences,
    },
    telemetry::panics::Panicked,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

type Entries = Vec<Arc<Entry>>;

/// The threads of a node for this.
pub struct PastRuns {
    threads: Arc<Semaphore>,
    /// Those that run or wait.
    places: Arc<Semaphore>,
}

impl Default for PastRuns {
    fn default() -> Self {
        let threads = limits::past_threads(crate::thread::processors());
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            places: Arc::new(Semaphore::new(limits::PAST_WAITING_MAX)),
        }
    }
}

/// What is to be run.
pub struct Job {
    pub versions: Versions,
    pub key: SessionKey,
    /// Where it begins.
    pub base: Base,
    /// Where it ends: that message is the last one that is run.
    pub at: u64,
    /// Where random bytes come from, if not from its own name.
    pub forked: Option<Arc<Forked>>,
    /// Asked there.
    pub question: Option<Question>,
    /// The state is wanted.
    pub keeps_state: bool,
}

/// What a session was.
pub struct Reached {
    pub place: Place,
    /// To the query, and the version that gave it.
    pub answer: Option<Result<plugin::Reply, Failure>>,
    /// If it was wanted.
    pub base: Option<Base>,
    /// How long its handlers ran, about.
    pub took: Duration,
}

/// A history that is being run. Dropped, it ends.
pub struct Run {
    pages: mpsc::Sender<Entries>,
    end: oneshot::Receiver<Result<Result<Reached, Error>, Panicked>>,
}

impl PastRuns {
    /// Begins one, once there is a thread for it.
    ///
    /// # Errors
    /// `limit-reached`: too many are wanted; `unavailable`.
    pub async fn start(&self, job: Job) -> Result<Run, Error> {
        let full = || {
            let most = limits::PAST_WAITING_MAX;
            let why = format!("{most} sessions are wanted as they were already; try again");
            Error::new(Code::LimitReached, why)
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| full())?;
        let thread = self.threads.clone().acquire_owned().await;
        let permits = [place, thread.map_err(|_| stopping())?];
        let (pages, given) = mpsc::channel(limits::PAST_PAGES_AHEAD);
        let what = "a session as it was";
        let end = aside::start("slotd-replay", what, permits, move || run(job, given));
        let no_thread = |e| Error::of(Cause::Full, format!("no thread to run a history: {e}"));
        Ok(Run { pages, end: end.map_err(no_thread)? })
    }
}

impl Run {
    /// Gives it what comes next. `false`: it has ended.
    pub async fn feed(&self, entries: Entries) -> bool {
        self.pages.send(entries).await.is_ok()
    }

    /// What it has come to: all of its history was given, or it has ended.
    ///
    /// # Errors
    /// Why it can't be made again.
    pub async fn end(self) -> Result<Reached, Error> {
        drop(self.pages);
        match self.end.await {
            Ok(Ok(reached)) => reached,
            Ok(Err(panicked)) => Err(Error::internal(panicked.to_string())),
            Err(_) => Err(gone(crate::message::Purpose::Read)),
        }
    }
}

/// A run, as far as it is.
struct Running {
    replay: Replay,
    instances: Instances,
    has_caused: bool,
    /// The first message that did not come out as it is stored.
    differs: Option<u64>,
    last: u64,
    began: Instant,
}

async fn run(job: Job, mut pages: mpsc::Receiver<Entries>) -> Result<Reached, Error> {
    let Job { versions, key, base, at, forked, question, keeps_state } = job;
    let until = crate::clock::now() + limits::PAST_TIME;
    let progress = Progress::new(until);
    let mut cast = Cast::new(&versions);
    let last = base.seq;
    let mut replay = Replay::new(key, base)?;
    if let Some(forked) = forked {
        replay.seed(forked);
    }
    let instances = Instances::new(Isolation::Shared);
    let began = crate::clock::now();
    let mut it = Running { replay, instances, has_caused: false, differs: None, last, began };
    while it.last < at {
        // The one who reads it knows why there is no more.
        let Some(page) = pages.recv().await else { return Err(stopping()) };
        for entry in page.iter().take_while(|entry| entry.seq <= at) {
            if progress.is_over() {
                return Err(too_long());
            }
            it.take(&mut cast, entry).await?;
        }
    }
    if let Some(seq) = it.differs {
        return Err(unavailable(format!(
            "message {seq} does not come out as it is stored; `slotd audit` says more"
        )));
    }
    let answer = match question {
        Some(question) => {
            let on = it.replay.deployment().unwrap_or_default();
            let on = versions.get(on).await.map_err(unavailable)?;
            let asked = it.replay.query(question, &on, &mut it.instances);
            let asked = tokio::time::timeout_at(until.into(), asked).await;
            Some(asked.map_err(|_| too_long())?.map_err(unable)?)
        }
        None => None,
    };
    let place = it.replay.place();
    let base = keeps_state.then(|| it.replay.base());
    Ok(Reached { place, answer, base, took: it.began.elapsed() })
}

impl Running {
    async fn take(&mut self, cast: &mut Cast<'_>, entry: &Entry) -> Result<(), Error> {
        let gap = |why| unavailable(format!("its history has a gap: {why}"));
        check_follows(entry, self.last).map_err(gap)?;
        self.last = entry.seq;
        // What follows a difference is as wrong; but what was brought in begins anew.
        if self.differs.is_some() && is_handled(entry) {
            return Ok(());
        }
        self.has_caused |= says_effects(entry);
        let (on, from) = cast.of(entry, self.replay.deployment()).await.map_err(left)?;
        let runs = Runs { on: &on, from: from.as_deref() };
        let step = self.replay.step(entry, runs, &mut self.instances).await.map_err(unable)?;
        match step {
            Step::Handled(handled) => {
                if let Outcome::Failed { kind: "deadline" | "store", why } = &handled.outcome {
                    // It says more of this machine than of the message.
                    let why = format!("message {} could not be run: {why}", entry.seq);
                    return Err(Error::new(Code::Unavailable, why));
                }
                let stored = Seen::stored(entry, self.has_caused);
                if !differences(stored, Seen::from(&handled.outcome)).is_empty() {
                    self.differs = Some(entry.seq);
                }
            }
            Step::Part => {}
            Step::Entered { import, is_known: true } => {
                if import {
                    self.differs = None;
                }
            }
            Step::Entered { import, is_known: false } => {
                let what = if import { "the state that came" } else { "what was written" };
                return Err(unavailable(format!(
                    "the history does not have {what} with entry {}",
                    entry.seq
                )));
            }
        }
        Ok(())
    }
}

fn stopping() -> Error {
    Error::of(Cause::Stopping, "the history was not read to its end")
}

/// What it was can't be made again.
pub fn unavailable(why: impl std::fmt::Display) -> Error {
    Error::new(Code::HistoryUnavailable, format!("what the session was is not known here: {why}"))
}

fn too_long() -> Error {
    let most = limits::PAST_TIME;
    unavailable(format!("its history takes longer than {most:?} to run"))
}

fn left(why: Left) -> Error {
    match why {
        Left::Because(why) => unavailable(why),
        Left::Damage(why) => unavailable(why),
        Left::Stopped => stopping(),
    }
}

fn unable(why: Unable) -> Error {
    match why {
        Unable::State(error) => error.into(),
        Unable::NoInstance(PluginError::NoMemory(why)) => {
            Error::new(Code::MemoryFull, why.to_string())
        }
        Unable::Cut => Error::of(Cause::Cut, why.to_string()),
        Unable::NoInstance(_) | Unable::TooLarge { .. } => unavailable(why),
    }
}
