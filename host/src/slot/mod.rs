//! (slot)
