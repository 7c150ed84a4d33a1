//! The admin API on named tokens, and on who may do what.

use super::{
    super::{
        Admin,
        admin::to_its_end,
        audit::Note,
        messages::Deadline,
        params::{self, invalid},
        problem::Failed,
        views::json,
    },
    Gate, Who, body, ttl,
};
use crate::{
    clock::now_ms,
    error::{Code, Error},
    level::{IDENTITY_FROM, Level},
    limits,
};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
};
use http::{Response, Uri};
use serde::{Deserialize, Serialize};
use slotd_access::{Considered, Explanation, Grant, Identity, NamedToken, On, TokenError, Verb};
use std::sync::Arc;
use utoipa::ToSchema;

type Answer = Result<Response<Body>, Failed>;

/// The named tokens.
#[derive(Serialize, ToSchema)]
pub struct TokenList {
    tokens: Vec<TokenView>,
}

/// A named token. What it is itself is kept nowhere.
#[derive(Serialize, ToSchema)]
pub struct TokenView {
    name: String,
    grants: Vec<GrantView>,
    /// Milliseconds since the Unix epoch.
    created_ms: u64,
    /// Milliseconds since the Unix epoch; absent: until it is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    /// Who created it.
    by: String,
}

/// What a token may do.
#[derive(Serialize, ToSchema)]
pub struct GrantView {
    /// Verbs.
    allow: Vec<String>,
    /// Patterns of services and sessions.
    on: Vec<String>,
}

impl From<NamedToken> for TokenView {
    fn from(token: NamedToken) -> Self {
        let NamedToken { name, grants, created_ms, expires_ms, by, .. } = token;
        let grants = grants.into_iter().map(|Grant { allow, on, .. }| GrantView { allow, on });
        Self { name, grants: grants.collect(), created_ms, expires_ms, by }
    }
}

/// A token to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// 1 to 64 of a-z, 0-9, `-` and `_`.
    name: String,
    /// Verbs; `*`: all of the API, `admin-*`: all of the admin API.
    #[schema(example = json!(["send", "read"]))]
    allow: Vec<String>,
    /// Patterns of services and sessions.
    #[schema(example = json!(["chat/room-*"]))]
    on: Vec<String>,
    /// How long it is valid, such as `90d`; default: until it is revoked.
    ttl: Option<String>,
}

/// A created token. It is shown this once.
#[derive(Serialize, ToSchema)]
pub struct TokenCreated {
    name: String,
    token: String,
    /// Milliseconds since the Unix epoch; absent: until it is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

/// A revoked token.
#[derive(Serialize, ToSchema)]
pub struct TokenRevoked {
    name: String,
}

/// Lists the named tokens
#[utoipa::path(
    get,
    operation_id = "tokens",
    path = "/admin/v1/tokens",
    tag = "admin",
    responses((status = 200, description = "The list", body = TokenList, content_type = "application/json"))
)]
pub(in super::super) async fn list(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let tokens = admin.0.options.tokens.all()?.tokens;
    Ok(json(&TokenList { tokens: tokens.into_iter().map(Into::into).collect() }))
}

