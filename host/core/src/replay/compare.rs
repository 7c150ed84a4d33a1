//! In what the outcomes of two versions differ, as a report groups it.

use super::{Outcome, Replied, shown};
use crate::{
    effects::{Effect, rows::Name, send::Content},
    gate::{
        Ignore, Kind, Want,
        path::{self, Step},
    },
    limits,
    log::record::Event,
    text::{self, Keep},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// One thing in which two outcomes differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    /// As [`crate::gate::Group::path`].
    pub path: String,
    pub stored: String,
    pub came: String,
}

impl Found {
    /// As `ignore` takes it.
    pub fn name(&self) -> String {
        match &*self.path {
            "" => self.kind.to_string(),
            path => format!("{}.{path}", self.kind),
        }
    }
}

/// What may differ, read once.
#[derive(Clone, Debug, Default)]
pub struct Ignores(Vec<(Ignore, Vec<Step>)>);

impl Ignores {
    pub fn new(all: &[Ignore]) -> Self {
        let read =
            |ignore: &Ignore| (ignore.clone(), path::parse(&ignore.path).unwrap_or_default());
        Self(all.iter().map(read).collect())
    }

    /// Whether a difference is allowed. `path`: `None`, where it has no place.
    fn has(&self, kind: Kind, subject: &str, path: Option<&[Step]>) -> bool {
        self.0.iter().any(|(ignore, pattern)| {
            let is_there = match path {
                Some(path) => path::covers(pattern, path),
                None => pattern.is_empty(),
            };
            ignore.kind == kind && fits(&ignore.subject, subject) && is_there
        })
    }
}

/// Whether a text is as a pattern says, in which `*` is any text. An empty pattern fits all.
fn fits(pattern: &str, text: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

/// In what two outcomes differ, but for what may: the first is of the version before, which has answered.
pub fn compare(before: &Replied, after: &Outcome, ignores: &Ignores) -> Vec<Found> {
    let mut all = All { ignores, found: Vec::new() };
    match after {
        Outcome::Replied(after) => all.replies(before, after),
        failed => all.failed(before, failed),
    }
    all.found
}

/// In what two states differ, each in the order of its keys.
pub fn compare_states<'a>(
    before: impl Iterator<Item = (&'a str, &'a Bytes)>,
    after: impl Iterator<Item = (&'a str, &'a Bytes)>,
    ignores: &Ignores,
) -> Vec<Found> {
    let mut all = All { ignores, found: Vec::new() };
    let (mut before, mut after) = (before.peekable(), after.peekable());
    while all.found.len() < limits::GATE_PLACES_MAX {
        let order = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        let one = if order.is_le() { before.next() } else { None };
        let other = if order.is_ge() { after.next() } else { None };
        let Some((key, _)) = one.or(other) else { break };
        let (one, other) = (one.map(|(_, value)| value), other.map(|(_, value)| value));
        if one == other {
            continue;
        }
        let subject = grouped(key);
        match (one, other) {
            (Some(one), Some(other)) => all.bytes(Kind::State, &subject, one, other),
            (one, other) => {
                let of = |value: Option<&Bytes>| {
                    value.map_or_else(
                        || format!("no {key:?}"),
                        |value| format!("{key:?}: {}", shown(value)),
                    )
                };
                all.add(Kind::State, &subject, None, || (of(one), of(other)));
            }
        }
    }
    all.found
}

/// What a version's effects reach out of slotd: hosts and secrets of its requests.
pub fn wants(replied: &Replied) -> BTreeSet<Want> {
    let mut wants = BTreeSet::new();
    for change in &replied.effects {
        let (Some(name @ Name::Request(_)), Some(value)) =
            (Name::of_row(&change.row), change.value.as_deref())
        else {
            continue;
        };
        let Ok(Effect::Request(request)) = Effect::decode(&name, value) else { continue };
        wants.extend(host(&request.url).map(Want::Http));
        let values = request.headers.iter().map(|(_, value)| value.as_str());
        for text in values.chain([request.url.as_str()]) {
            wants.extend(secrets(text).map(|name| Want::Secret(name.to_owned())));
        }
    }
    wants
}

