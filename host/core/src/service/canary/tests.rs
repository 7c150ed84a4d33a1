//! The plan of a canary, its statistics, and what it makes of a service.
#![allow(clippy::unwrap_used)]

use super::{
    counts::{Counts, Fault, Trials},
    plan::{Next, Sight, next},
    verdict::{binomial, fisher, ranks},
    *,
};
use crate::{
    names::{ServiceName, SessionId},
    plugin::Failure,
};
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::SmallRng};
use std::time::Duration;

fn name() -> ServiceName {
    ServiceName::parse("chat").unwrap()
}

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn at(now_ms: u64) -> Change {
    Change { now_ms, ..Change::default() }
}

fn running(digests: &[u8]) -> Service {
    let mut service = None;
    for n in digests {
        let next = Service::deployed(service.as_ref(), &name(), Some("1.0.0"), digest(*n), &at(1));
        service = next.unwrap();
    }
    service.unwrap()
}

fn tried(service: &Service, n: u8) -> Service {
    let options = CanaryOptions { pause_ms: 1_000, ..CanaryOptions::default() };
    service.with_canary(Some("2.0.0"), digest(n), &at(7), &options, 512).unwrap().unwrap()
}

fn canary() -> Canary {
    tried(&running(&[1]), 2).canary.unwrap()
}

proptest! {
    /// A slot would run the old version again at a later step, or a step would have no slot, or not those that it says.
    #[test]
    fn each_step_has_the_slots_of_the_one_before(
        seed: u64,
        count in 1u16..=4096,
        mut steps in proptest::collection::vec(1u16..=1000, 2..5),
    ) {
        steps.sort_unstable();
        let mut before: Vec<SlotId> = Vec::new();
        for step in steps {
            let share = Share::new(seed, count, step);
            let slots: Vec<SlotId> = (0..count).filter(|slot| share.has(*slot)).collect();
            let expected = (u32::from(count) * u32::from(step)).div_ceil(1000);
            prop_assert_eq!(slots.len() as u32, expected);
            prop_assert!(slots.len() == usize::from(share.slots()) && !slots.is_empty());
            prop_assert!(before.iter().all(|slot| slots.contains(slot)));
            before = slots;
        }
    }

    /// The tests would alarm for nothing, or not at all.
    #[test]
    fn the_tests_are_exact(k1 in 0u64..12, m1 in 0u64..12, k2 in 0u64..12, m2 in 0u64..12, p in 0.01f64..0.9) {
        let choose = |n: u64, k: u64| (0..k).fold(1.0, |all, i| all * (n - i) as f64 / (i + 1) as f64);
        let (n1, n2) = (k1 + m1, k2 + m2);
        let (k, n) = (k1 + k2, n1 + n2);
        let exact: f64 = (k2..=k.min(n2))
            .filter(|x| n2 - x <= n - k)
            .map(|x| choose(k, x) * choose(n - k, n2 - x) / choose(n, n2))
            .sum();
        prop_assert!((fisher(k1, n1, k2, n2) - exact).abs() < 1e-6);
        let exact: f64 = (k2..=n2)
            .map(|x| choose(n2, x) * p.powi(x as i32) * (1.0 - p).powi((n2 - x) as i32))
            .sum();
        prop_assert!((binomial(k2, n2, p) - exact).abs() < 1e-6);
    }
}

/// A service under load, as a look each second sees it.
struct Simulated {
    rng: SmallRng,
    canary: Canary,
    sight: Sight,
}

impl Simulated {
    fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), canary: canary(), sight: Sight::default() }
    }

    /// So many messages of each version, each going wrong with its chance, and a look.
    fn second(&mut self, [before, own]: [(u64, f64); 2]) -> Next {
        for (counts, (messages, chance)) in
            [(&mut self.sight.before, before), (&mut self.sight.canary, own)]
        {
            for _ in 0..messages {
                counts.messages += 1;
                if self.rng.random_bool(chance) {
                    counts.went_wrong(Fault::Trap, self.rng.next_u64());
                }
            }
        }
        let (found, looked) = next(&self.canary, &self.sight);
        self.sight.looked = looked;
        found
    }

    /// Whether it goes back within so many seconds.
    fn goes_back(&mut self, seconds: u64, versions: [(u64, f64); 2]) -> bool {
        self.sight.now_ms = self.canary.since_ms;
        (0..seconds).any(|_| matches!(self.second(versions), Next::GoBack(_)))
    }
}

