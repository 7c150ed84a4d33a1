//! What the client's errors mean.

use crate::{
    limits,
    outcome::{Failure, Kind},
    resolve::AddressRefused,
};
use rustls::CertificateError;
use std::{error::Error, io};

/// What hyper says of headers that it has no room for. It has no kind that can be asked for from here.
const HEAD_TOO_LARGE: &str = "message head is too large";

/// What it means that a request to this host ended so.
pub(crate) fn failure(error: &reqwest::Error, host: &str) -> Failure {
    if let Some(AddressRefused(reason)) = find(error) {
        return Failure::refused(reason);
    }
    let last = last(error);
    if let Some(tls) = find::<rustls::Error>(error) {
        let reason = format!("TLS with {host}: {tls}");
        return Failure { may_retry: tls_may_retry(tls), ..Failure::new(Kind::Tls, reason) };
    }
    if error.is_connect() && error.is_timeout() {
        let seconds = limits::CONNECT_TIMEOUT.as_secs();
        let reason = format!("no connection to {host} within {seconds} s");
        return Failure::new(Kind::Connect, reason);
    }
    if error.is_dns() {
        return Failure::new(Kind::Dns, format!("{host} was not found: {last}"));
    }
    if error.is_connect() {
        return Failure::new(Kind::Connect, format!("no connection to {host}: {last}"));
    }
    if last == HEAD_TOO_LARGE {
        return Failure::new(Kind::TooLarge, format!("the headers of {host} are too large"));
    }
    if error.is_decode() {
        let reason =
            format!("the answer of {host} could not be decompressed, or was cut short: {last}");
        return Failure::new(Kind::Protocol, reason);
    }
    if error.is_builder() {
        return Failure::invalid(format!("the request can't be written: {last}"));
    }
    Failure::new(Kind::Protocol, format!("the connection to {host} failed: {last}"))
}

/// A certificate that is too old or too new may be right later, and a broken handshake may succeed. A certificate
/// that is another's, or nobody's who is trusted, stays so until an operator changes it.
fn tls_may_retry(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(certificate) => matches!(
            certificate,
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ),
        _ => true,
    }
}

/// The error of this type that is the cause, or within it.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An error within one of the system's is no source of it.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = within.and_then(|within| find(within)) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The first cause: those above it say the same less exactly, and the topmost has the URL.
fn last(error: &reqwest::Error) -> String {
    let mut last: Option<&(dyn Error + 'static)> = error.source();
    while let Some(source) = last.and_then(Error::source) {
        last = Some(source);
    }
    last.map_or_else(|| "no reason is known".to_owned(), ToString::to_string)
}
