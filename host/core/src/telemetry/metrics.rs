//! Every metric of slotd, in one table: the handles that the hot path uses, the descriptions that
//! `/metrics` gives and `docs/metrics.md` come from it.
//!
//! Metrics belong to the process. Handles are made once; using one is an atomic addition.

#[cfg(test)]
mod doc;
#[cfg(test)]
mod tests;

use super::{
    histogram::{BYTES, COUNT, MINUTES, SECONDS},
    recorder::{Registry, escape},
    scrape, services,
};
use crate::error::Code;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use std::{fmt::Write as _, sync::OnceLock};

/// A row of the table.
pub struct Metric {
    pub name: &'static str,
    pub kind: &'static str,
    /// The labels, with their values if these are fixed.
    pub labels: &'static [(&'static str, &'static str)],
    pub doc: &'static str,
    bounds: Option<&'static [f64]>,
}

macro_rules! table {
    ($($(#[doc = $doc:literal])* $field:ident: $kind:ident $name:literal $([$bounds:ident])? $({$label:literal = $value:literal})?;)*) => {
        /// A handle for each metric that is counted as it happens. Rows with the same name are one
        /// metric with a label.
        pub struct Metrics {
            $($(#[doc = $doc])* pub $field: $kind,)*
            errors: Vec<Counter>,
            registry: &'static Registry,
        }
        static COUNTED: &[Metric] = &[$(Metric {
            name: $name,
            kind: stringify!($kind),
            labels: &[$(($label, $value))?],
            doc: concat!($($doc),*),
            bounds: table!(@bounds $($bounds)?),
        },)*];
        impl Metrics {
            fn new(registry: &'static Registry) -> Self {
                let error = |code: &Code| {
                    let labels = vec![Label::from_static_parts("code", code.as_str())];
                    registry.register_counter(&Key::from_parts(ERRORS, labels), &METADATA)
                };
                Self {
                    $($field: {
                        static LABELS: &[Label] = &[$(Label::from_static_parts($label, $value))?];
                        table!(@register $kind, registry, &Key::from_static_labels($name, LABELS))
                    },)*
                    errors: Code::ALL.iter().map(error).collect(),
                    registry,
                }
            }
        }
    };
    (@bounds) => { None };
    (@bounds $bounds:ident) => { Some($bounds) };
    (@register Counter, $registry:ident, $key:expr) => { $registry.register_counter($key, &METADATA) };
    (@register Gauge, $registry:ident, $key:expr) => { $registry.register_gauge($key, &METADATA) };
    (@register Histogram, $registry:ident, $key:expr) => { $registry.register_histogram($key, &METADATA) };
}

table! {
    /// Bytes over all connections, heads included.
    bytes_in: Counter "slotd_http_bytes_total" {"direction" = "in"};
    /// Bytes over all connections, heads included.
    bytes_out: Counter "slotd_http_bytes_total" {"direction" = "out"};
    /// Requests and sockets' frames that were refused: no token or a wrong one (unauthorized), one that has expired (expired), no right to do it (forbidden), a page of another origin (origin), or an issuer whose keys could not be fetched (unavailable).
    access_unauthorized: Counter "slotd_access_refused_total" {"kind" = "unauthorized"};
    /// Requests and sockets' frames that were refused, by kind.
    access_expired: Counter "slotd_access_refused_total" {"kind" = "expired"};
    /// Requests and sockets' frames that were refused, by kind.
    access_forbidden: Counter "slotd_access_refused_total" {"kind" = "forbidden"};
    /// Requests and sockets' frames that were refused, by kind.
    access_origin: Counter "slotd_access_refused_total" {"kind" = "origin"};
    /// Requests and sockets' frames that were refused, by kind.
    access_unavailable: Counter "slotd_access_refused_total" {"kind" = "unavailable"};
    /// Time from passing one slot's batch to the log until it is durable.
    append_seconds: Histogram "slotd_append_seconds" [SECONDS];
    /// Messages in one batch of one slot.
    batch_messages: Histogram "slotd_batch_messages" [COUNT];
    /// Time of one group commit: the write and the fsync.
    commit_seconds: Histogram "slotd_commit_seconds" [SECONDS];
    /// Batches (one per slot) in one group commit.
    commit_slots: Histogram "slotd_commit_slots" [COUNT];
    /// Bytes of one group commit.
    commit_bytes: Histogram "slotd_commit_bytes" [BYTES];
    /// Calls of fsync or fdatasync by the log.
    fsyncs: Counter "slotd_fsyncs_total";
    /// Time of one write of a slot's committed changes to the state store.
    flush_seconds: Histogram "slotd_flush_seconds" [SECONDS];
    /// Rows of the data directory that were sealed anew, because they were sealed with an earlier key or not at all.
    rows_resealed: Counter "slotd_rows_resealed_total";
    /// Slots whose log and snapshots this node has sealed anew.
    slots_resealed: Counter "slotd_slots_resealed_total";
    /// Plugin instances created.
    instantiations: Counter "slotd_instantiations_total";
    /// Time to create one instance, without waiting for memory.
    instantiate_seconds: Histogram "slotd_instantiate_seconds" [SECONDS];
    /// Plugin instances dropped: idle for a while, or to free memory for others.
    instances_idle: Counter "slotd_instances_dropped_total" {"why" = "idle"};
    /// Plugin instances dropped: idle for a while, or to free memory for others.
    instances_shed: Counter "slotd_instances_dropped_total" {"why" = "memory"};
    /// Long-running plugin calls, which run on separate low-priority threads.
    long_calls: Counter "slotd_long_calls_total";
    /// Long-running plugin calls in progress.
    long_calls_now: Gauge "slotd_long_calls";
    /// Long-running plugin calls ended early: no client was waiting (gone), too many (full), the slot had to stop (ending), or others waited for the slot (crowded).
    long_calls_gone: Counter "slotd_long_calls_cut_total" {"why" = "gone"};
    /// Long-running plugin calls ended early: no client was waiting (gone), too many (full), the slot had to stop (ending), or others waited for the slot (crowded).
    long_calls_full: Counter "slotd_long_calls_cut_total" {"why" = "full"};
    /// Long-running plugin calls ended early: no client was waiting (gone), too many (full), the slot had to stop (ending), or others waited for the slot (crowded).
    long_calls_ending: Counter "slotd_long_calls_cut_total" {"why" = "ending"};
    /// Long-running plugin calls ended early: no client was waiting (gone), too many (full), the slot had to stop (ending), or others waited for the slot (crowded).
    long_calls_crowded: Counter "slotd_long_calls_cut_total" {"why" = "crowded"};
    /// 1 while the node is so busy that its services get shares of the processor, else 0.
    shares_engaged: Gauge "slotd_shares_engaged";
    /// Of the processor time that the threads which serve could have had lately, the part that they used.
    shares_utilization: Gauge "slotd_shares_utilization";
    /// Messages that wait for their service's share of the processor.
    shares_waiting: Gauge "slotd_shares_waiting";
    /// How long messages waited for their service's share of the processor.
    shares_wait_seconds: Histogram "slotd_shares_wait_seconds" [SECONDS];
    /// Messages that were refused because too many of their service were waiting for its share (full), or because they had waited for too long (late).
    shares_full: Counter "slotd_shares_refused_total" {"why" = "full"};
    /// Messages that were refused because too many of their service were waiting for its share (full), or because they had waited for too long (late).
    shares_late: Counter "slotd_shares_refused_total" {"why" = "late"};
    /// Time to compile one component to native code.
    compile_seconds: Histogram "slotd_compile_seconds" [SECONDS];
    /// How long one slot accepted no message because of a swap.
    swap_pause_seconds: Histogram "slotd_swap_pause_seconds" [SECONDS];
    /// Steps of canaries that were good.
    canary_steps: Counter "slotd_canary_steps_total";
    /// Canaries that went back by themselves.
    canary_returns: Counter "slotd_canary_returns_total";
    /// Requests forwarded to the node that owns their slot.
    forwards: Counter "slotd_forwards_total";
    /// Times that a request waited because no node owned its slot, or was forwarded again.
    forward_retries: Counter "slotd_forward_retries_total";
    /// The number of the node's current view of the cluster; each node counts its own.
    view_number: Gauge "slotd_view_number";
    /// Nodes that this node considers alive, including itself.
    view_members: Gauge "slotd_view_members";
    /// Slots that this node owns.
    slots_owned: Gauge "slotd_slots_owned";
    /// Slots that this node has claimed.
    claims: Counter "slotd_claims_total";
    /// 1 if this node can't serve (log engine unreachable or disk full) and has reported so to the
    /// others, else 0.
    unfit: Gauge "slotd_unfit";
    /// Slots that another node claimed while this node was serving them.
    fences: Counter "slotd_fences_total";
    /// Slots that came to this node: handed over by their owner (handoff), or taken over from no
    /// live owner (takeover).
    handoffs: Counter "slotd_moves_total" {"kind" = "handoff"};
    /// Slots that came to this node: handed over by their owner (handoff), or taken over from no
    /// live owner (takeover).
    takeovers: Counter "slotd_moves_total" {"kind" = "takeover"};
    /// Slot moves that failed or were cancelled.
    moves_failed: Counter "slotd_moves_failed_total";
    /// How long no node served a slot while its owner handed it over to this node.
    handoff_pause_seconds: Histogram "slotd_handoff_pause_seconds" [SECONDS];
    /// Slots started: claimed, and replayed to the end of their log.
    slot_starts: Counter "slotd_slot_starts_total";
    /// Slots stopped because another term took over their log, or because an append had no clear
    /// result.
    slot_failures: Counter "slotd_slot_failures_total";
    /// Open HTTP connections, and the WebSockets and event streams among them.
    connections: Gauge "slotd_open_sockets" {"kind" = "http"};
    /// Open HTTP connections, and the WebSockets and event streams among them.
    websockets: Gauge "slotd_open_sockets" {"kind" = "websocket"};
    /// Open HTTP connections, and the WebSockets and event streams among them.
    event_streams: Gauge "slotd_open_sockets" {"kind" = "sse"};
    /// Subscribers disconnected with a gap because they read too slowly.
    subscriber_gaps: Counter "slotd_subscriber_gaps_total";
    /// Ephemeral events sent to a session with subscribers: by handlers, or by clients.
    ephemeral_handlers: Counter "slotd_ephemeral_events_total" {"from" = "handler"};
    /// Ephemeral events sent to a session with subscribers: by handlers, or by clients.
    ephemeral_clients: Counter "slotd_ephemeral_events_total" {"from" = "client"};
    /// Deliveries of ephemeral events that were dropped because the subscriber, or the link to its
    /// node, was behind.
    ephemeral_dropped: Counter "slotd_ephemeral_dropped_total";
    /// Messages of timers: handled (fired), failed by their handler, given up (dead), or waiting because the node could not call it (held: also what else is due, messages between sessions and expiries).
    timers_fired: Counter "slotd_timers_total" {"outcome" = "fired"};
    /// Messages of timers: handled (fired), failed by their handler, given up (dead), or waiting because the node could not call it (held: also what else is due, messages between sessions and expiries).
    timers_failed: Counter "slotd_timers_total" {"outcome" = "failed"};
    /// Messages of timers: handled (fired), failed by their handler, given up (dead), or waiting because the node could not call it (held: also what else is due, messages between sessions and expiries).
    timers_dead: Counter "slotd_timers_total" {"outcome" = "dead"};
    /// Messages of timers: handled (fired), failed by their handler, given up (dead), or waiting because the node could not call it (held: also what else is due, messages between sessions and expiries).
    timers_held: Counter "slotd_timers_total" {"outcome" = "held"};
    /// Messages from session to session: arrived where they were sent to (delivered), refused there or their outcome failed by its handler (refused), given up (dead), or held since the other slot could not be reached (held, by pieces).
    sends_delivered: Counter "slotd_sends_total" {"outcome" = "delivered"};
    /// Messages from session to session: arrived where they were sent to (delivered), refused there, given up (dead), or held since the other slot could not be reached (held, by pieces).
    sends_refused: Counter "slotd_sends_total" {"outcome" = "refused"};
    /// Messages from session to session: arrived where they were sent to (delivered), refused there, given up (dead), or held since the other slot could not be reached (held, by pieces).
    sends_dead: Counter "slotd_sends_total" {"outcome" = "dead"};
    /// Messages from session to session: arrived where they were sent to (delivered), refused there, given up (dead), or held since the other slot could not be reached (held, by pieces).
    sends_held: Counter "slotd_sends_total" {"outcome" = "held"};
    /// Messages from other sessions that were handled here, and outcomes of messages to them.
    sends_received: Counter "slotd_sends_received_total";
    /// Requests over HTTP that sessions make: answered, failed for good (failed), made again after an attempt in vain (retried), not made yet since too many wait for their turn (busy), refused when they were asked for (refused), or whose answer was given up since its handler failed it (dead).
    requests_answered: Counter "slotd_outbound_requests_total" {"outcome" = "answered"};
    /// Requests over HTTP that sessions make.
    requests_failed: Counter "slotd_outbound_requests_total" {"outcome" = "failed"};
    /// Requests over HTTP that sessions make.
    requests_retried: Counter "slotd_outbound_requests_total" {"outcome" = "retried"};
    /// Requests over HTTP that sessions make.
    requests_busy: Counter "slotd_outbound_requests_total" {"outcome" = "busy"};
    /// Requests over HTTP that sessions make.
    requests_refused: Counter "slotd_outbound_requests_total" {"outcome" = "refused"};
    /// Requests over HTTP that sessions make.
    requests_dead: Counter "slotd_outbound_requests_total" {"outcome" = "dead"};
    /// Requests over HTTP of sessions that are under way, until their answer is written down.
    requests_under_way: Gauge "slotd_outbound_under_way";
    /// Requests over HTTP of sessions that wait for their turn.
    requests_waiting: Gauge "slotd_outbound_waiting";
    /// Time of one attempt at a request over HTTP of a session, without the wait for its turn.
    request_seconds: Histogram "slotd_outbound_seconds" [MINUTES];
    /// Bytes of the bodies of requests over HTTP that sessions make (out), and of their answers, decompressed (in).
    request_bytes_in: Counter "slotd_outbound_bytes_total" {"direction" = "in"};
    /// Bytes of the bodies of requests over HTTP that sessions make (out), and of their answers, decompressed (in).
    request_bytes_out: Counter "slotd_outbound_bytes_total" {"direction" = "out"};
    /// Sessions that were deleted since their handler had them expire.
    sessions_expired: Counter "slotd_sessions_expired_total";
    /// Slots in which something is due later, and which the node wakes for it: running ones, and on a standalone node also those that rest.
    slots_to_wake: Gauge "slotd_slots_to_wake";
    /// How late the handler of a timer's message is called.
    timer_late_seconds: Histogram "slotd_timer_late_seconds" [SECONDS];
    /// How late the worker threads run a task that is due, measured ten times a second.
    serving_delay_seconds: Histogram "slotd_serving_delay_seconds" [SECONDS];
    /// Lines of the log or standard output dropped because they were read too slowly or could not be written.
    log_lines_dropped: Counter "slotd_log_lines_dropped_total";
    /// Panics inside slotd, which are bugs. The log has each with its location.
    panics: Counter "slotd_panics_total";
    /// 1 if connected to NATS, else 0.
    nats_connected: Gauge "slotd_nats_connected";
    /// Times that the connection to NATS was lost.
    nats_disconnects: Counter "slotd_nats_disconnects_total";
    /// Time of one request to JetStream, appends excluded.
    nats_request_seconds: Histogram "slotd_nats_request_seconds" [SECONDS];
    /// Time until one batch or claim on JetStream is decided, retries included.
    log_append_seconds: Histogram "slotd_log_append_seconds" [SECONDS];
    /// Appends whose first publish got no acknowledgement.
    log_undecided: Counter "slotd_log_undecided_total";
    /// Times that an undecided append was published again.
    log_republished: Counter "slotd_log_republished_total";
    /// "Wrong last sequence" answers without a number: spurious, or from a lost quorum.
    log_conflicts: Counter "slotd_log_conflicts_total";
    /// Appends refused because another owner's batch, or another batch, came first.
    log_fenced: Counter "slotd_log_fenced_total";
    /// Claims of slots that lost to another node's claim.
    log_claims_lost: Counter "slotd_claims_lost_total";
    // Discovery and membership.
    /// Peer addresses that discovery currently finds.
    discovery_addresses: Gauge "slotd_discovery_addresses";
    /// Unix time of the last DNS answer, in seconds.
    discovery_success: Gauge "slotd_discovery_last_success_timestamp_seconds";
    /// DNS lookups that failed; the last answer stays in use.
    discovery_failures: Counter "slotd_discovery_failures_total";
    /// Addresses from DNS that can't be a node's (unspecified, multicast, link-local).
    discovery_unusable: Counter "slotd_discovery_unusable_addresses_total";

    // Between nodes.
    /// Requests queued for peers.
    peer_requests: Counter "slotd_peer_requests_total";
    /// Time from queueing a request for a peer to its answer.
    peer_request_seconds: Histogram "slotd_peer_request_seconds" [SECONDS];
    /// Requests to peers without an answer: no connection (unreachable), a full queue (full), or a connection lost after they were written (broken).
    peer_unreachable: Counter "slotd_peer_failures_total" {"kind" = "unreachable"};
    /// Requests to peers without an answer: no connection (unreachable), a full queue (full), or a connection lost after they were written (broken).
    peer_full: Counter "slotd_peer_failures_total" {"kind" = "full"};
    /// Requests to peers without an answer: no connection (unreachable), a full queue (full), or a connection lost after they were written (broken).
    peer_broken: Counter "slotd_peer_failures_total" {"kind" = "broken"};
    /// Requests accepted from peers.
    peer_served: Counter "slotd_peer_served_total";
    /// Links to peers that are up: opened by this node (out), or by peers (in).
    peer_links_out: Gauge "slotd_peer_links" {"direction" = "out"};
    /// Links to peers that are up: opened by this node (out), or by peers (in).
    peer_links_in: Gauge "slotd_peer_links" {"direction" = "in"};
    /// Links to live nodes that have been missing for more than 10 s: to them (out), or from them
    /// (in).
    peer_links_missing_out: Gauge "slotd_peer_links_missing" {"direction" = "out"};
    /// Links to live nodes that have been missing for more than 10 s: to them (out), or from them
    /// (in).
    peer_links_missing_in: Gauge "slotd_peer_links_missing" {"direction" = "in"};
    /// Links opened to peers; if it grows more than the number of peers, links were lost.
    peer_connects: Counter "slotd_peer_connects_total";
    /// Frames over all links.
    peer_frames_out: Counter "slotd_peer_frames_total" {"direction" = "out"};
    /// Frames over all links.
    peer_frames_in: Counter "slotd_peer_frames_total" {"direction" = "in"};
    /// Bytes over all links, without the overhead of TLS.
    peer_bytes_out: Counter "slotd_peer_bytes_total" {"direction" = "out"};
    /// Bytes over all links, without the overhead of TLS.
    peer_bytes_in: Counter "slotd_peer_bytes_total" {"direction" = "in"};
    /// Requests, answers and other items in one written frame.
    peer_frame_items: Histogram "slotd_peer_frame_items" [COUNT];
    /// Views of this node; each membership change makes one.
    views: Counter "slotd_views_total";
    /// Nodes that left or were declared dead.
    nodes_lost: Counter "slotd_nodes_lost_total";
    /// Times that the other nodes declared this node dead, and it rejoined.
    declared_down: Counter "slotd_declared_down_total";
    /// Times that membership ran late, because the process was paused or overloaded.
    stalls: Counter "slotd_membership_stalls_total";
    /// Membership datagrams.
    datagrams_in: Counter "slotd_membership_datagrams_total" {"direction" = "in"};
    /// Membership datagrams.
    datagrams_out: Counter "slotd_membership_datagrams_total" {"direction" = "out"};
    /// Membership datagrams that the kernel refused to send.
    send_failures: Counter "slotd_membership_send_failures_total";
    /// Datagrams on the peer port that were ignored, by reason.
    dropped_garbage: Counter "slotd_membership_dropped_total" {"reason" = "garbage"};
    /// Datagrams on the peer port that were ignored, by reason.
    dropped_unauthentic: Counter "slotd_membership_dropped_total" {"reason" = "unauthentic"};
    /// Datagrams on the peer port that were ignored, by reason.
    dropped_replayed: Counter "slotd_membership_dropped_total" {"reason" = "replayed"};
    /// Datagrams on the peer port that were ignored, by reason.
    dropped_invalid: Counter "slotd_membership_dropped_total" {"reason" = "invalid"};
    /// Datagrams on the peer port that were ignored, by reason.
    dropped_own: Counter "slotd_membership_dropped_total" {"reason" = "own"};
    /// Datagrams on the peer port that were ignored, by reason.
    dropped_unsealed: Counter "slotd_membership_dropped_total" {"reason" = "unencrypted"};
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_cluster: Counter "slotd_membership_refusals_total" {"reason" = "cluster"};
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_secret: Counter "slotd_membership_refusals_total" {"reason" = "secret"};
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_protocol: Counter "slotd_membership_refusals_total" {"reason" = "protocol"};
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_ring_scheme: Counter "slotd_membership_refusals_total" {"reason" = "ring-scheme"};
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_slot_count: Counter "slotd_membership_refusals_total" {"reason" = "slot-count"};
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_name: Counter "slotd_membership_refusals_total" {"reason" = "name"};
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_superseded: Counter "slotd_membership_refusals_total" {"reason" = "superseded"};
    /// Slot snapshots taken.
    snapshots: Counter "slotd_snapshots_total";
    /// Bytes of snapshot objects stored.
    snapshot_bytes: Counter "slotd_snapshot_bytes_total";
    /// Time to take one snapshot (take), or to restore one slot from one (restore).
    snapshot_seconds: Histogram "slotd_snapshot_seconds" [SECONDS] {"work" = "take"};
    /// Time to take one snapshot (take), or to restore one slot from one (restore).
    restore_seconds: Histogram "slotd_snapshot_seconds" [SECONDS] {"work" = "restore"};
    /// Snapshot objects found damaged or missing. The log names each.
    snapshot_damage: Counter "slotd_snapshot_damage_total";
    /// Nodes refused, by this node or this node by others, by what differs.
    refused_address: Counter "slotd_membership_refusals_total" {"reason" = "address"};
}

const HTTP_REQUESTS: &str = "slotd_http_requests_total";
const HTTP_SECONDS: &str = "slotd_http_request_seconds";
const ERRORS: &str = "slotd_errors_total";
const PEER_REFUSED: &str = "slotd_peer_refused_total";
const REQUEST_FAILURES: &str = "slotd_outbound_failures_total";
const TLS_EXPIRY: &str = "slotd_tls_certificate_expiry_seconds";
const TLS_HANDSHAKES: &str = "slotd_tls_handshakes_total";
const CONNECTIONS_ENDED: &str = "slotd_http_connections_ended_total";

/// Metrics whose label values are known only at run time. All are bounded.
static LABELLED: &[Metric] = &[
    Metric {
        name: HTTP_REQUESTS,
        kind: "Counter",
        labels: &[("route", "…"), ("status", "…")],
        doc: "HTTP requests answered.",
        bounds: None,
    },
    Metric {
        name: HTTP_SECONDS,
        kind: "Histogram",
        labels: &[("route", "…")],
        doc: "Time from a request's head to its answer.",
        bounds: Some(SECONDS),
    },
    Metric {
        name: ERRORS,
        kind: "Counter",
        labels: &[("code", "…")],
        doc: "Requests that failed, by error code (docs/errors.md).",
        bounds: None,
    },
    Metric {
        name: CONNECTIONS_ENDED,
        kind: "Counter",
        labels: &[("listener", "api|admin"), ("why", "silent|idle|refused|dropped")],
        doc: "Connections that a listener at its limit closed to admit a new one (silent: no \
            request sent yet; idle), refused with 503 (refused), or dropped unanswered (dropped).",
        bounds: None,
    },
    Metric {
        name: TLS_EXPIRY,
        kind: "Gauge",
        labels: &[("listener", "api|admin")],
        doc: "Time until the certificate of a listener with TLS expires (the first of its chain); \
            negative once it has.",
        bounds: None,
    },
    Metric {
        name: TLS_HANDSHAKES,
        kind: "Counter",
        labels: &[("listener", "api|admin"), ("outcome", "done|failed|closed|timeout|clear")],
        doc: "TLS handshakes of clients: done, failed, closed by the client, not finished in time, \
            or a request in clear instead.",
        bounds: None,
    },
    Metric {
        name: REQUEST_FAILURES,
        kind: "Counter",
        labels: &[("code", "…")],
        doc: "Attempts at requests over HTTP of sessions that failed, by the code that handlers \
            get (docs/http.md). An answer with a status of failure is an answer.",
        bounds: None,
    },
    Metric {
        name: PEER_REFUSED,
        kind: "Counter",
        labels: &[(
            "reason",
            "malformed|protocol|cluster|ring|slot-count|secret|certificate|identity|timeout|crowded",
        )],
        doc: "Links between nodes that one side refused, by reason; both sides count it.",
        bounds: None,
    },
];

static METADATA: Metadata<'static> = Metadata::new("slotd", Level::INFO, None);

/// The process's metrics. The first call creates them and installs the recorder, so that the
/// `metrics` macros record here too.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| {
        scrape::started();
        let bounds = |name: &str| {
            COUNTED.iter().chain(LABELLED).find(|row| row.name == name).and_then(|row| row.bounds)
        };
        // Lives as long as the process: handles outlast every owner.
        let registry: &'static Registry = Box::leak(Box::new(Registry::new(bounds)));
        for row in COUNTED.iter().chain(LABELLED) {
            let (name, doc) = (row.name.into(), row.doc.trim().into());
            match row.kind {
                "Counter" => registry.describe_counter(name, None, doc),
                "Gauge" => registry.describe_gauge(name, None, doc),
                _ => registry.describe_histogram(name, None, doc),
            }
        }
        // Another recorder exists only if slotd is a library in a program that has one; the macros
        // record there then, and the handles here still count.
        let _ = metrics::set_global_recorder(registry);
        Metrics::new(registry)
    })
}

impl Metrics {
    /// Counts a request that failed.
    pub fn error(&self, code: Code) {
        if let Some(counter) = self.errors.get(code as usize) {
            counter.increment(1);
        }
    }
    /// Counts a link between nodes that was refused.
    pub fn peer_refused(&self, reason: &'static str) {
        let labels = vec![Label::from_static_parts("reason", reason)];
        let key = Key::from_parts(PEER_REFUSED, labels);
        self.registry.register_counter(&key, &METADATA).increment(1);
    }

    /// Says until when the certificate of a listener is valid.
    pub fn certificate_expires(&self, listener: &'static str, seconds: f64) {
        let labels = vec![Label::from_static_parts("listener", listener)];
        let key = Key::from_parts(TLS_EXPIRY, labels);
        self.registry.register_gauge(&key, &METADATA).set(seconds);
    }
    /// Counts a TLS handshake of a client.
    pub fn handshake(&self, listener: &'static str, outcome: &'static str) {
        let labels = vec![
            Label::from_static_parts("listener", listener),
            Label::from_static_parts("outcome", outcome),
        ];
        let key = Key::from_parts(TLS_HANDSHAKES, labels);
        self.registry.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts an attempt at a request over HTTP that failed. The codes are few.
    pub fn request_failed(&self, code: &'static str) {
        let labels = vec![Label::from_static_parts("code", code)];
        let key = Key::from_parts(REQUEST_FAILURES, labels);
        self.registry.register_counter(&key, &METADATA).increment(1);
    }

    /// Counts a connection that was closed or refused because its listener is full.
    pub fn connection_ended(&self, listener: &'static str, why: &'static str) {
        let labels = vec![
            Label::from_static_parts("listener", listener),
            Label::from_static_parts("why", why),
        ];
        let key = Key::from_parts(CONNECTIONS_ENDED, labels);
        self.registry.register_counter(&key, &METADATA).increment(1);
    }

    /// Metrics of this process, including those that `/metrics` shows only for a cluster node.
    #[cfg(any(test, feature = "testing"))]
    pub fn render_counters(&self) -> String {
        self.registry.render()
    }

    /// Everything, in Prometheus' text format: what `/metrics` answers.
    pub fn render(&self) -> String {
        let snapshots = scrape::snapshots();
        if !snapshots.is_empty() {
            services::follow(&snapshots.iter().flat_map(|snapshot| &snapshot.deployed).collect());
        }
        let mut out = self.registry.render();
        if !snapshots.iter().any(|snapshot| snapshot.clustered) {
            out = out.split_inclusive('\n').filter(|line| !is_of_a_cluster(line)).collect();
        }
        services::render(&mut out);
        for (row, values) in scrape::collect(&snapshots) {
            let _ = writeln!(out, "# HELP {} {}", row.name, row.doc);
            let _ = writeln!(out, "# TYPE {} {}", row.name, row.kind.to_ascii_lowercase());
            for (label, value) in values {
                let _ = match row.labels.first() {
                    Some((name, _)) => {
                        writeln!(out, "{}{{{name}=\"{}\"}} {value}", row.name, escape(&label))
                    }
                    None => writeln!(out, "{} {value}", row.name),
                };
            }
            out.push('\n');
        }
        out
    }
}

/// Whether a line of the text format is about something that only a cluster node does.
fn is_of_a_cluster(line: &str) -> bool {
    let line = line.strip_prefix("# HELP ").or(line.strip_prefix("# TYPE ")).unwrap_or(line);
    OF_CLUSTERS.iter().any(|start| line.starts_with(start))
}

/// Name prefixes of metrics that never change on a standalone node.
const OF_CLUSTERS: &[&str] = &[
    "slotd_nats_",
    "slotd_log_append_",
    "slotd_log_undecided_",
    "slotd_log_republished_",
    "slotd_log_conflicts_",
    "slotd_log_fenced_",
    "slotd_view",
    "slotd_nodes_lost_",
    "slotd_declared_down_",
    "slotd_membership_",
    "slotd_discovery_",
    "slotd_peer_",
    "slotd_snapshot",
    "slotd_moves_",
    "slotd_handoff_",
    "slotd_forward",
    "slotd_claims_",
    "slotd_fences_",
    "slotd_unfit",
    "slotd_slots_owned",
];

impl Metric {
    pub(super) const fn scraped(
        name: &'static str,
        labels: &'static [(&'static str, &'static str)],
        doc: &'static str,
    ) -> Self {
        Self { name, kind: "Gauge", labels, doc, bounds: None }
    }
    pub(super) const fn scraped_counter(
        name: &'static str,
        labels: &'static [(&'static str, &'static str)],
        doc: &'static str,
    ) -> Self {
        Self { name, kind: "Counter", labels, doc, bounds: None }
    }
    pub(super) const fn scraped_histogram(
        name: &'static str,
        labels: &'static [(&'static str, &'static str)],
        doc: &'static str,
    ) -> Self {
        Self { name, kind: "Histogram", labels, doc, bounds: None }
    }
}
