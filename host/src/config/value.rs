//! Configuration values: what each kind accepts, how it is described and printed.

use crate::{
    effects::rules::SendRules,
    limits,
    memory::available_memory,
    names::{ServiceName, is_cluster_name},
    requests::{Grants, Rules},
};
use std::{fmt, net::SocketAddr, time::Duration};

/// What a key accepts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Count {
        min: u64,
        max: u64,
    },
    /// Bytes.
    Size {
        min: u64,
        max: u64,
    },
    /// One of a few numbers; needs no unit.
    OneOf(&'static [u64]),
    Duration {
        min: Duration,
        max: Duration,
    },
    Flag,
    Address,
    /// A node's name.
    Name,
    ClusterName,
    /// A path; relative to the working directory.
    Path,
    /// A line for `/bin/sh`.
    Command,
    Secret,
    Choice(&'static [&'static str]),
    /// `nats://host:port` and similar, comma-separated.
    NatsServers,
    /// `http://host:port` or `https://host:port`, comma-separated.
    Monitors,
    /// `host:port`, comma-separated.
    Seeds,
    /// Services, comma-separated; `*`: all.
    Services,
    /// Pairs of services, as [`SendRules`] has them.
    Sends,
    /// Rules of requests over HTTP, as [`Rules`] has them.
    HttpRules,
    /// Secrets that these may use, as [`Grants`] has them.
    HttpGrants,
    /// What the names of environment variables begin with.
    Prefix,
    /// Where snapshots go.
    Snapshots,
    /// A log filter, in the syntax of `tracing-subscriber`.
    Filter,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Count(u64),
    Size(u64),
    Duration(Duration),
    Flag(bool),
    Address(SocketAddr),
    Text(String),
    Secret(Secret),
}

