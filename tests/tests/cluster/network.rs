//! The network that others rest on: a link that is not cut when a test says so would make that test
//! show nothing.

use anyhow::{bail, ensure};
use slotd_tests::cluster::net::{HostId, Net, address, net_or_skip};
use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

const PORT: u16 = 7;
/// For something that is not to come.
const SILENCE: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(10);

struct Host {
    id: HostId,
    place: std::sync::Arc<slotd_tests::cluster::place::Place>,
    socket: UdpSocket,
}

fn host(net: &Net) -> anyhow::Result<Host> {
    let (id, place) = net.add()?;
    let socket = place.run(move || UdpSocket::bind((address(id), PORT)))?;
    Ok(Host { id, place, socket })
}

/// A packet must arrive, or must not. A socket stays in the namespace in which it was made.
fn expect(from: &Host, to: &Host, arrives: bool) -> anyhow::Result<()> {
    to.socket.set_read_timeout(Some(if arrives { SOON } else { SILENCE }))?;
    from.socket.send_to(b"hello", (address(to.id), PORT))?;
    let mut buffer = [0; 16];
    match to.socket.recv(&mut buffer) {
        Ok(_) if arrives => Ok(()),
        Err(e) if !arrives && e.kind() == ErrorKind::WouldBlock => Ok(()),
        other => bail!("{} to {}, expected {arrives}: {other:?}", from.id, to.id),
    }
}

/// Without it, a test that cuts a link might cut none, or all.
#[test]
fn a_link_is_cut_and_no_other() -> anyhow::Result<()> {
    let Some(net) = net_or_skip("a_link_is_cut_and_no_other") else { return Ok(()) };
    let (a, b, c) = (host(&net)?, host(&net)?, host(&net)?);
    let check = |a_to_b, b_to_a| {
        for (from, to) in [(&a, &c), (&c, &a), (&b, &c), (&c, &b)] {
            expect(from, to, true)?;
        }
        expect(&a, &b, a_to_b)?;
        expect(&b, &a, b_to_a)
    };
    check(true, true)?;
    net.cut(a.id, b.id)?;
    check(false, true)?;
    net.cut(a.id, b.id)?;
    net.cut(b.id, a.id)?;
    check(false, false)?;
    net.heal(a.id, b.id)?;
    net.heal(b.id, a.id)?;
    check(false, true)?;
    net.heal(a.id, b.id)?;
    check(true, true)
}

/// Without it, a connection that stands might not notice a cut, or never recover from one.
#[test]
fn a_connection_stalls_and_goes_on() -> anyhow::Result<()> {
    let Some(net) = net_or_skip("a_connection_stalls_and_goes_on") else { return Ok(()) };
    let (a, b) = (host(&net)?, host(&net)?);
    let id = b.id;
    let listener = b.place.run(move || TcpListener::bind((address(id), PORT)))?;
    let mut to = a.place.run(move || TcpStream::connect((address(id), PORT)))?;
    let (mut from, _) = listener.accept()?;
    let mut buffer = [0; 1];
    to.write_all(b"1")?;
    from.set_read_timeout(Some(SOON))?;
    from.read_exact(&mut buffer)?;
    net.cut(a.id, b.id)?;
    to.write_all(b"2")?;
    from.set_read_timeout(Some(SILENCE))?;
    ensure!(from.read_exact(&mut buffer).is_err(), "{buffer:?} came through");
    net.heal(a.id, b.id)?;
    from.set_read_timeout(Some(SOON))?;
    from.read_exact(&mut buffer)?;
    ensure!(buffer == *b"2", "{buffer:?}");
    Ok(())
}

/// Without it, a test that is killed would leave processes and networks behind.
#[test]
fn what_a_place_started_dies_with_it() -> anyhow::Result<()> {
    let place = slotd_tests::cluster::place::Place::here()?;
    let mut command = std::process::Command::new("sleep");
    command.arg("600");
    let mut child = place.spawn(command)?;
    ensure!(child.try_wait()?.is_none(), "it has ended already");
    drop(place);
    let status = child.wait()?;
    ensure!(!status.success(), "{status}");
    Ok(())
}
