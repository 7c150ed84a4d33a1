//! Tokens for one session, which slotd mints for who may give them away.

use super::{
    super::{
        Api,
        messages::Deadline,
        params::{self, invalid},
        problem::Failed,
        views::json,
    },
    Who, body, counted, error_of, ttl,
};
use crate::{clock::now_ms, error::Error};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
};
use http::Response;
use serde::{Deserialize, Serialize};
use slotd_access::{Scope, Verb, limits};
use std::sync::Arc;
use utoipa::ToSchema;

/// A token to mint.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MintRequest {
    /// What it may do with the session: verbs of the API (`send`, `query`, `read`, `subscribe`, `notify`, `delete`).
    #[schema(value_type = Vec<String>, example = json!(["send", "read", "subscribe"]))]
    verbs: Vec<String>,
    /// Who it is for, 1 to 256 bytes.
    subject: Option<String>,
    /// What handlers see besides: texts, numbers, booleans, lists of texts.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    claims: serde_json::Map<String, serde_json::Value>,
    /// How long it is valid, `1s` to `1d`; default `10m`. It never outlives the token that it is minted with.
    #[schema(example = "10m")]
    ttl: Option<String>,
}

/// A minted token.
#[derive(Serialize, ToSchema)]
pub struct Minted {
    token: String,
    /// Milliseconds since the Unix epoch.
    expires_ms: u64,
}

/// Mints a token for this session
///
/// For a page or a device: a bearer token that may do these things with this session and nothing else. Nobody can mint
/// what they may not do. It ends at its time, or when the named token that it was minted with is revoked.
#[utoipa::path(
    post,
    operation_id = "mint_token",
    path = "/v1/services/{service}/sessions/{session}/token",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
    ),
    request_body(content = MintRequest, content_type = "application/json"),
    responses((status = 200, description = "The token", body = Minted, content_type = "application/json"))
)]
pub(in super::super) async fn post(
    State(api): State<Api>,
    Extension(who): Extension<Arc<Who>>,
    request: Request,
) -> Result<Response<Body>, Failed> {
    let (head, sent) = request.into_parts();
    let key = params::session_of(&head.uri)?;
    params::no_query(&head.uri)?;
    let deadline = Deadline::after(api.options().request_deadline);
    let asked: MintRequest = body(sent, api.buffers(), &deadline).await?;
    let verbs: Vec<Verb> =
        asked.verbs.iter().map(|verb| api_verb(verb)).collect::<Result<_, _>>()?;
    let ttl = ttl(asked.ttl.as_deref(), limits::MINTED_TTL_MIN, limits::MINTED_TTL_MAX)?;
    let ttl = ttl.unwrap_or(limits::MINTED_TTL_DEFAULT);
    let scope = Scope {
        service: key.service.as_str().to_owned(),
        session: key.session.as_str().to_owned(),
        verbs,
    };
    let subject = asked.subject.as_deref();
    let access = api.gate().access();
    let minted = access.mint(who.identity(), scope, subject, &asked.claims, ttl, now_ms());
    let (token, expires_ms) = minted.map_err(|refused| counted(error_of(&refused)))?;
    Ok(json(&Minted { token, expires_ms }))
}

fn api_verb(text: &str) -> Result<Verb, Error> {
    match text.parse::<Verb>() {
        Ok(verb) if !verb.is_admin() => Ok(verb),
        _ => Err(invalid(format!("{text:?} in \"verbs\" is not a verb of the API"))),
    }
}
