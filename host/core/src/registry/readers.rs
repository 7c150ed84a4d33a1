//! Which feature levels the nodes can read, and the current level.
//!
//! At its start each process writes what it can read (`node.<name>`), *then* reads the level. A
//! node that raises it checks what the members have written. A process that joins meanwhile learns
//! the new level from its watch, and one from before there were levels is expelled
//! (`node`).
//!
//! **A record outlives its process**: the node may come back with the same slotd, so the level does not
//! rise past what it reads by itself. A node that lives writes its record anew once a day
//! ([`limits::NODE_RECORD_REFRESH`]), from [`level::WRITTEN_DAILY`] on. Such a one that was not written for [`limits::NODE_RECORD_KEPT`] is removed
//! by any node, and so is at its end that of a node which is named after its address. An operator who knows
//! that a node is gone for good has its record removed at once. Its age is the time between it and the
//! latest record, by JetStream's clock. A node whose record was removed although it lives writes it
//! again.

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
use std::{collections::HashMap, fmt::Write as _, sync::Arc};

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

/// A node's record in the registry.
#[derive(Clone, Debug)]
pub(super) struct Record {
    reader: Reader,
    revision: u64,
    /// When it was written, in seconds of JetStream's clock; `None`: the watch has not reported it yet.
    written: Option<i64>,
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

    /// No bytes: it was removed.
    pub(super) fn learn_reader(
        &self,
        key: &str,
        revision: u64,
        value: &[u8],
    ) -> Result<(), String> {
        if value.is_empty() {
            self.readers.lock().remove(key);
            return Ok(());
        }
        let reader = bucket::decode::<Reader>(value)?;
        self.readers.lock().insert(key.to_owned(), Record { reader, revision, written: None });
        Ok(())
    }

    /// There is no such record, though the watch has not said so: it may have been interrupted. One that
    /// there is all the same can be learned again.
    fn unlearn_reader(&self, key: &str) {
        let mut revisions = self.revisions.lock();
        revisions.remove(key);
        self.readers.lock().remove(key);
    }

    pub(super) fn date_reader(&self, key: &str, revision: u64, written: i64) {
        if let Some(record) = self.readers.lock().get_mut(key)
            && record.revision == revision
        {
            record.written = Some(written);
        }
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
        let known = readers.get(&key_of(name)).map(|record| &record.reader);
        let known = known.filter(|reader| reader.instance == random::hex(instance));
        known.map_or(level::OLDEST, |reader| reader.newest)
    }

    /// What every node has published, those included that do not run.
    pub fn readers(&self) -> Vec<Reader> {
        let readers = self.inner.shared.readers.lock();
        let mut all: Vec<_> = readers.values().map(|record| record.reader.clone()).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Removes the record of a node. Gives what it could read; `None`: there is no record.
    ///
    /// # Errors
    /// `storage-unavailable`, `outcome-unknown`.
    pub async fn forget(&self, name: &str) -> Result<Option<Reader>, Error> {
        let forgotten = self.forget_if(name, |_| true).await?;
        // Also of a process that died before it had a record.
        self.forget_sealing(name, None).await?;
        Ok(forgotten)
    }

    /// Removes this process's own record. Another process of its name may have replaced it.
    ///
    /// # Errors
    /// As [`Self::forget`].
    pub async fn retire(&self, own: &Reader) -> Result<(), Error> {
        self.forget_if(&own.name, |found| found == own).await.map(drop)
    }

    async fn forget_if(
        &self,
        name: &str,
        is_it: impl Fn(&Reader) -> bool,
    ) -> Result<Option<Reader>, Error> {
        let super::Inner { bucket, shared, .. } = &*self.inner;
        let key = key_of(name);
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let Some((revision, value)) =
                bucket.read(&key).await?.filter(|(_, value)| !value.is_empty())
            else {
                shared.unlearn_reader(&key);
                return Ok(None);
            };
            let reader = bucket::decode::<Reader>(&value).map_err(BucketError::from)?;
            if !is_it(&reader) {
                return Ok(None);
            }
            if bucket.remove(&key, revision).await? {
                shared.learn(&key, revision + 1, b"");
                self.forget_sealing(&reader.name, Some(&reader.instance)).await?;
                return Ok(Some(reader));
            }
        }
        Err(Error::new(Code::StorageUnavailable, format!("{key} is written all the time")))
    }

    /// Removes the records of nodes that have not written them for [`limits::NODE_RECORD_KEPT`], but
    /// for those that live. Gives what they could read.
    ///
    /// # Errors
    /// As [`Self::forget`].
    pub async fn forget_old(&self, lives: impl Fn(&str) -> bool) -> Result<Vec<Reader>, Error> {
        let super::Inner { bucket, shared, .. } = &*self.inner;
        let mut old = old(&shared.readers.lock());
        old.retain(|(_, record)| !lives(&record.reader.name));
        let mut forgotten = Vec::new();
        for (key, record) in old {
            // Not what the node has written since.
            if bucket.remove(&key, record.revision).await? {
                shared.learn(&key, record.revision + 1, b"");
                let reader = &record.reader;
                self.forget_sealing(&reader.name, Some(&reader.instance)).await?;
                forgotten.push(record.reader);
            }
        }
        Ok(forgotten)
    }

    /// Whether the registry has this, as far as known locally.
    pub fn knows(&self, reader: &Reader) -> bool {
        let readers = self.inner.shared.readers.lock();
        readers.get(&key_of(&reader.name)).is_some_and(|record| record.reader == *reader)
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

/// Those that were written so long before the latest that their nodes count as gone.
fn old(records: &HashMap<String, Record>) -> Vec<(String, Record)> {
    let Some(latest) = records.values().filter_map(|record| record.written).max() else {
        return Vec::new();
    };
    let kept = limits::NODE_RECORD_KEPT.as_secs() as i64;
    // Versions from before level 3 write it at their start only: theirs says nothing of when they were here.
    let is_old = |record: &Record| {
        record.reader.newest >= level::WRITTEN_DAILY
            && record.written.is_some_and(|at| latest - at > kept)
    };
    let old = records.iter().filter(|(_, record)| is_old(record));
    old.map(|(key, record)| (key.clone(), record.clone())).collect()
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

    /// Records of names that never come back would become more for ever; and that of a node which is
    /// down for a while would be missing when the level is to rise.
    #[test]
    fn a_record_is_old_when_others_were_written_long_after_it() {
        let record = |name: &str, written| {
            let (instance, version) = (String::new(), "1".into());
            let reader = Reader { name: name.into(), newest: level::NEWEST, instance, version };
            (key_of(name), Record { reader, revision: 1, written })
        };
        let day = 24 * 60 * 60;
        let kept = limits::NODE_RECORD_KEPT.as_secs() as i64;
        let records = |latest| {
            HashMap::from([
                record("gone", Some(1_000)),
                record("away", Some(1_000 + 2 * day)),
                record("unseen", None),
                record("lives", Some(latest)),
            ])
        };
        let names = |latest| -> Vec<String> {
            old(&records(latest)).into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(names(1_000 + kept), [""; 0]);
        assert_eq!(names(1_001 + kept), [key_of("gone")]);
        // Of a version that writes it at its start only, it says nothing.
        let mut all = records(1_001 + kept);
        for record in all.values_mut() {
            record.reader.newest = level::WRITTEN_DAILY - 1;
        }
        assert_eq!(old(&all).len(), 0);
        // Whatever the time is: when nobody writes, nothing becomes old.
        assert_eq!(old(&HashMap::from([record("gone", Some(0))])).len(), 0);
    }
}
