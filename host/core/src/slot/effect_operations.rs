//! Effects as an operator sees and changes them. A listing of a service looks at a bounded number of rows or
//! sessions, and says how far it got.

use crate::{
    effects::{
        Change, Effect, Outcome, Outgoing, Timer, When,
        http::Answer,
        rows::{self, Due, Name, OnItsWay, Owner, Value as _},
        send::Place,
    },
    error::{Cause, Code, Error, StateError},
    level::EFFECTS_FROM,
    limits,
    message::Consistency,
    names::{ServiceName, SessionId, SessionKey},
    operation::{ChangeEffect, EffectAction, EffectsPage, Found, ListEffects, Which},
    slot::{
        Reply, apply::no_session, core::Event, effects::Effects, mail::Serve, session::Session,
        shell::Shell,
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// What the place of something in an outbox begins with: on its way, or waiting for its time.
const SENDING: u8 = 0;
const WAITING: u8 = 1;

impl Serve for ListEffects {
    async fn serve(self, shell: &mut Shell, reply: Reply<EffectsPage>) {
        let listed = match self.which {
            Which::Session(key) => return shell.list_session_effects(key, reply),
            Which::Due { service, after } => {
                shell.list_due(&service, after.as_deref(), self.limit, Name::is_timers)
            }
            Which::Dead { service, after } => shell.list_dead(&service, after, self.limit),
            Which::Outbox { service, after } => {
                shell.list_outbox(&service, after.as_ref(), self.limit)
            }
        };
        shell.hold_for_all(reply, listed);
    }
}

impl Serve for ChangeEffect {
    async fn serve(self, shell: &mut Shell, reply: Reply<()>) {
        shell.change_effect(&self.key, &self.action, reply);
    }
}

impl Shell {
    fn list_session_effects(&mut self, key: SessionKey, reply: Reply<EffectsPage>) {
        let mut session = match self.take_session(&key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let listed = self.session_effects(&mut session);
        self.hold_read(session.changed_in, Consistency::Current, reply, listed);
        self.put_session(session);
    }

    fn session_effects(&self, session: &mut Session) -> Result<EffectsPage, Error> {
        self.context.catalogue.require(&session.key.service)?;
        if !session.exists() {
            return Err(no_session(&session.key));
        }
        let id = session.key.session.clone();
        let effects = session.load_effects(&*self.context.store, self.slot)?;
        let found = effects
            .iter()
            .map(|(name, effect)| Found::new(name.row(), id.clone(), name.clone(), effect.clone()));
        Ok(EffectsPage { found: found.collect(), reached: None })
    }

    /// What is due of a service: the rows of the store, and those that it does not have yet.
    fn list_due(
        &mut self,
        service: &ServiceName,
        after: Option<&[u8]>,
        limit: usize,
        is_wanted: impl Fn(&Name) -> bool,
    ) -> Result<EffectsPage, Error> {
        let (slot, most) = (self.slot, limits::EFFECTS_LOOKED_AT_MAX);
        let stored = self.context.store.scan(slot, rows::DUE, b"", after, most, usize::MAX)?;
        let until = stored.last().filter(|_| stored.len() >= most).map(|(key, _)| key.clone());
        let mut due = BTreeMap::new();
        for (key, owner) in stored {
            let owner = Owner::decode(&owner).map_err(StateError::Corrupt)?;
            due.insert(key, Some(owner.0));
        }
        for (row, owner) in self.core.due().recent() {
            let key = row.key();
            let is_after = after.is_none_or(|after| *key > *after);
            if is_after && until.as_ref().is_none_or(|until| key <= *until) {
                due.insert(key, owner.cloned());
            }
        }
        let mut page = EffectsPage { found: Vec::new(), reached: until };
        let mut last = None;
        for (place, owner) in due {
            if page.found.len() >= limit {
                page.reached = last;
                break;
            }
            last = Some(place.clone());
            let Some(owner) = owner.filter(|owner| owner.service == *service) else { continue };
            let Some(row) = Due::of_key(&place) else { continue };
            let Some(name) = Name::of_row(&row.row).filter(&is_wanted) else { continue };
            if let Some(effect) = self.effect(&owner, row.session_number, &name)? {
                let found = Found::new(place, owner.session, name, effect);
                page.found.push(found.without_body());
            }
        }
        Ok(page)
    }

    /// What a service's sessions have sent and is not done with: first what is on its way, then what waits for its
    /// time.
    fn list_outbox(
        &mut self,
        service: &ServiceName,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<EffectsPage, Error> {
        let mut page = EffectsPage::default();
        let (part, after) = match after.and_then(|after| after.split_first()) {
            Some((part, rest)) => (*part, Some(rest)),
            None => (SENDING, None),
        };
        if part == SENDING {
            page = self.list_sending(service, after, limit)?;
            if page.reached.is_some() {
                return Ok(page);
            }
        }
        let after = after.filter(|_| part != SENDING);
        let left = limit.saturating_sub(page.found.len());
        if left == 0 {
            page.reached = Some(Bytes::from_static(&[WAITING]));
            return Ok(page);
        }
        let waiting = self.list_due(service, after, left, Name::is_outbox)?;
        let at = |place: Bytes| prefixed(WAITING, &place);
        page.found.extend(waiting.found.into_iter().map(|it| Found { place: at(it.place), ..it }));
        page.reached = waiting.reached.map(at);
        Ok(page)
    }

    /// What is on its way of a service.
    fn list_sending(
        &mut self,
        service: &ServiceName,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<EffectsPage, Error> {
        let after = after.map(|after| {
            let wrong = || Error::new(Code::RequestInvalid, "the place is none of an outbox");
            OnItsWay::of_key(after).ok_or_else(wrong)
        });
        let most = limits::EFFECTS_LOOKED_AT_MAX;
        let rows = self.on_their_way(after.transpose()?, most)?;
        let are_all = rows.len() < most;
        let mut page = EffectsPage::default();
        let mut last = None;
        for (row, owner) in rows {
            if page.found.len() >= limit {
                page.reached = last;
                return Ok(page);
            }
            let place = prefixed(SENDING, &row.key());
            last = Some(place.clone());
            if owner.service != *service {
                continue;
            }
            let name = Name::Outgoing(row.place);
            if let Some(effect) = self.effect(&owner, row.session_number, &name)? {
                page.found.push(Found::new(place, owner.session, name, effect).without_body());
            }
        }
        page.reached = last.filter(|_| !are_all);
        Ok(page)
    }

    /// So many rows of what is on its way. A slot that is open has all of them in memory; for one that is not, the
    /// store has all.
    fn on_their_way(
        &mut self,
        after: Option<OnItsWay>,
        most: usize,
    ) -> Result<Vec<(OnItsWay, SessionKey)>, Error> {
        if self.shared.is_some() {
            let rows = self.core.outbox().after(after).take(most);
            return Ok(rows.map(|(row, key)| (row, key.clone())).collect());
        }
        let after = after.map(|row| row.key());
        let store = &self.context.store;
        let rows = store.scan(self.slot, rows::OUTBOX, b"", after.as_deref(), most, usize::MAX)?;
        let rows = rows.into_iter().map(|(key, owner)| OnItsWay::of_row(&key, &owner));
        let rows: Result<Vec<_>, String> = rows.collect();
        Ok(rows.map_err(StateError::Corrupt)?)
    }

    /// One effect of a session, as it is in memory, else in the store.
    pub(super) fn effect(
        &self,
        key: &SessionKey,
        session_number: u64,
        name: &Name,
    ) -> Result<Option<Effect>, Error> {
        if let Some(effects) = self.cached_effects(key, session_number) {
            return Ok(effects.get(name).cloned());
        }
        let number = rows::of_session(session_number);
        let value = self.context.store.get(self.slot, number, &name.row())?;
        let effect = value.map(|value| Effect::decode(name, &value)).transpose();
        Ok(effect.map_err(StateError::Corrupt)?)
    }

    /// Those that are in memory. What the store does not have yet is.
    fn cached_effects(&self, key: &SessionKey, session_number: u64) -> Option<&Effects> {
        let session = self.cache.get(key)?;
        let is_it = session.exists() && session.head.session_number == session_number;
        session.effects.as_deref().filter(|_| is_it)
    }

    /// What is dead of a service, by session. All of a session is on one page.
    fn list_dead(
        &self,
        service: &ServiceName,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<EffectsPage, Error> {
        let after = after.map(|after| {
            let text = String::from_utf8(after.into()).ok();
            text.and_then(|text| SessionId::parse(&text).ok())
                .ok_or_else(|| Error::new(Code::RequestInvalid, "the place is no session's id"))
        });
        let after = after.transpose()?;
        let most = limits::EFFECT_SESSIONS_LOOKED_AT_MAX;
        let sessions = self.merged_heads(service, "", after.as_ref(), most, false)?;
        let mut page = EffectsPage::default();
        let mut last: Option<SessionId> = None;
        let are_all = sessions.len() < most;
        for (id, head) in sessions {
            if page.found.len() >= limit {
                page.reached = last.map(place);
                return Ok(page);
            }
            let key = SessionKey { service: service.clone(), session: id.clone() };
            match self.cached_effects(&key, head.session_number) {
                Some(effects) => {
                    let dead = effects.iter().filter(|(name, _)| name.is_dead());
                    page.found.extend(dead.map(|(name, effect)| {
                        let effect = effect.clone();
                        Found::new(place(id.clone()), id.clone(), name.clone(), effect)
                            .without_body()
                    }));
                }
                None => self.stored_dead(&id, head.session_number, &mut page.found)?,
            }
            last = Some(id);
        }
        page.reached = last.filter(|_| !are_all).map(place);
        Ok(page)
    }

    fn stored_dead(
        &self,
        id: &SessionId,
        session_number: u64,
        found: &mut Vec<Found>,
    ) -> Result<(), Error> {
        let number = rows::of_session(session_number);
        let mut after = Bytes::from_static(rows::BEFORE_DEAD);
        loop {
            let (limit, bytes) = (limits::DEAD_MAX, limits::DEAD_BYTES_MAX);
            let store = &self.context.store;
            let rows = store.scan(self.slot, number, b"", Some(&after), limit, bytes)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after = rows::behind_among_dead(last);
            for (row, value) in rows {
                let Some(name) = Name::of_row(&row).filter(Name::is_dead) else { continue };
                let effect = Effect::decode(&name, &value).map_err(StateError::Corrupt)?;
                found.push(Found::new(place(id.clone()), id.clone(), name, effect).without_body());
            }
        }
    }

    // ---- changes -------------------------------------------------------------------------------

    fn change_effect(&mut self, key: &SessionKey, action: &EffectAction, reply: Reply<()>) {
        let mut session = match self.take_session(key) {
            Ok(session) => session,
            Err(error) => return drop(reply.send(Err(error))),
        };
        match self.changed_effect(&mut session, action) {
            Ok(changes) => {
                let number = session.head.session_number;
                self.push_effects(&mut session, number, changes);
                self.hold(session.changed_in, reply, Ok(()));
            }
            Err(error) => {
                self.hold_read(session.changed_in, Consistency::Current, reply, Err(error));
            }
        }
        self.put_session(session);
    }

    fn changed_effect(
        &mut self,
        session: &mut Session,
        action: &EffectAction,
    ) -> Result<Vec<Change>, Error> {
        self.context.catalogue.require(&session.key.service)?;
        if self.context.level.get() < EFFECTS_FROM {
            let detail = format!("effects need feature level {EFFECTS_FROM}");
            return Err(Error::of(Cause::NotYet, detail));
        }
        if !session.exists() {
            return Err(no_session(&session.key));
        }
        let steps = {
            let effects = session.load_effects(&*self.context.store, self.slot)?;
            steps(effects, action, crate::clock::now_ms())
        };
        let Some(steps) = steps else { return Err(not_found(&session.key, action)) };
        let changed = session.change_effects(|effects| {
            let changes = steps.into_iter().map(|(name, effect)| effects.change(name, effect));
            changes.collect::<Result<Vec<_>, _>>()
        });
        changed.map_err(|error| {
            let error = Error::from(error);
            // What is in memory may be half changed.
            self.on(Event::Broken(error.clone()));
            error
        })
    }
}

/// What becomes of which effects; `None`: there is no such effect.
fn steps(
    effects: &Effects,
    action: &EffectAction,
    now_ms: u64,
) -> Option<Vec<(Name, Option<Effect>)>> {
    let dead = |timer: &String, due_ms: u64| {
        let (dead, retried) =
            (Name::Dead(timer.clone(), due_ms), Name::Retried(timer.clone(), due_ms));
        let name = [&dead, &retried].into_iter().find(|name| effects.get(name).is_some());
        Some((effects.get(name?)?, name?.clone(), retried.clone()))
    };
    let dead_send = |place: Place| {
        let names = [Name::DeadOutgoing(place), Name::DeadOutcome(place)];
        names
            .into_iter()
            .find_map(|name| Some((effects.get(&name)?, name)))
            .map(|(it, name)| (name, it))
    };
    match action {
        EffectAction::CancelRequest { id } => {
            // Or its answer, which waits for its handler.
            let names = [Name::Request(id.clone()), Name::Answer(id.clone())];
            let name = names.into_iter().find(|name| effects.get(name).is_some())?;
            Some(vec![(name, None)])
        }
        EffectAction::DropDeadAnswer { id, time } => {
            let name = Name::DeadAnswer(id.clone(), *time);
            effects.get(&name)?;
            Some(vec![(name, None)])
        }
        EffectAction::RetryDeadAnswer { id, time } => {
            let name = Name::DeadAnswer(id.clone(), *time);
            let Effect::DeadAnswer(dead) = effects.get(&name)? else { return None };
            let what = Answer { failures: 0, next_ms: now_ms, ..dead.what.clone() };
            let again = Name::Answer(id.clone());
            // Another answer under that id waits to be tried, or may come: it would take this one's place.
            if effects.get(&again).is_some() || effects.get(&Name::Request(id.clone())).is_some() {
                return None;
            }
            Some(vec![(name, None), (again, Some(Effect::Answer(what.into())))])
        }
        EffectAction::CancelTimer { timer } => {
            let name = Name::Timer(timer.clone());
            effects.get(&name)?;
            Some(vec![(name, None)])
        }
        EffectAction::DropDead { timer, due_ms } => {
            let (_, name, _) = dead(timer, *due_ms)?;
            Some(vec![(name, None)])
        }
        EffectAction::DropDeadSend(place) => Some(vec![(dead_send(*place)?.0, None)]),
        EffectAction::RetryDeadSend(place) => {
            let (name, effect) = dead_send(*place)?;
            let again = match effect {
                Effect::DeadOutgoing(dead) => {
                    let what = Outgoing { failures: 0, next_ms: now_ms, ..dead.what.clone() };
                    (Name::Waiting(*place), Effect::Outgoing(what.into()))
                }
                Effect::DeadOutcome(dead) => {
                    let what = Outcome { failures: 0, next_ms: now_ms, ..dead.what.clone() };
                    (Name::Outcome(*place), Effect::Outcome(what.into()))
                }
                _ => return None,
            };
            Some(vec![(name, None), (again.0, Some(again.1))])
        }
        EffectAction::RetryDead { timer, due_ms } => {
            let (effect, name, retried) = dead(timer, *due_ms)?;
            let again = Effect::Timer(Arc::new(again(effect, now_ms)?));
            // First what goes: there is room for what comes.
            let gone = (name != retried).then_some((name, None));
            Some(gone.into_iter().chain([(retried, Some(again))]).collect())
        }
    }
}

/// What was given up, to be tried now and as often as the first time.
fn again(effect: &Effect, now_ms: u64) -> Option<Timer> {
    Some(match effect {
        Effect::Timer(timer) => Timer { next_ms: now_ms, failures: 0, ..Timer::clone(timer) },
        Effect::Dead(dead) => Timer {
            when: When::Once,
            due_ms: dead.firing.due_ms,
            next_ms: now_ms,
            failures: 0,
            reason: dead.reason.clone(),
            content_type: dead.content_type.clone(),
            body: dead.body.clone(),
            set_by: dead.set_by,
        },
        _ => return None,
    })
}

fn not_found(key: &SessionKey, action: &EffectAction) -> Error {
    let detail = match action {
        EffectAction::CancelTimer { timer } => format!("{key} has no timer {timer:?}"),
        EffectAction::RetryDead { timer, due_ms } | EffectAction::DropDead { timer, due_ms } => {
            format!("{key} has no dead message of the timer {timer:?} for {due_ms}")
        }
        EffectAction::RetryDeadSend(place) | EffectAction::DropDeadSend(place) => {
            format!("{key} has no dead message {place}")
        }
        EffectAction::CancelRequest { id } => format!("{key} has no open request {id:?}"),
        EffectAction::RetryDeadAnswer { id, time } | EffectAction::DropDeadAnswer { id, time } => {
            format!(
                "{key} has no dead answer of the request {id:?} of {time}, or a request of that id \
                 is open"
            )
        }
    };
    Error::new(Code::TimerNotFound, detail)
}

fn prefixed(part: u8, key: &[u8]) -> Bytes {
    [&[part], key].concat().into()
}

/// A session among all, in order of their ids.
fn place(id: SessionId) -> Bytes {
    Bytes::copy_from_slice(id.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::effects::{Dead, Firing};

    fn dead(name: &str, due_ms: u64) -> Effect {
        let firing = Firing { name: name.into(), due_ms, missed: 0, attempt: 20 };
        let (content_type, code, reason) = ("t".into(), "c".into(), "r".into());
        let body = Bytes::from_static(b"body");
        let dead = Dead { firing, content_type, body, code, reason, died_ms: 50, set_by: 3 };
        Effect::Dead(Arc::new(dead))
    }

    /// A message that an operator tries again must be the same one, at once, and no longer dead: else it would be
    /// handled twice, or never.
    #[test]
    fn what_is_retried_is_due_now_and_dead_no_more() {
        let mut effects = Effects::default();
        effects.change(Name::Dead("a".into(), 7), Some(dead("a", 7))).unwrap();
        let retry = EffectAction::RetryDead { timer: "a".into(), due_ms: 7 };
        let changes: Vec<_> = steps(&effects, &retry, 100)
            .unwrap()
            .into_iter()
            .map(|(name, effect)| effects.change(name, effect).unwrap())
            .collect();
        assert_eq!(changes.len(), 2);
        assert_eq!((changes[0].value.as_ref(), changes[1].due), (None, Some(100)));
        assert!(effects.get(&Name::Dead("a".into(), 7)).is_none());
        let Some(Effect::Timer(timer)) = effects.get(&Name::Retried("a".into(), 7)) else {
            panic!("it is not tried again")
        };
        assert_eq!((timer.due_ms, timer.failures, &timer.body[..]), (7, 0, &b"body"[..]));
        // Again: it is not waited for the time of its next attempt.
        let changes = steps(&effects, &retry, 200).unwrap();
        assert!(matches!(&changes[..], [(Name::Retried(..), Some(_))]), "{changes:?}");
        let drop = EffectAction::DropDead { timer: "a".into(), due_ms: 7 };
        let changes = steps(&effects, &drop, 200).unwrap();
        assert!(matches!(&changes[..], [(Name::Retried(..), None)]), "{changes:?}");
        let other = EffectAction::DropDead { timer: "a".into(), due_ms: 8 };
        assert!(steps(&effects, &other, 200).is_none());
        let cancel = EffectAction::CancelTimer { timer: "a".into() };
        assert!(steps(&effects, &cancel, 200).is_none(), "a dead message is no timer");
    }
}
