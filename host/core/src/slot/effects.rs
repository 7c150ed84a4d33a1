//! The effects of one session: those that it has, and those that a message changes.

use crate::{
    effects::{
        Caused, Change, Effect, Expiry, Outgoing, Timer,
        http::{Answer, Closed, Request, Watch},
        rows::{self, Name},
        send::{Number, Place},
    },
    error::StateError,
    limits,
    names::{SessionKey, SlotId},
    plugin::StateFault,
    state::StateStore,
    trace::Trace,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The effects of a session, all of them, as its cache has them.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    all: BTreeMap<Name, Effect>,
    timers: Sum,
    outbox: Sum,
    requests: Sum,
    dead: Sum,
    /// What there is one of at most: its end, its subscribers' watch.
    single: Sum,
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
            |effect: &Effect| effect.bytes() + size_of::<(Name, Effect)>() + name.text().len();
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
        let sums = [self.timers, self.outbox, self.requests, self.dead, self.single];
        sums.iter().map(|sum| sum.bytes).sum()
    }

    fn sum(&mut self, name: &Name) -> &mut Sum {
        match name {
            Name::Timer(_) => &mut self.timers,
            Name::Expiry | Name::Closed | Name::Watch | Name::Forked => &mut self.single,
            Name::Request(_) | Name::Answer(_) => &mut self.requests,
            // What is tried again comes from these, and may become one again.
            Name::Dead(..)
            | Name::Retried(..)
            | Name::DeadOutgoing(_)
            | Name::DeadOutcome(_)
            | Name::DeadAnswer(..) => &mut self.dead,
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
        // The largest that there is has room if it is alone.
        self.dead.count == 0
            || (self.dead.count < limits::DEAD_MAX
                && self.dead.bytes + dead.bytes() <= limits::DEAD_BYTES_MAX)
    }

    /// An answer as it is kept for its handler: where those of the session have no room, without its body.
    pub fn kept(&self, answer: Answer) -> Answer {
        match self.requests.bytes + answer.memory() <= limits::REQUESTS_BYTES_MAX {
            true => answer,
            false => answer.without_room(),
        }
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

    /// Whether the session takes no more messages.
    pub fn is_closed(&self) -> bool {
        self.all.contains_key(&Name::Closed)
    }

    /// Of a request, by its id.
    pub fn request(&self, id: &str) -> Option<&Arc<Request>> {
        match self.all.get(&Name::Request(id.to_owned()))? {
            Effect::Request(request) => Some(request),
            _ => None,
        }
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
    /// What its message comes from, as it is left.
    left: Option<(Name, Option<Effect>)>,
    /// What it sends, in order.
    sent: Vec<Outgoing>,
    sent_bytes: usize,
    /// What the handler itself has changed.
    asked: usize,
    /// Requests that it has made.
    requested: usize,
}

/// The effects of a session as a message sees them.
pub struct OwnEffects<'a> {
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

    /// What is sent and requested is part of a trace.
    pub fn trace(&mut self, trace: Trace) {
        for outgoing in &mut self.sent {
            outgoing.trace = Some(trace);
        }
        for effect in self.changed.values_mut() {
            if let Some(Effect::Request(request)) = effect {
                Arc::make_mut(request).trace = Some(trace);
            }
        }
    }

    /// The requests that are made.
    pub fn requests(&self) -> impl Iterator<Item = (&str, &Request)> {
        self.changed.iter().filter_map(|(name, effect)| match effect {
            Some(Effect::Request(request)) => Some((name.text(), &**request)),
            _ => None,
        })
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
            .map(|(name, effect)| name.text().len() + effect.as_ref().map_or(0, Effect::bytes))
            .sum::<usize>()
            + self.sent_bytes
    }

    /// Before the handler is called: what its message comes from is as it will be.
    pub fn fire(&mut self, name: Name, left: Option<Effect>) {
        self.left = Some((name.clone(), left.clone()));
        self.changed.insert(name, left);
    }

    /// What there is to write of it, and what its message has led to; `effects` are the session's, which have it from
    /// then on.
    ///
    /// # Errors
    /// As [`Effects::change`].
    pub fn merge(
        self,
        effects: &mut Effects,
        numbers: &mut Numbers,
    ) -> Result<(Vec<Change>, Vec<Caused>), StateError> {
        let changed = match self.changed.get(&Name::Closed) {
            Some(Some(_)) => closing(effects, self.changed),
            _ => self.changed,
        };
        let changed = changed.into_iter();
        let changed = changed.filter(|(name, effect)| effects.get(name) != effect.as_ref());
        let changed: Vec<_> = changed.collect();
        let sent = self.sent.into_iter().map(|outgoing| {
            let place = numbers.next(&outgoing.to);
            (Name::Outgoing(place), Some(Effect::Outgoing(outgoing.into())))
        });
        let mut caused = Vec::new();
        let mut changes = Vec::new();
        for (name, effect) in changed.into_iter().chain(sent) {
            let is_left =
                self.left.as_ref().is_some_and(|(of, left)| *of == name && *left == effect);
            if let Some(effect) = effect.as_ref().filter(|_| !is_left) {
                caused.extend(Caused::of(&name, effect));
            }
            changes.push(effects.change(name, effect)?);
        }
        Ok((changes, Caused::listed(caused)))
    }
}

/// What ends with a session's close goes as well.
fn closing(
    effects: &Effects,
    mut changed: BTreeMap<Name, Option<Effect>>,
) -> BTreeMap<Name, Option<Effect>> {
    let ends = |name: &Name| match name {
        Name::Timer(_) | Name::Outcome(_) | Name::Request(_) | Name::Answer(_) | Name::Watch => {
            true
        }
        Name::Dead(..)
        | Name::Retried(..)
        | Name::Outgoing(_)
        | Name::Waiting(_)
        | Name::DeadOutgoing(_)
        | Name::DeadOutcome(_)
        | Name::Forked
        | Name::DeadAnswer(..)
        | Name::Expiry
        | Name::Closed => false,
    };
    for (name, effect) in &mut changed {
        if ends(name) {
            *effect = None;
        }
    }
    let committed = effects.iter().map(|(name, _)| name).filter(|name| ends(name));
    changed.extend(committed.map(|name| (name.clone(), None)));
    changed
}

impl OwnEffects<'_> {
    /// # Errors
    /// [`StateFault::Limit`]: too many, or too large.
    pub fn schedule(&mut self, name: &str, timer: Timer) -> Result<(), StateFault> {
        self.asked("set")?;
        let name = Name::Timer(name.to_owned());
        let new = Effect::Timer(timer.into());
        self.changes.changed.insert(name, Some(new));
        let Sum { count, bytes } =
            self.sum(self.committed.timers, |name| matches!(name, Name::Timer(_)));
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

    /// Makes a request, in place of one of that id.
    ///
    /// # Errors
    /// [`StateFault::Limit`]: too many in one message; [`StateFault::Full`]: in the session.
    pub fn request(&mut self, id: &str, request: Request) -> Result<(), StateFault> {
        self.changes.requested += 1;
        if self.changes.requested > limits::REQUESTS_PER_MESSAGE_MAX {
            return Err(StateFault::Limit(format!(
                "requests: a message may make at most {}",
                limits::REQUESTS_PER_MESSAGE_MAX
            )));
        }
        self.cancel_request(id);
        let name = Name::Request(id.to_owned());
        // One that takes the place of another is due at another time: what is under way of that one ends.
        let next_ms = match self.committed.get(&name) {
            Some(Effect::Request(before)) if before.asked_ms == request.asked_ms => {
                before.next_ms.saturating_add(1)
            }
            Some(Effect::Request(before)) if before.next_ms == request.next_ms => {
                request.next_ms.saturating_add(1)
            }
            _ => request.next_ms,
        };
        let new = Effect::Request(Request { next_ms, ..request }.into());
        self.changes.changed.insert(name, Some(new));
        let new_bytes: usize = self.changes.requests().map(|(_, request)| request.memory()).sum();
        if new_bytes > limits::REQUESTS_BYTES_MAX {
            return Err(StateFault::Limit(format!(
                "requests: those of a message may have {} bytes together",
                limits::REQUESTS_BYTES_MAX
            )));
        }
        let Sum { count, bytes } = self.sum(self.committed.requests, is_request);
        if count > limits::REQUESTS_MAX || bytes > limits::REQUESTS_BYTES_MAX {
            return Err(StateFault::Full(format!(
                "{count} requests of this session, of {bytes} bytes, would be open; it may have {} \
                 and {} bytes",
                limits::REQUESTS_MAX,
                limits::REQUESTS_BYTES_MAX
            )));
        }
        Ok(())
    }

    /// Whether there was one.
    pub fn cancel_request(&mut self, id: &str) -> bool {
        let names = [Name::Request(id.to_owned()), Name::Answer(id.to_owned())];
        let mut was_there = false;
        for name in names {
            was_there |= self.effect(&name).is_some();
            if self.committed.get(&name).is_some() || self.changes.changed.contains_key(&name) {
                self.changes.changed.insert(name, None);
            }
        }
        was_there
    }

    /// The ids of what is open, in order.
    pub fn open_requests(&self) -> Vec<String> {
        let changed = self.changes.changed.keys();
        let names = self.committed.iter().map(|(name, _)| name).chain(changed);
        let open = names.filter(|name| is_request(name) && self.effect(name).is_some());
        let ids: BTreeSet<_> = open.map(|name| name.text().to_owned()).collect();
        ids.into_iter().collect()
    }

    pub fn close(&mut self, closed: Closed) {
        self.changes.changed.insert(Name::Closed, Some(Effect::Closed(closed)));
    }

    /// Whether the handler is told of subscribers; that it is already changes nothing.
    pub fn watch(&mut self, watch: Option<Watch>) {
        if watch.is_none() || self.effect(&Name::Watch).is_none() {
            self.changes.changed.insert(Name::Watch, watch.map(Effect::Watch));
        }
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

    /// Of all of a kind, as they would be.
    fn sum(&self, committed: Sum, is_of_kind: impl Fn(&Name) -> bool) -> Sum {
        let mut sum = committed;
        for (name, effect) in self.changes.changed.iter().filter(|(name, _)| is_of_kind(name)) {
            sum.replace(name, self.committed.get(name), effect.as_ref());
        }
        sum
    }
}

/// Open, or an answer that the handler has failed.
fn is_request(name: &Name) -> bool {
    matches!(name, Name::Request(_) | Name::Answer(_))
}

#[cfg(test)]
mod tests;
