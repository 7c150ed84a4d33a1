//! A script against a component, in the plugin host that nodes have: the same checks, limits,
//! transactions and virtual WASI. The state lies in memory; what a node adds on top (the log,
//! repeats of an idempotency key) is not there.

mod fire;
mod requests;
mod sends;

use super::{
    Call, Event, Expect, Observed, Outcome, RequestChange, Sent, SetTimer, Step, TimerChange,
};
use crate::{
    database::StorageOptions,
    effects::{Change, Effect, Origin, rows::Name, send::Number},
    error::{Code, Rejection},
    level::NEWEST,
    limits,
    log::record::Head,
    message::Incoming,
    names::SessionKey,
    plugin::{
        self, Account, CompileOptions, Failure, Input, Instance, Isolation, Plugin, PluginHost,
        PluginOptions, State as _,
    },
    slot::{effects::Numbers, overlay::Transaction, session::Session},
    state::StateStore,
    storage::DataDir,
};
use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

/// A session, and what is under some of its keys.
type Looked = (Box<Session>, BTreeMap<String, Option<Bytes>>);

/// What a message causes beside its session's state.
#[derive(Default)]
struct Caused {
    events: Vec<Event>,
    notified: Vec<Event>,
    timers: Vec<TimerChange>,
    sent: Vec<Sent>,
    requests: Vec<RequestChange>,
}

/// What a message comes from of its session's effects, and what will be left of it.
type Fires = Option<(Name, Option<Effect>)>;

/// One call of a session.
struct Calling {
    input: Input,
    seq: u64,
    time_ms: u64,
    fires: Fires,
}

fn shown(events: Vec<crate::log::record::Event>) -> Vec<Event> {
    let shown = events.into_iter().map(|event| Event {
        kind: event.kind,
        content_type: event.content_type,
        body: event.body,
    });
    shown.collect()
}

/// Sessions are of one slot.
const SLOT: crate::names::SlotId = 0;

pub struct Runner {
    service: String,
    plugin: Arc<Plugin>,
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
            // Of one instance, and the one on trial.
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
            plugin,
            instance: None,
            sessions: HashMap::new(),
            numbers: Numbers { slot_count: 1, last: Number { term: 1, index: 0 } },
            store: data.state(),
            _data: data,
        })
    }

    /// Forgets every session, and the instance: what follows is another script.
    pub fn begin(&mut self) {
        self.sessions.clear();
        self.instance = None;
    }

    /// # Errors
    /// When no node would come as far as calling the handler, or the store fails.
    pub async fn run(&mut self, step: &Step) -> anyhow::Result<Observed> {
        if let Call::Advance { by_ms } = step.call {
            return self.advance(step, by_ms).await;
        }
        let key = SessionKey::parse(&self.service, &step.session).map_err(|e| anyhow!("{e}"))?;
        let mut session = match self.sessions.remove(&key) {
            Some(session) => session,
            None => {
                let head = Head { session_number: 1, created_ms: step.time_ms, ..Head::default() };
                Box::new(Session::new(key.clone(), head))
            }
        };
        if !step.given.is_empty() {
            session = self.give(session, step)?;
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

    /// Calls, and looks at what came of it.
    async fn observe(
        &mut self,
        session: Box<Session>,
        calling: Calling,
        expect: Option<&Expect>,
    ) -> anyhow::Result<(Box<Session>, Observed)> {
        let is_message = matches!(calling.input, Input::Handle { .. });
        let (seq, time_ms) = (calling.seq, calling.time_ms);
        let (mut session, outcome, caused) = self.call(session, calling).await?;
        if is_message && matches!(outcome, Outcome::Reply { .. }) {
            session.head.seq = seq;
            session.head.updated_ms = time_ms;
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

    async fn call(
        &mut self,
        session: Box<Session>,
        calling: Calling,
    ) -> anyhow::Result<(Box<Session>, Outcome, Caused)> {
        let Calling { input, seq, time_ms, fires } = calling;
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => {
                self.plugin.instantiate(Account::default(), limits::INSTANCE_MEMORY_TIMEOUT).await?
            }
        };
        let is_query = matches!(input, Input::Query { .. });
        let is_migrate = matches!(input, Input::Migrate { .. });
        let key = session.key.clone();
        let mut tx = Transaction::new(SLOT, self.store.clone(), session).at_level(NEWEST);
        if let Some((name, left)) = fires.clone() {
            tx.fire(name, left);
        }
        let tx = Box::new(tx).read_only(is_query);
        let call = plugin::Call { session: key, seq, time_ms, state: tx, input };
        let done = instance.call(call).await;
        let tx = Transaction::from_state(done.state).context("the call lost its session")?;
        let failure = match done.result {
            Ok(reply) => {
                self.instance = Some(instance);
                let outcome = Outcome::Reply { content_type: reply.content_type, body: reply.body };
                let mut caused = Caused {
                    events: shown(done.events),
                    notified: shown(done.ephemeral),
                    ..Caused::default()
                };
                if is_query {
                    return Ok((tx.discard(), outcome, Caused::default()));
                }
                if let Some(why) = requests::problem(&tx) {
                    return Ok((tx.discard(), Outcome::Limit(why), Caused::default()));
                }
                return Ok(match tx.merge(&mut self.numbers) {
                    Ok((mut session, written)) => {
                        let asked = asked(&written.effects, fires.as_ref())?;
                        caused.timers = timers(&asked, time_ms);
                        caused.requests = requests::changes(&asked);
                        caused.sent = sends::take(&mut session, &written.effects)?;
                        (session, outcome, caused)
                    }
                    Err((session, fault)) => {
                        (session, Outcome::Limit(fault.to_string()), Caused::default())
                    }
                });
            }
            Err(failure) => failure,
        };
        if !failure.is_fatal() {
            self.instance = Some(instance);
        }
        let outcome = match failure {
            Failure::Rejected(rejection) if is_migrate => Outcome::Refused(rejection.message),
            Failure::Rejected(rejection) => Outcome::Rejected(rejection),
            Failure::Trapped(why) => Outcome::Trapped(why),
            // What is sent leaves at once, so one message has sent too much. Requests stay open until a line answers.
            Failure::Limit(why) | Failure::Full(why) | Failure::Crowded(why) => Outcome::Limit(why),
            Failure::NoMemory(error) => return Err(error.into()),
            Failure::Deadline(_) => Outcome::Deadline,
            Failure::Store(error) => return Err(error.into()),
            failure @ (Failure::NoInstance(_)
            | Failure::Cut(_)
            | Failure::Level(_)
            | Failure::Forbidden(_)
            | Failure::RequestForbidden(_)) => {
                return Err(failure.into());
            }
        };
        Ok((tx.discard(), outcome, Caused::default()))
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
        Call::Http(_) | Call::Presence { .. } | Call::Advance { .. } => {
            bail!("a bug: a line that is no call of its own")
        }
    })
}
