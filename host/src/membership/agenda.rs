//! Timers, and views that coalesce steps.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Things to do, each at its time.
///
/// Time in which this process did not run does not count: SWIM's deadlines are about what others
/// did *not* do, and a node that was stopped for a second has not listened. Without this it would
/// wake up to find all deadlines expired, with the answers unread in its socket.
pub(super) struct Agenda<T> {
    /// The count keeps the order of entries due at the same time.
    due: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Agenda<T> {
    pub fn new() -> Self {
        Self { due: BTreeMap::new(), count: 0 }
    }
    pub fn add(&mut self, at: Instant, what: T) {
        self.count += 1;
        self.due.insert((at, self.count), what);
    }
    pub fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
    pub fn clear(&mut self, keep: impl Fn(&T) -> bool) {
        self.due.retain(|_, what| keep(what));
    }
    /// Postpones all due entries by as much as the first is late, if that is over `grace`. Returns
    /// by how much.
    pub fn postpone(&mut self, now: Instant, grace: Duration) -> Option<Duration> {
        let late = now.checked_duration_since(self.next()?)?;
        if late <= grace {
            return None;
        }
        let due = std::mem::take(&mut self.due);
        self.due = due.into_iter().map(|((at, n), what)| ((at + late, n), what)).collect();
        Some(late)
    }
}

/// Decides when changes become a new view: once `quiet` has passed without another one, and at most
/// `longest` after the first. Ten nodes that join make one view, and so does one that dies and is
/// found alive; a single death waits only for `quiet`.
pub(super) struct Coalescer {
    quiet: Duration,
    longest: Duration,
    /// The first and the last unpublished change.
    changes: Option<(Instant, Instant)>,
}

impl Coalescer {
    pub fn new(quiet: Duration, longest: Duration) -> Self {
        Self { quiet, longest, changes: None }
    }
    pub fn changed(&mut self, now: Instant) {
        let first = self.changes.map_or(now, |(first, _)| first);
        self.changes = Some((first, now));
    }
    /// From now on it waits as if all changes had come at this moment.
    pub fn restart(&mut self, now: Instant) {
        self.changes = self.changes.map(|_| (now, now));
    }
    /// When to publish.
    pub fn due(&self) -> Option<Instant> {
        self.changes.map(|(first, last)| (last + self.quiet).min(first + self.longest))
    }
    /// Whether to publish now; if so, everything is published.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.changes = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A pause of this process must not count as silence of the others.
    #[test]
    fn time_in_which_nothing_ran_does_not_count() {
        let start = Instant::now();
        let mut agenda = Agenda::new();
        for (ms, what) in [(30, "c"), (10, "a"), (20, "b"), (20, "b2")] {
            agenda.add(start + MS * ms, what);
        }
        assert_eq!(agenda.pop(start + MS * 9), None);
        assert_eq!(agenda.postpone(start + MS * 12, MS * 5), None);
        assert_eq!(agenda.pop(start + MS * 12), Some("a"));
        assert_eq!(agenda.postpone(start + MS * 1_020, MS * 5), Some(MS * 1_000));
        let now = start + MS * 1_020;
        assert_eq!(
            [agenda.pop(now), agenda.pop(now), agenda.pop(now)],
            [Some("b"), Some("b2"), None]
        );
        assert_eq!(agenda.next(), Some(start + MS * 1_030));
    }

    /// A view per node would make every node plan, and move slots, ten times when ten join.
    #[test]
    fn changes_that_come_together_make_one_view() {
        let start = Instant::now();
        let mut views = Vec::new();
        let mut run = |changes: &[u32]| {
            let mut coalescer = Coalescer::new(MS * 100, MS * 250);
            views.clear();
            for ms in 0..2_000 {
                if changes.contains(&ms) {
                    coalescer.changed(start + MS * ms);
                }
                if coalescer.take(start + MS * ms) {
                    views.push(ms);
                }
            }
            views.clone()
        };
        assert_eq!(run(&[7]), [107]);
        assert_eq!(run(&[0, 3, 9, 50, 51, 52, 60, 90, 120, 149]), [249]);
        assert_eq!(run(&(0..=50).map(|n| n * 10).collect::<Vec<_>>()), [250, 510]);
        assert_eq!(run(&[0, 101, 400]), [100, 201, 500]);
    }

    /// What was held back for others would be published the moment that the last of them is there,
    /// without those that it brings along.
    #[test]
    fn changes_that_were_held_back_wait_for_quiet_again() {
        let start = Instant::now();
        let mut coalescer = Coalescer::new(MS * 100, MS * 250);
        coalescer.restart(start);
        assert_eq!(coalescer.due(), None, "nothing has changed");
        coalescer.changed(start);
        coalescer.restart(start + MS * 900);
        assert_eq!(coalescer.due(), Some(start + MS * 1_000));
    }
}
