//! Checks that the top-level modules of a crate have no cyclic dependencies.
//!
//! It reads the text, not the compiler's output: every path that begins with `crate::`, and paths
//! of `super::` that reach the crate's root, groups included. Comments and literals are ignored,
//! and so is test code, which may use higher modules: files named `tests.rs`, files under `tests/`,
//! items under `#[cfg(test)]` (or a feature beside it), and the files of modules declared so.

use anyhow::{Context, ensure};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Which module refers to which, and the files that do.
#[derive(Default)]
struct Graph(BTreeMap<String, BTreeMap<String, BTreeSet<PathBuf>>>);

/// Fails with every cycle of the modules under `src`.
pub fn check(src: &Path) -> anyhow::Result<()> {
    let mut files = Vec::new();
    read(src, src, &mut files)?;
    let graph = Graph::of(&files);
    ensure!(graph.0.len() > 1, "{} has no modules", src.display());
    let circles = graph.circles();
    ensure!(
        circles.is_empty(),
        "cyclic module dependencies; move what both need into a module below them\n{}",
        circles.iter().map(|circle| graph.show(circle)).collect::<String>()
    );
    Ok(())
}

/// Every Rust file under `folder`, by its path from `src`.
pub fn read(src: &Path, folder: &Path, files: &mut Vec<(PathBuf, String)>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read(src, &path, files)?;
        } else if path.extension().is_some_and(|is| is == "rs") {
            let text = fs::read_to_string(&path)?;
            files.push((path.strip_prefix(src)?.to_owned(), text));
        }
    }
    Ok(())
}

/// The path of a file's module below the crate's root: `[slot, read]` for `slot/read.rs`.
fn module_of(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    path.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    path
}

impl Graph {
    fn of(files: &[(PathBuf, String)]) -> Self {
        let mut modules: Vec<(&Path, Vec<String>, String)> = Vec::new();
        let mut of_tests: Vec<Vec<String>> = Vec::new();
        for (file, text) in files {
            let module = module_of(file);
            let (code, tests) = without_tests(&code_of(text));
            of_tests.extend(tests.into_iter().map(|name| {
                let mut path = module.clone();
                path.push(name);
                path
            }));
            modules.push((file, module, code));
        }
        let mut graph = Self::default();
        for (_, module, _) in &modules {
            graph.0.extend(module.first().map(|top| (top.clone(), BTreeMap::new())));
        }
        for (file, module, code) in modules {
            let Some(top) = module.first() else { continue };
            let is_test = module.iter().any(|part| part == "tests")
                || of_tests.iter().any(|test| module.starts_with(test));
            if is_test {
                continue;
            }
            for named in named(&code, module.len()) {
                if named != *top && graph.0.contains_key(&named) {
                    let ties = graph.0.entry(top.clone()).or_default().entry(named).or_default();
                    ties.insert(file.to_owned());
                }
            }
        }
        graph
    }

    /// A shortest cycle of each set of modules that all reach each other.
    fn circles(&self) -> Vec<Vec<&str>> {
        let mut circles: Vec<Vec<&str>> = Vec::new();
        let mut reported: BTreeSet<&str> = BTreeSet::new();
        for start in self.0.keys() {
            if reported.contains(start.as_str()) {
                continue;
            }
            let reached = self.reached(start);
            let back = |module: &&str| self.reached(module).contains_key(start.as_str());
            let together: BTreeSet<&str> = reached.keys().copied().filter(back).collect();
            let shortest = together.iter().filter_map(|&module| self.circle(module));
            circles.extend(shortest.min_by_key(Vec::len));
            reported.extend(together);
        }
        circles
    }

    /// The modules that a module refers to, directly or indirectly, each with the one that refers
    /// to it.
    fn reached<'a>(&'a self, start: &str) -> BTreeMap<&'a str, &'a str> {
        let mut from = BTreeMap::new();
        let mut next: VecDeque<_> = self.0.get_key_value(start).into_iter().collect();
        while let Some((module, names)) = next.pop_front() {
            for named in names.keys() {
                if !from.contains_key(named.as_str()) {
                    from.insert(named.as_str(), module.as_str());
                    next.extend(self.0.get_key_value(named));
                }
            }
        }
        from
    }

    /// The shortest path from a module back to itself.
    fn circle<'a>(&'a self, module: &'a str) -> Option<Vec<&'a str>> {
        let from = self.reached(module);
        let mut way = vec![*from.get(module)?];
        while let Some(&last) = way.last().filter(|last| **last != module) {
            way.push(*from.get(last)?);
        }
        way.reverse();
        Some(way)
    }

    fn show(&self, circle: &[&str]) -> String {
        let mut text = format!("  {} -> {}\n", circle.join(" -> "), circle[0]);
        for (at, module) in circle.iter().enumerate() {
            let next = circle[(at + 1) % circle.len()];
            let files = self.0[*module][next].iter().map(|file| file.display().to_string());
            let files: Vec<_> = files.collect();
            let _ = writeln!(text, "    {module} names {next} in {}", files.join(", "));
        }
        text
    }
}

