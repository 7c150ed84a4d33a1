//! Which addresses are whose: what may be connected to without a word from an operator is the public internet only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The internet.
    Public,
    /// This machine, and networks behind it: loopback, RFC 1918, unique local, carriers' (CGNAT).
    Private,
    /// Link-local, and where clouds give a machine's credentials to whoever asks from it.
    Metadata,
    /// An IPv6 address that leads to this IPv4 address: mapped, compatible, 6to4, NAT64.
    Translated(Ipv4Addr),
    /// Nothing to connect to: unspecified, multicast, broadcast, documentation, and what is not given out.
    Reserved,
}

/// Which addresses a rule reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Public ones.
    Public,
    /// Private ones too: the rule names the host, and says so.
    Private,
    /// The one that the rule names, and says that it is private.
    Literal,
}

impl Reach {
    /// Whether an address may be connected to.
    pub fn has(self, address: IpAddr) -> bool {
        match class(address) {
            Class::Public => true,
            Class::Private => self >= Self::Private,
            Class::Metadata => self == Self::Literal,
            Class::Translated(inner) => self >= Self::Private && self.has(inner.into()),
            Class::Reserved => false,
        }
    }
}

/// What an address is for.
pub fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => class_v6(address),
    }
}

/// From IANA's registry of special addresses.
fn class_v4(address: Ipv4Addr) -> Class {
    match address.octets() {
        // "This network", protocol assignments, documentation, the relay of 6to4, benchmarks, and multicast and up.
        [0 | 224.., ..]
        | [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..] => Class::Reserved,
        // Azure's is among public addresses, Alibaba's among the carriers'.
        [169, 254, ..] | [168, 63, 129, 16] | [100, 100, 100, 200] => Class::Metadata,
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => {
            Class::Private
        }
        _ => Class::Public,
    }
}

fn class_v6(address: Ipv6Addr) -> Class {
    let bits = address.to_bits();
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Reserved,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Private,
        // Compatible, mapped, translated by SIIT, and the well-known prefix of NAT64.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Class::Translated(low_v4(bits)),
        [0x2002, ..] => Class::Translated(low_v4(bits >> 80)),
        // Of Amazon's machines.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Class::Metadata,
        [0xfe80..=0xfebf, ..] => Class::Metadata,
        // Unique local, and site-local, as it was once called.
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Class::Private,
        // Protocol assignments, Teredo among them, and documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Class::Reserved,
        // All that is given out.
        [0x2000..=0x3fff, ..] => Class::Public,
        _ => Class::Reserved,
    }
}

