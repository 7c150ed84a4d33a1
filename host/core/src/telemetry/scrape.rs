//! Metrics that are computed when scraped, instead of updated for each message.

use super::{metrics::Metric, services};
use crate::{
    buffers,
    names::{ServiceName, SlotId},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

/// A service's instances on the answering node.
#[derive(Clone, Debug, Default)]
pub struct ServiceMemory {
    pub instances: u64,
    /// Their memories, and the overhead per instance.
    pub bytes: u64,
    /// Compiled code of the current version, which all instances share; absent while it is not
    /// loaded.
    pub code_bytes: Option<u64>,
}

/// What a service has used today and stores, as of the last look.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceUsage {
    pub refused: u64,
    pub bytes_sent: u64,
    pub sessions: u64,
    pub stored_bytes: u64,
}

impl ServiceUsage {
    fn add(&mut self, other: &Self) {
        self.refused += other.refused;
        self.bytes_sent += other.bytes_sent;
        self.sessions += other.sessions;
        self.stored_bytes += other.stored_bytes;
    }
}

/// A node's values at a scrape.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Waiting messages per running slot.
    pub mailboxes: Vec<(SlotId, usize)>,
    /// Claims that the node has won, per slot.
    pub claims: Vec<(SlotId, u64)>,
    /// Live instances of plugins.
    pub instances: u64,
    /// Memory that they use, and the limit.
    pub memory_used: u64,
    pub memory_max: u64,
    /// The same per service.
    pub services: Vec<(ServiceName, ServiceMemory)>,
    pub usage: Vec<(ServiceName, ServiceUsage)>,
    /// Sessions whose state is in memory, and the bytes they take.
    pub sessions_cached: u64,
    pub session_cache_bytes: u64,
    /// Messages between sessions that are on their way from this node's slots.
    pub outbox: u64,
    /// Whether requests can be served.
    pub ready: bool,
    /// The node's services.
    pub deployed: Vec<ServiceName>,
    /// Whether it is a cluster node.
    pub clustered: bool,
}

const LABEL_SLOT: &[(&str, &str)] = &[("slot", "…")];
const LABEL_HELD: &[(&str, &str)] = &[("kind", "…")];
const LABEL_SERVICE: &[(&str, &str)] = &[("service", "…")];
const LABEL_VERSION: &[(&str, &str)] = &[("version", "…")];

/// In the order of [`collect`].
pub(super) static SCRAPED: &[Metric] = &[
    Metric::scraped(
        "slotd_slot_mailbox_depth",
        LABEL_SLOT,
        "Messages waiting for a slot; slots without any have no series.",
    ),
    Metric::scraped_counter(
        "slotd_slot_claims_total",
        LABEL_SLOT,
        "Claims of a slot by this node, once there are more than one. Many mean that nodes keep \
         claiming it from each other.",
    ),
    Metric::scraped("slotd_slots_running", &[], "Running slots."),
    Metric::scraped(
        "slotd_buffers_bytes",
        LABEL_HELD,
        "Memory of connection buffers (`api.buffers`): bodies of messages in progress, incomplete \
         frames and heads, answers and events not yet read.",
    ),
    Metric::scraped("slotd_instances", &[], "Live plugin instances."),
    Metric::scraped(
        "slotd_instance_memory_bytes",
        &[],
        "Memory of plugin instances, overhead included.",
    ),
    Metric::scraped(
        "slotd_instance_memory_max_bytes",
        &[],
        "The limit for the memory of plugin instances (`guests.memory_total`).",
    ),
    Metric::scraped("slotd_service_instances", LABEL_SERVICE, "Plugin instances of a service."),
    Metric::scraped(
        "slotd_service_memory_bytes",
        LABEL_SERVICE,
        "Memory of a service's plugin instances.",
    ),
    Metric::scraped(
        "slotd_service_code_bytes",
        LABEL_SERVICE,
        "Compiled code of a service's current plugin, shared by its instances.",
    ),
    Metric::scraped_counter(
        "slotd_usage_refused_total",
        LABEL_SERVICE,
        "Messages that a limit has refused on this node today (UTC), as of the last half minute.",
    ),
    Metric::scraped_counter(
        "slotd_usage_sent_bytes_total",
        LABEL_SERVICE,
        "Bytes of replies, events and pages that this node has sent to a service's clients today (UTC), as of the \
         last half minute.",
    ),
    Metric::scraped(
        "slotd_stored_sessions",
        LABEL_SERVICE,
        "Sessions of a service in this node's slots, as of the last half minute.",
    ),
    Metric::scraped(
        "slotd_stored_bytes",
        LABEL_SERVICE,
        "Bytes of state, history and idempotency keys of a service in this node's slots, before they are compressed, \
         as of the last half minute.",
    ),
    Metric::scraped("slotd_sessions_cached", &[], "Sessions whose state is in memory."),
    Metric::scraped(
        "slotd_session_cache_bytes",
        &[],
        "Memory of the sessions whose state is in memory.",
    ),
    Metric::scraped(
        "slotd_outbox_messages",
        &[],
        "Messages to other sessions that are on their way from this node's slots. One that keeps growing: a \
         slot or a service that they are for does not take them.",
    ),
    Metric::scraped("slotd_ready", &[], "1 if the node can serve requests, else 0."),
    Metric::scraped("slotd_build_info", LABEL_VERSION, "Always 1; the label has slotd's version."),
    Metric::scraped("process_resident_memory_bytes", &[], "Resident memory."),
    Metric::scraped("process_open_fds", &[], "Open file descriptors."),
    Metric::scraped("process_start_time_seconds", &[], "Start, in seconds since the Unix epoch."),
];

