//! Messages between sessions in the harness, against what the interface promises of a node.

#![allow(clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use slotd_guest::{
    Address, Answer, Context, Handler, MigrateContext, Origin, QueryContext, RawHandler, Rejection,
    Reply, Value, json,
    test::{Failure, Harness, limits},
};

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    To(String, Option<String>),
    Pair(String, String),
    Bytes(usize),
    Many(usize),
    SendThenPanic,
    SendThenReject,
    /// Replies with what its origin says.
    Who,
}

struct Cart;

impl Handler for Cart {
    type Message = Message;
    type Query = bool;

    fn handle(cx: &mut Context, message: Message) -> Result<impl Serialize, Rejection> {
        match message {
            Message::To(to, None) => cx.send(&to, &json!({"n": 1}))?,
            Message::To(to, Some(name)) => cx.message_to(to).reply_as(name).send(&json!(2))?,
            Message::Pair(service, session) => cx.send((service, session), &json!(3))?,
            Message::Bytes(bytes) => {
                cx.message_to("stock/big").send_bytes("text/plain", vec![b'x'; bytes])?;
            }
            Message::Many(count) => {
                for i in 0..count {
                    cx.send("stock/many", &i)?;
                }
            }
            Message::SendThenPanic => {
                cx.send("stock/half", &1)?;
                panic!("as told");
            }
            Message::SendThenReject => {
                cx.send("stock/half", &1)?;
                return Err(Rejection::new("no", "No.").retriable());
            }
            Message::Who => {
                return Ok(match cx.origin() {
                    Origin::Session { sender, attempt, reply_wanted } => {
                        json!([sender, attempt, reply_wanted])
                    }
                    other => json!(format!("{other:?}")),
                });
            }
        }
        Ok(json!(null))
    }

    const ANSWERS: bool = true;

    fn answer(cx: &mut Context, answer: Answer) -> Result<impl Serialize, Rejection> {
        let Answer { name, sender, attempt, .. } = answer.clone();
        let said: Value = match answer.parse() {
            Ok(reply) => reply,
            Err(refusal) => json!([refusal.code(), refusal.message(), refusal.is_retriable()]),
        };
        if said == json!("later") && attempt < 3 {
            return Err(Rejection::new("later", "Later.").retriable());
        }
        if said == json!("never") {
            return Err(Rejection::new("never", "Never."));
        }
        cx.send(&sender, &"thanks")?;
        cx.state().set("answer", &(name, sender, attempt, said))?;
        Ok(json!(null))
    }

    fn query(cx: &QueryContext, is_allowed: bool) -> Result<impl Serialize, Rejection> {
        if !is_allowed {
            cx.forbidden().send("stock/widget", &1)?;
        }
        Ok(json!(null))
    }

    fn migrate(cx: &mut MigrateContext, _from: &str) -> Result<(), String> {
        Ok(cx.forbidden().send("stock/widget", &1)?)
    }
}

fn cart() -> Harness<Cart> {
    Harness::new()
}

/// A test could not say what a handler has sent, or would find what a node would not send.
#[test]
fn what_was_sent_is_there_in_order_and_of_what_fails_nothing() {
    let mut cart = cart();
    cart.send(None, &Message::To("stock/a/b".into(), None)).unwrap();
    cart.send(None, &Message::SendThenPanic).unwrap_err();
    cart.send(None, &Message::SendThenReject).unwrap_err();
    cart.send(None, &Message::To("stock/c".into(), Some("reserve".into()))).unwrap();
    cart.send(None, &Message::Pair("cart".into(), "/".into())).unwrap();
    cart.send(None, &Message::Bytes(3)).unwrap();
    let sent: Vec<_> = cart
        .sent()
        .iter()
        .map(|it| (it.seq, it.to.to_string(), it.content_type.as_str(), it.reply_as.as_deref()))
        .collect();
    let json = "application/json";
    let expected = [
        (1, "stock/a/b".to_owned(), json, None),
        (2, "stock/c".to_owned(), json, Some("reserve")),
        (3, "cart//".to_owned(), json, None),
        (4, "stock/big".to_owned(), "text/plain", None),
    ];
    assert_eq!(sent, expected);
    assert_eq!(cart.sent()[0].to, Address::new("stock", "a/b"));
    assert_eq!(cart.sent()[0].parse::<Value>().unwrap(), json!({"n": 1}));
    assert_eq!(cart.sent()[3].body, b"xxx");
}

