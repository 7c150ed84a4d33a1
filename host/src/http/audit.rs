//! The audit log in the admin API: a line before and after each request that changes something, and
//! the routes that show the log.
//!
//! [`audited`] is around everything, so that what is refused has a line too; [`intended`] is right
//! before the handlers, behind the check of who asks. A route needs to do nothing for its lines. What
//! was before and after, its handler says in the [`Note`] of the request.

use super::{
    Admin,
    access::{Need, Rights},
    connection::ConnShared,
    messages::outcome_unknown,
    params::{self, Query},
    problem::Failed,
    views::{AuditLines, AuditPage, json},
};
use crate::{
    audit::{Begun, Change},
    error::{Code, Error},
    limits,
};
use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::IntoResponse,
};
use http::{Method, Response, StatusCode, Uri, request::Parts};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::Value;
use slotd_access::Verb;
use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

type Answer = Result<Response<Body>, Failed>;

/// What is known of a request that changes something. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Note(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    change: Change,
    /// Somebody in particular asks.
    identified: bool,
    begun: Option<Begun>,
    /// Its intent could not be written, and nothing was done.
    unwritten: bool,
}

impl Note {
    /// Who asks, once that is known: the text of an identity. `identified`: it was shown to be that.
    pub(super) fn is_of(&self, who: impl Into<String>, identified: bool) {
        let mut noted = self.0.lock();
        (noted.change.who, noted.identified) = (who.into(), identified);
    }
    /// A part of what is asked for.
    pub(super) fn asked(&self, name: &str, value: impl Into<Value>) {
        self.0.lock().change.asked.insert(name.to_owned(), value.into());
    }
    /// A part of what was before the change.
    pub(super) fn before(&self, name: &str, value: impl Into<Value>) {
        self.0.lock().change.before.insert(name.to_owned(), value.into());
    }
    /// A part of what is after the change.
    pub(super) fn after(&self, name: &str, value: impl Into<Value>) {
        self.0.lock().change.after.insert(name.to_owned(), value.into());
    }
    /// Fields of an answer that belong into the log, each by its path: `current.digest`. Never those
    /// with what a client or a handler has written, nor with a secret.
    pub(super) fn after_of(&self, answer: &impl Serialize, fields: &[&str]) {
        let Ok(answer) = serde_json::to_value(answer) else { return };
        for path in fields {
            let found = path.split('.').try_fold(&answer, |value, key| value.get(key));
            if let Some(value) = found.filter(|value| !value.is_null()) {
                self.after(path.rsplit('.').next().unwrap_or(path), value.clone());
            }
        }
    }
}

/// That of the request, where it has one; else one that nobody reads.
impl<S: Sync> FromRequestParts<S> for Note {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Around all other checks: writes what came of a request that changes something.
pub(super) async fn audited(
    State((admin, rights)): State<(Admin, Rights)>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let Some(change) = change_of(&request, &rights) else { return next.run(request).await };
    let note = Note(Arc::new(Mutex::new(Noted { change, ..Noted::default() })));
    request.extensions_mut().insert(note.clone());
    // To its end, also when the client has gone: the outcome is written whoever reads the answer.
    let work = crate::task::run(async move {
        let response = next.run(request).await;
        ended(&admin, &note, response).await
    });
    work.await.unwrap_or_else(|_| Failed::from(outcome_unknown()).into_response())
}

async fn ended(admin: &Admin, note: &Note, response: Response<Body>) -> Response<Body> {
    let Some(audit) = admin.audit() else { return response };
    let status = response.status();
    let code = response.extensions().get::<Code>().map(|code| code.as_str().to_owned());
    let (begun, change, identified, unwritten) = {
        let mut noted = note.0.lock();
        (noted.begun.take(), noted.change.clone(), noted.identified, noted.unwritten)
    };
    let change = Change { status: Some(status.as_u16()), code, ..change };
    match begun {
        Some(begun) => {
            let noted = move |begun: &mut Change| {
                *begun = Change { id: std::mem::take(&mut begun.id), ..change };
            };
            match audit.end(begun, noted).await {
                Ok(()) => response,
                Err(error) => {
                    tracing::error!(%error, status = status.as_u16(), "the outcome of a change");
                    Failed::from(error).into_response()
                }
            }
        }
        // The path is a route, this method of it is none.
        None if status == StatusCode::METHOD_NOT_ALLOWED => response,
        None if unwritten => response,
        None => {
            audit.refused(change, identified).await;
            response
        }
    }
}

/// Right before the handlers: nothing is changed before this is durable.
pub(super) async fn intended(
    State(admin): State<Admin>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let note = request.extensions().get::<Note>().cloned();
    if let Some((note, audit)) = note.zip(admin.audit()) {
        let change = note.0.lock().change.clone();
        match audit.begin(change).await {
            Ok(begun) => note.0.lock().begun = Some(begun),
            Err(error) => {
                note.0.lock().unwritten = true;
                return Failed::from(error).into_response();
            }
        }
    }
    next.run(request).await
}

/// `None`: the request changes nothing, whatever becomes of it.
fn change_of(request: &Request, rights: &Rights) -> Option<Change> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    let verb = verb(rights, request.method(), route);
    if verb == Verb::AdminRead {
        return None;
    }
    let path = request.uri().path();
    let connection = request.extensions().get::<Arc<ConnShared>>();
    Some(Change {
        who: "anyone".into(),
        from: connection.and_then(|connection| connection.peer()).map(|peer| peer.to_string()),
        verb: verb.as_str().into(),
        action: format!("{} {route}", request.method()),
        path: Some(path.to_owned()),
        subject: subject(route, path),
        ..Change::default()
    })
}

