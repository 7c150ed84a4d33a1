//! Commands on the nodes of a cluster and on slots that move between them.

use super::{
    args::{AdminOnly, Level, Moves, NodeDrain, NodeForget, Ready},
    client::{Client, encode, query},
    exit::{CliError, Exit},
    output::{self, Table, harmless, list, number, text, time},
};
use crate::limits;
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::time::sleep;

pub async fn nodes(args: AdminOnly, json: bool) -> Result<(), CliError> {
    let answer = args.admin.client()?.get("/admin/v1/nodes").await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    output::print(&nodes_table(&answer))?;
    notes(&answer).iter().for_each(|note| output::complain(note));
    Ok(())
}

pub async fn level(args: Level, json: bool) -> Result<(), CliError> {
    let client = args.admin.client()?;
    let answer = if args.raise || args.to.is_some() {
        let path = format!("/admin/v1/level{}", query(&[("to", args.to.map(|to| to.to_string()))]));
        client.request(Method::POST, &path, &[], Bytes::new()).await?.json()?
    } else {
        client.get("/admin/v1/level").await?.json()?
    };
    if json {
        return output::line(&answer.to_string());
    }
    let mut table = Table::new(&["NODE", "STATE", ">READS UP TO"]);
    for node in list(&answer, "nodes") {
        let state = if node["away"] == true { "away" } else { "alive" };
        table.row([text(node, "node"), state.into(), text(node, "reads")]);
    }
    output::print(&table.render())?;
    let next = match answer["may_rise_to"].as_u64() {
        Some(next) => format!("; it can be raised to {next} (`slotd level --raise`)"),
        None => String::new(),
    };
    output::complain(&format!("feature level {} is in force{next}", text(&answer, "level")));
    Ok(())
}

pub async fn ready(args: Ready, json: bool) -> Result<(), CliError> {
    let path = if args.live { "/healthz" } else { "/readyz" };
    let answer = args.admin.client()?.get(path).await?.json()?;
    match json {
        true => output::line(&answer.to_string()),
        false => output::line(&text(&answer, "status")),
    }
}

fn names(value: &Value, field: &str) -> Vec<String> {
    list(value, field).iter().filter_map(Value::as_str).map(|n| harmless(n, false)).collect()
}

fn state(node: &Value) -> &'static str {
    let name = node["node"].as_str().unwrap_or_default();
    if list(node, "leaving").iter().any(|leaving| leaving == name) {
        "leaving"
    } else if node["not_ready"].is_string() {
        "not ready"
    } else if node["unfit"].is_string() {
        "unfit"
    } else {
        "ready"
    }
}

fn nodes_table(answer: &Value) -> String {
    let headings = [
        "NODE", "STATE", ">OWNS", ">SHOULD", ">MOVING", ">VIEW", ">SEES", "API", "PEERS", "VERSION",
    ];
    let mut table = Table::new(&headings);
    let or_dash = |text: String| if text.is_empty() { "-".into() } else { text };
    for node in list(answer, "nodes") {
        table.row([
            text(node, "node"),
            state(node).into(),
            text(node, "owned"),
            text(node, "proposed"),
            text(node, "moving"),
            text(node, "view"),
            list(node, "members").len().to_string(),
            or_dash(text(node, "api")),
            or_dash(text(node, "peer")),
            text(node, "version"),
        ]);
    }
    for node in list(answer, "silent") {
        let mut row = vec![text(node, "node"), "silent".into()];
        row.resize(headings.len(), "-".into());
        table.row(row);
    }
    table.render()
}

/// Why a node did not answer. The reason may name it.
fn silent(node: &Value) -> String {
    let (name, why) = (text(node, "node"), text(node, "why"));
    match why.starts_with(&format!("node {name} ")) || why.contains(&format!(" node {name} ")) {
        true => why,
        false => format!("{name} does not answer: {why}"),
    }
}

