//! A parser of server-sent events, without socket and clock.

use crate::limits;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The stream's last id as of this event.
    pub id: String,
    pub kind: String,
    pub data: String,
}

/// Assembles events from chunks that end anywhere.
#[derive(Debug, Default)]
pub struct SseParser {
    /// Bytes of an incomplete line.
    partial: Vec<u8>,
    id: String,
    kind: String,
    data: Option<String>,
}

impl SseParser {
    /// The events completed by a chunk.
    ///
    /// # Errors
    /// A line or event is larger than [`limits::CLIENT_EVENT_BYTES_MAX`].
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<SseEvent>, String> {
        let mut events = Vec::new();
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line =
                String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            if let Some(event) = self.line(&line) {
                events.push(event);
            }
        }
        self.partial.extend_from_slice(rest);
        let held = self.partial.len() + self.data.as_ref().map_or(0, String::len);
        match held > limits::CLIENT_EVENT_BYTES_MAX {
            true => {
                Err(format!("an event is larger than {} bytes", limits::CLIENT_EVENT_BYTES_MAX))
            }
            false => Ok(events),
        }
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            return self.data.take().map(|data| SseEvent { id: self.id.clone(), kind, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = value.into(),
            "event" => self.kind = value.into(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.into()),
            },
            // Comments (an empty field) keep the connection alive; we ignore `retry`.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks end anywhere, also within a character; an event lost here is a message not seen.
    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let stream = "retry: 1000\n\n: keep-alive\n\nid: 3.0\nevent: line\ndata: {\"ü\":1}\n\n\
                      id: 3.1\r\ndata: a\r\ndata:b\r\n\r\nevent: slotd.gap\ndata: {}\n\nid: 4.0\ndata: cut";
        let expected =
            [("3.0", "line", "{\"ü\":1}"), ("3.1", "", "a\nb"), ("3.1", "slotd.gap", "{}")].map(
                |(id, kind, data)| SseEvent { id: id.into(), kind: kind.into(), data: data.into() },
            );
        for size in 1..stream.len() {
            let mut parser = SseParser::default();
            let mut events = Vec::new();
            for chunk in stream.as_bytes().chunks(size) {
                events.extend(parser.push(chunk).unwrap());
            }
            assert_eq!(events, expected, "chunks of {size}");
        }
    }

    /// A server that never ends a line must not fill our memory.
    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = SseParser::default();
        let chunk = vec![b'x'; limits::CLIENT_EVENT_BYTES_MAX / 2 + 1];
        assert!(parser.push(&chunk).is_ok());
        assert!(parser.push(&chunk).is_err());
    }
}
