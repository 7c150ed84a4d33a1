//! What a slot's sessions have sent to others and is not there yet, in memory: by the slot that it goes to, in the
//! order of its numbers. One piece at a time is on its way to each; a target that does not answer holds up what is for
//! the same slot, and nothing else.

use crate::{
    effects::{
        rows::OnItsWay,
        send::{Mark, Number, Place},
    },
    limits,
    names::{SessionKey, SlotId},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

/// A value in all its parts: `tests/model` explores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outbox {
    pairs: BTreeMap<SlotId, Pair>,
    /// Those of which something could be sent.
    ready: BTreeSet<SlotId>,
    /// Which of them was sent last: the next is behind it.
    last: Option<SlotId>,
    /// Slots that something is on its way to.
    sending: usize,
    /// Of these, slots that did not answer the last time.
    unreached: usize,
    count: usize,
    held_bytes: usize,
    /// What has come from each slot.
    received: BTreeMap<SlotId, Mark>,
    /// Pieces that were sent in this term.
    rounds: u64,
}

/// What goes to one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Pair {
    queue: BTreeMap<Number, Queued>,
    /// A piece is on its way, or the next waits.
    busy: bool,
    /// Nothing is sent before this batch is durable: what was refused is taken back in it.
    after_batch: u64,
    /// How long the last attempt was waited for, since the slot could not be reached before.
    wait: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Queued {
    key: SessionKey,
    session_number: u64,
    /// In which batch it is.
    batch: u64,
    /// As it is stored; `None`: it has to be read.
    outgoing: Option<Bytes>,
    /// It was in a piece of which nothing is known: it may arrive yet.
    tried: bool,
}

/// A message that is to be sent.
pub struct ToSend {
    pub number: Number,
    pub key: SessionKey,
    pub session_number: u64,
    pub outgoing: Option<Bytes>,
    /// It may have been sent before, without an answer.
    pub tried: bool,
}

/// What is to be sent to a slot.
pub struct Piece {
    pub to: SlotId,
    /// From 1, in this term.
    pub round: u64,
    pub messages: Vec<ToSend>,
}

impl Outbox {
    /// A message comes, with this batch.
    pub fn comes(
        &mut self,
        place: Place,
        (key, session_number): (&SessionKey, u64),
        batch: u64,
        outgoing: Option<Bytes>,
    ) {
        let bytes = outgoing.as_ref().map_or(0, Bytes::len);
        let outgoing =
            outgoing.filter(|_| self.held_bytes + bytes <= limits::OUTBOX_BYTES_HELD_MAX);
        self.held_bytes += outgoing.as_ref().map_or(0, Bytes::len);
        let pair = self.pairs.entry(place.to).or_default();
        // An earlier owner may have sent what is loaded.
        let tried = batch == 0;
        let queued = Queued { key: key.clone(), session_number, batch, outgoing, tried };
        if pair.queue.insert(place.number, queued).is_none() {
            self.count += 1;
        }
        if !pair.busy {
            self.ready.insert(place.to);
        }
    }

    /// A message goes: it has arrived, was taken back, or its session is deleted.
    pub fn goes(&mut self, place: Place) {
        let Some(pair) = self.pairs.get_mut(&place.to) else { return };
        if let Some(gone) = pair.queue.remove(&place.number) {
            self.count -= 1;
            self.held_bytes -= gone.outgoing.map_or(0, |it| it.len());
        }
        if pair.queue.is_empty() {
            self.ready.remove(&place.to);
            if !pair.busy {
                self.pairs.remove(&place.to);
            }
        }
    }

    /// Messages of the store, of a slot that is opened: all of them.
    pub fn load(&mut self, rows: impl IntoIterator<Item = (Place, u64, SessionKey)>) {
        for (place, session_number, key) in rows {
            self.comes(place, (&key, session_number), 0, None);
        }
    }

    /// What has come from other slots, as the store has it.
    pub fn load_received(&mut self, rows: impl IntoIterator<Item = (SlotId, Mark)>) {
        self.received.extend(rows);
    }

    /// What has come from a slot, in the batch that fills or before.
    pub fn received(&self, from: SlotId) -> Mark {
        self.received.get(&from).copied().unwrap_or_default()
    }

    /// Something has come from a slot, or was refused.
    pub fn receive(&mut self, from: SlotId, mark: Mark) {
        self.received.insert(from, mark);
    }

