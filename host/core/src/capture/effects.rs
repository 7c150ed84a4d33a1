//! Effects of a session that its handler may ask for, as a capture has them. What is on its way to other sessions, and
//! what was given up, is in none: no handler sees it.

use super::{content::Content, form::Before};
use crate::effects::{
    Effect, Expiry, Timer, When,
    http::{self, Answer, Closed, Request, Watch},
    lines::HttpLine,
    rows::Name,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimerForm {
    pub name: String,
    pub when: WhenForm,
    /// The time that it is for next, and when that is tried.
    pub due_ms: u64,
    pub next_ms: u64,
    /// How often that has failed, and why it failed last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub content_type: String,
    pub body: Content,
    /// The message that set it.
    pub set_by: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum WhenForm {
    Once,
    Every { period_ms: u64 },
    Cron { expression: String, zone: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestForm {
    pub id: String,
    pub method: String,
    pub url: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    pub body: Content,
    pub timeout_ms: u32,
    pub deadline_ms: u64,
    pub attempts_max: u32,
    pub redirects: u8,
    pub answer_bytes_max: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamForm>,
    /// The message that asked for it, and that message's time.
    pub asked_by: u64,
    pub asked_ms: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shown: u32,
    pub next_ms: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamForm {
    /// Of the events.
    pub kind: String,
    pub form: StreamOf,
    /// Of `joined`: where the text is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamOf {
    Text,
    Data,
    Joined,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnswerForm {
    /// As the message that it is tried as next will say.
    pub http: HttpLine,
    pub content_type: String,
    pub body: Content,
    pub next_ms: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryForm {
    pub at_ms: u64,
    pub set_by: u64,
}

/// The handler is told of subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchForm {
    pub present: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    pub set_by: u64,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Before {
    pub(super) fn add_effect(&mut self, name: &Name, effect: &Effect) {
        match (name, effect) {
            (Name::Timer(name), Effect::Timer(timer)) => {
                self.timers.push(TimerForm::new(name, timer));
            }
            (Name::Request(id), Effect::Request(request)) => {
                self.requests.push(RequestForm::new(id, request));
            }
            (Name::Answer(id), Effect::Answer(answer)) => {
                self.answers.push(AnswerForm::new(id, answer));
            }
            (Name::Expiry, Effect::Expiry(Expiry { at_ms, set_by })) => {
                self.expires = Some(ExpiryForm { at_ms: *at_ms, set_by: *set_by });
            }
            (Name::Watch, Effect::Watch(Watch { present, next_ms, set_by })) => {
                let (present, next_ms, set_by) = (*present, *next_ms, *set_by);
                self.watch = Some(WatchForm { present, next_ms, set_by });
            }
            (Name::Closed, Effect::Closed(closed)) => self.closed_by = Some(closed.by),
            _ => {}
        }
    }

    /// # Errors
    /// What of them is damaged.
    pub(super) fn effects(&self) -> Result<Vec<(Name, Effect)>, String> {
        let mut out = Vec::new();
        for timer in &self.timers {
            let of = |why| format!("timer {:?}: {why}", timer.name);
            out.push((Name::Timer(timer.name.clone()), timer.effect().map_err(of)?));
        }
        for request in &self.requests {
            let of = |why| format!("request {:?}: {why}", request.id);
            out.push((Name::Request(request.id.clone()), request.effect().map_err(of)?));
        }
        for answer in &self.answers {
            let of = |why| format!("the answer to {:?}: {why}", answer.http.id);
            out.push((Name::Answer(answer.http.id.clone()), answer.effect().map_err(of)?));
        }
        let expiry = self.expires.map(|ExpiryForm { at_ms, set_by }| Expiry { at_ms, set_by });
        out.extend(expiry.map(|expiry| (Name::Expiry, Effect::Expiry(expiry))));
        let watch = self.watch.map(|WatchForm { present, next_ms, set_by }| Watch {
            present,
            next_ms,
            set_by,
        });
        out.extend(watch.map(|watch| (Name::Watch, Effect::Watch(watch))));
        let closed = self.closed_by.map(|by| Effect::Closed(Closed { by }));
        out.extend(closed.map(|closed| (Name::Closed, closed)));
        Ok(out)
    }
}

impl TimerForm {
    fn new(name: &str, timer: &Timer) -> Self {
        let Timer { when, due_ms, next_ms, failures, reason, content_type, body, set_by } = timer;
        let when = match when {
            When::Once => WhenForm::Once,
            When::Every { period_ms } => WhenForm::Every { period_ms: *period_ms },
            When::Cron { expression, zone } => {
                WhenForm::Cron { expression: expression.clone(), zone: zone.clone() }
            }
        };
        Self {
            name: name.to_owned(),
            when,
            due_ms: *due_ms,
            next_ms: *next_ms,
            failures: *failures,
            reason: reason.clone(),
            content_type: content_type.clone(),
            body: Content::of(body),
            set_by: *set_by,
        }
    }

    fn effect(&self) -> Result<Effect, String> {
        let when = match &self.when {
            WhenForm::Once => When::Once,
            WhenForm::Every { period_ms } => When::Every { period_ms: *period_ms },
            WhenForm::Cron { expression, zone } => {
                When::Cron { expression: expression.clone(), zone: zone.clone() }
            }
        };
        let timer = Timer {
            when,
            due_ms: self.due_ms,
            next_ms: self.next_ms,
            failures: self.failures,
            reason: self.reason.clone(),
            content_type: self.content_type.clone(),
            body: self.body.bytes()?,
            set_by: self.set_by,
        };
        Ok(Effect::Timer(timer.into()))
    }
}

impl RequestForm {
    fn new(id: &str, request: &Request) -> Self {
        let stream = request.stream.as_ref().map(|http::Stream { kind, form }| {
            let (form, path) = match form {
                http::Form::Text => (StreamOf::Text, String::new()),
                http::Form::Data => (StreamOf::Data, String::new()),
                http::Form::Joined(path) => (StreamOf::Joined, path.clone()),
            };
            StreamForm { kind: kind.clone(), form, path }
        });
        Self {
            id: id.to_owned(),
            method: request.method.clone(),
            url: request.url.clone(),
            headers: request.headers.clone(),
            body: Content::of(&request.body),
            timeout_ms: request.timeout_ms,
            deadline_ms: request.deadline_ms,
            attempts_max: request.attempts_max,
            redirects: request.redirects,
            answer_bytes_max: request.answer_bytes_max,
            keep_headers: request.keep_headers.clone(),
            stream,
            asked_by: request.asked_by,
            asked_ms: request.asked_ms,
            failures: request.failures,
            shown: request.shown,
            next_ms: request.next_ms,
            reason: request.reason.clone(),
        }
    }

    fn effect(&self) -> Result<Effect, String> {
        let stream = self.stream.as_ref().map(|StreamForm { kind, form, path }| {
            let form = match form {
                StreamOf::Text => http::Form::Text,
                StreamOf::Data => http::Form::Data,
                StreamOf::Joined => http::Form::Joined(path.clone()),
            };
            http::Stream { kind: kind.clone(), form }
        });
        let request = Request {
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.body.bytes()?,
            timeout_ms: self.timeout_ms,
            deadline_ms: self.deadline_ms,
            attempts_max: self.attempts_max,
            redirects: self.redirects,
            answer_bytes_max: self.answer_bytes_max,
            keep_headers: self.keep_headers.clone(),
            stream,
            asked_by: self.asked_by,
            asked_ms: self.asked_ms,
            failures: self.failures,
            shown: self.shown,
            next_ms: self.next_ms,
            reason: self.reason.clone(),
            trace: None,
        };
        Ok(Effect::Request(request.into()))
    }
}

impl AnswerForm {
    fn new(id: &str, answer: &Answer) -> Self {
        let answered = http::Answered {
            id: id.to_owned(),
            outcome: answer.outcome.clone(),
            attempts: answer.attempts,
            asked_by: answer.asked_by,
            attempt: answer.failures.saturating_add(1),
        };
        Self {
            http: HttpLine::new(&answered),
            content_type: answer.content_type.clone(),
            body: Content::of(&answer.body),
            next_ms: answer.next_ms,
            reason: answer.reason.clone(),
        }
    }

    fn effect(&self) -> Result<Effect, String> {
        let http::Answered { outcome, attempts, asked_by, attempt, .. } =
            self.http.clone().answered()?;
        let answer = Answer {
            outcome,
            content_type: self.content_type.clone(),
            body: self.body.bytes()?,
            attempts,
            asked_by,
            failures: attempt - 1,
            next_ms: self.next_ms,
            reason: self.reason.clone(),
            trace: None,
        };
        Ok(Effect::Answer(answer.into()))
    }
}
