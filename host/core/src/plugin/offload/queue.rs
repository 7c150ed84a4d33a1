//! Whose turn it is: services in turn, and the calls of a service in turn.

use super::job::{Job, Status};
use crate::names::ServiceName;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Whose calls take turns with those of others.
pub(super) type Owner = Option<ServiceName>;

#[derive(Default)]
pub(super) struct Queue {
    /// Calls of one service that go on in turn.
    pub(super) begun_max: usize,
    pub(super) services: HashMap<Owner, Line>,
    /// Services that have something to run, in turn.
    pub(super) turns: VecDeque<Owner>,
    /// What has to end: takes no time.
    pub(super) urgent: VecDeque<Arc<Job>>,
    pub(super) calls: usize,
    pub(super) next: u64,
    pub(super) threads: usize,
    pub(super) idle: usize,
    pub(super) closed: bool,
}

/// The calls of one service.
#[derive(Default)]
pub(super) struct Line {
    /// Begun, and ready to go on, in turn.
    pub(super) ready: VecDeque<Arc<Job>>,
    /// Not begun, by cost and arrival.
    pub(super) waiting: BTreeMap<(Duration, u64), Arc<Job>>,
    pub(super) begun: usize,
    /// The last one that ran was new.
    pub(super) began: bool,
    /// In [`Queue::turns`].
    pub(super) in_turn: bool,
}

impl Queue {
    /// A call that has begun can go on: in its turn, or at once to its end.
    pub(super) fn goes_on(&mut self, job: &Arc<Job>) {
        if job.hurried.load(Ordering::Relaxed) {
            self.urgent.push_back(job.clone());
            return;
        }
        let line = self.services.entry(job.service.clone()).or_default();
        line.ready.push_back(job.clone());
        self.line_up(&job.service);
    }

    /// Gives a service its turn, if it has something to run.
    pub(super) fn line_up(&mut self, service: &Owner) {
        let Some(line) = self.services.get_mut(service) else { return };
        if line.in_turn {
            return;
        }
        if line.can_run(self.begun_max) {
            line.in_turn = true;
            self.turns.push_back(service.clone());
        } else if line.begun == 0 && line.waiting.is_empty() {
            self.services.remove(service);
        }
    }

    pub(super) fn next_job(&mut self) -> Option<Arc<Job>> {
        if let Some(job) = self.urgent.pop_front() {
            *job.status.lock() = Status::Running { woken: false };
            return Some(job);
        }
        while let Some(service) = self.turns.pop_front() {
            let Some(line) = self.services.get_mut(&service) else { continue };
            line.in_turn = false;
            let job = line.next_job(self.begun_max);
            self.line_up(&service);
            if let Some(job) = job {
                *job.status.lock() = Status::Running { woken: false };
                return Some(job);
            }
        }
        None
    }
}

impl Line {
    fn can_begin(&self, begun_max: usize) -> bool {
        self.begun < begun_max && !self.waiting.is_empty()
    }

    fn can_run(&self, begun_max: usize) -> bool {
        !self.ready.is_empty() || self.can_begin(begun_max)
    }

    /// New ones first, as most end in their first slice here; every second turn is for those that go
    /// on, or new ones could keep them from it for ever.
    pub(super) fn next_job(&mut self, begun_max: usize) -> Option<Arc<Job>> {
        let is_theirs = self.began && !self.ready.is_empty();
        self.began = self.can_begin(begun_max) && !is_theirs;
        if !self.began {
            return self.ready.pop_front();
        }
        let (_, job) = self.waiting.pop_first()?;
        self.begun += 1;
        Some(job)
    }
}
