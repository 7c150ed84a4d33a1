//! `docs/invariants.md`, held against the sources: a test that is renamed or deleted must not go on
//! being named as what defends an invariant.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const SECTIONS: usize = 15;
/// Where sources are, from the root of the repository.
const FOLDERS: [&str; 9] = [
    "host/core/src",
    "host/src",
    "host/access/src",
    "host/outbound/src",
    "tests/src",
    "tests/tests",
    "tests/model",
    "guest-sdk",
    "plugins",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands between backticks; a document of ours has no other use for them in its prose.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The name of a function, as far as it can be told from other words: names of tests are sentences.
fn is_name(word: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    word.bytes().all(allowed) && word.matches('_').count() >= 2
}

fn is_path(word: &str) -> bool {
    let file = word.ends_with(".rs") || word.ends_with(".md");
    file && word.contains('/') && !word.contains(' ')
}

/// The names of all functions in a source, and of those which are tests.
fn functions(source: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut all, mut tests) = (BTreeSet::new(), BTreeSet::new());
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        let words = line.trim_start_matches("pub ").trim_start_matches("async ");
        if let Some(rest) = words.strip_prefix("fn ") {
            let name = rest.split(['(', '<', ' ']).next().unwrap_or(rest);
            all.insert(name);
            if is_test {
                tests.insert(name);
            }
        }
        is_test = match line {
            _ if line.starts_with("#[test]") || line.starts_with("#[tokio::test") => true,
            // Attributes and comments may stand between.
            _ if line.starts_with("#[") || line.starts_with("//") => is_test,
            _ => false,
        };
    }
    (all, tests)
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(read(&path));
        }
    }
}

/// Without it, the names of tests in the document would rot.
#[test]
fn documented_defenders_exist() {
    let text = read(&root().join("docs/invariants.md"));
    let mut found = Vec::new();
    for folder in FOLDERS {
        sources(&root().join(folder), &mut found);
    }
    let all: BTreeSet<&str> = found.iter().flat_map(|source| functions(source).0).collect();
    for word in quoted(&text) {
        assert!(!is_name(word) || all.contains(word), "there is no `fn {word}`");
        assert!(!is_path(word) || root().join(word).is_file(), "there is no file {word}");
    }
}

/// Without it, an invariant could be without a defender, or a helper be taken for a test.
#[test]
fn every_invariant_has_its_tests() {
    let text = read(&root().join("docs/invariants.md"));
    let sections: Vec<&str> = text.split("\n## ").skip(1).collect();
    assert_eq!(sections.len(), SECTIONS);
    for (index, section) in sections.into_iter().enumerate() {
        let title = section.lines().next().unwrap_or_default();
        assert!(title.starts_with(&format!("{}. ", index + 1)), "{title}");
        let mut defenders = 0;
        for item in section.split("\n- ").skip(1) {
            let item = item.split("\n\n").next().unwrap_or(item);
            let words: Vec<&str> = quoted(item).collect();
            let [name, path, ..] = words[..] else { panic!("{title}: no test and file: {item}") };
            let source = read(&root().join(path));
            assert!(functions(&source).1.contains(name), "{title}: no test `{name}` in {path}");
            defenders += 1;
        }
        assert!(defenders > 0, "{title}: no test");
    }
}
