//! Each language's page "from nothing", followed word by word:
//!
//! - The blocks fenced as `sh` are run in order, by one bash that stops at the first failure and
//!   begins in an empty folder, with `slotd` in its path. What is only to be looked at is `console`.
//! - `slotd dev` and `slotd serve` go on in the background until another one begins, or the page
//!   ends; the page goes on once they are ready, and `dev` has deployed.
//! - A block of source whose first line is a comment with nothing but a path in it is that file, in
//!   the folder where the reader is by then.
//! - A `text` block that is the next block after an `sh` block is what that prints: every line is
//!   there, in this order; others may be between. `…` stands for anything. So does what differs
//!   from run to run: 12 digits of a digest or more, dates and times, amounts of bytes and seconds,
//!   and a slot's number. How much space is between words does not count. A reply has no end of
//!   its own where nobody looks: what is printed after it may stand in its line.

use crate::suite::is_tested;
use anyhow::{Context, bail, ensure};
use slotd_tests::{
    node::{finish, scenario_within, slotd, slotd_binary},
    plugins::Lang,
};
use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Tools are fetched, and a crate is built from nothing.
const PAGE_WITHIN: Duration = Duration::from_secs(600);

#[test]
fn rust() {
    follow("docs/plugins.md", Lang::Rust);
}

#[test]
fn typescript() {
    follow("docs/plugins-js.md", Lang::Ts);
}

#[test]
fn python() {
    follow("docs/plugins-python.md", Lang::Python);
}

#[test]
fn c() {
    follow("docs/plugins-c.md", Lang::C);
}

#[derive(Debug, PartialEq)]
enum Block {
    Run(String),
    /// What the block before prints.
    Prints(String),
    File {
        path: String,
        text: String,
    },
}

/// Without it, the first thing that someone new does could fail.
fn follow(page: &str, lang: Lang) {
    if !is_tested(lang) {
        return;
    }
    scenario_within(PAGE_WITHIN, async {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let blocks = blocks(&text);
        let scratch = tempfile::Builder::new().prefix("slotd-page-").tempdir()?;
        let runs = blocks.iter().filter(|block| matches!(block, Block::Run(_))).count();
        ensure!(runs > 2, "{page} has nothing to run");
        let finished = run(&blocks, scratch.path()).await?;
        let mut outputs = Vec::new();
        for number in 0..runs {
            let out = fs::read(scratch.path().join(format!("out/{number}"))).unwrap_or_default();
            outputs.push(String::from_utf8_lossy(&out).into_owned());
        }
        if !finished.status.success() {
            let at = outputs.iter().rposition(|out| !out.is_empty()).unwrap_or_default();
            let block = blocks.iter().filter(|block| matches!(block, Block::Run(_))).nth(at);
            let node = fs::read_to_string(scratch.path().join("out/node")).unwrap_or_default();
            bail!(
                "{page} can't be followed ({}):\n{block:?}\n{}\n{}\n{}\n---- the node\n{node}",
                finished.status,
                outputs[at],
                finished.stdout,
                finished.stderr
            );
        }
        let mut number = 0;
        for block in &blocks {
            match block {
                Block::Run(_) => number += 1,
                Block::Prints(expected) => {
                    let got = &outputs[number - 1];
                    if let Some(missing) = missing(expected, got) {
                        bail!("{page}: {missing:?} is not printed (there):\n{got}");
                    }
                }
                Block::File { .. } => {}
            }
        }
        println!("{page}: {runs} blocks were run");
        Ok(())
    });
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut after_run = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let body = body.iter().fold(String::new(), |text, line| text + line + "\n");
        let block = match kind {
            "sh" => Some(Block::Run(body)),
            "text" if after_run => Some(Block::Prints(body)),
            "text" | "console" => None,
            _ => named(&body).map(|path| Block::File { path, text: body }),
        };
        after_run = matches!(block, Some(Block::Run(_)));
        blocks.extend(block);
    }
    blocks
}

/// The path in a first line that is a comment with nothing else.
fn named(text: &str) -> Option<String> {
    let line = text.lines().next()?.trim();
    let inner = ["//", "#", "--"].iter().find_map(|begin| line.strip_prefix(begin));
    let inner = inner.or_else(|| line.strip_prefix("/*")?.strip_suffix("*/"))?.trim();
    let is_path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let inside = !inner.starts_with('/') && !inner.contains("..");
    let named = inner.contains('.') && inner.chars().all(is_path) && inside;
    named.then(|| inner.to_owned())
}

