//! Deployments: what a service runs, and the swaps that change it.

use super::{
    gates::{Begun, ByGate},
    turns::Turn,
    *,
};
use crate::{gate_report::GateRecord, plugin::Digest, service::canary::Wanted};

impl Node {
    pub fn services(&self) -> Vec<ServiceInfo> {
        self.context.catalogue.all().iter().filter_map(|s| self.service_info(s)).collect()
    }

    /// # Errors
    /// `service-not-found`.
    pub fn service(&self, service: &ServiceName) -> Result<ServiceInfo, Error> {
        let known = self.context.catalogue.require(service)?;
        self.service_info(&known).ok_or_else(|| Error::internal("a service without a deployment"))
    }

    fn service_info(&self, service: &Service) -> Option<ServiceInfo> {
        Some(ServiceInfo {
            service: service.name.clone(),
            current: DeploymentInfo::of(service, service.target().id())?,
            previous: service.previous.last().and_then(|id| DeploymentInfo::of(service, *id)),
            generation: service.generation,
            memory: self.service_memory(&service.name).into(),
            canary: service.canary.as_ref().and_then(|canary| CanaryInfo::of(service, canary)),
            swap: self.last_swap(&service.name).map(|share| share.info),
        })
    }

    /// The last swap of a service on this node: in progress, or with its result, even from before
    /// the process started.
    pub(super) fn last_swap(&self, service: &ServiceName) -> Option<SwapShare> {
        let past = self.past_swaps.get(service);
        let Some(current) = self.swaps.lock().get(service).map(|swap| swap.share()) else {
            return past;
        };
        let ended_before =
            |past: &SwapShare| past.info.generation == current.info.generation && past.info.done;
        Some(past.filter(ended_before).unwrap_or(current))
    }

    /// What a service's current version says of the types of its messages.
    ///
    /// # Errors
    /// `service-not-found`, `plugin-unavailable`.
    pub async fn types(&self, service: &ServiceName) -> Result<ServiceTypes, Error> {
        let DeploymentInfo { version, label, .. } = self.service(service)?.current;
        let target = self.context.catalogue.require(service)?.target();
        let types = target.load_own(&self.context.plugins).await?.types();
        Ok(ServiceTypes { service: service.clone(), version, label, types })
    }

    /// Every deployment of a service, optionally with its number of sessions.
    ///
    /// # Errors
    /// `service-not-found`, `storage-unavailable`.
    pub async fn deployments(
        &self,
        service: &ServiceName,
        count: bool,
    ) -> Result<Deployments, Error> {
        let known = self.context.catalogue.require(service)?;
        let (counts, silent) = match count {
            true => self.count_sessions(service).await?,
            false => Default::default(),
        };
        let current = known.target().id();
        let line = |d: &Deployment| {
            let counted = count.then(|| counts.get(&d.id).copied().unwrap_or_default());
            DeploymentLine {
                deployment: d.into(),
                current: d.id == current,
                previous: known.previous.last() == Some(&d.id),
                sessions: counted.map(|count| count.sessions),
                pinned: counted.map(|count| count.pinned),
            }
        };
        let deployments = known.deployments.iter().rev().map(line).collect();
        let label = |id| known.deployment(id).map(|d| d.label.to_string());
        let switched = known.switched.as_ref().map(|switched| SwitchedInfo {
            from: switched.from.and_then(label),
            at_ms: switched.at_ms,
            by: switched.by.as_deref().map(Into::into),
            identity: switched.identity.as_deref().map(Into::into),
        });
        let (service, generation) = (service.clone(), known.generation);
        Ok(Deployments { service, generation, switched, deployments, silent })
    }

