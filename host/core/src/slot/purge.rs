//! Deletes the sessions of a removed service, a few at a time, so that a later service of the same
//! name sees none of them.
//!
//! The slot first puts an activation of deployment 0, which no deployment has, into its log: from
//! then on it does not run the service. It refuses the name until the last session is deleted.

use crate::{
    error::{Cause, Error},
    limits,
    message::Purged,
    names::{ServiceName, SessionKey},
    operation::Purge,
    service::{Target, catalogue::not_deployed},
    slot::{Mail, Reply, mail::Serve, shell::Shell},
};

impl Serve for Purge {
    async fn serve(self, shell: &mut Shell, reply: Reply<Purged>) {
        shell.purge(&self.service, self.since, reply);
    }
}

impl Shell {
    /// The generation in which a service of this name was removed, as far as this node knows.
    pub(super) fn since(&self, service: &ServiceName) -> u64 {
        let catalogue = &self.context.catalogue;
        let known = catalogue.has_removals().then(|| catalogue.get(service)).flatten();
        known.map_or(0, |known| known.since)
    }

    /// Why mail is refused because its service was removed; `None`: it is not.
    pub(super) fn removed(&self, mail: &Mail) -> Option<Error> {
        if !self.context.catalogue.has_removals() || matches!(mail, Mail::Purge(..)) {
            return None;
        }
        self.check_not_removed(mail.service()?).err()
    }

    pub(super) fn check_not_removed(&self, service: &ServiceName) -> Result<(), Error> {
        let known = self.context.catalogue.get(service);
        match known.filter(|known| !known.is_removed()) {
            None if self.core.running().get(service).is_some() => Err(not_deployed(service)),
            None => Ok(()),
            Some(known) => self.check_purged(service, known.since),
        }
    }

    /// Whether the slot can switch to a service that was deployed after one of the same name was
    /// removed.
    ///
    /// # Errors
    /// `unavailable` while sessions of the removed one are left.
    pub(super) fn check_purged(&self, service: &ServiceName, since: u64) -> Result<(), Error> {
        if !self.core.running().is_stale(service, since)
            || self.merged(service, "", None, 1, false)?.is_empty()
        {
            return Ok(());
        }
        Err(Error::of(
            Cause::NotYet,
            format!(
                "the sessions of the removed service {service} are still being deleted; try again \
                 later"
            ),
        ))
    }

    /// Stops running the service in this slot, and deletes some of its sessions.
    pub(super) fn purge(&mut self, service: &ServiceName, since: u64, reply: Reply<Purged>) {
        match self.purge_some(service, since) {
            Ok(purged) if self.core.has_records() => self.hold_new(reply, Ok(purged)),
            other => self.hold_for_all(reply, other),
        }
    }

    fn purge_some(&mut self, service: &ServiceName, since: u64) -> Result<Purged, Error> {
        if !self.core.running().is_stale(service, since) {
            return Ok(Purged::default());
        }
        let removal = Target::removal(service.clone(), since);
        if removal.is_ahead_of(self.core.running().generation(service)) {
            self.switch_to(&removal);
        }
        // Else each step would go through all that earlier ones have deleted.
        self.forget_deleted(service);
        let some = limits::PURGED_AT_A_TIME;
        let sessions = self.merged(service, "", None, some + 1, false)?;
        let mut left = sessions.len() > some;
        let mut deleted = 0;
        for info in sessions.into_iter().take(some) {
            // Each takes its effects with it, row by row.
            if !self.core.batch_has_room() {
                left = true;
                break;
            }
            let key = SessionKey { service: service.clone(), session: info.session };
            let session = self.take_session(&key)?;
            self.delete_session(session)?;
            deleted += 1;
        }
        Ok(Purged { deleted, left })
    }
}
