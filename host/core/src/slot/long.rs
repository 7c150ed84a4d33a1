//! What a slot remembers of calls that were long.

use crate::{limits, names::ServiceName, plugin::Begin};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Services whose last call in a slot was long, and what such calls cost lately: where the next of the
/// slot begins, and whose comes first. Forgotten after a while, or one long call would have the slot take
/// one mail a turn until the service is called again.
#[derive(Default)]
pub(super) struct LongCalls(HashMap<ServiceName, Cost>);

struct Cost {
    cost: Duration,
    at: Instant,
}

impl Cost {
    fn is_old(&self) -> bool {
        self.at.elapsed() >= limits::LONG_CALL_REMEMBERED
    }
}

impl LongCalls {
    pub fn cost(&self, service: &ServiceName) -> Option<Duration> {
        let known = self.0.get(service)?;
        (!known.is_old()).then_some(known.cost)
    }

    /// Whether calls of the slot tend to be long.
    pub fn are_likely(&mut self) -> bool {
        self.forget_old();
        !self.0.is_empty()
    }

    pub fn forget_old(&mut self) {
        if !self.0.is_empty() {
            self.0.retain(|_, known| !known.is_old());
        }
    }

    /// A call began there and took so much time in the pool.
    pub fn note(&mut self, service: &ServiceName, began: Begin, took: Duration, was_cut: bool) {
        if began != Begin::Here && took < limits::GUEST_SLICE {
            // One that was cut before it had its first turn says nothing.
            if !was_cut {
                self.0.remove(service);
            }
            return;
        }
        let before = self.cost(service).unwrap_or_default();
        let known = Cost { cost: before / 2 + took, at: crate::clock::now() };
        self.0.insert(service.clone(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One call that spins, of a service that is not called again, would slow its slot down for good.
    #[test]
    fn a_long_call_is_forgotten_after_a_while() {
        let (service, mut long) = (ServiceName::parse("s").unwrap(), LongCalls::default());
        let second = Duration::from_secs(1);
        long.note(&service, Begin::Here, second, false);
        long.note(&service, Begin::Offloaded { cost: second }, second, false);
        assert_eq!(long.cost(&service), Some(second + second / 2));
        assert!(long.are_likely());
        // One that was cut in the queue says nothing of the next.
        long.note(&service, Begin::Offloaded { cost: second }, Duration::ZERO, true);
        assert!(long.are_likely());
        long.0.get_mut(&service).unwrap().at -= limits::LONG_CALL_REMEMBERED;
        assert_eq!(long.cost(&service), None);
        assert!(!long.are_likely() && long.0.is_empty());
        // What it cost then says nothing either.
        long.note(&service, Begin::Here, second, false);
        assert_eq!(long.cost(&service), Some(second));
        long.note(&service, Begin::Offloaded { cost: second }, Duration::ZERO, false);
        assert!(!long.are_likely(), "short ones end it at once");
    }
}
