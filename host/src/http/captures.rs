//! Captures: messages of sessions as files that run again elsewhere.

use super::{
    Admin,
    access::body,
    admin::{change, to_its_end},
    audit::Note,
    messages::Deadline,
    params::{self, Query},
    problem::Failed,
    views::json,
};
use crate::{
    capture::Redaction,
    captures::CaptureInfo,
    error::{Code, Error},
    limits,
    names::ServiceName,
    node::{CaptureSpec, SilentNode},
};
use axum::{
    body::Body,
    extract::{Request, State},
};
use http::{HeaderValue, Response, Uri, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

type Answer = Result<Response<Body>, Failed>;

/// What to capture.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureRequest {
    /// The message; default: the last one.
    seq: Option<u64>,
    /// What to leave out, beside what the policy of the service says.
    #[schema(example = json!(["$.card", "state.$..email", "sender"]))]
    redact: Vec<String>,
    /// Whether the component itself is to be in the file; default: only its digest.
    component: bool,
}

/// Captures that nodes have made by themselves.
#[derive(Serialize, ToSchema)]
pub struct CaptureListView {
    captures: Vec<CaptureInfo>,
    /// Nodes that did not answer: what they have is missing.
    silent: Vec<SilentNode>,
}

/// A capture that was removed.
#[derive(Serialize, ToSchema)]
pub struct CaptureRemoved {
    name: String,
}

/// Captures a message
///
/// The file has the component's digest, the session before the message, the message with its time and origin, and what came
/// out; `slotd plugin replay` runs it anywhere. The messages before it run again, in memory, on threads of a low priority;
/// nothing that is stored changes. What is redacted is left out first, and the message is run again without it, so that it is
/// in no part of the file. See docs/capture.md for the format.
#[utoipa::path(
    post,
    operation_id = "capture",
    path = "/admin/v1/services/{service}/sessions/{session}/captures",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
    ),
    request_body(content = CaptureRequest, content_type = "application/json"),
    responses((status = 200, description = "The capture's file", body = Object, content_type = "application/json"))
)]
pub(super) async fn make(State(admin): State<Admin>, note: Note, request: Request) -> Answer {
    let (head, sent) = request.into_parts();
    params::no_query(&head.uri)?;
    let key = params::admin_session_of(&head.uri)?;
    let deadline = Deadline::after(admin.request_deadline());
    let CaptureRequest { seq, redact, component } =
        body(sent, &admin.0.options.buffers, &deadline).await?;
    if let Some(seq) = seq {
        note.asked("seq", seq);
    }
    note.asked("component", component);
    note.asked("redact", redact.clone());
    let redact = redactions(&redact)?;
    let node = admin.node()?.clone();
    let spec = CaptureSpec { seq, redact, with_component: component };
    let capture = to_its_end(async move { node.capture(key, spec).await }).await?;
    note.after("seq", capture.message.seq);
    let text = capture.text().map_err(|why| Error::internal(format!("a capture: {why}")))?;
    Ok(file(text.into_bytes()))
}

fn redactions(texts: &[String]) -> Result<Vec<Redaction>, Error> {
    if texts.len() > limits::CAPTURE_REDACTIONS_MAX {
        let most = limits::CAPTURE_REDACTIONS_MAX;
        return Err(params::invalid(format!("at most {most} places can be redacted")));
    }
    texts.iter().map(|text| text.parse::<Redaction>().map_err(params::invalid)).collect()
}

fn file(bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Lists the captures that nodes have made by themselves
///
/// Of messages whose handlers trapped or exceeded their deadline; the latest last, from all nodes. Each node keeps three of a
/// component and a kind, and 200 in all.
#[utoipa::path(
    get,
    operation_id = "captures",
    path = "/admin/v1/captures",
    tag = "admin",
    params(("service" = Option<String>, Query, description = "Only of this service")),
    responses((status = 200, description = "The list", body = CaptureListView, content_type = "application/json"))
)]
pub(super) async fn list(State(admin): State<Admin>, uri: Uri) -> Answer {
    let query = Query::parse(&uri, &["service"])?;
    let service = query.get("service").map(ServiceName::parse).transpose()?;
    let node = admin.node()?;
    let found = admin.reading(node.captures(service)).await?;
    Ok(json(&CaptureListView { captures: found.captures, silent: found.silent }))
}

/// Fetches a capture that a node has made by itself
///
/// Needs the right `operate`: it has what a session and its message have, but for what the policy of the service redacts.
#[utoipa::path(
    post,
    operation_id = "fetch_capture",
    path = "/admin/v1/captures/{capture}",
    tag = "admin",
    params(("capture" = String, Path, description = "Its name")),
    responses((status = 200, description = "The capture's file", body = Object, content_type = "application/json"))
)]
pub(super) async fn fetch(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let name = name_of(&uri)?;
    note.asked("capture", name.as_str());
    let node = admin.node()?;
    Ok(file(admin.reading(node.own_capture(&name)).await?))
}

/// Removes a capture that a node has made by itself
///
/// The next message that fails so is captured again.
#[utoipa::path(
    delete,
    operation_id = "remove_capture",
    path = "/admin/v1/captures/{capture}",
    tag = "admin",
    params(("capture" = String, Path, description = "Its name")),
    responses((status = 200, description = "It is removed", body = CaptureRemoved, content_type = "application/json"))
)]
pub(super) async fn remove(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let name = name_of(&uri)?;
    note.asked("capture", name.as_str());
    let node = admin.node()?.clone();
    change(&note, &["name"], async move {
        node.remove_capture(&name).await?;
        Ok(CaptureRemoved { name })
    })
    .await
}

/// The capture of `/admin/v1/captures/{capture}`.
fn name_of(uri: &Uri) -> Result<String, Error> {
    let raw = params::segment(uri, 4);
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match (1..=limits::CAPTURE_NAME_BYTES_MAX).contains(&raw.len()) && raw.bytes().all(is_plain) {
        true => Ok(raw.to_owned()),
        false => Err(Error::new(Code::CaptureNotFound, format!("{raw:?} is not a capture"))),
    }
}
