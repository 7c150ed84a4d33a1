//! A key-value bucket that is only changed by compare-and-swap; any answer except an
//! acknowledgement counts as undecided.

use crate::{
    backoff::{Backoff, Retry},
    limits,
    nats::{Nats, NatsError},
    random,
};
use async_nats::jetstream::{
    kv,
    stream::{LastRawMessageErrorKind, StorageType},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[derive(Clone)]
pub struct Bucket {
    pub store: kv::Store,
    name: String,
    value_bytes_max: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Nothing was changed.
    #[error("the registry can't be reached: {0}")]
    Unavailable(String),
    #[error("unknown whether the registry was changed: {0}")]
    Undecided(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("can't read a value of the registry: {0}")]
    Unreadable(String),
}

impl From<String> for BucketError {
    fn from(why: String) -> Self {
        Self::Unreadable(why)
    }
}

/// The result of a compare-and-swap.
pub enum Swapped {
    Won {
        revision: u64,
        value: Bytes,
    },
    /// There was another value: this one.
    Lost {
        revision: u64,
        value: Bytes,
    },
}

/// A stored value. JSON, so that people can read it with NATS tools.
#[derive(Serialize, Deserialize)]
struct Stamped<T> {
    format: u32,
    /// Distinguishes the writer's own attempt from another's after a lost answer.
    attempt: String,
    value: T,
}

/// The format of every value, unless its writer sets another.
pub const FORMAT: u32 = 1;
/// Versions that read only [`FORMAT`] refuse a value in it.
pub const FORMAT_LATER: u32 = 2;

/// # Errors
/// Why the bytes are not such a value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode_up_to(FORMAT, bytes)
}

/// As [`decode`], for values that may have a later format.
///
/// # Errors
/// As [`decode`].
pub fn decode_up_to<T: DeserializeOwned>(newest: u32, bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let broken = |e: serde_json::Error| format!("it does not decode: {e}");
    let Format { format } = serde_json::from_slice(bytes).map_err(broken)?;
    if !(FORMAT..=newest).contains(&format) {
        return Err(format!("it has format {format}; this slotd reads up to {newest}"));
    }
    Ok(serde_json::from_slice::<Stamped<T>>(bytes).map_err(broken)?.value)
}

fn attempt_of(bytes: &[u8]) -> Option<String> {
    let stamped: Stamped<serde::de::IgnoredAny> = serde_json::from_slice(bytes).ok()?;
    Some(stamped.attempt)
}

impl Bucket {
    /// Opens the bucket, or makes it.
    ///
    /// # Errors
    /// [`NatsError`].
    pub async fn open(nats: &Nats, name: &str) -> Result<Self, NatsError> {
        let config = kv::Config {
            bucket: name.to_owned(),
            description: "what slotd's nodes share".into(),
            history: 1,
            storage: StorageType::File,
            num_replicas: nats.options.replicas,
            ..kv::Config::default()
        };
        // It exists already, or another node created it at the same time: check it.
        let store = match nats.jetstream.get_key_value(name).await {
            Ok(store) => store,
            Err(_) => match nats.jetstream.create_key_value(config).await {
                Ok(store) => store,
                Err(e) => nats
                    .jetstream
                    .get_key_value(name)
                    .await
                    .map_err(|_| NatsError::Unavailable(format!("bucket {name}: {e}")))?,
            },
        };
        let found = &store.stream.cached_info().config;
        if !found.max_age.is_zero() || found.storage != StorageType::File {
            return Err(NatsError::Refused(format!(
                "bucket {name} exists with other settings than slotd needs: file storage, and \
                 values that never expire"
            )));
        }
        let value_bytes_max = nats.client.server_info().max_payload.saturating_sub(4096);
        Ok(Self { store, name: name.to_owned(), value_bytes_max })
    }

    /// A key's value, from its stream's leader. May still be stale.
    ///
    /// # Errors
    /// [`BucketError::Unavailable`].
    pub async fn read(&self, key: &str) -> Result<Option<(u64, Bytes)>, BucketError> {
        let mut retry = retry();
        loop {
            match self.read_once(key).await {
                Ok(found) => return Ok(found),
                Err(why) if retry.again().await => tracing::debug!(key, why, "reading again"),
                Err(why) => return Err(BucketError::Unavailable(why)),
            }
        }
    }

