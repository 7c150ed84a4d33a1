//! `slotd plugin new` and `slotd plugin build`: what a plugin's author starts with, and the way
//! from a crate to a component that says its version.

use super::toolchain::{self, Route, Toolchain};
use crate::{limits, plugin::Digest};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    env, fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

const TEMPLATES: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../../templates/plugin/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../templates/plugin/lib.rs.in")),
    (".gitignore", include_str!("../../templates/plugin/gitignore.in")),
    ("README.md", include_str!("../../templates/plugin/README.md.in")),
];

/// The SDK of the checkout that this binary was built from.
const SDK_OF_CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk/rust");
const SDK_NAME: &str = "slotd-guest";

/// Names that would clash with a crate that every plugin uses, or that cargo refuses.
const RESERVED: &[&str] = &[
    "alloc",
    "core",
    "proc-macro",
    "serde",
    "slotd-guest",
    "std",
    "test",
    "as",
    "async",
    "await",
    "break",
    "const",
    "continue",
    "crate",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "fn",
    "for",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "match",
    "mod",
    "move",
    "mut",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "type",
    "unsafe",
    "use",
    "where",
    "while",
    "abstract",
    "become",
    "box",
    "do",
    "final",
    "gen",
    "macro",
    "override",
    "priv",
    "try",
    "typeof",
    "unsized",
    "virtual",
    "yield",
    "build",
    "deps",
    "examples",
    "incremental",
];

// ---- new ---------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
pub struct NewOptions {
    /// The crate's name.
    pub name: String,
    /// Where the crate goes: a folder that is not there, or is empty. Default: `./<name>`.
    pub path: Option<PathBuf>,
    /// The folder of the crate `slotd-guest`. Default: that of the checkout which this binary was
    /// built from, if it is there, else the git repository at this version.
    pub sdk: Option<PathBuf>,
}

/// What [`new`] wrote.
#[derive(Clone, Debug, Serialize)]
pub struct NewReport {
    pub name: String,
    pub dir: PathBuf,
    pub files: Vec<PathBuf>,
    /// What stands for `slotd-guest` in its `Cargo.toml`.
    pub sdk: String,
}

impl fmt::Display for NewReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, dir, sdk, .. } = self;
        let dir = dir.display();
        write!(
            f,
            "wrote the plugin {name} to {dir} (slotd-guest = {sdk}); next:\n  \
             cd {dir}\n  cargo test\n  slotd plugin build\n  \
             slotd deploy {name} {name}-0.1.0.wasm"
        )
    }
}

/// Writes a crate that builds and whose tests pass.
///
/// # Errors
/// When the name is none for a crate and a service, the folder has something in it, the SDK is not
/// where it is said to be, or a file cannot be written (what was written is then removed).
pub fn new(options: &NewOptions) -> anyhow::Result<NewReport> {
    let NewOptions { name, path, sdk } = options;
    check_name(name)?;
    let sdk = sdk_dependency(sdk.as_deref())?;
    let dir = path.clone().unwrap_or_else(|| PathBuf::from(name));
    let was_there = match fs::read_dir(&dir) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "{} is not empty", dir.display());
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    let write = || -> io::Result<()> {
        fs::create_dir_all(dir.join("src"))?;
        for (file, template) in TEMPLATES {
            let text = template.replace("{{name}}", name).replace("{{sdk}}", &sdk);
            fs::write(dir.join(file), text)?;
        }
        Ok(())
    };
    if let Err(error) = write() {
        for (file, _) in TEMPLATES {
            _ = fs::remove_file(dir.join(file));
        }
        _ = fs::remove_dir(dir.join("src"));
        if !was_there {
            _ = fs::remove_dir(&dir);
        }
        return Err(error).with_context(|| format!("writing to {}", dir.display()));
    }
    let files = TEMPLATES.iter().map(|(file, _)| PathBuf::from(file)).collect();
    Ok(NewReport { name: name.clone(), dir, files, sdk })
}

/// The name of a plugin's crate is also the service's that its README deploys.
fn check_name(name: &str) -> anyhow::Result<()> {
    let max = limits::SERVICE_NAME_BYTES_MAX;
    ensure!(
        !name.is_empty() && name.len() <= max,
        "a plugin's name has 1 to {max} characters, this one has {}",
        name.len()
    );
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    ensure!(
        name.as_bytes()[0].is_ascii_lowercase() && name.bytes().all(allowed),
        "{name:?} is no name for a plugin: use a-z, 0-9, '-' and '_', starting with a letter"
    );
    ensure!(
        !RESERVED.contains(&name.replace('_', "-").as_str()),
        "{name:?} is no name for a plugin: cargo or Rust uses it otherwise"
    );
    Ok(())
}

