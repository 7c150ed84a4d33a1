//! Hands over a body as it comes: secrets taken out, cut between characters or into events.

use crate::{
    limits,
    outcome::{Failure, Kind},
    redact::{Finder, Redactor},
    request::Chunk,
    sse::Parser,
};
use tokio::sync::mpsc::Sender;

/// Where a body goes while it comes.
pub(crate) struct Sink<'a> {
    finder: &'a Finder,
    redactor: Redactor,
    form: Form,
    /// `None` when nobody listens any more; the body is read to its end all the same.
    to: Option<Sender<Chunk>>,
}

pub(crate) enum Form {
    Text(Utf8),
    Events(Parser),
}

impl<'a> Sink<'a> {
    pub(crate) fn new(finder: &'a Finder, form: Form, to: Sender<Chunk>) -> Self {
        Self { finder, redactor: Redactor::default(), form, to: Some(to) }
    }

    /// Hands over what these bytes complete. It waits for who reads.
    pub(crate) async fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let bytes = self.redactor.feed(self.finder, bytes);
        self.hand_over(&bytes, false).await
    }

    /// Hands over the rest. An event that has not ended is none.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        let bytes = self.redactor.finish(self.finder);
        self.hand_over(&bytes, true).await
    }

    async fn hand_over(&mut self, bytes: &[u8], is_end: bool) -> Result<(), Failure> {
        match &mut self.form {
            Form::Text(text) => {
                let mut text = text.feed(bytes, is_end);
                while !text.is_empty() {
                    let end = text.floor_char_boundary(limits::CHUNK_BYTES_MAX);
                    let rest = text.split_off(end);
                    send(&mut self.to, Chunk::Text(std::mem::replace(&mut text, rest))).await;
                }
            }
            Form::Events(parser) => {
                let mut events = Vec::new();
                let fed = parser.feed(bytes, &mut events);
                for event in events {
                    send(&mut self.to, Chunk::Event(event)).await;
                }
                fed.map_err(|error| Failure::new(Kind::TooLarge, error.to_string()))?;
            }
        }
        Ok(())
    }
}

async fn send(to: &mut Option<Sender<Chunk>>, chunk: Chunk) {
    if let Some(sender) = to
        && sender.send(chunk).await.is_err()
    {
        *to = None;
    }
}

/// Text from bytes that may be cut within a character.
#[derive(Default)]
pub(crate) struct Utf8 {
    /// The beginning of a character: three bytes at most.
    held: Vec<u8>,
}

impl Utf8 {
    fn feed(&mut self, bytes: &[u8], is_end: bool) -> String {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut rest = all.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    break;
                }
                Err(error) => error,
            };
            let (good, bad) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(good));
            match error.error_len() {
                None if !is_end => {
                    self.held = bad.to_vec();
                    break;
                }
                length => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = bad.get(length.unwrap_or(bad.len())..).unwrap_or_default();
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_is_the_same_however_its_bytes_are_cut(
            parts in prop::collection::vec(prop_oneof![
                Just("ä€𝄞x".as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..5),
            ], 0..12),
            cut in 1..5_usize,
        ) {
            let bytes = parts.concat();
            let (mut utf8, mut text) = (Utf8::default(), String::new());
            for chunk in bytes.chunks(cut) {
                text.push_str(&utf8.feed(chunk, false));
                prop_assert!(utf8.held.len() < 4);
            }
            text.push_str(&utf8.feed(b"", true));
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
