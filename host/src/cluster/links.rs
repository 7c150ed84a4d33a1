//! Which links to other nodes are missing, and whether this node is not ready because of it.
//!
//! A load balancer takes a node that is not ready out, so a node must report so only if others do
//! better. A node that can't reach the owners of most slots answers most requests with 503: it is not
//! ready when the nodes that it reaches, itself included, are fewer than half of those that it sees.
//! With exactly half, as of two nodes when one link is gone, it is not ready if those that it does
//! not reach all reach it: they can do what it can't. So
//! - one node that is cut off, or whose peer port is locked, makes only itself unready: all others
//!   still reach each other;
//! - two nodes that have no link in either direction both stay ready: neither does better;
//! - nodes whose links fail for each other in turns are never all unready by the rule of the half,
//!   as there are not enough links to be missing.
//!
//! A missing link *from* a peer is primarily that peer's problem: it is reported, and changes
//! nothing. Nor does a dead peer: it leaves the view well before [`limits::PEER_LINK_GRACE`]. A
//! node that has just started waits for its links before it is ready for the first time.

use super::Cluster;
use crate::{
    limits,
    peer::member::{Member, Members},
    rpc::Reach,
    telemetry::metrics,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// The state of this node's links. Pure: the caller passes the time.
#[derive(Debug, Default)]
pub struct Links {
    /// By name and instance: since when a link is missing.
    missing: BTreeMap<(Arc<str>, u128), Missing>,
    /// The node reached enough of the others at least once.
    reached: bool,
    state: State,
}

#[derive(Debug, Default)]
struct Missing {
    /// And why this node has no link to it.
    to: Option<(Instant, String)>,
    from: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// It reaches too few of the others to be of use.
    pub cut_off: bool,
    /// What is missing for longer than the grace, in a sentence.
    pub trouble: Option<String>,
    pub missing_to: usize,
    pub missing_from: usize,
}

impl Default for State {
    /// Nobody has looked yet.
    fn default() -> Self {
        let trouble = Some("its links to the other nodes are not up yet".into());
        Self { cut_off: true, trouble, missing_to: 0, missing_from: 0 }
    }
}

impl Links {
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Somebody has looked at the links with all members. `reach`: `None` where nothing is known.
    pub fn looked(
        &mut self,
        members: &Members,
        reach: impl Fn(&Member) -> Option<Reach>,
        now: Instant,
    ) {
        let others: Vec<&Member> =
            members.staying().filter(|member| member.name != members.own).collect();
        let key = |member: &Member| (member.name.clone(), member.instance);
        let here: BTreeMap<_, _> = others.iter().map(|member| (key(member), ())).collect();
        self.missing.retain(|known, _| here.contains_key(known));
        // At the start there is nothing yet that could come back by itself.
        let grace = if self.reached { limits::PEER_LINK_GRACE } else { Duration::ZERO };
        let late = |since: Instant| now.saturating_duration_since(since) >= grace;
        let (mut to, mut from, mut better) = (Vec::new(), Vec::new(), true);
        for member in &others {
            let missing = self.missing.entry(key(member)).or_default();
            let Some(reach) = reach(member) else {
                *missing = Missing::default();
                continue;
            };
            let since = missing.to.as_ref().map_or(now, |(since, _)| *since);
            missing.to = reach.to.err().map(|why| (since, why));
            missing.from = (!reach.from).then(|| missing.from.unwrap_or(now));
            if let Some((since, why)) = &missing.to
                && late(*since)
            {
                to.push(format!("{} ({why})", member.name));
                better &= missing.from.is_none();
            }
            if missing.from.is_some_and(late) {
                from.push(&*member.name);
            }
        }
        let (all, reached) = (others.len() + 1, others.len() + 1 - to.len());
        let cut_off = 2 * reached < all || (2 * reached == all && better);
        self.reached |= !cut_off;
        let mut trouble = Vec::new();
        if !to.is_empty() {
            trouble.push(format!("no link to {}", to.join(", ")));
        }
        // While it starts the others take their time to see it.
        if self.reached && !from.is_empty() {
            trouble.push(format!("no link from {}", from.join(", ")));
        }
        self.state = State {
            cut_off,
            trouble: (!trouble.is_empty()).then(|| trouble.join("; ")),
            missing_to: to.len(),
            missing_from: from.len(),
        };
    }
}

/// Looks at the links for as long as the node lives.
pub(super) async fn watch(cluster: Weak<Cluster>) {
    let mut tick = tokio::time::interval(limits::PEER_LINK_LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tick.tick().await;
        let Some(this) = cluster.upgrade() else { return };
        let state = this.look_at_links(crate::clock::now());
        metrics().peer_links_missing_out.set(state.missing_to as f64);
        metrics().peer_links_missing_in.set(state.missing_from as f64);
        let now = this.links.lock().reached.then(|| (state.cut_off, state.trouble.clone()));
        if now == last {
            continue;
        }
        match &now {
            Some((true, Some(trouble))) => tracing::warn!(
                "this node reaches too few of the other nodes to forward requests to them, and is \
                 not ready: {trouble}"
            ),
            Some((_, Some(trouble))) => tracing::warn!("links to other nodes are down: {trouble}"),
            Some((_, None)) if last.is_some() => {
                tracing::info!("links to all other nodes are up");
            }
            _ => {}
        }
        last = now;
    }
}

impl Cluster {
    fn look_at_links(&self, now: Instant) -> State {
        let members = self.members();
        let peers = self.forwarder.peers();
        let mut links = self.links.lock();
        links.looked(&members, |member| peers.reach(member), now);
        links.state().clone()
    }

    /// `Err`: this node reaches too few of the others to serve. `Ok`: which links are missing, if any.
    ///
    /// # Errors
    /// Why, in a sentence.
    pub fn linked(&self) -> Result<Option<String>, String> {
        let state = self.links.lock().state().clone();
        match (state.cut_off, state.trouble) {
            (false, trouble) => Ok(trouble),
            (true, trouble) => Err(trouble.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(own: usize, count: usize) -> Members {
        let member = |n: usize| Member {
            name: format!("n{n}").into(),
            peer: "127.0.0.1:1".parse().unwrap(),
            api: "127.0.0.1:2".parse().unwrap(),
            boot: 1,
            instance: n as u128,
            leaving: false,
            unfit: None,
            version: "1".into(),
        };
        let alive: Vec<_> = (0..count).map(member).collect();
        Members { number: 1, own: format!("n{own}").into(), alive: alive.into() }
    }

    /// Links of a cluster: `up[a][b]`: a has one to b.
    fn look(links: &mut Links, own: usize, up: &[Vec<bool>], now: Instant) -> State {
        let reach = |member: &Member| {
            let peer = member.instance as usize;
            let to = if up[own][peer] { Ok(()) } else { Err("refused".into()) };
            Some(Reach { to, from: up[peer][own] })
        };
        links.looked(&members(own, up.len()), reach, now);
        links.state().clone()
    }

    /// What each node reports once the links have been in this state for a while.
    fn settled(up: &[Vec<bool>]) -> Vec<State> {
        let (all, start) = (vec![vec![true; up.len()]; up.len()], Instant::now());
        let node = |own| {
            let mut links = Links::default();
            assert!(!look(&mut links, own, &all, start).cut_off);
            assert!(!look(&mut links, own, up, start).cut_off, "within the grace");
            look(&mut links, own, up, start + limits::PEER_LINK_GRACE)
        };
        (0..up.len()).map(node).collect()
    }

    fn without(count: usize, gone: &[(usize, usize)]) -> Vec<Vec<bool>> {
        let mut up = vec![vec![true; count]; count];
        gone.iter().for_each(|&(a, b)| up[a][b] = false);
        up
    }

    fn cut_off(count: usize, gone: &[(usize, usize)]) -> Vec<usize> {
        let states = settled(&without(count, gone));
        (0..count).filter(|&n| states[n].cut_off).collect()
    }

    /// A node that can't reach the others was sent requests that it could only refuse; and if all
    /// called themselves unready for one bad peer, nobody would serve.
    #[test]
    fn only_the_node_that_is_cut_off_is_not_ready() {
        assert_eq!(cut_off(2, &[(0, 1)]), [0], "the other one reaches both");
        assert_eq!(cut_off(2, &[(0, 1), (1, 0)]), [0; 0], "neither does better");
        assert_eq!(cut_off(3, &[(0, 1), (0, 2), (1, 0), (2, 0)]), [0]);
        assert_eq!(cut_off(3, &[(1, 0), (2, 0)]), [0; 0], "its slots are out of reach, it is not");
        assert_eq!(cut_off(3, &[(0, 1)]), [0; 0]);
        assert_eq!(cut_off(4, &[(0, 1), (0, 2)]), [0], "half, and they reach it");
        let trouble = &settled(&without(3, &[(0, 1), (0, 2), (1, 0)]))[0].trouble;
        assert_eq!(
            trouble.as_deref(),
            Some("no link to n1 (refused), n2 (refused); no link from n1")
        );
    }

    /// A node that starts must not be sent requests before it can forward any, and a peer that comes
    /// later must not make it unready.
    #[test]
    fn a_start_waits_for_links_and_later_ones_have_a_grace() {
        let (mut links, start) = (Links::default(), Instant::now());
        assert!(links.state().cut_off, "nobody has looked yet");
        let none = vec![vec![false; 3]; 3];
        assert!(look(&mut links, 0, &none, start).cut_off);
        let one = without(3, &[(0, 2)]);
        assert!(!look(&mut links, 0, &one, start).cut_off);
        let more = without(8, &[(0, 2), (0, 3), (0, 4), (0, 5), (0, 6)]);
        let later = start + limits::PEER_LINK_GRACE / 2;
        assert!(!look(&mut links, 0, &more, later).cut_off);
        // Alone: nothing to wait for.
        assert!(!look(&mut Links::default(), 0, &without(1, &[]), start).cut_off);
    }

    proptest! {
        /// With one node, or any one link in each pair, in trouble somebody still serves.
        #[test]
        fn somebody_stays_ready(count in 2..7_usize, seed in prop::collection::vec(any::<(bool, bool)>(), 49)) {
            let mut up = without(count, &[]);
            for a in 0..count {
                for b in 0..a {
                    let (broken, which) = seed[a * 7 + b];
                    let (from, to) = if which { (a, b) } else { (b, a) };
                    up[from][to] = !broken;
                }
            }
            let states = settled(&up);
            prop_assert!(states.iter().any(|state| !state.cut_off), "{up:?}");
        }
    }
}
