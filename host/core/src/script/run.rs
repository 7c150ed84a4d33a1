//! A script against a component, in the plugin host that nodes have: the same checks, limits,
//! transactions and virtual WASI. The state lies in memory; what a node adds on top (the log,
//! repeats of an idempotency key) is not there.

mod attempt;
mod fire;
mod record;
mod requests;
mod sends;
mod standing;

pub use record::LastMessage;
pub use standing::{Standing, Waiting};

use super::{Call, Expect, Observed, Outcome, SetTimer, Step, TimerChange};
use crate::{
    database::StorageOptions,
    effects::{Change, Effect, Origin, rows::Name, send::Number},
    error::{Code, Rejection},
    limits,
    log::record::Head,
    message::Incoming,
    names::SessionKey,
    plugin::{
        CompileOptions, Input, Instance, Isolation, Plugin, PluginHost, PluginOptions, State as _,
    },
    slot::{effects::Numbers, overlay::Transaction, session::Session},
    state::StateStore,
    storage::DataDir,
};
use anyhow::{Context, anyhow, bail, ensure};
use attempt::Caused;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A session, and what is under some of its keys.
type Looked = (Box<Session>, BTreeMap<String, Option<Bytes>>);

/// What a message comes from of its session's effects, and what will be left of it.
type Fires = Option<(Name, Option<Effect>)>;

/// One call of a session.
#[derive(Clone)]
struct Calling {
    input: Input,
    seq: u64,
    time_ms: u64,
    fires: Fires,
}

/// Sessions are of one slot.
const SLOT: crate::names::SlotId = 0;

/// A component that sessions can be handled by.
struct Version {
    plugin: Arc<Plugin>,
    /// As `migrate` is told it.
    name: String,
}

pub struct Runner {
    service: String,
    host: PluginHost,
    /// The first is the one that each script begins with.
    versions: Vec<Version>,
    /// Those that a script swaps to, by the files that it names.
    swaps: HashMap<PathBuf, usize>,
    /// Of [`Self::versions`], the one that handles what comes.
    current: usize,
    /// The one that has handled a session last.
    handled_by: HashMap<SessionKey, usize>,
    /// Each call is made again by a new instance from the same state, and what comes out is compared.
    is_checked: bool,
    /// A line that says so is checked as well, and the new instance goes on.
    crashes: bool,
    /// The last message is kept.
    keeps_last: bool,
    last: Option<Box<LastMessage>>,
    /// One for all sessions, as in a slot; a new one after a failure.
    instance: Option<Instance>,
    sessions: HashMap<SessionKey, Box<Session>>,
    numbers: Numbers,
    store: Arc<dyn StateStore>,
    /// Keeps the store's folder locked.
    _data: DataDir,
}

impl Runner {
    /// Checks and compiles a component; `folder` is empty, and the runner's.
    ///
    /// # Errors
    /// When the component is refused, or the folder can't be written.
    pub async fn new(service: &str, component: Bytes, folder: &Path) -> anyhow::Result<Self> {
        let host = PluginHost::new(PluginOptions {
            dir: folder.join("plugins"),
            memory_bytes: limits::GUEST_MEMORY_BYTES_DEFAULT,
            // Of one instance, a second one that is compared to it, and the one on trial.
            memory_total_bytes: 4 * limits::GUEST_MEMORY_BYTES_DEFAULT,
            deadline: limits::GUEST_DEADLINE_DEFAULT,
            host_calls: limits::HOST_CALLS_MAX,
            compile: CompileOptions::default(),
            isolation: Isolation::Shared,
            long_threads: 1,
            source: None,
        })?;
        let plugin = host.add(component).await?;
        let options = StorageOptions { slot_count: 1, ..StorageOptions::default() };
        let data = DataDir::open(&folder.join("data"), options)?;
        Ok(Self {
            service: service.to_owned(),
            host,
            versions: vec![Version::of(plugin)],
            swaps: HashMap::new(),
            current: 0,
            handled_by: HashMap::new(),
            is_checked: false,
            crashes: false,
            keeps_last: false,
            last: None,
            instance: None,
            sessions: HashMap::new(),
            numbers: Numbers { slot_count: 1, last: Number { term: 1, index: 0 } },
            store: data.state(),
            _data: data,
        })
    }

