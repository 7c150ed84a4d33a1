//! The audit log of a cluster: a stream of JetStream, which every node writes and reads.
//!
//! A line is a message; its number is the message's. Any answer but an acknowledgement leaves open
//! whether it is stored, so it is published again, with the same id, until there is one: what comes
//! twice within the servers' window is stored once, and what is stored twice is listed once.
//!
//! A node writes one line after the other, so each carries the hash of the last one of its process.
//! What other nodes write in between is not waited for: that would take a turn of all nodes for each
//! line. Messages can't be removed from the stream, so a gap in the numbers shows that it was made
//! anew.

use super::line::{Change, FORMAT, Kind, Line};
use crate::{
    backoff::{Backoff, Retry},
    clock, limits,
    nats::{Nats, NatsError},
    plugin::Digest,
    random,
};
use async_nats::jetstream::{
    message::PublishMessage,
    stream::{Config, DiscardPolicy, RawMessageErrorKind, RetentionPolicy, StorageType, Stream},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::sync::Arc;
use tokio::{sync::Mutex, time::timeout};

/// The stream, for one process. Cheap to clone.
#[derive(Clone)]
pub struct AuditStream {
    nats: Nats,
    stream: Stream<()>,
    subject: String,
    chain: Arc<Mutex<Chain>>,
}

/// What this process has written.
struct Chain {
    writer: String,
    /// The hash of its last line.
    previous: Option<Digest>,
}

impl Chain {
    fn new() -> Self {
        Self { writer: random::hex_id(), previous: None }
    }
}

fn config(nats: &Nats, name: &str, subject: &str) -> Config {
    Config {
        name: name.to_owned(),
        description: Some("Who changed what in slotd's cluster. See docs/audit.md.".into()),
        subjects: vec![subject.to_owned()],
        storage: StorageType::File,
        num_replicas: nats.options.replicas,
        retention: RetentionPolicy::Limits,
        // Full: the oldest makes room. A log that refuses would stop every operator.
        discard: DiscardPolicy::Old,
        max_age: limits::AUDIT_AGE_MAX,
        max_bytes: limits::AUDIT_STREAM_BYTES_MAX,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        // Nobody takes lines out.
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    }
}

/// What makes a stream no audit log. Limits, replicas and placement are the operator's.
fn difference(wanted: &Config, found: &Config) -> Option<&'static str> {
    let differs = [
        (wanted.subjects != found.subjects, "subjects"),
        (found.storage != StorageType::File, "storage"),
        (found.retention != RetentionPolicy::Limits, "retention"),
        (found.discard != DiscardPolicy::Old, "discard policy"),
        (found.no_ack, "acknowledgements"),
        (!found.deny_delete, "deny_delete"),
        (!found.deny_purge, "deny_purge"),
        (found.sealed, "sealed"),
        (found.mirror.is_some() || found.sources.is_some(), "mirror or sources"),
    ];
    differs.into_iter().find_map(|(differs, what)| differs.then_some(what))
}

impl AuditStream {
    /// Opens the stream, or makes it.
    ///
    /// # Errors
    /// [`NatsError`].
    pub async fn open(nats: &Nats) -> Result<Self, NatsError> {
        let cluster = &nats.options.cluster;
        let (name, subject) = (format!("slotd-{cluster}-audit"), format!("slotd.{cluster}.audit"));
        let wanted = config(nats, &name, &subject);
        let found = match nats.jetstream.get_stream(&name).await {
            Ok(stream) => stream,
            // It is not there, or another node makes it at the same time: it is looked at again.
            Err(_) => match nats.jetstream.create_stream(wanted.clone()).await {
                Ok(stream) => stream,
                Err(e) => {
                    let again = nats.jetstream.get_stream(&name).await;
                    again.map_err(|_| NatsError::Unavailable(format!("stream {name}: {e}")))?
                }
            },
        };
        if let Some(what) = difference(&wanted, &found.cached_info().config) {
            return Err(NatsError::Refused(format!(
                "stream {name}, the audit log, exists with other settings than slotd needs: {what}"
            )));
        }
        let stream = nats.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|e| NatsError::Unavailable(format!("stream {name}: {e}")))?;
        let chain = Arc::new(Mutex::new(Chain::new()));
        Ok(Self { nats: nats.clone(), stream, subject, chain })
    }

    pub(super) async fn append(
        &self,
        node: &str,
        kind: Kind,
        change: Change,
    ) -> Result<u64, String> {
        let mut retry = Retry::new(
            Backoff::new(limits::REGISTRY_RETRY_MIN, limits::REGISTRY_RETRY_MAX),
            limits::AUDIT_WRITE_TIMEOUT,
        );
        let turn = timeout(limits::AUDIT_WRITE_TIMEOUT, self.chain.lock()).await;
        let mut chain = turn.map_err(|_| "lines before this one are not written yet".to_owned())?;
        // If this one stays undecided, nobody can say what the next would follow.
        let Chain { writer, previous } = std::mem::replace(&mut *chain, Chain::new());
        let id = format!("{}-{kind:?}", change.id);
        let line = Line {
            format: FORMAT,
            number: None,
            writer,
            previous,
            at_ms: clock::now_ms(),
            node: node.to_owned(),
            kind,
            change,
        };
        let bytes = Bytes::from(line.encode()?);
        loop {
            let why = match self.publish(&id, bytes.clone()).await {
                Ok(number) => {
                    *chain = Chain { writer: line.writer, previous: Some(Digest::of(&bytes)) };
                    return Ok(number);
                }
                Err(why) => why,
            };
            if !retry.again().await {
                return Err(why);
            }
            tracing::debug!(why, "publishing a line of the audit log again");
        }
    }

    async fn publish(&self, id: &str, line: Bytes) -> Result<u64, String> {
        let message = PublishMessage::build().payload(line).message_id(id);
        let published = async {
            let sent = self.nats.jetstream.send_publish(self.subject.clone(), message).await;
            sent.map_err(|e| e.to_string())?.await.map_err(|e| e.to_string())
        };
        let acknowledged = timeout(limits::AUDIT_TRY_TIMEOUT, published).await;
        Ok(acknowledged.map_err(|_| "no acknowledgement in time".to_owned())??.sequence)
    }

    pub(super) async fn bounds(&self) -> Result<Option<(u64, u64)>, String> {
        let state = self.stream.get_info().await.map_err(|e| e.to_string())?.state;
        Ok((state.messages > 0).then_some((state.first_sequence, state.last_sequence)))
    }

    pub(super) async fn read(&self, from: u64, count: usize) -> Result<Vec<(u64, Bytes)>, String> {
        let Some((first, last)) = self.bounds().await? else { return Ok(Vec::new()) };
        let from = from.max(first);
        let end = last.saturating_add(1).min(from.saturating_add(count as u64));
        let reads = (from..end).map(|number| async move {
            match self.stream.get_raw_message(number).await {
                Ok(message) => Ok(Some((number, message.payload))),
                // It was just dropped.
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(e) => Err(e.to_string()),
            }
        });
        let mut reads = futures_util::stream::iter(reads).buffered(limits::AUDIT_READS_AT_A_TIME);
        let mut lines = Vec::new();
        while let Some(read) = reads.next().await {
            lines.extend(read?);
        }
        Ok(lines)
    }
}
