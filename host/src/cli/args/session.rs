//! The arguments of commands on sessions.

use super::{AdminArgs, AdminOnlyArgs, ApiArgs};
use crate::limits;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Send {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The body; `-` reads it from standard input [default: empty]
    #[arg(allow_hyphen_values = true)]
    pub body: Option<String>,
    /// The body's type [default: application/json if it is JSON, else text or bytes]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// The sender's name
    #[arg(long, value_name = "NAME")]
    pub sender: Option<String>,
    /// The idempotency key: messages with the same key are applied once and get the same reply
    #[arg(long, value_name = "KEY")]
    pub id: Option<String>,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct Query {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The body; `-` reads it from standard input [default: empty]
    #[arg(allow_hyphen_values = true)]
    pub body: Option<String>,
    /// The body's type [default: application/json if it is JSON, else text or bytes]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Ask the session as it was behind this message
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub at: Option<u64>,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct Tail {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// Keep printing new events until Ctrl-C; reconnects without gaps or repeats. Ephemeral events
    /// have a ~ instead of a number
    #[arg(long, short)]
    pub follow: bool,
    /// Start after this message (0: from the beginning), or after this position, such as an event's
    /// id
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    pub after: Option<String>,
    /// Start with the events of the last N messages
    #[arg(short = 'n', value_name = "N", default_value_t = 10)]
    pub last: u64,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct History {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// Messages after this position (as printed by slotd) or message number (0: from the first),
    /// instead of the last ones
    #[arg(long, value_name = "SEQ")]
    pub after: Option<String>,
    /// The maximum number to list
    #[arg(short = 'n', value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::PAGE_ENTRIES_MAX as u64))]
    pub limit: u64,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct Sessions {
    /// The service's name
    pub service: String,
    /// Only ids that start with this
    #[arg(long)]
    pub prefix: Option<String>,
    /// Only ids after this one
    #[arg(long, value_name = "SESSION")]
    pub after: Option<String>,
    /// The maximum number to list
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Only sessions that stay on an older version, because the newer one refused to migrate them
    #[arg(long, conflicts_with = "prefix")]
    pub pinned: bool,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub admin: AdminOnlyArgs,
}

#[derive(Debug, Subcommand)]
pub enum SessionCmd {
    /// Show a session, as it is or as it was
    #[command(visible_alias = "get")]
    Show(SessionShow),
    /// Print a session's state, or the raw bytes of one value
    State(SessionState),
    /// Correct a value of a session's state, without its handler
    ///
    /// The correction is recorded in the session's history with its own number, who made it and
    /// why. Works even if the handler can't read the state.
    Set(SessionSet),
    /// Write a session to a file, with its state and history
    Export(SessionExport),
    /// Create a session from a file that `export` wrote
    Import(SessionImport),
    /// Make a new session with the history of this one up to a message
    ///
    /// It has the state that this one had there, and goes on by itself. Its own messages begin with the next number.
    /// Run again, it does nothing more.
    Fork(SessionFork),
    /// Delete a session, or all sessions with an id prefix, permanently
    Delete(SessionDelete),
}

#[derive(Debug, Args)]
pub struct SessionState {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// Print only this key's value, as raw bytes
    pub key: Option<String>,
    /// Only keys that start with this
    #[arg(long, conflicts_with = "key")]
    pub prefix: Option<String>,
    /// Only keys after this one
    #[arg(long, value_name = "KEY", conflicts_with = "key")]
    pub after: Option<String>,
    /// The maximum number to list
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionSet {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The key
    pub key: String,
    /// The value, as JSON; `-` reads it from standard input
    #[arg(allow_hyphen_values = true, conflicts_with = "delete")]
    pub value: Option<String>,
    /// Delete the key
    #[arg(long)]
    pub delete: bool,
    /// Store the value's bytes as they are, JSON or not
    #[arg(long)]
    pub raw: bool,
    /// The reason, for the session's history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Your name, for the session's history [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    /// Only if the session is still at this position, which `session state` prints (`as of ...`):
    /// nothing is done if a message has come since
    #[arg(long, value_name = "POSITION")]
    pub if_position: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionExport {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The file to write [default, and `-`: standard output]
    pub file: Option<PathBuf>,
    /// Leave the history out
    #[arg(long)]
    pub no_history: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionImport {
    /// The service's name
    pub service: String,
    /// The session's id; may differ from the exported one
    pub session: String,
    /// The file
    pub file: PathBuf,
    /// Replace an existing session, and delete its history
    #[arg(long)]
    pub replace: bool,
    /// Assume that the current version can read the state, if the service never had the version
    /// that wrote it
    #[arg(long)]
    pub assume_current: bool,
    /// Your name, for the session's history [default: $USER, else $LOGNAME, else "operator"]
    #[arg(long = "as", value_name = "NAME")]
    pub who: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct SessionFork {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The new session's id
    pub to: String,
    /// The last message that the new one has of it [default: the last one that there is]
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub at: Option<u64>,
    /// The number of the deployment that it stays on: the one that handled that message. Or the current one
    #[arg(long, value_name = "NUMBER")]
    pub deployment: Option<u32>,
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Args)]
pub struct SessionDelete {
    /// The service's name
    pub service: String,
    /// The session's id; to delete by prefix, use --prefix
    #[arg(conflicts_with = "prefix")]
    pub session: Option<String>,
    /// Delete all sessions whose ids start with this. Counts them first. If interrupted, run it again
    #[arg(long)]
    pub prefix: Option<String>,
    /// Only count the sessions
    #[arg(long, requires = "prefix", conflicts_with = "yes")]
    pub dry_run: bool,
    /// Delete the counted sessions
    #[arg(long, requires = "prefix")]
    pub yes: bool,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub admin: AdminOnlyArgs,
}

#[derive(Debug, Args)]
pub struct SessionShow {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// As it was behind this message
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub at: Option<u64>,
    #[command(flatten)]
    pub api: ApiArgs,
}
