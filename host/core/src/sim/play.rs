//! Plays steps on the runner of scripts, and holds what comes of them against what must hold.

use super::{
    line::Line,
    rules::{Inputs, Invariant},
    world::{Step, World},
};
use crate::{
    names::SessionKey,
    script::{self, Condition, Found, Holds, Observed, OfHistory, Outcome, Place, Runner, add},
};
use anyhow::{Context, anyhow};
use serde::Serialize;
use serde_json::{Number, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// What does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The same call, from the same state, comes to something else with a new instance.
    Memory,
    Trap,
    Deadline,
    Limit,
    /// The second version does not take a session over.
    Migrate,
    /// By its place among the invariants.
    Rule(usize),
}

/// What does not hold, for a person.
#[derive(Clone, Debug)]
pub struct Broken {
    pub what: What,
    pub said: Vec<String>,
}

/// What was done, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub runs: u64,
    pub steps: u64,
    pub messages: u64,
    pub repeats: u64,
    /// Between sessions of the simulation.
    pub deliveries: u64,
    /// Of messages to other sessions, and of requests.
    pub answers: u64,
    pub timers: u64,
    pub swaps: u64,
    /// Calls that were made a second time, by a new instance.
    pub crashes: u64,
    pub queries: u64,
    /// Runs at whose end nothing was under way.
    pub settled: u64,
    /// Messages that handlers have rejected, by code.
    pub rejected: BTreeMap<String, u64>,
}

/// One run.
#[derive(Debug, Default)]
pub struct Run {
    /// Those that were taken.
    pub steps: Vec<Step>,
    pub lines: Vec<Line>,
    pub broken: Option<Broken>,
    /// Its time was over before its end.
    pub is_cut: bool,
}

/// Where steps come from.
pub trait Steps {
    fn next(&mut self, world: &World) -> Option<Step>;
}

/// A list, of which steps that mean nothing any more are passed over.
pub struct Fixed<'a>(pub std::slice::Iter<'a, Step>);

impl Steps for Fixed<'_> {
    fn next(&mut self, world: &World) -> Option<Step> {
        self.0.by_ref().find(|step| world.line(step).is_some()).cloned()
    }
}

/// Plays for one component.
pub struct Player<'a> {
    pub runner: &'a mut Runner,
    pub inputs: &'a Inputs,
    /// The second version, as scripts name it.
    pub second: Option<String>,
    /// Each call is made again by a new instance.
    pub crashes: bool,
    pub until: Instant,
    pub counts: Counts,
}

/// What was seen of a session before: for what never falls.
type Seen = BTreeMap<(usize, SessionKey, Place), Number>;