fn sdk_dependency(given: Option<&Path>) -> anyhow::Result<String> {
    let path = match given {
        Some(path) => Some(path),
        None => Some(Path::new(SDK_OF_CHECKOUT)).filter(|path| is_sdk(path)),
    };
    let Some(path) = path else {
        let (git, version) = (env!("CARGO_PKG_REPOSITORY"), env!("CARGO_PKG_VERSION"));
        return Ok(format!("{{ git = \"{git}\", tag = \"v{version}\" }}"));
    };
    ensure!(
        is_sdk(path),
        "{} is not the folder of the crate {SDK_NAME} (guest-sdk/rust of slotd's repository)",
        path.display()
    );
    let path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
    let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(format!("{{ path = {} }}", toml::Value::from(path)))
}

fn is_sdk(dir: &Path) -> bool {
    fs::read_to_string(dir.join("Cargo.toml"))
        .ok()
        .and_then(|text| text.parse::<toml::Table>().ok())
        .is_some_and(|manifest| {
            manifest.get("package").and_then(|p| p.get("name")).and_then(|n| n.as_str())
                == Some(SDK_NAME)
        })
}

// ---- build -------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The crate's folder.
    pub dir: PathBuf,
    /// cargo's profile.
    pub profile: String,
    /// The file to write. Default: `<name>-<version>.wasm` in the current folder.
    pub out: Option<PathBuf>,
    /// Keep cargo quiet; its progress goes to stderr otherwise.
    pub quiet: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { dir: ".".into(), profile: "release".into(), out: None, quiet: false }
    }
}

/// What [`build`] made.
#[derive(Clone, Debug, Serialize)]
pub struct BuildReport {
    pub name: String,
    pub version: String,
    pub file: PathBuf,
    pub bytes: usize,
    /// The component's sha-256, by which slotd knows it.
    pub digest: Digest,
    pub route: Route,
    pub rustc: String,
    pub profile: String,
    pub elapsed_ms: u64,
}

impl fmt::Display for BuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "built {} {} by {} ({}, {}) in {:.1} s: {} ({:.1} KiB, sha-256 {})",
            self.name,
            self.version,
            self.route,
            self.rustc,
            self.profile,
            self.elapsed_ms as f64 / 1e3,
            self.file.display(),
            self.bytes as f64 / 1024.0,
            self.digest.short(),
        )
    }
}

