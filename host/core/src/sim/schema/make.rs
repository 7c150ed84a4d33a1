//! Values that a schema allows, made by chance: small ones mostly, and what lies at the edges.

use super::{Part, Schema, Type};
use crate::{limits, sim::chance::Chance};
use serde_json::{Map, Number, Value};

/// Few, so that what they name is met again.
const WORDS: [&str; 12] =
    ["a", "b", "c", "tea", "milk", "ann", "bob", "x-1", "", "é", "two words", "0"];
/// From here on, values are as small as they can be.
const DEEP: usize = 5;

/// One value's making.
struct Making<'a> {
    chance: &'a mut Chance,
    /// Parts that may still be made.
    left: usize,
}

impl Schema {
    /// A value that it allows.
    ///
    /// # Errors
    /// None was found: it may allow none.
    pub fn make(&self, chance: &mut Chance) -> Result<Value, String> {
        for _ in 0..limits::SIM_SCHEMA_TRIES_MAX {
            let mut making = Making { chance, left: limits::SIM_SCHEMA_CHECKS_MAX / 100 };
            let made = self.part(self.root, 0, &mut making);
            if let Some(made) = made.filter(|made| self.allows(made)) {
                return Ok(made);
            }
        }
        Err(format!(
            "of {} values that were made by its schema, it allowed none: give a simpler one, or a \
             script whose messages are varied",
            limits::SIM_SCHEMA_TRIES_MAX
        ))
    }

    fn part(&self, at: usize, depth: usize, making: &mut Making<'_>) -> Option<Value> {
        making.left = making.left.checked_sub(1)?;
        let part = &self.parts[at];
        self.depths[at]?;
        if depth > limits::SIM_SCHEMA_DEPTH_MAX {
            return None;
        }
        if let Some(constant) = &part.constant {
            return Some(constant.clone());
        }
        if let Some(values) = &part.values {
            return making.chance.pick(values).cloned();
        }
        if !part.examples.is_empty() && making.chance.one_in(4) {
            return making.chance.pick(&part.examples).cloned();
        }
        let mut others = part.all.clone();
        others.extend(part.reference);
        for choice in [&part.any, &part.one] {
            others.extend(self.choose(choice, depth, making));
        }
        let own = match others.is_empty() || part.says_something() {
            true => Some(self.own(part, depth, making)?),
            false => None,
        };
        // Of an object, each brings its members.
        let mut made = own;
        for other in others {
            let more = self.part(other, depth + 1, making)?;
            made = Some(match (made, more) {
                (Some(Value::Object(mut members)), Value::Object(more)) => {
                    members.extend(more);
                    Value::Object(members)
                }
                (_, more) => more,
            });
        }
        made
    }

    fn choose(&self, choice: &[usize], depth: usize, making: &mut Making<'_>) -> Option<usize> {
        let possible = choice.iter().copied().filter(|at| self.depths[*at].is_some());
        match depth < DEEP {
            true => making.chance.pick(&possible.collect::<Vec<_>>()).copied(),
            false => possible.min_by_key(|at| self.depths[*at]),
        }
    }

    fn own(&self, part: &Part, depth: usize, making: &mut Making<'_>) -> Option<Value> {
        let ty = match making.chance.pick(&part.types) {
            Some(ty) => *ty,
            None => part.implied(making.chance),
        };
        Some(match ty {
            Type::Null => Value::Null,
            Type::Boolean => Value::Bool(making.chance.one_in(2)),
            Type::Integer => part.integer(making.chance),
            Type::Number => part.number(making.chance),
            Type::String => Value::String(part.text(making.chance)),
            Type::Array => Value::Array(self.array(part, depth, making)?),
            Type::Object => Value::Object(self.members(part, depth, making)?),
        })
    }

