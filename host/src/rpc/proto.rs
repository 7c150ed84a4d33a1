//! What travels between nodes: frames (protobuf) of many items each, whatever carries them.
//!
//! They are written by hand as what `prost-build` would generate from
//!
//! ```proto
//! message Item  { uint64 id = 1; uint32 kind = 2; bytes head = 3; bytes body = 4; uint64 total = 5; }
//! message Frame { repeated Item items = 1; }
//! ```
//!
//! The form of frames, of [`Hello`] and of [`GoAway`] never changes: so two versions can always report
//! why they reject a link. All else that nodes exchange, what items mean and how they are encoded, has
//! a version: [`crate::peer::protocol`].

use bytes::Bytes;

/// What one item costs in a frame beside its head and body, at most.
pub(super) const ITEM_OVERHEAD: usize = 40;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Frame {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Item>,
}

/// A request, a response, or a control message of the link itself.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Item {
    /// The request that it belongs to; for other items, see [`kind`].
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// One of [`kind`].
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// A version byte and a postcard structure of at most a few KiB.
    #[prost(bytes = "bytes", tag = "3")]
    pub head: Bytes,
    /// What may be large.
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
    /// With a request, answer or live item: if not 0, `body` is the first piece of one of so many
    /// bytes, and the rest follows in items of kind [`kind::PIECE`], between which other items may
    /// come. With other items as their [`kind`] defines.
    #[prost(uint64, tag = "5")]
    pub total: u64,
}

impl Item {
    pub fn new(kind: u32, id: u64) -> Self {
        Self { kind, id, ..Self::default() }
    }
    /// Bytes that it takes in a queue or frame, roughly.
    pub fn cost(&self) -> usize {
        self.head.len() + self.body.len() + ITEM_OVERHEAD
    }
}

/// What an item is. Numbers are never used again for something else.
pub(super) mod kind {
    /// The next bytes of a body that comes in pieces.
    pub const PIECE: u32 = 1;
    /// The head is a [`super::Hello`]. The first item in each direction.
    pub const HELLO: u32 = 2;
    /// The head is the sender's proof that it knows the secret. Only on unencrypted links.
    pub const PROOF: u32 = 3;
    /// The head is a [`super::GoAway`]: the sender closes the link.
    pub const GO_AWAY: u32 = 4;
    /// `id` is any number; the peer sends it back as [`PONG`].
    pub const PING: u32 = 5;
    pub const PONG: u32 = 6;
    /// From the caller.
    pub const REQUEST: u32 = 7;
    /// The caller gave up the request, or the subscription, of this id.
    pub const CANCEL: u32 = 8;
    /// The subscriber took what `total` counts; so much more may be sent.
    pub const CREDIT: u32 = 9;
    /// The answer to a request.
    pub const RESPONSE: u32 = 10;
    /// The answer to a subscription that goes on: [`LIVE`] items of the same id follow.
    pub const RESPONSE_LIVE: u32 = 11;
    pub const LIVE: u32 = 12;
    /// The subscription ends; `total` is 1 if its reader was too slow.
    pub const LIVE_END: u32 = 13;
}

/// How a node introduces itself. Fields may be added, none is changed: peers of every version
/// read it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hello {
    /// The cluster's feature level: nodes up to 0.1.0 of 25 November 2026 take no other number
    /// than their own, which is 1.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Of the calling node; the other side sends the same, whatever its own is, until the caller
    /// has shown that it knows the secret.
    #[prost(string, tag = "2")]
    pub cluster: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub instance: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub boot: u64,
    #[prost(string, tag = "6")]
    pub ring_scheme: String,
    #[prost(uint32, tag = "7")]
    pub slot_count: u32,
    /// Random bytes, new for each link, that the proofs are about; empty in TLS.
    #[prost(bytes = "vec", tag = "8")]
    pub nonce: Vec<u8>,
    /// For people.
    #[prost(string, tag = "9")]
    pub version: String,
    /// The oldest version that the node speaks; 0, as nodes up to 0.1.0 send it: `protocol` alone.
    #[prost(uint32, tag = "10")]
    pub protocol_oldest: u32,
    /// The newest version that the node speaks; 0: `protocol`.
    #[prost(uint32, tag = "11")]
    pub protocol_newest: u32,
}

/// Why a side closes the link. As stable as [`Hello`].
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GoAway {
    /// [`super::handshake::Reason::as_str`], or empty for an orderly end.
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(string, tag = "2")]
    pub detail: String,
}
