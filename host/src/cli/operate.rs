//! Commands of operators on sessions: what a session holds, corrections, files, many at once.

use super::{
    admin::service_path,
    args::{SessionDelete, SessionExport, SessionImport, SessionSet, SessionState},
    client::{Client, encode, query},
    exit::{CliError, Exit},
    output::{self, Table, list, text},
    sessions::{delete_one, shown},
};
use crate::{
    limits,
    names::{ServiceName, SessionKey},
};
use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::{io::Read as _, path::Path};
use tokio::time::timeout;

/// The admin API's path of a session.
fn path(service: &str, session: &str, rest: &str) -> Result<String, CliError> {
    let key = SessionKey::parse(service, session)?;
    let [service, session] = [key.service.as_str(), key.session.as_str()].map(encode);
    Ok(format!("/admin/v1/services/{service}/sessions/{session}{rest}"))
}

/// Who does it, for the session's history: as told, else the user of this process.
fn operator(told: Option<String>) -> String {
    let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    let name = told.or_else(user).unwrap_or_default();
    let clean: String = name.chars().filter(|c| !c.is_control()).collect();
    if clean.is_empty() { "operator".into() } else { clean }
}

pub async fn state(args: SessionState, json: bool) -> Result<(), CliError> {
    let path = path(&args.service, &args.session, "/state")?;
    let client = args.admin.client()?;
    match args.key {
        Some(key) => value(&client, &path, &key, json).await,
        None => keys(&client, &path, args.prefix, args.after, args.limit, json).await,
    }
}

/// Prints one value as it is.
async fn value(client: &Client, path: &str, key: &str, json: bool) -> Result<(), CliError> {
    let parameters = query(&[("prefix", Some(key.into())), ("limit", Some("1".into()))]);
    let page = client.get(&format!("{path}{parameters}")).await?.json()?;
    let entry = list(&page, "entries").iter().find(|entry| entry["key"] == key);
    let entry = entry.ok_or_else(|| {
        CliError::new(Exit::Refused, format!("the session has no key {key:?} in its state"))
    })?;
    if json {
        return output::line(&entry.to_string());
    }
    match entry["value_base64"].as_str() {
        Some(base64) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
            let bytes =
                bytes.map_err(|e| CliError::new(Exit::Server, format!("not base64: {e}")))?;
            output::body(&bytes)
        }
        None => output::line(&entry["value"].to_string()),
    }
}

async fn keys(
    client: &Client,
    path: &str,
    prefix: Option<String>,
    after: Option<String>,
    limit: Option<u64>,
    json: bool,
) -> Result<(), CliError> {
    let limit = limit.map(|limit| limit.to_string());
    let parameters = query(&[("prefix", prefix), ("after", after), ("limit", limit)]);
    let page = client.get(&format!("{path}{parameters}")).await?.json()?;
    if json {
        return output::line(&page.to_string());
    }
    let mut table = Table::new(&["KEY", "VALUE"]);
    for entry in list(&page, "entries") {
        table.row([text(entry, "key"), shown_value(entry)]);
    }
    output::print(&table.render())?;
    let (keys, bytes) = (text(&page, "session.state_keys"), text(&page, "session.state_bytes"));
    output::complain(&output::harmless(
        &format!("{keys} keys, {bytes} bytes, as of {}", text(&page, "session.position")),
        false,
    ));
    if let Some(next) = page["next_after"].as_str() {
        output::complain(&format!("more: --after {:?}", output::harmless(next, false)));
    }
    Ok(())
}

/// A value on one line; JSON's null is one, too.
fn shown_value(entry: &Value) -> String {
    match entry.get("value") {
        Some(json) => output::harmless(&json.to_string(), false),
        None => shown(entry, "value"),
    }
}

