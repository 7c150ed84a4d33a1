//! Connections with several messages in flight on each: WebSockets, those by HTTP/2, and connections to
//! Redis.

use super::{Plan, Protocol, Random, Tally, Window, session};
use crate::{
    api::session_path,
    http::Client,
    http2,
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
    /// `reply` goes out with the next message. Of streams whose answer was not 200, what it was.
    Http2 {
        random: Random,
        sessions: u64,
        service: String,
        body: Vec<u8>,
        reply: Vec<u8>,
        refused: HashMap<u32, String>,
    },
}

/// No answer may wait for this end.
const WINDOW_BYTES: u32 = (1 << 31) - 1;
const INITIAL_WINDOW_BYTES: u32 = 65_535;
const SETTINGS_INITIAL_WINDOW_SIZE: u8 = 4;

fn http2_opening() -> Vec<u8> {
    let mut out = http2::PREFACE.to_vec();
    let [a, b, c, d] = WINDOW_BYTES.to_be_bytes();
    let settings = [0, SETTINGS_INITIAL_WINDOW_SIZE, a, b, c, d];
    http2::frame(&mut out, http2::SETTINGS, 0, 0, &settings);
    let more = (WINDOW_BYTES - INITIAL_WINDOW_BYTES).to_be_bytes();
    http2::frame(&mut out, http2::WINDOW_UPDATE, 0, 0, &more);
    out
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
        Protocol::Http2 => {
            let stream = Client::new(plan.address).open().await?;
            let random = Random::new(plan.seed ^ (index << 32));
            let (sessions, service) = (plan.sessions, plan.service.clone());
            let (body, reply, refused) = (plan.body.clone(), http2_opening(), HashMap::new());
            let line = Line::Http2 { random, sessions, service, body, reply, refused };
            Ok((stream, BytesMut::new(), line))
        }
        Protocol::Http => bail!("over HTTP/1.1 there is one request under way"),
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
            Self::Http2 { random, sessions, service, body, reply, .. } => {
                out.append(reply);
                let session = session(random.below(*sessions));
                let path = format!("/v1/services/{service}/sessions/{session}/messages");
                let mut block = Vec::with_capacity(160);
                // POST, and http, of the static table.
                block.extend_from_slice(&[0x83, 0x86]);
                http2::field(&mut block, ":path", &path)?;
                http2::field(&mut block, ":authority", "slotd")?;
                http2::field(&mut block, "content-type", "text/plain")?;
                let stream = stream_of(number)?;
                http2::frame(out, http2::HEADERS, http2::END_HEADERS, stream, &block);
                http2::frame(out, http2::DATA, http2::END_STREAM, stream, body);
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
            Self::Http2 { reply, refused, .. } => {
                let Some((length, frame)) = http2::first(read) else { return Ok(None) };
                match frame.kind {
                    http2::SETTINGS | http2::PING if frame.flags & http2::ACK == 0 => {
                        let payload = if frame.kind == http2::PING { frame.payload } else { &[] };
                        http2::frame(reply, frame.kind, http2::ACK, 0, payload);
                    }
                    http2::HEADERS if frame.payload.first() != Some(&http2::STATUS_200) => {
                        refused.insert(frame.stream, format!("{:x?}", frame.payload));
                    }
                    http2::RST_STREAM | http2::GOAWAY => {
                        bail!("the server ended it with reason {}", http2::reason(&frame)?);
                    }
                    _ => {}
                }
                let ends = matches!(frame.kind, http2::HEADERS | http2::DATA)
                    && frame.flags & http2::END_STREAM != 0;
                let answer = ends.then(|| Answer {
                    number: u64::from(frame.stream / 2),
                    refused: refused.remove(&frame.stream),
                });
                Ok(Some((length, answer)))
            }
        }
    }
}

/// A client's streams have odd numbers.
fn stream_of(number: u64) -> anyhow::Result<u32> {
    u32::try_from(2 * number + 1)
        .ok()
        .filter(|stream| *stream < 1 << 31)
        .context("a connection has no more streams")
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

    /// An answer that is half there, or of another stream, counted for a message would too.
    #[test]
    fn an_answer_by_http2_is_that_of_its_stream_once_it_has_ended() {
        let mut line = Line::Http2 {
            random: Random::new(1),
            sessions: 1,
            service: String::new(),
            body: Vec::new(),
            reply: Vec::new(),
            refused: HashMap::new(),
        };
        let mut read = Vec::new();
        http2::frame(&mut read, http2::HEADERS, http2::END_HEADERS, 7, &[http2::STATUS_200]);
        http2::frame(&mut read, http2::HEADERS, http2::END_HEADERS | 1, 5, &[0x48, 1, 2]);
        http2::frame(&mut read, http2::DATA, http2::END_STREAM, 7, b"{}");
        let (mut at, mut answers) = (0, Vec::new());
        while let Some((length, answer)) = line.answer(&read[at..]).unwrap() {
            at += length;
            answers.extend(answer);
        }
        assert_eq!(at, read.len());
        assert_eq!((answers[0].number, answers[1].number), (2, 3));
        assert!(answers[0].refused.is_some() && answers[1].refused.is_none());
        assert_eq!(line.answer(&read[..8]).unwrap(), None);
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
