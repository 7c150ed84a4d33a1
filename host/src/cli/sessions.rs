//! Commands on the API: messages in, what became of them out.

use super::{
    args::{ApiArgs, History, Query, Send, SessionArgs, Sessions},
    client::{Answer, encode, query},
    exit::CliError,
    output::{self, Table, list, text, time},
    tail::nothing_after,
};
use crate::{
    limits,
    names::{ServiceName, SessionKey},
};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::io::Read as _;

/// The path of a session, whatever its id has in it.
///
/// # Errors
/// The names are none.
pub fn session_path(service: &str, session: &str, rest: &str) -> Result<String, CliError> {
    let key = SessionKey::parse(service, session)?;
    let [service, session] = [key.service.as_str(), key.session.as_str()].map(encode);
    Ok(format!("/v1/services/{service}/sessions/{session}{rest}"))
}

/// The body and its type, as the user gave them or as it looks.
fn body(given: Option<String>, content_type: Option<String>) -> Result<(Bytes, String), CliError> {
    let body = match given.as_deref() {
        None => Vec::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            // One more than any node takes: the node then says what its limit is.
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

/// A body in JSON, as the API's own pages have it: `body`, or `body_base64`.
fn put_body(into: &mut Value, content_type: &str, bytes: &[u8]) {
    use base64::Engine as _;
    let is_json = content_type.split(';').next().is_some_and(|t| t.trim().ends_with("json"));
    match (std::str::from_utf8(bytes), is_json.then(|| serde_json::from_slice::<Value>(bytes))) {
        (_, Some(Ok(value))) => into["body"] = value,
        (Ok(text), _) => into["body"] = text.into(),
        _ => into["body_base64"] = base64::engine::general_purpose::STANDARD.encode(bytes).into(),
    }
}

/// Prints a plugin's answer: its body to standard output, what else is known to standard error.
fn plugin_answer(answer: &Answer, json: bool) -> Result<(), CliError> {
    let number = |name| answer.header(name).and_then(|n| n.parse::<u64>().ok());
    let (seq, slot) = (number("slotd-seq"), number("slotd-slot"));
    let plugin = answer.header("slotd-plugin").unwrap_or("-");
    let replayed = answer.header("slotd-replayed") == Some("true");
    let content_type = answer.header("content-type").unwrap_or("");
    if json {
        let mut value = json!({
            "seq": seq, "slot": slot, "plugin": plugin, "replayed": replayed,
            "content_type": content_type,
        });
        put_body(&mut value, content_type, &answer.body);
        return output::line(&value.to_string());
    }
    output::body(&answer.body)?;
    let show = |n: Option<u64>| n.map_or_else(|| "-".into(), |n| n.to_string());
    output::complain(&format!(
        "message {}, slot {}, plugin {plugin}{}",
        show(seq),
        show(slot),
        if replayed { "; answered before, this is the same answer" } else { "" }
    ));
    Ok(())
}

pub async fn send(args: Send, json: bool) -> Result<(), CliError> {
    let path = session_path(&args.service, &args.session, "/messages")?;
    let client = args.api.client()?;
    let (body, content_type) = body(args.body, args.content_type)?;
    let mut headers = vec![("content-type", content_type.as_str())];
    headers.extend(args.sender.as_deref().map(|sender| ("slotd-sender", sender)));
    headers.extend(args.id.as_deref().map(|id| ("idempotency-key", id)));
    let answer = client.request(Method::POST, &path, &headers, body).await?;
    plugin_answer(&answer, json)
}

pub async fn ask(args: Query, json: bool) -> Result<(), CliError> {
    let path = session_path(&args.service, &args.session, "/query")?;
    let client = args.api.client()?;
    let (body, content_type) = body(args.body, args.content_type)?;
    let headers = [("content-type", content_type.as_str())];
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
    let entries = list(&answer, "entries");
    for entry in entries {
        let sender = entry["sender"].as_str().map(|s| format!("  {s}")).unwrap_or_default();
        let events = list(entry, "events").len();
        let head = format!(
            "#{}  {}{sender}  {}{}",
            text(entry, "seq"),
            time(entry, "time_ms"),
            text(entry, "plugin"),
            if events > 0 {
                format!("  {}", output::count(events, "event"))
            } else {
                String::new()
            }
        );
        let lines = format!(
            "{}\n  > {}\n  < {}\n",
            output::harmless(&head, false),
            shown(entry, "body"),
            shown(entry, "reply")
        );
        output::print(&lines)?;
    }
    let last_seq = answer["last_seq"].as_u64().unwrap_or(0);
    if let Some(next) = next_page(&answer) {
        output::complain(&output::harmless(&format!("more: --after {next}"), false));
    }
    match args.after {
        Some(after) if entries.is_empty() => {
            output::complain(&output::harmless(&nothing_after(&after, last_seq), false));
        }
        None if (entries.len() as u64) < args.limit.min(last_seq) => {
            let first = last_seq - args.limit.min(last_seq);
            let fits = output::count(entries.len(), "message");
            output::complain(&format!("only {fits} fit one page; from the first: --after {first}"));
        }
        _ => {}
    }
    Ok(())
}

/// Where the page behind this one begins, if there is one. A node of an earlier version gives the
/// number alone.
pub fn next_page(page: &Value) -> Option<String> {
    let number = page["next_after"].as_u64()?;
    Some(page["position"].as_str().map_or_else(|| number.to_string(), str::to_owned))
}

/// A body of a page on one line.
pub fn shown(value: &Value, name: &str) -> String {
    match (&value[name], value[&format!("{name}_base64")].as_str()) {
        (Value::Null, Some("")) => "(empty)".into(),
        (Value::Null, Some(base64)) => format!("(base64) {base64}"),
        (Value::Null, None) => "(empty)".into(),
        (Value::String(text), _) if text.is_empty() => "(empty)".into(),
        (Value::String(text), _) => output::harmless(text, false),
        (json, _) => output::harmless(&json.to_string(), false),
    }
}

pub async fn sessions(args: Sessions, json: bool) -> Result<(), CliError> {
    let service = ServiceName::parse(&args.service)?;
    let service = encode(service.as_str());
    let limit = args.limit.map(|limit| limit.to_string());
    let mut parameters = vec![("after", args.after), ("limit", limit)];
    let answer = if args.pinned {
        let timeout = args.api.wait.timeout.unwrap_or(limits::CLIENT_TIMEOUT_DEFAULT);
        let path = format!("/admin/v1/services/{service}/pinned{}", query(&parameters));
        args.admin.client(timeout)?.get(&path).await?
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

pub async fn show(args: SessionArgs, json: bool) -> Result<(), CliError> {
    let path = session_path(&args.service, &args.session, "")?;
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
    let (keys, bytes) = (text(&answer, "state_keys"), text(&answer, "state_bytes"));
    out += &field("state", format!("{keys} keys, {bytes} bytes"));
    if answer["pinned"].is_object() {
        let (against, reason) = (text(&answer, "pinned.against"), text(&answer, "pinned.reason"));
        out += &field("pinned", format!("{against} refused to migrate it: {reason}"));
    }
    output::print(&out)
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

    /// A wrong guess makes a plugin refuse what the user typed.
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

    /// A session's id may hold slashes and anything else; it must stay one segment.
    #[test]
    fn any_session_has_a_path() {
        let path = session_path("chat", "a/b?c=ü %", "/messages").unwrap();
        assert_eq!(path, "/v1/services/chat/sessions/a%2Fb%3Fc%3D%C3%BC%20%25/messages");
        assert!(session_path("Chat", "a", "").is_err() && session_path("chat", "", "").is_err());
    }
}
