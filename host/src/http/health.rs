//! Whether the process lives, and whether it can serve.

use super::{
    Admin, Api, Problem, openapi, params,
    problem::Failed,
    views::{Health, json},
};
use crate::error::{Code, Error};
use axum::{body::Body, extract::State};
use http::{HeaderValue, Response, Uri, header};

/// Liveness: whether the process serves
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    security(()),
    responses(
        (status = 200, description = "The process serves", body = Health, content_type = "application/json"),
        (status = 503, description = "The worker threads are stalled (reported by the admin listener, which has its own threads)", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn live() -> Response<Body> {
    json(&Health { status: "ok", note: None })
}

/// As `/healthz` of the API listener, which can't answer while the worker threads are stalled.
pub(super) async fn admin_live(State(admin): State<Admin>) -> Result<Response<Body>, Failed> {
    moves(&admin)?;
    Ok(live().await)
}

fn moves(admin: &Admin) -> Result<(), Error> {
    match admin.0.heartbeat.complaint() {
        Some(why) => Err(Error::new(Code::Unavailable, why)),
        None => Ok(()),
    }
}

/// Readiness: whether the node can take requests
///
/// 503 while it starts or stops, or reaches too few of the other nodes to serve requests for their
/// slots, with the reason.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    security(()),
    responses((status = 200, description = "The node can take requests", body = Health, content_type = "application/json"))
)]
pub(super) async fn ready(State(api): State<Api>) -> Result<Response<Body>, Failed> {
    answer(api.0.shutdown.is_triggered(), || api.backend().ready())
}

/// As `/readyz` of the API listener.
pub(super) async fn admin_ready(State(admin): State<Admin>) -> Result<Response<Body>, Failed> {
    moves(&admin)?;
    answer(admin.0.shutdown.is_triggered(), || admin.node()?.ready())
}

fn answer(
    stopping: bool,
    ready: impl FnOnce() -> Result<Option<String>, Error>,
) -> Result<Response<Body>, Failed> {
    if stopping {
        return Err(Error::new(Code::Unavailable, "the node is stopping").into());
    }
    // Whatever the reason, an orchestrator asks for 503.
    let note = ready().map_err(|e| Error::new(Code::Unavailable, e.detail))?;
    Ok(json(&Health { status: "ready", note }))
}

/// The OpenAPI document of both listeners
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "health",
    security(()),
    responses((status = 200, description = "This document", body = Object, content_type = "application/json"))
)]
pub(super) async fn openapi(uri: Uri) -> Result<Response<Body>, Failed> {
    params::no_query(&uri)?;
    let mut response = Response::new(Body::from(openapi::document_json()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
