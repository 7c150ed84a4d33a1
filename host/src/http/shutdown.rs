//! The order to stop, given once, heard by everyone who holds a clone.

use std::sync::Arc;
use tokio::sync::watch;

/// Given to servers, event streams and sockets; [`Shutdown::trigger`] ends them.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }
    /// Tells everyone to stop; calling it again does nothing.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }
    /// Resolves once it was triggered, be it long ago. Owns what it needs.
    pub fn triggered(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.0.subscribe();
        // The sender lives in the future too, so that waiting never fails.
        let sender = self.0.clone();
        async move {
            let _ = receiver.wait_for(|stop| *stop).await;
            drop(sender);
        }
    }
}
