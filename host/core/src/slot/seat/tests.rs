use super::*;
use proptest::{prelude::*, test_runner::RngSeed};

/// What may happen, by how far back the task or the seal is that it is about.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Opened(u64, Term),
    Stopping(u64),
    Ended(u64, TaskEnd),
    Noted(u64),
    Seal,
    SealRefused(u64),
    Unseal(u64),
    Owns(u8, Term),
    Denied(u8, Option<u8>, Term),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Mostly of the latest.
    let back = || prop_oneof![6 => Just(0_u64), 2 => Just(1), 1 => 2..5_u64];
    let (term, peer) = (|| 0..12_u64, || 0..3_u8);
    let end = prop_oneof![
        Just(TaskEnd::InOrder),
        any::<bool>().prop_map(|silent| TaskEnd::Failed { silent })
    ];
    let step = prop_oneof![
        3 => Just(Step::Open),
        3 => (back(), term()).prop_map(|(task, term)| Step::Opened(task, term)),
        1 => back().prop_map(Step::Stopping),
        2 => (back(), end).prop_map(|(task, end)| Step::Ended(task, end)),
        1 => back().prop_map(Step::Noted),
        2 => Just(Step::Seal),
        1 => back().prop_map(Step::SealRefused),
        1 => back().prop_map(Step::Unseal),
        2 => (peer(), term()).prop_map(|(peer, term)| Step::Owns(peer, term)),
        2 => (peer(), prop::option::of(peer()), term())
            .prop_map(|(by, owner, term)| Step::Denied(by, owner, term)),
    ];
    prop::collection::vec(step, 0..60)
}

fn peers() -> [Arc<str>; 3] {
    ["a", "b", "c"].map(Into::into)
}

/// The task and the seal that a phase is about.
fn about(phase: SeatPhase) -> (Option<TaskId>, Option<SealId>) {
    match phase {
        SeatPhase::Vacant { .. } => (None, None),
        SeatPhase::Opening { task, .. }
        | SeatPhase::Serving { task, .. }
        | SeatPhase::Stopping { task, .. }
        | SeatPhase::Failed { task } => (Some(task), None),
        SeatPhase::Sealing { task, seal, .. } => (Some(task), Some(seal)),
        SeatPhase::Sealed { task, seal, .. } => (task, Some(seal)),
    }
}

/// Whatever has happened, the slot can be opened again once its task has ended and time is up.
fn can_be_opened(mut seat: Seat) -> bool {
    if let (_, Some(seal)) = about(seat.phase) {
        seat.on(SeatEvent::Unseal { seal });
    }
    if let (Some(task), _) = about(seat.phase) {
        seat.on(SeatEvent::Ended { task, end: TaskEnd::Failed { silent: false } });
        seat.on(SeatEvent::Noted { task });
    }
    let Outcome::Spawn(task) = seat.on(SeatEvent::Open) else { return false };
    let term = seat.term + 1;
    seat.on(SeatEvent::Opened { task, term }) == Outcome::Changed && seat.serves() == Some(term)
}

