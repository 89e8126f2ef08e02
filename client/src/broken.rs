//! Promises that a client of a debug build breaks when it is told to, so that runs under faults can
//! show that their checkers see it.
//!
//! What must hold: a release build has none of it: `Broken::is` is false at compile time there, and
//! the builder has no way to ask for it.

use std::time::Duration;

use pennon_evaluator::AgeBound;

/// What a client breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It asks nodes for everything and takes what comes, older or not (I6).
    NewerOnly,
    /// Whatever comes is as new as the moment in which it came (I5).
    FreshOnReceipt,
}

impl Broken {
    /// Whether this is what was asked for; never in a release build.
    pub(crate) fn is(self, asked: Option<Broken>) -> bool {
        cfg!(debug_assertions) && asked == Some(self)
    }

    /// What a message proves that comes now, where freshness counts from receipt.
    pub(crate) fn received(now: Duration) -> AgeBound {
        AgeBound::new(now, Duration::ZERO, Duration::ZERO)
    }
}
