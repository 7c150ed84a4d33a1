//! Frames of RFC 6455, as a server reads and writes them. Pure: bytes in, messages out.
//!
//! Everything in a head is checked before its payload is read, so an invalid frame costs no memory
//! and is refused without waiting for its end.

use super::Fault;

/// Bits of a frame's first byte.
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// The highest bit of the second byte: the payload is masked.
const MASKED: u8 = 0x80;
/// Of a control frame's payload.
const CONTROL_BYTES_MAX: usize = 125;
/// Two bytes, a length of eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;

pub(in super::super) const CONTINUATION: u8 = 0;
pub(in super::super) const TEXT: u8 = 1;
const BINARY: u8 = 2;
pub(in super::super) const CLOSE: u8 = 8;
pub(in super::super) const PING: u8 = 9;
pub(in super::super) const PONG: u8 = 10;

/// A complete message from the peer.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Message {
    Text(String),
    /// Its content is not used by this protocol.
    Binary,
    Ping(Vec<u8>),
    Pong,
    /// With its code, if it has one.
    Close(Option<u16>),
}

/// A frame whose payload is arriving.
#[derive(Clone, Copy)]
struct Incoming {
    opcode: u8,
    last: bool,
    left: usize,
    mask: [u8; 4],
}

/// Reads frames from pieces of any size.
pub(super) struct Decoder {
    bytes_max: usize,
    /// The start of a head.
    head: [u8; HEAD_BYTES_MAX],
    head_len: usize,
    frame: Option<Incoming>,
    /// The opcode of the incomplete message.
    kind: Option<u8>,
    /// Its payload so far.
    message: Vec<u8>,
    /// The payload so far of a control frame, which may come between the frames of a message.
    control: Vec<u8>,
}

impl Decoder {
    /// For messages of at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            head: [0; HEAD_BYTES_MAX],
            head_len: 0,
            frame: None,
            kind: None,
            message: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Whether there is an incomplete frame or message.
    pub(super) fn is_inside(&self) -> bool {
        self.head_len > 0 || self.frame.is_some() || self.kind.is_some()
    }

    /// Memory used for the incomplete message.
    pub(super) fn held(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }

    /// Drops the incomplete message.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Takes from the front of `bytes` up to the end of the next message, or all of them.
    ///
    /// # Errors
    /// What must end the connection. It must not be called again then.
    pub(super) fn decode(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, Fault> {
        loop {
            let mut frame = match self.frame {
                Some(frame) => frame,
                None => match self.read_head(bytes)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let (piece, rest) = bytes.split_at(frame.left.min(bytes.len()));
            *bytes = rest;
            let into = match is_control(frame.opcode) {
                true => &mut self.control,
                false => &mut self.message,
            };
            if into.is_empty() && frame.left == piece.len() {
                into.reserve_exact(piece.len());
            }
            let start = into.len();
            into.extend_from_slice(piece);
            unmask(&mut into[start..], frame.mask);
            frame.left -= piece.len();
            frame.mask.rotate_left(piece.len() % 4);
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            self.frame = None;
            if let Some(message) = self.end_of(frame)? {
                return Ok(Some(message));
            }
        }
    }

    /// A whole head, checked.
    fn read_head(&mut self, bytes: &mut &[u8]) -> Result<Option<Incoming>, Fault> {
        while let Some((byte, rest)) = bytes.split_first() {
            self.head[self.head_len] = *byte;
            self.head_len += 1;
            *bytes = rest;
            if self.head_len == 2 {
                self.check(self.head[0], self.head[1])?;
            }
            if self.head_len >= 2 && self.head_len == head_length(self.head[1]) {
                self.head_len = 0;
                return self.begin().map(Some);
            }
        }
        Ok(None)
    }

    /// Parses the first two bytes.
    fn check(&self, first: u8, second: u8) -> Result<(), Fault> {
        let opcode = first & 0x0f;
        let protocol = |why| Err(Fault::Protocol(why));
        if first & RESERVED != 0 {
            return protocol("a reserved bit is set, and no extension was negotiated");
        }
        if second & MASKED == 0 {
            return protocol("a client's frame is not masked");
        }
        match opcode {
            CLOSE | PING | PONG if first & FINAL == 0 => {
                return protocol("a control frame is fragmented");
            }
            CLOSE | PING | PONG if usize::from(second & !MASKED) > CONTROL_BYTES_MAX => {
                return protocol("a control frame has more than 125 bytes");
            }
            CLOSE | PING | PONG => {}
            CONTINUATION if self.kind.is_none() => {
                return protocol("a continuation frame without a first frame");
            }
            TEXT | BINARY if self.kind.is_some() => {
                return protocol("a new message before the previous one ended");
            }
            CONTINUATION | TEXT | BINARY => {}
            _ => return protocol("an undefined opcode"),
        }
        Ok(())
    }

    /// Parses a complete head. The payload is next.
    fn begin(&mut self) -> Result<Incoming, Fault> {
        let [first, second, rest @ ..] = self.head;
        let (length, mask) = match second & !MASKED {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..6]),
            127 => {
                let mut length = [0; 8];
                length.copy_from_slice(&rest[..8]);
                (u64::from_be_bytes(length), &rest[8..12])
            }
            short => (u64::from(short), &rest[..4]),
        };
        let shortest = match second & !MASKED {
            126 => length > 125,
            127 => length > 0xffff && length >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(Fault::Protocol("a length is not in its shortest encoding"));
        }
        let opcode = first & 0x0f;
        let left = usize::try_from(length).unwrap_or(usize::MAX);
        if !is_control(opcode) {
            if left > self.bytes_max.saturating_sub(self.message.len()) {
                return Err(Fault::TooLarge);
            }
            self.kind.get_or_insert(opcode);
        }
        let mut key = [0; 4];
        key.copy_from_slice(mask);
        Ok(Incoming { opcode, last: first & FINAL != 0, left, mask: key })
    }

