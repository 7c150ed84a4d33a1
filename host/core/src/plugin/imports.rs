//! The functions of `wit/` that a guest calls. Each is pure computation on the call's state; a
//! fault ends the call by a trap, and is kept in the call as the error for the caller.

mod client;
mod http;

use super::{
    Failure, StateFault,
    bindings::{Handler, slotd::slot as wit},
    instance::{Current, HostState, Mode},
};
use crate::{
    effects::{
        Expiry, Firing, Origin, Outgoing,
        http::{Closed, Watch},
        send::{self, Content},
        timer::{Moment, Timer, name_problem},
    },
    limits,
    log::record::Event,
    names::{SessionKey, is_reserved_kind},
};
use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker};

pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    Handler::add_to_linker::<HostState, HasSelf<HostState>>(linker, |host| host)
}

impl HostState {
    /// Counts a host call. A guest that is being instantiated has no session, and so no state.
    fn count(&mut self) -> wasmtime::Result<&mut Current> {
        let host_calls_max = self.host_calls_max;
        let Some(current) = self.current.as_mut() else {
            return Err(wasmtime::format_err!(
                "called a host function during instantiation, when there is no session yet"
            ));
        };
        current.host_calls += 1;
        if current.host_calls > host_calls_max {
            let limit = format!("host calls: a call may make at most {host_calls_max}");
            return Err(current.fail(Failure::Limit(limit)));
        }
        Ok(current)
    }

    /// As [`Self::count`], for a call that has to do with the state.
    fn count_state(&mut self) -> wasmtime::Result<&mut Current> {
        let current = self.count()?;
        current.used_state = true;
        Ok(current)
    }
}

impl Current {
    /// Keeps why the call fails, and gives the error that traps the guest.
    pub(super) fn fail(&mut self, failure: Failure) -> wasmtime::Error {
        let error = wasmtime::format_err!("{failure}");
        self.failure.get_or_insert(failure);
        error
    }

    fn fault(&mut self, fault: StateFault) -> wasmtime::Error {
        self.fail(match fault {
            StateFault::ReadOnly => Failure::Trapped(fault.to_string()),
            StateFault::Limit(sentence) => Failure::Limit(sentence),
            StateFault::Store(error) => Failure::Store(error),
            StateFault::Level(sentence) => Failure::Level(sentence),
            StateFault::Full(sentence) => Failure::Full(sentence),
        })
    }

    fn may_write(&mut self) -> wasmtime::Result<()> {
        match self.mode {
            Mode::Query => Err(self.fault(StateFault::ReadOnly)),
            Mode::Handle | Mode::Migrate => Ok(()),
        }
    }
}

impl wit::types::Host for HostState {}

impl wit::state::Host for HostState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let current = self.count_state()?;
        match current.state.get(&key) {
            Ok(value) => Ok(value.map(Vec::from)),
            Err(fault) => Err(current.fault(fault)),
        }
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        let current = self.count_state()?;
        current.may_write()?;
        current.state.set(&key, Bytes::from(value)).map_err(|fault| current.fault(fault))
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        let current = self.count_state()?;
        current.may_write()?;
        current.state.delete(&key).map_err(|fault| current.fault(fault))
    }

    fn scan(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        let current = self.count_state()?;
        let limit = limit.min(limits::STATE_SCAN_ENTRIES_MAX);
        match current.state.scan(&prefix, after.as_deref(), limit) {
            Ok(pairs) => Ok(pairs.into_iter().map(|(k, v)| (k, Vec::from(v))).collect()),
            Err(fault) => Err(current.fault(fault)),
        }
    }
}

impl wit::effects::Host for HostState {
    fn emit(&mut self, event: wit::effects::Event) -> wasmtime::Result<()> {
        let current = self.count()?;
        current.may_send("emit events")?;
        current.take_event(EMITTED, event, |current| &mut current.events)
    }
}

impl wit::session::Host for HostState {
    fn notify(&mut self, event: wit::session::Event) -> wasmtime::Result<()> {
        let current = self.count()?;
        current.may_send("send ephemeral events")?;
        current.take_event(EPHEMERAL, event, |current| &mut current.ephemeral)
    }

