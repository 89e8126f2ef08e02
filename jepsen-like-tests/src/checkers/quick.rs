//! A hash that is quick and nothing else, for maps of millions of short texts from our own runs:
//! nobody chooses them to collide. With the hash of the standard library two fifths of the time of the
//! check by versions went into it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with this hash.
pub(super) type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// The state of the hash.
#[derive(Clone, Copy, Default)]
pub(super) struct Quick(u64);

impl Quick {
    fn add(&mut self, word: u64) {
        // An odd number without a pattern; the multiplication carries every bit upwards.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in words.by_ref() {
            let mut eight = [0; 8];
            eight.copy_from_slice(word);
            self.add(u64::from_le_bytes(eight));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.add(u64::from_le_bytes(last) ^ bytes.len() as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn finish(&self) -> u64 {
        // Maps take the low bits first, and the mixing is in the high ones.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_like_those_of_a_run_spread_over_a_table() {
        let hash = |n: u32| {
            let mut hasher = Quick::default();
            hasher.write(format!("lasting-{}.{}.{n}", n % 7, n % 20).as_bytes());
            hasher.finish()
        };
        let mut places = vec![0_u32; 1 << 12];
        for n in 0..1 << 16 {
            places[usize::try_from(hash(n) & 0xFFF).unwrap()] += 1;
        }
        // 16 each on average; chance alone gives some 35 to the fullest.
        let fullest = places.iter().max().copied();
        assert!(fullest < Some(60), "{fullest:?}");
    }
}
