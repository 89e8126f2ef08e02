//! A set of texts, each with a number, that is looked up by hash: in-lists, targets, segments.
//!
//! What must hold: the cost of a lookup does not grow with the number of texts: one cell of the
//! table is read, and the text itself only when 32 bits of the hash agree. Nothing is trusted to the
//! hash: equal means that the bytes are equal. Building allocates twice, whatever the number.
//!
//! Hashes are xxh3-64 without a secret. Where texts stand in the table is decided by those who may
//! write flags; whoever is looked up can only choose a place, not fill it, so crafted keys cannot
//! make lookups slow.

use xxhash_rust::xxh3::xxh3_64;

/// Hashes a text for [`KeyTable::find`] and for attribute names.
#[inline]
pub(crate) fn text_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// Says whether two texts are equal. Keys, names and values are short, and comparing them in place
/// takes less time than a call of the library's comparison, which is made for long ones.
#[inline]
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    // The first and the last bytes of a text no longer than both together are all of it.
    match one.len() {
        0 | 1 => one == other,
        2 | 3 => ends_agree::<2>(one, other),
        4..8 => ends_agree::<4>(one, other),
        8..=16 => ends_agree::<8>(one, other),
        17..=32 => ends_agree::<16>(one, other),
        _ => one == other,
    }
}

#[inline]
fn ends_agree<const N: usize>(one: &[u8], other: &[u8]) -> bool {
    one.first_chunk::<N>() == other.first_chunk() && one.last_chunk::<N>() == other.last_chunk()
}

/// Texts with a number each. Immutable.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    /// Open addressing with linear steps; a power of two long, at most two thirds full.
    cells: Box<[Cell]>,
    /// All texts behind each other.
    texts: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The upper half of the hash; the lower half chose the cell.
    tag: u32,
    /// Where the text is; `FREE` in a free cell.
    at: u32,
    len: u32,
    number: u32,
}

const FREE: u32 = u32::MAX;

impl KeyTable {
    /// Makes a table of texts, of which none comes twice. Texts of more than 4 GiB in all are left
    /// out; an encoded state is far smaller.
    pub(crate) fn new<'a>(
        texts: impl ExactSizeIterator<Item = (&'a str, u32)> + Clone,
    ) -> KeyTable {
        let count = texts.len();
        if count == 0 {
            return KeyTable::default();
        }
        let free = Cell {
            tag: 0,
            at: FREE,
            len: 0,
            number: 0,
        };
        let mut cells = vec![free; (count + count.div_ceil(2)).next_power_of_two()];
        let bytes = texts.clone().map(|(text, _)| text.len());
        let mut store: Vec<u8> = Vec::with_capacity(bytes.sum());
        for (text, number) in texts {
            let (at, len) = (u32::try_from(store.len()), u32::try_from(text.len()));
            let (Ok(at), Ok(len)) = (at, len) else {
                break;
            };
            store.extend_from_slice(text.as_bytes());
            let hash = text_hash(text);
            let mut place = first_place(hash, cells.len());
            while cells[place].at != FREE {
                place = (place + 1) & (cells.len() - 1);
            }
            cells[place] = Cell {
                tag: tag(hash),
                at,
                len,
                number,
            };
        }
        KeyTable {
            cells: cells.into(),
            texts: store.into(),
        }
    }

    /// Returns the number of a text whose hash is `hash`.
    #[inline]
    pub(crate) fn find(&self, text: &str, hash: u64) -> Option<u32> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut place = hash as usize & mask;
        // Ends, because a third of the cells is free.
        loop {
            let cell = self.cells.get(place)?;
            if cell.at == FREE {
                return None;
            }
            if cell.tag == tag(hash) {
                let at = cell.at as usize;
                let have = self.texts.get(at..at + cell.len as usize)?;
                if is_same(have, text.as_bytes()) {
                    return Some(cell.number);
                }
            }
            place = (place + 1) & mask;
        }
    }
}

fn first_place(hash: u64, cells: usize) -> usize {
    // The length is a power of two.
    hash as usize & (cells - 1)
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn table(texts: &BTreeMap<String, u32>) -> KeyTable {
        KeyTable::new(texts.iter().map(|(text, number)| (text.as_str(), *number)))
    }

    #[test]
    fn every_size_finds_its_own_and_nothing_else() {
        for count in (0..70).chain([10_000]) {
            let texts = (0..count).map(|n| (format!("user-{n}"), n)).collect();
            let table = table(&texts);
            for n in 0..count + 70 {
                let text = format!("user-{n}");
                assert_eq!(
                    table.find(&text, text_hash(&text)),
                    texts.get(&text).copied()
                );
            }
            assert!(table.cells.len() <= 4 * count as usize);
        }
    }

    #[test]
    fn equal_hashes_are_not_enough() {
        let texts = BTreeMap::from([("a".to_owned(), 1), ("".to_owned(), 2)]);
        let table = table(&texts);
        assert_eq!(table.find("b", text_hash("a")), None);
        assert_eq!(table.find("", text_hash("")), Some(2));
    }

    #[test]
    fn texts_of_every_length_are_the_same_only_if_every_byte_is() {
        for len in 0..70 {
            let one: Vec<u8> = (0..len).collect();
            assert!(is_same(&one, &one.clone()), "{len}");
            for place in 0..usize::from(len) {
                let mut other = one.clone();
                other[place] ^= 0x80;
                assert!(!is_same(&one, &other), "{len} {place}");
                assert!(!is_same(&one, &one[..place]), "{len} {place}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            texts in prop::collection::btree_map(".{0,6}", any::<u32>(), 0..40),
            asked in prop::collection::vec(".{0,6}", 0..20),
        ) {
            let table = table(&texts);
            for text in texts.keys().chain(&asked) {
                prop_assert_eq!(table.find(text, text_hash(text)), texts.get(text).copied());
            }
        }
    }
}
