//! Limits on what is kept: whether a client's message may add to it.

use crate::{
    error::{Cause, Error, StateError},
    message::Client,
    plugin::StateFault,
    slot::{overlay::Transaction, session::Session, shell::Shell},
    state::stored::{self, Maker},
    usage::with_account,
};
use slotd_quota::usage::kept_name;

impl Shell {
    /// Whether a message may make its session, or more of it.
    pub(super) fn check_stored(&self, session: &Session, by: Option<&Client>) -> Result<(), Error> {
        let (quota, service) = (&self.context.quota, &session.key.service);
        let makes = !session.exists();
        let refused = |what| Error::of(Cause::Quota, what);
        quota.check_stored(service, makes).map_err(refused)?;
        if !quota.keeps_by_subject(service) {
            return Ok(());
        }
        let maker = match makes {
            true => with_account(by, |account| Some(Maker::from(kept_name(account?)))),
            false => self.maker(session)?,
        };
        match maker {
            Some(maker) => quota.check_stored_of(service, &maker, makes).map_err(refused),
            None => Ok(()),
        }
    }

    /// Who has made a session that exists.
    fn maker(&self, session: &Session) -> Result<Option<Maker>, StateError> {
        match session.recent.front() {
            // The store does not have it yet.
            Some(first) if first.begins() => Ok(stored::maker(first)),
            _ => self.context.store.maker(self.slot, &session.key),
        }
    }
}

/// A session that has as much state as it may does not grow; it may shrink.
pub(super) fn check_growth(tx: &mut Transaction, max: u64) -> Result<(), Error> {
    match tx.state_bytes() {
        Ok((before, after)) if after > max && after > before => Err(Error::of(
            Cause::Quota,
            format!(
                "the session's state would have {after} bytes, and may have {max} \
                 (`limits.session.stored`); nothing was kept"
            ),
        )),
        Ok(_) => Ok(()),
        Err(StateFault::Store(error)) => Err(error.into()),
        Err(fault) => Err(Error::internal(fault.to_string())),
    }
}
