//! What a message comes from, as files have it that people may read: exports of sessions, captures.

use super::{Answered, Firing, Origin, Received, http, send, timer};
use crate::{client::Client, error::Error, limits, names::SessionKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimerLine {
    pub name: String,
    pub due_ms: u64,
    pub missed: u64,
    pub attempt: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeliveryLine {
    pub service: String,
    pub session: String,
    pub sent_by: u64,
    pub attempt: u32,
    pub hops: u32,
    pub reply_wanted: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnswerLine {
    /// The session that was asked.
    pub service: String,
    pub session: String,
    pub name: String,
    pub sent_by: u64,
    pub attempt: u32,
    pub hops: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalLine>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusalLine {
    pub code: String,
    pub message: String,
    pub retriable: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HttpLine {
    pub id: String,
    pub asked_by: u64,
    /// Of an answer, also of one that did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Why there is no whole answer: a code and a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub attempts: u32,
    pub attempt: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartLine {
    pub id: String,
    pub asked_by: u64,
    pub attempt: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PresenceLine {
    pub present: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientLine {
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

/// What a message comes from: one of these, or none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OriginLines {
    /// The timer that it comes from, if it comes from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer: Option<TimerLine>,
    /// The session that has sent it, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryLine>,
    /// The message of the session's own that it is the outcome of, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerLine>,
    /// The request over HTTP that it is the answer to, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpLine>,
    /// The request that it is a part of the answer to, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<PartLine>,
    /// What subscribers did, if it comes from that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<PresenceLine>,
    /// Who its client was shown to be, if anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientLine>,
}

impl OriginLines {
    pub fn set(&mut self, origin: Option<&Origin>) {
        match origin {
            Some(Origin::Timer(Firing { name, due_ms, missed, attempt })) => {
                let (due_ms, missed, attempt) = (*due_ms, *missed, *attempt);
                self.timer = Some(TimerLine { name: name.clone(), due_ms, missed, attempt });
            }
            Some(Origin::Session(Received { from, sent_by, attempt, hops, reply })) => {
                self.delivery = Some(DeliveryLine {
                    service: from.service.to_string(),
                    session: from.session.to_string(),
                    sent_by: *sent_by,
                    attempt: *attempt,
                    hops: *hops,
                    reply_wanted: *reply,
                });
            }
            Some(Origin::Answer(Answered { of, name, sent_by, attempt, hops, refusal })) => {
                let refusal = refusal.as_ref().map(|refusal| RefusalLine {
                    code: refusal.code.clone(),
                    message: refusal.reason.clone(),
                    retriable: refusal.retriable,
                });
                self.answer = Some(AnswerLine {
                    service: of.service.to_string(),
                    session: of.session.to_string(),
                    name: name.clone(),
                    sent_by: *sent_by,
                    attempt: *attempt,
                    hops: *hops,
                    refusal,
                });
            }
            Some(Origin::Http(answered)) => self.http = Some(HttpLine::new(answered)),
            Some(Origin::Part(http::Part { id, attempt, asked_by })) => {
                let (asked_by, attempt) = (*asked_by, *attempt);
                self.part = Some(PartLine { id: id.clone(), asked_by, attempt });
            }
            Some(Origin::Presence(present)) => {
                self.presence = Some(PresenceLine { present: *present });
            }
            Some(Origin::Client(client)) => self.client = Some(ClientLine::new(client)),
            // The file has the state that came of it, and of all that came later.
            Some(Origin::Operator(_) | Origin::Inherited(_)) => {}
            None => {}
        }
    }

    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self) -> Result<Option<Box<Origin>>, String> {
        let mut origins = [
            self.timer.take().map(TimerLine::origin),
            self.delivery.take().map(DeliveryLine::origin),
            self.answer.take().map(AnswerLine::origin),
            self.http.take().map(HttpLine::origin),
            self.part.take().map(PartLine::origin),
            self.presence.take().map(|line| Ok(Origin::Presence(line.present))),
            self.client.take().map(ClientLine::origin),
        ]
        .into_iter()
        .flatten();
        let Some(origin) = origins.next() else { return Ok(None) };
        if origins.next().is_some() {
            return Err("it comes from two things".into());
        }
        Ok(Some(Box::new(origin?)))
    }
}

impl TimerLine {
    fn origin(self) -> Result<Origin, String> {
        let Self { name, due_ms, missed, attempt } = self;
        timer::name_problem(&name).map_or(Ok(()), Err)?;
        Ok(Origin::Timer(Firing { name, due_ms, missed, attempt }))
    }
}

impl DeliveryLine {
    fn origin(self) -> Result<Origin, String> {
        let Self { service, session, sent_by, attempt, hops, reply_wanted } = self;
        let from = session_key(&service, &session)?;
        Ok(Origin::Session(Received { from, sent_by, attempt, hops, reply: reply_wanted }))
    }
}

impl AnswerLine {
    fn origin(self) -> Result<Origin, String> {
        let Self { service, session, name, sent_by, attempt, hops, refusal } = self;
        send::name_problem(&name).map_or(Ok(()), Err)?;
        let refusal = refusal.map(RefusalLine::refusal).transpose()?;
        let of = session_key(&service, &session)?;
        Ok(Origin::Answer(Answered { of, name, sent_by, attempt, hops, refusal }))
    }
}

impl HttpLine {
    pub fn new(answered: &http::Answered) -> Self {
        let http::Answered { id, outcome, attempts, asked_by, attempt } = answered;
        let (response, failure, reason) = match outcome {
            http::Outcome::Response(response) => (Some(response), None, String::new()),
            http::Outcome::Failure(http::Failure { code, reason, response }) => {
                (response.as_ref(), Some(code.clone()), reason.clone())
            }
        };
        Self {
            id: id.clone(),
            asked_by: *asked_by,
            status: response.map(|response| response.status),
            headers: response.map(|response| response.headers.clone()).unwrap_or_default(),
            failure,
            reason,
            attempts: *attempts,
            attempt: *attempt,
        }
    }

    fn origin(self) -> Result<Origin, String> {
        self.answered().map(Origin::Http)
    }

    /// # Errors
    /// What is wrong with it.
    pub fn answered(self) -> Result<http::Answered, String> {
        let Self { id, asked_by, status, headers, failure, reason, attempts, attempt } = self;
        http::id_problem(&id).map_or(Ok(()), Err)?;
        check_attempt(attempt)?;
        let response = match status {
            None if !headers.is_empty() => return Err("headers are of an answer".into()),
            None => None,
            Some(status) => Some(response(status, headers)?),
        };
        // A request may fail that was never made: it was too late.
        if response.is_some() && attempts == 0 {
            return Err("an answer comes of a request that was made".into());
        }
        let outcome = match (failure, response) {
            (None, None) => return Err("a request has an answer or a failure".into()),
            (None, Some(_)) if !reason.is_empty() => {
                return Err("an answer has no reason".into());
            }
            (None, Some(response)) => http::Outcome::Response(response),
            (Some(code), response) => {
                check_failure(&code, &reason)?;
                http::Outcome::Failure(http::Failure { code, reason, response })
            }
        };
        Ok(http::Answered { id, outcome, attempts, asked_by, attempt })
    }
}

impl PartLine {
    fn origin(self) -> Result<Origin, String> {
        let Self { id, asked_by, attempt } = self;
        http::id_problem(&id).map_or(Ok(()), Err)?;
        check_attempt(attempt)?;
        Ok(Origin::Part(http::Part { id, attempt, asked_by }))
    }
}

impl ClientLine {
    fn new(client: &Client) -> Self {
        let Client { kind, subject, claims } = client;
        let subject = subject.as_deref().map(str::to_owned);
        Self { kind: kind.to_string(), subject, claims: claims.iter().cloned().collect() }
    }

    fn origin(self) -> Result<Origin, String> {
        let Self { kind, subject, claims } = self;
        let (kind, subject) = (kind.into(), subject.map(Into::into));
        let client = Client { kind, subject, claims: claims.into_iter().collect() };
        client.check()?;
        Ok(Origin::Client(client.into()))
    }
}

fn check_attempt(attempt: u32) -> Result<(), String> {
    if attempt == 0 { Err("the first attempt is 1".into()) } else { Ok(()) }
}

fn response(status: u16, headers: Vec<(String, String)>) -> Result<http::Response, String> {
    if !(100..1000).contains(&status) {
        return Err(format!("{status} is no status of an answer"));
    }
    for (name, value) in &headers {
        // In lower case, as they are kept.
        if !is_header_name(name) || value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(format!("{name:?} is no header of an answer"));
        }
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::ANSWER_HEADER_BYTES_MAX {
        return Err(format!(
            "the headers of an answer have up to {} bytes; these have {bytes}",
            limits::ANSWER_HEADER_BYTES_MAX
        ));
    }
    Ok(http::Response { status, headers })
}

/// A token (RFC 9110) in lower case.
fn is_header_name(name: &str) -> bool {
    let is_in_names =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_in_names)
}

fn check_failure(code: &str, reason: &str) -> Result<(), String> {
    let (codes, reasons) = (limits::REJECTION_CODE_BYTES_MAX, limits::EFFECT_REASON_BYTES_MAX);
    let is_code = code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if code.is_empty() || code.len() > codes || !is_code || reason.len() > reasons {
        return Err(format!(
            "a failure has a code in kebab-case of up to {codes} bytes, and a reason of up to \
             {reasons}"
        ));
    }
    Ok(())
}

impl RefusalLine {
    fn refusal(self) -> Result<send::Refusal, String> {
        let Self { code, message: reason, retriable } = self;
        let (codes, reasons) = (limits::REJECTION_CODE_BYTES_MAX, limits::EFFECT_REASON_BYTES_MAX);
        if code.len() > codes || reason.len() > reasons {
            return Err(format!(
                "a refusal has a code of up to {codes} bytes and a message of up to {reasons}"
            ));
        }
        Ok(send::Refusal { code, reason, retriable })
    }
}

fn session_key(service: &str, session: &str) -> Result<SessionKey, String> {
    SessionKey::parse(service, session).map_err(|error: Error| error.detail.into_owned())
}
