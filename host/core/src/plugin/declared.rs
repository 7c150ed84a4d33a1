//! What a component says of the types of its messages: JSON Schemas, in the custom section `slotd:types` at its top level.
//!
//! slotd does not hold messages against them. They are for who writes a client (`slotd plugin types`), so a component that says
//! what nobody can read is refused where its author sees it: when it is checked and deployed.

use super::{check, imports::check_event_kind};
use crate::limits;
use serde_json::{Map, Value};

pub const SECTION: &str = "slotd:types";
/// The document's format. A slotd that knows a later one has to say what becomes of this one.
const FORMAT: u64 = 1;

/// Members with one schema.
const ONE: [&str; 4] = ["message", "reply", "query", "answer"];
/// Members with a schema for each kind.
const BY_KIND: [&str; 2] = ["events", "notifications"];
const DEFS: &str = "$defs";
/// For editors and readers.
const ASIDE: [&str; 2] = ["$schema", "$comment"];

/// The document of a section; `None` if it is of a later format than this slotd knows.
///
/// # Errors
/// What is wrong with it, for its author.
pub fn parse(section: &[u8]) -> Result<Option<Value>, String> {
    let max = limits::COMPONENT_TYPES_SECTION_BYTES_MAX;
    if section.len() > max {
        return Err(format!("it has {} bytes; {max} are allowed", section.len()));
    }
    let document: Map<String, Value> = serde_json::from_slice(section)
        .map_err(|error| format!("it is no JSON object: {error}"))?;
    match document.get("format").map(Value::as_u64) {
        Some(Some(FORMAT)) => {}
        Some(Some(later)) if later > FORMAT => return Ok(None),
        _ => return Err(format!("its \"format\" is not {FORMAT}")),
    }
    for (name, member) in &document {
        match name.as_str() {
            "format" => {}
            name if ASIDE.contains(&name) => {}
            name if ONE.contains(&name) => check_schema(member, name)?,
            name if BY_KIND.contains(&name) || name == DEFS => check_named(member, name)?,
            other => {
                let known = [&ONE[..], &BY_KIND, &[DEFS]].concat().join(", ");
                return Err(format!("it has {other:?}; format {FORMAT} has {known}"));
            }
        }
    }
    Ok(Some(Value::Object(document)))
}

/// The section of a component, whatever is in it, if it has one.
///
/// # Errors
/// It is no component.
pub fn section(component: &[u8]) -> Result<Option<Box<[u8]>>, String> {
    match check::unlike(component) {
        Some(why) => Err(why),
        None => Ok(check::section(component, SECTION).map(Into::into)),
    }
}

fn check_named(member: &Value, of: &str) -> Result<(), String> {
    let schemas = member.as_object().ok_or_else(|| format!("{of:?} is no object of schemas"))?;
    for (name, schema) in schemas {
        if of != DEFS {
            let bad = |_| format!("{of:?}: {name:?} is no kind of an event");
            check_event_kind(name).map_err(bad)?;
        }
        check_schema(schema, &format!("{of}/{name}"))?;
    }
    Ok(())
}

fn check_schema(schema: &Value, at: &str) -> Result<(), String> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(()),
        _ => Err(format!("{at:?} is no schema: that is an object, true or false")),
    }
}

/// What a document has types of, for people: `message`, `event line`, ...
pub(super) fn names(document: &Value) -> Vec<String> {
    let one = ONE.into_iter().filter(|name| document.get(name).is_some()).map(str::to_owned);
    let of_kind = |(many, one): (&str, &'static str)| {
        let kinds = document.get(many).and_then(Value::as_object);
        kinds.into_iter().flatten().map(move |(kind, _)| format!("{one} {kind}"))
    };
    let pairs = BY_KIND.into_iter().zip(["event", "notification"]);
    one.chain(pairs.flat_map(of_kind)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn refusal(document: &Value) -> String {
        parse(document.to_string().as_bytes()).expect_err(&document.to_string())
    }

    /// A slip of an author that is not found here would be types that are missing in every client.
    #[test]
    fn what_can_not_be_read_is_refused_with_the_reason() {
        for (document, says) in [
            (json!({}), "\"format\" is not 1"),
            (json!({"format": "1"}), "\"format\" is not 1"),
            (json!({"format": 0}), "\"format\" is not 1"),
            (json!({"format": 1, "event": {}}), "it has \"event\"; format 1 has message, reply"),
            (json!({"format": 1, "message": "string"}), "\"message\" is no schema"),
            (json!({"format": 1, "events": []}), "\"events\" is no object"),
            (json!({"format": 1, "events": {"a b": {}}}), "\"a b\" is no kind"),
            (json!({"format": 1, "events": {"x".repeat(65): {}}}), "is no kind"),
            (json!({"format": 1, "events": {"a": 1}}), "\"events/a\" is no schema"),
            (json!({"format": 1, "$defs": {"A": null}}), "\"$defs/A\" is no schema"),
        ] {
            let why = refusal(&document);
            assert!(why.contains(says), "{document}: {why}");
        }
        for (text, says) in
            [("", "no JSON object"), ("[]", "no JSON object"), ("{\"format\": 1", "EOF")]
        {
            let why = parse(text.as_bytes()).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
        let deep = format!(
            "{{\"format\":1,\"message\":{}{{}}{}",
            "{\"not\":".repeat(500),
            "}".repeat(501)
        );
        assert!(parse(deep.as_bytes()).unwrap_err().contains("recursion limit"));
        let large =
            json!({"format": 1, "$comment": "x".repeat(limits::COMPONENT_TYPES_SECTION_BYTES_MAX)});
        assert!(refusal(&large).contains("262144 are allowed"));
    }

    /// A plugin built for a later slotd has to run on this one.
    #[test]
    fn a_later_format_is_no_error() {
        let later = json!({"format": 2, "streams": [], "message": 7});
        assert_eq!(parse(later.to_string().as_bytes()), Ok(None));
    }

    #[test]
    fn everything_of_a_document_is_named() {
        let document = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "a room", "format": 1,
            "message": {"$ref": "#/$defs/Say"}, "reply": true, "query": false, "answer": {},
            "events": {"line": {}, "slotd.restarted": true}, "notifications": {"typing": {"type": "boolean"}},
            "$defs": {"Say": {"type": "string"}},
        });
        let read = parse(document.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(read, document);
        let expected = [
            "message",
            "reply",
            "query",
            "answer",
            "event line",
            "event slotd.restarted",
            "notification typing",
        ];
        assert_eq!(names(&read), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), json in any::<bool>()) {
            let text = if json { [b"{\"format\":1,\"events\":", &bytes[..], b"}"].concat() } else { bytes };
            if let Ok(Some(document)) = parse(&text) {
                let _ = names(&document);
            }
        }
    }
}
