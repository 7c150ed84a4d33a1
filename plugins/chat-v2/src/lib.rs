//! The component of [`chat::V2`].
slotd_guest::export!(chat::V2);
