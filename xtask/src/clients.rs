//! What is built of the client libraries: for pages, for the tests of each, and the drivers of the suite for all of them.

use crate::packages::run as quietly;
use anyhow::Context;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TYPESCRIPT: &str = "clients/ts";

/// Builds the library for TypeScript into `out/ts`, with the tools that its lock file names, in `tools`.
pub fn typescript(root: &Path, tools: &Path, out: &Path, path: &OsStr) -> anyhow::Result<()> {
    let source = root.join(TYPESCRIPT);
    let tools = fetched(&source, &tools.join("clients-ts"), path)?;
    // As its documents say it, but for the folders.
    let mut build = Command::new("npm");
    build.args(["run", "--silent", "build", "--", "--tools"]).arg(&tools);
    build.arg("--out").arg(out.join("ts")).env("PATH", path).current_dir(&source);
    crate::run(&mut build)
}

/// Its own tests, which are built.
pub fn typescript_tests(root: &Path, out: &Path, path: &OsStr) -> anyhow::Result<()> {
    let built = fs::read_dir(out.join("ts/test"))?.flatten().map(|entry| entry.path());
    let mut test = Command::new("node");
    test.args(["--test", "--test-timeout=60000"]).args(built).env("PATH", path);
    crate::run(test.current_dir(root.join(TYPESCRIPT)))
}

/// The packages of the lock file, in a folder of the tools, so that they stay out of the clone.
fn fetched(source: &Path, into: &Path, path: &OsStr) -> anyhow::Result<PathBuf> {
    let files = ["package.json", "package-lock.json"];
    let wanted: Vec<_> =
        files.iter().map(|name| fs::read(source.join(name))).collect::<Result<_, _>>()?;
    let done = into.join(".done");
    if fs::read(&done).is_ok_and(|done| done == wanted.concat()) {
        return Ok(into.to_owned());
    }
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into)?;
    for (name, text) in files.iter().zip(&wanted) {
        fs::write(into.join(name), text)?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]);
    quietly(npm.current_dir(into).env("PATH", path)).context("fetching the tools of clients/ts")?;
    fs::write(done, wanted.concat())?;
    Ok(into.to_owned())
}
