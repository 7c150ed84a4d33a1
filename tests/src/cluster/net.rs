//! A network of namespaces on one bridge, in which single links can be cut, one way or both.
//!
//! The machine's own network is not changed, so that tests can run in parallel. A cut link drops
//! packets silently, as a network does: the sender's neighbour entry for the other names an unused
//! hardware address. (Filters and netem would do it too, but need kernel modules that many machines
//! lack.)

use super::{place::Place, tap::Tap};
use crate::notice::not_tested;
use anyhow::Context;
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

/// An unused hardware address.
const NOWHERE: &str = "02:00:00:00:ff:ff";

/// A slow link with jitter, as between continents.
const NETEM: &[&str] = &["root", "netem", "delay", "60ms", "40ms"];

/// A host of the network, by its number from 1; its address is `10.77.0.<number>`.
pub type HostId = u8;

/// The network. Dropping it removes all of it, once the processes on it are gone.
pub struct Net {
    /// In the bridge's place, where somebody is on the wire.
    tap: Option<Tap>,
    bridge: Place,
    hosts: Mutex<Vec<Arc<Place>>>,
    /// How often each direction is cut: two faults may share a link.
    cuts: Mutex<HashMap<(HostId, HostId), u32>>,
}

impl Net {
    /// A network without hosts.
    ///
    /// # Errors
    /// If this machine does not allow it; with the reason.
    pub fn new() -> anyhow::Result<Self> {
        let bridge = Place::apart()?;
        bridge.command("ip", &["link", "add", "hub", "type", "bridge"])?;
        bridge.command("ip", &["link", "set", "hub", "up"])?;
        Ok(Self { tap: None, bridge, hosts: Mutex::default(), cuts: Mutex::default() })
    }

    /// A network without hosts, with somebody on the wire.
    ///
    /// # Errors
    /// As [`Net::new`].
    pub fn tapped() -> anyhow::Result<Self> {
        let (tap, bridge) = (Some(Tap::new()?), Place::apart()?);
        Ok(Self { tap, bridge, hosts: Mutex::default(), cuts: Mutex::default() })
    }

    /// Who is on the wire.
    pub fn tap(&self) -> Option<&Tap> {
        self.tap.as_ref()
    }

    /// Adds a host that reaches all others and is reached by them.
    ///
    /// # Errors
    /// When the tools fail.
    pub fn add(&self) -> anyhow::Result<(HostId, Arc<Place>)> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let id = HostId::try_from(hosts.len() + 1).context("too many hosts")?;
        let place = Place::apart()?;
        let namespace = place.namespace();
        let namespace = namespace.to_str().context("a path")?;
        let (port, mac) = (format!("port{id}"), mac(id));
        let link = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "address", &mac];
        self.bridge.command("ip", &[&link[..], &["netns", namespace]].concat())?;
        match self.tap {
            Some(_) => self.bridge.command("ip", &["link", "set", &port, "up"])?,
            None => self.bridge.command("ip", &["link", "set", &port, "master", "hub", "up"])?,
        }
        place.command("ip", &["link", "set", "lo", "up"])?;
        let address = format!("{}/24", address(id));
        place.command("ip", &["address", "add", &address, "dev", "eth0"])?;
        place.command("ip", &["link", "set", "eth0", "up"])?;
        if let Some(tap) = &self.tap {
            tap.add(id, &port, &self.bridge, &place)?;
        }
        let place = Arc::new(place);
        hosts.push(place.clone());
        Ok((id, place))
    }

    /// Drops everything that `from` sends to `to`, and nothing else, until it is healed as often as
    /// it was cut.
    ///
    /// # Errors
    /// When the tools fail.
    pub fn cut(&self, from: HostId, to: HostId) -> anyhow::Result<()> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = cuts.entry((from, to)).or_default();
        *count += 1;
        if *count == 1 { self.neighbour(from, to, NOWHERE) } else { Ok(()) }
    }

    /// Reverts one cut.
    ///
    /// # Errors
    /// When the tools fail.
    pub fn heal(&self, from: HostId, to: HostId) -> anyhow::Result<()> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        match cuts.remove(&(from, to)) {
            Some(count) if count > 1 => _ = cuts.insert((from, to), count - 1),
            Some(_) => self.neighbour(from, to, &mac(to))?,
            None => {}
        }
        Ok(())
    }

    /// Whether this machine can slow links down.
    pub fn can_be_slow(&self) -> bool {
        let there = self.bridge.command("tc", &[&["qdisc", "add", "dev", "lo"], NETEM].concat());
        there.is_ok() && self.bridge.command("tc", &["qdisc", "del", "dev", "lo", "root"]).is_ok()
    }

    /// Delays what a host sends, with jitter, or ends the delay.
    ///
    /// # Errors
    /// When the tools fail.
    pub fn slow(&self, host: HostId, slow: bool) -> anyhow::Result<()> {
        let place = self.place(host)?;
        match slow {
            true => {
                let add = ["qdisc", "add", "dev", "eth0"];
                place.command("tc", &[&add[..], NETEM].concat())
            }
            false => place.command("tc", &["qdisc", "del", "dev", "eth0", "root"]),
        }
    }

    fn neighbour(&self, of: HostId, to: HostId, mac: &str) -> anyhow::Result<()> {
        let place = self.place(of)?;
        let to = address(to).to_string();
        let entry = ["neigh", "replace", &to, "lladdr", mac, "dev", "eth0", "nud", "permanent"];
        place.command("ip", &entry)
    }

    fn place(&self, id: HostId) -> anyhow::Result<Arc<Place>> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(id).checked_sub(1).context("hosts are numbered from 1")?;
        hosts.get(at).cloned().context("no such host")
    }
}

/// The address of a host.
pub fn address(id: HostId) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, id)
}

fn mac(id: HostId) -> String {
    format!("02:00:00:00:00:{id:02x}")
}

/// A network, or `None` with a printed reason if the machine does not allow one.
pub fn net_or_skip(test: &str) -> Option<Net> {
    or_skip(test, Net::new())
}

/// As [`net_or_skip`], with somebody on the wire.
pub fn tapped_or_skip(test: &str) -> Option<Net> {
    // A host shows whether the machine allows packet sockets, too.
    or_skip(test, Net::tapped().and_then(|net| net.add().map(|_| net)))
}

fn or_skip(test: &str, net: anyhow::Result<Net>) -> Option<Net> {
    match net {
        Ok(net) => Some(net),
        Err(e) => {
            not_tested(&format!("{test}, which needs network namespaces: {e:#}"));
            None
        }
    }
}
