//! What must hold in every state, and what must happen in some.

use super::{
    Sending,
    state::{Change, FROM, MessageId, Refusal, State, Took},
};
use slotd_core::effects::send::{Arrival, Number};
use stateright::Property;

type P = Property<Sending>;

pub(crate) fn all() -> Vec<P> {
    vec![
        P::always("a message is handled at most once", |_, s| {
            let mut seen = 0_u8;
            handled(s).all(|(message, _)| {
                let new = seen & (1 << message) == 0;
                seen |= 1 << message;
                new
            })
        }),
        P::always("what is done with was handled", |_, s| {
            s.sent.records.iter().all(|record| match record {
                Change::Arrived { message, .. } => handled(s).any(|(other, _)| other == *message),
                _ => true,
            })
        }),
        P::always("what was taken back is not handled", |_, s| {
            taken_back(s).all(|(message, number, refusal)| {
                let it = |(other, its_number): (MessageId, Number)| match refusal {
                    Refusal::Again => its_number == number,
                    Refusal::ForGood => other == message,
                };
                !handled(s).any(it)
            })
        }),
        P::always("what is handled was sent, and that is durable", |_, s| {
            handled(s)
                .all(|(message, number)| s.sent.records.contains(&Change::Sent { message, number }))
        }),
        P::always("messages are handled in order, but for those that were refused", |_, s| {
            let refused = |message| taken_back(s).any(|(other, ..)| other == message);
            let in_order = handled(s).filter(|(message, _)| !refused(*message));
            in_order.map(|(message, _)| message).is_sorted()
        }),
        P::always("whatever has happened, the next owners bring it to an end", |m, s| {
            // Without a guard, something else is looked for.
            if m.without.is_some() {
                return true;
            }
            let end = m.finish(s);
            let sent = end.sent.records.iter().filter_map(|record| match record {
                Change::Sent { message, .. } => Some(*message),
                _ => None,
            });
            let given_up = |message| {
                taken_back(&end).any(|(other, _, how)| other == message && how == Refusal::ForGood)
            };
            sent.into_iter().all(|message| {
                let times = handled(&end).filter(|(other, _)| *other == message).count();
                times == usize::from(!given_up(message))
            })
        }),
        // Without these, the ones above might hold because nothing happens.
        P::sometimes("everything is handled", |m, s| {
            handled(s).count() == usize::from(m.bounds.messages)
                && s.senders.last().is_some_and(|sender| sender.rows.is_empty())
        }),
        P::sometimes("a message was given up, and the next is handled", |m, s| {
            m.bounds.refusals == 0
                || taken_back(s).any(|(message, _, refusal)| {
                    refusal == Refusal::ForGood && handled(s).any(|(other, _)| other > message)
                })
        }),
        P::sometimes("a message that was refused is handled later", |m, s| {
            m.bounds.refusals == 0
                || taken_back(s).any(|(message, ..)| handled(s).any(|(other, _)| other == message))
        }),
        P::sometimes("a piece comes late, or twice", |_, s| comes(s, Arrival::Void)),
        P::sometimes("a piece of an earlier owner comes after one of the next", |m, s| {
            m.bounds.senders == 0 || comes(s, Arrival::OfEarlierTerm)
        }),
        P::sometimes("an owner that is none any more sends", |m, s| {
            m.bounds.senders == 0
                || s.senders
                    .iter()
                    .any(|sender| sender.term < s.sent.term && sender.asked.last() > Some(&1))
        }),
    ]
}

/// The messages that the slot has handled for good, in order.
fn handled(state: &State) -> impl Iterator<Item = (MessageId, Number)> {
    state.received.records.iter().filter_map(|record| match record {
        Took::Handled { message, number } => Some((*message, *number)),
        Took::Marked(_) => None,
    })
}

fn taken_back(state: &State) -> impl Iterator<Item = (MessageId, Number, Refusal)> {
    state.sent.records.iter().filter_map(|record| match record {
        Change::TakenBack { message, number, refusal } => Some((*message, *number, *refusal)),
        _ => None,
    })
}

/// Such a piece may come to the slot's owner.
fn comes(state: &State, arrival: Arrival) -> bool {
    let mark = state.receivers.last().map(|receiver| receiver.outbox.received(FROM));
    mark.is_some_and(|mark| state.pieces.iter().any(|piece| mark.arrival(piece.round) == arrival))
}
