//! Reads a file into a session, a part at a time.

use super::{EndLine, FORMAT, HeadLine, Line, MessageLine, StateLine};
use crate::{
    effects::Origin,
    error::{Cause, Code, Error},
    http::{body::decode_base64, operate::NOTE_FORMAT, params, views::SessionImported},
    level::EFFECTS_FROM,
    limits,
    log::record::{DeploymentId, Event},
    names::SessionKey,
    node::{Consistency, Cursor, Node},
    operation::Describe,
    operator::{Action, Entered, Import, Imported, Operation, session_exists},
    plugin::{Digest, check_content_type, check_event_kind},
    service::catalogue::Service,
};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Imports a file into a session in parts: a small session in one part, all or nothing.
pub(in crate::http) struct Reader {
    node: Arc<Node>,
    key: SessionKey,
    who: String,
    reading: Reading,
    /// The session's last imported message.
    after: u64,
    history: Vec<Imported>,
    changes: Vec<(String, Option<Bytes>)>,
    bytes: usize,
    messages: u64,
    keys: u64,
    /// Of the last message that was read.
    time_ms: u64,
    /// The session's position after the last imported part.
    at: Option<Cursor>,
    head: Option<(HeadLine, DeploymentId)>,
}

/// How to read a file.
pub(in crate::http) struct Reading {
    /// An existing session is deleted.
    pub(in crate::http) replace: bool,
    /// If the version of the state format is unknown, it is the current one's.
    pub(in crate::http) assume_current: bool,
    /// Limit of a message on this node, for which the log has room.
    pub(in crate::http) body_bytes_max: usize,
}

impl Reader {
    pub(in crate::http) fn new(
        node: Arc<Node>,
        key: SessionKey,
        who: String,
        reading: Reading,
    ) -> Self {
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
    /// What is wrong with the file, or the slot's error. A session imported in parts is then
    /// deleted, unless it received a message.
    pub(in crate::http) async fn import<B>(mut self, body: B) -> Result<SessionImported, Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match self.read(body).await {
            Ok(imported) => Ok(imported),
            Err(error) => Err(self.take_back(error).await),
        }
    }

    /// Deletes what was imported if the session received no message: clients see a session from its
    /// first part on, and their messages were acknowledged.
    async fn take_back(self, error: Error) -> Error {
        let Some(at) = self.at.filter(|_| error.code != Code::SessionChanged) else { return error };
        let operation = Operation::new(None, self.who, Some(at), Action::Discard);
        match self.node.operate(&self.key, operation).await {
            Ok(_) => error,
            // A removal of the service deletes its sessions too.
            Err(gone) if gone.code == Code::ServiceNotFound => error,
            Err(why) => {
                tracing::warn!(session = %self.key, %why, "a failed import left data behind");
                let left = format!(
                    "{}; the part imported before is still there: {}",
                    error.detail, why.detail
                );
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
        // This much of `partial` has no line end.
        let mut looked_at = 0;
        let mut pace = Pace::default();
        loop {
            let Some(frame) = pace.limit(body.frame()).await? else { break };
            let frame = frame.map_err(|_| params::invalid("the body broke off"))?;
            let Ok(chunk) = frame.into_data() else { continue };
            pace.bytes += chunk.len();
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
                "the file is incomplete: its last line is not {\"end\": ...}; export it again",
            )),
            Some(end) if end != counted => Err(params::invalid(format!(
                "the file is incomplete: its end line says {end:?}, but it has {counted:?}"
            ))),
            Some(_) => self.finish().await,
        }
    }

