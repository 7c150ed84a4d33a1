//! The audit log: no change without a line, over kills and full disks, and nothing secret in it.

use crate::common::{SOON, good, listed, node_with};
use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::Method;
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    disk::SmallDisk,
    http::Client,
    node::{Node, NodeOptions, eventually, fill_up, scenario},
    plugins,
};
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

const ADMIN: &str = "/admin/v1";
const STARTED: &str = "started";

/// All changes, the oldest first; without the starts of the node.
async fn audit(node: &Node) -> anyhow::Result<Vec<Value>> {
    let mut all = whole_audit(node).await?;
    all.retain(|change| !is(change, STARTED));
    Ok(all)
}

/// All of it, the oldest first.
async fn whole_audit(node: &Node) -> anyhow::Result<Vec<Value>> {
    let client = node.admin().client;
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("{ADMIN}/audit?limit=1000&after={after}");
        let mut page: Value = client.get(&path).await?.success()?.json()?;
        all.append(page["changes"].as_array_mut().context("no changes")?);
        after = page["next_after"].as_u64().context("no next_after")?;
        if page["more"] != true {
            return Ok(all);
        }
    }
}

fn is(change: &Value, action: &str) -> bool {
    change["action"] == action
}

fn files(data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(data_dir.join("audit"))?;
    let mut files: Vec<_> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    Ok(files)
}

/// Without it, a route that somebody adds could change a node, and nobody would know who did.
#[test]
fn each_route_that_changes_something_writes_a_line() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        node.api().send("counter", "a", Message::bytes("x")).await?;
        let admin = node.admin().client;
        let document: Value = node.api().client.get("/openapi.json").await?.json()?;
        let mut expected = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().context("no paths")? {
            // This asks who may do what; see below.
            if !path.starts_with("/admin/") || path == "/admin/v1/access/explain" {
                continue;
            }
            let concrete = path
                .replace("{service}", "counter")
                .replace("{session}", "a")
                .replace("{slot}", "600")
                .replace("{node}", "none")
                .replace("{name}", "none")
                .replace('{', "7")
                .replace('}', "");
            for method in methods.as_object().into_iter().flat_map(|methods| methods.keys()) {
                let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
                if ["POST", "PUT", "DELETE", "PATCH"].contains(&method.as_str()) {
                    let answer = admin.request(method.clone(), &concrete, &[], "").await?;
                    ensure!(answer.status != 404 || answer.problem()?.code != "route-not-found");
                    expected.insert(format!("{method} {path}"));
                }
            }
        }
        ensure!(expected.len() > 15, "{expected:?}");
        let written: BTreeSet<_> = audit(&node)
            .await?
            .iter()
            .filter(|change| change["outcome"] != "under-way" && change["status"].is_u64())
            .filter_map(|change| Some(change["action"].as_str()?.to_owned()))
            .collect();
        let missing: Vec<_> = expected.difference(&written).collect();
        ensure!(missing.is_empty(), "no line of {missing:?}");
        // Reads have none.
        ensure!(written.iter().all(|action| !action.starts_with("GET")), "{written:?}");
        let verified = good(&node, &["audit-log", "--verify"]).await?;
        ensure!(verified.contains("in order"), "{verified}");
        Ok(())
    });
}

