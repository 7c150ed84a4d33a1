//! Datagrams of the peer port, and what makes them trustworthy.
//!
//! Every datagram has the same unencrypted header, fixed for all future versions, then a body, then
//! an HMAC-SHA256 (RFC 2104) over both:
//!
//! | bytes | what |
//! |---|---|
//! | 5 | `slotd` |
//! | 1 | format, [`FORMAT`]: what the bodies look like |
//! | 1 | kind |
//! | 8 | sender: random, one for each start of a node |
//! | 8 | number: 1, 2, 3, ... of this sender |
//!
//! - *hello*: what the sender expects of its cluster ([`Terms`]), in clear so that differences can
//!   be named, and its identity. Its key is derived from secret and cluster name.
//! - *welcome*, to the address in the hello: who answers, and who else it knows by that name. A
//!   short one goes to the hello's source address if that differs, so that a node that advertises a
//!   wrong address learns of it.
//! - *refusal*, to the hello's source address: the reason. Its layout is fixed for all formats. It
//!   is never longer than what it answers, and rate-limited, so it can't be used to flood others. A
//!   sender whose hello does not prove the key always gets the same refusal, without a tag
//!   ([`Shown`]): anything made with a key could be used to test guessed secrets.
//! - *gossip*: SWIM. Its key is also derived from the terms, so a refused node can't send any.
//!
//! **Replays.** SWIM itself handles most old datagrams: each names the exact identity that it is
//! for, an identity is abandoned when it was declared dead, and incarnations order suspicion and
//! refutation. But its probes are numbered by one byte, so recorded answers of a dead node could be
//! replayed as answers to current probes. So each sender numbers its datagrams and a receiver
//! accepts each number once, in a window like IPsec's (RFC 4303, 3.4.3): [`Window`]. A restarted
//! node has no windows, but also another identity, for which old datagrams are not valid.

use super::{id::Id, refusal::Reason};
use crate::{
    limits,
    mac::{Mac, TAG_BYTES},
    names::is_cluster_name,
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, time::Instant};
use subtle::ConstantTimeEq;

/// The format of this version's bodies.
pub(super) const FORMAT: u8 = 1;
const MAGIC: &[u8; 5] = b"slotd";
pub(super) const START_BYTES: usize = 5 + 1 + 1 + 8 + 8;
/// SWIM's budget per datagram.
pub(super) const GOSSIP_BYTES_MAX: usize =
    limits::PEER_DATAGRAM_BYTES_MAX - START_BYTES - TAG_BYTES;
const REFUSAL_BYTES_MIN: usize = START_BYTES + 8 + 8 + 1 + TAG_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Hello = 1,
    Welcome = 2,
    Refusal = 3,
    Gossip = 4,
}

/// What nodes of one cluster must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub cluster: String,
    /// The newest protocol version that the node speaks, and the oldest.
    pub protocol: u16,
    pub protocol_oldest: u16,
    pub ring_scheme: String,
    pub slot_count: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub terms: Terms,
    pub id: Id,
    /// It keeps its name: it is in a cluster, or alone, or its rival did not answer. Otherwise it
    /// is joining.
    pub settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// The number of the hello that this answers; 0 if none.
    pub to: u64,
    pub id: Id,
    /// Another process with the name of the welcomed node, and whether it is believed to be alive.
    pub rival: Option<(Id, bool)>,
    /// Sent to the hello's source address, which is not the advertised one. It only confirms that
    /// the hello arrived; another one went to the advertised address.
    pub astray: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Sender and number of the refused datagram.
    pub to: (u64, u64),
    pub reason: Reason,
    /// The refusing side's own values, where they are not secret.
    pub text: String,
}

/// What a datagram proves about its sender, which decides how much it may be answered.
pub(super) enum Shown {
    /// It has this cluster's key.
    Key,
    /// It has the secret, and its key is that of a cluster of this name.
    InCluster(String),
    /// Anyone could have sent it.
    Nothing,
}

/// The unencrypted header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub format: u8,
    pub kind: Option<Kind>,
    pub sender: u64,
    pub number: u64,
}

impl Start {
    pub fn read(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < START_BYTES + TAG_BYTES || !datagram.starts_with(MAGIC) {
            return None;
        }
        let number = |at: usize| datagram[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let kind = match datagram[6] {
            1 => Some(Kind::Hello),
            2 => Some(Kind::Welcome),
            3 => Some(Kind::Refusal),
            4 => Some(Kind::Gossip),
            _ => None,
        };
        Some(Self { format: datagram[5], kind, sender: number(7), number: number(15) })
    }
}

/// Creates and checks datagrams. Owns the numbers of this start of the node.
pub(super) struct Sealer {
    secret: Mac,
    join: Mac,
    gossip: Mac,
    pub sender: u64,
    number: u64,
}

impl Sealer {
    pub fn new(secret: &[u8], terms: &Terms, sender: u64) -> Self {
        let secret = Mac::new(secret);
        let cluster = terms.cluster.as_bytes();
        let (scheme, slots) = (terms.ring_scheme.as_bytes(), terms.slot_count.to_be_bytes());
        Self {
            join: join_key(&secret, &terms.cluster),
            gossip: key(&secret, &[b"slotd gossip", cluster, scheme, &slots]),
            secret,
            sender,
            number: 0,
        }
    }

