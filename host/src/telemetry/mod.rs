//! What slotd says of itself: log lines, metrics, panics.

mod histogram;
pub mod metrics;
pub mod panics;
mod recorder;
pub mod scrape;

pub use metrics::{Metrics, metrics};
pub use scrape::{Snapshot, SourceGuard, on_scrape};

use crate::config::LogFormat;
use std::io::IsTerminal as _;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// As [`init_log`], without the time and the place: for a command whose reader sits before it. The
/// filter is the program's own; one that is none lets nothing through.
pub fn init_plain_log(filter: &str) {
    let filter = EnvFilter::builder().parse_lossy(filter);
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .without_time()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// Sends log lines to standard error. The first call counts; later ones change nothing.
///
/// # Errors
/// The filter is none; the configuration has checked it before.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), String> {
    let mut filter = EnvFilter::builder().parse(filter).map_err(|e| e.to_string())?;
    if filter.max_level_hint().is_none_or(|level| level >= LevelFilter::TRACE) {
        // There it shows how it logs in, password included.
        let quiet = "async_nats::connection=debug".parse();
        filter = filter.add_directive(quiet.map_err(|e| format!("a filter of our own: {e}"))?);
    }
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    // An error means that there is a subscriber already: a program that has slotd as its library.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
