//! A capture of a session at a place, a message and what came of it; and these of a capture.

use super::{
    content::Content,
    form::{
        Because, Before, Capture, CausedForm, Component, EventForm, FORMAT, Kind, MessageForm,
        OutcomeForm, ReplyForm, Unreadable,
    },
};
use crate::{
    effects::{Caused, lines::OriginLines},
    log::record::{Entry, Event, Write},
    names::SessionKey,
    plugin::Digest,
    replay::{Base, Outcome, Replied},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The deployments of a capture that is run: the one whose shape the state has, and the one that it is run on where
/// that is another.
pub(super) const BEFORE: u32 = 1;
pub(super) const AFTER: u32 = 2;

/// What a capture is made of.
#[derive(Clone, Debug)]
pub struct Captured {
    pub kind: Kind,
    /// Why, for people.
    pub what: String,
    pub key: SessionKey,
    pub component: Component,
    /// The version whose shape the state has, if that is another.
    pub migrates_from: Option<String>,
    pub base: Base,
    /// The message. What it has of a reply is not looked at.
    pub entry: Entry,
    pub outcome: OutcomeForm,
}

impl Component {
    pub fn new(digest: Digest, version: &str, same_state: bool) -> Self {
        Self { digest, version: version.to_owned(), same_state, wasm_base64: None }
    }

    #[must_use]
    pub fn with(self, wasm: &[u8]) -> Self {
        Self { wasm_base64: Some(STANDARD.encode(wasm)), ..self }
    }
}

impl Capture {
    pub fn new(of: Captured) -> Self {
        let Captured { kind, what, key, component, migrates_from, base, entry, outcome } = of;
        let mut before = Before {
            seq: base.seq,
            created_ms: base.created_ms,
            updated_ms: base.updated_ms,
            ..Before::default()
        };
        before.state = base.state.iter().map(|(k, v)| (k.clone(), Content::of(v))).collect();
        base.effects.iter().for_each(|(name, effect)| before.add_effect(name, effect));
        let origin = entry.origin.as_deref().map(|origin| {
            let mut lines = OriginLines::default();
            lines.set(Some(origin));
            lines
        });
        Self {
            slotd_capture: FORMAT,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            made_ms: crate::clock::now_ms(),
            because: Because { kind, what, gone: false },
            service: key.service.to_string(),
            session: key.session.to_string(),
            component,
            migrates_from,
            before,
            message: MessageForm {
                seq: entry.seq,
                time_ms: entry.time_ms,
                id: entry.client_key().map(str::to_owned),
                sender: entry.sender,
                content_type: entry.content_type,
                body: Content::of(&entry.body),
                origin,
            },
            outcome,
            expected: None,
            redacted: Vec::new(),
        }
    }

    /// # Errors
    /// A name that can't be one.
    pub fn key(&self) -> Result<SessionKey, Unreadable> {
        let key = SessionKey::parse(&self.service, &self.session);
        key.map_err(|why| Unreadable::Damaged(why.detail.into_owned()))
    }

    /// Where the session was.
    ///
    /// # Errors
    /// What is damaged.
    pub fn base(&self) -> Result<Base, Unreadable> {
        let before = &self.before;
        let state = before.state.iter().map(|(key, value)| {
            let of = |why| Unreadable::Damaged(format!("before.state[{key:?}]: {why}"));
            Ok((key.clone(), value.bytes().map_err(of)?))
        });
        Ok(Base {
            seq: before.seq,
            created_ms: before.created_ms,
            updated_ms: before.updated_ms,
            deployment: if before.seq == 0 { 0 } else { BEFORE },
            state: state.collect::<Result<_, _>>()?,
            effects: before.effects().map_err(Unreadable::Damaged)?,
        })
    }

    /// The message, as a history would have it.
    ///
    /// # Errors
    /// What is damaged.
    pub fn entry(&self) -> Result<Entry, Unreadable> {
        let message = &self.message;
        if message.seq == 0 || message.seq <= self.before.seq {
            return Err(Unreadable::Damaged(format!(
                "message {} does not come behind message {}",
                message.seq, self.before.seq
            )));
        }
        let of = |why: String| Unreadable::Damaged(format!("message: {why}"));
        let origin = message.origin.clone().unwrap_or_default().take().map_err(of)?;
        Ok(Entry {
            seq: message.seq,
            id: message.id.clone(),
            sender: message.sender.clone(),
            time_ms: message.time_ms,
            content_type: message.content_type.clone(),
            body: message.body.bytes().map_err(of)?,
            reply_content_type: String::new(),
            reply: Bytes::new(),
            deployment: BEFORE,
            events: Vec::new(),
            origin,
            caused: Vec::new(),
        })
    }

    /// The component that is in it.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn wasm(&self) -> Result<Bytes, Unreadable> {
        let Component { digest: named, wasm_base64, .. } = &self.component;
        let text = wasm_base64.as_ref().ok_or(Unreadable::NoComponent(*named))?;
        let bytes = STANDARD.decode(text);
        let bytes = bytes.map_err(|why| Unreadable::Damaged(format!("wasm_base64: {why}")))?;
        match Digest::of(&bytes) {
            has if has == *named => Ok(bytes.into()),
            has => Err(Unreadable::OtherComponent { named: *named, has }),
        }
    }
}

