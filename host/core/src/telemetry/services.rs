//! Metrics per service. A slot looks up a service's counters once ([`Known`]) and keeps them:
//! counting is an atomic addition from then on.
//!
//! The first [`limits::METRIC_SERVICES_MAX`] services have their own series; all further ones share
//! those of `other`. A service that the node no longer has loses its series at the next scrape.

use super::{
    histogram::{FixedHistogram, SECONDS},
    metrics::Metric,
    recorder::escape,
};
use crate::{error::Code, limits, names::ServiceName};
use metrics::HistogramFn as _;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The purpose of a handler call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    Handle,
    Query,
    Migrate,
}

const CALLED: [&str; 3] = ["handle", "query", "migrate"];
/// [`crate::plugin::Failure::kind`] of those that are not rejections.
const TRAPS: [&str; 7] =
    ["trap", "deadline", "limit", "store", "level", "no-memory", "no-instance"];
/// Services without their own series. No service can have this name by accident, since it is itself
/// listed here.
const OTHER: &str = "other";

/// The counters of one service.
pub struct ServiceMetrics {
    /// Its series has ended.
    gone: AtomicBool,
    messages: AtomicU64,
    events: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    replays: AtomicU64,
    rejections: AtomicU64,
    host_calls: AtomicU64,
    waited: AtomicU64,
    traps: [AtomicU64; TRAPS.len()],
    errors: Box<[AtomicU64]>,
    calls: [FixedHistogram; CALLED.len()],
    answers: FixedHistogram,
}

impl ServiceMetrics {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gone: AtomicBool::new(false),
            messages: AtomicU64::new(0),
            events: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            rejections: AtomicU64::new(0),
            host_calls: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            traps: Default::default(),
            errors: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            calls: [(); CALLED.len()].map(|()| FixedHistogram::new(SECONDS)),
            answers: FixedHistogram::new(SECONDS),
        })
    }

    /// Counts committed messages, with their bodies, replies and events.
    pub fn committed(&self, sum: Committed) {
        self.messages.fetch_add(sum.messages, Relaxed);
        self.bytes_in.fetch_add(sum.bytes_in, Relaxed);
        self.bytes_out.fetch_add(sum.bytes_out, Relaxed);
        if sum.events > 0 {
            self.events.fetch_add(sum.events, Relaxed);
        }
    }

    /// Counts a call of a handler, and its calls into the host.
    pub fn called(&self, called: Called, took: Duration, host_calls: u64) {
        self.calls[called as usize].record(took.as_secs_f64());
        self.host_calls.fetch_add(host_calls, Relaxed);
    }

    /// Counts how long a client's message took until it was durable and its answer left.
    pub fn answered(&self, took: Duration) {
        self.answers.record(took.as_secs_f64());
    }

    /// Counts a stored reply that was returned again.
    pub fn replayed(&self) {
        self.replays.fetch_add(1, Relaxed);
    }

    /// Counts a handler's rejection.
    pub fn rejected(&self) {
        self.rejections.fetch_add(1, Relaxed);
    }

    /// Counts a failed call; `kind` is [`crate::plugin::Failure::kind`].
    pub fn trapped(&self, kind: &str) {
        if let Some(at) = TRAPS.iter().position(|known| *known == kind) {
            self.traps[at].fetch_add(1, Relaxed);
        }
    }

    /// Counts a request that was refused or failed.
    pub fn error(&self, code: Code) {
        if let Some(counter) = self.errors.get(code as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

/// One service's part of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub messages: u64,
    pub events: u64,
    /// Of messages' bodies.
    pub bytes_in: u64,
    /// Of replies and events.
    pub bytes_out: u64,
}

struct Services {
    own: Mutex<BTreeMap<ServiceName, Arc<ServiceMetrics>>>,
    /// Of all services without their own.
    rest: Arc<ServiceMetrics>,
}

/// The process's.
static SERVICES: LazyLock<Services> = LazyLock::new(Services::new);

impl Services {
    fn new() -> Self {
        Self { own: Mutex::default(), rest: ServiceMetrics::new() }
    }

    /// The counters of a service, created if there is room for more.
    fn of(&self, service: &ServiceName) -> Arc<ServiceMetrics> {
        let mut all = self.own.lock();
        if let Some(known) = all.get(service) {
            return known.clone();
        }
        if service.as_str() == OTHER || all.len() >= limits::METRIC_SERVICES_MAX {
            return self.rest.clone();
        }
        all.entry(service.clone()).or_insert_with(ServiceMetrics::new).clone()
    }

    fn label<'a>(&self, service: &'a ServiceName) -> &'a str {
        if self.own.lock().contains_key(service) { service.as_str() } else { OTHER }
    }

    /// Ends the series of services that are not deployed any more, and starts those of unused
    /// services, as far as there is room.
    fn follow(&self, deployed: &BTreeSet<&ServiceName>) {
        self.own.lock().retain(|service, metrics| {
            let stays = deployed.contains(service);
            metrics.gone.store(!stays, Relaxed);
            stays
        });
        for service in deployed {
            self.of(service);
        }
    }

    /// As [`failed`].
    fn failed(&self, service: &ServiceName, code: Code) {
        let known = self.own.lock().get(service).cloned();
        known.as_ref().unwrap_or(&self.rest).error(code);
    }

    fn render(&self, out: &mut String) {
        let mut all: Vec<(String, Arc<ServiceMetrics>)> = {
            let all = self.own.lock();
            all.iter().map(|(name, metrics)| (escape(name.as_str()), metrics.clone())).collect()
        };
        all.push((OTHER.to_owned(), self.rest.clone()));
        for (row, family) in ROWS.iter().zip(FAMILIES) {
            let mut lines = String::new();
            for (service, metrics) in &all {
                family(metrics, row.name, service, &mut lines);
            }
            if !lines.is_empty() {
                let kind = row.kind.to_ascii_lowercase();
                let _ =
                    writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", row.name, row.doc, row.name);
                out.push_str(&lines);
                out.push('\n');
            }
        }
    }
}

