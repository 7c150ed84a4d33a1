//! The effects of one session: those that it has, and those that a message changes.

use crate::{
    effects::{
        Change, Effect, Expiry, Outgoing, Timer,
        rows::{self, Name},
        send::{Number, Place},
    },
    error::StateError,
    limits,
    names::{SessionKey, SlotId},
    plugin::StateFault,
    state::StateStore,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// The effects of a session, all of them, as its cache has them.
#[derive(Debug, Default)]
pub struct Effects {
    all: BTreeMap<Name, Effect>,
    timers: Sum,
    outbox: Sum,
    dead: Sum,
    expiry: Sum,
}

/// Effects of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: usize,
    bytes: usize,
}

impl Sum {
    /// As of an outbox.
    fn has_room(&self) -> bool {
        self.count < limits::OUTBOX_MAX && self.bytes < limits::OUTBOX_BYTES_MAX
    }

    /// One is replaced by another of that name; there may be none of each.
    fn replace(&mut self, name: &Name, old: Option<&Effect>, new: Option<&Effect>) {
        let bytes =
            |effect: &Effect| effect.bytes() + size_of::<(Name, Effect)>() + name.timer().len();
        if let Some(old) = old {
            (self.count, self.bytes) = (self.count - 1, self.bytes - bytes(old));
        }
        if let Some(new) = new {
            (self.count, self.bytes) = (self.count + 1, self.bytes + bytes(new));
        }
    }
}

impl Effects {
    /// Reads those of a session.
    ///
    /// # Errors
    /// The store's, or what it has is no effect that this version knows.
    pub fn load(
        store: &dyn StateStore,
        slot: SlotId,
        session_number: u64,
    ) -> Result<Self, StateError> {
        let number = rows::of_session(session_number);
        let (mut effects, mut after) = (Self::default(), None::<Bytes>);
        loop {
            let (limit, bytes) = (limits::TIMERS_MAX, limits::TIMER_BYTES_MAX);
            let page = store.scan(slot, number, b"", after.as_deref(), limit, bytes)?;
            let Some((last, _)) = page.last() else { return Ok(effects) };
            after = Some(last.clone());
            for (row, value) in page {
                let unknown = || StateError::Corrupt("an effect has a row of no known kind".into());
                let name = Name::of_row(&row).ok_or_else(unknown)?;
                let effect = Effect::decode(&name, &value).map_err(StateError::Corrupt)?;
                effects.set(name, Some(effect));
            }
        }
    }

    pub fn get(&self, name: &Name) -> Option<&Effect> {
        self.all.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Effect)> {
        self.all.iter()
    }

    /// Memory that they take, about.
    pub fn memory(&self) -> usize {
        self.timers.bytes + self.outbox.bytes + self.dead.bytes + self.expiry.bytes
    }

    fn sum(&mut self, name: &Name) -> &mut Sum {
        match name {
            Name::Timer(_) => &mut self.timers,
            Name::Expiry => &mut self.expiry,
            // What is tried again comes from these, and may become one again.
            Name::Dead(..) | Name::Retried(..) | Name::DeadOutgoing(_) | Name::DeadOutcome(_) => {
                &mut self.dead
            }
            Name::Outgoing(_) | Name::Waiting(_) | Name::Outcome(_) => &mut self.outbox,
        }
    }

    fn set(&mut self, name: Name, effect: Option<Effect>) {
        let mut sum = *self.sum(&name);
        sum.replace(&name, self.all.get(&name), effect.as_ref());
        *self.sum(&name) = sum;
        match effect {
            Some(new) => drop(self.all.insert(name, new)),
            None => drop(self.all.remove(&name)),
        }
    }

    /// Changes an effect; gives the row that changes.
    ///
    /// # Errors
    /// It can't be encoded: a bug.
    pub fn change(&mut self, name: Name, effect: Option<Effect>) -> Result<Change, StateError> {
        let was_due = self.get(&name).and_then(|effect| effect.next_ms(&name));
        let change = match &effect {
            None => Ok(Change::gone(name.row(), was_due)),
            Some(effect) => effect.put(&name, was_due),
        };
        let bug = |why| StateError::Corrupt(format!("a bug: an effect can't be encoded: {why}"));
        let change = change.map_err(bug)?;
        self.set(name, effect);
        Ok(change)
    }

    /// Whether one more message can be given up.
    pub fn has_room_for(&self, dead: &Effect) -> bool {
        self.dead.count < limits::DEAD_MAX
            && self.dead.bytes + dead.bytes() <= limits::DEAD_BYTES_MAX
    }