impl Player<'_> {
    /// # Errors
    /// What is no fault of the plugin: a rule whose answers can't be, the store.
    pub async fn play(&mut self, steps: &mut dyn Steps) -> anyhow::Result<Run> {
        let Inputs { service, services, .. } = self.inputs;
        let mut world = World::new(service.clone(), services.clone(), self.second.clone());
        let (mut run, mut seen) = (Run::default(), Seen::new());
        self.runner.begin();
        self.counts.runs += 1;
        while let Some(step) = steps.next(&world) {
            if crate::clock::now() > self.until {
                run.is_cut = true;
                self.counts.runs -= 1;
                return Ok(run);
            }
            let Some(mut line) = world.line(&step) else { continue };
            let got = self.line(&line, world.clock_ms).await?;
            self.count(&step, &got);
            line.expect = expected(&got);
            let broken = broken(&got);
            world.took(&step, &got, self.runner.standing()?);
            let touched = touched(&step, &world);
            run.steps.push(step);
            if let Some(broken) = broken {
                line.crash = broken.what == What::Memory;
                line.expect = None;
                run.lines.push(line);
                run.broken = Some(broken);
                return Ok(run);
            }
            run.lines.push(line);
            if self.ask(false, &touched, &world, &mut run, &mut seen).await? {
                return Ok(run);
            }
        }
        if world.is_settled() {
            self.counts.settled += 1;
            let all = world.keys().cloned().collect();
            self.ask(true, &all, &world, &mut run, &mut seen).await?;
        }
        Ok(run)
    }

    async fn line(&mut self, line: &Line, mut clock_ms: u64) -> anyhow::Result<Observed> {
        let text = line.text();
        let step = script::step(1, &text, &mut clock_ms);
        let step = step.map_err(|why| anyhow!("{text}: {why}"))?;
        self.runner.run(&step).await.with_context(|| text)
    }

    /// Holds the answers of queries against the invariants; true: the run is over.
    async fn ask(
        &mut self,
        is_final: bool,
        of: &BTreeSet<SessionKey>,
        world: &World,
        run: &mut Run,
        seen: &mut Seen,
    ) -> anyhow::Result<bool> {
        let inputs = self.inputs;
        let rules = inputs.invariants.iter().enumerate();
        for (at, rule) in rules.filter(|(_, rule)| rule.is_final == is_final) {
            for key in of.iter().filter(|key| rule.is_of(key)) {
                if world.session(key).is_none() {
                    continue;
                }
                let mut line = Line::to(key, inputs.service.as_str()).with_body(&rule.query);
                line.kind = Some("query");
                let got = self.line(&line, world.clock_ms).await?;
                self.counts.queries += 1;
                self.counts.crashes += u64::from(self.crashes);
                if let Some(broken) = broken(&got) {
                    line.crash = broken.what == What::Memory;
                    run.lines.push(line);
                    run.broken = Some(broken);
                    return Ok(true);
                }
                let holds = concrete(at, rule, key, world, seen);
                let said = match &got.outcome {
                    Outcome::Reply { body, .. } => {
                        note(at, rule, key, body, seen);
                        holds.differences(body)
                    }
                    Outcome::Rejected(_) if rule.or_rejected => Vec::new(),
                    other => vec![format!("expected an answer, got {}", other.describe())],
                };
                if !said.is_empty() {
                    let mut all = vec![format!("{key}: {}", rule.name)];
                    all.extend(said);
                    line.expect = Some(json!({"holds": holds}));
                    run.lines.push(line);
                    run.broken = Some(Broken { what: What::Rule(at), said: all });
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn count(&mut self, step: &Step, got: &Observed) {
        let counts = &mut self.counts;
        counts.steps += 1;
        match step {
            Step::Message { is_repeat: true, .. } => counts.repeats += 1,
            Step::Message { .. } => counts.messages += 1,
            Step::Deliver { .. } => counts.deliveries += 1,
            Step::Outcome { .. } | Step::Answer { .. } | Step::Http { .. } => counts.answers += 1,
            Step::Advance { .. } => counts.timers += got.fired.len() as u64,
            Step::Swap => counts.swaps += 1,
            Step::Presence { .. } => {}
        }
        let calls = match step {
            Step::Advance { .. } => got.fired.len() as u64,
            Step::Swap => 0,
            _ => 1,
        };
        counts.crashes += calls * u64::from(self.crashes);
        let all = got.fired.iter().map(|fired| &fired.observed).chain([got]);
        for outcome in all.map(|observed| &observed.outcome) {
            if let Outcome::Rejected(rejection) = outcome {
                *counts.rejected.entry(rejection.code.clone()).or_default() += 1;
            }
        }
    }
}

/// The sessions that a step may have changed; a swap changes what all answer.
fn touched(step: &Step, world: &World) -> BTreeSet<SessionKey> {
    match step {
        Step::Advance { .. } | Step::Swap => world.keys().cloned().collect(),
        Step::Message { to, .. }
        | Step::Deliver { to, .. }
        | Step::Outcome { to, .. }
        | Step::Answer { to, .. }
        | Step::Http { to, .. }
        | Step::Presence { to, .. } => BTreeSet::from([to.clone()]),
    }
}

/// What holds of every plugin.
fn broken(got: &Observed) -> Option<Broken> {
    let all = got.fired.iter().map(|fired| &fired.observed).chain([got]);
    for observed in all {
        if !observed.unlike.is_empty() {
            let said = ["it keeps something between calls, or it is not pure:".to_owned()];
            let said = said.into_iter().chain(observed.unlike.clone()).collect();
            return Some(Broken { what: What::Memory, said });
        }
        let what = match &observed.outcome {
            Outcome::Reply { .. } | Outcome::Rejected(_) => continue,
            Outcome::Refused(_) => What::Migrate,
            Outcome::Trapped(_) => What::Trap,
            Outcome::Limit(_) => What::Limit,
            Outcome::Deadline => What::Deadline,
        };
        return Some(Broken { what, said: vec![observed.outcome.describe()] });
    }
    None
}

/// What a script must expect so that it does not fail: rejections are no fault.
fn expected(got: &Observed) -> Option<Value> {
    let of = |outcome: &Outcome| match outcome {
        Outcome::Rejected(it) => json!({"rejection": {"code": it.code}}),
        _ => json!({}),
    };
    let is_reply = |outcome: &Outcome| matches!(outcome, Outcome::Reply { .. });
    if got.fired.iter().any(|fired| !is_reply(&fired.observed.outcome)) {
        let fired = got.fired.iter().map(|fired| {
            json!({
                "timer": fired.firing.name, "session": fired.session,
                "expect": of(&fired.observed.outcome),
            })
        });
        return Some(json!({"fired": fired.collect::<Vec<_>>()}));
    }
    (!is_reply(&got.outcome)).then(|| of(&got.outcome))
}

/// What the conditions of a rule come to for a session as its messages have been: so that a script can say it.
fn concrete(at: usize, rule: &Invariant, key: &SessionKey, world: &World, seen: &Seen) -> Holds {
    let mut all = Vec::new();
    for (place, condition) in &rule.holds.0 {
        let mut now = condition.clone();
        let messages = world.accepted(key);
        if let Some(of) = now.equals_count.take() {
            let count = which(&of, messages).count();
            all.push((place.clone(), equals(Value::from(count))));
        }
        if let Some(of) = now.equals_sum.take() {
            let values: Vec<_> = which(&of, messages).filter_map(|it| value_of(&of, it)).collect();
            // What is no number adds nothing: the handler will have said what it thinks of it.
            let numbers = values.iter().filter(|value| value.is_number());
            all.push((place.clone(), equals(add(numbers).unwrap_or_default())));
        }
        if std::mem::take(&mut now.never_falls)
            && let Some(least) = seen.get(&(at, key.clone(), place.clone()))
        {
            let least = Condition { at_least: Some(least.clone()), ..Condition::default() };
            all.push((place.clone(), least));
        }
        all.push((place.clone(), now));
    }
    // A script has one condition for a place.
    let mut merged: Vec<(Place, Condition)> = Vec::new();
    for (place, condition) in all {
        match merged.iter_mut().find(|(known, _)| *known == place) {
            Some((_, known)) => *known = both(std::mem::take(known), condition),
            None => merged.push((place, condition)),
        }
    }
    merged.retain(|(_, condition)| condition.says_something());
    Holds(merged)
}

/// Of one place: what the first does not say, the second does.
fn both(one: Condition, other: Condition) -> Condition {
    Condition {
        equals: one.equals.or(other.equals),
        at_least: one.at_least.or(other.at_least),
        ..other
    }
}

fn equals(value: Value) -> Condition {
    Condition { equals: Some(value), ..Condition::default() }
}

/// The bodies that count.
fn which<'a>(
    of: &'a OfHistory,
    messages: &'a [(Option<String>, Value)],
) -> impl Iterator<Item = &'a Value> {
    let mut ids = BTreeSet::new();
    messages.iter().filter_map(move |(id, body)| {
        let is_new = !of.once || id.as_ref().is_none_or(|id| ids.insert(id));
        (is_new && of.which.are_met_by(body)).then_some(body)
    })
}

fn value_of(of: &OfHistory, body: &Value) -> Option<Value> {
    let found = of.of.as_ref().map(|place| place.find(body));
    match found {
        Some(Found::Values(values)) => add(values.iter()).ok(),
        _ => of.otherwise.clone().map(Value::Number),
    }
}

/// Keeps what must not fall.
fn note(at: usize, rule: &Invariant, key: &SessionKey, body: &[u8], seen: &mut Seen) {
    let falls = rule.holds.0.iter().filter(|(_, condition)| condition.never_falls);
    for (place, _) in falls {
        let Ok(value) = serde_json::from_slice::<Value>(body) else { continue };
        if let Found::Values(values) = place.find(&value)
            && let [Value::Number(number)] = &values[..]
        {
            seen.insert((at, key.clone(), place.clone()), number.clone());
        }
    }
}
