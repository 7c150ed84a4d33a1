//! The connection to NATS, the engine that a cluster's nodes share.
//!
//! Once connected, it is kept: async-nats reconnects by itself, to any server that answers.
//! [`Nats::connected`] returns whether it is connected now.

pub(crate) mod find;
pub(crate) mod inbox;
pub mod local;
pub(crate) mod monitor;
mod probe;
pub(crate) mod version;

use crate::{
    backoff::{self, Backoff},
    limits,
    names::is_cluster_name,
    random,
    telemetry::{metrics::metrics, repeats},
    tls::ClientFiles,
};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerAddr, jetstream};
use inbox::{Inbox, Waiters};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// `nats://host:port`, at least one; `tls://` uses TLS, checked against the system's
    /// certificates (`SSL_CERT_FILE` names others). `user:password@` or `token@` before the host
    /// authenticates, and must be the same for all.
    pub servers: Vec<String>,
    /// A NATS credentials file (JWT and seed).
    pub credentials: Option<PathBuf>,
    /// With an authority or a certificate, servers are spoken to over TLS only. Read again for each
    /// connection.
    pub tls: ClientFiles,
    /// The cluster's name: prefix of all streams, subjects and buckets.
    pub cluster: String,
    /// Copies of each stream: 1, 3 or 5.
    pub replicas: usize,
    /// Streams that the slots are spread over.
    pub streams: u16,
    /// How long a start waits for the servers.
    pub boot_wait: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// Not reachable, or without a quorum: may work later.
    #[error("{0}")]
    Unavailable(String),
    /// It answers, but can't be used: too old, configured differently, no permission.
    #[error("{0}")]
    Refused(String),
}

/// A connection with everything that its users need. Cheap to clone.
#[derive(Clone)]
pub struct Nats {
    pub client: async_nats::Client,
    /// For stream setup, buckets and objects. Requests under load go through the inbox.
    pub jetstream: jetstream::Context,
    pub inbox: Inbox,
    pub options: Arc<NatsOptions>,
    /// Whether it is connected.
    pub connected: watch::Receiver<bool>,
    /// The smallest `max_payload` of all servers that answered: it fits through any of them.
    pub max_payload: usize,
    /// Consecutive probes of [`Nats::answers`] without an answer.
    silent: Arc<AtomicU32>,
}

impl Nats {
    /// The same connection, for slots spread over this many streams.
    #[must_use]
    pub fn over_streams(mut self, streams: u16) -> Self {
        Arc::make_mut(&mut self.options).streams = streams;
        self
    }

    /// Connects, and checks that the servers are new enough and have JetStream. Retries with
    /// back-off until [`NatsOptions::boot_wait`] has passed.
    ///
    /// # Errors
    /// See [`NatsError`].
    pub async fn connect(options: NatsOptions) -> Result<Self, NatsError> {
        Self::connect_reporting(options, |_| {}).await
    }

