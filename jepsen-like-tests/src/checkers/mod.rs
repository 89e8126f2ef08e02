//! Judges of histories: one file per promise, each pure.
//!
//! What must hold: a verdict is one of three. A history that shows too little to judge is unknown,
//! and unknown never passes for valid. [`judge`] runs all of them on one history.
//!
//! Left out: exposures (I10), because no node takes any yet; their checker belongs in a file of its
//! own here (each id counted once, acknowledged ones present).

pub mod atomic;
pub mod coverage;
pub mod durable;
pub mod exactly_once;
pub mod faithful;
pub mod freshness;
pub mod judge;
pub mod liveness;
pub mod never_back;
pub mod one_variant;
mod quick;
pub mod receipts;
pub mod registers;
pub mod search;
pub mod streams;

#[cfg(test)]
pub(crate) mod sample;

use std::fmt;

use crate::history::Operation;

/// Complaints of one rule kept in a verdict; more are counted. Of each rule, or a history that breaks
/// one all the time would not show that it breaks another.
const COMPLAINTS_MAX: usize = 10;

/// What a checker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<R> {
    /// The promise was kept; what that rests on, in one line.
    Valid(String),
    /// It was broken.
    Invalid(Complaints<R>),
    /// It cannot be said; why.
    Unknown(String),
}

/// How a promise was broken, the first cases of each rule in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaints<R> {
    first: Vec<(R, String, Option<Place>)>,
    count: usize,
}

/// Where in a history something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose doing it was.
    pub client: u32,
    /// When it began, in nanoseconds.
    pub from: u64,
    /// When it ended.
    pub to: u64,
}

impl Place {
    /// Something that took no time.
    pub fn at(client: u32, at: u64) -> Place {
        Place {
            client,
            from: at,
            to: at,
        }
    }
}

impl From<&Operation> for Place {
    fn from(operation: &Operation) -> Place {
        Place {
            client: operation.client,
            from: operation.invoked,
            to: operation.completed,
        }
    }
}

impl<R> Default for Complaints<R> {
    fn default() -> Complaints<R> {
        Complaints {
            first: Vec::new(),
            count: 0,
        }
    }
}

impl<R: Copy + PartialEq> Complaints<R> {
    fn add(&mut self, rule: R, what: impl Into<String>) {
        self.push(rule, what.into(), None);
    }

    fn add_at(&mut self, place: impl Into<Place>, rule: R, what: impl Into<String>) {
        self.push(rule, what.into(), Some(place.into()));
    }

    fn push(&mut self, rule: R, what: String, place: Option<Place>) {
        self.count += 1;
        let same = self.first.iter().filter(|(found, ..)| *found == rule);
        if same.count() < COMPLAINTS_MAX {
            self.first.push((rule, what, place));
        }
    }

    /// Whether one of the first complaints is of this kind.
    pub fn name(&self, rule: R) -> bool {
        self.first.iter().any(|(found, ..)| *found == rule)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first ones of each kind: the rule that was broken, what was seen, and where.
    pub fn first(&self) -> &[(R, String, Option<Place>)] {
        &self.first
    }

    fn verdict(self, otherwise: impl FnOnce() -> Verdict<R>) -> Verdict<R> {
        if self.count == 0 {
            otherwise()
        } else {
            Verdict::Invalid(self)
        }
    }
}

impl<R: fmt::Debug> Verdict<R> {
    /// Whether the promise was kept.
    pub fn is_valid(&self) -> bool {
        matches!(self, Verdict::Valid(_))
    }

    /// Whether it cannot be said.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Verdict::Unknown(_))
    }
}

impl<R: fmt::Debug> fmt::Display for Verdict<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Valid(rests_on) => write!(f, "valid: {rests_on}"),
            Verdict::Unknown(why) => write!(f, "unknown: {why}"),
            Verdict::Invalid(complaints) => {
                write!(f, "INVALID, {} complaints", complaints.count)?;
                for (rule, what, _) in &complaints.first {
                    write!(f, "\n  {rule:?}: {what}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_broken_all_the_time_hides_no_other() {
        let mut complaints = Complaints::default();
        (0..100).for_each(|at| complaints.add('a', format!("{at}")));
        complaints.add('b', "once");
        assert_eq!(complaints.count(), 101);
        assert_eq!(complaints.first().len(), COMPLAINTS_MAX + 1);
        assert!(complaints.name('a') && complaints.name('b'));
    }
}
