//! Captures, as docs/capture.md tells them: made of a history, made by a node, run with no server, and as tests.

use crate::common::{deed, good, listed, node_with, say};
use anyhow::{Context, ensure};
use serde_json::json;
use slotd_tests::{
    api::Message,
    node::{eventually, run_slotd, scenario},
    plugins,
};
use std::{fs, path::Path};

/// The exit code, and what was printed.
async fn slotd(args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let done = run_slotd(args).await?;
    Ok((done.status.code(), format!("{}{}", done.stdout, done.stderr)))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A handler that traps in production has to trap on a laptop, and no more once it is mended: else a capture is only a file.
#[test]
fn a_trap_of_production_becomes_a_test() {
    scenario(async {
        let node = node_with("hostile", "hostile-v1").await?;
        let (api, dir) = (node.api(), node.scratch());
        let set = deed(&json!({"do": "set", "key": "kept", "value": 1}));
        api.send("hostile", "bad", set).await?;
        let failed = api.post("hostile", "bad", deed(&json!({"do": "trap"}))).await?;
        ensure!(failed.status == 500, "{failed:?}");
        let name = eventually("a capture", async || {
            let list = listed(&node, &["captures", "hostile"]).await?;
            Ok(list["captures"][0]["name"].as_str().map(str::to_owned))
        })
        .await?;
        ensure!(good(&node, &["captures"]).await?.contains("hostile/bad message 2"));
        let plugin = dir.join("plugin");
        fs::create_dir_all(plugin.join("captures"))?;
        let file = plugin.join("captures/bug.capture.json");
        good(&node, &["captures", "--get", &name, "-o", text(&file)]).await?;
        let [one, two] = ["hostile-v1", "hostile-v2"].map(|name| dir.join(name));
        fs::write(&one, plugins::load("hostile-v1")?)?;
        fs::write(&two, plugins::load("counter")?)?;

        let without = slotd(&["plugin", "replay", text(&file)]).await?;
        ensure!(without.0 == Some(1) && without.1.contains("--wasm"), "{without:?}");
        let again = slotd(&["plugin", "replay", text(&file), "--wasm", text(&one)]).await?;
        ensure!(again.0 == Some(1) && again.1.contains("not as it should be"), "{again:?}");
        let args = ["plugin", "test", text(&plugin), "--wasm", "--component"];
        let tested = slotd(&[&args[..], &[text(&one)]].concat()).await?;
        ensure!(tested.0 == Some(1) && tested.1.contains("bug.capture.json"), "{tested:?}");
        // Another component answers, or says no: it does not trap.
        let mended = slotd(&[&args[..], &[text(&two)]].concat()).await?;
        ensure!(mended.0 == Some(0), "{mended:?}");

        let damaged = dir.join("damaged.json");
        let bytes = fs::read(&file)?;
        fs::write(&damaged, &bytes[..bytes.len() / 2])?;
        let refused = slotd(&["plugin", "replay", text(&damaged)]).await?;
        ensure!(refused.0 == Some(1) && refused.1.contains("damaged"), "{refused:?}");
        let newer =
            String::from_utf8(bytes)?.replace("\"slotd_capture\": 1", "\"slotd_capture\": 7");
        fs::write(&damaged, newer)?;
        let refused = slotd(&["plugin", "replay", text(&damaged)]).await?;
        ensure!(refused.0 == Some(1) && refused.1.contains("format 7"), "{refused:?}");

        good(&node, &["captures", "--remove", &name]).await?;
        let list = listed(&node, &["captures"]).await?;
        ensure!(list["captures"] == json!([]), "{list:#}");
        Ok(())
    });
}

/// Of a message that was answered: the same comes out of its file, what is redacted is in no part of it, and a reply that was
/// accepted is what is expected from then on.
#[test]
fn a_message_of_a_history_runs_again_with_no_server() {
    scenario(async {
        let node = node_with("chat", "chat-v1").await?;
        let (api, dir) = (node.api(), node.scratch());
        for text in ["hello", "my card is 4111"] {
            let message: Message = say("ann", text);
            api.send("chat", "room-1", message).await?;
        }
        let file = dir.join("chat.capture.json");
        let made = ["capture", "chat", "room-1", "-o", text(&file), "--with-component"];
        good(&node, &made).await?;
        let replayed = slotd(&["plugin", "replay", text(&file)]).await?;
        ensure!(replayed.0 == Some(0) && replayed.1.contains("the same"), "{replayed:?}");
        let redacted = dir.join("redacted.capture.json");
        let made = ["capture", "chat", "room-1", "2", "--redact", "$..text", "-o", text(&redacted)];
        good(&node, &made).await?;
        let file_text = fs::read_to_string(&redacted)?;
        ensure!(!file_text.contains("4111"), "{file_text}");
        let wasm = dir.join("chat.wasm");
        fs::write(&wasm, plugins::load("chat-v1")?)?;
        let accepted =
            slotd(&["plugin", "replay", text(&redacted), "--wasm", text(&wasm), "--accept"])
                .await?;
        ensure!(accepted.0 == Some(0), "{accepted:?}");
        let file_text = fs::read_to_string(&redacted).context("the file that was accepted")?;
        ensure!(file_text.contains("\"expected\""), "{file_text}");
        let none = node.run(&["capture", "chat", "room-1", "99"]).await?;
        ensure!(none.status.code() == Some(4), "{none:?}");
        let wrong = node.run(&["capture", "chat", "room-1", "--redact", "card"]).await?;
        ensure!(wrong.status.code() == Some(4), "{wrong:?}");
        Ok(())
    });
}
