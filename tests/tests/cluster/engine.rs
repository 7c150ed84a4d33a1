//! The engine that others rest on.

use anyhow::ensure;
use slotd_tests::{
    cluster::{
        engine::Engine,
        nats::Requests,
        net::{Net, net_or_skip},
    },
    node::{eventually, scenario},
};

async fn leader(engine: &Engine, stream: &str) -> anyhow::Result<String> {
    eventually("a leader", async || {
        for url in engine.urls() {
            let address = url.trim_start_matches("nats://").parse()?;
            let Ok(mut requests) = Requests::connect(address).await else { continue };
            let subject = format!("$JS.API.STREAM.INFO.{stream}");
            let Ok(info) = requests.request(&subject, "").await else { continue };
            if let Some(leader) = info["cluster"]["leader"].as_str() {
                return Ok(Some(leader.to_owned()));
            }
        }
        Ok(None)
    })
    .await
}

async fn leaders_move_and_servers_die(net: Option<Net>) -> anyhow::Result<()> {
    let engine = Engine::start(3, net.as_ref()).await?;
    let address = engine.urls()[0].trim_start_matches("nats://").parse()?;
    let stream = r#"{"name":"test-a","subjects":["a"],"num_replicas":3,"storage":"file"}"#;
    let created = eventually("a stream", async || {
        let mut requests = Requests::connect(address).await?;
        let answer = requests.request("$JS.API.STREAM.CREATE.test-a", stream).await;
        Ok(answer.ok().filter(|answer| answer["error"].is_null()))
    });
    created.await?;
    let before = leader(&engine, "test-a").await?;
    let foreign =
        eventually("the names of streams", async || Ok(engine.move_leaders("other-").await.ok()));
    ensure!(foreign.await? == 0, "a foreign stream was moved");
    let moved = eventually("another leader", async || {
        // A server that is busy electing may not answer the first time.
        let stepped_down = engine.move_leaders("test-").await.is_ok_and(|moved| moved == 1);
        let now = leader(&engine, "test-a").await?;
        Ok((stepped_down && now != before).then_some(now))
    });
    let number: usize = moved.await?.trim_start_matches("server-").parse()?;
    engine.kill(number)?;
    let dead = format!("server-{number}");
    let survivor = eventually("a leader that lives", async || {
        Ok(Some(leader(&engine, "test-a").await?).filter(|leader| *leader != dead))
    });
    survivor.await?;
    engine.restart(number).await
}

/// Without it, a fault of the engine that a schedule names might not have happened.
#[test]
fn leaders_move_and_servers_die_on_loopback() {
    scenario(leaders_move_and_servers_die(None));
}

/// Without it, the same on a network of namespaces might not work, where most faults are made.
#[test]
fn leaders_move_and_servers_die_on_a_network() -> anyhow::Result<()> {
    let Some(net) = net_or_skip("leaders_move_and_servers_die_on_a_network") else {
        return Ok(());
    };
    let (_, client) = net.add()?;
    client.run(|| scenario(leaders_move_and_servers_die(Some(net))));
    Ok(())
}
