//! The languages that plugins are written in, and how to detect a folder's.

mod c;
mod debian;
mod js;
mod python;
mod rust;

use crate::{sdk::Files, steps::Steps};
use anyhow::{bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

pub use self::{c::setup as setup_c, rust::toolchain::ensure as setup_rust};
#[cfg(test)]
pub use rust::toolchain;

#[derive(Clone, Debug)]
pub struct NewOptions {
    pub lang: Lang,
    /// The plugin's name.
    pub name: String,
    /// A node's limit for the names of services: its README deploys it under its own.
    pub name_bytes_max: usize,
    /// Its folder: missing or empty. Default: `./<name>`.
    pub path: Option<PathBuf>,
    /// Only for Rust: the folder of the crate `slotd-guest`. Default: that of the checkout which
    /// this binary was built from, if it exists, else the git repository at this version.
    pub sdk: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The plugin's folder.
    pub dir: PathBuf,
    /// cargo's profile, only for Rust.
    pub profile: Option<String>,
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

/// What `plugin new`, `build`, `test` and `slotd dev` need from a language.
pub trait Language: Sync {
    /// The file whose presence makes a folder a plugin in this language.
    fn manifest(&self) -> &'static str;

    /// Whether the folder is a plugin in this language.
    ///
    /// # Errors
    /// If the manifest exists and can't be read.
    fn detect(&self, dir: &Path) -> anyhow::Result<bool>;

    /// The files of a new plugin: paths in its folder, and texts, in which `{{name}}` stands for
    /// the plugin's name and others for the values of [`Self::placeholders`].
    fn templates(&self) -> Files;

    /// Further placeholders of the templates, without the braces. Refuses a name that is invalid in
    /// this language, and options that it does not use.
    ///
    /// # Errors
    /// As described, in words for the user.
    fn placeholders(&self, options: &NewOptions) -> anyhow::Result<Vec<(&'static str, String)>> {
        ensure!(options.sdk.is_none(), "--sdk is for Rust; this SDK is part of slotd");
        Ok(Vec::new())
    }

    /// The SDK that is written to `.slotd/sdk` of a plugin when it is created, built or tested.
    fn sdk(&self) -> Files {
        &[]
    }

    /// The file with the JSON Schemas of the plugin's messages, as its manifest names it, from the
    /// plugin's folder.
    ///
    /// # Errors
    /// If the manifest is invalid.
    fn types(&self, dir: &Path) -> anyhow::Result<Option<PathBuf>>;

    /// Whether the plugin's own code reads the declarations that are made of that file.
    fn reads_declarations(&self) -> bool {
        false
    }

    /// The plugin's name and version.
    ///
    /// # Errors
    /// If the manifest is invalid.
    fn package(&self, dir: &Path) -> anyhow::Result<Package>;

    /// Builds the plugin in `dir` (absolute; its SDK is written) to a component. Blocks.
    ///
    /// # Errors
    /// What is missing, with the way to get it, or that it does not build.
    fn build(&self, dir: &Path, options: &BuildOptions, steps: &Steps) -> anyhow::Result<Built>;

    /// Runs the plugin's own tests with the language's usual runner, all its output unchanged.
    ///
    /// # Errors
    /// If they can't be run at all; the status shows whether they failed.
    fn test(&self, dir: &Path, args: &[OsString], steps: &Steps) -> anyhow::Result<ExitStatus>;

    /// The files and folders that `slotd dev` watches; folders with everything in them, except what
    /// [`is_source`] excludes.
    fn sources(&self, dir: &Path) -> Vec<PathBuf> {
        vec![dir.into()]
    }
}

/// A language by its name on the command line.
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
    /// In the order in which a folder is checked.
    pub const ALL: [Self; 5] = [Self::Rust, Self::Js, Self::Ts, Self::Python, Self::C];

    /// The files and folders that `slotd dev` watches for the plugin in a folder: see
    /// [`is_source`].
    pub fn sources(self, dir: &Path) -> Vec<PathBuf> {
        self.language().sources(dir)
    }

    pub(crate) fn language(self) -> &'static dyn Language {
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
    /// If it is not a plugin, or one in two languages.
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

/// A plugin's name and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Package {
    pub name: String,
    pub version: String,
}

/// Folders of a plugin that never contain sources, in any language.
const NO_SOURCES: &[&str] = &["target", "node_modules", "__pycache__", "dist", "build", "venv"];

/// Whether a file or folder of this name may be, or contain, a plugin's source: not hidden files,
/// tools' output, or editors' temporary files.
pub fn is_source(name: &str, is_dir: bool) -> bool {
    if name.starts_with(['.', '#']) || name.ends_with('~') {
        return false;
    }
    match is_dir {
        true => !NO_SOURCES.contains(&name) && !name.ends_with(".egg-info"),
        false => {
            let extension = Path::new(name).extension().and_then(|e| e.to_str());
            // vi tests write access with a file of this name.
            name != "4913"
                && !matches!(
                    extension,
                    Some("wasm" | "tmp" | "swp" | "swx" | "pyc" | "o" | "log" | "lock")
                )
        }
    }
}

#[cfg(test)]
mod tests;
