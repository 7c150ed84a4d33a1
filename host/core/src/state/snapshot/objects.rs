//! Where snapshots are kept: a directory, an S3-compatible store, or NATS itself.

use super::{SnapshotError, nats::NatsObjects};
use crate::{
    limits,
    names::SlotId,
    nats::Nats,
    seal::{Keyring, Unopened},
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, PutPayload, aws::AmazonS3Builder, local::LocalFileSystem,
    path::Path as ObjectPath,
};
use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

/// The configured place: `nats:`, `file:///absolute/directory` or `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A stream of the cluster's own engine.
    Nats,
    Directory(PathBuf),
    /// Endpoint, region and keys come from the `AWS_*` environment variables.
    S3 {
        bucket: String,
        prefix: String,
    },
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!(
                "{text:?}: {why}; use nats:, file:///absolute/directory or s3://bucket/prefix"
            ))
        };
        if text == "nats:" {
            return Ok(Self::Nats);
        }
        if let Some(path) = text.strip_prefix("file://") {
            return match path.starts_with('/') && path.len() > 1 {
                true => Ok(Self::Directory(path.into())),
                false => wrong("the directory must be absolute"),
            };
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return wrong("not a place for snapshots");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(allowed) {
            return wrong("a bucket's name has 3 to 63 of a-z, 0-9, '-' and '.'");
        }
        let prefix = prefix.trim_end_matches('/');
        let doubled = prefix.split('/').any(str::is_empty);
        if !prefix.is_empty() && (doubled || ObjectPath::parse(prefix).is_err()) {
            return wrong("the prefix is not a path");
        }
        Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.into() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nats => f.write_str("nats:"),
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// Bytes, if the store reports them without reading the object.
    pub bytes: Option<u64>,
}

/// An open place for objects, by slot and name. Cheap to clone.
#[derive(Clone)]
pub enum Objects {
    Store {
        store: Arc<dyn ObjectStore>,
        root: ObjectPath,
        target: Target,
    },
    Nats(NatsObjects),
    /// Objects are sealed on their way there, and opened on their way back.
    Sealed(Box<Objects>, Keyring),
    #[cfg(test)]
    Failing(Box<Objects>, Arc<super::tests::Faults>),
}

impl Objects {
    /// Opens `target` for the snapshots of `cluster`. `nats` is needed for [`Target::Nats`].
    ///
    /// # Errors
    /// The place can't be made or is not configured; the message names the fix.
    pub async fn open(
        target: &Target,
        cluster: &str,
        nats: Option<&Nats>,
    ) -> Result<Self, SnapshotError> {
        let refused = |e: object_store::Error| SnapshotError::Refused(format!("{target}: {e}"));
        match target {
            Target::Nats => {
                let nats = nats.ok_or_else(|| {
                    SnapshotError::Refused("snapshots in nats: need nats.servers".into())
                })?;
                Ok(Self::Nats(NatsObjects::open(nats).await?))
            }
            Target::Directory(path) => {
                std::fs::create_dir_all(path)
                    .map_err(|e| SnapshotError::Refused(format!("{}: {e}", path.display())))?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(refused)?;
                // Without it an acknowledged snapshot could be gone after a power loss, with the
                // log that was trimmed behind it.
                let store = Arc::new(store.with_fsync(true));
                Ok(Self::Store { store, root: cluster.into(), target: target.clone() })
            }
            Target::S3 { bucket, prefix } => {
                Self::s3(AmazonS3Builder::from_env(), bucket, prefix, cluster).map_err(refused)
            }
        }
    }

    pub(super) fn s3(
        builder: AmazonS3Builder,
        bucket: &str,
        prefix: &str,
        cluster: &str,
    ) -> object_store::Result<Self> {
        // Does nothing where the process has one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Not every S3-compatible store can delete many at once, and there is no need.
        let builder = builder.with_bucket_name(bucket).with_disable_bulk_delete(true);
        let store = Arc::new(builder.build()?);
        let root = ObjectPath::from(format!("{prefix}/{cluster}"));
        let target = Target::S3 { bucket: bucket.into(), prefix: prefix.into() };
        Ok(Self::Store { store, root, target })
    }

