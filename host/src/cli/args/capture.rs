//! The arguments of commands on captures.

use super::AdminArgs;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Capture {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The message [default: the last one]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub seq: Option<u64>,
    /// Redact what is there, as $.card, $..email, state.$.name or sender; beside what the policy of the service says
    #[arg(long, value_name = "PATH", num_args = 1)]
    pub redact: Vec<String>,
    /// Put the component itself into the file
    #[arg(long)]
    pub with_component: bool,
    /// The file to write; `-`: standard output [default: SERVICE-SESSION-SEQ.capture.json]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct Captures {
    /// Only of this service
    pub service: Option<String>,
    /// Write the one of this name to a file
    #[arg(long, value_name = "NAME", conflicts_with = "service")]
    pub get: Option<String>,
    /// The file to write it to; `-`: standard output [default: NAME.capture.json]
    #[arg(long, short, value_name = "FILE", requires = "get")]
    pub out: Option<PathBuf>,
    /// Remove the one of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["service", "get"])]
    pub remove: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The capture
    pub file: PathBuf,
    /// Run it on this component, which is to do it right [default: the one in the file]
    #[arg(long, value_name = "COMPONENT")]
    pub wasm: Option<PathBuf>,
    /// Write what comes out into the file, as what should come out
    #[arg(long)]
    pub accept: bool,
}
