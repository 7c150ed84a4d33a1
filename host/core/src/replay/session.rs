//! One session in memory, and the entries of its history run on it.

use super::{
    instances::{Instances, Version},
    nothing::Nothing,
    outcome::{Outcome, Replied},
};
use crate::{
    effects::{
        Change, Effect, Entered, Firing, Forked, Inherited, Origin, Timer, rows::Name, send::Number,
    },
    error::StateError,
    level::NEWEST,
    limits,
    log::record::{DeploymentId, Entry, Event, Head},
    message::Incoming,
    names::{SessionKey, SlotId},
    operator,
    plugin::{self, Call, Failure, Input, PluginError, State as _, StateFault},
    service::compatibility::{Migrate, takes_over},
    slot::{
        effects::{Effects, Numbers},
        overlay::Transaction,
        session::Session,
    },
    state::StateStore,
};
use bytes::Bytes;
use std::{ops::Bound, sync::Arc};

/// It has one session, of one slot.
pub(super) const SLOT: SlotId = 0;
const NUMBER: u64 = 1;

/// A session at a place of its history: where a replay begins, and what one is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// The last message before it; 0: there is none yet.
    pub seq: u64,
    pub created_ms: u64,
    pub updated_ms: u64,
    /// Whose shape the state has.
    pub deployment: DeploymentId,
    pub state: Vec<(String, Bytes)>,
    /// Timers, open requests, and what else a handler may ask for.
    pub effects: Vec<(Name, Effect)>,
}

/// Which versions an entry is run on.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    pub on: &'a Version,
    /// The version whose shape the state has, if that is of another deployment: `migrate` runs first.
    pub from: Option<&'a str>,
}

/// What an entry of a history was.
#[derive(Debug)]
pub enum Step {
    Handled(Box<Handled>),
    /// A part of an answer that was shown, or one of several messages of the session that this one was forked off: no
    /// handler was called.
    Part,
    /// An operator's.
    Entered {
        /// A session was brought in, or forked off another one, and this is its (last) part: what is before it was not
        /// handled here.
        import: bool,
        /// The history has what was written. Else the state after it is not known.
        is_known: bool,
    },
}

/// A message that was run.
#[derive(Debug)]
pub struct Handled {
    /// `migrate` has run before it.
    pub migrated: bool,
    pub outcome: Outcome,
    pub host_calls: u32,
    /// What it has computed, `migrate` included; 0 where that is not counted.
    pub fuel: u64,
}

/// Why an entry can't be run. It says nothing of the session.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unable {
    #[error("there is no instance: {0}")]
    NoInstance(PluginError),
    #[error("a call was ended early")]
    Cut,
    #[error("{0}")]
    State(#[from] StateError),
    #[error("the session has {bytes} bytes in memory, more than a replay may have")]
    TooLarge { bytes: usize },
}

/// One session, in memory.
#[derive(Debug)]
pub struct Replay {
    /// `None`: a call has not given it back.
    pub(super) session: Option<Box<Session>>,
    pub(super) store: Store,
    numbers: Numbers,
}

#[derive(Clone)]
pub(super) struct Store(pub Arc<dyn StateStore>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing")
    }
}

/// The session, and what came of a message.
type Ran = (Box<Session>, Result<Done, Failed>);

struct Done {
    replied: Replied,
    host_calls: u32,
    fuel: u64,
}

/// Why a message did not come to a reply.
enum Failed {
    By(Failure),
    Migrate(String),
}

/// The session, and why it can't go on.
type Stopped = (Option<Box<Session>>, Unable);

impl Base {
    /// Of a session that has all of its state in memory, and its effects loaded.
    pub(crate) fn of(session: &Session) -> Self {
        let values = session.values.starting(Bound::Unbounded);
        let state = values.filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        let effects = session.effects.iter().flat_map(|effects| effects.iter());
        Self {
            seq: session.head.seq,
            created_ms: session.head.created_ms,
            updated_ms: session.head.updated_ms,
            deployment: session.head.deployment,
            state: state.collect(),
            effects: effects.map(|(name, effect)| (name.clone(), effect.clone())).collect(),
        }
    }
}

