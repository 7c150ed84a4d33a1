//! Operators' commands on sessions: their state, corrections, export and import, bulk deletes.

use super::{
    admin::service_path,
    args::{SessionDelete, SessionExport, SessionImport, SessionSet, SessionState},
    client::{Client, encode, operator, query},
    exit::{CliError, Exit},
    json::{self, StateEntry, StatePage, one_line},
    output::{self, Table, text},
    sessions::delete_one,
};
use crate::{
    files, limits,
    names::{ServiceName, SessionKey},
};
use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json, value::RawValue};
use std::{io::Read as _, path::Path};
use tokio::time::timeout;

/// The admin API's path of a session.
///
/// # Errors
/// The names are invalid.
pub fn path(service: &str, session: &str, rest: &str) -> Result<String, CliError> {
    let key = SessionKey::parse(service, session)?;
    let [service, session] = [key.service.as_str(), key.session.as_str()].map(encode);
    Ok(format!("/admin/v1/services/{service}/sessions/{session}{rest}"))
}

pub async fn state(args: SessionState, json: bool) -> Result<(), CliError> {
    let path = path(&args.service, &args.session, "/state")?;
    let client = args.admin.client()?;
    match args.key {
        Some(key) => value(&client, &path, &key, json).await,
        None => keys(&client, &path, args.prefix, args.after, args.limit, json).await,
    }
}

/// Prints one value unchanged.
async fn value(client: &Client, path: &str, key: &str, as_json: bool) -> Result<(), CliError> {
    let parameters = query(&[("prefix", Some(key.into())), ("limit", Some("1".into()))]);
    let page = client.get(&format!("{path}{parameters}")).await?.json()?;
    let page: StatePage<'_> = page.read()?;
    let first = page.entries.first().map(|raw| raw.get());
    let entry = first.map(json::read::<StateEntry<'_>>).transpose()?;
    let found = first.zip(entry).filter(|(_, entry)| entry.key == key);
    let (raw, entry) = found.ok_or_else(|| {
        CliError::new(Exit::Refused, format!("the session has no key {key:?} in its state"))
    })?;
    if as_json {
        return output::line(&one_line(raw));
    }
    match entry.value_base64 {
        Some(base64) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
            let bytes =
                bytes.map_err(|e| CliError::new(Exit::Server, format!("not base64: {e}")))?;
            output::body(&bytes)
        }
        None => output::line(entry.value.map_or("null", RawValue::get)),
    }
}

async fn keys(
    client: &Client,
    path: &str,
    prefix: Option<String>,
    after: Option<String>,
    limit: Option<u64>,
    as_json: bool,
) -> Result<(), CliError> {
    let limit = limit.map(|limit| limit.to_string());
    let parameters = [("prefix", prefix.clone()), ("after", after), ("limit", limit)];
    let page = client.get(&format!("{path}{}", query(&parameters))).await?.json()?;
    if as_json {
        return output::line(&page.to_string());
    }
    let entries = page.read::<StatePage<'_>>()?.entries;
    let mut table = Table::new(&["KEY", "VALUE"]);
    for raw in &entries {
        let entry: StateEntry<'_> = json::read(raw.get())?;
        let value = entry.shown();
        table.row([entry.key, value]);
    }
    if !entries.is_empty() {
        output::print(&table.render())?;
    }
    let size = |name: &str| page["session"][name].as_u64().unwrap_or(0) as usize;
    let keys = output::count(size("state_keys"), "key");
    let bytes = output::count(size("state_bytes"), "byte");
    let position = text(&page, "session.position");
    // Of the whole session, whichever part was requested.
    let whole = match (prefix, entries.is_empty()) {
        (Some(prefix), true) => format!(
            "no keys that begin with {prefix:?}; the session has {keys}, {bytes}, as of {position}"
        ),
        (Some(_), false) => format!("of {keys}, {bytes}, as of {position}"),
        (None, _) => format!("{keys}, {bytes}, as of {position}"),
    };
    output::complain(&output::harmless(&whole, false));
    if let Some(next) = page["next_after"].as_str() {
        output::complain(&format!("more: --after {:?}", output::harmless(next, false)));
    }
    Ok(())
}

