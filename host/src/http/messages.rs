//! Sending a message, and asking a query.

use super::{
    Api,
    access::{Admitted, Who},
    connection::ConnShared,
    params::{self, OCTET_STREAM},
    problem,
    views::Binary,
};
use crate::{
    buffers::{Buffers, Charge, Kind},
    error::{Code, Error},
    limits,
    names::{ServiceName, SessionKey},
    node::{Answer, Cursor, Incoming, Sent},
    operation::Query,
    quota::Told,
};
use axum::{
    Extension,
    extract::{Request, State},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri, header};
use http_body::Body;
use http_body_util::BodyExt;
use std::{
    future::poll_fn,
    ops::Deref,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// The label of the hot route in metrics.
pub(super) const ROUTE: &str = "POST /v1/services/{service}/sessions/{session}/messages";

static SEQ: HeaderName = HeaderName::from_static("slotd-seq");
static POSITION: HeaderName = HeaderName::from_static("slotd-position");
static SLOT: HeaderName = HeaderName::from_static("slotd-slot");
static PLUGIN: HeaderName = HeaderName::from_static("slotd-plugin");
static REPLAYED: HeaderName = HeaderName::from_static("slotd-replayed");

/// By when a request must be answered.
pub(super) enum Deadline<'a> {
    /// The connection wakes this task when it is due: no cost per request.
    Connection(&'a ConnShared),
    Timer(tokio::time::Instant),
}

impl Deadline<'_> {
    pub(super) fn after(duration: Duration) -> Self {
        Self::Timer(crate::clock::timer_now() + duration)
    }
    /// `None`: the deadline passed.
    pub(super) async fn limit<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        match self {
            Self::Timer(at) => tokio::time::timeout_at(*at, work).await.ok(),
            Self::Connection(connection) => {
                poll_fn(|cx| match work.as_mut().poll(cx) {
                    Poll::Ready(done) => Poll::Ready(Some(done)),
                    Poll::Pending if connection.deadline_passed() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                })
                .await
            }
        }
    }
}

/// The two names in the path of a message, or `None` when it is another path.
pub(super) fn names_in(path: &str) -> Option<(&str, &str)> {
    let (service, rest) = path.strip_prefix("/v1/services/")?.split_once('/')?;
    let session = rest.strip_prefix("sessions/")?.strip_suffix("/messages")?;
    let plain = !service.is_empty() && !session.is_empty() && !session.contains('/');
    plain.then_some((service, session))
}

/// Checks, sends and awaits one message.
pub(super) async fn send<B>(
    api: &Api,
    key: Result<SessionKey, Error>,
    (uri, headers): (&Uri, &HeaderMap),
    body: B,
    deadline: Deadline<'_>,
    admitted: Admitted,
    told: &mut Told,
) -> Result<Sent, Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let key = key?;
    params::no_query(uri)?;
    let mut message = Incoming {
        id: params::idempotency_key(headers)?,
        sender: admitted.sender(params::sender(headers)?)?,
        content_type: params::content_type(headers)?,
        body: Bytes::new(),
        trace: params::trace(headers),
        client: admitted.client,
    };
    let client = message.client.clone();
    let bytes = exact(&body);
    let mut room = room_for(api, &**api.buffers(), &key.service, bytes);
    message.body = deadline
        .limit(pin!(read_body(body, api.options().body_bytes_max, &mut room)))
        .await
        .unwrap_or_else(|| Err(body_late()))?;
    let (bytes, id) = (message.body.len(), message.id.as_deref());
    api.limiter().admit(&key, client.as_deref(), bytes, id, told)?;
    // Dropped early by the deadline, the message may or may not be in the mailbox.
    let sent = deadline
        .limit(pin!(api.backend().send(&key, message)))
        .await
        .unwrap_or_else(|| Err(outcome_unknown()))?;
    api.backend().sent(&key.service, client.as_ref(), sent.body.len());
    Ok(sent)
}

