//! `slotd plugin`: the crate `slotd_toolchains` creates plugins and builds them to components; here
//! is what needs a node's rules or its plugin host.

mod build;
mod script;

pub use build::{build, component};
pub use script::{ScriptOptions, play};

#[cfg(test)]
mod tests;
