//! The OpenAPI 3.1 document of both listeners, from the routes as they are registered.

use super::{problem, route, views::EphemeralView};
use crate::{error::Code, limits};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::LazyLock};
use utoipa::{
    OpenApi, PartialSchema as _,
    openapi::{
        self, Content, Ref, RefOr, ResponseBuilder, Schema,
        path::{Operation, Parameter, ParameterIn},
        security::{
            ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        },
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "slotd",
        description = "Send messages to durable sessions; WebAssembly plugins handle them.\n\nThe paths under `/admin` and `/metrics` are on the admin listener, the others on the API listener; `/healthz`, `/readyz` and `/openapi.json` are on both. Every error is `application/problem+json` with a stable `code`: see docs/errors.md.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "sessions", description = "Messages, queries, history and events of sessions"),
        (name = "admin", description = "On the admin listener: plugins, slots, the ring, metrics"),
        (name = "health", description = "On both listeners, without a token"),
    ),
    components(schemas(problem::Problem, EphemeralView)),
)]
struct Document;

/// The document.
pub fn document() -> openapi::OpenApi {
    let mut document = Document::openapi();
    document.merge(route::api_routes().split().1);
    document.merge(route::admin_routes().split().1);
    let components = document.components.get_or_insert_default();
    let bearer = |what: &str| {
        let text = format!(
            "The {what} token, a named token, or a token of an issuer in the policy, unless the listener is open to all"
        );
        SecurityScheme::Http(
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build(),
        )
    };
    components.add_security_scheme("api_token", bearer("API"));
    components.add_security_scheme("admin_token", bearer("admin"));
    components.add_security_scheme(
        "access_token",
        SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::with_description(
            "access_token",
            "As the bearer token, for browsers' EventSource and WebSocket",
        ))),
    );
    let mut content = Content::new(Some(Ref::from_schema_name("Problem")));
    content.example = serde_json::to_value(problem::Problem::from(&crate::error::Error::new(
        crate::error::Code::MailboxFull,
        "slot 3 has 1024 messages waiting",
    )))
    .ok();
    components.responses.insert(
        "Problem".to_owned(),
        ResponseBuilder::new()
            .description("The request failed; see `code`")
            .content(problem::CONTENT_TYPE, content)
            .header("Retry-After", seconds())
            .build()
            .into(),
    );
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("GET", &mut item.get),
            ("POST", &mut item.post),
            ("PUT", &mut item.put),
            ("DELETE", &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    bound(parameter);
                }
            }
            describe_problems(method, path, operation);
            complete(path, operation);
        }
    }
    document
}

fn seconds() -> openapi::Header {
    let mut header = openapi::Header::new(u64::schema());
    header.description = Some("Seconds, with status 503 and the code `rate-limited`".to_owned());
    header
}

fn text(description: &str) -> openapi::Header {
    let mut header = openapi::Header::new(String::schema());
    header.description = Some(description.to_owned());
    header
}

