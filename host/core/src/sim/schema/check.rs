//! Whether a value is one that a schema allows.

use super::{Part, Schema, Type};
use crate::{limits, script::numbers};
use serde_json::{Number, Value};
use std::cmp::Ordering;

/// What is left of a budget.
struct Left {
    checks: usize,
    /// Parts in one another.
    depth: usize,
}

impl Schema {
    pub fn allows(&self, value: &Value) -> bool {
        let mut left =
            Left { checks: limits::SIM_SCHEMA_CHECKS_MAX, depth: limits::SIM_SCHEMA_NESTING_MAX };
        self.holds(self.root, value, &mut left)
    }

    /// `left`: a schema that refers to itself many times over is given up: the value counts as not allowed.
    fn holds(&self, part: usize, value: &Value, left: &mut Left) -> bool {
        let (Some(checks), Some(depth)) = (left.checks.checked_sub(1), left.depth.checked_sub(1))
        else {
            return false;
        };
        (left.checks, left.depth) = (checks, depth);
        let holds = self.holds_here(&self.parts[part], value, left);
        left.depth += 1;
        holds
    }

    fn holds_here(&self, part: &Part, value: &Value, left: &mut Left) -> bool {
        if let Some(allows) = part.allows {
            return allows;
        }
        let is_type = part.types.is_empty() || part.types.iter().any(|ty| is_of(*ty, value));
        is_type
            && part.constant.as_ref().is_none_or(|constant| same(constant, value))
            && part.values.as_ref().is_none_or(|all| all.iter().any(|each| same(each, value)))
            && part.reference.is_none_or(|of| self.holds(of, value, left))
            && part.all.iter().all(|of| self.holds(*of, value, left))
            && (part.any.is_empty() || part.any.iter().any(|of| self.holds(*of, value, left)))
            && (part.one.is_empty()
                || part.one.iter().filter(|of| self.holds(**of, value, left)).count() == 1)
            && part.not.is_none_or(|of| !self.holds(of, value, left))
            && match value {
                Value::Number(number) => part.allows_number(number),
                Value::String(text) => part.allows_text(text),
                Value::Array(values) => self.allows_array(part, values, left),
                Value::Object(members) => {
                    let count = members.len() as u64;
                    count >= part.properties_min
                        && part.properties_max.is_none_or(|most| count <= most)
                        && part.required.iter().all(|name| members.contains_key(name))
                        && members.iter().all(|(name, value)| {
                            let known = part.properties.iter().find(|(known, _)| known == name);
                            let of = known.map(|(_, of)| *of).or(part.additional);
                            of.is_none_or(|of| self.holds(of, value, left))
                        })
                }
                Value::Null | Value::Bool(_) => true,
            }
    }

    fn allows_array(&self, part: &Part, values: &[Value], left: &mut Left) -> bool {
        let count = values.len() as u64;
        count >= part.items_min
            && part.items_max.is_none_or(|most| count <= most)
            && values.iter().enumerate().all(|(index, value)| {
                let of = part.prefix.get(index).copied().or(part.items);
                of.is_none_or(|of| self.holds(of, value, left))
            })
            && (!part.unique
                || values.iter().enumerate().all(|(index, value)| {
                    left.checks = left.checks.saturating_sub(index);
                    left.checks > 0 && !values[..index].iter().any(|other| same(other, value))
                }))
    }
}

impl Part {
    fn allows_number(&self, number: &Number) -> bool {
        let order = |to: &Number| numbers(number, to);
        self.minimum.as_ref().is_none_or(|to| order(to).is_some_and(Ordering::is_ge))
            && self.maximum.as_ref().is_none_or(|to| order(to).is_some_and(Ordering::is_le))
            && self.above.as_ref().is_none_or(|to| order(to).is_some_and(Ordering::is_gt))
            && self.below.as_ref().is_none_or(|to| order(to).is_some_and(Ordering::is_lt))
            && self.multiple_of.as_ref().is_none_or(|of| is_multiple(number, of))
    }

    fn allows_text(&self, text: &str) -> bool {
        let count = text.chars().count() as u64;
        count >= self.length_min
            && self.length_max.is_none_or(|most| count <= most)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(text))
    }
}

fn is_of(ty: Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::Null, Value::Null)
        | (Type::Boolean, Value::Bool(_))
        | (Type::Object, Value::Object(_))
        | (Type::Array, Value::Array(_))
        | (Type::Number, Value::Number(_))
        | (Type::String, Value::String(_)) => true,
        (Type::Integer, Value::Number(number)) => is_whole(number),
        _ => false,
    }
}

/// `1.0` is.
fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|it| it.fract() == 0.0)
}

fn is_multiple(number: &Number, of: &Number) -> bool {
    match (number.as_i128(), of.as_i128()) {
        (Some(number), Some(of)) => of != 0 && number % of == 0,
        _ => match (number.as_f64(), of.as_f64()) {
            (Some(number), Some(of)) => {
                let times = number / of;
                (times - times.round()).abs() < 1e-9
            }
            _ => false,
        },
    }
}

/// As JSON values: `1.0` is `1`.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => numbers(a, b).is_some_and(Ordering::is_eq),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}
