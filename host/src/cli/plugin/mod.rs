//! `slotd plugin`: creates plugins, and builds a folder of sources to a component with its version.
//! [`lang::Language`] abstracts over languages.

mod build;
mod componentize;
pub mod lang;
mod new;
mod script;
pub mod sdk;
mod stamp;
mod steps;
mod test;
pub mod tools;

pub use build::{BuildOptions, BuildReport, Built, Component, build, component};
pub use componentize::componentize;
pub use lang::{Lang, Language, Package};
pub use new::{NewOptions, NewReport, as_written, new};
pub use script::{ScriptOptions, ScriptReport, play};
pub use stamp::stamp_version;
pub use steps::Steps;
pub use test::test;

/// The interface that components are made for.
pub const WIT: &str = include_str!("../../../../wit/slot.wit");

#[cfg(test)]
mod tests;
