//! Requests over HTTP that sessions make, beside a client that does the same by itself; and streams, from the server's
//! byte to who reads the session.

use crate::{
    Args, SERVICE,
    report::{Spread, row},
};
use anyhow::{Context, bail, ensure};
use axum::{Router, body::Body, extract::Path as UrlPath, response::Response, routing::post};
use bytes::Bytes;
use futures_util::{future::try_join_all, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Message, metric, session_path},
    histogram::Histogram,
    http::Client,
    load::session,
    node::{Node, NodeOptions, cpu_time, eventually},
    plugins,
    raw_socket::{PING, PONG, RawSocket, TEXT, frame},
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinSet};

/// Clients that ask, or that do it by themselves.
const CLIENTS: u64 = 64;
/// Sessions of the clients: `kitchen-sink` keeps all answers of one.
const SESSIONS: u64 = 10_000;
/// Tokens a second of each stream.
const TOKENS_PER_SECOND: u64 = 50;
/// From a stream's last token until its reader must have it.
const ARRIVED_WITHIN: Duration = Duration::from_secs(60);
const KIND: &str = "token";

#[derive(Serialize)]
pub struct Requests {
    rounds: Vec<Round>,
    ratio: Spread,
    streams: Streams,
}

#[derive(Serialize)]
struct Round {
    /// A second: a message, the request by the client itself, and a message with what came.
    bare: f64,
    /// A second: a message that asks, until the message with the answer is handled.
    sessions: f64,
    cpu_us: f64,
    busy: u64,
}

#[derive(Serialize)]
struct Streams {
    sessions: u64,
    tokens: u64,
    lost: u64,
    /// From when the server writes a token until its reader has it.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    events: u64,
    cpu_share_of_a_core: f64,
}

pub async fn requests(args: &Args, dir: &Path) -> anyhow::Result<Requests> {
    println!("\nRequests over HTTP of kitchen-sink, to a server of this process\n");
    let begun = Instant::now();
    let server = serve(begun).await?;
    let env = [
        ("SLOTD_EFFECTS_HTTP", format!("{SERVICE}>http://{server}!private")),
        ("SLOTD_EFFECTS_HTTP_AT_ONCE", "1024".into()),
        ("SLOTD_EFFECTS_HTTP_PER_SECOND", "100000".into()),
    ];
    let node = Node::start_with(NodeOptions {
        data_dir: Some(dir.join("requests")),
        env: env.map(|(name, value)| (name.to_owned(), value)).into(),
        ..NodeOptions::default()
    })
    .await?;
    node.admin().deploy(SERVICE, plugins::load("kitchen-sink")?).await?;
    let mut rounds = Vec::new();
    // The first finds nothing warm, and is not counted.
    for number in 0..=args.rounds {
        let measured = round(args, &node, server, number).await?;
        if number == 0 {
            continue;
        }
        row("  by the client itself", format!("{:.0}/s", measured.bare), "");
        row("  by its session", format!("{:.0}/s", measured.sessions), "");
        row("    node's processor time of one", format!("{:.1} µs", measured.cpu_us), "");
        row("    waited for a turn", measured.busy.to_string(), "");
        rounds.push(measured);
    }
    let ratio = Spread::of(rounds.iter().map(|it| it.sessions / it.bare).collect());
    row("  ratio", ratio.show(), "at least 0.5");
    println!();
    let streams = streams(args, &node, server, begun).await?;
    Ok(Requests { rounds, ratio, streams })
}

/// A round begins with the other of both each time.
async fn round(
    args: &Args,
    node: &Node,
    server: SocketAddr,
    number: usize,
) -> anyhow::Result<Round> {
    let seconds = if number == 0 { 0.5 } else { args.measure };
    let (bare, asked);
    if number.is_multiple_of(2) {
        bare = by_clients(node, server, seconds).await?;
        asked = by_sessions(node, server, seconds, number).await?;
    } else {
        asked = by_sessions(node, server, seconds, number).await?;
        bare = by_clients(node, server, seconds).await?;
    }
    let (sessions, cpu_us, busy) = asked;
    Ok(Round { bare, sessions, cpu_us, busy })
}

