//! JavaScript and TypeScript: `package.json` with a key `"slotd"`.

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

pub(super) const MANIFEST: &str = "package.json";

/// What differs between the two is the template, and what the entry's name ends in.
pub(super) struct Script {
    typed: bool,
}
pub(super) const JAVASCRIPT: Script = Script { typed: false };
pub(super) const TYPESCRIPT: Script = Script { typed: true };

#[derive(Deserialize)]
struct PackageJson {
    name: Option<String>,
    version: Option<String>,
    slotd: Option<SlotdKey>,
}

#[derive(Deserialize)]
struct SlotdKey {
    /// The file that exports the handler.
    entry: String,
}

impl SlotdKey {
    fn is_typed(&self) -> bool {
        [".ts", ".mts", ".cts"].iter().any(|end| self.entry.ends_with(end))
    }
}

fn manifest(dir: &Path) -> anyhow::Result<Option<PackageJson>> {
    let Some(text) = read_manifest(dir, MANIFEST)? else { return Ok(None) };
    let file = dir.join(MANIFEST);
    let manifest: PackageJson = serde_json::from_str(&text)
        .with_context(|| format!("{} is not as it should be", file.display()))?;
    Ok(Some(manifest))
}

impl Language for Script {
    fn manifest(&self) -> &'static str {
        MANIFEST
    }

    fn detect(&self, dir: &Path) -> anyhow::Result<bool> {
        let key = manifest(dir)?.and_then(|manifest| manifest.slotd);
        Ok(key.is_some_and(|key| key.is_typed() == self.typed))
    }

    fn templates(&self) -> Files {
        &[]
    }

    fn package(&self, dir: &Path) -> anyhow::Result<Package> {
        let manifest = manifest(dir)?.context("there is no package.json")?;
        let name = manifest.name.context("package.json has no \"name\"")?;
        let version = manifest.version.context("package.json has no \"version\"")?;
        Ok(Package { name, version })
    }

    fn build(&self, _dir: &Path, _options: &BuildOptions, _steps: &Steps) -> anyhow::Result<Built> {
        bail!("JavaScript and TypeScript can't be built yet")
    }

    fn test(&self, _dir: &Path, _args: &[OsString], _steps: &Steps) -> anyhow::Result<ExitStatus> {
        bail!("JavaScript and TypeScript can't be tested yet")
    }
}
