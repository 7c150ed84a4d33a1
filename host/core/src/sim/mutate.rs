//! Messages that are nearly those of an example.

use super::{
    chance::Chance,
    line::{Body, Message},
};
use serde_json::{Map, Value};

/// A message of the examples: mostly as it is, else with one or two places changed.
pub fn vary(samples: &[Message], chance: &mut Chance) -> Message {
    let Some(mut message) = chance.pick(samples).cloned() else { return Message::default() };
    let by_other = chance.one_in(4);
    if let Some(other) = chance.pick(samples).filter(|_| by_other) {
        message.sender.clone_from(&other.sender);
        message.client.clone_from(&other.client);
    }
    let changes = if chance.one_in(3) { 1 + chance.below(2) } else { 0 };
    for _ in 0..changes {
        match &mut message.body {
            Body::Json(value) => {
                let places = count(value);
                let mut at = chance.below(places);
                change(value, &mut at, samples, chance);
            }
            Body::Text(text) => {
                let kept = chance.index(text.chars().count() + 1);
                *text = text.chars().take(kept).collect();
            }
            Body::None | Body::Base64(_) => {}
        }
    }
    message
}

/// Places of a value: it, and all within.
fn count(value: &Value) -> u64 {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum::<u64>(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

fn change(value: &mut Value, at: &mut u64, samples: &[Message], chance: &mut Chance) -> bool {
    if *at == 0 {
        replace(value, samples, chance);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(values) => values.iter_mut().any(|it| change(it, at, samples, chance)),
        Value::Object(members) => members.values_mut().any(|it| change(it, at, samples, chance)),
        _ => false,
    }
}

fn replace(value: &mut Value, samples: &[Message], chance: &mut Chance) {
    match value {
        Value::Null => {}
        Value::Bool(it) => *it = !*it,
        Value::Number(number) => {
            let was = number.as_i64().unwrap_or(0);
            let all = [0, 1, -1, was + 1, was.saturating_sub(1), was.saturating_mul(2), 1 << 53];
            *value = Value::from(chance.pick(&all).copied().unwrap_or(0));
        }
        Value::String(text) => {
            let mut texts = vec![String::new(), "x".to_owned()];
            samples.iter().for_each(|sample| {
                if let Body::Json(value) = &sample.body {
                    collect(value, &mut texts);
                }
            });
            *text = chance.pick(&texts).cloned().unwrap_or_default();
        }
        Value::Array(values) => {
            let at = chance.index(values.len());
            match values.get(at).cloned() {
                Some(value) if chance.one_in(2) => values.push(value),
                Some(_) => drop(values.remove(at)),
                None => {}
            }
        }
        Value::Object(members) => drop(without_one(members, chance)),
    }
}

fn without_one(members: &mut Map<String, Value>, chance: &mut Chance) -> Option<Value> {
    let name = members.keys().nth(chance.index(members.len())).cloned()?;
    members.remove(&name)
}

fn collect(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => out.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, out)),
        Value::Object(members) => members.values().for_each(|value| collect(value, out)),
        _ => {}
    }
}
