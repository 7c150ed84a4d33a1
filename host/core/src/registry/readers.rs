//! Which feature levels the nodes can read, and the current level.
//!
//! At its start each process writes what it can read (`node.<name>`), *then* reads the level. A
//! node that raises it checks what the members have written. A process that joins meanwhile learns
//! the new level from its watch, and one from before there were levels is expelled
//! (`node`).

use super::{Registry, SETTINGS, Settings, Shared, bucket};
use crate::{
    error::{Code, Error},
    level::{self, FeatureLevel, Level},
    limits,
    nats::NatsError,
    random,
};
use bucket::{BucketError, Swapped};
use serde::{Deserialize, Serialize};
use std::{fmt::Write as _, sync::Arc};

pub(super) const NODE: &str = "node.";

/// What a node publishes about its slotd version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reader {
    pub name: Arc<str>,
    /// The newest level that it can read.
    pub newest: Level,
    /// The process that published it, in hexadecimal: another start of the node may run another
    /// version.
    pub instance: String,
    /// For people.
    pub version: Arc<str>,
}

/// The key of a node: keys allow fewer characters than names.
fn key_of(name: &str) -> String {
    let mut key = NODE.to_owned();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => key.push(byte.into()),
            // Writing to a String can't fail.
            other => _ = write!(key, "={other:02x}"),
        }
    }
    key
}

impl Settings {
    /// Versions from before there were levels refuse settings of a later format by themselves, at
    /// their start: no other node need be running to keep them out.
    pub(super) fn format(&self) -> u32 {
        if self.level > level::OLDEST { bucket::FORMAT_LATER } else { bucket::FORMAT }
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, String> {
        bucket::decode_up_to(bucket::FORMAT_LATER, value)
    }
}

impl Shared {
    pub(super) fn learn_settings(&self, value: &[u8]) -> Result<(), String> {
        let settings = Settings::decode(value);
        // An unreadable value is from a later version: this one must not stay in its cluster.
        self.level.raise(settings.as_ref().map_or(Level::MAX, |settings| settings.level));
        settings.map(drop)
    }

    pub(super) fn learn_reader(&self, value: &[u8]) -> Result<(), String> {
        let reader = bucket::decode::<Reader>(value)?;
        self.readers.lock().insert(reader.name.clone(), reader);
        Ok(())
    }
}

impl Registry {
    /// The current level, as far as this node has seen.
    pub fn level(&self) -> Arc<FeatureLevel> {
        self.inner.shared.level.clone()
    }

    /// What a process can read. One without a record is of a version from before there were levels.
    pub fn reads(&self, name: &str, instance: u128) -> Level {
        let readers = self.inner.shared.readers.lock();
        let known = readers.get(name).filter(|reader| reader.instance == random::hex(instance));
        known.map_or(level::OLDEST, |reader| reader.newest)
    }

    /// Whether the registry has this, as far as known locally.
    pub fn knows(&self, reader: &Reader) -> bool {
        self.inner.shared.readers.lock().get(&reader.name) == Some(reader)
    }

    /// As [`Self::reads`], with one read of JetStream: local knowledge may be stale.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn reads_now(&self, name: &str, instance: u128) -> Result<Level, Error> {
        let super::Inner { bucket, shared, .. } = &*self.inner;
        let key = key_of(name);
        let unavailable = |why| Error::new(Code::StorageUnavailable, why);
        if let Some((revision, value)) = bucket.read_once(&key).await.map_err(unavailable)? {
            shared.learn(&key, revision, &value);
        }
        Ok(self.reads(name, instance))
    }

    /// Publishes what this node can read, then checks the level again.
    ///
    /// # Errors
    /// [`NatsError::Refused`] if the cluster's level is too new for this slotd;
    /// [`NatsError::Unavailable`].
    pub async fn introduce(&self, reader: &Reader) -> Result<(), NatsError> {
        let super::Inner { bucket, shared, .. } = &*self.inner;
        let key = key_of(&reader.name);
        let mut expected = bucket.read(&key).await?.map_or(0, |(revision, _)| revision);
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            match bucket.swap(&key, reader, expected).await? {
                Swapped::Won { revision, value } => {
                    shared.learn(&key, revision, &value);
                    let Some((revision, value)) = bucket.read(SETTINGS).await? else { break };
                    shared.learn(SETTINGS, revision, &value);
                    return check_level(shared.level.get());
                }
                Swapped::Lost { revision, .. } => expected = revision,
            }
        }
        Err(NatsError::Unavailable(format!("{key} can't be written to the registry")))
    }

    /// Raises the level permanently. The caller has ensured that all nodes can read it.
    ///
    /// # Errors
    /// `storage-unavailable`, `outcome-unknown`.
    pub async fn raise_level(&self, to: Level) -> Result<Level, Error> {
        let super::Inner { bucket, shared, .. } = &*self.inner;
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let found = bucket.read(SETTINGS).await?;
            let Some((revision, value)) = found else { break };
            let settings = Settings::decode(&value).map_err(BucketError::from)?;
            if settings.level >= to {
                shared.learn(SETTINGS, revision, &value);
                return Ok(settings.level);
            }
            let raised = Settings { level: to, ..settings };
            if let Swapped::Won { revision, value } =
                bucket.swap_as(raised.format(), SETTINGS, &raised, revision).await?
            {
                shared.learn(SETTINGS, revision, &value);
                return Ok(to);
            }
        }
        Err(Error::new(Code::StorageUnavailable, "can't change the cluster's settings now"))
    }
}

/// # Errors
/// [`NatsError::Refused`]: this slotd is too old for the cluster.
pub(super) fn check_level(level: Level) -> Result<(), NatsError> {
    if level <= level::NEWEST {
        return Ok(());
    }
    Err(NatsError::Refused(too_old(level)))
}

/// The message for the operator of a node that is too old.
pub fn too_old(level: Level) -> String {
    let level = match level {
        Level::MAX => "a later feature level".to_owned(),
        level => format!("feature level {level}"),
    };
    format!(
        "the cluster is at {level}; this slotd ({}) reads levels {} to {}: upgrade \
         this node",
        env!("CARGO_PKG_VERSION"),
        level::OLDEST,
        level::NEWEST
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes under one key would vouch for each other.
    #[test]
    fn each_name_has_a_key_of_its_own() {
        let names = ["a", "a.b", "a=2eb", "a b", "ä", "A", "a*", "a>"];
        let keys: std::collections::BTreeSet<_> = names.iter().map(|name| key_of(name)).collect();
        assert_eq!(keys.len(), names.len(), "{keys:?}");
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_=.".contains(c);
        assert!(keys.iter().all(|key| key.chars().all(fits)), "{keys:?}");
    }
}
