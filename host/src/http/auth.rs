//! What is shown of who asks, and which requests are allowed without it. What follows from it is decided in `access`.

use super::strict::{Head, host_in};
use crate::error::{Code, Error};
use http::{HeaderMap, HeaderValue, header};

/// The host in a `Host` header, without its port; `None` if it is invalid.
pub(super) fn host_of(value: &HeaderValue) -> Option<&str> {
    host_in(value.to_str().ok()?)
}

/// The token of `Authorization: Bearer <token>`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Whether a request names this machine: `localhost`, an IP address, or a name without a dot, as
/// used in local networks. A page whose own name was made to resolve to loopback sends that name,
/// and a public name has a dot.
pub(super) fn check_local_host(head: &Head<'_>) -> Result<(), Error> {
    // Only HTTP/1.0 may omit it, and no browser uses that.
    if head.host.is_none_or(is_local) {
        return Ok(());
    }
    Err(other_host())
}

fn other_host() -> Error {
    Error::new(
        Code::OriginRefused,
        "without a token, a loopback listener only accepts a `Host` of localhost or an IP \
         address; behind a proxy, set a token or have the proxy set `Host`",
    )
}

/// As [`check_local_host`], by a request's header.
pub(super) fn check_named_locally(headers: &HeaderMap) -> Result<(), Error> {
    let host = headers.get(header::HOST).map(|value| value.to_str().ok().and_then(host_in));
    match host {
        None => Ok(()),
        Some(Some(host)) if is_local(host) => Ok(()),
        Some(_) => Err(other_host()),
    }
}

/// Of a host without its port.
fn is_local(host: &str) -> bool {
    // A name that ends with a dot is the same name, fully qualified.
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_under_localhost = || {
        let last = name.rsplit('.').next().unwrap_or_default();
        last.eq_ignore_ascii_case("localhost")
    };
    name.parse::<std::net::IpAddr>().is_ok()
        || is_under_localhost()
        // Any other single name with a trailing dot is a public one, below the root.
        || (!host.is_empty() && !host.contains('.'))
}

/// Whether a page is of this listener's own origin, as far as its `Host` says.
pub(super) fn is_same_origin(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let page = origin.to_str().ok();
    let authority =
        page.and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    matches!((authority, host), (Some(a), Some(h)) if a.eq_ignore_ascii_case(h))
}

/// On loopback, any page that the user visits could otherwise control the node.
pub(super) fn other_origin() -> Error {
    Error::new(
        Code::OriginRefused,
        "without a token, requests from web pages of another origin are refused; name the page's origin in \
         `origins` of the service in the policy (access.file), or serve the page and slotd from one origin",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it a token could be read as another one, or not at all.
    #[test]
    fn a_bearer_is_what_is_after_the_scheme() {
        let shown = |value: &'static str| {
            let headers = [(header::AUTHORIZATION, HeaderValue::from_static(value))];
            bearer(&headers.into_iter().collect()).map(<[u8]>::to_vec)
        };
        assert_eq!(shown("Bearer s3cret").as_deref(), Some(&b"s3cret"[..]));
        assert_eq!(shown("bearer  s3cret ").as_deref(), Some(&b"s3cret"[..]));
        assert_eq!(shown("Bearer ").as_deref(), Some(&b""[..]));
        for other in ["Basic x", "", "Bearer", "Bearers x"] {
            assert_eq!(shown(other), None, "{other:?}");
        }
    }

    /// Without it a page whose name resolves to loopback would be of the same origin as the node.
    #[test]
    fn only_local_names_are_local() {
        for good in [
            "localhost",
            "slotd:7070",
            "LOCALHOST:1",
            "127.0.0.1:7400",
            "[::1]:1",
            "[::1]",
            "a.localhost",
            "localhost.",
            "LocalHost.:7070",
            "a.localhost.:1",
            "127.0.0.1.",
        ] {
            assert!(host_in(good).is_some_and(is_local), "{good}");
        }
        for bad in [
            "",
            "evil.example:7400",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "x.y",
            "localhost:x.evil.example",
            "[::1].evil.example",
            "evil.",
            ".",
            "localhost..",
            "notlocalhost.example",
            "evil.notlocalhost",
        ] {
            assert!(!host_in(bad).is_some_and(is_local), "{bad}");
        }
    }

    /// Without it a web page could deploy a plugin to a node on the reader's loopback.
    #[test]
    fn other_origins_are_told_from_the_own() {
        let headers = [(header::HOST, HeaderValue::from_static("127.0.0.1:1"))];
        let headers: HeaderMap = headers.into_iter().collect();
        let same =
            |origin: &'static str| is_same_origin(&HeaderValue::from_static(origin), &headers);
        assert!(same("http://127.0.0.1:1") && same("https://127.0.0.1:1"));
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:2",
            "",
            "127.0.0.1:1",
            "x://127.0.0.1:1",
        ] {
            assert!(!same(origin), "{origin}");
        }
    }
}
