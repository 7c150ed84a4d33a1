//! `slotd service`.

use super::{
    admin::{SENDER, deployments_of, service_path},
    args::ServiceRm,
    client::{Client, operator},
    exit::{CliError, Exit},
    json::Json,
    output::{self, list, number, text},
};
use crate::limits;
use bytes::Bytes;
use http::Method;
use std::io::{self, BufRead as _, IsTerminal as _};
use tokio::time::sleep;

/// A longer typed name can't be right and is not read.
const TYPED_BYTES_MAX: u64 = 1024;

pub async fn remove(args: ServiceRm, json: bool) -> Result<(), CliError> {
    let client = args.admin.client_waiting(limits::CLIENT_DEPLOY_TIMEOUT)?;
    let service = &args.service;
    if !args.yes {
        ask(&client, service).await?;
    }
    let removed = removed(&client, service).await?;
    if json {
        return output::line(&removed.to_string());
    }
    let deleted = output::count(number(&removed, "deleted") as usize, "session");
    output::line(&format!("{service} is removed: {deleted} deleted"))
}

/// Lists what would be removed, and asks for the service's name.
async fn ask(client: &Client, service: &str) -> Result<(), CliError> {
    let answer = deployments_of(client, service).await?;
    let deployments = list(&answer, "deployments");
    let sessions: f64 = deployments.iter().map(|line| number(line, "sessions")).sum();
    let there = format!(
        "{service}: {}, {}",
        output::count(sessions as usize, "session"),
        output::count(deployments.len(), "deployment"),
    );
    if !io::stdin().is_terminal() {
        return Err(CliError::usage(format!(
            "{there}: removing a service deletes all of it; pass --yes to confirm"
        )));
    }
    output::complain(&format!("{there}. All of it will be deleted permanently."));
    output::complain(&format!("Type {service} to continue:"));
    let mut typed = String::new();
    let mut stdin = io::Read::take(io::stdin().lock(), TYPED_BYTES_MAX);
    stdin
        .read_line(&mut typed)
        .map_err(|error| CliError::failure(format!("can't read the input: {error}")))?;
    match typed.trim() == service {
        true => Ok(()),
        false => Err(CliError::failure("the name does not match; nothing was removed")),
    }
}

/// Removes it, and waits until its sessions are gone.
async fn removed(client: &Client, service: &str) -> Result<Json, CliError> {
    let by = operator("--by", None)?;
    let headers = [(SENDER, by.as_str())];
    let path = service_path(service, "")?;
    let until = crate::clock::timer_now() + client.timeout();
    let mut shown = 0;
    loop {
        let answer = client.request(Method::DELETE, &path, &headers, Bytes::new()).await?.json()?;
        if answer["done"].as_bool() != Some(false) {
            return Ok(answer);
        }
        let deleted = number(&answer, "deleted") as usize;
        if deleted > shown {
            shown = deleted;
            output::complain(&format!("{} deleted so far", output::count(deleted, "session")));
        }
        if crate::clock::timer_now() > until {
            return Err(CliError::new(
                Exit::Unreachable,
                format!(
                    "{service} is removed, and {} of its sessions are deleted; the rest is \
                     deleted in the background. Run the command again to see the progress",
                    text(&answer, "deleted")
                ),
            ));
        }
        sleep(limits::CLIENT_LOOK).await;
    }
}
