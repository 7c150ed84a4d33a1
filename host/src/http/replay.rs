//! Audits: whether what is stored comes out again.

use super::{
    Admin,
    admin::change,
    audit::Note,
    params::{self, Query},
    problem::Failed,
    views::json,
};
use crate::{
    error::{Code, Error},
    names::SessionId,
    node::AuditReport,
    random,
    replay::AuditSpec,
};
use axum::{body::Body, extract::State};
use http::{Response, Uri};

type Answer = Result<Response<Body>, Failed>;

/// Begins an audit of a service's sessions
///
/// Runs their messages again, in memory, on the deployments that handled them, and compares what comes out with what is
/// stored: replies, events, effects and, at the end, the state. Each node runs the sessions of its own slots, on threads
/// of a low priority; nothing that is stored changes. The response is sent at once: ask for the audit until its verdict
/// is not `running`. A service has one audit at a time: a new one ends the one before.
#[utoipa::path(
    post,
    operation_id = "start_audit",
    path = "/admin/v1/services/{service}/audits",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = Option<String>, Query, description = "Only this session"),
        ("from" = Option<u64>, Query, minimum = 1, description = "Of one session: compare its messages from this one on. Those before are run too"),
        ("to" = Option<u64>, Query, minimum = 1, description = "Of one session: end with this message"),
        ("sample" = Option<u64>, Query, minimum = 1, maximum = 100000, description = "Only so many sessions, chosen by the seed"),
        ("seed" = Option<u64>, Query, description = "The same seed chooses the same sessions again; default: a random one, which the report names"),
        ("threads" = Option<u64>, Query, minimum = 1, maximum = 64, description = "Threads of each node; default 1"),
        ("time_ms" = Option<u64>, Query, minimum = 1, maximum = 86400000, description = "How long it may take, in milliseconds; default 600000"),
    ),
    responses((status = 200, description = "The audit has begun", body = AuditReport, content_type = "application/json"))
)]
pub(super) async fn start(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let known = ["session", "from", "to", "sample", "seed", "threads", "time_ms"];
    let query = Query::parse(&uri, &known)?;
    let threads = query.u64("threads")?;
    let spec = AuditSpec {
        session: query.get("session").map(SessionId::parse).transpose()?,
        from: query.u64("from")?,
        to: query.u64("to")?,
        sample: query.u64("sample")?,
        seed: query.u64("seed")?.unwrap_or_else(random::seed),
        threads: threads.map(|threads| usize::try_from(threads).unwrap_or(usize::MAX)),
        time_ms: query.u64("time_ms")?,
    };
    spec.check()?;
    if let Some(session) = &spec.session {
        note.asked("session", session.as_str());
    }
    let node = admin.node()?.clone();
    change(&note, &["audit"], async move { node.start_audit(&service, spec).await }).await
}

/// Shows what an audit has found so far
///
/// From all nodes. Each keeps its part in memory: an audit of before a restart is not known any more.
#[utoipa::path(
    get,
    operation_id = "audit_report",
    path = "/admin/v1/services/{service}/audits/{audit}",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("audit" = String, Path, description = "The audit, as it was named when it began"),
    ),
    responses((status = 200, description = "The report", body = AuditReport, content_type = "application/json"))
)]
pub(super) async fn report(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let (service, audit) = (params::admin_service_of(&uri)?, audit_of(&uri)?);
    let node = admin.node()?;
    Ok(json(&admin.reading(node.audit_of(&service, &audit)).await?))
}

/// Ends an audit
///
/// What it has found stays.
#[utoipa::path(
    delete,
    operation_id = "cancel_audit",
    path = "/admin/v1/services/{service}/audits/{audit}",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("audit" = String, Path, description = "The audit"),
    ),
    responses((status = 200, description = "The audit has ended", body = AuditReport, content_type = "application/json"))
)]
pub(super) async fn cancel(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let (service, audit) = (params::admin_service_of(&uri)?, audit_of(&uri)?);
    let node = admin.node()?.clone();
    change(&note, &["audit"], async move { node.cancel_audit(&service, &audit).await }).await
}

/// The audit of `/admin/v1/services/{service}/audits/{audit}`.
fn audit_of(uri: &Uri) -> Result<String, Error> {
    let raw = params::segment(uri, 6);
    let is_id = raw.len() == 32 && raw.bytes().all(|b| b.is_ascii_hexdigit());
    match is_id {
        true => Ok(raw.to_owned()),
        false => Err(Error::new(Code::AuditNotFound, format!("{raw:?} is not an audit"))),
    }
}