/// Creates a named token
///
/// The response has the token, which is kept nowhere and can't be shown again. It holds on every node of the cluster.
/// An admin verb can be granted only by who has it for everything.
#[utoipa::path(
    post,
    operation_id = "create_token",
    path = "/admin/v1/tokens",
    tag = "admin",
    request_body(content = TokenRequest, content_type = "application/json"),
    responses((status = 200, description = "The token", body = TokenCreated, content_type = "application/json"))
)]
pub(in super::super) async fn create(
    State(admin): State<Admin>,
    Extension(who): Extension<Arc<Who>>,
    note: Note,
    request: Request,
) -> Answer {
    let (head, sent) = request.into_parts();
    params::no_query(&head.uri)?;
    let deadline = Deadline::after(admin.request_deadline());
    let TokenRequest { name, allow, on, ttl: given } =
        body(sent, &admin.0.options.buffers, &deadline).await?;
    note.asked("name", name.as_str());
    note.asked("allow", allow.clone());
    note.asked("on", on.clone());
    let lives = ttl(given.as_deref(), limits::NAMED_TTL_MIN, limits::NAMED_TTL_MAX)?;
    let now = now_ms();
    let expires_ms = lives.map(|lives| now.saturating_add(lives.as_millis() as u64));
    let grant = Grant { allow, on, ..Grant::default() };
    has_what_it_grants(&admin.0.gate, &who, &name, &grant)?;
    keeps_an_operator(&admin.0.gate, &grant)?;
    if let Ok(node) = admin.node() {
        all_ask_for_tokens(node.level_now())?;
    }
    let (tokens, by) = (admin.0.options.tokens.clone(), who.identity().to_string());
    let created = name.clone();
    let secret = to_its_end(async move {
        let change = move |tokens: &mut slotd_access::Tokens| {
            let made = tokens.create(&name, vec![grant.clone()], &by, now, expires_ms);
            made.map_err(|error| refused(&error))
        };
        tokens.change(change).await
    });
    let token = secret.await?.text().to_owned();
    // Never the token.
    note.after("expires_ms", expires_ms);
    Ok(json(&TokenCreated { name: created, token, expires_ms }))
}

/// A node that does not know of tokens asks nobody for one.
fn all_ask_for_tokens(level: Level) -> Result<(), Error> {
    match level >= IDENTITY_FROM {
        true => Ok(()),
        false => Err(Error::new(
            Code::LevelUnreadable,
            format!(
                "tokens need feature level {IDENTITY_FROM}, and {level} is in force: a node of an earlier version \
                 would ask nobody for them; see `slotd level`"
            ),
        )),
    }
}

fn refused(error: &TokenError) -> Error {
    let code = match error {
        TokenError::Exists => Code::TokenExists,
        TokenError::TooMany => Code::LimitReached,
        TokenError::NoRandomness(_) => Code::Internal,
        _ => Code::RequestInvalid,
    };
    Error::new(code, error.to_string())
}

/// The first admin verb closes the admin API: whoever grants it must not lock himself out.
fn keeps_an_operator(gate: &Gate, grant: &Grant) -> Result<(), Error> {
    let is_admins = grant.verbs().any(Verb::is_admin);
    let operates =
        grant.verbs().any(|verb| verb == Verb::Operate) && grant.on.iter().any(|on| on == "*");
    match is_admins && gate.is_open() && !operates {
        true => Err(Error::new(
            Code::RequestInvalid,
            "this would close the admin API, and nobody could operate it: first create a token with admin-* on \"*\", \
             or set admin.token",
        )),
        false => Ok(()),
    }
}

/// Whoever may create tokens could otherwise give themselves every right.
fn has_what_it_grants(gate: &Gate, who: &Who, name: &str, grant: &Grant) -> Result<(), Error> {
    let granted = grant.verbs().filter(|verb| verb.is_admin());
    // What rules give to a token of this name, it has as well.
    let ruled = gate.access().ruled_of_token(name);
    granted.chain(ruled).try_for_each(|verb| gate.allows(who, verb, On::Nothing)).map_err(|error| {
        let detail =
            format!("a token can't be given an admin verb that you don't have: {}", error.detail);
        Error::new(error.code, detail)
    })
}

/// Revokes a named token
///
/// Holds on every node at once: requests with it get 401, its sockets and event streams end, and so does what was
/// minted with it.
#[utoipa::path(
    delete,
    operation_id = "revoke_token",
    path = "/admin/v1/tokens/{name}",
    tag = "admin",
    params(("name" = String, Path, description = "The token's name")),
    responses((status = 200, description = "The token is revoked", body = TokenRevoked, content_type = "application/json"))
)]
pub(in super::super) async fn revoke(State(admin): State<Admin>, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let name = params::decode(params::segment(&uri, 4), "token's name")?.into_owned();
    let (tokens, revoked) = (admin.0.options.tokens.clone(), name.clone());
    let done = to_its_end(async move {
        let change = move |tokens: &mut slotd_access::Tokens| match tokens.revoke(&name) {
            true => Ok(()),
            false => Err(Error::new(Code::TokenNotFound, format!("no token is named {name:?}"))),
        };
        tokens.change(change).await
    });
    done.await?;
    Ok(json(&TokenRevoked { name: revoked }))
}