impl Replay {
    /// # Errors
    /// The effects can't be put in place: a bug.
    pub fn new(key: SessionKey, base: Base) -> Result<Self, StateError> {
        let head = Head {
            session_number: NUMBER,
            seq: base.seq,
            created_ms: base.created_ms,
            updated_ms: base.updated_ms,
            deployment: base.deployment,
            ..Head::default()
        };
        let mut session = Box::new(Session::new(key, head));
        for (key, value) in base.state {
            session.head.state_keys += 1;
            session.head.state_bytes += (key.len() + value.len()) as u64;
            session.cache_value(key, Some(value));
        }
        let store = Store(Arc::new(Nothing));
        session.load_effects(&*store.0, SLOT)?;
        session.change_effects(|effects| {
            base.effects
                .into_iter()
                .try_for_each(|(name, effect)| effects.change(name, Some(effect)).map(drop))
        })?;
        let numbers = Numbers { slot_count: 1, last: Number { term: 1, index: 0 } };
        Ok(Self { session: Some(session), store, numbers })
    }

    /// The last entry that was run.
    pub fn seq(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.head.seq)
    }

    /// The deployment whose shape the state has; `None`: there is no session yet.
    pub fn deployment(&self) -> Option<DeploymentId> {
        let session = self.session.as_ref().filter(|session| session.exists())?;
        Some(session.head.deployment)
    }

    /// Where it is.
    pub fn base(&self) -> Base {
        self.session.as_ref().map_or_else(Base::default, |session| Base::of(session))
    }

    /// Its values, in the order of the keys.
    pub fn state(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        let session = self.session.iter();
        let values = session.flat_map(|session| session.values.starting(Bound::Unbounded));
        values.filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }

    /// Runs the next entry.
    ///
    /// # Errors
    /// Why that can't be done. The session is as it was.
    pub async fn step(
        &mut self,
        entry: &Entry,
        runs: Runs<'_>,
        instances: &mut Instances,
    ) -> Result<Step, Unable> {
        if let Some(Origin::Inherited(inherited)) = entry.origin.as_deref() {
            return self.inherit(entry, inherited);
        }
        if entry.is_operators() {
            return self.enter(entry);
        }
        if matches!(entry.origin.as_deref(), Some(Origin::Part(_))) {
            self.advance(entry, entry.deployment);
            return Ok(Step::Part);
        }
        let mut session = self.take()?;
        let mut has_forgotten = false;
        let (session, result) = loop {
            let (mut back, result) = match self.run(session, entry, runs, instances).await {
                Ok(ran) => ran,
                Err((session, why)) => {
                    self.session = session;
                    return Err(why);
                }
            };
            let had_no_room =
                matches!(result, Err(Failed::By(Failure::Limit(_) | Failure::Full(_))));
            // What ended beside messages, as a timer that was given up, is still there. Without it there is room.
            if had_no_room && !has_forgotten && forget_effects(&mut back) {
                (session, has_forgotten) = (back, true);
                continue;
            }
            break (back, result);
        };
        let bytes = session.footprint();
        self.session = Some(session);
        if bytes > limits::REPLAY_SESSION_BYTES_MAX {
            return Err(Unable::TooLarge { bytes });
        }
        let (outcome, host_calls, fuel) = match result {
            Ok(done) => (Outcome::Replied(done.replied), done.host_calls, done.fuel),
            Err(Failed::Migrate(why)) => (Outcome::Failed { kind: "migrate", why }, 0, 0),
            Err(Failed::By(Failure::Rejected(rejection))) => (Outcome::Rejected(rejection), 0, 0),
            Err(Failed::By(failure)) => {
                (Outcome::Failed { kind: failure.kind(), why: failure.to_string() }, 0, 0)
            }
        };
        self.advance(entry, runs.on.id);
        let migrated = runs.from.is_some();
        Ok(Step::Handled(Box::new(Handled { migrated, outcome, host_calls, fuel })))
    }

    /// Has `migrate` of a version take the session over, as its next message would; `time_ms`: the time of that.
    /// The answer is why it does not. What it writes is the session's then.
    ///
    /// # Errors
    /// Why that can't be done. The session is as it was.
    pub async fn migrate(
        &mut self,
        on: &Version,
        from: &str,
        time_ms: u64,
        instances: &mut Instances,
    ) -> Result<Result<(), Refused>, Unable> {
        let session = self.take()?;
        let seq = session.head.seq + 1;
        let tx = Transaction::new(SLOT, self.store.0.clone(), session).at_level(NEWEST);
        let migrated = migrate(Box::new(tx), (seq, time_ms), on, from, instances).await;
        let (tx, refused, _) = match migrated {
            Ok(migrated) => migrated,
            Err((session, why)) => {
                self.session = session;
                return Err(why);
            }
        };
        if let Some(refused) = refused {
            self.session = Some(tx.discard());
            return Ok(Err(refused));
        }
        let (mut session, fault) = match tx.merge(&mut self.numbers) {
            Ok((session, _)) => (session, None),
            Err((session, fault)) => (session, Some(fault)),
        };
        if fault.is_none() {
            session.head.deployment = on.id;
        }
        self.session = Some(session);
        Ok(match fault {
            None => Ok(()),
            Some(fault) => {
                let failure = failure_of(fault);
                Err(Refused { kind: failure.kind(), why: failure.to_string() })
            }
        })
    }

    /// Takes what another session has handled, and is behind it then, if it is the last.
    fn inherit(&mut self, entry: &Entry, inherited: &Inherited) -> Result<Step, Unable> {
        let before = self.take()?;
        let mut session = Box::new(Session::new(before.key.clone(), before.head.clone()));
        (session.head.state_keys, session.head.state_bytes) = (0, 0);
        session.load_effects(&*self.store.0, SLOT)?;
        session.forked = Some(Some(inherited.forked.clone()));
        for (key, value) in inherited.state.iter().flat_map(|state| &state.writes) {
            let Some(value) = value else { continue };
            session.head.state_keys += 1;
            session.head.state_bytes += (key.len() + value.len()) as u64;
            session.cache_value(key.clone(), Some(value.clone()));
        }
        self.session = Some(session);
        self.advance(entry, entry.deployment);
        Ok(match entry.seq == inherited.forked.at {
            true => Step::Entered { import: true, is_known: inherited.state.is_some() },
            false => Step::Part,
        })
    }

    /// Random bytes are as they were for the session that it was forked off.
    pub fn seed(&mut self, forked: Arc<Forked>) {
        if let Some(session) = &mut self.session {
            session.forked = Some(Some(forked));
        }
    }

    /// Writes what an operator has written.
    fn enter(&mut self, entry: &Entry) -> Result<Step, Unable> {
        let import = import_of(entry);
        let entered = match entry.origin.as_deref() {
            Some(Origin::Operator(entered)) => Some(entered),
            _ => None,
        };
        // A larger one came in parts, of which this is one.
        let is_all =
            |entered: &Entered| import.is_none_or(|keys| keys == Some(entered.writes.len() as u64));
        let entered = entered.filter(|entered| is_all(entered));
        if let Some(entered) = entered {
            let mut session = self.take()?;
            if import.is_some() {
                // What there was came out of messages that were handled elsewhere.
                let mut fresh = Box::new(Session::new(session.key.clone(), session.head.clone()));
                fresh.forked = session.forked.clone();
                (fresh.head.state_keys, fresh.head.state_bytes) = (0, 0);
                fresh.load_effects(&*self.store.0, SLOT)?;
                forget_effects(&mut fresh);
                session = fresh;
            }
            let mut tx = Transaction::new(SLOT, self.store.0.clone(), session);
            let written = entered.writes.iter().try_for_each(|(key, value)| match value {
                Some(value) => tx.set(key, value.clone()),
                None => tx.delete(key),
            });
            let merged = match written {
                Ok(()) => tx.merge(&mut self.numbers),
                Err(fault) => Err((tx.discard(), fault)),
            };
            let (session, fault) = match merged {
                Ok((session, _)) => (session, None),
                Err((session, fault)) => (session, Some(fault)),
            };
            self.session = Some(session);
            if let Some(fault) = fault {
                return Err(StateError::Corrupt(format!("an operator's entry: {fault}")).into());
            }
        }
        self.advance(entry, entry.deployment);
        Ok(Step::Entered { import: import.is_some(), is_known: entered.is_some() })
    }

    pub(super) fn take(&mut self) -> Result<Box<Session>, Unable> {
        let lost = || StateError::Unavailable("a call has not given its session back".into());
        Ok(self.session.take().ok_or_else(lost)?)
    }

    /// It is behind an entry, whatever came of that.
    fn advance(&mut self, entry: &Entry, deployment: DeploymentId) {
        let Some(session) = &mut self.session else { return };
        if !session.exists() {
            session.head.created_ms = entry.time_ms;
        }
        session.head.seq = entry.seq;
        session.head.updated_ms = entry.time_ms;
        session.head.deployment = deployment;
    }

    async fn run(
        &mut self,
        session: Box<Session>,
        entry: &Entry,
        runs: Runs<'_>,
        instances: &mut Instances,
    ) -> Result<Ran, Stopped> {
        let origin = entry.origin.clone();
        let fires = fires(&session, origin.as_deref());
        let mut tx = Transaction::new(SLOT, self.store.0.clone(), session).at_level(NEWEST);
        if let Some((name, left)) = fires {
            tx.fire(name, left);
        }
        let (mut tx, mut fuel) = (Box::new(tx), 0);
        if let Some(from) = runs.from {
            let at = (entry.seq, entry.time_ms);
            let (back, refused, used) = migrate(tx, at, runs.on, from, instances).await?;
            (tx, fuel) = (back, used);
            if let Some(refused) = refused {
                return Ok((tx.discard(), Err(Failed::Migrate(refused.why))));
            }
            tx.end_phase();
        }
        let message = Incoming {
            id: entry.sent_key().map(str::to_owned),
            sender: entry.sender.clone(),
            content_type: entry.content_type.clone(),
            body: entry.body.clone(),
            trace: None,
            client: None,
        };
        if matches!(origin.as_deref(), Some(Origin::Http(_))) {
            tx.takes(message.body.len());
        }
        let input = Input::Handle { message: Arc::new(message), origin };
        let at = (entry.seq, entry.time_ms);
        let (tx, outcome) = call(tx, at, runs.on, input, instances).await?;
        let Called { result, events, ephemeral, host_calls, .. } = outcome;
        fuel += outcome.fuel;
        let reply = match result {
            Ok(reply) => reply,
            Err(failure) => return Ok((tx.discard(), Err(Failed::By(failure)))),
        };
        match tx.merge(&mut self.numbers) {
            Ok((mut session, written)) => {
                let sent = send_all(&mut session, &written.effects);
                if let Err(why) = sent {
                    return Err((Some(session), why.into()));
                }
                let replied = Replied {
                    content_type: reply.content_type,
                    body: reply.body,
                    events,
                    ephemeral,
                    caused: written.caused,
                    effects: written.effects,
                    writes: written.state,
                };
                Ok((session, Ok(Done { replied, host_calls, fuel })))
            }
            Err((session, fault)) => Ok((session, Err(Failed::By(failure_of(fault))))),
        }
    }
}

