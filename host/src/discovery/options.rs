//! The configuration of discovery: seeds, and the variables of DNS polling.

use crate::limits;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// An invalid setting. Its text names the setting, its value and what is allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value:?}; it must be {wanted}")]
pub struct Invalid {
    pub name: String,
    pub value: String,
    pub wanted: String,
}

impl Invalid {
    fn new(name: &str, value: &str, wanted: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), wanted: wanted.into() }
    }
}

/// A source of addresses: a literal address, or a name that is resolved periodically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// ASCII, checked by [`is_dns_name`].
    Name(String),
}

/// A fixed address of a peer: `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub host: Host,
    pub port: u16,
}

impl Seed {
    /// Parses one seed; `setting` is its name in an error.
    ///
    /// # Errors
    /// [`Invalid`] without a port, with port 0, or with a host that is neither an address nor a
    /// name.
    pub fn parse(setting: &str, raw: &str) -> Result<Self, Invalid> {
        let wrong = || {
            Invalid::new(
                setting,
                raw,
                "host:port, with a DNS name or an IP address (IPv6 in brackets) and a port from 1 \
                 to 65535",
            )
        };
        let (host, port) = raw.trim().rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => Host::Ip(IpAddr::V6(v6.parse().map_err(|_| wrong())?)),
            None => match host.parse::<IpAddr>() {
                Ok(IpAddr::V4(v4)) => Host::Ip(v4.into()),
                Ok(IpAddr::V6(_)) => return Err(wrong()),
                Err(_) if is_dns_name(host) => Host::Name(host.to_ascii_lowercase()),
                Err(_) => return Err(wrong()),
            },
        };
        Ok(Self { host, port })
    }

    /// Parses a comma-separated list; blanks between commas are skipped.
    ///
    /// # Errors
    /// As [`Self::parse`], and for more than [`limits::DISCOVERY_NAMES_MAX`] seeds.
    pub fn parse_list(setting: &str, raw: &str) -> Result<Vec<Self>, Invalid> {
        let seeds: Vec<Self> = raw
            .split(',')
            .filter(|part| !part.trim().is_empty())
            .map(|part| Self::parse(setting, part))
            .collect::<Result<_, _>>()?;
        if seeds.len() > limits::DISCOVERY_NAMES_MAX {
            let wanted = format!("{} seeds at most", limits::DISCOVERY_NAMES_MAX);
            return Err(Invalid::new(setting, raw, wanted));
        }
        Ok(seeds)
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Discovery by DNS: every address of these names is a node, at the node's own peer port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsOptions {
    /// At least one, at most [`limits::DISCOVERY_NAMES_MAX`].
    pub names: Vec<String>,
    /// The part before the `@` in a node's name, see [`Self::node`].
    pub basename: String,
    /// Time between two lookups.
    pub interval: Duration,
    /// Used instead of the servers of `/etc/resolv.conf`, whose search list is then not used
    /// either.
    pub server: Option<SocketAddr>,
}

impl DnsOptions {
    pub const QUERY: &str = "DNS_CLUSTER_QUERY";
    pub const BASENAME: &str = "DNS_CLUSTER_NODE_BASENAME";
    pub const INTERVAL: &str = "DNS_POLL_INTERVAL_MS";
    pub const SERVER: &str = "DNS_CLUSTER_SERVER";
    pub const BASENAME_DEFAULT: &str = "slotd";

