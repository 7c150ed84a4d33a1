//! Timers in the harness's virtual time, against what the interface promises of a node.

#![allow(clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use slotd_guest::{
    Context, Handler, MigrateContext, Origin, QueryContext, Rejection, Timer, When, json,
    test::{Failure, Fired, Harness, limits},
};
use std::time::Duration;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    After(String, u64, Box<Message>),
    Every(String, u64),
    Cron(String, String),
    At(String, u64),
    Name(String),
    Bytes(usize),
    Bodies(usize),
    Many(usize),
    /// Sets one for each kind of moment, in the past where it can.
    Dues,
    Cancel(String),
    SetThenPanic,
    /// In a timer's message: fails so often.
    Fail(u32),
    Reject,
    Note,
}

struct Alarm;

impl Handler for Alarm {
    type Message = Message;
    type Query = bool;

    fn handle(cx: &mut Context, message: Message) -> Result<impl Serialize, Rejection> {
        let ms = Duration::from_millis;
        Ok(match message {
            Message::After(name, delay, body) => {
                json!(cx.timers().after(&name, ms(delay), &body)?)
            }
            Message::Every(name, period) => {
                json!(cx.timers().every(&name, ms(period), &Message::Note)?)
            }
            Message::Cron(expression, zone) => {
                json!(cx.timers().cron("cron", &expression, &zone, &Message::Note)?)
            }
            Message::At(name, time) => json!(cx.timers().at(&name, time, &Message::Note)?),
            Message::Name(name) => json!(cx.timers().after(&name, ms(1), &Message::Note)?),
            Message::Bytes(bytes) => {
                let body = vec![b'x'; bytes];
                json!(cx.timers().set_bytes("big", When::After(ms(1)), "text/plain", body)?)
            }
            Message::Bodies(count) => {
                for i in 0..count {
                    let (name, body) = (i.to_string(), vec![b'x'; 65_000]);
                    cx.timers().set_bytes(&name, When::After(ms(1)), "text/plain", body)?;
                }
                json!(null)
            }
            Message::Dues => json!([
                cx.timers().at("at", 1, &Message::Note)?,
                cx.timers().after("after", ms(0), &Message::Note)?,
                cx.timers().every("every", ms(100), &Message::Note)?,
                cx.timers().cron("cron", "* * * * *", "UTC", &Message::Note)?,
            ]),
            Message::Many(count) => {
                for i in 0..count {
                    let name = format!("{}/{i}", cx.seq());
                    cx.timers().after(&name, ms(1), &Message::Note)?;
                }
                json!(cx.timers().list().len())
            }
            Message::Cancel(name) => json!(cx.timers().cancel(&name)),
            Message::SetThenPanic => {
                cx.timers().after("half", ms(1), &1)?;
                cx.timers().cancel("a");
                panic!("told to");
            }
            Message::Fail(times) => match cx.origin() {
                Origin::Timer { attempt, .. } if *attempt <= times => {
                    cx.timers().after("half", ms(1), &1)?;
                    cx.emit("half", &1)?;
                    panic!("not yet");
                }
                _ => json!("at last"),
            },
            Message::Reject => return Err(Rejection::new("no", "never")),
            Message::Note => {
                let set: Vec<_> = cx.timers().list();
                let set: Vec<_> = set.iter().map(|timer| (&timer.name, timer.due_ms)).collect();
                let (origin, sender) = (format!("{:?}", cx.origin()), cx.sender());
                json!({ "origin": origin, "sender": sender, "set": set, "now": cx.time_ms() })
            }
        })
    }

    fn query(cx: &QueryContext, write: bool) -> Result<impl Serialize, Rejection> {
        if write {
            cx.forbidden().timers().cancel("a");
        }
        Ok(cx.timers().list().iter().map(|timer| timer.name.clone()).collect::<Vec<_>>())
    }

    fn migrate(cx: &mut MigrateContext, _: &str) -> Result<(), String> {
        cx.forbidden().timers().cancel("a");
        Ok(())
    }
}

const START: u64 = 1_700_000_000_000;

fn after(name: &str, ms: u64, body: Message) -> Message {
    Message::After(name.into(), ms, body.into())
}

fn send(h: &mut Harness<Alarm>, message: &Message) -> slotd_guest::Value {
    h.send("ann", message).unwrap().parse().unwrap()
}

fn times(fired: &[Fired]) -> Vec<(&str, u64, u64, u32)> {
    let from_start = |ms: u64| ms - START;
    fired.iter().map(|it| (&*it.name, from_start(it.due_ms), it.missed, it.attempt)).collect()
}