    fn expire(&mut self, at: Option<u64>) -> wasmtime::Result<Result<(), String>> {
        let current = self.count()?;
        current.may_send("have the session expire")?;
        if let Some(at_ms) = at.filter(|at_ms| *at_ms > limits::TIMER_MS_MAX) {
            return Ok(Err(format!(
                "{at_ms} is no time at which a session can expire: the last is {} ms since the Unix \
                 epoch",
                limits::TIMER_MS_MAX
            )));
        }
        // A time of long ago would come before all that is due now.
        let (earliest, set_by) = (current.time_ms, current.seq);
        let expiry = at.map(|at_ms| Expiry { at_ms: at_ms.max(earliest), set_by });
        current.state.expire(expiry).map(Ok).map_err(|fault| current.fault(fault))
    }

    fn close(&mut self) -> wasmtime::Result<()> {
        let current = self.count()?;
        current.may_send("close the session")?;
        let closed = Closed { by: current.seq };
        current.state.close(closed).map_err(|fault| current.fault(fault))
    }

    fn watch_subscribers(&mut self, wanted: bool) -> wasmtime::Result<()> {
        let current = self.count()?;
        current.may_send("watch the session's subscribers")?;
        // Looked at once it is durable: there may be some already.
        let next_ms = Some(current.time_ms);
        let watch = Watch { present: false, next_ms, set_by: current.seq };
        current.state.watch(wanted.then_some(watch)).map_err(|fault| current.fault(fault))
    }

    fn current(&mut self) -> wasmtime::Result<Option<wit::session::Presence>> {
        let origin = self.count()?.origin.as_deref();
        Ok(match origin {
            Some(Origin::Presence(true)) => Some(wit::session::Presence::Present),
            Some(Origin::Presence(false)) => Some(wit::session::Presence::Absent),
            _ => None,
        })
    }
}

impl wit::timers::Host for HostState {
    fn schedule(
        &mut self,
        name: String,
        when: wit::timers::Moment,
        content_type: String,
        body: Vec<u8>,
    ) -> wasmtime::Result<Result<u64, String>> {
        let current = self.count()?;
        current.may_send("set timers")?;
        current.check_timer(&name)?;
        if let Err(failure) = check_content_type(&content_type, "a timer") {
            return Err(current.fail(failure));
        }
        // A timer that sets itself again is a period, however it does it.
        let wait = current.firing().map_or(0, |_| limits::TIMER_PERIOD_MIN_MS);
        let earliest = current.time_ms.saturating_add(wait);
        if body.len() > limits::TIMER_BODY_BYTES_MAX {
            return Err(current.fail(Failure::Limit(format!(
                "timers: a body may have {} bytes; this one has {}",
                limits::TIMER_BODY_BYTES_MAX,
                body.len()
            ))));
        }
        let (when, due_ms) = match Moment::from(when).first(current.time_ms, earliest) {
            Ok(first) => first,
            Err(why) => return Ok(Err(why)),
        };
        let timer = Timer {
            when,
            due_ms,
            next_ms: due_ms,
            failures: 0,
            reason: String::new(),
            content_type,
            body: Bytes::from(body),
            set_by: current.seq,
        };
        match current.state.schedule(&name, timer) {
            Ok(()) => Ok(Ok(due_ms)),
            Err(fault) => Err(current.fault(fault)),
        }
    }

    fn cancel(&mut self, name: String) -> wasmtime::Result<bool> {
        let current = self.count()?;
        current.may_send("cancel timers")?;
        current.check_timer(&name)?;
        current.state.cancel(&name).map_err(|fault| current.fault(fault))
    }

    fn get(&mut self, name: String) -> wasmtime::Result<Option<wit::timers::Timer>> {
        let current = self.count()?;
        match current.state.timer(&name) {
            Ok(timer) => Ok(timer.map(|timer| shown(name, &timer))),
            Err(fault) => Err(current.fault(fault)),
        }
    }

