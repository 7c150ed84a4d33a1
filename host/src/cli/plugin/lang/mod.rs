//! The languages that plugins are written in, and how a folder's is found out.

mod c;
mod debian;
mod js;
mod python;
mod rust;

use super::{
    build::{BuildOptions, Built},
    new::NewOptions,
    sdk::Files,
    steps::Steps,
};
use crate::files;
use anyhow::{bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

pub use self::{c::setup as setup_c, rust::toolchain};

/// What `plugin new`, `build` and `test` and `slotd dev` need of a language.
pub trait Language: Sync {
    /// The file whose presence makes a folder a plugin in this language.
    fn manifest(&self) -> &'static str;

    /// Whether the folder is a plugin in this language.
    ///
    /// # Errors
    /// When the manifest is there and can't be read.
    fn detect(&self, dir: &Path) -> anyhow::Result<bool>;

    /// The files of a new plugin: paths in its folder, and texts, in which `{{name}}` stands for
    /// the plugin's name and others for what [`Self::placeholders`] gives.
    fn templates(&self) -> Files;

    /// What else stands in the templates, without the braces. Refuses a name that is none in this
    /// language, and options that it has no use for.
    ///
    /// # Errors
    /// As said, in words for the user.
    fn placeholders(&self, options: &NewOptions) -> anyhow::Result<Vec<(&'static str, String)>> {
        ensure!(options.sdk.is_none(), "--sdk is for Rust; this SDK is part of slotd");
        Ok(Vec::new())
    }

    /// The SDK that is written to `.slotd/sdk` of a plugin when it is made, built or tested.
    fn sdk(&self) -> Files {
        &[]
    }

    /// The plugin's name and version.
    ///
    /// # Errors
    /// When the manifest is not as it should be.
    fn package(&self, dir: &Path) -> anyhow::Result<Package>;

    /// Builds the plugin in `dir` (absolute; its SDK is written) to a component. Blocks.
    ///
    /// # Errors
    /// What is missing, with the way to get it, or that it does not build.
    fn build(&self, dir: &Path, options: &BuildOptions, steps: &Steps) -> anyhow::Result<Built>;

    /// Runs the plugin's own tests with what one uses in this language, all its output unchanged.
    ///
    /// # Errors
    /// When they can't be run at all; that they fail is in the status.
    fn test(&self, dir: &Path, args: &[OsString], steps: &Steps) -> anyhow::Result<ExitStatus>;

    /// The files and folders that `slotd dev` watches; folders with all they hold, but for what
    /// [`is_source`] passes over.
    fn sources(&self, dir: &Path) -> Vec<PathBuf> {
        vec![dir.into()]
    }
}

/// A language by the name that the command line has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    Rust,
    Js,
    Ts,
    Python,
    C,
}

impl Lang {
    /// In the order in which a folder is looked through.
    pub const ALL: [Self; 5] = [Self::Rust, Self::Js, Self::Ts, Self::Python, Self::C];

    pub fn language(self) -> &'static dyn Language {
        match self {
            Self::Rust => &rust::Rust,
            Self::Js => &js::JAVASCRIPT,
            Self::Ts => &js::TYPESCRIPT,
            Self::Python => &python::Python,
            Self::C => &c::C,
        }
    }

    /// The language of the plugin in a folder.
    ///
    /// # Errors
    /// When it is no plugin, or one in two languages.
    pub fn of(dir: &Path) -> anyhow::Result<Self> {
        let mut found = None;
        for lang in Self::ALL {
            if !lang.language().detect(dir)? {
                continue;
            }
            if let Some(first) = found {
                let (a, b) = (lang.language().manifest(), Self::language(first).manifest());
                bail!(
                    "{} has a plugin in two languages, {first} ({b}) and {lang} ({a}): keep one \
                     of the files, or use a folder for each plugin",
                    dir.display()
                );
            }
            found = Some(lang);
        }
        if let Some(lang) = found {
            return Ok(lang);
        }
        let hint = |file: &str, lacks: &str| match dir.join(file).is_file() {
            true => format!("\n  {file} exists, but has no {lacks}"),
            false => String::new(),
        };
        bail!(
            "{} is not a plugin: it has no Cargo.toml (Rust), package.json with a \"slotd\" key \
             (JavaScript, TypeScript), pyproject.toml with [tool.slotd] (Python) or slotd.toml \
             with [plugin] (C); `slotd plugin new` writes one{}{}{}",
            dir.display(),
            hint(js::MANIFEST, "\"slotd\": {\"entry\": \"src/handler.js\"}"),
            hint(python::MANIFEST, "[tool.slotd] with entry = \"handler\""),
            hint(c::MANIFEST, "[plugin] with name, version and sources"),
        )
    }
}

impl fmt::Display for Lang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::Js => "JavaScript",
            Self::Ts => "TypeScript",
            Self::Python => "Python",
            Self::C => "C",
        })
    }
}

/// What a plugin is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Package {
    pub name: String,
    pub version: String,
}

/// Folders in a plugin's that no source is in, in any language.
const NO_SOURCES: &[&str] = &["target", "node_modules", "__pycache__", "dist", "build", "venv"];

/// Whether a file or folder of this name may be, or hold, a plugin's source: not what is hidden,
/// what tools make, and what editors keep beside a file while they write it.
pub fn is_source(name: &str, is_dir: bool) -> bool {
    if name.starts_with(['.', '#']) || name.ends_with('~') {
        return false;
    }
    match is_dir {
        true => !NO_SOURCES.contains(&name) && !name.ends_with(".egg-info"),
        false => {
            let extension = Path::new(name).extension().and_then(|e| e.to_str());
            // vi tries whether it may write here with a file of this name.
            name != "4913"
                && !matches!(
                    extension,
                    Some("wasm" | "tmp" | "swp" | "swx" | "pyc" | "o" | "log" | "lock")
                )
        }
    }
}

/// A manifest's text; `None` where it is not there.
fn read_manifest(dir: &Path, name: &str) -> anyhow::Result<Option<String>> {
    let file = dir.join(name);
    match files::read_text(&file) {
        Ok(text) => Ok(Some(text)),
        Err(files::ReadError::Missing) => Ok(None),
        Err(error) => bail!("{} {error}", file.display()),
    }
}

#[cfg(test)]
mod tests;