/// The format of names, as `params` and `names` check it. Lengths are bytes there and characters
/// here: what is too long here is too long there.
fn bound(parameter: &mut Parameter) {
    /// Of a slot and two numbers.
    const PLACE_CHARS_MAX: usize = 5 + 1 + 20 + 1 + 20;
    const NO_CONTROLS: &str = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$";
    let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { return };
    let mut text = |pattern: &str, bytes_max: usize| {
        schema.pattern = Some(pattern.to_owned());
        (schema.min_length, schema.max_length) = (Some(1), Some(bytes_max));
    };
    match (&parameter.parameter_in, parameter.name.as_str()) {
        (ParameterIn::Path, "service") => {
            text("^[a-z0-9][a-z0-9._-]*$", limits::SERVICE_NAME_BYTES_MAX);
        }
        (ParameterIn::Path, "session") => text(NO_CONTROLS, limits::SESSION_ID_BYTES_MAX),
        (ParameterIn::Path, "timer") => text(NO_CONTROLS, limits::TIMER_NAME_BYTES_MAX),
        (ParameterIn::Path, "request") => text(NO_CONTROLS, limits::REQUEST_ID_BYTES_MAX),
        (ParameterIn::Path, "message") => text("^[0-9]+-[0-9]+-[0-9]+$", PLACE_CHARS_MAX),
        (ParameterIn::Path, "name") => {
            text("^[a-z0-9][a-z0-9_-]*$", slotd_access::limits::NAME_BYTES_MAX);
        }
        (ParameterIn::Path, "node") => {
            schema.min_length = Some(1);
        }
        (ParameterIn::Path, "audit") => text("^[0-9a-f]{32}$", 32),
        (ParameterIn::Path, "capture") => text("^[0-9a-z-]+$", limits::CAPTURE_NAME_BYTES_MAX),
        (ParameterIn::Path, "slot") => {
            schema.maximum = Some(utoipa::Number::UInt(usize::from(limits::SLOT_COUNT_MAX) - 1));
        }
        (ParameterIn::Header, "Idempotency-Key") => {
            text(NO_CONTROLS, limits::IDEMPOTENCY_KEY_BYTES_MAX);
        }
        (ParameterIn::Header, "Slotd-Sender" | "Slotd-Operator")
        | (ParameterIn::Query, "sender") => {
            text(NO_CONTROLS, limits::SENDER_BYTES_MAX);
        }
        (ParameterIn::Query, "kind") => {
            text("^[^\\s\\u0000-\\u001F\\u007F-\\u009F]+$", limits::EVENT_KIND_BYTES_MAX);
        }
        (ParameterIn::Query, "version") => {
            text("^[A-Za-z0-9._+-]+$", limits::PLUGIN_VERSION_BYTES_MAX);
        }
        (ParameterIn::Query, "consistency") => {
            schema.enum_values = Some(["current", "local"].map(Into::into).into());
        }
        _ => {}
    }
}

