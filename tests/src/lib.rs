//! What slotd's system tests, demo and benchmark are made of.

pub mod histogram;
pub mod load;