/// What a call came to.
pub(super) struct Called {
    pub result: Result<plugin::Reply, Failure>,
    events: Vec<Event>,
    ephemeral: Vec<Event>,
    host_calls: u32,
    used_state: bool,
    fuel: u64,
}

/// Why `migrate` did not take a session over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As [`Failure::kind`]; `rejected`: it has said so itself, or has none.
    pub kind: &'static str,
    pub why: String,
}

/// Calls `migrate`: the transaction, why it refuses, and what it computed. `at`: the number and the time of the message
/// that it is for.
async fn migrate(
    tx: Box<Transaction>,
    at: (u64, u64),
    on: &Version,
    from: &str,
    instances: &mut Instances,
) -> Result<(Box<Transaction>, Option<Refused>, u64), Stopped> {
    let input = Input::Migrate { from: from.to_owned() };
    let (tx, called) = call(tx, at, on, input, instances).await?;
    let rejected = |why| Some(Refused { kind: "rejected", why });
    let refused = match called.result {
        Ok(_) => {
            let migrate = if called.used_state { Migrate::Own } else { Migrate::None };
            let taken = takes_over(migrate, from, &on.version, on.same_state);
            taken.err().and_then(|refusal| rejected(refusal.reason(from, &on.version).to_string()))
        }
        Err(Failure::Rejected(rejection)) => rejected(rejection.message),
        Err(failure) => Some(Refused { kind: failure.kind(), why: failure.to_string() }),
    };
    Ok((tx, refused, called.fuel))
}

