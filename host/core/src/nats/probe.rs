//! The greeting of each configured server, which it sends before a login.

use super::{
    NatsError, NatsOptions, addresses,
    version::{REFUSED_BELOW, Version, WARNED_BELOW},
};
use crate::limits;
use async_nats::{ServerAddr, ServerInfo};
use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Probes all servers, and returns the smallest `max_payload` of those that answer. A server that
/// does not answer is left to the connection, which needs only one of them.
///
/// # Errors
/// [`NatsError::Refused`] if one is too old, [`NatsError::Unavailable`] if none answers.
pub(super) async fn servers(options: &NatsOptions) -> Result<usize, NatsError> {
    let servers = addresses(options)?;
    let mut max_payload = None;
    let mut failed = Vec::new();
    for (server, answer) in servers.iter().zip(join_all(servers.iter().map(ask)).await) {
        let name = format!("{}:{}", server.host(), server.port());
        let info = match answer {
            Ok(info) => info,
            Err(why) => {
                failed.push(format!("{name}: {why}"));
                continue;
            }
        };
        match Version::parse(&info.version) {
            Some(version) if version < REFUSED_BELOW => {
                return Err(NatsError::Refused(format!(
                    "NATS server {name} is {version}; upgrade it to {REFUSED_BELOW} or later: in \
                     older ones several writers can win the same append, so a slot could have two \
                     owners"
                )));
            }
            Some(version) if version < WARNED_BELOW => {
                tracing::warn!(server = %name, %version, "NATS older than {WARNED_BELOW} is not tested");
            }
            Some(_) => {}
            None => tracing::warn!(server = %name, version = %info.version, "unknown NATS version"),
        }
        max_payload = Some(max_payload.unwrap_or(usize::MAX).min(info.max_payload));
    }
    match max_payload {
        Some(max_payload) => {
            for why in failed {
                tracing::warn!(%why, "a NATS server does not answer");
            }
            Ok(max_payload)
        }
        None => Err(NatsError::Unavailable(failed.join("; "))),
    }
}

async fn ask(server: &ServerAddr) -> Result<ServerInfo, String> {
    let asked = timeout(limits::NATS_CONNECT_TIMEOUT, first_line(server)).await;
    let line = asked.map_err(|_| "no answer in time".to_owned())?.map_err(|e| e.to_string())?;
    let info = line.strip_prefix("INFO ").ok_or("not a NATS server")?;
    serde_json::from_str(info).map_err(|e| format!("not a NATS server: {e}"))
}

async fn first_line(server: &ServerAddr) -> std::io::Result<String> {
    // A URL has an IPv6 address in brackets.
    let host = server.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, server.port())).await?;
    let mut line = String::new();
    BufReader::new(stream.take(limits::NATS_INFO_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line)
}
