//! One call of a handler, and the same call again by a new instance, as when a node fails before it commits what the
//! first has come to.

use super::{Calling, Runner, SLOT, asked, requests, sends, timers};
use crate::{
    level::NEWEST,
    limits,
    plugin::{self, Account, Failure, Input, Instance},
    script::{Event, Outcome, RequestChange, Sent, TimerChange, compare::shown},
    service::compatibility::{Migrate, takes_over},
    slot::{
        overlay::{Transaction, Written},
        session::Session,
    },
};
use anyhow::Context;
use std::fmt::Debug;

/// Bytes that are shown of each side of a difference.
const SHOWN: usize = 600;

/// What a message causes beside its session's state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Caused {
    pub events: Vec<Event>,
    pub notified: Vec<Event>,
    pub timers: Vec<TimerChange>,
    pub sent: Vec<Sent>,
    pub requests: Vec<RequestChange>,
}

/// What came of a call.
struct Done {
    outcome: Outcome,
    caused: Caused,
    written: Written,
}

impl Done {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, caused: Caused::default(), written: Written::default() }
    }

    /// What the same call has come to otherwise.
    fn unlike(&self, again: &Self) -> Vec<String> {
        let mut out = Vec::new();
        if self.outcome != again.outcome {
            let (one, other) = (self.outcome.describe(), again.outcome.describe());
            out.push(format!("it gives {one}; a new instance, from the same state, {other}"));
        }
        let mut compare = |what: &str, is_same: bool, shown: &dyn Fn() -> (String, String)| {
            if !is_same {
                let (one, other) = shown();
                out.push(format!("{what}: {one}; a new instance, from the same state: {other}"));
            }
        };
        let (a, b) = (&self.caused, &again.caused);
        compare("events", a.events == b.events, &|| (kinds(&a.events), kinds(&b.events)));
        let is_same = a.notified == b.notified;
        compare("notified", is_same, &|| (kinds(&a.notified), kinds(&b.notified)));
        compare("timers", a.timers == b.timers, &|| (brief(&a.timers), brief(&b.timers)));
        compare("sent", a.sent == b.sent, &|| (brief(&a.sent), brief(&b.sent)));
        let is_same = a.requests == b.requests;
        compare("requests", is_same, &|| (brief(&a.requests), brief(&b.requests)));
        let (a, b) = (&self.written.state, &again.written.state);
        compare("state", a == b, &|| (writes(a), writes(b)));
        if out.is_empty() && self.written != again.written {
            out.push("a new instance, from the same state, changes other effects".to_owned());
        }
        out
    }
}

fn kinds(events: &[Event]) -> String {
    list(events.iter().map(|event| format!("{:?} {}", event.kind, shown(&event.body))))
}

fn writes(writes: &[crate::log::record::Write]) -> String {
    list(writes.iter().map(|write| {
        let value = write.value.as_ref();
        let value = value.map_or("deleted".into(), |value| shown(value));
        format!("{} = {value}", shown(&write.key))
    }))
}

fn brief(effects: &[impl Debug]) -> String {
    list(effects.iter().map(|effect| format!("{effect:?}")))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let all: Vec<_> = items.collect();
    match all.is_empty() {
        true => "none".to_owned(),
        false => crate::text::clip(all.join(", ").into(), SHOWN).into_owned(),
    }
}

fn events(events: Vec<crate::log::record::Event>) -> Vec<Event> {
    let shown = events.into_iter().map(|event| Event {
        kind: event.kind,
        content_type: event.content_type,
        body: event.body,
    });
    shown.collect()
}

/// A session, what came of its call, and what a new instance has come to otherwise.
type Called = (Box<Session>, Outcome, Caused, Vec<String>);

