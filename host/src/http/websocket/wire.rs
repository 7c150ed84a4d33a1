//! A connection that carries frames.

use super::{
    Fault,
    frame::{self, Decoder, Message},
};
use crate::{
    buffers::{Buffers, Charge, Kind},
    limits,
};
use bytes::{Buf, Bytes};
use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// What came over the wire.
#[derive(Debug)]
pub(in super::super) enum Heard {
    Message(Message),
    /// What must end the connection; nothing more follows.
    Fault(Fault),
    /// The peer half-closed without a close frame; `inside` a frame or message.
    End {
        inside: bool,
    },
    /// The connection is broken.
    Broken,
}

/// Reads messages and writes frames. Holds no buffer while idle.
pub(in super::super) struct Wire<S> {
    stream: S,
    decoder: Decoder,
    /// Read and not decoded yet, from `at`.
    rest: Bytes,
    /// Frames that are not written yet, from `written`.
    out: Vec<u8>,
    written: usize,
    /// The stream may hold some of what it took.
    unflushed: bool,
    /// When the incomplete message began.
    since: Option<Instant>,
    ended: bool,
    /// What was looked at too early.
    put_back: Option<Heard>,
    reading: Charge,
    writing: Charge,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// `rest` is what was read with the handshake.
    pub(in super::super) fn new(
        stream: S,
        rest: Bytes,
        message_bytes_max: usize,
        buffers: &Arc<Buffers>,
    ) -> Self {
        Self {
            stream,
            decoder: Decoder::new(message_bytes_max),
            rest,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            since: None,
            ended: false,
            put_back: None,
            reading: Charge::new(buffers.clone(), Kind::Frames),
            writing: Charge::new(buffers.clone(), Kind::Answers),
        }
    }

    /// When the incomplete message began: its head, its frames, or one of them.
    pub(in super::super) fn unfinished_since(&self) -> Option<Instant> {
        self.since
    }

    /// Time in which nothing was read does not count for incomplete messages.
    pub(in super::super) fn not_read_until(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// The next message, or the end. Not called again after the end.
    pub(in super::super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            if let Some(heard) = self.next_of_rest() {
                return Poll::Ready(heard);
            }
            if self.ended {
                return Poll::Ready(Heard::End { inside: self.decoder.is_inside() });
            }
            let mut scratch = [const { MaybeUninit::<u8>::uninit() }; limits::SOCKET_READ_BYTES];
            let mut read = ReadBuf::uninit(&mut scratch);
            if ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read)).is_err() {
                return Poll::Ready(Heard::Broken);
            }
            let mut bytes = read.filled();
            if bytes.is_empty() {
                self.ended = true;
                continue;
            }
            let decoded = self.decoder.decode(&mut bytes);
            if !bytes.is_empty() {
                self.rest = Bytes::copy_from_slice(bytes);
            }
            if let Some(heard) = self.took(decoded) {
                return Poll::Ready(heard);
            }
        }
    }

    /// The next message, if it has been read already.
    pub(in super::super) fn next_of_rest(&mut self) -> Option<Heard> {
        if let Some(heard) = self.put_back.take() {
            return Some(heard);
        }
        if self.rest.is_empty() {
            return None;
        }
        let mut bytes = &self.rest[..];
        let decoded = self.decoder.decode(&mut bytes);
        match bytes.len() {
            0 => self.rest = Bytes::new(),
            left => self.rest.advance(self.rest.len() - left),
        }
        self.took(decoded)
    }

    /// What comes next has to wait: it is given again.
    pub(in super::super) fn put_back(&mut self, heard: Heard) {
        self.put_back = Some(heard);
    }

    /// Updates the time and memory of the incomplete message.
    fn took(&mut self, decoded: Result<Option<Message>, Fault>) -> Option<Heard> {
        let message = match decoded {
            Ok(message) => message,
            Err(fault) => return Some(self.fault(fault)),
        };
        if matches!(message, Some(Message::Text(_) | Message::Binary)) {
            self.since = None;
        }
        if self.decoder.is_inside() {
            self.since.get_or_insert_with(crate::clock::timer_now);
        }
        match message {
            Some(message) => {
                self.reading.hold(self.decoder.held() + self.rest.len());
                Some(Heard::Message(message))
            }
            // All that was read is in the decoder.
            None => match self.reading.set(self.decoder.held()) {
                Ok(()) => None,
                Err(_) => Some(self.fault(Fault::NoMemory)),
            },
        }
    }

    /// Nothing more is read: nothing is held for it while the connection ends.
    fn fault(&mut self, fault: Fault) -> Heard {
        self.decoder.clear();
        self.reading.hold(0);
        Heard::Fault(fault)
    }

    /// Queues a frame.
    pub(in super::super) fn write(&mut self, opcode: u8, payload: &[u8]) {
        frame::encode(&mut self.out, opcode, payload);
    }

    /// As [`Wire::write`], with a payload that is written in its place.
    pub(in super::super) fn write_with(&mut self, opcode: u8, payload: impl FnOnce(&mut Vec<u8>)) {
        frame::encode_with(&mut self.out, opcode, payload);
    }

    pub(in super::super) fn write_close(&mut self, code: Option<u16>, reason: &str) {
        let mut payload = Vec::new();
        if let Some(code) = code {
            payload.extend_from_slice(&code.to_be_bytes());
            payload.extend_from_slice(reason.as_bytes());
        }
        self.write(frame::CLOSE, &payload);
    }

    /// Bytes that wait to be written; what the stream holds of them counts as one.
    pub(in super::super) fn waiting(&self) -> usize {
        self.out.len() - self.written + usize::from(self.unflushed)
    }

    /// Writes what waits.
    pub(in super::super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let bytes = &self.out[self.written..];
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // When the budget is exhausted, the connections that hold most of it are
                    // closed.
                    let holds = self.out.capacity();
                    return match self.writing.set(holds) {
                        Err(_) if holds > limits::SUBSCRIBER_BYTES_FREE => {
                            Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()))
                        }
                        _ => Poll::Pending,
                    };
                }
            }
        }
        self.out = Vec::new();
        self.written = 0;
        self.writing.hold(0);
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Closes this side, then drops further input, up to the peer's end.
    pub(in super::super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
