//! Whether a version may take over a session from another one when its `migrate` proves nothing.
//!
//! The interface has every component export `migrate`, and the SDKs export one that agrees for who
//! has written none: "it returned ok" does not prove that there is a migration. What a `migrate`
//! did does. One that never looked at the state cannot have converted it, so it counts as no
//! migration, and the versions decide: state of an earlier version or of the same is taken as it is,
//! state of a later one is not, because an older version cannot know what a newer one made of it. See
//! `docs/adr/0011-who-takes-a-session-over.md`.

use semver::Version;
use std::{cmp::Ordering, fmt};

/// What a successful call of `migrate` has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrate {
    /// It read or wrote the session's state.
    Own,
    /// It did nothing: it is treated as absent.
    None,
}

/// Why a version without its own `migrate` does not take over a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The session was last handled by a later version.
    Later,
    /// One of the two is not a semantic version: the order is unknown.
    Unordered,
}

/// Decides whether a session moves from version `from` to version `to`, whose `migrate` agreed.
/// `same_state`: the operator declared that `to` reads the state of every other version unchanged.
///
/// # Errors
/// The reason; the session stays on `from` then.
pub fn takes_over(migrate: Migrate, from: &str, to: &str, same_state: bool) -> Result<(), Refusal> {
    if migrate == Migrate::Own || same_state || from == to {
        return Ok(());
    }
    let (Ok(from), Ok(to)) = (Version::parse(from), Version::parse(to)) else {
        return Err(Refusal::Unordered);
    };
    match from.cmp_precedence(&to) {
        Ordering::Less | Ordering::Equal => Ok(()),
        Ordering::Greater => Err(Refusal::Later),
    }
}

impl Refusal {
    /// The reason, for a session that stays on `from` and for the operator who wants to move it.
    pub fn reason(self, from: &str, to: &str) -> impl fmt::Display {
        match self {
            Self::Later => format!(
                "version {to} does not implement migrate, so it takes over sessions from earlier \
                 versions only, and {from} is later"
            ),
            Self::Unordered => format!(
                "version {to} does not implement migrate, so it takes over sessions from earlier \
                 versions only, and {from} or {to} is not a semantic version (such as 1.4.0)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole rule. A wrong line is state in two formats, or a service whose sessions all stay
    /// behind.
    #[test]
    fn who_takes_a_session_over() {
        use Migrate::{None, Own};
        use Refusal::{Later, Unordered};
        let table = [
            // Forward, and equal.
            (None, "0.1.0", "0.2.0", false, Ok(())),
            (None, "0.2.0", "0.10.0", false, Ok(())),
            (None, "1.0.0", "1.0.0", false, Ok(())),
            (None, "1.0.0-rc.1", "1.0.0", false, Ok(())),
            (None, "1.0.0+one", "1.0.0+two", false, Ok(())),
            (None, "0.0.0", "0.1.0", false, Ok(())),
            // Backward.
            (None, "0.2.0", "0.1.0", false, Err(Later)),
            (None, "0.10.0", "0.2.0", false, Err(Later)),
            (None, "1.0.0", "1.0.0-rc.1", false, Err(Later)),
            // Without an order.
            (None, "build-7", "build-8", false, Err(Unordered)),
            (None, "1.0", "1.1", false, Err(Unordered)),
            (None, "v1.0.0", "1.1.0", false, Err(Unordered)),
            (None, "1.0.0", "", false, Err(Unordered)),
            (None, "01.0.0", "1.1.0", false, Err(Unordered)),
            // Equal texts need none.
            (None, "build-7", "build-7", false, Ok(())),
            // A migrate that looked at the state, or the operator, knows better.
            (Own, "0.2.0", "0.1.0", false, Ok(())),
            (Own, "build-7", "build-8", false, Ok(())),
            (None, "0.2.0", "0.1.0", true, Ok(())),
            (None, "build-7", "build-8", true, Ok(())),
        ];
        for (migrate, from, to, same_state, expected) in table {
            let decided = takes_over(migrate, from, to, same_state);
            assert_eq!(decided, expected, "{migrate:?} {from} -> {to}, same state: {same_state}");
        }
    }
}
