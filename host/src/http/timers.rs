//! The admin API on timers, on messages to other sessions, on requests over HTTP, and on messages that were given up.

use super::{
    Admin,
    admin::change,
    audit::Note,
    params::{self, Query, invalid},
    problem::Failed,
    views::{DeadPage, EffectChanged, OutboxPage, TimersPage, json},
};
use crate::{
    effects::{http::id_problem, timer::name_problem},
    error::Error,
    names::{SessionId, SessionKey},
    node::EffectKind,
    operation::{EffectAction, EffectsPage},
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
    let (page, next_after) = page_of_service(&admin, &uri, EffectKind::Due, "timers").await?;
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
    let page = all_of_session(&admin, &uri).await?;
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
pub(super) async fn cancel(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let (key, timer) = named(&uri)?;
    act(&admin, &note, key, EffectAction::CancelTimer { timer }).await
}

/// Lists a service's outbox
///
/// Messages that its sessions have sent to others and are not done with: on their way, waiting to be sent again, or
/// with an outcome that the handler has not taken yet; and requests over HTTP that are open, or whose answer the handler has
/// failed. Without their bodies. A page may have fewer than `limit`, even
/// none: there are more as long as there is a `next_after`.
#[utoipa::path(
    get,
    operation_id = "outbox",
    path = "/admin/v1/services/{service}/outbox",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("after" = Option<String>, Query, description = "`next_after` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "About how many; default 100"),
    ),
    responses((status = 200, description = "A page", body = OutboxPage, content_type = "application/json"))
)]
pub(super) async fn outbox_of_service(State(admin): State<Admin>, uri: Uri) -> Answer {
    let (page, next_after) = page_of_service(&admin, &uri, EffectKind::Outbox, "an outbox").await?;
    Ok(json(&OutboxPage::new(&page, next_after, false)))
}

/// Lists a session's outbox
///
/// All that it has sent to others, or asked for over HTTP, and is not done with, with their bodies.
#[utoipa::path(
    get,
    operation_id = "session_outbox",
    path = "/admin/v1/services/{service}/sessions/{session}/outbox",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
    ),
    responses((status = 200, description = "The messages", body = OutboxPage, content_type = "application/json"))
)]
pub(super) async fn outbox_of_session(State(admin): State<Admin>, uri: Uri) -> Answer {
    let page = all_of_session(&admin, &uri).await?;
    Ok(json(&OutboxPage::new(&page, None, true)))
}

/// Lists a service's dead messages
///
/// Messages that were given up, of timers and to other sessions, and answers to requests over HTTP, by session, without their
/// bodies. A timer's that is
/// tried again is here until it is handled. A page ends with a session, so it may have some more than `limit`; or fewer, even none: there are
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
/// All of them, with their bodies.
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
    let page = all_of_session(&admin, &uri).await?;
    Ok(json(&DeadPage::new(&page, None, true)))
}

/// Tries a dead message of a timer again
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
pub(super) async fn retry(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let (key, timer) = named(&uri)?;
    let due_ms = params::due_of(&uri)?;
    act(&admin, &note, key, EffectAction::RetryDead { timer, due_ms }).await
}

/// Drops a dead message of a timer
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
pub(super) async fn drop_dead(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let (key, timer) = named(&uri)?;
    let due_ms = params::due_of(&uri)?;
    act(&admin, &note, key, EffectAction::DropDead { timer, due_ms }).await
}

