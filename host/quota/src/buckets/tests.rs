use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

fn limits(text: &str) -> Limits {
    toml::from_str(text).unwrap()
}

fn buckets(policy: &[(&str, &str)]) -> Buckets {
    let buckets = Buckets::default();
    set(&buckets, policy);
    buckets
}

fn set(buckets: &Buckets, policy: &[(&str, &str)]) {
    let limits: Vec<_> = policy.iter().map(|(name, text)| (*name, limits(text))).collect();
    buckets.set(limits.iter().map(|(name, limits)| (*name, limits)), SECOND);
}

fn asks<'a>(service: &'a str, subject: Option<&'a str>, session: &'a str) -> Asks<'a> {
    Asks { service, subject, session, bytes: 10, key: None }
}

const SECOND: Duration = Duration::from_secs(1);

fn refusal(decision: Decision) -> Option<Refusal> {
    match decision {
        Decision::Refused(refusal) => Some(refusal),
        Decision::Allowed(_) => None,
    }
}

/// One that is refused by one limit and drawn from another would pay for nothing, again each time it retries.
#[test]
fn a_message_that_one_limit_refuses_draws_from_none() {
    let text = "messages = \"100/s\"\n[subject]\nbytes = \"1000/s\"\n[session]\nmessages = \"2/s\"";
    let buckets = buckets(&[("chat", text)]);
    let message = asks("chat", Some("ann"), "one");
    for _ in 0..2 {
        assert!(refusal(buckets.check(&message, SECOND)).is_none());
    }
    for _ in 0..1_000 {
        let refused = refusal(buckets.check(&message, SECOND)).unwrap();
        assert_eq!(refused.limit, Limit { level: Level::Session, what: What::Messages });
        assert_eq!(refused.after, Duration::from_millis(500));
    }
    // Of the service 98 are left, of the subject 980 bytes.
    for session in 0..98 {
        let session = session.to_string();
        assert!(refusal(buckets.check(&asks("chat", Some("ann"), &session), SECOND)).is_none());
    }
    let refused = refusal(buckets.check(&asks("chat", Some("bob"), "another"), SECOND)).unwrap();
    assert_eq!(refused.limit.as_str(), "service-messages");
    assert_eq!(refused.to_string(), "over the limit service-messages; retry after 1 s");
    assert_eq!(buckets.refused(), 1_001);
}

/// A client whose answer was lost could not find out what became of its message, for as long as others use up the rate.
#[test]
fn a_repeat_of_a_message_that_was_let_through_is_let_through_once() {
    let buckets = buckets(&[("chat", "messages = \"1/s\"")]);
    let message = |key| Asks { key: Some(key), ..asks("chat", None, "one") };
    assert!(refusal(buckets.check(&message("first"), SECOND)).is_none());
    assert!(refusal(buckets.check(&message("second"), SECOND)).is_some());
    assert!(refusal(buckets.check(&message("first"), SECOND)).is_none(), "a repeat");
    assert!(refusal(buckets.check(&message("first"), SECOND)).is_some(), "a flood of them");
    assert!(
        refusal(buckets.check(&message("second"), SECOND)).is_some(),
        "it was never let through"
    );
    assert_eq!(buckets.refused(), 3);
    // It drew nothing.
    assert!(refusal(buckets.check(&message("second"), 2 * SECOND)).is_none());
}

/// Who stays within a limit for an hour could send all of that once more in a second; and a key of one byte would let a
/// large body past the limit of bytes.
#[test]
fn repeats_can_not_be_saved_up() {
    let buckets = buckets(&[("chat", "messages = \"10/s\"\nbytes = \"1KiB/s\"")]);
    let message = |key, bytes| Asks { key: Some(key), bytes, ..asks("chat", None, "one") };
    let keys: Vec<_> = (0..3_600).map(|n| n.to_string()).collect();
    let mut now = SECOND;
    for key in &keys {
        assert!(refusal(buckets.check(&message(key, 1), now)).is_none());
        now += SECOND / 10;
    }
    // Nothing is left, but for repeats.
    while refusal(buckets.check(&asks("chat", None, "one"), now)).is_none() {}
    let passes = |bytes| {
        let all = keys.iter().map(|key| buckets.check(&message(key, bytes), now));
        all.filter(|decision| refusal(*decision).is_none()).count()
    };
    assert_eq!(passes(1 << 20), 0);
    let repeats = passes(1);
    assert!(
        (500..=620).contains(&repeats),
        "{repeats}: a minute's, less those whose place was taken"
    );
    assert_eq!(passes(1), 0);
}

