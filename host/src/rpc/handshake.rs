//! How two nodes verify that they belong to the same cluster, before any other message on a link.
//!
//! On an encrypted link TLS has authenticated both sides ([`super::tls`]). The caller sends its
//! [`Hello`], the other side compares it with its own, and reports the mismatch or answers with its
//! own; the caller compares after that. (On a link with a node from before feature level 3, the hellos
//! come before that node is authenticated: [`super::grpc`].)

use super::{
    RpcOptions,
    outbox::Outbox,
    proto::{GoAway, Hello, Item, kind},
    transport::{FrameError, FramesIn},
};
use crate::{
    discovery::Found,
    level::{self, Level},
    limits,
    peer::{member::Members, protocol::Protocols},
    telemetry::{metrics, repeats::Limiter},
    text::{Keep, cut, printable},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::sync::watch;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal;)*) => {
        /// Why a link is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])* $variant,)* }
        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
        }
    };
}

reasons! {
    /// Not a message that a peer would send.
    Malformed = "malformed";
    /// Another version of the protocol.
    Protocol = "protocol";
    /// Another cluster.
    Cluster = "cluster";
    /// The ring is computed in another way.
    Ring = "ring";
    /// Another number of slots.
    SlotCount = "slot-count";
    /// The secret is another one.
    Secret = "secret";
    /// The certificate is not of the cluster's authority, or not for this node.
    Certificate = "certificate";
    /// The node is not the one that it should be.
    Identity = "identity";
    /// It did not introduce itself in time.
    Timeout = "timeout";
    /// Closed to make room for other connections before it had proven anything.
    Crowded = "crowded";
}

/// Rejected link.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub reason: Reason,
    /// For this node's log.
    pub detail: String,
    /// Sent to the other side, if it must not see `detail`.
    public_detail: Option<&'static str>,
}

/// How a handshake failed.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// This side refuses the other.
    Ours(Refusal),
    /// The other side refused.
    Theirs(Refusal),
    /// The connection ended.
    Closed(String),
}

impl Refusal {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), public_detail: None }
    }
    /// Of one that did not prove that it knows the secret, on an unencrypted link.
    pub fn unproven(detail: String) -> Self {
        let public_detail = "this node's secret or cluster name differs from the called node's; its log \
            says which";
        Self { reason: Reason::Secret, detail, public_detail: Some(public_detail) }
    }
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Reason::Malformed, detail)
    }
    /// The item that reports it to the other side.
    pub fn go_away(&self) -> Item {
        let reason = self.reason.as_str().to_owned();
        let detail = self.public_detail.unwrap_or(&self.detail).to_owned();
        let go_away = GoAway { reason, detail };
        Item { head: go_away.encode_to_vec().into(), ..Item::new(kind::GO_AWAY, 0) }
    }
    /// The refusal in the other side's item.
    pub fn read(item: &Item) -> Self {
        let Ok(GoAway { reason, detail }) = GoAway::decode(&*item.head) else {
            return Self::malformed("its go-away message can't be decoded");
        };
        let known = Reason::ALL.iter().find(|known| known.as_str() == reason);
        Self::new(known.copied().unwrap_or(Reason::Malformed), clean(&detail))
    }
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Ours(refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.reason.as_str())
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(refusal) => write!(f, "refused: {refusal}"),
            Self::Theirs(refusal) => write!(f, "it refused the link: {refusal}"),
            Self::Closed(why) => f.write_str(why),
        }
    }
}

/// Text from outside: short, and without what a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    let text = printable(cut(text, limits::PEER_TEXT_BYTES_MAX), Keep::Nothing);
    cut(&text, limits::PEER_TEXT_BYTES_MAX).to_owned()
}

/// What this node is to its peers, and what it expects of them.
pub(super) struct Own {
    pub options: RpcOptions,
    pub members: watch::Receiver<Arc<Members>>,
    found: watch::Receiver<Found>,
    noted: Mutex<Limiter<(Reason, IpAddr)>>,
}

/// A peer that introduced itself.
#[derive(Clone, Debug)]
pub(super) struct Introduced {
    pub name: Arc<str>,
    pub instance: u128,
    /// The newest version that it speaks.
    pub newest: Level,
}

impl Introduced {
    /// Whether it takes encrypted links. Who does is never talked to without encryption.
    pub fn encrypts(&self) -> bool {
        self.newest >= level::ENCRYPTED
    }
}

