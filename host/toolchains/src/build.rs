//! `slotd plugin build`.

use crate::{
    lang::{BuildOptions, Built, Lang, Package},
    sdk,
    stamp::{stamp_version, write_file},
    steps::Steps,
    types,
};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};

/// A component with its version.
#[derive(Clone, Debug)]
pub struct Component {
    pub lang: Lang,
    pub package: Package,
    pub bytes: Vec<u8>,
    /// The tool that built it, like `componentize-py 0.25.1`.
    pub by: String,
    /// The file with what it says of its messages.
    pub types: Option<PathBuf>,
}

/// Builds a plugin to a component that contains its version. Blocks for as long as the language's
/// tools take.
///
/// # Errors
/// If the folder is not a plugin, a tool is missing (the message has the way to get it), or it does
/// not build.
pub fn build(options: &BuildOptions, steps: &Steps) -> anyhow::Result<Component> {
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
    // Before the build, which takes long, and whose code may read what is made of them.
    let types = types::of(&dir, lang)?;
    types::write_declarations(&dir, lang)?;
    let Built { package, component, by } = language.build(&dir, options, steps)?;
    check_package(&package)?;
    let unexpected = || format!("{by} built something unexpected");
    let typed = types.as_ref().map(|types| types.stamp(&component)).transpose();
    let component = typed.with_context(unexpected)?.unwrap_or(component);
    let bytes = stamp_version(&component, &package.version).with_context(unexpected)?;
    let types = types.map(|types| types.file);
    Ok(Component { lang, package, bytes, by, types })
}

impl Component {
    /// Writes it to a file atomically, and returns which. Default: `<name>-<version>.wasm` in the
    /// current folder.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, out: Option<&Path>) -> anyhow::Result<PathBuf> {
        let Package { name, version } = &self.package;
        let file = match out {
            Some(file) => file.to_owned(),
            None => PathBuf::from(format!("{name}-{version}.wasm")),
        };
        write_file(&file, &self.bytes).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }
}

/// Both become part of a file name. What else a node asks of a version, the host knows.
fn check_package(package: &Package) -> anyhow::Result<()> {
    let Package { name, version } = package;
    ensure!(
        !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.'),
        "{name:?} can't be used in a plugin's file name"
    );
    ensure!(!version.is_empty(), "the plugin {name} has no version");
    ensure!(!version.contains('/'), "{version:?} is not a version");
    Ok(())
}
