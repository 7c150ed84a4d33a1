//! The order to end that a program on a terminal gets.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM, which end nothing by themselves from when this is made on.
pub struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    /// # Errors
    /// When the system does not let us listen.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
