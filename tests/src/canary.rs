//! Canaries under traffic: versions to try, clients that talk meanwhile, and what they saw.

use crate::{
    api::{Admin, Api, Message, encode},
    http::{Answer, Client},
    node::eventually,
    plugins,
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};
use tokio::{sync::watch, task::JoinHandle};

pub const SERVICE: &str = "counter";
const WORKERS: usize = 16;
/// Of a worker.
const SESSIONS: usize = 24;
/// One of so many messages is of the kind that `hostile` traps at; the counter counts it as any other.
const TRAP_EVERY: usize = 6;

/// The version before: a service takes its own sessions back, whatever they were since.
pub async fn deploy_first(admin: &Admin) -> anyhow::Result<String> {
    let path = format!("/admin/v1/services/{SERVICE}/deploy?version=1.0.0&same_state=true");
    let answer = upload(admin, &path, plugins::load(SERVICE)?).await?.success()?;
    let answer: Value = answer.json()?;
    Ok(answer["current"]["label"].as_str().context("no label")?.to_owned())
}

/// The same, as another component.
pub fn good() -> anyhow::Result<Bytes> {
    let mut component = plugins::load(SERVICE)?.to_vec();
    // A custom section without effect.
    component.extend([0, 3, 1, b'n', 1]);
    Ok(component.into())
}

/// Begins a canary, with these further parameters.
pub async fn begin(admin: &Admin, component: Bytes, further: &str) -> anyhow::Result<Answer> {
    let path = format!("/admin/v1/services/{SERVICE}/deploy?version=2.0.0&{further}");
    upload(admin, &path, component).await
}

async fn upload(admin: &Admin, path: &str, component: Bytes) -> anyhow::Result<Answer> {
    let headers = [("content-type", "application/wasm")];
    admin.client.request(Method::POST, path, &headers, component).await
}

/// What is known of the canary.
pub async fn status(admin: &Admin) -> anyhow::Result<Value> {
    let path = format!("/admin/v1/services/{}/swap", encode(SERVICE));
    let answer: Value = admin.client.get(&path).await?.success()?.json()?;
    Ok(answer["canary"].clone())
}

/// Promotes, holds, resumes or aborts it.
pub async fn change(admin: &Admin, what: &str) -> anyhow::Result<Value> {
    let path = format!("/admin/v1/services/{SERVICE}/swap?canary={what}");
    let answer: Value = admin.client.post(&path, "").await?.success()?.json()?;
    Ok(answer["canary"].clone())
}

/// Waits until it has that state.
pub async fn until(admin: &Admin, state: &str) -> anyhow::Result<Value> {
    eventually(&format!("a canary that is {state}"), async || {
        // A node that is asked may be starting.
        let Ok(canary) = status(admin).await else { return Ok(None) };
        let is = canary["state"].as_str();
        ensure!(is == Some("running") || is == Some("held") || is == Some(state), "{canary:#}");
        Ok((is == Some(state)).then_some(canary))
    })
    .await
}

/// Waits until it is at that step, from 1.
pub async fn until_step(admin: &Admin, step: u64) -> anyhow::Result<Value> {
    eventually(&format!("step {step} of a canary"), async || {
        let Ok(canary) = status(admin).await else { return Ok(None) };
        ensure!(canary["state"] == "running", "{canary:#}");
        Ok((canary["step"].as_u64() >= Some(step)).then_some(canary))
    })
    .await
}

/// What each slot runs, those that run.
pub async fn running(admin: &Admin) -> anyhow::Result<BTreeMap<u16, String>> {
    let slots = admin.slots().await?.into_iter();
    Ok(slots.filter_map(|slot| Some((slot.slot, slot.plugins.get(SERVICE)?.clone()))).collect())
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub session: String,
    pub status: u16,
    pub code: String,
    /// The label of the version that failed, if one did.
    pub plugin: Option<String>,
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Messages that were acknowledged, by the label of the version that handled them.
    pub handled: BTreeMap<String, u64>,
    /// Of each session.
    pub counts: BTreeMap<String, u64>,
    pub failures: Vec<Failure>,
}

/// Clients that talk until they are told to stop.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    workers: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Traffic {
    /// `targets`: the nodes that may be asked. `kills`: nodes are killed meanwhile, so what ends with a node is tried again, at another
    /// one; only what a version has failed counts as a failure then.
    pub fn start(targets: watch::Receiver<Arc<[SocketAddr]>>, kills: bool) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let worker = |number| {
            let (targets, stop, seen) = (targets.clone(), stop.clone(), seen.clone());
            tokio::spawn(talk(number, targets, kills, stop, seen))
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self { stop, seen, workers }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// # Errors
    /// A worker could not go on.
    pub async fn end(self) -> anyhow::Result<Seen> {
        self.stop.store(true, SeqCst);
        for worker in self.workers {
            worker.await??;
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen.clone())
    }
}

fn is_of_plugin(answer: &Answer) -> anyhow::Result<bool> {
    Ok(answer.problem()?.code.starts_with("plugin-trap"))
}

async fn talk(
    number: usize,
    targets: watch::Receiver<Arc<[SocketAddr]>>,
    kills: bool,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
) -> anyhow::Result<()> {
    let target = |tried: usize| {
        let targets = targets.borrow().clone();
        Api::new(Client::new(targets[(number + tried) % targets.len()]))
    };
    let (mut tried, mut api) = (0, target(0));
    for line in 0.. {
        if stop.load(SeqCst) {
            break;
        }
        let session = format!("w{number}-{}", line % SESSIONS);
        let body = if line % TRAP_EVERY == 1 { r#"{"do":"trap"}"# } else { r#"{"do":"echo"}"# };
        // Under a key: what is tried again counts once.
        let message = Message::bytes(body).typed("application/json").key(format!("{line}"));
        let answer = loop {
            match api.post(SERVICE, &session, message.clone()).await {
                // Of a cluster that moves its slots, or does not know what a node that is gone has done.
                Ok(answer) if kills && answer.status >= 500 && !is_of_plugin(&answer)? => {}
                Ok(answer) => break answer,
                Err(_) if kills => {
                    tried += 1;
                    api = target(tried);
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.status {
            200 => {
                let label = answer.header("slotd-plugin").context("no plugin")?.to_owned();
                *seen.handled.entry(label).or_default() += 1;
                *seen.counts.entry(session).or_default() += 1;
            }
            status => {
                let problem = answer.problem()?;
                let plugin = problem.more.get("plugin").and_then(Value::as_str);
                let plugin = plugin.map(ToOwned::to_owned);
                seen.failures.push(Failure { session, status, code: problem.code, plugin });
            }
        }
    }
    Ok(())
}
