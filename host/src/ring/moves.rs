//! What changes from one table to the next.

use super::Table;
use crate::names::SlotId;
use std::sync::Arc;

/// A slot that changes hands. `None`: nobody's, in an empty view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub slot: SlotId,
    pub from: Option<Arc<str>>,
    pub to: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tables have {old} and {new} slots: a cluster has one slot count for life")]
pub struct SlotCountDiffers {
    pub old: u16,
    pub new: u16,
}

/// The slots whose owner differs between two tables, in order of the slots.
///
/// # Errors
/// The tables must have the same number of slots.
pub fn plan_moves(old: &Table, new: &Table) -> Result<Vec<Move>, SlotCountDiffers> {
    if old.slot_count() != new.slot_count() {
        return Err(SlotCountDiffers { old: old.slot_count(), new: new.slot_count() });
    }
    Ok((0..old.slot_count())
        .filter(|&slot| old.owner(slot) != new.owner(slot))
        .map(|slot| Move { slot, from: old.owner(slot).cloned(), to: new.owner(slot).cloned() })
        .collect())
}
