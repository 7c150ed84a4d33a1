//! Repeats: whether a message was applied before, by its idempotency key, and what it was answered.
//!
//! Each client who was shown to be somebody has keys of its own, from [`OWN_KEYS_FROM`] on. A key of before is everybody's, and so is
//! one that another node has written that did not know the level yet: so both are looked for, at each level.

use crate::{
    error::{Cause, Error},
    level::OWN_KEYS_FROM,
    log::record::own_key,
    message::{Client, Sent},
    operator,
    position::Incarnation,
    slot::{records::may_repeat, session::Session, shell::Shell},
    state::Remembered,
};

impl Shell {
    /// The answer of an earlier message with the same idempotency key.
    pub(super) fn recall(
        &mut self,
        session: &mut Session,
        id: &str,
        fingerprint: u128,
        by: Option<&Client>,
    ) -> Result<Option<Sent>, Error> {
        if !session.exists() {
            return Ok(None);
        }
        let number = session.head.session_number;
        let own = match by.and_then(|by| own_key(id, by)) {
            Some(key) => self.remembered(session, &key)?,
            None => None,
        };
        let shared = match own {
            None => self.remembered(session, id)?,
            Some(_) => None,
        };
        let Some(remembered) = own.or(shared) else { return Ok(None) };
        // It is kept under another key then, and what is there stays.
        let may_have_own = by.is_some() && self.context.level.get() >= OWN_KEYS_FROM;
        let entry = match session.recent.iter().find(|entry| entry.seq == remembered.seq) {
            Some(entry) => entry.clone(),
            None => {
                let found = self.context.store.history(self.slot, number, remembered.seq - 1, 1, 0);
                let found = found?.into_iter().next();
                found.ok_or_else(|| {
                    Error::internal(format!("message {} is missing from history", remembered.seq))
                })?
            }
        };
        let is_same = remembered.fingerprint == fingerprint;
        let is_own = may_repeat(entry.client().map(|client| &**client), by);
        // Another client's, as far as that is known.
        if shared.is_some() && may_have_own && !is_own && (entry.client().is_some() || !is_same) {
            return Ok(None);
        }
        if !is_same {
            return Err(Error::of(
                Cause::KeyConflict,
                format!(
                    "idempotency key {:?} was used for message {} with another body",
                    operator::shown_key(id),
                    remembered.seq
                ),
            ));
        }
        if !is_own {
            return Err(Error::of(
                Cause::KeyConflict,
                format!(
                    "idempotency key {:?} was used for message {} by another client",
                    operator::shown_key(id),
                    remembered.seq
                ),
            ));
        }
        let label = self.context.catalogue.label(&session.key.service, entry.deployment);
        let of = Incarnation::of(&session.head);
        Ok(Some(self.sent(&entry, of, label, true)))
    }

    fn remembered(&self, session: &Session, key: &str) -> Result<Option<Remembered>, Error> {
        match session.remembered.get(key) {
            Some(remembered) => Ok(Some(*remembered)),
            None => {
                let number = session.head.session_number;
                Ok(self.context.store.remembered(self.slot, number, key)?)
            }
        }
    }
}
