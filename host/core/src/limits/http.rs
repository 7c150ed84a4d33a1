//! The listeners: connections, uploads, event streams, WebSockets.

use std::time::Duration;

/// Committed messages that wait for one subscriber before it is disconnected with a gap.
pub const SUBSCRIBER_MESSAGES_MAX: usize = 256;
/// Bytes of their events, after which it is disconnected too: more than the largest message's,
/// and than what is on its way to a peer ([`PEER_CREDIT`](super::PEER_CREDIT)).
pub const SUBSCRIBER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a subscriber may be behind where connections hold all that they may (`api.buffers`).
pub const SUBSCRIBER_BYTES_FREE: usize = 64 * 1024;
/// What a subscriber may be behind, of events of either kind, and still get an ephemeral one; they have this
/// much room of their own beside [`SUBSCRIBER_MESSAGES_MAX`]. A tenth of a second at a thousand a second:
/// what comes later than that is not worth sending.
pub const EPHEMERAL_BEHIND_MAX: usize = 128;
/// Bytes of ephemeral events that wait for one subscriber: those of one message.
pub const EPHEMERAL_BEHIND_BYTES_MAX: usize = super::EPHEMERAL_BYTES_MAX + 64 * 1024;
/// Body of an ephemeral event that a client sends: where a cursor is, who types.
pub const NOTIFY_BODY_BYTES_MAX: usize = 16 * 1024;
/// How long an ephemeral event that a client sends may be on its way to its session's slot: later, it is out
/// of date.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// Ephemeral events of one WebSocket that are on their way; more are refused.
pub const SOCKET_NOTIFIES_MAX: usize = 16;
/// Deliveries a second that clients' ephemeral events may cause in one session: each goes to all of its
/// subscribers, on the slot's time. Twenty events a second to the most subscribers that there may be.
pub const NOTIFY_DELIVERIES_PER_SECOND: f64 = 200_000.0;
/// The same at once: half a second's.
pub const NOTIFY_DELIVERIES_MAX: f64 = 100_000.0;
/// What an event counts for at least: 2,000 a second, however few subscribers there are.
pub const NOTIFY_DELIVERIES_MIN: usize = 100;
/// Subscribers of one session.
pub const SUBSCRIBERS_PER_SESSION_MAX: usize = 10_000;
/// Messages of one WebSocket that are under way; past it the socket is not read.
pub const SOCKET_IN_FLIGHT_MAX: usize = 64;
/// File descriptors that are kept from connections: the store's tables and journals, components,
/// links to NATS and to peers. Half of all where there are fewer than twice as many.
pub const FILES_BESIDE_CONNECTIONS: u64 = 512;
/// Connections of the API listener, sockets included; past it idle ones make room, or new ones are
/// refused.
/// Each costs a file descriptor and, while idle, up to 20 KiB: a WebSocket 14, an event stream 5
/// (`cargo run -p slotd-tests --bin connections` measures it).
pub const CONNECTIONS_DEFAULT: usize = 10_000;
/// Connections of the admin listener: people, scrapers and deploys.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;
/// Connections of a full listener beside its own: probes are answered on them, others get 503.
pub const PROBE_CONNECTIONS_MAX: usize = 32;
/// A connection of these sends its request by then.
pub const PROBE_CONNECTION_IDLE: Duration = Duration::from_secs(2);
/// Connections that were ended for others and are not gone yet; past it others are refused.
pub const ENDING_CONNECTIONS_MAX: usize = 64;
/// An idle connection that a full listener ends has been so for this long: its client is not just
/// about to send the next request.
pub const IDLE_ENDED_AFTER: Duration = Duration::from_secs(1);
/// How often a full listener looks for such ones: each look is at all connections.
pub const IDLE_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two log lines about a full listener.
pub const FULL_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A request's head, and what is read ahead of a connection that does not take its answers.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// From a connection's last answer (or its start) until the whole head of its next request: an
/// idle connection ends, and so does one that sends its head a byte at a time.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(75);
/// A connection whose peer takes no byte for this long while there is something to write ends.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// What it must take in that time, or all that there is: a byte now and then does not count.
pub const WRITE_PROGRESS_BYTES: usize = 16 * 1024;
/// After its last answer a connection reads and drops what still comes, so that a client which is
/// still uploading sees the answer and not a reset.
pub const LINGER: Duration = Duration::from_secs(2);
/// Bytes that it drops at most while it does so.
pub const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bodies up to this size are copied out of the connection's buffer: cheaper than a new buffer a
/// request, and 32 bytes in a cache do not keep 8 KiB alive.
pub const BODY_COPY_BYTES_MAX: usize = 4 * 1024;
/// Requests of one HTTP/2 connection that are under way: what browsers open, and more than the hundred
/// that the protocol recommends at least (RFC 9113, 6.5.2).
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// Requests of all HTTP/2 connections of a listener, for each connection that it may have: with HTTP/1.1 each
/// has one, so clients of HTTP/2 may keep a node a few times as busy. Past it, a connection may have its
/// share.
pub const HTTP2_REQUESTS_PER_CONNECTION: usize = 4;
/// What a peer may send of bodies before the node takes it, on all of a connection's streams and on
/// one: this much is held beside the budget, until a request's task has run. Enough for 5 MB/s
/// at a round trip of 50 ms, and half of it for each of two uploads.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// A frame that a peer sends: the least that the protocol allows to be announced.
pub const HTTP2_FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of one stream's answer that wait for the connection's socket; past it, the stream waits.
pub const HTTP2_SEND_BYTES_MAX: usize = 64 * 1024;
/// A request that its peer gives up within this time, by resetting its stream, may be meant to cost more than
/// it does. Later ones are bounded by [`HTTP2_STREAMS_MAX`].
pub const HTTP2_RESET_AT_ONCE: Duration = Duration::from_secs(1);
/// How many of these a peer may have, and a second after that: a browser that leaves a page gives up all
/// of its own. Past it the connection ends.
pub const HTTP2_RESETS_MAX: f64 = 1_000.0;
pub const HTTP2_RESETS_PER_SECOND: f64 = 33.0;
/// Streams of a connection that broke the protocol, after which it ends: clients that work break none.
pub const HTTP2_STREAM_ERRORS_MAX: usize = 1_024;
/// How often an HTTP/2 connection with requests under way from which nothing comes is pinged.
pub const HTTP2_PING: Duration = Duration::from_secs(20);
/// Pings in a row after which nothing came, not even their answers, and the connection ends.
pub const HTTP2_PINGS_MAX: u32 = 2;
/// Memory for what connections hold: bodies and frames that arrive, answers and events that wait
/// for their readers. Counts alone don't bound it: a thousand messages wait in a mailbox, and
/// there are hundreds of these.
pub const BUFFERS_BYTES_DEFAULT: usize = 256 * 1024 * 1024;
/// The least that it can be configured to: some of the largest messages and answers.
pub const BUFFERS_BYTES_MIN: usize = 32 * 1024 * 1024;
/// The same for the admin listener, which has its own: what clients hold must not keep operators out.
pub const ADMIN_BUFFERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a connection may hold of heads, and of answers, without being charged: about what its
/// buffers take in any case, so that small messages cost no shared counter.
pub const CONNECTION_BYTES_FREE: usize = 8 * 1024;
/// An answer's body is handed to the connection in pieces of this size, the next when the last is
/// written: what it is given it keeps room for. The allocator's largest size that it has no pages
/// beside for: of 16 KiB it makes 20.
pub const ANSWER_PIECE_BYTES: usize = 14 * 1024;
/// After it an export asks another node again whose connections hold all that they may.
pub const EXPORT_RETRY: Duration = Duration::from_secs(1);
/// Components that are uploaded at the same time; more are refused.
pub const UPLOADS_MAX: usize = 16;
/// Bytes of components that are being uploaded, or were and are not deployed yet.
pub const UPLOADS_BYTES_MAX: usize = 4 * super::COMPONENT_BYTES_MAX;
/// Time for the upload of a component: Python's 18 MB take this long at 60 KB/s.
pub const UPLOAD_DEADLINE: Duration = Duration::from_secs(300);
/// An upload that brings less within such a time (16 KiB a second) is given up.
pub const UPLOAD_WINDOW: Duration = Duration::from_secs(10);
pub const UPLOAD_WINDOW_BYTES_MIN: usize = 160 * 1024;
/// Nesting up to which a JSON body is shown inline in history and events (deeper: as base64);
/// common parsers stop at 128, and an answer adds a few levels of its own.
pub const JSON_DEPTH_MAX: usize = 64;
/// An idle event stream sends a comment this often, so that proxies keep it.
pub const EVENTS_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Bytes of events after which an event stream hands on what is ready rather than gather more.
pub const EVENTS_CHUNK_BYTES: usize = 32 * 1024;
/// What a WebSocket frame may have beside its message's body: its JSON, ids and names.
pub const SOCKET_FRAME_OVERHEAD_BYTES: usize = 16 * 1024;
/// What a client is asked to wait before it repeats what may succeed then (`Retry-After`).
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The same for a socket that is one too many: others close when it suits them.
pub const SOCKETS_RETRY_AFTER: Duration = Duration::from_secs(5);
/// After a connection could not be accepted, for want of file descriptors most likely: others must
/// close first.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// When an event stream ends, its client waits this long before it comes back.
pub const EVENTS_RETRY: Duration = Duration::from_secs(1);
/// How often a WebSocket that is silent is pinged.
pub const SOCKET_PING: Duration = Duration::from_secs(20);
/// A WebSocket from which nothing came for this long, not even a pong, ends.
pub const SOCKET_SILENCE: Duration = Duration::from_secs(60);
/// What is read of a WebSocket at a time, on the stack: an idle one holds no buffer.
pub const SOCKET_READ_BYTES: usize = 16 * 1024;
/// Bytes toward one WebSocket that wait for its peer; past it nothing more is produced for it.
pub const SOCKET_WRITE_BYTES: usize = 64 * 1024;
/// A subscription that breaks is tried again after this long at first, then twice that, and so on.
pub const RESUBSCRIBE_MIN: Duration = Duration::from_millis(5);
/// The longest wait between two such tries.
pub const RESUBSCRIBE_MAX: Duration = Duration::from_secs(1);
/// Tries in a row without success after which the stream or socket ends with an error.
pub const RESUBSCRIBE_TRIES_MAX: u32 = 40;
/// A client's TLS handshake: what a slow phone on a bad line needs, and a client that is silent may have.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a client sends in it: the largest message that TLS libraries take, for a chain of certificates.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// What TLS may hold towards a peer that does not read: a record of an answer's piece
/// ([`ANSWER_PIECE_BYTES`]), and what a record needs beside it.
pub const TLS_WRITE_BYTES: usize = 16 * 1024;
/// A record of TLS with what encryption adds (RFC 8446, 5.2), and one read beyond it.
pub const TLS_RECORD_BYTES_MAX: usize = 22 * 1024;
/// How often the files of certificates are looked at.
pub const TLS_LOOK: Duration = Duration::from_secs(5);
/// A file of certificates or a key; the system's whole list of authorities is a quarter of it.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A certificate that expires within this time is warned of. Those who issue for 90 days renew 30 days before.
pub const TLS_EXPIRY_WARN: Duration = Duration::from_secs(14 * 24 * 3_600);
/// The name in a client's certificate.
pub const CERTIFICATE_NAME_BYTES_MAX: usize = 256;
/// Life of the certificates that `slotd tls init` makes for listeners and clients: browsers take those of
/// public authorities for 398 days at most, and a renewal each year is not forgotten more than one each ten.
pub const LISTENER_CERTIFICATE_LIFE: Duration = Duration::from_secs(397 * 24 * 3_600);
/// How long before it was made a certificate begins: clocks of clients may be behind.
pub const LISTENER_CERTIFICATE_BEFORE: Duration = Duration::from_secs(24 * 3_600);
/// Life of the authority that it makes for them: every client has to be given another one then.
pub const LISTENER_AUTHORITY_LIFE: Duration = Duration::from_secs(3_650 * 24 * 3_600);
/// A client's name in a certificate: what X.509 lets a common name have.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
