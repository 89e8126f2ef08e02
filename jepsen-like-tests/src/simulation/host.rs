//! One simulated machine: a runtime of its own, with clocks of its own.
//!
//! The runtime's clock is paused; each step moves it on by what the machine's rate makes of a
//! millisecond. A frozen machine (SIGSTOP) is not run; when it goes on, all of the time that passed
//! passes for it at once. After a suspend only the clock that runs during suspend has moved.
//! Ending a life drops the runtime: every task is gone between two of its steps, as in a crash.
//!
//! What must hold: only this file enters a runtime, one at a time, on one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::time::Instant;

use super::universe::{Machine, Power, Universe};
use crate::failure::{Failure, Result};

/// The time of day at the beginning: 2026-01-01.
const BEGIN_UNIX_MS: u64 = 1_767_225_600_000;

/// A million: the rate of a clock that is right.
pub(crate) const RIGHT_RATE_PPM: u64 = 1_000_000;

/// What a machine believes about time, apart from its runtime's clock.
#[derive(Debug, Default)]
pub(crate) struct Beliefs {
    /// By how much the clock that runs during suspend is ahead of the other, in milliseconds.
    suspended_ms: AtomicU64,
    /// By how much the time of day is off, in milliseconds.
    pub(crate) day_off_ms: AtomicI64,
}

/// The clocks of one life of a machine. Made inside of its runtime.
#[derive(Clone, Debug)]
pub(crate) struct Clocks {
    start: Instant,
    beliefs: Arc<Beliefs>,
    universe: Universe,
}

impl Clocks {
    fn boot(&self) -> Duration {
        let suspended = self.beliefs.suspended_ms.load(Ordering::Relaxed);
        self.start.elapsed() + Duration::from_millis(suspended)
    }
}

impl pennon_node::clock::Clock for Clocks {
    fn monotonic(&self) -> Duration {
        self.boot()
    }

    fn unix_ms(&self) -> u64 {
        let now = BEGIN_UNIX_MS + self.universe.lock().now_ms;
        now.saturating_add_signed(self.beliefs.day_off_ms.load(Ordering::Relaxed))
    }
}

impl pennon_client::Clock for Clocks {
    fn now(&self) -> Duration {
        self.boot()
    }
}

/// How a machine stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Still {
    /// Its process is stopped; all of its clocks go on.
    Stopped,
    /// It is suspended; the clock that its timers run on stands still.
    Suspended,
}

/// A machine.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    universe: Universe,
    random: StdRng,
    life: Option<Life>,
    pub(crate) beliefs: Arc<Beliefs>,
    pub(crate) rate_ppm: u64,
    owed_ppm: u64,
    still: Option<(Still, u64)>,
}

struct Life {
    runtime: Runtime,
    until: Instant,
    span: tracing::Span,
}

