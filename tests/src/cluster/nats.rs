//! A minimal NATS client for moving leaders: a request and its answer, in text over TCP.

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One connection, one request at a time.
pub struct Requests {
    stream: BufReader<TcpStream>,
    sent: u64,
}

impl Requests {
    /// # Errors
    /// When no connection can be made.
    pub async fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = BufReader::new(TcpStream::connect(server).await?);
        let mut info = String::new();
        stream.read_line(&mut info).await?;
        let hello = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n\
                     SUB answers.* 1\r\n";
        stream.write_all(hello.replace("answers", &inbox()).as_bytes()).await?;
        Ok(Self { stream, sent: 0 })
    }

    /// Sends a request and returns the answer's JSON.
    ///
    /// # Errors
    /// If the connection breaks, there is no answer in time, or it is not JSON.
    pub async fn request(&mut self, subject: &str, body: &str) -> anyhow::Result<Value> {
        self.sent += 1;
        let reply = format!("{}.{}", inbox(), self.sent);
        let publish = format!("PUB {subject} {reply} {}\r\n{body}\r\n", body.len());
        self.stream.write_all(publish.as_bytes()).await?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.answer(&reply)).await;
        let answer = answer.with_context(|| format!("no answer to {subject}"))??;
        serde_json::from_slice(&answer).with_context(|| format!("the answer to {subject}"))
    }

    async fn answer(&mut self, reply: &str) -> anyhow::Result<Vec<u8>> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                bail!("the server closed the connection");
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["PING"] => self.stream.write_all(b"PONG\r\n").await?,
                ["HMSG", ..] => bail!("no server answers"),
                ["MSG", subject, .., length] => {
                    let mut payload = vec![0; length.parse::<usize>()? + 2];
                    self.stream.read_exact(&mut payload).await?;
                    if *subject == reply {
                        return Ok(payload);
                    }
                }
                _ if line.starts_with("-ERR") => bail!("{}", line.trim()),
                _ => {}
            }
        }
    }
}

/// Unique enough: only this process talks to the servers that it started.
fn inbox() -> String {
    format!("_INBOX.tests{}", std::process::id())
}

/// See [`super::engine::Engine::move_leaders`].
pub(super) async fn move_leaders(server: SocketAddr, prefix: &str) -> anyhow::Result<usize> {
    #[derive(Deserialize)]
    struct Names {
        #[serde(default)]
        streams: Option<Vec<String>>,
    }
    let mut requests = Requests::connect(server).await?;
    let names = requests.request("$JS.API.STREAM.NAMES", "").await?;
    let names: Names = serde_json::from_value(names)?;
    let mut moved = 0;
    for name in names.streams.unwrap_or_default() {
        if name.starts_with(prefix) {
            let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{name}");
            // A stream may have no leader just now: then there is nothing to move.
            let answer = requests.request(&subject, "").await;
            moved += usize::from(answer.is_ok_and(|answer| answer["success"] == true));
        }
    }
    Ok(moved)
}
