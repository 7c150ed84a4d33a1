//! Captures the log of a test's own thread.
#![allow(clippy::unwrap_used)]

use parking_lot::Mutex;
use std::{
    io::{self, Write},
    sync::{Arc, OnceLock},
};
use tracing::{Dispatch, subscriber::NoSubscriber};

#[derive(Clone, Default)]
pub struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl CapturedLog {
    /// Captures lines of this thread while the guard lives.
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        // While there is one subscriber in the process, a line that another thread reaches first is asked for on that thread
        // alone, which has none, and is off for all from then on. With two, all of them are asked.
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        let captured = self.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || captured.clone());
        tracing::subscriber::set_default(log.finish())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test waits for in the log would never come if a test beside it logged that line first.
    #[test]
    fn a_line_is_captured_that_a_thread_without_a_log_reached_first() {
        let captured = CapturedLog::default();
        let _listening = captured.listen();
        let say = || tracing::info!("on two threads");
        std::thread::scope(|scope| {
            scope.spawn(say);
        });
        say();
        assert_eq!(captured.text().matches("on two threads").count(), 1);
    }
}
