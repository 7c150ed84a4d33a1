//! The configuration: defaults, then a TOML file, then the environment, then flags; a later source
//! overrides an earlier one.
//!
//! [`keys::KEYS`] is the one table that drives all of it. All problems, in any source, are reported
//! at once and stop the start.

pub mod docs;
pub mod keys;
mod load;
mod print;
mod spelling;
#[cfg(test)]
mod tests;
mod value;

pub use load::{Loaded, Sources, load};
pub use value::{Kind, Secret, Value};

use crate::{
    limits, memory,
    peer::identity::CertificateFiles,
    plugin::Isolation,
    telemetry::LogFormat,
    tls::{ClientFiles, ListenerFiles},
};
use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// A node's configuration. Durations and sizes are within the bounds of [`keys::KEYS`].
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    /// The node's name.
    pub node: String,
    pub slot_count: u16,
    pub insecure: bool,
    /// For test suites. Only a command-line flag, so that no file or variable leaves it on.
    pub resettable: bool,
    pub shares: bool,
    pub level_wait: Duration,
    pub shutdown_grace: Duration,
    /// Time without progress of the serving threads.
    pub stall_limit: Duration,
    pub api: Listener,
    pub admin: Listener,
    /// The policy.
    pub access_file: Option<String>,
    pub body_bytes_max: usize,
    /// Of the API listener, sockets included.
    pub connections_max: usize,
    /// Per address that is not loopback; 0: half of them.
    pub connections_per_address: usize,
    pub request_deadline: Duration,
    /// Comma-separated; `*`: all.
    pub notify: Option<String>,
    /// As [`crate::effects::rules::SendRules::parse`] reads it.
    pub sends: Option<String>,
    /// As above.
    pub in_order: Option<String>,
    /// As [`crate::requests::Rules::parse`] reads it.
    pub http_rules: Option<String>,
    /// As [`crate::requests::Grants::parse`] reads it.
    pub http_secrets: Option<String>,
    pub secrets_file: Option<String>,
    /// What the names of environment variables that are secrets begin with.
    pub secrets_env: Option<String>,
    /// Requests over HTTP at once, of a service to a host.
    pub http_at_once: usize,
    pub http_per_second: u32,
    pub mailbox_messages: usize,
    pub slot_idle: Duration,
    pub session_cache_bytes: usize,
    /// Memory that connections hold.
    pub buffers_bytes: usize,
    pub guest_memory_bytes: usize,
    /// Over all instances.
    pub guest_memory_total_bytes: u64,
    pub guest_idle: Duration,
    pub guest_deadline: Duration,
    pub guest_host_calls: u32,
    /// Of the process that compiles.
    pub guest_compile_memory_bytes: u64,
    pub guest_compile_deadline: Duration,
    pub guest_isolation: Isolation,
    /// Threads for long-running calls.
    pub guest_long_threads: usize,
    pub store_cache_bytes: u64,
    pub disk_reserve_bytes: u64,
    pub log_format: LogFormat,
    pub log_filter: String,
    pub nats: NatsConfig,
    pub cluster: ClusterConfig,
    /// `nats:`, `file:///directory` or `s3://bucket/prefix`.
    pub snapshots: String,
    pub seal: SealConfig,
}

/// Where the keys are that what is kept is sealed with: one of both, or neither.
#[derive(Clone, Debug, Default)]
pub struct SealConfig {
    pub key_file: Option<String>,
    pub key_command: Option<String>,
}

/// The NATS settings of a cluster.
#[derive(Clone)]
pub struct NatsConfig {
    /// Comma-separated. If set, the node is part of a cluster. May contain a password.
    pub servers: Option<String>,
    pub credentials: Option<String>,
    /// Of the servers' certificates, instead of the system's.
    pub tls_authority: Option<String>,
    /// Shown to servers: both or none.
    pub tls_certificate: Option<String>,
    pub tls_key: Option<String>,
    /// Comma-separated.
    pub monitor: Option<String>,
    pub replicas: usize,
    /// `None`: the cluster's number.
    pub streams: Option<u16>,
    pub boot_wait: Duration,
}

impl NatsConfig {
    /// TLS towards the servers.
    pub fn tls(&self) -> ClientFiles {
        let certificate = self.tls_certificate.as_ref().zip(self.tls_key.as_ref());
        ClientFiles {
            authority: self.tls_authority.as_ref().map(Into::into),
            certificate: certificate.map(|(certificate, key)| (certificate.into(), key.into())),
        }
    }
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            servers,
            credentials,
            tls_authority,
            tls_certificate,
            tls_key,
            monitor,
            replicas,
            streams,
            boot_wait,
        } = self;
        let shown = |servers: &String| {
            value::masked(&Kind::NatsServers, servers).unwrap_or_else(|| servers.clone())
        };
        f.debug_struct("NatsConfig")
            .field("servers", &servers.as_ref().map(shown))
            .field("credentials", credentials)
            .field("tls_authority", tls_authority)
            .field("tls_certificate", tls_certificate)
            .field("tls_key", tls_key)
            .field("monitor", monitor)
            .field("replicas", replicas)
            .field("streams", streams)
            .field("boot_wait", boot_wait)
            .finish()
    }
}

