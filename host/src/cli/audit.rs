//! `slotd audit-log`.

use super::{
    args::AuditLog,
    client::{Client, query},
    exit::CliError,
    json::Json,
    output::{self, Table, list, text, time},
};
use crate::{audit::verify::Verifier, limits};
use serde_json::Value;
use tokio::time::sleep;

pub async fn audit_log(args: AuditLog, json: bool) -> Result<(), CliError> {
    let client = args.admin.client()?;
    if args.verify {
        return verify(&client, json).await;
    }
    let since = args.since.map(|since| {
        crate::clock::now_ms().saturating_sub(crate::clock::milliseconds(since)).to_string()
    });
    // Without a time, the latest.
    let mut left = match (args.limit, &since) {
        (Some(limit), _) => limit,
        (None, Some(_)) => u64::MAX,
        (None, None) => limits::AUDIT_SHOWN_DEFAULT,
    };
    let (mut since, mut after) = (since, None);
    let mut titled = false;
    loop {
        let limit = left.clamp(1, limits::PAGE_ENTRIES_MAX as u64).to_string();
        let parameters = [("after", after.take()), ("since", since.take()), ("limit", Some(limit))];
        let path = format!("/admin/v1/audit{}", query(&parameters));
        let page = client.get(&path).await?.json()?;
        let changes = list(&page, "changes");
        show(changes, json, &mut titled)?;
        left = left.saturating_sub(changes.len() as u64);
        after = Some(text(&page, "next_after"));
        let more = page["more"].as_bool() == Some(true);
        if left == 0 && !args.follow {
            return Ok(());
        }
        match (more, args.follow) {
            (true, _) => {}
            (false, true) => {
                left = u64::MAX;
                sleep(limits::AUDIT_FOLLOW_LOOK).await;
            }
            (false, false) => return Ok(()),
        }
    }
}

/// The latest ones come in one page, so that a limit is exact there.
fn show(changes: &[Value], json: bool, titled: &mut bool) -> Result<(), CliError> {
    if changes.is_empty() {
        return Ok(());
    }
    if json {
        return changes.iter().try_for_each(|change| output::line(&change.to_string()));
    }
    let columns = &["TIME", "NODE", "WHO", "FROM", "OUTCOME", "ACTION", "SUBJECT", "CHANGE"];
    let mut table = Table::new(columns);
    for change in changes {
        let outcome = match change["code"].as_str() {
            Some(code) => format!("{}: {code}", text(change, "outcome")),
            None => text(change, "outcome"),
        };
        table.row([
            time(change, "at_ms"),
            text(change, "node"),
            text(change, "who"),
            text(change, "from"),
            outcome,
            action(change),
            subject(change),
            what(change),
        ]);
    }
    let shown = table.render();
    // The titles once, also where pages follow each other.
    let shown = match std::mem::replace(titled, true) {
        true => shown.split_once('\n').map_or("", |(_, rows)| rows),
        false => &shown,
    };
    output::print(shown)
}

/// `POST deploy` for `POST /admin/v1/services/{service}/deploy`: what the path names is beside it.
fn action(change: &Value) -> String {
    let action = text(change, "action");
    let Some((method, route)) = action.split_once(" /admin/v1/") else { return action };
    let words: Vec<_> = route.split('/').filter(|part| !part.starts_with('{')).collect();
    format!("{method} {}", words.join("/"))
}

/// `chat/room-1`, or whatever else the path names.
fn subject(change: &Value) -> String {
    let Some(subject) = change["subject"].as_object() else { return "-".into() };
    let mut rest: Vec<_> = ["service", "session"]
        .into_iter()
        .filter_map(|name| subject.get(name)?.as_str())
        .map(str::to_owned)
        .collect();
    let others = subject.iter().filter(|(name, _)| *name != "service" && *name != "session");
    rest.extend(others.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or("?"))));
    rest.join("/")
}

/// What was asked for, and what it has made of what.
fn what(change: &Value) -> String {
    let of = |part: &str| change[part].as_object().into_iter().flatten();
    let shown = |value: &Value| match value.as_str() {
        // A digest; `--json` shows it in full.
        Some(text) if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            text[..12].to_owned()
        }
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    let mut parts: Vec<_> =
        of("asked").map(|(name, value)| format!("{name}={}", shown(value))).collect();
    for (name, value) in of("before") {
        let after = change["after"].get(name).map(shown);
        parts.push(match after {
            Some(after) => format!("{name}: {} -> {after}", shown(value)),
            None => format!("{name}: {} before", shown(value)),
        });
    }
    let new = of("after").filter(|(name, _)| change["before"].get(*name).is_none());
    parts.extend(new.map(|(name, value)| format!("{name}: {}", shown(value))));
    if let Some(missed) = change["missed"].as_u64() {
        parts.push(format!("and {missed} refused before it that are not listed"));
    }
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

async fn verify(client: &Client, json: bool) -> Result<(), CliError> {
    let mut verifier = Verifier::default();
    let mut after = 0_u64;
    loop {
        let limit = limits::AUDIT_CHUNK_LINES.to_string();
        let parameters = [("after", Some(after.to_string())), ("limit", Some(limit))];
        let path = format!("/admin/v1/audit/lines{}", query(&parameters));
        let page: Json = client.get(&path).await?.json()?;
        for line in list(&page, "lines") {
            let (number, bytes) = (line["number"].as_u64(), line["line"].as_str());
            let (Some(number), Some(bytes)) = (number, bytes) else {
                return Err(CliError::failure("the node's answer has no lines of an audit log"));
            };
            if let Err(why) = verifier.line(number, bytes.as_bytes()) {
                let why = output::harmless(&why, false);
                return Err(CliError::failure(format!("the audit log is damaged: {why}")));
            }
            after = number;
        }
        if page["more"].as_bool() != Some(true) {
            break;
        }
    }
    let last = verifier.last();
    if json {
        let (number, hash) = last.unzip();
        let hash = hash.map(|hash| hash.to_string());
        let found = serde_json::json!({
            "ok": true, "lines": verifier.lines(), "last": number, "hash": hash,
        });
        return output::line(&found.to_string());
    }
    match last {
        None => output::line("the audit log is empty"),
        Some((number, hash)) => output::line(&format!(
            "{} in order; the last is line {number}, hash {hash}",
            output::count(verifier.lines() as usize, "line")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator reads it in an incident: what changed has to be in one line.
    #[test]
    fn a_change_is_one_readable_line() {
        let change = serde_json::json!({
            "action": "POST /admin/v1/services/{service}/sessions/{session}/state",
            "subject": {"service": "chat", "session": "room-1", "x": "y"},
            "asked": {"force": true, "digest": "ab".repeat(32)},
            "before": {"version": "1.0.0", "signed_by": "old"},
            "after": {"version": "2.0.0", "changed": true},
        });
        assert_eq!(action(&change), "POST services/sessions/state");
        assert_eq!(subject(&change), "chat/room-1/x=y");
        assert_eq!(
            what(&change),
            "digest=abababababab, force=true, signed_by: old before, version: 1.0.0 -> 2.0.0, \
             changed: true"
        );
        let nothing = serde_json::json!({"action": "line-cut"});
        assert_eq!([action(&nothing), subject(&nothing), what(&nothing)], ["line-cut", "-", "-"]);
    }
}
