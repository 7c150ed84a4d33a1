//! A gate's report for a terminal.

use super::super::output::{self, list, number, text};
use serde_json::Value;
use std::io::{self, IsTerminal as _};

/// A line on a terminal that is written over.
#[derive(Default)]
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    pub fn is_wanted(&self) -> bool {
        io::stderr().is_terminal()
    }

    pub fn show(&mut self, view: &Value) {
        if !self.is_wanted() {
            return;
        }
        let line = format!("\r\x1b[K{}", progress(view));
        let _ = crate::telemetry::sink::err(line.as_bytes());
        self.is_shown = true;
    }

    pub fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = crate::telemetry::sink::err(b"\r\x1b[K");
        }
    }
}

fn progress(view: &Value) -> String {
    if view["verdict"] == "switching" {
        return "gate: passed, switching".into();
    }
    let stage = text(view, "stage");
    let result = list(view, "stages").iter().find(|result| result["stage"] == view["stage"]);
    let Some(result) = result else { return output::harmless(&format!("gate: {stage}"), false) };
    let mut line =
        format!("gate: {stage}, {} of {} sessions", number(result, "seen"), number(result, "of"));
    if view["remaining_ms"].is_u64() {
        line += &format!(", {} left", output::micros(number(view, "remaining_ms") * 1_000.0));
    }
    output::harmless(&line, false)
}

/// One paragraph of what came of it, for who deploys: with what differs, unless that was shown before.
pub fn brief(view: &Value, took_ms: u64, with_differences: bool) -> String {
    let stages = list(view, "stages");
    let groups: usize = stages.iter().map(|stage| list(stage, "groups").len()).sum();
    let sum =
        |name: &str| -> f64 { stages.iter().map(|stage| number(stage, name)).fold(0.0, f64::max) };
    let mut out = format!(
        "gate: {} in {}: {} migrated, {} run{}\n",
        text(view, "verdict"),
        output::micros(took_ms as f64 * 1_000.0),
        output::count(sum("seen") as usize, "session"),
        output::count(sum("messages") as usize, "message"),
        if groups == 0 { ", nothing differs" } else { "" },
    );
    if with_differences && groups > 0 {
        for stage in stages {
            groups_of(stage, &mut out);
        }
    }
    out
}

