//! Requests over HTTP, and what ends with a session's close.

use super::*;
use crate::effects::{
    GivenUp, Outcome,
    http::{self, Answer, Response},
    send::{Content, Refusal},
};

fn request(next_ms: u64, body: usize) -> Request {
    Request {
        method: "GET".into(),
        url: "http://t/".into(),
        headers: Vec::new(),
        body: vec![7; body].into(),
        timeout_ms: 1,
        deadline_ms: 2,
        attempts_max: 3,
        redirects: 0,
        answer_bytes_max: 1,
        keep_headers: Vec::new(),
        stream: None,
        asked_by: 1,
        asked_ms: next_ms,
        failures: 0,
        shown: 0,
        next_ms,
        reason: String::new(),
        trace: None,
    }
}

fn answer(body: usize) -> Answer {
    let response = Response { status: 200, headers: Vec::new() };
    Answer {
        outcome: http::Outcome::Response(response),
        content_type: "t".into(),
        body: vec![7; body].into(),
        attempts: 1,
        asked_by: 1,
        failures: 1,
        next_ms: 1,
        reason: String::new(),
        trace: None,
    }
}

fn name(id: &str) -> Name {
    Name::Request(id.into())
}

/// An effect's name, and it.
fn named(name: Name, effect: Effect) -> (Name, Effect) {
    (name, effect)
}

/// What is under way of a request would count as that of another one that takes its place in the same
/// millisecond, and that one never be made.
#[test]
fn a_request_in_the_place_of_another_is_due_at_another_time() {
    let mut committed = Effects::default();
    let before = committed.change(name("a"), Some(Effect::Request(request(5, 0).into()))).unwrap();
    let mut changes = EffectChanges::default();
    // As for the message of an answer, too.
    changes.fire(name("a"), None);
    OwnEffects { committed: &committed, changes: &mut changes }
        .request("a", request(5, 0))
        .unwrap();
    let mut numbers = Numbers { slot_count: 1, last: Number::default() };
    let (written, caused) = changes.merge(&mut committed, &mut numbers).unwrap();
    assert_eq!(caused, [crate::effects::Caused::Request { id: "a".into() }]);
    let [change] = &written[..] else { panic!("{written:?}") };
    assert_eq!((change.was_due, before.due), (Some(5), Some(5)));
    assert_eq!(change.due, Some(6));
}

/// Without its limits a session's requests take any memory, and its record may not fit the log.
#[test]
fn requests_have_limits() {
    let mut committed = Effects::default();
    for n in 0..limits::REQUESTS_MAX {
        let request = Effect::Request(request(1, 0).into());
        committed.change(name(&n.to_string()), Some(request)).unwrap();
    }
    let mut changes = EffectChanges::default();
    let mut own = OwnEffects { committed: &committed, changes: &mut changes };
    assert!(matches!(own.request("new", request(1, 0)), Err(StateFault::Full(_))));
    let mut changes = EffectChanges::default();
    let mut own = OwnEffects { committed: &committed, changes: &mut changes };
    own.request("0", request(1, 0)).unwrap();
    assert!(own.cancel_request("1") && !own.cancel_request("1"));
    own.request("new", request(1, 0)).unwrap();
    assert_eq!(own.open_requests().len(), limits::REQUESTS_MAX);
    for _ in 2..limits::REQUESTS_PER_MESSAGE_MAX {
        own.request("new", request(1, 0)).unwrap();
    }
    assert!(matches!(own.request("new", request(1, 0)), Err(StateFault::Limit(_))));
    // What a message alone asks for is not too much only for now.
    let (committed, mut changes) = (Effects::default(), EffectChanges::default());
    let mut own = OwnEffects { committed: &committed, changes: &mut changes };
    let half = limits::REQUESTS_BYTES_MAX / 2;
    own.request("a", request(1, half)).unwrap();
    assert!(matches!(own.request("b", request(1, half)), Err(StateFault::Limit(_))));
}

/// Answers whose handler fails them would be in memory together, however many there are; or the largest that there is
/// could never be given up, and be tried for ever.
#[test]
fn what_a_handler_fails_is_bounded_and_can_be_given_up() {
    let mut effects = Effects::default();
    let most = limits::ANSWER_BYTES_MAX as usize;
    for n in 0..10 {
        let kept = effects.kept(answer(most));
        effects.change(Name::Answer(n.to_string()), Some(Effect::Answer(kept.into()))).unwrap();
    }
    assert!(effects.requests.bytes <= limits::REQUESTS_BYTES_MAX + 10 * 1_024);
    let kept = effects.kept(answer(most));
    let http::Outcome::Failure(failure) = &kept.outcome else { panic!("{kept:?}") };
    assert_eq!((&*failure.code, failure.response.as_ref().unwrap().status), ("too-large", 200));
    let why = Refusal { code: "c".into(), reason: "r".into(), retriable: false };
    let dead = Effect::DeadAnswer(GivenUp::new(answer(most), &why, 1).into());
    assert!(effects.has_room_for(&dead));
    effects.change(Name::DeadAnswer("a".into(), 1), Some(dead.clone())).unwrap();
    assert!(!effects.has_room_for(&dead));
}

/// A session that takes no more messages would be sent some all the same; or what it has sent be lost.
#[test]
fn what_leads_to_messages_ends_with_a_close() {
    let to = SessionKey::parse("s", "y").unwrap();
    let place = Place { to: 0, number: Number { term: 1, index: 1 } };
    let asks = Outgoing { content: Content::Message { reply: Some("r".into()) }, ..message(&to) };
    let refusal = Refusal { code: "c".into(), reason: "r".into(), retriable: true };
    let outcome: Outcome = asks.outcome(refusal, 1).unwrap();
    let watch = Watch { present: true, next_ms: Some(1), set_by: 1 };
    let ends = [
        named(Name::Timer("t".into()), Effect::Timer(timer(1, 0).into())),
        named(name("a"), Effect::Request(request(1, 0).into())),
        named(Name::Answer("b".into()), Effect::Answer(answer(0).into())),
        named(Name::Outcome(place), Effect::Outcome(outcome.into())),
        named(Name::Watch, Effect::Watch(watch)),
    ];
    let stays = [
        named(Name::Outgoing(place), Effect::Outgoing(asks.clone().into())),
        named(Name::Waiting(place), Effect::Outgoing(asks.into())),
        named(Name::Expiry, Effect::Expiry(Expiry { at_ms: 9, set_by: 1 })),
        named(Name::Dead("d".into(), 1), Effect::Dead(dead("d", 1).into())),
    ];
    let mut committed = Effects::default();
    for (name, effect) in ends.iter().chain(&stays) {
        committed.change(name.clone(), Some(effect.clone())).unwrap();
    }
    let mut changes = EffectChanges::default();
    let mut own = OwnEffects { committed: &committed, changes: &mut changes };
    // Whatever comes first.
    own.schedule("new", timer(1, 0)).unwrap();
    own.close(Closed { by: 1 });
    own.request("new", request(1, 0)).unwrap();
    let mut numbers = Numbers { slot_count: 1, last: Number::default() };
    let (written, caused) = changes.merge(&mut committed, &mut numbers).unwrap();
    assert_eq!(written.len(), ends.len() + 1);
    assert_eq!(caused, [crate::effects::Caused::Closed]);
    assert!(committed.is_closed());
    let left: Vec<_> = committed.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(left.len(), stays.len() + 1);
    assert!(stays.iter().all(|(name, _)| left.contains(name)));
}
