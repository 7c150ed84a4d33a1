//! A cluster whose NATS servers speak TLS, and take only clients that show a certificate.

use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    api::Message,
    cluster::{Cluster, ClusterOptions, engine::ServerTls},
    http::Client,
    node::{eventually, run_slotd, scenario_within},
    plugins,
};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

const ROOMS: u32 = 12;

async fn make(dir: &Path, more: &[&str]) -> anyhow::Result<()> {
    let shown = dir.to_string_lossy();
    let args = ["tls", "init", &*shown, "--api", "127.0.0.1", "--client", "slotd"];
    let made = run_slotd(&[&args[..], more].concat()).await?;
    ensure!(made.status.success(), "{made:?}");
    Ok(())
}

/// As NATS names the certificates of its clients.
fn digest(dir: &Path) -> anyhow::Result<String> {
    use base64::Engine as _;
    let pem = fs::read_to_string(dir.join("client-slotd.pem"))?;
    let lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN"));
    let body: String = lines.skip(1).take_while(|line| !line.starts_with("-----END")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The certificates that the nodes have shown to the servers.
async fn shown(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for monitor in cluster.engine.monitors() {
        let answer = Client::new(monitor).get("/connz?auth=true").await?;
        let answer: Value = serde_json::from_slice(&answer.body)?;
        for connection in answer["connections"].as_array().context("no connections")? {
            let certificates = connection["tls_peer_certs"].as_array();
            for certificate in certificates.into_iter().flatten() {
                let digest = certificate["cert_sha256"].as_str().context("no digest")?;
                all.insert(digest.to_owned());
            }
        }
    }
    Ok(all)
}

/// Certificates end: a cluster that has to be stopped for new ones stops serving once a year, and one that goes on with the
/// old ones on the day on which they end.
#[test]
fn certificates_towards_nats_are_renewed_without_a_request_that_fails() {
    scenario_within(Duration::from_secs(400), async {
        let folder = tempfile::tempdir()?;
        let dir = folder.path();
        make(dir, &[]).await?;
        let at = |name: &str| dir.join(name);
        let env = [
            ("SLOTD_NATS_TLS_AUTHORITY", at("listeners.pem")),
            ("SLOTD_NATS_TLS_CERTIFICATE", at("client-slotd.pem")),
            ("SLOTD_NATS_TLS_KEY", at("client-slotd.key")),
        ];
        let env = env.map(|(name, path)| (name.to_owned(), path.display().to_string())).to_vec();
        let tls = ServerTls {
            authority: at("listeners.pem"),
            certificate: at("api.pem"),
            key: at("api.key"),
        };
        let options =
            ClusterOptions { slots: 16, env, tls: Some(tls.into()), ..ClusterOptions::default() };
        let cluster = Arc::new(Cluster::start(options, None).await?);
        let old = digest(dir)?;
        ensure!(shown(&cluster).await? == BTreeSet::from([old.clone()]));
        cluster.member(1)?.admin().deploy("chat", plugins::load("chat-v1")?).await?;

        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..ROOMS)
            .map(|room| {
                let (cluster, stop) = (cluster.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut sent = 0_usize;
                    while !stop.load(SeqCst) {
                        let member = cluster.member(1 + room % 3)?;
                        let line = serde_json::json!({"kind": "say", "from": "ann", "text": "x"});
                        let name = format!("room-{room}");
                        let said = member.api().send("chat", &name, Message::json(&line)).await;
                        said.with_context(|| format!("message {sent} of {name}"))?;
                        sent += 1;
                    }
                    anyhow::Ok(sent)
                })
            })
            .collect();
        make(dir, &["--renew"]).await?;
        let new = digest(dir)?;
        ensure!(new != old);
        // The servers show the new ones to whoever connects; who is connected stays.
        for number in 0..cluster.engine.count() {
            cluster.engine.reload(number)?;
        }
        // One after the other ends: its nodes go to another one, and show the new one there.
        for number in 0..cluster.engine.count() {
            cluster.engine.leave(number).await?;
            cluster.engine.restart(number).await?;
        }
        eventually("nodes that show the new certificate", async || {
            Ok((shown(&cluster).await? == BTreeSet::from([new.clone()])).then_some(()))
        })
        .await?;
        stop.store(true, SeqCst);
        for (room, writer) in (0..).zip(writers) {
            let sent = writer.await??;
            let api = cluster.member(1)?.api();
            let history = api.whole_history("chat", &format!("room-{room}")).await?;
            ensure!(sent > 0 && history.len() == sent, "{} of {sent}", history.len());
        }
        Ok(())
    });
}