impl Host {
    pub(crate) fn new(universe: &Universe, name: &str, seed: u64) -> Host {
        let machine = universe.machine(name);
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ machine as u64;
        Host {
            machine,
            universe: universe.clone(),
            random: StdRng::seed_from_u64(mixed),
            life: None,
            beliefs: Arc::default(),
            rate_ppm: RIGHT_RATE_PPM,
            owed_ppm: 0,
            still: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.life.is_some()
    }

    pub(crate) fn is_still(&self) -> bool {
        self.still.is_some()
    }

    /// A number of this machine's own.
    pub(crate) fn roll(&mut self) -> u64 {
        self.random.random()
    }

    /// Starts a life; `main` is given its clocks.
    ///
    /// # Errors
    /// When the system refuses a runtime.
    pub(crate) fn start<F>(&mut self, main: impl FnOnce(Clocks) -> F) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let seed = RngSeed::from_bytes(&self.roll().to_le_bytes());
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(seed)
            .build()
            .map_err(Failure::new)?;
        {
            let mut state = self.universe.lock();
            let presence = &mut state.machines[self.machine];
            presence.life += 1;
            presence.power = Power::Running;
            presence.mute = false;
            let (name, life) = (presence.name.clone(), presence.life);
            state.note(format_args!("start {name} life {life}"));
        }
        (self.owed_ppm, self.still) = (0, None);
        let (beliefs, universe) = (self.beliefs.clone(), self.universe.clone());
        // Whole milliseconds, as the timers count them.
        let until = runtime.block_on(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let start = Instant::now();
            let clocks = Clocks {
                start,
                beliefs,
                universe,
            };
            tokio::spawn(main(clocks));
            start
        });
        let span = tracing::error_span!("at", machine = self.machine);
        self.life = Some(Life {
            runtime,
            until,
            span,
        });
        Ok(())
    }

    /// Lets the machine live for a millisecond.
    pub(crate) fn tick(&mut self) {
        let Some(life) = &mut self.life else {
            return;
        };
        if let Some((_, ms)) = &mut self.still {
            *ms += 1;
            return;
        }
        self.owed_ppm += self.rate_ppm;
        let ms = self.owed_ppm / RIGHT_RATE_PPM;
        self.owed_ppm %= RIGHT_RATE_PPM;
        if ms > 0 {
            life.until += Duration::from_millis(ms);
            let _logged_as = life.span.enter();
            let until = life.until;
            life.runtime
                .block_on(async move { tokio::time::sleep_until(until).await });
        }
    }

    /// Stands still until [`Host::go_on`].
    pub(crate) fn stand_still(&mut self, still: Still) {
        if self.life.is_some() && self.still.is_none() {
            self.still = Some((still, 0));
        }
    }

    pub(crate) fn go_on(&mut self) {
        let (Some((still, ms)), Some(life)) = (self.still.take(), &mut self.life) else {
            return;
        };
        let passed = Duration::from_millis(ms);
        match still {
            Still::Stopped => {
                life.until += passed;
                life.runtime.block_on(tokio::time::advance(passed));
            }
            Still::Suspended => {
                self.beliefs.suspended_ms.fetch_add(ms, Ordering::Relaxed);
            }
        }
    }

    /// Ends the life at once. What is left of its connections is [`Power`]'s matter.
    pub(crate) fn end(&mut self, power: Power) {
        let Some(life) = self.life.take() else {
            return;
        };
        self.still = None;
        {
            let mut state = self.universe.lock();
            let presence = &mut state.machines[self.machine];
            presence.mute |= power == Power::Off;
            let name = presence.name.clone();
            state.note(format_args!("end {name} {power:?}"));
        }
        drop(life);
        self.universe.lock().silence(self.machine, power);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::trace::Trace;
    use pennon_node::clock::Clock as _;
    use std::sync::Mutex;

    /// Counts its own milliseconds and says what its clock said last.
    fn counting(universe: &Universe) -> (Host, Arc<Mutex<(u64, Duration)>>) {
        let mut host = Host::new(universe, "h", 1);
        let seen: Arc<Mutex<(u64, Duration)>> = Arc::default();
        let told = seen.clone();
        host.start(|clocks| async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let mut told = told.lock().unwrap();
                *told = (told.0 + 1, clocks.monotonic());
            }
        })
        .unwrap();
        (host, seen)
    }

    fn ticks(universe: &Universe, host: &mut Host, count: u64) {
        for _ in 0..count {
            universe.tick();
            host.tick();
        }
    }

    #[test]
    fn a_clock_has_its_rate_and_stopping_is_not_suspending() {
        let universe = Universe::new(1, Trace::default());
        let (mut host, seen) = counting(&universe);
        let near = |expected: u64| {
            let (_, clock) = *seen.lock().unwrap();
            let off = clock.as_millis().abs_diff(u128::from(expected));
            assert!(off <= 2, "{clock:?}, not {expected}");
        };
        ticks(&universe, &mut host, 100);
        near(100);
        host.rate_ppm = 1_500_000;
        ticks(&universe, &mut host, 100);
        near(250);
        host.rate_ppm = RIGHT_RATE_PPM;
        let woken = seen.lock().unwrap().0;
        host.stand_still(Still::Stopped);
        ticks(&universe, &mut host, 1000);
        near(250);
        host.go_on();
        ticks(&universe, &mut host, 2);
        near(1252);
        assert!(
            seen.lock().unwrap().0 <= woken + 4,
            "it did not live meanwhile"
        );
        host.stand_still(Still::Suspended);
        ticks(&universe, &mut host, 1000);
        host.go_on();
        ticks(&universe, &mut host, 2);
        near(2254);
        host.end(Power::Off);
        assert!(!host.is_up());
    }
}
