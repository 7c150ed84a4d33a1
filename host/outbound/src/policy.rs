//! Who may be asked: rules, off by default.
//!
//! A rule is `[scheme://]host[:port][!private]`:
//!
//! | part | |
//! |---|---|
//! | scheme | `https` if none is given, or `http`, which is not encrypted |
//! | host | a name; `*.name` for all names below it; `*` for all names; an address, IPv6 in brackets |
//! | port | the scheme's if none is given; a number; `*` |
//! | `!private` | the host may have private addresses. Only with a name or an address, not with `*` |
//!
//! A name with `!private` may lead to loopback and to private networks, and an address with it be what it is. No rule
//! leads from a name to link-local addresses, where clouds hand out credentials, and none to
//! multicast or the like. An address is reached by a rule that names it only: `*` is for names.

use crate::{
    address::{Class, Reach, class},
    limits,
    outcome::Failure,
};
use reqwest::Url;
use std::{fmt, net::IpAddr, str::FromStr};

/// Who may be asked, with which secrets, and how much may come of it.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Nothing is allowed that none of them allows.
    pub rules: Vec<Rule>,
    /// Which secrets go where.
    pub grants: Vec<Grant>,
    pub limits: Limits,
}

/// How large what is asked, and what comes, may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub request_bytes: usize,
    /// Of an answer's body, when it is decompressed.
    pub answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: limits::REQUEST_BODY_BYTES_MAX,
            answer_bytes: limits::ANSWER_BODY_BYTES_MAX,
        }
    }
}

/// Who may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    is_tls: bool,
    host: Host,
    port: Port,
    is_private: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// All names below this one.
    Below(String),
    Name(String),
    Address(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Any,
    Is(u16),
}

/// A secret, and where it may go: `NAME>rule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    secret: String,
    rule: Rule,
}

/// What is wrong with a rule, a grant or a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct PolicyError {
    text: String,
    reason: &'static str,
}

impl PolicyError {
    /// What is wrong, without the text: that may have a secret by mistake.
    pub const fn reason(&self) -> &'static str {
        self.reason
    }

    fn new(text: impl Into<String>, reason: &'static str) -> Self {
        Self { text: text.into(), reason }
    }
}

impl Policy {
    /// Of rules and grants as they are written, with the usual limits.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn parse<T: AsRef<str>>(rules: &[T], grants: &[T]) -> Result<Self, PolicyError> {
        let rules = rules.iter().map(|rule| rule.as_ref().parse()).collect::<Result<_, _>>()?;
        let grants = grants.iter().map(|grant| grant.as_ref().parse()).collect::<Result<_, _>>()?;
        Ok(Self { rules, grants, limits: Limits::default() })
    }

    /// Whether it is within the limits of this crate.
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let Limits { request_bytes, answer_bytes } = self.limits;
        let within = |what: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            let text = format!("{what} = {value}");
            Err(PolicyError::new(text, "out of the range that slotd can hold"))
        };
        within("request_bytes", request_bytes, limits::REQUEST_BODY_BYTES_MAX)?;
        within("answer_bytes", answer_bytes, limits::ANSWER_BODY_BYTES_MAX)?;
        for (what, count) in [("rules", self.rules.len()), ("grants", self.grants.len())] {
            within(what, count.max(1), limits::RULES_MAX)?;
        }
        Ok(())
    }

    /// Which addresses of a URL's host may be connected to, if any.
    ///
    /// # Errors
    /// [`Kind::Refused`](crate::Kind::Refused) if no rule allows the host, or if the host is an address that the rule
    /// does not reach.
    pub(crate) fn admit(&self, url: &Url) -> Result<Reach, Failure> {
        let target = Target::of(url)?;
        let rules = self.rules.iter().filter(|rule| rule.allows(&target));
        let Some(reach) = rules.map(Rule::reach).max() else {
            return Err(Failure::refused(format!("no rule allows requests to {target}")));
        };
        match target.address {
            Some(address) if !reach.has(address) => {
                Err(Failure::refused(address_refused(target.host, address)))
            }
            _ => Ok(reach),
        }
    }

    /// Whether a secret may be sent to a URL's host.
    pub(crate) fn check_secret(&self, secret: &str, url: &Url) -> Result<(), Failure> {
        let target = Target::of(url)?;
        if self.grants.iter().any(|grant| grant.secret == secret && grant.rule.allows(&target)) {
            return Ok(());
        }
        Err(Failure::refused(format!("the secret {secret} may not be sent to {target}")))
    }
}

/// Where a URL leads, as `scheme://host:port`.
pub(crate) fn target(url: &Url) -> Result<String, Failure> {
    Target::of(url).map(|target| target.to_string())
}