    /// Stores, checks and compiles a component and switches every slot to it. Returns when all have
    /// switched, or with the swap still in progress after [`limits::SWAP_WAIT`]. It ends a swap
    /// that is in progress, even one that can't finish. Refused with `sessions-would-stay` if it
    /// would leave sessions behind unless `options` allow it.
    ///
    /// # Errors
    /// `signature-refused`; `plugin-refused` with the reasons; `plugin-too-costly`; `unavailable` if the node can't
    /// compile it now; `swap-in-progress` while another deploy is being prepared;
    /// `storage-unavailable`. Nothing has changed then.
    pub async fn deploy(
        self: &Arc<Self>,
        service: &ServiceName,
        version: Option<String>,
        component: Bytes,
        options: DeployOptions,
    ) -> Result<Deployed, Error> {
        if let Some(version) = &version {
            crate::names::check_plugin_version(version).map_err(Error::name_invalid)?;
        }
        // Before anything reads what it is.
        let signature = options.signature.as_deref();
        let signer = self.check_signature(service, &component, signature).await?;
        let room = self.context.plugins.room(component.len()).map_err(not_added)?;
        let mut turn = self.turn(service).await?;
        let plugin = self.context.plugins.add(component).await.map_err(not_added)?;
        drop(room);
        let version = version.or_else(|| plugin.version().map(ToOwned::to_owned));
        let (version, digest) = (version.as_deref(), plugin.digest());
        let change = Change { signer, ..options.change() };
        loop {
            let existing = self.context.catalogue.get(service);
            let existing = existing.as_deref();
            let canary = options.canary.as_ref();
            let next = self.deployed(existing, service, version, digest, &change, canary)?;
            let Some(next) = next else {
                return self.swap_to(service, None, Vec::new(), turn).await;
            };
            let by_gate = self.by_gate(existing, &next, version, &options)?;
            let target = next.target();
            let sessions = self.outlook(&next, target.newest()?, &plugin, &options).await?;
            let new_effects = self.new_effects(existing, &plugin).await;
            let ByGate::Yes(record) = by_gate else {
                let deployed = self.swap_to(service, Some(next), sessions, turn).await?;
                return Ok(Deployed { new_effects, ..deployed });
            };
            // Others may change the service while it is in the gate, which ends that.
            drop(turn);
            // What can't run need not be looked at.
            drop(self.tried(&next.target()).await?);
            self.share_component(digest).await?;
            let record = GateRecord { signer: change.signer.clone(), ..*record };
            match self.begin_gate(record).await? {
                Begun::Runs(id) => {
                    return self.after_gate(service, &id, sessions, new_effects).await;
                }
                Begun::Waited => turn = self.turn(service).await?,
            }
        }
    }

    /// Makes a component available to all nodes.
    async fn share_component(&self, digest: Digest) -> Result<(), Error> {
        let Some(registry) = &self.registry else { return Ok(()) };
        let component = self.context.plugins.component(digest).await;
        let component = component.map_err(|e| Error::internal(e.to_string()))?;
        registry.components().put(digest, component).await.map_err(|why| {
            Error::new(
                Code::StorageUnavailable,
                format!("the component was not stored for the cluster: {why}"),
            )
        })
    }

    /// Switches every slot back to the previous version, or to the one that `to` names by its
    /// version, label, number or digest prefix.
    ///
    /// # Errors
    /// `nothing-to-roll-back`, `deployment-not-found`, `signature-refused`, and as [`Node::deploy`].
    pub async fn rollback(
        &self,
        service: &ServiceName,
        to: Option<&str>,
        options: DeployOptions,
    ) -> Result<Deployed, Error> {
        let turn = self.turn(service).await?;
        let known = self.context.catalogue.require(service)?;
        let next = known.rolled_back(to, &options.change())?;
        if next.generation == known.generation {
            return self.swap_to(service, None, Vec::new(), turn).await;
        }
        if let Some(target) = next.deployment(next.target().id()) {
            self.check_signed(service, target)?;
        }
        let plugin = next.target().load_own(&self.context.plugins).await?;
        // The way back from a canary is never refused: it is bad, and what can't go back works on where it is.
        let is_way_back = to.is_none() && known.live_canary().is_some();
        let options = DeployOptions { force: options.force || is_way_back, ..options };
        let sessions = self.outlook(&next, next.target().require()?, &plugin, &options).await?;
        let new_effects = self.new_effects(Some(&known), &plugin).await;
        let deployed = self.swap_to(service, Some(next), sessions, turn).await?;
        Ok(Deployed { new_effects, ..deployed })
    }

