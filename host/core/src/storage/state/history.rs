//! A session's history on the disk: pieces of one or more entries, by the sequence number of their
//! last one.
//!
//! A large piece lies apart, in `bodies`, under a number that only rises, and its row in `history`
//! has the number. Tables of `bodies` hold what came one after the other, so they do not overlap and
//! are never merged while nothing is removed; in `history` every merge would write each body again.
//! A directory from before this (format 1) keeps all in `history`.

use super::{Writer, decode, encode, entry_bytes, keys};
use crate::{
    database::{
        db::Db,
        engine::OnDamage,
        rows::{Snapshot, WriteBatch},
    },
    error::StateError,
    limits,
    log::record::Entry,
    names::SlotId,
};
use std::sync::Arc;

/// The first byte of a row whose piece lies apart: the piece's number and length follow.
const APART: u8 = 2;

/// Where a piece lies.
struct Place {
    key: [u8; 8],
    bytes: u32,
}

impl Place {
    fn encode(&self) -> [u8; 13] {
        let mut row = [APART; 13];
        row[1..9].copy_from_slice(&self.key);
        row[9..].copy_from_slice(&self.bytes.to_le_bytes());
        row
    }

    /// `None`: the row holds the piece itself, or nothing that can be read.
    fn decode(row: &[u8]) -> Option<Self> {
        let row = row.strip_prefix(&[APART])?;
        let (key, bytes) = row.split_first_chunk::<8>()?;
        Some(Self { key: *key, bytes: u32::from_le_bytes(bytes.try_into().ok()?) })
    }
}

/// Writes entries in pieces: whole pieces are read back, so they are bounded. `buffer` is written
/// over with each. Gives the bytes of the rows.
pub(super) fn write(
    to: &mut Writer<'_>,
    slot: SlotId,
    session: u64,
    entries: &[Arc<Entry>],
    buffer: &mut Vec<u8>,
) -> Result<u64, StateError> {
    let (mut rest, mut written) = (entries, 0);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(limits::HISTORY_CHUNK_ENTRIES_MAX).take_while(|entry| {
            let first = bytes == 0;
            bytes += entry_bytes(entry).max(1);
            first || bytes <= limits::HISTORY_CHUNK_BYTES_MAX
        });
        let (piece, tail) = rest.split_at(fits.count());
        if let Some(last) = piece.last() {
            let row = keys::history(slot, session, last.seq);
            encode(piece, buffer)?;
            written += (row.len() + write_piece(to, &row, buffer)?) as u64;
        }
        rest = tail;
    }
    Ok(written)
}

/// Gives what [`bytes`] says of the row.
fn write_piece(to: &mut Writer<'_>, row: &[u8], piece: &[u8]) -> Result<usize, StateError> {
    let db = to.db;
    let length = u32::try_from(piece.len()).ok();
    match (&db.bodies, length) {
        (Some(bodies), Some(length)) if piece.len() >= limits::HISTORY_APART_BYTES_MIN => {
            let place = Place { key: to.next_body(bodies).to_be_bytes(), bytes: length };
            // Both or none of them: the number stands nowhere else.
            to.insert_both(
                (&bodies.keyspace, &place.key, piece),
                (&db.history, row, &place.encode()),
            )?;
            Ok(bytes(&place.encode()))
        }
        _ => to.insert(&db.history, row, piece).map(|()| piece.len()),
    }
}

/// The entries of a row of `history`, as `snapshot` has them: the same that the row was read from,
/// since what is deleted may go away between two reads.
pub(super) fn read(
    on: OnDamage<'_>,
    db: &Db,
    snapshot: &Snapshot,
    row: &[u8],
) -> Result<Vec<Arc<Entry>>, StateError> {
    let Some(place) = Place::decode(row) else {
        return decode(row).map_err(|why| on.value_error(&db.history, why));
    };
    let Some(bodies) = &db.bodies else {
        let why = "a row names a body, and the directory has none apart";
        return Err(on.value_error(&db.history, why));
    };
    let keyspace = &bodies.keyspace;
    let piece = snapshot.get(keyspace, &place.key).map_err(|e| on.read_error(keyspace, &e))?;
    let piece = piece.filter(|piece| piece.len() == place.bytes as usize).ok_or_else(|| {
        let number = u64::from_be_bytes(place.key);
        on.value_error(keyspace, format!("body {number}, which a row names, is not there"))
    })?;
    decode(&piece).map_err(|why| on.value_error(keyspace, why))
}

/// Bytes that a row of `history` stands for.
pub(super) fn bytes(row: &[u8]) -> usize {
    row.len() + Place::decode(row).map_or(0, |place| place.bytes as usize)
}

/// Removes what lies apart of a row of `history` that is removed with it.
pub(super) fn remove_apart(db: &Db, batch: &mut WriteBatch, row: &[u8]) {
    if let (Some(bodies), Some(place)) = (&db.bodies, Place::decode(row)) {
        batch.remove(&bodies.keyspace, &place.key);
    }
}