fn exact(body: &impl Body) -> Option<usize> {
    body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Room for a message's body, of so many bytes if that is known. Small ones are nobody's: what it costs to know whose they
/// are is more than they take.
pub(super) fn room_for<B: Deref<Target = Buffers>>(
    api: &Api,
    buffers: B,
    service: &ServiceName,
    bytes: Option<usize>,
) -> Charge<B> {
    let is_small = bytes.is_some_and(|bytes| bytes <= limits::BODY_SHARED_BYTES_MIN);
    let load = if is_small { None } else { api.backend().load(service) };
    Charge::new(buffers, Kind::Bodies).of(load)
}

pub(super) fn body_late() -> Error {
    Error::new(Code::RequestTimeout, "the request's body did not arrive before the deadline")
}

pub(super) fn outcome_unknown() -> Error {
    Error::new(
        Code::OutcomeUnknown,
        "no answer before the deadline; repeat the request with the same idempotency key",
    )
}

/// A request's body, for which there is `room`. Reading stops at the limit.
///
/// # Errors
/// `body-too-large` and `buffers-full`, before anything is read if the length is announced;
/// `request-invalid` if it is cut off.
pub(super) async fn read_body<B, R>(
    mut body: B,
    bytes_max: usize,
    room: &mut Charge<R>,
) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes> + Unpin,
    R: Deref<Target = Buffers>,
{
    let too_large = || {
        Error::new(Code::BodyTooLarge, format!("the body is over the limit of {bytes_max} bytes"))
    };
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    room.check(usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX))?;
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| params::invalid("the body ended early, or is not encoded as announced"))?;
        // Trailers are not used here.
        let Ok(chunk) = frame.into_data() else { continue };
        let held = first.as_ref().map_or(all.len(), Bytes::len);
        if held + chunk.len() > bytes_max {
            return Err(too_large());
        }
        room.take(chunk.len())?;
        match first.take() {
            None if all.is_empty() && body.is_end_stream() => {
                return Ok(match chunk.len() {
                    0..=limits::BODY_COPY_BYTES_MAX => Bytes::copy_from_slice(&chunk),
                    _ => chunk,
                });
            }
            None if all.is_empty() => first = Some(chunk),
            Some(before) => {
                let expected = body.size_hint().exact().unwrap_or(0).min(bytes_max as u64);
                all.reserve(before.len() + chunk.len() + expected as usize);
                all.extend_from_slice(&before);
                all.extend_from_slice(&chunk);
            }
            None => all.extend_from_slice(&chunk),
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// The answer to a message.
pub(super) fn answer(result: Result<Sent, Error>, told: Told) -> Response<Bytes> {
    let mut response = sent_answer(result);
    told.write(response.headers_mut());
    response
}

fn sent_answer(result: Result<Sent, Error>) -> Response<Bytes> {
    let sent = match result {
        Ok(sent) => sent,
        Err(error) => return problem::response(&error),
    };
    let replayed = sent.replayed;
    let mut response = reply(&sent.content_type, sent.body);
    let headers = response.headers_mut();
    headers.insert(&SEQ, HeaderValue::from(sent.seq));
    let position = Cursor::after(sent.seq, sent.incarnation).to_string();
    if let Ok(position) = HeaderValue::try_from(position) {
        headers.insert(&POSITION, position);
    }
    headers.insert(&SLOT, HeaderValue::from(sent.slot));
    headers.insert(&PLUGIN, plugin_value(&sent.plugin));
    if replayed {
        headers.insert(&REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn query_answer(answer: Answer) -> Response<Bytes> {
    let mut response = reply(&answer.content_type, answer.body);
    let headers = response.headers_mut();
    headers.insert(&SEQ, HeaderValue::from(answer.seq));
    headers.insert(&SLOT, HeaderValue::from(answer.slot));
    headers.insert(&PLUGIN, plugin_value(&answer.plugin));
    response
}

fn reply(content_type: &str, body: Bytes) -> Response<Bytes> {
    let content_type = match content_type {
        "application/json" => HeaderValue::from_static("application/json"),
        "" => HeaderValue::from_static(OCTET_STREAM),
        // From the guest; a code that is invalid in a header is not shown.
        other => {
            HeaderValue::from_str(other).unwrap_or_else(|_| HeaderValue::from_static(OCTET_STREAM))
        }
    };
    let mut response = Response::new(body);
    let mut headers = HeaderMap::with_capacity(7);
    headers.insert(header::CONTENT_TYPE, content_type);
    *response.headers_mut() = headers;
    response
}

fn plugin_value(label: &str) -> HeaderValue {
    HeaderValue::from_str(label).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Sends a message to a session
///
/// The body is the message; the response's body is the handler's reply. When it arrives, the message
/// and everything it did is durable. With an `Idempotency-Key` the request can be repeated: it is
/// applied once, and repeats return the first reply.
#[utoipa::path(
    post,
    operation_id = "send",
    path = "/v1/services/{service}/sessions/{session}/messages",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("Idempotency-Key" = Option<String>, Header, description = "Identifies this message, 1 to 128 bytes: repeats are applied once"),
        ("Slotd-Sender" = Option<String>, Header, description = "The sender, 1 to 256 bytes; passed to the handler and kept in the history"),
        ("traceparent" = Option<String>, Header, description = "The trace that the message is part of (W3C Trace Context): requests over HTTP that it leads to carry it; ignored if invalid"),
    ),
    request_body(content = Binary, content_type = "*/*", description = "The message, of any content type"),
    responses(
        (status = 200, description = "The handler's reply, with the content type that it set", body = Binary, content_type = "*/*", headers(
            ("Slotd-Seq" = u64, description = "The message's sequence number in its session"),
            ("Slotd-Position" = String, description = "The position after this message, for `after`; it belongs to this session only, not to a later one of the same name"),
            ("Slotd-Slot" = u16, description = "The session's slot"),
            ("Slotd-Plugin" = String, description = "The version and short digest of the plugin that handled the message"),
            ("Slotd-Replayed" = Option<bool>, description = "`true`: the message is a repeat, and this is the stored reply"),
        )),
    )
)]
pub(super) async fn post(
    State(api): State<Api>,
    Extension(who): Extension<Arc<Who>>,
    request: Request,
) -> Response<axum::body::Body> {
    let (head, body) = request.into_parts();
    let deadline = Deadline::after(api.options().request_deadline);
    let key = params::session_of(&head.uri);
    let service = key.as_ref().map_or("", |key| key.service.as_str());
    let admitted = api.gate().admitted(&who, service);
    let mut told = Told::default();
    let sent =
        send(&api, key, (&head.uri, &head.headers), body, deadline, admitted, &mut told).await;
    answer(sent, told).map(Into::into)
}

/// Queries a session without changing it
///
/// The answer reflects every message that was acknowledged before it. With `at` it is the one that the session would have
/// given behind that message, from the version that handled it, whose clock stands at that message: 409 `seq-not-reached` if
/// the session has no such message, 410 `history-unavailable` if what it was can't be made again.
#[utoipa::path(
    post,
    path = "/v1/services/{service}/sessions/{session}/query",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("consistency" = Option<String>, Query, description = "`current` (default): includes everything acknowledged before the request; `local`: what the slot's node knows right now, which may be stale in a cluster"),
        ("at" = Option<u64>, Query, minimum = 1, description = "Asks the session as it was behind the message of this number. Excludes `consistency`"),
    ),
    request_body(content = Binary, content_type = "*/*", description = "The query, of any content type"),
    responses(
        (status = 200, description = "The handler's answer, with the content type that it set", body = Binary, content_type = "*/*", headers(
            ("Slotd-Seq" = u64, description = "The last message that the answer reflects"),
            ("Slotd-Slot" = u16, description = "The session's slot"),
            ("Slotd-Plugin" = String, description = "The version and short digest of the plugin that answered"),
        )),
    )
)]
pub(super) async fn query(
    State(api): State<Api>,
    Extension(who): Extension<Arc<Who>>,
    request: Request,
) -> Response<axum::body::Body> {
    let mut told = Told::default();
    let asked = ask(&api, &who, request, &mut told).await;
    let mut response = asked.map_or_else(|error| problem::response(&error), query_answer);
    told.write(response.headers_mut());
    response.map(Into::into)
}