/// A good version would be sent back by chance: one in a thousand steps may be, however long it takes and however
/// often it is looked at.
#[test]
fn a_version_that_is_no_worse_is_seldom_sent_back() {
    let mut alarms = 0;
    let mut trials = 0;
    for (seed, chance) in [0.001, 0.02, 0.3].into_iter().enumerate() {
        for trial in 0..400 {
            let mut simulated = Simulated::new((seed as u64) << 32 | trial);
            trials += 1;
            alarms += u32::from(simulated.goes_back(40, [(400, chance), (40, chance)]));
        }
    }
    assert!(alarms <= 3, "{alarms} of {trials}");
}

/// A version that traps would go on to all slots.
#[test]
fn a_version_that_fails_is_sent_back() {
    let mut found = 0;
    for trial in 0..100 {
        let mut simulated = Simulated::new(trial);
        found += u32::from(simulated.goes_back(50, [(200, 0.001), (10, 0.05)]));
    }
    assert!(found >= 95, "{found} of 100");
    // One that fails at everything: at the first look.
    let mut simulated = Simulated::new(1);
    assert!(simulated.goes_back(1, [(200, 0.0), (16, 1.0)]));
    // One of a hundred, in as many messages as are waited for.
    let mut found = 0;
    for trial in 0..100 {
        let mut simulated = Simulated::new(trial);
        found += u32::from(simulated.goes_back(64, [(800, 0.0), (32, 0.01)]));
    }
    assert!(found >= 95, "{found} of 100");
}

/// A client that tries again and again would send a good version back; nor may that version go on as if nothing were.
#[test]
fn one_session_alone_condemns_nothing_and_holds_it() {
    let mut simulated = Simulated::new(1);
    let canary = simulated.canary.clone();
    simulated.second([(10_000, 0.0), (600, 0.0)]);
    for _ in 0..300 {
        simulated.sight.canary.went_wrong(Fault::Trap, 7);
    }
    let mut sight = simulated.sight;
    sight.now_ms = canary.since_ms + canary.pause_ms;
    let (found, _) = next(&canary, &sight);
    assert_eq!(found, Next::Wait("one or two sessions fail more often"));
    sight.now_ms += limits::CANARY_PATIENCE.as_millis() as u64;
    let (found, _) = next(&canary, &sight);
    assert!(matches!(&found, Next::Hold(why) if why.contains("sessions")), "{found:?}");
    // Others have the same.
    for session in [8, 9] {
        sight.canary.went_wrong(Fault::Trap, session);
    }
    let Next::GoBack(verdict) = next(&canary, &sight).0 else { panic!() };
    let expected = "traps: 302 of 600 messages, against 0 of 10000 of the version before";
    assert_eq!((verdict.good, &*verdict.reasons), (false, &[expected.to_owned()][..]));
}

/// It would go on with nothing seen, or past slots that run the old version, or never.
#[test]
fn it_goes_on_when_there_was_time_and_enough_was_seen() {
    let canary = canary();
    let (since, pause) = (canary.since_ms, canary.pause_ms);
    let sight = |now_ms, before, own, behind| Sight {
        now_ms,
        before: Counts { messages: before, ..Counts::default() },
        canary: Counts { messages: own, ..Counts::default() },
        behind,
        looked: None,
    };
    let of = |sight| next(&canary, &sight).0;
    let wait = |why| Next::Wait(why);
    assert_eq!(of(sight(since, 900, 900, 0)), wait("its pause is not over"));
    assert_eq!(of(sight(since + pause, 900, 499, 0)), wait("too few messages"));
    assert_eq!(of(sight(since + pause, 0, 900, 0)), wait("too few messages"));
    let behind = wait("not all slots have switched, or a node does not answer");
    assert_eq!(of(sight(since + pause, 900, 500, 1)), behind);
    assert!(matches!(of(sight(since + pause, 900, 500, 0)), Next::Step(verdict) if verdict.good));
    let patience = limits::CANARY_PATIENCE.as_millis() as u64;
    let held = of(sight(since + pause + patience, 900, 499, 0));
    assert!(matches!(&held, Next::Hold(why) if why.contains("499 of 500")), "{held:?}");
    // A clock that is behind that of who began the step.
    assert_eq!(of(sight(since - 5, 900, 900, 0)), wait("its pause is not over"));
    // Held by hand it does not go on, and goes back all the same.
    let held = Canary { wanted: Wanted::Held, ..canary.clone() };
    let mut sight = sight(since + pause, 900, 500, 0);
    assert_eq!(next(&held, &sight).0, wait("it is held"));
    for session in 0..100 {
        sight.canary.went_wrong(Fault::Deadline, session);
    }
    assert!(matches!(next(&held, &sight).0, Next::GoBack(_)));
}

