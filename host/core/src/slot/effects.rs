//! The effects of one session: those that it has, and those that a message changes.

use crate::{
    effects::{
        Change, Dead, Timer,
        rows::{self, Name, Value as _},
    },
    error::StateError,
    limits,
    names::SlotId,
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
    dead: Sum,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Timer(Arc<Timer>),
    Dead(Arc<Dead>),
}

/// Effects of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: usize,
    bytes: usize,
}

impl Sum {
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

impl Effect {
    fn bytes(&self) -> usize {
        match self {
            Self::Timer(timer) => timer.memory(),
            Self::Dead(dead) => dead.memory(),
        }
    }

    /// When it is due.
    fn next_ms(&self) -> Option<u64> {
        match self {
            Self::Timer(timer) => Some(timer.next_ms),
            Self::Dead(_) => None,
        }
    }

    fn decode(name: &Name, value: &[u8]) -> Result<Self, String> {
        match name {
            Name::Timer(_) | Name::Retried(..) => {
                Timer::decode(value).map(|it| Self::Timer(it.into()))
            }
            Name::Dead(..) => Dead::decode(value).map(|it| Self::Dead(it.into())),
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
        self.timers.bytes + self.dead.bytes
    }

    fn sum(&mut self, name: &Name) -> &mut Sum {
        match name {
            Name::Timer(_) => &mut self.timers,
            // What is tried again comes from these, and may become one again.
            Name::Dead(..) | Name::Retried(..) => &mut self.dead,
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
        let was_due = self.get(&name).and_then(Effect::next_ms);
        let change = match &effect {
            None => Ok(Change::gone(name.row(), was_due)),
            Some(Effect::Timer(timer)) => Change::timer(&name, was_due, timer),
            Some(Effect::Dead(dead)) => Change::dead(&name, dead),
        };
        let bug = |why| StateError::Corrupt(format!("a bug: an effect can't be encoded: {why}"));
        let change = change.map_err(bug)?;
        self.set(name, effect);
        Ok(change)
    }

    /// Whether one more message can be given up.
    pub fn has_room_for(&self, dead: &Dead) -> bool {
        self.dead.count < limits::DEAD_MAX
            && self.dead.bytes + dead.memory() <= limits::DEAD_BYTES_MAX
    }

    /// What goes with a session that is deleted.
    pub fn removal(&self) -> Vec<Change> {
        let all = self.all.iter();
        all.map(|(name, effect)| Change::gone(name.row(), effect.next_ms())).collect()
    }
}

/// What one message changes of the timers of its session, and of the one that it comes from.
#[derive(Default)]
pub struct EffectChanges {
    changed: BTreeMap<Name, Option<Effect>>,
    /// What the handler itself has changed.
    asked: usize,
}

/// The timers of a session as a message sees them.
pub struct Timers<'a> {
    pub committed: &'a Effects,
    pub changes: &'a mut EffectChanges,
}

impl EffectChanges {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// What it takes of a record, about.
    pub fn bytes(&self) -> usize {
        let changed = self.changed.iter();
        changed
            .map(|(name, effect)| name.timer().len() + effect.as_ref().map_or(0, Effect::bytes))
            .sum()
    }

    /// Before the handler is called: the timer that its message comes from is as it will be.
    pub fn fire(&mut self, name: Name, left: Option<Timer>) {
        self.changed.insert(name, left.map(|left| Effect::Timer(left.into())));
    }

    /// What there is to write of it; `effects` are the session's, which have it from then on.
    ///
    /// # Errors
    /// As [`Effects::change`].
    pub fn merge(self, effects: &mut Effects) -> Result<Vec<Change>, StateError> {
        let changed = self.changed.into_iter();
        let changed = changed.filter(|(name, effect)| effects.get(name) != effect.as_ref());
        let changed: Vec<_> = changed.collect();
        changed.into_iter().map(|(name, effect)| effects.change(name, effect)).collect()
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        database::StorageOptions,
        effects::{Firing, When, rows::Due},
        log::record::{self, Batch, Delete, Head, Record},
        names::SessionKey,
        slot::session::Session,
        state::{SlotMeta, changes::Changes},
        storage::DataDir,
    };
    use proptest::prelude::*;

