//! The connection limit of a listener: which connections are admitted, and which are closed when it
//! is full.
//!
//! A connection without a request must not keep others out: at the limit, the connection that has
//! waited longest for its first request is closed, then those that are idle between two requests.
//! If all are busy, a few reserved places still answer probes, and refuse all other requests with
//! 503.

use super::connection::ConnShared;
use crate::{limits, telemetry::metrics};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// How many connections a listener may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceLimits {
    /// Connections, sockets included.
    pub max: usize,
    /// Those of one address that is not local.
    pub per_address: usize,
    /// Additional places for probes.
    pub probes: usize,
    /// Connections that were ordered to end, and have not yet, whose places are already reused.
    pub ending: usize,
}

impl PlaceLimits {
    /// With the usual room for probes, and half of the places for one address.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            per_address: max.div_ceil(2),
            probes: limits::PROBE_CONNECTIONS_MAX,
            ending: limits::ENDING_CONNECTIONS_MAX,
        }
    }
    /// File descriptors that this needs.
    pub fn descriptors(&self) -> usize {
        self.max + self.probes + self.ending
    }
}

/// The connections of one listener that are open.
pub(super) struct Places {
    listener: &'static str,
    limits: PlaceLimits,
    state: Mutex<State>,
    all_gone: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Entry>,
    by_address: HashMap<IpAddr, usize>,
    probes: usize,
    /// Ordered to end to make room, and still open.
    ending: usize,
    /// When idle connections were last looked for.
    looked: Option<Instant>,
    /// When a full listener was last logged, and what happened since.
    logged: Option<Instant>,
    ended: u64,
    refused: u64,
}

struct Entry {
    connection: Weak<ConnShared>,
    address: IpAddr,
    kind: Kind,
    /// It has not sent a complete request yet.
    silent: bool,
    ending: bool,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Usual,
    /// Send one request, a probe.
    Probe,
}

/// A connection's place in its listener; released on drop.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) kind: Kind,
    /// Where the connection comes from.
    pub(super) peer: IpAddr,
}

impl Places {
    pub(super) fn new(listener: &'static str, limits: PlaceLimits) -> Arc<Self> {
        Arc::new(Self { listener, limits, state: Mutex::default(), all_gone: Notify::new() })
    }