type Source = dyn Fn() -> Snapshot + Send + Sync;
static SOURCES: Mutex<Vec<Weak<Source>>> = Mutex::new(Vec::new());

/// Holds a source; dropping it removes the source.
#[must_use = "dropping it ends the source"]
pub struct SourceGuard(#[allow(dead_code, reason = "held for its drop")] Arc<Source>);

/// Calls `source` at every scrape, until the guard is dropped. It runs on the scraper's task: keep
/// it short, and let it hold only weak references.
pub fn on_scrape(source: impl Fn() -> Snapshot + Send + Sync + 'static) -> SourceGuard {
    let source: Arc<Source> = Arc::new(source);
    let mut sources = SOURCES.lock();
    sources.retain(|known| known.strong_count() > 0);
    sources.push(Arc::downgrade(&source));
    SourceGuard(source)
}

/// The values of the process's nodes.
pub(super) fn snapshots() -> Vec<Snapshot> {
    let sources: Vec<Arc<Source>> = SOURCES.lock().iter().filter_map(Weak::upgrade).collect();
    sources.iter().map(|source| source()).collect()
}

/// The values of [`SCRAPED`], each with its label's value.
pub(super) fn collect(snapshots: &[Snapshot]) -> Vec<(&'static Metric, Vec<(String, u64)>)> {
    // Two nodes in one process (tests) may have the same slot; a series may appear only once.
    let mut depths: BTreeMap<SlotId, u64> = BTreeMap::new();
    for (slot, depth) in snapshots.iter().flat_map(|s| &s.mailboxes).filter(|(_, n)| *n > 0) {
        *depths.entry(*slot).or_default() += *depth as u64;
    }
    let mut claims: BTreeMap<SlotId, u64> = BTreeMap::new();
    for (slot, won) in snapshots.iter().flat_map(|s| &s.claims) {
        *claims.entry(*slot).or_default() += won;
    }
    claims.retain(|_, won| *won > 1);
    let running = snapshots.iter().map(|s| s.mailboxes.len() as u64).sum();
    let sum = |of: fn(&Snapshot) -> u64| one(snapshots.iter().map(of).sum());
    let ready = !snapshots.is_empty() && snapshots.iter().all(|s| s.ready);
    let services = by_label(snapshots.iter().flat_map(|s| &s.services), services::label);
    let by_service = |of: fn(&ServiceMemory) -> Option<u64>| -> Vec<(String, u64)> {
        let values = services.iter().map(|(service, memory)| (service, of(memory)));
        values.filter_map(|(service, value)| Some((service.to_string(), value?))).collect()
    };
    // As many series as counters have per service.
    let mut used: BTreeMap<&str, ServiceUsage> = BTreeMap::new();
    for (service, usage) in snapshots.iter().flat_map(|snapshot| &snapshot.usage) {
        used.entry(services::label(service)).or_default().add(usage);
    }
    let by_used = |of: fn(&ServiceUsage) -> u64| -> Vec<(String, u64)> {
        used.iter().map(|(service, usage)| ((*service).to_owned(), of(usage))).collect()
    };
    let by_slot = |values: BTreeMap<SlotId, u64>| {
        values.into_iter().map(|(slot, value)| (slot.to_string(), value)).collect()
    };
    let values: [Vec<(String, u64)>; 22] = [
        by_slot(depths),
        by_slot(claims),
        one(running),
        held(),
        sum(|s| s.instances),
        sum(|s| s.memory_used),
        sum(|s| s.memory_max),
        by_service(|memory| Some(memory.instances)),
        by_service(|memory| Some(memory.bytes)),
        by_service(|memory| memory.code_bytes),
        by_used(|usage| usage.refused),
        by_used(|usage| usage.bytes_sent),
        by_used(|usage| usage.sessions),
        by_used(|usage| usage.stored_bytes),
        sum(|s| s.sessions_cached),
        sum(|s| s.session_cache_bytes),
        sum(|s| s.outbox),
        one(u64::from(ready)),
        vec![(env!("CARGO_PKG_VERSION").into(), 1)],
        resident_bytes().map_or_else(Vec::new, one),
        std::fs::read_dir("/proc/self/fd").map_or_else(|_| Vec::new(), |d| one(d.count() as u64)),
        one(started()),
    ];
    SCRAPED.iter().zip(values).filter(|(_, values)| !values.is_empty()).collect()
}

/// As many series as counters have per service.
fn by_label<'a>(
    services: impl Iterator<Item = &'a (ServiceName, ServiceMemory)>,
    label: impl Fn(&'a ServiceName) -> &'a str,
) -> BTreeMap<&'a str, ServiceMemory> {
    // The nodes of a process share code.
    let mut all: BTreeMap<&ServiceName, ServiceMemory> = BTreeMap::new();
    for (service, memory) in services {
        let sum = all.entry(service).or_default();
        sum.instances += memory.instances;
        sum.bytes += memory.bytes;
        sum.code_bytes = sum.code_bytes.max(memory.code_bytes);
    }
    let mut labelled: BTreeMap<&str, ServiceMemory> = BTreeMap::new();
    for (service, memory) in all {
        let sum = labelled.entry(label(service)).or_default();
        sum.instances += memory.instances;
        sum.bytes += memory.bytes;
        let code_bytes = [sum.code_bytes, memory.code_bytes].into_iter().flatten();
        sum.code_bytes = code_bytes.reduce(|a, b| a + b);
    }
    labelled
}

