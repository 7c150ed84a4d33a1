//! Slots: each has one writer of its sessions at a time.
//!
//! Mail comes in by the [`SlotHandle`]. It is applied by whoever has the slot's state (`shared`): the task
//! that brings it, or the slot's own. The state is the shell (`shell`) around a pure `core`:
//!
//! 1. `mail` has the operation served; a message by `apply`, which changes a cached `session` through an
//!    `overlay`, and calls the handler (`calls`).
//! 2. The core adds its record to the batch that fills while the one before it commits, and holds the answer
//!    back (`answers`).
//! 3. `commits` appends the batch. What it causes leaves once it is durable, and it waits for a `flush`.
//!
//! What is due (`fire`) is carried out by the slot's task, which the node wakes for it (`wakes`). What a message sends
//! to other sessions is sent once it is durable (`outbox`), and handled there as mail of its own (`receive`).
//!
//! What a node knows of a slot, and which task has it, is its `seat`.

mod answers;
mod apply;
mod cache;
mod calls;
mod commits;
mod core;
mod effect_operations;
pub(crate) mod effects;
pub mod failed;
mod finish;
mod fire;
pub mod flush;
mod fork;
mod kept;
mod long;
mod mail;
pub mod open;
mod operate;
mod outbox;
pub(crate) mod overlay;
mod presence;
mod purge;
pub mod read;
mod recall;
mod receive;
mod records;
pub mod request;
mod scan;
pub mod seat;
pub mod seated;
pub(crate) mod session;
mod shared;
pub(crate) mod shell;
pub(crate) mod subscribers;
#[cfg(test)]
mod tests;
pub mod wakes;

pub use self::core::{Outbox, Piece};
pub use calls::failure_error;
pub use mail::{Mail, Mailed};
pub use outbox::Courier;

use crate::{
    effects::rules::SendRules,
    error::{Cause, Error},
    level::FeatureLevel,
    loads::Loads,
    log::{Last, Position, SlotLog, Term},
    names::{ServiceName, SlotId},
    plugin::PluginHost,
    quota::Quota,
    registry::Registry,
    service::{Catalogue, KeptPlugins, Target, canary::counts::Trials},
    state::{StateStore, rows::WholeSlots, snapshot::Snapshots},
    usage::Meter,
};
use parking_lot::Mutex;
use seated::Occupant;
use shared::Put;
#[cfg(test)]
use std::sync::Weak;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use wakes::Wakes;

/// What every slot of a node shares.
pub struct SlotContext {
    /// The node's name, written into claims.
    pub node: String,
    pub log: Arc<dyn SlotLog>,
    pub store: Arc<dyn StateStore>,
    pub plugins: Arc<PluginHost>,
    pub catalogue: Arc<Catalogue>,
    /// Keeps what is current loaded, so that neither a message nor a claim waits for it.
    pub kept: KeptPlugins,
    /// Memory of the cached sessions of all slots.
    pub cached_bytes: AtomicUsize,
    /// Mail that all slots have taken, for telling an idle node.
    pub mail_taken: AtomicU64,
    pub options: SlotOptions,
    /// When slots have something to do next.
    pub wakes: Wakes,
    /// Takes messages from session to session; set once, when there is a way to other slots.
    pub courier: OnceLock<Arc<dyn Courier>>,
    /// Makes requests over HTTP; set once. None: requests are refused.
    pub requester: OnceLock<Arc<dyn request::Requester>>,
    /// Keeps messages that handlers have failed; set once.
    pub failures: OnceLock<Arc<dyn failed::Failures>>,
    /// Messages of all slots that are on their way to other sessions.
    pub outbox: AtomicUsize,
    /// Where what canaries do is counted.
    pub trials: Trials,
    /// Told what calls have used.
    pub quota: Quota,
    /// Where what is used is counted.
    pub usage: Meter,
    /// What services have at work here, and what is due of them asks for its turn; `None`: the node has no shares.
    pub loads: Option<Arc<Loads>>,
    pub turns: OnceLock<Arc<dyn Turns>>,
    /// What may be written.
    pub level: Arc<FeatureLevel>,
    /// What a slot of a cluster has beside that. `None` on a node that stands alone.
    pub cluster: Option<ClusterContext>,
}

impl SlotContext {
    /// Where deployments are looked up that the catalogue does not have yet; only in a cluster.
    pub fn registry(&self) -> Option<&Registry> {
        self.cluster.as_ref()?.registry.as_ref()
    }
}

