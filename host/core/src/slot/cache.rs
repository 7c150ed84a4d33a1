//! The sessions that a slot has in memory.

use crate::{
    error::Error,
    limits,
    names::{ServiceName, SessionKey},
    slot::{core::Room, session::Session, shell::Shell},
};
use std::sync::atomic::Ordering;

impl Shell {
    pub(super) fn take_session(&mut self, key: &SessionKey) -> Result<Box<Session>, Error> {
        if let Some(session) = self.cache.remove(key) {
            self.uncount(session.footprint());
            return Ok(session);
        }
        let head = self.context.store.head(self.slot, key)?;
        Ok(Box::new(Session::new(key.clone(), head.unwrap_or_default())))
    }

    pub(super) fn put_session(&mut self, mut session: Box<Session>) {
        self.uses += 1;
        session.used = self.uses;
        let footprint = session.footprint();
        self.cache_bytes += footprint;
        self.context.cached_bytes.fetch_add(footprint, Ordering::Relaxed);
        self.cache.insert(session.key.clone(), session);
        if self.cache_is_full() {
            match self.core.room(crate::clock::now()) {
                Room::Evict => self.evict(),
                Room::Flush => self.start_flush(),
                Room::Wait => {}
            }
        }
    }

    fn uncount(&mut self, footprint: usize) {
        self.cache_bytes -= footprint;
        self.context.cached_bytes.fetch_sub(footprint, Ordering::Relaxed);
    }

    /// The node's cache is over its budget and this slot has more than its least share.
    fn cache_is_full(&self) -> bool {
        self.cache_bytes > limits::SESSION_CACHE_BYTES_PER_SLOT_MIN
            && self.context.cached_bytes.load(Ordering::Relaxed) > self.context.options.cache_bytes
    }

    /// Drops the least recently used sessions that the store has in full.
    pub(super) fn evict(&mut self) {
        if !self.cache_is_full() {
            return;
        }
        let flushed = self.core.stored();
        let clean = self.cache.values().filter(|session| session.changed_in <= flushed);
        let mut by_use: Vec<_> = clean.map(|s| (s.used, s.footprint(), s.key.clone())).collect();
        by_use.sort_unstable_by_key(|(used, ..)| *used);
        // A quarter at a time, so that a full cache does not sort itself for each message.
        let target = self.cache_bytes / 4 * 3;
        for (_, footprint, key) in by_use {
            if self.cache_bytes <= target {
                break;
            }
            self.cache.remove(&key);
            self.uncount(footprint);
        }
    }

    /// Gives back the memory of a slot that nobody uses: the store has all that it forgets.
    pub(super) fn forget_clean(&mut self) {
        let flushed = self.core.stored();
        let clean = self.cache.values().filter(|session| session.changed_in <= flushed);
        let keys: Vec<_> = clean.map(|s| (s.key.clone(), s.footprint())).collect();
        for (key, footprint) in keys {
            self.cache.remove(&key);
            self.uncount(footprint);
        }
        self.cache.shrink_to_fit();
    }

    /// Forgets sessions of a service that are deleted, where the store knows that too.
    pub(super) fn forget_deleted(&mut self, service: &ServiceName) {
        let flushed = self.core.stored();
        let gone = self.cache.values().filter(|session| {
            session.key.service == *service && !session.exists() && session.changed_in <= flushed
        });
        let gone: Vec<_> = gone.map(|s| (s.key.clone(), s.footprint())).collect();
        for (key, footprint) in gone {
            self.cache.remove(&key);
            self.uncount(footprint);
        }
    }
}
