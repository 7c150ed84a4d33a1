//! nats-server's monitoring port: settings that a client can't read over NATS itself.

use crate::limits;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The JSON answer of a server's monitoring port to `GET {path}`; `host_port` without scheme. A
/// status other than 200 is an error that begins with the status.
///
/// # Errors
/// A sentence, if there is no valid answer within [`limits::NATS_MONITOR_TIMEOUT`].
pub async fn get(host_port: &str, path: &str) -> Result<Value, String> {
    let answer = timeout(limits::NATS_MONITOR_TIMEOUT, fetch(host_port, path)).await;
    let answer = answer.map_err(|_| "no answer in time".to_owned())?.map_err(|e| e.to_string())?;
    // HTTP/1.0: no chunks, and the end of the connection is the end of the body.
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("not an answer of HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("{status}: {}", body.trim()));
    }
    serde_json::from_str(body).map_err(|e| format!("not JSON: {e}"))
}

async fn fetch(host_port: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host_port).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host_port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(limits::NATS_MONITOR_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}
