//! The transaction of one message: an overlay over a session's state. Merged on success, dropped
//! otherwise, so that a failed call leaves no trace.

use crate::{
    effects::{
        Caused, Change, Effect, Expiry, Outgoing, Timer,
        http::{Closed, Request, Watch},
        rows::Name,
    },
    level::{EFFECTS_FROM, HTTP_FROM, Level, OLDEST, SENDS_FROM},
    limits,
    log::record::Write,
    names::{SessionId, SlotId},
    plugin::{State, StateFault},
    slot::{
        effects::{EffectChanges, Numbers, OwnEffects},
        scan::{Source, page},
        session::Session,
    },
    state::StateStore,
    trace::Trace,
};
use bytes::Bytes;
use std::{any::Any, collections::BTreeMap, ops::Bound, sync::Arc};

/// One message's view of its session.
pub struct Transaction {
    slot: SlotId,
    store: Arc<dyn StateStore>,
    session: Box<Session>,
    writes: BTreeMap<String, Option<Bytes>>,
    write_bytes: usize,
    read_only: bool,
    /// In force: effects change in it if they can be written at this level.
    level: Level,
    effects: EffectChanges,
    /// Bytes of its record that the message itself has beyond what a client's may have.
    beside: usize,
}

/// What a transaction has written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub state: Vec<Write>,
    pub effects: Vec<Change>,
    /// What its message has led to.
    pub caused: Vec<Caused>,
}

struct Sizes {
    keys: u64,
    bytes: u64,
    written: usize,
}

/// The session, with what was written or why it was not.
pub type Merged = Result<(Box<Session>, Written), (Box<Session>, StateFault)>;

impl Transaction {
    pub fn new(slot: SlotId, store: Arc<dyn StateStore>, session: Box<Session>) -> Self {
        Self {
            slot,
            store,
            session,
            writes: BTreeMap::new(),
            write_bytes: 0,
            read_only: false,
            level: OLDEST,
            effects: EffectChanges::default(),
            beside: 0,
        }
    }

    /// Effects may change in it if they can be written at this feature level.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// It is of the message of an effect: what will be left of that. The session's effects are loaded.
    pub fn fire(&mut self, name: Name, left: Option<Effect>) {
        self.effects.fire(name, left);
    }

    /// What it sends to other sessions.
    pub fn sent(&self) -> &[Outgoing] {
        self.effects.sent()
    }

    /// So much of what a record may have is taken: the log is made for what clients' messages have.
    pub fn takes(&mut self, bytes: usize) {
        self.beside = bytes;
    }

    /// What it leads to is part of a trace.
    pub fn trace(&mut self, trace: Trace) {
        self.effects.trace(trace);
    }

    /// The requests that it makes, by id.
    pub fn requests(&self) -> impl Iterator<Item = (&str, &Request)> {
        self.effects.requests()
    }

    /// Sends the reply to who has sent its message.
    ///
    /// # Errors
    /// The store's.
    pub fn reply(&mut self, reply: Outgoing) -> Result<(), StateFault> {
        self.session.load_effects(&*self.store, self.slot)?;
        self.effects.reply(reply);
        Ok(())
    }

    /// The transaction that went into a call, back from it.
    pub fn from_state(state: Box<dyn State>) -> Option<Box<Self>> {
        (state as Box<dyn Any>).downcast().ok()
    }