impl Runner {
    pub(super) async fn call(
        &mut self,
        mut session: Box<Session>,
        calling: Calling,
    ) -> anyhow::Result<Called> {
        if self.keeps_last {
            self.note_last(&mut session, &calling)?;
        }
        let before = (self.is_checked || self.crashes).then(|| (session.clone(), self.numbers));
        let instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.instantiate().await?,
        };
        let (instance, session, done) = self.attempt(instance, session, &calling).await?;
        self.instance = instance;
        let mut unlike = Vec::new();
        if let Some((session, numbers)) = before {
            let after = std::mem::replace(&mut self.numbers, numbers);
            let instance = self.instantiate().await?;
            let (instance, _, again) = self.attempt(instance, session, &calling).await?;
            self.numbers = after;
            unlike = done.unlike(&again);
            if self.crashes {
                self.instance = instance;
            }
        }
        Ok((session, done.outcome, done.caused, unlike))
    }

    async fn instantiate(&self) -> anyhow::Result<Instance> {
        let plugin = &self.versions[self.current].plugin;
        Ok(plugin.instantiate(Account::default(), limits::INSTANCE_MEMORY_TIMEOUT).await?)
    }

    /// Gives the instance back if it can go on.
    async fn attempt(
        &mut self,
        mut instance: Instance,
        session: Box<Session>,
        calling: &Calling,
    ) -> anyhow::Result<(Option<Instance>, Box<Session>, Done)> {
        let Calling { input, seq, time_ms, fires } = calling.clone();
        let is_query = matches!(input, Input::Query { .. });
        let is_migrate = matches!(input, Input::Migrate { .. });
        let key = session.key.clone();
        let from = self.migrates_from(&session).filter(|_| !is_migrate);
        let mut tx = Transaction::new(SLOT, self.store.clone(), session).at_level(NEWEST);
        if let Some((name, left)) = fires.clone() {
            tx.fire(name, left);
        }
        let mut tx = Box::new(tx);
        if let Some(from) = from {
            let input = Input::Migrate { from: from.clone() };
            let call = plugin::Call { session: key.clone(), seq, time_ms, state: tx, input };
            let done = instance.call(call).await;
            tx = Transaction::from_state(done.state).context("the call lost its session")?;
            let to = &self.versions[self.current].name;
            let migrate = if done.used_state { Migrate::Own } else { Migrate::None };
            let refused = match done.result {
                Ok(_) => match takes_over(migrate, &from, to, false) {
                    Ok(()) => None,
                    Err(refusal) => Some((refusal.reason(&from, to).to_string(), true)),
                },
                Err(Failure::Rejected(rejection)) => Some((rejection.message, true)),
                Err(failure) => Some((outcome(failure)?.describe(), false)),
            };
            if let Some((why, goes_on)) = refused {
                let outcome = Outcome::Refused(format!("from {from} to {to}: {why}"));
                let instance = Some(instance).filter(|_| goes_on);
                return Ok((instance, tx.discard(), Done::of(outcome)));
            }
            tx.end_phase();
        }
        let state = tx.read_only(is_query);
        let call = plugin::Call { session: key, seq, time_ms, state, input };
        let done = instance.call(call).await;
        let tx = Transaction::from_state(done.state).context("the call lost its session")?;
        let reply = match done.result {
            Ok(reply) => reply,
            Err(failure) => {
                let instance = Some(instance).filter(|_| !failure.is_fatal());
                let outcome = match failure {
                    Failure::Rejected(rejection) if is_migrate => {
                        Outcome::Refused(rejection.message)
                    }
                    failure => outcome(failure)?,
                };
                return Ok((instance, tx.discard(), Done::of(outcome)));
            }
        };
        let instance = Some(instance);
        let outcome = Outcome::Reply { content_type: reply.content_type, body: reply.body };
        if is_query {
            return Ok((instance, tx.discard(), Done::of(outcome)));
        }
        if let Some(why) = requests::problem(&tx) {
            return Ok((instance, tx.discard(), Done::of(Outcome::Limit(why))));
        }
        match tx.merge(&mut self.numbers) {
            Ok((mut session, written)) => {
                let asked = asked(&written.effects, fires.as_ref())?;
                let caused = Caused {
                    events: events(done.events),
                    notified: events(done.ephemeral),
                    timers: timers(&asked, time_ms),
                    requests: requests::changes(&asked),
                    sent: sends::take(&mut session, &written.effects)?,
                };
                Ok((instance, session, Done { outcome, caused, written }))
            }
            Err((session, fault)) => {
                Ok((instance, session, Done::of(Outcome::Limit(fault.to_string()))))
            }
        }
    }

    /// The version that has handled a session last, if that is not the current one.
    pub(super) fn migrates_from(&self, session: &Session) -> Option<String> {
        let last = *self.handled_by.get(&session.key)?;
        let is_other = session.exists() && last != self.current;
        is_other.then(|| self.versions[last].name.clone())
    }
}

/// What a failure is in a script; an error where it says nothing of the plugin.
fn outcome(failure: Failure) -> anyhow::Result<Outcome> {
    Ok(match failure {
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
        | Failure::RequestForbidden(_)) => return Err(failure.into()),
    })
}
