//! What the objects of a snapshot hold.
//!
//! Every object begins with a head of 12 bytes: magic, format version, kind and slot. The XXH3-128
//! of the whole object is part of its name and of the manifest that needs it, with its length: so
//! a damaged, truncated or exchanged object does not pass. The rest is postcard.

use super::SnapshotError;
use crate::{
    log::{
        Position, Term,
        record::{Delete, Entry, Head},
    },
    names::{SessionKey, SlotId},
    state::{
        Remembered, SlotMeta,
        changes::{Changes, SessionChanges, UsedKey},
    },
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8; 8] = b"slotdsnp";
/// The version of the encoding. Another one is refused, not guessed.
pub const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The mutable rows of a slot, or a part of them.
    Base,
    /// What changed between two positions, history included.
    Delta,
    /// History, written once.
    History,
    Manifest,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Kind::Base => 'b',
            Kind::Delta => 'd',
            Kind::History => 'h',
            Kind::Manifest => 'm',
        }
    }
    fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// Changes as an object holds them: sorted, so that the same changes are the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    heads: Vec<(SessionKey, Option<Head>)>,
    sessions: Vec<SessionPiece>,
    deleted: Vec<Delete>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SessionPiece {
    number: u64,
    state: Vec<(Bytes, Option<Bytes>)>,
    history: Vec<Arc<Entry>>,
    remembered: Vec<(String, Remembered)>,
}

impl From<Changes> for Piece {
    fn from(changes: Changes) -> Self {
        let mut heads: Vec<_> = changes.heads.into_iter().collect();
        heads.sort_by(|a, b| a.0.cmp(&b.0));
        let sessions = changes.sessions.into_iter().map(|(number, session)| SessionPiece {
            number,
            state: session.state.into_iter().collect(),
            history: session.history,
            remembered: session.remembered.into_iter().map(|(id, of)| (id.into(), of)).collect(),
        });
        let mut sessions: Vec<_> = sessions.collect();
        sessions.sort_by_key(|session| session.number);
        Self { heads, sessions, deleted: changes.deleted }
    }
}

impl From<Piece> for Changes {
    fn from(piece: Piece) -> Self {
        let sessions = piece.sessions.into_iter().map(|session| {
            let remembered = session.remembered.into_iter();
            let changes = SessionChanges {
                state: session.state.into_iter().collect(),
                history: session.history,
                remembered: remembered.map(|(id, of)| (UsedKey::Text(id), of)).collect(),
            };
            (session.number, changes)
        });
        Self {
            sessions: sessions.collect(),
            deleted: piece.deleted,
            heads: piece.heads.into_iter().collect(),
        }
    }
}

/// What a manifest knows of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub kind: Kind,
    /// The term of the owner that wrote it.
    pub term: Term,
    /// XXH3-128 of the whole object.
    pub digest: u128,
    pub bytes: u64,
    /// Entries of history in it.
    pub entries: u64,
}

impl ObjectRef {
    /// `<kind>-<term>-<digest>`: by content, and distinguished by the term that wrote it.
    pub fn name(&self) -> String {
        format!("{}-{:020}-{:032x}", self.kind.letter(), self.term, self.digest)
    }
}

/// The term in an object's name; `None`: not a name that a snapshot gives.
pub fn term_of(name: &str) -> Option<Term> {
    let mut parts = name.split('-');
    let (kind, term, digest) = (parts.next()?, parts.next()?, parts.next()?);
    let known = parts.next().is_none() && matches!(kind, "b" | "d" | "h") && digest.len() == 32;
    known.then(|| term.parse().ok()).flatten()
}

/// The term in an object's or a manifest's name; `None`: not a name that a snapshot gives.
pub fn written_by(name: &str) -> Option<Term> {
    let Some(rest) = manifest_position(name).and_then(|_| name.strip_prefix("m-")) else {
        return term_of(name);
    };
    rest.split('-').nth(1)?.parse().ok()
}

/// All that one snapshot of a slot consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub slot: SlotId,
    /// The term of the owner that took it.
    pub term: Term,
    /// As the state store had it; `meta.applied` is the snapshot's position.
    pub meta: SlotMeta,
    /// Mutable rows, in parts that do not overlap.
    pub base: Vec<ObjectRef>,
    /// What changed since the base, in the order in which it is applied.
    pub deltas: Vec<ObjectRef>,
    /// History up to the base's position. May have entries of sessions that are gone.
    pub history: Vec<ObjectRef>,
    /// Deletes since live entries were last counted.
    pub deletes: u64,
}

impl Manifest {
    pub fn position(&self) -> Position {
        self.meta.applied
    }
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.base.iter().chain(&self.deltas).chain(&self.history)
    }
    /// Entries of history that it holds, those of deleted sessions too.
    pub fn entries(&self) -> u64 {
        self.history.iter().chain(&self.deltas).map(|object| object.entries).sum()
    }
    pub fn encode(&self) -> Result<(String, Bytes), SnapshotError> {
        let bytes = frame(Kind::Manifest, self.slot, self)?;
        Ok((manifest_name(self.position(), self.term, xxh3_128(&bytes)), bytes))
    }
}

