//! `murmur3-v1`: which bucket a subject is in. Frozen (D7).
//!
//! What must hold: the same salt, value and total give the same bucket in every process, build and
//! platform, for ever (I7). Integers only. The vectors in `testdata/` were made by an independent
//! implementation; a change to any of them would be a new algorithm with a new name.
//!
//! ```text
//! h = murmur3_x86_32(seed 0, UTF-8 of salt then value)        bucket = (h * total) >> 32
//! ```

/// Returns the bucket of a value, from 0 to `total` - 1 (0 when `total` is 0).
///
/// It depends on nothing else, so moving the border between two shares moves only subjects whose
/// buckets the border passed.
///
/// ```
/// assert_eq!(pennon_evaluator::bucket("checkout.new-ui", "user-42", 100_000), 70_386);
/// ```
pub fn bucket(salt: &str, value: &str, total: u32) -> u32 {
    Salted::new(salt).bucket(value, total)
}

/// A salt that was hashed already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Salted(Murmur3);

impl Salted {
    pub(crate) fn new(salt: &str) -> Salted {
        let mut hash = Murmur3::default();
        hash.update(salt.as_bytes());
        Salted(hash)
    }

    /// As [`bucket`], with this salt.
    #[inline]
    pub(crate) fn bucket(self, value: &str, total: u32) -> u32 {
        let Salted(mut hash) = self;
        hash.update(value.as_bytes());
        let scaled = (u64::from(hash.finish()) * u64::from(total)) >> 32;
        // Less than `total`, because the hash is less than 2^32.
        scaled as u32 // I7
    }
}

/// murmur3_x86_32 with seed 0 over bytes that come in portions.
#[derive(Clone, Copy, Debug, Default)]
struct Murmur3 {
    hash: u32,
    /// Bytes that do not fill a block yet, the first one lowest.
    tail: u32,
    tail_len: u32,
    len: u32,
}

impl Murmur3 {
    #[inline]
    fn update(&mut self, bytes: &[u8]) {
        self.len = self.len.wrapping_add(bytes.len() as u32);
        // Bytes wait in `waiting`, the first one lowest, and leave it four at a time.
        let mut waiting = u64::from(self.tail);
        let (blocks, rest) = bytes.as_chunks::<4>();
        for block in blocks {
            waiting |= u64::from(u32::from_le_bytes(*block)) << (8 * self.tail_len);
            self.take_block(waiting as u32);
            waiting >>= 32;
        }
        for byte in rest {
            waiting |= u64::from(*byte) << (8 * self.tail_len);
            self.tail_len += 1;
        }
        if self.tail_len >= 4 {
            self.take_block(waiting as u32);
            waiting >>= 32;
            self.tail_len -= 4;
        }
        self.tail = waiting as u32;
    }

    #[inline]
    fn take_block(&mut self, block: u32) {
        let mixed = self.hash ^ scramble(block);
        self.hash = mixed
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }

    #[inline]
    fn finish(self) -> u32 {
        // The scrambled form of an empty tail is 0.
        let mut hash = self.hash ^ scramble(self.tail) ^ self.len;
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }
}

fn scramble(block: u32) -> u32 {
    block
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593)
}

/// The decimal form of a whole number, in a buffer of its own.
pub(crate) struct Decimal {
    digits: [u8; Decimal::LEN_MAX],
    start: usize,
}

impl Decimal {
    /// A sign and the sixteen digits of 2^53.
    const LEN_MAX: usize = 17;
    /// The greatest whole number up to which every one has a number of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

    /// Writes a number down; nothing when it is not a whole one of at most 2^53 either way.
    pub(crate) fn of(number: f64) -> Option<Decimal> {
        let whole = number.fract() == 0.0 && number.abs() <= Self::EXACT_MAX;
        // In range and whole, so the conversion is exact.
        whole.then(|| Self::write(number as i64))
    }

    fn write(number: i64) -> Decimal {
        let mut decimal = Decimal {
            digits: [0; Self::LEN_MAX],
            start: Self::LEN_MAX,
        };
        let mut rest = number.unsigned_abs();
        loop {
            decimal.put(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            decimal.put(b'-');
        }
        decimal
    }

    fn put(&mut self, byte: u8) {
        self.start -= 1;
        self.digits[self.start] = byte;
    }

    pub(crate) fn as_str(&self) -> &str {
        // Digits and a sign are ASCII.
        std::str::from_utf8(&self.digits[self.start..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_their_decimal_form() {
        let form = |number| Decimal::of(number).map(|d| d.as_str().to_owned());
        for number in [0_i64, 7, -7, 10, 1 << 53, -(1 << 53), 1_234_567_890] {
            assert_eq!(form(number as f64), Some(number.to_string()));
        }
        assert_eq!(form(-0.0).as_deref(), Some("0"));
        let unusable = [0.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300];
        assert!(
            unusable
                .into_iter()
                .all(|number| Decimal::of(number).is_none())
        );
        assert!(Decimal::of(9_007_199_254_740_994.0).is_none());
    }

    #[test]
    fn portions_do_not_matter() {
        let text = b"the quick brown fox";
        let mut whole = Murmur3::default();
        whole.update(text);
        for cut in 0..text.len() {
            for second in cut..text.len() {
                let mut parts = Murmur3::default();
                parts.update(&text[..cut]);
                parts.update(&text[cut..second]);
                parts.update(&text[second..]);
                assert_eq!(parts.finish(), whole.finish(), "{cut} {second}");
            }
        }
    }
}
