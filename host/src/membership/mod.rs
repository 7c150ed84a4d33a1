//! Who is alive: SWIM (by `foca`) over the node's peer port, UDP.
//!
//! Its result is a hint: it may start a handoff or a takeover, but never grants ownership. One
//! task owns all of it, on a thread and a runtime of its own: a node whose workers are busy with
//! guests for a moment is not dead, and must be able to show it. But when its workers do not move at
//! all ([`crate::watchdog`]) it sends nothing, like a stopped process: the others then take its
//! slots. The parts:
//! - [`wire`]: what datagrams look like, who may send them, and why replays do no harm;
//! - [`sealed`], [`tagged`]: how they are encrypted, and how they were not before feature level 3;
//! - [`greet`]: how nodes meet, why some are refused, and two processes with one name;
//! - [`swim`]: SWIM's configuration and datagrams;
//! - [`core`]: SWIM driven without sockets and clocks, and being cut off;
//! - [`ended`]: peers whose process has ended, which is noticed sooner than silence;
//! - [`views`]: when a node has joined, and when what it sees becomes a view;
//! - [`agenda`]: timers that know a pause of their own process, and coalesced views;
//! - [`task`]: socket and clock.
//!
//! Nothing depends on wall clocks.

mod agenda;
mod core;
mod ended;
mod greet;
mod id;
mod refusal;
mod sealed;
mod swim;
mod tagged;
mod task;
#[cfg(test)]
mod tests;
mod views;
mod wire;

pub use refusal::{Fatal, Refusal};
pub use wire::Terms;

use crate::{
    discovery::Found,
    level::Level,
    limits,
    names::is_cluster_name,
    peer::{
        member::{Member, Members, Unfit},
        protocol::Protocols,
    },
    ring::RING_SCHEME,
    watchdog::Heartbeat,
};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use task::Order;
use tokio::sync::{mpsc, oneshot, watch};

impl Terms {
    /// What this build expects of a cluster of this name at this feature level.
    pub fn new(cluster: &str, slot_count: u16, level: Level) -> Self {
        let protocols = Protocols::at(level);
        Self {
            cluster: cluster.to_owned(),
            protocol: protocols.newest,
            protocol_oldest: protocols.oldest,
            ring_scheme: RING_SCHEME.to_owned(),
            slot_count,
        }
    }

    fn set_level(&mut self, level: Level) {
        let protocols = Protocols::at(level);
        (self.protocol, self.protocol_oldest) = (protocols.newest, protocols.oldest);
    }
}

/// How fast SWIM is, and how tolerant. The defaults balance two goals:
/// - *A silent node is noticed within 2.5 s.* Each node probes one other each `probe_period`, so in
///   a cluster of three a dead one is probed within 0.25 s as a rule and 0.75 s at worst; the probe
///   fails at the period's end; `suspicion` later it is dead: 1.5 to 2.25 s, and 0.1 s to the view.
///   (If only its process has ended, it is noticed in a fifth of that: [`ended`].)
/// - *A node that does not run for a second is not declared dead.* It is suspected a period after
///   its pause began at the earliest, so it has `probe_period + suspicion` = 1.5 s to wake up, read
///   the suspicion and refute it.
///
/// A short period with a long suspicion serves both: it takes the chance out of the first, and
/// costs four small datagrams per second and node. Pauses of the node that *probes* are handled
/// separately, see [`agenda::Agenda`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    pub probe_period: Duration,
    /// Less than half of the period, so that an indirect probe fits in.
    pub probe_rtt: Duration,
    pub suspicion: Duration,
    pub gossip_period: Duration,
    /// A change becomes a view when nothing changed for this long,
    pub view_quiet: Duration,
    /// and at the latest this long after it.
    pub view_delay_max: Duration,
    /// How long greetings wait for a first answer before the node continues alone,
    pub join_wait: Duration,
    /// and how long that waits for discovery's first answer.
    pub discovery_wait: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            probe_period: limits::PROBE_PERIOD,
            probe_rtt: limits::PROBE_RTT,
            suspicion: limits::SUSPICION,
            gossip_period: limits::GOSSIP_PERIOD,
            view_quiet: limits::VIEW_QUIET,
            view_delay_max: limits::VIEW_DELAY_MAX,
            join_wait: limits::JOIN_WAIT_DEFAULT,
            discovery_wait: limits::DISCOVERY_WAIT,
        }
    }
}

impl Timings {
    /// In this time each of two peers should have probed this node; well before it declares a
    /// death.
    fn deaf_after(&self) -> Duration {
        self.probe_period * 3
    }
}

/// What a node needs to know to be a member.
pub struct Options {
    /// What this node publishes about itself. `boot` and `instance` decide between two of one name.
    pub member: Member,
    /// Shared by the cluster. [`limits::CLUSTER_SECRET_BYTES_MIN`] bytes at least.
    pub secret: Vec<u8>,
    pub terms: Terms,
    pub timings: Timings,
    /// The serving threads' watchdog: while they are stalled, this node sends nothing to the
    /// others.
    pub heartbeat: Heartbeat,
}

/// Why membership can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cluster's name has 1 to {max} of a-z A-Z 0-9 - _, this is {0:?}", max = limits::CLUSTER_NAME_BYTES_MAX)]
    Cluster(String),
    #[error("the cluster's secret has {min} to {max} bytes, this one has {0}", min = limits::CLUSTER_SECRET_BYTES_MIN, max = limits::CLUSTER_SECRET_BYTES_MAX)]
    Secret(usize),
    #[error("this node can't join: its name, version or peer address {0:?} is invalid")]
    Member(Box<Member>),
    #[error("probe_rtt must be less than half of probe_period, and no time zero")]
    Timings,
    #[error("the peer port: {0}")]
    Socket(#[from] io::Error),
}

