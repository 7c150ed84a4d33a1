//! Who a client was shown to be.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The identity of a client, as messages are kept with it and handlers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// How it was shown: `token`, the name of an issuer, `session`, ...
    pub kind: Arc<str>,
    /// Who it is among those of its kind; `None`: nobody in particular.
    pub subject: Option<Arc<str>>,
    /// What is said of it besides, in the order of their names.
    pub claims: Vec<(String, String)>,
}

impl Client {
    /// # Errors
    /// Why it can't be kept, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        let says = |what: &str, max: usize, has: usize| {
            Err(format!("{what} at most {max}; this one has {has}"))
        };
        if self.kind.is_empty() {
            return Err("an identity has a kind".into());
        }
        let subject = self.subject.as_deref().unwrap_or_default().len();
        if subject > limits::CLIENT_SUBJECT_BYTES_MAX {
            return says(
                "bytes of an identity's subject:",
                limits::CLIENT_SUBJECT_BYTES_MAX,
                subject,
            );
        }
        if self.claims.len() > limits::CLIENT_CLAIMS_MAX {
            return says("claims of an identity:", limits::CLIENT_CLAIMS_MAX, self.claims.len());
        }
        if !self.claims.is_sorted_by(|(one, _), (next, _)| one < next) {
            return Err("an identity's claims are in the order of their names, each once".into());
        }
        match self.bytes() {
            bytes if bytes > limits::CLIENT_BYTES_MAX => {
                says("bytes of an identity with all its claims:", limits::CLIENT_BYTES_MAX, bytes)
            }
            _ => Ok(()),
        }
    }

    /// The same one, whatever is said of it: claims change with each token.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.kind, &self.subject) == (&other.kind, &other.subject)
    }

    /// What tells it from others in the keys of rows. It is on disks.
    pub(crate) fn scope(&self) -> u128 {
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        hasher.update(self.kind.as_bytes());
        // What is nobody in particular has no subject, and an empty one is another.
        hasher.update(&[0, u8::from(self.subject.is_some())]);
        hasher.update(self.subject.as_deref().unwrap_or_default().as_bytes());
        hasher.digest128()
    }

    /// Of all of its texts.
    pub fn bytes(&self) -> usize {
        let claims = self.claims.iter().map(|(name, value)| name.len() + value.len());
        self.kind.len() + self.subject.as_deref().map_or(0, str::len) + claims.sum::<usize>()
    }

    /// Memory that it takes, about.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.claims.len() * size_of::<(String, String)>() + self.bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        level::IDENTITY_FROM,
        message::{Consistency, Incoming},
        names::SessionKey,
        operation::{Operation as _, Query},
    };
    use bytes::Bytes;

    fn client(subject: &str, claims: &[(&str, &str)]) -> Client {
        let claims = claims.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let subject = Some(subject.into());
        Client { kind: "token".into(), subject, claims: claims.collect() }
    }

    /// With another number after an update, a repeat would be applied again.
    #[test]
    fn the_scope_of_an_identity_stays_as_it_is_on_disks() {
        let scope = |kind: &str, subject: Option<&str>| {
            let subject = subject.map(Into::into);
            format!("{:032x}", Client { kind: kind.into(), subject, claims: vec![] }.scope())
        };
        assert_eq!(scope("accounts", Some("ann")), "0a12932c2e527e290bb3604fc703930d");
        assert_eq!(scope("root", None), "8d65563146ad405059a822e467aa065f");
        assert_ne!(scope("root", None), scope("root", Some("")));
        assert_ne!(scope("a", Some("nn")), scope("an", Some("n")));
        let claims = vec![("role".into(), "staff".into())];
        let ann = Client { claims, ..client("ann", &[]) };
        assert_eq!(ann.scope(), client("ann", &[]).scope(), "claims change with each token");
    }

    /// What is kept with each message has to be bounded, whoever has made the identity.
    #[test]
    fn an_identity_has_its_bounds() {
        let subject = "s".repeat(limits::CLIENT_SUBJECT_BYTES_MAX);
        let names: Vec<_> = (0..=limits::CLIENT_CLAIMS_MAX).map(|n| format!("{n:02}")).collect();
        let claims: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
        let most = &claims[..limits::CLIENT_CLAIMS_MAX];
        assert_eq!(client(&subject, most).check(), Ok(()));
        assert_eq!(Client { subject: None, ..client("", &[]) }.check(), Ok(()));
        let large = "v".repeat(limits::CLIENT_BYTES_MAX);
        for (wrong, why) in [
            (client(&format!("{subject}s"), &[]), "subject"),
            (client("s", &claims), "claims of an identity"),
            (client("s", &[("name", &large)]), "with all its claims"),
            (client("s", &[("b", ""), ("a", "")]), "order"),
            (client("s", &[("a", "1"), ("a", "2")]), "each once"),
            (Client { kind: "".into(), ..client("s", &[]) }, "has a kind"),
        ] {
            let said = wrong.check().unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    /// A node of the version before could not read it, in a cluster that is upgraded.
    #[test]
    fn an_identity_goes_nowhere_below_its_level() {
        let client = Some(Arc::new(client("ann", &[])));
        let (content_type, body) = ("t".to_owned(), Bytes::new());
        let (key, consistency) = (SessionKey::parse("s", "x").unwrap(), Consistency::Current);
        for (level, expected) in [(IDENTITY_FROM - 1, &None), (IDENTITY_FROM, &client)] {
            let message = Incoming {
                id: None,
                sender: None,
                content_type: content_type.clone(),
                body: body.clone(),
                trace: None,
                client: client.clone(),
            };
            let query = Query {
                key: key.clone(),
                content_type: content_type.clone(),
                body: body.clone(),
                consistency,
                client: client.clone(),
            };
            assert_eq!(message.at_level(level).client, *expected);
            assert_eq!(query.at_level(level).client, *expected);
        }
    }
}
