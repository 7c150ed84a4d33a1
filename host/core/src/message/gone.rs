//! The error when a slot's task ended without an answer: it failed, was fenced or is stopping.

use crate::error::{Cause, Error};

/// The purpose of a request to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A read: it can't have changed anything.
    Read,
    Message,
    /// To delete a session.
    Delete,
    /// An operator's change to a session; a repeat is applied once.
    Operation,
    /// A node's operation on the slot, by an order or for all of its sessions; repeating it is
    /// harmless.
    Step,
}

/// The slot's task ended before it answered. A change may have been stored: it may have been in a
/// batch on its way to the log.
pub fn gone(asked: Purpose) -> Error {
    let (cause, detail) = match asked {
        Purpose::Read => (Cause::Stopping, "the slot stopped before it answered"),
        Purpose::Message => (
            Cause::Undecided,
            "the slot stopped before the result of the message was known; repeat it with the same \
             idempotency key",
        ),
        Purpose::Delete => {
            (Cause::Undecided, "the slot stopped before the result was known; check the session")
        }
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

    /// "Not stored" for something that was makes a client do it twice; "perhaps" for a read makes
    /// it look for traces that don't exist.
    #[test]
    fn only_what_changes_something_may_have_been_kept() {
        assert_eq!(gone(Purpose::Read).code, Code::Unavailable);
        for asked in [Purpose::Message, Purpose::Delete, Purpose::Operation, Purpose::Step] {
            assert_eq!(gone(asked).code, Code::OutcomeUnknown, "{asked:?}");
        }
    }
}
