//! A plugin's types document: the JSON Schemas of its messages, in the file that its manifest names. It becomes the
//! component's custom section `slotd:types`. What has to be in it, the host knows; and docs/plugins.md.

use crate::{
    lang::Lang,
    sdk::OWN_DIR,
    stamp::{stamp, write_file},
    texts::read_text,
    typescript::typescript,
};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The custom section, at the component's top level.
pub const SECTION: &str = "slotd:types";
/// The declarations for the plugin's own code, in slotd's folder of the plugin.
const DECLARATIONS: &str = "types.ts";

/// A types document, as a plugin has it.
#[derive(Clone, Debug)]
pub struct Types {
    /// As the manifest names it.
    pub file: PathBuf,
    pub document: Value,
}

/// What a plugin says of its messages; `None` if its manifest names no file for that.
///
/// # Errors
/// If the folder is not a plugin, or the file is missing or no JSON.
pub fn read(dir: &Path) -> anyhow::Result<Option<Types>> {
    let dir =
        dir.canonicalize().with_context(|| format!("there is no folder {}", dir.display()))?;
    of(&dir, Lang::of(&dir)?)
}

/// The same in a folder whose language is known.
pub fn of(dir: &Path, lang: Lang) -> anyhow::Result<Option<Types>> {
    let language = lang.language();
    let Some(file) = language.types(dir)? else { return Ok(None) };
    let text = read_text(&dir.join(&file))?.with_context(|| {
        format!("{} names the types {}, which do not exist", language.manifest(), file.display())
    })?;
    let document: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is invalid", file.display()))?;
    ensure!(document.is_object(), "{} is invalid: it is no object", file.display());
    Ok(Some(Types { file, document }))
}

impl Types {
    /// The component with them.
    pub fn stamp(&self, component: &[u8]) -> anyhow::Result<Vec<u8>> {
        stamp(component, SECTION, self.document.to_string().as_bytes())
    }
}

/// Writes the declarations that a plugin's own code imports, `.slotd/types.ts`, if its language can, and it has types.
///
/// # Errors
/// As [`read`], or if the file can't be written.
pub fn write_declarations(dir: &Path, lang: Lang) -> anyhow::Result<()> {
    let language = lang.language();
    if !language.reads_declarations() {
        return Ok(());
    }
    let Some(Types { file, document }) = of(dir, lang)? else { return Ok(()) };
    let name = language.package(dir)?.name;
    let text = typescript(&document, &format!("{name}, from {}", file.display()));
    let own = dir.join(OWN_DIR);
    let to = own.join(DECLARATIONS);
    // An unchanged file keeps its time.
    if fs::read(&to).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    fs::create_dir_all(&own)
        .and_then(|()| write_file(&to, text.as_bytes()))
        .with_context(|| format!("writing {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: [(&str, &str); 4] = [
        (
            "package.json",
            r#"{"name": "x", "version": "1.0.0", "slotd": {"entry": "x.js", "types": "types.json"}}"#,
        ),
        (
            "package.json",
            r#"{"name": "x", "version": "1.0.0", "slotd": {"entry": "x.ts", "types": "types.json"}}"#,
        ),
        (
            "pyproject.toml",
            "[project]\nname = \"x\"\nversion = \"1\"\n[tool.slotd]\nentry = \"x\"\ntypes = \"types.json\"\n",
        ),
        (
            "slotd.toml",
            "[plugin]\nname = \"x\"\nversion = \"1\"\nsources = [\"x.c\"]\ntypes = \"types.json\"\n",
        ),
    ];

    /// A key that is not read, or a file that is not there, would be types that nobody is told of, without a word.
    #[test]
    fn every_manifest_can_name_the_types() -> anyhow::Result<()> {
        for (manifest, text) in MANIFESTS {
            let dir = tempfile::tempdir()?;
            fs::write(dir.path().join(manifest), text)?;
            let refusal = || read(dir.path()).map_err(|e| format!("{e:#}")).unwrap_err();
            let missing = format!("{manifest} names the types types.json, which do not exist");
            assert_eq!(refusal(), missing);
            fs::write(dir.path().join("types.json"), "{")?;
            assert!(refusal().starts_with("types.json is invalid: EOF"), "{}", refusal());
            fs::write(dir.path().join("types.json"), "[]")?;
            assert_eq!(refusal(), "types.json is invalid: it is no object");
            fs::write(dir.path().join("types.json"), r#"{ "message": {"type": "string"} }"#)?;
            let types = read(dir.path())?.context("none")?;
            assert_eq!(types.document.to_string(), r#"{"message":{"type":"string"}}"#);
            fs::write(dir.path().join(manifest), text.replace("types", "typos"))?;
            // One of them takes no keys that it does not know.
            assert!(!matches!(read(dir.path()), Ok(Some(_))));
        }
        Ok(())
    }

    /// What the handler is checked against has to be what clients are told, and an unchanged file must not look like a change.
    #[test]
    fn a_handler_in_typescript_reads_what_clients_are_told() -> anyhow::Result<()> {
        for ((manifest, text), lang) in
            MANIFESTS.into_iter().zip([Lang::Js, Lang::Ts, Lang::Python, Lang::C])
        {
            let dir = tempfile::tempdir()?;
            let path = dir.path();
            fs::write(path.join(manifest), text)?;
            fs::write(path.join("types.json"), r#"{"reply": {"type": "number"}}"#)?;
            write_declarations(path, lang)?;
            let made = path.join(".slotd/types.ts");
            assert_eq!(made.exists(), matches!(lang, Lang::Js | Lang::Ts), "{lang}");
            if made.exists() {
                assert!(fs::read_to_string(&made)?.contains("export type Reply = number;"));
                let written = fs::metadata(&made)?.modified()?;
                write_declarations(path, lang)?;
                assert_eq!(fs::metadata(&made)?.modified()?, written);
            }
        }
        Ok(())
    }
}