/// The host of an address, with its port if it names one.
fn host(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

fn secrets(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{secret:").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0))
}

/// A key of a state, or a reason, without the numbers in it: so it groups.
pub fn grouped(key: &str) -> String {
    let mut out = String::new();
    for character in text::cut(key, limits::GATE_TEXT_BYTES_MAX / 2).chars() {
        match character.is_ascii_digit() {
            true if out.ends_with('#') => {}
            true => out.push('#'),
            false => out.push(character),
        }
    }
    out
}

struct All<'a> {
    ignores: &'a Ignores,
    found: Vec<Found>,
}

/// An event, or an effect: what kind it is of, which one, and what it has.
struct One<'a> {
    subject: Cow<'a, str>,
    name: String,
    value: Cow<'a, Bytes>,
}

/// What there is of one name, before and after.
type Both<'a> = (Vec<&'a One<'a>>, Vec<&'a One<'a>>);

impl All<'_> {
    fn add(
        &mut self,
        kind: Kind,
        subject: &str,
        path: Option<&[Step]>,
        values: impl FnOnce() -> (String, String),
    ) {
        if self.ignores.has(kind, subject, path) {
            return;
        }
        let place = path.map(|path| path::show(path, true)).unwrap_or_default();
        let path = match (subject, &*place) {
            ("", place) => place.to_owned(),
            (subject, "") => subject.to_owned(),
            (subject, place) => format!("{subject}.{place}"),
        };
        if self.found.iter().any(|known| known.kind == kind && known.path == path) {
            return;
        }
        let (stored, came) = values();
        let path = text::cut(&path, limits::GATE_TEXT_BYTES_MAX).to_owned();
        self.found.push(Found { kind, path, stored, came });
    }

    fn failed(&mut self, before: &Replied, outcome: &Outcome) {
        let answered = || format!("a reply: {}", shown(&before.body));
        match outcome {
            Outcome::Replied(_) => {}
            Outcome::Rejected(rejection) => {
                let came =
                    || format!("{}: {}", rejection.code, shown(rejection.message.as_bytes()));
                self.add(Kind::Rejection, &rejection.code, None, || (answered(), came()));
            }
            Outcome::Failed { kind, why } => {
                let kind = kind_of(kind);
                let reason = grouped(why);
                let reason = text::printable(&reason, Keep::Tabs);
                self.add(kind, &reason, None, || (answered(), shown(why.as_bytes())));
            }
        }
    }

    fn replies(&mut self, before: &Replied, after: &Replied) {
        if before.content_type != after.content_type {
            self.add(Kind::ContentType, "", None, || {
                (before.content_type.clone(), after.content_type.clone())
            });
        }
        self.bytes(Kind::Reply, "", &before.body, &after.body);
        for (before, after) in
            [(&before.events, &after.events), (&before.ephemeral, &after.ephemeral)]
        {
            if before != after {
                self.several(Kind::Event, &events(before), &events(after));
            }
        }
        if before.effects != after.effects {
            self.several(Kind::Effect, &effects(before), &effects(after));
        }
    }

    fn bytes(&mut self, kind: Kind, subject: &str, before: &Bytes, after: &Bytes) {
        if before == after {
            return;
        }
        let (Some(one), Some(other)) = (parsed(before), parsed(after)) else {
            return self.add(kind, subject, None, || (shown(before), shown(after)));
        };
        let places = path::differing(&one, &other, limits::GATE_PLACES_MAX);
        if places.is_empty() {
            // The same, written in another way.
            return self.add(kind, subject, None, || (shown(before), shown(after)));
        }
        for place in places {
            let of = |value: Option<&Value>| match value {
                Some(value) => shown(value.to_string().as_bytes()),
                None => "nothing".to_owned(),
            };
            let values = || (of(place.before), of(place.after));
            self.add(kind, subject, Some(&place.path), values);
        }
    }

    /// Those of one name are compared in their order. Of another number of them only that is told.
    fn several(&mut self, kind: Kind, before: &[One<'_>], after: &[One<'_>]) {
        let mut names: BTreeMap<(&str, &str), Both<'_>> = BTreeMap::new();
        for one in before {
            names.entry((&one.subject, &one.name)).or_default().0.push(one);
        }
        for one in after {
            names.entry((&one.subject, &one.name)).or_default().1.push(one);
        }
        let mut is_same = true;
        for ((subject, _), (before, after)) in &names {
            if before.len() != after.len() {
                is_same = false;
                let all = |of: &[&One<'_>]| match of {
                    [] => "none".to_owned(),
                    [first, ..] => format!("{} of them, first {}", of.len(), shown(&first.value)),
                };
                self.add(kind, subject, None, || (all(before), all(after)));
                continue;
            }
            for (before, after) in before.iter().zip(after) {
                is_same &= before.value == after.value;
                self.bytes(kind, subject, &before.value, &after.value);
            }
        }
        // Effects have no order.
        if is_same && kind == Kind::Event {
            let order = |of: &[One<'_>]| {
                let names: Vec<&str> = of.iter().map(|one| &*one.subject).collect();
                shown(names.join(", ").as_bytes())
            };
            self.add(kind, "order", None, || (order(before), order(after)));
        }
    }
}

