//! What a history says of the client that sent a message.

use crate::message::Client;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Who a client was shown to be.
#[derive(Serialize, ToSchema)]
pub struct ClientView<'a> {
    /// How that was shown: `token`, `session`, `root`, or the name of the issuer of its token.
    pub kind: &'a str,
    /// Who it is among those of its kind; absent: nobody in particular.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// What is said of it besides, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<&'a str, &'a str>,
}

impl<'a> ClientView<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        let Client { kind, subject, claims } = client;
        let claims = claims.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Self { kind, subject: subject.as_deref(), claims: claims.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{effects::Origin, http::views::EntryView, log::record::Entry};
    use bytes::Bytes;
    use serde_json::json;

    /// A reader of a history could not tell who a client was shown to be from what it said of itself, or would take its
    /// message for one of no client.
    #[test]
    fn a_history_shows_who_a_client_was_shown_to_be() {
        let claims = vec![("org".into(), "a,b".into()), ("role".into(), "staff".into())];
        let ann = Client { kind: "accounts".into(), subject: Some("ann".into()), claims };
        let root = Client { kind: "root".into(), subject: None, claims: Vec::new() };
        let shown = |client: Client| {
            let entry = Entry {
                seq: 1,
                id: Some("k".into()),
                sender: Some("zoe".into()),
                time_ms: 5,
                content_type: "text/plain".into(),
                body: Bytes::new(),
                reply_content_type: "text/plain".into(),
                reply: Bytes::new(),
                deployment: 1,
                events: Vec::new(),
                origin: Some(Box::new(Origin::Client(client.into()))),
                caused: Vec::new(),
            };
            serde_json::to_value(EntryView::new(&entry, "1+ab")).unwrap()
        };
        let entry = shown(ann);
        assert_eq!((&entry["sender"], &entry["id"]), (&json!("zoe"), &json!("k")));
        assert!(entry.get("origin").is_none(), "{entry}");
        let claims = json!({"org": "a,b", "role": "staff"});
        let ann = json!({"kind": "accounts", "subject": "ann", "claims": claims});
        assert_eq!(entry["client"], ann);
        assert_eq!(shown(root)["client"], json!({"kind": "root"}));
    }
}
