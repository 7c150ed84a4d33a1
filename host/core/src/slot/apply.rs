//! What a slot does with a message: find the session, look for a repeat, migrate if the plugin has
//! changed, call the handler, and turn what it did into a record.

use crate::{
    effects::{Change, Effect, Origin, rows::Name, send::Asked},
    error::{Cause, Code, Error},
    level::{EFFECTS_FROM, HTTP_FROM, IDENTITY_FROM},
    limits,
    log::record::{Activate, DeploymentId, Entry, Event, Head, Message, Pin, Record, kept_key},
    message::{Answer, Consistency, Incoming, Sent},
    names::{ServiceName, SessionKey},
    operation::{self, Operation as _},
    plugin::{Call, Caller, Failure, Guests, Input, StateFault},
    position::Incarnation,
    service::{
        compatibility::{Migrate, takes_over},
        target::{SessionTarget, of_session},
    },
    slot::{
        Reply,
        answers::{Held, Since},
        calls::Done,
        failed::Tried,
        kept::check_growth,
        mail::Serve,
        overlay::Transaction,
        records::{fingerprint, new_record, reply_to},
        session::Session,
        shell::Shell,
    },
    telemetry::repeats,
    trace::Trace,
};
use std::{
    future::Future,
    sync::Arc,
    task::Context,
    time::{Duration, Instant},
};

/// What became of a message.
pub(super) enum Applied {
    New { record: Box<Message>, sent: Sent, ephemeral: Vec<Event> },
    Repeat(Sent),
}

/// A message that is to be applied.
pub(super) struct Arriving {
    pub message: Incoming,
    /// Where it comes from, if not from a client.
    pub came: Option<Came>,
}

/// Where a message comes from.
pub(super) struct Came {
    pub origin: Origin,
    /// What is left of the effect that it is the message of. The session's effects are loaded.
    pub left: Option<(Name, Option<Effect>)>,
    /// The session that waits for the reply, and what it has asked.
    pub asked: Option<(SessionKey, Asked)>,
    pub trace: Option<Trace>,
}

/// Which deployment a session's next call runs on.
struct Choice {
    deployment: DeploymentId,
    pinned: Option<Pin>,
}

impl Serve for operation::Message {
    fn serve(self, shell: &mut Shell, reply: Reply<Sent>) -> impl Future<Output = ()> + Send {
        shell.admitted = self.admitted;
        shell.message(self.key, self.message, self.came, reply)
    }
}

impl Serve for operation::Query {
    fn serve(self, shell: &mut Shell, reply: Reply<Answer>) -> impl Future<Output = ()> + Send {
        shell.query(self, reply)
    }
}

impl Serve for operation::Delete {
    async fn serve(self, shell: &mut Shell, reply: Reply<()>) {
        shell.delete(&self.key, reply);
    }
}

