//! Names that come from outside, checked once at the edge, and the slot that a name belongs to.

use crate::{error::Error, limits};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// A slot's number, `0..slot_count`.
pub type SlotId = u16;

/// The name of a service: 1 to [`limits::SERVICE_NAME_BYTES_MAX`] bytes of `a-z 0-9 - _ .`,
/// starting with a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceName(Arc<str>);

/// The id of a session within its service: 1 to [`limits::SESSION_ID_BYTES_MAX`] bytes of UTF-8
/// without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(Arc<str>);

/// Whether a cluster may have this name, which is part of the names of streams, subjects and
/// buckets: 1 to [`limits::CLUSTER_NAME_BYTES_MAX`] bytes of `a-z A-Z 0-9 - _`.
pub fn is_cluster_name(name: &str) -> bool {
    (1..=limits::CLUSTER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// Whether a plugin's version may be named so: 1 to [`limits::PLUGIN_VERSION_BYTES_MAX`] bytes of
/// `a-z A-Z 0-9 . _ + -`. It stands in headers and labels.
///
/// # Errors
/// What is wrong with it.
pub fn check_plugin_version(version: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    let max = limits::PLUGIN_VERSION_BYTES_MAX;
    if (1..=max).contains(&version.len()) && version.bytes().all(allowed) {
        return Ok(());
    }
    // It may be anything that a file carries.
    let shown: String = version.chars().take(max).collect();
    Err(format!("{shown:?} is not a version: use 1 to {max} of A-Z a-z 0-9 . _ + -"))
}

/// One session of one service: the unit that a message is addressed to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey {
    pub service: ServiceName,
    pub session: SessionId,
}

impl ServiceName {
    /// # Errors
    /// `name-invalid` when the name is empty, too long or has a character outside its alphabet.
    pub fn parse(name: &str) -> Result<Self, Error> {
        if name.is_empty() || name.len() > limits::SERVICE_NAME_BYTES_MAX {
            return Err(Error::name_invalid(format!(
                "a service name must have 1 to {} bytes; this one has {}",
                limits::SERVICE_NAME_BYTES_MAX,
                name.len()
            )));
        }
        let starts_well = name.as_bytes()[0].is_ascii_alphanumeric();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if !starts_well || !name.bytes().all(allowed) {
            return Err(Error::name_invalid(format!(
                "service name {name:?}: use a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
            )));
        }
        Ok(Self(name.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SessionId {
    /// # Errors
    /// `name-invalid` when the id is empty, too long or has a control character.
    pub fn parse(id: &str) -> Result<Self, Error> {
        if id.is_empty() || id.len() > limits::SESSION_ID_BYTES_MAX {
            return Err(Error::name_invalid(format!(
                "a session id must have 1 to {} bytes; this one has {}",
                limits::SESSION_ID_BYTES_MAX,
                id.len()
            )));
        }
        if id.chars().any(char::is_control) {
            return Err(Error::name_invalid(format!("session id {id:?} has a control character")));
        }
        Ok(Self(id.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SessionKey {
    /// # Errors
    /// As [`ServiceName::parse`] and [`SessionId::parse`].
    pub fn parse(service: &str, session: &str) -> Result<Self, Error> {
        Ok(Self { service: ServiceName::parse(service)?, session: SessionId::parse(session)? })
    }

    /// The session's slot: XXH3-64 (seed 0) of `service`, a zero byte and `session`, modulo
    /// `slot_count`. Neither name can contain a zero byte, so the bytes are canonical. Pinned by a
    /// golden test: a change of this function moves every session.
    pub fn slot(&self, slot_count: u16) -> SlotId {
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        hasher.update(self.service.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(self.session.as_str().as_bytes());
        (hasher.digest() % u64::from(slot_count)) as SlotId
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.session)
    }
}
impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.session)
    }
}

/// Whether an event's kind means something to the readers of event streams whoever sends it: slotd
/// itself ends a stream with `slotd.` events, and an `EventSource` tells its page by `error` that the
/// connection broke. Handlers may not emit one; the harnesses of the SDKs say the same. (`message`
/// is what an `EventSource` calls an event without a kind, and as good as any other; its `open` does
/// no harm when it comes once more.)
pub fn is_reserved_kind(kind: &str) -> bool {
    kind == "error" || kind.starts_with("slotd.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Were the hash to change, every session would be looked for in the wrong slot.
    #[test]
    fn slots_of_known_sessions_never_move() {
        let slot = |service, session| SessionKey::parse(service, session).map(|k| k.slot(512)).ok();
        assert_eq!(
            [slot("chat", "room-17"), slot("counter", "a"), slot("counter", "ünï/cödé x")],
            [Some(323), Some(503), Some(182)]
        );
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["", "Chat", "a b", "-a", "a/b", "a\u{0}", &"x".repeat(65)] {
            assert!(ServiceName::parse(name).is_err(), "{name:?}");
        }
        for id in ["", "a\nb", "a\u{0}", "\u{85}", &"x".repeat(257)] {
            assert!(SessionId::parse(id).is_err(), "{id:?}");
        }
        for name in ["", "lab.eu", "a@b", "a b", "ä", "a*", &"x".repeat(65)] {
            assert!(!is_cluster_name(name), "{name:?}");
        }
        assert!(["lab-eu_1", "-", &"X".repeat(64)].into_iter().all(is_cluster_name));
        for version in ["", "1/2", "1 2", "1,2", "ä", "1\n", &"9".repeat(65)] {
            assert!(check_plugin_version(version).is_err(), "{version:?}");
        }
        for version in ["1", "1.2.3-rc.1+build_5", &"9".repeat(64)] {
            assert_eq!(check_plugin_version(version), Ok(()));
        }
    }
}