/// As [`crate::plugin::Failure::kind`] has it.
fn kind_of(failure: &str) -> Kind {
    match failure {
        "migrate" => Kind::Migrate,
        "trap" => Kind::Trap,
        "deadline" => Kind::Late,
        "limit" | "outbox-full" | "sends-full" => Kind::Limit,
        _ => Kind::Failed,
    }
}

fn events(events: &[Event]) -> Vec<One<'_>> {
    events
        .iter()
        .map(|event| One {
            subject: (&*event.kind).into(),
            name: event.content_type.clone(),
            value: Cow::Borrowed(&event.body),
        })
        .collect()
}

fn effects(replied: &Replied) -> Vec<One<'static>> {
    let one = |subject: &'static str, name: String, value: Value| One {
        subject: subject.into(),
        name,
        value: Cow::Owned(value.to_string().into()),
    };
    let changes = replied.effects.iter().filter_map(|change| {
        let name = Name::of_row(&change.row)?;
        let subject = match &name {
            Name::Timer(_) => "timer",
            Name::Outgoing(_) => "message",
            Name::Request(_) => "request",
            Name::Expiry => "expiry",
            Name::Closed => "closed",
            Name::Watch => "subscribers",
            // They change beside messages.
            _ => return None,
        };
        let Some(value) = change.value.as_deref() else {
            let text = name.text();
            return Some(one(subject, format!("{text} gone"), json!({ "gone": text })));
        };
        let effect = Effect::decode(&name, value).ok()?;
        let (which, value) = match &effect {
            Effect::Timer(timer) => (
                name.text().to_owned(),
                json!({
                    "name": name.text(), "due_ms": timer.due_ms, "when": timer.when,
                    "content_type": timer.content_type, "body": body(&timer.body),
                }),
            ),
            Effect::Outgoing(outgoing) => {
                // An answer is the reply.
                let Content::Message { reply } = &outgoing.content else { return None };
                let to = outgoing.to.to_string();
                let value = json!({
                    "to": to, "reply": reply, "content_type": outgoing.content_type,
                    "body": body(&outgoing.body),
                });
                (to, value)
            }
            Effect::Request(request) => (
                name.text().to_owned(),
                json!({
                    "id": name.text(), "method": request.method, "url": request.url,
                    "headers": request.headers, "body": body(&request.body),
                    "timeout_ms": request.timeout_ms, "attempts_max": request.attempts_max,
                }),
            ),
            Effect::Expiry(expiry) => (String::new(), json!({ "at_ms": expiry.at_ms })),
            Effect::Closed(_) => (String::new(), json!({ "closed": true })),
            Effect::Watch(_) => (String::new(), json!({ "watched": true })),
            _ => return None,
        };
        Some(one(subject, which, value))
    });
    changes.collect()
}

