//! A node's part of one stage: its threads, its budget, and how far it is.

use super::{
    cost::{Coster, Metered},
    interface,
    migrate::Migrator,
    replay::{Replayer, Setting},
};
use crate::{
    error::StateError,
    gate_report::{
        GateShare, GateSpec, Kind, Reason, Stage, StageResult, Standing, Want, report::add_reason,
        verdict,
    },
    limits,
    log::record::{DeploymentId, Head},
    names::{ServiceName, SessionId, SessionKey, SlotId},
    plugin::PluginHost,
    replay::{
        aside::Threads,
        check::{Left, Progress},
        choice::{Sample, Share},
        slots::Slots,
        stored::Stored,
        versions::Versions,
    },
    replay_engine::{Version, compare::Ignores},
    service::Catalogue,
    state::rows::{SlotView, WholeSlots},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// What a part needs of its node.
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
    /// The deployment that the candidate is compared with: the one that runs.
    pub current: DeploymentId,
    /// Its number may be one that no deployment has.
    pub candidate: Version,
    pub stage: Stage,
    /// How far this part was before, here or elsewhere: it goes on there.
    pub before: Option<GateShare>,
    /// Sessions that failed in an earlier gate: they are run first, and if one fails again the others are not run.
    pub first: Vec<(SlotId, SessionId)>,
}

/// A part that runs, or has ended. Cheap to share.
pub struct Part {
    pub id: String,
    spec: GateSpec,
    parts: Parts,
    versions: Versions,
    slots: Slots,
    ignores: Ignores,
    progress: Progress,
    begun: Instant,
    pieces: Mutex<VecDeque<Piece>>,
    first: HashSet<(SlotId, SessionId)>,
    fresh: Fresh,
    wanted: Wanted,
    /// Messages that a sample has, at most.
    messages_of: AtomicU64,
    /// Sessions that were seen of slots that are not done.
    under_way: AtomicU64,
    is_cancelled: AtomicBool,
    share: Mutex<GateShare>,
}

/// What a thread does next.
enum Piece {
    Interface,
    First(SlotId, Vec<SessionId>),
    /// All sessions of a slot.
    Slot(SlotId),
    /// Those of a sample.
    Sessions(SlotId, Vec<SessionId>),
}

