//! How nodes meet: hello, welcome, refusal; and how two nodes with one name are resolved.
//!
//! A node greets every address that discovery finds, or where a node died, if it is not a member's.
//! It asks each node that welcomes it to let it join by SWIM. It keeps greeting for as long as it
//! lives, so two sides of a partition find each other again, however long it lasted.
//!
//! **Two processes with one name.** The established one stays. A new process learns from any node
//! that it greets that its name is known under another instance. Unless that one was at the new
//! process's own address (where it can't be any more), the new process probes it directly. If it
//! answers, the new process ends. If it does not within [`limits::CHALLENGE_TRIES`] x
//! [`limits::CHALLENGE_INTERVAL`], it is gone and its death not noticed yet, and the new process
//! replaces it at once. If it was only paused, it learns when it resumes that its claim is the
//! older one, and ends.

use super::{
    core::{Challenge, Core, Due, Pending, Stage},
    id::Id,
    refusal::{Fatal, Reason, Refusal},
    wire::{FORMAT_SEALED, Hello, Kind, Opened, Refused, Shown, Start, Terms, Welcome, decode},
};
use crate::{limits, peer::protocol::Protocols, telemetry::metrics::metrics};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Instant};
use tracing::{error, info, warn};

impl Terms {
    pub(super) fn protocols(&self) -> Protocols {
        Protocols { oldest: self.protocol_oldest, newest: self.protocol }
    }
    /// Whether the cluster's level is above a node's newest.
    fn is_past(&self, newest: u16) -> bool {
        newest < self.protocol_oldest
    }
    /// Why a node with `other` is refused, and how the two differ.
    fn mismatch(&self, other: &Self) -> Option<(Reason, String)> {
        let (theirs, ours) = (other.protocols(), self.protocols());
        if ours.common(theirs).is_none() {
            return Some((
                Reason::Protocol,
                format!("it speaks protocol {theirs}, this node {ours}"),
            ));
        }
        if self.ring_scheme != other.ring_scheme {
            let (theirs, ours) = (&other.ring_scheme, &self.ring_scheme);
            let text = format!("its ring scheme is {theirs:?}, this node's {ours:?}");
            return Some((Reason::RingScheme, text));
        }
        if self.slot_count != other.slot_count {
            let (theirs, ours) = (other.slot_count, self.slot_count);
            return Some((
                Reason::SlotCount,
                format!("its slot count is {theirs}, this node's {ours}"),
            ));
        }
        None
    }
}

impl Core {
    pub(super) fn greet_again(&mut self, now: Instant) {
        let interval = match self.stage {
            Stage::Joining => limits::GREETING_INTERVAL_JOINING,
            _ => limits::GREETING_INTERVAL,
        };
        let interval = self.jitter(interval);
        self.agenda.add(now + interval, Due::Greet);
        self.greet(now);
    }

    /// Greets all addresses that are not known members'.
    pub(super) fn greet(&mut self, now: Instant) {
        let old = |at: Instant, max| now.saturating_duration_since(at) > max;
        self.pending.retain(|_, pending| !old(pending.at, limits::GREETING_WAIT));
        self.lost.retain(|_, (_, at)| !old(*at, limits::DEAD_REMEMBERED));
        if self.challenge.is_some() {
            return;
        }
        let unknown = self.unknown();
        // All get their turn: each time it begins elsewhere.
        let turns = unknown.len().div_ceil(limits::GREETINGS_PER_TURN_MAX).max(1);
        self.turn = (self.turn + 1) % turns;
        let first = self.turn * limits::GREETINGS_PER_TURN_MAX;
        for address in unknown.into_iter().skip(first).take(limits::GREETINGS_PER_TURN_MAX) {
            self.send_hello(now, address);
        }
    }

    /// Addresses where a node may be that is not a member.
    pub(super) fn unknown(&self) -> BTreeSet<SocketAddr> {
        let mut unknown: BTreeSet<SocketAddr> = self.found.addresses.iter().copied().collect();
        unknown.extend(self.lost.values().map(|(peer, _)| *peer));
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        for known in self.swim.iter_members() {
            unknown.remove(&known.id().member.peer);
            names.insert(known.id().member.name.clone());
        }
        unknown.remove(&self.own.member.peer);
        let aliases = &self.aliases;
        unknown.retain(|address| match aliases.get(address) {
            Some(Some(name)) => !names.contains(name),
            Some(None) => false,
            None => true,
        });
        unknown
    }

