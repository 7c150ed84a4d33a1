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
        json!({"op": "expire"}),
        json!({"op": "expire", "after": 1, "at": 1}),
        json!({"op": "send", "body": 1}),
        json!({"op": "send", "to": "a/b"}),
        json!({"op": "send", "to": "a/b", "body": 1, "hex": "00"}),
        json!({"op": "send", "to": "a/b", "hex": "0"}),
        json!({"op": "request", "id": "a", "method": "GET"}),
        json!({"op": "request", "id": "a", "method": "GET", "url": "https://a", "headers": [1]}),
        json!({"op": "request", "id": "a", "method": "GET", "url": "https://a", "options": {"attempts": -1}}),
        json!({"op": "cancel-request"}),
        json!({"op": "watch", "wanted": 1}),
        json!([]),
    ] {
        let refused = send(&mut sink, bad.clone()).unwrap_err();
        assert_eq!(refused.code(), Some("bad-message"), "{bad}");
        if !["set-bytes", "add64", "log", "timer", "expire", "send", "request"]
            .map(Value::from)
            .contains(&bad["op"])
        {
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
        json!({"op": "expire", "after": 1}),
        json!({"op": "keep"}),
        json!({"op": "send", "to": "a/b", "body": 1}),
        json!({"op": "request", "id": "a", "method": "GET", "url": "https://a"}),
        json!({"op": "cancel-request", "id": "a"}),
        json!({"op": "close"}),
        json!({"op": "watch", "wanted": true}),
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

/// As above, for the session itself.
#[test]
fn expires_as_it_is_told() {
    let mut sink = Harness::<KitchenSink>::new();
    let now = sink.session().time_ms;
    for (op, expected) in [
        (json!({"op": "expire", "after": 50}), Some(now + 50)),
        (json!({"op": "keep"}), None),
        (json!({"op": "expire", "at": 5}), Some(now)),
    ] {
        assert_eq!(send(&mut sink, op.clone()), Ok(json!({})), "{op}");
        assert_eq!(sink.expires(), expected, "{op}");
    }
    let refused = send(&mut sink, json!({"op": "expire", "at": 1_u64 << 53})).unwrap_err();
    assert_eq!((refused.code(), sink.expires()), (Some("bad-moment"), Some(now)));
    assert_eq!((sink.advance(Duration::ZERO), sink.seq()), (Vec::new(), 0));
}

/// As above, for what goes to other sessions and comes from them.
#[test]
fn sends_and_answers_as_it_is_told() {
    let mut sink = Harness::<KitchenSink>::new();
    let to = |to: &str, more: Value| {
        let mut op = json!({"op": "send", "to": to});
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    };
    for op in [
        to("s/a/b", json!({"body": null})),
        to("s/a", json!({"hex": "00ff", "reply": "n"})),
        to("s/a", json!({"body": {"answer": {"fails": 1}}, "reply": "n", "times": 2})),
    ] {
        assert_eq!(send(&mut sink, op.clone()), Ok(json!({})), "{op}");
    }
    let sent: Vec<_> = sink
        .sent()
        .iter()
        .map(|it| (it.to.to_string(), &*it.content_type, &it.body[..], it.reply_as.as_deref()))
        .collect();
    let answer = br#"{"answer":{"fails":1}}"#;
    let expected: [(String, &str, &[u8], Option<&str>); 4] = [
        ("s/a/b".into(), JSON, b"null", None),
        ("s/a".into(), "application/octet-stream", &[0, 255], Some("n")),
        ("s/a".into(), JSON, answer, Some("n")),
        ("s/a".into(), JSON, answer, Some("n")),
    ];
    assert_eq!(sent, expected);
    for op in [
        to("s", json!({"body": 1})),
        to("S/a", json!({"body": 1})),
        to("s/", json!({"body": 1})),
        to("s/a", json!({"body": 1, "reply": ""})),
    ] {
        assert_eq!(send(&mut sink, op.clone()).unwrap_err().code(), Some("bad-send"), "{op}");
    }

    let received = |attempt: u32, reply: bool, body: Value| json!({"from": "s/a/b", "attempt": attempt, "reply": reply, "body": body});
    let value = |reply: Result<slotd_guest::Reply, Failure>| reply.map(|it| it.parse().unwrap());
    let said = value(sink.deliver("s/a/b", &json!([1])));
    assert_eq!(said, Ok(received(1, false, json!([1]))));
    let told = json!({"fails": 1, "op": "set", "key": "k", "value": 2});
    assert_eq!(sink.deliver("s/a/b", &told).unwrap_err().code(), Some("told-to"));
    let said = value(sink.message_from("s/a/b").attempt(2).reply_wanted().deliver(&told));
    assert_eq!(said, Ok(received(2, true, told)));
    assert_eq!(sink.get("k"), Some(2));
    let last = sink.events().last().unwrap();
    assert_eq!((&*last.kind, last.parse::<Value>().unwrap()), ("received", said.unwrap()));

    let answered = |attempt: u32, refusal: Value, body: Value| json!({"name": "n", "from": "s/a", "attempt": attempt, "refusal": refusal, "body": body});
    let said = value(sink.answer_bytes("n", "a/b", [0, 254]));
    assert_eq!(said, Ok(answered(1, json!(null), json!("00fe"))));
    let reply = json!({"body": {"answer": {"fails": 1}}});
    assert_eq!(sink.answer("n", &reply).unwrap_err().code(), Some("told-to"));
    assert_eq!(value(sink.answer("n", &reply)), Ok(answered(2, json!(null), reply)));
    let refusal = json!({"code": "c", "message": "m", "retriable": false});
    let said = value(sink.refuse("n", "c", "m"));
    assert_eq!(said, Ok(answered(1, refusal, json!(null))));
    let last = sink.events().last().unwrap();
    assert_eq!((&*last.kind, last.parse::<Value>().unwrap()), ("answered", said.unwrap()));
}

/// As above, for what is asked for over HTTP and comes of it.
#[test]
fn asks_over_http_as_it_is_told() {
    let mut sink = Harness::<KitchenSink>::new();
    let ask = |id: &str, options: Value| json!({"op": "request", "id": id, "method": "POST", "url": "https://a/b", "options": options});
    let mut first = ask(
        "a",
        json!({
            "timeout_ms": 1, "deadline_ms": 2, "attempts": 3, "redirects": 0, "answer_bytes": 4,
            "keep_headers": ["x-*"], "stream": {"kind": "k", "form": {"joined": "a.0"}},
        }),
    );
    first["headers"] = json!([["A", "{{secret:S}}"], ["b", "c"]]);
    first["body"] = json!("ä");
    for op in [
        first,
        ask("b", json!({"stream": {"kind": "k", "form": "data"}})),
        json!({"op": "request", "id": "c", "method": "GET", "url": "http://a"}),
    ] {
        assert_eq!(send(&mut sink, op.clone()), Ok(Value::Null), "{op}");
    }
    let refused = send(&mut sink, ask("d", json!({"attempts": 0}))).unwrap();
    assert!(refused["problem"].as_str().unwrap().contains("not 0"), "{refused}");
    let asked = &sink.requests()[0];
    let headers = [("A", "{{secret:S}}"), ("b", "c")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(
        (&*asked.method, &*asked.url, &asked.headers[..]),
        ("POST", "https://a/b", &headers[..])
    );
    let options = http::Options {
        timeout_ms: Some(1),
        deadline_ms: Some(2),
        attempts: Some(3),
        redirects: Some(0),
        answer_bytes: Some(4),
        keep_headers: vec!["x-*".into()],
        stream: Some(("k".into(), Form::Joined("a.0".into()))),
    };
    assert_eq!((asked.body.as_slice(), &asked.options), ("ä".as_bytes(), &options));
    for (op, expected) in [
        (json!({"op": "open-requests"}), json!(["a", "b", "c"])),
        (json!({"op": "cancel-request", "id": "c"}), json!(true)),
        (json!({"op": "cancel-request", "id": "c"}), json!(false)),
        (json!({"op": "set", "key": "fail-answers", "value": null}), json!({})),
    ] {
        assert_eq!(send(&mut sink, op.clone()), Ok(expected), "{op}");
    }
    let open = sink.query(&json!({"op": "open-requests"})).unwrap().parse::<Value>().unwrap();
    assert_eq!(open, json!(["a", "b"]));
    sink.part("a", "Hal");
    sink.part("a", "lo");
    assert_eq!(sink.end("a").unwrap_err().code(), Some("told-to"));
    send(&mut sink, json!({"op": "delete", "key": "fail-answers"})).unwrap();
    let value = |reply: Result<slotd_guest::Reply, Failure>| reply.map(|it| it.parse().unwrap());
    let first = json!({"id": "a", "status": 200, "body": "Hallo", "attempts": 1, "attempt": 2});
    assert_eq!(value(sink.end("a")), Ok(first.clone()));
    let second = json!({"id": "b", "failure": "dns", "body": "", "attempts": 1, "attempt": 1});
    assert_eq!(value(sink.fail("b", "dns", "No.")), Ok(second.clone()));
    let last = sink.events().last().unwrap();
    assert_eq!((&*last.kind, last.parse::<Value>().unwrap()), ("answered", second.clone()));
    assert_eq!(sink.get::<Value>("answers"), Some(json!([first, second])));
}

/// As above, for subscribers and the end.
#[test]
fn watches_and_closes_as_it_is_told() {
    let mut sink = Harness::<KitchenSink>::new();
    assert_eq!(send(&mut sink, json!({"op": "watch", "wanted": true})), Ok(json!({})));
    for present in [true, false] {
        let said = sink.presence(present).unwrap();
        assert_eq!(said.parse::<bool>().unwrap(), present);
        let last = sink.events().last().unwrap();
        assert_eq!((&*last.kind, last.parse::<bool>().unwrap()), ("presence", present));
    }
    assert_eq!(sink.get::<Value>("presence"), Some(json!([true, false])));
    assert_eq!(send(&mut sink, json!({"op": "watch", "wanted": false})), Ok(json!({})));
    assert!(!sink.watches_subscribers());
    assert_eq!(send(&mut sink, json!({"op": "close"})), Ok(json!({})));
    assert!(sink.is_closed());
}

/// The scripts say who a client is of components alone: a test of the harness would have nobody to ask.
#[test]
fn it_says_who_its_client_is() {
    let mut sink = Harness::<KitchenSink>::new();
    let asks = json!({"op": "client"});
    assert_eq!(send(&mut sink, asks.clone()), Ok(Value::Null));
    sink.set_client(slotd_guest::Client::new("accounts", "ann").with("role", "staff"));
    let ann = json!({"kind": "accounts", "subject": "ann", "claims": {"role": "staff"}});
    assert_eq!(send(&mut sink, asks.clone()), Ok(ann.clone()));
    assert_eq!(sink.query(&asks).unwrap().parse::<Value>().unwrap(), ann);
}
