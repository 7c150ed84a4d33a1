//! Conditions that a JSON value meets, where it is not known to the letter.

use super::{
    compare::shown,
    json::{compare_numbers, differences},
    place::{Found, Place},
    present,
};
use crate::text;
use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Number, Value};
use std::{cmp::Ordering, collections::BTreeMap};

/// Places of a value, with the conditions that it meets there.
#[derive(Clone, Debug, Default)]
pub struct Holds(pub Vec<(Place, Condition)>);

/// What holds of a value; all of it, if it says several things.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub not: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Number>,
    /// Characters, elements or members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_at_least: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_at_most: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// It is never less than it was after the step before. As the next two, of a simulation's rules alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_falls: bool,
    /// It is the number of messages that the session has accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals_count: Option<OfHistory>,
    /// It is a sum over the messages that the session has accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals_sum: Option<OfHistory>,
}

/// Some of the messages that a session has accepted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OfHistory {
    /// Of a sum: where in a message's body.
    pub of: Option<Place>,
    /// What is added for a message that has nothing there; else nothing is.
    pub otherwise: Option<Number>,
    /// What holds of the messages' bodies.
    #[serde(default, rename = "where")]
    pub which: Holds,
    /// Messages of one id count once.
    #[serde(default)]
    pub once: bool,
}

/// A regular expression, found anywhere in a text.
#[derive(Clone, Debug)]
pub struct Text(Regex);

impl Holds {
    /// Each condition that a body does not meet, in a line of its own.
    pub fn differences(&self, body: &[u8]) -> Vec<String> {
        match serde_json::from_slice(body) {
            Ok(value) => self.unmet(&value),
            Err(_) => vec![format!("reply: expected JSON, got {}", shown(body))],
        }
    }

    /// As [`Self::differences`], of a value.
    pub fn unmet(&self, value: &Value) -> Vec<String> {
        let mut out = Vec::new();
        for (place, condition) in &self.0 {
            match place.find(value) {
                Found::Missing if condition.exists == Some(false) => {}
                Found::Missing => out.push(format!("{place}: it is missing")),
                Found::NoSum(value) => out.push(format!("{place}: {value} is no number")),
                Found::Values(values) if condition.exists == Some(false) => {
                    out.extend(
                        values.first().map(|it| format!("{place}: expected none, got {it}")),
                    );
                }
                Found::Values(values) => {
                    let unmet = values.iter().flat_map(|value| condition.unmet(value));
                    out.extend(unmet.map(|why| {
                        text::clip(format!("{place}: {why}").into(), SHOWN).into_owned()
                    }));
                }
            }
        }
        out
    }

    pub fn are_met_by(&self, value: &Value) -> bool {
        self.unmet(value).is_empty()
    }

    /// A script has one reply to look at, and no history.
    pub(super) fn check_alone(&self) -> Result<(), String> {
        let mut conditions = self.0.iter().map(|(_, condition)| condition);
        match conditions.any(Condition::is_of_history) {
            true => Err("`never_falls`, `equals_count` and `equals_sum` are of the rules of a \
                         simulation"
                .into()),
            false => Ok(()),
        }
    }
}

/// Bytes of what is shown of a condition.
const SHOWN: usize = 400;

impl Condition {
    /// Whether a value may fail it.
    pub fn says_something(&self) -> bool {
        serde_json::to_value(self).is_ok_and(|it| it != serde_json::json!({}))
    }

    pub fn is_of_history(&self) -> bool {
        self.never_falls || self.equals_count.is_some() || self.equals_sum.is_some()
    }