    /// Whether one more message to another session, or an outcome of one, can be kept.
    pub fn outbox_has_room(&self) -> bool {
        self.outbox.has_room()
    }

    /// Whether a fresh message to a session has one before it: one that waits, or that goes on its way again.
    pub fn has_before(&self, to: &SessionKey) -> bool {
        let first = Place { to: 0, number: Number::default() };
        let outbox = self.all.range(Name::Outgoing(first)..Name::Outcome(first));
        outbox.into_iter().any(|(name, effect)| match effect {
            Effect::Outgoing(it) if it.to == *to => {
                matches!(name, Name::Waiting(_)) || !it.is_fresh()
            }
            _ => false,
        })
    }

    /// Whether a message to a session waits to be tried again.
    pub fn waits_for_itself(&self, to: &SessionKey) -> bool {
        self.waiting().any(|(_, it)| it.to == *to && !it.is_behind())
    }

    /// Messages that wait to be tried again, or behind one that does, in the order in which they were sent.
    pub fn waiting(&self) -> impl Iterator<Item = (Place, &Arc<Outgoing>)> {
        let first = Place { to: 0, number: Number::default() };
        self.all.range(Name::Waiting(first)..).map_while(|(name, effect)| match (name, effect) {
            (Name::Waiting(place), Effect::Outgoing(outgoing)) => Some((*place, outgoing)),
            _ => None,
        })
    }

    /// What goes with a session that is deleted.
    pub fn removal(&self) -> Vec<Change> {
        let all = self.all.iter();
        all.map(|(name, effect)| Change::gone(name.row(), effect.next_ms(name))).collect()
    }
}

/// What one message changes of the effects of its session, and of the one that it comes from.
#[derive(Default)]
pub struct EffectChanges {
    changed: BTreeMap<Name, Option<Effect>>,
    /// What it sends, in order.
    sent: Vec<Outgoing>,
    sent_bytes: usize,
    /// What the handler itself has changed.
    asked: usize,
}

/// The timers of a session as a message sees them.
pub struct Timers<'a> {
    pub committed: &'a Effects,
    pub changes: &'a mut EffectChanges,
}

/// The numbers of what a slot sends.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    pub slot_count: u16,
    /// The last one that was given.
    pub last: Number,
}

impl Numbers {
    /// The place of one more message.
    pub fn next(&mut self, to: &SessionKey) -> Place {
        self.last.index += 1;
        Place { to: to.slot(self.slot_count), number: self.last }
    }
}

impl EffectChanges {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.sent.is_empty()
    }

    /// What is sent.
    pub fn sent(&self) -> &[Outgoing] {
        &self.sent
    }

    /// Sends what comes of the message itself: a reply to who has sent it.
    pub fn reply(&mut self, reply: Outgoing) {
        self.sent_bytes += reply.memory();
        self.sent.push(reply);
    }

    /// Sends a message for the handler. `before` has the session's effects.
    ///
    /// # Errors
    /// [`StateFault::Limit`]: too many in one message; [`StateFault::Full`]: in the session.
    pub fn send(&mut self, before: &Effects, outgoing: Outgoing) -> Result<(), StateFault> {
        if self.sent.len() >= limits::SENDS_MAX {
            return Err(StateFault::Limit(format!(
                "sends: a message may send at most {}",
                limits::SENDS_MAX
            )));
        }
        let mut sum = before.outbox;
        // What the message itself comes from goes.
        for (name, effect) in &self.changed {
            if matches!(name, Name::Outcome(_)) {
                sum.replace(name, before.get(name), effect.as_ref());
            }
        }
        let sum = Sum { count: sum.count + self.sent.len(), bytes: sum.bytes + self.sent_bytes };
        if !sum.has_room() {
            return Err(StateFault::Full(format!(
                "{} messages of this session, of {} bytes, are on their way to other sessions; it \
                 may have {} and {} bytes",
                sum.count,
                sum.bytes,
                limits::OUTBOX_MAX,
                limits::OUTBOX_BYTES_MAX
            )));
        }
        self.reply(outgoing);
        Ok(())
    }

    /// What it takes of a record, about.
    pub fn bytes(&self) -> usize {
        let changed = self.changed.iter();
        changed
            .map(|(name, effect)| name.timer().len() + effect.as_ref().map_or(0, Effect::bytes))
            .sum::<usize>()
            + self.sent_bytes
    }

    /// Before the handler is called: what its message comes from is as it will be.
    pub fn fire(&mut self, name: Name, left: Option<Effect>) {
        self.changed.insert(name, left);
    }

    /// What there is to write of it; `effects` are the session's, which have it from then on.
    ///
    /// # Errors
    /// As [`Effects::change`].
    pub fn merge(
        self,
        effects: &mut Effects,
        numbers: &mut Numbers,
    ) -> Result<Vec<Change>, StateError> {
        let changed = self.changed.into_iter();
        let changed = changed.filter(|(name, effect)| effects.get(name) != effect.as_ref());
        let changed: Vec<_> = changed.collect();
        let sent = self.sent.into_iter().map(|outgoing| {
            let place = numbers.next(&outgoing.to);
            (Name::Outgoing(place), Some(Effect::Outgoing(outgoing.into())))
        });
        changed.into_iter().chain(sent).map(|(name, effect)| effects.change(name, effect)).collect()
    }
}