/// Counts a request for a service that was refused or failed, wherever it was refused. It does not
/// create a series: anyone can request any name.
pub fn failed(service: &ServiceName, code: Code) {
    SERVICES.failed(service, code);
}

/// Counts a message that waits for its service's share of a busy node.
pub fn waited(service: &ServiceName) {
    SERVICES.of(service).waited.fetch_add(1, Relaxed);
}

/// The label of a service's series: its name, or that of the shared one.
pub(super) fn label(service: &ServiceName) -> &str {
    SERVICES.label(service)
}

/// Ends series of services that the node does not have, and starts those of all others.
pub(super) fn follow(deployed: &BTreeSet<&ServiceName>) {
    SERVICES.follow(deployed);
}

pub(super) fn render(out: &mut String) {
    SERVICES.render(out);
}

/// The counters of the services in one slot: a handful, so a linear search beats a map.
#[derive(Default)]
pub struct Known(Vec<(ServiceName, Arc<ServiceMetrics>)>);

impl Known {
    pub fn of(&mut self, service: &ServiceName) -> &ServiceMetrics {
        self.among(&SERVICES, service)
    }

    /// As [`Known::of`], to be kept for a while.
    pub fn shared(&mut self, service: &ServiceName) -> Arc<ServiceMetrics> {
        self.among(&SERVICES, service).clone()
    }

    fn among(&mut self, services: &Services, service: &ServiceName) -> &Arc<ServiceMetrics> {
        let known = |(name, metrics): &(ServiceName, Arc<ServiceMetrics>)| {
            name == service && !metrics.gone.load(Relaxed)
        };
        let at = match self.0.iter().position(known) {
            Some(at) => at,
            None => {
                self.0.retain(|(name, metrics)| name != service && !metrics.gone.load(Relaxed));
                self.0.push((service.clone(), services.of(service)));
                self.0.len() - 1
            }
        };
        &self.0[at].1
    }
}

const SERVICE: &[(&str, &str)] = &[("service", "…")];

