//! A swap: every slot goes over to another deployment, at a message boundary of its own, by a
//! record in its own log.

use crate::{
    error::{Code, Error},
    limits,
    names::SlotId,
    node_types::{SwapInfo, SwapShare, quantile},
    plugin::PluginError,
    router::{Place, Router},
    slot::{Activation, Order, Prepared, now_ms},
    telemetry::metrics,
};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{oneshot, watch};

/// The progress of one swap.
pub struct Swap {
    generation: u64,
    from: Option<Arc<str>>,
    pub to: Arc<str>,
    slots: Vec<SlotId>,
    started_ms: u64,
    started: Instant,
    progress: Mutex<Progress>,
    done: watch::Sender<bool>,
}

#[derive(Default)]
struct Progress {
    pauses: Vec<Duration>,
    /// Slots that left this node meanwhile: they go over where they are.
    left: usize,
    finished: Option<Duration>,
    error: Option<String>,
}

impl Swap {
    pub fn new(generation: u64, from: Option<Arc<str>>, to: Arc<str>, slots: Vec<SlotId>) -> Self {
        Self {
            generation,
            from,
            to,
            slots,
            started_ms: now_ms(),
            started: Instant::now(),
            progress: Mutex::default(),
            done: watch::Sender::new(false),
        }
    }

    /// Moves every slot, [`limits::SWAP_CONCURRENCY_MAX`] at a time. A slot that can't be moved
    /// now is tried again, with back-off, until `stopping` says that the node ends.
    pub async fn run(
        self: Arc<Self>,
        router: Arc<Router>,
        activation: Activation,
        stopping: watch::Receiver<bool>,
    ) {
        stream::iter(&self.slots)
            .for_each_concurrent(limits::SWAP_CONCURRENCY_MAX, |&slot| {
                let (router, activation, mut stopping) = (&router, &activation, stopping.clone());
                let this = &self;
                async move {
                    tokio::select! {
                        () = this.move_slot(router, slot, activation) => {}
                        _ = stopping.wait_for(|stopping| *stopping) => {}
                    }
                }
            })
            .await;
        let mut progress = self.progress.lock();
        if progress.pauses.len() + progress.left == self.slots.len() {
            let elapsed = self.started.elapsed();
            progress.finished = Some(elapsed);
            progress.error = None;
            drop(progress);
            tracing::info!(
                service = %activation.record.service,
                to = %self.to,
                slots = self.slots.len(),
                elapsed_ms = elapsed.as_millis() as u64,
                "swap done"
            );
            self.done.send_replace(true);
        }
    }

    async fn move_slot(&self, router: &Router, slot: SlotId, activation: &Activation) {
        let mut backoff = limits::SWAP_RETRY_MIN;
        loop {
            match activate(router, slot, activation).await {
                Ok(pause) => {
                    metrics().swap_pause_seconds.record(pause);
                    self.progress.lock().pauses.push(pause);
                    return;
                }
                Err(_) if router.place(slot) != Place::Here => {
                    self.progress.lock().left += 1;
                    return;
                }
                Err(error) => {
                    tracing::warn!(slot, %error, "a slot did not go over; trying again");
                    self.progress.lock().error = Some(format!("slot {slot}: {error}"));
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(limits::SWAP_RETRY_MAX);
        }
    }

    /// Waits until every slot has moved, `wait` at most.
    pub async fn wait(&self, wait: Duration) {
        let mut done = self.done.subscribe();
        let _ = tokio::time::timeout(wait, done.wait_for(|done| *done)).await;
    }

    /// For a peer that adds the shares of all nodes up.
    pub fn share(&self) -> SwapShare {
        SwapShare { info: self.info(), pauses_us: micros(&self.progress.lock().pauses) }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn is_done(&self) -> bool {
        *self.done.borrow()
    }

    pub fn info(&self) -> SwapInfo {
        let progress = self.progress.lock();
        let mut pauses = micros(&progress.pauses);
        pauses.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&pauses, share);
        let elapsed = progress.finished.unwrap_or_else(|| self.started.elapsed());
        SwapInfo {
            generation: self.generation,
            from: self.from.as_ref().map(ToString::to_string),
            to: self.to.to_string(),
            slots: self.slots.len() as u32,
            moved: (pauses.len() + progress.left) as u32,
            done: progress.finished.is_some(),
            error: progress.error.clone(),
            started_ms: self.started_ms,
            elapsed_ms: elapsed.as_secs_f64() * 1e3,
            pause_p50_us: at(0.5),
            pause_p99_us: at(0.99),
            pause_max_us: at(1.0),
        }
    }
}

fn micros(pauses: &[Duration]) -> Vec<f64> {
    pauses.iter().map(|pause| pause.as_secs_f64() * 1e6).collect()
}

async fn activate(
    router: &Router,
    slot: SlotId,
    activation: &Activation,
) -> Result<Duration, Error> {
    let (reply, moved) = oneshot::channel();
    let service = &activation.record.service;
    // A slot in which the service is used goes on with an instance that is there already.
    let running = router.running(slot)?.filter(|slot| slot.stats.memory.has_service(service));
    let prepared = match running {
        Some(running) => {
            let budget = router.context().plugins.budget();
            let account = budget.account(service, running.stats.memory.clone());
            match activation.plugin.instantiate(account, Duration::ZERO).await {
                Ok(instance) => Prepared::Instance(Box::new(instance)),
                Err(PluginError::NoMemory(_)) => Prepared::NoMemory,
                // The slot tries again, and says why it can't.
                Err(_) => Prepared::Nothing,
            }
        }
        None => Prepared::Nothing,
    };
    let activation = activation.clone();
    router.order(slot, Order::Activate { activation, prepared, reply }).await?;
    moved.await.unwrap_or_else(|_| Err(Error::new(Code::Unavailable, "the slot stopped")))
}