    /// Checks and compiles a component that a script swaps to, by the name of `file`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn load(&mut self, file: PathBuf, component: Bytes) -> anyhow::Result<()> {
        let plugin = self.host.add(component).await?;
        let known = self.versions.iter();
        let mut known = known.map(|version| version.plugin.digest());
        let at = known.position(|digest| digest == plugin.digest());
        let at = at.unwrap_or(self.versions.len());
        if at == self.versions.len() {
            self.versions.push(Version::of(plugin));
        }
        self.swaps.insert(file, at);
        Ok(())
    }

    /// Whether from now on each call is made again by a new instance from the same state, and what comes out is
    /// compared: as if a node failed at every message.
    pub fn check_all(&mut self, is_checked: bool) {
        self.is_checked = is_checked;
    }

    /// Forgets every session, and the instance: what follows is another script.
    pub fn begin(&mut self) {
        self.sessions.clear();
        self.handled_by.clear();
        self.current = 0;
        self.instance = None;
    }

    /// # Errors
    /// When no node would come as far as calling the handler, or the store fails.
    pub async fn run(&mut self, step: &Step) -> anyhow::Result<Observed> {
        self.crashes = step.crash;
        match &step.call {
            Call::Advance { by_ms } => return self.advance(step, *by_ms).await,
            Call::Swap { component } => return self.swap(component, step),
            _ => {}
        }
        let service = step.service.as_deref().unwrap_or(&self.service);
        let key = SessionKey::parse(service, &step.session).map_err(|e| anyhow!("{e}"))?;
        let mut session = match self.sessions.remove(&key) {
            Some(session) => session,
            None => {
                let head = Head { session_number: 1, created_ms: step.time_ms, ..Head::default() };
                Box::new(Session::new(key.clone(), head))
            }
        };
        if !step.given.is_empty() {
            session = self.give(session, step)?;
            self.handled_by.entry(key.clone()).or_insert(self.current);
        }
        if !matches!(step.call, Call::Query { .. } | Call::Migrate { .. })
            && session.load_effects(&*self.store, SLOT)?.is_closed()
        {
            let (session, observed) = self.refuse(session, step)?;
            self.sessions.insert(key, session);
            return Ok(observed);
        }
        let seq = match &step.call {
            Call::Message { .. } | Call::Delivery { .. } => session.head.seq + 1,
            Call::Timer { .. } | Call::Answer { .. } | Call::Http(_) | Call::Presence { .. }
                if session.exists() =>
            {
                session.head.seq + 1
            }
            Call::Query { .. } | Call::Migrate { .. } if session.exists() => session.head.seq,
            _ => bail!("the session {:?} has no message yet, and no state is given", step.session),
        };
        let (session, observed) = match &step.call {
            Call::Http(answer) => self.answer(session, answer, step).await?,
            Call::Presence { present } => self.tell(session, *present, step).await?,
            call => {
                let fires = match call {
                    Call::Timer { firing, .. } => {
                        self.left_of(&mut session, &firing.name, step.time_ms)?
                    }
                    _ => None,
                };
                let calling = Calling { input: input(call)?, seq, time_ms: step.time_ms, fires };
                self.observe(session, calling, Some(&step.expect)).await?
            }
        };
        self.sessions.insert(key, session);
        Ok(observed)
    }

    /// Each session goes on with that component from its next message on.
    fn swap(&mut self, file: &Path, step: &Step) -> anyhow::Result<Observed> {
        let next = self.swaps.get(file).copied();
        self.current = next.with_context(|| format!("{} is not loaded", file.display()))?;
        self.instance = None;
        let outcome = Outcome::Reply { content_type: String::new(), body: Bytes::new() };
        Ok(nothing(outcome, step))
    }

    /// Calls, and looks at what came of it.
    async fn observe(
        &mut self,
        session: Box<Session>,
        calling: Calling,
        expect: Option<&Expect>,
    ) -> anyhow::Result<(Box<Session>, Observed)> {
        let is_message = matches!(calling.input, Input::Handle { .. });
        let (seq, time_ms) = (calling.seq, calling.time_ms);
        let (mut session, outcome, caused, unlike) = self.call(session, calling).await?;
        if is_message && matches!(outcome, Outcome::Reply { .. }) {
            session.head.seq = seq;
            session.head.updated_ms = time_ms;
            self.handled_by.insert(session.key.clone(), self.current);
        }
        let seq = session.head.seq;
        let expires_ms = self.expiry_of(&mut session)?;
        let closed = session.load_effects(&*self.store, SLOT)?.is_closed();
        let (session, state) = self.look(session, expect)?;
        let Caused { events, notified, timers, sent, requests } = caused;
        let fired = Vec::new();
        let observed = Observed {
            outcome,
            seq,
            expires_ms,
            time_ms,
            events,
            notified,
            timers,
            sent,
            requests,
            closed,
            fired,
            state,
            unlike,
        };
        Ok((session, observed))
    }

    /// A closed session takes no message, of whomever. No handler is called.
    fn refuse(
        &mut self,
        mut session: Box<Session>,
        step: &Step,
    ) -> anyhow::Result<(Box<Session>, Observed)> {
        let rejection = Rejection {
            code: Code::SessionClosed.as_str().into(),
            message: format!("{} is closed, and takes no more messages", session.key),
            retriable: false,
        };
        let (seq, expires_ms) = (session.head.seq, self.expiry_of(&mut session)?);
        let (session, state) = self.look(session, Some(&step.expect))?;
        let outcome = Outcome::Rejected(rejection);
        let observed = Observed { seq, expires_ms, closed: true, state, ..nothing(outcome, step) };
        Ok((session, observed))
    }

    /// Puts the state that a script gives into a session, which is there from then on.
    fn give(&mut self, session: Box<Session>, step: &Step) -> anyhow::Result<Box<Session>> {
        let mut tx = Transaction::new(SLOT, self.store.clone(), session);
        for (key, value) in &step.given {
            tx.set(key, value.clone()).with_context(|| format!("the state given for {key:?}"))?;
        }
        let merged = tx.merge(&mut self.numbers).map_err(|(_, fault)| fault);
        let (mut session, _) = merged.context("the state that is given")?;
        session.head.seq = session.head.seq.max(1);
        Ok(session)
    }

    /// What is under the keys that are asked for.
    fn look(&self, session: Box<Session>, expect: Option<&Expect>) -> anyhow::Result<Looked> {
        let mut tx = Transaction::new(SLOT, self.store.clone(), session);
        let mut state = BTreeMap::new();
        for key in expect.into_iter().flat_map(Expect::keys) {
            state.insert(key.to_owned(), tx.get(key)?);
        }
        Ok((tx.discard(), state))
    }
}

