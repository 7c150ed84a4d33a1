//! The admin API on sessions: their state, corrections, export and import, bulk deletes.

use super::{
    Admin,
    admin::{change, to_its_end},
    audit::Note,
    messages::{Deadline, outcome_unknown, read_body},
    params::{self, Query, invalid},
    problem::Failed,
    session_file::{Export, Reader, Reading},
    views::{
        Binary, ResetDone, SessionImported, SessionInfo, SessionsDeleted, StateChanged, StateEntry,
        StateView, json,
    },
};
use crate::{
    buffers::{Charge, Kind},
    error::{Code, Error},
    limits,
    names::SessionId,
    node::Cursor,
    operation::Delete,
    operator::{Action, Entered, Operation, StateRange},
    plugin::Digest,
};
use axum::{
    body::Body,
    extract::{Request, State},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri, header};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

type Answer = Result<Response<Body>, Failed>;

/// The operator, for the session's history.
static OPERATOR: HeaderName = HeaderName::from_static("slotd-operator");

/// The version of the format of an operator's history entry.
pub(super) const NOTE_FORMAT: u32 = 1;

/// Who the operator claims to be.
fn operator(headers: &HeaderMap) -> Result<String, Error> {
    let named = params::text(headers, &OPERATOR)?;
    let name = named.unwrap_or("operator");
    params::check_name("the operator's name", name, limits::SENDER_BYTES_MAX)?;
    Ok(name.to_owned())
}

/// Shows a session's state
///
/// Keys and values as the handler keeps them, in order of the keys, a page at a time. Works even if
/// the handler can't read the state.
#[utoipa::path(
    get,
    path = "/admin/v1/services/{service}/sessions/{session}/state",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("prefix" = Option<String>, Query, description = "Only keys that start with this"),
        ("after" = Option<String>, Query, description = "Only keys after this one"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of keys; default 100"),
    ),
    responses((status = 200, description = "A page", body = StateView, content_type = "application/json"))
)]
pub(super) async fn state(State(admin): State<Admin>, uri: Uri) -> Answer {
    let key = params::admin_session_of(&uri)?;
    let query = Query::parse(&uri, &["prefix", "after", "limit"])?;
    let range = StateRange {
        prefix: query.get("prefix").unwrap_or_default().to_owned(),
        after: query.get("after").map(str::to_owned),
        limit: u32::try_from(query.limit()?).unwrap_or(limits::STATE_SCAN_ENTRIES_MAX),
    };
    let page = admin.reading(admin.node()?.session_state(&key, range)).await?;
    let next_after = page.pairs.last().filter(|_| page.more).map(|(key, _)| key.clone());
    let entries = page.pairs.iter().map(|(key, value)| StateEntry::new(key, value)).collect();
    let session = SessionInfo::with_position(page.info);
    Ok(json(&StateView { session, entries, next_after }))
}

/// A correction of a session's state.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StateChanges<'a> {
    /// Each key at most once.
    #[serde(borrow)]
    changes: Vec<StateChange<'a>>,
    /// For the session's history.
    reason: Option<String>,
    /// The session must still be at this position (the state was read with it), or nothing is changed.
    position: Option<String>,
}

/// One of `value`, `value_base64` and `delete`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StateChange<'a> {
    key: String,
    /// JSON, kept byte by byte as written: what the SDKs write and read.
    #[serde(borrow, default, deserialize_with = "super::body::present")]
    #[schema(value_type = Option<serde_json::Value>)]
    value: Option<&'a RawValue>,
    /// Any bytes.
    value_base64: Option<String>,
    #[serde(default)]
    delete: bool,
}

