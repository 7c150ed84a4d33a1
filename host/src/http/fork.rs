//! Forking a session.

use super::{
    Api,
    access::Who,
    messages::{Deadline, body_late, outcome_unknown, read_body, room_for},
    params::{self, invalid},
    problem::Failed,
    views::{ForkedView, json},
};
use crate::{
    log::record::DeploymentId,
    names::{ServiceName, SessionId, SessionKey, SlotId},
    node::{Cursor, ForkAsk},
    quota::Told,
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
};
use http::Response;
use serde::{Deserialize, Serialize};
use slotd_access::{On, Verb};
use std::{pin::pin, sync::Arc};
use utoipa::ToSchema;

/// The most that a request's body has: a name with all of its characters escaped, and numbers.
const BODY_BYTES_MAX: usize = 8 * 1024;

/// What is to be forked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForkRequest {
    /// The id of the new session.
    to: String,
    /// The last message that it has of this one; without it, the last one that there is.
    #[schema(minimum = 1)]
    at: Option<u64>,
    /// The number of the deployment that it runs on: the one that handled that message, on which it stays until the next
    /// deploy, or the current one. Without it, it goes over to the current one with its next message, as any session does.
    deployment: Option<DeploymentId>,
}

/// A session that was forked.
#[derive(Serialize, ToSchema)]
pub(super) struct ForkView {
    #[schema(value_type = String)]
    service: ServiceName,
    /// The new one.
    #[schema(value_type = String)]
    session: SessionId,
    slot: SlotId,
    /// The last message that it has of the other one: its own begin with the next number.
    seq: u64,
    /// The position behind that message, in the new session.
    position: String,
    forked: ForkedView,
}

/// Forks a session
///
/// Makes a new session with the history of this one up to a message, and with the state that this one had behind it. From there
/// on it is a session of its own, whose messages go on with the next number. Nothing is copied but the state and the last
/// message: what came before is read in this session, for as long as it is there. Timers, requests, and messages on their way
/// stay with this session alone. The same request gets the same answer again. It needs the right `fork` on both sessions.
/// 409 `session-exists` if there is another session of the new name, 409 `seq-not-reached` and 410 `history-unavailable` as for
/// a session as it was.
#[utoipa::path(
    post,
    operation_id = "fork",
    path = "/v1/services/{service}/sessions/{session}/fork",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
    ),
    request_body(content = ForkRequest, content_type = "application/json", description = "What is to be forked"),
    responses((status = 200, description = "The new session; durable", body = ForkView, content_type = "application/json"))
)]
pub(super) async fn post(
    State(api): State<Api>,
    Extension(who): Extension<Arc<Who>>,
    request: Request,
) -> Result<Response<Body>, Failed> {
    let (head, body) = request.into_parts();
    let key = params::session_of(&head.uri)?;
    params::no_query(&head.uri)?;
    let deadline = Deadline::after(api.options().request_deadline);
    let mut room = room_for(&api, &**api.buffers(), &key.service, None);
    let body = deadline.limit(pin!(read_body(body, BODY_BYTES_MAX, &mut room))).await;
    let body = body.unwrap_or_else(|| Err(body_late()))?;
    let asked: ForkRequest = serde_json::from_slice(&body)
        .map_err(|e| invalid(format!("the body does not say what to fork: {e}")))?;
    if asked.at == Some(0) {
        return Err(invalid("\"at\" is 0; messages are numbered from 1").into());
    }
    let to = SessionId::parse(&asked.to)?;
    api.gate().allows(&who, Verb::Fork, On::Session(key.service.as_str(), to.as_str()))?;
    let new = SessionKey { service: key.service.clone(), session: to.clone() };
    // As a message to the new one.
    let by = who.client().cloned();
    api.limiter().admit(&new, by.as_deref(), body.len(), None, &mut Told::default())?;
    let ask = ForkAsk { key, to, at: asked.at, deployment: asked.deployment, by };
    let done = deadline.limit(pin!(api.backend().fork(ask))).await;
    let done = done.unwrap_or_else(|| Err(outcome_unknown()))?;
    let seq = done.forked.at;
    Ok(json(&ForkView {
        service: done.key.service,
        session: done.key.session,
        slot: done.slot,
        seq,
        position: Cursor::after(seq, done.incarnation).to_string(),
        forked: ForkedView::new(&done.forked),
    }))
}
