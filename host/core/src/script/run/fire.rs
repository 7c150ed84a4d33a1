//! The timers of a script's sessions, and when they expire: the clock is the script's, and what is due is carried out as a node does
//! (`slot/fire.rs`).

use super::{Calling, Fires, Runner, SLOT, nothing};
use crate::{
    effects::{Effect, Origin, Timer, rows::Name},
    message::Incoming,
    names::SessionKey,
    plugin::Input,
    script::{Expect, Fired, Observed, Outcome, Step},
    slot::session::Session,
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use std::sync::Arc;

/// Messages of timers in one line: a script with a short period and a long leap must come to an end.
const FIRED_MAX: usize = 10_000;

/// A timer that is due.
struct Due {
    key: SessionKey,
    name: String,
    timer: Arc<Timer>,
}

/// What is due first.
enum First {
    Timer(Due),
    /// A session expires.
    Expiry(SessionKey),
}

impl Runner {
    /// What will be left of a timer that fires; `None`: none of that name is set.
    pub(super) fn left_of(
        &self,
        session: &mut Session,
        name: &str,
        now_ms: u64,
    ) -> anyhow::Result<Fires> {
        let effects = session.load_effects(&*self.store, SLOT)?;
        let row = Name::Timer(name.to_owned());
        let Some(Effect::Timer(timer)) = effects.get(&row) else { return Ok(None) };
        let (_, left) = timer.fire(name, now_ms).map_err(anyhow::Error::msg)?;
        Ok(Some((row, left.map(|left| Effect::Timer(left.into())))))
    }

    /// When the session is to expire.
    pub(super) fn expiry_of(&self, session: &mut Session) -> anyhow::Result<Option<u64>> {
        Ok(match session.load_effects(&*self.store, SLOT)?.get(&Name::Expiry) {
            Some(Effect::Expiry(expiry)) => Some(expiry.at_ms),
            _ => None,
        })
    }

    /// Moves the clock to the step's time, and calls the handler for what is due on the way. A session that expires
    /// meanwhile is forgotten.
    pub(super) async fn advance(&mut self, step: &Step, by_ms: u64) -> anyhow::Result<Observed> {
        let mut now_ms = step.time_ms.saturating_sub(by_ms);
        let mut fired = Vec::new();
        while let Some(first) = self.first_due(step.time_ms) {
            let due = match first {
                First::Timer(due) => due,
                First::Expiry(key) => {
                    self.sessions.remove(&key);
                    self.handled_by.remove(&key);
                    continue;
                }
            };
            ensure!(fired.len() < FIRED_MAX, "more than {FIRED_MAX} messages of timers are due");
            now_ms = now_ms.max(due.timer.next_ms);
            fired.push(self.fire(due, now_ms, step.expect.firing(fired.len())).await?);
        }
        let outcome = Outcome::Reply { content_type: String::new(), body: Bytes::new() };
        Ok(Observed { fired, ..nothing(outcome, step) })
    }

    fn first_due(&self, until_ms: u64) -> Option<First> {
        let all = self.sessions.iter().flat_map(|(key, session)| {
            let effects = session.effects.iter().flat_map(|effects| effects.iter());
            effects.filter_map(move |(name, effect)| match (name, effect) {
                // As on a node: of one time, timers come before the session expires.
                (Name::Timer(name), Effect::Timer(timer)) => {
                    Some((timer.next_ms, key, Some((name, timer))))
                }
                (Name::Expiry, Effect::Expiry(expiry)) => Some((expiry.at_ms, key, None)),
                _ => None,
            })
        });
        let due = all.filter(|(at_ms, ..)| *at_ms <= until_ms);
        let (_, key, timer) = due.min_by_key(|(at_ms, key, timer)| {
            (*at_ms, key.to_string(), timer.is_none(), timer.map(|(name, _)| name))
        })?;
        Some(match timer {
            Some((name, timer)) => {
                First::Timer(Due { key: key.clone(), name: name.clone(), timer: timer.clone() })
            }
            None => First::Expiry(key.clone()),
        })
    }

    async fn fire(
        &mut self,
        Due { key, name, timer }: Due,
        now_ms: u64,
        expect: Option<&Expect>,
    ) -> anyhow::Result<Fired> {
        let session = self.sessions.remove(&key).context("a timer of no session")?;
        let (firing, left) = timer.fire(&name, now_ms).map_err(anyhow::Error::msg)?;
        let message = Incoming {
            id: None,
            sender: None,
            content_type: timer.content_type.clone(),
            body: timer.body.clone(),
            trace: None,
            client: None,
        };
        let origin = Some(Box::new(Origin::Timer(firing.clone())));
        let input = Input::Handle { message: Arc::new(message), origin };
        let seq = session.head.seq + 1;
        let left = left.map(|left| Effect::Timer(left.into()));
        let fires = Some((Name::Timer(name.clone()), left.clone()));
        let calling = Calling { input, seq, time_ms: now_ms, fires };
        let (mut session, observed) = self.observe(session, calling, expect).await?;
        let failure = match &observed.outcome {
            Outcome::Reply { .. } => None,
            Outcome::Rejected(rejection) => Some((!rejection.retriable, &*rejection.message)),
            Outcome::Refused(why) | Outcome::Trapped(why) | Outcome::Limit(why) => {
                Some((false, &**why))
            }
            Outcome::Deadline => Some((false, "it passed its deadline")),
        };
        let mut dead = false;
        if let Some((is_final, reason)) = failure {
            let again = timer.failed(reason, now_ms).filter(|_| !is_final);
            dead = again.is_none();
            let next = again.map(|timer| Effect::Timer(timer.into())).or(left);
            session.change_effects(|effects| effects.change(Name::Timer(name), next))?;
        }
        let name = match key.service.as_str() == self.service {
            true => key.session.as_str().to_owned(),
            false => key.to_string(),
        };
        self.sessions.insert(key.clone(), session);
        Ok(Fired { session: name, key, firing, dead, observed })
    }
}