    pub(super) fn send_hello(&mut self, now: Instant, to: SocketAddr) {
        if self.pending.len() >= limits::GREETINGS_PENDING_MAX {
            return;
        }
        let settled = self.claims();
        let hello = Hello { terms: self.terms.clone(), id: self.own.clone(), settled };
        let body = match postcard::to_stdvec(&hello) {
            Ok(body) => body,
            Err(error) => return error!(%error, "bug: can't encode this node's hello"),
        };
        let (number, datagram) = self.sealer.seal(Kind::Hello, &body);
        self.pending.insert(number, Pending { to, at: now, settled });
        self.greeted.get_or_insert(now);
        self.outbox.push((to, datagram));
    }

    /// It keeps its name: others know it by it, or its rival did not answer.
    fn claims(&self) -> bool {
        self.stage == Stage::Settled || self.cleared.is_some()
    }

    pub(super) fn send_welcome(&mut self, to: u64, peer: SocketAddr, rival: Option<(Id, bool)>) {
        let welcome = Welcome { to, id: self.own.clone(), rival, astray: false };
        self.seal_welcome(peer, &welcome);
    }

    fn seal_welcome(&mut self, peer: SocketAddr, welcome: &Welcome) {
        match postcard::to_stdvec(welcome) {
            Ok(body) => {
                let (_, datagram) = self.sealer.seal(Kind::Welcome, &body);
                self.outbox.push((peer, datagram));
            }
            Err(error) => error!(%error, "bug: can't encode a welcome"),
        }
    }

    pub(super) fn alias(&mut self, address: SocketAddr, name: Option<Arc<str>>) {
        if self.aliases.len() >= 2 * limits::DISCOVERY_ADDRESSES_MAX {
            self.aliases.clear();
        }
        self.aliases.insert(address, name);
    }

    pub(super) fn hello(&mut self, now: Instant, from: SocketAddr, start: Start, datagram: &[u8]) {
        let m = metrics();
        let room = datagram.len();
        let Some(opened) = self.sealer.open(Kind::Hello, start, datagram) else {
            return m.dropped_garbage.increment(1);
        };
        let Opened { authentic, body } = opened;
        let sealed = start.format == FORMAT_SEALED;
        if sealed && !authentic {
            let text = "its secret differs from this node's".to_owned();
            return self.refuse(now, from, start, room, Shown::Nothing, Reason::Secret, None, text);
        }
        // If it is not encrypted, it is not authenticated yet: only its cluster name is looked at.
        let Some(hello) = decode::<Hello>(&body).filter(|hello| hello.id.is_sound()) else {
            return m.dropped_garbage.increment(1);
        };
        let name = &hello.id.member.name;
        let (theirs, ours) = (&hello.terms.cluster, &self.terms.cluster);
        if theirs != ours {
            let known = sealed || self.sealer.knows_secret(theirs, start, datagram);
            let shown = if known { Shown::InCluster(theirs.clone()) } else { Shown::Nothing };
            let secret = if known { "" } else { ", and its secret differs from this node's" };
            let theirs: String = theirs.chars().take(limits::CLUSTER_NAME_BYTES_MAX).collect();
            let text = format!(
                "its cluster is {theirs:?}, this node's {ours:?}{secret} (its name is {name})"
            );
            return self.refuse(now, from, start, room, shown, Reason::Cluster, None, text);
        }
        if !authentic {
            let text = format!("its secret differs from this node's (its name is {name})");
            return self.refuse(now, from, start, room, Shown::Nothing, Reason::Secret, None, text);
        }
        if !self.windows.take(start.sender, start.number, now) {
            return m.dropped_replayed.increment(1);
        }
        self.heard = now;
        self.heard_from(now, hello.id.member.instance);
        let name = hello.id.member.name.clone();
        if let Some((reason, text)) = self.terms.mismatch(&hello.terms) {
            // One that serves already must not continue: it would fight for slots in the log.
            let too_old = reason == Reason::Protocol && self.terms.is_past(hello.terms.protocol);
            let reason = if too_old && hello.settled { Reason::Superseded } else { reason };
            return self.refuse(now, from, start, room, Shown::Key, reason, Some(name), text);
        }
        if sealed {
            self.sealer.seal_from_now_on();
        }
        if name == self.own.member.name {
            return self.hello_from_rival(now, from, start, room, &hello);
        }
        if self.challenge.is_some() {
            return;
        }
        let rival =
            self.rival_of(&hello.id).filter(|(known, active)| *active || !hello.id.outranks(known));
        let peer = hello.id.member.peer;
        self.met.get_or_insert(now);
        self.send_welcome(start.number, peer, rival);
        if from != peer {
            let id = self.own.clone();
            self.seal_welcome(from, &Welcome { to: start.number, id, rival: None, astray: true });
        }
    }

