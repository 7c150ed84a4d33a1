//! Commands on the API: sending messages and reading the results.

use super::{
    args::{ApiArgs, History, Query, Send, SessionFork, SessionShow, Sessions},
    client::{Answer, encode, plain, query},
    exit::CliError,
    json::{Page, one_line},
    output::{self, Table, format_time, list, text, time},
    tail::nothing_after,
};
use crate::{
    http::is_json,
    limits,
    names::{ServiceName, SessionKey},
};
use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use std::io::Read as _;

/// The path of a session, whatever characters its id has.
///
/// # Errors
/// The names are invalid.
pub fn session_path(service: &str, session: &str, rest: &str) -> Result<String, CliError> {
    let key = SessionKey::parse(service, session)?;
    let [service, session] = [key.service.as_str(), key.session.as_str()].map(encode);
    Ok(format!("/v1/services/{service}/sessions/{session}{rest}"))
}

/// The body and its type, as the user gave them or as detected.
fn body(given: Option<String>, content_type: Option<String>) -> Result<(Bytes, String), CliError> {
    let body = match given.as_deref() {
        None => Vec::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            // One more than any node accepts: the node then reports its limit.
            let limit = limits::BODY_BYTES_MAX as u64 + 1;
            std::io::stdin()
                .lock()
                .take(limit)
                .read_to_end(&mut bytes)
                .map_err(|e| CliError::failure(format!("can't read standard input: {e}")))?;
            bytes
        }
        Some(text) => text.as_bytes().to_vec(),
    };
    let looks = || {
        if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok() {
            "application/json"
        } else if std::str::from_utf8(&body).is_ok() {
            "text/plain; charset=utf-8"
        } else {
            "application/octet-stream"
        }
    };
    let content_type = content_type.unwrap_or_else(|| looks().into());
    Ok((body.into(), content_type))
}

/// A plugin's answer for `--json`: its metadata, and `body` or `body_base64`.
#[derive(Serialize)]
struct Answered<'a> {
    seq: Option<u64>,
    slot: Option<u64>,
    plugin: &'a str,
    replayed: bool,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// A body as it appears in JSON, if possible: JSON unchanged, a text as a string.
fn inline(content_type: &str, bytes: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let json = is_json(content_type)
        .then(|| RawValue::from_string(one_line(text).into_owned()).ok())
        .flatten();
    json.or_else(|| serde_json::value::to_raw_value(text).ok())
}

/// Prints a plugin's answer: its body to standard output, the metadata to standard error.
fn plugin_answer(answer: &Answer, json: bool) -> Result<(), CliError> {
    let number = |name| answer.header(name).and_then(|n| n.parse::<u64>().ok());
    let (seq, slot) = (number("slotd-seq"), number("slotd-slot"));
    let plugin = answer.header("slotd-plugin").unwrap_or("-");
    let replayed = answer.header("slotd-replayed") == Some("true");
    let content_type = answer.header("content-type").unwrap_or("");
    if json {
        use base64::Engine as _;
        let body = inline(content_type, &answer.body);
        let base64 = || base64::engine::general_purpose::STANDARD.encode(&answer.body);
        let body_base64 = body.is_none().then(base64);
        let answered = Answered { seq, slot, plugin, replayed, content_type, body, body_base64 };
        let answered = serde_json::to_string(&answered);
        return output::line(&answered.map_err(|error| CliError::failure(error.to_string()))?);
    }
    output::body(&answer.body)?;
    let show = |n: Option<u64>| n.map_or_else(|| "-".into(), |n| n.to_string());
    output::complain(&format!(
        "message {}, slot {}, plugin {plugin}{}",
        show(seq),
        show(slot),
        if replayed { "; a repeat, with the stored reply" } else { "" }
    ));
    Ok(())
}

pub async fn send(args: Send, json: bool) -> Result<(), CliError> {
    let path = session_path(&args.service, &args.session, "/messages")?;
    let client = args.api.client()?;
    let (body, content_type) = body(args.body, args.content_type)?;
    let content_type = content_type_of(&content_type)?;
    let mut headers = vec![("content-type", content_type)];
    if let Some(sender) = &args.sender {
        headers.push(("slotd-sender", plain("--sender", sender, limits::SENDER_BYTES_MAX)?));
    }
    if let Some(id) = &args.id {
        let id = plain("--id", id, limits::IDEMPOTENCY_KEY_BYTES_MAX)?;
        headers.push(("idempotency-key", id));
    }
    let answer = client.request(Method::POST, &path, &headers, body).await?;
    plugin_answer(&answer, json)
}

