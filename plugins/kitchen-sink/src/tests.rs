use super::*;
use slotd_guest::test::{Failure, Fired, Harness};

fn send(sink: &mut Harness<KitchenSink>, op: Value) -> Result<Value, Failure> {
    sink.send("ann", &op).map(|reply| reply.parse().unwrap())
}

/// The other languages' plugins are held against this one: an answer that is wrong here would be
/// taken for right everywhere.
#[test]
fn does_what_it_is_told() {
    let mut sink = Harness::<KitchenSink>::new();
    for (op, expected) in [
        (json!({"op": "echo", "value": {"ä": [1, null]}}), json!({"value": {"ä": [1, null]}})),
        (
            json!({"op": "context"}),
            json!({"session": "session", "seq": 2, "id": null, "sender": "ann", "content_type": JSON}),
        ),
        (json!({"op": "get", "key": "k"}), json!({"value": null})),
        (json!({"op": "set", "key": "k", "value": [1]}), json!({})),
        (json!({"op": "get", "key": "k"}), json!({"value": [1]})),
        (json!({"op": "get-bytes", "key": "k"}), json!({"hex": "5b315d"})),
        (json!({"op": "set-bytes", "key": "b", "hex": "00ff"}), json!({})),
        (json!({"op": "get-bytes", "key": "b"}), json!({"hex": "00ff"})),
        (json!({"op": "delete", "key": "b"}), json!({})),
        (json!({"op": "fill", "prefix": "f", "count": 1_001, "bytes": 1}), json!({})),
        (
            json!({"op": "scan", "prefix": "f", "after": "f00998", "limit": 1}),
            json!({"pairs": [["f00999", "x"]]}),
        ),
        (
            json!({"op": "scan-all", "prefix": "f"}),
            json!({"count": 1_001, "first": "f00000", "last": "f01000"}),
        ),
        (
            json!({"op": "add64", "key": "n", "n": "18446744073709551615"}),
            json!({"sum": "18446744073709551615"}),
        ),
        (json!({"op": "add64", "key": "n", "n": "2"}), json!({"sum": "1"})),
        (json!({"op": "deep", "depth": 10}), json!({})),
        (json!({"op": "big", "bytes": 3}), json!({"text": "xxx"})),
        (json!({"op": "emit", "kind": "k", "value": 1, "times": 2}), json!({})),
        (json!({"op": "notify", "kind": "k", "value": 1, "times": 3}), json!({})),
        (json!({"op": "log", "level": "warn", "text": "t"}), json!({})),
    ] {
        assert_eq!(send(&mut sink, op.clone()), Ok(expected), "{op}");
    }
    assert_eq!((sink.events().len(), sink.notified().len()), (2, 3));
    let raw = sink.send_bytes(None, "image/x-y", [0, 255]).unwrap();
    assert_eq!((raw.content_type.as_str(), &raw.body[..]), ("image/x-y", &[0, 255][..]));
}

