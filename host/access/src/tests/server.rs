//! An issuer on loopback, which answers as a test has it.

use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::{convert::Infallible, future::pending, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

#[derive(Clone)]
pub(crate) enum Body {
    Text(String),
    /// Chunks without an end.
    Endless,
    /// Some bytes, and then nothing more.
    Stuck,
}

impl Answer {
    pub(crate) fn json(value: impl ToString) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Text(value.to_string()) }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Text(String::new()) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

type Answers = dyn Fn(&str) -> Option<Answer> + Send + Sync;

/// It ends with its last owner.
pub(crate) struct Server {
    shared: Arc<Shared>,
    pub(crate) url: String,
    _tasks: JoinSet<()>,
}

struct Shared {
    /// `None` of it: no answer at all.
    answers: Mutex<Arc<Answers>>,
    asked: Mutex<Vec<String>>,
}

impl Server {
    pub(crate) async fn start(
        answers: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(None, answers).await
    }

    /// By https, for `localhost`.
    pub(crate) async fn start_tls(
        tls: rustls::ServerConfig,
        answers: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(TlsAcceptor::from(Arc::new(tls))), answers).await
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        answers: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let shared =
            Arc::new(Shared { answers: Mutex::new(Arc::new(answers)), asked: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (shared, tls) = (Arc::clone(&shared), tls.clone());
                    connections.spawn(async move {
                        match tls {
                            None => shared.serve(stream).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    shared.serve(stream).await;
                                }
                            }
                        }
                    });
                }
            }
        });
        Self { shared, url, _tasks: tasks }
    }

    pub(crate) fn answer(&self, answers: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.answers.lock() = Arc::new(answers);
    }

    /// The paths that were asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().clone()
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = service_fn(|request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            self.asked.lock().push(path.clone());
            let answers = Arc::clone(&self.answers.lock());
            async move {
                match answers(&path) {
                    Some(answer) => Ok::<_, Infallible>(answer.response()),
                    None => pending().await,
                }
            }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

impl Answer {
    fn response(self) -> Response<BoxBody<Bytes, Infallible>> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let body = match self.body {
            Body::Text(text) => http_body_util::Full::new(Bytes::from(text)).boxed(),
            Body::Endless => StreamBody::new(Chunks { left: None }).boxed(),
            Body::Stuck => StreamBody::new(Chunks { left: Some(1) }).boxed(),
        };
        response.body(body).unwrap()
    }
}

/// Chunks of spaces, so many before it is stuck.
struct Chunks {
    left: Option<usize>,
}

impl futures_util::Stream for Chunks {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return std::task::Poll::Pending;
            }
            *left -= 1;
        }
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 16 * 1024])))))
    }
}
