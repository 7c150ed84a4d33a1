//! Versions of nats-server, and the minimum one.

use std::fmt;

/// A server's version; a suffix (`-beta.1`) is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

/// Older servers accepted several writers with the same expectation: two owners of one slot.
pub const REFUSED_BELOW: Version = Version(2, 10, 25);
/// The tested versions are newer than this; older servers get a warning, and are not started.
pub const WARNED_BELOW: Version = Version(2, 11, 0);

impl Version {
    /// Parses `2.15.1`, `v2.15.1-RC.1` and similar.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.trim().trim_start_matches('v');
        let numbers = numbers.split(['-', '+', ' ']).next()?;
        let mut parts = numbers.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => {
                Some(Self(major, minor, patch))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared as text, 2.9 would be newer than 2.10, which allows two owners.
    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        assert_eq!(Version::parse("v2.15.1\n"), Some(Version(2, 15, 1)));
        assert_eq!(Version::parse("2.12.0-RC.1"), Some(Version(2, 12, 0)));
        assert_eq!(Version::parse("2.12"), None);
        assert_eq!(Version::parse("nonsense"), None);
        assert!(Version(2, 9, 30) < REFUSED_BELOW && Version(2, 10, 24) < REFUSED_BELOW);
        assert!(Version(2, 10, 25) >= REFUSED_BELOW);
    }
}
