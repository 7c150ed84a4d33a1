//! What of a slot is due, and when: the first rows of it in memory, the rest in the store.

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
        self.recent.insert(row, (batch, None));
    }

    /// A row comes, with this batch.
    pub(super) fn comes(&mut self, row: Due, key: &SessionKey, batch: u64) {
        self.changed = true;
        if self.covers(&row) {
            self.window.insert(row.clone(), key.clone());
        }
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
        for (row, key) in rows {
            if !self.recent.contains_key(&row) {
                self.window.insert(row, key);
            }
        }
        let recent = self.recent.iter().filter_map(|(row, (_, key))| Some((row, key.as_ref()?)));
        let came = recent.filter(|(row, _)| is_new(row) && self.covers(row));
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
        !self.window.is_empty()
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
        let due = || {
            let due = self.window.iter().take_while(|(row, _)| row.due_ms <= now_ms);
            due.filter(|(_, key)| !self.is_held(key, now))
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
        let free = self.window.iter().find(|(_, key)| !self.is_held(key, now));
        let free = free.map(|(row, _)| row.due_ms);
        let held = self.held.iter().filter(|(_, held)| held.until > now);
        let held = held.filter_map(|(service, held)| {
            let first = self.window.iter().find(|(_, key)| key.service == *service);
            let first = first.map(|(row, _)| row.due_ms).or(self.skipped.map(|_| 0))?;
            Some(first.max(at(held.until)))
        });
        let beyond = beyond.filter(|_| free.is_none());
        free.into_iter().chain(held).chain(beyond).min()
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