    /// Another process has this node's name. An established one stays. Of two that are joining, or
    /// two that were established before their clusters met, the greater claim stays.
    fn hello_from_rival(
        &mut self,
        now: Instant,
        from: SocketAddr,
        start: Start,
        room: usize,
        hello: &Hello,
    ) {
        if !hello.id.rivals(&self.own) {
            return metrics().dropped_own.increment(1);
        }
        let settled = self.claims();
        let gives_way = match (settled, hello.settled) {
            (true, false) => false,
            (false, true) => true,
            _ => hello.id.wins(&self.own),
        };
        match gives_way {
            true if settled => self.superseded(&hello.id),
            // It may be a recording, which this process can't know. The one that sent it answers a challenge, if
            // it lives.
            true => self.meet_rival(now, hello.id.clone(), true),
            false => {
                let name = hello.id.member.name.clone();
                let text = format!("its name {name} is this node's, and this node is alive");
                self.refuse(now, from, start, room, Shown::Key, Reason::Name, Some(name), text);
            }
        }
    }

    /// An authentic datagram of this cluster: whether it may be listened to. One that is encrypted
    /// tells that the cluster encrypts, which never ends.
    pub(super) fn may_be_heard(&mut self, start: Start) -> bool {
        if start.format == FORMAT_SEALED {
            self.sealer.seal_from_now_on();
            return true;
        }
        let heard = !self.terms.encrypts();
        if !heard {
            metrics().dropped_unsealed.increment(1);
        }
        heard
    }

    fn name_taken(&mut self, holder: SocketAddr) {
        let name = self.own.member.name.clone();
        self.break_off(Fatal::NameTaken { name, holder });
    }

    pub(super) fn welcome(&mut self, now: Instant, start: Start, datagram: &[u8]) {
        let m = metrics();
        let opened = self.sealer.open(Kind::Welcome, start, datagram);
        let Some(Opened { authentic: true, body }) = opened else {
            return m.dropped_unauthentic.increment(1);
        };
        if !self.windows.take(start.sender, start.number, now) {
            return m.dropped_replayed.increment(1);
        }
        if !self.may_be_heard(start) {
            return;
        }
        self.heard = now;
        let Some(welcome) = decode::<Welcome>(&body) else { return m.dropped_invalid.increment(1) };
        let rival_is_sound = welcome.rival.as_ref().is_none_or(|(rival, _)| rival.is_sound());
        if !welcome.id.is_sound()
            || !rival_is_sound
            || welcome.id.member.name == self.own.member.name
        {
            return m.dropped_invalid.increment(1);
        }
        self.heard_from(now, welcome.id.member.instance);
        if welcome.astray {
            return self.unreachable(now, &welcome);
        }
        match self.pending.remove(&welcome.to) {
            Some(pending) => self.alias(pending.to, Some(welcome.id.member.name.clone())),
            None if welcome.to == 0 => {}
            None => return,
        }
        self.met.get_or_insert(now);
        if self.challenge.is_some() {
            return;
        }
        if let Some((rival, active)) = welcome.rival
            && rival.rivals(&self.own)
        {
            self.meet_rival(now, rival, active);
        }
        if self.challenge.is_none() && self.alive() && !self.knows(&welcome.id) {
            self.announce(now, welcome.id);
        }
    }

    /// A peer receives this node's datagrams and answers to the address that this node advertises.
    /// If nothing arrives there, the address is wrong.
    fn unreachable(&mut self, now: Instant, welcome: &Welcome) {
        let Some(pending) = self.pending.get(&welcome.to) else { return };
        let (peer, name) = (pending.to, Some(welcome.id.member.name.clone()));
        let own = self.own.member.peer;
        let text = format!(
            "it receives this node's messages, but its answers to {own} (cluster.advertise of this node) do not arrive"
        );
        let (reason, by_us) = (Reason::Address, false);
        self.refused = Some((now, Refusal { peer, name, reason, by_us, text, times: 1 }, true));
    }

