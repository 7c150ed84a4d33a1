//! A TCP proxy that cuts, stalls and slows what goes through it.

use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Way {
    /// Nothing goes through to the server, or back.
    pub stall_to: bool,
    pub stall_back: bool,
    /// Pause for each 64 KiB on the way back.
    pub slow_back: Duration,
}

pub(super) struct Proxy {
    pub address: SocketAddr,
    pub way: watch::Sender<Way>,
    /// Where new connections go.
    pub to: watch::Sender<SocketAddr>,
    /// Rises with each cut.
    cut: watch::Sender<u64>,
    /// Bytes that went back to the client.
    pub back: Arc<AtomicU64>,
    /// All that went through, if a test wants it.
    pub heard: Arc<Mutex<Option<Vec<u8>>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::default());
        let (cut, cuts) = watch::channel(0);
        let back = Arc::new(AtomicU64::new(0));
        let counted = back.clone();
        let heard: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
        let (to, servers) = watch::channel(server);
        let hears = heard.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = *servers.borrow();
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let (mut cut, ways, back) = (cuts.clone(), ways.clone(), counted.clone());
                let (there, here) = (hears.clone(), hears.clone());
                cut.mark_unchanged();
                let (client_in, client_out) = client.into_split();
                let (server_in, server_out) = server.into_split();
                pipes.spawn(async move {
                    tokio::select! {
                        () = pipe(client_in, server_out, ways.clone(), true, None, there) => {}
                        () = pipe(server_in, client_out, ways, false, Some(back), here) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, way, to, cut, back, heard, _tasks: tasks }
    }

    /// Closes all connections; new ones go through.
    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }
}

async fn pipe(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    there: bool,
    count: Option<Arc<AtomicU64>>,
    heard: Arc<Mutex<Option<Vec<u8>>>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let open = |way: &Way| if there { !way.stall_to } else { !way.stall_back };
        let Ok(way) = way.wait_for(open).await.map(|way| *way) else { return };
        if !there && !way.slow_back.is_zero() {
            sleep(way.slow_back).await;
        }
        if let Some(heard) = &mut *heard.lock() {
            heard.extend(&buffer[..read]);
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        if let Some(count) = &count {
            count.fetch_add(read as u64, Ordering::SeqCst);
        }
    }
}
