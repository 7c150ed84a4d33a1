//! A node's test double in this folder's tests: sessions in memory, echoing their messages.
//!
//! Its handler: the reply is the body; each JSON message emits as many events as its `events`
//! says (default one); `{"reject":..}` is rejected; `{"hang":true}` is never decided.

use crate::{
    buffers::Held,
    error::{Code, Error, Rejection},
    log::record::{Entry, Event},
    message::{Ephemeral, LiveSender, Origin, live_channel},
    names::{ServiceName, SessionId, SessionKey},
    node::{
        Answer, History, Incarnation, Incoming, Live, Pending, Published, Range, Sent, SessionInfo,
        Subscribed,
    },
    operation::{Delete, Describe, Notify, Query, ReadHistory, Subscribe},
    slot::Mail,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

pub(super) const PLUGIN: &str = "1.0.0+0123456789ab";
/// Small, so that tests read several pages.
const BACKLOG_PAGE: usize = 3;

#[derive(Default)]
pub(super) struct FakeNode {
    sessions: Mutex<BTreeMap<SessionKey, Session>>,
    /// Sessions that were deleted, by name.
    deleted: Mutex<BTreeMap<SessionKey, u64>>,
    hanging: Mutex<Vec<oneshot::Sender<Result<Sent, Error>>>>,
    pub(super) refuse_subscriptions: Mutex<u32>,
}

#[derive(Default)]
struct Session {
    /// Of an earlier session of that name.
    before: u64,
    entries: Vec<Arc<Entry>>,
    subscribers: Vec<LiveSender>,
}

impl Session {
    fn incarnation(&self) -> Incarnation {
        match self.entries.is_empty() {
            true => Incarnation::NONE,
            false => Incarnation::from_wire(self.before + 1),
        }
    }
    fn seq(&self) -> u64 {
        self.entries.len() as u64
    }
    fn info(&self, key: &SessionKey) -> SessionInfo {
        SessionInfo {
            service: key.service.clone(),
            session: key.session.clone(),
            slot: key.slot(512),
            seq: self.seq(),
            created_ms: 1,
            updated_ms: 2,
            plugin: PLUGIN.into(),
            state_keys: 0,
            state_bytes: 0,
            pinned: None,
            incarnation: Some(self.incarnation()),
            made_again: self.before > 0,
            closed: false,
            forked: None,
        }
    }
}

fn published(entry: &Entry, of: Incarnation) -> Published {
    let events = entry.events.clone().into();
    Published { seq: entry.seq, incarnation: Some(of), time_ms: entry.time_ms, events }
}

fn service_exists(service: &ServiceName) -> Result<(), Error> {
    match service.as_str() {
        "chat" => Ok(()),
        other => Err(Error::new(Code::ServiceNotFound, format!("no service {other:?}"))),
    }
}

impl FakeNode {
    /// Does to its subscribers what a restart of the slot does.
    pub(super) fn restart_slot(&self) {
        self.sessions.lock().values_mut().for_each(|s| s.subscribers.clear());
    }
    pub(super) fn hanging(&self) -> usize {
        self.hanging.lock().len()
    }
    pub(super) fn decide_hanging(&self) {
        for caller in self.hanging.lock().drain(..) {
            let _ = caller.send(Err(Error::new(Code::Unavailable, "the node is stopping")));
        }
    }
    pub(super) fn subscribers(&self, key: &SessionKey) -> usize {
        self.sessions.lock().get(key).map_or(0, |s| s.subscribers.len())
    }

    fn session_of<'a>(
        &self,
        sessions: &'a mut BTreeMap<SessionKey, Session>,
        key: &SessionKey,
    ) -> &'a mut Session {
        let before = self.deleted.lock().get(key).copied().unwrap_or(0);
        sessions.entry(key.clone()).or_insert_with(|| Session { before, ..Session::default() })
    }

    pub(super) async fn enqueue(
        &self,
        key: &SessionKey,
        message: Incoming,
    ) -> Result<Pending, Error> {
        self.enqueue_now(key, message)
    }

    pub(super) fn enqueue_ready(
        &self,
        key: &SessionKey,
        messages: &mut VecDeque<Incoming>,
        mut each: impl FnMut(Pending),
    ) {
        if service_exists(&key.service).is_ok() {
            let taken = messages.drain(..).flat_map(|message| self.enqueue_now(key, message));
            taken.for_each(&mut each);
        }
    }

    fn enqueue_now(&self, key: &SessionKey, message: Incoming) -> Result<Pending, Error> {
        service_exists(&key.service)?;
        let (tx, rx) = oneshot::channel();
        let json: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        if json["hang"] == true {
            self.hanging.lock().push(tx);
            return Ok(Pending::here(rx));
        }
        let _ = tx.send(self.apply(key, message, &json));
        Ok(Pending::here(rx))
    }

    pub(super) async fn send(&self, key: &SessionKey, message: Incoming) -> Result<Sent, Error> {
        self.enqueue(key, message).await?.await
    }

    /// Answers mail as a slot would.
    pub(super) async fn take(&self, mail: Mail) {
        match mail {
            Mail::Query(Query { key, content_type, body, .. }, reply) => {
                drop(reply.send(self.query(&key, content_type, body)));
            }
            Mail::ReadHistory(ReadHistory { key, range, .. }, reply) => {
                drop(reply.send(self.history(&key, range)));
            }
            Mail::Describe(Describe { key, .. }, reply) => drop(reply.send(self.session(&key))),
            Mail::Delete(Delete { key }, reply) => drop(reply.send(self.delete(&key).await)),
            Mail::Subscribe(Subscribe { key, after }, reply) => {
                drop(reply.send(self.subscribe(&key, after)));
            }
            Mail::Notify(Notify { key, sender, event }, reply) => {
                drop(reply.send(self.notify(&key, sender, event)));
            }
            other => other.refuse(Error::internal("the stand-in does not know this operation")),
        }
    }

    fn apply(&self, key: &SessionKey, message: Incoming, json: &Value) -> Result<Sent, Error> {
        if let Some(code) = json["reject"].as_str() {
            let mut error = Error::new(Code::Rejected, "rejected").with_plugin(PLUGIN);
            error.rejection = Some(Box::new(Rejection {
                code: code.into(),
                message: "no".into(),
                retriable: false,
            }));
            return Err(error);
        }
        let mut sessions = self.sessions.lock();
        let session = self.session_of(&mut sessions, key);
        let of = Incarnation::from_wire(session.before + 1);
        let sent = |seq, replayed, body| Sent {
            seq,
            incarnation: Some(of),
            slot: key.slot(512),
            plugin: PLUGIN.into(),
            replayed,
            content_type: message.content_type.clone(),
            body,
            guest_time: Duration::ZERO,
        };
        let first = session.entries.iter().find(|e| message.id.is_some() && e.id == message.id);
        if let Some(first) = first {
            return match first.body == message.body {
                true => Ok(sent(first.seq, true, first.reply.clone())),
                false => Err(Error::new(Code::IdempotencyConflict, "used with another body")),
            };
        }
        let seq = session.seq() + 1;
        let events = (0..json["events"].as_u64().unwrap_or(1))
            .map(|i| Event {
                kind: "line".into(),
                content_type: "application/json".into(),
                body: format!("{{\"n\":{i}}}").into(),
            })
            .collect();
        let entry = Arc::new(Entry {
            seq,
            id: message.id.clone(),
            sender: message.sender.clone(),
            time_ms: 1_000 + seq,
            content_type: message.content_type.clone(),
            body: message.body.clone(),
            reply_content_type: message.content_type.clone(),
            reply: message.body.clone(),
            deployment: 1,
            events,
            origin: None,
            caused: Vec::new(),
        });
        session.entries.push(entry.clone());
        let live = published(&entry, of);
        session.subscribers.retain(|s| s.offer(Live::Published(live.clone())));
        Ok(sent(seq, false, message.body.clone()))
    }

    fn query(&self, key: &SessionKey, content_type: String, body: Bytes) -> Result<Answer, Error> {
        let seq = self.session(key)?.seq;
        let (slot, plugin, guest_time) = (key.slot(512), PLUGIN.into(), Duration::ZERO);
        Ok(Answer { slot, plugin, seq, content_type, body, guest_time })
    }

    fn history(&self, key: &SessionKey, range: Range) -> Result<History, Error> {
        let sessions = self.sessions.lock();
        let session = sessions.get(key).ok_or_else(|| not_found(key))?;
        let (after, limit) = match range {
            Range::After { seq, limit } => (seq as usize, limit),
            Range::Tail { limit } => (session.entries.len().saturating_sub(limit), limit),
        };
        let entries = session.entries.iter().skip(after).take(limit);
        Ok(History {
            slot: key.slot(512),
            entries: entries.map(|e| (e.clone(), PLUGIN.into())).collect(),
            last_seq: session.seq(),
            incarnation: Some(session.incarnation()),
            made_again: session.before > 0,
            forked: None,
            begins: None,
            held: Held::default(),
        })
    }

    fn session(&self, key: &SessionKey) -> Result<SessionInfo, Error> {
        service_exists(&key.service)?;
        let sessions = self.sessions.lock();
        let session = sessions.get(key).filter(|s| s.seq() > 0).ok_or_else(|| not_found(key))?;
        Ok(session.info(key))
    }

    pub(super) async fn delete(&self, key: &SessionKey) -> Result<(), Error> {
        let session = self.sessions.lock().remove(key).ok_or_else(|| not_found(key))?;
        *self.deleted.lock().entry(key.clone()).or_default() += 1;
        session.subscribers.iter().for_each(|s| {
            s.offer(Live::Deleted);
        });
        Ok(())
    }

    pub(super) async fn sessions(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<SessionInfo>, Error> {
        service_exists(service)?;
        let sessions = self.sessions.lock();
        Ok(sessions
            .iter()
            .filter(|(k, _)| k.service == *service && k.session.as_str().starts_with(prefix))
            .filter(|(k, _)| after.is_none_or(|a| k.session > *a))
            .take(limit)
            .map(|(k, s)| s.info(k))
            .collect())
    }

    fn subscribe(&self, key: &SessionKey, after: u64) -> Result<Subscribed, Error> {
        service_exists(&key.service)?;
        {
            let mut refuse = self.refuse_subscriptions.lock();
            if *refuse > 0 {
                *refuse -= 1;
                return Err(Error::new(Code::Unavailable, "the slot is starting"));
            }
        }
        let mut sessions = self.sessions.lock();
        let session = self.session_of(&mut sessions, key);
        let of = session.incarnation();
        let rest = session.entries.iter().skip(after as usize);
        let backlog: Vec<_> = rest.take(BACKLOG_PAGE).map(|e| published(e, of)).collect();
        let seen = after + backlog.len() as u64;
        let live = (seen >= session.seq()).then(|| {
            let (tx, rx) = live_channel();
            session.subscribers.push(tx);
            rx
        });
        Ok(Subscribed { backlog, live, incarnation: Some(of), held: Held::default() })
    }

    fn notify(&self, key: &SessionKey, sender: Option<String>, event: Event) -> Result<(), Error> {
        service_exists(&key.service)?;
        let told = Arc::new(Ephemeral { origin: Origin::Client(sender), time_ms: 5, event });
        if let Some(session) = self.sessions.lock().get_mut(key) {
            session.subscribers.retain(|s| s.offer(Live::Ephemeral(told.clone())));
        }
        Ok(())
    }

    pub(super) fn has(&self, service: &ServiceName) -> bool {
        service_exists(service).is_ok()
    }
    pub(super) fn ready(&self) -> Result<Option<String>, Error> {
        Ok(None)
    }
}

fn not_found(key: &SessionKey) -> Error {
    Error::new(Code::SessionNotFound, format!("session {key} has no message"))
}
