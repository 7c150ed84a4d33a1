//! `slotd plugin`: the crate `slotd_toolchains` creates plugins and builds them to components; here
//! is what needs a node's rules or its plugin host.

mod build;
mod captures;
mod script;
mod sim;
mod types;

pub use build::{build, component};
pub use captures::{ReplayOptions, folder_captures, replay};
pub use script::{ScriptOptions, play};
pub use sim::{SimOptions, simulate};
pub use types::{TypesArgs, types};

#[cfg(test)]
mod tests;
