//! Sessions as they were, on a node that stands alone.

use super::*;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

/// What a step of a script does.
#[derive(Clone, Debug)]
enum Doing {
    Send(Bytes),
    /// An operator corrects the value, or deletes it.
    Correct(Option<Bytes>),
}

fn scripts() -> impl Strategy<Value = Vec<Doing>> {
    let bytes = |text: String| Bytes::from(text);
    let doing = prop_oneof![
        4 => "[su][a-z]{0,40}".prop_map(move |text| Doing::Send(bytes(text))),
        2 => "[gdxt]".prop_map(move |text| Doing::Send(bytes(text))),
        1 => "m[a-z]{1,9}".prop_map(move |text| Doing::Send(bytes(text))),
        1 => proptest::option::of("[a-z]{1,9}".prop_map(bytes)).prop_map(Doing::Correct),
    ];
    proptest::collection::vec(doing, 1..40)
}

/// What reads of a session give.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    seq: u64,
    times: (u64, u64),
    plugin: String,
    state: (u64, u64),
    /// A session without a value rejects the query.
    answer: Result<(String, Bytes), Code>,
}

fn query(key: &SessionKey) -> Query {
    let (content_type, body) = ("text/plain".into(), Bytes::from_static(b"g"));
    let consistency = Consistency::Current;
    Query { key: key.clone(), content_type, body, consistency, client: None }
}

fn as_read(info: SessionInfo, answer: Result<Answer, Error>) -> Read {
    let answer = answer.map(|answer| {
        assert_eq!(info.seq, answer.seq);
        (answer.plugin.to_string(), answer.body)
    });
    Read {
        seq: info.seq,
        times: (info.created_ms, info.updated_ms),
        plugin: info.plugin,
        state: (info.state_keys, info.state_bytes),
        answer: answer.map_err(|error| error.code),
    }
}

impl Fixture {
    async fn read(&self, key: &SessionKey) -> Read {
        let info = describe(self, key.clone()).await.unwrap();
        as_read(info, self.node.call(query(key)).await)
    }

    async fn read_at(&self, key: &SessionKey, at: u64) -> Result<Read, Error> {
        let info = self.node.session_at(key, at).await?;
        Ok(as_read(info, self.node.query_at(query(key), at).await))
    }

    /// Whether it has become an entry of the history.
    async fn run(&self, key: &SessionKey, doing: Doing) -> bool {
        match doing {
            Doing::Send(body) => {
                let message = Incoming { body, ..message(b"") };
                self.node.send(key, message).await.is_ok()
            }
            Doing::Correct(value) => {
                let note = "{\"action\":\"set\"}".into();
                let entered = Entered { changes: vec![("k".into(), value)], note };
                let set = Operation::new(None, "ann".into(), None, Action::Set(entered));
                self.node.operate(key, set).await.is_ok()
            }
        }
    }
}

/// The promise: what a read gave at a moment, `at` gives for ever, whatever came before and behind it. A version that is
/// deployed in between is one of what comes before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_read_gave_is_given_again() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let mut runner = TestRunner::new(Config::default());
    let mut seen = Vec::new();
    let scripts: Vec<Vec<Doing>> =
        (0..6).map(|_| scripts().new_tree(&mut runner).unwrap().current()).collect();
    let key = |n: usize| SessionKey::parse("s", &format!("session-{n}")).unwrap();
    for half in 0..2 {
        for (n, script) in scripts.iter().enumerate() {
            let middle = script.len() / 2;
            let steps = if half == 0 { &script[..middle] } else { &script[middle..] };
            for doing in steps {
                if fixture.run(&key(n), doing.clone()).await {
                    // One that an operator has corrected runs on the next version only with its next message.
                    if matches!(doing, Doing::Send(_)) {
                        seen.push((n, fixture.read(&key(n)).await));
                    }
                }
            }
        }
        if half == 0 {
            let next = testkit::guest_with("bad-luck", "badluck2");
            fixture.deploy("2.0.0", next.into()).await.unwrap();
        }
    }
    assert!(!seen.is_empty(), "{scripts:?}");
    for (n, then) in seen {
        let now = fixture.read_at(&key(n), then.seq).await;
        assert_eq!(now.unwrap(), then, "{n}: {:?}", scripts[n]);
    }
}

/// A wrong answer would be worse than none: each place that can't be shown says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_shown_is_refused() {
    let fixture = Fixture::new().await;
    fixture.deploy("1.0.0", testkit::guest().into()).await.unwrap();
    let code = |result: Result<Read, Error>| result.map_err(|error| error.code).unwrap_err();
    let key = key();
    assert_eq!(code(fixture.read_at(&key, 1).await), Code::SessionNotFound);
    for body in [&b"sone"[..], b"g", b"stwo"] {
        assert!(fixture.run(&key, Doing::Send(Bytes::from_static(body))).await);
    }
    assert_eq!(code(fixture.read_at(&key, 0).await), Code::RequestInvalid);
    assert_eq!(code(fixture.read_at(&key, 4).await), Code::SeqNotReached);
    // More than the history keeps of a correction.
    let large = Bytes::from(vec![b'x'; limits::ENTERED_BYTES_MAX]);
    assert!(fixture.run(&key, Doing::Correct(Some(large))).await);
    assert_eq!(code(fixture.read_at(&key, 4).await), Code::HistoryUnavailable);
    let before = fixture.read_at(&key, 3).await.unwrap();
    assert_eq!(before.answer.unwrap().1, "two");
    // A component that keeps something in memory.
    let other = SessionKey::parse("s", "other").unwrap();
    for _ in 0..3 {
        assert!(fixture.run(&other, Doing::Send(Bytes::from_static(b"w"))).await);
    }
    assert!(fixture.run(&key, Doing::Send(Bytes::from_static(b"w"))).await);
    assert!(fixture.run(&other, Doing::Send(Bytes::from_static(b"w"))).await);
    assert_eq!(code(fixture.read_at(&other, 4).await), Code::HistoryUnavailable);
}