    fn list(
        &mut self,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Vec<wit::timers::Timer>> {
        let current = self.count()?;
        match current.state.timers(after.as_deref(), limit.min(limits::TIMER_LIST_MAX)) {
            Ok(timers) => Ok(timers.into_iter().map(|(name, timer)| shown(name, &timer)).collect()),
            Err(fault) => Err(current.fault(fault)),
        }
    }

    fn current(&mut self) -> wasmtime::Result<Option<wit::timers::Firing>> {
        let firing = self.count()?.firing();
        Ok(firing.map(|firing| wit::timers::Firing {
            due_ms: firing.due_ms,
            missed: firing.missed,
            attempt: firing.attempt,
        }))
    }
}

impl wit::sends::Host for HostState {
    fn send(
        &mut self,
        to: wit::sends::Address,
        content_type: String,
        body: Vec<u8>,
        reply_as: Option<String>,
    ) -> wasmtime::Result<Result<(), String>> {
        let current = self.count()?;
        current.may_send("send messages to other sessions")?;
        if let Err(failure) = check_content_type(&content_type, "a message") {
            return Err(current.fail(failure));
        }
        if body.len() > limits::SEND_BODY_BYTES_MAX {
            return Err(current.fail(Failure::Limit(format!(
                "sends: a body may have {} bytes; this one has {}",
                limits::SEND_BODY_BYTES_MAX,
                body.len()
            ))));
        }
        let to = match SessionKey::parse(&to.service, &to.session) {
            Ok(to) => to,
            Err(error) => return Ok(Err(error.detail.into_owned())),
        };
        if let Some(problem) = reply_as.as_deref().and_then(send::name_problem) {
            return Ok(Err(problem));
        }
        let hops = current.origin.as_ref().map_or(0, |origin| origin.hops()).saturating_add(1);
        if hops > limits::SEND_HOPS_MAX {
            return Err(current.fail(Failure::Limit(format!(
                "sends: {} in a row that follow one from the other; these sessions may be sending \
                 to each other in a loop",
                limits::SEND_HOPS_MAX
            ))));
        }
        let outgoing = Outgoing {
            to,
            content: Content::Message { reply: reply_as },
            content_type,
            body: Bytes::from(body),
            hops,
            failures: 0,
            held: 0,
            next_ms: 0,
            reason: String::new(),
            sent_by: current.seq,
            trace: None,
        };
        current.state.send(outgoing).map(Ok).map_err(|fault| current.fault(fault))
    }

    fn current(&mut self) -> wasmtime::Result<Option<wit::sends::Arrival>> {
        let origin = self.count()?.origin.as_deref();
        let address = |key: &SessionKey| wit::sends::Address {
            service: key.service.as_str().to_owned(),
            session: key.session.as_str().to_owned(),
        };
        Ok(match origin {
            Some(Origin::Session(received)) => {
                Some(wit::sends::Arrival::Message(wit::sends::Delivery {
                    sender: address(&received.from),
                    attempt: received.attempt,
                    reply_wanted: received.reply,
                }))
            }
            Some(Origin::Answer(answered)) => {
                Some(wit::sends::Arrival::Answer(wit::sends::Answer {
                    name: answered.name.clone(),
                    sender: address(&answered.of),
                    refusal: answered.refusal.as_ref().map(|refusal| wit::types::Rejection {
                        code: refusal.code.clone(),
                        message: refusal.reason.clone(),
                        retriable: refusal.retriable,
                    }),
                    attempt: answered.attempt,
                }))
            }
            _ => None,
        })
    }
}

fn shown(name: String, timer: &Timer) -> wit::timers::Timer {
    wit::timers::Timer {
        name,
        due_ms: timer.due_ms,
        content_type: timer.content_type.clone(),
        body: timer.body.to_vec(),
        failures: timer.failures,
    }
}

impl From<wit::timers::Moment> for Moment {
    fn from(when: wit::timers::Moment) -> Self {
        match when {
            wit::timers::Moment::At(at) => Self::At(at),
            wit::timers::Moment::After(delay) => Self::After(delay),
            wit::timers::Moment::Every(period) => Self::Every(period),
            wit::timers::Moment::Cron(wit::timers::Cron { expression, zone }) => {
                Self::Cron { expression, zone }
            }
        }
    }
}

/// Events that a call gives, as far as they are of one kind.
#[derive(Default)]
pub(super) struct Events {
    pub(super) list: Vec<Event>,
    bytes: usize,
}

/// What a message may give of them.
struct Allowed {
    what: &'static str,
    does: &'static str,
    count_max: usize,
    bytes_max: usize,
}

const EMITTED: &Allowed = &Allowed {
    what: "events",
    does: "emit",
    count_max: limits::EVENTS_MAX,
    bytes_max: limits::EVENT_BYTES_MAX,
};
const EPHEMERAL: &Allowed = &Allowed {
    what: "ephemeral events",
    does: "send",
    count_max: limits::EPHEMERAL_EVENTS_MAX,
    bytes_max: limits::EPHEMERAL_BYTES_MAX,
};

impl Current {
    /// Of the timer that the message comes from.
    fn firing(&self) -> Option<&Firing> {
        match self.origin.as_deref() {
            Some(Origin::Timer(firing)) => Some(firing),
            _ => None,
        }
    }

