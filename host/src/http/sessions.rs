//! Describing, deleting and listing sessions.

use super::{
    Api,
    access::Who,
    messages::{Deadline, outcome_unknown, reading},
    params::{self, Query},
    problem::Failed,
    views::{SessionInfo, SessionsPage, json, page_bytes},
};
use crate::{
    names::SessionId,
    operation::{Delete, Describe},
};
use axum::{Extension, body::Body, extract::State};
use http::{Response, StatusCode, Uri};
use std::sync::Arc;

/// Describes a session
///
/// With `at`, as it was behind that message: its history is run again up to there, in memory. 409 `seq-not-reached` if the
/// session has no such message, 410 `history-unavailable` if what it was can't be made again.
#[utoipa::path(
    get,
    operation_id = "session",
    path = "/v1/services/{service}/sessions/{session}",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("consistency" = Option<String>, Query, description = "`current` (default): includes everything acknowledged before the request; `local`: what the slot's node knows right now, which may be stale in a cluster"),
        ("at" = Option<u64>, Query, minimum = 1, description = "As it was behind the message of this number. `pinned` is left out: no history has it. Excludes `consistency`"),
    ),
    responses((status = 200, description = "The session", body = SessionInfo, content_type = "application/json"))
)]
pub(super) async fn get(State(api): State<Api>, uri: Uri) -> Result<Response<Body>, Failed> {
    let key = params::session_of(&uri)?;
    let query = Query::parse(&uri, &["consistency", "at"])?;
    let info = match query.at()? {
        Some(at) => reading(&api, api.backend().session_at(&key, at)).await?,
        None => {
            let consistency = query.consistency()?;
            reading(&api, api.backend().call(Describe { key, consistency })).await?
        }
    };
    Ok(json(&SessionInfo::with_position(info)))
}

/// Deletes a session with its state and history
///
/// Subscribers are notified. A new message to the same id starts a new session, at sequence
/// number 1.
#[utoipa::path(
    delete,
    operation_id = "delete_session",
    path = "/v1/services/{service}/sessions/{session}",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
    ),
    responses((status = 204, description = "The session is deleted"))
)]
pub(super) async fn delete(State(api): State<Api>, uri: Uri) -> Result<StatusCode, Failed> {
    let key = params::session_of(&uri)?;
    params::no_query(&uri)?;
    let deadline = Deadline::after(api.options().request_deadline);
    deadline
        .limit(std::pin::pin!(api.backend().call(Delete { key })))
        .await
        .unwrap_or_else(|| Err(outcome_unknown()))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a service's sessions
///
/// In order of their ids, a page at a time.
#[utoipa::path(
    get,
    operation_id = "sessions",
    path = "/v1/services/{service}/sessions",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("prefix" = Option<String>, Query, description = "Only ids that start with this"),
        ("after" = Option<String>, Query, description = "Only ids after this one"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of sessions; default 100"),
    ),
    responses((status = 200, description = "A page", body = SessionsPage, content_type = "application/json"))
)]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(who): Extension<Arc<Who>>,
    uri: Uri,
) -> Result<Response<Body>, Failed> {
    let service = params::service_of(&uri)?;
    let query = Query::parse(&uri, &["prefix", "after", "limit"])?;
    let limit = query.limit()?;
    let prefix = query.get("prefix").unwrap_or_default();
    let after = query.get("after").map(SessionId::parse).transpose()?;
    let found = api.backend().sessions(&service, prefix, after.as_ref(), limit + 1);
    let page = json(&SessionsPage::new(reading(&api, found).await?, limit));
    api.backend().sent(&service, who.client(), page_bytes(&page));
    Ok(page)
}
