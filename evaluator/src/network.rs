//! Networks in `in_cidr`: reading them, and looking an address up in many at once.
//!
//! What must hold: an address means the same whether it is written as IPv4 or as IPv6 that maps IPv4
//! (`::ffff:10.0.0.1`): it is IPv4, and so are networks within `::ffff:0:0/96`. Thus `::/0` holds no
//! IPv4 address. Bits after the prefix of a network are masked off. Looking up takes no memory, and
//! time that grows with the number of digits of the number of networks only.
//!
//! Left out: zones (`fe80::1%eth0`), ports, and ranges that are not networks. An attribute with any
//! of these is not an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A network of IP addresses; a single address is one with the longest prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Block")]
pub struct Network(Block);

/// The bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Block {
    V4 {
        address: u32,
        prefix_len: u8,
    },
    /// Not within `::ffff:0:0/96`.
    V6 {
        address: u128,
        prefix_len: u8,
    },
}

impl Network {
    /// Reads `address/prefix` or an address; nothing when it is neither.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(parse_prefix_len(prefix_len)?)),
            None => (text, None),
        };
        match address.parse().ok()? {
            IpAddr::V4(address) => Network::v4(address, prefix_len.unwrap_or(32)),
            IpAddr::V6(address) => Network::v6(address, prefix_len.unwrap_or(128)),
        }
    }

    fn v4(address: Ipv4Addr, prefix_len: u8) -> Option<Network> {
        let address = address.to_bits() & mask_v4(prefix_len)?;
        Some(Network(Block::V4 {
            address,
            prefix_len,
        }))
    }

    fn v6(address: Ipv6Addr, prefix_len: u8) -> Option<Network> {
        if let (Some(address), Some(prefix_len)) =
            (address.to_ipv4_mapped(), prefix_len.checked_sub(96))
        {
            return Network::v4(address, prefix_len);
        }
        let address = address.to_bits() & mask_v6(prefix_len)?;
        Some(Network(Block::V6 {
            address,
            prefix_len,
        }))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Block::V4 {
                address,
                prefix_len,
            } => write!(f, "{}/{prefix_len}", Ipv4Addr::from_bits(address)),
            Block::V6 {
                address,
                prefix_len,
            } => write!(f, "{}/{prefix_len}", Ipv6Addr::from_bits(address)),
        }
    }
}

impl TryFrom<Block> for Network {
    type Error = &'static str;

    fn try_from(block: Block) -> Result<Network, &'static str> {
        let canonical = match block {
            Block::V4 {
                address,
                prefix_len,
            } => Network::v4(address.into(), prefix_len),
            Block::V6 {
                address,
                prefix_len,
            } => Network::v6(address.into(), prefix_len),
        };
        let canonical = canonical.filter(|network| network.0 == block);
        canonical.ok_or("not a network")
    }
}

/// A decimal number without leading zeros; whether it fits is checked with the address.
fn parse_prefix_len(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if plain && !leading_zero {
        text.parse().ok()
    } else {
        None
    }
}

/// The bits of the prefix; nothing when it is longer than an address.
fn mask_v4(prefix_len: u8) -> Option<u32> {
    let host_len = 32_u32.checked_sub(prefix_len.into())?;
    Some(u32::MAX.checked_shl(host_len).unwrap_or(0))
}

fn mask_v6(prefix_len: u8) -> Option<u128> {
    let host_len = 128_u32.checked_sub(prefix_len.into())?;
    Some(u128::MAX.checked_shl(host_len).unwrap_or(0))
}

/// Many networks, for looking up addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Networks {
    /// Gathers networks, in any order.
    pub(crate) fn new(networks: &[Network]) -> Networks {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            // A network has a valid prefix: the masks are never missing.
            match network.0 {
                Block::V4 {
                    address,
                    prefix_len,
                } => v4.push((address, address | !mask_v4(prefix_len).unwrap_or(u32::MAX))),
                Block::V6 {
                    address,
                    prefix_len,
                } => v6.push((address, address | !mask_v6(prefix_len).unwrap_or(u128::MAX))),
            }
        }
        Networks {
            v4: Ranges::new(v4, |last| last.checked_add(1)),
            v6: Ranges::new(v6, |last| last.checked_add(1)),
        }
    }

    /// Says whether the address is in any of them; nothing when the text is not an address.
    pub(crate) fn contains(&self, text: &str) -> Option<bool> {
        let address: IpAddr = text.parse().ok()?;
        Some(match address.to_canonical() {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        })
    }
}