/// A test that passes here must not find on a node that what was due first came last, at another time,
/// or as from a client.
#[test]
fn what_is_due_fires_in_order_and_at_its_time() {
    let mut h = Harness::<Alarm>::new();
    assert_eq!(send(&mut h, &after("b", 2_000, Message::Note)), json!(START + 2_000));
    send(&mut h, &after("a", 1_000, after("c", 500, Message::Note)));
    send(&mut h, &after("late", 5_000, Message::Note));
    assert_eq!(h.timers()[0].due_ms, START + 1_000);
    assert!(h.advance(Duration::from_millis(999)).is_empty());
    let fired = h.advance(Duration::from_millis(1_001));
    assert_eq!(
        times(&fired),
        [("a", 1_000, 0, 1), ("c", 1_500, 0, 1), ("b", 2_000, 0, 1)],
        "what a timer's message sets is due meanwhile"
    );
    assert_eq!((h.session().time_ms, h.seq()), (START + 2_000, 6));
    let b: slotd_guest::Value = fired[2].result.as_ref().unwrap().parse().unwrap();
    let origin =
        format!("Timer {{ name: \"b\", due_ms: {}, missed: 0, attempt: 1 }}", START + 2_000);
    assert_eq!(
        b,
        json!({
            "origin": origin, "sender": null, "now": START + 2_000,
            "set": [["late", START + 5_000]],
        }),
        "a timer that fires once is no longer there"
    );
    send(&mut h, &after("late", 1, Message::Note));
    assert_eq!(h.timers().len(), 1, "the second of a name replaces the first");
    assert_eq!(send(&mut h, &Message::Cancel("late".into())), json!(true));
    assert_eq!(send(&mut h, &Message::Cancel("late".into())), json!(false));
    assert!(h.advance(Duration::from_secs(9)).is_empty());
}

/// A period that drifts here hides one that the author's code does not expect.
#[test]
fn a_period_keeps_its_times() {
    let mut h = Harness::<Alarm>::new();
    send(&mut h, &Message::Every("tick".into(), 400));
    let fired = h.advance(Duration::from_secs(1));
    assert_eq!(times(&fired), [("tick", 400, 0, 1), ("tick", 800, 0, 1)]);
    // Nobody serves for a while.
    h.session_mut().time_ms += 1_000;
    let fired = h.advance(Duration::ZERO);
    assert_eq!(times(&fired), [("tick", 1_200, 2, 1)]);
    assert_eq!(h.timers()[0].due_ms, START + 2_400);
    assert_eq!(times(&[h.fire("tick")]), [("tick", 2_400, 0, 1)]);
    assert_eq!(h.session().time_ms, START + 2_400, "it is never early");
}

/// On a node a handler that fails is called again: authors test what that does.
#[test]
fn what_fails_is_tried_again_and_given_up() {
    let mut h = Harness::<Alarm>::new();
    send(&mut h, &after("a", 1_000, Message::Fail(3)));
    let fired = h.advance(Duration::from_secs(3));
    assert_eq!(times(&fired), [("a", 1_000, 0, 1), ("a", 1_000, 0, 2)]);
    assert!(matches!(&fired[0].result, Err(Failure::Trapped(why)) if why.contains("not yet")));
    assert_eq!((h.timers().len(), h.timers()[0].failures, h.seq()), (1, 2, 1));
    let fired = h.advance(Duration::from_secs(5));
    assert_eq!(fired.iter().map(|it| it.time_ms - START).collect::<Vec<_>>(), [4_000, 8_000]);
    assert!(fired[1].result.is_ok() && h.timers().is_empty() && h.events().is_empty());

    send(&mut h, &after("a", 1_000, Message::Fail(100)));
    let fired = h.advance(Duration::from_secs(2 * 60 * 60));
    assert_eq!((fired.len(), fired[19].attempt), (limits::ATTEMPTS_MAX as usize, 20));
    assert_eq!(fired[19].time_ms - fired[18].time_ms, limits::TIMER_RETRY_MAX_MS);
    assert_eq!((h.timers().len(), h.dead().len(), h.dead()[0].attempts), (0, 1, 20));

    send(&mut h, &after("b", 0, Message::Reject));
    let fired = h.advance(Duration::ZERO);
    assert_eq!(fired[0].result.as_ref().unwrap_err().code(), Some("no"));
    assert_eq!((h.timers().len(), h.dead().len(), &*h.dead()[1].name), (0, 2, "b"));
}

/// All or nothing holds for timers too, and queries set none.
#[test]
fn timers_go_with_their_message() {
    let mut h = Harness::<Alarm>::new();
    send(&mut h, &after("a", 1_000, Message::Note));
    let before = h.session().clone();
    h.send(None, &Message::SetThenPanic).unwrap_err();
    assert_eq!(h.query(&false).unwrap().parse::<Vec<String>>().unwrap(), ["a"]);
    assert!(matches!(h.query(&true), Err(Failure::Trapped(_))));
    assert!(matches!(h.migrate("1"), Err(Failure::Trapped(_))));
    assert_eq!(h.session(), &before);
}

