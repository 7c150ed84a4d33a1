//! Connection limits: unauthenticated clients that hold connections, and few file descriptors.

use crate::common::expect_problem;
use anyhow::{Context, ensure};
use slotd_tests::{
    api::{Message, session_path},
    http::Client,
    node::{Node, NodeOptions, eventually, scenario},
    plugins,
    sse::Sse,
};
use tokio::net::TcpStream;

/// Connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 256;

/// Without it, whoever reaches a listener keeps its operators, its probes and its clients out for as
/// long as it likes, with connections on which it sends nothing.
#[test]
fn silent_unauthenticated_connections_lock_no_listener() {
    scenario(async {
        let options = NodeOptions {
            args: vec!["--api-connections".into(), "40".into()],
            ..NodeOptions::default()
        };
        let node = Node::start_with(options).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let (api, admin) = (node.api().client.address(), node.admin().client.address());
        let mut silent = Vec::new();
        for (address, count) in [(admin, ADMIN_CONNECTIONS + 40), (api, 80)] {
            for _ in 0..count {
                silent.push(TcpStream::connect(address).await?);
            }
        }
        for round in 0..3 {
            for path in ["/healthz", "/readyz", "/metrics", "/admin/v1/services"] {
                Client::new(admin).get(path).await?.success().with_context(|| path.to_owned())?;
            }
            let posted = Client::new(api).post(&messages("a"), "x").await?;
            posted.success().with_context(|| format!("round {round}"))?;
        }
        let metrics = node.admin().client.get("/metrics").await?.success()?.text();
        for listener in ["api", "admin"] {
            let name = "slotd_http_connections_ended_total";
            let line = format!("{name}{{listener=\"{listener}\",why=\"silent\"}} ");
            let count = metrics.lines().find_map(|l| l.strip_prefix(&line)?.parse::<u64>().ok());
            ensure!(count.is_some_and(|count| count >= 40), "{line}{count:?}");
        }
        let log = node.log();
        ensure!(log.contains("connection limit reached"), "the log says nothing of it");
        Ok(())
    });
}

fn messages(session: &str) -> String {
    session_path("counter", session) + "/messages"
}

/// Without it, clients that hold connections open use up the file descriptors with which the store
/// writes, and nothing can be written or deployed any more.
#[test]
fn open_streams_leave_the_store_its_descriptors() {
    scenario(async {
        let options = NodeOptions { files_max: Some(160), ..NodeOptions::default() };
        let node = Node::start_with(options).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let api = node.api();
        api.send("counter", "a", Message::bytes("x")).await?;
        let path = session_path("counter", "a") + "/events";
        let mut streams = Vec::new();
        let refused = loop {
            let client = Client::new(api.client.address());
            match Sse::open(&client, &path, None).await {
                Ok(stream) => streams.push(stream),
                Err(error) => break error,
            }
            ensure!(streams.len() < 160, "there are more streams than descriptors");
        };
        ensure!(streams.len() > 10, "{} streams, then {refused:#}", streams.len());
        ensure!(
            node.log().contains("file descriptors assigned"),
            "the log does not say what is left"
        );
        // Told, and not left waiting.
        let late = Client::new(api.client.address()).post(&messages("a"), "x").await?;
        expect_problem(&late, 503, "limit-reached")?;
        // Who has a connection goes on; and what needs files does.
        for number in 2..40 {
            let sent = api.send("counter", "a", Message::bytes("x")).await?;
            ensure!(sent.seq == number, "{sent:?}");
        }
        node.admin().deploy("other", plugins::load("chat-v1")?).await?;
        Client::new(node.admin().client.address()).get("/healthz").await?.success()?;
        drop(streams);
        eventually("there is room again", async || {
            let posted = Client::new(api.client.address()).post(&messages("a"), "x").await?;
            Ok((posted.status == 200).then_some(()))
        })
        .await
    });
}
