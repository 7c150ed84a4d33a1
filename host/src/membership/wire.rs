//! Datagrams of the peer port, and what makes them trustworthy.
//!
//! Every datagram begins with the same unencrypted header, fixed for all future versions:
//!
//! | bytes | what |
//! |---|---|
//! | 5 | `slotd` |
//! | 1 | format: what follows the header |
//! | 1 | kind |
//! | 8 | sender: random, one for each start of a node |
//! | 8 | number of this sender: one more each time, from a random one on |
//!
//! | format | what follows | sent |
//! |---|---|---|
//! | [`FORMAT_TAGGED`] | the body in clear, and an HMAC ([`super::tagged`]) | below feature level 3 |
//! | [`FORMAT_SEALED`] | a salt, and the encrypted body ([`super::sealed`]) | from level 3 on |
//!
//! - *hello*: what the sender expects of its cluster ([`Terms`]), and its identity. Whoever has the
//!   secret can read it, so that differences can be named.
//! - *welcome*, to the address in the hello: who answers, and who else it knows by that name. A
//!   short one goes to the hello's source address if that differs, so that a node that advertises a
//!   wrong address learns of it.
//! - *refusal*, to the hello's source address: the reason. It is never longer than what it answers, and
//!   rate-limited, so it can't be used to flood others. A sender whose hello does not prove that it has
//!   the key always gets the same refusal, in clear and without a tag ([`Shown`]): anything made with a
//!   key could be used to test guessed secrets.
//! - *gossip*: SWIM. Its key is also derived from the terms, so a refused node can't send any.
//!
//! **Both formats.** A node sends what its cluster's level says. One that has not heard yet that the
//! level was raised can open sealed datagrams, and learns it from them. From
//! level 3 on tagged hellos are answered, so that an old node learns why it can't stay; other tagged
//! datagrams are dropped.
//!
//! **Replays.** SWIM itself handles most old datagrams: each names the exact identity that it is
//! for, an identity is abandoned when it was declared dead, and incarnations order suspicion and
//! refutation. But its probes are numbered by one byte, so recorded answers of a dead node could be
//! replayed as answers to current probes. So each sender numbers its datagrams and a receiver
//! accepts each number once, in a window like IPsec's (RFC 4303, 3.4.3): [`Window`]. A restarted
//! node has no windows, but also another identity, for which old gossip is not valid, and other numbers,
//! which welcomes and refusals name. An old hello makes it ask the node that sent it.

use super::{id::Id, refusal::Reason, sealed::Sealed, tagged::Tagged};
use crate::{level::ENCRYPTED, limits, mac::TAG_BYTES};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::HashMap, time::Instant};

/// What follows the header is in clear, and has a tag. To be deleted with the first version that
/// needs no upgrade from one of before level 3.
pub(super) const FORMAT_TAGGED: u8 = 1;
/// What follows the header is encrypted.
pub(super) const FORMAT_SEALED: u8 = 2;
const MAGIC: &[u8; 5] = b"slotd";
pub(super) const START_BYTES: usize = 5 + 1 + 1 + 8 + 8;
/// What a datagram has besides its body, in either format: so a body that fits one fits the other, and
/// an answer is no longer than what it answers.
pub(super) const OVERHEAD_BYTES: usize = START_BYTES + TAG_BYTES;
/// SWIM's budget per datagram.
pub(super) const GOSSIP_BYTES_MAX: usize = limits::PEER_DATAGRAM_BYTES_MAX - OVERHEAD_BYTES;
const REFUSAL_BYTES_MIN: usize = OVERHEAD_BYTES + 8 + 8 + 1;

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

impl Terms {
    /// Whether nodes of this cluster send each other nothing in clear.
    pub(super) fn encrypts(&self) -> bool {
        self.protocol_oldest >= ENCRYPTED
    }
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
    /// Sender and number of the refused datagram, and its format.
    pub to: (u64, u64),
    pub format: u8,
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
        if datagram.len() < OVERHEAD_BYTES || !datagram.starts_with(MAGIC) {
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
    tagged: Tagged,
    sealed: Sealed,
    cluster: String,
    /// What this node sends.
    format: u8,
    pub sender: u64,
    number: u64,
}

/// What was in a datagram.
pub(super) struct Opened<'a> {
    /// It was made with this node's key.
    pub authentic: bool,
    /// Empty if it is encrypted with another key.
    pub body: Cow<'a, [u8]>,
}

impl Sealer {
    /// `salt`: random, one for each start of a node, like `sender`. So is the first number, made of the salt's upper half: an
    /// answer to another process, which names the number of its hello, must not pass for one to this.
    pub fn new(secret: &[u8], terms: &Terms, sender: u64, salt: u128) -> Self {
        Self {
            tagged: Tagged::new(secret, terms),
            sealed: Sealed::new(secret, terms, salt),
            cluster: terms.cluster.clone(),
            format: if terms.encrypts() { FORMAT_SEALED } else { FORMAT_TAGGED },
            sender,
            number: (salt >> 66) as u64,
        }
    }

