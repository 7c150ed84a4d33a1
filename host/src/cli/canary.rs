//! Canaries, for people.

use super::{
    args::{CanaryArgs, CanaryChangeArgs},
    client::{Client, operator, query},
    exit::CliError,
    output::{self, format_time, list, number, text},
};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

impl CanaryArgs {
    pub fn query(&self) -> [(&'static str, Option<String>); 3] {
        let steps = self
            .canary
            .as_ref()
            .map(|steps| steps.0.iter().map(u16::to_string).collect::<Vec<_>>().join(","));
        [
            ("canary", steps),
            ("pause", self.pause.map(|pause| pause.as_secs().max(1).to_string())),
            ("canary_messages", self.canary_messages.map(|messages| messages.to_string())),
        ]
    }
}

/// Tells a node what becomes of a canary. `None`: nothing is asked for.
pub async fn change(
    client: &Client,
    service: &str,
    args: &CanaryChangeArgs,
    json: bool,
) -> Result<Option<()>, CliError> {
    let Some(wanted) = args.named() else { return Ok(None) };
    let path = super::admin::service_path(service, "/swap")?
        + &query(&[("canary", Some(wanted.to_owned()))]);
    let by = operator("--by", None)?;
    let headers = [(super::admin::SENDER, by.as_str())];
    let answer = client.request(Method::POST, &path, &headers, Bytes::new()).await?.json()?;
    match json {
        true => output::line(&answer.to_string())?,
        false => output::print(&lines(service, &answer["canary"]))?,
    }
    Ok(Some(()))
}

fn percent(permille: f64) -> String {
    format!("{} %", permille / 10.0)
}

/// A canary, in a column of a table.
pub fn short(canary: &Value) -> Option<String> {
    let state = canary["state"].as_str()?;
    let label = text(canary, "deployment.label");
    match state {
        "running" | "held" => {
            let steps = list(canary, "steps");
            let at = steps.get((number(canary, "step") as usize).saturating_sub(1));
            let share = percent(at.and_then(Value::as_f64).unwrap_or_default());
            Some(format!("canary {label}: {share}, {state}"))
        }
        _ => None,
    }
}

/// All that is known of a canary.
pub fn lines(service: &str, canary: &Value) -> String {
    let Some(state) = canary["state"].as_str() else { return String::new() };
    let label = text(canary, "deployment.label");
    let step = number(canary, "step") as usize;
    let steps = list(canary, "steps");
    let why = canary["why"].as_str().map(|why| format!(": {}", output::harmless(why, false)));
    let why = why.unwrap_or_default();
    let mut out = match state {
        "promoted" => format!("{service}: the canary {label} was promoted{why}\n"),
        "aborted" => {
            format!("{service}: the canary {label} went back to {}{why}\n", text(canary, "before"))
        }
        _ => {
            let share = steps.get(step.saturating_sub(1)).and_then(Value::as_f64);
            format!(
                "{service}: canary {label} beside {}, {state}{why}\n  step {step} of {} since {}: {}, {} of {} slots\n",
                text(canary, "before"),
                steps.len(),
                format_time(canary["since_ms"].as_u64().unwrap_or_default()),
                percent(share.unwrap_or_default()),
                text(canary, "slots"),
                text(canary, "of"),
            )
        }
    };
    for verdict in list(canary, "verdicts") {
        let good = verdict["good"].as_bool() == Some(true);
        out.push_str(&format!(
            "  step {}: {}\n",
            text(verdict, "step"),
            if good { "good" } else { "it went back" }
        ));
        out.push_str(&seen(verdict));
        for reason in list(verdict, "reasons").iter().filter_map(Value::as_str) {
            out.push_str(&format!("    bad: {}\n", output::harmless(reason, false)));
        }
        if let Some(left) = verdict["left"].as_u64() {
            let sessions = output::count(left as usize, "session");
            let what = match verdict["stays"].as_str() {
                Some(why) => format!("stay on {label}: {}", output::harmless(why, false)),
                None => "go back, one by one as messages come".to_owned(),
            };
            if left > 0 {
                out.push_str(&format!("    {sessions} that it had handled: {what}\n"));
            }
        }
    }
    if canary["now"].is_object() {
        let waits = canary["now"]["waits"].as_str();
        let waits = waits.map_or_else(String::new, |why| format!(", waits: {why}"));
        out.push_str(&format!("  step {step}: so far{}\n", output::harmless(&waits, false)));
        out.push_str(&seen(&canary["now"]));
    }
    out
}

/// Both versions, a line each.
fn seen(of: &Value) -> String {
    let line = |name: &str, of: &Value| {
        let wrong = ["traps", "deadlines", "rejections", "limits"];
        let wrong: Vec<_> = wrong.iter().map(|kind| format!("{} {kind}", text(of, kind))).collect();
        format!(
            "    {name}: {} messages, {}, {} of {} sessions not taken over, p99 {}\n",
            text(of, "messages"),
            wrong.join(", "),
            text(of, "pins"),
            text(of, "migrations"),
            output::micros(number(of, "p99_us")),
        )
    };
    line("before", &of["before"]) + &line("canary", &of["canary"])
}
