//! One direction between two hosts: what happens to the bytes that one sends the other, whoever of
//! them opened the connection; and how much of it happened.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Bytes taken at once where nothing says less.
pub(super) const CHUNK_LEN: usize = 64 * 1024;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They arrive at once.
    Pass,
    /// They are taken and kept, ends of connections included, and arrive when this mode ends: a
    /// partition that TCP outlives.
    Hold,
    /// They are taken and lost, ends of connections included. A connection that lost something is
    /// reset when this mode ends, because what follows could not be understood.
    Swallow,
    /// Nothing is taken: whoever sends meets a reader that has stopped.
    Stall,
    /// They arrive slowly.
    Slow(Slow),
    /// Each connection is reset after so many bytes more, in the middle of whatever they are.
    CutAfter(u64),
}

impl Mode {
    /// Whether nothing arrives.
    pub fn blocks(self) -> bool {
        matches!(self, Mode::Hold | Mode::Swallow | Mode::Stall)
    }
}

/// How bytes are slowed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// What each chunk takes at least.
    pub delay: Duration,
    /// What it takes longer at most, by chance.
    pub jitter: Duration,
    /// Bytes in one chunk, at least 1.
    pub chunk_len: usize,
    /// Between two chunks.
    pub gap: Duration,
}

impl Slow {
    /// A long way: each chunk takes `delay` and up to `jitter` more; none overtakes another.
    pub fn delayed(delay: Duration, jitter: Duration) -> Slow {
        Slow {
            delay,
            jitter,
            chunk_len: CHUNK_LEN,
            gap: Duration::ZERO,
        }
    }

    /// A narrow way of so many bytes a second, at least 20.
    pub fn limited(bytes_per_second: usize) -> Slow {
        Slow::dripping(bytes_per_second / 20, Duration::from_millis(50))
    }

    /// A few bytes, then a pause.
    pub fn dripping(chunk_len: usize, gap: Duration) -> Slow {
        Slow {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            chunk_len: chunk_len.clamp(1, CHUNK_LEN),
            gap,
        }
    }
}

/// What a wire did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that arrived.
    pub passed: u64,
    /// Bytes that were kept for later.
    pub held: u64,
    /// Bytes that were lost.
    pub swallowed: u64,
    /// Chunks that came later than they could have.
    pub slowed: u64,
    /// How often nothing was taken although there was something.
    pub stalled: u64,
    /// Connections reset in the middle, by a cut or a reset of everything.
    pub reset: u64,
    /// Connections that were not opened at once, or not at all.
    pub unopened: u64,
}

impl Counts {
    /// Whether anything was done but passing bytes on.
    pub fn acted(&self) -> bool {
        let Counts {
            passed: _,
            held,
            swallowed,
            slowed,
            stalled,
            reset,
            unopened,
        } = self;
        held + swallowed + slowed + stalled + reset + unopened > 0
    }

    /// Adds up.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            passed: self.passed + other.passed,
            held: self.held + other.held,
            swallowed: self.swallowed + other.swallowed,
            slowed: self.slowed + other.slowed,
            stalled: self.stalled + other.stalled,
            reset: self.reset + other.reset,
            unopened: self.unopened + other.unopened,
        }
    }
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, other: Counts) -> Counts {
        Counts {
            passed: self.passed - other.passed,
            held: self.held - other.held,
            swallowed: self.swallowed - other.swallowed,
            slowed: self.slowed - other.slowed,
            stalled: self.stalled - other.stalled,
            reset: self.reset - other.reset,
            unopened: self.unopened - other.unopened,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) passed: AtomicU64,
    pub(super) held: AtomicU64,
    pub(super) swallowed: AtomicU64,
    pub(super) slowed: AtomicU64,
    pub(super) stalled: AtomicU64,
    pub(super) reset: AtomicU64,
    pub(super) unopened: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// One direction between two hosts.
#[derive(Debug)]
pub struct Wire {
    mode: watch::Sender<Mode>,
    resets: watch::Sender<u64>,
    pub(super) counters: Counters,
}

impl Default for Wire {
    fn default() -> Wire {
        Wire {
            mode: watch::channel(Mode::Pass).0,
            resets: watch::channel(0).0,
            counters: Counters::default(),
        }
    }
}

impl Wire {
    /// Sets what happens from now on, also to connections that are open.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What happens now.
    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Resets every connection that sends this way.
    pub fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters {
            passed,
            held,
            swallowed,
            slowed,
            stalled,
            reset,
            unopened,
        } = &self.counters;
        Counts {
            passed: read(passed),
            held: read(held),
            swallowed: read(swallowed),
            slowed: read(slowed),
            stalled: read(stalled),
            reset: read(reset),
            unopened: read(unopened),
        }
    }

    pub(super) fn modes(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    pub(super) fn resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }
}
