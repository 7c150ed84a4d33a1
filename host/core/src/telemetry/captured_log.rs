//! Captures the log of a test's own thread.
#![allow(clippy::unwrap_used)]

use parking_lot::Mutex;
use std::{
    io::{self, Write},
    sync::Arc,
};

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
        let captured = self.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || captured.clone());
        tracing::subscriber::set_default(log.finish())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}
