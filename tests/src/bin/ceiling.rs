//! The benchmark's ceiling: a durable HTTP server reduced to the durability. Appends each message
//! to one file, with group commit and `fdatasync`; no slots, no state, no plugins. Accepts messages
//! by POST, and over WebSockets on a separate port.

use anyhow::Context;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    routing::{get, post},
};
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The file to append to; created anew.
    #[arg(long)]
    file: PathBuf,
}

/// Messages waiting for the writer; more than are in flight on all connections.
const QUEUE_MESSAGES: usize = 8192;
/// Acknowledgements waiting for one socket; more than its client has messages in flight.
const SOCKET_ANSWERS: usize = 1024;

struct Append {
    session: String,
    body: Bytes,
    done: oneshot::Sender<u64>,
}

#[derive(Default)]
struct Counters {
    messages: AtomicU64,
    syncs: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Clone)]
struct Ceiling {
    queue: mpsc::Sender<Append>,
    counters: Arc<Counters>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let file =
        File::create(&args.file).with_context(|| format!("creating {}", args.file.display()))?;
    let (queue, waiting) = mpsc::channel(QUEUE_MESSAGES);
    let counters = Arc::new(Counters::default());
    let ceiling = Ceiling { queue, counters: counters.clone() };
    std::thread::spawn(move || {
        if let Err(e) = write_all(file, waiting, &counters) {
            eprintln!("ceiling: {e:#}");
            std::process::exit(1);
        }
    });
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        let sockets = TcpListener::bind((args.listen.ip(), 0)).await?;
        println!("listening on {} {}", listener.local_addr()?, sockets.local_addr()?);
        tokio::spawn(take_sockets(sockets, ceiling.clone()));
        let router = Router::new()
            .route("/v1/services/{service}/sessions/{session}/messages", post(append))
            .route("/stats", get(stats))
            .with_state(ceiling);
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            // Without it, delayed acknowledgements would be measured.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, router).await?;
        Ok(())
    })
}

async fn append(
    State(ceiling): State<Ceiling>,
    UrlPath((_, session)): UrlPath<(String, String)>,
    body: Bytes,
) -> Result<String, StatusCode> {
    let (done, durable) = oneshot::channel();
    let gone = |_| StatusCode::SERVICE_UNAVAILABLE;
    ceiling.queue.send(Append { session, body, done }).await.map_err(|_| gone(()))?;
    let number = durable.await.map_err(|_| gone(()))?;
    Ok(number.to_string())
}

async fn take_sockets(listener: TcpListener, ceiling: Ceiling) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // How a client disconnects does not matter.
        tokio::spawn(socket(stream, ceiling.clone()));
    }
}

/// A message over a WebSocket, in slotd's format.
#[derive(Deserialize)]
struct Send {
    id: String,
    body: String,
}

async fn socket(stream: TcpStream, ceiling: Ceiling) -> anyhow::Result<()> {
    let mut path = String::new();
    #[allow(clippy::result_large_err)] // As the library has it.
    let accepted = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let (mut write, mut read) = accept_hdr_async(stream, accepted).await?.split();
    // "/v1/services/SERVICE/sessions/SESSION/socket"
    let session = path.split('/').nth(5).context("no session")?;
    let (answers, mut waiting) = mpsc::channel(SOCKET_ANSWERS);
    let take = async move {
        while let Some(Ok(message)) = read.next().await {
            let Message::Text(text) = message else { continue };
            let Send { id, body } = serde_json::from_str(&text)?;
            let (done, durable) = oneshot::channel();
            let append = Append { session: session.to_owned(), body: body.into(), done };
            ceiling.queue.send(append).await.ok().context("the writer is gone")?;
            answers.send((id, durable)).await.ok().context("the answers' end is gone")?;
        }
        anyhow::Ok(())
    };
    let answer = async move {
        loop {
            // Everything durable is sent in one write; flush before waiting.
            let next = match waiting.try_recv() {
                Ok(next) => Some(next),
                Err(_) => {
                    write.flush().await?;
                    waiting.recv().await
                }
            };
            let Some((id, mut durable)) = next else { return Ok(()) };
            let number = match durable.try_recv() {
                Ok(number) => number,
                Err(_) => {
                    write.flush().await?;
                    (&mut durable).await.context("the writer is gone")?
                }
            };
            let ack = format!(r#"{{"type":"ack","id":"{id}","seq":{number}}}"#);
            write.feed(Message::text(ack)).await?;
        }
    };
    tokio::try_join!(take, answer).map(|_| ())
}

async fn stats(State(ceiling): State<Ceiling>) -> Json<Value> {
    let Counters { messages, syncs, bytes } = &*ceiling.counters;
    Json(json!({
        "messages": messages.load(Relaxed),
        "syncs": syncs.load(Relaxed),
        "bytes": bytes.load(Relaxed),
    }))
}

/// Waits for the first message, takes all others that are queued, writes them at once, syncs, and
/// only then answers.
fn write_all(
    mut file: File,
    mut waiting: mpsc::Receiver<Append>,
    counters: &Counters,
) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let mut answers = Vec::new();
    while let Some(first) = waiting.blocking_recv() {
        let mut next = Some(first);
        while let Some(append) = next {
            let length = (append.session.len() + append.body.len()) as u32;
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(append.session.as_bytes());
            bytes.extend_from_slice(&append.body);
            answers.push(append.done);
            next = waiting.try_recv().ok();
        }
        file.write_all(&bytes).context("appending")?;
        file.sync_data().context("fdatasync")?;
        counters.syncs.fetch_add(1, Relaxed);
        counters.bytes.fetch_add(bytes.len() as u64, Relaxed);
        bytes.clear();
        for done in answers.drain(..) {
            let number = counters.messages.fetch_add(1, Relaxed) + 1;
            // A client that disconnected needs no answer.
            let _ = done.send(number);
        }
    }
    Ok(())
}