async fn ask(api: &Api, who: &Who, request: Request, told: &mut Told) -> Result<Answer, Error> {
    let (head, body) = request.into_parts();
    let key = params::session_of(&head.uri)?;
    let query = params::Query::parse(&head.uri, &["consistency", "at"])?;
    let (consistency, at) = (query.consistency()?, query.at()?);
    let content_type = params::content_type(&head.headers)?;
    let deadline = Deadline::after(api.options().request_deadline);
    let bytes = exact(&body);
    let mut room = room_for(api, &**api.buffers(), &key.service, bytes);
    let body = deadline
        .limit(pin!(read_body(body, api.options().body_bytes_max, &mut room)))
        .await
        .unwrap_or_else(|| Err(body_late()))?;
    let (service, client) = (key.service.clone(), who.client());
    api.limiter().admit(&key, client.map(|it| &**it), body.len(), None, told)?;
    let asked = body.len();
    let query = Query { key, content_type, body, consistency, client: client.cloned() };
    let answer = match at {
        Some(at) => deadline.limit(pin!(api.backend().query_at(query, at))).await,
        None => deadline.limit(pin!(api.backend().call(query))).await,
    };
    let answer = answer.unwrap_or_else(|| Err(read_late()))?;
    // Now it is known that there is such a service: clients name them, and each name would have an account.
    api.backend().asked(&service, client, asked);
    api.backend().sent(&service, client, answer.body.len());
    Ok(answer)
}

fn read_late() -> Error {
    Error::new(Code::Unavailable, "no answer before the deadline")
}

/// Awaits a read within the request's deadline.
pub(super) async fn reading<T>(
    api: &Api,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let deadline = Deadline::after(api.options().request_deadline);
    deadline.limit(pin!(work)).await.unwrap_or_else(|| Err(read_late()))
}
