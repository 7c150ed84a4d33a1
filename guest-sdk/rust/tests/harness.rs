//! The harness against the host's rules, and the pages of a scan against a plain map.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde::Deserialize;
use slotd_guest::{
    Context, Handler, Level, MigrateContext, QueryContext, RawHandler, Rejection, Reply, Value,
    json, log_info, log_warn,
    test::{Failure, Harness, limits},
};

struct Notes;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    Put(String, Value),
    PutMany(usize),
    PutThenPanic,
    PutThenReject,
    EmitMany(usize),
    NotifyMany(usize),
    Parse(String),
    Drop(String),
    Emit(String),
    Notify(String),
}

impl Handler for Notes {
    type Message = Message;
    type Query = String;

    fn handle(cx: &mut Context, message: Message) -> Result<impl serde::Serialize, Rejection> {
        log_info!(cx, "message {}", cx.seq());
        match message {
            Message::Put(key, value) => {
                cx.state().set(&key, &value)?;
                assert_eq!(cx.state().get::<Value>(&key)?, Some(value));
                cx.emit("put", &key)?;
            }
            Message::PutMany(count) => {
                let mut state = cx.state();
                (0..count).for_each(|i| state.set_bytes(&format!("k/{i:06}"), b"1"));
            }
            Message::PutThenPanic => {
                cx.state().set("half", &1)?;
                cx.state().delete("a");
                cx.emit("half", &1)?;
                cx.notify("half", &1)?;
                panic!("told to");
            }
            Message::PutThenReject => {
                cx.state().set("a", &"other")?;
                cx.emit("half", &1)?;
                return Err(Rejection::new("told-to", "as told").retriable());
            }
            Message::EmitMany(count) => {
                for i in 0..count {
                    cx.emit("many", &i)?;
                }
            }
            Message::NotifyMany(count) => {
                for i in 0..count {
                    cx.notify("many", &i)?;
                }
            }
            Message::Parse(text) => _ = slotd_guest::serde_json::from_str::<u64>(&text)?,
            Message::Drop(key) => cx.state().delete(&key),
            Message::Emit(kind) => cx.emit(&kind, &1)?,
            Message::Notify(kind) => cx.notify(&kind, &1)?,
        }
        Ok(cx.seq())
    }

    fn query(cx: &QueryContext, prefix: String) -> Result<impl serde::Serialize, Rejection> {
        log_warn!(cx, "asked for {prefix}");
        let pairs = cx.state().scan_bytes(&prefix);
        Ok(pairs.map(|(key, _)| key).collect::<Vec<_>>())
    }

    fn migrate(cx: &mut MigrateContext, from: &str) -> Result<(), String> {
        cx.state().set("from", from)?;
        if from == "1" { Ok(()) } else { Err(format!("not {from}")) }
    }
}

/// A plugin author whose test passes here must not find half a message kept on the host.
#[test]
fn a_message_is_kept_whole_or_not_at_all() {
    let mut h = Harness::<Notes>::new();
    assert_eq!(h.send("ann", &json!({"put": ["a", 1]})).unwrap().parse::<u64>().unwrap(), 1);
    let before = h.session().clone();

    let failed = h.send("ann", &"put-then-panic").unwrap_err();
    assert_eq!(failed, Failure::Trapped("panicked: told to".into()));
    let failed = h.send("ann", &"put-then-reject").unwrap_err();
    assert_eq!(failed, Failure::Rejected(Rejection::new("told-to", "as told").retriable()));
    assert_eq!(h.send("ann", &json!({"emit-many": 257})).unwrap_err().code(), None);
    assert_eq!(h.send("ann", &json!({"notify-many": 65})).unwrap_err().code(), None);
    assert_eq!(h.session(), &before, "nothing is left of failed messages");

    let reply = h.send("ann", &json!({"emit-many": 256})).unwrap();
    assert_eq!(reply.parse::<u64>().unwrap(), 2, "a failed message has no number");
    assert_eq!((h.events().len(), h.events()[0].kind.as_str(), h.events()[1].seq), (257, "put", 2));
    h.send("ann", &json!({"notify-many": 64})).unwrap();
    assert_eq!((h.events().len(), h.notified().len(), h.notified()[63].seq), (257, 64, 3));
    assert_eq!(h.notified()[63].parse::<u64>().unwrap(), 63);
}

