//! A swap: every slot switches to another deployment, each between two of its messages, by a record
//! in its own log.

mod info;

pub use info::{SwapInfo, SwapShare};

use crate::{
    backoff::Backoff,
    error::Error,
    limits,
    message::{Purpose, gone},
    names::{ServiceName, SlotId},
    router::{Place, Router},
    service::Target,
    slot::{Activation, Order},
    telemetry::{metrics, repeats},
};
use futures_util::{StreamExt, stream};
use info::quantile;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
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
    end: watch::Sender<End>,
}

/// A swap's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    /// Every slot has switched.
    Done,
    /// A later generation switches the slots now, including those that this one had not.
    Superseded(u64),
}

#[derive(Default)]
struct Progress {
    pauses: Vec<Duration>,
    /// Slots that left this node meanwhile: they switch on their new node.
    left: usize,
    finished: Option<Duration>,
    /// Slots that have not switched yet.
    errors: BTreeMap<SlotId, String>,
}

impl Swap {
    pub fn new(generation: u64, from: Option<Arc<str>>, to: Arc<str>, slots: Vec<SlotId>) -> Self {
        Self {
            generation,
            from,
            to,
            slots,
            started_ms: crate::clock::now_ms(),
            started: crate::clock::now(),
            progress: Mutex::default(),
            end: watch::Sender::new(End::No),
        }
    }

    /// Switches every slot, [`limits::SWAP_CONCURRENCY_MAX`] at a time. A slot that can't switch
    /// now is retried, with back-off, until `stopping` reports that the node ends or a later swap
    /// takes over.
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
                        biased;
                        // An order in flight belongs to an older generation by then.
                        () = this.ended() => {}
                        _ = stopping.wait_for(|stopping| *stopping) => {}
                        () = this.move_slot(router, slot, activation) => {}
                    }
                }
            })
            .await;
        let mut progress = self.progress.lock();
        if progress.pauses.len() + progress.left == self.slots.len() && self.finish(End::Done) {
            let elapsed = self.started.elapsed();
            progress.finished = Some(elapsed);
            drop(progress);
            give_up_older(&router, &activation.target);
            tracing::info!(
                service = %activation.target.service(),
                to = %self.to,
                slots = self.slots.len(),
                elapsed_ms = elapsed.as_millis() as u64,
                "swap done"
            );
        }
    }

    /// Ends a swap in progress, because the slots switch to a later generation; returns whether it
    /// was in progress.
    pub fn supersede(&self, by: u64) -> bool {
        self.finish(End::Superseded(by))
    }

    /// The first end counts.
    fn finish(&self, how: End) -> bool {
        self.end.send_if_modified(|end| {
            let first = *end == End::No;
            if first {
                *end = how;
            }
            first
        })
    }

    async fn ended(&self) {
        let mut end = self.end.subscribe();
        // It can't be gone: this swap owns it.
        let _ = end.wait_for(|end| *end != End::No).await;
    }

    async fn move_slot(&self, router: &Router, slot: SlotId, activation: &Activation) {
        let mut backoff = Backoff::new(limits::SWAP_RETRY_MIN, limits::SWAP_RETRY_MAX);
        loop {
            match activate(router, slot, activation).await {
                Ok(pause) => {
                    metrics().swap_pause_seconds.record(pause);
                    let mut progress = self.progress.lock();
                    progress.pauses.push(pause);
                    progress.errors.remove(&slot);
                    return;
                }
                Err(_) if router.place(slot) != Place::Here => {
                    let mut progress = self.progress.lock();
                    progress.left += 1;
                    progress.errors.remove(&slot);
                    return;
                }
                Err(error) => {
                    self.log_retry(activation.target.service(), slot, &error);
                    self.progress.lock().errors.insert(slot, error.to_string());
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// All slots of a node may fail for one reason, repeatedly.
    fn log_retry(&self, service: &ServiceName, slot: SlotId, error: &Error) {
        if repeats::admit("a slot did not switch", service) {
            tracing::warn!(
                %service,
                from = self.from.as_deref(),
                to = %self.to,
                slot,
                %error,
                "a slot did not switch; trying again"
            );
        }
    }

    /// Waits until every slot has switched or another swap has taken over, at most `wait`.
    pub async fn wait(&self, wait: Duration) {
        let _ = tokio::time::timeout(wait, self.ended()).await;
    }

    /// For a peer that adds up all nodes' shares.
    pub fn share(&self) -> SwapShare {
        SwapShare { info: self.info(), pauses_us: micros(&self.progress.lock().pauses) }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn is_done(&self) -> bool {
        *self.end.borrow() == End::Done
    }

    /// Every slot has switched, or another swap switches the rest.
    pub fn has_ended(&self) -> bool {
        *self.end.borrow() != End::No
    }

    pub fn info(&self) -> SwapInfo {
        let progress = self.progress.lock();
        let mut pauses = micros(&progress.pauses);
        pauses.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&pauses, share);
        let elapsed = progress.finished.unwrap_or_else(|| self.started.elapsed());
        let error = match *self.end.borrow() {
            End::Superseded(by) => Some(format!("superseded by generation {by}")),
            _ => progress.errors.iter().next().map(|(slot, why)| format!("slot {slot}: {why}")),
        };
        SwapInfo {
            generation: self.generation,
            from: self.from.as_ref().map(ToString::to_string),
            to: self.to.to_string(),
            slots: self.slots.len() as u32,
            moved: (pauses.len() + progress.left) as u32,
            done: progress.finished.is_some(),
            error,
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

/// Drops the instances of versions that the service does not run any more. Unmapping takes time: not
/// for a thread that serves.
fn give_up_older(router: &Router, target: &Target) {
    let context = router.context();
    // Another swap may have ended since.
    let newest = context.catalogue.get(target.service());
    let newest = newest.map_or_else(|| target.clone(), |newest| newest.target());
    let current: Vec<_> = newest.deployments().map(|deployment| deployment.id).collect();
    let (plugins, service) = (context.plugins.clone(), target.service().clone());
    crate::task::blocking(move || plugins.pool().supersede(&service, &current));
}

/// Makes a slot switch; returns the time for which it accepted no message.
async fn activate(
    router: &Router,
    slot: SlotId,
    activation: &Activation,
) -> Result<Duration, Error> {
    let (reply, moved) = oneshot::channel();
    router.order(slot, Order::Activate { activation: activation.clone(), reply }).await?;
    moved.await.unwrap_or_else(|_| Err(gone(Purpose::Step)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Code, telemetry::captured_log::CapturedLog};

    /// Five hundred slots that can't switch retry every two seconds: they would fill the disk with
    /// lines that do not name the cause.
    #[test]
    fn slots_that_can_not_switch_say_so_a_few_times_and_of_what() {
        let captured = CapturedLog::default();
        let _listening = captured.listen();
        let service = ServiceName::parse("stuck-in-a-swap").unwrap();
        let swap = Swap::new(2, Some("1.0.0+ab".into()), "2.0.0+cd".into(), (0..512).collect());
        for slot in 0..512 {
            let error = Error::new(Code::StorageUnavailable, "no room");
            swap.log_retry(&service, slot, &error);
        }
        let text = captured.text();
        let lines: Vec<&str> =
            text.lines().filter(|line| line.contains("did not switch")).collect();
        assert_eq!(lines.len(), limits::REPEATS_LOGGED_MAX as usize, "{text}");
        for part in ["service=stuck-in-a-swap", "1.0.0+ab", "to=2.0.0+cd", "slot=0", "no room"] {
            assert!(lines[0].contains(part), "{part}: {}", lines[0]);
        }
    }
}