fn content_type_of(given: &str) -> Result<&str, CliError> {
    plain("--content-type", given, limits::CONTENT_TYPE_BYTES_MAX)
}

pub async fn ask(args: Query, json: bool) -> Result<(), CliError> {
    let at = query(&[("at", args.at.map(|at| at.to_string()))]);
    let path = session_path(&args.service, &args.session, "/query")? + &at;
    let client = args.api.client()?;
    let (body, content_type) = body(args.body, args.content_type)?;
    let headers = [("content-type", content_type_of(&content_type)?)];
    let answer = client.request(Method::POST, &path, &headers, body).await?;
    plugin_answer(&answer, json)
}

pub async fn history(args: History, json: bool) -> Result<(), CliError> {
    let path = session_path(&args.service, &args.session, "/messages")?;
    let limit = args.limit.to_string();
    let parameters = match args.after {
        Some(ref after) => query(&[("after", Some(after.clone())), ("limit", Some(limit))]),
        None => query(&[("tail", Some(limit))]),
    };
    let answer = args.api.client()?.get(&(path + &parameters)).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let page: Page<'_> = answer.read()?;
    let entries = &page.entries;
    for entry in entries {
        let sender = entry.from().map(|from| format!("  {from}")).unwrap_or_default();
        let events = entry.events.len();
        let head = format!(
            "#{}  {}{sender}  {}{}",
            entry.seq,
            format_time(entry.time_ms),
            entry.plugin,
            if events > 0 {
                format!("  {}", output::count(events, "event"))
            } else {
                String::new()
            }
        );
        let mut lines = format!(
            "{}\n  > {}\n  < {}\n",
            output::harmless(&head, false),
            entry.body(),
            entry.reply()
        );
        if let Some(led_to) = entry.led_to() {
            lines += &format!("  led to {}\n", output::harmless(&led_to, false));
        }
        output::print(&lines)?;
    }
    let last_seq = page.last_seq;
    // A node of an earlier version returns only the number.
    if let Some(number) = page.next_after {
        let next = page.position.clone().unwrap_or_else(|| number.to_string());
        output::complain(&output::harmless(&format!("more: --after {next}"), false));
    }
    match args.after {
        Some(after) if entries.is_empty() => {
            output::complain(&output::harmless(&nothing_after(&after, last_seq), false));
        }
        None if (entries.len() as u64) < args.limit.min(last_seq) => {
            let first = last_seq - args.limit.min(last_seq);
            let fits = output::count(entries.len(), "message");
            output::complain(&format!(
                "only {fits} fit on one page; for the earlier ones: --after {first}"
            ));
        }
        _ => {}
    }
    Ok(())
}

pub async fn sessions(args: Sessions, json: bool) -> Result<(), CliError> {
    let service = ServiceName::parse(&args.service)?;
    let service = encode(service.as_str());
    let limit = args.limit.map(|limit| limit.to_string());
    let mut parameters = vec![("after", args.after), ("limit", limit)];
    let answer = if args.pinned {
        let timeout = args.api.wait.timeout.unwrap_or(limits::CLIENT_TIMEOUT_DEFAULT);
        let path = format!("/admin/v1/services/{service}/pinned{}", query(&parameters));
        args.admin.client(timeout, &args.api.tls)?.get(&path).await?
    } else {
        parameters.push(("prefix", args.prefix));
        let path = format!("/v1/services/{service}/sessions{}", query(&parameters));
        args.api.client()?.get(&path).await?
    };
    let answer = answer.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let mut table = Table::new(SESSION_COLUMNS);
    let sessions = list(&answer, "sessions");
    if sessions.is_empty() {
        output::complain("no sessions");
        return Ok(());
    }
    sessions.iter().for_each(|session| table.row(session_row(session)));
    output::print(&table.render())?;
    if args.pinned {
        for session in sessions {
            let why = format!("{}: {}", text(session, "session"), text(session, "pinned.reason"));
            output::complain(&output::harmless(&why, false));
        }
    }
    if let Some(next) = answer["next_after"].as_str() {
        output::complain(&format!("more: --after {:?}", output::harmless(next, false)));
    }
    Ok(())
}