/// Takes a step, and looks at what it has done.
fn check(seat: &mut Seat, step: &Step, latest: &mut TaskId) -> Result<(), TestCaseError> {
    let peers = peers();
    let nth = |back: u64| seat.last.saturating_sub(back);
    let event = match *step {
        Step::Open => SeatEvent::Open,
        Step::Opened(back, term) => SeatEvent::Opened { task: nth(back), term },
        Step::Stopping(back) => SeatEvent::Stopping { task: nth(back) },
        Step::Ended(back, end) => SeatEvent::Ended { task: nth(back), end },
        Step::Noted(back) => SeatEvent::Noted { task: nth(back) },
        Step::Seal => SeatEvent::Seal,
        Step::SealRefused(back) => SeatEvent::SealRefused { seal: nth(back) },
        Step::Unseal(back) => SeatEvent::Unseal { seal: nth(back) },
        Step::Owns(peer, term) => SeatEvent::Owns { peer: &peers[usize::from(peer)], term },
        Step::Denied(by, owner, term) => SeatEvent::Denied {
            by: &peers[usize::from(by)],
            owner: owner.map(|owner| &peers[usize::from(owner)]),
            term,
        },
    };
    let before = seat.clone();
    let outcome = seat.on(event);
    prop_assert!(seat.term >= before.term, "the known term goes back");
    if outcome == Outcome::Nothing {
        prop_assert_eq!(&*seat, &before, "it says that nothing has changed");
    }
    let (task_before, seal_before) = about(before.phase);
    let is_stale = match event {
        SeatEvent::Open | SeatEvent::Seal => false,
        SeatEvent::Opened { task, .. }
        | SeatEvent::Stopping { task }
        | SeatEvent::Ended { task, .. }
        | SeatEvent::Noted { task } => task_before != Some(task),
        SeatEvent::SealRefused { seal } | SeatEvent::Unseal { seal } => seal_before != Some(seal),
        SeatEvent::Owns { term, .. } => term < before.term,
        SeatEvent::Denied { by, term, .. } => {
            term < before.term && before.owner.as_ref() != Some(by)
        }
    };
    prop_assert!(!is_stale || outcome == Outcome::Nothing, "a stale event counts: {:?}", outcome);
    if let Outcome::Spawn(task) = outcome {
        prop_assert_eq!(before.task(), None, "two tasks would take mail");
        prop_assert!(task > before.last);
        *latest = task;
    }
    prop_assert!(seat.task().is_none_or(|task| task == *latest), "an older task takes mail");
    let is_sealed =
        |seat: &Seat| matches!(seat.phase, SeatPhase::Sealing { .. } | SeatPhase::Sealed { .. });
    if is_sealed(&before) && !is_sealed(seat) {
        let refused = matches!(event, SeatEvent::SealRefused { .. })
            && matches!(before.phase, SeatPhase::Sealing { .. })
            && seat.serves().is_some();
        let left = matches!(
            seat.phase,
            SeatPhase::Stopping { .. } | SeatPhase::Vacant { .. } | SeatPhase::Failed { .. }
        );
        prop_assert!(refused || left, "sealed, then {:?}", seat.phase);
    }
    if let SeatEvent::Owns { peer, term } = event
        && term > before.term
        && !seat.alone
    {
        let theirs = Place::Away { owner: Some(peer.clone()), term };
        prop_assert!(seat.place() == theirs || outcome == Outcome::Abandon, "a later term loses");
    }
    let here = seat.alone || matches!(seat.phase, SeatPhase::Serving { .. });
    prop_assert_eq!(seat.place() == Place::Here, here);
    prop_assert!(!seat.alone || !is_sealed(seat));
    prop_assert!(can_be_opened(seat.clone()), "no way out of {:?}", seat.phase);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(20_261_129), cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: one task at a time takes mail, what is late changes nothing,
    /// a later term wins, and the slot can always be opened again.
    #[test]
    fn any_events_leave_a_slot_with_one_task_and_a_way_on(alone in any::<bool>(), steps in steps()) {
        let (mut seat, mut latest) = (Seat::new(alone), 0);
        for step in &steps {
            check(&mut seat, step, &mut latest)?;
        }
    }
}

/// A slot of a cluster that serves, with its task.
fn serving(term: Term) -> (Seat, TaskId) {
    let mut seat = Seat::new(false);
    let Outcome::Spawn(task) = seat.on(SeatEvent::Open) else { panic!("{seat:?}") };
    assert_eq!(seat.on(SeatEvent::Opened { task, term }), Outcome::Changed);
    (seat, task)
}

fn seal(seat: &mut Seat) -> SealId {
    let Outcome::Sealed(seal) = seat.on(SeatEvent::Seal) else { panic!("{seat:?}") };
    assert_eq!(seat.place(), Place::Moving);
    seal
}

/// A task that ended late would take the slot from the one that was started meanwhile.
#[test]
fn a_task_that_ends_late_vacates_nothing() {
    let (mut seat, first) = serving(3);
    seat.on(SeatEvent::Stopping { task: first });
    let Outcome::Spawn(second) = seat.on(SeatEvent::Open) else { panic!("{seat:?}") };
    for end in [TaskEnd::InOrder, TaskEnd::Failed { silent: true }] {
        assert_eq!(seat.on(SeatEvent::Ended { task: first, end }), Outcome::Nothing);
    }
    assert_eq!(seat.on(SeatEvent::Opened { task: second, term: 4 }), Outcome::Changed);
    assert_eq!((seat.place(), seat.has_copy()), (Place::Here, false));
}

