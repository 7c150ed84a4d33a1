//! A network between a client and a node that does what a test says: a TCP proxy that cuts, delays, slows down, or swallows.

use anyhow::Context;
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// So that little waits in the proxy itself, where a test slows it down.
const BUFFER_BYTES: u32 = 16 * 1024;
const PIECE_BYTES: usize = 4 * 1024;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weather {
    Clear,
    /// Each piece comes so much later.
    Delayed(Duration),
    /// So many bytes a second, in each direction of each connection.
    Throttled(u32),
    /// Nothing comes, and nothing says so: connections are taken, and stay.
    BlackHole,
    /// No connection is taken.
    Refused,
}

/// A running proxy. Dropping it ends its connections.
pub struct Proxy {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to where the node is now; `None`: nowhere.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(node: watch::Receiver<Option<SocketAddr>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening")?;
        let address = listener.local_addr()?;
        let (weather, cuts) = (watch::channel(Weather::Clear).0, watch::channel(0).0);
        let (forecast, cutting) = (weather.clone(), cuts.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let node = *node.borrow();
                if *forecast.borrow() == Weather::Refused {
                    reset(client);
                    continue;
                }
                let (weather, cut) = (forecast.subscribe(), cutting.subscribe());
                tokio::spawn(pass(client, node, weather, cut));
            }
        });
        Ok(Self { address, weather, cuts, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, also for connections that are open.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// Ends a connection so that the other side sees an error.
fn reset(stream: TcpStream) {
    // It is closed either way.
    let _ = stream.set_zero_linger();
}

async fn pass(
    client: TcpStream,
    node: Option<SocketAddr>,
    weather: watch::Receiver<Weather>,
    mut cut: watch::Receiver<u64>,
) {
    let to_node = async {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.connect(node.context("there is no node")?).await.context("connecting")
    };
    let Ok(node) = to_node.await else { return reset(client) };
    let _ = (client.set_nodelay(true), node.set_nodelay(true));
    let (_, _) = (client.set_zero_linger(), node.set_zero_linger());
    let (client_in, client_out) = client.into_split();
    let (node_in, node_out) = node.into_split();
    let there = pump(client_in, node_out, weather.clone());
    let back = pump(node_in, client_out, weather);
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = cut.changed() => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece).await?;
        // What is in a black hole comes out behind it, as TCP would send it again.
        let now = *weather.wait_for(|weather| *weather != Weather::BlackHole).await?;
        match now {
            Weather::Delayed(by) => tokio::time::sleep(by).await,
            Weather::Throttled(bytes) => {
                tokio::time::sleep(Duration::from_secs_f64(length as f64 / f64::from(bytes))).await;
            }
            Weather::Clear | Weather::Refused | Weather::BlackHole => {}
        }
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&piece[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        address
    }

    async fn answer(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.map(|_| back)
    }

    /// A network that does not break what it is told to would test nothing.
    #[tokio::test]
    async fn it_passes_on_what_the_weather_lets_through() {
        let (_keep, node) = watch::channel(Some(echo().await));
        let proxy = Proxy::start(node).await.expect("a proxy");
        let connect = || TcpStream::connect(proxy.address);
        let mut stream = connect().await.expect("a connection");
        assert_eq!(answer(&mut stream, b"hello").await.expect("an answer"), b"hello");
        proxy.set(Weather::BlackHole);
        let swallowed = tokio::time::timeout(Duration::from_millis(100), answer(&mut stream, b"x"));
        assert!(swallowed.await.is_err());
        proxy.set(Weather::Clear);
        let mut back = [0];
        stream.read_exact(&mut back).await.expect("what was swallowed");
        let started = tokio::time::Instant::now();
        proxy.set(Weather::Delayed(Duration::from_millis(50)));
        assert_eq!(answer(&mut stream, b"late").await.expect("an answer"), b"late");
        // There and back.
        assert!(started.elapsed() >= Duration::from_millis(100));
        proxy.cut();
        assert!(answer(&mut stream, b"gone").await.is_err());
        proxy.set(Weather::Refused);
        let mut refused = connect().await.expect("a connection");
        assert!(answer(&mut refused, b"none").await.is_err());
    }
}
