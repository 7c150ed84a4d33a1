//! (cli)

pub mod plugin;
pub mod toolchain;
