//! Ephemeral events: to whoever is subscribed, from handlers and from clients, and nowhere else.

use crate::common::{SOON, deed, expect_problem, next_event, node_with};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Ephemeral, Message, session_path},
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
    socket::Socket,
    sse::Sse,
};

const SERVICE: &str = "hostile";

/// A node whose clients may notify.
async fn open_node() -> anyhow::Result<Node> {
    let args = vec!["--api-notify".to_owned(), SERVICE.to_owned()];
    let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
    node.admin().deploy(SERVICE, plugins::load("hostile-v1")?).await?;
    Ok(node)
}

fn passing(kind: &str, times: u64) -> Message {
    deed(&json!({"do": "emit-and-notify", "kind": kind, "times": times}))
}

async fn ephemeral(stream: &mut Sse) -> anyhow::Result<Ephemeral> {
    let event = next_event(stream).await?;
    ensure!(event.id.is_none(), "it has a place: {event:?}");
    let told: Ephemeral = event.json()?;
    ensure!(
        event.event.as_deref() == Some(&*told.kind) && told.ephemeral == Some(true),
        "{told:?}"
    );
    let fields: Value = event.json()?;
    ensure!(fields.get("seq").is_none() && fields.get("index").is_none(), "{fields}");
    Ok(told)
}

/// Without it a reader that comes back would look for what is nowhere, or be told things twice.
#[test]
fn a_handlers_ephemeral_events_follow_their_message_once() {
    scenario(async {
        let node = node_with(SERVICE, "hostile-v1").await?;
        let api = node.api();
        let mut stream = api.events(SERVICE, "a", Some(0), None).await?;
        let mut socket = api.socket(SERVICE, "a", Some(0)).await?;
        for round in 1..=3_u64 {
            let message = passing("tick", 3).key(format!("k{round}"));
            let reply = api.send(SERVICE, "a", message.clone()).await?;
            ensure!(reply.seq == round && !reply.replayed, "{reply:?}");
            ensure!(api.send(SERVICE, "a", message).await?.replayed);
        }
        for seq in 1..=3_u64 {
            let event = next_event(&mut stream).await?;
            ensure!(event.place() == Some(&*format!("{seq}.0")), "{event:?}");
            let frame = frame(&mut socket).await?;
            ensure!(frame["type"] == "event" && frame["seq"] == seq, "{frame}");
            for number in 0..3 {
                let told = ephemeral(&mut stream).await?;
                let says = (&*told.kind, &*told.origin, told.sender.as_deref());
                ensure!(says == ("tick", "handler", None), "{told:?}");
                ensure!(told.body == Some(json!(number)), "{told:?} instead of {number}");
                let frame = self::frame(&mut socket).await?;
                let expected = json!({
                    "type": "notify", "kind": "tick", "origin": "handler", "body": number,
                    "content_type": "application/json", "time_ms": told.time_ms,
                });
                ensure!(frame == expected, "{frame}");
            }
        }
        // They are nowhere else: not in history, and not for one that comes later.
        for entry in api.whole_history(SERVICE, "a").await? {
            ensure!(entry.events.len() == 1, "{entry:?}");
        }
        let mut late = api.events(SERVICE, "a", None, Some("1.0")).await?;
        for place in ["2.0", "3.0"] {
            let event = next_event(&mut late).await?;
            ensure!(event.place() == Some(place), "{event:?}");
        }
        // Nor of a message that was refused.
        let refused = deed(&json!({"do": "write-then-reject"}));
        ensure!(api.post(SERVICE, "a", refused).await?.status == 422);
        api.send(SERVICE, "a", passing("next", 1)).await?;
        for stream in [&mut stream, &mut late] {
            let event = next_event(stream).await?;
            ensure!(event.place() == Some("4.0"), "{event:?}");
            ensure!(ephemeral(stream).await?.kind == "next");
        }
        Ok(())
    });
}

async fn frame(socket: &mut Socket) -> anyhow::Result<Value> {
    tokio::time::timeout(SOON, socket.frame()).await.context("no frame in time")?
}