    #[must_use]
    pub fn read_only(mut self: Box<Self>, read_only: bool) -> Box<Self> {
        self.read_only = read_only;
        self
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The next call has a budget of its own; the writes stay.
    pub fn end_phase(&mut self) {
        self.write_bytes = 0;
    }

    /// Drops every write of state, keeping the session. `migrate`, of which that is asked, changes no
    /// effects.
    pub fn clear(&mut self) {
        self.writes.clear();
        self.write_bytes = 0;
    }

    /// Ends the transaction without a trace.
    pub fn discard(self) -> Box<Session> {
        self.session
    }

    /// Ends the transaction with everything it wrote: the session has it, and the log shall.
    ///
    /// # Errors
    /// The store could not say how large a value was that is replaced, or the session's state, or
    /// what is written in all, is over its limit. Then nothing has changed.
    pub fn merge(mut self, numbers: &mut Numbers) -> Merged {
        let writes = std::mem::take(&mut self.writes);
        let Sizes { keys, bytes, mut written } = match self.sizes(&writes) {
            Ok(sizes) => sizes,
            Err(fault) => return Err((self.session, fault)),
        };
        written += self.effects.bytes() + self.beside;
        // One call alone never gets here: `migrate` and the message after it are one record.
        if written > limits::STATE_WRITE_BYTES_MAX {
            let fault = StateFault::Limit(format!(
                "`migrate` and the message after it wrote {written} bytes of state; together they \
                 may write {}",
                limits::STATE_WRITE_BYTES_MAX
            ));
            return Err((self.session, fault));
        }
        if bytes > limits::SESSION_STATE_BYTES_MAX {
            let fault = StateFault::Limit(format!(
                "the session's state would be {bytes} bytes, over the limit of {}",
                limits::SESSION_STATE_BYTES_MAX
            ));
            return Err((self.session, fault));
        }
        let mut written = Written { state: Vec::with_capacity(writes.len()), ..Written::default() };
        if !self.effects.is_empty() {
            let changes = std::mem::take(&mut self.effects);
            match self.session.change_effects(|effects| changes.merge(effects, numbers)) {
                Ok((changes, caused)) => (written.effects, written.caused) = (changes, caused),
                Err(error) => return Err((self.session, error.into())),
            }
        }
        self.session.head.state_keys = keys;
        self.session.head.state_bytes = bytes;
        for (key, value) in writes {
            written.state.push(Write { key: Bytes::from(key.clone()), value: value.clone() });
            self.session.cache_value(key, value);
        }
        Ok((self.session, written))
    }

    /// The bytes of the session's state, before and after it.
    ///
    /// # Errors
    /// The store could not say how large a value was that is replaced.
    pub fn state_bytes(&mut self) -> Result<(u64, u64), StateFault> {
        let writes = std::mem::take(&mut self.writes);
        let sizes = self.sizes(&writes);
        self.writes = writes;
        Ok((self.session.head.state_bytes, sizes?.bytes))
    }

    /// What the state has with these writes, and what they have in all.
    fn sizes(&mut self, writes: &BTreeMap<String, Option<Bytes>>) -> Result<Sizes, StateFault> {
        let head = &self.session.head;
        let (mut keys, mut bytes, mut written) = (head.state_keys, head.state_bytes, 0);
        for (key, value) in writes {
            written += key.len() + value.as_ref().map_or(0, Bytes::len);
            if let Some(old) = self.committed(key)? {
                keys = keys.saturating_sub(1);
                bytes = bytes.saturating_sub((key.len() + old.len()) as u64);
            }
            if let Some(new) = value {
                keys += 1;
                bytes += (key.len() + new.len()) as u64;
            }
        }
        Ok(Sizes { keys, bytes, written })
    }

    /// The session's effects, with what this has changed.
    fn own_effects(&mut self) -> Result<OwnEffects<'_>, StateFault> {
        let committed = self.session.load_effects(&*self.store, self.slot)?;
        Ok(OwnEffects { committed, changes: &mut self.effects })
    }

    /// As [`Self::own_effects`], to change them.
    fn changed_effects(&mut self, what: &str, from: Level) -> Result<OwnEffects<'_>, StateFault> {
        self.may(what, from)?;
        self.own_effects()
    }

    fn may(&self, what: &str, from: Level) -> Result<(), StateFault> {
        if self.read_only {
            return Err(StateFault::ReadOnly);
        }
        if self.level < from {
            return Err(StateFault::Level(format!(
                "{what} need feature level {from}; raise it when every node can (`slotd level \
                 --raise`)"
            )));
        }
        Ok(())
    }

    /// The value as it was before this transaction.
    fn committed(&mut self, key: &str) -> Result<Option<Bytes>, StateFault> {
        if let Some(value) = self.session.values.get(key) {
            return Ok(value.clone());
        }
        if !self.session.exists() {
            return Ok(None);
        }
        let number = self.session.head.session_number;
        let value = self.store.get(self.slot, number, key.as_bytes())?;
        self.session.cache_value(key.to_owned(), value.clone());
        Ok(value)
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) -> Result<(), StateFault> {
        if self.read_only {
            return Err(StateFault::ReadOnly);
        }
        if key.is_empty() || key.len() > limits::STATE_KEY_BYTES_MAX {
            return Err(StateFault::Limit(format!(
                "a state key must have 1 to {} bytes; this one has {}",
                limits::STATE_KEY_BYTES_MAX,
                key.len()
            )));
        }
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        if value_bytes > limits::STATE_VALUE_BYTES_MAX {
            return Err(StateFault::Limit(format!(
                "a state value may have {} bytes; this one has {value_bytes}",
                limits::STATE_VALUE_BYTES_MAX
            )));
        }
        let total = self.write_bytes + key.len() + value_bytes;
        if total > limits::STATE_WRITE_BYTES_MAX {
            return Err(StateFault::Limit(format!(
                "one message may write at most {} bytes of state",
                limits::STATE_WRITE_BYTES_MAX
            )));
        }
        self.write_bytes = total;
        self.writes.insert(key.to_owned(), value);
        Ok(())
    }
}

