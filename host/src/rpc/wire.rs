//! Requests and answers as bytes: those of operations in the form that [`operation`](crate::operation)
//! gives them, and what is of links alone. Fields are identified by their place, as there: a change of a
//! type here is a new version of the [protocol](crate::peer::protocol).

use super::{Request, Response, SlotInfo};
use crate::{
    clock::milliseconds,
    error::{Cause, Code, Error, Rejection},
    limits,
    log::{Position, Term},
    message::{self, Incoming, Live},
    names::{SessionKey, SlotId},
    operation::{
        self, Forwarded, operations,
        wire::{
            Answered, Beside, Step, body, detached, fields_and, parts, parts_and, split, take,
            unknown_tag, value,
        },
    },
    operator,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(super) use crate::operation::wire::Parts;

/// The tags of requests that are no [`Forwarded`] operation.
mod request {
    pub const MESSAGE: u32 = 0;
    /// One that is part of a trace. Only at a feature level at which all nodes know it.
    pub const TRACED_MESSAGE: u32 = 16;
    /// One of a client that was shown to be somebody, whether part of a trace or not. As above.
    pub const CLIENTS_MESSAGE: u32 = 17;
    pub const SLOTS: u32 = 8;
    /// The body is the request.
    pub const CONTROL: u32 = 9;
}

/// The tags of answers that are no operation's.
mod response {
    /// The body is a list of [`super::Slot`].
    pub const SLOTS: u32 = 7;
    /// The body is the answer.
    pub const CONTROL: u32 = 8;
    pub const NOT_OWNER: u32 = 9;
    /// The body is a [`super::Failure`].
    pub const FAILED: u32 = 10;
}

/// The tags of live items.
mod live {
    /// The body is a [`super::Step`].
    pub const PUBLISHED: u32 = 0;
    pub const DELETED: u32 = 1;
    /// The body is a [`message::Ephemeral`](crate::message::Ephemeral). Only at a feature level at which all
    /// nodes know it.
    pub const EPHEMERAL: u32 = 2;
}

// Whatever a page of history may hold has to fit.
const _: () = assert!(
    limits::PAGE_BYTES_MAX
        + limits::BODY_BYTES_MAX
        + limits::REPLY_BYTES_MAX
        + limits::EVENT_BYTES_MAX
        + limits::CLIENT_BYTES_MAX
        < limits::PEER_ITEM_BYTES_MAX / 2
);

/// Whether nodes send each other an item of this size.
pub(super) fn fits(head: &[u8], body: &[u8]) -> bool {
    head.len() <= limits::PEER_PIECE_BYTES && body.len() <= limits::PEER_ITEM_BYTES_MAX
}

/// [`SlotInfo`], with two fields of earlier versions of this protocol that nobody reads: the slot's
/// instances and their memory.
#[derive(Serialize, Deserialize)]
struct Slot {
    slot: SlotId,
    owner: String,
    state: String,
    term: Term,
    position: Position,
    applied: Position,
    mailbox: usize,
    sessions: u64,
    instances: u64,
    memory: u64,
    plugins: BTreeMap<String, String>,
}

/// [`Error`], with its code by name: codes come and go between versions.
#[derive(Serialize, Deserialize)]
struct Failure {
    code: String,
    detail: String,
    plugin: Option<String>,
    rejection: Option<Rejection>,
    retry_after_ms: Option<u64>,
}

macro_rules! forms {
    (
        forwarded { $($Op:ident,)* }
        other { $($other:tt)* }
        answers { $($Variant:ident($Answer:ty),)* }
        boxed { $($Boxed:ident($Large:ty),)* }
    ) => {
        /// # Errors
        /// `internal`: a bug; the request must not be sent.
        pub(super) fn encode_request(request: Request) -> Result<Parts, Error> {
            match request {
                $(Request::$Op(operation) => operation.encode(),)*
                Request::Message { key, message, lane } => {
                    let Incoming { id, sender, content_type, body, trace, client } = message;
                    let fields = (key, id, sender, content_type, lane);
                    match (trace, client) {
                        (None, None) => parts(request::MESSAGE, &fields, body),
                        (Some(trace), None) => {
                            parts(request::TRACED_MESSAGE, &(fields, trace), body)
                        }
                        (trace, Some(client)) => {
                            parts(request::CLIENTS_MESSAGE, &(fields, trace, client), body)
                        }
                    }
                }
                Request::Slots => parts(request::SLOTS, &(), Bytes::new()),
                Request::Control(body) => parts(request::CONTROL, &(), body),
            }
        }

        /// # Errors
        /// What is wrong with the bytes.
        pub(super) fn decode_request(encoded: Parts) -> Result<Request, String> {
            let Parts { head, body } = encoded;
            let (tag, fields) = split(&head)?;
            Ok(match tag {
                request::MESSAGE | request::TRACED_MESSAGE | request::CLIENTS_MESSAGE => {
                    type Fields = (SessionKey, Option<String>, Option<String>, String, u64);
                    let (fields, trace, client): (Fields, _, _) = match tag {
                        request::MESSAGE => (value(fields)?, None, None),
                        request::TRACED_MESSAGE => {
                            value(fields).map(|(fields, trace)| (fields, Some(trace), None))?
                        }
                        _ => value(fields)
                            .map(|(fields, trace, client)| (fields, trace, Some(client)))?,
                    };
                    let (key, id, sender, content_type, lane) = fields;
                    let body = detached(body);
                    let message = Incoming { id, sender, content_type, body, trace, client };
                    Request::Message { key, message, lane }
                }
                request::SLOTS => Request::Slots,
                request::CONTROL => Request::Control(detached(body)),
                $(tag if operation::$Op::TAGS.contains(&tag) => {
                    Request::$Op(operation::$Op::decode(tag, fields, body)?)
                })*
                _ => return Err(unknown_tag()),
            })
        }

        /// # Errors
        /// `internal`: a bug; the caller must get another error.
        pub(super) fn encode_response(response: Result<Response, Error>) -> Result<Parts, Error> {
            match response {
                $(Ok(Response::$Variant(answer)) => answer.encode(),)*
                $(Ok(Response::$Boxed(answer)) => (*answer).encode(),)*
                Ok(Response::Slots(list)) => {
                    let list: Vec<Slot> = list.into_iter().map(Slot::from).collect();
                    parts(response::SLOTS, &(), body(&list)?)
                }
                Ok(Response::Control(body)) => parts(response::CONTROL, &(), body),
                Ok(Response::NotOwner { owner, term, position }) => {
                    parts(response::NOT_OWNER, &(owner, term, position), Bytes::new())
                }
                Err(error) => parts(response::FAILED, &(), failure_body(error)?),
            }
        }

        /// The inner result is the peer's: an answer, or its refusal.
        ///
        /// # Errors
        /// What is wrong with the bytes.
        pub(super) fn decode_response(encoded: Parts) -> Result<Result<Response, Error>, String> {
            let Parts { head, body } = encoded;
            let (tag, fields) = split(&head)?;
            Ok(Ok(match tag {
                $(<$Answer as Answered>::TAG => {
                    Response::$Variant(<$Answer as Answered>::decode(fields, body)?)
                })*
                $(<$Large as Answered>::TAG => {
                    Response::$Boxed(Box::new(<$Large as Answered>::decode(fields, body)?))
                })*
                response::SLOTS => {
                    fields_and::<()>(fields)?;
                    let list: Vec<Slot> = value(&body)?;
                    Response::Slots(list.into_iter().map(SlotInfo::from).collect())
                }
                response::CONTROL => {
                    fields_and::<()>(fields)?;
                    Response::Control(detached(body))
                }
                response::NOT_OWNER => {
                    type Fields = (Option<Arc<str>>, Term, Position);
                    let ((owner, term, position), _) = fields_and::<Fields>(fields)?;
                    Response::NotOwner { owner, term, position }
                }
                response::FAILED => {
                    fields_and::<()>(fields)?;
                    return Ok(Err(failure(&body)?));
                }
                _ => return Err(unknown_tag()),
            }))
        }
    };
}
operations!(forms);

/// What was used before it failed, in nanoseconds, is behind it. Left out where it is nothing: versions from before
/// neither write nor read it.
fn failure_body(error: Error) -> Result<Bytes, Error> {
    let ns = u64::try_from(error.guest_time.as_nanos()).unwrap_or(u64::MAX);
    match (Failure::from(error), ns) {
        (failure, 0) => body(&failure),
        (failure, ns) => body(&(failure, ns)),
    }
}

fn failure(body: &[u8]) -> Result<Error, String> {
    let (failure, rest) = take::<Failure>(body)?;
    let ns = if rest.is_empty() { 0 } else { value(rest)? };
    Ok(Error { guest_time: Duration::from_nanos(ns), ..failure.into() })
}

/// # Errors
/// `internal`: a bug; the subscription can't go on without this item.
pub(super) fn encode_live(item: Live) -> Result<Parts, Error> {
    match item {
        Live::Published(published) => {
            let beside = Beside::of(published.incarnation);
            parts_and(live::PUBLISHED, &(), &beside, body(&Step::from(published))?)
        }
        Live::Ephemeral(ephemeral) => parts(live::EPHEMERAL, &(), body(&*ephemeral)?),
        Live::Deleted => parts(live::DELETED, &(), Bytes::new()),
    }
}

/// # Errors
/// What is wrong with the bytes.
pub(super) fn decode_live(encoded: &Parts) -> Result<Live, String> {
    let (tag, fields) = split(&encoded.head)?;
    let ((), beside) = fields_and(fields)?;
    Ok(match tag {
        live::PUBLISHED => {
            Live::Published(value::<Step>(&encoded.body)?.published(beside.incarnation()))
        }
        live::EPHEMERAL => Live::Ephemeral(Arc::new(value(&encoded.body)?)),
        live::DELETED => Live::Deleted,
        _ => return Err(unknown_tag()),
    })
}

impl From<SlotInfo> for Slot {
    fn from(info: SlotInfo) -> Self {
        let SlotInfo { slot, owner, state, term, position, applied, mailbox, sessions, plugins } =
            info;
        Self {
            slot,
            owner,
            state,
            term,
            position,
            applied,
            mailbox,
            sessions,
            instances: 0,
            memory: 0,
            plugins,
        }
    }
}

impl From<Slot> for SlotInfo {
    fn from(slot: Slot) -> Self {
        Self {
            slot: slot.slot,
            owner: slot.owner,
            state: slot.state,
            term: slot.term,
            position: slot.position,
            applied: slot.applied,
            mailbox: slot.mailbox,
            sessions: slot.sessions,
            plugins: slot.plugins,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.code.as_str().into(),
            detail: error.detail.into_owned(),
            plugin: error.plugin,
            rejection: error.rejection.map(|rejection| *rejection),
            retry_after_ms: error.retry_after.map(milliseconds),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let known = Code::ALL.iter().find(|code| code.as_str() == failure.code);
        // A code that only the peer knows: its text still helps.
        let code = known.copied().unwrap_or(Code::Internal);
        Self {
            code,
            cause: Cause::from_code(code),
            detail: failure.detail.into(),
            plugin: failure.plugin,
            rejection: failure.rejection.map(Box::new),
            retry_after: failure.retry_after_ms.map(Duration::from_millis),
            guest_time: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
