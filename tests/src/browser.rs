//! A headless Chromium, driven by the DevTools protocol.

use crate::notice::not_tested;
use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page. Dropping it kills it and removes its profile.
pub struct Browser {
    child: Child,
    _profile: TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Of the page.
    session: String,
    requests: u64,
}

/// The browser's program, from the `PATH`; `None`, with a notice, if there is none.
pub fn chromium_or_skip(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    let found = folders
        .find_map(|dir| NAMES.map(|name| dir.join(name)).into_iter().find(|it| it.is_file()));
    if found.is_none() {
        not_tested(&format!("{test}: there is no chromium on the PATH"));
    }
    found
}

impl Browser {
    /// Starts it with a page.
    ///
    /// # Errors
    /// When it can't be started, or does not answer.
    pub async fn open(program: PathBuf, url: &str) -> anyhow::Result<Self> {
        let profile = tempfile::Builder::new().prefix("slotd-browser-").tempdir()?;
        let mut command = Command::new(program);
        // The sandbox does not run as root, and little of `/dev/shm` is there in containers.
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // With its children, to end all of them.
            .process_group(0);
        let mut child = command.spawn().context("starting chromium")?;
        let stderr = child.stderr.take().context("no standard error")?;
        // Read to its end: a browser that can't write waits.
        let (found, address) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("DevTools listening on ")
                    && let Some(found) = found.take()
                {
                    let _ = found.send(address.to_owned());
                }
            }
        });
        let address = tokio::time::timeout(ANSWER_WITHIN, address).await;
        let connected = async {
            let address = address.context("it does not listen")?.context("it has ended")?;
            Ok::<_, anyhow::Error>(connect_async(address).await?.0)
        };
        let socket = match connected.await {
            Ok(socket) => socket,
            Err(error) => {
                end(&mut child);
                return Err(error.context("chromium"));
            }
        };
        let mut browser =
            Self { child, _profile: profile, socket, session: String::new(), requests: 0 };
        let target = browser.call("Target.createTarget", json!({ "url": url })).await?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        Ok(browser)
    }

    /// The value of a JavaScript expression on the page.
    ///
    /// # Errors
    /// When it throws.
    pub async fn value(&mut self, expression: &str) -> anyhow::Result<Value> {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = loop {
            match self.call("Runtime.evaluate", asked.clone()).await {
                // The page was left in the middle of it, for itself again.
                Err(error) if is_reloaded(&error) => {}
                answer => break answer?,
            }
        };
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// # Errors
    /// When the browser does not answer.
    pub async fn reload(&mut self) -> anyhow::Result<()> {
        self.call("Page.reload", json!({})).await.map(drop)
    }

    /// Takes the page's network away, or gives it back.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn set_offline(&mut self, is_offline: bool) -> anyhow::Result<()> {
        self.call("Network.enable", json!({})).await?;
        let conditions = json!({
            "offline": is_offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.call("Network.emulateNetworkConditions", conditions).await.map(drop)
    }

    async fn call(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.ask(method, params)).await;
        answer.with_context(|| format!("{method}: no answer"))?
    }

    async fn ask(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.requests += 1;
        let id = self.requests;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(request.to_string())).await?;
        while let Some(message) = self.socket.next().await {
            let Message::Text(text) = message? else { continue };
            let mut message: Value = serde_json::from_str(&text)?;
            if message["id"] != id {
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(message["result"].take());
        }
        bail!("{method}: the browser has ended")
    }
}

fn is_reloaded(error: &anyhow::Error) -> bool {
    let said = format!("{error:#}");
    ["navigated or closed", "context was destroyed", "Cannot find context"]
        .iter()
        .any(|part| said.contains(part))
}

impl Drop for Browser {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kills it with its children, which would write into its profile.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}
