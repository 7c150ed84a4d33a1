//! What a slot does for an operator, beside the handler of a session.

use crate::{
    effects::{self, Change, Origin},
    error::{Cause, Code, Error},
    level::ENTERED_FROM,
    limits,
    log::record::{Delete, Entry, Head, Record, Write, kept_key},
    message::{Consistency, Purged, Sent},
    names::SessionKey,
    operation::{Operate, ReadState, Reset},
    operator::{
        Action, CONTENT_TYPE, Entered, Import, Operation, StatePage, StateRange, session_exists,
    },
    plugin::{State as _, StateFault},
    position::{Cursor, Incarnation},
    slot::{
        Reply,
        apply::no_session,
        mail::Serve,
        overlay::{Transaction, Written},
        read::info,
        records::{self, new_record},
        session::Session,
        shell::Shell,
    },
    state::deleted,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

impl Serve for ReadState {
    async fn serve(self, shell: &mut Shell, reply: Reply<StatePage>) {
        shell.state(&self.key, self.range, reply);
    }
}

impl Serve for Operate {
    async fn serve(self, shell: &mut Shell, reply: Reply<Sent>) {
        shell.operate(&self.key, self.operation, reply);
    }
}

impl Serve for Reset {
    async fn serve(self, shell: &mut Shell, reply: Reply<Purged>) {
        shell.reset(reply);
    }
}

impl Shell {
    /// Carries an operation out. What it needs of the session and the log is what a message needs.
    pub(super) fn operate(&mut self, key: &SessionKey, operation: Operation, reply: Reply<Sent>) {
        let session = match self.take_session(key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (session, done) = self.carry_out(session, operation);
        match done {
            // That there is nothing to discard is as good as a read.
            Ok(sent) if sent.seq == 0 && session.changed_in < self.core.batch() => {
                self.hold_read(session.changed_in, Consistency::Current, reply, Ok(sent));
            }
            Ok(sent) => self.hold(session.changed_in, reply, Ok(sent)),
            Err(error) => {
                self.hold_read(session.changed_in, Consistency::Current, reply, Err(error));
            }
        }
        self.put_session(session);
    }

    /// On an error the session is as it was.
    fn carry_out(
        &mut self,
        mut session: Box<Session>,
        operation: Operation,
    ) -> (Box<Session>, Result<Sent, Error>) {
        let checked = self.check(&mut session, &operation);
        match checked {
            Ok(None) => {}
            Ok(Some(sent)) => return (session, Ok(sent)),
            Err(error) => return (session, Err(error)),
        }
        let fingerprint = fingerprint(&operation.action);
        let Operation { id, who, action, .. } = operation;
        let entering = Entering { id, who, fingerprint };
        match action {
            Action::Set(entered) => {
                // Its next message may be migrated now.
                let pinned = session.head.pinned.take();
                match self.enter(session, entering, entered) {
                    (session, Ok(sent)) => (session, Ok(sent)),
                    (mut session, Err(error)) => {
                        session.head.pinned = pinned;
                        (session, Err(error))
                    }
                }
            }
            Action::Import(import) => self.import(session, entering, import),
            Action::Fork(fork) => self.fork(session, *fork),
            Action::Discard => {
                let (session, emptied) = self.emptied(session);
                let sent = self.sent_at(&session);
                (session, emptied.map(|()| sent))
            }
        }
    }

    /// Whether it was carried out before; else whether it can be.
    fn check(
        &mut self,
        session: &mut Session,
        operation: &Operation,
    ) -> Result<Option<Sent>, Error> {
        self.context.catalogue.require(&session.key.service)?;
        match &operation.action {
            Action::Discard => return self.check_discard(session, operation.expected),
            Action::Fork(part) => return self.check_fork(session, part, operation.expected),
            Action::Set(_) | Action::Import(_) => {}
        }
        if let Some(sent) =
            self.recall(session, &operation.id, fingerprint(&operation.action), None)?
        {
            return Ok(Some(sent));
        }
        self.check_room()?;
        if let Action::Import(part) = &operation.action {
            return self.check_part(session, part, operation.expected);
        }
        check_expected(session, operation.expected)?;
        match session.exists() {
            true => Ok(None),
            false => Err(no_session(&session.key)),
        }
    }

    fn check_part(
        &self,
        session: &Session,
        part: &Import,
        expected: Option<Cursor>,
    ) -> Result<Option<Sent>, Error> {
        let is_later = part.after > 0;
        if (is_later || !part.replace) && came_before(session, part) && is_of(session, expected) {
            // It was answered, and the answer was lost.
            return Ok(Some(self.sent_at(session)));
        }
        check_expected(session, expected).map_err(|error| match is_later {
            true => in_between(session, part),
            false => error,
        })?;
        if part.history.is_empty() && part.entered.is_none() {
            return Err(invalid("an empty part of a session".into()));
        }
        let service = self.context.catalogue.require(&session.key.service)?;
        let deployments = part.history.iter().map(|imported| imported.deployment);
        for deployment in deployments.chain([part.deployment]) {
            if service.deployment(deployment).is_none() {
                // The service was removed and deployed anew since the file was begun, or this node
                // is behind.
                return Err(Error::of(
                    Cause::NotYet,
                    format!(
                        "{} has no deployment {deployment} here, or none any more: import the file again",
                        session.key.service
                    ),
                ));
            }
        }
        match is_later {
            true if session.head.seq != part.after => Err(in_between(session, part)),
            false if !part.replace && session.exists() => Err(session_exists(&session.key)),
            _ => Ok(None),
        }
    }

    /// A session that is gone was discarded before, or never was. Room on the disk is not asked for:
    /// this makes some.
    fn check_discard(
        &self,
        session: &Session,
        expected: Option<Cursor>,
    ) -> Result<Option<Sent>, Error> {
        if expected.and_then(|expected| expected.of).is_none() {
            return Err(invalid("the position to discard up to must be exact".into()));
        }
        if !session.exists() {
            return Ok(Some(self.sent_at(session)));
        }
        check_expected(session, expected).map(|()| None)
    }

    pub(super) fn sent_at(&self, session: &Session) -> Sent {
        Sent {
            seq: session.head.seq,
            incarnation: Some(Incarnation::of(&session.head)),
            slot: self.slot,
            plugin: self.context.catalogue.label(&session.key.service, session.head.deployment),
            replayed: false,
            content_type: CONTENT_TYPE.into(),
            body: Bytes::new(),
            guest_time: Duration::ZERO,
        }
    }

    fn import(
        &mut self,
        session: Box<Session>,
        entering: Entering,
        import: Import,
    ) -> (Box<Session>, Result<Sent, Error>) {
        let is_whole = import.is_whole();
        let Import { replace: _, after, created_ms, deployment, history, entered } = import;
        let key = session.key.clone();
        // As a message does: a removal looks for sessions where a slot has run their service.
        if let Err(error) = self.active_for(&key.service) {
            return (session, Err(error));
        }
        // What the first part is to replace, which stays as long as the part can fail.
        let (mut replaced, session) = match after {
            0 => {
                let session_number = self.core.next_session();
                let head = Head { created_ms, deployment, session_number, ..Head::default() };
                (Some(session), Box::new(Session::new(key.clone(), head)))
            }
            _ => (None, session),
        };
        let (changes, note) = match entered {
            Some(Entered { changes, note }) => (changes, Some(note)),
            None => (Vec::new(), None),
        };
        let (mut session, written) = match self.merge(session, changes) {
            Ok(merged) => merged,
            Err((session, error)) => return (replaced.unwrap_or(session), Err(error)),
        };
        let removed = replaced.as_deref_mut().map(|replaced| self.removed_effects(replaced));
        let removed = match removed.transpose() {
            Ok(removed) => removed.unwrap_or_default(),
            Err(error) => return (replaced.unwrap_or(session), Err(error)),
        };
        // From here on nothing fails.
        if let Some(replaced) = replaced.filter(|replaced| replaced.exists()) {
            self.delete_record(&replaced, removed);
        }
        session.head.deployment = deployment;
        for (seq, imported) in (after + 1..).zip(history) {
            let mut entry = imported.entry(seq);
            // Not everyone could read it.
            let level = self.context.level.get();
            entry.origin = entry.origin.filter(|it| level >= it.level());
            let id = entry.id.take();
            entry.id = id.map(|id| kept_key(id, entry.client().map(|client| &**client), level));
            let entry = Arc::new(entry);
            let fingerprint = records::fingerprint(&entry.content_type, &entry.body);
            self.append(&mut session, entry, fingerprint, Written::default());
        }
        if let Some(note) = note {
            self.append_entered(&mut session, entering, note, written);
        }
        match is_whole {
            true => self.held_back.remove(&key),
            false => {
                let now = crate::clock::now();
                self.held_back.retain(|_, until| *until > now);
                self.held_back.insert(key, now + limits::IMPORT_PART_HOLD)
            }
        };
        let sent = self.sent_at(&session);
        (session, Ok(sent))
    }

    /// A session of which parts were imported and not yet the last: a handler would see half a state. A
    /// node that takes the slot over in the middle does not know of it until the next part comes.
    pub(super) fn check_is_whole(&self, key: &SessionKey) -> Result<(), Error> {
        match self.held_back.get(key).is_some_and(|until| *until > crate::clock::now()) {
            true => Err(Error::of(
                Cause::NotYet,
                format!("{key} is being imported; try again when the import has ended"),
            )),
            false => Ok(()),
        }
    }

    /// Appends an operator's entry with its changes.
    fn enter(
        &mut self,
        session: Box<Session>,
        entering: Entering,
        entered: Entered,
    ) -> (Box<Session>, Result<Sent, Error>) {
        match self.merge(session, entered.changes) {
            Ok((mut session, written)) => {
                self.append_entered(&mut session, entering, entered.note, written);
                let sent = self.sent_at(&session);
                (session, Ok(sent))
            }
            Err((session, error)) => (session, Err(error)),
        }
    }

    /// Makes changes to a session; nothing of it is in the log yet. On an error it is as it was.
    pub(super) fn merge(
        &self,
        session: Box<Session>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Changed {
        let mut tx = Transaction::new(self.slot, self.context.store.clone(), session);
        for (key, value) in changes {
            let written = match value {
                Some(value) => tx.set(&key, value),
                None => tx.delete(&key),
            };
            if let Err(fault) = written {
                return Err((tx.discard(), refused(fault)));
            }
        }
        // It sends nothing.
        tx.merge(&mut self.numbers()).map_err(|(session, fault)| (session, refused(fault)))
    }

    fn append_entered(
        &mut self,
        session: &mut Session,
        entering: Entering,
        note: Bytes,
        written: Written,
    ) {
        let origin = self.entered(&written).map(|entered| Box::new(Origin::Operator(entered)));
        let entry = Arc::new(Entry {
            seq: session.head.seq + 1,
            id: Some(entering.id),
            sender: Some(entering.who),
            time_ms: crate::clock::now_ms().max(session.head.updated_ms),
            content_type: CONTENT_TYPE.into(),
            body: note,
            reply_content_type: CONTENT_TYPE.into(),
            reply: Bytes::new(),
            deployment: session.head.deployment,
            events: Vec::new(),
            origin,
            caused: Vec::new(),
        });
        self.append(session, entry, entering.fingerprint, written);
    }

    /// What the history keeps of what was written; `None`: it is too much, or not everyone could read it.
    fn entered(&self, written: &Written) -> Option<Arc<effects::Entered>> {
        let of = |write: &Write| {
            Some((String::from_utf8(write.key.to_vec()).ok()?, write.value.clone()))
        };
        let writes = written.state.iter().map(of).collect::<Option<Vec<_>>>()?;
        let entered = effects::Entered { writes };
        let is_kept = self.context.level.get() >= ENTERED_FROM
            && entered.bytes() <= limits::ENTERED_BYTES_MAX;
        is_kept.then(|| entered.into())
    }

    pub(super) fn append(
        &mut self,
        session: &mut Session,
        entry: Arc<Entry>,
        fingerprint: u128,
        written: Written,
    ) {
        session.head.seq = entry.seq;
        session.head.updated_ms = entry.time_ms;
        let record = new_record(session, entry, fingerprint, written);
        session.changed_in = self.core.batch();
        self.core.push(Record::Message(record));
    }

    /// Deletes a session, with the `effects` that it has.
    pub(super) fn delete_record(&mut self, session: &Session, effects: Vec<Change>) {
        let (key, session_number) = (&session.key, session.head.session_number);
        self.core.push(Record::Delete(Delete { key: key.clone(), session_number, effects }));
        self.deleted.insert(deleted::row(key), self.core.batch());
        self.held_back.remove(key);
        self.context.plugins.pool().forget(key);
    }

    /// Gives a part of a session's state.
    pub(super) fn state(&mut self, key: &SessionKey, range: StateRange, reply: Reply<StatePage>) {
        let session = match self.take_session(key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let changed_in = session.changed_in;
        if !session.exists() {
            let known = self.context.catalogue.require(&key.service);
            let error = known.map_or_else(|error| error, |_| no_session(key));
            self.hold_read(changed_in, Consistency::Current, reply, Err(error));
            return self.put_session(session);
        }
        let mut info = info(&self.context.catalogue, self.slot, key, &session.head);
        info.incarnation = Some(Incarnation::of(&session.head));
        let mut tx = Transaction::new(self.slot, self.context.store.clone(), session);
        let page = tx.scan(&range.prefix, range.after.as_deref(), range.limit).and_then(|pairs| {
            let more = match pairs.last() {
                Some((last, _)) => !tx.scan(&range.prefix, Some(last.as_str()), 1)?.is_empty(),
                None => false,
            };
            Ok(StatePage { info, pairs, more })
        });
        self.hold_read(changed_in, Consistency::Current, reply, page.map_err(refused));
        self.put_session(tx.discard());
    }

    // ---- tests start clean ---------------------------------------------------------------------

    /// Deletes sessions, as many as fit one batch, and forgets that they were there. Answers whether
    /// any are left.
    pub(super) fn reset(&mut self, reply: Reply<Purged>) {
        let done = self.reset_some();
        self.hold_for_all(reply, done);
    }

    fn reset_some(&mut self) -> Result<Purged, Error> {
        let mut deleted = 0;
        for service in self.context.catalogue.all() {
            loop {
                let limit = crate::limits::PAGE_ENTRIES_MAX;
                let found = self.merged(&service.name, "", None, limit, false)?;
                if found.is_empty() {
                    break;
                }
                for info in found {
                    if !self.core.batch_has_room() {
                        return Ok(Purged { deleted, left: true });
                    }
                    let key = SessionKey { service: service.name.clone(), session: info.session };
                    let session = self.take_session(&key)?;
                    self.delete_session(session)?;
                    deleted += 1;
                }
                if !self.core.batch_has_room() {
                    return Ok(Purged { deleted, left: true });
                }
            }
        }
        // Nor is it remembered that their names had a session.
        if let Some(service) = self.context.catalogue.all().first() {
            for record in deleted::forget(self.core.next_session(), &service.name) {
                self.core.push(Record::Delete(record));
            }
        }
        self.deleted.clear();
        Ok(Purged { deleted, left: false })
    }
}

/// A session with the changes that were made to it, or as it was.
type Changed = Result<(Box<Session>, Written), (Box<Session>, Error)>;

/// What an operator's entry has beside what it does.
struct Entering {
    id: String,
    who: String,
    fingerprint: u128,
}

/// Whether the session is the one that is expected, wherever it is.
pub(super) fn is_of(session: &Session, expected: Option<Cursor>) -> bool {
    let of = expected.and_then(|expected| expected.of);
    of.is_none_or(|of| of == Incarnation::of(&session.head))
}

fn in_between(session: &Session, part: &Import) -> Error {
    changed(format!(
        "{} changed during the import: it is at {}, not at {}; import it again",
        session.key, session.head.seq, part.after
    ))
}

/// Whether this part of a history came before, and its answer got lost: the session is where it ends.
/// A message that came instead has another time.
fn came_before(session: &Session, part: &Import) -> bool {
    let last = part.history.last().filter(|_| part.entered.is_none() && session.exists());
    last.is_some_and(|last| {
        session.head.seq == part.after + part.history.len() as u64
            && session.head.updated_ms == last.time_ms
            && session.head.created_ms == part.created_ms
    })
}

pub(super) fn check_expected(session: &Session, expected: Option<Cursor>) -> Result<(), Error> {
    match expected {
        Some(place) if place.seq != session.head.seq || !is_of(session, expected) => {
            let now = Cursor::after(session.head.seq, Some(Incarnation::of(&session.head)));
            Err(changed(format!(
                "the session is at {now}, not at the expected {place}; nothing was done"
            )))
        }
        _ => Ok(()),
    }
}

fn fingerprint(action: &Action) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    let entered = match action {
        Action::Set(entered) => Some(entered),
        Action::Import(import) => import.entered.as_ref(),
        Action::Discard | Action::Fork(_) => None,
    };
    for (key, value) in entered.iter().flat_map(|entered| &entered.changes) {
        hasher.update(key.as_bytes());
        hasher.update(&[0, u8::from(value.is_some())]);
        hasher.update(value.as_deref().unwrap_or_default());
        hasher.update(&[0]);
    }
    hasher.digest128()
}

fn changed(detail: String) -> Error {
    Error::new(Code::SessionChanged, detail)
}

pub(super) fn invalid(detail: String) -> Error {
    Error::new(Code::RequestInvalid, detail)
}

fn refused(fault: StateFault) -> Error {
    match fault {
        StateFault::Limit(what) | StateFault::Full(what) => invalid(what),
        StateFault::Store(error) => error.into(),
        StateFault::Level(what) => Error::of(Cause::NotYet, what),
        StateFault::ReadOnly => Error::internal(fault.to_string()),
    }
}