/// `?` on an error of serde's is what handlers are written with.
#[test]
fn errors_become_rejections() {
    let mut h = Harness::<Notes>::new();
    let code = |failed: Result<Reply, Failure>| failed.unwrap_err().code().map(str::to_owned);
    assert_eq!(code(h.send(None, &json!({"no": 1}))).as_deref(), Some("bad-message"));
    assert_eq!(code(h.send_bytes(None, "", *b"\xff{")).as_deref(), Some("bad-message"));
    assert_eq!(code(h.send(None, &json!({"parse": "x"}))).as_deref(), Some("bad-message"));
    assert_eq!(code(h.query(&1)).as_deref(), Some("bad-query"));
    assert_eq!(h.seq(), 0);

    struct Typed;
    impl RawHandler for Typed {
        fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection> {
            cx.state().set_bytes("n", &body);
            Ok(Reply::json(&cx.state().get::<u64>("n")?)?)
        }
    }
    let mut h = Harness::<Typed>::new();
    assert_eq!(code(h.send_bytes(None, "", *b"no")).as_deref(), Some("bad-state"));
    assert_eq!(code(h.query(&1)).as_deref(), Some("no-queries"));
}

/// What is stored but can't be read again is found by the session's next message, and by all that
/// follow.
#[test]
fn what_would_not_come_back_as_it_was_is_refused() {
    use std::collections::BTreeMap;

    type Store = Box<dyn Fn(&mut Context) -> Result<(), slotd_guest::Error>>;
    thread_local! {
        static VALUE: std::cell::RefCell<Store> =
            std::cell::RefCell::new(Box::new(|_| Ok(())));
    }
    struct Stores;
    impl RawHandler for Stores {
        fn handle(cx: &mut Context, _: Vec<u8>) -> Result<Reply, Rejection> {
            VALUE.with_borrow(|store| store(cx))?;
            Ok(Reply::default())
        }
    }
    fn store<T: serde::Serialize + 'static>(value: T) -> Option<String> {
        let mut h = Harness::<Stores>::new();
        VALUE.set(Box::new(move |cx| cx.state().set("k", &value)));
        match h.send_bytes(None, "", *b"") {
            Ok(_) => {
                assert_eq!(h.state().len(), 1);
                None
            }
            Err(failure) => {
                assert!(h.state().is_empty());
                failure.code().map(str::to_owned)
            }
        }
    }
    #[derive(serde::Serialize)]
    enum Nested {
        Tuple(f64, Option<f32>),
        Struct { map: BTreeMap<u8, Vec<f64>> },
        New(i128),
        Unit,
    }
    fn deep(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!([inner]))
    }
    let bad = Some("bad-value".to_owned());
    assert_eq!(store(f64::NAN), bad);
    assert_eq!(store(vec![Some(1.0), Some(f32::NEG_INFINITY)]), bad);
    assert_eq!(store(Nested::Tuple(1.0, Some(f32::NAN))), bad);
    let map = BTreeMap::from([(1, vec![1.0, f64::INFINITY])]);
    assert_eq!(store(Nested::Struct { map }), bad);
    assert_eq!(store(Nested::New(i128::from(u64::MAX) + 1)), bad);
    assert_eq!(store(i128::from(i64::MIN) - 1), bad);
    assert_eq!(store(u128::MAX), bad);
    assert_eq!(store(deep(128)), bad);
    for fine in [deep(127), json!(null), json!({"a": [u64::MAX, i64::MIN, 1.5e300, "NaN"]})] {
        let read: Value =
            slotd_guest::serde_json::from_slice(&Reply::json(&fine).unwrap().body).unwrap();
        assert_eq!((store(fine.clone()), read), (None, fine));
    }
    assert_eq!(store((Nested::Unit, Some(i128::from(u64::MAX)), ())), None);
    assert!(Reply::json(&f64::NAN).unwrap_err().to_string().contains("NaN"));
}

