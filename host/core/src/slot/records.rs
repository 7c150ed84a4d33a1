//! What a message becomes that its session has applied: the record, and the reply to who sent it.

use crate::{
    effects::{
        Origin, Outgoing,
        send::{Asked, Content},
    },
    log::record::{Entry, Message},
    message::Client,
    names::SessionKey,
    plugin,
    slot::{overlay::Written, session::Session},
};
use std::sync::Arc;

/// The reply to a message that a session has sent.
pub(super) fn reply_to(
    to: SessionKey,
    asked: Asked,
    origin: Option<&Origin>,
    answer: &plugin::Reply,
    seq: u64,
) -> Outgoing {
    Outgoing {
        to,
        content: Content::Reply(asked),
        content_type: answer.content_type.clone(),
        body: answer.body.clone(),
        hops: origin.map_or(0, Origin::hops).saturating_add(1),
        failures: 0,
        held: 0,
        next_ms: 0,
        reason: String::new(),
        sent_by: seq,
        trace: None,
    }
}

/// The record of a message that its session has applied.
pub(super) fn new_record(
    session: &mut Session,
    entry: Arc<Entry>,
    fingerprint: u128,
    written: Written,
) -> Box<Message> {
    if let Some(key) = &entry.id {
        let remembered = crate::state::Remembered { seq: entry.seq, fingerprint };
        session.remembered.insert(key.clone(), remembered);
    }
    session.recent.push_back(entry.clone());
    let (key, head) = (session.key.clone(), session.head.clone());
    Box::new(Message {
        key,
        session_number: head.session_number,
        entry,
        fingerprint,
        writes: written.state,
        head,
        effects: written.effects,
    })
}

/// What a repeat must have in common with the first, beside its client.
pub(super) fn fingerprint(content_type: &str, body: &[u8]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(content_type.as_bytes());
    hasher.update(&[0]);
    hasher.update(body);
    hasher.digest128()
}

/// Whether a client may have the answer to a message that `first` has sent. Its claims may have changed. What was sent
/// before identities were kept has none: that is anybody's who is nobody in particular, too.
pub(super) fn may_repeat(first: Option<&Client>, by: Option<&Client>) -> bool {
    match (first, by) {
        (Some(first), Some(by)) => first.is_same(by),
        (Some(_), None) => false,
        (None, by) => by.is_none_or(|by| by.subject.is_none()),
    }
}
