//! Which endpoint comes next, and when. Pure.
//!
//! What must hold: an endpoint that failed is passed over for a while, longer with each failure in a
//! row, unless there is no other; every pause is random over its whole length (full jitter), so that
//! clients that lost a node together do not come back together; of several endpoints that may be
//! tried, each is as likely, so that they share the clients of one that went.
//!
//! Left out: what counts as a failure (`session.rs`), connections (`transport.rs`).

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// The time for which an endpoint is passed over is random, up to this at first, doubled with each
/// failure in a row.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest such time.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// All endpoints of a client, by number.
#[derive(Debug)]
pub(super) struct Endpoints {
    all: Vec<Health>,
    current: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// Failures since it last proved a state fresh.
    failures: u32,
    /// When it failed last since then.
    failed: Duration,
    /// Passed over until then.
    until: Duration,
}

impl Endpoints {
    /// Begins with any of them.
    pub(super) fn new(len: usize, rng: &mut StdRng) -> Endpoints {
        Endpoints {
            all: vec![Health::default(); len.max(1)],
            current: match len {
                0 | 1 => 0,
                n => rng.random_range(0..n),
            },
        }
    }

    /// The one that is, or will be, talked to.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// The current one proved a state fresh.
    pub(super) fn good(&mut self) {
        self.all[self.current] = Health::default();
    }

    /// The current one failed; it is passed over, for at least the time that it asked for.
    pub(super) fn failed(&mut self, asked: Duration, rng: &mut StdRng, now: Duration) {
        let health = &mut self.all[self.current];
        let longest = BACKOFF_FIRST.saturating_mul(1 << health.failures.min(16));
        health.failures = health.failures.saturating_add(1);
        health.failed = now;
        let pause = longest.min(BACKOFF_MAX).mul_f64(rng.random());
        let asked = asked + (asked / 4).mul_f64(rng.random());
        health.until = now.saturating_add(pause.max(asked));
    }

    /// The current one is going for at least this time, and that is no failure.
    pub(super) fn away(&mut self, time: Duration, rng: &mut StdRng, now: Duration) {
        let time = time + time.mul_f64(rng.random());
        self.all[self.current].until = now.saturating_add(time);
    }

    /// When another one than the current may be tried; none when there is no other.
    pub(super) fn other_at(&self) -> Option<Duration> {
        let others = (0..self.all.len()).filter(|n| *n != self.current);
        others.map(|n| self.all[n].until).min()
    }

    /// Turns to the next one and says when it may be tried. Of those that may be tried now it is one
    /// that did not fail, or whose failure is the longest ago; of the others, the first.
    pub(super) fn turn(&mut self, rng: &mut StdRng, now: Duration) -> Duration {
        let all = &self.all;
        let mut ready: Vec<usize> = (0..all.len()).filter(|n| all[*n].until <= now).collect();
        if ready.len() > 1 {
            ready.retain(|n| *n != self.current);
        }
        if let Some(best) = ready.iter().map(|n| all[*n].failed).min() {
            ready.retain(|n| all[*n].failed == best);
        }
        self.current = match ready[..] {
            [] => (0..all.len())
                .min_by_key(|n| all[*n].until)
                .unwrap_or_default(),
            [only] => only,
            _ => ready[rng.random_range(0..ready.len())],
        };
        self.all[self.current].until
    }
}
