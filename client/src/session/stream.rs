//! One stream as the session sees it: what it said about itself, what its messages prove, and when
//! it has to be given up. Pure.
//!
//! What must hold: a proof never claims more than the client's own clock allows (I5); every stream
//! has a deadline, whatever the node says.
//!
//! Left out: what is done with messages (`session.rs`).

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::wire::Ages;
use pennon_evaluator::{AgeBound, Version};

use super::Attempt;
use crate::error::Error;

/// The longest time from a request to the hello; a node that is behind waits before it answers.
const HELLO_TIME_MAX: Duration = Duration::from_secs(10);
/// The same for a client that holds nothing: it has no time to lose.
const HELLO_TIME_FIRST: Duration = Duration::from_secs(4);
/// The longest time for a poll, requests and answers.
const POLL_TIME_MAX: Duration = Duration::from_secs(30);
/// The longest time one message may take to arrive while its bytes keep coming.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(60);
/// A stream is silent after this many times the longest time between two messages.
const HEARTBEATS_MISSED_MAX: u32 = 3;
/// Bounds on what is taken for that time, whatever a node says.
const SILENCE_MIN: Duration = Duration::from_millis(200);
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// A stream is opened anew after this time at the latest. Ages are computed from how long the
/// stream has been open on the node's clock; clocks whose rates differ by 200 ppm are 0.2 s apart
/// by then, and without an end an age would be off by as much as anybody likes.
const STREAM_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// A stream that was asked for.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) attempt: Attempt,
    /// The version that was asked to go on from; none when everything was asked for.
    pub(super) since: Option<Version>,
    /// Whether it is a poll.
    pub(super) poll: bool,
    /// How long the hello may take.
    pub(super) hello_max: Duration,
    /// Before the request was written: no event of the stream can be earlier.
    pub(super) started: Duration,
    /// When it is opened anew.
    pub(super) until: Duration,
    /// When bytes came last.
    pub(super) heard: Duration,
    /// When a message came last.
    pub(super) message: Duration,
    /// The shortest time that request and message may have spent on their way, by what is known:
    /// every age of this stream is too great by as much.
    pub(super) underway: Duration,
    pub(super) hello: Option<Hello>,
}

/// What a stream said about itself.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) cluster_id: Arc<str>,
    pub(super) bound: Duration,
    pub(super) silence_max: Duration,
    /// Since when only a full snapshot can follow, if that is so.
    pub(super) full: Option<Duration>,
    /// The best that a message of this stream has proved.
    pub(super) proof: AgeBound,
    /// The age of that proof from which on another node may be fresher.
    aged: Duration,
    /// When it came.
    at: Duration,
}

/// What it means that a stream's deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// No hello came.
    NoHello,
    /// Nothing came.
    Silent,
    /// Bytes came, but no whole message.
    Slow,
    /// Messages came, but what they prove is old.
    Stale,
    /// Nothing is wrong; it has been open for long enough.
    Renew,
}

impl Late {
    pub(super) fn error(self) -> Error {
        Error::timed_out(match self {
            Late::NoHello => "the node took too long to answer",
            Late::Silent => "the stream fell silent",
            Late::Slow => "a message took too long to arrive",
            Late::Stale => "the node cannot prove that its state is fresh",
            Late::Renew => "the stream is due for renewal",
        })
    }
}

impl Stream {
    /// Begins at the moment before the request is written. `part` from 0.75 to 1 spreads renewals:
    /// clients that connected together do not come back together.
    pub(super) fn new(
        attempt: Attempt,
        since: Option<Version>,
        now: Duration,
        part: f64,
    ) -> Stream {
        Stream {
            attempt,
            since,
            poll: false,
            hello_max: HELLO_TIME_MAX,
            started: now,
            until: now.saturating_add(STREAM_TIME_MAX.mul_f64(part)),
            heard: now,
            message: now,
            underway: Duration::MAX,
            hello: None,
        }
    }

    /// The same for a poll.
    pub(super) fn poll(attempt: Attempt, since: Option<Version>, now: Duration) -> Stream {
        Stream {
            poll: true,
            hello_max: POLL_TIME_MAX,
            ..Stream::new(attempt, since, now, 1.0)
        }
    }

