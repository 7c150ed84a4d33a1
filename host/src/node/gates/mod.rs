//! Deploys through the gate: what the version would do is seen first, on all nodes, and only then do slots switch.
//!
//! - `store`: where a gate is kept, so that it goes on when its node is gone.
//! - `drive`: the node that drives it, one at a time.
//! - `parts`: what each node does for it, of its own slots ([`crate::gate`]).
//! - `view`: what is shown of it.
//!
//! Here is how it is begun, waited for and ended, and who goes on with one that is left behind.

mod drive;
mod parts;
mod store;
mod view;

pub use view::GateView;

use super::{
    session_check::{DeployOptions, GateOptions},
    *,
};
use crate::{
    gate_report::{GateRecord, GateReport, GateSpec, Mode, Phase, Stage},
    level::{GATE_FROM, Unknown},
    random,
    registry::{GatePut, KeptGate},
};
use drive::Driver;
use parts::LocalParts;
use std::time::Instant;
use store::GateStore;

/// What the configuration says of a service's gate.
pub type GateSpecs = dyn Fn(&str) -> Option<GateSpec> + Send + Sync;

/// The gates of a node.
pub(super) struct Gates {
    store: GateStore,
    parts: LocalParts,
    /// Those that this node drives, by their ids.
    driving: Mutex<HashSet<String>>,
    /// Gates that others drive, each with what it was when it was first seen so.
    seen: Mutex<HashMap<ServiceName, (u64, Instant)>>,
    specs: RwLock<Option<Arc<GateSpecs>>>,
}

impl Gates {
    pub(super) fn open(
        data_dir: &Arc<DataDir>,
        registry: Option<&Registry>,
        catalogue: &Catalogue,
    ) -> Result<Self, Error> {
        let services = catalogue.all().into_iter().map(|service| service.name.clone());
        Ok(Self {
            store: GateStore::open(data_dir, registry, services)?,
            parts: LocalParts::default(),
            driving: Mutex::default(),
            seen: Mutex::default(),
            specs: RwLock::default(),
        })
    }

    pub(super) fn stop(&self) {
        self.parts.stop();
    }
}

/// A gate that this node drives, for as long as it does: also if that panics.
struct Driving(Arc<Node>, String);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.gates.driving.lock().remove(&self.1);
    }
}

/// What a deploy is to do before its slots switch.
pub(super) enum ByGate {
    /// Nothing: there is nothing to compare it with, or nobody wants it.
    No,
    Yes(Box<GateRecord>),
}

/// What became of a gate that was to begin.
pub(super) enum Begun {
    /// It runs, or the same did already.
    Runs(String),
    /// Another one of the service was waited for. What there is to do may be something else now.
    Waited,
}

impl Node {
    /// Sets what services' gates do unless a deploy asks for something else, from now on.
    pub fn set_gate_specs(&self, specs: Arc<GateSpecs>) {
        *self.gates.specs.write() = Some(specs);
    }

    fn gate_spec(&self, service: &ServiceName, options: &DeployOptions) -> Result<GateSpec, Error> {
        let specs = self.gates.specs.read().clone();
        let mut spec = specs.and_then(|specs| specs(service.as_str())).unwrap_or_default();
        let GateOptions { mode, accept, sessions, messages, seed, time_ms, threads, .. } =
            options.gate.clone();
        spec.mode = match mode {
            Some(mode) => mode,
            // It says that sessions may be left behind, which a gate would stop.
            None if options.force => Mode::Off,
            None => spec.mode,
        };
        spec.accept.extend(accept);
        if sessions.is_some() {
            (spec.sessions, spec.share) = (sessions, None);
        }
        spec.messages = messages.or(spec.messages);
        spec.time_ms = time_ms.or(spec.time_ms);
        spec.threads = threads.or(spec.threads);
        if let Some(seed) = seed {
            spec.seed = seed;
        } else if spec.seed == 0 {
            spec.seed = random::seed();
        }
        spec.check()?;
        Ok(spec)
    }

