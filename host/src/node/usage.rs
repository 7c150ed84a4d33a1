//! What was used, and what is stored: on this node, and on all of them.

use super::{session_check::flush, *};
use crate::{
    level::IDENTITY_FROM,
    quota::usage::{Ask, Row, Sums, UsageShare},
    state::stored::StoredByService,
};
use slotd_quota::limits as quota_limits;

/// What was used, over all nodes that answered.
pub struct UsageReport {
    pub rows: Vec<Row>,
    /// What is stored now.
    pub stored: StoredByService,
    /// Nodes whose numbers are missing, with the reason.
    pub silent: Vec<SilentNode>,
}

/// How to look at what is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As it was written last.
    Known,
    /// With what is committed: whoever asks sees what he has sent.
    Flushed,
    /// With slots that were not counted yet, for [`limits::STORED_COUNT_TIME`].
    Counted,
}

impl Node {
    /// What was used, over all nodes.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn usage(&self, ask: Ask) -> Result<UsageReport, Error> {
        let own = self.usage_here(ask.clone()).await?;
        let (mut sums, mut stored) = (Sums::default(), StoredByService::new());
        let mut silent = Vec::new();
        let mut add = |node: &str, share: UsageShare| {
            sums.add_rows(share.rows);
            add_stored(&mut stored, share.stored);
            (share.uncounted > 0).then(|| SilentNode {
                node: node.to_owned(),
                why: format!("what {} slots store is not counted yet", share.uncounted),
            })
        };
        silent.extend(add(&self.name, own));
        if let Some(cluster) = &self.cluster {
            let asked = ControlRequest::Usage(ask);
            for (node, answer) in cluster.ask_all(&asked).await {
                match answer {
                    Ok(ControlResponse::Usage(share)) => silent.extend(add(&node, *share)),
                    Ok(_) => {}
                    Err(error) => {
                        let why = error.detail.into();
                        silent.push(SilentNode { node: node.to_string(), why });
                    }
                }
            }
        }
        // They may come back, with what they have counted.
        let away = self.level().nodes.into_iter().filter(|node| node.away);
        silent.extend(away.map(|node| SilentNode {
            node: node.node,
            why: "it is away; what it has counted is missing".into(),
        }));
        Ok(UsageReport { rows: sums.rows(), stored, silent })
    }

    /// As [`Node::usage`], of this node.
    pub(super) fn usage_here(
        &self,
        ask: Ask,
    ) -> impl Future<Output = Result<UsageShare, Error>> + Send + use<> {
        let usage = self.usage.clone();
        let stored = self.stored_here(Look::Flushed);
        async move {
            let (stored, uncounted) = stored.await?;
            let rows = crate::task::blocking(move || usage.report(&ask)).await;
            let rows =
                rows.map_err(|e| Error::internal(format!("usage could not be read: {e}")))?;
            Ok(UsageShare { rows, stored, uncounted })
        }
    }

    /// What the slots of this node store, and how many were not counted yet.
    pub(super) fn stored_here(
        &self,
        look: Look,
    ) -> impl Future<Output = Result<(StoredByService, u32), Error>> + Send + use<> {
        let slots: Vec<SlotId> = match &self.cluster {
            Some(cluster) => cluster.here().collect(),
            None => (0..self.router.slot_count()).collect(),
        };
        let (router, store) = (self.router.clone(), self.context.store.clone());
        async move {
            if look == Look::Flushed {
                flush(&router, &slots).await;
            }
            let sum = move || {
                let (mut all, mut uncounted) = (StoredByService::new(), 0);
                let until = crate::clock::now() + limits::STORED_COUNT_TIME;
                for slot in slots {
                    if look == Look::Counted && crate::clock::now() < until {
                        store.count_stored(slot)?;
                    }
                    match store.stored(slot)? {
                        Some(stored) => add_stored(&mut all, stored),
                        None => uncounted += 1,
                    }
                }
                Ok::<_, Error>((all, uncounted))
            };
            let summed = crate::task::blocking(sum).await;
            summed.map_err(|e| Error::internal(format!("counting failed: {e}")))?
        }
    }

    /// Looks at what is stored, here and on the other nodes.
    async fn look_at_stored(&self) -> Result<(), Error> {
        let (here, _) = self.stored_here(Look::Counted).await?;
        let mut everywhere = here.clone();
        // Others do not know the question.
        let all_know = self.context.level.get() >= IDENTITY_FROM;
        if let Some(cluster) = self.cluster.as_ref().filter(|_| all_know) {
            for (_, answer) in cluster.ask_all(&ControlRequest::Stored).await {
                if let Ok(ControlResponse::Stored(theirs)) = answer {
                    add_stored(&mut everywhere, theirs);
                }
            }
        }
        self.usage.stored(here, everywhere, crate::clock::now());
        Ok(())
    }

    /// Writes what was counted.
    pub(super) async fn write_usage(&self) {
        let usage = self.usage.clone();
        let written = crate::task::blocking(move || usage.write(now_ms())).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "usage could not be written; it is tried again");
        }
    }
}

fn add_stored(sums: &mut StoredByService, more: StoredByService) {
    for (service, stored) in more {
        sums.entry(service).or_default().add(stored);
    }
}

/// Looks at what is stored and writes what was counted, as long as the node runs. It is written once more when the slots have
/// stopped ([`Node::stop`]).
pub(super) async fn keep(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(quota_limits::USAGE_WRITE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(node) = node.upgrade() else { return };
        // First: what is counted is lost with the process, and a count of what is stored may take long.
        node.write_usage().await;
        if let Err(error) = node.look_at_stored().await {
            tracing::warn!(%error, "what services store could not be looked at");
        }
    }
}