/// What an operator looks for after an incident: who deployed what, in place of what, from where.
#[test]
fn a_line_says_who_changed_what_and_what_came_of_it() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        let admin = node.admin();
        let counter = plugins::load("counter")?;
        let first = admin.service("counter").await?.current.label;
        admin.deploy_as("counter", plugins::variant(&counter, "2"), "9.0.0").await?;
        let refused =
            admin.client.post(&format!("{ADMIN}/services/counter/deploy"), "none").await?;
        ensure!(refused.status == 422, "{refused:?}");
        admin.rollback("counter").await?;
        node.api().send("counter", "a", Message::bytes("x")).await?;
        let deleted = format!("{ADMIN}/services/counter/sessions?prefix=");
        admin.client.request(Method::DELETE, &deleted, &[], "").await?.success()?;

        let all = audit(&node).await?;
        let actions: Vec<_> = all.iter().map(|c| c["action"].as_str().unwrap_or("?")).collect();
        let deploy = "POST /admin/v1/services/{service}/deploy";
        let rollback = "POST /admin/v1/services/{service}/rollback";
        let delete = "DELETE /admin/v1/services/{service}/sessions";
        ensure!(actions == [deploy, deploy, deploy, rollback, delete], "{actions:?}");
        let [one, two, three, four, five] = &all[..] else { unreachable!("there are five") };
        ensure!(one["outcome"] == "done" && one["status"] == 200, "{one}");
        ensure!(one["who"] == "anyone" && one["from"] == "127.0.0.1", "{one}");
        ensure!(one["subject"]["service"] == "counter" && one["verb"] == "deploy", "{one}");
        ensure!(one.get("before").is_none(), "{one}");
        let digest = one["after"]["digest"].as_str().context("no digest")?;
        ensure!(first.ends_with(&digest[..12]) && one["asked"]["digest"] == digest, "{one}");
        ensure!(two["before"]["digest"] == digest && two["after"]["version"] == "9.0.0", "{two}");
        ensure!(three["outcome"] == "failed" && three["code"] == "plugin-refused", "{three}");
        ensure!(four["after"]["digest"] == digest && four["before"]["version"] == "9.0.0");
        ensure!(five["after"]["sessions"] == 1 && five["verb"] == "operate", "{five}");

        // As people see it.
        let table = good(&node, &["audit-log"]).await?;
        for expected in ["POST services/deploy", "failed: plugin-refused", "-> 9.0.0", "127.0.0.1"]
        {
            ensure!(table.contains(expected), "{expected:?} is not in\n{table}");
        }
        let one = good(&node, &["audit-log", "--limit", "1"]).await?;
        ensure!(one.lines().count() == 2 && one.contains("DELETE services/sessions"), "{one}");
        let json = good(&node, &["audit-log", "--json", "--since", "1h"]).await?;
        ensure!(json.lines().count() == 6, "with the node's start: {json}");
        // It is there after a kill, and nobody else can read it.
        node.kill()?;
        node.restart().await?;
        ensure!(audit(&node).await?.len() == 5);
        // Nothing was changed while it was down.
        let all = whole_audit(&node).await?;
        let starts: Vec<_> = all.iter().filter(|change| is(change, STARTED)).collect();
        ensure!(starts.len() == 2 && starts[0]["after"]["config"].is_string(), "{starts:?}");
        ensure!(starts[0]["after"]["admin_token"] == starts[1]["after"]["admin_token"]);
        for file in files(node.data_dir())? {
            let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
            ensure!(mode == 0o600, "{mode:o} {}", file.display());
        }
        Ok(())
    });
}

/// A change that was begun when the node was killed may have been made: the log must not be silent
/// of it.
#[test]
fn what_was_under_way_at_a_kill_is_of_unknown_outcome() {
    scenario(async {
        let mut node = node_with("counter", "counter").await?;
        // An upload that does not end.
        let (client, path) = (node.admin().client, format!("{ADMIN}/services/slow/deploy"));
        let upload = tokio::spawn(async move {
            let chunks = futures_util::stream::iter([Bytes::from_static(b"\0asm")])
                .chain(futures_util::stream::pending());
            client.request_chunked(Method::POST, &path, &[], chunks).await
        });
        let slow = |change: &&Value| change["subject"]["service"] == "slow";
        eventually("its intent", async || {
            let all = audit(&node).await?;
            let found = all.iter().find(slow);
            ensure!(found.is_none_or(|change| change["outcome"] == "under-way"), "{found:?}");
            Ok(found.map(drop))
        })
        .await?;
        node.kill()?;
        upload.abort();
        // As if it had been killed in the middle of a line.
        let last = files(node.data_dir())?.pop().context("no file")?;
        OpenOptions::new().append(true).open(&last)?.write_all(b"{\"format\":1,\"num")?;
        node.restart().await?;
        let all = audit(&node).await?;
        let found = all.iter().find(slow).context("it is gone")?;
        ensure!(found["outcome"] == "unknown", "{found}");
        let cut = all.iter().find(|change| is(change, "line-cut")).context("no word of it")?;
        ensure!(cut["who"] == "slotd" && cut["before"]["bytes"] == 16, "{cut}");
        node.admin().deploy("other", plugins::load("counter")?).await?;
        good(&node, &["audit-log", "--verify"]).await?;
        // A line that is changed is found.
        let text = fs::read_to_string(&last)?;
        fs::write(&last, text.replacen("anyone", "nobody", 1))?;
        let found = node.run(&["audit-log", "--verify"]).await?;
        ensure!(!found.status.success() && found.stderr.contains("damaged"), "{found:?}");
        Ok(())
    });
}

