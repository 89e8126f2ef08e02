//! The newest state, for readers that must not slow each other down.
//!
//! What must hold: a reader sees the state of its moment or a later one, never an earlier one than it
//! saw before (I6). Reading writes to no memory that another thread reads: each thread keeps the
//! state it read last, and reads one number to learn that it is still the newest.
//!
//! What this costs: a thread that has evaluated keeps that state alive until it evaluates again or
//! ends. States share all that did not change between them, so this is little, and it is one state
//! a thread however many come and go.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};

use crate::held::Held;

/// Clients of one thread whose states it keeps.
const KEPT_MAX: usize = 4;

/// Numbers cells, so that a thread can tell them apart after one was dropped.
static CELLS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// What this thread read last, the cell it read most lately first.
    static KEPT: RefCell<[Kept; KEPT_MAX]> = const { RefCell::new([const { Kept::NOTHING }; KEPT_MAX]) };
}

/// A state that a thread keeps.
struct Kept {
    cell: u64,
    /// What the number of the cell was before the state was read.
    number: u64,
    held: Option<Arc<Held>>,
}

impl Kept {
    const NOTHING: Kept = Kept {
        cell: 0,
        number: 0,
        held: None,
    };
}

/// A cell with the newest state.
pub(crate) struct Current {
    id: u64,
    /// Raised after each change.
    number: AtomicU64,
    held: ArcSwapOption<Held>,
}

impl Default for Current {
    fn default() -> Current {
        Current {
            id: CELLS.fetch_add(1, Ordering::Relaxed),
            number: AtomicU64::new(0),
            held: ArcSwapOption::empty(),
        }
    }
}

impl Current {
    /// Puts a new state in and returns the old one.
    pub(crate) fn replace(&self, held: Option<Arc<Held>>) -> Option<Arc<Held>> {
        let before = self.held.swap(held);
        // After the swap: who sees this number finds the new state.
        self.number.fetch_add(1, Ordering::Release); // I6
        before
    }

    /// Returns the state, counted.
    pub(crate) fn get(&self) -> Option<Arc<Held>> {
        self.held.load_full()
    }

    /// Returns the state, kept alive without counting.
    pub(crate) fn guard(&self) -> Guard<Option<Arc<Held>>> {
        self.held.load()
    }

    /// Runs `f` on the state.
    #[inline]
    pub(crate) fn with<T>(&self, f: impl FnOnce(Option<&Held>) -> T) -> T {
        let number = self.number.load(Ordering::Acquire);
        let mut f = Some(f);
        let done = KEPT.try_with(|kept| {
            let kept = kept.try_borrow().ok()?;
            let mut kept = kept.iter();
            let newest = kept.find(|one| one.cell == self.id && one.number == number)?;
            f.take().map(|f| f(newest.held.as_deref()))
        });
        match (done, f) {
            (Ok(Some(done)), _) => done,
            (_, Some(f)) => {
                self.keep(number);
                f(self.guard().as_deref())
            }
            // `f` was taken only to be run.
            (_, None) => unreachable!("a closure that was run has a result"),
        }
    }

    /// Keeps the newest state for this thread, in the place of an earlier one of this cell or else of
    /// the one that was kept first. Not while `f` of an outer call runs, nor while the thread ends.
    #[cold]
    fn keep(&self, number: u64) {
        let changed = KEPT.try_with(|kept| {
            let mut kept = kept.try_borrow_mut().ok()?;
            let found = kept.iter().position(|one| one.cell == self.id);
            kept[..=found.unwrap_or(KEPT_MAX - 1)].rotate_right(1);
            let fresh = Kept {
                cell: self.id,
                number,
                held: self.get(),
            };
            Some(std::mem::replace(&mut kept[0], fresh))
        });
        // Out here, because dropping a state takes time.
        drop(changed);
    }
}