/// Builds a crate to a component that carries its version, and writes it to a file at once or not
/// at all. Blocks for as long as cargo takes.
///
/// # Errors
/// When cargo or the target is missing (the message has the command that helps), the folder has no
/// crate with a `cdylib`, it does not compile, or the file cannot be written.
pub fn build(options: &BuildOptions) -> anyhow::Result<BuildReport> {
    let started = Instant::now();
    let dir = options
        .dir
        .canonicalize()
        .with_context(|| format!("there is no folder {}", options.dir.display()))?;
    let manifest = dir.join("Cargo.toml");
    ensure!(manifest.is_file(), "{} has no Cargo.toml", dir.display());
    let toolchain = Toolchain::require(&dir)?;
    let package = package(&dir, &manifest)?;
    let name = package.plugin_name();
    check_version(&package.version)?;

    let artifact = compile(&toolchain, &dir, &package, options)?;
    let component = fs::read(&artifact)
        .with_context(|| format!("reading what cargo built, {}", artifact.display()))?;
    let component = stamp_version(&component, &package.version)
        .with_context(|| format!("{} is not as expected", artifact.display()))?;

    let file = match &options.out {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{name}-{}.wasm", package.version)),
    };
    write_file(&file, &component).with_context(|| format!("writing {}", file.display()))?;
    Ok(BuildReport {
        name: name.to_owned(),
        version: package.version.clone(),
        file,
        bytes: component.len(),
        digest: Digest::of(&component),
        route: toolchain.route,
        rustc: toolchain.rustc,
        profile: options.profile.clone(),
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    #[serde(default)]
    metadata: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

impl Package {
    fn is_plugin(&self) -> bool {
        self.targets.iter().any(|target| target.crate_types.iter().any(|t| t == "cdylib"))
    }
    /// `[package.metadata.slotd] name`, for several versions of one plugin side by side, else the
    /// crate's.
    fn plugin_name(&self) -> &str {
        let own = self.metadata.as_ref().and_then(|m| m.pointer("/slotd/name")?.as_str());
        own.unwrap_or(&self.name)
    }
}

fn package(dir: &Path, manifest: &Path) -> anyhow::Result<Package> {
    let mut cargo = toolchain::cargo(dir);
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]);
    let metadata = toolchain::output(cargo.arg(manifest))?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("`cargo metadata` printed something unexpected")?;
    let (mut here, others): (Vec<_>, Vec<_>) =
        metadata.packages.into_iter().partition(|package| package.manifest_path == manifest);
    match here.pop() {
        Some(package) if package.is_plugin() => Ok(package),
        Some(package) => bail!(
            "the crate {} makes no component: add to {}\n  [lib]\n  crate-type = [\"cdylib\"]",
            package.name,
            manifest.display()
        ),
        None => {
            let plugins = others.iter().filter(|package| package.is_plugin());
            let dirs = plugins.filter_map(|package| package.manifest_path.parent());
            let dirs: Vec<_> = dirs.map(|dir| dir.display().to_string()).collect();
            bail!(
                "{} is a workspace; build one of its plugins: {}",
                dir.display(),
                if dirs.is_empty() { "it has none".to_owned() } else { dirs.join(", ") }
            )
        }
    }
}

fn check_version(version: &str) -> anyhow::Result<()> {
    let max = limits::PLUGIN_VERSION_BYTES_MAX;
    ensure!(version.len() <= max, "the version {version} has more than {max} characters");
    Ok(())
}

/// A line of cargo's `--message-format=json`.
#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    package_id: Option<String>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

fn compile(
    toolchain: &Toolchain,
    dir: &Path,
    package: &Package,
    options: &BuildOptions,
) -> anyhow::Result<PathBuf> {
    let mut cargo = toolchain.cargo_build(dir);
    cargo
        .args(["--lib", "--message-format=json-render-diagnostics", "--profile"])
        .args([&options.profile, "--package", &package.id])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if options.quiet {
        cargo.arg("--quiet");
    }
    let output = cargo.output().context("running cargo")?;
    ensure!(
        output.status.success(),
        "{} {} does not build; cargo says why above",
        package.name,
        package.version
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<CargoMessage>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| message.package_id.as_ref() == Some(&package.id))
        .flat_map(|message| message.filenames)
        .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .context("cargo built no .wasm file")
}

/// Whole or not at all: whoever reads it never sees half a component.
fn write_file(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = fs::File::create(&temporary)
        .and_then(|mut f| f.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        _ = fs::remove_file(&temporary);
    }
    written
}

// ---- the version's section ---------------------------------------------------------------------

/// A component's first bytes; a core module has `01 00 00 00` in the end.
const COMPONENT_HEADER: [u8; 8] = *b"\0asm\x0d\0\x01\0";
/// The id of a custom section.
const CUSTOM: u8 = 0;
const VERSION_SECTION: &[u8] = b"version";

/// The component with the custom section `version`, at its top level, saying `version`; one that
/// was there is replaced.
///
/// # Errors
/// When `component` is none, or is cut off.
pub fn stamp_version(component: &[u8], version: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(component.starts_with(&COMPONENT_HEADER), "this is no WebAssembly component");
    let mut stamped = Vec::with_capacity(component.len() + version.len() + 16);
    stamped.extend_from_slice(&COMPONENT_HEADER);
    let mut rest = &component[COMPONENT_HEADER.len()..];
    while !rest.is_empty() {
        let section = rest;
        let (id, content) = section_of(&mut rest).context("the component is cut off")?;
        let is_version = id == CUSTOM && custom_name(content) == Some(VERSION_SECTION);
        if !is_version {
            stamped.extend_from_slice(&section[..section.len() - rest.len()]);
        }
    }
    let mut content = Vec::new();
    write_leb(&mut content, VERSION_SECTION.len());
    content.extend_from_slice(VERSION_SECTION);
    content.extend_from_slice(version.as_bytes());
    stamped.push(CUSTOM);
    write_leb(&mut stamped, content.len());
    stamped.extend_from_slice(&content);
    Ok(stamped)
}

/// Takes a section off the front: its id and content.
fn section_of<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&id, rest) = bytes.split_first()?;
    *bytes = rest;
    let length = read_leb(bytes)?;
    let (content, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((id, content))
}

fn custom_name(mut content: &[u8]) -> Option<&[u8]> {
    let length = read_leb(&mut content)?;
    content.get(..length)
}

/// An unsigned LEB128 of 32 bits.
fn read_leb(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok().map(|value| value as usize);
        }
    }
    None
}

fn write_leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests;
