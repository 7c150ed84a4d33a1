//! `slotd gate`, and deploys that go through the gate.

mod html;
mod show;

use super::{
    admin::{SENDER, service_path},
    args::{GateArgs, GateMode, GateOf},
    client::{Answer, Client, operator, query},
    exit::{CliError, Exit},
    json::Json,
    output::{self, text},
};
use crate::{clock, limits};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use tokio::time::sleep;

/// A longer answer than yes or no is not read.
const TYPED_BYTES_MAX: u64 = 64;

impl GateArgs {
    /// Whether a person is there to be asked what to do with what differs.
    fn asks(&self, json: bool) -> bool {
        let is_gated = self.gate != Some(GateMode::Off) && !self.dry_run;
        let is_there = io::stdin().is_terminal() && io::stderr().is_terminal();
        is_gated && !self.yes && !json && is_there
    }

    pub fn query(&self, json: bool, force: bool) -> Vec<(&'static str, Option<String>)> {
        let set = |on: bool| on.then(|| "true".to_owned());
        let shown = |number: Option<u64>| number.map(|number| number.to_string());
        let mode = self.gate.map(|mode| match mode {
            GateMode::Strict => "strict",
            GateMode::Report => "report",
            GateMode::Off => "off",
        });
        vec![
            ("gate", mode.map(Into::into)),
            ("accept", (!self.accept.is_empty()).then(|| self.accept.join(","))),
            ("dry_run", set(self.dry_run)),
            ("confirm", set(self.asks(json) && !(force && self.gate.is_none()))),
            ("sessions", shown(self.sessions)),
            ("messages", shown(self.messages)),
            ("seed", shown(self.seed)),
            ("time_ms", shown(self.gate_time.map(clock::milliseconds))),
            ("threads", shown(self.gate_threads)),
        ]
    }
}

pub async fn gate(args: GateOf, json: bool) -> Result<(), CliError> {
    let client = args.admin.client()?;
    let path = service_path(&args.service, "/gate")?;
    let by = operator("--by", None)?;
    let change = async |method| client.request(method, &path, &[(SENDER, &by)], Bytes::new()).await;
    let mut view = match (args.confirm, args.cancel) {
        (true, _) => change(Method::POST).await?.json()?,
        (_, true) => change(Method::DELETE).await?.json()?,
        _ => {
            let path = format!("{path}{}", query(&[("deployment", args.deployment.clone())]));
            client.get(&path).await?.json()?
        }
    };
    if args.wait || args.confirm {
        let mut progress = show::Progress::default();
        while is_running(&view) {
            progress.show(&view);
            sleep(limits::AUDIT_LOOK).await;
            view = client.get(&path).await?.json()?;
        }
        progress.clear();
    }
    if let Some(file) = &args.html {
        std::fs::write(file, html::page(&view)).map_err(|error| {
            CliError::failure(format!("can't write {}: {error}", file.display()))
        })?;
    }
    match json {
        true => output::line(&view.to_string())?,
        false => output::print(&show::report(&view))?,
    }
    match view["verdict"].as_str() {
        Some("stopped" | "aborted") if !args.cancel => Err(is_stopped(&view)),
        _ => Ok(()),
    }
}

fn is_running(view: &Value) -> bool {
    matches!(view["verdict"].as_str(), Some("running" | "switching"))
}

fn has_ended(view: &Value) -> bool {
    matches!(view["verdict"].as_str(), Some("passed" | "deployed" | "stopped" | "aborted"))
}

fn is_stopped(view: &Value) -> CliError {
    let (to, why) = (text(view, "to"), text(view, "why"));
    CliError::new(Exit::Stopped, format!("{to} is not deployed: {why}"))
}

/// The answer to a deploy, once its gate has ended: with how far it is on a terminal, and what it has found.
///
/// # Errors
/// It was stopped, or refused.
pub async fn through(
    client: &Client,
    service: &str,
    asked: impl Future<Output = Result<Answer, CliError>>,
    json: bool,
) -> Result<Json, CliError> {
    let path = service_path(service, "/gate")?;
    let mut progress = show::Progress::default();
    let mut asked = std::pin::pin!(asked);
    let begun = clock::now_ms();
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            () = sleep(limits::AUDIT_LOOK), if progress.is_wanted() => {
                let view = client.get(&path).await.and_then(|answer| answer.json());
                // The one before may be what is known yet, and a node of before knows of none.
                if let Ok(view) = view && !has_ended(&view) {
                    progress.show(&view);
                }
            }
        }
    };
    progress.clear();
    let answer = match answer {
        Ok(answer) => answer.json()?,
        Err(error) => return Err(stopped(client, &path, error, json).await),
    };
    if answer["gate"].is_null() {
        return Ok(answer);
    }
    let mut answer = answer.into_value();
    let mut view = answer["gate"].take();
    let id = view["gate"].clone();
    while !has_ended(&view) {
        if view["verdict"] == "confirming" {
            progress.clear();
            output::complain(show::report(&view).trim_end());
            let method = if is_right()? { Method::POST } else { Method::DELETE };
            let by = operator("--by", None)?;
            let done = client.request(method, &path, &[(SENDER, &by)], Bytes::new()).await?;
            view = done.json()?.into_value();
            continue;
        }
        progress.show(&view);
        sleep(limits::AUDIT_LOOK).await;
        view = client.get(&path).await?.json()?.into_value();
        if view["gate"] != id {
            return Err(CliError::new(
                Exit::Stopped,
                "another deploy of the service has begun meanwhile",
            ));
        }
    }
    progress.clear();
    match view["verdict"].as_str() {
        Some("stopped" | "aborted") => {
            show_stopped(&view, json)?;
            return Err(is_stopped(&view));
        }
        Some("deployed") if answer["changed"].as_bool() != Some(true) => {
            let now = client.get(&service_path(service, "")?).await?.json()?;
            answer["current"] = now["current"].clone();
            answer["swap"] = now["swap"].clone();
            answer["changed"] = true.into();
        }
        _ => {}
    }
    let took = clock::now_ms().saturating_sub(begun);
    if !json {
        let is_confirmed = answer["changed"].as_bool() == Some(true) && progress.is_wanted();
        output::complain(show::brief(&view, took, !is_confirmed).trim_end());
    }
    answer["gate"] = view;
    Ok(answer.into())
}

/// A deploy that was refused: with what was found, if the gate has stopped it.
async fn stopped(client: &Client, path: &str, error: CliError, json: bool) -> CliError {
    let code = error.problem.as_ref().map(|problem| problem["code"].clone());
    if code != Some(json!("gate-stopped")) {
        return error;
    }
    let view = client.get(path).await.and_then(|answer| answer.json());
    if let Ok(view) = view
        && let Err(error) = show_stopped(&view, json)
    {
        return error;
    }
    CliError { exit: Exit::Stopped, ..error }
}

fn show_stopped(view: &Value, json: bool) -> Result<(), CliError> {
    match json {
        true => output::line(&view.to_string()),
        false => output::print(&show::report(view)),
    }
}

/// Asks whether what differs is what the version is deployed for.
fn is_right() -> Result<bool, CliError> {
    output::complain("The versions differ. Deploy it? [y/N]");
    let mut typed = String::new();
    let mut stdin = io::stdin().lock().take(TYPED_BYTES_MAX);
    stdin
        .read_line(&mut typed)
        .map_err(|error| CliError::failure(format!("can't read the input: {error}")))?;
    Ok(matches!(typed.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
