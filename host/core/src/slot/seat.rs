//! What a node knows of one slot, and what each event makes of it. Pure: no clock, no channel, no
//! await. [`SharedSeat`](super::seated::SharedSeat) shares it and wakes who waits.
//!
//! Nothing else changes where a slot is or what its task is about. An event names the task, the seal
//! or the term that it is about; one of an older task, seal or term changes nothing. What a peer says
//! is kept (`owner`, `term`) if it is not older than what is known.
//!
//! | in | event | next | outcome |
//! |---|---|---|---|
//! | vacant, failed, stopping | [`Open`](SeatEvent::Open) | opening, by a new task | [`Spawn`](Outcome::Spawn) |
//! | serving | `Open` | serving | [`Here`](Outcome::Here) |
//! | opening | `Open` | opening | [`Opening`](Outcome::Opening) |
//! | sealing, sealed | `Open` | the same | [`Moving`](Outcome::Moving) |
//! | opening | [`Opened`](SeatEvent::Opened) | serving | `Changed` |
//! | opening, and another has said that it owns a later term | `Opened` | opening | [`Overtaken`](Outcome::Overtaken) |
//! | opening, serving | [`Stopping`](SeatEvent::Stopping) | stopping | `Changed` |
//! | sealing | `Stopping` | sealed | `Changed` |
//! | opening, or stopping before it served | [`Ended`](SeatEvent::Ended) | vacant | `Changed` |
//! | serving, stopping | `Ended` in order | vacant | `Changed` |
//! | sealing, sealed | `Ended` in order | sealed, without a task | `Changed` |
//! | serving, sealing, sealed, stopping | `Ended` by a failure | failed; vacant on a node that stands alone | [`Failed`](Outcome::Failed) |
//! | failed | [`Noted`](SeatEvent::Noted) | vacant | `Changed` |
//! | serving | [`Seal`](SeatEvent::Seal) | sealing | [`Sealed`](Outcome::Sealed) |
//! | sealing | [`SealRefused`](SeatEvent::SealRefused) | serving | `Changed` |
//! | sealing, sealed | [`Unseal`](SeatEvent::Unseal) | stopping while it has a task, else vacant | `Changed` |
//! | serving | [`Owns`](SeatEvent::Owns), of a later term | serving | [`Abandon`](Outcome::Abandon) |
//! | sealing | `Owns`, of a later term | stopping | `Changed` |
//! | sealed | `Owns`, of a later term | vacant | `Changed` |
//! | opening, vacant, failed, stopping | `Owns`, [`Denied`](SeatEvent::Denied) | the same; what is known changes | `Changed` |
//!
//! All else changes nothing. The last four events are of a cluster only.

use crate::log::Term;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Numbers the tasks of a slot: a later one is greater.
pub type TaskId = u64;
/// Numbers the times that a slot is given away.
pub type SealId = u64;

/// What a node knows of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    phase: SeatPhase,
    /// Who has it while it is not here, as far as is known.
    owner: Option<Arc<str>>,
    /// The latest term that is known; never goes back.
    term: Term,
    /// It was here until its log fell silent, and nothing was heard since: the store has all that
    /// was acknowledged.
    copy: bool,
    /// The last number that a task or a seal was given.
    last: u64,
    /// On a node that stands alone a slot is nowhere else.
    alone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatPhase {
    /// Nobody has it here. `flushed`: the store has all of it, unless another node wrote.
    Vacant {
        flushed: bool,
    },
    /// Its task waits for the one before, claims it, and catches up. `claimed`: the latest term
    /// under which another node has meanwhile reported to own it.
    Opening {
        task: TaskId,
        claimed: Term,
    },
    Serving {
        task: TaskId,
        term: Term,
    },
    /// It is to be given away, and its task has not stopped yet: requests wait.
    Sealing {
        task: TaskId,
        term: Term,
        seal: SealId,
    },
    /// It takes no more mail and waits for its next owner; it may flush yet. `None`: its task has
    /// ended.
    Sealed {
        task: Option<TaskId>,
        term: Term,
        seal: SealId,
    },
    /// Its task takes no more mail and is to end. `served`: it was open.
    Stopping {
        task: TaskId,
        served: bool,
    },
    /// Its task has ended by itself, and whoever decides when to try again has not noted that.
    Failed {
        task: TaskId,
    },
}

