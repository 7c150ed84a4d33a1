//! Captures of a node that stands alone.

use super::*;
use crate::{
    capture::{self, Capture, Content, Kind, OutcomeForm, Verdict},
    captures::CaptureInfo,
    plugin::Isolation,
    replay_engine::{Instances, Version},
};

async fn captured(fixture: &Fixture, spec: CaptureSpec) -> Result<Capture, Error> {
    timeout(TIMEOUT, fixture.node.clone().capture(key(), spec)).await.unwrap()
}

fn at(seq: u64) -> CaptureSpec {
    CaptureSpec { seq: Some(seq), ..CaptureSpec::default() }
}

/// What comes of a capture on the component that it names, elsewhere.
async fn run_elsewhere(capture: &Capture, wasm: Bytes) -> OutcomeForm {
    let dir = tempfile::tempdir().unwrap();
    let plugin = testkit::host(dir.path()).add(wasm).await.unwrap();
    let version = capture.component.version.clone();
    let on = Version { id: 1, plugin, label: "l".into(), version, same_state: false };
    let ran = capture::run(capture, &on, &mut Instances::new(Isolation::Call)).await;
    OutcomeForm::from(&ran.unwrap().outcome)
}

/// Waits until there are so many.
async fn listed(fixture: &Fixture, count: usize) -> Vec<CaptureInfo> {
    let until = crate::clock::now() + TIMEOUT;
    loop {
        let list = fixture.node.captures(Some(fixture.service.clone())).await.unwrap();
        if list.captures.len() == count {
            return list.captures;
        }
        assert!(crate::clock::now() < until, "{:?}", list.captures);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn trap(fixture: &Fixture) {
    let failed = fixture.node.send(&key(), message(b"ttwo")).await.unwrap_err();
    assert_eq!(failed.code, Code::PluginTrapped);
}

/// A capture with another state, or another version, would show something that never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_history_runs_elsewhere_as_it_did() {
    let fixture = Fixture::new().await;
    let guest = Bytes::from(testkit::guest());
    fixture.deploy("1.0.0", guest.clone()).await.unwrap();
    for body in [b"sone", b"g---", b"stwo", b"mhey"] {
        fixture.node.send(&key(), message(&body[..])).await.unwrap();
    }
    let second = captured(&fixture, at(2)).await.unwrap();
    assert_eq!((second.before.seq, second.message.seq), (1, 2));
    assert_eq!(second.before.state["k"], Content::of(b"one"));
    let OutcomeForm::Reply(reply) = &second.outcome else { panic!("{:?}", second.outcome) };
    assert_eq!(reply.body, Content::of(b"one"));
    let text = second.text().unwrap();
    let read = Capture::parse(text.as_bytes()).unwrap();
    let came = run_elsewhere(&read, guest.clone()).await;
    assert_eq!(capture::compare(&read, &came, Verdict::Reproduces), []);
    // The last one, with its component, over a swap.
    let next = Bytes::from(testkit::guest_with("bad-luck", "badluck2"));
    fixture.deploy("2.0.0", next.clone()).await.unwrap();
    fixture.node.send(&key(), message(b"cfr")).await.unwrap();
    let spec = CaptureSpec { with_component: true, ..CaptureSpec::default() };
    let last = captured(&fixture, spec).await.unwrap();
    assert_eq!((last.message.seq, last.migrates_from.as_deref()), (5, Some("1.0.0")));
    assert_eq!(last.wasm().unwrap(), next);
    let came = run_elsewhere(&last, next).await;
    assert_eq!(capture::compare(&last, &came, Verdict::Reproduces), []);
    for wrong in [0, 6] {
        let refused = captured(&fixture, at(wrong)).await.unwrap_err();
        assert_eq!(refused.code, Code::RequestInvalid, "{refused}");
    }
}

/// What a service says must not leave it would leave with the first capture.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_redacted_does_not_leave_the_node() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let policy = ["state.$.card".to_owned(), "sender".to_owned()];
    fixture.node.captures.redactions.set([("s", &policy[..])]);
    let mine = Incoming { sender: Some("ann".into()), ..message(br#"s{"card":"4111","n":1}"#) };
    fixture.node.send(&key(), mine).await.unwrap();
    let get = Incoming { sender: Some("ann".into()), ..message(b"g") };
    assert_eq!(fixture.node.send(&key(), get).await.unwrap().body, r#"{"card":"4111","n":1}"#);
    let redact = vec!["$.n".parse().unwrap()];
    let made = captured(&fixture, CaptureSpec { redact, ..at(2) }).await.unwrap();
    let text = made.text().unwrap();
    assert!(!text.contains("4111") && !text.contains("ann"), "{text}");
    let OutcomeForm::Reply(reply) = &made.outcome else { panic!("{:?}", made.outcome) };
    assert_eq!(reply.body, Content::of(br#"{"card":"redacted-1","n":0}"#), "it is made anew");
    assert_eq!(made.redacted, ["state.$.card", "sender", "$.n"]);
}

/// A fault that shows once in production is gone with its message, unless the node keeps that; and a plugin that traps
/// each time must not fill the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_is_captured_by_itself_and_not_without_end() {
    let fixture = Fixture::new().await;
    let guest = Bytes::from(testkit::guest());
    fixture.deploy("1.0.0", guest.clone()).await.unwrap();
    fixture.send().await;
    trap(&fixture).await;
    let first = listed(&fixture, 1).await.remove(0);
    assert_eq!((first.kind.as_str(), first.seq, first.session.as_str()), ("trap", 2, "x"));
    let text = fixture.node.own_capture(&first.name).await.unwrap();
    let capture = Capture::parse(&text).unwrap();
    assert_eq!(capture.because.kind, Kind::Trap);
    assert_eq!(capture.before.state["k"], Content::of(b"one"), "as it was before the message");
    let came = run_elsewhere(&capture, guest).await;
    assert!(came.is_failure(), "{came:?}");
    assert_eq!(capture::compare(&capture, &came, Verdict::Reproduces), []);
    for count in 2..=limits::CAPTURES_OF_A_KIND_MAX {
        trap(&fixture).await;
        listed(&fixture, count).await;
    }
    let digest = capture.component.digest;
    assert!(!fixture.node.captures.store.wants(digest, "trap"), "there are enough");
    assert!(fixture.node.captures.store.wants(digest, "deadline"), "of another kind");
    fixture.node.remove_capture(&first.name).await.unwrap();
    let gone = fixture.node.own_capture(&first.name).await.unwrap_err();
    assert_eq!(gone.code, Code::CaptureNotFound);
    assert!(fixture.node.captures.store.wants(digest, "trap"), "one was removed");
}

/// A message that says what must not leave its service would be kept as it was, only since it failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_by_itself_is_redacted_too() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let policy = ["$..card".to_owned(), "message".to_owned()];
    fixture.node.captures.redactions.set([("*", &policy[..])]);
    fixture.node.send(&key(), message(br#"s{"card":"4111"}"#)).await.unwrap();
    let failed = fixture.node.send(&key(), message(b"t4111")).await.unwrap_err();
    assert_eq!(failed.code, Code::PluginTrapped);
    let info = listed(&fixture, 1).await.remove(0);
    let text = fixture.node.own_capture(&info.name).await.unwrap();
    let capture = Capture::parse(&text).unwrap();
    assert!(!String::from_utf8(text).unwrap().contains("4111"), "{capture:?}");
    assert!(info.what.is_empty(), "{info:?}");
}