/// A bearer token. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// For the comparison with a client's token.
    pub fn reveal(&self) -> &str {
        &self.0
    }
    /// `None`: too short, too long, or with characters that are invalid in a header.
    pub fn parse(token: &str) -> Option<Self> {
        let length = (limits::TOKEN_BYTES_MIN..=limits::TOKEN_BYTES_MAX).contains(&token.len());
        (length && token.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(token.into()))
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

const SIZE_UNITS: &[(&str, u64)] = &[
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
    ("", 1),
];
/// In milliseconds.
const TIME_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A whole number and one of `units`.
fn with_unit(raw: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = raw.bytes().take_while(|b| b.is_ascii_digit() || *b == b'_').count();
    let (number, unit) = raw.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.replace('_', "").parse::<u64>().ok()?.checked_mul(*factor)
}

impl Kind {
    /// `None`: not allowed; [`Kind::allowed`] describes what is.
    pub fn parse(&self, raw: &str) -> Option<Value> {
        let raw = raw.trim();
        Some(match *self {
            Kind::Count { min, max } => {
                let n = raw.replace('_', "").parse().ok()?;
                Value::Count((min..=max).contains(&n).then_some(n)?)
            }
            Kind::OneOf(numbers) => {
                let n = raw.parse().ok()?;
                Value::Count(numbers.contains(&n).then_some(n)?)
            }
            Kind::Size { min, max } => {
                let n = with_unit(raw, SIZE_UNITS)?;
                Value::Size((min..=max).contains(&n).then_some(n)?)
            }
            Kind::Duration { min, max } => {
                let time = Duration::from_millis(with_unit(raw, TIME_UNITS)?);
                Value::Duration((min..=max).contains(&time).then_some(time)?)
            }
            Kind::Flag => Value::Flag(match raw {
                "true" => true,
                "false" => false,
                _ => return None,
            }),
            Kind::Address => Value::Address(raw.parse().ok()?),
            Kind::Name => Value::Text(node_name(raw)?),
            Kind::ClusterName => Value::Text(is_cluster_name(raw).then(|| raw.into())?),
            Kind::Path if raw.is_empty() || raw.contains('\0') => return None,
            Kind::Path => Value::Text(raw.into()),
            Kind::Command if raw.trim().is_empty() || raw.contains(['\0', '\n']) => return None,
            Kind::Command => Value::Text(raw.into()),
            Kind::Secret => Value::Secret(Secret::parse(raw)?),
            Kind::Choice(choices) => Value::Text(choices.iter().find(|c| **c == raw)?.to_string()),
            Kind::NatsServers => Value::Text(list(raw, is_nats_url)?),
            Kind::Monitors => Value::Text(list(raw, is_monitor_url)?),
            Kind::Seeds => Value::Text(list(raw, is_host_port)?),
            Kind::Services if raw == "*" => Value::Text(raw.into()),
            Kind::Sends => {
                SendRules::parse(raw).ok()?;
                Value::Text(raw.into())
            }
            Kind::HttpRules => {
                Rules::parse(raw).ok()?;
                Value::Text(raw.into())
            }
            Kind::HttpGrants => {
                Grants::parse(raw).ok()?;
                Value::Text(raw.into())
            }
            Kind::Prefix => Value::Text(is_prefix(raw).then(|| raw.into())?),
            Kind::Services => Value::Text(list(raw, |name| ServiceName::parse(name).is_ok())?),
            Kind::Snapshots => Value::Text(is_snapshots_url(raw).then(|| raw.into())?),
            Kind::Filter => Value::Text(is_filter(raw).then(|| raw.into())?),
        })
    }

    /// What is allowed; completes "must be ...".
    pub fn allowed(&self) -> String {
        match *self {
            Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
            Kind::OneOf(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
                match numbers.split_last() {
                    Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                    None => String::new(),
                }
            }
            Kind::Size { min, max } => format!(
                "a size from {} to {}, in bytes or with a unit (256KiB, 64MiB, 1GiB)",
                Value::Size(min),
                Value::Size(max)
            ),
            Kind::Duration { min, max } => format!(
                "a time from {} to {}, with its unit (500ms, 10s, 5m, 1h)",
                Value::Duration(min),
                Value::Duration(max)
            ),
            Kind::Flag => "true or false".into(),
            Kind::Address => {
                "an IP address and a port (127.0.0.1:7070, 0.0.0.0:7070, [::1]:7070); \
                              port 0 takes a free one"
                    .into()
            }
            Kind::Name => format!(
                "1 to {} bytes of a-z, A-Z, 0-9, '-', '_', '.' and '@', starting with a letter or digit",
                limits::NODE_NAME_BYTES_MAX
            ),
            Kind::ClusterName => format!(
                "1 to {} bytes of a-z, A-Z, 0-9, '-' and '_'",
                limits::CLUSTER_NAME_BYTES_MAX
            ),
            Kind::Path => "a path, relative to the working directory".into(),
            Kind::Command => "a line for /bin/sh".into(),
            Kind::Secret => format!(
                "{} to {} visible ASCII characters without spaces",
                limits::TOKEN_BYTES_MIN,
                limits::TOKEN_BYTES_MAX
            ),
            Kind::Choice(choices) => choices.join(" or "),
            Kind::NatsServers => "addresses of NATS servers with commas between \
                                  (nats://nats-0:4222,nats://nats-1:4222; tls:// with TLS)"
                .into(),
            Kind::Monitors => "monitoring addresses of NATS servers with commas between \
                               (http://nats-0:8222,http://nats-1:8222)"
                .into(),
            Kind::Seeds => {
                "peers as host:port with commas between (slotd-0.slotd:7072,10.0.0.7:7072)".into()
            }
            Kind::Sends => {
                "pairs of services with commas between (cart>stock, chat>*); * is any".into()
            }
            Kind::HttpRules => {
                "services and hosts with commas between (chat>api.example.com, *>10.0.0.7:8080!private)"
                    .into()
            }
            Kind::HttpGrants => "services, names of secrets and hosts with commas between \
                                 (chat>API_KEY>api.example.com)"
                .into(),
            Kind::Prefix => format!(
                "1 to {} bytes of a-z, A-Z, 0-9 and '_', with '_' at the end (SECRET_); not \
                 SLOTD_..., which are slotd's own",
                limits::SECRET_PREFIX_BYTES_MAX
            ),
            Kind::Services => {
                "names of services with commas between (chat,board), or * for all of them".into()
            }
            Kind::Snapshots => "nats: (the engine's own store), file:///directory or \
                                s3://bucket/prefix"
                .into(),
            Kind::Filter => "a level (error, warn, info, debug, trace, off) or a filter by module \
                             (info,slotd::slot=debug)"
                .into(),
        }
    }

    /// What is wrong with a value that has many parts, in particular.
    pub fn problem(&self, raw: &str) -> Option<String> {
        match self {
            Kind::HttpRules => Rules::parse(raw).err(),
            Kind::HttpGrants => Grants::parse(raw).err(),
            _ => None,
        }
    }

    /// The value's syntax in a TOML file.
    pub fn toml_types(&self) -> &'static [&'static str] {
        match self {
            Kind::Count { .. } | Kind::OneOf(_) => &["integer"],
            Kind::Size { .. } => &["integer", "string"],
            Kind::Flag => &["boolean"],
            _ => &["string"],
        }
    }
}

