//! Event streams and sockets: resumed from anywhere, told when they end, and why.

use crate::common::{SOON, deed, ids, next_event, node_with, resettable_node_with, say};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, session_path},
    http::Client,
    node::{Node, scenario},
    socket::{Received, Socket},
    sse::Sse,
};

/// A session whose messages have 0 to 3 events each; gives their ids.
async fn eventful(api: &Api, session: &str) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for (at, count) in [1, 3, 0, 2, 1, 0, 0, 1].into_iter().enumerate() {
        let many = json!({"do": "many-events", "count": count, "bytes": 10});
        let reply = api.send("hostile", session, deed(&many)).await?;
        ensure!(reply.seq == at as u64 + 1, "{reply:?}");
        all.extend((0..count).map(|index| format!("{}.{index}", reply.seq)));
    }
    Ok(all)
}

/// Without it, a client that reconnects would miss events or see some twice.
#[test]
fn streams_resume_from_any_cursor() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        let all = eventful(&api, "a").await?;
        for (at, id) in all.iter().enumerate() {
            let mut stream = api.events("hostile", "a", None, Some(id)).await?;
            let rest = &all[at + 1..];
            ensure!(ids(&mut stream, rest.len()).await? == rest, "Last-Event-ID {id}");
            let path = format!("{}/socket?after={id}", session_path("hostile", "a"));
            let mut socket = Socket::open(&api.client, &path).await?;
            ensure!(socket_ids(&mut socket, rest.len()).await? == rest, "socket after {id}");
        }
        for (after, from) in [(0, 0), (1, 1), (2, 4), (3, 4), (4, 6), (7, 7)] {
            let mut stream = api.events("hostile", "a", Some(after), None).await?;
            let rest = &all[from..];
            ensure!(ids(&mut stream, rest.len()).await? == rest, "after {after}");
        }
        // The header wins: a browser sends it when it comes back to the same address.
        let mut stream = api.events("hostile", "a", Some(0), Some("5.0")).await?;
        ensure!(ids(&mut stream, 1).await? == ["8.0"]);
        // Without either, only what comes from now on.
        let mut stream = api.events("hostile", "a", None, None).await?;
        let emit = json!({"do": "emit", "kind": "now", "body": 1});
        api.send("hostile", "a", deed(&emit)).await?;
        let event = next_event(&mut stream).await?;
        ensure!(event.place() == Some("9.0"), "{event:?}");
        ensure!(event.event.as_deref() == Some("now"), "{event:?}");
        Ok(())
    });
}

async fn socket_ids(socket: &mut Socket, count: usize) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let next = tokio::time::timeout(SOON, socket.frame()).await.context("no frame in time")?;
        let frame = next?;
        ensure!(frame["type"] == "event", "{frame}");
        ids.push(format!("{}.{}", frame["seq"], frame["index"]));
    }
    Ok(ids)
}

/// Without it, a stream that is open before its session exists, or that moves from what is there
/// to what is new, could lose what falls between.
#[test]
fn nothing_falls_between_the_past_and_the_present() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        let mut early = api.events("chat", "a", Some(0), None).await?;
        let (writing, readers) = (api.clone(), api.clone());
        let lines = 400;
        let writer = tokio::spawn(async move {
            for line in 1..=lines {
                writing.send("chat", "a", say("ann", &format!("{line}"))).await?;
            }
            anyhow::Ok(())
        });
        let expected: Vec<String> = (1..=lines).map(|seq| format!("{seq}.0")).collect();
        let mut checks = Vec::new();
        for _ in 0..8 {
            let (api, expected) = (readers.clone(), expected.clone());
            checks.push(tokio::spawn(async move {
                let mut stream = api.events("chat", "a", Some(0), None).await?;
                ensure!(ids(&mut stream, expected.len()).await? == expected, "late reader");
                Ok(())
            }));
        }
        ensure!(ids(&mut early, expected.len()).await? == expected, "early reader");
        writer.await??;
        for check in checks {
            check.await??;
        }
        Ok(())
    });
}

