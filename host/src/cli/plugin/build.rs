//! `slotd plugin build`.

use crate::{
    cli::output,
    names::check_plugin_version,
    plugin::{Digest, declared},
};
use anyhow::anyhow;
use serde::Serialize;
use slotd_toolchains::{BuildOptions, Component, Lang, Steps};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The result of [`build`].
#[derive(Clone, Debug, Serialize)]
pub struct BuildReport {
    pub name: String,
    pub version: String,
    pub lang: Lang,
    pub file: PathBuf,
    pub bytes: usize,
    /// The component's sha-256, its identity in slotd.
    pub digest: Digest,
    /// The tool that built it.
    pub by: String,
    /// The file with the types of its messages.
    pub types: Option<PathBuf>,
    pub elapsed_ms: u64,
}

impl fmt::Display for BuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "built {} {} from {} by {} in {:.1} s: {} ({}, sha-256 {})",
            self.name,
            self.version,
            self.lang,
            self.by,
            self.elapsed_ms as f64 / 1e3,
            self.file.display(),
            output::bytes(self.bytes as f64),
            self.digest.short(),
        )
    }
}

/// Builds a plugin and writes the component to a file, `out` or one with its name and version.
/// Blocks for as long as the language's tools take.
///
/// # Errors
/// As [`component`], or if the file can't be written.
pub fn build(
    options: &BuildOptions,
    out: Option<&Path>,
    steps: &Steps,
) -> anyhow::Result<BuildReport> {
    let started = crate::clock::now();
    let component = component(options, steps)?;
    let file = component.write(out)?;
    let Component { lang, package, bytes, by, types } = component;
    Ok(BuildReport {
        name: package.name,
        version: package.version,
        lang,
        file,
        bytes: bytes.len(),
        digest: Digest::of(&bytes),
        by,
        types,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Builds a plugin whose version and types a node accepts. Blocks.
///
/// # Errors
/// As [`slotd_toolchains::build`], or what is wrong with the version or the types.
pub fn component(options: &BuildOptions, steps: &Steps) -> anyhow::Result<Component> {
    let component = slotd_toolchains::build(options, steps)?;
    check_plugin_version(&component.package.version).map_err(|why| anyhow!(why))?;
    if let Some(file) = &component.types {
        let section = declared::section(&component.bytes).map_err(|why| anyhow!(why))?;
        declared::parse(section.as_deref().unwrap_or_default())
            .map_err(|why| anyhow!("{}: {why}", file.display()))?;
    }
    Ok(component)
}