    /// Only a message sends something.
    fn may_send(&mut self, what: &str) -> wasmtime::Result<()> {
        let who = match self.mode {
            Mode::Handle => return Ok(()),
            Mode::Query => "a query",
            Mode::Migrate => "`migrate`",
        };
        Err(self.fail(Failure::Trapped(format!("{who} may not {what}"))))
    }

    fn check_timer(&mut self, name: &str) -> wasmtime::Result<()> {
        let problem = name_problem(name);
        problem.map_or(Ok(()), |problem| Err(self.fail(Failure::Trapped(problem))))
    }

    fn take_event(
        &mut self,
        allowed: &Allowed,
        event: wit::types::Event,
        to: fn(&mut Self) -> &mut Events,
    ) -> wasmtime::Result<()> {
        let bytes = event.kind.len() + event.content_type.len() + event.body.len();
        if let Err(failure) = to(self).check(allowed, &event, bytes) {
            return Err(self.fail(failure));
        }
        let events = to(self);
        events.bytes += bytes;
        events.list.push(Event {
            kind: event.kind,
            content_type: event.content_type,
            body: Bytes::from(event.body),
        });
        Ok(())
    }
}

impl Events {
    fn check(
        &self,
        allowed: &Allowed,
        event: &wit::types::Event,
        bytes: usize,
    ) -> Result<(), Failure> {
        let Allowed { what, does, count_max, bytes_max } = allowed;
        if self.list.len() >= *count_max {
            let limit = format!("{what}: a message may {does} at most {count_max}");
            return Err(Failure::Limit(limit));
        }
        if self.bytes + bytes > *bytes_max {
            let limit =
                format!("{what}: all {what} of a message may have at most {bytes_max} bytes");
            return Err(Failure::Limit(limit));
        }
        check_event_kind(&event.kind)?;
        if is_reserved_kind(&event.kind) {
            return Err(Failure::Trapped(format!(
                "the event kind {:?} is reserved: event streams use \"error\" and kinds that begin \
                 with \"slotd.\"; choose another",
                event.kind
            )));
        }
        check_content_type(&event.content_type, "an event")
    }
}

/// It becomes a line of its own in a stream of events.
pub fn check_event_kind(kind: &str) -> Result<(), Failure> {
    if kind.len() > limits::EVENT_KIND_BYTES_MAX {
        let limit =
            format!("events: a kind may have at most {} bytes", limits::EVENT_KIND_BYTES_MAX);
        return Err(Failure::Limit(limit));
    }
    if kind.is_empty() || kind.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Failure::Trapped(format!("an event's kind is a word, not {kind:?}")));
    }
    Ok(())
}

/// It becomes a header: visible ASCII, and short.
pub fn check_content_type(content_type: &str, of: &str) -> Result<(), Failure> {
    if content_type.len() > limits::CONTENT_TYPE_BYTES_MAX {
        return Err(Failure::Limit(format!(
            "the content type of {of} may have {} bytes; this one has {}",
            limits::CONTENT_TYPE_BYTES_MAX,
            content_type.len()
        )));
    }
    if !content_type.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        let sentence = format!("the content type of {of} is printable ASCII, not {content_type:?}");
        return Err(Failure::Trapped(sentence));
    }
    Ok(())
}

impl wit::log::Host for HostState {
    fn write(&mut self, level: wit::log::Level, message: String) -> wasmtime::Result<()> {
        self.count()?;
        if let Some(current) = self.current.as_mut() {
            current.log.write(&self.log, &current.session, level, &message);
        }
        Ok(())
    }
}
