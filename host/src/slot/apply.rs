//! What a slot does with a message: find the session, look for a repeat, migrate if the plugin has
//! changed, call the handler, and turn what it did into a record.

use crate::{
    error::{Code, Error},
    limits,
    log::record::{
        Activate, Delete, DeploymentId, Entry, Event, Head, INTERNAL_KEY, Message, Pin, Record,
        Write,
    },
    names::{ServiceName, SessionKey},
    node_types::{Answer, Consistency, Incoming, Sent},
    plugin::{
        self, Begin, Call, Caller, Cut, Failure, Guests, Input, Outcome, PluginError, StateFault,
        Work,
    },
    service::catalogue::not_deployed,
    slot::{
        Reply, SlotStats, flush::store_error, now_ms, overlay::Transaction, session::Session,
        task::Task,
    },
    telemetry::{metrics, repeats, services::Called},
};
use bytes::Bytes;
use futures_util::FutureExt;
use std::{
    sync::Arc,
    task::Context,
    time::{Duration, Instant},
};

/// What became of a message.
enum Applied {
    New { record: Box<Message>, sent: Sent },
    Repeat(Sent),
}

/// A call's transaction, and what it came to.
type Settled = (Box<Transaction>, Result<(plugin::Reply, Vec<Event>), Failure>);

/// Which deployment a session's next call runs on.
struct Choice {
    deployment: DeploymentId,
    pinned: Option<Pin>,
}

