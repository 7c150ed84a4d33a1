//! Fair shares of what is bounded and shared by services: a slot's mailbox, the bytes of connection buffers, the memory
//! of instances.
//!
//! Dynamic thresholds (Choudhury and Hahne, 1998), with a bound: while others want some, one may hold no more than half of
//! all, and no more than twice what is free. So some is always free: with `n` that want all they can get, each has
//! `2/(1+2n)` of it, and one that comes later finds room. While nobody else wants any, one may hold all but a
//! small reserve, which is for the first of another: what is held can't be taken back, only be given back.

use crate::limits;
use foldhash::fast::RandomState;
use std::{collections::HashMap, hash::Hash, time::Duration};

#[derive(Debug)]
pub struct Share<K> {
    capacity: u64,
    total: u64,
    /// Only of those that hold any.
    held: HashMap<K, u64, RandomState>,
    /// The last two that asked, and when.
    asked: [Option<(K, Duration)>; 2],
}

impl<K: Clone + Eq + Hash> Share<K> {
    /// Of so much in all.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, total: 0, held: HashMap::default(), asked: [None, None] }
    }

    /// Gives somebody so much, or nothing.
    pub fn take(&mut self, who: &K, amount: u64, now: Duration) -> bool {
        self.note(who, now);
        let held = self.held(who);
        let free = self.capacity - self.total;
        let may = match self.others_want(who, held, now) {
            true => (self.capacity / 2).min(free.saturating_mul(limits::SHARE_OF_FREE)),
            false => self.capacity - self.reserve(),
        };
        let fits = amount <= free && held.saturating_add(amount) <= may;
        if fits && amount > 0 {
            *self.held.entry(who.clone()).or_default() += amount;
            self.total += amount;
        }
        fits
    }

    /// Has so much back; no more than is held.
    pub fn give_back(&mut self, who: &K, amount: u64) {
        let Some(held) = self.held.get_mut(who) else { return };
        let amount = amount.min(*held);
        *held -= amount;
        self.total -= amount;
        if *held == 0 {
            self.held.remove(who);
            // An empty queue keeps no room for all who were ever in it.
            if self.held.is_empty() && self.held.capacity() > limits::SHARE_HOLDERS_KEPT {
                self.held = HashMap::default();
            }
        }
    }

    pub fn held(&self, who: &K) -> u64 {
        self.held.get(who).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// What is kept for the first of another.
    fn reserve(&self) -> u64 {
        match self.capacity {
            0 | 1 => 0,
            capacity => (capacity / limits::SHARE_RESERVE).max(1),
        }
    }

    fn note(&mut self, who: &K, now: Duration) {
        let [first, second] = &mut self.asked;
        if first.as_ref().is_none_or(|(last, _)| last != who) {
            std::mem::swap(first, second);
        }
        match first {
            Some((last, at)) if last == who => *at = now,
            first => *first = Some((who.clone(), now)),
        }
    }

    fn others_want(&self, who: &K, held: u64, now: Duration) -> bool {
        let mut asked = self.asked.iter().flatten();
        self.total > held
            || asked
                .any(|(other, at)| other != who && now.saturating_sub(*at) <= limits::SHARE_WANTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(5);

    fn fill(share: &mut Share<u8>, who: u8, now: Duration) -> u64 {
        while share.take(&who, 1, now) {}
        share.held(&who)
    }

    /// Without it one service's messages would fill the mailbox of a slot, and all others' be refused.
    #[test]
    fn one_has_all_when_alone_and_half_at_most_when_not() {
        let mut share = Share::new(1_024);
        assert_eq!(fill(&mut share, 1, NOW), 960);
        // The other one finds room, and the more of it the more is given back.
        assert_eq!(fill(&mut share, 2, NOW), 43);
        assert!(!share.take(&1, 1, NOW), "it holds more than half");
        share.give_back(&1, 700);
        let second = fill(&mut share, 2, NOW);
        assert!((400..=512).contains(&second), "{second}");
        share.give_back(&2, 1_000_000);
        share.give_back(&3, 5);
        assert_eq!(share.total(), share.held(&1));
        // It is remembered for a while that the other one wants some.
        assert!(fill(&mut share, 1, NOW) <= 512);
        assert_eq!(fill(&mut share, 1, NOW + 2 * limits::SHARE_WANTED), 960);
    }

    #[test]
    fn many_that_want_all_leave_room_for_one_more() {
        let mut share = Share::new(1_024);
        for _ in 0..2_000 {
            for who in 0..20 {
                share.take(&who, 1, NOW);
            }
        }
        let held: Vec<_> = (0..20).map(|who| share.held(&who)).collect();
        let (min, max) = (held.iter().min().unwrap(), held.iter().max().unwrap());
        assert!(max - min <= 1 && *min >= 49, "{held:?}");
        assert!(share.take(&99, 10, NOW), "there is room for one more");
    }

    proptest! {
        /// What must hold whatever is taken and given back: never more than there is, the sum is the sum, nobody grows beyond
        /// half while another wants some, and one that holds nothing gets some while any is free.
        #[test]
        fn whatever_is_taken_shares_are_kept(
            capacity in 0u64..3_000,
            steps in prop::collection::vec((0u8..6, 0u64..200, any::<bool>(), 0u64..700), 1..400),
        ) {
            let (mut share, mut now) = (Share::new(capacity), Duration::ZERO);
            let mut model = [0u64; 6];
            let mut asked = [None::<Duration>; 6];
            for (who, amount, takes, pause) in steps {
                now += Duration::from_millis(pause);
                let at = usize::from(who);
                if takes {
                    let others = model.iter().sum::<u64>() > model[at];
                    let free = capacity - share.total();
                    let given = share.take(&who, amount, now);
                    asked[at] = Some(now);
                    if given {
                        model[at] += amount;
                        if others && amount > 0 {
                            prop_assert!(model[at] <= capacity / 2);
                        }
                    } else if model[at] == 0 && amount == 1 {
                        prop_assert!(free == 0 || capacity < 2);
                    }
                    let alone = asked.iter().enumerate().all(|(n, when)| n == at || when.is_none());
                    if alone {
                        prop_assert_eq!(given, model[at] + u64::from(!given) * amount <= capacity - share.reserve());
                    }
                } else {
                    share.give_back(&who, amount);
                    model[at] = model[at].saturating_sub(amount);
                }
                prop_assert!(share.total() <= capacity);
                prop_assert_eq!(share.total(), model.iter().sum::<u64>());
                prop_assert_eq!(share.held(&who), model[at]);
                prop_assert_eq!(share.held.len(), model.iter().filter(|held| **held > 0).count());
            }
        }
    }
}