    /// As [`Nats::connect`]; `report` gets the error of each attempt but the last.
    ///
    /// # Errors
    /// See [`NatsError`].
    pub async fn connect_reporting(
        options: NatsOptions,
        report: impl Fn(&str),
    ) -> Result<Self, NatsError> {
        check_options(&options)?;
        let options = Arc::new(options);
        let started = crate::clock::now();
        let mut backoff = Backoff::new(limits::NATS_BOOT_RETRY_MIN, limits::NATS_BOOT_RETRY_MAX);
        loop {
            let why = match Self::try_connect(&options).await {
                Err(NatsError::Unavailable(why)) => why,
                done => return done,
            };
            let servers = names(&options);
            let pause = backoff.next_within(options.boot_wait, started.elapsed());
            let Some(pause) = pause else {
                let waited = options.boot_wait.as_secs();
                let message = format!("can't use NATS at {servers} after {waited} s: {why}");
                return Err(NatsError::Unavailable(message));
            };
            tracing::warn!(%servers, %why, next_try_ms = pause.as_millis(), "waiting for NATS");
            report(&format!("{servers}: {why}"));
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_connect(options: &Arc<NatsOptions>) -> Result<Self, NatsError> {
        let max_payload = probe::servers(options).await?;
        let (connected_to, connected) = watch::channel(false);
        let waiters = Waiters::default();
        let servers = addresses(options)?;
        let connect = connect_options(options, &servers).await?;
        // The credentials are in the options: the client shows the addresses in its log.
        let servers = bare_addresses(options)?;
        let client = connect
            .event_callback({
                let (waiters, connected) = (waiters.clone(), Arc::new(connected_to));
                move |event| {
                    note(&event, &waiters, &connected);
                    std::future::ready(())
                }
            })
            .connect(&servers[..])
            .await
            .map_err(connect_error)?;
        let inbox = Inbox::open(client.clone(), waiters).await;
        let inbox = inbox.map_err(|e| NatsError::Unavailable(e.to_string()))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(limits::NATS_REQUEST_TIMEOUT)
            .build(client.clone());
        let max_payload = max_payload.min(client.max_payload());
        let options = options.clone();
        let silent = Arc::default();
        let this = Self { client, jetstream, inbox, options, connected, max_payload, silent };
        this.wait_connected().await;
        this.check().await?;
        Ok(this)
    }

    /// Whether the account has JetStream, with enough servers for the replicas.
    async fn check(&self) -> Result<(), NatsError> {
        use jetstream::{ErrorCode, context::AccountErrorKind};
        let info = self.client.server_info();
        let server = if info.server_name.is_empty() { &info.server_id } else { &info.server_name };
        let replicas = self.options.replicas;
        if replicas > 1 && info.cluster.is_none() {
            return Err(NatsError::Refused(format!(
                "nats.replicas is {replicas}, but NATS server {server} is not clustered: set \
                 nats.replicas to 1 (for development only: if that server is lost, so is all data)"
            )));
        }
        match self.jetstream.query_account().await {
            Ok(_) => Ok(()),
            Err(e) => match e.kind() {
                AccountErrorKind::JetStream(error)
                    if matches!(
                        error.error_code(),
                        ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
                            | ErrorCode::JETSTREAM_NOT_ENABLED
                    ) =>
                {
                    Err(NatsError::Refused(format!("NATS server {server}: {error}")))
                }
                AccountErrorKind::JetStreamUnavailable | AccountErrorKind::JetStream(_) => {
                    Err(NatsError::Unavailable(format!("JetStream on {server}: {e}")))
                }
                _ => Err(NatsError::Unavailable(format!(
                    "JetStream on {server} does not answer (is it enabled, does it have a \
                     quorum?): {e}"
                ))),
            },
        }
    }

    /// Whether the servers behind these monitoring URLs (`http://host:8222`, or `https://` with
    /// `tls`) fsync before they acknowledge. A client has no other way to see it.
    ///
    /// # Errors
    /// [`NatsError::Refused`] if one does not: a power loss would lose acknowledged messages.
    /// [`NatsError::Unavailable`] if one does not answer.
    pub async fn check_sync(monitors: &[String], tls: &ClientFiles) -> Result<(), NatsError> {
        for url in monitors {
            let about = monitor::get_url(url, "/varz", tls).await;
            let about = about.map_err(|e| NatsError::Unavailable(format!("{url}: {e}")))?;
            let name = about["server_name"].as_str().unwrap_or("?");
            if about["jetstream"]["config"]["sync_always"] != true {
                return Err(NatsError::Refused(format!(
                    "NATS server {name} ({url}) acknowledges writes before it syncs them, so a \
                     power loss can lose acknowledged messages: set `sync_interval: always` in \
                     the `jetstream` block of its configuration"
                )));
            }
        }
        Ok(())
    }

    /// Whether the servers can work for this node now: the one that it is connected to reaches the
    /// others, and they have a leader. Takes at most `wait`.
    ///
    /// An isolated server keeps its connections: after some probes without an answer the client
    /// switches to another one.
    pub async fn answers(&self, wait: Duration) -> bool {
        // Without a connection, a request would be queued until there is one.
        let connected = *self.connected.borrow();
        let asked = async { connected && self.jetstream.query_account().await.is_ok() };
        if tokio::time::timeout(wait, asked).await.unwrap_or(false) {
            self.silent.store(0, Ordering::Relaxed);
            return true;
        }
        let silent = self.silent.fetch_add(1, Ordering::Relaxed) + 1;
        if connected && silent.is_multiple_of(limits::NATS_SILENT_MAX) {
            tracing::warn!("a NATS server is not usable; trying another one");
            // An error means that the client is closed; everything fails by itself then.
            let _ = self.client.force_reconnect().await;
        }
        false
    }

    /// Waits until it is connected; at once if it is.
    pub async fn wait_connected(&self) {
        // An error means that the client is closed; everything fails by itself then.
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
    }
}

fn note(event: &Event, waiters: &Waiters, connected: &watch::Sender<bool>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            metrics().nats_connected.set(1.0);
            connected.send_replace(true);
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!("lost the connection to NATS");
            metrics().nats_connected.set(0.0);
            metrics().nats_disconnects.increment(1);
            connected.send_replace(false);
            waiters.lose();
        }
        Event::ServerError(error) if repeats::admit("NATS errors", "NATS") => {
            tracing::warn!(%error, "NATS");
        }
        Event::ClientError(error) => tracing::debug!(%error, "NATS"),
        _ => {}
    }
}

