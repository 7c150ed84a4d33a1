//! Python: `pyproject.toml` with a table `[tool.slotd]`.

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

pub(super) const MANIFEST: &str = "pyproject.toml";

pub(super) struct Python;

#[derive(Deserialize)]
struct PyProject {
    project: Option<Project>,
    tool: Option<Tool>,
}

#[derive(Deserialize)]
struct Project {
    name: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Tool {
    slotd: Option<SlotdTable>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "for the build")]
struct SlotdTable {
    /// The module that has the handler.
    entry: String,
}

fn manifest(dir: &Path) -> anyhow::Result<Option<PyProject>> {
    let Some(text) = read_manifest(dir, MANIFEST)? else { return Ok(None) };
    let file = dir.join(MANIFEST);
    let manifest: PyProject = toml::from_str(&text)
        .with_context(|| format!("{} is not as it should be", file.display()))?;
    Ok(Some(manifest))
}

impl Language for Python {
    fn manifest(&self) -> &'static str {
        MANIFEST
    }

    fn detect(&self, dir: &Path) -> anyhow::Result<bool> {
        let tool = manifest(dir)?.and_then(|manifest| manifest.tool);
        Ok(tool.is_some_and(|tool| tool.slotd.is_some()))
    }

    fn templates(&self) -> Files {
        &[]
    }

    fn package(&self, dir: &Path) -> anyhow::Result<Package> {
        let project = manifest(dir)?.and_then(|manifest| manifest.project);
        let project = project.context("pyproject.toml has no [project]")?;
        let name = project.name.context("[project] of pyproject.toml has no name")?;
        let version = project.version.context("[project] of pyproject.toml has no version")?;
        Ok(Package { name, version })
    }

    fn build(&self, _dir: &Path, _options: &BuildOptions, _steps: &Steps) -> anyhow::Result<Built> {
        bail!("Python can't be built yet")
    }

    fn test(&self, _dir: &Path, _args: &[OsString], _steps: &Steps) -> anyhow::Result<ExitStatus> {
        bail!("Python can't be tested yet")
    }
}
