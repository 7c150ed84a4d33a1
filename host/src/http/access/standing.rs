//! Whether what stays open, a socket or an event stream, may stay so.
//!
//! Nothing of it is polled: the listener's [`Signal::Look`] says that something has changed, and a token's end is a
//! deadline of the timer that a socket or stream has anyway.
//!
//! [`Signal::Look`]: super::super::shutdown::Signal

use super::{Admitted, Gate, Who};
use crate::{
    clock::now_ms,
    error::{Code, Error},
    limits,
    message::Client,
    names::SessionKey,
};
use slotd_access::{On, Sender, Verb};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Who has something open, and what it may do with it. Two words: there are many.
#[derive(Clone)]
pub(in super::super) struct Standing {
    who: Arc<Who>,
    can: u8,
}

const SEND: u8 = 1;
const NOTIFY: u8 = 2;
/// Its messages are in the name of its subject.
const SUBJECT: u8 = 4;

impl Standing {
    /// Of who may subscribe to a session, which was checked.
    pub(in super::super) fn new(gate: &Gate, who: Arc<Who>, key: &SessionKey) -> Self {
        let mut this = Self { who, can: 0 };
        this.can = this.rights(gate, key);
        this
    }

    fn rights(&self, gate: &Gate, key: &SessionKey) -> u8 {
        let on = On::Session(key.service.as_str(), key.session.as_str());
        let may = |verb, bit| match gate.may(&self.who, verb, on) {
            true => bit,
            false => 0,
        };
        let policy = gate.access().policy();
        let subject = match policy.service(key.service.as_str()).sender {
            Sender::Subject => SUBJECT,
            Sender::Client => 0,
        };
        may(Verb::Send, SEND) | may(Verb::Notify, NOTIFY) | subject
    }
    /// Whose account what it gets is on.
    pub(in super::super) fn client(&self) -> Option<&Arc<Client>> {
        self.who.client()
    }
    /// In whose name its messages are.
    pub(in super::super) fn admitted(&self) -> Admitted {
        self.who.admitted(match self.can & SUBJECT {
            0 => Sender::Client,
            _ => Sender::Subject,
        })
    }

    /// Whether something has changed that it may have lost its rights by.
    pub(in super::super) fn is_old(&self, gate: &Gate) -> bool {
        self.who.epoch() != gate.epoch()
    }

    /// # Errors
    /// `forbidden`, or `unauthorized` for who has shown nothing: it may subscribe, and not do this.
    pub(in super::super) fn may(
        &self,
        gate: &Gate,
        verb: Verb,
        key: &SessionKey,
    ) -> Result<(), Error> {
        let bit = if verb == Verb::Send { SEND } else { NOTIFY };
        match self.can & bit != 0 {
            true => Ok(()),
            // Once more, for its reason.
            false => {
                let on = On::Session(key.service.as_str(), key.session.as_str());
                gate.allows(&self.who, verb, on)
            }
        }
    }

    /// When its token ends.
    pub(in super::super) fn ends(&self) -> Option<Instant> {
        let left = self.who.identity().expires_ms?.saturating_sub(now_ms());
        // Far away, it is looked at again before.
        let left = Duration::from_millis(left).min(limits::TOKEN_END_LOOK);
        Some(crate::clock::timer_now() + left)
    }

    /// What it was opened with is the listener's own token.
    pub(in super::super) fn is_of_listener(&self) -> bool {
        self.who.is_of_listener()
    }

    pub(in super::super) fn is_over(&self) -> bool {
        self.who.is_over()
    }

    /// Finds out again who it is, if something has changed.
    ///
    /// # Errors
    /// It may not stay open: `token-expired`, or `forbidden`.
    pub(in super::super) async fn look(
        &mut self,
        gate: &Gate,
        key: &SessionKey,
    ) -> Result<(), Error> {
        if self.is_over() {
            return Err(expired());
        }
        if !self.is_old(gate) {
            return Ok(());
        }
        let again = gate.who(self.who.bearer(), self.who.certificate()).await;
        let who = match again {
            // There is another one, which is what its client has to show.
            _ if self.who.is_of_listener()
                && !again.as_ref().is_ok_and(|it| it.is_of_listener()) =>
            {
                return Err(replaced());
            }
            Ok(who) => who,
            Err(error) if error.code == Code::TokenExpired => return Err(error),
            // Its issuer can't be asked now: it is who it was, and looked at again. What he may do is known.
            Err(error) if error.code == Code::Unavailable => {
                let on = On::Session(key.service.as_str(), key.session.as_str());
                gate.allows(&self.who, Verb::Subscribe, on).map_err(|error| no_longer(&error))?;
                self.can = self.rights(gate, key);
                return Ok(());
            }
            Err(error) => return Err(no_longer(&error)),
        };
        // On a listener that is open (again), a token that was revoked is nobody's.
        if !who.is_as(&self.who) {
            return Err(Error::new(
                Code::Forbidden,
                "no longer allowed: the token is not valid any more",
            ));
        }
        self.take(gate, who, key).map_err(|error| no_longer(&error))
    }

    /// Another token of the same subject, in place of the one that ends.
    ///
    /// # Errors
    /// It is not good, of another subject, or does not allow what is open. Nothing has changed then.
    pub(in super::super) async fn renew(
        &mut self,
        gate: &Gate,
        token: &str,
        key: &SessionKey,
    ) -> Result<Option<u64>, Error> {
        let who = gate.who(Some(token.as_bytes()), None).await?;
        if !who.is_as(&self.who) {
            return Err(Error::new(
                Code::Forbidden,
                "the token is of another subject than the one that the socket was opened with",
            ));
        }
        self.take(gate, who, key)?;
        Ok(self.who.identity().expires_ms)
    }

    fn take(&mut self, gate: &Gate, who: Arc<Who>, key: &SessionKey) -> Result<(), Error> {
        let on = On::Session(key.service.as_str(), key.session.as_str());
        gate.allows(&who, Verb::Subscribe, on)?;
        self.who = who;
        self.can = self.rights(gate, key);
        Ok(())
    }
}

/// As [`Standing::look`] says it.
pub(in super::super) fn expired() -> Error {
    super::counted(Error::new(Code::TokenExpired, "the token has expired"))
}

fn replaced() -> Error {
    super::counted(Error::new(Code::TokenExpired, "the listener's token was replaced"))
}

/// What was allowed is not any more: the reason for a person.
fn no_longer(error: &Error) -> Error {
    Error::new(Code::Forbidden, format!("no longer allowed: {}", error.detail))
}
