//! `slotd plugin types`: what a plugin says of its messages, for who writes a client.

use crate::{
    cli::{
        admin::{read_component, service_path},
        args::AdminArgs,
        exit::CliError,
        output,
    },
    plugin::declared,
};
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct TypesArgs {
    /// A plugin's folder, a component, or else a service of a running node
    #[arg(value_name = "DIR|FILE|SERVICE", default_value = ".")]
    pub from: PathBuf,
    /// The language
    #[arg(long, value_enum, default_value_t = Output::Ts)]
    pub lang: Output,
    /// The file to write to [default: the standard output]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// TypeScript declarations, for the client library
    Ts,
    /// The JSON Schemas themselves
    Json,
}

/// # Errors
/// There is nothing of that name, it says nothing of its types, or the file can't be written.
pub async fn types(args: TypesArgs, json: bool) -> Result<(), CliError> {
    let TypesArgs { from, lang, out, admin } = args;
    let (of, document) = match Source::of(&from) {
        Source::Folder => of_folder(&from)?,
        Source::Component => of_component(&from)?,
        Source::Service => of_service(&from.to_string_lossy(), &admin).await?,
    };
    let text = match lang {
        Output::Ts => slotd_toolchains::typescript(&document, &of),
        Output::Json => format!("{document:#}\n"),
    };
    let Some(out) = out else { return output::print(&text) };
    write(&out, &text)?;
    match json {
        true => output::line(&serde_json::json!({"file": out, "of": of}).to_string()),
        false => output::line(&format!("{}: types of {of}", out.display())),
    }
}

enum Source {
    Folder,
    Component,
    Service,
}

impl Source {
    /// What is there counts, and what can't be a service's name.
    fn of(from: &Path) -> Self {
        if from.is_dir() {
            return Self::Folder;
        }
        let is_path =
            from.components().count() != 1 || from.extension().is_some_and(|e| e == "wasm");
        match from.exists() || is_path {
            true => Self::Component,
            false => Self::Service,
        }
    }
}

fn of_folder(dir: &Path) -> Result<(String, Value), CliError> {
    let types = slotd_toolchains::types(dir).map_err(|e| CliError::failure(format!("{e:#}")))?;
    let Some(types) = types else { return Err(nothing(&dir.display().to_string())) };
    let of = dir.join(types.file).display().to_string();
    let document = declared::parse(types.document.to_string().as_bytes());
    let document = document.map_err(|why| CliError::failure(format!("{of}: {why}")))?;
    Ok((of.clone(), document.ok_or_else(|| later(&of))?))
}

fn of_component(file: &Path) -> Result<(String, Value), CliError> {
    let of = file.display().to_string();
    let section = declared::section(&read_component(file)?);
    let section = section.map_err(|why| CliError::failure(format!("{of}: {why}")))?;
    let Some(section) = section else { return Err(nothing(&of)) };
    let document = declared::parse(&section).map_err(|why| {
        CliError::failure(format!("{of}: its `{}` section: {why}", declared::SECTION))
    })?;
    Ok((of.clone(), document.ok_or_else(|| later(&of))?))
}

async fn of_service(service: &str, admin: &AdminArgs) -> Result<(String, Value), CliError> {
    let client = admin.client()?;
    let answer = client.get(&service_path(service, "/types")?).await?.json()?;
    let of = format!("{service} {}", output::text(&answer, "version"));
    match answer.into_value()["types"].take() {
        Value::Null => Err(nothing(&of)),
        document => Ok((of, document)),
    }
}

fn nothing(of: &str) -> CliError {
    CliError::failure(format!(
        "{of} says nothing of the types of its messages: name a file with their JSON Schemas in the \
         plugin's manifest (docs/plugins.md, \"The types of messages\")"
    ))
}

fn later(of: &str) -> CliError {
    CliError::failure(format!("{of}: its types have a later format than this slotd knows"))
}

/// Whoever reads the file sees all of it, or what was there before.
fn write(out: &Path, text: &str) -> Result<(), CliError> {
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, out))
        .map_err(|error| CliError::failure(format!("{}: {error}", out.display())))
}
