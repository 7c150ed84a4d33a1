//! What is said where a handler fails, and what it logs.

use crate::suite::{SINK, Suite};
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    api::Message,
    node::eventually,
    plugins::{self, Lang},
};
use std::fs;

/// The plugin's own source, and words one of which is in a line that throws.
fn thrower(lang: Lang) -> (&'static str, &'static [&'static str]) {
    match lang {
        Lang::Rust => ("src/lib.rs", &["panic!"]),
        Lang::Js | Lang::Ts => ("src/handler.ts", &["throw "]),
        Lang::Python => ("handler.py", &["raise "]),
        Lang::C => ("src/handler.c", &["slotd_trap"]),
    }
}

/// The lines of the log of a level that have the text in them.
fn lines(log: &str, level: &str, text: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains("slotd::guest") && line.contains(text));
    lines.filter(|line| line.contains(level)).map(str::to_owned).collect()
}

/// Without it, who wrote a handler would learn that it trapped, and not where.
pub async fn traces(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    api.send(SINK, "traces", Message::json(&json!({"op": "clock"}))).await?;
    let messages = ["thrown by a message: ä 😀", "thrown by a query: ü"];
    let throw = json!({"op": "throw", "message": messages[0]});
    let answer = api.post(SINK, "traces", Message::json(&throw)).await?;
    ensure!(answer.status == 500, "{}", answer.text());
    let throw = json!({"op": "throw", "message": messages[1]});
    ensure!(api.query(SINK, "traces", &throw).await.is_err(), "a query that throws succeeded");
    for message in messages {
        told_where(suite, message).await.with_context(|| message.to_owned())?;
    }
    Ok(())
}

/// The log has the text at level error, and a place in the plugin's source where it throws.
async fn told_where(suite: &Suite, message: &str) -> anyhow::Result<()> {
    let (file, words) = thrower(suite.lang);
    let log = eventually("the trap's message in the log", async || {
        let log = suite.node.log();
        let at = log.lines().position(|line| line.contains("ERROR") && line.contains(message));
        // The trace may come before the message, or after it.
        Ok(at.map(|at| {
            let near = log.lines().skip(at.saturating_sub(12)).take(30);
            near.filter(|line| line.contains("slotd::guest")).collect::<Vec<_>>().join("\n")
        }))
    })
    .await?;
    let source = plugins::source(&suite.lang.of(SINK)).join(file);
    let text = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
    let places: Vec<usize> = places(&log, file).collect();
    ensure!(!places.is_empty(), "no place in {file} is told:\n{log}");
    let throws = |number: &usize| {
        let line = text.lines().nth(number.saturating_sub(1)).unwrap_or_default();
        words.iter().any(|word| line.contains(word))
    };
    ensure!(places.iter().any(throws), "lines {places:?} of {file} do not throw:\n{log}");
    Ok(())
}

/// The numbers after a file's name: `file:12`, `"file", line 12`.
fn places<'a>(text: &'a str, file: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(file).filter_map(move |(at, _)| {
        let rest = &text[at + file.len()..];
        let rest = rest.trim_start_matches(['"', '\'', '\\', ',', ':', ' ']);
        let rest = rest.strip_prefix("line ").unwrap_or(rest);
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse().ok()
    })
}

/// Without it, what a handler logs could be lost, or come at another level.
pub async fn log(suite: &Suite) -> anyhow::Result<()> {
    let api = suite.node.api();
    for level in ["trace", "debug", "info", "warn", "error"] {
        let text = format!("logged as {level}: größe 😀");
        let op = json!({"op": "log", "level": level, "text": text});
        api.send(SINK, "log", Message::json(&op)).await?;
        eventually(&text, async || {
            let found = lines(&suite.node.log(), &level.to_uppercase(), &text);
            Ok((!found.is_empty()).then_some(()))
        })
        .await?;
    }
    let op = json!({"op": "print", "text": "printed: größe 😀"});
    api.send(SINK, "log", Message::json(&op)).await?;
    eventually("what was printed", async || {
        let found = lines(&suite.node.log(), "INFO", "printed: größe 😀");
        Ok((!found.is_empty()).then_some(()))
    })
    .await
}

/// Without it, a version that can't bring a session over would take it down, or leave it changed.
pub async fn migrate(suite: &Suite) -> anyhow::Result<()> {
    const SERVICE: &str = "moved";
    let (api, admin) = (suite.node.api(), suite.node.admin());
    let sink = plugins::load(&suite.lang.of(SINK))?;
    let set = Message::json(&json!({"op": "set", "key": "k", "value": "ä"}));
    let get = |key: &str| json!({"op": "get", "key": key});
    // Born under each of these versions, then given to 1.0.0.
    for version in ["0.0.9", "0.0.8", "0.1.0"] {
        admin.deploy_as(SERVICE, plugins::variant(&sink, version), version).await?;
        let reply = api.send(SERVICE, version, set.clone()).await?;
        ensure!(reply.plugin.starts_with(version), "{reply:?}");
        let deployed = admin.deploy_as(SERVICE, sink.clone(), "1.0.0").await?;
        // A query migrates for itself alone, and then for good with the next message.
        for seq in [2, 3] {
            let asked = api.query(SERVICE, version, &get("k")).await?;
            ensure!(asked["value"] == "ä", "{version}: {asked}");
            let migrated = api.query(SERVICE, version, &get("migrated")).await?;
            let reply = api.send(SERVICE, version, set.clone()).await?;
            ensure!(reply.seq == seq, "{version}: {reply:?}");
            let expected = match version {
                "0.1.0" => json!({"from": "0.1.0"}),
                _ => Value::Null,
            };
            ensure!(migrated["value"] == expected, "{version}: migrated is {migrated}");
            let stays = reply.plugin != deployed.current.label;
            ensure!(stays == (version != "0.1.0"), "{version} is on {}", reply.plugin);
        }
    }
    let pinned = admin.pinned(SERVICE).await?;
    for (version, part) in [("0.0.9", "no way from 0.0.9"), ("0.0.8", "")] {
        let session = pinned.iter().find(|session| session.session == version);
        let pin = session.and_then(|session| session.pinned.as_ref());
        let Some(pin) = pin else { bail!("{version} is not pinned: {pinned:?}") };
        ensure!(pin.reason.contains(part) && !pin.reason.is_empty(), "{version}: {pin:?}");
    }
    ensure!(pinned.len() == 2, "{pinned:?}");
    Ok(())
}
