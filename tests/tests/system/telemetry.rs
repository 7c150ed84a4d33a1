//! What a node says of itself: its metrics and its log.

use crate::common::{deed, expect_problem, next_event, node_with};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::{Admin, Message, metric},
    cluster::place::Place,
    http::Client,
    node::{Addresses, eventually, scenario, slotd},
    plugins,
};
use std::{
    fs::{self, File},
    process::Stdio,
};

/// Without it, a metric could stand still, or count something else than it says, and nobody would
/// know until it is needed.
#[test]
fn metrics_move_with_what_they_count() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let (api, admin) = (node.api(), node.admin());
        let scrape = async || anyhow::Ok(admin.client.get("/metrics").await?.success()?.text());
        let mut before = scrape().await?;
        // How much each of these has grown since the last time.
        let mut grew = async |names: &[(&str, &str)]| -> anyhow::Result<Vec<f64>> {
            let now = scrape().await?;
            let last = std::mem::replace(&mut before, now);
            let of = |text: &str, (name, label): (&str, &str)| metric(text, name, label);
            Ok(names.iter().map(|&which| of(&before, which) - of(&last, which)).collect())
        };

        // One message, which reads, writes and emits nothing: one batch, one commit.
        let body = "x".repeat(100_000);
        let slot = api.send("hostile", "a", deed(&json!({"do": "echo", "body": body}))).await?.slot;
        let path = [
            ("slotd_messages_total", "service=\"hostile\""),
            ("slotd_append_seconds_count", ""),
            ("slotd_batch_messages_count", ""),
            ("slotd_batch_messages_sum", ""),
            ("slotd_guest_call_seconds_count", "service=\"hostile\",call=\"handle\""),
            ("slotd_http_requests_total", "status=\"200\""),
        ];
        let moved = grew(&path).await?;
        // The scrape before is a request, too.
        ensure!(moved[..5] == [1.0; 5] && moved[5] >= 1.0, "{path:?} grew by {moved:?}");
        let text = scrape().await?;
        for name in ["slotd_commit_seconds_count", "slotd_commit_slots_sum", "slotd_fsyncs_total"] {
            ensure!(metric(&text, name, "") >= 1.0, "{name} stands still");
        }
        for direction in ["in", "out"] {
            let label = format!("service=\"hostile\",direction=\"{direction}\"");
            let bytes = metric(&text, "slotd_message_bytes_total", &label);
            ensure!((100_000.0..110_000.0).contains(&bytes), "{bytes} bytes {direction}");
        }
        let bytes = metric(&text, "slotd_commit_bytes_sum", "");
        ensure!(bytes >= 100_000.0, "{bytes} bytes in all commits");
        for direction in ["in", "out"] {
            // The body came, and went back as the reply.
            let label = format!("direction=\"{direction}\"");
            let bytes = metric(&text, "slotd_http_bytes_total", &label);
            ensure!(bytes >= 100_000.0, "{bytes} bytes {direction}");
        }

        // Calls of the host, a call that traps, one that takes too long, one that takes too much,
        // one that rejects.
        api.send("hostile", "a", deed(&json!({"do": "set", "key": "k", "value": 1}))).await?;
        for (what, status, code) in [
            ("trap", 500, "plugin-trapped"),
            ("spin", 504, "plugin-deadline"),
            ("allocate", 500, "plugin-limit"),
            ("reject", 422, "rejected"),
        ] {
            let deed = deed(&json!({"do": what, "code": "as-told"}));
            let answer = api.post("hostile", "a", deed).await?;
            expect_problem(&answer, status, code).with_context(|| what.to_owned())?;
        }
        let bad = [
            ("slotd_traps_total", "kind=\"trap\""),
            ("slotd_traps_total", "kind=\"deadline\""),
            ("slotd_traps_total", "kind=\"limit\""),
            ("slotd_rejections_total", "service=\"hostile\""),
            ("slotd_errors_total", "code=\"plugin-trapped\""),
            ("slotd_errors_total", "code=\"plugin-deadline\""),
            ("slotd_errors_total", "code=\"plugin-limit\""),
            ("slotd_errors_total", "code=\"rejected\""),
            ("slotd_service_errors_total", "service=\"hostile\",code=\"plugin-trapped\""),
            ("slotd_service_errors_total", "service=\"hostile\",code=\"rejected\""),
            ("slotd_messages_total", ""),
            ("slotd_host_calls_total", "service=\"hostile\""),
        ];
        let moved = grew(&bad).await?;
        ensure!(moved[..11] == [1.0; 11] && moved[11] >= 1.0, "{bad:?} grew by {moved:?}");

        // What a socket is refused counts as well, and a name that nobody deployed makes no series.
        let mut socket = api.socket("hostile", "a", None).await?;
        let (reject, mut events) = (json!({"do": "reject", "code": "as-told"}), Vec::new());
        ensure!(socket.say("r", &reject, &mut events).await.is_err(), "it was not refused");
        drop(socket);
        expect_problem(
            &api.post("nobody", "a", deed(&json!({}))).await?,
            404,
            "service-not-found",
        )?;
        let by_socket = [
            ("slotd_errors_total", "code=\"rejected\""),
            ("slotd_service_errors_total", "service=\"hostile\",code=\"rejected\""),
            ("slotd_service_errors_total", "service=\"other\",code=\"service-not-found\""),
            ("slotd_service_errors_total", "service=\"nobody\""),
        ];
        let moved = grew(&by_socket).await?;
        ensure!(moved == [1.0, 1.0, 1.0, 0.0], "{by_socket:?} grew by {moved:?}");

        // Messages wait for a slot that is busy.
        let spin = || deed(&json!({"do": "spin"}));
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let (api, spin) = (api.clone(), spin());
                tokio::spawn(async move { api.post("hostile", "a", spin).await })
            })
            .collect();
        let label = format!("slot=\"{slot}\"");
        let depth = async || admin.metric("slotd_slot_mailbox_depth", &label).await;
        eventually("messages to wait", async || Ok((depth().await? >= 1.0).then_some(()))).await?;
        for answer in waiting {
            expect_problem(&answer.await??, 504, "plugin-deadline")?;
        }
        ensure!(depth().await? == 0.0, "messages wait for nothing");

        // What is open, and no longer is.
        let open = async |kind: &str| {
            admin.metric("slotd_open_sockets", &format!("kind=\"{kind}\"")).await
        };
        let mut socket = api.socket("hostile", "a", None).await?;
        let mut stream = api.events("hostile", "a", None, None).await?;
        let emit = json!({"do": "emit", "kind": "k", "body": 1});
        socket.say("1", &emit, &mut Vec::new()).await?;
        next_event(&mut stream).await?;
        let both = (open("websocket").await?, open("sse").await?);
        ensure!(both == (1.0, 1.0), "{both:?} are open");
        ensure!(open("http").await? >= 2.0, "they are connections, too");
        drop((socket, stream));
        eventually("both to be closed", async || {
            Ok((open("websocket").await? == 0.0 && open("sse").await? == 0.0).then_some(()))
        })
        .await
    });
}

