//! Captures: of a message that is in a history, and those that the nodes have made by themselves.

use super::*;
use crate::{
    capture::{Capture, Redaction},
    captures::{CaptureInfo, Keeper, Parts, Redactions, Store},
    log::record::Entry,
    operation::{Describe, ReadHistory},
    replay::{Progress, Versions, aside, captured},
};
use futures_util::FutureExt as _;

/// The captures of a node.
pub(super) struct Captures {
    pub store: Arc<Store>,
    pub redactions: Redactions,
}

impl Captures {
    /// Opens them, and has slots hand over what fails.
    pub fn start(
        data_dir: &DataDir,
        context: &SlotContext,
        redactions: Redactions,
        threads: Arc<Semaphore>,
        stopping: watch::Receiver<bool>,
    ) -> Result<Self, Error> {
        let store = Store::open(data_dir.path(), &context.node, data_dir.keys().clone());
        let store = store.map_err(|why| Error::internal(format!("the captures: {why}")))?;
        let store = Arc::new(store);
        let parts = Parts {
            store: store.clone(),
            catalogue: context.catalogue.clone(),
            plugins: context.plugins.clone(),
            redactions: redactions.clone(),
            threads,
        };
        let _ = context.failures.set(Keeper::start(parts, stopping));
        Ok(Self { store, redactions })
    }
}

/// What is wanted of a message.
#[derive(Clone, Debug, Default)]
pub struct CaptureSpec {
    /// `None`: the last one.
    pub seq: Option<u64>,
    /// Beside what the policy says.
    pub redact: Vec<Redaction>,
    pub with_component: bool,
}

/// The captures of all nodes that answered.
pub struct CaptureList {
    pub captures: Vec<CaptureInfo>,
    pub silent: Vec<SilentNode>,
}

impl Node {
    /// Makes a capture of a message.
    ///
    /// # Errors
    /// `session-not-found`, `request-invalid`: there is no such message, or none that can be captured;
    /// `plugin-unavailable`: a version that handled one of the messages is gone; `unavailable`.
    pub async fn capture(
        self: Arc<Self>,
        key: SessionKey,
        spec: CaptureSpec,
    ) -> Result<Capture, Error> {
        let CaptureSpec { seq, mut redact, with_component } = spec;
        let consistency = Consistency::Current;
        let info = self.call(Describe { key: key.clone(), consistency }).await?;
        let seq = seq.unwrap_or(info.seq);
        if seq == 0 || seq > info.seq {
            let why = format!("{key} has no message {seq}; its last one is {}", info.seq);
            return Err(Error::new(Code::RequestInvalid, why));
        }
        let mut redactions = self.captures.redactions.of(&key.service);
        redactions.append(&mut redact);
        let permit = self.audits.threads().acquire_owned();
        let permit = tokio::time::timeout(limits::CAPTURE_TIME_MAX, permit).await;
        let Ok(Ok(permit)) = permit else {
            let why = "all threads that run histories again are busy";
            return Err(Error::new(Code::LimitReached, why));
        };
        let node = self.clone();
        let made = aside::start("slotd-replay", "a capture", permit, move || async move {
            node.capture_at(&key, seq, &redactions).await
        });
        let made = made.map_err(|why| Error::internal(format!("can't start a thread: {why}")))?;
        let gone = |_| Error::internal("the thread of a capture is gone");
        let made = made.await.map_err(gone)?;
        let mut capture = made.map_err(|panicked| Error::internal(panicked.to_string()))??;
        if with_component {
            let digest = capture.component.digest;
            let wasm = self.context.plugins.component(digest).await;
            let wasm = wasm.map_err(|why| Error::new(Code::PluginUnavailable, why.to_string()))?;
            capture.component = capture.component.with(&wasm);
        }
        Ok(capture)
    }

    async fn capture_at(
        &self,
        key: &SessionKey,
        seq: u64,
        redactions: &[Redaction],
    ) -> Result<Capture, Error> {
        let (catalogue, plugins) = (self.context.catalogue.clone(), self.context.plugins.clone());
        let versions = Versions::new(key.service.clone(), catalogue, plugins);
        let progress = Progress::new(crate::clock::now() + limits::CAPTURE_TIME_MAX);
        let page = |after| self.page_of(key, after).boxed();
        captured(key, seq, &page, &versions, redactions, &progress).await
    }