/// Where a slot is, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This node owns it, as far as the log has told it.
    Here,
    /// It is being given away: requests wait.
    Moving,
    /// Another node's. Who that is and under what term may not be known.
    Away { owner: Option<Arc<str>>, term: Term },
}

impl Place {
    pub const UNKNOWN: Self = Self::Away { owner: None, term: 0 };
}

#[derive(Clone, Copy, Debug)]
pub enum SeatEvent<'a> {
    /// It is to be opened here.
    Open,
    /// The task has claimed it.
    Opened { task: TaskId, term: Term },
    /// The task takes no more mail, or is just about to.
    Stopping { task: TaskId },
    /// The task is over.
    Ended { task: TaskId, end: TaskEnd },
    /// It is decided when the slot that failed is tried again.
    Noted { task: TaskId },
    /// Give it away: its task is asked to release it.
    Seal,
    /// The task does not release it, and goes on.
    SealRefused { seal: SealId },
    /// It could not be released, or nobody has taken it in time.
    Unseal { seal: SealId },
    /// A node says that it owns it itself.
    Owns { peer: &'a Arc<str>, term: Term },
    /// `by` says that it does not own it, and perhaps who does.
    Denied { by: &'a Arc<str>, owner: Option<&'a Arc<str>>, term: Term },
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// As it was asked to.
    InOrder,
    /// By itself. `silent`: because its log gave no answer.
    Failed { silent: bool },
}

/// What an event has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: it came too late, or says what is known.
    Nothing,
    Changed,
    /// Start this task.
    Spawn(TaskId),
    /// It is here already.
    Here(Term),
    /// It can't be opened yet: an opening that was given up has not finished.
    Opening,
    /// It can't be opened yet: it is being given away.
    Moving,
    /// Another node has claimed it since, under this term: end.
    Overtaken(Term),
    /// Ask the task to release it.
    Sealed(SealId),
    /// Tell the task to end: another node has it.
    Abandon,
    /// Note it, decide when to try again, and say so ([`SeatEvent::Noted`]).
    Failed,
}

impl Seat {
    pub fn new(alone: bool) -> Self {
        let phase = SeatPhase::Vacant { flushed: true };
        Self { phase, owner: None, term: 0, copy: false, last: 0, alone }
    }

    pub fn phase(&self) -> SeatPhase {
        self.phase
    }

    pub fn place(&self) -> Place {
        match self.phase {
            _ if self.alone => Place::Here,
            SeatPhase::Serving { .. } => Place::Here,
            SeatPhase::Sealing { .. } | SeatPhase::Sealed { .. } => Place::Moving,
            SeatPhase::Vacant { .. }
            | SeatPhase::Opening { .. }
            | SeatPhase::Stopping { .. }
            | SeatPhase::Failed { .. } => {
                Place::Away { owner: self.owner.clone(), term: self.term }
            }
        }
    }

    /// The task that takes mail and orders.
    pub fn task(&self) -> Option<TaskId> {
        match self.phase {
            SeatPhase::Opening { task, .. }
            | SeatPhase::Serving { task, .. }
            | SeatPhase::Sealing { task, .. } => Some(task),
            _ => None,
        }
    }

    /// The term under which it is here.
    pub fn serves(&self) -> Option<Term> {
        match self.phase {
            SeatPhase::Serving { term, .. } => Some(term),
            _ => None,
        }
    }

    /// The term under which the node has the slot, also while it gives it away.
    pub fn held(&self) -> Option<Term> {
        match self.phase {
            SeatPhase::Serving { term, .. }
            | SeatPhase::Sealing { term, .. }
            | SeatPhase::Sealed { term, .. } => Some(term),
            _ => None,
        }
    }

