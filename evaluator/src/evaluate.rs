//! Deciding a flag for a subject.
//!
//! What must hold: it never fails, allocates nothing, and takes time in proportion to the states it
//! uses and the subject, whatever those hold. The same snapshot and subject give the same answer
//! everywhere (I7). The order of decision is that of the functions here, from top to bottom.
//!
//! A segment or prerequisite that is missing, or not sound (see `loaded.rs`), cannot be decided: a
//! prerequisite then fails, and a clause does not hold, negated or not. The leader's Writer lets
//! no such state come about; this is for snapshots that did not come from it.
//!
//! Left out: why a rule did not hold; ages and defaults, which are the caller's.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::bucket::{Decimal, bucket};
use crate::config::OnStale;
use crate::ids::{StateKind, Version};
use crate::limits::CLOSURE_MAX;
use crate::loaded::{Loaded, LoadedFlag, LoadedSegment, Slot, Snapshot, Table};
use crate::policy::Algorithm;
use crate::semver::SemVerRef;
use crate::state::{ClauseState, Number, RolloutState, ServeState, ShareState, TestState};
use crate::subject::{AttributeRef, ScalarRef, Subject};
use crate::value::ValueRef;

/// What a flag evaluates to.
///
/// Without a value (`FLAG_NOT_FOUND`) the caller's own default holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation<'a> {
    /// The key of the flag; none when it is unknown.
    pub flag: Option<&'a str>,
    /// Whether the flag is known and its policy enabled. It says nothing of the value served.
    pub enabled: bool,
    /// The name of the variant served.
    pub variant: Option<&'a str>,
    /// The value served.
    pub value: Option<ValueRef<'a>>,
    /// The version at which the flag, or a segment or prerequisite it uses, last changed; 0 when
    /// the flag is unknown.
    pub config_version: Version,
    /// How it was decided.
    pub reason: Reason,
    /// The rule that decided.
    pub rule_id: Option<&'a str>,
    /// The bucket of the subject, when a rollout decided.
    pub bucket: Option<u32>,
    /// What else there is to say.
    pub detail: Option<Detail>,
    /// What to answer when the snapshot is stale.
    pub on_stale: OnStale,
    /// Whether this evaluation asks for an ExposureEvent.
    pub exposure_due: bool,
}

/// How an evaluation was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The flag is unknown or archived.
    FlagNotFound,
    /// The policy is not enabled: the off variant.
    Disabled,
    /// A prerequisite is not at one of its variants, disabled or missing: the off variant.
    PrerequisiteFailed,
    /// The subject has a variant of its own.
    TargetMatch,
    /// A rule's clauses all hold.
    RuleMatch,
    /// A rollout: that of a rule (then there is a rule id) or the default.
    Split,
    /// Nothing else decided.
    Default,
    /// The flag has no rule, target or rollout.
    Static,
}

impl Reason {
    /// Returns the word shown: `FLAG_NOT_FOUND`, `DISABLED`, `PREREQUISITE_FAILED`,
    /// `TARGET_MATCH`, `RULE_MATCH`, `SPLIT`, `DEFAULT` or `STATIC`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::FlagNotFound => "FLAG_NOT_FOUND",
            Reason::Disabled => "DISABLED",
            Reason::PrerequisiteFailed => "PREREQUISITE_FAILED",
            Reason::TargetMatch => "TARGET_MATCH",
            Reason::RuleMatch => "RULE_MATCH",
            Reason::Split => "SPLIT",
            Reason::Default => "DEFAULT",
            Reason::Static => "STATIC",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What else there is to say about an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The subject lacks what the rollout buckets by, so the last variant is served.
    BucketingKeyMissing,
    /// The flag exists but is archived.
    Archived,
    /// What the flag uses has a cycle or is too deep or too much, so it cannot be decided.
    GraphUnsound,
}

impl Detail {
    /// Returns the word shown: `BUCKETING_KEY_MISSING`, `ARCHIVED` or `GRAPH_UNSOUND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Detail::BucketingKeyMissing => "BUCKETING_KEY_MISSING",
            Detail::Archived => "ARCHIVED",
            Detail::GraphUnsound => "GRAPH_UNSOUND",
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Snapshot {
    /// Decides a flag for a subject.
    pub fn evaluate<'a>(&'a self, flag: &str, subject: &Subject) -> Evaluation<'a> {
        let found = self
            .table
            .slot(StateKind::Flag, flag)
            .and_then(|slot| self.table.at(slot));
        let Some((slot, Loaded::Flag(flag))) = found.map(|slot| (slot, &slot.loaded)) else {
            return Evaluation::NOT_FOUND;
        };
        if flag.state.archived {
            let (flag, config_version) = (Some(flag.state.key.as_str()), slot.config_version);
            let detail = Some(Detail::Archived);
            return Evaluation {
                flag,
                config_version,
                detail,
                ..Evaluation::NOT_FOUND
            };
        }
        let decision = match (slot.sound, slot.heavy) {
            (false, _) => unsound(flag),
            (true, false) => Decider {
                table: &self.table,
                subject,
                memo: None,
            }
            .flag(flag),
            (true, true) => decide_heavy(&self.table, subject, flag),
        };
        answer(flag, slot, decision)
    }
}