    /// What a plugin can do outside of its sessions' state that the one before it could not.
    async fn new_effects(&self, before: Option<&Service>, plugin: &Plugin) -> BTreeSet<String> {
        let effects = plugin.effects();
        let before = before.filter(|before| !before.is_removed());
        let loaded = match before {
            Some(before) => before.target().load_own(&self.context.plugins).await.ok(),
            None => None,
        };
        match (before, loaded) {
            (None, _) => effects,
            (Some(_), Some(loaded)) => effects.difference(&loaded.effects()).cloned().collect(),
            // One that can't be had is not compared with; that is no reason to keep it.
            (Some(_), None) => BTreeSet::new(),
        }
    }

    /// `turn` ends as soon as the next deploy can take over: before the slots have switched.
    async fn swap_to(
        &self,
        service: &ServiceName,
        next: Option<Service>,
        sessions: Vec<SessionsOutlook>,
        turn: Turn,
    ) -> Result<Deployed, Error> {
        let target = next.as_ref().map(Service::target);
        let own = next.as_ref().zip(target.as_ref());
        let own =
            own.and_then(|(next, to)| Some((to.generation(), DeploymentInfo::of(next, to.id())?)));
        let mut superseded = None;
        if let (Some(next), Some(target)) = (next, target) {
            let swap = self.switch(next).await?;
            drop(turn);
            superseded = match swap {
                Some(swap) => {
                    swap.wait(limits::SWAP_WAIT).await;
                    Some(swap)
                }
                None => self.wait_for_cluster(service, target.generation()).await,
            };
        }
        let info = self.service_of_cluster(service).await?;
        let service = service.clone();
        Ok(match own {
            // The result of this swap, and not of a later one.
            Some((generation, current)) if info.generation > generation => {
                let swap = superseded.map(|swap| swap.info());
                let new_effects = BTreeSet::new();
                // It may have gone back already.
                let (canary, gate) = (info.canary, None);
                Deployed {
                    service,
                    current,
                    changed: true,
                    sessions,
                    new_effects,
                    canary,
                    swap,
                    gate,
                }
            }
            own => Deployed {
                service,
                current: info.current,
                changed: own.is_some(),
                sessions,
                new_effects: BTreeSet::new(),
                canary: info.canary,
                swap: info.swap,
                gate: None,
            },
        })
    }

    /// Makes `next` current for good. In a cluster each node's slots follow; on a node that stands alone they begin
    /// to switch, with the swap that is given. The caller has the service's turn.
    ///
    /// # Errors
    /// As [`Node::deploy`]: nothing has changed then, except for `outcome-unknown`.
    pub(super) async fn switch(&self, next: Service) -> Result<Option<Arc<Swap>>, Error> {
        let target = next.target();
        let from = match next.canary {
            Some(_) => self.before(&next),
            None => {
                let from = self.context.catalogue.get(target.service());
                from.filter(|s| !s.is_removed()).map(|s| s.target().label())
            }
        };
        // A plugin that can't be had must not become current.
        let tried = self.tried(&target).await?;
        // What is new is the last.
        if let Some(guests) = tried.last() {
            self.share_component(guests.plugin().digest()).await?;
        }
        let next = self.make_durable(next).await?;
        self.context.trials.follow(&next);
        self.place(&target, tried);
        let is_alone = self.cluster.is_none();
        Ok(is_alone.then(|| self.start_swap(Activation { target }, from)))
    }

    /// Waits for a swap on all nodes, at most [`limits::SWAP_WAIT`]. Gives this node's part of it, if that is known.
    pub(super) async fn wait_for_swap(
        &self,
        service: &ServiceName,
        generation: u64,
    ) -> Option<Arc<Swap>> {
        if self.cluster.is_some() {
            return self.wait_for_cluster(service, generation).await;
        }
        let swap = self.swaps.lock().get(service).cloned();
        let swap = swap.filter(|swap| swap.generation() == generation)?;
        swap.wait(limits::SWAP_WAIT).await;
        Some(swap)
    }

    /// Makes a service's new record durable: in a cluster for all nodes.
    pub(super) async fn make_durable(&self, next: Service) -> Result<Arc<Service>, Error> {
        if let Some(registry) = &self.registry {
            return registry.put(next).await;
        }
        let context = self.context.clone();
        let saved = crate::task::blocking(move || context.catalogue.put(next)).await;
        saved.map_err(|e| Error::internal(format!("saving the catalogue failed: {e}")))?
    }

