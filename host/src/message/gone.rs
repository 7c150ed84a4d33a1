//! What is said when a slot's task ended without an answer: it failed, was fenced or is stopping.

use crate::error::{Cause, Error};

/// What a slot was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To tell something: nothing can have changed by it.
    Read,
    Message,
    /// To delete a session.
    Delete,
    /// What an operator does to a session; the same one is carried out once.
    Operation,
    /// What the node does with the slot, by an order or for all of its sessions; again does no harm.
    Step,
}

/// The slot's task ended before it answered. What was to change something may have been kept: it may
/// have been in a batch on its way into the log.
pub fn gone(asked: Purpose) -> Error {
    let (cause, detail) = match asked {
        Purpose::Read => (Cause::Stopping, "the slot stopped before it answered"),
        Purpose::Message => (
            Cause::Undecided,
            "the slot stopped before the result of the message was known; repeat it with the same \
             idempotency key",
        ),
        Purpose::Delete => (
            Cause::Undecided,
            "the slot stopped before the result of the delete was known; check the session",
        ),
        Purpose::Operation => (
            Cause::Undecided,
            "the slot stopped before the result was known; check the session's history",
        ),
        Purpose::Step => (Cause::Undecided, "the slot stopped before this was done; try again"),
    };
    Error::of(cause, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// "Not kept" of what was kept has a client do it twice; "perhaps" of a read has it look for
    /// traces that there are none of.
    #[test]
    fn only_what_changes_something_may_have_been_kept() {
        assert_eq!(gone(Purpose::Read).code, Code::Unavailable);
        for asked in [Purpose::Message, Purpose::Delete, Purpose::Operation, Purpose::Step] {
            assert_eq!(gone(asked).code, Code::OutcomeUnknown, "{asked:?}");
        }
    }
}
