//! A slot's rows as a whole: read at one moment, removed, or loaded. What snapshots need of a store.

use super::{SlotMeta, StateError, StateStore, changes::Changes};
use crate::{
    log::record::{Entry, Head},
    names::{ServiceName, SessionId, SessionKey, SlotId},
};
use bytes::Bytes;
use std::sync::Arc;

/// A session of which there is a head, and whether that can be made out.
pub type FoundHead = (SessionId, Result<Head, StateError>);

/// A kind of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    Heads,
    State,
    Remembered,
    History,
}

/// Some rows of a [`SlotView`].
pub struct Page {
    pub rows: Changes,
    /// How many bytes of keys and values they are.
    pub bytes: usize,
    /// What to give for the next page; `None`: there is none.
    pub next: Option<Vec<u8>>,
}

/// How far a slot is wiped. Its content is private to the store.
#[derive(Clone, Debug, Default)]
pub struct Wiping {
    pub keyspace: usize,
    pub after: Option<Vec<u8>>,
}

/// A store whose slots can be read, removed and loaded as a whole. Its methods block on the disk.
pub trait WholeSlots: StateStore {
    /// Looks at a slot as it is now.
    ///
    /// # Errors
    /// As any read.
    fn view(&self, slot: SlotId) -> Result<Box<dyn SlotView>, StateError>;

    /// As [`WholeSlots::view`], for one who looks for damage: what a read of it can't make out is said with
    /// [`StateError::Corrupt`] and nothing else comes of it, where any other such read ends the node.
    ///
    /// # Errors
    /// As [`WholeSlots::view`].
    fn look(&self, slot: SlotId) -> Result<Box<dyn SlotView>, StateError>;

    /// Removes some rows of a slot, its meta first: from then on the slot is at nothing, however
    /// far the rest gets. Gives what to go on with, or `None` when nothing is left. Call it for a
    /// slot that nobody uses, until it gives `None`, before the slot is used again.
    ///
    /// # Errors
    /// As [`StateStore::apply`].
    fn wipe(&self, slot: SlotId, from: Wiping) -> Result<Option<Wiping>, StateError>;

    /// Writes rows of a slot that counts as empty until all of them are there: not in one batch,
    /// since the store lets nobody else write during one.
    ///
    /// # Errors
    /// As [`StateStore::apply`]; some of the rows may be there then.
    fn load(&self, slot: SlotId, changes: &Changes) -> Result<(), StateError>;
}

/// A slot's rows at one moment. What is written later does not show.
pub trait SlotView: Send + Sync {
    fn meta(&self) -> &SlotMeta;

    /// Rows of a kind after `after`, in order, up to about `bytes_max` and at least one. Of
    /// deleted sessions nothing shows. Blocks on the disk.
    ///
    /// # Errors
    /// As any read; [`StateError::Unavailable`] when the store was opened again meanwhile.
    fn page(
        &self,
        rows: Rows,
        after: Option<Vec<u8>>,
        bytes_max: usize,
    ) -> Result<Page, StateError>;

    /// As [`StateStore::head`].
    ///
    /// # Errors
    /// As [`SlotView::page`]; so of the next three.
    fn head(&self, key: &SessionKey) -> Result<Option<Head>, StateError>;

    /// As [`StateStore::sessions`], of all of a service.
    ///
    /// # Errors
    /// As above.
    fn sessions(
        &self,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, Head)>, StateError>;

    /// As [`Self::sessions`], for one who looks for damage: a head that can't be made out is one of them.
    ///
    /// # Errors
    /// As above.
    fn heads(
        &self,
        service: &ServiceName,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<FoundHead>, StateError>;

    /// As [`StateStore::history`].
    ///
    /// # Errors
    /// As above.
    fn history(
        &self,
        session: u64,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StateError>;

    /// As [`StateStore::scan`], of all keys of a session. What is not a session's state, as its effects, has numbers of
    /// its own.
    ///
    /// # Errors
    /// As above.
    fn values(
        &self,
        session: u64,
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError>;
}
