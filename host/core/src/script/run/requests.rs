//! Requests over HTTP, and subscribers: what comes of them is the script's to say. What a node does with what came is
//! done here as well.

use super::{Calling, Observed, Outcome, Runner, SLOT, of_session};
use crate::{
    effects::{
        Effect, Origin,
        http::{self, Form, NO_TYPE, Request, Stream, TEXT_TYPE, Watch},
        rows::Name,
    },
    limits,
    plugin::Input,
    script::{Event, HttpAnswer, MadeRequest, RequestChange, Step},
    slot::{overlay::Transaction, request::RESTARTED, session::Session},
};
use anyhow::{bail, ensure};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;

type Told = (Box<Session>, Observed);

impl Runner {
    /// Shows what is to be shown of an answer, and calls the handler with it.
    pub(super) async fn answer(
        &mut self,
        mut session: Box<Session>,
        answer: &HttpAnswer,
        step: &Step,
    ) -> anyhow::Result<Told> {
        let (id, name) = (&answer.id, Name::Request(answer.id.clone()));
        let request = session.load_effects(&*self.store, SLOT)?.request(id).cloned();
        let Some(request) = request else {
            bail!("the session {:?} has no open request {id:?}", step.session);
        };
        let most = request.attempts_max;
        ensure!(answer.attempts <= most, "the request {id:?} is made {most} times at most");
        let shown = shown(&request, answer)?;
        session.head.seq += u64::try_from(shown.len())?;
        let (content_type, body) = content(&request, answer)?;
        let answered = http::Answered {
            id: id.clone(),
            outcome: answer.outcome.clone(),
            attempts: answer.attempts,
            asked_by: request.asked_by,
            attempt: answer.attempt,
        };
        let input = of_session(Some(Box::new(Origin::Http(answered))), content_type, body);
        let fires = Some((name.clone(), None));
        let (mut session, mut observed) = self.told(session, input, fires, step).await?;
        let is_dead = match &observed.outcome {
            Outcome::Reply { .. } => false,
            Outcome::Rejected(rejection) if !rejection.retriable => true,
            _ => answer.attempt >= limits::EFFECT_ATTEMPTS_MAX,
        };
        if is_dead {
            session.change_effects(|effects| effects.change(name, None))?;
        }
        observed.events.splice(0..0, shown.into_iter().flatten());
        Ok((session, observed))
    }

    /// Tells the handler of its session's subscribers.
    pub(super) async fn tell(
        &mut self,
        mut session: Box<Session>,
        present: bool,
        step: &Step,
    ) -> anyhow::Result<Told> {
        let effects = session.load_effects(&*self.store, SLOT)?;
        let Some(Effect::Watch(watch)) = effects.get(&Name::Watch) else {
            bail!("the session {:?} is not told of its subscribers", step.session);
        };
        ensure!(
            watch.present != present,
            "the session {:?} was told last that its subscribers are {}",
            step.session,
            if present { "present" } else { "absent" }
        );
        let left = Effect::Watch(Watch { present, ..*watch });
        let origin = Some(Box::new(Origin::Presence(present)));
        let input = of_session(origin, NO_TYPE.to_owned(), Bytes::new());
        let fires = Some((Name::Watch, Some(left.clone())));
        let (mut session, observed) = self.told(session, input, fires, step).await?;
        if !matches!(observed.outcome, Outcome::Reply { .. }) {
            // It is not told again.
            session.change_effects(|effects| effects.change(Name::Watch, Some(left)))?;
        }
        Ok((session, observed))
    }

    async fn told(
        &mut self,
        session: Box<Session>,
        input: Input,
        fires: super::Fires,
        step: &Step,
    ) -> anyhow::Result<Told> {
        let seq = session.head.seq + 1;
        let calling = Calling { input, seq, time_ms: step.time_ms, fires };
        self.observe(session, calling, Some(&step.expect)).await
    }
}