/// In the order of [`FAMILIES`].
pub(super) static ROWS: [Metric; 11] = [
    Metric::scraped_counter("slotd_messages_total", SERVICE, "Messages committed."),
    Metric::scraped_counter(
        "slotd_events_total",
        SERVICE,
        "Events committed, with or without subscribers.",
    ),
    Metric::scraped_counter(
        "slotd_message_bytes_total",
        &[("service", "…"), ("direction", "in|out")],
        "Bytes of committed messages: bodies (in), replies and events (out).",
    ),
    Metric::scraped_counter(
        "slotd_replays_total",
        SERVICE,
        "Stored replies returned for a repeated idempotency key.",
    ),
    Metric::scraped_counter(
        "slotd_rejections_total",
        SERVICE,
        "Messages and queries that a plugin rejected.",
    ),
    Metric::scraped_counter(
        "slotd_traps_total",
        &[("service", "…"), ("kind", "trap|deadline|limit|store|no-memory|no-instance")],
        "Failed plugin calls, by kind; no-instance: no instance could be created.",
    ),
    Metric::scraped_counter(
        "slotd_service_errors_total",
        &[("service", "…"), ("code", "…")],
        "Failed requests for a service, over HTTP and WebSockets, by error code (docs/errors.md), \
         counted by the node that received them.",
    ),
    Metric::scraped_counter(
        "slotd_host_calls_total",
        SERVICE,
        "Host calls made by plugins: state, effects, log.",
    ),
    Metric::scraped_histogram(
        "slotd_guest_call_seconds",
        &[("service", "…"), ("call", "handle|query|migrate")],
        "Time of one plugin call, by function.",
    ),
    Metric::scraped_counter(
        "slotd_shares_waited_total",
        SERVICE,
        "Messages that waited for their service's share of a busy node.",
    ),
    Metric::scraped_histogram(
        "slotd_message_seconds",
        SERVICE,
        "Time from when a client's message came to the node that has its slot until it was durable and its answer left.",
    ),
];

type Family = fn(&ServiceMetrics, &str, &str, &mut String);

/// Each writes a service's series of one family. A service's own series start at zero, so that a
/// rate sees the first increase; except those per kind of failure.
const FAMILIES: [Family; 11] = [
    |m, name, service, out| always(&m.messages, name, service, "", out),
    |m, name, service, out| always(&m.events, name, service, "", out),
    |m, name, service, out| {
        always(&m.bytes_in, name, service, ",direction=\"in\"", out);
        always(&m.bytes_out, name, service, ",direction=\"out\"", out);
    },
    |m, name, service, out| always(&m.replays, name, service, "", out),
    |m, name, service, out| always(&m.rejections, name, service, "", out),
    |m, name, service, out| {
        for (count, kind) in m.traps.iter().zip(TRAPS) {
            if_any(count, name, service, &format!(",kind=\"{kind}\""), out);
        }
    },
    |m, name, service, out| {
        for (count, code) in m.errors.iter().zip(Code::ALL) {
            if_any(count, name, service, &format!(",code=\"{}\"", code.as_str()), out);
        }
    },
    |m, name, service, out| always(&m.host_calls, name, service, "", out),
    |m, name, service, out| {
        for (histogram, call) in m.calls.iter().zip(CALLED).filter(|(h, _)| !h.is_empty()) {
            histogram.render(name, &format!("service=\"{service}\",call=\"{call}\""), out);
        }
    },
    |m, name, service, out| always(&m.waited, name, service, "", out),
    |m, name, service, out| {
        if !m.answers.is_empty() {
            m.answers.render(name, &format!("service=\"{service}\""), out);
        }
    },
];

fn if_any(count: &AtomicU64, name: &str, service: &str, labels: &str, out: &mut String) {
    let count = count.load(Relaxed);
    if count > 0 {
        let _ = writeln!(out, "{name}{{service=\"{service}\"{labels}}} {count}");
    }
}