/// Whoever may read the log must not learn a token or what sessions keep from it.
#[test]
fn nothing_secret_is_in_the_log() {
    scenario(async {
        const TOKEN: &str = "adm1n-3x4mpl3-t0k3n";
        const WRONG: &str = "wr0ng-3x4mpl3-t0k3n";
        const VALUE: &str = "planted-state-value";
        const BASE64: &str = "cGxhbnRlZC1zdGF0ZS12YWx1ZQ==";
        let mut node = Node::start_with(NodeOptions {
            admin_token: Some(TOKEN.into()),
            ..NodeOptions::default()
        })
        .await?;
        let admin = node.admin();
        admin.deploy("counter", plugins::load("counter")?).await?;
        node.api().send("counter", "a", Message::bytes("x")).await?;
        let path = format!("{ADMIN}/services/counter/sessions/a/state");
        for body in [
            json!({"changes": [{"key": "k", "value": VALUE}], "reason": "r"}),
            json!({"changes": [{"key": "k", "value_base64": BASE64}]}),
            json!({"changes": VALUE}),
        ] {
            let json = [("content-type", "application/json")];
            admin.client.request(Method::POST, &path, &json, body.to_string()).await?;
        }
        admin.client.post(&format!("{ADMIN}/rebalance?access_token={TOKEN}"), "").await?;
        let stranger = Client::new(admin.client.address());
        let refused =
            stranger.clone().with_token(WRONG).post(&format!("{ADMIN}/rebalance"), "").await?;
        ensure!(refused.status == 401, "{refused:?}");
        let refused = stranger.post(&format!("{ADMIN}/reset?access_token={WRONG}"), "").await?;
        ensure!(refused.status == 401, "{refused:?}");

        let all = audit(&node).await?;
        let state: Vec<_> = all.iter().filter(|c| c["subject"]["session"] == "a").collect();
        ensure!(state.len() == 3 && state[0]["after"]["seq"] == 2, "{state:?}");
        ensure!(state[0]["who"] == "root" && state[2]["outcome"] == "failed", "{state:?}");
        let refused: Vec<_> = all.iter().filter(|change| change["outcome"] == "refused").collect();
        ensure!(refused.len() == 2 && refused.iter().all(|c| c["who"] == "anyone"), "{refused:?}");
        node.kill()?;
        for file in files(node.data_dir())? {
            let text = fs::read_to_string(&file)?;
            for secret in [TOKEN, WRONG, VALUE, BASE64] {
                ensure!(!text.contains(secret), "{secret} is in {}", file.display());
            }
        }
        Ok(())
    });
}

/// One name for all who have the static token would leave the question who it was.
#[test]
fn a_line_names_whose_token_it_was() {
    scenario(async {
        const TOKEN: &str = "adm1n-3x4mpl3-t0k3n";
        let mut node = Node::start_with(NodeOptions {
            admin_token: Some(TOKEN.into()),
            ..NodeOptions::default()
        })
        .await?;
        let admin = node.admin().client;
        let wanted = json!({"name": "ci", "allow": ["operate"], "on": ["*"], "ttl": "1h"});
        let json = [("content-type", "application/json")];
        let path = format!("{ADMIN}/tokens");
        let made = admin.request(Method::POST, &path, &json, wanted.to_string()).await?;
        let made: Value = made.success()?.json()?;
        let token = made["token"].as_str().context("no token")?;
        let ci = Client::new(admin.address()).with_token(token);
        ci.post(&format!("{ADMIN}/rebalance"), "").await?.success()?;
        let refused = ci.post(&format!("{ADMIN}/services/counter/deploy"), "x").await?;
        ensure!(refused.status == 403, "{refused:?}");
        admin.request(Method::DELETE, &format!("{path}/ci"), &[], "").await?.success()?;
        let all = audit(&node).await?;
        let shown: Vec<_> =
            all.iter().map(|c| (c["who"].as_str(), c["outcome"].as_str())).collect();
        let (root, ci) = (Some("root"), Some("token:ci"));
        let (done, refused) = (Some("done"), Some("refused"));
        ensure!(shown == [(root, done), (ci, done), (ci, refused), (root, done)], "{shown:?}");
        ensure!(all[0]["asked"]["name"] == "ci" && all[0]["asked"]["allow"][0] == "operate");
        ensure!(all[2]["code"] == "forbidden" && all[3]["subject"]["name"] == "ci", "{all:?}");
        node.kill()?;
        for file in files(node.data_dir())? {
            let text = fs::read_to_string(&file)?;
            ensure!(!text.contains(token) && !text.contains(TOKEN), "a token is in the log");
        }
        Ok(())
    });
}

/// Whoever tries tokens must not push what happened before out of the log.
#[test]
fn a_flood_of_wrong_tokens_is_counted() {
    scenario(async {
        let token = Some("adm1n-3x4mpl3-t0k3n".to_owned());
        let options = NodeOptions { admin_token: token, ..NodeOptions::default() };
        let node = Node::start_with(options).await?;
        let stranger = Client::new(node.admin().client.address());
        for _ in 0..200 {
            let refused = stranger.post(&format!("{ADMIN}/rebalance"), "").await?;
            ensure!(refused.status == 401, "{refused:?}");
        }
        node.admin().client.post(&format!("{ADMIN}/level"), "").await?;
        let all = audit(&node).await?;
        ensure!(all.len() < 40, "{} lines", all.len());
        Ok(())
    });
}

