//! Metering: what each service and each subject used, by day (UTC), kept on disk.
//!
//! A message adds to an account in the part of its thread, which no other thread looks at but to collect: some 30 ns. Every
//! [`limits::USAGE_WRITE_INTERVAL`] the parts are collected into the day and the day is written whole, so a crash loses less
//! than a minute; an orderly stop loses nothing. What is collected counts for the day in which it is collected, so at
//! midnight half a minute may count for the next day.
//!
//! Subjects are named by clients: of each service so many have accounts of their own in a day
//! ([`limits::USAGE_SUBJECTS_MAX`]), what comes later is added up in [`Who::Other`]. Sums of a service are always right.

mod files;
pub mod report;

pub use files::{Fault, Files};
pub use jiff::civil::Date;

use crate::limits;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    collections::HashMap,
    io,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// What is metered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// That were applied.
    pub messages: u64,
    /// By a limit.
    pub refused: u64,
    pub guest_time_ns: u64,
    /// Bodies of messages and queries.
    pub bytes_in: u64,
    /// Replies, events and pages.
    pub bytes_sent: u64,
    /// When it was last looked at.
    pub stored_bytes: u64,
    /// Stored bytes times the seconds that they were stored: unlike the number above, it can be added up over nodes and days
    /// whatever moved meanwhile.
    pub stored_byte_seconds: u64,
}

impl Amounts {
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.messages, other.messages),
            (&mut self.refused, other.refused),
            (&mut self.guest_time_ns, other.guest_time_ns),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.stored_bytes, other.stored_bytes),
            (&mut self.stored_byte_seconds, other.stored_byte_seconds),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Whose account it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// Of messages without a subject, and what belongs to nobody, such as what sessions store that no subject has made.
    #[default]
    Nobody,
    Subject(Box<str>),
    /// All subjects for which there was no place.
    Other,
}

/// A line of a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub service: Box<str>,
    #[serde(default)]
    pub who: Who,
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// What was used in a day, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// `2026-11-30`
    pub day: jiff::civil::Date,
    pub accounts: Vec<Account>,
}

type Accounts = HashMap<Box<str>, Of, RandomState>;

/// Of one service.
#[derive(Debug, Default)]
struct Of {
    nobody: Amounts,
    subjects: HashMap<Box<str>, Amounts, RandomState>,
    other: Option<Amounts>,
}

#[derive(Debug, Default)]
struct Part {
    accounts: Accounts,
    held: usize,
}

/// The service of those for which there was no place.
const OTHER_SERVICES: &str = "*";

impl Part {
    fn account(
        &mut self,
        service: &str,
        subject: Option<&str>,
        subjects_max: usize,
        held_max: usize,
    ) -> &mut Amounts {
        let full = self.held >= held_max;
        let service = match self.accounts.contains_key(service) {
            true => service,
            false if full => OTHER_SERVICES,
            false => {
                self.accounts.insert(service.into(), Of::default());
                self.held += 1;
                service
            }
        };
        let of = self.accounts.entry(service.into()).or_default();
        let Some(subject) = subject else { return &mut of.nobody };
        let subject = kept_name(subject);
        if !of.subjects.contains_key(subject) {
            if full || of.subjects.len() >= subjects_max {
                return of.other.get_or_insert_default();
            }
            of.subjects.insert(subject.into(), Amounts::default());
            self.held += 1;
        }
        of.subjects.entry(subject.into()).or_default()
    }

    fn add(&mut self, account: &Account) {
        match &account.who {
            Who::Nobody => self.of_day(&account.service, None).add(&account.amounts),
            Who::Subject(subject) => {
                self.of_day(&account.service, Some(subject)).add(&account.amounts)
            }
            Who::Other => {
                self.of_day(&account.service, None);
                let service = match self.accounts.contains_key(&account.service) {
                    true => &*account.service,
                    false => OTHER_SERVICES,
                };
                if let Some(of) = self.accounts.get_mut(service) {
                    of.other.get_or_insert_default().add(&account.amounts);
                }
            }
        }
    }

    fn of_day(&mut self, service: &str, subject: Option<&str>) -> &mut Amounts {
        self.account(service, subject, limits::USAGE_SUBJECTS_MAX, limits::USAGE_ACCOUNTS_MAX)
    }

    /// In order.
    fn list(&self) -> Vec<Account> {
        let mut all = Vec::with_capacity(self.held);
        for (service, of) in &self.accounts {
            let account = |who, amounts| Account { service: service.clone(), who, amounts };
            if of.nobody != Amounts::default() {
                all.push(account(Who::Nobody, of.nobody));
            }
            all.extend(of.subjects.iter().map(|(name, n)| account(Who::Subject(name.clone()), *n)));
            all.extend(of.other.map(|amounts| account(Who::Other, amounts)));
        }
        all.sort_by(|a, b| (&a.service, &a.who).cmp(&(&b.service, &b.who)));
        all
    }
}

/// What is kept of a subject's name.
pub fn kept_name(name: &str) -> &str {
    &name[..name.floor_char_boundary(limits::USAGE_NAME_BYTES_MAX)]
}

/// What a node meters.
#[derive(Debug)]
pub struct Usage {
    parts: [Mutex<Part>; limits::USAGE_PARTS],
    today: Mutex<Today>,
}

#[derive(Debug)]
struct Today {
    files: Files,
    day: jiff::civil::Date,
    part: Part,
    /// Not yet written.
    changed: bool,
}

/// Where a node's usage was found to be other than it should.
#[derive(Debug)]
pub struct Opened {
    pub usage: Usage,
    /// To be logged: what was set aside.
    pub faults: Vec<Fault>,
}

