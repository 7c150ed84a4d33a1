//! What happens next, by chance: each run is what its seed makes of what may happen.

use super::{
    chance::Chance,
    line::Given,
    mutate::vary,
    play::Steps,
    rules::{AnswersOf, Inputs, Makes, is_like},
    world::{Open, Step, World},
};
use crate::{limits, names::SessionKey, script::Waiting};
use serde_json::{Map, Value, json};

/// What is done to a plugin beside what its clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The node fails before each commit: each call is made again by a new instance.
    pub crash: bool,
    /// A message comes again, with its id.
    pub repeat: bool,
    /// Messages come before timers that are due.
    pub late: bool,
    /// Requests fail, and what is sent is refused.
    pub fail: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self { crash: true, repeat: true, late: true, fail: true }
    }
}

/// Chooses the steps of one run.
pub struct Chooser<'a> {
    inputs: &'a Inputs,
    faults: Faults,
    chance: Chance,
    /// Steps that are still to be chosen.
    left: usize,
    settling: usize,
    /// At which of them the second version comes.
    swap_at: usize,
    /// A script whose order is kept, and how much of it has been sent.
    story: Option<(usize, usize)>,
    messages: u64,
    sent: Vec<Step>,
    /// Why a message could not be made.
    pub failure: Option<String>,
}

/// Messages that may come again.
const REPEATED_MAX: usize = 8;

impl<'a> Chooser<'a> {
    pub fn new(inputs: &'a Inputs, faults: Faults, steps: u32, seed: u64) -> Self {
        let mut chance = Chance::of(seed);
        let left = usize::try_from(steps).unwrap_or(usize::MAX);
        let swap_at = chance.index(left.max(1));
        let tells = !inputs.stories.is_empty() && chance.one_in(2);
        let story = tells.then(|| (chance.index(inputs.stories.len()), 0));
        Self {
            inputs,
            faults,
            chance,
            left,
            settling: limits::SIM_SETTLE_STEPS_MAX,
            swap_at,
            story,
            messages: 0,
            sent: Vec::new(),
            failure: None,
        }
    }

    /// Some time that is not long, so that timers come between messages.
    fn while_between(&mut self, world: &World) -> u64 {
        let due = world.next_due_ms().map(|due| due.saturating_sub(world.clock_ms));
        match (due, self.chance.below(8)) {
            // Whatever is due then waits.
            (Some(due), 0) if self.faults.late => due + self.chance.below(1_000),
            (due, 1..4) => {
                let most = self.chance.below(5_000);
                due.filter(|_| !self.faults.late)
                    .map_or(most, |due| most.min(due.saturating_sub(1)))
            }
            _ => 0,
        }
    }

    fn message(&mut self, world: &World) -> Option<Step> {
        let after_ms = self.while_between(world);
        self.messages += 1;
        let id = Some(format!("m{}", self.messages));
        let told = self.story.and_then(|(of, at)| self.inputs.stories.get(of)?.get(at));
        let (to, message, source) = match told {
            Some((to, message)) => {
                self.story = self.story.map(|(of, at)| (of, at + 1));
                (to.clone(), message.clone(), None)
            }
            None => {
                let at = self.chance.index(self.inputs.sources.len());
                let source = self.inputs.sources.get(at)?;
                let to = self.chance.pick(&source.sessions)?.clone();
                let message = match &source.makes {
                    Makes::Samples(samples) => vary(samples, &mut self.chance),
                    Makes::Schema(schema) => {
                        let sender = self.chance.pick(&source.senders).cloned().flatten();
                        match schema.make(&mut self.chance) {
                            Ok(value) => super::line::Message {
                                sender,
                                body: super::line::Body::Json(value),
                                ..Default::default()
                            },
                            Err(why) => {
                                self.failure = Some(why);
                                return None;
                            }
                        }
                    }
                };
                (to, message, Some(at))
            }
        };
        // To a closed session, now and then.
        if world.session(&to).is_some_and(|it| it.closed) && !self.chance.one_in(4) {
            return Some(Step::Advance { by_ms: 0 });
        }
        let step = Step::Message { to, after_ms, id, message, source, is_repeat: false };
        self.sent.push(step.clone());
        if self.sent.len() > REPEATED_MAX {
            self.sent.remove(0);
        }
        Some(step)
    }

    fn repeat(&mut self, world: &World) -> Option<Step> {
        let after = self.while_between(world);
        let Some(Step::Message { to, id, message, source, .. }) = self.chance.pick(&self.sent)
        else {
            return None;
        };
        let (to, id, message, source) = (to.clone(), id.clone(), message.clone(), *source);
        Some(Step::Message { to, after_ms: after, id, message, source, is_repeat: true })
    }

    /// The clock goes on: to what is due next, or beyond it.
    fn advance(&mut self, world: &World) -> Step {
        let due = world.next_due_ms().map(|due| due.saturating_sub(world.clock_ms));
        let by_ms = match (due, self.chance.below(4)) {
            (Some(due), 0 | 1) => due,
            // A timer of a short period would fire very often.
            (Some(due), _) => due + self.chance.below(due.clamp(60_000, 3_600_000)),
            (None, _) => self.chance.below(600) * 1_000,
        };
        Step::Advance { by_ms }
    }

