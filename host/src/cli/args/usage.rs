//! The arguments of `slotd usage`.

use super::AdminArgs;
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub struct Usage {
    /// Only of this service
    pub service: Option<String>,
    /// What is added up to one line
    #[arg(long, value_enum, default_value_t)]
    pub by: UsageBy,
    /// From this day on, in UTC, as 2026-11-30 [default: 30 days]
    #[arg(long, value_name = "DATE")]
    pub since: Option<String>,
    /// Up to this day [default: today]
    #[arg(long, value_name = "DATE")]
    pub until: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum UsageBy {
    /// All that a service has used
    #[default]
    Service,
    /// What a service has used on each day
    Day,
    /// What each subject has used of a service
    Subject,
}
