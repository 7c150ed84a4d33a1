//! Places in JSON, and in what two values of it differ.

use serde_json::{Map, Value};
use std::fmt::Write as _;

/// One step from a value to one in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Member(String),
    Element(usize),
    AnyMember,
    AnyElement,
}

/// Reads `$`, `.name`, `["any name"]`, `[3]`, `[*]` and `.*`; `None`: it is something else.
pub fn parse(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            steps.push(match &name[..end] {
                "" => return None,
                "*" => Step::AnyMember,
                name => Step::Member(name.to_owned()),
            });
            rest = &name[end..];
            continue;
        }
        let inner = rest.strip_prefix('[')?;
        if inner.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(inner).into_iter::<String>();
            let name = values.next()?.ok()?;
            rest = inner[values.byte_offset()..].strip_prefix(']')?;
            steps.push(Step::Member(name));
            continue;
        }
        let (index, behind) = inner.split_once(']')?;
        steps.push(match index {
            "*" => Step::AnyElement,
            index => Step::Element(index.parse().ok()?),
        });
        rest = behind;
    }
    Some(steps)
}

/// As [`parse`] reads it. `grouped`: which element of an array it is does not matter.
pub fn show(path: &[Step], grouped: bool) -> String {
    let mut out = String::from("$");
    for step in path {
        match step {
            Step::Member(name) if is_plain(name) => {
                let _ = write!(out, ".{name}");
            }
            Step::Member(name) => {
                let _ = write!(out, "[{}]", Value::from(name.as_str()));
            }
            Step::Element(index) if !grouped => {
                let _ = write!(out, "[{index}]");
            }
            Step::Element(_) | Step::AnyElement => out.push_str("[*]"),
            Step::AnyMember => out.push_str(".*"),
        }
    }
    out
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !name.is_empty() && name.bytes().all(plain)
}

/// Whether a pattern has a place, or a place above it.
pub fn covers(pattern: &[Step], path: &[Step]) -> bool {
    pattern.len() <= path.len()
        && pattern.iter().zip(path).all(|(pattern, step)| match (pattern, step) {
            (Step::AnyMember, Step::Member(_)) | (Step::AnyElement, Step::Element(_)) => true,
            (pattern, step) => pattern == step,
        })
}

/// A place in which two values differ, and what is there of each; `None`: nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Place<'a> {
    pub path: Vec<Step>,
    pub before: Option<&'a Value>,
    pub after: Option<&'a Value>,
}

/// The places in which two values differ, as deep as they go: `most` of them at most. The others are in the last one,
/// which stands for the whole value that they are in.
pub fn differing<'a>(before: &'a Value, after: &'a Value, most: usize) -> Vec<Place<'a>> {
    let mut found = Found { path: Vec::new(), places: Vec::new(), most: most.max(1) };
    found.value(before, after);
    if found.places.len() > found.most {
        return vec![Place { path: Vec::new(), before: Some(before), after: Some(after) }];
    }
    found.places
}

struct Found<'a> {
    path: Vec<Step>,
    places: Vec<Place<'a>>,
    most: usize,
}

impl<'a> Found<'a> {
    fn value(&mut self, before: &'a Value, after: &'a Value) {
        if self.places.len() > self.most {
            return;
        }
        match (before, after) {
            (Value::Object(before), Value::Object(after)) => self.object(before, after),
            (Value::Array(before), Value::Array(after)) => self.array(before, after),
            (before, after) if before == after => {}
            (before, after) => self.push(Some(before), Some(after)),
        }
    }

    fn push(&mut self, before: Option<&'a Value>, after: Option<&'a Value>) {
        self.places.push(Place { path: self.path.clone(), before, after });
    }

    fn object(&mut self, before: &'a Map<String, Value>, after: &'a Map<String, Value>) {
        for (name, value) in before {
            self.within(Step::Member(name.clone()), Some(value), after.get(name));
        }
        for (name, value) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
            self.within(Step::Member(name.clone()), None, Some(value));
        }
    }

    fn array(&mut self, before: &'a [Value], after: &'a [Value]) {
        for at in 0..before.len().max(after.len()) {
            self.within(Step::Element(at), before.get(at), after.get(at));
        }
    }

    fn within(&mut self, step: Step, before: Option<&'a Value>, after: Option<&'a Value>) {
        if self.places.len() > self.most {
            return;
        }
        self.path.push(step);
        match (before, after) {
            (Some(before), Some(after)) => self.value(before, after),
            (before, after) => self.push(before, after),
        }
        self.path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn shown(before: &Value, after: &Value) -> Vec<String> {
        differing(before, after, 100).iter().map(|place| show(&place.path, false)).collect()
    }

    #[test]
    fn places_are_read_as_they_are_shown() {
        for text in ["$", "$.a", "$.a.b-c[3][*].*", "$[\"a b\"].c", "$[\"\\\"]\"][0]"] {
            assert_eq!(show(&parse(text).unwrap(), false), text);
        }
        for text in ["", "a", "$a", "$.", "$..a", "$[", "$[x]", "$[\"a]", "$[-1]", "$.a[1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn values_differ_where_they_differ() {
        let before = json!({"a": 1, "list": [1, {"b": 2}, 3], "gone": null});
        let after = json!({"a": 1, "list": [1, {"b": 3}], "new": {"x": 1}});
        assert_eq!(shown(&before, &after), ["$.gone", "$.list[1].b", "$.list[2]", "$.new"]);
        assert_eq!(shown(&before, &before), [""; 0]);
        assert_eq!(shown(&json!(1), &json!([1])), ["$"]);
        let many = |by: usize| json!((0..50).map(|n| n + by).collect::<Vec<_>>());
        let (one, other) = (many(0), many(1));
        let whole = differing(&one, &other, 10);
        assert_eq!((whole.len(), whole[0].path.len()), (1, 0), "too many: the whole");
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            (0_u8..3).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ab .]{1,2}", inner), 0..4)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    /// The value that a place has; `None`: there is none.
    fn at<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
        path.iter().try_fold(value, |value, step| match step {
            Step::Member(name) => value.get(name),
            Step::Element(at) => value.get(at),
            Step::AnyMember | Step::AnyElement => None,
        })
    }

    proptest! {
        /// What a place says is there is there, and it differs. A place that is shown and read again is itself. And where no
        /// place is given, nothing differs.
        #[test]
        fn places_say_what_differs_and_all_of_it(before in value(), after in value()) {
            let places = differing(&before, &after, 1_000);
            prop_assert_eq!(places.is_empty(), before == after);
            for place in &places {
                prop_assert_eq!(at(&before, &place.path), place.before);
                prop_assert_eq!(at(&after, &place.path), place.after);
                prop_assert_ne!(place.before, place.after);
                let text = show(&place.path, false);
                let read = parse(&text);
                prop_assert_eq!(read.as_ref(), Some(&place.path));
                let grouped = parse(&show(&place.path, true)).unwrap();
                prop_assert!(covers(&grouped, &place.path), "{}", text);
                for length in 0..place.path.len() {
                    prop_assert!(covers(&place.path[..length], &place.path));
                    prop_assert!(!covers(&place.path, &place.path[..length]));
                }
            }
            let back = differing(&after, &before, 1_000);
            prop_assert_eq!(places.len(), back.len());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Some(path) = parse(&text) {
                prop_assert_eq!(parse(&show(&path, false)), Some(path));
            }
        }
    }
}
