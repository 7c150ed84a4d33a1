//! Components in JetStream's object store, by digest.
//!
//! In the store's metadata the last writer wins, "not found" may follow a put, and a failed put
//! leaves pieces. So names are digests, a put is repeated completely, and counts once the component
//! was read back with the right digest; pieces that no object needs are removed.

use super::bucket;
use crate::{
    limits,
    nats::{Nats, NatsError},
    plugin::{ComponentSource, Digest},
};
use async_nats::jetstream::{
    object_store::{Config, GetErrorKind, InfoErrorKind, ObjectStore},
    stream::{StorageType, Stream},
};
use bytes::Bytes;
use futures_util::{TryStreamExt, future::BoxFuture};
use std::{collections::HashSet, fmt};
use tokio::io::AsyncReadExt;

/// The cluster's components. Cheap to clone.
#[derive(Clone)]
pub struct Components {
    store: ObjectStore,
    /// The stream under the store.
    stream: Stream,
    name: String,
}

/// What is stored under a digest.
enum Found {
    It(Bytes),
    Nothing,
    /// Other bytes; names the difference.
    Another(String),
}

impl fmt::Debug for Components {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Components({})", self.name)
    }
}

impl Components {
    pub(super) async fn open(nats: &Nats) -> Result<Self, NatsError> {
        let name = format!("slotd-{}-plugins", nats.options.cluster);
        let config = Config {
            bucket: name.clone(),
            description: Some("components of slotd's plugins".into()),
            storage: StorageType::File,
            num_replicas: nats.options.replicas,
            ..Config::default()
        };
        let jetstream = &nats.jetstream;
        let store = match jetstream.get_object_store(&name).await {
            Ok(store) => store,
            Err(_) => match jetstream.create_object_store(config).await {
                Ok(store) => store,
                Err(e) => jetstream
                    .get_object_store(&name)
                    .await
                    .map_err(|_| NatsError::Unavailable(format!("bucket {name}: {e}")))?,
            },
        };
        let stream = jetstream.get_stream(format!("OBJ_{name}")).await;
        let stream = stream.map_err(|e| NatsError::Unavailable(format!("bucket {name}: {e}")))?;
        Ok(Self { store, stream, name })
    }

    /// Stores a component for all nodes, unless it is already stored. When it returns, the
    /// component has been read back.
    ///
    /// # Errors
    /// Why it could not be stored in [`limits::COMPONENT_TRANSFER_TIMEOUT`]; leftovers are removed
    /// later.
    pub async fn put(&self, digest: Digest, component: Bytes) -> Result<(), String> {
        if component.len() > limits::COMPONENT_BYTES_MAX || Digest::of(&component) != digest {
            return Err(format!("these {} bytes are not component {digest}", component.len()));
        }
        let work = async {
            let mut retry = bucket::retry();
            loop {
                let why = match self.try_put(digest, &component).await {
                    Ok(()) => return Ok(()),
                    Err(why) => why,
                };
                tracing::warn!(plugin = %digest.short(), why, "storing a component again");
                if !retry.again().await {
                    return Err(why);
                }
            }
        };
        tokio::time::timeout(limits::COMPONENT_TRANSFER_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err(format!("component {digest} was not stored in time")))
    }

    async fn try_put(&self, digest: Digest, component: &Bytes) -> Result<(), String> {
        if let Ok(Found::It(_)) = self.try_fetch(digest).await {
            return Ok(());
        }
        let name = digest.to_string();
        let mut bytes = &component[..];
        let put = self.store.put(name.as_str(), &mut bytes);
        let put = tokio::time::timeout(limits::COMPONENT_TRY_TIMEOUT, put).await;
        put.map_err(|_| "no answer in time".to_owned())?.map_err(|e| e.to_string())?;
        match self.try_fetch(digest).await? {
            Found::It(_) => Ok(()),
            Found::Nothing => Err("it is not there after it was stored".into()),
            Found::Another(why) => Err(why),
        }
    }