/// Notes that the table does not show.
fn notes(answer: &Value) -> Vec<String> {
    let nodes = list(answer, "nodes");
    let mut notes = Vec::new();
    for node in nodes.iter().filter(|node| state(node) == "not ready") {
        notes.push(format!("{} is not ready: {}", text(node, "node"), text(node, "not_ready")));
    }
    for node in nodes.iter().filter(|node| state(node) == "unfit") {
        notes.push(format!("{} can't serve: {}", text(node, "node"), text(node, "unfit")));
    }
    for node in nodes.iter().filter(|node| node["links"].is_string()) {
        notes.push(format!("{} has {}", text(node, "node"), text(node, "links")));
    }
    notes.extend(list(answer, "silent").iter().map(silent));
    let mut views: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for node in nodes {
        views.entry(names(node, "members")).or_default().push(text(node, "node"));
    }
    if views.len() > 1 {
        notes.push("the nodes see different members:".into());
        for (members, by) in &views {
            notes.push(format!("  {} sees {}", by.join(", "), members.join(", ")));
        }
    }
    let sum = |name: &str| nodes.iter().map(|node| number(node, name)).sum::<f64>() as usize;
    let moving = sum("moving");
    let count = output::count(nodes.len(), "node");
    let slots = output::count(sum("owned"), "slot");
    notes.push(format!("{count}, {slots} in all, {} in progress", output::count(moving, "move")));
    notes.into_iter().map(|note| harmless(&note, false)).collect()
}

