//! Errors that callers receive: a stable code, an HTTP status, a sentence.

mod cause;

pub use cause::Cause;

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
    /// The bearer token was valid, and has expired. Get a new one.
    TokenExpired = "token-expired", 401, false;
    /// Whoever asks may not do this here: no rule of the policy and no grant of the token allows it. `slotd auth explain` says why.
    Forbidden = "forbidden", 403, false;
    /// The request comes from another web origin, which the policy does not name for the service, or names a non-local `Host`, and the listener has no token.
    OriginRefused = "origin-refused", 403, false;
    /// The component is not signed by a key that the policy allows for the service. Nothing was changed, nor compiled. The detail says what to do.
    SignatureRefused = "signature-refused", 403, false;
    /// No such route.
    RouteNotFound = "route-not-found", 404, false;
    /// No service of that name is deployed.
    ServiceNotFound = "service-not-found", 404, false;
    /// The session has no message yet, or was deleted.
    SessionNotFound = "session-not-found", 404, false;
    /// No token has that name.
    TokenNotFound = "token-not-found", 404, false;
    /// The session has no such timer, open request or dead message.
    TimerNotFound = "timer-not-found", 404, false;
    /// No slot has that number.
    SlotNotFound = "slot-not-found", 404, false;
    /// No node of the cluster has that name.
    NodeNotFound = "node-not-found", 404, false;
    /// That node has no record of such a move.
    MoveNotFound = "move-not-found", 404, false;
    /// No node knows of such an audit: nodes keep the latest ones until they restart.
    AuditNotFound = "audit-not-found", 404, false;
    /// No node has a capture of that name: it was removed, or the oldest of too many.
    CaptureNotFound = "capture-not-found", 404, false;
    /// The service has no such deployment.
    DeploymentNotFound = "deployment-not-found", 404, false;
    /// The version to run does not take over some sessions; they would stay on their current version. Nothing has changed. The detail says how many, why, and what to do.
    SessionsWouldStay = "sessions-would-stay", 409, false;
    /// A stage of the gate has stopped the deploy, or somebody has ended it. Nothing has moved. `slotd gate SERVICE` shows the report.
    GateStopped = "gate-stopped", 409, false;
    /// No deploy of the service has gone through the gate, or there is none to confirm or to end.
    GateNotFound = "gate-not-found", 404, false;
    /// The service has no earlier version to roll back to.
    NothingToRollBack = "nothing-to-roll-back", 409, false;
    /// Another deploy or rollback of the service is in progress, or another node committed one first. Nothing has changed.
    SwapInProgress = "swap-in-progress", 409, true;
    /// Some node, or this slotd, can't read the formats of the requested feature level. Upgrade it first, or forget it if it is gone for good; the detail names the nodes.
    LevelUnreadable = "level-unreadable", 409, false;
    /// The node is alive, so it can't be forgotten. Stop it first.
    NodeAlive = "node-alive", 409, false;
    /// No other node can take the slots to be drained.
    NoOtherNode = "no-other-node", 409, false;
    /// It is too late to cancel the move, or it has ended.
    MoveTooLate = "move-too-late", 409, false;
    /// The route exists, but not with this method.
    MethodNotAllowed = "method-not-allowed", 405, false;
    /// The request's body did not arrive before the deadline. Nothing was kept.
    RequestTimeout = "request-timeout", 408, true;
    /// The idempotency key was used before with another body, or by another client.
    IdempotencyConflict = "idempotency-conflict", 409, false;
    /// A session of that name already exists.
    SessionExists = "session-exists", 409, false;
    /// There is a token of that name already. Revoke it first, or choose another name.
    TokenExists = "token-exists", 409, false;
    /// The session is no longer at the expected position: a message came in between. Nothing was
    /// done.
    SessionChanged = "session-changed", 409, false;
    /// The session's state was written by a version that the service never deployed.
    ShapeUnknown = "shape-unknown", 409, false;
    /// The node was not started with `--resettable`, or is part of a cluster, so it does not reset.
    ResetRefused = "reset-refused", 403, false;
    /// The service does not let clients send ephemeral events. Its operator allows it with `api.notify`.
    NotifyRefused = "notify-refused", 403, false;
    /// The position (`after`) belongs, or may belong, to a deleted session of the same name. Start again from `after=0`.
    PositionGone = "position-gone", 410, false;
    /// The session has not come to that message yet.
    SeqNotReached = "seq-not-reached", 409, false;
    /// What the session was at that message can't be made again: the history does not have all that was written, does not come out as it is stored, or takes too long to run. The detail says which.
    HistoryUnavailable = "history-unavailable", 410, false;
    /// A limit of the service, of the token's subject or of the session is reached: messages, bytes or handlers' time in a time, or sockets at a time. Nothing was kept, and nothing was counted. Retry after `Retry-After`; the detail names the limit.
    RateLimited = "rate-limited", 429, true;
    /// A limit on what the service or the session stores is reached: sessions, or bytes. Nothing was kept. To retry does not help before something was deleted, or the operator allows more.
    QuotaExceeded = "quota-exceeded", 429, false;
    /// The body is larger than the limit.
    BodyTooLarge = "body-too-large", 413, false;
    /// The body has a `Content-Encoding`, which slotd does not decode. Send it unencoded.
    EncodingUnsupported = "encoding-unsupported", 415, false;
    /// The request has a transfer coding other than `chunked`.
    TransferUnsupported = "transfer-unsupported", 501, false;
    /// The component was refused. The detail says what is missing or not allowed.
    PluginRefused = "plugin-refused", 422, false;
    /// Checking and compiling the component takes more than is allowed. The detail names the limit.
    PluginTooCostly = "plugin-too-costly", 422, false;
    /// The handler rejected the message; its own code is in `rejection`.
    Rejected = "rejected", 422, false;
    /// The handler trapped (panic, abort or uncaught error). Nothing it did was kept.
    PluginTrapped = "plugin-trapped", 500, false;
    /// The handler exceeded a limit (memory, host calls, reply, events), or makes a request with an invalid URL, method or header. Nothing it did was kept.
    PluginLimit = "plugin-limit", 500, false;
    /// The handler sends a message to a service that its own may not send to. Nothing was kept. The operator allows it with `effects.send`.
    SendRefused = "send-refused", 403, false;
    /// The handler makes a request over HTTP that its service may not make: to a host that is not allowed, or with a secret that is not. Nothing was kept. The operator allows it with `effects.http` and `effects.http_secrets`.
    RequestRefused = "request-refused", 403, false;
    /// The session's handler has closed it: it takes no more messages. Nothing was kept.
    SessionClosed = "session-closed", 409, false;
    /// Too many messages of the session are on their way to other sessions, or too many of its requests over HTTP are open. Nothing was kept.
    OutboxFull = "outbox-full", 503, true;
    /// Too many messages of the session's slot are on their way to the same other slot, or too many of the node. Nothing was kept.
    SendsFull = "sends-full", 503, true;
    /// The plugin version that the slot runs is still being loaded and compiled, or could not be
    /// loaded.
    PluginUnavailable = "plugin-unavailable", 503, true;
    /// A bug or an unexpected failure inside slotd. See the node's log.
    Internal = "internal", 500, false;
    /// All memory for plugin instances (`guests.memory_total`), or all of the system's memory maps for them (`vm.max_map_count`), is in use, and none was released in time. Nothing was kept.
    MemoryFull = "memory-full", 503, true;
    /// Too many long-running plugin calls on the node, or the call got too little processor time while others waited for its slot. Nothing was kept.
    GuestsBusy = "guests-busy", 503, true;
    /// The slot's mailbox is full. Slow down and retry.
    MailboxFull = "mailbox-full", 503, true;
    /// The node's connection buffers (`api.buffers`) are full: incoming bodies and frames, and answers and events not yet read. Nothing was kept.
    BuffersFull = "buffers-full", 503, true;
    /// A limit of the node or the session is reached (connections, uploads, subscribers, clients' ephemeral events). Retry later.
    LimitReached = "limit-reached", 503, true;
    /// The node can't do this now: it is starting or stopping, the slot is moving or has stopped, another node does not answer, or too much is in progress. The detail says which. A message was not kept.
    Unavailable = "unavailable", 503, true;
    /// The log or the store refused the write (disk full, I/O error). The message was not kept.
    StorageUnavailable = "storage-unavailable", 503, true;
    /// Another node took over the slot before the message was committed. The message was not kept.
    Fenced = "fenced", 503, true;
    /// It is not known whether the message was kept. Repeat it with the same idempotency key to find out.
    OutcomeUnknown = "outcome-unknown", 504, true;
    /// The handler exceeded its deadline. Nothing it did was kept.
    PluginDeadline = "plugin-deadline", 504, false;
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Error {
    pub code: Code,
    /// What decisions are made by. `None`: final, the caller gets it as it is.
    pub cause: Option<Cause>,
    /// One sentence for a person.
    pub detail: Cow<'static, str>,
    /// The plugin's label, `<version>+<short digest>`, where the plugin is at fault.
    pub plugin: Option<String>,
    /// A handler's own rejection.
    pub rejection: Option<Box<Rejection>>,
    /// When to try again, for `Retry-After`.
    pub retry_after: Option<Duration>,
    /// What its handler had used before it failed, for limits of guest time.
    pub guest_time: Duration,
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
        Self {
            code,
            cause: None,
            detail,
            plugin: None,
            rejection: None,
            retry_after,
            guest_time: Duration::ZERO,
        }
    }
    /// An error that the router, the coordinator or a slot decides by; its code follows from its cause.
    pub fn of(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { cause: Some(cause), ..Self::new(cause.code(), detail) }
    }
    pub fn is(&self, cause: Cause) -> bool {
        self.cause == Some(cause)
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
        match error {
            StateError::Unavailable(_) => Self::of(Cause::Storage, error.to_string()),
            StateError::Corrupt(_) => Self::internal(error.to_string()),
        }
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