/// The right that a change takes.
fn verb(rights: &Rights, method: &Method, route: &str) -> Verb {
    match rights.of(route, method) {
        Some(Need::Right(verb, _)) => verb,
        // A method that the route does not take, or of which nothing is said.
        Some(Need::Public | Need::Unknown) | None => Verb::Operate,
    }
}

/// What the path names, by the names in its route.
fn subject(route: &str, path: &str) -> BTreeMap<String, String> {
    let named = route.split('/').zip(path.split('/')).filter_map(|(name, value)| {
        let name = name.strip_prefix('{')?.strip_suffix('}')?;
        Some((name.to_owned(), percent_decode_str(value).decode_utf8_lossy().into_owned()))
    });
    named.collect()
}

/// Lists changes
///
/// Who changed what, from where, and what came of it; the oldest first. Without `after` and `since`:
/// the latest ones. In a cluster, of all nodes. A change that is under way is listed, and listed
/// again, by a later number, when it has ended.
#[utoipa::path(
    get,
    operation_id = "audit_log",
    path = "/admin/v1/audit",
    tag = "admin",
    params(
        ("after" = Option<u64>, Query, description = "Only changes after this number: `next_after` of the page before"),
        ("since" = Option<u64>, Query, description = "Only changes at or after this time, in milliseconds since the Unix epoch; without `after`"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of changes; default 100"),
    ),
    responses((status = 200, description = "A page", body = AuditPage, content_type = "application/json"))
)]
pub(super) async fn list(State(admin): State<Admin>, uri: Uri) -> Answer {
    let query = Query::parse(&uri, &["after", "since", "limit"])?;
    let (after, since) = (query.u64("after")?, query.u64("since")?);
    let limit = query.limit()?;
    if after.is_some() && since.is_some() {
        return Err(params::invalid("give one of \"after\" and \"since\"").into());
    }
    let audit = admin.audit().ok_or_else(no_node)?.clone();
    let page = admin.reading(async move { audit.page(after, since, limit).await }).await?;
    Ok(json(&AuditPage::from(page)))
}

/// Returns lines of the audit log as they are stored
///
/// For `slotd audit-log --verify`: each line carries the SHA-256 of one before it.
#[utoipa::path(
    get,
    operation_id = "audit_lines",
    path = "/admin/v1/audit/lines",
    tag = "admin",
    params(
        ("after" = Option<u64>, Query, description = "Only lines after this number"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The maximum number of lines; default 100"),
    ),
    responses((status = 200, description = "A page", body = AuditLines, content_type = "application/json"))
)]
pub(super) async fn lines(State(admin): State<Admin>, uri: Uri) -> Answer {
    let query = Query::parse(&uri, &["after", "limit"])?;
    let (after, limit) = (query.u64("after")?.unwrap_or(0), query.limit()?);
    let limit = limit.min(limits::AUDIT_CHUNK_LINES);
    let audit = admin.audit().ok_or_else(no_node)?.clone();
    let page = admin.reading(async move { audit.raw(after, limit).await }).await?;
    Ok(json(&AuditLines::from(page)))
}

fn no_node() -> Error {
    Error::new(Code::Unavailable, "no node is running")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_its_path_names() {
        let route = "/admin/v1/services/{service}/sessions/{session}/state";
        let found = subject(route, "/admin/v1/services/chat/sessions/room%2F1/state");
        assert_eq!(found["service"], "chat");
        assert_eq!(found["session"], "room/1");
        assert_eq!(found.len(), 2);
        let (_, _, rights) = super::super::route::admin_routes().split();
        for (method, route, expected) in [
            (Method::POST, "/admin/v1/services/{service}/deploy", "deploy"),
            (Method::DELETE, "/admin/v1/services/{service}", "deploy"),
            (Method::DELETE, "/admin/v1/services/{service}/sessions", "operate"),
            (Method::POST, "/admin/v1/rebalance", "operate"),
        ] {
            assert_eq!(verb(&rights, &method, route).as_str(), expected, "{method} {route}");
        }
    }
}
