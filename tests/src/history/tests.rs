//! Tests of the checker: valid histories pass, and each kind of violation is found.

use super::{
    Kind, check,
    generate::{good, spoil},
};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// All kinds; does not compile if one is missing.
macro_rules! kinds {
    ($($kind:ident),+ $(,)?) => {{
        const fn _all(kind: Kind) {
            match kind { $(Kind::$kind)|+ => {} }
        }
        [$(Kind::$kind),+]
    }};
}

const KINDS: [Kind; 18] = kinds![
    Lost,
    Moved,
    Doubled,
    Resurrected,
    Foreign,
    Gap,
    OutOfOrder,
    AppliedTwice,
    RepeatDiffers,
    ReplyDiffers,
    Miscounted,
    StaleRead,
    Ahead,
    TornRead,
    Changed,
    EventGap,
    EventRepeat,
    EventsMissing,
];

/// Without it, a kind of violation that the checker misses would be missed in every test of the
/// cluster.
#[test]
fn every_kind_of_violation_is_found() {
    for kind in KINDS {
        let mut spoiled = 0;
        for seed in 0..20 {
            let mut history = good(seed, 200);
            if spoil(&mut history, kind, seed).is_none() {
                continue;
            }
            spoiled += 1;
            let report = check(&history);
            let found = report.violations.iter().any(|violation| violation.kind == kind);
            assert!(found, "{kind:?} was planted (seed {seed}), but: {report}");
        }
        assert!(spoiled > 10, "{kind:?} could be planted in {spoiled} of 20 histories only");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Without it, a run of the cluster could fail although nothing is wrong; then nobody would
    /// trust the checker when something is.
    #[test]
    fn a_good_history_is_good(seed: u64, calls in 0_usize..300) {
        let report = check(&good(seed, calls));
        prop_assert!(report.good(), "{report}");
    }

    /// Without it, a violation might only be found where the tests above put it.
    #[test]
    fn a_spoiled_history_is_not(seed: u64, calls in 1_usize..100, kind in 0..KINDS.len()) {
        let (mut history, kind) = (good(seed, calls), KINDS[kind]);
        if spoil(&mut history, kind, seed).is_some() {
            let report = check(&history);
            let found = report.violations.iter().any(|violation| violation.kind == kind);
            prop_assert!(found, "{kind:?} was planted, but: {report}");
        }
    }
}

/// Without it, a quadratic checker would make it impossible to check long runs.
#[test]
fn a_long_history_is_judged_soon() {
    let history = good(7, 300_000);
    let started = Instant::now();
    let report = check(&history);
    let took = started.elapsed();
    println!("{report}, judged in {took:?}");
    assert!(report.good(), "{report}");
    assert!(report.acknowledged > 100_000);
    // Ten times what a debug build needs; a quadratic one needs hours.
    assert!(took < Duration::from_secs(30), "{took:?}");
}
