//! Everything that puts pressure on a node. Each kind is a task that repeats until it is stopped;
//! its answers are counted and not checked, except that a component that costs too much must never
//! be deployed.

use crate::{
    api::{Admin, Api, Message, session_path},
    costly,
    http::Client,
    node::{Addresses, fill_up},
    plugins,
    slots::slot_of,
};
use anyhow::{Context, bail};
use bytes::Bytes;
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Timeout of one round.
const ROUND_WITHIN: Duration = Duration::from_secs(30);
/// How long stalled connections are held.
const HOLD: Duration = Duration::from_secs(5);
/// Of each kind, per round.
const SOCKETS: usize = 60;
const UNAUTHENTICATED: usize = 150;
const SPINNERS: usize = 24;

pub(super) struct Pressure {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    counts: Vec<Arc<Count>>,
}

struct Count {
    what: &'static str,
    done: AtomicU64,
    failed: AtomicU64,
}

impl Pressure {
    pub(super) fn start(
        nodes: &[Addresses],
        peers: &[SocketAddr],
        folders: &[Option<PathBuf>],
    ) -> anyhow::Result<Self> {
        let base = plugins::load("counter")?;
        let costly: Arc<[Bytes]> = [
            costly::nested_components(&base, 5_000),
            costly::nested_types(&base, 200_000),
            costly::branches(&base, 180_000, 2_000),
            costly::interpreter(&base, 2_000, 2_000),
            costly::many_imports(900),
        ]
        .into();
        let mut this =
            Self { stop: watch::channel(false).0, tasks: JoinSet::new(), counts: Vec::new() };
        for (number, &node) in nodes.iter().enumerate() {
            this.go("guests that misbehave", move |round| guests(node, round));
            this.go("idle WebSockets", move |_| idle_sockets(node));
            this.go("unfinished frames", move |_| unfinished_frames(node));
            this.go("answers that nobody reads", move |_| unread(node));
            this.go("stalled uploads", move |_| stalled_upload(node));
            let costly = costly.clone();
            this.go("components that cost too much", move |round| {
                deploy(node, round, costly[round % costly.len()].clone())
            });
            let peer = peers.get(number).copied();
            this.go("unauthenticated", move |_| unauthenticated(node, peer));
            if let Some(folder) = folders.get(number).cloned().flatten() {
                this.go("a full disk", move |_| full_disk(folder.clone()));
            }
        }
        Ok(this)
    }

