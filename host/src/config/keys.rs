//! The one table of keys. Parsing of every source, `slotd config print|check`, the flags of
//! `slotd serve` and `docs/configuration.md` all come from it.

use super::{
    Config,
    value::{Kind, Value, masked},
};
use crate::{limits, plugin::Isolation};
use std::{sync::LazyLock, time::Duration};

pub struct Key {
    /// Dotted, as in the file: `api.listen` is `listen` in the table `[api]`.
    pub name: &'static str,
    pub kind: Kind,
    /// Its purpose: one or more sentences, the first short.
    pub doc: &'static str,
    /// `None`: unset by default.
    pub get: fn(&Config) -> Option<Value>,
    pub set: fn(&mut Config, Value),
    /// The text in `docs/configuration.md` for a default that depends on the machine.
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
    /// The given value, as it may be shown; `None`: unchanged.
    pub fn masked(&self, raw: &str) -> Option<String> {
        masked(&self.kind, raw)
    }
    /// Its table, and its name there.
    pub fn split(&self) -> (Option<&'static str>, &'static str) {
        match self.name.split_once('.') {
            Some((table, key)) => (Some(table), key),
            None => (None, self.name),
        }
    }
}

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

mod cluster;
mod names;

pub use names::{OTHER_ENV, TABLES};

/// All of them, in the order in which they are shown.
pub static KEYS: LazyLock<Vec<&'static Key>> =
    LazyLock::new(|| [FIRST, cluster::KEYS, LAST].into_iter().flatten().collect());

