//! How a node finds its peers: fixed seeds, or DNS.
//!
//! One task resolves all names periodically and publishes the addresses it found. An address is
//! only a hint: membership sends it a datagram now and then, and only answers with the cluster's
//! secret count. So old, wrong and forged addresses only cost datagrams.
//!
//! - A *failure* (no server, no answer in time, an error code, invalid bytes) keeps the last answer
//!   of that name and record type. Metrics show it, and the log when it begins and ends.
//! - A name without addresses (no such name, no such records) is an answer: there are no peers.
//! - The node's own address is left out if it is recognised; see [`Own`].

mod options;
mod resolve;
#[cfg(test)]
mod tests;

pub use options::{DnsOptions, Host, Seed};

use crate::{limits, telemetry::metrics::metrics};
use resolve::{Outcome, Resolver};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tracing::{info, warn};

/// A node's knowledge of its peers' addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sorted, without duplicates and without the node's own; at most
    /// [`limits::DISCOVERY_ADDRESSES_MAX`].
    pub addresses: Arc<[SocketAddr]>,
    /// Every name has been answered at least once since the start. Until then it is unknown whether
    /// there are peers.
    pub answered: bool,
}

/// Where this node itself listens.
///
/// An address is the node's own if it is the advertised one, the one that it is bound to, or, if it
/// is bound to all, one of this machine's with the node's port. A mistake only sends a datagram to
/// the node itself, which membership recognizes by its instance and ignores.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    pub advertised: SocketAddr,
    pub bound: SocketAddr,
}

/// How to look. Seeds and DNS may be combined; with neither, no peer is ever found.
#[derive(Clone, Debug)]
pub struct Options {
    pub seeds: Vec<Seed>,
    pub dns: Option<DnsOptions>,
    pub own: Own,
    /// Per attempt of one query; a query is tried twice.
    pub timeout: Duration,
}

impl Options {
    pub fn new(own: Own) -> Self {
        Self { seeds: Vec::new(), dns: None, own, timeout: limits::DNS_TIMEOUT }
    }
}

/// The task that looks for peers.
pub struct Discovery {
    options: Options,
    /// By name and record type (A, AAAA): the last answer.
    answers: BTreeMap<String, [Option<Vec<IpAddr>>; 2]>,
    failing: BTreeSet<String>,
    overfull: bool,
    found: watch::Sender<Found>,
}

impl Discovery {
    /// Starts looking, on the current tokio runtime; ends when the last receiver is dropped.
    /// Literal addresses are available at once.
    pub fn start(options: Options) -> watch::Receiver<Found> {
        let (found, receiver) = watch::channel(Found::default());
        let mut discovery = Self {
            answers: options.names().map(|name| (name, [None, None])).collect(),
            options,
            failing: BTreeSet::new(),
            overfull: false,
            found,
        };
        discovery.publish();
        crate::task::spawn("discovery", discovery.run());
        receiver
    }

