//! Commands on the admin API.

use super::{
    args::{
        AdminOnly, AdminService, Deploy, DeployOptionArgs, Rollback, SlotArgs, Slots, Swap, SwapCmd,
    },
    canary,
    client::{Client, encode, operator, query},
    exit::{CliError, Exit},
    gate,
    json::Json,
    output::{self, Table, format_time, list, number, text, time},
    signing,
};
use crate::{files, limits, names::ServiceName};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use std::path::Path;
use tokio::time::sleep;

/// Short output for people; after a deploy every slot runs.
const SLOTS_SHOWN: usize = 20;

/// Reads a component file.
///
/// # Errors
/// It can't be read or is too large for any node.
pub fn read_component(file: &Path) -> Result<Vec<u8>, CliError> {
    files::read(file, limits::COMPONENT_BYTES_MAX as u64).map_err(|error| {
        let too_large = matches!(error, files::ReadError::TooLarge(_));
        let hint = if too_large { ", the maximum for a component" } else { "" };
        CliError::failure(format!("{} {error}{hint}", file.display()))
    })
}

/// Of a change to a service.
pub const SENDER: &str = "slotd-sender";
const SIGNATURE: &str = "slotd-signature";

impl DeployOptionArgs {
    fn query(&self) -> [(&'static str, Option<String>); 2] {
        let set = |on: bool| on.then(|| "true".to_owned());
        [("force", set(self.force)), ("same_state", set(self.same_state))]
    }

    fn by(&self) -> Result<String, CliError> {
        operator("--by", self.by.as_deref())
    }
}

pub fn service_path(service: &str, rest: &str) -> Result<String, CliError> {
    let service = ServiceName::parse(service)?;
    Ok(format!("/admin/v1/services/{}{rest}", encode(service.as_str())))
}

pub async fn deploy(args: Deploy, json: bool) -> Result<(), CliError> {
    let mut parameters = vec![("version", args.version)];
    parameters.extend(args.options.query());
    parameters.extend(args.gate.query(json, args.options.force));
    parameters.extend(args.canary.query());
    let path = service_path(&args.service, "/deploy")? + &query(&parameters);
    let client = args.admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
    let by = args.options.by()?;
    let component = Bytes::from(read_component(&args.file)?);
    let signature = signing::of_component(&args.file, args.signature.as_deref(), &component)?;
    let mut headers = vec![("content-type", "application/wasm"), (SENDER, by.as_str())];
    headers.extend(signature.as_deref().map(|signature| (SIGNATURE, signature)));
    let asked = client.request(Method::POST, &path, &headers, component);
    let answer = gate::through(&client, &args.service, asked, json).await?;
    changed(&client, &args.service, answer, args.wait, json).await
}

pub async fn rollback(args: Rollback, json: bool) -> Result<(), CliError> {
    let client = args.admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
    let [force, same_state] = args.options.query();
    let path =
        service_path(&args.service, "/rollback")? + &query(&[("to", args.to), force, same_state]);
    let by = args.options.by()?;
    let headers = [(SENDER, by.as_str())];
    let answer = client.request(Method::POST, &path, &headers, Bytes::new()).await?;
    changed(&client, &args.service, answer.json()?, args.wait, json).await
}

/// The result of a deploy, once every slot has switched.
pub struct Moved {
    pub answer: Json,
    /// Whether something else ran before.
    pub changed: bool,
    /// The version and digest that run now.
    pub label: String,
}

/// Deploys a component and waits for the swap.
///
/// # Errors
/// The node refuses it, or the swap does not proceed.
pub async fn deploy_and_wait(
    client: &Client,
    service: &str,
    component: Bytes,
) -> Result<Moved, CliError> {
    // An author of a plugin switches back and forth, and is told what stays behind.
    let path = service_path(service, "/deploy")? + "?force=true";
    let headers = [("content-type", "application/wasm")];
    let answer = client.request(Method::POST, &path, &headers, component).await?.json()?;
    let answer = moved(client, service, answer).await?;
    if let Some(error) = answer["swap"]["error"].as_str() {
        return Err(does_not_proceed(error));
    }
    let changed = answer["changed"].as_bool() != Some(false);
    Ok(Moved { changed, label: text(&answer, "current.label"), answer })
}

fn does_not_proceed(error: &str) -> CliError {
    CliError::new(Exit::Server, format!("the swap is stuck: {error}"))
}

/// Waits until every slot has switched; returns the answer with the finished swap.
async fn moved(client: &Client, service: &str, answer: Json) -> Result<Json, CliError> {
    if !is_moving(&answer["swap"]) {
        return Ok(answer);
    }
    let mut answer = answer.into_value();
    let until = crate::clock::timer_now() + client.timeout();
    while is_moving(&answer["swap"]) {
        if crate::clock::timer_now() > until {
            return Err(CliError::new(
                Exit::Unreachable,
                format!(
                    "not every slot has switched in time; `slotd swap status {service}` shows the progress"
                ),
            ));
        }
        sleep(limits::CLIENT_LOOK).await;
        let status = client.get(&service_path(service, "/swap")?).await?.json()?;
        let generation = &status["swap"]["generation"];
        if generation.is_u64() && *generation != answer["swap"]["generation"] {
            // A later deploy switches the slots now.
            answer["swap"]["error"] = format!("superseded by generation {generation}").into();
            break;
        }
        answer["swap"] = status["swap"].clone();
    }
    Ok(answer.into())
}

/// Prints the result of a deploy or rollback; waits for its swap if requested.
async fn changed(
    client: &Client,
    service: &str,
    mut answer: Json,
    wait: bool,
    json: bool,
) -> Result<(), CliError> {
    if wait {
        answer = moved(client, service, answer).await?;
    }
    if json {
        output::line(&answer.to_string())?;
    } else {
        let same_state = match answer["current"]["same_state"].as_bool() {
            Some(true) => " (same state: takes over every version's sessions, as requested)",
            _ => "",
        };
        let label = text(&answer, "current.label") + same_state;
        match answer["changed"].as_bool() {
            Some(false) if answer["gate"].is_object() => {
                output::line(&format!("{service} runs {label}; nothing changed"))?
            }
            Some(false) => {
                output::line(&format!("{service} already runs {label}; nothing changed"))?
            }
            _ => output::line(&format!("{service} runs {label}"))?,
        }
        output::print(&canary::lines(service, &answer["canary"]))?;
        output::print(&outlook(&answer))?;
        output::print(&new_effects(&answer))?;
        // Of a dry run it is the one before.
        let is_dry = answer["gate"].is_object() && answer["changed"].as_bool() == Some(false);
        if answer["swap"].is_object() && !is_dry {
            output::print(&swap_lines(&answer["swap"]))?;
        }
        if !wait && is_moving(&answer["swap"]) {
            output::complain(&format!(
                "still switching; `slotd swap status {service}` shows the progress"
            ));
        }
    }
    match answer["swap"]["error"].as_str() {
        Some(error) if wait => Err(does_not_proceed(error)),
        _ => Ok(()),
    }
}

/// What the version can do that the one before could not.
fn new_effects(answer: &Value) -> String {
    let names: Vec<_> = list(answer, "new_effects").iter().filter_map(Value::as_str).collect();
    match names.as_slice() {
        [] => String::new(),
        names => output::harmless(&format!("  new effects: {}", names.join(", ")), false) + "\n",
    }
}

/// What happens to the sessions of other versions.
pub fn outlook(answer: &Value) -> String {
    let line = |from: &Value| {
        let sessions = output::count(number(from, "sessions") as usize, "session");
        let (label, it) = (text(from, "from"), if sessions == "1 session" { "it" } else { "they" });
        match from["stays"].as_str() {
            Some(why) => format!(
                "  {sessions} of {label}: {it} stay{} on that version: {}\n",
                if it == "it" { "s" } else { "" },
                output::harmless(why, false)
            ),
            None => {
                format!("  {sessions} of {label}: migrated back, one by one as messages come\n")
            }
        }
    };
    list(answer, "sessions").iter().map(line).collect()
}

fn is_moving(swap: &Value) -> bool {
    swap["done"].as_bool() == Some(false) && swap["error"].is_null()
}

/// A swap in one line; `None` where no slot ran.
pub fn swapped(swap: &Value) -> Option<String> {
    let moved = number(swap, "moved");
    let (from, to) = (swap["from"].as_str()?, swap["to"].as_str()?);
    (moved > 0.0).then(|| {
        let pause = output::micros(number(swap, "pause_max_us"));
        let slots = output::count(moved as usize, "slot");
        output::harmless(&format!("{from} -> {to}: {slots} switched, longest pause {pause}"), false)
    })
}

fn swap_lines(swap: &Value) -> String {
    let pause = |name| output::micros(number(swap, name));
    let from = swap["from"].as_str().map(|from| format!("{from} -> ")).unwrap_or_default();
    let mut out = format!(
        "  {from}{}: {} of {} slots switched in {}{}\n",
        text(swap, "to"),
        text(swap, "moved"),
        text(swap, "slots"),
        output::micros(number(swap, "elapsed_ms") * 1_000.0),
        if swap["done"].as_bool() == Some(true) { "" } else { " so far" },
    );
    if number(swap, "moved") > 0.0 {
        out.push_str(&format!(
            "  pause per slot: p50 {}, p99 {}, max {}\n",
            pause("pause_p50_us"),
            pause("pause_p99_us"),
            pause("pause_max_us")
        ));
    }
    if let Some(error) = swap["error"].as_str() {
        out.push_str(&format!("  stuck: {}\n", output::harmless(error, false)));
    }
    out
}

pub async fn swap(args: Swap, json: bool) -> Result<(), CliError> {
    let (service, admin) = match args {
        Swap { cmd: Some(SwapCmd::Status(args)), .. } => (args.service, args.admin),
        Swap { cmd: None, service, admin, canary: change } => {
            let service = service.unwrap_or_default();
            let client = admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
            if canary::change(&client, &service, &change, json).await?.is_some() {
                return Ok(());
            }
            output::complain(&format!("this command is now `slotd swap status {service}`"));
            (service, admin)
        }
    };
    swap_status(&admin.client()?, &service, json).await
}

async fn swap_status(client: &Client, service: &str, json: bool) -> Result<(), CliError> {
    let answer = client.get(&service_path(service, "/swap")?).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::print(&canary::lines(service, &answer["canary"]))?;
    match answer["swap"].is_object() {
        true => {
            let state = if is_moving(&answer["swap"]) { "swapping" } else { "swapped" };
            output::line(&format!("{service}: {state}"))?;
            output::print(&swap_lines(&answer["swap"]))
        }
        false => output::line(&format!("{service}: no swap since the node started")),
    }
}

pub async fn deployments_of(client: &Client, service: &str) -> Result<Json, CliError> {
    client.get(&service_path(service, "/deployments")?).await?.json()
}

pub async fn deployments(args: AdminService, json: bool) -> Result<(), CliError> {
    let client = args.admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
    let answer = deployments_of(&client, &args.service).await?;
    if json {
        return output::line(&answer.to_string());
    }
    let columns = &[">#", "VERSION", "DEPLOYED", "BY", ">SESSIONS", ">PINNED", "STATE"];
    let mut table = Table::new(columns);
    for line in list(&answer, "deployments") {
        let is = |name: &str| line[name].as_bool() == Some(true);
        let switched = &answer["switched"];
        let mut state = Vec::new();
        if is("current") {
            state.push(match (switched["at_ms"].as_u64(), author(switched)) {
                (None, _) => "current".to_owned(),
                (Some(at), None) => format!("current since {}", format_time(at)),
                (Some(at), Some(by)) => format!("current since {} by {by}", format_time(at)),
            });
        }
        if is("previous") {
            state.push("previous: rollback goes here".into());
        }
        if is("same_state") {
            state.push("same state".into());
        }
        if let Some(key) = line["signed_by"].as_str() {
            state.push(format!("signed by {key}"));
        }
        if state.is_empty() {
            state.push("-".into());
        }
        table.row([
            text(line, "deployment"),
            text(line, "label"),
            time(line, "deployed_ms"),
            author(line).unwrap_or_else(|| "-".into()),
            text(line, "sessions"),
            text(line, "pinned"),
            state.join(", "),
        ]);
    }
    output::print(&table.render())?;
    for silent in list(&answer, "silent") {
        output::complain(&format!(
            "node {} did not answer; its sessions are not counted: {}",
            text(silent, "node"),
            text(silent, "why")
        ));
    }
    Ok(())
}

pub async fn services(args: AdminOnly, json: bool) -> Result<(), CliError> {
    let answer = args.admin.client()?.get("/admin/v1/services").await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let services = list(&answer, "services");
    if services.is_empty() {
        output::complain("nothing is deployed yet; try: slotd deploy SERVICE FILE");
        return Ok(());
    }
    let columns =
        &["SERVICE", "VERSION", "DEPLOYED", "BEFORE", ">INSTANCES", ">MEMORY", ">CODE", "SWAP"];
    let mut table = Table::new(columns);
    for service in services {
        let swap = &service["swap"];
        table.row([
            text(service, "service"),
            text(service, "current.label"),
            time(&service["current"], "deployed_ms"),
            text(service, "previous.label"),
            text(service, "memory.instances"),
            output::bytes(number(&service["memory"], "bytes")),
            match service["memory"]["code_bytes"].as_f64() {
                Some(code) => output::bytes(code),
                None => "-".into(),
            },
            match (swap.is_object(), is_moving(swap), swap["error"].as_str()) {
                (false, ..) => "-".into(),
                (_, _, Some(error)) => format!("stuck: {error}"),
                (_, true, _) => format!("{} of {}", text(swap, "moved"), text(swap, "slots")),
                _ => canary::short(&service["canary"]).unwrap_or_else(|| "done".into()),
            },
        ]);
    }
    output::print(&table.render())
}

const SLOT_COLUMNS: &[&str] =
    &[">SLOT", "STATE", "OWNER", ">TERM", ">POSITION", ">APPLIED", ">MAILBOX", ">SESSIONS", "RUNS"];

fn slot_row(slot: &Value) -> Vec<String> {
    let runs = slot["plugins"].as_object().map(|plugins| {
        let run = |(service, label): (&String, &Value)| {
            format!("{service}={}", label.as_str().unwrap_or("?"))
        };
        plugins.iter().map(run).collect::<Vec<_>>().join(" ")
    });
    ["slot", "state", "owner", "term", "position", "applied", "mailbox", "sessions"]
        .iter()
        .map(|name| text(slot, name))
        .chain([runs.filter(|runs| !runs.is_empty()).unwrap_or_else(|| "-".into())])
        .collect()
}

pub async fn slots(args: Slots, json: bool) -> Result<(), CliError> {
    let answer = args.admin.client()?.get("/admin/v1/slots").await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let slots = list(&answer, "slots");
    let stopped = |slot: &Value| slot["state"] == "stopped";
    let mut shown: Vec<&Value> = slots.iter().filter(|slot| args.all || !stopped(slot)).collect();
    let stopped_count = slots.iter().filter(|slot| stopped(slot)).count();
    let unknown = slots.iter().filter(|slot| slot["state"] == "unknown").count();
    let running = slots.len() - stopped_count - unknown;
    let cut = !args.all && shown.len() > SLOTS_SHOWN;
    if cut {
        let busy = |slot: &Value| [number(slot, "mailbox"), number(slot, "sessions")];
        shown.sort_by(|a, b| {
            let odd = |slot: &Value| slot["state"] != "running";
            (odd(b), busy(b)).partial_cmp(&(odd(a), busy(a))).unwrap_or(std::cmp::Ordering::Equal)
        });
        shown.truncate(SLOTS_SHOWN);
    }
    let mut table = Table::new(SLOT_COLUMNS);
    shown.iter().for_each(|slot| table.row(slot_row(slot)));
    if !shown.is_empty() {
        output::print(&table.render())?;
    }
    let sum = |name| slots.iter().map(|slot| number(slot, name)).sum::<f64>();
    output::complain(&format!(
        "{}: {running} running{}, {stopped_count} stopped{}; {}{}",
        output::count(slots.len(), "slot"),
        if cut { format!(" (these are the {SLOTS_SHOWN} busiest)") } else { String::new() },
        if unknown > 0 { format!(", {unknown} whose owner did not answer") } else { String::new() },
        output::count(sum("sessions") as usize, "session"),
        if shown.len() < slots.len() { "; --all lists every slot" } else { "" },
    ));
    Ok(())
}

pub async fn slot(args: SlotArgs, json: bool) -> Result<(), CliError> {
    let path = format!("/admin/v1/slots/{}", args.slot);
    let answer = args.admin.client()?.get(&path).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    let mut table = Table::new(SLOT_COLUMNS);
    table.row(slot_row(&answer));
    output::print(&table.render())
}

pub async fn drain(args: SlotArgs, json: bool) -> Result<(), CliError> {
    let path = format!("/admin/v1/slots/{}/drain", args.slot);
    let client = args.admin.client()?;
    let answer = client.request(Method::POST, &path, &[], Bytes::new()).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::line(&format!(
        "slot {} drained at term {}, position {}; it moves to {}",
        text(&answer, "slot"),
        text(&answer, "term"),
        text(&answer, "position"),
        text(&answer, "to")
    ))
}

pub async fn rebalance(args: AdminOnly, json: bool) -> Result<(), CliError> {
    let client = args.admin.client()?;
    let answer =
        client.request(Method::POST, "/admin/v1/rebalance", &[], Bytes::new()).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::line(&format!(
        "view {}: {}",
        text(&answer, "view"),
        output::harmless(&text(&answer, "detail"), false)
    ))
}

pub async fn ring(args: AdminOnly, json: bool) -> Result<(), CliError> {
    let answer = args.admin.client()?.get("/admin/v1/ring").await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::line(&format!(
        "view {}, {} slots, at most {} a node ({}, {} points a node)\n",
        text(&answer, "view"),
        text(&answer, "slot_count"),
        text(&answer, "cap"),
        text(&answer, "scheme"),
        text(&answer, "virtual_nodes"),
    ))?;
    let mut table = Table::new(&["NODE", ">SLOTS", "WHICH"]);
    for node in list(&answer, "nodes") {
        // Ranges of many nodes are long; `--json` shows them in full.
        let ranges = text(node, "ranges");
        let cut = ranges.char_indices().nth(60).map(|(end, _)| format!("{}…", &ranges[..end]));
        table.row([text(node, "node"), text(node, "slots"), cut.unwrap_or(ranges)]);
    }
    output::print(&table.render())
}

/// Who made a change: as it was shown, and in quotes what the request said, which nobody has checked.
fn author(of: &Value) -> Option<String> {
    match (of["identity"].as_str(), of["by"].as_str()) {
        (None, None) => None,
        (Some(identity), None) => Some(identity.to_owned()),
        (None, Some(said)) => Some(format!("{said:?}")),
        (Some(identity), Some(said)) => Some(format!("{identity} {said:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Whoever says that he is the pipeline's token must not look like it.
    #[test]
    fn what_a_request_says_is_shown_as_such() {
        for (of, expected) in [
            (json!({}), None),
            (json!({"by": "token:ci"}), Some(r#""token:ci""#)),
            (json!({"identity": "token:ci"}), Some("token:ci")),
            (json!({"identity": "root", "by": "ann"}), Some(r#"root "ann""#)),
        ] {
            assert_eq!(author(&of).as_deref(), expected, "{of}");
        }
    }
}
