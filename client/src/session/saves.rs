//! When to write the state to the disk cache. Pure.
//!
//! What must hold: one write at a time, not more than one a second, and every change is written in
//! the end; a disk that fails is tried less and less often, and nothing else depends on it.
//!
//! Only changes are written. A heartbeat raises the version of the same content, and to go on from
//! the version of the last change costs a node nothing.
//!
//! Left out: writing (`cache/file.rs`).

use std::time::Duration;

/// The least time between two writes.
const GAP: Duration = Duration::from_secs(1);
/// The gap after failures is doubled this often at most.
const DOUBLINGS_MAX: u32 = 6;

/// What is known about writes.
#[derive(Debug, Default)]
pub(super) struct Saves {
    /// Whether there is a cache, and it may be written.
    pub(super) on: bool,
    /// Whether the state changed since the last write began.
    due: bool,
    last: Option<Duration>,
    writing: bool,
    failures: u32,
}

impl Saves {
    /// The state changed.
    pub(super) fn changed(&mut self) {
        self.due = true;
    }

    /// A write ended.
    pub(super) fn saved(&mut self, done: bool) {
        self.writing = false;
        self.due |= !done;
        self.failures = match done {
            true => 0,
            false => self.failures.saturating_add(1),
        };
    }

    /// Whether to begin a write now.
    pub(super) fn next(&mut self, now: Duration) -> bool {
        let begins = self.wake_at().is_some_and(|at| at <= now);
        if begins {
            (self.due, self.writing, self.last) = (false, true, Some(now));
        }
        begins
    }

    /// When a write is due, if one is.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        if !self.on || !self.due || self.writing {
            return None;
        }
        let gap = GAP.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX));
        Some(
            self.last
                .map_or(Duration::ZERO, |last| last.saturating_add(gap)),
        )
    }
}