/// Makes one script of the blocks and runs it. What each says is in `out/`, by its number.
async fn run(blocks: &[Block], scratch: &Path) -> anyhow::Result<slotd_tests::node::Finished> {
    for folder in ["bin", "home", "out"] {
        fs::create_dir(scratch.join(folder))?;
    }
    let port = free_ports()?;
    let bin = scratch.join("bin/slotd");
    // As it is for a reader, but on ports that nobody else's test has.
    let wrapper = format!(
        "#!/bin/sh\nexport SLOTD_API_LISTEN=127.0.0.1:{port} SLOTD_ADMIN_LISTEN=127.0.0.1:{admin}\n\
         export SLOTD_URL=http://127.0.0.1:{port} SLOTD_ADMIN_URL=http://127.0.0.1:{admin}\n\
         [ \"$1\" != dev ] || {{ unset SLOTD_API_LISTEN SLOTD_ADMIN_LISTEN; shift; \
         set -- dev --port {port} \"$@\"; }}\n\
         exec '{real}' \"$@\"\n",
        admin = port + 1,
        real = slotd_binary()?.canonicalize()?.display(),
    );
    fs::write(&bin, wrapper)?;
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755))?;
    let script = script(blocks, &scratch.join("out"))?;
    let mut command = slotd()?; // for its clean environment
    let cleaned: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    command = std::process::Command::new("bash");
    cleaned.iter().for_each(|name| _ = command.env_remove(name));
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(["-c", &script])
        .current_dir(scratch.join("home"))
        .env("PATH", format!("{}:{path}", scratch.join("bin").display()))
        // Not those of the build that runs this.
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTUP_TOOLCHAIN");
    if let Some(tools) = std::env::var_os("SLOTD_TEST_TOOLS") {
        // What is built of other people's crates stays for the next time.
        command.env("CARGO_TARGET_DIR", Path::new(&tools).join("page-target"));
        command.env("SLOTD_TOOLS_DIR", tools);
    }
    finish(command).await
}

const BEGIN: &str = r#"
set -euo pipefail
NODE=
end_node() {
    [ -z "$NODE" ] || { kill "$NODE" 2>/dev/null && wait "$NODE" || true; }
    NODE=
}
trap end_node EXIT
# Until the node is ready and, where there is something to deploy, that is deployed.
node_is_up() {
    until slotd ready >"$OUT/ready" 2>&1 && { [ "$1" = serve ] || slotd --json services | grep -q '"label"'; }; do
        kill -0 "$NODE" || { echo "the node has ended"; exit 1; }
        sleep 0.1
    done
}
"#;

fn script(blocks: &[Block], out: &Path) -> anyhow::Result<String> {
    let mut script = format!("OUT='{}'\n{BEGIN}", out.display());
    let mut number = 0;
    for block in blocks {
        match block {
            Block::Run(lines) => {
                writeln!(script, "{{")?;
                for line in lines.lines() {
                    let command = line.trim_end_matches('&').trim_end();
                    match ["dev", "serve"].iter().find(|verb| is_command(command, verb)) {
                        Some(verb) => writeln!(
                            script,
                            "end_node\n{command} >>\"$OUT/node\" 2>&1 &\nNODE=$!\nnode_is_up {verb}"
                        )?,
                        None => writeln!(script, "{line}")?,
                    }
                }
                writeln!(script, "}} >\"$OUT/{number}\" 2>&1")?;
                number += 1;
            }
            Block::File { path, text } => {
                let path = PathBuf::from(path);
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                ensure!(!text.contains("END_OF_FILE"), "{} has the end's word", path.display());
                writeln!(script, "mkdir -p {}", folder.display())?;
                writeln!(script, "cat >{} <<'END_OF_FILE'\n{text}END_OF_FILE", path.display())?;
            }
            Block::Prints(_) => {}
        }
    }
    Ok(script)
}

fn is_command(line: &str, verb: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("slotd") && words.next() == Some(verb)
}

