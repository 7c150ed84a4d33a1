//! Servers on loopback, and clients that find them by names.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use slotd_outbound::{Limits, Network, Options, Outbound, Policy, Resolve, Secrets, Source};
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// Much longer than anything takes that works.
pub const LONG: Duration = Duration::from_secs(60);
pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request as a server has seen it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub headers: HashMap<String, String>,
    pub body: Bytes,
    pub version: hyper::Version,
}

/// A server. It ends when it is dropped.
pub struct Server {
    pub port: u16,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// One that speaks HTTP.
    pub async fn http(answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::start(None, answer).await
    }

    pub async fn https(
        tls: ServerConfig,
        answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(TlsAcceptor::from(Arc::new(tls))), answer).await
    }

    async fn start(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (all, answer) = (Arc::clone(&seen), Arc::new(answer));
        let mut server = Self::tcp(move |stream| {
            let (tls, all, answer) = (tls.clone(), Arc::clone(&all), Arc::clone(&answer));
            async move {
                match tls {
                    None => serve(stream, all, answer).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, all, answer).await;
                        }
                    }
                }
            }
        })
        .await;
        server.seen = seen;
        server
    }

    /// One that does with each connection what it likes.
    pub async fn tcp<F: Future<Output = ()> + Send + 'static>(
        each: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(each(stream));
            }
        });
        Self { port, seen: Arc::default(), connections, task }
    }

    /// One that reads the head of each request, says this, and then does as it likes with the connection.
    pub async fn says<F: Future<Output = ()> + Send + 'static>(
        each: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let each = Arc::new(each);
        Self::tcp(move |mut stream| {
            let each = Arc::clone(&each);
            async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                each(stream).await;
            }
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// A rule that allows this server under a name.
    pub fn rule(&self, name: &str) -> String {
        format!("http://{name}:{}!private", self.port)
    }

    pub fn url(&self, name: &str, path: &str) -> String {
        format!("http://{name}:{}{path}", self.port)
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    all: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
        async move {
            let (head, body) = request.into_parts();
            let text = |value: &hyper::header::HeaderValue| {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            let headers = head.headers.iter();
            let seen = Seen {
                method: head.method.to_string(),
                uri: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
                body: body.collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
                version: head.version,
            };
            all.lock().push(seen.clone());
            Ok::<_, Infallible>(answer(&seen))
        }
    });
    // A client that goes away is no failure of the server's.
    let _gone = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

pub fn says(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {});
    response.body(body.boxed_unsync()).expect("a response")
}

type Answer = dyn Fn(&str, usize) -> Vec<IpAddr> + Send + Sync;

/// Names and their addresses, which may be others each time.
pub struct Names {
    answer: Box<Answer>,
    pub asked: Arc<AtomicUsize>,
}

impl Names {
    pub fn new(answer: impl Fn(&str, usize) -> Vec<IpAddr> + Send + Sync + 'static) -> Self {
        Self { answer: Box::new(answer), asked: Arc::default() }
    }

    /// All names are of this machine.
    pub fn loopback() -> Self {
        Self::new(|_, _| vec![LOOPBACK])
    }
}

impl Resolve for Names {
    fn resolve(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = (self.answer)(&host, self.asked.fetch_add(1, Ordering::SeqCst));
        Box::pin(std::future::ready(Ok(found)))
    }
}

/// Whom the tests' clients trust beside the system's roots.
pub struct Authority {
    pub root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a certificate").der().clone();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// A server's side of TLS for a name. `alpn` is what it speaks.
    pub fn server(
        &self,
        name: &str,
        alpn: &[&str],
        change: impl Fn(&mut CertificateParams),
    ) -> ServerConfig {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        tls
    }
}

pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(Authority::new)
}

pub fn network() -> Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    let network =
        NETWORK.get_or_init(|| Network::system([authority().root.clone()]).expect("roots"));
    network.clone()
}

/// What a client may do.
#[derive(Default)]
pub struct May<'a> {
    pub rules: &'a [&'a str],
    pub grants: &'a [&'a str],
    /// Lines of `NAME=value`.
    pub secrets: &'a str,
    pub limits: Limits,
}

impl May<'_> {
    pub fn client(&self, names: Names) -> Outbound {
        self.client_over(&network().with_resolver(names))
    }

    /// One that finds names as the system does.
    pub fn client_of_the_system(&self) -> Outbound {
        self.client_over(&network())
    }

    fn client_over(&self, network: &Network) -> Outbound {
        let policy = Policy::parse(self.rules, self.grants).expect("rules");
        let policy = Policy { limits: self.limits, ..policy };
        let secrets = if self.secrets.is_empty() {
            Secrets::open(Source::default()).expect("none")
        } else {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), self.secrets).expect("a file");
            let source = Source { file: Some(file.path().to_owned()), prefix: None };
            Secrets::open(source).expect("secrets")
        };
        Outbound::new(policy, secrets, network).expect("a client")
    }
}

/// A client that may ask these, at loopback.
pub fn client(rules: &[&str]) -> Outbound {
    May { rules, ..May::default() }.client(Names::loopback())
}

pub fn get(url: impl Into<String>) -> slotd_outbound::Request {
    slotd_outbound::Request {
        method: "GET".into(),
        url: url.into(),
        headers: Vec::new(),
        body: Bytes::new(),
        idempotency_key: "key-1".into(),
        options: Options::new(LONG),
    }
}

pub fn post(url: impl Into<String>, body: &'static str) -> slotd_outbound::Request {
    slotd_outbound::Request { method: "POST".into(), body: body.into(), ..get(url) }
}
