//! WebSockets at their end: what arrived before it is decided, and the close says what was not.

use crate::common::{SOON, deed, node_with};
use anyhow::{Context, ensure};
use serde_json::json;
use slotd_tests::{
    api::{Api, session_path},
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
    raw_socket::{CLOSE, PING, PONG, RawSocket, TEXT, close, frame, head},
    socket::{Received, Socket},
};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

fn send(id: usize) -> Vec<u8> {
    frame(
        TEXT,
        json!({"type": "send", "id": id.to_string(), "body": {"add": 1}}).to_string().as_bytes(),
    )
}

async fn raw(api: &Api, session: &str) -> anyhow::Result<RawSocket> {
    let path = format!("{}/socket?subscribe=false", session_path("counter", session));
    RawSocket::open(&api.client, &path).await
}

async fn applied(api: &Api, session: &str) -> u64 {
    api.session("counter", session).await.map_or(0, |session| session.seq)
}

/// Without it a client that sends and closes, as programs do that end, would lose what it sent
/// behind a close that looks clean.
#[test]
fn what_came_before_a_clean_close_is_decided_before_the_close_is_answered() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        for count in [1, 2, 5, 20, 64, 300] {
            let session = format!("clean-{count}");
            let mut socket = raw(&api, &session).await?;
            let mut bytes: Vec<u8> = (0..count).flat_map(send).collect();
            bytes.extend(frame(CLOSE, &close(1000, "bye")));
            socket.send(&bytes).await?;
            let (_, code, reason) =
                tokio::time::timeout(SOON, socket.until_closed()).await.context("no close")??;
            let seq = applied(&api, &session).await;
            ensure!(seq == count as u64, "{seq} of {count} applied, closed with {code} {reason}");
            ensure!(code == 1000, "closed with {code} {reason}");
        }
        Ok(())
    });
}

/// Without it a message would be lost by an end without a close frame that an HTTP request
/// survives.
#[test]
fn what_came_before_the_end_of_a_connection_is_applied() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        for (count, half) in [(1, true), (5, true), (300, true), (1, false), (20, false)] {
            let session = format!("end-{count}-{half}");
            let mut socket = raw(&api, &session).await?;
            let mut bytes: Vec<u8> = (0..count).flat_map(send).collect();
            bytes.extend_from_slice(&send(count)[..20]);
            socket.send(&bytes).await?;
            // Half of its end, with which it still reads, or all of it.
            let half = match half {
                true => {
                    socket.stream.shutdown().await?;
                    Some(socket)
                }
                false => None,
            };
            eventually("all of it", async || {
                Ok((applied(&api, &session).await == count as u64).then_some(()))
            })
            .await?;
            drop(half);
        }
        Ok(())
    });
}

