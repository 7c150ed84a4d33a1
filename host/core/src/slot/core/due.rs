//! What of a slot is due, and when: the first rows of it in memory, the rest in the store.
//!
//! A row that is known is in one of `window`, `under_way` and `parked`; the other states are beside these.
//!
//! | state | meaning | entered by | left by |
//! |---|---|---|---|
//! | `window` | carried out at its time | `comes`, `add`, `ended`; `first`, from `parked` | `goes`, `begins`, `park`; emptied (1) |
//! | `under_way` | carried out elsewhere | `begins` | `ended` (to `window`), `park`, `goes` (to `cancelled`) |
//! | `cancelled` | was under way, and goes | `goes` | `take_cancelled`, once that is durable |
//! | `parked` | looked at again at a time | `park`, from the other two | `first`, at that time (to `window` and `tried`); `goes` |
//! | `tried` | comes after all that is not | `hold`; `first`, from `parked` | `goes`; all: nothing else is left, or too many (2) |
//! | held (a service) | its rows of `window` wait | `hold`, `hold_for` | its time has come, `went` |
//! | skipped (no row) | held rows left to the store | `wants`, for a full window | `wants`: some are not held any more, or (2) |
//! | `recent` | not as it is in the store | `comes`, `goes`, `stays` | `stored`, with its batch |
//!
//! (1) Where many come, its last rows are left to the store; where it is full of held ones, all are. More is read
//! after the row in `covered`. (2) Then all are tried once more, from the first row of the store on.
//! While it is `paused`, nothing is carried out, whatever its state.

use super::{Core, Phase};
use crate::{
    effects::{Change, rows::Due},
    limits,
    names::{ServiceName, SessionKey},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// What is due of a slot's sessions. All of its rows up to one that it knows, in order; whoever works on
/// the slot gives it more of the store's when it asks.
pub struct DueRows {
    window: BTreeMap<Due, SessionKey>,
    covered: Covered,
    /// Rows of services that are held have been left out of the window, until one of them no longer is.
    skipped: Option<Instant>,
    /// What changed and the store may not have yet, by the batch that it is in. `None`: it goes.
    recent: BTreeMap<Due, (u64, Option<SessionKey>)>,
    /// What is being carried out elsewhere. The window does not have it.
    under_way: BTreeMap<Due, SessionKey>,
    /// Of that, what goes, by the batch that it goes with: nobody waits for it any more.
    cancelled: Vec<(u64, Due)>,
    /// What is looked at again then, and the other way round. The window does not have it either.
    parked: BTreeMap<Due, (Instant, SessionKey)>,
    parked_until: BTreeSet<(Instant, Due)>,
    /// The last batch that is durable.
    durable: u64,
    /// A batch with something that may only be carried out once it is durable, and that is not; 0: there is none.
    waits_for: u64,
    /// Services of which nothing can be carried out, or not so often.
    held: BTreeMap<ServiceName, Held>,
    /// What could not be carried out: all else comes first, before it is tried again.
    tried: BTreeSet<Due>,
    /// Nothing is carried out till then: the store can't be read, or takes nothing more.
    paused: Option<Instant>,
    /// Something may be due at another time than it was.
    changed: bool,
}

/// How far the window has all rows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Covered {
    Nothing,
    UpTo(Due),
    All,
}

struct Held {
    until: Instant,
    wait: Duration,
}

/// Which rows of the store are wanted: so many, after this one.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    pub after: Option<Due>,
    pub limit: usize,
}

impl DueRows {
    pub fn new() -> Self {
        Self {
            window: BTreeMap::new(),
            covered: Covered::Nothing,
            skipped: None,
            recent: BTreeMap::new(),
            under_way: BTreeMap::new(),
            cancelled: Vec::new(),
            parked: BTreeMap::new(),
            parked_until: BTreeSet::new(),
            durable: 0,
            waits_for: 0,
            held: BTreeMap::new(),
            tried: BTreeSet::new(),
            paused: None,
            changed: true,
        }
    }

    fn covers(&self, row: &Due) -> bool {
        match &self.covered {
            Covered::Nothing => false,
            Covered::UpTo(last) => row <= last,
            Covered::All => true,
        }
    }

    fn is_held(&self, key: &SessionKey, now: Instant) -> bool {
        !self.held.is_empty() && self.held.get(&key.service).is_some_and(|held| held.until > now)
    }

    /// Whether the window has something that can be carried out and was not tried in vain.
    fn has_fresh(&self, now: Instant) -> bool {
        self.window.iter().any(|(row, key)| !self.is_held(key, now) && !self.tried.contains(row))
    }

