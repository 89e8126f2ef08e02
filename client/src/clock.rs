//! Where the client reads the time: a monotonic clock that also runs while the machine is
//! suspended.
//!
//! What must hold: it never goes back, and it does not stand still during suspend; a laptop that
//! slept for an hour holds a state that is an hour older (I5). No wall clock anywhere.
//!
//! An evaluation takes less time than reading this clock precisely, so it takes a quick reading that
//! errs on the late side. Linux keeps a coarse monotonic clock, moved on by each tick (1 to 10 ms)
//! and cheap to read. Each thread remembers what the precise clock said when it first saw the tick it
//! is in. The coarse clock stands still during suspend, but its reading afterwards is never one from
//! before: stopping it, the kernel first brings it up to that very moment, when no thread runs any
//! more. So an unchanged tick means that there was no suspend in between, and that no more than a
//! tick has passed, or as long as ticks can be late.
//!
//! Left out: waiting. That is `tokio::time`, so that a simulated runtime can jump.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

/// A source of instants, each the time since a fixed point.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the time since the clock's fixed point; never less than before.
    fn now(&self) -> Duration;

    /// Returns an instant that is not before now, and not more than [`CLOCK_ERROR_MAX`] after it.
    /// What is fresh then is fresh now.
    fn now_at_latest(&self) -> Duration {
        self.now()
    }
}

/// How far a quick reading can be ahead: far more than ticks are late. A kernel whose ticks stand
/// still on one processor moves its clock on from another one after five of them.
pub const CLOCK_ERROR_MAX: Duration = Duration::from_millis(100);

/// The clock of the operating system that runs during suspend (`CLOCK_BOOTTIME` on Linux).
///
/// ```
/// use pennon_client::{BootClock, Clock};
/// let (earlier, later) = (BootClock.now(), BootClock.now());
/// assert!(earlier <= later);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime; // I5
// Elsewhere (macOS, the BSDs) the monotonic clock is what there is; on macOS it runs during sleep.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        read(CLOCK)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn now_at_latest(&self) -> Duration {
        thread_local! {
            /// A tick, and the latest that it can be within it.
            static SEEN: Cell<(Duration, Duration)> = const { Cell::new((Duration::MAX, Duration::ZERO)) };
        }
        let tick = read(rustix::time::ClockId::MonotonicCoarse);
        let (seen, at_latest) = SEEN.get();
        if tick == seen {
            return at_latest;
        }
        // Read after the tick: a suspend in between is in it, and one after it changes the tick.
        let at_latest = self.now() + CLOCK_ERROR_MAX;
        SEEN.set((tick, at_latest));
        at_latest // I5
    }
}

fn read(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    // The kernel keeps both parts non-negative and the second below 10^9.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over half a second of readings on two threads, far more than a hundred ticks.
    #[test]
    fn a_quick_reading_is_not_before_now_and_not_far_ahead() {
        let watch = || {
            let began = BootClock.now();
            let mut readings = 0_u64;
            loop {
                let before = BootClock.now();
                let quick = BootClock.now_at_latest();
                let after = BootClock.now();
                assert!(quick >= before, "{quick:?} is before {before:?}");
                assert!(quick <= after + CLOCK_ERROR_MAX, "{quick:?} {after:?}");
                readings += 1;
                if after > began + Duration::from_millis(500) {
                    return readings;
                }
            }
        };
        let other = std::thread::spawn(watch);
        assert!(watch() > 1_000 && other.join().unwrap() > 1_000);
    }
}
