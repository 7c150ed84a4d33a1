//! What an error means inside: what the router, the coordinator and slots decide by.

use super::Code;

macro_rules! causes {
    ($($(#[doc = $doc:literal])* $variant:ident => $code:ident;)*) => {
        /// Why a request failed, for code that decides what to do about it: try elsewhere, try again,
        /// give up. A client gets the [`Code`]. Several causes have one code; a link between nodes
        /// carries the code alone.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause { $($(#[doc = $doc])* $variant,)* }
        impl Cause {
            #[cfg(test)]
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// What a client gets.
            pub fn code(self) -> Code { match self { $(Self::$variant => Code::$code,)* } }
        }
    };
}

causes! {
    /// Another node has the slot, according to its log, or this one does not have it (any more).
    NotOwner => Fenced;
    /// The peer that was asked does not have the slot, or no longer.
    Moved => Unavailable;
    /// The slot is being given to another node.
    Moving => Unavailable;
    /// No known node has the slot.
    NoOwner => Unavailable;
    /// The slot has no task here, or one that does not serve yet.
    Opening => Unavailable;
    /// The slot's task, or the node, is starting or stopping, or has stopped.
    Stopping => Unavailable;
    /// The slot has to see to an order first: the call, or what it waited for, was cut.
    Cut => Unavailable;
    /// The slot can't do this yet: a removed service's sessions are still being deleted, a session is
    /// being imported, the catalogue is behind.
    NotYet => Unavailable;
    /// The slot's next owner has not loaded what the slot runs.
    NotLoaded => Unavailable;
    /// The nodes' views of the cluster differ, or the one that was asked for something is gone.
    ViewsDiffer => Unavailable;
    /// A peer can't be reached, or did not answer in time.
    Unreachable => Unavailable;
    /// The move was cancelled, or took too long.
    GivenUp => Unavailable;
    /// One of those before, from a peer: it sends the code only.
    Unavailable => Unavailable;
    /// Too much waits already.
    Full => MailboxFull;
    /// It may have been carried out, or kept.
    Undecided => OutcomeUnknown;
    /// The log or the store refuses or does not answer: the engine is down, the disk is full.
    Storage => StorageUnavailable;
    /// The handler refused the message.
    Rejected => Rejected;
    /// The handler trapped.
    Trapped => PluginTrapped;
    /// The handler exceeded a limit.
    Limit => PluginLimit;
    /// The handler exceeded its deadline.
    Deadline => PluginDeadline;
    /// What the handler sends has no room.
    OutboxFull => OutboxFull;
    /// What the handler sends has no room on the way to another slot, or on the node: not the handler's fault.
    SendsFull => SendsFull;
    /// The handler may not send to that service.
    SendRefused => SendRefused;
    /// The handler may not make that request over HTTP.
    RequestRefused => RequestRefused;
    /// The session takes no more messages.
    Closed => SessionClosed;
    /// The service, or the session, stores as much as it may.
    Quota => QuotaExceeded;
    /// The idempotency key is that of another message.
    KeyConflict => IdempotencyConflict;
    /// The service is not deployed.
    NoService => ServiceNotFound;
}

impl Cause {
    /// What is known of an error of which only its code is: it came from a peer.
    pub fn from_code(code: Code) -> Option<Self> {
        Some(match code {
            Code::Fenced => Self::NotOwner,
            Code::Unavailable => Self::Unavailable,
            Code::MailboxFull => Self::Full,
            Code::OutcomeUnknown => Self::Undecided,
            Code::StorageUnavailable => Self::Storage,
            Code::Rejected => Self::Rejected,
            Code::PluginTrapped => Self::Trapped,
            Code::PluginLimit => Self::Limit,
            Code::PluginDeadline => Self::Deadline,
            Code::OutboxFull => Self::OutboxFull,
            Code::SendsFull => Self::SendsFull,
            Code::SendRefused => Self::SendRefused,
            Code::RequestRefused => Self::RequestRefused,
            Code::SessionClosed => Self::Closed,
            Code::QuotaExceeded => Self::Quota,
            Code::IdempotencyConflict => Self::KeyConflict,
            Code::ServiceNotFound => Self::NoService,
            _ => return None,
        })
    }

    /// The slot has left, is leaving, or can't do it now: another try may find it.
    pub fn may_be_elsewhere(self) -> bool {
        match self {
            Self::NotOwner
            | Self::Moved
            | Self::Moving
            | Self::NoOwner
            | Self::Opening
            | Self::Stopping
            | Self::Cut
            | Self::NotYet
            | Self::NotLoaded
            | Self::ViewsDiffer
            | Self::Unreachable
            | Self::GivenUp
            | Self::Unavailable => true,
            Self::Full
            | Self::Undecided
            | Self::Storage
            | Self::Rejected
            | Self::Trapped
            | Self::Limit
            | Self::Deadline
            | Self::OutboxFull
            | Self::SendsFull
            | Self::SendRefused
            | Self::RequestRefused
            | Self::Closed
            | Self::Quota
            | Self::KeyConflict
            | Self::NoService => false,
        }
    }

    /// It was decided after the slot had looked for the message's idempotency key: the message was not
    /// kept before either.
    pub fn follows_look_up(self) -> bool {
        matches!(
            self,
            Self::Rejected
                | Self::Trapped
                | Self::Limit
                | Self::Deadline
                | Self::OutboxFull
                | Self::SendsFull
                | Self::SendRefused
                | Self::RequestRefused
                | Self::Closed
                | Self::Quota
                | Self::KeyConflict
                | Self::NoService
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A node between a client and the slot's node knows the code alone: it must do what the slot's
    /// node would.
    #[test]
    fn a_code_steers_as_its_cause_does() {
        for cause in Cause::ALL {
            let heard = Cause::from_code(cause.code());
            let Some(heard) = heard else { panic!("{cause:?} is lost on a link") };
            assert_eq!(heard.code(), cause.code(), "{cause:?}");
            assert_eq!(heard.may_be_elsewhere(), cause.may_be_elsewhere(), "{cause:?}");
            assert_eq!(heard.follows_look_up(), cause.follows_look_up(), "{cause:?}");
            // What is matched by itself must not hide behind a code that others share.
            if cause.code() != Code::Unavailable {
                assert_eq!(heard, *cause);
            }
        }
    }

    /// An error that is made of a code alone is final for whoever decides by the cause: a message
    /// whose slot moves would be refused.
    #[test]
    fn what_steers_is_not_made_of_a_code() {
        let mut found = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (src, folders) in [
            ("src", ["message", "operation", "slot"]),
            // Of the crate above.
            ("../src", ["cluster", "router", "swap"]),
        ] {
            folders.iter().for_each(|folder| look(&root.join(src).join(folder), &mut found));
        }
        assert!(found.is_empty(), "use `Error::of` and `Error::cause` here:\n{}", found.join("\n"));
    }

    fn look(path: &Path, found: &mut Vec<String>) {
        if path.ends_with("tests") || path.ends_with("tests.rs") {
            return;
        }
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                look(&entry.unwrap().path(), found);
            }
            return;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (at, line) in code.lines().enumerate() {
            let steers = |code: &Code| {
                Cause::from_code(*code).is_some() && line.contains(&format!("Code::{code:?}"))
            };
            if Code::ALL.iter().any(steers) {
                found.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
            }
        }
    }
}
