//! `slotd tail`: prints a session's events and follows new ones.

use super::{
    args::Tail,
    client::{Client, plain, query},
    exit::{CliError, Exit},
    json::{self, Event, Json, Page, one_line},
    output::{self, format_time, text},
    sessions::session_path,
    sse::{SseEvent, SseParser},
};
use crate::{backoff::Backoff, limits};
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const RECONNECT_MIN: Duration = Duration::from_millis(250);

pub async fn tail(args: Tail, json: bool) -> Result<(), CliError> {
    let client = args.api.client()?;
    let messages = session_path(&args.service, &args.session, "/messages")?;
    if let Some(after) = &args.after {
        plain("--after", after, limits::SENDER_BYTES_MAX)?;
    }
    let mut cursor = match (&args.after, args.follow) {
        // The stream itself begins there.
        (Some(after), true) => after.clone(),
        (Some(after), false) => return rest(&client, &messages, after, json).await,
        (None, _) => match last(&client, &messages, args.last, json).await {
            Ok(last) => last,
            // It may be created later.
            Err(error) if args.follow && is_missing_session(&error) => "0".into(),
            Err(error) => return Err(error),
        },
    };
    if !args.follow {
        return Ok(());
    }
    let events = session_path(&args.service, &args.session, "/events")?;
    follow(&client, &events, &mut cursor, json).await
}

fn is_missing_session(error: &CliError) -> bool {
    error.problem.as_ref().is_some_and(|problem| problem["code"] == "session-not-found")
}

/// Prints the events of the last messages; returns the position after the session's last one.
async fn last(client: &Client, path: &str, n: u64, json: bool) -> Result<String, CliError> {
    let tail = n.clamp(1, limits::PAGE_ENTRIES_MAX as u64).to_string();
    let page = client.get(&format!("{path}{}", query(&[("tail", Some(tail))]))).await?.json()?;
    let page: Page<'_> = page.read()?;
    let last_seq = page.last_seq;
    let reached = position(&page, last_seq);
    if n == 0 {
        return Ok(reached);
    }
    let (messages, wanted) = (page.entries.len(), n.min(last_seq));
    let found = match messages as u64 >= wanted {
        true => {
            let events = print_events(&page, None, json)?;
            Paged { messages, events, reached, last_seq }
        }
        // They are more than one page holds: from the first of them on.
        false => {
            let from = Place { of: of(&reached), ..Place::after(last_seq - wanted) };
            pages(client, path, from, json).await?
        }
    };
    if found.events == 0 && found.messages > 0 && !json {
        let messages = output::count(found.messages, "message");
        output::complain(&format!(
            "the last {messages} have no events; `slotd history` shows them"
        ));
    }
    Ok(found.reached)
}

/// The position after a page. A node of an earlier version returns only numbers.
fn position(page: &Page<'_>, reached: u64) -> String {
    page.position.clone().unwrap_or_else(|| reached.to_string())
}

/// The session part of a position, unchanged.
fn of(position: &str) -> String {
    position.split_once('-').map(|(_, of)| format!("-{of}")).unwrap_or_default()
}

/// A position in a session's events: after a message, or after one of its events.
#[derive(Clone)]
struct Place {
    seq: u64,
    index: Option<u64>,
    /// The rest of the position, for the node.
    of: String,
}

impl Place {
    fn after(seq: u64) -> Self {
        Self { seq, index: None, of: String::new() }
    }
    /// `17` or `17.0`, with an optional session part.
    fn parse(text: &str) -> Option<Self> {
        let of = of(text);
        let numbers = text.strip_suffix(&of)?;
        let (seq, index) = match numbers.split_once('.') {
            None => (numbers, None),
            Some((seq, index)) => (seq, Some(index.parse().ok()?)),
        };
        let place = Self { seq: seq.parse().ok()?, index, of };
        (place.seq > 0 || index.is_none()).then_some(place)
    }
    /// The next events are in the page after this position.
    fn page(&self) -> String {
        // The rest of that message's events follows.
        match self.seq - u64::from(self.index.is_some()) {
            0 => "0".into(),
            seq => format!("{seq}{}", self.of),
        }
    }
    /// Whether an event is at or before it.
    fn covers(&self, event: &Event<'_>) -> bool {
        let number = |number: Option<u64>| number.unwrap_or(u64::MAX);
        let at = (number(event.seq), number(event.index));
        self.index.is_some_and(|index| at <= (self.seq, index))
    }
}

