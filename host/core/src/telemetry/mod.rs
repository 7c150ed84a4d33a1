//! Log lines, metrics, and the handling of panics.

#[cfg(any(test, feature = "testing"))]
pub mod captured_log;
mod histogram;
pub mod metrics;
pub mod panics;
mod recorder;
pub mod repeats;
pub(crate) mod scrape;
pub mod services;
pub mod sink;

pub use metrics::{Metrics, metrics};
pub use scrape::{ServiceMemory, ServiceUsage, Snapshot, SourceGuard, on_scrape};

use crate::text::{self, Keep};
use std::{fmt, io::IsTerminal as _, sync::OnceLock};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    filter::LevelFilter,
    fmt::{
        FormatFields,
        format::{DefaultFields, Writer},
    },
    reload,
};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
    pub fn parse(name: &str) -> Self {
        if name == "json" { LogFormat::Json } else { LogFormat::Text }
    }
}

/// The fields of a line, their text passed through [`text::printable`].
struct Printable(DefaultFields);

impl<'w> FormatFields<'w> for Printable {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut plain = String::new();
        self.0.format_fields(Writer::new(&mut plain), fields)?;
        writer.write_str(&text::printable(&plain, Keep::Tabs))
    }
}

/// The directives of a filter, and those that it means by names of modules: the crate `slotd` shows
/// the modules of this one as its own, whose lines are of `slotd_core`.
pub fn directives(filter: &str) -> String {
    let own = filter.split(',').filter_map(|directive| directive.strip_prefix("slotd::"));
    own.fold(filter.to_owned(), |all, module| format!("{all},slotd_core::{module}"))
}

/// As [`init_log`], without time and target, for a command with a reader at the terminal. The
/// filter is the program's own; an invalid one suppresses everything.
pub fn init_plain_log(filter: &str) {
    let filter = EnvFilter::builder().parse_lossy(directives(filter));
    let _ = tracing_subscriber::fmt()
        .with_writer(sink::Log { json: false })
        .fmt_fields(Printable(DefaultFields::new()))
        .with_env_filter(filter)
        .without_time()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Changes the filter of the log that [`init_log`] has set up.
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Sends log lines to standard error, through [`sink`]. Only the first call has an effect.
///
/// # Errors
/// The filter is invalid; the configuration has already checked it.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), String> {
    let writer = sink::Log { json: format == LogFormat::Json };
    let builder = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter_of(filter)?);
    // An error means that there is a subscriber already: a program that uses slotd as a library.
    match format {
        LogFormat::Text => {
            let builder = builder
                .fmt_fields(Printable(DefaultFields::new()))
                .with_ansi(std::io::stderr().is_terminal())
                .with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                keep(move |filter| handle.reload(filter));
            }
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                keep(move |filter| handle.reload(filter));
            }
        }
    }
    Ok(())
}

fn keep(set: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static) {
    let _ = SET_FILTER.set(Box::new(move |filter| set(filter).map_err(|e| e.to_string())));
}

/// Changes the log filter from now on.
///
/// # Errors
/// The filter is invalid; the configuration has already checked it.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let filter = filter_of(filter)?;
    // Without our log there is nothing to change.
    SET_FILTER.get().map_or(Ok(()), |set| set(filter))
}

fn filter_of(filter: &str) -> Result<EnvFilter, String> {
    let filter = EnvFilter::builder().parse(directives(filter)).map_err(|e| e.to_string())?;
    if filter.max_level_hint().is_some_and(|level| level < LevelFilter::TRACE) {
        return Ok(filter);
    }
    // At that level it logs its credentials, including the password.
    let quiet = "async_nats::connection=debug".parse();
    Ok(filter.add_directive(quiet.map_err(|e| format!("a filter of our own: {e}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator names a module as the documentation does, not by the crate that it is in. The name
    /// of this crate begins with the other's: `slotd` alone means both.
    #[test]
    fn a_filter_by_module_means_it_in_either_crate() {
        let both = "info,slotd::slot=debug,h2=off,slotd_core::slot=debug";
        assert_eq!(directives("info,slotd::slot=debug,h2=off"), both);
        for filter in ["info", "slotd=debug", "warn,slotd_core::log=trace", ""] {
            assert_eq!(directives(filter), filter);
        }
    }
}
