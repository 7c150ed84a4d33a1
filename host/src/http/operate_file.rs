//! A session as a file: JSON lines that one node writes and another reads, of another cluster or
//! version perhaps.
//!
//! | line | what |
//! |---|---|
//! | `{"slotd_session": 1, ...}` | the head: the format's version, the session, whose shape its state has |
//! | `{"message": {...}}` | an entry of its history, from number 1 up, without a gap |
//! | `{"state": {...}}` | a key with its value |
//! | `{"end": {...}}` | how many of both there were; without it the file is not whole |
//!
//! Unknown fields are ignored, so that a later version may add some; what it may not ignore is a new
//! number of the format. Bytes are in base64.

use super::{body::decode_base64, operate::NOTE_FORMAT, params, views::SessionImported};
use crate::{
    error::{Code, Error},
    limits,
    log::record::{DeploymentId, Entry, Event},
    names::SessionKey,
    node::{Consistency, Cursor, History, Node, Range, ReadBy},
    operator::{
        Action, Entered, Import, Imported, Operation, StatePage, StateRange, session_exists,
    },
    plugin::{Digest, check_content_type, check_event_kind},
    service::catalogue::Service,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body::Body;
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{convert::Infallible, sync::Arc};
use tokio::time::Instant;

/// The version of the file's format.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
enum Line {
    #[serde(rename = "message")]
    Message(Box<MessageLine>),
    #[serde(rename = "state")]
    State(StateLine),
    #[serde(rename = "end")]
    End(EndLine),
    /// The export failed on its way.
    #[serde(rename = "failed")]
    Failed(String),
}

#[derive(Clone, Serialize, Deserialize)]
struct HeadLine {
    slotd_session: u32,
    service: String,
    session: String,
    /// Its last message.
    seq: u64,
    created_ms: u64,
    exported_ms: u64,
    /// The version whose shape the state has.
    version: String,
    digest: Option<Digest>,
    /// Whether the history is in the file.
    history: bool,
}

#[derive(Serialize, Deserialize)]
struct MessageLine {
    seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    operator: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sender: Option<String>,
    time_ms: u64,
    content_type: String,
    body_base64: String,
    reply_content_type: String,
    reply_base64: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(default)]
    events: Vec<EventLine>,
}

#[derive(Serialize, Deserialize)]
struct EventLine {
    kind: String,
    content_type: String,
    body_base64: String,
}

#[derive(Serialize, Deserialize)]
struct StateLine {
    key: String,
    value_base64: String,
}

#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct EndLine {
    messages: u64,
    keys: u64,
}

// ---- out ---------------------------------------------------------------------------------------

/// A session on its way into a file.
pub(super) struct Export {
    node: Arc<Node>,
    key: SessionKey,
    service: Arc<Service>,
    head: HeadLine,
    /// The state's first page, read with the head.
    first: Option<StatePage>,
    at: Cursor,
    step: Step,
    end: EndLine,
}

enum Step {
    Head,
    /// What comes after this message.
    History(u64),
    /// The first page, or what comes after a key.
    State(Option<String>),
    End,
    Done,
}

impl Export {
    /// # Errors
    /// `session-not-found`, and whatever reading it can meet.
    pub(super) async fn begin(
        node: Arc<Node>,
        key: SessionKey,
        history: bool,
    ) -> Result<Self, Error> {
        let first = node.session_state(&key, whole(None)).await?;
        let (service, info) = (node.catalogued(&key.service)?, &first.info);
        let shape = service.deployments.iter().rfind(|known| *known.label == *info.plugin);
        let head = HeadLine {
            slotd_session: FORMAT,
            service: key.service.to_string(),
            session: key.session.to_string(),
            seq: info.seq,
            created_ms: info.created_ms,
            exported_ms: crate::slot::now_ms(),
            version: info.plugin.clone(),
            digest: shape.map(|known| known.digest),
            history,
        };
        let at = Cursor::after(info.seq, info.incarnation);
        let first = Some(first);
        let end = EndLine { messages: 0, keys: 0 };
        Ok(Self { node, key, service, head, first, at, step: Step::Head, end })
    }

