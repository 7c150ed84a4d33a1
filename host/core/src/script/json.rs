//! JSON compared as values.

use serde_json::{Number, Value};
use std::cmp::Ordering;

/// Where two values differ, each place with what was expected and what is there.
pub(super) fn differences(path: &str, expected: &Value, got: &Value, out: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            for (name, value) in expected {
                let path = member(path, name);
                match got.get(name) {
                    Some(other) => differences(&path, value, other, out),
                    None => out.push(format!("{path}: expected {value}, it is missing")),
                }
            }
            for (name, value) in got.iter().filter(|(name, _)| !expected.contains_key(*name)) {
                out.push(format!("{}: {value} was not expected", member(path, name)));
            }
        }
        (Value::Array(expected), Value::Array(got)) => {
            for (i, pair) in expected.iter().zip(got).enumerate() {
                differences(&format!("{path}[{i}]"), pair.0, pair.1, out);
            }
            for (i, value) in expected.iter().enumerate().skip(got.len()) {
                out.push(format!("{path}[{i}]: expected {value}, it is missing"));
            }
            for (i, value) in got.iter().enumerate().skip(expected.len()) {
                out.push(format!("{path}[{i}]: {value} was not expected"));
            }
        }
        (Value::Number(a), Value::Number(b)) if same_number(a, b) => {}
        _ if expected == got => {}
        _ => out.push(format!("{path}: expected {expected}, got {got}")),
    }
}

fn member(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain { format!("{path}.{name}") } else { format!("{path}[{name:?}]") }
}

fn same_number(a: &Number, b: &Number) -> bool {
    compare_numbers(a, b).is_some_and(Ordering::is_eq)
}

/// Whole numbers are compared exactly; `1.0` and `1` are one number.
pub fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    let whole = |n: &Number| n.as_i128();
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}
