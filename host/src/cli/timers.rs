//! Operators' commands on timers, on messages to other sessions, and on messages that were given up.

use super::{
    admin::service_path,
    args::{DeadArgs, PageArgs, TimerCancel, Timers},
    client::{Client, encode, query},
    exit::{CliError, Exit},
    json::Json,
    operate,
    output::{self, Table, harmless, list, text, time},
};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

/// What is done with dead messages.
#[derive(Clone, Copy)]
pub enum Doing {
    Retry,
    Drop,
}

pub async fn timers(args: Timers, json: bool) -> Result<(), CliError> {
    let Some(found) = listed(args, "timers", "timers", json).await? else { return Ok(()) };
    if found.rows.is_empty() && found.expiring.is_empty() {
        output::complain("no timers");
    } else {
        output::print(&timers_table(&found.rows, &found.expiring))?;
        for timer in found.rows.iter().filter(|timer| timer["reason"].is_string()) {
            let whose = format!("{}: {}", text(timer, "session"), text(timer, "name"));
            complain_of(&whose, &text(timer, "reason"));
        }
    }
    found.say_more();
    Ok(())
}

fn timers_table(timers: &[Value], expiring: &[Value]) -> String {
    let mut table = Table::new(&["SESSION", "TIMER", "DUE", "REPEATS", "FAILED", ">BYTES"]);
    for timer in timers {
        let repeats = match (timer["every_ms"].as_u64(), timer["cron"].as_str()) {
            (Some(ms), _) => format!("every {}", output::micros(ms as f64 * 1_000.0)),
            (None, Some(cron)) => format!("{cron}, {}", text(timer, "zone")),
            (None, None) => "-".into(),
        };
        let failed = match timer["failures"].as_u64() {
            Some(0) | None => "-".into(),
            Some(times) => format!("{times}, next try {}", time(timer, "next_ms")),
        };
        table.row([
            text(timer, "session"),
            text(timer, "name"),
            time(timer, "due_ms"),
            repeats,
            failed,
            text(timer, "body_bytes"),
        ]);
    }
    for session in expiring {
        let none = || "-".to_owned();
        let what = "(the session expires)".to_owned();
        table.row([
            text(session, "session"),
            what,
            time(session, "due_ms"),
            none(),
            none(),
            none(),
        ]);
    }
    table.render()
}

pub async fn dead(args: Timers, json: bool) -> Result<(), CliError> {
    let Some(found) = listed(args, "dead", "dead", json).await? else { return Ok(()) };
    if found.rows.is_empty() {
        output::complain("no dead messages");
    } else {
        output::print(&dead_table(&found.rows))?;
        for dead in &found.rows {
            let whose = format!("{}: {}", text(dead, "session"), named(dead));
            complain_of(&whose, &text(dead, "reason"));
        }
    }
    found.say_more();
    Ok(())
}

pub async fn outbox(args: Timers, json: bool) -> Result<(), CliError> {
    let Some(found) = listed(args, "outbox", "messages", json).await? else { return Ok(()) };
    if found.rows.is_empty() {
        output::complain("nothing is on its way");
    } else {
        output::print(&outbox_table(&found.rows))?;
        for message in found.rows.iter().filter(|message| message["reason"].is_string()) {
            let whose = format!("{}: {}", text(message, "session"), text(message, "id"));
            complain_of(&whose, &text(message, "reason"));
        }
    }
    found.say_more();
    Ok(())
}

fn outbox_table(messages: &[Value]) -> String {
    let headings = ["SESSION", "ID", "TO", "STATE", ">FAILED", "REPLY", ">BYTES"];
    let mut table = Table::new(&headings);
    for message in messages {
        let next = || time(message, "next_ms");
        let state = match message["state"].as_str() {
            Some("waiting") => format!("waiting, next try {}", next()),
            Some("behind") => "waits for one before it".to_owned(),
            Some("outcome") => match message["refusal"]["code"].as_str() {
                Some(code) => format!("refused ({code}), handler called {}", next()),
                None => format!("reply is here, handler called {}", next()),
            },
            other => other.unwrap_or("-").to_owned(),
        };
        let reply = match message["reply_to"].as_str() {
            Some(name) => format!("is the reply {name}"),
            None => text(message, "reply"),
        };
        table.row([
            text(message, "session"),
            text(message, "id"),
            text(message, "to"),
            state,
            text(message, "attempts"),
            reply,
            text(message, "body_bytes"),
        ]);
    }
    table.render()
}

fn dead_table(dead: &[Value]) -> String {
    let headings = [
        "SESSION", "KIND", "ID|TIMER", "DUE", ">DUE MS", "TO", ">TRIED", "STATE", "CODE", ">BYTES",
    ];
    let mut table = Table::new(&headings);
    for dead in dead {
        let state = match dead["next_ms"].is_u64() {
            true => format!("retried, next try {}", time(dead, "next_ms")),
            false => format!("dead since {}", time(dead, "died_ms")),
        };
        let due = match dead["due_ms"].is_u64() {
            true => time(dead, "due_ms"),
            false => "-".into(),
        };
        table.row([
            text(dead, "session"),
            text(dead, "kind"),
            named(dead),
            due,
            text(dead, "due_ms"),
            text(dead, "to"),
            text(dead, "attempts"),
            state,
            text(dead, "code"),
            text(dead, "body_bytes"),
        ]);
    }
    table.render()
}