    /// Lets the hello take no longer than what is left for it: `held` is the bound of a state that is
    /// kept fresh by polls meanwhile, zero when nothing is held.
    pub(super) fn hurry(&mut self, held: Duration) {
        self.hello_max = match held {
            Duration::ZERO => HELLO_TIME_FIRST,
            held => (held / 4).clamp(SILENCE_MIN, HELLO_TIME_MAX),
        };
    }

    /// Says what the ages of a message that has just come prove.
    pub(super) fn proof(&self, ages: Ages, now: Duration) -> AgeBound {
        // I5: a stream cannot have been open for longer than since its request. A node whose
        // clock runs fast must not make a state look fresh in the future.
        let open = Duration::from_millis(ages.open_ms).min(now.saturating_sub(self.started));
        AgeBound::new(self.started, open, Duration::from_millis(ages.fresh_age_ms))
    }

    /// Notes that a message came.
    pub(super) fn note(&mut self, ages: Ages, now: Duration) {
        (self.heard, self.message) = (now, now);
        let since = now.saturating_sub(self.started);
        let underway = since.saturating_sub(Duration::from_millis(ages.open_ms));
        self.underway = self.underway.min(underway);
    }

    /// Whether it may go on from what is held: that was asked for, or has come by it.
    pub(super) fn goes_on(&self) -> bool {
        self.since.is_some()
            || self
                .hello
                .as_ref()
                .is_some_and(|hello| hello.full.is_none())
    }

    /// Takes what the stream says about itself; again when the staleness bound has changed (I5).
    /// What was proved before and what is still to come stand.
    pub(super) fn greet(&mut self, hello: Hello) {
        self.hello = Some(match self.hello.take() {
            Some(before) => Hello {
                full: before.full.or(hello.full),
                proof: before.proof.fresher(hello.proof),
                at: before.at,
                ..hello
            },
            None => hello,
        });
    }

    /// Returns when something is to be done about the stream if nothing happens, and what.
    /// `other_at` is when another endpoint may be tried, if there is one.
    pub(super) fn deadline(&self, other_at: Option<Duration>) -> (Duration, Late) {
        let Some(hello) = &self.hello else {
            return (self.started.saturating_add(self.hello_max), Late::NoHello);
        };
        let silent = (self.heard.saturating_add(hello.silence_max), Late::Silent);
        let slow = (self.message.saturating_add(MESSAGE_TIME_MAX), Late::Slow);
        let slow = if hello.silence_max > MESSAGE_TIME_MAX {
            silent
        } else {
            slow
        };
        let renew = (self.until, Late::Renew);
        let first = silent.min_by_time(slow).min_by_time(renew);
        if let Some(since) = hello.full {
            // Heartbeats are no substitute for the snapshot.
            return first.min_by_time((since.saturating_add(MESSAGE_TIME_MAX), Late::Slow));
        }
        // A request that was taken up late makes every age of the stream too great; the next one may
        // be taken up sooner.
        let settled = hello.at.saturating_add(hello.aged);
        let first = match self.underway > hello.aged / 2 {
            true => first.min_by_time((settled, Late::Renew)),
            false => first,
        };
        let Some(other_at) = other_at else {
            return first;
        };
        // A node that cannot prove its state fresh is left for one that may, in good time; but it is
        // given that time itself, so that clients do not rush about while no node can.
        let proved_until = hello.proof.fresh_until(hello.aged).unwrap_or_default();
        first.min_by_time((proved_until.max(settled).max(other_at), Late::Stale))
    }
}

impl Hello {
    pub(super) fn new(
        cluster_id: &str,
        (bound_ms, heartbeat_ms): (u64, u64),
        full: bool,
        proof: AgeBound,
        now: Duration,
    ) -> Hello {
        let heartbeat = Duration::from_millis(heartbeat_ms);
        let bound = Duration::from_millis(bound_ms);
        let silence = heartbeat.saturating_mul(HEARTBEATS_MISSED_MAX);
        Hello {
            cluster_id: cluster_id.into(),
            bound,
            silence_max: silence.clamp(SILENCE_MIN, SILENCE_MAX),
            full: full.then_some(now),
            proof,
            // A heartbeat that is a little late is no reason yet.
            aged: (bound / 2)
                .max(heartbeat.saturating_mul(2))
                .min(SILENCE_MAX),
            at: now,
        }
    }
}

trait MinByTime {
    fn min_by_time(self, other: Self) -> Self;
}

impl MinByTime for (Duration, Late) {
    fn min_by_time(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}
