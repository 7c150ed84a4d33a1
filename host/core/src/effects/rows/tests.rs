#![allow(clippy::unwrap_used)]
use super::*;
use crate::effects::{
    Firing, When,
    http::{self, Failure, Form, Response, Stream},
    send::{Asked, Content, Refusal},
};
use proptest::prelude::*;

proptest! {
    /// A row that is read back as another would fire, or drop, what it should not.
    #[test]
    fn rows_are_read_as_they_were_written(name in "[^\\p{Cc}]{1,40}", time: u64, number: u64) {
        let place = Place { to: number as u16, number: Number { term: time, index: number } };
        let names = [
            Name::Expiry,
            Name::Closed,
            Name::Watch,
            Name::Forked,
            Name::Request(name.clone()),
            Name::Answer(name.clone()),
            Name::DeadAnswer(name.clone(), time),
            Name::Outgoing(place),
            Name::Waiting(place),
            Name::Outcome(place),
            Name::DeadOutgoing(place),
            Name::DeadOutcome(place),
            Name::Timer(name.clone()),
            Name::Dead(name.clone(), time),
            Name::Retried(name, time),
        ];
        for name in names {
            let row = name.row();
            prop_assert_eq!(Name::of_row(&row), Some(name));
            let due = Due { due_ms: time, session_number: number, row };
            prop_assert_eq!(Due::of_key(&due.key()), Some(due));
        }
        let row = OnItsWay { place, session_number: number };
        prop_assert_eq!(OnItsWay::of_key(&row.key()), Some(row));
        prop_assert_eq!(place.to_string().parse(), Ok(place));
    }

    /// What is due first would not come first.
    #[test]
    fn keys_are_in_the_order_of_what_they_say(
        a: (u64, u64, u8), b: (u64, u64, u8),
    ) {
        let due = |(due_ms, session_number, name): (u64, u64, u8)| {
            Due { due_ms, session_number, row: Name::Timer(name.to_string()).row() }
        };
        let (first, second) = (due(a), due(b));
        prop_assert_eq!(first.cmp(&second), first.key().cmp(&second.key()));
        let place = |(index, term, to): (u64, u64, u8)| {
            Place { to: to.into(), number: Number { term, index } }
        };
        let (first, second) = (place(a), place(b));
        prop_assert_eq!(first.cmp(&second), first.key().cmp(&second.key()));
    }
}

/// Rows are on the disks of those who use this: their form stays.
#[test]
fn values_keep_their_form() {
    let timer = Timer {
        when: When::Every { period_ms: 1_000 },
        due_ms: 5_000,
        next_ms: 6_000,
        failures: 2,
        reason: "r".into(),
        content_type: "t".into(),
        body: Bytes::from_static(b"b"),
        set_by: 7,
    };
    let bytes = timer.encode().unwrap();
    assert_eq!(
        &bytes[..],
        [1, 1, 0xe8, 7, 0x88, 0x27, 0xf0, 0x2e, 2, 1, b'r', 1, b't', 1, b'b', 7]
    );
    assert_eq!(Timer::decode(&bytes), Ok(timer));
    let firing = Firing { name: "n".into(), due_ms: 1, missed: 2, attempt: 3 };
    let dead = Dead {
        firing,
        content_type: "t".into(),
        body: Bytes::new(),
        code: "c".into(),
        reason: "r".into(),
        died_ms: 4,
        set_by: 5,
    };
    let bytes = dead.encode().unwrap();
    assert_eq!(&bytes[..], [1, 1, b'n', 1, 2, 3, 1, b't', 0, 1, b'c', 1, b'r', 4, 5]);
    assert_eq!(Dead::decode(&bytes), Ok(dead));
    assert!(Dead::decode(&[2]).is_err() && Dead::decode(&[]).is_err());
}