/// The codes that a route can answer with, besides those common to all.
fn codes(method: &str, path: &str) -> Vec<Code> {
    use Code::*;
    const READ: [Code; 8] = [
        BuffersFull,
        NameInvalid,
        ServiceNotFound,
        MailboxFull,
        Unavailable,
        StorageUnavailable,
        Fenced,
        PluginUnavailable,
    ];
    const PLUGIN: [Code; 9] = [
        RequestTimeout,
        BodyTooLarge,
        Rejected,
        PluginTrapped,
        PluginLimit,
        PluginDeadline,
        MemoryFull,
        GuestsBusy,
        SessionNotFound,
    ];
    const CHANGE: [Code; 4] = [NameInvalid, Unavailable, StorageUnavailable, OutcomeUnknown];
    const DEPLOY: [Code; 5] =
        [SwapInProgress, PluginUnavailable, RequestInvalid, ServiceNotFound, SessionsWouldStay];
    let of = |parts: &[&[Code]]| parts.concat();
    let Some(rest) = path.strip_prefix("/v1/services/{service}/sessions") else {
        return match (method, path.trim_start_matches("/admin/v1")) {
            (_, "/readyz") => vec![Unavailable],
            (_, "/healthz" | "/openapi.json" | "/metrics") => vec![],
            (_, "/services") => vec![Unavailable],
            ("POST", "/tokens") => of(&[
                &CHANGE,
                &[TokenExists, LevelUnreadable, LimitReached, BodyTooLarge, RequestTimeout],
            ]),
            ("DELETE", "/tokens/{name}") => of(&[&CHANGE, &[TokenNotFound]]),
            ("GET", "/tokens") => vec![],
            (_, "/access/explain") => vec![BodyTooLarge, RequestTimeout],
            (_, "/services/{service}/deploy") => {
                let refused = [
                    PluginRefused,
                    PluginTooCostly,
                    MemoryFull,
                    BodyTooLarge,
                    SignatureRefused,
                    LevelUnreadable,
                    GateStopped,
                ];
                of(&[&CHANGE, &DEPLOY, &refused, &[RequestTimeout]])
            }
            (_, "/services/{service}/rollback") => {
                of(&[&CHANGE, &DEPLOY, &[NothingToRollBack, DeploymentNotFound, SignatureRefused]])
            }
            ("POST", "/services/{service}/swap") => of(&[&CHANGE, &DEPLOY, &[DeploymentNotFound]]),
            (_, "/services/{service}/gate") => of(&[&CHANGE, &[ServiceNotFound, GateNotFound]]),
            ("POST", "/services/{service}/audits") => of(&[&CHANGE, &READ, &[SessionNotFound]]),
            (_, "/services/{service}/audits/{audit}") => of(&[&CHANGE, &[AuditNotFound]]),
            ("GET", "/captures") => vec![NameInvalid, Unavailable],
            (_, "/captures/{capture}") => of(&[&CHANGE, &[CaptureNotFound]]),
            ("DELETE", "/services/{service}") => of(&[&CHANGE, &[ServiceNotFound, SwapInProgress]]),
            (method, rest) if rest.starts_with("/services/{service}/sessions") => {
                operators(method, rest, &READ, &CHANGE)
            }
            ("GET", rest) if rest.starts_with("/services/{service}") => READ.into(),
            ("GET", "/audit" | "/audit/lines" | "/seal" | "/usage") => {
                vec![Unavailable, StorageUnavailable]
            }
            ("GET", "/slots/{slot}") => vec![SlotNotFound, Unavailable],
            (_, "/slots/{slot}/drain") => {
                of(&[&CHANGE, &[SlotNotFound, NoOtherNode, Fenced, MailboxFull]])
            }
            ("POST", "/level") => of(&[&CHANGE, &[RequestInvalid, LevelUnreadable]]),
            (_, "/nodes/{node}/drain") => of(&[&CHANGE, &[NodeNotFound, NoOtherNode]]),
            ("DELETE", "/nodes/{node}") => of(&[&CHANGE, &[NodeNotFound, NodeAlive]]),
            ("DELETE", "/moves/{node}/{id}") => {
                of(&[&CHANGE, &[NodeNotFound, MoveNotFound, MoveTooLate]])
            }
            ("GET", _) => vec![Unavailable],
            (_, "/reset") => of(&[&CHANGE, &[ResetRefused, MailboxFull]]),
            _ => CHANGE.into(),
        };
    };
    match (method, rest) {
        ("POST", "/{session}/messages") => {
            let plugin = PLUGIN.into_iter().filter(|code| *code != SessionNotFound);
            let plugin: Vec<Code> = plugin.collect();
            let own = [
                IdempotencyConflict,
                OutcomeUnknown,
                SendRefused,
                RequestRefused,
                SessionClosed,
                OutboxFull,
                SendsFull,
                RateLimited,
                QuotaExceeded,
            ];
            of(&[&READ, &plugin, &own])
        }
        ("GET", "/{session}/messages") => of(&[&READ, &[SessionNotFound, PositionGone]]),
        ("POST", "/{session}/query") => of(&[&READ, &PLUGIN, &[RateLimited]]),
        ("POST", "/{session}/notify") => {
            let own = [NotifyRefused, BodyTooLarge, RequestTimeout, LimitReached, RateLimited];
            of(&[&READ, &own])
        }
        ("POST", "/{session}/token") => vec![NameInvalid, BodyTooLarge, RequestTimeout],
        ("DELETE", _) => of(&[&READ, &[SessionNotFound, OutcomeUnknown]]),
        (_, "") => READ.into(),
        (_, "/{session}/events" | "/{session}/socket") => {
            of(&[&READ, &[SessionNotFound, RateLimited]])
        }
        _ => of(&[&READ, &[SessionNotFound]]),
    }
}

/// As [`codes`], for operators' changes to sessions.
fn operators(method: &str, path: &str, read: &[Code], change: &[Code]) -> Vec<Code> {
    use Code::*;
    let own: &[Code] = match (method, path.rsplit('/').next()) {
        ("GET", _) => &[SessionNotFound],
        (_, Some("{timer}" | "{due_ms}" | "{message}" | "{request}" | "{time_ms}" | "retry")) => {
            &[SessionNotFound, TimerNotFound]
        }
        (_, Some("state")) => {
            &[SessionNotFound, SessionChanged, IdempotencyConflict, BodyTooLarge, RequestTimeout]
        }
        (_, Some("captures")) => &[SessionNotFound, BodyTooLarge, RequestTimeout, LimitReached],
        (_, Some("import")) => &[SessionExists, SessionChanged, ShapeUnknown, RequestTimeout],
        _ => &[],
    };
    let change: &[Code] = if method == "GET" { &[] } else { change };
    [read, change, own].concat()
}

