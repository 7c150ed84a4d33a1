//! Sessions that close, and those that are told of their subscribers, in the harness.

#![allow(clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use slotd_guest::{
    Context, Handler, MigrateContext, Origin, QueryContext, RawHandler, Rejection, Reply, Value,
    json,
    test::{Failure, Harness},
};
use std::time::Duration;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    Note,
    Close,
    CloseThenReject,
    Watch(bool),
    WatchThenReject,
}

struct Room;

impl Handler for Room {
    type Message = Message;
    type Query = u8;

    fn handle(cx: &mut Context, message: Message) -> Result<impl Serialize, Rejection> {
        match message {
            Message::Note => cx.state().set("noted", &true)?,
            Message::Close => {
                cx.expire_after(Duration::from_secs(60))?;
                cx.timers().after("late", Duration::from_secs(1), &Message::Note)?;
                cx.http().get("https://a").send("a")?;
                cx.message_to("a/b").reply_as("r").send(&1)?;
                cx.send("a/b", &2)?;
                cx.watch_subscribers(true);
                cx.close();
                cx.emit("closed", &true)?;
            }
            Message::CloseThenReject => {
                cx.close();
                return Err(Rejection::new("no", "No."));
            }
            Message::Watch(wanted) => cx.watch_subscribers(wanted),
            Message::WatchThenReject => {
                cx.watch_subscribers(true);
                return Err(Rejection::new("no", "No."));
            }
        }
        Ok(())
    }

    const PRESENCE: bool = true;

    fn presence(cx: &mut Context, present: bool) -> Result<impl Serialize, Rejection> {
        assert_eq!((cx.origin(), cx.presence()), (&Origin::Presence, Some(present)));
        if !present && cx.state().get::<bool>("noted")? == Some(true) {
            return Err(Rejection::new("no", "No.").retriable());
        }
        cx.emit("presence", &present)?;
        Ok(present)
    }

    fn query(cx: &QueryContext, what: u8) -> Result<impl Serialize, Rejection> {
        match what {
            0 => {}
            1 => cx.forbidden().close(),
            _ => cx.forbidden().watch_subscribers(true),
        }
        Ok(cx.seq())
    }

    fn migrate(cx: &mut MigrateContext, _from: &str) -> Result<(), String> {
        cx.forbidden().close();
        Ok(())
    }
}

/// A test would go on with a session that a node has closed, or miss what ends with it.
#[test]
fn a_closed_session_takes_no_more_messages() {
    let mut room = Harness::<Room>::new();
    room.send(None, &Message::Note).unwrap();
    room.send(None, &Message::CloseThenReject).unwrap_err();
    assert!(!room.is_closed());
    room.send(None, &Message::Close).unwrap();
    assert!(room.is_closed());
    let refused = room.send(None, &Message::Note).unwrap_err();
    assert_eq!(refused.code(), Some("session-closed"));
    assert_eq!(room.deliver("a/b", &Message::Note).unwrap_err().code(), Some("session-closed"));
    // What has happened is there, and what was to come is not.
    assert_eq!((room.seq(), room.events().len(), room.sent().len()), (2, 1, 2));
    assert_eq!((room.timers(), room.requests()[0].open), (Vec::new(), false));
    assert!(room.sent()[0].answered && !room.watches_subscribers());
    assert_eq!(room.query(&0).unwrap().parse::<u64>().unwrap(), 2);
    // It expires, and then begins anew.
    room.advance(Duration::from_secs(60));
    assert!(!room.is_closed());
    room.send(None, &Message::Note).unwrap();
    assert_eq!(room.seq(), 1);
}

#[test]
fn only_a_message_closes_or_watches() {
    let mut room = Harness::<Room>::new();
    for what in [1, 2] {
        assert!(matches!(room.query(&what), Err(Failure::Trapped(_))));
    }
    assert!(matches!(room.migrate("1.0.0"), Err(Failure::Trapped(_))));
    assert!(!room.is_closed() && !room.watches_subscribers());
}

/// A test could not say what a handler does when people come and go.
#[test]
fn a_session_that_watches_is_told_who_comes_and_goes() {
    let mut room = Harness::<Room>::new();
    room.send(None, &Message::WatchThenReject).unwrap_err();
    assert!(!room.watches_subscribers());
    room.send(None, &Message::Watch(true)).unwrap();
    for present in [true, false] {
        assert_eq!(room.presence(present).unwrap().parse::<bool>().unwrap(), present);
    }
    let told: Vec<Value> = room.events().iter().map(|it| it.parse().unwrap()).collect();
    assert_eq!((told, room.seq()), (vec![json!(true), json!(false)], 3));
    room.send(None, &Message::Note).unwrap();
    assert_eq!(room.presence(false).unwrap_err().code(), Some("no"));
    assert_eq!((room.events().len(), room.watches_subscribers()), (2, true));
    room.send(None, &Message::Watch(false)).unwrap();
    assert!(!room.watches_subscribers());
}

#[test]
#[should_panic(expected = "does not watch its subscribers")]
fn presence_that_nobody_asked_for_ends_the_test() {
    _ = Harness::<Room>::new().presence(true);
}

/// Handlers with bytes, and those that do not expect it.
struct Raw;

impl RawHandler for Raw {
    fn handle(cx: &mut Context, body: Vec<u8>) -> Result<Reply, Rejection> {
        cx.watch_subscribers(true);
        Ok(Reply::text(format!("{:?} {:?} {}", cx.origin(), cx.presence(), body.len())))
    }
}

struct Plain;

impl Handler for Plain {
    type Message = Value;
    type Query = ();
    fn handle(cx: &mut Context, _message: Value) -> Result<impl Serialize, Rejection> {
        cx.watch_subscribers(true);
        Ok(())
    }
}

/// A handler of bytes would take it for a message of another session, and one without `presence` for one that it has
/// handled.
#[test]
fn presence_is_told_from_messages_in_every_kind_of_handler() {
    let mut raw = Harness::<Raw>::new();
    let text = |reply: Reply| String::from_utf8(reply.body).unwrap();
    raw.send_bytes(None, "a/b", [0]).unwrap();
    assert_eq!(text(raw.presence(true).unwrap()), "Presence Some(true) 0");
    let other = raw.deliver("service/session", &json!(1)).unwrap();
    assert!(text(other).starts_with("Session "));

    let mut plain = Harness::<Plain>::new();
    plain.send(None, &1).unwrap();
    assert_eq!(plain.presence(true).unwrap_err().code(), Some("no-presence"));
}