    fn begin_anew(&mut self) {
        self.window.clear();
        (self.covered, self.skipped) = (Covered::Nothing, None);
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused.is_some_and(|until| until > now)
    }

    /// A row goes, with this batch.
    pub(super) fn goes(&mut self, row: Due, batch: u64) {
        self.changed = true;
        self.window.remove(&row);
        self.tried.remove(&row);
        self.unpark(&row);
        if self.under_way.remove(&row).is_some() {
            self.cancelled.push((batch, row.clone()));
        }
        self.recent.insert(row, (batch, None));
    }

    /// A row comes, with this batch.
    pub(super) fn comes(&mut self, row: Due, key: &SessionKey, batch: u64) {
        self.changed = true;
        if row.waits_until_durable() {
            self.waits_for = batch;
        }
        self.show(&row, key);
        self.recent.insert(row, (batch, Some(key.clone())));
        // The last of many are left to the store: it has them, or what is recent does.
        if self.window.len() > limits::DUE_HELD_MAX
            && let Some(first) = self.window.keys().nth(limits::DUE_ROWS_MAX).cloned()
        {
            self.window.split_off(&first);
            let last = self.window.keys().next_back().cloned();
            self.covered = last.map_or(Covered::Nothing, Covered::UpTo);
        }
    }

    /// What a row stands for changes with this batch, and it is as due as before. What is being carried out goes on.
    pub(super) fn stays(&mut self, row: &Due, key: &SessionKey, batch: u64) {
        if row.waits_until_durable() {
            self.waits_for = batch;
        }
        self.recent.insert(row.clone(), (batch, Some(key.clone())));
    }

    /// The window has a row, if it has all up to it.
    fn show(&mut self, row: &Due, key: &SessionKey) {
        if self.covers(row) {
            self.window.insert(row.clone(), key.clone());
        }
    }

    /// This batch is durable: whether something in it may be carried out only now.
    pub(super) fn is_durable(&mut self, batch: u64) -> bool {
        self.durable = batch;
        let waited = self.waits_for != 0 && self.waits_for <= batch;
        if waited {
            (self.waits_for, self.changed) = (0, true);
        }
        waited
    }

    /// A row is being carried out elsewhere until it goes, or [`Self::ended`].
    pub fn begins(&mut self, row: &Due, key: &SessionKey) {
        self.window.remove(row);
        self.under_way.insert(row.clone(), key.clone());
    }

    /// It is not being carried out any more, and is as due as before if it is still there.
    pub fn ended(&mut self, row: &Due) {
        if let Some(key) = self.under_way.remove(row) {
            self.changed = true;
            self.show(row, &key);
        }
    }

    /// Whether something is being carried out elsewhere.
    pub fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// How much longer what is parked has to wait, for all that is.
    pub fn crowd(&self) -> Duration {
        let parked = u32::try_from(self.parked.len()).unwrap_or(u32::MAX);
        limits::PARKED_PAUSE.saturating_mul(parked)
    }

    /// A row that is due, or was under way, is not looked at until then.
    pub fn park(&mut self, row: &Due, key: &SessionKey, until: Instant) {
        let was_there = self.window.remove(row).is_some() | self.under_way.remove(row).is_some();
        if !was_there {
            return;
        }
        self.changed = true;
        self.parked.insert(row.clone(), (until, key.clone()));
        self.parked_until.insert((until, row.clone()));
    }

    fn unpark(&mut self, row: &Due) -> Option<SessionKey> {
        let (until, key) = self.parked.remove(row)?;
        self.parked_until.remove(&(until, row.clone()));
        Some(key)
    }

    /// Has what was parked till now looked at again.
    fn unpark_until(&mut self, now: Instant) {
        while let Some((until, row)) = self.parked_until.first()
            && *until <= now
        {
            let row = row.clone();
            if let Some(key) = self.unpark(&row) {
                self.show(&row, &key);
                // It is older than what has come meanwhile, which comes first all the same.
                if self.tried.len() < limits::DUE_HELD_MAX {
                    self.tried.insert(row);
                }
            }
        }
    }

    /// What was being carried out and went with a batch that is durable.
    pub fn take_cancelled(&mut self) -> Vec<Due> {
        if self.cancelled.is_empty() {
            return Vec::new();
        }
        let durable = self.durable;
        let gone = self.cancelled.extract_if(.., |(batch, _)| *batch <= durable);
        gone.map(|(_, row)| row).collect()
    }

