//! The toolchains of plugins: creates a plugin's folder, builds it to a component with its version,
//! and runs its own tests, in each language ([`Lang`]).
//!
//! It makes files and runs the languages' own tools, and knows nothing of a node: the host checks
//! whether a node accepts a component, and runs it.
//!
//! No two modules name each other (`cargo xtask lint` looks). From below: `texts`, `stamp`, `sdk`,
//! `steps`, `tools`, `componentize`, `typescript`, `lang`, `types`, and what the commands do: `new`,
//! `build`, `test`.

// `clippy.toml` forbids what the caller does; tests may use it.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod build;
mod componentize;
mod lang;
mod new;
mod sdk;
// The host's, by its file: a crate's test code can't be used by another crate.
#[cfg(test)]
#[path = "../../core/src/testing/skipped.rs"]
mod skipped;
mod stamp;
mod steps;
mod test;
mod texts;
mod tools;
mod types;
mod typescript;

pub use build::{Component, build};
pub use componentize::componentize;
pub use lang::{BuildOptions, Lang, NewOptions, Package, is_source, setup_c, setup_rust};
pub use new::{NewReport, as_written, new};
pub use sdk::OWN_DIR;
pub use steps::Steps;
pub use test::test;
pub use types::{SECTION as TYPES_SECTION, Types, read as types};
pub use typescript::typescript;

/// The interface that components are made for.
const WIT: &str = include_str!("../../../wit/slot.wit");

#[cfg(test)]
mod tests;