/// First and last of each range: sorted, without overlap, and never one right after another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<T>(Box<[(T, T)]>);

impl<T: Copy + Ord> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>, successor: impl Fn(T) -> Option<T>) -> Ranges<T> {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if successor(*end).is_none_or(|next| first <= next) => {
                    *end = last.max(*end);
                }
                _ => merged.push((first, last)),
            }
        }
        Ranges(merged.into())
    }

    fn contains(&self, value: T) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= value);
        let range = after.checked_sub(1).and_then(|at| self.0.get(at));
        range.is_some_and(|(_, last)| value <= *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bincode::Options;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Networks {
        let parse = |text: &&str| Network::parse(text).unwrap();
        Networks::new(&texts.iter().map(parse).collect::<Vec<_>>())
    }

    #[test]
    fn networks_are_shown_in_one_way() {
        let same = [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("10.1.2.3/31", "10.1.2.2/31"),
            ("255.255.255.255/1", "128.0.0.0/1"),
            ("255.255.255.255/0", "0.0.0.0/0"),
            ("2001:DB8:0:0::1", "2001:db8::1/128"),
            ("2001:db8::ffff/127", "2001:db8::fffe/127"),
            ("ffff::/1", "8000::/1"),
            ("ffff::/0", "::/0"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:a01:203/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/96", "0.0.0.0/0"),
            // Wider than the mapped addresses: IPv6.
            ("::ffff:10.1.2.3/95", "::fffe:0:0/95"),
            ("::10.1.2.3", "::a01:203/128"),
        ];
        for (text, shown) in same {
            let network = Network::parse(text).unwrap();
            assert_eq!(network.to_string(), shown, "{text}");
            assert_eq!(Network::parse(shown), Some(network), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let wrong = [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/256",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/ 8",
            "10.0.0.0/8/8",
            "10.0.0.0/255.0.0.0",
            "10.0.0/8",
            "10.0.0.256",
            "010.0.0.0/8",
            " 10.0.0.0/8",
            "::/129",
            "::ffff:10.0.0.0/129",
            "::g/8",
            "fe80::1%eth0",
            "fe80::1%eth0/64",
            "[::1]/128",
            "localhost",
        ];
        for text in wrong {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_nothing_else_is() {
        let all_v6 = networks(&["::/0"]);
        for text in ["10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"] {
            assert_eq!(all_v6.contains(text), Some(false), "{text}");
        }
        let all_v4 = networks(&["0.0.0.0/0"]);
        assert_eq!(all_v4.contains("::ffff:255.255.255.255"), Some(true));
        for text in ["::", "::1", "::10.0.0.1", "::fffe:a00:1", "64:ff9b::a00:1"] {
            assert_eq!(all_v4.contains(text), Some(false), "{text}");
            assert_eq!(all_v6.contains(text), Some(true), "{text}");
        }
        assert_eq!(networks(&[]).contains("10.0.0.1"), Some(false));
    }

    #[test]
    fn what_is_not_a_bare_address_is_neither_in_nor_out() {
        let all = networks(&["0.0.0.0/0", "::/0"]);
        let wrong = [
            "",
            "10.0.0.1:80",
            "10.0.0.1/32",
            " 10.0.0.1",
            "10.0.0.01",
            "10.0.0",
            "167772161",
            "[::1]",
            "[::1]:80",
            "fe80::1%eth0",
            "::1/128",
            "localhost",
        ];
        for text in wrong {
            assert_eq!(all.contains(text), None, "{text}");
        }
    }

    #[test]
    fn neighbours_and_nested_networks_become_one_range() {
        let merged = networks(&["10.0.0.0/9", "10.128.0.0/9", "10.3.0.0/16", "10.3.4.5"]);
        assert_eq!(*merged.v4.0, [(0x0A00_0000, 0x0AFF_FFFF)]);
        let apart = networks(&[
            "255.255.255.255",
            "0.0.0.0",
            "255.255.255.254/31",
            "0.0.0.2",
        ]);
        assert_eq!(*apart.v4.0, [(0, 0), (2, 2), (u32::MAX - 1, u32::MAX)]);
        let whole = networks(&["::/1", "8000::/1", "ffff::/16"]);
        assert_eq!(*whole.v6.0, [(0, u128::MAX)]);
    }

    #[test]
    fn only_what_can_be_read_can_be_decoded() {
        let decode = |block: Block| {
            let bytes = crate::encoding::positional(1_000)
                .serialize(&block)
                .unwrap();
            crate::encoding::positional(1_000).deserialize::<Network>(&bytes)
        };
        let v4 = |address, prefix_len| Block::V4 {
            address,
            prefix_len,
        };
        let v6 = |address, prefix_len| Block::V6 {
            address,
            prefix_len,
        };
        let mapped = 0xFFFF_0A00_0000;
        for right in [
            v4(0, 0),
            v4(1, 32),
            v6(0, 0),
            v6(1, 128),
            v6(0xFFFE << 32, 95),
        ] {
            assert_eq!(decode(right).unwrap(), Network(right));
        }
        let wrong = [
            v4(1, 31),
            v4(0, 33),
            v6(1, 127),
            v6(0, 129),
            v6(mapped, 104),
        ];
        for wrong in wrong {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Is the address in the network, by its digits? IPv4 is 32 digits, IPv6 is 128.
    fn slowly(address: IpAddr, network: &str) -> bool {
        let digits = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(address) => format!("{:032b}", address.to_bits()),
            IpAddr::V6(address) => format!("{:0128b}", address.to_bits()),
        };
        let (of, len) = network.split_once('/').unwrap();
        let (of, len): (IpAddr, usize) = (of.parse().unwrap(), len.parse().unwrap());
        let (ours, theirs) = (digits(address), digits(of));
        let len = len + theirs.len() - if of.is_ipv4() { 32 } else { 128 };
        ours.len() == theirs.len() && ours[..len] == theirs[..len]
    }

    /// Addresses of few bits, so that they often share a prefix.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let bits = prop_oneof![
            Just(0_u128),
            Just(u128::MAX),
            Just(1),
            Just(1 << 127),
            0..8_u128,
            any::<u128>(),
        ];
        (bits, 0..3).prop_map(|(bits, kind)| match kind {
            0 => IpAddr::V4((bits as u32).into()),
            1 => IpAddr::V6(Ipv4Addr::from_bits(bits as u32).to_ipv6_mapped()),
            _ => IpAddr::V6(bits.into()),
        })
    }

    fn texts() -> impl Strategy<Value = String> {
        let prefix_len = prop_oneof![
            Just(0),
            Just(1),
            Just(31),
            Just(32),
            Just(127),
            Just(128),
            0..=128_u32
        ];
        (addresses(), prefix_len).prop_map(|(address, len)| match address {
            IpAddr::V4(_) => format!("{address}/{}", len.min(32)),
            // Wider than the mapped addresses it would be IPv6, which holds none of them.
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => format!("{address}/{}", len.max(96)),
            IpAddr::V6(_) => format!("{address}/{len}"),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn lookups_find_what_the_digits_say(
            texts in proptest::collection::vec(texts(), 0..6),
            address in addresses(),
        ) {
            let parse = |text: &String| Network::parse(text).unwrap();
            let found = Networks::new(&texts.iter().map(parse).collect::<Vec<_>>());
            let slow = texts.iter().any(|text| slowly(address, text));
            prop_assert_eq!(found.contains(&address.to_string()), Some(slow));
            // Also at the very ends of each network.
            for (first, last) in &found.v4.0 {
                for bits in [*first, *last, first.wrapping_sub(1), last.wrapping_add(1)] {
                    let address = IpAddr::V4(bits.into());
                    let slow = texts.iter().any(|text| slowly(address, text));
                    prop_assert_eq!(found.contains(&address.to_string()), Some(slow));
                }
            }
            for (first, last) in &found.v6.0 {
                for bits in [*first, *last, first.wrapping_sub(1), last.wrapping_add(1)] {
                    let address = IpAddr::V6(bits.into());
                    let slow = texts.iter().any(|text| slowly(address, text));
                    prop_assert_eq!(found.contains(&address.to_string()), Some(slow));
                }
            }
        }

        #[test]
        fn networks_survive_being_shown_and_stored(text in texts()) {
            let network = Network::parse(&text).unwrap();
            prop_assert_eq!(Network::parse(&network.to_string()), Some(network));
            let options = || crate::encoding::positional(1_000);
            let bytes = options().serialize(&network).unwrap();
            prop_assert_eq!(options().deserialize::<Network>(&bytes).unwrap(), network);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:./]{0,20}|\\PC{0,12}") {
            let _ = Network::parse(&text);
            let _ = networks(&["::/0"]).contains(&text);
        }
    }
}
