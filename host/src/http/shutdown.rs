//! The stop signal: sent once, received by every holder of a clone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Given to servers, event streams and sockets; [`Shutdown::trigger`] ends them.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<Order>>);

#[derive(Clone, Copy, Debug)]
enum Order {
    None,
    /// With the deadline of connections, if there is one.
    Stop(Option<Instant>),
}

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Order::None)))
    }
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }
    /// As [`Self::trigger_within`], without an end to that time.
    #[cfg(test)]
    pub fn trigger(&self) {
        self.0.send_replace(Order::Stop(None));
    }
    /// Orders all of them to stop; connections that are not done by then are cut.
    pub fn trigger_within(&self, grace: Duration) {
        self.0.send_replace(Order::Stop(Some(crate::clock::now() + grace)));
    }
    pub fn is_triggered(&self) -> bool {
        matches!(*self.0.borrow(), Order::Stop(_))
    }
    /// How long connections have from now on; `most` if nothing else was set.
    pub(super) fn grace(&self, most: Duration) -> Duration {
        match *self.0.borrow() {
            Order::Stop(Some(until)) => {
                until.saturating_duration_since(crate::clock::now()).min(most)
            }
            _ => most,
        }
    }
    /// Resolves once triggered, even long ago. Owns what it needs.
    pub fn triggered(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.0.subscribe();
        // The sender lives in the future too, so that waiting never fails.
        let sender = self.0.clone();
        async move {
            let _ = receiver.wait_for(|order| matches!(order, Order::Stop(_))).await;
            drop(sender);
        }
    }
}
