//! What a slot or a session is to run: answered here, and nowhere else.
//!
//! The catalogue decides for a service's slots ([`Service::target`]). A slot switches by a record in its
//! own log, which then decides for its sessions ([`of_session`]).

use super::{
    Deployment,
    canary::{Canary, Share},
    catalogue::{REMOVED, REMOVED_LABEL, Service},
};
use crate::{
    error::{Code, Error},
    log::record::{Activate, DeploymentId, Head, Pin},
    names::{ServiceName, SlotId},
    plugin::{Digest, Plugin, PluginHost},
};
use std::sync::Arc;

/// What a service's slots are to run, in one generation of the service.
///
/// One deployment, or none; and while the service has a canary, a second one, in the slots that the canary has. What is
/// asked of a slot ([`Target::record`]) is answered for one of the two, and what is asked of a node (what must be loaded) for
/// both.
#[derive(Clone, Debug)]
pub struct Target {
    service: ServiceName,
    generation: u64,
    /// `None`: the service was removed.
    deployment: Option<Arc<Deployment>>,
    canary: Option<Arc<(Deployment, Share)>>,
}

impl Service {
    /// What its slots are to run.
    pub fn target(&self) -> Target {
        let tried = |canary: &Canary| {
            Some(Arc::new((self.deployment(canary.deployment)?.clone(), canary.share())))
        };
        let canary = self.live_canary().and_then(tried);
        Target {
            service: self.name.clone(),
            generation: self.generation,
            deployment: self.deployment(self.current).cloned().map(Arc::new),
            canary,
        }
    }
}

impl Target {
    /// Nothing: the service was removed in this generation.
    pub fn removal(service: ServiceName, generation: u64) -> Self {
        Self { service, generation, deployment: None, canary: None }
    }

    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The service's own, whatever some slots try.
    pub fn deployment(&self) -> Option<&Deployment> {
        self.deployment.as_deref()
    }

    /// What some slots try.
    pub fn canary(&self) -> Option<&Deployment> {
        self.canary.as_deref().map(|(deployment, _)| deployment)
    }

    /// What came last: the canary where there is one, else the service's own.
    ///
    /// # Errors
    /// As [`Target::require`].
    pub fn newest(&self) -> Result<&Deployment, Error> {
        self.canary().map_or_else(|| self.require(), Ok)
    }

    /// # Errors
    /// `internal`: the service is removed, or a bug.
    pub fn require(&self) -> Result<&Deployment, Error> {
        self.deployment()
            .ok_or_else(|| Error::internal(format!("{} has no current deployment", self.service)))
    }

    /// The deployment's number, [`REMOVED`] where there is none.
    pub fn id(&self) -> DeploymentId {
        self.deployment().map_or(REMOVED, |deployment| deployment.id)
    }

    /// What slots switch to, in words: the deployment's label, and that of a canary.
    pub fn label(&self) -> Arc<str> {
        match (&self.deployment, self.canary.as_deref()) {
            (None, _) => REMOVED_LABEL.into(),
            (Some(own), None) => own.label.clone(),
            (Some(own), Some((tried, share))) => {
                format!("{}, in {} slots {}", own.label, share.slots(), tried.label).into()
            }
        }
    }

    pub fn is_removal(&self) -> bool {
        self.deployment.is_none()
    }

    /// Whether a slot has yet to switch to this; `at` is the generation that it runs, if it runs
    /// the service. A slot that never ran the service has nothing to stop.
    pub fn is_ahead_of(&self, at: Option<u64>) -> bool {
        at.map_or(!self.is_removal(), |at| at < self.generation)
    }

    /// The deployment that a slot runs.
    fn in_slot(&self, slot: SlotId) -> DeploymentId {
        match self.canary.as_deref() {
            Some((deployment, share)) if share.has(slot) => deployment.id,
            _ => self.id(),
        }
    }

    /// The record that switches a slot to this.
    pub fn record(&self, slot: SlotId) -> Activate {
        Activate {
            service: self.service.clone(),
            generation: self.generation,
            deployment: self.in_slot(slot),
        }
    }

    /// All that slots run: the service's own first.
    pub fn deployments(&self) -> impl Iterator<Item = &Deployment> {
        self.deployment().into_iter().chain(self.canary())
    }

    /// What must be loaded to run this.
    pub fn components(&self) -> impl Iterator<Item = Digest> + use<> {
        let digest = |deployment: &Deployment| deployment.digest;
        let digests = [self.deployment().map(digest), self.canary().map(digest)];
        digests.into_iter().flatten()
    }

    /// Whether all that it needs is loaded, in use or not.
    pub fn is_loaded(&self, plugins: &PluginHost) -> bool {
        self.components().all(|digest| plugins.is_loaded(digest))
    }

    /// Loads all that it runs, each if it is not loaded: in the order of [`Target::deployments`].
    ///
    /// # Errors
    /// `plugin-unavailable`; `internal` for a removal.
    pub async fn load(&self, plugins: &PluginHost) -> Result<Vec<Arc<Plugin>>, Error> {
        self.require()?;
        let mut all = Vec::new();
        for deployment in self.deployments() {
            let loaded = plugins.load(deployment.digest).await;
            all.push(loaded.map_err(|why| Self::unavailable(deployment, &why))?);
        }
        Ok(all)
    }

    /// Loads the service's own plugin, if that is not loaded.
    ///
    /// # Errors
    /// `plugin-unavailable`; `internal` for a removal.
    pub async fn load_own(&self, plugins: &PluginHost) -> Result<Arc<Plugin>, Error> {
        let deployment = self.require()?;
        let loaded = plugins.load(deployment.digest).await;
        loaded.map_err(|why| Self::unavailable(deployment, &why))
    }

