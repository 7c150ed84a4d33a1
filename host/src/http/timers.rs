//! The admin API on timers, and on messages of timers that were given up.

use super::{
    Admin,
    admin::change,
    params::{self, Query, invalid},
    problem::Failed,
    views::{DeadPage, EffectChanged, TimersPage, json},
};
use crate::{
    effects::timer::name_problem,
    error::Error,
    names::{SessionId, SessionKey},
    node::EffectKind,
    operation::EffectAction,
};
use axum::{body::Body, extract::State};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{Response, Uri};

type Answer = Result<Response<Body>, Failed>;

/// Lists a service's timers
///
/// Over all slots, what is due first comes first; without their bodies. A page may have fewer than `limit`, even
/// none: there are more as long as there is a `next_after`.
#[utoipa::path(
    get,
    operation_id = "timers",
    path = "/admin/v1/services/{service}/timers",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("after" = Option<String>, Query, description = "`next_after` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "About how many; default 100"),
    ),
    responses((status = 200, description = "A page", body = TimersPage, content_type = "application/json"))
)]
pub(super) async fn of_service(State(admin): State<Admin>, uri: Uri) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let query = Query::parse(&uri, &["after", "limit"])?;
    let limit = query.limit()?;
    let after = query.get("after").map(|after| {
        let wrong = |_| invalid("query parameter \"after\" is no `next_after` of a page of timers");
        BASE64.decode(after).map(Bytes::from).map_err(wrong)
    });
    let (after, kind) = (after.transpose()?, EffectKind::Due);
    let page = admin.reading(admin.node()?.effects(&service, kind, after, limit)).await?;
    let next_after = page.reached.as_ref().map(|place| BASE64.encode(place));
    Ok(json(&TimersPage::new(&page, next_after, false)))
}

/// Lists a session's timers
///
/// All of them, by name, with their bodies.
#[utoipa::path(
    get,
    operation_id = "session_timers",
    path = "/admin/v1/services/{service}/sessions/{session}/timers",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
    ),
    responses((status = 200, description = "The timers", body = TimersPage, content_type = "application/json"))
)]
pub(super) async fn of_session(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let key = params::admin_session_of(&uri)?;
    let page = admin.reading(admin.node()?.session_effects(&key)).await?;
    Ok(json(&TimersPage::new(&page, None, true)))
}

/// Cancels a timer
///
/// It does not fire any more, nor is a message of it that failed tried again. What the handler did before stays.
#[utoipa::path(
    delete,
    operation_id = "cancel_timer",
    path = "/admin/v1/services/{service}/sessions/{session}/timers/{timer}",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("timer" = String, Path, description = "The timer's name, percent-encoded"),
    ),
    responses((status = 200, description = "It is cancelled, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn cancel(State(admin): State<Admin>, uri: Uri) -> Answer {
    let (key, timer) = named(&uri)?;
    act(&admin, key, EffectAction::CancelTimer { timer }).await
}

/// Lists a service's dead messages
///
/// Messages of timers that were given up, by session, without their bodies. What is tried again is here until it
/// is handled. A page ends with a session, so it may have some more than `limit`; or fewer, even none: there are
/// more as long as there is a `next_after`.
#[utoipa::path(
    get,
    operation_id = "dead",
    path = "/admin/v1/services/{service}/dead",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("after" = Option<String>, Query, description = "`next_after` of the page before: a session's id"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "About how many; default 100"),
    ),
    responses((status = 200, description = "A page", body = DeadPage, content_type = "application/json"))
)]
pub(super) async fn dead_of_service(State(admin): State<Admin>, uri: Uri) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let query = Query::parse(&uri, &["after", "limit"])?;
    let limit = query.limit()?;
    let after = query.get("after").map(SessionId::parse).transpose()?;
    let after = after.map(|after| Bytes::copy_from_slice(after.as_str().as_bytes()));
    let kind = EffectKind::Dead;
    let page = admin.reading(admin.node()?.effects(&service, kind, after, limit)).await?;
    let next_after = page.reached.as_ref().map(|id| String::from_utf8_lossy(id).into_owned());
    Ok(json(&DeadPage::new(&page, next_after, false)))
}

/// Lists a session's dead messages
///
/// All of them, by their timers' names, with their bodies.
#[utoipa::path(
    get,
    operation_id = "session_dead",
    path = "/admin/v1/services/{service}/sessions/{session}/dead",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
    ),
    responses((status = 200, description = "The messages", body = DeadPage, content_type = "application/json"))
)]
pub(super) async fn dead_of_session(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let key = params::admin_session_of(&uri)?;
    let page = admin.reading(admin.node()?.session_effects(&key)).await?;
    Ok(json(&DeadPage::new(&page, None, true)))
}

/// Tries a dead message again
///
/// At once, and as often as the first time before it is given up again.
#[utoipa::path(
    post,
    operation_id = "retry_dead",
    path = "/admin/v1/services/{service}/sessions/{session}/dead/{timer}/{due_ms}/retry",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("timer" = String, Path, description = "The timer's name, percent-encoded"),
        ("due_ms" = u64, Path, description = "The time that the message was for, in milliseconds since the Unix epoch"),
    ),
    responses((status = 200, description = "It is tried again, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn retry(State(admin): State<Admin>, uri: Uri) -> Answer {
    let (key, timer) = named(&uri)?;
    let due_ms = params::due_of(&uri)?;
    act(&admin, key, EffectAction::RetryDead { timer, due_ms }).await
}

/// Drops a dead message
///
/// It is never tried again.
#[utoipa::path(
    delete,
    operation_id = "drop_dead",
    path = "/admin/v1/services/{service}/sessions/{session}/dead/{timer}/{due_ms}",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("timer" = String, Path, description = "The timer's name, percent-encoded"),
        ("due_ms" = u64, Path, description = "The time that the message was for, in milliseconds since the Unix epoch"),
    ),
    responses((status = 200, description = "It is dropped, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn drop_dead(State(admin): State<Admin>, uri: Uri) -> Answer {
    let (key, timer) = named(&uri)?;
    let due_ms = params::due_of(&uri)?;
    act(&admin, key, EffectAction::DropDead { timer, due_ms }).await
}

/// The session and the timer of a path.
fn named(uri: &Uri) -> Result<(SessionKey, String), Error> {
    params::no_query(uri)?;
    let (key, timer) = (params::admin_session_of(uri)?, params::timer_of(uri)?);
    match name_problem(&timer) {
        Some(problem) => Err(Error::name_invalid(problem)),
        None => Ok((key, timer)),
    }
}

async fn act(admin: &Admin, key: SessionKey, action: EffectAction) -> Answer {
    let node = admin.node()?.clone();
    change(async move {
        node.change_effect(&key, action.clone()).await?;
        Ok(EffectChanged::new(&key, action))
    })
    .await
}
