//! A client of server-sent events.

use crate::http::Client;
use anyhow::Context;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

/// An open event stream.
pub struct Sse {
    body: Incoming,
    buffer: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: String,
}

impl Sse {
    /// # Errors
    /// When the connection fails or the server refuses.
    pub async fn open(client: &Client, path: &str, last_id: Option<&str>) -> anyhow::Result<Self> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_id.map(|id| ("last-event-id", id)));
        Ok(Self { body: client.stream(path, &headers).await?, buffer: Vec::new() })
    }

    /// The next event; `None` when the server ended the stream gracefully. Cancel-safe.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn next(&mut self) -> anyhow::Result<Option<SseEvent>> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(event));
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.context("reading events")?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

impl SseEvent {
    /// Its id without the session part: `seq.index`.
    pub fn place(&self) -> Option<&str> {
        self.id.as_deref().map(|id| id.split_once('-').map_or(id, |(place, _)| place))
    }

    /// # Errors
    /// When the data is not JSON of that shape.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.data).with_context(|| format!("event data {:?}", self.data))
    }
}

/// `None` for a block of comments only (a keep-alive).
fn parse(block: &str) -> Option<SseEvent> {
    let mut event = SseEvent::default();
    let mut any = false;
    let mut data: Vec<&str> = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.into()),
            "event" => event.event = Some(value.into()),
            "data" => data.push(value),
            _ => continue,
        }
        any = true;
    }
    event.data = data.join("\n");
    any.then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keep-alive parsed as an event would look like a repeated one.
    #[test]
    fn a_block_is_an_event_unless_it_is_a_comment() {
        assert_eq!(parse(": keep-alive\n\n"), None);
        let event = parse("id: 7\nevent:said\ndata: a\ndata:b\n\n");
        let expected =
            SseEvent { id: Some("7".into()), event: Some("said".into()), data: "a\nb".into() };
        assert_eq!(event, Some(expected));
    }
}
