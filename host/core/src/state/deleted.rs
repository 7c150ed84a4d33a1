//! Which names had a session that was deleted: rows beside those of the sessions, under numbers
//! that no session is given. They are folded from the log and travel with snapshots as all state
//! does. Needed for positions that do not name their session ([`crate::position`]).
//!
//! A row is kept while the slot makes its next [`limits::DELETED_NAMES_SESSIONS`] sessions at
//! least. After that a whole generation of them is collected as the rows of a deleted session are.

use super::changes::{Changes, SessionChanges};
use crate::{
    limits,
    log::record::Delete,
    names::{ServiceName, SessionId, SessionKey},
};
use bytes::Bytes;

/// Sessions are numbered from 1 up.
const FIRST_GENERATION: u64 = 1 << 63;

/// The row of a name.
pub fn row(key: &SessionKey) -> [u8; 8] {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(key.service.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(key.session.as_str().as_bytes());
    hasher.digest().to_be_bytes()
}

/// Where a name is written that is deleted before session `next_session` is made.
fn generation(next_session: u64) -> u64 {
    FIRST_GENERATION + next_session / limits::DELETED_NAMES_SESSIONS
}

/// Where a name can stand that was deleted before session `next_session` is made.
pub fn generations(next_session: u64) -> [u64; 2] {
    let now = generation(next_session);
    [now, now.saturating_sub(1).max(FIRST_GENERATION)]
}

/// What makes a slot forget the names that it may still doubt.
pub fn forget(next_session: u64, service: &ServiceName) -> Vec<Delete> {
    let Ok(session) = SessionId::parse("-") else { return Vec::new() };
    let key = SessionKey { service: service.clone(), session };
    let generations = generations(next_session).into_iter();
    generations.map(|session_number| Delete::new(key.clone(), session_number)).collect()
}

/// Whether a delete removes rows of names rather than a session.
pub fn is_of_names(delete: &Delete) -> bool {
    delete.session_number >= FIRST_GENERATION
}

impl Changes {
    pub(super) fn remember_deleted(&mut self, next_session: u64, key: &SessionKey) {
        let row = Bytes::copy_from_slice(&row(key));
        let names: &mut SessionChanges = self.sessions.entry(generation(next_session)).or_default();
        names.state.insert(row, Some(Bytes::new()));
    }

    /// A session was made: the slot's next is `next`, and was `before`.
    pub(super) fn forget_deleted(&mut self, before: u64, next: u64, key: &SessionKey) {
        let (before, next) = (generation(before), generation(next));
        if before == next || next < FIRST_GENERATION + 2 {
            return;
        }
        let session_number = next - 2;
        self.sessions.remove(&session_number);
        self.deleted.push(Delete::new(key.clone(), session_number));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::SlotMeta;

    /// A name that is forgotten too early makes a position of the old session one of the new; one
    /// that is never forgotten is on the disk for ever.
    #[test]
    fn deleted_names_are_remembered_for_a_while() {
        let key = |n: u64| SessionKey::parse("chat", &n.to_string()).unwrap();
        let kept = limits::DELETED_NAMES_SESSIONS;
        let (mut changes, mut gone) = (Changes::default(), Vec::new());
        let mut meta = SlotMeta { next_session: 1, ..SlotMeta::default() };
        for number in 1..=4 * kept {
            changes.forget_deleted(meta.next_session, number + 1, &key(number));
            meta.next_session = number + 1;
            changes.remember_deleted(meta.next_session, &key(number));
            for delete in changes.deleted.drain(..) {
                assert!(!changes.sessions.contains_key(&delete.session_number));
                gone.push(delete.session_number);
            }
            let known = |n: u64| {
                generations(meta.next_session).iter().any(|generation| {
                    let names = changes.sessions.get(generation);
                    names.is_some_and(|names| names.state.contains_key(&row(&key(n))[..]))
                })
            };
            if number % 1_000 == 0 {
                assert!(known(number) && known(number.saturating_sub(kept).max(1)), "{number}");
            }
        }
        assert_eq!(gone.len(), 3);
        let names: usize = changes.sessions.values().map(|names| names.state.len()).sum();
        assert!(names as u64 <= 2 * kept, "{names} names");
    }
}