    /// The same place, with objects sealed if there are keys. What is not sealed is read as it is.
    #[must_use]
    pub fn sealed(self, keys: &Keyring) -> Self {
        match keys.is_empty() {
            true => self,
            false => Self::Sealed(Box::new(self), keys.clone()),
        }
    }

    /// What people call the object.
    pub fn describe(&self, slot: SlotId, name: &str) -> String {
        match self {
            Self::Store { root, target: Target::Directory(dir), .. } => {
                dir.join(path(root, slot, name).as_ref()).display().to_string()
            }
            Self::Store { root, target: Target::S3 { bucket, .. }, .. } => {
                format!("s3://{bucket}/{}", path(root, slot, name))
            }
            Self::Store { root, .. } => path(root, slot, name).to_string(),
            Self::Nats(nats) => nats.describe(slot, name),
            Self::Sealed(inner, _) => inner.describe(slot, name),
            #[cfg(test)]
            Self::Failing(inner, _) => inner.describe(slot, name),
        }
    }

    /// Makes an object durable. Names are by content: a repeat does nothing.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`]; the object may be there all the same, now or later.
    pub async fn put(&self, slot: SlotId, name: &str, bytes: Bytes) -> Result<(), SnapshotError> {
        match self {
            Self::Store { store, root, .. } => {
                let path = path(root, slot, name);
                match bounded(store.put(&path, PutPayload::from(bytes))).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(e)) => Err(self.unavailable("put", slot, name, &e.to_string())),
                    Err(why) => Err(self.unavailable("put", slot, name, &why)),
                }
            }
            Self::Nats(nats) => nats.put(slot, name, bytes).await,
            Self::Sealed(inner, keys) => {
                let sealed = seal(keys, slot, name, &bytes).map_err(SnapshotError::Refused)?;
                Box::pin(inner.put(slot, name, sealed)).await
            }
            #[cfg(test)]
            Self::Failing(inner, faults) => {
                faults.put(name, bytes.len(), Box::pin(inner.put(slot, name, bytes))).await
            }
        }
    }

    /// Reads an object; `None`: it is not there.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`], and [`SnapshotError::Damaged`] when it is larger than any
    /// object of a snapshot, or incomplete.
    pub async fn get(&self, slot: SlotId, name: &str) -> Result<Option<Bytes>, SnapshotError> {
        match self {
            Self::Store { store, root, .. } => {
                let read = async {
                    let path = path(root, slot, name);
                    let found = store.get(&path).await?;
                    if found.meta.size > limits::SNAPSHOT_OBJECT_BYTES_MAX {
                        return Ok(Err(found.meta.size));
                    }
                    found.bytes().await.map(Ok)
                };
                match bounded(read).await {
                    Ok(Ok(Ok(bytes))) => Ok(Some(bytes)),
                    Ok(Ok(Err(size))) => Err(SnapshotError::Damaged {
                        object: self.describe(slot, name),
                        why: format!("it has {size} bytes"),
                    }),
                    Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
                    Ok(Err(e)) => Err(self.unavailable("get", slot, name, &e.to_string())),
                    Err(why) => Err(self.unavailable("get", slot, name, &why)),
                }
            }
            Self::Nats(nats) => nats.get(slot, name).await,
            Self::Sealed(inner, keys) => {
                let Some(bytes) = Box::pin(inner.get(slot, name)).await? else { return Ok(None) };
                let unopened = |e: Unopened| {
                    let (object, why) = (self.describe(slot, name), e.to_string());
                    match e {
                        // An older one would be another state.
                        Unopened::NoKey(_) => SnapshotError::Refused(format!("{object}: {why}")),
                        Unopened::Damaged => SnapshotError::Damaged { object, why },
                    }
                };
                open(keys, slot, name, bytes).map(Some).map_err(unopened)
            }
            #[cfg(test)]
            Self::Failing(inner, faults) => {
                faults.step()?;
                Box::pin(inner.get(slot, name)).await
            }
        }
    }

    /// All objects of a slot, in order of their names. Shows every object whose `put` had returned
    /// before the call began.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`].
    pub async fn list(&self, slot: SlotId) -> Result<Vec<Listed>, SnapshotError> {
        let mut listed = match self {
            Self::Store { store, root, .. } => {
                let folder = root.clone().join(format!("{slot:05}"));
                let list = store.list(Some(&folder)).map_ok(|meta| Listed {
                    name: meta.location.filename().unwrap_or_default().to_owned(),
                    bytes: Some(meta.size),
                });
                match bounded(list.try_collect::<Vec<_>>()).await {
                    Ok(Ok(listed)) => listed,
                    Ok(Err(object_store::Error::NotFound { .. })) => Vec::new(),
                    Ok(Err(e)) => return Err(self.unavailable("list", slot, "", &e.to_string())),
                    Err(why) => return Err(self.unavailable("list", slot, "", &why)),
                }
            }
            Self::Nats(nats) => nats.list(slot).await?,
            // They are as long as they were before they were sealed, and some more.
            Self::Sealed(inner, _) => {
                let listed = Box::pin(inner.list(slot)).await?;
                listed.into_iter().map(|it| Listed { bytes: None, ..it }).collect()
            }
            #[cfg(test)]
            Self::Failing(inner, _) => Box::pin(inner.list(slot)).await?,
        };
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// [`SnapshotError::Unavailable`].
    pub async fn delete(&self, slot: SlotId, name: &str) -> Result<(), SnapshotError> {
        match self {
            Self::Store { store, root, .. } => {
                match bounded(store.delete(&path(root, slot, name))).await {
                    Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => Ok(()),
                    Ok(Err(e)) => Err(self.unavailable("delete", slot, name, &e.to_string())),
                    Err(why) => Err(self.unavailable("delete", slot, name, &why)),
                }
            }
            Self::Nats(nats) => nats.delete(slot, name).await,
            Self::Sealed(inner, _) => Box::pin(inner.delete(slot, name)).await,
            #[cfg(test)]
            Self::Failing(inner, faults) => {
                faults.step()?;
                Box::pin(inner.delete(slot, name)).await
            }
        }
    }

    fn unavailable(&self, what: &str, slot: SlotId, name: &str, why: &str) -> SnapshotError {
        SnapshotError::Unavailable(format!("{what} {}: {why}", self.describe(slot, name)))
    }
}