/// Tries a dead message to another session again
///
/// Or an outcome. At once, and as often as the first time before it is given up again. It is no longer dead then: it
/// is in the outbox.
#[utoipa::path(
    post,
    operation_id = "retry_dead_send",
    path = "/admin/v1/services/{service}/sessions/{session}/dead/{message}/retry",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("message" = String, Path, description = "The message's id"),
    ),
    responses((status = 200, description = "It is tried again, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn retry_send(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let (key, place) = (params::admin_session_of(&uri)?, params::place_of(&uri)?);
    act(&admin, &note, key, EffectAction::RetryDeadSend(place)).await
}

/// Drops a dead message to another session
///
/// Or an outcome. It is never tried again.
#[utoipa::path(
    delete,
    operation_id = "drop_dead_send",
    path = "/admin/v1/services/{service}/sessions/{session}/dead/{message}",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("message" = String, Path, description = "The message's id"),
    ),
    responses((status = 200, description = "It is dropped, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn drop_send(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let (key, place) = (params::admin_session_of(&uri)?, params::place_of(&uri)?);
    act(&admin, &note, key, EffectAction::DropDeadSend(place)).await
}

/// Cancels a request over HTTP
///
/// It is made no more, and no answer to it comes, also not one that waits since the handler has failed it. What was sent by
/// then may have its effect.
#[utoipa::path(
    delete,
    operation_id = "cancel_request",
    path = "/admin/v1/services/{service}/sessions/{session}/requests/{request}",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("request" = String, Path, description = "The request's id, percent-encoded"),
    ),
    responses((status = 200, description = "It is cancelled, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn cancel_request(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let (key, id) = request_named(&uri)?;
    act(&admin, &note, key, EffectAction::CancelRequest { id }).await
}

/// Tries a dead answer to a request again
///
/// The handler is called with it at once, and as often as the first time before it is given up again. The request is not made
/// again. It is no longer dead then: it is in the outbox. While a request of that id is open, or another answer is there, it is 404.
#[utoipa::path(
    post,
    operation_id = "retry_dead_answer",
    path = "/admin/v1/services/{service}/sessions/{session}/requests/{request}/dead/{time_ms}/retry",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("request" = String, Path, description = "The request's id, percent-encoded"),
        ("time_ms" = u64, Path, description = "`time_ms` of the dead answer"),
    ),
    responses((status = 200, description = "It is tried again, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn retry_answer(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let (key, id) = request_named(&uri)?;
    let time = params::time_of(&uri)?;
    act(&admin, &note, key, EffectAction::RetryDeadAnswer { id, time }).await
}

/// Drops a dead answer to a request
///
/// It is never tried again.
#[utoipa::path(
    delete,
    operation_id = "drop_dead_answer",
    path = "/admin/v1/services/{service}/sessions/{session}/requests/{request}/dead/{time_ms}",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("request" = String, Path, description = "The request's id, percent-encoded"),
        ("time_ms" = u64, Path, description = "`time_ms` of the dead answer"),
    ),
    responses((status = 200, description = "It is dropped, durably", body = EffectChanged, content_type = "application/json"))
)]
pub(super) async fn drop_answer(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let (key, id) = request_named(&uri)?;
    let time = params::time_of(&uri)?;
    act(&admin, &note, key, EffectAction::DropDeadAnswer { id, time }).await
}

/// A page of what a service has by places that mean nothing to a client, and the next page's.
async fn page_of_service(
    admin: &Admin,
    uri: &Uri,
    kind: EffectKind,
    what: &str,
) -> Result<(EffectsPage, Option<String>), Failed> {
    let service = params::admin_service_of(uri)?;
    let query = Query::parse(uri, &["after", "limit"])?;
    let (limit, after) = (query.limit()?, place_among(&query, what)?);
    let page = admin.reading(admin.node()?.effects(&service, kind, after, limit)).await?;
    let next_after = page.reached.as_ref().map(|place| BASE64.encode(place));
    Ok((page, next_after))
}

/// All effects of a session.
async fn all_of_session(admin: &Admin, uri: &Uri) -> Result<EffectsPage, Failed> {
    params::no_query(uri)?;
    let key = params::admin_session_of(uri)?;
    Ok(admin.reading(admin.node()?.session_effects(&key)).await?)
}

fn place_among(query: &Query, what: &str) -> Result<Option<Bytes>, Error> {
    let after = query.get("after").map(|after| {
        let wrong = |_| {
            invalid(format!("query parameter \"after\" is no `next_after` of a page of {what}"))
        };
        BASE64.decode(after).map(Bytes::from).map_err(wrong)
    });
    after.transpose()
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

/// The session and the request of a path.
fn request_named(uri: &Uri) -> Result<(SessionKey, String), Error> {
    params::no_query(uri)?;
    let (key, id) = (params::admin_session_of(uri)?, params::request_of(uri)?);
    match id_problem(&id) {
        Some(problem) => Err(Error::name_invalid(problem)),
        None => Ok((key, id)),
    }
}

async fn act(admin: &Admin, note: &Note, key: SessionKey, action: EffectAction) -> Answer {
    let node = admin.node()?.clone();
    // What is changed is in the path.
    change(note, &[], async move {
        node.change_effect(&key, action.clone()).await?;
        Ok(EffectChanged::new(&key, action))
    })
    .await
}
