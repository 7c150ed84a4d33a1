//! `slotd audit`.

use super::{
    admin::service_path,
    args::Audit,
    client::{Client, query},
    exit::CliError,
    json::Json,
    output::{self, list, number, text},
    signals::Signals,
};
use crate::{clock, limits, names::SessionId};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use std::io::{self, IsTerminal as _};
use tokio::time::sleep;

pub async fn audit(args: Audit, json: bool) -> Result<(), CliError> {
    let client = args.admin.client()?;
    let session = args.session.as_deref().map(SessionId::parse).transpose()?;
    let shown = |number: Option<u64>| number.map(|number| number.to_string());
    let parameters = [
        ("session", session.map(|session| session.as_str().to_owned())),
        ("from", shown(args.from)),
        ("to", shown(args.to)),
        ("sample", shown(args.sample)),
        ("seed", shown(args.seed)),
        ("threads", shown(args.threads)),
        ("time_ms", args.time.map(|time| clock::milliseconds(time).to_string())),
    ];
    let audits = service_path(&args.service, "/audits")?;
    let path = format!("{audits}{}", query(&parameters));
    let mut signals = Signals::listen()?;
    let begun = tokio::select! {
        begun = client.request(Method::POST, &path, &[], Bytes::new()) => begun?.json()?,
        signal = signals.stop_or_hangup() => return Err(stopped(signal)),
    };
    let path = format!("{audits}/{}", text(&begun, "audit"));
    let (report, signal) = ended(&client, &path, begun, &mut signals).await?;
    if json {
        output::line(&report.to_string())?;
    } else {
        output::print(&shown_report(&args.service, &report))?;
    }
    if let Some(signal) = signal {
        return Err(stopped(signal));
    }
    match report["verdict"].as_str() {
        Some("same") => Ok(()),
        Some("differs") => Err(CliError::failure("what is stored does not all come out again")),
        _ => Err(CliError::failure("not all that is stored could be run and compared")),
    }
}

fn stopped(signal: &str) -> CliError {
    CliError::failure(format!("{signal}: the audit was ended before it had seen all"))
}

/// The report of an audit, once it has ended; the signal, if one was why.
async fn ended(
    client: &Client,
    path: &str,
    begun: Json,
    signals: &mut Signals,
) -> Result<(Json, Option<&'static str>), CliError> {
    let mut report = begun;
    let mut progress = Progress::default();
    while report["verdict"] == "running" {
        progress.show(&report);
        let next = async {
            sleep(limits::AUDIT_LOOK).await;
            client.get(path).await?.json()
        };
        report = tokio::select! {
            next = next => next?,
            signal = signals.stop_or_hangup() => {
                progress.clear();
                // Nobody waits for it any more, and it would go on for minutes.
                let end = client.request(Method::DELETE, path, &[], Bytes::new());
                return tokio::select! {
                    report = end => Ok((report?.json()?, Some(signal))),
                    again = signals.stop_or_hangup() => Err(stopped(again)),
                };
            }
        };
    }
    progress.clear();
    Ok((report, None))
}

/// A line on a terminal that is written over.
#[derive(Default)]
struct Progress {
    is_shown: bool,
}

impl Progress {
    fn show(&mut self, report: &Value) {
        if !io::stderr().is_terminal() {
            return;
        }
        let of = |name: &str| -> f64 {
            list(report, "nodes").iter().map(|node| number(node, name)).sum()
        };
        let line = format!(
            "\r\x1b[K{} sessions, {} messages, {} of {} slots",
            number(report, "sessions"),
            number(report, "messages"),
            of("slots"),
            of("slots_of")
        );
        let _ = crate::telemetry::sink::err(line.as_bytes());
        self.is_shown = true;
    }

    fn clear(&self) {
        if self.is_shown {
            let _ = crate::telemetry::sink::err(b"\r\x1b[K");
        }
    }
}

/// A report for people.
fn shown_report(service: &str, report: &Value) -> String {
    let count = |name: &str, what: &str| output::count(number(report, name) as usize, what);
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(&output::harmless(text, false));
        out.push('\n');
    };
    line(&match report["verdict"].as_str() {
        Some("same") => format!("{service}: what is stored comes out again"),
        Some("differs") => format!("{service}: {} differ", count("differing", "session")),
        _ => format!("{service}: nothing differs, and not all was seen"),
    });
    line(&format!(
        "  {} run, {} the same; {}, {} a second and thread",
        count("sessions", "session"),
        number(report, "same"),
        count("messages", "message"),
        number(report, "messages_per_second"),
    ));
    if report["sample"].is_u64() {
        line(&format!("  a sample of {}; --seed {}", report["sample"], report["seed"]));
    }
    for reason in list(report, "reasons") {
        line(&format!(
            "  {} not compared to the end, as {}: {}",
            output::count(number(reason, "sessions") as usize, "session"),
            text(reason, "example"),
            text(reason, "why")
        ));
    }
    let unseen = number(report, "slots_unseen");
    if unseen > 0.0 {
        line(&format!("  {} not seen to the end", output::count(unseen as usize, "slot")));
    }
    for node in list(report, "silent") {
        line(&format!("  node {} did not report: {}", text(node, "node"), text(node, "why")));
    }
    for finding in list(report, "findings") {
        line("");
        line(&format!(
            "{}, message {}, handled by {}",
            text(finding, "session"),
            number(finding, "seq"),
            text(finding, "deployment")
        ));
        for difference in list(finding, "differences") {
            line(&format!("  {}", text(difference, "what")));
            line(&format!("    stored  {}", text(difference, "stored")));
            line(&format!("    came    {}", text(difference, "came")));
        }
        let more = number(finding, "more");
        if more > 0.0 {
            line(&format!("  and {more} more behind it"));
        }
        let looks = match finding["looks_like"].as_str() {
            Some("keeps-memory") => "the component keeps something in memory between calls",
            Some("damage") => "what is stored is damaged",
            Some("stored-differs") => "what is stored is not what the component gives",
            _ => "not looked at",
        };
        line(&format!("  looks like: {looks}"));
        line(&format!("  {}", text(finding, "because")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads it decides whether to restore a backup or to mend a plugin.
    #[test]
    fn a_report_says_what_differs_and_what_it_looks_like() {
        let report = serde_json::json!({
            "verdict": "differs", "sessions": 2, "same": 1, "differing": 1, "messages": 7,
            "messages_per_second": 7000, "slots_unseen": 1, "sample": 2, "seed": 9,
            "reasons": [{"why": "it was imported", "sessions": 1, "example": "room-2"}],
            "silent": [{"node": "b", "why": "no answer"}],
            "findings": [{
                "session": "room-1", "seq": 3, "deployment": "1.0.0+abc", "more": 2,
                "looks_like": "keeps-memory", "because": "message 3 gives another reply",
                "differences": [{"what": "reply", "stored": "1", "came": "2\u{1b}[2J"}],
            }],
        });
        assert_eq!(
            shown_report("chat", &report),
            "chat: 1 session differ\n  \
             2 sessions run, 1 the same; 7 messages, 7000 a second and thread\n  \
             a sample of 2; --seed 9\n  \
             1 session not compared to the end, as room-2: it was imported\n  \
             1 slot not seen to the end\n  \
             node b did not report: no answer\n\n\
             room-1, message 3, handled by 1.0.0+abc\n  reply\n    stored  1\n    \
             came    2\\u{1b}[2J\n  and 2 more behind it\n  \
             looks like: the component keeps something in memory between calls\n  \
             message 3 gives another reply\n"
        );
    }
}
