//! Where each key is: slots by the hash of their keys.

use std::sync::Arc;

/// Open addressing with linear steps over cells of eight bytes. It holds no keys: who looks
/// something up says whether a slot has the wanted one.
#[derive(Clone, Default)]
pub(super) struct Index {
    /// A power of two long, at most half full.
    cells: Arc<[Cell]>,
    used: usize,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    /// The upper half of the hash; the lower half chose the cell.
    tag: u32,
    /// The slot, plus one; 0 in a free cell.
    slot: u32,
}

impl Index {
    /// Returns the first thing that `wanted` gives for a slot whose key has this hash.
    #[inline]
    pub(super) fn find<T>(&self, hash: u64, wanted: impl Fn(u32) -> Option<T>) -> Option<T> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut place = hash as usize & mask;
        loop {
            let cell = self.cells.get(place)?;
            let slot = cell.slot.checked_sub(1)?;
            if cell.tag == (hash >> 32) as u32
                && let Some(found) = wanted(slot)
            {
                return Some(found);
            }
            place = (place + 1) & mask;
        }
    }

    /// Adds a slot that is not there yet. `hash_at` gives the hash of a slot's key.
    pub(super) fn insert(&mut self, slot: u32, hash_at: impl Fn(u32) -> u64) {
        if (self.used + 1) * 2 > self.cells.len() {
            let mut cells = vec![Cell::default(); (self.cells.len() * 2).max(8)];
            for slot in self
                .cells
                .iter()
                .filter_map(|cell| cell.slot.checked_sub(1))
            {
                place(&mut cells, slot, hash_at(slot));
            }
            self.cells = cells.into();
        }
        place(Arc::make_mut(&mut self.cells), slot, hash_at(slot));
        self.used += 1;
    }
}

fn place(cells: &mut [Cell], slot: u32, hash: u64) {
    let mask = cells.len() - 1;
    let mut place = hash as usize & mask;
    while cells[place].slot != 0 {
        place = (place + 1) & mask;
    }
    cells[place] = Cell {
        tag: (hash >> 32) as u32,
        slot: slot + 1,
    };
}