    /// Whether it may be carried out, as far as its own record goes.
    fn is_ready(&self, row: &Due) -> bool {
        !row.waits_until_durable()
            || self.recent.get(row).is_none_or(|(batch, _)| *batch <= self.durable)
    }

    /// The store has the changes of the batches up to this one.
    pub(super) fn stored(&mut self, up_to: u64) {
        self.recent.retain(|_, (batch, _)| *batch > up_to);
    }

    /// The rows that are needed to know what is due first at `now_ms`; `None`: enough is known.
    pub fn wants(&mut self, now_ms: u64, now: Instant) -> Option<Wanted> {
        if self.is_paused(now) {
            return None;
        }
        // Nothing that comes later is due.
        let far = matches!(&self.covered, Covered::UpTo(last) if last.due_ms > now_ms);
        let fresh = self.has_fresh(now);
        let at_end = self.covered == Covered::All || (far && !self.window.is_empty());
        // What was left out comes before what the window has. But all is looked through before: else what comes
        // behind very much of a service that is held would never be reached.
        if (fresh || at_end)
            && let Some(until) = self.skipped
        {
            if until <= now {
                self.begin_anew();
            } else if !fresh && !self.tried.is_empty() {
                self.tried.clear();
                self.begin_anew();
            } else {
                return None;
            }
        } else if fresh || at_end {
            return None;
        }
        if self.window.len() >= limits::DUE_HELD_MAX {
            self.window.clear();
            let until = self.held.values().map(|held| held.until).filter(|until| *until > now);
            let until = until.min().unwrap_or(now + limits::EFFECT_HOLD_MAX);
            self.skipped = Some(self.skipped.map_or(until, |before| before.min(until)));
        }
        let after = match &self.covered {
            Covered::UpTo(last) => Some(last.clone()),
            Covered::Nothing | Covered::All => None,
        };
        Some(Wanted { after, limit: limits::DUE_ROWS_MAX })
    }

    /// The rows that were wanted, as the store has them; fewer than that: there are no more.
    pub fn add(&mut self, wanted: &Wanted, rows: Vec<(Due, SessionKey)>) {
        self.changed = true;
        let covered = match rows.last() {
            Some((last, _)) if rows.len() >= wanted.limit => Covered::UpTo(last.clone()),
            _ => Covered::All,
        };
        let is_new = |row: &Due| wanted.after.as_ref().is_none_or(|after| row > after);
        self.covered = covered;
        let is_elsewhere =
            |row: &Due| self.under_way.contains_key(row) || self.parked.contains_key(row);
        for (row, key) in rows {
            if !self.recent.contains_key(&row) && !is_elsewhere(&row) {
                self.window.insert(row, key);
            }
        }
        let recent = self.recent.iter().filter_map(|(row, (_, key))| Some((row, key.as_ref()?)));
        let came = recent.filter(|(row, _)| is_new(row) && self.covers(row) && !is_elsewhere(row));
        let came: Vec<_> = came.map(|(row, key)| (row.clone(), key.clone())).collect();
        self.window.extend(came);
    }

    /// Nothing is carried out for a while.
    pub fn pause(&mut self, now: Instant) {
        self.changed = true;
        self.paused = Some(now + limits::EFFECT_HOLD_MAX);
    }

    /// Whoever was to be told when something is due has forgotten it.
    pub fn look(&mut self) {
        self.changed = true;
    }

    /// Whether [`DueRows::next_ms`] may give something else than the last time that this was asked.
    pub fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What the store may not have yet, in order. `None`: it goes.
    pub fn recent(&self) -> impl Iterator<Item = (&Due, Option<&SessionKey>)> {
        self.recent.iter().map(|(row, (_, key))| (row, key.as_ref()))
    }

    /// Whether nothing is due but what is in memory.
    pub fn knows_all(&self) -> bool {
        self.covered == Covered::All && self.skipped.is_none()
    }

    pub fn is_any(&self) -> bool {
        !self.window.is_empty() || !self.parked.is_empty()
    }

    #[cfg(test)]
    pub fn in_memory(&self) -> usize {
        self.window.len()
    }

    /// The first that is due, if any is. What was tried in vain comes after all else.
    pub fn first(&mut self, now_ms: u64, now: Instant) -> Option<(Due, SessionKey)> {
        if self.is_paused(now) {
            return None;
        }
        self.unpark_until(now);
        let due = || {
            let due = self.window.iter().take_while(|(row, _)| row.due_ms <= now_ms);
            due.filter(|(row, key)| !self.is_held(key, now) && self.is_ready(row))
        };
        let fresh = due().find(|(row, _)| !self.tried.contains(*row));
        let first = fresh.or_else(|| due().next());
        let first = first.map(|(row, key)| (row.clone(), key.clone()));
        if first.as_ref().is_some_and(|(row, _)| self.tried.contains(row)) {
            // All was tried: once more, then.
            self.tried.clear();
        }
        first
    }

