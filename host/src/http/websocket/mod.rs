//! WebSockets (RFC 6455) from the server's side: the handshake, frames, and a connection that
//! carries them.
//!
//! No library's frame reader is used: incomplete messages must be charged to the memory of all
//! connections, have a timeout, and be decided before a close is answered.

mod frame;
mod handshake;
mod wire;

pub(super) use frame::{Message, PING, PONG, TEXT};
pub(super) use handshake::Upgrade;
pub(super) use wire::{Heard, Wire};

/// Codes of a close frame.
pub(super) mod code {
    pub(in super::super) const NORMAL: u16 = 1000;
    pub(in super::super) const PROTOCOL: u16 = 1002;
    pub(in super::super) const NOT_UTF8: u16 = 1007;
    pub(in super::super) const POLICY: u16 = 1008;
    pub(in super::super) const TOO_LARGE: u16 = 1009;
    /// The peer may not take longer than a reconnect to notice that the node stops.
    pub(in super::super) const RESTART: u16 = 1012;
    pub(in super::super) const TRY_AGAIN_LATER: u16 = 1013;
    /// Of slotd: its token has expired.
    pub(in super::super) const EXPIRED: u16 = 4401;
    /// Of slotd: whoever opened it may not have it open any more.
    pub(in super::super) const FORBIDDEN: u16 = 4403;
}

/// Input from a peer that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Violates RFC 6455.
    Protocol(&'static str),
    /// A text message, or the reason of a close.
    NotUtf8,
    /// A message over the limit.
    TooLarge,
    /// There is no memory for the rest of a message.
    NoMemory,
}

impl Fault {
    /// The close code for it.
    pub(super) fn close(self) -> (u16, &'static str) {
        match self {
            Self::Protocol(why) => (code::PROTOCOL, why),
            Self::NotUtf8 => (code::NOT_UTF8, "text is not UTF-8"),
            Self::TooLarge => (code::TOO_LARGE, "the message is larger than the limit"),
            Self::NoMemory => {
                (code::TRY_AGAIN_LATER, "the node has no memory for the rest of the message")
            }
        }
    }
}