    fn unmet(&self, got: &Value) -> Vec<String> {
        let mut out = Vec::new();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                out.push(format!("expected {what}, got {got}"));
            }
        };
        if let Some(equals) = &self.equals {
            expect(same(equals, got), equals.to_string());
        }
        if let Some(not) = &self.not {
            expect(!same(not, got), format!("anything but {not}"));
        }
        if let Some(all) = &self.one_of {
            let shown = || Value::from(all.clone()).to_string();
            expect(all.iter().any(|each| same(each, got)), format!("one of {}", shown()));
        }
        let order = |limit: &Number| match got {
            Value::Number(got) => compare_numbers(got, limit),
            _ => None,
        };
        if let Some(least) = &self.at_least {
            let holds = order(least).is_some_and(Ordering::is_ge);
            expect(holds, format!("{least} or more"));
        }
        if let Some(most) = &self.at_most {
            expect(order(most).is_some_and(Ordering::is_le), format!("{most} or less"));
        }
        let length = match got {
            Value::String(text) => Some(text.chars().count() as u64),
            Value::Array(values) => Some(values.len() as u64),
            Value::Object(members) => Some(members.len() as u64),
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        };
        if let Some(least) = self.length_at_least {
            expect(length.is_some_and(|it| it >= least), format!("a length of {least} or more"));
        }
        if let Some(most) = self.length_at_most {
            expect(length.is_some_and(|it| it <= most), format!("a length of {most} or less"));
        }
        if let Some(Text(regex)) = &self.matches {
            let holds = got.as_str().is_some_and(|text| regex.is_match(text));
            expect(holds, format!("a text that matches {:?}", regex.as_str()));
        }
        out
    }
}

fn same(a: &Value, b: &Value) -> bool {
    let mut found = Vec::new();
    differences("", a, b, &mut found);
    found.is_empty()
}

impl<'de> Deserialize<'de> for Holds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<Place, Condition>::deserialize(deserializer)?;
        if let Some((place, _)) = all.iter().find(|(_, it)| !it.says_something()) {
            return Err(D::Error::custom(format!("nothing is said of {place}")));
        }
        Ok(Self(all.into_iter().collect()))
    }
}

impl Serialize for Holds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(place, condition)| (place, condition)))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Self).map_err(D::Error::custom)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn unmet(holds: Value, value: &Value) -> Vec<String> {
        serde_json::from_value::<Holds>(holds).unwrap().unmet(value)
    }

    /// An invariant that never fails finds nothing; one that fails for nothing is switched off.
    #[test]
    fn a_condition_is_met_or_says_why_not() {
        let value = json!({"n": 3, "t": "tea", "l": [1, 5], "big": u64::MAX, "f": 3.0});
        for holds in [
            json!({"$.n": {"equals": 3}, "$.f": {"equals": 3}}),
            json!({"$.n": {"not": 4, "at_least": 3, "at_most": 3}}),
            json!({"$.n": {"one_of": [1, 3]}, "$.x": {"exists": false}}),
            json!({"$.t": {"matches": "^t", "length_at_least": 3, "length_at_most": 3}}),
            json!({"$.l[*]": {"at_least": 1}, "$.n + $.l[1]": {"equals": 8}}),
            json!({"$.big": {"at_least": 9_007_199_254_740_993_u64}}),
            json!({"$.t": {"exists": true}}),
        ] {
            assert_eq!(unmet(holds.clone(), &value), [""; 0], "{holds}");
        }
        for (holds, why) in [
            (json!({"$.n": {"equals": 4}}), "$.n: expected 4, got 3"),
            (json!({"$.n": {"not": 3}}), "$.n: expected anything but 3, got 3"),
            (json!({"$.n": {"one_of": [1, 2]}}), "$.n: expected one of [1,2], got 3"),
            (json!({"$.n": {"at_least": 4}}), "$.n: expected 4 or more, got 3"),
            (json!({"$.t": {"at_most": 4}}), "$.t: expected 4 or less, got \"tea\""),
            (json!({"$.l[*]": {"at_most": 4}}), "$.l[*]: expected 4 or less, got 5"),
            (
                json!({"$.l": {"length_at_most": 1}}),
                "$.l: expected a length of 1 or less, got [1,5]",
            ),
            (
                json!({"$.t": {"matches": "x"}}),
                "$.t: expected a text that matches \"x\", got \"tea\"",
            ),
            (json!({"$.x": {"equals": null}}), "$.x: it is missing"),
            (json!({"$.n": {"exists": false}}), "$.n: expected none, got 3"),
            (
                json!({"$.big": {"at_most": u64::MAX - 1}}),
                "$.big: expected 18446744073709551614 or less, got 18446744073709551615",
            ),
        ] {
            assert_eq!(unmet(holds, &value), [why]);
        }
        for wrong in [
            json!({"n": {"equals": 1}}),
            json!({"$.n": {}}),
            json!({"$.n": {"is": 1}}),
            json!({"$.n": {"matches": "("}}),
        ] {
            assert!(serde_json::from_value::<Holds>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
