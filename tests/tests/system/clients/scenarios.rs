//! What happens between clients and their node, while they write and follow.

use super::room::{CHAT, ROOM, Stage, TRANSPORTS, list, say, stage};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    clients::{Lang, proxy::Weather},
    node::eventually,
    plugins,
};
use std::time::Duration;

/// As long as something is so. It is what the scenario is about, and nothing is waited for.
async fn lasting(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Another message has come to the room: what happened before is over.
async fn goes_on(stage: &Stage) -> anyhow::Result<()> {
    let count = async || {
        let session = stage.node.api().session(CHAT, ROOM).await;
        session.map_or(0, |session| session.seq)
    };
    let before = count().await;
    eventually("the room goes on", async || Ok((count().await > before + 2).then_some(()))).await
}

/// Both ways have been open so often.
async fn opened(stage: &Stage, times: u64) -> anyhow::Result<()> {
    for session in TRANSPORTS {
        let is_open =
            |seen: &Value| seen["status"] == "open" && seen["opened"].as_u64() >= Some(times);
        stage.until(session, &format!("opened for the time {times}"), is_open).await?;
    }
    goes_on(stage).await
}

pub fn cuts(lang: Lang) {
    stage(lang, async |stage| {
        stage.connect().await?;
        let writers = stage.write();
        for times in 1..8 {
            opened(stage, times).await?;
            stage.proxy.cut();
        }
        opened(stage, 8).await?;
        stage.check(writers).await
    });
}

pub fn ends(lang: Lang) {
    stage(lang, async |stage| {
        stage.connect().await?;
        let writers = stage.write();
        for (times, is_told) in [(1, false), (2, true), (3, false)] {
            opened(stage, times).await?;
            if is_told {
                ensure!(stage.node.terminate().await?.success());
            } else {
                stage.node.kill()?;
            }
            stage.node.restart().await?;
        }
        opened(stage, 4).await?;
        stage.check(writers).await
    });
}

pub fn weather(lang: Lang) {
    stage(lang, async |stage| {
        stage.connect().await?;
        let writers = stage.write();
        goes_on(stage).await?;
        stage.proxy.set(Weather::BlackHole);
        // Longer than an attempt and the silence that a socket is allowed.
        stage
            .until("websocket", "the silence is seen", |seen| seen["status"] == "retrying")
            .await?;
        lasting(1_000).await;
        stage.proxy.set(Weather::Refused);
        stage.proxy.cut();
        lasting(500).await;
        stage.proxy.set(Weather::Delayed(Duration::from_millis(40)));
        goes_on(stage).await?;
        lasting(500).await;
        stage.proxy.set(Weather::Throttled(20_000));
        goes_on(stage).await?;
        stage.proxy.cut();
        goes_on(stage).await?;
        stage.proxy.set(Weather::Clear);
        stage.check(writers).await
    });
}

pub fn swaps(lang: Lang) {
    stage(lang, async |stage| {
        stage.connect().await?;
        let writers = stage.write();
        goes_on(stage).await?;
        stage.node.admin().deploy(CHAT, plugins::load("chat-v2")?).await?;
        goes_on(stage).await?;
        stage.node.admin().rollback(CHAT).await?;
        goes_on(stage).await?;
        for session in TRANSPORTS {
            let seen = stage.seen(session).await?;
            ensure!(seen["opened"] == 1, "a swap closed the connection of {session}");
        }
        stage.node.pause()?;
        lasting(2_500).await;
        stage.node.resume()?;
        goes_on(stage).await?;
        stage.check(writers).await
    });
}

pub fn deletes(lang: Lang) {
    stage(lang, async |stage| {
        stage.connect().await?;
        let send = async |text: &str| {
            stage.driver.call("send", json!({ "session": "sse", "body": say(text) })).await
        };
        let shown = |seen: &Value| -> Vec<String> {
            let text = |event: &Value| match event["deleted"] == true {
                true => "deleted".to_owned(),
                false => event["body"]["text"].as_str().unwrap_or_default().to_owned(),
            };
            list(seen).iter().map(text).collect()
        };
        for text in ["a", "b", "c"] {
            send(text).await?;
        }
        let seen = stage.until("websocket", "c", |seen| shown(seen).len() == 3).await?;
        let old = seen["position"].clone();
        stage.driver.call("delete", json!({ "session": "sse" })).await?;
        // The next one may be there before anybody knows that this one is gone.
        for text in ["d", "e"] {
            send(text).await?;
        }
        let expected = ["a", "b", "c", "deleted", "d", "e"];
        for transport in TRANSPORTS {
            stage.until(transport, "the next session", |seen| shown(seen) == expected).await?;
            // A position that was saved, of a session that is no more.
            let late = format!("late-{transport}");
            stage.follow(transport, &late, ROOM, json!({ "after": old })).await?;
            stage.until(&late, "the next session", |seen| shown(seen) == expected[3..]).await?;
            // From now on, of a session that nobody has written to.
            let new = format!("new-{transport}");
            stage.follow(transport, &new, &new, json!({})).await?;
            stage.until(&new, "open", |seen| seen["status"] == "open").await?;
            stage.proxy.cut();
            stage.driver.call("send", json!({ "session": new, "body": say("first") })).await?;
            stage.until(&new, "its first event", |seen| shown(seen) == ["first"]).await?;
        }
        // Deleting what is not there is no error.
        stage.session("sse", "none", "none", json!({})).await?;
        stage.driver.call("delete", json!({ "session": "none" })).await.map(drop)
    });
}

/// Lines of 20 KB: more than the connection's buffers, and what is kept for a slow reader.
const LINES: usize = 800;

pub fn gaps(lang: Lang) {
    stage(lang, async |stage| {
        stage.connect().await?;
        stage.proxy.set(Weather::BlackHole);
        let api = stage.node.api();
        let padding = "x".repeat(20_000);
        let mut sending = tokio::task::JoinSet::new();
        for number in 0..LINES {
            let line = json!({ "kind": "say", "text": number.to_string(), "padding": padding });
            let api = api.clone();
            while sending.len() >= 32 {
                sending.join_next().await.context("none")???;
            }
            sending.spawn(async move {
                api.send(CHAT, ROOM, Message::json(&line).from("zoe")).await.map(drop)
            });
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        stage.proxy.set(Weather::Clear);
        for transport in TRANSPORTS {
            stage.sees_all(transport).await?;
        }
        let gaps = stage.node.admin().metric("slotd_subscriber_gaps_total", "").await?;
        ensure!(gaps >= 1.0, "nobody was too slow");
        Ok(())
    });
}
