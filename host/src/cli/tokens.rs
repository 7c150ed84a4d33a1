//! `slotd token` and `slotd auth`: named tokens, tokens for one session, and who may do what.

use super::{
    args::{AdminArgs, ApiArgs},
    client::encode,
    exit::CliError,
    json::Json,
    output::{self, Table, list, text, time},
};
use crate::names::SessionKey;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use slotd_access::{Verb, limits};
use std::io::{self, Read as _};

const TOKENS: &str = "/admin/v1/tokens";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[derive(Debug, Subcommand)]
pub enum TokenCmd {
    /// Create a named token, for a backend or a person
    ///
    /// Prints the token, which is stored nowhere and can't be shown again. From the first grant of an API verb on, the
    /// API is closed to whoever has no right to it; the same goes for the admin API and its verbs.
    Create(TokenCreate),
    /// List the named tokens, and what each may do
    List(TokenList),
    /// Revoke a named token, at once on every node
    ///
    /// Its sockets and event streams end, and so does what was minted with it.
    Revoke(TokenRevoke),
    /// Mint a token for one session, for a page or a device
    ///
    /// By the API, with a token (`--token`) that may do what the new one may, and `mint`.
    Mint(TokenMint),
}

#[derive(Debug, Args)]
pub struct TokenCreate {
    /// The token's name: 1 to 64 of a-z, 0-9, - and _
    pub name: String,
    /// What it may do, comma-separated: send, query, read, subscribe, notify, delete, fork, mint, admin-read, deploy,
    /// operate; `*`: all of the API, `admin-*`: all of the admin API
    #[arg(long, value_name = "VERBS", required = true, value_delimiter = ',')]
    pub allow: Vec<String>,
    /// On what, comma-separated: SERVICE, SERVICE/SESSION, with `*` anywhere; `*` for everything
    #[arg(long, value_name = "PATTERNS", required = true, value_delimiter = ',')]
    pub on: Vec<String>,
    /// How long it is valid, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct TokenList {
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct TokenRevoke {
    /// The token's name
    pub name: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Args)]
pub struct TokenMint {
    /// The service's name
    pub service: String,
    /// The session's id
    pub session: String,
    /// What it may do with the session, comma-separated
    #[arg(long, value_name = "VERBS", value_delimiter = ',')]
    #[arg(default_values = ["send", "read", "subscribe"])]
    pub allow: Vec<String>,
    /// Who it is for
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// What handlers see besides: NAME=TEXT; may be repeated
    #[arg(long = "claim", value_name = "NAME=TEXT", value_parser = claim)]
    pub claims: Vec<(String, String)>,
    /// How long it is valid, 1s to 1d [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<String>,
    #[command(flatten)]
    pub api: ApiArgs,
}

fn claim(raw: &str) -> Result<(String, String), String> {
    match raw.split_once('=') {
        Some((name, text)) if !name.is_empty() => Ok((name.to_owned(), text.to_owned())),
        _ => Err("it must be NAME=TEXT".into()),
    }
}