    /// No task has it, and the store has all of it. Never so in a cluster, where the store may not
    /// have what another node wrote.
    pub fn rests(&self) -> bool {
        self.alone && self.phase == SeatPhase::Vacant { flushed: true }
    }

    /// Reads that may be stale can be answered by the store.
    pub fn has_copy(&self) -> bool {
        self.copy && self.owner.is_none()
    }

    pub fn on(&mut self, event: SeatEvent<'_>) -> Outcome {
        match event {
            SeatEvent::Open => self.open(),
            SeatEvent::Opened { task, term } => self.opened(task, term),
            SeatEvent::Stopping { task } => self.stopping(task),
            SeatEvent::Ended { task, end } => self.ended(task, end),
            SeatEvent::Noted { task } if self.phase == SeatPhase::Failed { task } => {
                self.turn(SeatPhase::Vacant { flushed: false })
            }
            SeatEvent::Seal if !self.alone => self.seal(),
            SeatEvent::SealRefused { seal } => self.seal_refused(seal),
            SeatEvent::Unseal { seal } => self.unseal(seal),
            SeatEvent::Owns { peer, term } if !self.alone => self.owns(peer, term),
            SeatEvent::Denied { by, owner, term } if !self.alone => self.denied(by, owner, term),
            _ => Outcome::Nothing,
        }
    }

