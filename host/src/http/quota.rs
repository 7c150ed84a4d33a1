//! The limits of a service, for operators.

use super::{Admin, params, problem::Failed, views::json};
use axum::{body::Body, extract::State};
use http::{Response, Uri};
use serde::Serialize;
use slotd_quota::{buckets::REST, policy::Limits};
use std::sync::Arc;
use utoipa::ToSchema;

/// What a service may use, and what of it is used.
#[derive(Serialize, ToSchema)]
pub(super) struct LimitsView {
    service: String,
    /// The table of the policy that they are from: the service's name, `*`, or `null` if it has none.
    of: Option<String>,
    /// As the policy has them: of all of the service, of each subject and of each session.
    #[schema(value_type = Object, example = json!({"messages": "1000/s", "subject": {"sockets": 5}}))]
    limits: Arc<Limits>,
    used: UsedView,
}

/// On the node that answers.
#[derive(Serialize, ToSchema)]
struct UsedView {
    /// WebSockets and event streams that are open.
    sockets: u64,
    /// Sessions and subjects that had to be forgotten with a part of their rates used, since the node's start: more are in
    /// use than it remembers.
    forgotten: u64,
    /// Sessions of the service, on all nodes; up to half a minute old.
    sessions: Option<u64>,
    /// Bytes that it stores, as the sessions.
    stored: Option<u64>,
}

/// Shows a service's limits
///
/// Those of the policy of the node that answers, and what is used of them there.
#[utoipa::path(
    get,
    operation_id = "limits",
    path = "/admin/v1/services/{service}/limits",
    tag = "admin",
    params(("service" = String, Path, description = "The service")),
    responses((status = 200, description = "The limits", body = LimitsView, content_type = "application/json"))
)]
pub(super) async fn get(State(admin): State<Admin>, uri: Uri) -> Result<Response<Body>, Failed> {
    params::no_query(&uri)?;
    let service = params::admin_service_of(&uri)?;
    admin.node()?.service(&service)?;
    let quota = &admin.0.options.quota;
    let name = service.as_str();
    let limits = quota.limits(name);
    let of = limits.as_ref().map(|_| match quota.has_own(name) {
        true => name.to_owned(),
        false => REST.to_owned(),
    });
    let (sessions, stored) = quota.stored(&service).unzip();
    let used = UsedView {
        sockets: quota.sockets(name),
        forgotten: quota.forgotten(name),
        sessions,
        stored,
    };
    Ok(json(&LimitsView { service: name.to_owned(), of, limits: limits.unwrap_or_default(), used }))
}
