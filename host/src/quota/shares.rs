//! Fair shares of a busy node's processor: mail of a service that is beyond its share waits in a line.
//!
//! The same lines keep a service that writes much from having more on its way into the log than others can wait for
//! (`slotd_quota::writes`), whether the processor is busy or not.
//!
//! While there is time to spare, mail goes at once. On a busy node the controller of `slotd-quota` is asked for each, and
//! what has to wait is put in its service's line: in order of arrival, so that the order of a session's messages stays.
//! Whoever brought it sees it as in the mailbox. A thread of its own ([`thread`]) lets it out when its service has
//! its share again; the workers, whose queue this is about, are too late for that.
//!
//! **A slot that closes its mailbox** has what waits for it put there first, behind what is there ([`Turns::leave`]): from
//! then on it is mail like any other of a slot that leaves the node. It is handled before the slot is released, or
//! comes back to who sent it, in order. Both that and letting out happen under the lock of the lines, and none waits for
//! a mailbox that is closed: so nothing that comes later is before it, here or at the slot's next owner.
//!
//! A line has an end ([`limits::SHARES_LINE_MAX`]), and so has a wait ([`limits::SHARES_LINE_WAIT`]): then it is
//! `mailbox-full`. When the node stops, all lines end.

mod meter;
mod probe;
#[cfg(test)]
mod tests;
mod thread;

pub use thread::start;

use crate::{
    error::{Cause, Error},
    limits,
    loads::{Load, Loads},
    names::ServiceName,
    slot::{Mail, Mailbox, Turns},
    telemetry::{metrics, services},
};
use parking_lot::Mutex;
use slotd_quota::shares::{Admission, Terms};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::Thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// The shares of a node.
pub struct Shares {
    controller: slotd_quota::shares::Shares,
    loads: Arc<Loads>,
    lines: Mutex<Lines>,
    /// In all lines.
    waiting: AtomicUsize,
    started: Instant,
    /// It ticks as often as on a busy node.
    often: AtomicBool,
    thread: OnceLock<Thread>,
}

#[derive(Default)]
struct Lines {
    of: HashMap<ServiceName, Line>,
    closed: bool,
}

struct Line {
    load: Arc<Load>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    since: Instant,
    what: What,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are mail")]
enum What {
    Mail(Mailbox, Mail),
    /// Somebody who goes on by itself.
    Turn(oneshot::Sender<()>),
}

impl What {
    fn writes(&self) -> bool {
        match self {
            Self::Mail(_, mail) => mail.writes(),
            Self::Turn(_) => true,
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::Mail(_, mail) => mail.is_abandoned(),
            Self::Turn(tell) => tell.is_closed(),
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Mail(_, mail) => mail.refuse(error),
            // It sees that it has gone.
            Self::Turn(_) => {}
        }
    }
}

impl Shares {
    pub fn new(loads: Arc<Loads>, processors: usize) -> Arc<Self> {
        Arc::new(Self {
            controller: slotd_quota::shares::Shares::new(processors as f64, Duration::ZERO),
            loads,
            lines: Mutex::default(),
            waiting: AtomicUsize::new(0),
            started: crate::clock::now(),
            often: AtomicBool::new(false),
            thread: OnceLock::new(),
        })
    }

    /// What the policy says of services; `*`: of those that it does not name.
    pub fn set_terms(&self, terms: impl IntoIterator<Item = (Box<str>, Terms)>) {
        self.controller.set_terms(terms);
    }

    /// Lets mail in: gives it back, or keeps it in its service's line, for that mailbox.
    ///
    /// # Errors
    /// `mailbox-full`: the line is.
    #[inline]
    pub fn admit(&self, mailbox: &Mailbox, mut mail: Mail) -> Result<Option<Mail>, Error> {
        let Some(service) = mail.of_clients() else { return Ok(Some(mail)) };
        let Some(load) = self.loads.of(service) else { return Ok(Some(mail)) };
        if self.goes(service, &load, mail.writes()) {
            mail.let_in(&load);
            return Ok(Some(mail));
        }
        let service = service.clone();
        self.line_up(service, load, What::Mail(mailbox.clone(), mail)).map(|back| match back {
            Some(What::Mail(_, mail)) => Some(mail),
            _ => None,
        })
    }

