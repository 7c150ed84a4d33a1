//! Limits from outside: each kind at each level refuses with the right headers and passes again when it has said, a changed
//! policy holds within seconds, and what is refused draws nothing.

use crate::common::{SOON, deed, expect_problem, good, listed};
use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use slotd_tests::{
    api::{Api, Message, session_path},
    http::{Answer, Client},
    node::{Node, NodeOptions, eventually, scenario, scenario_within},
    plugins,
    socket::Socket,
    sse::Sse,
};
use std::{fs, path::PathBuf, time::Duration};
use tempfile::TempDir;

/// A node with a policy, which a test changes.
struct Limited {
    node: Node,
    file: PathBuf,
    _dir: TempDir,
}

impl Limited {
    async fn start(policy: &str, services: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("policy.toml");
        fs::write(&file, policy)?;
        let file_arg = file.display().to_string();
        let args = ["--access-file", &file_arg, "--guests-deadline", "300ms"];
        let args = args.map(String::from).into();
        let node = Node::start_with(NodeOptions { args, ..NodeOptions::default() }).await?;
        for service in services {
            node.admin().deploy(service, plugins::load("hostile-v1")?).await?;
        }
        Ok(Self { node, file, _dir: dir })
    }

    fn set(&self, policy: &str) -> anyhow::Result<()> {
        Ok(fs::write(&self.file, policy)?)
    }

    /// The API with a token of that name.
    async fn of(&self, name: &str) -> anyhow::Result<Api> {
        let token =
            good(&self.node, &["token", "create", name, "--allow", "*", "--on", "*"]).await?;
        Ok(Api::new(Client::new(self.node.api().client.address()).with_token(token.trim())))
    }
}

fn echo() -> Message {
    deed(&json!({"do": "echo"}))
}

/// How long a refusal says.
fn retry_after(answer: &Answer) -> anyhow::Result<Duration> {
    let seconds = answer.header("retry-after").context("no Retry-After")?.parse()?;
    ensure!(seconds > 0, "a client would come back at once");
    Ok(Duration::from_secs(seconds))
}

/// It is refused by this limit, and says when it is not any more.
fn expect_refused(answer: &Answer, limit: &str) -> anyhow::Result<Duration> {
    let problem = expect_problem(answer, 429, "rate-limited")?;
    ensure!(problem.detail.starts_with(&format!("over the limit {limit};")), "{problem:?}");
    let told = answer.header("ratelimit");
    match limit.ends_with("guest-time") {
        true => ensure!(told.is_none(), "{told:?}"),
        false => ensure!(
            told.is_some_and(|it| it.starts_with(&format!("\"{limit}\";r=0;t="))),
            "{told:?}"
        ),
    }
    retry_after(answer)
}

const LEVELS: [&str; 3] = ["service", "subject", "session"];
const KINDS: [(&str, &str); 3] = [
    ("messages", "messages = \"1/s\"\nburst = \"2s\""),
    ("bytes", "bytes = \"40/s\"\nburst = \"2s\""),
    ("guest-time", "guest_time = \"100ms/s\"\nburst = \"1s\""),
];

/// Sends until it is refused.
async fn drain(api: &Api, service: &str, kind: &str) -> anyhow::Result<Duration> {
    for _ in 0..200 {
        let does = if kind == "guest-time" { "spin" } else { "echo" };
        let answer = api.post(service, "one", deed(&json!({"do": does}))).await?;
        match answer.status {
            429 => return expect_refused(&answer, service),
            200 => {
                let policy = answer.header("ratelimit-policy").is_some();
                ensure!(policy == (kind != "guest-time"), "{:?}", answer.headers);
            }
            504 => expect_problem(&answer, 504, "plugin-deadline").map(drop)?,
            other => bail!("{service}: {other} {}", answer.text()),
        }
    }
    bail!("{service} refuses nothing")
}

/// Uses up one limit of one level, and comes back when it has said. The service has the limit's name.
async fn use_up(ann: &Api, bob: &Api, level: &str, kind: &str) -> anyhow::Result<()> {
    let service = &format!("{level}-{kind}");
    let is_refused = async |api: &Api, session: &str| {
        anyhow::Ok(api.post(service, session, echo()).await?.status == 429)
    };
    // Who else is refused for it, all the while that it is used up.
    let others = loop {
        let after = drain(ann, service, kind).await?;
        ensure!(after <= Duration::from_secs(10), "{service}: {after:?}");
        let others = (is_refused(ann, "two").await?, is_refused(bob, "one").await?);
        if is_refused(ann, "one").await? {
            break others;
        }
    };
    let expected = match level {
        "service" => (true, true),
        "subject" => (true, false),
        _ => (false, true),
    };
    ensure!(others == expected, "{service}: {others:?}");
    // What it says is true, however often was asked meanwhile: what is refused draws nothing.
    for _ in 0..10 {
        if !is_refused(ann, "one").await? {
            return Ok(());
        }
    }
    let after = drain(ann, service, kind).await?;
    tokio::time::sleep(after).await;
    ensure!(!is_refused(ann, "one").await?, "{service} refuses longer than it has said");
    Ok(())
}

