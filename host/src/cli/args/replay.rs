//! The arguments of commands that run histories again.

use super::AdminArgs;
use crate::limits;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Audit {
    /// The service's name
    pub service: String,
    /// Only this session
    pub session: Option<String>,
    /// Compare the session's messages from this one on; those before are run too
    #[arg(long, value_name = "SEQ", requires = "session")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub from: Option<u64>,
    /// End with this message of the session
    #[arg(long, value_name = "SEQ", requires = "session")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub to: Option<u64>,
    /// Only so many sessions
    #[arg(long, value_name = "N", conflicts_with = "session")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::AUDIT_SAMPLE_MAX))]
    pub sample: Option<u64>,
    /// Choose the sessions of a sample by this number; the same one chooses the same again
    #[arg(long, value_name = "S", requires = "sample")]
    pub seed: Option<u64>,
    /// Threads of each node [default: 1]
    ///
    /// They have a low priority: what clients wait for goes first.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::REPLAY_THREADS_MAX as u64))]
    pub threads: Option<u64>,
    /// End after so long; the report says what was not seen [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = super::connection::timeout)]
    pub time: Option<Duration>,
    #[command(flatten)]
    pub admin: AdminArgs,
}
