//! `slotd plugin build`.

use super::{
    lang::{Lang, Package},
    sdk,
    stamp::write_file,
    stamp_version,
    steps::Steps,
};
use crate::{cli::output, limits, plugin::Digest};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::{fmt, path::PathBuf};

#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The plugin's folder.
    pub dir: PathBuf,
    /// cargo's profile, only for Rust.
    pub profile: Option<String>,
    /// The file to write. Default: `<name>-<version>.wasm` in the current folder.
    pub out: Option<PathBuf>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { dir: ".".into(), profile: None, out: None }
    }
}

/// The result of a language's build.
#[derive(Clone, Debug)]
pub struct Built {
    pub package: Package,
    /// A component; the version is stamped into it later.
    pub component: Vec<u8>,
    /// The tool that built it, like `componentize-py 0.25.1`.
    pub by: String,
}

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

/// A component with its version.
#[derive(Clone, Debug)]
pub struct Component {
    pub lang: Lang,
    pub package: Package,
    pub bytes: Vec<u8>,
    pub by: String,
}

/// Builds a plugin to a component that contains its version, and writes it to a file atomically.
/// Blocks for as long as the language's tools take.
///
/// # Errors
/// If the folder is not a plugin, a tool is missing (the message has the way to get it), it does
/// not build, or the file can't be written.
pub fn build(options: &BuildOptions, steps: &Steps) -> anyhow::Result<BuildReport> {
    let started = crate::clock::now();
    let Component { lang, package, bytes, by } = component(options, steps)?;
    let Package { name, version } = package;
    let file = match &options.out {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{name}-{version}.wasm")),
    };
    write_file(&file, &bytes).with_context(|| format!("writing {}", file.display()))?;
    Ok(BuildReport {
        name,
        version,
        lang,
        file,
        bytes: bytes.len(),
        digest: Digest::of(&bytes),
        by,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// As [`build`], without a file.
///
/// # Errors
/// As [`build`].
pub fn component(options: &BuildOptions, steps: &Steps) -> anyhow::Result<Component> {
    let dir = options
        .dir
        .canonicalize()
        .with_context(|| format!("there is no folder {}", options.dir.display()))?;
    let lang = Lang::of(&dir)?;
    let language = lang.language();
    ensure!(
        options.profile.is_none() || lang == Lang::Rust,
        "--profile is cargo's, and {} is written in {lang}",
        dir.display()
    );
    if !language.sdk().is_empty() {
        sdk::write(&dir, language.sdk())?;
    }
    let Built { package, component, by } = language.build(&dir, options, steps)?;
    check_package(&package)?;
    let bytes = stamp_version(&component, &package.version)
        .with_context(|| format!("{by} built something unexpected"))?;
    Ok(Component { lang, package, bytes, by })
}

/// The name becomes part of a file name, and the version must be valid for a node.
fn check_package(package: &Package) -> anyhow::Result<()> {
    let Package { name, version } = package;
    ensure!(
        !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.'),
        "{name:?} can't be used in a plugin's file name"
    );
    let max = limits::PLUGIN_VERSION_BYTES_MAX;
    ensure!(!version.is_empty(), "the plugin {name} has no version");
    ensure!(version.len() <= max, "the version {version} has more than {max} characters");
    ensure!(!version.contains('/'), "{version:?} is not a version");
    Ok(())
}