    /// Reads a component and verifies its digest; `None`: it is certain that it is not stored.
    ///
    /// # Errors
    /// Why it could not be read.
    pub async fn get(&self, digest: Digest) -> Result<Option<Bytes>, String> {
        let work = async {
            let mut retry = bucket::retry();
            let mut misses = 0;
            loop {
                let found = self.try_fetch(digest).await;
                misses += u32::from(found.is_ok());
                let why = match found {
                    Ok(Found::It(component)) => return Ok(Some(component)),
                    Ok(Found::Nothing) if misses >= limits::COMPONENT_MISSES => return Ok(None),
                    Ok(Found::Another(why)) if misses >= limits::COMPONENT_MISSES => {
                        return Err(why);
                    }
                    Ok(Found::Nothing) => "it is not there".to_owned(),
                    Ok(Found::Another(why)) | Err(why) => why,
                };
                if !retry.again().await {
                    return Err(why);
                }
            }
        };
        tokio::time::timeout(limits::COMPONENT_TRANSFER_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
            .map_err(|why| format!("component {digest} in bucket {}: {why}", self.name))
    }

    async fn try_fetch(&self, digest: Digest) -> Result<Found, String> {
        let name = digest.to_string();
        let read = async {
            match self.store.info(&name).await {
                Ok(info) if info.deleted => return Ok(Found::Nothing),
                Ok(info) if info.size > limits::COMPONENT_BYTES_MAX => {
                    return Ok(Found::Another(format!("it has {} bytes", info.size)));
                }
                Ok(_) => {}
                Err(e) if e.kind() == InfoErrorKind::NotFound => return Ok(Found::Nothing),
                Err(e) => return Err(e.to_string()),
            }
            let object = match self.store.get(&name).await {
                Ok(object) => object,
                Err(e) if e.kind() == GetErrorKind::NotFound => return Ok(Found::Nothing),
                Err(e) => return Err(e.to_string()),
            };
            let mut bytes = Vec::with_capacity(object.info().size.min(limits::COMPONENT_BYTES_MAX));
            let mut object = object.take(limits::COMPONENT_BYTES_MAX as u64 + 1);
            object.read_to_end(&mut bytes).await.map_err(|e| e.to_string())?;
            Ok(match Digest::of(&bytes) == digest {
                true => Found::It(Bytes::from(bytes)),
                false => Found::Another(format!("its {} bytes have another digest", bytes.len())),
            })
        };
        // The client waits for missing pieces without limit.
        tokio::time::timeout(limits::COMPONENT_TRY_TIMEOUT, read)
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
    }

    /// Removes pieces that no object needs now or needed at the previous call (whose result is the
    /// argument): pieces of a put in progress are not needed yet.
    pub async fn sweep(&self, suspects: HashSet<String>) -> HashSet<String> {
        let orphans = match self.orphans().await {
            Ok(orphans) => orphans,
            Err(why) => {
                tracing::debug!(why, "the search for leftover component chunks is postponed");
                return suspects;
            }
        };
        let (sure, fresh): (Vec<_>, Vec<_>) =
            orphans.into_iter().partition(|orphan| suspects.contains(orphan));
        for subject in sure {
            match self.stream.purge().filter(&subject).await {
                Ok(_) => tracing::info!(subject, "removed leftovers of an interrupted upload"),
                Err(error) => tracing::debug!(%error, subject, "not removed"),
            }
        }
        fresh.into_iter().collect()
    }

    /// Subjects of pieces that no object's metadata refers to.
    pub(super) async fn orphans(&self) -> Result<Vec<String>, String> {
        let read = async {
            // Pieces first: those of an object that is finished meanwhile have their metadata then.
            let pieces = self.stream.info_with_subjects(format!("$O.{}.C.>", self.name));
            let pieces = pieces.await.map_err(|e| e.to_string())?;
            let pieces: Vec<_> = pieces.try_collect().await.map_err(|e| e.to_string())?;
            let objects = self.store.list().await.map_err(|e| e.to_string())?;
            let needed: HashSet<String> = objects
                .map_ok(|info| format!("$O.{}.C.{}", self.name, info.nuid))
                .try_collect()
                .await
                .map_err(|e| e.to_string())?;
            let orphans = pieces.into_iter().map(|(subject, _)| subject);
            Ok(orphans.filter(|subject| !needed.contains(subject)).collect())
        };
        tokio::time::timeout(limits::COMPONENT_TRY_TIMEOUT, read)
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
    }
}

impl ComponentSource for Components {
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<Option<Bytes>, String>> {
        let this = self.clone();
        Box::pin(async move { this.get(digest).await })
    }
}
