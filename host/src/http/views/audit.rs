//! The audit log as it is listed.

use crate::audit::{Change, Listed, Outcome, Page, RawPage};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditPage {
    /// The oldest first. A page may have fewer than `limit`, even none, while `more` says that there are more.
    pub changes: Vec<AuditChange>,
    /// Pass it as `after` for what comes after this page.
    pub next_after: u64,
    /// Whether there is something after this page now.
    pub more: bool,
}

/// What came of a change: `done`; `refused` (not allowed); `failed` (its code says what that means);
/// `under-way`; `unknown`: it was begun, and the node ended before its outcome was written, so it may
/// have been made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    Done,
    Refused,
    Failed,
    UnderWay,
    Unknown,
}

/// A change: who asked for what, and what came of it.
#[derive(Serialize, ToSchema)]
pub struct AuditChange {
    /// Later changes have higher numbers; some are left out.
    pub number: u64,
    /// Milliseconds since the Unix epoch, by the clock of the node.
    pub at_ms: u64,
    /// The node that was asked.
    pub node: String,
    pub outcome: AuditOutcome,
    /// The identity: `root`, `anyone`, `token:NAME`, `ISSUER:SUBJECT`, `certificate:NAME`; `slotd` for
    /// what happened by itself.
    pub who: String,
    /// The address that the request came from: a proxy's, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The right that it takes: `deploy`, `operate`; `slotd` for what happened by itself.
    pub verb: String,
    /// The method and the route, or the name of what happened by itself.
    pub action: String,
    /// The request's path, without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the path names: service, session, slot, node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subject: BTreeMap<String, String>,
    /// What was asked for, as far as it counts: options, and digests of what was sent.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub asked: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub before: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub after: Map<String, Value>,
    /// The HTTP status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The error's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// So many requests before this one were refused and are not in the log: they showed no token, or
    /// a wrong one, and there were too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

impl From<Page> for AuditPage {
    fn from(page: Page) -> Self {
        let Page { changes, next_after, more } = page;
        Self { changes: changes.into_iter().map(Into::into).collect(), next_after, more }
    }
}

impl From<Listed> for AuditChange {
    fn from(listed: Listed) -> Self {
        let Listed { number, at_ms, node, outcome, change } = listed;
        let Change { who, from, verb, action, path, subject, asked, before, after, .. } = change;
        let outcome = match outcome {
            Outcome::Done => AuditOutcome::Done,
            Outcome::Refused => AuditOutcome::Refused,
            Outcome::Failed => AuditOutcome::Failed,
            Outcome::UnderWay => AuditOutcome::UnderWay,
            Outcome::Unknown => AuditOutcome::Unknown,
        };
        let missed = (change.missed > 0).then_some(change.missed);
        let (status, code) = (change.status, change.code);
        Self {
            number,
            at_ms,
            node,
            outcome,
            who,
            from,
            verb,
            action,
            path,
            subject,
            asked,
            before,
            after,
            status,
            code,
            missed,
        }
    }
}

/// Lines of the audit log as they are stored.
#[derive(Serialize, ToSchema)]
pub struct AuditLines {
    pub lines: Vec<AuditLine>,
    /// Whether there are more.
    pub more: bool,
}

/// A line.
#[derive(Serialize, ToSchema)]
pub struct AuditLine {
    pub number: u64,
    /// Its bytes, of which the hash is made.
    pub line: String,
}

impl From<RawPage> for AuditLines {
    fn from(page: RawPage) -> Self {
        let RawPage { lines, more } = page;
        let lines = lines.into_iter().map(|raw| AuditLine { number: raw.number, line: raw.line });
        Self { lines: lines.collect(), more }
    }
}
