//! A listener with its connections, in clear or over TLS. The first bytes of one show whether it speaks
//! HTTP/1.1 or HTTP/2.

use super::{
    Admin, Api, Shutdown,
    access::{
        Gate,
        cors::{self, Verdict},
    },
    answer::ReplyBody,
    auth,
    connection::{ConnShared, Connection, InFlight, Stream, Watched},
    http2::{Serving, Share},
    messages::{self, Deadline},
    params,
    places::{PlaceLimits, Places},
    problem,
    route::{admin_router, api_router},
    stats::Stats,
    streaming::Takeover,
    strict, tls,
};
use crate::{
    buffers::Buffers,
    error::{Code, Error},
    limits,
    names::SessionKey,
    quota::Told,
    telemetry::repeats,
    tls::ListenerTls,
};
use axum::{Router, body::Body as RouteBody};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
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
    /// `None`: there is nothing yet that could be kept from anyone.
    gate: Option<Gate>,
    /// The requests of its HTTP/2 connections.
    share: Arc<Share>,
    shutdown: Shutdown,
}

impl App {
    pub(super) fn of(
        router: Router,
        api: Option<Api>,
        stats: Stats,
        connections: PlaceLimits,
        shutdown: Shutdown,
    ) -> Self {
        let buffers = Arc::new(Buffers::new(limits::ADMIN_BUFFERS_BYTES_MAX));
        Self(Arc::new(AppInner {
            router,
            api,
            stats,
            buffers,
            listener: "starting",
            share: Share::new(connections),
            connections,
            gate: None,
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
            gate: Some(api.gate().clone()),
            share: Share::new(api.options().connections),
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
            gate: Some(admin.0.gate.clone()),
            share: Share::new(admin.0.options.admin_connections),
            shutdown: admin.0.shutdown.clone(),
            api: None,
        }))
    }
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.0.share
    }
    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }
}

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// `None`: it speaks plain HTTP.
    tls: Option<ListenerTls>,
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
        Ok(Self { listener, address, tls: None })
    }
    #[must_use]
    pub fn with_tls(self, tls: Option<ListenerTls>) -> Self {
        Self { tls, ..self }
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
        let local_only = self.address.ip().is_loopback();
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
            start(app, stream, shared, self.tls.as_ref());
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
fn start(app: &App, stream: TcpStream, shared: Arc<ConnShared>, tls: Option<&ListenerTls>) {
    let Some(tls) = tls else {
        let carried = carry(app, Stream::Plain(stream), &shared);
        crate::task::run(async move {
            carried.await;
            shared.hand_on();
        });
        return;
    };
    let (app, tls) = (app.clone(), tls.clone());
    crate::task::run(async move {
        let AppInner { buffers, stats, .. } = &*app.0;
        // Boxed: what it needs ends with it.
        let shook = Box::pin(tls::handshake(&tls, stream, &shared, buffers, stats)).await;
        if let Some(stream) = shook {
            carry(&app, stream, &shared).await;
        }
        shared.hand_on();
    });
}

/// Serves a connection.
fn carry(
    app: &App,
    stream: Stream,
    shared: &Arc<ConnShared>,
) -> impl Future<Output = ()> + Send + use<> {
    let io = Watched::new(stream, shared.clone(), app.0.stats.clone());
    let http1 = {
        let (app, connection) = (app.clone(), shared.clone());
        let service = service_fn(move |request| handle(app.clone(), connection.clone(), request));
        move |io| {
            http1::Builder::new()
                .max_buf_size(limits::HEAD_BYTES_MAX)
                // Answers are small: one copy is cheaper than a list of buffers. (`pipeline_flush`
                // would copy too, but it also buffers a stream's body without bound.)
                .writev(false)
                // Otherwise hyper allocates a new buffer for every message, to detect the
                // connection's end while the request holds the old one. `Watched` detects it where
                // it matters.
                .half_close(true)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
        }
    };
    let http2 = {
        let (app, connection) = (app.clone(), shared.clone());
        move |io| Serving::new(io, app, connection)
    };
    Connection::new(
        io,
        Box::new(http1),
        Box::new(http2),
        shared.clone(),
        |http| http.graceful_shutdown(),
        |http| http.into_parts().map(|parts| parts.io.into_inner()),
    )
}

/// One request by HTTP/1.1.
async fn handle(
    app: App,
    connection: Arc<ConnShared>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    let in_flight = connection.request();
    let checked = check(&app, &connection, &request);
    let has_origin = *checked.as_ref().unwrap_or(&true);
    let verdict = verdict(&app, &checked, &request);
    let told = |mut response: Response<ReplyBody>| {
        if let Some(verdict) = &verdict {
            verdict.tell(response.headers_mut());
        }
        response
    };
    if let Err(error) = checked {
        return Ok(told(refuse(&error, &connection)));
    }
    if let Some(answer) = cors::preflight(&request, verdict.as_ref()) {
        return Ok(told(answer.map(|body| ReplyBody::whole(body, &connection))));
    }
    if let Some((api, key)) = message_in(&app, &request) {
        let began = crate::clock::timer_now();
        connection.request_began(began, api.options().request_deadline);
        let deadline = Deadline::Connection(&connection);
        let response = message(api, key, &connection, request, has_origin, deadline, began).await;
        return Ok(told(response.map(|body| ReplyBody::whole(body, &connection))));
    }
    in_flight.end_with_peer();
    // Boxed, so that the future of a message stays small.
    Ok(Box::pin(route(app, connection, request, in_flight, verdict)).await)
}

/// What a page of another origin is told of an answer: without that it can't read it, not even an error.
pub(super) fn verdict<B>(
    app: &App,
    checked: &Result<bool, Error>,
    request: &Request<B>,
) -> Option<Verdict> {
    let has_origin = *checked.as_ref().unwrap_or(&true);
    let gate = app.0.gate.as_ref().filter(|_| has_origin)?;
    gate.verdict(request.headers(), request.uri())
}

/// The API and the session, if the request is a message.
pub(super) fn message_in<'a, B>(
    app: &'a App,
    request: &Request<B>,
) -> Option<(&'a Api, Result<SessionKey, Error>)> {
    let api = app.0.api.as_ref().filter(|_| request.method() == Method::POST)?;
    let (service, session) = messages::names_in(request.uri().path())?;
    Some((api, params::session_key(service, session)))
}

