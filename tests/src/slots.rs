//! Sessions chosen by their slots: a slot has one writer, so sessions in the same slot may delay
//! each other, and sessions in other slots must not.

use anyhow::Context;
use slotd_core::names::SessionKey;
use std::collections::BTreeSet;

/// # Errors
/// If a name is invalid.
pub fn slot_of(service: &str, session: &str, slots: u16) -> anyhow::Result<u16> {
    Ok(SessionKey::parse(service, session)?.slot(slots))
}

/// This many sessions, `PREFIX-N`, each in a different slot and none in `taken`.
///
/// # Errors
/// If `prefix` is not the start of a session name, or there are too few free slots.
pub fn apart(
    service: &str,
    prefix: &str,
    count: usize,
    slots: u16,
    taken: &BTreeSet<u16>,
) -> anyhow::Result<Vec<String>> {
    let free = (0..slots).filter(|slot| !taken.contains(slot)).count();
    let count = Some(count).filter(|&count| count <= free);
    let count = count.with_context(|| format!("{free} of {slots} slots are free"))?;
    let (mut taken, mut found) = (taken.clone(), Vec::new());
    for number in 0.. {
        if found.len() == count {
            break;
        }
        let session = format!("{prefix}-{number}");
        if taken.insert(slot_of(service, &session, slots)?) {
            found.push(session);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_apart_share_no_slot() {
        let taken = BTreeSet::from([1, 2, 3]);
        let found = apart("quiet", "q", 5, 8, &taken).unwrap();
        let slots: BTreeSet<_> = found.iter().map(|s| slot_of("quiet", s, 8).unwrap()).collect();
        assert_eq!(slots, BTreeSet::from([0, 4, 5, 6, 7]));
        apart("quiet", "q", 6, 8, &taken).unwrap_err();
    }
}
