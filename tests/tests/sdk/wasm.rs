//! The same scripts in `slotd plugin test --wasm`: a person who tests there must see what a node
//! does.

use crate::{
    play,
    suite::{COUNTER, SINK, is_tested},
};
use anyhow::ensure;
use slotd_tests::{
    node::{finish, scenario, slotd},
    plugins::{self, Lang},
};
use std::path::PathBuf;

/// These take the deadline that nodes have by default for what a busy machine may not do in it.
const NOT_HERE: &[&str] = &["limits.jsonl"];

pub fn run(lang: Lang) {
    if !is_tested(lang) {
        return;
    }
    scenario(async {
        test(&lang.of(COUNTER), play::files(COUNTER)?).await?;
        if lang.has_kitchen_sink() {
            let mut files = play::files(SINK)?;
            files.retain(|file| !NOT_HERE.iter().any(|name| file.ends_with(name)));
            files.extend(play::files("wasm")?);
            test(&lang.of(SINK), files).await?;
        }
        Ok(())
    });
}

/// The READMEs of these plugins point at their scripts, which could be wrong without anyone knowing.
#[test]
fn plugins_do_what_their_scripts_say() {
    scenario(async {
        for (plugin, lang) in [("reservation", Lang::Rust), ("rate-limiter", Lang::Python)] {
            if lang.is_tested() {
                test(plugin, vec![plugins::source(plugin).join("script.jsonl")]).await?;
            }
        }
        Ok(())
    });
}

/// Without it, a component that uses nothing new would be refused by a slotd from before.
#[test]
fn components_import_what_they_use_and_nothing_else() -> anyhow::Result<()> {
    let all = [("counter", Lang::Rust), ("reservation", Lang::Rust), ("counter-c", Lang::C)];
    for (plugin, _) in all.into_iter().filter(|(_, lang)| lang.is_tested()) {
        let component = plugins::load(plugin)?;
        let has = |name: &str| component.windows(name.len()).any(|at| at == name.as_bytes());
        ensure!(has("slotd:slot/state@"), "{plugin} has no names to look for");
        ensure!(!has("slotd:slot/http@"), "{plugin} asks over HTTP");
        ensure!(!has("slotd:slot/client@"), "{plugin} asks who its client is");
        ensure!(!has("watch-subscribers"), "{plugin} watches subscribers");
    }
    Ok(())
}

async fn test(plugin: &str, scripts: Vec<PathBuf>) -> anyhow::Result<()> {
    plugins::load(plugin)?;
    let mut command = slotd()?;
    command.args(["plugin", "test", "--component"]).arg(plugins::path(plugin));
    command.arg("--wasm").args(&scripts);
    let finished = finish(command).await?;
    ensure!(finished.status.success(), "{plugin}:\n{}{}", finished.stdout, finished.stderr);
    let good = finished.stdout.lines().filter(|line| line.ends_with("calls as expected")).count();
    ensure!(good == scripts.len(), "{plugin}:\n{}", finished.stdout);
    Ok(())
}
