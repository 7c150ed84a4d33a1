//! Messages between sessions on a node: each is handled once, in order, and what came of it comes back. Scripts have
//! what can be said of one session.

use crate::{
    suite::{SINK, Suite},
    watched::Watched,
};
use anyhow::ensure;
use serde_json::{Value, json};

impl Watched {
    fn address(&self) -> String {
        format!("{SINK}/{}", self.session)
    }

    /// Sends a message to a session; `more` has the body.
    async fn send(&self, to: &str, more: &Value) -> anyhow::Result<()> {
        let mut op = json!({"op": "send", "to": to});
        for (name, value) in more.as_object().into_iter().flatten() {
            op[name] = value.clone();
        }
        let reply = self.tell(&op).await?;
        ensure!(reply == json!({}), "{op}: {reply}");
        Ok(())
    }

    async fn received(&mut self, expected: &Value) -> anyhow::Result<u64> {
        let (seq, received) = self.next("received").await?;
        ensure!(received == *expected, "{received}");
        Ok(seq)
    }

    async fn answered(&mut self, expected: &Value) -> anyhow::Result<()> {
        let (_, answered) = self.next("answered").await?;
        ensure!(answered == *expected, "{answered}");
        Ok(())
    }
}

fn received(from: &str, attempt: u32, reply: bool, body: &Value) -> Value {
    json!({"from": from, "attempt": attempt, "reply": reply, "body": body})
}

fn answered(name: &str, from: &str, attempt: u32, body: &Value) -> Value {
    json!({"name": name, "from": from, "attempt": attempt, "refusal": null, "body": body})
}

/// Without it, a message could be lost, come twice or before an earlier one, or be taken for a client's.
pub async fn in_order(suite: &Suite) -> anyhow::Result<()> {
    let mut from = Watched::new(suite, "sends-from").await?;
    let mut to = Watched::new(suite, "sends-to/ö 😀").await?;
    let (sender, receiver) = (from.address(), to.address());
    for n in 0..20 {
        from.send(&receiver, &json!({"body": {"n": n, "ä": [1.5, null]}})).await?;
    }
    from.send(&receiver, &json!({"body": "many", "times": 30})).await?;
    for n in 0..20 {
        let body = json!({"n": n, "ä": [1.5, null]});
        let seq = to.received(&received(&sender, 1, false, &body)).await?;
        ensure!(seq == n + 1, "{n} is message {seq}");
    }
    for _ in 0..30 {
        to.received(&received(&sender, 1, false, &json!("many"))).await?;
    }
    let page = to.api.history(SINK, to.session, 0, 1).await?;
    let first = &page.entries[0];
    ensure!(first.sender.is_none() && first.id.is_none(), "{first:?}");
    ensure!(first.body == Some(json!({"n": 0, "ä": [1.5, null]})), "{first:?}");

    // What fails has sent nothing: the next one is the next that comes.
    let sends = json!({"op": "send", "to": receiver, "body": 1});
    let told = json!({"body": {"op": "reject", "code": "no", "message": "", "retriable": false}});
    from.send(&receiver, &json!({"body": sends})).await?;
    to.received(&received(&sender, 1, false, &sends)).await?;
    to.received(&received(&receiver, 1, false, &json!(1))).await?;
    from.send(&receiver, &told).await?;
    from.send(&receiver, &json!({"body": 2})).await?;
    to.received(&received(&sender, 1, false, &json!(2))).await?;

    // To itself, and on from there.
    let chain = json!({"op": "send", "to": sender, "body": "last"});
    from.send(&sender, &json!({"body": chain})).await?;
    from.received(&received(&sender, 1, false, &chain)).await?;
    from.received(&received(&sender, 1, false, &json!("last"))).await?;
    Ok(())
}

/// Without it, who asks would not hear the reply, or not that there is none, or would hear of another's.
pub async fn replies(suite: &Suite) -> anyhow::Result<()> {
    let mut asks = Watched::new(suite, "sends-asks").await?;
    let mut other = Watched::new(suite, "sends-other").await?;
    let (asker, asked) = (asks.address(), other.address());
    let body = json!({"text": "größe 😀", "n": [1, null]});
    asks.send(&asked, &json!({"body": body, "reply": "größe 😀"})).await?;
    let reply = received(&asker, 1, true, &body);
    other.received(&reply).await?;
    asks.answered(&answered("größe 😀", &asked, 1, &reply)).await?;

    // Bytes are echoed.
    asks.send(&asked, &json!({"hex": "00ff", "reply": "bytes"})).await?;
    asks.answered(&answered("bytes", &asked, 1, &json!("00ff"))).await?;

    // Rejected for good: that is what comes back, and the other has no trace of it.
    let no = json!({"op": "reject", "code": "sold-out", "message": "Nö.", "retriable": false, "set": "k"});
    asks.send(&asked, &json!({"body": no, "reply": "r"})).await?;
    let refusal = json!({"code": "sold-out", "message": "Nö.", "retriable": false});
    let told = json!({"name": "r", "from": asked, "attempt": 1, "refusal": refusal, "body": null});
    asks.answered(&told).await?;
    let value = asks.api.query(SINK, other.session, &json!({"op": "get", "key": "k"})).await?;
    ensure!(value == json!({"value": null}), "{value}");

    // Of itself.
    asks.send(&asker, &json!({"body": 3, "reply": "own"})).await?;
    let own = received(&asker, 1, true, &json!(3));
    asks.received(&own).await?;
    asks.answered(&answered("own", &asker, 1, &own)).await?;
    Ok(())
}

/// Without it, a handler that fails once would lose its message, or the reply to it.
pub async fn failing(suite: &Suite) -> anyhow::Result<()> {
    let mut asks = Watched::new(suite, "sends-asks-again").await?;
    let mut other = Watched::new(suite, "sends-fails").await?;
    let (asker, asked) = (asks.address(), other.address());
    let fails = json!({"fails": 1, "answer": {"fails": 1}});
    asks.send(&asked, &json!({"body": fails, "reply": "again"})).await?;
    asks.send(&asked, &json!({"body": "next"})).await?;
    // What was sent after it is not held up.
    other.received(&received(&asker, 1, false, &json!("next"))).await?;
    let reply = received(&asker, 2, true, &fails);
    other.received(&reply).await?;
    asks.answered(&answered("again", &asked, 2, &reply)).await?;
    Ok(())
}
