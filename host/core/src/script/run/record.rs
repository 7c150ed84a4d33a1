//! The last message that a script has brought to a handler, with the session as it was before.

use super::{Calling, Runner, SLOT};
use crate::{
    log::record::Entry,
    names::SessionKey,
    plugin::Input,
    replay::{self, Base},
    slot::session::Session,
};
use bytes::Bytes;

/// A message, and all that it takes to run it again.
#[derive(Clone, Debug)]
pub struct LastMessage {
    pub key: SessionKey,
    pub base: Base,
    /// Without a reply.
    pub entry: Entry,
    pub on: replay::Version,
    /// The version whose shape the state has, if that is another.
    pub from: Option<String>,
}

impl Runner {
    /// Has it kept from now on.
    pub fn keep_last(&mut self, keeps: bool) {
        self.keeps_last = keeps;
        self.last = None;
    }

    pub fn last(&mut self) -> Option<Box<LastMessage>> {
        self.last.take()
    }

    /// # Errors
    /// The store's.
    pub(super) fn note_last(
        &mut self,
        session: &mut Session,
        calling: &Calling,
    ) -> anyhow::Result<()> {
        let Input::Handle { message, origin } = &calling.input else { return Ok(()) };
        session.load_effects(&*self.store, SLOT)?;
        let version = &self.versions[self.current];
        let on = replay::Version {
            id: 1,
            plugin: version.plugin.clone(),
            version: version.name.clone(),
            label: version.name.as_str().into(),
            same_state: false,
        };
        let entry = Entry {
            seq: calling.seq,
            id: message.id.clone(),
            sender: message.sender.clone(),
            time_ms: calling.time_ms,
            content_type: message.content_type.clone(),
            body: message.body.clone(),
            reply_content_type: String::new(),
            reply: Bytes::new(),
            deployment: 1,
            events: Vec::new(),
            origin: origin.clone(),
            caused: Vec::new(),
        };
        let (key, from) = (session.key.clone(), self.migrates_from(session));
        let base = Base::of(session);
        self.last = Some(Box::new(LastMessage { key, base, entry, on, from }));
        Ok(())
    }
}
