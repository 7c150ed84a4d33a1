//! The arguments of deploys through the gate.

use super::AdminArgs;
use crate::limits;
use clap::{Args, ValueEnum};
use std::{path::PathBuf, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GateMode {
    /// Whatever differs stops the version, unless the policy says that it may
    Strict,
    /// What fails where the version before did not, costs too much or wants what nobody accepted stops it; what
    /// differs otherwise is shown
    Report,
    /// There is no gate
    Off,
}

/// What a version goes through before any slot switches to it.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// What stops the version [default: what the policy says, else report; with --force, off]
    #[arg(long, value_name = "MODE", value_enum)]
    pub gate: Option<GateMode>,
    /// Accept something new that the version wants: http:HOST, secret:NAME, effect:FUNCTION, import:NAME or memory
    #[arg(long, value_name = "WANT")]
    pub accept: Vec<String>,
    /// Only show what the gate finds; nothing moves
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask on a terminal whether what differs is right
    #[arg(long)]
    pub yes: bool,
    /// Run the history of so many sessions [default: 1000]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::AUDIT_SAMPLE_MAX))]
    pub sessions: Option<u64>,
    /// Run the last so many messages of each on the new version [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Choose the sessions by this number; the same one chooses the same again
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// End each stage after so long; the report says what was not seen [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = super::connection::timeout)]
    pub gate_time: Option<Duration>,
    /// Threads of each node for the gate [default: 1]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::REPLAY_THREADS_MAX as u64))]
    pub gate_threads: Option<u64>,
}

#[derive(Debug, Args)]
pub struct GateOf {
    /// The service's name
    pub service: String,
    /// The report of this deployment, if it is still kept: its number, label or version
    #[arg(long, value_name = "DEPLOYMENT", conflicts_with_all = ["confirm", "cancel", "wait"])]
    pub deployment: Option<String>,
    /// Write the report to a file, as one page that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Wait until it has ended, or waits for somebody to confirm what differs
    #[arg(long)]
    pub wait: bool,
    /// Confirm what differs: the slots switch then
    #[arg(long, conflicts_with = "cancel")]
    pub confirm: bool,
    /// End it; nothing moves then
    #[arg(long)]
    pub cancel: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}