/// Lists the statuses of an operation's error responses, with their codes.
fn describe_problems(method: &str, path: &str, operation: &mut Operation) {
    let mut all = codes(method, path);
    // Refused before routing.
    all.extend([Code::RequestInvalid, Code::EncodingUnsupported, Code::TransferUnsupported]);
    all.extend([Code::OriginRefused, Code::Internal]);
    // Probes are answered without a token, and always.
    if operation.security.is_none() {
        all.extend([Code::Unauthorized, Code::TokenExpired, Code::Forbidden]);
        all.extend([Code::LimitReached, Code::Unavailable]);
    }
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in Code::ALL.iter().filter(|code| all.contains(code)) {
        by_status.entry(code.status()).or_default().push(code.as_str());
    }
    for (status, codes) in by_status {
        let description = format!("`code`: {}", codes.join(", "));
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new().description(description);
        let mut response = response.content(problem::CONTENT_TYPE, content);
        if matches!(status, 429 | 503) {
            response = response.header("Retry-After", seconds());
        }
        if status == 429 {
            response = response.header("RateLimit-Policy", text("The limits on messages and bytes (draft-ietf-httpapi-ratelimit-headers); on answers to requests that were let through, too"));
            response = response.header("RateLimit", text("The limit that is nearest to its end, what is left of it (`r`), and the seconds until all of it is there again (`t`)"));
        }
        let status = status.to_string();
        operation.responses.responses.entry(status).or_insert(RefOr::T(response.build()));
    }
}

/// What every operation has: its errors, and who may call it.
fn complete(path: &str, operation: &mut Operation) {
    operation
        .responses
        .responses
        .insert("default".to_owned(), RefOr::Ref(Ref::from_response_name("Problem")));
    if operation.security.is_some() {
        return;
    }
    let scheme = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    let mut allowed = vec![SecurityRequirement::default()];
    if path.starts_with("/admin") || path == "/metrics" {
        allowed.push(scheme("admin_token"));
    } else {
        allowed.push(scheme("api_token"));
        if path.ends_with("/events") || path.ends_with("/socket") {
            allowed.push(scheme("access_token"));
        }
    }
    operation.security = Some(allowed);
}

