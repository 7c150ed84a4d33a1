//! What a history says of what a message has led to.

use crate::effects::Caused;
use serde::Serialize;
use utoipa::ToSchema;

/// One effect that a message has asked for. What comes of it is another message, of this session or of another one.
#[derive(Default, Serialize, ToSchema)]
pub struct CausedView<'a> {
    /// `timer`: set; `message`: sent to a session; `request`: asked for, over HTTP; `expiry`: of the session; `close`: of
    /// the session; `more`: so many more effects.
    pub kind: &'static str,
    /// Of a timer its name, of a request its id, of a message the name that its outcome comes back under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// Of a timer or an expiry, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// Of a message: `service/session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How many more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

impl<'a> CausedView<'a> {
    pub(super) fn new(caused: &'a Caused) -> Self {
        let of = |kind| Self { kind, ..Self::default() };
        match caused {
            Caused::Timer { name, due_ms } => {
                Self { name: Some(name), due_ms: Some(*due_ms), ..of("timer") }
            }
            Caused::Sent { to, reply } => {
                Self { name: reply.as_deref(), to: Some(to.to_string()), ..of("message") }
            }
            Caused::Request { id } => Self { name: Some(id), ..of("request") },
            Caused::Expires { at_ms } => Self { due_ms: Some(*at_ms), ..of("expiry") },
            Caused::Closed => of("close"),
            Caused::More(count) => Self { count: Some(*count), ..of("more") },
        }
    }
}
