//! What a listener tells all that is open on it: to stop, or to look again at who may do what.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Given to servers, event streams and sockets; [`Shutdown::trigger`] ends them.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    order: Order,
    /// How often they were told to look.
    looks: u64,
}

/// What a socket or an event stream is told. One channel for both, so that an idle one waits for one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Stop,
    /// Rights, tokens or the policy may have changed.
    Look,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    None,
    /// With the deadline of connections, if there is one.
    Stop(Option<Instant>),
}

impl State {
    fn is_stop(&self) -> bool {
        matches!(self.order, Order::Stop(_))
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State { order: Order::None, looks: 0 })))
    }
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }
    /// As [`Self::trigger_within`], without an end to that time.
    #[cfg(test)]
    pub fn trigger(&self) {
        self.0.send_modify(|state| state.order = Order::Stop(None));
    }
    /// Orders all of them to stop; connections that are not done by then are cut.
    pub fn trigger_within(&self, grace: Duration) {
        let until = crate::clock::now() + grace;
        self.0.send_modify(|state| state.order = Order::Stop(Some(until)));
    }
    pub fn is_triggered(&self) -> bool {
        self.0.borrow().is_stop()
    }
    /// Has all that is open look again at whether it still may be.
    pub fn look(&self) {
        self.0.send_modify(|state| state.looks += 1);
    }
    /// How long connections have from now on; `most` if nothing else was set.
    pub(super) fn grace(&self, most: Duration) -> Duration {
        match self.0.borrow().order {
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
            let _ = receiver.wait_for(State::is_stop).await;
            drop(sender);
        }
    }
    /// Resolves at the next signal from now on, and at an order to stop even from long ago.
    pub(super) fn signalled(&self) -> impl Future<Output = Signal> + Send + 'static {
        let mut receiver = self.0.subscribe();
        let sender = self.0.clone();
        let seen = receiver.borrow().looks;
        async move {
            let told = receiver.wait_for(|state| state.is_stop() || state.looks != seen).await;
            let signal = match told {
                Ok(state) if !state.is_stop() => Signal::Look,
                _ => Signal::Stop,
            };
            drop(sender);
            signal
        }
    }
}