    /// A place for a connection from `peer`, closing others if necessary; `None` if there is
    /// none, not even to report it. [`Places::took`] informs its connection.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = source(peer);
        let mut gone = Vec::new();
        let place = self.state.lock().take(self.limits, address, &mut gone);
        // Outside of the lock: it may end, and release its place, during this call.
        let mut ended = 0;
        for (connection, was) in gone {
            let Some(was) = was else { continue };
            connection.kill();
            metrics().connection_ended(self.listener, was);
            ended += 1;
        }
        match &place {
            Some((_, Kind::Usual)) => {}
            Some((_, Kind::Probe)) => metrics().connection_ended(self.listener, "refused"),
            None => metrics().connection_ended(self.listener, "dropped"),
        }
        if ended > 0 || !matches!(place, Some((_, Kind::Usual))) {
            self.log(address, ended);
        }
        place.map(|(number, kind)| Place { places: self.clone(), number, kind, peer })
    }

    /// The connection in place `number`.
    pub(super) fn took(&self, number: u64, connection: &Arc<ConnShared>) {
        if let Some(entry) = self.state.lock().open.get_mut(&number) {
            entry.connection = Arc::downgrade(connection);
        }
    }

    fn log(&self, address: IpAddr, ended: u64) {
        let mut state = self.state.lock();
        state.ended += ended;
        state.refused += u64::from(ended == 0);
        let now = crate::clock::timer_now();
        if state.logged.is_some_and(|at| now - at < limits::FULL_LOG_INTERVAL) {
            return;
        }
        state.logged = Some(now);
        let (ended, refused) = (state.ended, state.refused);
        (state.ended, state.refused) = (0, 0);
        let silent = state.open.values().filter(|entry| entry.silent).count();
        let most = state.by_address.iter().max_by_key(|(_, count)| **count);
        let most = most.map_or_else(String::new, |(from, count)| format!("{count} of {from}"));
        tracing::warn!(
            listener = self.listener,
            connections = state.open.len(),
            limit = self.limits.max,
            per_address = self.limits.per_address,
            silent,
            most,
            last = %address,
            ended,
            refused,
            "connection limit reached: closing idle connections for new ones, or refusing new ones"
        );
    }

    pub(super) fn each(&self, order: impl Fn(&ConnShared)) {
        let open: Vec<_> = {
            let state = self.state.lock();
            state.open.values().filter_map(|entry| entry.connection.upgrade()).collect()
        };
        open.iter().for_each(|connection| order(connection));
    }

    /// Resolves when no connection is open.
    pub(super) async fn all_gone(&self) {
        loop {
            let changed = self.all_gone.notified();
            if self.state.lock().open.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

/// A connection that was inspected, and its state if it must end. Dropped outside of the lock,
/// which its place needs.
type Looked = (Arc<ConnShared>, Option<&'static str>);

impl State {
    fn take(
        &mut self,
        limits: PlaceLimits,
        address: IpAddr,
        gone: &mut Vec<Looked>,
    ) -> Option<(u64, Kind)> {
        let own = self.by_address.get(&address).copied().unwrap_or(0);
        let full = self.open.len() >= limits.max + self.probes + self.ending;
        let kind = if !address.is_loopback() && own >= limits.per_address {
            // It only makes room for itself.
            self.end_silent(limits, Some(address), gone)
        } else if full {
            match self.end_silent(limits, None, gone) {
                Kind::Usual => Kind::Usual,
                Kind::Probe => self.end_idle(limits, gone),
            }
        } else {
            Kind::Usual
        };
        if kind == Kind::Probe {
            if self.probes >= limits.probes && !self.end_probe(limits, gone) {
                return None;
            }
            self.probes += 1;
        }
        let number = self.next;
        self.next += 1;
        *self.by_address.entry(address).or_default() += 1;
        let entry = Entry { connection: Weak::new(), address, kind, silent: true, ending: false };
        self.open.insert(number, entry);
        Some((number, kind))
    }

    /// Ends the oldest connection that never sent a request.
    fn end_silent(
        &mut self,
        limits: PlaceLimits,
        of: Option<IpAddr>,
        gone: &mut Vec<Looked>,
    ) -> Kind {
        let oldest = self.open.iter().find(|(_, entry)| {
            entry.is(Kind::Usual)
                && entry.silent
                && of.is_none_or(|address| entry.address == address)
        });
        let oldest = oldest.map(|(number, _)| *number);
        match oldest {
            Some(number) if self.ending < limits.ending => self.end(number, "silent", gone),
            _ => Kind::Probe,
        }
    }

    /// Ends some of the connections that have been idle for longest: one scan makes room for many.
    fn end_idle(&mut self, limits: PlaceLimits, gone: &mut Vec<Looked>) -> Kind {
        let now = crate::clock::timer_now();
        if self.looked.is_some_and(|at| now - at < limits::IDLE_LOOK_INTERVAL) {
            return Kind::Probe;
        }
        self.looked = Some(now);
        let idle = |(number, entry): (&u64, &Entry)| {
            let connection = entry.connection.upgrade().filter(|_| entry.is(Kind::Usual))?;
            let idle = connection.idle(now);
            gone.push((connection, None));
            idle.filter(|idle| *idle >= limits::IDLE_ENDED_AFTER).map(|idle| (idle, *number))
        };
        let mut idle: Vec<(Duration, u64)> = self.open.iter().filter_map(idle).collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        let room = limits.ending.saturating_sub(self.ending);
        idle.truncate(room.min(1 + limits.max / 16));
        let mut kind = Kind::Probe;
        for (_, number) in idle {
            kind = self.end(number, "idle", gone);
        }
        kind
    }

    /// Ends the oldest probe connection, if it has sent nothing yet.
    fn end_probe(&mut self, limits: PlaceLimits, gone: &mut Vec<Looked>) -> bool {
        let oldest = self.open.iter().find(|(_, entry)| entry.is(Kind::Probe) && entry.silent);
        match oldest.map(|(number, _)| *number) {
            Some(number) if self.ending < limits.ending => {
                self.end(number, "silent", gone);
                true
            }
            _ => false,
        }
    }

    /// Orders a connection to end; its place is available at once.
    fn end(&mut self, number: u64, was: &'static str, gone: &mut Vec<Looked>) -> Kind {
        if let Some(entry) = self.open.get_mut(&number) {
            entry.ending = true;
            self.ending += 1;
            self.probes -= usize::from(entry.kind == Kind::Probe);
            gone.extend(entry.connection.upgrade().map(|connection| (connection, Some(was))));
        }
        Kind::Usual
    }

    fn remove(&mut self, number: u64) {
        let Some(entry) = self.open.remove(&number) else { return };
        if let Some(count) = self.by_address.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&entry.address);
            }
        }
        match (entry.kind, entry.ending) {
            (_, true) => self.ending -= 1,
            (Kind::Probe, false) => self.probes -= 1,
            (Kind::Usual, false) => {}
        }
    }
}

impl Entry {
    fn is(&self, kind: Kind) -> bool {
        self.kind == kind && !self.ending
    }
}

impl Place {
    pub(super) fn took(&self, connection: &Arc<ConnShared>) {
        self.places.took(self.number, connection);
    }
    /// Its listener's name.
    pub(super) fn listener(&self) -> &'static str {
        self.places.listener
    }
    /// Its first request has arrived.
    pub(super) fn heard(&self) {
        if let Some(entry) = self.places.state.lock().open.get_mut(&self.number) {
            entry.silent = false;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        state.remove(self.number);
        if state.open.is_empty() {
            self.places.all_gone.notify_waiters();
        }
    }
}