    fn mac(&self, kind: Kind) -> &Mac {
        if kind == Kind::Gossip { &self.gossip } else { &self.join }
    }

    /// A datagram, and its number.
    pub fn seal(&mut self, kind: Kind, body: &[u8]) -> (u64, Vec<u8>) {
        let mut bytes = self.begin(kind, body);
        bytes.extend(self.mac(kind).tag(&bytes));
        (self.number, bytes)
    }

    /// A datagram without its tag.
    fn begin(&mut self, kind: Kind, body: &[u8]) -> Vec<u8> {
        self.number += 1;
        let mut bytes = Vec::with_capacity(START_BYTES + body.len() + TAG_BYTES);
        bytes.extend(MAGIC);
        bytes.extend([FORMAT, kind as u8]);
        bytes.extend(self.sender.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Whether a hello was made with this node's secret, for a cluster of that name.
    pub fn knows_secret(&self, cluster: &str, hello: &[u8]) -> bool {
        is_cluster_name(cluster)
            && opened(&join_key(&self.secret, cluster), hello).is_some_and(|(known, _)| known)
    }

    /// A refusal that is no longer than `room`; none if that is too little.
    pub fn refuse(&mut self, refused: &Refused, room: usize, shown: &Shown) -> Option<Vec<u8>> {
        let room = room.checked_sub(REFUSAL_BYTES_MIN)?.min(limits::REFUSAL_TEXT_BYTES_MAX);
        let text = refused.text.get(..refused.text.floor_char_boundary(room))?;
        let (reason, text) = match shown {
            Shown::Nothing => (Reason::Secret, ""),
            Shown::Key | Shown::InCluster(_) => (refused.reason, text),
        };
        let mut body = Vec::new();
        body.extend(refused.to.0.to_be_bytes());
        body.extend(refused.to.1.to_be_bytes());
        body.push(reason.code());
        body.extend(text.as_bytes());
        let mut bytes = self.begin(Kind::Refusal, &body);
        let tag = match shown {
            Shown::Key => self.join.tag(&bytes),
            Shown::InCluster(cluster) => join_key(&self.secret, cluster).tag(&bytes),
            Shown::Nothing => [0; TAG_BYTES],
        };
        bytes.extend(tag);
        Some(bytes)
    }

    /// Whether it was made with this node's key, and the body.
    pub fn open<'a>(&self, kind: Kind, datagram: &'a [u8]) -> Option<(bool, &'a [u8])> {
        opened(self.mac(kind), datagram)
    }
}

fn opened<'a>(key: &Mac, datagram: &'a [u8]) -> Option<(bool, &'a [u8])> {
    let (signed, tag) = datagram.split_at_checked(datagram.len().checked_sub(TAG_BYTES)?)?;
    Some((key.tag(signed).ct_eq(tag).into(), signed.get(START_BYTES..)?))
}

/// A key for one purpose.
fn key(secret: &Mac, purpose: &[&[u8]]) -> Mac {
    let mut text = Vec::new();
    for part in purpose {
        text.extend((part.len() as u32).to_be_bytes());
        text.extend(*part);
    }
    Mac::new(&secret.tag(&text))
}

fn join_key(secret: &Mac, cluster: &str) -> Mac {
    key(secret, &[b"slotd join", cluster.as_bytes()])
}

impl Refused {
    pub fn read(body: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let (to, rest) = body.split_at_checked(16)?;
        let (code, text) = rest.split_first()?;
        let text = text.get(..text.len().min(limits::REFUSAL_TEXT_BYTES_MAX))?;
        // It goes into a log line, and may come from anyone.
        let text = String::from_utf8_lossy(text).replace(|c: char| !matches!(c, ' '..='~'), "?");
        Some(Self { to: (number(&to[..8]), number(&to[8..])), reason: Reason::of(*code)?, text })
    }
}

/// Decodes a complete body.
pub(super) fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// Accepts each number of one sender once. Numbers that are 128 or more below the highest are old.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    highest: u64,
    /// Bit n: `highest - n` was received.
    seen: u128,
}

