//! Operators' commands on timers, on messages to other sessions, on requests over HTTP, and on messages that were given up.

use super::{
    admin::service_path,
    args::{DeadArgs, PageArgs, RequestCancel, TimerCancel, Timers},
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
    if found.rows.is_empty() && found.requests.is_empty() {
        output::complain("nothing is on its way");
    } else {
        if !found.rows.is_empty() {
            output::print(&outbox_table(&found.rows))?;
        }
        if !found.requests.is_empty() {
            output::print(&requests_table(&found.requests))?;
        }
        let all = found.rows.iter().chain(&found.requests);
        for message in all.filter(|message| message["reason"].is_string()) {
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
                Some(code) => format!("refused ({code}), handler is called {}", next()),
                None => format!("reply is here, handler is called {}", next()),
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

fn requests_table(requests: &[Value]) -> String {
    let headings = ["SESSION", "REQUEST", "TO", "STATE", ">FAILED", ">BYTES"];
    let mut table = Table::new(&headings);
    for request in requests {
        let next = || time(request, "next_ms");
        let state = match request["state"].as_str() {
            Some("waiting") => format!("waiting, next try {}", next()),
            Some("answer") => format!("{}, handler is called again {}", came(request), next()),
            other => other.unwrap_or("-").to_owned(),
        };
        let to = match request["url"].as_str() {
            Some(_) => format!("{} {}", text(request, "method"), text(request, "url")),
            None => "-".to_owned(),
        };
        let failed = if request["failures"].is_u64() { "failures" } else { "attempts" };
        table.row([
            text(request, "session"),
            text(request, "id"),
            to,
            state,
            text(request, failed),
            text(request, "body_bytes"),
        ]);
    }
    table.render()
}

/// What came of a request.
fn came(of: &Value) -> String {
    match of["failure"].as_str() {
        Some(code) => format!("failed ({code})"),
        None => format!("answered {}", text(of, "status")),
    }
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
        let to = match dead["kind"].as_str() {
            Some("answer") => came(dead),
            _ => text(dead, "to"),
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
            to,
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

#[derive(Default)]
struct Found {
    rows: Vec<Value>,
    /// Sessions that expire, among timers.
    expiring: Vec<Value>,
    /// Over HTTP, in an outbox.
    requests: Vec<Value>,
    next_after: Option<String>,
}

impl Found {
    fn len(&self) -> u64 {
        (self.rows.len() + self.expiring.len() + self.requests.len()) as u64
    }

    /// What an answer has, under a name and beside it.
    fn take(&mut self, answer: &Value, name: &str) {
        self.rows.extend_from_slice(list(answer, name));
        self.expiring.extend_from_slice(list(answer, "expiring"));
        self.requests.extend_from_slice(list(answer, "requests"));
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
    let mut found = Found::default();
    found.take(&answer, name);
    Ok(Some(found))
}

/// Pages until there are enough: one may have few, or none, and not be the last.
async fn of_service(
    client: &Client,
    path: &str,
    page: &PageArgs,
    name: &str,
    json: bool,
) -> Result<Option<Found>, CliError> {
    let mut found = Found { next_after: page.after.clone(), ..Found::default() };
    loop {
        let left = page.limit.saturating_sub(found.len()).max(1);
        let parameters =
            query(&[("after", found.next_after.take()), ("limit", Some(left.to_string()))]);
        let answer = client.get(&format!("{path}{parameters}")).await?.json()?;
        if json {
            return output::line(&answer.to_string()).map(|()| None);
        }
        found.take(&answer, name);
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

pub async fn cancel_request(args: RequestCancel, json: bool) -> Result<(), CliError> {
    let rest = format!("/requests/{}", encode(&args.id));
    let path = operate::path(&args.service, &args.session, &rest)?;
    let client = args.admin.client()?;
    let answer = client.request(Method::DELETE, &path, &[], Bytes::new()).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::line(&harmless(&format!("request {} is cancelled", args.id), false))
}

pub async fn change_dead(args: DeadArgs, doing: Doing, json: bool) -> Result<(), CliError> {
    let path = operate::path(&args.service, &args.session, "")?;
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

/// The path of a timer's dead message, behind that of the session.
fn of_timer(timer: &str, due_ms: u64) -> String {
    format!("dead/{}/{due_ms}", encode(timer))
}

/// The paths of the dead messages of a session, or of one timer or request of it, or of one.
async fn dead_of(
    client: &Client,
    path: &str,
    wanted: Option<&str>,
) -> Result<Vec<String>, CliError> {
    let answer = client.get(&format!("{path}/dead")).await?.json()?;
    let of = |dead: &Value| {
        let (name, path) = match dead["id"].as_str() {
            Some(id) if dead["kind"] == "answer" => {
                let time_ms = dead["time_ms"].as_u64()?;
                (id, format!("requests/{}/dead/{time_ms}", encode(id)))
            }
            Some(id) => (id, format!("dead/{}", encode(id))),
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

    /// Whoever asks why no answer came has to see whether the request was made, and what came of it.
    #[test]
    fn requests_and_what_came_of_them_are_shown() {
        let table = requests_table(&[
            json!({
                "session": "ann", "id": "ask", "state": "open", "method": "POST",
                "url": "https://a.example/v1?key={{secret:KEY}}", "attempts": 0, "next_ms": 1,
                "body_bytes": 12,
            }),
            json!({
                "session": "ann", "id": "again", "state": "waiting", "method": "GET",
                "url": "https://a.example/", "attempts": 2, "next_ms": 9_000, "body_bytes": 0,
            }),
            json!({
                "session": "ann", "id": "had", "state": "answer", "attempts": 1, "failures": 3,
                "next_ms": 9_000, "status": 200, "body_bytes": 5,
            }),
            json!({
                "session": "ann", "id": "broken", "state": "answer", "attempts": 1, "failures": 3,
                "next_ms": 9_000, "status": 200, "failure": "timeout", "body_bytes": 5,
            }),
        ]);
        let rows: Vec<&str> = table.lines().collect();
        assert!(rows[1].contains("POST https://a.example/v1?key={{secret:KEY}}"), "{table}");
        assert!(rows[2].contains("waiting, next try 1970-01-01 00:00:09Z"), "{table}");
        assert!(rows[3].contains("answered 200, handler is called again 1970-01-01"), "{table}");
        assert!(rows[4].contains("failed (timeout), handler is called again"), "{table}");
        let dead = json!({
            "session": "ann", "kind": "answer", "id": "had", "time_ms": 7, "status": 404,
            "attempts": 20, "died_ms": 5_000, "code": "plugin-trapped", "body_bytes": 0,
        });
        let table = dead_table(&[dead]);
        assert!(table.contains("answered 404") && table.contains("had"), "{table}");
    }
}
