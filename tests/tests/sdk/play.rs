//! Plays scripts to a service of a node.

use crate::suite::{COUNTER, Suite};
use anyhow::{Context, bail, ensure};
use hyper::Method;
use serde_json::{Value, json};
use slotd_core::{
    error::Rejection,
    script::{self, Call, Event, Observed, Outcome, Step},
};
use slotd_tests::{
    api::{Api, Ephemeral, Message, Session, session_path},
    http::Answer,
    sse::Sse,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// For something that must come.
const SOON: Duration = Duration::from_secs(60);

/// The scripts of a folder of `tests/conformance`.
pub fn files(folder: &str) -> anyhow::Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(folder);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<_> =
        entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    files.sort();
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files)
}

/// Every script for a plugin; tells of every line that went otherwise.
pub async fn scripts(suite: &Suite, service: &str) -> anyhow::Result<()> {
    let api = suite.node.api();
    let mut wrong = Vec::new();
    for file in files(service)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let steps = script::parse(&fs::read_to_string(&file)?);
        for step in steps.map_err(|why| anyhow::anyhow!("{name}, {why}"))? {
            let place = format!("{service}/{name}:{}: {step}", step.line);
            let differences = match run(&api, service, &step).await {
                Ok(observed) => step.expect.differences(&observed),
                Err(error) => vec![format!("{error:#}")],
            };
            if !differences.is_empty() {
                wrong.push(format!("{place}\n    {}", differences.join("\n    ")));
            }
        }
    }
    ensure!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
    Ok(())
}

async fn run(api: &Api, service: &str, step: &Step) -> anyhow::Result<Observed> {
    let session = &step.session;
    ensure!(step.given.is_empty(), "a node can't be given a state");
    ensure!(!step.expect.sets_timers(), "a node does not tell which timers a message set");
    ensure!(!step.expect.expires(), "a node does not tell when a session expires");
    ensure!(!step.expect.sends(), "a node does not tell what a message sent");
    ensure!(!step.expect.requests(), "a node does not tell which requests a message made");
    ensure!(!step.expect.closes(), "a node does not tell whether a session is closed");
    let before = describe(api, service, session).await?;
    let mut watching = match step.expect.is_notified() {
        true => Some(api.events(service, session, None, None).await?),
        false => None,
    };
    let answer = match step.call.clone() {
        Call::Message { client: Some(_), .. } | Call::Query { client: Some(_), .. } => {
            bail!("a node says itself who its clients are")
        }
        Call::Message { sender, id, content_type, body, .. } => {
            let message = Message { body, content_type: Some(content_type), key: id, sender };
            api.post(service, session, message).await?
        }
        Call::Query { content_type, body, .. } => {
            let path = session_path(service, session) + "/query";
            let headers = [("content-type", content_type.as_str())];
            api.client.request(Method::POST, &path, &headers, body).await?
        }
        Call::Migrate { .. } | Call::Swap { .. } => bail!("a node migrates by itself"),
        Call::Timer { .. } | Call::Advance { .. } => bail!("a node has timers and a clock"),
        Call::Delivery { .. } | Call::Answer { .. } => bail!("a node has other sessions"),
        Call::Http(_) | Call::Presence { .. } => bail!("a node has servers and subscribers"),
    };
    let outcome = outcome(&answer)?;
    let after = describe(api, service, session).await?;
    let seq = after.as_ref().map_or(0, |session| session.seq);
    let succeeded = matches!(outcome, Outcome::Reply { .. });
    let mut events = Vec::new();
    match &step.call {
        Call::Message { .. } if succeeded => events = events_of(api, service, session, seq).await?,
        // Nothing else may change anything.
        _ => ensure!(before == after, "the session was {before:?} and is {after:?}"),
    }
    let notified = match &mut watching {
        Some(stream) => notified(api, service, session, stream).await?,
        None => Vec::new(),
    };
    let mut state = BTreeMap::new();
    for key in step.expect.keys() {
        state.insert(key.to_owned(), value(api, service, session, key).await?);
    }
    Ok(Observed {
        outcome,
        seq,
        expires_ms: None,
        time_ms: step.time_ms,
        events,
        notified,
        timers: Vec::new(),
        sent: Vec::new(),
        requests: Vec::new(),
        closed: false,
        fired: Vec::new(),
        state,
        unlike: Vec::new(),
    })
}