/// Without it, a log that machines read could have lines that they can't.
#[test]
fn every_line_of_a_json_log_is_json() {
    scenario(async {
        let scratch = tempfile::Builder::new().prefix("slotd-test-").tempdir()?;
        let file = |name: &str| scratch.path().join(name);
        let mut serve = slotd()?;
        serve.args(["serve", "--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        serve.arg("--data-dir").arg(file("data")).arg("--addresses-file").arg(file("addresses"));
        serve.args(["--log-format", "json", "--log-filter", "debug"]);
        serve.stdout(Stdio::null()).stderr(File::create(file("log"))?);
        let mut node = Place::lasting()?.spawn(serve)?;
        let addresses: Addresses = eventually("the addresses", async || {
            ensure!(node.try_wait()?.is_none(), "{}", fs::read_to_string(file("log"))?);
            Ok(fs::read(file("addresses")).ok())
        })
        .await
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))?;
        let admin = Admin::new(Client::new(addresses.admin));
        eventually("readiness", async || {
            Ok((admin.client.get("/readyz").await?.status == 200).then_some(()))
        })
        .await?;
        admin.deploy("hostile", plugins::load("hostile-v1")?).await?;
        let api = slotd_tests::api::Api::new(Client::new(addresses.api));
        // External text: of a guest, and of a trap.
        let flood = json!({"do": "log-flood", "lines": 3});
        api.send("hostile", "a\"b", Message::json(&flood)).await?;
        for what in ["trap", "panic"] {
            let answer = api.post("hostile", "a\"b", deed(&json!({"do": what}))).await?;
            expect_problem(&answer, 500, "plugin-trapped")?;
        }
        let pid = rustix::process::Pid::from_raw(node.id() as i32).context("pid 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = eventually("the node's end", async || Ok(node.try_wait()?)).await?;
        ensure!(status.success(), "{status}");

        let log = fs::read_to_string(file("log"))?;
        let mut targets = Vec::new();
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            for name in ["timestamp", "level", "target", "message"] {
                ensure!(line[name].is_string(), "no {name} in {line}");
            }
            targets.push(line["target"].as_str().unwrap_or_default().to_owned());
        }
        for target in ["slotd::guest", "slotd::cli::serve"] {
            ensure!(targets.iter().any(|t| t.as_str() == target), "nothing of {target} in\n{log}");
        }
        Ok(())
    });
}
