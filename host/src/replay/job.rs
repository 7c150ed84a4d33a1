//! An audit on one node: its threads, its budget, and how far it is.

use super::{
    aside::Threads,
    check::{Checked, Checker, Progress},
    choice::{AuditSpec, Sample, Share},
    report::{AuditShare, Finding, Standing},
    slots::Slots,
    stored::Stored,
    versions::Versions,
};
use crate::{
    error::StateError,
    limits,
    log::record::Head,
    names::{ServiceName, SessionId, SessionKey, SlotId},
    plugin::PluginHost,
    service::Catalogue,
    state::rows::{SlotView, WholeSlots},
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::sync::Semaphore;

/// What a job needs of its node.
pub struct Parts {
    pub node: String,
    pub service: ServiceName,
    pub catalogue: Arc<Catalogue>,
    pub plugins: Arc<PluginHost>,
    pub store: Arc<dyn WholeSlots>,
    /// Those that it looks at: what they have is in the store.
    pub slots: Vec<SlotId>,
    /// Sessions of the service on all nodes, for a sample's share.
    pub sessions_of_all: u64,
    /// A permit a thread, of all that the node may have for this.
    pub threads: Arc<Semaphore>,
}

/// An audit that runs, or has ended. Cheap to share.
pub struct Job {
    pub id: String,
    parts: Parts,
    spec: AuditSpec,
    versions: Versions,
    progress: Progress,
    begun: Instant,
    pieces: Mutex<VecDeque<Piece>>,
    slots: Slots,
    /// Sessions that were run again to find out why they differ.
    diagnosed: AtomicU64,
    share: Mutex<AuditShare>,
}

/// What a thread does next.
enum Piece {
    /// All sessions of a slot.
    Slot(SlotId),
    Sessions(SlotId, Vec<SessionId>),
}

impl Job {
    /// Begins one, on the runtime of whoever calls.
    pub fn start(id: String, spec: AuditSpec, parts: Parts) -> Arc<Self> {
        let begun = crate::clock::now();
        let sample = spec.sample.map(|size| (size, spec.seed));
        let share = AuditShare {
            of_one: spec.session.is_some(),
            ..AuditShare::new(&parts.node, parts.slots.len(), sample, spec.threads())
        };
        let (catalogue, plugins) = (parts.catalogue.clone(), parts.plugins.clone());
        let versions = Versions::new(parts.service.clone(), catalogue, plugins);
        let job = Arc::new(Self {
            id,
            versions,
            progress: Progress::new(begun + spec.time()),
            begun,
            pieces: Mutex::default(),
            slots: Slots::new(parts.store.clone(), parts.service.clone()),
            diagnosed: AtomicU64::new(0),
            share: Mutex::new(share),
            parts,
            spec,
        });
        crate::task::spawn("an audit", job.clone().run());
        job
    }

    pub fn service(&self) -> &ServiceName {
        &self.parts.service
    }

    pub fn is_running(&self) -> bool {
        self.share.lock().standing == Standing::Running
    }

    /// Ends it at its next message.
    pub fn cancel(&self) {
        let mut share = self.share.lock();
        if share.standing == Standing::Running {
            share.standing = Standing::Cancelled;
            share.elapsed_ms = self.elapsed_ms();
        }
        drop(share);
        self.progress.stop();
    }

    /// How far it is.
    pub fn share(&self) -> AuditShare {
        let mut share = self.share.lock().clone();
        share.messages = self.progress.messages.load(Ordering::Relaxed);
        if share.standing == Standing::Running {
            share.elapsed_ms = self.elapsed_ms();
        }
        share
    }

    fn elapsed_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    async fn run(self: Arc<Self>) {
        let job = self.clone();
        let planned = crate::task::blocking(move || job.plan()).await;
        match planned {
            Ok(Ok(())) => self.work().await,
            Ok(Err(error)) => self.share.lock().not_compared(&error.to_string(), "-"),
            Err(error) => self.share.lock().not_compared(&error.to_string(), "-"),
        }
        let is_over = self.progress.is_over();
        let mut share = self.share.lock();
        if share.standing == Standing::Running {
            share.elapsed_ms = self.elapsed_ms();
            let has_seen_all = share.slots.len() >= self.parts.slots.len();
            share.standing = match is_over && !has_seen_all {
                true => Standing::OutOfTime,
                false => Standing::Done,
            };
        }
    }

    /// Says what is to be done.
    fn plan(&self) -> Result<(), StateError> {
        let mut pieces = VecDeque::new();
        if let Some(session) = &self.spec.session {
            let slots = self.parts.slots.iter();
            pieces.extend(slots.map(|slot| Piece::Sessions(*slot, vec![session.clone()])));
        } else if let Some(size) = self.spec.sample {
            let mut sample = Sample::new(self.spec.seed, size);
            for slot in &self.parts.slots {
                self.add_all(&mut sample, *slot)?;
            }
            let share = Share { wanted: size, of: self.parts.sessions_of_all };
            let size = share.of_own(sample.seen);
            let chosen = sample.finish(size);
            // The others have been seen, and none of them was chosen.
            let mut without = self.parts.slots.clone();
            without.retain(|slot| chosen.iter().all(|(of, _)| of != slot));
            self.share.lock().slots.extend(without);
            pieces.extend(chosen.into_iter().map(|(slot, some)| Piece::Sessions(slot, some)));
        } else {
            pieces.extend(self.parts.slots.iter().map(|slot| Piece::Slot(*slot)));
        }
        *self.pieces.lock() = pieces;
        Ok(())
    }

    fn add_all(&self, sample: &mut Sample, slot: SlotId) -> Result<(), StateError> {
        let view = self.slots.view(slot)?;
        let mut after = None;
        loop {
            let page = view.heads(&self.parts.service, after.as_ref(), HEADS)?;
            if page.is_empty() || self.progress.is_over() {
                return Ok(());
            }
            for (session, _) in page {
                after = Some(session.clone());
                sample.add(&self.parts.service, slot, session);
            }
        }
    }

    /// Has threads do it: one in any case, and as many more as there are for it.
    async fn work(self: &Arc<Self>) {
        let (job, permits, most) = (self.clone(), &self.parts.threads, self.spec.threads());
        let work = move || {
            let job = job.clone();
            async move { job.pieces().await }
        };
        let (name, what) = ("slotd-replay", "an audit");
        let threads = Threads::start(name, what, permits, most, &self.progress, work).await;
        let Some(threads) = threads else { return };
        self.share.lock().threads = u32::try_from(threads.count()).unwrap_or(u32::MAX);
        for why in threads.end().await {
            self.share.lock().not_compared(&why, "-");
        }
    }

    async fn pieces(&self) {
        let diagnoses =
            || self.diagnosed.fetch_add(1, Ordering::Relaxed) < limits::AUDIT_DIAGNOSED_MAX;
        let mut checker = Checker::new(&self.versions, &self.spec, &self.progress, &diagnoses);
        while !self.progress.is_over() {
            let Some(piece) = self.pieces.lock().pop_front() else { return };
            let (slot, done) = match piece {
                Piece::Slot(slot) => (slot, self.slot(&mut checker, slot).await),
                Piece::Sessions(slot, some) => {
                    (slot, self.sessions(&mut checker, slot, some).await)
                }
            };
            match done {
                Ok(true) => self.share.lock().slots.push(slot),
                Ok(false) => {}
                Err(error) => {
                    let why = format!("slot {slot} can't be read: {error}");
                    self.share.lock().not_compared(&why, "-");
                }
            }
        }
    }

    /// Whether it has seen all of a slot.
    async fn slot(&self, checker: &mut Checker<'_>, slot: SlotId) -> Result<bool, StateError> {
        let mut after: Option<SessionId> = None;
        loop {
            let view = self.slots.view(slot)?;
            let begun = crate::clock::now();
            while begun.elapsed() < limits::REPLAY_VIEW_TIME {
                let page = view.heads(&self.parts.service, after.as_ref(), HEADS)?;
                if page.is_empty() {
                    return Ok(true);
                }
                for (session, head) in page {
                    if !self.session(checker, &*view, session.clone(), head).await? {
                        return Ok(false);
                    }
                    after = Some(session);
                    if begun.elapsed() >= limits::REPLAY_VIEW_TIME {
                        break;
                    }
                }
            }
        }
    }

    async fn sessions(
        &self,
        checker: &mut Checker<'_>,
        slot: SlotId,
        some: Vec<SessionId>,
    ) -> Result<bool, StateError> {
        let mut view = self.slots.view(slot)?;
        let mut begun = crate::clock::now();
        for session in some {
            if begun.elapsed() >= limits::REPLAY_VIEW_TIME {
                (view, begun) = (self.slots.view(slot)?, crate::clock::now());
            }
            let service = self.parts.service.clone();
            let key = SessionKey { service, session };
            // It may have been deleted.
            let Some(head) = view.head(&key).transpose() else { continue };
            if !self.session(checker, &*view, key.session, head).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `false`: there is no time for it. Where its head is damaged, that is found, and the others are looked at all the same.
    async fn session(
        &self,
        checker: &mut Checker<'_>,
        view: &dyn SlotView,
        session: SessionId,
        head: Result<Head, StateError>,
    ) -> Result<bool, StateError> {
        if self.progress.is_over() {
            return Ok(false);
        }
        let key = SessionKey { service: self.parts.service.clone(), session };
        let checked = match head {
            Ok(head) => checker.check(Stored { view, key: &key, head: &head }).await,
            Err(StateError::Corrupt(why)) => {
                Checked::Differs(Finding::unreadable(&key.session, why).into())
            }
            Err(error) => return Err(error),
        };
        let mut share = self.share.lock();
        match checked {
            Checked::Stopped => return Ok(false),
            Checked::Same => share.same += 1,
            Checked::Partly(why) => share.not_compared(&why, key.session.as_str()),
            Checked::Differs(finding) => {
                share.differing += 1;
                log(&key, &finding);
                if share.findings.len() < limits::AUDIT_FINDINGS_MAX {
                    share.findings.push(*finding);
                }
            }
        }
        share.sessions += 1;
        Ok(true)
    }
}

/// Heads that are read at a time.
const HEADS: usize = 1_024;

fn log(key: &SessionKey, finding: &Finding) {
    if crate::telemetry::repeats::admit("a session does not come out as it is stored", &key.service)
    {
        tracing::warn!(
            session = %key,
            seq = finding.seq,
            plugin = %finding.deployment,
            looks_like = ?finding.looks_like,
            "a session does not come out as it is stored"
        );
    }
}
