//! nats-server's monitoring port: settings that a client can't read over NATS itself.

use crate::{limits, tls::ClientFiles};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// The JSON answer of a server's monitoring port to `GET {path}`; `host_port` without scheme. A
/// status other than 200 is an error that begins with the status.
///
/// # Errors
/// A sentence, if there is no valid answer within [`limits::NATS_MONITOR_TIMEOUT`].
pub async fn get(host_port: &str, path: &str) -> Result<Value, String> {
    fetched(host_port, path, None).await
}

/// As [`get`], of a URL that begins with `http://` or `https://`.
///
/// # Errors
/// As [`get`], or the files of TLS can't be used.
pub async fn get_url(url: &str, path: &str, tls: &ClientFiles) -> Result<Value, String> {
    if let Some(host_port) = url.strip_prefix("https://") {
        let tls = tls.clone();
        let config = crate::task::blocking(move || tls.config()).await;
        let config = config.map_err(|e| e.to_string())??;
        return fetched(host_port.trim_end_matches('/'), path, Some(config)).await;
    }
    let host_port = url.strip_prefix("http://").unwrap_or(url);
    fetched(host_port.trim_end_matches('/'), path, None).await
}

async fn fetched(host_port: &str, path: &str, tls: Option<ClientConfig>) -> Result<Value, String> {
    let answer = timeout(limits::NATS_MONITOR_TIMEOUT, fetch(host_port, path, tls)).await;
    let answer = answer.map_err(|_| "no answer in time".to_owned())?.map_err(|e| e.to_string())?;
    // HTTP/1.0: no chunks, and the end of the connection is the end of the body.
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("not an answer of HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("{status}: {}", body.trim()));
    }
    serde_json::from_str(body).map_err(|e| format!("not JSON: {e}"))
}

async fn fetch(host_port: &str, path: &str, tls: Option<ClientConfig>) -> io::Result<String> {
    let stream = TcpStream::connect(host_port).await?;
    let Some(tls) = tls else { return ask(stream, host_port, path).await };
    let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
    ask(stream, host_port, path).await
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host_port: &str,
    path: &str,
) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host_port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = stream.take(limits::NATS_MONITOR_BYTES_MAX).read_to_end(&mut answer).await;
    match read {
        // TCP's end without TLS's own; the JSON shows whether it is whole.
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(e),
        _ => String::from_utf8(answer).map_err(io::Error::other),
    }
}