    fn end_of(&mut self, frame: Incoming) -> Result<Option<Message>, Fault> {
        match frame.opcode {
            PING => Ok(Some(Message::Ping(std::mem::take(&mut self.control)))),
            PONG => {
                self.control = Vec::new();
                Ok(Some(Message::Pong))
            }
            CLOSE => close(&std::mem::take(&mut self.control)).map(|c| Some(Message::Close(c))),
            _ if !frame.last => Ok(None),
            _ => {
                let message = std::mem::take(&mut self.message);
                match self.kind.take() {
                    Some(TEXT) => match String::from_utf8(message) {
                        Ok(text) => Ok(Some(Message::Text(text))),
                        Err(_) => Err(Fault::NotUtf8),
                    },
                    _ => Ok(Some(Message::Binary)),
                }
            }
        }
    }
}

fn is_control(opcode: u8) -> bool {
    opcode & 0x08 != 0
}

/// Bytes of a head whose second byte is this one.
fn head_length(second: u8) -> usize {
    match second & !MASKED {
        126 => 2 + 2 + 4,
        127 => 2 + 8 + 4,
        _ => 2 + 4,
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The code of a close frame.
fn close(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload.is_empty() {
            true => Ok(None),
            false => Err(Fault::Protocol("a truncated close code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    // Codes that RFC 6455 and its registry let an endpoint send, and those of applications.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Fault::Protocol("a close code that must not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Fault::NotUtf8),
    }
}

/// Appends a complete server frame.
pub(super) fn encode(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.reserve(HEAD_BYTES_MAX + payload.len());
    let (head, len) = head(opcode, payload.len());
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(payload);
}

/// As [`encode`], with a payload that is written where it belongs. Its head is taken to have the length that
/// most have: another one moves the payload.
pub(super) fn encode_with(out: &mut Vec<u8>, opcode: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    const USUAL: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; USUAL]);
    payload(out);
    let (head, len) = head(opcode, out.len() - start - USUAL);
    if len == USUAL {
        out[start..start + USUAL].copy_from_slice(&head[..USUAL]);
    } else {
        out.splice(start..start + USUAL, head[..len].iter().copied());
    }
}

/// The head of a frame whose payload has this length, and how long it is itself.
fn head(opcode: u8, length: usize) -> ([u8; 10], usize) {
    let mut head = [0; 10];
    head[0] = FINAL | opcode;
    let len = match length {
        short @ 0..=125 => {
            head[1] = short as u8;
            2
        }
        middle @ 126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(middle as u16).to_be_bytes());
            4
        }
        long => {
            head[1] = 127;
            head[2..10].copy_from_slice(&(long as u64).to_be_bytes());
            10
        }
    };
    (head, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Control, Data, OpCode},
    };

    /// A client's frame, as another implementation writes it.
    fn client(opcode: OpCode, last: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = match opcode {
            OpCode::Control(_) => Frame::ping(payload.to_vec()),
            OpCode::Data(_) => Frame::message(payload.to_vec(), opcode, last),
        };
        frame.header_mut().mask = Some([1, 2, 3, payload.len() as u8]);
        let mut bytes = Vec::new();
        frame.format(&mut bytes).expect("a vector takes all");
        bytes
    }

    fn decode_all(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Message>, Fault> {
        let (mut decoder, mut messages) = (Decoder::new(100_000), Vec::new());
        let mut rest = bytes;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = cuts.next().copied().unwrap_or(usize::MAX).clamp(1, rest.len());
            let (mut piece, after) = rest.split_at(cut);
            rest = after;
            while !piece.is_empty() {
                messages.extend(decoder.decode(&mut piece)?);
            }
        }
        assert!(!decoder.is_inside() && decoder.held() == 0);
        Ok(messages)
    }

    proptest! {
        /// Without it a message could be split, joined or changed by how the network splits it.
        #[test]
        fn messages_survive_fragments_and_any_cuts(
            texts in prop::collection::vec(".{0,300}", 1..6),
            pieces in 1usize..5,
            cuts in prop::collection::vec(1usize..700, 1..8),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for text in &texts {
                let size = text.len().div_ceil(pieces).max(1);
                let parts: Vec<_> = text.as_bytes().chunks(size).collect();
                let parts = if parts.is_empty() { vec![&[][..]] } else { parts };
                for (at, part) in parts.iter().enumerate() {
                    let kind = if at == 0 { Data::Text } else { Data::Continue };
                    bytes.extend(client(OpCode::Data(kind), at + 1 == parts.len(), part));
                    bytes.extend(client(OpCode::Control(Control::Ping), true, b"p"));
                    let ping = Message::Ping(b"p".to_vec());
                    if at + 1 == parts.len() {
                        expected.push(Message::Text(text.clone()));
                    }
                    expected.push(ping);
                }
            }
            prop_assert_eq!(decode_all(&bytes, &cuts).expect("good frames"), expected);
        }

        /// Without it garbage could panic the node, or make it hold more than a message may have.
        #[test]
        fn garbage_ends_in_a_fault_or_waits(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut decoder = Decoder::new(1_000);
            let mut rest = &bytes[..];
            while !rest.is_empty() && decoder.decode(&mut rest).is_ok() {}
            prop_assert!(decoder.held() <= 2 * (1_000 + CONTROL_BYTES_MAX));
        }
    }

    /// Without it, output could not be read at the lengths where the encoding changes.
    #[test]
    fn frames_are_written_in_their_shortest_form() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 99_999] {
            let mut out = Vec::new();
            encode(&mut out, TEXT, &vec![b'x'; length]);
            let head = out.len() - length;
            assert_eq!(head, [2, 4, 10][usize::from(length > 125) + usize::from(length > 65_535)]);
            // Where it is written in place, too, behind another one.
            let mut behind = b"before".to_vec();
            encode_with(&mut behind, TEXT, |out| out.extend(vec![b'x'; length]));
            assert_eq!(behind[6..], out);
            let read = client(OpCode::Data(Data::Text), true, &vec![b'x'; length]);
            let messages = decode_all(&read, &[]).expect("good");
            assert_eq!(messages, [Message::Text("x".repeat(length))]);
        }
    }

    /// Without it a frame over the limit would be read, and held, before it is refused.
    #[test]
    fn a_message_over_the_limit_is_refused_by_its_head() {
        let whole = client(OpCode::Data(Data::Text), true, &[b'x'; 1_001]);
        assert_eq!(Decoder::new(1_000).decode(&mut &whole[..8]), Err(Fault::TooLarge));
        let mut decoder = Decoder::new(1_000);
        let half = client(OpCode::Data(Data::Text), false, &[b'x'; 600]);
        assert_eq!(decoder.decode(&mut &half[..]), Ok(None));
        let more = client(OpCode::Data(Data::Continue), false, &[b'x'; 401]);
        assert_eq!(decoder.decode(&mut &more[..8]), Err(Fault::TooLarge));
    }
}
