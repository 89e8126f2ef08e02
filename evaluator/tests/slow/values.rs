//! What texts and numbers mean to the operators of the slow evaluator: versions, times, addresses,
//! patterns; and the hash. The crates `semver`, `jiff` and `regex` are the yardsticks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use jiff::civil::DateTime;
use regex::Regex;
use serde_json::Value;

/// "partial versions padded: "2" = 2.0.0; build metadata ignored", one leading `v` or `V` too.
pub(super) fn semver(text: &str) -> Option<semver::Version> {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let core_len = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(core_len);
    let padding = ".0".repeat(2_usize.saturating_sub(core.matches('.').count()));
    semver::Version::parse(&format!("{core}{padding}{rest}")).ok()
}

/// The whole text of a time that is taken; what numbers are in range is left to `jiff`.
const TIME: &str = "^([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})\
     (?:[.]([0-9]+))?(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))$";

/// The nanoseconds since 1970 of a time: RFC 3339 text, or a number of milliseconds of at most 2^53,
/// of which a fraction is cut off, rounded down.
pub(super) fn instant(value: &Value) -> Option<i128> {
    if let Some(milliseconds) = value.as_f64() {
        let in_range = milliseconds.abs() <= 2_f64.powi(53);
        return in_range.then(|| milliseconds.floor() as i128 * 1_000_000);
    }
    with_regex(TIME, |time| {
        let parts = time.captures(value.as_str()?)?;
        let part = |n: usize| parts.get(n).map_or("", |part| part.as_str());
        let (date, time, fraction) = (part(1), part(2), part(3));
        let fraction = &format!("{fraction}000000000")[..9];
        // `jiff` reads second 60 as 59.
        let local: DateTime = format!("{date}T{time}.{fraction}").parse().ok()?;
        let since_1970 = local.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
        let number = |n: usize| part(n).parse::<i128>().unwrap_or(0);
        let ahead = (number(5) * 60 + number(6)) * 60 * 1_000_000_000;
        let ahead = if part(4) == "-" { -ahead } else { ahead };
        Some(since_1970.as_nanos() - ahead)
    })
}

/// An address as 4 or 16 bytes; one of IPv6 that is a mapped one of IPv4 counts as that.
#[derive(Clone, Copy)]
pub(super) struct Address {
    kind: &'static str,
    bits: u128,
}

/// The addresses of one kind whose first `len` bits are those of `bits`.
pub(super) struct Network {
    kind: &'static str,
    bits: u128,
    width: u32,
    len: u32,
}

/// The first 96 bits of a mapped address.
const MAPPED: u128 = 0xffff;

impl Address {
    pub(super) fn read(text: &str) -> Option<Address> {
        match text.parse().ok()? {
            IpAddr::V4(address) => Some(Address {
                kind: "v4",
                bits: u128::from(address.to_bits()),
            }),
            IpAddr::V6(address) if address.to_bits() >> 32 == MAPPED => Some(Address {
                kind: "mapped",
                bits: address.to_bits() & 0xffff_ffff,
            }),
            IpAddr::V6(address) => Some(Address {
                kind: "v6",
                bits: address.to_bits(),
            }),
        }
    }
}

impl Network {
    pub(super) fn read(text: &str) -> Option<Network> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len.parse::<u32>().ok()?)),
            None => (text, None),
        };
        if let Ok(address) = address.parse::<Ipv6Addr>() {
            let (bits, len) = (address.to_bits(), len.unwrap_or(128));
            let mapped = len >= 96 && bits >> 32 == MAPPED;
            let (kind, bits, width, len) = match mapped {
                true => ("mapped", bits & 0xffff_ffff, 32, len - 96),
                false => ("v6", bits, 128, len),
            };
            return Some(Network {
                kind,
                bits,
                width,
                len,
            });
        }
        let address = Address::read(address)?;
        Some(Network {
            kind: "v4",
            bits: address.bits,
            width: 32,
            len: len.unwrap_or(32),
        })
    }

    pub(super) fn holds(&self, address: Address) -> bool {
        let same_width = (self.kind == "v6") == (address.kind == "v6");
        // With `len` 0 nothing is left of a difference, not even of one of 128 bits.
        let difference = (self.bits ^ address.bits).checked_shr(self.width - self.len);
        same_width && difference.unwrap_or(0) == 0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.len {
            0 => "everything of ",
            len if len == self.width => "one of ",
            _ => "",
        };
        write!(f, "{part}{}", self.kind)
    }
}

/// Whether the pattern is found anywhere in the text.
pub(super) fn is_match(pattern: &str, text: &str) -> bool {
    // Not `is_match`, which misses matches that `find` finds: `(?-u:\B)|b\w\w` in "b\u{212A}_".
    with_regex(pattern, |regex| regex.find(text).is_some())
}

/// Each pattern is read once a thread.
fn with_regex<T>(pattern: &str, work: impl FnOnce(&Regex) -> T) -> T {
    thread_local! {
        static KNOWN: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    let known = KNOWN.with_borrow(|known| known.get(pattern).cloned());
    let regex = known.unwrap_or_else(|| {
        let regex = Regex::new(pattern).unwrap();
        KNOWN.with_borrow_mut(|known| known.insert(pattern.to_owned(), regex.clone()));
        regex
    });
    work(&regex)
}

/// murmur3_x86_32 with seed 0, from its description.
pub(crate) fn murmur3(bytes: &[u8]) -> u32 {
    let mut h = 0_u32;
    for chunk in bytes.chunks(4) {
        let mut block = [0; 4];
        block[..chunk.len()].copy_from_slice(chunk);
        let k = u32::from_le_bytes(block).wrapping_mul(0xcc9e2d51);
        h ^= k.rotate_left(15).wrapping_mul(0x1b873593);
        if chunk.len() == 4 {
            h = h.rotate_left(13).wrapping_mul(5).wrapping_add(0xe6546b64);
        }
    }
    h ^= bytes.len() as u32;
    h = (h ^ (h >> 16)).wrapping_mul(0x85ebca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2ae35);
    h ^ (h >> 16)
}