/// A disk that is full must not make changes that nobody hears of, nor the node one that nobody can
/// steer once there is room again.
#[test]
fn on_a_full_disk_nothing_is_changed() {
    let mounted = SmallDisk::mount_or_skip("on_a_full_disk_nothing_is_changed", 192);
    let Some(disk) = mounted.expect("a place for it") else { return };
    scenario(full_disk(disk.path().to_owned()));
    drop(disk);
}

async fn full_disk(disk: PathBuf) -> anyhow::Result<()> {
    let node = Node::start_with(NodeOptions {
        data_dir: Some(disk.join("data")),
        args: ["--store-disk-reserve", "16MiB"].map(String::from).to_vec(),
        ..NodeOptions::default()
    })
    .await?;
    node.admin().deploy("counter", plugins::load("counter")?).await?;
    let before = audit(&node).await?.len();
    let ballast = disk.join("ballast");
    fill_up(&ballast)?;
    let client = node.admin().client;
    let path = format!("{ADMIN}/rebalance");
    eventually("a refusal", async || {
        let answer = client.post(&path, "").await?;
        if answer.status == 200 {
            return Ok(None);
        }
        let problem = answer.problem()?;
        ensure!(problem.code == "storage-unavailable", "{problem:?}");
        ensure!(problem.detail.contains("nothing was changed"), "{problem:?}");
        Ok(Some(()))
    })
    .await?;
    // What is there can be read.
    ensure!(audit(&node).await?.len() >= before);
    fs::remove_file(&ballast)?;
    eventually("room again", async || {
        Ok((client.post(&path, "").await?.status == 200).then_some(()))
    })
    .await?;
    good(&node, &["audit-log", "--verify"]).await?;
    Ok(())
}

/// A token that is replaced by a signal has no request, and gives somebody else the listener.
#[test]
fn what_changes_without_a_request_has_a_line_too() {
    scenario(async {
        let scratch = tempfile::tempdir()?;
        let file = scratch.path().join("token");
        fs::write(&file, "first-3x4mpl3-t0k3n")?;
        // Readable by all: the node says so.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        let shown = file.to_string_lossy().into_owned();
        let node = Node::start_with(NodeOptions {
            args: vec!["--admin-token-file".into(), shown.clone()],
            ..NodeOptions::default()
        })
        .await;
        // The test's client has no token for its look whether the node is ready, which needs none.
        let node = node?;
        ensure!(node.log().contains(&format!("chmod o-rwx {shown}")), "{}", node.log());
        fs::write(&file, "other-3x4mpl3-t0k3n")?;
        node.signal(rustix::process::Signal::HUP)?;
        let client = Client::new(node.admin().client.address()).with_token("other-3x4mpl3-t0k3n");
        let all = eventually("the new token", async || {
            let answer = client.get(&format!("{ADMIN}/audit")).await?;
            Ok((answer.status == 200).then_some(answer))
        })
        .await?;
        let all: Value = all.json()?;
        let changes = all["changes"].as_array().context("no changes")?;
        let change = changes.iter().find(|change| !is(change, STARTED)).context("no change")?;
        ensure!(is(change, "static-token-replaced") && change["who"] == "slotd", "{all}");
        ensure!(change["subject"]["listener"] == "admin", "{all}");
        Ok(())
    });
}

/// `--follow` is how somebody watches a deploy from elsewhere.
#[test]
fn the_log_can_be_followed() {
    scenario(async {
        let node = node_with("counter", "counter").await?;
        let mut command = node.command()?;
        command.args(["audit-log", "--follow", "--json"]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let out = BufReader::new(child.stdout.take().context("no output")?);
        let (line, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let reader = std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|text| line.send(text)).ok()
        });
        let mut next = async || -> anyhow::Result<Value> {
            let line = tokio::time::timeout(SOON, lines.recv()).await?;
            Ok(serde_json::from_str(&line.context("it ended")?)?)
        };
        ensure!(is(&next().await?, STARTED));
        ensure!(is(&next().await?, "POST /admin/v1/services/{service}/deploy"));
        node.admin().client.post(&format!("{ADMIN}/rebalance"), "").await?.success()?;
        loop {
            let change = next().await?;
            ensure!(is(&change, "POST /admin/v1/rebalance"), "{change}");
            if change["outcome"] == "done" {
                break;
            }
        }
        child.kill()?;
        child.wait()?;
        ensure!(reader.join().is_ok());
        let last = listed(&node, &["audit-log", "--verify"]).await?;
        ensure!(last["ok"] == true && last["lines"] == 5, "{last}");
        Ok(())
    });
}