/// Whoever names services that there are not would use up the buckets of those that there are.
#[test]
fn a_service_that_is_none_has_no_buckets() {
    let buckets = buckets(&[("*", "messages = \"1/s\"")]);
    for name in 0..10_000 {
        let name = name.to_string();
        for _ in 0..2 {
            let decision = buckets.check_if(&asks(&name, None, "one"), SECOND, || false);
            assert_eq!(decision, Decision::Allowed(None));
        }
    }
    for service in ["chat", "board"] {
        assert!(refusal(buckets.check(&asks(service, None, "one"), SECOND)).is_none());
        let again = buckets.check_if(&asks(service, None, "one"), SECOND, || false);
        assert!(refusal(again).is_some(), "it is known");
    }
}

#[test]
fn each_subject_and_each_service_has_buckets_of_its_own() {
    let buckets = buckets(&[
        ("*", "[subject]\nmessages = \"1/s\""),
        ("free", ""),
        ("two", "messages = \"2/s\""),
    ]);
    assert!(refusal(buckets.check(&asks("a", Some("ann"), "s"), SECOND)).is_none());
    assert!(refusal(buckets.check(&asks("a", Some("ann"), "s"), SECOND)).is_some());
    assert!(refusal(buckets.check(&asks("a", Some("bob"), "s"), SECOND)).is_none());
    assert!(refusal(buckets.check(&asks("b", Some("ann"), "s"), SECOND)).is_none());
    for _ in 0..100 {
        let nobody = asks("a", None, "s");
        assert_eq!(buckets.check(&nobody, SECOND), Decision::Allowed(None), "nobody has no limit");
        assert_eq!(buckets.check(&asks("free", Some("ann"), "s"), SECOND), Decision::Allowed(None));
    }
    let Decision::Allowed(Some(left)) = buckets.check(&asks("two", None, "s"), SECOND) else {
        panic!("it is limited and not at its limit");
    };
    assert_eq!((left.limit.as_str(), left.remaining), ("service-messages", 1));
    assert_eq!(left.full_in, SECOND / 2);
}

/// A policy is read again whenever its file changes: one who is at his limit would have a burst more each time.
#[test]
fn a_new_policy_does_not_fill_the_buckets() {
    let buckets = buckets(&[("chat", "messages = \"2/s\""), ("*", "messages = \"1/s\"")]);
    for _ in 0..2 {
        assert!(refusal(buckets.check(&asks("chat", None, "s"), SECOND)).is_none());
    }
    assert!(refusal(buckets.check(&asks("other", None, "s"), SECOND)).is_none());
    set(&buckets, &[("chat", "messages = \"4/s\""), ("*", "messages = \"1/s\"")]);
    // It has used all of a second: at the new rate, too.
    assert!(refusal(buckets.check(&asks("chat", None, "s"), SECOND)).is_some());
    assert!(refusal(buckets.check(&asks("other", None, "s"), SECOND)).is_some());
    set(&buckets, &[]);
    assert_eq!(buckets.check(&asks("chat", None, "s"), SECOND), Decision::Allowed(None));
    assert_eq!(buckets.policy_header("chat"), None);
}

/// A typing error of an operator would keep everybody out for an hour after he has mended it.
#[test]
fn a_rate_that_was_wrong_is_not_owed_when_it_is_right() {
    let wrong = "messages = \"1/h\"\nguest_time = \"1ms/h\"\n[subject]\nmessages = \"1/h\"\n[session]\nbytes = \"1/h\"";
    let right = "messages = \"1000/s\"\nguest_time = \"1s/s\"\n[subject]\nmessages = \"100/s\"\n[session]\nbytes = \"1KiB/s\"";
    let buckets = buckets(&[("chat", wrong), ("*", wrong)]);
    for service in ["chat", "other"] {
        let message = asks(service, Some("ann"), "s");
        assert!(refusal(buckets.check(&message, SECOND)).is_none());
        buckets.spent(&message, SECOND, SECOND);
    }
    let after = |service| {
        let refused = refusal(buckets.check(&asks(service, Some("ann"), "s"), SECOND));
        refused.map(|refused| refused.after)
    };
    set(&buckets, &[("chat", wrong), ("*", wrong), ("new", right)]);
    for service in ["chat", "other"] {
        assert!(after(service) > Some(600 * SECOND), "nothing is forgiven where nothing changes");
    }
    // `other` has limits of its own now, and had those of all.
    set(&buckets, &[("chat", right), ("other", right), ("*", right)]);
    for service in ["chat", "other"] {
        let after = after(service).expect("no bucket is filled");
        assert!(after <= SECOND / 50, "{service}: {after:?}");
    }
}

