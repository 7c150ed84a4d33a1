//! Encrypted links: TLS 1.3 over TCP, in which both sides show a certificate of the cluster's
//! authority, and in it frames, each after its length.
//!
//! 1. The caller's ClientHello offers [`PROTOCOL`], and beside it a knock, which shows that it knows
//!    the cluster's secret ([`crate::peer::identity`]). Who does not knock is sent one alert, whatever
//!    else he says, and nothing that depends on the secret.
//! 2. The handshake of TLS. Either side ends it if the other's certificate is of another authority.
//! 3. One [`Hello`](super::proto::Hello) each way, the caller's first: what the two must have in
//!    common, and which node is at the other end.

use super::{
    handshake::{HandshakeError, Own, Reason, Refusal, clean},
    outbox::{Frames, Outbox},
    proto::Frame,
    transport::{FrameError, Transport, Trust, deep},
};
use crate::{
    limits,
    peer::identity::{PROTOCOL, nodes_of, server_name},
};
use bytes::{Buf as _, BufMut as _, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use rustls::{
    AlertDescription, CertificateError, CommonState, Error as TlsError, server::Acceptor,
};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, WriteHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector};
use tokio_util::codec::{Decoder, FramedRead};

/// The first byte of a TLS connection: a record of the handshake (RFC 8446, 5.1).
pub(super) const FIRST_BYTE: u8 = 0x16;
/// A record of TLS with the fatal alert `access_denied`, for who did not knock.
const ACCESS_DENIED: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];
/// Before each frame: how long it is.
const LENGTH_BYTES: usize = 4;

const OTHER_SECRET: &str = "its secret differs from this node's";
const OTHER_AUTHORITY: &str =
    "the certificate is not of this node's authority: the two nodes have different ones";

/// The caller's side, up to the handshake of TLS.
///
/// # Errors
/// Who ended it, and why.
pub(super) async fn connect(
    own: &Own,
    stream: TcpStream,
    outbox: &Arc<Outbox>,
) -> Result<Transport, HandshakeError> {
    let identity = &own.options.identity;
    let name = server_name().ok_or_else(|| Refusal::malformed("no name to look for"))?;
    let offered = vec![PROTOCOL.to_vec(), identity.knock()];
    let connector = TlsConnector::from(identity.client.clone());
    let connecting = connector.with_alpn(offered).connect(name, buffered(stream));
    let stream = connecting.await.map_err(|e| failed(&e))?;
    let certified = authenticated(stream.get_ref().1)?;
    Ok(transport(stream, outbox, certified))
}

/// The called side. Calls `progress` when the caller has shown that it knows the secret.
///
/// # Errors
/// Who ended it, and why.
pub(super) async fn accept(
    own: &Own,
    stream: TcpStream,
    outbox: &Arc<Outbox>,
    progress: impl FnOnce(),
) -> Result<Transport, HandshakeError> {
    let identity = &own.options.identity;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let mut start = start.await.map_err(|e| failed(&e))?;
    let (mut speaks, mut knows) = (false, false);
    for offered in start.client_hello().alpn().into_iter().flatten() {
        speaks |= offered == PROTOCOL;
        knows |= identity.knows(offered);
    }
    if !knows {
        // The kernel's buffer of a new connection has room for it.
        let _ = start.io.write_all(&ACCESS_DENIED).await;
        let _ = start.io.shutdown().await;
        let refusal = match speaks {
            true => Refusal::new(Reason::Secret, OTHER_SECRET),
            false => Refusal::malformed("it speaks TLS, but not as a node of slotd does"),
        };
        return Err(refusal.into());
    }
    progress();
    let start = StartHandshake::from_parts(start.accepted, buffered(start.io));
    let accepting = start.into_stream(identity.server.clone()).into_fallible();
    let stream = match accepting.await {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            linger(&mut stream).await;
            return Err(failed(&error));
        }
    };
    let certified = authenticated(stream.get_ref().1)?;
    Ok(transport(stream, outbox, certified))
}

fn buffered(stream: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(limits::PEER_READ_BYTES, stream)
}

/// Until the other side has read the alert that it was sent. What it has sent meanwhile has to be
/// read, or it sees a reset and not the alert.
async fn linger(stream: &mut BufReader<TcpStream>) {
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    let reading = async { while let Ok(1..) = stream.read(&mut rest).await {} };
    let _ = timeout(limits::PEER_STOP_GRACE, reading).await;
}

