//! Sessions that expire on a node. Scripts have what can be said without a clock.

use crate::{
    play::describe,
    suite::{SINK, Suite},
};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message},
    node::eventually,
};

async fn tell(api: &Api, session: &str, message: Value) -> anyhow::Result<Value> {
    api.send(SINK, session, Message::json(&message)).await?.json()
}

/// The time and the number of a message that changes nothing.
async fn look(api: &Api, session: &str) -> anyhow::Result<(u64, u64)> {
    let clock = tell(api, session, json!({"op": "clock"})).await?;
    let time_ms = clock["time_ms"].as_u64().with_context(|| format!("{clock}"))?;
    let seq = describe(api, SINK, session).await?.map_or(0, |session| session.seq);
    Ok((time_ms, seq))
}

async fn is_gone(api: &Api, session: &str) -> anyhow::Result<()> {
    eventually("the session expires", async || {
        Ok(describe(api, SINK, session).await?.is_none().then_some(()))
    })
    .await
}

/// Without it, a session that is to go would stay for ever, or its state or its timers would be the next one's.
pub async fn gone(suite: &Suite) -> anyhow::Result<()> {
    let (api, session) = (&suite.node.api(), "expire-gone");
    let hour = 60 * 60 * 1_000;
    for (delay, when) in [(50, "after"), (0, "at")] {
        tell(api, session, json!({"op": "set", "key": "k", "value": 1})).await?;
        let timer = json!({"op": "timer", "name": "t", "after": hour, "body": 1});
        tell(api, session, timer).await?;
        let mut message = json!({"op": "expire"});
        message[when] = delay.into();
        let reply = tell(api, session, message).await?;
        ensure!(reply == json!({}), "{reply}");
        is_gone(api, session).await?;
        let value = tell(api, session, json!({"op": "get", "key": "k"})).await?;
        ensure!(value == json!({"value": null}), "{value}");
        let timers = tell(api, session, json!({"op": "timers"})).await?;
        ensure!(timers == json!([]), "{timers}");
        let (_, seq) = look(api, session).await?;
        ensure!(seq == 3, "it goes on with {seq}");
        tell(api, session, json!({"op": "expire", "at": 0})).await?;
        is_gone(api, session).await?;
    }
    Ok(())
}

/// Without it, a session would be lost that its handler has kept.
pub async fn kept(suite: &Suite) -> anyhow::Result<()> {
    let (api, session, later) = (&suite.node.api(), "expire-kept", "expire-later");
    let mut delay = 250;
    let (at_ms, seq) = loop {
        let (time_ms, seq) = look(api, session).await?;
        let at_ms = time_ms + delay;
        tell(api, session, json!({"op": "expire", "at": at_ms})).await?;
        let reply = tell(api, session, json!({"op": "keep"})).await?;
        ensure!(reply == json!({}), "{reply}");
        let (_, now) = look(api, session).await?;
        if now == seq + 3 {
            break (at_ms, now);
        }
        // It expired before it could be kept.
        delay *= 2;
    };
    // One of the same slot that expires later expires first.
    tell(api, later, json!({"op": "expire", "at": at_ms + 1})).await?;
    is_gone(api, later).await?;
    let (_, now) = look(api, session).await?;
    ensure!(now == seq + 1, "it was at {seq} and is at {now}");
    Ok(())
}
