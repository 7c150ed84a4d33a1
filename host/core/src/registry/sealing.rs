//! The key `sealed` of the registry: which keys the slots' logs and snapshots may be sealed with, how each node keeps what
//! it writes, and which slots are kept all alike.
//!
//! A process has one key in use for all its life. So all that is written to a slot in one term is kept alike, and of a slot of
//! which nothing is older than a term ([`crate::slot::SlotStats::all_since`]) it is known how it is kept. When
//! that was said of every slot, and all nodes that were here last keep what they write in the same way, no other key is
//! needed for the cluster's logs and snapshots. A node that keeps it otherwise begins with saying so here, in the same
//! value: it can't be overlooked.

use super::{Reader, Registry, bucket, bucket::BucketError, bucket::Swapped};
use crate::{
    error::{Code, Error},
    level::{SEALED_FROM, Unknown},
    limits,
    log::Term,
    names::SlotId,
    nats::NatsError,
    seal::{CLEAR, Keyring},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const SEALED: &str = "sealed";

/// How the cluster's data is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// The ids of the keys that something of it may be sealed with.
    pub keys: Vec<String>,
    /// How the node that began last keeps what it writes: the id of a key, or `clear text`.
    #[serde(default)]
    pub kept_as: String,
    /// All of it is kept so.
    #[serde(default)]
    pub done: bool,
    /// The nodes that were here last, by name.
    #[serde(default)]
    pub nodes: BTreeMap<String, SealingNode>,
    /// Since which term all of a slot is kept so, as far as it is known; nothing once it is `done`.
    #[serde(default)]
    pub slots: BTreeMap<SlotId, Term>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// What a node has said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingNode {
    /// Distinguishes this process from others of its name.
    pub instance: String,
    pub kept_as: String,
    /// The ids of the keys that something in its data directory may be sealed with.
    #[serde(default)]
    pub needs: Vec<String>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Sealing {
    /// The nodes that keep what they write otherwise than the one that began last.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        let others = self.nodes.iter().filter(|(_, node)| node.kept_as != self.kept_as);
        others.map(|(name, _)| name.as_str())
    }

    /// Those of `readers`, all processes of the cluster, that have not said how they keep what they write: they began
    /// before anything was sealed, or before nodes said so.
    pub fn unheard<'a>(&self, readers: &'a [Reader]) -> impl Iterator<Item = &'a str> {
        let is_known = |reader: &&Reader| {
            let node = self.nodes.get(&*reader.name);
            node.is_some_and(|node| node.instance == reader.instance)
        };
        readers.iter().filter(move |reader| !is_known(reader)).map(|reader| &*reader.name)
    }

    /// The processes that may write, and how each keeps it.
    fn writers(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.nodes.iter().map(|(name, node)| (&**name, &*node.instance, &*node.kept_as))
    }

    /// Whether the same processes may write, and each keeps it as it did.
    pub fn has_writers_of(&self, other: &Self) -> bool {
        self.writers().eq(other.writers())
    }

    /// Takes down that everything is kept alike, if it is.
    fn conclude(&mut self, slot_count: u16) {
        if self.others().next().is_none() && (0..slot_count).all(|it| self.slots.contains_key(&it))
        {
            self.keys = Some(self.kept_as.clone()).filter(|it| it != CLEAR).into_iter().collect();
            self.slots.clear();
            self.done = true;
        }
    }

    /// A node begins.
    fn begins(&mut self, name: &str, node: SealingNode) {
        // Of one that was not here, nobody knows how it kept what it wrote before.
        if self.kept_as != node.kept_as || !self.nodes.contains_key(name) {
            self.kept_as.clone_from(&node.kept_as);
            self.slots.clear();
            self.done = false;
        }
        if node.kept_as != CLEAR && !self.keys.contains(&node.kept_as) {
            self.keys.push(node.kept_as.clone());
        }
        self.nodes.insert(name.to_owned(), node);
    }
}