    /// Reads the variables through `get` (which gives a variable's value, if it is set):
    /// - [`Self::QUERY`]: one name, or several with commas between. Unset or blank: no discovery by
    ///   DNS, and `None`; the others are checked all the same, a typing error is one either way.
    /// - [`Self::BASENAME`]: `slotd` if unset or blank.
    /// - [`Self::INTERVAL`]: milliseconds, [`limits::DNS_POLL_INTERVAL_DEFAULT`] if unset or blank.
    /// - [`Self::SERVER`]: `ip` or `ip:port`, for machines whose own resolver does not know the
    ///   cluster's names (the agent of a service registry, say). Unset or blank: the system's.
    ///
    /// # Errors
    /// [`Invalid`] for an invalid value. It must stop the boot: a node that looks for its peers in
    /// the wrong place would continue alone.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Invalid> {
        let value = |name| get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let interval = match value(Self::INTERVAL) {
            None => limits::DNS_POLL_INTERVAL_DEFAULT,
            Some(raw) => interval(&raw)?,
        };
        let basename = match value(Self::BASENAME) {
            None => Self::BASENAME_DEFAULT.to_owned(),
            Some(raw) => basename(&raw)?,
        };
        let server = value(Self::SERVER).map(|raw| server(&raw)).transpose()?;
        let Some(query) = value(Self::QUERY) else { return Ok(None) };
        Ok(Some(Self { names: names(&query)?, basename, interval, server }))
    }

    /// The name of a node at `ip`: `basename@ip`.
    pub fn node(&self, ip: IpAddr) -> String {
        format!("{}@{}", self.basename, ip.to_canonical())
    }
}

fn interval(raw: &str) -> Result<Duration, Invalid> {
    let (min, max) = (limits::DNS_POLL_INTERVAL_MIN, limits::DNS_POLL_INTERVAL_MAX);
    let fits = |d: &Duration| (min..=max).contains(d);
    let digits = raw.bytes().all(|b| b.is_ascii_digit());
    raw.parse().ok().filter(|_| digits).map(Duration::from_millis).filter(fits).ok_or_else(|| {
        let (min, max) = (min.as_millis(), max.as_millis());
        let wanted = format!("a whole number of milliseconds from {min} to {max}");
        Invalid::new(DnsOptions::INTERVAL, raw, wanted)
    })
}

fn basename(raw: &str) -> Result<String, Invalid> {
    let fits = raw.len() <= limits::DNS_BASENAME_BYTES_MAX
        && raw.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if fits {
        return Ok(raw.to_owned());
    }
    let max = limits::DNS_BASENAME_BYTES_MAX;
    let wanted = format!("1 to {max} of a-z A-Z 0-9 - _ (what comes before the @)");
    Err(Invalid::new(DnsOptions::BASENAME, raw, wanted))
}

fn server(raw: &str) -> Result<SocketAddr, Invalid> {
    let bare = raw.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    let wanted = "an IP address, or one with a port (127.0.0.1:5353, [::1]:5353)";
    let wrong = |_| Invalid::new(DnsOptions::SERVER, raw, wanted);
    bare.or_else(|_| raw.parse::<SocketAddr>()).map_err(wrong)
}

fn names(raw: &str) -> Result<Vec<String>, Invalid> {
    let wrong = |wanted: String| Invalid::new(DnsOptions::QUERY, raw, wanted);
    let mut names = Vec::new();
    for name in raw.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !is_dns_name(name) {
            let what = "DNS names with commas between (a-z 0-9 - _ and dots, no scheme, no port)";
            return Err(wrong(format!("{what}; {name:?} is not")));
        }
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.len() {
        0 => Err(wrong("at least one DNS name".into())),
        n if n > limits::DISCOVERY_NAMES_MAX => {
            Err(wrong(format!("{} names at most", limits::DISCOVERY_NAMES_MAX)))
        }
        _ => Ok(names),
    }
}

