//! The steps: what each owner may do next, and what comes of it.

use super::{
    Guard, Sending,
    state::{
        Answer, Batches, Change, FROM, Log, MessageId, Piece, Receiver, Refusal, Sender, State, TO,
        Took, key,
    },
};
use slotd_core::effects::send::{Arrival, Mark, Number, Place};

/// Owners, pieces and answers by their place in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The slot that sends has another owner.
    ClaimSender,
    ClaimReceiver,
    /// A batch is durable, or its owner learns that it is none any more.
    CommitSender(usize),
    CommitReceiver(usize),
    /// A session sends its next message.
    Send(usize),
    /// A message that was refused goes on its way again.
    SendAgain {
        sender: usize,
        message: MessageId,
    },
    SendPiece(usize),
    /// It waits for the answer no longer.
    GiveUp(usize),
    Hear {
        sender: usize,
        answer: usize,
    },
    /// A piece comes, for the first time or again. So many of its messages are handled.
    Receive {
        receiver: usize,
        piece: usize,
        handled: usize,
        then: Then,
    },
}

/// What becomes of the message behind those that are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    Refuse(Refusal),
    /// There is none, or it is not handled now.
    Stop,
}

impl Sending {
    /// Every step that is possible now.
    pub(crate) fn possible(&self, state: &State, out: &mut Vec<Action>) {
        let batches = usize::from(self.bounds.batches);
        if state.senders_left > 0 {
            out.push(Action::ClaimSender);
        }
        if state.receivers_left > 0 {
            out.push(Action::ClaimReceiver);
        }
        for (at, sender) in state.senders.iter().enumerate() {
            if !sender.batches.pending.is_empty() {
                out.push(Action::CommitSender(at));
            }
            if sender.batches.pending.len() < batches {
                if sender.sent < self.bounds.messages {
                    out.push(Action::Send(at));
                }
                let again = sender.waiting.iter();
                out.extend(again.map(|&message| Action::SendAgain { sender: at, message }));
            }
            if state.pieces_left > 0 && sender.outbox.sends(self.gate(sender)) {
                out.push(Action::SendPiece(at));
            }
            if !sender.asked.is_empty() {
                out.push(Action::GiveUp(at));
            }
            let hears = state.answers.iter().enumerate().filter(|(_, answer)| {
                let its = sender.asked.contains(&answer.asked.index);
                answer.asked.term == sender.term && (its || !self.has(Guard::OnlyItsAnswer))
            });
            out.extend(hears.map(|(answer, _)| Action::Hear { sender: at, answer }));
        }
        for (at, receiver) in state.receivers.iter().enumerate() {
            if !receiver.batches.pending.is_empty() {
                out.push(Action::CommitReceiver(at));
            }
            if receiver.batches.pending.len() >= batches {
                continue;
            }
            for (piece, it) in state.pieces.iter().enumerate() {
                let new = self.new_messages(receiver, it);
                let mut receive = |handled, then| {
                    out.push(Action::Receive { receiver: at, piece, handled, then });
                };
                receive(new, Then::Stop);
                for handled in 0..new {
                    if handled > 0 {
                        receive(handled, Then::Stop);
                    }
                    if state.refusals_left > 0 {
                        receive(handled, Then::Refuse(Refusal::Again));
                        receive(handled, Then::Refuse(Refusal::ForGood));
                    }
                }
            }
        }
    }

