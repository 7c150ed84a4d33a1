//! Server-sent events, read as they come, as the HTML standard says:
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

use crate::limits;

/// Whether a body with this `Content-Type` is of server-sent events.
pub fn is_event_stream(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("text/event-stream")
}

/// An event that a server has sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Empty: `message`.
    pub name: String,
    /// The lines of `data:`, with `\n` between them.
    pub data: String,
    /// The last id that the stream has named; empty if none.
    pub id: String,
}

/// An event has more than [`limits::EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is larger than {} bytes", limits::EVENT_BYTES_MAX)]
pub struct EventTooLarge;

/// Reads events. How the stream is cut into chunks makes no difference.
#[derive(Debug, Default)]
pub struct Parser {
    /// The line that has not ended.
    line: Vec<u8>,
    name: String,
    data: Option<String>,
    id: String,
    /// The line before ended with `\r`: a `\n` that follows belongs to it.
    after_cr: bool,
    /// A line has ended: there is no byte order mark any more.
    is_begun: bool,
}

impl Parser {
    /// Adds the events that end within these bytes. One that has not ended when the stream does is none.
    ///
    /// # Errors
    /// If an event is too large. Those before it have been added; nothing can follow.
    pub fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), EventTooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr)
                && let Some(rest) = bytes.strip_prefix(b"\n")
            {
                bytes = rest;
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            let held = self.line.len() + self.data.as_ref().map_or(0, String::len);
            if held + line.len() > limits::EVENT_BYTES_MAX {
                return Err(EventTooLarge);
            }
            self.line.extend_from_slice(line);
            let Some((end, rest)) = rest.split_first() else { break };
            self.after_cr = *end == b'\r';
            bytes = rest;
            let line = std::mem::take(&mut self.line);
            events.extend(self.end_line(&line));
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8]) -> Option<Event> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let line = if is_first { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            return self.data.take().map(|data| Event { name, data, id: self.id.clone() });
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        let is_short = value.len() <= limits::EVENT_NAME_BYTES_MAX;
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            "event" if is_short => value.clone_into(&mut self.name),
            "id" if is_short && !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment, `retry`, or what a later standard has.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> (Vec<Event>, Result<(), EventTooLarge>) {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        let read = chunks.iter().try_for_each(|chunk| parser.feed(chunk, &mut events));
        (events, read)
    }

    fn event(name: &str, data: &str, id: &str) -> Event {
        Event { name: name.into(), data: data.into(), id: id.into() }
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let text = "\u{feff}data: one\n\n: a comment\ndata:two\r\ndata:  three\rid: 7\nevent: add\n\n\
                    data\n\ndata\ndata\n\nevent: lost\n\nid\ndata: {\"a\":\"b: c\"}\nretry: 5\nx: y\n\n\
                    id: a\0b\ndata: last\n\ndata: not ended\n";
        let (events, read) = read(&[text.as_bytes()]);
        assert_eq!(read, Ok(()));
        let expected = [
            event("", "one", ""),
            event("add", "two\n three", "7"),
            event("", "", "7"),
            event("", "\n", "7"),
            event("", "{\"a\":\"b: c\"}", ""),
            event("", "last", ""),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn an_event_without_an_end_is_bounded() {
        let line = vec![b'x'; limits::EVENT_BYTES_MAX + 1];
        assert_eq!(
            read(&[b"data: ok\n\n", &line]),
            (vec![event("", "ok", "")], Err(EventTooLarge))
        );
        let mut lines = Vec::new();
        for _ in 0..=limits::EVENT_BYTES_MAX / 64 {
            lines.extend_from_slice(format!("data: {}\n", "y".repeat(63)).as_bytes());
        }
        assert_eq!(read(&[&lines]).1, Err(EventTooLarge));
        // Comments keep a stream alive, and are kept by nobody.
        let comments = b": still here\n".repeat(100_000);
        assert_eq!(read(&[&comments]), (vec![], Ok(())));
    }

    #[test]
    fn long_names_and_ids_are_ignored() {
        let long = "z".repeat(limits::EVENT_NAME_BYTES_MAX + 1);
        let text = format!("id: {long}\nevent: {long}\ndata: a\n\n");
        assert_eq!(read(&[text.as_bytes()]).0, [event("", "a", "")]);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("data: ".as_bytes().to_vec()),
            Just(b"data".to_vec()),
            Just(b"event:".to_vec()),
            Just(b"id: 1".to_vec()),
            Just(b":".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just("\u{feff}".as_bytes().to_vec()),
            Just("ä€𝄞".as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn any_cut_of_a_stream_gives_the_same_events(
            stream in stream(),
            cuts in prop::collection::vec(0..9_usize, 1..64),
        ) {
            let mut chunks = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            prop_assert_eq!(read(&chunks), read(&[&stream]));
            let bytes: Vec<_> = stream.chunks(1).collect();
            prop_assert_eq!(read(&bytes), read(&[&stream]));
        }
    }
}
