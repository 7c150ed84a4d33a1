//! How two nodes verify that they belong to the same cluster, before any other message on a link.
//!
//! The caller sends its [`Hello`], the other side answers with its own. Then the caller proves that
//! it knows the cluster's secret: an HMAC-SHA256 (RFC 2104) over the role and both hellos, which hold
//! a fresh nonce each. Only then the other side compares the hellos, and reports the mismatch or
//! proves the same; the caller compares after that. The secret itself never travels, and a proof
//! can't be used again.
//!
//! A caller that has not proven anything learns nothing that depends on the secret, and not whether
//! its cluster's name is right: its hello is answered whatever stands in it, and its proof is right
//! or not. What is wrong stands in the log of the node that refused. One side has to prove itself
//! first, and it is the caller, who chose whom to call: who takes the place of a member at its
//! address sees a proof, against which secrets can be tried. That is what a secret of 128 bits is
//! for ([`crate::peer::secret`]).

use super::{
    RpcOptions,
    outbox::Outbox,
    proto::{Frame, GoAway, Hello, Item, kind},
};
use crate::{
    discovery::Found,
    limits,
    mac::Mac,
    peer::{member::Members, protocol::Protocols},
    telemetry::{metrics, repeats::Limiter},
    text::{Keep, cut, printable},
};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    error::Error as _,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tonic::Streaming;

pub(super) const NONCE_BYTES: usize = 32;

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
    /// Of one that did not prove that it knows the secret.
    fn unproven(detail: String) -> Self {
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

/// Which side of the link a node is. Part of the proof: one can't be played back as the other.
#[derive(Clone, Copy)]
pub(super) enum Role {
    Caller,
    Called,
}

/// Both hellos as they were on the wire.
pub(super) struct Hellos<'a> {
    pub caller: &'a [u8],
    pub called: &'a [u8],
}

/// A peer that introduced itself.
#[derive(Clone, Debug)]
pub(super) struct Introduced {
    pub name: Arc<str>,
    pub instance: u128,
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

    /// The caller's side of the handshake, with the node that should be `expected`.
    ///
    /// # Errors
    /// Who ended it and why. A refusal of this side must still be sent to the other.
    pub async fn introduce(
        &self,
        expected: &str,
        frames: &mut Streaming<Frame>,
        outbox: &Outbox,
        hello: &[u8],
    ) -> Result<Introduced, HandshakeError> {
        let theirs = expect(frames, kind::HELLO).await?;
        let said = read(&theirs)?;
        let hellos = Hellos { caller: hello, called: &theirs };
        outbox.urgent(word(kind::PROOF, self.proof(Role::Caller, &hellos)));
        let proof = expect(frames, kind::PROOF).await?;
        self.verify(Role::Called, &hellos, &proof, &said)?;
        Ok(self.check(said, Some(expected))?)
    }

    /// The other side. Calls `progress` when a hello has arrived.
    ///
    /// # Errors
    /// As [`Own::introduce`].
    pub async fn receive(
        &self,
        frames: &mut Streaming<Frame>,
        outbox: &Outbox,
        progress: impl FnOnce(),
    ) -> Result<Introduced, HandshakeError> {
        let theirs = expect(frames, kind::HELLO).await?;
        let said = read(&theirs)?;
        progress();
        let hello = self.hello_of(said.cluster.clone());
        outbox.urgent(word(kind::HELLO, &*hello));
        let hellos = Hellos { caller: &theirs, called: &hello };
        let proof = expect(frames, kind::PROOF).await?;
        self.verify(Role::Caller, &hellos, &proof, &said)?;
        let peer = self.check(said, None)?;
        outbox.urgent(word(kind::PROOF, self.proof(Role::Called, &hellos)));
        Ok(peer)
    }

    /// This node's hello, encoded, with a new nonce.
    pub fn hello(&self) -> Vec<u8> {
        self.hello_of(self.options.cluster.to_string())
    }

