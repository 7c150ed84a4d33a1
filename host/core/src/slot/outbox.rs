//! Sends what a slot's sessions have sent to others, once it is durable, and writes down what became of it.
//!
//! What has arrived is taken from the outbox. What was refused left no trace where it was sent to: it is taken back,
//! and in the same batch becomes a message that waits to be tried again, an outcome for who asked for a reply, or
//! a dead message. Until that is durable nothing more is sent to that slot: else it would count as arrived there.
//!
//! Nothing of it outlives the term of the slot: its next owner sends again what it finds, and the other slot knows
//! what it has.

use crate::{
    effects::{
        Change, Effect, GivenUp, Outgoing,
        rows::{self, Name, OnItsWay, Value as _},
        send::{Content, Mark, Number, Place, Refusal},
    },
    error::{Error, StateError},
    limits,
    names::{SessionKey, SlotId},
    operation::{Deliver, Delivered, Delivery, Refused},
    plugin::Failure,
    slot::{
        core::Piece,
        effects::{Effects, Numbers},
        overlay::Transaction,
        session::Session,
        shell::Shell,
    },
    telemetry::{metrics, repeats},
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};
use tokio::task::JoinSet;

/// Takes messages to the slots that they are for, wherever those are.
pub trait Courier: Send + Sync + 'static {
    fn deliver(&self, piece: Deliver) -> BoxFuture<'static, Result<Delivered, Error>>;
}

/// What a slot that sends has waited for.
pub(super) enum Sent {
    /// What became of a piece.
    Piece { to: SlotId, delivered: Result<Delivered, Error> },
    /// A slot that could not be reached was left alone for a while.
    Waited { to: SlotId },
}

/// What a slot has on its way.
#[derive(Default)]
pub(super) struct Sending {
    pieces: JoinSet<Sent>,
    /// As they are counted for the node.
    counted: usize,
}

/// Whether a message waits for one before it.
enum Holds {
    No,
    /// It does, once what was sent before is void.
    AfterVoid,
    /// It does from now on.
    Held,
}

/// What becomes of a message that was refused.
enum AfterRefusal {
    Again(Outgoing),
    /// Nobody needs it any more.
    Dropped,
    Outcome(Effect),
    Dead(Effect),
}

