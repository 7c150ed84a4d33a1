//! The connection to NATS, the engine that a cluster's nodes share.

pub mod find;
pub mod local;
pub mod monitor;
pub mod version;

use std::{path::PathBuf, time::Duration};

#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// `nats://host:port`, at least one.
    pub servers: Vec<String>,
    /// A NATS credentials file (JWT and seed).
    pub credentials: Option<PathBuf>,
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
    /// It answers, and can't be used: too old, set up otherwise, no permission.
    #[error("{0}")]
    Refused(String),
}

/// A connection with what every user of it needs. Cheap to clone.
#[derive(Clone)]
pub struct Nats {
    pub client: async_nats::Client,
    pub jetstream: async_nats::jetstream::Context,
    pub options: std::sync::Arc<NatsOptions>,
}

impl Nats {
    /// # Errors
    /// See [`NatsError`].
    pub async fn connect(options: NatsOptions) -> Result<Self, NatsError> {
        let client = async_nats::connect(&options.servers).await;
        let client = client.map_err(|e| NatsError::Unavailable(e.to_string()))?;
        let jetstream = async_nats::jetstream::new(client.clone());
        Ok(Self { client, jetstream, options: options.into() })
    }
}