fn one(value: u64) -> Vec<(String, u64)> {
    vec![(String::new(), value)]
}

fn held() -> Vec<(String, u64)> {
    let buffers = buffers::shared();
    let kinds = buffers::Kind::ALL.into_iter();
    kinds.map(|kind| (kind.as_str().to_owned(), buffers.held(kind) as u64)).collect()
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// When metrics were first used or the process reported its start: close enough.
pub(super) fn started() -> u64 {
    static STARTED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *STARTED.get_or_init(|| crate::clock::since_epoch().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As with counters: a node with thousands of services would answer each scrape with thousands
    /// of series.
    #[test]
    fn services_without_series_of_their_own_are_added_up() {
        let memory =
            |of: u64| ServiceMemory { instances: of, bytes: 10 * of, code_bytes: Some(of) };
        let name = |name: &str| ServiceName::parse(name).unwrap();
        // "own" is on two nodes, which share its code.
        let all = [("own", 1), ("a", 2), ("own", 1), ("b", 4)];
        let all = all.map(|(service, of)| (name(service), memory(of)));
        let label = |service: &'static str| if service == "own" { service } else { "other" };
        let all: &'static [(ServiceName, ServiceMemory)] = Box::leak(Box::new(all));
        let shown = by_label(all.iter(), |service| label(service.as_str()));
        let shown: Vec<_> =
            shown.into_iter().map(|(l, m)| (l, m.instances, m.bytes, m.code_bytes)).collect();
        assert_eq!(shown, [("other", 6, 60, Some(6)), ("own", 2, 20, Some(1))]);
    }
}
