//! The streams that hold the log: made where they are missing, checked where they are there.

use crate::{
    names::SlotId,
    nats::{Nats, NatsError, NatsOptions},
};
use async_nats::jetstream::{
    self, ErrorCode,
    context::CreateStreamErrorKind,
    stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType},
};

/// Metadata of a stream: over how many streams the slots are spread, and how many slots there are.
const STREAMS: &str = "slotd-streams";
const SLOTS: &str = "slotd-slots";

/// Where a slot's log is.
pub(super) struct Names {
    pub stream: String,
    pub subject: String,
}

impl Names {
    pub fn of(options: &NatsOptions, slot: SlotId) -> Self {
        let group = slot % options.streams;
        Self {
            stream: stream(options, group),
            subject: format!("slotd.{}.log.{group}.{slot}", options.cluster),
        }
    }
}

fn stream(options: &NatsOptions, group: u16) -> String {
    format!("slotd-{}-log-{group}", options.cluster)
}

/// What a stream is created as. See docs/cluster-log.md for the reasons.
fn config(options: &NatsOptions, slot_count: u16, group: u16) -> Config {
    Config {
        name: stream(options, group),
        description: Some("Batches of slotd's slots. Written with expectations only.".into()),
        subjects: vec![format!("slotd.{}.log.{group}.*", options.cluster)],
        storage: StorageType::File,
        num_replicas: options.replicas,
        retention: RetentionPolicy::Limits,
        // Full: refuse the new, never forget the old.
        discard: DiscardPolicy::New,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        // Trimming purges.
        deny_delete: true,
        deny_purge: false,
        allow_direct: true,
        metadata: [(STREAMS, options.streams), (SLOTS, slot_count)]
            .map(|(key, value)| (key.to_owned(), value.to_string()))
            .into(),
        ..Config::default()
    }
}

/// Creates and checks all streams.
///
/// # Errors
/// [`NatsError::Refused`] names the first difference; [`NatsError::Unavailable`]: try again.
pub(super) async fn open(nats: &Nats, slot_count: u16) -> Result<(), NatsError> {
    let groups = nats.options.streams.min(slot_count.max(1));
    // The first alone: it shows whether the others may be made.
    open_one(nats, slot_count, 0).await?;
    let others = (1..groups).map(|group| open_one(nats, slot_count, group));
    futures_util::future::try_join_all(others).await.map(drop)
}

async fn open_one(nats: &Nats, slot_count: u16, group: u16) -> Result<(), NatsError> {
    let wanted = config(&nats.options, slot_count, group);
    let name = wanted.name.clone();
    let unavailable = |e: &dyn std::fmt::Display| {
        NatsError::Unavailable(format!("stream {name}: {e}; does JetStream have a quorum?"))
    };
    let found = match nats.jetstream.get_stream(&name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(e) => match e.kind() {
            jetstream::context::GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                create(nats, wanted.clone()).await?
            }
            _ => return Err(unavailable(&e)),
        },
    };
    match difference(&wanted, &found) {
        None => Ok(()),
        Some(difference) => Err(NatsError::Refused(format!(
            "stream {name} exists with other settings: {difference}"
        ))),
    }
}

/// The configuration that the stream has then: ours, or that of a node which was faster.
async fn create(nats: &Nats, wanted: Config) -> Result<Config, NatsError> {
    let name = wanted.name.clone();
    let e = match nats.jetstream.create_stream(wanted).await {
        Ok(stream) => return Ok(stream.cached_info().config.clone()),
        Err(e) => e,
    };
    let why = format!("creating the stream {name}: {e}");
    let CreateStreamErrorKind::JetStream(error) = e.kind() else {
        return Err(NatsError::Unavailable(why));
    };
    match error.error_code() {
        ErrorCode::STREAM_NAME_EXIST => {
            let stream = nats.jetstream.get_stream(&name).await;
            let stream = stream.map_err(|e| NatsError::Unavailable(format!("{name}: {e}")))?;
            Ok(stream.cached_info().config.clone())
        }
        // Subjects that another stream has, no cluster for several replicas.
        ErrorCode::STREAM_SUBJECT_OVERLAP | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
            Err(NatsError::Refused(why))
        }
        // Too few servers, or room, just now.
        _ => Err(NatsError::Unavailable(why)),
    }
}

/// In words, what makes `found` unusable or another than `wanted`. Placement, compression,
/// descriptions and a limit of bytes are the operator's.
fn difference(wanted: &Config, found: &Config) -> Option<String> {
    let none = "none";
    let limit = |n: i64| if n <= 0 { none.to_owned() } else { n.to_string() };
    let meta = |config: &Config, key| config.metadata.get(key).cloned().unwrap_or(none.into());
    let flag = |flag: bool| flag.to_string();
    let rows: Vec<(&str, String, String)> = vec![
        (
            "replicas (nats.replicas)",
            wanted.num_replicas.to_string(),
            found.num_replicas.to_string(),
        ),
        ("number of streams (nats.streams)", meta(wanted, STREAMS), meta(found, STREAMS)),
        ("number of slots (slot_count)", meta(wanted, SLOTS), meta(found, SLOTS)),
        ("subjects", wanted.subjects.join(" "), found.subjects.join(" ")),
        ("storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage)),
        ("retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention)),
        ("discard policy", format!("{:?}", wanted.discard), format!("{:?}", found.discard)),
        ("limit of messages", none.into(), limit(found.max_messages)),
        ("limit of messages a subject", none.into(), limit(found.max_messages_per_subject)),
        ("limit of a message's size", none.into(), limit(found.max_message_size.into())),
        (
            "limit of age in ms",
            none.into(),
            limit(found.max_age.as_millis().try_into().unwrap_or(i64::MAX)),
        ),
        ("acknowledgements", flag(true), flag(!found.no_ack)),
        ("deny_delete", flag(true), flag(found.deny_delete)),
        ("deny_purge", flag(false), flag(found.deny_purge)),
        ("allow_direct", flag(true), flag(found.allow_direct)),
        ("allow_rollup_hdrs", flag(false), flag(found.allow_rollup)),
        ("allow_msg_ttl", flag(false), flag(found.allow_message_ttl)),
        ("sealed", flag(false), flag(found.sealed)),
        (
            "persist_mode async",
            flag(false),
            flag(found.persist_mode == Some(PersistenceMode::Async)),
        ),
        ("mirror or sources", flag(false), flag(found.mirror.is_some() || found.sources.is_some())),
        ("subject transform", flag(false), flag(found.subject_transform.is_some())),
    ];
    let (what, want, have) = rows.into_iter().find(|(_, want, have)| want != have)?;
    Some(format!("its {what} is {have}, expected {want}"))
}
