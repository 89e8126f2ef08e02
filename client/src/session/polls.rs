//! When to poll instead of streaming. Pure.
//!
//! What must hold: polls only stand in for streams that do not get through although plain requests
//! do (a proxy that buffers or cuts them), and streams are tried again, less and less often; while
//! polling, a try is short enough for the state to stay fresh.
//!
//! A poll is taken like a very short stream: a hello, one message, the end. So it is bound by the
//! same rules.
//!
//! Left out: the requests (`polling.rs`).

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// Streams in a row that brought nothing, before a poll is tried.
const BLOCKED_MAX: u32 = 3;
/// How long to poll before streams are tried again: at first, and at most.
const AGAIN_FIRST: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(15 * 60);
/// The longest time between two receipts of who polls, by how often streams have heartbeats.
const HEARTBEAT_MS_MAX: u64 = 2_000;

/// Whether to poll when streams do not get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Polling {
    /// Poll while streams bring nothing and plain requests are answered.
    #[default]
    Auto,
    /// Never poll.
    Never,
    /// Never stream.
    Only,
}

/// What the answer to a poll says of where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) cluster_id: Arc<str>,
    pub(crate) bound_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Polls {
    mode: Polling,
    /// Streams in a row that were asked for and brought nothing.
    blocked: u32,
    /// Whether to poll once, to have a state at all.
    once: bool,
    /// While polling: when to try a stream, and how long to wait for the next try.
    again: Option<(Duration, Duration)>,
}

/// How often a stream of this staleness bound has heartbeats.
pub(super) fn heartbeat_ms(bound_ms: u64) -> u64 {
    (bound_ms / 4).min(HEARTBEAT_MS_MAX)
}

impl Polls {
    pub(super) fn new(mode: Polling) -> Polls {
        Polls {
            mode,
            ..Polls::default()
        }
    }

    /// Whether polls are what keeps the state fresh.
    pub(super) fn are_on(&self) -> bool {
        self.mode == Polling::Only || self.again.is_some()
    }

    /// Whether the next request is a poll.
    pub(super) fn is_next(&self, now: Duration) -> bool {
        match (self.mode, self.again) {
            (Polling::Only, _) => true,
            (Polling::Never, _) => false,
            (Polling::Auto, Some((at, _))) => now < at,
            (Polling::Auto, None) => self.once || self.blocked >= BLOCKED_MAX,
        }
    }

    /// A stream brought a message.
    pub(super) fn stream_came(&mut self) {
        (self.blocked, self.once, self.again) = (0, false, None);
    }

    /// A stream was asked for and brought nothing. Says whether to poll the same endpoint: once, when
    /// a client has waited for it and holds nothing (it has no time to lose), and from then on when
    /// it happens again and again.
    pub(super) fn stream_blocked(&mut self, waiting: bool, now: Duration) -> bool {
        self.blocked = self.blocked.saturating_add(1);
        self.once |= waiting;
        if let Some((_, pause)) = self.again {
            let pause = pause.saturating_mul(2).min(AGAIN_MAX);
            self.again = Some((now.saturating_add(pause), pause));
        }
        self.is_next(now)
    }

    /// A poll was answered.
    pub(super) fn poll_came(&mut self, rng: &mut StdRng, now: Duration) {
        self.once = false;
        let blocked = self.mode == Polling::Auto && self.blocked >= BLOCKED_MAX;
        if blocked && self.again.is_none() {
            let pause = AGAIN_FIRST.mul_f64(1.0 + rng.random::<f64>());
            self.again = Some((now.saturating_add(pause), pause));
        }
    }

    /// A poll failed, so it may not be the streams.
    pub(super) fn poll_failed(&mut self) {
        (self.blocked, self.once) = (0, false);
    }

    /// The pause until the next poll: a third of the bound, and somewhat less.
    pub(super) fn interval(bound: Duration, rng: &mut StdRng) -> Duration {
        (bound / 3).mul_f64(rng.random_range(0.75..1.0))
    }
}