impl Evaluation<'_> {
    const NOT_FOUND: Evaluation<'static> = Evaluation {
        flag: None,
        enabled: false,
        variant: None,
        value: None,
        config_version: Version::ZERO,
        reason: Reason::FlagNotFound,
        rule_id: None,
        bucket: None,
        detail: None,
        on_stale: OnStale::Serve,
        exposure_due: false,
    };

    /// Says whether there is such a flag, archived or not.
    pub fn flag_known(&self) -> bool {
        self.flag.is_some()
    }

    /// Shows the evaluation as `{flag, enabled, variant, value, config_version, reason}` and, where
    /// there is one, `rule_id`, `bucket` and `detail`. `flag` is the key that was asked for.
    pub fn to_json(&self, flag: &str) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("flag", json!(flag));
        put("enabled", json!(self.enabled));
        put("variant", json!(self.variant));
        put("value", self.value.map_or(Value::Null, ValueRef::to_json));
        put("config_version", json!(self.config_version));
        put("reason", json!(self.reason.as_str()));
        if let Some(rule_id) = self.rule_id {
            put("rule_id", json!(rule_id));
        }
        if let Some(bucket) = self.bucket {
            put("bucket", json!(bucket));
        }
        if let Some(detail) = self.detail {
            put("detail", json!(detail.as_str()));
        }
        Value::Object(fields)
    }
}

/// What was decided, by index.
#[derive(Clone, Copy)]
struct Decision {
    variant: u32,
    reason: Reason,
    rule: Option<usize>,
    bucket: Option<u32>,
    detail: Option<Detail>,
}

impl Decision {
    fn of(variant: u32, reason: Reason) -> Decision {
        Decision {
            variant,
            reason,
            rule: None,
            bucket: None,
            detail: None,
        }
    }
}

fn unsound(flag: &LoadedFlag) -> Decision {
    let off = flag.state.off_variant;
    match flag.state.enabled {
        false => Decision::of(off, Reason::Disabled),
        true => Decision {
            detail: Some(Detail::GraphUnsound),
            ..Decision::of(off, Reason::PrerequisiteFailed)
        },
    }
}

/// Apart, so that only an evaluation that needs the memory has it on its stack.
#[inline(never)]
fn decide_heavy(table: &Table, subject: &Subject, flag: &LoadedFlag) -> Decision {
    let mut memo = Memo::new();
    Decider {
        table,
        subject,
        memo: Some(&mut memo),
    }
    .flag(flag)
}

fn answer<'a>(flag: &'a LoadedFlag, slot: &Slot, decision: Decision) -> Evaluation<'a> {
    let state = &flag.state;
    let index = decision.variant as usize;
    // Decoding has seen that every index is in range.
    let variant = state.variants.get(index);
    let value = variant.zip(flag.values.get(index));
    Evaluation {
        flag: Some(state.key.as_str()),
        enabled: state.enabled,
        variant: variant.map(|variant| variant.name.as_str()),
        value: value.map(|(variant, parsed)| ValueRef {
            parsed,
            json: &variant.value,
        }),
        config_version: slot.config_version,
        reason: decision.reason,
        rule_id: decision
            .rule
            .and_then(|n| state.rules.get(n))
            .map(|rule| rule.id.as_str()),
        bucket: decision.bucket,
        detail: decision.detail,
        on_stale: state.on_stale,
        exposure_due: state.track && decision.detail != Some(Detail::BucketingKeyMissing),
    }
}

/// Decides one flag for one subject, and what it uses.
///
/// Recursion goes no deeper than `DEPTH_MAX`, because only sound states are entered.
struct Decider<'a> {
    table: &'a Table,
    subject: &'a Subject,
    memo: Option<&'a mut Memo>,
}

