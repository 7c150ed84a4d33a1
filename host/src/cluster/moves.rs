//! The moves of slots to this node: those under way, and those that were.

use crate::{
    limits,
    names::SlotId,
    node_types::{MoveInfo, MoveState},
    slot::now_ms,
    telemetry::metrics,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Shared by the coordinator, which begins moves, and those who look at them.
#[derive(Default)]
pub struct Moves(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    running: HashMap<SlotId, Arc<Job>>,
    ended: VecDeque<MoveInfo>,
}

/// One move.
pub struct Job {
    pub slot: SlotId,
    started: Instant,
    info: Mutex<MoveInfo>,
    cancelled: AtomicBool,
}

impl Moves {
    /// Begins a move, unless the slot has one.
    pub fn begin(&self, slot: SlotId, from: Option<&str>, to: &str) -> Option<Arc<Job>> {
        let mut state = self.0.lock();
        if state.running.contains_key(&slot) {
            return None;
        }
        state.next += 1;
        let info = MoveInfo {
            id: state.next,
            slot,
            from: from.map(ToOwned::to_owned),
            to: to.to_owned(),
            state: MoveState::Preparing,
            error: None,
            started_ms: now_ms(),
            elapsed_ms: 0.0,
            pause_ms: None,
        };
        let job = Arc::new(Job {
            slot,
            started: Instant::now(),
            info: Mutex::new(info),
            cancelled: AtomicBool::new(false),
        });
        state.running.insert(slot, job.clone());
        Some(job)
    }

    pub fn end(&self, job: &Job, outcome: &Result<Option<Duration>, String>) {
        let mut info = job.info();
        match outcome {
            Ok(pause) => {
                info.state = MoveState::Done;
                info.pause_ms = pause.map(|pause| pause.as_secs_f64() * 1e3);
                if let Some(pause) = pause {
                    metrics().handoff_pause_seconds.record(*pause);
                }
                match info.from {
                    Some(_) => metrics().handoffs.increment(1),
                    None => metrics().takeovers.increment(1),
                }
            }
            Err(why) => {
                metrics().moves_failed.increment(1);
                info.error = Some(why.clone());
                info.state = match job.is_cancelled() {
                    true => MoveState::Cancelled,
                    false => MoveState::Failed,
                };
            }
        }
        let mut state = self.0.lock();
        state.running.remove(&job.slot);
        state.ended.push_back(info);
        if state.ended.len() > limits::MOVES_KEPT {
            state.ended.pop_front();
        }
    }

    pub fn is_running(&self, slot: SlotId) -> bool {
        self.0.lock().running.contains_key(&slot)
    }

    /// Takeovers and handoffs that are under way.
    pub fn running(&self) -> (usize, usize) {
        let state = self.0.lock();
        let handoffs = state.running.values().filter(|job| job.info.lock().from.is_some()).count();
        (state.running.len() - handoffs, handoffs)
    }

    /// Those under way, then those that were, the latest first.
    pub fn list(&self) -> Vec<MoveInfo> {
        let state = self.0.lock();
        let mut running: Vec<_> = state.running.values().map(|job| job.info()).collect();
        running.sort_by_key(|info| info.id);
        running.extend(state.ended.iter().rev().cloned());
        running
    }

    /// Whether there was such a move, that had not come too far.
    pub fn cancel(&self, id: u64) -> bool {
        let state = self.0.lock();
        let job = state.running.values().find(|job| job.info.lock().id == id);
        job.is_some_and(|job| {
            let early = job.info.lock().state == MoveState::Preparing;
            if early {
                job.cancelled.store(true, Ordering::Relaxed);
            }
            early
        })
    }
}

impl Job {
    pub fn info(&self) -> MoveInfo {
        let mut info = self.info.lock().clone();
        info.elapsed_ms = self.started.elapsed().as_secs_f64() * 1e3;
        info
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Goes on to the next step.
    ///
    /// # Errors
    /// It was cancelled before.
    pub fn step(&self, state: MoveState) -> Result<(), String> {
        let mut info = self.info.lock();
        if self.is_cancelled() {
            return Err("cancelled".into());
        }
        info.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_types::{MoveCounts, MovesInfo};

    /// Without it a slot could be cancelled while its old owner has given it up already, and a
    /// cancelled move could go on.
    #[test]
    fn a_move_is_cancelled_early_or_not_at_all() {
        let moves = Moves::default();
        let job = moves.begin(7, Some("a"), "b").unwrap();
        assert!(moves.begin(7, Some("a"), "b").is_none(), "one move of a slot at a time");
        let id = job.info().id;
        assert!(!moves.cancel(id + 1));
        assert!(moves.cancel(id));
        assert!(job.step(MoveState::Sealing).is_err());
        moves.end(&job, &Err("cancelled".into()));
        assert_eq!(moves.list()[0].state, MoveState::Cancelled);

        let job = moves.begin(7, Some("a"), "b").unwrap();
        job.step(MoveState::Sealing).unwrap();
        assert!(!moves.cancel(job.info().id), "the old owner was asked to give it away");
        moves.end(&job, &Ok(Some(Duration::from_millis(3))));
        assert!(!moves.cancel(job.info().id), "it is over");
        let states: Vec<_> = moves.list().iter().map(|info| info.state).collect();
        assert_eq!(states, [MoveState::Done, MoveState::Cancelled], "the latest first");
    }

    /// Without it an operator would not find what is under way among what is over, or would see
    /// one node's moves only.
    #[test]
    fn moves_of_all_nodes_are_shown_together() {
        let info = |to: &str, id, slot, state, started_ms| MoveInfo {
            id,
            slot,
            from: Some("c".into()),
            to: to.into(),
            state,
            error: None,
            started_ms,
            elapsed_ms: 50.0,
            pause_ms: None,
        };
        let told = vec![
            info("a", 1, 9, MoveState::Done, 1_000),
            info("b", 1, 8, MoveState::Failed, 3_000),
            info("b", 2, 5, MoveState::Sealing, 4_000),
            info("a", 2, 3, MoveState::Preparing, 5_000),
            info("a", 3, 2, MoveState::Done, 2_000),
        ];
        let shown = MovesInfo::new(told, Vec::new(), 2);
        let order: Vec<_> = shown.moves.iter().map(|info| info.slot).collect();
        assert_eq!(order, [3, 5, 8, 2], "under way by slot, then the latest two");
        let counts = MoveCounts { preparing: 1, sealing: 1, done: 2, failed: 1, ..shown.counts };
        assert_eq!((shown.counts, shown.counts.running()), (counts, 2), "of all, shown or not");
    }
}
