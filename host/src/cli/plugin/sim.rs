//! `slotd plugin sim`: runs the component under virtual time, with failures, and looks for what breaks it.

use super::{
    build::component,
    script::{folder_scripts, read},
};
use crate::{
    capture::Capture,
    limits,
    names::ServiceName,
    script::Runner,
    sim::{self, Counts, Faults, Inputs, Options, Schema, What},
};
use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use slotd_toolchains::{BuildOptions, Steps};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What must hold, if no file is named.
const RULES: &str = "sim.jsonl";

#[derive(Clone, Debug)]
pub struct SimOptions {
    /// The plugin's folder.
    pub dir: PathBuf,
    pub component: Option<PathBuf>,
    pub next: Option<PathBuf>,
    pub rules: Option<PathBuf>,
    pub messages: Option<PathBuf>,
    pub scripts: Vec<PathBuf>,
    pub sessions: u32,
    pub runs: u32,
    pub steps: u32,
    pub seed: u64,
    pub time: Duration,
    pub faults: Faults,
    pub out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
pub struct SimReport {
    /// Of the first run.
    pub seed: u64,
    /// There was no time for all runs.
    pub cut: bool,
    #[serde(flatten)]
    pub counts: Counts,
    pub invariants: usize,
    /// Such of them as are looked at when nothing is under way.
    pub finally: usize,
    pub found: Option<FoundReport>,
}

#[derive(Debug, Serialize)]
pub struct FoundReport {
    /// Of the run.
    pub seed: u64,
    pub kind: &'static str,
    /// The invariant, and how it is broken.
    pub said: Vec<String>,
    pub steps: usize,
    pub steps_before: usize,
    pub tries: usize,
    pub shortest: bool,
    pub script: PathBuf,
    /// The script fails when it is played by itself.
    pub shown: bool,
    /// The file with the script's last message, if one message can show it.
    pub capture: Option<PathBuf>,
    pub lines: Vec<String>,
    /// How to play it.
    pub play: String,
}

/// # Errors
/// If a file can't be read, says what it must not, or there are no messages to send; the component can't be built, or slotd
/// refuses it.
pub async fn simulate(options: &SimOptions, steps: &Steps) -> anyhow::Result<SimReport> {
    let (name, bytes) = match &options.component {
        Some(file) => (String::new(), Bytes::from(read(file)?)),
        None => {
            let build = BuildOptions { dir: options.dir.clone(), profile: None };
            let built = component(&build, steps)?;
            (built.package.name, Bytes::from(built.bytes))
        }
    };
    let service = ServiceName::parse(&name).or_else(|_| ServiceName::parse("plugin"));
    let service = service.map_err(|error| anyhow!("{error}"))?;
    let inputs = inputs(options, service.clone(), &bytes)?;
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    let mut runner = Runner::new(service.as_str(), bytes, scratch.path()).await?;
    let mut second = None;
    let file = |seed: u64| match &options.out {
        Some(file) => file.clone(),
        None => {
            let file = options.dir.join(format!("found-{seed}.jsonl"));
            file.strip_prefix(".").map(Path::to_owned).unwrap_or(file)
        }
    };
    if let Some(next) = &options.next {
        let named = beside(next, &file(0))?;
        runner.load(named.clone().into(), read(next)?.into()).await?;
        second = Some(named);
    }
    let settings = Options {
        runs: options.runs,
        steps: options.steps,
        seed: options.seed,
        time: options.time,
        faults: options.faults,
        second,
    };
    let sim::Report { counts, is_cut, found } =
        sim::simulate(&mut runner, &inputs, &settings).await?;
    let found = match found {
        None => None,
        Some(found) => {
            let script = file(found.seed);
            let written = fs::write(&script, &found.script);
            written.with_context(|| format!("writing {}", script.display()))?;
            let capture = match &found.capture {
                Some(capture) => Some(write_capture(capture, &script)?),
                None => None,
            };
            let lines = found.script.lines().filter(|line| !line.starts_with("//"));
            Some(FoundReport {
                seed: found.seed,
                kind: kind(&found.what),
                lines: lines.map(str::to_owned).collect(),
                said: found.said,
                steps: found.steps,
                steps_before: found.steps_before,
                tries: found.tries,
                shortest: found.is_shortest,
                shown: found.is_shown,
                play: play_again(options, &script),
                capture,
                script,
            })
        }
    };
    let finally = inputs.invariants.iter().filter(|rule| rule.is_final).count();
    let invariants = inputs.invariants.len();
    Ok(SimReport { seed: options.seed, cut: is_cut, counts, invariants, finally, found })
}

fn kind(what: &What) -> &'static str {
    match what {
        What::Memory => "memory",
        What::Trap => "trap",
        What::Deadline => "deadline",
        What::Limit => "limit",
        What::Migrate => "migrate",
        What::Rule(_) => "rule",
    }
}

