//! Keys from the cluster's secret, for all that nodes send each other from feature level 3 on.
//!
//! HKDF-SHA256 (RFC 5869): the secret is extracted once, and each key is expanded with a label of its
//! own. A label is a list of parts, each with its length before it, so that no two can be the same
//! bytes. (What older nodes send has keys of its own, in `membership::tagged` and `rpc::grpc`.)

use ring::{aead, hkdf, hmac};

const SALT: &[u8] = b"slotd cluster secret, level 3";

/// What keys are derived from.
pub struct ClusterKeys(hkdf::Prk);

impl ClusterKeys {
    pub fn new(secret: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret))
    }

    /// The seed of the Ed25519 key of the cluster's authority, where the secret is all that the
    /// nodes have in common.
    pub fn authority(&self) -> Option<[u8; 32]> {
        let mut seed = [0; 32];
        self.expand(&[b"authority"], hkdf::HKDF_SHA256, |key| key.fill(&mut seed).ok())?;
        Some(seed)
    }

    /// With which callers show that they know the secret, before the called node shows anything.
    pub fn knock(&self) -> Option<hmac::Key> {
        self.expand(&[b"knock"], hmac::HMAC_SHA256, |key| Some(key.into()))
    }

    /// Signs the tokens that any node of the cluster mints, and all of them accept.
    pub fn minting(&self) -> Option<[u8; 32]> {
        let mut key = [0; 32];
        self.expand(&[b"minted tokens"], hkdf::HKDF_SHA256, |okm| okm.fill(&mut key).ok())?;
        Some(key)
    }

    /// For datagrams of one purpose and one sender. Each of the sender's numbers is used once.
    pub fn datagrams(&self, purpose: &[&[u8]]) -> Option<aead::LessSafeKey> {
        let purpose = [&[b"datagrams".as_slice()], purpose].concat();
        let key = |key: hkdf::Okm<'_, _>| Some(aead::LessSafeKey::new(key.into()));
        self.expand(&purpose, &aead::CHACHA20_POLY1305, key)
    }

    /// `None`: never, for keys of these lengths.
    fn expand<L: hkdf::KeyType, T>(
        &self,
        label: &[&[u8]],
        length: L,
        take: impl FnOnce(hkdf::Okm<'_, L>) -> Option<T>,
    ) -> Option<T> {
        let mut info = Vec::new();
        for part in label {
            info.extend((part.len() as u64).to_be_bytes());
            info.extend(*part);
        }
        take(self.0.expand(&[&info], length).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Two builds that derive other keys refuse each other: these never change. Computed apart from
    /// this code, with Python's `hmac`.
    #[test]
    fn keys_are_what_they_always_were() {
        let keys = ClusterKeys::new(b"a shared secret");
        assert_eq!(
            hex(&keys.authority().unwrap()),
            "e74536bf592e3d3f0775d511f631c86bd4d9933241e4636138d8577290e19133"
        );
        assert_eq!(
            hex(&keys.minting().unwrap()),
            "b9c4c39f2cb8998aac9ffea4be819e995f265d1ec27f56c5c2a3c7443da4521c"
        );
        let knock = hmac::sign(&keys.knock().unwrap(), b"x");
        assert_eq!(
            hex(knock.as_ref()),
            "d65abd97b0d96402c449a1f0b54d9819a9eecac126667076f0fc2450ba62d11a"
        );
    }

    /// A key that serves two purposes, or parts that run into each other, would let one message pass
    /// for another.
    #[test]
    fn each_purpose_has_a_key_of_its_own() {
        let keys = ClusterKeys::new(b"a shared secret");
        let seal = |keys: &ClusterKeys, purpose: &[&[u8]]| {
            let mut bytes = b"body".to_vec();
            let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
            let key = keys.datagrams(purpose).unwrap();
            key.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut bytes).unwrap();
            bytes
        };
        let sealed = [
            seal(&keys, &[b"ab", b"c"]),
            seal(&keys, &[b"a", b"bc"]),
            seal(&keys, &[b"abc"]),
            seal(&ClusterKeys::new(b"another"), &[b"abc"]),
        ];
        for (n, one) in sealed.iter().enumerate() {
            assert!(sealed[n + 1..].iter().all(|other| one != other));
        }
        assert_eq!(sealed[0], seal(&keys, &[b"ab", b"c"]));
    }
}
