//! Reading a session's messages back.

use super::{
    Api,
    messages::reading,
    params::{self, Query, invalid},
    views::{HistoryPage, json},
};
use crate::{buffers::Kind, error::Error, limits, node::Range};
use axum::{body::Body, extract::State};
use http::{Response, Uri};

/// Reads a session's messages
///
/// In order, each with its reply and events, a page at a time: after a sequence number (`after`,
/// `limit`), or the last few (`tail`). A page also ends early when it is large; `next_after` says
/// where the next begins. A large page of the last begins late instead.
#[utoipa::path(
    get,
    path = "/v1/services/{service}/sessions/{session}/messages",
    tag = "sessions",
    params(
        ("service" = String, Path, description = "The service"),
        ("session" = String, Path, description = "The session's id, percent-encoded"),
        ("after" = Option<u64>, Query, description = "Entries with a greater sequence number; default 0"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Entries at most; default 100"),
        ("tail" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The last entries, as many as fit one page; not together with the other two"),
        ("consistency" = Option<String>, Query, description = "`current` (default): reflects everything acknowledged before; `local`: what the node that has the slot knows at once, which may be stale in a cluster"),
    ),
    responses((status = 200, description = "A page", body = HistoryPage, content_type = "application/json"))
)]
pub(super) async fn get(State(api): State<Api>, uri: Uri) -> Result<Response<Body>, Error> {
    let key = params::session_of(&uri)?;
    let query = Query::parse(&uri, &["after", "limit", "tail", "consistency"])?;
    let range = match query.page_size("tail")? {
        Some(_) if query.get("after").is_some() || query.get("limit").is_some() => {
            return Err(invalid("query parameter \"tail\" excludes \"after\" and \"limit\""));
        }
        Some(limit) => Range::Tail { limit },
        None => Range::After { seq: query.u64("after")?.unwrap_or(0), limit: query.limit()? },
    };
    let consistency = query.consistency()?;
    // Before it is read and made, which costs more than to say no.
    api.buffers().check(Kind::Answers, limits::PAGE_BYTES_MAX)?;
    let history = reading(&api, api.backend().history(&key, range, consistency)).await?;
    Ok(json(&HistoryPage::new(&history)))
}
