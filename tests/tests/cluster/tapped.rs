//! Somebody on the wire between the nodes, who sees every packet, changes some, and sends them again.

use anyhow::{Context, ensure};
use slotd_tests::{
    api::Message,
    chaos::load::{Load, LoadShape},
    cluster::{
        Cluster, ClusterOptions,
        net::{Net, address, tapped_or_skip},
        tap::Tap,
    },
    history::check,
    node::{eventually, scenario},
    plugins,
};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Where the nodes listen for each other.
const PEERS: u16 = 7072;
/// Hosts of the network: servers, nodes and clients.
const HOSTS_MAX: u8 = 12;
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Nobody says it by chance.
const WORDS: &str = "nobody-else-is-to-read-this";
const SHAPE: LoadShape =
    LoadShape { sessions: 8, writers: 8, readers: 4, deleters: 1, think: Duration::from_millis(2) };
/// Messages in each part of the test.
const SOME: u64 = 400;
const ALTER_EVERY: usize = 40;

fn tapped<F>(test: &str, run: fn(Cluster, Arc<Net>) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let Some(net) = tapped_or_skip(test) else { return Ok(()) };
    let (_, client) = net.add()?;
    let peers: Vec<_> = (1..=HOSTS_MAX).map(|host| (address(host), PEERS).into()).collect();
    // From the nodes' first packet on.
    net.tap().context("a tap")?.watch(&peers);
    client.run(move || {
        scenario(async {
            let net = Arc::new(net);
            let cluster = Cluster::start(ClusterOptions::default(), Some(net.clone())).await?;
            for (service, plugin) in [("counter", "counter"), ("chat", "chat-v1")] {
                cluster.member(1)?.admin().deploy(service, plugins::load(plugin)?).await?;
            }
            cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
            run(cluster, net).await
        });
    });
    Ok(())
}

/// Without it, a tap that sees nothing would show that nothing is to be seen.
#[test]
fn a_tap_sees_and_changes_what_is_not_encrypted() -> anyhow::Result<()> {
    let test = "a_tap_sees_and_changes_what_is_not_encrypted";
    let Some(net) = tapped_or_skip(test) else { return Ok(()) };
    let ((to, server), (_, client)) = (net.add()?, net.add()?);
    let tap = net.tap().context("a tap")?;
    let at = SocketAddr::from((address(to), PEERS));
    tap.watch(&[at]);
    let hear = |changed: usize| -> anyhow::Result<Vec<u8>> {
        tap.alter_every(changed);
        let listener = server.run(move || TcpListener::bind(at))?;
        let mut stream = client.run(move || TcpStream::connect(at))?;
        std::io::Write::write_all(&mut stream, WORDS.as_bytes())?;
        drop(stream);
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut listener.accept()?.0, &mut heard)?;
        Ok(heard)
    };
    ensure!(hear(0)? == WORDS.as_bytes() && tap.sees(WORDS.as_bytes()) == 1);
    let [stream] = &tap.streams()[..] else { anyhow::bail!("not one stream") };
    ensure!(stream.to == at && stream.bytes == WORDS.as_bytes());
    let heard = hear(1)?;
    ensure!(
        heard != WORDS.as_bytes() && heard.len() == WORDS.len() && tap.altered() > 0,
        "{heard:?}"
    );
    Ok(())
}

/// Without it, whoever is between the nodes could read what clients send, or write in their place.
#[test]
fn an_attacker_on_the_wire_learns_and_does_nothing() -> anyhow::Result<()> {
    tapped("an_attacker_on_the_wire_learns_and_does_nothing", attacked)
}

async fn attacked(cluster: Cluster, net: Arc<Net>) -> anyhow::Result<()> {
    let tap = net.tap().context("a tap")?;
    learns_nothing(&cluster, tap).await?;

    let mut load = Load::start(11, SHAPE, cluster.targets());
    some_messages(&mut load).await?;
    tap.alter_every(ALTER_EVERY);
    some_messages(&mut load).await?;
    eventually("some packets are changed", async || Ok((tap.altered() > 20).then_some(()))).await?;
    tap.alter_every(0);
    println!("{} packets were changed", tap.altered());
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    some_messages(&mut load).await?;

    let (datagrams, segments) = tap.repeat();
    let streams = tap.streams();
    ensure!(datagrams > 0 && segments > 0 && !streams.is_empty(), "nothing to repeat");
    let tried = streams.len();
    let again = streams.iter().map(|stream| said_again(stream.to, &stream.bytes));
    futures_util::future::try_join_all(again).await?;
    println!("{datagrams} datagrams, {segments} segments and {tried} streams were sent again");
    some_messages(&mut load).await?;
    cluster.settled(&cluster.members(), SETTLED_WITHIN).await?;
    for member in cluster.members() {
        let nodes = member.admin().nodes().await?.nodes;
        ensure!(nodes.iter().all(|node| node.members.len() == 3), "{nodes:?}");
    }
    let report = check(&load.finish().await?);
    println!("{report}");
    ensure!(report.good(), "{report}");
    Ok(())
}

/// Every node passes messages on to the others.
async fn learns_nothing(cluster: &Cluster, tap: &Tap) -> anyhow::Result<()> {
    for number in 0..90 {
        let api = cluster.member(1 + number % 3)?.api();
        let session = format!("{WORDS}-{number}");
        let message = Message::bytes(WORDS).typed("text/plain").from(WORDS).key(session.clone());
        let sent = api.send("chat", &session, message).await;
        // Whatever the handler says to it.
        let _ = sent;
        api.history("chat", &session, 0, 10).await.ok();
    }
    let bytes = tap.seen_bytes();
    ensure!(bytes > 90 * 100, "only {bytes} bytes were seen");
    let seen = tap.sees(WORDS.as_bytes());
    ensure!(seen == 0, "{seen} of the messages were seen in {bytes} bytes");
    println!("{bytes} bytes between nodes have shown nothing");
    Ok(())
}

async fn some_messages(load: &mut Load) -> anyhow::Result<()> {
    let until = load.recorder().acknowledged() + SOME;
    let recorder = load.recorder().clone();
    eventually("progress of the clients", async || {
        Ok((recorder.acknowledged() >= until).then_some(()))
    })
    .await?;
    load.failed().await
}

/// Says to a node what another has said to it before. It must not get an answer that is worth anything: the node
/// ends the connection.
async fn said_again(to: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(to).await?;
    // The node may have closed it before it has heard all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
    // Reset or closed, but not kept.
    let _ = ended.context("a node keeps a connection that repeats an old one")?;
    Ok(())
}
