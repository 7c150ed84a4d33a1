//! A script against a component, in the plugin host that nodes have: the same checks, limits,
//! transactions and virtual WASI. The state lies in memory; what a node adds on top (the log,
//! repeats of an idempotency key) is not there.

use super::{Call, Event, Observed, Outcome, Step};
use crate::{
    database::StorageOptions,
    level::NEWEST,
    limits,
    log::record::Head,
    names::SessionKey,
    plugin::{
        self, Account, CompileOptions, Failure, Input, Instance, Isolation, Plugin, PluginHost,
        PluginOptions, State as _,
    },
    slot::{overlay::Transaction, session::Session},
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

/// What a message sent to the session's subscribers.
#[derive(Default)]
struct Sent {
    events: Vec<Event>,
    notified: Vec<Event>,
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
        let seq = match &step.call {
            Call::Message { .. } => session.head.seq + 1,
            Call::Query { .. } | Call::Migrate { .. } if session.exists() => session.head.seq,
            _ => bail!("the session {:?} has no message yet, and no state is given", step.session),
        };
        let (mut session, outcome, Sent { events, notified }) =
            self.call(session, step, seq).await?;
        let succeeded = matches!(outcome, Outcome::Reply { .. });
        if succeeded && matches!(step.call, Call::Message { .. }) {
            session.head.seq = seq;
            session.head.updated_ms = step.time_ms;
        }
        let seq = session.head.seq;
        let (session, state) = self.look(session, step)?;
        self.sessions.insert(key, session);
        Ok(Observed { outcome, seq, events, notified, state })
    }

    /// Puts the state that a script gives into a session, which is there from then on.
    fn give(&self, session: Box<Session>, step: &Step) -> anyhow::Result<Box<Session>> {
        let mut tx = Transaction::new(SLOT, self.store.clone(), session);
        for (key, value) in &step.given {
            tx.set(key, value.clone()).with_context(|| format!("the state given for {key:?}"))?;
        }
        let merged = tx.merge().map_err(|(_, fault)| fault);
        let (mut session, _) = merged.context("the state that is given")?;
        session.head.seq = session.head.seq.max(1);
        Ok(session)
    }

    async fn call(
        &mut self,
        session: Box<Session>,
        step: &Step,
        seq: u64,
    ) -> anyhow::Result<(Box<Session>, Outcome, Sent)> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => {
                self.plugin.instantiate(Account::default(), limits::INSTANCE_MEMORY_TIMEOUT).await?
            }
        };
        let is_query = matches!(step.call, Call::Query { .. });
        let key = session.key.clone();
        let tx = Transaction::new(SLOT, self.store.clone(), session).at_level(NEWEST);
        let tx = Box::new(tx).read_only(is_query);
        let input = input(&step.call)?;
        let call = plugin::Call { session: key, seq, time_ms: step.time_ms, state: tx, input };
        let done = instance.call(call).await;
        let tx = Transaction::from_state(done.state).context("the call lost its session")?;
        let failure = match done.result {
            Ok(reply) => {
                self.instance = Some(instance);
                let outcome = Outcome::Reply { content_type: reply.content_type, body: reply.body };
                let sent = Sent { events: shown(done.events), notified: shown(done.ephemeral) };
                if is_query {
                    return Ok((tx.discard(), outcome, Sent::default()));
                }
                return Ok(match tx.merge() {
                    Ok((session, _)) => (session, outcome, sent),
                    Err((session, fault)) => {
                        (session, Outcome::Limit(fault.to_string()), Sent::default())
                    }
                });
            }
            Err(failure) => failure,
        };
        if !failure.is_fatal() {
            self.instance = Some(instance);
        }
        let outcome = match failure {
            Failure::Rejected(rejection) if matches!(step.call, Call::Migrate { .. }) => {
                Outcome::Refused(rejection.message)
            }
            Failure::Rejected(rejection) => Outcome::Rejected(rejection),
            Failure::Trapped(why) => Outcome::Trapped(why),
            Failure::Limit(why) => Outcome::Limit(why),
            Failure::NoMemory(error) => return Err(error.into()),
            Failure::Deadline(_) => Outcome::Deadline,
            Failure::Store(error) => return Err(error.into()),
            failure @ (Failure::NoInstance(_) | Failure::Cut(_) | Failure::Level(_)) => {
                return Err(failure.into());
            }
        };
        Ok((tx.discard(), outcome, Sent::default()))
    }

    /// What is under the keys that the line asks for.
    fn look(&self, session: Box<Session>, step: &Step) -> anyhow::Result<Looked> {
        let mut tx = Transaction::new(SLOT, self.store.clone(), session);
        let mut state = BTreeMap::new();
        for key in step.expect.keys() {
            state.insert(key.to_owned(), tx.get(key)?);
        }
        Ok((tx.discard(), state))
    }
}

/// What the edge of a node would let through.
fn input(call: &Call) -> anyhow::Result<Input> {
    let size = |body: &Bytes| {
        let bytes_max = limits::BODY_BYTES_MAX;
        ensure!(body.len() <= bytes_max, "a body has {bytes_max} bytes at most");
        Ok(())
    };
    Ok(match call.clone() {
        Call::Message { sender, id, content_type, body } => {
            size(&body)?;
            Input::Handle { id, sender, origin: None, content_type, body }
        }
        Call::Query { content_type, body } => {
            size(&body)?;
            Input::Query { content_type, body }
        }
        Call::Migrate { from } => Input::Migrate { from },
    })
}
