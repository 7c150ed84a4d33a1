//! What a slot answers from what it has: history, a session's description, listings, and the
//! start of a subscription. Cached sessions come before the store, which may be behind.

use crate::{
    error::{Error, StateError},
    limits,
    log::record::{Entry, Head},
    message::{
        Consistency, History, PinInfo, Range, ReadBy, SessionInfo, Subscribed, hold_backlog,
    },
    names::{ServiceName, SessionId, SessionKey, SlotId},
    operation::{Describe, List, Notify, ReadHistory, Subscribe},
    position::Incarnation,
    service::Catalogue,
    slot::{
        Reply, apply::no_session, mail::Serve, session::Session, shell::Shell,
        subscribers::published,
    },
    state::{StateStore, deleted},
};
use std::{collections::BTreeMap, sync::Arc};

impl Serve for ReadHistory {
    async fn serve(self, shell: &mut Shell, reply: Reply<History>) {
        shell.history(&self.key, self.range, self.reader, self.consistency, reply);
    }
}

impl Serve for Describe {
    async fn serve(self, shell: &mut Shell, reply: Reply<SessionInfo>) {
        shell.describe(&self.key, self.consistency, reply);
    }
}

impl Serve for Subscribe {
    async fn serve(self, shell: &mut Shell, reply: Reply<Subscribed>) {
        shell.subscribe(&self.key, self.after, reply);
    }
}

impl Serve for Notify {
    async fn serve(self, shell: &mut Shell, reply: Reply<()>) {
        let Self { key, sender, event } = self;
        let service = shell.context.catalogue.require(&key.service);
        let sent = service.and_then(|_| shell.subscribers.notify(&key, sender, event));
        let _ = reply.send(sent);
    }
}

impl Serve for List {
    async fn serve(self, shell: &mut Shell, reply: Reply<Vec<SessionInfo>>) {
        let Self { slot: _, service, prefix, after, limit, pinned } = self;
        shell.list(&service, &prefix, after.as_ref(), limit, pinned, reply);
    }
}

impl Shell {
    pub(super) fn history(
        &mut self,
        key: &SessionKey,
        range: Range,
        reader: ReadBy,
        consistency: Consistency,
        reply: Reply<History>,
    ) {
        self.with_session(key, consistency, reply, |shell, session| {
            shell.existing(session)?;
            reader.check()?;
            let last_seq = session.head.seq;
            let forked = shell.forked(session)?;
            let first = forked.as_ref().map_or(1, |forked| forked.first);
            let entries = match range {
                // Another session has what comes next.
                Range::After { seq, .. } if seq.saturating_add(1) < first => Vec::new(),
                Range::After { seq, limit } => {
                    shell.entries(session, seq, limit, limits::PAGE_BYTES_MAX)?
                }
                Range::Tail { limit } => {
                    shell.last_entries(session, limit, limits::PAGE_BYTES_MAX)?
                }
            };
            let held = reader.hold(entries.iter().map(|e| e.memory()).sum())?;
            let label = |e: &Entry| shell.context.catalogue.label(&key.service, e.deployment);
            let entries = entries.into_iter().map(|e| (e.clone(), label(&e))).collect();
            let made_again = shell.was_deleted(key)?;
            let incarnation = Some(Incarnation::of(&session.head));
            let (slot, begins) = (shell.slot, None);
            Ok(History { slot, entries, last_seq, incarnation, made_again, forked, begins, held })
        });
    }

    pub(super) fn describe(
        &mut self,
        key: &SessionKey,
        consistency: Consistency,
        reply: Reply<SessionInfo>,
    ) {
        self.with_session(key, consistency, reply, |shell, session| {
            shell.existing(session)?;
            let mut info = info(&shell.context.catalogue, shell.slot, key, &session.head);
            info.incarnation = Some(Incarnation::of(&session.head));
            info.made_again = shell.was_deleted(key)?;
            info.closed = shell.is_closed(session)?;
            info.forked = shell.forked(session)?;
            Ok(info)
        });
    }

    /// Gives the subscriber what is there after `after`, and the live end once that is all.
    pub(super) fn subscribe(&mut self, key: &SessionKey, after: u64, reply: Reply<Subscribed>) {
        self.with_session(key, Consistency::Current, reply, |shell, session| {
            shell.context.catalogue.require(&key.service)?;
            let backlog = match session.exists() {
                true => shell.entries(
                    session,
                    after,
                    limits::PAGE_ENTRIES_DEFAULT,
                    limits::PAGE_BYTES_MAX,
                )?,
                false => Vec::new(),
            };
            let reached = backlog.last().map_or(after, |entry| entry.seq);
            let of = Incarnation::of(&session.head);
            let backlog: Vec<_> = backlog.iter().map(|entry| published(entry, of)).collect();
            let held = hold_backlog(&backlog)?;
            let live = match reached >= session.head.seq {
                true => {
                    let from = shell.core.place();
                    let live = shell.subscribers.add(key, from)?;
                    shell.subscriber_came(session)?;
                    Some(live)
                }
                false => None,
            };
            Ok(Subscribed { backlog, live, incarnation: Some(of), held })
        });
    }

    /// Sessions of a service in this slot, in order of their ids.
    pub(super) fn list(
        &mut self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
        reply: Reply<Vec<SessionInfo>>,
    ) {
        let listed = self.merged(service, prefix, after, limit, pinned);
        self.hold_for_all(reply, listed);
    }

    pub(super) fn merged(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
    ) -> Result<Vec<SessionInfo>, Error> {
        let heads = self.merged_heads(service, prefix, after, limit, pinned)?;
        Ok(infos(&self.context.catalogue, self.slot, service, heads.into_iter()))
    }

