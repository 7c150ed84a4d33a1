//! Objects in a JetStream stream of the cluster's own engine.
//!
//! The stream `slotd-<cluster>-snapshots` has one message per subject, and a subject
//! `<stream>.<slot>.<name>.<part>` for each part of an object; part 0 is published last and has
//! their number. So the objects of one slot can be listed alone (a bucket of the engine's
//! object store can only be listed whole), and an object is there when its part 0 is.
//!
//! Every publish expects that its subject is empty, and names are by content. So an attempt whose
//! acknowledgement was lost can be repeated until it is acknowledged or refused because the part
//! is there, and one that lands late writes what it would have written or nothing. What a broken
//! put leaves is listed as an object of 0 bytes, so that it is collected like any other.
//!
//! No read of JetStream is certain to be current. So a listing first publishes a mark, and is
//! taken only when it shows that mark: a stream is one sequence, so what shows the mark shows all
//! that was acknowledged before. A part that is "not found" is asked for again.

use super::{SnapshotError, objects::Listed};
use crate::{
    backoff::{Backoff, Retry},
    limits,
    names::SlotId,
    nats::Nats,
    random,
};
use async_nats::jetstream::{
    context::PublishErrorKind,
    message::PublishMessage,
    stream::{self, DirectGetErrorKind, DiscardPolicy, LastRawMessageErrorKind, StorageType},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream as futures};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Clone)]
pub struct NatsObjects {
    inner: Arc<Inner>,
}

struct Inner {
    nats: Nats,
    stream: stream::Stream,
    name: String,
    part_bytes: usize,
}

/// Begins part 0; the number of parts and of bytes follow.
const HEAD_MAGIC: &[u8; 8] = b"slotdob1";
const HEAD_BYTES: usize = 8 + 4 + 8;
const MARK: &str = "mark-";

impl NatsObjects {
    /// Opens the stream, or makes it.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`] when it can't be had now; [`SnapshotError::Refused`] when
    /// there is one that is set up otherwise.
    pub async fn open(nats: &Nats) -> Result<Self, SnapshotError> {
        let name = format!("slotd-{}-snapshots", nats.options.cluster);
        let config = stream::Config {
            name: name.clone(),
            description: Some("snapshots of slotd's slots".into()),
            subjects: vec![format!("{name}.>")],
            storage: StorageType::File,
            num_replicas: nats.options.replicas,
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            deny_delete: true,
            allow_direct: true,
            ..stream::Config::default()
        };
        let unavailable = |e: &dyn std::fmt::Display| {
            SnapshotError::Unavailable(format!("stream {name} for snapshots: {e}"))
        };
        let made = nats.jetstream.get_or_create_stream(config.clone()).await;
        let stream = made.map_err(|e| unavailable(&e))?;
        let found = &stream.cached_info().config;
        let same = found.subjects == config.subjects
            && found.max_messages_per_subject == 1
            && found.discard == DiscardPolicy::New
            && found.discard_new_per_subject
            && found.storage == StorageType::File
            && found.max_age.is_zero()
            && !found.deny_purge;
        if !same {
            return Err(SnapshotError::Refused(format!(
                "stream {name} exists with other settings than slotd needs: expected {config:?}, \
                 found {found:?}"
            )));
        }
        let payload = nats.client.server_info().max_payload;
        // Room for headers, and for the answer's own.
        let part_bytes = limits::SNAPSHOT_PART_BYTES.min(payload.saturating_sub(4096)).max(1024);
        Ok(Self { inner: Arc::new(Inner { nats: nats.clone(), stream, name, part_bytes }) })
    }

    pub fn describe(&self, slot: SlotId, name: &str) -> String {
        format!("nats:{}.{slot}.{name}", self.inner.name)
    }

    fn subject(&self, slot: SlotId, name: &str, part: u32) -> String {
        format!("{}.{slot}.{name}.{part}", self.inner.name)
    }

    fn unavailable(&self, slot: SlotId, name: &str, why: impl std::fmt::Display) -> SnapshotError {
        SnapshotError::Unavailable(format!("{}: {why}", self.describe(slot, name)))
    }

