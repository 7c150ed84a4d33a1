//! Swaps and canaries in the admin API.

use super::{
    Admin,
    access::Who,
    admin::{author, change, note_current},
    audit::Note,
    params::{self, Query, invalid},
    problem::Failed,
    views::{SwapStatus, json},
};
use crate::{
    error::Error,
    node::{CanaryChange, ServiceInfo},
    service::canary::CanaryOptions,
};
use axum::{Extension, body::Body, extract::State};
use http::{HeaderMap, Response, Uri};
use std::sync::Arc;

type Answer = Result<Response<Body>, Failed>;

/// Shows the progress of a service's last swap
#[utoipa::path(
    get,
    path = "/admin/v1/services/{service}/swap",
    tag = "admin",
    params(("service" = String, Path, description = "The service")),
    responses((status = 200, description = "The last swap", body = SwapStatus, content_type = "application/json"))
)]
pub(super) async fn swap(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let service = params::admin_service_of(&uri)?;
    let ServiceInfo { service, generation, canary, swap, .. } =
        admin.reading(admin.node()?.swap_of_cluster(&service)).await?;
    Ok(json(&SwapStatus { service, generation, canary, swap }))
}

/// Promotes, holds, resumes or aborts a canary
///
/// `promote` makes its version the service's, in all slots at once. `hold` keeps it at its step; it still goes back by
/// itself when it does badly. `resume` lets it go on, with the step's pause from the beginning. `abort` has all slots run the
/// version before again: sessions that the canary's version has handled go back as they do in a rollback, and those that the
/// version before does not take over stay on the canary's. The response is sent when all slots have switched, or earlier with
/// `swap.done` false.
#[utoipa::path(
    post,
    operation_id = "change_canary",
    path = "/admin/v1/services/{service}/swap",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("canary" = String, Query, description = "What becomes of the canary: `promote`, `hold`, `resume` or `abort`"),
    ),
    responses((status = 200, description = "The canary as it is then", body = SwapStatus, content_type = "application/json"))
)]
pub(super) async fn change_canary(
    State(admin): State<Admin>,
    Extension(who): Extension<Arc<Who>>,
    note: Note,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let query = Query::parse(&uri, &["canary"])?;
    let wanted = query.get("canary").unwrap_or_default();
    let wanted = CanaryChange::parse(wanted).ok_or_else(|| {
        invalid(format!("query parameter \"canary\": one of {}", CanaryChange::NAMES.join(", ")))
    })?;
    let by = author(&headers, &who)?;
    let node = admin.node()?.clone();
    note_current(&note, &node, &service);
    note.asked("canary", query.get("canary").unwrap_or_default());
    if let Some(by) = &by.said {
        note.asked("by", &**by);
    }
    let work = async move {
        let ServiceInfo { service, generation, canary, swap, .. } =
            node.change_canary(&service, wanted, by).await?;
        Ok(SwapStatus { service, generation, canary, swap })
    };
    change(&note, &["generation", "canary.state", "canary.deployment.version"], work).await
}

/// Query parameters of a deploy that are about a canary.
pub(super) const PARAMETERS: [&str; 3] = ["canary", "pause", "canary_messages"];

/// The steps of a canary: `10,100,500`, in thousandths of the slots; with its other options.
pub(super) fn options(query: &Query) -> Result<Option<CanaryOptions>, Error> {
    let Some(steps) = query.get("canary") else {
        for name in ["pause", "canary_messages"] {
            if query.get(name).is_some() {
                return Err(invalid(format!("query parameter {name:?}: only with `canary`")));
            }
        }
        return Ok(None);
    };
    let number = |name: &str| {
        let parse = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| invalid(format!("query parameter {name:?}: a whole number")))
        };
        query.get(name).map(parse).transpose()
    };
    let default = CanaryOptions::default();
    let steps = match steps {
        "" => default.steps,
        steps => {
            let steps: Result<Vec<u16>, _> = steps.split(',').map(str::parse).collect();
            steps.map_err(|_| {
                invalid(
                    "query parameter \"canary\": thousandths of the slots, as 10,100,500"
                        .to_owned(),
                )
            })?
        }
    };
    let options = CanaryOptions {
        steps,
        pause_ms: number("pause")?.map_or(default.pause_ms, |s| s.saturating_mul(1_000)),
        messages: number("canary_messages")?.unwrap_or(default.messages),
    };
    options.checked().map(Some).map_err(|why| invalid(format!("query parameters: {why}")))
}
