//! One fetch of an issuer's keys: bounded in time and bytes, without redirects.

use super::{super::KeySet, RemoteKeys};
use crate::{clock, limits};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, CACHE_CONTROL, HeaderMap},
    redirect, retry,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// Keys, and how long they may be kept.
pub(super) struct Fetched {
    pub(super) set: KeySet,
    pub(super) kept: Duration,
}

pub(super) struct Fetcher(Client);

/// Whether it may be fetched: by https, or from this machine. It has no credentials: they would be shown in errors.
pub(crate) fn is_fetchable(url: &Url) -> bool {
    let is_plain = url.username().is_empty() && url.password().is_none();
    let host = url.host_str().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_loopback = bare == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_plain
        && !host.is_empty()
        && (url.scheme() == "https" || url.scheme() == "http" && is_loopback)
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    pub(super) fn new(keys: &RemoteKeys, roots: Option<&[u8]>) -> Result<Self, String> {
        let tls = tls(keys, roots)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            // What is bounded are the bytes that are kept.
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .user_agent(concat!("slotd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits::KEYS_CONNECT_TIMEOUT)
            // Fetches are rare, and may be on different runtimes: a connection belongs to one.
            .pool_max_idle_per_host(0)
            .build();
        client.map(Self).map_err(|error| format!("the HTTP client: {error}"))
    }

    pub(super) async fn fetch(&self, keys: &RemoteKeys) -> Result<Fetched, String> {
        let all = async {
            match keys {
                RemoteKeys::At(url) => self.keys(url.clone()).await,
                RemoteKeys::Discovered { from, issuer } => {
                    let (_, body) = self.get(from.clone()).await?;
                    let found: Discovery = serde_json::from_slice(&body)
                        .map_err(|_| "the discovery document is not one".to_owned())?;
                    if found.issuer != *issuer {
                        return Err("the discovery document is of another issuer".to_owned());
                    }
                    let url = Url::parse(&found.jwks_uri).ok().filter(is_fetchable);
                    let url =
                        url.ok_or("`jwks_uri` of the discovery document is no URL of https")?;
                    self.keys(url).await
                }
            }
        };
        let seconds = limits::KEYS_FETCH_TIMEOUT.as_secs();
        let late = |_| Err(format!("no answer within {seconds} s"));
        clock::within(limits::KEYS_FETCH_TIMEOUT, all).await.unwrap_or_else(late)
    }

    async fn keys(&self, url: Url) -> Result<Fetched, String> {
        let (headers, body) = self.get(url).await?;
        let set = KeySet::parse(&body).map_err(|error| error.to_string())?;
        Ok(Fetched { set, kept: kept(&headers) })
    }

    async fn get(&self, url: Url) -> Result<(HeaderMap, Vec<u8>), String> {
        let asked = self.0.get(url).header(ACCEPT, "application/json").send().await;
        let mut answer: Response = asked.map_err(|error| cause(&error))?;
        match answer.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err("the answer is a redirect, which is not followed".to_owned());
            }
            status => return Err(format!("the answer has the status {}", status.as_u16())),
        }
        let headers = answer.headers().clone();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| cause(&error))? {
            if body.len() + chunk.len() > limits::KEYS_BYTES_MAX {
                let kib = limits::KEYS_BYTES_MAX / 1024;
                return Err(format!("the answer has more than {kib} KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((headers, body))
    }
}

/// The innermost error: the others say that a request failed, and have its URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn kept(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut kept = limits::KEYS_KEPT_DEFAULT;
    for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
        let directive = directive.to_ascii_lowercase();
        if ["no-store", "no-cache"].contains(&directive.as_str()) {
            return limits::KEYS_KEPT_MIN;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            // A number that is too large for one is a long time.
            let is_number =
                !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
            if is_number {
                kept = Duration::from_secs(seconds.parse().unwrap_or(u64::MAX));
            }
        }
    }
    kept.clamp(limits::KEYS_KEPT_MIN, limits::KEYS_KEPT_MAX)
}

fn tls(keys: &RemoteKeys, roots: Option<&[u8]>) -> Result<ClientConfig, String> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let (RemoteKeys::At(url) | RemoteKeys::Discovered { from: url, .. }) = keys;
    let mut extra = Vec::new();
    for root in roots.map(CertificateDer::pem_slice_iter).into_iter().flatten() {
        extra.push(root.map_err(|error| format!("`ca_file`: {error}"))?);
    }
    if roots.is_some() && extra.is_empty() {
        return Err("`ca_file` has no certificate as PEM".to_owned());
    }
    // Whoever is asked on this machine need not have the system's roots, which may be missing.
    if url.scheme() == "http" && extra.is_empty() {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let verifier = Verifier::new_with_extra_roots(extra, provider);
    let verifier = verifier.map_err(|error| format!("the roots of TLS: {error}"))?;
    // It checks as the usual one does, with the system's roots.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}
