//! Joins what server-sent events have at a place in their JSON: the text of a language model, piece by piece.

use crate::{
    limits,
    sse::{Event, EventTooLarge, Parser},
};
use serde_json::Value;
use std::{fmt, str::FromStr};

/// A place in JSON: keys, and numbers of elements, with dots between them: `choices.0.delta.content`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<String>);

/// What is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path has 1 to 16 steps with dots between them, and 256 bytes at most")]
pub struct NoPath;

impl FromStr for JsonPath {
    type Err = NoPath;

    fn from_str(text: &str) -> Result<Self, NoPath> {
        let steps: Vec<String> = text.split('.').map(str::to_owned).collect();
        let is_path = text.len() <= limits::PATH_BYTES_MAX
            && steps.len() <= limits::PATH_STEPS_MAX
            && steps.iter().all(|step| !step.is_empty());
        if is_path { Ok(Self(steps)) } else { Err(NoPath) }
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0.join("."))
    }
}

impl JsonPath {
    /// The text at this place, of a string as it is and of a number or a truth value as JSON has it. `None` if there
    /// is no JSON (`[DONE]`), or nothing there.
    pub fn text(&self, json: &str) -> Option<String> {
        let mut at = &serde_json::from_str::<Value>(json).ok()?;
        for step in &self.0 {
            at = match at {
                Value::Object(fields) => fields.get(step)?,
                Value::Array(elements) => elements.get(step.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        match at {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The texts at this place in these events, one behind the other.
    pub fn join<'a>(&self, events: impl IntoIterator<Item = &'a Event>) -> String {
        events.into_iter().filter_map(|event| self.text(&event.data)).collect()
    }

    /// The same, of the whole body of an answer.
    ///
    /// # Errors
    /// If an event is too large.
    pub fn join_body(&self, body: &[u8]) -> Result<String, EventTooLarge> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        parser.feed(body, &mut events)?;
        Ok(self.join(&events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_a_models_answer_are_joined() {
        let path: JsonPath = "choices.0.delta.content".parse().expect("a path");
        let body = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n\
                     data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n\
                     data: {\"choices\":[]}\n\n\
                     data: {\"choices\":[{\"delta\":{\"content\":null}}]}\n\n\
                     data: {\"choices\":[{\"delta\":{\"content\":\"lo \\u00e4\"}}]}\n\n\
                     data: [DONE]\n\n";
        assert_eq!(path.join_body(body), Ok("Hello ä".to_owned()));
    }

    #[test]
    fn a_place_is_a_key_of_an_object_and_a_number_of_an_array() {
        let text = |path: &str, json| path.parse::<JsonPath>().expect("a path").text(json);
        assert_eq!(text("0", r#"{"0":"key"}"#).as_deref(), Some("key"));
        assert_eq!(text("1.a", r#"[0,{"a":1.5}]"#).as_deref(), Some("1.5"));
        assert_eq!(text("a", r#"{"a":true}"#).as_deref(), Some("true"));
        for (path, json) in
            [("a", "[1]"), ("a.b", r#"{"a":1}"#), ("-1", "[1]"), ("9", "[1]"), ("a", "no")]
        {
            assert_eq!(text(path, json), None, "{path} {json}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(text("0", &deep), None);
    }

    #[test]
    fn what_is_no_path_is_said() {
        for text in ["", ".", "a.", ".a", "a..b", &"a.".repeat(20), &"a".repeat(300)] {
            assert_eq!(text.parse::<JsonPath>(), Err(NoPath), "{text}");
        }
        assert_eq!("a.0.b".parse::<JsonPath>().expect("a path").to_string(), "a.0.b");
    }
}
