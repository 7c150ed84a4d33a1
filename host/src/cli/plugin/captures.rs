//! `slotd plugin replay`, and the captures of a plugin's folder: run on a component, with no server.

use super::script::read;
use crate::{
    capture::{self, Capture, OutcomeForm, Verdict},
    files::{self, For},
    limits,
    plugin::{CompileOptions, Digest, Isolation, PluginHost, PluginOptions},
    replay_engine::{Difference, Instances, Version},
};
use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use serde::Serialize;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// The folder of captures of a plugin.
const FOLDER: &str = "captures";

#[derive(Clone, Debug)]
pub struct ReplayOptions {
    pub file: PathBuf,
    pub wasm: Option<PathBuf>,
    pub accept: bool,
}

/// What came of one.
#[derive(Debug, Serialize)]
pub struct Replayed {
    pub capture: PathBuf,
    /// `service/session`, and the message.
    pub session: String,
    pub seq: u64,
    /// Why it was made.
    pub because: &'static str,
    pub handled_by: String,
    pub ran_on: String,
    /// `migrate` has run before.
    pub migrated: bool,
    /// It is as it should be; or, on the component of the capture, as it was.
    pub good: bool,
    /// What it was compared with.
    pub stored: OutcomeForm,
    pub came: OutcomeForm,
    pub differences: Vec<Difference>,
    #[serde(skip)]
    verdict: Option<Verdict>,
    /// What came out is in the file now.
    pub accepted: bool,
}

/// A plugin host, and what it needs.
pub(super) struct Bench {
    host: PluginHost,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let host = PluginHost::new(PluginOptions {
            dir: folder.path().join("plugins"),
            memory_bytes: limits::GUEST_MEMORY_BYTES_DEFAULT,
            // Of one instance, and the one on trial.
            memory_total_bytes: 4 * limits::GUEST_MEMORY_BYTES_DEFAULT,
            deadline: limits::GUEST_DEADLINE_DEFAULT,
            host_calls: limits::HOST_CALLS_MAX,
            compile: CompileOptions::default(),
            isolation: Isolation::Call,
            long_threads: 1,
            source: None,
        })?;
        Ok(Self { host, _folder: folder })
    }

    /// Checks and compiles a component. `version`: as it was deployed, where that is known.
    pub async fn version(&self, wasm: Bytes, version: Option<&str>) -> anyhow::Result<Version> {
        let plugin = self.host.add(wasm).await?;
        // As a deploy that names no version.
        let version = version.or(plugin.version()).unwrap_or("0.0.0").to_owned();
        let label = label(&version, plugin.digest());
        Ok(Version { id: 1, plugin, version, label: label.into(), same_state: false })
    }

    /// Runs a capture.
    pub async fn run(
        &self,
        file: &Path,
        capture: &Capture,
        on: &Version,
        verdict: Verdict,
    ) -> anyhow::Result<Replayed> {
        let mut instances = Instances::new(Isolation::Call).heard();
        let ran = capture::run(capture, on, &mut instances).await;
        let ran = ran.with_context(|| file.display().to_string())?;
        let came = OutcomeForm::from(&ran.outcome);
        let differences = capture::compare(capture, &came, verdict);
        let stored = match verdict {
            Verdict::Reproduces => &capture.outcome,
            Verdict::IsRight => capture.expects(),
        };
        Ok(Replayed {
            capture: file.to_owned(),
            session: format!("{}/{}", capture.service, capture.session),
            seq: capture.message.seq,
            because: capture.because.kind.as_str(),
            handled_by: label(&capture.component.version, capture.component.digest),
            ran_on: on.label.to_string(),
            migrated: ran.migrated,
            good: differences.is_empty(),
            stored: stored.clone(),
            came,
            differences,
            verdict: Some(verdict),
            accepted: false,
        })
    }
}

fn label(version: &str, digest: Digest) -> String {
    format!("{version}+{}", digest.short())
}

