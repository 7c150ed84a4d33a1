//! What lies in `examples/` can't be run everywhere; here it is read and held against slotd itself:
//! ports, paths, variables, probes, times, metrics.

mod browser;
mod compose;
mod container;
mod dashboard;
mod kubernetes;
mod systemd;

use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    cluster::engine::nats_server_binary,
    node::{finish, run_slotd, scenario, slotd},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What a node may take to end beyond its `shutdown_grace`, in seconds: `SHUTDOWN_OVERTIME`.
const OVERTIME: f64 = 10.0;
/// The largest batch of the log with the default limits, in bytes; slotd refuses NATS servers whose
/// `max_payload` is less.
const BATCH_BYTES: f64 = 7.5 * 1024.0 * 1024.0;
/// Stands for whatever a secret's value will be.
const SECRET: &str = "slotd-vN0b7Qx2Wc9Rk4Zt8Yd1Lf6Hj3";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn read(name: &str) -> anyhow::Result<String> {
    let path = folder().join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The documents of a YAML file.
fn yaml(name: &str) -> anyhow::Result<Vec<Value>> {
    serde_saphyr::from_multiple(&read(name)?).with_context(|| name.to_owned())
}

/// A field of a document, by its path: a name or an index between slashes.
fn at<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a Value> {
    value.pointer(pointer).with_context(|| format!("no {pointer} in {value}"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    let found = at(value, pointer)?;
    found.as_str().with_context(|| format!("{pointer} is no text: {found}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> anyhow::Result<&'a Vec<Value>> {
    let found = at(value, pointer)?;
    found.as_array().with_context(|| format!("{pointer} is no list: {found}"))
}

fn strings(value: &Value, pointer: &str) -> anyhow::Result<Vec<String>> {
    let texts = list(value, pointer)?.iter().map(|item| item.as_str().map(ToOwned::to_owned));
    texts.collect::<Option<_>>().with_context(|| format!("{pointer} has more than texts"))
}

/// `500ms`, `30s`, `2m`, `1h` in seconds.
fn seconds(time: &str) -> anyhow::Result<f64> {
    let digits = time.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &time[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        unit => anyhow::bail!("the unit {unit:?} of {time:?}"),
    };
    Ok(digits.parse::<f64>()? * factor)
}

fn port(address: &str) -> anyhow::Result<u16> {
    let (_, port) = address.rsplit_once(':').with_context(|| format!("no port: {address}"))?;
    Ok(port.parse()?)
}

/// What `slotd serve` would take from these variables and arguments, by key. Fails as the start
/// would.
async fn config(
    env: &BTreeMap<String, String>,
    args: &[&str],
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut command = slotd()?;
    command.args(["config", "print", "--json"]).args(args).envs(env);
    let printed = finish(command).await?;
    ensure!(printed.status.success(), "slotd refuses it: {}", printed.stderr);
    ensure!(!printed.stderr.contains("warning"), "slotd warns: {}", printed.stderr);
    let printed: Value = serde_json::from_str(&printed.stdout)?;
    let mut values = BTreeMap::new();
    for row in list(&printed, "/values")? {
        if let Some(value) = row["value"].as_str() {
            values.insert(text(row, "/key")?.to_owned(), value.to_owned());
        }
    }
    Ok(values)
}

/// Replaces the files that secrets are read from by one that is there.
fn with_secret_files(
    mut env: BTreeMap<String, String>,
    scratch: &Path,
) -> anyhow::Result<BTreeMap<String, String>> {
    let file = scratch.join("secret");
    fs::write(&file, SECRET)?;
    for (_, value) in env.iter_mut().filter(|(name, _)| name.ends_with("_FILE")) {
        // Two tokens that are the same are warned of.
        let own = scratch.join(value.rsplit('/').next().unwrap_or("secret"));
        fs::write(&own, format!("{SECRET}-{}", own.display().to_string().len()))?;
        // One that everybody can read is warned of.
        fs::set_permissions(&own, fs::Permissions::from_mode(0o600))?;
        *value = own.display().to_string();
    }
    Ok(env)
}

/// Words that begin so, of letters, digits and underscores.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(start).filter_map(move |(at, _)| {
        let inside = text[..at].chars().next_back();
        let begins = !inside.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let word = &text[at..end.map_or(text.len(), |end| at + end)];
        (begins && word.len() > start.len()).then_some(word)
    })
}

/// Every file of the folder and below, but conversations.
fn files() -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true if path.ends_with("conversations") => {}
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    Ok(files)
}

/// Variables that the command line and `slotd serve` know.
async fn known_variables() -> anyhow::Result<BTreeSet<String>> {
    let printed = run_slotd(&["config", "print", "--json"]).await?;
    let printed: Value = serde_json::from_str(&printed.stdout)?;
    let mut known = BTreeSet::new();
    for row in list(&printed, "/values")? {
        known.insert(text(row, "/env")?.to_owned());
    }
    // Held against the code by a test of its own.
    let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let documented = fs::read_to_string(documented)?;
    let (_, others) = documented.split_once("## Other variables").context("no other variables")?;
    known.extend(others.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("- `")?.split_once('`')?;
        Some(name.to_owned())
    }));
    Ok(known)
}