/// Why an address of a host is not connected to. The address itself is not said: a handler could learn from it what
/// the network's names are.
pub(crate) fn address_refused(host: &str, address: IpAddr) -> String {
    let (what, remedy) = match class(address) {
        Class::Public | Class::Private => ("private", " (a rule with `!private` allows it)"),
        Class::Metadata => ("link-local or a cloud's metadata service", ""),
        Class::Translated(_) => ("a translation of an IPv4 address", ""),
        Class::Reserved => ("reserved", ""),
    };
    format!("{host} has an address that is {what}, and no rule allows that{remedy}")
}

/// Where a URL leads.
struct Target<'a> {
    is_tls: bool,
    /// Without the dot that a full name may end with.
    host: &'a str,
    address: Option<IpAddr>,
    port: u16,
}

impl<'a> Target<'a> {
    /// `Url` has made one spelling of all: small letters, ASCII for names of other scripts, addresses as they
    /// are written commonly (from `0x7f.1`, `2130706433`, `%31...`).
    fn of(url: &'a Url) -> Result<Self, Failure> {
        let is_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(Failure::invalid("the URL must begin with https:// or http://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::invalid("put credentials in a header, not in the URL"));
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Failure::invalid("the URL has no host"));
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        Ok(Self { is_tls, host, address: address_of(host), port })
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(to, "{scheme}://{}:{}", self.host, self.port)
    }
}

fn address_of(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

impl Rule {
    fn allows(&self, target: &Target<'_>) -> bool {
        let is_host = match (&self.host, target.address) {
            (Host::Address(rule), Some(address)) => *rule == address,
            (Host::Address(_), None) | (_, Some(_)) => false,
            (Host::Any, None) => true,
            (Host::Name(name), None) => target.host == name,
            (Host::Below(name), None) => {
                let above = target.host.strip_suffix(name.as_str());
                above.is_some_and(|below| below.len() > 1 && below.ends_with('.'))
            }
        };
        is_host
            && self.is_tls == target.is_tls
            && match self.port {
                Port::Any => true,
                Port::Is(port) => port == target.port,
            }
    }

    /// Whether what is said is encrypted on its way.
    pub fn is_encrypted(&self) -> bool {
        self.is_tls
    }

    /// Whether the host may have private addresses.
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    fn reach(&self) -> Reach {
        match (self.is_private, &self.host) {
            (false, _) => Reach::Public,
            (true, Host::Address(_)) => Reach::Literal,
            (true, _) => Reach::Private,
        }
    }

    fn default_port(is_tls: bool) -> Port {
        Port::Is(if is_tls { 443 } else { 80 })
    }
}

impl FromStr for Rule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = |reason| PolicyError::new(text, reason);
        if text.len() > limits::RULE_BYTES_MAX {
            return Err(wrong("too long for a rule"));
        }
        let (rest, is_private) = match text.strip_suffix("!private") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (is_tls, rest) = match rest.split_once("://") {
            None | Some(("https", _)) => (true, rest.strip_prefix("https://").unwrap_or(rest)),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(wrong("the scheme is https or http")),
        };
        let (host, port) = match rest.rsplit_once(':') {
            // A colon within brackets is the address's.
            Some((host, port)) if !port.contains(']') => {
                let port = match port {
                    "*" => Port::Any,
                    port => match port.parse() {
                        Ok(port @ 1..) => Port::Is(port),
                        _ => return Err(wrong("the port must be 1 to 65535, or *")),
                    },
                };
                (host, port)
            }
            _ => (rest, Self::default_port(is_tls)),
        };
        let host = match host.strip_prefix("*.") {
            None if host == "*" => Host::Any,
            None => match one_spelling(host).ok_or_else(|| wrong("invalid host"))? {
                (_, Some(address)) => Host::Address(address),
                (name, None) => Host::Name(name),
            },
            Some(name) => match one_spelling(name) {
                Some((name, None)) => Host::Below(name),
                _ => return Err(wrong("*. must be followed by a name")),
            },
        };
        if is_private && matches!(host, Host::Any | Host::Below(_)) {
            return Err(wrong("!private needs one named host, not *"));
        }
        Ok(Self { is_tls, host, port, is_private })
    }
}

/// A host as URLs have it when they are parsed.
fn one_spelling(host: &str) -> Option<(String, Option<IpAddr>)> {
    let is_plain = |character: char| character.is_alphanumeric() || ".-_[]:".contains(character);
    if !host.chars().all(is_plain) {
        return None;
    }
    // A name without brackets and with a colon would be a host and a port.
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    let url = Url::parse(&format!("https://{host}/")).ok()?;
    let host = url.host_str()?;
    let host = host.strip_suffix('.').unwrap_or(host);
    Some((host.to_owned(), address_of(host)))
}

