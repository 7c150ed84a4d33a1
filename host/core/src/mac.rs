//! HMAC-SHA256 (RFC 2104), with which nodes from before feature level 3 prove to each other that they
//! know the cluster's secret.

use sha2::{Digest as _, Sha256};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 32;

/// HMAC-SHA256 with one key.
#[derive(Clone)]
pub struct Mac {
    inner: Sha256,
    outer: Sha256,
}

impl Mac {
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0u8; 64];
        if key.len() > block.len() {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let pad = |with: u8| Sha256::new_with_prefix(block.map(|b| b ^ with));
        Self { inner: pad(0x36), outer: pad(0x5c) }
    }
    pub fn tag(&self, data: &[u8]) -> [u8; TAG_BYTES] {
        let inner = self.inner.clone().chain_update(data).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// RFC 4231, cases 2, 4 and 6: a wrong MAC might still agree with itself, and two builds that
    /// compute another would refuse each other.
    #[test]
    fn the_mac_is_hmac_sha256() {
        let tag = Mac::new(b"Jefe").tag(b"what do ya want for nothing?");
        assert_eq!(hex(&tag), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let key: Vec<u8> = (1..=25).collect();
        let tag = Mac::new(&key).tag(&[0xcd; 50]);
        assert_eq!(hex(&tag), "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
        let tag =
            Mac::new(&[0xaa; 131]).tag(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex(&tag), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }
}
