//! Datagrams from feature level 3 on: a salt, then the body encrypted and authenticated by
//! ChaCha20-Poly1305 (RFC 8439), together with the header and the salt.
//!
//! Each start of a node has keys of its own ([`crate::peer::keys`]), which depend on the sender and
//! the salt in its datagrams, 128 random bits. Under them the datagram's number, which is used once,
//! is the nonce.

use super::wire::{Kind, OVERHEAD_BYTES, START_BYTES, Start, Terms};
use crate::peer::keys::ClusterKeys;
use ring::aead::{Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce};

const SALT_BYTES: usize = 16;
const HEAD_BYTES: usize = START_BYTES + SALT_BYTES;
const _: () = assert!(HEAD_BYTES + MAX_TAG_LEN == OVERHEAD_BYTES);

pub(super) struct Sealed {
    keys: ClusterKeys,
    ring_scheme: String,
    slot_count: u16,
    salt: [u8; SALT_BYTES],
}

impl Sealed {
    pub fn new(secret: &[u8], terms: &Terms, salt: u128) -> Self {
        Self {
            keys: ClusterKeys::new(secret),
            ring_scheme: terms.ring_scheme.clone(),
            slot_count: terms.slot_count,
            salt: salt.to_be_bytes(),
        }
    }

    /// A datagram that begins with `start`, of this sender and number.
    pub fn seal(
        &self,
        kind: Kind,
        cluster: &str,
        start: Vec<u8>,
        (sender, number): (u64, u64),
        body: &[u8],
    ) -> Vec<u8> {
        let mut bytes = start;
        bytes.extend(self.salt);
        let mut sealed = body.to_vec();
        let key = self.key(kind, cluster, sender, &self.salt);
        // Neither fails for a body that fits a datagram. If one did, nothing must leave.
        let tagged = key.is_some_and(|key| {
            let head = Aad::from(&*bytes);
            key.seal_in_place_append_tag(nonce(number), head, &mut sealed).is_ok()
        });
        if tagged {
            bytes.extend(sealed);
        }
        bytes
    }

    /// The body, if it was made with this node's key.
    pub fn open(
        &self,
        kind: Kind,
        cluster: &str,
        start: Start,
        datagram: &[u8],
    ) -> Option<Vec<u8>> {
        let (head, sealed) = datagram.split_at_checked(HEAD_BYTES)?;
        let salt = head.last_chunk::<SALT_BYTES>()?;
        let key = self.key(kind, cluster, start.sender, salt)?;
        let mut body = sealed.to_vec();
        let length = key.open_in_place(nonce(start.number), Aad::from(head), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }

    /// A hello is for every cluster with this secret, so that another name can be named.
    fn key(
        &self,
        kind: Kind,
        cluster: &str,
        sender: u64,
        salt: &[u8; SALT_BYTES],
    ) -> Option<LessSafeKey> {
        let sender = &[sender.to_be_bytes().as_slice(), salt].concat();
        let (cluster, slots) = (cluster.as_bytes(), self.slot_count.to_be_bytes());
        match kind {
            Kind::Hello => self.keys.datagrams(&[b"hello", sender]),
            Kind::Welcome => self.keys.datagrams(&[b"welcome", sender, cluster]),
            Kind::Refusal => self.keys.datagrams(&[b"refusal", sender, cluster]),
            Kind::Gossip => {
                let scheme = self.ring_scheme.as_bytes();
                self.keys.datagrams(&[b"gossip", sender, cluster, scheme, &slots])
            }
        }
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}