/// The day of a time, in UTC.
pub fn day_of(now_ms: u64) -> jiff::civil::Date {
    let ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    time.to_zoned(jiff::tz::TimeZone::UTC).date()
}

thread_local! {
    static PART: Cell<Option<usize>> = const { Cell::new(None) };
}
static NEXT_PART: AtomicUsize = AtomicUsize::new(0);

/// The part of this thread.
fn part_of_thread() -> usize {
    PART.with(|part| {
        part.get().unwrap_or_else(|| {
            let mine = NEXT_PART.fetch_add(1, Relaxed) % limits::USAGE_PARTS;
            part.set(Some(mine));
            mine
        })
    })
}

impl Usage {
    /// Goes on with what is kept in a folder, of which so many days stay.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn open(folder: &Path, days_kept: u32, now_ms: u64) -> io::Result<Opened> {
        let files = Files::open(folder, days_kept)?;
        let day = day_of(now_ms);
        let mut today = Today { files, day, part: Part::default(), changed: false };
        let faults = today.load(day)?;
        let usage = Self { parts: Default::default(), today: Mutex::new(today) };
        Ok(Opened { usage, faults })
    }

    /// Adds to an account.
    pub fn add(&self, service: &str, subject: Option<&str>, add: impl FnOnce(&mut Amounts)) {
        let mut part = self.parts[part_of_thread()].lock();
        let max = limits::USAGE_PART_ACCOUNTS_MAX;
        add(part.account(service, subject, limits::USAGE_SUBJECTS_MAX, max));
    }

    /// What services store now, by the subjects that it belongs to, and how long it was since this was said last. Those that come first
    /// have the places that there are: half of them, or subjects that only store would leave none to those that send. It waits for what
    /// is being written.
    pub fn stored<'a>(
        &self,
        stored: impl IntoIterator<Item = (&'a str, Option<&'a str>, u64)>,
        since: Duration,
    ) {
        let mut today = self.today.lock();
        for of in today.part.accounts.values_mut() {
            let subjects = of.subjects.values_mut().chain(&mut of.other);
            subjects.chain([&mut of.nobody]).for_each(|amounts| amounts.stored_bytes = 0);
        }
        for (service, subject, bytes) in stored {
            let amounts = match subject {
                None => today.part.of_day(service, None),
                Some(_) => today.part.account(
                    service,
                    subject,
                    limits::USAGE_SUBJECTS_MAX / 2,
                    limits::USAGE_ACCOUNTS_MAX / 2,
                ),
            };
            amounts.stored_bytes = amounts.stored_bytes.saturating_add(bytes);
            let more = u128::from(bytes) * since.as_millis() / 1_000;
            let more = u64::try_from(more).unwrap_or(u64::MAX);
            amounts.stored_byte_seconds = amounts.stored_byte_seconds.saturating_add(more);
        }
        today.changed = true;
    }

    /// Collects and writes. To be called every [`limits::USAGE_WRITE_INTERVAL`], and when the node stops; it blocks.
    ///
    /// # Errors
    /// It can't be written. It is tried again with the next call; nothing is lost before the process ends.
    pub fn write(&self, now_ms: u64) -> io::Result<Vec<Fault>> {
        let mut today = self.today.lock();
        let faults = today.turn(day_of(now_ms))?;
        self.collect(&mut today);
        today.save()?;
        Ok(faults)
    }

    /// The days from one to another, with what was not written yet. It blocks, and days that can't be read are not there.
    pub fn days(&self, from: jiff::civil::Date, to: jiff::civil::Date) -> Vec<Day> {
        let (files, day, now) = {
            let mut today = self.today.lock();
            self.collect(&mut today);
            let now = (from..=to).contains(&today.day).then(|| today.day());
            (today.files.clone(), today.day, now)
        };
        // Without the lock: there may be many. A file is replaced or removed whole, so what is read meanwhile is one or none.
        let kept = files.days().unwrap_or_default();
        let kept = kept.into_iter().filter(|kept| *kept != day && (from..=to).contains(kept));
        let mut days: Vec<_> = kept.filter_map(|day| files.read(day).ok().flatten()).collect();
        days.extend(now);
        days.sort_by_key(|day| day.day);
        days
    }

    fn collect(&self, today: &mut Today) {
        for part in &self.parts {
            let part = std::mem::take(&mut *part.lock());
            for account in part.list() {
                today.part.add(&account);
                today.changed = true;
            }
        }
    }
}

impl Today {
    fn day(&self) -> Day {
        Day { day: self.day, accounts: self.part.list() }
    }

    /// Begins another day, with what is kept of it: a clock may also go back.
    fn turn(&mut self, day: jiff::civil::Date) -> io::Result<Vec<Fault>> {
        if day == self.day {
            return Ok(Vec::new());
        }
        self.save()?;
        self.load(day)
    }

    fn load(&mut self, day: jiff::civil::Date) -> io::Result<Vec<Fault>> {
        let (kept, faults) = match self.files.read(day) {
            Ok(kept) => (kept, Vec::new()),
            Err(Fault::Io { error, .. }) => return Err(error),
            Err(fault) => {
                self.files.set_aside(day)?;
                (None, vec![fault])
            }
        };
        (self.day, self.part, self.changed) = (day, Part::default(), false);
        for account in kept.iter().flat_map(|day| &day.accounts) {
            self.part.add(account);
        }
        Ok(faults)
    }

    fn save(&mut self) -> io::Result<()> {
        if self.changed {
            self.files.write(&self.day())?;
            self.changed = false;
        }
        self.files.prune(self.day)
    }
}

#[cfg(test)]
mod tests;