    pub(super) fn merged_heads(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
        pinned: bool,
    ) -> Result<Vec<(SessionId, Head)>, Error> {
        let in_range = |key: &SessionKey| {
            key.service == *service
                && key.session.as_str().starts_with(prefix)
                && after.is_none_or(|after| key.session > *after)
        };
        let cached: Vec<_> = self.cache.values().filter(|s| in_range(&s.key)).collect();
        let shows = |s: &Session| s.exists() && (!pinned || s.head.pinned.is_some());
        let hidden = cached.iter().filter(|s| !shows(s)).count();
        let (slot, store) = (self.slot, &self.context.store);
        let stored = stored(&**store, slot, service, prefix, after, limit + hidden, pinned);
        let stored = stored?;
        let mut heads: BTreeMap<SessionId, Option<Head>> =
            stored.into_iter().map(|(id, head)| (id, Some(head))).collect();
        for session in cached {
            let head = shows(session).then(|| session.head.clone());
            heads.insert(session.key.session.clone(), head);
        }
        let live = heads.into_iter().filter_map(|(id, head)| Some((id, head?)));
        Ok(live.take(limit).collect())
    }

    /// Entries after `after`: from the store what it has, the rest from the cache.
    fn entries(
        &self,
        session: &Session,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, Error> {
        let mut entries = Vec::new();
        let recent_from = session.recent.front().map_or(session.head.seq + 1, |e| e.seq);
        if after.saturating_add(1) < recent_from {
            let number = session.head.session_number;
            let stored = self.context.store.history(self.slot, number, after, limit, bytes_max);
            entries = stored?;
            // A flush may have brought the store further than the cache knows.
            entries.retain(|entry| entry.seq < recent_from);
        }
        let reached = entries.last().map_or(after, |entry| entry.seq);
        if reached.saturating_add(1) < recent_from && entries.len() < limit {
            // The page ended on its bytes.
            return Ok(entries);
        }
        let mut bytes: usize = entries.iter().map(|e| e.page_bytes()).sum();
        for entry in session.recent.iter().filter(|entry| entry.seq > reached) {
            if entries.len() >= limit || (!entries.is_empty() && bytes > bytes_max) {
                break;
            }
            bytes += entry.page_bytes();
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    /// The last entries, in order; when not all of them fit, those at the end.
    fn last_entries(
        &self,
        session: &Session,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, Error> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in session.recent.iter().rev() {
            if entries.len() >= limit || bytes >= bytes_max {
                break;
            }
            bytes += entry.page_bytes();
            entries.push(entry.clone());
        }
        if entries.len() < limit && bytes < bytes_max {
            // The cache gave all that it has; the store may have that, too.
            let before = entries.last().map_or(session.head.seq + 1, |entry| entry.seq);
            let (number, limit) = (session.head.session_number, limit - entries.len());
            let store = &self.context.store;
            let stored = store.history_back(self.slot, number, before, limit, bytes_max - bytes);
            entries.extend(stored?);
        }
        entries.reverse();
        Ok(entries)
    }

    /// Whether the slot remembers a session of that name that was deleted.
    fn was_deleted(&self, key: &SessionKey) -> Result<bool, Error> {
        let row = deleted::row(key);
        if self.deleted.contains_key(&row) {
            return Ok(true);
        }
        for generation in deleted::generations(self.core.next_session()) {
            let found = self.context.store.get(self.slot, generation, &row)?;
            if found.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn existing(&self, session: &Session) -> Result<(), Error> {
        match session.exists() {
            true => Ok(()),
            false => {
                self.context.catalogue.require(&session.key.service)?;
                Err(no_session(&session.key))
            }
        }
    }

    /// Reads from a session; the answer leaves once what it rests on is durable.
    fn with_session<T: Send + 'static>(
        &mut self,
        key: &SessionKey,
        consistency: Consistency,
        reply: Reply<T>,
        read: impl FnOnce(&mut Self, &mut Session) -> Result<T, Error>,
    ) {
        match self.take_session(key) {
            Ok(mut session) => {
                let answer = read(self, &mut session);
                self.hold_read(session.changed_in, consistency, reply, answer);
                self.put_session(session);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }
}

/// Sessions that the store has, or those of them that are pinned, in order of their ids.
pub fn stored(
    store: &dyn StateStore,
    slot: SlotId,
    service: &ServiceName,
    prefix: &str,
    after: Option<&SessionId>,
    limit: usize,
    pinned: bool,
) -> Result<Vec<(SessionId, Head)>, StateError> {
    match pinned {
        true => store.pinned(slot, service, after, limit),
        false => store.sessions(slot, service, prefix, after, limit),
    }
}

/// What is shown of sessions of one service.
pub fn infos(
    catalogue: &Catalogue,
    slot: SlotId,
    service: &ServiceName,
    heads: impl Iterator<Item = (SessionId, Head)>,
) -> Vec<SessionInfo> {
    let infos = heads.map(|(session, head)| {
        let key = SessionKey { service: service.clone(), session };
        info(catalogue, slot, &key, &head)
    });
    infos.collect()
}

/// What is shown of a session.
pub fn info(catalogue: &Catalogue, slot: SlotId, key: &SessionKey, head: &Head) -> SessionInfo {
    SessionInfo {
        service: key.service.clone(),
        session: key.session.clone(),
        slot,
        seq: head.seq,
        created_ms: head.created_ms,
        updated_ms: head.updated_ms,
        plugin: catalogue.label(&key.service, head.deployment).to_string(),
        state_keys: head.state_keys,
        state_bytes: head.state_bytes,
        pinned: head.pinned.as_ref().map(|pin| PinInfo {
            against: catalogue.label(&key.service, pin.against).to_string(),
            reason: pin.reason.clone(),
        }),
        incarnation: None,
        made_again: false,
        closed: false,
        forked: None,
    }
}