/// Without it, a socket's client could not tell which of its messages were kept.
#[test]
fn a_socket_acknowledges_by_the_senders_ids() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        let mut socket = api.socket("chat", "a", Some(0)).await?;
        let line = |text: &str| json!({"kind": "say", "from": "ann", "text": text});
        let mut events = Vec::new();
        let ack = socket.say("m-1", &line("one"), &mut events).await?;
        ensure!(ack["seq"] == 1 && ack["replayed"] == false && ack["reply"]["n"] == 1, "{ack}");
        let again = socket.say("m-1", &line("one"), &mut events).await?;
        ensure!(again["seq"] == 1 && again["replayed"] == true, "{again}");
        // Many at once: acknowledged each, applied in the order of the frames.
        for number in 2..=50 {
            let body = line(&number.to_string());
            let frame = json!({"type": "send", "id": format!("m-{number}"), "body": body});
            socket.send(&frame).await?;
        }
        let mut acks = 0;
        while acks < 49 || events.len() < 50 {
            let frame = socket.frame().await?;
            match frame["type"].as_str() {
                Some("event") => events.push(frame),
                Some("ack") => {
                    let seq = frame["seq"].as_u64().context("no number")?;
                    ensure!(frame["id"] == format!("m-{seq}"), "{frame}");
                    acks += 1;
                }
                _ => bail!("{frame}"),
            }
        }
        let seqs: Vec<_> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
        ensure!(seqs == (1..=50).collect::<Vec<_>>(), "events {seqs:?}");
        // What is wrong is said, under its id, and the socket goes on.
        for (frame, id, code) in [
            (
                json!({"type": "send", "id": "m-1", "body": line("other")}),
                json!("m-1"),
                "idempotency-conflict",
            ),
            (json!({"type": "send", "id": "x", "body": {"kind": "shout"}}), json!("x"), "rejected"),
            (json!({"type": "send", "body": 1}), Value::Null, "request-invalid"),
            (json!({"type": "dance", "id": "y"}), json!("y"), "request-invalid"),
        ] {
            socket.send(&frame).await?;
            let answer = socket.frame().await?;
            ensure!(answer["type"] == "error" && answer["id"] == id, "{frame}: {answer}");
            ensure!(answer["code"] == code, "{frame}: {answer}");
        }
        let ack = socket.say("m-51", &line("still here"), &mut events).await?;
        ensure!(ack["seq"] == 51, "{ack}");
        Ok(())
    });
}

/// Bytes of one event, and how many: more than the subscription and the sockets can hold.
const EVENT_BYTES: usize = 20_000;
const EVENTS: u64 = 900;

async fn flood(api: &Api, session: &str) -> anyhow::Result<()> {
    for _ in 0..EVENTS {
        let many = json!({"do": "many-events", "count": 1, "bytes": EVENT_BYTES});
        api.send("hostile", session, deed(&many)).await?;
    }
    Ok(())
}

