//! What was used, as it is reported.

use crate::{
    cluster::reports::SilentNode,
    names::ServiceName,
    node::UsageReport,
    quota::usage::{Amounts, Date, Row, Who},
};
use serde::Serialize;
use utoipa::ToSchema;

/// What was used over all nodes.
#[derive(Serialize, ToSchema)]
pub struct UsageView {
    /// The first day and the last that were asked for, in UTC.
    pub since: String,
    pub until: String,
    /// In the order of services, then of days or subjects.
    pub rows: Vec<UsageRow>,
    /// What services have stored now.
    pub stored: Vec<StoredView>,
    /// Nodes whose numbers are missing, all or in part, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<SilentNode>,
}

#[derive(Serialize, ToSchema)]
pub struct UsageRow {
    /// `*`: services for which there was no place.
    pub service: String,
    /// Only by day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Only by subject: `KIND:SUBJECT`, as identities are shown elsewhere. Absent for what belongs to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The sum of all subjects for which there was no place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
    /// That were applied, also those of timers and other sessions.
    pub messages: u64,
    /// Messages that a limit has refused.
    pub refused: u64,
    /// How long handlers have run, also for queries and for what they refused.
    pub guest_time_ns: u64,
    /// Bodies of messages and queries.
    pub bytes_in: u64,
    /// Bodies of replies and events, to each subscriber, and pages.
    pub bytes_sent: u64,
    /// What was stored on the last of the days.
    pub stored_bytes: u64,
    /// Stored bytes times the seconds that they were stored.
    pub stored_byte_seconds: u64,
}

#[derive(Serialize, ToSchema)]
pub struct StoredView {
    #[schema(value_type = String)]
    pub service: ServiceName,
    pub sessions: u64,
    /// Of state, history and idempotency keys, before they are compressed.
    pub bytes: u64,
}

impl UsageView {
    pub fn new(report: UsageReport, since: Date, until: Date) -> Self {
        let UsageReport { rows, stored, silent } = report;
        let stored = stored.into_iter().map(|(service, sum)| StoredView {
            service,
            sessions: sum.all.sessions,
            bytes: sum.all.bytes,
        });
        Self {
            since: since.to_string(),
            until: until.to_string(),
            rows: rows.into_iter().map(Into::into).collect(),
            stored: stored.collect(),
            silent,
        }
    }
}

impl From<Row> for UsageRow {
    fn from(Row { of, amounts }: Row) -> Self {
        let Amounts {
            messages,
            refused,
            guest_time_ns,
            bytes_in,
            bytes_sent,
            stored_bytes,
            stored_byte_seconds,
        } = amounts;
        let others = of.who == Some(Who::Other);
        let subject = match of.who {
            Some(Who::Subject(name)) => Some(name.into()),
            _ => None,
        };
        Self {
            service: of.service.into(),
            day: of.day.map(|day| day.to_string()),
            subject,
            others,
            messages,
            refused,
            guest_time_ns,
            bytes_in,
            bytes_sent,
            stored_bytes,
            stored_byte_seconds,
        }
    }
}
