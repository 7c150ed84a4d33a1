//! Carries out what is due: a timer's message is applied as a client's is, and nobody waits for the answer.
//!
//! What fails for no fault of the handler's (no memory, a plugin that is being loaded) holds up what is due of its
//! service in this slot for a while. What the handler fails is an attempt, and in the log: it is tried again later, less and less
//! often, and after the last attempt, or a rejection that is not retriable, given up: kept as dead.

use crate::{
    effects::{
        Change, Dead, Firing, Timer,
        rows::{Due, Name, Owner, Value as _},
    },
    error::{Cause, Error, StateError},
    limits,
    log::record::{self, Record},
    message::Incoming,
    names::{ServiceName, SessionKey},
    slot::{
        apply::{Applied, Arriving, Fired},
        core::Wanted,
        effects::Effect,
        session::Session,
        shell::Shell,
    },
    telemetry::{metrics, repeats},
};
use std::{sync::Arc, task::Poll};

impl Shell {
    /// Whether something is due and can be carried out now.
    pub(super) fn is_due(&mut self) -> bool {
        let now = crate::clock::now();
        let due = self.core.due();
        // Asking for the time of day costs more than to see that nothing is due at all.
        let is_due = (due.is_any() || !due.knows_all()) && {
            let now_ms = crate::clock::now_ms();
            due.wants(now_ms, now).is_some() || due.first(now_ms, now).is_some()
        };
        let fires = is_due && self.core.fires(|| self.context.store.is_writable());
        self.due_waits = is_due && !fires;
        fires
    }

    /// Learns what is due first.
    pub(super) fn look_for_due(&mut self) {
        self.next_due(crate::clock::now_ms());
    }

    /// Carries out what is due, but not for ever: mail, orders and commits come in between.
    pub(super) async fn fire_due(&mut self) {
        let begun = crate::clock::now();
        for _ in 0..limits::DUE_PER_TURN_MAX {
            if !self.core.fires(|| self.context.store.is_writable()) {
                break;
            }
            if let Err(error) = self.check_room() {
                self.core.due().pause(crate::clock::now());
                if repeats::admit("nothing that is due is carried out", "slots") {
                    tracing::warn!(slot = self.slot, %error, "timers wait");
                }
                break;
            }
            let now_ms = crate::clock::now_ms();
            let Some((due, key)) = self.next_due(now_ms) else { break };
            let started = crate::clock::now();
            self.core.used(started);
            self.core.begin_mail();
            let service = key.service.clone();
            let held = self.fire(&due, key, now_ms).await;
            self.core.end_mail();
            let took = started.elapsed();
            if let Err(error) = held {
                self.hold_due(due, &service, &error);
            } else if took >= limits::SLOW_FIRING {
                // Others of the slot would wait for all of them, and no client has asked for it.
                let wait = took * limits::SLOW_FIRING_PAUSES;
                self.core.due().hold_for(&service, wait, crate::clock::now());
            }
            self.see_commits().await;
            // As for mail: where calls tend to be long, an order must not wait for several.
            if self.long.are_likely() || begun.elapsed() >= limits::DUE_TURN {
                break;
            }
        }
    }

    fn next_due(&mut self, now_ms: u64) -> Option<(Due, SessionKey)> {
        let now = crate::clock::now();
        // A page at a time: others come in between.
        let mut pages = 0;
        while let Some(wanted) = self.core.due().wants(now_ms, now) {
            pages += 1;
            if pages > limits::DUE_PAGES_PER_LOOK {
                return None;
            }
            match self.due_rows(&wanted) {
                Ok(rows) => self.core.due().add(&wanted, rows),
                Err(error) => {
                    self.core.due().pause(now);
                    if repeats::admit("what is due can't be read", "slots") {
                        tracing::warn!(slot = self.slot, %error, "can't read which timers are due");
                    }
                    return None;
                }
            }
        }
        self.core.due().first(now_ms, now)
    }

