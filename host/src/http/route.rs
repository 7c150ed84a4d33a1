//! The routes, and the checks for every request except those on the fast path of messages.

use super::{
    Admin, Api,
    access::{Gate, Need, Part, Rights, Routes, mint, needs, public, tokens},
    admin,
    audit::{self, Note, audited, intended},
    canary, captures,
    connection::ConnShared,
    events, fork, gate, health, history, messages, notify, operate,
    problem::Failed,
    quota, replay, sessions, socket,
    stats::Stats,
    timers, usage,
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
use slotd_access::Verb;
use std::sync::Arc;
use tokio::task::JoinSet;
use utoipa_axum::routes;

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;

/// The API with its description and what each of its routes needs. One registration per path: axum then lists the methods
/// in `Allow`.
pub(super) fn api_routes() -> Routes<Api> {
    use Part::Session;
    use Verb::{Delete, Fork, Mint, Notify, Query, Read, Send, Subscribe};
    Routes::new()
        .on(
            [needs(POST, Send, Session), needs(GET, Read, Session)],
            routes!(messages::post, history::get),
        )
        .on([needs(POST, Query, Session)], routes!(messages::query))
        .on([needs(POST, Notify, Session)], routes!(notify::post))
        .on([needs(POST, Fork, Session)], routes!(fork::post))
        .on(
            [needs(GET, Read, Session), needs(DELETE, Delete, Session)],
            routes!(sessions::get, sessions::delete),
        )
        .on([needs(GET, Read, Part::Prefix)], routes!(sessions::list))
        .on([needs(GET, Subscribe, Session)], routes!(events::get))
        .on([needs(GET, Subscribe, Session)], routes!(socket::get))
        .on([needs(POST, Mint, Session)], routes!(mint::post))
        .on([public(GET)], routes!(health::live))
        .on([public(GET)], routes!(health::ready))
        .on([public(GET)], routes!(health::openapi))
}

/// The admin API with its description and what each of its routes needs.
pub(super) fn admin_routes() -> Routes<Admin> {
    use Part::{Nothing, Service};
    use Verb::{AdminRead, Deploy, Operate};
    Routes::new()
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::services))
        .on(
            [needs(GET, AdminRead, Service), needs(DELETE, Deploy, Service)],
            routes!(admin::service, admin::remove),
        )
        .on([needs(POST, Deploy, Service)], routes!(admin::deploy))
        .on([needs(POST, Deploy, Service)], routes!(admin::rollback))
        .on([needs(GET, AdminRead, Service)], routes!(admin::deployments))
        .on(
            [needs(GET, AdminRead, Service), needs(POST, Deploy, Service)],
            routes!(canary::swap, canary::change_canary),
        )
        .on([needs(GET, AdminRead, Service)], routes!(admin::types))
        .on([needs(GET, AdminRead, Service)], routes!(admin::pinned))
        .on([needs(GET, AdminRead, Service)], routes!(quota::get))
        .on(
            [
                needs(GET, AdminRead, Service),
                needs(POST, Deploy, Service),
                needs(DELETE, Deploy, Service),
            ],
            routes!(gate::report, gate::confirm, gate::cancel),
        )
        .on([needs(POST, Operate, Service)], routes!(replay::start))
        .on(
            [needs(GET, AdminRead, Service), needs(DELETE, Operate, Service)],
            routes!(replay::report, replay::cancel),
        )
        .on([needs(POST, Operate, Service)], routes!(captures::make))
        .on([needs(GET, AdminRead, Nothing)], routes!(captures::list))
        .on(
            [needs(POST, Operate, Nothing), needs(DELETE, Operate, Nothing)],
            routes!(captures::fetch, captures::remove),
        )
        .on(
            [needs(GET, AdminRead, Service), needs(POST, Operate, Service)],
            routes!(operate::state, operate::change_state),
        )
        .on([needs(GET, AdminRead, Service)], routes!(operate::export))
        .on([needs(POST, Operate, Service)], routes!(operate::import))
        .on([needs(GET, AdminRead, Service)], routes!(timers::of_service))
        .on([needs(GET, AdminRead, Service)], routes!(timers::of_session))
        .on([needs(DELETE, Operate, Service)], routes!(timers::cancel))
        .on([needs(GET, AdminRead, Service)], routes!(timers::outbox_of_service))
        .on([needs(GET, AdminRead, Service)], routes!(timers::outbox_of_session))
        .on([needs(GET, AdminRead, Service)], routes!(timers::dead_of_service))
        .on([needs(GET, AdminRead, Service)], routes!(timers::dead_of_session))
        .on([needs(POST, Operate, Service)], routes!(timers::retry))
        .on([needs(DELETE, Operate, Service)], routes!(timers::drop_dead))
        .on([needs(POST, Operate, Service)], routes!(timers::retry_send))
        .on([needs(DELETE, Operate, Service)], routes!(timers::drop_send))
        .on([needs(DELETE, Operate, Service)], routes!(timers::cancel_request))
        .on([needs(POST, Operate, Service)], routes!(timers::retry_answer))
        .on([needs(DELETE, Operate, Service)], routes!(timers::drop_answer))
        .on([needs(DELETE, Operate, Service)], routes!(operate::delete_sessions))
        .on([needs(POST, Operate, Nothing)], routes!(operate::reset))
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::slots))
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::slot))
        .on([needs(POST, Operate, Nothing)], routes!(admin::drain))
        .on([needs(POST, Operate, Nothing)], routes!(admin::rebalance))
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::ring))
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::nodes))
        .on([needs(DELETE, Operate, Nothing)], routes!(admin::forget_node))
        .on([needs(POST, Operate, Nothing)], routes!(admin::drain_node))
        .on(
            [needs(GET, AdminRead, Nothing), needs(POST, Operate, Nothing)],
            routes!(admin::level, admin::raise_level),
        )
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::seal))
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::moves))
        .on([needs(DELETE, Operate, Nothing)], routes!(admin::cancel_move))
        .on(
            [needs(GET, AdminRead, Nothing), needs(POST, Operate, Nothing)],
            routes!(tokens::list, tokens::create),
        )
        .on([needs(DELETE, Operate, Nothing)], routes!(tokens::revoke))
        .on([needs(POST, AdminRead, Nothing)], routes!(tokens::explain))
        .on([needs(GET, AdminRead, Nothing)], routes!(audit::list))
        .on([needs(GET, AdminRead, Nothing)], routes!(audit::lines))
        .on([needs(GET, AdminRead, Nothing)], routes!(usage::get))
        .on([needs(GET, AdminRead, Nothing)], routes!(admin::metrics))
}

