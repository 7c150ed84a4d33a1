//! How nodes from before feature level 3 prove to each other that they know the cluster's secret.
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

use super::super::{
    handshake::{HandshakeError, Introduced, Own, Refusal, clean, expect, read, word},
    outbox::Outbox,
    proto::{Hello, kind},
    transport::FramesIn,
};
use crate::mac::Mac;
use subtle::ConstantTimeEq as _;

pub(in crate::rpc) const NONCE_BYTES: usize = 32;

/// Which side of the link a node is. Part of the proof: one can't be played back as the other.
#[derive(Clone, Copy)]
pub(in crate::rpc) enum Role {
    Caller,
    Called,
}

/// Both hellos as they were on the wire.
pub(in crate::rpc) struct Hellos<'a> {
    pub caller: &'a [u8],
    pub called: &'a [u8],
}

/// This node's hello, encoded, with a new nonce.
pub(in crate::rpc) fn hello(own: &Own, cluster: &str) -> Vec<u8> {
    own.hello(cluster, &crate::random::bytes::<NONCE_BYTES>())
}

/// The caller's side, with the node that should be `expected`. `hello` was sent already.
///
/// # Errors
/// Who ended it and why. A refusal of this side must still be sent to the other.
pub(in crate::rpc) async fn introduce(
    own: &Own,
    expected: &str,
    frames: &mut FramesIn,
    outbox: &Outbox,
    hello: &[u8],
) -> Result<Introduced, HandshakeError> {
    let theirs = expect(frames, kind::HELLO).await?;
    let said = with_nonce(&theirs)?;
    let hellos = Hellos { caller: hello, called: &theirs };
    outbox.urgent(word(kind::PROOF, proof(own, Role::Caller, &hellos)));
    let shown = expect(frames, kind::PROOF).await?;
    verify(own, Role::Called, &hellos, &shown, &said)?;
    Ok(own.check(said, Some(expected))?)
}

/// The other side. Calls `progress` when a hello has arrived.
///
/// # Errors
/// As [`introduce`].
pub(in crate::rpc) async fn receive(
    own: &Own,
    frames: &mut FramesIn,
    outbox: &Outbox,
    progress: impl FnOnce(),
) -> Result<Introduced, HandshakeError> {
    let theirs = expect(frames, kind::HELLO).await?;
    let said = with_nonce(&theirs)?;
    progress();
    let hello = hello(own, &said.cluster);
    outbox.urgent(word(kind::HELLO, &*hello));
    let hellos = Hellos { caller: &theirs, called: &hello };
    let shown = expect(frames, kind::PROOF).await?;
    verify(own, Role::Caller, &hellos, &shown, &said)?;
    let peer = own.check(said, None)?;
    outbox.urgent(word(kind::PROOF, proof(own, Role::Called, &hellos)));
    Ok(peer)
}

/// `role`'s proof.
pub(in crate::rpc) fn proof(own: &Own, role: Role, hellos: &Hellos<'_>) -> [u8; 32] {
    let role: &[u8] = match role {
        Role::Caller => b"slotd peer link 1: caller",
        Role::Called => b"slotd peer link 1: called",
    };
    let parts = [role, hellos.caller, hellos.called];
    hmac(&own.options.secret, parts)
}

/// # Errors
/// `shown` is not what `role` would send if it knew the secret.
fn verify(
    own: &Own,
    role: Role,
    hellos: &Hellos<'_>,
    shown: &[u8],
    theirs: &Hello,
) -> Result<(), Refusal> {
    if proof(own, role, hellos).ct_eq(shown).into() {
        return Ok(());
    }
    let (name, ours) = (clean(&theirs.name), &*own.options.cluster);
    let cluster = match &*theirs.cluster {
        same if same == ours => String::new(),
        other => format!(", and its cluster is {:?}, this node's {ours:?}", clean(other)),
    };
    let detail = format!("node {name:?} and this node have different secrets{cluster}");
    Err(Refusal::unproven(detail))
}

/// # Errors
/// It is no hello that a proof could be about.
fn with_nonce(hello: &[u8]) -> Result<Hello, Refusal> {
    let hello = read(hello)?;
    if hello.nonce.len() != NONCE_BYTES {
        return Err(Refusal::malformed("its hello has no nonce"));
    }
    Ok(hello)
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
}
