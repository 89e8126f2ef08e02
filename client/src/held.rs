//! What evaluations read: a state and what is known about its age. Derived.
//!
//! What must hold: until when the state is fresh follows from the proof and the bound of the same
//! value, whichever of them changed last (I5).

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{AgeBound, Freshness, Snapshot, judge};

use crate::cache::Restored;
use crate::clock::Clock;

/// An age of which nothing is known: longer than any bound.
const AGE_UNKNOWN: Duration = Duration::MAX;

/// Where a state was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A node.
    Node,
    /// The disk cache. It is STALE until a node confirms or replaces it.
    Cache,
    /// The bytes given to the builder. It is STALE until a node replaces it.
    Bootstrap,
    /// Code: a [`TestClient`](crate::testing::TestClient).
    Code,
}

/// A state, where it comes from, and how old it can be.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) snapshot: Snapshot,
    /// None when it is not known which cluster this is a state of.
    pub(crate) cluster_id: Option<Arc<str>>,
    pub(crate) source: Source,
    proof: AgeBound,
    /// The staleness bound of the environment.
    environment_bound: Duration,
    bound: Duration,
    /// The last instant at which the state is fresh; none when it never is.
    fresh_until: Option<Duration>,
}

impl Held {
    /// Holds what a node sent. `bound_max` is the caller's staleness bound, if there is one.
    pub(crate) fn new(
        snapshot: Snapshot,
        cluster_id: Arc<str>,
        proof: AgeBound,
        environment_bound: Duration,
        bound_max: Option<Duration>,
    ) -> Held {
        let mut held = Held {
            snapshot,
            cluster_id: Some(cluster_id),
            source: Source::Node,
            proof,
            environment_bound,
            bound: environment_bound,
            fresh_until: None,
        };
        held.set_bound(environment_bound, bound_max);
        held
    }

    /// Holds what comes from elsewhere: of unknown age, never fresh.
    pub(crate) fn restored(restored: Restored, bound_max: Option<Duration>) -> Held {
        let mut held = Held {
            snapshot: restored.snapshot,
            cluster_id: restored.cluster_id,
            source: restored.source,
            proof: AgeBound::new(Duration::ZERO, Duration::ZERO, AGE_UNKNOWN), // I5
            environment_bound: restored.bound,
            bound: restored.bound,
            fresh_until: None,
        };
        held.set_bound(restored.bound, bound_max);
        held
    }

    /// Whether it is the same version with the same content.
    pub(crate) fn has_content_of(&self, other: &Held) -> bool {
        let (ours, theirs) = (&self.snapshot, &other.snapshot);
        ours.version() == theirs.version()
            && ours.digest() == theirs.digest()
            && self.cluster_id == other.cluster_id
    }

    /// The staleness bound of the environment.
    pub(crate) fn environment_bound(&self) -> Duration {
        self.environment_bound
    }

    /// How old the state can at most be; none when nothing is known about that.
    pub(crate) fn age_max(&self, now: Duration) -> Option<Duration> {
        Some(self.proof.age_max(now)).filter(|age| *age != AGE_UNKNOWN)
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

    /// Sets the bound of the environment; the caller's counts if it is stricter.
    pub(crate) fn set_bound(&mut self, environment: Duration, bound_max: Option<Duration>) {
        self.environment_bound = environment;
        self.bound = bound_max.map_or(environment, |max| max.min(environment)); // I5
        self.fresh_until = self.proof.fresh_until(self.bound);
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