pub async fn set(args: SessionSet, json: bool) -> Result<(), CliError> {
    let path = path(&args.service, &args.session, "/state")?;
    let client = args.admin.client()?;
    let who = operator("--as", args.who.as_deref())?;
    let change = match (args.value, args.delete) {
        (None, true) => {
            has_key(&client, &path, &args.key).await?;
            json!({"key": args.key, "delete": true})
        }
        (Some(value), false) => {
            let bytes = match value.as_str() {
                "-" => read_input()?,
                text => text.as_bytes().to_vec(),
            };
            // SDKs read JSON; anything else has to be explicit.
            let base64 = base64::engine::general_purpose::STANDARD.encode(&bytes);
            match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
                Err(error) if !args.raw => {
                    return Err(CliError::usage(format!(
                        "the value is not JSON ({error}): put text in quotes, or pass --raw to \
                         store the bytes as they are"
                    )));
                }
                _ => json!({"key": args.key, "value_base64": base64}),
            }
        }
        _ => return Err(CliError::usage("give a VALUE or --delete")),
    };
    let body = json!({
        "changes": [change], "reason": args.reason, "position": args.if_position,
    });
    let headers = [("content-type", "application/json"), ("slotd-operator", who.as_str())];
    let body = Bytes::from(body.to_string());
    let answer = client.request(Method::POST, &path, &headers, body).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let seq = text(&answer, "seq");
    output::line(&format!("corrected; it is message {seq} in the session's history"))
}

/// Whether there is anything to delete: an empty correction would stay in the history permanently.
async fn has_key(client: &Client, path: &str, key: &str) -> Result<(), CliError> {
    let parameters = query(&[("prefix", Some(key.into())), ("limit", Some("1".into()))]);
    let page = client.get(&format!("{path}{parameters}")).await?.json()?;
    match page["entries"][0]["key"] == key {
        true => Ok(()),
        false => Err(CliError::new(
            Exit::Refused,
            format!("the session has no key {key:?} in its state: nothing was done"),
        )),
    }
}

fn read_input() -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let limit = limits::STATE_VALUE_BYTES_MAX as u64 + 1;
    let read = std::io::stdin().lock().take(limit).read_to_end(&mut bytes);
    read.map_err(|e| CliError::failure(format!("can't read standard input: {e}")))?;
    Ok(bytes)
}

// ---- files -------------------------------------------------------------------------------------

pub async fn export(args: SessionExport, json: bool) -> Result<(), CliError> {
    let mut path = path(&args.service, &args.session, "/export")?;
    if args.no_history {
        path.push_str("?history=false");
    }
    let client = args.admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
    let Some(file) = args.file.filter(|file| file.as_os_str() != "-") else {
        return save(&client, &path, &mut std::io::stdout().lock()).await.map(drop);
    };
    // Only by its kind: the message would name a file that the user does not know.
    let failed = |error: std::io::Error| {
        let why = std::io::Error::from(error.kind());
        CliError::failure(format!("can't write {}: {why}", file.display()))
    };
    // Appears completely, or not at all.
    let folder = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(CliError::failure(format!(
            "can't write {}: there is no folder {}",
            file.display(),
            folder.display()
        )));
    }
    let mut out = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let end = save(&client, &path, &mut out).await?;
    out.as_file().sync_all().map_err(failed)?;
    out.persist(&file).map_err(|error| failed(error.error))?;
    if json {
        return output::line(&end.to_string());
    }
    output::line(&format!("{}: {}", file.display(), held(&end["end"])))
}

/// The contents of a session's file.
fn held(counts: &Value) -> String {
    let size = |name: &str| counts[name].as_u64().unwrap_or(0) as usize;
    let (messages, keys) = (size("messages"), size("keys"));
    format!("{}, {}", output::count(messages, "message"), output::count(keys, "key"))
}

