//! The gateway: slotd's HTTP API and its admin API, each on its own listener.
//!
//! A request meets, in this order: its connection (`connection`, `server`), who asks and whether they
//! may (`auth`, `access`), the checks of names and parameters (`params`), its handler, and its `Backend`, a node.
//! `POST .../messages` bypasses axum's routes (`server`), because it is the hot path. With HTTP/2 a
//! connection has many requests at a time (`http2`), which meet the same.

mod access;
mod admin;
mod answer;
mod audit;
mod auth;
mod backend;
mod body;
mod canary;
mod captures;
mod connection;
mod events;
#[cfg(test)]
mod fake;
mod feed;
mod fork;
mod frames;
mod gate;
mod health;
mod history;
mod http2;
mod in_flight;
mod messages;
mod notify;
mod openapi;
mod operate;
mod params;
mod pieces;
mod places;
mod problem;
mod quota;
mod replay;
mod route;
mod server;
mod session_file;
mod sessions;
mod shutdown;
mod socket;
mod starting;
mod stats;
mod streaming;
mod strict;
#[cfg(test)]
mod tests;
mod timers;
mod tls;
mod uploads;
mod usage;
mod views;
mod websocket;

pub(crate) use body::{is_json, present};
pub use notify::Notifiers;
pub use openapi::document_json;
pub use places::PlaceLimits;
pub use problem::Problem;
pub use server::{App, Server};
pub use shutdown::Shutdown;
pub use starting::Doing;

use crate::{
    access::TokenStore,
    buffers::Buffers,
    node::Node,
    quota::{Limiter, Quota},
    watchdog::Heartbeat,
};
use access::Gate;
use backend::Backend;
use slotd_access::{Access, Listener};
use stats::Stats;
use std::{sync::Arc, time::Duration};
use tokio::runtime::Handle;
use uploads::Uploads;

/// The gateway's settings.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Of a message or query; at most [`crate::limits::BODY_BYTES_MAX`].
    pub body_bytes_max: usize,
    /// Budget for what the API's connections hold.
    pub buffers: Arc<Buffers>,
    /// From a request's arrival to its answer.
    pub request_deadline: Duration,
    /// Connections of the API listener, sockets included.
    pub connections: PlaceLimits,
    /// Connections of the admin listener.
    pub admin_connections: PlaceLimits,
    /// Who may do what.
    pub access: Access,
    /// Where named tokens are kept.
    pub tokens: TokenStore,
    /// Who may send ephemeral events.
    pub notify: Notifiers,
    /// How much services may use.
    pub quota: Quota,
    /// The admin listener accepts certificates of clients.
    pub client_certificates: bool,
}

#[cfg(test)]
impl Default for HttpOptions {
    fn default() -> Self {
        use crate::limits;
        Self {
            body_bytes_max: limits::BODY_BYTES_DEFAULT,
            buffers: crate::buffers::shared().clone(),
            request_deadline: limits::REQUEST_DEADLINE_DEFAULT,
            connections: PlaceLimits::new(limits::CONNECTIONS_DEFAULT),
            admin_connections: PlaceLimits::new(limits::ADMIN_CONNECTIONS_MAX),
            access: crate::access::of_test(None, None),
            tokens: TokenStore::none(),
            notify: Notifiers::default(),
            quota: Quota::default(),
            client_certificates: false,
        }
    }
}

/// What the API's handlers share. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<ApiInner>);

struct ApiInner {
    backend: Backend,
    gate: Gate,
    limiter: Limiter,
    options: HttpOptions,
    shutdown: Shutdown,
    stats: Stats,
}

impl Api {
    /// Looks up its metric handles here: install the recorder before.
    pub fn new(node: Arc<Node>, options: HttpOptions, shutdown: Shutdown) -> Self {
        Self::over(Backend::Node(node), options, shutdown)
    }
    fn over(backend: Backend, options: HttpOptions, shutdown: Shutdown) -> Self {
        let gate = Gate::new(options.access.clone(), Listener::Api, false);
        let [asked, told] = [backend.clone(), backend.clone()];
        let limiter = Limiter::new(
            options.quota.clone(),
            move |key| asked.has(&key.service),
            move |key, client| told.refused(&key.service, client),
        );
        let stats = Stats::new();
        Self(Arc::new(ApiInner { backend, gate, limiter, options, shutdown, stats }))
    }
    fn gate(&self) -> &Gate {
        &self.0.gate
    }
    fn limiter(&self) -> &Limiter {
        &self.0.limiter
    }
    fn backend(&self) -> &Backend {
        &self.0.backend
    }
    fn options(&self) -> &HttpOptions {
        &self.0.options
    }
    fn buffers(&self) -> &Arc<Buffers> {
        &self.0.options.buffers
    }
}

/// Renders the metrics in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the admin API's handlers share. Cheap to clone.
#[derive(Clone)]
pub struct Admin(Arc<AdminInner>);

struct AdminInner {
    /// `None` in this folder's own tests.
    node: Option<Arc<Node>>,
    gate: Gate,
    options: HttpOptions,
    shutdown: Shutdown,
    stats: Stats,
    metrics: RenderMetrics,
    uploads: Uploads,
    /// `None`: that of the listener.
    serving: Option<Handle>,
    heartbeat: Heartbeat,
}

impl Admin {
    /// Looks up its metric handles here: install the recorder before. The listener may run on
    /// another runtime than `serving`, where everything that needs the node runs; probes and
    /// metrics are answered even while that is busy.
    pub fn new(
        node: Arc<Node>,
        options: HttpOptions,
        shutdown: Shutdown,
        metrics: RenderMetrics,
        serving: Handle,
        heartbeat: Heartbeat,
    ) -> Self {
        Self::of(Some(node), options, shutdown, metrics, Some(serving), heartbeat)
    }
    #[cfg(test)]
    fn over(
        node: Option<Arc<Node>>,
        options: HttpOptions,
        shutdown: Shutdown,
        metrics: RenderMetrics,
    ) -> Self {
        Self::of(node, options, shutdown, metrics, None, Heartbeat::default())
    }
    fn of(
        node: Option<Arc<Node>>,
        options: HttpOptions,
        shutdown: Shutdown,
        metrics: RenderMetrics,
        serving: Option<Handle>,
        heartbeat: Heartbeat,
    ) -> Self {
        let uploads = Uploads::new();
        let stats = Stats::new();
        let gate = {
            let (access, certificates) = (options.access.clone(), options.client_certificates);
            Gate::new(access, Listener::Admin, certificates)
        };
        Self(Arc::new(AdminInner {
            node,
            gate,
            options,
            shutdown,
            stats,
            metrics,
            uploads,
            serving,
            heartbeat,
        }))
    }
}
