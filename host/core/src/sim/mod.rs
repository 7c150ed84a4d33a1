//! Simulation of a plugin, for its author: a component is run under virtual time by what a seed makes of its messages,
//! with failures of the node at every message, repeats, timers and answers in any order and a second version in the middle;
//! what must hold is looked at after every step, and what breaks it is shortened to a script. Described in
//! docs/plugins-sim.md.
//!
//! What happens next is chosen here ([`choose`]) from a model of what is under way ([`world`]), which knows nothing of
//! plugins; each step is a line of a script ([`line`]), and the runner of scripts plays it ([`play`]). So what is
//! written of a run is the run, and `slotd plugin test` plays it again.

mod chance;
mod choose;
mod line;
mod mutate;
mod play;
mod rules;
mod schema;
mod shrink;
#[cfg(test)]
mod tests;
mod world;

pub use choose::Faults;
pub use play::{Counts, What};
pub use rules::{Inputs, message_schema};
pub use schema::Schema;

use crate::{
    capture::{self, Capture, Captured, Component, Kind, OutcomeForm},
    limits,
    plugin::Isolation,
    replay::Instances,
    script::{self, LastMessage, Runner},
};
use anyhow::{anyhow, ensure};
use choose::Chooser;
use play::{Broken, Player, Run};
use serde_json::Value;
use std::time::Duration;
use wasmparser::{Parser, Payload};

#[derive(Clone, Debug)]
pub struct Options {
    pub runs: u32,
    /// Of a run, before what is under way comes to its end.
    pub steps: u32,
    /// Of the first run; each has the next one.
    pub seed: u64,
    /// No run begins later.
    pub time: Duration,
    pub faults: Faults,
    /// The second version, as scripts name it; the runner has it loaded.
    pub second: Option<String>,
}

impl Options {
    pub fn new(seed: u64) -> Self {
        Self {
            runs: limits::SIM_RUNS_DEFAULT,
            steps: limits::SIM_STEPS_DEFAULT,
            seed,
            time: limits::SIM_TIME_DEFAULT,
            faults: Faults::default(),
            second: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Report {
    pub counts: Counts,
    /// There was no time for all runs.
    pub is_cut: bool,
    pub found: Option<Found>,
}

/// What does not hold, and the shortest script that shows it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Of the run.
    pub seed: u64,
    pub what: What,
    /// The invariant, and how it is broken.
    pub said: Vec<String>,
    pub steps: usize,
    /// Before it was shortened.
    pub steps_before: usize,
    /// Runs that shortening it took.
    pub tries: usize,
    /// Nothing shorter was found before the time, or the tries, were over.
    pub is_shortest: bool,
    pub script: String,
    /// The script fails when it is played by itself.
    pub is_shown: bool,
    /// The script's last message, if one message by itself can show it.
    pub capture: Option<Box<Capture>>,
}

/// What a component says of its messages: the JSON of its custom section `slotd:types`, at its top level.
pub fn types_of(component: &[u8]) -> Option<Value> {
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.ok()? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 1 && section.name() == TYPES => {
                return serde_json::from_slice(section.data()).ok();
            }
            _ => {}
        }
    }
    None
}

/// Has the JSON Schemas of a component's messages.
const TYPES: &str = "slotd:types";

/// Runs a component.
///
/// # Errors
/// What is no fault of the plugin: no message can be made, an answer of the rules can't be, the store.
pub async fn simulate(
    runner: &mut Runner,
    inputs: &Inputs,
    options: &Options,
) -> anyhow::Result<Report> {
    ensure!(!inputs.sources.is_empty(), "there are no messages to send");
    let sessions = inputs.sources.iter().map(|source| source.sessions.len()).sum::<usize>();
    let most = limits::SIM_SESSIONS_MAX;
    ensure!(sessions <= most, "a simulation has {most} sessions at most");
    runner.check_all(options.faults.crash);
    let mut player = Player {
        runner,
        inputs,
        second: options.second.clone(),
        crashes: options.faults.crash,
        until: crate::clock::now() + options.time,
        counts: Counts::default(),
    };
    for n in 0..options.runs {
        let seed = options.seed.wrapping_add(n.into());
        let mut chooser = Chooser::new(inputs, options.faults, options.steps, seed);
        let run = player.play(&mut chooser).await?;
        if let Some(why) = chooser.failure {
            return Err(anyhow!(why));
        }
        if run.is_cut {
            return Ok(Report { counts: player.counts, is_cut: true, found: None });
        }
        if let Some(broken) = run.broken.clone() {
            let counts = player.counts.clone();
            let found = shorten(&mut player, run, broken, seed, options).await?;
            return Ok(Report { counts, is_cut: false, found: Some(found) });
        }
    }
    Ok(Report { counts: player.counts, is_cut: false, found: None })
}

async fn shorten(
    player: &mut Player<'_>,
    run: Run,
    broken: Broken,
    seed: u64,
    options: &Options,
) -> anyhow::Result<Found> {
    let steps_before = run.steps.len();
    player.until = crate::clock::now() + limits::SIM_SHRINK_TIME_MAX;
    let (best, tries) = shrink::shrink(player, run).await?;
    let is_shortest = tries < limits::SIM_SHRINK_TRIES_MAX && crate::clock::now() <= player.until;
    let Broken { what, said } = best.broken.clone().unwrap_or(broken);
    let mut text =
        format!("// Found by slotd plugin sim --seed {seed} --runs 1 --steps {}:\n", options.steps);
    for line in said.iter().flat_map(|said| said.lines()) {
        text += &format!("//   {line}\n");
    }
    best.lines.iter().for_each(|line| text += &format!("{}\n", line.text()));
    let is_shown = fails(player.runner, &text).await?;
    let capture = match (&what, player.runner.last()) {
        // It takes two calls to see that.
        (What::Memory, _) | (_, None) => None,
        (_, Some(last)) => captured(*last, &said).await,
    };
    Ok(Found {
        seed,
        what,
        said,
        steps: best.steps.len(),
        steps_before,
        tries,
        is_shortest,
        script: text,
        is_shown,
        capture,
    })
}

/// A message as a file; `None`: it does not run by itself.
async fn captured(last: LastMessage, said: &[String]) -> Option<Box<Capture>> {
    let LastMessage { key, base, entry, on, from } = last;
    let mut capture = Capture::new(Captured {
        kind: Kind::Sim,
        what: said.join("\n"),
        key,
        component: Component::new(on.plugin.digest(), &on.version, on.same_state),
        migrates_from: from,
        base,
        entry,
        outcome: OutcomeForm::failure("sim", ""),
    });
    let ran = capture::run(&capture, &on, &mut Instances::new(Isolation::Call)).await;
    capture.outcome = OutcomeForm::from(&ran.ok()?.outcome);
    Some(Box::new(capture))
}

/// Whether a script fails as `slotd plugin test` plays it.
async fn fails(runner: &mut Runner, text: &str) -> anyhow::Result<bool> {
    let steps = script::parse(text).map_err(|why| anyhow!("a bug: the script: {why}"))?;
    runner.check_all(false);
    runner.begin();
    runner.keep_last(true);
    for step in steps {
        let got = runner.run(&step).await?;
        if !step.expect.differences(&got).is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