    pub async fn put(&self, slot: SlotId, name: &str, bytes: Bytes) -> Result<(), SnapshotError> {
        let part_bytes = self.inner.part_bytes;
        let parts = bytes.len().div_ceil(part_bytes);
        let numbers = 1..=u32::try_from(parts).unwrap_or(u32::MAX);
        futures::iter(numbers.zip(0..parts))
            .map(|(number, i)| {
                let part = bytes.slice(i * part_bytes..bytes.len().min((i + 1) * part_bytes));
                self.publish(slot, name, number, part)
            })
            .buffer_unordered(limits::SNAPSHOT_PARTS_IN_FLIGHT)
            .try_collect::<()>()
            .await?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(HEAD_MAGIC);
        head.extend_from_slice(&(parts as u32).to_le_bytes());
        head.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.publish(slot, name, 0, head.into()).await
    }

    /// Publishes a part until it is certain that it is stored.
    async fn publish(
        &self,
        slot: SlotId,
        name: &str,
        part: u32,
        payload: Bytes,
    ) -> Result<(), SnapshotError> {
        let subject = self.subject(slot, name, part);
        let mut retry = retry();
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .expected_stream(&self.inner.name)
                .expected_last_subject_sequence(0);
            let sent = self.inner.nats.jetstream.send_publish(subject.clone(), message).await;
            let answer = match sent {
                Ok(ack) => ack.await,
                Err(e) => Err(e),
            };
            let error = match answer {
                Ok(_) => return Ok(()),
                // Something is there, and only these bytes are ever put under this name.
                Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => return Ok(()),
                Err(e) => e,
            };
            if !retry.again().await {
                return Err(self.unavailable(slot, name, error));
            }
        }
    }

    pub async fn get(&self, slot: SlotId, name: &str) -> Result<Option<Bytes>, SnapshotError> {
        let Some(head) = self.part(slot, name, 0).await? else { return Ok(None) };
        let damaged =
            |why: String| SnapshotError::Damaged { object: self.describe(slot, name), why };
        let numbers = head.strip_prefix(HEAD_MAGIC.as_slice()).and_then(|rest| {
            let (parts, bytes) = rest.split_first_chunk::<4>()?;
            let bytes: [u8; 8] = bytes.try_into().ok()?;
            Some((u32::from_le_bytes(*parts), u64::from_le_bytes(bytes)))
        });
        let (parts, total) =
            numbers.ok_or_else(|| damaged("its first part does not decode".into()))?;
        if total > limits::SNAPSHOT_OBJECT_BYTES_MAX || u64::from(parts) > total {
            return Err(damaged(format!("it has {total} bytes in {parts} parts")));
        }
        let mut out = Vec::with_capacity(total as usize);
        let mut reads = futures::iter(1..=parts)
            .map(|part| async move { (part, self.part(slot, name, part).await) })
            .buffered(limits::SNAPSHOT_PARTS_IN_FLIGHT);
        while let Some((part, read)) = reads.next().await {
            let bytes =
                read?.ok_or_else(|| damaged(format!("part {part} of {parts} is missing")))?;
            out.extend_from_slice(&bytes);
            if out.len() as u64 > total {
                return Err(damaged("it is longer than it says".into()));
            }
        }
        Ok(Some(out.into()))
    }

    /// Reads one part. "Not found" counts once the leader has answered so several times.
    async fn part(
        &self,
        slot: SlotId,
        name: &str,
        part: u32,
    ) -> Result<Option<Bytes>, SnapshotError> {
        let subject = self.subject(slot, name, part);
        let stream = &self.inner.stream;
        let mut retry = retry();
        let mut misses = 0;
        loop {
            let direct = stream.direct_get_last_for_subject(subject.clone()).await;
            let error = match direct {
                Ok(message) => return Ok(Some(message.payload)),
                Err(e) if e.kind() == DirectGetErrorKind::NotFound => {
                    match stream.get_last_raw_message_by_subject(&subject).await {
                        Ok(message) => return Ok(Some(message.payload)),
                        Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => {
                            misses += 1;
                            if misses >= limits::SNAPSHOT_MISSES {
                                return Ok(None);
                            }
                            "not found".to_owned()
                        }
                        Err(e) => e.to_string(),
                    }
                }
                Err(e) => e.to_string(),
            };
            if !retry.again().await {
                return Err(self.unavailable(slot, name, error));
            }
        }
    }

    pub async fn list(&self, slot: SlotId) -> Result<Vec<Listed>, SnapshotError> {
        let mut retry = retry();
        let objects = loop {
            // A new one for each try: another reader's sweep may have taken the last.
            let random = random::lasting_id().map_err(|e| self.unavailable(slot, "", e))?;
            let mark = format!("{MARK}{random:032x}");
            self.publish(slot, &mark, 0, Bytes::new()).await?;
            let found = self.subjects(slot).await;
            self.sweep(slot, &mark, found.as_ref().ok()).await;
            let error = match found {
                Ok(objects) if objects.contains_key(&mark) => break objects,
                Ok(_) => "the listing is not current".to_owned(),
                Err(why) => why,
            };
            if !retry.again().await {
                return Err(self.unavailable(slot, "", error));
            }
        };
        let objects = objects.into_iter().filter(|(name, _)| !name.starts_with(MARK));
        // An object without its first part is not one yet, or never will be.
        let listed = objects.map(|(name, whole)| Listed { name, bytes: (!whole).then_some(0) });
        Ok(listed.collect())
    }

    /// Removes the mark, and others' once there are so many that some must have been left.
    async fn sweep(&self, slot: SlotId, own: &str, found: Option<&BTreeMap<String, bool>>) {
        let marks = found.into_iter().flat_map(BTreeMap::keys).filter(|n| n.starts_with(MARK));
        let mut marks: Vec<&str> = marks.map(String::as_str).collect();
        if marks.len() <= limits::SNAPSHOT_MARKS_MAX {
            marks = vec![own];
        }
        for name in marks {
            if let Err(error) = self.delete(slot, name).await {
                tracing::debug!(%error, "a mark stays");
            }
        }
    }

    /// The names under which a slot has parts, and whether the first part is among them.
    async fn subjects(&self, slot: SlotId) -> Result<BTreeMap<String, bool>, String> {
        let prefix = format!("{}.{slot}.", self.inner.name);
        let read = async {
            let info = self.inner.stream.info_with_subjects(format!("{prefix}>")).await;
            let mut info = info.map_err(|e| e.to_string())?;
            let mut objects = BTreeMap::new();
            while let Some(subject) = info.try_next().await.map_err(|e| e.to_string())? {
                let rest = subject.0.strip_prefix(&prefix);
                if let Some((name, part)) = rest.and_then(|rest| rest.rsplit_once('.')) {
                    *objects.entry(name.to_owned()).or_insert(false) |= part == "0";
                }
            }
            Ok(objects)
        };
        let timeout = limits::SNAPSHOT_OBJECT_TIMEOUT;
        tokio::time::timeout(timeout, read)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }

    pub async fn delete(&self, slot: SlotId, name: &str) -> Result<(), SnapshotError> {
        let filter = format!("{}.{slot}.{name}.*", self.inner.name);
        let mut retry = retry();
        loop {
            match self.inner.stream.purge().filter(&filter).await {
                Ok(_) => return Ok(()),
                Err(e) if retry.again().await => tracing::debug!("purging {filter}: {e}"),
                Err(e) => return Err(self.unavailable(slot, name, e)),
            }
        }
    }
}

/// Tries for up to [`limits::SNAPSHOT_OBJECT_TIMEOUT`].
fn retry() -> Retry {
    let backoff = Backoff::new(limits::SNAPSHOT_RETRY_MIN, limits::SNAPSHOT_RETRY_MAX);
    Retry::new(backoff, limits::SNAPSHOT_OBJECT_TIMEOUT)
}
