//! Connections to NATS servers, and those that slotd starts.

use std::time::Duration;

/// Room for the streams of one nats-server that slotd starts for itself.
pub const NATS_LOCAL_STORE_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// `max_payload` of such a server: the largest batch that any configuration allows, and room.
pub const NATS_LOCAL_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
/// Time until such servers are ready: an election takes up to 9 s, a busy machine as much again.
pub const NATS_LOCAL_READY: Duration = Duration::from_secs(60);
/// Tries to start such servers when another process takes one of their ports.
pub const NATS_LOCAL_TRIES: u32 = 5;
/// One answer of a server's monitoring port.
pub const NATS_MONITOR_TIMEOUT: Duration = Duration::from_secs(5);
pub const NATS_MONITOR_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Time to connect to one server.
pub const NATS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that answers nothing, not even pings, is left after three of these.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(2);
/// Back-off of a connection that was lost: exponential, over all servers in turn.
pub const NATS_RECONNECT_MIN: Duration = Duration::from_millis(10);
pub const NATS_RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Back-off of a start that waits for the servers.
pub const NATS_BOOT_RETRY_MIN: Duration = Duration::from_millis(100);
pub const NATS_BOOT_RETRY_MAX: Duration = Duration::from_secs(5);
/// A server's first line: its addresses make the most of it.
pub const NATS_INFO_BYTES_MAX: u64 = 64 * 1024;
/// One request to JetStream.
pub const NATS_REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests in a row that a server leaves unanswered before another one is tried: longer
/// than most elections, so that a whole cluster does not connect anew for each.
pub const NATS_SILENT_MAX: u32 = 6;
/// Streams that slots are spread over: each is a Raft group of its own on its servers.
pub const NATS_STREAMS_MAX: u16 = 256;
