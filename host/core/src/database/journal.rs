//! Checks fjall's journals before fjall opens them.
//!
//! fjall ends a journal at the first entry that does not parse and cuts the rest off, wherever
//! that is: a flipped byte in the middle would silently lose every acknowledged write behind it.
//! Its checksums do not cover a batch's sequence number either. So the same bytes are read here
//! first, and only what a crash can leave, an unfinished batch at the very end that was never
//! acknowledged, is accepted (and cut off). Everything else is refused with the file's name.
//!
//! The format (fjall 3): per batch a start (`1`, item count u32, sequence number u64), items
//! (`2`, kind u8, compression u8, keyspace u64, key length u16, value length u32, stored length
//! u32, key, value) or clears (`4`, keyspace u64), and an end (`3`, XXH3-64 of the items, magic).

use super::{OpenError, db as keyspaces, record};
use rustix::fs::{SeekFrom, seek};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

const END_MAGIC: [u8; 4] = [b'F', b'J', b'L', 3];
const END_BYTES: usize = 13;
const START_BYTES: usize = 13;
const ITEM_HEAD_BYTES: usize = 21;
/// What file systems write at once: an unsynced page that a power failure lost reads as zeros.
const PAGE: usize = 4096;
/// A sequence number counts batches; past this it was damaged.
const SEQNO_MAX: u64 = 1 << 56;