impl StateChange<'_> {
    fn read(self) -> Result<(String, Option<Bytes>), Error> {
        let Self { key, value, value_base64, delete } = self;
        let value = match (value, value_base64, delete) {
            (Some(json), None, false) => Some(Bytes::copy_from_slice(json.get().as_bytes())),
            (None, Some(base64), false) => {
                let bytes = super::body::decode_base64(&base64).ok_or_else(|| {
                    invalid(format!("value_base64 of key {key:?} is not base64 (RFC 4648)"))
                })?;
                Some(bytes.into())
            }
            (None, None, true) => None,
            _ => {
                return Err(invalid(format!(
                    "key {key:?}: give one of \"value\", \"value_base64\" and \"delete\": true"
                )));
            }
        };
        Ok((key, value))
    }
}

/// Corrects a session's state
///
/// All changes are applied, or none. The correction is recorded in the session's history with its
/// own number, the operator's name and the reason. The handler does not run; the next message is
/// handled with the corrected state. With an `Idempotency-Key` the request can be repeated.
#[utoipa::path(
    post,
    path = "/admin/v1/services/{service}/sessions/{session}/state",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("Slotd-Operator" = Option<String>, Header, description = "The operator's name, 1 to 256 bytes, for the session's history; default `operator`"),
        ("Idempotency-Key" = Option<String>, Header, description = "Identifies this correction, 1 to 128 bytes: repeats are applied once"),
    ),
    request_body(content = StateChanges, content_type = "application/json", description = "The changes, up to 4 MiB of keys and values"),
    responses((status = 200, description = "Durable", body = StateChanged, content_type = "application/json"))
)]
pub(super) async fn change_state(
    State(admin): State<Admin>,
    note: Note,
    request: Request,
) -> Answer {
    let (head, body) = request.into_parts();
    let key = params::admin_session_of(&head.uri)?;
    params::no_query(&head.uri)?;
    let (who, id) = (operator(&head.headers)?, params::idempotency_key(&head.headers)?);
    let mut room = Charge::new(&*admin.0.options.buffers, Kind::Bodies);
    let deadline = Deadline::after(admin.request_deadline());
    let late = || {
        Error::new(Code::RequestTimeout, "the request's body did not arrive before the deadline")
    };
    let body = deadline
        .limit(std::pin::pin!(read_body(body, limits::CORRECTION_BYTES_MAX, &mut room)))
        .await;
    let body = body.unwrap_or_else(|| Err(late()))?;
    // Never the values: they are the service's users'.
    note.asked("operator", who.as_str());
    note.asked("body_digest", Digest::of(&body).to_string());
    let given: StateChanges<'_> = serde_json::from_slice(&body)
        .map_err(|e| invalid(format!("the body is not a state correction: {e}")))?;
    let expected = given.position.as_deref();
    let expected = expected.map(|text| Cursor::parse(text, "\"position\"")).transpose()?;
    let changes = given.changes.into_iter().map(StateChange::read);
    let changes: Vec<_> = changes.collect::<Result<_, _>>()?;
    if changes.is_empty() {
        return Err(invalid("\"changes\" is empty: nothing to correct").into());
    }
    let mut keys: Vec<_> = changes.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(format!("key {:?} is given twice", twice[0])).into());
    }
    if let Some(bytes) = given.reason.as_ref().map(String::len)
        && bytes > limits::REASON_BYTES_MAX
    {
        let most = limits::REASON_BYTES_MAX;
        return Err(
            invalid(format!("\"reason\" has {bytes} bytes; it may have up to {most}")).into()
        );
    }
    note.asked("keys", changes.len());
    let entry = entry(&changes, given.reason.as_deref());
    let entered = Entered { changes, note: entry };
    let operation = Operation::new(id.as_deref(), who, expected, Action::Set(entered));
    let node = admin.node()?.clone();
    // Runs to completion even if the client disconnects in the middle of it.
    let done = to_its_end(async move { node.operate(&key, operation).await });
    let sent =
        deadline.limit(std::pin::pin!(done)).await.unwrap_or_else(|| Err(outcome_unknown()))?;
    let position = Cursor::after(sent.seq, sent.incarnation).to_string();
    note.after("seq", sent.seq);
    note.after("replayed", sent.replayed);
    Ok(json(&StateChanged { seq: sent.seq, position, slot: sent.slot, replayed: sent.replayed }))
}

