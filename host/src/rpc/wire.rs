//! Requests and answers as bytes: a small head (postcard behind a version byte) and a body that
//! may be large and is not copied where it is one piece.
//!
//! Variants and fields are told apart by their place: a change of any type here, or of a type of
//! `log::record` that is used here, is a new version of the
//! [protocol](crate::peer::protocol). What a node may do without goes behind the head, as
//! [`Beside`]: a version that does not know it stops reading before it.

use super::{Request, Response};
use crate::{
    buffers::Held,
    error::{Code, Error, Rejection},
    limits,
    log::{
        Position, Term,
        record::{Entry, Event},
    },
    message::{
        Answer, History, Incoming, Live, PinInfo, Published, Range, Sent, SessionInfo, SlotInfo,
        Subscribed,
    },
    names::{ServiceName, SessionId, SessionKey, SlotId},
    operator::StatePage,
    position::Incarnation,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The first byte of every head.
const WIRE_FORMAT: u8 = 1;

/// An encoded request or answer.
pub(super) struct Parts {
    pub head: Bytes,
    pub body: Bytes,
}

// Whatever a page of history may hold has to fit.
const _: () = assert!(
    limits::PAGE_BYTES_MAX
        + limits::BODY_BYTES_MAX
        + limits::REPLY_BYTES_MAX
        + limits::EVENT_BYTES_MAX
        < limits::PEER_ITEM_BYTES_MAX / 2
);

/// Whether nodes send each other an item of this size.
pub(super) fn fits(head: &[u8], body: &[u8]) -> bool {
    head.len() <= limits::PEER_PIECE_BYTES && body.len() <= limits::PEER_ITEM_BYTES_MAX
}

#[derive(Serialize, Deserialize)]
enum RequestHead {
    Message {
        key: SessionKey,
        id: Option<String>,
        sender: Option<String>,
        content_type: String,
        lane: u64,
    },
    Query {
        key: SessionKey,
        content_type: String,
        local: bool,
    },
    HistoryAfter {
        key: SessionKey,
        seq: u64,
        limit: u64,
        local: bool,
    },
    HistoryTail {
        key: SessionKey,
        limit: u64,
        local: bool,
    },
    Session {
        key: SessionKey,
        local: bool,
    },
    Delete {
        key: SessionKey,
    },
    /// The body is a [`Listing`].
    Sessions,
    Subscribe {
        key: SessionKey,
        after: u64,
    },
    Slots,
    /// The body is the request.
    Control,
    // From here on: a node of the version before says that it does not decode.
    /// The body is a [`StateRange`].
    State {
        key: SessionKey,
    },
    /// The body is an [`Operation`].
    Operate {
        key: SessionKey,
    },
}

#[derive(Serialize, Deserialize)]
struct Listing {
    slots: Vec<SlotId>,
    service: ServiceName,
    prefix: String,
    after: Option<SessionId>,
    limit: u64,
    pinned: bool,
}

#[derive(Serialize, Deserialize)]
enum ResponseHead {
    Sent {
        seq: u64,
        slot: SlotId,
        plugin: Arc<str>,
        replayed: bool,
        content_type: String,
    },
    Answer {
        slot: SlotId,
        plugin: Arc<str>,
        seq: u64,
        content_type: String,
    },
    /// The body has the entries with their labels.
    History {
        slot: SlotId,
        last_seq: u64,
    },
    /// The body is a [`Session`].
    Session,
    Deleted,
    /// The body is a list of [`Session`].
    Sessions,
    /// The body is a list of [`Step`].
    Subscribed,
    /// The body is a list of [`Slot`].
    Slots,
    /// The body is the answer.
    Control,
    NotOwner {
        owner: Option<Arc<str>>,
        term: Term,
        position: Position,
    },
    /// The body is a [`Failure`].
    Failed,
    /// The body is a [`State`].
    State,
}

/// [`StatePage`].
#[derive(Serialize, Deserialize)]
struct State {
    session: Session,
    pairs: Vec<(String, Bytes)>,
    more: bool,
}

/// [`SessionInfo`] without what JSON leaves out.
#[derive(Serialize, Deserialize)]
struct Session {
    service: ServiceName,
    session: SessionId,
    slot: SlotId,
    seq: u64,
    created_ms: u64,
    updated_ms: u64,
    plugin: String,
    state_keys: u64,
    state_bytes: u64,
    pinned: Option<(String, String)>,
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

/// [`Published`].
#[derive(Serialize, Deserialize)]
struct Step {
    seq: u64,
    time_ms: u64,
    events: Arc<[Event]>,
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

/// What an answer or live item says beside its head, if a version wrote it that knows of it. What a
/// later one adds goes behind it in the same way.
#[derive(Default, Serialize, Deserialize)]
struct Beside {
    /// [`Incarnation`].
    incarnation: Option<u64>,
    made_again: bool,
}

impl Beside {
    fn of(incarnation: Option<Incarnation>) -> Self {
        Self { incarnation: incarnation.map(Incarnation::to_wire), made_again: false }
    }
    fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation.map(Incarnation::from_wire)
    }
}

#[derive(Serialize, Deserialize)]
enum LiveHead {
    /// The body is a [`Step`].
    Published,
    Deleted,
}

/// # Errors
/// `internal`: a bug; the request must not be sent.
pub(super) fn encode_request(request: Request) -> Result<Parts, Error> {
    match request {
        Request::Message { key, message, lane } => {
            let Incoming { id, sender, content_type, body } = message;
            parts(&RequestHead::Message { key, id, sender, content_type, lane }, body)
        }
        Request::Query { key, content_type, body, local } => {
            parts(&RequestHead::Query { key, content_type, local }, body)
        }
        Request::History { key, range, local } => {
            let head = match range {
                Range::After { seq, limit } => {
                    RequestHead::HistoryAfter { key, seq, limit: limit as u64, local }
                }
                Range::Tail { limit } => {
                    RequestHead::HistoryTail { key, limit: limit as u64, local }
                }
            };
            parts(&head, Bytes::new())
        }
        Request::Session { key, local } => {
            parts(&RequestHead::Session { key, local }, Bytes::new())
        }
        Request::Delete { key } => parts(&RequestHead::Delete { key }, Bytes::new()),
        Request::Sessions { slots, service, prefix, after, limit, pinned } => {
            let limit = limit as u64;
            let listing = Listing { slots, service, prefix, after, limit, pinned };
            parts(&RequestHead::Sessions, bytes(Vec::new(), &listing)?)
        }
        Request::Subscribe { key, after } => {
            parts(&RequestHead::Subscribe { key, after }, Bytes::new())
        }
        Request::Slots => parts(&RequestHead::Slots, Bytes::new()),
        Request::State { key, range } => {
            parts(&RequestHead::State { key }, bytes(Vec::new(), &range)?)
        }
        Request::Operate { key, operation } => {
            parts(&RequestHead::Operate { key }, bytes(Vec::new(), &operation)?)
        }
        Request::Control(body) => parts(&RequestHead::Control, body),
    }
}

/// # Errors
/// What is wrong with the bytes.
pub(super) fn decode_request(encoded: Parts) -> Result<Request, String> {
    let size = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(match head(&encoded.head)? {
        RequestHead::Message { key, id, sender, content_type, lane } => {
            let body = detached(encoded.body);
            Request::Message { key, message: Incoming { id, sender, content_type, body }, lane }
        }
        RequestHead::Query { key, content_type, local } => {
            Request::Query { key, content_type, body: detached(encoded.body), local }
        }
        RequestHead::HistoryAfter { key, seq, limit, local } => {
            Request::History { key, range: Range::After { seq, limit: size(limit) }, local }
        }
        RequestHead::HistoryTail { key, limit, local } => {
            Request::History { key, range: Range::Tail { limit: size(limit) }, local }
        }
        RequestHead::Session { key, local } => Request::Session { key, local },
        RequestHead::Delete { key } => Request::Delete { key },
        RequestHead::Sessions => {
            let Listing { slots, service, prefix, after, limit, pinned } = value(&encoded.body)?;
            Request::Sessions { slots, service, prefix, after, limit: size(limit), pinned }
        }
        RequestHead::Subscribe { key, after } => Request::Subscribe { key, after },
        RequestHead::Slots => Request::Slots,
        RequestHead::State { key } => Request::State { key, range: value(&encoded.body)? },
        RequestHead::Operate { key } => Request::Operate { key, operation: value(&encoded.body)? },
        RequestHead::Control => Request::Control(detached(encoded.body)),
    })
}

/// The live end of [`Response::Subscribed`] does not travel with it.
///
/// # Errors
/// `internal`: a bug; the caller must be told something else.
pub(super) fn encode_response(response: Result<Response, Error>) -> Result<Parts, Error> {
    match response {
        Ok(Response::Sent(sent)) => {
            let Sent { seq, incarnation, slot, plugin, replayed, content_type, body } = sent;
            let head = ResponseHead::Sent { seq, slot, plugin, replayed, content_type };
            parts_and(&head, &Beside::of(incarnation), body)
        }
        Ok(Response::Answer(Answer { slot, plugin, seq, content_type, body })) => {
            parts(&ResponseHead::Answer { slot, plugin, seq, content_type }, body)
        }
        Ok(Response::History(History {
            slot,
            entries,
            last_seq,
            incarnation,
            made_again,
            held: _held,
        })) => {
            let beside = Beside { made_again, ..Beside::of(incarnation) };
            let head = ResponseHead::History { slot, last_seq };
            parts_and(&head, &beside, bytes(Vec::new(), &entries)?)
        }
        Ok(Response::Session(info)) => {
            let made_again = info.made_again;
            let beside = Beside { made_again, ..Beside::of(info.incarnation) };
            let body = bytes(Vec::new(), &Session::from(*info))?;
            parts_and(&ResponseHead::Session, &beside, body)
        }
        Ok(Response::Deleted) => parts(&ResponseHead::Deleted, Bytes::new()),
        Ok(Response::Sessions(list)) => {
            let list: Vec<Session> = list.into_iter().map(Session::from).collect();
            parts(&ResponseHead::Sessions, bytes(Vec::new(), &list)?)
        }
        Ok(Response::Subscribed(Subscribed { backlog, live: _, incarnation, held: _held })) => {
            let steps: Vec<Step> = backlog.into_iter().map(Step::from).collect();
            let body = bytes(Vec::new(), &steps)?;
            parts_and(&ResponseHead::Subscribed, &Beside::of(incarnation), body)
        }
        Ok(Response::Slots(list)) => {
            let list: Vec<Slot> = list.into_iter().map(Slot::from).collect();
            parts(&ResponseHead::Slots, bytes(Vec::new(), &list)?)
        }
        Ok(Response::State(page)) => {
            let StatePage { info, pairs, more } = *page;
            let beside = Beside::of(info.incarnation);
            let body = bytes(Vec::new(), &State { session: info.into(), pairs, more })?;
            parts_and(&ResponseHead::State, &beside, body)
        }
        Ok(Response::Control(body)) => parts(&ResponseHead::Control, body),
        Ok(Response::NotOwner { owner, term, position }) => {
            parts(&ResponseHead::NotOwner { owner, term, position }, Bytes::new())
        }
        Err(error) => parts(&ResponseHead::Failed, bytes(Vec::new(), &Failure::from(error))?),
    }
}

/// The inner result is the peer's: an answer, or its refusal.
///
/// # Errors
/// What is wrong with the bytes.
pub(super) fn decode_response(encoded: Parts) -> Result<Result<Response, Error>, String> {
    let (head, beside) = head_and(&encoded.head)?;
    let incarnation = beside.incarnation();
    Ok(Ok(match head {
        ResponseHead::Sent { seq, slot, plugin, replayed, content_type } => {
            let body = detached(encoded.body);
            Response::Sent(Sent { seq, incarnation, slot, plugin, replayed, content_type, body })
        }
        ResponseHead::Answer { slot, plugin, seq, content_type } => {
            let body = detached(encoded.body);
            Response::Answer(Answer { slot, plugin, seq, content_type, body })
        }
        ResponseHead::History { slot, last_seq } => {
            let entries: Vec<(Arc<Entry>, Arc<str>)> = value(&encoded.body)?;
            let made_again = beside.made_again;
            let held = Held::default();
            Response::History(History { slot, entries, last_seq, incarnation, made_again, held })
        }
        ResponseHead::Session => {
            let info = value::<Session>(&encoded.body)?.into();
            let made_again = beside.made_again;
            Response::Session(Box::new(SessionInfo { incarnation, made_again, ..info }))
        }
        ResponseHead::Deleted => Response::Deleted,
        ResponseHead::Sessions => {
            let list: Vec<Session> = value(&encoded.body)?;
            Response::Sessions(list.into_iter().map(SessionInfo::from).collect())
        }
        ResponseHead::Subscribed => {
            let steps: Vec<Step> = value(&encoded.body)?;
            let backlog = steps.into_iter().map(|step| step.published(incarnation)).collect();
            let held = Held::default();
            Response::Subscribed(Subscribed { backlog, live: None, incarnation, held })
        }
        ResponseHead::Slots => {
            let list: Vec<Slot> = value(&encoded.body)?;
            Response::Slots(list.into_iter().map(SlotInfo::from).collect())
        }
        ResponseHead::State => {
            let State { session, pairs, more } = value(&encoded.body)?;
            let info = SessionInfo { incarnation, ..session.into() };
            Response::State(Box::new(StatePage { info, pairs, more }))
        }
        ResponseHead::Control => Response::Control(detached(encoded.body)),
        ResponseHead::NotOwner { owner, term, position } => {
            Response::NotOwner { owner, term, position }
        }
        ResponseHead::Failed => return Ok(Err(value::<Failure>(&encoded.body)?.into())),
    }))
}

/// # Errors
/// `internal`: a bug; the subscription can't go on without this item.
pub(super) fn encode_live(item: Live) -> Result<Parts, Error> {
    match item {
        Live::Published(published) => {
            let beside = Beside::of(published.incarnation);
            parts_and(&LiveHead::Published, &beside, bytes(Vec::new(), &Step::from(published))?)
        }
        Live::Deleted => parts(&LiveHead::Deleted, Bytes::new()),
    }
}

/// # Errors
/// What is wrong with the bytes.
pub(super) fn decode_live(encoded: &Parts) -> Result<Live, String> {
    let (head, beside) = head_and(&encoded.head)?;
    Ok(match head {
        LiveHead::Published => {
            Live::Published(value::<Step>(&encoded.body)?.published(beside.incarnation()))
        }
        LiveHead::Deleted => Live::Deleted,
    })
}

fn parts(head: &impl Serialize, body: Bytes) -> Result<Parts, Error> {
    Ok(Parts { head: bytes(vec![WIRE_FORMAT], head)?, body })
}

fn parts_and(head: &impl Serialize, beside: &Beside, body: Bytes) -> Result<Parts, Error> {
    Ok(Parts { head: bytes(bytes(vec![WIRE_FORMAT], head)?.into(), beside)?, body })
}

fn bytes(start: Vec<u8>, value: &impl Serialize) -> Result<Bytes, Error> {
    postcard::to_extend(value, start)
        .map(Bytes::from)
        .map_err(|e| Error::internal(format!("bug: can't encode a message for a peer: {e}")))
}

fn head<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&WIRE_FORMAT, rest)) => value(rest),
        Some((format, _)) => Err(format!("its format is {format}; this slotd reads {WIRE_FORMAT}")),
        None => Err("it is empty".into()),
    }
}

