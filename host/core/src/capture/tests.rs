//! Captures: the format, redaction, and that they run.

#![allow(clippy::unwrap_used)]
use super::{
    effects::{TimerForm, WhenForm},
    *,
};
use crate::{
    effects::{
        Firing, Origin,
        lines::{AnswerLine, OriginLines, RefusalLine},
    },
    log::record::Entry,
    names::SessionKey,
    plugin::{Isolation, PluginHost, testkit},
    replay::{Base, Instances, Version},
};
use bytes::Bytes;
use serde_json::json;

/// A file that format 1 wrote. It is never written anew: files of its day are in people's folders.
const GOLDEN: &str = include_str!("golden-1.capture.json");

struct Fixture {
    host: PluginHost,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { host: testkit::host(dir.path()), _dir: dir }
    }

    async fn version(&self, version: &str, component: Vec<u8>) -> Version {
        let plugin = self.host.add(component.into()).await.unwrap();
        Version { id: 1, plugin, version: version.into(), label: version.into(), same_state: false }
    }
}

fn instances() -> Instances {
    Instances::new(Isolation::Call)
}

fn entry(seq: u64, body: &[u8]) -> Entry {
    Entry {
        seq,
        id: Some("id".into()),
        sender: Some("ann".into()),
        time_ms: 1_700_000_000_000 + seq,
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body),
        reply_content_type: "text/plain".into(),
        reply: Bytes::new(),
        deployment: 1,
        events: Vec::new(),
        origin: None,
        caused: Vec::new(),
    }
}

fn capture(component: Component, seq: u64, body: &[u8], state: &[(&str, &str)]) -> Capture {
    let pair =
        |(key, value): &(&str, &str)| ((*key).to_owned(), Bytes::copy_from_slice(value.as_bytes()));
    Capture::new(Captured {
        kind: Kind::Asked,
        what: String::new(),
        key: SessionKey::parse("s", "x").unwrap(),
        component,
        migrates_from: None,
        base: Base {
            seq: seq - 1,
            deployment: 7,
            state: state.iter().map(pair).collect(),
            ..Base::default()
        },
        entry: entry(seq, body),
        outcome: OutcomeForm::failure("trap", "unreachable"),
    })
}

fn of(version: &Version) -> Component {
    Component::new(version.plugin.digest(), &version.version, false)
}

fn json_of(content: &Content) -> serde_json::Value {
    serde_json::from_slice(&content.bytes().unwrap()).unwrap()
}

/// A production bug that is a test in somebody's folder has to stay one, whatever version of slotd runs it.
#[test]
fn a_capture_of_format_1_stays_readable() {
    let read = Capture::parse(GOLDEN.as_bytes()).unwrap();
    assert_eq!((read.service.as_str(), read.session.as_str()), ("chat", "room 1"));
    assert_eq!(read.because.kind, Kind::Trap);
    assert_eq!(read.component.version, "1.4.0");
    assert_eq!(read.migrates_from.as_deref(), Some("1.3.0"));
    let base = read.base().unwrap();
    assert_eq!((base.seq, base.created_ms, base.updated_ms), (40, 1, 2));
    let state: Vec<_> = base.state.iter().map(|(key, value)| (key.as_str(), &value[..])).collect();
    let json: &[u8] = br#"{"b":1,"a": 2}"#;
    assert_eq!(state, [("bytes", &[0, 255][..]), ("json", json), ("text", b"one\ntwo")]);
    let names: Vec<_> = base.effects.iter().map(|(name, _)| name.text()).collect();
    assert_eq!(names, ["tick", "nightly", "llm/1", "llm/0", "", "", ""]);
    let entry = read.entry().unwrap();
    let origin = entry.origin.clone().map(|origin| *origin);
    let firing = Firing { name: "tick".into(), due_ms: 5, missed: 1, attempt: 2 };
    assert_eq!(origin, Some(Origin::Timer(firing)));
    assert_eq!((entry.seq, entry.time_ms, &entry.body[..]), (41, 6, &b"{\"tick\":true}"[..]));
    assert!(matches!(&read.outcome, OutcomeForm::Failure { kind, .. } if kind == "trap"));
    let Some(OutcomeForm::Reply(reply)) = &read.expected else { panic!("{:?}", read.expected) };
    assert_eq!((reply.events.len(), reply.effects.as_ref().map(Vec::len)), (1, Some(6)));
    assert_eq!(reply.writes.as_ref().map(|all| all["gone"].is_none()), Some(true));
    assert_eq!(read.redacted, ["$.card"]);
    // Nothing of it is lost when it is written again.
    let again = read.text().unwrap();
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&again), value(GOLDEN));
    assert_eq!(again, GOLDEN);
}

