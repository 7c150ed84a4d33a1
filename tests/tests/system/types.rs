//! What plugins say of their messages, on its way from the component to who writes a client.

use crate::common::{expect_problem, good};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use slotd_tests::{
    node::{Node, scenario},
    plugins,
};

const SECTION: &str = "slotd:types";

/// But for the first line, which says whose they are.
fn declarations(text: &str) -> anyhow::Result<&str> {
    Ok(text.split_once('\n').context("no line")?.1)
}

async fn types_of(node: &Node, service: &str) -> anyhow::Result<Value> {
    let path = format!("/admin/v1/services/{service}/types");
    node.admin().client.get(&path).await?.success()?.json()
}

/// Without it, a client would be written for another version than the one that runs, or for a file that nobody has any more.
#[test]
fn the_types_of_a_service_are_those_of_the_component_that_runs() {
    scenario(async {
        let node = Node::start().await?;
        let admin = node.admin();
        admin.deploy("chat", plugins::load("chat-v1")?).await?;
        let file = plugins::path("chat-v1").to_string_lossy().into_owned();
        let of_file = good(&node, &["plugin", "types", &file]).await?;
        let of_node = good(&node, &["plugin", "types", "chat", "--lang", "ts"]).await?;
        ensure!(of_node.starts_with("// Types of chat 1.0.0. Made by"), "{of_node}");
        ensure!(declarations(&of_file)? == declarations(&of_node)?, "{of_file}\n{of_node}");
        for expected in ["export interface Message {", "export interface Events {\n  line: "] {
            ensure!(of_node.contains(expected), "{expected}: {of_node}");
        }
        // The same as the schemas, which are those that the plugin's tests hold against its types.
        let source = plugins::source("chat").join("types.json");
        let source: Value = serde_json::from_str(&std::fs::read_to_string(source)?)?;
        let schemas = good(&node, &["plugin", "types", "chat", "--lang", "json"]).await?;
        ensure!(serde_json::from_str::<Value>(&schemas)? == source, "{schemas}");
        let answer = types_of(&node, "chat").await?;
        ensure!(answer["types"] == source && answer["version"] == "1.0.0", "{answer}");
        let out = node.scratch().join("chat.ts");
        let out = out.to_string_lossy();
        let said = good(&node, &["plugin", "types", "chat", "--out", &out]).await?;
        ensure!(said == format!("{out}: types of chat 1.0.0\n"), "{said}");
        ensure!(std::fs::read_to_string(&*out)? == of_node);

        // What runs now says nothing, and what ran before does not count.
        let counter = plugins::load("counter")?;
        admin.deploy_as("chat", counter, "2.0.0").await?;
        ensure!(types_of(&node, "chat").await?["types"].is_null());
        let none = node.run(&["plugin", "types", "chat"]).await?;
        ensure!(none.status.code() == Some(1), "{none:?}");
        ensure!(none.stderr.contains("chat 2.0.0 says nothing of the types"), "{none:?}");
        let unknown = node.run(&["plugin", "types", "nobody"]).await?;
        ensure!(unknown.stderr.contains("nobody"), "{unknown:?}");
        Ok(())
    });
}

/// An author would learn of a slip in the schemas from who writes a client, months later.
#[test]
fn a_component_that_says_what_nobody_can_read_is_not_deployed() {
    scenario(async {
        let node = Node::start().await?;
        let admin = node.admin();
        let counter = plugins::load("counter")?;
        for (section, says) in [
            (&b"{"[..], "it is no JSON object"),
            (br#"{"format": 1, "event": {}}"#, "it has \"event\"; format 1 has message"),
            (&vec![b' '; 300_000], "it has 300000 bytes; 262144 are allowed"),
        ] {
            let component = plugins::with_section(&counter, SECTION, section);
            let answer = admin.upload("counter", component).await?;
            let problem = expect_problem(&answer, 422, "plugin-refused")?;
            let says = format!("its `{SECTION}` section: {says}");
            ensure!(problem.detail.contains(&says), "{says}: {problem:?}");
        }
        let services: Value = admin.client.get("/admin/v1/services").await?.success()?.json()?;
        ensure!(services["services"] == json!([]), "{services}");

        // It may be for a later slotd; what it does, this one can.
        let later = plugins::with_section(&counter, SECTION, br#"{"format": 2, "streams": []}"#);
        admin.deploy("counter", later).await?;
        ensure!(types_of(&node, "counter").await?["types"].is_null());
        Ok(())
    });
}