    fn turn(&mut self, phase: SeatPhase) -> Outcome {
        self.phase = phase;
        Outcome::Changed
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    // ---- its task ------------------------------------------------------------------------------

    fn open(&mut self) -> Outcome {
        match self.phase {
            SeatPhase::Vacant { .. } | SeatPhase::Failed { .. } | SeatPhase::Stopping { .. } => {
                let task = self.number();
                self.phase = SeatPhase::Opening { task, claimed: 0 };
                Outcome::Spawn(task)
            }
            SeatPhase::Serving { term, .. } => Outcome::Here(term),
            SeatPhase::Opening { .. } => Outcome::Opening,
            SeatPhase::Sealing { .. } | SeatPhase::Sealed { .. } => Outcome::Moving,
        }
    }

    fn opened(&mut self, task: TaskId, term: Term) -> Outcome {
        match self.phase {
            SeatPhase::Opening { task: current, claimed } if current == task => {
                if claimed > term {
                    return Outcome::Overtaken(claimed);
                }
                // The log's word is not kept from counting by an older one of a peer.
                if term >= self.term {
                    (self.owner, self.term) = (None, term);
                }
                self.copy = false;
                self.turn(SeatPhase::Serving { task, term })
            }
            _ => Outcome::Nothing,
        }
    }

    fn stopping(&mut self, task: TaskId) -> Outcome {
        match self.phase {
            SeatPhase::Opening { task: current, .. } if current == task => {
                self.turn(SeatPhase::Stopping { task, served: false })
            }
            SeatPhase::Serving { task: current, .. } if current == task => {
                self.turn(SeatPhase::Stopping { task, served: true })
            }
            SeatPhase::Sealing { task: current, term, seal } if current == task => {
                self.turn(SeatPhase::Sealed { task: Some(task), term, seal })
            }
            _ => Outcome::Nothing,
        }
    }

    fn ended(&mut self, task: TaskId, end: TaskEnd) -> Outcome {
        let (current, served) = match self.phase {
            SeatPhase::Opening { task, .. } => (Some(task), false),
            SeatPhase::Serving { task, .. } | SeatPhase::Sealing { task, .. } => (Some(task), true),
            SeatPhase::Sealed { task, .. } => (task, true),
            SeatPhase::Stopping { task, served } => (Some(task), served),
            SeatPhase::Vacant { .. } | SeatPhase::Failed { .. } => (None, false),
        };
        if current != Some(task) {
            return Outcome::Nothing;
        }
        match (end, self.phase) {
            (
                TaskEnd::InOrder,
                SeatPhase::Sealing { term, seal, .. } | SeatPhase::Sealed { term, seal, .. },
            ) => self.turn(SeatPhase::Sealed { task: None, term, seal }),
            (TaskEnd::InOrder, _) => self.turn(SeatPhase::Vacant { flushed: true }),
            (TaskEnd::Failed { .. }, _) if !served => {
                self.turn(SeatPhase::Vacant { flushed: false })
            }
            (TaskEnd::Failed { silent }, _) => {
                self.copy = silent && self.owner.is_none();
                self.phase = match self.alone {
                    true => SeatPhase::Vacant { flushed: false },
                    false => SeatPhase::Failed { task },
                };
                Outcome::Failed
            }
        }
    }

    // ---- giving it away ------------------------------------------------------------------------

    fn seal(&mut self) -> Outcome {
        let SeatPhase::Serving { task, term } = self.phase else { return Outcome::Nothing };
        let seal = self.number();
        self.phase = SeatPhase::Sealing { task, term, seal };
        Outcome::Sealed(seal)
    }

    fn seal_refused(&mut self, seal: SealId) -> Outcome {
        match self.phase {
            SeatPhase::Sealing { task, term, seal: current } if current == seal => {
                self.turn(SeatPhase::Serving { task, term })
            }
            _ => Outcome::Nothing,
        }
    }

    fn unseal(&mut self, seal: SealId) -> Outcome {
        let task = match self.phase {
            SeatPhase::Sealing { task, seal: current, .. } if current == seal => Some(task),
            SeatPhase::Sealed { task, seal: current, .. } if current == seal => task,
            _ => return Outcome::Nothing,
        };
        self.turn(match task {
            Some(task) => SeatPhase::Stopping { task, served: true },
            None => SeatPhase::Vacant { flushed: false },
        })
    }

    // ---- what peers say ------------------------------------------------------------------------

    fn owns(&mut self, peer: &Arc<str>, term: Term) -> Outcome {
        if term < self.term {
            return Outcome::Nothing;
        }
        match &mut self.phase {
            SeatPhase::Serving { term: own, .. }
            | SeatPhase::Sealing { term: own, .. }
            | SeatPhase::Sealed { term: own, .. }
                if term <= *own =>
            {
                Outcome::Nothing
            }
            SeatPhase::Serving { .. } => {
                self.know(Some(peer), term);
                Outcome::Abandon
            }
            SeatPhase::Sealing { task, .. } => {
                let task = *task;
                self.know(Some(peer), term);
                self.turn(SeatPhase::Stopping { task, served: true })
            }
            SeatPhase::Sealed { .. } => {
                self.know(Some(peer), term);
                self.turn(SeatPhase::Vacant { flushed: false })
            }
            SeatPhase::Opening { claimed, .. } => {
                let later = term > *claimed;
                *claimed = term.max(*claimed);
                match self.know(Some(peer), term) {
                    Outcome::Nothing if later => Outcome::Changed,
                    known => known,
                }
            }
            SeatPhase::Vacant { .. } | SeatPhase::Failed { .. } | SeatPhase::Stopping { .. } => {
                self.know(Some(peer), term)
            }
        }
    }

    /// Whoever was thought to be the owner because of an older word is not, if it says so itself.
    fn denied(&mut self, by: &Arc<str>, owner: Option<&Arc<str>>, term: Term) -> Outcome {
        match self.phase {
            SeatPhase::Serving { .. } | SeatPhase::Sealing { .. } | SeatPhase::Sealed { .. } => {
                Outcome::Nothing
            }
            // That it knows nobody says nothing of whom this node knows.
            _ if term == self.term && owner.is_none() && self.owner.as_ref() != Some(by) => {
                Outcome::Nothing
            }
            _ if term >= self.term => self.know(owner, term),
            _ if self.owner.as_ref() == Some(by) => self.know(None, self.term),
            _ => Outcome::Nothing,
        }
    }

    fn know(&mut self, owner: Option<&Arc<str>>, term: Term) -> Outcome {
        if self.owner.as_ref() == owner && self.term == term {
            return Outcome::Nothing;
        }
        (self.owner, self.term, self.copy) = (owner.cloned(), term, false);
        Outcome::Changed
    }
}
