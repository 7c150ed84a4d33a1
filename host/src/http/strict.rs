//! Checks of every request's head: slotd refuses what it does not understand, and what two readers
//! could understand differently.
//!
//! The parser has refused what is not HTTP/1.1 or HTTP/2 at all; it accepts repeated fields, codings
//! that it does not decode, and requests without a host. HTTP/2's `:authority` is an absolute target
//! here, and the host field if there is none (`http2/exchange`).

use super::{auth::host_of, params::invalid};
use crate::error::{Code, Error};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};

/// The parts of a request's head that decide whether it is accepted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// The host that the request is for: of its target if that is absolute.
    pub(super) host: Option<&'a str>,
    /// A web page sends it.
    pub(super) has_origin: bool,
}

/// Reads a head in one pass. `has_body`: something follows it.
///
/// # Errors
/// `request-invalid`, `encoding-unsupported`, `transfer-unsupported`, each naming the field.
pub(super) fn check<'a>(
    method: &Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    has_body: bool,
) -> Result<Head<'a>, Error> {
    let changes = !method.is_safe();
    let (mut host, mut has_origin) = (None, false);
    for (name, value) in headers {
        match *name {
            header::HOST => host = Some(host_of(value).ok_or_else(|| bad_host(value))?),
            header::ORIGIN => has_origin = true,
            header::TRANSFER_ENCODING => chunked_alone(value)?,
            header::CONTENT_ENCODING => not_encoded(value)?,
            header::EXPECT if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                return Err(invalid("header expect: slotd supports 100-continue only"));
            }
            // Applying it anyway would do what its sender excluded.
            header::IF_MATCH | header::IF_NONE_MATCH | header::IF_UNMODIFIED_SINCE if changes => {
                return Err(invalid(format!(
                    "header {name}: slotd does not support conditional writes"
                )));
            }
            header::CONTENT_RANGE if changes => {
                return Err(invalid("header content-range: slotd does not accept partial bodies"));
            }
            _ => {}
        }
    }
    if headers.keys_len() != headers.len() {
        once_each(headers)?;
    }
    if host.is_none() && version >= Version::HTTP_11 {
        return Err(invalid(
            "header host is missing; HTTP/1.1 requires it, or HTTP/2 its :authority",
        ));
    }
    if let Some(authority) = uri.authority()
        && *method != Method::CONNECT
    {
        // A proxy before slotd may use one, and slotd the other.
        let same = headers
            .get(header::HOST)
            .is_none_or(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()));
        if !same {
            return Err(invalid("the request target and header host name different hosts"));
        }
        let known = host_in(authority.as_str());
        host = Some(known.ok_or_else(|| invalid("the request target has an invalid host"))?);
    }
    if has_body && matches!(*method, Method::GET | Method::HEAD | Method::DELETE) {
        return Err(invalid(format!("{method} takes no body")));
    }
    Ok(Head { host, has_origin })
}

fn bad_host(value: &HeaderValue) -> Error {
    invalid(format!("header host is {value:?}, which is not HOST or HOST:PORT"))
}

/// A field that two readers could interpret differently if it were repeated.
fn once_each(headers: &HeaderMap) -> Result<(), Error> {
    static ONCE: [HeaderName; 8] = [
        header::HOST,
        header::ORIGIN,
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
    ];
    for name in ONCE.iter().chain(&super::params::ONCE) {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(invalid(format!("header {name} is given twice")));
        }
    }
    Ok(())
}

fn chunked_alone(value: &HeaderValue) -> Result<(), Error> {
    match value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        true => Ok(()),
        false => Err(Error::new(
            Code::TransferUnsupported,
            format!("header transfer-encoding is {value:?}; slotd supports chunked only"),
        )),
    }
}

fn not_encoded(value: &HeaderValue) -> Result<(), Error> {
    let value_bytes = value.as_bytes().trim_ascii();
    match value_bytes.is_empty() || value_bytes.eq_ignore_ascii_case(b"identity") {
        true => Ok(()),
        false => Err(Error::new(
            Code::EncodingUnsupported,
            format!(
                "header content-encoding is {value:?}: slotd does not decode bodies; send it \
                 unencoded"
            ),
        )),
    }
}

/// The host of an authority `HOST[:PORT]`, without the port; `None` if it is invalid.
pub(super) fn host_in(authority: &str) -> Option<&str> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (address, rest) = inner.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, rest)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest {
        "" | ":" => true,
        _ => rest.strip_prefix(':').is_some_and(|port| {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        }),
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:".contains(&b);
    (port && host.bytes().all(good)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it the rest of a name could be read as a port, and a public name as a local one.
    #[test]
    fn a_host_is_read_whole_or_not_at_all() {
        for (authority, host) in [
            ("localhost", Some("localhost")),
            ("localhost:", Some("localhost")),
            ("a.b:65535", Some("a.b")),
            ("[::1]", Some("::1")),
            ("[::1]:7070", Some("::1")),
            ("", Some("")),
            ("localhost:x.evil.example", None),
            ("localhost:65536", None),
            ("localhost:+1", None),
            ("localhost:1:2", None),
            ("[::1].evil.example", None),
            ("[::1]7070", None),
            ("[::1", None),
            ("[evil.example]", None),
            ("::1", None),
            ("user@localhost", None),
            ("a b", None),
            ("a/b", None),
            ("a?b", None),
        ] {
            assert_eq!(host_in(authority), host, "{authority:?}");
        }
    }
}
