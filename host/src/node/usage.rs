//! What was used, and what is stored: on this node, and on all of them.

use super::{session_check::flush, *};
use crate::{
    error::StateError,
    level::IDENTITY_FROM,
    quota::usage::{Ask, Row, Sums, UsageShare},
    state::stored::{StoredByService, add_all},
    telemetry::repeats,
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
        let (mut nodes, mut stored) = (Vec::new(), StoredByService::new());
        let (mut silent, by) = (Vec::new(), ask.by);
        let mut add = |node: &str, share: UsageShare| {
            nodes.push((share.last, share.rows));
            add_all(&mut stored, share.stored);
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
        let mut sums = Sums::default();
        sums.add_nodes(by, nodes);
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
            let (mut stored, uncounted) = stored.await?;
            stored.values_mut().for_each(|of| of.subjects.clear());
            let used = crate::task::blocking(move || usage.report(&ask)).await;
            let used =
                used.map_err(|e| Error::internal(format!("usage could not be read: {e}")))?;
            Ok(UsageShare { stored, uncounted, ..used })
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
                        known(slot, store.count_stored(slot, until).map(Some))?;
                    }
                    match known(slot, store.stored(slot))? {
                        Some(stored) => add_all(&mut all, stored),
                        None => uncounted += 1,
                    }
                }
                Ok::<_, Error>((all, uncounted))
            };
            let summed = crate::task::blocking(sum).await;
            summed.map_err(|e| Error::internal(format!("counting failed: {e}")))?
        }
    }

    /// Looks at what is stored, here and on the other nodes. `last` has what each of those said last.
    async fn look_at_stored(&self, last: &mut LastAnswers) -> Result<(), Error> {
        let (here, _) = self.stored_here(Look::Counted).await?;
        let mut everywhere = here.clone();
        // Others do not know the question.
        let all_know = self.context.level.get() >= IDENTITY_FROM;
        if let Some(cluster) = self.cluster.as_ref().filter(|_| all_know) {
            let answers = cluster.ask_all(&ControlRequest::Stored).await.into_iter();
            let answers = answers.map(|(node, answer)| match answer {
                Ok(ControlResponse::Stored(theirs)) => (node, Some(theirs)),
                Ok(_) | Err(_) => (node, None),
            });
            take_answers(last, answers);
            for theirs in last.values() {
                add_all(&mut everywhere, theirs.clone());
            }
        }
        let (usage, now) = (self.usage.clone(), crate::clock::now());
        let taken = crate::task::blocking(move || usage.stored(here, everywhere, now)).await;
        taken.map_err(|e| Error::internal(format!("what is stored could not be kept: {e}")))
    }

    /// How many sessions of a service the slots of all nodes have, as far as they are counted: no row of theirs is read for it.
    pub(super) async fn stored_sessions(&self, service: &ServiceName) -> Result<u64, Error> {
        let (mut all, _) = self.stored_here(Look::Known).await?;
        let all_know = self.context.level.get() >= IDENTITY_FROM;
        if let Some(cluster) = self.cluster.as_ref().filter(|_| all_know) {
            for (_, answer) in cluster.ask_all(&ControlRequest::Stored).await {
                if let Ok(ControlResponse::Stored(theirs)) = answer {
                    add_all(&mut all, theirs);
                }
            }
        }
        Ok(all.get(service).map_or(0, |of| of.all.sessions))
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

/// What other nodes said last that they store.
type LastAnswers = BTreeMap<Arc<str>, StoredByService>;

/// Of a member that did not answer, what it said last stays: with nothing in its place, services would be let past limits on
/// what is kept, just while a node is slow. Others are forgotten: whoever takes over their slots counts them.
fn take_answers(
    last: &mut LastAnswers,
    answers: impl Iterator<Item = (Arc<str>, Option<StoredByService>)>,
) {
    let mut before = std::mem::take(last);
    last.extend(answers.filter_map(|(node, answer)| {
        let known = answer.or_else(|| before.remove(&node));
        Some((node, known?))
    }));
}

/// Damage of one slot leaves the others counted. It is for those who need what is damaged to end the node.
fn known<T>(slot: SlotId, read: Result<Option<T>, StateError>) -> Result<Option<T>, StateError> {
    match read {
        Err(StateError::Corrupt(why)) => {
            if repeats::admit("what is stored can't be counted", slot) {
                tracing::warn!(
                    slot,
                    why,
                    "what a slot stores can't be counted: its store is damaged"
                );
            }
            Ok(None)
        }
        read => read,
    }
}

/// Looks at what is stored and writes what was counted, as long as the node runs. It is written once more when the slots have
/// stopped ([`Node::stop`]).
pub(super) async fn keep(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(quota_limits::USAGE_WRITE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = LastAnswers::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let Some(node) = node.upgrade() else { return };
        // First: what is counted is lost with the process, and a count of what is stored may take long.
        node.write_usage().await;
        if let Err(error) = node.look_at_stored(&mut last).await {
            tracing::warn!(%error, "what services store could not be looked at");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::stored::{StoredNow, StoredOf};

    /// A node that is busy for five seconds would lift the limits on what is kept.
    #[test]
    fn a_node_that_does_not_answer_counts_with_what_it_said_last() {
        let says = |bytes| {
            let service = ServiceName::parse("chat").unwrap();
            let of = StoredOf { all: StoredNow { sessions: 1, bytes }, ..StoredOf::default() };
            Some(StoredByService::from([(service, of)]))
        };
        let mut last = LastAnswers::new();
        let mut look = |answers: &[(&str, Option<StoredByService>)]| {
            let answers = answers.iter().map(|(node, answer)| (Arc::from(*node), answer.clone()));
            take_answers(&mut last, answers);
            last.values().flat_map(BTreeMap::values).map(|of| of.all.bytes).sum::<u64>()
        };
        assert_eq!(look(&[("a", says(5)), ("b", says(7)), ("c", None)]), 12);
        assert_eq!(look(&[("a", None), ("b", says(8)), ("c", says(1))]), 14);
        assert_eq!(look(&[("a", None), ("b", says(9)), ("c", says(1))]), 15);
        // It has left, or has failed; when it is back, it is asked again.
        assert_eq!(look(&[("b", None), ("c", says(1))]), 10);
        assert_eq!(look(&[("a", None), ("b", says(1)), ("c", says(1))]), 2);
    }
}
