//! What a node meters, and what services have stored.

use crate::{
    message::Client,
    names::ServiceName,
    state::stored::{Stored, StoredByService, StoredNow, StoredOf},
    telemetry::ServiceUsage,
    usage::with_account,
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
pub use slotd_quota::usage::{
    Amounts, Date, Who,
    report::{Ask, By, Row, Sums},
};
use slotd_quota::{
    limits,
    usage::{Fault, Usage, day_of},
};
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// The folder in the data directory.
const FOLDER: &str = "usage";

/// A node's usage. The numbers of messages are exact; those of what is stored are as old as the last look at them.
pub struct NodeUsage {
    usage: Arc<Usage>,
    looked: RwLock<Looked>,
}

/// As of the last look.
#[derive(Default)]
struct Looked {
    at: Option<Instant>,
    /// In the slots of this node.
    here: Arc<StoredByService>,
    /// In all slots, as far as the other nodes answered.
    everywhere: Arc<StoredByService>,
    /// What was used of services on this day, for metrics.
    today: Arc<BTreeMap<Box<str>, Amounts>>,
}

impl NodeUsage {
    /// Goes on with what the data directory has.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn open(data_dir: &Path, now_ms: u64) -> io::Result<Self> {
        let opened = Usage::open(&data_dir.join(FOLDER), limits::USAGE_DAYS_DEFAULT, now_ms)?;
        show(&opened.faults);
        Ok(Self { usage: Arc::new(opened.usage), looked: RwLock::default() })
    }

    /// Where it is counted.
    pub fn counted(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Adds to the account of a client.
    pub fn add(
        &self,
        service: &ServiceName,
        client: Option<&Client>,
        add: impl FnOnce(&mut Amounts),
    ) {
        with_account(client, |account| self.usage.add(service.as_str(), account, add));
    }

    /// Takes over what is stored now; it blocks.
    pub fn stored(&self, here: StoredByService, everywhere: StoredByService, now: Instant) {
        let before = self.looked.read().at;
        // What was stored while the node did not run counts as nothing: another node may have had it.
        let since = before.map_or(Duration::ZERO, |before| now.saturating_duration_since(before));
        self.usage.stored(here.iter().flat_map(|(name, of)| by_subject(name, of)), since);
        let mut looked = self.looked.write();
        looked.at = Some(now);
        looked.here = Arc::new(here);
        looked.everywhere = Arc::new(everywhere);
    }

    /// Writes what was counted; it blocks.
    ///
    /// # Errors
    /// It could not be written; nothing is lost before the process ends.
    pub fn write(&self, now_ms: u64) -> io::Result<()> {
        show(&self.usage.write(now_ms)?);
        let mut today = BTreeMap::new();
        for day in self.usage.days(day_of(now_ms), day_of(now_ms)) {
            for account in day.accounts {
                let sum: &mut Amounts = today.entry(account.service).or_default();
                sum.add(&account.amounts);
            }
        }
        self.looked.write().today = Arc::new(today);
        Ok(())
    }

    /// What was used of this node; it blocks.
    pub fn report(&self, ask: &Ask) -> UsageShare {
        let mut sums = Sums::default();
        let days = self.usage.days(ask.since, ask.until);
        sums.add_days(ask, &days);
        let last = days.iter().map(|day| day.day).max();
        UsageShare { rows: sums.rows(), last, ..UsageShare::default() }
    }

    /// What was used of services today, and what they store, for metrics.
    pub fn shown(&self) -> Vec<(ServiceName, ServiceUsage)> {
        let (today, here) = {
            let looked = self.looked.read();
            (looked.today.clone(), looked.here.clone())
        };
        let mut all: BTreeMap<ServiceName, ServiceUsage> = BTreeMap::new();
        for (service, amounts) in &*today {
            // Those without a place of their own have no name.
            let Ok(service) = ServiceName::parse(service) else { continue };
            let Amounts { refused, bytes_sent, .. } = *amounts;
            let usage = ServiceUsage { refused, bytes_sent, ..ServiceUsage::default() };
            all.insert(service, usage);
        }
        for (service, stored) in &*here {
            let usage = all.entry(service.clone()).or_default();
            (usage.sessions, usage.stored_bytes) = (stored.all.sessions, stored.all.bytes);
        }
        all.into_iter().collect()
    }
}

impl Stored for NodeUsage {
    fn of(&self, service: &ServiceName) -> StoredNow {
        self.looked.read().everywhere.get(service).map(|of| of.all).unwrap_or_default()
    }

    fn of_subject(&self, service: &ServiceName, subject: &str) -> StoredNow {
        let looked = self.looked.read();
        let of = looked.everywhere.get(service).and_then(|of| of.subjects.get(subject));
        of.copied().unwrap_or_default()
    }
}

/// What belongs to nobody, then to each subject: that of which there is most first.
fn by_subject<'a>(
    service: &'a ServiceName,
    of: &'a StoredOf,
) -> impl Iterator<Item = (&'a str, Option<&'a str>, u64)> {
    let mut subjects: Vec<_> = of.subjects.iter().map(|(who, sum)| (&**who, sum.bytes)).collect();
    subjects.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let theirs = subjects.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
    let rest = (None, of.all.bytes.saturating_sub(theirs));
    let subjects = subjects.into_iter().map(|(who, bytes)| (Some(who), bytes));
    let all = std::iter::once(rest).chain(subjects);
    all.map(|(who, bytes)| (service.as_str(), who, bytes))
}

fn show(faults: &[Fault]) {
    for fault in faults {
        tracing::warn!(%fault, "usage");
    }
}

/// One node's part of a report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UsageShare {
    pub rows: Vec<Row>,
    /// The last of the days that it has.
    #[serde(default)]
    pub last: Option<Date>,
    /// In its slots now, without what of it is whose.
    pub stored: StoredByService,
    /// Slots of which that is not known yet.
    #[serde(default)]
    pub uncounted: u32,
}

/// The last `days` days, with the one of `now_ms`.
pub fn since(now_ms: u64, days: u64) -> Date {
    day_of(now_ms.saturating_sub(days.saturating_sub(1) * 24 * 3_600 * 1_000))
}