/// As above, for what must fail.
#[test]
fn fails_as_it_is_told() {
    let mut sink = Harness::<KitchenSink>::new();
    send(&mut sink, json!({"op": "set", "key": "k", "value": 1})).unwrap();
    let before = sink.session().clone();
    let told = json!({"op": "reject", "code": "c", "message": "m", "retriable": true, "set": "k"});
    let refused = send(&mut sink, told).unwrap_err();
    assert_eq!(refused, Failure::Rejected(Rejection::new("c", "m").retriable()));
    for bad in [
        json!({"op": "nothing"}),
        json!({"op": "get"}),
        json!({"op": "get", "key": 1}),
        json!({"op": "set-bytes", "key": "k", "hex": "0"}),
        json!({"op": "add64", "key": "k", "n": "-1"}),
        json!({"op": "log", "level": "loud", "text": ""}),
        json!({"op": "timer", "name": "n", "after": 1}),
        json!({"op": "timer", "name": "n", "body": 1}),
        json!({"op": "timer", "name": "n", "after": 1, "at": 1, "body": 1}),
        json!([]),
    ] {
        let refused = send(&mut sink, bad.clone()).unwrap_err();
        assert_eq!(refused.code(), Some("bad-message"), "{bad}");
        if !["set-bytes", "add64", "log", "timer"].map(Value::from).contains(&bad["op"]) {
            assert_eq!(sink.query(&bad).unwrap_err().code(), Some("bad-query"), "{bad}");
        }
    }
    let thrown = send(&mut sink, json!({"op": "throw", "message": "m", "set": "k"}));
    assert!(matches!(thrown, Err(Failure::Trapped(_))), "{thrown:?}");
    for told in [
        json!({"op": "set", "key": "k", "value": 2}),
        json!({"op": "delete", "key": "k"}),
        json!({"op": "emit", "kind": "k", "value": 2}),
        json!({"op": "notify", "kind": "k", "value": 2}),
        json!({"op": "timer", "name": "n", "after": 1, "body": 1}),
        json!({"op": "cancel-timer", "name": "n"}),
        json!({"op": "throw", "message": "m"}),
    ] {
        let failed = sink.query(&told);
        assert!(matches!(failed, Err(Failure::Trapped(_))), "{told}: {failed:?}");
    }
    assert_eq!(sink.migrate("0.0.9"), Err(Failure::Refused("no way from 0.0.9".into())));
    assert!(matches!(sink.migrate("0.0.8"), Err(Failure::Trapped(_))));
    assert_eq!(sink.session(), &before);
    sink.migrate("0.1.0").unwrap();
    assert_eq!(sink.get::<Value>("migrated"), Some(json!({"from": "0.1.0"})));
}

/// As above, for what comes later.
#[test]
fn sets_timers_as_it_is_told() {
    let mut sink = Harness::<KitchenSink>::new();
    let now = sink.session().time_ms;
    let set = |name: &str, when: &str, value: Value, body: Value| {
        let mut op = json!({"op": "timer", "name": name, "body": body});
        op[when] = value;
        op
    };
    for (op, expected) in [
        (set("b", "after", json!(50), json!({"ä": 1})), json!({"due": now + 50})),
        (set("a", "at", json!(7), json!(null)), json!({"due": now})),
        (set("c", "every", json!(100), json!({"fails": 1})), json!({"due": now + 100})),
        (set("d", "after", json!(1), json!(1)), json!({"due": now + 1})),
        (json!({"op": "cancel-timer", "name": "d"}), json!({"was": true})),
        (json!({"op": "cancel-timer", "name": "d"}), json!({"was": false})),
    ] {
        assert_eq!(send(&mut sink, op.clone()), Ok(expected), "{op}");
    }
    let listed = json!([
        {"name": "a", "due": now, "failures": 0},
        {"name": "b", "due": now + 50, "failures": 0},
        {"name": "c", "due": now + 100, "failures": 0},
    ]);
    assert_eq!(send(&mut sink, json!({"op": "timers"})), Ok(listed.clone()));
    assert_eq!(sink.query(&json!({"op": "timers"})).unwrap().parse::<Value>().unwrap(), listed);
    for (when, value) in [("every", json!(99)), ("cron", json!(["61 * * * *", "UTC"]))] {
        let refused = send(&mut sink, set("e", when, value, json!(1))).unwrap_err();
        assert_eq!(refused.code(), Some("bad-moment"), "{refused}");
    }
    let fired = sink.advance(Duration::from_millis(100));
    let said = |fired: &Fired| fired.result.as_ref().ok().map(|it| it.parse::<Value>().unwrap());
    let expected = [
        Some(json!({"name": "a", "due": now, "missed": 0, "attempt": 1, "body": null})),
        Some(json!({"name": "b", "due": now + 50, "missed": 0, "attempt": 1, "body": {"ä": 1}})),
        None,
    ];
    assert_eq!(fired.iter().map(said).collect::<Vec<_>>(), expected);
    assert_eq!(fired[1].events[0].kind, "fired");
    assert_eq!(Some(fired[1].events[0].parse::<Value>().unwrap()), expected[1]);
}