const SESSION_COLUMNS: &[&str] =
    &["SESSION", ">MESSAGES", ">SLOT", "LAST", "PLUGIN", ">KEYS", ">BYTES"];

fn session_row(session: &Value) -> Vec<String> {
    let mut plugin = text(session, "plugin");
    if session["pinned"].is_object() {
        plugin.push_str(" (pinned)");
    }
    vec![
        text(session, "session"),
        text(session, "seq"),
        text(session, "slot"),
        time(session, "updated_ms"),
        plugin,
        text(session, "state_keys"),
        text(session, "state_bytes"),
    ]
}

pub async fn show(args: SessionShow, json: bool) -> Result<(), CliError> {
    let at = query(&[("at", args.at.map(|at| at.to_string()))]);
    let path = session_path(&args.service, &args.session, "")? + &at;
    let answer = args.api.client()?.get(&path).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let field =
        |name: &str, value: String| format!("{name:<10} {}\n", output::harmless(&value, false));
    let mut out =
        field("session", format!("{}/{}", text(&answer, "service"), text(&answer, "session")));
    out += &field("messages", text(&answer, "seq"));
    out += &field("slot", text(&answer, "slot"));
    out += &field("created", time(&answer, "created_ms"));
    out += &field("last", time(&answer, "updated_ms"));
    out += &field("plugin", text(&answer, "plugin"));
    let size = |name: &str| answer[name].as_u64().unwrap_or(0) as usize;
    let keys = output::count(size("state_keys"), "key");
    out += &field("state", format!("{keys}, {}", output::count(size("state_bytes"), "byte")));
    if answer["closed"] == true {
        out += &field("closed", "it takes no more messages".to_owned());
    }
    if answer["forked"].is_object() {
        let (session, at) = (text(&answer, "forked.session"), text(&answer, "forked.at"));
        out += &field("forked", format!("off {session}, at message {at}"));
    }
    if answer["pinned"].is_object() {
        let (against, reason) = (text(&answer, "pinned.against"), text(&answer, "pinned.reason"));
        out += &field("pinned", format!("{against} refused to migrate it: {reason}"));
    }
    output::print(&out)
}

pub async fn fork(args: SessionFork, json: bool) -> Result<(), CliError> {
    let path = session_path(&args.service, &args.session, "/fork")?;
    let mut body = json!({"to": args.to});
    if let Some(at) = args.at {
        body["at"] = at.into();
    }
    if let Some(deployment) = args.deployment {
        body["deployment"] = deployment.into();
    }
    let client = args.api.client()?;
    let headers = [("content-type", "application/json")];
    let answer = client.request(Method::POST, &path, &headers, body.to_string().into()).await?;
    let answer = answer.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let (to, at) = (text(&answer, "session"), text(&answer, "seq"));
    let line = format!("{} has {} up to message {at}", to, args.session);
    output::line(&output::harmless(&line, false))
}

pub async fn delete_one(
    service: &str,
    session: &str,
    api: &ApiArgs,
    json: bool,
) -> Result<(), CliError> {
    let path = session_path(service, session, "")?;
    api.client()?.request(Method::DELETE, &path, &[], Bytes::new()).await?;
    if json {
        let value = json!({"service": service, "session": session, "deleted": true});
        return output::line(&value.to_string());
    }
    let name = format!("{service}/{session}");
    output::line(&format!("{} is deleted", output::harmless(&name, false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong guess makes a plugin reject what the user typed.
    #[test]
    fn content_types_are_guessed_from_the_body() {
        for (given, expected) in [
            (r#"{"a":1}"#, "application/json"),
            ("17", "application/json"),
            ("{broken", "text/plain; charset=utf-8"),
            ("", "text/plain; charset=utf-8"),
        ] {
            assert_eq!(body(Some(given.into()), None).unwrap().1, expected, "{given:?}");
        }
        assert_eq!(body(None, Some("a/b".into())).unwrap().1, "a/b");
    }

    /// A session's id may contain slashes and anything else; it must stay one segment.
    #[test]
    fn any_session_has_a_path() {
        let path = session_path("chat", "a/b?c=ü %", "/messages").unwrap();
        assert_eq!(path, "/v1/services/chat/sessions/a%2Fb%3Fc%3D%C3%BC%20%25/messages");
        assert!(session_path("Chat", "a", "").is_err() && session_path("chat", "", "").is_err());
    }
}