    /// A peer knows another process by this node's name.
    pub(super) fn meet_rival(&mut self, now: Instant, rival: Id, active: bool) {
        let gone = !active
            || self.cleared == Some(rival.member.instance)
            || rival.member.peer == self.own.member.peer;
        if gone {
            if !self.own.outranks(&rival) {
                self.become_id(now, self.own.above(&rival));
            }
        } else if self.challenge.is_none()
            && (rival.wins(&self.own) || self.stage == Stage::Joining)
        {
            info!(
                ?rival,
                "another process is known by this node's name; checking whether it is alive"
            );
            let instance = rival.member.instance;
            self.challenge = Some(Challenge { rival, tries: 0 });
            // Nobody else is greeted meanwhile.
            (self.gathering, self.met) = (None, None);
            self.challenge_again(now, instance);
        }
    }

    pub(super) fn challenge_again(&mut self, now: Instant, instance: u128) {
        let Some(challenge) = &mut self.challenge else { return };
        if challenge.rival.member.instance != instance {
            return;
        }
        if challenge.tries < limits::CHALLENGE_TRIES {
            challenge.tries += 1;
            let peer = challenge.rival.member.peer;
            self.send_hello(now, peer);
            self.agenda.add(now + limits::CHALLENGE_INTERVAL, Due::Challenge(instance));
            return;
        }
        let rival = challenge.rival.clone();
        warn!(?rival, "it does not answer; this node takes over the name");
        self.challenge = None;
        self.cleared = Some(instance);
        self.settled_with.insert(rival.member.peer);
        if !self.own.outranks(&rival) {
            self.become_id(now, self.own.above(&rival));
        }
        self.greet(now);
    }

    pub(super) fn refusal(
        &mut self,
        now: Instant,
        from: SocketAddr,
        start: Start,
        datagram: &[u8],
    ) {
        let m = metrics();
        let opened = self.sealer.open(Kind::Refusal, start, datagram);
        let Some((authentic, refused)) = opened.and_then(|opened| {
            Some((opened.authentic, Refused::read(start.format, &opened.body)?))
        }) else {
            return m.dropped_garbage.increment(1);
        };
        let (sender, number) = refused.to;
        if sender != self.sealer.sender {
            return m.dropped_replayed.increment(1);
        }
        // Only a peer that shares the secret can report more than a mismatch. (Slotd up to 0.1
        // also reports another cluster name with its own key.)
        let reason = refused.reason;
        if !authentic && !matches!(reason, Reason::Cluster | Reason::Secret) {
            return m.dropped_unauthentic.increment(1);
        }
        // It refers to a hello that was sent a moment ago, so it comes from its target.
        let pending = self.pending.remove(&number);
        if reason != Reason::Superseded && pending.is_none() {
            return m.dropped_replayed.increment(1);
        }
        // In clear it may come from anyone who has seen the hello.
        if let Some(hello) = pending.as_ref().filter(|_| authentic)
            && self.settled_with.len() < 2 * limits::DISCOVERY_ADDRESSES_MAX
        {
            self.settled_with.insert(hello.to);
        }
        if reason == Reason::Name && self.claims() && pending.is_some_and(|hello| !hello.settled) {
            // The node was stopped, and only now reads what this node sent while joining.
            return self.send_hello(now, from);
        }
        let (theirs, terms) = (&refused.text, &self.terms);
        let text = match reason {
            Reason::Cluster => format!("its cluster is not this node's ({:?})", terms.cluster),
            Reason::Secret => format!(
                "this node's secret or cluster name {:?} differs from its own; its log says which",
                terms.cluster
            ),
            Reason::Protocol => {
                format!("it speaks protocol {theirs}, this node {}", terms.protocols())
            }
            Reason::RingScheme => {
                format!("its ring scheme is {theirs:?}, this node's {:?}", terms.ring_scheme)
            }
            Reason::SlotCount => {
                format!("its slot count is {theirs}, this node's {}", terms.slot_count)
            }
            Reason::Name => {
                format!("it has this node's name {} and is alive ({theirs})", self.own.member.name)
            }
            Reason::Superseded | Reason::Address => theirs.clone(),
        };
        let refusal = Refusal { peer: from, name: None, reason, by_us: false, text, times: 1 };
        // Clusters with one secret may meet where they look for peers: that is no reason to end.
        // Nor is a node that is too old for the level, which this one has from the registry.
        let is_too_old = refused.protocols().is_some_and(|its| terms.is_past(its.newest));
        let certain =
            authentic && reason != Reason::Cluster && !(reason == Reason::Protocol && is_too_old);
        self.refused = Some((now, refusal.clone(), certain));
        self.report_refusal(now, refusal);
        match reason {
            Reason::Name => self.name_taken(from),
            Reason::Superseded => {
                let name = self.own.member.name.clone();
                self.break_off(Fatal::Superseded { name, by: format!("{theirs}, says {from}") });
            }
            _ => {}
        }
    }
}
