//! The component of [`chat::V1`].
slotd_guest::export!(chat::V1);
