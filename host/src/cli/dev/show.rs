//! The output of `slotd dev`: one stream of lines, each with the name of its source. The builds'
//! own output appears in between, unchanged.

use crate::{
    cli::{exit::CliError, output},
    telemetry::{self, sink},
    text::{Keep, printable},
};
use serde_json::Value;
use std::{
    fmt::{self, Write as _},
    io::IsTerminal as _,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Handlers' lines, and the node's warnings.
pub const FILTER: &str = "warn,slotd::guest=debug";
/// The target of handlers' lines.
const GUEST: &str = "slotd::guest";

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
}

/// Shows what `dev` does: to people on standard error, to programs as JSON lines on standard
/// output.
#[derive(Clone, Copy, Debug)]
pub struct Show {
    json: bool,
    colour: bool,
}

impl Show {
    pub fn new(json: bool) -> Self {
        Self { json, colour: std::io::stderr().is_terminal() }
    }

    /// For people only.
    pub fn say(&self, tone: Tone, text: &str) {
        if self.json {
            return;
        }
        for line in output::harmless(text, true).lines() {
            output::complain(&self.line(tone, line));
        }
    }

    fn line(&self, tone: Tone, line: &str) -> String {
        let colour = match tone {
            _ if !self.colour => "",
            Tone::Plain => "",
            Tone::Good => BOLD,
            Tone::Bad => RED,
        };
        format!("{}{colour}{line}{}", tag("dev", CYAN, self.colour), reset(colour))
    }

    /// For programs only.
    ///
    /// # Errors
    /// Standard output can't be written.
    pub fn event(&self, event: &Value) -> Result<(), CliError> {
        match self.json {
            true => output::line(&event.to_string()),
            false => Ok(()),
        }
    }

    /// Sends log lines to standard error in this form.
    ///
    /// # Errors
    /// The filter is invalid.
    pub fn init_log(&self, filter: &str) -> Result<(), CliError> {
        let filter = EnvFilter::builder().parse(telemetry::directives(filter));
        let filter = filter.map_err(|error| CliError::usage(error.to_string()))?;
        // An error means that there is already a subscriber.
        let _ = tracing_subscriber::fmt()
            .with_writer(sink::Log { json: false })
            .with_env_filter(filter)
            .event_format(Lines { colour: self.colour })
            .try_init();
        Ok(())
    }
}

fn tag(name: &str, colour: &str, coloured: bool) -> String {
    match coloured {
        true => format!("{colour}{name:>5}{RESET} {DIM}|{RESET} "),
        false => format!("{name:>5} | "),
    }
}

fn reset(colour: &str) -> &'static str {
    if colour.is_empty() { "" } else { RESET }
}

/// Log lines for the author of a handler: the session, the level unless it is info, the text.
struct Lines {
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}", self.line(about.target(), *about.level(), &fields))
    }
}

impl Lines {
    fn line(&self, target: &str, level: Level, fields: &Fields) -> String {
        let (from, colour) = match level {
            Level::ERROR => ("error ", RED),
            Level::WARN => ("warn ", YELLOW),
            Level::INFO => ("", ""),
            Level::DEBUG => ("debug ", DIM),
            Level::TRACE => ("trace ", DIM),
        };
        let colour = if self.colour { colour } else { "" };
        let is_guest = target == GUEST;
        let clean = |text: &str| printable(text, Keep::Tabs).into_owned();
        let (message, session) = (clean(&fields.message), clean(&fields.session));
        let others = clean(&fields.others);
        let mut line = tag(if is_guest { "log" } else { "node" }, BOLD, self.colour);
        line.push_str(colour);
        if is_guest && !session.is_empty() {
            let _ = write!(line, "{session} ");
        }
        let _ = write!(line, "{from}{message}");
        if is_guest {
            // A handler's own line needs nothing else.
            return line + reset(colour);
        }
        if !session.is_empty() {
            let _ = write!(line, " session={session}");
        }
        line + &others + reset(colour)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    session: String,
    /// ` name=value` each.
    others: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "session" => write!(self.session, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reader looks for the session and the text; the digest of the plugin would hide both.
    #[test]
    fn a_handlers_line_is_its_session_and_text() {
        let fields = Fields {
            message: "2 votes".into(),
            session: "poll/lunch".into(),
            others: " plugin=ab12".into(),
        };
        let line = |target, level| Lines { colour: false }.line(target, level, &fields);
        assert_eq!(line(GUEST, Level::INFO), "  log | poll/lunch 2 votes");
        assert_eq!(line(GUEST, Level::ERROR), "  log | poll/lunch error 2 votes");
        let own = line("slotd::slot", Level::WARN);
        assert_eq!(own, " node | warn 2 votes session=poll/lunch plugin=ab12");
    }

    /// Colours in a file or a pipe are noise; a colour that does not end spoils the terminal.
    #[test]
    fn colours_are_for_terminals_and_end() {
        let show = |colour| Show { json: false, colour }.line(Tone::Bad, "no");
        assert_eq!(show(false), "  dev | no");
        assert!(show(true).ends_with("no\x1b[0m") && show(true).contains(RED));
    }
}