/// What a program does that has no slotd to ask for it: it writes down what it is about to do, does it, and writes down
/// what came of it.
async fn by_clients(node: &Node, server: SocketAddr, seconds: f64) -> anyhow::Result<f64> {
    let (begun, done) = (Instant::now(), AtomicU64::new(0));
    let until = begun + Duration::from_secs_f64(seconds);
    let outside = Client::new(server);
    let client = async |number: u64| {
        let (api, mut at) = (node.api(), number);
        while Instant::now() < until {
            at = (at + CLIENTS) % SESSIONS;
            let name = session(at);
            api.send(SERVICE, &name, note("asked", &json!({"url": "/ok"}))).await?;
            let answer = outside.post("/ok", "{}").await?.success()?;
            api.send(SERVICE, &name, note("answered", &json!({"body": answer.text()}))).await?;
            done.fetch_add(1, Relaxed);
        }
        anyhow::Ok(())
    };
    try_join_all((0..CLIENTS).map(client)).await?;
    Ok(done.into_inner() as f64 / begun.elapsed().as_secs_f64())
}

fn note(key: &str, value: &Value) -> Message {
    Message::json(&json!({"op": "set", "key": key, "value": value}))
}

struct Counts {
    answered: f64,
    failed: f64,
    busy: f64,
    cpu: Duration,
}

async fn counts(node: &Node) -> anyhow::Result<Counts> {
    let text = node.admin().client.get("/metrics").await?.success()?.text();
    let of = |outcome: &str| metric(&text, "slotd_outbound_requests_total", outcome);
    Ok(Counts {
        answered: of("answered"),
        failed: of("failed"),
        busy: of("busy"),
        cpu: cpu_time(node.pid().context("the node does not run")?, false)?,
    })
}

/// A second, the node's processor time of one, and how many had to wait.
async fn by_sessions(
    node: &Node,
    server: SocketAddr,
    seconds: f64,
    round: usize,
) -> anyhow::Result<(f64, f64, u64)> {
    let before = counts(node).await?;
    let (begun, asked) = (Instant::now(), AtomicU64::new(0));
    let until = begun + Duration::from_secs_f64(seconds);
    let client = async |number: u64| {
        let (api, mut at) = (node.api(), number);
        while Instant::now() < until {
            at += CLIENTS;
            let id = format!("{round}-{}", at / SESSIONS);
            let message = json!({"op": "request", "id": id, "method": "POST",
                "url": format!("http://{server}/ok"), "body": "{}"});
            let answer =
                api.post(SERVICE, &session(at % SESSIONS), Message::json(&message)).await?;
            match answer.status {
                // What is behind waits for room.
                503 => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => {
                    let problem: Value = answer.success()?.json()?;
                    ensure!(problem.is_null(), "{problem}");
                    asked.fetch_add(1, Relaxed);
                }
            }
        }
        anyhow::Ok(())
    };
    try_join_all((0..CLIENTS).map(client)).await?;
    let asked = asked.into_inner() as f64;
    let after = eventually("all requests are answered", async || {
        let now = counts(node).await?;
        ensure!(now.failed == before.failed, "a request failed");
        Ok((now.answered - before.answered >= asked).then_some(now))
    })
    .await?;
    let took = begun.elapsed().as_secs_f64();
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / asked;
    Ok((asked / took, cpu, (after.busy - before.busy) as u64))
}

/// A stream to each session, read by one WebSocket each.
async fn streams(
    args: &Args,
    node: &Node,
    server: SocketAddr,
    begun: Instant,
) -> anyhow::Result<Streams> {
    let (sessions, each) = (args.streams, (args.measure * 2.0) as u64 * TOKENS_PER_SECOND);
    println!("  {sessions} sessions with a stream of {TOKENS_PER_SECOND} tokens a second each");
    let name = |number: u64| format!("stream-{number}");
    let mut readers = JoinSet::new();
    for number in 0..sessions {
        let path = session_path(SERVICE, &name(number)) + "/socket";
        // A session is there before who reads it.
        node.api().send(SERVICE, &name(number), note("stream", &json!(number))).await?;
        let socket = RawSocket::open(&node.api().client, &path).await;
        let socket = socket.with_context(|| format!("reader {number}"))?;
        readers.spawn(read(socket, each, begun));
    }
    let pid = node.pid().context("the node does not run")?;
    let (cpu, started) = (cpu_time(pid, false)?, Instant::now());
    let ask = async |number: u64| {
        let form = json!({"joined": "choices.0.delta.content"});
        let message = json!({"op": "request", "id": "llm", "method": "POST",
            "url": format!("http://{server}/stream/{each}"), "body": "{}",
            "options": {"attempts": 1, "stream": {"kind": KIND, "form": form}}});
        node.api().send(SERVICE, &name(number), Message::json(&message)).await?;
        anyhow::Ok(())
    };
    // They begin one after the other, within a second: as conversations do.
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / sessions.max(1) as u32);
    for number in 0..sessions {
        ticks.tick().await;
        ask(number).await?;
    }
    let (mut delays, mut events, mut got) = (Histogram::default(), 0, 0);
    while let Some(ended) = readers.join_next().await {
        let seen = ended??;
        delays.merge(&seen.delays);
        events += seen.events;
        got += seen.tokens;
    }
    let (cpu, elapsed) = (cpu_time(pid, false)?.saturating_sub(cpu), started.elapsed());
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let measured = Streams {
        sessions,
        tokens: got,
        lost: sessions * each - got,
        p50_ms: ms(delays.quantile(0.5)),
        p99_ms: ms(delays.quantile(0.99)),
        max_ms: ms(delays.max()),
        events,
        cpu_share_of_a_core: cpu.as_secs_f64() / elapsed.as_secs_f64(),
    };
    row("    server's byte to reader, p50", format!("{:.1} ms", measured.p50_ms), "");
    row("      p99", format!("{:.1} ms", measured.p99_ms), "at most 60 ms");
    row("      longest", format!("{:.1} ms", measured.max_ms), "");
    row("    tokens, lost", format!("{got}, {}", measured.lost), "0 lost");
    let share = measured.cpu_share_of_a_core * 100.0;
    row("    events, processor time", format!("{events}, {share:.0} % of a core"), "");
    Ok(measured)
}

