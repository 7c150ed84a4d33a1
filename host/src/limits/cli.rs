//! The command line, and clusters for development.

use std::time::Duration;

/// An answer that the command line reads whole: a page of history with its JSON around it.
pub const CLIENT_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// An answer that reports a failure: a sentence or two.
pub const CLIENT_PROBLEM_BYTES_MAX: usize = 256 * 1024;
/// One line or event of an event stream that `slotd tail` reads.
pub const CLIENT_EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Time to connect.
pub const CLIENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one request of the command line, but a deploy.
pub const CLIENT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Time for a deploy: to upload, to wait for others that are compiled, to compile
/// ([`COMPILE_DEADLINE_DEFAULT`](super::COMPILE_DEADLINE_DEFAULT) each), and for the slots to move.
pub const CLIENT_DEPLOY_TIMEOUT: Duration = Duration::from_secs(360);
/// Time for a capture: for a thread, and to run the messages before it
/// ([`CAPTURE_TIME_MAX`](super::CAPTURE_TIME_MAX) each).
pub const CAPTURE_CLIENT_TIMEOUT: Duration = Duration::from_secs(150);
/// `slotd tail --follow` ends when the stream was silent (keep-alives too) for this long and
/// begins again.
pub const CLIENT_STREAM_SILENCE: Duration = Duration::from_secs(60);
/// The longest wait before `slotd tail --follow` connects again.
pub const CLIENT_RECONNECT_MAX: Duration = Duration::from_secs(10);
/// How long `slotd node drain --wait` waits: the largest grace that makes sense, and the leave.
pub const CLIENT_DRAIN_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at something that a command waits for.
pub const CLIENT_LOOK: Duration = Duration::from_millis(100);
/// Time until all nodes of a development cluster are ready, the NATS servers being so already.
pub const CLUSTER_DEV_READY: Duration = Duration::from_secs(90);
/// What a node of a development cluster has logged, on disk: then the file begins anew, and the one
/// before is kept.
pub const CLUSTER_DEV_LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Time that they have to stop in an orderly way: their grace, what a store's close may take
/// beyond it, and a little.
pub const CLUSTER_DEV_STOP: Duration = Duration::from_secs(40);
/// Free ports that are tried until one is free over TCP and UDP.
pub const PEER_PORT_TRIES: u32 = 32;
/// Days of usage that are reported if nobody says how many: a month's.
pub const USAGE_SHOWN_DAYS: u64 = 30;
/// Changes that `slotd audit-log` shows: some screens.
pub const AUDIT_SHOWN_DEFAULT: u64 = 100;
/// How often `slotd audit-log --follow` asks: a person reads it.
pub const AUDIT_FOLLOW_LOOK: Duration = Duration::from_secs(1);