/// Calls, and gives the transaction back. `place`: the message's number and time.
pub(super) async fn call(
    tx: Box<Transaction>,
    (seq, time_ms): (u64, u64),
    on: &Version,
    input: Input,
    instances: &mut Instances,
) -> Result<(Box<Transaction>, Called), Stopped> {
    let mut instance = match instances.take(on).await {
        Ok(instance) => instance,
        Err(why) => return Err((Some(tx.discard()), Unable::NoInstance(why))),
    };
    let session = tx.session().key.clone();
    let call = Call { session, seq, time_ms, state: tx, input };
    let outcome = instance.call(call).await;
    let plugin::Outcome { state, result, events, ephemeral, host_calls, used_state, fuel, .. } =
        outcome;
    let Some(tx) = Transaction::from_state(state) else {
        let lost = StateError::Unavailable("a call did not give its state back".into());
        return Err((None, lost.into()));
    };
    match &result {
        Err(Failure::Cut(_)) => return Err((Some(tx.discard()), Unable::Cut)),
        Err(Failure::NoMemory(why)) => {
            return Err((Some(tx.discard()), Unable::NoInstance(PluginError::NoMemory(*why))));
        }
        Err(failure) if failure.is_fatal() => {}
        _ => instances.keep(on, instance),
    }
    Ok((tx, Called { result, events, ephemeral, host_calls, used_state, fuel }))
}

