//! The audit log of a cluster: one for all nodes, and no change without it.

use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::Value;
use slotd_tests::{
    cluster::{Cluster, ClusterOptions, nats::Requests},
    http::Client,
    node::{eventually, scenario},
    plugins,
};

const AUDIT: &str = "/admin/v1/audit";

async fn audit(client: &Client) -> anyhow::Result<Vec<(String, String, String)>> {
    let page: Value = client.get(&format!("{AUDIT}?limit=1000")).await?.success()?.json()?;
    let changes = page["changes"].as_array().context("no changes")?;
    let text = |change: &Value, name: &str| change[name].as_str().unwrap_or("?").to_owned();
    let shown = |c: &Value| (text(c, "node"), text(c, "action"), text(c, "outcome"));
    Ok(changes.iter().map(shown).filter(|(_, action, _)| action.contains('/')).collect())
}

/// Whoever looks into it asks the node that answers, not the one that was asked for the change, which may be gone.
#[test]
fn any_node_lists_the_changes_of_all() {
    scenario(async {
        let env = vec![("SLOTD_NATS_REPLICAS".into(), "1".into())];
        let options = ClusterOptions { nodes: 3, servers: 1, slots: 16, env, ..Default::default() };
        let cluster = Cluster::start(options, None).await?;
        let members = cluster.members();
        members[0].admin().deploy("counter", plugins::load("counter")?).await?;
        members[1].admin().client.post("/admin/v1/rebalance", "").await?.success()?;
        let node = |at: usize| members[at].name.clone();
        let expected = [
            (node(0), "POST /admin/v1/services/{service}/deploy".to_owned(), "done".to_owned()),
            (node(1), "POST /admin/v1/rebalance".to_owned(), "done".to_owned()),
        ];
        for member in &members {
            let listed = audit(&member.admin().client).await?;
            ensure!(listed == expected, "{listed:?}");
        }
        // Who has access to NATS takes no line out.
        let url = cluster.engine.urls().remove(0);
        let mut requests = Requests::connect(url.trim_start_matches("nats://").parse()?).await?;
        let names = requests.request("$JS.API.STREAM.NAMES", "").await?;
        let names = names["streams"].as_array().context("no stream")?;
        let of_audit = |name: &&str| name.ends_with("-audit");
        let name = names.iter().filter_map(Value::as_str).find(of_audit).context("no audit log")?;
        for request in ["PURGE", "MSG.DELETE"] {
            let body = if request == "PURGE" { "" } else { "{\"seq\": 1}" };
            let refused =
                requests.request(&format!("$JS.API.STREAM.{request}.{name}"), body).await?;
            ensure!(refused["error"].is_object(), "{request}: {refused}");
        }
        // It is gone as a whole: nothing is changed any more, until it is there again.
        requests.request(&format!("$JS.API.STREAM.DELETE.{name}"), "").await?;
        let client = members[2].admin().client;
        let path = "/admin/v1/services/counter";
        let refused = client.request(Method::DELETE, path, &[], "").await?;
        ensure!(refused.problem()?.code == "storage-unavailable", "{refused:?}");
        ensure!(client.get(path).await?.status == 200, "it was removed all the same");
        members[2].node.lock().await.kill()?;
        cluster.restart(&members[2]).await?;
        eventually("changes again", async || {
            let answer = members[2].admin().client.post("/admin/v1/rebalance", "").await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await
    });
}
