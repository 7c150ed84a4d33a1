//! JWTs of issuers.

use crate::{
    claim::{self, Claim, Claims},
    identity::{Identity, Kind, is_subject},
    keys::{KeySet, Remote},
    limits, minted,
    policy::{Issuer, KeySource, Policy},
    refused::Refused,
};
use jsonwebtoken::{DecodingKey, Header, Validation, dangerous, errors::ErrorKind};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};
use std::{fmt, sync::Arc};

/// A JWT is decided, or keys have to be fetched first.
pub(crate) enum Step {
    Done(Result<Identity, Refused>),
    Fetch(Arc<Remote>),
}

/// What is needed of a token to know whose keys check it. Nothing of it is believed.
#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

/// Who a token says that it is of, before anything is checked.
pub(crate) fn issuer_of(token: &[u8]) -> Option<String> {
    dangerous::insecure_decode_claims::<Unverified>(token).ok().map(|it| it.iss)
}

/// A token as it was read, before its signature is checked.
struct Token<'t> {
    text: &'t [u8],
    header: Header,
}

/// Whether a key was found, and what it says.
enum Checked {
    /// By the key of this fingerprint.
    Valid(Payload, Box<str>),
    /// No key of the set is the token's.
    NoKey,
    Wrong(Refused),
}

/// Checks a token of this issuer. `is_final`: keys have been fetched for it just now.
pub(crate) fn check(issuer: &Issuer, token: &[u8], now_ms: u64, is_final: bool) -> Step {
    let token = match Token::read(issuer, token) {
        Ok(token) => token,
        Err(refused) => return Step::Done(Err(refused)),
    };
    let unknown =
        || Refused::unauthorized("the token is signed with a key that its issuer does not have");
    let checked = match &issuer.keys {
        KeySource::File(set) => token.check(set),
        KeySource::Url(remote) => {
            let look = remote.look(now_ms);
            let fetch = || Step::Fetch(Arc::clone(remote));
            let unavailable = |error: Option<String>| {
                let why = error.unwrap_or_else(|| "they were not fetched yet".to_owned());
                let what =
                    format_args!("the keys of the issuer {} can't be fetched: {why}", issuer.name);
                Step::Done(Err(Refused::unavailable(what)))
            };
            let may_fetch = look.can_fetch && !is_final;
            let Some(set) = look.set else {
                return if may_fetch { fetch() } else { unavailable(look.error) };
            };
            if look.is_stale && may_fetch {
                return fetch();
            }
            match token.check(&set) {
                Checked::NoKey if may_fetch => return fetch(),
                // Whether there is such a key by now is not known.
                Checked::NoKey if look.error.is_some() => return unavailable(look.error),
                checked => checked,
            }
        }
    };
    Step::Done(match checked {
        Checked::Valid(payload, key) => payload.identity(issuer, now_ms).map(|mut identity| {
            identity.key = Some(key);
            identity
        }),
        Checked::NoKey => Err(unknown()),
        Checked::Wrong(refused) => Err(refused),
    })
}

impl<'t> Token<'t> {
    fn read(issuer: &Issuer, text: &'t [u8]) -> Result<Self, Refused> {
        let header = jsonwebtoken::decode_header(text).map_err(|_| {
            Refused::unauthorized("the token's header is not one, or its `alg` is not known")
        })?;
        // Nothing that could be critical is known here.
        if header.crit.is_some() {
            return Err(Refused::unauthorized(
                "the token's header has `crit`, which is not supported",
            ));
        }
        if !issuer.algorithms.contains(&header.alg) {
            let what =
                format_args!("the issuer {} does not sign with {:?}", issuer.name, header.alg);
            return Err(Refused::unauthorized(what));
        }
        Ok(Self { text, header })
    }

    fn check(&self, set: &KeySet) -> Checked {
        let id = self.header.kid.as_deref();
        let mut is_tried = false;
        for key in set.of(id, self.header.alg) {
            is_tried = true;
            match self.decode(&key.key) {
                Ok(payload) => return Checked::Valid(payload, key.fingerprint.clone()),
                Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => {
                    let what = "the token's claims are not ones: an object, without duplicates, and with times in numbers";
                    return Checked::Wrong(Refused::unauthorized(what));
                }
                Err(_) => {}
            }
        }
        match id {
            Some(_) if is_tried => {
                Checked::Wrong(Refused::unauthorized("the token's signature is wrong"))
            }
            _ => Checked::NoKey,
        }
    }

    fn decode(&self, key: &DecodingKey) -> Result<Payload, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(self.header.alg);
        // All of them are looked at below: by the caller's clock, and so that each fault is named.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Payload>(self.text, key, &validation).map(|token| token.claims)
    }
}

/// All claims of a token. That a name comes twice is an error: readers differ in which of the two they take.
struct Payload(Map<String, Value>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = Map<String, Value>;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = entries.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a claim comes twice"));
                    }
                }
                Ok(map)
            }
        }
        from.deserialize_map(Unique).map(Self)
    }
}

