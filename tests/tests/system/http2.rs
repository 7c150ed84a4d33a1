//! HTTP/2 of a real node: many requests on one connection, clients that misuse it, and the memory
//! that they can take.

use crate::common::{SOON, deed, node_with};
use anyhow::{Context, ensure};
use h2::{Reason, client::Builder};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Message, metric, session_path},
    http2::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PING, PREFACE,
        RST_STREAM, SETTINGS,
    },
    node::{Node, NodeOptions, eventually, resident_bytes, scenario, status_bytes},
    plugins,
};
use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const MIB: u64 = 1024 * 1024;

fn messages(service: &str, session: &str) -> String {
    session_path(service, session) + "/messages"
}

/// Without it messages of one connection would be lost, doubled or answered with each other's
/// replies.
#[test]
fn messages_in_parallel_streams_are_each_decided() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let client = Http2::connect(node.api().client.address()).await?;
        let mut asked = Vec::new();
        for number in 0..1_000 {
            let path = messages("counter", &format!("s-{}", number % 7));
            // As many at a time as the node allows: `ask` waits for a place.
            asked.push(client.ask("POST", &path, "\"one\"").await?);
            if asked.len() == 100 {
                for stream in asked.drain(..) {
                    ensure!(stream.answer().await?.status == 200, "a message was refused");
                }
            }
        }
        let mut all = 0;
        for session in 0..7 {
            let history = node.api().whole_history("counter", &format!("s-{session}")).await?;
            let seqs: BTreeSet<_> = history.iter().map(|entry| entry.seq).collect();
            ensure!(seqs.len() == history.len() && seqs.last() == Some(&(seqs.len() as u64)));
            all += seqs.len();
        }
        ensure!(all == 1_000, "{all} were kept");
        Ok(())
    });
}

/// Without it what one stream does would harm the others of its connection: proxies send those of
/// many users on one.
#[test]
fn streams_do_each_other_no_harm() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let client = Http2::connect(node.api().client.address()).await?;
        let say = |what: Value| what.to_string();
        let path = |session: &str| messages("hostile", session);
        let events = session_path("hostile", "a") + "/events";
        let mut follow = client.ask("GET", &events, "").await?.answer.await?.into_body();
        // One that takes seconds, one whose body never ends, one that is given up while it runs.
        let spin = client.ask("POST", &path("spins"), &say(json!({"do": "spin"}))).await?;
        let half = client.begin("POST", &path("half"), &[("content-length", "7")], false).await?;
        let mut gone = client.ask("POST", &path("gone"), &say(json!({"do": "spin"}))).await?;
        let mut set = client
            .ask("POST", &path("set"), &say(json!({"do": "set", "key": "k", "value": 1})))
            .await?;
        gone.body.send_reset(Reason::CANCEL);
        // Too large: it is refused before it has come.
        let length = (64 * MIB).to_string();
        let large = client.begin("POST", &path("l"), &[("content-length", &length)], false).await?;
        let refused = large.answer.await?;
        ensure!(refused.status() == 413, "{refused:?}");
        ensure!(!refused.headers().contains_key("connection"), "{refused:?}");
        let mut endless = client.begin("POST", &path("l"), &[], false).await?;
        let answered = tokio::time::timeout(SOON, async {
            let part = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
            // The window of the stream opens as its body is read; it closes with the answer.
            while endless.body.send_data(part.clone(), false).is_ok() {
                tokio::select! {
                    answer = &mut endless.answer => return answer,
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
            (&mut endless.answer).await
        });
        ensure!(answered.await.context("no answer")??.status() == 413);
        for number in 0..50 {
            let body = say(json!({"do": "emit", "kind": "k", "body": number}));
            ensure!(client.call("POST", &path("a"), &body).await?.status == 200);
        }
        let mut text = String::new();
        while text.matches("\nid: ").count() < 50 {
            let next = tokio::time::timeout(SOON, http2::next(&mut follow)).await;
            let next = next.context("no events")??.context("the stream ended")?;
            text += std::str::from_utf8(&next)?;
        }
        ensure!((&mut set.answer).await?.status() == 200);
        ensure!(spin.answer().await?.status == 504);
        drop(half);
        // It was decided though nobody waited for it, and the session goes on.
        let after = client.call("POST", &path("gone"), &say(json!({"do": "echo"}))).await?;
        ensure!(after.status == 200 && after.header("slotd-seq") == Some("1"), "{after:?}");
        ensure!(node.api().session("hostile", "half").await.is_err(), "half a message was kept");
        ensure!(!client.task.is_finished());
        Ok(())
    });
}

