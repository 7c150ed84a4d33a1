//! Links between nodes, and the cluster's secret.

use std::time::Duration;

/// What a frame is filled up to with requests, small answers and live items: large enough for a
/// thousand small ones, small enough that the next frame is not far.
pub const PEER_FRAME_BYTES: usize = 64 * 1024;
/// A larger body goes in pieces of this size.
pub const PEER_PIECE_BYTES: usize = 64 * 1024;
/// A frame that is larger ends the link: more than twice what this side ever packs into one.
pub const PEER_FRAME_BYTES_MAX: usize = 512 * 1024;
/// What is read from the socket of an encrypted link in one go: as much as a frame. TLS alone would read
/// 4 KiB each time.
pub const PEER_READ_BYTES: usize = 64 * 1024;
/// A frame of a peer that has not introduced itself.
pub const PEER_HELLO_BYTES_MAX: usize = 4 * 1024;
/// Body of one request or answer: a page of history that one large entry ends, twice over.
pub const PEER_ITEM_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Large answers of one link that are sent in turns; the peer holds what it has of each.
pub const PEER_PIECED_MAX: usize = 8;
/// Requests that wait to be written to one peer, and their bytes; more are refused.
pub const PEER_QUEUE_ITEMS_MAX: usize = 8_192;
pub const PEER_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Requests to one peer that have no answer yet.
pub const PEER_IN_FLIGHT_MAX: usize = 16_384;
/// Their bytes, which the peer holds until it answers.
pub const PEER_IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests of one peer that are worked on: as many again, for those that it gave up.
pub const PEER_SERVED_MAX: usize = 2 * PEER_IN_FLIGHT_MAX;
/// Bytes of answers and live items that wait to be written to one peer; past it no further answer
/// is fetched.
pub const PEER_ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Subscriptions of one peer: every connection of a node could be one to the same other node.
pub const PEER_SUBSCRIPTIONS_MAX: usize = 20_000;
/// Credit of one subscription: live items that are on their way, a large one counting once more
/// for each [`PEER_CREDIT_BYTES`]. As many as the subscriber's own end holds.
pub const PEER_CREDIT: u64 = super::SUBSCRIBER_MESSAGES_MAX as u64;
pub const PEER_CREDIT_BYTES: usize = 16 * 1024;
/// A subscriber gives credit back when it has taken this share of it: an eighth, so that one that keeps up
/// always leaves more than the half that ephemeral events may use.
pub const PEER_CREDIT_SHARE: u64 = 8;
/// Answers that one turn of a connection takes before it looks at what came in.
pub const PEER_ANSWERS_PER_TURN_MAX: usize = 256;
/// HTTP/2's windows, on links with nodes from before feature level 3. Flow control is by items and
/// credit; this is for links with a long way.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Time to connect to a peer and for both to prove who they are.
pub const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for the first bytes of a connection to the peer port: a peer sends them with its first
/// packet.
pub const PEER_SILENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Unauthenticated peer connections: so many from addresses of members or from discovery, and as
/// many from all others. When there are more, the one that has sent least, and of those the oldest,
/// is closed.
pub const PEER_UNPROVEN_MAX: usize = 64;
/// Such connections from one unknown address: each takes a round trip.
pub const PEER_UNPROVEN_PER_ADDRESS_MAX: usize = 8;
/// How often a node looks which links with its peers are missing.
pub const PEER_LINK_LOOK: Duration = Duration::from_millis(250);
/// How long a link may be missing before a node reports it: a dead peer leaves the view well
/// before, and a lost link is tried again ten times.
pub const PEER_LINK_GRACE: Duration = Duration::from_secs(10);
/// Reasons and addresses of refused connections that are kept, so that lines about them stay few.
pub const PEER_LOG_KEYS_MAX: usize = 64;
/// Back-off for reopening a lost link: doubles from this.
pub const PEER_RETRY_MIN: Duration = Duration::from_millis(10);
pub const PEER_RETRY_MAX: Duration = Duration::from_secs(1);
/// How often a peer is pinged.
pub const PEER_PING_INTERVAL: Duration = Duration::from_millis(500);
/// Pings in a row without a sign of life after which a link is given up: 3 s. Counted in pings and
/// not by the clock, so that a node that was itself paused does not blame its peers.
pub const PEER_SILENT_PINGS_MAX: u32 = 6;
/// The same when there are signs of life but no answers to pings: a slow way with a long queue,
/// or one that is cut in one direction.
pub const PEER_UNANSWERED_PINGS_MAX: u32 = 18;
/// Time for what is being answered when a node stops.
pub const PEER_STOP_GRACE: Duration = Duration::from_millis(500);
/// Pause before connections are accepted again after that failed, as for want of file descriptors.
pub const PEER_ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Bytes of an unauthenticated peer's self-description that go into a log line.
pub const PEER_TEXT_BYTES_MAX: usize = 256;
/// One log line a while for each reason and address from which connections are refused.
pub const PEER_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A cluster's secret is configured, and bounded, as a bearer token is.
pub const CLUSTER_SECRET_BYTES_MIN: usize = super::TOKEN_BYTES_MIN;
pub const CLUSTER_SECRET_BYTES_MAX: usize = super::TOKEN_BYTES_MAX;
/// The minimum estimated strength of a cluster's secret: out of reach for offline guessing against a
/// captured message. See `peer::secret`.
pub const CLUSTER_SECRET_BITS_MIN: u32 = 128;
