//! A server of the world outside, for requests over HTTP that sessions make: it does what a request's path says, and
//! remembers every attempt.
//!
//! | path | answer |
//! |---|---|
//! | `/echo` | JSON of the request: `method`, `path`, `headers`, `body` |
//! | `/say` | the header `authorization`: as the body, after `you said `, and as the header `x-echo` |
//! | `/status/503` | that status |
//! | `/status/503-then-200?times=2` | the first one so many times for an idempotency key, then the other |
//! | `/retry-after?times=1&seconds=1` | 503 with that header so many times, then 200 |
//! | `/slow?ms=100` | 200 after so long |
//! | `/hold` | 200 once the test says [`Outside::release`] |
//! | `/stream?tokens=50&every_ms=20` | server-sent events as those of chat completions; `hold_after=10`: the rest comes once the test says so |
//! | `/text?tokens=50&every_ms=20` | the same as plain text |
//! | `/drop?tokens=5&times=1` | a stream whose connection breaks after so many tokens, so many times; then a whole one |
//! | `/redirect?to=/echo` | 307 |
//! | `/gzip` | `{"packed":true}`, compressed |

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Of the header that is the same for each attempt at a request.
const KEY: &str = "idempotency-key";
/// `{"packed":true}`, as gzip has it.
const PACKED: [u8; 35] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xff, 0xab, 0x56, 0x2a, 0x48, 0x4c, 0xce,
    0x4e, 0x4d, 0x51, 0xb2, 0x2a, 0x29, 0x2a, 0x4d, 0xad, 0x05, 0x00, 0x89, 0xe0, 0xb5, 0xdc, 0x0f,
    0x00, 0x00, 0x00,
];

/// A server. It ends when it is dropped.
pub struct Outside {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    attempts: Mutex<Vec<Attempt>>,
    released: watch::Sender<bool>,
}

/// A request as the server has seen it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub method: String,
    /// With its query.
    pub path: String,
    /// The idempotency key; empty if it had none.
    pub key: String,
    /// By names in lower case; of several values the last one.
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

impl Attempt {
    /// A value of the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        query(&self.path, name)
    }
}

fn query<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find_map(|(other, value)| (other == name).then_some(value))
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outside {
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let released = watch::channel(false).0;
        let shared = Arc::new(Shared { attempts: Mutex::default(), released });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // It is aborted; that it ends by itself is seen by who asks it.
            let _ended = axum::serve(listener, app).await;
        });
        Ok(Self { address, shared, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What `effects.http` has to say for a service that may reach it.
    pub fn rule(&self, service: &str) -> String {
        format!("{service}>http://{}!private", self.address)
    }

    /// All so far, in the order in which they came.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.shared.attempts().clone()
    }

    /// Those whose path begins so.
    pub fn attempts_at(&self, path: &str) -> Vec<Attempt> {
        let all = self.attempts();
        all.into_iter().filter(|attempt| attempt.path.starts_with(path)).collect()
    }

    /// What is held is answered, from now on.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// From now on answers are held again.
    pub fn hold(&self) {
        self.shared.released.send_replace(false);
    }
}

