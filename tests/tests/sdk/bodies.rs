//! Bodies, keys and values that a script can't hold.

use crate::{
    play::to_hex,
    suite::{COUNTER, SINK, Suite},
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::json;
use slotd_tests::api::{Message, session_path};

const MIB: usize = 1024 * 1024;

/// Every byte value, in an order in which most are no UTF-8.
fn noise(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i.wrapping_mul(167) ^ (i >> 8)) as u8).collect::<Vec<_>>().into()
}

/// Without it, a body of a megabyte could be cut off, or fail, in a language that copies it.
pub async fn counter(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    for (count, body) in [noise(MIB), noise(3 * MIB), Bytes::new()].into_iter().enumerate() {
        let reply = api.send(COUNTER, "large", Message::bytes(body)).await?;
        ensure!(reply.json()? == count + 1, "{reply:?}");
    }
    let padding = "x".repeat(MIB);
    let add = Message::json(&json!({"padding": padding, "add": 39}));
    let reply = api.send(COUNTER, "large", add).await?;
    ensure!(reply.json()? == 42, "{reply:?}");
    Ok(())
}

/// As above, for bodies that must come back as they were: 1 MiB is the most that a reply may be.
pub async fn raw(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    for body in [Bytes::new(), noise(1), noise(256), noise(65_537), noise(MIB)] {
        let message = Message::bytes(body.clone()).typed("application/x-noise");
        let reply = api.send(SINK, "large", message).await.context(body.len())?;
        ensure!(reply.body == body, "{} bytes came back as {}", body.len(), reply.body.len());
        ensure!(reply.content_type == "application/x-noise", "{}", reply.content_type);
        let path = session_path(SINK, "large") + "/query";
        let headers = [("content-type", "application/x-noise")];
        let answer = api.client.request(Method::POST, &path, &headers, body.clone()).await?;
        ensure!(answer.success()?.body == body, "a query of {} bytes", body.len());
    }
    let text = "ä😀x\u{0301}\n\"".repeat(50_000);
    let echo = json!({"op": "echo", "value": {"text": text}});
    let reply = api.send(SINK, "large", Message::json(&echo)).await?;
    ensure!(reply.json()?["value"]["text"] == text.as_str(), "a long text came back as another");
    Ok(())
}

/// Without it, bytes could go through an encoding on their way to the state or back.
pub async fn binary(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    let all: Vec<u8> = (0..=255).collect();
    for bytes in [all, noise(32 * 1024).to_vec()] {
        let hex = to_hex(&bytes);
        let set = json!({"op": "set-bytes", "key": "binary", "hex": hex});
        api.send(SINK, "binary", Message::json(&set)).await?;
        let get = json!({"op": "get-bytes", "key": "binary"});
        let read = api.send(SINK, "binary", Message::json(&get)).await?.json()?;
        ensure!(read["hex"] == hex.as_str(), "{} bytes, in the next message", bytes.len());
        let read = api.query(SINK, "binary", &get).await?;
        ensure!(read["hex"] == hex.as_str(), "{} bytes, in a query", bytes.len());
    }
    Ok(())
}

/// Without it, a key could be cut off, or be measured in characters.
pub async fn keys(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    let longest = "ä😀".repeat(170) + "abcd";
    ensure!(longest.len() == 1_024);
    for (key, status) in [(longest.clone(), 200), (longest + "e", 500)] {
        let set = json!({"op": "set", "key": key, "value": key});
        let answer = api.post(SINK, "keys-long", Message::json(&set)).await?;
        ensure!(answer.status == status, "{} bytes: {}", key.len(), answer.text());
        let get = json!({"op": "get", "key": key});
        let answer = api.post(SINK, "keys-long", Message::json(&get)).await?;
        let value = answer.json::<serde_json::Value>()?["value"].clone();
        let there = value == key.as_str();
        ensure!(there == (status == 200), "{} bytes: {value}", key.len());
    }
    Ok(())
}