/// Beside the script.
fn write_capture(capture: &Capture, script: &Path) -> anyhow::Result<PathBuf> {
    let file = script.with_extension("capture.json");
    let text = capture.text().map_err(|why| anyhow!(why))?;
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

fn play_again(options: &SimOptions, script: &Path) -> String {
    let dir = options.dir.display();
    let mut command = format!("slotd plugin test {dir} --wasm {}", script.display());
    if let Some(file) = &options.component {
        command += &format!(" --component {}", file.display());
    }
    command
}

/// A component's file as a script names it: from the script's folder, where it is in there.
fn beside(component: &Path, script: &Path) -> anyhow::Result<String> {
    let whole = fs::canonicalize(component);
    let whole = whole.with_context(|| format!("{} can't be read", component.display()))?;
    let folder = script.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok();
    let inside = folder.and_then(|folder| whole.strip_prefix(folder).ok().map(Path::to_owned));
    let named = inside.unwrap_or(whole).into_os_string().into_string();
    named.map_err(|_| anyhow!("the name of {} is not text", component.display()))
}

fn inputs(options: &SimOptions, service: ServiceName, component: &[u8]) -> anyhow::Result<Inputs> {
    let mut inputs = Inputs::new(service);
    let beside = options.dir.join(RULES);
    let rules = options.rules.clone().or_else(|| Some(beside).filter(|file| file.is_file()));
    if let Some(file) = &rules {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let read = |name: &str| text(&folder.join(name)).map_err(|error| format!("{error:#}"));
        let read = inputs.rules(&text(file)?, &read);
        read.map_err(|why| anyhow!("{}, {why}", file.display()))?;
    }
    if let Some(file) = &options.messages {
        let schema = serde_json::from_str::<Value>(&text(file)?).map_err(|error| error.to_string());
        let schema = schema.and_then(|document| sim::message_schema(&document));
        let schema = schema.map_err(|why| anyhow!("{}: {why}", file.display()))?;
        inputs.messages(schema, options.sessions);
    }
    let mut scripts = options.scripts.clone();
    if scripts.is_empty() && inputs.sources.is_empty() {
        scripts = folder_scripts(&options.dir);
        match of_component(component) {
            Ok(Some(schema)) => inputs.messages(schema, options.sessions),
            Ok(None) => {}
            // The scripts' messages do.
            Err(why) if !scripts.is_empty() => {
                super::super::output::complain(&format!("not used: {why}"));
            }
            Err(why) => return Err(why),
        }
    }
    for file in &scripts {
        let read = inputs.script(&text(file)?);
        read.map_err(|why| anyhow!("{}, {why}", file.display()))?;
    }
    if inputs.sources.is_empty() {
        bail!(
            "nothing says what messages look like: give --messages SCHEMA, --script SCRIPT, or \
             `messages` in {RULES} (docs/plugins-sim.md)"
        );
    }
    Ok(inputs)
}

/// What the component says of its messages itself.
fn of_component(component: &[u8]) -> anyhow::Result<Option<Schema>> {
    let Some(document) = sim::types_of(component) else { return Ok(None) };
    if document.get("message").is_none() {
        return Ok(None);
    }
    let schema = sim::message_schema(&document);
    schema.map(Some).map_err(|why| anyhow!("the component's own types: {why}"))
}

fn text(file: &Path) -> anyhow::Result<String> {
    let bytes = crate::files::read(file, limits::SIM_FILE_BYTES_MAX);
    let bytes = bytes.map_err(|error| anyhow!("{} {error}", file.display()))?;
    String::from_utf8(bytes).with_context(|| format!("{} is not text", file.display()))
}

impl fmt::Display for SimReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let runs = counts.runs;
        writeln!(
            f,
            "seeds {} to {}: {} runs, {} steps",
            self.seed,
            self.seed.wrapping_add(runs.saturating_sub(1)),
            runs,
            counts.steps
        )?;
        let all = [
            (counts.messages, "messages"),
            (counts.repeats, "repeats"),
            (counts.deliveries, "messages between sessions"),
            (counts.answers, "answers"),
            (counts.timers, "timers"),
            (counts.swaps, "swaps"),
            (counts.crashes, "calls made again after a crash"),
            (counts.queries, "queries"),
        ];
        let done = all.iter().filter(|(count, _)| *count > 0);
        let done: Vec<_> = done.map(|(count, what)| format!("{count} {what}")).collect();
        writeln!(f, "  {}", done.join(", "))?;
        if !counts.rejected.is_empty() {
            let rejected = counts.rejected.iter();
            let rejected: Vec<_> =
                rejected.map(|(code, count)| format!("{count} {code}")).collect();
            writeln!(f, "  rejected: {}", rejected.join(", "))?;
        }
        if self.finally > 0 && self.found.is_none() && counts.settled < runs {
            writeln!(
                f,
                "  at the end of {} runs something was still under way: `finally` was not looked at",
                runs - counts.settled
            )?;
        }
        if self.cut {
            writeln!(f, "  the time was over before all runs; --time gives them more")?;
        }
        let Some(found) = &self.found else {
            let what = match self.invariants {
                0 => "nothing broke; no invariants are given, so only what holds of every plugin \
                      was looked at"
                    .to_owned(),
                1 => "nothing broke, 1 invariant held".to_owned(),
                many => format!("nothing broke, {many} invariants held"),
            };
            return writeln!(f, "{what}");
        };
        let what = match found.kind {
            "memory" => "the plugin keeps something between calls, or is not pure",
            "trap" => "it traps",
            "deadline" => "it passes its deadline",
            "limit" => "it passes a limit",
            "migrate" => "the second version does not take a session over",
            _ => "an invariant does not hold",
        };
        writeln!(f, "\nseed {}: {what}", found.seed)?;
        for said in &found.said {
            writeln!(f, "  {said}")?;
        }
        writeln!(
            f,
            "\n{} of {} steps are left, after {} tries{}; they are in {}:",
            found.steps,
            found.steps_before,
            found.tries,
            if found.shortest { "" } else { ", which were all that there was time for" },
            found.script.display()
        )?;
        for line in &found.lines {
            writeln!(f, "  {line}")?;
        }
        if let Some(capture) = &found.capture {
            writeln!(f, "\nits last message, as a capture: {}", capture.display())?;
        }
        match found.shown {
            true => writeln!(f, "\nplay it: {}", found.play),
            false => writeln!(
                f,
                "\nthe script does not fail by itself: what it does depends on more than its \
                 messages"
            ),
        }
    }
}