fn always(count: &AtomicU64, name: &str, service: &str, labels: &str, out: &mut String) {
    if service == OTHER {
        return if_any(count, name, service, labels, out);
    }
    let _ = writeln!(out, "{name}{{service=\"{service}\"{labels}}} {}", count.load(Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::StateError,
        plugin::{Failure, PluginError},
    };

    fn name(name: &str) -> ServiceName {
        ServiceName::parse(name).unwrap()
    }

    fn rendered(services: &Services) -> String {
        let mut out = String::new();
        services.render(&mut out);
        out
    }

    /// Without a bound, anyone who may deploy could grow the answer to each scrape, and the memory
    /// of the metrics server.
    #[test]
    fn series_are_bounded_and_the_rest_is_counted_together() {
        let (services, mut slot) = (Services::new(), Known::default());
        for number in 0..limits::METRIC_SERVICES_MAX + 20 {
            let counted = slot.among(&services, &name(&format!("s{number}")));
            counted.committed(Committed { messages: 1, events: 2, bytes_in: 3, bytes_out: 4 });
            counted.called(Called::Query, Duration::from_micros(3), 1);
        }
        let text = rendered(&services);
        let series = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(series("slotd_messages_total{"), limits::METRIC_SERVICES_MAX + 1);
        assert_eq!(series("slotd_guest_call_seconds_count{"), limits::METRIC_SERVICES_MAX + 1);
        assert!(text.contains("slotd_messages_total{service=\"other\"} 20\n"), "{text}");
        assert!(text.contains("slotd_message_bytes_total{service=\"s0\",direction=\"out\"} 4\n"));
        // Unused series are not shown, nor events that never happened.
        assert!(!text.contains("call=\"handle\"") && !text.contains("slotd_traps_total"));
    }

    /// A removed service would stay on every graph permanently, and a later one of its name would
    /// continue its numbers, or be counted invisibly.
    #[test]
    fn a_service_that_is_removed_loses_its_series_and_starts_anew() {
        let (services, gone, stays) = (Services::new(), name("gone"), name("stays"));
        let mut slot = Known::default();
        let one = Committed { messages: 1, ..Committed::default() };
        let shown = |service: &ServiceName| {
            let text = rendered(&services);
            let start = format!("slotd_messages_total{{service=\"{service}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&*start)?.parse::<u64>().ok())
        };
        slot.among(&services, &gone).committed(one);
        slot.among(&services, &stays).committed(one);
        let new = name("deployed-and-not-used");
        services.follow(&BTreeSet::from([&stays, &new]));
        assert_eq!([&gone, &stays, &new].map(shown), [None, Some(1), Some(0)]);
        slot.among(&services, &gone).committed(one);
        slot.among(&services, &stays).committed(one);
        assert_eq!([&gone, &stays].map(shown), [Some(1), Some(2)]);
    }

    /// A failure of an unknown kind would not be counted.
    #[test]
    fn every_failure_that_is_no_refusal_is_counted() {
        let (services, of) = (Services::new(), name("failing"));
        let why = || "why".to_owned();
        let unavailable = StateError::Unavailable(why());
        for failure in [
            Failure::Trapped(why()),
            Failure::Deadline(Duration::ZERO),
            Failure::Limit(why()),
            Failure::Store(unavailable),
            Failure::NoInstance(PluginError::Refused(why())),
        ] {
            services.of(&of).trapped(failure.kind());
            let line =
                format!("slotd_traps_total{{service=\"failing\",kind=\"{}\"}} 1\n", failure.kind());
            assert!(rendered(&services).contains(&line), "{line}");
        }
    }

    /// Anyone can send a request for any name.
    #[test]
    fn a_failure_makes_no_series() {
        let services = Services::new();
        services.failed(&name("nobody-deployed-this"), Code::ServiceNotFound);
        let known = name("failing");
        services.of(&known);
        services.failed(&known, Code::MailboxFull);
        let text = rendered(&services);
        for line in [
            "slotd_service_errors_total{service=\"failing\",code=\"mailbox-full\"} 1\n",
            "slotd_service_errors_total{service=\"other\",code=\"service-not-found\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("nobody-deployed-this"), "{text}");
    }
}