impl Own {
    pub fn new(
        options: RpcOptions,
        members: watch::Receiver<Arc<Members>>,
        found: watch::Receiver<Found>,
    ) -> Self {
        let noted = Limiter::new(limits::PEER_LOG_INTERVAL, limits::PEER_LOG_KEYS_MAX);
        Self { options, members, found, noted: Mutex::new(noted) }
    }

    /// Whether a member has this address, or discovery gave it.
    pub fn is_known(&self, address: IpAddr) -> bool {
        let is = |peer: &SocketAddr| peer.ip().to_canonical() == address;
        self.members.borrow().alive.iter().any(|member| is(&member.peer))
            || self.found.borrow().addresses.iter().any(is)
    }

    /// The versions that this node speaks now.
    pub fn protocols(&self) -> Protocols {
        Protocols { newest: self.options.newest, ..Protocols::at(self.options.level.get()) }
    }

    /// The caller's side of the handshake in TLS, with the node that should be `expected`.
    ///
    /// # Errors
    /// Who ended it and why. A refusal of this side must still be sent to the other.
    pub async fn introduce(
        &self,
        expected: &str,
        frames: &mut FramesIn,
        outbox: &Outbox,
        certified: &[String],
    ) -> Result<Introduced, HandshakeError> {
        outbox.urgent(word(kind::HELLO, self.hello(&self.options.cluster, &[])));
        let theirs = read(&expect(frames, kind::HELLO).await?)?;
        Ok(self.check_certified(theirs, Some(expected), certified)?)
    }

    /// The other side.
    ///
    /// # Errors
    /// As [`Own::introduce`].
    pub async fn receive(
        &self,
        frames: &mut FramesIn,
        outbox: &Outbox,
        certified: &[String],
    ) -> Result<Introduced, HandshakeError> {
        let theirs = read(&expect(frames, kind::HELLO).await?)?;
        let peer = self.check_certified(theirs, None, certified)?;
        outbox.urgent(word(kind::HELLO, self.hello(&self.options.cluster, &[])));
        Ok(peer)
    }

    /// This node's hello, encoded.
    pub fn hello(&self, cluster: &str, nonce: &[u8]) -> Vec<u8> {
        let own = &self.options.member;
        let protocols = self.protocols();
        Hello {
            protocol: protocols.oldest.into(),
            protocol_oldest: protocols.oldest.into(),
            protocol_newest: protocols.newest.into(),
            cluster: cluster.to_owned(),
            name: own.name.to_string(),
            instance: own.instance.to_be_bytes().to_vec(),
            boot: own.boot,
            ring_scheme: self.options.ring_scheme.to_string(),
            slot_count: self.options.slot_count.into(),
            nonce: nonce.to_vec(),
            version: own.version.to_string(),
        }
        .encode_to_vec()
    }

    fn check_certified(
        &self,
        theirs: Hello,
        expected: Option<&str>,
        certified: &[String],
    ) -> Result<Introduced, Refusal> {
        let peer = self.check(theirs, expected)?;
        if certified.is_empty() || certified.iter().any(|name| **name == *peer.name) {
            return Ok(peer);
        }
        let detail = format!(
            "node {:?} has a certificate of node {}",
            clean(&peer.name),
            clean(&certified.join(", "))
        );
        Err(Refusal::new(Reason::Certificate, detail))
    }