#[test]
fn guest_time_is_drawn_when_it_is_known_and_paid_back_before_the_next_message() {
    let text = "guest_time = \"500ms/s\"\n[session]\nguest_time = \"100ms/s\"";
    let buckets = buckets(&[("spin", text)]);
    let one = asks("spin", None, "one");
    assert!(refusal(buckets.check(&one, SECOND)).is_none());
    buckets.spent(&one, Duration::from_millis(300), SECOND);
    let refused = refusal(buckets.check(&one, SECOND)).unwrap();
    assert_eq!(refused.limit.as_str(), "session-guest-time");
    // Three seconds of its rate, of which one is its burst.
    assert_eq!(refused.after.as_millis(), 2_000);
    let another = asks("spin", None, "another");
    assert!(refusal(buckets.check(&another, SECOND)).is_none(), "the service has 200 ms left");
    buckets.spent(&another, Duration::from_millis(201), SECOND);
    let refused = refusal(buckets.check(&asks("spin", None, "third"), SECOND)).unwrap();
    assert_eq!(refused.limit.as_str(), "service-guest-time");
    assert!(refusal(buckets.check(&one, SECOND + refused.after)).is_some());
    assert!(refusal(buckets.check(&one, 3 * SECOND + Duration::from_micros(1))).is_none());
    // A debt has an end.
    buckets.spent(&one, Duration::from_secs(1_000_000), 3 * SECOND);
    let refused = refusal(buckets.check(&one, 3 * SECOND)).unwrap();
    assert!(refused.after <= limits::GUEST_DEBT_MAX + Duration::from_millis(1));
}

/// Names of services come from clients: each of a million would have tables of its own.
#[test]
fn services_that_are_not_in_the_policy_share_a_bounded_number_of_buckets() {
    let buckets = buckets(&[("*", "messages = \"1/s\"")]);
    let allowed = (0..100_000)
        .filter(|n| refusal(buckets.check(&asks(&n.to_string(), None, "s"), SECOND)).is_none())
        .count();
    // Each place is taken, in whatever shard, and those beyond share one bucket.
    assert_eq!(allowed, limits::REST_SERVICES_MAX + 1);
    let policy = buckets.policy.load();
    let states = &policy.rest.as_ref().unwrap().states;
    let held: usize = states.shards.iter().map(|shard| shard.lock().len()).sum();
    assert_eq!(held, limits::REST_SERVICES_MAX);
}

/// Two threads that look before either draws would both pass.
#[test]
fn threads_together_get_no_more_than_one() {
    let text = "messages = \"1000/s\"\n[session]\nmessages = \"400/s\"";
    let (buckets, allowed) = (buckets(&[("chat", text)]), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (buckets, allowed) = (&buckets, &allowed);
            scope.spawn(move || {
                for n in 0..2_000 {
                    let session = ((thread + n) % 3).to_string();
                    if refusal(buckets.check(&asks("chat", None, &session), SECOND)).is_none() {
                        allowed.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(allowed.into_inner(), 1_000);
}

proptest! {
    /// Whoever waits as long as he is told is let through: else a client that does as it is told would never be served.
    #[test]
    fn who_waits_as_long_as_told_is_let_through(
        steps in prop::collection::vec((0u64..400, 0usize..3, 0usize..3, 1u64..3_000, 0u64..80), 1..200),
    ) {
        let text = "messages = \"40/s\"\nbytes = \"4KiB/s\"\nburst = \"500ms\"\nguest_time = \"200ms/s\"\n\
                    [subject]\nmessages = \"20/s\"\n[session]\nbytes = \"2KiB/s\"\nguest_time = \"100ms/s\"";
        let buckets = buckets(&[("chat", text)]);
        let names = ["a", "b", "c"];
        let mut now = SECOND;
        for (pause, subject, session, bytes, guest) in steps {
            now += Duration::from_millis(pause);
            let asks = Asks { service: "chat", subject: Some(names[subject]), session: names[session], bytes, key: None };
            if let Decision::Refused(refused) = buckets.check(&asks, now) {
                prop_assert!(refused.after > Duration::ZERO);
                let early = now + refused.after - Duration::from_nanos(1);
                prop_assert!(refusal(buckets.check(&asks, early)).is_some(), "told to wait for too long");
                now += refused.after;
                prop_assert!(refusal(buckets.check(&asks, now)).is_none(), "{refused:?}");
            }
            buckets.spent(&asks, Duration::from_millis(guest), now);
        }
    }
}
