//! Membership without sockets and clocks: datagrams and the time go in, datagrams and views come
//! out. The task drives it over UDP, the tests over a simulated network.

use super::{
    Options, Timings,
    agenda::{Agenda, Coalescer},
    ended::Refusing,
    id::Id,
    refusal::{Fatal, Reason, Refusal},
    swim::{Swim, inspect, swim, without_deaths},
    wire::{
        FORMAT_SEALED, FORMAT_TAGGED, Kind, Opened, Refused, Sealer, Shown, Start, Terms, Windows,
    },
};
use crate::{
    discovery::Found,
    level::Level,
    limits,
    peer::member::{Member, Members, Unfit},
    telemetry::{metrics::metrics, repeats::Limiter},
};
use foca::{AccumulatingRuntime, OwnedNotification, State, Timer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

/// A node's membership state visible to others.
pub(super) struct Outlets {
    pub members: watch::Sender<Arc<Members>>,
    pub refusals: watch::Sender<Arc<[Refusal]>>,
    pub fatal: watch::Sender<Option<Fatal>>,
}

pub(super) enum Due {
    Swim(Timer<Id>),
    /// Greet the addresses that are not known members'.
    Greet,
    /// Check again whether the rival of this instance is alive.
    Challenge(u128),
    /// Whether the process of this instance has ended.
    Ended(u128),
    /// Notify some more peers that this node left, or is leaving.
    Announce(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Joining: no view yet.
    Joining,
    Settled,
    /// Has announced that it left.
    Left,
    /// Must end.
    Broken,
}

pub(super) struct Pending {
    pub to: SocketAddr,
    pub at: Instant,
    pub settled: bool,
}

/// A process known under this node's name, which is being probed.
pub(super) struct Challenge {
    pub rival: Id,
    pub tries: u32,
}

pub(super) struct Core {
    pub(super) terms: Terms,
    pub(super) timings: Timings,
    pub(super) sealer: Sealer,
    pub(super) windows: Windows,
    pub(super) own: Id,
    pub(super) swim: Swim,
    runtime: AccumulatingRuntime<Id>,
    rng: StdRng,
    pub(super) agenda: Agenda<Due>,
    pub(super) coalescer: Coalescer,
    pub(super) found: Found,
    pub(super) stage: Stage,
    pub(super) started: Instant,
    /// When the first hello went out.
    pub(super) greeted: Option<Instant>,
    /// Since when this node asks who else is there, before its first view or the first one after it
    /// was alone. See [`Self::gathers`].
    pub(super) gathering: Option<Instant>,
    /// Addresses that need no waiting for: they have refused this node, or were silent when they were
    /// challenged.
    pub(super) settled_with: BTreeSet<SocketAddr>,
    /// When a node that fits was first heard of; it may not be a member yet.
    pub(super) met: Option<Instant>,
    pub(super) pending: HashMap<u64, Pending>,
    /// Where in a long list of addresses the last greetings began.
    pub(super) turn: usize,
    /// Nodes that answered at an address other than their known one; none: this node itself.
    pub(super) aliases: HashMap<SocketAddr, Option<Arc<str>>>,
    /// Addresses of dead nodes, and when they died.
    pub(super) lost: HashMap<Arc<str>, (SocketAddr, Instant)>,
    pub(super) challenge: Option<Challenge>,
    /// The rival that did not answer.
    pub(super) cleared: Option<u128>,
    /// Peers that refuse connections, by instance.
    pub(super) refusing: HashMap<u128, Refusing>,
    /// When the last datagram of another node arrived.
    pub(super) heard: Instant,
    deaf: bool,
    /// The last refusal of this node by another, and whether it is certain.
    pub(super) refused: Option<(Instant, Refusal, bool)>,
    refusals: VecDeque<Refusal>,
    answers: Limiter<SocketAddr>,
    lines: Limiter<(IpAddr, Reason, bool)>,
    /// Processes that can't read what the others write.
    expelled: HashSet<u128>,
    pub(super) outbox: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) outlets: Outlets,
}

impl Core {
    pub fn new(options: Options, outlets: Outlets, now: Instant, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let own = Id::new(options.member);
        let salt = own.member.instance;
        let timings = options.timings;
        let mut agenda = Agenda::new();
        agenda.add(now, Due::Greet);
        Self {
            sealer: Sealer::new(&options.secret, &options.terms, rng.random(), salt),
            terms: options.terms,
            windows: Windows::default(),
            swim: swim(own.clone(), &timings, &mut rng),
            own,
            runtime: AccumulatingRuntime::new(),
            rng,
            agenda,
            coalescer: Coalescer::new(timings.view_quiet, timings.view_delay_max),
            timings,
            found: Found::default(),
            stage: Stage::Joining,
            started: now,
            greeted: None,
            gathering: None,
            settled_with: BTreeSet::new(),
            met: None,
            pending: HashMap::new(),
            turn: 0,
            aliases: HashMap::new(),
            lost: HashMap::new(),
            challenge: None,
            cleared: None,
            refusing: HashMap::new(),
            heard: now,
            deaf: false,
            refused: None,
            refusals: VecDeque::new(),
            answers: Limiter::new(limits::REFUSAL_INTERVAL, limits::REFUSAL_ADDRESSES_MAX),
            lines: Limiter::new(limits::REFUSAL_LOG_INTERVAL, limits::REFUSAL_LOG_KEYS_MAX),
            expelled: HashSet::new(),
            outbox: Vec::new(),
            outlets,
        }
    }

    /// When [`Self::tick`] should be called.
    pub fn deadline(&self) -> Option<Instant> {
        let view = self.view_due();
        [self.agenda.next(), view].into_iter().flatten().min()
    }
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Left | Stage::Broken) && self.agenda.next().is_none()
    }
    pub fn alive(&self) -> bool {
        matches!(self.stage, Stage::Joining | Stage::Settled)
    }

    /// New addresses to try.
    pub fn found(&mut self, now: Instant, found: Found) {
        self.allow_for_pause(now);
        self.found = found;
        if self.alive() {
            self.greet(now);
            self.settle(now);
        }
    }

    /// Handles one datagram from the peer port.
    pub fn datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let m = metrics();
        m.datagrams_in.increment(1);
        self.allow_for_pause(now);
        if !self.alive() {
            return;
        }
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Some(start) = Start::read(datagram) else { return m.dropped_garbage.increment(1) };
        if start.sender == self.sealer.sender {
            // Discovery can't always know this node's own addresses. Sender and number alone could be
            // anyone's who has seen the hello.
            let opened = start.kind.and_then(|kind| self.sealer.open(kind, start, datagram));
            if opened.is_some_and(|opened| opened.authentic)
                && let Some(pending) = self.pending.remove(&start.number)
            {
                self.alias(pending.to, None);
            }
            return m.dropped_own.increment(1);
        }
        let known = matches!(start.format, FORMAT_TAGGED | FORMAT_SEALED);
        match start.kind {
            Some(Kind::Refusal) => self.refusal(now, from, start, datagram),
            Some(Kind::Hello) if !known => {
                let theirs = format!(
                    "it uses format {}, this node {FORMAT_TAGGED} and {FORMAT_SEALED}",
                    start.format
                );
                let opened = self.sealer.open(Kind::Hello, start, datagram);
                let known = opened.is_some_and(|opened| opened.authentic);
                let shown = if known { Shown::Key } else { Shown::Nothing };
                let room = datagram.len();
                self.refuse(now, from, start, room, shown, Reason::Protocol, None, theirs);
            }
            Some(Kind::Hello) => self.hello(now, from, start, datagram),
            Some(Kind::Welcome) if known => self.welcome(now, start, datagram),
            Some(Kind::Gossip) if known => self.gossip(now, from, start, datagram),
            _ => m.dropped_garbage.increment(1),
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        self.allow_for_pause(now);
        while let Some(due) = self.agenda.pop(now) {
            match due {
                Due::Swim(timer) => {
                    self.drive(now, |swim, runtime| swim.handle_timer(timer, runtime))
                }
                Due::Greet if self.alive() => self.greet_again(now),
                Due::Challenge(rival) if self.alive() => self.challenge_again(now, rival),
                Due::Ended(instance) if self.alive() => self.look_for_end(now, instance),
                Due::Greet | Due::Challenge(_) | Due::Ended(_) => {}
                Due::Announce(times) => self.announce_leave(now, times),
            }
        }
        self.hearing(now);
        self.settle(now);
        self.publish_if_due(now);
    }

    /// Called first by every entry point: what is added to the agenda from here on counts from now.
    pub(super) fn allow_for_pause(&mut self, now: Instant) {
        if let Some(late) = self.agenda.postpone(now, limits::TIMER_GRACE) {
            metrics().stalls.increment(1);
            let ms = late.as_millis() as u64;
            debug!(
                ms,
                "membership did not run for a while; extending the timeouts of other nodes by \
                 that time"
            );
            let shift = |at: &mut Instant| *at = (*at + late).min(now);
            shift(&mut self.heard);
            shift(&mut self.started);
            // Answers that came in that time are read only now.
            [&mut self.greeted, &mut self.gathering, &mut self.met]
                .into_iter()
                .flatten()
                .for_each(shift);
            self.refusing.values_mut().for_each(|refusing| refusing.shift(late, now));
        }
    }

    /// This node hands over its slots from now on; informs all members.
    pub fn set_leaving(&mut self, now: Instant) {
        self.change_itself(now, |member| member.leaving = true);
    }

    /// This node can't serve from now on, or can again; informs all members.
    pub fn set_unfit(&mut self, now: Instant, unfit: Option<Unfit>) {
        self.change_itself(now, |member| member.unfit = unfit);
    }

    /// What this node expects of others from now on.
    pub fn set_level(&mut self, level: Level) {
        self.terms.set_level(level);
        if self.terms.encrypts() {
            self.sealer.seal_from_now_on();
        }
    }

    /// Whenever this process sends something from now on, it is ordered to exit.
    pub fn expel(&mut self, instance: u128) {
        if self.expelled.len() < limits::EXPELLED_MAX {
            self.expelled.insert(instance);
        }
    }

    fn change_itself(&mut self, now: Instant, change: impl FnOnce(&mut Member)) {
        self.allow_for_pause(now);
        let mut id = self.own.next();
        change(&mut id.member);
        if id.member == self.own.member || !self.alive() {
            return;
        }
        self.become_id(now, id);
        self.agenda.add(now, Due::Announce(limits::LEAVE_NOTICES));
        if self.stage == Stage::Settled {
            self.publish();
        }
    }

    /// Notifies some peers that this node left; they notify the rest.
    pub fn leave(&mut self, now: Instant) {
        if !self.alive() {
            return;
        }
        self.agenda.clear(|_| false);
        self.drive(now, |swim, runtime| swim.leave_cluster(runtime));
        self.stage = Stage::Left;
        self.agenda
            .add(now + limits::LEAVE_NOTICE_INTERVAL, Due::Announce(limits::LEAVE_NOTICES - 1));
    }

    fn announce_leave(&mut self, now: Instant, times: u32) {
        self.drive(now, |swim, runtime| swim.gossip(runtime));
        if times > 1 {
            self.agenda.add(now + limits::LEAVE_NOTICE_INTERVAL, Due::Announce(times - 1));
        }
    }

    /// Ends this node's membership at once.
    pub(super) fn break_off(&mut self, fatal: Fatal) {
        if self.stage == Stage::Broken {
            return;
        }
        error!(error = %fatal, "this node must leave its cluster");
        self.stage = Stage::Broken;
        self.agenda.clear(|_| false);
        self.outlets.fatal.send_replace(Some(fatal));
    }

    // --- SWIM -----------------------------------------------------------------------------------

    fn gossip(&mut self, now: Instant, from: SocketAddr, start: Start, datagram: &[u8]) {
        let m = metrics();
        let opened = self.sealer.open(Kind::Gossip, start, datagram);
        let Some(Opened { authentic: true, body }) = opened else {
            return m.dropped_unauthentic.increment(1);
        };
        if !self.windows.take(start.sender, start.number, now) {
            return m.dropped_replayed.increment(1);
        }
        let may_be_heard = self.may_be_heard(start);
        if may_be_heard {
            self.heard = now;
            self.hearing(now);
        }
        let Some((src, updates)) = inspect(&body) else { return m.dropped_invalid.increment(1) };
        self.heard_from(now, src.member.instance);
        // It may still run because it was away when the level was raised, or joined at that moment.
        if self.expelled.contains(&src.member.instance) {
            let level = self.terms.protocol_oldest;
            let text = format!("the cluster, at feature level {level}: upgrade this node");
            let name = Some(src.member.name.clone());
            let (room, reason) = (datagram.len(), Reason::Superseded);
            return self.refuse(now, from, start, room, Shown::Key, reason, name, text);
        }
        if !may_be_heard {
            return;
        }
        // Two processes of one name: the greater claim wins, and the other must learn of it. SWIM
        // would let each declare the other dead, endlessly.
        if src.member.name == self.own.member.name {
            if src.rivals(&self.own) && src.wins(&self.own) {
                return self.superseded(&src);
            } else if src.rivals(&self.own) {
                let text = "it has this node's name, but this node's claim is newer".to_owned();
                let name = Some(src.member.name.clone());
                let (room, reason) = (datagram.len(), Reason::Superseded);
                self.refuse(now, from, start, room, Shown::Key, reason, name, text);
            }
            return m.dropped_own.increment(1);
        }
        // A third node informs it and does not decide: it probes its rival, and ends or takes a
        // claim that the other can't reach.
        if let Some((known, active)) = self.rival_of(&src)
            && (known.wins(&src) || !active && !src.outranks(&known))
        {
            return self.send_welcome(0, src.member.peer, Some((known, active)));
        }
        let rival = updates
            .into_iter()
            .find(|(id, active)| *active && id.rivals(&self.own) && id.wins(&self.own));
        if let Some((rival, _)) = rival {
            return self.meet_rival(now, rival, true);
        }
        self.drive(now, |swim, runtime| swim.handle_data(&body, runtime));
    }

    pub(super) fn superseded(&mut self, by: &Id) {
        let name = self.own.member.name.clone();
        let by = format!("the node at {}, boot {}", by.member.peer, by.member.boot);
        self.break_off(Fatal::Superseded { name, by });
    }

    /// What is known of a name under another instance, and whether it is believed to be alive.
    pub(super) fn rival_of(&self, id: &Id) -> Option<(Id, bool)> {
        let known = self.swim.iter_membership_state().find(|known| known.id().rivals(id))?;
        Some((known.id().clone(), known.state() != State::Down))
    }
    /// Whether exactly this identity is believed to be alive.
    pub(super) fn knows(&self, id: &Id) -> bool {
        self.swim.iter_members().any(|known| known.id() == id)
    }

    pub(super) fn announce(&mut self, now: Instant, to: Id) {
        self.drive(now, |swim, runtime| swim.announce(to, runtime));
    }

    /// Continues under another identity.
    pub(super) fn become_id(&mut self, now: Instant, id: Id) {
        if id == self.own {
            return;
        }
        self.own = id.clone();
        // The empty update restarts SWIM's probes, which a new identity stops.
        self.drive(now, |swim, runtime| {
            swim.change_identity(id, &mut *runtime)?;
            swim.apply_many(std::iter::empty(), false, runtime)
        });
    }

    /// Calls SWIM and carries out its output.
    pub(super) fn drive(
        &mut self,
        now: Instant,
        step: impl FnOnce(&mut Swim, &mut AccumulatingRuntime<Id>) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = step(&mut self.swim, &mut self.runtime) {
            metrics().dropped_invalid.increment(1);
            debug!(%error, "SWIM refused a step");
        }
        self.carry_out(now);
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some((to, data)) = self.runtime.to_send() {
            let less = if self.deaf { without_deaths(&data) } else { None };
            let (_, datagram) = self.sealer.seal(Kind::Gossip, less.as_deref().unwrap_or(&data));
            self.outbox.push((to.member.peer, datagram));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            if self.alive() {
                self.agenda.add(now + after, Due::Swim(timer));
            }
        }
        let (mut alone, mut renewed, mut met) = (false, false, false);
        while let Some(news) = self.runtime.to_notify() {
            alone |= matches!(news, OwnedNotification::Idle);
            renewed |= matches!(news, OwnedNotification::Rejoin(_));
            met |= matches!(news, OwnedNotification::MemberUp(_));
            self.note(now, news);
        }
        // What kept it apart from this one may have kept it apart from others.
        if met && self.stage == Stage::Settled && self.outlets.members.borrow().alive.len() == 1 {
            self.gather(now);
        }
        if alone && self.alive() {
            self.start_over();
        } else if renewed {
            // A new identity stops SWIM's probes until it learns of another node or is asked to
            // probe.
            let _ = self.swim.apply_many(std::iter::empty(), false, &mut self.runtime);
            self.carry_out(now);
        }
    }

    fn note(&mut self, now: Instant, news: OwnedNotification<Id>) {
        match news {
            OwnedNotification::MemberUp(id) => {
                info!(node = %id.member.name, peer = %id.member.peer, "node is up");
                self.lost.remove(&id.member.name);
            }
            OwnedNotification::MemberDown(id) => {
                info!(node = %id.member.name, peer = %id.member.peer, "node is down");
                metrics().nodes_lost.increment(1);
                if self.lost.len() < limits::DEAD_REMEMBERED_MAX {
                    self.lost.insert(id.member.name, (id.member.peer, now));
                }
            }
            OwnedNotification::Rejoin(id) => {
                warn!("the other nodes declared this node dead; rejoining");
                metrics().declared_down.increment(1);
                self.own = id;
            }
            OwnedNotification::Rename(before, after) => debug!(?before, ?after, "new identity"),
            _ => {}
        }
        self.coalescer.changed(now);
    }

    /// All others are gone: forgets SWIM's state of them. A node that was isolated would otherwise
    /// come back with news of everyone's death, which each of them had to refute.
    fn start_over(&mut self) {
        self.own = self.own.next();
        self.agenda.clear(|due| !matches!(due, Due::Swim(_)));
        self.swim = swim(self.own.clone(), &self.timings, &mut self.rng);
        self.aliases.clear();
        self.deaf = false;
    }

    /// A node that receives nothing from several others is more likely isolated than right about
    /// the death of each. It keeps the deaths to itself until it receives something again or is
    /// alone. (SWIM believes any node's report of a death, so one deaf node would make all others
    /// leave and rejoin.) It continues to probe and to report suspicions: all may be deaf together
    /// for a moment.
    fn hearing(&mut self, now: Instant) {
        let silent = now.saturating_duration_since(self.heard) > self.timings.deaf_after();
        let deaf = silent && (self.deaf || self.swim.num_members() >= 2);
        if deaf != self.deaf {
            self.deaf = deaf;
            debug!(deaf, "the set of peers heard from changed");
        }
    }

    // --- refusals -------------------------------------------------------------------------------

    /// Answers a datagram with a refusal, rate-limited, and informs the operator. The operator of
    /// this node sees the full reason, the other side only as much as it has `shown` that it may
    /// know.
    #[allow(clippy::too_many_arguments, reason = "one place where all of a refusal comes together")]
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        from: SocketAddr,
        start: Start,
        room: usize,
        shown: Shown,
        reason: Reason,
        name: Option<Arc<str>>,
        text: String,
    ) {
        if self.answers.admit(from, now).is_some() {
            let ours = match reason {
                Reason::Cluster | Reason::Secret => String::new(),
                Reason::Protocol => self.terms.protocols().to_string(),
                Reason::RingScheme => self.terms.ring_scheme.clone(),
                Reason::SlotCount => self.terms.slot_count.to_string(),
                Reason::Name => format!("boot {}", self.own.member.boot),
                Reason::Superseded | Reason::Address => text.clone(),
            };
            let (to, format) = ((start.sender, start.number), start.format);
            let refused = Refused { to, format, reason, text: ours };
            if let Some(answer) = self.sealer.refuse(&refused, room, &shown) {
                self.outbox.push((from, answer));
            }
        }
        self.report_refusal(now, Refusal { peer: from, name, reason, by_us: true, text, times: 1 });
    }

    pub(super) fn report_refusal(&mut self, now: Instant, refusal: Refusal) {
        refusal.reason.count();
        let same = |known: &Refusal| {
            (known.peer, known.reason, known.by_us, &known.text)
                == (refusal.peer, refusal.reason, refusal.by_us, &refusal.text)
        };
        let about = (refusal.peer.ip(), refusal.reason, refusal.by_us);
        if self.lines.admit(about, now).is_some() {
            warn!(reason = refusal.reason.as_str(), "{refusal}");
        }
        match self.refusals.iter_mut().find(|known| same(known)) {
            Some(known) => known.times += 1,
            None => {
                if self.refusals.len() >= limits::REFUSALS_KEPT_MAX {
                    self.refusals.pop_front();
                }
                self.refusals.push_back(refusal);
            }
        }
        self.outlets.refusals.send_replace(self.refusals.iter().cloned().collect());
    }

    /// A delay that differs from node to node and each time.
    pub(super) fn jitter(&mut self, around: Duration) -> Duration {
        around.mul_f64(self.rng.random_range(0.8..1.2))
    }
}