/// # Errors
/// The file can't be read, or has no component and none is named.
pub async fn replay(options: &ReplayOptions) -> anyhow::Result<Replayed> {
    let ReplayOptions { file, wasm, accept } = options;
    let mut capture = read_capture(file)?;
    let named = || file.display().to_string();
    let bench = Bench::new()?;
    let (on, verdict) = match wasm {
        Some(wasm) => (bench.version(read(wasm)?.into(), None).await?, Verdict::IsRight),
        None => {
            let wasm = capture.wasm().with_context(named)?;
            let version = Some(capture.component.version.as_str());
            let mut on = bench.version(wasm, version).await?;
            on.same_state = capture.component.same_state;
            (on, Verdict::Reproduces)
        }
    };
    let mut replayed = bench.run(file, &capture, &on, verdict).await?;
    if *accept {
        capture.expected = Some(replayed.came.clone());
        let text = capture.text().map_err(|why| anyhow!(why))?;
        files::replace(file, text.as_bytes(), For::All).with_context(named)?;
        replayed.accepted = true;
    }
    Ok(replayed)
}

pub(super) fn read_capture(file: &Path) -> anyhow::Result<Capture> {
    let bytes = files::read(file, limits::CAPTURE_FILE_BYTES_MAX);
    let bytes = bytes.map_err(|error| anyhow!("{} {error}", file.display()))?;
    Capture::parse(&bytes).with_context(|| file.display().to_string())
}

/// The captures of a plugin's folder, in the order of their names.
///
/// # Errors
/// The folder can't be read, or there are too many.
pub fn folder_captures(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = dir.join(FOLDER);
    let folder = folder.strip_prefix(".").map(Path::to_owned).unwrap_or(folder);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
        let most = limits::CAPTURE_FOLDER_MAX;
        ensure!(files.len() <= most, "{} has more than {most} captures", folder.display());
    }
    files.sort();
    Ok(files)
}

/// Runs captures on a component that is to do them right.
pub(super) async fn run_all(files: &[PathBuf], wasm: Bytes) -> anyhow::Result<Vec<Replayed>> {
    let mut all = Vec::new();
    if files.is_empty() {
        return Ok(all);
    }
    let bench = Bench::new()?;
    let on = bench.version(wasm, None).await?;
    for file in files {
        let capture = read_capture(file)?;
        if capture.expects().is_failure() && capture.expected.is_some() {
            bail!("{}: it expects a failure, which nothing is to do", file.display());
        }
        all.push(bench.run(file, &capture, &on, Verdict::IsRight).await?);
    }
    Ok(all)
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, message {} ({})", self.session, self.seq, self.because)?;
        writeln!(f, "  handled by {}", self.handled_by)?;
        let migrated = if self.migrated { ", after its migrate" } else { "" };
        writeln!(f, "  run on     {}{migrated}", self.ran_on)?;
        self.differ(f)?;
        let is_itself = self.verdict == Some(Verdict::Reproduces);
        match (is_itself, self.good) {
            (true, true) => {
                writeln!(f, "  came       {}", cut(&self.came.shown()))?;
                writeln!(f, "the same comes out again")?;
            }
            (true, false) => writeln!(
                f,
                "something else comes out: the component keeps something between calls, the time \
                 was short, or the file was changed"
            )?,
            (false, true) => {
                writeln!(f, "  came       {}", cut(&self.came.shown()))?;
                writeln!(f, "it is as it should be")?;
            }
            (false, false) => writeln!(f, "it is not as it should be")?,
        }
        if self.accepted {
            let file = self.capture.display();
            writeln!(f, "{file} expects what came out from now on")?;
        }
        Ok(())
    }
}

impl Replayed {
    pub(super) fn differ(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "  {}", difference.what.as_str())?;
            writeln!(f, "    stored   {}", difference.stored)?;
            writeln!(f, "    came     {}", difference.came)?;
        }
        Ok(())
    }
}

fn cut(text: &str) -> String {
    let kept = crate::text::cut(text, limits::DIFFERENCE_SHOWN_BYTES);
    if kept.len() == text.len() { text.to_owned() } else { format!("{kept}…") }
}
