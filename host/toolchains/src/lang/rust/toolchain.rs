//! The toolchains that build plugins: detects them, and sets up missing ones.

use crate::lang::debian;
use anyhow::{Context, bail};
use serde::Serialize;
use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The target of plugins: components without any WASI import.
pub const TARGET: &str = "wasm32-unknown-unknown";
/// The other target that the SDK supports; its components import WASI.
pub const TARGET_WASI: &str = "wasm32-wasip2";
/// Debian's compiler and the source of its library, if rustup can't fetch a target.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";
const GET_RUSTUP: &str = "install rustup from https://rustup.rs";

/// How components are built here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// rustup's `wasm32-unknown-unknown`, linked by `wasm-component-ld`.
    Rustup,
    /// Debian's compiler, driven by rustup's cargo, which builds the standard library once.
    Debian,
    /// rustup's `wasm32-wasip2`: works, but the component imports WASI.
    Wasip2,
}

impl Route {
    pub fn target(self) -> &'static str {
        match self {
            Route::Rustup | Route::Debian => TARGET,
            Route::Wasip2 => TARGET_WASI,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Route::Rustup => "rustup's target wasm32-unknown-unknown",
            Route::Debian => "Debian's rustc for wasm32-unknown-unknown",
            Route::Wasip2 => "rustup's target wasm32-wasip2 (imports WASI)",
        })
    }
}

/// A toolchain that builds components.
#[derive(Clone, Debug)]
pub struct Toolchain {
    pub route: Route,
    /// From `rustc --version`.
    pub rustc: String,
    /// Contains `wasm-component-ld` and, under `gcc-ld/`, the linker that it runs.
    linkers: PathBuf,
}

/// The result of a setup.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    pub route: Route,
    pub rustc: String,
    /// The commands that were run; empty if everything was there.
    pub did: Vec<String>,
    /// What did not work, if another way was found.
    pub failed: Vec<String>,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failed in &self.failed {
            writeln!(f, "did not work: {failed}")?;
        }
        for did in &self.did {
            writeln!(f, "done: {did}")?;
        }
        let already = if self.did.is_empty() { ", already there" } else { "" };
        write!(f, "plugins are built by {} ({}){already}", self.route, self.rustc)
    }
}

impl Toolchain {
    /// The toolchain that builds the crate in `dir` (using its `rust-toolchain.toml`), or `None` if
    /// only a target is missing.
    ///
    /// # Errors
    /// If there is no working cargo or rustc, or one without `wasm-component-ld`.
    pub fn detect(dir: &Path) -> anyhow::Result<Option<Self>> {
        let compiler = Compiler::find(dir)?;
        let linkers = compiler.sysroot.join("lib/rustlib").join(&compiler.host).join("bin");
        let has = |target| compiler.has(target);
        let (route, rustc) = if has(TARGET) {
            (Route::Rustup, compiler.version.clone())
        } else if let Some(rustc) = debian_rustc() {
            (Route::Debian, rustc)
        } else if has(TARGET_WASI) {
            (Route::Wasip2, compiler.version.clone())
        } else {
            return Ok(None);
        };
        if !linkers.join(executable("wasm-component-ld")).is_file() {
            bail!(
                "{} has no wasm-component-ld in {}: {GET_RUSTUP}, whose toolchains include it",
                compiler.version,
                linkers.display()
            );
        }
        Ok(Some(Self { route, rustc, linkers }))
    }

    /// As [`Self::detect`].
    ///
    /// # Errors
    /// Also if a target is missing, with the command that adds it.
    pub fn require(dir: &Path) -> anyhow::Result<Self> {
        Self::detect(dir)?.with_context(|| {
            format!(
                "the target {TARGET} is not installed; run `slotd plugin setup`, or:\n  \
                 rustup target add {TARGET}\n\
                 if rustup can't fetch it, on Debian:\n  {}",
                debian::commands("", &DEBIAN_PACKAGES).join("\n  ")
            )
        })
    }

