//! (embedded)