/// A timer's message by the timer, another by its id.
fn named(dead: &Value) -> String {
    text(dead, if dead["id"].is_string() { "id" } else { "timer" })
}

fn complain_of(whose: &str, reason: &str) {
    output::complain(&harmless(&format!("{whose}: {reason}"), false));
}

struct Found {
    rows: Vec<Value>,
    /// Sessions that expire, among timers.
    expiring: Vec<Value>,
    next_after: Option<String>,
}

impl Found {
    fn len(&self) -> u64 {
        (self.rows.len() + self.expiring.len()) as u64
    }

    fn say_more(&self) {
        if let Some(next) = &self.next_after {
            output::complain(&format!("more: --after {:?}", harmless(next, false)));
        }
    }
}

/// What a list has, under a name in its answer. `None`: it is printed, as JSON.
async fn listed(
    args: Timers,
    what: &str,
    name: &str,
    json: bool,
) -> Result<Option<Found>, CliError> {
    let client = args.admin.client()?;
    let Some(session) = args.session else {
        let path = service_path(&args.service, &format!("/{what}"))?;
        return of_service(&client, &path, &args.page, name, json).await;
    };
    let path = operate::path(&args.service, &session, &format!("/{what}"))?;
    let answer = client.get(&path).await?.json()?;
    if json {
        return output::line(&answer.to_string()).map(|()| None);
    }
    let (rows, expiring) = (list(&answer, name).to_vec(), list(&answer, "expiring").to_vec());
    Ok(Some(Found { rows, expiring, next_after: None }))
}

/// Pages until there are enough: one may have few, or none, and not be the last.
async fn of_service(
    client: &Client,
    path: &str,
    page: &PageArgs,
    name: &str,
    json: bool,
) -> Result<Option<Found>, CliError> {
    let (rows, expiring) = (Vec::new(), Vec::new());
    let mut found = Found { rows, expiring, next_after: page.after.clone() };
    loop {
        let left = page.limit.saturating_sub(found.len()).max(1);
        let parameters =
            query(&[("after", found.next_after.take()), ("limit", Some(left.to_string()))]);
        let answer = client.get(&format!("{path}{parameters}")).await?.json()?;
        if json {
            return output::line(&answer.to_string()).map(|()| None);
        }
        found.rows.extend_from_slice(list(&answer, name));
        found.expiring.extend_from_slice(list(&answer, "expiring"));
        found.next_after = answer["next_after"].as_str().map(str::to_owned);
        if found.next_after.is_none() || found.len() >= page.limit {
            return Ok(Some(found));
        }
    }
}

pub async fn cancel(args: TimerCancel, json: bool) -> Result<(), CliError> {
    let rest = format!("/timers/{}", encode(&args.timer));
    let path = operate::path(&args.service, &args.session, &rest)?;
    let client = args.admin.client()?;
    let answer = client.request(Method::DELETE, &path, &[], Bytes::new()).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::line(&harmless(&format!("timer {} is cancelled", args.timer), false))
}

pub async fn change_dead(args: DeadArgs, doing: Doing, json: bool) -> Result<(), CliError> {
    let path = operate::path(&args.service, &args.session, "/dead")?;
    let client = args.admin.client()?;
    let (named, listed) = match (&args.message, args.due) {
        (Some(timer), Some(due_ms)) => (vec![of_timer(timer, due_ms)], false),
        (message, _) => (dead_of(&client, &path, message.as_deref()).await?, true),
    };
    if named.is_empty() {
        let of = args
            .message
            .map_or_else(String::new, |it| format!(" {it:?}, nor one of a timer {it:?}"));
        let session = format!("{}/{}", args.service, args.session);
        let none = harmless(&format!("{session} has no dead message{of}"), false);
        return Err(CliError::new(Exit::Refused, none));
    }
    let mut done = 0;
    for rest in named {
        let path = format!("{path}/{rest}");
        let answer = match doing {
            Doing::Retry => {
                let path = format!("{path}/retry");
                client.request(Method::POST, &path, &[], Bytes::new()).await
            }
            Doing::Drop => client.request(Method::DELETE, &path, &[], Bytes::new()).await,
        };
        // One that was being tried again has been handled since it was listed.
        let gone = |error: &CliError| {
            error.problem.as_ref().is_some_and(|problem| problem["code"] == "timer-not-found")
        };
        if listed && answer.as_ref().is_err_and(gone) {
            continue;
        }
        let answer: Json = answer.and_then(|answer| answer.json()).map_err(|mut error| {
            if done > 0 {
                error.message +=
                    &format!("\n  {done} are done; run the command again for the rest");
            }
            error
        })?;
        done += 1;
        if json {
            output::line(&answer.to_string())?;
        }
    }
    let messages = output::count(done, "message");
    match (json, doing) {
        (true, _) => Ok(()),
        (false, Doing::Retry) => output::line(&format!("trying {messages} again now")),
        (false, Doing::Drop) => output::line(&format!("dropped {messages}")),
    }
}