/// A handler that passes in its tests would be stopped by a node.
#[test]
fn what_a_node_refuses_the_harness_refuses() {
    let mut cart = cart();
    let long = |bytes| "x".repeat(bytes);
    for (to, why) in [
        ("stock".to_owned(), "service/session"),
        ("/a".to_owned(), "a service name must have 1 to 64 bytes; this one has 0"),
        ("stock/".to_owned(), "a session id must have 1 to 256 bytes; this one has 0"),
        ("Stock/a".to_owned(), "service name \"Stock\""),
        ("-/a".to_owned(), "service name \"-\""),
        (format!("{}/a", long(65)), "this one has 65"),
        (format!("a/{}", long(257)), "this one has 257"),
        ("stock/a\nb".to_owned(), "has a control character"),
    ] {
        let refused = cart.send(None, &Message::To(to.clone(), None)).unwrap_err();
        assert_eq!(refused.code(), Some("bad-send"), "{to}: {refused}");
        assert!(refused.to_string().contains(why), "{to}: {refused}");
    }
    for name in [String::new(), long(129), "a\u{85}b".into()] {
        let message = Message::To("stock/a".into(), Some(name.clone()));
        let refused = cart.send(None, &message).unwrap_err();
        assert_eq!(refused.code(), Some("bad-send"), "{name}: {refused}");
    }
    cart.send(None, &Message::To(format!("{}/{}", long(64), long(256)), None)).unwrap();
    cart.send(None, &Message::To("0/a".into(), Some(long(128)))).unwrap();
    cart.send(None, &Message::Bytes(limits::SEND_BODY_BYTES_MAX)).unwrap();
    cart.send(None, &Message::Many(limits::SENDS_MAX)).unwrap();
    let before = cart.sent().len();
    let trapped = |result: Result<Reply, Failure>, why: &str| match result {
        Err(Failure::Trapped(reason)) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    };
    trapped(cart.send(None, &Message::Bytes(limits::SEND_BODY_BYTES_MAX + 1)), "limit");
    trapped(cart.send(None, &Message::Many(limits::SENDS_MAX + 1)), "limit");
    trapped(cart.query(&false), "only `handle`");
    assert!(matches!(cart.migrate("1.0.0"), Err(Failure::Trapped(_))));
    assert_eq!(cart.sent().len(), before);
}

/// A handler could not tell a client from another session, nor see that it is asked.
#[test]
fn a_message_of_a_session_says_so() {
    let mut cart = cart();
    let who = |reply: Result<Reply, Failure>| reply.unwrap().parse::<Value>().unwrap();
    assert_eq!(who(cart.deliver("stock/a/b", &Message::Who)), json!(["stock/a/b", 1, false]));
    let asked = cart.message_from(("stock", "a")).reply_wanted().attempt(3);
    assert_eq!(who(asked.deliver(&Message::Who)), json!(["stock/a", 3, true]));
    assert_eq!(who(cart.send("ann", &Message::Who)), json!("Client { sender: Some(\"ann\") }"));
    assert_eq!(cart.seq(), 3);
}

