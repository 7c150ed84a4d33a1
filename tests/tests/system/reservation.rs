//! The plugin `reservation`: a saga of three services, over processes that are killed.

use anyhow::ensure;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
};

const PLUGIN: &str = "reservation";
const TEA: u64 = 12;
const PRICE: u64 = 5;

async fn shop() -> anyhow::Result<Node> {
    let args = vec!["--effects-send".into(), "cart>stock, cart>payment".into()];
    let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
    for service in ["cart", "stock", "payment"] {
        node.admin().deploy(service, plugins::load(PLUGIN)?).await?;
    }
    Ok(node)
}

/// A message to a session `service/session`, until it is acknowledged.
async fn tell(node: &Node, to: &str, message: Value) -> anyhow::Result<()> {
    let (service, session) = to.split_once('/').unwrap_or_default();
    eventually(&format!("{to} takes {message}"), async || {
        let message = Message::json(&message).key(message.to_string());
        Ok(node.api().send(service, session, message).await.ok())
    })
    .await?;
    Ok(())
}

async fn add(node: &Node, cart: &str, count: u64, hold_ms: u64) -> anyhow::Result<()> {
    let message = json!({"do": "add", "item": "tea", "count": count, "hold_ms": hold_ms});
    tell(node, &format!("cart/{cart}"), message).await
}

async fn checkout(node: &Node, cart: &str, account: &str) -> anyhow::Result<()> {
    tell(node, &format!("cart/{cart}"), json!({"do": "checkout", "account": account})).await
}

/// The stock, which always has each piece in one place.
async fn stock(node: &Node) -> anyhow::Result<Value> {
    let level = node.api().query("stock", "tea", &json!({})).await?;
    let places = ["available", "reserved", "sold"].map(|place| level[place].as_u64().unwrap_or(0));
    ensure!(places.iter().sum::<u64>() == TEA, "{level}");
    Ok(level)
}

/// Waits until each cart is as `done` says.
async fn all(
    node: &Node,
    what: &str,
    carts: &[String],
    done: impl Fn(&Value) -> bool,
) -> anyhow::Result<()> {
    for cart in carts {
        eventually(&format!("{cart}: {what}"), async || {
            stock(node).await?;
            let view = node.api().query("cart", cart, &json!({})).await?;
            Ok(done(&view).then_some(()))
        })
        .await?;
    }
    Ok(())
}

fn carts(kind: &str, count: u64) -> Vec<String> {
    (1..=count).map(|n| format!("{kind}-{n}")).collect()
}

fn steps(view: &Value) -> impl Iterator<Item = &str> {
    view["lines"].as_array().into_iter().flatten().filter_map(|line| line["step"].as_str())
}

fn is_reserved(view: &Value) -> bool {
    view["status"] == "open" && steps(view).eq(["reserved"])
}

fn is_sold(view: &Value) -> bool {
    view["status"] == "paid" && steps(view).eq(["sold"])
}

fn is_given_back(view: &Value) -> bool {
    view["status"] == "released" && steps(view).next().is_none()
}

/// What users take it for: nothing is sold twice, nothing stays reserved, and who has paid gets what was paid for.
#[test]
fn a_stock_adds_up_over_kills_refused_payments_and_what_nobody_pays_for() {
    scenario(async {
        let mut node = shop().await?;
        tell(&node, "stock/tea", json!({"do": "restock", "count": TEA, "price": PRICE})).await?;
        tell(&node, "payment/rich", json!({"do": "deposit", "amount": 1_000})).await?;
        tell(&node, "payment/poor", json!({"do": "deposit", "amount": 1})).await?;
        let (idle, poor, rich) = (carts("idle", 6), carts("poor", 4), carts("rich", 6));
        let hour = 60 * 60 * 1_000;

        // What is on its way, and what is due, when the process dies.
        for cart in &idle {
            add(&node, cart, 1, 200).await?;
        }
        for cart in &poor {
            add(&node, cart, 1, hour).await?;
        }
        node.kill()?;
        node.restart().await?;
        all(&node, "its timer gives back", &idle, is_given_back).await?;
        all(&node, "it is reserved", &poor, is_reserved).await?;

        for cart in &rich {
            add(&node, cart, 1, hour).await?;
        }
        all(&node, "it is reserved", &rich, is_reserved).await?;
        // There are two left.
        add(&node, "greedy", 3, hour).await?;
        let nothing = |view: &Value| steps(view).next().is_none();
        all(&node, "it is sold out", &["greedy".into()], nothing).await?;

        for (rich, poor) in rich.iter().zip(poor.iter().map(Some).chain([None, None])) {
            checkout(&node, rich, "rich").await?;
            if let Some(poor) = poor {
                checkout(&node, poor, "poor").await?;
            }
        }
        node.kill()?;
        node.restart().await?;
        all(&node, "it is sold", &rich, is_sold).await?;
        all(&node, "its payment is refused", &poor, is_reserved).await?;

        // Two give up, and two find the money.
        for cart in &poor[..2] {
            tell(&node, &format!("cart/{cart}"), json!({"do": "cancel"})).await?;
        }
        for cart in &poor[2..] {
            checkout(&node, cart, "rich").await?;
        }
        node.kill()?;
        node.restart().await?;
        all(&node, "it is given back", &poor[..2], is_given_back).await?;
        all(&node, "it is sold", &poor[2..], is_sold).await?;

        let sold = rich.len() as u64 + 2;
        let level = json!({"available": TEA - sold, "reserved": 0, "sold": sold, "price": PRICE, "holds": []});
        ensure!(stock(&node).await? == level, "{}", stock(&node).await?);
        for (account, balance, charged) in
            [("rich", 1_000 - sold * PRICE, sold * PRICE), ("poor", 1, 0)]
        {
            let now = node.api().query("payment", account, &json!({})).await?;
            ensure!(now == json!({"balance": balance, "charged": charged}), "{account}: {now}");
        }
        eventually("nothing is on its way", async || {
            let left = node.admin().metric("slotd_outbox_messages", "").await?;
            Ok((left == 0.0).then_some(()))
        })
        .await
    });
}
