//! Versions of the messages between nodes, and the one rule of which versions work together:
//! membership and links both use [`Protocols::common`].

use crate::level::{self, Level};
use std::fmt;

/// The versions that a node speaks: all from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    pub oldest: u16,
    pub newest: u16,
}

impl Protocols {
    /// What this build speaks in a cluster at this feature level. A change of what datagrams or
    /// items mean, or of their encoding, is a new level. A node that does not know the current
    /// level can't read what the others write, and is refused.
    pub fn at(level: Level) -> Self {
        Self { oldest: level, newest: level::NEWEST }
    }

    /// The version that two nodes use with each other: the newest that both speak. `None`: they
    /// refuse each other.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = Protocols> {
        (0..6_u16, 0..6_u16).prop_map(|(a, b)| Protocols { oldest: a.min(b), newest: a.max(b) })
    }

    proptest! {
        /// If the two sides decided differently, a node would be accepted on one port and refused
        /// on the other, or two versions would be mixed.
        #[test]
        fn both_sides_choose_the_same_version_and_both_speak_it(a in range(), b in range()) {
            prop_assert_eq!(a.common(b), b.common(a));
            let spoken = |by: Protocols, v: u16| (by.oldest..=by.newest).contains(&v);
            let best = (0..6).rev().find(|&v| spoken(a, v) && spoken(b, v));
            prop_assert_eq!(a.common(b), best);
        }
    }
}