/// A test could not say what comes of a reply, or of a handler that fails it.
#[test]
fn an_answer_comes_back_once_or_as_often_as_its_handler_fails() {
    let mut cart = cart();
    let answered = |cart: &Harness<Cart>| cart.get::<Value>("answer");
    for _ in 0..5 {
        cart.send(None, &Message::To("stock/a".into(), Some("r".into()))).unwrap();
    }
    cart.answer("r", &json!({"left": 4})).unwrap();
    assert_eq!(answered(&cart), Some(json!(["r", "stock/a", 1, {"left": 4}])));
    assert_eq!(cart.sent().last().unwrap().parse::<String>().unwrap(), "thanks");
    cart.refuse("r", "sold-out", "There is none.").unwrap();
    let refusal = json!(["sold-out", "There is none.", false]);
    assert_eq!(answered(&cart), Some(json!(["r", "stock/a", 1, refusal])));
    for _ in 0..2 {
        assert_eq!(cart.answer("r", &"later").unwrap_err().code(), Some("later"));
    }
    cart.answer("r", &"later").unwrap();
    assert_eq!(answered(&cart), Some(json!(["r", "stock/a", 3, "later"])));
    // For good: it is given up.
    assert_eq!(cart.answer("r", &"never").unwrap_err().code(), Some("never"));
    let waiting: Vec<_> = cart.sent().iter().take(5).map(|it| (it.answered, it.failures)).collect();
    assert_eq!(waiting, [(true, 0), (true, 0), (true, 2), (true, 1), (false, 0)]);
    // Where the reply is not understood, too.
    let bytes = cart.answer_bytes("r", "text/plain", "none");
    bytes.unwrap();
    let said = answered(&cart).unwrap();
    assert_eq!(said[3][0], "bad-message", "{said}");
}

#[test]
#[should_panic(expected = "waits for a reply as \"r\"")]
fn an_answer_to_nothing_ends_the_test() {
    _ = cart().answer("r", &1);
}

/// Handlers with bytes, and those that expect no answer.
struct Raw;

impl RawHandler for Raw {
    fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection> {
        if let Origin::Answer { name, sender, refusal, .. } = cx.origin() {
            let code = refusal.as_ref().map_or("-", Rejection::code);
            let said = String::from_utf8_lossy(&body);
            return Ok(Reply::text(format!(
                "{name} {sender} {code} {:?} {said}",
                cx.content_type()
            )));
        }
        cx.message_to(Address::new("stock", "a")).reply_as("raw").send_bytes("a/b", body)?;
        Ok(Reply::default())
    }
}

struct Plain;

impl Handler for Plain {
    type Message = Value;
    type Query = ();
    fn handle(cx: &mut Context, message: Value) -> Result<impl Serialize, Rejection> {
        Ok(cx.message_to("stock/a").reply_as("r").send(&message)?)
    }
}

/// A handler of bytes would take an answer for a message, and one without `answer` for one that it has handled.
#[test]
fn answers_are_told_from_messages_in_every_kind_of_handler() {
    let mut raw = Harness::<Raw>::new();
    for _ in 0..2 {
        raw.send_bytes(None, "a/b", [0, 255]).unwrap();
    }
    assert_eq!(
        (raw.sent()[0].content_type.as_str(), &raw.sent()[0].body[..]),
        ("a/b", &[0, 255][..])
    );
    let text = |reply: Reply| String::from_utf8(reply.body).unwrap();
    assert_eq!(text(raw.answer_bytes("raw", "c/d", "yes").unwrap()), "raw stock/a - \"c/d\" yes");
    assert_eq!(
        text(raw.refuse("raw", "no", "No.").unwrap()),
        "raw stock/a no \"application/octet-stream\" "
    );

    let mut plain = Harness::<Plain>::new();
    plain.send(None, &1).unwrap();
    assert_eq!(plain.answer("r", &2).unwrap_err().code(), Some("no-answers"));
}

/// An address in the state, or in a message, would not come back as it was.
#[test]
fn an_address_is_a_text() {
    let address: Address = "stock/a/b".parse().unwrap();
    assert_eq!(json!(address), json!("stock/a/b"));
    assert_eq!(serde_json_of("\"stock/a/b\""), Some(address));
    assert_eq!(serde_json_of("\"stock\""), None);
}

fn serde_json_of(text: &str) -> Option<Address> {
    slotd_guest::serde_json::from_str(text).ok()
}