    pub(super) fn lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut export| async move {
            if matches!(export.step, Step::Done) {
                return None;
            }
            let mut out = BytesMut::new();
            if let Err(error) = export.step(&mut out).await {
                // Too late for another answer: the reader sees that the end is missing, and why.
                line(&mut out, &Line::Failed(error.to_string()));
                export.step = Step::Done;
            }
            // It waits for its reader: what it grew by is not to wait with it.
            Some((Ok(Bytes::copy_from_slice(&out)), export))
        })
    }

    async fn step(&mut self, out: &mut BytesMut) -> Result<(), Error> {
        self.step = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Head => {
                line(out, &self.head);
                if self.head.history { Step::History(0) } else { Step::State(None) }
            }
            Step::History(after) if after >= self.at.seq => Step::State(None),
            Step::History(after) => self.history(out, after).await?,
            Step::State(after) => self.state(out, after).await?,
            Step::End => {
                let EndLine { messages, keys } = self.end;
                line(out, &Line::End(EndLine { messages, keys }));
                Step::Done
            }
            Step::Done => Step::Done,
        };
        Ok(())
    }

    async fn history(&mut self, out: &mut BytesMut, after: u64) -> Result<Step, Error> {
        let range = Range::After { seq: after, limit: limits::PAGE_ENTRIES_MAX };
        // Another node does not know who asks. Who does not read what that holds is cut by then.
        let until = Instant::now() + limits::WRITE_STALL;
        let page = loop {
            let (reader, consistency) = (ReadBy::Operator, Consistency::Current);
            match self.node.history(&self.key, range, reader, consistency).await {
                Err(full) if full.code == Code::BuffersFull && Instant::now() < until => {
                    tokio::time::sleep(limits::EXPORT_RETRY).await;
                }
                page => break page?,
            }
        };
        let History { entries, incarnation, .. } = page;
        self.is_same(incarnation == self.at.of || incarnation.is_none())?;
        let mut reached = after;
        for (entry, _) in entries.iter().filter(|(entry, _)| entry.seq <= self.at.seq) {
            line(out, &Line::Message(Box::new(self.message(entry))));
            self.end.messages += 1;
            reached = entry.seq;
        }
        self.is_same(reached > after)?;
        Ok(Step::History(reached))
    }

    fn message(&self, entry: &Entry) -> MessageLine {
        let events = entry.events.iter().map(|event| EventLine {
            kind: event.kind.clone(),
            content_type: event.content_type.clone(),
            body_base64: BASE64.encode(&event.body),
        });
        MessageLine {
            seq: entry.seq,
            id: entry.client_key().map(str::to_owned),
            operator: entry.is_operators(),
            sender: entry.sender.clone(),
            time_ms: entry.time_ms,
            content_type: entry.content_type.clone(),
            body_base64: BASE64.encode(&entry.body),
            reply_content_type: entry.reply_content_type.clone(),
            reply_base64: BASE64.encode(&entry.reply),
            digest: self.service.deployment(entry.deployment).map(|known| known.digest),
            events: events.collect(),
        }
    }

    async fn state(&mut self, out: &mut BytesMut, after: Option<String>) -> Result<Step, Error> {
        let page = match self.first.take() {
            Some(first) => first,
            None => {
                let page = self.node.session_state(&self.key, whole(after)).await?;
                let at = Cursor::after(page.info.seq, page.info.incarnation);
                self.is_same(at == self.at)?;
                page
            }
        };
        for (key, value) in &page.pairs {
            let state = StateLine { key: key.clone(), value_base64: BASE64.encode(value) };
            line(out, &Line::State(state));
            self.end.keys += 1;
        }
        let last = page.pairs.into_iter().next_back().filter(|_| page.more);
        Ok(last.map_or(Step::End, |(key, _)| Step::State(Some(key))))
    }

    fn is_same(&self, same: bool) -> Result<(), Error> {
        match same {
            true => Ok(()),
            false => Err(Error::new(
                Code::SessionChanged,
                format!("{} changed while it was exported: export it again", self.key),
            )),
        }
    }
}

fn whole(after: Option<String>) -> StateRange {
    StateRange { prefix: String::new(), after, limit: limits::STATE_SCAN_ENTRIES_MAX }
}

fn line(out: &mut BytesMut, value: &impl Serialize) {
    // Every line above has a JSON form.
    out.extend_from_slice(&serde_json::to_vec(value).unwrap_or_default());
    out.extend_from_slice(b"\n");
}

// ---- in ----------------------------------------------------------------------------------------