impl<'a> Decider<'a> {
    /// The order of decision, from what comes after `FLAG_NOT_FOUND`.
    fn flag(&mut self, flag: &'a LoadedFlag) -> Decision {
        let state = &flag.state;
        if !state.enabled {
            return Decision::of(state.off_variant, Reason::Disabled);
        }
        if !self.prerequisites_hold(flag) {
            return Decision::of(state.off_variant, Reason::PrerequisiteFailed);
        }
        let targets = &state.targets;
        if let Ok(n) = targets.binary_search_by(|t| t.subject.as_str().cmp(self.subject.key())) {
            return Decision::of(targets[n].variant, Reason::TargetMatch);
        }
        for (n, rule) in state.rules.iter().enumerate() {
            if self.all_hold(&rule.when, &flag.segments) {
                let decision = self.serve(&rule.serve, Reason::RuleMatch);
                return Decision {
                    rule: Some(n),
                    ..decision
                };
            }
        }
        let reason = if flag.is_static {
            Reason::Static
        } else {
            Reason::Default
        };
        self.serve(&state.default, reason)
    }

    fn prerequisites_hold(&mut self, flag: &'a LoadedFlag) -> bool {
        let mut prerequisites = flag.state.prerequisites.iter().zip(&flag.prerequisites);
        prerequisites.all(|(wanted, slot)| {
            let at = self.variant_at(*slot);
            at.is_some_and(|at| wanted.variants.iter().any(|variant| variant == at))
        })
    }

    /// The variant that a prerequisite is at; none when it is disabled or cannot be decided.
    fn variant_at(&mut self, slot: u32) -> Option<&'a str> {
        let place = self.table.at(slot)?;
        let Loaded::Flag(flag) = &place.loaded else {
            return None;
        };
        if !place.sound || flag.state.archived || !flag.state.enabled {
            return None;
        }
        let index = match self.recall(slot) {
            Some(index) => index,
            None => {
                let index = self.flag(flag).variant;
                self.remember(slot, index)
            }
        };
        flag.state
            .variants
            .get(index as usize)
            .map(|variant| variant.name.as_str())
    }

    fn serve(&self, serve: &ServeState, reason: Reason) -> Decision {
        match serve {
            ServeState::Variant(variant) => Decision::of(*variant, reason),
            ServeState::Rollout(rollout) => self.split(rollout),
        }
    }

    fn split(&self, rollout: &RolloutState) -> Decision {
        let place = self.bucket(
            rollout.algorithm,
            &rollout.bucket_by,
            &rollout.salt,
            rollout.total,
        );
        let last = rollout.weights.last().map_or(0, |share| share.variant);
        let Some(place) = place else {
            let detail = Some(Detail::BucketingKeyMissing);
            return Decision {
                detail,
                ..Decision::of(last, Reason::Split)
            };
        };
        let mut end = 0;
        let share = rollout.weights.iter().find(|share| {
            end += share.weight;
            end > place
        });
        let variant = share.map_or(last, |share| share.variant);
        Decision {
            bucket: Some(place),
            ..Decision::of(variant, Reason::Split)
        } // I7
    }

    /// The bucket of the subject; none when it lacks what is bucketed.
    fn bucket(&self, algorithm: Algorithm, by: &str, salt: &str, total: u32) -> Option<u32> {
        let Algorithm::Murmur3V1 = algorithm;
        match self.subject.get(by)? {
            AttributeRef::One(ScalarRef::String("")) => None,
            AttributeRef::One(ScalarRef::String(text)) => Some(bucket(salt, text, total)),
            AttributeRef::One(ScalarRef::Number(number)) => {
                Decimal::of(number).map(|decimal| bucket(salt, decimal.as_str(), total))
            }
            AttributeRef::One(ScalarRef::Boolean(_)) | AttributeRef::Many(_) => None,
        }
    }

    fn all_hold(&mut self, clauses: &[ClauseState], segments: &[u32]) -> bool {
        clauses.iter().all(|clause| self.holds(clause, segments))
    }

    fn holds(&mut self, clause: &ClauseState, segments: &[u32]) -> bool {
        match clause {
            ClauseState::Attribute { name, test, negate } => match self.subject.get(name) {
                Some(attribute) => passes(test, attribute) != *negate,
                None => false,
            },
            ClauseState::Exists { name, negate } => self.subject.get(name).is_some() != *negate,
            ClauseState::Segments { any_of, negate } => self
                .in_any(any_of, segments)
                .is_some_and(|within| within != *negate),
        }
    }

    /// Says whether the subject is in any of the segments; nothing when it is in none that can be
    /// decided and some cannot.
    fn in_any(&mut self, any_of: &[u32], segments: &[u32]) -> Option<bool> {
        let mut within = Some(false);
        for index in any_of {
            match segments
                .get(*index as usize)
                .and_then(|slot| self.in_segment(*slot))
            {
                Some(true) => return Some(true),
                Some(false) => {}
                None => within = None,
            }
        }
        within
    }

    fn in_segment(&mut self, slot: u32) -> Option<bool> {
        let place = self.table.at(slot)?;
        let Loaded::Segment(segment) = &place.loaded else {
            return None;
        };
        if !place.sound {
            return None;
        }
        if let Some(within) = self.recall(slot) {
            return Some(within != 0);
        }
        let within = self.segment(segment);
        self.remember(slot, u32::from(within));
        Some(within)
    }

    fn segment(&mut self, segment: &LoadedSegment) -> bool {
        let (state, key) = (&segment.state, self.subject.key());
        let named = |list: &[String]| list.binary_search_by(|name| name.as_str().cmp(key)).is_ok();
        if named(&state.excluded) {
            return false;
        }
        named(&state.included)
            || state.rules.iter().any(|rule| {
                self.all_hold(&rule.when, &segment.segments)
                    && rule.rollout.as_ref().is_none_or(|share| self.within(share))
            })
    }

    fn within(&self, share: &ShareState) -> bool {
        let place = self.bucket(share.algorithm, &share.bucket_by, &share.salt, share.of);
        place.is_some_and(|place| place < share.share)
    }

    fn recall(&self, slot: u32) -> Option<u32> {
        self.memo.as_ref()?.recall(slot)
    }

    fn remember(&mut self, slot: u32, outcome: u32) -> u32 {
        if let Some(memo) = &mut self.memo {
            memo.remember(slot, outcome);
        }
        outcome
    }
}

