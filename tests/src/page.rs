//! Serves a folder of a page and the client library, and passes what the page asks of `/v1/` on to the nodes: both of one origin, as browsers want it, and
//! as a proxy in front of slotd would do it.

use crate::clients;
use anyhow::Context;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The client library for TypeScript, in one file.
const CLIENT: &str = "slotd.js";
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Of one connection only, and not for the nodes: a proxy sets its own.
const NOT_PASSED_ON: [header::HeaderName; 4] =
    [header::HOST, header::ORIGIN, header::CONNECTION, header::CONTENT_LENGTH];

/// A running server. Dropping it ends it.
pub struct PageServer {
    pub address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

struct Page {
    folder: PathBuf,
    nodes: watch::Receiver<Arc<[SocketAddr]>>,
    next: AtomicUsize,
}

/// The folder of an example.
pub fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

impl PageServer {
    /// # Errors
    /// When it can't listen there.
    pub async fn start(
        listen: SocketAddr,
        folder: PathBuf,
        nodes: watch::Receiver<Arc<[SocketAddr]>>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("listening on {listen}"))?;
        let address = listener.local_addr()?;
        let page = Arc::new(Page { folder, nodes, next: AtomicUsize::new(0) });
        let router = Router::new().fallback(answer).with_state(page);
        let task = tokio::spawn(async { axum::serve(listener, router).await });
        Ok(Self { address, task })
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(page): State<Arc<Page>>, request: Request) -> Response {
    if request.uri().path().starts_with("/v1/") {
        return page.pass_on(request).await.unwrap_or_else(|error| {
            (StatusCode::BAD_GATEWAY, format!("no node answers: {error:#}\n")).into_response()
        });
    }
    page.file(request.uri().path()).await
}

impl Page {
    async fn file(&self, path: &str) -> Response {
        let name = match path.trim_start_matches('/') {
            "" => "index.html",
            name => name,
        };
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let kind = match name.rsplit_once('.') {
            Some(("", _)) => None,
            Some((_, "html")) => Some("text/html; charset=utf-8"),
            Some((_, "js")) => Some("text/javascript; charset=utf-8"),
            Some((_, "css")) => Some("text/css; charset=utf-8"),
            _ => None,
        };
        let Some(kind) = kind.filter(|_| is_plain) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        // Built, so in no example's folder.
        let file = match name {
            CLIENT => clients::folder().join("ts").join(name),
            _ => self.folder.join(name),
        };
        match tokio::fs::read(file).await {
            Ok(bytes) => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
            Err(_) => StatusCode::NOT_FOUND.into_response(),
        }
    }

    /// Asks the nodes in turn until one takes the connection. What broke later is the page's to repeat.
    async fn pass_on(&self, request: Request) -> anyhow::Result<Response> {
        let (head, body) = request.into_parts();
        let body = to_bytes(body, BODY_BYTES_MAX).await.context("reading the request")?;
        let nodes = self.nodes.borrow().clone();
        let first = self.next.fetch_add(1, Relaxed);
        let mut failed = anyhow::anyhow!("there is no node");
        for nth in 0..nodes.len() {
            let node = nodes[(first + nth) % nodes.len()];
            let stream = match TcpStream::connect(node).await {
                Ok(stream) => stream,
                Err(error) => {
                    failed = error.into();
                    continue;
                }
            };
            stream.set_nodelay(true)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Ends with the answer; errors show in it.
            tokio::spawn(connection);
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            let mut passed: hyper::Request<Full<Bytes>> = hyper::Request::builder()
                .method(head.method.clone())
                .uri(path)
                .body(body.into())?;
            *passed.headers_mut() = head.headers.clone();
            NOT_PASSED_ON.iter().for_each(|name| drop(passed.headers_mut().remove(name)));
            passed.headers_mut().insert(header::HOST, HeaderValue::from_str(&node.to_string())?);
            let mut answer = sender.send_request(passed).await?;
            answer.headers_mut().remove(header::CONNECTION);
            answer.headers_mut().remove(header::TRANSFER_ENCODING);
            return Ok(answer.map(Body::new));
        }
        Err(failed)
    }
}
