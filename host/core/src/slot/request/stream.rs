//! Shows an answer to its session's subscribers while it comes. What is shown is durable before: it is gathered for some
//! tens of milliseconds and becomes an entry of the session's history, without a call of the handler.

use super::Which;
use crate::{
    clock::now,
    effects::{
        Change, Effect, Origin,
        http::{Form, NO_TYPE, Part, Request, TEXT_TYPE},
        rows::Name,
    },
    error::Error,
    limits,
    log::record::{Entry, Event, Message},
    slot::{
        answers::Held, core, overlay::Written, records::new_record, session::Session, shell::Shell,
    },
};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The kind of the event that says that an answer is shown from its beginning again.
pub const RESTARTED: &str = "slotd.restarted";

/// What has come of an answer that is shown.
pub(in crate::slot) struct Shown {
    which: Arc<Which>,
    /// The first of this attempt.
    is_first: bool,
    texts: Vec<String>,
    /// Told once it is durable; dropped if it never will be.
    durable: oneshot::Sender<Result<(), Error>>,
}

impl Shell {
    /// Writes down what is shown of an answer: an entry of the session's history, whose events it is.
    pub(super) fn on_shown(&mut self, shown: Shown) {
        let Shown { which, is_first, texts, durable } = shown;
        // Else `durable` is dropped, and nothing more is shown of this attempt.
        let Ok(Some((mut session, request))) = self.requested(&which) else { return };
        let Some(stream) = request.stream.clone() else { return self.put_session(session) };
        let attempt = request.shown.saturating_add(u32::from(is_first));
        let mut events = Vec::with_capacity(texts.len() + 1);
        if is_first && request.shown > 0 {
            let said = serde_json::json!({ "id": which.id, "attempt": attempt });
            events.push(Event {
                kind: RESTARTED.to_owned(),
                content_type: "application/json".to_owned(),
                body: Bytes::from(said.to_string()),
            });
        }
        let event = |text: String| Event {
            kind: stream.kind.clone(),
            content_type: TEXT_TYPE.to_owned(),
            body: Bytes::from(text),
        };
        match stream.form {
            Form::Data => events.extend(texts.into_iter().map(event)),
            Form::Text | Form::Joined(_) => events.push(event(texts.concat())),
        }
        let mut effects = Vec::new();
        if is_first {
            let name = Name::Request(which.id.clone());
            let shown = Request { shown: attempt, ..Request::clone(&request) };
            let changed = session.change_effects(|effects| {
                effects.change(name, Some(Effect::Request(shown.into())))
            });
            match changed {
                Ok(change) => effects.push(change),
                Err(error) => {
                    self.on(core::Event::Broken(error.into()));
                    return self.put_session(session);
                }
            }
        }
        let part = Part { id: which.id.clone(), attempt, asked_by: which.asked_by };
        let record = self.part_record(&mut session, part, events, effects);
        self.push_applied(&mut session, record, Vec::new());
        self.core.hold(Held::told(durable));
        self.put_session(session);
    }

    fn part_record(
        &self,
        session: &mut Session,
        part: Part,
        events: Vec<Event>,
        effects: Vec<Change>,
    ) -> Box<Message> {
        session.head.seq += 1;
        session.head.updated_ms = crate::clock::now_ms().max(session.head.updated_ms);
        let entry = Entry {
            seq: session.head.seq,
            id: None,
            sender: None,
            time_ms: session.head.updated_ms,
            content_type: NO_TYPE.to_owned(),
            body: Bytes::new(),
            reply_content_type: NO_TYPE.to_owned(),
            reply: Bytes::new(),
            deployment: session.head.deployment,
            events,
            origin: Some(Box::new(Origin::Part(part))),
            caused: Vec::new(),
        };
        new_record(session, Arc::new(entry), 0, Written { effects, ..Written::default() })
    }
}

/// Gathers what comes of an answer for some time, and has it shown; one part after the other.
pub(super) async fn gather(
    which: Arc<Which>,
    mut chunks: mpsc::Receiver<String>,
    show: mpsc::Sender<Shown>,
) {
    let (mut texts, mut bytes, mut is_first) = (Vec::new(), 0, true);
    let mut on_its_way: Option<oneshot::Receiver<Result<(), Error>>> = None;
    // What comes after a while of nothing is shown at once.
    let mut not_before = now();
    let mut is_open = true;
    loop {
        let is_full =
            bytes >= limits::STREAM_PART_BYTES || texts.len() >= limits::STREAM_PART_EVENTS;
        let is_time = is_full || !is_open || now() >= not_before;
        if on_its_way.is_none() && !texts.is_empty() && is_time {
            let (durable, told) = oneshot::channel();
            let texts = std::mem::take(&mut texts);
            let shown = Shown { which: which.clone(), is_first, texts, durable };
            // The slot has ended.
            if show.send(shown).await.is_err() {
                return;
            }
            (bytes, is_first, on_its_way) = (0, false, Some(told));
            not_before = now() + limits::STREAM_GATHER;
            continue;
        }
        if !is_open && texts.is_empty() && on_its_way.is_none() {
            return;
        }
        let waits = on_its_way.is_none() && !texts.is_empty();
        tokio::select! {
            chunk = chunks.recv(), if is_open && !is_full => match chunk {
                Some(text) => {
                    bytes += text.len();
                    texts.push(text);
                }
                None => is_open = false,
            },
            told = told_of(&mut on_its_way) => {
                on_its_way = None;
                // Nobody waits for more of it, or it could not be written.
                if !matches!(told, Ok(Ok(()))) {
                    return;
                }
            }
            () = tokio::time::sleep_until(not_before.into()), if waits => {}
        }
    }
}

/// What becomes of a part that is on its way. Never, if none is.
async fn told_of(
    on_its_way: &mut Option<oneshot::Receiver<Result<(), Error>>>,
) -> Result<Result<(), Error>, oneshot::error::RecvError> {
    match on_its_way {
        Some(told) => told.await,
        None => std::future::pending().await,
    }
}