    /// Whether a node with this hello, which knows the secret, belongs here. `expected`: the node
    /// that this one called.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, theirs: Hello, expected: Option<&str>) -> Result<Introduced, Refusal> {
        let (name, version) = (clean(&theirs.name), clean(&theirs.version));
        let (protocols, ours) = (protocols(&theirs), self.protocols());
        if ours.common(protocols).is_none() {
            let age = if protocols.newest < ours.oldest { "older" } else { "newer" };
            return Err(Refusal::new(
                Reason::Protocol,
                format!(
                    "node {name:?} (slotd {version}) speaks the {age} protocol {protocols}, this node {ours}"
                ),
            ));
        }
        let differs = |reason, what: &str, theirs: &str, ours: &str| {
            if theirs == ours {
                return Ok(());
            }
            let theirs = clean(theirs);
            Err(Refusal::new(
                reason,
                format!("node {name:?} has {what} {theirs:?}, this node {ours:?}"),
            ))
        };
        let (own, slots) = (&self.options, self.options.slot_count.to_string());
        differs(Reason::Cluster, "cluster", &theirs.cluster, &own.cluster)?;
        differs(Reason::Ring, "ring scheme", &theirs.ring_scheme, &own.ring_scheme)?;
        differs(Reason::SlotCount, "slot count", &theirs.slot_count.to_string(), &slots)?;
        let instance = <[u8; 16]>::try_from(&*theirs.instance)
            .map(u128::from_be_bytes)
            .map_err(|_| Refusal::malformed("its hello has no instance"))?;
        if theirs.name.is_empty() || theirs.name.len() > limits::NODE_NAME_BYTES_MAX {
            return Err(Refusal::malformed("its hello has no name"));
        }
        let identity = |detail| Err(Refusal::new(Reason::Identity, detail));
        if theirs.name == *own.member.name {
            return identity(format!("another process calls itself {name:?}, like this node"));
        }
        if let Some(expected) = expected.filter(|expected| *expected != theirs.name) {
            return identity(format!("expected node {expected:?} at this address, found {name:?}"));
        }
        // One that is not known yet is fine: views differ in time.
        if let Some(known) = self.members.borrow().get(&theirs.name)
            && theirs.boot < known.boot
        {
            return identity(format!(
                "node {name:?} is an older process (start {}) than the one known to this node (start {})",
                theirs.boot, known.boot
            ));
        }
        Ok(Introduced { name: theirs.name.into(), instance, newest: protocols.newest })
    }

    /// Why links were refused lately.
    #[cfg(test)]
    pub fn reasons(&self) -> Vec<Reason> {
        self.noted.lock().keys().map(|(reason, _)| *reason).collect()
    }

    /// Takes note of a handshake that failed on this node's link to a peer.
    pub fn failed(&self, peer: IpAddr, failed: &HandshakeError) {
        match failed {
            HandshakeError::Ours(refusal) => self.refused(peer, "a link to a peer", refusal),
            HandshakeError::Theirs(refusal) => self.refused(peer, "this node", refusal),
            HandshakeError::Closed(_) => {}
        }
    }

    /// Counts a refusal and, at a limited rate, logs it.
    pub fn refused(&self, from: IpAddr, what: &str, refusal: &Refusal) {
        metrics().peer_refused(refusal.reason.as_str());
        let about = (refusal.reason, from);
        let Some(more) = self.noted.lock().admit(about, crate::clock::now()) else { return };
        let Refusal { reason, detail, .. } = refusal;
        tracing::warn!(
            reason = reason.as_str(), %from, repeated = more,
            "{what} was refused: {}", clean(detail)
        );
    }
}

/// # Errors
/// It is no hello.
pub(super) fn read(hello: &[u8]) -> Result<Hello, Refusal> {
    Hello::decode(hello).map_err(|_| Refusal::malformed("its hello does not decode"))
}

fn protocols(hello: &Hello) -> Protocols {
    let version = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    let newest = version(hello.protocol.max(hello.protocol_newest));
    match hello.protocol_oldest {
        0 => Protocols { oldest: newest, newest },
        oldest => Protocols { oldest: version(oldest), newest },
    }
}

/// An item that has only a head.
pub(super) fn word(kind: u32, head: impl AsRef<[u8]>) -> Item {
    Item { head: Bytes::copy_from_slice(head.as_ref()), ..Item::new(kind, 0) }
}

/// The head of the next item, which must be of this kind and alone.
///
/// # Errors
/// Another one came, or none.
pub(super) async fn expect(frames: &mut FramesIn, kind: u32) -> Result<Bytes, HandshakeError> {
    let frame = match frames.next().await {
        Some(Ok(frame)) => frame,
        None => return Err(HandshakeError::Closed("it closed the link".into())),
        Some(Err(FrameError::Closed(why))) => return Err(HandshakeError::Closed(why)),
        Some(Err(FrameError::Malformed(why))) => return Err(Refusal::malformed(why).into()),
        Some(Err(FrameError::Untrusted(why))) => {
            return Err(HandshakeError::Theirs(Refusal::new(Reason::Certificate, why)));
        }
    };
    match &*frame.items {
        [item] if item.kind == kind => Ok(item.head.clone()),
        [item, ..] if item.kind == kind::GO_AWAY => {
            Err(HandshakeError::Theirs(Refusal::read(item)))
        }
        _ => Err(Refusal::malformed("it does not speak the peer protocol").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of an unauthenticated peer must not pass for a log line of our own.
    #[test]
    fn text_from_outside_is_cleaned() {
        assert_eq!(clean("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(clean(&"ü".repeat(500)).len(), limits::PEER_TEXT_BYTES_MAX);
    }
}
