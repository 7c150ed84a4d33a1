//! The variables that Kubernetes sets in every pod to describe services.

use std::net::IpAddr;

/// Whether a variable is one that Kubernetes sets in every pod to describe a service: one named
/// `slotd`, or one whose name begins with `slotd-`. Their values distinguish them from typing
/// errors: `SLOTD_ADMIN_PORT` is `tcp://10.0.0.1:7071` there.
pub(super) fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let address = |text: &str| text.parse::<IpAddr>().is_ok();
    let url = |text: &str| {
        let rest = PROTOCOLS.iter().find_map(|(_, scheme)| text.strip_prefix(scheme));
        rest.is_some_and(|rest| rest.starts_with("://"))
    };
    if name.ends_with("_SERVICE_HOST") {
        return address(value);
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return number(value);
    }
    if name.ends_with("_PORT") && url(value) {
        return true;
    }
    // ..._PORT_7070_TCP, and suffixes of it.
    let described = name.rsplit_once("_PORT_").and_then(|(_, rest)| rest.split_once('_'));
    let Some((port, protocol)) = described else { return false };
    let (protocol, part) = protocol.split_once('_').unwrap_or((protocol, ""));
    let known = PROTOCOLS.iter().any(|(known, _)| *known == protocol);
    number(port)
        && known
        && match part {
            "" => url(value),
            "PROTO" => PROTOCOLS.iter().any(|(_, scheme)| *scheme == value),
            "PORT" => number(value),
            "ADDR" => address(value),
            _ => false,
        }
}

/// The parts of a service's ports, in names and in values.
const PROTOCOLS: [(&str, &str); 3] = [("TCP", "tcp"), ("UDP", "udp"), ("SCTP", "sctp")];