    /// A service, with all nodes' progress on its last swap.
    ///
    /// # Errors
    /// `service-not-found`.
    pub async fn service_of_cluster(&self, service: &ServiceName) -> Result<ServiceInfo, Error> {
        let mut info = self.service(service)?;
        if let (Some(cluster), Some(own)) = (&self.cluster, LocalNode::swap(self, service)) {
            let mut shares = cluster.swap_shares(service).await.0;
            shares.push(own);
            shares.retain(|share| share.info.generation == info.generation);
            info.swap = SwapShare::sum(shares);
        }
        Ok(info)
    }

    /// Waits until every node has switched its slots to a generation (slots that are yet to be
    /// opened switch then), or until there is a later generation; at most [`limits::SWAP_WAIT`].
    /// Returns this node's part of the swap.
    pub(super) async fn wait_for_cluster(
        &self,
        service: &ServiceName,
        generation: u64,
    ) -> Option<Arc<Swap>> {
        let cluster = self.cluster.as_ref()?;
        let until = crate::clock::now() + limits::SWAP_WAIT;
        let is_done = |share: &SwapShare| share.info.generation >= generation && share.info.done;
        let mut own = None;
        while crate::clock::now() < until {
            match self.swaps.lock().get(service) {
                Some(swap) if swap.generation() > generation => break,
                Some(swap) if swap.generation() == generation => own = Some(swap.clone()),
                _ => {}
            }
            if own.as_ref().is_some_and(|own| own.is_done()) {
                let (shares, silent) = cluster.swap_shares(service).await;
                if silent == 0 && shares.iter().all(is_done) {
                    break;
                }
            }
            tokio::time::sleep(limits::SWAP_POLL).await;
        }
        own
    }

    /// Makes the slots of this node follow the cluster's registry.
    pub(super) async fn follow_registry(node: std::sync::Weak<Self>, mut changes: Changes) {
        while let Some(services) = changes.next().await {
            for service in services {
                let Some(node) = node.upgrade() else { return };
                crate::task::spawn("registry changes", node.follow(service));
            }
        }
    }

