//! The OpenAPI 3.1 document of both listeners, from the routes as they are registered.

use super::{problem, route};
use bytes::Bytes;
use std::sync::LazyLock;
use utoipa::{
    OpenApi, PartialSchema as _,
    openapi::{
        self, Content, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{
            ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        },
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "slotd",
        description = "Messages to durable sessions, handled by WebAssembly plugins.\n\nThe paths under `/admin` and `/metrics` are on the admin listener, the others on the API listener; `/healthz`, `/readyz` and `/openapi.json` are on both. Every error is `application/problem+json` with a stable `code`: see docs/errors.md.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "sessions", description = "Messages, queries, history and events of sessions"),
        (name = "admin", description = "On the admin listener: plugins, slots, the ring, metrics"),
        (name = "health", description = "On both listeners, without a token"),
    ),
    components(schemas(problem::Problem)),
)]
struct Document;

/// The document.
pub fn document() -> openapi::OpenApi {
    let mut document = Document::openapi();
    document.merge(route::api_routes().split_for_parts().1);
    document.merge(route::admin_routes().split_for_parts().1);
    let components = document.components.get_or_insert_default();
    let bearer = |what: &str| {
        let text = format!("The {what} token, where one is configured");
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
            "The API token, for browsers' EventSource and WebSocket",
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
            .description("It failed; `code` says why")
            .content(problem::CONTENT_TYPE, content)
            .header("Retry-After", seconds())
            .build()
            .into(),
    );
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            complete(path, operation);
        }
    }
    document
}

fn seconds() -> openapi::Header {
    let mut header = openapi::Header::new(u64::schema());
    header.description = Some("Seconds, with status 503".to_owned());
    header
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

/// The document as JSON; made once.
pub fn document_json() -> Bytes {
    static JSON: LazyLock<Bytes> =
        LazyLock::new(|| document().to_pretty_json().unwrap_or_default().into());
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
                "POST /v1/services/{service}/sessions/{session}/messages",
                "GET /v1/services/{service}/sessions/{session}/messages",
                "POST /v1/services/{service}/sessions/{session}/query",
                "GET /v1/services/{service}/sessions/{session}",
                "DELETE /v1/services/{service}/sessions/{session}",
                "GET /v1/services/{service}/sessions",
                "GET /v1/services/{service}/sessions/{session}/events",
                "GET /v1/services/{service}/sessions/{session}/socket",
                "GET /healthz",
                "GET /readyz",
                "GET /openapi.json",
                "GET /admin/v1/services",
                "GET /admin/v1/services/{service}",
                "POST /admin/v1/services/{service}/deploy",
                "POST /admin/v1/services/{service}/rollback",
                "GET /admin/v1/services/{service}/swap",
                "GET /admin/v1/services/{service}/pinned",
                "GET /admin/v1/slots",
                "GET /admin/v1/slots/{slot}",
                "POST /admin/v1/slots/{slot}/drain",
                "POST /admin/v1/rebalance",
                "GET /admin/v1/ring",
                "GET /admin/v1/nodes",
                "POST /admin/v1/nodes/{node}/drain",
                "GET /admin/v1/moves",
                "DELETE /admin/v1/moves/{node}/{id}",
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
        let schema = &post["requestBody"]["content"]["application/octet-stream"]["schema"];
        assert_ne!(schema["type"], "array", "{schema}");
    }
}