/// A message takes the fast path: no router, no boxed future.
pub(super) async fn message<B>(
    api: &Api,
    key: Result<SessionKey, Error>,
    connection: &ConnShared,
    request: Request<B>,
    has_origin: bool,
    deadline: Deadline<'_>,
    began: Instant,
) -> Response<Bytes>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (uri, headers) = (request.uri(), request.headers());
    let names = messages::names_in(uri.path()).unwrap_or_default();
    let allowed = api.gate().message(connection, headers, uri, names, has_origin).await;
    let (head, body) = request.into_parts();
    let response = match allowed {
        Ok(admitted) => {
            let mut told = Told::default();
            let of = (&head.uri, &head.headers);
            let sent = messages::send(api, key, of, body, deadline, admitted, &mut told);
            messages::answer(sent.await, told)
        }
        Err(error) => problem::response(&error),
    };
    api.0.stats.message(response.status(), began.elapsed());
    response
}

/// The checks before anything is asked of a route. Returns whether a web page sends it.
pub(super) fn check<B: http_body::Body>(
    app: &App,
    connection: &ConnShared,
    request: &Request<B>,
) -> Result<bool, Error> {
    let has_body = !request.body().is_end_stream();
    let (method, uri, version) = (request.method(), request.uri(), request.version());
    let head = strict::check(method, uri, version, request.headers(), has_body)?;
    if connection.local_only
        && let Err(error) = auth::check_local_host(&head)
        && app.0.gate.as_ref().is_none_or(Gate::is_open)
    {
        return Err(error);
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
    Ok(head.has_origin)
}

/// Whether a request of an HTTP/2 connection may go on, which has a turn or none.
pub(super) fn check_turn<B>(has_turn: bool, request: &Request<B>) -> Result<(), Error> {
    match has_turn || is_probe(request.uri().path()) {
        true => Ok(()),
        false => Err(Error::new(
            Code::LimitReached,
            "too many requests over HTTP/2 are under way, and this connection has its share of \
             them; wait for some to be answered",
        )),
    }
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
    verdict: Option<Verdict>,
) -> Response<ReplyBody> {
    let (is_get, version) = (request.method() == Method::GET, request.version());
    let mut response = routed(&app, &connection, request).await;
    if let Some(verdict) = verdict {
        verdict.tell(response.headers_mut());
    }
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

/// What the router answers.
pub(super) async fn routed<B>(
    app: &App,
    connection: &Arc<ConnShared>,
    request: Request<B>,
) -> Response<RouteBody>
where
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let mut request = request.map(RouteBody::new);
    request.extensions_mut().insert(connection.clone());
    match app.0.router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