impl Timers<'_> {
    /// # Errors
    /// [`StateFault::Limit`]: too many, or too large.
    pub fn schedule(&mut self, name: &str, timer: Timer) -> Result<(), StateFault> {
        self.asked("set")?;
        let name = Name::Timer(name.to_owned());
        let new = Effect::Timer(timer.into());
        self.changes.changed.insert(name, Some(new));
        let Sum { count, bytes } = self.sum();
        // What is over a limit already may become less.
        let before = self.committed.timers;
        if count > limits::TIMERS_MAX && count > before.count {
            return Err(StateFault::Limit(format!(
                "timers: a session may have {} at a time",
                limits::TIMERS_MAX
            )));
        }
        if bytes > limits::TIMER_BYTES_MAX && bytes > before.bytes {
            return Err(StateFault::Limit(format!(
                "timers: those of a session may have {} bytes together; they would have {bytes}",
                limits::TIMER_BYTES_MAX
            )));
        }
        Ok(())
    }

    /// # Errors
    /// [`StateFault::Limit`]: the message has changed too many.
    pub fn cancel(&mut self, name: &str) -> Result<bool, StateFault> {
        self.asked("cancel")?;
        let name = Name::Timer(name.to_owned());
        let was_there = self.effect(&name).is_some();
        if was_there || self.committed.get(&name).is_some() {
            self.changes.changed.insert(name, None);
        }
        Ok(was_there)
    }

    /// When the session is deleted; `None`: not at all.
    pub fn expire(&mut self, expiry: Option<Expiry>) {
        self.changes.changed.insert(Name::Expiry, expiry.map(Effect::Expiry));
    }

    pub fn get(&self, name: &str) -> Option<Arc<Timer>> {
        match self.effect(&Name::Timer(name.to_owned())) {
            Some(Effect::Timer(timer)) => Some(timer.clone()),
            _ => None,
        }
    }

    pub fn list(&self, after: Option<&str>, limit: usize) -> Vec<(String, Arc<Timer>)> {
        let mut all = BTreeMap::new();
        let timer = |name: &Name, effect: Option<&Effect>| match (name, effect) {
            (Name::Timer(name), Some(Effect::Timer(timer))) => Some((name.clone(), timer.clone())),
            _ => None,
        };
        let committed = self.committed.iter();
        let kept = committed.filter(|(name, _)| !self.changes.changed.contains_key(name));
        all.extend(kept.filter_map(|(name, effect)| timer(name, Some(effect))));
        let changed = self.changes.changed.iter();
        all.extend(changed.filter_map(|(name, effect)| timer(name, effect.as_ref())));
        let listed = all.into_iter().filter(|(name, _)| after.is_none_or(|after| **name > *after));
        listed.take(limit).collect()
    }

    fn asked(&mut self, what: &str) -> Result<(), StateFault> {
        self.changes.asked += 1;
        if self.changes.asked > limits::TIMER_CHANGES_MAX {
            return Err(StateFault::Limit(format!(
                "timers: a message may {what} at most {}",
                limits::TIMER_CHANGES_MAX
            )));
        }
        Ok(())
    }

    fn effect(&self, name: &Name) -> Option<&Effect> {
        match self.changes.changed.get(name) {
            Some(changed) => changed.as_ref(),
            None => self.committed.get(name),
        }
    }

    /// Of all timers, as they would be.
    fn sum(&self) -> Sum {
        let mut sum = self.committed.timers;
        for (name, effect) in &self.changes.changed {
            if !matches!(name, Name::Timer(_)) {
                continue;
            }
            sum.replace(name, self.committed.get(name), effect.as_ref());
        }
        sum
    }
}

#[cfg(test)]
mod tests;