impl Sending {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        loop {
            match self.pieces.poll_join_next(cx) {
                Poll::Ready(Some(Ok(sent))) => return Poll::Ready(sent),
                // It was aborted or has panicked; and the runtime is ending, or the slot sends it again when it is
                // opened next.
                Poll::Ready(Some(Err(_))) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Shell {
    /// Learns what is on its way, of a slot that is opened.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn look_for_sent(&mut self) -> Result<(), StateError> {
        self.for_rows(rows::OUTBOX, |shell, rows| {
            let slot = shell.slot;
            let readable = rows.into_iter().filter_map(|(key, owner)| {
                let row = OnItsWay::of_row(&key, &owner);
                // One must not keep the others, and the slot, from all that they do.
                row.inspect_err(|why| {
                    tracing::error!(
                        slot,
                        why,
                        "the row of a message to another session is damaged: it is not delivered"
                    )
                })
                .ok()
            });
            let readable = readable.map(|(row, key)| (row.place, row.session_number, key));
            shell.core.outbox().load(readable);
            Ok(())
        })?;
        let row = |(key, mark): (Bytes, Bytes)| {
            let from = <[u8; 2]>::try_from(&key[..]).map_err(|_| "a slot has two bytes")?;
            Ok((SlotId::from_be_bytes(from), Mark::decode(&mark)?))
        };
        self.for_rows(rows::RECEIVED, |shell, rows| {
            let rows: Result<Vec<_>, String> = rows.into_iter().map(row).collect();
            shell.core.outbox().load_received(rows?);
            Ok(())
        })
    }

    fn for_rows(
        &mut self,
        number: u64,
        mut add: impl FnMut(&mut Self, Vec<(Bytes, Bytes)>) -> Result<(), String>,
    ) -> Result<(), StateError> {
        let mut after = None::<Bytes>;
        loop {
            let limit = limits::OUTBOX_PAIR_MAX;
            let page = self.context.store.scan(
                self.slot,
                number,
                b"",
                after.as_deref(),
                limit,
                usize::MAX,
            )?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            add(self, page).map_err(StateError::Corrupt)?;
        }
    }

    /// The numbers that what is sent next has.
    pub(super) fn numbers(&self) -> Numbers {
        let last = Number { term: self.core.term(), index: self.sent };
        Numbers { slot_count: self.context.options.slot_count, last }
    }

    /// Whether what a message sends may be sent, and has room: by the services, to each slot, and on the node.
    ///
    /// # Errors
    /// Which of it does not.
    pub(super) fn check_sends(&mut self, tx: &Transaction) -> Result<(), Failure> {
        if tx.sent().is_empty() {
            return Ok(());
        }
        let from = &tx.session().key.service;
        let mut slots: BTreeMap<SlotId, usize> = BTreeMap::new();
        for outgoing in tx.sent() {
            let to = &outgoing.to.service;
            // A reply goes to who was allowed to ask.
            let is_reply = matches!(outgoing.content, Content::Reply(_));
            if !is_reply && !self.context.options.sends.allow(from, to) {
                return Err(Failure::Forbidden(format!(
                    "service {from} may not send to service {to}; its operator allows it with \
                     `effects.send`"
                )));
            }
            *slots.entry(outgoing.to.slot(self.context.options.slot_count)).or_default() += 1;
        }
        if let Some((to, _)) =
            slots.iter().find(|(to, more)| !self.core.outbox().has_room(**to, **more))
        {
            return Err(Failure::Crowded(format!(
                "too many messages from slot {} to slot {to} are on their way; {} may be",
                self.slot,
                limits::OUTBOX_PAIR_MAX
            )));
        }
        if self.context.outbox.load(Ordering::Relaxed) + tx.sent().len() > limits::OUTBOX_NODE_MAX {
            return Err(Failure::Crowded(format!(
                "too many messages of this node's sessions are on their way; {} may be",
                limits::OUTBOX_NODE_MAX
            )));
        }
        Ok(())
    }

    /// Something is durable: the slot's task sees whether there is something to send.
    pub(super) fn look_at_outbox(&mut self) {
        self.count_outbox();
        self.attention |= self.core.sends_out();
    }

    /// Sends what is durable and can be sent; some of it, as it may have to be read.
    pub(super) fn send_out(&mut self) {
        let Some(courier) = self.context.courier.get().cloned() else { return };
        for _ in 0..limits::DELIVERIES_PER_TURN_MAX {
            let Some(piece) = self.core.next_piece() else { break };
            let to = piece.to;
            let delivering = match self.deliveries(piece) {
                // All of it waits for something else now.
                Ok((_, true)) => {
                    let batch = self.core.batch();
                    self.core.outbox().settle(to, batch);
                    continue;
                }
                Ok((piece, false)) => courier.deliver(piece),
                // It is tried again, as if the other slot had not been there.
                Err(error) => Box::pin(async { Err(error) }),
            };
            let sent = async move {
                let bug = |_| Err(Error::internal("a bug: delivering messages panicked"));
                let delivered = AssertUnwindSafe(delivering).catch_unwind().await;
                Sent::Piece { to, delivered: delivered.unwrap_or_else(bug) }
            };
            crate::task::run_in(&mut self.sending.pieces, sent);
            // Its end is polled by the slot's task.
            self.attention = true;
        }
        self.look_at_outbox();
    }

    /// Tells the node how much is on its way.
    pub(super) fn count_outbox(&mut self) {
        let (now, was) = (self.core.outbox().len(), self.sending.counted);
        if now != was {
            let all = &self.context.outbox;
            all.fetch_add(now, Ordering::Relaxed);
            all.fetch_sub(was, Ordering::Relaxed);
            self.sending.counted = now;
        }
    }

    /// The slot has ended: what it has is on its next owner's count.
    pub(super) fn leave_outbox(&mut self) {
        self.context.outbox.fetch_sub(self.sending.counted, Ordering::Relaxed);
    }

    /// The messages of a piece, as they are stored; whether all of them wait for something else now.
    fn deliveries(&mut self, piece: Piece) -> Result<(Deliver, bool), Error> {
        let (from, to) = (self.slot, piece.to);
        let round = Number { term: self.core.term(), index: piece.round };
        let (mut messages, mut bytes, mut held) =
            (Vec::with_capacity(piece.messages.len()), 0, false);
        for message in piece.messages {
            let (number, place) = (message.number, Place { to, number: message.number });
            match self.holds_up(&message.key, message.session_number, place, message.tried)? {
                Holds::No => {}
                // An empty piece makes what was sent before void, so that this can be held.
                Holds::AfterVoid => break,
                // What is behind it may not be sent before it is durable that it does not go.
                Holds::Held => {
                    held = true;
                    break;
                }
            }
            let outgoing = match message.outgoing {
                Some(outgoing) => outgoing,
                None => {
                    let name = Name::Outgoing(place);
                    let effect = self.effect(&message.key, message.session_number, &name)?;
                    let bug = "a bug: a message is on its way that its session has not sent";
                    let effect = effect.ok_or_else(|| Error::internal(bug))?;
                    effect.encode().map_err(Error::internal)?
                }
            };
            bytes += outgoing.len();
            if bytes > limits::DELIVERY_BYTES_MAX && !messages.is_empty() {
                break;
            }
            self.core.outbox().tries(place);
            let (from, session_number) = (message.key, message.session_number);
            messages.push(Delivery { number, from, session_number, outgoing });
        }
        let all_held = held && messages.is_empty();
        Ok((Deliver { from, to, round, messages }, all_held))
    }

    /// Where a session's messages stay in order whatever becomes of one: has a message wait that is behind one which
    /// is to be tried again.
    fn holds_up(
        &mut self,
        key: &SessionKey,
        session_number: u64,
        place: Place,
        tried: bool,
    ) -> Result<Holds, Error> {
        if self.context.options.in_order.is_empty() {
            return Ok(Holds::No);
        }
        let (rules, mut holds) = (self.context.options.in_order.clone(), Holds::No);
        self.change_outbox(key, session_number, |effects| {
            let Some(Effect::Outgoing(outgoing)) = effects.get(&Name::Outgoing(place)) else {
                return Ok(Vec::new());
            };
            let in_order = rules.allow(&key.service, &outgoing.to.service);
            if !in_order || !outgoing.is_fresh() || !effects.has_before(&outgoing.to) {
                return Ok(Vec::new());
            }
            holds = if tried { Holds::AfterVoid } else { Holds::Held };
            if tried {
                return Ok(Vec::new());
            }
            let behind = Effect::Outgoing(outgoing.behind().into());
            let gone = effects.change(Name::Outgoing(place), None)?;
            Ok(vec![gone, effects.change(Name::Waiting(place), Some(behind))?])
        })?;
        Ok(holds)
    }

    /// Writes down what became of a piece.
    pub(super) fn on_sent(&mut self, sent: Sent) {
        if !self.core.settles() {
            return;
        }
        let (to, delivered) = match sent {
            Sent::Piece { to, delivered: Ok(delivered) } => (to, delivered),
            Sent::Waited { to } => {
                self.core.outbox().free(to);
                return self.look_at_outbox();
            }
            Sent::Piece { to, delivered: Err(error) } => {
                metrics().sends_held.increment(1);
                let wait = self.hold_piece(to);
                if wait >= limits::DELIVERY_RETRY_MAX
                    && repeats::admit("messages wait for a slot", to)
                {
                    tracing::warn!(slot = self.slot, to, %error, "a slot can't be reached; messages to it wait");
                }
                return self.look_at_outbox();
            }
        };
        match (self.arrived(to, &delivered), &delivered.refused) {
            // Until it is taken back for good, a later one would say that it has arrived.
            (Ok(()), Some(_)) => {
                let batch = self.core.last_change();
                self.core.outbox().settle(to, batch);
            }
            (Ok(()), None) => self.core.outbox().settle(to, 0),
            (Err(error), _) => {
                if repeats::admit("what was sent can't be written down", to) {
                    tracing::warn!(
                        slot = self.slot,
                        to,
                        %error,
                        "can't record what became of messages to a slot; they are sent again"
                    );
                }
                self.hold_piece(to);
            }
        }
        self.look_at_outbox();
    }

    /// Leaves a slot alone for a while.
    fn hold_piece(&mut self, to: SlotId) -> Duration {
        let Some(wait) = self.core.outbox().hold(to) else { return Duration::ZERO };
        crate::task::run_in(&mut self.sending.pieces, async move {
            tokio::time::sleep(wait).await;
            Sent::Waited { to }
        });
        self.attention = true;
        wait
    }

    fn arrived(&mut self, to: SlotId, delivered: &Delivered) -> Result<(), Error> {
        let mut sessions: BTreeMap<(SessionKey, u64), Vec<Number>> = BTreeMap::new();
        for (number, key, session_number) in self.core.outbox().arrived(to, delivered.last) {
            sessions.entry((key, session_number)).or_default().push(number);
        }
        for ((key, session_number), numbers) in sessions {
            // The rest has arrived as well: it is heard of again.
            if !self.core.batch_has_room() {
                break;
            }
            metrics().sends_delivered.increment(numbers.len() as u64);
            let mut next = self.numbers();
            self.change_outbox(&key, session_number, |effects| {
                let mut changes = Vec::with_capacity(numbers.len());
                for number in numbers {
                    let name = Name::Outgoing(Place { to, number });
                    let arrived = effects.get(&name).cloned();
                    changes.push(effects.change(name, None)?);
                    if let Some(Effect::Outgoing(arrived)) = arrived {
                        changes.extend(go_on(effects, &arrived, &mut next)?);
                    }
                }
                Ok(changes)
            })?;
            self.sent = next.last.index;
        }
        let Some(refused) = &delivered.refused else { return Ok(()) };
        let place = Place { to, number: refused.number };
        // Else its session was deleted meanwhile.
        let Some((key, session_number)) = self.core.outbox().owner(place) else { return Ok(()) };
        self.refused(place, &key, session_number, refused)
    }

    fn refused(
        &mut self,
        place: Place,
        key: &SessionKey,
        session_number: u64,
        refused: &Refused,
    ) -> Result<(), Error> {
        metrics().sends_refused.increment(1);
        let now_ms = crate::clock::now_ms();
        let (mut died, mut next) = (None, self.numbers());
        self.change_outbox(key, session_number, |effects| {
            let outgoing = match effects.get(&Name::Outgoing(place)) {
                Some(Effect::Outgoing(outgoing)) => outgoing.clone(),
                _ => return Ok(Vec::new()),
            };
            let becomes = becomes(&outgoing, refused, now_ms, effects);
            let goes_on = !matches!(becomes, AfterRefusal::Again(_));
            let mut changes = vec![effects.change(Name::Outgoing(place), None)?];
            let comes = match becomes {
                AfterRefusal::Dropped => None,
                AfterRefusal::Again(again) => {
                    Some((Name::Waiting(place), Effect::Outgoing(again.into())))
                }
                AfterRefusal::Outcome(outcome) => Some((Name::Outcome(place), outcome)),
                AfterRefusal::Dead(dead) => {
                    died = Some(outgoing.to.clone());
                    Some((Name::DeadOutgoing(place), dead))
                }
            };
            if let Some((name, comes)) = comes {
                changes.push(effects.change(name, Some(comes))?);
            }
            if goes_on {
                changes.extend(go_on(effects, &outgoing, &mut next)?);
            }
            Ok(changes)
        })?;
        self.sent = next.last.index;
        if let Some(to) = died {
            self.report_dead(key, place, &to, &refused.refusal);
        }
        Ok(())
    }

    /// Says that a message between sessions, or its outcome, was given up.
    pub(super) fn report_dead(
        &self,
        key: &SessionKey,
        place: Place,
        to: &SessionKey,
        why: &Refusal,
    ) {
        metrics().sends_dead.increment(1);
        if repeats::admit("a message between sessions was given up", &key.service) {
            tracing::warn!(
                slot = self.slot,
                session = %key,
                %to,
                id = %place,
                code = why.code,
                reason = why.reason,
                "gave a message between sessions up; `slotd dead retry` tries it again"
            );
        }
    }

    /// A message that was refused is due: it goes on its way again, behind what is on it.
    pub(super) fn send_again(&mut self, session: &mut Session, place: Place, outgoing: &Outgoing) {
        let mut numbers = self.numbers();
        let again = numbers.next(&outgoing.to);
        let has_room = self.core.outbox().has_room(again.to, 1);
        if has_room {
            self.sent = numbers.last.index;
        }
        self.record_effects(session, |effects| {
            if !has_room {
                // Nothing else that is due is to wait for it.
                let later = outgoing.refused(&outgoing.reason, false, crate::clock::now_ms());
                let later = Effect::Outgoing(later.into());
                return Ok(vec![effects.change(Name::Waiting(place), Some(later))?]);
            }
            let gone = effects.change(Name::Waiting(place), None)?;
            let comes = Effect::Outgoing(outgoing.clone().into());
            Ok(vec![gone, effects.change(Name::Outgoing(again), Some(comes))?])
        });
    }

    /// Changes the effects of a session of this slot, if it is still there.
    ///
    /// # Errors
    /// It can't be read; nothing has changed.
    fn change_outbox(
        &mut self,
        key: &SessionKey,
        session_number: u64,
        change: impl FnOnce(&mut Effects) -> Result<Vec<Change>, StateError>,
    ) -> Result<(), Error> {
        let mut session = self.take_session(key)?;
        if !session.exists() || session.head.session_number != session_number {
            self.put_session(session);
            return Ok(());
        }
        if let Err(error) = session.load_effects(&*self.context.store, self.slot) {
            self.put_session(session);
            return Err(error.into());
        }
        self.record_effects(&mut session, change);
        self.put_session(session);
        Ok(())
    }
}

/// Where messages stay in order: the one behind a message that has arrived, or was given up, goes.
///
/// # Errors
/// It can't be encoded: a bug.
fn go_on(
    effects: &mut Effects,
    before: &Outgoing,
    numbers: &mut Numbers,
) -> Result<Vec<Change>, StateError> {
    if effects.waits_for_itself(&before.to) {
        return Ok(Vec::new());
    }
    let is_next = |it: &Outgoing| it.to == before.to && it.is_behind();
    let next = effects.waiting().find(|(_, it)| is_next(it)).map(|(place, it)| (place, it.clone()));
    let Some((place, outgoing)) = next else { return Ok(Vec::new()) };
    let again = Name::Outgoing(numbers.next(&outgoing.to));
    let gone = effects.change(Name::Waiting(place), None)?;
    Ok(vec![gone, effects.change(again, Some(Effect::Outgoing(outgoing)))?])
}

/// What becomes of a message that was refused.
fn becomes(outgoing: &Outgoing, refused: &Refused, now_ms: u64, effects: &Effects) -> AfterRefusal {
    let Refused { refusal, counts, .. } = refused;
    let again = outgoing.refused(&refusal.reason, *counts, now_ms);
    if refusal.retriable && !again.is_exhausted() {
        return AfterRefusal::Again(again);
    }
    if let Some(outcome) = outgoing.outcome(refusal.clone(), now_ms) {
        // A session that is closed does not hear of it.
        return match effects.is_closed() {
            true => AfterRefusal::Dropped,
            false => AfterRefusal::Outcome(Effect::Outcome(outcome.into())),
        };
    }
    // A reply that nobody waits for any more.
    if matches!(outgoing.content, Content::Reply(_)) && !refusal.retriable {
        return AfterRefusal::Dropped;
    }
    let dead = Effect::DeadOutgoing(GivenUp::new(again.clone(), refusal, now_ms).into());
    // Where nothing more can be given up, it is tried at the longest interval.
    match effects.has_room_for(&dead) {
        true => AfterRefusal::Dead(dead),
        false => AfterRefusal::Again(Outgoing {
            next_ms: now_ms.saturating_add(limits::EFFECT_RETRY_MAX_MS),
            ..again
        }),
    }
}