    /// This node sends nothing in clear any more.
    pub fn seal_from_now_on(&mut self) {
        self.format = FORMAT_SEALED;
    }

    /// A datagram, and its number.
    pub fn seal(&mut self, kind: Kind, body: &[u8]) -> (u64, Vec<u8>) {
        let cluster = self.cluster.clone();
        let datagram = self.seal_as(self.format, kind, &cluster, body);
        (self.number, datagram)
    }

    fn seal_as(&mut self, format: u8, kind: Kind, cluster: &str, body: &[u8]) -> Vec<u8> {
        let start = self.begin(format, kind);
        match format {
            FORMAT_TAGGED => self.tagged.seal(kind, cluster, start, body),
            _ => self.sealed.seal(kind, cluster, start, (self.sender, self.number), body),
        }
    }

    fn begin(&mut self, format: u8, kind: Kind) -> Vec<u8> {
        self.number += 1;
        let mut bytes = Vec::with_capacity(limits::PEER_DATAGRAM_BYTES_MAX);
        bytes.extend(MAGIC);
        bytes.extend([format, kind as u8]);
        bytes.extend(self.sender.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes
    }

    /// Whether a hello was made with this node's secret, for a cluster of that name.
    pub fn knows_secret(&self, cluster: &str, start: Start, hello: &[u8]) -> bool {
        // Who could seal it has the secret; but the key is not the cluster's.
        start.format == FORMAT_TAGGED && self.tagged.knows_secret(cluster, hello)
    }

    /// A refusal that is no longer than `room`; none if that is too little. In the format of what it
    /// answers.
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
        let cluster = match shown {
            Shown::Key => self.cluster.clone(),
            Shown::InCluster(cluster) => cluster.clone(),
            Shown::Nothing => {
                let mut bytes = self.begin(FORMAT_TAGGED, Kind::Refusal);
                bytes.extend(body);
                bytes.extend([0; TAG_BYTES]);
                return Some(bytes);
            }
        };
        let format = if refused.format == FORMAT_SEALED { FORMAT_SEALED } else { FORMAT_TAGGED };
        Some(self.seal_as(format, Kind::Refusal, &cluster, &body))
    }

    /// Whether it was made with this node's key, and the body. Formats that this version does not
    /// know are looked at as [`FORMAT_TAGGED`].
    pub fn open<'a>(&self, kind: Kind, start: Start, datagram: &'a [u8]) -> Option<Opened<'a>> {
        if start.format != FORMAT_SEALED {
            let (authentic, body) = self.tagged.open(kind, datagram)?;
            return Some(Opened { authentic, body: body.into() });
        }
        let opened = self.sealed.open(kind, &self.cluster, start, datagram);
        let authentic = opened.is_some();
        Some(Opened { authentic, body: opened.unwrap_or_default().into() })
    }
}

impl Refused {
    pub fn read(format: u8, body: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let (to, rest) = body.split_at_checked(16)?;
        let (code, text) = rest.split_first()?;
        let text = text.get(..text.len().min(limits::REFUSAL_TEXT_BYTES_MAX))?;
        // It goes into a log line, and may come from anyone.
        let text = String::from_utf8_lossy(text).replace(|c: char| !matches!(c, ' '..='~'), "?");
        let to = (number(&to[..8]), number(&to[8..]));
        Some(Self { to, format, reason: Reason::of(*code)?, text })
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

    fn sealer(secret: &[u8], terms: &Terms) -> Sealer {
        Sealer::new(secret, terms, 7, 11)
    }

    fn start(datagram: &[u8]) -> Start {
        Start::read(datagram).unwrap()
    }

    /// At each level: the format that is sent.
    fn levels() -> [(u8, Terms); 2] {
        let at = |level| Terms { protocol: 3, protocol_oldest: level, ..terms() };
        [(FORMAT_TAGGED, at(2)), (FORMAT_SEALED, at(3))]
    }

    /// A bit that can be changed unnoticed, or a key that fits other terms, lets unauthenticated
    /// peers in.
    #[test]
    fn only_the_same_secret_and_terms_open_what_was_sealed() {
        for (format, terms) in levels() {
            let mut sealer = sealer(b"a secret", &terms);
            let opens = |secret: &[u8], terms: &Terms, kind, bytes: &[u8]| {
                let opened = Sealer::new(secret, terms, 0, 0).open(kind, start(bytes), bytes);
                opened.map(|opened| opened.authentic)
            };
            let (number, bytes) = sealer.seal(Kind::Gossip, b"body");
            let begins = start(&bytes);
            assert_eq!((begins.sender, begins.number, begins.format), (7, number, format));
            assert_eq!(bytes.len(), OVERHEAD_BYTES + 4);
            let opened = sealer.open(Kind::Gossip, begins, &bytes).unwrap();
            assert!(opened.authentic && *opened.body == *b"body");
            assert_eq!(opens(b"a secret", &terms, Kind::Gossip, &bytes), Some(true));
            assert_eq!(opens(b"another", &terms, Kind::Gossip, &bytes), Some(false));
            assert_eq!(opens(b"a secret", &terms, Kind::Hello, &bytes), Some(false));
            for other in [
                Terms { cluster: "d".into(), ..terms.clone() },
                Terms { slot_count: 256, ..terms.clone() },
                Terms { ring_scheme: "s".into(), ..terms.clone() },
            ] {
                assert_eq!(opens(b"a secret", &other, Kind::Gossip, &bytes), Some(false));
            }
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let Some(start) = Start::read(&changed) else { continue };
                let opened = sealer.open(Kind::Gossip, start, &changed);
                assert!(opened.is_none_or(|opened| !opened.authentic));
            }
        }
    }