fn passes(test: &TestState, attribute: AttributeRef<'_>) -> bool {
    match attribute {
        AttributeRef::One(value) => passes_one(test, value),
        AttributeRef::Many(values) => values.iter().any(|value| passes_one(test, value.borrow())),
    }
}

fn passes_one(test: &TestState, value: ScalarRef<'_>) -> bool {
    match (test, value) {
        (TestState::In { strings, .. }, ScalarRef::String(text)) => strings
            .binary_search_by(|wanted| wanted.as_str().cmp(text))
            .is_ok(),
        (TestState::In { numbers, .. }, ScalarRef::Number(number)) => {
            Number::new(number).is_some_and(|number| numbers.binary_search(&number).is_ok())
        }
        (TestState::In { booleans, .. }, ScalarRef::Boolean(value)) => booleans[usize::from(value)],
        (TestState::Contains(parts), ScalarRef::String(text)) => {
            parts.iter().any(|part| text.contains(part.as_str()))
        }
        (TestState::StartsWith(heads), ScalarRef::String(text)) => {
            heads.iter().any(|head| text.starts_with(head.as_str()))
        }
        (TestState::EndsWith(tails), ScalarRef::String(text)) => {
            tails.iter().any(|tail| text.ends_with(tail.as_str()))
        }
        (TestState::Number(comparison, bounds), ScalarRef::Number(number)) => {
            bounds.iter().any(|bound| {
                number
                    .partial_cmp(&bound.get())
                    .is_some_and(|o| comparison.admits(o))
            })
        }
        (TestState::SemVer(comparison, bounds), ScalarRef::String(text)) => {
            let version = SemVerRef::parse(text);
            let admits = |version: SemVerRef<'_>| {
                bounds
                    .iter()
                    .any(|bound| comparison.admits(version.cmp(&bound.borrow())))
            };
            version.is_some_and(admits)
        }
        // A value of another type is a non-match.
        _ => false,
    }
}

/// Outcomes of states by slot, for one evaluation, on its stack.
struct Memo {
    /// Slot and outcome; `VACANT` where there is none.
    cells: [(u32, u32); Memo::LEN],
}

impl Memo {
    /// Twice the states there can be, so that looking for one soon ends; a power of two.
    const LEN: usize = 2 * CLOSURE_MAX;
    const VACANT: u32 = u32::MAX;

    fn new() -> Memo {
        Memo {
            cells: [(Self::VACANT, 0); Self::LEN],
        }
    }

    /// Returns the cell of a slot: where it is, or else where it would be.
    fn cell(&self, slot: u32) -> usize {
        let start = slot.wrapping_mul(0x9e37_79b1) as usize >> 16;
        let places = (0..Self::LEN).map(|n| (start + n) % Self::LEN);
        let mut fitting = places.filter(|n| [slot, Self::VACANT].contains(&self.cells[*n].0));
        fitting.next().unwrap_or(0)
    }

    fn recall(&self, slot: u32) -> Option<u32> {
        let (owner, outcome) = self.cells[self.cell(slot)];
        (owner == slot).then_some(outcome)
    }

    fn remember(&mut self, slot: u32, outcome: u32) {
        let cell = self.cell(slot);
        self.cells[cell] = (slot, outcome);
    }
}
