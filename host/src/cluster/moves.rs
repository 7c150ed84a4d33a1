//! The moves of slots to this node, running and ended.

use crate::{
    cluster::reports::{MoveInfo, MoveState},
    limits,
    names::SlotId,
    telemetry::metrics,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Shared by the coordinator, which begins moves, and those who look at them.
#[derive(Default)]
pub struct Moves(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    running: HashMap<SlotId, Arc<Job>>,
    ended: VecDeque<MoveInfo>,
    /// Where a slot stays because its move was cancelled, and in what view that was.
    kept: HashMap<SlotId, (Arc<str>, u64)>,
}

/// One move.
pub struct Job {
    pub slot: SlotId,
    started: Instant,
    info: Mutex<MoveInfo>,
    cancelled: watch::Sender<bool>,
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
            started_ms: crate::clock::now_ms(),
            elapsed_ms: 0.0,
            pause_ms: None,
        };
        let job = Arc::new(Job {
            slot,
            started: crate::clock::now(),
            info: Mutex::new(info),
            cancelled: watch::Sender::new(false),
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

    /// Whether there was such a move, that had not come too far. Its slot is [`Self::kept`] from
    /// then on, unless nobody has it.
    pub fn cancel(&self, id: u64, view: u64) -> bool {
        let mut state = self.0.lock();
        let job = state.running.values().find(|job| job.info.lock().id == id).cloned();
        let Some(job) = job else { return false };
        let info = job.info.lock();
        if info.state != MoveState::Preparing {
            return false;
        }
        job.cancelled.send_replace(true);
        state.kept.retain(|_, (_, at)| *at == view);
        if let Some(from) = &info.from {
            state.kept.insert(job.slot, (from.as_str().into(), view));
        }
        true
    }

    /// The node from which a move of the slot was cancelled in this view.
    pub fn kept(&self, slot: SlotId, view: u64) -> Option<Arc<str>> {
        let state = self.0.lock();
        let (from, at) = state.kept.get(&slot)?;
        (*at == view).then(|| from.clone())
    }

    /// Forgets that moves of a slot (`None`: of all) were cancelled.
    pub fn retry(&self, slot: Option<SlotId>) {
        let mut state = self.0.lock();
        match slot {
            Some(slot) => drop(state.kept.remove(&slot)),
            None => state.kept.clear(),
        }
    }
}

impl Job {
    pub fn info(&self) -> MoveInfo {
        let mut info = self.info.lock().clone();
        info.elapsed_ms = self.started.elapsed().as_secs_f64() * 1e3;
        info
    }

    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Resolves when it is.
    pub async fn cancelled(&self) {
        // Its sender is `self`.
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
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
    use crate::cluster::reports::{MoveCounts, MovesInfo};

    /// Without it a slot could be cancelled while its old owner has given it up already, and a
    /// cancelled move could go on.
    #[test]
    fn a_move_is_cancelled_early_or_not_at_all() {
        let moves = Moves::default();
        let job = moves.begin(7, Some("a"), "b").unwrap();
        assert!(moves.begin(7, Some("a"), "b").is_none(), "one move of a slot at a time");
        let id = job.info().id;
        assert!(!moves.cancel(id + 1, 1));
        assert!(moves.cancel(id, 1));
        assert!(job.step(MoveState::Sealing).is_err());
        moves.end(&job, &Err("cancelled".into()));
        assert_eq!(moves.list()[0].state, MoveState::Cancelled);

        let job = moves.begin(7, Some("a"), "b").unwrap();
        job.step(MoveState::Sealing).unwrap();
        assert!(!moves.cancel(job.info().id, 1), "the old owner was asked to give it away");
        moves.end(&job, &Ok(Some(Duration::from_millis(3))));
        assert!(!moves.cancel(job.info().id, 1), "it is over");
        let states: Vec<_> = moves.list().iter().map(|info| info.state).collect();
        assert_eq!(states, [MoveState::Done, MoveState::Cancelled], "the latest first");
    }

    /// A slot would stay where it is for ever, or a slot that nobody serves would stay so.
    #[test]
    fn a_slot_is_kept_until_the_view_or_an_operator_says_otherwise() {
        let moves = Moves::default();
        let cancel = |slot, from, view| {
            let job = moves.begin(slot, from, "b").unwrap();
            assert!(moves.cancel(job.info().id, view));
            moves.end(&job, &Err("cancelled".into()));
        };
        cancel(7, Some("a"), 1);
        cancel(8, Some("a"), 1);
        assert_eq!(moves.kept(7, 1).as_deref(), Some("a"));
        assert_eq!(moves.kept(7, 2), None, "another view");
        moves.retry(Some(7));
        assert_eq!((moves.kept(7, 1), moves.kept(8, 1).as_deref()), (None, Some("a")));
        cancel(7, Some("c"), 1);
        moves.retry(None);
        assert_eq!((moves.kept(7, 1), moves.kept(8, 1)), (None, None));
        cancel(9, None, 1);
        assert_eq!(moves.kept(9, 1), None, "a take-over");
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
        let moves = vec![
            info("a", 1, 9, MoveState::Done, 1_000),
            info("b", 1, 8, MoveState::Failed, 3_000),
            info("b", 2, 5, MoveState::Sealing, 4_000),
            info("a", 2, 3, MoveState::Preparing, 5_000),
            info("a", 3, 2, MoveState::Done, 2_000),
        ];
        let shown = MovesInfo::new(moves, Vec::new(), 2);
        let order: Vec<_> = shown.moves.iter().map(|info| info.slot).collect();
        assert_eq!(order, [3, 5, 8, 2], "under way by slot, then the latest two");
        let counts = MoveCounts { preparing: 1, sealing: 1, done: 2, failed: 1, ..shown.counts };
        assert_eq!((shown.counts, shown.counts.running()), (counts, 2), "of all, shown or not");
    }
}