/// Those before the cluster's.
static FIRST: &[Key] = &[
    key!(
        "data_dir",
        Kind::Path,
        Text,
        data_dir,
        |v: std::path::PathBuf| v.to_string_lossy().into_owned(),
        |v: String| v.into(),
        "The directory for all of the node's data. Created if it does not exist. Only one process \
         may use it."
    ),
    Key {
        default_doc: Some("the machine's host name"),
        ..same!(
            "node",
            Kind::Name,
            Text,
            node,
            "The node's name, unique in its cluster. Claims in the log and the ring use it."
        )
    },
    count!(
        "slot_count",
        1,
        limits::SLOT_COUNT_MAX,
        u16,
        slot_count,
        "The number of slots that sessions are spread over. Fixed at the first start, in the data \
         directory; starting with another number fails."
    ),
    same!(
        "insecure",
        Kind::Flag,
        Flag,
        insecure,
        "Allow a listener on a non-loopback address without a token, a rule or a grant, and without TLS. Anyone who \
         reaches it can then do everything."
    ),
    same!(
        "shares",
        Kind::Flag,
        Flag,
        shares,
        "Divide a busy node between its services: while the processor is saturated, messages of a service that is beyond its share \
         wait, and those of others do not; and no service takes all of a mailbox, of the connections' buffers, or of the \
         memory of instances while others want some (docs/limits.md)."
    ),
    same!(
        "level_wait",
        ms(0, 30 * 24 * HOUR),
        Duration,
        level_wait,
        "How long every node must have been able to read the next feature level before it is \
         raised automatically. Until then you can undo an upgrade of slotd; `slotd level --raise` \
         does not wait."
    ),
    same!(
        "shutdown_grace",
        ms(0, HOUR),
        Duration,
        shutdown_grace,
        "Time to finish what is in flight after SIGTERM or SIGINT. A second signal stops the node \
         at once."
    ),
    same!(
        "stall_limit",
        ms(10 * SECOND, HOUR),
        Duration,
        stall_limit,
        "A node whose worker threads are stalled for this long exits with code 70. Its probes \
         fail after 5 s, and in a cluster other nodes then take its slots."
    ),
    same!("api.listen", Kind::Address, Address, api.listen, "The API's address."),
    optional!(
        "api.token",
        Kind::Secret,
        Secret,
        api.token,
        "The bearer token that API clients must send. Flags are visible in the process list; \
         prefer the file or the environment."
    ),
    optional!(
        "api.token_file",
        Kind::Path,
        Text,
        api.token_file,
        "A file that contains the API token; a line break at its end is ignored."
    ),
    optional!(
        "api.tls_certificate",
        Kind::Path,
        Text,
        api.tls_certificate,
        "A PEM file with the API's certificate, and those between it and its authority: the API's \
         listener then speaks TLS only. With `api.tls_key`. Looked at every 5 s and at SIGHUP; \
         connections that are open go on. See docs/tls.md."
    ),
    optional!(
        "api.tls_key",
        Kind::Path,
        Text,
        api.tls_key,
        "A PEM file with that certificate's private key. Only slotd should be able to read it."
    ),
    same!(
        "api.clear_text",
        Kind::Flag,
        Flag,
        api.clear_text,
        "TLS ends in front of this listener, at a proxy or load balancer. Without it, and without \
         a certificate, the API's listener has to be on a loopback address."
    ),
    size!(
        "api.body_max",
        1,
        limits::BODY_BYTES_MAX,
        usize,
        body_bytes_max,
        "The largest body of a message or query. Larger ones get 413 `body-too-large`."
    ),
    same!(
        "api.request_deadline",
        ms(100, 10 * 60 * SECOND),
        Duration,
        request_deadline,
        "The longest time from a request's arrival to its answer. After it the client gets 504 \
         `outcome-unknown`."
    ),
    count!(
        "api.connections",
        1,
        1_000_000,
        usize,
        connections_max,
        "The number of connections, WebSockets included. At the limit, idle ones are closed for \
         new ones, or new ones get 503. Each needs a file descriptor; if the system allows fewer, \
         so does slotd."
    ),
    size!(
        "api.buffers",
        limits::BUFFERS_BYTES_MIN,
        1024 * GIB,
        usize,
        buffers_bytes,
        "Memory for connection buffers: incoming bodies and frames, and answers and events not \
         yet read. Incoming and outgoing data may each use three quarters of it. Beyond that, \
         requests get 503 `buffers-full`, and a WebSocket closes with 1013."
    ),
    Key {
        default_doc: Some("half of `api.connections`"),
        ..count!(
            "api.per_address",
            0,
            1_000_000,
            usize,
            connections_per_address,
            "Connections from one address (IPv6: from one /64 network); 0 means the default. \
             Loopback has no such limit. Raise it if all clients come through one proxy on \
             another machine."
        )
    },
    optional!(
        "api.notify",
        Kind::Services,
        Text,
        notify,
        "The services whose clients may send ephemeral events to the subscribers of a session \
         (typing, cursors, presence). Clients of other services get 403 `notify-refused`. \
         Handlers may always. The same on every node."
    ),
    optional!(
        "effects.send",
        Kind::Sends,
        Text,
        sends,
        "Which services' handlers may send messages to sessions of which: pairs such as \
         `cart>stock`, comma-separated; `*` on either side is any. A service needs a pair for \
         itself too (`chat>chat`). A send that no pair allows ends the call with 403 \
         `send-refused`. The same on every node."
    ),
    optional!(
        "effects.in_order",
        Kind::Sends,
        Text,
        in_order,
        "Between which services, as in `effects.send`, a message that was refused and is to be tried \
         again holds up what the same session sends to the same one after it. Elsewhere that goes \
         on meanwhile, and comes before it. The same on every node."
    ),
    optional!(
        "effects.http",
        Kind::HttpRules,
        Text,
        http_rules,
        "Which services' handlers may make requests over HTTP to which hosts: `SERVICE>HOST`, \
         comma-separated; the service `*` is any. A host is `api.example.com` (HTTPS on its port), \
         `api.example.com:8443`, `*.example.com` (all names below), an address, or with `http://` \
         before it one without encryption. A host that has private addresses needs `!private` \
         behind it (`chat>10.0.0.7:8080!private`). Other requests end the call with 403 \
         `request-refused`. The same on every node."
    ),
    optional!(
        "effects.http_secrets",
        Kind::HttpGrants,
        Text,
        http_secrets,
        "Which services may use which secrets at which hosts: `SERVICE>NAME>HOST`, comma-separated, \
         with hosts as in `effects.http` (`chat>API_KEY>api.example.com`). A request has \
         `{{secret:NAME}}` in its URL or in a header, and nobody sees the value. The same on every \
         node."
    ),
    optional!(
        "effects.secrets_file",
        Kind::Path,
        Text,
        secrets_file,
        "A file of secrets, with a line `NAME=value` for each; lines that begin with `#` are \
         comments. It is read again within 5 s of a change. If it is wrong then, the old secrets \
         stay and an error is logged; at the start it is refused."
    ),
    optional!(
        "effects.secrets_env",
        Kind::Prefix,
        Text,
        secrets_env,
        "Environment variables whose names begin with this are secrets; the rest of the name is \
         the secret's (`SECRET_` makes `SECRET_API_KEY` the secret `API_KEY`). What \
         `effects.secrets_file` has of the same name goes before."
    ),
    count!(
        "effects.http_at_once",
        1,
        slotd_outbound::limits::AT_ONCE_MAX,
        usize,
        http_at_once,
        "The number of requests over HTTP that one service has under way at one host, from this \
         node. Others wait for their turn."
    ),
    count!(
        "effects.http_per_second",
        1,
        slotd_outbound::limits::PER_SECOND_MAX,
        u32,
        http_per_second,
        "The number of requests over HTTP that one service makes a second at one host, from this \
         node."
    ),
    same!(
        "admin.listen",
        Kind::Address,
        Address,
        admin.listen,
        "The address of the admin API, `/metrics`, `/healthz` and `/readyz`."
    ),
    optional!(
        "admin.token",
        Kind::Secret,
        Secret,
        admin.token,
        "The bearer token that admin clients must send. As with `api.token`, prefer the file or \
         the environment."
    ),
    optional!(
        "admin.token_file",
        Kind::Path,
        Text,
        admin.token_file,
        "A file that contains the admin token."
    ),
    optional!(
        "admin.tls_certificate",
        Kind::Path,
        Text,
        admin.tls_certificate,
        "A PEM file with the admin API's certificate, and those between it and its authority: the admin API's \
         listener then speaks TLS only. With `admin.tls_key`. Looked at every 5 s and at SIGHUP; \
         connections that are open go on. See docs/tls.md."
    ),
    optional!(
        "admin.tls_key",
        Kind::Path,
        Text,
        admin.tls_key,
        "A PEM file with that certificate's private key. Only slotd should be able to read it."
    ),
    optional!(
        "admin.tls_client_authority",
        Kind::Path,
        Text,
        admin.tls_client_authority,
        "A PEM file with the authorities of client certificates. Clients may show one, and then \
         need no token; without `admin.token`, they must. Looked at again as the certificate is."
    ),
    same!(
        "admin.clear_text",
        Kind::Flag,
        Flag,
        admin.clear_text,
        "TLS ends in front of this listener, at a proxy or load balancer. Without it, and without \
         a certificate, the admin API's listener has to be on a loopback address."
    ),
    optional!(
        "access.file",
        Kind::Path,
        Text,
        access_file,
        "The policy: a TOML file with issuers of tokens, rules of who may do what, and settings of \
         services (docs/access.md). The same on every node. It is read again within 5 s of a change. \
         If it is wrong then, the old policy stays and an error is logged; at the start it is refused."
    ),
    count!(
        "slots.mailbox",
        1,
        1_000_000,
        usize,
        mailbox_messages,
        "The number of messages that may wait for one slot. More get 503 `mailbox-full`."
    ),
    same!(
        "slots.idle",
        ms(SECOND, 24 * HOUR),
        Duration,
        slot_idle,
        "A slot that is idle for this long stops; its next message starts it again."
    ),
    size!(
        "slots.cache",
        MIB,
        1024 * GIB,
        usize,
        session_cache_bytes,
        "Memory for caching the state of sessions, over all slots."
    ),
    size!(
        "guests.memory",
        MIB,
        4 * GIB,
        usize,
        guest_memory_bytes,
        "Memory of one plugin instance. A call that needs more fails with 500 `plugin-limit`."
    ),
    Key {
        default_doc: Some("half of the machine's memory, or of the container's"),
        ..size!(
            "guests.memory_total",
            MIB,
            1024 * GIB,
            u64,
            guest_memory_total_bytes,
            "Memory of all plugin instances of the node together. When it is used up, the least \
             recently used instances are dropped; if all are in use, messages get 503 \
             `memory-full`. At least `guests.memory`."
        )
    },
    same!(
        "guests.idle",
        ms(SECOND, 24 * HOUR),
        Duration,
        guest_idle,
        "An instance that is idle for this long is dropped; the next message creates another."
    ),
    key!(
        "guests.isolation",
        Kind::Choice(Isolation::NAMES),
        Text,
        guest_isolation,
        |v: Isolation| v.as_str().into(),
        // The choice was validated: no other name gets here.
        |v: String| Isolation::parse(&v).unwrap_or(Isolation::Call),
        "Which calls an instance serves after its first. `shared`: any call of its version; \
         `session`: calls for the same session; `call`: none. The stricter settings cost time. \
         They change nothing for a handler that keeps nothing in memory between calls, and expose \
         one that does."
    ),
    Key {
        default_doc: Some("half of the processor's cores, at least one"),
        ..count!(
            "guests.long_threads",
            1,
            limits::LONG_THREADS_MAX,
            usize,
            guest_long_threads,
            "Threads for long-running calls. They have a lower priority than the worker threads, \
             and run such calls in turns."
        )
    },
    same!(
        "guests.deadline",
        ms(10, limits::GUEST_DEADLINE_MAX.as_millis() as u64),
        Duration,
        guest_deadline,
        "The longest running time of one call. After it the call fails with 504 \
         `plugin-deadline`. At most `api.request_deadline`."
    ),
    count!(
        "guests.host_calls",
        1,
        100_000_000,
        u32,
        guest_host_calls,
        "The number of host calls (state, effects, log) that one call may make. A call that makes \
         more fails with 500 `plugin-limit`."
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
            "Address space of the process that checks and compiles one component. A component \
             that needs more gets 422 `plugin-too-costly`. Two deploys and one load are compiled \
             at a time."
        )
    },
    same!(
        "guests.compile_deadline",
        ms(SECOND, limits::COMPILE_DEADLINE_MAX.as_millis() as u64),
        Duration,
        guest_compile_deadline,
        "Time to check and compile one component. A component that needs longer gets 422 \
         `plugin-too-costly`. Also how long a deploy waits for others to be compiled before it \
         gets 503 `unavailable`."
    ),
    size!(
        "store.cache",
        MIB,
        1024 * GIB,
        u64,
        store_cache_bytes,
        "Memory for the store's block cache."
    ),
    size!(
        "store.disk_reserve",
        0,
        1024 * GIB,
        u64,
        disk_reserve_bytes,
        "Free space to keep on the data directory's disk. With less, messages get 503 \
         `storage-unavailable` until there is space again."
    ),
];

