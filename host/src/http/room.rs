//! The memory that bodies take: of all messages and queries of the node's clients together, from
//! their arrival until they are answered. A mailbox counts messages, whatever their size.

use crate::error::{Code, Error};
use std::{
    ops::Deref,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bytes of bodies that are here now.
pub struct Bodies {
    bytes: AtomicUsize,
    max: usize,
}

impl Bodies {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), max }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed) as u64
    }

    fn full(&self) -> Error {
        Error::new(
            Code::MailboxFull,
            format!(
                "bodies of {} bytes wait on this node, and may not be more; slow down",
                self.max
            ),
        )
    }
}

/// What one request has of it; given back when dropped.
pub(super) struct Room<B: Deref<Target = Bodies>> {
    bodies: B,
    bytes: usize,
}

impl<B: Deref<Target = Bodies>> Room<B> {
    pub(super) fn new(bodies: B) -> Self {
        Self { bodies, bytes: 0 }
    }

    /// Whether what is announced would find room now. Takes none: who announces and does not send
    /// must not keep others out.
    ///
    /// # Errors
    /// `mailbox-full`.
    pub(super) fn check(&self, bytes: u64) -> Result<(), Error> {
        match self.bodies.bytes().saturating_add(bytes) > self.bodies.max as u64 {
            true => Err(self.bodies.full()),
            false => Ok(()),
        }
    }

    /// Takes room for what has arrived.
    ///
    /// # Errors
    /// `mailbox-full`.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Error> {
        let before = self.bodies.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        match before.saturating_add(bytes) > self.bodies.max {
            true => Err(self.bodies.full()),
            false => Ok(()),
        }
    }
}

impl<B: Deref<Target = Bodies>> Drop for Room<B> {
    fn drop(&mut self) {
        self.bodies.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