/// The API as a router. [`super::App::api`] adds a fast path for messages.
pub fn api_router(api: Api) -> Router {
    let (router, _, rights) = api_routes().split();
    let guard = Guard { gate: api.gate().clone(), rights, stats: api.0.stats.clone() };
    finish(router, guard).with_state(api)
}

/// The admin API as a router.
pub fn admin_router(admin: Admin) -> Router {
    let (router, _, rights) = admin_routes().split();
    let auditing = (admin.clone(), rights.clone());
    let guard = Guard { gate: admin.0.gate.clone(), rights, stats: admin.0.stats.clone() };
    // Described with the API's.
    let router = router
        .route_layer(from_fn_with_state(admin.clone(), on_serving))
        .route("/healthz", get(health::admin_live))
        .route("/readyz", get(health::admin_ready))
        .route("/openapi.json", get(health::openapi))
        .layer(from_fn_with_state(admin.clone(), intended));
    let router = finish(router, guard);
    router.layer(from_fn_with_state(auditing, audited)).with_state(admin)
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
    gate: Gate,
    rights: Rights,
    stats: Stats,
}

/// Routes of POST whose requests have no body.
const WITHOUT_BODY: [&str; 12] = [
    "/admin/v1/services/{service}/swap",
    "/admin/v1/services/{service}/rollback",
    "/admin/v1/services/{service}/audits",
    "/admin/v1/services/{service}/gate",
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

async fn guarded(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let began = crate::clock::now();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let matched = matched.as_ref().map(MatchedPath::as_str);
    // Labels come from a fixed set: client input must not create new ones.
    let route = match matched {
        Some(path) => format!("{} {path}", method(request.method())),
        None => "unmatched".to_owned(),
    };
    let allowed = match matched {
        Some(path) if is_public(path) => Ok(()),
        _ => guard.admit(matched, &mut request).await,
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

impl Guard {
    /// Finds out who asks, and whether they may. Handlers find it in the request's extensions ([`Who`]).
    ///
    /// [`Who`]: super::access::Who
    async fn admit(&self, matched: Option<&str>, request: &mut Request) -> Result<(), Error> {
        let query_token = matched.is_some_and(|p| p.ends_with("/events") || p.ends_with("/socket"));
        let connection = request.extensions().get::<Arc<ConnShared>>().cloned();
        let asked =
            self.gate.asked(connection.as_deref(), request.headers(), request.uri(), query_token);
        let who = asked.await?;
        if let Some(note) = request.extensions().get::<Note>() {
            note.is_of(who.identity().to_string(), !who.is_nobody());
        }
        self.gate.check_origin(connection.as_deref(), &who, request.headers(), request.uri())?;
        match matched.and_then(|path| self.rights.of(path, request.method())) {
            Some(Need::Right(verb, part)) => self.gate.check(&who, verb, part, request.uri())?,
            Some(Need::Unknown) => {
                return Err(Error::new(Code::Forbidden, "nobody has the right to this route"));
            }
            // A path or a method that there is not: its answer says so, but to nobody.
            Some(Need::Public) | None if who.is_nobody() && !self.gate.is_open() => {
                return Err(self.gate.shown_nothing());
            }
            Some(Need::Public) | None => {}
        }
        request.extensions_mut().insert(who);
        Ok(())
    }
}

/// Answers an operator on the node's runtime, so that tasks started by a handler stay there. The
/// answer does not wait for a node that stops or whose threads are stalled.
async fn on_serving(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let Some(serving) = &admin.0.serving else { return next.run(request).await };
    // It updates itself, and is needed when nothing else answers.
    if request.uri().path() == "/metrics" {
        return next.run(request).await;
    }
    let changes = !request.method().is_safe();
    // Cancels its work when the client disconnects.
    let mut task = JoinSet::new();
    crate::task::run_in_on(&mut task, serving, next.run(request));
    let stopping = async {
        admin.0.shutdown.triggered().await;
        tokio::time::sleep(limits::STOPPING_ANSWER).await;
    };
    let unknown = |why: &str| {
        // The audit log says so, too.
        let error = match changes {
            true => Error::new(
                Code::OutcomeUnknown,
                format!("{why}; the request may have been carried out, or may still be"),
            ),
            false => Error::new(Code::Unavailable, why.to_owned()),
        };
        Failed::from(error).into_response()
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
