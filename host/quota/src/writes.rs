//! Fair shares of the log: a service that writes much is kept from having more under way than others can wait for.
//!
//! One log is for all services of a node, and so is the store behind it: each commit waits for the one before, and when the
//! store can't write its tables as fast as the log comes, all wait for it. What a service writes is known when its handler
//! has ended, so what is under way is bounded before its messages are let in: by what those of its service have written
//! lately.
//!
//! Who counts as one that writes much is said by bytes: more than the **mean** of those that have written within
//! [`limits::WRITES_LATELY`], by weight. If there is only one, it has all.
//!
//! | | one that writes more than the mean | others |
//! |---|---|---|
//! | the store keeps up | as much as the log takes in [`limits::WRITES_UNDER_WAY`] | without a bound |
//! | the store is behind | nothing new | without a bound |
//!
//! Those that are kept waiting sink below the mean as long as they wait, and with all that write at the mean, nobody waits
//! for anybody. [`Writes`] has no clock and no lock; what it says is for a tick.

use crate::limits;
use foldhash::fast::RandomState;
use std::{collections::HashMap, time::Duration};

/// What a service has written since the last tick.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    pub service: &'a str,
    pub weight: u32,
    pub bytes: u64,
    /// Of so many messages.
    pub messages: u64,
}

/// What the disk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disk {
    /// What large commits have had since the node started, and how long they took.
    pub bytes: u64,
    pub time: Duration,
    /// Tables wait to be written: soon all that write would wait for it.
    pub behind: bool,
}

/// What a service may have under way until the next tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Bytes on their way into the log, with those that its messages will write. 0: none.
    pub most: u64,
    /// What a message is taken to write.
    pub each: u64,
}

impl Bound {
    pub const NONE: Self = Self { most: u64::MAX, each: 0 };

    /// Whether one more message goes. `open`: those that were let in and have not written. `under_way`: bytes that are
    /// written and not durable.
    pub fn lets(self, open: u64, under_way: u64) -> bool {
        let with_it = open.saturating_add(1).saturating_mul(self.each).saturating_add(under_way);
        // One that is larger than all that may be under way goes alone.
        with_it <= self.most || (self.most > 0 && open == 0 && under_way == 0)
    }
}

#[derive(Debug)]
pub struct Writes {
    writers: HashMap<Box<str>, Writer, RandomState>,
    /// Bytes a second that the log takes.
    rate: f64,
    disk: Disk,
    last: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Writer {
    weight: f64,
    /// Bytes a second, lately.
    rate: f64,
    /// Bytes and messages, which fade.
    bytes: f64,
    messages: f64,
    wrote: Duration,
}

impl Writer {
    fn by_weight(&self) -> f64 {
        self.rate / self.weight
    }

    fn each(&self) -> u64 {
        (self.bytes / self.messages.max(1.0)) as u64
    }
}

impl Writes {
    pub fn new(now: Duration) -> Self {
        Self {
            writers: HashMap::default(),
            rate: limits::WRITES_RATE_FIRST,
            disk: Disk::default(),
            last: now,
        }
    }

