//! What stands between a plugin's sessions and the world: the clock, what is under way, and what may come next. Pure: it
//! is told what came of each step.

use super::line::{Body, Given, Line, Message};
use crate::{
    limits,
    names::{ServiceName, SessionKey},
    script::{Observed, Outcome, Standing, TIME_MS_DEFAULT, Waiting},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One thing that happens. It names what it is about so that it still means something where steps before it are left
/// out.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A client's message. The clock goes on before, and what is due then is late.
    Message {
        to: SessionKey,
        after_ms: u64,
        id: Option<String>,
        message: Message,
        /// The source that has made it.
        source: Option<usize>,
        is_repeat: bool,
    },
    /// The first message that is on its way from one session to another arrives.
    Deliver {
        from: SessionKey,
        to: SessionKey,
    },
    /// The first outcome that is on its way back arrives.
    Outcome {
        to: SessionKey,
        from: SessionKey,
    },
    /// The first message on its way to a session that is not simulated is answered.
    Answer {
        to: SessionKey,
        from: SessionKey,
        given: Given,
    },
    /// A request over HTTP is answered, or fails.
    Http {
        to: SessionKey,
        id: String,
        given: Given,
    },
    /// The clock goes on, and what becomes due is sent.
    Advance {
        by_ms: u64,
    },
    Presence {
        to: SessionKey,
        present: bool,
    },
    /// Sessions go on with the second version.
    Swap,
}

/// A message between sessions.
#[derive(Clone, Debug)]
struct Flight {
    reply_as: Option<String>,
    content_type: String,
    body: Bytes,
    attempt: u32,
}

/// What came of one, on its way back.
#[derive(Clone, Debug)]
struct Back {
    name: String,
    result: Result<(String, Bytes), Value>,
    attempt: u32,
}

/// By sender and receiver.
type Pair = (SessionKey, SessionKey);

#[derive(Clone, Debug)]
pub struct World {
    own: ServiceName,
    services: BTreeSet<ServiceName>,
    second: Option<String>,
    pub clock_ms: u64,
    pub swapped: bool,
    sessions: BTreeMap<SessionKey, Standing>,
    flights: BTreeMap<Pair, VecDeque<Flight>>,
    /// By who is told, and whose outcome it is.
    backs: BTreeMap<Pair, VecDeque<Back>>,
    /// How often a handler has failed an answer.
    failed: BTreeMap<(SessionKey, String), u32>,
    /// What sessions have accepted: the message's id and its body.
    accepted: BTreeMap<SessionKey, Vec<(Option<String>, Value)>>,
}