/// Dependencies that a slot needs only in a cluster.
pub struct ClusterContext {
    pub snapshots: Arc<Snapshots>,
    /// Where deployments are looked up that the catalogue does not have yet.
    pub registry: Option<Registry>,
    /// The context's `store`, as snapshots need it.
    pub store: Arc<dyn WholeSlots>,
    /// Snapshots that are made at a time.
    pub snapshot_turns: Arc<tokio::sync::Semaphore>,
    /// Pieces of logs that are replayed at a time for slots that are to come.
    pub catch_up_turns: tokio::sync::Semaphore,
    /// Where slots say that their task has ended. One message a task: bounded by the slots.
    pub ended: mpsc::UnboundedSender<Ended>,
}

/// A slot's task has ended, other than by an order to stop.
#[derive(Debug)]
pub struct Ended {
    pub slot: SlotId,
    pub task: seat::TaskId,
    /// `None`: it has not said why.
    pub error: Option<Error>,
}

#[derive(Clone, Debug)]
pub struct SlotOptions {
    pub mailbox_messages: usize,
    /// Memory for the cached sessions of all slots; a slot keeps
    /// [`crate::limits::SESSION_CACHE_BYTES_PER_SLOT_MIN`] in any case.
    pub cache_bytes: usize,
    /// How long the log may leave it without an answer: [`crate::limits::ENGINE_TIMEOUT`], but in
    /// tests.
    pub engine_timeout: Duration,
    /// In the cluster: a session's slot follows from it.
    pub slot_count: u16,
    /// Which services may send messages to which.
    pub sends: Arc<SendRules>,
    /// Between which services a message that is to be tried again holds up those behind it, of the same two
    /// sessions.
    pub in_order: Arc<SendRules>,
}

/// The answer's way back.
pub type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a node tells a slot; taken before any mail.
pub enum Order {
    /// Switch to a deployment at the next message boundary. Answered when the record is durable,
    /// with the time for which the slot took no message.
    Activate { activation: Activation, reply: Reply<Duration> },
    /// Write committed changes to the state store.
    Flush,
    /// Something is due that the slot had asked to be woken for.
    Due,
    /// Stop if nothing has happened for `idle`, and nobody is subscribed. In a cluster the slot
    /// stays open and gives its memory back.
    StopIfIdle { idle: Duration },
    /// Append something if nothing was for a while and someone is subscribed: a slot that is
    /// owned elsewhere by now finds out.
    Prove,
    /// Take no more mail, commit what is there, append a release record if `release` and answer,
    /// flush, end. Refused with `unavailable`, and the slot goes on, where it runs something newer
    /// than its next owner has `loaded`.
    Stop { release: bool, loaded: Option<Loaded>, reply: Reply<(Term, Position)> },
    /// Make a snapshot that needs nothing from before this term, and have all that is older removed: then show the round.
    /// Only in a cluster.
    Reseal { round: u64 },
    /// Another node owns the slot, says a higher term: end, without a further append.
    Abandon { term: Term },
}

/// The generation of each service whose plugin a slot's next owner has loaded.
pub type Loaded = BTreeMap<ServiceName, u64>;

/// Says whether what is due of a service goes now, on a busy node.
pub trait Turns: Send + Sync {
    /// `None`: it goes. `put_off`: so often it was told to wait.
    fn wait(&self, service: &ServiceName, put_off: u32) -> Option<Duration>;

    /// A mailbox is about to close, in `closes`, which is called once, with what waits for a share on its way there: in
    /// order. Until it is back nothing else begins to wait.
    fn leave(&self, mailbox: &Mailbox, closes: &mut dyn FnMut(Vec<Mail>));
}

/// What a slot can switch to: it is loaded, and an instance of it could be made.
#[derive(Clone)]
pub struct Activation {
    pub target: Target,
}

/// Where a slot's mail goes. Cheap to clone.
#[derive(Clone)]
pub struct Mailbox(Arc<shared::Shared>);

/// The way to a running slot. Cheap to clone.
#[derive(Clone)]
pub struct SlotHandle {
    mailbox: Mailbox,
    control: mpsc::Sender<Order>,
    pub stats: Arc<SlotStats>,
}

