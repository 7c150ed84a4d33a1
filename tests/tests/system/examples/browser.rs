//! The page of another origin: a real browser, the page's own server, and a node with the example's policy.

use super::read;
use anyhow::{Context, ensure};
use serde::Deserialize;
use slotd_tests::{
    browser::{Browser, chromium_or_skip},
    clients::typescript_or_skip,
    cluster::place::{Place, ReservedPort},
    node::{Node, NodeOptions, eventually, run_slotd, scenario},
    notice::not_tested,
    page, plugins,
};
use std::{
    fs,
    process::{Child, Command, Stdio},
};

/// Dropping it ends it.
struct PageServer(Child);

impl Drop for PageServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of the room, as they are shown, but those that are on their way.
const SHOWN: &str = "({
    lines: [...document.querySelectorAll('#log > .line, #log > .own')].map((it) => it.textContent),
    waiting: document.querySelectorAll('.waiting, .failed').length,
    status: document.getElementById('status')?.textContent ?? '',
})";

#[derive(Debug, Deserialize)]
struct Shown {
    lines: Vec<String>,
    waiting: u64,
    status: String,
}

async fn shown(browser: &mut Browser) -> anyhow::Result<Shown> {
    Ok(serde_json::from_value(browser.value(SHOWN).await?)?)
}

async fn shows(browser: &mut Browser, expected: &[String]) -> anyhow::Result<()> {
    let mut last = None;
    let all = eventually("the lines are shown", async || {
        let now = shown(browser).await?;
        let is_all = now.waiting == 0 && now.status == "open" && now.lines.len() >= expected.len();
        ensure!(now.lines.len() <= expected.len(), "too many: {now:?}");
        last = Some(now);
        Ok(is_all.then_some(()))
    });
    all.await.with_context(|| format!("{last:?}"))?;
    let lines = last.context("nothing")?.lines;
    ensure!(lines == expected, "{lines:#?}, and not {expected:#?}");
    Ok(())
}

async fn say(browser: &mut Browser, text: &str) -> anyhow::Result<()> {
    let typed = format!(
        "document.getElementById('text').value = {text:?}; document.querySelector('#say button').click()"
    );
    browser.value(&typed).await.map(drop)
}

/// Without it, the example could be refused by slotd or by a browser, lose what is said, or show it twice.
#[test]
fn a_page_of_another_origin_shows_each_line_once_over_a_reload_a_dead_node_and_no_network() {
    const TEST: &str = "the page in examples/browser";
    let Some(program) = chromium_or_skip(TEST) else { return };
    scenario(async {
        let Some(client) = typescript_or_skip("slotd.js", TEST)? else { return Ok(()) };
        let help = run_slotd(&["serve", "--help"]).await?.stdout;
        if !help.contains("--access-file") {
            not_tested(&format!("{TEST}: this slotd has no access.file"));
            return Ok(());
        }
        let port = ReservedPort::new()?.address;
        let scratch = tempfile::tempdir()?;
        let policy = scratch.path().join("access.toml");
        let text = read("browser/access.toml")?;
        ensure!(text.contains(":8080\""), "the page's port is not in the policy");
        fs::write(&policy, text.replace("8080", &port.port().to_string()))?;
        let args = vec!["--access-file".into(), policy.display().to_string()];
        let mut node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        node.admin().deploy("chat", plugins::load("chat-v1")?).await?;
        // As the README says it.
        let readme = read("browser/README.md")?;
        let line = readme.lines().find_map(|line| line.split_once("$(slotd "));
        let (_, create) = line.context("the README creates no token")?;
        let create: Vec<_> = create.trim_end_matches(')').split_whitespace().collect();
        let created = node.run(&create).await?;
        ensure!(created.status.success(), "{created:?}");
        let api = node.api().client.address();
        // Without its token it says so, and what to do; else each visitor would get an error that nobody understands.
        let mut without = Command::new("node");
        without.arg(page::example("browser").join("server.mjs")).env_remove("BACKEND_TOKEN");
        let without = without.output()?;
        let told = String::from_utf8_lossy(&without.stderr);
        ensure!(without.status.code() == Some(2) && told.contains("slotd token create"), "{told}");
        let mut server = Command::new("node");
        server.arg(page::example("browser").join("server.mjs"));
        server
            .env("SLOTD_URL", format!("http://{api}"))
            .env("BACKEND_TOKEN", created.stdout.trim());
        server.env("PORT", port.port().to_string()).env("CLIENT_FILE", client);
        // So short that it is renewed in the middle of the test.
        server.env("TOKEN_TTL", "2s").stdin(Stdio::null()).stdout(Stdio::null());
        let _server =
            PageServer(Place::lasting()?.spawn(server).context("starting the page's server")?);
        eventually("the page's server", async || {
            Ok(tokio::net::TcpStream::connect(port).await.ok().map(drop))
        })
        .await?;
        let url = |name: &str| format!("http://{port}/?name={name}");
        let mut ann = Browser::open(program.clone(), &url("ann")).await?;
        let mut bob = Browser::open(program, &url("bob")).await?;
        shows(&mut ann, &[]).await?;
        shows(&mut bob, &[]).await?;
        let mut expected = Vec::new();
        for round in 0..4 {
            for (browser, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
                let text = format!("line {round} of {name}");
                say(browser, &text).await?;
                expected.push(format!("{name} {text}"));
                shows(browser, &expected).await?;
            }
            match round {
                0 => ann.reload().await?,
                1 => {
                    node.kill()?;
                    // What is said meanwhile waits.
                    say(&mut bob, "into the dark").await?;
                    node.restart_on(api).await?;
                    expected.push("bob into the dark".into());
                }
                2 => bob.reload().await?,
                _ => {
                    bob.set_offline(true).await?;
                    say(&mut bob, "without a network").await?;
                    say(&mut ann, "where is bob?").await?;
                    expected.push("ann where is bob?".into());
                    shows(&mut ann, &expected).await?;
                    bob.set_offline(false).await?;
                    expected.push("bob without a network".into());
                }
            }
            shows(&mut ann, &expected).await?;
            shows(&mut bob, &expected).await?;
        }
        Ok(())
    });
}