/// Writes an export; returns its last line.
async fn save(
    client: &Client,
    path: &str,
    out: &mut impl std::io::Write,
) -> Result<Value, CliError> {
    let mut body = client.stream(path, &[]).await?;
    let mut last = Vec::new();
    loop {
        let frame = match timeout(limits::CLIENT_STREAM_SILENCE, body.frame()).await {
            Err(_) => return Err(CliError::new(Exit::Unreachable, "the export stalled")),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let why = format!("the export ended early: {error}");
                return Err(CliError::new(Exit::Unreachable, why));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(chunk) = frame.into_data() else { continue };
        out.write_all(&chunk).map_err(|e| CliError::failure(format!("can't write: {e}")))?;
        match chunk.strip_suffix(b"\n").unwrap_or(&chunk).iter().rposition(|b| *b == b'\n') {
            Some(at) => last = chunk[at + 1..].to_vec(),
            None if last.ends_with(b"\n") => last = chunk.to_vec(),
            None => last.extend_from_slice(&chunk),
        }
    }
    out.flush().map_err(|e| CliError::failure(format!("can't write: {e}")))?;
    let last: Value = serde_json::from_slice(&last).unwrap_or_default();
    if last["end"].is_object() {
        return Ok(last);
    }
    let why = last["failed"].as_str().unwrap_or("it ended early");
    Err(CliError::new(
        Exit::Server,
        format!("the session was not exported: {}", output::harmless(why, false)),
    ))
}

pub async fn import(args: SessionImport, json: bool) -> Result<(), CliError> {
    let path = path(&args.service, &args.session, "/import")?;
    let client = args.admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
    let who = operator("--as", args.who.as_deref())?;
    let bytes = files::read(&args.file, limits::IMPORT_BYTES_MAX).map_err(|error| {
        let too_large = matches!(error, files::ReadError::TooLarge(_));
        let hint = if too_large { ": send it with curl --data-binary" } else { "" };
        CliError::failure(format!("{} {error}{hint}", args.file.display()))
    })?;
    // Before it replaces anything.
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let last = text.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let last: Value = serde_json::from_slice(last).unwrap_or_default();
    if !last["end"].is_object() {
        return Err(CliError::failure(format!(
            "{} is an incomplete export: its last line is not {{\"end\": ...}}",
            args.file.display()
        )));
    }
    let flag = |set: bool| set.then(|| "true".to_owned());
    let parameters =
        query(&[("replace", flag(args.replace)), ("assume_current", flag(args.assume_current))]);
    let headers = [("content-type", "application/x-ndjson"), ("slotd-operator", who.as_str())];
    let path = path + &parameters;
    let answer = client.request(Method::POST, &path, &headers, bytes.into()).await;
    let answer = answer.map_err(|mut error| {
        if error.problem.as_ref().is_some_and(|problem| problem["code"] == "session-exists") {
            error.message += "\n  --replace deletes it and puts the file in its place.";
        }
        error
    })?;
    let answer = answer.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::line(&format!(
        "{}; the import is recorded as message {}",
        held(&answer),
        output::text(&answer, "seq")
    ))
}

// ---- many at once ------------------------------------------------------------------------------

pub async fn delete(args: SessionDelete, json: bool) -> Result<(), CliError> {
    let Some(prefix) = args.prefix else {
        let session = args.session.ok_or_else(|| {
            CliError::usage("give a SESSION, or --prefix for all sessions whose ids start with it")
        })?;
        return delete_one(&args.service, &session, &args.api, json).await;
    };
    let timeout = args.api.wait.timeout.unwrap_or(limits::CLIENT_TIMEOUT_DEFAULT);
    let client = args.admin.client(timeout, &args.api.tls)?;
    let service = ServiceName::parse(&args.service)?;
    let many = Many { client, service, prefix };
    let counted = many.go_through(true, json).await?;
    let these = output::count(counted, "session");
    let of = format!("{these} of {} start with {:?}", args.service, many.prefix);
    if args.dry_run || counted == 0 {
        return many.say(json, counted, true, &of);
    }
    if !args.yes {
        return Err(CliError::usage(format!("{of}; to delete them permanently, pass --yes")));
    }
    let deleted = many.go_through(false, json).await?;
    many.say(json, deleted, false, &format!("deleted {}", output::count(deleted, "session")))
}

/// Sessions of a service whose ids share a prefix.
struct Many {
    client: Client,
    service: ServiceName,
    prefix: String,
}

impl Many {
    /// Counts or deletes them, page by page: it can be repeated after an interruption.
    async fn go_through(&self, dry_run: bool, json: bool) -> Result<usize, CliError> {
        let path = service_path(self.service.as_str(), "/sessions")?;
        let (mut total, mut after) = (0, None);
        loop {
            let limit =
                if dry_run { limits::PAGE_ENTRIES_MAX } else { limits::PAGE_ENTRIES_DEFAULT };
            let parameters = query(&[
                ("prefix", Some(self.prefix.clone())),
                ("after", after),
                ("limit", Some(limit.to_string())),
                ("dry_run", dry_run.then(|| "true".into())),
            ]);
            let path = format!("{path}{parameters}");
            let answer = self.client.request(Method::DELETE, &path, &[], Bytes::new()).await;
            let page = answer.and_then(|answer| answer.json()).map_err(|mut error| {
                if !dry_run && total > 0 {
                    error.message +=
                        &format!("\n  {total} are deleted; run the command again for the rest");
                }
                error
            })?;
            let before = total / PROGRESS_EVERY;
            total += page["sessions"].as_u64().unwrap_or(0) as usize;
            if !json && !dry_run && total / PROGRESS_EVERY > before {
                output::complain(&format!("{total} deleted so far"));
            }
            match page["next_after"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(total),
            }
        }
    }

    fn say(&self, json: bool, sessions: usize, dry_run: bool, text: &str) -> Result<(), CliError> {
        match json {
            true => output::line(
                &json!({
                    "service": self.service.as_str(), "prefix": self.prefix,
                    "sessions": sessions, "dry_run": dry_run,
                })
                .to_string(),
            ),
            false => output::line(&output::harmless(text, false)),
        }
    }
}

const PROGRESS_EVERY: usize = 1_000;
