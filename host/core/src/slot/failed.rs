//! Messages that handlers have failed, for who keeps them: with the session as it was before, so that they can be run
//! again. Nothing is looked at before a call has failed.

use crate::{
    effects::{Effect, Origin, rows::Name},
    limits,
    log::record::{DeploymentId, Entry, Head},
    message::Incoming,
    names::{ServiceName, SessionKey},
    plugin::{Failure, State as _},
    slot::{overlay::Transaction, session::Session, shell::Shell},
};
use bytes::Bytes;

/// Keeps messages that failed. It is asked on threads that serve.
pub trait Failures: Send + Sync {
    /// Whether another one of this kind is wanted: reading its session takes time.
    fn wants(&self, service: &ServiceName, on: DeploymentId, kind: &'static str) -> bool;
    /// Never waits.
    fn take(&self, failed: Box<FailedMessage>);
}

/// A message that a handler has failed.
#[derive(Debug)]
pub struct FailedMessage {
    pub key: SessionKey,
    /// The session before it.
    pub head: Head,
    pub state: Vec<(String, Bytes)>,
    pub effects: Vec<(Name, Effect)>,
    /// The message, without a reply. Its deployment is the one that failed it.
    pub entry: Entry,
    /// As [`Failure::kind`].
    pub kind: &'static str,
    pub why: String,
}

/// What a call was made with.
pub(super) struct Tried<'a> {
    pub message: &'a Incoming,
    pub origin: Option<&'a Origin>,
    pub on: DeploymentId,
    pub seq: u64,
    pub time_ms: u64,
}

impl Shell {
    /// Hands a message that failed to who keeps such, if anybody does.
    pub(super) fn note_failed(
        &self,
        session: Box<Session>,
        tried: &Tried<'_>,
        failure: &Failure,
    ) -> Box<Session> {
        let kind = failure.kind();
        if !matches!(failure, Failure::Trapped(_) | Failure::Deadline(_)) {
            return session;
        }
        let Some(failures) = self.context.failures.get() else { return session };
        let most = limits::CAPTURE_BY_ITSELF_BYTES_MAX;
        let is_small = session.head.state_bytes <= most as u64;
        if !is_small || !failures.wants(&session.key.service, tried.on, kind) {
            return session;
        }
        let (session, before) = self.before(session);
        let Some((state, effects)) = before else { return session };
        let Tried { message, origin, on, seq, time_ms } = *tried;
        failures.take(Box::new(FailedMessage {
            key: session.key.clone(),
            head: session.head.clone(),
            state,
            effects,
            entry: Entry {
                seq,
                id: message.id.clone(),
                sender: message.sender.clone(),
                time_ms,
                content_type: message.content_type.clone(),
                body: message.body.clone(),
                reply_content_type: String::new(),
                reply: Bytes::new(),
                deployment: on,
                events: Vec::new(),
                origin: origin.cloned().map(Box::new),
                caused: Vec::new(),
            },
            kind,
            why: failure.to_string(),
        }));
        session
    }

    /// All that the session has; `None`: it can't be read, or is too large.
    fn before(&self, mut session: Box<Session>) -> (Box<Session>, Option<Before>) {
        let loaded = session.load_effects(&*self.context.store, self.slot);
        let Ok(effects) = loaded else { return (session, None) };
        let effects: Vec<_> =
            effects.iter().map(|(name, effect)| (name.clone(), effect.clone())).collect();
        let mut bytes: usize = effects.iter().map(|(_, effect)| effect.bytes()).sum();
        let mut tx = Transaction::new(self.slot, self.context.store.clone(), session);
        let mut state: Vec<(String, Bytes)> = Vec::new();
        loop {
            let after = state.last().map(|(key, _)| key.as_str());
            let Ok(page) = tx.scan("", after, limits::STATE_SCAN_ENTRIES_MAX) else {
                return (tx.discard(), None);
            };
            if page.is_empty() {
                return (tx.discard(), Some((state, effects)));
            }
            bytes += page.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            if bytes > limits::CAPTURE_BY_ITSELF_BYTES_MAX {
                return (tx.discard(), None);
            }
            state.extend(page);
        }
    }
}

type Before = (Vec<(String, Bytes)>, Vec<(Name, Effect)>);