    fn go<W, F>(&mut self, what: &'static str, work: W)
    where
        W: Fn(usize) -> F + Send + 'static,
        F: Future<Output = anyhow::Result<u64>> + Send + 'static,
    {
        let count = match self.counts.iter().find(|count| count.what == what) {
            Some(count) => count.clone(),
            None => {
                let count = Count { what, done: AtomicU64::new(0), failed: AtomicU64::new(0) };
                self.counts.push(Arc::new(count));
                self.counts[self.counts.len() - 1].clone()
            }
        };
        let mut stop = self.stop.subscribe();
        self.tasks.spawn(async move {
            for round in 0.. {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    done = timeout(ROUND_WITHIN, work(round)) => match done {
                        Ok(Ok(done)) => drop(count.done.fetch_add(done, Relaxed)),
                        _ => drop(count.failed.fetch_add(1, Relaxed)),
                    },
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Ends everything; returns what each kind did.
    pub(super) async fn finish(mut self) -> Vec<(&'static str, u64, u64)> {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let counts = self.counts.iter();
        counts.map(|c| (c.what, c.done.load(Relaxed), c.failed.load(Relaxed))).collect()
    }
}

const HOSTILE: &str = "hostile";

fn spinner(number: usize) -> String {
    format!("bad-{number}")
}

/// The slots whose sessions wait for guests that compute until their deadline.
pub(super) fn spinning_slots(slots: u16) -> anyhow::Result<BTreeSet<u16>> {
    (0..SPINNERS).map(|number| slot_of(HOSTILE, &spinner(number), slots)).collect()
}

/// Several at once, most of which compute until their deadline.
async fn guests(node: Addresses, round: usize) -> anyhow::Result<u64> {
    const DEEDS: &[&str] = &[
        "spin",
        "spin",
        "allocate",
        "trap",
        "panic",
        "log-flood",
        "many-events",
        "host-calls",
        "huge-reply",
        "recurse",
    ];
    let api = Api::new(Client::new(node.api));
    let posts = (0..SPINNERS).map(|n| {
        let (api, deed) = (api.clone(), DEEDS[(n + round) % DEEDS.len()]);
        async move {
            let message = Message::json(&json!({ "do": deed }));
            api.post(HOSTILE, &spinner(n), message).await.map(drop)
        }
    });
    futures_util::future::try_join_all(posts).await?;
    Ok(SPINNERS as u64)
}

async fn idle_sockets(node: Addresses) -> anyhow::Result<u64> {
    let api = Api::new(Client::new(node.api));
    let sockets = (0..SOCKETS).map(|n| {
        let (api, session) = (api.clone(), format!("idle-{n}"));
        async move { api.socket("chat", &session, None).await }
    });
    let sockets = futures_util::future::try_join_all(sockets).await?;
    sleep(HOLD).await;
    Ok(sockets.len() as u64)
}

/// A frame with a large announced length and little content.
async fn unfinished_frames(node: Addresses) -> anyhow::Result<u64> {
    let mut streams = Vec::new();
    for n in 0..SOCKETS {
        let path = session_path("chat", &format!("part-{n}")) + "/socket";
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            node.api
        );
        let mut stream = TcpStream::connect(node.api).await?;
        stream.write_all(head.as_bytes()).await?;
        // Text, masked, 200,000 bytes; a mask; 60,000 of them.
        stream.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0, 3, 0x0d, 0x40, 1, 2, 3, 4]).await?;
        stream.write_all(&vec![b'x'; 60_000]).await?;
        streams.push(stream);
    }
    sleep(HOLD).await;
    Ok(streams.len() as u64)
}

/// Pages of history and event streams that are requested and not read.
async fn unread(node: Addresses) -> anyhow::Result<u64> {
    let mut streams = Vec::new();
    for n in 0..SOCKETS {
        let path = session_path("chat", &format!("judged-{}", 1 + 2 * (n % 8)));
        let what = if n % 2 == 0 { "/messages?tail=1000" } else { "/events?after=0" };
        let asked = format!("GET {path}{what} HTTP/1.1\r\nHost: {}\r\n\r\n", node.api);
        let mut stream = TcpStream::connect(node.api).await?;
        stream.write_all(asked.repeat(20).as_bytes()).await?;
        streams.push(stream);
    }
    sleep(HOLD).await;
    Ok(streams.len() as u64)
}

async fn stalled_upload(node: Addresses) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(node.admin).await?;
    let head = format!(
        "POST /admin/v1/services/stalled/deploy HTTP/1.1\r\nHost: {}\r\nContent-Type: \
         application/wasm\r\nContent-Length: 1000000\r\n\r\n",
        node.admin
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&[0; 1_000]).await?;
    sleep(HOLD).await;
    Ok(1)
}

async fn deploy(node: Addresses, round: usize, component: Bytes) -> anyhow::Result<u64> {
    let admin = Admin::new(Client::new(node.admin));
    // Another digest each time: nothing is cached.
    let component = plugins::variant(&component, &round.to_string());
    let answer = admin.upload("costly", component).await?;
    if answer.status == 200 {
        // Shown in the account; nothing else counts this many.
        bail!("it was deployed");
    }
    Ok(1)
}

/// Connections that send nothing, or garbage, to every port.
async fn unauthenticated(node: Addresses, peer: Option<SocketAddr>) -> anyhow::Result<u64> {
    let mut streams = Vec::new();
    for n in 0..UNAUTHENTICATED {
        for address in [Some(node.api), Some(node.admin), peer].into_iter().flatten() {
            // A refused one makes room for the next.
            if let Ok(Ok(mut stream)) =
                timeout(Duration::from_secs(1), TcpStream::connect(address)).await
            {
                if n % 3 == 0 {
                    let _ = stream.write_all(b"\x16\x03\x01\x02\0nonsense\r\n\r\n").await;
                }
                streams.push(stream);
            }
        }
    }
    if let Some(peer) = peer {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        for n in 0..200_u16 {
            socket.send_to(&vec![n as u8; usize::from(n) * 6], peer).await?;
        }
    }
    sleep(HOLD).await;
    Ok(streams.len() as u64)
}

/// The disk is full for a moment.
async fn full_disk(folder: PathBuf) -> anyhow::Result<u64> {
    sleep(3 * HOLD).await;
    let filler = folder.parent().context("a disk has a root")?.join("filler");
    let fill = filler.clone();
    let filled = tokio::task::spawn_blocking(move || fill_up(&fill)).await?;
    sleep(Duration::from_secs(1)).await;
    std::fs::remove_file(&filler)?;
    filled?;
    Ok(1)
}
