//! The operator's side: tokens, the document of the interface, tables, metrics.

use crate::common::{expect_problem, node_with};
use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    http::Client,
    node::{Node, NodeOptions, scenario},
    plugins,
};

/// Without it, the document that clients are generated from could describe another interface.
#[test]
fn the_openapi_document_describes_what_is_served() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let (api, admin) = (node.api().client, node.admin().client);
        let document: Value = api.get("/openapi.json").await?.success()?.json()?;
        let version = document["openapi"].as_str().unwrap_or_default();
        ensure!(version.starts_with("3.1"), "version {version:?}");
        let paths = document["paths"].as_object().context("no paths")?;
        for expected in [
            "/v1/services/{service}/sessions",
            "/v1/services/{service}/sessions/{session}",
            "/v1/services/{service}/sessions/{session}/messages",
            "/v1/services/{service}/sessions/{session}/query",
            "/v1/services/{service}/sessions/{session}/events",
            "/v1/services/{service}/sessions/{session}/socket",
            "/admin/v1/services",
            "/admin/v1/services/{service}/deploy",
            "/admin/v1/slots",
            "/metrics",
            "/healthz",
            "/readyz",
        ] {
            ensure!(paths.contains_key(expected), "{expected} is not in the document");
        }
        // Each path that it names is a route of one listener, with the methods that it names.
        for (path, methods) in paths {
            let concrete = path
                .replace("{service}", "counter")
                .replace("{session}", "none")
                .replace("{slot}", "600")
                .replace("{node}", "none")
                .replace("{id}", "7");
            for method in methods.as_object().into_iter().flat_map(|methods| methods.keys()) {
                let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
                let operator = ["/admin/", "/metrics", "/healthz", "/readyz"];
                let of_admin = operator.iter().any(|start| path.starts_with(start));
                let client = if of_admin { &admin } else { &api };
                if path.ends_with("/events") {
                    let _ = client.stream(&concrete, &[]).await?;
                    continue;
                }
                // It would be gone for the others.
                let removes = method == Method::DELETE && path.ends_with("/services/{service}");
                let concrete = if removes { "/admin/v1/services/none" } else { &concrete };
                let answer = client.request(method.clone(), concrete, &[], "").await?;
                if answer.status >= 400 {
                    let problem = answer.problem()?;
                    let unknown = ["route-not-found", "method-not-allowed"];
                    ensure!(!unknown.contains(&&*problem.code), "{method} {path}: {problem:?}");
                }
            }
        }
        Ok(())
    });
}

/// Without it, anyone who reaches a listener could use it, or read a token in a log.
#[test]
fn tokens_are_asked_for_and_kept_to_themselves() {
    scenario(async {
        let (api_token, admin_token) = ("api-3x4mpl3-t0k3n", "adm1n-3x4mpl3-t0k3n");
        let node = Node::start_with(NodeOptions {
            api_token: Some(api_token.into()),
            admin_token: Some(admin_token.into()),
            args: vec!["--log-filter".into(), "debug".into()],
            ..NodeOptions::default()
        })
        .await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        node.api().send("counter", "a", Message::bytes("x")).await?;
        let session = "/v1/services/counter/sessions/a";
        let (api, admin) = (node.api().client.address(), node.admin().client.address());
        for (address, path) in [(api, session), (admin, "/admin/v1/services"), (admin, "/metrics")]
        {
            let wrong = if address == api { admin_token } else { api_token };
            let refused = Client::new(address).get(path).await?;
            expect_problem(&refused, 401, "unauthorized")?;
            ensure!(refused.header("www-authenticate").is_some(), "{refused:?}");
            let refused = Client::new(address).with_token(wrong).get(path).await?;
            expect_problem(&refused, 401, "unauthorized")?;
        }
        // Browsers can't set headers on streams and sockets.
        let path = format!("{session}/events?access_token={api_token}");
        let _ = Client::new(api).stream(&path, &[]).await?;
        let path = format!("{session}?access_token={api_token}");
        expect_problem(&Client::new(api).get(&path).await?, 401, "unauthorized")?;
        // Whoever looks whether it lives needs no secret.
        for path in ["/healthz", "/readyz"] {
            ensure!(Client::new(admin).get(path).await?.status == 200, "{path}");
        }
        let log = node.log();
        for token in [api_token, admin_token] {
            ensure!(!log.contains(token), "a token is in the log");
        }
        Ok(())
    });
}