    fn due_rows(&self, wanted: &Wanted) -> Result<Vec<(Due, SessionKey)>, StateError> {
        let after = wanted.after.as_ref().map(Due::key);
        let number = crate::effects::rows::DUE;
        let (limit, bytes_max) = (wanted.limit, usize::MAX);
        let rows =
            self.context.store.scan(self.slot, number, b"", after.as_deref(), limit, bytes_max)?;
        let row = |(key, owner): (bytes::Bytes, bytes::Bytes)| {
            let due = Due::of_key(&key).ok_or("a row of what is due is too short")?;
            Ok((due, Owner::decode(&owner)?.0))
        };
        let rows: Result<Vec<_>, String> = rows.into_iter().map(row).collect();
        rows.map_err(StateError::Corrupt)
    }

    /// # Errors
    /// Why it can't be carried out now, for no fault of the handler's.
    async fn fire(&mut self, due: &Due, key: SessionKey, now_ms: u64) -> Result<(), Error> {
        let mut session = self.take_session(&key)?;
        let (session, fired) = match self.timer_of(&mut session, due) {
            Ok(Some((name, timer))) => self.fire_timer(session, name, timer, now_ms).await,
            Ok(None) => {
                self.drop_due(&mut session, due.clone());
                (session, Ok(()))
            }
            Err(error) => (session, Err(error)),
        };
        self.put_session(session);
        fired
    }

    /// What is due; `None`: nothing that is there.
    fn timer_of(
        &self,
        session: &mut Session,
        due: &Due,
    ) -> Result<Option<(Name, Arc<Timer>)>, Error> {
        if !session.exists() || session.head.session_number != due.session_number {
            return Ok(None);
        }
        // Of a removed service: it is deleted in a moment.
        self.check_not_removed(&session.key.service)?;
        let Some(name) = Name::of_row(&due.row) else { return Ok(None) };
        let effects = session.load_effects(&*self.context.store, self.slot)?;
        Ok(match effects.get(&name) {
            Some(Effect::Timer(timer)) if timer.next_ms == due.due_ms => {
                Some((name, timer.clone()))
            }
            _ => None,
        })
    }

    /// A row that nothing stands behind: never written so, but it must not be looked at for ever.
    fn drop_due(&mut self, session: &mut Session, due: Due) {
        if repeats::admit("a timer is due that is not there", &session.key) {
            tracing::error!(
                slot = self.slot,
                session = %session.key,
                due_ms = due.due_ms,
                "a bug: a timer is due that is not set; its row is removed"
            );
        }
        let name = Name::of_row(&due.row);
        let own = session.head.session_number == due.session_number;
        let effect = name.filter(|_| own).and_then(|name| {
            let effect = session.effects.as_ref()?.get(&name)?;
            match effect {
                Effect::Timer(timer) => Some((name, timer.clone())),
                Effect::Dead(_) => None,
            }
        });
        let kept =
            effect.and_then(|(name, timer)| Change::timer(&name, Some(due.due_ms), &timer).ok());
        let gone = Change::gone(due.row, Some(due.due_ms));
        let number = due.session_number;
        self.push_effects(session, number, vec![kept.unwrap_or(gone)]);
    }

    /// Writes down effects that change without a message.
    pub(super) fn push_effects(
        &mut self,
        session: &mut Session,
        session_number: u64,
        changes: Vec<Change>,
    ) {
        session.changed_in = self.core.batch();
        let key = session.key.clone();
        let effects = record::Effects { key, session_number, changes };
        self.core.push(Record::Effects(Box::new(effects)));
    }

    async fn fire_timer(
        &mut self,
        session: Box<Session>,
        name: Name,
        timer: Arc<Timer>,
        now_ms: u64,
    ) -> (Box<Session>, Result<(), Error>) {
        let (firing, left) = match timer.fire(name.timer(), now_ms) {
            Ok(fired) => fired,
            // Its time zone is not known here: it may be on another node, or after an update.
            Err(why) => return (session, Err(Error::of(Cause::NotYet, why))),
        };
        metrics().timer_late_seconds.record(now_ms.saturating_sub(timer.next_ms) as f64 / 1e3);
        let message = Incoming {
            id: None,
            sender: None,
            content_type: timer.content_type.clone(),
            body: timer.body.clone(),
        };
        let fired = Fired { name: name.clone(), firing: firing.clone(), left: left.clone() };
        let arriving = Arriving { message, fired: Some(fired) };
        // Nobody waits for the answer, and nobody goes away.
        let mut caller = |_: &mut std::task::Context<'_>| Poll::Pending;
        let (mut session, applied) = self.apply(session, arriving, &mut caller).await;
        match applied {
            Ok(Applied::New { record, ephemeral, .. }) => {
                self.core.due().went(&session.key.service);
                self.push_applied(&mut session, record, ephemeral);
                metrics().timers_fired.increment(1);
            }
            // It has no key to be repeated by.
            Ok(Applied::Repeat(_)) => {}
            Err(error) if is_the_handlers(&error) => {
                self.core.due().went(&session.key.service);
                self.failed(&mut session, &name, &timer, (firing, left), error);
            }
            Err(error) => return (session, Err(error)),
        }
        (session, Ok(()))
    }