/// `m-<position>-<term>-<digest>`: the greatest name is the newest.
fn manifest_name(position: Position, term: Term, digest: u128) -> String {
    format!("m-{position:020}-{term:020}-{digest:032x}")
}

/// The position in a manifest's name; `None`: it is not one.
pub fn manifest_position(name: &str) -> Option<Position> {
    let (position, rest) = name.strip_prefix("m-")?.split_once('-')?;
    let (term, digest) = rest.split_once('-')?;
    let whole = position.len() == 20 && term.len() == 20 && digest.len() == 32;
    whole.then(|| position.parse().ok()).flatten()
}

/// Encodes an object of `slot`.
pub fn object(
    kind: Kind,
    slot: SlotId,
    term: Term,
    changes: Changes,
) -> Result<(ObjectRef, Bytes), SnapshotError> {
    let entries = changes.sessions.values().map(|session| session.history.len() as u64).sum();
    let bytes = frame(kind, slot, &Piece::from(changes))?;
    let digest = xxh3_128(&bytes);
    Ok((ObjectRef { kind, term, digest, bytes: bytes.len() as u64, entries }, bytes))
}

fn frame<T: Serialize>(kind: Kind, slot: SlotId, body: &T) -> Result<Bytes, SnapshotError> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[FORMAT, kind.number()]);
    out.extend_from_slice(&slot.to_le_bytes());
    let encoded = postcard::to_extend(body, out);
    encoded.map(Bytes::from).map_err(|e| SnapshotError::Refused(format!("cannot encode: {e}")))
}

/// Decodes what was read under `reference`'s name.
///
/// # Errors
/// Why the bytes are not that object.
pub fn read_object(slot: SlotId, reference: &ObjectRef, bytes: &[u8]) -> Result<Changes, String> {
    if bytes.len() as u64 != reference.bytes {
        return Err(format!("it has {} bytes, not {}", bytes.len(), reference.bytes));
    }
    if xxh3_128(bytes) != reference.digest {
        return Err("its checksum is wrong".into());
    }
    read::<Piece>(reference.kind, slot, bytes).map(Changes::from)
}

/// Decodes the manifest that was read under `name`.
///
/// # Errors
/// Why the bytes are not that manifest.
pub fn read_manifest(slot: SlotId, name: &str, bytes: &[u8]) -> Result<Manifest, String> {
    let manifest: Manifest = {
        let digest = format!("{:032x}", xxh3_128(bytes));
        if !name.ends_with(&digest) {
            return Err("its checksum is wrong".into());
        }
        read(Kind::Manifest, slot, bytes)?
    };
    let same = manifest.slot == slot && manifest_position(name) == Some(manifest.position());
    if same { Ok(manifest) } else { Err("it is of another slot or position".into()) }
}

fn read<T: DeserializeOwned>(kind: Kind, slot: SlotId, bytes: &[u8]) -> Result<T, String> {
    let Some((head, body)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err("it ends early".into());
    };
    if !head.starts_with(MAGIC) {
        return Err("it is not part of a snapshot".into());
    }
    if head[8] != FORMAT {
        return Err(format!("it has format {}, this slotd reads {FORMAT}", head[8]));
    }
    if head[9] != kind.number() {
        return Err("it is an object of another kind".into());
    }
    let of = u16::from_le_bytes([head[10], head[11]]);
    if of != slot {
        return Err(format!("it is of slot {of}"));
    }
    postcard::from_bytes(body).map_err(|e| format!("it does not decode: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A name that does not sort like its position would make an old snapshot the newest.
    #[test]
    fn names_sort_by_position_and_tell_what_they_are() {
        let old = manifest_name(9, 7, 1);
        let new = manifest_name(10, 6, 2);
        assert!(new > old);
        assert_eq!(manifest_position(&new), Some(10));
        let object = ObjectRef { kind: Kind::Delta, term: 12, digest: 5, bytes: 1, entries: 0 };
        assert_eq!(term_of(&object.name()), Some(12));
        assert_eq!(manifest_position(&object.name()), None);
        assert_eq!([&new, &object.name()].map(|name| written_by(name)), [Some(6), Some(12)]);
        for name in ["", "m-1", "x-1-2", "b-1", &new, "d-1-00-3"] {
            assert_eq!(term_of(name), None, "{name}");
        }
    }

    /// Every byte of an object counts: a flip or a cut that passes would be silently wrong state.
    #[test]
    fn any_damage_of_an_object_is_found() {
        let mut changes = Changes::default();
        changes.heads.insert(SessionKey::parse("chat", "a").unwrap(), Some(Head::default()));
        let (reference, bytes) = object(Kind::Base, 3, 1, changes).unwrap();
        assert!(read_object(3, &reference, &bytes).is_ok());
        assert!(read_object(4, &reference, &bytes).is_err());
        let other = ObjectRef { kind: Kind::Delta, ..reference.clone() };
        assert!(read_object(3, &other, &bytes).is_err());
        for at in 0..bytes.len() {
            assert!(read_object(3, &reference, &bytes[..at]).is_err());
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(read_object(3, &reference, &flipped).is_err());
        }
    }
}