/// The address of a connection: an IPv4 address, or an IPv6 network, which one customer usually
/// has.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stats::Stats, *};

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limits(max: usize, per_address: usize) -> PlaceLimits {
        PlaceLimits { max, per_address, probes: 2, ending: 2 }
    }

    fn connect(places: &Arc<Places>, address: IpAddr) -> Option<Arc<ConnShared>> {
        let place = places.take(address)?;
        let open = Stats::new().open_connection();
        Some(ConnShared::new(false, crate::buffers::shared(), Some(place), open))
    }

    fn kind(connection: &Option<Arc<ConnShared>>) -> Option<Kind> {
        connection.as_ref().map(|c| if c.is_for_probes() { Kind::Probe } else { Kind::Usual })
    }

    /// Without it an unauthenticated client that connects and stays silent locks everyone else out.
    #[tokio::test]
    async fn the_oldest_that_never_sent_a_request_goes() {
        let places = Places::new("test", limits(3, 3));
        let talks = connect(&places, LOCAL).unwrap();
        drop(talks.request());
        let (old, young) = (connect(&places, LOCAL).unwrap(), connect(&places, LOCAL).unwrap());
        let new = connect(&places, LOCAL);
        assert_eq!(kind(&new), Some(Kind::Usual));
        assert!(old.is_killed() && !young.is_killed() && !talks.is_killed());
        // Its place is not reused a second time until it has ended.
        let newer = connect(&places, LOCAL);
        assert!(kind(&newer) == Some(Kind::Usual) && young.is_killed());
        assert_eq!(kind(&connect(&places, LOCAL)), Some(Kind::Probe), "two are ending");
        drop((old, young));
        assert_eq!(kind(&connect(&places, LOCAL)), Some(Kind::Usual));
        drop((new, newer, talks));
        tokio::time::timeout(Duration::from_secs(5), places.all_gone()).await.unwrap();
        let state = places.state.lock();
        assert!(state.by_address.is_empty() && state.probes == 0 && state.ending == 0);
    }

    /// Without it probes are refused when all connections are busy.
    #[tokio::test]
    async fn probes_have_places_of_their_own() {
        let places = Places::new("test", limits(1, 1));
        let works = connect(&places, LOCAL).unwrap();
        let _request = works.request();
        let probes = [connect(&places, LOCAL), connect(&places, LOCAL)];
        assert!(probes.iter().all(|probe| kind(probe) == Some(Kind::Probe)));
        let third = connect(&places, LOCAL);
        assert_eq!(kind(&third), Some(Kind::Probe), "the oldest that is silent goes");
        assert!(probes[0].as_ref().unwrap().is_killed());
        let requests = [&probes[1], &third].map(|probe| probe.as_ref().unwrap().request());
        assert_eq!(kind(&connect(&places, LOCAL)), None);
        assert!(!works.is_killed());
        drop((requests, probes, third));
        assert_eq!(kind(&connect(&places, LOCAL)), Some(Kind::Probe));
    }

    /// Without it one host could use all connections of a listener.
    #[tokio::test]
    async fn one_address_has_a_share() {
        let places = Places::new("test", limits(9, 2));
        let (near, far): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2:3".parse().unwrap());
        let one = connect(&places, near).unwrap();
        let two = connect(&places, far).unwrap();
        drop((one.request(), two.request()));
        assert_eq!(kind(&connect(&places, near)), Some(Kind::Probe), "one network is one");
        let mapped: Vec<_> = ["::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"]
            .map(|address| connect(&places, address.parse().unwrap()).unwrap())
            .into();
        assert!(mapped[0].is_killed() && !mapped[1].is_killed(), "it makes room for itself");
        let many: Vec<_> = (0..4).map(|_| connect(&places, LOCAL)).collect();
        assert!(many.iter().all(|c| kind(c) == Some(Kind::Usual)), "this machine has no share");
    }

    /// Without it idle connections keep a full listener blocked.
    #[tokio::test(start_paused = true)]
    async fn idle_connections_go_next() {
        let places = Places::new("test", limits(2, 2));
        let (idle, busy) = (connect(&places, LOCAL).unwrap(), connect(&places, LOCAL).unwrap());
        drop(idle.request());
        let request = busy.request();
        assert_eq!(kind(&connect(&places, LOCAL)), Some(Kind::Probe), "it was busy just now");
        tokio::time::advance(limits::IDLE_ENDED_AFTER + limits::IDLE_LOOK_INTERVAL).await;
        let new = connect(&places, LOCAL);
        assert!(kind(&new) == Some(Kind::Usual) && idle.is_killed() && !busy.is_killed());
        drop(request);
    }
}