    fn array(&self, part: &Part, depth: usize, making: &mut Making<'_>) -> Option<Vec<Value>> {
        let least = part.items_min;
        let most = least.saturating_add(limits::SIM_SCHEMA_ELEMENTS_MAX);
        let most = part.items_max.unwrap_or(most).min(most);
        let count =
            if depth < DEEP { making.chance.between(least, most.max(least)) } else { least };
        let mut values: Vec<Value> = Vec::new();
        for index in 0..usize::try_from(count).ok()? {
            let of = part.prefix.get(index).copied().or(part.items);
            let mut made = None;
            // Of few values, another one may be there already.
            for _ in 0..8 {
                let value = match of {
                    Some(of) => self.part(of, depth + 1, making),
                    None => Some(Value::from(making.chance.below(10))),
                };
                let is_new = |value: &Value| {
                    !part.unique || !values.iter().any(|other| super::check::same(other, value))
                };
                made = value.filter(is_new);
                if made.is_some() {
                    break;
                }
            }
            match made {
                Some(value) => values.push(value),
                None if (values.len() as u64) < least => return None,
                None => break,
            }
        }
        Some(values)
    }

    fn members(
        &self,
        part: &Part,
        depth: usize,
        making: &mut Making<'_>,
    ) -> Option<Map<String, Value>> {
        let mut members = Map::new();
        for (name, of) in &part.properties {
            let required = part.required.contains(name);
            let wanted = match depth {
                0 | 1 => !making.chance.one_in(3),
                it if it < DEEP => making.chance.one_in(3),
                _ => false,
            };
            if !required && !wanted {
                continue;
            }
            match self.part(*of, depth + 1, making) {
                Some(value) => drop(members.insert(name.clone(), value)),
                None if required => return None,
                None => {}
            }
        }
        let unnamed = part
            .required
            .iter()
            .filter(|name| !part.properties.iter().any(|(known, _)| known == *name));
        let mut more: Vec<String> = unnamed.cloned().collect();
        let lacking = part.properties_min.saturating_sub((members.len() + more.len()) as u64);
        let is_map = part.properties.is_empty() && part.additional.is_some() && depth < DEEP;
        let extra = if is_map { making.chance.below(4) } else { 0 };
        more.extend((0..lacking.max(extra)).map(|n| match making.chance.pick(&WORDS) {
            Some(word) if !word.is_empty() && n >= lacking => (*word).to_owned(),
            _ => format!("k{n}"),
        }));
        for name in more {
            let value = match part.additional {
                Some(of) => self.part(of, depth + 1, making)?,
                None => Value::from(making.chance.below(10)),
            };
            members.insert(name, value);
        }
        Some(members)
    }
}

impl Part {
    /// Whether it says something itself of what a value is, beside other schemas.
    fn says_something(&self) -> bool {
        let is_object = !self.properties.is_empty() || !self.required.is_empty();
        is_object
            || self.prefix.len() + usize::from(self.items.is_some()) > 0
            || self.types.iter().any(|ty| *ty != Type::Object)
    }

    /// Where no type is said, what is said is of one.
    fn implied(&self, chance: &mut Chance) -> Type {
        let bounds = [&self.minimum, &self.maximum, &self.above, &self.below, &self.multiple_of];
        if !self.properties.is_empty() || !self.required.is_empty() || self.properties_min > 0 {
            Type::Object
        } else if !self.prefix.is_empty() || self.items.is_some() || self.items_min > 0 {
            Type::Array
        } else if bounds.iter().any(|bound| bound.is_some()) {
            Type::Number
        } else if self.pattern.is_some() || self.length_min > 0 || self.format.is_some() {
            Type::String
        } else {
            let all = [Type::Null, Type::Boolean, Type::Integer, Type::String, Type::Object];
            chance.pick(&all).copied().unwrap_or(Type::Null)
        }
    }

    /// The bounds of a whole number, as far as they are some.
    fn bounds(&self) -> (Option<i128>, Option<i128>) {
        let whole = |number: &Option<Number>, up: bool| {
            let number = number.as_ref()?;
            let inexact = || {
                let number = number.as_f64()?;
                let rounded = if up { number.ceil() } else { number.floor() };
                // Far beyond what JSON's whole numbers are.
                Some(rounded.clamp(-1e30, 1e30) as i128)
            };
            number.as_i128().or_else(inexact)
        };
        let above = self.above.as_ref().and_then(|above| match above.as_i128() {
            Some(above) => Some(above + 1),
            None => whole(&self.above, true),
        });
        let below = self.below.as_ref().and_then(|below| match below.as_i128() {
            Some(below) => Some(below - 1),
            None => whole(&self.below, false),
        });
        let least = [whole(&self.minimum, true), above].into_iter().flatten().max();
        let most = [whole(&self.maximum, false), below].into_iter().flatten().min();
        (least, most)
    }