/// Two ports beside each other that are free now.
fn free_ports() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = first.local_addr()?.port();
        let second = port.checked_add(1).map(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, next)));
        if matches!(second, Some(Ok(_))) {
            return Ok(port);
        }
    }
    bail!("no two free ports beside each other")
}

/// The first line of `expected` that is not in `got` after those before it.
fn missing<'a>(expected: &'a str, got: &str) -> Option<&'a str> {
    let mut got: VecDeque<String> = got.lines().map(stable).collect();
    let mut lines = expected.lines().filter(|line| !line.trim().is_empty());
    lines.find(|line| {
        let pattern = stable(line);
        while let Some(line) = got.pop_front() {
            if matches(&pattern, &line) {
                return false;
            }
            if let Some(after) = line.strip_prefix(&pattern).filter(|_| pattern.starts_with('{')) {
                got.push_front(after.to_owned());
                return false;
            }
        }
        true
    })
}

/// A line without what differs from run to run.
fn stable(line: &str) -> String {
    const UNITS: &[&str] = &["bytes", "KiB", "MiB", "s", "ms", "µs"];
    let punctuation = |c: char| "()[],;:".contains(c);
    let words: Vec<&str> = line.split_whitespace().collect();
    let core = |at: usize| words.get(at).map_or("", |word| word.trim_matches(punctuation));
    let number =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let moment = |word: &str| {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let marks = |mark: char| word.matches(mark).count() == 2;
        digits >= 6
            && (marks('-') || marks(':'))
            && !word.contains(|c: char| c.is_ascii_lowercase())
    };
    let stable = (0..words.len()).map(|at| {
        let word = core(at);
        let counted = UNITS.contains(&core(at + 1)) || at > 0 && core(at - 1) == "slot";
        match number(word) && counted || moment(word) {
            true => words[at].replace(word, "#"),
            false => without_digests(words[at]),
        }
    });
    stable.collect::<Vec<_>>().join(" ")
}

fn without_digests(word: &str) -> String {
    const DIGITS_MIN: usize = 12;
    let mut out = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let hex = rest.bytes().take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).count();
        if hex >= DIGITS_MIN {
            out.push('#');
        } else {
            out.push_str(&rest[..hex]);
        }
        rest = &rest[hex..];
        let other = rest.chars().next().map_or(0, char::len_utf8);
        out.push_str(&rest[..other]);
        rest = &rest[other..];
    }
    out
}

/// `…` in the pattern is anything.
fn matches(pattern: &str, line: &str) -> bool {
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, between @ .., last] = parts.as_slice() else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// A page whose blocks are passed over, or whose output matches anything, would be followed by
/// nobody.
#[test]
fn pages_are_read_as_they_say() {
    let page = "```sh\ncd x\n```\nwords\n```text\na 12.5 KiB\n```\n```text\nother\n```\n\
                ```ts\n// src/a.ts\nlet a;\n```\n```ts\n// A remark.\n```\n```console\nrm x\n```\n";
    let file = Block::File { path: "src/a.ts".into(), text: "// src/a.ts\nlet a;\n".into() };
    let run = Block::Run("cd x\n".into());
    assert_eq!(blocks(page), [run, Block::Prints("a 12.5 KiB\n".into()), file]);
    for (line, path) in [
        ("# handler.py", Some("handler.py")),
        ("/* src/handler.c */", Some("src/handler.c")),
        ("// ../x.rs", None),
        ("// /etc/x.conf", None),
        ("handler.py", None),
    ] {
        assert_eq!(named(line).as_deref(), path, "{line}");
    }
    let got = "x\nbuilt 1.0 in 2.5 s: y.wasm\nmessage 2, slot 6, plugin 0.1.0+9ff0727b72a4\n";
    assert_eq!(missing("message 2, slot 9, plugin   0.1.0+fbfbe73d73cb", got), None);
    assert_eq!(missing("x\nbuilt … y.wasm\n\nmessage …\n", got), None);
    assert_eq!(missing("built 1.0 in 11.0 s: y.wasm", got), None);
    for wrong in ["message 3, …", "message 2\nx", "plugin …", "built 1.1 in …", "x y"] {
        assert!(missing(wrong, got).is_some(), "{wrong}");
    }
    assert_eq!(stable("2026-11-22 19:19:38Z 0.2.0 (14 bytes)"), "# # 0.2.0 (# bytes)");
}