/// Reads a file into a session, a part at a time: a small session in one, all of it or nothing.
pub(super) struct Reader {
    node: Arc<Node>,
    key: SessionKey,
    who: String,
    reading: Reading,
    /// The session's last message that was brought in.
    after: u64,
    history: Vec<Imported>,
    changes: Vec<(String, Option<Bytes>)>,
    bytes: usize,
    messages: u64,
    keys: u64,
    /// Of the last message that was read.
    time_ms: u64,
    /// Where the last part that was brought in has left the session.
    at: Option<Cursor>,
    head: Option<(HeadLine, DeploymentId)>,
}

/// How a file is to be read.
pub(super) struct Reading {
    /// A session that is there goes.
    pub(super) replace: bool,
    /// Where the version is unknown whose shape the state has, it is the current one's.
    pub(super) assume_current: bool,
    /// Of a message, as this node takes them: the log has room for so many.
    pub(super) body_bytes_max: usize,
}

impl Reader {
    pub(super) fn new(node: Arc<Node>, key: SessionKey, who: String, reading: Reading) -> Self {
        Self {
            node,
            key,
            who,
            reading,
            after: 0,
            history: Vec::new(),
            changes: Vec::new(),
            bytes: 0,
            messages: 0,
            keys: 0,
            time_ms: 0,
            at: None,
            head: None,
        }
    }

