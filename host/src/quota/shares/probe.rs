//! How long a task waits for its turn on the threads that serve.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A task now and then that says when it ran: one at a time.
#[derive(Default)]
pub(super) struct Probe(Arc<State>);

#[derive(Default)]
struct State {
    /// When the one that is under way was sent, in nanoseconds, and one more; 0: none is.
    sent: AtomicU64,
    /// How long the last one waited, in nanoseconds.
    waited: AtomicU64,
}

impl Probe {
    /// Sends one, unless one is under way. On the runtime that serves.
    pub fn send(&self, started: Instant) {
        if self.0.sent.load(Relaxed) != 0 {
            return;
        }
        let sent = nanoseconds(started.elapsed());
        self.0.sent.store(sent + 1, Relaxed);
        let state = self.0.clone();
        crate::task::run(async move {
            let waited = nanoseconds(started.elapsed()).saturating_sub(sent);
            state.waited.store(waited, Relaxed);
            state.sent.store(0, Relaxed);
        });
    }

    /// What the last one has waited, or the one that is under way if that is more.
    pub fn delay(&self, now: Duration) -> Duration {
        let sent = self.0.sent.load(Relaxed);
        let under_way = match sent {
            0 => 0,
            sent => nanoseconds(now).saturating_sub(sent - 1),
        };
        Duration::from_nanos(self.0.waited.load(Relaxed).max(under_way))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue in front of the processor would not be seen until its end is reached.
    #[tokio::test]
    async fn a_task_that_waits_counts_before_it_runs() {
        let (probe, started) = (Probe::default(), Instant::now());
        assert_eq!(probe.delay(Duration::ZERO), Duration::ZERO);
        probe.send(started);
        let later = started.elapsed() + Duration::from_secs(5);
        assert!(probe.delay(later) >= Duration::from_secs(5) - started.elapsed());
        probe.send(started);
        while probe.0.sent.load(Relaxed) != 0 {
            tokio::task::yield_now().await;
        }
        assert!(probe.delay(later) <= started.elapsed(), "it has run");
    }
}