impl Task {
    pub(super) async fn message(&mut self, key: SessionKey, message: Incoming, reply: Reply<Sent>) {
        let session = match self.take_session(&key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let mut reply = reply;
        let mut caller = |cx: &mut Context<'_>| reply.poll_closed(cx);
        let (mut session, applied) = self.apply(session, message, &mut caller).await;
        match applied {
            Ok(Applied::New { record, sent }) => {
                if record.entry.seq == 1 {
                    self.count_session(1);
                    self.next_session = self.next_session.max(record.session_number + 1);
                }
                session.changed_in = self.building.number;
                self.building.push(Record::Message(record));
                self.building.hold(reply, Ok(sent));
            }
            Ok(Applied::Repeat(sent)) => {
                self.services.of(&session.key.service).replayed();
                // It rests on the first one alone: what came later may fail without it.
                let batch = self.batch_of(&session, sent.seq);
                self.hold(batch, reply, Ok(sent));
            }
            // It may rest on what the session has: as good as a read.
            Err(error) => {
                self.hold_read(session.changed_in, Consistency::Current, reply, Err(error));
            }
        }
        self.put_session(session);
    }

    /// Applies a message to its session. On an error the session is as it was.
    async fn apply(
        &mut self,
        mut session: Box<Session>,
        message: Incoming,
        caller: &mut Caller<'_>,
    ) -> (Box<Session>, Result<Applied, Error>) {
        let active = match self.active_for(&session.key.service) {
            Ok(active) => active,
            Err(error) => return (session, Err(error)),
        };
        let fingerprint = message.id.as_ref().map_or(0, |_| fingerprint(&message));
        if let Some(id) = &message.id {
            match self.recall(&mut session, id, fingerprint) {
                Ok(None) => {}
                Ok(Some(sent)) => return (session, Ok(Applied::Repeat(sent))),
                Err(error) => return (session, Err(error)),
            }
        }
        // In a cluster the node gives its slots away instead.
        if self.context.cluster.is_none() && !self.context.store.has_room() {
            let error = Error::new(
                Code::StorageUnavailable,
                "this node's disk has less room than `store.disk_reserve`; \
                 the message was not kept, reads go on",
            );
            return (session, Err(error));
        }
        let key = session.key.clone();
        let seq = session.head.seq + 1;
        let time_ms = now_ms().max(session.head.updated_ms);
        let tx = Box::new(Transaction::new(self.slot, self.context.store.clone(), session));
        let (tx, choice, guests) = match self.prepare(tx, &active, time_ms, caller).await {
            Ok(prepared) => prepared,
            Err((session, error)) => return (session, Err(error)),
        };
        let label = guests.label.clone();
        let input = Input::Handle {
            id: message.id.clone().filter(|id| !id.starts_with(INTERNAL_KEY)),
            sender: message.sender.clone(),
            content_type: message.content_type.clone(),
            body: message.body.clone(),
        };
        let call = Call { session: key, seq, time_ms, state: tx, input };
        let (tx, result) = match self.call(&guests, call, caller).await {
            Ok(settled) => settled,
            Err((session, error)) => return (session, Err(error)),
        };
        let (answer, events) = match result {
            Ok(done) => done,
            Err(failure) => return (tx.discard(), Err(failure_error(&label, failure))),
        };
        let (mut session, writes) = match tx.merge() {
            Ok(merged) => merged,
            Err((session, fault)) => {
                let failure = fault_failure(fault);
                return (session, Err(failure_error(&label, failure)));
            }
        };
        if !session.exists() {
            session.head.session_number = self.next_session;
            session.head.created_ms = time_ms;
        }
        session.head.seq = seq;
        session.head.updated_ms = time_ms;
        session.head.deployment = choice.deployment;
        session.head.pinned = choice.pinned;
        let entry = Arc::new(Entry {
            seq,
            id: message.id,
            sender: message.sender,
            time_ms,
            content_type: message.content_type,
            body: message.body,
            reply_content_type: answer.content_type,
            reply: answer.body,
            deployment: choice.deployment,
            events,
        });
        let record = new_record(&mut session, entry, fingerprint, writes);
        let sent = self.sent(&record.entry, label, false);
        (session, Ok(Applied::New { record, sent }))
    }

    /// What the slot runs for a service. A service that was deployed a moment ago may not have
    /// reached this slot: then it goes over to it now.
    fn active_for(&mut self, service: &ServiceName) -> Result<Activate, Error> {
        if let Some(active) = self.active.get(service) {
            return Ok(active.clone());
        }
        let known = self.context.catalogue.get(service).ok_or_else(|| not_deployed(service))?;
        let record = known.activate();
        self.active.insert(service.clone(), record.clone());
        self.building.push(Record::Activate(record.clone()));
        Ok(record)
    }

    /// The answer of an earlier message with the same idempotency key.
    fn recall(
        &mut self,
        session: &mut Session,
        id: &str,
        fingerprint: u128,
    ) -> Result<Option<Sent>, Error> {
        if !session.exists() {
            return Ok(None);
        }
        let number = session.head.session_number;
        let remembered = match session.remembered.get(id) {
            Some(remembered) => Some(*remembered),
            None => self.context.store.remembered(self.slot, number, id).map_err(store_error)?,
        };
        let Some(remembered) = remembered else { return Ok(None) };
        if remembered.fingerprint != fingerprint {
            return Err(Error::new(
                Code::IdempotencyConflict,
                format!(
                    "idempotency key {id:?} was used for message {} with another body",
                    remembered.seq
                ),
            ));
        }
        let entry = match session.recent.iter().find(|entry| entry.seq == remembered.seq) {
            Some(entry) => entry.clone(),
            None => {
                let found = self.context.store.history(self.slot, number, remembered.seq - 1, 1, 0);
                let found = found.map_err(store_error)?.into_iter().next();
                found.ok_or_else(|| {
                    Error::internal(format!("message {} is missing from history", remembered.seq))
                })?
            }
        };
        let label = self.context.catalogue.label(&session.key.service, entry.deployment);
        Ok(Some(self.sent(&entry, label, true)))
    }

    fn sent(&self, entry: &Entry, plugin: Arc<str>, replayed: bool) -> Sent {
        Sent {
            seq: entry.seq,
            slot: self.slot,
            plugin,
            replayed,
            content_type: entry.reply_content_type.clone(),
            body: entry.reply.clone(),
        }
    }

    /// Decides what a session runs on, and has it loaded.
    async fn prepare(
        &mut self,
        tx: Box<Transaction>,
        active: &Activate,
        time_ms: u64,
        caller: &mut Caller<'_>,
    ) -> Result<(Box<Transaction>, Choice, Arc<Guests>), (Box<Session>, Error)> {
        let (tx, choice) = self.choose(tx, active, time_ms, caller).await?;
        match self.guests(&active.service, choice.deployment).await {
            Ok(guests) => Ok((tx, choice, guests)),
            Err(error) => Err((tx.discard(), error)),
        }
    }

    /// Decides which deployment a session runs on, migrating it within the transaction if the
    /// slot's has changed. A session that `migrate` refuses stays on its old one.
    async fn choose(
        &mut self,
        tx: Box<Transaction>,
        active: &Activate,
        time_ms: u64,
        caller: &mut Caller<'_>,
    ) -> Result<(Box<Transaction>, Choice), (Box<Session>, Error)> {
        let head = &tx.session().head;
        let target = active.deployment;
        if !tx.session().exists() || head.deployment == target {
            return Ok((tx, Choice { deployment: target, pinned: None }));
        }
        let old = head.deployment;
        if let Some(pin) = head.pinned.clone().filter(|pin| pin.against == target) {
            return Ok((tx, Choice { deployment: old, pinned: Some(pin) }));
        }
        let key = tx.session().key.clone();
        let seq = head.seq + 1;
        let from = match self.context.catalogue.deployment(&key.service, old) {
            Some(deployment) => deployment.version,
            None => format!("deployment-{old}"),
        };
        let guests = match self.guests(&key.service, target).await {
            Ok(guests) => guests,
            Err(error) => return Err((tx.discard(), error)),
        };
        let label = guests.label.clone();
        let input = Input::Migrate { from };
        let call = Call { session: key.clone(), seq, time_ms, state: tx, input };
        let (mut tx, result) = self.call(&guests, call, caller).await?;
        match result {
            Ok(_) => {
                tx.end_phase();
                Ok((tx, Choice { deployment: target, pinned: None }))
            }
            // Says nothing of the session: the next message tries again.
            Err(
                failure @ (Failure::Store(_)
                | Failure::NoMemory(_)
                | Failure::NoInstance(_)
                | Failure::Cut(_)),
            ) => Err((tx.discard(), failure_error(&label, failure))),
            // May say more of a busy machine than of the session: one that pinned it would do so
            // until the next deployment. The second time it is taken for a refusal.
            Err(failure @ Failure::Deadline(_)) if tx.session().late_to != Some(target) => {
                let mut session = tx.discard();
                session.late_to = Some(target);
                Err((session, failure_error(&label, failure)))
            }
            Err(failure) => {
                tx.clear();
                let reason = match failure {
                    Failure::Rejected(rejection) => rejection.message,
                    other => other.to_string(),
                };
                if repeats::admit("migrate refused a session", &label) {
                    tracing::warn!(session = %key, plugin = %label, reason, "migrate refused a session");
                }
                let pinned = Some(Pin { against: target, reason });
                Ok((tx, Choice { deployment: old, pinned }))
            }
        }
    }

    pub(super) async fn query(
        &mut self,
        key: SessionKey,
        content_type: String,
        body: Bytes,
        consistency: Consistency,
        reply: Reply<Answer>,
    ) {
        let session = match self.take_session(&key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let mut reply = reply;
        let mut caller = |cx: &mut Context<'_>| reply.poll_closed(cx);
        let (session, answer) = self.ask(session, content_type, body, &mut caller).await;
        self.hold_read(session.changed_in, consistency, reply, answer);
        self.put_session(session);
    }

    /// Answers a query. A session that was not yet migrated is migrated for the query alone, so
    /// that the answer is always the current version's.
    async fn ask(
        &mut self,
        session: Box<Session>,
        content_type: String,
        body: Bytes,
        caller: &mut Caller<'_>,
    ) -> (Box<Session>, Result<Answer, Error>) {
        if !session.exists() {
            let error = match self.context.catalogue.require(&session.key.service) {
                Ok(_) => no_session(&session.key),
                Err(error) => error,
            };
            return (session, Err(error));
        }
        let active = match self.active_for(&session.key.service) {
            Ok(active) => active,
            Err(error) => return (session, Err(error)),
        };
        let key = session.key.clone();
        let seq = session.head.seq;
        let time_ms = now_ms().max(session.head.updated_ms);
        let tx = Box::new(Transaction::new(self.slot, self.context.store.clone(), session));
        let (tx, _, guests) = match self.prepare(tx, &active, time_ms, caller).await {
            Ok(prepared) => prepared,
            Err((session, error)) => return (session, Err(error)),
        };
        let label = guests.label.clone();
        let state = tx.read_only(true);
        let input = Input::Query { content_type, body };
        let call = Call { session: key, seq, time_ms, state, input };
        let (tx, result) = match self.call(&guests, call, caller).await {
            Ok(settled) => settled,
            Err((session, error)) => return (session, Err(error)),
        };
        let answer =
            result.map_err(|failure| failure_error(&label, failure)).map(|(answer, _)| Answer {
                slot: self.slot,
                plugin: label,
                seq,
                content_type: answer.content_type,
                body: answer.body,
            });
        (tx.discard(), answer)
    }

    pub(super) fn delete(&mut self, key: &SessionKey, reply: Reply<()>) {
        let mut session = match self.take_session(key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        if !session.exists() {
            let none = Err(no_session(key));
            self.hold_read(session.changed_in, Consistency::Current, reply, none);
            return self.put_session(session);
        }
        let session_number = session.head.session_number;
        self.building.push(Record::Delete(Delete { key: key.clone(), session_number }));
        self.context.plugins.pool().forget(key);
        // What stays in the cache says that the name is free, until the store says so too.
        session = Box::new(Session::new(key.clone(), Head::default()));
        session.changed_in = self.building.number;
        self.count_session(-1);
        self.building.hold(reply, Ok(()));
        self.put_session(session);
    }

    // ---- instances -----------------------------------------------------------------------------

    /// A deployment, loaded if need be.
    async fn guests(
        &mut self,
        service: &ServiceName,
        deployment: DeploymentId,
    ) -> Result<Arc<Guests>, Error> {
        if let Some(guests) = self.context.plugins.pool().get(service, deployment) {
            return Ok(guests);
        }
        let mut known = self.context.catalogue.deployment(service, deployment);
        let registry = self.context.cluster.as_ref().and_then(|cluster| cluster.registry.clone());
        if let (None, Some(registry)) = (&known, registry) {
            // Another node deployed it a moment ago.
            let ensured = self.beside_commits(registry.ensure(service, deployment)).await;
            known = ensured?.deployment(deployment).cloned();
        }
        let known = known.ok_or_else(|| {
            Error::new(
                Code::PluginUnavailable,
                format!("deployment {deployment} of {service} is not in this node's catalogue"),
            )
        })?;
        let context = self.context.clone();
        let label = known.label;
        let load = async { context.plugins.load(known.digest).await };
        let plugin = self.beside_commits(load).await.map_err(|why| unavailable(&label, why))?;
        Ok(context.plugins.pool().add(service, deployment, label, plugin))
    }

    /// Runs a call beside commits: on this thread for its first slice, unless those of this slot, or
    /// of the service, tend to be long.
    async fn call(
        &mut self,
        guests: &Arc<Guests>,
        call: Call,
        caller: &mut Caller<'_>,
    ) -> Result<Settled, (Box<Session>, Error)> {
        let called = match call.input {
            Input::Handle { .. } => Called::Handle,
            Input::Query { .. } => Called::Query,
            Input::Migrate { .. } => Called::Migrate,
        };
        let (context, signal, key) =
            (self.context.clone(), self.signal.clone(), call.session.clone());
        let lane = context.plugins.lane();
        let begin = match self.long.get(&guests.service) {
            Some(cost) => Begin::Lane { cost: *cost },
            None if !lane.may_begin_here(&guests.service) => Begin::Lane { cost: Duration::ZERO },
            None => Begin::Here,
        };
        signal.reset();
        let future = guests.clone().call(call, signal.clone()).boxed();
        let work = Work { service: Some(&guests.service), begin, signal: &signal, future };
        let ending = ending(self.stats.clone(), context.plugins.deadline());
        let started = Instant::now();
        let ran = self.beside_commits(lane.run(work, caller, ending)).await;
        let counted = self.services.of(&guests.service);
        counted.called(called, started.elapsed(), ran.output.host_calls.into());
        if let Some(took) = ran.lane {
            self.note_long(&guests.service, begin, took);
        }
        self.settle(guests, key, ran.output)
    }

    /// Remembers what a long call cost: where the next of its slot begins, and whose comes first.
    fn note_long(&mut self, service: &ServiceName, began: Begin, took: Duration) {
        if began != Begin::Here && took < limits::GUEST_SLICE {
            self.long.remove(service);
            return;
        }
        let cost = self.long.entry(service.clone()).or_default();
        *cost = *cost / 2 + took;
    }

    /// Takes the state back from a call.
    fn settle(
        &mut self,
        guests: &Guests,
        key: SessionKey,
        outcome: Outcome,
    ) -> Result<Settled, (Box<Session>, Error)> {
        match &outcome.result {
            Ok(_) | Err(Failure::NoInstance(_) | Failure::Cut(_)) => {}
            Err(Failure::Rejected(_)) => self.services.of(&guests.service).rejected(),
            Err(failure) => {
                self.services.of(&guests.service).trapped(failure.kind());
                let about = format_args!("{} {}", guests.service, failure.kind());
                if repeats::admit("a call failed", about) {
                    tracing::warn!(
                        slot = self.slot,
                        service = %guests.service,
                        plugin = %guests.label,
                        kind = failure.kind(),
                        %failure,
                        "a call failed; its instance is replaced"
                    );
                }
            }
        }
        let Outcome { state, result, events, .. } = outcome;
        match Transaction::from_state(state) {
            Some(tx) => Ok((tx, result.map(|reply| (reply, events)))),
            None => {
                // The slot opens again from its log; this stands in for the session till then.
                let error = Error::internal("a call did not give its state back");
                self.give_up(error.clone());
                Err((Box::new(Session::new(key, Head::default())), error))
            }
        }
    }
}

/// Resolves when a slot has something to do that can't wait for a long call: it has had as long as
/// a call may run by then.
async fn ending(stats: Arc<SlotStats>, deadline: Duration) {
    let at = tokio::time::Instant::now() + deadline;
    let mut asked = stats.asked.subscribe();
    // It can't be gone: it is this slot's own.
    let _ = asked.wait_for(|asked| *asked > 0).await;
    tokio::time::sleep_until(at).await;
}

pub(super) fn no_session(key: &SessionKey) -> Error {
    Error::new(Code::SessionNotFound, format!("{key} has no message yet, or was deleted"))
}

fn new_record(
    session: &mut Session,
    entry: Arc<Entry>,
    fingerprint: u128,
    writes: Vec<Write>,
) -> Box<Message> {
    if let Some(id) = &entry.id {
        let remembered = crate::state::Remembered { seq: entry.seq, fingerprint };
        session.remembered.insert(id.clone(), remembered);
    }
    session.recent.push_back(entry.clone());
    let (key, head) = (session.key.clone(), session.head.clone());
    Box::new(Message { key, session_number: head.session_number, entry, fingerprint, writes, head })
}

/// What a repeat must have in common with the first.
fn fingerprint(message: &Incoming) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(message.content_type.as_bytes());
    hasher.update(&[0]);
    hasher.update(&message.body);
    hasher.digest128()
}

fn fault_failure(fault: StateFault) -> Failure {
    match fault {
        StateFault::ReadOnly => Failure::Trapped(fault.to_string()),
        StateFault::Limit(what) => Failure::Limit(what),
        StateFault::Store(error) => Failure::Store(error),
    }
}

/// Why there is no instance.
fn unavailable(label: &Arc<str>, why: PluginError) -> Error {
    let code = match why {
        PluginError::NoMemory(_) => Code::MemoryFull,
        _ => Code::PluginUnavailable,
    };
    Error::new(code, why.to_string()).with_plugin(&**label)
}

/// What the sender of a failed call is told.
fn failure_error(label: &Arc<str>, failure: Failure) -> Error {
    let error = match failure {
        Failure::Rejected(rejection) => {
            let mut error = Error::new(Code::Rejected, rejection.message.clone());
            error.rejection = Some(Box::new(rejection));
            error
        }
        Failure::Trapped(why) => Error::new(
            Code::PluginTrapped,
            format!("plugin {label} trapped, nothing it did was kept: {why}"),
        ),
        Failure::Deadline(deadline) => Error::new(
            Code::PluginDeadline,
            format!("plugin {label} took longer than its {deadline:?}, nothing it did was kept"),
        ),
        Failure::Limit(what) => Error::new(
            Code::PluginLimit,
            format!("plugin {label} passed a limit, nothing it did was kept: {what}"),
        ),
        Failure::Store(error) => return store_error(error),
        Failure::NoMemory(why) => Error::new(Code::MemoryFull, why.to_string()),
        Failure::NoInstance(why) => return unavailable(label, why),
        Failure::Cut(Cut::Full) => Error::new(
            Code::GuestsBusy,
            format!(
                "{} calls of plugins compute for long on this node already; nothing was kept",
                limits::LONG_CALLS_MAX
            ),
        ),
        Failure::Cut(Cut::Ending) => Error::new(
            Code::Unavailable,
            "the slot moves, stops or changes its version, and the call takes too long to wait for; \
             nothing was kept",
        ),
        Failure::Cut(Cut::Gone) => {
            Error::new(Code::Unavailable, "nobody waited for the call any more; nothing was kept")
        }
    };
    error.with_plugin(&**label)
}