/// With no slot left of the version before, everything would be as good as it.
#[test]
fn the_last_step_is_compared_with_what_was_seen_before() {
    let mut service = tried(&running(&[1]), 2);
    let counted = |messages, wrong| {
        let mut counts = Counts { messages, ..Counts::default() };
        (0..wrong).for_each(|session| counts.went_wrong(Fault::Rejection, session));
        counts
    };
    for step in 0..4u8 {
        let canary = service.canary.clone().unwrap();
        assert_eq!((canary.step, canary.has_all()), (step, step == 3));
        let before = if canary.has_all() { Counts::default() } else { counted(20_000, 20) };
        let now_ms = canary.since_ms + canary.pause_ms;
        let sight = Sight { now_ms, before, canary: counted(2_000, 2), ..Sight::default() };
        let bad = Sight { canary: counted(2_000, 60), ..sight.clone() };
        assert!(matches!(next(&canary, &bad).0, Next::GoBack(_)), "step {step}");
        match next(&canary, &sight).0 {
            Next::Step(verdict) if step < 3 => {
                service = service.with_next_step(verdict, now_ms).unwrap();
            }
            Next::Promote(verdict) if step == 3 => {
                let why = "good".to_owned();
                service = service.with_canary_promoted(why, Some(verdict), None, now_ms).unwrap();
            }
            other => panic!("{step}: {other:?}"),
        }
    }
    assert_eq!((service.target().id(), service.generation, &*service.previous), (2, 6, &[1][..]));
    let canary = service.canary.as_ref().unwrap();
    assert_eq!((canary.wanted, canary.verdicts.len()), (Wanted::Promoted, 4));
    assert!(service.target().canary().is_none());
    let back = service.rolled_back(None, &Change::default()).unwrap();
    assert_eq!((back.target().id(), &back.canary), (1, &None));
}

/// A version that takes thrice the time would pass, or one that a busy machine makes a little slower would not.
#[test]
fn time_and_memory_are_held_against_a_bound() {
    let canary = canary();
    let sight = |micros: u64, memory: u64| {
        let mut before = Counts { messages: 20_000, memory: 20 << 20, ..Counts::default() };
        before.took(Duration::from_micros(100), 19_000);
        before.took(Duration::from_micros(800), 1_000);
        let mut own = Counts { messages: 2_000, memory, ..Counts::default() };
        own.took(Duration::from_micros(100), 1_900);
        own.took(Duration::from_micros(micros), 100);
        Sight { now_ms: canary.since_ms, before, canary: own, ..Sight::default() }
    };
    for (micros, memory, bad) in [
        (800, 20 << 20, None),
        (1_200, 30 << 20, None),
        (3_000, 20 << 20, Some("p99")),
        (800, 60 << 20, Some("memory")),
    ] {
        let found = next(&canary, &sight(micros, memory)).0;
        match (&found, bad) {
            (Next::Wait(_), None) => {}
            (Next::GoBack(verdict), Some(why)) if verdict.reasons[0].contains(why) => {}
            _ => panic!("{micros} {memory}: {found:?}"),
        }
    }
    // Of few values nothing is said of their highest.
    assert_eq!(ranks(100, 0.99), [Some(95), Some(99), None]);
    assert_eq!(ranks(0, 0.99), [None; 3]);
}

