//! Explores the ownership protocol completely: with all its guards, and without each of them.

mod common;

use slotd_model::{Bounds, Guard, Ownership};

/// Two nodes, two messages of which each is sent up to twice, and up to two takeovers.
const BOUNDS: Bounds = Bounds {
    nodes: 2,
    messages: 2,
    sends: 2,
    claims: 2,
    crashes: 0,
    seals: 0,
    reads: 0,
    losses: 0,
    copies: 1,
};

const ONCE: &str = "an acknowledged message is in the log once, where it was said";
const AT_MOST_ONCE: &str = "a message is applied at most once";
const TERMS: &str = "terms rise";
const WRITER: &str = "a term has one writer, who claimed it";
const RELEASE: &str = "a release ends its term";
const REFUSED: &str = "what was refused is not in the log";
const CURRENT: &str = "a read shows what was acknowledged or shown before";
const COMMITTED: &str = "a read shows only what is in the log";

/// Explores every run within the bounds.
fn explore(name: &str, bounds: Bounds) {
    common::explore(name, Ownership::new(bounds));
}

/// Without it, nothing would show that messages survive crashes, lost appends and lost answers.
#[test]
fn takeover_keeps_its_promises() {
    explore("takeover", Bounds { crashes: 1, losses: 1, copies: 2, ..BOUNDS });
}

/// Without it, nothing would show that a read is current although its node may be a zombie.
#[test]
fn reads_are_current() {
    explore("reads", Bounds { reads: 2, sends: 1, ..BOUNDS });
}

/// Without it, nothing would show that a handoff that races a takeover loses and doubles nothing.
#[test]
fn handoff_keeps_its_promises() {
    explore("handoff", Bounds { seals: 1, ..BOUNDS });
    explore("handoff under a read", Bounds { seals: 1, reads: 1, sends: 1, ..BOUNDS });
}

/// Without it, two claimants of an owner who is still at work would never be seen.
#[test]
fn three_nodes_keep_the_promises() {
    explore("three nodes", Bounds { nodes: 3, ..BOUNDS });
    let handoff = Bounds { nodes: 3, sends: 1, seals: 1, reads: 1, ..BOUNDS };
    explore("three nodes, a handoff, a read", handoff);
}

/// Without it, only one message would ever build on another that is not committed.
#[test]
fn longer_runs_keep_the_promises() {
    explore("three messages", Bounds { messages: 3, sends: 1, crashes: 1, ..BOUNDS });
    explore("three takeovers", Bounds { claims: 3, sends: 1, crashes: 1, seals: 1, ..BOUNDS });
}

/// Without it, a guard of the model (and of the host, which has the same) could be for nothing, or
/// the model too weak to need it.
#[test]
fn no_guard_can_be_left_out() {
    let bounds = Bounds { seals: 1, reads: 1, copies: 2, ..BOUNDS };
    for guard in Guard::ALL {
        let broken = match guard {
            Guard::Expectation | Guard::ReplayToClaim | Guard::IdempotencyKey => AT_MOST_ONCE,
            Guard::ClaimFirst | Guard::Fence => WRITER,
            Guard::NewTerm => TERMS,
            Guard::Republish | Guard::SettleByFirst | Guard::SettleBeforeRelease => REFUSED,
            Guard::ForgetOnFailure | Guard::OutputGate | Guard::RepeatGate => ONCE,
            Guard::StopAtRelease => RELEASE,
            Guard::Barrier | Guard::FreshBarrier => CURRENT,
            Guard::ShowCommitted => COMMITTED,
        };
        common::breaks(guard, Ownership::new(bounds).without(guard), broken);
    }
}