/// A client takes these for the host's own, and stops.
#[test]
fn reserved_kinds_are_the_hosts() {
    let mut h = Harness::<Notes>::new();
    for kind in ["error", "slotd.deleted", "slotd."] {
        let failed = h.send(None, &json!({"emit": kind})).unwrap_err();
        assert!(matches!(&failed, Failure::Trapped(why) if why.contains("reserved")), "{failed}");
        let failed = h.send(None, &json!({"notify": kind})).unwrap_err();
        assert!(matches!(&failed, Failure::Trapped(why) if why.contains("reserved")), "{failed}");
    }
    h.send(None, &json!({"emit": "slotd"})).unwrap();
    h.reset();
    assert_eq!((h.seq(), h.events().len(), h.take_log().len()), (0, 0, 0), "as new");
}

/// A migration that fails must leave the session as the old version knows it.
#[test]
fn a_refused_migration_leaves_the_state() {
    let mut h = Harness::<Notes>::new();
    assert_eq!(h.migrate("2"), Err(Failure::Refused("not 2".into())));
    assert!(h.state().is_empty());
    h.migrate("1").unwrap();
    assert_eq!((h.get::<String>("from").as_deref(), h.seq()), (Some("1"), 0));
}

/// Limits that the harness does not keep would be met in production only.
#[test]
fn limits_are_the_hosts() {
    let mut h = Harness::<Notes>::new();
    let big = |bytes: usize| Value::String("x".repeat(bytes - 2));
    h.send(None, &json!({"put": ["k", big(limits::STATE_VALUE_BYTES_MAX)]})).unwrap();
    let over = json!({"put": ["k", big(limits::STATE_VALUE_BYTES_MAX + 1)]});
    assert!(matches!(h.send(None, &over), Err(Failure::Trapped(_))));
    let key = "k".repeat(limits::STATE_KEY_BYTES_MAX + 1);
    assert!(matches!(h.send(None, &json!({"put": [key, 1]})), Err(Failure::Trapped(_))));
    let calls = limits::HOST_CALLS_MAX as usize;
    assert!(matches!(h.send(None, &json!({"put-many": calls})), Err(Failure::Trapped(_))));
    h.send(None, &json!({"put-many": 2_345})).unwrap();
    let keys: Vec<String> = h.query(&"k/").unwrap().parse().unwrap();
    assert_eq!(keys.len(), 2_345, "a scan goes on over its pages");
}

/// What a handler logs is all there is to see of it.
#[test]
fn logs_are_there_for_failed_calls_too() {
    let mut h = Harness::<Notes>::new();
    h.send(None, &"put-then-panic").unwrap_err();
    h.query(&"a").unwrap();
    let log: Vec<_> = h.take_log().into_iter().map(|line| (line.level, line.message)).collect();
    let expected = [
        (Level::Info, "message 1"),
        (Level::Error, "panicked: told to"),
        (Level::Warn, "asked for a"),
    ];
    assert_eq!(log, expected.map(|(level, text)| (level, text.to_owned())));
}

proptest! {
    /// Order, prefix and deletions as in a sorted map: what the host's own state promises.
    #[test]
    fn state_is_a_sorted_map(
        steps in proptest::collection::vec(("[a-cé]{0,3}", any::<bool>()), 0..60),
        prefix in "[a-cé]{0,2}",
    ) {
        let mut h = Harness::<Notes>::new();
        let mut model = std::collections::BTreeSet::new();
        for (key, put) in steps {
            let message = if put { json!({"put": [key, 1]}) } else { json!({"drop": key}) };
            h.send(None, &message).unwrap();
            if put { model.insert(key) } else { model.remove(&key) };
        }
        let keys: Vec<String> = h.query(&prefix).unwrap().parse().unwrap();
        let expected: Vec<_> = model.into_iter().filter(|key| key.starts_with(&prefix)).collect();
        prop_assert_eq!(keys, expected);
    }
}