/// What the message comes from of the session's effects, and what is left of it.
fn fires(session: &Session, origin: Option<&Origin>) -> Option<(Name, Option<Effect>)> {
    match origin? {
        Origin::Timer(firing) => {
            let name = Name::Timer(firing.name.clone());
            let Effect::Timer(timer) = session.effects.as_ref()?.get(&name)? else { return None };
            // One that was given up before, and that an operator has had tried again.
            if firing.due_ms < timer.due_ms {
                return None;
            }
            let left = next_of(timer, firing).map(|timer| Effect::Timer(timer.into()));
            Some((name, left))
        }
        Origin::Http(answered) => Some((Name::Request(answered.id.clone()), None)),
        Origin::Session(_)
        | Origin::Answer(_)
        | Origin::Part(_)
        | Origin::Presence(_)
        | Origin::Client(_)
        | Origin::Inherited(_)
        | Origin::Operator(_) => None,
    }
}

/// A timer after a message of it. The message says how many of its times were past.
fn next_of(timer: &Timer, firing: &Firing) -> Option<Timer> {
    let mut due_ms = firing.due_ms;
    for _ in 0..=firing.missed.min(limits::TIMER_MISSED_COUNTED_MAX) {
        let (_, next) = timer.when.advance(due_ms, 0).ok()?;
        due_ms = next?;
    }
    let timer = timer.clone();
    Some(Timer { due_ms, next_ms: due_ms, failures: 0, reason: String::new(), ..timer })
}

/// What is sent to other sessions leaves at once: nobody takes it anywhere.
fn send_all(session: &mut Session, changes: &[Change]) -> Result<(), StateError> {
    for change in changes {
        if let Some(name @ Name::Outgoing(_)) = Name::of_row(&change.row) {
            session.change_effects(|effects| effects.change(name, None))?;
        }
    }
    Ok(())
}

/// Whether there were any.
fn forget_effects(session: &mut Session) -> bool {
    let Some(effects) = &mut session.effects else { return false };
    let had_any = effects.iter().next().is_some();
    session.bytes = session.bytes.saturating_sub(effects.memory());
    **effects = Effects::default();
    had_any
}

fn failure_of(fault: StateFault) -> Failure {
    match fault {
        StateFault::ReadOnly => Failure::Trapped(fault.to_string()),
        StateFault::Limit(what) => Failure::Limit(what),
        StateFault::Store(error) => Failure::Store(error),
        StateFault::Level(what) => Failure::Level(what),
        StateFault::Full(what) => Failure::Full(what),
    }
}

/// Whether an operator's entry brought a session in, and how many keys it had in all, if this was the last part.
fn import_of(entry: &Entry) -> Option<Option<u64>> {
    if entry.content_type != operator::CONTENT_TYPE {
        return None;
    }
    let note: serde_json::Value = serde_json::from_slice(&entry.body).ok()?;
    let is_import = note["action"] == "import";
    is_import.then(|| note["keys"].as_u64().filter(|_| note["whole"] != false))
}
