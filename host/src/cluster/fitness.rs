//! Decides whether this node can serve slots: whether the log engine answers it, and its disk
//! accepts writes. A node that can't reports it to the others, which leave it out of their rings.
//!
//! It is a hint, like all of membership. These rules prevent oscillation:
//! - A node reports itself unfit after several failed checks in a row, and fit again only after a
//!   time without failures, which doubles with each relapse.
//! - A node considers others' reports only after it had no failures itself for twice as long
//!   ([`Fitness::is_steady`]). So when all nodes lose the engine, all ignore each other's reports, and
//!   when it comes back, all have reported fit before any node considers reports again: no slot moves.
//! - When no node is fit, all are on the ring.

use super::Cluster;
use crate::{limits, peer::member::Unfit, telemetry::metrics};
use futures_util::future::BoxFuture;
use std::{
    sync::Weak,
    time::{Duration, Instant},
};

/// Asks the log engine whether it is there for this node; takes [`limits::FITNESS_INTERVAL`] at
/// most.
pub type EngineProbe = dyn Fn() -> BoxFuture<'static, bool> + Send + Sync;

/// The state of one thing that a node needs. Pure: the caller passes the time.
#[derive(Debug)]
pub struct Fitness {
    /// Looks in a row that failed.
    missed: u32,
    good: Good,
    fit: bool,
    /// Times that it was lost again soon after it had come back.
    relapses: u32,
    lost: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Good {
    /// It never was otherwise.
    Always,
    Since(Instant),
    No,
}

impl Default for Fitness {
    fn default() -> Self {
        Self { missed: 0, good: Good::Always, fit: true, relapses: 0, lost: None }
    }
}

impl Fitness {
    /// Somebody has looked.
    pub fn looked(&mut self, well: bool, now: Instant) {
        if well {
            self.missed = 0;
            if self.good == Good::No {
                self.good = Good::Since(now);
            }
            self.fit |= self.well_for(self.probation(), now);
            return;
        }
        self.missed = self.missed.saturating_add(1);
        if self.missed >= limits::FITNESS_DOUBTS {
            self.good = Good::No;
        }
        if self.fit && self.missed >= limits::FITNESS_MISSES {
            self.fit = false;
            let again = self.lost.is_some_and(|lost| now - lost < limits::FITNESS_RELAPSE);
            self.relapses = if again { (self.relapses + 1).min(16) } else { 0 };
            self.lost = Some(now);
        }
    }

    pub fn is_fit(&self) -> bool {
        self.fit
    }

    /// Well for so long that whoever lost what this node lost too has it again as well.
    pub fn is_steady(&self, now: Instant) -> bool {
        self.fit && self.well_for(self.probation() * 2, now)
    }

    /// How long all must be well before the node counts as fit again.
    fn probation(&self) -> Duration {
        let probation = limits::FITNESS_PROBATION * 2_u32.pow(self.relapses);
        probation.min(limits::FITNESS_PROBATION_MAX)
    }

    fn well_for(&self, time: Duration, now: Instant) -> bool {
        match self.good {
            Good::Always => true,
            Good::Since(since) => now.saturating_duration_since(since) >= time,
            Good::No => false,
        }
    }
}

/// Checks this node's fitness, and reports changes.
pub(super) async fn watch(cluster: Weak<Cluster>) {
    let (mut engine, mut disk) = (Fitness::default(), Fitness::default());
    let mut tick = tokio::time::interval(limits::FITNESS_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut logged = None;
    loop {
        tick.tick().await;
        let Some(this) = cluster.upgrade() else { return };
        let answered = (this.engine)().await;
        let now = crate::clock::now();
        let was_reached = engine.missed == 0;
        engine.looked(answered, now);
        // A disk that is full on a node of a cluster keeps nothing from the log.
        let store = &this.context.store;
        disk.looked(store.is_writable() && store.has_room(), now);
        if !was_reached && engine.missed == 0 {
            // What was tried without it need not wait.
            this.backoffs.reset_failures();
            this.nudge();
        }
        let unfit = match (engine.is_fit(), disk.is_fit()) {
            (false, _) => Some(Unfit::Engine),
            (true, false) => Some(Unfit::Disk),
            (true, true) => None,
        };
        metrics().unfit.set(f64::from(u8::from(unfit.is_some())));
        if logged != unfit {
            match unfit {
                Some(why) => tracing::warn!(%why, "this node can't serve; reported to the other \
                    nodes"),
                None => tracing::info!("this node can serve again"),
            }
            logged = unfit;
        }
        // Until this node's own view shows it: a report may be lost.
        let shown = this.members().get(&this.own).and_then(|own| own.unfit);
        if shown != unfit {
            (this.report_unfit)(unfit);
        }
        let steady = engine.is_steady(now);
        this.steady.send_if_modified(|known| std::mem::replace(known, steady) != steady);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = limits::FITNESS_INTERVAL;

    struct Clock(Instant);

    impl Clock {
        /// Looks once an interval; gives how long until `reached`.
        fn until(
            &mut self,
            fitness: &mut Fitness,
            well: bool,
            reached: impl Fn(&Fitness, Instant) -> bool,
        ) -> Duration {
            let started = self.0;
            while !reached(fitness, self.0) {
                assert!(self.0 - started < Duration::from_secs(600), "never: {fitness:?}");
                self.0 += STEP;
                fitness.looked(well, self.0);
            }
            self.0 - started
        }
    }

    /// A node that left and came back with each lost answer would have its slots moved all day.
    #[test]
    fn it_takes_a_while_to_be_unfit_and_longer_to_be_fit() {
        let (mut fitness, mut clock) = (Fitness::default(), Clock(Instant::now()));
        assert!(fitness.is_steady(clock.0), "a node that has just started believes the others");
        for _ in 0..100 {
            for well in [false, true] {
                clock.0 += STEP;
                fitness.looked(well, clock.0);
                assert!(fitness.is_fit() && fitness.is_steady(clock.0));
            }
        }
        let lost = clock.until(&mut fitness, false, |fitness, _| !fitness.is_fit());
        assert!(lost <= 5 * STEP, "{lost:?}");
        let mut last = Duration::ZERO;
        for _ in 0..6 {
            let back = clock.until(&mut fitness, true, |fitness, _| fitness.is_fit());
            assert!(back >= limits::FITNESS_PROBATION, "{back:?}");
            assert!(
                back > last || back >= limits::FITNESS_PROBATION_MAX,
                "{back:?} after {last:?}"
            );
            assert!(back <= limits::FITNESS_PROBATION_MAX + 2 * STEP, "{back:?}");
            last = back;
            clock.until(&mut fitness, false, |fitness, _| !fitness.is_fit());
        }
    }

    /// When all lose the engine, and when all have it again, no node may take another at its word:
    /// every slot of the cluster would move, twice.
    #[test]
    fn what_all_lose_moves_nothing() {
        for late in 0..=1 {
            let (mut a, mut b) = (Fitness::default(), Fitness::default());
            let mut now = Instant::now();
            let mut believed = false;
            for round in 0..200 {
                // The one looks up to an interval later than the other.
                let outage = |shift: i32| !(20..60).contains(&(round - shift));
                a.looked(outage(0), now);
                b.looked(outage(late), now + STEP / 2);
                let now_b = now + STEP / 2;
                believed |= !a.is_fit() && b.is_steady(now_b);
                believed |= !b.is_fit() && a.is_steady(now);
                now += STEP;
            }
            assert!(!believed);
            assert!(a.is_steady(now) && b.is_steady(now));
        }
    }
}