/// Why a batch does not read.
enum Bad {
    /// The bytes end before the batch does.
    Short,
    /// Something in it is wrong.
    Wrong(&'static str),
}

struct BatchRead {
    end: usize,
    seqno: u64,
    /// The group commits in the batch (one at most), by their number.
    commit: Option<u64>,
}

/// Reads every journal in `db`, cuts an unfinished last batch off, and refuses damage.
pub fn check(db: &Path, salt: u64) -> Result<(), OpenError> {
    let journals = list(db)?;
    let mut last_seqno = None;
    let mut last_commit = None;
    for (i, (id, path)) in journals.iter().enumerate() {
        if let Some((previous, _)) = i.checked_sub(1).and_then(|i| journals.get(i))
            && previous + 1 != *id
        {
            let missing = db.join(format!("{}.jnl", previous + 1));
            return Err(OpenError::corrupt(&missing, "the journal is missing"));
        }
        let data = read_written(path).map_err(|e| OpenError::io(path, e))?;
        // A finished batch ends in a byte that is not zero; the zeros are preallocated space.
        let used = data.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
        let data = &data[..used];
        let mut at = 0;
        while at < data.len() {
            match read_batch(data, at, salt) {
                Ok(batch) => {
                    if last_seqno.is_some_and(|last| batch.seqno <= last)
                        || batch.seqno >= SEQNO_MAX
                    {
                        let why = format!("the sequence number at byte {at} is out of order");
                        return Err(OpenError::corrupt(path, why));
                    }
                    last_seqno = Some(batch.seqno);
                    last_commit = batch.commit.or(last_commit);
                    at = batch.end;
                }
                Err(bad) => {
                    let newest = i + 1 == journals.len();
                    accept_tail(path, data, at, bad, newest, last_commit, salt)?;
                    cut(path, at)?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Empties the journals of a closed database whose tables hold everything, so that the next start
/// reads none of it. The newest one stays as a file: without one fjall starts to count anew.
pub fn empty(db: &Path) -> Result<(), OpenError> {
    let mut journals = list(db)?;
    let newest = journals.pop();
    for (_, path) in journals {
        fs::remove_file(&path).map_err(|e| OpenError::io(&path, e))?;
    }
    newest.map_or(Ok(()), |(_, path)| set_len(&path, 0))
}

/// A file's bytes up to its last hole. fjall preallocates journals, mostly with nothing.
fn read_written(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    let mut end = 0;
    while end < len {
        let data = match seek(&file, SeekFrom::Data(end)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that does not report holes.
            Err(_) => {
                end = len;
                break;
            }
        };
        end = seek(&file, SeekFrom::Hole(data)).unwrap_or(len);
    }
    let mut out = Vec::with_capacity(end as usize);
    seek(&file, SeekFrom::Start(0))?;
    file.take(end).read_to_end(&mut out)?;
    Ok(out)
}

fn list(db: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(db).map_err(|e| OpenError::io(db, e))? {
        let path = entry.map_err(|e| OpenError::io(db, e))?.path();
        if path.extension().is_none_or(|ext| ext != "jnl") {
            continue;
        }
        let id = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
        let id = id.ok_or_else(|| OpenError::corrupt(&path, "not the name of a journal"))?;
        journals.push((id, path));
    }
    if journals.is_empty() {
        return Err(OpenError::corrupt(&db.join("0.jnl"), "there is no journal"));
    }
    journals.sort();
    Ok(journals)
}

/// Whether what stands at `at` is what a crash leaves. `data` ends in a byte that is not zero.
fn accept_tail(
    path: &Path,
    data: &[u8],
    at: usize,
    bad: Bad,
    newest: bool,
    last_commit: Option<u64>,
    salt: u64,
) -> Result<(), OpenError> {
    let why = match &bad {
        Bad::Short => format!("the batch at byte {at} is cut short"),
        Bad::Wrong(why) => format!("the batch at byte {at}: {why}"),
    };
    let refuse = |more: &str| Err(OpenError::corrupt(path, format!("{why}{more}")));
    if !newest {
        // fjall syncs a journal before it starts the next one.
        return refuse(", in a journal that was finished");
    }
    // A power failure may lose any page that was not synced yet; a page lost is a page of zeros.
    // What was synced is whole. As each group commit syncs, one of them at most is among it.
    let lost_page = {
        let first = at.next_multiple_of(PAGE);
        let whole = data.get(first..).unwrap_or_default();
        whole.chunks_exact(PAGE).any(|page| page.iter().all(|&b| b == 0))
    };
    let mut search = at + 1;
    let mut commits = 0;
    while search + START_BYTES + END_BYTES <= data.len() {
        // Start tags are searched for, so that an intact batch after a damaged one is found.
        if data[search] == 1
            && let Ok(batch) = read_batch(data, search, salt)
        {
            if let Some(number) = batch.commit {
                commits += 1;
                let next = last_commit.is_none_or(|last| number == last + 1);
                if !(lost_page && commits == 1 && next) {
                    return refuse(&format!(", and commit {number} stands after it"));
                }
            } else if !lost_page {
                return refuse(", and an intact batch stands after it");
            }
            search = batch.end;
        } else {
            search += 1;
        }
    }
    if lost_page {
        return Ok(());
    }
    match bad {
        Bad::Short if !ends_with_end(data) => Ok(()),
        Bad::Short => refuse(", yet the end of a batch stands at the end of the file"),
        Bad::Wrong(..) => refuse(""),
    }
}

fn ends_with_end(data: &[u8]) -> bool {
    data.ends_with(&END_MAGIC) && data.len() >= END_BYTES && data[data.len() - END_BYTES] == 3
}

fn cut(path: &Path, at: usize) -> Result<(), OpenError> {
    set_len(path, at as u64)?;
    tracing::info!(journal = %path.display(), at, "removed an unfinished write from the end of a \
        journal");
    Ok(())
}

fn set_len(path: &Path, len: u64) -> Result<(), OpenError> {
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.set_len(len).and_then(|()| file.sync_all()))
        .map_err(|e| OpenError::io(path, e))
}

fn read_batch(data: &[u8], start: usize, salt: u64) -> Result<BatchRead, Bad> {
    let take = |at: usize, n: usize| {
        let end = at.checked_add(n).ok_or(Bad::Short)?;
        data.get(at..end).ok_or(Bad::Short)
    };
    let tag = |at: usize| data.get(at).copied().ok_or(Bad::Short);
    if tag(start)? != 1 {
        return Err(Bad::Wrong("no start of a batch"));
    }
    let head = take(start, START_BYTES)?;
    let count = u32_at(head, 1);
    let seqno = u64_at(head, 5);
    let mut at = start + START_BYTES;
    let items_start = at;
    let mut commit = None;
    for _ in 0..count {
        match tag(at)? {
            2 => {
                let head = take(at, ITEM_HEAD_BYTES)?;
                let (kind, compression, keyspace) = (head[1], head[2], u64_at(head, 3));
                let key_len = usize::from(u16_at(head, 11));
                let (value_len, stored_len) = (u32_at(head, 13), u32_at(head, 17));
                if kind > 2 || compression != 0 || value_len != stored_len {
                    return Err(Bad::Wrong("an item is damaged"));
                }
                let key = take(at + ITEM_HEAD_BYTES, key_len)?;
                let value = take(at + ITEM_HEAD_BYTES + key_len, stored_len as usize)?;
                if kind == 0 {
                    // The sequence number has no checksum, but most of what is written shows what
                    // it must be at least.
                    if let Some(floor) = keyspaces::seqno_floor(keyspace, value)
                        && seqno < floor
                    {
                        return Err(Bad::Wrong("its sequence number is too low"));
                    }
                    if keyspace == keyspaces::LOG_ID
                        && let Some(number) = record::number_of(key, value, salt)
                    {
                        commit = Some(number);
                    }
                }
                at += ITEM_HEAD_BYTES + key_len + stored_len as usize;
            }
            4 => at += take(at, 9)?.len(),
            _ => return Err(Bad::Wrong("an item is damaged")),
        }
    }
    if tag(at)? != 3 {
        return Err(Bad::Wrong("no end of a batch"));
    }
    let end = take(at, END_BYTES)?;
    if u64_at(end, 1) != xxhash_rust::xxh3::xxh3_64(&data[items_start..at]) {
        return Err(Bad::Wrong("its checksum is wrong"));
    }
    if end[9..] != END_MAGIC {
        return Err(Bad::Wrong("its end is damaged"));
    }
    Ok(BatchRead { end: at + END_BYTES, seqno, commit })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