    /// Messages that are not there yet.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The messages after one, in the order of their rows, and whose they are.
    pub fn after(
        &self,
        after: Option<OnItsWay>,
    ) -> impl Iterator<Item = (OnItsWay, &SessionKey)> + '_ {
        let from = after.map_or(0, |row| row.place.to);
        self.pairs.range(from..).flat_map(move |(to, pair)| {
            let after = after.filter(|row| row.place.to == *to);
            let from = after.map_or(Bound::Unbounded, |row| Bound::Excluded(row.place.number));
            pair.queue.range((from, Bound::Unbounded)).map(|(number, queued)| {
                let place = Place { to: *to, number: *number };
                (OnItsWay { place, session_number: queued.session_number }, &queued.key)
            })
        })
    }

    /// Whether so many more to a slot can be kept.
    pub fn has_room(&self, to: SlotId, more: usize) -> bool {
        let known = self.pairs.get(&to).map_or(0, |pair| pair.queue.len());
        known + more <= limits::OUTBOX_PAIR_MAX
    }

    /// The slot that a piece can be sent to next. In turn: none waits for those before it for ever.
    fn find(&self, durable: u64) -> Option<SlotId> {
        if self.sending >= limits::DELIVERIES_PER_SLOT_MAX {
            return None;
        }
        let can = |to: &&SlotId| {
            self.pairs.get(to).is_some_and(|pair| {
                let first = pair.queue.values().next();
                let may = pair.wait.is_zero() || self.unreached < limits::DELIVERIES_UNREACHED_MAX;
                may && pair.after_batch <= durable && first.is_some_and(|it| it.batch <= durable)
            })
        };
        let after = self.last.map_or(0, |last| last.saturating_add(1));
        let to = self.ready.range(after..).find(can).or_else(|| self.ready.iter().find(can));
        to.copied()
    }

    /// The next piece to send, when the batches up to `durable` are. It is on its way until
    /// [`Outbox::settle`].
    pub fn next(&mut self, durable: u64) -> Option<Piece> {
        let to = self.find(durable)?;
        let pair = self.pairs.get_mut(&to)?;
        let mut bytes = 0;
        let messages = pair.queue.iter().take_while(|(_, queued)| queued.batch <= durable);
        // Those that have to be read are counted when they are.
        let messages = messages.take(limits::DELIVERY_MAX).take_while(|(_, queued)| {
            let first = bytes == 0;
            bytes += queued.outgoing.as_ref().map_or(1, Bytes::len);
            first || bytes <= limits::DELIVERY_BYTES_MAX
        });
        let messages = messages.map(|(number, queued)| ToSend {
            number: *number,
            key: queued.key.clone(),
            session_number: queued.session_number,
            outgoing: queued.outgoing.clone(),
            tried: queued.tried,
        });
        let messages = messages.collect();
        pair.busy = true;
        self.unreached += usize::from(!pair.wait.is_zero());
        self.ready.remove(&to);
        self.sending += 1;
        self.last = Some(to);
        self.rounds += 1;
        Some(Piece { to, round: self.rounds, messages })
    }

    /// A message is in a piece.
    pub fn tries(&mut self, place: Place) {
        let pair = self.pairs.get_mut(&place.to);
        if let Some(queued) = pair.and_then(|pair| pair.queue.get_mut(&place.number)) {
            queued.tried = true;
        }
    }

    /// Whether something can be sent when the batches up to `durable` are.
    pub fn sends(&self, durable: u64) -> bool {
        self.find(durable).is_some()
    }

    /// The messages to a slot up to a number, which have arrived.
    pub fn arrived(&self, to: SlotId, last: Number) -> Vec<(Number, SessionKey, u64)> {
        let Some(pair) = self.pairs.get(&to) else { return Vec::new() };
        let arrived = pair.queue.range(..=last);
        arrived.map(|(number, it)| (*number, it.key.clone(), it.session_number)).collect()
    }

    /// Whose message it is.
    pub fn owner(&self, place: Place) -> Option<(SessionKey, u64)> {
        let queued = self.pairs.get(&place.to)?.queue.get(&place.number)?;
        Some((queued.key.clone(), queued.session_number))
    }

    /// A piece is no longer on its way, and the slot has answered. `after_batch`: nothing more is sent before that is
    /// durable.
    pub fn settle(&mut self, to: SlotId, after_batch: u64) {
        self.sending = self.sending.saturating_sub(1);
        let Some(pair) = self.pairs.get_mut(&to) else { return };
        pair.after_batch = pair.after_batch.max(after_batch);
        self.unreached = self.unreached.saturating_sub(usize::from(!pair.wait.is_zero()));
        pair.wait = Duration::ZERO;
        // Earlier pieces are void from now on.
        pair.queue.values_mut().take_while(|queued| queued.tried).for_each(|it| it.tried = false);
        self.free(to);
    }

    /// The slot could not be reached: how long it is left alone, until [`Outbox::free`]; longer each time. `None`:
    /// nothing is left to send to it.
    pub fn hold(&mut self, to: SlotId) -> Option<Duration> {
        self.sending = self.sending.saturating_sub(1);
        let pair = self.pairs.get_mut(&to)?;
        self.unreached = self.unreached.saturating_sub(usize::from(!pair.wait.is_zero()));
        let (min, max) = (limits::DELIVERY_RETRY_MIN, limits::DELIVERY_RETRY_MAX);
        pair.wait = (pair.wait * 2).clamp(min, max);
        Some(pair.wait)
    }

    /// The next piece to a slot may go.
    pub fn free(&mut self, to: SlotId) {
        let Some(pair) = self.pairs.get_mut(&to) else { return };
        pair.busy = false;
        match pair.queue.is_empty() {
            true => drop(self.pairs.remove(&to)),
            false => drop(self.ready.insert(to)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(to: SlotId, index: u64) -> Place {
        Place { to, number: Number { term: 1, index } }
    }

    fn outbox(messages: &[(SlotId, u64, u64)]) -> Outbox {
        let (mut outbox, key) = (Outbox::default(), SessionKey::parse("s", "x").unwrap());
        for (to, index, batch) in messages {
            outbox.comes(place(*to, *index), (&key, 1), *batch, Some(Bytes::from_static(b"m")));
        }
        outbox
    }

    fn next(outbox: &mut Outbox, durable: u64) -> Option<(SlotId, Vec<u64>)> {
        let piece = outbox.next(durable)?;
        Some((piece.to, piece.messages.iter().map(|it| it.number.index).collect()))
    }

    /// What is sent before its message is durable may be of a message that never was.
    #[test]
    fn nothing_is_sent_before_it_is_durable() {
        let mut outbox = outbox(&[(1, 1, 5), (1, 2, 6), (2, 3, 6)]);
        assert_eq!(next(&mut outbox, 4), None);
        assert_eq!(next(&mut outbox, 5), Some((1, vec![1])));
        assert_eq!(next(&mut outbox, 6), Some((2, vec![3])));
        assert_eq!(next(&mut outbox, 6), None, "one piece at a time to a slot");
        // What was refused is taken back before more is sent: else it would count as arrived.
        outbox.goes(place(1, 1));
        outbox.settle(1, 7);
        assert_eq!(next(&mut outbox, 6), None);
        assert_eq!(next(&mut outbox, 7), Some((1, vec![2])));
    }

    /// One slot that does not answer must not hold up others, nor be asked without a pause.
    #[test]
    fn a_slot_that_does_not_answer_waits_alone() {
        let mut outbox = outbox(&[(1, 1, 1), (2, 2, 1), (2, 3, 1)]);
        assert_eq!(next(&mut outbox, 1), Some((1, vec![1])));
        let mut waits = vec![outbox.hold(1).unwrap()];
        assert_eq!(next(&mut outbox, 1), Some((2, vec![2, 3])));
        for _ in 0..20 {
            assert_eq!(next(&mut outbox, 1), None, "it is asked without a pause");
            outbox.free(1);
            assert_eq!(next(&mut outbox, 1), Some((1, vec![1])));
            waits.push(outbox.hold(1).unwrap());
        }
        assert!(waits.is_sorted() && waits[0] == limits::DELIVERY_RETRY_MIN, "{waits:?}");
        assert_eq!(waits.last(), Some(&limits::DELIVERY_RETRY_MAX));
        // Nothing that has gone meanwhile is sent.
        outbox.goes(place(1, 1));
        outbox.free(1);
        assert_eq!(next(&mut outbox, 1), None);
    }

    /// An operator would see a message twice, or never.
    #[test]
    fn what_is_on_its_way_is_listed_page_by_page_in_the_order_of_its_rows() {
        let outbox = outbox(&[(1, 1, 1), (7, 2, 1), (1, 3, 1), (300, 4, 1), (7, 5, 1)]);
        let (mut after, mut seen, mut keys) = (None, Vec::new(), Vec::new());
        while let Some((row, key)) = outbox.after(after).next() {
            assert_eq!(*key, SessionKey::parse("s", "x").unwrap());
            seen.push((row.place.to, row.place.number.index));
            keys.push(row.key());
            after = Some(row);
        }
        assert_eq!(seen, [(1, 1), (1, 3), (7, 2), (7, 5), (300, 4)]);
        assert!(keys.is_sorted() && outbox.after(None).count() == 5);
    }

    /// The count would go wrong, and with it what the node may keep.
    #[test]
    fn what_goes_is_no_longer_counted() {
        let mut outbox = outbox(&[(1, 1, 1), (1, 2, 1), (2, 3, 1)]);
        assert!(outbox.has_room(1, limits::OUTBOX_PAIR_MAX - 2));
        assert!(!outbox.has_room(1, limits::OUTBOX_PAIR_MAX - 1));
        assert_eq!(next(&mut outbox, 1), Some((1, vec![1, 2])));
        let arrived = outbox.arrived(1, place(1, 1).number);
        assert_eq!(arrived.iter().map(|it| it.0.index).collect::<Vec<_>>(), [1]);
        for index in 1..=3 {
            outbox.goes(place(if index == 3 { 2 } else { 1 }, index));
            outbox.goes(place(1, index));
        }
        outbox.settle(1, 0);
        assert_eq!((outbox.len(), outbox.held_bytes, outbox.sending), (0, 0, 0));
        assert!(outbox.pairs.is_empty() && outbox.ready.is_empty());
    }
}
