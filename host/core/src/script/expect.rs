//! What is expected of a call.

use super::{
    Kind, decode, duration, expiry, holds::Holds, name_or_none, present, requests::ExpectedRequest,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The expected result of a call. What is not given is not compared, but a call must succeed unless
/// a failure is given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    #[serde(default, deserialize_with = "present")]
    pub(super) reply: Option<Value>,
    pub(super) reply_text: Option<String>,
    pub(super) reply_base64: Option<String>,
    pub(super) content_type: Option<String>,
    /// Of the reply's JSON.
    pub(super) holds: Option<Holds>,
    /// Of the session, after the call.
    pub(super) seq: Option<u64>,
    /// When the session is to expire, after the call.
    #[serde(default, deserialize_with = "expiry::Expected::given")]
    pub(super) expires: Option<expiry::Expected>,
    pub(super) rejection: Option<Rejection>,
    /// `migrate`'s sentence.
    pub(super) refused: Option<String>,
    pub(super) trap: Option<Reason>,
    pub(super) limit: Option<Reason>,
    #[serde(default)]
    pub(super) deadline: bool,
    /// All that the message emitted.
    pub(super) events: Option<Vec<ExpectedEvent>>,
    /// All ephemeral events that it sent.
    pub(super) notified: Option<Vec<ExpectedEvent>>,
    /// All timers that it set or cancelled.
    pub(super) timers: Option<Vec<ExpectedTimer>>,
    /// All messages to other sessions that it sent, in order.
    pub(super) sent: Option<Vec<ExpectedSend>>,
    /// All requests over HTTP that it made or cancelled.
    pub(super) requests: Option<Vec<ExpectedRequest>>,
    /// Whether the session is closed, after the call.
    pub(super) closed: Option<bool>,
    /// All messages of timers that were due, in order.
    pub(super) fired: Option<Vec<ExpectedFiring>>,
    /// Some of the state, after the call; `null`: there is no such key.
    #[serde(default)]
    pub(super) state: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) state_base64: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rejection {
    pub(super) code: String,
    pub(super) message: Option<String>,
    pub(super) retriable: Option<bool>,
}