/// A limit that can't be reached, or never ends, or is another one than it says, would be none.
#[test]
fn each_kind_of_rate_at_each_level_refuses_and_passes_again() {
    scenario(async {
        let mut policy = String::new();
        let mut services = Vec::new();
        for level in LEVELS {
            for (kind, limits) in KINDS {
                let service = format!("{level}-{kind}");
                let of = if level == "service" { String::new() } else { format!(".{level}") };
                policy += &format!("[service.{service}.limits{of}]\n{limits}\n");
                services.push(service);
            }
        }
        let names: Vec<&str> = services.iter().map(String::as_str).collect();
        let limited = Limited::start(&policy, &names).await?;
        let (ann, bob) = (limited.of("ann").await?, limited.of("bob").await?);
        for level in LEVELS {
            // One after the other on one node, where each spins.
            let cheap = ["messages", "bytes"].map(|kind| use_up(&ann, &bob, level, kind));
            try_join_all(cheap).await?;
            use_up(&ann, &bob, level, "guest-time").await?;
        }
        let refused = limited.node.admin().metric("slotd_errors_total", "rate-limited").await?;
        ensure!(refused >= 27.0, "{refused}");
        Ok(())
    });
}

/// A socket that is closed for a refusal, or is not told, would lose the messages behind it.
#[test]
fn a_socket_goes_on_after_a_refused_frame() {
    scenario(async {
        let policy = "[service.hostile.limits.session]\nmessages = \"2/s\"\n\
                      [service.hostile.limits]\nsockets = 2\n";
        let limited = Limited::start(policy, &["hostile"]).await?;
        let api = limited.node.api();
        let path = session_path("hostile", "room");
        let mut socket =
            Socket::open(&api.client, &format!("{path}/socket?subscribe=false")).await?;
        let send =
            |id: usize| json!({"type": "send", "id": id.to_string(), "body": {"do": "echo"}});
        let (mut next, mut acks, mut refused) = (0, 0, Vec::new());
        // As many as it takes, on however fast a machine.
        while refused.is_empty() {
            for _ in 0..20 {
                socket.send(&send(next)).await?;
                next += 1;
            }
            for _ in 0..20 {
                let frame = tokio::time::timeout(SOON, socket.frame()).await??;
                match frame["type"].as_str() {
                    Some("ack") => acks += 1,
                    _ => refused.push(frame),
                }
            }
        }
        ensure!(acks >= 2, "{acks}");
        for frame in &refused {
            ensure!(frame["code"] == "rate-limited" && frame["status"] == 429, "{frame}");
            ensure!(frame["retriable"] == true, "{frame}");
        }
        let last = refused.last().context("none is refused")?;
        let id = last["id"].as_str().context("no id")?.parse()?;
        let after = last["retry_after_ms"].as_u64().context("no time")?;
        ensure!((1..=1_000).contains(&after), "{last}");
        tokio::time::sleep(Duration::from_millis(after)).await;
        socket.send(&send(id)).await?;
        let frame = tokio::time::timeout(SOON, socket.frame()).await??;
        ensure!(frame["type"] == "ack" && frame["id"] == last["id"], "{frame}");

        // One more socket, and no more; an event stream counts as one.
        let stream = Sse::open(&api.client, &format!("{path}/events"), None).await?;
        let full = api.client.get(&format!("{path}/events")).await?;
        let problem = expect_problem(&full, 429, "rate-limited")?;
        ensure!(problem.detail.contains("the limit of the service is reached: 2"), "{problem:?}");
        retry_after(&full)?;
        let shown = listed(&limited.node, &["limits", "hostile"]).await?;
        ensure!(shown["used"]["sockets"] == 2, "{shown}");
        drop(stream);
        eventually("the place of the one that was closed", async || {
            Ok(Sse::open(&api.client, &format!("{path}/events"), None).await.ok())
        })
        .await?;
        Ok(())
    });
}