/// The path of a timer's dead message, behind that of all.
fn of_timer(timer: &str, due_ms: u64) -> String {
    format!("{}/{due_ms}", encode(timer))
}

/// The paths of the dead messages of a session, or of one timer of it, or of one.
async fn dead_of(
    client: &Client,
    path: &str,
    wanted: Option<&str>,
) -> Result<Vec<String>, CliError> {
    let answer = client.get(path).await?.json()?;
    let of = |dead: &Value| {
        let (name, path) = match dead["id"].as_str() {
            Some(id) => (id, encode(id)),
            None => {
                let timer = dead["timer"].as_str()?;
                (timer, of_timer(timer, dead["due_ms"].as_u64()?))
            }
        };
        wanted.is_none_or(|wanted| wanted == name).then_some(path)
    };
    Ok(list(&answer, "dead").iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// An operator reads these in an incident: what fires when, and what was lost.
    #[test]
    fn what_is_set_and_what_is_dead_is_shown() {
        let table = timers_table(
            &[
                json!({
                    "session": "room-1", "name": "close", "due_ms": 1_000, "next_ms": 1_000,
                    "failures": 0, "body_bytes": 0,
                }),
                json!({
                    "session": "room-2", "name": "report", "due_ms": 1_000, "next_ms": 9_000,
                    "failures": 3, "body_bytes": 12, "cron": "30 2 * * *", "zone": "Europe/Berlin",
                }),
                json!({
                    "session": "room-3", "name": "tick", "due_ms": 1_000, "next_ms": 1_000,
                    "failures": 0, "body_bytes": 0, "every_ms": 1_500,
                }),
            ],
            &[json!({"session": "room-9", "due_ms": 1_000})],
        );
        let rows: Vec<String> = table.lines().map(|line| line.replace("  ", "|")).collect();
        assert!(rows[0].starts_with("SESSION|TIMER"), "{table}");
        assert!(rows[1].contains("1970-01-01 00:00:01Z") && rows[1].ends_with('0'), "{table}");
        let failed = "30 2 * * *, Europe/Berlin|3, next try 1970-01-01 00:00:09Z";
        assert!(rows[2].contains(failed), "{table}");
        assert!(rows[3].contains("every 1.5 s"), "{table}");
        let table = dead_table(&[
            json!({
                "session": "a", "timer": "t", "due_ms": 1_000, "attempts": 20, "died_ms": 5_000,
                "code": "plugin-trapped", "reason": "r", "body_bytes": 0,
            }),
            json!({
                "session": "b", "timer": "t", "due_ms": 1_000, "attempts": 1, "next_ms": 6_000,
                "reason": "r", "body_bytes": 0,
            }),
        ]);
        assert!(table.contains("dead since 1970-01-01 00:00:05Z"), "{table}");
        assert!(table.contains("retried, next try 1970-01-01 00:00:06Z"), "{table}");
    }

    /// Whoever looks for a message that did not arrive has to see where it is, and why.
    #[test]
    fn what_is_on_its_way_and_what_became_of_it_is_shown() {
        let message = |state: &str, rest: Value| {
            let mut message = json!({
                "session": "ann", "id": "7-1-3", "to": "stock/x", "state": state, "attempts": 2,
                "body_bytes": 12,
            });
            let fields = rest.as_object().unwrap().clone();
            message.as_object_mut().unwrap().extend(fields);
            message
        };
        let table = outbox_table(&[
            message("sending", json!({"reply": "hold"})),
            message("behind", json!({})),
            message("waiting", json!({"next_ms": 9_000, "reply_to": "hold"})),
            message("outcome", json!({"next_ms": 9_000, "reply": "hold"})),
            message("outcome", json!({"next_ms": 9_000, "refusal": {"code": "sold-out"}})),
        ]);
        let rows: Vec<&str> = table.lines().collect();
        assert!(rows[1].contains("7-1-3") && rows[1].contains("stock/x"), "{table}");
        assert!(rows[1].contains("sending") && rows[1].contains("hold"), "{table}");
        assert!(rows[2].contains("waits for one before it"), "{table}");
        assert!(rows[3].contains("waiting, next try 1970-01-01 00:00:09Z"), "{table}");
        assert!(rows[3].contains("is the reply hold"), "{table}");
        assert!(rows[4].contains("reply is here") && rows[5].contains("refused (sold-out)"));
        let table = dead_table(&[json!({
            "session": "ann", "kind": "send", "id": "7-1-3", "to": "stock/x", "attempts": 1,
            "died_ms": 5_000, "code": "sold-out", "reason": "None left.", "body_bytes": 0,
        })]);
        let row: Vec<_> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(row[..6], ["ann", "send", "7-1-3", "-", "-", "stock/x"], "{table}");
    }
}