/// `true`, or a part of the reason's text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Reason {
    Any(bool),
    Part(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedEvent {
    pub(super) kind: String,
    pub(super) content_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) body: Option<Value>,
    pub(super) body_text: Option<String>,
    body_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedTimer {
    pub(super) name: String,
    #[serde(default)]
    pub(super) cancelled: bool,
    pub(super) due_ms: Option<u64>,
    /// After the call's time; in milliseconds.
    #[serde(default, deserialize_with = "duration")]
    pub(super) after: Option<u64>,
    pub(super) content_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) body: Option<Value>,
    pub(super) body_text: Option<String>,
    body_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedSend {
    /// `service/session`.
    pub(super) to: String,
    /// `null`: no outcome comes back.
    #[serde(default, deserialize_with = "name_or_none")]
    pub(super) reply_as: Option<Option<String>>,
    pub(super) content_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    pub(super) body: Option<Value>,
    pub(super) body_text: Option<String>,
    body_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedFiring {
    pub(super) timer: String,
    pub(super) session: Option<String>,
    pub(super) due_ms: Option<u64>,
    pub(super) missed: Option<u64>,
    pub(super) attempt: Option<u32>,
    /// Whether it is not tried again.
    pub(super) dead: Option<bool>,
    #[serde(default)]
    pub(super) expect: Expect,
}

impl Expect {
    /// What can't be expected together, or of such a call.
    pub(super) fn check(&self, kind: Kind) -> Result<(), String> {
        let replies =
            [self.reply.is_some(), self.reply_text.is_some(), self.reply_base64.is_some()];
        let failures = [
            self.rejection.is_some(),
            self.refused.is_some(),
            self.trap.is_some(),
            self.limit.is_some(),
            self.deadline,
        ];
        let count = |of: &[bool]| of.iter().filter(|each| **each).count();
        if count(&replies) > 1 {
            return Err("one reply: `reply`, `reply_text` or `reply_base64`".into());
        }
        let has_reply = count(&replies) == 1 || self.holds.is_some();
        if count(&failures) > 1 || count(&failures) == 1 && has_reply {
            return Err(
                "a call ends in one way: a reply, `rejection`, `refused`, `trap`, `limit` \
                        or `deadline`"
                    .into(),
            );
        }
        let no_reply = !has_reply && self.content_type.is_none();
        self.holds.as_ref().map_or(Ok(()), Holds::check_alone)?;
        if kind == Kind::Migrate && !(no_reply && self.rejection.is_none()) {
            return Err(
                "`migrate` has no reply and no rejection: it goes well, or is `refused`".into()
            );
        }
        if kind != Kind::Migrate && self.refused.is_some() {
            return Err("only `migrate` is `refused`; a handler gives a `rejection`".into());
        }
        match &self.fired {
            Some(_) if !matches!(kind, Kind::Advance | Kind::Swap) => {
                return Err("only `advance` has `fired`".into());
            }
            Some(fired) => fired.iter().try_for_each(|each| each.expect.check(Kind::Timer))?,
            None => {}
        }
        let others = [
            !no_reply || count(&failures) > 0 || self.seq.is_some() || self.expires.is_some(),
            self.events.is_some() || self.notified.is_some(),
            self.timers.is_some() || self.sent.is_some() || self.requests.is_some(),
            self.closed.is_some(),
            !self.state.is_empty() || !self.state_base64.is_empty(),
        ];
        if kind == Kind::Swap && (count(&others) > 0 || self.fired.is_some()) {
            return Err("of `swap`, nothing can be expected: no handler is called".into());
        }
        if kind == Kind::Advance && count(&others) > 0 {
            return Err("of `advance`, only `fired` can be expected; each of them has an \
                        `expect` of its own"
                .into());
        }
        let mut timers = self.timers.iter().flatten();
        if timers.any(|timer| timer.is_contradictory()) {
            return Err(
                "a timer is `cancelled`, or it has a `due_ms` or `after`, and a body".into()
            );
        }
        self.requests.iter().flatten().try_for_each(ExpectedRequest::check)?;
        if self.sent.iter().flatten().any(|sent| sent.content().bodies() > 1) {
            return Err("what is sent has one body: `body`, `body_text` or `body_base64`".into());
        }
        let wanted = [&self.trap, &self.limit];
        if wanted.iter().any(|reason| matches!(reason, Some(Reason::Any(false)))) {
            return Err("`trap` and `limit` are true, or a part of the reason".into());
        }
        let events = self.events.iter().chain(&self.notified).flatten();
        let events = events.filter_map(|event| event.body_base64.as_ref());
        let timers = self.timers.iter().flatten().filter_map(|timer| timer.body_base64.as_ref());
        let texts = self.reply_base64.iter().chain(self.state_base64.values());
        let sent = self.sent.iter().flatten().filter_map(|sent| sent.body_base64.as_ref());
        let requests = self.requests.iter().flatten();
        let requests = requests.filter_map(|request| request.body_base64.as_ref());
        let texts = texts.chain(events).chain(timers).chain(sent).chain(requests);
        texts.map(|text| decode(text)).find(Result::is_err).map_or(Ok(()), |bad| bad.map(drop))
    }

    /// Whether ephemeral events are asked for.
    pub fn is_notified(&self) -> bool {
        self.notified.is_some()
    }

    /// Whether timers are asked for.
    pub fn sets_timers(&self) -> bool {
        self.timers.is_some()
    }

    /// Whether messages to other sessions are asked for.
    pub fn sends(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether requests over HTTP are asked for.
    pub fn requests(&self) -> bool {
        self.requests.is_some()
    }

    /// Whether it is asked for whether the session is closed.
    pub fn closes(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether it is asked for when the session expires.
    pub fn expires(&self) -> bool {
        self.expires.is_some()
    }

    /// What is expected of the timer's message that is the `number`th to be due, from 0.
    pub(super) fn firing(&self, number: usize) -> Option<&Expect> {
        self.fired.as_ref()?.get(number).map(|firing| &firing.expect)
    }

    /// The keys of the state that are asked for.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.state.keys().chain(self.state_base64.keys()).map(String::as_str)
    }
}

/// What is expected of a content type and a body.
pub(super) struct Content<'a> {
    pub(super) content_type: Option<&'a String>,
    pub(super) body: Option<&'a Value>,
    pub(super) text: Option<&'a String>,
    pub(super) base64: Option<&'a String>,
}

impl Content<'_> {
    /// How many bodies are expected: one makes sense.
    pub(super) fn bodies(&self) -> usize {
        [self.body.is_some(), self.text.is_some(), self.base64.is_some()]
            .map(usize::from)
            .iter()
            .sum()
    }
}

macro_rules! contents {
    ($($Expected:ident)*) => {
        $(impl $Expected {
            pub(super) fn content(&self) -> Content<'_> {
                Content {
                    content_type: self.content_type.as_ref(),
                    body: self.body.as_ref(),
                    text: self.body_text.as_ref(),
                    base64: self.body_base64.as_ref(),
                }
            }
        })*
    };
}
contents!(ExpectedEvent ExpectedTimer ExpectedSend);

impl ExpectedTimer {
    fn is_contradictory(&self) -> bool {
        let bodies = self.content().bodies();
        let times = usize::from(self.due_ms.is_some()) + usize::from(self.after.is_some());
        let is_set = bodies + times > 0 || self.content_type.is_some();
        bodies > 1 || times > 1 || self.cancelled && is_set
    }
}
