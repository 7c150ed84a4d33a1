//! (fjall)
