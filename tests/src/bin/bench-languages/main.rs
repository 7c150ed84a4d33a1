//! Measures the cost of a handler by language: the same counter in each, through a real node.
//! Prints a table; `--json FILE` writes it.

mod measure;
mod others;

use anyhow::{Context, ensure};
use clap::Parser;
use measure::Figures;
use serde::Serialize;
use slotd_tests::{node::slotd_binary, plugins};
use std::path::PathBuf;

#[derive(Parser)]
pub struct Args {
    /// Components to measure [default: every `counter*.wasm` among the built plugins]
    #[arg(long, value_name = "LANGUAGE=FILE", value_parser = named)]
    plugin: Vec<(String, PathBuf)>,
    /// Seconds that one load is measured for
    #[arg(long, default_value_t = 3.0)]
    measure: f64,
    /// Swaps to each language and back
    #[arg(long, default_value_t = 5)]
    swaps: usize,
    /// Less of everything: to check that it works
    #[arg(long)]
    quick: bool,
    /// Where the nodes write [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    cores: usize,
    languages: Vec<Figures>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("a language, `=` and a file")?;
    Ok((name.to_owned(), file.into()))
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(bench(Args::parse()))
}

async fn bench(mut args: Args) -> anyhow::Result<()> {
    if args.quick {
        args.measure = args.measure.min(1.0);
        args.swaps = args.swaps.min(2);
    }
    if args.plugin.is_empty() {
        args.plugin = built()?;
    }
    let cores = std::thread::available_parallelism()?.get();
    println!("{cores} cores, clients on the same; 512 slots; the plugin counter in each language");
    println!("measuring {}", slotd_binary()?.display());
    let mut report = Report { cores, languages: Vec::new() };
    for (language, file) in &args.plugin {
        println!("\n{language}: {}", file.display());
        let figures = measure::language(&args, language, file).await;
        report.languages.push(figures.with_context(|| language.clone())?);
    }
    println!("\n{}", table(&report.languages));
    if let Some(path) = args.json {
        std::fs::write(&path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// `counter` is Rust's; `counter-python` is Python's.
fn built() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let folder = plugins::folder();
    let mut found = Vec::new();
    let files = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    for file in files {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("counter").and_then(|n| n.strip_suffix(".wasm")) else {
            continue;
        };
        let language = rest.strip_prefix('-').unwrap_or("rust").to_owned();
        found.push((language, path));
    }
    // Rust first: the others are compared with it.
    found.sort_by_key(|(language, _)| (language != "rust", language.clone()));
    ensure!(!found.is_empty(), "no counter is built in {}", folder.display());
    Ok(found)
}

/// A row of the table: its name, and its value for a language.
type Row = (&'static str, fn(&Figures) -> String);

const ROWS: &[Row] = &[
    ("component, KB", |f| kilo(f.component_bytes)),
    ("compiled, KB", |f| kilo(f.code_bytes)),
    ("build after a change, s", |f| f.build_seconds.map_or("-".into(), |s| format!("{s:.2}"))),
    ("compile, s", |f| format!("{:.2}", f.compile_seconds)),
    ("deploy in all, s", |f| format!("{:.2}", f.deploy_seconds)),
    ("load from the cache, s", |f| format!("{:.3}", f.load_seconds)),
    ("instantiate, µs", |f| format!("{:.0}", f.instantiate_us)),
    ("memory counted, KiB an instance", |f| kibi(f.counted_bytes)),
    ("instances for 512 slots", |f| f.instances.to_string()),
    ("memory resident, KiB in all", |f| kibi(f.resident_bytes)),
    ("guest's time, µs a message", |f| format!("{:.1}", f.guest_us)),
    ("messages/s, 64 connections", |f| format!("{:.0}", f.messages_per_second)),
    ("swap to it: pause p50, ms", |f| milli(f.swap_to.pause_p50_us)),
    ("  p99", |f| milli(f.swap_to.pause_p99_us)),
    ("  max", |f| milli(f.swap_to.pause_max_us)),
    ("  until all have moved", |f| format!("{:.0}", f.swap_to.all_moved_ms)),
    ("swap from it: pause p50, ms", |f| milli(f.swap_from.pause_p50_us)),
    ("  p99", |f| milli(f.swap_from.pause_p99_us)),
    ("  max", |f| milli(f.swap_from.pause_max_us)),
    ("  until all have moved", |f| format!("{:.0}", f.swap_from.all_moved_ms)),
    ("failed during swaps", |f| f.swap_failed.to_string()),
    ("others' latency before: p50, ms", |f| milli(f.others_before.p50_us)),
    ("  p99", |f| milli(f.others_before.p99_us)),
    ("  max", |f| milli(f.others_before.max_us)),
    ("while it is deployed: p50, ms", |f| milli(f.others_during.p50_us)),
    ("  p99", |f| milli(f.others_during.p99_us)),
    ("  max", |f| milli(f.others_during.max_us)),
    ("  messages meanwhile", |f| f.others_during.messages.to_string()),
];

fn table(languages: &[Figures]) -> String {
    let mut out = format!("{:<34}", "");
    for figures in languages {
        out.push_str(&format!("{:>11}", figures.language));
    }
    for (name, show) in ROWS {
        out.push_str(&format!("\n{name:<34}"));
        for figures in languages {
            out.push_str(&format!("{:>11}", show(figures)));
        }
    }
    out
}

fn kilo(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e3)
}
fn kibi(bytes: f64) -> String {
    format!("{:.0}", bytes / 1024.0)
}
fn milli(us: f64) -> String {
    format!("{:.3}", us / 1e3)
}
