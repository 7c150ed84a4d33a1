//! Writes a session as a file, a page at a time.

use super::{EndLine, EventLine, FORMAT, HeadLine, Line, MessageLine, StateLine};
use crate::{
    effects::{Origin, lines::OriginLines},
    error::{Code, Error},
    limits,
    log::record::Entry,
    names::SessionKey,
    node::{Consistency, Cursor, History, Node, Range, ReadBy},
    operation::ReadHistory,
    operator::{StatePage, StateRange},
    service::catalogue::Service,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use serde::Serialize;
use std::{convert::Infallible, sync::Arc};

/// A session that is being exported.
pub(in crate::http) struct Export {
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
    /// What follows this message.
    History(u64),
    /// The first page, or what follows a key.
    State(Option<String>),
    End,
    Done,
}

impl Export {
    /// # Errors
    /// `session-not-found`, and any error of reading it.
    pub(in crate::http) async fn begin(
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
            exported_ms: crate::clock::now_ms(),
            version: info.plugin.clone(),
            digest: shape.map(|known| known.digest),
            history,
        };
        let at = Cursor::after(info.seq, info.incarnation);
        let first = Some(first);
        let end = EndLine { messages: 0, keys: 0 };
        Ok(Self { node, key, service, head, first, at, step: Step::Head, end })
    }

    pub(in crate::http) fn lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut export| async move {
            if matches!(export.step, Step::Done) {
                return None;
            }
            let mut out = BytesMut::new();
            if let Err(error) = export.step(&mut out).await {
                // Too late for another status: the reader sees that the end is missing, and why.
                line(&mut out, &Line::Failed(error.to_string()));
                export.step = Step::Done;
            }
            // It waits for its reader: free the extra capacity before that.
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
        // Another node does not know the client. By then, clients that do not read are cut.
        let until = crate::clock::timer_now() + limits::WRITE_STALL;
        let page = loop {
            let (reader, consistency) = (ReadBy::Operator, Consistency::Current);
            let read = ReadHistory { key: self.key.clone(), range, reader, consistency };
            match self.node.history(read).await {
                Err(full)
                    if full.code == Code::BuffersFull && crate::clock::timer_now() < until =>
                {
                    tokio::time::sleep(limits::EXPORT_RETRY).await;
                }
                page => break page?,
            }
        };
        let History { entries, incarnation, begins, .. } = page;
        if let Some(first) = begins {
            let why = format!(
                "the history of {} begins with message {first}: those before went with the session that had them; export \
                 it without the history",
                self.key
            );
            return Err(Error::new(Code::HistoryUnavailable, why));
        }
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
        let mut line = MessageLine {
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
            origin: OriginLines::default(),
        };
        line.set_origin(entry.origin.as_deref().and_then(Origin::shown));
        line
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
                format!("{} changed during the export; export it again", self.key),
            )),
        }
    }
}

fn whole(after: Option<String>) -> StateRange {
    StateRange { prefix: String::new(), after, limit: limits::STATE_SCAN_ENTRIES_MAX }
}

fn line(out: &mut BytesMut, value: &impl Serialize) {
    // Every line above can be serialized.
    out.extend_from_slice(&serde_json::to_vec(value).unwrap_or_default());
    out.extend_from_slice(b"\n");
}