impl OutcomeForm {
    /// What a history has of a message. `has_caused`: it says which effects it had.
    pub fn stored(entry: &Entry, has_caused: bool) -> Self {
        Self::Reply(ReplyForm {
            content_type: entry.reply_content_type.clone(),
            body: Content::of(&entry.reply),
            events: events(&entry.events),
            ephemeral: None,
            effects: (has_caused || !entry.caused.is_empty())
                .then(|| entry.caused.iter().map(CausedForm::of).collect()),
            writes: None,
        })
    }

    pub fn failure(kind: &str, why: &str) -> Self {
        Self::Failure { kind: kind.to_owned(), why: why.to_owned() }
    }

    /// Whether the message was neither answered nor rejected.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failure { .. })
    }
}

impl From<&Outcome> for OutcomeForm {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Replied(it) => Self::Reply(it.into()),
            Outcome::Rejected(it) => Self::Rejection {
                code: it.code.clone(),
                message: it.message.clone(),
                retriable: it.retriable,
            },
            Outcome::Failed { kind, why } => Self::failure(kind, why),
        }
    }
}

impl From<&Replied> for ReplyForm {
    fn from(it: &Replied) -> Self {
        Self {
            content_type: it.content_type.clone(),
            body: Content::of(&it.body),
            events: events(&it.events),
            ephemeral: Some(events(&it.ephemeral)),
            effects: Some(it.caused.iter().map(CausedForm::of).collect()),
            writes: Some(writes(&it.writes)),
        }
    }
}

fn events(events: &[Event]) -> Vec<EventForm> {
    let form = |event: &Event| EventForm {
        kind: event.kind.clone(),
        content_type: event.content_type.clone(),
        body: Content::of(&event.body),
    };
    events.iter().map(form).collect()
}

fn writes(writes: &[Write]) -> BTreeMap<String, Option<Content>> {
    let form = |write: &Write| {
        let key = String::from_utf8_lossy(&write.key).into_owned();
        (key, write.value.as_ref().map(|value| Content::of(value)))
    };
    writes.iter().map(form).collect()
}

impl CausedForm {
    fn of(caused: &Caused) -> Self {
        match caused {
            Caused::Timer { name, due_ms } => Self::Timer { name: name.clone(), due_ms: *due_ms },
            Caused::Sent { to, reply } => {
                Self::Message { to: to.to_string(), reply_as: reply.clone() }
            }
            Caused::Request { id } => Self::Request { id: id.clone() },
            Caused::Expires { at_ms } => Self::Expiry { at_ms: *at_ms },
            Caused::Closed => Self::Close,
            Caused::More(count) => Self::More { count: *count },
        }
    }
}