    async fn line(&mut self, at: u64, text: &[u8], ended: bool) -> Result<Option<EndLine>, Error> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        if ended {
            return Err(bad(at, "there is data after the end line"));
        }
        if self.head.is_none() {
            let head = serde_json::from_slice(text);
            let head: HeadLine =
                head.map_err(|e| bad(at, format!("it is not a session header: {e}")))?;
            self.begin(head).await?;
            return Ok(None);
        }
        let line = serde_json::from_slice(text).map_err(|e| bad(at, e))?;
        match line {
            Line::Message(message) => {
                let message = self.message(*message).map_err(|why| bad(at, why))?;
                self.check_level(at, message.origin.as_deref())?;
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
                        format!("a key must have 1 to {most} bytes; this one has {}", key.len()),
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
                return Err(params::invalid(format!(
                    "the export had failed ({why}); export the session again"
                )));
            }
        }
        Ok(None)
    }

    async fn begin(&mut self, head: HeadLine) -> Result<(), Error> {
        if head.slotd_session != FORMAT {
            return Err(params::invalid(format!(
                "the file has format {}; this slotd reads {FORMAT}",
                head.slotd_session
            )));
        }
        // They are recorded in the session's history.
        SessionKey::parse(&head.service, &head.session)?;
        params::check_name("the version", &head.version, limits::PLUGIN_VERSION_BYTES_MAX + 16)?;
        let service = self.node.catalogued(&self.key.service)?;
        let deployment = match head.digest.and_then(|digest| deployed(&service, digest)) {
            Some(known) => known,
            None if self.reading.assume_current => service.target().id(),
            None => {
                return Err(Error::new(
                    Code::ShapeUnknown,
                    format!(
                        "the state was written by {}, which {} never ran: deploy that version \
                         first, or set assume_current if the current version can read it",
                        head.version, self.key.service
                    ),
                ));
            }
        };
        if !self.reading.replace {
            // The slot checks too; but it treats an existing first part as a repeat.
            let describe = Describe { key: self.key.clone(), consistency: Consistency::Current };
            match self.node.call(describe).await {
                Ok(_) => return Err(session_exists(&self.key)),
                Err(error) if error.code == Code::SessionNotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.head = Some((head, deployment));
        Ok(())
    }

    /// Not every node can read what comes from a session, a request or subscribers, or who a client was shown to be: below
    /// its level it is refused. What
    /// comes from a timer becomes a message without an origin there.
    fn check_level(&self, at: u64, origin: Option<&Origin>) -> Result<(), Error> {
        let needed = origin.map(Origin::level).filter(|needed| *needed > EFFECTS_FROM);
        let Some(needed) = needed.filter(|needed| self.node.level_now() < *needed) else {
            return Ok(());
        };
        let detail = format!(
            "line {at} of the file: what the message comes from needs feature level {needed}; \
             raise it with `slotd level --raise`"
        );
        Err(Error::of(Cause::NotYet, detail))
    }

    fn message(&self, mut line: MessageLine) -> Result<Imported, String> {
        let bytes = |base64: &str, what: &str| {
            decode_base64(base64).map(Bytes::from).ok_or_else(|| format!("{what} is not base64"))
        };
        if self.keys > 0 {
            return Err("a message comes before the state".into());
        }
        if line.seq != self.messages + 1 {
            return Err(format!("it is message {}; expected {}", line.seq, self.messages + 1));
        }
        let checked = |checked: Result<(), Error>| checked.map_err(|e| e.detail.into_owned());
        if let Some(id) = &line.id {
            checked(params::check_idempotency_key(id))?;
        }
        if let Some(sender) = &line.sender {
            checked(params::check_sender(sender))?;
        }
        let origin = line.take_origin()?;
        checked(params::check_content_type(&line.content_type))?;
        check_time(line.time_ms, self.time_ms, crate::clock::now_ms())?;
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
            deployment: deployment.unwrap_or_else(|| service.target().id()),
            events: events.collect::<Result<_, String>>()?,
            origin,
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

    /// Imports what was read.
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
        // The next part continues this session only: the name may belong to another one by then.
        let expected = self.at;
        let operation = Operation::new(None, self.who.clone(), expected, Action::Import(import));
        let sent = self.node.operate(&self.key, operation).await?;
        self.at = Some(Cursor::after(sent.seq, sent.incarnation));
        Ok(sent)
    }
}

/// Measures the rate of a file. Only the time spent waiting for it counts: a slot may be slow.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: usize,
}