/// Whoever has such a file has to be told which of these it is.
#[test]
fn what_can_not_be_read_says_why() {
    let read = |text: &str| Capture::parse(text.as_bytes()).unwrap_err();
    assert!(matches!(read("{"), Unreadable::Damaged(_)));
    assert!(matches!(read("{}"), Unreadable::Damaged(_)));
    assert!(matches!(read(&GOLDEN[..GOLDEN.len() / 2]), Unreadable::Damaged(_)));
    let newer = GOLDEN.replace("\"slotd_capture\": 1", "\"slotd_capture\": 2");
    assert_eq!(read(&newer), Unreadable::Newer(2));
    let golden = Capture::parse(GOLDEN.as_bytes()).unwrap();
    assert_eq!(golden.wasm(), Err(Unreadable::NoComponent(golden.component.digest)));
    let with =
        |wasm: &[u8]| Capture { component: golden.component.clone().with(wasm), ..golden.clone() };
    assert!(matches!(with(b"other").wasm(), Err(Unreadable::OtherComponent { .. })));
    let mut damaged = golden.clone();
    damaged.before.state.insert("k".into(), Content::Base64("!".into()));
    assert!(matches!(damaged.base(), Err(Unreadable::Damaged(why)) if why.contains("\"k\"")));
    let mut behind = golden;
    behind.message.seq = 40;
    assert!(matches!(behind.entry(), Err(Unreadable::Damaged(_))));
}

/// A handler that hashes its message would see another one.
#[test]
fn bytes_stay_as_they_are() {
    for bytes in [
        &b""[..],
        b"{\"a\" : 1.50}",
        b" 1",
        b"1",
        b"{\n}",
        b"text",
        b"\xff\0",
        b"[1,",
        "é".as_bytes(),
    ] {
        let content = Content::of(bytes);
        let text = serde_json::to_string_pretty(&content).unwrap();
        let read: Content = serde_json::from_str(&text).unwrap();
        assert_eq!(read.bytes().unwrap(), bytes, "{text}");
    }
}