/// The text with its comments and what stands in literals as blanks.
pub fn code_of(text: &str) -> String {
    let text: Vec<char> = text.chars().collect();
    let starts =
        |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| text.get(at + i) == Some(&c));
    let end_of = |from: usize, what: &str| {
        (from..text.len()).find(|&at| starts(at, what)).map_or(text.len(), |at| at + what.len())
    };
    let mut code = String::new();
    let mut at = 0;
    while at < text.len() {
        let c = text[at];
        let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
        at = if starts(at, "//") {
            end_of(at, "\n")
        } else if starts(at, "/*") {
            let (mut depth, mut to) = (1, at + 2);
            while depth > 0 && to < text.len() {
                let step = [("/*", 1), ("*/", -1)].into_iter().find(|(mark, _)| starts(to, mark));
                depth += step.map_or(0, |(_, by)| by);
                to += step.map_or(1, |_| 2);
            }
            to
        } else if c == 'r' && text.get(at + 1 + hashes) == Some(&'"') {
            end_of(at + 2 + hashes, &format!("\"{}", "#".repeat(hashes)))
        } else if c == '"'
            || (c == '\'' && (starts(at + 1, "\\") || text.get(at + 2) == Some(&'\'')))
        {
            let mut to = at + 1;
            while to < text.len() && text[to] != c {
                to += if text[to] == '\\' { 2 } else { 1 };
            }
            to + 1
        } else {
            code.push(c);
            at += 1;
            continue;
        };
        code.push(' ');
    }
    code
}

/// Code without its test items, and the test modules that have their own files.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules) = (String::new(), Vec::new());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(") {
        let (before, from) = rest.split_at(at);
        kept.push_str(before);
        let (attribute, item) = from.split_at(from.find(']').map_or(from.len(), |end| end + 1));
        let is_test = ["#[cfg(test)", "#[cfg(all(test,", "#[cfg(any(test,"]
            .iter()
            .any(|is| attribute.starts_with(is));
        if !is_test {
            kept.push_str(attribute);
            rest = item;
            continue;
        }
        let (item, behind) = item.split_at(end_of_item(item));
        let words: Vec<_> = words(item).collect();
        let name = words.iter().position(|word| *word == "mod").and_then(|at| words.get(at + 1));
        if item.ends_with(';') {
            modules.extend(name.map(|name| (*name).to_owned()));
        }
        rest = behind;
    }
    kept.push_str(rest);
    (kept, modules)
}

/// Where the first item of the code ends: at a semicolon or a closing brace; a field, a variant or
/// a match arm at a comma.
fn end_of_item(code: &str) -> usize {
    const VISIBLE: &[&str] = &["pub", "crate", "super", "self", "in"];
    const ITEMS: &[&str] = &[
        "async",
        "const",
        "enum",
        "extern",
        "fn",
        "impl",
        "let",
        "macro_rules",
        "mod",
        "static",
        "struct",
        "trait",
        "type",
        "unsafe",
        "use",
    ];
    let mut item = code.trim_start();
    while item.starts_with("#[") {
        item = item.find(']').map_or("", |end| item[end + 1..].trim_start());
    }
    let first = words(item).find(|word| !VISIBLE.contains(word));
    let is_item = first.is_some_and(|word| ITEMS.contains(&word));
    // After the attributes, which have brackets of their own.
    let start = code.len() - item.len();
    let mut depth = 0_usize;
    for (at, c) in item.char_indices().map(|(at, c)| (start + at, c)) {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' if depth == 0 => return at,
            '}' if depth == 1 => return at + 1,
            '}' | ')' | ']' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            ',' if depth == 0 && !is_item => return at + 1,
            _ => {}
        }
    }
    code.len()
}

pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// What code in a module of this depth refers to at the crate's root.
fn named(code: &str, depth: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let above = "super::".repeat(depth);
    for root in ["crate::", above.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = &code[..at];
            // Not the end of another word, nor of a longer path upward.
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let path = &code[at + root.len()..];
            match path.strip_prefix('{') {
                Some(group) => names.extend(heads(group)),
                None => names.extend(words(path).next().map(str::to_owned)),
            }
        }
    }
    names
}

