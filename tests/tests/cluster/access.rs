//! Tokens of a cluster: what one node is told holds on all of them.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Message, session_path},
    cluster::{Cluster, ClusterOptions},
    http::Client,
    node::{eventually, scenario},
    plugins,
    socket::{Received, Socket},
};
use std::time::Duration;

/// For a close that must come.
const SOON: Duration = Duration::from_secs(60);

/// Whoever a token was taken from could go on at another node, or would be refused there from the start. What one node
/// mints is good at another, too.
#[test]
fn a_token_and_its_end_hold_on_every_node() {
    scenario(async {
        let env = vec![("SLOTD_NATS_REPLICAS".into(), "1".into())];
        let options =
            ClusterOptions { nodes: 2, servers: 1, slots: 16, env, ..ClusterOptions::default() };
        let cluster = Cluster::start(options, None).await?;
        let (one, two) = (cluster.member(1)?, cluster.member(2)?);
        one.admin().deploy("counter", plugins::load("counter")?).await?;
        eventually("the service at both nodes", async || {
            Ok(two.api().send("counter", "room", Message::bytes("{}")).await.ok())
        })
        .await?;
        let body = json!({"name": "backend", "allow": ["*"], "on": ["counter"]}).to_string();
        let made: Value =
            one.admin().client.post("/admin/v1/tokens", body).await?.success()?.json()?;
        let token = made["token"].as_str().context("no token")?;
        let room = session_path("counter", "room");
        // At once where it was created, and soon at the other: which closes its API, too.
        let client = |api: std::net::SocketAddr| Client::new(api).with_token(token);
        let (at_one, at_two) = (client(one.addresses().api), client(two.addresses().api));
        ensure!(at_one.get(&room).await?.status == 200);
        ensure!(one.api().client.get(&room).await?.status == 401);
        eventually("the token at the other node", async || {
            let nobody = two.api().client.get(&room).await?.status;
            ensure!([200, 401].contains(&nobody), "{nobody}");
            Ok((nobody == 401).then_some(()))
        })
        .await?;
        ensure!(at_two.get(&room).await?.status == 200);
        let body = json!({"verbs": ["read"], "subject": "ann"}).to_string();
        let minted: Value = at_one.post(&format!("{room}/token"), body).await?.success()?.json()?;
        let minted = minted["token"].as_str().context("no token")?;
        let ann = Client::new(two.addresses().api).with_token(minted);
        ensure!(ann.get(&room).await?.status == 200);

        let path = format!("{room}/socket?access_token={token}");
        let mut open = Socket::open(&two.api().client, &path).await?;
        one.admin()
            .client
            .request(hyper::Method::DELETE, "/admin/v1/tokens/backend", &[], "")
            .await?
            .success()?;
        let closed = async {
            loop {
                if let Received::Closed(code, _) = open.next().await? {
                    return anyhow::Ok(code);
                }
            }
        };
        ensure!(tokio::time::timeout(SOON, closed).await.context("not closed")?? == 4403);
        // The end of the last token opens the API to nobody; a node that starts now hears of it, too.
        ensure!(two.api().client.get(&room).await?.status == 401);
        ensure!(ann.get(&format!("{room}/messages")).await?.status == 401);
        let three = cluster.join(3).await?;
        ensure!(three.api().client.get(&room).await?.status == 401);
        ensure!(client(three.addresses().api).get(&room).await?.status == 401);
        Ok(())
    });
}
