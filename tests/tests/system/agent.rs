//! Agents, with a model server that stumbles: what a reader, and a page in a browser, are shown.

use crate::common::SOON;
use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use slotd_tests::{
    agents::{Reader, Seen},
    api::{Message, Reply},
    browser::{Browser, chromium_or_skip},
    clients::typescript_or_skip,
    model_server::{ModelOptions, ModelServer, plan},
    node::{Node, NodeOptions, eventually, scenario},
    page::{self, PageServer},
    plugins,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::watch;

const AGENT: &str = "agent";
const TOOL: &str = "tool";
const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Parts {
    model: ModelServer,
    node: Node,
    messages: AtomicU64,
}

async fn parts(pace_ms: u64) -> anyhow::Result<Parts> {
    let pace = Duration::from_millis(pace_ms);
    let options = ModelOptions { pace, ..ModelOptions::default() };
    let model = ModelServer::start(ANY_PORT, options).await?;
    let args = vec![
        "--effects-http".into(),
        format!("{AGENT}>http://{}!private", model.address),
        "--effects-send".into(),
        format!("{AGENT}>{TOOL}"),
    ];
    let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
    node.admin().deploy(AGENT, plugins::load("context-window")?).await?;
    node.admin().deploy(TOOL, plugins::load("counter")?).await?;
    Ok(Parts { model, node, messages: AtomicU64::new(0) })
}

impl Parts {
    /// A message to an agent, until it is acknowledged.
    async fn tell(&self, session: &str, message: Value) -> anyhow::Result<()> {
        // The same one for every attempt.
        let key = format!("message-{}", self.messages.fetch_add(1, Relaxed));
        eventually(&format!("{session} takes {message}"), async || {
            let message = Message::json(&message).key(key.as_str());
            match self.node.api().post(AGENT, session, message).await {
                Ok(answer) if answer.status < 500 => Reply::of(answer).map(Some),
                _ => Ok(None),
            }
        })
        .await
        .map(drop)
    }

    async fn configure(&self, session: &str) -> anyhow::Result<()> {
        let tools = json!([{ "name": "count", "to": format!("{TOOL}/{{session}}") }]);
        let url = self.model.url();
        let message = json!({ "do": "configure", "url": url, "model": "m", "tools": tools });
        self.tell(session, message).await
    }
}

/// Without it, a node that dies while a model writes could lose a token, show one twice, or leave the turn without an end; or
/// the tool could be called again.
#[test]
fn an_agent_goes_on_where_its_node_died_and_shows_every_token_once() {
    scenario(async {
        // The process has to be killed in the middle of an answer.
        let mut parts = parts(200).await?;
        parts.configure("ann").await?;
        let mut reader = Reader::default();
        let mut events = parts.node.api().events(AGENT, "ann", Some(0), None).await?;
        let mut kills = 0;
        for (number, text) in ["Tell me.", "Please use count.", "Please ask me."].iter().enumerate()
        {
            let text = format!("{text} ({number})");
            let mut words = 0;
            parts.tell("ann", json!({ "do": "ask", "content": text })).await?;
            loop {
                let next = tokio::time::timeout(SOON, events.next()).await.context("no event")?;
                let seen = match next {
                    Ok(Some(event)) => reader.take(&event)?,
                    Ok(None) | Err(_) => {
                        let last = reader.last_id.clone();
                        let opened = eventually("the events go on", async || {
                            let after = last.is_none().then_some(0);
                            Ok(parts
                                .node
                                .api()
                                .events(AGENT, "ann", after, last.as_deref())
                                .await
                                .ok())
                        });
                        events = opened.await?;
                        continue;
                    }
                };
                match seen {
                    Seen::Words => words += 1,
                    Seen::Question(call) => {
                        parts
                            .tell("ann", json!({ "do": "answer", "call": call, "content": "yes" }))
                            .await?;
                    }
                    Seen::Ended(well) => {
                        ensure!(well, "{:?}", reader.failed);
                        break;
                    }
                    Seen::Other => {}
                }
                // In the middle of the answers of the first two turns.
                if words > 10 && kills <= number && kills < 2 {
                    (words, kills) = (0, kills + 1);
                    parts.node.kill()?;
                    parts.node.restart().await?;
                }
            }
        }
        let tokens = reader.tokens();
        ensure!(tokens.good() && tokens.restarts >= 2 && tokens.void >= 20, "{tokens:?}");
        ensure!((reader.calls, reader.results, reader.questions) == (1, 2, 1), "{reader:?}");
        ensure!(parts.node.api().query(TOOL, "ann", &Value::Null).await? == 1, "called twice");
        let until = reader.last_id.clone().context("nothing was shown")?;
        let again = Reader::again(&parts.node.api(), AGENT, "ann", &until).await?;
        ensure!(again == reader, "read again, it is {again:?}, not {reader:?}");
        let messages = parts.node.api().query(AGENT, "ann", &json!({ "what": "messages" })).await?;
        for answer in reader.answers.values() {
            let said = plan::words(answer.key.as_deref().unwrap_or_default()).concat();
            ensure!(messages.to_string().contains(&said), "{said:?} is not in {messages}");
        }
        let asked = parts.model.ledger().requests;
        ensure!(asked.len() == reader.answers.len(), "another key for an attempt: {asked:?}");
        Ok(())
    });
}

/// What the page shows: the answers, how many were void, and the status.
const SHOWN: &str = "({
    answers: [...document.querySelectorAll('.assistant')].map((it) => it.textContent),
    void: document.querySelectorAll('.void').length,
    status: document.getElementById('status')?.textContent ?? '',
})";

