//! An evaluation with the age of what it rests on, and what becomes of it when that is stale.
//!
//! What must hold: the age is computed when the flag is decided, from the same state (I5); a stale
//! answer is either marked or replaced by the caller's default, never passed off as fresh.
//!
//! An [`Evaluation`] has the state that it was made on, kept alive or borrowed, and what was decided
//! by number; names and values are looked up in that state when they are asked for. Keeping it alive
//! writes to no memory that other threads write to (`arc-swap`'s guards).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use pennon_evaluator::{
    Decision, Detail, Freshness, OnStale, Snapshot, Subject, ValueRef, Version,
};
use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::held::Held;

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
    held: HeldRef<'a>,
    decision: Decision,
    /// When it was decided, at the latest.
    at: Duration,
    freshness: Freshness,
    reason: Reason,
}

/// How the state of an evaluation is kept.
#[derive(Debug)]
enum HeldRef<'a> {
    Borrowed(Option<&'a Held>),
    Guarded(Guard<Option<Arc<Held>>>),
}

impl Clone for HeldRef<'_> {
    fn clone(&self) -> Self {
        match self {
            HeldRef::Borrowed(held) => HeldRef::Borrowed(*held),
            HeldRef::Guarded(held) => HeldRef::Guarded(Guard::from_inner(Option::clone(held))),
        }
    }
}

impl HeldRef<'_> {
    #[inline]
    fn get(&self) -> Option<&Held> {
        match self {
            HeldRef::Borrowed(held) => *held,
            HeldRef::Guarded(held) => held.as_deref(),
        }
    }
}

impl Evaluation<'static> {
    pub(crate) fn guarded(
        held: Guard<Option<Arc<Held>>>,
        clock: &dyn Clock,
        policy: StalePolicy,
        flag: &str,
        subject: &Subject,
    ) -> Evaluation<'static> {
        let made = Page::new(held.as_deref(), clock, policy).evaluate(flag, subject);
        let (decision, at) = (made.decision, made.at);
        let (freshness, reason) = (made.freshness, made.reason);
        Evaluation {
            held: HeldRef::Guarded(held),
            decision,
            at,
            freshness,
            reason,
        }
    }
}

impl Evaluation<'_> {
    /// The answer of the flag, even if the caller's default is served.
    fn answer(&self) -> Option<pennon_evaluator::Evaluation<'_>> {
        let held = self.held.get()?;
        Some(held.snapshot.answer(self.decision)) // I7
    }

    /// The state, if what was decided on it is what is served.
    #[inline]
    fn served_by(&self) -> Option<&Snapshot> {
        match self.reason {
            Reason::Decided(_) => self.held.get().map(|held| &held.snapshot),
            Reason::NotReady | Reason::Stale => None,
        }
    }

    /// The answer of the flag, if that is what is served.
    fn served(&self) -> Option<pennon_evaluator::Evaluation<'_>> {
        Some(self.served_by()?.answer(self.decision)) // I7
    }

    /// Returns the name of the variant served; none when the caller's default holds.
    #[inline]
    pub fn variant(&self) -> Option<&str> {
        self.served_by()?.variant_of(self.decision)
    }

    /// Returns the value served; none when the caller's default holds.
    #[inline]
    pub fn value(&self) -> Option<ValueRef<'_>> {
        self.served_by()?.value_of(self.decision)
    }

    /// Returns the id of the rule that decided, if one did.
    pub fn rule_id(&self) -> Option<&str> {
        self.served()?.rule_id
    }

    /// Returns the key of the experiment whose split decided, if one did.
    pub fn experiment(&self) -> Option<&str> {
        self.served()?.experiment
    }

    /// Says whether this evaluation asks for an ExposureEvent: an experiment decided, or the flag
    /// says `track`, and what was decided is served.
    pub fn exposure_due(&self) -> bool {
        self.served().is_some_and(|answer| answer.exposure_due)
    }

    /// Says whether the flag is known and its policy enabled. It says nothing of the value.
    pub fn enabled(&self) -> bool {
        self.answer().is_some_and(|answer| answer.enabled)
    }

    /// Returns how the answer came about.
    #[inline]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns what else there is to say.
    pub fn detail(&self) -> Option<Detail> {
        self.served()?.detail
    }

    /// Returns the bucket of the subject, when a rollout decided.
    pub fn bucket(&self) -> Option<u32> {
        self.served()?.bucket
    }

    /// Returns the version at which the flag, or anything it uses, last changed.
    pub fn config_version(&self) -> Version {
        self.answer()
            .map_or(Version::ZERO, |answer| answer.config_version)
    }

    /// Returns the version of the state it was decided on; none before the first snapshot.
    #[inline]
    pub fn snapshot_version(&self) -> Option<Version> {
        Some(self.held.get()?.snapshot.version())
    }

    /// Returns how old that state could at most be when it was decided; none before the first
    /// snapshot, and when nothing is known about its age (from a cache). Up to
    /// [`CLOCK_ERROR_MAX`](crate::CLOCK_ERROR_MAX) of it is for the clock.
    pub fn age(&self) -> Option<Duration> {
        self.held.get()?.age_max(self.at)
    }

    /// Says whether that is within the staleness bound.
    #[inline]
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }
}

