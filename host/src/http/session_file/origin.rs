//! What a message comes from, in a file.

use super::MessageLine;
use crate::{
    effects::{Answered, Firing, Origin, Received, http, send, timer},
    error::Error,
    limits,
    message::Client,
    names::SessionKey,
};
use ::http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
pub(super) struct TimerLine {
    name: String,
    due_ms: u64,
    missed: u64,
    attempt: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct DeliveryLine {
    service: String,
    session: String,
    sent_by: u64,
    attempt: u32,
    hops: u32,
    reply_wanted: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct AnswerLine {
    /// The session that was asked.
    service: String,
    session: String,
    name: String,
    sent_by: u64,
    attempt: u32,
    hops: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalLine>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RefusalLine {
    code: String,
    message: String,
    retriable: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct HttpLine {
    id: String,
    asked_by: u64,
    /// Of an answer, also of one that did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    /// Why there is no whole answer: a code and a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    attempts: u32,
    attempt: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PartLine {
    id: String,
    asked_by: u64,
    attempt: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PresenceLine {
    present: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ClientLine {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    claims: BTreeMap<String, String>,
}

impl MessageLine {
    pub(super) fn set_origin(&mut self, origin: Option<&Origin>) {
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
    pub(super) fn take_origin(&mut self) -> Result<Option<Box<Origin>>, String> {
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
        let origin = origin?;
        self.check_is_no_clients(&origin)?;
        Ok(Some(Box::new(origin)))
    }

    /// What a client gives, or a handler has done, is not in an entry that comes from neither.
    fn check_is_no_clients(&self, origin: &Origin) -> Result<(), String> {
        let (is_new, is_part) = match origin {
            Origin::Client(_) if self.operator => {
                return Err("an operator's entry is no client's".into());
            }
            Origin::Timer(_)
            | Origin::Session(_)
            | Origin::Answer(_)
            | Origin::Client(_)
            | Origin::Inherited(_)
            | Origin::Operator(_) => (false, false),
            Origin::Http(_) | Origin::Presence(_) => (true, false),
            Origin::Part(_) => (true, true),
        };
        if is_new && (self.id.is_some() || self.sender.is_some() || self.operator) {
            return Err("an answer, a part of one and presence come from nobody else".into());
        }
        if is_part && !(self.body_base64.is_empty() && self.reply_base64.is_empty()) {
            return Err("a part of an answer has events, and no body or reply".into());
        }
        Ok(())
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
    fn new(answered: &http::Answered) -> Self {
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
        Ok(Origin::Http(http::Answered { id, outcome, attempts, asked_by, attempt }))
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
    StatusCode::from_u16(status).map_err(|_| format!("{status} is no status of an answer"))?;
    for (name, value) in &headers {
        // In lower case, as they are kept.
        let known = HeaderName::from_lowercase(name.as_bytes()).is_ok();
        if !known || HeaderValue::from_bytes(value.as_bytes()).is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(origin: Option<&Origin>) -> MessageLine {
        let mut line: MessageLine = serde_json::from_str(EARLIER).unwrap();
        line.set_origin(origin);
        line
    }

    /// As it was written before messages came from sessions.
    const EARLIER: &str = r#"{"seq":1,"time_ms":5,"content_type":"t","body_base64":"",
        "reply_content_type":"t","reply_base64":"","events":[]}"#;

    fn from_session() -> Origin {
        let from = SessionKey::parse("cart", "a/b").unwrap();
        Origin::Session(Received { from, sent_by: 3, attempt: 2, hops: 4, reply: true })
    }

    fn answer(refusal: Option<send::Refusal>) -> Origin {
        let of = SessionKey::parse("stock", "x").unwrap();
        let (name, sent_by, attempt, hops) = ("hold".into(), 7, 1, 5);
        Origin::Answer(Answered { of, name, sent_by, attempt, hops, refusal })
    }

    fn no_content() -> http::Response {
        let headers = vec![("set-cookie".into(), "a".into()), ("set-cookie".into(), "b".into())];
        http::Response { status: 204, headers }
    }

    fn response() -> http::Outcome {
        http::Outcome::Response(no_content())
    }

    fn failure(response: Option<http::Response>) -> http::Outcome {
        let (code, reason) = ("too-large".into(), "More than 5 bytes.".into());
        http::Outcome::Failure(http::Failure { code, reason, response })
    }

    fn answered(outcome: http::Outcome) -> Origin {
        let (id, attempts, asked_by, attempt) = ("llm/1".into(), 3, 7, 2);
        Origin::Http(http::Answered { id, outcome, attempts, asked_by, attempt })
    }

    fn part() -> Origin {
        Origin::Part(http::Part { id: "llm/1".into(), attempt: 2, asked_by: 7 })
    }

    fn client(subject: Option<&str>) -> Origin {
        let claims =
            [("org", "a,b"), ("role", "")].map(|(name, value)| (name.into(), value.into()));
        let subject = subject.map(Into::into);
        Origin::Client(Client { kind: "accounts".into(), subject, claims: claims.into() }.into())
    }

    /// A copy of a session would take a message of another session for a client's, or could not be read.
    #[test]
    fn what_a_message_comes_from_is_in_the_file() {
        let refusal =
            send::Refusal { code: "sold-out".into(), reason: "None left.".into(), retriable: true };
        let firing = Firing { name: "tick".into(), due_ms: 1, missed: 2, attempt: 3 };
        let http = [response(), failure(None), failure(Some(no_content()))].map(answered);
        let sessions = [from_session(), answer(None), answer(Some(refusal))];
        let others =
            [Origin::Timer(firing), part(), Origin::Presence(true), Origin::Presence(false)];
        let clients = [client(Some("ann")), client(None)];
        for origin in others.into_iter().chain(sessions).chain(http).chain(clients) {
            let line = serde_json::to_string(&message(Some(&origin))).unwrap();
            let mut read: MessageLine = serde_json::from_str(&line).unwrap();
            assert_eq!(read.take_origin(), Ok(Some(Box::new(origin))), "{line}");
        }
        // Of an earlier version, and of a client's message.
        assert_eq!(message(None).take_origin(), Ok(None));
        let plain = serde_json::to_string(&message(None)).unwrap();
        let earlier: String = EARLIER.split_whitespace().collect();
        assert_eq!(plain, earlier, "a file without them has the bytes that it had");
    }

    /// A file is anybody's: what no slot would have written must not be in a session's history.
    #[test]
    fn an_origin_that_can_not_be_is_refused() {
        let wrong = |change: fn(&mut MessageLine)| {
            let mut line = message(Some(&answer(None)));
            change(&mut line);
            line.take_origin().unwrap_err()
        };
        let long = |line: &mut MessageLine| {
            let code = "c".repeat(limits::REJECTION_CODE_BYTES_MAX + 1);
            let refusal = RefusalLine { code, message: String::new(), retriable: false };
            line.answer.as_mut().unwrap().refusal = Some(refusal);
        };
        assert!(wrong(long).contains("a refusal has a code"));
        let unnamed = wrong(|line| line.answer.as_mut().unwrap().name.clear());
        assert!(unnamed.contains("the name of a reply"), "{unnamed}");
        wrong(|line| line.answer.as_mut().unwrap().service = "No Service".into());
        assert_eq!(
            wrong(|line| line.set_origin(Some(&from_session()))),
            "it comes from two things"
        );
    }

    /// The same of requests: a handler or a reader of the history would be told of an answer that can't have been.
    #[test]
    fn an_answer_that_can_not_have_been_is_refused() {
        let wrong = |outcome: http::Outcome, change: fn(&mut HttpLine)| {
            let mut line = message(Some(&answered(outcome)));
            change(line.http.as_mut().unwrap());
            line.take_origin().unwrap_err()
        };
        for (change, part) in [
            ((|it| it.id.clear()) as fn(&mut HttpLine), "the id of a request"),
            (|it| it.id.push('\n'), "no control characters"),
            (|it| it.attempt = 0, "the first attempt"),
            (|it| it.attempts = 0, "was made"),
            (|it| it.status = Some(99), "no status"),
            (|it| it.status = None, "headers are of"),
            (|it| (it.status, it.headers) = (None, Vec::new()), "an answer or a failure"),
            (|it| it.reason = "r".into(), "no reason"),
            (|it| it.failure = Some("Too Large".into()), "kebab-case"),
            (|it| it.headers[0].0 = "Set-Cookie".into(), "no header"),
            (|it| it.headers[0].1 = "a\r\nb".into(), "no header"),
            (|it| it.headers[0].1 = "v".repeat(limits::ANSWER_HEADER_BYTES_MAX), "headers of"),
        ] {
            let why = wrong(response(), change);
            assert!(why.contains(part), "{part}: {why}");
        }
        let long = wrong(failure(None), |it| {
            it.reason = "r".repeat(limits::EFFECT_REASON_BYTES_MAX + 1);
        });
        assert!(long.contains("a reason of"), "{long}");
        // One that was never made can have failed.
        let mut late = message(Some(&answered(failure(None))));
        late.http.as_mut().unwrap().attempts = 0;
        assert!(late.take_origin().is_ok());

        let wrong = |origin: &Origin, change: fn(&mut MessageLine)| {
            let mut line = message(Some(origin));
            change(&mut line);
            line.take_origin().unwrap_err()
        };
        wrong(&part(), |line| line.part.as_mut().unwrap().attempt = 0);
        wrong(&part(), |line| line.part.as_mut().unwrap().id.clear());
        for change in [(|line| line.body_base64 = "AA==".into()) as fn(&mut MessageLine), |line| {
            line.reply_base64 = "AA==".into()
        }] {
            assert!(wrong(&part(), change).contains("has events"));
        }
        for origin in [part(), Origin::Presence(true), answered(response())] {
            assert!(wrong(&origin, |line| line.sender = Some("ann".into())).contains("nobody"));
            assert!(wrong(&origin, |line| line.id = Some("1".into())).contains("nobody"));
        }
        let operators = wrong(&client(None), |line| line.operator = true);
        assert_eq!(operators, "an operator's entry is no client's");
        let unknown = wrong(&client(None), |line| line.client.as_mut().unwrap().kind.clear());
        assert!(unknown.contains("has a kind"), "{unknown}");
        let long = wrong(&client(None), |line| {
            let subject = "s".repeat(limits::CLIENT_SUBJECT_BYTES_MAX + 1);
            line.client.as_mut().unwrap().subject = Some(subject);
        });
        assert!(long.contains("subject"), "{long}");
        let two = wrong(&part(), |line| line.set_origin(Some(&Origin::Presence(true))));
        assert_eq!(two, "it comes from two things");
    }
}
