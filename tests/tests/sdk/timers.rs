//! Timers on a node: what is due is a message of its session, once, however often its handler fails. Scripts
//! have what can be said without a clock.

use crate::{
    suite::{SINK, Suite},
    watched::Watched,
};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotd_tests::node::eventually;

impl Watched {
    /// Sets a timer; gives when it is due.
    async fn set(&self, name: &str, when: (&str, u64), body: &Value) -> anyhow::Result<u64> {
        let mut message = json!({"op": "timer", "name": name, "body": body});
        message[when.0] = when.1.into();
        let reply = self.tell(&message).await?;
        reply["due"].as_u64().with_context(|| format!("{message}: {reply}"))
    }

    /// The next event, which is that of a timer.
    async fn fired(&mut self) -> anyhow::Result<(u64, Value)> {
        self.next("fired").await
    }

    async fn timers(&self) -> anyhow::Result<Value> {
        self.api.query(SINK, self.session, &json!({"op": "timers"})).await
    }
}

/// Without it, a reminder could come early, twice, after it was cancelled or not at all.
pub async fn once(suite: &Suite) -> anyhow::Result<()> {
    let mut session = Watched::new(suite, "timers-once").await?;
    let body = json!({"text": "größe 😀", "n": [1, null]});
    let due = session.set("soon", ("after", 50), &body).await?;
    let (seq, fired) = session.fired().await?;
    let expected = |name: &str, due: u64, body: &Value| json!({"name": name, "due": due, "missed": 0, "attempt": 1, "body": body});
    ensure!(fired == expected("soon", due, &body), "{fired}");
    ensure!(seq == 2, "it is message {seq}");
    let page = session.api.history(SINK, session.session, 0, 10).await?;
    let [set, sent] = &page.entries[..] else { bail!("{:?}", page.entries) };
    ensure!(due == set.time_ms + 50, "due at {due}: {set:?}");
    ensure!(sent.time_ms >= due && sent.sender.is_none() && sent.id.is_none(), "{sent:?}");
    ensure!(sent.body == Some(body), "{sent:?}");
    ensure!(session.timers().await? == json!([]), "it is still there");

    // What has passed is due now: at the time of the message that sets it.
    let due = session.set("past", ("at", 5), &json!(1)).await?;
    let (_, fired) = session.fired().await?;
    ensure!(fired == expected("past", due, &json!(1)), "{fired}");
    let page = session.api.history(SINK, session.session, seq, 1).await?;
    ensure!(page.entries[0].time_ms == due, "due at {due}: {:?}", page.entries);

    // Replaced, it comes once. A machine that stood still between the two messages has sent the old one.
    session.set("replaced", ("after", 100), &json!("old")).await?;
    let due = session.set("replaced", ("after", 50), &json!("new")).await?;
    let (_, mut fired) = session.fired().await?;
    if fired["body"] == "old" {
        fired = session.fired().await?.1;
    }
    ensure!(fired == expected("replaced", due, &json!("new")), "{fired}");

    // Cancelled, it never comes: one that is due later comes first.
    let mut delay = 250;
    let due = loop {
        let due = session.set("cancelled", ("after", delay), &json!("never")).await?;
        let was = session.tell(&json!({"op": "cancel-timer", "name": "cancelled"})).await?;
        if was == json!({"was": true}) {
            break due;
        }
        // It was due before it could be cancelled.
        session.fired().await?;
        delay *= 2;
    };
    let last = session.set("last", ("at", due + 1), &json!(2)).await?;
    let (_, fired) = session.fired().await?;
    ensure!(fired == expected("last", last, &json!(2)), "{fired}");
    Ok(())
}

/// Without it, a handler that fails once would lose its message, or one that fails for a while would get one for
/// each time of a period that it has missed.
pub async fn failing(suite: &Suite) -> anyhow::Result<()> {
    let mut session = Watched::new(suite, "timers-failing").await?;
    let first = session.set("tick", ("every", 100), &json!({"fails": 1})).await?;
    let (_, fired) = session.fired().await?;
    ensure!(fired["name"] == "tick" && fired["due"] == first && fired["attempt"] == 2, "{fired}");
    // It was tried again a second later, so that about ten times have passed.
    let missed = fired["missed"].as_u64().context("no number")?;
    ensure!(missed >= 9, "{fired}");
    let (_, next) = session.fired().await?;
    ensure!(next["due"] == first + 100 * (missed + 1) && next["attempt"] == 2, "{next}");
    let was = session.tell(&json!({"op": "cancel-timer", "name": "tick"})).await?;
    ensure!(was == json!({"was": true}), "{was}");
    ensure!(session.timers().await? == json!([]));

    // Other messages go on meanwhile, and see that it failed.
    let due = session.set("again", ("after", 0), &json!({"fails": 2})).await?;
    let listed = eventually("the timer fails", async || {
        let timers = session.timers().await?;
        Ok((timers[0]["failures"] != 0).then_some(timers))
    })
    .await?;
    // It is there for three seconds, unless the machine stood still.
    if let Some(timer) = listed.get(0) {
        let failures = timer["failures"].as_u64();
        let expected = json!({"name": "again", "due": due, "failures": failures});
        ensure!(*timer == expected && failures <= Some(2), "{listed}");
        session.tell(&json!({"op": "timers"})).await?;
    }
    let fired = loop {
        let (_, fired) = session.fired().await?;
        if fired["name"] == "again" {
            break fired;
        }
    };
    ensure!(fired["due"] == due && fired["attempt"] == 3 && fired["missed"] == 0, "{fired}");
    ensure!(session.timers().await? == json!([]));
    Ok(())
}
