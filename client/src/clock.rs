//! Where the client reads the time: a monotonic clock that also runs while the machine is
//! suspended.
//!
//! What must hold: it never goes back, and it does not stand still during suspend; a laptop that
//! slept for an hour holds a state that is an hour older (I5). No wall clock anywhere.
//!
//! Left out: waiting. That is `tokio::time`, so that a simulated runtime can jump.

use std::fmt;
use std::time::Duration;

/// A source of instants, each the time since a fixed point.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the time since the clock's fixed point; never less than before.
    fn now(&self) -> Duration;
}

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
        let time = rustix::time::clock_gettime(CLOCK);
        // The kernel keeps both parts non-negative and the second below 10^9.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanoseconds)
    }
}
