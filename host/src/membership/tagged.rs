//! Datagrams of before feature level 3: the body in clear, then an HMAC-SHA256 (RFC 2104) over header
//! and body. To be deleted with the first version that needs no upgrade from one of before level 3.

use super::wire::{Kind, START_BYTES, Terms};
use crate::{
    mac::{Mac, TAG_BYTES},
    names::is_cluster_name,
};
use subtle::ConstantTimeEq as _;

pub(super) struct Tagged {
    secret: Mac,
    join: Mac,
    gossip: Mac,
}

impl Tagged {
    pub fn new(secret: &[u8], terms: &Terms) -> Self {
        let secret = Mac::new(secret);
        let cluster = terms.cluster.as_bytes();
        let (scheme, slots) = (terms.ring_scheme.as_bytes(), terms.slot_count.to_be_bytes());
        Self {
            join: join_key(&secret, &terms.cluster),
            gossip: key(&secret, &[b"slotd gossip", cluster, scheme, &slots]),
            secret,
        }
    }

    /// A datagram that begins with `start`. Gossip is this cluster's only.
    pub fn seal(&self, kind: Kind, cluster: &str, start: Vec<u8>, body: &[u8]) -> Vec<u8> {
        let mut bytes = start;
        bytes.extend(body);
        let tag = match kind {
            Kind::Gossip => self.gossip.tag(&bytes),
            _ => join_key(&self.secret, cluster).tag(&bytes),
        };
        bytes.extend(tag);
        bytes
    }

    /// Whether a hello was made with this node's secret, for a cluster of that name.
    pub fn knows_secret(&self, cluster: &str, hello: &[u8]) -> bool {
        is_cluster_name(cluster)
            && opened(&join_key(&self.secret, cluster), hello).is_some_and(|(known, _)| known)
    }

    /// Whether it was made with this node's key, and the body.
    pub fn open<'a>(&self, kind: Kind, datagram: &'a [u8]) -> Option<(bool, &'a [u8])> {
        opened(if kind == Kind::Gossip { &self.gossip } else { &self.join }, datagram)
    }
}

fn opened<'a>(key: &Mac, datagram: &'a [u8]) -> Option<(bool, &'a [u8])> {
    let (signed, tag) = datagram.split_at_checked(datagram.len().checked_sub(TAG_BYTES)?)?;
    Some((key.tag(signed).ct_eq(tag).into(), signed.get(START_BYTES..)?))
}

/// A key for one purpose.
fn key(secret: &Mac, purpose: &[&[u8]]) -> Mac {
    let mut text = Vec::new();
    for part in purpose {
        text.extend((part.len() as u32).to_be_bytes());
        text.extend(*part);
    }
    Mac::new(&secret.tag(&text))
}

fn join_key(secret: &Mac, cluster: &str) -> Mac {
    key(secret, &[b"slotd join", cluster.as_bytes()])
}