/// Without it a stopping node would cut requests under way, or keep its clients guessing.
#[test]
fn a_node_that_stops_answers_what_it_has_taken() {
    scenario(async {
        let mut node = node_with("hostile", "hostile-v1").await?;
        let client = Http2::connect(node.api().client.address()).await?;
        let path = |session: &str| messages("hostile", session);
        let events = session_path("hostile", "a") + "/events";
        let mut follow = client.ask("GET", &events, "").await?.answer.await?.into_body();
        let spin = json!({"do": "spin"}).to_string();
        let mut under_way = Vec::new();
        for number in 0..8 {
            under_way.push(client.ask("POST", &path(&format!("s-{number}")), &spin).await?);
        }
        let admin = node.admin();
        eventually("all to run", async || {
            Ok((admin.metric("slotd_long_calls", "").await? >= 8.0).then_some(()))
        })
        .await?;
        node.signal_terminate()?;
        // The stream of events ends well, so its reader knows where to go on.
        let end = tokio::time::timeout(SOON, async {
            while http2::next(&mut follow).await?.is_some() {}
            anyhow::Ok(())
        });
        end.await.context("it goes on")??;
        for stream in under_way {
            let answer =
                tokio::time::timeout(SOON, stream.answer()).await.context("no answer")??;
            ensure!([503, 504].contains(&answer.status), "{answer:?}");
        }
        ensure!(node.wait_exit().await?.success());
        ensure!(client.task.await?.is_ok(), "the connection was cut");
        Ok(())
    });
}

/// Without it the answers on streams that nobody reads would take more than what is charged for
/// them; with HTTP/2 a client needs no connection for each.
#[test]
fn unread_streams_take_the_memory_that_is_charged() {
    const BUDGET: u64 = 128 * MIB;
    scenario(async {
        let args = vec!["--api-buffers".to_owned(), format!("{}MiB", BUDGET / MIB)];
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        let service = "kitchen-sink";
        node.admin().deploy(service, plugins::load(service)?).await?;
        for _ in 0..5 {
            let body = vec![0xff; 200 * 1024];
            node.api().send(service, "big", Message::bytes(body)).await?;
        }
        let (admin, pid) = (node.admin(), node.pid().context("no process")?);
        let before = resident_bytes(pid)?;
        // The peak is counted from here on.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").context("resetting the peak")?;
        let path = format!("{}?after=0&limit=1000", messages(service, "big"));
        let mut builder = Builder::new();
        builder.initial_window_size(1_024);
        let (mut clients, mut unread) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let client = Http2::connect_with(node.api().client.address(), &builder).await?;
            for _ in 0..100 {
                unread.push(client.ask("GET", &path, "").await?);
            }
            clients.push(client);
        }
        let (mut served, mut bodies) = (0, Vec::new());
        for stream in unread {
            let answer = tokio::time::timeout(SOON, stream.answer).await.context("no answer")??;
            ensure!([200, 503].contains(&answer.status().as_u16()), "{answer:?}");
            served += usize::from(answer.status() == 200);
            bodies.push(answer.into_body());
        }
        ensure!((20..280).contains(&served), "{served} were served");
        let grown = status_bytes(pid, "VmHWM:")?.saturating_sub(before);
        ensure!(grown <= BUDGET * 14 / 10, "{} MiB more than before", grown / MIB);
        // Others are served meanwhile.
        let set = json!({"op": "set", "key": "k", "value": 1});
        node.api().send(service, "other", deed(&set)).await?;
        drop((bodies, clients));
        eventually("what was held", async || {
            let text = admin.client.get("/metrics").await?.success()?.text();
            let held = metric(&text, "slotd_buffers_bytes", "kind=\"answers\"");
            Ok((held == 0.0).then_some(()))
        })
        .await
    });
}