    /// What one kind says must not pass for another; a hello is for whoever has the secret, also in
    /// a cluster of another name, so that the two can name the difference.
    #[test]
    fn sealed_datagrams_are_of_one_kind_and_cluster() {
        const KINDS: [Kind; 4] = [Kind::Hello, Kind::Welcome, Kind::Refusal, Kind::Gossip];
        let [_, (_, terms)] = levels();
        let mut sealer = sealer(b"a secret", &terms);
        let other = Terms { cluster: "d".into(), ..terms };
        let other = Sealer::new(b"a secret", &other, 0, 0);
        for kind in KINDS {
            let (_, bytes) = sealer.seal(kind, b"body");
            assert!(!bytes.windows(4).any(|four| four == b"body"));
            for opener in KINDS {
                let start = Start { kind: Some(opener), ..start(&bytes) };
                let opened = sealer.open(opener, start, &bytes).unwrap();
                assert_eq!(opened.authentic, kind == opener, "{kind:?} as {opener:?}");
            }
            let opened = other.open(kind, start(&bytes), &bytes).unwrap();
            assert_eq!(opened.authentic, kind == Kind::Hello, "{kind:?}");
        }
    }

    /// A refusal longer than the datagram that it answers could be used for amplification.
    #[test]
    fn refusals_are_never_longer_than_what_they_answer() {
        for (format, terms) in levels() {
            let mut sealer = sealer(b"a secret", &terms);
            let text = "ä".repeat(500);
            let refused = Refused { to: (1, 2), format, reason: Reason::SlotCount, text };
            for room in 0..400 {
                match sealer.refuse(&refused, room, &Shown::Key) {
                    None => assert!(room < REFUSAL_BYTES_MIN),
                    Some(bytes) => {
                        assert!(bytes.len() <= room);
                        let start = start(&bytes);
                        let opened = sealer.open(Kind::Refusal, start, &bytes).unwrap();
                        let read = Refused::read(start.format, &opened.body).unwrap();
                        assert!(opened.authentic && read.to == (1, 2) && start.format == format);
                        assert_eq!(read.reason, Reason::SlotCount);
                    }
                }
            }
        }
    }

    /// Datagrams of the version of 25 November: their form is part of upgrades.
    #[test]
    fn tagged_datagrams_are_what_they_always_were() {
        let (_, bytes) = sealer(b"a secret", &terms()).seal(Kind::Gossip, b"body");
        let expected = "736c6f7464010400000000000000070000000000000001626f6479068edea354e2ff89\
            5eec3947d0d9c1808f2fcdb5df16107f3a1956c275577815";
        assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), expected);
    }

    /// And those of level 3 stay as they are from now on. Computed apart from this code, too.
    #[test]
    fn sealed_datagrams_are_what_they_always_were() {
        let [_, (_, terms)] = levels();
        let (_, bytes) = sealer(b"a secret", &terms).seal(Kind::Gossip, b"body");
        let expected = "736c6f7464020400000000000000070000000000000001000000000000000000000000\
            0000000b0f3b040114d8c9080f9439ac9e7cfa304ab13e15";
        assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), expected);
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
            prop_assert!(Start::read(&bytes).is_none());
            let mut started = b"slotd".to_vec();
            started.extend(&bytes);
            if let Some(start) = Start::read(&started) {
                let sealer = sealer(b"a secret", &terms());
                for format in [start.format, FORMAT_TAGGED, FORMAT_SEALED] {
                    let opened = sealer.open(Kind::Hello, Start { format, ..start }, &started);
                    prop_assert!(opened.is_none_or(|opened| !opened.authentic));
                }
            }
            let _ = (Refused::read(1, &bytes), decode::<Hello>(&bytes), decode::<Welcome>(&bytes));
        }
    }
}
