//! How much a node may still write, and when it stops before the disk does.
//!
//! A failed write ends the log (nothing is known about the bytes any more), so a full disk must be met
//! before it is met by a write. Two marks do that. Below `min_free` the node is *low*: the leader
//! takes no changes, and leadership goes to a voter that has space. Below a quarter of it the node is
//! *at the floor*: what can wait (snapshots, history, a snapshot from a peer) waits, so that the rest is left
//! to the log, whose space is taken beforehand (`log/prepare.rs`).
//! Space that returns is seen at the next look; nothing has to be started again.
//!
//! Left out: who asks when (the writer for each batch, the raft facade for each message).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Disk;

/// Watches the free bytes of one disk. Clones share what was seen last.
///
/// ```
/// use std::sync::Arc;
/// use pennon_raft_store::disk::{MemoryDisk, Space};
/// let disk = MemoryDisk::new();
/// let space = Space::new(Arc::new(disk.clone()), 1000);
/// assert!(!space.is_low(), "a disk without a bound is never full");
/// disk.set_capacity(Some(999));
/// assert!(space.is_low() && !space.is_at_floor());
/// disk.set_capacity(Some(1001));
/// assert!(space.is_low(), "one byte more does not turn it around");
/// disk.set_capacity(Some(1125));
/// assert!(!space.is_low());
/// ```
#[derive(Clone)]
pub struct Space {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Option<Arc<dyn Disk>>,
    min_free: u64,
    low: AtomicBool,
    ended: AtomicBool,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("min_free", &self.inner.min_free)
            .field("free", &self.free_bytes())
            .finish()
    }
}

impl Default for Space {
    fn default() -> Space {
        Space::unbounded()
    }
}

impl Space {
    /// Watches `disk`; below `min_free` bytes it is low. With 0 it never is.
    pub fn new(disk: Arc<dyn Disk>, min_free: u64) -> Space {
        Space::over(Some(disk), min_free)
    }

    /// Watches nothing and is never low.
    pub fn unbounded() -> Space {
        Space::over(None, 0)
    }

    fn over(disk: Option<Arc<dyn Disk>>, min_free: u64) -> Space {
        let inner = Inner {
            disk: disk.filter(|_| min_free > 0),
            min_free,
            low: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        };
        Space {
            inner: Arc::new(inner),
        }
    }

    /// Returns the mark below which the disk is low, in bytes.
    pub fn min_free(&self) -> u64 {
        self.inner.min_free
    }

    /// Returns the bytes that are free now; `None` when nobody knows a bound.
    pub fn free_bytes(&self) -> Option<u64> {
        // A disk that cannot even tell fails the next write, which says more than this could.
        self.inner.disk.as_ref()?.free_bytes().ok().flatten()
    }

    /// Looks whether changes have to be refused. It stays so until an eighth more than `min_free` is
    /// free, so that it does not flicker.
    pub fn is_low(&self) -> bool {
        let Some(free) = self.free_bytes() else {
            return false;
        };
        let min = self.inner.min_free;
        let was = self.inner.low.load(Ordering::Relaxed);
        let enough = if was { min + min / 8 } else { min };
        let low = free < enough;
        if low != was {
            self.inner.low.store(low, Ordering::Relaxed);
            match low {
                true => tracing::warn!(free, min_free = min, "the disk is nearly full"),
                false => tracing::info!(free, min_free = min, "the disk has space again"),
            }
        }
        low
    }

    /// Looks whether everything that can wait has to.
    pub fn is_at_floor(&self) -> bool {
        self.free_bytes()
            .is_some_and(|free| free < self.inner.min_free / 4)
    }

    /// Refuses what can wait while the disk is at the floor.
    ///
    /// # Errors
    /// `StorageFull`.
    pub fn check_floor(&self) -> io::Result<()> {
        match self.is_at_floor() {
            true => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the disk is nearly full, and the rest is kept for the log",
            )),
            false => Ok(()),
        }
    }

    /// Ends all waiting for space: the node stops.
    pub fn end(&self) {
        self.inner.ended.store(true, Ordering::Relaxed);
    }

    /// Whether nobody should wait for space any more.
    pub fn has_ended(&self) -> bool {
        self.inner.ended.load(Ordering::Relaxed)
    }
}