impl fmt::Display for Rule {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_tls {
            to.write_str("http://")?;
        }
        match &self.host {
            Host::Any => to.write_str("*"),
            Host::Below(name) => write!(to, "*.{name}"),
            Host::Name(name) => to.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(to, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(to, "[{address}]"),
        }?;
        match self.port {
            Port::Any => to.write_str(":*"),
            port if port == Self::default_port(self.is_tls) => Ok(()),
            Port::Is(port) => write!(to, ":{port}"),
        }?;
        to.write_str(if self.is_private { "!private" } else { "" })
    }
}

impl Grant {
    /// The secret's name.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Where it may go.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }
}

impl FromStr for Grant {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = |reason| PolicyError::new(text, reason);
        let (secret, rule) = text.split_once('>').ok_or_else(|| wrong("expected NAME>HOST"))?;
        if !crate::secrets::is_name(secret) {
            return Err(wrong("a secret's name has letters, digits and _"));
        }
        Ok(Self { secret: secret.to_owned(), rule: rule.parse()? })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}>{}", self.secret, self.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use proptest::prelude::*;

    fn admit(rules: &[&str], url: &str) -> Result<Reach, Kind> {
        let policy = Policy::parse(rules, &[]).expect("rules");
        let url = Url::parse(url).expect("a URL");
        policy.admit(&url).map_err(|failure| failure.kind)
    }

    /// Whoever tries it on their own machine has to learn of `!private`, and nobody that it would help where it does not.
    #[test]
    fn what_allows_a_private_address_is_said() {
        let says = |address: [u8; 4]| {
            address_refused("a.example", address.into())
                .contains("(a rule with `!private` allows it)")
        };
        assert!(says([127, 0, 0, 1]) && says([10, 0, 0, 7]));
        assert!(!says([169, 254, 169, 254]) && !says([224, 0, 0, 1]));
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert_eq!(admit(&[], "https://api.example.com/"), Err(Kind::Refused));
    }

    #[test]
    fn a_rule_is_for_its_scheme_host_and_port() {
        let yes = [
            ("api.example.com", "https://api.example.com/v1?x=1"),
            ("api.example.com", "https://API.example.COM./"),
            ("API.Example.com", "https://api.example.com:443/"),
            ("*.example.com", "https://a.b.example.com/"),
            ("*.example.com:8443", "https://a.example.com:8443/"),
            ("api.example.com:*", "https://api.example.com:1/"),
            ("http://api.example.com", "http://api.example.com/"),
            ("bücher.example", "https://xn--bcher-kva.example/"),
            ("*", "https://anything.example/"),
            ("93.184.215.14", "https://93.184.215.14/"),
            (
                "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443",
                "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/",
            ),
        ];
        for (rule, url) in yes {
            assert_eq!(admit(&[rule], url), Ok(Reach::Public), "{rule} {url}");
        }
        let no = [
            ("api.example.com", "http://api.example.com/"),
            ("api.example.com", "http://api.example.com:443/"),
            ("http://api.example.com", "https://api.example.com/"),
            ("api.example.com", "https://api.example.com:8443/"),
            ("api.example.com", "https://xapi.example.com/"),
            ("api.example.com", "https://api.example.com.evil.example/"),
            ("*.example.com", "https://example.com/"),
            ("*.example.com", "https://evilexample.com/"),
            ("*.example.com", "https://.example.com/"),
            ("*", "https://93.184.215.14/"),
            ("*:*", "http://api.example.com/"),
        ];
        for (rule, url) in no {
            assert_eq!(admit(&[rule], url), Err(Kind::Refused), "{rule} {url}");
        }
    }

    #[test]
    fn credentials_and_other_schemes_in_a_url_are_invalid() {
        for url in [
            "https://me:word@api.example.com/",
            "https://me@api.example.com/",
            "ftp://api.example.com/",
        ] {
            assert_eq!(admit(&["*"], url), Err(Kind::Invalid), "{url}");
        }
    }

    #[test]
    fn an_address_is_refused_in_every_spelling() {
        let spellings = [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "0177.0.0.1",
            "2130706433",
            "0x7f000001",
            "017700000001",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "127。0。0。1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "0.0.0.0",
            "0",
            "169.254.169.254",
            "[fe80::1]",
        ];
        for host in spellings {
            let url = format!("https://{host}/");
            assert_eq!(admit(&["*", "*:*"], &url), Err(Kind::Refused), "{host}");
            // Even a rule that names it needs the flag.
            if let Ok(rule) = format!("{}:*", host.trim_end_matches('.')).parse::<Rule>() {
                let policy = Policy { rules: vec![rule], ..Policy::default() };
                let url = Url::parse(&url).expect("a URL");
                assert!(policy.admit(&url).is_err(), "{host}");
            }
        }
        assert_eq!(admit(&["127.0.0.1!private"], "https://0x7f.1/"), Ok(Reach::Literal));
        assert_eq!(
            admit(&["169.254.169.254!private"], "https://169.254.169.254/"),
            Ok(Reach::Literal)
        );
        assert_eq!(admit(&["0.0.0.0!private"], "https://0.0.0.0/"), Err(Kind::Refused));
        assert_eq!(admit(&["db.internal!private"], "https://db.internal/"), Ok(Reach::Private));
        // The flag is of the rule that allows this port.
        assert_eq!(
            admit(&["db.internal:1!private", "db.internal"], "https://db.internal/"),
            Ok(Reach::Public)
        );
    }

    #[test]
    fn what_is_no_rule_is_said() {
        let wrong = [
            "",
            "!private",
            "*!private",
            "*.example.com!private",
            "ftp://a.example",
            "a.example:0",
            "a.example:70000",
            "a.example:",
            "a.example/path",
            "me@a.example",
            "*.127.0.0.1",
            "a*.example",
            "::1",
            "[::1",
            "a b",
            "a.example!public",
            "*.",
            "https://",
            "a\\b",
            "a?b",
            "a#b",
            "%61",
        ];
        for text in wrong {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
        for text in ["A", "A>", ">a.example", "A B>a.example", "A>*!private"] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
    }

    #[test]
    fn rules_and_grants_are_written_as_they_are_read() {
        let rules = [
            "api.example.com",
            "*.example.com:8443",
            "http://a.example:*",
            "*",
            "[::1]:8080!private",
            "127.0.0.1!private",
            "db.internal!private",
        ];
        for text in rules {
            assert_eq!(text.parse::<Rule>().expect("a rule").to_string(), text);
        }
        let grant = "API_KEY>*.example.com";
        assert_eq!(grant.parse::<Grant>().expect("a grant").to_string(), grant);
    }

    #[test]
    fn a_secret_goes_only_where_it_is_granted() {
        let policy = Policy::parse(&["*", "*:*"], &["A>api.example.com", "B>*.example.com:*"])
            .expect("rules");
        let may = |secret: &str, url: &str| {
            policy.check_secret(secret, &Url::parse(url).expect("a URL")).is_ok()
        };
        assert!(may("A", "https://api.example.com/x"));
        assert!(!may("A", "http://api.example.com/x"));
        assert!(!may("A", "https://api.example.com:8443/x"));
        assert!(!may("A", "https://www.example.com/x"));
        assert!(may("B", "https://www.example.com:8443/x"));
        assert!(!may("C", "https://api.example.com/x"));
    }

    #[test]
    fn limits_are_within_what_slotd_holds() {
        assert!(Policy::default().check().is_ok());
        let none = Limits { request_bytes: 0, ..Limits::default() };
        let many = Limits { answer_bytes: usize::MAX, ..Limits::default() };
        for limits in [none, many] {
            assert!(Policy { limits, ..Policy::default() }.check().is_err());
        }
    }

    proptest! {
        /// Any way to write an IPv4 address that a URL understands leads to the same decision.
        #[test]
        fn how_an_address_is_written_decides_nothing(bits: u32, form in 0..6_u8) {
            let [a, b, c, d] = bits.to_be_bytes();
            let host = match form {
                0 => format!("{bits}"),
                1 => format!("{bits:#x}"),
                2 => format!("0{bits:o}"),
                3 => format!("{a:#x}.{}", bits & 0xff_ffff),
                4 => format!("0{a:o}.{b}.{:#X}", u32::from(c) << 8 | u32::from(d)),
                _ => format!("[::ffff:{a}.{b}.{c}.{d}]"),
            };
            let url = Url::parse(&format!("https://{host}/")).expect("a URL");
            let policy = Policy::parse(&["*", "*:*"], &[]).expect("rules");
            prop_assert!(policy.admit(&url).is_err());
            let rule = format!("{a}.{b}.{c}.{d}").parse().expect("a rule");
            let named = Policy { rules: vec![rule], ..Policy::default() };
            let is_public = form != 5 && Reach::Public.has(IpAddr::from([a, b, c, d]));
            prop_assert_eq!(named.admit(&url).is_ok(), is_public);
        }
    }
}
