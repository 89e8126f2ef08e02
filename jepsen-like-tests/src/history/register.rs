//! Operations on registers: what clients asked for and what they were told.
//!
//! A *register* is one object that is only written conditionally, each time with a value of its
//! own. Times are nanoseconds of one monotonic clock, so that "before" means the same for all
//! clients. An operation is one intent of a client: retries under one request id belong to it.
//!
//! What must hold: nothing is guessed. A write that got no answer is [`Outcome::Unknown`], also if
//! it seems certain that it failed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What an operation asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Read the register.
    Read,
    /// Write it, if it is at `expected` (`None`: if it does not exist). A `value` of `None` deletes.
    Write {
        /// The new value, written by nobody else.
        value: Option<Arc<str>>,
        /// The version it must be at.
        expected: Option<u64>,
    },
}

/// A register as somebody saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Seen {
    /// Its version.
    pub version: u64,
    /// Its value.
    pub value: Arc<str>,
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// A read: what was there when it was decided, `None` if the register did not exist.
    Read {
        /// The version the answer was decided at.
        decided: u64,
        /// What was there.
        seen: Option<Seen>,
    },
    /// A write that happened.
    Written {
        /// The version it made.
        version: u64,
    },
    /// A write that lost: what was there instead of what was expected.
    Conflict {
        /// The version the refusal was decided at.
        decided: u64,
        /// What was there.
        seen: Option<Seen>,
    },
    /// It certainly changed nothing, and nothing was learned.
    NotDone,
    /// A write that may have happened, or may still happen.
    Unknown,
}

/// One operation on one register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Operation {
    /// Who; one client does one thing at a time.
    pub client: u32,
    /// On what.
    pub register: Arc<str>,
    /// When it began.
    pub invoked: u64,
    /// When its answer was there; when it was given up, if there was none.
    pub completed: u64,
    /// What was asked.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// The version that the outcome was decided at, if there was one.
    pub fn decided(&self) -> Option<u64> {
        match &self.outcome {
            Outcome::Read { decided, .. } | Outcome::Conflict { decided, .. } => Some(*decided),
            Outcome::Written { version } => Some(*version),
            Outcome::NotDone | Outcome::Unknown => None,
        }
    }

    /// Whether it is a write that was acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.outcome, Outcome::Written { .. })
    }
}