/// Begins an object that is sealed; what follows is [`crate::seal`]'s.
const SEALED: &[u8] = b"slotdseal1";

/// Bound to its name: a slot's objects can't be put in each other's place.
fn seal(keys: &Keyring, slot: SlotId, name: &str, bytes: &Bytes) -> Result<Bytes, String> {
    if keys.sealing().is_none() {
        return Ok(bytes.clone());
    }
    let mut sealed = SEALED.to_vec();
    keys.seal(&[b"object", &slot.to_be_bytes(), name.as_bytes()], bytes, &mut sealed)?;
    Ok(sealed.into())
}

fn open(keys: &Keyring, slot: SlotId, name: &str, bytes: Bytes) -> Result<Bytes, Unopened> {
    match bytes.strip_prefix(SEALED) {
        Some(sealed) => {
            keys.open(&[b"object", &slot.to_be_bytes(), name.as_bytes()], sealed).map(Bytes::from)
        }
        None => Ok(bytes),
    }
}

fn path(root: &ObjectPath, slot: SlotId, name: &str) -> ObjectPath {
    root.clone().join(format!("{slot:05}")).join(name)
}

async fn bounded<T>(
    work: impl Future<Output = object_store::Result<T>>,
) -> Result<object_store::Result<T>, String> {
    let timeout = limits::SNAPSHOT_OBJECT_TIMEOUT;
    tokio::time::timeout(timeout, work).await.map_err(|_| format!("no answer within {timeout:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A typing error in the configuration must not send snapshots to some other place.
    #[test]
    fn places_parse_or_say_why_not() {
        for text in ["nats:", "file:///var/lib/slotd", "s3://bucket", "s3://bucket/a/b"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("", "not a place"),
            ("nats", "not a place"),
            ("nats://host", "not a place"),
            ("/var/lib", "not a place"),
            ("file://relative/dir", "absolute"),
            ("file://", "absolute"),
            ("s3://", "bucket"),
            ("s3://UPPER/x", "bucket"),
            ("s3://bucket//x", "prefix"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(why) && error.contains("file:///"), "{text}: {error}");
        }
    }
}
