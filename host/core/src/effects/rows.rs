//! The rows of effects in a slot's state, under session numbers that no session has: what stores,
//! flushes and snapshots do with the rows of sessions they do with these.
//!
//! | session number | row | value |
//! |---|---|---|
//! | [`of_session`] | `1`, name | a timer that is set: [`Timer`] |
//! | | `2`, name, `0`, time | a timer's message that was given up: [`Dead`] |
//! | | `3`, name, `0`, time | one that an operator has tried again: [`Timer`] |
//! | [`DUE`] | time, session number, row above | whose it is: [`Owner`] |
//!
//! Times and numbers are big-endian, so that what is due first comes first. A value has a byte for its
//! form, and is postcard's behind it.

use super::{Dead, Timer};
use crate::names::SessionKey;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Session numbers are below this.
const RESERVED: u64 = 1 << 62;
/// Where it is written what is due when.
pub const DUE: u64 = (1 << 63) - 1;
/// The form of a value. A later one needs a feature level of its own.
const FORM: u8 = 1;

const TIMER: u8 = 1;
const DEAD: u8 = 2;
const RETRIED: u8 = 3;

/// Where the effects of a session are.
pub fn of_session(session_number: u64) -> u64 {
    RESERVED | session_number
}

/// A row of effects that changes, with the message that asks for it or that comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub row: Bytes,
    /// `None`: it goes.
    pub value: Option<Bytes>,
    /// When it was due, if it was there; and when it is now. In milliseconds since the Unix epoch.
    pub was_due: Option<u64>,
    pub due: Option<u64>,
}

/// What a row stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A timer, by name.
    Timer(String),
    /// A timer's message that was given up: its name, and the time that it was for.
    Dead(String, u64),
    Retried(String, u64),
}

/// The session that something due is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner(pub SessionKey);

/// A row of what is due: the time, the session's number and its row. In that order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Due {
    pub due_ms: u64,
    pub session_number: u64,
    pub row: Bytes,
}

impl Name {
    /// The name of the timer that it is of.
    pub fn timer(&self) -> &str {
        match self {
            Self::Timer(name) | Self::Dead(name, _) | Self::Retried(name, _) => name,
        }
    }

    pub fn row(&self) -> Bytes {
        let (kind, name, time) = match self {
            Self::Timer(name) => (TIMER, name, None),
            Self::Dead(name, time) => (DEAD, name, Some(time)),
            Self::Retried(name, time) => (RETRIED, name, Some(time)),
        };
        let mut row = Vec::with_capacity(10 + name.len());
        row.push(kind);
        row.extend_from_slice(name.as_bytes());
        if let Some(time) = time {
            row.push(0);
            row.extend_from_slice(&time.to_be_bytes());
        }
        row.into()
    }

    /// `None`: it is no row that this version knows.
    pub fn of_row(row: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let (kind, rest) = row.split_first()?;
        if *kind == TIMER {
            return text(rest).map(Self::Timer);
        }
        let (name, time) = rest.split_last_chunk::<8>()?;
        let (name, time) = (text(name.strip_suffix(&[0])?)?, u64::from_be_bytes(*time));
        match *kind {
            DEAD => Some(Self::Dead(name, time)),
            RETRIED => Some(Self::Retried(name, time)),
            _ => None,
        }
    }
}

/// What the rows of all timers of a session begin with.
pub const TIMERS: &[u8] = &[TIMER];

impl Due {
    pub fn key(&self) -> Bytes {
        let mut key = Vec::with_capacity(16 + self.row.len());
        key.extend_from_slice(&self.due_ms.to_be_bytes());
        key.extend_from_slice(&self.session_number.to_be_bytes());
        key.extend_from_slice(&self.row);
        key.into()
    }

    /// `None`: it is no such key.
    pub fn of_key(key: &Bytes) -> Option<Self> {
        let (due, rest) = key.split_first_chunk::<8>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            due_ms: u64::from_be_bytes(*due),
            session_number: u64::from_be_bytes(*number),
            row: key.slice(16..),
        })
    }
}

/// A row's value.
pub trait Value: Serialize + DeserializeOwned {
    /// # Errors
    /// It can't be encoded: a bug.
    fn encode(&self) -> Result<Bytes, String> {
        postcard::to_extend(self, vec![FORM]).map(Bytes::from).map_err(|e| e.to_string())
    }

