//! What a caller is told when a request fails: one stable code, one status, one sentence.

use crate::{limits, text};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, time::Duration};

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $code:literal, $status:literal, $retriable:literal;)*) => {
        /// Every code of the API. `docs/errors.md` is generated from this list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[doc = $doc])* $variant,)* }
        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];
            /// The stable kebab-case code.
            pub fn as_str(self) -> &'static str { match self { $(Code::$variant => $code,)* } }
            /// The HTTP status.
            pub fn status(self) -> u16 { match self { $(Code::$variant => $status,)* } }
            /// Whether the same request may succeed later, unchanged.
            pub fn retriable(self) -> bool { match self { $(Code::$variant => $retriable,)* } }
            /// What it means, for the table of errors.
            pub fn meaning(self) -> &'static str { match self { $(Code::$variant => concat!($($doc),*),)* } }
        }
    };
}

codes! {
    /// The request is malformed: a parameter, header or body that does not parse.
    RequestInvalid = "request-invalid", 400, false;
    /// A service, session, sender or idempotency key is empty, too long or has a forbidden character.
    NameInvalid = "name-invalid", 400, false;
    /// The bearer token is missing or wrong.
    Unauthorized = "unauthorized", 401, false;
    /// A web page may be behind it: another origin, or on loopback another host than localhost, asked a listener without a token.
    OriginRefused = "origin-refused", 403, false;
    /// There is no such route.
    RouteNotFound = "route-not-found", 404, false;
    /// No service of that name is deployed.
    ServiceNotFound = "service-not-found", 404, false;
    /// The session has no message yet, or was deleted.
    SessionNotFound = "session-not-found", 404, false;
    /// There is no slot of that number.
    SlotNotFound = "slot-not-found", 404, false;
    /// The cluster has no node of that name.
    NodeNotFound = "node-not-found", 404, false;
    /// That node knows of no such move.
    MoveNotFound = "move-not-found", 404, false;
    /// The service has no such deployment.
    DeploymentNotFound = "deployment-not-found", 404, false;
    /// Sessions would stay on the version that they are on, because the one to run does not take them over; nothing has changed. The detail has how many, why, and what to do.
    SessionsWouldStay = "sessions-would-stay", 409, false;
    /// The service has no version to go back to.
    NothingToRollBack = "nothing-to-roll-back", 409, false;
    /// Another deploy or rollback of the service is being prepared, or was made durable first by another node; nothing has changed.
    SwapInProgress = "swap-in-progress", 409, true;
    /// Not every node, or not this slotd, can read what the feature level asked for would have written: upgrade it first. The detail names the nodes.
    LevelUnreadable = "level-unreadable", 409, false;
    /// There is no other node that could take what is to be drained.
    NoOtherNode = "no-other-node", 409, false;
    /// The move has come too far to be cancelled, or is over.
    MoveTooLate = "move-too-late", 409, false;
    /// The route exists, with another method.
    MethodNotAllowed = "method-not-allowed", 405, false;
    /// The request's body did not arrive before the deadline; nothing was kept.
    RequestTimeout = "request-timeout", 408, true;
    /// The idempotency key was used before with another body.
    IdempotencyConflict = "idempotency-conflict", 409, false;
    /// There is a session of that name already.
    SessionExists = "session-exists", 409, false;
    /// The session is not where it was said to be: a message came in between. Nothing was done.
    SessionChanged = "session-changed", 409, false;
    /// The version whose shape a session's state has is none of the service's deployments.
    ShapeUnknown = "shape-unknown", 409, false;
    /// The node was not started with `--resettable`, or is part of a cluster: it forgets nothing.
    ResetRefused = "reset-refused", 403, false;
    /// The position (`after`) is of a session of that name that was deleted, or may be: begin at `after=0`.
    PositionGone = "position-gone", 410, false;
    /// The body is over the limit.
    BodyTooLarge = "body-too-large", 413, false;
    /// The body has a content coding (`Content-Encoding`) that slotd does not decode: send it as it is.
    EncodingUnsupported = "encoding-unsupported", 415, false;
    /// The request has a transfer coding other than `chunked`.
    TransferUnsupported = "transfer-unsupported", 501, false;
    /// The component was refused: what it lacks or asks for is in the detail.
    PluginRefused = "plugin-refused", 422, false;
    /// Checking and compiling the component would take, or took, more than it may: what, and the limit, is in the detail.
    PluginTooCostly = "plugin-too-costly", 422, false;
    /// The handler rejected the message; its own code is in `rejection`.
    Rejected = "rejected", 422, false;
    /// The handler trapped; nothing it did was kept.
    PluginTrapped = "plugin-trapped", 500, false;
    /// The handler passed one of its limits (memory, host calls, reply, events); nothing was kept.
    PluginLimit = "plugin-limit", 500, false;
    /// The version that the slot must run could not be loaded, or is being loaded and compiled.
    PluginUnavailable = "plugin-unavailable", 503, true;
    /// A bug or an unexpected failure inside slotd; the log has more.
    Internal = "internal", 500, false;
    /// All memory for instances of plugins (`guests.memory_total`), or all of the system's memory maps for them (`vm.max_map_count`), is in use, and none was given up in time; nothing was kept.
    MemoryFull = "memory-full", 503, true;
    /// Too many calls of plugins compute for long on the node, or others waited for the slot and the call got too little running time; nothing was kept.
    GuestsBusy = "guests-busy", 503, true;
    /// The slot's mailbox is full: slow down.
    MailboxFull = "mailbox-full", 503, true;
    /// What the node's connections hold (bodies and frames that arrive, answers and events that their readers have not taken) is all that it may be (`api.buffers`); nothing was kept.
    BuffersFull = "buffers-full", 503, true;
    /// A limit of the node or the session is reached (connections, uploads, subscribers): others must end first.
    LimitReached = "limit-reached", 503, true;
    /// This node can't do it now: it starts or stops, the slot moves or stopped, another node does not answer, or too much is under way; the detail says which. Of a message, nothing was kept.
    Unavailable = "unavailable", 503, true;
    /// The log or the store refused a write (disk full, I/O error); the message was not kept.
    StorageUnavailable = "storage-unavailable", 503, true;
    /// The slot moved to another writer before the message was committed; it was not kept.
    Fenced = "fenced", 503, true;
    /// The commit failed in a way that leaves open whether the message was kept: repeat it with the same idempotency key.
    OutcomeUnknown = "outcome-unknown", 504, true;
    /// The handler passed its deadline; nothing it did was kept.
    PluginDeadline = "plugin-deadline", 504, false;
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Error {
    pub code: Code,
    /// One sentence for a person.
    pub detail: Cow<'static, str>,
    /// The plugin's label, `<version>+<short digest>`, where the plugin is at fault.
    pub plugin: Option<String>,
    /// A handler's own rejection.
    pub rejection: Option<Box<Rejection>>,
    /// When to try again, for `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// A handler's refusal of a message: changes nothing, becomes the client's error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Kebab-case, chosen by the plugin.
    pub code: String,
    pub message: String,
    pub retriable: bool,
}

impl Error {
    /// `detail` is cut at [`limits::ERROR_DETAIL_BYTES_MAX`].
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = code.retriable().then_some(limits::RETRY_AFTER);
        let detail = text::clip(detail.into(), limits::ERROR_DETAIL_BYTES_MAX);
        Self { code, detail, plugin: None, rejection: None, retry_after }
    }
    #[must_use]
    pub fn with_plugin(mut self, label: impl Into<String>) -> Self {
        self.plugin = Some(label.into());
        self
    }
    pub fn name_invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NameInvalid, detail)
    }
    pub fn internal(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Internal, detail)
    }
}

/// Why the state store has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateError {
    /// The store refused or failed; may work later.
    #[error("state store unavailable: {0}")]
    Unavailable(String),
    /// Something stored does not decode or fails its checksum.
    #[error("state store corrupt: {0}")]
    Corrupt(String),
}

/// What is damaged stays so: to try again would help nobody.
impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        let code = match error {
            StateError::Unavailable(_) => Code::StorageUnavailable,
            StateError::Corrupt(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads of a damaged store that it may work later tries for ever, and nobody looks at the disk.
    #[test]
    fn only_a_store_that_may_work_later_is_tried_again() {
        let lost = Error::from(StateError::Corrupt("a checksum".into()));
        assert_eq!((lost.code, lost.code.retriable()), (Code::Internal, false));
        let busy = Error::from(StateError::Unavailable("no room".into()));
        assert_eq!((busy.code, busy.code.retriable()), (Code::StorageUnavailable, true));
        assert!(lost.retry_after.is_none() && busy.retry_after.is_some());
    }
}