    /// Why a deployment can't be run now.
    pub fn unavailable(deployment: &Deployment, why: &impl ToString) -> Error {
        Error::new(Code::PluginUnavailable, why.to_string()).with_plugin(&*deployment.label)
    }
}

/// What a session's next call runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionTarget {
    /// On this deployment, with its state as it is.
    Runs(DeploymentId),
    /// On the deployment that it stays on: the slot's one has refused it.
    Pinned { on: DeploymentId, pin: Pin },
    /// On `to` if its `migrate` takes the session over.
    Migrates { from: DeploymentId, to: DeploymentId },
}

/// What a session runs in a slot that runs `active`; `head` is `None` of one that does not exist yet.
pub fn of_session(active: &Activate, head: Option<&Head>) -> SessionTarget {
    let to = active.deployment;
    let Some(head) = head.filter(|head| head.deployment != to) else {
        return SessionTarget::Runs(to);
    };
    match &head.pinned {
        Some(pin) if pin.against == to => {
            SessionTarget::Pinned { on: head.deployment, pin: pin.clone() }
        }
        _ => SessionTarget::Migrates { from: head.deployment, to },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Change;

    fn service(digests: &[u8]) -> Result<Service, Error> {
        let name = ServiceName::parse("cart")?;
        let mut service = None;
        for n in digests {
            let digest = Digest([*n; 32]);
            service = Service::deployed(service.as_ref(), &name, None, digest, &Change::default())?;
        }
        service.ok_or_else(|| Error::internal("no service"))
    }

    #[test]
    fn a_slot_is_behind_until_it_runs_the_generation() -> Result<(), Error> {
        let target = service(&[1, 2])?.target();
        assert_eq!((target.generation(), target.id(), target.is_removal()), (2, 2, false));
        assert!(target.is_ahead_of(None) && target.is_ahead_of(Some(1)));
        // Also if a peer that knew of more has had the slot.
        assert!(!target.is_ahead_of(Some(2)) && !target.is_ahead_of(Some(3)));
        let record = target.record(0);
        assert_eq!((record.generation, record.deployment), (2, 2));
        assert!(!target.is_ahead_of(Some(record.generation)));
        assert_eq!(target.components().collect::<Vec<_>>(), [Digest([2; 32])]);
        Ok(())
    }

    /// A slot would run one version and be told of another, or a node would take a slot whose version it has not loaded.
    #[test]
    fn a_canary_is_run_by_its_slots_and_loaded_by_all() -> Result<(), Error> {
        let running = service(&[1])?;
        let options = crate::service::canary::CanaryOptions::default();
        let change = Change::default();
        let tried = running.with_canary(None, Digest([2; 32]), &change, &options, 512)?;
        let tried = tried.ok_or_else(|| Error::internal("no canary"))?;
        let target = tried.target();
        let runs = |id| (0..512).filter(|slot| target.record(*slot).deployment == id).count();
        assert_eq!((target.id(), runs(1), runs(2)), (1, 506, 6));
        assert!((0..512).all(|slot| target.record(slot).generation == 2));
        assert_eq!(target.components().collect::<Vec<_>>(), [Digest([1; 32]), Digest([2; 32])]);
        let back = tried.with_canary_aborted("no".into(), None)?.target();
        assert!((0..512).all(|slot| back.record(slot).deployment == 1) && back.generation() == 3);
        Ok(())
    }

    /// A record of a removal in a slot that never ran the service would have the slot searched for
    /// sessions that it can't have.
    #[test]
    fn a_removal_is_for_slots_that_ran_the_service() -> Result<(), Error> {
        let running = service(&[1])?;
        let removed = running.removed(&Change::default());
        let by_its_generation = Target::removal(removed.name.clone(), removed.since);
        for target in [removed.target(), by_its_generation] {
            assert!(target.is_removal() && target.require().is_err());
            assert!(!target.is_ahead_of(None) && target.is_ahead_of(Some(1)));
            assert!(!target.is_ahead_of(Some(2)));
            assert_eq!((target.record(0).deployment, &*target.label()), (REMOVED, REMOVED_LABEL));
            assert_eq!(target.components().count(), 0);
        }
        Ok(())
    }

    #[test]
    fn a_session_is_asked_once_by_each_deployment() -> Result<(), Error> {
        let active = service(&[1, 2])?.target().record(0);
        let head = |deployment, against: Option<DeploymentId>| Head {
            deployment,
            pinned: against.map(|against| Pin { against, reason: "no".into() }),
            ..Head::default()
        };
        let target = |head: Option<Head>| of_session(&active, head.as_ref());
        assert_eq!(target(None), SessionTarget::Runs(2));
        assert_eq!(target(Some(head(2, None))), SessionTarget::Runs(2));
        assert_eq!(target(Some(head(1, None))), SessionTarget::Migrates { from: 1, to: 2 });
        let pinned = SessionTarget::Pinned { on: 1, pin: Pin { against: 2, reason: "no".into() } };
        assert_eq!(target(Some(head(1, Some(2)))), pinned);
        // Another one is tried afresh.
        assert_eq!(target(Some(head(1, Some(9)))), SessionTarget::Migrates { from: 1, to: 2 });
        // A rollback to what it is pinned to takes it as it is.
        assert_eq!(target(Some(head(2, Some(9)))), SessionTarget::Runs(2));
        Ok(())
    }
}
