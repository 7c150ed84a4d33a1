//! What must hold in every state, and what must happen in some.

use crate::{
    Ownership,
    state::{Entry, NodeId, Record, Role, State, has, set},
};
use stateright::Property;

type P = Property<Ownership>;

pub(crate) fn all() -> Vec<Property<Ownership>> {
    vec![
        P::always("an acknowledged message is in the log once, where it was said", |_, s| {
            s.clients.iter().enumerate().all(|(message, client)| {
                let mut places = places(s, message);
                client.acknowledged_as == 0
                    || (places.next().is_some_and(|seq| client.acknowledged_as == set(seq))
                        && places.next().is_none())
            })
        }),
        P::always("a message is applied at most once", |_, s| {
            (0..s.clients.len()).all(|message| places(s, message).nth(1).is_none())
        }),
        P::always("sequence numbers have no gap", |_, s| {
            sequence(s).zip(1..).all(|((_, seq), place)| seq == place)
        }),
        P::always("order agrees with real time", |_, s| {
            sequence(s).enumerate().all(|(at, (message, _))| {
                let later = sequence(s).skip(at + 1);
                later
                    .into_iter()
                    .all(|(other, _)| !has(s.clients[usize::from(message)].preceded_by, other))
            })
        }),
        P::always("terms rise", |_, s| {
            let mut terms = s.log.iter().filter(|e| e.record == Record::Claim).map(|e| e.term);
            let mut before = 0;
            terms.all(|term| std::mem::replace(&mut before, term) < term)
        }),
        P::always("a term has one writer, who claimed it", |_, s| {
            let mut owner: Option<(u8, NodeId)> = None;
            s.log.iter().all(|entry| {
                let writer = Some((entry.term, entry.node));
                if entry.record == Record::Claim {
                    owner = writer;
                }
                owner == writer
            })
        }),
        P::always("a release ends its term", |_, s| {
            s.log
                .windows(2)
                .all(|pair| pair[0].record != Record::Release || pair[1].record == Record::Claim)
        }),
        P::always("what was refused is not in the log", |_, s| {
            s.log.iter().all(|entry| !s.refused.contains(&entry.attempt))
        }),
        P::always("a read shows what was acknowledged or shown before", |_, s| !s.stale_read),
        P::always("a read shows only what is in the log", |_, s| {
            let there = sequence(s).fold(0, |all, (message, _)| all | set(message));
            s.shown & !there == 0
        }),
        // Without these, the ones above might hold because nothing happens.
        P::sometimes("everything is acknowledged", |_, s| {
            s.clients.iter().all(|client| client.acknowledged_as != 0)
        }),
        P::sometimes("a writer is paused across a claim", |_, s| {
            let term = s.term_at(s.end());
            s.nodes.iter().any(|node| match &node.role {
                Role::Owner(owner) => owner.term < term && owner.flight.is_some(),
                _ => false,
            })
        }),
        P::sometimes("a claim sits on an append whose writer has not heard", |_, s| {
            s.nodes.iter().filter_map(|node| node.role.flight()).any(|flight| {
                let found = s.first_after(flight.after);
                found.is_some_and(|entry| entry.attempt == flight.entry.attempt)
                    && s.term_at(s.end()) > flight.entry.term
            })
        }),
        P::sometimes("a message is stored after its writer is gone", |m, s| {
            m.bounds.crashes == 0 || s.landed_late
        }),
        P::sometimes("every read is answered with everything", |m, s| {
            m.bounds.reads == 0 || usize::from(m.bounds.messages) == s.shown.count_ones() as usize
        }),
        P::sometimes("a slot that was handed over goes on", |m, s| {
            m.bounds.seals == 0 || handed_over(s)
        }),
    ]
}

/// A message of another owner follows a release.
fn handed_over(state: &State) -> bool {
    let released = state.log.iter().position(|entry| entry.record == Record::Release);
    released.is_some_and(|at| {
        let mut later = state.log[at..].iter();
        later.any(|e| matches!(e.record, Record::Message { .. }) && e.node != state.log[at].node)
    })
}

/// The sequence numbers under which a message is in the log.
fn places(state: &State, message: usize) -> impl Iterator<Item = u8> {
    let here = sequence(state).filter(move |(other, _)| usize::from(*other) == message);
    here.map(|(_, seq)| seq)
}

/// The messages of the log with their sequence numbers, in order.
fn sequence(state: &State) -> impl Iterator<Item = (u8, u8)> {
    state.log.iter().filter_map(|entry: &Entry| match entry.record {
        Record::Message { message, seq } => Some((message, seq)),
        _ => None,
    })
}