/// Neither reads while the events come; both read when it is too late.
///
/// Without it, one reader that does not read could fill the node's memory, or would never learn
/// what it missed.
#[test]
fn a_slow_reader_is_told_of_the_gap() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let api = node.api();
        let slow = Api::new(Client::new(api.client.address()).with_receive_buffer(16 * 1024));
        let mut stream = slow.events("hostile", "a", Some(0), None).await?;
        let mut socket = slow.socket("hostile", "a", Some(0)).await?;
        flood(&api, "a").await?;
        let mut seen = Vec::new();
        let after = loop {
            let next = next_event(&mut stream).await;
            let event = next.with_context(|| format!("after {} events", seen.len()))?;
            if event.event.as_deref() == Some("slotd.gap") {
                break event.json::<Value>()?["after"].clone();
            }
            seen.push(event.place().context("no id")?.to_owned());
        };
        ensure!(stream.next().await?.is_none(), "it goes on after the gap");
        check_prefix(&seen, &after)?;
        let mut rest = api.events("hostile", "a", None, seen.last().map(String::as_str)).await?;
        seen.extend(ids(&mut rest, EVENTS as usize - seen.len()).await?);
        ensure!(seen.last() == Some(&format!("{EVENTS}.0")), "{:?}", seen.last());

        let mut seen = Vec::new();
        let after = loop {
            let frame = socket.frame().await?;
            match frame["type"].as_str() {
                Some("event") => seen.push(format!("{}.{}", frame["seq"], frame["index"])),
                Some("gap") => break frame["after"].clone(),
                _ => bail!("{frame}"),
            }
        };
        check_prefix(&seen, &after)?;
        match socket.next().await? {
            Received::Closed(1013, _) => {}
            other => bail!("after the gap came {other:?}"),
        }
        let gaps = node.admin().metric("slotd_subscriber_gaps_total", "").await?;
        ensure!(gaps == 2.0, "{gaps} gaps are counted: one of the stream and one of the socket");
        Ok(())
    });
}

/// Up to the gap nothing is missing, and the gap begins where it says.
fn check_prefix(seen: &[String], after: &Value) -> anyhow::Result<()> {
    let expected: Vec<String> = (1..=seen.len()).map(|seq| format!("{seq}.0")).collect();
    ensure!(seen == expected, "before the gap: {seen:?}");
    ensure!(seen.len() < EVENTS as usize, "there was no gap");
    let after = after.as_str().unwrap_or_default();
    ensure!(after.split(['.', '-']).next() == Some(&seen.len().to_string()), "gap after {after}");
    Ok(())
}

/// Without it, a subscriber of a deleted session would wait for ever.
#[test]
fn a_deletion_ends_streams_and_sockets() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let api = node.api();
        api.send("chat", "a", say("ann", "hello")).await?;
        let mut stream = api.events("chat", "a", Some(0), None).await?;
        let mut socket = api.socket("chat", "a", Some(0)).await?;
        ids(&mut stream, 1).await?;
        socket_ids(&mut socket, 1).await?;
        api.delete("chat", "a").await?.success()?;
        let event = next_event(&mut stream).await?;
        ensure!(event.event.as_deref() == Some("slotd.deleted"), "{event:?}");
        ensure!(stream.next().await?.is_none(), "it goes on after the deletion");
        let frame = socket.frame().await?;
        ensure!(frame["type"] == "deleted", "{frame}");
        ensure!(matches!(socket.next().await?, Received::Closed(1000, _)), "not closed");
        Ok(())
    });
}

/// Without it, a drained or restarted slot would cost its subscribers their connection or events.
#[test]
fn streams_outlive_their_slot() {
    scenario(async {
        let mut node: Node = resettable_node_with("chat", "chat-v1").await?;
        let api = node.api();
        let slot = api.send("chat", "a", say("ann", "1")).await?.slot;
        let mut stream: Sse = api.events("chat", "a", Some(0), None).await?;
        let mut socket = api.socket("chat", "a", Some(0)).await?;
        for line in 2..=20 {
            if line % 4 == 0 {
                let path = format!("/admin/v1/slots/{slot}/drain");
                node.admin().client.post(&path, "").await?.success()?;
            }
            api.send("chat", "a", say("ann", &line.to_string())).await?;
        }
        let expected: Vec<String> = (1..=20).map(|seq| format!("{seq}.0")).collect();
        ensure!(ids(&mut stream, 20).await? == expected);
        ensure!(socket_ids(&mut socket, 20).await? == expected);
        // Over a restart of the node the client comes back with its cursor.
        node.kill()?;
        node.restart().await?;
        let api = node.api();
        api.send("chat", "a", say("ann", "21")).await?;
        let mut stream = api.events("chat", "a", None, Some("19.0")).await?;
        ensure!(ids(&mut stream, 2).await? == ["20.0", "21.0"]);
        Ok(())
    });
}
