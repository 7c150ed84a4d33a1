//! The arguments of commands on timers and dead messages.

use super::AdminArgs;
use crate::limits;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Timers {
    /// The service's name
    pub service: String,
    /// Only this session's
    pub session: Option<String>,
    #[command(flatten)]
    pub page: PageArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Which part of a service's list.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Continue a list where it ended, as slotd printed it
    #[arg(long, value_name = "PLACE", conflicts_with = "session")]
    pub after: Option<String>,
    /// About how many to list
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=limits::PAGE_ENTRIES_MAX as u64))]
    #[arg(conflicts_with = "session")]
    pub limit: u64,
}

#[derive(Debug, Subcommand)]
pub enum TimerCmd {
    /// Cancel a timer: it does not fire any more, and a message of it that failed is not tried again
    Cancel(TimerCancel),
}

#[derive(Debug, Args)]
pub struct TimerCancel {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The timer's name
    pub timer: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum RequestCmd {
    /// Cancel a request: it is made no more, and no answer comes. What was sent by then may have its effect
    Cancel(RequestCancel),
}

#[derive(Debug, Args)]
pub struct RequestCancel {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The request's id, as `slotd outbox` shows it
    pub id: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
pub enum DeadCmd {
    /// List messages that were given up: the handler failed them 20 times, or rejected them for
    /// good
    List(Timers),
    /// Try dead messages again at once, and as often as the first time
    Retry(DeadArgs),
    /// Drop dead messages: they are never tried again
    Drop(DeadArgs),
}

#[derive(Debug, Args)]
pub struct DeadArgs {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// The id of a message, a request's id, or a timer's name: all dead messages of this request or timer
    #[arg(value_name = "ID|TIMER", required_unless_present = "all", conflicts_with = "all")]
    pub message: Option<String>,
    /// Of a timer, only the one for this time, in milliseconds since the Unix epoch (DUE MS of `dead list`)
    #[arg(long, value_name = "MS", conflicts_with = "all")]
    pub due: Option<u64>,
    /// All dead messages of the session
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}
