//! Chance that a seed decides, on every machine and in every version alike.

use rand::{Rng as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// A generator of its own for each run.
#[derive(Clone, Debug)]
pub struct Chance(Xoshiro256PlusPlus);

impl Chance {
    pub fn of(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A number below `end`; 0 if there is none. Small ends alone are asked for: that it is uneven does not show.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64().checked_rem(end).unwrap_or(0)
    }

    /// From `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least.saturating_add(self.below(most.saturating_sub(least).saturating_add(1)))
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.index(of.len()))
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// One of them, each as likely as its weight says.
    pub fn weighed<T>(&mut self, all: Vec<(u64, T)>) -> Option<T> {
        let sum = all.iter().map(|(weight, _)| weight).sum();
        let mut at = self.below(sum);
        for (weight, each) in all {
            match at.checked_sub(weight) {
                Some(left) => at = left,
                None => return Some(each),
            }
        }
        None
    }
}