    /// Writes down that the handler has failed a timer's message.
    fn failed(
        &mut self,
        session: &mut Session,
        name: &Name,
        timer: &Timer,
        (firing, left): (Firing, Option<Timer>),
        error: Error,
    ) {
        metrics().timers_failed.increment(1);
        let now_ms = crate::clock::now_ms();
        let is_final = error.rejection.as_ref().is_some_and(|rejection| !rejection.retriable);
        let again = timer.failed(&error.detail, now_ms).filter(|_| !is_final);
        let code = error.rejection.as_ref().map_or(error.code.as_str(), |it| it.code.as_str());
        let dead = Dead {
            firing,
            content_type: timer.content_type.clone(),
            body: timer.body.clone(),
            code: crate::text::cut(code, limits::REJECTION_CODE_BYTES_MAX).to_owned(),
            reason: crate::text::cut(&error.detail, limits::EFFECT_REASON_BYTES_MAX).to_owned(),
            died_ms: now_ms,
            set_by: timer.set_by,
        };
        let changed = session.change_effects(|effects| {
            if let Some(again) = again {
                let again = Effect::Timer(again.into());
                return Ok((vec![effects.change(name.clone(), Some(again))?], false));
            }
            // One that was tried again has its room.
            if !matches!(name, Name::Retried(..)) && !effects.has_room_for(&dead) {
                let again = Effect::Timer(timer.failed_last(&error.detail, now_ms).into());
                return Ok((vec![effects.change(name.clone(), Some(again))?], false));
            }
            let left = left.map(|left| Effect::Timer(left.into()));
            let gone = effects.change(name.clone(), left)?;
            // Two may be for the same time: the row's is a part of its name only.
            let mut time = match name {
                Name::Retried(_, time) => *time,
                Name::Timer(_) | Name::Dead(..) => dead.firing.due_ms,
            };
            let named = |time| {
                let name = dead.firing.name.clone();
                [Name::Dead(name.clone(), time), Name::Retried(name, time)]
            };
            while named(time).iter().any(|name| effects.get(name).is_some()) {
                time += 1;
            }
            let kept = Name::Dead(dead.firing.name.clone(), time);
            Ok((vec![gone, effects.change(kept, Some(Effect::Dead(dead.into())))?], true))
        });
        match changed {
            Ok((changes, died)) => {
                if died {
                    metrics().timers_dead.increment(1);
                }
                if died && repeats::admit("a timer's message was given up", &session.key.service) {
                    tracing::warn!(
                        slot = self.slot,
                        session = %session.key,
                        timer = name.timer(),
                        %error,
                        "gave a timer's message up; see `slotd dead list`"
                    );
                }
                let number = session.head.session_number;
                self.push_effects(session, number, changes);
            }
            // What is in memory may be half changed.
            Err(error) => self.on(crate::slot::core::Event::Broken(error.into())),
        }
    }

    fn hold_due(&mut self, due: Due, service: &ServiceName, error: &Error) {
        metrics().timers_held.increment(1);
        if repeats::admit("a timer waits", service) {
            tracing::warn!(slot = self.slot, %service, %error, "a timer is due and has to wait");
        }
        self.core.due().hold(due, service, crate::clock::now());
    }
}

/// Whether a message failed by what its handler did.
fn is_the_handlers(error: &Error) -> bool {
    matches!(error.cause, Some(Cause::Rejected | Cause::Trapped | Cause::Limit | Cause::Deadline))
}
