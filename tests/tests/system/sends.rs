//! Messages between sessions of one node, over processes that are killed.

use anyhow::ensure;
use serde_json::json;
use slotd_tests::{
    api::Message,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
    replayed::comes_out_again,
    sends::{self, Sent},
};

const SERVICE: &str = "kitchen-sink";

async fn node(sends: Option<&str>) -> anyhow::Result<Node> {
    // In order whatever becomes of one: a new process may refuse some while it loads the version.
    let env = sends.into_iter().flat_map(|rules| {
        let names = ["SLOTD_EFFECTS_SEND", "SLOTD_EFFECTS_IN_ORDER"];
        names.map(|name| (name.to_owned(), rules.to_owned()))
    });
    let options = NodeOptions { env: env.collect(), ..NodeOptions::default() };
    let node = Node::start_with(options).await?;
    node.admin().deploy(SERVICE, plugins::load(SERVICE)?).await?;
    Ok(node)
}

/// What was acknowledged would be lost with the process, or sent again by the next one.
#[test]
fn messages_arrive_once_and_in_order_over_kills() {
    scenario(async {
        let mut node = node(Some("*>*")).await?;
        let mut sent = Vec::new();
        for number in 1..=120 {
            let (from, to) = (format!("s{}", number % 3), format!("s{}", number % 7));
            let one = Sent { from, to, number, reply: number % 2 == 0 };
            sends::send(&node.api(), SERVICE, &one).await?;
            sent.push(one);
            if number % 40 == 0 {
                node.kill()?;
                node.restart().await?;
            }
        }
        sends::all_arrived(&node.api(), SERVICE, &sent).await?;
        // Nobody asks for its slots after this, and yet what is on its way arrives.
        let last = Sent { from: "s0".into(), to: "alone".into(), number: 121, reply: false };
        sends::send(&node.api(), SERVICE, &last).await?;
        node.kill()?;
        node.restart().await?;
        eventually("it has arrived", async || {
            let arrived = node.admin().metric("slotd_outbox_messages", "").await?;
            Ok((arrived == 0.0).then_some(()))
        })
        .await?;
        sent.push(last);
        sends::all_arrived(&node.api(), SERVICE, &sent).await?;
        comes_out_again(&node, &[SERVICE]).await
    });
}

/// A service that nobody has allowed it would write to any session.
#[test]
fn nobody_sends_who_is_not_allowed_to() {
    scenario(async {
        for (rules, allowed) in
            [(None, false), (Some("cart>*"), false), (Some("*>kitchen-sink"), true)]
        {
            let node = node(rules).await?;
            let message = Message::json(&json!({"op": "send", "to": "kitchen-sink/b", "body": 1}));
            let answer = node.api().post(SERVICE, "a", message).await?;
            match allowed {
                true => ensure!(answer.status == 200, "{answer:?}"),
                false => {
                    ensure!(answer.status == 403, "{answer:?}");
                    ensure!(answer.text().contains("effects.send"), "{answer:?}");
                }
            }
        }
        Ok(())
    });
}