    /// Time has passed: what services may have under way from now on. Those that are not named have no bound.
    pub fn on<'a>(
        &'a mut self,
        now: Duration,
        disk: Disk,
        written: &[Written<'_>],
    ) -> impl Iterator<Item = (&'a str, Bound)> + use<'a> {
        let passed = now.saturating_sub(std::mem::replace(&mut self.last, now)).as_secs_f64();
        let before = std::mem::replace(&mut self.disk, disk);
        let bytes = disk.bytes.saturating_sub(before.bytes) as f64;
        let took = disk.time.saturating_sub(before.time).as_secs_f64();
        if bytes > 0.0 && took > 0.0 {
            self.rate += (bytes / took - self.rate) * 0.2;
        }
        let lately = limits::WRITES_LATELY.as_secs_f64();
        let fades = (-passed / lately).exp();
        for writer in self.writers.values_mut() {
            writer.rate *= fades;
        }
        for told in written.iter().filter(|told| told.bytes > 0) {
            let full = self.writers.len() >= limits::SHARES_SERVICES_MAX;
            if full && !self.writers.contains_key(told.service) {
                continue;
            }
            let writer = self.writers.entry(told.service.into()).or_insert(Writer {
                weight: 1.0,
                rate: 0.0,
                bytes: 0.0,
                messages: 0.0,
                wrote: now,
            });
            writer.weight = f64::from(told.weight.max(1));
            writer.rate += told.bytes as f64 / lately;
            writer.bytes = writer.bytes * 0.9 + told.bytes as f64;
            writer.messages = writer.messages * 0.9 + told.messages as f64;
            writer.wrote = now;
        }
        // One that is kept waiting is one that writes until what it has written has faded.
        let kept = limits::WRITES_LATELY * 5;
        self.writers.retain(|_, writer| now.saturating_sub(writer.wrote) <= kept);
        let counts = |writer: &Writer| {
            now.saturating_sub(writer.wrote) <= limits::WRITES_LATELY || writer.rate > 1.0
        };
        let writing: Vec<_> = self.writers.values().filter(|writer| counts(writer)).collect();
        let sum: f64 = writing.iter().map(|writer| writer.rate).sum();
        let weights: f64 = writing.iter().map(|writer| writer.weight).sum();
        let mean = if writing.len() > 1 { sum / weights } else { f64::INFINITY };
        let many = writing.iter().filter(|writer| writer.by_weight() > mean).count().max(1) as f64;
        let room = self.rate * limits::WRITES_UNDER_WAY.as_secs_f64() / many;
        let room = (room as u64).max(limits::WRITES_UNDER_WAY_MIN);
        self.writers.iter().map(move |(name, writer)| {
            let bound = match writer.by_weight() > mean {
                true if disk.behind => Bound { most: 0, each: writer.each() },
                true => Bound { most: room, each: writer.each() },
                false => Bound::NONE,
            };
            (&**name, bound)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: Duration = Duration::from_millis(10);

    fn bounds(
        writes: &mut Writes,
        now: Duration,
        disk: Disk,
        written: &[(&str, u64, u64)],
    ) -> HashMap<String, Bound> {
        let told: Vec<_> = written
            .iter()
            .map(|&(service, bytes, messages)| Written { service, weight: 100, bytes, messages })
            .collect();
        let bounds = writes.on(now, disk, &told);
        bounds.map(|(service, bound)| (service.to_owned(), bound)).collect()
    }

    /// Without it a message of some bytes waits for the megabytes of another service.
    #[test]
    fn one_that_writes_much_has_little_under_way_while_others_write() {
        let mut writes = Writes::new(Duration::ZERO);
        let disk = |n: u64, behind| Disk {
            bytes: n * 1_000_000,
            time: Duration::from_millis(n * 10),
            behind,
        };
        let heavy = [("heavy", 10 * 200_000, 10)];
        let both = [("heavy", 10 * 200_000, 10), ("quiet", 300, 2)];
        let alone = bounds(&mut writes, TICK, disk(1, true), &heavy);
        assert_eq!(alone["heavy"], Bound::NONE, "nobody else would have it");
        for n in 2..50 {
            bounds(&mut writes, TICK * n, disk(n.into(), false), &both);
        }
        let kept = bounds(&mut writes, TICK * 50, disk(50, false), &both);
        assert_eq!(kept["quiet"], Bound::NONE);
        let Bound { most, each } = kept["heavy"];
        // 20 ms at 100 MB/s.
        assert!((1_900_000..2_100_000).contains(&most) && each == 200_000, "{:?}", kept["heavy"]);
        assert!(kept["heavy"].lets(3, 1_000_000) && !kept["heavy"].lets(6, 1_000_000));
        let behind = bounds(&mut writes, TICK * 51, disk(51, true), &both);
        assert_eq!(behind["quiet"], Bound::NONE);
        assert!(!behind["heavy"].lets(0, 0));
        // It does not wait for ever: not when it has nothing lately, nor when it is alone again.
        let later = bounds(&mut writes, Duration::from_secs(9), disk(51, true), &[("quiet", 9, 1)]);
        assert!(!later.contains_key("heavy"));
    }

    #[test]
    fn one_message_goes_alone_however_large_it_is() {
        let bound = Bound { most: 1_000, each: 5_000 };
        assert!(bound.lets(0, 0) && !bound.lets(1, 0) && !bound.lets(0, 1));
        assert!(Bound::NONE.lets(u64::MAX, u64::MAX));
    }

    proptest! {
        /// Else a store that is behind would keep everybody waiting, or for ever one that has not written for long.
        #[test]
        fn whoever_writes_no_more_than_the_mean_never_waits(
            ticks in prop::collection::vec((1u64..500, any::<bool>(), prop::collection::vec(0u64..1_000_000, 4)), 1..60),
        ) {
            let mut writes = Writes::new(Duration::ZERO);
            let (mut now, names) = (Duration::ZERO, ["a", "b", "c", "d"]);
            for (pause, behind, bytes) in ticks {
                now += Duration::from_millis(pause);
                let written: Vec<_> = names.iter().zip(&bytes).map(|(name, bytes)| (*name, *bytes, 1)).collect();
                let bounds = bounds(&mut writes, now, Disk { behind, ..Disk::default() }, &written);
                let held = bounds.values().filter(|bound| **bound != Bound::NONE).count();
                prop_assert!(held < bounds.len().max(1), "{bounds:?}");
                for (name, bound) in bounds {
                    prop_assert!(bound.most == 0 || bound.most >= limits::WRITES_UNDER_WAY_MIN);
                    prop_assert!(bound.most > 0 || behind, "{name}");
                }
            }
        }
    }
}