    async fn follow(self: Arc<Self>, service: Arc<Service>) {
        let mut backoff = Backoff::new(limits::SWAP_RETRY_MIN, limits::SWAP_RETRY_MAX);
        let mut stopping = self.stopping.subscribe();
        loop {
            // A later change has a follower of its own.
            let newest = self.context.catalogue.get(&service.name);
            if newest.is_none_or(|newest| newest.generation != service.generation) {
                return;
            }
            self.follow_removal(&service);
            if service.is_removed() {
                return;
            }
            match self.activation(&service).await {
                Ok(activation) => {
                    self.start_swap(activation, self.before(&service));
                    return;
                }
                Err(error) => tracing::warn!(
                    service = %service.name, %error, "the current plugin is not available yet"
                ),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// The label of the deployment before the current one in `service`.
    pub(super) fn before(&self, service: &Service) -> Option<Arc<str>> {
        let from = match &service.canary {
            Some(canary) if canary.is_live() => canary.before,
            Some(canary) if canary.wanted == Wanted::Aborted => canary.deployment,
            _ => service.switched.as_ref()?.from?,
        };
        Some(self.context.catalogue.label(&service.name, from))
    }

    /// The order that moves a slot to what is current in `service`, which is durable, once that is
    /// loaded and an instance of it could be made: slots switch only to what can run.
    pub(super) async fn activation(&self, service: &Service) -> Result<Activation, Error> {
        let target = service.target();
        self.context.trials.follow(service);
        let tried = self.tried(&target).await?;
        self.place(&target, tried);
        Ok(Activation { target })
    }

    /// What `target` runs, loaded and each with an instance that was made.
    pub(super) async fn tried(&self, target: &Target) -> Result<Vec<Arc<Guests>>, Error> {
        let plugins = &self.context.plugins;
        let loaded = target.load(plugins).await?;
        let mut all = Vec::new();
        for (deployment, plugin) in target.deployments().zip(loaded) {
            let label = deployment.label.clone();
            let guests = plugins.pool().apart(target.service(), deployment.id, label, plugin);
            let tried = plugins.try_one(&guests).await;
            tried.map_err(|why| Target::unavailable(deployment, &why))?;
            all.push(guests);
        }
        Ok(all)
    }

    /// What `target` runs is there for slots, and stays loaded; `target` is durable.
    pub(super) fn place(&self, target: &Target, tried: Vec<Arc<Guests>>) {
        let plugins = tried.iter().map(|guests| guests.plugin().clone()).collect();
        self.context.kept.keep(target, plugins);
        for guests in tried {
            self.context.plugins.pool().place(guests);
        }
    }

    /// Begins to move the slots of this node, and ends what moves them to an older generation.
    pub(super) fn start_swap(&self, activation: Activation, from: Option<Arc<str>>) -> Arc<Swap> {
        let target = activation.target.clone();
        let (service, generation) = (target.service().clone(), target.generation());
        let slots = match &self.cluster {
            Some(cluster) => cluster.here().collect(),
            None => (0..self.router.slot_count()).collect(),
        };
        let swap = Swap::new(generation, from, target.label(), slots);
        let swap = Arc::new(swap);
        let mut swaps = self.swaps.lock();
        let known = swaps.get(&service);
        if let Some(newer) = known.filter(|known| known.generation() >= generation) {
            // Its plugin was loaded sooner.
            swap.supersede(newer.generation());
            return swap;
        }
        let older = [
            swaps.insert(service.clone(), swap.clone()),
            self.stragglers.lock().get(&service).cloned(),
        ];
        drop(swaps);
        for older in older.into_iter().flatten() {
            if older.generation() < generation && older.supersede(generation) {
                tracing::info!(
                    %service,
                    from = %older.to,
                    to = %swap.to,
                    "a new swap replaces one that was still running"
                );
            }
        }
        let stopping = self.stopping.subscribe();
        let (past, ran) = (self.past_swaps.clone(), swap.clone());
        let run = swap.clone().run(self.router.clone(), activation, stopping);
        crate::task::spawn("swap", async move {
            run.await;
            if ran.is_done() {
                past.keep(&service, ran.share());
            }
        });
        swap
    }

    /// Switches slots that missed a swap: one that was being opened when the orders were sent, or
    /// whose own order was lost (its queue was full, or the plugin could not be loaded).
    pub(super) fn bring_stragglers(self: &Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let slots = self.purgeable();
        for service in self.context.catalogue.all() {
            // Slots that came from another node may have sessions that were left there.
            self.follow_removal_in(&service, &slots);
            if service.is_removed() {
                continue;
            }
            let on_its_way =
                |swap: &Arc<Swap>| swap.generation() < service.generation || !swap.is_done();
            if self.swaps.lock().get(&service.name).is_some_and(on_its_way)
                || self.stragglers.lock().get(&service.name).is_some_and(|swap| !swap.has_ended())
            {
                continue;
            }
            let target = service.target();
            let is_behind = |slot: &SlotId| {
                let Ok(Some(running)) = self.router.running(*slot) else { return false };
                let active = running.stats.active.lock();
                let at = active.get(&service.name).map(|(generation, _)| *generation);
                target.is_ahead_of(at)
            };
            let slots: Vec<SlotId> = cluster.here().filter(is_behind).collect();
            if slots.is_empty() {
                continue;
            }
            tracing::info!(service = %service.name, slots = slots.len(), "slots missed a swap; \
                moving them now");
            let to = target.label();
            let swap = Arc::new(Swap::new(target.generation(), None, to, slots));
            self.stragglers.lock().insert(service.name.clone(), swap.clone());
            let node = self.clone();
            crate::task::spawn("late swap", async move {
                match node.activation(&service).await {
                    Ok(activation) => {
                        let stopping = node.stopping.subscribe();
                        swap.run(node.router.clone(), activation, stopping).await;
                    }
                    Err(error) => tracing::warn!(
                        service = %service.name, %error, "the current plugin is not available yet"
                    ),
                }
                // Later checks find what is left.
                node.stragglers.lock().remove(&service.name);
            });
        }
    }

    /// Waits until other deploys and rollbacks of the service are durable. It does not wait for the
    /// swap in progress: one that can't finish would block any rollback.
    pub(super) async fn turn(&self, service: &ServiceName) -> Result<Turn, Error> {
        tokio::time::timeout(limits::SWAP_WAIT, self.deploying.take(service)).await.map_err(|_| {
            Error::new(
                Code::SwapInProgress,
                format!("another deploy of {service} is in progress; try again"),
            )
        })
    }

    /// Resumes a swap that was interrupted with the process: slots whose log has an older
    /// generation.
    pub(super) fn resume_swaps(self: &Arc<Self>) -> Result<(), Error> {
        let services = self.context.catalogue.all();
        if services.is_empty() {
            return Ok(());
        }
        let targets: Vec<Target> = services.iter().map(|service| service.target()).collect();
        let mut behind: HashMap<ServiceName, u32> = HashMap::new();
        for slot in 0..self.router.slot_count() {
            let meta = self.context.store.slot(slot)?;
            for target in &targets {
                let current = meta.active.get(target.service()).map(|active| active.generation);
                if target.is_ahead_of(current) {
                    *behind.entry(target.service().clone()).or_default() += 1;
                }
            }
        }
        let slots = self.purgeable();
        for service in services {
            self.resume_removal(&service, &slots);
            if service.is_removed() {
                continue;
            }
            let slots = behind.get(&service.name).copied().unwrap_or(0);
            let node = self.clone();
            crate::task::spawn("resumed swap", async move {
                let Ok(_turn) = node.turn(&service.name).await else { return };
                // If a deploy came first, there is nothing left to resume.
                if node.swaps.lock().contains_key(&service.name) {
                    return;
                }
                let Some(service) = node.context.catalogue.get(&service.name) else { return };
                let from = node.before(&service);
                match node.activation(&service).await {
                    Ok(activation) if slots > 0 => {
                        tracing::info!(service = %service.name, slots, "resuming a swap");
                        node.start_swap(activation, from);
                    }
                    Ok(_) => node.know_swap_done(&service, from),
                    Err(error) => tracing::error!(
                        service = %service.name, %error, "the current plugin can't be loaded"
                    ),
                }
            });
        }
        Ok(())
    }
}

impl Node {
    /// Every slot had switched when the process ended, before the result of the swap was stored.
    /// Its duration is unknown.
    fn know_swap_done(&self, service: &Service, from: Option<Arc<str>>) {
        let Some(switched) = &service.switched else { return };
        if self.last_swap(&service.name).is_some_and(|s| s.info.generation == service.generation) {
            return;
        }
        let slots = u32::from(self.router.slot_count());
        let info = SwapInfo {
            generation: service.generation,
            from: from.map(|from| from.to_string()),
            to: service.target().label().to_string(),
            slots,
            moved: slots,
            done: true,
            error: None,
            started_ms: switched.at_ms,
            elapsed_ms: 0.0,
            pause_p50_us: 0.0,
            pause_p99_us: 0.0,
            pause_max_us: 0.0,
        };
        self.past_swaps.keep(&service.name, SwapShare { info, pauses_us: Vec::new() });
    }
}

/// Why a component was not added.
fn not_added(error: PluginError) -> Error {
    let code = match &error {
        PluginError::Refused(_) => Code::PluginRefused,
        PluginError::TooCostly(_) => Code::PluginTooCostly,
        PluginError::Busy(_) | PluginError::Cut(_) => Code::Unavailable,
        PluginError::Crashed(_) => Code::Internal,
        PluginError::NoMemory(_) => Code::MemoryFull,
        PluginError::Missing(_) | PluginError::Failed(_) => Code::StorageUnavailable,
    };
    Error::new(code, error.to_string())
}

/// On a standalone node a damaged component can't be restored; in a cluster it is fetched when it
/// is loaded.
pub(super) fn verify_components(catalogue: &Catalogue, plugins: &PluginHost) -> Result<(), Error> {
    for service in catalogue.all() {
        let target = service.target();
        for digest in target.components() {
            plugins.verify(digest).map_err(|why| {
                Error::internal(format!("service {}, {}: {why}", service.name, target.label()))
            })?;
        }
    }
    Ok(())
}