    /// As [`Self::read`], without retries.
    pub async fn read_once(&self, key: &str) -> Result<Option<(u64, Bytes)>, String> {
        let subject = format!("{}{key}", self.store.prefix);
        match self.store.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(Some((message.sequence, message.payload))),
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(e) => Err(format!("{}: {e}", self.name)),
        }
    }

    /// Sets a key if it is at revision `expected` (0: missing). Repeats the same attempt until it
    /// is settled: a refused or lost answer alone proves nothing.
    ///
    /// # Errors
    /// [`BucketError::Undecided`] if it is not settled in [`limits::REGISTRY_TIMEOUT`];
    /// [`BucketError::TooLarge`].
    pub async fn swap<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        expected: u64,
    ) -> Result<Swapped, BucketError> {
        self.swap_as(FORMAT, key, value, expected).await
    }

    /// As [`Self::swap`], in the caller's format.
    ///
    /// # Errors
    /// As [`Self::swap`].
    pub async fn swap_as<T: Serialize>(
        &self,
        format: u32,
        key: &str,
        value: &T,
        expected: u64,
    ) -> Result<Swapped, BucketError> {
        let attempt = random::lasting_id().map_err(|e| BucketError::Unavailable(e.to_string()))?;
        let attempt = random::hex(attempt);
        let stamped = Stamped { format, attempt: attempt.clone(), value };
        let encoded = serde_json::to_vec(&stamped)
            .map_err(|e| BucketError::TooLarge(format!("{key} does not encode: {e}")))?;
        let encoded = Bytes::from(encoded);
        if encoded.len() > self.value_bytes_max {
            return Err(BucketError::TooLarge(format!(
                "{key} has {} bytes; the NATS servers accept {} (max_payload)",
                encoded.len(),
                self.value_bytes_max
            )));
        }
        let mut retry = retry();
        loop {
            let mut why = match self.store.update(key, encoded.clone(), expected).await {
                Ok(revision) => return Ok(Swapped::Won { revision, value: encoded }),
                Err(e) => e.to_string(),
            };
            match self.read_once(key).await {
                Ok(Some((revision, value))) if revision > expected => {
                    let own = attempt_of(&value).is_some_and(|found| found == attempt);
                    return Ok(match own {
                        true => Swapped::Won { revision, value },
                        false => Swapped::Lost { revision, value },
                    });
                }
                // According to this answer there is nothing after the expected revision, but the
                // write may still land. Repeating it settles that.
                Ok(_) => {}
                Err(read) => why = read,
            }
            if !retry.again().await {
                return Err(BucketError::Undecided(why));
            }
        }
    }
}

impl Bucket {
    /// Removes a key if it is still at revision `expected`. Gives whether it is gone.
    ///
    /// # Errors
    /// As [`Self::swap`].
    pub async fn remove(&self, key: &str, expected: u64) -> Result<bool, BucketError> {
        let mut retry = retry();
        loop {
            let deleted = self.store.delete_expect_revision(key, Some(expected)).await;
            let mut why = deleted.err().map_or_else(String::new, |e| e.to_string());
            match self.read_once(key).await {
                Ok(None) => return Ok(true),
                // The mark of a deletion, which all that watch are told of. It is not kept: each name
                // that there ever was would have one.
                Ok(Some((mark, value))) if value.is_empty() => {
                    let subject = format!("{}{key}", self.store.prefix);
                    let purge = self.store.stream.purge().filter(subject).sequence(mark + 1);
                    match purge.await {
                        Ok(_) => return Ok(true),
                        Err(e) => why = e.to_string(),
                    }
                }
                Ok(Some((revision, _))) if revision > expected => return Ok(false),
                Ok(_) => {}
                Err(read) => why = read,
            }
            if !retry.again().await {
                return Err(BucketError::Undecided(why));
            }
        }
    }
}

/// Retries for up to [`limits::REGISTRY_TIMEOUT`].
pub fn retry() -> Retry {
    let backoff = Backoff::new(limits::REGISTRY_RETRY_MIN, limits::REGISTRY_RETRY_MAX);
    Retry::new(backoff, limits::REGISTRY_TIMEOUT)
}
