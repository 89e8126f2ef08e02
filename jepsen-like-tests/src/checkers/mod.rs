//! Judges of histories: one file per promise, each pure.
//!
//! What must hold: a verdict is one of three. A history that shows too little to judge is unknown,
//! and unknown never passes for valid.

pub mod durable;
pub mod freshness;
pub mod judge;
pub mod never_back;
pub mod registers;

use std::fmt;

/// Complaints kept in a verdict; more are counted.
const COMPLAINTS_MAX: usize = 20;

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

/// How a promise was broken, the first cases in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaints<R> {
    first: Vec<(R, String)>,
    count: usize,
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
        self.count += 1;
        if self.first.len() < COMPLAINTS_MAX {
            self.first.push((rule, what.into()));
        }
    }

    /// Whether one of the first complaints is of this kind.
    pub fn name(&self, rule: R) -> bool {
        self.first.iter().any(|(found, _)| *found == rule)
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
                for (rule, what) in &complaints.first {
                    write!(f, "\n  {rule:?}: {what}")?;
                }
                Ok(())
            }
        }
    }
}
