//! What a message comes from, in a file of a session.

use super::MessageLine;
use crate::effects::Origin;

impl MessageLine {
    pub(super) fn set_origin(&mut self, origin: Option<&Origin>) {
        self.origin.set(origin);
    }

    /// # Errors
    /// What is wrong with it.
    pub(super) fn take_origin(&mut self) -> Result<Option<Box<Origin>>, String> {
        let origin = self.origin.take()?;
        if let Some(origin) = &origin {
            self.check_is_no_clients(origin)?;
        }
        Ok(origin)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        effects::{
            Answered, Firing, Received, http,
            lines::{HttpLine, RefusalLine},
            send,
        },
        limits,
        message::Client,
        names::SessionKey,
    };

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
            line.origin.answer.as_mut().unwrap().refusal = Some(refusal);
        };
        assert!(wrong(long).contains("a refusal has a code"));
        let unnamed = wrong(|line| line.origin.answer.as_mut().unwrap().name.clear());
        assert!(unnamed.contains("the name of a reply"), "{unnamed}");
        wrong(|line| line.origin.answer.as_mut().unwrap().service = "No Service".into());
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
            change(line.origin.http.as_mut().unwrap());
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
        late.origin.http.as_mut().unwrap().attempts = 0;
        assert!(late.take_origin().is_ok());

        let wrong = |origin: &Origin, change: fn(&mut MessageLine)| {
            let mut line = message(Some(origin));
            change(&mut line);
            line.take_origin().unwrap_err()
        };
        wrong(&part(), |line| line.origin.part.as_mut().unwrap().attempt = 0);
        wrong(&part(), |line| line.origin.part.as_mut().unwrap().id.clear());
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
        let unknown =
            wrong(&client(None), |line| line.origin.client.as_mut().unwrap().kind.clear());
        assert!(unknown.contains("has a kind"), "{unknown}");
        let long = wrong(&client(None), |line| {
            let subject = "s".repeat(limits::CLIENT_SUBJECT_BYTES_MAX + 1);
            line.origin.client.as_mut().unwrap().subject = Some(subject);
        });
        assert!(long.contains("subject"), "{long}");
        let two = wrong(&part(), |line| line.set_origin(Some(&Origin::Presence(true))));
        assert_eq!(two, "it comes from two things");
    }
}