/// A connection of which one side floods the other.
async fn flood(address: SocketAddr, opening: &[u8], flood: &[u8]) -> anyhow::Result<Option<u32>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut first = PREFACE.to_vec();
    http2::frame(&mut first, SETTINGS, 0, 0, &[]);
    first.extend_from_slice(opening);
    stream.write_all(&first).await?;
    let (mut from, mut to) = stream.split();
    let (mut read, mut why) = (Vec::new(), None);
    let sending = async {
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        while tokio::time::Instant::now() < until && to.write_all(flood).await.is_ok() {}
        let _ = to.shutdown().await;
    };
    let reading = async {
        while let Ok(1..) = from.read_buf(&mut read).await {
            let mut at = 0;
            while let Some((length, frame)) = http2::first(&read[at..]) {
                if frame.kind == GOAWAY {
                    why = http2::reason(&frame).ok();
                }
                at += length;
            }
            read.drain(..at);
        }
    };
    let both = async { tokio::join!(sending, reading) };
    tokio::time::timeout(SOON, both).await.context("it goes on and on")?;
    Ok(why)
}

/// Without it anyone could take the node's processor or memory with frames that cost nothing to
/// send.
#[test]
fn floods_end_with_their_connection() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let address = node.api().client.address();
        let pid = node.pid().context("no process")?;
        node.api().send("counter", "bystander", Message::bytes("x")).await?;
        let before = resident_bytes(pid)?;
        fs::write(format!("/proc/{pid}/clear_refs"), "5").context("resetting the peak")?;
        let mut head = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &*messages("counter", "flood")),
            (":authority", "localhost"),
        ] {
            http2::field(&mut head, name, value)?;
        }
        let mut resets = Vec::new();
        for request in 0..2_000 {
            let stream = 2 * request + 1;
            http2::frame(&mut resets, HEADERS, END_HEADERS | END_STREAM, stream, &head);
            http2::frame(&mut resets, RST_STREAM, 0, stream, &8u32.to_be_bytes());
        }
        let mut open = Vec::new();
        http2::frame(&mut open, HEADERS, END_HEADERS, 1, &head);
        let mut endless = Vec::new();
        http2::frame(&mut endless, HEADERS, 0, 1, &head);
        let many = |kind, flags, stream, payload: &[u8]| {
            let mut out = Vec::new();
            (0..1_000).for_each(|_| http2::frame(&mut out, kind, flags, stream, payload));
            out
        };
        let mut block = Vec::new();
        http2::field(&mut block, "name", "value")?;
        let calm = u32::from(Reason::ENHANCE_YOUR_CALM);
        for (what, opening, frames, ends) in [
            ("rapid resets", &[][..], resets, true),
            ("continuations", &endless, many(CONTINUATION, 0, 1, &block), true),
            ("empty data", &open, many(DATA, 0, 1, &[]), true),
            ("pings", &[], many(PING, 0, 0, &[0; 8]), false),
            ("settings", &[], many(SETTINGS, 0, 0, &[]), false),
            ("unknown frames", &open, many(0xfa, 0, 1, &[0; 100]), false),
        ] {
            let flooding = flood(address, opening, &frames);
            let bystander = async {
                let api = node.api();
                for _ in 0..50 {
                    let sent = api.send("counter", "bystander", Message::bytes("x"));
                    tokio::time::timeout(SOON, sent).await.context("it waits")??;
                }
                anyhow::Ok(())
            };
            let (why, beside) = tokio::join!(flooding, bystander);
            beside.with_context(|| what.to_owned())?;
            // What the client still sends may reset the connection, and lose the reason.
            let why = why.with_context(|| what.to_owned())?;
            ensure!(!ends || why.is_none_or(|why| why == calm), "{what}: {why:?}");
        }
        let grown = status_bytes(pid, "VmHWM:")?.saturating_sub(before);
        ensure!(grown <= 64 * MIB, "{} MiB more than before", grown / MIB);
        let applied = node.api().session("counter", "flood").await.map_or(0, |found| found.seq);
        ensure!(applied <= 4_000, "{applied} messages that were given up were applied");
        Ok(())
    });
}