/// What a service says must not leave it: nowhere in the file, not in what came out either.
#[test]
fn what_is_redacted_is_nowhere() {
    let digest = crate::plugin::Digest::of(b"");
    let component = Component::new(digest, "1.0.0", false);
    let body = br#"{"card":"4111","to":[{"card":"4111"},{"card":"5222"}],"sum":3}"#;
    let state = [("a", r#"{"card":{"n":17,"of":"4111"},"b":true}"#), ("t", "4111 as text")];
    let mut redacted = capture(component.clone(), 2, body, &state);
    let all: Vec<Redaction> =
        ["$..card", "state.$.b", "sender", "id"].map(|it| it.parse().unwrap()).into();
    redact(&mut redacted, &all);
    assert_eq!(
        json_of(&redacted.message.body),
        json!({"card": "redacted-1", "to": [{"card": "redacted-1"}, {"card": "redacted-2"}], "sum": 3})
    );
    let state = &redacted.before.state;
    assert_eq!(json_of(&state["a"]), json!({"card": {"n": 0, "of": "redacted-1"}, "b": false}));
    assert_eq!(state["t"], Content::of(b"4111 as text"), "a path is of JSON");
    assert_eq!(redacted.redacted, ["$..card", "state.$.b", "sender", "id"]);
    let sender = redacted.message.sender.unwrap();
    assert!(sender.starts_with("redacted-"), "{sender}");
    // Free texts, and a member that is there twice.
    let twice = br#"{"a":{"card":"4111"},"a":1}"#;
    let mut told = capture(component.clone(), 2, twice, &[]);
    let reason = "card 4111 declined".to_owned();
    told.before.timers.push(TimerForm {
        name: "pay".into(),
        when: WhenForm::Once,
        due_ms: 1,
        next_ms: 1,
        failures: 1,
        reason: reason.clone(),
        content_type: String::new(),
        body: Content::of(b""),
        set_by: 1,
    });
    let refusal = RefusalLine { code: "declined".into(), message: reason, retriable: false };
    let answer = AnswerLine {
        service: "pay".into(),
        session: "x".into(),
        name: "n".into(),
        sent_by: 1,
        attempt: 1,
        hops: 1,
        refusal: Some(refusal),
    };
    told.message.origin = Some(OriginLines { answer: Some(answer), ..OriginLines::default() });
    redact(&mut told, &["$..card".parse().unwrap()]);
    let text = told.text().unwrap();
    assert!(!text.contains("4111") && text.contains("pay"), "{text}");
    let mut empty = capture(component, 2, body, &[("t", "4111 as text")]);
    redact(&mut empty, &["state".parse().unwrap(), "message".parse().unwrap()]);
    assert!(empty.before.state.is_empty() && empty.message.body == Content::of(b""));
    for wrong in ["", "card", "$.", "states.$.a", "state$.a", "sender.$.a", "$.a + $.b", "$..", "x"]
    {
        assert!(wrong.parse::<Redaction>().is_err(), "{wrong}");
    }
}

/// The whole purpose: what failed fails again anywhere, and no more once it is mended.
#[tokio::test]
async fn a_failure_shows_again_and_not_on_a_mended_component() {
    let fixture = Fixture::new();
    let broken = fixture.version("1.0.0", testkit::guest()).await;
    let next = "(if (i32.eq (local.get $op) (i32.const 0x78)) ;; x: reject";
    let (traps, answers) = (
        format!("unreachable))\n      {next}"),
        format!("(return (call $reply (i32.const 96) (i32.const 10)))))\n      {next}"),
    );
    let mended = fixture.version("1.0.1", testkit::guest_with(&traps, &answers)).await;
    let of_trap = capture(of(&broken), 2, b"ttwo", &[("k", "one")]);
    let text = of_trap.text().unwrap();
    let read = Capture::parse(text.as_bytes()).unwrap();
    let came = run(&read, &broken, &mut instances()).await.unwrap();
    let came = OutcomeForm::from(&came.outcome);
    assert!(came.is_failure(), "{came:?}");
    assert_eq!(compare(&read, &came, Verdict::Reproduces), []);
    assert_eq!(compare(&read, &came, Verdict::IsRight).len(), 1, "it is not mended");
    let came = run(&read, &mended, &mut instances()).await.unwrap();
    assert!(came.migrated, "a new version takes the session over first");
    let came = OutcomeForm::from(&came.outcome);
    assert_eq!(compare(&read, &came, Verdict::IsRight), []);
}

/// What came out is compared to the byte on the same component, and as JSON on another; what is expected counts more.
#[tokio::test]
async fn what_comes_out_is_compared_with_what_should() {
    let fixture = Fixture::new();
    let on = fixture.version("1.0.0", testkit::guest()).await;
    let mut of_get = capture(of(&on), 2, b"g", &[("k", r#"{"a":1,"b":2}"#)]);
    let ran = run(&of_get, &on, &mut instances()).await.unwrap();
    of_get.remade(&ran.outcome);
    assert!(of_get.because.gone, "a trap was said of it, and none came");
    let came = OutcomeForm::from(&ran.outcome);
    for verdict in [Verdict::Reproduces, Verdict::IsRight] {
        assert_eq!(compare(&of_get, &came, verdict), []);
    }
    let with = |capture: &mut Capture, text: &str| match &mut capture.outcome {
        OutcomeForm::Reply(reply) => reply.body = Content::of(text.as_bytes()),
        other => panic!("{other:?}"),
    };
    let mut other = Capture { outcome: of_get.outcome.clone(), ..of_get.clone() };
    with(&mut other, r#"{"b":2,"a":1}"#);
    assert_eq!(compare(&other, &came, Verdict::Reproduces).len(), 1);
    assert_eq!(compare(&other, &came, Verdict::IsRight), []);
    with(&mut other, r#"{"b":3,"a":1}"#);
    assert_eq!(compare(&other, &came, Verdict::IsRight).len(), 1);
    other.expected = Some(came.clone());
    assert_eq!(compare(&other, &came, Verdict::IsRight), []);
    assert_eq!(compare(&other, &came, Verdict::Reproduces).len(), 1);
}
