//! `slotd capture` and `slotd captures`.

use super::{
    args::{Capture, Captures},
    client::{Client, query},
    exit::CliError,
    json::Json,
    output::{self, list, number, text},
};
use crate::{
    files::{self, For},
    limits,
};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

pub async fn capture(args: Capture, json: bool) -> Result<(), CliError> {
    let client = args.admin.client_waiting(limits::CAPTURE_CLIENT_TIMEOUT)?;
    let path = super::operate::path(&args.service, &args.session, "/captures")?;
    let ask = json!({"seq": args.seq, "redact": args.redact, "component": args.with_component});
    let headers = [("content-type", "application/json")];
    let body = Bytes::from(ask.to_string());
    let answer = client.request(Method::POST, &path, &headers, body).await?;
    let file = answer.body;
    let made: crate::capture::Capture = crate::capture::Capture::parse(&file)
        .map_err(|why| CliError::failure(format!("the node's answer: {why}")))?;
    let out = args.out.unwrap_or_else(|| PathBuf::from(made.file_name()));
    let said = format!("{}, message {}", made.session, made.message.seq);
    write(&out, &file, &said, json)?;
    if made.because.gone {
        output::complain("without what was redacted, something else comes out");
    }
    Ok(())
}

/// `-` is the standard output.
fn write(out: &Path, file: &[u8], said: &str, json: bool) -> Result<(), CliError> {
    let failed = |why: std::io::Error| CliError::failure(format!("{}: {why}", out.display()));
    if out == Path::new("-") {
        let mut stdout = std::io::stdout().lock();
        return stdout.write_all(file).and_then(|()| stdout.flush()).map_err(failed);
    }
    files::replace(out, file, For::Owner).map_err(failed)?;
    match json {
        true => output::line(&json!({"file": out, "bytes": file.len()}).to_string()),
        false => output::line(&output::harmless(
            &format!("{}: {said}\nrun it: slotd plugin replay {0}", out.display()),
            true,
        )),
    }
}

pub async fn captures(args: Captures, json: bool) -> Result<(), CliError> {
    let client = args.admin.client()?;
    if let Some(name) = &args.remove {
        let answer = client.request(Method::DELETE, &path_of(name), &[], Bytes::new()).await?;
        let answer = answer.json()?;
        return match json {
            true => output::line(&answer.to_string()),
            false => output::line(&format!("removed {}", text(&answer, "name"))),
        };
    }
    if let Some(name) = &args.get {
        let answer = client.request(Method::POST, &path_of(name), &[], Bytes::new()).await?;
        let out = args.out.unwrap_or_else(|| format!("{name}.capture.json").into());
        return write(&out, &answer.body, name, json);
    }
    let found = listed(&client, args.service).await?;
    match json {
        true => output::line(&found.to_string()),
        false => output::print(&output::harmless(&table(&found), true)),
    }
}

fn path_of(name: &str) -> String {
    format!("/admin/v1/captures/{}", super::client::encode(name))
}

async fn listed(client: &Client, service: Option<String>) -> Result<Json, CliError> {
    let path = format!("/admin/v1/captures{}", query(&[("service", service)]));
    client.get(&path).await?.json()
}

fn table(found: &Value) -> String {
    let mut out = String::new();
    for one in list(found, "captures") {
        out += &format!(
            "{}  {}/{} message {}, {} on {} ({})\n",
            text(one, "name"),
            text(one, "service"),
            text(one, "session"),
            number(one, "seq"),
            text(one, "version"),
            text(one, "node"),
            output::bytes(number(one, "bytes")),
        );
        let what = text(one, "what");
        if let Some(first) = what.lines().next().filter(|line| !line.is_empty()) {
            out += &format!("    {first}\n");
        }
    }
    if out.is_empty() {
        out += "nothing was captured: no handler has trapped or been late\n";
    }
    for node in list(found, "silent") {
        out += &format!("node {} did not answer: {}\n", text(node, "node"), text(node, "why"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who looks for a fault chooses by what it says.
    #[test]
    fn a_list_names_each_capture_and_what_was_said() {
        let found = json!({
            "captures": [{
                "node": "a", "name": "1-trap-abc-1", "service": "chat", "session": "r", "seq": 4,
                "kind": "trap", "version": "1.4.0", "digest": "abc", "made_ms": 1, "bytes": 900,
                "what": "trapped: unreachable\nbacktrace",
            }],
            "silent": [{"node": "b", "why": "no answer"}],
        });
        assert_eq!(
            table(&found),
            "1-trap-abc-1  chat/r message 4, 1.4.0 on a (900 B)\n    trapped: unreachable\n\
             node b did not answer: no answer\n"
        );
        let nothing = json!({"captures": [], "silent": []});
        assert!(table(&nothing).starts_with("nothing was captured"));
    }
}