/// The document as JSON; created once.
pub fn document_json() -> Bytes {
    static JSON: LazyLock<Bytes> = LazyLock::new(|| {
        let json = document().to_pretty_json().unwrap_or_default();
        // utoipa's own names for the formats of uint8 to uint64.
        json.replace("\"format\": \"u-int", "\"format\": \"uint").into()
    });
    JSON.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn json() -> Value {
        serde_json::from_slice(&document_json()).expect("the document is JSON")
    }

    fn refs<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| refs(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| refs(v, found)),
            _ => {}
        }
    }

    /// Without it tools that read the document would fail on it, or not know of a route.
    #[test]
    fn the_document_is_whole() {
        let document = json();
        assert_eq!(document["openapi"], "3.1.0");
        let mut found = Vec::new();
        refs(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a local reference");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                operations.push(format!("{} {path}", method.to_uppercase()));
                assert!(operation["responses"]["default"]["$ref"].is_string(), "{method} {path}");
                assert!(operation["security"].is_array(), "{method} {path}");
                assert!(operation["summary"].is_string(), "{method} {path}");
                for name in path.split('{').skip(1).filter_map(|p| p.split('}').next()) {
                    let described = operation["parameters"].as_array().is_some_and(|ps| {
                        ps.iter().any(|p| p["in"] == "path" && p["name"] == name)
                    });
                    assert!(described, "{method} {path} does not describe {name}");
                }
            }
        }
        operations.sort();
        assert_eq!(operations, {
            let mut all = [
                "POST /v1/services/{service}/sessions/{session}/fork",
                "POST /v1/services/{service}/sessions/{session}/messages",
                "GET /v1/services/{service}/sessions/{session}/messages",
                "POST /v1/services/{service}/sessions/{session}/query",
                "POST /v1/services/{service}/sessions/{session}/notify",
                "GET /v1/services/{service}/sessions/{session}",
                "DELETE /v1/services/{service}/sessions/{session}",
                "GET /v1/services/{service}/sessions",
                "GET /v1/services/{service}/sessions/{session}/events",
                "GET /v1/services/{service}/sessions/{session}/socket",
                "POST /v1/services/{service}/sessions/{session}/token",
                "GET /healthz",
                "GET /readyz",
                "GET /openapi.json",
                "GET /admin/v1/services",
                "GET /admin/v1/services/{service}",
                "DELETE /admin/v1/services/{service}",
                "POST /admin/v1/services/{service}/deploy",
                "POST /admin/v1/services/{service}/rollback",
                "GET /admin/v1/services/{service}/deployments",
                "GET /admin/v1/services/{service}/swap",
                "POST /admin/v1/services/{service}/swap",
                "GET /admin/v1/services/{service}/types",
                "GET /admin/v1/services/{service}/pinned",
                "GET /admin/v1/services/{service}/limits",
                "GET /admin/v1/services/{service}/gate",
                "POST /admin/v1/services/{service}/gate",
                "DELETE /admin/v1/services/{service}/gate",
                "POST /admin/v1/services/{service}/audits",
                "GET /admin/v1/services/{service}/audits/{audit}",
                "DELETE /admin/v1/services/{service}/audits/{audit}",
                "POST /admin/v1/services/{service}/sessions/{session}/captures",
                "GET /admin/v1/captures",
                "POST /admin/v1/captures/{capture}",
                "DELETE /admin/v1/captures/{capture}",
                "GET /admin/v1/services/{service}/sessions/{session}/state",
                "POST /admin/v1/services/{service}/sessions/{session}/state",
                "GET /admin/v1/services/{service}/sessions/{session}/export",
                "POST /admin/v1/services/{service}/sessions/{session}/import",
                "DELETE /admin/v1/services/{service}/sessions",
                "GET /admin/v1/services/{service}/timers",
                "GET /admin/v1/services/{service}/sessions/{session}/timers",
                "DELETE /admin/v1/services/{service}/sessions/{session}/timers/{timer}",
                "GET /admin/v1/services/{service}/outbox",
                "GET /admin/v1/services/{service}/sessions/{session}/outbox",
                "GET /admin/v1/services/{service}/dead",
                "GET /admin/v1/services/{service}/sessions/{session}/dead",
                "POST /admin/v1/services/{service}/sessions/{session}/dead/{timer}/{due_ms}/retry",
                "DELETE /admin/v1/services/{service}/sessions/{session}/dead/{timer}/{due_ms}",
                "POST /admin/v1/services/{service}/sessions/{session}/dead/{message}/retry",
                "DELETE /admin/v1/services/{service}/sessions/{session}/dead/{message}",
                "DELETE /admin/v1/services/{service}/sessions/{session}/requests/{request}",
                "POST /admin/v1/services/{service}/sessions/{session}/requests/{request}/dead/{time_ms}/retry",
                "DELETE /admin/v1/services/{service}/sessions/{session}/requests/{request}/dead/{time_ms}",
                "POST /admin/v1/reset",
                "GET /admin/v1/slots",
                "GET /admin/v1/slots/{slot}",
                "POST /admin/v1/slots/{slot}/drain",
                "POST /admin/v1/rebalance",
                "GET /admin/v1/ring",
                "GET /admin/v1/audit",
                "GET /admin/v1/audit/lines",
                "GET /admin/v1/usage",
                "GET /admin/v1/level",
                "POST /admin/v1/level",
                "GET /admin/v1/seal",
                "GET /admin/v1/nodes",
                "DELETE /admin/v1/nodes/{node}",
                "POST /admin/v1/nodes/{node}/drain",
                "GET /admin/v1/moves",
                "DELETE /admin/v1/moves/{node}/{id}",
                "GET /admin/v1/tokens",
                "POST /admin/v1/tokens",
                "DELETE /admin/v1/tokens/{name}",
                "POST /admin/v1/access/explain",
                "GET /metrics",
            ];
            all.sort_unstable();
            all
        });
    }

    /// Bytes must not be described as a list of numbers.
    #[test]
    fn bodies_are_bytes() {
        let document = json();
        let post = &document["paths"]["/v1/services/{service}/sessions/{session}/messages"]["post"];
        for content in [&post["requestBody"]["content"], &post["responses"]["200"]["content"]] {
            let schema = &content["*/*"]["schema"];
            assert!(schema.is_object() && schema["type"] != "array", "{content}");
        }
    }

    /// Without it no client can be generated from the document: generators name functions by these,
    /// and refuse or overwrite duplicates.
    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let document = json();
        let mut names = std::collections::BTreeMap::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let name = operation["operationId"].as_str().unwrap_or_default();
                assert!(!name.is_empty(), "{method} {path} has none");
                let before = names.insert(name.to_owned(), format!("{method} {path}"));
                assert!(before.is_none(), "{name}: {method} {path} and {before:?}");
            }
        }
        for (name, operation) in [
            ("session", "get /v1/services/{service}/sessions/{session}"),
            ("history", "get /v1/services/{service}/sessions/{session}/messages"),
            ("send", "post /v1/services/{service}/sessions/{session}/messages"),
        ] {
            assert_eq!(names.get(name).map(String::as_str), Some(operation));
        }
    }

    /// Without it a client generated from the document sends requests that are refused, or
    /// misinterprets an answer.
    #[test]
    fn parameters_and_failures_are_described() {
        let document = json();
        let sessions = "/v1/services/{service}/sessions";
        let parameter = |path: &str, method: &str, name: &str| {
            let all = document["paths"][path][method]["parameters"].as_array().cloned();
            let found = all.into_iter().flatten().find(|p| p["name"] == name);
            found.unwrap_or_else(|| panic!("{method} {path} has no {name}"))["schema"].clone()
        };
        let messages = format!("{sessions}/{{session}}/messages");
        let service = parameter(&messages, "post", "service");
        assert_eq!((&service["minLength"], &service["maxLength"]), (&1.into(), &64.into()));
        assert_eq!(service["pattern"], "^[a-z0-9][a-z0-9._-]*$");
        let key = parameter(&messages, "post", "Idempotency-Key");
        assert_eq!((&key["maxLength"], key["pattern"].is_string()), (&128.into(), true));
        let after = parameter(&messages, "get", "after");
        assert!(after["format"].is_null(), "a position is slotd's to make: {after}");
        let consistency =
            parameter(&format!("{sessions}/{{session}}/query"), "post", "consistency");
        assert_eq!(consistency["enum"], serde_json::json!(["current", "local"]));
        let codes = |method: &str, path: &str, status: &str| {
            let description = &document["paths"][path][method]["responses"][status]["description"];
            description.as_str().unwrap_or_default().to_owned()
        };
        assert!(codes("post", "/admin/v1/nodes/{node}/drain", "409").contains("no-other-node"));
        assert!(!codes("post", "/admin/v1/nodes/{node}/drain", "503").contains("no-other-node"));
        assert!(codes("post", &messages, "422").contains("rejected"));
        assert!(codes("post", &messages, "415").contains("encoding-unsupported"));
        // A probe's answer is not a problem document and has no code.
        assert!(codes("get", "/healthz", "503").contains("stalled"));
        // Every code belongs to a route, except these two.
        let text = document["paths"].to_string();
        for code in Code::ALL {
            let of_none = [Code::RouteNotFound, Code::MethodNotAllowed].contains(code);
            assert!(of_none || text.contains(code.as_str()), "{code:?} is nowhere");
        }
    }
}