/// What a running slot shows of itself; its phase is its [`seat`]'s.
#[derive(Default)]
pub struct SlotStats {
    pub term: AtomicU64,
    pub position: AtomicU64,
    pub applied: AtomicU64,
    pub sessions: AtomicU64,
    /// Sessions in the slot's cache.
    pub cached: AtomicU64,
    pub cache_bytes: AtomicU64,
    /// The last mail, in the node's count of all mail: who has the least was used least recently.
    pub last_mail: AtomicU64,
    /// Orders that wait for the call at hand to end, and can't wait for long.
    pub(crate) asked: watch::Sender<Urgent>,
    /// Mail in the mailbox.
    waiting: AtomicUsize,
    /// Committed changes wait for the state store.
    pub dirty: AtomicBool,
    /// The term since which all that the cluster keeps of the slot was written, and the last round in which that was found
    /// out: when it was asked for, this node still had the slot.
    pub all_since: Mutex<Option<(u64, Term)>>,
    /// How often the slot's task was polled for what it does next.
    #[cfg(test)]
    turns: AtomicU64,
    /// Per service, the generation and label that the slot runs.
    pub active: Mutex<BTreeMap<ServiceName, (u64, Arc<str>)>>,
}

/// Urgent orders that a slot has not taken yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Urgent {
    orders: u32,
    /// When the first of them was sent.
    since: Option<Instant>,
}

/// Serialises the tasks of one slot: the next one opens it when the one before has ended.
#[derive(Clone, Default)]
pub struct TaskLock(Arc<tokio::sync::Mutex<()>>);

impl TaskLock {
    /// Waits until the slot has no task, nor a flush of one.
    pub async fn lock(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.0.clone().lock_owned().await
    }
}

impl Mailbox {
    /// Of a slot that no node has.
    #[cfg(any(test, feature = "testing"))]
    pub fn detached(messages: usize) -> Self {
        Self(shared::Shared::new(messages, false, Arc::default()))
    }

    /// The next mail of such a one.
    #[cfg(any(test, feature = "testing"))]
    pub fn next(&self) -> Option<Mail> {
        self.0.next_mail()
    }

    /// Closes such a one, as its slot does.
    #[cfg(any(test, feature = "testing"))]
    pub fn close_detached(&self, turns: &Arc<dyn Turns>) {
        self.close(Some(turns));
    }

    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Whether it is the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Closes it, behind what waits for its service's share of a busy node; `turns` may have some of it.
    pub(super) fn close(&self, turns: Option<&Arc<dyn Turns>>) {
        match turns {
            Some(turns) => turns.leave(self, &mut |waiting| self.0.close(waiting)),
            None => self.0.close(Vec::new()),
        }
    }

    /// The slot has ended: nothing of it is kept.
    pub(super) fn end(&self, turns: Option<&Arc<dyn Turns>>) {
        self.close(turns);
        self.0.end();
    }

    /// Has mail taken: at once if nobody works on the slot, else after what came before. Does not
    /// wait. Hold no lock: a handler may run.
    ///
    /// # Errors
    /// The mail itself, when the slot is stopping: give it to the next task.
    #[expect(clippy::result_large_err, reason = "it comes back in the same place, rarely")]
    pub fn try_mail(&self, mail: Mail, placed: impl FnOnce()) -> Result<Result<(), Error>, Mail> {
        self.put_outcome(self.0.put(mail, placed))
    }

    /// Has short mail taken at once, if nobody works on the slot, for as long as there is a next one and it can, but not
    /// for ever. Hold no lock: handlers run.
    pub fn take_ready(&self, next: impl FnMut() -> Option<Mail>) {
        self.0.put_ready(crate::clock::now() + crate::limits::TAKE_READY_TIME_MAX, next);
    }

    /// As [`Mailbox::try_mail`], never at once: for who has more to do than this mail.
    ///
    /// # Errors
    /// As [`Mailbox::try_mail`].
    #[expect(clippy::result_large_err, reason = "it comes back in the same place, rarely")]
    pub fn try_queue(&self, mail: Mail) -> Result<Result<(), Error>, Mail> {
        self.put_outcome(self.0.queue(mail))
    }

    #[expect(clippy::result_large_err, reason = "it comes back in the same place, rarely")]
    fn put_outcome(&self, put: Put) -> Result<Result<(), Error>, Mail> {
        match put {
            Put::Done => Ok(Ok(())),
            Put::Closed(mail) => Err(mail),
            Put::Full(_) => Ok(Err(self.full())),
        }
    }

    /// As [`Mailbox::try_queue`], for mail whose sender has gone on: it is told by its answer.
    ///
    /// # Errors
    /// As [`Mailbox::try_mail`].
    #[expect(clippy::result_large_err, reason = "it comes back in the same place, rarely")]
    pub fn queue_or_refuse(&self, mail: Mail) -> Result<(), Mail> {
        match self.0.queue(mail) {
            Put::Done => Ok(()),
            Put::Closed(mail) => Err(mail),
            Put::Full(mail) => {
                mail.refuse(self.full());
                Ok(())
            }
        }
    }