impl Pace {
    async fn limit<T>(&mut self, next: impl Future<Output = T>) -> Result<T, Error> {
        if self.bytes >= limits::IMPORT_STALL_BYTES_MIN {
            *self = Self::default();
        }
        let since = crate::clock::timer_now();
        let next = tokio::time::timeout(limits::IMPORT_STALL - self.waited, next).await;
        self.waited = (self.waited + since.elapsed()).min(limits::IMPORT_STALL);
        next.map_err(|_| {
            Error::new(
                Code::RequestTimeout,
                format!(
                    "less than {} bytes of the file arrived in {:?}",
                    limits::IMPORT_STALL_BYTES_MIN,
                    limits::IMPORT_STALL
                ),
            )
        })
    }
}

/// How much is imported at a time; a message that is larger is imported alone. A batch of the log
/// has room for it, as for everything that one message may do.
const PART_BYTES: usize = limits::STATE_WRITE_BYTES_MAX / 2;

/// Whether this node could have accepted a message and its handler's reply. Stored events may have
/// kinds that are reserved now.
fn fits(message: &Imported, body_bytes_max: usize) -> Result<(), String> {
    let within = |what: &str, have: usize, limit: usize| match have > limit {
        true => Err(format!("{what} has {have} bytes; this node accepts {limit}")),
        false => Ok(()),
    };
    let origin = message.origin.as_deref();
    let body_bytes_max = match origin {
        _ if message.is_operators => limits::NOTE_BYTES_MAX,
        // Its size is the request's to say, on any node.
        Some(Origin::Http(_)) => body_bytes_max.max(limits::ANSWER_BYTES_MAX as usize),
        _ => body_bytes_max,
    };
    let events_max = match origin {
        // And the one that says that the request was made again.
        Some(Origin::Part(_)) => limits::STREAM_PART_EVENTS + 1,
        _ => limits::EVENTS_MAX,
    };
    within("the body", message.body.len(), body_bytes_max)?;
    within("the reply", message.reply.len(), limits::REPLY_BYTES_MAX)?;
    check_content_type(&message.reply_content_type, "the reply").map_err(|e| e.to_string())?;
    if message.events.len() > events_max {
        let events = message.events.len();
        return Err(format!("it has {events} events; a message may emit up to {events_max}"));
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

/// A session's times never decrease, and its next message can't be earlier than its last one.
fn check_time(time_ms: u64, before_ms: u64, now_ms: u64) -> Result<(), String> {
    if time_ms < before_ms {
        return Err(format!(
            "time_ms is {time_ms}, which is before the previous message's {before_ms}"
        ));
    }
    let latest = now_ms.saturating_add(limits::IMPORT_AHEAD_MAX.as_millis() as u64);
    match time_ms > latest {
        true => {
            Err(format!("time_ms is {time_ms}, which is ahead of this node's clock ({now_ms})"))
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A client that sends a byte now and then would block one of the few places as long as it
    /// likes.
    #[tokio::test(start_paused = true)]
    async fn a_file_that_trickles_is_given_up() {
        let most = limits::IMPORT_STALL;
        let mut pace = Pace::default();
        pace.limit(tokio::time::sleep(most / 2)).await.unwrap();
        pace.bytes += 1;
        let error = pace.limit(tokio::time::sleep(most)).await.unwrap_err();
        assert_eq!(error.code, Code::RequestTimeout, "{error}");
        let mut steady = Pace::default();
        for _ in 0..10 {
            steady.limit(tokio::time::sleep(most / 2)).await.unwrap();
            steady.bytes += limits::IMPORT_STALL_BYTES_MIN;
            // A slow slot is not the file's fault.
            tokio::time::sleep(2 * most).await;
        }
    }
}
