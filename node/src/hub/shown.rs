//! What a scope of streams shows: one view of one environment, or of what one application needs of
//! it, and the proof of freshness that covers it.

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{ConfigSnapshot, Delta, EnvironmentKey, Version};
use pennon_raft_store::machine::{Since, View};

/// What streams have in common that are sent the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// The environment.
    pub environment: EnvironmentKey,
}

/// What is shown to the streams of a scope.
#[derive(Clone, Debug)]
pub struct Shown {
    pub(crate) scope: Arc<Scope>,
    pub(crate) view: View,
    /// A moment before which everything committed is in the view; `None` before the first proof.
    pub(crate) fresh_at: Option<Duration>,
    /// Receipts are wanted up to this version.
    pub(crate) wanted: Version,
}

/// How a client stands to what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has it.
    Nothing,
    /// It lacks some changes.
    Changes,
    /// It has nothing, or something so old that it starts over.
    Full,
    /// It has a later version.
    Ahead,
    /// There is nothing to show.
    Gone,
}

impl Shown {
    /// Compares with the version that a client has.
    pub(crate) fn standing(&self, have: Option<Version>) -> Standing {
        let Some(here) = self.view.compiled(&self.scope.environment) else {
            return Standing::Gone;
        };
        let Some(have) = have else {
            return Standing::Full;
        };
        if have > self.view.version() {
            Standing::Ahead
        } else if have < here.floor() {
            Standing::Full
        } else if have >= here.changed_at() {
            Standing::Nothing
        } else {
            Standing::Changes
        }
    }

    /// Whether a later view shows something else.
    pub(crate) fn differs(&self, later: &View) -> bool {
        let changed_at = |view: &View| {
            let here = view.compiled(&self.scope.environment);
            here.map(|here| here.changed_at())
        };
        changed_at(&self.view) != changed_at(later)
    }

    /// Everything.
    pub(crate) fn snapshot(&self) -> Option<ConfigSnapshot> {
        self.view.config_snapshot(&self.scope.environment)
    }

    /// What changed since a version; `None` when there is no delta from there.
    pub(crate) fn delta(&self, since: Version) -> Option<Delta> {
        match self.view.since(&self.scope.environment, since) {
            Since::Changes(delta) => Some(delta),
            Since::Nothing | Since::Full | Since::Ahead => None,
        }
    }
}
