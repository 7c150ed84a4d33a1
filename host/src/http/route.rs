//! The routes, and the checks for every request except those on the fast path of messages.

use super::{
    Admin, Api, Token, admin, auth, events, health, history, messages, notify, operate,
    problem::Failed, sessions, socket, stats::Stats, timers,
};
use crate::{
    error::{Code, Error},
    limits,
};
use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use http::Method;
use http_body::Body as _;
use tokio::task::JoinSet;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The API with its description. One registration per path: axum then lists the methods in `Allow`.
pub(super) fn api_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(messages::post, history::get))
        .routes(routes!(messages::query))
        .routes(routes!(notify::post))
        .routes(routes!(sessions::get, sessions::delete))
        .routes(routes!(sessions::list))
        .routes(routes!(events::get))
        .routes(routes!(socket::get))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::openapi))
}

/// The admin API with its description.
pub(super) fn admin_routes() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(admin::services))
        .routes(routes!(admin::service, admin::remove))
        .routes(routes!(admin::deploy))
        .routes(routes!(admin::rollback))
        .routes(routes!(admin::deployments))
        .routes(routes!(admin::swap))
        .routes(routes!(admin::pinned))
        .routes(routes!(operate::state, operate::change_state))
        .routes(routes!(operate::export))
        .routes(routes!(operate::import))
        .routes(routes!(timers::of_service))
        .routes(routes!(timers::of_session))
        .routes(routes!(timers::cancel))
        .routes(routes!(timers::outbox_of_service))
        .routes(routes!(timers::outbox_of_session))
        .routes(routes!(timers::dead_of_service))
        .routes(routes!(timers::dead_of_session))
        .routes(routes!(timers::retry))
        .routes(routes!(timers::drop_dead))
        .routes(routes!(timers::retry_send))
        .routes(routes!(timers::drop_send))
        .routes(routes!(timers::cancel_request))
        .routes(routes!(timers::retry_answer))
        .routes(routes!(timers::drop_answer))
        .routes(routes!(operate::delete_sessions))
        .routes(routes!(operate::reset))
        .routes(routes!(admin::slots))
        .routes(routes!(admin::slot))
        .routes(routes!(admin::drain))
        .routes(routes!(admin::rebalance))
        .routes(routes!(admin::ring))
        .routes(routes!(admin::nodes))
        .routes(routes!(admin::forget_node))
        .routes(routes!(admin::drain_node))
        .routes(routes!(admin::level, admin::raise_level))
        .routes(routes!(admin::moves))
        .routes(routes!(admin::cancel_move))
        .routes(routes!(admin::metrics))
}

/// The API as a router. [`super::App::api`] adds a fast path for messages.
pub fn api_router(api: Api) -> Router {
    let guard = Guard { token: api.options().api_token.clone(), stats: api.0.stats.clone() };
    let (router, _) = api_routes().split_for_parts();
    finish(router, guard).with_state(api)
}

/// The admin API as a router.
pub fn admin_router(admin: Admin) -> Router {
    let guard = Guard { token: admin.0.options.admin_token.clone(), stats: admin.0.stats.clone() };
    let (router, _) = admin_routes().split_for_parts();
    // Described with the API's.
    let router = router
        .route_layer(from_fn_with_state(admin.clone(), on_serving))
        .route("/healthz", get(health::admin_live))
        .route("/readyz", get(health::admin_ready))
        .route("/openapi.json", get(health::openapi));
    finish(router, guard).with_state(admin)
}

fn finish<S: Clone + Send + Sync + 'static>(router: Router<S>, guard: Guard) -> Router<S> {
    router
        .fallback(async |request: Request| {
            Failed::from(Error::new(
                Code::RouteNotFound,
                format!("no route {}; see /openapi.json", request.uri().path()),
            ))
        })
        .method_not_allowed_fallback(async |request: Request| {
            Failed::from(Error::new(
                Code::MethodNotAllowed,
                format!("{} does not accept {}", request.uri().path(), request.method()),
            ))
        })
        .layer(from_fn_with_state(guard, guarded))
}

#[derive(Clone)]
struct Guard {
    token: Option<Token>,
    stats: Stats,
}

/// Routes of POST whose requests have no body.
const WITHOUT_BODY: [&str; 9] = [
    "/admin/v1/services/{service}/rollback",
    "/admin/v1/services/{service}/sessions/{session}/dead/{timer}/{due_ms}/retry",
    "/admin/v1/services/{service}/sessions/{session}/dead/{message}/retry",
    "/admin/v1/services/{service}/sessions/{session}/requests/{request}/dead/{time_ms}/retry",
    "/admin/v1/slots/{slot}/drain",
    "/admin/v1/rebalance",
    "/admin/v1/nodes/{node}/drain",
    "/admin/v1/level",
    "/admin/v1/reset",
];

/// Routes for probes and readers of the documentation, who have no token.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/openapi.json")
}

async fn guarded(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let began = crate::clock::now();
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // Labels come from a fixed set: client input must not create new ones.
    let route = match matched {
        Some(path) => format!("{} {path}", method(request.method())),
        None => "unmatched".to_owned(),
    };
    let query_token = matched.is_some_and(|p| p.ends_with("/events") || p.ends_with("/socket"));
    let allowed = match matched {
        Some(path) if is_public(path) => Ok(()),
        _ => auth::check(guard.token.as_ref(), request.headers(), request.uri(), query_token),
    };
    let ready = allowed.and_then(|()| match matched {
        Some(path) if WITHOUT_BODY.contains(&path) && !request.body().is_end_stream() => {
            // Otherwise ignored options would seem to work.
            Err(Error::new(Code::RequestInvalid, "this request takes no body"))
        }
        _ => Ok(()),
    });
    let response = match ready {
        Ok(()) => next.run(request).await,
        Err(error) => Failed::from(error).into_response(),
    };
    guard.stats.request(route, response.status(), began.elapsed());
    response
}

/// Answers an operator on the node's runtime, so that tasks started by a handler stay there. The
/// answer does not wait for a node that stops or whose threads are stalled.
async fn on_serving(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let Some(serving) = &admin.0.serving else { return next.run(request).await };
    // It updates itself, and is needed when nothing else answers.
    if request.uri().path() == "/metrics" {
        return next.run(request).await;
    }
    // Cancels its work when the client disconnects.
    let mut task = JoinSet::new();
    crate::task::run_in_on(&mut task, serving, next.run(request));
    let stopping = async {
        admin.0.shutdown.triggered().await;
        tokio::time::sleep(limits::STOPPING_ANSWER).await;
    };
    let unknown = |why: &str| {
        let detail = format!("{why}; the request may have been carried out, or may still be");
        Failed::from(Error::new(Code::Unavailable, detail)).into_response()
    };
    tokio::select! {
        biased;
        done = task.join_next() => match done {
            Some(Ok(response)) => response,
            _ => Failed::from(messages::outcome_unknown()).into_response(),
        },
        () = stopping => unknown("the node is stopping"),
        () = admin.0.heartbeat.stalled() => unknown("the worker threads are stalled"),
    }
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}
