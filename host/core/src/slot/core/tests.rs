//! A core among a log, a store and askers that are models: whatever is reported to it, in whatever order.

mod due;
mod model;

use model::Model;
use proptest::{prelude::*, test_runner::RngSeed};
use std::{fs, path::Path};

/// Somebody who waits for an answer.
type Id = u64;

const KIB: usize = 1024;

#[derive(Clone, Copy, Debug)]
enum Mail {
    Message(u8),
    /// The last message of a session again.
    Repeat(u8),
    Read(u8, bool),
    ReadAll,
    Delete(u8),
    Switch,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Durable,
    Refused,
    /// Nobody knows what became of it; whether it is in the log.
    Undecided(bool),
    /// Another node has claimed the slot.
    Fenced,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Mail comes; whether its handler computes for a while.
    Mail(Mail, bool),
    /// The handler returns.
    Return,
    /// What is due is sent, in so many bytes.
    Send(usize),
    Decide(Outcome),
    Flush,
    Flushed(bool),
    Snapshot(Option<bool>),
    Wait(u64),
    Look,
    IfIdle(u64, bool, bool),
    Prove(bool),
    Abandon(bool),
    Broken,
    /// Whether with a release, and to a node that has loaded what the slot runs.
    Stop(bool, bool),
    /// The mailbox is empty.
    Drained,
    /// What is left to do is done.
    Go,
    End,
    /// The store takes flushes, or does not.
    Writable(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = || 0..3_u8;
    let mail = prop_oneof![
        6 => session().prop_map(Mail::Message),
        2 => session().prop_map(Mail::Repeat),
        3 => (session(), any::<bool>()).prop_map(|(of, current)| Mail::Read(of, current)),
        1 => Just(Mail::ReadAll),
        1 => session().prop_map(Mail::Delete),
        1 => Just(Mail::Switch),
    ];
    let outcome = prop_oneof![
        12 => Just(Outcome::Durable),
        1 => Just(Outcome::Refused),
        1 => any::<bool>().prop_map(Outcome::Undecided),
        1 => Just(Outcome::Fenced),
    ];
    let serving = prop_oneof![
        12 => (mail, prop::bool::weighted(0.2)).prop_map(|(mail, long)| Step::Mail(mail, long)),
        4 => Just(Step::Return),
        9 => (0..600 * KIB).prop_map(Step::Send),
        8 => outcome.prop_map(Step::Decide),
        4 => Just(Step::Flush),
        3 => prop::bool::weighted(0.9).prop_map(Step::Flushed),
        2 => prop::option::of(any::<bool>()).prop_map(Step::Snapshot),
        2 => (0..6_u64).prop_map(Step::Wait),
    ];
    let ordered = prop_oneof![
        2 => Just(Step::Look),
        2 => (0..4_u64, prop::bool::weighted(0.3), prop::bool::weighted(0.3))
            .prop_map(|(idle, watched, waiting)| Step::IfIdle(idle, watched, waiting)),
        2 => any::<bool>().prop_map(Step::Prove),
        1 => any::<bool>().prop_map(Step::Abandon),
        1 => Just(Step::Broken),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(release, ready)| Step::Stop(release, ready)),
        3 => Just(Step::Drained),
        3 => Just(Step::Go),
        3 => Just(Step::End),
        2 => prop::bool::weighted(0.7).prop_map(Step::Writable),
    ];
    prop::collection::vec(prop_oneof![8 => serving, 2 => ordered], 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(20_261_129), cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever is reported in whatever order: an answer leaves with the batch that it rests on, once that is
    /// durable, and in order; everyone is answered once; one batch and one flush are under way at a time;
    /// nothing follows a failed commit; a flush has what is durable, all of it and no more; a release is
    /// answered behind everything else; and the slot can be stopped.
    ///
    /// It fails, for one, if `Core::sends` does not look whether the core is broken (what rests on a failed
    /// commit reaches the log), or if `Core::step` does not wait for the batch that fills (a release is
    /// answered that is not durable).
    #[test]
    fn any_events_leave_a_slot_true_to_its_log(
        cluster in any::<bool>(),
        steps in steps(),
        at_last in prop_oneof![Just(Outcome::Durable), Just(Outcome::Refused)],
    ) {
        let mut model = Model::new(cluster);
        for step in steps {
            model.take(step)?;
            // The next task follows, now and then at once.
            if model.over && matches!(step, Step::End | Step::Go | Step::Wait(_)) {
                model.check_log()?;
                model.open();
            }
        }
        model.stop_for_good(at_last)?;
        model.check_log()?;
    }

    /// A handler that never returns keeps neither the commits before it from their answers, nor an end
    /// from being called for; it does keep the slot from ending with it at work.
    #[test]
    fn a_call_that_does_not_return_holds_nothing_up_but_the_end(
        cluster in any::<bool>(),
        steps in steps(),
    ) {
        let mut model = Model::new(cluster);
        model.take(Step::Mail(Mail::Message(0), false))?;
        model.take(Step::Mail(Mail::Message(1), true))?;
        for step in steps {
            if !matches!(step, Step::Return) {
                model.take(step)?;
            }
            prop_assert!(!model.over && model.at_work.is_some());
        }
        if model.core.is_broken() {
            model.take(Step::Decide(Outcome::Durable))?;
            return Ok(());
        }
        for step in [Step::Decide(Outcome::Durable), Step::Send(1), Step::Decide(Outcome::Durable)] {
            model.take(step)?;
        }
        prop_assert!(model.waiting.is_empty());
    }
}

/// Each of a node's slots would keep room for the largest batch that it ever had, however long it is idle.
#[test]
fn a_batch_that_was_sent_leaves_no_room_behind() {
    let mut model = Model::new(false);
    for _ in 0..50 {
        model.take(Step::Mail(Mail::Message(0), false)).unwrap();
    }
    model.take(Step::Send(1)).unwrap();
    model.take(Step::Decide(Outcome::Durable)).unwrap();
    let filling = &model.core.filling;
    assert_eq!((filling.records.capacity(), filling.gate.capacity()), (0, 0));
}

/// What it decides would depend on more than what is reported to it.
#[test]
fn the_core_has_no_clock_no_channel_no_task_and_no_store() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/slot/core");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|file| file.is_file() && !file.ends_with("tests.rs"));
    let sources: Vec<String> = files.map(|file| fs::read_to_string(file).unwrap()).collect();
    assert!(sources.len() > 1, "the core is elsewhere now");
    for line in sources.iter().flat_map(|source| source.lines()) {
        let is_comment = line.trim_start().starts_with("//");
        for name in ["clock", "tokio", "async", "task", "random", "Mutex", "StateStore", "now()"] {
            assert!(is_comment || !line.contains(name), "{line}");
        }
    }
}