#[derive(Debug, Default, Deserialize)]
struct Shown {
    answers: Vec<String>,
    void: u64,
    status: String,
}

async fn shown(browser: &mut Browser) -> anyhow::Result<Shown> {
    Ok(serde_json::from_value(browser.value(SHOWN).await?)?)
}

/// Looks that have to find more than the one before, within one turn.
const STEPS: u32 = 8;

/// Without it, the page that people begin with could show its tokens all at once, and lose some, or show some twice, after
/// a reload.
#[test]
fn the_page_of_the_example_shows_tokens_one_after_the_other_and_each_once_after_a_reload() {
    let Some(program) = chromium_or_skip("the page in examples/agent") else { return };
    scenario(async {
        if typescript_or_skip("slotd.js", "the page in examples/agent")?.is_none() {
            return Ok(());
        }
        // So slow that the page is looked at often enough while an answer comes, also beside other tests.
        let parts = parts(250).await?;
        parts.configure("ann").await?;
        let nodes: Arc<[SocketAddr]> = [parts.node.api().client.address()].into();
        let (_keep, nodes) = watch::channel(nodes);
        let page = PageServer::start(ANY_PORT, page::example("agent"), nodes).await?;
        let url = format!("http://{}/?service={AGENT}&session=ann", page.address);
        let mut browser = Browser::open(program, &url).await?;
        let connected = eventually("the page is connected", async || {
            Ok((shown(&mut browser).await?.status == "connected").then_some(()))
        });
        connected.await?;
        for text in ["Tell me.", "Please use count.", "Tell me more."] {
            let say = format!(
                "document.getElementById('text').value = {text:?}; \
                 document.querySelector('form button').click()"
            );
            browser.value(&say).await?;
            let (mut before, mut steps, mut is_reloaded) = (Shown::default(), 0, false);
            let ended = eventually("the turn's end", async || {
                let now = shown(&mut browser).await?;
                let (was, is) = (before.answers.concat(), now.answers.concat());
                if is_reloaded {
                    return Ok((now.status == "ready").then_some(()));
                }
                ensure!(now.void > before.void || is.starts_with(&was), "{before:?}, then {now:?}");
                steps += u32::from(is.len() > was.len());
                before = now;
                if steps > STEPS {
                    is_reloaded = true;
                    browser.reload().await?;
                }
                Ok(None)
            });
            ended.await.with_context(|| format!("{text}: {steps} steps to {before:?}"))?;
        }
        let mut answers = shown(&mut browser).await?.answers;
        let asked = parts.model.ledger().requests;
        let mut said: Vec<_> = asked.keys().map(|key| plan::words(key).concat()).collect();
        answers.sort();
        said.sort();
        ensure!(answers == said && said.len() == 4, "{answers:#?}, and not {said:#?}");
        Ok(())
    });
}
