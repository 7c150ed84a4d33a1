//! Somebody on the wire: forwards every frame of a [`super::net::Net`], and reads, changes and repeats
//! what it wants to.
//!
//! It takes the place of the network's bridge: a packet socket on each host's port, and a thread that
//! passes frames on by the last byte of their hardware address. The hosts compute their own checksums
//! and send no frame above the link's MTU, so that what is forwarded here is what a cable would carry.

use super::{net::HostId, place::Place};
use anyhow::{Context, ensure};
use std::{
    collections::BTreeMap,
    ffi::CString,
    io, mem,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::Range,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

/// Frames that are kept; more is a test that watches too much.
const KEPT_BYTES_MAX: usize = 256 << 20;
/// The longest frame of a link with the usual MTU, and some.
const FRAME_BYTES_MAX: usize = 2048;
/// A new port is seen, and an order to stop, within this time.
const LOOK_MS: i32 = 10;

const UDP: u8 = 17;
const TCP: u8 = 6;
/// `ETHTOOL_STXCSUM`, `ETHTOOL_STSO` and `ETHTOOL_SGSO`: checksums and segments by the device.
const OFFLOADS: [u32; 3] = [0x17, 0x1f, 0x24];
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// The wire. Dropping it stops it: then nothing arrives any more.
pub struct Tap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ports: Mutex<Vec<(HostId, Arc<OwnedFd>)>>,
    state: Mutex<State>,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    watched: Vec<SocketAddrV4>,
    seen: Vec<Vec<u8>>,
    seen_bytes: usize,
    /// Of this many packets with something in them one is changed; 0: none.
    alter_every: usize,
    altered: usize,
    passed: usize,
}

/// What a frame carries.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    protocol: u8,
    from: SocketAddrV4,
    to: SocketAddrV4,
    /// TCP's number of the first byte.
    number: u32,
    /// Where TCP's or UDP's header begins.
    header: usize,
    payload: Range<usize>,
}