impl Options {
    fn check(&self) -> Result<(), Error> {
        let cluster = &self.terms.cluster;
        if !is_cluster_name(cluster) {
            return Err(Error::Cluster(cluster.clone()));
        }
        let fits = limits::CLUSTER_SECRET_BYTES_MIN..=limits::CLUSTER_SECRET_BYTES_MAX;
        if !fits.contains(&self.secret.len()) {
            return Err(Error::Secret(self.secret.len()));
        }
        if !id::Id::new(self.member.clone()).is_sound() {
            return Err(Error::Member(Box::new(self.member.clone())));
        }
        let t = &self.timings;
        let zero = t.probe_rtt.is_zero() || t.suspicion.is_zero() || t.gossip_period.is_zero();
        if zero || t.probe_rtt * 2 >= t.probe_period {
            return Err(Error::Timings);
        }
        Ok(())
    }
}

/// Binds the peer port's UDP half.
///
/// # Errors
/// Errors of the kernel, above all that the port is taken.
pub fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A cheap handle on the task. Dropping the last one ends it without notice to the others, as a
/// crash would; [`Self::leave`] notifies them.
#[derive(Clone)]
pub struct Membership {
    orders: mpsc::Sender<Order>,
    members: watch::Receiver<Arc<Members>>,
    #[allow(dead_code, reason = "tests look at them")]
    refusals: watch::Receiver<Arc<[Refusal]>>,
    fatal: watch::Receiver<Option<Fatal>>,
}

impl Membership {
    /// Starts looking for the cluster, on `socket` (see [`bind`]) and at the addresses of
    /// discovery.
    ///
    /// # Errors
    /// [`Error`] if the options or the socket can't be used.
    pub fn start(
        options: Options,
        socket: UdpSocket,
        discovered: watch::Receiver<Found>,
    ) -> Result<Self, Error> {
        options.check()?;
        socket.set_nonblocking(true)?;
        let alone = Members {
            number: 0,
            own: options.member.name.clone(),
            alive: [options.member.clone()].into(),
        };
        let (members, members_seen) = watch::channel(Arc::new(alone));
        let (refusals, refusals_seen) = watch::channel(Arc::from([]));
        let (fatal, fatal_seen) = watch::channel(None);
        let (orders, given) = mpsc::channel(limits::MEMBERSHIP_ORDERS_MAX);
        let outlets = core::Outlets { members, refusals, fatal };
        task::start(options, outlets, socket, discovered, given)?;
        Ok(Self { orders, members: members_seen, refusals: refusals_seen, fatal: fatal_seen })
    }

    /// What this node sees. Number 0, with only itself, means that it has not joined yet: no slot
    /// may be taken based on it. From number 1 on it has met its cluster, or knows that there is
    /// none to meet.
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }
    /// Nodes that were refused here, and that refused this one: the last
    /// [`limits::REFUSALS_KEPT_MAX`], in words for the operator. Each was also logged.
    #[cfg(test)]
    pub fn refusals(&self) -> watch::Receiver<Arc<[Refusal]>> {
        self.refusals.clone()
    }
    /// Why this node must end, if it must. It sends nothing from then on.
    pub fn fatal(&self) -> watch::Receiver<Option<Fatal>> {
        self.fatal.clone()
    }
    /// Waits for the first view.
    ///
    /// # Errors
    /// [`Fatal`] when this node can't be in its cluster.
    pub async fn arrived(&self) -> Result<(), Fatal> {
        let (mut members, mut fatal) = (self.members(), self.fatal());
        let ended = || Fatal::Socket("the task of membership has ended".into());
        tokio::select! {
            seen = members.wait_for(|members| members.number > 0) => {
                seen.map(|_| ()).map_err(|_| self.fatal.borrow().clone().unwrap_or_else(ended))
            }
            told = fatal.wait_for(Option::is_some) => {
                Err(told.ok().and_then(|fatal| fatal.clone()).unwrap_or_else(ended))
            }
        }
    }
    /// This node hands over its slots from now on: it stays a member, `leaving`, and off everyone's
    /// ring. Its own next view, which is published when this returns, shows it too.
    pub async fn set_leaving(&self) {
        self.order(Order::SetLeaving).await;
    }
    /// This node can't serve, or can again: it stays a member, but off the ring of nodes that
    /// believe it as long as others are fit.
    pub async fn set_unfit(&self, unfit: Option<Unfit>) {
        self.order(|done| Order::SetUnfit(unfit, done)).await;
    }
    /// The cluster's feature level was raised: nodes that do not know it are refused from now on.
    pub async fn set_level(&self, level: Level) {
        self.order(|done| Order::SetLevel(level, done)).await;
    }
    /// A process can't read what the others write: it is ordered to exit whenever it sends something.
    pub async fn expel(&self, instance: u128) {
        self.order(|done| Order::Expel(instance, done)).await;
    }
    /// The machine of a peer refused a connection to the port of this process. If too much else is to
    /// be done it is not noted: the next one will be.
    pub fn connection_refused(&self, instance: u128) {
        let _ = self.orders.try_send(Order::Refused(instance));
    }
    /// Notifies the others and ends the task; returns after [`limits::LEAVE_NOTICES`] x
    /// [`limits::LEAVE_NOTICE_INTERVAL`].
    pub async fn leave(&self) {
        self.order(Order::Leave).await;
    }
    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(order(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}