impl Shell {
    pub(super) async fn message(
        &mut self,
        key: SessionKey,
        message: Incoming,
        came: Instant,
        reply: Reply<Sent>,
    ) {
        let session = match self.take_session(&key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let mut reply = reply;
        let mut caller = |cx: &mut Context<'_>| reply.poll_closed(cx);
        let arriving = Arriving { message, came: None };
        self.guest_time = Duration::ZERO;
        let (mut session, applied) = self.apply(session, arriving, &mut caller).await;
        match applied.map_err(|error| self.after_calls(error)) {
            Ok(Applied::New { record, sent, ephemeral }) => {
                self.push_applied(&mut session, record, ephemeral);
                let metrics = self.services.shared(&session.key.service);
                self.core.hold(Held::Sent(reply, sent, Since { came, metrics }));
            }
            Ok(Applied::Repeat(sent)) => {
                self.services.of(&session.key.service).replayed();
                // It rests on the first one alone: what came later may fail without it.
                let number = session.head.session_number;
                let batch = self.core.batch_of(&session.key, number, sent.seq);
                self.hold(batch, reply, Ok(sent));
            }
            // It may rest on what the session has: as good as a read.
            Err(error) => {
                self.hold_read(session.changed_in, Consistency::Current, reply, Err(error));
            }
        }
        self.put_session(session);
    }

    /// Has a message that was applied go with the batch that fills.
    pub(super) fn push_applied(
        &mut self,
        session: &mut Session,
        record: Box<Message>,
        ephemeral: Vec<Event>,
    ) {
        session.changed_in = self.core.batch();
        let (place, time_ms) = (self.core.place(), record.entry.time_ms);
        self.core.keep_beside(ephemeral.iter().map(Event::memory).sum());
        self.subscribers.keep(place, &session.key, time_ms, ephemeral);
        let bytes = self.core.push(Record::Message(record));
        let loads = self.context.loads.as_ref();
        if let Some(load) = loads.and_then(|loads| loads.of(&session.key.service)) {
            self.core.is_under_way(load.has_written(bytes as u64));
        }
    }

    /// Applies a message to its session. On an error the session is as it was.
    pub(super) async fn apply(
        &mut self,
        mut session: Box<Session>,
        Arriving { mut message, came }: Arriving,
        caller: &mut Caller<'_>,
    ) -> (Box<Session>, Result<Applied, Error>) {
        let whole = self.check_is_whole(&session.key);
        let active = match whole.and_then(|()| self.active_for(&session.key.service)) {
            Ok(active) => active,
            Err(error) => return (session, Err(error)),
        };
        let is_closed = self.is_closed(&mut session);
        if let Err(error) = self.check_forked(&mut session) {
            return (session, Err(error));
        }
        // Its record has it, and what the record has is what its handler sees.
        let client = message.client.take();
        let client = client.filter(|_| self.context.level.get() >= IDENTITY_FROM);
        let fingerprint =
            message.id.as_ref().map_or(0, |_| fingerprint(&message.content_type, &message.body));
        if let Some(id) = &message.id {
            match self.recall(&mut session, id, fingerprint, client.as_deref()) {
                Ok(None) => {}
                Ok(Some(sent)) => return (session, Ok(Applied::Repeat(sent))),
                Err(error) => return (session, Err(error)),
            }
        }
        if let Err(error) = is_closed.and_then(|is_closed| check_open(is_closed, &session.key)) {
            return (session, Err(error));
        }
        if let Err(error) = self.check_room() {
            return (session, Err(error));
        }
        // What effects lead to is kept already: to refuse it would only have it tried again.
        let is_of_client = came.is_none();
        if is_of_client && let Err(error) = self.check_stored(&session, client.as_deref()) {
            return (session, Err(error));
        }
        let key = session.key.clone();
        let seq = session.head.seq + 1;
        let time_ms = crate::clock::now_ms().max(session.head.updated_ms);
        let tx = Transaction::new(self.slot, self.context.store.clone(), session);
        let mut tx = Box::new(tx.at_level(self.context.level.get()));
        let mut origin = client.map(|client| Box::new(Origin::Client(client)));
        let mut asked = None;
        if let Some(came) = came {
            // What is sent or set is bounded where it is; an answer may be larger than a client's message.
            if matches!(came.origin, Origin::Http(_)) {
                tx.takes(message.body.len());
            }
            origin = Some(Box::new(came.origin));
            asked = came.asked;
            if let Some((name, left)) = came.left {
                tx.fire(name, left);
            }
        }
        let (tx, choice, guests) = match self.prepare(tx, &active, time_ms, caller).await {
            Ok(prepared) => prepared,
            Err((session, error)) => return (session, Err(error)),
        };
        let label = guests.label.clone();
        let message = Arc::new(message);
        let input = Input::Handle { message: message.clone(), origin: origin.clone() };
        let call = Call { session: key, seq, time_ms, state: tx, input };
        let (mut tx, result) = match self.call(&guests, call, caller).await {
            Ok(settled) => settled,
            Err((session, error)) => return (session, Err(error)),
        };
        let Done { reply: answer, events, ephemeral, .. } = match result {
            Ok(done) => done,
            Err(failure) => {
                let (message, origin) = (&*message, origin.as_deref());
                let tried = Tried { message, origin, on: choice.deployment, seq, time_ms };
                let session = self.note_failed(tx.discard(), &tried, &failure);
                return (session, Err(self.failure_error(&label, failure)));
            }
        };
        // It is the body of a message there.
        if asked.is_some() && answer.body.len() > limits::SEND_BODY_BYTES_MAX {
            let failure = Failure::Limit(format!(
                "sends: the reply to another session may have {} bytes; this one has {}",
                limits::SEND_BODY_BYTES_MAX,
                answer.body.len()
            ));
            return (tx.discard(), Err(self.failure_error(&label, failure)));
        }
        if let Some((to, asked)) = asked
            && let Err(fault) = tx.reply(reply_to(to, asked, origin.as_deref(), &answer, seq))
        {
            let failure = fault_failure(fault);
            return (tx.discard(), Err(self.failure_error(&label, failure)));
        }
        if let Some(trace) = message.trace.filter(|_| self.context.level.get() >= HTTP_FROM) {
            tx.trace(trace);
        }
        if let Err(failure) = self.check_sends(&tx).and_then(|()| self.check_requests(&tx)) {
            return (tx.discard(), Err(self.failure_error(&label, failure)));
        }
        if is_of_client
            && let Some(max) = self.context.quota.session_stored(&tx.session().key.service)
            && let Err(error) = check_growth(&mut tx, max)
        {
            return (tx.discard(), Err(error));
        }
        let mut numbers = self.numbers();
        let merged = tx.merge(&mut numbers);
        self.sent = numbers.last.index;
        let (mut session, mut written) = match merged {
            Ok(merged) => merged,
            Err((session, fault)) => {
                let failure = fault_failure(fault);
                return (session, Err(self.failure_error(&label, failure)));
            }
        };
        if !session.exists() {
            session.head.session_number = self.core.next_session();
            session.head.created_ms = time_ms;
        }
        session.head.seq = seq;
        session.head.updated_ms = time_ms;
        session.head.deployment = choice.deployment;
        session.head.pinned = choice.pinned;
        // The call is over: nobody else has it.
        let Incoming { id, sender, content_type, body, .. } = Arc::unwrap_or_clone(message);
        let by = origin.as_deref().and_then(Origin::client).map(|client| &**client);
        let id = id.map(|id| kept_key(id, by, self.context.level.get()));
        let entry = Arc::new(Entry {
            seq,
            id,
            sender,
            time_ms,
            content_type,
            body,
            reply_content_type: answer.content_type,
            reply: answer.body,
            deployment: choice.deployment,
            events,
            origin,
            caused: match self.context.level.get() >= HTTP_FROM {
                true => std::mem::take(&mut written.caused),
                false => Vec::new(),
            },
        });
        let record = new_record(&mut session, entry, fingerprint, written);
        let of = Incarnation::of(&record.head);
        let mut sent = self.sent(&record.entry, of, label, false);
        sent.guest_time = self.guest_time;
        (session, Ok(Applied::New { record, sent, ephemeral }))
    }

    /// Whether this node's disk has room for more. In a cluster the node gives its slots away instead.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        if self.context.cluster.is_none() && !self.context.store.has_room() {
            return Err(Error::of(
                Cause::Storage,
                "this node's disk has less free space than `store.disk_reserve`; nothing was \
                 kept, reads still work",
            ));
        }
        Ok(())
    }

    /// What the slot runs for a service. A service that was deployed a moment ago may not have
    /// reached this slot: then it switches to it now.
    pub(super) fn active_for(&mut self, service: &ServiceName) -> Result<Activate, Error> {
        let since = self.since(service);
        let running = self.core.running();
        if let Some(active) = running.get(service).filter(|_| !running.is_stale(service, since)) {
            return Ok(active.clone());
        }
        let target = self.context.catalogue.require(service)?.target();
        Ok(self.switch_to(&target))
    }

    pub(super) fn sent(
        &self,
        entry: &Entry,
        of: Incarnation,
        plugin: Arc<str>,
        replayed: bool,
    ) -> Sent {
        Sent {
            seq: entry.seq,
            incarnation: Some(of),
            slot: self.slot,
            plugin,
            replayed,
            content_type: entry.reply_content_type.clone(),
            body: entry.reply.clone(),
            guest_time: Duration::ZERO,
        }
    }

    /// An error, with what the calls that led to it have used.
    fn after_calls(&self, error: Error) -> Error {
        Error { guest_time: self.guest_time, ..error }
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
        match self.guests(&active.service, choice.deployment, caller).await {
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
        let session = tx.session();
        let head = session.exists().then_some(&session.head);
        let (old, target) = match of_session(active, head) {
            SessionTarget::Runs(deployment) => {
                return Ok((tx, Choice { deployment, pinned: None }));
            }
            SessionTarget::Pinned { on, pin } => {
                return Ok((tx, Choice { deployment: on, pinned: Some(pin) }));
            }
            SessionTarget::Migrates { from, to } => (from, to),
        };
        // Boxed: it is once in a session's version, and large.
        Box::pin(self.migrate(tx, (old, target), time_ms, caller)).await
    }

    async fn migrate(
        &mut self,
        tx: Box<Transaction>,
        (old, target): (DeploymentId, DeploymentId),
        time_ms: u64,
        caller: &mut Caller<'_>,
    ) -> Result<(Box<Transaction>, Choice), (Box<Session>, Error)> {
        let session = tx.session();
        let key = session.key.clone();
        let seq = session.head.seq + 1;
        let from = match self.deployment(&key.service, old, caller).await {
            Ok(deployment) => deployment.version,
            Err(error) => return Err((tx.discard(), error)),
        };
        let to = match self.deployment(&key.service, target, caller).await {
            Ok(deployment) => deployment,
            Err(error) => return Err((tx.discard(), error)),
        };
        let guests = match self.guests(&key.service, target, caller).await {
            Ok(guests) => guests,
            Err(error) => return Err((tx.discard(), error)),
        };
        let label = guests.label.clone();
        let input = Input::Migrate { from: from.clone() };
        let call = Call { session: key.clone(), seq, time_ms, state: tx, input };
        let (mut tx, result) = self.call(&guests, call, caller).await?;
        let reason = match result {
            Ok(done) => {
                let migrate = if done.used_state { Migrate::Own } else { Migrate::None };
                match takes_over(migrate, &from, &to.version, to.same_state) {
                    Ok(()) => {
                        if let Some(trial) = self.context.trials.of(&key.service) {
                            trial.migrated(target, &key.session, true);
                        }
                        tx.end_phase();
                        return Ok((tx, Choice { deployment: target, pinned: None }));
                    }
                    Err(refusal) => refusal.reason(&from, &to.version).to_string(),
                }
            }
            // Says nothing of the session: the next message tries again.
            Err(
                failure @ (Failure::Store(_)
                | Failure::Level(_)
                | Failure::Full(_)
                | Failure::Crowded(_)
                | Failure::Forbidden(_)
                | Failure::RequestForbidden(_)
                | Failure::NoMemory(_)
                | Failure::NoInstance(_)
                | Failure::Cut(_)),
            ) => return Err((tx.discard(), self.failure_error(&label, failure))),
            // May say more of a busy machine than of the session: one that pinned it would do so
            // until the next deployment. The second time it is taken for a refusal.
            Err(failure @ Failure::Deadline(_)) if tx.session().late_to != Some(target) => {
                let mut session = tx.discard();
                session.late_to = Some(target);
                return Err((session, self.failure_error(&label, failure)));
            }
            Err(Failure::Rejected(rejection)) => rejection.message,
            Err(other) => other.to_string(),
        };
        tx.clear();
        if let Some(trial) = self.context.trials.of(&key.service) {
            trial.migrated(target, &key.session, false);
        }
        if repeats::admit("a session stays on an older version", &label) {
            tracing::warn!(session = %key, plugin = %label, reason, "a session stays on {from}");
        }
        let pinned = Some(Pin { against: target, reason });
        Ok((tx, Choice { deployment: old, pinned }))
    }

    pub(super) async fn query(&mut self, query: operation::Query, reply: Reply<Answer>) {
        let operation::Query { key, content_type, body, consistency, client } =
            query.at_level(self.context.level.get());
        let session = match self.take_session(&key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let mut reply = reply;
        let mut caller = |cx: &mut Context<'_>| reply.poll_closed(cx);
        let input = Input::Query { content_type, body, client };
        self.guest_time = Duration::ZERO;
        let (session, answer) = self.ask(session, input, &mut caller).await;
        let answer = answer.map_err(|error| self.after_calls(error));
        self.hold_read(session.changed_in, consistency, reply, answer);
        self.put_session(session);
    }

    /// Answers a query. A session that was not yet migrated is migrated for the query alone, so
    /// that the answer is always the current version's.
    async fn ask(
        &mut self,
        session: Box<Session>,
        input: Input,
        caller: &mut Caller<'_>,
    ) -> (Box<Session>, Result<Answer, Error>) {
        if !session.exists() {
            let error = match self.context.catalogue.require(&session.key.service) {
                Ok(_) => no_session(&session.key),
                Err(error) => error,
            };
            return (session, Err(error));
        }
        let whole = self.check_is_whole(&session.key);
        let active = match whole.and_then(|()| self.active_for(&session.key.service)) {
            Ok(active) => active,
            Err(error) => return (session, Err(error)),
        };
        let mut session = session;
        if let Err(error) = self.check_forked(&mut session) {
            return (session, Err(error));
        }
        let key = session.key.clone();
        let seq = session.head.seq;
        let time_ms = crate::clock::now_ms().max(session.head.updated_ms);
        let tx = Box::new(Transaction::new(self.slot, self.context.store.clone(), session));
        let (tx, _, guests) = match self.prepare(tx, &active, time_ms, caller).await {
            Ok(prepared) => prepared,
            Err((session, error)) => return (session, Err(error)),
        };
        let label = guests.label.clone();
        let state = tx.read_only(true);
        let call = Call { session: key, seq, time_ms, state, input };
        let (tx, result) = match self.call(&guests, call, caller).await {
            Ok(settled) => settled,
            Err((session, error)) => return (session, Err(error)),
        };
        let answer =
            result.map_err(|failure| self.failure_error(&label, failure)).map(|done| Answer {
                slot: self.slot,
                plugin: label,
                seq,
                content_type: done.reply.content_type,
                body: done.reply.body,
                guest_time: self.guest_time,
            });
        (tx.discard(), answer)
    }

    pub(super) fn delete(&mut self, key: &SessionKey, reply: Reply<()>) {
        let session = match self.take_session(key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        if !session.exists() {
            let none = Err(no_session(key));
            self.hold_read(session.changed_in, Consistency::Current, reply, none);
            return self.put_session(session);
        }
        match self.delete_session(session) {
            Ok(()) => self.hold_new(reply, Ok(())),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Deletes a session that exists, with the batch that fills.
    ///
    /// # Errors
    /// The store does not say what effects it has; it is as it was.
    pub(super) fn delete_session(&mut self, session: Box<Session>) -> Result<(), Error> {
        let (session, emptied) = self.emptied(session);
        self.put_session(session);
        emptied
    }

    /// As [`Self::delete_session`]; gives what stays in the cache and says that the name is free, until
    /// the store says so too.
    pub(super) fn emptied(
        &mut self,
        mut session: Box<Session>,
    ) -> (Box<Session>, Result<(), Error>) {
        let effects = match self.removed_effects(&mut session) {
            Ok(effects) => effects,
            Err(error) => return (session, Err(error)),
        };
        self.delete_record(&session, effects);
        let mut emptied = Box::new(Session::new(session.key, Head::default()));
        emptied.changed_in = self.core.batch();
        (emptied, Ok(()))
    }

    /// The effects that go with a session that is deleted.
    pub(super) fn removed_effects(&self, session: &mut Session) -> Result<Vec<Change>, Error> {
        if self.context.level.get() < EFFECTS_FROM {
            return Ok(Vec::new());
        }
        let effects = session.load_effects(&*self.context.store, self.slot)?;
        Ok(effects.removal())
    }
}

/// A session that was closed has answers to messages from before, and takes no new ones.
fn check_open(is_closed: bool, key: &SessionKey) -> Result<(), Error> {
    match is_closed {
        false => Ok(()),
        true => Err(Error::of(
            Cause::Closed,
            format!("{key} was closed by its handler; nothing was kept"),
        )),
    }
}

pub(super) fn no_session(key: &SessionKey) -> Error {
    Error::new(Code::SessionNotFound, format!("{key} has no message yet, or was deleted"))
}

fn fault_failure(fault: StateFault) -> Failure {
    match fault {
        StateFault::ReadOnly => Failure::Trapped(fault.to_string()),
        StateFault::Limit(what) => Failure::Limit(what),
        StateFault::Store(error) => Failure::Store(error),
        StateFault::Level(what) => Failure::Level(what),
        StateFault::Full(what) => Failure::Full(what),
    }
}