    async fn run(mut self) {
        if self.answers.is_empty() {
            return self.found.closed().await;
        }
        let interval = self.options.dns.as_ref().map(|dns| dns.interval);
        let interval = interval.unwrap_or(limits::DNS_POLL_INTERVAL_DEFAULT);
        loop {
            let closed = self.found.clone();
            tokio::select! {
                () = closed.closed() => return,
                () = self.look() => {}
            }
            self.publish();
            tokio::select! {
                () = self.found.closed() => return,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Resolves every name, concurrently up to a bound.
    async fn look(&mut self) {
        let server = self.options.dns.as_ref().and_then(|dns| dns.server);
        let resolver = match Resolver::new(server, self.options.timeout) {
            Ok(resolver) => resolver,
            Err(error) => {
                let names: Vec<String> = self.answers.keys().cloned().collect();
                return names.into_iter().for_each(|name| self.failed(name, &error.to_string()));
            }
        };
        let names: Vec<String> = self.answers.keys().cloned().collect();
        let looks = names.iter().map(|name| {
            let look = resolver.look(name);
            async { tokio::time::timeout(limits::DNS_NAME_DEADLINE, look).await.ok() }
        });
        let outcomes = futures_util::future::join_all(looks).await;
        for (name, outcomes) in names.into_iter().zip(outcomes) {
            let late = || [(); 2].map(|()| Outcome::Failed("request timed out".into()));
            self.note(name, outcomes.unwrap_or_else(late));
        }
    }

    fn note(&mut self, name: String, outcomes: [Outcome; 2]) {
        let mut failure = None;
        let mut some = false;
        let answers = self.answers.entry(name.clone()).or_default();
        for (answer, outcome) in answers.iter_mut().zip(outcomes) {
            match outcome {
                Outcome::Answer(addresses) => {
                    some |= !addresses.is_empty();
                    *answer = Some(addresses);
                }
                Outcome::Failed(error) => failure = Some(error),
            }
        }
        match failure {
            // Many servers do not answer AAAA queries; the addresses are what counts.
            Some(error) if !some => self.failed(name, &error),
            _ => self.succeeded(&name),
        }
    }

    fn failed(&mut self, name: String, error: &str) {
        metrics().discovery_failures.increment(1);
        if !self.failing.contains(&name) {
            warn!(%name, error, "DNS did not answer; using the last known addresses of this name");
            self.failing.insert(name);
        }
    }

    fn succeeded(&mut self, name: &str) {
        // For people, in Prometheus' units. Nothing depends on it.
        metrics().discovery_success.set(crate::clock::since_epoch().as_secs_f64());
        if self.failing.remove(name) {
            info!(%name, "DNS answers again");
        }
    }

    fn publish(&mut self) {
        let options = &self.options;
        let literal = options.seeds.iter().filter_map(|seed| match seed.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, seed.port)),
            Host::Name(_) => None,
        });
        let known =
            |name: &String| self.answers.get(name).into_iter().flatten().flatten().flatten();
        let seeds = options.seeds.iter().filter_map(|seed| match &seed.host {
            Host::Ip(_) => None,
            Host::Name(name) => Some(known(name).map(|ip| SocketAddr::new(*ip, seed.port))),
        });
        let port = options.own.advertised.port();
        let dns = options.dns.iter().flat_map(|dns| &dns.names);
        let dns = dns.flat_map(|name| known(name).map(|ip| SocketAddr::new(*ip, port)));
        let mut all: BTreeSet<SocketAddr> = BTreeSet::new();
        let mut strange = 0;
        for address in literal.chain(seeds.flatten()).chain(dns) {
            match usable(address.ip()) {
                Some(ip) => {
                    all.insert(SocketAddr::new(ip, address.port()));
                }
                None => strange += 1,
            }
        }
        metrics().discovery_unusable.increment(strange);
        all.retain(|address| !options.own.is(*address));
        let overfull = all.len() > limits::DISCOVERY_ADDRESSES_MAX;
        if overfull && !self.overfull {
            let (found, kept) = (all.len(), limits::DISCOVERY_ADDRESSES_MAX);
            warn!(found, kept, "too many peer addresses; ignoring the rest");
        }
        self.overfull = overfull;
        let addresses: Arc<[_]> = all.into_iter().take(limits::DISCOVERY_ADDRESSES_MAX).collect();
        metrics().discovery_addresses.set(addresses.len() as f64);
        let answered = self.answers.values().all(|answers| answers.iter().any(Option::is_some));
        let new = Found { addresses, answered: answered || self.found.borrow().answered };
        self.found.send_if_modified(|old| {
            let changed = *old != new;
            if changed {
                info!(addresses = ?new.addresses, "addresses of peers");
                *old = new;
            }
            changed
        });
    }
}

impl Options {
    fn names(&self) -> impl Iterator<Item = String> {
        let seeds = self.seeds.iter().filter_map(|seed| match &seed.host {
            Host::Ip(_) => None,
            Host::Name(name) => Some(name.clone()),
        });
        seeds.chain(self.dns.iter().flat_map(|dns| dns.names.clone()))
    }
}

impl Own {
    fn is(&self, address: SocketAddr) -> bool {
        let all = self.bound.ip().to_canonical().is_unspecified();
        address == self.advertised
            || address == SocketAddr::new(self.bound.ip().to_canonical(), self.bound.port())
            || (all && address.port() == self.bound.port() && is_of_this_machine(address.ip()))
    }
}

/// Whether the kernel would send to `ip` from `ip` itself; sends nothing. Binding to it would show
/// that too, but not under `ip_nonlocal_bind`, where every peer would look local. In return, an
/// address of `127.0.0.0/8` beyond the first is missed, which costs a datagram.
fn is_of_this_machine(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        // The discard port: a datagram socket's connect only looks up the route.
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

/// The address as it appears in datagrams, if a node can have it at all.
fn usable(ip: IpAddr) -> Option<IpAddr> {
    let ip = ip.to_canonical();
    let strange = match ip {
        IpAddr::V4(v4) => v4.is_broadcast(),
        // Unreachable without the interface's number.
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (!strange && !ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}
