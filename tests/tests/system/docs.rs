//! The README and the documents, held against the programs they talk about.

use anyhow::{Context, ensure};
use serde_json::Value;
use slotd_tests::{
    node::{Node, finish, run_slotd, scenario, sibling, slotd_binary},
    plugins,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README.md and docs/**/*.md.
fn documents() -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root().join("docs")];
    let readme = root().join("README.md");
    if readme.exists() {
        all.insert(readme.clone(), fs::read_to_string(readme)?);
    }
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path)?;
                all.insert(path, text);
            }
        }
    }
    Ok(all)
}

/// The lines of a document that are code: fenced or indented. Continued lines are joined.
fn code_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut fenced, mut continued) = (false, false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if !fenced && !line.starts_with("    ") {
            continued = false;
            continue;
        }
        let (part, more) = match line.trim().strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line.trim(), false),
        };
        match lines.last_mut() {
            Some(last) if continued => {
                last.push(' ');
                last.push_str(part.trim());
            }
            _ => lines.push(part.trim().to_owned()),
        }
        continued = more;
    }
    lines
}

/// Commands that stand in the text, between backticks; a document names many that way alone.
fn inline_commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            // A span may go on in the next line.
            prose.push_str(line.trim());
            prose.push(if line.trim().is_empty() { '\n' } else { ' ' });
        }
    }
    for paragraph in prose.lines() {
        let spans = paragraph.split('`').skip(1).step_by(2);
        found.extend(spans.filter(|span| span.starts_with("slotd ")).map(ToOwned::to_owned));
    }
    found
}

/// The words of a command up to a comment, a pipe, what is for another program, or the like.
fn command(line: &str, program: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let rest = line.strip_prefix(program)?.strip_prefix(' ')?;
    let end = [" #", " |", " &", " ;", " >", " -- "].iter().filter_map(|s| rest.find(s)).min();
    let words = rest[..end.unwrap_or(rest.len())].split_whitespace();
    Some(words.map(ToOwned::to_owned).collect())
}

/// Without it, a document could name a command or a flag that does not exist.
#[test]
fn documented_commands_exist() {
    scenario(async {
        let mut known: BTreeMap<Vec<String>, String> = BTreeMap::new();
        let mut checked = 0;
        for (path, text) in documents()? {
            for line in code_lines(&text).into_iter().chain(inline_commands(&text)) {
                let Some(words) = command(&line, "slotd") else { continue };
                let place = format!("{}: `{line}`", path.display());
                let names: Vec<String> = words
                    .iter()
                    .take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
                    .take_while(|word| !word.starts_with('-'))
                    .take(2)
                    .cloned()
                    .collect();
                let help = help_of(&mut known, &names).await.with_context(|| place.clone())?;
                for flag in words.iter().filter(|word| word.starts_with("--")) {
                    let flag = flag.split('=').next().unwrap_or(flag);
                    ensure!(help.contains(flag), "{place}: no {flag} in its help");
                }
                // What these two hand on to `slotd serve`.
                let handed_on = line.split_once(" -- ").filter(|_| {
                    names == ["dev"] || names.first().is_some_and(|name| name == "cluster")
                });
                if let Some((_, flags)) = handed_on {
                    let help = help_of(&mut known, &["serve".to_owned()]).await?;
                    for flag in flags.split_whitespace().filter(|word| word.starts_with("--")) {
                        let flag = flag.split('=').next().unwrap_or(flag);
                        ensure!(help.contains(flag), "{place}: no {flag} in the help of serve");
                    }
                }
                checked += 1;
            }
        }
        println!("{checked} commands were checked");
        Ok(())
    });
}

/// The help of a command; `names` may have an argument at its end.
async fn help_of(
    known: &mut BTreeMap<Vec<String>, String>,
    names: &[String],
) -> anyhow::Result<String> {
    // Without a name it is the whole program's.
    for take in (names.len().min(1)..=names.len()).rev() {
        let names = &names[..take];
        if let Some(help) = known.get(names) {
            return Ok(help.clone());
        }
        let mut args = names.to_vec();
        args.push("--help".into());
        let finished = run_slotd(&args).await?;
        if finished.status.success() {
            known.insert(names.to_vec(), finished.stdout.clone());
            return Ok(finished.stdout);
        }
    }
    anyhow::bail!("no such command: slotd {}", names.join(" "))
}

