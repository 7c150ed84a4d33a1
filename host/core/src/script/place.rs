//! Places in a JSON value: a small part of JSONPath (RFC 9535), for conditions.

use crate::limits;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;
use std::{fmt, str::FromStr};

/// Where in a value: `$.a["b"][0]`, `$.lines[*].count` for each, or the sum of such: `$.free + $.sold`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    text: String,
    /// One, or those of a sum.
    terms: Vec<Vec<Part>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Name(String),
    Index(usize),
    Each,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let most = limits::SCRIPT_PLACE_BYTES_MAX;
        if text.len() > most {
            return Err(format!("a place in a value has {most} bytes at most"));
        }
        let terms = text.split(" + ").map(|term| parts(term.trim()));
        let terms = terms.collect::<Result<Vec<_>, _>>();
        let terms = terms.map_err(|why| {
            format!("{text:?} is no place in a value: {why}; an example is \"$.lines[0].count\"")
        })?;
        Ok(Self { text: text.to_owned(), terms })
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut rest = text.strip_prefix('$').ok_or("it begins with $")?;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let name = &after[..end];
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err("a name is missing behind a point".into());
            }
            parts.push(Part::Name(name.to_owned()));
            rest = &after[end..];
        } else if let Some(after) = rest.strip_prefix('[') {
            let (part, after) = bracket(after)?;
            parts.push(part);
            rest = after;
        } else {
            return Err(format!("{rest:?} is neither a name nor an index"));
        }
    }
    Ok(parts)
}

/// What is behind a `[`, and what is behind its `]`.
fn bracket(text: &str) -> Result<(Part, &str), String> {
    if text.starts_with('"') {
        let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let name =
            names.next().and_then(Result::ok).ok_or("a name in brackets is a JSON string")?;
        let after = text[names.byte_offset()..].strip_prefix(']');
        return Ok((Part::Name(name), after.ok_or("a ] is missing")?));
    }
    let (inside, after) = text.split_once(']').ok_or("a ] is missing")?;
    let part = match inside {
        "*" => Part::Each,
        index => Part::Index(index.parse().map_err(|_| format!("{index:?} is no index"))?),
    };
    Ok((part, after))
}

/// What is at a place.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// With `[*]`, any number.
    Values(Vec<Value>),
    Missing,
    /// A sum of what is no number.
    NoSum(Value),
}

impl Place {
    pub fn find(&self, value: &Value) -> Found {
        let [term] = &self.terms[..] else { return self.sum(value) };
        let mut found = Vec::new();
        collect(term, value, &mut found);
        match found.is_empty() && !term.contains(&Part::Each) {
            true => Found::Missing,
            false => Found::Values(found.into_iter().cloned().collect()),
        }
    }

    /// It is the sum of several.
    pub fn is_sum(&self) -> bool {
        self.terms.len() > 1
    }

    /// Changes what is there. False: nothing is.
    pub fn change(&self, value: &mut Value, with: &mut dyn FnMut(&mut Value)) -> bool {
        let mut any = false;
        for term in &self.terms {
            any |= change(term, value, with);
        }
        any
    }

    fn sum(&self, value: &Value) -> Found {
        let mut found = Vec::new();
        for term in &self.terms {
            let before = found.len();
            collect(term, value, &mut found);
            if found.len() == before && !term.contains(&Part::Each) {
                return Found::Missing;
            }
        }
        add(found.into_iter()).map_or_else(Found::NoSum, |sum| Found::Values(vec![sum]))
    }
}

/// Their sum: exact as long as all are whole.
///
/// # Errors
/// What is no number.
pub fn add<'a>(values: impl Iterator<Item = &'a Value>) -> Result<Value, Value> {
    let (mut whole, mut exact, mut inexact) = (0_i128, true, 0.0);
    for value in values {
        let Value::Number(number) = value else { return Err(value.clone()) };
        match number.as_i128() {
            Some(number) => whole = whole.saturating_add(number),
            None => exact = false,
        }
        inexact += number.as_f64().unwrap_or(f64::NAN);
    }
    let sum = i64::try_from(whole).ok().map(Value::from);
    let sum = sum.or_else(|| u64::try_from(whole).ok().map(Value::from));
    Ok(sum.filter(|_| exact).unwrap_or_else(|| Value::from(inexact)))
}

fn collect<'a>(parts: &[Part], value: &'a Value, out: &mut Vec<&'a Value>) {
    let Some((first, rest)) = parts.split_first() else { return out.push(value) };
    match (first, value) {
        (Part::Name(name), Value::Object(members)) => {
            members.get(name).into_iter().for_each(|value| collect(rest, value, out));
        }
        (Part::Index(index), Value::Array(values)) => {
            values.get(*index).into_iter().for_each(|value| collect(rest, value, out));
        }
        (Part::Each, Value::Array(values)) => {
            values.iter().for_each(|value| collect(rest, value, out));
        }
        (Part::Each, Value::Object(members)) => {
            members.values().for_each(|value| collect(rest, value, out));
        }
        _ => {}
    }
}

fn change(parts: &[Part], value: &mut Value, with: &mut dyn FnMut(&mut Value)) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        with(value);
        return true;
    };
    let mut any = false;
    let mut each = |value: &mut Value| any |= change(rest, value, with);
    match (first, value) {
        (Part::Name(name), Value::Object(members)) => {
            members.get_mut(name).into_iter().for_each(each);
        }
        (Part::Index(index), Value::Array(values)) => {
            values.get_mut(*index).into_iter().for_each(each);
        }
        (Part::Each, Value::Array(values)) => values.iter_mut().for_each(each),
        (Part::Each, Value::Object(members)) => members.values_mut().for_each(&mut each),
        _ => {}
    }
    any
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(place: &str, value: &Value) -> Found {
        place.parse::<Place>().unwrap().find(value)
    }

    /// A condition that looks elsewhere holds for the wrong reason.
    #[test]
    fn a_place_is_what_it_says() {
        let value = json!({"a": {"b c": [1, 2, {"d": 3}]}, "n": 4, "x.y": 5, "f": 0.5, "s": "t"});
        let values = |values: &[Value]| Found::Values(values.to_vec());
        for (place, found) in [
            ("$", values(std::slice::from_ref(&value))),
            ("$.n", values(&[json!(4)])),
            (r#"$.a["b c"][2].d"#, values(&[json!(3)])),
            (r#"$["x.y"]"#, values(&[json!(5)])),
            (r#"$.a["b c"][*]"#, values(&[json!(1), json!(2), json!({"d": 3})])),
            (r#"$.a["b c"][*].d"#, values(&[json!(3)])),
            (r#"$.a["b c"][7]"#, Found::Missing),
            ("$.none", Found::Missing),
            ("$.n.none", Found::Missing),
            ("$.n[*]", values(&[])),
            ("$.n + $.a[\"b c\"][0]", values(&[json!(5)])),
            ("$.n + $.f", values(&[json!(4.5)])),
            ("$.n + $.none", Found::Missing),
            ("$.n + $.s", Found::NoSum(json!("t"))),
        ] {
            assert_eq!(at(place, &value), found, "{place}");
        }
        for wrong in ["", "a", "$.", "$..a", "$[", "$[x]", "$[\"a\"", "$a", "$.a +", "$.a + b"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
