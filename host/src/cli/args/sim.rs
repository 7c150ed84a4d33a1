use super::connection::timeout;
use crate::limits;
use clap::{Args, ValueEnum};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
pub struct SimArgs {
    /// The plugin's folder
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Run this component instead of building one
    #[arg(long, value_name = "FILE")]
    pub component: Option<PathBuf>,
    /// A second version, which sessions switch to in the middle of each run
    #[arg(long, value_name = "FILE")]
    pub next: Option<PathBuf>,
    /// What must hold, what is sent and what is answered [default: sim.jsonl, if it is there]
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// A JSON Schema of the messages, which are made by it
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// Scripts whose messages are sent, as they are or varied [default: those of the folder]
    #[arg(long = "script", value_name = "SCRIPT", num_args = 1..)]
    pub scripts: Vec<PathBuf>,
    /// Sessions that get messages made by --messages
    #[arg(long, value_name = "N", default_value_t = limits::SIM_SESSIONS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=limits::SIM_SESSIONS_MAX as i64))]
    pub sessions: u32,
    /// Runs; each has a seed of its own
    #[arg(long, value_name = "N", default_value_t = limits::SIM_RUNS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SIM_RUNS_MAX)))]
    pub runs: u32,
    /// Steps of each run
    #[arg(long, value_name = "N", default_value_t = limits::SIM_STEPS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SIM_STEPS_MAX)))]
    pub steps: u32,
    /// The seed of the first run; the next ones have the next seeds [default: by chance]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// How long runs are begun, as 60s
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    #[arg(default_value = "60s")]
    pub time: Duration,
    /// What is not done to the plugin
    #[arg(long, value_name = "FAULT", value_enum, num_args = 1..)]
    pub without: Vec<Fault>,
    /// Where the script is written that shows what does not hold [default: found-SEED.jsonl in the folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The node fails before each commit
    Crash,
    /// Messages come again, with their ids
    Repeat,
    /// Messages come before timers that are due
    Late,
    /// Requests over HTTP fail, and what is sent is refused
    Fail,
}
