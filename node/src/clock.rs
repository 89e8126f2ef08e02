//! Time, handed in.
//!
//! Waiting is always `tokio::time`, which a simulation pauses. Two more readings are needed: a
//! monotonic one that runs while the machine is suspended, for ages (I5), and the time of day, for
//! the stamp a leader puts on its entries. No decision about correctness looks at the latter.

use std::fmt;
use std::time::{Duration, SystemTime};

/// The clocks of one node.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since some fixed moment; never runs backwards, runs during suspend.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since 1970, as well as this machine knows.
    fn unix_ms(&self) -> u64;
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }

    fn unix_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64)
    }
}

/// tokio's clock, which tests can pause; the time of day starts at a fixed moment.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
}

impl TokioClock {
    /// The time of day at the start: 2026-01-01.
    const START_UNIX_MS: u64 = 1_767_225_600_000;

    /// Starts at the current tokio instant.
    pub fn start() -> Self {
        Self {
            start: tokio::time::Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        Self::START_UNIX_MS + self.start.elapsed().as_millis() as u64
    }
}
