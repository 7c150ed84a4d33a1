//! Takes messages that handlers have failed, and makes captures of them.

use super::{
    redactions::Redactions,
    store::{Store, kind_of},
};
use crate::{
    capture::{Capture, Captured, Component, OutcomeForm, redact, run},
    limits,
    log::record::DeploymentId,
    names::ServiceName,
    plugin::{Isolation, PluginHost},
    replay::aside,
    replay_engine::{Base, Instances, Version},
    service::Catalogue,
    slot::failed::{FailedMessage, Failures},
    telemetry::repeats,
};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, watch};

/// What it needs of its node.
pub struct Parts {
    pub store: Arc<Store>,
    pub catalogue: Arc<Catalogue>,
    pub plugins: Arc<PluginHost>,
    pub redactions: Redactions,
    /// A permit a thread, of all that the node may have to run messages again.
    pub threads: Arc<Semaphore>,
}

/// What slots hand failed messages to.
pub struct Keeper {
    store: Arc<Store>,
    catalogue: Arc<Catalogue>,
    queue: mpsc::Sender<Box<FailedMessage>>,
}

impl Failures for Keeper {
    fn wants(&self, service: &ServiceName, on: DeploymentId, kind: &'static str) -> bool {
        if self.queue.capacity() == 0 {
            return false;
        }
        let known = self.catalogue.deployment(service, on);
        known.is_some_and(|known| self.store.wants(known.digest, kind))
    }

    fn take(&self, failed: Box<FailedMessage>) {
        // With more than wait already, this one is left out.
        let _ = self.queue.try_send(failed);
    }
}

impl Keeper {
    /// Starts it, on the runtime of whoever calls.
    pub fn start(parts: Parts, stopping: watch::Receiver<bool>) -> Arc<Self> {
        let (queue, failed) = mpsc::channel(limits::CAPTURES_QUEUED_MAX);
        let (store, catalogue) = (parts.store.clone(), parts.catalogue.clone());
        crate::task::spawn("captures", keep(Arc::new(parts), failed, stopping));
        Arc::new(Self { store, catalogue, queue })
    }
}

async fn keep(
    parts: Arc<Parts>,
    mut failed: mpsc::Receiver<Box<FailedMessage>>,
    stopping: watch::Receiver<bool>,
) {
    loop {
        let next = tokio::select! {
            next = failed.recv() => next,
            () = crate::files::stopped(stopping.clone()) => return,
        };
        let Some(next) = next else { return };
        let Ok(permit) = parts.threads.clone().acquire_owned().await else { return };
        let parts = parts.clone();
        let made = aside::start("slotd-replay", "a capture", permit, move || async move {
            make(&parts, *next).await
        });
        let Ok(made) = made else { continue };
        if let Ok(Ok(Err(why))) = made.await
            && repeats::admit("a message that failed was not captured", &why)
        {
            tracing::warn!("a message that failed was not captured: {why}");
        }
    }
}

async fn make(parts: &Parts, failed: FailedMessage) -> Result<(), String> {
    let FailedMessage { key, head, state, effects, entry, kind, why } = failed;
    let Some(kind) = kind_of(kind) else { return Ok(()) };
    let service = key.service.clone();
    let deployment = |id| parts.catalogue.deployment(&service, id);
    let on = deployment(entry.deployment).ok_or("its deployment is not in the catalogue")?;
    let Some(expected) = parts.store.expect(on.digest, kind.as_str()) else { return Ok(()) };
    let migrates = head.seq > 0 && head.deployment != entry.deployment;
    let migrates_from = match migrates {
        true => {
            let from = deployment(head.deployment);
            Some(from.ok_or("the deployment before it is not in the catalogue")?.version)
        }
        false => None,
    };
    let (session, seq) = (key.to_string(), entry.seq);
    let mut capture = Capture::new(Captured {
        kind,
        what: why.clone(),
        key,
        component: Component::new(on.digest, &on.version, on.same_state),
        migrates_from,
        base: Base {
            seq: head.seq,
            created_ms: head.created_ms,
            updated_ms: head.updated_ms,
            deployment: head.deployment,
            state,
            effects,
        },
        entry,
        outcome: OutcomeForm::failure(kind.as_str(), &why),
    });
    let redactions = parts.redactions.of(&service);
    if !redactions.is_empty() {
        redact(&mut capture, &redactions);
        let plugin = parts.plugins.load(on.digest).await.map_err(|why| why.to_string())?;
        let (version, same_state) = (on.version.clone(), on.same_state);
        let version = Version { id: on.id, plugin, version, label: on.label.clone(), same_state };
        // What came out may have what was redacted.
        let ran = run(&capture, &version, &mut Instances::new(Isolation::Call)).await;
        capture.remade(&ran.map_err(|why| why.to_string())?.outcome);
    }
    let name = expected.write(&capture)?;
    tracing::info!(
        %session, seq, plugin = %on.label, kind = kind.as_str(), name,
        "captured a message that failed: slotd captures --get {name}"
    );
    Ok(())
}