/// A version that takes over no session would be the service's, with all of them left behind.
#[test]
fn refused_sessions_are_counted_against_a_share() {
    let canary = canary();
    let sight = |migrations, pins: u64| {
        // Those that it refuses send it no messages.
        let mut own = Counts { migrations, ..Counts::default() };
        (0..pins).for_each(|session| own.went_wrong(Fault::Pin, session));
        let before = Counts { messages: 20_000, ..Counts::default() };
        Sight { now_ms: canary.since_ms, before, canary: own, ..Sight::default() }
    };
    assert!(matches!(next(&canary, &sight(1_000, 3)).0, Next::Wait(_)));
    let Next::GoBack(verdict) = next(&canary, &sight(30, 20)).0 else { panic!() };
    assert_eq!(verdict.reasons, ["20 of 30 sessions were not taken over"]);
}

/// Two things would be tried at once, or an operator in a hurry would be given the version before the last.
#[test]
fn what_else_is_done_to_a_service_ends_its_canary_or_waits() {
    let service = running(&[1, 2]);
    let tried = tried(&service, 3);
    assert_eq!((tried.target().id(), tried.generation, &*tried.previous), (2, 3, &[1][..]));
    let other = Service::deployed(Some(&tried), &name(), None, digest(4), &at(9));
    let error = other.unwrap_err();
    assert!(error.code == Code::SwapInProgress && error.detail.contains("--abort"), "{error}");
    let options = CanaryOptions::default();
    let other = tried.with_canary(None, digest(4), &at(9), &options, 512);
    assert_eq!(other.unwrap_err().code, Code::SwapInProgress);
    let back = tried.rolled_back(None, &at(9)).unwrap();
    assert_eq!((back.target().id(), back.generation, &*back.previous), (2, 4, &[1][..]));
    assert_eq!(back.canary.as_ref().unwrap().wanted, Wanted::Aborted);
    let same = tried.rolled_back(Some("2"), &at(9)).unwrap();
    assert_eq!(same.canary.as_ref().unwrap().wanted, Wanted::Aborted);
    let further = tried.rolled_back(Some("1"), &at(9)).unwrap();
    assert_eq!((further.target().id(), &further.canary), (1, &None));
    let removed = tried.removed(&at(9));
    assert!(removed.target().is_removal() && removed.live_canary().is_none());
    // After its end there is nothing to change, and all else goes on.
    assert_eq!(back.with_canary_held(None).unwrap_err().code, Code::DeploymentNotFound);
    assert!(Service::deployed(Some(&back), &name(), None, digest(4), &at(9)).unwrap().is_some());
    // What runs already is not tried, and what runs nothing has nothing to compare it with.
    assert!(service.with_canary(None, digest(2), &at(9), &options, 512).unwrap().is_none());
    let none = removed.with_canary(None, digest(2), &at(9), &options, 512);
    assert_eq!(none.unwrap_err().code, Code::RequestInvalid);
    let held = tried.with_canary_held(Some("by hand".into())).unwrap();
    assert!(held.live_canary().is_some() && held.generation == 4);
    let on = held.with_canary_resumed(99).unwrap().canary.unwrap();
    assert_eq!((on.wanted, on.why, on.since_ms), (Wanted::Running, None, 99));
}

#[test]
fn steps_rise_to_all_slots() {
    let of = |steps: &[u16]| CanaryOptions { steps: steps.into(), ..CanaryOptions::default() };
    assert_eq!(of(&[10, 500]).checked().unwrap().steps, [10, 500, 1000]);
    assert_eq!(of(&[10, 1000]).checked().unwrap().steps, [10, 1000]);
    for steps in [&[][..], &[0, 10], &[500, 10], &[10, 10], &[1000], &[10, 1001], &[10; 30]] {
        assert!(of(steps).checked().is_err(), "{steps:?}");
    }
    let rising: Vec<u16> = (1..40).collect();
    assert!(of(&rising).checked().unwrap_err().contains("20 steps"));
    for messages in [0, 19, u64::MAX] {
        assert!(CanaryOptions { messages, ..CanaryOptions::default() }.checked().is_err());
    }
    assert!(CanaryOptions { pause_ms: u64::MAX, ..CanaryOptions::default() }.checked().is_err());
}

