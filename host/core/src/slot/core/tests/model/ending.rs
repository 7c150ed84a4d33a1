//! How a slot ends, and what always holds.

use super::{Check, Id, Model, SLOT, service};
use crate::{
    error::Cause,
    log::record::{Batch, Record},
    names::SessionKey,
    slot::{
        Loaded,
        core::{
            self, Effect, End, Event,
            tests::{KIB, Outcome, Step},
        },
    },
    state::{SlotMeta, changes::Changes},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

impl Model {
    pub(super) fn stop(&mut self, release: bool, ready: bool) -> Check {
        let id = self.id();
        let generation = self.core.running().generation(&service());
        let loaded = generation.map(|generation| {
            Loaded::from([(service(), if ready { generation } else { generation - 1 })])
        });
        let may = !self.stopping && !self.over && (ready || loaded.is_none());
        let early = release;
        let release = release.then(|| Record::Release { node: "n".into() });
        match self.core.on(Event::Stop { release, loaded, asked: Some(id) }, self.now) {
            Effect::Close => {
                prop_assert!(may);
                (self.stopping, self.early, self.asked) = (true, early, Some(id));
            }
            Effect::Refused(asked, error) => {
                prop_assert!(!may && asked == id);
                prop_assert!(self.stopping || self.over || error.is(Cause::NotLoaded));
            }
            effect => prop_assert!(false, "{effect:?}"),
        }
        Ok(())
    }

    pub(super) fn drain(&mut self) -> Check {
        let before = self.core.place();
        self.quiet(Event::Drained)?;
        let may = self.stopping && !self.over && !self.drained && self.at_work.is_none();
        self.drained |= may;
        if self.core.place() != before {
            prop_assert!(may, "what comes later is behind the release");
            self.filling.push(Record::Release { node: "n".into() });
        }
        Ok(())
    }

    /// All that was ever acknowledged or is to be is durable.
    fn is_all_durable(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none() && self.filling.is_empty()
    }

    pub(super) fn go(&mut self) -> Check {
        let may = self.stopping
            && self.drained
            && self.goes_on()
            && self.is_all_durable()
            && self.at_work.is_none()
            && !self.barrier;
        let (position, is_stored) = (self.core.position(), self.meta.applied);
        let is_stored = is_stored == position && self.flush.is_none();
        let releases = may && self.early && self.asked.is_some();
        let step = self.core.step(self.writable);
        prop_assert_eq!(matches!(step, core::Step::Released(_)), releases);
        prop_assert!(may || step == core::Step::Wait, "{step:?} too early");
        match step {
            core::Step::Wait => prop_assert!(!may || self.flush.is_some(), "it waits for nothing"),
            core::Step::Released(asked) => {
                prop_assert_eq!(Some(asked), self.asked.take());
                let last = self
                    .log
                    .iter()
                    .rfind(|(at, batch)| *at <= position && !batch.records.is_empty());
                let last = last.and_then(|(_, batch)| batch.records.last());
                prop_assert!(matches!(last, Some(Record::Release { .. })), "{last:?}");
            }
            core::Step::Flush => {
                prop_assert!(self.writable && !is_stored);
                self.start_flush()?;
                prop_assert!(self.flush.is_some());
            }
            core::Step::Over(asked) => {
                prop_assert!(is_stored || (self.cluster && !self.writable));
                self.ended(asked)?;
            }
            core::Step::Unflushed(asked) => {
                prop_assert!(!is_stored && !self.cluster && !self.writable);
                self.ended(asked)?;
            }
        }
        Ok(())
    }

    pub(super) fn end(&mut self) -> Check {
        let may = self.broken && !self.over && self.at_work.is_none();
        let end = self.core.end();
        prop_assert_eq!(end.is_some(), may);
        let Some(End { error: _, undecided, kept_out, asked }) = end else { return Ok(()) };
        let sent = self.waiting.iter().filter(|w| w.batch < self.number).map(|w| w.id);
        prop_assert_eq!(&undecided, &sent.collect::<Vec<_>>());
        let unsent = self.waiting.iter().filter(|w| w.batch == self.number).map(|w| w.id);
        prop_assert_eq!(&kept_out, &unsent.collect::<Vec<_>>());
        self.waiting.clear();
        // What was in flight may come to be durable.
        if let Some(batch) = self.in_flight.take()
            && self.last_id.is_multiple_of(2)
        {
            self.append(batch);
        }
        for id in kept_out {
            prop_assert_eq!(self.written(id), 0, "it was told that it was not kept");
        }
        self.ended(asked)
    }

    fn ended(&mut self, asked: Option<Id>) -> Check {
        prop_assert_eq!(asked, self.asked.take());
        prop_assert!(self.waiting.is_empty(), "somebody waits for ever");
        self.over = true;
        Ok(())
    }

    /// How often the log has the message of an asker.
    fn written(&self, id: Id) -> usize {
        let id = id.to_string();
        let records = self.log.iter().flat_map(|(_, batch)| &batch.records);
        let is_it = |record: &&Record| match record {
            Record::Message(message) => message.entry.id.as_deref() == Some(&id),
            _ => false,
        };
        records.filter(is_it).count()
    }

    // ---- what always holds ---------------------------------------------------------------------

    pub(super) fn check(&self) -> Check {
        let core = &self.core;
        prop_assert_eq!(core.is_in_flight(), self.in_flight.is_some());
        prop_assert_eq!(core.is_broken(), self.broken && !self.over);
        prop_assert_eq!(core.stored(), self.stored);
        if self.over {
            prop_assert!(!core.sends() && !core.takes_mail(|| true));
            return Ok(());
        }
        prop_assert_eq!(core.is_flushing(), self.flush.is_some());
        prop_assert_eq!(core.place(), (self.number, self.filling.len()));
        prop_assert!(core.stored() <= self.durable);
        Ok(())
    }

    /// Sessions are counted and numbered as the store will do it, and so is what runs.
    pub(super) fn check_counts(&self) -> Check {
        let core = &self.core;
        let mut meta = SlotMeta::default();
        let ours = core.position();
        let durable = self.log.iter().filter(|(position, _)| *position <= ours);
        for (position, batch) in durable.cloned() {
            Changes::default().fold(&mut meta, position, batch);
        }
        let pending = self.in_flight.iter().flat_map(|batch| batch.records.clone());
        let records = pending.chain(self.filling.clone()).collect();
        let batch = Batch { slot: SLOT, term: 0, attempt: 0, records };
        Changes::default().fold(&mut meta, 0, batch);
        prop_assert_eq!(core.sessions(), meta.sessions);
        prop_assert_eq!(core.next_session(), meta.next_session.max(1));
        prop_assert!(core.running().all().eq(meta.active.values()));
        Ok(())
    }

    /// The log has each session's messages by number, from 1 and without a gap, and no message twice.
    pub fn check_log(&self) -> Check {
        let mut sessions: BTreeMap<u64, (SessionKey, u64)> = BTreeMap::new();
        let mut term = 0;
        for (_, batch) in &self.log {
            prop_assert!(batch.term >= term, "an owner of before has written");
            term = batch.term;
            for record in &batch.records {
                let Record::Message(message) = record else { continue };
                let number = message.session_number;
                let is_last = sessions.last_key_value().is_none_or(|(last, _)| *last < number);
                prop_assert!(is_last || message.entry.seq > 1, "a number was given twice");
                let (key, seq) = sessions.entry(number).or_insert((message.key.clone(), 0));
                prop_assert_eq!(&*key, &message.key);
                prop_assert_eq!(message.entry.seq, *seq + 1);
                *seq = message.entry.seq;
            }
        }
        let ids = (1..=self.last_id).filter(|id| self.written(*id) > 1);
        prop_assert_eq!(ids.count(), 0, "a message is there twice");
        Ok(())
    }

    /// However it stands, a slot whose handlers return and whose log answers can be stopped.
    pub fn stop_for_good(&mut self, outcome: Outcome) -> Check {
        for _ in 0..20 {
            for step in [
                Step::Return,
                Step::Stop(true, true),
                Step::Drained,
                Step::Send(KIB),
                Step::Decide(outcome),
                Step::Flushed(true),
                Step::Go,
                Step::End,
            ] {
                if self.over {
                    return Ok(());
                }
                self.take(step)?;
            }
        }
        prop_assert!(false, "it does not stop");
        Ok(())
    }
}
