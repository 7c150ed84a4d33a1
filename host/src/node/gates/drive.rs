//! The node that drives a gate: from stage to stage, and in the end to the switch.

use super::*;
use crate::{
    audit,
    cluster::control::{GateAsk, GateJob},
    gate_report::{GateRecord, GateShare, Phase, Reason, Stage, Standing, report::add_reason},
    registry::GatePut,
};

/// Another node drives it now, or it is another gate.
pub(super) struct Gone;

pub(super) struct Driver {
    node: Arc<Node>,
    kept: KeptGate,
    written: Instant,
}

/// A node that does its part.
struct Peer {
    share: Option<GateShare>,
    heard: Instant,
    /// Nothing more comes of it in this round.
    is_over: bool,
}

impl Driver {
    pub(super) fn new(node: Arc<Node>, kept: KeptGate) -> Self {
        Self { node, kept, written: crate::clock::now() }
    }

    /// Goes on until it has ended, or another node drives it.
    pub(super) async fn run(mut self) {
        loop {
            let step = match self.kept.record.phase.clone() {
                Phase::Running { stage } => self.stage(stage).await,
                Phase::Confirming => self.confirming().await,
                Phase::Switching => self.switching().await,
                _ => break,
            };
            if let Err(Gone) = step {
                let service = &self.kept.record.service;
                tracing::debug!(%service, "another node goes on with a gate");
                return;
            }
        }
        self.node.gates.parts.tidy(&self.node.gates.store);
        self.report().await;
    }

    /// For whoever reads what was changed: the request that began it may have been answered long before.
    async fn note(&self) {
        let record = &self.kept.record;
        let (event, why) = match &record.phase {
            Phase::Deployed { .. } => ("gate-deployed", None),
            Phase::Stopped { why, .. } => ("gate-stopped", Some(why)),
            _ => return,
        };
        let mut change = audit::Change::event(event);
        change.subject.insert("service".into(), record.service.to_string());
        change.before.insert("deployment".into(), (&*record.from).into());
        change.after.insert("deployment".into(), (&*record.candidate.label).into());
        change.after.insert("digest".into(), record.candidate.digest.to_string().into());
        change.after.insert("gate".into(), record.id.as_str().into());
        if let Some(by) = &record.by {
            change.after.insert("by".into(), (&**by).into());
        }
        if let Some(why) = why {
            change.after.insert("why".into(), why.as_str().into());
        }
        self.node.audit.note(change).await;
    }

    async fn report(&self) {
        self.note().await;
        let record = &self.kept.record;
        let (service, to) = (&record.service, &record.candidate.label);
        match &record.phase {
            Phase::Stopped { stage, why } => {
                tracing::warn!(%service, %to, stage = stage.as_str(), why, "the gate has stopped a deploy");
            }
            Phase::Aborted { why } => tracing::info!(%service, %to, why, "a gate was ended"),
            Phase::Deployed { generation } => {
                tracing::info!(%service, %to, generation, "a deploy is through the gate");
                if let Err(error) = self.node.gates.store.keep_report(record).await {
                    tracing::warn!(%service, %error, "the report of a gate was not kept");
                }
            }
            _ => tracing::info!(%service, %to, "a version is through the gate"),
        }
    }

    /// Stores what it is now. `false`: somebody has made something else of it, which was taken in instead.
    async fn write(&mut self, mut record: GateRecord) -> Result<bool, Gone> {
        record.beat = self.kept.record.beat + 1;
        let mut backoff = Backoff::new(limits::SWAP_RETRY_MIN, limits::SWAP_RETRY_MAX);
        loop {
            let store = &self.node.gates.store;
            let found = match store.put(&record, self.kept.revision).await {
                Ok(GatePut::Won(kept)) => {
                    (self.kept, self.written) = (kept, crate::clock::now());
                    return Ok(true);
                }
                Ok(GatePut::Lost(found)) => found,
                // It has more than can be kept. No try would change that.
                Err(error) if error.code == Code::RequestInvalid => {
                    if record.is_shed() {
                        return Err(Gone);
                    }
                    let why = format!("its report can't be kept: {}", error.detail);
                    tracing::warn!(service = %record.service, why, "a gate ends");
                    record = record.shed().ended(Phase::Aborted { why }, now_ms());
                    continue;
                }
                Err(error) => {
                    let service = &record.service;
                    tracing::warn!(%service, %error, "the progress of a gate was not written yet");
                    tokio::time::sleep(backoff.next()).await;
                    // Somebody may have ended it.
                    match self.refresh()? {
                        true => return Ok(false),
                        false => continue,
                    }
                }
            };
            // Somebody has confirmed or ended it; or an answer was lost, and it is this one.
            self.adopt(found.ok_or(Gone)?)?;
            return Ok(*self.kept.record == record);
        }
    }