    fn integer(&self, chance: &mut Chance) -> Value {
        let (least, most) = self.bounds();
        let near = |chance: &mut Chance| i128::from(chance.below(21));
        let made = match (least, most, chance.below(4)) {
            (Some(least), _, 0) => least,
            (_, Some(most), 1) => most,
            (None, None, 0) => 0,
            // What JavaScript still counts exactly.
            (_, None, 1) if chance.one_in(4) => (1_i128 << 53) - 1,
            (Some(least), Some(most), _) => {
                let span = u64::try_from(most - least).unwrap_or(u64::MAX);
                let span = if chance.one_in(2) { span.min(20) } else { span };
                least + i128::from(chance.between(0, span))
            }
            (Some(least), None, _) => least + near(chance),
            (None, Some(most), _) => most - near(chance),
            (None, None, _) => near(chance) - 5,
        };
        let of = self.multiple_of.as_ref().and_then(Number::as_i128);
        let made = match of.filter(|of| *of > 0) {
            None => made,
            Some(of) => {
                let down = made.div_euclid(of) * of;
                if least.is_some_and(|least| down < least) { down + of } else { down }
            }
        };
        let value = i64::try_from(made).map(Value::from);
        value.or_else(|_| u64::try_from(made).map(Value::from)).unwrap_or(Value::Null)
    }

    fn number(&self, chance: &mut Chance) -> Value {
        if chance.one_in(2) {
            return self.integer(chance);
        }
        if let Some(of) = self.multiple_of.as_ref().and_then(Number::as_f64) {
            let (least, _) = self.bounds();
            let from = (least.unwrap_or(0) as f64 / of).ceil();
            return Value::from((from + chance.below(20) as f64) * of);
        }
        let share = chance.below(1_001) as f64 / 1_000.0;
        let value = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
        let least = value(&self.minimum).or(value(&self.above));
        let most = value(&self.maximum).or(value(&self.below));
        Value::from(match (least, most) {
            (Some(least), Some(most)) => least + (most - least) * share,
            (Some(least), None) => least + share * 10.0,
            (None, Some(most)) => most - share * 10.0,
            (None, None) => share * 20.0 - 5.0,
        })
    }

    fn text(&self, chance: &mut Chance) -> String {
        if let Some(pattern) = &self.pattern {
            return pattern.make(chance);
        }
        let two = |chance: &mut Chance, most| format!("{:02}", chance.between(1, most));
        let hex = |chance: &mut Chance, len: usize| -> String {
            (0..len).map(|_| format!("{:x}", chance.below(16))).collect()
        };
        match self.format.as_deref() {
            Some("date") => return format!("2026-{}-{}", two(chance, 12), two(chance, 28)),
            Some("time") => return format!("{}:{}:00Z", two(chance, 23), two(chance, 59)),
            Some("date-time") => {
                let (month, day) = (two(chance, 12), two(chance, 28));
                return format!("2026-{month}-{day}T{}:{}:00Z", two(chance, 23), two(chance, 59));
            }
            Some("uuid") => {
                let (first, last) = (hex(chance, 8), hex(chance, 12));
                return format!("{first}-0000-4000-8000-{last}");
            }
            Some("email") => return format!("{}@example.com", hex(chance, 2)),
            Some("uri" | "url") => return format!("https://example.com/{}", hex(chance, 2)),
            Some("ipv4") => return format!("192.0.2.{}", chance.below(255)),
            _ => {}
        }
        let word = chance.pick(&WORDS).copied().unwrap_or_default();
        let least = usize::try_from(self.length_min).unwrap_or(usize::MAX);
        let mut made = word.to_owned();
        if chance.one_in(12) {
            made = "long ".repeat(1 + chance.index(60));
        }
        while made.chars().count() < least {
            made.push(char::from(b'a' + u8::try_from(chance.below(26)).unwrap_or(0)));
        }
        match self.length_max.map(usize::try_from) {
            Some(Ok(most)) => made.chars().take(most).collect(),
            _ => made,
        }
    }
}
