//! Exit codes of commands, in one table, and errors with their exit code.

use serde_json::{Value, json};

macro_rules! exits {
    ($($(#[doc = $doc:literal])* $variant:ident = $code:literal;)*) => {
        /// The meaning of a command's exit code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Exit { $($(#[doc = $doc])* $variant = $code,)* }
        impl Exit {
            /// Every code with its meaning, for `--help` and `docs/cli.md`.
            pub const ALL: &'static [(u8, &'static str)] =
                &[(0, "Success."), $(($code, concat!($($doc),*).trim_ascii()),)*];
        }
    };
}

exits! {
    /// Failed on this side: a file that can't be read, a component that slotd can't run.
    Failure = 1;
    /// Wrong usage, or a wrong configuration.
    Usage = 2;
    /// The node is not reachable, or did not answer in time.
    Unreachable = 3;
    /// The node refused (HTTP 4xx): not found, not allowed, rejected by the plugin.
    Refused = 4;
    /// The node failed (HTTP 5xx): a trap, a deadline, a full buffer. It may work later.
    Server = 5;
    /// `serve` can't start now: an address is taken, the data directory is in use or can't be written.
    CannotStart = 6;
    /// `serve` must not start: the data directory is damaged or was made with another slot count, or the cluster refuses the node.
    Damaged = 7;
    /// `plugin sim` found what does not hold.
    Broken = 8;
    /// The gate stopped a deploy, or somebody ended it: nothing has moved.
    Stopped = 9;
    /// `serve` stopped itself because of a bug or stalled worker threads (`stall_limit`). Acknowledged messages are safe; start it again.
    Bug = 70;
}

/// Why a command failed.
#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    /// For people; may have several lines.
    pub message: String,
    /// The server's own answer, for `--json`.
    pub problem: Option<Value>,
}

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), problem: None }
    }
    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Prints it to standard error.
    pub fn report(&self, as_json: bool) {
        if self.message.is_empty() {
            return;
        }
        if as_json {
            let value = json!({
                "error": self.message,
                "exit": self.exit as u8,
                "problem": self.problem,
            });
            super::output::complain(&value.to_string());
        } else {
            super::output::complain(&super::output::for_terminal(&format!(
                "slotd: {}",
                self.message
            )));
        }
    }
}

impl From<crate::error::Error> for CliError {
    /// Names are validated here by the same rules as on the server.
    fn from(error: crate::error::Error) -> Self {
        Self::usage(error.detail)
    }
}

impl From<std::io::Error> for CliError {
    /// Of writing to standard output. A reader that is gone (`| head`) is not a failure.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Failure, String::new()),
            _ => Self::failure(format!("can't write the output: {error}")),
        }
    }
}