    fn adopt(&mut self, found: KeptGate) -> Result<(), Gone> {
        let own = &self.kept.record;
        if found.record.id != own.id || found.record.driver != own.driver {
            return Err(Gone);
        }
        self.kept = found;
        Ok(())
    }

    /// Takes in what somebody else has made of it, if anybody has. Gives whether that is so.
    fn refresh(&mut self) -> Result<bool, Gone> {
        let found = self.node.gates.store.get(&self.kept.record.service);
        match found {
            Some(found) if found.revision > self.kept.revision => self.adopt(found).map(|()| true),
            _ => Ok(false),
        }
    }

    async fn pause(&self, time: Duration) {
        let (service, at) = (&self.kept.record.service, self.kept.revision);
        let store = &self.node.gates.store;
        let changed =
            store.until(|store| store.get(service).filter(|found| found.revision > at).map(drop));
        let _ = tokio::time::timeout(time, changed).await;
    }

    /// Why nothing can come of it any more.
    fn void(&self) -> Option<String> {
        let record = &self.kept.record;
        let known = self.node.context.catalogue.get(&record.service);
        let generation = known.map_or(0, |known| known.generation);
        // It may be behind on a node that has just joined.
        (generation > record.generation).then(|| CHANGED.to_owned())
    }

    async fn end(&mut self, phase: Phase) -> Result<(), Gone> {
        let record = (*self.kept.record).clone();
        self.write(record.ended(phase, now_ms())).await.map(drop)
    }

    /// Has all nodes run a stage on the sessions of their slots; again, where slots moved meanwhile.
    async fn stage(&mut self, stage: Stage) -> Result<(), Gone> {
        let began = crate::clock::now();
        let slots = self.node.router.slot_count();
        loop {
            let left = self.kept.record.spec.time().saturating_sub(began.elapsed());
            let Some(shares) = self.round(stage, left.max(TIME_MIN)).await? else { return Ok(()) };
            let mut record = (*self.kept.record).clone();
            let unseen = record.add_round(stage, shares, slots);
            let stops = decide(&mut record, stage) == Standing::Stopped;
            let is_late = began.elapsed() + TIME_MIN >= record.spec.time();
            let goes_on = !unseen.is_empty() && !stops && !is_late;
            if goes_on && record.round < limits::GATE_ROUNDS_MAX {
                let wait = limits::GATE_POLL_MAX * record.round;
                if !self.write(record).await? {
                    return Ok(());
                }
                self.pause(wait).await;
                continue;
            }
            if let Some(before) = record.before.as_mut().filter(|_| goes_on || is_late) {
                add_unseen(before, &unseen);
            }
            let next = match decide(&mut record, stage) {
                Standing::Stopped => {
                    let why = record.report.stopped().and_then(|result| result.why.first());
                    let why = why.map_or_else(String::new, |why| why.why.clone());
                    record.ended(Phase::Stopped { stage, why }, now_ms())
                }
                _ => record.after(stage),
            };
            return self.write(next).await.map(drop);
        }
    }