/// Without it a client that breaks the protocol would see a broken connection in place of the
/// reason, or what it sent before would be lost with it.
#[test]
fn a_broken_frame_is_answered_by_the_close_code_of_its_fault() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let api = node.api();
        let unfinished = frame(0x01, b"{");
        let after_unfinished = |bytes: &[u8]| [&unfinished, bytes].concat();
        let mut cases = vec![
            ("an opcode for data that is none", frame(0x83, b"x"), 1002),
            ("an opcode for control that is none", frame(0x8b, b""), 1002),
            ("the first reserved bit", frame(0xc1, b"x"), 1002),
            ("the second", frame(0xa1, b"x"), 1002),
            ("the third, of a ping", frame(0x99, b""), 1002),
            ("no mask", vec![0x81, 1, b'x'], 1002),
            ("half a ping", frame(0x09, b""), 1002),
            ("half a close", frame(0x08, b""), 1002),
            ("a ping of 126 bytes, by its head", head(PING, 126), 1002),
            ("a close of 70,000 bytes", head(CLOSE, 70_000), 1002),
            ("a continuation of nothing", frame(0x80, b"x"), 1002),
            ("a message in a message", after_unfinished(&frame(TEXT, b"x")), 1002),
            (
                "a length in too many bytes",
                [&[0x81, 0xfe, 0, 5, 0, 0, 0, 0], &b"hello"[..]].concat(),
                1002,
            ),
            ("a length with the highest bit", [&[0x81, 0xff, 0x80], &[0; 11][..]].concat(), 1002),
            ("a truncated close code", frame(CLOSE, &[3]), 1002),
            ("text that is not UTF-8", frame(TEXT, b"\xc3\x28"), 1007),
            (
                "text that ends in half a character",
                after_unfinished(&frame(0x80, b"\xe2\x82")),
                1007,
            ),
            ("a reason that is not UTF-8", frame(CLOSE, &[0x03, 0xe8, 0xff]), 1007),
            ("a frame over the limit, by its head", head(TEXT, 4 << 20), 1009),
            ("a message over the limit", after_unfinished(&head(0x00, 4 << 20)), 1009),
        ];
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            cases.push((
                "a close code that must not be sent",
                frame(CLOSE, &close(code, "")),
                1002,
            ));
        }
        for (at, (what, bytes, expected)) in cases.into_iter().enumerate() {
            let session = format!("broken-{at}");
            let mut socket = raw(&api, &session).await?;
            socket.send(&[send(1), bytes].concat()).await?;
            let (texts, code, reason) = tokio::time::timeout(SOON, socket.until_closed())
                .await
                .with_context(|| what.to_owned())?
                .with_context(|| what.to_owned())?;
            ensure!(code == expected, "{what}: closed with {code} {reason}");
            ensure!(!reason.is_empty(), "{what}: no reason");
            ensure!(texts.len() == 1 && texts[0].contains("\"ack\""), "{what}: {texts:?}");
            let end = socket.next().await.with_context(|| what.to_owned())?;
            ensure!(end.is_none(), "{what}: {end:?} after the close");
        }
        // Those that may be sent are given back.
        for code in [1000, 1001, 1011, 1014, 3000, 4999] {
            let mut socket = raw(&api, "good").await?;
            socket.send(&frame(CLOSE, &close(code, "bye"))).await?;
            ensure!(socket.until_closed().await?.1 == code);
        }
        Ok(())
    });
}

/// Without it a client could hold memory for ever by a message that never ends, and pongs.
#[test]
fn a_message_that_does_not_end_has_a_deadline_whatever_comes_between() {
    scenario(async {
        let args = ["--api-request-deadline", "2s"].map(String::from).to_vec();
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let api = node.api();
        for start in [frame(0x01, b"{\"type\":"), head(TEXT, 1_000), vec![0x81]] {
            let mut socket = raw(&api, "slow").await?;
            socket.send(&start).await?;
            let fragments = start.len() > 8;
            let began = Instant::now();
            let mut closed = Box::pin(socket.until_closed_while(async |stream| {
                use tokio::io::AsyncWriteExt;
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    // Only between frames.
                    let piece = match fragments {
                        true => [frame(PONG, b""), frame(0x00, b" ")].concat(),
                        false => vec![b' '],
                    };
                    if start.len() == 1 || stream.write_all(&piece).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }));
            let (_, code, reason) =
                tokio::time::timeout(SOON, &mut closed).await.context("it was never closed")??;
            ensure!(code == 1008, "closed with {code} {reason} after {:?}", began.elapsed());
        }
        Ok(())
    });
}

