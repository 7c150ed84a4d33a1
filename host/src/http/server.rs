//! A listener with its connections. HTTP/1.1: what browsers, curl and every proxy speak to a
//! backend; TLS and HTTP/2 are a proxy's business.

use super::{
    Admin, Api, Shutdown,
    answer::ReplyBody,
    auth,
    connection::{ConnShared, Connection, InFlight, Watched},
    messages::{self, Deadline},
    params, problem,
    route::{admin_router, api_router},
    stats::Stats,
    streaming::Takeover,
};
use crate::{buffers::Buffers, limits, telemetry::repeats};
use axum::Router;
use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tower::ServiceExt;

/// What a [`Server`] serves.
#[derive(Clone)]
pub struct App(Arc<AppInner>);

struct AppInner {
    router: Router,
    /// The API's, for the short cut.
    api: Option<Api>,
    stats: Stats,
    buffers: Arc<Buffers>,
    connections_max: usize,
    /// Nobody is asked for a token.
    open: bool,
    shutdown: Shutdown,
}

impl App {
    pub(super) fn of(
        router: Router,
        api: Option<Api>,
        stats: Stats,
        connections_max: usize,
        open: bool,
        shutdown: Shutdown,
    ) -> Self {
        let buffers = Arc::new(Buffers::new(limits::ADMIN_BUFFERS_BYTES_MAX));
        Self(Arc::new(AppInner { router, api, stats, buffers, connections_max, open, shutdown }))
    }
    pub fn api(api: Api) -> Self {
        Self(Arc::new(AppInner {
            router: api_router(api.clone()),
            stats: api.0.stats.clone(),
            buffers: api.buffers().clone(),
            connections_max: api.options().connections_max,
            open: api.options().api_token.is_none(),
            shutdown: api.0.shutdown.clone(),
            api: Some(api),
        }))
    }
    pub fn admin(admin: Admin) -> Self {
        Self(Arc::new(AppInner {
            router: admin_router(admin.clone()),
            stats: admin.0.stats.clone(),
            buffers: Arc::new(Buffers::new(limits::ADMIN_BUFFERS_BYTES_MAX)),
            connections_max: limits::ADMIN_CONNECTIONS_MAX,
            open: admin.0.options.admin_token.is_none(),
            shutdown: admin.0.shutdown.clone(),
            api: None,
        }))
    }
}

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

/// The connections of a server that are open, sockets included.
#[derive(Default)]
struct Connections {
    open: Mutex<HashMap<u64, Weak<ConnShared>>>,
}

impl Connections {
    fn each(&self, order: impl Fn(&ConnShared)) {
        self.open.lock().values().filter_map(Weak::upgrade).for_each(|c| order(&c));
    }
}

/// What one app's connections have in common.
struct Serving {
    permits: Arc<Semaphore>,
    connections: Arc<Connections>,
}

impl Serving {
    fn new(app: &App) -> Self {
        let permits = Arc::new(Semaphore::new(app.0.connections_max));
        Self { permits, connections: Arc::default() }
    }

    async fn end(self, app: &App, grace: Duration) {
        let Self { permits, connections } = self;
        connections.each(ConnShared::stop);
        // Every connection holds a permit, also as a socket: with all of them back, all are gone.
        let all = app.0.connections_max as u32;
        if tokio::time::timeout(grace, permits.acquire_many(all)).await.is_err() {
            connections.each(ConnShared::kill);
            // A killed connection's task ends at its next turn; a socket has no such order.
            let linger = limits::LINGER.min(grace);
            let _ = tokio::time::timeout(linger, permits.acquire_many(all)).await;
        }
    }
}

impl Server {
    /// # Errors
    /// When the address can't be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }
    /// Where it listens; with port 0 the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the app's [`Shutdown`] is triggered. Then it stops accepting, lets what is in
    /// flight finish, has sockets closed and event streams ended, and returns when all are gone
    /// or `grace` is over; what is left then is cut.
    pub async fn serve(self, app: App, grace: Duration) {
        let serving = Serving::new(&app);
        self.accept_until(&app, &serving, app.0.shutdown.triggered()).await;
        drop(self.listener);
        let grace = app.0.shutdown.grace(grace);
        serving.end(&app, grace).await;
    }

    /// Serves until `done`, and is there to be served by another app then: whoever connects
    /// meanwhile waits. The connections that it had are ended.
    pub async fn serve_until(self, app: App, done: impl Future<Output = ()>) -> Self {
        let serving = Serving::new(&app);
        self.accept_until(&app, &serving, done).await;
        serving.end(&app, limits::LINGER).await;
        self
    }