    /// Gives a stage out once, and waits for all. `None`: the gate is not what it was.
    async fn round(
        &mut self,
        stage: Stage,
        left: Duration,
    ) -> Result<Option<Vec<GateShare>>, Gone> {
        let record = self.kept.record.clone();
        let ask = GateAsk {
            id: record.id.clone(),
            service: record.service.clone(),
            stage,
            round: record.round,
        };
        let job = self.job(&record, left);
        let mut peers = self.peers(stage);
        let mut poll = Backoff::new(limits::GATE_POLL_MIN, limits::GATE_POLL_MAX);
        loop {
            let own = self.node.gate_part(&ask, Some(job.clone()));
            self.ask(&ask, &job, &mut peers).await;
            let is_over = |share: &GateShare| share.result.standing.is_over();
            let all_over = own.as_ref().is_none_or(is_over) && peers.values().all(|p| p.is_over);
            let shares = own.into_iter().chain(peers.values().filter_map(|p| p.share.clone()));
            let shares: Vec<_> = shares.collect();
            if self.refresh()? {
                return Ok(None);
            }
            if let Some(why) = self.void() {
                self.end(Phase::Aborted { why }).await?;
                return Ok(None);
            }
            if all_over {
                return Ok(Some(shares));
            }
            if self.written.elapsed() >= limits::GATE_BEAT {
                let mut progress = (*self.kept.record).clone();
                let spec = progress.spec.clone();
                let shares: Vec<_> = progress.before.iter().cloned().chain(shares).collect();
                progress.report.merge(stage, &spec, &shares);
                if !self.write(progress).await? {
                    return Ok(None);
                }
            }
            self.pause(poll.next()).await;
        }
    }

    fn job(&self, record: &GateRecord, left: Duration) -> GateJob {
        let sessions = record.report.stages.iter().find(|known| known.stage == Stage::Migrate);
        GateJob {
            current: record.current,
            candidate: record.candidate.clone(),
            spec: GateSpec { time_ms: Some(left.as_millis() as u64), ..record.spec.clone() },
            done: record.done().to_vec(),
            sessions_of_all: match self.node.cluster {
                Some(_) => sessions.map_or(0, |known| known.of.max(known.seen)),
                None => 0,
            },
            remembered: record.remembered.clone(),
        }
    }

    /// The other nodes that a stage is for.
    fn peers(&self, stage: Stage) -> BTreeMap<Arc<str>, Peer> {
        let Some(cluster) = self.node.cluster.as_ref().filter(|_| stage.is_of_sessions()) else {
            return BTreeMap::new();
        };
        let members = cluster.members();
        let others = members.alive.iter().filter(|member| *member.name != *cluster.own());
        let begun = crate::clock::now();
        let peer = || Peer { share: None, heard: begun, is_over: false };
        others.map(|member| (member.name.clone(), peer())).collect()
    }

    /// Asks them how far they are; those that have not begun, to begin.
    async fn ask(&self, ask: &GateAsk, job: &GateJob, peers: &mut BTreeMap<Arc<str>, Peer>) {
        let Some(cluster) = &self.node.cluster else { return };
        let asked = peers.iter_mut().filter(|(_, peer)| !peer.is_over).map(|(name, peer)| async {
            let job = peer.share.is_none().then(|| Box::new(job.clone()));
            let request = ControlRequest::Gate { ask: ask.clone(), job };
            let answer = cluster.ask_within(name, &request, limits::GATE_ASK_WAIT).await;
            match answer {
                Ok(ControlResponse::Gate(Some(share))) => {
                    peer.heard = crate::clock::now();
                    peer.is_over = share.result.standing.is_over();
                    peer.share = Some(*share);
                }
                // It has started anew, and its slots are elsewhere or will be seen in another round.
                Ok(_) => peer.is_over = true,
                Err(_) => {
                    let members = cluster.members();
                    let is_member = members.alive.iter().any(|member| member.name == *name);
                    peer.is_over = !is_member || peer.heard.elapsed() > limits::GATE_SILENT_MAX;
                }
            }
        });
        futures_util::future::join_all(asked).await;
    }