/// What may happen next, beside messages of clients.
#[derive(Debug)]
pub enum Open<'a> {
    Deliver(&'a Pair),
    Outcome(&'a Pair),
    /// Of what is sent to a session that is not simulated.
    Answer(&'a Pair),
    Http(&'a SessionKey, &'a Waiting),
    Presence(&'a SessionKey, bool),
}

impl World {
    pub fn new(own: ServiceName, services: BTreeSet<ServiceName>, second: Option<String>) -> Self {
        Self {
            own,
            services,
            second,
            clock_ms: TIME_MS_DEFAULT,
            swapped: false,
            sessions: BTreeMap::new(),
            flights: BTreeMap::new(),
            backs: BTreeMap::new(),
            failed: BTreeMap::new(),
            accepted: BTreeMap::new(),
        }
    }

    pub fn session(&self, key: &SessionKey) -> Option<&Standing> {
        self.sessions.get(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &SessionKey> {
        self.sessions.keys()
    }

    pub fn accepted(&self, key: &SessionKey) -> &[(Option<String>, Value)] {
        self.accepted.get(key).map_or(&[], Vec::as_slice)
    }

    /// A service that the component is deployed as.
    fn is_simulated(&self, key: &SessionKey) -> bool {
        self.services.contains(&key.service)
    }

    /// What may happen next, beside messages of clients, and time.
    pub fn open(&self) -> Vec<Open<'_>> {
        let mut open = Vec::new();
        for (pair, _) in self.flights.iter().filter(|(_, flights)| !flights.is_empty()) {
            open.push(match self.is_simulated(&pair.1) {
                true => Open::Deliver(pair),
                false => Open::Answer(pair),
            });
        }
        let backs = self.backs.iter().filter(|(_, backs)| !backs.is_empty());
        open.extend(backs.map(|(pair, _)| Open::Outcome(pair)));
        for (key, session) in &self.sessions {
            open.extend(session.requests.iter().map(|waiting| Open::Http(key, waiting)));
            open.extend(session.present.map(|present| Open::Presence(key, !present)));
        }
        open
    }

    /// When what is due first is due, of timers and sessions that expire.
    pub fn next_due_ms(&self) -> Option<u64> {
        let all = self.sessions.values();
        all.flat_map(|it| it.timers.iter().map(|(_, at)| *at).chain(it.expires_ms)).min()
    }

    /// Nothing is under way, and no timer is set that fires once.
    pub fn is_settled(&self) -> bool {
        self.flights.values().all(VecDeque::is_empty)
            && self.backs.values().all(VecDeque::is_empty)
            && self.sessions.values().all(|it| it.requests.is_empty() && it.timers.is_empty())
    }

    /// The step as a script's line; `None`: there is nothing of that kind now.
    pub fn line(&self, step: &Step) -> Option<Line> {
        let to = |key: &SessionKey| Line::to(key, self.own.as_str());
        let exists = |key: &SessionKey| self.sessions.get(key).filter(|it| !it.closed);
        Some(match step {
            Step::Message { to: key, after_ms, id, message, .. } => {
                let time_ms = self.clock_ms.checked_add(*after_ms)?;
                Line {
                    time_ms: Some(time_ms),
                    sender: message.sender.clone(),
                    client: message.client.clone(),
                    content_type: message.content_type.clone(),
                    id: id.clone(),
                    ..to(key)
                }
                .with_body(&message.body)
            }
            Step::Deliver { from, to: key } => {
                let flight = self.flight(from, key)?;
                let line = Line {
                    from: Some(from.to_string()),
                    reply_wanted: flight.reply_as.is_some().then_some(true),
                    attempt: (flight.attempt > 1).then_some(flight.attempt),
                    ..to(key)
                };
                line.with_bytes(&flight.content_type, &flight.body)
            }
            Step::Outcome { to: key, from } => {
                exists(key)?;
                let back = self.backs.get(&(key.clone(), from.clone()))?.front()?;
                let line = Line {
                    answer: Some(back.name.clone()),
                    from: Some(from.to_string()),
                    attempt: (back.attempt > 1).then_some(back.attempt),
                    ..to(key)
                };
                match &back.result {
                    Ok((content_type, body)) => line.with_bytes(content_type, body),
                    Err(refusal) => Line { refusal: Some(refusal.clone()), ..line },
                }
            }
            Step::Answer { to: key, from, given } => {
                exists(key)?;
                let flight = self.flight(key, from)?;
                Line {
                    answer: Some(flight.reply_as.clone()?),
                    from: Some(from.to_string()),
                    attempt: (flight.attempt > 1).then_some(flight.attempt),
                    given: given.0.clone(),
                    ..to(key)
                }
            }
            Step::Http { to: key, id, given } => {
                let session = exists(key)?;
                let waiting = session.requests.iter().find(|waiting| waiting.id == *id)?;
                let mut given = given.0.clone();
                if waiting.shows.is_none() {
                    given.remove("parts");
                }
                let made = given.get("attempts").and_then(Value::as_u64).unwrap_or(1);
                let made = made.min(waiting.attempts_max.into());
                given.remove("attempts");
                let fails = given.remove("fail").is_some();
                let failed = self.failed.get(&(key.clone(), id.clone())).copied().unwrap_or(0);
                Line {
                    answer: (!fails).then(|| id.clone()),
                    fail: fails.then(|| id.clone()),
                    attempts: u32::try_from(made).ok().filter(|made| *made > 1),
                    attempt: (failed > 0).then_some(failed + 1),
                    given,
                    ..to(key)
                }
            }
            Step::Advance { by_ms } => {
                self.clock_ms.checked_add(*by_ms).filter(|it| *it <= limits::TIMER_MS_MAX)?;
                Line { advance: Some(duration(*by_ms)), ..Line::default() }
            }
            Step::Presence { to: key, present } => {
                exists(key)?.present.filter(|was| was != present)?;
                let presence = if *present { "present" } else { "absent" };
                Line { presence: Some(presence), ..to(key) }
            }
            Step::Swap => Line {
                swap: Some(self.second.clone().filter(|_| !self.swapped)?),
                ..Line::default()
            },
        })
    }

    fn flight(&self, from: &SessionKey, to: &SessionKey) -> Option<&Flight> {
        self.flights.get(&(from.clone(), to.clone()))?.front()
    }

    /// What came of a step, and how sessions stand after it.
    pub fn took(&mut self, step: &Step, got: &Observed, standing: Vec<Standing>) {
        self.clock_ms = self.clock_ms.max(got.time_ms);
        let went_well = matches!(got.outcome, Outcome::Reply { .. });
        match step {
            Step::Message { to, id, message, .. } => {
                if went_well {
                    let body = match &message.body {
                        Body::Json(value) => value.clone(),
                        Body::Text(text) => Value::from(text.clone()),
                        Body::None | Body::Base64(_) => Value::Null,
                    };
                    self.accepted.entry(to.clone()).or_default().push((id.clone(), body));
                }
                self.sent(to, got);
            }
            Step::Deliver { from, to } => self.delivered(from, to, got),
            Step::Outcome { to, from } => {
                let pair = (to.clone(), from.clone());
                if let Some(backs) = self.backs.get_mut(&pair)
                    && let Some(back) = backs.front_mut()
                {
                    back.attempt += 1;
                    if !is_tried_again(&got.outcome) || back.attempt > limits::SIM_ATTEMPTS_MAX {
                        backs.pop_front();
                    }
                }
                self.sent(to, got);
            }
            Step::Answer { to, from, .. } => {
                let pair = (to.clone(), from.clone());
                if let Some(flights) = self.flights.get_mut(&pair)
                    && let Some(flight) = flights.front_mut()
                {
                    flight.attempt += 1;
                    if !is_tried_again(&got.outcome) || flight.attempt > limits::SIM_ATTEMPTS_MAX {
                        flights.pop_front();
                    }
                }
                self.sent(to, got);
            }
            Step::Http { to, id, .. } => {
                let failed = self.failed.entry((to.clone(), id.clone())).or_default();
                *failed =
                    if went_well { 0 } else { (*failed + 1).min(limits::EFFECT_ATTEMPTS_MAX - 1) };
                self.sent(to, got);
            }
            Step::Presence { to, .. } => self.sent(to, got),
            Step::Advance { .. } => {
                for fired in &got.fired {
                    self.sent(&fired.key, &fired.observed);
                }
            }
            Step::Swap => self.swapped = true,
        }
        self.sessions = standing.into_iter().map(|it| (it.key.clone(), it)).collect();
        self.forget();
    }

    /// A message has come to another session.
    fn delivered(&mut self, from: &SessionKey, to: &SessionKey, got: &Observed) {
        let pair = (from.clone(), to.clone());
        let Some(flights) = self.flights.get_mut(&pair) else { return };
        let Some(flight) = flights.front_mut() else { return };
        flight.attempt += 1;
        let is_over = !is_tried_again(&got.outcome) || flight.attempt > limits::SIM_ATTEMPTS_MAX;
        if is_over && let Some(flight) = flights.pop_front() {
            let result = match &got.outcome {
                Outcome::Reply { content_type, body } => Ok((content_type.clone(), body.clone())),
                Outcome::Rejected(it) => Err(json!({
                    "code": it.code, "message": it.message, "retriable": it.retriable,
                })),
                _ => Err(json!({"code": "plugin-trap", "message": "", "retriable": true})),
            };
            if let Some(name) = flight.reply_as {
                let back = Back { name, result, attempt: 1 };
                self.backs.entry((from.clone(), to.clone())).or_default().push_back(back);
            }
        }
        self.sent(to, got);
    }

    /// What a message has sent is on its way.
    fn sent(&mut self, from: &SessionKey, got: &Observed) {
        for sent in &got.sent {
            // Nothing comes back of it, and nobody here handles it.
            if sent.reply_as.is_none() && !self.is_simulated(&sent.to) {
                continue;
            }
            let flights = self.flights.entry((from.clone(), sent.to.clone())).or_default();
            if flights.len() < limits::SIM_FLIGHTS_MAX {
                flights.push_back(Flight {
                    reply_as: sent.reply_as.clone(),
                    content_type: sent.content_type.clone(),
                    body: sent.body.clone(),
                    attempt: 1,
                });
            }
        }
    }

    /// What comes back to a session that is gone, or closed, comes to nobody.
    fn forget(&mut self) {
        let sessions = &self.sessions;
        let listens = |key: &SessionKey| sessions.get(key).is_some_and(|it| !it.closed);
        let services = &self.services;
        self.backs.retain(|(to, _), backs| listens(to) && !backs.is_empty());
        self.flights.retain(|(from, to), flights| {
            !flights.is_empty() && (services.contains(&to.service) || listens(from))
        });
        self.failed.retain(|(key, _), _| sessions.contains_key(key));
        self.accepted.retain(|key, _| sessions.contains_key(key));
    }
}

fn is_tried_again(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Reply { .. } => false,
        Outcome::Rejected(rejection) => rejection.retriable,
        _ => true,
    }
}

/// As a script writes it.
fn duration(ms: u64) -> String {
    match (ms / 1_000, ms % 1_000) {
        (seconds, 0) if seconds % 60 == 0 && seconds > 0 => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        (0, ms) => format!("{ms}ms"),
        (seconds, ms) => format!("{seconds}s {ms}ms"),
    }
}
