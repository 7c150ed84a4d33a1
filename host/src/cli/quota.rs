//! `slotd limits`.

use super::{
    admin::service_path,
    args::AdminService,
    exit::CliError,
    output::{self, Table, number, text},
};
use serde_json::Value;

/// What there may be limits of, as the policy has them, and how they are shown.
const KEYS: [(&str, &str); 8] = [
    ("messages", "messages"),
    ("bytes", "bytes"),
    ("guest_time", "guest time"),
    ("burst", "burst"),
    ("sessions", "sessions"),
    ("stored", "stored"),
    ("sockets", "sockets"),
    ("weight", "weight"),
];

pub async fn show(args: AdminService, json: bool) -> Result<(), CliError> {
    let path = service_path(&args.service, "/limits")?;
    let answer = args.admin.client()?.get(&path).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let service = &args.service;
    match answer["of"].as_str() {
        None => output::line(&format!(
            "{service} has no limits. Try: [service.{service}.limits] in the policy (access.file)"
        ))?,
        Some(_) => {
            let limits = &answer["limits"];
            let mut table = Table::new(&["LIMIT", "SERVICE", "EACH SUBJECT", "EACH SESSION"]);
            for (key, name) in KEYS {
                let of = [&limits[key], &limits["subject"][key], &limits["session"][key]];
                if of.iter().any(|value| !value.is_null()) {
                    let [service, subject, session] = of.map(shown);
                    table.row([name.to_owned(), service, subject, session]);
                }
            }
            output::print(&table.render())?;
            let of = text(&answer, "of");
            let of = if of == "*" { "\"*\"".to_owned() } else { of };
            output::line(&format!("from [service.{of}.limits] of the policy"))?;
        }
    }
    let sockets = number(&answer["used"], "sockets") as usize;
    output::line(&format!("open on this node: {}", output::count(sockets, "socket")))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
