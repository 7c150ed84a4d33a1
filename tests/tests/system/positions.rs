//! A place in a session that was deleted is none in the one that has its name now.

use crate::common::{deed, expect_problem, ids, next_event, node_with, resettable_node_with};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, session_path},
    node::{Node, scenario},
    socket::{Received, Socket},
    sse::Sse,
};

const SERVICE: &str = "hostile";

async fn emit(api: &Api, session: &str, times: usize) -> anyhow::Result<u16> {
    let mut slot = 0;
    for _ in 0..times {
        let one = json!({"do": "emit", "kind": "k", "body": 1});
        slot = api.send(SERVICE, session, deed(&one)).await?.slot;
    }
    Ok(slot)
}

/// Positions of a session of three messages, in every form that slotd gives, and that clients made
/// of numbers before it did. The session is then deleted and made again, with five messages.
async fn reborn(api: &Api, session: &str) -> anyhow::Result<(Vec<String>, u16)> {
    emit(api, session, 3).await?;
    let mut stream = api.events(SERVICE, session, Some(0), None).await?;
    let mut event = next_event(&mut stream).await?;
    for _ in 0..2 {
        event = next_event(&mut stream).await?;
    }
    let id = event.id.context("an event without an id")?;
    ensure!(id.starts_with("3.0-"), "{id}");
    let page = page(api, session, "0").await?;
    let position = page["position"].as_str().context("a page without a position")?.to_owned();
    let mut socket = api.socket(SERVICE, session, Some(2)).await?;
    let frame = socket.frame().await?;
    ensure!(frame["position"] == id.as_str(), "{frame}, {id}");
    api.delete(SERVICE, session).await?.success()?;
    // With both, and at once: there need not be a flush in between, or there may.
    let slot = emit(api, session, 5).await?;
    Ok((vec![id, position, "3.0".into(), "3".into()], slot))
}

async fn page(api: &Api, session: &str, after: &str) -> anyhow::Result<Value> {
    let path = format!("{}/messages?after={after}", session_path(SERVICE, session));
    api.client.get(&path).await?.success()?.json()
}

/// Nothing of the new session is given after `place`, and its reader is told why.
async fn is_gone(api: &Api, session: &str, place: &str) -> anyhow::Result<()> {
    let path = session_path(SERVICE, session);
    let mut stream = api.events(SERVICE, session, None, Some(place)).await?;
    ends_deleted(&mut stream).await.with_context(|| format!("Last-Event-ID {place}"))?;
    let query = format!("{path}/events?after={place}");
    ends_deleted(&mut Sse::open(&api.client, &query, None).await?).await?;
    let mut socket = Socket::open(&api.client, &format!("{path}/socket?after={place}")).await?;
    let frame = socket.frame().await?;
    ensure!(frame["type"] == "deleted", "{frame}");
    ensure!(matches!(socket.next().await?, Received::Closed(1000, _)), "not closed");
    let answer = api.client.get(&format!("{path}/messages?after={place}")).await?;
    expect_problem(&answer, 410, "position-gone")?;
    Ok(())
}

async fn ends_deleted(stream: &mut Sse) -> anyhow::Result<()> {
    let event = next_event(stream).await?;
    ensure!(event.event.as_deref() == Some("slotd.deleted"), "{event:?}");
    ensure!(event.id.as_deref() == Some("0"), "{event:?}");
    ensure!(stream.next().await?.is_none(), "it goes on after the deletion");
    Ok(())
}

/// The new session is whole for those who begin with it, also by themselves, as browsers do.
async fn is_whole(api: &Api, session: &str) -> anyhow::Result<()> {
    let mut stream = api.events(SERVICE, session, None, Some("0")).await?;
    ensure!(ids(&mut stream, 5).await? == ["1.0", "2.0", "3.0", "4.0", "5.0"]);
    let first = page(api, session, "0").await?;
    ensure!(first["entries"].as_array().is_some_and(|all| all.len() == 5), "{first}");
    let end = first["position"].as_str().context("no position")?;
    let rest = page(api, session, end).await?;
    ensure!(rest["entries"] == json!([]) && rest["position"] == end, "{rest}");
    Ok(())
}