/// RFC 1035's lengths, with the underscore of service names. A last label of only digits would be a
/// mistyped address.
fn is_dns_name(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let digits = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    !bare.is_empty()
        && bare.len() <= 253
        && bare.split('.').all(label)
        && !bare.rsplit('.').next().is_some_and(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(vars: &[(&str, &str)]) -> Result<Option<DnsOptions>, Invalid> {
        let vars: HashMap<_, _> = vars.iter().copied().collect();
        DnsOptions::from_vars(|name| vars.get(name).map(|v| (*v).to_owned()))
    }

    /// A node whose variables are unset or blank must not poll; defaults must be the documented
    /// ones.
    #[test]
    fn variables_and_their_defaults() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("DNS_CLUSTER_QUERY", "  ")]), Ok(None));
        let read = |vars| read(vars).unwrap().unwrap();
        let all = read(&[("DNS_CLUSTER_QUERY", " Nodes.example.com, b.c. ,nodes.example.com")]);
        assert_eq!(all.names, ["nodes.example.com", "b.c."]);
        assert_eq!((all.basename.as_str(), all.interval.as_millis()), ("slotd", 5_000));
        assert_eq!(all.node([10, 0, 0, 7].into()), "slotd@10.0.0.7");
        let set = read(&[
            ("DNS_CLUSTER_QUERY", "a"),
            ("DNS_CLUSTER_NODE_BASENAME", "chat"),
            ("DNS_POLL_INTERVAL_MS", "250"),
            ("DNS_CLUSTER_SERVER", "::1"),
        ]);
        assert_eq!((set.basename.as_str(), set.interval.as_millis()), ("chat", 250));
        assert_eq!(set.server, Some("[::1]:53".parse().unwrap()));
    }

    /// A malformed value that is accepted would silently leave a node alone.
    #[test]
    fn malformed_values_stop_the_boot_and_say_why() {
        let long = "a".repeat(64);
        for (name, value) in [
            ("DNS_CLUSTER_QUERY", "http://nodes"),
            ("DNS_CLUSTER_QUERY", "nodes:4000"),
            ("DNS_CLUSTER_QUERY", "10.0.0.1"),
            ("DNS_CLUSTER_QUERY", "a..b"),
            ("DNS_CLUSTER_QUERY", ","),
            ("DNS_CLUSTER_QUERY", "-a.b"),
            ("DNS_CLUSTER_QUERY", "ä.example"),
            ("DNS_CLUSTER_QUERY", long.as_str()),
            ("DNS_CLUSTER_NODE_BASENAME", "a@b"),
            ("DNS_CLUSTER_NODE_BASENAME", "a b"),
            ("DNS_POLL_INTERVAL_MS", "5s"),
            ("DNS_POLL_INTERVAL_MS", "+5000"),
            ("DNS_POLL_INTERVAL_MS", "0"),
            ("DNS_POLL_INTERVAL_MS", "99999999999999999999"),
            ("DNS_CLUSTER_SERVER", "dns.example.com"),
            ("DNS_CLUSTER_SERVER", "1.2.3.4:99999"),
        ] {
            let wrong = read(&[(name, value)]).unwrap_err();
            assert_eq!((wrong.name.as_str(), wrong.value.as_str()), (name, value));
            let text = wrong.to_string();
            assert!(text.starts_with(&format!("{name} is {value:?}; it must be ")), "{text}");
        }
        let many = (0..99).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
        assert!(read(&[("DNS_CLUSTER_QUERY", &many)]).is_err());
    }

    #[test]
    fn seeds_are_read_or_refused() {
        let seed = |raw| Seed::parse("cluster.seeds", raw).map(|seed| seed.to_string());
        assert_eq!(seed("Node-1.svc:7000").unwrap(), "node-1.svc:7000");
        assert_eq!(seed(" 10.0.0.1:1 ").unwrap(), "10.0.0.1:1");
        assert_eq!(seed("[::1]:7000").unwrap(), "[::1]:7000");
        for raw in
            ["", "host", "host:", ":70", "host:0", "host:65536", "::1:7000", "10.0.0:7", "[x]:1"]
        {
            let text = seed(raw).unwrap_err().to_string();
            assert!(text.starts_with("cluster.seeds is "), "{text}");
        }
        assert_eq!(Seed::parse_list("s", "a:1, ,b:2,").unwrap().len(), 2);
        assert_eq!(Seed::parse_list("s", "").unwrap().len(), 0);
    }
}
