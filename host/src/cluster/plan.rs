//! What a node should do about its slots. Pure: no clock, no socket, no await.

use crate::{names::SlotId, ring::Table, router::Place};
use std::{sync::Arc, time::Duration};

/// What is known of one slot.
#[derive(Clone, Debug)]
pub struct SlotState {
    pub place: Place,
    /// A move of it to this node is under way.
    pub busy: bool,
    /// It must not be tried again before so long.
    pub not_before: Option<Duration>,
    /// A move of it from this node was cancelled, and nothing has overridden that: it stays there.
    pub kept_at: Option<Arc<str>>,
}

pub struct Input<'a> {
    pub own: &'a str,
    /// What the ring proposes for the view that this node has.
    pub table: &'a Table,
    /// Whether a node is alive by that view (those that leave are), and could release a slot.
    pub can_be_asked: &'a dyn Fn(&str) -> bool,
    /// Every peer has reported what it owns, or had time to. Until then a slot without a known
    /// owner may well have one.
    pub all_reported: bool,
    /// Slots that may be taken over and handed over to this node now, beside those under way.
    pub takeovers: usize,
    pub handoffs: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the owner for the slot.
    HandOff { slot: SlotId, from: Arc<str> },
    /// Claim it: nobody alive has it.
    TakeOver { slot: SlotId },
}

/// The moves to begin now, those that nobody serves first.
pub fn actions(input: &Input, slots: impl Iterator<Item = SlotState>) -> Vec<Action> {
    let (mut takeovers, mut handoffs) = (Vec::new(), Vec::new());
    for (slot, state) in (0..).zip(slots) {
        let wanted = input.table.owner(slot).is_some_and(|owner| **owner == *input.own);
        if !wanted || state.busy || state.not_before.is_some() {
            continue;
        }
        let Place::Away { owner, .. } = state.place else { continue };
        let owner = owner.filter(|owner| **owner != *input.own && (input.can_be_asked)(owner));
        match owner {
            Some(from) if state.kept_at.as_ref() == Some(&from) => {}
            Some(from) => handoffs.push(Action::HandOff { slot, from }),
            None if input.all_reported => takeovers.push(Action::TakeOver { slot }),
            None => {}
        }
    }
    takeovers.truncate(input.takeovers);
    handoffs.truncate(input.handoffs);
    takeovers.extend(handoffs);
    takeovers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::View;

    fn state(place: Place) -> SlotState {
        SlotState { place, busy: false, not_before: None, kept_at: None }
    }

    fn away(owner: &str) -> SlotState {
        state(Place::Away { owner: Some(owner.into()), term: 3 })
    }

    fn plan(nodes: &[&str], all_reported: bool, slots: Vec<SlotState>) -> Vec<Action> {
        let table = Table::new(&View::new(1, nodes.iter().copied()), slots.len() as u16);
        let input = Input {
            own: "a",
            table: &table,
            can_be_asked: &|name| nodes.contains(&name),
            all_reported,
            takeovers: 2,
            handoffs: 1,
        };
        actions(&input, slots.into_iter())
    }

    /// A live owner that is not asked would be fenced in the middle of its work; a dead one that
    /// is asked would never answer.
    #[test]
    fn the_living_are_asked_and_the_dead_are_not() {
        let slots = vec![state(Place::Here), away("dead"), away("a"), state(Place::UNKNOWN)];
        let take = |slot| Action::TakeOver { slot };
        assert_eq!(plan(&["a"], true, slots.clone()), [take(1), take(2)], "two at a time");
        assert_eq!(plan(&["a"], false, slots), [], "somebody may have them");
        let all = vec![away("b"); 64];
        let moves = plan(&["a", "b"], true, all);
        assert!(matches!(&moves[..], [Action::HandOff { from, .. }] if **from == *"b"));
    }

    /// Slots that the ring gives to others, or that are on their way, are left alone.
    #[test]
    fn nothing_is_taken_twice_or_for_nothing() {
        let busy = SlotState { busy: true, ..away("dead") };
        let later = SlotState { not_before: Some(Duration::from_secs(1)), ..away("dead") };
        assert_eq!(plan(&["a"], true, vec![busy, later, state(Place::Moving)]), []);
        assert_eq!(plan(&["b"], true, vec![away("dead"); 8]), [], "not on the ring");
    }

    /// A move that an operator cancelled would begin again at once; and a slot that he left where it
    /// was would stay unserved when that node is gone.
    #[test]
    fn a_cancelled_move_begins_again_only_when_it_must() {
        let kept = |owner: &str| SlotState { kept_at: Some("b".into()), ..away(owner) };
        assert_eq!(plan(&["a", "b"], true, vec![kept("b"); 64]), []);
        assert_ne!(plan(&["a", "b", "c"], true, vec![kept("c"); 64]), [], "another has it now");
        let take = |slot| Action::TakeOver { slot };
        assert_eq!(plan(&["a"], true, vec![kept("b"); 2]), [take(0), take(1)], "b is dead");
    }
}