#[derive(Debug, Subcommand)]
pub enum AuthCmd {
    /// Explain whether a token may do something, rule by rule
    Explain(Explain),
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The token; `-` reads it from standard input. Or an identity: anyone, root, token:NAME, ISSUER:SUBJECT,
    /// certificate:NAME
    pub token: String,
    /// What to do: send, query, read, subscribe, notify, delete, fork, mint, admin-read, deploy, operate
    #[arg(value_parser = verb)]
    pub verb: Verb,
    /// On what: SERVICE/SESSION, SERVICE, or `*` for what is of no service
    #[arg(value_name = "PATH")]
    pub on: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

fn verb(raw: &str) -> Result<Verb, String> {
    let names = || Verb::ALL.map(Verb::as_str).join(", ");
    raw.parse().map_err(|_| format!("it must be one of {}", names()))
}

pub async fn token(command: TokenCmd, json: bool) -> Result<(), CliError> {
    match command {
        TokenCmd::Create(args) => create(args, json).await,
        TokenCmd::List(args) => show(args, json).await,
        TokenCmd::Revoke(args) => revoke(args, json).await,
        TokenCmd::Mint(args) => mint(args, json).await,
    }
}

async fn create(args: TokenCreate, as_json: bool) -> Result<(), CliError> {
    let TokenCreate { name, allow, on, ttl, admin } = args;
    let body = json!({"name": name, "allow": allow, "on": on, "ttl": ttl}).to_string();
    let answer = admin.client()?.request(Method::POST, TOKENS, &JSON, body.into()).await?.json()?;
    if as_json {
        return output::line(&answer.to_string());
    }
    // Alone on standard output, for a script; the rest is for people.
    output::line(&text(&answer, "token"))?;
    let ends = match answer["expires_ms"].is_null() {
        true => "until it is revoked".to_owned(),
        false => format!("until {}", time(&answer, "expires_ms")),
    };
    output::complain(&format!("{name} is valid {ends}. This token is not shown again: keep it."));
    Ok(())
}

async fn show(args: TokenList, as_json: bool) -> Result<(), CliError> {
    let answer = args.admin.client()?.get(TOKENS).await?.json()?;
    if as_json {
        return output::line(&answer.to_string());
    }
    let tokens = list(&answer, "tokens");
    if tokens.is_empty() {
        return output::line(
            "There are no tokens yet. Try: slotd token create NAME --allow VERBS --on PATTERNS",
        );
    }
    let mut table = Table::new(&["NAME", "MAY", "ON", "CREATED", "BY", "UNTIL"]);
    let joined = |value: &Value| {
        let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.collect::<Vec<_>>().join(",")
    };
    for token in tokens {
        let until = match token["expires_ms"].is_null() {
            true => "no end".to_owned(),
            false => time(token, "expires_ms"),
        };
        for (index, grant) in list(token, "grants").iter().enumerate() {
            let (may, on) = (joined(&grant["allow"]), joined(&grant["on"]));
            match index {
                0 => table.row([
                    text(token, "name"),
                    may,
                    on,
                    time(token, "created_ms"),
                    text(token, "by"),
                    until.clone(),
                ]),
                _ => table.row([String::new(), may, on]),
            }
        }
    }
    output::print(&table.render())
}

async fn revoke(args: TokenRevoke, as_json: bool) -> Result<(), CliError> {
    let path = format!("{TOKENS}/{}", encode(&args.name));
    let client = args.admin.client()?;
    let answer = client.request(Method::DELETE, &path, &[], Bytes::new()).await?.json()?;
    match as_json {
        true => output::line(&answer.to_string()),
        false => output::line(&format!("{} is revoked", args.name)),
    }
}

async fn mint(args: TokenMint, as_json: bool) -> Result<(), CliError> {
    let TokenMint { service, session, allow, subject, claims, ttl, api } = args;
    let key = SessionKey::parse(&service, &session)?;
    let (service, session) = (encode(key.service.as_str()), encode(key.session.as_str()));
    let path = format!("/v1/services/{service}/sessions/{session}/token");
    let claims: Map<String, Value> =
        claims.into_iter().map(|(name, text)| (name, text.into())).collect();
    let body = json!({"verbs": allow, "subject": subject, "claims": claims, "ttl": ttl});
    let client = api.client()?;
    let answer =
        client.request(Method::POST, &path, &JSON, body.to_string().into()).await?.json()?;
    if as_json {
        return output::line(&answer.to_string());
    }
    output::line(&text(&answer, "token"))?;
    output::complain(&format!("valid until {}", time(&answer, "expires_ms")));
    Ok(())
}

pub async fn auth(command: AuthCmd, as_json: bool) -> Result<(), CliError> {
    let AuthCmd::Explain(Explain { token, verb, on, admin }) = command;
    let mut asked = json!({"verb": verb, "on": on});
    match is_identity(&token) {
        true => asked["identity"] = token.into(),
        false if token == "-" => asked["token"] = from_stdin()?.into(),
        false => asked["token"] = token.into(),
    }
    let path = "/admin/v1/access/explain";
    let client = admin.client()?;
    let body = asked.to_string();
    let answer: Json = client.request(Method::POST, path, &JSON, body.into()).await?.json()?;
    if as_json {
        return output::line(&answer.to_string());
    }
    output::print(&output::harmless(&format!("{}\n", text(&answer, "text")), true))
}

/// A token has no `:` in it, of whatever kind it is.
fn is_identity(text: &str) -> bool {
    text == "anyone" || text == "root" || text.contains(':')
}

fn from_stdin() -> Result<String, CliError> {
    let mut token = String::new();
    let most = limits::BEARER_BYTES_MAX as u64 + 2;
    let read = io::stdin().lock().take(most).read_to_string(&mut token);
    read.map_err(|error| CliError::failure(format!("can't read the token: {error}")))?;
    Ok(token.trim_end_matches(['\r', '\n']).to_owned())
}
