//! Who asks, and whether they may: what both listeners check each request by, over [`Access`].
//!
//! What is found out is kept with the connection, for the very bytes that were shown and for one epoch of [`Access`]: a
//! further message costs a comparison and a relaxed load, and nothing that all threads share is written
//! ([`Gate::message`]). Sockets and event streams, which stay open, look again when they are told to ([`standing`]).

pub(super) mod cors;
pub(super) mod mint;
mod rights;
pub(super) mod standing;
pub(super) mod tokens;
mod who;

pub(super) use self::{
    rights::{Need, Part, Rights, Routes, Target, needs, public},
    who::{Admitted, Known, Who},
};

use self::cors::Verdict;
use super::{
    auth,
    connection::ConnShared,
    messages::{Deadline, body_late, read_body},
    params,
};
use crate::{
    buffers::{Buffers, Charge, Kind as BufferKind},
    clock::now_ms,
    error::{Code, Error},
    limits,
    telemetry::metrics,
    text::clip,
};
use axum::body::Body;
use http::{HeaderMap, Uri};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use slotd_access::{Access, Identity, Listener, On, Refused, RefusedKind, Verb};
use std::{pin::pin, sync::Arc, time::Duration};

/// What one listener checks requests by. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

struct Inner {
    access: Access,
    listener: Listener,
    /// A certificate would do, too.
    certificates: bool,
    /// What all have in common who show nothing, in the epoch in which it was made.
    nobody: RwLock<Option<Arc<Who>>>,
}

impl Gate {
    pub(super) fn new(access: Access, listener: Listener, certificates: bool) -> Self {
        Self(Arc::new(Inner { access, listener, certificates, nobody: RwLock::new(None) }))
    }
    pub(super) fn access(&self) -> &Access {
        &self.0.access
    }
    pub(super) fn epoch(&self) -> u64 {
        self.0.access.epoch()
    }
    /// Whether anyone may do everything here.
    pub(super) fn is_open(&self) -> bool {
        self.0.access.is_open(self.0.listener)
    }

    /// Who sends a request, as far as that is shown.
    ///
    /// # Errors
    /// `unauthorized`, `token-expired`, `unavailable`: what is shown is not good.
    pub(super) async fn asked(
        &self,
        connection: Option<&ConnShared>,
        headers: &HeaderMap,
        uri: &Uri,
        query_token: bool,
    ) -> Result<Arc<Who>, Error> {
        let mut bearer = auth::bearer(headers).map(std::borrow::Cow::Borrowed);
        if bearer.is_none() && query_token {
            bearer = params::first(uri, "access_token").map(|token| token.into_bytes().into());
        }
        let known = |connection: &ConnShared| connection.known(self.epoch(), bearer.as_deref());
        let certificate = connection.and_then(ConnShared::certificate);
        // A certificate ends as others do, and its authority may be replaced.
        let is_good = |known: &Arc<Who>| !known.is_by_certificate() || certificate.is_some();
        if let Some(known) = connection.and_then(known).filter(is_good) {
            return Ok(known);
        }
        let who = self.who(bearer.as_deref(), certificate).await?;
        if let Some(connection) = connection {
            connection.remember(&who);
        }
        Ok(who)
    }

    /// Who shows this.
    ///
    /// # Errors
    /// As [`Self::asked`].
    pub(super) async fn who(
        &self,
        bearer: Option<&[u8]>,
        certificate: Option<&Arc<str>>,
    ) -> Result<Arc<Who>, Error> {
        let Inner { access, .. } = &*self.0;
        // Read first: what changes meanwhile makes the result an old one.
        let epoch = access.epoch();
        let identity = match (bearer, certificate) {
            (Some(bearer), _) => match self.identify(bearer).await {
                // An open listener never asked who it is. What was shown is not kept: it may be anything.
                Err(refused) if refused.kind == RefusedKind::Unauthorized && self.is_open() => {
                    return Ok(self.nobody(epoch));
                }
                identified => identified.map_err(|refused| counted(error_of(&refused)))?,
            },
            (None, Some(name)) => {
                access.certificate(name).map_err(|refused| counted(error_of(&refused)))?
            }
            (None, None) => return Ok(self.nobody(epoch)),
        };
        Ok(Arc::new(Who::new(epoch, bearer, certificate, identity, self.is_open())))
    }

    async fn identify(&self, bearer: &[u8]) -> Result<Identity, Refused> {
        let Inner { access, listener, .. } = &*self.0;
        match access.identify_now(*listener, bearer, now_ms()) {
            Some(identified) => identified,
            // An issuer has to be asked for its keys.
            None => Box::pin(access.identify(*listener, bearer, now_ms())).await,
        }
    }

