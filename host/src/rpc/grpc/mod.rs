//! Links with nodes from before feature level 3: authenticated by proofs, and not encrypted. A
//! connection is HTTP/2 with one bidirectional stream of gRPC, which carries the frames.
//!
//! **To be deleted with the first version that needs no upgrade from one of before level 3**, with the
//! tests in `rpc/tests/grpc.rs`. Nothing here is used between two nodes that both know level 3: whoever
//! finds in such a handshake that the other side does, makes an encrypted link instead.
//!
//! The service is written by hand as what `tonic-build` would generate from
//!
//! ```proto
//! package slotd.peer.v1;
//! service Peer  { rpc Link(stream Frame) returns (stream Frame); }
//! ```

mod executor;
pub(super) mod proof;

use super::{
    handshake::clean,
    outbox::{Frames, Outbox},
    proto::Frame,
    transport::{FrameError, FramesIn, Transport, Trust, deep},
};
use crate::limits;
use executor::Driver;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{pending, poll_fn, ready},
    stream::{Map, once},
};
use http::uri::PathAndQuery;
use hyper::{body::Incoming as Body, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::{
    convert::Infallible, error::Error as _, future::Future, net::SocketAddr, pin::pin, sync::Arc,
};
use tokio::{net::TcpStream, sync::oneshot};
use tonic::{
    Status, Streaming,
    codec::{self, DecodeBuf},
};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// The method's path.
pub(super) const PATH: &str = "/slotd.peer.v1.Peer/Link";

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connects to a peer, which must have been sent a hello for this to return.
///
/// # Errors
/// It does not speak this.
pub(super) async fn connect(
    stream: TcpStream,
    address: SocketAddr,
    outbox: &Arc<Outbox>,
) -> Result<Transport, String> {
    let mut driver = Driver::default();
    let trust = Trust::default();
    let connecting = request(stream, address, outbox, trust.clone(), &driver);
    let (sender, frames) = driver.drive(connecting).await?;
    let pump = async move {
        // The connection ends when this is dropped.
        let _sender = sender;
        driver.drive(pending::<Result<(), String>>()).await
    };
    Ok(Transport {
        frames: incoming(frames),
        pump: pump.boxed().fuse(),
        trust,
        certified: Vec::new(),
    })
}

type Requests = hyper::client::conn::http2::SendRequest<tonic::body::Body>;

fn request(
    stream: TcpStream,
    address: SocketAddr,
    outbox: &Arc<Outbox>,
    trust: Trust,
    driver: &Driver,
) -> impl Future<Output = Result<(Requests, Streaming<Frame>), String>> + use<> {
    let exec = driver.executor();
    let frames = outbox.stream();
    async move {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(exec.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(2 * limits::PEER_STREAM_WINDOW_BYTES)
            .max_send_buf_size(limits::PEER_FRAME_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| format!("{address} does not speak HTTP/2: {e}"))?;
        // Its stream reports how it ends.
        hyper::rt::Executor::execute(&exec, async move { drop(connection.await) });

        let origin = http::Uri::builder().scheme("http").authority(address.to_string());
        let origin = origin.path_and_query("/").build().map_err(|e| e.to_string())?;
        let mut requests = sender.clone();
        let service = tower::service_fn(move |request| requests.send_request(request));
        let mut grpc = tonic::client::Grpc::with_origin(service, origin)
            .max_decoding_message_size(limits::PEER_FRAME_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_FRAME_BYTES_MAX);
        let path = PathAndQuery::from_static(PATH);
        let streaming = grpc.streaming(tonic::Request::new(frames), path, Codec(trust)).await;
        let streaming = streaming.map_err(|status| {
            format!("{address} is not a slotd peer: {}", clean(status.message()))
        })?;
        Ok((sender, streaming.into_inner()))
    }
}

/// Serves a connection that began with [`PREFACE`].
pub(super) fn accept(stream: TcpStream, outbox: &Arc<Outbox>) -> Transport {
    let mut driver = Driver::default();
    let trust = Trust::default();
    let (give, given) = oneshot::channel();
    let give = Mutex::new(Some((give, outbox.clone(), trust.clone())));
    let exec = driver.executor();
    let outbox = outbox.clone();
    let pump = async move {
        let service = service_fn(move |request| respond(request, give.lock().take()));
        let mut connection = pin!(
            hyper::server::conn::http2::Builder::new(exec)
                .timer(TokioTimer::new())
                .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
                .initial_connection_window_size(2 * limits::PEER_STREAM_WINDOW_BYTES)
                .max_send_buf_size(limits::PEER_FRAME_BYTES_MAX)
                .max_concurrent_streams(1)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut ending = false;
        let ended = poll_fn(|cx| {
            // Its owner polls it after closing the outbox.
            if !ending && outbox.is_closed() {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        });
        driver.drive(ended).await.map_err(|e| deep(&e))
    };
    let frames = async move {
        match given.await {
            Ok(frames) => incoming(frames),
            Err(_) => {
                let what = "it did not request the peer stream".to_owned();
                once(ready(Err(FrameError::Malformed(what)))).boxed()
            }
        }
    };
    let frames = frames.flatten_stream().boxed();
    Transport { frames, pump: pump.boxed().fuse(), trust, certified: Vec::new() }
}

type Give = (oneshot::Sender<Streaming<Frame>>, Arc<Outbox>, Trust);
type Written = Map<Frames, fn(Frame) -> Result<Frame, Status>>;

/// Answers the one request of a connection: its stream goes to the session.
async fn respond(
    request: http::Request<Body>,
    give: Option<Give>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    if request.uri().path() != PATH {
        let status = Status::unimplemented("this port is for the nodes of a slotd cluster");
        return Ok(status.into_http());
    }
    let Some((give, outbox, trust)) = give else {
        return Ok(Status::resource_exhausted("a connection can carry only one link").into_http());
    };
    let mut give = Some(give);
    let service = tower::service_fn(move |request: tonic::Request<Streaming<Frame>>| {
        if let Some(give) = give.take() {
            let _ = give.send(request.into_inner());
        }
        let frames: Written = outbox.stream().map(Ok);
        ready(Ok::<_, Status>(tonic::Response::new(frames)))
    });
    let mut grpc = tonic::server::Grpc::new(Codec(trust))
        .max_decoding_message_size(limits::PEER_FRAME_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_FRAME_BYTES_MAX);
    Ok(grpc.streaming(service, request).await)
}

pub(super) fn incoming(frames: Streaming<Frame>) -> FramesIn {
    let error = |status: Status| {
        let why = clean(status.message());
        // It has a source when it is about the connection, and not about what came over it.
        match status.code() {
            tonic::Code::OutOfRange => FrameError::Malformed(why),
            _ if status.source().is_some() => FrameError::Closed(why),
            _ => FrameError::Malformed(why),
        }
    };
    frames.map(move |frame| frame.map_err(error)).boxed()
}

/// Frames as protobuf, as large as the sender's trust allows.
pub(super) struct Codec(pub Trust);

impl codec::Codec for Codec {
    type Encode = Frame;
    type Decode = Frame;
    type Encoder = ProstEncoder<Frame>;
    type Decoder = FrameDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }
    fn decoder(&mut self) -> Self::Decoder {
        FrameDecoder { trust: self.0.clone(), frames: ProstDecoder::default() }
    }
}

pub(super) struct FrameDecoder {
    trust: Trust,
    frames: ProstDecoder<Frame>,
}

impl codec::Decoder for FrameDecoder {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        use bytes::Buf as _;
        self.trust.admits(bytes.remaining()).map_err(Status::out_of_range)?;
        self.frames.decode(bytes)
    }
}
