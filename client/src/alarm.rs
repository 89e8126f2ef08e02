//! The one timer of the background task.
//!
//! What must hold: it rings by the time that was set last, or after `TICK_MAX`; it may ring earlier,
//! and whoever hears it looks at what is due. Nearly every message puts off nearly every deadline, so
//! a timer that would ring too early is left as it is, and set anew when it has rung: once a second
//! at most, instead of once a message.
//!
//! Left out: what is due (`session.rs`).

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The longest time without a look at the clock, so that a suspend is noticed soon after.
const TICK_MAX: Duration = Duration::from_secs(1);
/// The shortest, for clocks that run slower than the timer.
const TICK_MIN: Duration = Duration::from_millis(1);

/// A timer that is kept.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// When it rings, by the client's clock; long ago when it has rung.
    at: Duration,
}

impl Alarm {
    pub(crate) fn new() -> Alarm {
        Alarm {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            at: Duration::ZERO,
        }
    }

    /// Has it ring by this time of the client's clock; none is any time.
    pub(crate) fn set(&mut self, wake: Option<Duration>, now: Duration) {
        let wait = wake.map_or(TICK_MAX, |at| at.saturating_sub(now));
        let wait = wait.clamp(TICK_MIN, TICK_MAX);
        let at = now.saturating_add(wait);
        // One that should have rung by now runs slower than the clock does: it may have been suspended.
        if self.at <= now || at < self.at {
            self.at = at;
            self.sleep.as_mut().reset(Instant::now() + wait);
        }
    }

    /// Waits until it rings. Dropping the future loses nothing.
    pub(crate) async fn ring(&mut self) {
        self.sleep.as_mut().await;
        self.at = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Sets it and waits for it; returns what time that took.
    async fn ring(alarm: &mut Alarm, wake: Option<Duration>, now: Duration) -> Duration {
        let began = Instant::now();
        alarm.set(wake, now);
        alarm.ring().await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_by_the_time_that_was_set_last() {
        let mut alarm = Alarm::new();
        alarm.set(Some(ms(500)), ms(0));
        assert_eq!(ring(&mut alarm, Some(ms(200)), ms(0)).await, ms(200));
        // Put off it rings early, and then on time.
        alarm.set(Some(ms(700)), ms(200));
        tokio::time::advance(ms(100)).await;
        assert_eq!(ring(&mut alarm, Some(ms(900)), ms(300)).await, ms(400));
        assert_eq!(ring(&mut alarm, Some(ms(900)), ms(700)).await, ms(200));
        assert_eq!(ring(&mut alarm, Some(ms(9_000)), ms(900)).await, ms(1_000));
        assert_eq!(ring(&mut alarm, None, ms(1_900)).await, ms(1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_ring_for_ever_when_the_clock_stands_still() {
        let mut alarm = Alarm::new();
        for _ in 0..3 {
            assert_eq!(ring(&mut alarm, Some(ms(5)), ms(5)).await, ms(1));
            assert_eq!(ring(&mut alarm, Some(ms(6)), ms(5)).await, ms(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_suspend_it_counts_from_the_clock() {
        let mut alarm = Alarm::new();
        alarm.set(Some(ms(1_000)), ms(0));
        // The clock ran on for a minute, the timer did not.
        assert_eq!(ring(&mut alarm, Some(ms(60_050)), ms(60_000)).await, ms(50));
    }
}
