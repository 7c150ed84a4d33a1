//! One session as a snapshot of the store has it.

use crate::{
    error::StateError,
    limits,
    log::record::{Entry, Head},
    names::SessionKey,
    state::rows::SlotView,
};
use bytes::Bytes;
use std::{collections::VecDeque, sync::Arc};

/// A session, and the view that it is read from.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    pub view: &'a dyn SlotView,
    pub key: &'a SessionKey,
    pub head: &'a Head,
}

impl<'a> Stored<'a> {
    pub fn history(self) -> History<'a> {
        History { stored: self, page: VecDeque::new(), reached: 0 }
    }

    pub fn state(self) -> State<'a> {
        State { stored: self, page: VecDeque::new(), last: None, is_over: false }
    }
}

/// Its entries, one after the other.
pub struct History<'a> {
    stored: Stored<'a>,
    page: VecDeque<Arc<Entry>>,
    reached: u64,
}

impl History<'_> {
    /// # Errors
    /// The store's, as that something is damaged.
    pub fn next(&mut self) -> Result<Option<Arc<Entry>>, StateError> {
        if self.page.is_empty() {
            let Stored { view, head, .. } = self.stored;
            let (limit, bytes) = (limits::REPLAY_PAGE_ENTRIES, limits::REPLAY_PAGE_BYTES);
            self.page = view.history(head.session_number, self.reached, limit, bytes)?.into();
        }
        let entry = self.page.pop_front();
        if let Some(entry) = &entry {
            self.reached = entry.seq;
        }
        Ok(entry)
    }
}

/// Its values, in the order of their keys.
pub struct State<'a> {
    stored: Stored<'a>,
    page: VecDeque<(Bytes, Bytes)>,
    last: Option<Bytes>,
    is_over: bool,
}

impl State<'_> {
    /// # Errors
    /// As [`History::next`].
    pub fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StateError> {
        if self.page.is_empty() && !self.is_over {
            let Stored { view, head, .. } = self.stored;
            let (limit, bytes) = (limits::REPLAY_PAGE_ENTRIES, limits::REPLAY_PAGE_BYTES);
            let page = view.values(head.session_number, self.last.as_deref(), limit, bytes)?;
            self.is_over = page.is_empty();
            self.page = page.into();
        }
        let pair = self.page.pop_front();
        if let Some((key, _)) = &pair {
            self.last = Some(key.clone());
        }
        Ok(pair)
    }
}