/// As JSON where it is that.
fn body(bytes: &Bytes) -> Value {
    parsed(bytes).unwrap_or_else(|| match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => {
            let hash = xxhash_rust::xxh3::xxh3_128(bytes);
            format!("{} bytes, {hash:032x}", bytes.len()).into()
        }
    })
}

fn parsed(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Rejection;
    use proptest::prelude::*;

    fn replied(body: &Value) -> Replied {
        Replied { body: body.to_string().into(), ..Replied::default() }
    }

    fn event(kind: &str, body: &str) -> Event {
        Event { kind: kind.into(), content_type: "text/plain".into(), body: body.to_owned().into() }
    }

    fn ignores(all: &[&str]) -> Ignores {
        Ignores::new(&all.iter().map(|one| one.parse().unwrap()).collect::<Vec<_>>())
    }

    fn found(before: &Replied, after: impl Into<Outcome>, ignored: &[&str]) -> Vec<String> {
        let found = compare(before, &after.into(), &ignores(ignored));
        found.iter().map(Found::name).collect()
    }

    impl From<Replied> for Outcome {
        fn from(replied: Replied) -> Self {
            Self::Replied(replied)
        }
    }

    #[test]
    fn what_may_differ_is_left_out_and_nothing_else() {
        let before = replied(&json!({"took_ms": 3, "lines": [{"at": 1, "text": "a"}], "x": 1}));
        let after = replied(&json!({"took_ms": 5, "lines": [{"at": 2, "text": "a"}], "x": 1}));
        let both = ["reply.$.lines[*].at", "reply.$.took_ms"];
        assert_eq!(found(&before, after.clone(), &[]), both);
        assert_eq!(found(&before, after.clone(), &["reply.$.took_ms"]), both[..1]);
        assert_eq!(found(&before, after.clone(), &["reply.$.lines", "reply.$.x"]), both[1..]);
        assert_eq!(found(&before, after.clone(), &["reply.$.lines[1]", "event"]), both);
        assert_eq!(found(&before, after.clone(), &["reply.$.lines[0].*", "reply.$.*"]), [""; 0]);
        assert_eq!(found(&before, after, &["reply"]), [""; 0]);
        let written = Replied { body: "{ \"x\": 1 }".into(), ..Replied::default() };
        assert_eq!(found(&replied(&json!({"x": 1})), written, &["reply.$.x"]), ["reply"]);
    }

    #[test]
    fn events_are_compared_by_their_kinds() {
        let with = |events: &[Event]| Replied { events: events.to_vec(), ..Replied::default() };
        let line = |text: &str| event("line", &json!({ "text": text }).to_string());
        let before = with(&[line("a"), event("typing", "x"), line("b")]);
        let after = |events: &[Event], ignored: &[&str]| found(&before, with(events), ignored);
        assert_eq!(after(&[line("a"), event("typing", "x")], &[]), ["event.line"]);
        assert_eq!(after(&[line("a"), line("b")], &["event.typing"]), [""; 0]);
        let other = [line("a"), event("typing", "y"), line("c")];
        assert_eq!(after(&other, &[]), ["event.line.$.text", "event.typing"]);
        assert_eq!(after(&other, &["event.l*e.$.text"]), ["event.typing"]);
        assert_eq!(after(&other, &["event.$.text"]), ["event.typing"]);
        let turned = [event("typing", "x"), line("a"), line("b")];
        assert_eq!(after(&turned, &[]), ["event.order"]);
    }

    #[test]
    fn failures_are_told_apart() {
        let before = replied(&json!(1));
        let failed = |kind, why: &str| Outcome::Failed { kind, why: why.into() };
        assert_eq!(found(&before, failed("trap", "at 12 of 7"), &["reply"]), ["trap.at # of #"]);
        assert_eq!(found(&before, failed("deadline", "x"), &[]), ["late.x"]);
        assert_eq!(found(&before, failed("outbox-full", "x"), &[]), ["limit.x"]);
        assert_eq!(found(&before, failed("migrate", "no"), &[]), ["migrate.no"]);
        let rejected = Outcome::Rejected(Rejection {
            code: "closed".into(),
            message: "it is".into(),
            retriable: false,
        });
        assert_eq!(found(&before, rejected.clone(), &["rejection.full"]), ["rejection.closed"]);
        assert_eq!(found(&before, rejected, &["rejection.closed"]), [""; 0]);
    }

    #[test]
    fn states_are_compared_by_their_keys() {
        let state = |all: &[(&'static str, &'static str)]| -> Vec<(&'static str, Bytes)> {
            all.iter().map(|(key, value)| (*key, Bytes::from(*value))).collect()
        };
        let one =
            state(&[("a", "1"), ("line/1", "{\"x\":1}"), ("line/2", "{\"x\":1}"), ("z", "1")]);
        let other =
            state(&[("line/1", "{\"x\":2}"), ("line/2", "{\"x\":3}"), ("y", "1"), ("z", "1")]);
        let names = |ignored: &[&str]| -> Vec<String> {
            let (one, other) = (one.iter(), other.iter());
            let found = compare_states(
                one.map(|(key, value)| (*key, value)),
                other.map(|(key, value)| (*key, value)),
                &ignores(ignored),
            );
            found.iter().map(Found::name).collect()
        };
        assert_eq!(names(&[]), ["state.a", "state.line/#.$.x", "state.y"]);
        assert_eq!(names(&["state.line/*.$.x", "state.a"]), ["state.y"]);
    }

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, text, does) in [
            ("", "x", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "abc", false),
            ("a", "ab", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, text), does, "{pattern} {text}");
        }
    }

    #[test]
    fn hosts_and_secrets_of_requests_are_read() {
        assert_eq!(host("https://API.example.com:8443/x?y"), Some("api.example.com:8443".into()));
        assert_eq!(host("http://user@h#x"), Some("h".into()));
        assert_eq!(host("nothing"), None);
        let all: Vec<_> = secrets("a {{secret:KEY}} b {{secret:OTHER}}{{secret:open").collect();
        assert_eq!(all, ["KEY", "OTHER"]);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0_u8..3).prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[ab .$]{1,2}", inner), 0..3)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// A report names what differs so that it can be ignored: whoever copies all names from it gets an empty one,
        /// and whoever copies all but one gets that one.
        #[test]
        fn names_of_a_report_are_what_ignore_takes(
            before in value(), after in value(), old in value(), new in value(),
        ) {
            let with = |body: &Value, event_body: &Value| Replied {
                body: body.to_string().into(),
                events: vec![event("line", &event_body.to_string())],
                ..Replied::default()
            };
            let (before, after) = (with(&before, &old), with(&after, &new));
            let names = found(&before, after.clone(), &[]);
            prop_assert_eq!(names.is_empty(), before == after);
            let all: Vec<&str> = names.iter().map(String::as_str).collect();
            prop_assert_eq!(found(&before, after.clone(), &all), Vec::<String>::new());
            if let Some((first, rest)) = all.split_first() {
                let left = found(&before, after, rest);
                // A place above it may have been ignored with the others: an element of an array for all.
                prop_assert!(left.is_empty() || left == [*first], "{:?}", left);
            }
        }
    }
}
