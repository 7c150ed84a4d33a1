//! Keyspaces, batches and moments of the database, as the rest of slotd sees them: which store is
//! behind them is known to this folder only (`cargo xtask lint` looks).

use fjall::{OwnedWriteBatch, Readable as _};
use std::{ops::Bound, path::Path};

/// The database's error of an operation that failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DbError(#[from] pub(super) fjall::Error);

pub type Result<T> = std::result::Result<T, DbError>;

/// Bytes of a row. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slice(fjall::Slice);

impl std::ops::Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Keys with their values, in order of the keys.
#[derive(Clone)]
pub struct Keyspace(pub(super) fjall::Keyspace);

impl Keyspace {
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    /// The folder of its tables.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        Ok(self.0.get(key)?.map(Slice))
    }

    pub fn contains_key(&self, key: &[u8]) -> Result<bool> {
        Ok(self.0.contains_key(key)?)
    }

    /// The first key.
    pub fn first(&self) -> Result<Option<Slice>> {
        let first = self.0.first_key_value().map(fjall::Guard::key).transpose()?;
        Ok(first.map(Slice))
    }

    pub fn iter(&self) -> Rows {
        Rows(self.0.iter())
    }

    pub fn prefix(&self, prefix: &[u8]) -> Rows {
        Rows(self.0.prefix(prefix))
    }

    pub fn range(&self, range: Range) -> Rows {
        Rows(self.0.range(range))
    }
}

pub type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Rows in order.
pub struct Rows(fjall::Iter);

fn row(guard: fjall::Guard) -> Result<(Slice, Slice)> {
    let (key, value) = guard.into_inner()?;
    Ok((Slice(key), Slice(value)))
}

impl Iterator for Rows {
    type Item = Result<(Slice, Slice)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(row)
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(row)
    }
}

/// All keyspaces at one moment. What is written later does not show.
pub struct Snapshot(pub(super) fjall::Snapshot);

impl Snapshot {
    pub fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Slice>> {
        Ok(self.0.get(&keyspace.0, key)?.map(Slice))
    }

    pub fn contains_key(&self, keyspace: &Keyspace, key: &[u8]) -> Result<bool> {
        Ok(self.0.contains_key(&keyspace.0, key)?)
    }

    pub fn range(&self, keyspace: &Keyspace, range: Range) -> Rows {
        Rows(self.0.range(&keyspace.0, range))
    }
}

/// Writes that are done all or not at all.
pub struct WriteBatch {
    pub(super) batch: OwnedWriteBatch,
    /// Whether it is durable when it is committed.
    pub(super) sync: bool,
    /// The keyspaces that it writes to, a bit each.
    pub(super) touched: u16,
}

impl WriteBatch {
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Copies both. A key is written once in a batch: of two, which one counts is undefined.
    pub fn insert(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) {
        self.touched |= bit(&keyspace.0);
        self.batch.insert(&keyspace.0, key, value);
    }

    pub fn remove(&mut self, keyspace: &Keyspace, key: &[u8]) {
        self.touched |= bit(&keyspace.0);
        self.batch.remove(&keyspace.0, key);
    }
}

/// Keyspaces have ids from 1 to 10.
pub(super) fn bit(keyspace: &fjall::Keyspace) -> u16 {
    1_u16.checked_shl(keyspace.id() as u32).unwrap_or(u16::MAX)
}

#[cfg(test)]
impl Keyspace {
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.0.is_empty()?)
    }

    pub fn disk_bytes(&self) -> u64 {
        self.0.disk_space()
    }

    /// Full memtables that are not written to tables yet.
    pub fn sealed_memtables(&self) -> usize {
        self.0.sealed_memtable_count()
    }

    /// The worker writes none of its memtables to a table while this is held.
    pub fn hold_flushes(&self) -> impl Sized + '_ {
        use fjall::AbstractTree as _;
        self.0.tree.get_flush_lock()
    }

    /// The first and the last key of each table.
    pub fn table_ranges(&self) -> Vec<(Slice, Slice)> {
        use fjall::AbstractTree as _;
        let version = self.0.tree.current_version();
        let ranges = version.iter_tables().map(|table| {
            let range = &table.metadata.key_range;
            (Slice(range.min().clone()), Slice(range.max().clone()))
        });
        ranges.collect()
    }
}
