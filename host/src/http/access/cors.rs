//! Pages of other origins (CORS): which may use a service, and the headers that tell a browser so.
//!
//! The headers are on errors, too: without them a page learns nothing of an answer, not even its status. They say
//! nothing of who asks and what it may do: that is checked as for any other client. Without an `Origin`, nothing of
//! this is done.

use super::{
    super::{auth, params},
    Gate,
};
use crate::limits;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{self, HeaderName},
};
use slotd_access::Origins;

/// What a page may read of an answer besides its body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Slotd-Seq, Slotd-Position, Slotd-Slot, Slotd-Plugin, Slotd-Replayed, Retry-After, RateLimit, \
     RateLimit-Policy",
);
/// What a page may send.
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, slotd-sender, last-event-id, traceparent",
);
/// Every method that a route of a service has.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");

/// What is made of a request's `Origin`.
pub(in super::super) enum Verdict {
    /// The listener's own.
    Same,
    Allowed(Headers),
    /// Another one, of a service that names origins (`listed`) or does not.
    Other {
        listed: bool,
    },
}

/// What an allowed page's answers have.
pub(in super::super) struct Headers {
    /// The origin, or `*`.
    origin: HeaderValue,
    credentials: bool,
}

impl Gate {
    /// `None`: the request has no `Origin`, as those of programs.
    pub(in super::super) fn verdict(&self, headers: &HeaderMap, uri: &Uri) -> Option<Verdict> {
        let origin = headers.get(header::ORIGIN)?;
        if auth::is_same_origin(origin, headers) {
            return Some(Verdict::Same);
        }
        let Some(service) = service_of(uri) else { return Some(Verdict::Other { listed: false }) };
        let policy = self.0.access.policy();
        let service = policy.service(&service);
        let allowed = origin.to_str().is_ok_and(|origin| service.origins.allows(origin));
        Some(match (&service.origins, allowed) {
            // With credentials, a browser does not take it; a policy can't have both.
            (Origins::Any, _) if !service.credentials => Verdict::Allowed(Headers {
                origin: HeaderValue::from_static("*"),
                credentials: false,
            }),
            (_, true) => Verdict::Allowed(Headers {
                origin: origin.clone(),
                credentials: service.credentials,
            }),
            (origins, false) => {
                let listed = !matches!(origins, Origins::Only(none) if none.is_empty());
                Verdict::Other { listed }
            }
        })
    }
}

/// The answer to a browser that asks whether a page may send a request, before it sends it: without any token, as
/// browsers send none.
pub(in super::super) fn preflight<R>(
    request: &Request<R>,
    verdict: Option<&Verdict>,
) -> Option<Response<Bytes>> {
    let Some(Verdict::Allowed(_)) = verdict else { return None };
    let asks = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    asks.then(|| {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, limits::PREFLIGHT_KEPT.as_secs().into());
        response
    })
}

impl Verdict {
    /// Tells the browser, with any answer.
    pub(in super::super) fn tell(&self, headers: &mut HeaderMap) {
        match self {
            Self::Same | Self::Other { listed: false } => {}
            // What is kept of this answer is not for a page that may read it.
            Self::Other { listed: true } => vary(headers),
            Self::Allowed(Headers { origin, credentials }) => {
                if origin != "*" {
                    vary(headers);
                }
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
                if *credentials {
                    let yes = HeaderValue::from_static("true");
                    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
                }
            }
        }
    }
}

fn vary(headers: &mut HeaderMap) {
    const ORIGIN: HeaderName = header::ORIGIN;
    headers.append(header::VARY, HeaderValue::from(ORIGIN));
}

/// The service of `/v1/services/{service}/...`, as far as it is one.
fn service_of(uri: &Uri) -> Option<String> {
    let rest = uri.path().strip_prefix("/v1/services/")?;
    let name = rest.split('/').next()?;
    Some(params::decode(name, "service name").ok()?.into_owned())
}
