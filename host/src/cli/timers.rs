//! Operators' commands on timers, and on messages of timers that were given up.

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
    let Some(found) = listed(args, "timers", json).await? else { return Ok(()) };
    if found.rows.is_empty() {
        output::complain("no timers");
    } else {
        output::print(&timers_table(&found.rows))?;
        for timer in found.rows.iter().filter(|timer| timer["reason"].is_string()) {
            let whose = format!("{}: {}", text(timer, "session"), text(timer, "name"));
            complain_of(&whose, &text(timer, "reason"));
        }
    }
    found.say_more();
    Ok(())
}

fn timers_table(timers: &[Value]) -> String {
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
    table.render()
}

pub async fn dead(args: Timers, json: bool) -> Result<(), CliError> {
    let Some(found) = listed(args, "dead", json).await? else { return Ok(()) };
    if found.rows.is_empty() {
        output::complain("no dead messages");
    } else {
        output::print(&dead_table(&found.rows))?;
        for dead in &found.rows {
            let whose = format!("{}: {}", text(dead, "session"), text(dead, "timer"));
            complain_of(&whose, &text(dead, "reason"));
        }
    }
    found.say_more();
    Ok(())
}

fn dead_table(dead: &[Value]) -> String {
    let headings = ["SESSION", "TIMER", "DUE", ">DUE MS", ">TRIED", "STATE", "CODE", ">BYTES"];
    let mut table = Table::new(&headings);
    for dead in dead {
        let state = match dead["next_ms"].is_u64() {
            true => format!("retried, next try {}", time(dead, "next_ms")),
            false => format!("dead since {}", time(dead, "died_ms")),
        };
        table.row([
            text(dead, "session"),
            text(dead, "timer"),
            time(dead, "due_ms"),
            text(dead, "due_ms"),
            text(dead, "attempts"),
            state,
            text(dead, "code"),
            text(dead, "body_bytes"),
        ]);
    }
    table.render()
}

fn complain_of(whose: &str, reason: &str) {
    output::complain(&harmless(&format!("{whose}: {reason}"), false));
}

struct Found {
    rows: Vec<Value>,
    next_after: Option<String>,
}

impl Found {
    fn say_more(&self) {
        if let Some(next) = &self.next_after {
            output::complain(&format!("more: --after {:?}", harmless(next, false)));
        }
    }
}

/// What a list has. `None`: it is printed, as JSON.
async fn listed(args: Timers, what: &str, json: bool) -> Result<Option<Found>, CliError> {
    let client = args.admin.client()?;
    let Some(session) = args.session else {
        return of_service(&client, &args.service, &args.page, what, json).await;
    };
    let path = operate::path(&args.service, &session, &format!("/{what}"))?;
    let answer = client.get(&path).await?.json()?;
    if json {
        return output::line(&answer.to_string()).map(|()| None);
    }
    Ok(Some(Found { rows: list(&answer, what).to_vec(), next_after: None }))
}

/// Pages until there are enough: one may have few, or none, and not be the last.
async fn of_service(
    client: &Client,
    service: &str,
    page: &PageArgs,
    what: &str,
    json: bool,
) -> Result<Option<Found>, CliError> {
    let path = service_path(service, &format!("/{what}"))?;
    let mut found = Found { rows: Vec::new(), next_after: page.after.clone() };
    loop {
        let left = page.limit.saturating_sub(found.rows.len() as u64).max(1);
        let parameters =
            query(&[("after", found.next_after.take()), ("limit", Some(left.to_string()))]);
        let answer = client.get(&format!("{path}{parameters}")).await?.json()?;
        if json {
            return output::line(&answer.to_string()).map(|()| None);
        }
        found.rows.extend_from_slice(list(&answer, what));
        found.next_after = answer["next_after"].as_str().map(str::to_owned);
        if found.next_after.is_none() || found.rows.len() as u64 >= page.limit {
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
    let (named, listed) = match (&args.timer, args.due) {
        (Some(timer), Some(due_ms)) => (vec![(timer.clone(), due_ms)], false),
        (timer, _) => (of_timer(&client, &path, timer.as_deref()).await?, true),
    };
    if named.is_empty() {
        let of = args.timer.map_or_else(String::new, |timer| format!(" of timer {timer:?}"));
        let session = format!("{}/{}", args.service, args.session);
        let none = harmless(&format!("{session} has no dead message{of}"), false);
        return Err(CliError::new(Exit::Refused, none));
    }
    let mut done = 0;
    for (timer, due_ms) in named {
        let path = format!("{path}/{}/{due_ms}", encode(&timer));
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

/// The dead messages of a session, or of one timer of it.
async fn of_timer(
    client: &Client,
    path: &str,
    timer: Option<&str>,
) -> Result<Vec<(String, u64)>, CliError> {
    let answer = client.get(path).await?.json()?;
    let of = |dead: &Value| {
        let named = (dead["timer"].as_str()?.to_owned(), dead["due_ms"].as_u64()?);
        timer.is_none_or(|timer| named.0 == timer).then_some(named)
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
        let table = timers_table(&[
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
        ]);
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
}
