//! The arguments of `slotd audit-log`.

use super::AdminArgs;
use crate::config::{Kind, Value};
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct AuditLog {
    /// Only changes since so long ago, as `1h` or `7d`
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Duration>,
    /// How many changes at most [default: 100; with --since, all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on with new ones as they come
    #[arg(long, short)]
    pub follow: bool,
    /// Check the whole log instead: that no line of it was changed, and none removed in between
    ///
    /// Prints the number and the hash of the last line. Keep them elsewhere: lines removed at the
    /// end are found by them alone.
    #[arg(long, conflicts_with_all = ["since", "limit", "follow"])]
    pub verify: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

fn since(raw: &str) -> Result<Duration, String> {
    // As many hours as there are in ten years.
    let kind = Kind::Duration {
        min: Duration::from_secs(1),
        max: Duration::from_secs(10 * 366 * 24 * 3_600),
    };
    // The configuration has no days.
    let hours = raw.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()?.checked_mul(24));
    let raw = hours.map_or_else(|| raw.to_owned(), |hours| format!("{hours}h"));
    match kind.parse(&raw) {
        Some(Value::Duration(time)) => Ok(time),
        _ => Err(format!("it must be {}, or days (7d)", kind.allowed())),
    }
}