    async fn accept_until(&self, app: &App, serving: &Serving, stop: impl Future<Output = ()>) {
        let local_only = app.0.open && self.address.ip().is_loopback();
        let mut stop = std::pin::pin!(stop);
        let mut number = 0;
        loop {
            let accept = self.accept(&serving.permits);
            let (stream, permit) = tokio::select! {
                biased;
                () = &mut stop => return,
                accepted = accept => accepted,
            };
            number += 1;
            let shared = ConnShared::new(
                local_only,
                &app.0.buffers,
                Some(permit),
                app.0.stats.open_connection(),
            );
            start(app, stream, Arc::new(shared), number, &serving.connections);
        }
    }

    /// The next connection, as soon as there is room for one.
    async fn accept(
        &self,
        permits: &Arc<Semaphore>,
    ) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                // Nobody closes it.
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Answers are written whole: waiting for more would only delay them.
                    let _ = stream.set_nodelay(true);
                    return (stream, permit);
                }
                // The peer was gone before it was accepted.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of file descriptors, most likely: others must close first.
                    if repeats::admit("connections could not be accepted", self.address) {
                        tracing::warn!(%error, address = %self.address, "could not accept a connection");
                    }
                    tokio::time::sleep(limits::ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Starts a connection's task.
fn start(
    app: &App,
    stream: TcpStream,
    shared: Arc<ConnShared>,
    number: u64,
    connections: &Arc<Connections>,
) {
    connections.open.lock().insert(number, Arc::downgrade(&shared));
    let io = Watched::new(stream, shared.clone(), app.0.stats.clone());
    let (app, connection) = (app.clone(), shared.clone());
    let service = service_fn(move |request| handle(app.clone(), connection.clone(), request));
    let http = http1::Builder::new()
        .max_buf_size(limits::HEAD_BYTES_MAX)
        // Answers are small: one copy is cheaper than a list of buffers. (`pipeline_flush` would
        // copy too, but it also buffers a stream's body without bound.)
        .writev(false)
        // Otherwise hyper gets a new buffer for every message, to look for the connection's end
        // while the old one is held by the request. `Watched` looks where it matters.
        .half_close(true)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let task = Connection::new(
        http,
        shared,
        |http| http.graceful_shutdown(),
        |http| http.into_parts().map(|parts| parts.io.into_inner()),
    );
    let connections = connections.clone();
    tokio::spawn(async move {
        task.await;
        connections.open.lock().remove(&number);
    });
}

/// One request. A message takes the short cut: no router, no boxed future, no timer.
async fn handle(
    app: App,
    connection: Arc<ConnShared>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    let in_flight = connection.request();
    if connection.local_only
        && let Err(error) = auth::check_local_host(request.headers())
    {
        return Ok(problem::response(&error).map(|body| ReplyBody::whole(body, &connection)));
    }
    if let Some(api) = &app.0.api
        && request.method() == Method::POST
        && let Some((service, session)) = messages::names_in(request.uri().path())
    {
        let began = Instant::now();
        connection.request_began(began, api.options().request_deadline);
        let key = params::session_key(service, session);
        let (head, body) = request.into_parts();
        let allowed =
            auth::check(api.options().api_token.as_ref(), &head.headers, &head.uri, false);
        let response = match allowed {
            Ok(()) => {
                let deadline = Deadline::Connection(&connection);
                messages::answer(
                    messages::send(api, key, &head.uri, &head.headers, body, deadline).await,
                )
            }
            Err(error) => problem::response(&error),
        };
        api.0.stats.message(response.status(), began.elapsed());
        return Ok(response.map(|body| ReplyBody::whole(body, &connection)));
    }
    in_flight.end_with_peer();
    // Boxed, so that the future of a message stays small.
    Ok(Box::pin(route(app, connection, request, in_flight)).await)
}

async fn route(
    app: App,
    connection: Arc<ConnShared>,
    request: Request<Incoming>,
    in_flight: InFlight,
) -> Response<ReplyBody> {
    let (is_get, version) = (request.method() == Method::GET, request.version());
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(connection.clone());
    let response = match app.0.router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if let Some(stream) = connection.offered_stream()
        && is_get
        && response.status() == StatusCode::OK
    {
        let headers = response.headers();
        let takeover = Takeover::new(version, headers, *stream, &app.0.buffers, in_flight);
        connection.take_over(takeover);
        // This is dropped when the stream has the connection.
        return std::future::pending().await;
    }
    let (head, body) = response.into_parts();
    match ReplyBody::of(body, &connection, in_flight) {
        Ok(body) => Response::from_parts(head, body),
        Err(full) => problem::response(&full).map(|body| ReplyBody::whole(body, &connection)),
    }
}
