//! The keys of the state store's keyspaces. Integers are big-endian, so that order of bytes is
//! order of meaning; names cannot contain a zero byte, so a zero byte ends a service.

use crate::names::{ServiceName, SessionId, SessionKey, SlotId};

/// `slot`: the key in `slots`.
pub fn slot(slot: SlotId) -> [u8; 2] {
    slot.to_be_bytes()
}

/// `slot | service | 0`: what all sessions of a service in a slot start with (`heads`, `pinned`).
pub fn service(slot: SlotId, service: &ServiceName) -> Vec<u8> {
    named(slot, service.as_str(), "")
}

/// `slot | service | 0 | session`: the key in `heads` and `pinned`.
pub fn session(slot: SlotId, key: &SessionKey) -> Vec<u8> {
    named(slot, key.service.as_str(), key.session.as_str())
}

pub fn named(slot: SlotId, service: &str, session: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(3 + service.len() + session.len());
    named_into(&mut out, slot, service, session);
    out
}

/// As [`session`], in place of what `out` held.
pub fn session_into(out: &mut Vec<u8>, slot: SlotId, key: &SessionKey) {
    out.clear();
    named_into(out, slot, key.service.as_str(), key.session.as_str());
}

fn named_into(out: &mut Vec<u8>, slot: SlotId, service: &str, session: &str) {
    out.extend_from_slice(&slot.to_be_bytes());
    out.extend_from_slice(service.as_bytes());
    out.push(0);
    out.extend_from_slice(session.as_bytes());
}

/// The service in a key of `heads` or `pinned`; `None` when the key is not one.
pub fn service_of(key: &[u8]) -> Option<ServiceName> {
    let name = key.get(2..)?;
    let zero = name.iter().position(|&byte| byte == 0)?;
    ServiceName::parse(std::str::from_utf8(&name[..zero]).ok()?).ok()
}

/// The session's id in a key of `heads` or `pinned`; `None` when the key is not one.
pub fn session_of(key: &[u8], prefix_len: usize) -> Option<SessionId> {
    let id = std::str::from_utf8(key.get(prefix_len..)?).ok()?;
    SessionId::parse(id).ok()
}

/// `slot | session number`: the key in `garbage`, and what all rows of a session start with.
pub fn number(slot: SlotId, session: u64) -> [u8; 10] {
    let mut out = [0; 10];
    out[..2].copy_from_slice(&slot.to_be_bytes());
    out[2..].copy_from_slice(&session.to_be_bytes());
    out
}

/// The slot and session number that [`number`] made.
pub fn number_of(key: &[u8]) -> Option<(SlotId, u64)> {
    let (slot, session) = key.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*slot), u64::from_be_bytes(session.try_into().ok()?)))
}

/// `slot | session number | rest`: a key in `state` (its key) or `remembered` (its id).
pub fn of_session(slot: SlotId, session: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + rest.len());
    of_session_into(&mut out, slot, session, rest);
    out
}

/// As [`of_session`], in place of what `out` held.
pub fn of_session_into(out: &mut Vec<u8>, slot: SlotId, session: u64, rest: &[u8]) {
    out.clear();
    out.extend_from_slice(&number(slot, session));
    out.extend_from_slice(rest);
}

/// `slot | session number | last seq`: a key in `history`. By the *last* sequence number of the
/// chunk, so that a seek to `after + 1` finds the chunk that has it.
pub fn history(slot: SlotId, session: u64, last_seq: u64) -> [u8; 18] {
    let mut out = [0; 18];
    out[..10].copy_from_slice(&number(slot, session));
    out[10..].copy_from_slice(&last_seq.to_be_bytes());
    out
}

/// The first key after every key that starts with `prefix`; `None` when there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut out = prefix[..=last].to_vec();
    out[last] += 1;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong bound would leak one session's keys into another's scan.
    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xff]), None);
        let key = number(513, u64::MAX);
        assert_eq!(number_of(&key), Some((513, u64::MAX)));
        assert!(history(1, 1, 255) < history(1, 1, 256));
    }
}