pub async fn set(args: SessionSet, json: bool) -> Result<(), CliError> {
    let path = path(&args.service, &args.session, "/state")?;
    let client = args.admin.client()?;
    let change = match (args.value, args.delete) {
        (None, true) => json!({"key": args.key, "delete": true}),
        (Some(value), false) => {
            let bytes = match value.as_str() {
                "-" => read_input()?,
                text => text.as_bytes().to_vec(),
            };
            // What the SDKs read is JSON; anything else has to be meant.
            let base64 = base64::engine::general_purpose::STANDARD.encode(&bytes);
            match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
                Err(error) if !args.raw => {
                    return Err(CliError::usage(format!(
                        "the value is not JSON ({error}): quote a text, or say --raw for bytes as \
                         they are"
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
    let who = operator(args.who);
    let headers = [("content-type", "application/json"), ("slotd-operator", who.as_str())];
    let body = Bytes::from(body.to_string());
    let answer = client.request(Method::POST, &path, &headers, body).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let seq = text(&answer, "seq");
    output::line(&format!("corrected; it stands as message {seq} in the session's history"))
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
    let failed = |error: std::io::Error| {
        CliError::failure(format!("can't write {}: {error}", file.display()))
    };
    // There in whole, or not at all.
    let folder = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let mut out =
        tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    let end = save(&client, &path, &mut out).await?;
    out.as_file().sync_all().map_err(failed)?;
    out.persist(&file).map_err(|error| failed(error.error))?;
    if json {
        return output::line(&end.to_string());
    }
    let (messages, keys) = (text(&end, "end.messages"), text(&end, "end.keys"));
    output::line(&format!("{}: {messages} messages, {keys} keys", file.display()))
}

/// Writes an export; gives its last line.
async fn save(
    client: &Client,
    path: &str,
    out: &mut impl std::io::Write,
) -> Result<Value, CliError> {
    let mut body = client.stream(path, &[]).await?;
    let mut last = Vec::new();
    loop {
        let frame = match timeout(limits::CLIENT_STREAM_SILENCE, body.frame()).await {
            Err(_) => return Err(CliError::new(Exit::Unreachable, "the export fell silent")),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let why = format!("the export broke off: {error}");
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
    let why = last["failed"].as_str().unwrap_or("it broke off");
    Err(CliError::new(
        Exit::Server,
        format!("the session was not exported: {}", output::harmless(why, false)),
    ))
}

pub async fn import(args: SessionImport, json: bool) -> Result<(), CliError> {
    let path = path(&args.service, &args.session, "/import")?;
    let client = args.admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&args.file);
    let read =
        file.and_then(|file| file.take(limits::IMPORT_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|e| CliError::failure(format!("can't read {}: {e}", args.file.display())))?;
    if bytes.len() as u64 > limits::IMPORT_BYTES_MAX {
        return Err(CliError::failure(format!(
            "{} is larger than this command sends, {} bytes: send it with curl --data-binary",
            args.file.display(),
            limits::IMPORT_BYTES_MAX
        )));
    }
    // Before anything is replaced by it.
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let last = text.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let last: Value = serde_json::from_slice(last).unwrap_or_default();
    if !last["end"].is_object() {
        return Err(CliError::failure(format!(
            "{} is not a whole export: its last line is not {{\"end\": ...}}",
            args.file.display()
        )));
    }
    let flag = |set: bool| set.then(|| "true".to_owned());
    let parameters =
        query(&[("replace", flag(args.replace)), ("assume_current", flag(args.assume_current))]);
    let who = operator(args.who);
    let headers = [("content-type", "application/x-ndjson"), ("slotd-operator", who.as_str())];
    let path = path + &parameters;
    let answer = client.request(Method::POST, &path, &headers, bytes.into()).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::line(&format!(
        "{} messages, {} keys; that it was imported is message {}",
        output::text(&answer, "messages"),
        output::text(&answer, "keys"),
        output::text(&answer, "seq")
    ))
}

// ---- many at once ------------------------------------------------------------------------------

pub async fn delete(args: SessionDelete, json: bool) -> Result<(), CliError> {
    let Some(prefix) = args.prefix else {
        let session = args.session.ok_or_else(|| CliError::usage("give a SESSION or --prefix"))?;
        return delete_one(&args.service, &session, &args.api, json).await;
    };
    let timeout = args.api.wait.timeout.unwrap_or(limits::CLIENT_TIMEOUT_DEFAULT);
    let client = args.admin.client(timeout)?;
    let service = ServiceName::parse(&args.service)?;
    let many = Many { client, service, prefix };
    let counted = many.go_through(true, json).await?;
    let these = output::count(counted, "session");
    let of = format!("{these} of {} begin with {:?}", args.service, many.prefix);
    if args.dry_run || counted == 0 {
        return many.say(json, counted, true, &of);
    }
    if !args.yes {
        return Err(CliError::usage(format!(
            "{of}; to delete them, with all they have and for good, say --yes"
        )));
    }
    let deleted = many.go_through(false, json).await?;
    many.say(json, deleted, false, &format!("deleted {}", output::count(deleted, "session")))
}

/// Sessions of a service whose ids begin alike.
struct Many {
    client: Client,
    service: ServiceName,
    prefix: String,
}

impl Many {
    /// Counts or deletes them, a page at a time: cut short, it may be run again.
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
                    error.message += &format!("\n  {total} are deleted; run it again for the rest");
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
