//! What of the processor the threads that serve have used, and what they could have.

use crate::{clock, plugin::PluginHost};
use std::{sync::Arc, time::Duration};
use tokio::runtime::{Handle, RuntimeMetrics};

/// Between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub busy: Duration,
    pub idle: Duration,
}

/// Reads two clocks: that of the process, less what threads used that give way to those that serve; and for how long
/// tokio's workers were parked. What other processes took is in neither: so what there is follows the machine.
pub(super) struct Meter {
    plugins: Arc<PluginHost>,
    metrics: RuntimeMetrics,
    cores: u32,
    wall: Duration,
    process: Duration,
    aside: Duration,
    workers: Vec<Worker>,
}

/// A worker says what it did when it parks, or after some tasks. Until then it looks parked.
#[derive(Clone, Copy, Default)]
struct Worker {
    /// How long it was not parked, as it says.
    busy: Duration,
    /// It was shown as parked for so long, and was not.
    owed: Duration,
}

impl Worker {
    /// For how long it was parked of the time that has passed.
    fn parked(&mut self, passed: Duration, busy: Duration) -> Duration {
        let busy = since(&mut self.busy, busy) + self.owed;
        self.owed = busy.saturating_sub(passed);
        passed.saturating_sub(busy)
    }
}

impl Meter {
    pub fn new(plugins: Arc<PluginHost>, runtime: &Handle, cores: usize, wall: Duration) -> Self {
        let metrics = runtime.metrics();
        let worker = |number| Worker {
            busy: metrics.worker_total_busy_duration(number),
            owed: Duration::ZERO,
        };
        let workers = (0..metrics.num_workers()).map(worker).collect();
        let mut this = Self {
            plugins,
            workers,
            metrics,
            cores: u32::try_from(cores).unwrap_or(u32::MAX).max(1),
            wall,
            process: Duration::ZERO,
            aside: Duration::ZERO,
        };
        this.read(wall);
        this
    }

    pub fn read(&mut self, wall: Duration) -> Reading {
        let passed = since(&mut self.wall, wall);
        let process = since(&mut self.process, clock::process_time());
        let aside = since(&mut self.aside, self.plugins.offload_pool().used());
        let mut parked = Duration::ZERO;
        for (number, worker) in self.workers.iter_mut().enumerate() {
            parked += worker.parked(passed, self.metrics.worker_total_busy_duration(number));
        }
        reading(passed * self.cores, process.saturating_sub(aside), parked)
    }
}

/// Nobody was parked for longer than the processor was free.
fn reading(all: Duration, busy: Duration, parked: Duration) -> Reading {
    Reading { busy, idle: parked.min(all.saturating_sub(busy)) }
}

fn since(before: &mut Duration, now: Duration) -> Duration {
    now.saturating_sub(std::mem::replace(before, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that says what it did each second tick would look parked in every other one.
    #[test]
    fn a_worker_that_says_late_what_it_did_is_not_parked() {
        let (mut worker, tick) = (Worker::default(), Duration::from_millis(10));
        let said = |ticks: u32| tick * (ticks / 2 * 2);
        worker.parked(tick, Duration::ZERO);
        let parked: Duration = (2..100).map(|n| worker.parked(tick, said(n))).sum();
        assert_eq!(parked, Duration::ZERO);
        // What it was shown for too much at first is made up for, then it is idle.
        let idle: Vec<_> = (0..3).map(|_| worker.parked(tick, said(98))).collect();
        assert_eq!(idle[1..], [tick, tick]);
    }

    /// Else a busy node would look as if it had time to spare.
    #[test]
    fn nobody_was_parked_for_longer_than_the_processor_was_free() {
        let ms = Duration::from_millis;
        assert_eq!(reading(ms(20), ms(19), ms(10)), Reading { busy: ms(19), idle: ms(1) });
        // Others took the rest.
        assert_eq!(reading(ms(20), ms(5), ms(3)), Reading { busy: ms(5), idle: ms(3) });
    }
}
