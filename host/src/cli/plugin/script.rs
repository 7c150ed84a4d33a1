//! `slotd plugin test --wasm`: runs the built component in a node's plugin host, against scripted
//! messages.

use super::{
    build::component,
    captures::{Replayed, folder_captures, run_all},
};
use crate::{
    files, limits,
    names::ServiceName,
    script::{self, Call, Runner, Step},
};
use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use serde::Serialize;
use slotd_toolchains::{BuildOptions, Steps};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// The scripts of a plugin, if none are named: this one, and `tests/*.jsonl`.
const SCRIPT: &str = "script.jsonl";

#[derive(Clone, Debug, Default)]
pub struct ScriptOptions {
    /// The plugin's folder.
    pub dir: PathBuf,
    /// Empty: those of the folder.
    pub scripts: Vec<PathBuf>,
    /// A component to test instead of the built one.
    pub component: Option<PathBuf>,
    /// Those of the folder; no scripts.
    pub only_captures: bool,
}

/// The results of all scripts.
#[derive(Debug, Serialize)]
pub struct ScriptReport {
    pub scripts: Vec<Played>,
    pub captures: Vec<Replayed>,
}

/// The result of one script.
#[derive(Debug, Serialize)]
pub struct Played {
    pub script: PathBuf,
    pub calls: usize,
    pub failed: Vec<FailedCall>,
}

#[derive(Debug, Serialize)]
pub struct FailedCall {
    pub line: usize,
    /// The called function.
    pub call: String,
    pub differences: Vec<String>,
}

impl ScriptReport {
    /// Calls that did not match their expectation, and captures that are not as they should be.
    pub fn failed(&self) -> usize {
        let calls: usize = self.scripts.iter().map(|played| played.failed.len()).sum();
        calls + self.captures.iter().filter(|replayed| !replayed.good).count()
    }
}

impl fmt::Display for ScriptReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Played { script, calls, failed } in &self.scripts {
            let script = script.display();
            for FailedCall { line, call, differences } in failed {
                writeln!(f, "{script}:{line}: {call}")?;
                for difference in differences {
                    writeln!(f, "    {difference}")?;
                }
            }
            let good = calls - failed.len();
            writeln!(f, "{script}: {good} of {calls} calls as expected")?;
        }
        for replayed in &self.captures {
            let (file, because) = (replayed.capture.display(), replayed.because);
            match replayed.good {
                true => writeln!(f, "{file}: as it should be ({because})")?,
                false => {
                    writeln!(f, "{file}: not as it should be ({because})")?;
                    replayed.differ(f)?;
                }
            }
        }
        Ok(())
    }
}

/// Builds the component, unless one is given, and runs every script and capture against it.
///
/// # Errors
/// If there is no script, one can't be read, the component can't be built, or slotd refuses it.
pub async fn play(options: &ScriptOptions, steps: &Steps) -> anyhow::Result<ScriptReport> {
    let (scripts, captures) = all(options)?;
    let (name, bytes) = match &options.component {
        Some(file) => (String::new(), Bytes::from(read(file)?)),
        None => {
            let build = BuildOptions { dir: options.dir.clone(), profile: None };
            let built = component(&build, steps)?;
            (built.package.name, Bytes::from(built.bytes))
        }
    };
    let service = ServiceName::parse(&name).map_or("plugin", |_| &*name);
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    let mut runner = Runner::new(service, bytes.clone(), scratch.path()).await?;
    let mut report = ScriptReport { scripts: Vec::new(), captures: Vec::new() };
    for (file, lines) in scripts {
        runner.begin();
        load(&mut runner, &file, &lines).await?;
        let calls = lines.len();
        let mut failed = Vec::new();
        for step in lines {
            let differences = match runner.run(&step).await {
                Ok(observed) => step.expect.differences(&observed),
                Err(error) => vec![format!("{error:#}")],
            };
            if !differences.is_empty() {
                failed.push(FailedCall { line: step.line, call: step.to_string(), differences });
            }
        }
        report.scripts.push(Played { script: file, calls, failed });
    }
    report.captures = run_all(&captures, bytes).await?;
    Ok(report)
}

/// Has the components loaded that a script swaps to. Their files are named from its folder.
async fn load(runner: &mut Runner, script: &Path, lines: &[Step]) -> anyhow::Result<()> {
    let folder = script.parent().unwrap_or(Path::new(""));
    for step in lines {
        let Call::Swap { component } = &step.call else { continue };
        let file = folder.join(component);
        let loaded = runner.load(component.clone(), read(&file)?.into()).await;
        loaded.with_context(|| format!("{}:{}", script.display(), step.line))?;
    }
    Ok(())
}

/// The scripts of a plugin's folder.
pub(super) fn folder_scripts(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        Some(dir.join(SCRIPT)).filter(|file| file.is_file()).into_iter().collect();
    let tests = fs::read_dir(dir.join("tests")).into_iter().flatten().flatten();
    let mut tests: Vec<_> = tests.map(|entry| entry.path()).collect();
    tests.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    tests.sort();
    files.extend(tests);
    files
}

/// Scripts, with their steps.
type Scripts = Vec<(PathBuf, Vec<Step>)>;

/// The scripts and captures that are named, or else those of the folder.
fn all(options: &ScriptOptions) -> anyhow::Result<(Scripts, Vec<PathBuf>)> {
    let is_capture = |file: &PathBuf| file.extension().is_some_and(|it| it == "json");
    let (mut captures, mut files): (Vec<_>, Vec<_>) =
        options.scripts.iter().cloned().partition(is_capture);
    if options.only_captures {
        return Ok((Vec::new(), folder_captures(&options.dir)?));
    }
    if options.scripts.is_empty() {
        let dir = &options.dir;
        files = folder_scripts(dir);
        captures = folder_captures(dir)?;
        ensure!(
            !files.is_empty() || !captures.is_empty(),
            "{} has no script: write {SCRIPT} or tests/NAME.jsonl (docs/plugins.md says how), put \
             a capture into captures/ (docs/capture.md), or name one",
            dir.display()
        );
    }
    let mut scripts = Vec::new();
    for file in files {
        let file = file.strip_prefix(".").map(Path::to_owned).unwrap_or(file);
        ensure!(
            !file.is_dir(),
            "{0} is a folder; put a plugin's folder first: slotd plugin test {0} --wasm",
            file.display()
        );
        let text = String::from_utf8(read(&file)?);
        let text = text.with_context(|| format!("{} is not text", file.display()))?;
        match script::parse(&text) {
            Ok(steps) if steps.is_empty() => bail!("{} calls nothing", file.display()),
            Ok(steps) => scripts.push((file, steps)),
            Err(why) => bail!("{}, {why}", file.display()),
        }
    }
    Ok((scripts, captures))
}

pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let read = files::read(file, limits::COMPONENT_BYTES_MAX as u64);
    read.map_err(|error| anyhow!("{} {error}", file.display()))
}
