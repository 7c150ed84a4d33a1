//! The shortest run that fails as a longer one has: steps are left out, then what they say becomes simpler. Each try is
//! played.

use super::{
    line::{Body, Given},
    play::{Fixed, Player, Run, What},
    rules::Makes,
    world::Step,
};
use crate::limits;
use serde_json::{Map, Value};

/// Shortens `run`, which has failed; gives the shortest that was found, and how many were played.
///
/// # Errors
/// As of playing.
pub async fn shrink(player: &mut Player<'_>, run: Run) -> anyhow::Result<(Run, usize)> {
    let Some(what) = run.broken.as_ref().map(|broken| broken.what.clone()) else {
        return Ok((run, 0));
    };
    let mut shrinking = Shrinking { player, what, best: run, tries: 0 };
    shrinking.leave_out().await?;
    while shrinking.simplify().await? {
        // What is simpler may make others needless.
        shrinking.leave_out().await?;
    }
    Ok((shrinking.best, shrinking.tries))
}

struct Shrinking<'a, 'b> {
    player: &'a mut Player<'b>,
    what: What,
    best: Run,
    tries: usize,
}

impl Shrinking<'_, '_> {
    fn is_over(&self) -> bool {
        self.tries >= limits::SIM_SHRINK_TRIES_MAX || crate::clock::now() > self.player.until
    }

    /// Whether the steps fail in the same way; then they are the best so far.
    async fn fails(&mut self, steps: &[Step]) -> anyhow::Result<bool> {
        if self.is_over() {
            return Ok(false);
        }
        self.tries += 1;
        let run = self.player.play(&mut Fixed(steps.iter())).await?;
        let fails = run.broken.as_ref().is_some_and(|broken| broken.what == self.what);
        if fails && !run.is_cut {
            self.best = run;
        }
        Ok(fails)
    }

    /// Delta debugging: ever smaller pieces are left out, as long as it fails without them.
    async fn leave_out(&mut self) -> anyhow::Result<()> {
        let mut size = self.best.steps.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            let mut shorter = false;
            while from < self.best.steps.len() {
                let mut steps = self.best.steps.clone();
                let to = (from + size).min(steps.len());
                steps.drain(from..to);
                match self.fails(&steps).await? {
                    true => shorter = true,
                    false => from += size,
                }
            }
            if self.is_over() || size == 1 && !shorter {
                return Ok(());
            }
            if !shorter {
                size = size.div_ceil(2);
            }
        }
    }

    /// True: something is simpler.
    async fn simplify(&mut self) -> anyhow::Result<bool> {
        let mut any = false;
        let mut at = 0;
        while at < self.best.steps.len() {
            let Some(step) = self.best.steps.get(at) else { break };
            let mut found = false;
            for simpler in self.simpler(step) {
                let mut steps = self.best.steps.clone();
                steps[at] = simpler;
                if self.fails(&steps).await? {
                    found = true;
                    break;
                }
            }
            any |= found;
            if !found {
                at += 1;
            }
            if self.is_over() {
                return Ok(false);
            }
        }
        Ok(any)
    }

    /// Steps that say less, the simplest first. Messages stay what their schema allows.
    fn simpler(&self, step: &Step) -> Vec<Step> {
        let mut out = Vec::new();
        match step {
            Step::Message { to, after_ms, id, message, source, is_repeat } => {
                let source_of = source.and_then(|at| self.player.inputs.sources.get(at));
                let allows = |value: &Value| match source_of.map(|source| &source.makes) {
                    Some(Makes::Schema(schema)) => schema.allows(value),
                    _ => true,
                };
                let with = |after_ms: u64, id: &Option<String>, message: super::line::Message| {
                    Step::Message {
                        to: to.clone(),
                        after_ms,
                        id: id.clone(),
                        message,
                        source: *source,
                        is_repeat: *is_repeat,
                    }
                };
                let times = smaller(*after_ms).into_iter();
                out.extend(times.map(|after_ms| with(after_ms, id, message.clone())));
                if message.sender.is_some() {
                    let message = super::line::Message { sender: None, ..message.clone() };
                    out.push(with(*after_ms, id, message));
                }
                if message.client.is_some() {
                    let message = super::line::Message { client: None, ..message.clone() };
                    out.push(with(*after_ms, id, message));
                }
                if id.is_some() {
                    out.push(with(*after_ms, &None, message.clone()));
                }
                let bodies: Vec<Body> = match &message.body {
                    Body::Json(value) => {
                        values(value).into_iter().filter(allows).map(Body::Json).collect()
                    }
                    Body::Text(text) => texts(text).into_iter().map(Body::Text).collect(),
                    Body::None | Body::Base64(_) => Vec::new(),
                };
                out.extend(bodies.into_iter().map(|body| {
                    with(*after_ms, id, super::line::Message { body, ..message.clone() })
                }));
            }
            Step::Advance { by_ms } => {
                out.extend(smaller(*by_ms).into_iter().map(|by_ms| Step::Advance { by_ms }));
            }
            Step::Http { to, id, given } => {
                for name in ["attempts", "headers"] {
                    let mut fields = given.0.clone();
                    if fields.remove(name).is_some() {
                        let (to, id) = (to.clone(), id.clone());
                        out.push(Step::Http { to, id, given: Given(fields) });
                    }
                }
            }
            Step::Deliver { .. }
            | Step::Outcome { .. }
            | Step::Answer { .. }
            | Step::Presence { .. }
            | Step::Swap => {}
        }
        out
    }
}

