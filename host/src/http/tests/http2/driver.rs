//! A client of HTTP/2 that a test has in its hands: each stream, and what is read of it.

use super::super::{Answer, ROOM, Running};
use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, SendRequest},
};
use http::Request;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};

/// A client's end of one connection.
pub(in super::super) struct Client {
    pub(in super::super) send: SendRequest<Bytes>,
    pub(in super::super) task: JoinHandle<Result<(), h2::Error>>,
    pub(super) authority: String,
}

/// A stream of a client.
pub(in super::super) struct Asked {
    pub(super) answer: client::ResponseFuture,
    pub(super) body: SendStream<Bytes>,
}

pub(in super::super) struct Got {
    pub(in super::super) answer: Answer,
    pub(in super::super) version: http::Version,
}

impl Client {
    pub(in super::super) async fn connect(node: &Running) -> Self {
        Self::connect_with(node, &client::Builder::new()).await
    }
    pub(in super::super) async fn connect_with(node: &Running, builder: &client::Builder) -> Self {
        let stream = TcpStream::connect(node.address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        Self::over(stream, builder, node.address.to_string()).await
    }
    pub(super) async fn over<S>(stream: S, builder: &client::Builder, authority: String) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = builder.handshake(stream).await.expect("a handshake");
        Self { send, task: tokio::spawn(connection), authority }
    }
    pub(super) fn request(&self, line: &str, headers: &[(&str, &str)]) -> Request<()> {
        let (method, path) = line.split_once(' ').expect("a line");
        let uri = format!("http://{}{path}", self.authority);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }
    /// Begins a request whose body follows.
    pub(in super::super) async fn begin(&self, line: &str, headers: &[(&str, &str)]) -> Asked {
        let mut send = self.send.clone().ready().await.expect("open");
        let (answer, body) = send.send_request(self.request(line, headers), false).expect("sent");
        Asked { answer, body }
    }
    pub(in super::super) async fn ask(
        &self,
        line: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Asked {
        let mut send = self.send.clone().ready().await.expect("open");
        let request = self.request(line, headers);
        let (answer, mut stream) = send.send_request(request, body.is_empty()).expect("sent");
        if !body.is_empty() {
            stream.send_data(Bytes::from(body.to_owned()), true).expect("sent");
        }
        Asked { answer, body: stream }
    }
    pub(in super::super) async fn call(
        &self,
        line: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Got {
        self.ask(line, headers, body).await.got().await.expect("an answer")
    }
    pub(super) async fn post(&self, body: &str) -> Got {
        self.call(&format!("POST {ROOM}/messages"), &[("content-type", "application/json")], body)
            .await
    }
}

impl Asked {
    pub(in super::super) async fn got(self) -> Result<Got, h2::Error> {
        let (head, body) = self.answer.await?.into_parts();
        let headers = head.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), value.to_str().expect("text").to_owned())
        });
        let (headers, status) = (headers.collect(), head.status.as_u16());
        let answer = Answer { status, headers, body: all(body).await? };
        Ok(Got { answer, version: head.version })
    }
    pub(super) fn reset(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }
}

pub(super) async fn all(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Waits until it is so.
pub(in super::super) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}
