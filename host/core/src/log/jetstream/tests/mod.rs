//! The log on real servers: conformance, lost and late messages by a proxy, killed servers.

#![allow(clippy::unwrap_used)]

mod conform;
mod faults;
mod proxy;
mod servers;
mod setup;

use super::*;
use crate::{
    log::conformance::{batch, read_all},
    nats::{
        NatsOptions,
        local::{LocalOptions, LocalServers},
    },
};
use proxy::Proxy;
use std::sync::Weak;

/// Slots of a test's log, over two streams.
const SLOTS: u16 = 64;
/// Short, so that what is lost is looked after soon.
const WAITS: Waits = Waits {
    append: Duration::from_millis(250),
    request: Duration::from_millis(500),
    behind: Duration::from_secs(2),
};

/// Three servers with their directory.
pub(super) struct Servers {
    pub local: LocalServers,
    _dir: tempfile::TempDir,
}

impl Servers {
    pub async fn start() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalServers::start(LocalOptions::new(3, dir.path())).await.unwrap();
        Arc::new(Self { local, _dir: dir })
    }

    /// Those that tests which leave them alone share while any of them runs.
    pub async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<Servers>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(servers) = shared.upgrade() {
            return servers;
        }
        let servers = Self::start().await;
        *shared = Arc::downgrade(&servers);
        servers
    }

    /// A cluster of slotd of its own on these servers.
    pub fn options(&self) -> NatsOptions {
        NatsOptions {
            servers: self.local.urls(),
            credentials: None,
            tls: Default::default(),
            cluster: format!("t{:016x}", crate::random::seed()),
            replicas: 3,
            streams: 2,
            boot_wait: Duration::from_secs(60),
        }
    }

    /// The same cluster's options through a proxy before one server.
    pub async fn through_proxy(&self, options: &NatsOptions) -> (Proxy, NatsOptions) {
        let proxy = Proxy::start(self.local.urls()[0].trim_start_matches("nats://")).await;
        let servers = vec![proxy.url()];
        (proxy, NatsOptions { servers, ..options.clone() })
    }
}

/// A log on a connection of its own.
pub(super) async fn open(options: &NatsOptions) -> Arc<JetStreamLog> {
    let nats = Nats::connect(options.clone()).await.unwrap();
    let size = batch_bytes_max(limits::BODY_BYTES_MAX);
    Arc::new(JetStreamLog::open_with(nats, SLOTS, size, WAITS).await.unwrap())
}

/// The next append of a claim.
pub(super) fn append(slot: SlotId, claim: Claim, after: Position, number: u64) -> Append {
    Append { slot, term: claim.term, after, batch: batch(slot, claim.term, number) }
}

/// Every batch of the slot after `after`, which must be just these.
pub(super) async fn assert_log(
    log: &JetStreamLog,
    slot: SlotId,
    after: Position,
    expected: &[(Position, Bytes)],
) {
    let all = read_all(log, slot, after).await;
    let all: Vec<_> = all.into_iter().map(|logged| (logged.position, logged.batch)).collect();
    assert_eq!(all, expected);
}
