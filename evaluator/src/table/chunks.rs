//! A vector of which copies are cheap: they share what neither of them changes.
//!
//! What must hold: places are handed out in order and keep what is in them; a copy costs a counter for
//! each chunk, and the first change to a chunk after that a copy of the chunk.

use std::sync::Arc;

/// The length of the shortest chunks, as a power of two.
const SHIFT_MIN: u32 = 3;

/// Items in chunks, all of one length but for what is unused at the end of the last.
#[derive(Clone)]
pub(super) struct Chunks<T> {
    chunks: Vec<Arc<[T]>>,
    /// The length of a chunk, as a power of two.
    shift: u32,
    /// How many places are handed out.
    len: u32,
}

impl<T> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        Chunks {
            chunks: Vec::new(),
            shift: SHIFT_MIN,
            len: 0,
        }
    }
}

impl<T: Clone> Chunks<T> {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// What is in a place. One that is not handed out yet may have anything in it.
    #[inline]
    pub(super) fn get(&self, place: u32) -> Option<&T> {
        let (chunk, within) = split(place, self.shift);
        self.chunks.get(chunk)?.get(within)
    }

    /// What is to be changed; its chunk is copied if another copy has it too.
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let (chunk, within) = split(place, self.shift);
        Arc::make_mut(self.chunks.get_mut(chunk)?).get_mut(within)
    }

    /// Hands out the next place, with this in it; returns its number.
    pub(super) fn push(&mut self, item: T) -> u32 {
        let place = self.len;
        if place == u32::try_from(self.chunks.len() << self.shift).unwrap_or(u32::MAX) {
            self.lengthen();
            let chunk = std::iter::repeat_n(item.clone(), 1 << self.shift);
            self.chunks.push(chunk.collect());
        }
        // Each item costs far more than a byte, so memory ends before the numbers do.
        self.len += 1;
        if let Some(there) = self.get_mut(place) {
            *there = item;
        }
        place
    }

    /// Makes chunks longer when there are too many of them for one more. A change copies one chunk,
    /// counting two references for each item, and counts one for each other chunk: together that is
    /// least when there are twice as many chunks as a chunk is long.
    fn lengthen(&mut self) {
        if self.chunks.len() >> self.shift < 4 {
            return;
        }
        // Their number is even here, and all of them are full.
        let pairs = self.chunks.chunks(2);
        let joined = pairs.map(|pair| {
            pair.iter()
                .flat_map(|chunk| chunk.iter().cloned())
                .collect()
        });
        (self.chunks, self.shift) = (joined.collect(), self.shift + 1);
    }

    /// The items, each with its place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.len).zip(self.chunks.iter().flat_map(|chunk| chunk.iter()))
    }

    /// The items in chunks that an earlier copy does not share, each with its place.
    pub(super) fn unshared(&self, earlier: &Chunks<T>) -> impl Iterator<Item = (u32, &T)> {
        let chunks = self.chunks.iter().enumerate();
        let apart = chunks.filter(|(n, chunk)| {
            let before = earlier.chunks.get(*n);
            before.is_none_or(|before| !Arc::ptr_eq(before, chunk))
        });
        apart.flat_map(|(n, chunk)| {
            let first = (n << self.shift) as u32;
            (first..self.len).zip(chunk.iter())
        })
    }
}

#[inline]
fn split(place: u32, shift: u32) -> (usize, usize) {
    let within = place & ((1 << shift) - 1);
    ((place >> shift) as usize, within as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(len: u32) -> Chunks<u32> {
        let mut chunks = Chunks::default();
        for n in 0..len {
            assert_eq!(chunks.push(n), n);
        }
        chunks
    }

    #[test]
    fn places_keep_what_is_in_them_however_long_chunks_become() {
        for len in [0, 1, 7, 8, 9, 255, 256, 257, 1_024, 1_025, 5_000, 20_000] {
            let chunks = counted(len);
            assert_eq!(chunks.len(), len);
            let all: Vec<(u32, u32)> = chunks.iter().map(|(place, item)| (place, *item)).collect();
            assert_eq!(all, (0..len).map(|n| (n, n)).collect::<Vec<_>>(), "{len}");
            assert!((0..len).all(|n| chunks.get(n) == Some(&n)), "{len}");
            assert_eq!(chunks.get(len + (1 << chunks.shift)), None, "{len}");
        }
    }

    #[test]
    fn there_are_about_twice_as_many_chunks_as_a_chunk_is_long() {
        for len in [100, 257, 1_000, 10_000, 100_000] {
            let chunks = counted(len);
            let long = 1 << chunks.shift;
            let (fewest, most) = (if long > 8 { long / 4 } else { 1 }, 4 * long);
            let is = chunks.chunks.len();
            assert!((fewest..=most).contains(&is), "{len}: {is} of {long}");
        }
    }

    #[test]
    fn a_change_is_seen_in_one_copy_only_and_copies_one_chunk() {
        let before = counted(1_000);
        let mut after = before.clone();
        *after.get_mut(500).unwrap() = 7;
        assert_eq!((before.get(500), after.get(500)), (Some(&500), Some(&7)));
        let apart: Vec<u32> = after.unshared(&before).map(|(place, _)| place).collect();
        let long = 1 << before.shift;
        let first = 500 / long * long;
        assert_eq!(apart, (first..first + long).collect::<Vec<_>>());
        assert_eq!(after.unshared(&after).count(), 0);
        // Chunks of another length share nothing.
        let mut longer = after.clone();
        (1_000..1_100).for_each(|n| assert_eq!(longer.push(n), n));
        assert!(longer.shift > after.shift);
        assert_eq!(longer.unshared(&after).count(), 1_100);
    }
}