impl Payload {
    fn identity(self, issuer: &Issuer, now_ms: u64) -> Result<Identity, Refused> {
        let wrong = |what: fmt::Arguments<'_>| Refused::unauthorized(what);
        if self.text("iss")? != Some(&issuer.issuer) {
            return Err(wrong(format_args!("the token is of another issuer")));
        }
        if !self.is_for(&issuer.audience)? {
            return Err(wrong(format_args!("the token is for another audience")));
        }
        let Some(exp_ms) = self.time("exp")? else {
            return Err(wrong(format_args!("the token has no `exp`")));
        };
        let expires_ms = exp_ms.saturating_add(issuer.skew_ms);
        if expires_ms <= now_ms {
            return Err(Refused::expired());
        }
        for claim in ["nbf", "iat"] {
            if self.time(claim)?.is_some_and(|from| from > now_ms.saturating_add(issuer.skew_ms)) {
                return Err(wrong(format_args!("the token is not valid yet by its `{claim}`")));
            }
        }
        let from = &*issuer.subject;
        // Anybody can register an address that is not his.
        let is_doubted =
            from == "email" && self.0.get("email_verified").is_some_and(|it| *it != true);
        if is_doubted {
            return Err(wrong(format_args!("the token's `email` is not verified")));
        }
        let Some(subject) = self.claim(from).and_then(Value::as_str).filter(|it| is_subject(it))
        else {
            let max = limits::SUBJECT_BYTES_MAX;
            let what = format_args!(
                "the token has no `{from}` of 1 to {max} bytes without control characters"
            );
            return Err(wrong(what));
        };
        let subject = subject.to_owned();
        let mut claims = Claims::new();
        for name in &issuer.claims {
            if let Some(claim) = self.claim(name).cloned().and_then(Claim::of) {
                claims.insert(name.clone(), claim);
            }
        }
        claim::check(&claims).map_err(Refused::unauthorized)?;
        let kind = Kind::Issuer(Arc::clone(&issuer.name));
        let mut identity = Identity::new(kind, Some(&subject)).with_claims(claims);
        identity.expires_ms = Some(expires_ms);
        Ok(identity)
    }

    /// A claim by its name, or by the names on the way to it, between dots: names of claims may have dots themselves.
    fn claim(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let mut parts = name.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => {
                Err(Refused::unauthorized(format_args!("the token's `{name}` is not a text")))
            }
        }
    }

    /// Milliseconds since 1970. Fractions of a second are allowed (RFC 7519), other things than numbers are not.
    fn time(&self, name: &str) -> Result<Option<u64>, Refused> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|it| (0.0..=limits::TIME_MAX as f64).contains(it));
        match seconds {
            // Within what both can hold exactly enough.
            Some(seconds) => Ok(Some((seconds * 1000.0) as u64)),
            None => Err(Refused::unauthorized(format_args!(
                "the token's `{name}` is not a time in seconds"
            ))),
        }
    }

    fn is_for(&self, audience: &[String]) -> Result<bool, Refused> {
        let is_one = |text: &str| audience.iter().any(|it| it == text);
        match self.0.get("aud") {
            None => Ok(false),
            Some(Value::String(text)) => Ok(is_one(text)),
            Some(Value::Array(texts)) if texts.iter().all(Value::is_string) => {
                Ok(texts.iter().filter_map(Value::as_str).any(is_one))
            }
            Some(_) => {
                Err(Refused::unauthorized("the token's `aud` is not a text or a list of texts"))
            }
        }
    }
}

/// What a token says of itself, and what its issuer's table takes: for an operator who asks why it is refused. Nothing of
/// it is checked. `None`: it is no JWT.
pub(crate) fn described(policy: &Policy, token: &[u8]) -> Option<String> {
    let header = jsonwebtoken::decode_header(token);
    let Payload(claims) = dangerous::insecure_decode_claims(token).ok()?;
    let shown = |name: &str| claims.get(name).map_or_else(|| "none".to_owned(), short);
    let (alg, kid) = match &header {
        Ok(header) => (format!("{:?}", header.alg), header.kid.clone()),
        Err(_) => ("one that is not known".to_owned(), None),
    };
    let kid = kid.map_or_else(|| "none".to_owned(), |kid| short(&kid.into()));
    let (iss, aud) = (shown("iss"), shown("aud"));
    let has = format!("it has `iss` {iss}, `aud` {aud}, `alg` {alg}, `kid` {kid}");
    if claims.get("iss").and_then(Value::as_str) == Some(minted::ISSUER) {
        return Some(has);
    }
    let is_it = |it: &&Arc<Issuer>| claims.get("iss").and_then(Value::as_str) == Some(&it.issuer);
    let Some(issuer) = policy.issuers.iter().find(is_it) else {
        let known: Vec<_> = policy.issuers.iter().map(|it| it.issuer.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Some(format!("{has}; the policy has the issuers: {known}"));
    };
    let keys = match &issuer.keys {
        KeySource::File(set) => names(set),
        KeySource::Url(remote) => {
            remote.known().map_or_else(|| "not fetched".to_owned(), |it| names(&it))
        }
    };
    let algorithms: Vec<_> = issuer.algorithms.iter().map(|it| format!("{it:?}")).collect();
    let (name, audience, algorithms) =
        (&issuer.name, issuer.audience.join(", "), algorithms.join(", "));
    Some(format!(
        "{has}; the issuer {name} takes the audiences {audience}, the algorithms {algorithms}, and its keys are: {keys}"
    ))
}

fn names(set: &KeySet) -> String {
    set.names().collect::<Vec<_>>().join(", ")
}

/// A claim for a person.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(limits::CLAIM_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
