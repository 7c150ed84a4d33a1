//! The one table of keys. Parsing of every source, `slotd config print|check`, the flags of
//! `slotd serve` and `docs/configuration.md` all come from it.

use super::{
    Config,
    value::{Kind, Value, masked},
};
use crate::{limits, plugin::Isolation};
use std::time::Duration;

pub struct Key {
    /// Dotted, as in the file: `api.listen` is `listen` in the table `[api]`.
    pub name: &'static str,
    pub kind: Kind,
    /// What it is for: one or more sentences, the first short.
    pub doc: &'static str,
    /// `None`: nothing is set.
    pub get: fn(&Config) -> Option<Value>,
    pub set: fn(&mut Config, Value),
    /// What `docs/configuration.md` says of a default that depends on the machine.
    pub default_doc: Option<&'static str>,
}

impl Key {
    /// `SLOTD_API_LISTEN` for `api.listen`.
    pub fn env(&self) -> String {
        format!("SLOTD_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
    /// `api-listen` for `api.listen`.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret)
    }
    /// What was given for it, as it may be shown; `None`: as it stands.
    pub fn masked(&self, raw: &str) -> Option<String> {
        masked(&self.kind, raw)
    }
    /// The table that it stands in, and its name there.
    pub fn split(&self) -> (Option<&'static str>, &'static str) {
        match self.name.split_once('.') {
            Some((table, key)) => (Some(table), key),
            None => (None, self.name),
        }
    }
}

/// Environment variables that are no key of the configuration.
pub const OTHER_ENV: &[(&str, &str)] = &[
    ("SLOTD_CONFIG", "the configuration file, where `--config` does not name it"),
    ("SLOTD_URL", "the API that client commands talk to (`--url`)"),
    ("SLOTD_ADMIN_URL", "the admin API that client commands talk to (`--admin-url`)"),
    ("DNS_CLUSTER_QUERY", "names that are polled for the addresses of peers; blank: none are"),
    (
        "DNS_CLUSTER_NODE_BASENAME",
        "what comes before `@` and the address in names of nodes, `slotd` by default",
    ),
    ("DNS_POLL_INTERVAL_MS", "how often they are polled, 5000 by default"),
    (
        "DNS_CLUSTER_SERVER",
        "the name server (`ip` or `ip:port`) that is asked for them, instead of the machine's own",
    ),
    (
        "SLOTD_NATS_SERVER",
        "the `nats-server` that `slotd cluster` starts, rather than one of the path",
    ),
    ("SLOTD_PYTHON", "the Python that `slotd plugin build` and `test` use, else that in the path"),
    (
        "SLOTD_TOOLS_DIR",
        "where `slotd plugin build` and `test` keep fetched tools, for all plugins (else in each \
         plugin's `.slotd/tools`); `slotd cluster` looks there for a `nats-server`, too",
    ),
    (
        "SLOTD_NODEJS",
        "the Node.js for plugins in JavaScript and TypeScript, else `node` of the path",
    ),
    ("SLOTD_NPM", "the npm for them, else `npm` of the path"),
    ("SLOTD_TIMEOUT", "how long client commands wait for an answer (`--timeout`)"),
];

/// Tables of the file in the order in which they are shown, with what they hold.
pub const TABLES: &[(&str, &str)] = &[
    ("api", "The listener that clients talk to."),
    ("admin", "The listener that operators talk to: deploys, slots, metrics, health."),
    ("slots", "What one slot may use."),
    ("guests", "What a plugin may use."),
    ("store", "The embedded log and state."),
    ("nats", "The log engine of a cluster. A node without `nats.servers` stands alone."),
    ("cluster", "How the nodes of a cluster find and trust each other."),
    ("snapshots", "Where a cluster keeps the state that its log has forgotten."),
    ("log", "What slotd writes to its standard error."),
];

const fn ms(min: u64, max: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// One row. The variant of [`Value`] is the one that the kind parses to, so a mismatch in `set`
/// can't happen; a test sets every key.
macro_rules! key {
    ($name:literal, $kind:expr, $variant:ident, $($field:ident).+, $from:expr, $into:expr, $doc:expr) => {
        Key {
            name: $name,
            kind: $kind,
            doc: $doc,
            get: |config| Some(Value::$variant(($from)(config.$($field).+.clone()))),
            set: |config, value| if let Value::$variant(v) = value { config.$($field).+ = ($into)(v) },
            default_doc: None,
        }
    };
}
/// A row that may be unset.
macro_rules! optional {
    ($name:literal, $kind:expr, $variant:ident, $($field:ident).+, $doc:expr) => {
        Key {
            name: $name,
            kind: $kind,
            doc: $doc,
            get: |config| config.$($field).+.clone().map(|v| Value::$variant(v.into())),
            set: |config, value| if let Value::$variant(v) = value { config.$($field).+ = Some(v.into()) },
            default_doc: Some("not set"),
        }
    };
}
macro_rules! count {
    ($name:literal, $min:expr, $max:expr, $t:ty, $($field:ident).+, $doc:expr) => {
        key!($name, Kind::Count { min: $min as u64, max: $max as u64 }, Count, $($field).+, |v: $t| v as u64, |v: u64| v as $t, $doc)
    };
}
macro_rules! size {
    ($name:literal, $min:expr, $max:expr, $t:ty, $($field:ident).+, $doc:expr) => {
        key!($name, Kind::Size { min: $min as u64, max: $max as u64 }, Size, $($field).+, |v: $t| v as u64, |v: u64| v as $t, $doc)
    };
}
macro_rules! same {
    ($name:literal, $kind:expr, $variant:ident, $($field:ident).+, $doc:expr) => {
        key!($name, $kind, $variant, $($field).+, |v| v, |v| v, $doc)
    };
}

pub static KEYS: &[Key] = &[
    key!(
        "data_dir",
        Kind::Path,
        Text,
        data_dir,
        |v: std::path::PathBuf| v.to_string_lossy().into_owned(),
        |v: String| v.into(),
        "Everything the node keeps. Created if it does not exist. One process at a time."
    ),
    Key {
        default_doc: Some("the machine's host name"),
        ..same!(
            "node",
            Kind::Name,
            Text,
            node,
            "The node's name, unique in its cluster. It is part of claims in the log and of the ring."
        )
    },
    count!(
        "slot_count",
        1,
        limits::SLOT_COUNT_MAX,
        u16,
        slot_count,
        "How many slots the sessions are divided over. Recorded in the data directory at the \
         first start; another number is refused from then on."
    ),
    same!(
        "insecure",
        Kind::Flag,
        Flag,
        insecure,
        "Lets a listener off loopback start without a token. Whoever reaches it can then do \
         everything."
    ),
    same!(
        "level_wait",
        ms(0, 30 * 24 * HOUR),
        Duration,
        level_wait,
        "How long every node must have been able to read the next feature level before it is raised \
         by itself. Until then an upgrade of slotd can be taken back; `slotd level --raise` does not \
         wait."
    ),
    same!(
        "shutdown_grace",
        ms(0, HOUR),
        Duration,
        shutdown_grace,
        "Time to finish what is in flight after SIGTERM or SIGINT. A second signal ends it at once."
    ),
    same!(
        "stall_limit",
        ms(10 * SECOND, HOUR),
        Duration,
        stall_limit,
        "A node whose serving threads have not moved for this long ends itself, with exit code 70. \
         After 5 s already its probes fail, and in a cluster other nodes take its slots."
    ),
    same!("api.listen", Kind::Address, Address, api.listen, "Where the API listens."),
    optional!(
        "api.token",
        Kind::Secret,
        Secret,
        api.token,
        "The bearer token that API clients must send. A flag shows in the process list: prefer \
         the file or the environment."
    ),
    optional!(
        "api.token_file",
        Kind::Path,
        Text,
        api.token_file,
        "A file that holds the API token; a line break at its end does not count."
    ),
    size!(
        "api.body_max",
        1,
        limits::BODY_BYTES_MAX,
        usize,
        body_bytes_max,
        "The largest body of a message or query; past it 413 `body-too-large`."
    ),
    same!(
        "api.request_deadline",
        ms(100, 10 * 60 * SECOND),
        Duration,
        request_deadline,
        "Time from a request's arrival to its answer; past it 504 `outcome-unknown`."
    ),
    count!(
        "api.connections",
        1,
        1_000_000,
        usize,
        connections_max,
        "Connections, sockets included; past it idle ones make room, or new ones get 503. Each \
         needs a file descriptor: where the system gives fewer, fewer are taken."
    ),
    size!(
        "api.buffers",
        limits::BUFFERS_BYTES_MIN,
        1024 * GIB,
        usize,
        buffers_bytes,
        "Memory for what connections hold: bodies and frames that arrive, answers and events that \
         their readers have not taken. What comes in may take three quarters of it, and so may \
         what goes out; past it 503 `buffers-full`, and a WebSocket closes with 1013."
    ),
    Key {
        default_doc: Some("half of `api.connections`"),
        ..count!(
            "api.per_address",
            0,
            1_000_000,
            usize,
            connections_per_address,
            "Connections of one address (IPv6: of one /64 network); 0 is the default. Loopback has no \
             such limit. Raise it where all clients come through one proxy on another machine."
        )
    },
    same!(
        "admin.listen",
        Kind::Address,
        Address,
        admin.listen,
        "Where the admin API, `/metrics`, `/healthz` and `/readyz` listen."
    ),
    optional!(
        "admin.token",
        Kind::Secret,
        Secret,
        admin.token,
        "The bearer token that admin clients must send. As for `api.token`."
    ),
    optional!(
        "admin.token_file",
        Kind::Path,
        Text,
        admin.token_file,
        "A file that holds the admin token."
    ),
    count!(
        "slots.mailbox",
        1,
        1_000_000,
        usize,
        mailbox_messages,
        "Messages that wait for one slot; past it 503 `mailbox-full`."
    ),
    same!(
        "slots.idle",
        ms(SECOND, 24 * HOUR),
        Duration,
        slot_idle,
        "A slot that had nothing to do for this long stops; its next message starts it."
    ),
    size!(
        "slots.cache",
        MIB,
        1024 * GIB,
        usize,
        session_cache_bytes,
        "Memory for the state of sessions, over all slots."
    ),
    size!(
        "guests.memory",
        MIB,
        4 * GIB,
        usize,
        guest_memory_bytes,
        "Memory of one instance; past it the call fails with 500 `plugin-limit`."
    ),
    Key {
        default_doc: Some("half of the machine's memory, or of the container's"),
        ..size!(
            "guests.memory_total",
            MIB,
            1024 * GIB,
            u64,
            guest_memory_total_bytes,
            "Memory of all instances of the node together. Where it is used up, instances go that \
             were used least recently; where none can, messages get 503 `memory-full`. No less than \
             `guests.memory`."
        )
    },
    same!(
        "guests.idle",
        ms(SECOND, 24 * HOUR),
        Duration,
        guest_idle,
        "An instance that had nothing to do for this long is dropped; the next message makes another."
    ),
    key!(
        "guests.isolation",
        Kind::Choice(Isolation::NAMES),
        Text,
        guest_isolation,
        |v: Isolation| v.as_str().into(),
        // The choice was checked: any other name never comes here.
        |v: String| Isolation::parse(&v).unwrap_or(Isolation::Call),
        "What an instance is used for after its first call. `shared`: any call of its version; \
         `session`: calls for the same session; `call`: none. The stricter ones cost time, make no \
         difference to a handler that keeps nothing in memory between calls, and show one that does."
    ),
    Key {
        default_doc: Some("half of the processor's cores, one at least"),
        ..count!(
            "guests.long_threads",
            1,
            limits::LONG_THREADS_MAX,
            usize,
            guest_long_threads,
            "Threads for calls that compute for long. They give way to those that serve, and run such \
             calls in turn, a slice each."
        )
    },
    same!(
        "guests.deadline",
        ms(10, limits::GUEST_DEADLINE_MAX.as_millis() as u64),
        Duration,
        guest_deadline,
        "Running time of one call; past it 504 `plugin-deadline`. No longer than \
         `api.request_deadline`."
    ),
    count!(
        "guests.host_calls",
        1,
        100_000_000,
        u32,
        guest_host_calls,
        "Host calls (state, effects, log) of one call; past it 500 `plugin-limit`."
    ),
    Key {
        default_doc: Some(
            "2 GiB, or half of the machine's memory, or of the container's, if that is less",
        ),
        ..size!(
            "guests.compile_memory",
            limits::COMPILE_MEMORY_BYTES_MIN,
            1024 * GIB,
            u64,
            guest_compile_memory_bytes,
            "Address space of the process that checks and compiles one component; past it 422 \
             `plugin-too-costly`. Two deploys and one load are compiled at a time."
        )
    },
    same!(
        "guests.compile_deadline",
        ms(SECOND, limits::COMPILE_DEADLINE_MAX.as_millis() as u64),
        Duration,
        guest_compile_deadline,
        "Time to check and compile one component; past it 422 `plugin-too-costly`. \
         Also how long a deploy waits for others to be compiled; past it 503 `unavailable`."
    ),
    size!(
        "store.cache",
        MIB,
        1024 * GIB,
        u64,
        store_cache_bytes,
        "Memory for blocks of the store."
    ),
    size!(
        "store.disk_reserve",
        0,
        1024 * GIB,
        u64,
        disk_reserve_bytes,
        "Free room on the data directory's disk below which messages are refused with 503 \
         `storage-unavailable`, until there is room again."
    ),
    optional!(
        "nats.servers",
        Kind::NatsServers,
        Text,
        nats.servers,
        "The servers, several so that one may be down. Makes the node one of a cluster, whose log \
         is there instead of on this disk."
    ),
    optional!(
        "nats.credentials",
        Kind::Path,
        Text,
        nats.credentials,
        "A NATS credentials file. A user and password, or a token, may also stand in the addresses."
    ),
    optional!(
        "nats.monitor",
        Kind::Monitors,
        Text,
        nats.monitor,
        "The servers' monitoring ports. With them a start checks that every server syncs before it \
         acknowledges (`sync_interval: always`), which can't be seen otherwise."
    ),
    key!(
        "nats.replicas",
        // An even number has no use.
        Kind::OneOf(&[1, 3, 5]),
        Count,
        nats.replicas,
        |v: usize| v as u64,
        |v: u64| v as usize,
        "Servers that keep each batch: 3 or 5; 1 is for development. The same on every node."
    ),
    Key {
        name: "nats.streams",
        kind: Kind::Count { min: 1, max: limits::NATS_STREAMS_MAX as u64 },
        doc: "Streams that the slots' logs are spread over. Recorded at the cluster's first start.",
        get: |config| config.nats.streams.map(|v| Value::Count(v.into())),
        set: |config, value| {
            if let Value::Count(v) = value {
                config.nats.streams = Some(v as u16);
            }
        },
        default_doc: Some("as many as the cluster has; 3 for a new one"),
    },
    same!(
        "nats.boot_wait",
        ms(0, HOUR),
        Duration,
        nats.boot_wait,
        "How long a start waits for the servers before it gives up (exit code 6)."
    ),
    same!(
        "cluster.name",
        Kind::ClusterName,
        Text,
        cluster.name,
        "Part of every stream's name: clusters of other names may share the servers. Nodes of \
         another name are not let in."
    ),
    optional!(
        "cluster.secret",
        Kind::Secret,
        Secret,
        cluster.secret,
        "What all nodes of the cluster share, so that strangers are not let in: 128 random bits at \
         least, as `slotd cluster secret` makes them. Prefer the file or the environment."
    ),
    optional!(
        "cluster.secret_file",
        Kind::Path,
        Text,
        cluster.secret_file,
        "A file that holds the cluster's secret; a line break at its end does not count."
    ),
    same!(
        "cluster.accept_weak_secret",
        Kind::Flag,
        Flag,
        cluster.accept_weak_secret,
        "Lets a node start with a secret that looks weaker than 128 bits. For clusters from before \
         that was asked for, until all their nodes can be stopped to change it: whoever hears one \
         message between nodes can try secrets against it."
    ),
    same!(
        "cluster.listen",
        Kind::Address,
        Address,
        cluster.listen,
        "Where peers reach this node, over TCP (requests) and UDP (membership) of one port."
    ),
    optional!(
        "cluster.advertise",
        Kind::Address,
        Address,
        cluster.advertise,
        "The address that peers are told, where it is not the one that is listened on. Needed when \
         that is 0.0.0.0 or [::]."
    ),
    optional!(
        "cluster.seeds",
        Kind::Seeds,
        Text,
        cluster.seeds,
        "Some peers, resolved again and again. DNS is the other way to find them \
         (`DNS_CLUSTER_QUERY`)."
    ),
    same!(
        "cluster.join_wait",
        ms(0, 10 * 60 * SECOND),
        Duration,
        cluster.join_wait,
        "How long a node that finds no peer waits before it takes slots."
    ),
    same!(
        "snapshots.url",
        Kind::Snapshots,
        Text,
        snapshots,
        "Where snapshots go. A directory must be one that all nodes share."
    ),
    key!(
        "log.format",
        Kind::Choice(&["text", "json"]),
        Text,
        log_format,
        |v: super::LogFormat| v.as_str().into(),
        |v: String| super::LogFormat::parse(&v),
        "Lines for a person, or one JSON object a line."
    ),
    same!(
        "log.filter",
        Kind::Filter,
        Text,
        log_filter,
        "Which lines are written: a level, or levels by module."
    ),
];

/// The key of that dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The candidate that `name` is most likely a misspelling of.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let squash = |s: &str| s.to_ascii_lowercase().replace(['_', '-', '.'], "");
    let wanted = squash(name);
    if wanted.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| {
            // A key without its table (`listen`) is near too.
            let last = candidate.rsplit('.').next().unwrap_or(candidate);
            let whole = distance(&wanted, &squash(candidate));
            (whole.min(1 + distance(&wanted, &squash(last))), candidate)
        })
        .filter(|(distance, _)| *distance <= 1 + wanted.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The insertions, deletions, substitutions and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut least =
                (rows[i - 1][j - 1] + changed).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
