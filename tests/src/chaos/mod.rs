//! Runs a cluster under load while things go wrong, and judges what its clients saw.

pub mod schedule;
