//! What services have stored: how many sessions, and how many bytes; and who has made them.

use crate::{effects::Origin, limits, log::record::Entry, names::ServiceName, usage::with_account};
use serde::{Deserialize, Serialize};
use slotd_quota::usage::kept_name;
use std::collections::BTreeMap;

/// What a service has stored, in a slot or in more of them, as of the last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredNow {
    pub sessions: u64,
    /// Keys and values of states, histories and idempotency keys, before they are compressed. Not what is due or on its way, nor
    /// what is not collected yet of sessions that are deleted.
    pub bytes: u64,
}

impl StoredNow {
    pub fn add(&mut self, other: Self) {
        self.sessions = self.sessions.saturating_add(other.sessions);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn remove(&mut self, other: Self) {
        self.sessions = self.sessions.saturating_sub(other.sessions);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What a service has stored, and what of it is in sessions that a subject has made. Between nodes it is a [`StoredNow`] with
/// something that versions from before pass over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOf {
    #[serde(flatten)]
    pub all: StoredNow,
    /// Of those that have something, as far as there was a place for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subjects: BTreeMap<Maker, StoredNow>,
}

/// A subject that has made sessions, as usage names it.
pub type Maker = Box<str>;

/// By service; one that has nothing is not there.
pub type StoredByService = BTreeMap<ServiceName, StoredOf>;

/// Who has made a session, by its first message: a client that was shown to be a subject. Of one that was forked off another
/// one that is who forked it, whoever sent that message to the other.
pub fn maker(first: &Entry) -> Option<Maker> {
    let client = match first.origin.as_deref() {
        Some(Origin::Inherited(inherited)) => inherited.by.as_ref(),
        _ => first.client(),
    };
    let client = client.filter(|_| first.begins());
    with_account(client.map(|client| &**client), |account| Some(kept_name(account?).into()))
}

impl StoredOf {
    /// Counts a session of so many bytes. Gives the subject whom it counts for: nobody, where too many have sessions in this slot.
    pub fn add_session(&mut self, maker: Option<Maker>, bytes: u64) -> Option<Maker> {
        let one = StoredNow { sessions: 1, bytes };
        self.all.add(one);
        let has_room = self.subjects.len() < limits::STORED_SUBJECTS_MAX;
        let maker = maker.filter(|maker| has_room || self.subjects.contains_key(maker))?;
        self.subjects.entry(maker.clone()).or_default().add(one);
        Some(maker)
    }

    /// One that was counted, for that subject, is gone.
    pub fn remove_session(&mut self, maker: Option<&str>, bytes: u64) {
        let one = StoredNow { sessions: 1, bytes };
        self.all.remove(one);
        let Some(maker) = maker else { return };
        if let Some(sum) = self.subjects.get_mut(maker) {
            sum.remove(one);
            if sum.sessions == 0 {
                self.subjects.remove(maker);
            }
        }
    }

    pub fn add(&mut self, other: Self) {
        self.all.add(other.all);
        for (subject, stored) in other.subjects {
            self.subjects.entry(subject).or_default().add(stored);
        }
    }
}

/// Adds what more slots have. Of all services so many subjects stay, those that store most ([`limits::STORED_SUBJECTS_SUMS_MAX`]).
pub fn add_all(sums: &mut StoredByService, more: StoredByService) {
    for (service, stored) in more {
        sums.entry(service).or_default().add(stored);
    }
    keep_largest(sums, limits::STORED_SUBJECTS_SUMS_MAX);
}

/// Not each time that one is too many: it looks at all of them.
fn keep_largest(sums: &mut StoredByService, max: usize) {
    let held = sums.values().map(|of| of.subjects.len()).sum::<usize>();
    if held <= max + max / 4 {
        return;
    }
    let all = sums.values().flat_map(|of| of.subjects.values());
    let mut bytes: Vec<_> = all.map(|stored| stored.bytes).collect();
    let (larger, least, _) = bytes.select_nth_unstable_by(max, |one, other| other.cmp(one));
    let least = *least;
    // Of those that store as much as that.
    let mut left = max - larger.iter().filter(|bytes| **bytes > least).count();
    for of in sums.values_mut() {
        of.subjects.retain(|_, stored| {
            let is_last = stored.bytes == least && left > 0;
            left -= usize::from(is_last);
            is_last || stored.bytes > least
        });
    }
}

/// What is stored now, over all slots of all nodes, as far as that is known: half a minute late as a rule.
pub trait Stored: Send + Sync + 'static {
    fn of(&self, service: &ServiceName) -> StoredNow;
    /// What a subject's sessions have of it.
    fn of_subject(&self, service: &ServiceName, subject: &str) -> StoredNow;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(n: u64) -> Maker {
        format!("token:{n:05}").into()
    }

    /// Whoever comes first would lose his place, or be counted and not be uncounted.
    #[test]
    fn a_slot_counts_for_so_many_subjects_and_gives_their_places_back() {
        let mut of = StoredOf::default();
        let max = limits::STORED_SUBJECTS_MAX as u64;
        for n in 0..max {
            assert_eq!(of.add_session(Some(name(n)), 10), Some(name(n)));
        }
        assert_eq!(of.add_session(Some(name(max)), 10), None);
        assert_eq!(of.add_session(Some(name(0)), 5), Some(name(0)));
        assert_eq!((of.all.sessions, of.subjects.len() as u64), (max + 2, max));
        of.remove_session(Some(&name(0)), 10);
        assert_eq!(of.subjects[&name(0)], StoredNow { sessions: 1, bytes: 5 });
        of.remove_session(Some(&name(0)), 5);
        assert_eq!(of.add_session(Some(name(max)), 10), Some(name(max)));
        of.remove_session(None, 10);
        assert_eq!((of.all.sessions, of.all.bytes), (max, 10 * max));
    }

    /// Of a million subjects the ones that are near to a limit would be forgotten, or all of them be kept.
    #[test]
    fn of_too_many_subjects_those_that_store_most_stay() {
        let [chat, board] = ["chat", "board"].map(|name| ServiceName::parse(name).unwrap());
        let mut sums = StoredByService::new();
        for n in 0..1_000 {
            let bytes = n / 2;
            let service = if n % 2 == 0 { &chat } else { &board };
            sums.entry(service.clone()).or_default().add_session(Some(name(n)), bytes);
        }
        let all: Vec<_> = sums.values().map(|of| of.all).collect();
        keep_largest(&mut sums, 900);
        let held =
            |sums: &StoredByService| sums.values().map(|of| of.subjects.len()).sum::<usize>();
        assert_eq!(held(&sums), 1_000, "they are not that many");
        keep_largest(&mut sums, 301);
        assert_eq!(held(&sums), 301);
        let left = sums.values().flat_map(|of| of.subjects.values());
        assert_eq!(left.map(|stored| stored.bytes).min(), Some(349));
        assert_eq!(sums.values().map(|of| of.all).collect::<Vec<_>>(), all);
    }

    /// A node of the version before could not tell this one what it stores, in a cluster that is upgraded, nor be told.
    #[test]
    fn what_nodes_tell_each_other_is_read_by_the_version_before_and_of_it() {
        let before = StoredNow { sessions: 3, bytes: 9 };
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(text, r#"{"sessions":3,"bytes":9}"#);
        let read: StoredOf = serde_json::from_str(&text).unwrap();
        assert_eq!(read, StoredOf { all: before, ..StoredOf::default() });
        let mut now = read;
        now.add_session(Some(name(1)), 1);
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<StoredOf>(&text).unwrap(), now);
        assert_eq!(serde_json::from_str::<StoredNow>(&text).unwrap(), now.all);
    }
}
