//! A listener with its connections. HTTP/1.1, which browsers, curl and every proxy use towards a
//! backend; TLS and HTTP/2 are left to a proxy.

use super::{
    Admin, Api, Shutdown,
    answer::ReplyBody,
    auth,
    connection::{ConnShared, Connection, InFlight, Watched},
    messages::{self, Deadline},
    params,
    places::{PlaceLimits, Places},
    problem,
    route::{admin_router, api_router},
    stats::Stats,
    streaming::Takeover,
    strict,
};
use crate::{
    buffers::Buffers,
    error::{Code, Error},
    limits,
    telemetry::repeats,
};
use axum::Router;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

/// What a [`Server`] serves.
#[derive(Clone)]
pub struct App(Arc<AppInner>);

struct AppInner {
    router: Router,
    /// The API's, for the fast path.
    api: Option<Api>,
    stats: Stats,
    buffers: Arc<Buffers>,
    /// Its name, for people.
    listener: &'static str,
    connections: PlaceLimits,
    /// No token is required.
    open: bool,
    shutdown: Shutdown,
}

impl App {
    pub(super) fn of(
        router: Router,
        api: Option<Api>,
        stats: Stats,
        connections: PlaceLimits,
        open: bool,
        shutdown: Shutdown,
    ) -> Self {
        let buffers = Arc::new(Buffers::new(limits::ADMIN_BUFFERS_BYTES_MAX));
        Self(Arc::new(AppInner {
            router,
            api,
            stats,
            buffers,
            listener: "starting",
            connections,
            open,
            shutdown,
        }))
    }
    pub fn api(api: Api) -> Self {
        Self(Arc::new(AppInner {
            router: api_router(api.clone()),
            stats: api.0.stats.clone(),
            buffers: api.buffers().clone(),
            listener: "api",
            connections: api.options().connections,
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
            listener: "admin",
            connections: admin.0.options.admin_connections,
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

/// Ends what is open: every connection holds a place, also as a socket.
async fn end(places: &Places, grace: Duration) {
    places.each(ConnShared::stop);
    if tokio::time::timeout(grace, places.all_gone()).await.is_err() {
        places.each(ConnShared::kill);
        // A killed connection's task ends when it is next polled; a socket has no such order.
        let linger = limits::LINGER.min(grace);
        let _ = tokio::time::timeout(linger, places.all_gone()).await;
    }
}

impl Server {
    /// # Errors
    /// If the address can't be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }
    /// Where it listens; with port 0, the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the app's [`Shutdown`] is triggered. Then it stops accepting, lets requests in
    /// flight finish, closes sockets and event streams, and returns when all are closed or `grace`
    /// is over. Connections that are left then are cut.
    pub async fn serve(self, app: App, grace: Duration) {
        let places = Places::new(app.0.listener, app.0.connections);
        self.accept_until(&app, &places, app.0.shutdown.triggered()).await;
        drop(self.listener);
        let grace = app.0.shutdown.grace(grace);
        end(&places, grace).await;
    }

    /// Serves until `done`, and can then be served by another app: connections that arrive
    /// meanwhile wait. Its own connections are closed.
    pub async fn serve_until(self, app: App, done: impl Future<Output = ()>) -> Self {
        let places = Places::new(app.0.listener, app.0.connections);
        self.accept_until(&app, &places, done).await;
        end(&places, limits::LINGER).await;
        self
    }

    async fn accept_until(&self, app: &App, places: &Arc<Places>, stop: impl Future<Output = ()>) {
        let local_only = app.0.open && self.address.ip().is_loopback();
        let mut stop = std::pin::pin!(stop);
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = &mut stop => return,
                accepted = self.accept() => accepted,
            };
            // Without a place it is closed at once: it must not cost a file descriptor.
            let Some(place) = places.take(peer.ip()) else { continue };
            let open = app.0.stats.open_connection();
            let shared = ConnShared::new(local_only, &app.0.buffers, Some(place), open);
            start(app, stream, shared);
        }
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers are written completely: waiting for more would only delay them.
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                // The peer disconnected before it was accepted.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Probably out of file descriptors: others must close first.
                    if repeats::admit("can't accept connections", self.address) {
                        tracing::warn!(%error, address = %self.address, "can't accept a connection");
                    }
                    tokio::time::sleep(limits::ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Starts a connection's task.
fn start(app: &App, stream: TcpStream, shared: Arc<ConnShared>) {
    let io = Watched::new(stream, shared.clone(), app.0.stats.clone());
    let (app, connection) = (app.clone(), shared.clone());
    let service = service_fn(move |request| handle(app.clone(), connection.clone(), request));
    let http = http1::Builder::new()
        .max_buf_size(limits::HEAD_BYTES_MAX)
        // Answers are small: one copy is cheaper than a list of buffers. (`pipeline_flush` would
        // copy too, but it also buffers a stream's body without bound.)
        .writev(false)
        // Otherwise hyper allocates a new buffer for every message, to detect the connection's end
        // while the request holds the old one. `Watched` detects it where it matters.
        .half_close(true)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let task = Connection::new(
        http,
        shared.clone(),
        |http| http.graceful_shutdown(),
        |http| http.into_parts().map(|parts| parts.io.into_inner()),
    );
    crate::task::run(async move {
        task.await;
        shared.hand_on();
    });
}

/// One request. A message takes the fast path: no router, no boxed future, no timer.
async fn handle(
    app: App,
    connection: Arc<ConnShared>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    let in_flight = connection.request();
    if let Err(error) = check(&app, &connection, &request) {
        return Ok(refuse(&error, &connection));
    }
    if let Some(api) = &app.0.api
        && request.method() == Method::POST
        && let Some((service, session)) = messages::names_in(request.uri().path())
    {
        let began = crate::clock::timer_now();
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

fn check(app: &App, connection: &ConnShared, request: &Request<Incoming>) -> Result<(), Error> {
    let has_body = !request.body().is_end_stream();
    let (method, uri, version) = (request.method(), request.uri(), request.version());
    let head = strict::check(method, uri, version, request.headers(), has_body)?;
    if connection.local_only {
        auth::check_local_host(&head)?;
    }
    if connection.is_for_probes() {
        // Its only request: the place is for others.
        connection.stop();
        if !is_probe(uri.path()) {
            let PlaceLimits { max, per_address, .. } = app.0.connections;
            return Err(Error::new(
                Code::LimitReached,
                format!(
                    "connection limit reached: {max} for this listener, {per_address} for one \
                     address; close some, or retry later"
                ),
            ));
        }
    }
    Ok(())
}

/// What is answered even when all connections are in use.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// The answer to a request with a malformed head. Its sender may also mean another length of the
/// body, so nothing after it is read as a request.
fn refuse(error: &Error, connection: &Arc<ConnShared>) -> Response<ReplyBody> {
    let mut response = problem::response(error);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.map(|body| ReplyBody::whole(body, connection))
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
        // Dropped when the stream has the connection.
        return std::future::pending().await;
    }
    let (head, body) = response.into_parts();
    match ReplyBody::of(body, &connection, in_flight) {
        Ok(body) => Response::from_parts(head, body),
        Err(full) => problem::response(&full).map(|body| ReplyBody::whole(body, &connection)),
    }
}
