//! Feature levels: how nodes of two releases are one cluster while it is upgraded.
//!
//! A release knows everything up to its level. The cluster has a level of its own, replicated state
//! of the machine, which never falls and is raised by a committed [`Command::Raise`] once every
//! member, with a vote or without, runs a release that knows the new one.
//!
//! What must hold:
//! - What needs a higher level than the cluster's changes nothing, on any node: the leader refuses it
//!   before it is proposed, and `apply` refuses an entry with it as a release that cannot read it
//!   does. So no member is ever given an entry that it cannot read and another one can (I4, I11).
//! - A machine goes no further than its release knows: a node that finds the cluster at a higher level
//!   stops before it applies anything that needs it, and says what to do ([`TooOld`]).
//!
//! A state without a level is at the first one: data from before there were levels is as it was.
//!
//! | level | brings |
//! |---|---|
//! | 1 | all that the first release has: every kind of object, layers and experiments, states of format 1 |
//!
//! [`Command::Raise`]: crate::command::Command::Raise

use pennon_evaluator::StateKind;

use crate::command::{CompiledChange, Item, ObjectKind, Verdict, Write};
use crate::plan::ChangeRequest;

/// The level of a cluster that never raised it.
pub const FIRST_LEVEL: u32 = 1;

/// The level of this release. Whoever adds something that an older release cannot read adds a row
/// to the list below and to the table above, and raises this.
pub const FEATURE_LEVEL: u32 = 1;

/// What came after the first level, and with which.
const BROUGHT: &[(Part, u32)] = &[];

/// Something in an entry that an older release cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Objects of this kind.
    Object(ObjectKind),
    /// States that are named by states, of this kind.
    Name(StateKind),
    /// Compiled states of this format: what the evaluator learned.
    State(u8),
}

/// What a release knows. There is one, [`Features::THIS`]; tests of mixed clusters make others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    level: u32,
    brought: &'static [(Part, u32)],
    /// Whether it remembers requests, as every release does.
    remembers: bool,
}

/// The cluster is at a level that this release does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster is at feature level {found}, and this release ({}) knows up to {known}: start this node with the \
     release that the other members run; nothing in its data directory was changed",
    env!("CARGO_PKG_VERSION")
)]
pub struct TooOld {
    /// The level of the cluster.
    pub found: u32,
    /// The highest one that this release knows.
    pub known: u32,
}

impl Features {
    /// What this release knows.
    pub const THIS: Self = Self {
        level: FEATURE_LEVEL,
        brought: BROUGHT,
        remembers: true,
    };

    /// A release of another level, for tests: `brought` says which parts came with which level.
    /// It reads no part that is beyond its level, as a real one could not.
    ///
    /// ```
    /// use pennon_raft_store::command::ObjectKind;
    /// use pennon_raft_store::level::{Features, Part};
    /// const BROUGHT: &[(Part, u32)] = &[(Part::Object(ObjectKind::Application), 2)];
    /// let (older, newer) = (Features::simulated(1, BROUGHT), Features::simulated(2, BROUGHT));
    /// assert!(newer.check(2).is_ok());
    /// assert!(older.check(2).is_err_and(|why| why.to_string().contains("the other members run")));
    /// ```
    pub const fn simulated(level: u32, brought: &'static [(Part, u32)]) -> Self {
        Self {
            level,
            brought,
            remembers: true,
        }
    }

    /// The same without the request-id window, so that a retry has a second effect: for runs that
    /// show that their checkers see it (I9). There is none in a release build.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    #[must_use]
    pub const fn forgetful(self) -> Self {
        Self {
            remembers: false,
            ..self
        }
    }

    /// Whether it has the request-id window.
    pub(crate) fn remembers(self) -> bool {
        !cfg!(debug_assertions) || self.remembers
    }

    /// The highest level that this release knows.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Checks that this release can be a member of a cluster at this level.
    ///
    /// # Errors
    /// It knows less.
    pub fn check(&self, found: u32) -> Result<(), TooOld> {
        let known = self.level;
        match found <= known {
            true => Ok(()),
            false => Err(TooOld { found, known }),
        }
    }

    /// The level that a change set needs, as far as that is seen before it is compiled.
    pub fn of_request(&self, request: &ChangeRequest) -> u32 {
        let kinds = request.writes.iter().map(|write| write.object.kind());
        self.highest(kinds.map(Part::Object))
    }

    /// The level that a decided change set needs.
    pub(crate) fn of_item(&self, item: &Item) -> u32 {
        match &item.verdict {
            Verdict::Commit {
                writes, compiled, ..
            } => self.of_writes(writes, compiled),
            Verdict::Refuse(_) => FIRST_LEVEL,
        }
    }

    /// The level that writes and what follows from them need.
    pub(crate) fn of_writes(&self, writes: &[Write], compiled: &[CompiledChange]) -> u32 {
        let objects = writes.iter().map(|write| Part::Object(write.object.kind()));
        let states = compiled.iter().flat_map(|change| {
            let names = std::iter::once(&change.key).chain(&change.uses);
            let format = change.state.as_ref().and_then(|bytes| bytes.first());
            names
                .map(|name| Part::Name(name.kind()))
                .chain(format.map(|format| Part::State(*format)))
        });
        self.highest(objects.chain(states))
    }

    fn highest(&self, parts: impl Iterator<Item = Part>) -> u32 {
        if self.brought.is_empty() {
            return FIRST_LEVEL; // Nothing to look for in every entry.
        }
        let level = |part: Part| {
            let row = self.brought.iter().find(|(brought, _)| *brought == part);
            row.map_or(FIRST_LEVEL, |(_, level)| *level)
        };
        parts.map(level).max().unwrap_or(FIRST_LEVEL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pennon_evaluator::STATE_FORMAT;

    /// What the first level has. Never changes.
    const FIRST: &[Part] = &[
        Part::Object(ObjectKind::Environment),
        Part::Object(ObjectKind::Flag),
        Part::Object(ObjectKind::Segment),
        Part::Object(ObjectKind::Policy),
        Part::Object(ObjectKind::Setting),
        Part::Object(ObjectKind::Application),
        Part::Name(StateKind::Flag),
        Part::Name(StateKind::Segment),
        Part::Name(StateKind::Layer),
        Part::Name(StateKind::Experiment),
        Part::State(1),
    ];

    /// Fails to compile for a kind that is not among [`NAMES`].
    const fn listed(kind: StateKind) -> StateKind {
        match kind {
            StateKind::Flag | StateKind::Segment | StateKind::Layer | StateKind::Experiment => kind,
        }
    }

    const NAMES: [StateKind; 4] = [
        listed(StateKind::Flag),
        listed(StateKind::Segment),
        listed(StateKind::Layer),
        listed(StateKind::Experiment),
    ];

    /// Whoever adds a kind or a format and no row here would make releases that part ways.
    #[test]
    fn everything_that_an_entry_can_hold_has_a_level() {
        let kinds = ObjectKind::ALL.into_iter().map(Part::Object);
        let names = NAMES.into_iter().map(Part::Name);
        for part in kinds.chain(names).chain([Part::State(STATE_FORMAT)]) {
            let brought = BROUGHT.iter().any(|(brought, _)| *brought == part);
            assert!(brought != FIRST.contains(&part), "{part:?} needs a level");
        }
        let levels = BROUGHT.iter().map(|(_, level)| *level);
        assert_eq!(levels.max().unwrap_or(FIRST_LEVEL), FEATURE_LEVEL);
        assert!(BROUGHT.iter().all(|(_, level)| *level > FIRST_LEVEL));
    }
}
