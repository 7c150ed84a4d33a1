//! Deployments: what a service runs, and the swaps that bring it about.

use super::*;

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
            current: service.info(service.current)?,
            previous: service.previous.last().and_then(|id| service.info(*id)),
            generation: service.generation,
            memory: self.service_memory(&service.name),
            swap: self.swaps.lock().get(&service.name).map(|swap| swap.info()),
        })
    }

    /// Stores, checks and compiles a component and moves every slot to it; returns when all have
    /// moved, or with the swap still under way after [`limits::SWAP_WAIT`].
    ///
    /// # Errors
    /// `plugin-refused` with every reason; `swap-in-progress`; `storage-unavailable`. Then
    /// nothing has changed.
    pub async fn deploy(
        &self,
        service: &ServiceName,
        version: Option<String>,
        component: Bytes,
    ) -> Result<Deployed, Error> {
        if let Some(version) = &version {
            check_version(version)?;
        }
        let _turn = self.turn(service).await?;
        let plugin = self.context.plugins.add(component).await.map_err(|error| match error {
            PluginError::Refused(why) => Error::new(Code::PluginRefused, why),
            PluginError::NoMemory(_) => Error::new(Code::MemoryFull, error.to_string()),
            PluginError::Missing(_) | PluginError::Failed(_) => {
                Error::new(Code::StorageUnavailable, error.to_string())
            }
        })?;
        let version = version.or_else(|| {
            plugin.version().filter(|v| check_version(v).is_ok()).map(ToOwned::to_owned)
        });
        let existing = self.context.catalogue.get(service);
        let existing = existing.as_deref();
        let next =
            Service::deployed(existing, service, version.as_deref(), plugin.digest(), now_ms())?;
        self.swap_to(service, next).await
    }

    /// Moves every slot back to the version before.
    ///
    /// # Errors
    /// `nothing-to-roll-back`, and as [`Node::deploy`].
    pub async fn rollback(&self, service: &ServiceName) -> Result<Deployed, Error> {
        let _turn = self.turn(service).await?;
        let next = self.context.catalogue.require(service)?.rolled_back()?;
        self.swap_to(service, Some(next)).await
    }

    async fn swap_to(
        &self,
        service: &ServiceName,
        next: Option<Service>,
    ) -> Result<Deployed, Error> {
        let changed = next.is_some();
        if let (Some(next), Some(registry)) = (&next, &self.registry) {
            // A plugin that can't be had must not become current.
            let activation = self.activation(next).await?;
            let digest = activation.plugin.digest();
            let component = self.context.plugins.component(digest).await;
            let component = component.map_err(|e| Error::internal(e.to_string()))?;
            registry.components().put(digest, component).await.map_err(|why| {
                Error::new(
                    Code::StorageUnavailable,
                    format!("the component was not stored for the cluster: {why}"),
                )
            })?;
            let generation = next.generation;
            registry.put(next.clone()).await?;
            self.wait_for_cluster(service, generation).await;
        } else if let Some(next) = next {
            let from = self.context.catalogue.get(service);
            let from = from.map(|s| self.context.catalogue.label(service, s.current));
            // A plugin that can't be had must not become current.
            let activation = self.activation(&next).await?;
            let context = self.context.clone();
            let saved = tokio::task::spawn_blocking(move || context.catalogue.put(next)).await;
            saved.map_err(|e| Error::internal(format!("saving the catalogue failed: {e}")))??;
            let swap = self.start_swap(activation, from);
            swap.wait(limits::SWAP_WAIT).await;
        }
        let info = self.service_of_cluster(service).await?;
        Ok(Deployed { service: service.clone(), current: info.current, changed, swap: info.swap })
    }

    /// A service, with what all nodes have done of its last swap.
    ///
    /// # Errors
    /// `service-not-found`.
    pub async fn service_of_cluster(&self, service: &ServiceName) -> Result<ServiceInfo, Error> {
        let mut info = self.service(service)?;
        if let (Some(cluster), Some(own)) = (&self.cluster, Teller::swap(self, service)) {
            let mut shares = cluster.swap_shares(service).await.0;
            shares.push(own);
            shares.retain(|share| share.info.generation == info.generation);
            info.swap = SwapShare::sum(shares);
        }
        Ok(info)
    }

    /// Waits until every node has moved the slots that it has to a generation, or has the slots
    /// to take yet, which go over as they are opened; [`limits::SWAP_WAIT`] at most.
    async fn wait_for_cluster(&self, service: &ServiceName, generation: u64) {
        let Some(cluster) = &self.cluster else { return };
        let until = Instant::now() + limits::SWAP_WAIT;
        let is_done = |share: &SwapShare| share.info.generation >= generation && share.info.done;
        while Instant::now() < until {
            if Teller::swap(self, service).as_ref().is_some_and(is_done) {
                let (shares, silent) = cluster.swap_shares(service).await;
                if silent == 0 && shares.iter().all(is_done) {
                    return;
                }
            }
            tokio::time::sleep(limits::SWAP_POLL).await;
        }
    }

    /// Has the slots of this node follow the cluster's registry.
    pub(super) async fn follow_registry(node: std::sync::Weak<Self>, mut changes: Changes) {
        while let Some(services) = changes.next().await {
            for service in services {
                let Some(node) = node.upgrade() else { return };
                tokio::spawn(node.follow(service));
            }
        }
    }

    async fn follow(self: Arc<Self>, service: Arc<Service>) {
        let mut backoff = limits::SWAP_RETRY_MIN;
        let mut stopping = self.stopping.subscribe();
        loop {
            // A later change has a follower of its own.
            let newest = self.context.catalogue.get(&service.name);
            if newest.is_none_or(|newest| newest.generation != service.generation) {
                return;
            }
            match self.activation(&service).await {
                Ok(activation) => {
                    let from = self.swaps.lock().get(&service.name).map(|swap| swap.to.clone());
                    self.start_swap(activation, from);
                    return;
                }
                Err(error) => tracing::warn!(
                    service = %service.name, %error, "the current plugin can't be had yet"
                ),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            backoff = (backoff * 2).min(limits::SWAP_RETRY_MAX);
        }
    }

    /// The order that moves a slot to what is current in `service`.
    async fn activation(&self, service: &Service) -> Result<Activation, Error> {
        let missing = || Error::internal(format!("{} has no current deployment", service.name));
        let current = service.deployment(service.current).ok_or_else(missing)?;
        let plugin = self.context.plugins.load(current.digest).await.map_err(|why| {
            Error::new(Code::PluginUnavailable, why.to_string()).with_plugin(&*current.label)
        })?;
        self.current.lock().insert(service.name.clone(), plugin.clone());
        Ok(Activation { record: service.activate(), plugin })
    }

    fn start_swap(&self, activation: Activation, from: Option<Arc<str>>) -> Arc<Swap> {
        let record = &activation.record;
        let to = self.context.catalogue.label(&record.service, record.deployment);
        let slots = match &self.cluster {
            Some(cluster) => cluster.here().collect(),
            None => (0..self.router.slot_count()).collect(),
        };
        let swap = Swap::new(record.generation, from, to, slots);
        let swap = Arc::new(swap);
        self.swaps.lock().insert(record.service.clone(), swap.clone());
        let stopping = self.stopping.subscribe();
        tokio::spawn(swap.clone().run(self.router.clone(), activation, stopping));
        swap
    }

    /// Brings slots over that missed a swap: one that was being opened when the orders were given,
    /// and whose own order was lost (it had too many waiting, or the plugin could not be had).
    pub(super) fn bring_stragglers(self: &Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        for service in self.context.catalogue.all() {
            let on_its_way =
                |swap: &Arc<Swap>| swap.generation() < service.generation || !swap.is_done();
            if self.swaps.lock().get(&service.name).is_some_and(on_its_way)
                || self.stragglers.lock().get(&service.name).is_some_and(|swap| !swap.is_done())
            {
                continue;
            }
            let is_behind = |slot: &SlotId| {
                let Ok(Some(running)) = self.router.running(*slot) else { return false };
                let active = running.stats.active.lock();
                let at = active.get(&service.name).map(|(generation, _)| *generation);
                at.is_none_or(|at| at < service.generation)
            };
            let slots: Vec<SlotId> = cluster.here().filter(is_behind).collect();
            if slots.is_empty() {
                continue;
            }
            tracing::info!(service = %service.name, slots = slots.len(), "slots missed a swap");
            let to = self.context.catalogue.label(&service.name, service.current);
            let swap = Arc::new(Swap::new(service.generation, None, to, slots));
            self.stragglers.lock().insert(service.name.clone(), swap.clone());
            let node = self.clone();
            tokio::spawn(async move {
                match node.activation(&service).await {
                    Ok(activation) => {
                        let stopping = node.stopping.subscribe();
                        swap.run(node.router.clone(), activation, stopping).await;
                    }
                    Err(error) => tracing::warn!(
                        service = %service.name, %error, "the current plugin can't be had yet"
                    ),
                }
                // Whatever is left is found again.
                node.stragglers.lock().remove(&service.name);
            });
        }
    }

    /// Waits for other deploys and rollbacks of the service, and for the swap under way.
    async fn turn(&self, service: &ServiceName) -> Result<tokio::sync::OwnedMutexGuard<()>, Error> {
        let turn = self.deploying.lock().entry(service.clone()).or_default().clone();
        let busy = || {
            Error::new(
                Code::SwapInProgress,
                format!("another swap of {service} is under way: see `slotd swap {service}`"),
            )
        };
        let wait = tokio::time::timeout(limits::SWAP_WAIT, turn.lock_owned());
        let turn = wait.await.map_err(|_| busy())?;
        let under_way = self.swaps.lock().get(service).cloned();
        if let Some(swap) = under_way {
            swap.wait(limits::SWAP_WAIT).await;
            if !swap.is_done() {
                return Err(busy());
            }
        }
        Ok(turn)
    }

    /// A swap that ended with the process goes on: slots whose log says an older generation.
    pub(super) fn resume_swaps(self: &Arc<Self>) -> Result<(), Error> {
        let services = self.context.catalogue.all();
        if services.is_empty() {
            return Ok(());
        }
        let mut behind: HashMap<ServiceName, u32> = HashMap::new();
        for slot in 0..self.router.slot_count() {
            let meta = self.context.store.slot(slot);
            let meta = meta.map_err(|e| Error::internal(e.to_string()))?;
            for service in &services {
                let current = meta.active.get(&service.name);
                if current.is_none_or(|active| active.generation < service.generation) {
                    *behind.entry(service.name.clone()).or_default() += 1;
                }
            }
        }
        for service in services {
            let slots = behind.get(&service.name).copied().unwrap_or(0);
            let node = self.clone();
            tokio::spawn(async move {
                // After a deploy that came first, there is nothing left to resume.
                let Ok(_turn) = node.turn(&service.name).await else { return };
                let Some(service) = node.context.catalogue.get(&service.name) else { return };
                match node.activation(&service).await {
                    Ok(activation) if slots > 0 => {
                        tracing::info!(service = %service.name, slots, "resuming a swap");
                        node.start_swap(activation, None);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!(
                        service = %service.name, %error, "the current plugin can't be loaded"
                    ),
                }
            });
        }
        Ok(())
    }
}

fn check_version(version: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"\"\\,;/".contains(&b);
    if version.is_empty()
        || version.len() > limits::PLUGIN_VERSION_BYTES_MAX
        || !version.bytes().all(allowed)
    {
        return Err(Error::name_invalid(format!(
            "version {version:?}: use 1 to {} printable ASCII characters without spaces, quotes, \
             '\\', ',', ';' and '/'",
            limits::PLUGIN_VERSION_BYTES_MAX
        )));
    }
    Ok(())
}
