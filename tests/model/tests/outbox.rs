//! Explores what two slots send to each other completely: with all guards, and without each of them.

mod common;

use slotd_model::outbox::{Bounds, Guard, Sending};

/// Two owners of each slot, two messages, and two pieces that have them.
const BOUNDS: Bounds =
    Bounds { messages: 2, pieces: 2, refusals: 1, senders: 1, receivers: 1, batches: 1 };

const ONCE: &str = "a message is handled at most once";
const NOT_LOST: &str = "what is done with was handled";
const TAKEN_BACK: &str = "what was taken back is not handled";
const DURABLE: &str = "what is handled was sent, and that is durable";

/// Explores every run within the bounds.
fn explore(name: &str, bounds: Bounds) {
    common::explore(name, Sending::new(bounds));
}

/// Without it, nothing would show that a message survives lost answers, and owners that go at any step.
#[test]
fn messages_between_slots_keep_their_promises() {
    explore("two owners of each slot", BOUNDS);
}

/// Without it, only the first piece of an owner would ever meet one of the next.
#[test]
fn longer_runs_between_slots_keep_the_promises() {
    explore("three pieces, and two who send them", Bounds { pieces: 3, receivers: 0, ..BOUNDS });
    explore("three pieces, and two who take them", Bounds { pieces: 3, senders: 0, ..BOUNDS });
    let refused = Bounds { pieces: 3, refusals: 2, senders: 0, receivers: 0, ..BOUNDS };
    explore("two refusals", refused);
    let batches = Bounds { senders: 0, batches: 2, ..BOUNDS };
    explore("two batches at once", batches);
    let messages = Bounds { messages: 3, receivers: 0, ..BOUNDS };
    explore("three messages", messages);
}

/// Without it, a guard of the model (and of the host, which has the same) could be for nothing, or the model too weak to
/// need it.
#[test]
fn no_guard_of_the_outbox_can_be_left_out() {
    for guard in Guard::ALL {
        let broken = match guard {
            Guard::Fence | Guard::MarkWithMessage | Guard::PassOver => ONCE,
            Guard::OutputGate => DURABLE,
            Guard::MarkStaysAtRefusal
            | Guard::StopAtRefusal
            | Guard::AnswerGate
            | Guard::TakeBackFirst
            | Guard::TermInNumber => NOT_LOST,
            Guard::Rounds
            | Guard::RoundOfRefusal
            | Guard::OnePiece
            | Guard::OnlyItsAnswer
            | Guard::TermInRound => TAKEN_BACK,
        };
        let bounds = match broken {
            ONCE => Bounds { senders: 0, ..BOUNDS },
            _ => Bounds { pieces: 3, receivers: 0, ..BOUNDS },
        };
        common::breaks(guard, Sending::new(bounds).without(guard), broken);
    }
}