/// What a reader has seen.
struct Seen {
    delays: Histogram,
    tokens: u64,
    events: u64,
}

#[derive(Deserialize)]
struct Event<'a> {
    r#type: &'a str,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    body: Value,
}

/// Reads one session's stream to its end: each token in its place.
async fn read(mut socket: RawSocket, tokens: u64, begun: Instant) -> anyhow::Result<Seen> {
    let mut seen = Seen { delays: Histogram::default(), tokens: 0, events: 0 };
    // A token ends with a space; one may be cut.
    let mut rest = String::new();
    loop {
        let next = tokio::time::timeout(ARRIVED_WITHIN, socket.next());
        let next = next.await.with_context(|| format!("{} of {tokens} came", seen.tokens))?;
        let (first, payload) = next?.context("the node closed the connection")?;
        let at = begun.elapsed();
        match first {
            TEXT => {}
            PING => {
                socket.send(&frame(PONG, &payload)).await?;
                continue;
            }
            first => bail!("a frame {first:#x}: {}", String::from_utf8_lossy(&payload)),
        }
        let text = || String::from_utf8_lossy(&payload).into_owned();
        let event: Event = serde_json::from_slice(&payload).with_context(text)?;
        match (event.r#type, event.kind.as_str()) {
            ("event", KIND) => {}
            ("event", "answered") => {
                ensure!(event.body["status"] == 200, "{}", event.body);
                ensure!(seen.tokens == tokens, "{} of {tokens} tokens came", seen.tokens);
                return Ok(seen);
            }
            _ => bail!("{}", text()),
        }
        seen.events += 1;
        rest += event.body.as_str().context("a token that is no text")?;
        while let Some((token, after)) = rest.split_once(' ') {
            let (number, written) = token.split_once(':').context("no token")?;
            ensure!(number.parse::<u64>()? == seen.tokens, "{token} after {} tokens", seen.tokens);
            let written = Duration::from_micros(written.parse()?);
            seen.delays.record(at.saturating_sub(written));
            seen.tokens += 1;
            rest = after.to_owned();
        }
    }
}

/// A server that says that all is well, and that streams tokens which say when they were written.
async fn serve(begun: Instant) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let tokens = move |UrlPath(count): UrlPath<u64>| async move {
        let every = Duration::from_secs(1) / TOKENS_PER_SECOND as u32;
        let ticks = tokio::time::interval(every);
        let events = stream::unfold((0, ticks), move |(number, mut ticks)| async move {
            if number > count {
                return None;
            }
            if number == count {
                let end = Bytes::from_static(b"data: [DONE]\n\n");
                return Some((Ok::<_, Infallible>(end), (number + 1, ticks)));
            }
            ticks.tick().await;
            let token = format!("{number}:{} ", begun.elapsed().as_micros());
            let delta = format!(r#"data: {{"choices":[{{"delta":{{"content":"{token}"}}}}]}}"#);
            Some((Ok(Bytes::from(delta + "\n\n")), (number + 1, ticks)))
        });
        let mut response = Response::new(Body::from_stream(events));
        let kind = hyper::header::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
        response
    };
    let app =
        Router::new().route("/ok", post(|| async { "{}" })).route("/stream/{count}", post(tokens));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}
