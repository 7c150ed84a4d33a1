//! Rust: `Cargo.toml` of a crate with a `cdylib`.

pub mod toolchain;

use super::{BuildOptions, Built, Language, NewOptions};
use crate::{sdk::Files, steps::Steps, texts::read_text};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
};
use toolchain::Toolchain;

const MANIFEST: &str = "Cargo.toml";
const PROFILE: &str = "release";

const TEMPLATES: Files = &[
    ("Cargo.toml", include_str!("../../templates/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../templates/rust/lib.rs.in")),
    ("types.json", include_str!("../../templates/rust/types.json")),
    (".gitignore", include_str!("../../templates/rust/gitignore.in")),
    ("README.md", include_str!("../../templates/rust/README.md.in")),
];

/// The SDK of the checkout that this binary was built from.
const SDK_OF_CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-sdk/rust");
const SDK_NAME: &str = "slotd-guest";

/// Names that clash with a crate that every plugin uses, or that cargo refuses.
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

pub(super) struct Rust;

impl Language for Rust {
    fn manifest(&self) -> &'static str {
        MANIFEST
    }

    fn detect(&self, dir: &Path) -> anyhow::Result<bool> {
        Ok(read_text(&dir.join(MANIFEST))?.is_some())
    }

    fn templates(&self) -> Files {
        TEMPLATES
    }

    fn placeholders(&self, options: &NewOptions) -> anyhow::Result<Vec<(&'static str, String)>> {
        let NewOptions { name, sdk, .. } = options;
        ensure!(
            !RESERVED.contains(&name.replace('_', "-").as_str()),
            "{name:?} can't be a plugin's name: cargo or Rust reserves it"
        );
        let sdk = sdk_dependency(sdk.as_deref())?;
        let with_types = sdk.replace(" }", ", features = [\"types\"] }");
        Ok(vec![("sdk", sdk), ("sdk_with_types", with_types)])
    }

    fn types(&self, dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        Ok(package(dir)?.types())
    }

    fn package(&self, dir: &Path) -> anyhow::Result<super::Package> {
        Ok(package(dir)?.into_plugin())
    }

    fn build(&self, dir: &Path, options: &BuildOptions, steps: &Steps) -> anyhow::Result<Built> {
        let toolchain = Toolchain::require(dir)?;
        let package = package(dir)?;
        let profile = options.profile.as_deref().unwrap_or(PROFILE);
        let artifact = compile(&toolchain, dir, &package, profile, steps)?;
        let component = fs::read(&artifact)
            .with_context(|| format!("reading what cargo built, {}", artifact.display()))?;
        let by = format!("{} ({}, {profile})", toolchain.route, toolchain.rustc);
        Ok(Built { package: package.into_plugin(), component, by })
    }

    fn test(&self, dir: &Path, args: &[OsString], steps: &Steps) -> anyhow::Result<ExitStatus> {
        steps.pass("", toolchain::cargo(dir).arg("test").args(args))
    }

    /// The crate, its path dependencies, and theirs.
    fn sources(&self, dir: &Path) -> Vec<PathBuf> {
        let mut dirs = vec![dir.to_path_buf()];
        let mut at = 0;
        while let Some(dir) = dirs.get(at) {
            at += 1;
            let Ok((here, _)) = crates(dir) else { continue };
            let Some(package) = here else { continue };
            let paths = package.dependencies.into_iter().filter_map(|other| other.path);
            let new: Vec<_> = paths.filter(|path| !dirs.contains(path)).collect();
            dirs.extend(new);
        }
        dirs
    }
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
    read_text(&dir.join("Cargo.toml"))
        .ok()
        .flatten()
        .and_then(|text| text.parse::<toml::Table>().ok())
        .is_some_and(|manifest| {
            manifest.get("package").and_then(|p| p.get("name")).and_then(|n| n.as_str())
                == Some(SDK_NAME)
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
    #[serde(default)]
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
    #[serde(default)]
    metadata: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Dependency {
    /// Its path on this machine.
    path: Option<PathBuf>,
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
    /// `[package.metadata.slotd] types`.
    fn types(&self) -> Option<PathBuf> {
        let file = self.metadata.as_ref()?.pointer("/slotd/types")?.as_str()?;
        Some(PathBuf::from(file))
    }
    fn into_plugin(self) -> super::Package {
        super::Package { name: self.plugin_name().to_owned(), version: self.version }
    }
}

/// The crate whose manifest is in `dir`, unless it is only a workspace's, and the workspace's
/// others.
fn crates(dir: &Path) -> anyhow::Result<(Option<Package>, Vec<Package>)> {
    let manifest = &dir.join(MANIFEST);
    let mut cargo = toolchain::cargo(dir);
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]);
    let metadata = toolchain::output(cargo.arg(manifest));
    // There may be no cargo at all.
    let metadata = metadata.or_else(|error| toolchain::check_cargo(dir).and(Err(error)))?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).context("`cargo metadata` printed something unexpected")?;
    let (mut here, others): (Vec<_>, Vec<_>) =
        metadata.packages.into_iter().partition(|package| package.manifest_path == *manifest);
    Ok((here.pop(), others))
}

fn package(dir: &Path) -> anyhow::Result<Package> {
    let (here, others) = crates(dir)?;
    match here {
        Some(package) if package.is_plugin() => Ok(package),
        Some(package) => bail!(
            "the crate {} does not build a component: add to {}\n  [lib]\n  crate-type = \
             [\"cdylib\"]",
            package.name,
            dir.join(MANIFEST).display()
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
    profile: &str,
    steps: &Steps,
) -> anyhow::Result<PathBuf> {
    let mut cargo = toolchain.cargo_build(dir);
    cargo
        .args(["--lib", "--message-format=json-render-diagnostics", "--profile", profile])
        .args(["--package", &package.id]);
    let Package { name, version, .. } = package;
    let messages = steps
        .read(&format!("building {name} {version} with cargo"), &mut cargo)
        .with_context(|| format!("{name} {version} does not build"))?;
    String::from_utf8_lossy(&messages)
        .lines()
        .filter_map(|line| serde_json::from_str::<CargoMessage>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter(|message| message.package_id.as_ref() == Some(&package.id))
        .flat_map(|message| message.filenames)
        .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .context("cargo built no .wasm file")
}
