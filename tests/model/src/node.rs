//! The steps: what each part may do next, and what comes of it.

use crate::{
    Guard, Ownership,
    state::{
        Entry, Flight, MessageId, NodeId, Owner, Position, Read, ReadId, Record, Request, Role,
        Set, State, has, set,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client sends a message, or repeats it.
    Send {
        message: MessageId,
        to: NodeId,
    },
    /// An owner takes a message from its mailbox.
    Take {
        node: NodeId,
        message: MessageId,
    },
    /// A node that does not own the slot passes a message on to one that may.
    Forward {
        node: NodeId,
        message: MessageId,
        to: NodeId,
    },
    BeginRead {
        read: ReadId,
        at: NodeId,
    },
    /// The engine gets a request, and stores it if its expectation holds.
    Deliver {
        request: usize,
    },
    Lose {
        request: usize,
    },
    /// A writer hears that its append is stored. A claimant replays up to here.
    Hear {
        node: NodeId,
        replay_to: Position,
    },
    /// A writer has no answer, reads the log back as far as this, and finds something there.
    ReadBack {
        node: NodeId,
        upto: Position,
    },
    /// A writer has no answer and publishes again.
    Republish {
        node: NodeId,
    },
    /// Without [`Guard::Republish`]: it reads the log back, finds nothing, and believes it.
    GiveUp {
        node: NodeId,
    },
    /// A node claims the slot, after it has read this much of the log.
    Claim {
        node: NodeId,
        read: Position,
    },
    /// Without [`Guard::ClaimFirst`]: a node serves because it believes to be the owner.
    Serve {
        node: NodeId,
        read: Position,
    },
    /// An owner is asked to hand the slot over.
    Seal {
        node: NodeId,
    },
    Crash {
        node: NodeId,
    },
}

impl Ownership {
    /// Every step that is possible now.
    pub(crate) fn possible(&self, state: &State, out: &mut Vec<Action>) {
        let nodes = 0..state.nodes.len() as NodeId;
        for (message, client) in (0_u8..).zip(&state.clients) {
            if client.sends < self.bounds.sends {
                out.extend(nodes.clone().map(|to| Action::Send { message, to }));
            }
        }
        for request in 0..state.network.len() {
            // Of equal ones the first will do.
            if request == 0 || state.network[request] != state.network[request - 1] {
                out.push(Action::Deliver { request });
                if state.losses_left > 0 {
                    out.push(Action::Lose { request });
                }
            }
        }
        for node in nodes {
            self.possible_of(state, node, out);
        }
    }

    fn possible_of(&self, state: &State, node: NodeId, out: &mut Vec<Action>) {
        let this = &state.nodes[usize::from(node)];
        let mail = (0..self.bounds.messages).filter(|&message| has(this.mailbox, message));
        if let Some(flight) = this.role.flight() {
            self.possible_of_writer(state, node, flight, out);
        }
        match &this.role {
            Role::Owner(owner) => {
                if !owner.sealed {
                    if owner.filling.is_none() {
                        out.extend(mail.clone().map(|message| Action::Take { node, message }));
                    }
                    for (read, _) in unread(state) {
                        out.push(Action::BeginRead { read, at: node });
                    }
                    if state.seals_left > 0 {
                        out.push(Action::Seal { node });
                    }
                }
            }
            Role::Idle => {
                if state.claims_left > 0 {
                    out.extend((1..=state.end()).map(|read| Action::Claim { node, read }));
                    if !self.has(Guard::ClaimFirst) {
                        out.extend((1..=state.end()).map(|read| Action::Serve { node, read }));
                    }
                }
            }
            Role::Claiming(_) => {}
        }
        if !matches!(this.role, Role::Owner(_)) {
            for (to, other) in (0_u8..).zip(&state.nodes) {
                if to != node && other.role != Role::Idle {
                    out.extend(mail.clone().map(|message| Action::Forward { node, message, to }));
                }
            }
        }
        if state.crashes_left > 0 && (this.role != Role::Idle || this.mailbox != 0) {
            out.push(Action::Crash { node });
        }
    }

    fn possible_of_writer(
        &self,
        state: &State,
        node: NodeId,
        flight: &Flight,
        out: &mut Vec<Action>,
    ) {
        if let Some(position) = flight.answer {
            let claims = flight.entry.record == Record::Claim;
            let first = if claims && !self.has(Guard::ReplayToClaim) { 1 } else { position };
            out.extend((first..=position).map(|replay_to| Action::Hear { node, replay_to }));
        }
        // How far a read-back reaches is of no importance while the first record decides.
        let first = flight.after + 1;
        let far = !self.has(Guard::SettleByFirst) || !self.has(Guard::Fence);
        let last = if far { state.end() } else { state.end().min(first) };
        out.extend((first..=last).map(|upto| Action::ReadBack { node, upto }));
        let request = Request { after: flight.after, entry: flight.entry };
        let copies = state.network.iter().filter(|other| **other == request).count();
        if copies < usize::from(self.bounds.copies) && !self.refuses(state, &request) {
            out.push(Action::Republish { node });
        }
        if !self.has(Guard::Republish) {
            out.push(Action::GiveUp { node });
        }
    }

    pub(crate) fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::Send { message, to } => {
                let acknowledged = state.acknowledged();
                let client = &mut state.clients[usize::from(message)];
                if client.sends == 0 {
                    client.preceded_by = acknowledged;
                }
                client.sends += 1;
                state.nodes[usize::from(to)].mailbox |= set(message);
            }
            Action::Forward { node, message, to } => {
                state.nodes[usize::from(node)].mailbox &= !set(message);
                state.nodes[usize::from(to)].mailbox |= set(message);
            }
            Action::Take { node, message } => self.apply(state, node, message),
            Action::BeginRead { read, at } => self.begin_read(state, read, at),
            Action::Deliver { request } => self.deliver(state, request),
            Action::Lose { request } => {
                state.losses_left -= 1;
                state.network.remove(request);
            }
            Action::Hear { node, replay_to } => {
                let role = &state.nodes[usize::from(node)].role;
                if let Some(position) = role.flight().and_then(|flight| flight.answer) {
                    self.committed(state, node, position, replay_to);
                }
            }
            Action::ReadBack { node, upto } => self.read_back(state, node, upto),
            Action::Republish { node } => self.publish(state, node),
            Action::GiveUp { node } => self.give_up(state, node),
            Action::Claim { node, read } => {
                state.claims_left -= 1;
                let step = u8::from(self.has(Guard::NewTerm));
                let term = state.term_at(read) + step;
                let flight = self.flight(state, node, term, read, Record::Claim, 0);
                state.nodes[usize::from(node)].role = Role::Claiming(flight);
                self.publish(state, node);
            }
            Action::Serve { node, read } => {
                state.claims_left -= 1;
                let (term, memory) = (state.term_at(read), state.messages(0, read));
                let owner = Owner::after_claim(term, read, memory);
                state.nodes[usize::from(node)].role = Role::Owner(owner);
            }
            Action::Seal { node } => {
                state.seals_left -= 1;
                self.seal(state, node);
            }
            Action::Crash { node } => {
                state.crashes_left -= 1;
                drop_reads(state, node);
                let this = &mut state.nodes[usize::from(node)];
                (this.role, this.mailbox, this.left_over) = (Role::Idle, 0, None);
            }
        }
    }

    // ---- the engine ----

    fn refuses(&self, state: &State, request: &Request) -> bool {
        self.has(Guard::Expectation) && request.after != state.end()
    }

    fn deliver(&self, state: &mut State, request: usize) {
        let request = state.network.remove(request);
        if self.refuses(state, &request) {
            return;
        }
        state.log.push(request.entry);
        let end = state.end();
        let mut heard = false;
        for node in &mut state.nodes {
            let flight = node.role.flight_mut();
            if let Some(flight) = flight.filter(|f| f.entry.attempt == request.entry.attempt) {
                flight.answer.get_or_insert(end);
                heard = true;
            }
        }
        state.landed_late |= !heard && matches!(request.entry.record, Record::Message { .. });
        // What can only be refused from now on, and is answered with nothing new, need not be kept.
        let network = std::mem::take(&mut state.network);
        state.network =
            network.into_iter().filter(|request| !self.refuses(state, request)).collect();
    }

    // ---- a writer ----

    fn flight(
        &self,
        state: &mut State,
        node: NodeId,
        term: u8,
        after: Position,
        record: Record,
        readers: Set,
    ) -> Flight {
        let attempt = state.next_attempt;
        state.next_attempt += 1;
        Flight { entry: Entry { term, node, attempt, record }, after, answer: None, readers }
    }

    /// Sends the append of a node, for the first time or again.
    fn publish(&self, state: &mut State, node: NodeId) {
        let role = &state.nodes[usize::from(node)].role;
        let Some(flight) = role.flight() else { return };
        let request = Request { after: flight.after, entry: flight.entry };
        if !self.refuses(state, &request) {
            let at = state.network.partition_point(|other| *other < request);
            state.network.insert(at, request);
        }
    }

    /// Starts the next append of an owner, if there is something to append and none in flight.
    fn append_next(&self, state: &mut State, node: NodeId) {
        let Role::Owner(owner) = &mut state.nodes[usize::from(node)].role else { return };
        if owner.flight.is_some() {
            return;
        }
        let record = match owner.filling.take() {
            Some(message) => Record::Message { message, seq: owner.memory.len() as u8 },
            None if owner.readers != 0 => Record::Barrier,
            None if owner.sealed => Record::Release,
            None => return,
        };
        let (term, tail) = (owner.term, owner.tail);
        let readers = std::mem::take(&mut owner.readers);
        let flight = self.flight(state, node, term, tail, record, readers);
        if let Role::Owner(owner) = &mut state.nodes[usize::from(node)].role {
            owner.flight = Some(flight);
        }
        self.publish(state, node);
    }

    /// The append of a node is in the log.
    fn committed(&self, state: &mut State, node: NodeId, position: Position, replay_to: Position) {
        let role = std::mem::replace(&mut state.nodes[usize::from(node)].role, Role::Idle);
        match role {
            Role::Idle => {}
            Role::Claiming(flight) => {
                let memory = match state.nodes[usize::from(node)].left_over.take() {
                    Some((tail, mut memory)) => {
                        memory.extend(state.messages(tail, replay_to));
                        memory
                    }
                    None => state.messages(0, replay_to),
                };
                let owner = Owner::after_claim(flight.entry.term, position, memory);
                state.nodes[usize::from(node)].role = Role::Owner(owner);
            }
            Role::Owner(mut owner) => {
                let Some(flight) = owner.flight.take() else { return };
                owner.tail = position;
                if let Record::Message { message, seq } = flight.entry.record {
                    acknowledge(state, message, seq);
                }
                let shown = if self.has(Guard::ShowCommitted) {
                    owner.committed()
                } else {
                    owner.memory.len()
                };
                let shown = owner.memory[..shown].iter().fold(0, |all, &one| all | set(one));
                for read in (0..self.bounds.reads).filter(|&read| has(flight.readers, read)) {
                    finish_read(state, read, shown);
                }
                if flight.entry.record == Record::Release {
                    if self.has(Guard::StopAtRelease) {
                        return;
                    }
                    owner.sealed = false;
                }
                state.nodes[usize::from(node)].role = Role::Owner(owner);
                self.append_next(state, node);
            }
        }
    }

    /// There is something after what the append of a node expects.
    fn read_back(&self, state: &mut State, node: NodeId, upto: Position) {
        let Some(flight) = state.nodes[usize::from(node)].role.flight() else { return };
        let (attempt, after) = (flight.entry.attempt, flight.after);
        let by_first = self.has(Guard::SettleByFirst);
        let decides = if by_first { after + 1 } else { upto };
        let found = state.first_after(decides - 1);
        if found.is_some_and(|entry| entry.attempt == attempt) {
            self.committed(state, node, decides, decides);
        } else if self.has(Guard::Fence) {
            self.stop(state, node);
        } else {
            // It tries again behind the other's record.
            let role = &mut state.nodes[usize::from(node)].role;
            if let Role::Owner(owner) = role {
                owner.tail = upto;
            }
            if let Some(flight) = role.flight_mut() {
                flight.after = upto;
            }
            self.publish(state, node);
        }
    }

    /// A node loses the slot, and tells those who wait that their messages were not kept.
    fn stop(&self, state: &mut State, node: NodeId) {
        drop_reads(state, node);
        let this = &mut state.nodes[usize::from(node)];
        let role = std::mem::replace(&mut this.role, Role::Idle);
        let flight = role.flight().filter(|flight| flight.has_message());
        state.refused.extend(flight.map(|flight| flight.entry.attempt));
        if let (Role::Owner(owner), false) = (role, self.has(Guard::ForgetOnFailure)) {
            this.left_over = Some((owner.tail, owner.memory));
        }
    }

    /// An append without an answer is taken for one that was not stored.
    fn give_up(&self, state: &mut State, node: NodeId) {
        match &mut state.nodes[usize::from(node)].role {
            Role::Owner(owner) => {
                let Some(flight) = owner.flight.take() else { return };
                if let Record::Message { message, .. } = flight.entry.record {
                    owner.memory.retain(|&other| other != message);
                    state.refused.insert(flight.entry.attempt);
                }
                owner.readers |= flight.readers;
                self.append_next(state, node);
            }
            role => *role = Role::Idle,
        }
    }

    // ---- an owner ----

    fn apply(&self, state: &mut State, node: NodeId, message: MessageId) {
        let this = &mut state.nodes[usize::from(node)];
        this.mailbox &= !set(message);
        let Role::Owner(owner) = &mut this.role else { return };
        let known = owner.memory.iter().position(|&other| other == message);
        let at = known.filter(|_| self.has(Guard::IdempotencyKey));
        let answered = match at {
            // One that is not committed yet is answered at the commit, for both.
            Some(at) => at < owner.committed() || !self.has(Guard::RepeatGate),
            None => !self.has(Guard::OutputGate),
        };
        let seq = 1 + at.unwrap_or(owner.memory.len()) as u8;
        if at.is_none() {
            owner.memory.push(message);
            owner.filling = Some(message);
            self.append_next(state, node);
        }
        if answered {
            acknowledge(state, message, seq);
        }
    }

    fn begin_read(&self, state: &mut State, read: ReadId, at: NodeId) {
        let must_show = state.acknowledged() | state.shown;
        state.reads[usize::from(read)] = Read::Waiting { must_show };
        let Role::Owner(owner) = &mut state.nodes[usize::from(at)].role else { return };
        if !self.has(Guard::Barrier) {
            let committed = &owner.memory[..owner.committed()];
            let shown = committed.iter().fold(0, |all, &one| all | set(one));
            return finish_read(state, read, shown);
        }
        match &mut owner.flight {
            Some(flight) if !self.has(Guard::FreshBarrier) => flight.readers |= set(read),
            _ => owner.readers |= set(read),
        }
        self.append_next(state, at);
    }

    fn seal(&self, state: &mut State, node: NodeId) {
        let Role::Owner(owner) = &mut state.nodes[usize::from(node)].role else { return };
        owner.sealed = true;
        if !self.has(Guard::SettleBeforeRelease) {
            // What is in flight is sent back to its client, who may go to the new owner.
            if let Some(flight) = owner.flight.take() {
                owner.readers |= flight.readers;
                if let Record::Message { message, .. } = flight.entry.record {
                    owner.memory.retain(|&other| other != message);
                    state.refused.insert(flight.entry.attempt);
                }
            }
        }
        self.append_next(state, node);
    }
}

fn unread(state: &State) -> impl Iterator<Item = (ReadId, &Read)> {
    // One after the other: their order among themselves is of no importance.
    (0_u8..).zip(&state.reads).filter(|(_, read)| **read == Read::NotBegun).take(1)
}

fn acknowledge(state: &mut State, message: MessageId, seq: u8) {
    state.clients[usize::from(message)].acknowledged_as |= set(seq);
}

fn finish_read(state: &mut State, read: ReadId, shown: Set) {
    if let Read::Waiting { must_show } = state.reads[usize::from(read)] {
        state.stale_read |= must_show & !shown != 0;
        state.shown |= shown;
        state.reads[usize::from(read)] = Read::Over;
    }
}

/// The reads that wait at a node fail.
fn drop_reads(state: &mut State, node: NodeId) {
    let Role::Owner(owner) = &state.nodes[usize::from(node)].role else { return };
    let waiting = owner.readers | owner.flight.as_ref().map_or(0, |flight| flight.readers);
    for (number, read) in (0_u8..).zip(&mut state.reads) {
        if has(waiting, number) {
            *read = Read::Over;
        }
    }
}