    fn of_open(&mut self, open: &Open<'_>) -> Step {
        match open {
            Open::Deliver((from, to)) => Step::Deliver { from: from.clone(), to: to.clone() },
            Open::Outcome((to, from)) => Step::Outcome { to: to.clone(), from: from.clone() },
            Open::Answer((to, from)) => {
                let given = self.answer(&from.to_string());
                Step::Answer { to: to.clone(), from: from.clone(), given }
            }
            Open::Http(key, waiting) => self.http(key, waiting),
            Open::Presence(key, present) => {
                Step::Presence { to: (*key).clone(), present: *present }
            }
        }
    }

    /// What a session that is not simulated says.
    fn answer(&mut self, from: &str) -> Given {
        let of = |of: &AnswersOf| matches!(of, AnswersOf::Send { to } if is_like(to, from));
        let known = self.inputs.answers.iter().filter(|answers| of(&answers.of));
        let known: Vec<_> = known.flat_map(|answers| &answers.with).collect();
        let refusal = json!({"code": "not-found", "message": "The simulation says so."});
        let refused = Given(Map::from_iter([("refusal".to_owned(), refusal)]));
        match self.chance.pick(&known) {
            Some(_) if self.faults.fail && self.chance.one_in(8) => refused,
            Some(given) => (*given).clone(),
            None if self.faults.fail && self.chance.one_in(3) => refused,
            None => Given(Map::from_iter([("body".to_owned(), json!({}))])),
        }
    }

    fn http(&mut self, key: &SessionKey, waiting: &Waiting) -> Step {
        let of = |of: &AnswersOf| match of {
            AnswersOf::Request { id, url } => {
                is_like(id, &waiting.id) && is_like(url, &waiting.url)
            }
            AnswersOf::Send { .. } => false,
        };
        let known = self.inputs.answers.iter().filter(|answers| of(&answers.of));
        let known: Vec<_> = known.flat_map(|answers| &answers.with).collect();
        let is_failure =
            self.faults.fail && self.chance.one_in(if known.is_empty() { 3 } else { 8 });
        let mut given = match self.chance.pick(&known) {
            Some(given) if !is_failure => (*given).clone(),
            _ => self.any_answer(waiting, is_failure),
        };
        if self.chance.one_in(4) && !given.0.contains_key("parts") {
            let made = self.chance.between(1, waiting.attempts_max.clamp(1, 3).into());
            given.0.insert("attempts".into(), Value::from(made));
        }
        Step::Http { to: key.clone(), id: waiting.id.clone(), given }
    }

    fn any_answer(&mut self, waiting: &Waiting, is_failure: bool) -> Given {
        let fields = match (is_failure, self.chance.below(3)) {
            (true, 0) => json!({"fail": true, "code": "timeout"}),
            (true, 1) => json!({"fail": true, "code": "connect"}),
            (true, _) => json!({"status": 500, "body": {"error": "The simulation says so."}}),
            (false, _) if waiting.shows.is_some() => {
                json!({"status": 200, "parts": ["one ", "two"]})
            }
            (false, _) => json!({"status": 200, "body": {}}),
        };
        Given(fields.as_object().cloned().unwrap_or_default())
    }

    /// What is under way comes to its end, and nothing new is asked for.
    fn settle(&mut self, world: &World) -> Option<Step> {
        self.settling = self.settling.checked_sub(1)?;
        let open = world.open();
        let open: Vec<_> =
            open.into_iter().filter(|open| !matches!(open, Open::Presence(..))).collect();
        if !open.is_empty() {
            let at = self.chance.index(open.len());
            return open.get(at).map(|open| self.of_open(open));
        }
        if world.is_settled() {
            return None;
        }
        let due = world.next_due_ms()?;
        Some(Step::Advance { by_ms: due.saturating_sub(world.clock_ms) })
    }
}

impl Steps for Chooser<'_> {
    fn next(&mut self, world: &World) -> Option<Step> {
        if self.failure.is_some() {
            return None;
        }
        let Some(left) = self.left.checked_sub(1) else { return self.settle(world) };
        self.left = left;
        if left == self.swap_at && world.line(&Step::Swap).is_some() {
            return Some(Step::Swap);
        }
        enum Kind {
            Message,
            Repeat,
            Open,
            Advance,
        }
        let open = world.open();
        let is_empty = world.keys().next().is_none();
        let repeats = self.faults.repeat && !self.sent.is_empty();
        let kind = self.chance.weighed(vec![
            (10, Kind::Message),
            (if repeats { 2 } else { 0 }, Kind::Repeat),
            (if open.is_empty() { 0 } else { 9 }, Kind::Open),
            (if is_empty { 0 } else { 3 }, Kind::Advance),
        ]);
        match kind? {
            Kind::Message => self.message(world),
            Kind::Repeat => self.repeat(world),
            Kind::Open => {
                let at = self.chance.index(open.len());
                open.get(at).map(|open| self.of_open(open))
            }
            Kind::Advance => Some(self.advance(world)),
        }
    }
}