    /// Whether the change from `existing` to `next` goes through the gate, and how.
    ///
    /// # Errors
    /// `request-invalid`: what is asked of the gate can't be done.
    pub(super) fn by_gate(
        &self,
        existing: Option<&Service>,
        next: &Service,
        version: Option<&str>,
        options: &DeployOptions,
    ) -> Result<ByGate, Error> {
        let spec = self.gate_spec(&next.name, options)?;
        let asked = &options.gate;
        let is_wanted = asked.dry_run || asked.mode.is_some_and(|mode| mode != Mode::Off);
        let no = |why: String| match is_wanted {
            true => Err(Error::new(Code::RequestInvalid, why)),
            false => Ok(ByGate::No),
        };
        if asked.dry_run && spec.mode == Mode::Off {
            return no("without a gate there is no dry run".into());
        }
        if spec.mode == Mode::Off {
            return Ok(ByGate::No);
        }
        let Some(existing) = existing.filter(|existing| !existing.is_removed()) else {
            return match asked.dry_run {
                true => no(format!("{} does not run: there is nothing to compare with", next.name)),
                false => Ok(ByGate::No),
            };
        };
        let level = self.context.level.get();
        if level < GATE_FROM {
            return no(format!(
                "there is a gate from feature level {GATE_FROM} on, and level {level} is in force"
            ));
        }
        let target = next.target();
        let change = options.change();
        Ok(ByGate::Yes(Box::new(GateRecord {
            id: random::hex_id(),
            service: next.name.clone(),
            generation: existing.generation,
            current: existing.target().id(),
            from: existing.target().label(),
            candidate: target.newest()?.clone(),
            version: version.map(ToOwned::to_owned),
            same_state: options.same_state,
            dry_run: asked.dry_run,
            confirm: asked.confirm,
            canary: options.canary.clone(),
            by: change.by.said,
            identity: change.by.identity,
            signer: None,
            spec,
            begun_ms: now_ms(),
            ended_ms: None,
            phase: Phase::Running { stage: Stage::Interface },
            driver: self.name.as_str().into(),
            beat: 0,
            round: 0,
            before: None,
            report: GateReport::default(),
            remembered: Vec::new(),
            unknown: Unknown::default(),
        })))
    }