/// All of it.
pub fn report(view: &Value) -> String {
    let mut out = String::new();
    let verdict = match (view["verdict"].as_str(), view["stage"].as_str()) {
        (Some("stopped"), Some(stage)) => format!("stopped by {stage}"),
        (Some("running"), Some(stage)) => format!("at {stage}"),
        (Some("passed"), _) => "passed (a dry run: nothing has moved)".into(),
        (Some("confirming"), _) => "passed, and waits for somebody to confirm what differs".into(),
        (verdict, _) => verdict.unwrap_or("-").to_owned(),
    };
    let names = [text(view, "service"), text(view, "from"), text(view, "to")];
    line(&mut out, &format!("{}: {} -> {}: {verdict}", names[0], names[1], names[2]));
    if view["verdict"] == "aborted" {
        line(&mut out, &format!("  {}", text(view, "why")));
    }
    for stage in list(view, "stages") {
        stage_of(stage, &mut out);
    }
    let wants: Vec<_> = list(view, "wants").iter().filter_map(Value::as_str).collect();
    if !wants.is_empty() {
        let accept: Vec<_> = wants.iter().map(|want| format!("--accept {want}")).collect();
        line(&mut out, &format!("to accept what it wants: {}", accept.join(" ")));
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(&output::harmless(text, false));
    out.push('\n');
}

fn stage_of(stage: &Value, out: &mut String) {
    let mut seen = Vec::new();
    if number(stage, "of") > 0.0 || number(stage, "seen") > 0.0 {
        let (of, seen_of) = (number(stage, "of"), number(stage, "seen"));
        seen.push(match of > seen_of {
            true => format!("{seen_of} of {of} sessions"),
            false => output::count(seen_of as usize, "session"),
        });
    }
    if number(stage, "messages") > 0.0 {
        seen.push(output::count(number(stage, "messages") as usize, "message"));
    }
    let elapsed = output::micros(number(stage, "elapsed_ms") * 1_000.0);
    line(
        out,
        format!(
            "  {:<10} {:<8} {}",
            text(stage, "stage"),
            text(stage, "standing"),
            [seen, vec![elapsed]].concat().join(", ")
        )
        .trim_end(),
    );
    if stage["standing"] == "skipped" {
        for why in list(stage, "why") {
            line(out, &format!("    {}", text(why, "why")));
        }
    }
    groups_of(stage, out);
    for unseen in list(stage, "unseen") {
        let example = unseen["example"].as_str().filter(|example| !example.is_empty());
        let example = example.map_or_else(String::new, |example| format!(", as {example}"));
        line(
            out,
            &format!(
                "    not seen: {} ({}{example})",
                text(unseen, "why"),
                number(unseen, "sessions")
            ),
        );
    }
    for cost in list(stage, "costs") {
        let total = |name: &str| number(&cost[name], "total");
        let ratio = total("after") / total("before").max(1.0);
        line(
            out,
            &format!(
                "    cost of {}: {ratio:.2} times as much, over {}",
                text(cost, "of"),
                output::count(number(cost, "messages") as usize, "message")
            ),
        );
    }
}

fn groups_of(stage: &Value, out: &mut String) {
    for group in list(stage, "groups") {
        let does = if group["stops"].as_bool() == Some(true) { "STOPS" } else { "differs" };
        let times = number(group, "count");
        let example = &group["example"];
        let at = match (example["session"].as_str(), number(example, "seq")) {
            (Some(""), _) | (None, _) => String::new(),
            (Some(session), seq) if seq > 0.0 => format!(", as {session} message {seq}"),
            (Some(session), _) => format!(", as {session}"),
        };
        line(
            out,
            &format!("    {does} {}: {} (x{times}{at})", text(group, "kind"), text(group, "path")),
        );
        for (name, shown) in [("stored", "before"), ("came", "after ")] {
            if let Some(value) = example[name].as_str().filter(|value| !value.is_empty()) {
                line(out, &format!("      {shown}  {value}"));
            }
        }
        if let Some(capture) = example["capture"].as_str() {
            line(out, &format!("      captured as {capture}"));
        }
    }
}

#[cfg(test)]
pub fn example() -> Value {
    serde_json::json!({
        "gate": "a", "service": "chat", "verdict": "stopped", "stage": "replay", "why": "trap",
        "from": "1.0.0+ab", "to": "2.0.0+cd", "wants": ["http:api.example.com"],
        "stages": [
            {"stage": "interface", "standing": "stopped", "seen": 0, "of": 0, "elapsed_ms": 1,
             "groups": [{"kind": "want", "path": "http:api.example.com", "count": 1, "stops": true,
                         "example": {"session": "", "seq": 0, "stored": "", "came": "makes requests"}}]},
            {"stage": "replay", "standing": "stopped", "seen": 9, "of": 10, "messages": 40, "elapsed_ms": 20,
             "unseen": [{"why": "it was imported", "sessions": 1, "example": "room-2"}],
             "groups": [
                {"kind": "trap", "path": "unreachable", "count": 3, "stops": true,
                 "example": {"session": "room-1", "seq": 4, "stored": "<b>hello</b>", "came": "a trap\u{1b}[2J"}},
                {"kind": "reply", "path": "$.took", "count": 7, "stops": false,
                 "example": {"session": "room-1", "seq": 5, "stored": "1", "came": "2"}}]},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads it decides whether the version is mended or what differs is right.
    #[test]
    fn a_report_says_what_stops_a_version_and_where() {
        assert_eq!(
            report(&example()),
            "chat: 1.0.0+ab -> 2.0.0+cd: stopped by replay\n  \
             interface  stopped  1.0 ms\n    \
             STOPS want: http:api.example.com (x1)\n      after   makes requests\n  \
             replay     stopped  9 of 10 sessions, 40 messages, 20.0 ms\n    \
             STOPS trap: unreachable (x3, as room-1 message 4)\n      \
             before  <b>hello</b>\n      after   a trap\\u{1b}[2J\n    \
             differs reply: $.took (x7, as room-1 message 5)\n      before  1\n      after   2\n    \
             not seen: it was imported (1, as room-2)\n\
             to accept what it wants: --accept http:api.example.com\n"
        );
    }
}
