//! The newest state, for readers that must not slow each other down.
//!
//! What must hold: a reader sees the state of its moment or a later one, never an earlier one than it
//! saw before (I6), whichever way it read that. Reading writes to no memory that another thread reads:
//! each thread keeps the state it read last, and reads one number to learn that it is still the newest.
//! The number is raised before the state is changed and again behind it. So whoever has seen the new
//! state sees another number than that of what a thread kept, and what is read in between (the number
//! is odd) is not kept.
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
    /// Raised before each change and behind it; even between changes.
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
    /// Puts a new state in and returns the old one. One at a time.
    pub(crate) fn replace(&self, held: Option<Arc<Held>>) -> Option<Arc<Held>> {
        // Before the swap: who finds the new state sees this number, or a later one.
        self.number.fetch_add(1, Ordering::Relaxed); // I6
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
                if number.is_multiple_of(2) {
                    self.keep(number); // I6
                }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pennon_evaluator::{AgeBound, Snapshot, Version};

    use super::*;
    use crate::states::{snapshot, version};

    const FIRST: u64 = 4;
    const LAST: u64 = 50_000;

    // I6
    #[test]
    fn a_thread_may_read_in_any_way_and_never_sees_an_earlier_state() {
        let current = Current::default();
        let first = Snapshot::load(&snapshot(0, FIRST)).unwrap();
        let put = |at: u64| {
            let proof = AgeBound::new(Duration::ZERO, Duration::ZERO, Duration::ZERO);
            let state = first.with_version(version(at)).unwrap();
            let held = Held::new(state, "A".into(), proof, Duration::ZERO, None);
            drop(current.replace(Some(Arc::new(held))));
        };
        put(FIRST);
        let of = |held: Option<&Held>| held.map(|held| held.snapshot.version());
        let ways: [&dyn Fn() -> Option<Version>; 3] = [
            &|| current.with(of),
            &|| of(current.guard().as_deref()),
            &|| of(current.get().as_deref()),
        ];
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| (FIRST + 1..=LAST).for_each(put));
            let mut seen = None;
            while seen != Some(version(LAST)) && !writing.is_finished() {
                for (n, way) in ways.iter().enumerate() {
                    let now = way();
                    assert!(now >= seen, "way {n}: {now:?} after {seen:?}");
                    seen = now;
                }
            }
        });
        assert_eq!(ways.map(|way| way()), [Some(version(LAST)); 3]);
    }
}