fn low_v4(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits((bits & u128::from(u32::MAX)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is not the internet, as a network and the bits of its prefix.
    const NOT_PUBLIC_V4: [(&str, u32); 17] = [
        ("0.0.0.0", 8),
        ("10.0.0.0", 8),
        ("100.64.0.0", 10),
        ("127.0.0.0", 8),
        ("169.254.0.0", 16),
        ("172.16.0.0", 12),
        ("192.0.0.0", 24),
        ("192.0.2.0", 24),
        ("192.88.99.0", 24),
        ("192.168.0.0", 16),
        ("198.18.0.0", 15),
        ("198.51.100.0", 24),
        ("203.0.113.0", 24),
        ("224.0.0.0", 4),
        ("240.0.0.0", 4),
        ("255.255.255.255", 32),
        ("168.63.129.16", 32),
    ];
    const NOT_PUBLIC_V6: [(&str, u32); 15] = [
        ("::", 96),
        ("::ffff:0:0", 96),
        ("::ffff:0:0:0", 96),
        ("64:ff9b::", 96),
        ("64:ff9b:1::", 48),
        ("100::", 64),
        ("2001::", 23),
        ("2001:db8::", 32),
        ("2002::", 16),
        ("3fff::", 20),
        ("5f00::", 16),
        ("fc00::", 7),
        ("fe80::", 10),
        ("fec0::", 10),
        ("ff00::", 8),
    ];

    fn in_table_v4(address: Ipv4Addr) -> bool {
        NOT_PUBLIC_V4.iter().any(|(net, prefix)| {
            let net: Ipv4Addr = net.parse().expect("an address");
            (net.to_bits() ^ address.to_bits()).leading_zeros() >= *prefix
        })
    }

    fn in_table_v6(address: Ipv6Addr) -> bool {
        let is_given_out = address.segments()[0] >> 13 == 1;
        !is_given_out
            || NOT_PUBLIC_V6.iter().any(|(net, prefix)| {
                let net: Ipv6Addr = net.parse().expect("an address");
                (net.to_bits() ^ address.to_bits()).leading_zeros() >= *prefix
            })
    }

    /// Addresses around the ends of networks, where a mask that is wrong by a bit shows, and any others.
    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        let edge = (0..NOT_PUBLIC_V4.len(), any::<u32>(), -1_i64..=1).prop_map(|(at, low, by)| {
            let (net, prefix) = NOT_PUBLIC_V4[at];
            let net: Ipv4Addr = net.parse().expect("an address");
            let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
            let inside = [net.to_bits(), net.to_bits() | host, net.to_bits() | (low & host)];
            Ipv4Addr::from_bits((i64::from(inside[low as usize % 3]) + by) as u32)
        });
        prop_oneof![edge, any::<u32>().prop_map(Ipv4Addr::from_bits)]
    }

    fn any_v6() -> impl Strategy<Value = Ipv6Addr> {
        let edge = (0..NOT_PUBLIC_V6.len(), any::<u128>(), 0..3_usize).prop_map(|(at, low, by)| {
            let (net, prefix) = NOT_PUBLIC_V6[at];
            let net: Ipv6Addr = net.parse().expect("an address");
            let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
            let (first, last) = (net.to_bits(), net.to_bits() | host);
            let of = [first.wrapping_sub(1), last.wrapping_add(1), first | (low & host)];
            Ipv6Addr::from_bits(of[by])
        });
        prop_oneof![edge, any::<u128>().prop_map(Ipv6Addr::from_bits)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn without_a_word_only_the_internet_is_reached_over_ipv4(address in any_v4()) {
            prop_assert_eq!(Reach::Public.has(address.into()), !in_table_v4(address), "{}", address);
        }

        #[test]
        fn without_a_word_only_the_internet_is_reached_over_ipv6(address in any_v6()) {
            prop_assert_eq!(Reach::Public.has(address.into()), !in_table_v6(address), "{}", address);
        }

        /// An IPv4 address in IPv6's clothes reaches nothing that it does not reach as it is.
        #[test]
        fn an_ipv4_address_within_an_ipv6_one_is_held_to_its_own_rules(inner in any_v4()) {
            let low = u128::from(inner.to_bits());
            let wells = [0, 0xffff << 32, 0xffff << 48, 0x0064_ff9b << 96];
            let mut all: Vec<_> = wells.iter().map(|well| well | low).collect();
            all.push(0x2002 << 112 | low << 80 | 1);
            for bits in all {
                let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
                prop_assert!(!Reach::Public.has(address), "{address}");
                for reach in [Reach::Private, Reach::Literal] {
                    let is_loopback = bits == 1;
                    prop_assert!(!reach.has(address) || is_loopback || reach.has(inner.into()));
                }
            }
        }
    }

    #[test]
    fn a_private_host_does_not_lead_to_a_clouds_credentials() {
        for text in ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"] {
            let address: IpAddr = text.parse().expect("an address");
            assert!(!Reach::Private.has(address), "{text}");
            assert!(Reach::Literal.has(address), "{text}");
        }
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"] {
            assert!(!Reach::Literal.has(text.parse().expect("an address")), "{text}");
        }
        for text in ["127.0.0.1", "::1", "10.1.2.3", "fd12::1", "100.64.0.1", "::ffff:127.0.0.1"] {
            assert!(Reach::Private.has(text.parse().expect("an address")), "{text}");
        }
    }
}