/// What to explain: for a token or an identity.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// A bearer token, of whatever kind.
    token: Option<String>,
    /// Or who it would be: `anyone`, `root`, `token:NAME`, `ISSUER:SUBJECT`, `certificate:NAME`.
    identity: Option<String>,
    /// Claims of that identity.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    claims: serde_json::Map<String, serde_json::Value>,
    /// What to do.
    #[schema(example = "send")]
    verb: String,
    /// On what: `SERVICE/SESSION`, `SERVICE/PREFIX*`, `SERVICE`, or `*` for what is of no service.
    #[schema(example = "chat/room-17")]
    on: String,
}

/// Whether somebody may do something, and why.
#[derive(Serialize, ToSchema)]
pub struct ExplainView {
    /// Who it is; absent: the token is not good, and `because` says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    verb: String,
    on: String,
    allowed: bool,
    /// What decided it.
    because: String,
    /// The grants of the token and the rules of the policy, if they had to be looked at.
    rules: Vec<RuleView>,
    /// All of it for a person, of several lines.
    text: String,
}

/// A grant or a rule.
#[derive(Serialize, ToSchema)]
pub struct RuleView {
    rule: String,
    /// In the policy's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Whether it allows it.
    matches: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl From<Explanation> for ExplainView {
    fn from(explained: Explanation) -> Self {
        let text = explained.to_string();
        let Explanation { identity, verb, on, allowed, because, rules } = explained;
        let view = |rule: Considered| {
            let Considered { rule, line, matches, why } = rule;
            RuleView { rule, line, matches, why }
        };
        let rules = rules.into_iter().map(view).collect();
        Self { identity: Some(identity), verb, on, allowed, because, rules, text }
    }
}

/// Explains whether somebody may do something
///
/// With each rule of the policy and each grant of the token, and why it allows it or does not. Changes nothing. Tokens
/// that are asked about are not written to any log.
#[utoipa::path(
    post,
    operation_id = "explain_access",
    path = "/admin/v1/access/explain",
    tag = "admin",
    request_body(content = ExplainRequest, content_type = "application/json"),
    responses((status = 200, description = "The explanation", body = ExplainView, content_type = "application/json"))
)]
pub(in super::super) async fn explain(State(admin): State<Admin>, request: Request) -> Answer {
    let (head, sent) = request.into_parts();
    params::no_query(&head.uri)?;
    let deadline = Deadline::after(admin.request_deadline());
    let ExplainRequest { token, identity, claims, verb, on } =
        body(sent, &admin.0.options.buffers, &deadline).await?;
    let verb: Verb = verb.parse().map_err(|_| invalid(format!("{verb:?} is not a verb")))?;
    let access = admin.0.gate.access();
    let listener = verb.listener();
    let identity = match (token, identity) {
        (Some(token), None) => {
            access.identify_aloud(listener, token.trim().as_bytes(), now_ms()).await
        }
        (None, Some(identity)) if identity == "anyone" => Ok(access.anyone()),
        (None, Some(identity)) => Identity::from_text(&identity, &claims),
        _ => return Err(invalid("give one of \"token\" and \"identity\"").into()),
    };
    let on = On::from_text(&on);
    let identity = match identity {
        Ok(identity) => identity,
        Err(refused) => {
            let (verb, on, because) = (verb.to_string(), on.to_string(), refused.detail);
            let text = format!("nobody may {verb} on {on} with this: {because}");
            let (identity, allowed, rules) = (None, false, Vec::new());
            return Ok(json(&ExplainView { identity, verb, on, allowed, because, rules, text }));
        }
    };
    Ok(json(&ExplainView::from(access.explain(listener, &identity, verb, on))))
}