    pub(crate) fn take(&self, state: &mut State, action: Action) {
        self.step(state, action);
        if self.has(Guard::Fence) {
            // One that is none any more has nothing left to do once it waits for a batch: that fails, and no answer
            // leaves before.
            let term = state.received.term;
            state.receivers.retain(|it| it.term == term || it.batches.pending.is_empty());
        }
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::ClaimSender => {
                state.senders_left -= 1;
                state.claim_sender();
            }
            Action::ClaimReceiver => {
                state.receivers_left -= 1;
                state.claim_receiver();
            }
            Action::CommitSender(at) => {
                let sender = &mut state.senders[at];
                if !self.commit(&mut state.sent, sender.term, &mut sender.batches) {
                    state.senders.remove(at);
                }
            }
            Action::CommitReceiver(at) => {
                let receiver = &mut state.receivers[at];
                if self.commit(&mut state.received, receiver.term, &mut receiver.batches) {
                    self.answer(state, at);
                }
            }
            Action::Send(at) => {
                let message = state.senders[at].sent;
                self.send(&mut state.senders[at], message);
            }
            Action::SendAgain { sender, message } => self.send(&mut state.senders[sender], message),
            Action::SendPiece(at) => self.send_piece(state, at),
            Action::GiveUp(at) => {
                let sender = &mut state.senders[at];
                sender.asked.clear();
                // Pauses are of no importance here.
                if sender.outbox.hold(TO).is_some() {
                    sender.outbox.free(TO);
                }
            }
            Action::Hear { sender, answer } => {
                let Some(answer) = state.answers.iter().nth(answer).copied() else { return };
                self.hear(&mut state.senders[sender], answer);
            }
            Action::Receive { receiver, piece, handled, then } => {
                self.receive(state, receiver, piece, handled, then);
            }
        }
    }

    /// The first of an owner's batches becomes durable, if it still owns the slot.
    fn commit<R>(&self, log: &mut Log<R>, term: u64, batches: &mut Batches<R>) -> bool {
        if term != log.term && self.has(Guard::Fence) {
            return false;
        }
        log.records.extend(batches.pending.remove(0));
        batches.durable += 1;
        true
    }

    // ---- the slot that sends ----

    /// Up to which batch what it has may be sent.
    fn gate(&self, sender: &Sender) -> u64 {
        if self.has(Guard::OutputGate) { sender.batches.durable } else { u64::MAX }
    }

    /// A batch with changes of what is on its way.
    fn change(&self, sender: &mut Sender, changes: Vec<Change>) -> u64 {
        let batch = sender.batches.last_change() + 1;
        for change in &changes {
            sender.fold(change);
            match *change {
                Change::Sent { number, .. } => {
                    sender.outbox.comes(Place { to: TO, number }, (&key(), 1), batch, None);
                }
                Change::Arrived { number, .. } | Change::TakenBack { number, .. } => {
                    sender.outbox.goes(Place { to: TO, number });
                }
            }
        }
        sender.batches.push(changes)
    }

    fn send(&self, sender: &mut Sender, message: MessageId) {
        sender.index += 1;
        let term = if self.has(Guard::TermInNumber) { sender.term } else { 0 };
        let number = Number { term, index: sender.index };
        self.change(sender, vec![Change::Sent { message, number }]);
    }

    fn send_piece(&self, state: &mut State, at: usize) {
        let sender = &mut state.senders[at];
        let Some(piece) = sender.outbox.next(self.gate(sender)) else { return };
        let mut messages = Vec::with_capacity(piece.messages.len());
        for message in piece.messages {
            let number = message.number;
            sender.outbox.tries(Place { to: TO, number });
            messages.extend(sender.rows.get(&number).map(|message| (number, *message)));
        }
        let asked = Number { term: sender.term, index: piece.round };
        let term = if self.has(Guard::TermInRound) { sender.term } else { 0 };
        sender.asked.insert(piece.round);
        if !self.has(Guard::OnePiece) {
            sender.outbox.free(TO);
        }
        let round = Number { term, index: piece.round };
        state.pieces.insert(Piece { asked, round, messages });
        state.pieces_left -= 1;
    }

    fn hear(&self, sender: &mut Sender, answer: Answer) {
        sender.asked.remove(&answer.asked.index);
        let arrived = sender.outbox.arrived(TO, answer.last);
        let changes: Vec<Change> = arrived
            .into_iter()
            .filter_map(|(number, ..)| {
                let message = *sender.rows.get(&number)?;
                Some(Change::Arrived { message, number })
            })
            .collect();
        if !changes.is_empty() {
            self.change(sender, changes);
        }
        let mut after = 0;
        if let Some((number, refusal)) = answer.refused
            && let Some(message) = sender.rows.get(&number).copied()
        {
            after = self.change(sender, vec![Change::TakenBack { message, number, refusal }]);
        }
        let after = if self.has(Guard::TakeBackFirst) { after } else { 0 };
        sender.outbox.settle(TO, after);
    }

    // ---- the slot that receives ----

    /// How many of a piece's messages would be handled.
    fn new_messages(&self, receiver: &Receiver, piece: &Piece) -> usize {
        let mark = receiver.outbox.received(FROM);
        if self.passes(mark, piece.round) != Arrival::New {
            return 0;
        }
        let new = |number| !mark.has(number) || !self.has(Guard::PassOver);
        piece.messages.iter().filter(|(number, _)| new(*number)).count()
    }

    fn passes(&self, mark: Mark, round: Number) -> Arrival {
        if self.has(Guard::Rounds) { mark.arrival(round) } else { Arrival::New }
    }

    fn receive(&self, state: &mut State, at: usize, piece: usize, mut handled: usize, then: Then) {
        let Some(piece) = state.pieces.iter().nth(piece).cloned() else { return };
        let receiver = &mut state.receivers[at];
        let mut mark = receiver.outbox.received(FROM);
        let mut refused = None;
        let is_new = match self.passes(mark, piece.round) {
            Arrival::New => true,
            Arrival::Void => false,
            Arrival::OfEarlierTerm => return,
        };
        if is_new {
            mark.round = piece.round;
        }
        for (number, message) in piece.messages.into_iter().filter(|_| is_new) {
            if mark.has(number) && self.has(Guard::PassOver) {
                continue;
            }
            let goes_on = refused.is_some() && !self.has(Guard::StopAtRefusal);
            if handled > 0 || goes_on {
                handled = handled.saturating_sub(1);
                mark.last = mark.last.max(number);
                let handled = Took::Handled { message, number };
                if self.has(Guard::MarkWithMessage) {
                    receiver.batches.push(vec![handled, Took::Marked(mark)]);
                } else {
                    receiver.batches.push(vec![handled]);
                    receiver.batches.push(vec![Took::Marked(mark)]);
                }
                receiver.outbox.receive(FROM, mark);
            } else if let Then::Refuse(refusal) = then {
                refused = Some((number, refusal));
                state.refusals_left -= 1;
                if !self.has(Guard::MarkStaysAtRefusal) {
                    mark.last = number;
                }
                if self.has(Guard::RoundOfRefusal) {
                    receiver.batches.push(vec![Took::Marked(mark)]);
                    receiver.outbox.receive(FROM, mark);
                }
                if self.has(Guard::StopAtRefusal) {
                    break;
                }
            } else {
                break;
            }
        }
        let answer = Answer { asked: piece.asked, last: mark.last, refused };
        let held = (receiver.batches.last_change(), answer);
        if !receiver.held.contains(&held) {
            receiver.held.push(held);
        }
        self.answer(state, at);
    }

    /// The answers leave that rest on nothing but what is durable.
    fn answer(&self, state: &mut State, at: usize) {
        let receiver = &mut state.receivers[at];
        let durable = match self.has(Guard::AnswerGate) {
            true if receiver.batches.pending.is_empty() => u64::MAX,
            true => receiver.batches.durable,
            false => u64::MAX,
        };
        let answers = &mut state.answers;
        receiver.held.retain(|(batch, answer)| {
            let leaves = *batch <= durable;
            if leaves {
                answers.insert(*answer);
            }
            !leaves
        });
    }
}