/// Without it a slot whose next owner can't run it yet would be served by nobody for seconds.
#[test]
fn a_slot_that_refuses_a_release_goes_on() {
    let (mut seat, task) = serving(3);
    let first = seal(&mut seat);
    assert_eq!(seat.on(SeatEvent::SealRefused { seal: first }), Outcome::Changed);
    assert_eq!((seat.serves(), seat.task()), (Some(3), Some(task)));
    // The deadline of the first is nothing to the second.
    let second = seal(&mut seat);
    assert_eq!(seat.on(SeatEvent::Unseal { seal: first }), Outcome::Nothing);
    // It has stopped all the same: what it said of going on is over.
    seat.on(SeatEvent::Stopping { task });
    assert_eq!(seat.on(SeatEvent::SealRefused { seal: second }), Outcome::Nothing);
    assert_eq!(seat.place(), Place::Moving);
    seat.on(SeatEvent::Ended { task, end: TaskEnd::InOrder });
    let b: Arc<str> = "b".into();
    assert_eq!(
        seat.on(SeatEvent::Owns { peer: &b, term: 3 }),
        Outcome::Nothing,
        "that was this node's"
    );
    assert_eq!(seat.on(SeatEvent::Owns { peer: &b, term: 4 }), Outcome::Changed);
    assert_eq!(seat.place(), Place::Away { owner: Some(b), term: 4 });
}

/// One node that knows nobody would make the next one forget whom it knows, and so on, until somebody takes
/// the slot from its owner.
#[test]
fn who_knows_nobody_is_not_believed_about_others() {
    let (mut seat, b, c) = (Seat::new(false), Arc::from("b"), Arc::from("c"));
    seat.on(SeatEvent::Owns { peer: &b, term: 6 });
    let known = Place::Away { owner: Some(b.clone()), term: 6 };
    assert_eq!(seat.on(SeatEvent::Denied { by: &c, owner: None, term: 6 }), Outcome::Nothing);
    assert_eq!(seat.place(), known);
    assert_eq!(seat.on(SeatEvent::Denied { by: &b, owner: Some(&b), term: 6 }), Outcome::Nothing);
    assert_eq!(seat.place(), known, "it could not take a request, and has the slot");
    assert_eq!(seat.on(SeatEvent::Denied { by: &b, owner: None, term: 6 }), Outcome::Changed);
    assert_eq!(seat.place(), Place::Away { owner: None, term: 6 });
}

/// The slot would be thought to be here although another node has claimed it since.
#[test]
fn an_opening_that_was_overtaken_does_not_serve() {
    let (mut seat, b) = (Seat::new(false), Arc::from("b"));
    let Outcome::Spawn(task) = seat.on(SeatEvent::Open) else { panic!("{seat:?}") };
    seat.on(SeatEvent::Owns { peer: &b, term: 6 });
    assert_eq!(seat.on(SeatEvent::Opened { task, term: 5 }), Outcome::Overtaken(6));
    seat.on(SeatEvent::Ended { task, end: TaskEnd::Failed { silent: false } });
    assert_eq!(seat.place(), Place::Away { owner: Some(b), term: 6 });
}

/// The log decides: what was said before a claim does not keep it from counting.
#[test]
fn what_a_peer_said_before_the_claim_does_not_undo_it() {
    let (mut seat, b) = (Seat::new(false), Arc::from("b"));
    seat.on(SeatEvent::Owns { peer: &b, term: 9 });
    let Outcome::Spawn(task) = seat.on(SeatEvent::Open) else { panic!("{seat:?}") };
    assert_eq!(seat.on(SeatEvent::Opened { task, term: 5 }), Outcome::Changed);
    assert_eq!(seat.place(), Place::Here);
    assert_eq!(seat.on(SeatEvent::Owns { peer: &b, term: 9 }), Outcome::Abandon);
}

/// Before it is decided when to try again, a slot that was fenced would be claimed back at once.
#[test]
fn what_failed_waits_to_be_noted() {
    let (mut seat, task) = serving(3);
    seat.on(SeatEvent::Stopping { task });
    let failed = SeatEvent::Ended { task, end: TaskEnd::Failed { silent: true } };
    assert_eq!(seat.on(failed), Outcome::Failed);
    assert_eq!(seat.on(failed), Outcome::Nothing, "once");
    assert_eq!(seat.phase(), SeatPhase::Failed { task });
    assert!(seat.has_copy());
    assert_eq!(seat.on(SeatEvent::Noted { task: task + 1 }), Outcome::Nothing);
    assert_eq!(seat.on(SeatEvent::Noted { task }), Outcome::Changed);
    // Another opening that fails says nothing of the copy; another owner does.
    let Outcome::Spawn(next) = seat.on(SeatEvent::Open) else { panic!("{seat:?}") };
    seat.on(SeatEvent::Ended { task: next, end: TaskEnd::Failed { silent: false } });
    assert!(seat.has_copy());
    seat.on(SeatEvent::Denied { by: &"b".into(), owner: Some(&"c".into()), term: 4 });
    assert!(!seat.has_copy());
}
