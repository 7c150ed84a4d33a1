//! Slots as a person reads them: `0-63,70`.

use crate::names::SlotId;
use std::fmt::Write as _;

/// Formats ascending slots as ranges. Empty for none.
pub fn format_ranges(slots: &[SlotId]) -> String {
    let mut out = String::new();
    let mut rest = slots;
    while let Some(&first) = rest.first() {
        let run = rest.windows(2).take_while(|w| w[0].checked_add(1) == Some(w[1])).count();
        let last = rest[run];
        if !out.is_empty() {
            out.push(',');
        }
        // Writing to a String can't fail.
        let _ = match last == first {
            true => write!(out, "{first}"),
            false => write!(out, "{first}-{last}"),
        };
        rest = &rest[run + 1..];
    }
    out
}