/// Relaying what anybody says is a service's own choice; and hostile input must not end a stream.
#[test]
fn clients_notify_where_a_service_lets_them() {
    scenario(async {
        let closed = node_with(SERVICE, "hostile-v1").await?;
        let refused = closed.api().notify(SERVICE, "a", "typing", Message::default()).await?;
        expect_problem(&refused, 403, "notify-refused")?;
        let mut socket = closed.api().socket(SERVICE, "a", None).await?;
        socket.send(&json!({"type": "notify", "kind": "typing", "id": "n"})).await?;
        let error = frame(&mut socket).await?;
        ensure!(error["code"] == "notify-refused" && error["id"] == "n", "{error}");
        drop(closed);

        let node = open_node().await?;
        let api = node.api();
        let other = api.notify("other", "a", "typing", Message::default()).await?;
        expect_problem(&other, 403, "notify-refused")?;
        // There is no session yet, and nobody to hear of it.
        let alone = api.notify(SERVICE, "a", "typing", Message::default()).await?;
        ensure!(alone.status == 202 && alone.body.is_empty(), "{alone:?}");
        let missing = api.client.get(&session_path(SERVICE, "a")).await?;
        expect_problem(&missing, 404, "session-not-found")?;

        let mut stream = api.events(SERVICE, "a", None, None).await?;
        let path = format!("{}/socket?sender=zoe", session_path(SERVICE, "a"));
        let mut socket = Socket::open(&api.client, &path).await?;
        let event = Message::json(&json!({"x": 1})).from("ann");
        ensure!(api.notify(SERVICE, "a", "größe-😀", event).await?.status == 202);
        let told = ephemeral(&mut stream).await?;
        let says = (&*told.kind, &*told.origin, told.sender.as_deref(), told.body);
        ensure!(says == ("größe-😀", "client", Some("ann"), Some(json!({"x": 1}))), "{says:?}");
        let heard = frame(&mut socket).await?;
        ensure!(heard["type"] == "notify" && heard["sender"] == "ann", "{heard}");
        socket.send(&json!({"type": "notify", "kind": "typing"})).await?;
        let told = ephemeral(&mut stream).await?;
        ensure!((&*told.kind, told.sender.as_deref()) == ("typing", Some("zoe")), "{told:?}");
        ensure!(frame(&mut socket).await?["kind"] == "typing", "its own sender hears it too");

        hostile(&api).await?;
        for (frame, code) in [
            (json!({"type": "notify", "id": "n"}), "request-invalid"),
            (json!({"type": "notify", "id": "n", "kind": "slotd.gap"}), "name-invalid"),
            (json!({"type": "notify", "id": "n", "kind": "two words"}), "name-invalid"),
            (
                json!({"type": "notify", "id": "n", "kind": "k", "body": "x".repeat(17 * 1024)}),
                "body-too-large",
            ),
        ] {
            socket.send(&frame).await?;
            let error = self::frame(&mut socket).await?;
            ensure!(error["code"] == code && error["id"] == "n", "{error}");
        }
        // Nothing of it has come through, and all goes on.
        ensure!(api.notify(SERVICE, "a", "last", Message::default()).await?.status == 202);
        ensure!(ephemeral(&mut stream).await?.kind == "last");
        ensure!(frame(&mut socket).await?["kind"] == "last");
        Ok(())
    });
}

async fn hostile(api: &Api) -> anyhow::Result<()> {
    let long = "k".repeat(65);
    for kind in ["", "error", "slotd.deleted", "two words", "a\nb", &long] {
        let refused = api.notify(SERVICE, "a", kind, Message::default()).await?;
        expect_problem(&refused, 400, "name-invalid").with_context(|| format!("{kind:?}"))?;
    }
    let path = session_path(SERVICE, "a");
    for query in ["", "?kind", "?kind=%ff", "?kind=a&kind=b", "?kind=a&id=1", "?kind=%"] {
        let refused = api.client.post(&format!("{path}/notify{query}"), "").await?;
        let code = if query == "?kind" { "name-invalid" } else { "request-invalid" };
        expect_problem(&refused, 400, code).with_context(|| format!("{query:?}"))?;
    }
    let large = Message::bytes(vec![b'x'; 16 * 1024 + 1]);
    expect_problem(&api.notify(SERVICE, "a", "k", large).await?, 413, "body-too-large")?;
    Ok(())
}

/// Ephemeral events that took the room of messages would cost a slow reader its stream; and those that pile
/// up for it would cost the node its memory.
#[test]
fn a_slow_reader_misses_ephemeral_events_alone() {
    scenario(async {
        let node = open_node().await?;
        let (api, admin) = (node.api(), node.admin());
        let mut slow = api.events(SERVICE, "a", Some(0), None).await?;
        // More than the connection's buffers take of what is not read.
        let body = "x".repeat(15 * 1024);
        let mut sent = 0;
        eventually("events that are dropped", async || {
            for _ in 0..64 {
                let event = Message::json(&json!(body));
                let told = api.notify(SERVICE, "a", "flood", event).await?;
                // A client that is quicker than its readers is told so.
                ensure!(told.status == 202 || told.status == 503, "{told:?}");
                sent += u64::from(told.status == 202);
            }
            let dropped = admin.metric("slotd_ephemeral_dropped_total", "").await?;
            Ok((dropped > 0.0).then_some(()))
        })
        .await?;
        let kept = 50;
        for seq in 1..=kept {
            let emit = json!({"do": "emit", "kind": "kept", "body": seq});
            ensure!(api.send(SERVICE, "a", deed(&emit)).await?.seq == seq);
        }
        let (mut seq, mut passed) = (0, 0);
        while seq < kept {
            let event = next_event(&mut slow).await?;
            match event.place() {
                Some(place) => {
                    seq += 1;
                    ensure!(place == format!("{seq}.0"), "{place} instead of {seq}.0");
                }
                None => passed += 1,
            }
        }
        ensure!(passed > 0 && passed < sent, "{passed} of {sent} ephemeral events came");
        let gaps = admin.metric("slotd_subscriber_gaps_total", "").await?;
        ensure!(gaps == 0.0, "a reader was cut");
        Ok(())
    });
}