/// Prints the events after a position, or why there are none.
async fn rest(client: &Client, path: &str, after: &str, json: bool) -> Result<(), CliError> {
    let place = Place::parse(after).ok_or_else(|| {
        CliError::usage(format!("--after {after:?} is not a number or a position"))
    })?;
    let seq = place.seq;
    let all = pages(client, path, place, json).await?;
    if all.events == 0 && !json {
        output::complain(&match all.last_seq <= seq {
            true => nothing_after(after, all.last_seq),
            false => format!("no events after {after}; `slotd history` shows the messages"),
        });
    }
    Ok(())
}

/// Why nothing was shown.
pub fn nothing_after(after: &str, last_seq: u64) -> String {
    format!("nothing after {after}: the session's last message is {last_seq}")
}

/// The result of [`pages`].
struct Paged {
    messages: usize,
    events: usize,
    /// The position up to which everything was printed.
    reached: String,
    last_seq: u64,
}

/// Prints all events after a position.
async fn pages(client: &Client, path: &str, place: Place, json: bool) -> Result<Paged, CliError> {
    let mut all = Paged { messages: 0, events: 0, reached: place.page(), last_seq: 0 };
    let mut before = 0;
    loop {
        let (after, limit) = (all.reached.clone(), limits::PAGE_ENTRIES_MAX.to_string());
        let parameters = query(&[("after", Some(after)), ("limit", Some(limit))]);
        let page = client.get(&format!("{path}{parameters}")).await?.json()?;
        let page: Page<'_> = page.read()?;
        all.messages += page.entries.len();
        all.events += print_events(&page, Some(&place), json)?;
        all.last_seq = page.last_seq;
        let last = page.entries.last().map(|entry| entry.seq);
        match (last, page.next_after.is_some()) {
            (Some(last), more) if last > before => {
                before = last;
                all.reached = position(&page, last);
                if !more {
                    return Ok(all);
                }
            }
            _ => return Ok(all),
        }
    }
}

fn print_events(page: &Page<'_>, after: Option<&Place>, as_json: bool) -> Result<usize, CliError> {
    let of = page.position.as_deref().map(of).unwrap_or_default();
    let mut printed = 0;
    for raw in page.entries.iter().flat_map(|entry| &entry.events) {
        let event: Event<'_> = json::read(raw.get())?;
        if after.is_none_or(|place| !place.covers(&event)) {
            let (seq, index) = (event.seq.unwrap_or(0), event.index.unwrap_or(0));
            print_event(raw.get(), &event, &format!("{seq}.{index}{of}"), as_json)?;
            printed += 1;
        }
    }
    Ok(printed)
}

/// `position`: pass it to `--after` to continue after it.
fn print_event(
    raw: &str,
    event: &Event<'_>,
    position: &str,
    as_json: bool,
) -> Result<(), CliError> {
    if as_json {
        return output::line(&with_position(raw, event, position));
    }
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    let head = format!(
        "#{}.{}  {}  {}",
        number(event.seq),
        number(event.index),
        format_time(event.time_ms.unwrap_or(0)),
        event.kind.as_deref().unwrap_or("-"),
    );
    output::line(&format!("{}  {}", output::harmless(&head, false), event.body()))
}

fn print_ephemeral(raw: &str, event: &Event<'_>, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::line(&one_line(raw));
    }
    let head = format!(
        "~  {}  {}",
        format_time(event.time_ms.unwrap_or(0)),
        event.kind.as_deref().unwrap_or("-"),
    );
    output::line(&format!("{}  {}", output::harmless(&head, false), event.body()))
}

/// An event as the node sent it, with its position, which pages and streams have separately.
fn with_position(raw: &str, event: &Event<'_>, position: &str) -> String {
    let line = one_line(raw);
    match line.trim_end().strip_suffix('}') {
        Some(head) if event.position.is_none() => {
            let comma = if head.trim_end().ends_with('{') { "" } else { "," };
            format!("{head}{comma}\"position\":{}}}", Value::from(position))
        }
        _ => line.into_owned(),
    }
}

