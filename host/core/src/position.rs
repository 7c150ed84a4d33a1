//! Positions in a session's events and history, which clients receive and pass back.
//!
//! A place is `seq` (after all of a message) or `seq.index` (after one of its events), followed by
//! `-` and the session's [`Incarnation`]: a session that was deleted and made again under its name
//! counts its messages from 1 again, and a place in the first is meaningless in the second. `0` is
//! the beginning of whatever there is. A place without an incarnation is one that a client has made
//! of numbers, or has from an earlier version.

use crate::{
    error::{Code, Error},
    log::record::Head,
    names::SessionKey,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which of the sessions that had a name, one after the other. Never 0 but in [`Self::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation(u64);

/// How many bits of an incarnation are kept: so many that two of a name do not meet.
const BITS: u32 = 48;
const DIGITS: usize = BITS as usize / 4;

impl Incarnation {
    /// There is no session of that name.
    pub const NONE: Self = Self(0);

    /// Of a number that the slot gives once, and the time of the first message: a slot whose data
    /// were restored from a backup gives numbers again.
    pub fn of(head: &Head) -> Self {
        if head.seq == 0 {
            return Self::NONE;
        }
        let mut made = [0; 16];
        made[..8].copy_from_slice(&head.session_number.to_be_bytes());
        made[8..].copy_from_slice(&head.created_ms.to_be_bytes());
        Self((xxhash_rust::xxh3::xxh3_64(&made) >> (u64::BITS - BITS)).max(1))
    }

    /// As nodes send it to each other.
    pub fn to_wire(self) -> u64 {
        self.0
    }

    pub fn from_wire(bits: u64) -> Self {
        Self(bits)
    }

    fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let well_formed = text.len() == DIGITS && text.bytes().all(digit);
        let bits = u64::from_str_radix(text, 16).ok().filter(|bits| well_formed && *bits > 0);
        bits.map(Self)
    }
}

/// A place: after event `index` (from 0) of message `seq`; `index: None` means after all events of
/// `seq`. `seq: 0` is the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub seq: u64,
    pub index: Option<u32>,
    /// The session that it belongs to; `None`: it does not name one.
    pub of: Option<Incarnation>,
}

impl Cursor {
    /// The beginning of whatever session there is.
    pub const START: Self = Self { seq: 0, index: None, of: None };

    /// After a message.
    pub fn after(seq: u64, of: Option<Incarnation>) -> Self {
        Self { seq, index: None, of: of.filter(|of| seq > 0 && *of != Incarnation::NONE) }
    }

    /// After one event of a message.
    pub fn after_event(seq: u64, index: u32, of: Option<Incarnation>) -> Self {
        Self { index: Some(index), ..Self::after(seq, of) }
    }

    /// Reads what [`fmt::Display`] writes, with or without the incarnation. `what` names it in the
    /// error.
    ///
    /// # Errors
    /// `request-invalid`.
    pub fn parse(text: &str, what: &str) -> Result<Self, Error> {
        Self::read(text).ok_or_else(|| {
            Error::new(
                Code::RequestInvalid,
                format!(
                    "{what} is {text:?}; it must be a position from slotd (such as an event's \
                     id), a message's number, or `seq.index`"
                ),
            )
        })
    }

    fn read(text: &str) -> Option<Self> {
        let (place, of) = match text.split_once('-') {
            None => (text, None),
            Some((place, of)) => (place, Some(Incarnation::parse(of)?)),
        };
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        let (seq, index) = match place.split_once('.') {
            None => (place, None),
            Some((seq, index)) => (seq, Some(index.parse().ok().filter(|_: &u32| digits(index))?)),
        };
        let seq = seq.parse().ok().filter(|_: &u64| digits(seq))?;
        (seq > 0 || (index.is_none() && of.is_none())).then_some(Self { seq, index, of })
    }

    /// The message after which everything is still to be given, though not all of the next.
    pub fn after_message(self) -> u64 {
        match self.index {
            None => self.seq,
            // The rest of that message's events is still to be given.
            Some(_) => self.seq.saturating_sub(1),
        }
    }

    /// Whether it can be a place of the session `now`; `made_again`: the slot remembers an
    /// earlier one of that name.
    ///
    /// - The beginning is everyone's.
    /// - A place that names its session belongs to that one. A node of an earlier version does not
    ///   report which session it has (`now: None`): then there is nothing to compare.
    /// - A place that does not is taken for one of the session that there is, unless it may as well
    ///   be one of an earlier session: then it is not served.
    pub fn belongs_to(self, now: Option<Incarnation>, made_again: bool) -> bool {
        match (self.of, now) {
            _ if self.seq == 0 => true,
            (Some(of), Some(now)) => of == now,
            (Some(_), None) => true,
            (None, _) => !made_again,
        }
    }

    /// The error for a reader of history whose place belongs to another session.
    pub fn gone(self, key: &SessionKey, now: Option<Incarnation>) -> Error {
        let detail = match self.of {
            Some(_) => format!(
                "{self} is a position in a deleted session {key}; to read the one that exists \
                 now, start after 0"
            ),
            None => format!(
                "{key} was deleted and created again, and {self} may belong to either: start \
                 after 0, or give a position as slotd returned it ({} in the session that exists \
                 now)",
                Self { of: now, ..self }
            ),
        };
        Error::new(Code::PositionGone, detail)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seq)?;
        if let Some(index) = self.index {
            write!(f, ".{index}")?;
        }
        match self.of {
            Some(Incarnation(bits)) => write!(f, "-{bits:0DIGITS$x}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(session_number: u64, created_ms: u64) -> Head {
        Head { session_number, created_ms, seq: 1, ..Head::default() }
    }

    /// Without it an event id could be read as another place than the one it was written for.
    #[test]
    fn positions_are_read_as_they_are_written() {
        for text in [
            "0",
            "17",
            "17.0",
            "18446744073709551615.4294967295",
            "17-0123456789ab",
            "17.3-00000000000f",
        ] {
            assert_eq!(Cursor::parse(text, "after").unwrap().to_string(), text);
        }
        for bad in [
            "",
            "-1",
            "+1",
            "1.",
            ".1",
            "1.2.3",
            "0.0",
            "1.4294967296",
            "x",
            "1 ",
            "1-",
            "1-12",
            "1-0123456789aB",
            "1-000000000000",
            "1-0123456789ab-",
            "1--123456789ab",
            "1.+2",
            "0-0123456789ab",
            "1-0123456789abc",
        ] {
            assert!(Cursor::parse(bad, "after").is_err(), "{bad:?}");
        }
    }

    /// Were two incarnations the same, a place of one would be a place of the other: also when a
    /// restored slot gives a number again, or two are made in one millisecond.
    #[test]
    fn each_session_of_a_name_is_another_incarnation() {
        let first = Incarnation::of(&head(1, 1_000));
        assert_eq!(first, Incarnation::of(&Head { seq: 99, updated_ms: 7, ..head(1, 1_000) }));
        assert_ne!(first, Incarnation::of(&head(2, 1_000)));
        assert_ne!(first, Incarnation::of(&head(1, 1_001)));
        assert_eq!(Incarnation::of(&Head::default()), Incarnation::NONE);
        // On the wire and in clients' hands for as long as there are sessions: never another one.
        assert_eq!(Cursor::after(3, Some(first)).to_string(), "3-138617bc12ce");
    }

    /// A place must be served exactly where it is, or may without doubt be, one of that session.
    #[test]
    fn a_place_without_a_name_is_served_where_there_is_no_doubt() {
        let (own, other) = (Incarnation::of(&head(1, 1)), Incarnation::of(&head(2, 1)));
        for (of, now, made_again, served) in [
            (Some(own), Some(own), false, true),
            (Some(own), Some(own), true, true),
            (Some(own), Some(other), false, false),
            (Some(own), Some(Incarnation::NONE), false, false),
            (Some(own), None, false, true),
            (None, Some(own), false, true),
            (None, Some(own), true, false),
            (None, None, false, true),
        ] {
            let place = Cursor::after(3, of);
            assert_eq!(place.belongs_to(now, made_again), served, "{place} {now:?} {made_again}");
        }
        assert!(Cursor::START.belongs_to(Some(own), true));
    }
}
