//! What guests write to the node's log: bounded per line, per call and per plugin.

use super::{Digest, bindings::slotd::slot::log::Level};
use crate::{
    limits,
    names::SessionKey,
    telemetry::repeats::{self, Rate, Window},
    text::{Keep, cut, printable},
};
use parking_lot::Mutex;
use std::time::Duration;

/// Lines that all instances of one plugin logged in the current second.
pub(super) struct PluginLog {
    digest: Digest,
    window: Mutex<Window>,
}

const RATE: Rate =
    Rate { lines: limits::PLUGIN_LOG_LINES_PER_SECOND_MAX, interval: Duration::from_secs(1) };

/// Lines of one call.
#[derive(Default)]
pub(super) struct CallLog {
    lines: u32,
    dropped: u32,
    /// Nothing of it is written.
    muted: bool,
}

impl PluginLog {
    pub(super) fn new(digest: Digest) -> Self {
        Self { digest, window: Mutex::new(Window::new(crate::clock::now())) }
    }

    /// Whether one more line fits into this second.
    fn admit(&self) -> bool {
        let (dropped, admitted) = {
            let mut window = self.window.lock();
            (window.turn(RATE, crate::clock::now()), window.admit(RATE))
        };
        if dropped > 0 && repeats::admit("a plugin logged too many lines", self.digest.short()) {
            tracing::warn!(
                target: "slotd::guest",
                plugin = %self.digest.short(),
                dropped,
                "the plugin logged more than {} lines in a second",
                limits::PLUGIN_LOG_LINES_PER_SECOND_MAX
            );
        }
        admitted
    }
}

impl CallLog {
    pub(super) fn new(muted: bool) -> Self {
        Self { muted, ..Self::default() }
    }

    /// Writes one line of the guest, or counts it as dropped.
    pub(super) fn write(
        &mut self,
        plugin: &PluginLog,
        session: &SessionKey,
        level: Level,
        text: &str,
    ) {
        let enabled = match level {
            Level::Trace => tracing::enabled!(target: "slotd::guest", tracing::Level::TRACE),
            Level::Debug => tracing::enabled!(target: "slotd::guest", tracing::Level::DEBUG),
            Level::Info => tracing::enabled!(target: "slotd::guest", tracing::Level::INFO),
            Level::Warn => tracing::enabled!(target: "slotd::guest", tracing::Level::WARN),
            Level::Error => tracing::enabled!(target: "slotd::guest", tracing::Level::ERROR),
        };
        if !enabled || self.muted {
            return;
        }
        if self.lines >= limits::LOG_LINES_MAX || !plugin.admit() {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.lines += 1;
        let line = printable(cut(text, limits::LOG_LINE_BYTES_MAX), Keep::Tabs);
        let digest = plugin.digest.short();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "slotd::guest", plugin = %digest, session = %session, "{line}"
                )
            };
        }
        match level {
            Level::Trace => line!(trace),
            Level::Debug => line!(debug),
            Level::Info => line!(info),
            Level::Warn => line!(warn),
            Level::Error => line!(error),
        }
    }

    /// Lines that were dropped before they came here.
    pub(super) fn drop_lines(&mut self, lines: u32) {
        if !self.muted {
            self.dropped = self.dropped.saturating_add(lines);
        }
    }

    /// At the end of a call: logs how many lines are missing.
    pub(super) fn finish(&self, plugin: &PluginLog, session: &SessionKey) {
        let what = "lines of a call were dropped";
        if self.dropped > 0 && repeats::admit(what, plugin.digest.short()) {
            tracing::warn!(
                target: "slotd::guest",
                plugin = %plugin.digest.short(),
                session = %session,
                dropped = self.dropped,
                "lines of this call were dropped: a call may log {}",
                limits::LOG_LINES_MAX
            );
        }
    }
}

/// What a guest wrote to stdout and stderr during a call. The streams live in the instance's
/// handle table, apart from the call, and share this with it.
#[derive(Default)]
pub(super) struct Stdio(Mutex<StdioLines>);

#[derive(Default)]
struct StdioLines {
    /// Begun lines of stdout and stderr.
    begun: [Vec<u8>; 2],
    lines: Vec<(Level, String)>,
    dropped: u32,
}

impl Stdio {
    /// `stream`: 0 is stdout, 1 is stderr.
    pub(super) fn write(&self, stream: usize, bytes: &[u8]) {
        let mut stdio = self.0.lock();
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let Some(begun) = stdio.begun.get_mut(stream) else { return };
            let room = limits::LOG_LINE_BYTES_MAX.saturating_sub(begun.len());
            begun.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                stdio.end_line(stream);
            }
        }
    }

    /// The lines since the last time, begun ones too, and how many more there were.
    pub(super) fn take(&self) -> (Vec<(Level, String)>, u32) {
        let mut stdio = self.0.lock();
        stdio.end_line(0);
        stdio.end_line(1);
        (std::mem::take(&mut stdio.lines), std::mem::take(&mut stdio.dropped))
    }
}

impl StdioLines {
    fn end_line(&mut self, stream: usize) {
        let begun = std::mem::take(&mut self.begun[stream]);
        if begun.is_empty() {
            return;
        }
        if self.lines.len() >= limits::LOG_LINES_MAX as usize {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let level = if stream == 0 { Level::Info } else { Level::Warn };
        self.lines.push((level, String::from_utf8_lossy(&begun).into_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that prints without end would otherwise fill the host's memory.
    #[test]
    fn printed_lines_are_bounded() {
        let stdio = Stdio::default();
        for _ in 0..300 {
            stdio.write(0, &[b'x'; 9_000]);
            stdio.write(1, b"err");
            stdio.write(0, b"\n");
        }
        let (lines, dropped) = stdio.take();
        assert_eq!((lines.len(), dropped), (100, 201));
        assert_eq!(lines[0].1.len(), limits::LOG_LINE_BYTES_MAX);
        stdio.write(0, b"half");
        assert_eq!(stdio.take().0[0].1, "half");
    }

    /// A plugin that logs a line a message would otherwise drown the node's log.
    #[test]
    fn a_plugin_has_a_share_of_the_log() {
        let log = PluginLog::new(Digest([0; 32]));
        let admitted = (0..5_000).filter(|_| log.admit()).count();
        // A slow machine may see more than one second.
        assert!((1_000..5_000).contains(&admitted), "{admitted}");
    }
}