/// How one stream ended.
enum Ended {
    /// It broke; another one continues there.
    Broken(String),
    Deleted,
}

pub(super) async fn follow(
    client: &Client,
    path: &str,
    cursor: &mut String,
    json: bool,
) -> Result<(), CliError> {
    let mut wait = Backoff::new(RECONNECT_MIN, limits::CLIENT_RECONNECT_MAX);
    let mut failed_before = false;
    loop {
        let before = cursor.clone();
        let why = match stream(client, path, cursor, json).await {
            Ok(Ended::Deleted) => {
                output::complain("the session was deleted");
                return Ok(());
            }
            Ok(Ended::Broken(why)) => why,
            // A session that never existed is the user's mistake; one that existed comes back.
            Err(error) if error.exit == Exit::Server => error.message,
            Err(error) if error.exit == Exit::Unreachable && failed_before => error.message,
            Err(error) => return Err(error),
        };
        if *cursor != before {
            wait.reset();
        }
        if !failed_before || *cursor != before {
            let first = why.lines().next().unwrap_or_default();
            output::complain(&format!("{first}; reconnecting after event {cursor}"));
        }
        failed_before = true;
        sleep(wait.next()).await;
    }
}

/// Follows one stream to its end, moving the cursor after each printed event.
async fn stream(
    client: &Client,
    path: &str,
    cursor: &mut String,
    as_json: bool,
) -> Result<Ended, CliError> {
    let headers = [("last-event-id", cursor.as_str()), ("accept", "text/event-stream")];
    let mut body = client.stream(path, &headers).await?;
    let mut parser = SseParser::default();
    loop {
        let frame = match timeout(limits::CLIENT_STREAM_SILENCE, body.frame()).await {
            Err(_) => return Ok(Ended::Broken("the stream stalled".into())),
            Ok(None) => return Ok(Ended::Broken("the stream ended".into())),
            Ok(Some(Err(error))) => return Ok(Ended::Broken(format!("lost the stream: {error}"))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(chunk) = frame.into_data() else { continue };
        for SseEvent { id, kind, data } in parser.push(&chunk).map_err(CliError::failure)? {
            let event: Event<'_> = json::read(&data)?;
            // A handler's event has a number, whatever its name: it is not one of the node's own.
            let own = if event.seq.is_some() { "" } else { kind.as_str() };
            match own {
                "slotd.deleted" => return Ok(Ended::Deleted),
                "slotd.gap" => return Ok(Ended::Broken("too slow for the stream".into())),
                "slotd.error" => {
                    let value = Json::parse(data.as_bytes())?.into_value();
                    let (code, detail) = (text(&value, "code"), text(&value, "detail"));
                    let error = CliError {
                        exit: Exit::Refused,
                        message: format!("{code}: {}", output::harmless(&detail, false)),
                        problem: Some(value.clone()),
                    };
                    return match value["retriable"].as_bool() {
                        Some(true) => Ok(Ended::Broken(error.message)),
                        _ => Err(error),
                    };
                }
                // An ephemeral event: it has no place.
                _ if event.seq.is_none() => print_ephemeral(&data, &event, as_json)?,
                _ => {
                    print_event(&data, &event, &id, as_json)?;
                    *cursor = id;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it, a script that reads `tail --json` could not continue from there.
    #[test]
    fn every_event_says_where_it_is() {
        let raw = "{\"seq\": 3,\n \"index\": 1, \"body\": 1.10 }";
        let event = json::read(raw).unwrap();
        let expected = r#"{"seq": 3,  "index": 1, "body": 1.10 ,"position":"3.1-ab"}"#;
        assert_eq!(with_position(raw, &event, "3.1-ab"), expected);
        assert_eq!(with_position("{}", &Event::default(), "1.0"), r#"{"position":"1.0"}"#);
        let raw = r#"{"seq":3,"position":"3.0-cd"}"#;
        assert_eq!(with_position(raw, &json::read(raw).unwrap(), "3.1-ab"), raw);
    }
}