    /// Who shows nothing.
    fn nobody(&self, epoch: u64) -> Arc<Who> {
        let known = self.0.nobody.read().clone();
        if let Some(known) = known.filter(|known| known.epoch() == epoch) {
            return known;
        }
        let identity = self.0.access.anyone();
        let who = Arc::new(Who::new(epoch, None, None, identity, self.is_open()));
        *self.0.nobody.write() = Some(who.clone());
        who
    }

    /// Whether somebody may do this, which a request to `uri` asks for.
    ///
    /// # Errors
    /// `forbidden`, or `unauthorized` for who has shown nothing; `request-invalid` for a name that does not decode.
    pub(super) fn check(&self, who: &Who, verb: Verb, part: Part, uri: &Uri) -> Result<(), Error> {
        if who.may_do_all() {
            return Ok(());
        }
        match Target::of(part, uri) {
            Ok(target) => self.allows(who, verb, target.on()),
            Err(_) if who.is_nobody() => Err(self.shown_nothing()),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// `forbidden`, or `unauthorized` for who has shown nothing.
    pub(super) fn allows(&self, who: &Who, verb: Verb, on: On<'_>) -> Result<(), Error> {
        let Inner { access, listener, .. } = &*self.0;
        if who.may_do_all() {
            return Ok(());
        }
        let allowed = access.allows(*listener, who.identity(), verb, on);
        match allowed.map_err(|refused| error_of(&refused)) {
            Err(_) if who.is_nobody() => Err(self.shown_nothing()),
            allowed => allowed.map_err(counted),
        }
    }

    /// As [`Self::allows`], of what is not asked for yet.
    pub(super) fn may(&self, who: &Who, verb: Verb, on: On<'_>) -> bool {
        let Inner { access, listener, .. } = &*self.0;
        who.may_do_all() || access.allows(*listener, who.identity(), verb, on).is_ok()
    }

    /// Who has shown nothing, where that is not enough.
    pub(super) fn shown_nothing(&self) -> Error {
        let needed = match self.0.certificates {
            true => {
                "this listener requires `Authorization: Bearer <token>`, or a client certificate"
            }
            false => "this listener requires `Authorization: Bearer <token>`",
        };
        counted(Error::new(Code::Unauthorized, needed))
    }

    /// Who shows nothing has the rights of everybody who can reach the listener: a web page that its visitor's browser
    /// lets reach it is not meant, unless the policy names its origin. A socket is not bound to one origin by its
    /// browser, so the policy's list counts for whoever opens one.
    ///
    /// # Errors
    /// `origin-refused`.
    pub(super) fn check_origin(
        &self,
        connection: Option<&ConnShared>,
        who: &Who,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<(), Error> {
        let shows_nothing = who.is_nobody() || who.is_by_certificate();
        // A page whose own name was made to resolve to loopback says so with each request, and no origin with some.
        if shows_nothing && connection.is_some_and(|connection| connection.local_only) {
            auth::check_named_locally(headers).map_err(counted)?;
        }
        let Some(Verdict::Other { listed }) = self.verdict(headers, uri) else { return Ok(()) };
        // A browser shows its certificate for any page, without being asked by it.
        if shows_nothing {
            return Err(counted(auth::other_origin()));
        }
        if listed && is_socket(uri.path()) {
            return Err(counted(Error::new(
                Code::OriginRefused,
                "the policy's `origins` of this service do not name the page's origin",
            )));
        }
        Ok(())
    }

    /// Whether a message may be sent, and in whose name. Where the last one of its connection was of the same sender to
    /// the same session (for who may do everything: service), it only compares.
    ///
    /// # Errors
    /// As [`Self::asked`], [`Self::check_origin`] and [`Self::allows`].
    pub(super) async fn message(
        &self,
        connection: &ConnShared,
        headers: &HeaderMap,
        uri: &Uri,
        names: (&str, &str),
        has_origin: bool,
    ) -> Result<Admitted, Error> {
        let bearer = auth::bearer(headers);
        let known = connection.known_message(self.epoch(), bearer, names);
        match known {
            Some(admitted) if !has_origin => Ok(admitted),
            // Boxed, so that the future of a message stays small.
            _ => Box::pin(self.message_anew(connection, headers, uri, names)).await,
        }
    }

    async fn message_anew(
        &self,
        connection: &ConnShared,
        headers: &HeaderMap,
        uri: &Uri,
        (service, session): (&str, &str),
    ) -> Result<Admitted, Error> {
        let who = self.asked(Some(connection), headers, uri, false).await?;
        self.check_origin(Some(connection), &who, headers, uri)?;
        self.check(&who, Verb::Send, Part::Session, uri)?;
        let admitted = self.admitted(&who, &params::decode(service, "service name")?);
        connection.remember_message(&who, (service, session), &admitted);
        Ok(admitted)
    }

    /// In whose name somebody sends to a service.
    pub(super) fn admitted(&self, who: &Who, service: &str) -> Admitted {
        who.admitted(self.0.access.policy().service(service).sender)
    }
}

/// `/v1/services/{service}/sessions/{session}/socket`.
fn is_socket(path: &str) -> bool {
    path.ends_with("/socket") && path.split('/').count() == 7
}

/// A refusal as clients see it.
pub(super) fn error_of(refused: &Refused) -> Error {
    let code = match refused.kind {
        RefusedKind::Unauthorized => Code::Unauthorized,
        RefusedKind::Expired => Code::TokenExpired,
        RefusedKind::Forbidden => Code::Forbidden,
        RefusedKind::Invalid => Code::RequestInvalid,
        RefusedKind::Unavailable => Code::Unavailable,
    };
    Error::new(code, refused.detail.clone())
}

/// Counts a refusal, by its kind.
fn counted(error: Error) -> Error {
    let metrics = metrics();
    let counter = match error.code {
        Code::Unauthorized => &metrics.access_unauthorized,
        Code::TokenExpired => &metrics.access_expired,
        Code::Forbidden => &metrics.access_forbidden,
        Code::OriginRefused => &metrics.access_origin,
        _ => &metrics.access_unavailable,
    };
    counter.increment(1);
    error
}

/// A request's body as JSON.
///
/// # Errors
/// As `read_body`; `request-invalid`.
pub(super) async fn body<T: DeserializeOwned>(
    body: Body,
    buffers: &Arc<Buffers>,
    deadline: &Deadline<'_>,
) -> Result<T, Error> {
    let mut room = Charge::new(&**buffers, BufferKind::Bodies);
    let read = read_body(body, limits::ACCESS_BODY_BYTES_MAX, &mut room);
    let body = deadline.limit(pin!(read)).await.unwrap_or_else(|| Err(body_late()))?;
    parse(&body)
}

/// # Errors
/// `request-invalid` with the field that is wrong, and never with a value, which may be a token.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let mut from = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut from);
    let wrong = |field: Option<String>, error: &serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        let said = error.to_string();
        let what = match field.filter(|field| error.is_data() && field != ".") {
            // With the name of the field, which serde puts first.
            _ if said.starts_with("missing field `") => {
                said.split(" at line").next().map(str::to_owned)
            }
            Some(field) if said.starts_with("unknown field `") => Some(format!(
                "{:?} is no field of it",
                clip(field.into(), limits::FIELD_SHOWN_BYTES)
            )),
            Some(field) => Some(format!(
                "the value of {:?} is not of its type",
                clip(field.into(), limits::FIELD_SHOWN_BYTES)
            )),
            None => None,
        };
        let what = what.unwrap_or_else(|| "it is not such JSON".to_owned());
        params::invalid(format!(
            "the body is not what this route takes: {what} (at line {line}, column {column}); see /openapi.json"
        ))
    };
    let parsed = parsed.map_err(|error| wrong(Some(error.path().to_string()), error.inner()))?;
    from.end().map_err(|error| wrong(None, &error))?;
    Ok(parsed)
}

/// How long something lives.
fn ttl(given: Option<&str>, min: Duration, max: Duration) -> Result<Option<Duration>, Error> {
    let Some(given) = given else { return Ok(None) };
    match slotd_access::duration::parse(given) {
        Some(ttl) if (min..=max).contains(&ttl) => Ok(Some(ttl)),
        _ => Err(params::invalid(format!(
            "\"ttl\" is {given:?}; it must be a time such as 10m or 30d, from {} s to {} s",
            min.as_secs(),
            max.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Asked {
        name: String,
        #[serde(default)]
        allow: Vec<String>,
    }

    /// Whoever gets it wrong looks for a column in what a program wrote; and a token in the wrong place must not be in the
    /// answer.
    #[test]
    fn a_body_that_is_wrong_is_refused_by_the_name_of_the_field() {
        let told = |body: &str| parse::<Asked>(body.as_bytes()).unwrap_err().detail.into_owned();
        for (body, wanted) in [
            (r#"{"allow": []}"#, "missing field `name`"),
            (r#"{"name": "a", "alow": ["send"]}"#, r#""alow" is no field of it"#),
            (r#"{"name": ["s3cret"]}"#, r#"the value of "name" is not of its type"#),
            (r#"{"name": "a", "allow": ["send", 7]}"#, r#"the value of "allow[1]" is not"#),
            (r#"{"name": "a", "allow": "s3cret"}"#, r#"the value of "allow" is not of its type"#),
            (r#"{"name": "a"} s3cret"#, "it is not such JSON (at line 1"),
            (r#""s3cret""#, "it is not such JSON"),
            ("{", "it is not such JSON"),
        ] {
            let told = told(body);
            assert!(told.contains(wanted) && !told.contains("s3cret"), "{body}: {told}");
        }
        assert!(told(&format!(r#"{{"{}": 1}}"#, "x".repeat(9_000))).len() < 400);
        assert!(parse::<Asked>(br#"{"name": "a"}"#).is_ok());
    }
}