/// Without it, a web page that the user happens to visit could drive a node on loopback.
#[test]
fn pages_of_other_origins_are_refused_without_a_token() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let path = "/v1/services/counter/sessions/a/messages";
        let headers = [("origin", "https://example.com")];
        let api = node.api().client;
        let answer = api.request(Method::POST, path, &headers, "x").await?;
        expect_problem(&answer, 403, "origin-refused")?;
        Ok(())
    });
}

/// Without it, a node that stands alone could not be asked what one of a cluster can, or would end
/// itself with nobody there to take its slots.
#[test]
fn a_node_that_stands_alone_is_a_cluster_of_one() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let admin = node.admin().client;
        let nodes: Value = admin.get("/admin/v1/nodes").await?.success()?.json()?;
        let own = &nodes["own"];
        ensure!(nodes["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1), "{nodes}");
        ensure!(nodes["nodes"][0]["members"] == json!([own]), "{nodes}");
        ensure!(nodes["nodes"][0]["owned"] == 512, "{nodes}");
        ensure!(nodes["silent"] == json!([]), "{nodes}");
        let moves: Value = admin.get("/admin/v1/moves").await?.success()?.json()?;
        ensure!(moves["moves"] == json!([]) && moves["counts"]["done"] == 0, "{moves}");

        let own = own.as_str().context("no name")?;
        let drained = admin.post(&format!("/admin/v1/nodes/{own}/drain"), "").await?;
        expect_problem(&drained, 409, "no-other-node")?;
        let drained = admin.post("/admin/v1/slots/7/drain", "").await?;
        expect_problem(&drained, 409, "no-other-node")?;
        let drained = admin.post("/admin/v1/nodes/nobody/drain", "").await?;
        expect_problem(&drained, 404, "node-not-found")?;
        let delete = async |path: &str| admin.request(Method::DELETE, path, &[], "").await;
        expect_problem(&delete("/admin/v1/moves/nobody/1").await?, 404, "node-not-found")?;
        let none = delete(&format!("/admin/v1/moves/{own}/1")).await?;
        expect_problem(&none, 404, "move-not-found")?;
        let forgotten = delete(&format!("/admin/v1/nodes/{own}")).await?;
        expect_problem(&forgotten, 409, "node-alive")?;
        expect_problem(&delete("/admin/v1/nodes/nobody").await?, 404, "node-not-found")?;
        node.api().send("counter", "a", Message::bytes("x")).await?;
        Ok(())
    });
}

/// Without it, an operator could not see where sessions live and what a node does.
#[test]
fn slots_ring_and_metrics_say_what_is() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let (api, admin) = (node.api(), node.admin());
        let label = admin.service("counter").await?.current.label;
        let mut slot = 0;
        for _ in 0..10 {
            slot = api.send("counter", "a", Message::bytes("x")).await?.slot;
        }
        let slots = admin.slots().await?;
        ensure!(slots.len() == 512, "{} slots", slots.len());
        let mine = &slots[usize::from(slot)];
        ensure!(mine.slot == slot && mine.state == "running" && mine.sessions == 1, "{mine:?}");
        ensure!(mine.term >= 1 && mine.position >= 1, "{mine:?}");
        ensure!(mine.plugins.get("counter") == Some(&label), "{mine:?}");

        let ring: Value = admin.client.get("/admin/v1/ring").await?.success()?.json()?;
        ensure!(ring["slot_count"] == 512 && ring["virtual_nodes"] == 128, "{ring}");
        ensure!(ring["nodes"][0]["slots"] == 512, "{ring}");
        let moved: Value = admin.client.post("/admin/v1/rebalance", "").await?.success()?.json()?;
        ensure!(moved["moves"] == 0, "one node has everything: {moved}");

        ensure!(admin.metric("slotd_messages_total", "").await? == 10.0);
        ensure!(admin.metric("slotd_guest_call_seconds_count", "call=\"handle\"").await? == 10.0);
        ensure!(admin.metric("slotd_fsyncs_total", "").await? >= 1.0);
        ensure!(admin.metric("slotd_swap_pause_seconds_count", "").await? >= 512.0);
        ensure!(admin.metric("slotd_ready", "").await? == 1.0);
        let health: Value = admin.client.get("/healthz").await?.success()?.json()?;
        ensure!(health == json!({"status": "ok"}), "{health}");
        Ok(())
    });
}