/// What sees one session after the other, on one thread.
enum Worker<'a> {
    None,
    Migrate(Box<Migrator<'a>>),
    Replay(Box<Replayer<'a>>),
    Cost(Box<Coster<'a>>),
}

/// The time that messages are run on new instances.
#[derive(Default)]
pub struct Fresh(AtomicU64);

impl Fresh {
    /// Whether there is time left.
    pub fn begin(&self) -> bool {
        u128::from(self.0.load(Ordering::Relaxed)) < limits::GATE_FRESH_TIME.as_nanos()
    }

    pub fn used(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// What the version before has wanted in its messages.
#[derive(Default)]
pub struct Wanted(Mutex<BTreeSet<Want>>);

impl Wanted {
    pub fn add(&self, wants: BTreeSet<Want>) {
        if wants.is_empty() {
            return;
        }
        let mut known = self.0.lock();
        if known.len() < limits::GATE_WANTED_MAX {
            known.extend(wants);
        }
    }

    /// Takes what is not new out of what was found.
    fn clear(&self, result: &mut StageResult) {
        let known = self.0.lock();
        let is_known = |path: &str| path.parse::<Want>().is_ok_and(|want| known.contains(&want));
        result.groups.retain(|group| group.kind != Kind::Want || !is_known(&group.path));
    }
}

impl Part {
    /// Begins one, on the runtime of whoever calls.
    pub fn start(id: String, spec: GateSpec, parts: Parts) -> Arc<Self> {
        let begun = crate::clock::now();
        let mut share = parts.before.clone().filter(|it| it.result.stage == parts.stage);
        let share = share.take().unwrap_or_else(|| GateShare {
            node: parts.node.clone(),
            result: StageResult::new(parts.stage),
            done: Vec::new(),
            slots_of: 0,
            under_way: 0,
        });
        let share = GateShare {
            slots_of: u32::try_from(parts.slots.len()).unwrap_or(u32::MAX),
            under_way: 0,
            result: StageResult { standing: Standing::Running, ..share.result },
            ..share
        };
        let (catalogue, plugins) = (parts.catalogue.clone(), parts.plugins.clone());
        let first = parts.first.iter().take(limits::GATE_FIRST_MAX).cloned().collect();
        let part = Arc::new(Self {
            id,
            versions: Versions::new(parts.service.clone(), catalogue, plugins),
            slots: Slots::new(parts.store.clone(), parts.service.clone()),
            ignores: Ignores::new(&spec.ignore),
            progress: Progress::new(begun + spec.time()),
            begun,
            pieces: Mutex::default(),
            first,
            fresh: Fresh::default(),
            wanted: Wanted::default(),
            messages_of: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            is_cancelled: AtomicBool::new(false),
            share: Mutex::new(share),
            parts,
            spec,
        });
        crate::task::spawn("a gate", part.clone().run());
        part
    }

    /// Ends it at its next message.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        self.progress.stop();
    }

    /// How far it is.
    pub fn share(&self) -> GateShare {
        let mut share = self.share.lock().clone();
        if share.result.standing.is_over() {
            return share;
        }
        share.under_way = self.under_way.load(Ordering::Relaxed);
        share.result.elapsed_ms = self.elapsed_ms();
        self.wanted.clear(&mut share.result);
        self.estimate(&mut share);
        share
    }

    fn elapsed_ms(&self) -> u64 {
        let before = self.parts.before.as_ref().map_or(0, |before| before.result.elapsed_ms);
        before + self.begun.elapsed().as_millis() as u64
    }

    /// How many sessions there are, by those of the slots that are done: names are spread evenly over all of them.
    fn estimate(&self, share: &mut GateShare) {
        if self.parts.stage != Stage::Migrate {
            return;
        }
        let done = share.done.len() as u64;
        let seen = share.result.seen + share.result.unseen();
        let of = (seen * u64::from(share.slots_of)).checked_div(done).unwrap_or(0);
        share.result.of = of.max(seen + share.under_way);
    }

    async fn run(self: Arc<Self>) {
        let begun = self.steps().await;
        if let Err(why) = begun {
            self.share.lock().result.add_unseen(&why, "");
        }
        self.finish();
    }

    /// # Errors
    /// Why nothing was seen.
    async fn steps(self: &Arc<Self>) -> Result<(), String> {
        if self.parts.stage == Stage::Interface {
            *self.pieces.lock() = VecDeque::from([Piece::Interface]);
            self.work(None).await;
            return Ok(());
        }
        let part = self.clone();
        let planned = crate::task::blocking(move || part.plan()).await;
        let pieces = planned.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let metered = match self.parts.stage {
            Stage::Cost if !self.has_enough() => return Ok(()),
            Stage::Cost => {
                let (plugins, current) = (&self.parts.plugins, self.parts.current);
                let made =
                    Metered::new(plugins, &self.versions, current, &self.parts.candidate).await;
                let made = made.map_err(|why| format!("what it costs can't be counted: {why}"))?;
                Some(Arc::new(made))
            }
            _ => None,
        };
        let first = self.firsts();
        if !first.is_empty() {
            *self.pieces.lock() = first;
            self.work(metered.clone()).await;
        }
        if self.stops() {
            let why = "sessions that failed before fail again: the others were not run";
            self.share.lock().result.add_unseen(why, "");
        } else {
            *self.pieces.lock() = pieces;
            self.work(metered.clone()).await;
        }
        if let Some(metered) = metered.and_then(Arc::into_inner) {
            metered.end().await;
        }
        Ok(())
    }

    /// Whether what was found so far stops the version.
    fn stops(&self) -> bool {
        let mut result = self.share.lock().result.clone();
        self.wanted.clear(&mut result);
        verdict::decide(&mut result, &self.spec);
        result.standing == Standing::Stopped && !self.first.is_empty()
    }

    /// Whether there are messages enough to say what they cost. If not, the stage is left out.
    fn has_enough(&self) -> bool {
        let messages = self.messages_of.load(Ordering::Relaxed);
        if messages >= limits::GATE_COST_MESSAGES_MIN {
            return true;
        }
        let mut share = self.share.lock();
        share.result.standing = Standing::Skipped;
        share.result.of = 0;
        share.done.clone_from(&self.parts.slots);
        let why = format!("the sample has {messages} messages, too few to tell");
        add_reason(&mut share.result.why, Reason { why, sessions: 0, example: String::new() });
        false
    }

    fn finish(&self) {
        let is_cancelled = self.is_cancelled.load(Ordering::Relaxed);
        let mut share = self.share.lock();
        share.result.elapsed_ms = self.elapsed_ms();
        if share.result.standing == Standing::Skipped {
            return;
        }
        self.wanted.clear(&mut share.result);
        self.estimate(&mut share);
        let seen = share.result.seen + share.result.unseen();
        let is_whole = !self.parts.stage.is_of_sessions()
            || self.parts.slots.iter().all(|slot| share.done.contains(slot));
        if !is_whole && self.progress.is_over() {
            let sessions = share.result.of.saturating_sub(seen).max(1);
            let why = match is_cancelled {
                true => "it was ended".to_owned(),
                false => format!("there was no time for them in {:?}", self.spec.time()),
            };
            let reason = Reason { why, sessions, example: String::new() };
            add_reason(&mut share.result.unseen, reason);
        }
        if self.parts.stage.is_of_sessions() {
            share.result.of = share.result.seen + share.result.unseen();
        }
        if is_cancelled {
            share.result.standing = Standing::Skipped;
            return;
        }
        verdict::decide(&mut share.result, &self.spec);
    }

    /// What is to be done of the slots that are not done.
    fn plan(&self) -> Result<VecDeque<Piece>, StateError> {
        let done: HashSet<SlotId> = self.share.lock().done.iter().copied().collect();
        let left = |slot: &SlotId| !done.contains(slot);
        if self.parts.stage == Stage::Migrate {
            let slots = self.parts.slots.iter().copied().filter(left);
            return Ok(slots.map(Piece::Slot).collect());
        }
        let wanted = self.spec.sessions_of(self.parts.sessions_of_all);
        let mut sample = Sample::new(self.spec.seed, wanted);
        for slot in &self.parts.slots {
            self.add_all(&mut sample, *slot)?;
        }
        let share = Share { wanted, of: self.parts.sessions_of_all };
        let size = share.of_own(sample.seen);
        let chosen = sample.finish(size);
        let mut without = self.parts.slots.clone();
        without.retain(|slot| left(slot) && chosen.iter().all(|(of, _)| of != slot));
        let of: usize = chosen.iter().map(|(_, sessions)| sessions.len()).sum();
        let mut share = self.share.lock();
        share.result.of = of as u64;
        // They have been seen, and none of their sessions was chosen.
        share.done.extend(without);
        let chosen = chosen.into_iter().filter(|(slot, _)| left(slot));
        Ok(chosen.map(|(slot, some)| Piece::Sessions(slot, some)).collect())
    }

    fn add_all(&self, sample: &mut Sample, slot: SlotId) -> Result<(), StateError> {
        let view = self.slots.view(slot)?;
        let mut after = None;
        loop {
            let page = view.heads(&self.parts.service, after.as_ref(), HEADS)?;
            if page.is_empty() || self.progress.is_over() {
                return Ok(());
            }
            for (session, head) in page {
                after = Some(session.clone());
                let messages = head.map_or(0, |head| head.seq).min(self.spec.messages());
                self.messages_of.fetch_add(messages, Ordering::Relaxed);
                sample.add(&self.parts.service, slot, session);
            }
        }
    }

    /// What failed before.
    fn firsts(&self) -> VecDeque<Piece> {
        let done = self.share.lock().done.clone();
        let own = |slot: &SlotId| self.parts.slots.contains(slot) && !done.contains(slot);
        let all = self.first.iter().filter(|(slot, _)| own(slot));
        all.map(|(slot, session)| Piece::First(*slot, vec![session.clone()])).collect()
    }

    /// Has threads do it: one in any case, and as many more as there are for it.
    async fn work(self: &Arc<Self>, metered: Option<Arc<Metered>>) {
        let (part, permits, most) = (self.clone(), &self.parts.threads, self.spec.threads());
        let work = move || {
            let (part, metered) = (part.clone(), metered.clone());
            async move { part.pieces(metered.as_deref()).await }
        };
        let (name, what) = ("slotd-gate", "a gate");
        let threads = Threads::start(name, what, permits, most, &self.progress, work).await;
        let Some(threads) = threads else { return };
        for why in threads.end().await {
            self.share.lock().result.add_unseen(&why, "");
        }
    }

    fn worker<'a>(&'a self, metered: Option<&'a Metered>) -> Worker<'a> {
        let (versions, progress, candidate) =
            (&self.versions, &self.progress, &self.parts.candidate);
        let messages = self.spec.messages();
        match (self.parts.stage, metered) {
            (Stage::Migrate, _) => Worker::Migrate(Migrator::new(candidate, versions).into()),
            (Stage::Replay, _) => {
                let setting = Setting {
                    candidate,
                    versions,
                    ignores: &self.ignores,
                    progress,
                    fresh: &self.fresh,
                    wanted: &self.wanted,
                    messages,
                };
                Worker::Replay(Replayer::new(setting).into())
            }
            (Stage::Cost, Some(metered)) => {
                Worker::Cost(Coster::new(metered, versions, progress, messages).into())
            }
            (Stage::Interface | Stage::Cost, _) => Worker::None,
        }
    }

    async fn pieces(&self, metered: Option<&Metered>) {
        let mut worker = self.worker(metered);
        while !self.progress.is_over() {
            let Some(piece) = self.pieces.lock().pop_front() else { return };
            let mut result = StageResult::new(self.parts.stage);
            let mut counted = 0;
            let (slot, done) = match piece {
                Piece::Interface => {
                    let (current, candidate) = (self.parts.current, &self.parts.candidate);
                    let (versions, spec) = (&self.versions, &self.spec);
                    interface::look(versions, current, candidate, spec, &mut result).await;
                    (None, Ok(true))
                }
                Piece::First(slot, some) => {
                    let mut at = Look { slot, result: &mut result, counted: &mut counted };
                    (None, self.sessions(&mut worker, &mut at, some, false).await)
                }
                Piece::Slot(slot) => {
                    let mut at = Look { slot, result: &mut result, counted: &mut counted };
                    (Some(slot), self.slot(&mut worker, &mut at).await)
                }
                Piece::Sessions(slot, some) => {
                    let mut at = Look { slot, result: &mut result, counted: &mut counted };
                    (Some(slot), self.sessions(&mut worker, &mut at, some, true).await)
                }
            };
            if let Err(error) = &done {
                result.add_unseen(&format!("slot {slot:?} can't be read: {error}"), "");
            }
            let mut share = self.share.lock();
            self.under_way.fetch_sub(counted, Ordering::Relaxed);
            result.standing = Standing::Running;
            share.result.merge(result);
            if let (Some(slot), Ok(true)) = (slot, done) {
                share.done.push(slot);
            }
        }
    }

    /// Whether it has seen all of a slot.
    async fn slot(&self, worker: &mut Worker<'_>, at: &mut Look<'_>) -> Result<bool, StateError> {
        let mut after: Option<SessionId> = None;
        loop {
            let view = self.slots.view(at.slot)?;
            let begun = crate::clock::now();
            while begun.elapsed() < limits::REPLAY_VIEW_TIME {
                let page = view.heads(&self.parts.service, after.as_ref(), HEADS)?;
                if page.is_empty() {
                    return Ok(true);
                }
                for (session, head) in page {
                    after = Some(session.clone());
                    if self.is_first(at.slot, &session) {
                        continue;
                    }
                    let head = match head {
                        Ok(head) => head,
                        Err(why) => {
                            at.result.add_unseen(&unreadable(&why), session.as_str());
                            continue;
                        }
                    };
                    if !self.session(worker, at, &*view, session, &head).await {
                        return Ok(false);
                    }
                    if begun.elapsed() >= limits::REPLAY_VIEW_TIME {
                        break;
                    }
                }
            }
        }
    }

    fn is_first(&self, slot: SlotId, session: &SessionId) -> bool {
        !self.first.is_empty() && self.first.contains(&(slot, session.clone()))
    }

    async fn sessions(
        &self,
        worker: &mut Worker<'_>,
        at: &mut Look<'_>,
        some: Vec<SessionId>,
        without_first: bool,
    ) -> Result<bool, StateError> {
        let mut view = self.slots.view(at.slot)?;
        let mut begun = crate::clock::now();
        for session in some {
            if without_first && self.is_first(at.slot, &session) {
                continue;
            }
            if begun.elapsed() >= limits::REPLAY_VIEW_TIME {
                (view, begun) = (self.slots.view(at.slot)?, crate::clock::now());
            }
            let service = self.parts.service.clone();
            let key = SessionKey { service, session };
            // It may have been deleted.
            let head = match view.head(&key) {
                Ok(Some(head)) => head,
                Ok(None) => continue,
                Err(why @ StateError::Corrupt(_)) => {
                    at.result.add_unseen(&unreadable(&why), key.session.as_str());
                    continue;
                }
                Err(why) => return Err(why),
            };
            if !self.session(worker, at, &*view, key.session, &head).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `false`: there is no time for it.
    async fn session(
        &self,
        worker: &mut Worker<'_>,
        at: &mut Look<'_>,
        view: &dyn SlotView,
        session: SessionId,
        head: &Head,
    ) -> bool {
        if self.progress.is_over() {
            return false;
        }
        let key = SessionKey { service: self.parts.service.clone(), session };
        let stored = Stored { view, key: &key, head };
        let seen = match worker {
            Worker::None => Ok(()),
            Worker::Migrate(migrator) => migrator.session(stored, at.result).await,
            Worker::Replay(replayer) => replayer.session(stored, at.result).await,
            Worker::Cost(coster) => coster.session(stored, at.result).await,
        };
        match seen {
            Ok(()) => at.result.seen += 1,
            Err(Left::Stopped) => return false,
            Err(Left::Because(why)) => at.result.add_unseen(&why, key.session.as_str()),
            Err(Left::Damage(why)) => {
                at.result.add_unseen(&unreadable(&why), key.session.as_str());
            }
        }
        *at.counted += 1;
        self.under_way.fetch_add(1, Ordering::Relaxed);
        true
    }
}

fn unreadable(why: &impl std::fmt::Display) -> String {
    format!("it can't be read: {why} (slotd audit says more)")
}

/// A slot that is looked at, and what was found in it.
struct Look<'a> {
    slot: SlotId,
    result: &'a mut StageResult,
    counted: &'a mut u64,
}

/// Heads that are read at a time.
const HEADS: usize = 1_024;