/// The prefix of each path of a group.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let end = group.char_indices().find(|&(_, c)| {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return true,
            '}' => depth -= 1,
            _ => {}
        }
        false
    });
    let group = &group[..end.map_or(group.len(), |(at, _)| at)];
    let mut depth = 0_usize;
    let paths = group.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    paths.filter_map(|path| words(path).next().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let files: Vec<_> =
            files.iter().map(|(file, text)| (file.into(), (*text).to_owned())).collect();
        Graph::of(&files)
    }

    #[test]
    fn a_circle_is_found_and_shown_with_the_files_that_tie_it() {
        let graph = graph(&[
            ("lib.rs", "pub mod log; mod names; mod state; mod storage;"),
            ("names.rs", ""),
            ("log/mod.rs", "use crate::names::SlotId;"),
            (
                "log/embedded.rs",
                "use crate::{\n    names,\n    state::{self, rows::{Page, Rows}},\n};",
            ),
            ("state.rs", "fn open(path: &'static str) { crate::storage::open('\"', path) }"),
            ("storage/db/mod.rs", "pub(super) use super::super::{names, log::Term};"),
            // Refers to two of the cycle, and is in none.
            ("node.rs", "use crate::{log::{Term, self}, state::State};"),
        ]);
        assert_eq!(graph.circles(), [["log", "state", "storage"]]);
        let shown = graph.show(&graph.circles()[0]);
        for line in [
            "log -> state -> storage -> log",
            "log names state in log/embedded.rs",
            "state names storage in state.rs",
            "storage names log in storage/db/mod.rs",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        assert!(!shown.contains("names names") && !shown.contains("node"), "{shown}");
    }

    #[test]
    fn two_circles_are_both_shown_by_their_shortest_way() {
        let graph = graph(&[
            ("a.rs", "use crate::b;"),
            ("b.rs", "use crate::{a, c};"),
            ("c.rs", "use crate::{a, x};"),
            ("x.rs", "use super::y;"),
            ("y.rs", "use crate::x;"),
        ]);
        assert_eq!(graph.circles(), [["a", "b"], ["x", "y"]]);
    }

    #[test]
    fn what_tests_and_comments_name_is_no_tie() {
        let above = "use crate::node::Node;";
        let graph = graph(&[
            ("lib.rs", "mod names; mod node; #[cfg(test)]\nmod skipped;"),
            ("node.rs", "use crate::names;"),
            ("skipped.rs", above),
            (
                "names/mod.rs",
                r##"//! See [`crate::node`].
                /* use crate::node; /* nested */ use crate::node; */
                const A: &str = "crate::node \\" ; const B: &str = r#""crate::node"#;
                enum Way { Here(Box<u8>), #[cfg(test)] There(crate::node::Fake), }
                #[cfg(test)]
                #[allow(dead_code)]
                pub(crate) mod testkit;
                #[cfg(test)]
                use crate::node::{Node, Slots};
                #[cfg(any(test, feature = "testing"))]
                use crate::node::Fake;
                use crate::names::SlotId;
                mod node; // Its own.
                use self::node::Name; use super::names;
                fn name<A, B>() { node::name() }
                #[cfg(test)]
                mod tests { use super::super::node; fn f() { crate::node::f() } }"##,
            ),
            ("names/testkit.rs", above),
            ("names/testkit/deep.rs", above),
            ("names/tests.rs", above),
            ("names/tests/more.rs", above),
        ]);
        assert_eq!(graph.circles(), Vec::<Vec<&str>>::new());
        assert!(graph.0["node"].contains_key("names") && graph.0["names"].is_empty());
    }

    /// Code after a test item counts again.
    #[test]
    fn an_item_for_tests_ends_where_it_ends() {
        for item in [
            "mod tests { fn f() { g(\"}\") } }",
            "use super::{a, b};",
            "fn f<A, B>(a: [u8; 2]) {}",
            "struct Unit;",
            "pub const A: [u8; 2] = [1, 2];",
        ] {
            let code = format!("#[cfg(test)] {item} use crate::node;");
            let graph = graph(&[("node.rs", ""), ("names.rs", &code)]);
            assert!(graph.0["names"].contains_key("node"), "{item}");
        }
        let arms = "match a { #[cfg(test)] A(b) => f(b, 1), B => crate::node::f(), }";
        assert!(graph(&[("node.rs", ""), ("a.rs", arms)]).0["a"].contains_key("node"));
    }
}