    fn timer(next_ms: u64, body: usize) -> Timer {
        Timer {
            when: When::Once,
            due_ms: next_ms,
            next_ms,
            failures: 0,
            reason: String::new(),
            content_type: "t".into(),
            body: vec![7; body].into(),
            set_by: 1,
        }
    }

    fn dead(name: &str, due_ms: u64) -> Dead {
        Dead {
            firing: Firing { name: name.into(), due_ms, missed: 0, attempt: 1 },
            content_type: "t".into(),
            body: Bytes::new(),
            code: "c".into(),
            reason: "r".into(),
            died_ms: 1,
            set_by: 1,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(usize, u8, u64),
        Die(usize, u8, u64),
        Gone(usize, u8, u64),
        Delete(usize),
        Store,
    }

    fn step() -> impl Strategy<Value = Step> {
        let which = (0usize..2, 0u8..3, 0u64..4);
        prop_oneof![
            4 => which.clone().prop_map(|(of, name, at)| Step::Set(of, name, at)),
            2 => which.clone().prop_map(|(of, name, at)| Step::Die(of, name, at)),
            2 => which.prop_map(|(of, name, at)| Step::Gone(of, name, at)),
            1 => (0usize..2).prop_map(Step::Delete),
            2 => Just(Step::Store),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A timer that the store forgets, keeps, or lists as due when it is not: whatever was folded together
        /// into one write.
        #[test]
        fn the_store_has_what_the_sessions_have(steps in proptest::collection::vec(step(), 1..60)) {
            let dir = tempfile::tempdir().unwrap();
            let data = DataDir::open(dir.path(), StorageOptions::default()).unwrap();
            let store = data.state();
            let key = |of: usize| SessionKey::parse("s", &of.to_string()).unwrap();
            let (mut effects, mut numbers) = ([Effects::default(), Effects::default()], [1u64, 2]);
            let (mut changes, mut meta) = (Changes::default(), SlotMeta::default());
            for (at, step) in steps.into_iter().chain([Step::Store]).enumerate() {
                let (of, name, effect) = match step {
                    Step::Set(of, name, at) => {
                        let timer = timer(at + 1, usize::from(name));
                        (of, Name::Timer(name.to_string()), Some(Effect::Timer(timer.into())))
                    }
                    Step::Die(of, name, at) => {
                        let dead = dead(&name.to_string(), at);
                        (of, Name::Dead(name.to_string(), at), Some(Effect::Dead(dead.into())))
                    }
                    Step::Gone(of, name, at) if at % 2 == 0 => (of, Name::Timer(name.to_string()), None),
                    Step::Gone(of, name, at) => (of, Name::Dead(name.to_string(), at), None),
                    Step::Delete(of) => {
                        let gone = std::mem::take(&mut effects[of]).removal();
                        let delete = Delete { key: key(of), session_number: numbers[of], effects: gone };
                        let records = vec![Record::Delete(delete)];
                        let batch = Batch { slot: 0, term: 1, attempt: 1, records };
                        changes.fold(&mut meta, at as u64 + 1, batch);
                        numbers[of] += 2;
                        continue;
                    }
                    Step::Store => {
                        store.apply(0, &changes, &meta).unwrap();
                        changes = Changes::default();
                        let mut due = Vec::new();
                        for of in 0..2 {
                            let loaded = Effects::load(&*store, 0, numbers[of]).unwrap();
                            prop_assert_eq!(&loaded.all, &effects[of].all);
                            prop_assert_eq!(
                                (loaded.timers, loaded.dead),
                                (effects[of].timers, effects[of].dead)
                            );
                            due.extend(loaded.iter().filter_map(|(name, effect)| Some(Due {
                                due_ms: effect.next_ms()?,
                                session_number: numbers[of],
                                row: name.row(),
                            })));
                        }
                        due.sort_unstable();
                        let rows = store.scan(0, rows::DUE, b"", None, 1_000, usize::MAX).unwrap();
                        let rows: Vec<_> = rows.iter().filter_map(|(key, _)| Due::of_key(key)).collect();
                        prop_assert_eq!(rows, due);
                        continue;
                    }
                };
                let change = effects[of].change(name, effect).unwrap();
                let (key, session_number) = (key(of), numbers[of]);
                let record = record::Effects { key, session_number, changes: vec![change] };
                let records = vec![Record::Effects(Box::new(record))];
                changes.fold(&mut meta, at as u64 + 1, Batch { slot: 0, term: 1, attempt: 1, records });
            }
        }
    }

    fn session() -> Session {
        let head = Head { session_number: 1, seq: 1, ..Head::default() };
        Session::new(SessionKey::parse("s", "x").unwrap(), head)
    }

    /// Without its limits a session's timers take any memory, and its record may not fit the log.
    #[test]
    fn timers_have_limits() {
        let mut committed = Effects::default();
        for n in 0..limits::TIMERS_MAX {
            let timer = Effect::Timer(timer(1, 0).into());
            committed.change(Name::Timer(n.to_string()), Some(timer)).unwrap();
        }
        let mut changes = EffectChanges::default();
        let mut timers = Timers { committed: &committed, changes: &mut changes };
        timers.schedule("0", timer(2, 0)).unwrap();
        assert!(matches!(timers.schedule("new", timer(2, 0)), Err(StateFault::Limit(_))));
        let mut changes = EffectChanges::default();
        let mut timers = Timers { committed: &committed, changes: &mut changes };
        assert!(timers.cancel("0").unwrap() && !timers.cancel("0").unwrap());
        timers.schedule("new", timer(2, 0)).unwrap();
        let large = timer(2, limits::TIMER_BYTES_MAX);
        assert!(matches!(timers.schedule("new", large), Err(StateFault::Limit(_))));
        let names = |after: Option<&str>| -> Vec<String> {
            let mut changes = EffectChanges::default();
            let mut timers = Timers { committed: &committed, changes: &mut changes };
            timers.cancel("998").unwrap();
            timers.schedule("997", timer(9, 0)).unwrap();
            timers.list(after, 3).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(Some("996")), ["997", "999"]);
        let mut changes = EffectChanges::default();
        let committed = Effects::default();
        let mut timers = Timers { committed: &committed, changes: &mut changes };
        for _ in 0..limits::TIMER_CHANGES_MAX {
            timers.schedule("same", timer(2, 0)).unwrap();
        }
        assert!(matches!(timers.schedule("same", timer(2, 0)), Err(StateFault::Limit(_))));
    }

    /// The cache's sum of bytes would go wrong with each timer, and with it what the node may keep.
    #[test]
    fn effects_count_as_their_sessions_memory() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), StorageOptions::default()).unwrap();
        let mut session = session();
        let before = session.bytes;
        session.load_effects(&*data.state(), 0).unwrap();
        let empty = session.bytes;
        assert!(empty > before);
        let set = |session: &mut Session, effect: Option<Effect>| {
            let name = Name::Timer("a".into());
            session.change_effects(|effects| effects.change(name, effect)).unwrap();
        };
        set(&mut session, Some(Effect::Timer(timer(1, 500).into())));
        assert!(session.bytes >= empty + 500);
        set(&mut session, Some(Effect::Timer(timer(1, 100).into())));
        assert!((empty + 100..empty + 500).contains(&session.bytes));
        set(&mut session, None);
        assert_eq!(session.bytes, empty);
    }
}
