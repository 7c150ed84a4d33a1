//! A session as a file: JSON lines that one node writes and another reads, possibly of another
//! cluster or version.
//!
//! | line | what |
//! |---|---|
//! | `{"slotd_session": 1, ...}` | the head: the format's version, the session, whose shape its state has |
//! | `{"message": {...}}` | an entry of its history, from number 1 up, without a gap |
//! | `{"state": {...}}` | a key with its value |
//! | `{"end": {...}}` | how many of both there were; without it the file is not whole |
//!
//! The session's timers are not in it, nor what it has sent and is not done with, nor what is dead: both would do it.
//!
//! Unknown fields are ignored, so that a later version may add some; an addition that must not be
//! ignored gets a new format number. Bytes are in base64.

mod export;
mod import;

pub(super) use export::Export;
pub(super) use import::{Reader, Reading};

use crate::{
    effects::{Answered, Firing, Origin, Received, send, timer},
    error::Error,
    limits,
    names::SessionKey,
    plugin::Digest,
};
use serde::{Deserialize, Serialize};

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
    /// The export failed midway.
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
    /// The version whose state format it has.
    version: String,
    digest: Option<Digest>,
    /// Whether the file has the history.
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
    /// The timer that it comes from, if it comes from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timer: Option<TimerLine>,
    /// The session that has sent it, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivery: Option<DeliveryLine>,
    /// The message of the session's own that it is the outcome of, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerLine>,
}

#[derive(Serialize, Deserialize)]
struct TimerLine {
    name: String,
    due_ms: u64,
    missed: u64,
    attempt: u32,
}

#[derive(Serialize, Deserialize)]
struct DeliveryLine {
    service: String,
    session: String,
    sent_by: u64,
    attempt: u32,
    hops: u32,
    reply_wanted: bool,
}

#[derive(Serialize, Deserialize)]
struct AnswerLine {
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
struct RefusalLine {
    code: String,
    message: String,
    retriable: bool,
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

impl MessageLine {
    fn set_origin(&mut self, origin: Option<&Origin>) {
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
            None => {}
        }
    }

    /// # Errors
    /// What is wrong with it.
    fn take_origin(&mut self) -> Result<Option<Box<Origin>>, String> {
        let origin = match (self.timer.take(), self.delivery.take(), self.answer.take()) {
            (None, None, None) => return Ok(None),
            (Some(TimerLine { name, due_ms, missed, attempt }), None, None) => {
                timer::name_problem(&name).map_or(Ok(()), Err)?;
                Origin::Timer(Firing { name, due_ms, missed, attempt })
            }
            (None, Some(line), None) => {
                let DeliveryLine { service, session, sent_by, attempt, hops, reply_wanted } = line;
                let from = session_key(&service, &session)?;
                Origin::Session(Received { from, sent_by, attempt, hops, reply: reply_wanted })
            }
            (None, None, Some(line)) => {
                let AnswerLine { service, session, name, sent_by, attempt, hops, refusal } = line;
                send::name_problem(&name).map_or(Ok(()), Err)?;
                let refusal = refusal.map(RefusalLine::refusal).transpose()?;
                let of = session_key(&service, &session)?;
                Origin::Answer(Answered { of, name, sent_by, attempt, hops, refusal })
            }
            _ => return Err("it comes from two things".into()),
        };
        Ok(Some(Box::new(origin)))
    }
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

    /// A copy of a session would take a message of another session for a client's, or could not be read.
    #[test]
    fn what_a_message_comes_from_is_in_the_file() {
        let refusal =
            send::Refusal { code: "sold-out".into(), reason: "None left.".into(), retriable: true };
        let firing = Firing { name: "tick".into(), due_ms: 1, missed: 2, attempt: 3 };
        for origin in [Origin::Timer(firing), from_session(), answer(None), answer(Some(refusal))] {
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
}