    /// Begins a gate. One that asks for the same is gone on with; another one of the service is waited for.
    ///
    /// # Errors
    /// `swap-in-progress` if the other one takes long; `storage-unavailable`.
    pub(super) async fn begin_gate(self: &Arc<Self>, record: GateRecord) -> Result<Begun, Error> {
        let (store, service) = (&self.gates.store, record.service.clone());
        let until = crate::clock::now() + limits::SWAP_WAIT;
        let mut record = record;
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let known = store.get(&service);
            let running = known.as_ref().filter(|known| !known.record.phase.has_ended());
            if let Some(running) = running {
                if running.record.is_like(&record) {
                    return Ok(Begun::Runs(running.record.id.clone()));
                }
                let left = until.saturating_duration_since(crate::clock::now());
                let id = running.record.id.clone();
                return match tokio::time::timeout(left, self.gate_ended(&service, &id)).await {
                    Ok(_) => Ok(Begun::Waited),
                    Err(_) => Err(in_progress(&running.record)),
                };
            }
            let revision = known.as_ref().map_or(0, |known| known.revision);
            record.remembered =
                known.map_or_else(Vec::new, |known| known.record.remembered.clone());
            match store.put(&record, revision).await? {
                GatePut::Won(kept) => {
                    let id = kept.record.id.clone();
                    tracing::info!(%service, to = %record.candidate.label, "a gate begins");
                    self.drive_gate(kept);
                    return Ok(Begun::Runs(id));
                }
                GatePut::Lost(_) => {}
            }
        }
        let why = format!(
            "the gate of {service} can't be begun: what is kept of the last one can't be read, or is changed all the time"
        );
        Err(Error::new(Code::StorageUnavailable, why))
    }

    /// A gate, once it has ended; `None` if there is another one by then.
    async fn gate_ended(&self, service: &ServiceName, id: &str) -> Option<KeptGate> {
        let ended = |store: &GateStore| match store.get(service) {
            Some(known) if known.record.id == id => {
                known.record.phase.has_ended().then_some(Some(known))
            }
            _ => Some(None),
        };
        self.gates.store.until(ended).await.flatten()
    }

    fn drive_gate(self: &Arc<Self>, kept: KeptGate) {
        let id = kept.record.id.clone();
        if !self.gates.driving.lock().insert(id.clone()) {
            return;
        }
        let node = self.clone();
        let mut stopping = self.stopping.subscribe();
        crate::task::spawn("gate", async move {
            let _driving = Driving(node.clone(), id);
            tokio::select! {
                () = Driver::new(node.clone(), kept).run() => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        });
    }

    /// Waits for a gate that was begun, and for the swap behind it; at most [`limits::SWAP_WAIT`] for each.
    ///
    /// # Errors
    /// `gate-stopped`.
    pub(super) async fn after_gate(
        &self,
        service: &ServiceName,
        id: &str,
        sessions: Vec<SessionsOutlook>,
        new_effects: BTreeSet<String>,
    ) -> Result<Deployed, Error> {
        let _ = tokio::time::timeout(limits::SWAP_WAIT, self.gate_ended(service, id)).await;
        let known = self.gates.store.get(service).filter(|known| known.record.id == id);
        let Some(known) = known else {
            let why = "another deploy has begun meanwhile".into();
            return Err(stopped(service, why));
        };
        let record = &known.record;
        let (mut changed, mut own) = (false, None);
        match &record.phase {
            Phase::Stopped { stage, why } => {
                let why = format!(
                    "the gate has stopped {} ({}): {why}",
                    record.candidate.label,
                    stage.as_str()
                );
                return Err(stopped(service, why));
            }
            Phase::Aborted { why } => {
                let why = format!("{} was not deployed: {why}", record.candidate.label);
                return Err(stopped(service, why));
            }
            Phase::Deployed { generation } => {
                changed = true;
                own = self.wait_for_swap(service, *generation).await;
            }
            _ => {}
        }
        let info = self.service_of_cluster(service).await?;
        let (current, swap) = match &record.phase {
            // The result of this deploy, and not of a later one.
            Phase::Deployed { generation } if info.generation > *generation => {
                (DeploymentInfo::from(&record.candidate), own.map(|swap| swap.info()))
            }
            _ => (info.current, info.swap),
        };
        Ok(Deployed {
            service: service.clone(),
            current,
            changed,
            sessions,
            new_effects,
            canary: info.canary,
            swap,
            gate: Some(self.view_of(&known)),
        })
    }

    /// A service's last gate: under way, or with its result. `deployment`: that of a deployment, by its number, label or
    /// version, if its report is still kept.
    ///
    /// # Errors
    /// `service-not-found`, `gate-not-found`.
    pub async fn gate(
        &self,
        service: &ServiceName,
        deployment: Option<&str>,
    ) -> Result<GateView, Error> {
        self.context.catalogue.require(service)?;
        let Some(named) = deployment else {
            let known = self.gates.store.get(service).ok_or_else(|| no_gate(service))?;
            return Ok(self.view_of(&known));
        };
        let reports = self.gates.store.reports(service).await?;
        let is_it = |record: &&GateRecord| {
            let of = &record.candidate;
            *of.label == *named || of.version == named || of.id.to_string() == named
        };
        let found = reports.iter().rfind(is_it).ok_or_else(|| {
            let why = format!(
                "no report of the gate of {named:?} is kept: the last {} are",
                limits::GATE_REPORTS_MAX
            );
            Error::new(Code::GateNotFound, why)
        })?;
        Ok(GateView::of(found, self.router.slot_count()))
    }

    /// Confirms what differs.
    ///
    /// # Errors
    /// `gate-not-found`: none waits for that.
    pub async fn confirm_gate(&self, service: &ServiceName) -> Result<GateView, Error> {
        self.change_gate(service, |record| match record.phase {
            Phase::Confirming => Some(GateRecord { phase: Phase::Switching, ..record.clone() }),
            _ => None,
        })
        .await
    }

    /// Ends a gate. Nothing has moved then.
    ///
    /// # Errors
    /// `gate-not-found`: none is under way, or it is decided already.
    pub async fn cancel_gate(&self, service: &ServiceName, by: &Author) -> Result<GateView, Error> {
        let by = by.identity.as_deref().or(by.said.as_deref());
        let why = by.map_or_else(|| "it was ended".to_owned(), |by| format!("{by} has ended it"));
        self.change_gate(service, |record| {
            let phase = Phase::Aborted { why: why.clone() };
            record.phase.may_abort().then(|| record.clone().ended(phase, now_ms()))
        })
        .await
    }

    async fn change_gate(
        &self,
        service: &ServiceName,
        change: impl Fn(&GateRecord) -> Option<GateRecord>,
    ) -> Result<GateView, Error> {
        self.context.catalogue.require(service)?;
        let mut known = self.gates.store.get(service);
        for _ in 0..limits::REGISTRY_SWAP_TRIES {
            let kept = known.ok_or_else(|| no_gate(service))?;
            let Some(next) = change(&kept.record) else { return Err(no_gate(service)) };
            match self.gates.store.put(&next, kept.revision).await? {
                GatePut::Won(kept) => return Ok(self.view_of(&kept)),
                GatePut::Lost(found) => known = found,
            }
        }
        Err(Error::new(Code::StorageUnavailable, "too many concurrent changes of the gate"))
    }

    fn view_of(&self, kept: &KeptGate) -> GateView {
        GateView::of(&kept.record, self.router.slot_count())
    }

    /// Goes on with gates whose node is gone, and ends this node's parts of those that have ended.
    async fn look_after_gates(self: &Arc<Self>) {
        self.gates.parts.tidy(&self.gates.store);
        let all = self.gates.store.all();
        let running = all.into_iter().filter(|kept| !kept.record.phase.has_ended());
        for kept in running.collect::<Vec<_>>() {
            if self.gates.driving.lock().contains(&kept.record.id) || !self.is_left(&kept) {
                continue;
            }
            let record = GateRecord {
                driver: self.name.as_str().into(),
                beat: kept.record.beat + 1,
                ..(*kept.record).clone()
            };
            match self.gates.store.put(&record, kept.revision).await {
                Ok(GatePut::Won(own)) => {
                    tracing::info!(
                        service = %record.service, before = %kept.record.driver,
                        "goes on with a gate whose node is gone"
                    );
                    self.drive_gate(own);
                }
                Ok(GatePut::Lost(_)) => {}
                Err(error) => {
                    tracing::debug!(service = %record.service, %error, "can't go on with a gate yet");
                }
            }
        }
    }

    /// Whether nobody drives a gate.
    fn is_left(&self, kept: &KeptGate) -> bool {
        // It is not one that this process drives: one before it has.
        let Some(cluster) = self.cluster.as_ref().filter(|_| *kept.record.driver != *self.name)
        else {
            return true;
        };
        let mut seen = self.gates.seen.lock();
        let now = crate::clock::now();
        let entry = seen.entry(kept.record.service.clone()).or_insert((kept.revision, now));
        if entry.0 != kept.revision {
            *entry = (kept.revision, now);
        }
        let members = cluster.members();
        let is_alive = members.alive.iter().any(|member| member.name == kept.record.driver);
        let lease = if is_alive { limits::GATE_LEASE } else { limits::GATE_LEASE_GONE };
        cluster.was_settled() && now.duration_since(entry.1) >= lease
    }
}

/// Looks after gates until the node ends.
pub(super) async fn keep(node: std::sync::Weak<Node>, mut stopping: watch::Receiver<bool>) {
    loop {
        let Some(strong) = node.upgrade() else { return };
        strong.look_after_gates().await;
        drop(strong);
        tokio::select! {
            () = tokio::time::sleep(limits::GATE_LOOK) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

fn no_gate(service: &ServiceName) -> Error {
    let why = format!("no deploy of {service} is in the gate, or waits for that");
    Error::new(Code::GateNotFound, why)
}

fn in_progress(record: &GateRecord) -> Error {
    Error::new(
        Code::SwapInProgress,
        format!(
            "{} of {1} is in the gate: `slotd gate {1}` shows how far it is, and `slotd gate {1} --cancel` ends it",
            record.candidate.label, record.service
        ),
    )
}

fn stopped(service: &ServiceName, why: String) -> Error {
    Error::new(
        Code::GateStopped,
        format!("{why}\nNothing has moved. `slotd gate {service}` shows the report"),
    )
}
