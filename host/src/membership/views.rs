//! When a node has joined, and when what it sees becomes a view.
//!
//! A node claims the slots of those that it does not see. So its first view, and the first one after it
//! was alone, waits until every address that it knows has answered: as a member, as this node itself, or
//! with a refusal. One that does not answer within [`limits::FIRST_VIEW_WAIT`] of the first one that does
//! is not waited for. Later views do not wait: a death must be in them soon, and who comes back brings
//! along those that it sees.

use super::{
    core::{Core, Stage},
    refusal::{Fatal, Reason},
};
use crate::{
    limits,
    peer::member::{Member, Members},
    telemetry::metrics::metrics,
};
use std::{sync::Arc, time::Instant};
use tracing::info;

impl Core {
    /// Greets all that are not members, and has the next view wait for their answers.
    pub(super) fn gather(&mut self, now: Instant) {
        if self.gathering.is_some() {
            return;
        }
        self.gathering = Some(now);
        if self.stage == Stage::Settled {
            // What they answered long ago may have changed.
            self.settled_with.clear();
        }
        self.greet(now);
    }

    /// When this node stops waiting for those that it greets; `None`: there is nobody to wait for.
    fn gathering_ends(&self) -> Option<Instant> {
        let since = self.gathering?;
        let all_answered = self.found.answered && self.unknown().is_subset(&self.settled_with);
        (!all_answered).then(|| since + limits::FIRST_VIEW_WAIT)
    }

    /// Whether a view would be too early: a node claims the slots of those that it does not see, and
    /// one that was greeted and has not answered yet may well be alive.
    fn gathers(&self, now: Instant) -> bool {
        self.gathering_ends().is_some_and(|end| now < end)
    }

    /// When [`Core::tick`] is to look whether there is a view.
    pub(super) fn view_due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Settled => {
                let due = self.coalescer.due()?;
                Some(self.gathering_ends().map_or(due, |end| due.max(end)))
            }
            Stage::Joining if self.challenge.is_none() && self.swim.num_members() > 0 => {
                self.gathering_ends()
            }
            _ => None,
        }
    }

    pub(super) fn publish_if_due(&mut self, now: Instant) {
        if self.stage != Stage::Settled {
            return;
        }
        if self.gathers(now) {
            self.coalescer.restart(now);
        } else if self.coalescer.take(now) {
            self.publish();
        }
    }

    /// Decides whether this node has joined: with peers or, after a wait, alone.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.stage != Stage::Joining || self.challenge.is_some() {
            return;
        }
        if self.swim.num_members() > 0 {
            self.gather(now);
            if !self.gathers(now) {
                self.stage = Stage::Settled;
                self.coalescer.changed(now);
                self.coalescer.restart(now);
            }
            return;
        }
        let since = |at: Instant| now.saturating_duration_since(at);
        let nobody = self.found.answered && self.found.addresses.is_empty();
        let asked = self.found.answered
            && self.greeted.is_some_and(|at| since(at) >= self.timings.join_wait);
        if !nobody && !asked && since(self.started) < self.timings.discovery_wait {
            return;
        }
        // One that is there and will be a member in a moment.
        if self.met.is_some_and(|at| since(at) < limits::FIRST_VIEW_WAIT) {
            return;
        }
        if let Some((at, refusal, certain)) = &self.refused
            && since(*at) < limits::REFUSAL_FRESH
        {
            // Refused by all that answered. Alone it would fight them over slots in the log.
            if *certain {
                if refusal.reason == Reason::Address {
                    refusal.reason.count();
                }
                self.break_off(Fatal::Refused(refusal.clone()));
            }
            return;
        }
        info!("no peer answers; starting without peers");
        self.stage = Stage::Settled;
        self.publish();
    }

    pub(super) fn publish(&mut self) {
        self.gathering = None;
        let others = self.swim.iter_members().map(|member| member.id().member.clone());
        let mut alive: Vec<Member> = others.chain([self.own.member.clone()]).collect();
        alive.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        alive.dedup_by(|a, b| a.name == b.name);
        self.outlets.members.send_if_modified(|last| {
            let changed = last.number == 0 || *last.alive != *alive;
            if changed {
                let number = last.number + 1;
                let names: Vec<&str> = alive.iter().map(|member| &*member.name).collect();
                info!(number, nodes = %names.join(" "), "new view");
                metrics().views.increment(1);
                *last = Arc::new(Members { number, own: last.own.clone(), alive: alive.into() });
            }
            changed
        });
    }
}