    fn full(&self) -> Error {
        let waiting = self.0.mailbox_depth();
        Error::of(
            Cause::Full,
            format!(
                "{waiting} messages are already waiting for this slot, as many as it takes of this service; slow down"
            ),
        )
    }
}

impl SlotHandle {
    /// A slot's task, to be spawned, and the way to it. It opens the slot as soon as a predecessor has
    /// ended. Mail is held meanwhile; when opening fails it is answered with the reason. `last` is
    /// where the owner before has released it; `reply` hears when it is open, or why it can't be.
    fn new(
        occupant: Occupant,
        task_lock: TaskLock,
        last: Option<Last>,
        reply: Option<Reply<Term>>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (control, orders) = mpsc::channel(crate::limits::CONTROL_ORDERS_MAX);
        let stats = Arc::new(SlotStats::default());
        let context = occupant.context.clone();
        let (most, shares) = (context.options.mailbox_messages, context.loads.is_some());
        let shared = shared::Shared::new(most, shares, stats.clone());
        let open = open::Open { slot: occupant.slot, task_lock, context, last, reply };
        let ending = open::Ending { shared: shared.clone(), occupant };
        // What a slot has in memory ends with its task; the next one opens it from the log.
        let run = open::run(open, ending, orders, stats.clone());
        (Self { mailbox: Mailbox(shared), control, stats }, run)
    }

    /// A slot that no node has.
    #[cfg(test)]
    pub fn spawn(slot: SlotId, task_lock: TaskLock, context: Arc<SlotContext>) -> Self {
        let occupant = Occupant { slot, task: 0, seat: Weak::new(), context };
        let (handle, run) = Self::new(occupant, task_lock, None, None);
        crate::task::spawn_contained("slot", run);
        handle
    }

    pub fn is_closed(&self) -> bool {
        self.mailbox.0.is_closed()
    }

    pub fn mailbox_depth(&self) -> usize {
        self.mailbox.0.mailbox_depth()
    }

    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Sends an order, waiting for room.
    ///
    /// # Errors
    /// The order, when the slot has ended.
    pub async fn order(&self, order: Order) -> Result<(), Order> {
        let urgent = order.is_urgent().then(|| UrgentOrder::new(self.stats.clone()));
        self.control.send(order).await.map_err(|e| e.0)?;
        if let Some(urgent) = urgent {
            urgent.arrived();
        }
        Ok(())
    }

    /// Sends an order unless the control channel is full, for who tries again later: whether it was sent.
    pub fn try_order(&self, order: Order) -> bool {
        let urgent = order.is_urgent().then(|| UrgentOrder::new(self.stats.clone()));
        let sent = self.control.try_send(order).is_ok();
        if sent && let Some(urgent) = urgent {
            urgent.arrived();
        }
        sent
    }
}

impl Order {
    /// It can't wait for a call that computes for long.
    fn is_urgent(&self) -> bool {
        matches!(self, Order::Activate { .. } | Order::Stop { .. } | Order::Abandon { .. })
    }
}

/// An urgent order that may not reach its slot.
struct UrgentOrder(Option<Arc<SlotStats>>);

impl UrgentOrder {
    fn new(stats: Arc<SlotStats>) -> Self {
        stats.asked();
        Self(Some(stats))
    }

    /// The slot has it, and says when it takes it.
    fn arrived(mut self) {
        self.0 = None;
    }
}

impl Drop for UrgentOrder {
    fn drop(&mut self) {
        if let Some(stats) = &self.0 {
            stats.taken();
        }
    }
}

impl SlotStats {
    fn asked(&self) {
        self.asked.send_modify(|asked| {
            asked.orders += 1;
            asked.since.get_or_insert_with(crate::clock::now);
        });
    }

    /// Since when the first of the urgent orders waits that the slot has not taken.
    fn asked_since(&self) -> Option<Instant> {
        self.asked.borrow().since
    }

    /// An urgent order was taken.
    fn taken(&self) {
        self.asked.send_modify(|asked| {
            asked.orders = asked.orders.saturating_sub(1);
            asked.since = asked.since.filter(|_| asked.orders > 0);
        });
    }

    fn show_active<'a>(
        &self,
        catalogue: &Catalogue,
        active: impl Iterator<Item = &'a crate::log::record::Activate>,
    ) {
        let shown = active.map(|a| {
            (a.service.clone(), (a.generation, catalogue.label(&a.service, a.deployment)))
        });
        *self.active.lock() = shown.collect();
    }
}

fn relaxed_store(counter: &AtomicU64, value: u64) {
    counter.store(value, Ordering::Relaxed);
}
