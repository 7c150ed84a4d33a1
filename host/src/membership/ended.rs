//! Peers whose process has ended: the machine that it ran on says so.
//!
//! When a process is killed, its machine ends its connections at once and refuses new ones to its port.
//! So a peer that refuses connections ([`crate::rpc`] tries to connect again and again) is missed sooner
//! than one that is only silent. A machine without power, a cut network, a process that is stopped or has
//! too much to do refuse nothing: there the probes decide, which leave more time.
//!
//! A firewall or a proxy can refuse in the place of a peer that is well. So a peer that refuses is first
//! greeted, and suspected for everyone to hear. It is declared dead when [`limits::ENDED_WAIT`] later it
//! still refuses, nothing that it sent has arrived here in that time, and it has not refuted the
//! suspicion through others. Should it be alive all the same, it loses its slots to others until it
//! has rejoined; nothing else depends on it.

use super::{
    core::{Core, Due, Stage},
    id::Id,
};
use crate::limits;
use foca::{Incarnation, Member, State};
use std::time::{Duration, Instant};
use tracing::{debug, info};

/// A peer that refuses connections.
pub(super) struct Refusing {
    /// Of the first refusal and of the last one.
    since: Instant,
    last: Instant,
    /// Of the peer when it was suspected: a greater one refutes that.
    incarnation: Incarnation,
    /// When it turned out to be alive.
    alive: Option<Instant>,
}

impl Refusing {
    /// A refusal that comes later than this after the one before begins anew.
    const GAP: Duration = limits::PEER_RETRY_MAX.saturating_mul(2);

    fn counts(&self, now: Instant) -> bool {
        let since = |at| now.saturating_duration_since(at);
        match self.alive {
            Some(at) => since(at) < limits::ENDED_MISTAKEN,
            None => since(self.last) < Self::GAP,
        }
    }

    /// Time in which this node did not run is no silence of the peer.
    pub fn shift(&mut self, late: Duration, now: Instant) {
        for at in [&mut self.since, &mut self.last] {
            *at = (*at + late).min(now);
        }
    }
}

impl Core {
    /// The machine of a peer refused a connection to its port.
    pub fn connection_refused(&mut self, now: Instant, instance: u128) {
        self.allow_for_pause(now);
        let Some((id, incarnation)) = self.active(instance) else { return };
        if self.stage != Stage::Settled {
            return;
        }
        match self.refusing.get_mut(&instance).filter(|known| known.counts(now)) {
            Some(known) if known.alive.is_some() => return,
            Some(known) => known.last = now,
            None => {
                debug!(node = %id.member.name, "a node refuses connections; greeting it");
                let alive: Vec<u128> = self.instances().collect();
                self.refusing.retain(|instance, _| alive.contains(instance));
                let known = Refusing { since: now, last: now, incarnation, alive: None };
                self.refusing.insert(instance, known);
                self.agenda.add(now + limits::ENDED_WAIT, Due::Ended(instance));
                // For others, which may reach it. Without any the greeting is enough, and SWIM, which
                // repeats a suspicion so many times, had better keep them for its own probes.
                if self.swim.num_members() > 1 {
                    self.report(now, Member::new(id.clone(), incarnation, State::Suspect));
                }
            }
        }
        self.send_hello(now, id.member.peer);
        self.end_if_due(now, instance, Duration::ZERO);
    }

    /// The wait since a peer's first refusal is over.
    pub(super) fn look_for_end(&mut self, now: Instant, instance: u128) {
        self.end_if_due(now, instance, limits::ENDED_WAIT / 2);
    }

    /// A process sent something that has just arrived.
    pub(super) fn heard_from(&mut self, now: Instant, instance: u128) {
        if let Some(known) = self.refusing.get_mut(&instance) {
            known.alive = Some(now);
        }
    }

    /// Declares a peer dead that has refused connections for as long as it takes, the last time at most
    /// `ago`.
    fn end_if_due(&mut self, now: Instant, instance: u128, ago: Duration) {
        let Some(known) = self.refusing.get(&instance) else { return };
        let since = |at| now.saturating_duration_since(at);
        if known.alive.is_some()
            || since(known.since) < limits::ENDED_WAIT
            || since(known.last) > ago
        {
            return;
        }
        let suspected = known.incarnation;
        let Some((id, incarnation)) = self.active(instance) else { return };
        if incarnation != suspected {
            // It has heard of the suspicion from others, and refuted it.
            return self.heard_from(now, instance);
        }
        self.refusing.remove(&instance);
        info!(node = %id.member.name, peer = %id.member.peer, "a node refuses connections and does not answer: its process has ended");
        self.report(now, Member::new(id, incarnation, State::Down));
    }

    /// Takes note of a peer's state, and spreads it.
    fn report(&mut self, now: Instant, member: Member<Id>) {
        self.drive(now, |swim, runtime| {
            swim.apply_many(std::iter::once(member), true, &mut *runtime)?;
            swim.gossip(runtime)
        });
    }

    fn active(&self, instance: u128) -> Option<(Id, Incarnation)> {
        let known =
            self.swim.iter_members().find(|known| known.id().member.instance == instance)?;
        Some((known.id().clone(), known.incarnation()))
    }

    fn instances(&self) -> impl Iterator<Item = u128> {
        self.swim.iter_members().map(|known| known.id().member.instance)
    }
}