    /// When there is something to do next, in milliseconds since the Unix epoch; `None`: never, as it is.
    pub fn next_ms(&mut self, now_ms: u64, now: Instant) -> Option<u64> {
        let at = |until: Instant| {
            let left = until.saturating_duration_since(now);
            now_ms.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)) + 1
        };
        if let Some(until) = self.paused.filter(|until| *until > now) {
            return (self.is_any() || !self.knows_all()).then(|| at(until));
        }
        if self.wants(now_ms, now).is_some() {
            return Some(now_ms);
        }
        // More is known to be there than what the window has, and it is not looked for yet.
        let beyond = match &self.covered {
            Covered::UpTo(last) => Some(last.due_ms),
            Covered::Nothing | Covered::All => None,
        };
        let free =
            self.window.iter().find(|(row, key)| !self.is_held(key, now) && self.is_ready(row));
        let free = free.map(|(row, _)| row.due_ms);
        let parked = self.parked_until.first().map(|(until, _)| at(*until));
        let held = self.held.iter().filter(|(_, held)| held.until > now);
        let held = held.filter_map(|(service, held)| {
            let first = self.window.iter().find(|(_, key)| key.service == *service);
            let first = first.map(|(row, _)| row.due_ms).or(self.skipped.map(|_| 0))?;
            Some(first.max(at(held.until)))
        });
        let beyond = beyond.filter(|_| free.is_none());
        free.into_iter().chain(held).chain(beyond).chain(parked).min()
    }

    /// What is due could not be carried out, for no fault of the handler's: its service waits.
    pub fn hold(&mut self, row: Due, service: &ServiceName, now: Instant) {
        self.changed = true;
        let (min, max) = (limits::EFFECT_HOLD_MIN, limits::EFFECT_HOLD_MAX);
        // One of long ago says nothing of this one.
        let before = self.held.get(service).filter(|held| now < held.until + max);
        let wait = before.map_or(min, |held| (held.wait * 2).clamp(min, max));
        self.held.insert(service.clone(), Held { until: now + wait, wait });
        if self.tried.len() >= limits::DUE_HELD_MAX {
            self.tried.clear();
        }
        self.tried.insert(row);
    }

    /// What is due of a service waits for so long, as its handler is slow.
    pub fn hold_for(&mut self, service: &ServiceName, wait: Duration, now: Instant) {
        self.changed = true;
        let until = now + wait.min(limits::EFFECT_HOLD_MAX);
        // The next one that is held waits as if it were the first.
        self.held.insert(service.clone(), Held { until, wait: Duration::ZERO });
    }

    /// Something of a service was carried out.
    pub fn went(&mut self, service: &ServiceName) {
        if !self.held.is_empty() {
            self.held.remove(service);
        }
    }
}

impl<H, S> Core<H, S> {
    pub(super) fn effects_change(
        &mut self,
        key: &SessionKey,
        session_number: u64,
        changes: &[Change],
    ) {
        for change in changes {
            let (gone, due) = change.due_rows(session_number);
            if let (Some(gone), Some(due)) = (&gone, &due)
                && gone == due
            {
                self.due.stays(due, key, self.filling.number);
                continue;
            }
            if let Some(gone) = gone {
                self.due.goes(gone, self.filling.number);
            }
            if let Some(due) = due {
                self.due.comes(due, key, self.filling.number);
            }
            if let Some(row) = change.on_its_way(session_number) {
                match &change.value {
                    Some(outgoing) => {
                        let (of, batch) = ((key, session_number), self.filling.number);
                        self.outbox.comes(row.place, of, batch, Some(outgoing.clone()));
                    }
                    None => self.outbox.goes(row.place),
                }
            }
        }
    }

    /// Whether what is due can be carried out now. `writable`: as for [`Core::takes_mail`].
    pub fn fires(&self, writable: impl FnOnce() -> bool) -> bool {
        matches!(self.phase, Phase::Serving)
            && self.takes_mail(|| false)
            && (!self.behind.is_too_much() || writable())
    }

    pub fn due(&mut self) -> &mut DueRows {
        &mut self.due
    }

    /// Something was done that was due.
    pub fn used(&mut self, now: Instant) {
        self.last_use = now;
    }
}
