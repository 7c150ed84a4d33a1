//! `slotd plugin sim` on the included plugins: the good ones pass, and of the hostile one it finds what is wrong, as a script that
//! `slotd plugin test` fails with.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    node::{Finished, finish, scenario, slotd},
    plugins::{self, Lang},
};
use std::path::Path;

async fn sim(component: &str, args: &[&str], folder: &Path) -> anyhow::Result<Finished> {
    plugins::load(component)?;
    let mut command = slotd()?;
    command.args(["plugin", "sim"]).arg(folder).arg("--component").arg(plugins::path(component));
    command.args(args);
    finish(command).await
}

/// An author is to copy what is there; and one that finds faults in what has none is of no use.
#[test]
fn the_included_plugins_hold_what_their_rules_say() {
    scenario(async {
        let counters =
            [Lang::Rust, Lang::C, Lang::Js, Lang::Python].map(|lang| (lang.of("counter"), lang));
        let others =
            [("reservation".to_owned(), Lang::Rust), ("rate-limiter".to_owned(), Lang::Python)];
        for (plugin, lang) in counters.into_iter().chain(others) {
            if !lang.is_tested() {
                continue;
            }
            let of = if plugin.starts_with("counter") { "counter" } else { &*plugin };
            let args = ["--seed", "1", "--runs", "12", "--json"];
            let done = sim(&plugin, &args, &plugins::source(of)).await?;
            ensure!(done.status.success(), "{plugin}: {}{}", done.stdout, done.stderr);
            let report: Value = serde_json::from_str(&done.stdout)?;
            ensure!(report["runs"] == 12 && report["found"].is_null(), "{plugin}: {report}");
            ensure!(report["queries"].as_u64() > Some(100), "{plugin}: {report}");
            let settled = report["settled"].as_u64();
            ensure!(settled == Some(12), "{plugin}: its end is not looked at: {report}");
        }
        Ok(())
    });
}

/// What is found must be there when somebody else plays it, and the same each time.
#[test]
fn what_is_found_fails_as_a_script_and_is_the_same_for_the_same_seed() {
    scenario(async {
        let folder = tempfile::tempdir()?;
        let (dir, out) = (folder.path(), folder.path().join("found.jsonl"));
        let set = json!({"type": "object", "required": ["do", "key", "value"], "properties": {
            "do": {"const": "set"}, "key": {"enum": ["a", "b"]}, "value": {"type": "string"},
        }});
        let trap = json!({"const": {"do": "trap"}});
        std::fs::write(dir.join("messages.json"), json!({"oneOf": [set, trap]}).to_string())?;
        let messages = dir.join("messages.json");
        let messages = messages.to_str().context("a path that is not text")?;
        let to = out.to_str().context("a path that is not text")?;
        let args = ["--messages", messages, "--seed", "7", "--out", to];
        let first = sim("hostile-v1", &args, dir).await?;
        ensure!(first.status.code() == Some(8), "{}{}", first.stdout, first.stderr);
        let script = std::fs::read_to_string(&out)?;
        let lines: Vec<_> = script.lines().filter(|line| !line.starts_with("//")).collect();
        ensure!(lines.len() == 1 && lines[0].contains(r#"{"do":"trap"}"#), "{script}");
        let again = sim("hostile-v1", &args, dir).await?;
        ensure!(again.stdout == first.stdout, "{}\n{}", first.stdout, again.stdout);
        ensure!(std::fs::read_to_string(&out)? == script);
        let mut command = slotd()?;
        command.args(["plugin", "test"]).arg(dir).arg("--wasm").arg(&out);
        let played = finish(command.arg_component("hostile-v1")).await?;
        ensure!(played.status.code() == Some(1), "{}{}", played.stdout, played.stderr);
        ensure!(played.stdout.contains("0 of 1 calls as expected"), "{}", played.stdout);
        Ok(())
    });
}

/// The sessions of one shape would stay behind, and nobody would know before the deploy.
#[test]
fn a_second_version_that_refuses_a_state_is_found() {
    scenario(async {
        let folder = tempfile::tempdir()?;
        let dir = folder.path();
        let set = |value: &str| json!({"do": "set", "key": "migrate", "value": value});
        let schema = json!({"enum": [set("none"), set("refuse"), set("write-then-trap")]});
        std::fs::write(
            dir.join("sim.jsonl"),
            json!({"messages": schema, "to": ["a", "b"]}).to_string(),
        )?;
        let next = plugins::path("hostile-v2");
        let next = next.to_str().context("a path that is not text")?;
        let args = ["--next", next, "--seed", "3", "--json"];
        let done = sim("hostile-v1", &args, dir).await?;
        ensure!(done.status.code() == Some(8), "{}{}", done.stdout, done.stderr);
        let report: Value = serde_json::from_str(&done.stdout)?;
        let found = &report["found"];
        ensure!(
            found["kind"] == "migrate" && found["shown"] == true && found["steps"] == 3,
            "{found}"
        );
        let mut command = slotd()?;
        command.args(["plugin", "test"]).arg(dir).arg("--wasm");
        command.arg(found["script"].as_str().context("no script")?);
        let played = finish(command.arg_component("hostile-v1")).await?;
        ensure!(played.status.code() == Some(1), "{}{}", played.stdout, played.stderr);
        ensure!(played.stdout.contains("2 of 3 calls as expected"), "{}", played.stdout);
        Ok(())
    });
}

trait ArgComponent {
    fn arg_component(self, name: &str) -> Self;
}

impl ArgComponent for std::process::Command {
    fn arg_component(mut self, name: &str) -> Self {
        self.arg("--component").arg(plugins::path(name));
        self
    }
}