    /// Waits for somebody to confirm what differs.
    async fn confirming(&mut self) -> Result<(), Gone> {
        let until = crate::clock::now() + limits::GATE_CONFIRM_WAIT;
        loop {
            if self.refresh()? {
                return Ok(());
            }
            if let Some(why) = self.void() {
                return self.end(Phase::Aborted { why }).await;
            }
            if crate::clock::now() > until {
                let why = "nobody has confirmed what differs".into();
                return self.end(Phase::Aborted { why }).await;
            }
            if self.written.elapsed() >= limits::GATE_BEAT {
                let record = (*self.kept.record).clone();
                if !self.write(record).await? {
                    return Ok(());
                }
            }
            self.pause(limits::GATE_BEAT).await;
        }
    }

    /// Makes the version current, if nothing came in between. It may have been done before, by a node that is gone.
    async fn switching(&mut self) -> Result<(), Gone> {
        let mut backoff = Backoff::new(limits::SWAP_RETRY_MIN, limits::SWAP_RETRY_MAX);
        loop {
            if self.written.elapsed() >= limits::GATE_BEAT {
                let record = (*self.kept.record).clone();
                if !self.write(record).await? {
                    return Ok(());
                }
            }
            match self.switch().await {
                Ok(Some(phase)) => return self.end(phase).await,
                Ok(None) => {}
                Err(error) if may_yet(error.code) => {
                    let service = &self.kept.record.service;
                    tracing::warn!(%service, %error, "a version that is through the gate can't be \
                        made current yet");
                }
                Err(error) => {
                    let why = error.detail.into_owned();
                    return self.end(Phase::Aborted { why }).await;
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// `None`: it has to be tried again.
    async fn switch(&self) -> Result<Option<Phase>, Error> {
        let (node, record) = (&self.node, &self.kept.record);
        let _turn = node.turn(&record.service).await?;
        let known = node.context.catalogue.get(&record.service);
        let Some(known) = known.filter(|known| known.generation >= record.generation) else {
            return Ok(None);
        };
        if known.generation > record.generation {
            let target = known.target();
            let runs = target.newest().ok().map(|runs| runs.digest);
            let is_this =
                known.generation == record.generation + 1 && runs == Some(record.candidate.digest);
            return Ok(Some(match is_this {
                true => Phase::Deployed { generation: known.generation },
                false => Phase::Aborted { why: CHANGED.into() },
            }));
        }
        let change = record.change(now_ms());
        let (digest, version) = (record.candidate.digest, record.version.as_deref());
        let service = &record.service;
        let canary = record.canary.as_ref();
        let next = node.deployed(Some(&known), service, version, digest, &change, canary)?;
        let Some(next) = next else {
            return Ok(Some(Phase::Deployed { generation: known.generation }));
        };
        let generation = next.generation;
        let target = next.target();
        // Its key may have been withdrawn while it was looked at.
        node.check_signed(service, target.newest()?)?;
        match node.switch(next).await {
            Ok(_) => Ok(Some(Phase::Deployed { generation })),
            // Another node was first: perhaps for this very gate.
            Err(error) if error.code == Code::SwapInProgress => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a stage comes to, of what its rounds have found.
fn decide(record: &mut GateRecord, stage: Stage) -> Standing {
    let shares: Vec<_> = record.before.iter().cloned().collect();
    record.report.merge(stage, &record.spec, &shares).standing
}

fn add_unseen(before: &mut GateShare, slots: &[SlotId]) {
    if let Some(first) = slots.first() {
        let why = format!("slots that no node has seen all of, as {first}");
        let sessions = slots.len() as u64;
        add_reason(&mut before.result.unseen, Reason { why, sessions, example: String::new() });
    }
}

/// Whether a switch that has failed so can come about: nothing is wrong with the version.
fn may_yet(code: Code) -> bool {
    use Code::{OutcomeUnknown, StorageUnavailable, SwapInProgress, Unavailable};
    matches!(code, OutcomeUnknown | StorageUnavailable | SwapInProgress | Unavailable)
}

const CHANGED: &str =
    "the service was changed meanwhile, by another deploy, a rollback or its removal";
/// What a round that is given out has at least.
const TIME_MIN: Duration = Duration::from_millis(100);