/// A head, and what stands beside it: nothing, if a version wrote it that does not know of it.
fn head_and<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Beside), String> {
    let rest = match bytes.split_first() {
        Some((&WIRE_FORMAT, rest)) => rest,
        _ => return Ok((head(bytes)?, Beside::default())),
    };
    let (head, rest) = postcard::take_from_bytes(rest).map_err(|e| e.to_string())?;
    let beside = if rest.is_empty() { Beside::default() } else { value(rest)? };
    Ok((head, beside))
}

/// What comes behind it, from a later version, is not looked at.
fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|e| e.to_string())
}

/// A small body would keep its whole frame in memory for as long as someone has it.
fn detached(body: Bytes) -> Bytes {
    if body.len() <= limits::BODY_COPY_BYTES_MAX { Bytes::copy_from_slice(&body) } else { body }
}

impl From<SessionInfo> for Session {
    fn from(info: SessionInfo) -> Self {
        Self {
            service: info.service,
            session: info.session,
            slot: info.slot,
            seq: info.seq,
            created_ms: info.created_ms,
            updated_ms: info.updated_ms,
            plugin: info.plugin,
            state_keys: info.state_keys,
            state_bytes: info.state_bytes,
            pinned: info.pinned.map(|pin| (pin.against, pin.reason)),
        }
    }
}

