//! Carries out what is due: a timer's message, or what came of a message to another session, is applied as a client's
//! is, and nobody waits for the answer; a message that was refused goes on its way again.
//!
//! What fails for no fault of the handler's (no memory, a plugin that is being loaded) holds up what is due of its
//! service in this slot for a while. What the handler fails is an attempt, and in the log: it is tried again later, less and less
//! often, and after the last attempt, or a rejection that is not retriable, given up: kept as dead.

use crate::{
    effects::{
        Change, Dead, Effect, Firing, GivenUp, Origin, Outcome, Timer,
        rows::{Due, Name, Owner, Value as _},
        send::Place,
    },
    error::{Cause, Error, StateError},
    limits,
    loads::Admitted,
    log::record::{self, Record},
    message::Incoming,
    names::{ServiceName, SessionKey},
    plugin::Caller,
    slot::{
        apply::{Applied, Arriving, Came},
        core::{Event, Wanted},
        effects::Effects,
        receive::refusal,
        session::Session,
        shell::Shell,
    },
    telemetry::{metrics, repeats},
};
use bytes::Bytes;
use std::{sync::Arc, task::Poll, time::Duration};

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
                    tracing::warn!(slot = self.slot, %error, "what is due waits: nothing can be kept");
                }
                break;
            }
            let now_ms = crate::clock::now_ms();
            let Some((due, key)) = self.next_due(now_ms) else { break };
            if let Some(wait) = self.waits_for_share(&key.service) {
                self.core.due().hold_for(&key.service, wait, crate::clock::now());
                continue;
            }
            let started = crate::clock::now();
            self.core.used(started);
            self.core.begin_mail();
            let service = key.service.clone();
            let held = self.fire(&due, key, now_ms).await;
            self.core.end_mail();
            self.admitted = Admitted::default();
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

    /// How long what is due of a service waits for others on a busy node; `None`: it goes.
    fn waits_for_share(&mut self, service: &ServiceName) -> Option<Duration> {
        let (loads, turns) = self.context.loads.as_ref().zip(self.context.turns.get())?;
        let put_off = self.put_off.get(service).copied().unwrap_or(0);
        if let Some(wait) = turns.wait(service, put_off) {
            self.put_off.insert(service.clone(), put_off + 1);
            return Some(wait);
        }
        self.put_off.remove(service);
        self.admitted = loads.of(service).map(|load| load.let_in()).unwrap_or_default();
        None
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
                        tracing::warn!(slot = self.slot, %error, "can't read what is due");
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
        let (session, fired) = match self.pending(&mut session, due) {
            Ok(Some((name, Effect::Timer(timer)))) => {
                self.fire_timer(session, name, timer, now_ms).await
            }
            Ok(Some((Name::Waiting(place), Effect::Outgoing(outgoing)))) => {
                self.send_again(&mut session, place, &outgoing);
                (session, Ok(()))
            }
            Ok(Some((Name::Outcome(place), Effect::Outcome(outcome)))) => {
                self.deliver_outcome(session, place, outcome).await
            }
            Ok(Some((Name::Request(id), Effect::Request(request)))) => {
                match self.begin_request(&session, due, (id.clone(), request), now_ms) {
                    Ok(None) => (session, Ok(())),
                    Ok(Some(answer)) => self.deliver_fresh(session, id, answer).await,
                    Err(error) => (session, Err(error)),
                }
            }
            Ok(Some((Name::Answer(id), Effect::Answer(answer)))) => {
                self.deliver_answer(session, id, answer).await
            }
            Ok(Some((Name::Watch, Effect::Watch(watch)))) => {
                self.look_at_subscribers(session, due, watch).await
            }
            Ok(Some((Name::Expiry, Effect::Expiry(_)))) => {
                let (session, emptied) = self.emptied(session);
                metrics().sessions_expired.increment(u64::from(emptied.is_ok()));
                (session, emptied)
            }
            Ok(_) => {
                self.drop_due(&mut session, due.clone());
                (session, Ok(()))
            }
            Err(error) => (session, Err(error)),
        };
        self.put_session(session);
        fired
    }

    /// What is due; `None`: nothing that is there.
    fn pending(&self, session: &mut Session, due: &Due) -> Result<Option<(Name, Effect)>, Error> {
        if !session.exists() || session.head.session_number != due.session_number {
            return Ok(None);
        }
        // Of a removed service: it is deleted in a moment.
        self.check_not_removed(&session.key.service)?;
        let Some(name) = Name::of_row(&due.row) else { return Ok(None) };
        let effects = session.load_effects(&*self.context.store, self.slot)?;
        let effect = effects.get(&name).filter(|it| it.next_ms(&name) == Some(due.due_ms));
        Ok(effect.cloned().map(|effect| (name, effect)))
    }

    /// A row that nothing stands behind: never written so, but it must not be looked at for ever.
    fn drop_due(&mut self, session: &mut Session, due: Due) {
        if repeats::admit("something is due that is not there", &session.key) {
            tracing::error!(
                slot = self.slot,
                session = %session.key,
                due_ms = due.due_ms,
                "a bug: something is due that is not there; its row is removed"
            );
        }
        let name = Name::of_row(&due.row);
        let own = session.head.session_number == due.session_number;
        let effect = name.filter(|_| own).and_then(|name| {
            let effect = session.effects.as_ref()?.get(&name)?;
            effect.next_ms(&name)?;
            Some((effect.clone(), name))
        });
        let kept = effect.and_then(|(effect, name)| effect.put(&name, Some(due.due_ms)).ok());
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

    /// Changes the effects of a session, which are loaded, and has that written down.
    pub(super) fn record_effects(
        &mut self,
        session: &mut Session,
        change: impl FnOnce(&mut Effects) -> Result<Vec<Change>, StateError>,
    ) {
        let number = session.head.session_number;
        match session.change_effects(change) {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => self.push_effects(session, number, changes),
            // What is in memory may be half changed.
            Err(error) => self.on(Event::Broken(error.into())),
        }
    }

    /// Applies a message that no client has sent. If it is handled, its record goes with the batch that fills.
    ///
    /// # Errors
    /// As any call's. Then nothing has changed.
    pub(super) async fn apply_effect(
        &mut self,
        session: Box<Session>,
        (content_type, body): (String, Bytes),
        came: Came,
        caller: &mut Caller<'_>,
    ) -> (Box<Session>, Result<(), Error>) {
        let trace = came.trace;
        let message = Incoming { id: None, sender: None, content_type, body, trace, client: None };
        let arriving = Arriving { message, came: Some(came) };
        let (mut session, applied) = self.apply(session, arriving, caller).await;
        let applied = match applied {
            Ok(Applied::New { record, ephemeral, .. }) => {
                self.push_applied(&mut session, record, ephemeral);
                Ok(())
            }
            // It has no key to be repeated by.
            Ok(Applied::Repeat(_)) => Ok(()),
            Err(error) => Err(error),
        };
        (session, applied)
    }

    async fn fire_timer(
        &mut self,
        session: Box<Session>,
        name: Name,
        timer: Arc<Timer>,
        now_ms: u64,
    ) -> (Box<Session>, Result<(), Error>) {
        let (firing, left) = match timer.fire(name.text(), now_ms) {
            Ok(fired) => fired,
            // Its time zone is not known here: it may be on another node, or after an update.
            Err(why) => return (session, Err(Error::of(Cause::NotYet, why))),
        };
        metrics().timer_late_seconds.record(now_ms.saturating_sub(timer.next_ms) as f64 / 1e3);
        let content = (timer.content_type.clone(), timer.body.clone());
        let left_of_it = left.clone().map(|left| Effect::Timer(left.into()));
        let came = Came {
            origin: Origin::Timer(firing.clone()),
            left: Some((name.clone(), left_of_it)),
            asked: None,
            trace: None,
        };
        let (mut session, fired) = self.apply_effect(session, content, came, &mut nobody).await;
        match fired {
            Ok(()) => metrics().timers_fired.increment(1),
            Err(error) if is_the_handlers(&error) => {
                self.failed(&mut session, &name, &timer, (firing, left), error);
            }
            Err(error) => return (session, Err(error)),
        }
        self.core.due().went(&session.key.service);
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
        let due_ms = dead.firing.due_ms;
        let mut died = false;
        self.record_effects(session, |effects| {
            if let Some(again) = again {
                let again = Effect::Timer(again.into());
                return Ok(vec![effects.change(name.clone(), Some(again))?]);
            }
            // One that was tried again has its room.
            let dead = Effect::Dead(dead.into());
            if !matches!(name, Name::Retried(..)) && !effects.has_room_for(&dead) {
                let again = Effect::Timer(timer.failed_last(&error.detail, now_ms).into());
                return Ok(vec![effects.change(name.clone(), Some(again))?]);
            }
            died = true;
            let left = left.map(|left| Effect::Timer(left.into()));
            let gone = effects.change(name.clone(), left)?;
            // Two may be for the same time: the row's is a part of its name only.
            let mut time = match name {
                Name::Retried(_, time) => *time,
                _ => due_ms,
            };
            let named = |time| {
                let name = name.text().to_owned();
                [Name::Dead(name.clone(), time), Name::Retried(name, time)]
            };
            while named(time).iter().any(|name| effects.get(name).is_some()) {
                time += 1;
            }
            let kept = Name::Dead(name.text().to_owned(), time);
            Ok(vec![gone, effects.change(kept, Some(dead))?])
        });
        if died {
            metrics().timers_dead.increment(1);
            if repeats::admit("a timer's message was given up", &session.key.service) {
                tracing::warn!(
                    slot = self.slot,
                    session = %session.key,
                    timer = name.text(),
                    %error,
                    "gave a timer's message up; see `slotd dead list`"
                );
            }
        }
    }

    /// Tells the handler what came of a message that its session has sent.
    async fn deliver_outcome(
        &mut self,
        session: Box<Session>,
        place: Place,
        outcome: Arc<Outcome>,
    ) -> (Box<Session>, Result<(), Error>) {
        let content = (outcome.content_type.clone(), outcome.body.clone());
        let origin = Origin::Answer(outcome.answered());
        let left = Some((Name::Outcome(place), None));
        let came = Came { origin, left, asked: None, trace: None };
        let (mut session, told) = self.apply_effect(session, content, came, &mut nobody).await;
        match told {
            Ok(()) => metrics().sends_received.increment(1),
            Err(error) if is_the_handlers(&error) => {
                self.outcome_failed(&mut session, place, &outcome, &error);
            }
            Err(error) => return (session, Err(error)),
        }
        self.core.due().went(&session.key.service);
        (session, Ok(()))
    }

    /// Writes down that the handler has failed an outcome.
    pub(super) fn outcome_failed(
        &mut self,
        session: &mut Session,
        place: Place,
        outcome: &Outcome,
        error: &Error,
    ) {
        metrics().sends_refused.increment(1);
        let now_ms = crate::clock::now_ms();
        let refusal = refusal(error);
        let again = outcome.failed(&refusal.reason, now_ms);
        let is_final = !refusal.retriable || again.is_exhausted();
        let (name, mut died) = (Name::Outcome(place), false);
        self.record_effects(session, |effects| {
            let dead = GivenUp::new(again.clone(), &refusal, now_ms);
            let dead = Effect::DeadOutcome(dead.into());
            if !is_final || !effects.has_room_for(&dead) {
                return Ok(vec![effects.change(name, Some(Effect::Outcome(again.into())))?]);
            }
            died = true;
            let gone = effects.change(name, None)?;
            Ok(vec![gone, effects.change(Name::DeadOutcome(place), Some(dead))?])
        });
        if died {
            self.report_dead(&session.key, place, &outcome.of, &refusal);
        }
    }

    fn hold_due(&mut self, due: Due, service: &ServiceName, error: &Error) {
        metrics().timers_held.increment(1);
        if repeats::admit("what is due waits", service) {
            tracing::warn!(slot = self.slot, %service, %error, "something due has to wait");
        }
        self.core.due().hold(due, service, crate::clock::now());
    }
}

/// Who waits for the answer to what is due: nobody, and nobody goes away.
pub(super) fn nobody(_: &mut std::task::Context<'_>) -> Poll<()> {
    Poll::Pending
}

/// Whether a message failed by what its handler did.
pub(super) fn is_the_handlers(error: &Error) -> bool {
    matches!(
        error.cause,
        Some(
            Cause::Rejected
                | Cause::Trapped
                | Cause::Limit
                | Cause::Deadline
                | Cause::OutboxFull
                | Cause::SendRefused
                | Cause::RequestRefused
                | Cause::Closed
        )
    )
}
