//! The log's record: what one group commit makes durable, all slots' batches of it.
//!
//! `format u8 | sequence floor u64 | salt u64 | number u64 | chain u64 | count u32`, then for each
//! batch `slot u16 | term u64 | length u32 | checksum u64 | bytes`. Little-endian. The chain is a
//! hash of the chain before, the number and every checksum: a lost or foreign record breaks it.

use crate::{log::Term, names::SlotId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub const RECORD_FORMAT: u8 = 1;
const HEAD_BYTES: usize = 37;
const ENTRY_HEAD_BYTES: usize = 22;

/// Writes one record into a buffer that is used again and again.
pub struct Writer {
    buffer: Vec<u8>,
    chain: u64,
    number: u64,
    count: u32,
}

impl Writer {
    pub fn new() -> Self {
        Self { buffer: Vec::new(), chain: 0, number: 0, count: 0 }
    }

    /// Starts record `number`, which follows one whose chain is `chain`.
    pub fn start(&mut self, number: u64, chain: u64) {
        self.buffer.clear();
        self.buffer.resize(HEAD_BYTES, 0);
        (self.chain, self.number, self.count) = (next_chain(chain, number), number, 0);
    }

    pub fn push(&mut self, slot: SlotId, term: Term, batch: &[u8]) {
        let checksum = entry_checksum(slot, term, batch);
        self.buffer.extend_from_slice(&slot.to_le_bytes());
        self.buffer.extend_from_slice(&term.to_le_bytes());
        // A batch is bounded by `LOG_BATCH_BYTES_MAX`.
        self.buffer.extend_from_slice(&(batch.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        self.buffer.extend_from_slice(batch);
        self.chain = next_chain(self.chain, checksum);
        self.count += 1;
    }

    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The finished record and its chain.
    pub fn finish(&mut self, seqno_floor: u64, salt: u64) -> (&[u8], u64) {
        let head = &mut self.buffer[..HEAD_BYTES];
        head[0] = RECORD_FORMAT;
        head[1..9].copy_from_slice(&seqno_floor.to_le_bytes());
        head[9..17].copy_from_slice(&salt.to_le_bytes());
        head[17..25].copy_from_slice(&self.number.to_le_bytes());
        head[25..33].copy_from_slice(&self.chain.to_le_bytes());
        head[33..37].copy_from_slice(&self.count.to_le_bytes());
        (&self.buffer, self.chain)
    }
}

/// One slot's batch in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub slot: SlotId,
    pub term: Term,
    pub batch: &'a [u8],
}

/// A record that was read back, with every checksum checked.
#[derive(Debug)]
pub struct Record<'a> {
    pub number: u64,
    pub chain: u64,
    pub entries: Vec<Entry<'a>>,
}

/// # Errors
/// What is wrong with the bytes, in words.
pub fn read<'a>(key: &[u8], bytes: &'a [u8], salt: u64) -> Result<Record<'a>, String> {
    let short = || "a log record is cut short".to_owned();
    let head = bytes.get(..HEAD_BYTES).ok_or_else(short)?;
    if head[0] != RECORD_FORMAT {
        return Err(format!("a log record has format {}", head[0]));
    }
    let number = u64_at(head, 17);
    if u64_at(head, 9) != salt || key != number.to_be_bytes() {
        return Err(format!("log record {number} is not this log's"));
    }
    let chain = u64_at(head, 25);
    let count = u32::from_le_bytes([head[33], head[34], head[35], head[36]]);
    let mut rest = &bytes[HEAD_BYTES..];
    let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / ENTRY_HEAD_BYTES));
    for _ in 0..count {
        let (head, tail) = rest.split_at_checked(ENTRY_HEAD_BYTES).ok_or_else(short)?;
        let slot = u16::from_le_bytes([head[0], head[1]]);
        let term = u64_at(head, 2);
        let len = u32::from_le_bytes([head[10], head[11], head[12], head[13]]) as usize;
        let (batch, tail) = tail.split_at_checked(len).ok_or_else(short)?;
        if u64_at(head, 14) != entry_checksum(slot, term, batch) {
            return Err(format!("log record {number}: slot {slot}'s checksum is wrong"));
        }
        entries.push(Entry { slot, term, batch });
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(format!("log record {number} has bytes left over"));
    }
    Ok(Record { number, chain, entries })
}

/// The chain that a record must have, after one whose chain is `before`.
pub fn expected_chain(before: u64, record: &Record<'_>) -> u64 {
    record.entries.iter().fold(next_chain(before, record.number), |chain, entry| {
        next_chain(chain, entry_checksum(entry.slot, entry.term, entry.batch))
    })
}

/// The number of the record, when it is one of this log's.
pub fn number_of(key: &[u8], bytes: &[u8], salt: u64) -> Option<u64> {
    let head = bytes.get(..HEAD_BYTES)?;
    let number = u64_at(head, 17);
    (u64_at(head, 9) == salt && key == number.to_be_bytes()).then_some(number)
}

fn next_chain(chain: u64, value: u64) -> u64 {
    xxh3_64_with_seed(&value.to_le_bytes(), chain)
}

fn entry_checksum(slot: SlotId, term: Term, batch: &[u8]) -> u64 {
    xxh3_64_with_seed(batch, (u64::from(slot) << 48) ^ term)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A changed byte that passes for a batch would be replayed as state.
    #[test]
    fn every_changed_byte_of_a_record_is_seen() {
        let mut writer = Writer::new();
        writer.start(7, 99);
        writer.push(3, 5, b"hello");
        writer.push(4, 6, b"");
        let (bytes, chain) = writer.finish(1, 42);
        let key = 7u64.to_be_bytes();
        let record = read(&key, bytes, 42).unwrap();
        assert_eq!(record.chain, chain);
        assert_eq!(expected_chain(99, &record), chain);
        assert_eq!(record.entries[0], Entry { slot: 3, term: 5, batch: b"hello" });
        let bytes = bytes.to_vec();
        for i in 0..bytes.len() {
            // The sequence floor is the journal check's concern.
            if (1..9).contains(&i) {
                continue;
            }
            let mut changed = bytes.clone();
            changed[i] ^= 0x40;
            let seen = match read(&key, &changed, 42) {
                Err(_) => true,
                Ok(record) => expected_chain(99, &record) != record.chain,
            };
            assert!(seen, "byte {i}");
        }
    }
}