/// What a correction's entry records: the keys, as many as fit.
fn entry(changes: &[(String, Option<Bytes>)], reason: Option<&str>) -> Bytes {
    let mut bytes = 0;
    let named = changes.iter().take_while(|(key, _)| {
        bytes += key.len() + limits::IMPORT_PAIR_BYTES;
        bytes <= limits::NOTE_KEYS_BYTES_MAX
    });
    let named = named.map(|(key, value)| match value {
        Some(value) => json!({"key": key, "bytes": value.len()}),
        None => json!({"key": key, "deleted": true}),
    });
    let named: Vec<_> = named.collect();
    let more = changes.len() - named.len();
    let mut note = json!({
        "format": NOTE_FORMAT, "action": "set", "changes": named, "reason": reason,
    });
    if more > 0 {
        note["more"] = more.into();
    }
    note.to_string().into()
}

/// Exports a session
///
/// As JSON lines: a head with the format's version, the history, the state, and an end line, without
/// which the file is incomplete. The state is a consistent snapshot: if a message arrives meanwhile,
/// the file ends with the reason instead.
#[utoipa::path(
    get,
    operation_id = "export_session",
    path = "/admin/v1/services/{service}/sessions/{session}/export",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("history" = Option<bool>, Query, description = "`false`: leave the history out; default \
            true"),
    ),
    responses((status = 200, description = "The session", body = Binary, content_type = "application/x-ndjson"))
)]
pub(super) async fn export(State(admin): State<Admin>, uri: Uri) -> Answer {
    let key = params::admin_session_of(&uri)?;
    let with_history = Query::parse(&uri, &["history"])?.bool("history")?.unwrap_or(true);
    let node = admin.node()?.clone();
    let export = admin.reading(Export::begin(node, key, with_history)).await?;
    let mut response = Response::new(Body::from_stream(export.lines()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// Imports a session
///
/// The body is an exported file. The session must not exist, unless `replace` is set. Messages keep
/// their numbers; one more entry records the import and who made it (number 1 if the file has no
/// history). A large session is imported in parts and exists from the first part on: if the file
/// turns out to be broken, it is removed, unless it has received a message meanwhile. Entries and
/// state name plugin versions by digest: the version that wrote the state must be among the
/// service's deployments.
#[utoipa::path(
    post,
    operation_id = "import_session",
    path = "/admin/v1/services/{service}/sessions/{session}/import",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded; may differ from the exported one"),
        ("replace" = Option<bool>, Query, description = "`true`: replace an existing session and its history"),
        ("assume_current" = Option<bool>, Query, description = "`true`: if the service never had the version that wrote the state, assume that the current version can read it"),
        ("Slotd-Operator" = Option<String>, Header, description = "The operator's name, 1 to 256 bytes, for the session's history; default `operator`"),
    ),
    request_body(content = Binary, content_type = "application/x-ndjson", description = "The file"),
    responses((status = 200, description = "Durable", body = SessionImported, content_type = "application/json"))
)]
pub(super) async fn import(State(admin): State<Admin>, note: Note, request: Request) -> Answer {
    /// Files that are read concurrently: each may hold a part in memory.
    static IMPORTS: Semaphore = Semaphore::const_new(limits::IMPORTS_MAX);
    let (head, body) = request.into_parts();
    let key = params::admin_session_of(&head.uri)?;
    let query = Query::parse(&head.uri, &["replace", "assume_current"])?;
    let replace = query.bool("replace")?.unwrap_or(false);
    let assume_current = query.bool("assume_current")?.unwrap_or(false);
    let who = operator(&head.headers)?;
    note.asked("operator", who.as_str());
    note.asked("replace", replace);
    note.asked("assume_current", assume_current);
    let node = admin.node()?.clone();
    let Ok(permit) = IMPORTS.try_acquire() else {
        return Err(Error::new(
            Code::MailboxFull,
            format!("{} sessions are being imported already; try again", limits::IMPORTS_MAX),
        )
        .into());
    };
    let body_bytes_max = admin.0.options.body_bytes_max;
    let reader = Reader::new(node, key, who, Reading { replace, assume_current, body_bytes_max });
    // Runs to completion, including the removal of what was imported from a truncated file.
    change(&note, &["seq", "messages", "keys"], async move {
        let _permit = permit;
        reader.import(body).await
    })
    .await
}