/// The nodes that the other side's certificate is for.
///
/// # Errors
/// It is not a node's, or speaks something else.
fn authenticated(tls: &CommonState) -> Result<Vec<String>, Refusal> {
    if tls.alpn_protocol() != Some(PROTOCOL) {
        return Err(Refusal::new(Reason::Protocol, "it speaks no protocol of slotd inside TLS"));
    }
    let certificate = tls.peer_certificates().and_then(|chain| chain.first());
    let refused = |why: String| Refusal::new(Reason::Certificate, why);
    nodes_of(certificate.ok_or_else(|| refused("it showed no certificate".into()))?)
        .map_err(refused)
}

fn transport<S>(stream: S, outbox: &Arc<Outbox>, certified: Vec<String>) -> Transport
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let trust = Trust::default();
    let codec = FrameDecoder { trust: trust.clone() };
    let frames = FramedRead::with_capacity(reader, codec, limits::PEER_FRAME_BYTES);
    Transport {
        frames: frames.boxed(),
        pump: write(outbox.stream(), writer)
            .map(|ended| ended.map_err(|e| text(&e)))
            .boxed()
            .fuse(),
        trust,
        certified,
    }
}

/// Writes frames, each made when it can be written.
async fn write<S: AsyncRead + AsyncWrite>(
    mut frames: Frames,
    mut writer: WriteHalf<S>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.next().await {
        encode(&frame, &mut buffer)?;
        writer.write_all_buf(&mut buffer).await?;
        writer.flush().await?;
    }
    // The other side may be gone.
    let _ = timeout(limits::PEER_STOP_GRACE, writer.shutdown()).await;
    Ok(())
}

fn encode(frame: &Frame, buffer: &mut BytesMut) -> io::Result<()> {
    let length = frame.encoded_len();
    buffer.reserve(LENGTH_BYTES + length);
    buffer.put_u32(u32::try_from(length).map_err(io::Error::other)?);
    frame.encode(buffer).map_err(io::Error::other)
}

struct FrameDecoder {
    trust: Trust,
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.trust.is_over() {
            bytes.clear();
        }
        let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        self.trust.admits(length).map_err(FrameError::Malformed)?;
        let whole = LENGTH_BYTES + length;
        if bytes.len() < whole {
            bytes.reserve(whole - bytes.len());
            return Ok(None);
        }
        bytes.advance(LENGTH_BYTES);
        let frame = Frame::decode(bytes.split_to(length).freeze());
        let malformed = |e| FrameError::Malformed(format!("a frame does not decode: {e}"));
        frame.map(Some).map_err(malformed)
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        match tls_error(&error) {
            Some(TlsError::AlertReceived(alert)) if is_about_certificates(*alert) => {
                Self::Untrusted(OTHER_AUTHORITY.into())
            }
            _ => Self::Closed(text(&error)),
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn text(error: &io::Error) -> String {
    match error.kind() {
        // Without TLS's own end: the process or the machine is gone.
        io::ErrorKind::UnexpectedEof => "the connection ended".into(),
        _ => deep(error),
    }
}

/// Why a handshake of TLS failed.
fn failed(error: &io::Error) -> HandshakeError {
    let Some(tls) = tls_error(error) else {
        return HandshakeError::Closed(format!("the TLS handshake broke off: {}", text(error)));
    };
    let theirs = |reason, detail: &str| HandshakeError::Theirs(Refusal::new(reason, detail));
    match tls {
        TlsError::AlertReceived(AlertDescription::AccessDenied) => {
            theirs(Reason::Secret, "this node's secret differs from the called node's")
        }
        TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            theirs(Reason::Protocol, "it speaks no protocol of slotd inside TLS")
        }
        TlsError::AlertReceived(alert) if is_about_certificates(*alert) => {
            theirs(Reason::Certificate, OTHER_AUTHORITY)
        }
        TlsError::InvalidCertificate(why) => {
            let detail = match why {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                | CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. }
                | CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    format!("its certificate is not accepted: {}", clean(&why.to_string()))
                }
                why => format!("{OTHER_AUTHORITY} ({})", clean(&why.to_string())),
            };
            Refusal::new(Reason::Certificate, detail).into()
        }
        TlsError::NoCertificatesPresented => {
            Refusal::new(Reason::Certificate, "it showed no certificate").into()
        }
        other => Refusal::malformed(format!("not a slotd peer: {}", deep(other))).into(),
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::DecryptError
    )
}