/// Less of it, and rounder.
fn smaller(number: u64) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    if number > 0 {
        out.push(0);
    }
    let units = [3_600_000, 60_000, 1_000].into_iter();
    out.extend(units.map(|unit| number / unit * unit).filter(|it| *it > 0 && *it < number));
    out.extend(Some(number / 2).filter(|it| *it > 0));
    out
}

fn texts(text: &str) -> Vec<String> {
    let count = text.chars().count();
    let cut = |len: usize| text.chars().take(len).collect::<String>();
    let mut out: Vec<String> = Vec::new();
    for len in [0, 1, count / 2, count.saturating_sub(1)] {
        if len < count && out.iter().all(|other| other.chars().count() != len) {
            out.push(cut(len));
        }
    }
    out
}

/// Simpler values of the same kind, by one change each.
fn values(value: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    match value {
        Value::Null => {}
        Value::Bool(it) => out.extend(it.then_some(Value::Bool(false))),
        Value::Number(number) => {
            let mut simpler: Vec<i64> = vec![0, 1];
            match number.as_i64() {
                Some(whole) => {
                    simpler.extend([whole / 2, whole - whole.signum()]);
                    let is_less = |it: &i64| it.unsigned_abs() < whole.unsigned_abs();
                    simpler.retain(is_less);
                }
                None => simpler.extend(number.as_f64().map(|it| it as i64)),
            }
            simpler.dedup();
            out.extend(simpler.into_iter().map(Value::from));
        }
        Value::String(text) => out.extend(texts(text).into_iter().map(Value::String)),
        Value::Array(all) => {
            for at in 0..all.len() {
                let mut fewer = all.clone();
                fewer.remove(at);
                out.push(Value::Array(fewer));
            }
            for (at, each) in all.iter().enumerate() {
                out.extend(values(each).into_iter().map(|simpler| {
                    let mut changed = all.clone();
                    changed[at] = simpler;
                    Value::Array(changed)
                }));
            }
        }
        Value::Object(members) => {
            let without = |name: &String| {
                let mut fewer: Map<String, Value> = members.clone();
                fewer.remove(name);
                Value::Object(fewer)
            };
            out.extend(members.keys().map(without));
            for (name, each) in members {
                out.extend(values(each).into_iter().map(|simpler| {
                    let mut changed = members.clone();
                    changed.insert(name.clone(), simpler);
                    Value::Object(changed)
                }));
            }
        }
    }
    out
}
