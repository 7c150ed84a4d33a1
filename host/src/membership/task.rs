//! The task: socket and clock for [`Core`].

use super::{
    Options,
    core::{Core, Outlets},
    refusal::Fatal,
};
use crate::{
    discovery::Found, level::Level, limits, peer::member::Unfit, telemetry::metrics::metrics,
    watchdog::Heartbeat,
};
use std::{io, net::UdpSocket as StdSocket};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
};
use tracing::{debug, warn};

pub(super) enum Order {
    SetLeaving(oneshot::Sender<()>),
    SetUnfit(Option<Unfit>, oneshot::Sender<()>),
    SetLevel(Level, oneshot::Sender<()>),
    Expel(u128, oneshot::Sender<()>),
    /// The peer of this instance refused a connection.
    Refused(u128),
    Leave(oneshot::Sender<()>),
    /// Does not run for this long, as if stopped.
    #[cfg(test)]
    Stall(std::time::Duration),
}

struct Task {
    heartbeat: Heartbeat,
    core: Core,
    socket: UdpSocket,
    found: watch::Receiver<Found>,
    orders: mpsc::Receiver<Order>,
    /// Waiters for the end.
    leaving: Vec<oneshot::Sender<()>>,
    failures: u32,
}

/// Starts the task's thread.
pub(super) fn start(
    options: Options,
    outlets: Outlets,
    socket: StdSocket,
    found: watch::Receiver<Found>,
    orders: mpsc::Receiver<Order>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = {
        let _inside = runtime.enter();
        UdpSocket::from_std(socket)?
    };
    crate::thread::start("slotd-members", move || {
        let heartbeat = options.heartbeat.clone();
        let core = Core::new(options, outlets, crate::clock::now(), crate::random::seed());
        let task =
            Task { heartbeat, core, socket, found, orders, leaving: Vec::new(), failures: 0 };
        runtime.block_on(task.run());
    })?;
    Ok(())
}

impl Task {
    async fn run(mut self) {
        let found = self.found.borrow_and_update().clone();
        self.core.found(crate::clock::now(), found);
        let mut discovery = true;
        while !self.core.is_over() {
            self.stand_still().await;
            self.flush();
            let deadline = self.core.deadline();
            let wait = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Received datagrams are handled before missing ones.
            tokio::select! {
                biased;
                ready = self.socket.readable() => self.read(ready).await,
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                change = self.found.changed(), if discovery => match change {
                    Ok(()) => {
                        let found = self.found.borrow_and_update().clone();
                        self.core.found(crate::clock::now(), found);
                    }
                    Err(_) => discovery = false,
                },
                () = wait => {}
            }
            self.core.tick(crate::clock::now());
        }
        self.flush();
        for done in self.leaving {
            let _ = done.send(());
        }
    }

    /// While the worker threads are stalled, nothing is sent and nothing is read. To the others
    /// this is a stopped process, and to [`Core`] afterwards a pause.
    async fn stand_still(&self) {
        if self.heartbeat.stalled_for().is_none() {
            return;
        }
        warn!("the worker threads are stalled; not sending to peers until they run again");
        while self.heartbeat.stalled_for().is_some() {
            tokio::time::sleep(limits::STALL_LOOK).await;
        }
    }

    fn obey(&mut self, order: Order) {
        let now = crate::clock::now();
        match order {
            Order::SetLeaving(done) => {
                self.core.set_leaving(now);
                let _ = done.send(());
            }
            Order::SetUnfit(unfit, done) => {
                self.core.set_unfit(now, unfit);
                let _ = done.send(());
            }
            Order::SetLevel(level, done) => {
                self.core.set_level(level);
                let _ = done.send(());
            }
            Order::Expel(instance, done) => {
                self.core.expel(instance);
                let _ = done.send(());
            }
            Order::Refused(instance) => self.core.connection_refused(now, instance),
            Order::Leave(done) => {
                self.core.leave(now);
                self.leaving.push(done);
            }
            #[cfg(test)]
            Order::Stall(time) => std::thread::sleep(time),
        }
    }

    async fn read(&mut self, ready: io::Result<()>) {
        let mut failed = ready.err();
        let mut buffer = [0; limits::PEER_DATAGRAM_BYTES_MAX + 1];
        for _ in 0..limits::DATAGRAMS_PER_TURN_MAX {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    self.failures = 0;
                    // A datagram that fills the buffer was longer than any that a node sends.
                    let datagram = buffer.get(..length).filter(|_| length < buffer.len());
                    self.core.datagram(crate::clock::now(), from, datagram.unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let Some(error) = failed else { return };
        self.failures += 1;
        debug!(%error, "can't read from the peer port");
        if self.failures > limits::SOCKET_FAILURES_MAX {
            self.core.break_off(Fatal::Socket(error.to_string()));
        }
        tokio::time::sleep(limits::SOCKET_FAILURE_PAUSE).await;
    }

    /// Datagrams that the kernel rejects now are lost, like others in transit.
    fn flush(&mut self) {
        let m = metrics();
        for (to, datagram) in self.core.outbox.drain(..) {
            m.datagrams_out.increment(1);
            if let Err(error) = self.socket.try_send_to(&datagram, to) {
                m.send_failures.increment(1);
                debug!(%to, %error, "can't send a datagram");
            }
        }
    }
}