/// One direction of a connection, in order, as far as it was seen without a gap.
pub struct Stream {
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

impl Tap {
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let forwarding = shared.clone();
        let thread = std::thread::Builder::new().name("tap".into()).spawn(move || {
            while !forwarding.stop.load(Relaxed) {
                forwarding.forward();
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Joins a host's port to the wire. `bridge` is where the port is, `host` where its other end is.
    ///
    /// # Errors
    /// When the machine does not allow it.
    pub fn add(&self, id: HostId, port: &str, bridge: &Place, host: &Place) -> anyhow::Result<()> {
        host.run(|| without_offloads("eth0")).context("turning off a link's offloads")?;
        let port = port.to_owned();
        let socket = bridge.run(move || packet_socket(&port)).context("a packet socket")?;
        lock(&self.shared.ports).push((id, Arc::new(socket)));
        Ok(())
    }

    /// Keeps what goes to and from these addresses, from now on.
    pub fn watch(&self, addresses: &[SocketAddr]) {
        let only_v4 = addresses.iter().filter_map(|address| match address {
            SocketAddr::V4(address) => Some(*address),
            SocketAddr::V6(_) => None,
        });
        self.state().watched = only_v4.collect();
    }

    /// Changes one byte of every so many watched packets on their way; their checksums are made right. 0: of none.
    pub fn alter_every(&self, packets: usize) {
        self.state().alter_every = packets;
    }

    /// Packets that were changed.
    pub fn altered(&self) -> usize {
        self.state().altered
    }

    /// How often `needle` is in what was seen: in single packets, and over the ends of those that follow each other.
    pub fn sees(&self, needle: &[u8]) -> usize {
        let state = self.state();
        let mut found = 0;
        let mut last: BTreeMap<(SocketAddrV4, SocketAddrV4), Vec<u8>> = BTreeMap::new();
        for frame in &state.seen {
            let Some(packet) = Packet::of(frame) else { continue };
            let tail = last.entry((packet.from, packet.to)).or_default();
            tail.extend(&frame[packet.payload]);
            found += tail.windows(needle.len()).filter(|bytes| *bytes == needle).count();
            tail.drain(..tail.len().saturating_sub(needle.len() - 1));
        }
        found
    }

    /// Bytes of what was seen, without headers.
    pub fn seen_bytes(&self) -> usize {
        let state = self.state();
        state.seen.iter().filter_map(|frame| Some(Packet::of(frame)?.payload.len())).sum()
    }

    /// Sends every frame that was seen once more, the last ones first. Returns how many datagrams and segments.
    pub fn repeat(&self) -> (usize, usize) {
        let frames = self.state().seen.clone();
        let (mut datagrams, mut segments) = (0, 0);
        for frame in frames.iter().rev() {
            match Packet::of(frame).map(|packet| packet.protocol) {
                Some(UDP) => datagrams += 1,
                _ => segments += 1,
            }
            self.shared.pass(frame, None);
        }
        (datagrams, segments)
    }

    /// What was sent over TCP to the watched addresses by those who connected to them.
    pub fn streams(&self) -> Vec<Stream> {
        let state = self.state();
        // By both ends: the first number, and what was sent at which distance from it.
        type Pieces = (u32, BTreeMap<u32, Vec<u8>>);
        let mut streams: BTreeMap<(SocketAddrV4, SocketAddrV4), Pieces> = BTreeMap::new();
        for frame in &state.seen {
            let Some(packet) = Packet::of(frame) else { continue };
            if packet.protocol != TCP || !state.watched.contains(&packet.to) {
                continue;
            }
            let opens = frame[packet.header + 13] & 0x12 == 0x02;
            let stream = match opens {
                true => streams
                    .entry((packet.from, packet.to))
                    .or_insert_with(|| (packet.number.wrapping_add(1), BTreeMap::new())),
                false => match streams.get_mut(&(packet.from, packet.to)) {
                    Some(stream) => stream,
                    None => continue,
                },
            };
            let at = packet.number.wrapping_sub(stream.0);
            if !packet.payload.is_empty() && at < 1 << 30 {
                stream.1.entry(at).or_insert_with(|| frame[packet.payload.clone()].to_vec());
            }
        }
        let whole = streams.into_iter().map(|((_, to), (_, pieces))| {
            let mut bytes = Vec::new();
            for (at, piece) in pieces {
                // What was sent again may overlap.
                let known = bytes.len().saturating_sub(at as usize);
                if at as usize > bytes.len() {
                    break;
                }
                bytes.extend(piece.iter().skip(known));
            }
            Stream { to: to.into(), bytes }
        });
        whole.filter(|stream| !stream.bytes.is_empty()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has panicked only if this file is wrong, which its test shows.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn forward(&self) {
        let ports = lock(&self.ports).clone();
        let mut polled: Vec<_> = ports
            .iter()
            .map(|(_, socket)| libc::pollfd {
                fd: socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        // SAFETY: the list is as long as is said, and lives until the call returns.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as _, LOOK_MS) };
        if ready <= 0 {
            return;
        }
        let mut buffer = [0u8; FRAME_BYTES_MAX];
        for ((id, socket), polled) in ports.iter().zip(&polled) {
            if polled.revents == 0 {
                continue;
            }
            loop {
                // SAFETY: the buffer is as long as is said.
                let length = unsafe {
                    let (at, flags) =
                        (buffer.as_mut_ptr().cast(), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
                    libc::recv(socket.as_raw_fd(), at, buffer.len(), flags)
                };
                let Ok(length) = usize::try_from(length) else { break };
                if let Some(frame) = buffer.get_mut(..length) {
                    self.look_at(frame);
                    self.pass(frame, Some(*id));
                }
            }
        }
    }

    fn look_at(&self, frame: &mut [u8]) {
        let Some(packet) = Packet::of(frame) else { return };
        let mut state = lock(&self.state);
        if ![packet.from, packet.to].iter().any(|address| state.watched.contains(address)) {
            return;
        }
        if state.seen_bytes + frame.len() <= KEPT_BYTES_MAX {
            state.seen_bytes += frame.len();
            state.seen.push(frame.to_vec());
        }
        if packet.payload.is_empty() {
            return;
        }
        state.passed += 1;
        if state.alter_every > 0 && state.passed.is_multiple_of(state.alter_every) {
            state.altered += 1;
            // Anywhere in it, over many packets.
            let at = packet.payload.start + state.passed * 31 % packet.payload.len();
            frame[at] ^= 1 << (state.altered % 8);
            packet.check(frame);
        }
    }

    /// To the port that it is for, or to all others.
    fn pass(&self, frame: &[u8], from: Option<HostId>) {
        let [group, .., id] = frame[..6] else { return };
        let is_group = group & 1 == 1;
        for (port, socket) in lock(&self.ports).iter() {
            if if is_group { Some(*port) != from } else { *port == id } {
                // SAFETY: the frame is as long as is said. What has no room is lost, as on a network.
                let _ = unsafe {
                    libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0)
                };
            }
        }
    }
}

impl Packet {
    fn of(frame: &[u8]) -> Option<Self> {
        const IP: usize = 14;
        let ip = frame.get(IP..)?;
        if frame[12..IP] != [0x08, 0x00] || ip.first()? >> 4 != 4 {
            return None;
        }
        let short = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
        let header = IP + usize::from(ip[0] & 15) * 4;
        let end = IP + usize::from(short(IP + 2)?);
        let protocol = *ip.get(9)?;
        let (number, begin) = match protocol {
            UDP => (0, header + 8),
            TCP => (long(header + 4)?, header + usize::from(frame.get(header + 12)? >> 4) * 4),
            _ => return None,
        };
        let address = |at| Some(Ipv4Addr::from(long(at)?));
        let from = SocketAddrV4::new(address(IP + 12)?, short(header)?);
        let to = SocketAddrV4::new(address(IP + 16)?, short(header + 2)?);
        (begin <= end && end <= frame.len()).then_some(Self {
            protocol,
            from,
            to,
            number,
            header,
            payload: begin..end,
        })
    }

    /// Makes its checksum right.
    fn check(&self, frame: &mut [u8]) {
        let at = self.header + if self.protocol == UDP { 6 } else { 16 };
        frame[at..at + 2].fill(0);
        let body = &frame[self.header..self.payload.end];
        let mut sum = u64::from(self.protocol) + body.len() as u64;
        for address in [self.from.ip(), self.to.ip()] {
            let [a, b, c, d] = address.octets().map(u64::from);
            sum += (a << 8) + b + (c << 8) + d;
        }
        for pair in body.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or_default());
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}

/// Frames of one device, without those that are sent from here.
fn packet_socket(device: &str) -> anyhow::Result<OwnedFd> {
    const EVERYTHING: u16 = (libc::ETH_P_ALL as u16).to_be();
    let name = CString::new(device)?;
    // SAFETY: the name ends with a 0; the others take numbers alone.
    let (index, socket) = unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        (index, libc::socket(libc::AF_PACKET, kind, 0))
    };
    ensure!(socket >= 0, io::Error::last_os_error());
    // SAFETY: it was just made, and nothing else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    ensure!(index > 0, "no device {device}");
    for (level, name, value) in [
        (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20),
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 16 << 20),
    ] {
        let value: libc::c_int = value;
        // SAFETY: the value is of the length that is said.
        let set = unsafe {
            let at = (&raw const value).cast();
            libc::setsockopt(socket.as_raw_fd(), level, name, at, mem::size_of_val(&value) as _)
        };
        ensure!(set == 0, io::Error::last_os_error());
    }
    // SAFETY: all zeroes is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as _;
    address.sll_protocol = EVERYTHING;
    address.sll_ifindex = index.try_into()?;
    // SAFETY: the address is of the length that is said.
    let bound = unsafe {
        let at = (&raw const address).cast();
        libc::bind(socket.as_raw_fd(), at, mem::size_of_val(&address) as _)
    };
    ensure!(bound == 0, io::Error::last_os_error());
    Ok(socket)
}

fn without_offloads(device: &str) -> anyhow::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    for command in OFFLOADS {
        let mut value: [u32; 2] = [command, 0];
        // SAFETY: all zeroes is a value of it.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from as _;
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: the request and the value that it names live until the call returns.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        ensure!(done == 0, io::Error::last_os_error());
    }
    Ok(())
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
