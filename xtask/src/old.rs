//! The version of 25 November 2026, from which upgrades are tested; built from its commit.

use crate::{cargo_in, run};
use anyhow::Context;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const COMMIT: &str = "ec25180";

/// Builds it into the same folder as this version, whose dependencies are nearly the same, and
/// keeps the binary. This version has to be built after that: both are called `slotd`. `None`, and
/// a line with the reason, if it can't be built: a clone without history, or none at all.
pub fn build(root: &Path, target: &Path, say: &dyn Fn(&str)) -> Option<PathBuf> {
    let binary = target.join(format!("slotd-{COMMIT}"));
    if binary.exists() {
        return Some(binary);
    }
    say("building the slotd of 25 November 2026, for tests of upgrades");
    match build_from(root, target, &binary) {
        Ok(()) => Some(binary),
        Err(why) => {
            say(&format!("it can't be built: {why:#}"));
            None
        }
    }
}

fn build_from(root: &Path, target: &Path, binary: &Path) -> anyhow::Result<()> {
    let sources = target.join(format!("sources-{COMMIT}"));
    if !sources.join("Cargo.toml").exists() {
        std::fs::create_dir_all(&sources)?;
        let archive = target.join(format!("{COMMIT}.tar"));
        let what = ["archive", "--format=tar", "-o"];
        run(Command::new("git").args(what).arg(&archive).arg(COMMIT).current_dir(root))?;
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&sources))?;
        std::fs::remove_file(&archive)?;
    }
    // `--workspace`: also with this version's features of its dependencies.
    let mut build = cargo_in(&sources);
    build.args(["build", "--workspace", "--bin", "slotd"]);
    run(build.env("CARGO_TARGET_DIR", target).env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    let built = target.join("debug/slotd");
    // Atomically.
    let copy = binary.with_extension("new");
    std::fs::copy(&built, &copy).with_context(|| format!("{}", built.display()))?;
    Ok(std::fs::rename(copy, binary)?)
}
