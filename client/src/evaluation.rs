//! An evaluation with the age of what it rests on, and what becomes of it when that is stale.
//!
//! What must hold: the age is computed when the flag is decided, from the same state (I5); a stale
//! answer is either marked or replaced by the caller's default, never passed off as fresh.
//!
//! An [`Evaluation`] that came from a client has to keep its state alive and cannot also borrow
//! from it, so it decides anew when it is asked for text: deciding is pure, and so gives the same
//! again (I7). One that came from a pinned state borrows and decides once.

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{Detail, Freshness, OnStale, Subject, ValueRef, Version};
use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::session::Held;

/// What to answer beyond the staleness bound. A flag that says `"on_stale": "default"` gives the
/// default under both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StalePolicy {
    /// The last good answer, marked STALE.
    #[default]
    ServeLastGood,
    /// The caller's default.
    ReturnDefault,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The flag was decided.
    Decided(pennon_evaluator::Reason),
    /// No snapshot has arrived yet: the caller's default.
    NotReady,
    /// The state is beyond the staleness bound: the caller's default.
    Stale,
}

impl Reason {
    /// Returns the word shown: that of the decision, `NOT_READY` or `STALE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Decided(reason) => reason.as_str(),
            Reason::NotReady => "NOT_READY",
            Reason::Stale => "STALE",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a flag evaluates to for a subject, and what that rests on.
#[derive(Clone, Debug)]
pub struct Evaluation<'a> {
    source: Source<'a>,
    snapshot_version: Option<Version>,
    age: Option<Duration>,
    freshness: Freshness,
    reason: Reason,
    enabled: bool,
    config_version: Version,
    bucket: Option<u32>,
    detail: Option<Detail>,
}

/// Where the text of an evaluation is.
#[derive(Clone, Debug)]
enum Source<'a> {
    /// The caller's default holds.
    None,
    Borrowed(pennon_evaluator::Evaluation<'a>),
    Owned {
        held: Arc<Held>,
        flag: &'a str,
        subject: &'a Subject,
    },
}

impl<'a> Evaluation<'a> {
    pub(crate) fn owning(
        held: Option<Arc<Held>>,
        clock: &dyn Clock,
        policy: StalePolicy,
        flag: &'a str,
        subject: &'a Subject,
    ) -> Evaluation<'a> {
        let reader = Reader {
            held: held.as_deref(),
            clock,
            policy,
        };
        let evaluation = reader.evaluate(flag, subject);
        let served = matches!(evaluation.source, Source::Borrowed(_));
        let plain = Evaluation {
            source: Source::None,
            ..evaluation
        };
        match held {
            Some(held) if served => Evaluation {
                source: Source::Owned {
                    held,
                    flag,
                    subject,
                },
                ..plain
            },
            _ => plain,
        }
    }

    fn decided(&self) -> Option<pennon_evaluator::Evaluation<'_>> {
        match &self.source {
            Source::None => None,
            Source::Borrowed(evaluation) => Some(*evaluation),
            Source::Owned {
                held,
                flag,
                subject,
            } => Some(held.snapshot.evaluate(flag, subject)), // I7
        }
    }

    /// Returns the name of the variant served; none when the caller's default holds.
    pub fn variant(&self) -> Option<&str> {
        self.decided()?.variant
    }

    /// Returns the value served; none when the caller's default holds.
    pub fn value(&self) -> Option<ValueRef<'_>> {
        self.decided()?.value
    }

    /// Returns the id of the rule that decided, if one did.
    pub fn rule_id(&self) -> Option<&str> {
        self.decided()?.rule_id
    }

    /// Says whether the flag is known and its policy enabled. It says nothing of the value.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Returns how the answer came about.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns what else there is to say.
    pub fn detail(&self) -> Option<Detail> {
        self.detail
    }

    /// Returns the bucket of the subject, when a rollout decided.
    pub fn bucket(&self) -> Option<u32> {
        self.bucket
    }

    /// Returns the version at which the flag, or anything it uses, last changed.
    pub fn config_version(&self) -> Version {
        self.config_version
    }

    /// Returns the version of the state it was decided on; none before the first snapshot.
    pub fn snapshot_version(&self) -> Option<Version> {
        self.snapshot_version
    }

    /// Returns how old that state could at most be; none before the first snapshot.
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Says whether that is within the staleness bound.
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }
}

/// Reads flags from one state.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) held: Option<&'a Held>,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) policy: StalePolicy,
}

impl<'a> Reader<'a> {
    pub(crate) fn evaluate(self, flag: &'a str, subject: &'a Subject) -> Evaluation<'a> {
        let Some(held) = self.held else {
            return NOT_READY;
        };
        let (age, freshness) = held.freshness(self.clock.now()); // I5
        let decided = held.snapshot.evaluate(flag, subject);
        let (source, reason) = match self.gives_default(freshness, decided.on_stale) {
            true => (Source::None, Reason::Stale),
            false => (Source::Borrowed(decided), Reason::Decided(decided.reason)),
        };
        let served = reason != Reason::Stale;
        Evaluation {
            source,
            snapshot_version: Some(held.snapshot.version()),
            age: Some(age),
            freshness,
            reason,
            enabled: decided.enabled,
            config_version: decided.config_version,
            bucket: decided.bucket.filter(|_| served),
            detail: decided.detail.filter(|_| served),
        }
    }

    pub(crate) fn bool(self, flag: &str, subject: &Subject) -> Option<bool> {
        self.served(flag, subject)?.as_bool()
    }

    pub(crate) fn number(self, flag: &str, subject: &Subject) -> Option<f64> {
        self.served(flag, subject)?.as_f64()
    }

    pub(crate) fn integer(self, flag: &str, subject: &Subject) -> Option<i64> {
        self.served(flag, subject)?.as_i64()
    }

    pub(crate) fn string(self, flag: &str, subject: &Subject) -> Option<String> {
        self.served(flag, subject)?.as_str().map(str::to_owned)
    }

    pub(crate) fn value<T: DeserializeOwned>(self, flag: &str, subject: &Subject) -> Option<T> {
        let value = self.served(flag, subject)?;
        serde_json::from_str(value.as_json()).ok()
    }

    /// The value to serve; none when the caller's default holds.
    fn served(self, flag: &str, subject: &Subject) -> Option<ValueRef<'a>> {
        let held = self.held?;
        let (_, freshness) = held.freshness(self.clock.now()); // I5
        let decided = held.snapshot.evaluate(flag, subject);
        match self.gives_default(freshness, decided.on_stale) {
            true => None,
            false => decided.value,
        }
    }

    fn gives_default(self, freshness: Freshness, on_stale: OnStale) -> bool {
        let strict = self.policy == StalePolicy::ReturnDefault || on_stale == OnStale::Default;
        freshness == Freshness::Stale && strict // I5
    }
}

const NOT_READY: Evaluation<'static> = Evaluation {
    source: Source::None,
    snapshot_version: None,
    age: None,
    freshness: Freshness::Stale,
    reason: Reason::NotReady,
    enabled: false,
    config_version: Version::ZERO,
    bucket: None,
    detail: None,
};