#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub name: String,
    /// Already read from `secret_file`.
    pub secret: Option<Secret>,
    pub secret_file: Option<String>,
    /// Allows a secret weaker than [`crate::limits::CLUSTER_SECRET_BITS_MIN`].
    pub accept_weak_secret: bool,
    /// Certificates of the cluster's own authority: all three or none.
    pub tls_authority: Option<String>,
    pub tls_certificate: Option<String>,
    pub tls_key: Option<String>,
    /// TCP and UDP.
    pub listen: SocketAddr,
    /// Where peers reach it, if that differs.
    pub advertise: Option<SocketAddr>,
    /// Comma-separated.
    pub seeds: Option<String>,
    pub join_wait: Duration,
}

impl ClusterConfig {
    /// The cluster's own certificates, if it has any.
    pub fn certificates(&self) -> Option<CertificateFiles> {
        Some(CertificateFiles {
            authority: self.tls_authority.as_ref()?.into(),
            certificate: self.tls_certificate.as_ref()?.into(),
            key: self.tls_key.as_ref()?.into(),
        })
    }
}

impl Config {
    pub fn is_cluster(&self) -> bool {
        self.nats.servers.is_some()
    }
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub listen: SocketAddr,
    /// Required from clients, if set. Already read from `token_file`.
    pub token: Option<Secret>,
    pub token_file: Option<String>,
    /// Both or none.
    pub tls_certificate: Option<String>,
    pub tls_key: Option<String>,
    /// Of its clients' certificates. The admin listener's alone.
    pub tls_client_authority: Option<String>,
    /// TLS ends in front of it.
    pub clear_text: bool,
}

impl Listener {
    /// Its certificate, if it speaks TLS.
    pub fn tls(&self) -> Option<ListenerFiles> {
        Some(ListenerFiles {
            certificate: self.tls_certificate.as_ref()?.into(),
            key: self.tls_key.as_ref()?.into(),
            client_authority: self.tls_client_authority.as_ref().map(Into::into),
        })
    }
    /// Other machines reach it.
    pub fn is_exposed(&self) -> bool {
        !self.listen.ip().to_canonical().is_loopback()
    }
    /// Whoever has none of these has no way in.
    pub fn needs_credentials(&self) -> bool {
        self.token.is_some() || self.tls_client_authority.is_some()
    }
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| Listener {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            token: None,
            token_file: None,
            tls_certificate: None,
            tls_key: None,
            tls_client_authority: None,
            clear_text: false,
        };
        Self {
            data_dir: "./slotd-data".into(),
            node: value::default_node_name(),
            slot_count: limits::SLOT_COUNT_DEFAULT,
            insecure: false,
            resettable: false,
            shares: false,
            level_wait: limits::LEVEL_WAIT_DEFAULT,
            shutdown_grace: limits::SHUTDOWN_GRACE_DEFAULT,
            stall_limit: limits::STALL_LIMIT_DEFAULT,
            api: local(7070),
            admin: local(7071),
            access_file: None,
            body_bytes_max: limits::BODY_BYTES_DEFAULT,
            connections_max: limits::CONNECTIONS_DEFAULT,
            connections_per_address: 0,
            request_deadline: limits::REQUEST_DEADLINE_DEFAULT,
            notify: None,
            sends: None,
            in_order: None,
            http_rules: None,
            http_secrets: None,
            secrets_file: None,
            secrets_env: None,
            http_at_once: slotd_outbound::limits::AT_ONCE,
            http_per_second: slotd_outbound::limits::PER_SECOND,
            mailbox_messages: limits::MAILBOX_MESSAGES_DEFAULT,
            slot_idle: limits::SLOT_IDLE_DEFAULT,
            session_cache_bytes: limits::SESSION_CACHE_BYTES_DEFAULT,
            buffers_bytes: limits::BUFFERS_BYTES_DEFAULT,
            guest_memory_bytes: limits::GUEST_MEMORY_BYTES_DEFAULT,
            guest_memory_total_bytes: value::default_memory_total(),
            guest_idle: limits::INSTANCE_IDLE_DEFAULT,
            guest_deadline: limits::GUEST_DEADLINE_DEFAULT,
            guest_host_calls: limits::HOST_CALLS_MAX,
            guest_compile_memory_bytes: memory::default_compile_memory(),
            guest_compile_deadline: limits::COMPILE_DEADLINE_DEFAULT,
            guest_isolation: Isolation::Shared,
            guest_long_threads: value::default_long_threads(),
            store_cache_bytes: limits::BLOCK_CACHE_BYTES_DEFAULT,
            disk_reserve_bytes: limits::DISK_RESERVE_BYTES_DEFAULT,
            log_format: LogFormat::Text,
            log_filter: "info".into(),
            nats: NatsConfig {
                servers: None,
                credentials: None,
                tls_authority: None,
                tls_certificate: None,
                tls_key: None,
                monitor: None,
                replicas: 3,
                streams: None,
                boot_wait: limits::ENGINE_BOOT_WAIT_DEFAULT,
            },
            cluster: ClusterConfig {
                name: "slotd".into(),
                secret: None,
                secret_file: None,
                accept_weak_secret: false,
                tls_authority: None,
                tls_certificate: None,
                tls_key: None,
                listen: SocketAddr::from(([127, 0, 0, 1], 7072)),
                advertise: None,
                seeds: None,
                join_wait: limits::JOIN_WAIT_DEFAULT,
            },
            snapshots: "nats:".into(),
            seal: SealConfig::default(),
        }
    }
}
