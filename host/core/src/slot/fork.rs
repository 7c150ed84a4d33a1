//! Begins a session with the history of another one: what that is at a message becomes this one's state, and its own
//! history goes on from there. Nothing but the last messages, and the state, is copied.

use crate::{
    effects::{Effect, Forked, Origin, rows::Name},
    error::{Cause, Error},
    level::FORKED_FROM,
    log::record::Head,
    message::Sent,
    operator::{Fork, session_exists},
    position::Cursor,
    slot::{
        operate::{check_expected, invalid, is_of},
        records,
        session::Session,
        shell::Shell,
    },
};
use std::sync::Arc;

impl Shell {
    /// Whether this part came before; else whether it can be taken.
    pub(super) fn check_fork(
        &mut self,
        session: &mut Session,
        part: &Fork,
        expected: Option<Cursor>,
    ) -> Result<Option<Sent>, Error> {
        if self.context.level.get() < FORKED_FROM {
            let why = format!(
                "sessions are forked from feature level {FORKED_FROM} on; raise it with `slotd level --raise`"
            );
            return Err(Error::of(Cause::NotYet, why));
        }
        let Some(last) = part.history.last() else {
            return Err(invalid("a fork without a message".into()));
        };
        let is_same = self.forked(session)?.is_some_and(|forked| *forked == part.forked);
        if is_same && session.head.seq >= last.seq && is_of(session, expected) {
            // It was answered, and the answer was lost; or it was asked for twice.
            return Ok(Some(self.sent_at(session)));
        }
        self.check_room()?;
        let service = self.context.catalogue.require(&session.key.service)?;
        let mut deployments = part.history.iter().map(|entry| entry.deployment);
        if !deployments.all(|id| service.deployment(id).is_some()) {
            let why = format!("{} has other deployments here: try again", session.key.service);
            return Err(Error::of(Cause::NotYet, why));
        }
        if part.after > 0 {
            check_expected(session, expected)?;
            return match session.head.seq == part.after {
                true => Ok(None),
                false => Err(invalid("a part of a fork is missing".into())),
            };
        }
        if session.exists() {
            return Err(session_exists(&session.key));
        }
        let first = part.history.first().and_then(|entry| entry.origin.as_deref());
        let by = match first {
            Some(Origin::Inherited(inherited)) => inherited.by.as_deref(),
            _ => None,
        };
        self.check_stored(session, by).map(|()| None)
    }

    /// Takes a part. On an error the session is as it was.
    pub(super) fn fork(
        &mut self,
        before: Box<Session>,
        part: Fork,
    ) -> (Box<Session>, Result<Sent, Error>) {
        let key = before.key.clone();
        // As a message does: a removal looks for sessions where a slot has run their service.
        if let Err(error) = self.active_for(&key.service) {
            return (before, Err(error));
        }
        let Fork { forked, created_ms, deployment, pinned, after, history, values } = part;
        let (mut replaced, session) = match after {
            0 => {
                let session_number = self.core.next_session();
                let head = Head { created_ms, deployment, session_number, ..Head::default() };
                (Some(before), Box::new(Session::new(key.clone(), head)))
            }
            _ => (None, before),
        };
        let changes = values.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let (mut session, mut written) = match self.merge(session, changes) {
            Ok(merged) => merged,
            Err((session, error)) => return (replaced.unwrap_or(session), Err(error)),
        };
        if let Some(empty) = replaced.take() {
            match self.comes_from(&mut session, forked.into()) {
                Ok(row) => written.effects.push(row),
                Err(error) => return (empty, Err(error)),
            }
        }
        // From here on nothing fails.
        session.head.deployment = deployment;
        session.head.pinned = pinned;
        let last = history.len().saturating_sub(1);
        let mut written = Some(written);
        for (at, entry) in history.into_iter().enumerate() {
            let fingerprint = records::fingerprint(&entry.content_type, &entry.body);
            let written = written.take_if(|_| at == last).unwrap_or_default();
            self.append(&mut session, Arc::new(entry), fingerprint, written);
        }
        let sent = self.sent_at(&session);
        (session, Ok(sent))
    }

    /// Has it known where a session comes from, before a handler is called for it. One of which parts are still to come has
    /// half a state.
    pub(super) fn check_forked(&mut self, session: &mut Session) -> Result<(), Error> {
        match self.forked(session)? {
            Some(forked) if session.head.seq < forked.at => Err(Error::of(
                Cause::NotYet,
                format!("{} is being forked; try again when that has ended", session.key),
            )),
            _ => Ok(()),
        }
    }

    /// Writes down where a session comes from.
    fn comes_from(
        &self,
        session: &mut Session,
        forked: Arc<Forked>,
    ) -> Result<crate::effects::Change, Error> {
        session.load_effects(&*self.context.store, self.slot)?;
        session.forked = Some(Some(forked.clone()));
        let row = session
            .change_effects(|effects| effects.change(Name::Forked, Some(Effect::Forked(forked))))?;
        Ok(row)
    }
}