/// # Errors
/// If a credentials file can't be read or the servers' URLs name different users.
async fn connect_options(
    options: &NatsOptions,
    servers: &[ServerAddr],
) -> Result<ConnectOptions, NatsError> {
    let mut connect = ConnectOptions::new()
        .name(format!("slotd {}", options.cluster))
        .connection_timeout(limits::NATS_CONNECT_TIMEOUT)
        .ping_interval(limits::NATS_PING_INTERVAL)
        .request_timeout(Some(limits::NATS_REQUEST_TIMEOUT))
        .reconnect_delay_callback(reconnect_delay)
        // All are built here, from names that are checked.
        .skip_subject_validation(true);
    if let Some(path) = &options.credentials {
        connect = connect.credentials_file(path).await.map_err(|e| {
            NatsError::Refused(format!("NATS credentials file {}: {e}", path.display()))
        })?;
    }
    if options.tls != ClientFiles::default() {
        // async-nats reads the files, and would wait for them to become right.
        let tls = options.tls.clone();
        let read = crate::task::blocking(move || tls.config().map(drop)).await;
        let read = read.map_err(|e| NatsError::Unavailable(e.to_string()))?;
        read.map_err(|e| NatsError::Refused(format!("TLS to NATS: {e}")))?;
        connect = connect.require_tls(true);
        let ClientFiles { authority, certificate } = &options.tls;
        if let Some(path) = authority {
            connect = connect.add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = certificate {
            connect = connect.add_client_certificate(certificate.clone(), key.clone());
        }
    }
    // async-nats reads none of it from the URLs.
    let mut users = servers.iter().map(|server| (server.username(), server.password()));
    let first = users.next().unwrap_or_default();
    if users.any(|user| user != first) {
        let message = "the URLs in nats.servers name different users; use one for all";
        return Err(NatsError::Refused(message.into()));
    }
    let decoded =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    Ok(match first {
        (Some(user), Some(password)) => connect.user_and_password(decoded(user), decoded(password)),
        (Some(token), None) => connect.token(decoded(token)),
        (None, _) => connect,
    })
}

fn check_options(options: &NatsOptions) -> Result<(), NatsError> {
    let refused = |message: String| Err(NatsError::Refused(message));
    let NatsOptions { cluster, replicas, streams, servers, .. } = options;
    if !is_cluster_name(cluster) {
        return refused(format!("the cluster's name {cluster:?} is not letters, digits, - and _"));
    }
    if !matches!(replicas, 1 | 3 | 5) {
        return refused(format!("nats.replicas is {replicas}; it must be 1, 3 or 5"));
    }
    if *streams == 0 || *streams > limits::NATS_STREAMS_MAX {
        let most = limits::NATS_STREAMS_MAX;
        return refused(format!("nats.streams is {streams}; it must be 1 to {most}"));
    }
    if servers.is_empty() {
        return refused("nats.servers is empty".into());
    }
    Ok(())
}

fn addresses(options: &NatsOptions) -> Result<Vec<ServerAddr>, NatsError> {
    options.servers.iter().map(|url| address(url)).collect()
}

/// Without users, passwords and tokens.
fn bare_addresses(options: &NatsOptions) -> Result<Vec<ServerAddr>, NatsError> {
    options.servers.iter().map(|url| address(&without_user(url))).collect()
}

fn address(url: &str) -> Result<ServerAddr, NatsError> {
    url.parse().map_err(|e| NatsError::Refused(format!("nats.servers: {}: {e}", without_user(url))))
}

/// The servers in a form that logs may show.
fn names(options: &NatsOptions) -> String {
    options.servers.iter().map(|url| without_user(url)).collect::<Vec<_>>().join(", ")
}

fn without_user(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        _ => url.to_owned(),
    }
}

/// Delay before the given attempt to reconnect, the first being 1: exponential, with jitter, so
/// that the nodes of a cluster do not reconnect in step.
fn reconnect_delay(attempt: usize) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else { return Duration::ZERO };
    let doublings = u32::try_from(doublings).unwrap_or(u32::MAX);
    let most = backoff::step(limits::NATS_RECONNECT_MIN, limits::NATS_RECONNECT_MAX, doublings);
    random::spread(most, 0.5..1.0)
}

fn connect_error(error: async_nats::ConnectError) -> NatsError {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            NatsError::Refused(format!("NATS refused the credentials: {error}"))
        }
        ConnectErrorKind::ServerParse => NatsError::Refused(format!("nats.servers: {error}")),
        _ => NatsError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