/// What comes of it when nothing more goes wrong: new owners, who lose and refuse nothing.
impl Sending {
    pub(crate) fn finish(&self, state: &State) -> State {
        let mut state = state.clone();
        state.senders.clear();
        state.receivers.clear();
        state.claim_sender();
        state.claim_receiver();
        let (sender, receiver) = (0, 0);
        // Each round may be one of a message that waited.
        for _ in 0..=2 * self.bounds.messages {
            let waiting = state.senders[sender].waiting.clone();
            for message in waiting {
                self.send(&mut state.senders[sender], message);
            }
            self.commit_all(&mut state, sender, receiver);
            state.pieces_left = 1;
            let asked = state.senders[sender].outbox.sends(u64::MAX);
            if !asked {
                break;
            }
            let before = state.pieces.clone();
            self.send_piece(&mut state, sender);
            let Some(piece) = state.pieces.iter().position(|piece| !before.contains(piece)) else {
                break;
            };
            self.receive(&mut state, receiver, piece, usize::MAX, Then::Stop);
            self.commit_all(&mut state, sender, receiver);
            let own = |answer: &Answer| {
                answer.asked.term == state.senders[sender].term
                    && state.senders[sender].asked.contains(&answer.asked.index)
            };
            if let Some(answer) = state.answers.iter().copied().find(own) {
                self.hear(&mut state.senders[sender], answer);
            }
            self.commit_all(&mut state, sender, receiver);
        }
        state
    }

    fn commit_all(&self, state: &mut State, sender: usize, receiver: usize) {
        while !state.senders[sender].batches.pending.is_empty() {
            self.take(state, Action::CommitSender(sender));
        }
        while !state.receivers[receiver].batches.pending.is_empty() {
            self.take(state, Action::CommitReceiver(receiver));
        }
    }
}