/// A key's given value, as it may be shown; `None`: unchanged. A NATS address may contain a user's
/// password, or a token.
pub fn masked(kind: &Kind, raw: &str) -> Option<String> {
    match kind {
        Kind::Secret => Some(REDACTED.into()),
        Kind::NatsServers if raw.contains('@') => {
            // With a typing error in it, the end of a password is unknown.
            let sound = kind.parse(raw).is_some();
            let mask = |item: &str| match (item.split_once("://"), item.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{REDACTED}@{host}"),
                _ => item.to_owned(),
            };
            let items = raw.split(',').map(|item| mask(item.trim()));
            Some(if sound { items.collect::<Vec<_>>().join(",") } else { REDACTED.into() })
        }
        // With a typing error in it, it may be the secret itself that was written.
        Kind::HttpGrants if kind.parse(raw).is_none() => Some(REDACTED.into()),
        Kind::HttpRules if raw.contains('@') => Some(REDACTED.into()),
        _ => None,
    }
}

pub const REDACTED: &str = "<redacted>";

/// The list without blanks; `None` if it is empty or one of its items is invalid.
fn list(raw: &str, allowed: fn(&str) -> bool) -> Option<String> {
    let items: Vec<&str> = raw.split(',').map(str::trim).collect();
    items.iter().all(|item| allowed(item)).then(|| items.join(","))
}

fn is_nats_url(raw: &str) -> bool {
    let schemes = ["nats://", "tls://"];
    let rest = schemes.iter().find_map(|scheme| raw.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}

fn is_monitor_url(raw: &str) -> bool {
    let schemes = ["http://", "https://"];
    let rest = schemes.iter().find_map(|scheme| raw.strip_prefix(scheme));
    rest.is_some_and(|rest| is_host_port(rest.trim_end_matches('/')))
}

fn is_host_port(raw: &str) -> bool {
    let Some((host, port)) = raw.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    !host.is_empty() && host.bytes().all(allowed) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_prefix(raw: &str) -> bool {
    (1..=limits::SECRET_PREFIX_BYTES_MAX).contains(&raw.len())
        && raw.ends_with('_')
        && !raw.starts_with("SLOTD_")
        && raw.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_snapshots_url(raw: &str) -> bool {
    let named = |scheme: &str| raw.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty());
    raw == "nats:" || named("file:///") || named("s3://")
}

/// Stricter than `tracing-subscriber`, which takes a misspelt level for the name of a module and
/// then logs nothing at all.
fn is_filter(raw: &str) -> bool {
    let bare_is_level = |part: &str| {
        part.contains(['=', '[', '{']) || part.parse::<tracing::metadata::LevelFilter>().is_ok()
    };
    !raw.is_empty()
        && raw.split(',').all(|part| part.contains([']', '}']) || bare_is_level(part.trim()))
        && tracing_subscriber::EnvFilter::builder().parse(raw).is_ok()
}

fn node_name(raw: &str) -> Option<String> {
    let length = (1..=limits::NODE_NAME_BYTES_MAX).contains(&raw.len());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    let fits = length && raw.as_bytes()[0].is_ascii_alphanumeric() && raw.bytes().all(allowed);
    fits.then(|| raw.into())
}

/// The machine's name if it is a valid node name, else `node`.
pub fn default_node_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .and_then(|name| node_name(name.trim()))
        .unwrap_or_else(|| "node".into())
}

/// Half of the memory available to this process, in whole MiB; at least enough for one instance.
pub fn default_memory_total() -> u64 {
    let share = available_memory() / limits::GUEST_MEMORY_TOTAL_SHARE;
    let least = limits::GUEST_MEMORY_BYTES_DEFAULT as u64;
    (share >> 20 << 20).max(least)
}

/// Half of the cores available to this process, at least one.
pub fn default_long_threads() -> usize {
    (crate::thread::processors() / 2).clamp(1, limits::LONG_THREADS_MAX)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |n: u64, units: &[(&'static str, u64)]| {
            units.iter().find(|(_, unit)| n >= *unit && n.is_multiple_of(*unit)).copied()
        };
        match self {
            Value::Count(n) => write!(f, "{n}"),
            Value::Size(n) => {
                const UNITS: &[(&str, u64)] =
                    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
                match exact(*n, UNITS) {
                    Some((name, unit)) => write!(f, "{}{name}", n / unit),
                    None => write!(f, "{n}"),
                }
            }
            Value::Duration(time) => {
                let ms = time.as_millis() as u64;
                match exact(ms, TIME_UNITS) {
                    Some((name, unit)) => write!(f, "{}{name}", ms / unit),
                    None => write!(f, "{ms}ms"),
                }
            }
            Value::Flag(on) => write!(f, "{on}"),
            Value::Address(address) => write!(f, "{address}"),
            Value::Text(text) => f.write_str(text),
            Value::Secret(_) => f.write_str(REDACTED),
        }
    }
}

impl Value {
    /// As written in a TOML file.
    pub fn to_toml(&self) -> String {
        match self {
            Value::Count(_) | Value::Flag(_) => self.to_string(),
            _ => toml::Value::String(self.to_string()).to_string(),
        }
    }
}
