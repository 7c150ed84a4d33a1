//! JWTs of issuers.

use crate::{
    claim::{self, Claim, Claims},
    identity::{Identity, Kind, is_subject},
    keys::{KeySet, Remote},
    limits,
    policy::{Issuer, KeySource},
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
    Valid(Payload),
    /// No key of the set is the token's.
    NoKey,
    Wrong(Refused),
}

/// Checks a token of this issuer. `is_final`: keys have been fetched for it just now.
pub(crate) fn check(
    issuer: &Issuer,
    token: &[u8],
    now_ms: u64,
    epoch: u64,
    is_final: bool,
) -> Step {
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
        Checked::Valid(payload) => payload.identity(issuer, now_ms, epoch),
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
            match self.decode(key) {
                Ok(payload) => return Checked::Valid(payload),
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
    fn identity(mut self, issuer: &Issuer, now_ms: u64, epoch: u64) -> Result<Identity, Refused> {
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
        let subject = self.text("sub")?.filter(|subject| is_subject(subject)).map(str::to_owned);
        let Some(subject) = subject else {
            let max = limits::SUBJECT_BYTES_MAX;
            let what = format_args!(
                "the token has no `sub` of 1 to {max} bytes without control characters"
            );
            return Err(wrong(what));
        };
        let mut claims = Claims::new();
        for name in &issuer.claims {
            if let Some(claim) = self.0.remove(name).and_then(Claim::of) {
                claims.insert(name.clone(), claim);
            }
        }
        claim::check(&claims).map_err(Refused::unauthorized)?;
        let kind = Kind::Issuer(Arc::clone(&issuer.name));
        let mut identity = Identity::new(kind, Some(&subject), epoch).with_claims(claims);
        identity.expires_ms = Some(expires_ms);
        Ok(identity)
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
