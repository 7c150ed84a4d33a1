//! Bearer tokens, and which requests are allowed without one.

use super::strict::{Head, host_in};
use crate::error::{Code, Error};
use http::{HeaderMap, HeaderValue, Uri, header};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};
use subtle::ConstantTimeEq;

/// A secret that a listener requires. Only its hash is kept, which can be compared and nothing
/// else. Comparing hashes takes the same time whatever a guess has in common with the secret,
/// including its length.
///
/// Clones share one token: replacing it in one replaces it in all.
#[derive(Clone)]
pub struct Token(Arc<RwLock<[u8; 32]>>);

impl Token {
    /// # Errors
    /// A sentence if the token is empty or has characters that are invalid in a header.
    pub fn new(secret: &str) -> Result<Self, String> {
        Ok(Self(Arc::new(RwLock::new(hash(secret)?))))
    }
    /// Replaces the secret that is required from now on.
    ///
    /// # Errors
    /// As [`Self::new`]; then nothing changes.
    pub fn replace(&self, secret: &str) -> Result<(), String> {
        *self.0.write() = hash(secret)?;
        Ok(())
    }
    pub fn matches(&self, guess: &[u8]) -> bool {
        let guess: [u8; 32] = Sha256::digest(guess).into();
        self.0.read().ct_eq(&guess).into()
    }
}

fn hash(secret: &str) -> Result<[u8; 32], String> {
    if secret.is_empty() {
        return Err("a token must not be empty".into());
    }
    if !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("a token consists of printable ASCII characters without spaces".into());
    }
    Ok(Sha256::digest(secret.as_bytes()).into())
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether the caller may use the API at all. `query_token` allows `?access_token=` instead of the
/// header, for the two routes that a browser's `EventSource` and `WebSocket` call, which can't set
/// headers.
///
/// Without a token, a request from a web page of another origin is refused. On loopback any page
/// that the user visits could otherwise control the node.
pub(super) fn check(
    token: Option<&Token>,
    headers: &HeaderMap,
    uri: &Uri,
    query_token: bool,
) -> Result<(), Error> {
    let Some(token) = token else { return check_origin(headers) };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    let allowed = match bearer {
        Some(guess) => token.matches(guess),
        None if query_token => {
            super::params::first(uri, "access_token").is_some_and(|g| token.matches(g.as_bytes()))
        }
        None => false,
    };
    if allowed {
        return Ok(());
    }
    Err(Error::new(
        Code::Unauthorized,
        match bearer {
            Some(_) => "the bearer token is wrong",
            None => "this listener requires `Authorization: Bearer <token>`",
        },
    ))
}

/// The host in a `Host` header, without its port; `None` if it is invalid.
pub(super) fn host_of(value: &HeaderValue) -> Option<&str> {
    host_in(value.to_str().ok()?)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
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
    Err(Error::new(
        Code::OriginRefused,
        "without a token, a loopback listener only accepts a `Host` of localhost or an IP \
         address; behind a proxy, set a token or have the proxy set `Host`",
    ))
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

fn check_origin(headers: &HeaderMap) -> Result<(), Error> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let page = origin.to_str().ok();
    let authority =
        page.and_then(|o| o.strip_prefix("http://").or_else(|| o.strip_prefix("https://")));
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    match (authority, host) {
        (Some(a), Some(h)) if a.eq_ignore_ascii_case(h) => Ok(()),
        _ => Err(Error::new(
            Code::OriginRefused,
            "without a token, requests from web pages of another origin are refused; serve the \
             page and slotd from one origin, through a proxy, or set a token and use the WebSocket",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (k.parse().expect("a name"), HeaderValue::from_static(v)))
            .collect()
    }
    fn code(result: Result<(), Error>) -> Option<Code> {
        result.err().map(|e| e.code)
    }

    /// Without it anyone could write, or a token could show up in a log.
    #[test]
    fn only_the_right_token_opens_and_it_never_shows() {
        let token = Token::new("s3cret-token").expect("a good token");
        assert_eq!(format!("{token:?} {:?}", Some(&token)), "*** Some(***)");
        let uri = Uri::from_static("/v1/x?access_token=s3cret-token");
        let check = |pairs, query| code(check(Some(&token), &headers(pairs), &uri, query));
        assert_eq!(check(&[("authorization", "Bearer s3cret-token")], false), None);
        assert_eq!(check(&[("authorization", "bearer  s3cret-token")], false), None);
        for wrong in ["Bearer s3cret-toke", "Bearer s3cret-tokenx", "Bearer ", "Basic x", ""] {
            let got = code(super::check(
                Some(&token),
                &[(header::AUTHORIZATION, HeaderValue::from_static(wrong))].into_iter().collect(),
                &Uri::from_static("/"),
                true,
            ));
            assert_eq!(got, Some(Code::Unauthorized), "{wrong:?}");
        }
        assert_eq!(check(&[], false), Some(Code::Unauthorized));
        assert_eq!(check(&[], true), None);
        assert_eq!(check(&[("authorization", "Bearer no")], true), Some(Code::Unauthorized));
        assert!(Token::new("").is_err() && Token::new("a b").is_err());
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
    fn without_a_token_other_origins_are_refused() {
        let uri = Uri::from_static("/");
        let check = |pairs: &[_]| code(check(None, &headers(pairs), &uri, false));
        assert_eq!(check(&[("host", "127.0.0.1:1")]), None);
        assert_eq!(check(&[("host", "127.0.0.1:1"), ("origin", "http://127.0.0.1:1")]), None);
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:2",
            "",
            "127.0.0.1:1",
            "x://127.0.0.1:1",
        ] {
            let mut map = headers(&[("host", "127.0.0.1:1")]);
            map.insert(header::ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(
                code(super::check(None, &map, &uri, false)),
                Some(Code::OriginRefused),
                "{origin}"
            );
        }
    }
}