impl Registry {
    /// Notes how this node keeps what it writes, before it writes anything. `needs`: the keys of its data directory.
    ///
    /// # Errors
    /// [`NatsError::Refused`]: something is sealed with a key that is not among `keys`, or not all nodes could read
    /// what is sealed. [`NatsError::Unavailable`].
    pub async fn seal_with(
        &self,
        keys: &Keyring,
        (name, instance): (&str, &str),
        needs: &[String],
    ) -> Result<(), NatsError> {
        let unavailable = |e: BucketError| NatsError::Unavailable(e.to_string());
        let bucket = &self.inner.bucket;
        let had: Vec<_> = keys.ids().map(|id| id.to_string()).collect();
        let mut current = bucket.read(SEALED).await.map_err(unavailable)?;
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let (revision, known) = match &current {
                Some((revision, value)) => {
                    let known: Result<Sealing, _> = bucket::decode(value);
                    (*revision, known.map_err(NatsError::Refused)?)
                }
                None => (0, Sealing::default()),
            };
            if let Some(id) = known.keys.iter().find(|id| !had.contains(id)) {
                return Err(NatsError::Refused(format!(
                    "this cluster has data that is sealed with the key {id}, which this node does not have: give it \
                     that key in seal.key_file. `slotd seal status` on a node that serves shows what still needs a key, \
                     and when none of it does"
                )));
            }
            // Where nothing was ever sealed, nothing is noted.
            if current.is_none() && keys.sealing().is_none() {
                return Ok(());
            }
            let level = self.level().get();
            if level < SEALED_FROM {
                return Err(NatsError::Refused(format!(
                    "data of a cluster can be sealed from feature level {SEALED_FROM} on, and this one is at {level}: \
                     raise it (`slotd level --raise`) before seal.key_file is set"
                )));
            }
            let mut next = known.clone();
            let node = SealingNode {
                instance: instance.to_owned(),
                kept_as: keys.kept_as(),
                needs: needs.to_vec(),
                unknown: Unknown::default(),
            };
            next.begins(name, node);
            match bucket.swap(SEALED, &next, revision).await.map_err(unavailable)? {
                Swapped::Won { .. } => return Ok(()),
                Swapped::Lost { revision, value } => current = Some((revision, value)),
            }
        }
        Err(NatsError::Unavailable("too many concurrent changes of the registry".into()))
    }

    /// How the cluster's data is kept; `None`: nothing was ever sealed.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn sealing(&self) -> Result<Option<Sealing>, Error> {
        let read = self.inner.bucket.read(SEALED).await?;
        let read = read.map(|(_, value)| bucket::decode(&value).map_err(BucketError::from));
        Ok(read.transpose()?)
    }

    /// Notes of slots since which term all of each is kept as this node keeps it, and the keys that its data directory
    /// needs. The slots were found so while these were the writers: if there is another one now, they do not count.
    ///
    /// # Errors
    /// `storage-unavailable`, `outcome-unknown`.
    pub async fn note_sealing(
        &self,
        (name, instance): (&str, &str),
        (found, slots): (&Sealing, &BTreeMap<SlotId, Term>),
        needs: &[String],
    ) -> Result<(), Error> {
        let slot_count = self.inner.settings.slot_count;
        self.change_sealing(|sealing| {
            let same = sealing.has_writers_of(found);
            let Some(node) = sealing.nodes.get_mut(name).filter(|node| node.instance == instance)
            else {
                return;
            };
            node.needs = needs.to_vec();
            if same && node.kept_as == sealing.kept_as && !sealing.done {
                sealing.slots.extend(slots);
                sealing.conclude(slot_count);
            }
        })
        .await
    }

    /// A process has gone, and does not come back as it was. `instance`: only that one; `None`: an operator says so of all
    /// of its name.
    pub(super) async fn forget_sealing(
        &self,
        name: &str,
        instance: Option<&str>,
    ) -> Result<(), Error> {
        let slot_count = self.inner.settings.slot_count;
        let forgotten = self.change_sealing(|sealing| {
            let is_it = |node: &SealingNode| instance.is_none_or(|it| node.instance == it);
            if sealing.nodes.get(name).is_some_and(is_it) {
                sealing.nodes.remove(name);
                if !sealing.done {
                    sealing.conclude(slot_count);
                }
            }
        });
        forgotten.await
    }

    async fn change_sealing(&self, change: impl Fn(&mut Sealing)) -> Result<(), Error> {
        let bucket = &self.inner.bucket;
        let mut current = bucket.read(SEALED).await?;
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let Some((revision, value)) = &current else { return Ok(()) };
            let known: Sealing = bucket::decode(value).map_err(BucketError::from)?;
            let mut next = known.clone();
            change(&mut next);
            if next == known {
                return Ok(());
            }
            match bucket.swap(SEALED, &next, *revision).await? {
                Swapped::Won { .. } => return Ok(()),
                Swapped::Lost { revision, value } => current = Some((revision, value)),
            }
        }
        let why = "too many concurrent changes of the registry; try again";
        Err(Error::new(Code::StorageUnavailable, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kept_as: &str) -> SealingNode {
        let kept_as = kept_as.to_owned();
        SealingNode {
            instance: "i".into(),
            kept_as,
            needs: Vec::new(),
            unknown: Unknown::default(),
        }
    }

    /// A key that is still needed would be deleted by its operator: its slots were lost.
    #[test]
    fn a_key_leaves_when_every_slot_and_every_node_is_on_another() {
        let mut sealing = Sealing::default();
        for name in ["a", "b"] {
            sealing.begins(name, node("1"));
        }
        sealing.slots = (0..2).map(|slot| (slot, 1)).collect();
        sealing.conclude(2);
        assert!(sealing.done && sealing.keys == ["1"]);
        // One node is on the next key: what was known of slots does not count, and is not enough.
        sealing.begins("a", node("2"));
        assert!(!sealing.done && sealing.keys == ["1", "2"] && sealing.slots.is_empty());
        sealing.slots = (0..2).map(|slot| (slot, 2)).collect();
        sealing.conclude(2);
        assert!(!sealing.done && sealing.others().eq(["b"]));
        sealing.begins("b", node("2"));
        sealing.slots.remove(&1);
        sealing.conclude(2);
        assert!(!sealing.done && sealing.keys.len() == 2, "a slot is left");
        sealing.slots.insert(1, 3);
        sealing.conclude(2);
        assert!(sealing.done && sealing.keys == ["2"] && sealing.slots.is_empty());
        // One that had written before anything was said of it: what it wrote may be anywhere.
        sealing.begins("c", node("2"));
        assert!(!sealing.done && sealing.slots.is_empty());
        let reader = |name: &str, instance: &str| Reader {
            name: name.into(),
            newest: SEALED_FROM,
            instance: instance.into(),
            version: "".into(),
        };
        let readers = [reader("a", "i"), reader("b", "another"), reader("d", "i")];
        assert!(sealing.unheard(&readers).eq(["b", "d"]));
        // And back to clear text.
        sealing.begins("a", node(CLEAR));
        sealing.begins("b", node(CLEAR));
        sealing.begins("c", node(CLEAR));
        assert_eq!(sealing.keys, ["2"]);
        sealing.slots = (0..2).map(|slot| (slot, 4)).collect();
        sealing.conclude(2);
        assert!(sealing.done && sealing.keys.is_empty());
    }
}