/// What came of a call of no effect.
fn nothing(outcome: Outcome, step: &Step) -> Observed {
    Observed {
        outcome,
        seq: 0,
        expires_ms: None,
        time_ms: step.time_ms,
        events: Vec::new(),
        notified: Vec::new(),
        timers: Vec::new(),
        sent: Vec::new(),
        requests: Vec::new(),
        closed: false,
        fired: Vec::new(),
        state: BTreeMap::new(),
        unlike: Vec::new(),
    }
}

impl Version {
    fn of(plugin: Arc<Plugin>) -> Self {
        // As a deploy that names no version.
        let name = plugin.version().unwrap_or("0.0.0").to_owned();
        Self { plugin, name }
    }
}

/// The effects that a message changed. That the one that it comes from goes on, or ends, is not its doing; nor is what
/// ends because it closes the session.
fn asked(
    changes: &[Change],
    fires: Option<&(Name, Option<Effect>)>,
) -> anyhow::Result<Vec<(Name, Option<Effect>)>> {
    let mut found = Vec::new();
    for change in changes {
        let Some(name) = Name::of_row(&change.row) else { continue };
        let effect = change.value.as_ref().map(|value| Effect::decode(&name, value)).transpose();
        let effect = effect.map_err(|why| anyhow!("an effect of the message: {why}"))?;
        if fires.is_none_or(|(fired, left)| *fired != name || *left != effect) {
            found.push((name, effect));
        }
    }
    if found.iter().any(|(name, effect)| *name == Name::Closed && effect.is_some()) {
        found.retain(|(_, effect)| effect.is_some());
    }
    Ok(found)
}

/// The timers that a message set or cancelled.
fn timers(asked: &[(Name, Option<Effect>)], time_ms: u64) -> Vec<TimerChange> {
    let changes = asked.iter().filter_map(|(name, effect)| {
        let Name::Timer(name) = name else { return None };
        let set = match effect {
            Some(Effect::Timer(timer)) => Some(SetTimer {
                due_ms: timer.due_ms,
                time_ms,
                content_type: timer.content_type.clone(),
                body: timer.body.clone(),
            }),
            _ => None,
        };
        Some(TimerChange { name: name.clone(), set })
    });
    changes.collect()
}

/// A message that no client has sent.
fn of_session(origin: Option<Box<Origin>>, content_type: String, body: Bytes) -> Input {
    let message =
        Incoming { id: None, sender: None, content_type, body, trace: None, client: None };
    Input::Handle { message: message.into(), origin }
}

/// What the edge of a node would let through.
fn input(call: &Call) -> anyhow::Result<Input> {
    let size = |body: &Bytes| {
        let bytes_max = limits::BODY_BYTES_MAX;
        ensure!(body.len() <= bytes_max, "a body has {bytes_max} bytes at most");
        Ok(())
    };
    Ok(match call.clone() {
        Call::Message { sender, id, content_type, body, client } => {
            size(&body)?;
            let message = Incoming { id, sender, content_type, body, trace: None, client: None };
            let origin = client.map(|client| Box::new(Origin::Client(client)));
            Input::Handle { message: Arc::new(message), origin }
        }
        Call::Query { content_type, body, client } => {
            size(&body)?;
            Input::Query { content_type, body, client }
        }
        Call::Migrate { from } => Input::Migrate { from },
        Call::Timer { firing, content_type, body } => {
            size(&body)?;
            let origin = Some(Box::new(Origin::Timer(firing)));
            of_session(origin, content_type, body)
        }
        Call::Delivery { received, content_type, body } => {
            size(&body)?;
            let origin = Some(Box::new(Origin::Session(received)));
            of_session(origin, content_type, body)
        }
        Call::Answer { answered, content_type, body } => {
            let origin = Some(Box::new(Origin::Answer(answered)));
            of_session(origin, content_type, body)
        }
        Call::Http(_) | Call::Presence { .. } | Call::Advance { .. } | Call::Swap { .. } => {
            bail!("a bug: a line that is no call of its own")
        }
    })
}
