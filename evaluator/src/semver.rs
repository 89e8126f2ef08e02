//! Semantic versions in clauses and attributes: reading and ordering, without allocation for the
//! attribute's side.
//!
//! What must hold: the order is that of semver.org, with build metadata ignored. Partial versions
//! are padded ("2" is 2.0.0, "2-rc.1" is 2.0.0-rc.1) and one leading `v` or `V` is ignored. Anything else
//! that semver.org does not allow (leading zeros, empty identifiers, spaces) is not a version.
//!
//! Left out: the crate `semver` decides the same for whole versions, but its parser allocates for
//! longer pre-releases; it is the yardstick in the tests.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// A semantic version as a clause holds it: padded, without build metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SemVer {
    major: u64,
    minor: u64,
    patch: u64,
    pre: String,
}

impl SemVer {
    /// Reads a version, partial or whole; nothing when it is not one.
    pub fn parse(text: &str) -> Option<SemVer> {
        let SemVerRef {
            numbers: [major, minor, patch],
            pre,
        } = SemVerRef::parse(text)?;
        Some(SemVer {
            major,
            minor,
            patch,
            pre: pre.to_owned(),
        })
    }

    /// Borrows it for comparing.
    pub(crate) fn borrow(&self) -> SemVerRef<'_> {
        SemVerRef {
            numbers: [self.major, self.minor, self.patch],
            pre: &self.pre,
        }
    }
}

impl Ord for SemVer {
    fn cmp(&self, other: &SemVer) -> Ordering {
        self.borrow().cmp(&other.borrow())
    }
}

impl PartialOrd for SemVer {
    fn partial_cmp(&self, other: &SemVer) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SemVer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        match self.pre.as_str() {
            "" => Ok(()),
            pre => write!(f, "-{pre}"),
        }
    }
}

impl<'de> Deserialize<'de> for SemVer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SemVer, D::Error> {
        #[derive(Deserialize)]
        struct Parts(u64, u64, u64, String);
        let Parts(major, minor, patch, pre) = Parts::deserialize(deserializer)?;
        if !pre.is_empty() && !identifiers_ok(&pre, true) {
            return Err(serde::de::Error::custom("not a pre-release"));
        }
        Ok(SemVer {
            major,
            minor,
            patch,
            pre,
        })
    }
}

/// A semantic version that borrows its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SemVerRef<'a> {
    numbers: [u64; 3],
    pre: &'a str,
}

impl<'a> SemVerRef<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<SemVerRef<'a>> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (text, build) = split(text, '+');
        let (core, pre) = split(text, '-');
        if build.is_some_and(|build| !identifiers_ok(build, false))
            || pre.is_some_and(|pre| !identifiers_ok(pre, true))
        {
            return None;
        }
        let mut numbers = [0; 3];
        let mut parts = core.split('.');
        numbers[0] = number(parts.next()?)?;
        for slot in &mut numbers[1..] {
            if let Some(part) = parts.next() {
                *slot = number(part)?;
            }
        }
        parts.next().is_none().then_some(SemVerRef {
            numbers,
            pre: pre.unwrap_or_default(),
        })
    }
}

impl Ord for SemVerRef<'_> {
    fn cmp(&self, other: &SemVerRef<'_>) -> Ordering {
        self.numbers
            .cmp(&other.numbers)
            .then_with(|| match (self.pre, other.pre) {
                ("", "") => Ordering::Equal,
                ("", _) => Ordering::Greater,
                (_, "") => Ordering::Less,
                (a, b) => compare_identifiers(a, b),
            })
    }
}

impl PartialOrd for SemVerRef<'_> {
    fn partial_cmp(&self, other: &SemVerRef<'_>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn split(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    if plain && !leading_zero {
        digits.parse().ok()
    } else {
        None
    }
}

/// Checks dot-separated identifiers. Leading zeros of numbers are wrong in a pre-release only.
fn identifiers_ok(text: &str, pre: bool) -> bool {
    text.split('.').all(|id| {
        let numeric = id.bytes().all(|b| b.is_ascii_digit());
        !id.is_empty()
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !(pre && numeric && id.len() > 1 && id.starts_with('0'))
    })
}

fn compare_identifiers(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => compare_identifier(a, b),
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn compare_identifier(a: &str, b: &str) -> Ordering {
    let numeric = |id: &str| id.bytes().all(|b| b.is_ascii_digit());
    match (numeric(a), numeric(b)) {
        // No leading zeros: the longer number is the greater one, whatever its size.
        (true, true) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn partial_versions_are_padded_and_build_metadata_ignored() {
        let same = ["2", "2.0", "2.0.0", "v2", "V2.0.0+build.007", "2+x"];
        for text in same {
            assert_eq!(SemVer::parse(text), SemVer::parse("2.0.0"), "{text}");
        }
        assert_eq!(SemVer::parse("2-rc.1").unwrap().to_string(), "2.0.0-rc.1");
        let wrong = [
            "",
            "v",
            "vv1",
            "1.",
            ".1",
            "1..2",
            "1.2.3.4",
            "01.2",
            "1.2.3-",
            "1.2.3-01",
            "1.2.3-a..b",
            "1.2.3+",
            " 1",
            "1 ",
            "-1",
            "+1",
            "1.x",
            "1.2.3-ü",
            "18446744073709551616",
            "1.+2",
        ];
        for text in wrong {
            assert_eq!(SemVer::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_specification() {
        let rising = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.9",
            "1.10",
            "2.0.0-99999999999999999999",
            "2.0.0-100000000000000000000",
            "2.0.0--",
        ];
        for (n, a) in rising.iter().enumerate() {
            for (m, b) in rising.iter().enumerate() {
                let order = SemVer::parse(a).unwrap().cmp(&SemVer::parse(b).unwrap());
                assert_eq!(order, n.cmp(&m), "{a} {b}");
            }
        }
    }

    proptest! {
        #[test]
        fn whole_versions_are_read_and_ordered_as_by_the_semver_crate(
            a in "[0-2]\\.[0-2]\\.(0|1|01)(-[0a.-]{1,5})?(\\+[0a.]{1,3})?",
            b in "[0-2]\\.[0-2]\\.[0-2](-[01aB.-]{1,5})?",
        ) {
            let theirs = (semver::Version::parse(&a).ok(), semver::Version::parse(&b).ok());
            let ours = (SemVer::parse(&a), SemVer::parse(&b));
            prop_assert_eq!(ours.0.is_some(), theirs.0.is_some(), "{}", a);
            prop_assert_eq!(ours.1.is_some(), theirs.1.is_some(), "{}", b);
            if let ((Some(a), Some(b)), (Some(c), Some(d))) = (ours, theirs) {
                prop_assert_eq!(a.cmp(&b), c.cmp_precedence(&d));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            let _ = SemVer::parse(&text);
        }
    }
}