pub async fn describe(api: &Api, service: &str, session: &str) -> anyhow::Result<Option<Session>> {
    let answer = api.client.get(&session_path(service, session)).await?;
    match answer.status {
        404 => Ok(None),
        _ => Ok(Some(answer.success()?.json()?)),
    }
}

/// What an answer says of the call.
fn outcome(answer: &Answer) -> anyhow::Result<Outcome> {
    if answer.status == 200 {
        let content_type = answer.header("content-type").unwrap_or_default().to_owned();
        return Ok(Outcome::Reply { content_type, body: answer.body.clone() });
    }
    let problem = answer.problem()?;
    Ok(match (problem.status, problem.code.as_str()) {
        (422, "rejected") => {
            #[derive(serde::Deserialize)]
            struct Given {
                code: String,
                message: String,
                retriable: bool,
            }
            let given = problem.more.get("rejection").context("a rejection without itself")?;
            let Given { code, message, retriable } = serde_json::from_value(given.clone())?;
            Outcome::Rejected(Rejection { code, message, retriable })
        }
        (500, "plugin-trapped") => Outcome::Trapped(problem.detail),
        (500, "plugin-limit") => Outcome::Limit(problem.detail),
        (504, "plugin-deadline") => Outcome::Deadline,
        (status, code) => bail!("{status} {code}: {}", problem.detail),
    })
}

/// What the message emitted, as history has it.
async fn events_of(
    api: &Api,
    service: &str,
    session: &str,
    seq: u64,
) -> anyhow::Result<Vec<Event>> {
    let page = api.history(service, session, seq - 1, 1).await?;
    let entry = page.entries.first().context("the message is not in history")?;
    let event = |event: &slotd_tests::api::Event| {
        let body = match (&event.body, &event.body_base64) {
            (_, Some(_)) => bail!("an event that is neither JSON nor text"),
            (Some(Value::String(text)), _) if event.content_type.starts_with("text/") => {
                text.clone()
            }
            (value, None) => value.clone().unwrap_or_default().to_string(),
        };
        let (kind, content_type) = (event.kind.clone(), event.content_type.clone());
        Ok(Event { kind, content_type, body: body.into() })
    };
    entry.events.iter().map(event).collect()
}

/// The ephemeral events of a session up to now, which come after what its last message emitted: one of this
/// client's own ends them.
async fn notified(
    api: &Api,
    service: &str,
    session: &str,
    stream: &mut Sse,
) -> anyhow::Result<Vec<Event>> {
    const END: &str = "end-of-the-step";
    api.notify(service, session, END, Message::json(&Value::Null)).await?.success()?;
    let mut found = Vec::new();
    loop {
        let next = tokio::time::timeout(SOON, stream.next()).await.context("no event in time")?;
        let event = next?.context("the stream ended")?;
        if event.id.is_some() {
            ensure!(found.is_empty(), "{event:?} comes after an ephemeral event");
            continue;
        }
        let told: Ephemeral = event.json()?;
        ensure!(told.ephemeral == Some(true), "{event:?}");
        if told.kind == END && told.origin == "client" {
            return Ok(found);
        }
        ensure!(told.origin == "handler" && told.sender.is_none(), "{told:?}");
        ensure!(told.body_base64.is_none(), "an event that is neither JSON nor text");
        let body = told.body.unwrap_or_default().to_string().into();
        found.push(Event { kind: told.kind, content_type: told.content_type, body });
    }
}

/// What is under a key, as the plugin's query says.
async fn value(
    api: &Api,
    service: &str,
    session: &str,
    key: &str,
) -> anyhow::Result<Option<bytes::Bytes>> {
    if service == COUNTER {
        ensure!(key == "count", "the counter tells of nothing but its count");
        return Ok(Some(api.query(service, session, &json!({})).await?.to_string().into()));
    }
    let given = api.query(service, session, &json!({"op": "get-bytes", "key": key})).await?;
    match &given["hex"] {
        Value::Null => Ok(None),
        Value::String(hex) => Ok(Some(from_hex(hex)?.into())),
        other => bail!("get-bytes says {other}"),
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(hex: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(hex.is_ascii() && hex.len().is_multiple_of(2), "{hex:?} is not hexadecimal");
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16);
    Ok((0..hex.len()).step_by(2).map(byte).collect::<Result<_, _>>()?)
}
