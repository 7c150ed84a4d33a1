//! Which limits there are, and what they say to a message.

use crate::rate::SECOND_NS;
use std::{fmt, time::Duration};

/// What a limit is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    Service,
    Subject,
    Session,
}

/// What a limit is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    Messages,
    Bytes,
    GuestTime,
}

/// One limit, as headers and errors name it: `subject-bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Limit {
    pub level: Level,
    pub what: What,
}

impl Limit {
    pub const fn as_str(self) -> &'static str {
        match (self.level, self.what) {
            (Level::Service, What::Messages) => "service-messages",
            (Level::Service, What::Bytes) => "service-bytes",
            (Level::Service, What::GuestTime) => "service-guest-time",
            (Level::Subject, What::Messages) => "subject-messages",
            (Level::Subject, What::Bytes) => "subject-bytes",
            (Level::Subject, What::GuestTime) => "subject-guest-time",
            (Level::Session, What::Messages) => "session-messages",
            (Level::Session, What::Bytes) => "session-bytes",
            (Level::Session, What::GuestTime) => "session-guest-time",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Drawn. With what is left of the limit that is nearest to its end, if it has a limit of messages or bytes.
    Allowed(Option<Left>),
    /// Nothing was drawn.
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub limit: Limit,
    /// Messages or bytes.
    pub remaining: u64,
    /// How long until all of it is there again.
    pub full_in: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The one that lets it through last.
    pub limit: Limit,
    /// After which it is let through, if nothing else is in between.
    pub after: Duration,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = retry_after(self.after);
        write!(f, "over the limit {}; retry after {seconds} s", self.limit)
    }
}

/// The value of `Retry-After`, in seconds: not before it is true.
pub fn retry_after(after: Duration) -> u64 {
    whole_seconds(after).max(1)
}

pub(crate) fn whole_seconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(SECOND_NS.into())).unwrap_or(u64::MAX)
}
