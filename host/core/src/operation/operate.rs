//! An operator's change to a session. A repeat is applied once.

use super::{
    Forwarded, Operation,
    wire::{Parts, body as in_body, parts, take, value},
};
use crate::{
    effects::Origin,
    error::Error,
    message::{Purpose, Sent},
    names::{ServiceName, SessionKey, SlotId},
    operator::{self, Action},
};
use bytes::Bytes;

#[derive(Clone, Debug)]
pub struct Operate {
    pub key: SessionKey,
    pub operation: operator::Operation,
}

impl Operation for Operate {
    type Answer = Sent;
    const PURPOSE: Purpose = Purpose::Operation;
    const FROM_COPY: bool = false;
    const AT_ONCE: bool = false;
    const CALLS_HANDLER: bool = false;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.key.service)
    }
}

/// The body is the [`operator::Operation`]. Behind the session is what imported messages come from, if any
/// comes from something: by their places in the history. Versions that don't know it ignore it.
impl Forwarded for Operate {
    const TAGS: &[u32] = &[11];

    fn slot(&self, slot_count: u16) -> SlotId {
        self.key.slot(slot_count)
    }
    fn encode(self) -> Result<Parts, Error> {
        let Self { key, operation } = self;
        let origins = origins(&operation);
        let body = in_body(&operation)?;
        match origins.is_empty() {
            true => parts(Self::TAGS[0], &key, body),
            false => parts(Self::TAGS[0], &(key, origins), body),
        }
    }
    fn decode(_: u32, fields: &[u8], body: Bytes) -> Result<Self, String> {
        let (key, rest) = take(fields)?;
        let mut operation: operator::Operation = value(&body)?;
        if !rest.is_empty() {
            set_origins(&mut operation, value(rest)?);
        }
        Ok(Self { key, operation })
    }
}

fn origins(operation: &operator::Operation) -> Vec<(u32, Origin)> {
    let Action::Import(import) = &operation.action else { return Vec::new() };
    let all = (0u32..).zip(&import.history);
    all.filter_map(|(at, message)| Some((at, message.origin.as_deref()?.clone()))).collect()
}

fn set_origins(operation: &mut operator::Operation, origins: Vec<(u32, Origin)>) {
    let Action::Import(import) = &mut operation.action else { return };
    for (at, origin) in origins {
        if let Some(message) = import.history.get_mut(at as usize) {
            message.origin = Some(origin.into());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        effects::{Entered, Firing, Forked, Inherited},
        log::record::Pin,
        operator::{Fork, Import, Imported},
    };

    fn message(origin: Option<Origin>) -> Imported {
        Imported {
            id: None,
            is_operators: false,
            sender: None,
            time_ms: 5,
            content_type: "t".into(),
            body: Bytes::new(),
            reply_content_type: "t".into(),
            reply: Bytes::new(),
            deployment: 1,
            events: Vec::new(),
            origin: origin.map(Box::new),
        }
    }

    /// A node of a version before would read something else, or refuse a session that has none of it.
    #[test]
    fn an_origin_is_sent_beside_what_earlier_versions_read() {
        let firing = Firing { name: "tick".into(), due_ms: 3, missed: 1, attempt: 2 };
        let origin = Origin::Timer(firing);
        let operate = |history| {
            let action = Action::Import(Import {
                replace: false,
                after: 0,
                created_ms: 1,
                deployment: 1,
                history,
                entered: None,
            });
            let key = SessionKey::parse("chat", "room").unwrap();
            Operate {
                key,
                operation: operator::Operation::new(Some("k"), "ann".into(), None, action),
            }
        };
        let with = operate(vec![message(None), message(Some(origin.clone()))]).encode().unwrap();
        let without = operate(vec![message(None), message(None)]).encode().unwrap();
        assert_eq!(with.body, without.body);
        assert!(with.head.starts_with(&without.head), "its fields are the first");
        let (tag, fields) = super::super::wire::split(&with.head).unwrap();
        let read = Operate::decode(tag, fields, with.body).unwrap();
        let Action::Import(import) = read.operation.action else { panic!("not an import") };
        let origins: Vec<_> = import.history.into_iter().map(|it| it.origin).collect();
        assert_eq!(origins, [None, Some(Box::new(origin))]);
    }

    /// The slot of the new session is mostly another node's.
    #[test]
    fn a_fork_goes_between_nodes_as_it_is() {
        let key = SessionKey::parse("chat", "room").unwrap();
        let from = key.session.clone();
        let forked = Forked { root: from.clone(), from, of: 1, at: 7, first: 7, depth: 1 };
        let state = Some(Entered { writes: vec![("k".into(), Some("v".into()))] });
        let inherited = Inherited { origin: None, forked: forked.clone().into(), state, by: None };
        let mut entry = message(None).entry(7);
        entry.origin = Some(Box::new(Origin::Inherited(inherited.into())));
        let pinned = Some(Pin { against: 2, reason: "so".into() });
        let values = vec![("k".into(), "v".into())];
        let history = vec![entry];
        let fork = Fork { forked, created_ms: 1, deployment: 1, pinned, after: 0, history, values };
        let action = Action::Fork(fork.clone().into());
        let operation = operator::Operation::new(None, String::new(), None, action);
        let sent = Operate { key, operation }.encode().unwrap();
        let (tag, fields) = super::super::wire::split(&sent.head).unwrap();
        let read = Operate::decode(tag, fields, sent.body).unwrap();
        let Action::Fork(read) = read.operation.action else { panic!("not a fork") };
        assert_eq!((read.history, read.values), (fork.history, fork.values));
        assert_eq!((read.forked, read.pinned), (fork.forked, fork.pinned));
    }
}