    /// A page of a session's history, from wherever it is.
    async fn page_of(&self, key: &SessionKey, after: u64) -> Result<Vec<Arc<Entry>>, Error> {
        let range = Range::After { seq: after, limit: limits::PAGE_ENTRIES_MAX };
        let until = crate::clock::timer_now() + limits::WRITE_STALL;
        loop {
            let (reader, consistency) = (ReadBy::Operator, Consistency::Current);
            let read = ReadHistory { key: key.clone(), range, reader, consistency };
            match self.call(read).await {
                // Another node does not know who asks: its clients hold what it has.
                Err(full)
                    if full.code == Code::BuffersFull && crate::clock::timer_now() < until =>
                {
                    tokio::time::sleep(limits::EXPORT_RETRY).await;
                }
                page => return Ok(page?.entries.into_iter().map(|(entry, _)| entry).collect()),
            }
        }
    }

    /// The captures that nodes have made by themselves.
    ///
    /// # Errors
    /// `internal`.
    pub async fn captures(&self, service: Option<ServiceName>) -> Result<CaptureList, Error> {
        let asked = CapturesAsk::List { service };
        let own = self.captures_here(asked.clone()).await?;
        let mut list = CaptureList { captures: Vec::new(), silent: Vec::new() };
        if let CapturesGiven::List(own) = own {
            list.captures.extend(own);
        }
        if let Some(cluster) = &self.cluster {
            for (node, answer) in cluster.ask_all(&ControlRequest::Captures(asked)).await {
                match answer {
                    Ok(ControlResponse::Captures(given)) => {
                        if let CapturesGiven::List(some) = *given {
                            list.captures.extend(some);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let why = error.detail.into();
                        list.silent.push(SilentNode { node: node.to_string(), why });
                    }
                }
            }
        }
        list.captures.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(list)
    }

    /// One that some node has made by itself.
    ///
    /// # Errors
    /// `capture-not-found`.
    pub async fn own_capture(&self, name: &str) -> Result<Vec<u8>, Error> {
        let asked = CapturesAsk::Get { name: name.to_owned() };
        match self.of_any_node(asked).await? {
            Some(CapturesGiven::Text(text)) => Ok(text.into_bytes()),
            _ => Err(no_capture(name)),
        }
    }

    /// Removes one.
    ///
    /// # Errors
    /// `capture-not-found`.
    pub async fn remove_capture(&self, name: &str) -> Result<(), Error> {
        let asked = CapturesAsk::Remove { name: name.to_owned() };
        match self.of_any_node(asked).await? {
            Some(_) => Ok(()),
            None => Err(no_capture(name)),
        }
    }

    async fn of_any_node(&self, asked: CapturesAsk) -> Result<Option<CapturesGiven>, Error> {
        match self.captures_here(asked.clone()).await? {
            CapturesGiven::None => {}
            given => return Ok(Some(given)),
        }
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let mut silent = None;
        for (_, answer) in cluster.ask_all(&ControlRequest::Captures(asked)).await {
            match answer {
                Ok(ControlResponse::Captures(given)) => match *given {
                    CapturesGiven::None => {}
                    given => return Ok(Some(given)),
                },
                Ok(_) => {}
                Err(error) => silent = Some(error),
            }
        }
        // It may be where nobody answers.
        silent.map_or(Ok(None), Err)
    }

    /// Of this node.
    pub(super) fn captures_here(
        &self,
        asked: CapturesAsk,
    ) -> impl Future<Output = Result<CapturesGiven, Error>> + Send + use<> {
        let store = self.captures.store.clone();
        async move {
            let given = crate::task::blocking(move || match asked {
                CapturesAsk::List { service } => {
                    Ok(CapturesGiven::List(store.list(service.as_ref())))
                }
                CapturesAsk::Get { name } => {
                    let text = store.get(&name)?.map(String::from_utf8).transpose();
                    let text = text.map_err(|_| format!("capture {name} is damaged"))?;
                    Ok(text.map_or(CapturesGiven::None, CapturesGiven::Text))
                }
                CapturesAsk::Remove { name } => {
                    let removed = store.remove(&name).map_err(|why| why.to_string())?;
                    Ok(if removed { CapturesGiven::Removed } else { CapturesGiven::None })
                }
            });
            let given: Result<CapturesGiven, String> =
                given.await.map_err(|why| Error::internal(why.to_string()))?;
            given.map_err(Error::internal)
        }
    }
}

fn no_capture(name: &str) -> Error {
    Error::new(Code::CaptureNotFound, format!("no node has a capture {name:?}"))
}
