//! This node's part of the gates that are under way: of its own slots, one stage at a time.

use super::*;
use crate::{
    cluster::control::{GateAsk, GateJob},
    gate::{self, Part},
    gate_report::{GateShare, Stage, StageResult, Standing},
    replay_engine::Version,
    state::rows::WholeSlots,
};

/// The parts of a node, the latest last.
#[derive(Default)]
pub(super) struct LocalParts(Mutex<VecDeque<Arc<LocalPart>>>);

/// Of one stage of a gate, and one round of it.
pub(super) struct LocalPart {
    ask: GateAsk,
    node: String,
    slots: u32,
    begun: Instant,
    state: Mutex<State>,
}

enum State {
    /// The component is being fetched or compiled.
    Loading,
    Runs(Arc<Part>),
    /// It could not begin. What its slots have, nobody has seen.
    Failed(String),
    Cancelled,
}

impl LocalPart {
    pub(super) fn share(&self) -> GateShare {
        let share = |standing, why: Option<&str>| {
            let mut result = StageResult { standing, ..StageResult::new(self.ask.stage) };
            result.elapsed_ms = self.begun.elapsed().as_millis() as u64;
            if let Some(why) = why {
                result.add_unseen(why, "");
            }
            GateShare {
                node: self.node.clone(),
                result,
                done: Vec::new(),
                slots_of: self.slots,
                under_way: 0,
            }
        };
        match &*self.state.lock() {
            State::Loading => share(Standing::Running, None),
            State::Runs(part) => part.share(),
            State::Failed(why) => share(Standing::Passed, Some(why)),
            State::Cancelled => share(Standing::Passed, Some("it was ended")),
        }
    }

    fn is_over(&self) -> bool {
        self.share().result.standing.is_over()
    }

    fn cancel(&self) {
        let before = std::mem::replace(&mut *self.state.lock(), State::Cancelled);
        if let State::Runs(part) = before {
            part.cancel();
        }
    }

    /// It runs, unless it was ended meanwhile.
    fn runs(&self, begun: Result<Arc<Part>, Error>) {
        let mut state = self.state.lock();
        match (&*state, begun) {
            (State::Loading, Ok(part)) => {
                let stage = self.ask.stage.as_str();
                tracing::debug!(service = %self.ask.service, gate = %part.id, stage, "does its part");
                *state = State::Runs(part);
            }
            (State::Loading, Err(why)) => {
                tracing::warn!(service = %self.ask.service, error = %why, "can't do this node's \
                    part of a gate");
                *state = State::Failed(format!("node {}: {}", self.node, why.detail));
            }
            (_, Ok(part)) => part.cancel(),
            (_, Err(_)) => {}
        }
    }
}

impl LocalParts {
    fn get(&self, ask: &GateAsk) -> Option<Arc<LocalPart>> {
        self.0.lock().iter().find(|part| part.ask == *ask).cloned()
    }

    /// One of a service runs at a time: a new one ends those before it.
    fn add(&self, part: Arc<LocalPart>) {
        let mut parts = self.0.lock();
        for other in parts.iter().filter(|other| other.ask.service == part.ask.service) {
            other.cancel();
        }
        parts.retain(|other| other.ask.service != part.ask.service);
        parts.push_back(part);
    }

    pub(super) fn stop(&self) {
        self.0.lock().iter().for_each(|part| part.cancel());
    }

    /// Ends those of gates that have ended, and forgets those that are over for long.
    pub(super) fn tidy(&self, store: &GateStore) {
        self.0.lock().retain(|part| {
            let known = store.get(&part.ask.service);
            let age = part.begun.elapsed();
            let is_void = match &known {
                Some(known) if known.record.id == part.ask.id => known.record.phase.has_ended(),
                // This node's view may be a little behind.
                _ => age > limits::GATE_LEASE,
            };
            if is_void && !part.is_over() {
                part.cancel();
            }
            !is_void || age < limits::GATE_LEASE
        });
    }
}

impl Node {
    /// How far this node's part is, which is begun if there is a job. `None`: it is not known here.
    pub(in crate::node) fn gate_part(
        &self,
        ask: &GateAsk,
        job: Option<GateJob>,
    ) -> Option<GateShare> {
        let parts = &self.gates.parts;
        match (parts.get(ask), job) {
            (Some(part), _) => Some(part.share()),
            (None, None) => None,
            (None, Some(job)) => Some(self.begin_gate_part(ask.clone(), job).share()),
        }
    }

    fn begin_gate_part(&self, ask: GateAsk, job: GateJob) -> Arc<LocalPart> {
        let mut slots: Vec<SlotId> = match &self.cluster {
            _ if !ask.stage.is_of_sessions() => Vec::new(),
            Some(cluster) => cluster.here().collect(),
            None => (0..self.router.slot_count()).collect(),
        };
        slots.retain(|slot| job.done.binary_search(slot).is_err());
        let part = Arc::new(LocalPart {
            ask,
            node: self.name.clone(),
            slots: slots.len() as u32,
            begun: crate::clock::now(),
            state: Mutex::new(State::Loading),
        });
        self.gates.parts.add(part.clone());
        let (router, context) = (self.router.clone(), self.context.clone());
        let store: Arc<dyn WholeSlots> = self.data_dir.state();
        let (threads, running) = (self.audits.threads.clone(), part.clone());
        crate::task::spawn("a part of a gate", async move {
            let begin = async {
                job.spec.check()?;
                let digest = job.candidate.digest;
                let plugin = context.plugins.load(digest).await;
                let plugin = plugin.map_err(|why| {
                    let why = format!("{} can't be run: {why}", job.candidate.label);
                    Error::new(Code::PluginUnavailable, why)
                })?;
                // Later stages are on what the first one has seen.
                if running.ask.stage == Stage::Migrate && running.ask.round == 0 {
                    session_check::flush(&router, &slots).await;
                }
                let Deployment { id, version, label, same_state, .. } = job.candidate;
                let first = job.remembered.into_iter().filter_map(|known| {
                    let session = SessionId::parse(&known.session).ok()?;
                    let key = SessionKey { service: running.ask.service.clone(), session };
                    let slot = router.slot_of(&key);
                    slots.contains(&slot).then_some((slot, key.session))
                });
                let parts = gate::Parts {
                    first: first.collect(),
                    node: running.node.clone(),
                    service: running.ask.service.clone(),
                    catalogue: context.catalogue.clone(),
                    plugins: context.plugins.clone(),
                    store,
                    slots,
                    sessions_of_all: job.sessions_of_all,
                    threads,
                    current: job.current,
                    candidate: Version { id, plugin, version, label, same_state },
                    stage: running.ask.stage,
                    before: None,
                };
                Ok(Part::start(running.ask.id.clone(), job.spec, parts))
            };
            running.runs(begin.await);
        });
        part
    }
}