/// Without it frames that are not whole could take all memory, and keep messages out.
#[test]
fn unfinished_frames_are_bounded_together_and_leave_room_for_messages() {
    scenario(async {
        let args = ["--api-buffers", "32MiB"].map(String::from).to_vec();
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let api = node.api();
        let (mut open, mut refused) = (Vec::new(), 0);
        let half = [head(TEXT, 500_000), vec![b' '; 400_000]].concat();
        for at in 0..120 {
            let mut socket = raw(&api, &format!("half-{at}")).await?;
            socket.send(&half).await?;
            open.push(socket);
        }
        let held = async || node.admin().metric("slotd_buffers_bytes", "kind=\"frames\"").await;
        ensure!(held().await? < 30e6, "{} bytes are held", held().await?);
        eventually("refusals", async || {
            let mut at = 0;
            while at < open.len() {
                // Either nothing, or the reason why it was closed.
                let closed = open[at].until_closed();
                match tokio::time::timeout(Duration::from_millis(5), closed).await {
                    Ok(closed) => {
                        let (_, code, reason) = closed?;
                        ensure!(code == 1013, "{code} {reason}");
                        refused += 1;
                        open.swap_remove(at);
                    }
                    Err(_) => at += 1,
                }
            }
            Ok((refused > 30).then_some(()))
        })
        .await?;
        drop(open);
        eventually("what they held", async || Ok((held().await? == 0.0).then_some(()))).await?;
        let mut socket = raw(&api, "after").await?;
        socket.send(&send(1)).await?;
        ensure!(socket.next().await?.is_some_and(|(first, _)| first == TEXT));
        Ok(())
    });
}

/// Without it a stop would drop what was sent to the node before the order, or leave its senders
/// without a word.
#[test]
fn a_stop_decides_what_was_read_and_says_so_before_it_closes() {
    scenario(async {
        let mut node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        let path = format!("{}/socket?subscribe=false", session_path("hostile", "a"));
        let mut socket = Socket::open(&api.client, &path).await?;
        let echo = json!({"do": "echo"});
        socket.say("warm", &echo, &mut Vec::new()).await?;
        for id in 0..20 {
            socket.send(&json!({"type": "send", "id": id.to_string(), "body": echo})).await?;
        }
        node.signal_terminate()?;
        let mut acks = 0;
        let (code, reason) = loop {
            match tokio::time::timeout(SOON, socket.next()).await.context("no close")?? {
                Received::Frame(frame) => {
                    ensure!(frame["type"] == "ack", "{frame}");
                    acks += 1;
                }
                Received::Closed(code, reason) => break (code, reason),
            }
        };
        ensure!(code == 1012 && !reason.contains("undecided"), "{code} {reason}");
        ensure!(node.wait_exit().await?.success());
        node.restart().await?;
        let seq = node.api().session("hostile", "a").await?.seq;
        ensure!(seq == 1 + acks && acks > 0, "{acks} acknowledged, {seq} kept");
        Ok(())
    });
}

/// Without it a stream that is not read would hold what its session's events take, however large,
/// and its reader would not know what it missed.
#[test]
fn a_stalled_stream_holds_a_bounded_number_of_bytes_and_is_told_of_its_gap() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        let slow = api.client.clone().with_receive_buffer(4_096);
        let path = format!("{}/events", session_path("hostile", "a"));
        let mut stalled = slotd_tests::sse::Sse::open(&slow, &path, None).await?;
        let events = json!({"do": "many-events", "count": 200, "bytes": 4_000});
        let held = async || node.admin().metric("slotd_buffers_bytes", "kind=\"events\"").await;
        let gaps = async || node.admin().metric("slotd_subscriber_gaps_total", "").await;
        let mut most: f64 = 0.0;
        for _ in 0..40 {
            api.send("hostile", "a", deed(&events)).await?;
            most = most.max(held().await?);
        }
        ensure!(most > 1e6 && most < 12e6, "{most} bytes were held");
        // It reads on: to the end of what was kept for it, without a gap before that.
        let mut next = (1, 0);
        loop {
            let event = tokio::time::timeout(SOON, stalled.next()).await.context("no event")??;
            let event = event.context("the stream ended without a word")?;
            if event.event.as_deref() == Some("slotd.gap") {
                ensure!(
                    event.data.contains(&format!("\"{}-", next.0 - 1)),
                    "{event:?} at {next:?}"
                );
                break;
            }
            ensure!(event.place() == Some(&format!("{}.{}", next.0, next.1)), "{event:?}");
            next = if next.1 == 199 { (next.0 + 1, 0) } else { (next.0, next.1 + 1) };
        }
        ensure!(next.0 < 40 && gaps().await? == 1.0);
        eventually("what it held", async || Ok((held().await? == 0.0).then_some(()))).await
    });
}
