//! What a message is a part of, as [Trace Context](https://www.w3.org/TR/trace-context/) has it: slotd makes no spans of its
//! own, but hands on the client's to what a message leads to.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The header that it comes and goes in.
pub const TRACEPARENT: &str = "traceparent";

/// A client's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trace {
    id: [u8; 16],
    /// The span that has caused the message.
    parent: [u8; 8],
    flags: u8,
}

impl Trace {
    /// `None`: it is none, which concerns nobody.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, id) = (parts.next()?, parts.next()?);
        let (parent, flags) = (parts.next()?, parts.next()?);
        let [version] = bytes(version)?;
        // Later versions may have more behind it.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (id, parent, [flags]) = (bytes(id)?, bytes(parent)?, bytes(flags)?);
        let is_some = id != [0; 16] && parent != [0; 8];
        // Of those of later versions nothing is known but what version 0 has.
        let flags = if version == 0 { flags } else { flags & 1 };
        is_some.then_some(Self { id, parent, flags })
    }

    /// The same trace, with another span as its parent. 0 is none.
    #[must_use]
    pub fn child(self, span: u64) -> Self {
        Self { parent: span.max(1).to_be_bytes(), ..self }
    }
}

/// Lower-case hexadecimal.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
}

impl fmt::Display for Trace {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, parent, flags } = self;
        let (id, parent) = (u128::from_be_bytes(*id), u64::from_be_bytes(*parent));
        write!(to, "00-{id:032x}-{parent:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// A trace would end at slotd, or nonsense be handed on.
    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let trace = Trace::parse(ONE).expect("a trace");
        assert_eq!(trace.to_string(), ONE);
        let child = trace.child(0xab);
        assert_eq!(child.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ab-01");
        assert_eq!(Trace::parse(&format!("cc{}-more", &ONE[2..])), Some(trace));
        let wrong = [
            "",
            "00",
            &ONE.replace("4bf9", "4BF9"),
            &ONE.replace("00-", "ff-"),
            &format!("{ONE}-more"),
            &ONE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &ONE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &ONE.replace("-01", "-1"),
        ];
        for text in wrong {
            assert_eq!(Trace::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_sends_ends_the_process(text in "\\PC*") {
            let _ = Trace::parse(&text);
        }
    }
}