/// Without it, a reader that was away while its session was deleted and made again would be given
/// what follows its place in the new one, and never know of what came before.
#[test]
fn a_position_does_not_outlive_its_session() {
    scenario(async {
        let mut node: Node = resettable_node_with(SERVICE, "hostile-v1").await?;
        let api = node.api();
        let (places, slot) = reborn(&api, "a").await?;
        for place in &places {
            is_gone(&api, "a", place).await?;
        }
        is_whole(&api, "a").await?;
        // A slot that ends has its caches no more.
        node.admin().client.post(&format!("/admin/v1/slots/{slot}/drain"), "").await?.success()?;
        for place in &places {
            is_gone(&api, "a", place).await?;
        }
        // Nor has one whose node was killed.
        node.kill()?;
        node.restart().await?;
        let api = node.api();
        for place in &places {
            is_gone(&api, "a", place).await?;
        }
        is_whole(&api, "a").await?;
        // One that is gone altogether, and whose place says so.
        api.delete(SERVICE, "a").await?.success()?;
        let mut stream = api.events(SERVICE, "a", None, places.first().map(String::as_str)).await?;
        ends_deleted(&mut stream).await?;
        // Numbers are as good as ever where no session was deleted.
        emit(&api, "b", 3).await?;
        let mut stream = api.events(SERVICE, "b", None, Some("1.0")).await?;
        ensure!(ids(&mut stream, 2).await? == ["2.0", "3.0"]);
        ensure!(page(&api, "b", "2").await?["entries"][0]["seq"] == 3);
        Ok(())
    });
}

/// Without it, `tail --follow` would skip the new session's first events, or follow it as if it were
/// the old one.
#[test]
fn tail_says_that_its_session_was_deleted() {
    scenario(async {
        let node = node_with(SERVICE, "hostile-v1").await?;
        let (places, _) = reborn(&node.api(), "a").await?;
        for place in [&places[0], &places[3]].map(String::as_str) {
            let tail = ["tail", SERVICE, "a", "--after", place, "--follow"];
            let done = node.run(&tail).await?;
            ensure!(done.status.success() && done.stdout.is_empty(), "{done:?}");
            ensure!(done.stderr.contains("the session was deleted"), "{done:?}");
            let refused = node.run(&["history", SERVICE, "a", "--after", place]).await?;
            ensure!(refused.stderr.contains("position-gone"), "{refused:?}");
        }
        let shown = node.run(&["tail", SERVICE, "a", "--after", "0"]).await?;
        ensure!(shown.stdout.lines().count() == 5, "{shown:?}");
        Ok(())
    });
}

/// Without it, an event of a handler's choice would end the streams of its session, or make its
/// readers come back for ever.
#[test]
fn reserved_kinds_are_refused() {
    scenario(async {
        let node = node_with(SERVICE, "hostile-v1").await?;
        let api = node.api();
        let mut stream = api.events(SERVICE, "a", Some(0), None).await?;
        for kind in ["slotd.deleted", "slotd.gap", "slotd.error", "slotd.anything", "error"] {
            let emit = json!({"do": "emit", "kind": kind, "body": 1});
            let answer = api.post(SERVICE, "a", deed(&emit)).await?;
            let problem = expect_problem(&answer, 500, "plugin-trapped")?;
            ensure!(problem.detail.contains("reserved"), "{}", problem.detail);
        }
        let emit = json!({"do": "emit", "kind": "message", "body": 1});
        api.send(SERVICE, "a", deed(&emit)).await?;
        let event = next_event(&mut stream).await?;
        ensure!(event.place() == Some("1.0"), "{event:?}");
        ensure!(event.event.as_deref() == Some("message"), "{event:?}");
        Ok(())
    });
}
