//! TLS of the listeners: what an operator makes, serves, uses from the command line and renews.

use crate::common::SOON;
use anyhow::{Context, ensure};
use rustix::process::Signal;
use slotd_tests::{
    http::Client,
    node::{Addresses, Finished, Node, NodeOptions, run_slotd, scenario, slotd},
    plugins,
    tls::{Certificates, HOST, connector, host},
};
use std::{
    path::Path,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A node of which both listeners speak TLS; killed when it is dropped.
struct Secure {
    child: Child,
    addresses: Addresses,
    _data: tempfile::TempDir,
}

impl Secure {
    async fn start(certificates: &Certificates, more: &[&str]) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let (of_data, of_api) = (data.path().join("data"), certificates.api_args());
        let of_data = of_data.to_string_lossy();
        let (certificate, key) = (certificates.text("api.pem"), certificates.text("api.key"));
        let own = ["--api-listen", "127.0.0.1:0", "--data-dir", &of_data];
        let of_admin = ["--admin-tls-certificate", &certificate, "--admin-tls-key", &key];
        let of_api: Vec<_> = of_api.iter().map(String::as_str).collect();
        let args = [&own[..], &of_admin, &of_api, more].concat();
        Self::serve(data, &args).await
    }
    /// With these arguments, and an admin listener of its own.
    async fn serve(data: tempfile::TempDir, args: &[&str]) -> anyhow::Result<Self> {
        let addresses = data.path().join("addresses.json");
        let log = std::fs::File::create(data.path().join("log"))?;
        let mut command = slotd()?;
        command.args(["serve", "--admin-listen", "127.0.0.1:0"]);
        command.arg("--addresses-file").arg(&addresses);
        command.args(args).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        let mut this = Self { child, addresses: Addresses { api: ANY, admin: ANY }, _data: data };
        let until = Instant::now() + SOON;
        while !addresses.exists() {
            ensure!(this.child.try_wait()?.is_none() && Instant::now() < until, "{}", this.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        this.addresses = serde_json::from_slice(&std::fs::read(&addresses)?)?;
        Ok(this)
    }
    fn log(&self) -> String {
        std::fs::read_to_string(self._data.path().join("log")).unwrap_or_default()
    }
    fn api(&self) -> String {
        format!("https://{HOST}:{}", self.addresses.api.port())
    }
    fn admin(&self) -> String {
        format!("https://{HOST}:{}", self.addresses.admin.port())
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ANY: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn worked(done: Finished) -> anyhow::Result<String> {
    ensure!(done.status.success(), "{done:?}");
    Ok(done.stdout)
}

fn failed(done: &Finished, said: &str) -> anyhow::Result<()> {
    ensure!(!done.status.success() && done.stderr.contains(said), "{said:?} is not in {done:?}");
    Ok(())
}

/// Without it the command line could not reach what `slotd tls init` protects, or its user would not
/// know why.
#[test]
fn the_command_line_works_over_tls() {
    scenario(async {
        let certificates = Certificates::make(&["ann"]).await?;
        let authority = certificates.text("listeners.pem");
        let node =
            Secure::start(&certificates, &["--admin-tls-client-authority", &authority]).await?;
        let component = tempfile::NamedTempFile::new()?;
        std::fs::write(component.path(), plugins::load("chat-v1")?)?;
        let component = component.path().to_string_lossy().into_owned();
        let (api, admin) = (node.api(), node.admin());
        let (cert, key) =
            (certificates.text("client-ann.pem"), certificates.text("client-ann.key"));
        let as_ann = ["--admin-url", &admin, "--ca", &authority, "--cert", &cert, "--key", &key];
        let deploy = ["deploy", "chat", &component];

        // Without a certificate there is no way in: there is no token.
        let nobody = run_slotd(&[&deploy[..], &as_ann[..4]].concat()).await?;
        failed(&nobody, "unauthorized")?;
        worked(run_slotd(&[&deploy[..], &as_ann].concat()).await?)?;
        let url = ["--url", &api, "--ca", &authority];
        let said = r#"{"kind":"say","from":"ann","text":"hello"}"#;
        worked(run_slotd(&[&["send", "chat", "a", said][..], &url].concat()).await?)?;
        let history = worked(run_slotd(&[&["history", "chat", "a"][..], &url].concat()).await?)?;
        ensure!(history.contains("hello"), "{history}");
        let follow = worked(run_slotd(&[&["tail", "chat", "a"][..], &url].concat()).await?)?;
        ensure!(follow.contains("hello"), "{follow}");
        let file = certificates.text("a.session");
        worked(
            run_slotd(&[&["session", "export", "chat", "a", &file][..], &as_ann].concat()).await?,
        )?;
        worked(
            run_slotd(&[&["session", "import", "chat", "b", &file][..], &as_ann].concat()).await?,
        )?;

        let show = ["session", "show", "chat", "a"];
        failed(&run_slotd(&[&show[..], &url[..2]].concat()).await?, "--ca FILE")?;
        let other_name = api.replace(HOST, "127.0.0.1");
        let other = ["--url", &other_name, "--ca", &authority];
        failed(&run_slotd(&[&show[..], &other].concat()).await?, "it is for")?;
        let in_clear = api.replace("https://", "http://");
        failed(&run_slotd(&[&show[..], &["--url", &in_clear]].concat()).await?, "speaks TLS")?;
        let clear = Node::start().await?;
        let port = clear.api().client.address().port();
        let wrong = format!("https://{HOST}:{port}");
        let asked =
            run_slotd(&[&show[..], &["--url", &wrong, "--ca", &authority]].concat()).await?;
        failed(&asked, "http://")?;
        // Others would find it there.
        ensure!(clear.log().contains("a client speaks TLS"), "{}", clear.log_tail());
        Ok(())
    });
}

/// Without it a renewal would cost requests, or a restart.
#[test]
fn a_certificate_is_renewed_without_a_failed_request() {
    scenario(async {
        let certificates = Certificates::make(&[]).await?;
        let options = NodeOptions { args: certificates.api_args(), ..NodeOptions::default() };
        let node = Node::start_with(options).await?;
        node.admin().deploy("counter", plugins::load("counter")?).await?;
        let address = node.api().client.address();
        let authority = certificates.authority();
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let mut senders = Vec::new();
        for sender in 0..8 {
            let (stop, sent, tls) = (stop.clone(), sent.clone(), connector(&authority)?);
            senders.push(tokio::spawn(async move {
                let path = format!("/v1/services/counter/sessions/s{sender}/messages");
                let mut client = Client::new(address).with_tls(&tls);
                while !stop.load(Relaxed) {
                    // One half keeps its connection; the other makes one for each message.
                    if sender % 2 == 0 {
                        client = Client::new(address).with_tls(&tls);
                    }
                    client.post(&path, "x").await?.success()?;
                    sent.fetch_add(1, Relaxed);
                }
                anyhow::Ok(())
            }));
        }
        let mut shown = vec![certificate_of(address, &authority).await?];
        for round in 0..3 {
            certificates.renew().await?;
            // The last one is found by itself.
            if round < 2 {
                node.signal(Signal::HUP)?;
            }
            let until = Instant::now() + SOON;
            loop {
                let now = certificate_of(address, &authority).await?;
                if !shown.contains(&now) {
                    shown.push(now);
                    break;
                }
                ensure!(Instant::now() < until, "{}", node.log_tail());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let before = sent.load(Relaxed);
            while sent.load(Relaxed) < before + 100 {
                ensure!(Instant::now() < until, "nothing is sent");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        stop.store(true, Relaxed);
        for sender in senders {
            sender.await??;
        }
        let metrics = node.admin().client.get("/metrics").await?.success()?.text();
        ensure!(metrics.contains("slotd_tls_certificate_expiry_seconds{listener=\"api\"}"));

        // What can't be used is told once, and changes nothing.
        std::fs::write(certificates.path("api.key"), "nothing")?;
        let until = Instant::now() + SOON;
        let told = || node.log().matches("keeping the old certificate").count();
        while told() == 0 {
            ensure!(Instant::now() < until, "{}", node.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = certificate_of(address, &authority).await?;
        ensure!(shown.last() == Some(&now) && told() == 1, "{}", node.log_tail());
        Ok(())
    });
}

async fn certificate_of(
    address: std::net::SocketAddr,
    authority: &Path,
) -> anyhow::Result<Vec<u8>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let stream = connector(authority)?.connect(host()?, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().context("no certificate")?;
    Ok(chain.first().context("no certificate")?.to_vec())
}

/// Without it tokens and messages could be read on the way by mistake.
#[test]
fn off_loopback_tls_is_required() {
    scenario(async {
        let certificates = Certificates::make(&[]).await?;
        let authority = certificates.text("listeners.pem");
        let exposed =
            ["config", "check", "--api-listen", "0.0.0.0:7070", "--api-token", "a-long-token"];
        let check = async |more: &[&str]| run_slotd(&[&exposed[..], more].concat()).await;
        let refused = check(&[]).await?;
        for way in ["slotd tls init", "api.clear_text = true", "api.tls_certificate", "--insecure"]
        {
            failed(&refused, way)?;
        }
        worked(check(&["--api-clear-text"]).await?)?;
        let args = certificates.api_args();
        let with: Vec<&str> = args.iter().map(String::as_str).collect();
        worked(check(&with).await?)?;
        failed(&check(&with[..2]).await?, "both or none")?;
        failed(&check(&[&with[..], &["--api-clear-text"]].concat()).await?, "TLS only")?;
        let unfit = [&with[..2], &["--api-tls-key", &authority]].concat();
        failed(&check(&unfit).await?, "can't read a private key")?;
        failed(&check(&["--admin-tls-client-authority", &authority]).await?, "in TLS only")?;
        Ok(())
    });
}

/// The file that people begin with must start a node as it is; without TLS it would not.
#[test]
fn the_file_in_the_documentation_starts_a_node_that_others_reach() {
    scenario(async {
        let certificates = Certificates::make(&[]).await?;
        let home = tempfile::tempdir()?;
        std::fs::write(certificates.path("api-token"), "a-token-for-the-api")?;
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = std::fs::read_to_string(page)?;
        let (_, file) = page.split_once("A complete file").context("no file")?;
        let (_, file) = file.split_once("```toml\n").context("no TOML")?;
        let (file, _) = file.split_once("```").context("no end")?;
        ensure!(file.contains("listen = \"0.0.0.0:7070\""), "{file}");
        let folder = certificates.text("");
        let file = file.replace("/etc/slotd/", &folder);
        let data = home.path().join("data").to_string_lossy().into_owned();
        let file = file.replace("/var/lib/slotd", &data);
        let path = home.path().join("slotd.toml").to_string_lossy().into_owned();
        std::fs::write(&path, &file)?;
        worked(run_slotd(&["config", "check", "--config", &path]).await?)?;
        let node = Secure::serve(home, &["--config", &path, "--api-listen", "0.0.0.0:0"]).await?;
        let tls = connector(&certificates.authority())?;
        let address = (HOST, node.addresses.api.port());
        let stream = tokio::net::TcpStream::connect(address).await?;
        tls.connect(host()?, stream).await.context("a handshake")?;

        let lines = file.lines().filter(|line| !line.starts_with("tls_"));
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n"))?;
        let refused = run_slotd(&["config", "check", "--config", &path]).await?;
        failed(&refused, "api.tls_certificate")
    });
}
