//! The same counter in several languages, compared with Rust's and the ceiling. The program
//! `bench-languages` measures the other costs of a language.

use crate::{
    Args, CONNECTIONS, SERVICE,
    ceiling::Ceiling,
    report::{Spread, row},
    start_with,
};
use anyhow::{Context, ensure};
use serde::Serialize;
use slotd_tests::{
    load::{Outcome, Plan},
    node::Node,
    plugins::{self, Lang},
};
use std::path::Path;

/// Rust's first: the others are read beside it.
const LANGUAGES: [Lang; 3] = [Lang::Rust, Lang::Js, Lang::Python];

#[derive(Serialize)]
pub struct Languages {
    connections: usize,
    ceiling: Vec<Outcome>,
    languages: Vec<Language>,
}

#[derive(Serialize)]
struct Language {
    name: &'static str,
    rounds: Vec<Outcome>,
    of_rust: Spread,
    of_ceiling: Spread,
    /// After the last round.
    instances: u64,
    /// What the instances are counted as, and the compiled code.
    memory_bytes: u64,
    code_bytes: Option<u64>,
    #[serde(skip)]
    node: Node,
}

pub async fn languages(args: &Args, dir: &Path) -> anyhow::Result<Languages> {
    println!(
        "\nThe counter in each language, POST, 32-byte body, {CONNECTIONS} connections, a node each; \
         ceiling and all in turn\n"
    );
    let ceiling = Ceiling::start(&dir.join("languages-ceiling"))?;
    let mut all =
        Languages { connections: CONNECTIONS, ceiling: Vec::new(), languages: Vec::new() };
    for lang in LANGUAGES {
        let plugin = lang.of("counter");
        if lang != Lang::Rust && !plugins::path(&plugin).exists() {
            println!(
                "  without {}: {} is not built",
                lang.name(),
                plugins::path(&plugin).display()
            );
            continue;
        }
        let name = lang.name();
        let node = start_with(dir.join(format!("languages-{name}")), &plugin).await?;
        all.languages.push(Language::on(name, node));
    }
    print!("{:>5} | {:>10}", "round", "ceiling/s");
    for language in &all.languages {
        print!(" | {:>10} {:>7} {:>8}", format!("{}/s", language.name), "of rust", "of ceil.");
    }
    println!();
    for round in 0..args.rounds {
        // As `in_turn`, with each node looked at right after its load.
        let count = all.languages.len() + 1;
        for at in (0..count).map(|at| (at + round) % count) {
            let plan = |address| Plan {
                seed: round as u64,
                connections: CONNECTIONS,
                ..Plan::timed(address, SERVICE, args.measure)
            };
            match at.checked_sub(1) {
                None => all.ceiling.push(plan(ceiling.address).run_apart().await?),
                Some(at) => {
                    let language = &mut all.languages[at];
                    let address = language.node.api().client.address();
                    language.rounds.push(plan(address).run_apart().await?);
                    language.look().await.context(language.name)?;
                }
            }
        }
        all.show(round)?;
    }
    all.summary();
    Ok(all)
}

impl Languages {
    fn show(&self, round: usize) -> anyhow::Result<()> {
        let rate = |outcomes: &[Outcome]| {
            outcomes.get(round).map(|o| o.requests_per_second).context("a round is missing")
        };
        let (ceiling, rust) = (rate(&self.ceiling)?, rate(&self.languages[0].rounds)?);
        print!("{:>5} | {ceiling:>10.0}", round + 1);
        for language in &self.languages {
            let rate = rate(&language.rounds)?;
            print!(" | {rate:>10.0} {:>7.2} {:>8.2}", rate / rust, rate / ceiling);
        }
        println!();
        Ok(())
    }

    fn summary(&mut self) {
        println!();
        let rate = |o: &Outcome| o.requests_per_second;
        let rust = self.languages[0].rounds.clone();
        for language in &mut self.languages {
            language.of_rust = Spread::over(&language.rounds, &rust, rate);
            language.of_ceiling = Spread::over(&language.rounds, &self.ceiling, rate);
            let messages = Spread::each(&language.rounds, rate);
            row(&format!("{}, messages", language.name), messages.show_as("/s"), "");
            row("  of Rust's", language.of_rust.show(), "");
            row("  of the ceiling's", language.of_ceiling.show(), "");
            let p99 = Spread::each(&language.rounds, |o| o.p99_us / 1e3);
            row("  p99", p99.show_as("ms"), "");
            row("  live instances", language.instances.to_string(), "");
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let code = language
                .code_bytes
                .map_or_else(String::new, |bytes| format!(", compiled code {:.1} MiB", mib(bytes)));
            let memory = format!("{:.1} MiB{code}", mib(language.memory_bytes));
            row("  plugin memory", memory, "");
        }
    }
}

impl Language {
    fn on(name: &'static str, node: Node) -> Self {
        Self {
            name,
            rounds: Vec::new(),
            of_rust: Spread::default(),
            of_ceiling: Spread::default(),
            instances: 0,
            memory_bytes: 0,
            code_bytes: None,
            node,
        }
    }

    /// Before instances that have nothing to do are given up.
    async fn look(&mut self) -> anyhow::Result<()> {
        let memory = self.node.admin().service(SERVICE).await?.memory;
        ensure!(memory.instances > 0, "no instance after a load: {memory:?}");
        self.instances = memory.instances;
        self.memory_bytes = memory.bytes;
        self.code_bytes = memory.code_bytes;
        Ok(())
    }
}
