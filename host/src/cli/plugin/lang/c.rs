//! C: `slotd.toml` with a table `[plugin]`. (`slotd serve` reads a file of that name too, and
//! passes over this table.)

use super::{
    super::{
        build::{BuildOptions, Built},
        sdk::Files,
        steps::Steps,
    },
    Language, Package, read_manifest,
};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::{ffi::OsString, path::Path, process::ExitStatus};

pub(super) const MANIFEST: &str = "slotd.toml";

pub(super) struct C;

#[derive(Deserialize)]
struct SlotdToml {
    plugin: Option<PluginTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the build")]
struct PluginTable {
    name: String,
    version: String,
    /// Files, from the plugin's folder.
    sources: Vec<String>,
    /// Further arguments to the compiler.
    #[serde(default)]
    cflags: Vec<String>,
}

fn manifest(dir: &Path) -> anyhow::Result<Option<PluginTable>> {
    let Some(text) = read_manifest(dir, MANIFEST)? else { return Ok(None) };
    let file = dir.join(MANIFEST);
    let manifest: SlotdToml = toml::from_str(&text)
        .with_context(|| format!("{} is not as it should be", file.display()))?;
    Ok(manifest.plugin)
}

impl Language for C {
    fn manifest(&self) -> &'static str {
        MANIFEST
    }

    fn detect(&self, dir: &Path) -> anyhow::Result<bool> {
        Ok(manifest(dir)?.is_some())
    }

    fn templates(&self) -> Files {
        &[]
    }

    fn package(&self, dir: &Path) -> anyhow::Result<Package> {
        let plugin = manifest(dir)?.context("slotd.toml has no [plugin]")?;
        Ok(Package { name: plugin.name, version: plugin.version })
    }

    fn build(&self, _dir: &Path, _options: &BuildOptions, _steps: &Steps) -> anyhow::Result<Built> {
        bail!("C can't be built yet")
    }

    fn test(&self, _dir: &Path, _args: &[OsString], _steps: &Steps) -> anyhow::Result<ExitStatus> {
        bail!("C can't be tested yet")
    }
}