/// As above, of messages between sessions.
#[test]
fn values_of_messages_keep_their_form() {
    let to = SessionKey::parse("s", "b").unwrap();
    let place = Place { to: 3, number: Number { term: 4, index: 5 } };
    assert_eq!(place.key()[..], [0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
    let asked = Asked { name: "r".into(), place, session_number: 6, sent_by: 7 };
    let outgoing = Outgoing {
        to: to.clone(),
        content: Content::Message { reply: Some("r".into()) },
        content_type: "t".into(),
        body: Bytes::from_static(b"b"),
        hops: 1,
        failures: 2,
        held: 3,
        next_ms: 300,
        reason: "w".into(),
        sent_by: 8,
        trace: None,
    };
    let traced = Outgoing { trace: Trace::parse(TRACE), ..outgoing.clone() };
    let bytes = traced.encode().unwrap();
    let plain = outgoing.encode().unwrap();
    let (form, rest) = bytes.split_first().unwrap();
    assert_eq!((*form, &rest[..plain.len() - 1]), (TRACED_FORM, &plain[1..]));
    assert_eq!(Outgoing::decode(&bytes), Ok(traced));
    let reply = Outgoing { content: Content::Reply(asked), ..outgoing.clone() };
    let refusal = Refusal { code: "c".into(), reason: "w".into(), retriable: true };
    let outcome = outgoing.outcome(refusal, 9).unwrap();
    let dead = GivenUp { what: outgoing.clone(), code: "c".into(), reason: "w".into(), died_ms: 9 };
    let mark = Mark { last: place.number, round: Number { term: 4, index: 6 } };
    let bytes = [
        outgoing.encode().unwrap(),
        reply.encode().unwrap(),
        outcome.encode().unwrap(),
        dead.encode().unwrap(),
        mark.encode().unwrap(),
    ];
    let hex = |bytes: &Bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(bytes.each_ref().map(hex), MESSAGES);
    assert_eq!(Outgoing::decode(&bytes[1]), Ok(reply));
    assert_eq!(Outcome::decode(&bytes[2]), Ok(outcome));
    assert_eq!(GivenUp::decode(&bytes[3]), Ok(dead));
    assert_eq!(Mark::decode(&bytes[4]), Ok(mark));
}

/// As above, of requests over HTTP.
#[test]
fn values_of_requests_keep_their_form() {
    let response = Response { status: 200, headers: vec![("h".into(), "v".into())] };
    let request = Request {
        method: "GET".into(),
        url: "u".into(),
        headers: vec![("n".into(), "w".into())],
        body: Bytes::from_static(b"b"),
        timeout_ms: 1,
        deadline_ms: 2,
        attempts_max: 3,
        redirects: 4,
        answer_bytes_max: 5,
        keep_headers: vec!["k".into()],
        stream: Some(Stream { kind: "t".into(), form: Form::Joined("p".into()) }),
        asked_by: 6,
        asked_ms: 7,
        failures: 8,
        shown: 9,
        next_ms: 10,
        reason: "r".into(),
        trace: Trace::parse(TRACE),
    };
    let failure = Failure { code: "c".into(), reason: "r".into(), response: None };
    let answer = |outcome| Answer {
        outcome,
        content_type: "t".into(),
        body: Bytes::from_static(b"b"),
        attempts: 1,
        asked_by: 2,
        failures: 3,
        next_ms: 4,
        reason: "r".into(),
        trace: None,
    };
    let answers =
        [answer(http::Outcome::Response(response)), answer(http::Outcome::Failure(failure))];
    let dead =
        GivenUp { what: answers[1].clone(), code: "c".into(), reason: "r".into(), died_ms: 5 };
    let watch = Watch { present: true, next_ms: Some(1), set_by: 2 };
    let bytes = [
        request.encode().unwrap(),
        answers[0].encode().unwrap(),
        answers[1].encode().unwrap(),
        dead.encode().unwrap(),
        watch.encode().unwrap(),
        Closed { by: 3 }.encode().unwrap(),
    ];
    let hex = |bytes: &Bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(bytes.each_ref().map(hex), REQUESTS);
    assert_eq!(Request::decode(&bytes[0]), Ok(request));
    assert_eq!(Answer::decode(&bytes[1]), Ok(answers[0].clone()));
    assert_eq!(GivenUp::decode(&bytes[3]), Ok(dead));
    assert_eq!(Watch::decode(&bytes[4]), Ok(watch));
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const REQUESTS: [&str; 6] = [
    "0103474554017501016e01770162010203040501016b010174020170060708090a0172014bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b701",
    "0100c80101016801760174016201020304017200",
    "010101630172000174016201020304017200",
    "0101016301720001740162010203040172000163017205",
    "0101010102",
    "0103",
];

const MESSAGES: [&str; 5] = [
    "01017301620001017201740162010203ac02017708",
    "0101730162010172030405060701740162010203ac02017708",
    "01017301620172010163017701186170706c69636174696f6e2f6f637465742d73747265616d000200090008",
    "01017301620001017201740162010203ac020177080163017709",
    "0104050406",
];