impl From<Session> for SessionInfo {
    fn from(session: Session) -> Self {
        Self {
            service: session.service,
            session: session.session,
            slot: session.slot,
            seq: session.seq,
            created_ms: session.created_ms,
            updated_ms: session.updated_ms,
            plugin: session.plugin,
            state_keys: session.state_keys,
            state_bytes: session.state_bytes,
            pinned: session.pinned.map(|(against, reason)| PinInfo { against, reason }),
            incarnation: None,
            position: None,
            made_again: false,
        }
    }
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

impl From<Published> for Step {
    fn from(Published { seq, incarnation: _, time_ms, events }: Published) -> Self {
        Self { seq, time_ms, events }
    }
}

impl Step {
    fn published(self, incarnation: Option<Incarnation>) -> Published {
        let Self { seq, time_ms, events } = self;
        Published { seq, incarnation, time_ms, events }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self {
            code: error.code.as_str().into(),
            detail: error.detail.into_owned(),
            plugin: error.plugin,
            rejection: error.rejection.map(|rejection| *rejection),
            retry_after_ms: error.retry_after.map(millis),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let known = Code::ALL.iter().find(|code| code.as_str() == failure.code);
        Self {
            // A code that only the peer knows: what it says still helps.
            code: known.copied().unwrap_or(Code::Internal),
            detail: failure.detail.into(),
            plugin: failure.plugin,
            rejection: failure.rejection.map(Box::new),
            retry_after: failure.retry_after_ms.map(Duration::from_millis),
        }
    }
}

#[cfg(test)]
mod tests;