/// Limits that the harness does not keep would be met in production only.
#[test]
fn limits_of_timers_are_the_hosts() {
    let mut h = Harness::<Alarm>::new();
    for name in [String::new(), "a\nb".into(), "ä".repeat(65)] {
        let failed = h.send(None, &Message::Name(name)).unwrap_err();
        assert!(matches!(failed, Failure::Trapped(_)), "{failed}");
    }
    h.send(None, &Message::Name("ä".repeat(64))).unwrap();
    h.send(None, &Message::Bytes(65_536)).unwrap();
    let failed = h.send(None, &Message::Bytes(65_537)).unwrap_err();
    let says = "limit: timers: a body may have 65536 bytes; this one has 65537";
    assert!(matches!(&failed, Failure::Trapped(why) if why.contains(says)), "{failed}");
    h.reset();
    h.send(None, &Message::Bodies(16)).unwrap();
    let failed = h.send(None, &Message::Bodies(17)).unwrap_err();
    let says = "limit: more than 1000 timers or 1048576 bytes";
    assert!(matches!(&failed, Failure::Trapped(why) if why.contains(says)), "{failed}");
    h.reset();
    assert!(matches!(h.send(None, &Message::Many(257)), Err(Failure::Trapped(_))));
    for _ in 0..3 {
        h.send(None, &Message::Many(256)).unwrap();
    }
    assert!(matches!(h.send(None, &Message::Many(233)), Err(Failure::Trapped(_))));
    assert_eq!(send(&mut h, &Message::Many(232)), json!(1_000));

    let mut h = Harness::<Alarm>::new();
    let cron = |expression: &str, zone: &str| Message::Cron(expression.into(), zone.into());
    for (bad, says) in [
        (Message::Every("a".into(), 99), "a period has 100 ms"),
        (Message::At("a".into(), u64::MAX), "no time"),
        (Message::At("a".into(), 221_845_392_000_001), "the last is 221845392000000 ms"),
        (cron("* * * *", "UTC"), "five fields"),
        (cron("61 * * * *", "UTC"), "no cron expression"),
        (cron("0 0 0 * *", "UTC"), "no cron expression"),
        (cron("0 0 * * *", ""), "no time zone"),
        (cron(&"1".repeat(200), "UTC"), "128 bytes"),
    ] {
        let failed = h.send(None, &bad).unwrap_err();
        assert_eq!(failed.code(), Some("bad-moment"), "{failed}");
        assert!(failed.to_string().contains(says), "{failed}");
    }
    let last = 221_845_392_000_000;
    assert_eq!(send(&mut h, &Message::At("last".into(), last)), json!(last));
}

/// A test that counts on another time passes here and fails on a node.
#[test]
fn a_timer_is_never_due_in_the_past() {
    let mut h = Harness::<Alarm>::new();
    assert_eq!(send(&mut h, &Message::Dues), json!([START, START, START + 100, START]));
    let set_for: Vec<u64> = h.timers().iter().map(|timer| timer.due_ms).collect();
    assert_eq!(set_for, [START, START, START, START + 100], "after, at, cron, every");
    let fired = h.fire("at");
    assert_eq!(times(std::slice::from_ref(&fired)), [("at", 0, 0, 1)]);
    let told: slotd_guest::Value = fired.result.unwrap().parse().unwrap();
    let origin = format!("Timer {{ name: \"at\", due_ms: {START}, missed: 0, attempt: 1 }}");
    assert_eq!(told["origin"], json!(origin), "its origin has the same time");

    send(&mut h, &after("sets", 1_000, Message::Dues));
    let told: slotd_guest::Value = h.fire("sets").result.unwrap().parse().unwrap();
    assert_eq!(told, json!([START + 1_100, START + 1_100, START + 1_100, START + 1_100]));
    send(&mut h, &Message::Cancel("cron".into()));
    assert!(h.advance(Duration::from_millis(99)).is_empty());
    let fired = h.advance(Duration::from_millis(1));
    assert_eq!(
        times(&fired),
        [("after", 1_100, 0, 1), ("at", 1_100, 0, 1), ("every", 1_100, 0, 1)]
    );
}

/// A time that the harness made up would be another one on a node.
#[test]
fn cron_timers_fire_when_the_test_says() {
    let mut h = Harness::<Alarm>::new();
    send(&mut h, &Message::Cron("*/5 9-17 * * MON-FRI,7".into(), "Europe/Berlin".into()));
    h.session_mut().time_ms += 60_000;
    let fired = [h.fire("cron"), h.fire("cron")];
    assert_eq!(times(&fired), [("cron", 60_000, 0, 1), ("cron", 60_000, 0, 1)]);
    let set: Vec<Timer> = h.timers();
    assert_eq!((set.len(), &*set[0].name), (1, "cron"));
    let refused = std::panic::catch_unwind(move || h.advance(Duration::from_secs(1)));
    let why = refused.unwrap_err();
    assert!(why.downcast_ref::<String>().is_some_and(|why| why.contains("fire(\"cron\")")));
}
