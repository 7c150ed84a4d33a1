//! `slotd plugin new`.

use crate::{
    lang::{Lang, NewOptions},
    sdk,
    texts::read_text,
    types::write_declarations,
};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Every template is the same handler, so that one script fits all, and one description of its
/// messages, where a language has none of its own.
const SHARED: [(&str, &str); 2] = [
    ("script.jsonl", include_str!("../templates/script.jsonl.in")),
    ("types.json", include_str!("../templates/types.json")),
];

/// The files that [`new`] wrote.
#[derive(Clone, Debug, Serialize)]
pub struct NewReport {
    pub name: String,
    pub lang: Lang,
    pub dir: PathBuf,
    pub files: Vec<PathBuf>,
}

impl fmt::Display for NewReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, lang, dir, .. } = self;
        let dir = dir.display();
        write!(
            f,
            "wrote the {lang} plugin {name} to {dir}. Next:\n  \
             cd {dir}\n  slotd plugin test\n  slotd plugin build\n  \
             slotd deploy {name} {name}-0.1.0.wasm\n\
             or run a node that builds it and swaps it in on each save:\n  slotd dev"
        )
    }
}

/// Creates a plugin that builds and whose tests pass.
///
/// # Errors
/// If the name is invalid for a plugin or a service, the folder is not empty, or a file can't be
/// written (the written ones are then removed).
pub fn new(options: &NewOptions) -> anyhow::Result<NewReport> {
    let NewOptions { lang, name, name_bytes_max, path, .. } = options;
    check_name(name, *name_bytes_max)?;
    let language = lang.language();
    let templates = language.templates();
    ensure!(!templates.is_empty(), "there is no template for {lang} yet");
    let is_own = |file: &str| templates.iter().any(|(own, _)| *own == file);
    let shared = SHARED.iter().filter(|(file, _)| !is_own(file));
    let written: Vec<_> = templates.iter().chain(shared).collect();
    let mut placeholders = language.placeholders(options)?;
    placeholders.push(("name", name.clone()));
    let dir = path.clone().unwrap_or_else(|| PathBuf::from(name));
    let was_there = match fs::read_dir(&dir) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "{} is not empty", dir.display());
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    let write = || -> anyhow::Result<()> {
        for (file, template) in &written {
            let file = dir.join(file);
            fs::create_dir_all(file.parent().unwrap_or(&dir))?;
            fs::write(file, fill(template, &placeholders))?;
        }
        if !language.sdk().is_empty() {
            sdk::write(&dir, language.sdk())?;
        }
        write_declarations(&dir, *lang)
    };
    if let Err(error) = write() {
        // It was empty or missing.
        _ = clear(&dir);
        if !was_there {
            _ = fs::remove_dir(&dir);
        }
        return Err(error).with_context(|| format!("writing to {}", dir.display()));
    }
    let files = written.iter().map(|(file, _)| PathBuf::from(file)).collect();
    Ok(NewReport { name: name.clone(), lang: *lang, dir, files })
}

/// Whether the handler and the README in a plugin's folder are still those that [`new`] writes: the
/// README's examples then fit the handler.
pub fn as_written(dir: &Path, lang: Lang, name: &str) -> (bool, bool) {
    let placeholders = [("name", name.to_owned())];
    let is_written = |(file, template): &(&str, &str)| {
        let stands = read_text(&dir.join(file)).ok().flatten();
        stands.is_some_and(|text| text == fill(template, &placeholders))
    };
    let templates = lang.language().templates();
    let stem =
        |file: &str| Path::new(file).file_stem().is_some_and(|s| s == "handler" || s == "lib");
    let handler = templates.iter().find(|(file, _)| stem(file)).is_some_and(is_written);
    let readme = templates.iter().find(|(file, _)| *file == "README.md").is_some_and(is_written);
    (handler, readme)
}

fn fill(template: &str, placeholders: &[(&str, String)]) -> String {
    placeholders.iter().fold(template.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value)
    })
}

fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => fs::remove_dir_all(path)?,
            false => fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// The plugin's name is also the service that its README deploys to.
fn check_name(name: &str, max: usize) -> anyhow::Result<()> {
    ensure!(
        !name.is_empty() && name.len() <= max,
        "a plugin's name must have 1 to {max} characters; this one has {}",
        name.len()
    );
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    ensure!(
        name.as_bytes()[0].is_ascii_lowercase() && name.bytes().all(allowed),
        "{name:?} can't be a plugin's name: use a-z, 0-9, '-' and '_', starting with a letter"
    );
    Ok(())
}