/// An operator who has a client out of hand would have to restart, or would give it a burst with each edit.
#[test]
fn another_policy_holds_within_seconds_and_fills_no_bucket() {
    scenario(async {
        let table = "[service.hostile.limits]\nmessages = \"1/h\"\nburst = \"1h\"\n";
        let limited = Limited::start(table, &["hostile"]).await?;
        let (node, api) = (&limited.node, limited.node.api());
        let first = api.post("hostile", "one", echo().key("k1")).await?;
        let policy = first.header("ratelimit-policy").map(str::to_owned);
        ensure!(policy.as_deref() == Some("\"service-messages\";q=1;w=3600"), "{policy:?}");
        expect_refused(&api.post("hostile", "one", echo()).await?, "service-messages")?;
        // What became of it is answered all the same.
        let again = api.send("hostile", "one", echo().key("k1")).await?;
        ensure!(again.replayed && again.seq == 1, "{again:?}");

        let shown = good(node, &["limits", "hostile"]).await?;
        ensure!(shown.contains("messages") && shown.contains("1/h"), "{shown}");
        ensure!(shown.contains("[service.hostile.limits]"), "{shown}");
        limited.set(&format!("{table}bytes = \"1KiB/h\"\n"))?;
        eventually("the other policy", async || {
            let refused = api.post("hostile", "one", echo()).await?;
            expect_refused(&refused, "service-messages")?;
            let policy = refused.header("ratelimit-policy").unwrap_or_default();
            Ok(policy.contains("service-bytes").then_some(()))
        })
        .await?;
        // One with an error changes nothing; `config check` says where it is.
        limited.set("[service.hostile.limits]\nmessages = \"many\"\n")?;
        let file = limited.file.display().to_string();
        let check = node.run(&["config", "check", "--access-file", &file]).await?;
        ensure!(!check.status.success() && check.stderr.contains("policy.toml:2"), "{check:?}");
        ensure!(check.stderr.contains("1000/s"), "{check:?}");
        eventually("the fault in the log", async || {
            Ok(node.log().contains("keeping the old one").then_some(()))
        })
        .await?;
        expect_refused(&api.post("hostile", "one", echo()).await?, "service-messages")?;
        limited.set("")?;
        eventually("the end of all limits", async || {
            Ok((api.post("hostile", "one", echo()).await?.status == 200).then_some(()))
        })
        .await?;
        let shown: Value = listed(node, &["limits", "hostile"]).await?;
        ensure!(shown["of"].is_null() && shown["limits"] == json!({}), "{shown}");
        Ok(())
    });
}

/// A service would fill the disk of all, or could not say so to its clients; and one at its limit would be stuck for ever.
#[test]
fn a_service_keeps_no_more_than_it_may() {
    // What is stored is looked at twice a minute.
    scenario_within(Duration::from_secs(300), async {
        let policy = "[service.hostile.limits]\nsessions = 2\n\
                      [service.hostile.limits.session]\nstored = \"2KiB\"\n";
        let limited = Limited::start(policy, &["hostile"]).await?;
        let (node, api) = (&limited.node, limited.node.api());
        let grow =
            |bytes: usize| deed(&json!({"do": "set", "key": "k", "value": "x".repeat(bytes)}));
        api.send("hostile", "one", grow(1_000)).await?;
        let larger = api.post("hostile", "one", grow(3_000)).await?;
        let problem = expect_problem(&larger, 429, "quota-exceeded")?;
        ensure!(larger.header("retry-after").is_none(), "{:?}", larger.headers);
        ensure!(problem.more["retriable"] == false, "{problem:?}");
        api.send("hostile", "one", grow(10)).await?;
        api.send("hostile", "two", grow(10)).await?;
        let used = async || {
            let path = "/admin/v1/services/hostile/limits";
            let shown: Value = node.admin().client.get(path).await?.success()?.json()?;
            anyhow::Ok(shown["used"].clone())
        };
        eventually("the two sessions to be seen", async || {
            Ok((used().await?["sessions"] == 2).then_some(()))
        })
        .await?;
        let full = api.post("hostile", "three", grow(10)).await?;
        let problem = expect_problem(&full, 429, "quota-exceeded")?;
        ensure!(problem.detail.contains("may have 2"), "{problem:?}");
        // Those that there are go on, and room is made by deleting.
        api.send("hostile", "one", grow(20)).await?;
        ensure!(used().await?["stored"].as_u64() > Some(0), "{}", used().await?);
        api.delete("hostile", "two").await?.success()?;
        eventually("room for a session", async || {
            let answer = api.post("hostile", "another", grow(10)).await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        limited.set("[service.hostile.limits]\nstored = \"10\"\n")?;
        eventually("the limit of bytes", async || {
            let answer = api.post("hostile", "one", grow(10)).await?;
            if answer.status == 200 {
                return Ok(None);
            }
            let problem = expect_problem(&answer, 429, "quota-exceeded")?;
            Ok(problem.detail.contains("may store 10").then_some(()))
        })
        .await?;
        Ok(())
    });
}