/// Without it, a variable that is misspelt in an example would stop the first start, or, in a
/// comment, mislead whoever follows it.
#[test]
fn examples_name_variables_that_exist() {
    scenario(async {
        let known = known_variables().await?;
        let mut checked = 0;
        for file in files()? {
            let text = fs::read_to_string(&file)?;
            for word in words(&text, "SLOTD_").chain(words(&text, "DNS_")) {
                // Named to say that there are none.
                let of_kubernetes = ["SLOTD_SERVICE_", "SLOTD_PORT_"];
                let known = known.contains(word) || of_kubernetes.contains(&word);
                ensure!(known, "{}: no variable {word}", file.display());
                checked += 1;
            }
        }
        ensure!(checked > 40, "only {checked} were found");
        Ok(())
    });
}

/// Without it, a command in a comment could name another command or flag than there is.
#[test]
fn examples_name_commands_that_exist() {
    scenario(async {
        let mut checked = 0;
        for file in files()? {
            for line in fs::read_to_string(&file)?.lines() {
                // Indented below the comment's text.
                let Some(comment) = line.trim_start().strip_prefix("#  ") else { continue };
                let Some(command) = comment.trim_start().strip_prefix("slotd ") else { continue };
                let words: Vec<&str> = command.split_whitespace().collect();
                let Some(name) = words.first() else { continue };
                let finished = run_slotd(&[*name, "--help"]).await?;
                ensure!(finished.status.success(), "{}: {line}", file.display());
                checked += 1;
            }
        }
        ensure!(checked > 0, "none was found");
        Ok(())
    });
}

/// A NATS server's configuration as slotd's log needs it; `env` is what it refers to.
async fn check_nats(conf: &str, env: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let value = |key: &str| {
        let line = conf.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
        line.with_context(|| format!("no {key} in\n{conf}"))
    };
    ensure!(
        value("sync_interval")? == "always",
        "a power failure would lose what was acknowledged"
    );
    let payload = value("max_payload")?.strip_suffix("MB").context("max_payload in MB")?;
    let payload = payload.parse::<f64>()? * 1024.0 * 1024.0;
    ensure!(payload >= BATCH_BYTES, "slotd refuses a max_payload of {payload}");
    ensure!(value("store_dir")? == "\"/data\"", "not the volume");
    for (key, port) in [("port", "4222"), ("http_port", "8222")] {
        ensure!(value(key)? == port, "{key}");
    }
    // The servers' own word on all of it.
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("nats.conf");
    fs::write(&file, conf)?;
    let mut command = Command::new(nats_server_binary()?);
    command.arg("-t").arg("--config").arg(&file).envs(env);
    let checked = finish(command).await?;
    ensure!(checked.status.success(), "{}{}\n{conf}", checked.stdout, checked.stderr);
    Ok(())
}