/// Those after the cluster's.
static LAST: &[Key] = &[
    optional!(
        "seal.key_file",
        Kind::Path,
        Text,
        seal.key_file,
        "A file with the key that log, state and snapshots are sealed with: 32 random bytes in base64 (`slotd seal key` \
         makes one). Below it may be older keys, a line each, to open what they have sealed until it is sealed anew \
         (`slotd seal status`). In a cluster the same keys \
         on every node. Names of sessions, and keys of their state, are not sealed on disk. See docs/sealing.md."
    ),
    optional!(
        "seal.key_command",
        Kind::Command,
        Text,
        seal.key_command,
        "A command that prints what `seal.key_file` would have. It is run by `/bin/sh` at each start, and has 30 s."
    ),
    same!(
        "snapshots.url",
        Kind::Snapshots,
        Text,
        snapshots,
        "Where snapshots are stored. A directory must be shared by all nodes."
    ),
    key!(
        "log.format",
        Kind::Choice(&["text", "json"]),
        Text,
        log_format,
        |v: super::LogFormat| v.as_str().into(),
        |v: String| super::LogFormat::parse(&v),
        "Text lines, or one JSON object per line."
    ),
    same!(
        "log.filter",
        Kind::Filter,
        Text,
        log_filter,
        "Which lines to write: a level, or levels by module."
    ),
];

/// The key of that dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().copied().find(|key| key.name == name)
}
