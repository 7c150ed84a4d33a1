//! Errors as clients see them: `application/problem+json` (RFC 9457), with a stable code.

use crate::error::{Code, Error, Rejection};
use crate::telemetry::metrics;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

pub const CONTENT_TYPE: &str = "application/problem+json";

/// A failed request.
#[derive(Serialize, ToSchema)]
pub struct Problem {
    /// `urn:slotd:error:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:slotd:error:mailbox-full")]
    pub kind: String,
    #[schema(example = "mailbox full")]
    pub title: String,
    #[schema(example = 503)]
    pub status: u16,
    /// Stable; match on it in programs.
    #[schema(example = "mailbox-full")]
    pub code: &'static str,
    /// One sentence for a person.
    pub detail: String,
    /// Whether the same request may succeed later, unchanged.
    pub retriable: bool,
    /// `<version>+<short digest>` of the plugin at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// The handler's own error (code `rejected`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<RejectionView>,
}

/// A handler's rejection of a message.
#[derive(Serialize, ToSchema)]
pub struct RejectionView {
    /// Chosen by the plugin.
    pub code: String,
    pub message: String,
    /// Whether a retry can help, according to the plugin.
    pub retriable: bool,
}

impl From<&Rejection> for RejectionView {
    fn from(r: &Rejection) -> Self {
        Self { code: r.code.clone(), message: r.message.clone(), retriable: r.retriable }
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let code = error.code;
        Self {
            kind: format!("urn:slotd:error:{}", code.as_str()),
            title: code.as_str().replace('-', " "),
            status: code.status(),
            code: code.as_str(),
            detail: error.detail.to_string(),
            retriable: error.rejection.as_ref().map_or(code.retriable(), |r| r.retriable),
            plugin: error.plugin.clone(),
            rejection: error.rejection.as_deref().map(RejectionView::from),
        }
    }
}

/// The answer to a failed request.
pub fn response(error: &Error) -> Response<Bytes> {
    metrics().error(error.code);
    let status =
        StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Only strings and numbers: it can't fail.
    let body = serde_json::to_vec(&Problem::from(error)).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.extensions_mut().insert(error.code);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if status == StatusCode::UNAUTHORIZED {
        headers
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"slotd\""));
    }
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
        && let Some(after) = error.retry_after
    {
        // Whole seconds, and never zero, which would invite a retry storm.
        let seconds = (after.as_nanos().div_ceil(1_000_000_000) as u64).max(1);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(error.code, Code::BodyTooLarge | Code::RequestTimeout) {
        // The rest of the body is not read, so the connection can't be reused.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a handler fails with.
pub(super) struct Failed(Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> axum::response::Response {
        response(&self.0).map(axum::body::Body::from)
    }
}

/// `docs/errors.md`, generated so that it can't drift from the code.
#[cfg(test)]
fn errors_markdown() -> String {
    let mut out = String::from(
        "# Errors\n\n\
         <!-- Generated from host/core/src/error.rs: change it there, then run\n     \
         SLOTD_UPDATE_DOCS=1 cargo test -p slotd --lib docs -->\n\n\
         A failed request is answered with `application/problem+json`:\n\n\
         ```json\n\
         {\n  \"type\": \"urn:slotd:error:plugin-trapped\",\n  \"title\": \"plugin trapped\",\n  \
         \"status\": 500,\n  \"code\": \"plugin-trapped\",\n  \
         \"detail\": \"unreachable executed\",\n  \"retriable\": false,\n  \
         \"plugin\": \"1.0.0+0123456789ab\"\n}\n\
         ```\n\n\
         Programs match on `code`, whose meaning never changes; `detail` is for people. \
         `plugin` names the plugin's version when the plugin is at fault. `rejection` (with the \
         code \
         `rejected`) is the handler's own error: `{code, message, retriable}`. A WebSocket's \
         `error` frame carries the same fields.\n\n\
         *Retriable* means that the same request may succeed later, unchanged. With an \
         `Idempotency-Key` a retry is never applied twice. For `rejected`, the handler decides. \
         Responses with status 503, and `rate-limited`, carry `Retry-After`.\n\n\
         | code | status | retriable | meaning |\n|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let retriable = if code.retriable() { "yes" } else { "no" };
        out.push_str(&format!(
            "| `{}` | {} | {retriable} | {} |\n",
            code.as_str(),
            code.status(),
            code.meaning().trim()
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_current;
    use std::time::Duration;

    /// Without it the table of errors that clients program against drifts from the code.
    #[test]
    fn the_docs_list_the_codes_of_errors() {
        assert_current("errors.md", &errors_markdown());
    }

    /// Without it a client could not distinguish failures, or know when to retry.
    #[test]
    fn a_problem_carries_what_a_program_needs() {
        let mut error = Error::new(Code::MailboxFull, "slot 3 has 1024 messages waiting");
        error.retry_after = Some(Duration::from_millis(1));
        let response = response(&error.with_plugin("1.0.0+abc"));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], CONTENT_TYPE);
        let problem: serde_json::Value =
            serde_json::from_slice(response.body()).expect("the body is JSON");
        assert_eq!(problem["code"], "mailbox-full");
        assert_eq!(problem["type"], "urn:slotd:error:mailbox-full");
        assert_eq!(problem["plugin"], "1.0.0+abc");
        assert_eq!(problem["retriable"], true);
        assert_eq!(problem.get("rejection"), None);
    }

    /// A retriable rejection must not look final because its code's default is.
    #[test]
    fn a_rejection_decides_itself_whether_it_is_retriable() {
        let mut error = Error::new(Code::Rejected, "the room is full");
        error.rejection = Some(Box::new(Rejection {
            code: "room-full".into(),
            message: "the room is full".into(),
            retriable: true,
        }));
        let problem = Problem::from(&error);
        assert!(problem.retriable);
        assert_eq!(problem.rejection.map(|r| r.code).as_deref(), Some("room-full"));
    }

    /// Two codes with one name could not be distinguished.
    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            let name = code.as_str();
            assert!(seen.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            assert!(StatusCode::from_u16(code.status()).is_ok(), "{name}");
        }
    }
}