impl Window {
    fn take(&mut self, number: u64) -> bool {
        if number > self.highest {
            let ahead = number - self.highest;
            self.seen = if ahead >= 128 { 0 } else { self.seen << ahead };
            self.seen |= 1;
            self.highest = number;
            return true;
        }
        let behind = self.highest - number;
        if behind >= 128 || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

/// The windows of all recent senders.
#[derive(Default)]
pub(super) struct Windows {
    by_sender: HashMap<u64, (Window, Instant)>,
}

impl Windows {
    /// Whether this (authentic) datagram is new.
    pub fn take(&mut self, sender: u64, number: u64, now: Instant) -> bool {
        if self.by_sender.len() >= limits::PEER_WINDOWS_MAX && !self.by_sender.contains_key(&sender)
        {
            // Only holders of the secret get here: this many node starts reach far into the past.
            let mut heard: Vec<_> = self.by_sender.iter().map(|(s, (_, at))| (*at, *s)).collect();
            heard.sort_unstable();
            for (_, sender) in heard.into_iter().take(limits::PEER_WINDOWS_MAX / 2) {
                self.by_sender.remove(&sender);
            }
        }
        let (window, heard) = self.by_sender.entry(sender).or_insert((Window::default(), now));
        *heard = now;
        window.take(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn terms() -> Terms {
        Terms {
            cluster: "c".into(),
            protocol: 1,
            protocol_oldest: 1,
            ring_scheme: "r".into(),
            slot_count: 512,
        }
    }

    /// A bit that can be changed unnoticed, or a key that fits other terms, lets unauthenticated
    /// peers in.
    #[test]
    fn only_the_same_secret_and_terms_open_what_was_sealed() {
        let mut sealer = Sealer::new(b"a secret", &terms(), 7);
        let opens = |secret: &[u8], terms: &Terms, kind, bytes: &[u8]| {
            Sealer::new(secret, terms, 0).open(kind, bytes).map(|(ok, _)| ok)
        };
        let (number, bytes) = sealer.seal(Kind::Gossip, b"body");
        let start = Start::read(&bytes).unwrap();
        assert_eq!((start.sender, start.number, start.format), (7, number, FORMAT));
        assert_eq!(sealer.open(Kind::Gossip, &bytes), Some((true, &b"body"[..])));
        assert_eq!(opens(b"a secret", &terms(), Kind::Gossip, &bytes), Some(true));
        assert_eq!(opens(b"another", &terms(), Kind::Gossip, &bytes), Some(false));
        assert_eq!(opens(b"a secret", &terms(), Kind::Hello, &bytes), Some(false));
        for other in [
            Terms { cluster: "d".into(), ..terms() },
            Terms { slot_count: 256, ..terms() },
            Terms { ring_scheme: "s".into(), ..terms() },
        ] {
            assert_eq!(opens(b"a secret", &other, Kind::Gossip, &bytes), Some(false));
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(Kind::Gossip, &changed).is_none_or(|(ok, _)| !ok));
        }
    }

    /// A refusal longer than the datagram that it answers could be used for amplification.
    #[test]
    fn refusals_are_never_longer_than_what_they_answer() {
        let mut sealer = Sealer::new(b"a secret", &terms(), 7);
        let text = "ä".repeat(500);
        let refused = Refused { to: (1, 2), reason: Reason::SlotCount, text };
        for room in 0..400 {
            match sealer.refuse(&refused, room, &Shown::Key) {
                None => assert!(room < REFUSAL_BYTES_MIN),
                Some(bytes) => {
                    assert!(bytes.len() <= room);
                    let (authentic, body) = sealer.open(Kind::Refusal, &bytes).unwrap();
                    let read = Refused::read(body).unwrap();
                    assert!(authentic && read.to == (1, 2) && read.reason == Reason::SlotCount);
                }
            }
        }
    }

    proptest! {
        /// A number that is accepted twice is a successful replay; one near the highest that is
        /// refused is a datagram lost for nothing.
        #[test]
        fn each_number_passes_once(numbers in prop::collection::vec(1u64..400, 0..600)) {
            let mut window = Window::default();
            let (mut seen, mut highest) = (HashSet::new(), 0);
            for number in numbers {
                let fresh = number > highest || highest - number < 128;
                prop_assert_eq!(window.take(number), fresh && seen.insert(number));
                highest = highest.max(number);
            }
        }

        /// Garbage must end in `None`, never in a panic.
        #[test]
        fn garbage_is_read_as_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let sealer = Sealer::new(b"a secret", &terms(), 7);
            prop_assert!(Start::read(&bytes).is_none());
            let mut started = b"slotd".to_vec();
            started.extend(&bytes);
            let _ = Start::read(&started);
            prop_assert!(sealer.open(Kind::Hello, &started).is_none_or(|(ok, _)| !ok));
            let _ = (Refused::read(&bytes), decode::<Hello>(&bytes), decode::<Welcome>(&bytes));
        }
    }
}
