//! What was used, in the admin API.

use super::{
    Admin,
    params::{self, Query, invalid},
    problem::Failed,
    views::{UsageView, json},
};
use crate::{
    error::Error,
    limits,
    quota::usage::{Ask, By, Date, since},
};
use axum::{body::Body, extract::State};
use http::{Response, Uri};

/// Reports what was used
///
/// Messages, guest time, bytes in, sent and stored, by service, by day or by subject, over all nodes. A node that did not answer
/// is in `silent`, and its numbers are missing. Days are in UTC. What was counted is written every 30 seconds: a node that
/// crashes loses less than a minute's.
#[utoipa::path(
    get,
    operation_id = "usage",
    path = "/admin/v1/usage",
    tag = "admin",
    params(
        ("service" = Option<String>, Query, description = "Only of this service"),
        ("by" = Option<String>, Query, description = "What is added up to one row: `service` (default), `day` (a service's of each day), `subject` (a subject's of each service)"),
        ("since" = Option<String>, Query, description = "The first day, as `2026-11-30`; default: 30 days with the last one"),
        ("until" = Option<String>, Query, description = "The last day; default: today"),
    ),
    responses((status = 200, description = "The rows", body = UsageView, content_type = "application/json"))
)]
pub(super) async fn get(State(admin): State<Admin>, uri: Uri) -> Result<Response<Body>, Failed> {
    let query = Query::parse(&uri, &["service", "by", "since", "until"])?;
    let now_ms = crate::clock::now_ms();
    let service = query.get("service").map(params::service_name).transpose()?;
    let by = match query.get("by") {
        None | Some("service") => By::Service,
        Some("day") => By::Day,
        Some("subject") => By::Subject,
        Some(_) => {
            return Err(invalid("query parameter \"by\" is service, day or subject").into());
        }
    };
    let day = |name: &str, default: Date| match query.get(name) {
        None => Ok::<_, Error>(default),
        Some(text) => text
            .parse()
            .map_err(|_| invalid(format!("query parameter {name:?} is a day, such as 2026-11-30"))),
    };
    let ask = Ask {
        service: service.map(|service| service.as_str().into()),
        by,
        since: day("since", since(now_ms, limits::USAGE_SHOWN_DAYS))?,
        until: day("until", since(now_ms, 1))?,
    };
    let (first, last) = (ask.since, ask.until);
    let report = admin.reading(admin.node()?.usage(ask)).await?;
    Ok(json(&UsageView::new(report, first, last)))
}
