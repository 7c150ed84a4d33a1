//! Deploys in the gate.

use super::{
    Admin,
    access::Who,
    admin::{author, change},
    audit::Note,
    params::{self, Query, invalid},
    problem::Failed,
    views::json,
};
use crate::{
    error::Error,
    gate_report::{Mode, Want},
    node::{GateOptions, GateView},
};
use axum::{Extension, body::Body, extract::State};
use http::{HeaderMap, Response, Uri};
use std::sync::Arc;

type Answer = Result<Response<Body>, Failed>;

/// Parameters of a deploy that are for the gate.
pub(super) const PARAMETERS: [&str; 9] =
    ["gate", "accept", "dry_run", "confirm", "sessions", "messages", "seed", "time_ms", "threads"];

/// What a deploy asks of the gate.
pub(super) fn options(query: &Query) -> Result<GateOptions, Error> {
    let mode = match query.get("gate") {
        None => None,
        Some("strict") => Some(Mode::Strict),
        Some("report") => Some(Mode::Report),
        Some("off") => Some(Mode::Off),
        Some(other) => {
            let why = format!("query parameter \"gate\": {other:?} is not strict, report or off");
            return Err(invalid(why));
        }
    };
    let accept = query.get("accept").unwrap_or_default();
    let accept = accept.split(',').map(str::trim).filter(|want| !want.is_empty());
    let accept: Result<Vec<Want>, String> = accept.map(str::parse).collect();
    let threads = query.u64("threads")?;
    Ok(GateOptions {
        mode,
        accept: accept.map_err(|why| invalid(format!("query parameter \"accept\": {why}")))?,
        sessions: query.u64("sessions")?,
        messages: query.u64("messages")?,
        seed: query.u64("seed")?,
        time_ms: query.u64("time_ms")?,
        threads: threads.map(|threads| usize::try_from(threads).unwrap_or(usize::MAX)),
        dry_run: query.bool("dry_run")?.unwrap_or(false),
        confirm: query.bool("confirm")?.unwrap_or(false),
    })
}

/// What the audit log has of that.
pub(super) fn note(note: &Note, options: &GateOptions) {
    if let Some(mode) = options.mode {
        let mode = match mode {
            Mode::Strict => "strict",
            Mode::Report => "report",
            Mode::Off => "off",
        };
        note.asked("gate", mode);
    }
    if !options.accept.is_empty() {
        let accept: Vec<_> = options.accept.iter().map(ToString::to_string).collect();
        note.asked("accept", accept.join(","));
    }
    for (name, is_set) in [("dry_run", options.dry_run), ("confirm", options.confirm)] {
        if is_set {
            note.asked(name, true);
        }
    }
}

/// Shows a service's last gate
///
/// How far it is, or what came of it. The last reports of deployments are kept.
#[utoipa::path(
    get,
    operation_id = "gate_report",
    path = "/admin/v1/services/{service}/gate",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("deployment" = Option<String>, Query, description = "The report of this deployment instead: its number, label or version"),
    ),
    responses((status = 200, description = "The gate", body = GateView, content_type = "application/json"))
)]
pub(super) async fn report(State(admin): State<Admin>, uri: Uri) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let query = Query::parse(&uri, &["deployment"])?;
    let node = admin.node()?;
    Ok(json(&admin.reading(node.gate(&service, query.get("deployment"))).await?))
}

/// Confirms what differs
///
/// Of a deploy that was asked for with `confirm`, whose gate has the verdict `confirming`: its slots switch then.
#[utoipa::path(
    post,
    operation_id = "confirm_gate",
    path = "/admin/v1/services/{service}/gate",
    tag = "admin",
    params(("service" = String, Path, description = "The service")),
    responses((status = 200, description = "It is confirmed", body = GateView, content_type = "application/json"))
)]
pub(super) async fn confirm(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let service = params::admin_service_of(&uri)?;
    let node = admin.node()?.clone();
    change(&note, &["gate", "to"], async move { node.confirm_gate(&service).await }).await
}

/// Ends a deploy that is in the gate
///
/// Nothing has moved then. Once it is decided that its slots switch, it can't be ended any more: roll back.
#[utoipa::path(
    delete,
    operation_id = "cancel_gate",
    path = "/admin/v1/services/{service}/gate",
    tag = "admin",
    params(("service" = String, Path, description = "The service")),
    responses((status = 200, description = "It has ended", body = GateView, content_type = "application/json"))
)]
pub(super) async fn cancel(
    State(admin): State<Admin>,
    Extension(who): Extension<Arc<Who>>,
    note: Note,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    params::no_query(&uri)?;
    let service = params::admin_service_of(&uri)?;
    let by = author(&headers, &who)?;
    let node = admin.node()?.clone();
    change(&note, &["gate", "to"], async move { node.cancel_gate(&service, &by).await }).await
}