impl Shared {
    fn attempts(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for_release(&self) {
        let mut released = self.released.subscribe();
        // The sender is in this.
        drop(released.wait_for(|released| *released).await);
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let attempt = seen(head.method.as_str(), &head.uri, &head.headers, body);
    // Of this key, this one included.
    let number = {
        let mut all = shared.attempts();
        all.push(attempt.clone());
        all.iter().filter(|it| it.key == attempt.key && it.path == attempt.path).count() as u64
    };
    let number_of = |name: &str, otherwise: u64| {
        attempt.query(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    };
    let is_early = number <= number_of("times", 1);
    let stream = Tokens {
        count: number_of("tokens", 50),
        every: Duration::from_millis(number_of("every_ms", 20)),
        hold_after: number_of("hold_after", u64::MAX),
        // A connection that breaks does so instead of ending.
        breaks: attempt.path.starts_with("/drop") && is_early,
        form: token_event,
        end: b"data: [DONE]\n\n",
    };
    let route = head.uri.path().trim_matches('/');
    match route.split_once('/').unwrap_or((route, "")) {
        ("echo", _) => says(200, "application/json", echo(&attempt)),
        ("say", _) => {
            let said = attempt.headers.get("authorization").map_or("", String::as_str);
            let mut response = says(200, "text/plain", format!("you said {said}"));
            if let Ok(said) = HeaderValue::from_str(said) {
                response.headers_mut().insert("x-echo", said);
            }
            response
        }
        ("status", codes) => {
            let (first, then) = codes.split_once("-then-").unwrap_or((codes, codes));
            let code = if is_early { first } else { then };
            says(code.parse().unwrap_or(500), "text/plain", format!("status {code}"))
        }
        ("retry-after", _) if is_early => {
            let mut response = says(503, "text/plain", "later");
            let seconds = HeaderValue::from(number_of("seconds", 1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
        ("retry-after", _) => says(200, "text/plain", "now"),
        ("slow", _) => {
            tokio::time::sleep(Duration::from_millis(number_of("ms", 100))).await;
            says(200, "text/plain", "slow")
        }
        ("hold", _) => {
            shared.wait_for_release().await;
            says(200, "text/plain", "held")
        }
        ("stream" | "drop", _) => {
            says(200, "text/event-stream", Body::from_stream(tokens(stream, shared)))
        }
        ("text", _) => {
            let stream = Tokens { form: token, end: b"", ..stream };
            says(200, "text/plain", Body::from_stream(tokens(stream, shared)))
        }
        ("redirect", _) => {
            let mut response = says(307, "text/plain", "elsewhere");
            let to = attempt.query("to").and_then(|to| HeaderValue::from_str(to).ok());
            let to = to.unwrap_or(HeaderValue::from_static("/echo"));
            response.headers_mut().insert(header::LOCATION, to);
            response
        }
        ("gzip", _) => {
            let mut response = says(200, "application/json", &PACKED[..]);
            let gzip = HeaderValue::from_static("gzip");
            response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
            response
        }
        _ => says(404, "text/plain", "no such path"),
    }
}

fn seen(method: &str, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Attempt {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let headers: BTreeMap<_, _> =
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let key = headers.get(KEY).cloned().unwrap_or_default();
    Attempt { method: method.to_owned(), path, key, headers, body }
}

fn says(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn echo(attempt: &Attempt) -> String {
    let Attempt { method, path, headers, body, .. } = attempt;
    let body = String::from_utf8_lossy(body);
    json!({"method": method, "path": path, "headers": headers, "body": body}).to_string()
}

/// What comes of a stream, one after the other.
struct Tokens {
    count: u64,
    every: Duration,
    hold_after: u64,
    breaks: bool,
    form: fn(u64) -> String,
    end: &'static [u8],
}

/// The text of a token, from 1: joined, it is known where one is missing.
pub fn token(number: u64) -> String {
    format!("t{number} ")
}

/// The text of a whole stream.
pub fn text(tokens: u64) -> String {
    (1..=tokens).map(token).collect()
}

/// As a server of language models says it.
fn token_event(number: u64) -> String {
    let delta = json!({"choices": [{"index": 0, "delta": {"content": token(number)}}]});
    format!("data: {delta}\n\n")
}

fn tokens(
    tokens: Tokens,
    shared: Arc<Shared>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold((1, tokens, shared), |(number, tokens, shared)| async move {
        // A client that is not gone reads this at the latest.
        if number == tokens.count + 1 && !tokens.breaks {
            let end = Bytes::from_static(tokens.end);
            return Some((Ok(end), (number + 1, tokens, shared)));
        }
        if number > tokens.count {
            let broken = (number == tokens.count + 1).then(|| Err(io::Error::other("as told")));
            return broken.map(|broken| (broken, (number + 1, tokens, shared)));
        }
        if number > tokens.hold_after {
            shared.wait_for_release().await;
        }
        if number > 1 {
            tokio::time::sleep(tokens.every).await;
        }
        let chunk = Bytes::from((tokens.form)(number));
        Some((Ok(chunk), (number + 1, tokens, shared)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Client;
    use hyper::Method;

    async fn get(outside: &Outside, path: &str, key: &str) -> anyhow::Result<(u16, String)> {
        let client = Client::new(outside.address());
        let answer = client.request(Method::GET, path, &[(KEY, key)], "").await?;
        Ok((answer.status, answer.text()))
    }

    /// A server that does something else than its path says would test something else.
    #[tokio::test]
    async fn it_does_what_the_path_says_and_remembers_it() -> anyhow::Result<()> {
        let outside = Outside::start().await?;
        let path = "/status/503-then-200?times=2";
        for (key, status) in [("a", 503), ("a", 503), ("b", 503), ("a", 200), ("b", 503)] {
            assert_eq!(get(&outside, path, key).await?.0, status, "{key}");
        }
        assert_eq!(outside.attempts_at("/status").iter().filter(|it| it.key == "b").count(), 2);
        let (_, streamed) = get(&outside, "/stream?tokens=3&every_ms=1", "c").await?;
        assert_eq!(streamed.matches("data: ").count(), 4);
        assert!(streamed.contains("\"content\":\"t3 \"") && streamed.ends_with("[DONE]\n\n"));
        let (_, streamed) = get(&outside, "/text?tokens=3&every_ms=1", "c").await?;
        assert_eq!(streamed, text(3));
        assert!(get(&outside, "/drop?tokens=2&every_ms=1", "d").await.is_err());
        assert_eq!(get(&outside, "/drop?tokens=2&every_ms=1", "d").await?.0, 200);
        assert_eq!(get(&outside, "/redirect?to=/echo", "e").await?.0, 307);
        let held = get(&outside, "/hold", "f");
        let release = async {
            while outside.attempts_at("/hold").is_empty() {
                tokio::task::yield_now().await;
            }
            outside.release();
        };
        assert_eq!(tokio::join!(held, release).0?, (200, "held".into()));
        assert_eq!(outside.attempts_at("/hold")[0].key, "f");
        Ok(())
    }
}
