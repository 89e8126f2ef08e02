//! What evaluations read: a state and what is known about its age. Derived.
//!
//! What must hold: until when the state is fresh follows from the proof and the bound of the same
//! value, whichever of them changed last (I5).

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{AgeBound, Freshness, Snapshot, judge};

use crate::clock::Clock;

/// A state, where it comes from, and how old it can be.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) snapshot: Snapshot,
    pub(crate) cluster_id: Arc<str>,
    proof: AgeBound,
    bound: Duration,
    /// The last instant at which the state is fresh; none when it never is.
    fresh_until: Option<Duration>,
}

impl Held {
    pub(crate) fn new(
        snapshot: Snapshot,
        cluster_id: Arc<str>,
        proof: AgeBound,
        bound: Duration,
    ) -> Held {
        Held {
            snapshot,
            cluster_id,
            proof,
            bound,
            fresh_until: proof.fresh_until(bound),
        }
    }

    /// What is proved about the age of the state.
    pub(crate) fn proof(&self) -> AgeBound {
        self.proof
    }

    /// The staleness bound: that of the environment, or the caller's if it is stricter.
    pub(crate) fn bound(&self) -> Duration {
        self.bound
    }

    pub(crate) fn set_proof(&mut self, proof: AgeBound) {
        self.proof = proof;
        self.fresh_until = proof.fresh_until(self.bound);
    }

    pub(crate) fn set_bound(&mut self, bound: Duration) {
        self.bound = bound;
        self.fresh_until = self.proof.fresh_until(bound);
    }

    pub(crate) fn freshness(&self, now: Duration) -> (Duration, Freshness) {
        let age = self.proof.age_max(now);
        (age, judge(age, self.bound)) // I5
    }

    /// Judges the state now, and says by which instant: one that is certainly not too early. The
    /// precise clock is read only when the quick reading does not settle it.
    #[inline]
    pub(crate) fn judge_by(&self, clock: &dyn Clock) -> (Duration, Freshness) {
        let at_latest = clock.now_at_latest();
        if self.fresh_until.is_some_and(|until| at_latest <= until) {
            return (at_latest, Freshness::Fresh); // I5
        }
        let now = clock.now();
        (now, self.freshness(now).1)
    }
}