    /// # Errors
    /// It is damaged, or from a later version.
    fn decode(value: &[u8]) -> Result<Self, String> {
        match value.split_first() {
            Some((&FORM, rest)) => postcard::from_bytes(rest).map_err(|e| e.to_string()),
            first => Err(format!("an effect has form {:?}", first.map(|(form, _)| form))),
        }
    }
}

impl Value for Timer {}
impl Value for Dead {}
impl Value for Owner {}

impl Change {
    /// A timer, or one that is tried again, is set; `was_due`: when it was to be tried.
    ///
    /// # Errors
    /// It can't be encoded: a bug.
    pub fn timer(name: &Name, was_due: Option<u64>, timer: &Timer) -> Result<Self, String> {
        let value = Some(timer.encode()?);
        Ok(Self { row: name.row(), value, was_due, due: Some(timer.next_ms) })
    }

    /// A message is given up.
    ///
    /// # Errors
    /// It can't be encoded: a bug.
    pub fn dead(name: &Name, dead: &Dead) -> Result<Self, String> {
        Ok(Self { row: name.row(), value: Some(dead.encode()?), was_due: None, due: None })
    }

    /// A row goes that was due then, if it was at all.
    pub fn gone(row: Bytes, was_due: Option<u64>) -> Self {
        Self { row, value: None, was_due, due: None }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.row.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// The row of what is due that goes with it, and the one that comes.
    pub fn due_rows(&self, session_number: u64) -> (Option<Due>, Option<Due>) {
        let row = |due: Option<u64>| {
            due.map(|due_ms| Due { due_ms, session_number, row: self.row.clone() })
        };
        (row(self.was_due), row(self.due))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::effects::{Firing, When};
    use proptest::prelude::*;

    proptest! {
        /// A row that is read back as another would fire, or drop, what it should not.
        #[test]
        fn rows_are_read_as_they_were_written(name in "[^\\p{Cc}]{1,40}", time: u64, number: u64) {
            let names = [
                Name::Timer(name.clone()),
                Name::Dead(name.clone(), time),
                Name::Retried(name, time),
            ];
            for name in names {
                let row = name.row();
                prop_assert_eq!(Name::of_row(&row), Some(name));
                let due = Due { due_ms: time, session_number: number, row };
                prop_assert_eq!(Due::of_key(&due.key()), Some(due));
            }
        }

        /// What is due first would not come first.
        #[test]
        fn keys_are_in_the_order_of_what_they_say(
            a: (u64, u64, u8), b: (u64, u64, u8),
        ) {
            let due = |(due_ms, session_number, name): (u64, u64, u8)| {
                Due { due_ms, session_number, row: Name::Timer(name.to_string()).row() }
            };
            let (a, b) = (due(a), due(b));
            prop_assert_eq!(a.cmp(&b), a.key().cmp(&b.key()));
        }
    }

    /// Rows are on the disks of those who use this: their form stays.
    #[test]
    fn values_keep_their_form() {
        let timer = Timer {
            when: When::Every { period_ms: 1_000 },
            due_ms: 5_000,
            next_ms: 6_000,
            failures: 2,
            reason: "r".into(),
            content_type: "t".into(),
            body: Bytes::from_static(b"b"),
            set_by: 7,
        };
        let bytes = timer.encode().unwrap();
        assert_eq!(
            &bytes[..],
            [1, 1, 0xe8, 7, 0x88, 0x27, 0xf0, 0x2e, 2, 1, b'r', 1, b't', 1, b'b', 7]
        );
        assert_eq!(Timer::decode(&bytes), Ok(timer));
        let firing = Firing { name: "n".into(), due_ms: 1, missed: 2, attempt: 3 };
        let dead = Dead {
            firing,
            content_type: "t".into(),
            body: Bytes::new(),
            code: "c".into(),
            reason: "r".into(),
            died_ms: 4,
            set_by: 5,
        };
        let bytes = dead.encode().unwrap();
        assert_eq!(&bytes[..], [1, 1, b'n', 1, 2, 3, 1, b't', 0, 1, b'c', 1, b'r', 4, 5]);
        assert_eq!(Dead::decode(&bytes), Ok(dead));
        assert!(Dead::decode(&[2]).is_err() && Dead::decode(&[]).is_err());
    }
}