/// Without it, the two commands that the README leads with could be misspelt.
#[test]
fn documented_xtasks_exist() {
    scenario(async {
        let xtask = sibling("xtask")?;
        for (path, text) in documents()? {
            for line in code_lines(&text) {
                let Some(words) = command(&line, "cargo xtask") else { continue };
                let task = words.first().context("no task")?;
                let output = Command::new(&xtask).args([task, "--help"]).output()?;
                let help = String::from_utf8_lossy(&output.stdout);
                ensure!(output.status.success(), "{}: `{line}`", path.display());
                for flag in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                    ensure!(help.contains(flag.as_str()), "{}: `{line}`", path.display());
                }
            }
        }
        Ok(())
    });
}

/// Without it, a `curl` line in a document could name a route that does not exist.
#[test]
fn documented_requests_are_routes() {
    scenario(async {
        let node = Node::start().await?;
        let document: Value = node.api().client.get("/openapi.json").await?.success()?.json()?;
        let paths = document["paths"].as_object().context("no paths")?;
        let mut routes = BTreeSet::new();
        for (path, methods) in paths {
            for method in methods.as_object().into_iter().flat_map(|methods| methods.keys()) {
                routes.insert((method.to_uppercase(), path.clone()));
            }
        }
        for (path, text) in documents()? {
            for line in code_lines(&text) {
                let Some(words) = command(&line, "curl") else { continue };
                let place = format!("{}: `{line}`", path.display());
                let url = words.iter().find_map(|word| {
                    let word = word.trim_matches(['\'', '"']);
                    let word = word.strip_prefix("http://").unwrap_or(word);
                    let (host, rest) = word.split_once('/')?;
                    let local =
                        ["localhost", "127.0.0.1"].iter().any(|name| host.starts_with(name));
                    local.then(|| format!("/{}", rest.split('?').next().unwrap_or_default()))
                });
                let Some(url) = url else { continue };
                let sends = words.iter().any(|word| {
                    ["-d", "--data", "--data-binary", "-T"]
                        .iter()
                        .any(|flag| word.starts_with(flag))
                });
                let method = match words.iter().position(|word| word == "-X") {
                    Some(at) => words.get(at + 1).cloned().unwrap_or_default(),
                    None if sends => "POST".into(),
                    None => "GET".into(),
                };
                let found = routes.iter().any(|(m, route)| *m == method && matches(route, &url));
                let plain = url == "/openapi.json";
                ensure!(found || plain, "{place}: no route {method} {url}");
            }
        }
        Ok(())
    });
}

fn matches(route: &str, path: &str) -> bool {
    let (route, path): (Vec<_>, Vec<_>) = (route.split('/').collect(), path.split('/').collect());
    route.len() == path.len()
        && route.iter().zip(&path).all(|(r, p)| r.starts_with('{') && !p.is_empty() || r == p)
}

/// Runs every block that is fenced as `sh run`, in order, document by document: `bash -euo
/// pipefail` in an empty folder that the blocks of a document share, with `slotd` in the path, a
/// node of its own behind it and the built plugins in `$PLUGINS`.
///
/// Without it, what a reader copies from a document could fail.
#[test]
fn documented_blocks_run() {
    scenario(async {
        let mut ran = 0;
        for (path, text) in documents()? {
            let blocks = blocks_to_run(&text);
            if blocks.is_empty() {
                continue;
            }
            let node = Node::start().await?;
            let folder = tempfile::tempdir()?;
            for block in blocks {
                let output = bash(&node, folder.path(), &block).await?;
                ensure!(output.0, "{}:\n{block}\n----\n{}", path.display(), output.1);
                ran += 1;
            }
        }
        println!("{ran} blocks were run");
        Ok(())
    });
}

fn blocks_to_run(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            None if line.trim() == "```sh run" => block = Some(String::new()),
            None => {}
            Some(_) if line.trim() == "```" => blocks.extend(block.take()),
            Some(lines) => {
                lines.push_str(line);
                lines.push('\n');
            }
        }
    }
    blocks
}

async fn bash(node: &Node, folder: &Path, script: &str) -> anyhow::Result<(bool, String)> {
    let binary = slotd_binary()?;
    let bin = binary.parent().context("no folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let slotd = node.command()?;
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("PLUGINS", plugins::folder())
        .envs(slotd.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let finished = finish(command).await?;
    Ok((finished.status.success(), finished.stdout + &finished.stderr))
}
