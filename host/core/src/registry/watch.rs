//! The task that watches the registry.

use super::{Components, PLACEMENT, Shared, bucket::Bucket, readers::NODE};
use crate::{backoff::Backoff, limits};
use async_nats::jetstream::kv;
use futures_util::StreamExt;
use std::{collections::HashSet, sync::Arc};
use tokio::sync::watch::Sender;

/// Watches forever. `current` becomes true once all existing values have been seen.
///
/// A watch returns the last value of every key, then each change. async-nats resumes a watch when
/// its connection comes back; if it ends or fails permanently, a new one lists everything again.
pub async fn run(
    bucket: Bucket,
    components: Components,
    shared: Arc<Shared>,
    current: Sender<bool>,
) {
    let mut suspects = HashSet::new();
    let mut sweep = tokio::time::interval(limits::COMPONENTS_SWEEP_INTERVAL);
    let mut wait = Backoff::new(limits::REGISTRY_RETRY_MIN, limits::REGISTRY_RETRY_MAX);
    loop {
        match bucket.store.watch_with_history(">").await {
            Ok(mut watch) => loop {
                tokio::select! {
                    entry = watch.next() => match entry {
                        Some(Ok(entry)) => {
                            wait.reset();
                            see(&shared, &entry);
                            if entry.seen_current {
                                current.send_replace(true);
                            }
                        }
                        Some(Err(error)) => {
                            tracing::warn!(%error, "lost the watch on the registry");
                            break;
                        }
                        None => break,
                    },
                    _ = sweep.tick() => suspects = components.sweep(suspects).await,
                }
            },
            Err(error) => tracing::warn!(%error, "can't watch the registry; retrying"),
        }
        tokio::time::sleep(wait.next()).await;
    }
}

fn see(shared: &Shared, entry: &kv::Entry) {
    match entry.operation {
        kv::Operation::Put => {
            shared.learn(&entry.key, entry.revision, &entry.value);
            shared.date_reader(&entry.key, entry.revision, entry.created.unix_timestamp());
        }
        kv::Operation::Delete | kv::Operation::Purge if entry.key == PLACEMENT => {
            shared.learn(
                &entry.key,
                entry.revision,
                br#"{"format":1,"attempt":"","value":{"avoid":{}}}"#,
            );
        }
        kv::Operation::Delete | kv::Operation::Purge if entry.key.starts_with(NODE) => {
            shared.learn(&entry.key, entry.revision, b"");
        }
        // Sessions and logs refer to deployments by number permanently.
        kv::Operation::Delete | kv::Operation::Purge => {
            tracing::error!(
                key = entry.key,
                "a value was deleted from the registry; this node keeps its copy"
            );
        }
    }
}
