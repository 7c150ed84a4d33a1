//! What a restart must not change.

use crate::common::{node_with, resettable_node_with, say};
use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use slotd_tests::{
    api::{Deployed, Message},
    node::{Node, eventually, scenario},
    plugins,
};
use std::collections::BTreeMap;

/// Without it, something that was answered could be gone, or different, after a stop or a crash.
#[test]
fn everything_is_there_after_a_restart() {
    scenario(async {
        let mut node = node_with("chat", "chat-v1").await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        node.admin().deploy("chat", plugins::load("chat-v2")?).await?;
        let api = node.api();
        for number in 0..30 {
            let room = format!("room-{}", number % 3);
            let line = say("ann", &format!("line {number}")).key(format!("k{number}"));
            api.send("chat", &room, line).await?;
            api.send("counter", &format!("c-{number}"), Message::bytes("x")).await?;
        }
        let before = picture(&node).await?;
        for stop in ["orderly", "crash", "crash"] {
            match stop {
                "orderly" => ensure!(node.terminate().await?.success()),
                _ => node.kill()?,
            }
            node.restart().await?;
            let after = picture(&node).await?;
            ensure!(after == before, "{stop}: {after:#?} instead of {before:#?}");
            let line = say("ann", "line 4").key("k4");
            let again = node.api().send("chat", "room-1", line).await?;
            ensure!(again.replayed && again.seq == 2, "{stop}: {again:?}");
        }
        let next = node.api().send("chat", "room-0", say("bob", "back")).await?;
        ensure!(next.seq == 11 && next.json()?["n"] == 11, "{next:?}");
        Ok(())
    });
}

/// All that clients can see.
async fn picture(node: &Node) -> anyhow::Result<BTreeMap<String, String>> {
    let (api, admin) = (node.api(), node.admin());
    let mut all = BTreeMap::new();
    for room in ["room-0", "room-1", "room-2"] {
        let history = api.whole_history("chat", room).await?;
        all.insert(format!("{room} history"), format!("{history:?}"));
        for query in ["who", "top", "topic", "stats", "search"] {
            let answer = api.query("chat", room, &json!({"query": query})).await?;
            all.insert(format!("{room} {query}"), answer.to_string());
        }
        all.insert(room.into(), format!("{:?}", api.session("chat", room).await?));
    }
    for service in ["chat", "counter"] {
        let listed = api.client.get(&format!("/v1/services/{service}/sessions?limit=1000")).await?;
        all.insert(format!("{service} sessions"), listed.success()?.text());
        let info = admin.service(service).await?;
        let versions = (info.generation, info.current.label, info.previous.map(|d| d.label));
        all.insert(service.into(), format!("{versions:?}"));
    }
    Ok(all)
}

/// Without it, a second deploy of the same file would pause every slot for nothing, and a
/// rollback could go to itself.
#[test]
fn the_same_digest_twice_is_nothing_and_a_rollback_goes_back() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let (admin, v2) = (node.admin(), plugins::load("chat-v2")?);
        let first = admin.service("chat").await?.current;
        let second = admin.deploy("chat", v2.clone()).await?;
        ensure!(second.changed && second.current.digest != first.digest, "{second:?}");
        let generation = admin.service("chat").await?.generation;
        let again: Deployed = admin.deploy("chat", v2).await?;
        ensure!(!again.changed && again.current.label == second.current.label, "{again:?}");
        ensure!(admin.service("chat").await?.generation == generation);

        let back = admin.rollback("chat").await?;
        ensure!(back.changed && back.current.label == first.label, "{back:?}");
        let reply = node.api().send("chat", "a", say("ann", "hello")).await?;
        ensure!(reply.plugin == first.label, "{reply:?}");
        ensure!(admin.service("chat").await?.generation > generation);
        Ok(())
    });
}

/// Without it, a slot could come back with another version than its log says, or a swap that a
/// crash cut short would never end.
#[test]
fn a_swap_that_a_crash_cuts_short_is_completed() {
    scenario(async {
        let mut node = node_with("chat", "chat-v1").await?;
        let (v1, v2) = (plugins::load("chat-v1")?, plugins::load("chat-v2")?);
        let rooms: Vec<String> = (0..40).map(|n| format!("room-{n}")).collect();
        for round in 0..6 {
            let api = node.api();
            try_join_all(rooms.iter().map(|room| api.send("chat", room, say("ann", "hi")))).await?;
            let before = node.admin().service("chat").await?;
            // The upload is on its way; its answer may never come.
            let next = plugins::variant(if round % 2 == 0 { &v2 } else { &v1 }, &round.to_string());
            let admin = node.admin();
            let deploying = tokio::spawn(async move { admin.upload("chat", next).await });
            if round > 0 {
                let admin = node.admin();
                eventually("the swap's begin", async || {
                    let now = admin.service("chat").await?;
                    Ok((now.generation > before.generation).then_some(()))
                })
                .await?;
            }
            node.kill()?;
            // An answer, an error: both are possible, and neither is needed.
            let _ = deploying.await?;
            node.restart().await?;
            let service = node.admin().service("chat").await?;
            let label = service.current.label;
            eventually("every slot runs what is current", async || {
                let slots = node.admin().slots().await?;
                Ok(slots.iter().all(|s| s.plugins.get("chat") == Some(&label)).then_some(()))
            })
            .await
            .with_context(|| format!("round {round}, {label}"))?;
            let api = node.api();
            for room in &rooms {
                let reply = api.send("chat", room, say("ann", "ho")).await?;
                ensure!(reply.plugin == label, "{room}: {reply:?} instead of {label}");
                let who = api.query("chat", room, &json!({"query": "stats"})).await?;
                ensure!(who["lines"] == reply.seq, "{room}: {who} at {}", reply.seq);
            }
        }
        Ok(())
    });
}

/// Without it, a drain could lose messages that came while it went on, or leave the slot without
/// an owner.
#[test]
fn a_drained_slot_goes_on_under_a_new_term() {
    scenario(async {
        let node = resettable_node_with("counter", "counter").await?;
        let (api, admin) = (node.api(), node.admin());
        let first = api.send("counter", "a", Message::bytes("x")).await?;
        let term = async || {
            let slots = admin.slots().await?;
            anyhow::Ok(slots[usize::from(first.slot)].term)
        };
        let sending = async {
            for seq in 2..=300 {
                let reply = api.send("counter", "a", Message::bytes("x")).await?;
                ensure!(reply.seq == seq && reply.json()? == seq, "{reply:?}");
            }
            anyhow::Ok(())
        };
        let draining = async {
            for _ in 0..5 {
                let before = term().await?;
                let path = format!("/admin/v1/slots/{}/drain", first.slot);
                admin.client.post(&path, "").await?.success()?;
                eventually("a new term", async || Ok((term().await? > before).then_some(())))
                    .await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(sending, draining)?;
        Ok(())
    });
}
