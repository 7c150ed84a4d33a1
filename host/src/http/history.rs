//! Reading a session's messages back.

use super::{
    Api,
    access::Who,
    messages::reading,
    params::{self, Query, invalid},
    problem::Failed,
    views::{HistoryPage, json, page_bytes},
};
use crate::{
    buffers::Kind,
    limits,
    node::{Cursor, Range, ReadBy},
    operation::ReadHistory,
};
use axum::{Extension, body::Body, extract::State};
use http::{Response, Uri};
use std::sync::Arc;

/// Reads a session's messages
///
/// In order, each with its reply and events, a page at a time: after a position or sequence number
/// (`after`, `limit`), or the last few (`tail`). A page also ends early when it is large:
/// `next_after` is set if there is a next page, and `position` is where it begins. A large `tail`
/// page begins later instead. A position of a deleted session of that name gets 410
/// `position-gone`, never the entries of its successor. A plain sequence number gets it too, as long
/// as the node remembers that the session was deleted and created again.
#[utoipa::path(
    get,
    operation_id = "history",
    path = "/v1/services/{service}/sessions/{session}/messages",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("after" = Option<String>, Query, description = "Only entries after this position from slotd (such as a page's `position`) or message number; default 0: from the beginning"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of entries; default 100"),
        ("tail" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The last entries, as many as fit on one page; can't be combined with `after` or `limit`"),
        ("consistency" = Option<String>, Query, description = "`current` (default): includes everything acknowledged before the request; `local`: what the slot's node knows right now, which may be stale in a cluster"),
    ),
    responses((status = 200, description = "A page", body = HistoryPage, content_type = "application/json"))
)]
pub(super) async fn get(
    State(api): State<Api>,
    Extension(who): Extension<Arc<Who>>,
    uri: Uri,
) -> Result<Response<Body>, Failed> {
    let key = params::session_of(&uri)?;
    let query = Query::parse(&uri, &["after", "limit", "tail", "consistency"])?;
    let after = query.get("after");
    let after = after.map(|t| Cursor::parse(t, "query parameter \"after\"")).transpose()?;
    let after = after.unwrap_or(Cursor::START);
    let range = match query.page_size("tail")? {
        Some(_) if query.get("after").is_some() || query.get("limit").is_some() => {
            return Err(invalid("query parameter \"tail\" excludes \"after\" and \"limit\"").into());
        }
        Some(limit) => Range::Tail { limit },
        None => Range::After { seq: after.after_message(), limit: query.limit()? },
    };
    let consistency = query.consistency()?;
    // Checked before the page is read and encoded, which costs more than refusing.
    api.buffers().check(Kind::Answers, limits::PAGE_BYTES_MAX)?;
    let reader = ReadBy::Client;
    let read = ReadHistory { key: key.clone(), range, reader, consistency };
    let history = reading(&api, api.backend().history(read)).await?;
    if !after.belongs_to(history.incarnation, history.made_again) {
        return Err(after.gone(&key, history.incarnation).into());
    }
    // A page from another node has not been checked yet.
    api.buffers().check(Kind::Answers, 0)?;
    let page = json(&HistoryPage::new(&history, after.after_message()));
    api.backend().sent(&key.service, who.client(), page_bytes(&page));
    Ok(page)
}