pub async fn drain(args: NodeDrain, json: bool) -> Result<(), CliError> {
    let client = match args.wait {
        true => args.admin.client_waiting(limits::CLIENT_DRAIN_TIMEOUT)?,
        false => args.admin.client()?,
    };
    let node = &args.node;
    if args.wait {
        // A node that has left does not answer, nor does one that is unreachable.
        let asked = client.get("/admin/v1/nodes").await?.json()?;
        if asked["own"] == **node {
            return Err(CliError::usage(format!(
                "{} is {node} itself, which can't report that it is gone: with --wait, use \
                 another node's --admin-url",
                client.url()
            )));
        }
    }
    let started = crate::clock::timer_now();
    let path = format!("/admin/v1/nodes/{}/drain", encode(node));
    let answer = client.request(Method::POST, &path, &[], Bytes::new()).await?.json()?;
    if json {
        output::line(&answer.to_string())?;
    } else {
        let slots = output::count(number(&answer, "slots") as usize, "slot");
        let takers = names(&answer, "takers").join(", ");
        output::line(&format!("{node} moves its {slots} to {takers} and stops"))?;
    }
    if !args.wait {
        output::complain("`slotd nodes` shows the progress");
        return Ok(());
    }
    while is_there(&client, node).await? {
        if started.elapsed() > client.timeout() {
            return Err(CliError::new(
                Exit::Unreachable,
                format!("{node} is not gone in time; `slotd nodes` shows the progress"),
            ));
        }
        sleep(limits::CLIENT_LOOK).await;
    }
    output::complain(&format!("{node} is gone after {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

pub async fn forget(args: NodeForget, json: bool) -> Result<(), CliError> {
    let path = format!("/admin/v1/nodes/{}", encode(&args.node));
    let client = args.admin.client()?;
    let answer = client.request(Method::DELETE, &path, &[], Bytes::new()).await?.json()?;
    match json {
        true => output::line(&answer.to_string()),
        false => output::line(&format!("{} is forgotten", args.node)),
    }
}

/// Whether any node still sees it.
async fn is_there(client: &Client, node: &str) -> Result<bool, CliError> {
    let answer = client.get("/admin/v1/nodes").await?.json()?;
    let sees = |view: &Value| list(view, "members").iter().any(|member| member == node);
    let others = list(&answer, "nodes").iter().filter(|view| view["node"] != node);
    Ok(others.into_iter().any(sees))
}

pub async fn moves(args: Moves, json: bool) -> Result<(), CliError> {
    let client = args.admin.client()?;
    if let (Some(id), Some(node)) = (args.cancel, &args.node) {
        let path = format!("/admin/v1/moves/{}/{id}", encode(node));
        let answer = client.request(Method::DELETE, &path, &[], Bytes::new()).await?.json()?;
        return match json {
            true => output::line(&answer.to_string()),
            false => output::line(&format!(
                "move {id} to {node} is cancelled; its slot stays where it is until nodes join or \
                 leave, or until `slotd rebalance`"
            )),
        };
    }
    let path = format!("/admin/v1/moves{}", query(&[("limit", Some(args.last.to_string()))]));
    let answer = client.get(&path).await?.json()?;
    if json {
        return output::line(&answer.to_string());
    }
    if !list(&answer, "moves").is_empty() {
        output::print(&moves_table(&answer))?;
    }
    for node in list(&answer, "silent") {
        output::complain(&harmless(&silent(node), false));
    }
    output::complain(&moves_summary(&answer));
    Ok(())
}

fn moves_table(answer: &Value) -> String {
    let headings = [">SLOT", "FROM", "TO", ">ID", "STATE", ">TOOK", ">PAUSE", "STARTED", "ERROR"];
    let mut table = Table::new(&headings);
    for info in list(answer, "moves") {
        let millis = |name: &str| match info[name].as_f64() {
            Some(ms) => output::micros(ms * 1_000.0),
            None => "-".into(),
        };
        table.row([
            text(info, "slot"),
            // No live node had it: a takeover.
            text(info, "from"),
            text(info, "to"),
            text(info, "id"),
            text(info, "state"),
            millis("elapsed_ms"),
            millis("pause_ms"),
            time(info, "started_ms"),
            text(info, "error"),
        ]);
    }
    table.render()
}

fn moves_summary(answer: &Value) -> String {
    let counts = &answer["counts"];
    let running: f64 =
        ["preparing", "sealing", "claiming"].iter().map(|name| number(counts, name)).sum();
    let ended: f64 = ["done", "failed", "cancelled"].iter().map(|name| number(counts, name)).sum();
    let shown = list(answer, "moves").len() as f64 - running;
    let more = if shown < ended { "; -n shows more" } else { "" };
    format!(
        "{running} in progress; recent: {} done, {} failed, {} cancelled{more}",
        number(counts, "done"),
        number(counts, "failed"),
        number(counts, "cancelled"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, members: &[&str], leaving: &[&str]) -> Value {
        json!({
            "node": name, "version": "0.1.0", "peer": "10.0.0.1:7072", "api": "10.0.0.1:7070",
            "view": 4, "members": members, "leaving": leaving, "owned": 171, "proposed": 170,
            "moving": 1,
        })
    }

    /// Without it an operator would not see that the cluster is split, or which node differs.
    #[test]
    fn nodes_that_differ_are_shown() {
        let mut cut = node("c", &["c"], &[]);
        cut["not_ready"] = "the log engine does not answer".into();
        let mut unfit = node("e", &["a", "b", "c"], &["b"]);
        unfit["unfit"] = "its disk refuses writes".into();
        let (a, b) = (node("a", &["a", "b", "c"], &["b"]), node("b", &["a", "b", "c"], &["b"]));
        let answer = json!({
            "own": "a",
            "nodes": [a, b, cut, unfit],
            "silent": [{"node": "d", "why": "node d does not answer: \u{1b}[2J"}],
        });
        let table = nodes_table(&answer);
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..7], ["NODE", "STATE", "OWNS", "SHOULD", "MOVING", "VIEW", "SEES"]);
        assert_eq!(lines[1][..7], ["a", "ready", "171", "170", "1", "4", "3"]);
        assert_eq!(lines[2][..2], ["b", "leaving"]);
        assert_eq!(lines[3][..3], ["c", "not", "ready"]);
        assert_eq!(lines[4][..3], ["e", "unfit", "171"]);
        assert_eq!(lines[5][..4], ["d", "silent", "-", "-"]);
        assert_eq!(
            notes(&answer),
            [
                "c is not ready: the log engine does not answer",
                "e can't serve: its disk refuses writes",
                "node d does not answer: \\u{1b}[2J",
                "the nodes see different members:",
                "  a, b, e sees a, b, c",
                "  c sees c",
                "4 nodes, 684 slots in all, 4 moves in progress",
            ]
        );
    }

    /// Without it the table would lack what a cancel needs, and why a move failed.
    #[test]
    fn moves_say_what_is_needed_to_act() {
        let answer = json!({
            "counts": {"preparing": 1, "sealing": 0, "claiming": 0, "done": 7, "failed": 1, "cancelled": 0},
            "moves": [
                {"id": 12, "slot": 301, "from": "a", "to": "b", "state": "preparing", "error": null,
                 "started_ms": 0, "elapsed_ms": 1_500.0, "pause_ms": null},
                {"id": 11, "slot": 7, "from": null, "to": "c", "state": "failed",
                 "error": "took too long", "started_ms": 1_000, "elapsed_ms": 0.4, "pause_ms": 3.25},
            ],
            "silent": [],
        });
        assert_eq!(
            moves_table(&answer),
            "SLOT  FROM  TO  ID  STATE        TOOK   PAUSE  STARTED               ERROR\n \
             301  a     b   12  preparing   1.5 s       -  -                     -\n   \
             7  -     c   11  failed     400 µs  3.2 ms  1970-01-01 00:00:01Z  took too long\n"
        );
        assert_eq!(
            moves_summary(&answer),
            "1 in progress; recent: 7 done, 1 failed, 0 cancelled; -n shows more"
        );
    }
}
