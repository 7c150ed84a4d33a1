//! What `slotd plugin new` writes, unchanged: the first thing that anyone deploys, and goes back to.

use crate::suite::is_tested;
use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::json;
use slotd_tests::{
    api::Message,
    node::{Finished, Node, finish, scenario_within, slotd},
    plugins::{self, Lang},
};
use std::{path::Path, time::Duration};

/// Tools are fetched, and a crate is built from nothing.
const WITHIN: Duration = Duration::from_secs(600);
const SERVICE: &str = "poll";

/// Without it, a template's tests could fail for whoever begins with it, and its `migrate`, which
/// agrees to other builds of its version without a look at the state, be taken for none: then
/// nobody could roll back.
pub fn run(lang: Lang) {
    if !is_tested(lang) {
        return;
    }
    scenario_within(WITHIN, async {
        let scratch = tempfile::Builder::new().prefix("slotd-template-").tempdir()?;
        let dir = scratch.path().join(SERVICE);
        let path = dir.to_string_lossy().into_owned();
        good(&["plugin", "new", SERVICE, "--lang", lang.name(), "--path", &path], None).await?;
        good(&["plugin", "test"], Some(&dir)).await?;
        good(&["plugin", "build", "--out", "poll.wasm"], Some(&dir)).await?;
        let component = Bytes::from(std::fs::read(dir.join("poll.wasm"))?);

        let node = Node::start().await?;
        let (api, admin) = (node.api(), node.admin());
        let vote = || Message::json(&json!({"vote": "tea"})).from("ann");
        let first = admin.deploy(SERVICE, component.clone()).await?.current;
        api.send(SERVICE, "a", vote()).await?;
        let patch = plugins::variant(&component, "patch");
        let second = admin.deploy_as(SERVICE, patch, "0.1.1").await?.current;
        ensure!(api.send(SERVICE, "a", vote()).await?.plugin == second.label);
        admin.rollback(SERVICE).await.context("its migrate reads every 0.1")?;
        let sent = api.send(SERVICE, "a", vote()).await?;
        ensure!(sent.plugin == first.label && sent.json()? == json!({"votes": 1}), "{sent:?}");

        // Of a version that it does not know it says so, before anything is done.
        let next = plugins::variant(&component, "next");
        let next = admin.deploy_as(SERVICE, next, "0.2.0").await?.current;
        let sent = api.send(SERVICE, "b", vote()).await?;
        ensure!(sent.plugin == next.label, "{sent:?}");
        let refused = node.run(&["rollback", SERVICE]).await?;
        let says = "poll 0.1 can't read the state of 0.2.0";
        ensure!(refused.status.code() == Some(4) && refused.stderr.contains(says), "{refused:?}");
        ensure!(admin.service(SERVICE).await?.current.label == next.label);
        Ok(())
    });
}

async fn good(args: &[&str], dir: Option<&Path>) -> anyhow::Result<()> {
    let mut command = slotd()?;
    command.args(args).env_remove("CARGO_TARGET_DIR");
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    if let Some(tools) = std::env::var_os("SLOTD_TEST_TOOLS") {
        command.env("CARGO_TARGET_DIR", Path::new(&tools).join("page-target"));
        command.env("SLOTD_TOOLS_DIR", tools);
    }
    let Finished { status, stdout, stderr } = finish(command).await?;
    ensure!(status.success(), "slotd {}:\n{stdout}{stderr}", args.join(" "));
    Ok(())
}