    /// Whether the next mail of a service goes at once. Whoever asks brings it, then.
    pub fn goes_now(&self, service: &ServiceName) -> bool {
        self.loads.of(service).is_none_or(|load| self.goes(service, &load, true))
    }

    /// Has mail that goes counted as work of its service.
    pub fn let_in(&self, mail: &mut Mail) {
        if let Some(load) = mail.of_clients().and_then(|service| self.loads.of(service)) {
            mail.let_in(&load);
        }
    }

    /// Waits for a service's share, for who goes on by itself.
    ///
    /// # Errors
    /// `mailbox-full`, or the node stops.
    pub async fn turn(&self, service: &ServiceName) -> Result<(), Error> {
        let Some(load) = self.loads.of(service) else { return Ok(()) };
        if self.goes(service, &load, true) {
            load.passed();
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        self.line_up(service.clone(), load, What::Turn(tell))?;
        told.await.map_err(|_| full("messages of the service have waited for too long"))
    }

    fn goes(&self, service: &ServiceName, load: &Load, writes: bool) -> bool {
        let open = load.open();
        let looks = self.controller.is_engaged() || open > slotd_quota::limits::SHARES_OPEN_FREE;
        let lets_write = !writes || load.lets_write();
        if lets_write && !looks && self.waiting.load(Relaxed) == 0 {
            return true;
        }
        // Who waits was there first.
        let has_line = self.waiting.load(Relaxed) > 0 && self.lines.lock().of.contains_key(service);
        if has_line || !lets_write {
            return false;
        }
        let goes = self.ask(service, load) == Admission::Go;
        if !self.often.load(Relaxed) && self.controller.is_engaged() {
            self.wake();
        }
        goes
    }

    fn ask(&self, service: &ServiceName, load: &Load) -> Admission {
        self.controller.admit(service.as_str(), load.open(), || self.started.elapsed())
    }

    /// Puts something in the line of its service; back comes what need not wait.
    fn line_up(
        &self,
        service: ServiceName,
        load: Arc<Load>,
        what: What,
    ) -> Result<Option<What>, Error> {
        let mut lines = self.lines.lock();
        // Whoever takes it says that the node stops, or the slot.
        let is_closed = match &what {
            What::Mail(mailbox, _) => lines.closed || mailbox.is_closed(),
            What::Turn(_) => lines.closed,
        };
        if is_closed {
            return Ok(Some(what));
        }
        let new = || Line { load, waiting: VecDeque::new() };
        let line = lines.of.entry(service.clone()).or_insert_with(new);
        let count = line.waiting.len();
        if count >= limits::SHARES_LINE_MAX
            || self.waiting.load(Relaxed) >= limits::SHARES_WAITING_MAX
        {
            metrics().shares_full.increment(1);
            return Err(full(&format!(
                "this node is busy, and {count} messages of {service} are waiting for its share of the \
                 processor already; slow down"
            )));
        }
        line.waiting.push_back(Waiting { since: crate::clock::now(), what });
        let first = self.waiting.fetch_add(1, Relaxed) == 0;
        drop(lines);
        services::waited(&service);
        if first {
            self.wake();
        }
        Ok(None)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Lets out what may go, in order.
    fn release(&self) {
        let services: Vec<_> = self.lines.lock().of.keys().cloned().collect();
        for service in services {
            while self.release_some(&service) {}
        }
    }

    /// `false`: no more of this service may go now.
    fn release_some(&self, service: &ServiceName) -> bool {
        let now = crate::clock::now();
        let mut over = Vec::new();
        let mut lines = self.lines.lock();
        let Some(line) = lines.of.get_mut(service) else { return false };
        let (mut more, mut left) = (true, 0);
        while left < limits::SHARES_RELEASED_AT_A_TIME {
            let Some(first) = line.waiting.front() else {
                more = false;
                break;
            };
            let waited = now.saturating_duration_since(first.since);
            let is_late = waited > limits::SHARES_LINE_WAIT;
            let is_gone = first.what.is_abandoned();
            let goes = || {
                let lets_write = !first.what.writes() || line.load.lets_write();
                lets_write && self.ask(service, &line.load) == Admission::Go
            };
            if !is_late && !is_gone && !goes() {
                more = false;
                break;
            }
            let Some(Waiting { what, .. }) = line.waiting.pop_front() else { break };
            left += 1;
            if is_gone || is_late {
                over.push((what, is_late && !is_gone));
                continue;
            }
            metrics().shares_wait_seconds.record(waited);
            match what {
                What::Mail(mailbox, mut mail) => {
                    mail.let_in(&line.load);
                    // Into the mailbox under this lock: what comes meanwhile is behind it.
                    if let Err(mail) = mailbox.queue_or_refuse(mail) {
                        over.push((What::Mail(mailbox, mail), false));
                    }
                }
                What::Turn(tell) => {
                    line.load.passed();
                    // It may have gone.
                    let _ = tell.send(());
                }
            }
        }
        self.waiting.fetch_sub(left, Relaxed);
        if line.waiting.is_empty() {
            lines.of.remove(service);
        }
        drop(lines);
        for (what, is_late) in over {
            what.refuse(match is_late {
                true => {
                    metrics().shares_late.increment(1);
                    full(
                        "the message has waited for its service's share of this busy node for too long; \
                         nothing was kept",
                    )
                }
                // Its slot has failed at this moment; or nobody waits for it.
                false => left_slot(),
            });
        }
        more
    }

    /// Nothing waits any more from now on.
    pub fn close(&self) {
        let mut lines = self.lines.lock();
        lines.closed = true;
        let mut all = Vec::new();
        for (_, line) in lines.of.drain() {
            all.extend(line.waiting);
        }
        self.waiting.fetch_sub(all.len(), Relaxed);
        drop(lines);
        for waiting in all {
            waiting.what.refuse(Error::of(Cause::Stopping, "the node is stopping"));
        }
        self.wake();
    }

    fn is_closed(&self) -> bool {
        self.lines.lock().closed
    }

    /// How many wait, by service.
    #[cfg(test)]
    pub fn waiting(&self) -> Vec<(ServiceName, usize)> {
        let lines = self.lines.lock();
        lines.of.iter().map(|(service, line)| (service.clone(), line.waiting.len())).collect()
    }
}

/// Whoever has sent it may find its slot elsewhere, or here again.
fn left_slot() -> Error {
    Error::of(Cause::NotOwner, "the slot has left this node meanwhile; nothing was kept")
}

fn full(why: &str) -> Error {
    Error::of(Cause::Full, why.to_owned())
}

impl Turns for Shares {
    fn leave(&self, mailbox: &Mailbox, closes: &mut dyn FnMut(Vec<Mail>)) {
        let mut lines = self.lines.lock();
        let mut all = Vec::new();
        if self.waiting.load(Relaxed) > 0 {
            let is_its = |waiting: &Waiting| match &waiting.what {
                What::Mail(of, _) => of.is(mailbox),
                What::Turn(_) => false,
            };
            for line in lines.of.values_mut() {
                if !line.waiting.iter().any(is_its) {
                    continue;
                }
                let (its, others): (VecDeque<_>, VecDeque<_>) =
                    std::mem::take(&mut line.waiting).into_iter().partition(is_its);
                line.waiting = others;
                for waiting in its {
                    if let What::Mail(_, mut mail) = waiting.what {
                        mail.let_in(&line.load);
                        all.push(mail);
                    }
                }
            }
            lines.of.retain(|_, line| !line.waiting.is_empty());
            self.waiting.fetch_sub(all.len(), Relaxed);
        }
        closes(all);
    }

    fn wait(&self, service: &ServiceName, put_off: u32) -> Option<Duration> {
        let load = self.loads.of(service)?;
        let open = load.open();
        let looks = self.controller.is_engaged() || open > slotd_quota::limits::SHARES_OPEN_FREE;
        let lets_write = load.lets_write();
        if (lets_write && !looks) || put_off >= limits::SHARES_DUE_PUT_OFF_MAX {
            return None;
        }
        if !lets_write {
            return Some(slotd_quota::limits::SHARES_TICK);
        }
        match self.ask(service, &load) {
            Admission::Go => None,
            Admission::Wait(until) => {
                let wait = until.saturating_sub(self.started.elapsed());
                Some(wait.max(slotd_quota::limits::SHARES_TICK))
            }
        }
    }
}
