use super::*;
use std::fs;

const RUST: (&str, &str) = ("Cargo.toml", "[package]\nname = \"x\"\nversion = \"0.1.0\"\n");
const JS: (&str, &str) =
    ("package.json", r#"{"name": "x", "version": "0.1.0", "slotd": {"entry": "src/handler.js"}}"#);
const TS: (&str, &str) =
    ("package.json", r#"{"name": "x", "version": "0.1.0", "slotd": {"entry": "src/handler.ts"}}"#);
const PYTHON: (&str, &str) = (
    "pyproject.toml",
    "[project]\nname = \"x\"\nversion = \"0.1.0\"\n[tool.slotd]\nentry = \"handler\"\n",
);
const C: (&str, &str) =
    ("slotd.toml", "[plugin]\nname = \"x\"\nversion = \"0.1.0\"\nsources = [\"src/handler.c\"]\n");

fn found(files: &[(&str, &str)]) -> anyhow::Result<Lang> {
    let dir = tempfile::tempdir()?;
    for (name, text) in files {
        fs::write(dir.path().join(name), text)?;
    }
    Lang::of(dir.path())
}

/// Each folder is built in its language, with the name and version in its own manifest.
#[test]
fn a_folders_language_is_found() -> anyhow::Result<()> {
    for (file, lang) in
        [(RUST, Lang::Rust), (JS, Lang::Js), (TS, Lang::Ts), (PYTHON, Lang::Python), (C, Lang::C)]
    {
        assert_eq!(found(&[file])?, lang);
        if lang == Lang::Rust {
            continue; // Its name is cargo's to tell.
        }
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join(file.0), file.1)?;
        let Package { name, version } = lang.language().package(dir.path())?;
        assert_eq!((&*name, &*version), ("x", "0.1.0"), "{lang}");
    }
    // Files with another purpose.
    let plain = [("package.json", r#"{"name": "tools"}"#), ("slotd.toml", "node = \"a\"\n")];
    assert_eq!(found(&[RUST, plain[0], plain[1]])?, Lang::Rust);
    Ok(())
}

/// A wrong guess would build something else than what the author edits.
#[test]
fn what_is_no_plugin_or_two_is_said() {
    let refusal = |files: &[(&str, &str)]| found(files).map_err(|e| format!("{e:#}")).unwrap_err();
    let none = refusal(&[]);
    assert!(none.contains("is not a plugin") && none.contains("slotd plugin new"), "{none}");
    let two = refusal(&[RUST, PYTHON]);
    for part in ["two languages", "Rust (Cargo.toml)", "Python (pyproject.toml)"] {
        assert!(two.contains(part), "{two}");
    }
    let lacking = refusal(&[("package.json", "{}"), ("slotd.toml", "node = \"a\"\n")]);
    assert!(lacking.contains("package.json exists, but has no \"slotd\""), "{lacking}");
    assert!(lacking.contains("slotd.toml exists, but has no [plugin]"), "{lacking}");
    for broken in [("package.json", "{"), ("pyproject.toml", "="), ("slotd.toml", "[plugin]\n")] {
        assert!(refusal(&[broken]).contains(broken.0), "{broken:?}");
    }
}

/// If a build's own output counted as a source, it would build forever; a source that did not count
/// would never be built.
#[test]
fn what_tools_write_is_no_source() {
    for (name, is_dir) in
        [("src", true), ("handler.py", false), ("Cargo.toml", false), ("a.h", false)]
    {
        assert!(is_source(name, is_dir), "{name}");
    }
    for (name, is_dir) in [
        (".git", true),
        (".slotd", true),
        ("target", true),
        ("node_modules", true),
        ("__pycache__", true),
        ("poll-0.1.0.wasm", false),
        (".handler.py.swp", false),
        ("handler.py~", false),
        ("#handler.py#", false),
        ("4913", false),
    ] {
        assert!(!is_source(name, is_dir), "{name}");
    }
}
