//! Connections with several messages in flight on each: WebSockets, and connections to Redis.

use super::{Plan, Protocol, Random, Tally, Window, session};
use crate::{
    api::session_path,
    http::Client,
    raw_socket::{self, CLOSE, PING, PONG, RawSocket, TEXT},
    resp,
};
use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use serde::Deserialize;
use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One connection: sends as many as may be in flight, and another for each answer. When the time is
/// over it waits for the rest.
pub(super) async fn connection(plan: Plan, index: u64, started: Instant) -> anyhow::Result<Tally> {
    let window = Window::of(plan.extent, started);
    let until = window.until.context("only over HTTP can each session be sent to once")?;
    let (mut stream, mut read, mut line) = open(&plan, index).await?;
    let mut under_way = HashMap::with_capacity(plan.in_flight);
    let (mut tally, mut write, mut number) = (Tally::default(), Vec::new(), 0);
    loop {
        let sent = Instant::now();
        while sent < until && under_way.len() < plan.in_flight {
            line.message(&mut write, number)?;
            under_way.insert(number, sent);
            number += 1;
        }
        if under_way.is_empty() {
            return Ok(tally);
        }
        stream.write_all(&write).await.context("sending messages")?;
        write.clear();
        let more = stream.read_buf(&mut read).await.context("reading answers")?;
        ensure!(more > 0, "the server closed the connection with messages under way");
        let answered = Instant::now();
        while let Some((length, answer)) = line.answer(&read)? {
            read.advance(length);
            let Some(Answer { number, refused }) = answer else { continue };
            let sent = under_way.remove(&number);
            let sent = sent.with_context(|| format!("message {number} is not under way"))?;
            match refused {
                None => tally.answered(window, sent, answered),
                Some(what) => tally.failed(|| what),
            }
        }
    }
}

/// An answer to a message, by the message's number on its connection.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    number: u64,
    refused: Option<String>,
}

/// What a connection speaks.
enum Line {
    /// Ids are idempotency keys: `stamp` makes them differ from those of every other load.
    Socket { stamp: String, body: String },
    /// Answers come in the order of the commands: `next` is the number of the next one.
    Redis { random: Random, sessions: u64, body: Vec<u8>, next: u64 },
}

/// Opens a connection. Also returns what was already read of it.
async fn open(plan: &Plan, index: u64) -> anyhow::Result<(TcpStream, BytesMut, Line)> {
    match plan.protocol {
        Protocol::Socket => {
            let path = session_path(&plan.service, &session(index % plan.sessions));
            let path = format!("{path}/socket?subscribe=false");
            let socket = RawSocket::open(&Client::new(plan.address), &path).await?;
            let (stream, read) = socket.into_parts();
            let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let stamp = format!("{:x}-{index}", since.as_nanos());
            let body = serde_json::to_string(std::str::from_utf8(&plan.body)?)?;
            Ok((stream, BytesMut::from(&read[..]), Line::Socket { stamp, body }))
        }
        Protocol::Redis => {
            let stream = Client::new(plan.address).open().await?;
            let random = Random::new(plan.seed ^ (index << 32));
            let body = plan.body.clone();
            let line = Line::Redis { random, sessions: plan.sessions, body, next: 0 };
            Ok((stream, BytesMut::new(), line))
        }
        Protocol::Http => bail!("over HTTP there is one request under way"),
    }
}

/// A socket frame's message about a sent message.
#[derive(Deserialize)]
struct Frame<'a> {
    r#type: &'a str,
    id: Option<&'a str>,
    #[serde(default)]
    replayed: bool,
}

impl Line {
    /// Adds a message to the output.
    fn message(&mut self, out: &mut Vec<u8>, number: u64) -> anyhow::Result<()> {
        match self {
            Self::Socket { stamp, body } => {
                let mut text = String::with_capacity(128);
                write!(
                    text,
                    r#"{{"type":"send","id":"{stamp}-{number}","content_type":"text/plain","body":{body}}}"#
                )?;
                out.extend_from_slice(&raw_socket::head(TEXT, text.len()));
                out.extend_from_slice(text.as_bytes());
            }
            Self::Redis { random, sessions, body, .. } => {
                let key = session(random.below(*sessions));
                resp::command(out, &[b"XADD", key.as_bytes(), b"*", b"body", body]);
            }
        }
        Ok(())
    }

    /// The length of the first answer in the input, and its message: the inner `None` if it answers
    /// no message. `None` while it is incomplete.
    fn answer(&mut self, read: &[u8]) -> anyhow::Result<Option<(usize, Option<Answer>)>> {
        match self {
            Self::Socket { .. } => {
                let Some((start, end)) = raw_socket::bounds(read)? else { return Ok(None) };
                match read[0] {
                    TEXT => Ok(Some((end, Some(of_frame(&read[start..end])?)))),
                    // The messages show that this end is alive.
                    PING | PONG => Ok(Some((end, None))),
                    CLOSE => {
                        let reason = read.get(start + 2..end).unwrap_or_default();
                        bail!("the socket was closed: {}", String::from_utf8_lossy(reason))
                    }
                    first => bail!("a frame that begins with {first:#x}"),
                }
            }
            Self::Redis { next, .. } => {
                let Some((reply, length)) = resp::reply(read)? else { return Ok(None) };
                let refused = match reply {
                    resp::Reply::Text(_) => None,
                    resp::Reply::Error(what) => Some(String::from_utf8_lossy(what).into_owned()),
                    resp::Reply::Nil => Some("nil".into()),
                };
                let answer = Answer { number: *next, refused };
                *next += 1;
                Ok(Some((length, Some(answer))))
            }
        }
    }
}

fn of_frame(payload: &[u8]) -> anyhow::Result<Answer> {
    let whole = || String::from_utf8_lossy(payload).into_owned();
    let frame: Frame = serde_json::from_slice(payload).with_context(whole)?;
    let id = frame.id.with_context(whole)?;
    let (_, number) = id.rsplit_once('-').with_context(whole)?;
    let number = number.parse().with_context(whole)?;
    // A message that is not applied would be counted as applied.
    let refused = (frame.r#type != "ack" || frame.replayed).then(whole);
    Ok(Answer { number, refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error or a replay counted as an acknowledgement would make slotd look faster.
    #[test]
    fn only_an_acknowledgement_of_something_new_is_one() {
        let ack = of_frame(br#"{"type":"ack","id":"5e1f-3-17","seq":4,"replayed":false}"#).unwrap();
        assert_eq!(ack, Answer { number: 17, refused: None });
        let replayed = of_frame(br#"{"type":"ack","id":"5e1f-3-8","replayed":true}"#).unwrap();
        assert!(replayed.number == 8 && replayed.refused.is_some());
        let error = of_frame(br#"{"type":"error","id":"5e1f-3-9","code":"mailbox-full"}"#).unwrap();
        assert!(error.number == 9 && error.refused.is_some());
        of_frame(br#"{"type":"error","id":null}"#).unwrap_err();
    }

    #[test]
    fn replies_of_redis_are_counted_in_order() {
        let mut line =
            Line::Redis { random: Random::new(1), sessions: 1, body: Vec::new(), next: 0 };
        let read = b"$3\r\n1-0\r\n-ERR no\r\n$3\r\n1";
        let (length, first) = line.answer(read).unwrap().unwrap();
        assert_eq!((length, first), (9, Some(Answer { number: 0, refused: None })));
        let (more, second) = line.answer(&read[length..]).unwrap().unwrap();
        assert_eq!(second, Some(Answer { number: 1, refused: Some("ERR no".into()) }));
        assert_eq!(line.answer(&read[length + more..]).unwrap(), None);
    }
}