/// A look at one state: all flags at one version. See [`Client::read`](crate::Client::read).
#[derive(Clone, Copy)]
pub struct Page<'a> {
    held: Option<&'a Held>,
    clock: &'a dyn Clock,
    policy: StalePolicy,
}

impl<'a> Page<'a> {
    pub(crate) fn new(
        held: Option<&'a Held>,
        clock: &'a dyn Clock,
        policy: StalePolicy,
    ) -> Page<'a> {
        Page {
            held,
            clock,
            policy,
        }
    }

    /// As [`Client::evaluate`](crate::Client::evaluate), borrowing the state.
    #[inline(always)]
    pub fn evaluate(&self, flag: &str, subject: &Subject) -> Evaluation<'a> {
        let Some(held) = self.held else {
            return Evaluation {
                held: HeldRef::Borrowed(None),
                decision: Decision::NOT_FOUND,
                at: Duration::ZERO,
                freshness: Freshness::Stale,
                reason: Reason::NotReady,
            };
        };
        let (at, freshness) = held.judge_by(self.clock); // I5
        let decision = held.snapshot.decide(flag, subject);
        let reason = match self.gives_default(held, decision, freshness) {
            true => Reason::Stale,
            false => Reason::Decided(decision.reason()),
        };
        Evaluation {
            held: HeldRef::Borrowed(Some(held)),
            decision,
            at,
            freshness,
            reason,
        }
    }

    /// As [`Client::is_enabled`](crate::Client::is_enabled).
    #[inline]
    pub fn is_enabled(&self, flag: &str, subject: &Subject) -> bool {
        self.bool(flag, subject, false)
    }

    /// As [`Client::bool`](crate::Client::bool).
    #[inline]
    pub fn bool(&self, flag: &str, subject: &Subject, default: bool) -> bool {
        let value = self.served(flag, subject).and_then(ValueRef::as_bool);
        value.unwrap_or(default)
    }

    /// As [`Client::number`](crate::Client::number).
    pub fn number(&self, flag: &str, subject: &Subject, default: f64) -> f64 {
        let value = self.served(flag, subject).and_then(ValueRef::as_f64);
        value.unwrap_or(default)
    }

    /// As [`Client::integer`](crate::Client::integer).
    pub fn integer(&self, flag: &str, subject: &Subject, default: i64) -> i64 {
        let value = self.served(flag, subject).and_then(ValueRef::as_i64);
        value.unwrap_or(default)
    }

    /// Returns the value of a string flag, or the default when there is none. Allocates nothing,
    /// unlike [`Client::string`](crate::Client::string).
    pub fn str(&self, flag: &str, subject: &Subject, default: &'a str) -> &'a str {
        let value = self.served(flag, subject).and_then(ValueRef::as_str);
        value.unwrap_or(default)
    }

    /// As [`Client::value`](crate::Client::value).
    pub fn value<T: DeserializeOwned>(&self, flag: &str, subject: &Subject, default: T) -> T {
        let value = self.served(flag, subject);
        let read = value.and_then(|value| serde_json::from_str(value.as_json()).ok());
        read.unwrap_or(default)
    }

    /// Returns the version; none before the first snapshot.
    pub fn version(&self) -> Option<Version> {
        self.held.map(|held| held.snapshot.version())
    }

    /// The value to serve; none when the caller's default holds.
    #[inline]
    fn served(&self, flag: &str, subject: &Subject) -> Option<ValueRef<'a>> {
        let held = self.held?;
        let (_, freshness) = held.judge_by(self.clock); // I5
        let decision = held.snapshot.decide(flag, subject);
        match self.gives_default(held, decision, freshness) {
            true => None,
            false => held.snapshot.value_of(decision),
        }
    }

    #[inline]
    fn gives_default(&self, held: &Held, decision: Decision, freshness: Freshness) -> bool {
        if freshness == Freshness::Fresh {
            return false;
        }
        let on_stale = held.snapshot.answer(decision).on_stale;
        self.policy == StalePolicy::ReturnDefault || on_stale == OnStale::Default // I5
    }
}

impl std::fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page")
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}
