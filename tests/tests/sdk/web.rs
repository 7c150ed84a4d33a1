//! A server for the requests of the kitchen sinks.

use anyhow::Context;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use futures_util::stream;
use serde_json::json;
use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// What a model says of these, in turn, and that it is over.
pub const TOKENS: [&str; 3] = ["größ", "e, ", "😀"];

/// It ends with this.
pub struct Web {
    pub port: u16,
    keys: Keys,
    serving: JoinHandle<()>,
}

/// The paths that were asked for, with their idempotency keys.
type Keys = Arc<Mutex<Vec<(String, String)>>>;

impl Web {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (port, keys) = (listener.local_addr()?.port(), Keys::default());
        let router = Router::new()
            .route("/echo", any(echo))
            .route("/status/{status}", any(status))
            .route("/flaky/{name}", any(flaky))
            .route("/tokens", any(tokens))
            .route("/never", get(std::future::pending::<()>))
            .with_state(keys.clone());
        let serving = tokio::spawn(async move {
            // It never ends by itself.
            _ = axum::serve(listener, router).await;
        });
        Ok(Self { port, keys, serving })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The idempotency keys of the requests for a path, in order.
    pub fn keys(&self, path: &str) -> Vec<String> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let of_path = keys.iter().filter(|(of, _)| of == path);
        of_path.map(|(_, key)| key.clone()).collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Says what it was asked.
async fn echo(method: Method, headers: HeaderMap, body: Bytes) -> String {
    let header =
        |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let body = String::from_utf8_lossy(&body);
    json!({
        "method": method.as_str(), "a": header("x-a"), "type": header("content-type"), "body": body,
    })
    .to_string()
}

async fn status(Path(status): Path<u16>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
    (status, [(header::RETRY_AFTER, "7"), (header::ETAG, "\"e\"")], "so it is").into_response()
}

/// Fails the first time that it is asked under a name.
async fn flaky(State(keys): State<Keys>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    let path = format!("/flaky/{name}");
    let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
    let is_first = !keys.iter().any(|(of, _)| *of == path);
    keys.push((path, key.to_owned()));
    match is_first {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => "at last".into_response(),
    }
}

async fn tokens() -> Response {
    let said = TOKENS.map(|token| format!("data: {}\n\n", json!({"choices": [{"text": token}]})));
    let over = "data: [DONE]\n\n".to_owned();
    let events = said.into_iter().chain([over]).map(Ok::<_, Infallible>);
    let body = Body::from_stream(stream::iter(events));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Without it, what the kitchen sinks say of an answer could be the server's fault.
#[tokio::test]
async fn a_server_does_as_it_says() -> anyhow::Result<()> {
    let web = Web::start().await?;
    let client = slotd_tests::http::Client::new((Ipv4Addr::LOCALHOST, web.port).into());
    let mut statuses = Vec::new();
    for path in ["/flaky/a", "/flaky/a", "/status/404"] {
        let headers = [("idempotency-key", "k")];
        let answer = client.request(hyper::Method::GET, path, &headers, Bytes::new()).await;
        statuses.push(answer.context(path)?.status);
    }
    assert_eq!((statuses, web.keys("/flaky/a")), (vec![503, 200, 404], vec!["k".to_owned(); 2]));
    Ok(())
}