impl State for Transaction {
    fn seed(&self) -> Option<&SessionId> {
        self.session.forked.as_ref()?.as_ref().map(|forked| &forked.root)
    }

    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateFault> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.committed(key),
        }
    }

    fn set(&mut self, key: &str, value: Bytes) -> Result<(), StateFault> {
        self.write(key, Some(value))
    }

    fn delete(&mut self, key: &str) -> Result<(), StateFault> {
        self.write(key, None)
    }

    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Bytes)>, StateFault> {
        let limit = limit.min(limits::STATE_SCAN_ENTRIES_MAX) as usize;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let session = self.session.exists().then_some(self.session.head.session_number);
        let source = Source { store: &*self.store, slot: self.slot, session };
        let written = self.writes.range::<str, _>((start, Bound::Unbounded));
        let written = written.map(|(key, value)| (key.as_str(), value));
        page(source, prefix, after, limit, self.session.values.starting(start), written)
    }

    fn schedule(&mut self, name: &str, timer: Timer) -> Result<(), StateFault> {
        self.changed_effects("timers", EFFECTS_FROM)?.schedule(name, timer)
    }

    fn cancel(&mut self, name: &str) -> Result<bool, StateFault> {
        self.changed_effects("timers", EFFECTS_FROM)?.cancel(name)
    }

    fn timer(&mut self, name: &str) -> Result<Option<Arc<Timer>>, StateFault> {
        Ok(self.own_effects()?.get(name))
    }

    fn timers(
        &mut self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(String, Arc<Timer>)>, StateFault> {
        Ok(self.own_effects()?.list(after, limit as usize))
    }

    fn expire(&mut self, expiry: Option<Expiry>) -> Result<(), StateFault> {
        self.changed_effects("sessions that expire", SENDS_FROM)?.expire(expiry);
        Ok(())
    }

    fn send(&mut self, outgoing: Outgoing) -> Result<(), StateFault> {
        self.may("messages to other sessions", SENDS_FROM)?;
        let effects = self.session.load_effects(&*self.store, self.slot)?;
        self.effects.send(effects, outgoing)
    }

    fn request(&mut self, id: &str, request: Request) -> Result<(), StateFault> {
        self.changed_effects("requests over HTTP", HTTP_FROM)?.request(id, request)
    }

    fn cancel_request(&mut self, id: &str) -> Result<bool, StateFault> {
        Ok(self.changed_effects("requests over HTTP", HTTP_FROM)?.cancel_request(id))
    }

    fn open_requests(&mut self) -> Result<Vec<String>, StateFault> {
        Ok(self.own_effects()?.open_requests())
    }

    fn close(&mut self, closed: Closed) -> Result<(), StateFault> {
        self.changed_effects("sessions that close", HTTP_FROM)?.close(closed);
        Ok(())
    }

    fn watch(&mut self, watch: Option<Watch>) -> Result<(), StateFault> {
        self.changed_effects("watches of subscribers", HTTP_FROM)?.watch(watch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::StorageOptions,
        log::record::Head,
        names::SessionKey,
        state::{SlotMeta, changes::Changes},
        storage::DataDir,
    };
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(String, u8),
        Delete(String),
        Get(String),
        Scan {
            prefix: String,
            after: Option<String>,
            limit: u32,
        },
        /// Ends the transaction, for good or without a trace, and begins the next one.
        Merge,
        Discard,
        /// What was merged goes to the state store; the session is forgotten by the cache.
        FlushAndEvict,
    }

    fn key() -> impl Strategy<Value = String> {
        "[ab]{1,3}"
    }

    fn step() -> impl Strategy<Value = Step> {
        let scan = ("[ab]{0,2}", proptest::option::of(key()), 0u32..6);
        prop_oneof![
            4 => (key(), any::<u8>()).prop_map(|(k, v)| Step::Set(k, v)),
            2 => key().prop_map(Step::Delete),
            2 => key().prop_map(Step::Get),
            3 => scan.prop_map(|(prefix, after, limit)| Step::Scan { prefix, after, limit }),
            1 => Just(Step::Merge),
            1 => Just(Step::Discard),
            1 => Just(Step::FlushAndEvict),
        ]
    }

    fn numbers() -> Numbers {
        Numbers { slot_count: 1, last: crate::effects::send::Number::default() }
    }

    fn begin(store: &Arc<dyn StateStore>, session: Box<Session>) -> Transaction {
        Transaction::new(0, store.clone(), session)
    }

    /// `migrate` and the message after it each have a budget, and go to the log as one record: two
    /// full ones would not fit it, and the slot would stop at each try.
    #[test]
    fn two_calls_of_one_record_write_what_one_may() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), StorageOptions::default()).unwrap();
        let store: Arc<dyn StateStore> = data.state();
        let value = || Bytes::from(vec![0; limits::STATE_VALUE_BYTES_MAX.min(1024 * 1024)]);
        let fill = |tx: &mut Transaction, name: &str| {
            let most = limits::STATE_WRITE_BYTES_MAX / (value().len() + 8);
            for n in 0..most {
                tx.set(&format!("{name}{n}"), value()).unwrap();
            }
        };
        let name = SessionKey::parse("s", "x").unwrap();
        let head = Head { session_number: 1, seq: 1, ..Head::default() };
        let mut tx = begin(&store, Box::new(Session::new(name, head)));
        fill(&mut tx, "migrated");
        tx.end_phase();
        // The same keys again are the same record.
        fill(&mut tx, "migrated");
        let (session, written) = tx.merge(&mut numbers()).ok().unwrap();
        assert!(!written.state.is_empty());
        let before = session.head.clone();
        let mut tx = begin(&store, session);
        fill(&mut tx, "migrated");
        tx.end_phase();
        fill(&mut tx, "handled");
        let (session, fault) = tx.merge(&mut numbers()).err().unwrap();
        assert!(matches!(fault, StateFault::Limit(_)), "{fault:?}");
        assert_eq!(session.head, before, "the session is as it was");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A handler must see a plain map with its own writes, wherever a value lies (overlay,
        /// cache, store), and nothing of a transaction that was dropped.
        #[test]
        fn an_overlay_is_a_plain_map(steps in proptest::collection::vec(step(), 1..60)) {
            let dir = tempfile::tempdir().unwrap();
            let data = DataDir::open(dir.path(), StorageOptions::default()).unwrap();
            let store: Arc<dyn StateStore> = data.state();
            let name = SessionKey::parse("s", "x").unwrap();
            let head = Head { session_number: 1, seq: 1, ..Head::default() };
            let mut merged = BTreeMap::<String, Bytes>::new();
            let mut seen = merged.clone();
            let mut unflushed = BTreeMap::new();
            let mut tx = begin(&store, Box::new(Session::new(name.clone(), head)));
            for step in steps {
                match step {
                    Step::Set(key, value) => {
                        let value = Bytes::from(vec![value]);
                        tx.set(&key, value.clone()).unwrap();
                        seen.insert(key, value);
                    }
                    Step::Delete(key) => {
                        tx.delete(&key).unwrap();
                        seen.remove(&key);
                    }
                    Step::Get(key) => {
                        prop_assert_eq!(tx.get(&key).unwrap(), seen.get(&key).cloned());
                    }
                    Step::Scan { prefix, after, limit } => {
                        let found = tx.scan(&prefix, after.as_deref(), limit).unwrap();
                        let expected: Vec<_> = seen
                            .iter()
                            .filter(|(k, _)| k.starts_with(&prefix))
                            .filter(|(k, _)| after.as_ref().is_none_or(|after| *k > after))
                            .take(limit as usize)
                            .map(|(k, v)| (k.clone(), v.clone()))
                            .collect();
                        prop_assert_eq!(found, expected);
                    }
                    Step::Discard => {
                        tx = begin(&store, tx.discard());
                        seen = merged.clone();
                    }
                    Step::Merge | Step::FlushAndEvict => {
                        let (session, written) = tx.merge(&mut numbers()).map_err(|(_, fault)| fault).unwrap();
                        for write in written.state {
                            unflushed.insert(write.key, write.value);
                        }
                        merged = seen.clone();
                        prop_assert_eq!(session.head.state_keys, merged.len() as u64);
                        let bytes = merged.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
                        prop_assert_eq!(session.head.state_bytes, bytes as u64);
                        let session = match step {
                            Step::Merge => session,
                            _ => {
                                let mut changes = Changes::default();
                                let state = std::mem::take(&mut unflushed);
                                changes.sessions.entry(1).or_default().state = state;
                                store.apply(0, &changes, &SlotMeta::default()).unwrap();
                                Box::new(Session::new(name.clone(), session.head))
                            }
                        };
                        tx = begin(&store, session);
                    }
                }
            }
        }
    }

    /// A query that could write would change state that no log record tells of.
    #[test]
    fn a_query_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), StorageOptions::default()).unwrap();
        let session = Session::new(SessionKey::parse("s", "x").unwrap(), Head::default());
        let mut tx = Box::new(Transaction::new(0, data.state(), Box::new(session))).read_only(true);
        assert!(matches!(tx.set("k", Bytes::new()), Err(StateFault::ReadOnly)));
        assert!(matches!(tx.delete("k"), Err(StateFault::ReadOnly)));
    }
}