/// The events of each part of an answer: each is an entry of the history.
fn shown(request: &Request, answer: &HttpAnswer) -> anyhow::Result<Vec<Vec<Event>>> {
    let mut shown = Vec::new();
    // As a node counts them: those of which something was shown.
    for (attempt, parts) in (1_u32..).zip(answer.parts.iter().filter(|parts| !parts.is_empty())) {
        let mut restarted = (attempt > 1).then(|| Event {
            kind: RESTARTED.to_owned(),
            content_type: "application/json".to_owned(),
            body: json!({"id": answer.id, "attempt": attempt}).to_string().into(),
        });
        for text in parts {
            let Some(Stream { kind, .. }) = &request.stream else {
                bail!("the request {:?} has no stream: nothing of its answer is shown", answer.id);
            };
            let event = Event {
                kind: kind.clone(),
                content_type: TEXT_TYPE.to_owned(),
                body: text.clone().into(),
            };
            shown.push(restarted.take().into_iter().chain([event]).collect());
        }
    }
    Ok(shown)
}

/// The body of an answer: what the script gives, or what was shown.
fn content(request: &Request, answer: &HttpAnswer) -> anyhow::Result<(String, Bytes)> {
    let given = answer.body.clone();
    let last = answer.parts.last().filter(|last| !last.is_empty());
    let (content_type, body) = match (given, last, request.stream.as_ref().map(|it| &it.form)) {
        (Some(body), ..) => (NO_TYPE, body),
        (None, Some(parts), Some(Form::Text | Form::Joined(_))) => {
            (TEXT_TYPE, parts.concat().into())
        }
        (None, Some(parts), Some(Form::Data)) => {
            let lines = |data: &String| data.lines().map(|it| format!("data: {it}\n")).collect();
            let events: Vec<String> = parts.iter().map(lines).collect();
            (
                "text/event-stream",
                events.iter().map(|it| format!("{it}\n")).collect::<String>().into(),
            )
        }
        (None, ..) => (NO_TYPE, Bytes::new()),
    };
    let most = request.answer_bytes_max as usize;
    ensure!(
        body.len() <= most,
        "the request {:?} takes an answer of {most} bytes; a larger one fails as `too-large`",
        answer.id
    );
    let content_type = answer.content_type.clone().unwrap_or_else(|| content_type.to_owned());
    Ok((content_type, body))
}

/// The requests that a message made or cancelled.
pub(super) fn changes(asked: &[(Name, Option<Effect>)]) -> Vec<RequestChange> {
    let changes = asked.iter().filter_map(|(name, effect)| {
        let Name::Request(id) = name else { return None };
        let made = match effect {
            Some(Effect::Request(request)) => Some(made(request)),
            _ => None,
        };
        Some(RequestChange { id: id.clone(), made })
    });
    changes.collect()
}

fn made(request: &Arc<Request>) -> MadeRequest {
    MadeRequest {
        method: request.method.clone(),
        url: request.url.clone(),
        headers: request.headers.clone(),
        body: request.body.clone(),
        stream: request.stream.clone(),
    }
}

/// Why a node would make one of a call's requests for nobody.
pub(super) fn problem(tx: &Transaction) -> Option<String> {
    tx.requests().find_map(|(id, request)| {
        let problem = invalid(request)?;
        Some(format!("requests: {id:?} can't be made: {problem}"))
    })
}

/// What needs no policy and no network to know. A node knows more.
fn invalid(request: &Request) -> Option<String> {
    // A token of HTTP.
    let is_word = |word: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !word.is_empty() && word.bytes().all(is_part)
    };
    if !is_word(&request.method) {
        return Some("invalid method".into());
    }
    let rest = ["https://", "http://"].iter().find_map(|it| request.url.strip_prefix(it));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#', ':'])) {
        return Some("the URL must begin with https:// or http://, and have a host".into());
    }
    let bad = request.headers.iter().find(|(name, value)| {
        !is_word(name) || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t')
    });
    bad.map(|(name, _)| {
        format!("invalid header {name:?}: its name, or its value, which must be on one line")
    })
}
