use crate::{Error, encode::to_json, host::Host};
use serde::{Serialize, de::DeserializeOwned};
use std::{ops::Deref, time::Duration};

/// When a timer fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Once, at a time in milliseconds since the Unix epoch; one that has passed is due now;
    /// in a timer's own message 100 ms later at the earliest.
    At(u64),
    /// Once, so long after the message's time.
    After(Duration),
    /// Again and again, the first time that long after the message's time; 100 ms at least. A period
    /// does not drift: times that were missed are one message that says how many.
    Every(Duration),
    /// At the times that a cron expression names, as a period.
    Cron {
        /// Five fields: minute, hour, day of the month, month, day of the week.
        expression: String,
        /// A time zone by its IANA name: `Europe/Berlin`, `UTC`.
        zone: String,
    },
}

/// A timer that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    pub name: String,
    /// The time that it is for next, milliseconds since the Unix epoch.
    pub due_ms: u64,
    pub content_type: String,
    pub body: Vec<u8>,
    /// How often the message for that time has failed.
    pub failures: u32,
}

impl Timer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When the body is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// Which time of a timer a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Firing {
    pub due_ms: u64,
    pub missed: u64,
    pub attempt: u32,
}

/// The session's timers, to read.
#[derive(Clone)]
pub struct TimersView {
    host: Host,
}

/// The session's timers: messages that it sends itself later. What is set and cancelled here is set and
/// cancelled with the message, or not at all.
///
/// A timer's message has the body that it was set with, and [`crate::Origin::Timer`]. Setting one of a
/// name that is set replaces it. A name has 1 to 128 bytes and no control characters; a session has
/// 1,000 timers and 1 MiB of them at most, 64 KiB a body, and one message sets or cancels 256. Past a
/// limit the call ends in a trap.
#[derive(Clone)]
pub struct Timers {
    view: TimersView,
}

/// How many the host gives at a time.
const PAGE: u32 = 1_000;

impl TimersView {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }
    pub fn get(&self, name: &str) -> Option<Timer> {
        self.host.timer(name)
    }
    /// All of them, in order of the names' bytes.
    pub fn list(&self) -> Vec<Timer> {
        let mut all = self.host.timers(None, PAGE);
        let mut page = all.len();
        while page == PAGE as usize {
            let more = self.host.timers(all.last().map(|timer| timer.name.as_str()), PAGE);
            page = more.len();
            all.extend(more);
        }
        all
    }
}

impl Timers {
    pub(crate) fn new(host: Host) -> Self {
        Self { view: TimersView::new(host) }
    }
    /// Sets a timer that fires once, so long after this message's time: never earlier. The body is
    /// `body` as JSON. Gives the time that it is for, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Error::Moment`] when there can be no such time, which `?` turns into the rejection
    /// `bad-moment`; and when `body` has no form in JSON that comes back as it was.
    pub fn after<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        delay: Duration,
        body: &T,
    ) -> Result<u64, Error> {
        self.set(name, When::After(delay), body)
    }
    /// As [`Self::after`], at a time in milliseconds since the Unix epoch; one that has passed is due
    /// now; in a timer's own message 100 ms later at the earliest.
    ///
    /// # Errors
    /// As [`Self::after`].
    pub fn at<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        time_ms: u64,
        body: &T,
    ) -> Result<u64, Error> {
        self.set(name, When::At(time_ms), body)
    }
    /// As [`Self::after`], again and again: see [`When::Every`].
    ///
    /// # Errors
    /// As [`Self::after`].
    pub fn every<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        period: Duration,
        body: &T,
    ) -> Result<u64, Error> {
        self.set(name, When::Every(period), body)
    }
    /// As [`Self::after`], at the times that a cron expression names in a time zone: see
    /// [`When::Cron`].
    ///
    /// # Errors
    /// As [`Self::after`].
    pub fn cron<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        expression: &str,
        zone: &str,
        body: &T,
    ) -> Result<u64, Error> {
        let (expression, zone) = (expression.to_owned(), zone.to_owned());
        self.set(name, When::Cron { expression, zone }, body)
    }
    /// Sets a timer; the other methods are this one's short forms.
    ///
    /// # Errors
    /// As [`Self::after`].
    pub fn set<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        when: When,
        body: &T,
    ) -> Result<u64, Error> {
        let body = to_json(body)
            .map_err(|error| Error::Encode { what: format!("timer {name:?}"), error })?;
        self.set_bytes(name, when, "application/json", body)
    }
    /// As [`Self::set`], with any body.
    ///
    /// # Errors
    /// [`Error::Moment`], as [`Self::after`].
    pub fn set_bytes(
        &mut self,
        name: &str,
        when: When,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<u64, Error> {
        let set = self.view.host.schedule(name, when, content_type, body.into());
        set.map_err(|why| Error::Moment { why })
    }
    /// Whether there was one.
    pub fn cancel(&mut self, name: &str) -> bool {
        self.view.host.cancel(name)
    }
}

/// Reading is the same with and without the right to write.
impl Deref for Timers {
    type Target = TimersView;
    fn deref(&self) -> &TimersView {
        &self.view
    }
}

/// In milliseconds; not a part of one less, since a timer is never early.
pub(crate) fn millis(duration: Duration) -> u64 {
    duration.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX)
}