    fn hello_of(&self, cluster: String) -> Vec<u8> {
        let own = &self.options.member;
        let protocols = Protocols::at(self.options.level.get());
        Hello {
            protocol: protocols.oldest.into(),
            protocol_oldest: protocols.oldest.into(),
            protocol_newest: protocols.newest.into(),
            cluster,
            name: own.name.to_string(),
            instance: own.instance.to_be_bytes().to_vec(),
            boot: own.boot,
            ring_scheme: self.options.ring_scheme.to_string(),
            slot_count: self.options.slot_count.into(),
            nonce: crate::random::bytes::<NONCE_BYTES>().to_vec(),
            version: own.version.to_string(),
        }
        .encode_to_vec()
    }

    /// Whether a node with this hello, which knows the secret, belongs here. `expected`: the node
    /// that this one called.
    ///
    /// # Errors
    /// The first thing that does not fit.
    fn check(&self, theirs: Hello, expected: Option<&str>) -> Result<Introduced, Refusal> {
        let (name, version) = (clean(&theirs.name), clean(&theirs.version));
        let (protocols, ours) = (protocols(&theirs), Protocols::at(self.options.level.get()));
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
        Ok(Introduced { name: theirs.name.into(), instance })
    }

    /// `role`'s proof.
    pub fn proof(&self, role: Role, hellos: &Hellos<'_>) -> [u8; 32] {
        let role: &[u8] = match role {
            Role::Caller => b"slotd peer link 1: caller",
            Role::Called => b"slotd peer link 1: called",
        };
        let parts = [role, hellos.caller, hellos.called];
        hmac(&self.options.secret, parts)
    }

    /// # Errors
    /// `proof` is not what `role` would send if it knew the secret.
    fn verify(
        &self,
        role: Role,
        hellos: &Hellos<'_>,
        proof: &[u8],
        theirs: &Hello,
    ) -> Result<(), Refusal> {
        if self.proof(role, hellos).ct_eq(proof).into() {
            return Ok(());
        }
        let (name, ours) = (clean(&theirs.name), &*self.options.cluster);
        let cluster = match &*theirs.cluster {
            same if same == ours => String::new(),
            other => format!(", and its cluster is {:?}, this node's {ours:?}", clean(other)),
        };
        let detail = format!("node {name:?} and this node have different secrets{cluster}");
        Err(Refusal::unproven(detail))
    }

    /// Why links were refused lately.
    #[cfg(test)]
    pub fn reasons(&self) -> Vec<Reason> {
        self.noted.lock().keys().map(|(reason, _)| *reason).collect()
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
/// It is no hello that a proof could be about.
fn read(hello: &[u8]) -> Result<Hello, Refusal> {
    let malformed = |what: &str| Refusal::malformed(format!("its hello {what}"));
    let hello = Hello::decode(hello).map_err(|_| malformed("does not decode"))?;
    if hello.nonce.len() != NONCE_BYTES {
        return Err(malformed("has no nonce"));
    }
    Ok(hello)
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
async fn expect(frames: &mut Streaming<Frame>, kind: u32) -> Result<Bytes, HandshakeError> {
    let frame = match frames.message().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(HandshakeError::Closed("it closed the link".into())),
        // It has a source when it is about the connection, and not about what came over it.
        Err(status) if status.source().is_some() => {
            return Err(HandshakeError::Closed(clean(status.message())));
        }
        Err(status) => return Err(Refusal::malformed(clean(status.message())).into()),
    };
    match &*frame.items {
        [item] if item.kind == kind => Ok(item.head.clone()),
        [item, ..] if item.kind == kind::GO_AWAY => {
            Err(HandshakeError::Theirs(Refusal::read(item)))
        }
        _ => Err(Refusal::malformed("it does not speak the peer protocol").into()),
    }
}

/// HMAC-SHA256 (RFC 2104) of `parts`, each with its length before it.
fn hmac<const N: usize>(key: &[u8], parts: [&[u8]; N]) -> [u8; 32] {
    let mut message = Vec::new();
    for part in parts {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    Mac::new(key).tag(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts that run into each other would let one hello stand for another.
    #[test]
    fn parts_are_told_apart() {
        assert_ne!(hmac(b"k", [b"ab", b"c"]), hmac(b"k", [b"a", b"bc"]));
    }

    /// Text of an unauthenticated peer must not pass for a log line of our own.
    #[test]
    fn text_from_outside_is_cleaned() {
        assert_eq!(clean("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(clean(&"ü".repeat(500)).len(), limits::PEER_TEXT_BYTES_MAX);
    }
}