    /// # Errors
    /// What is wrong with the file, or what the slot says; of a session that came in parts nothing is
    /// left then, unless a message came to it.
    pub(super) async fn import<B>(mut self, body: B) -> Result<SessionImported, Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match self.read(body).await {
            Ok(imported) => Ok(imported),
            Err(error) => Err(self.take_back(error).await),
        }
    }

    /// Deletes what was brought in, if nothing came to it: clients see a session from its first part on,
    /// and what they sent was acknowledged.
    async fn take_back(self, error: Error) -> Error {
        let Some(at) = self.at.filter(|_| error.code != Code::SessionChanged) else { return error };
        let operation = Operation::new(None, self.who, Some(at), Action::Discard);
        match self.node.operate(&self.key, operation).await {
            Ok(_) => error,
            // A removal takes its sessions with it.
            Err(gone) if gone.code == Code::ServiceNotFound => error,
            Err(why) => {
                tracing::warn!(session = %self.key, %why, "a part of an import is left");
                let left = format!("{}; what came in before is left: {}", error.detail, why.detail);
                Error { detail: Error::new(error.code, left).detail, ..error }
            }
        }
    }

    async fn read<B>(&mut self, mut body: B) -> Result<SessionImported, Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut partial = BytesMut::new();
        let mut end = None;
        let mut number = 0_u64;
        // So much of `partial` has no end of a line.
        let mut looked_at = 0;
        loop {
            let frame = tokio::time::timeout(limits::IMPORT_STALL, body.frame()).await;
            let frame = frame.map_err(|_| {
                Error::new(Code::RequestTimeout, "the file did not come any further in time")
            })?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| params::invalid("the body broke off"))?;
            let Ok(chunk) = frame.into_data() else { continue };
            partial.extend_from_slice(&chunk);
            while let Some(at) = partial[looked_at..].iter().position(|b| *b == b'\n') {
                let text = partial.split_to(looked_at + at + 1);
                let at = text.len() - 1;
                looked_at = 0;
                number += 1;
                if let Some(done) = self.line(number, &text[..at], end.is_some()).await? {
                    end = Some(done);
                }
            }
            looked_at = partial.len();
            if partial.len() > limits::IMPORT_LINE_BYTES_MAX {
                return Err(bad(number + 1, "it is too long"));
            }
        }
        if !partial.is_empty() {
            number += 1;
            if let Some(done) = self.line(number, &partial, end.is_some()).await? {
                end = Some(done);
            }
        }
        let counted = EndLine { messages: self.messages, keys: self.keys };
        match end {
            None => Err(params::invalid(
                "the file is not whole: its last line is not {\"end\": ...}; export it again",
            )),
            Some(end) if end != counted => Err(params::invalid(format!(
                "the file is not whole: it says {end:?}, it has {counted:?}"
            ))),
            Some(_) => self.finish().await,
        }
    }

    async fn line(&mut self, at: u64, text: &[u8], ended: bool) -> Result<Option<EndLine>, Error> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        if ended {
            return Err(bad(at, "it comes after the end"));
        }
        if self.head.is_none() {
            let head = serde_json::from_slice(text);
            let head: HeadLine =
                head.map_err(|e| bad(at, format!("it is no session's head: {e}")))?;
            self.begin(head).await?;
            return Ok(None);
        }
        let line = serde_json::from_slice(text).map_err(|e| bad(at, e))?;
        match line {
            Line::Message(message) => {
                let message = self.message(*message).map_err(|why| bad(at, why))?;
                self.time_ms = message.time_ms;
                if !self.history.is_empty() && self.bytes + message.bytes() > PART_BYTES {
                    self.part(false).await?;
                }
                self.bytes += message.bytes();
                self.history.push(message);
                self.messages += 1;
            }
            Line::State(StateLine { key, value_base64 }) => {
                let value = decode_base64(&value_base64);
                let value = value.ok_or_else(|| bad(at, "a value is not base64"))?;
                if key.is_empty() || key.len() > limits::STATE_KEY_BYTES_MAX {
                    let most = limits::STATE_KEY_BYTES_MAX;
                    return Err(bad(
                        at,
                        format!("a key has 1 to {most} bytes, this one {}", key.len()),
                    ));
                }
                let bytes = limits::IMPORT_PAIR_BYTES + key.len() + value.len();
                if self.bytes > 0 && self.bytes + bytes > PART_BYTES {
                    self.part(false).await?;
                }
                self.bytes += bytes;
                self.changes.push((key, Some(value.into())));
                self.keys += 1;
            }
            Line::End(end) => return Ok(Some(end)),
            Line::Failed(why) => {
                return Err(params::invalid(format!("the export had failed: {why}")));
            }
        }
        Ok(None)
    }

    async fn begin(&mut self, head: HeadLine) -> Result<(), Error> {
        if head.slotd_session != FORMAT {
            return Err(params::invalid(format!(
                "the file's format is {}, this slotd reads {FORMAT}",
                head.slotd_session
            )));
        }
        // They come into the session's history.
        SessionKey::parse(&head.service, &head.session)?;
        params::check_name("the version", &head.version, limits::PLUGIN_VERSION_BYTES_MAX + 16)?;
        let service = self.node.catalogued(&self.key.service)?;
        let deployment = match head.digest.and_then(|digest| deployed(&service, digest)) {
            Some(known) => known,
            None if self.reading.assume_current => service.current,
            None => {
                return Err(Error::new(
                    Code::ShapeUnknown,
                    format!(
                        "the state has the shape of {}, which {} never ran: deploy that version \
                         first, or say that the current one can read it (assume_current)",
                        head.version, self.key.service
                    ),
                ));
            }
        };
        if !self.reading.replace {
            // The slot looks, too; but it takes a first part that is there for one that came twice.
            match self.node.session(&self.key, Consistency::Current).await {
                Ok(_) => return Err(session_exists(&self.key)),
                Err(error) if error.code == Code::SessionNotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.head = Some((head, deployment));
        Ok(())
    }

    fn message(&self, line: MessageLine) -> Result<Imported, String> {
        let bytes = |base64: &str, what: &str| {
            decode_base64(base64).map(Bytes::from).ok_or_else(|| format!("{what} is not base64"))
        };
        if self.keys > 0 {
            return Err("a message comes before the state".into());
        }
        if line.seq != self.messages + 1 {
            return Err(format!("it is message {}, due is {}", line.seq, self.messages + 1));
        }
        let checked = |checked: Result<(), Error>| checked.map_err(|e| e.detail.into_owned());
        if let Some(id) = &line.id {
            checked(params::check_idempotency_key(id))?;
        }
        if let Some(sender) = &line.sender {
            checked(params::check_sender(sender))?;
        }
        checked(params::check_content_type(&line.content_type))?;
        check_time(line.time_ms, self.time_ms, crate::slot::now_ms())?;
        let service = self.node.catalogued(&self.key.service).map_err(|e| e.to_string())?;
        let deployment = line.digest.and_then(|digest| deployed(&service, digest));
        let events = line.events.into_iter().map(|event| {
            let body = bytes(&event.body_base64, "an event's body")?;
            Ok::<_, String>(Event { kind: event.kind, content_type: event.content_type, body })
        });
        let imported = Imported {
            id: line.id,
            is_operators: line.operator,
            sender: line.sender,
            time_ms: line.time_ms,
            content_type: line.content_type,
            body: bytes(&line.body_base64, "a body")?,
            reply_content_type: line.reply_content_type,
            reply: bytes(&line.reply_base64, "a reply")?,
            deployment: deployment.unwrap_or(service.current),
            events: events.collect::<Result<_, String>>()?,
        };
        fits(&imported, self.reading.body_bytes_max)?;
        Ok(imported)
    }

    async fn finish(&mut self) -> Result<SessionImported, Error> {
        let sent = self.part(true).await?;
        Ok(SessionImported {
            seq: sent.seq,
            position: Cursor::after(sent.seq, sent.incarnation).to_string(),
            slot: sent.slot,
            messages: self.messages,
            keys: self.keys,
        })
    }

    /// Brings in what was read.
    async fn part(&mut self, is_last: bool) -> Result<crate::node::Sent, Error> {
        let Some((head, deployment)) = &self.head else {
            return Err(params::invalid("the file is empty"));
        };
        let note = json!({
            "format": NOTE_FORMAT, "action": "import",
            "from": {
                "service": head.service, "session": head.session, "seq": head.seq,
                "exported_ms": head.exported_ms, "version": head.version,
            },
            "messages": self.messages, "keys": self.keys, "whole": is_last,
        });
        let history = std::mem::take(&mut self.history);
        let changes = std::mem::take(&mut self.changes);
        self.bytes = 0;
        let entered = (is_last || !changes.is_empty())
            .then(|| Entered { changes, note: note.to_string().into() });
        let after = self.after;
        self.after += history.len() as u64 + u64::from(entered.is_some());
        let import = Import {
            replace: self.reading.replace,
            after,
            created_ms: head.created_ms,
            deployment: *deployment,
            history,
            entered,
        };
        // What follows goes behind what came before and nowhere else: the name may have another session.
        let expected = self.at;
        let operation = Operation::new(None, self.who.clone(), expected, Action::Import(import));
        let sent = self.node.operate(&self.key, operation).await?;
        self.at = Some(Cursor::after(sent.seq, sent.incarnation));
        Ok(sent)
    }
}

/// What is brought in at a time: one message may be more, and then comes alone. A batch of the log
/// has room for it, as it has for what one message may do.
const PART_BYTES: usize = limits::STATE_WRITE_BYTES_MAX / 2;

/// Whether a message is one that this node could have taken, and its handler answered. Kinds that
/// are reserved now may be in what was stored before.
fn fits(message: &Imported, body_bytes_max: usize) -> Result<(), String> {
    let within = |what: &str, have: usize, limit: usize| match have > limit {
        true => Err(format!("{what} has {have} bytes, this node takes {limit}")),
        false => Ok(()),
    };
    let body_bytes_max = if message.is_operators { limits::NOTE_BYTES_MAX } else { body_bytes_max };
    within("the body", message.body.len(), body_bytes_max)?;
    within("the reply", message.reply.len(), limits::REPLY_BYTES_MAX)?;
    check_content_type(&message.reply_content_type, "the reply").map_err(|e| e.to_string())?;
    if message.events.len() > limits::EVENTS_MAX {
        let events = message.events.len();
        return Err(format!(
            "it has {events} events, a message emits up to {}",
            limits::EVENTS_MAX
        ));
    }
    let mut bytes = 0;
    for Event { kind, content_type, body } in &message.events {
        bytes += kind.len() + content_type.len() + body.len();
        let form =
            check_event_kind(kind).and_then(|()| check_content_type(content_type, "an event"));
        form.map_err(|e| e.to_string())?;
    }
    within("all that it emitted", bytes, limits::EVENT_BYTES_MAX)
}

/// A session's times never go back, and its next message's can't be before its last one's.
fn check_time(time_ms: u64, before_ms: u64, now_ms: u64) -> Result<(), String> {
    if time_ms < before_ms {
        return Err(format!("time_ms is {time_ms}, the message before has {before_ms}"));
    }
    let latest = now_ms.saturating_add(limits::IMPORT_AHEAD_MAX.as_millis() as u64);
    match time_ms > latest {
        true => Err(format!("time_ms is {time_ms}, this node's clock is at {now_ms}")),
        false => Ok(()),
    }
}

fn deployed(service: &Service, digest: Digest) -> Option<DeploymentId> {
    let known = service.deployments.iter().rfind(|known| known.digest == digest);
    known.map(|known| known.id)
}

fn bad(line: u64, why: impl std::fmt::Display) -> Error {
    params::invalid(format!("line {line} of the file: {why}"))
}
