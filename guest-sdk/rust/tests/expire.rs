//! Sessions that expire, in the harness's virtual time, against what the interface promises of a node.

#![allow(clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use slotd_guest::{
    Context, Handler, MigrateContext, QueryContext, Rejection,
    test::{Failure, Harness, limits},
};
use std::time::Duration;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    After(u64),
    At(u64),
    Keep,
    AfterThenReject(u64),
    /// A timer, whose message is this.
    Timer(u64, Box<Message>),
    Note,
}

struct Room;

impl Handler for Room {
    type Message = Message;
    type Query = ();

    fn handle(cx: &mut Context, message: Message) -> Result<impl Serialize, Rejection> {
        let ms = Duration::from_millis;
        match message {
            Message::After(delay) => cx.expire_after(ms(delay))?,
            Message::At(time) => cx.expire_at(time)?,
            Message::Keep => cx.keep(),
            Message::AfterThenReject(delay) => {
                cx.expire_after(ms(delay))?;
                return Err(Rejection::new("no", "No."));
            }
            Message::Timer(delay, body) => _ = cx.timers().after("t", ms(delay), &body)?,
            Message::Note => cx.state().set("noted", &true)?,
        }
        Ok(())
    }
    fn query(cx: &QueryContext, (): ()) -> Result<impl Serialize, Rejection> {
        cx.forbidden().keep();
        Ok(())
    }
    fn migrate(cx: &mut MigrateContext, _from: &str) -> Result<(), String> {
        Ok(cx.forbidden().expire_at(1)?)
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn room() -> (Harness<Room>, u64) {
    let mut room = Harness::new();
    room.send("ann", &Message::Note).unwrap();
    let now = room.session().time_ms;
    (room, now)
}

/// What is tested would be a session that goes on, or one that keeps what a node deletes.
#[test]
fn a_session_that_expires_is_gone_and_begins_anew() {
    let (mut room, now) = room();
    room.send(None, &Message::Timer(60_001, Message::Note.into())).unwrap();
    room.send(None, &Message::After(60_000)).unwrap();
    assert_eq!((room.expires(), room.seq()), (Some(now + 60_000), 3));
    assert_eq!(room.advance(MINUTE - Duration::from_millis(1)), []);
    assert_eq!((room.get("noted"), room.seq()), (Some(true), 3));
    assert_eq!(room.advance(MINUTE), [], "its timer is gone with it");
    assert_eq!((room.expires(), room.seq(), room.timers()), (None, 0, Vec::new()));
    assert!(room.state().is_empty());
    assert_eq!(room.session().time_ms, now + 2 * 60_000 - 1);
    room.send(None, &Message::Note).unwrap();
    assert_eq!(room.seq(), 1);
}

#[test]
fn a_later_message_has_the_last_word() {
    let (mut room, now) = room();
    room.send(None, &Message::After(60_000)).unwrap();
    room.send(None, &Message::At(now + 70_000)).unwrap();
    // Nothing is said by what fails, and no other message puts it off.
    room.send(None, &Message::AfterThenReject(1)).unwrap_err();
    room.send(None, &Message::Note).unwrap();
    assert_eq!(room.expires(), Some(now + 70_000));
    room.send(None, &Message::Keep).unwrap();
    assert_eq!(room.expires(), None);
    room.advance(2 * MINUTE);
    assert_eq!(room.seq(), 5);
    // A time that has passed is now.
    room.send(None, &Message::At(5)).unwrap();
    assert_eq!(room.expires(), Some(now + 120_000));
    room.advance(Duration::ZERO);
    assert_eq!(room.seq(), 0);
}

/// A timer for the same time may still keep the session, as on a node.
#[test]
fn timers_that_are_due_before_fire_before() {
    let (mut room, now) = room();
    room.send(None, &Message::After(60_000)).unwrap();
    room.send(None, &Message::Timer(60_000, Message::Keep.into())).unwrap();
    let fired = room.advance(2 * MINUTE);
    assert_eq!((fired.len(), fired[0].time_ms, room.seq()), (1, now + 60_000, 4));
    room.send(None, &Message::Timer(10, Message::After(20).into())).unwrap();
    assert_eq!(room.advance(MINUTE).len(), 1);
    assert_eq!(room.seq(), 0, "what a timer's message says holds, too");
}

#[test]
fn a_time_that_cannot_be_is_an_error_and_changes_nothing() {
    let (mut room, now) = room();
    room.send(None, &Message::After(1)).unwrap();
    let last = limits::TIMER_MS_MAX;
    for message in [Message::At(last + 1), Message::After(last), Message::After(u64::MAX)] {
        let failure = room.send(None, &message).unwrap_err();
        assert_eq!(failure.code(), Some("bad-moment"));
        assert!(failure.to_string().contains("is no time at which a session can expire"));
        assert_eq!(room.expires(), Some(now + 1));
    }
    room.send(None, &Message::At(last)).unwrap();
    assert_eq!(room.expires(), Some(last));
}

#[test]
fn only_a_message_says_so() {
    let (mut room, now) = room();
    room.send(None, &Message::After(1)).unwrap();
    let why = "only `handle` may have the session expire";
    assert_eq!(room.query(&()).unwrap_err(), Failure::Trapped(why.into()));
    assert_eq!(room.migrate("0.1.0").unwrap_err(), Failure::Trapped(why.into()));
    assert_eq!(room.expires(), Some(now + 1));
}
