//! Fair shares of a busy node's processor: mail of a service that is beyond its share waits in a line.
//!
//! While there is time to spare, mail goes at once. On a busy node the controller of `slotd-quota` is asked for each, and
//! what has to wait is put in its service's line: in order of arrival, so that the order of a session's messages stays.
//! Whoever brought it sees it as in the mailbox. A thread of its own ([`thread`]) lets it out when its service has
//! its share again; the workers, whose queue this is about, are too late for that.
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
    names::{ServiceName, SlotId},
    slot::{Mail, Turns},
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
    /// In all lines, or just let out of one.
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
    /// So many were let out and are not in their mailboxes yet: what comes now is behind them.
    leaving: usize,
}

struct Waiting {
    since: Instant,
    what: What,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are mail")]
enum What {
    Mail(SlotId, Mail),
    /// Somebody who goes on by itself.
    Turn(oneshot::Sender<()>),
}

impl What {
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

    /// Lets mail in: gives it back, or keeps it in its service's line.
    ///
    /// # Errors
    /// `mailbox-full`: the line is.
    #[inline]
    pub fn admit(&self, slot: SlotId, mut mail: Mail) -> Result<Option<Mail>, Error> {
        let Some(service) = mail.of_clients() else { return Ok(Some(mail)) };
        let Some(load) = self.loads.of(service) else { return Ok(Some(mail)) };
        if self.goes(service, &load) {
            mail.let_in(&load);
            return Ok(Some(mail));
        }
        let service = service.clone();
        self.line_up(service, load, What::Mail(slot, mail)).map(|back| match back {
            Some(What::Mail(_, mail)) => Some(mail),
            _ => None,
        })
    }

    /// Whether the next mail of a service goes at once. Whoever asks brings it, then.
    pub fn goes_now(&self, service: &ServiceName) -> bool {
        self.loads.of(service).is_none_or(|load| self.goes(service, &load))
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
        if self.goes(service, &load) {
            load.passed();
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        self.line_up(service.clone(), load, What::Turn(tell))?;
        told.await.map_err(|_| full("messages of the service have waited for too long"))
    }

    fn goes(&self, service: &ServiceName, load: &Load) -> bool {
        let open = load.open();
        let looks = self.controller.is_engaged() || open > slotd_quota::limits::SHARES_OPEN_FREE;
        if !looks && self.waiting.load(Relaxed) == 0 {
            return true;
        }
        // Who waits was there first.
        let has_line = self.waiting.load(Relaxed) > 0 && self.lines.lock().of.contains_key(service);
        if has_line {
            return false;
        }
        let goes = self.ask(service, open) == Admission::Go;
        if !self.often.load(Relaxed) && self.controller.is_engaged() {
            self.wake();
        }
        goes
    }

    fn ask(&self, service: &ServiceName, open: u64) -> Admission {
        self.controller.admit(service.as_str(), open, || self.started.elapsed())
    }

    /// Puts something in the line of its service; back comes what need not wait.
    fn line_up(
        &self,
        service: ServiceName,
        load: Arc<Load>,
        what: What,
    ) -> Result<Option<What>, Error> {
        let mut lines = self.lines.lock();
        if lines.closed {
            // Whoever takes it says that the node stops.
            return Ok(Some(what));
        }
        let line = lines.of.entry(service.clone()).or_insert_with(|| Line {
            load,
            waiting: VecDeque::new(),
            leaving: 0,
        });
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
    fn release(&self, place: &impl Fn(SlotId, Mail)) {
        let services: Vec<_> = self.lines.lock().of.keys().cloned().collect();
        for service in services {
            while self.release_some(&service, place) {}
        }
    }

    /// `false`: no more of this service may go now.
    fn release_some(&self, service: &ServiceName, place: &impl Fn(SlotId, Mail)) -> bool {
        let now = crate::clock::now();
        let (mut leaving, mut late, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut lines = self.lines.lock();
        let Some(line) = lines.of.get_mut(service) else { return false };
        let mut more = true;
        while leaving.len() < limits::SHARES_RELEASED_AT_A_TIME {
            let Some(first) = line.waiting.front() else {
                more = false;
                break;
            };
            let is_late = now.saturating_duration_since(first.since) > limits::SHARES_LINE_WAIT;
            let is_gone = first.what.is_abandoned();
            if !is_late && !is_gone && self.ask(service, line.load.open()) != Admission::Go {
                more = false;
                break;
            }
            let Some(mut first) = line.waiting.pop_front() else { break };
            if is_gone {
                gone.push(first.what);
            } else if is_late {
                late.push(first.what);
            } else {
                metrics().shares_wait_seconds.record(now.saturating_duration_since(first.since));
                match &mut first.what {
                    What::Mail(_, mail) => mail.let_in(&line.load),
                    What::Turn(_) => line.load.passed(),
                }
                leaving.push(first.what);
            }
        }
        line.leaving = leaving.len() + late.len() + gone.len();
        drop(lines);
        let count = leaving.len() + late.len() + gone.len();
        metrics().shares_late.increment(late.len() as u64);
        for what in late {
            what.refuse(full(
                "the message has waited for its service's share of this busy node for too long; nothing was kept",
            ));
        }
        drop(gone);
        for what in leaving {
            match what {
                What::Mail(slot, mail) => place(slot, mail),
                // It may have gone.
                What::Turn(tell) => drop(tell.send(())),
            }
        }
        let mut lines = self.lines.lock();
        self.waiting.fetch_sub(count, Relaxed);
        if let Some(line) = lines.of.get_mut(service) {
            line.leaving = 0;
            if line.waiting.is_empty() {
                lines.of.remove(service);
            }
        }
        more
    }

    /// Nothing waits any more from now on.
    pub fn close(&self) {
        let mut lines = self.lines.lock();
        lines.closed = true;
        let mut all = Vec::new();
        for line in lines.of.values_mut() {
            all.extend(line.waiting.drain(..));
        }
        lines.of.retain(|_, line| line.leaving > 0);
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

fn full(why: &str) -> Error {
    Error::of(Cause::Full, why.to_owned())
}

impl Turns for Shares {
    fn wait(&self, service: &ServiceName, put_off: u32) -> Option<Duration> {
        let load = self.loads.of(service)?;
        let open = load.open();
        let looks = self.controller.is_engaged() || open > slotd_quota::limits::SHARES_OPEN_FREE;
        if !looks || put_off >= limits::SHARES_DUE_PUT_OFF_MAX {
            return None;
        }
        match self.ask(service, open) {
            Admission::Go => None,
            Admission::Wait(until) => {
                let wait = until.saturating_sub(self.started.elapsed());
                Some(wait.max(slotd_quota::limits::SHARES_TICK))
            }
        }
    }
}