/// Deletes sessions by id prefix
///
/// In order of their ids, up to `limit` of them. If `next_after` is set, there may be more: call
/// again with it as `after`. With `dry_run` they are only counted.
#[utoipa::path(
    delete,
    path = "/admin/v1/services/{service}/sessions",
    tag = "admin",
    params(
        ("service" = String, Path, description = "The service"),
        ("prefix" = String, Query, description = "Only ids that start with this; empty: all"),
        ("after" = Option<String>, Query, description = "Only ids after this one"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of sessions; default 100"),
        ("dry_run" = Option<bool>, Query, description = "`true`: only count, delete nothing"),
    ),
    responses((status = 200, description = "The sessions are deleted or counted", body = SessionsDeleted, content_type = "application/json"))
)]
pub(super) async fn delete_sessions(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    let service = params::admin_service_of(&uri)?;
    let query = Query::parse(&uri, &["prefix", "after", "limit", "dry_run"])?;
    let prefix = query.get("prefix").ok_or_else(|| {
        invalid("query parameter \"prefix\" is missing: give it, empty for all sessions")
    })?;
    let after = query.get("after").map(SessionId::parse).transpose()?;
    let (limit, dry_run) = (query.limit()?, query.bool("dry_run")?.unwrap_or(false));
    note.asked("prefix", prefix);
    note.asked("limit", limit);
    note.asked("dry_run", dry_run);
    let node = admin.node()?.clone();
    let listed = node.sessions(&service, prefix, after.as_ref(), limit + 1);
    let mut found = admin.reading(listed).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(|info| info.session.to_string());
    let mut sessions = found.len();
    if !dry_run {
        let keys = found.into_iter().map(|info| info.key());
        let work = async move {
            let deletes = keys.map(|key| {
                let node = node.clone();
                async move {
                    match node.call(Delete { key }).await {
                        Ok(()) => Ok(1),
                        // It was deleted by something else.
                        Err(error) if error.code == Code::SessionNotFound => Ok(0),
                        Err(error) => Err(error),
                    }
                }
            });
            let mut deletes =
                futures_util::stream::iter(deletes).buffer_unordered(limits::DELETES_AT_A_TIME);
            let mut deleted = 0;
            let mut failed = None;
            while let Some(done) = deletes.next().await {
                match done {
                    Ok(n) => deleted += n,
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(deleted), Err)
        };
        // Runs to completion: some are deleted already.
        sessions = to_its_end(work).await?;
    }
    let next_after = last.filter(|_| more);
    note.after("sessions", sessions);
    Ok(json(&SessionsDeleted { sessions, dry_run, next_after }))
}

/// Deletes every session
///
/// For test suites, which call it before each test: deletes every session of every service and
/// notifies the subscribers; deployments stay. Only a single node started with `--resettable` does
/// this; others answer 403.
#[utoipa::path(
    post,
    path = "/admin/v1/reset",
    tag = "admin",
    responses((status = 200, description = "All sessions are deleted", body = ResetDone, content_type = "application/json"))
)]
pub(super) async fn reset(State(admin): State<Admin>, note: Note, uri: Uri) -> Answer {
    params::no_query(&uri)?;
    let node = admin.node()?.clone();
    change(&note, &["slots", "sessions"], async move {
        let (slots, sessions) = node.reset().await?;
        Ok(ResetDone { slots, sessions })
    })
    .await
}