/// A service's record of before is one without a canary, and one of this version is read as it was written.
#[test]
fn what_is_kept_is_read() {
    let plain = running(&[1]);
    let kept = serde_json::to_value(&plain).unwrap();
    assert!(kept.get("canary").is_none());
    assert_eq!(serde_json::from_value::<Service>(kept).unwrap(), plain);
    let digest = "07".repeat(32);
    let kept = format!(
        r#"{{"name": "chat", "generation": 4, "current": 1, "previous": [], "deployments": [
            {{"id": 1, "version": "1.0.0", "digest": "{digest}", "label": "1.0.0+07", "deployed_ms": 7}},
            {{"id": 2, "version": "2.0.0", "digest": "{digest}", "label": "2.0.0+07", "deployed_ms": 8}}],
            "canary": {{"deployment": 2, "before": 1, "begun": 3, "slot_count": 512, "steps": [10, 1000], "step": 1,
            "started_ms": 8, "since_ms": 9, "pause_ms": 300000, "messages": 500, "wanted": "running", "verdicts": [
            {{"step": 0, "at_ms": 9, "good": true, "before": {{"messages": 7}}, "canary": {{"messages": 8}}}}]}}}}"#
    );
    let service: Service = serde_json::from_str(&kept).unwrap();
    let canary = service.live_canary().unwrap();
    assert!(canary.has_all() && canary.verdicts[0].before.messages == 7);
    let again = serde_json::to_vec(&service).unwrap();
    assert_eq!(serde_json::from_slice::<Service>(&again).unwrap(), service);
}

/// Messages of another version, or of a step that is over, would be counted as this one's.
#[test]
fn a_step_counts_its_own() {
    let trials = Trials::default();
    let session = |n: u32| SessionId::parse(&format!("s{n}")).unwrap();
    let service = tried(&running(&[1]), 2);
    assert!(trials.of(&name()).is_none());
    trials.follow(&service);
    let trial = trials.of(&name()).unwrap();
    let trap = Failure::Trapped("no".into());
    for n in 0..20 {
        trial.called(2, &session(n), Some(Duration::from_micros(100)), Err(&trap));
        trial.called(1, &session(n), Some(Duration::from_micros(100)), Ok(()));
        trial.called(9, &session(n), None, Err(&trap));
        // Says nothing of the version.
        trial.called(2, &session(n), None, Err(&Failure::Crowded("no".into())));
        trial.migrated(2, &session(n), n % 2 == 0);
    }
    let [before, own] = trial.counts();
    let (before, seen) = (before.seen(), own.seen());
    assert_eq!((before.messages, before.traps), (20, 0));
    assert_eq!((seen.messages, seen.traps, seen.migrations, seen.pins), (20, 20, 20, 10));
    assert!((100..130).contains(&seen.p99_us), "{seen:?}");
    assert_eq!(own.faults[&Fault::Trap].sessions(), limits::CANARY_SESSIONS_NOTED);
    // What other nodes have counted adds up, whatever they say.
    let mut sum = own.clone();
    sum.add(&own);
    sum.add(
        &serde_json::from_str(
            r#"{"messages": 1, "migrations": 0, "faults": {}, "times": [], "memory": 5}"#,
        )
        .unwrap(),
    );
    assert_eq!((sum.messages, sum.memory, sum.seen().traps), (41, 5, 40));
    assert_eq!(sum.faults[&Fault::Trap].sessions(), limits::CANARY_SESSIONS_NOTED);
    // The same step goes on, another one begins at nothing, and none is counted after the end.
    trials.follow(&service.with_canary_held(None).unwrap());
    assert_eq!(trials.of(&name()).unwrap().counts()[1].messages, 20);
    let verdict = |canary: &Canary| Verdict {
        step: canary.step,
        at_ms: 0,
        good: true,
        before: before.clone(),
        canary: seen.clone(),
        reasons: Vec::new(),
        left: None,
        unknown: Unknown::default(),
    };
    let second = service.with_next_step(verdict(service.canary.as_ref().unwrap()), 9).unwrap();
    trials.follow(&second);
    assert_eq!(trials.of(&name()).unwrap().counts()[1].messages, 0);
    trials.follow(&service);
    assert!(trials.at(&name(), second.canary.as_ref().unwrap().trial()).is_some());
    trials.follow(&second.with_canary_aborted("no".into(), None).unwrap());
    assert!(trials.of(&name()).is_none());
}
