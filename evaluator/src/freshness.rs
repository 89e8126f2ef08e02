//! How old an answer can at most be, and whether that is fresh (D4). Plain arithmetic.
//!
//! What must hold: an age is an upper bound, never an estimate, without any agreement between the
//! clocks of node and client. The node says how long the stream has been open when it sends
//! (`open`) and how old the moment is for which its state is proved the newest (`fresh_age`). The
//! frame cannot have been sent before the client's own request start plus `open`, so that moment
//! cannot lie further back than `fresh_age` before then.
//!
//! Instants are `Duration`s since a fixed point of the caller's monotonic clock, one that runs
//! while the machine is suspended. `open` must be rounded down and `fresh_age` up wherever they
//! are rounded; `wire::Ages` does.
//!
//! Left out: reading clocks, and what to do about a stale answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds the age of a state from above: it held everything committed before `now` minus this.
///
/// Saturates: a clock that reads earlier than it must gives `fresh_age`, a sum that does not fit
/// gives the greatest duration.
pub fn age_max(
    now: Duration,
    request_started: Duration,
    open: Duration,
    fresh_age: Duration,
) -> Duration {
    let sent_at_earliest = request_started.saturating_add(open);
    now.saturating_sub(sent_at_earliest)
        .saturating_add(fresh_age) // I5
}

/// What one frame proves about the age of a state, kept until it is asked for.
///
/// ```
/// use std::time::Duration;
/// use pennon_evaluator::{AgeBound, Freshness, judge};
/// let seconds = Duration::from_secs;
/// let proof = AgeBound::new(seconds(100), seconds(5), seconds(1));
/// assert_eq!(proof.age_max(seconds(107)), seconds(3));
/// assert_eq!(judge(proof.age_max(seconds(107)), seconds(10)), Freshness::Fresh);
/// assert_eq!(judge(proof.age_max(seconds(115)), seconds(10)), Freshness::Stale);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeBound {
    sent_at_earliest: Duration,
    fresh_age: Duration,
}

impl AgeBound {
    /// Takes down what a frame says: when its request started on the caller's clock, how long the
    /// stream was open when it was sent, and how old its proof of freshness was then.
    pub fn new(request_started: Duration, open: Duration, fresh_age: Duration) -> AgeBound {
        AgeBound {
            sent_at_earliest: request_started.saturating_add(open),
            fresh_age,
        }
    }

    /// Bounds the age at an instant of the caller's clock.
    pub fn age_max(&self, now: Duration) -> Duration {
        age_max(now, self.sent_at_earliest, Duration::ZERO, self.fresh_age)
    }

    /// Returns the last instant at which the age is within a bound; nothing when it never is. Asked
    /// once, it makes judging a comparison.
    pub fn fresh_until(&self, bound: Duration) -> Option<Duration> {
        let left = bound.checked_sub(self.fresh_age)?;
        Some(self.sent_at_earliest.saturating_add(left)) // I5
    }

    /// Returns the stronger of two proofs. A proof for a state is also one for every later state.
    pub fn fresher(self, other: AgeBound) -> AgeBound {
        let ours = self.sent_at_earliest.saturating_add(other.fresh_age);
        let theirs = other.sent_at_earliest.saturating_add(self.fresh_age);
        if theirs > ours { other } else { self }
    }
}

/// Whether an answer is known to be within the staleness bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Freshness {
    /// Its state was the newest committed one at some moment within the bound.
    Fresh,
    /// That is not known.
    Stale,
}

impl Freshness {
    /// Returns `FRESH` or `STALE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Freshness::Fresh => "FRESH",
            Freshness::Stale => "STALE",
        }
    }
}

impl std::fmt::Display for Freshness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Judges an age against the staleness bound; an age of exactly the bound is fresh.
pub fn judge(age: Duration, bound: Duration) -> Freshness {
    if age <= bound {
        Freshness::Fresh
    } else {
        Freshness::Stale
    } // I5
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_bound_itself_is_fresh_and_a_nanosecond_more_is_not() {
        assert_eq!(judge(ms(10), ms(10)), Freshness::Fresh);
        assert_eq!(
            judge(ms(10) + Duration::from_nanos(1), ms(10)),
            Freshness::Stale
        );
    }

    #[test]
    fn nothing_overflows() {
        let max = Duration::MAX;
        assert_eq!(age_max(max, max, max, max), max);
        assert_eq!(age_max(ms(0), max, ms(1), ms(7)), ms(7));
        assert_eq!(age_max(max, ms(0), ms(0), ms(1)), max);
        assert_eq!(AgeBound::new(max, max, max).age_max(max), max);
        assert_eq!(AgeBound::new(max, max, ms(1)).fresh_until(max), Some(max));
    }

    proptest! {
        // I5: whatever the delays, the bound is never below the true age, and it is off by no
        // more than the time that request and frame spent on their way.
        #[test]
        fn an_age_is_an_upper_bound(
            client_started in 0_u64..1_000_000, request_delay in 0_u64..10_000,
            open in 0_u64..100_000, fresh_age in 0_u64..10_000,
            frame_delay in 0_u64..10_000, idle in 0_u64..10_000,
        ) {
            let sent = client_started + request_delay + open;
            let now = sent + frame_delay + idle;
            let truth = now - sent + fresh_age;
            let bound = age_max(ms(now), ms(client_started), ms(open), ms(fresh_age));
            prop_assert!(bound >= ms(truth));
            prop_assert_eq!(bound, ms(truth + request_delay));
        }

        #[test]
        fn being_fresh_until_then_is_being_judged_fresh(
            (sent, fresh_age, bound, now) in (0_u64..40, 0_u64..40, 0_u64..40, 0_u64..100),
        ) {
            let proof = AgeBound::new(ms(sent), Duration::ZERO, ms(fresh_age));
            let fresh = proof.fresh_until(ms(bound)).is_some_and(|until| ms(now) <= until);
            prop_assert_eq!(fresh, judge(proof.age_max(ms(now)), ms(bound)) == Freshness::Fresh);
        }

        #[test]
        fn the_fresher_of_two_proofs_never_gives_the_greater_age(
            a in (0_u64..1_000, 0_u64..1_000, 0_u64..1_000),
            b in (0_u64..1_000, 0_u64..1_000, 0_u64..1_000),
            later in 0_u64..1_000,
        ) {
            let bound = |(s, o, f)| AgeBound::new(ms(s), ms(o), ms(f));
            let (a, b) = (bound(a), bound(b));
            let now = ms(2_000 + later);
            let best = a.age_max(now).min(b.age_max(now));
            prop_assert_eq!(a.fresher(b).age_max(now), best);
            prop_assert_eq!(b.fresher(a).age_max(now), best);
        }
    }
}