    /// `cargo build` in `dir`, for this toolchain's target.
    pub fn cargo_build(&self, dir: &Path) -> Command {
        let mut cargo = cargo(dir);
        cargo.args(["build", "--target", self.route.target()]);
        if self.route == Route::Wasip2 {
            return cargo;
        }
        let linker = self.linkers.join(executable("wasm-component-ld"));
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        if self.route == Route::Debian {
            // Debian's sysroot has neither the library for this target nor the linker.
            let mut path = vec![self.linkers.join("gcc-ld")];
            path.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
            if let Ok(path) = env::join_paths(path) {
                cargo.env("PATH", path);
            }
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            cargo.arg("-Zbuild-std=std,panic_abort");
        }
        cargo
    }
}

/// Ensures that plugins can be built in `dir`: adds rustup's targets or, if they can't be fetched,
/// Debian's packages. Does nothing if everything is there. The tools' own output goes to stderr.
///
/// # Errors
/// If neither works, with what was tried and the commands to try by hand.
pub fn ensure(dir: &Path) -> anyhow::Result<Setup> {
    let compiler = Compiler::find(dir)?;
    let (mut did, mut failed) = (Vec::new(), Vec::new());
    let missing: Vec<_> =
        [TARGET, TARGET_WASI].into_iter().filter(|target| !compiler.has(target)).collect();
    // If Debian's compiler is in use already, rustup has failed before.
    if !missing.is_empty() && debian_rustc().is_none() {
        // One by one: an older toolchain may know only the first.
        for target in missing {
            let mut rustup = Command::new("rustup");
            rustup.args(["target", "add", target]).current_dir(dir);
            debian::run(&mut rustup, &mut did, &mut failed);
        }
        if Toolchain::detect(dir)?.is_none() {
            debian::install(&DEBIAN_PACKAGES, &mut did, &mut failed);
        }
    }
    match Toolchain::detect(dir)? {
        Some(Toolchain { route, rustc, .. }) => Ok(Setup { route, rustc, did, failed }),
        None => bail!(
            "no toolchain for plugins could be set up; tried:\n  {}\ntry by hand, as root:\n  {}",
            failed.join("\n  "),
            debian::commands("", &DEBIAN_PACKAGES).join("\n  ")
        ),
    }
}

/// The rustc that cargo uses in a folder.
struct Compiler {
    sysroot: PathBuf,
    host: String,
    version: String,
}

/// # Errors
/// That cargo can't be run, and where it is had from.
pub(super) fn check_cargo(dir: &Path) -> anyhow::Result<()> {
    output(cargo(dir).arg("--version"))
        .with_context(|| format!("cargo does not run here; {GET_RUSTUP}"))?;
    Ok(())
}

impl Compiler {
    fn find(dir: &Path) -> anyhow::Result<Self> {
        check_cargo(dir)?;
        let rustc = || {
            let mut rustc = Command::new("rustc");
            rustc.current_dir(dir);
            rustc
        };
        let about = output(rustc().arg("-vV"))
            .with_context(|| format!("rustc does not run here; {GET_RUSTUP}"))?;
        let sysroot = output(rustc().args(["--print", "sysroot"]))?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            sysroot: sysroot.trim().into(),
            host: host.context("`rustc -vV` names no host")?.to_owned(),
            version: about.lines().next().unwrap_or_default().to_owned(),
        })
    }

    fn has(&self, target: &str) -> bool {
        self.sysroot.join("lib/rustlib").join(target).join("lib").is_dir()
    }
}

/// Debian's compiler, if it is installed with the source of its library.
fn debian_rustc() -> Option<String> {
    if !Path::new(DEBIAN_SOURCE).is_file() {
        return None;
    }
    output(Command::new(DEBIAN_RUSTC).arg("--version")).ok().map(|v| v.trim().to_owned())
}

/// The cargo that runs us, if any, else the one on the `PATH`.
pub(super) fn cargo(dir: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(dir);
    cargo
}

/// A command's output.
///
/// # Errors
/// If it does not start or fails, with its output.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn executable(name: &str) -> String {
    format!("{name}{}", env::consts::EXE_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setup that reinstalls existing packages would cost every test run minutes.
    #[test]
    fn setting_up_what_is_there_does_nothing() -> anyhow::Result<()> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compiler = Compiler::find(dir)?;
        if !(compiler.has(TARGET) && compiler.has(TARGET_WASI)) {
            return Ok(()); // A unit test is not to install anything.
        }
        let setup = ensure(dir)?;
        assert!(setup.did.is_empty() && setup.failed.is_empty(), "{setup}");
        assert!(setup.to_string().contains("already there"));
        Ok(())
    }
}
