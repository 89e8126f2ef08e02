//! Deciding a flag for a subject.
//!
//! What must hold: it never fails, allocates nothing, takes no lock, and takes time in proportion to
//! the states it uses and the subject, whatever those hold. The same snapshot and subject give the
//! same answer everywhere (I7). The order of decision is that of the functions here, from top to
//! bottom. There is one way of deciding: explaining (`explain.rs`) runs the same functions with a
//! [`Trace`] that writes down what they pass.
//!
//! Only prerequisites and segments with rules are entered by a call, because only they recur; all
//! else is in line (`inline(always)`), which took a tenth off a decision by rules.
//!
//! A segment or prerequisite that is missing, or not sound (see `table.rs`), cannot be decided: a
//! prerequisite then fails, a clause does not hold, negated or not, and a holdout keeps everybody
//! out. The leader's Writer lets no such state come about; this is for snapshots that did not come
//! from it.

use crate::bucket::{Decimal, Salted};
use crate::evaluate::{Decision, Detail, Evaluation, Reason, VariantRef};
use crate::instant::Instant;
use crate::key_table::is_same;
use crate::limits::CLOSURE_MAX;
use crate::loaded::Snapshot;
use crate::policy::LAYER_SLOTS;
use crate::program::{
    Clause, Contains, Experiment, Flag, Operand, Operands, Segment, Serve, Share, Split, Test,
    Texts, next_clauses,
};
use crate::semver::SemVerRef;
use crate::state::{Comparison, Number};
use crate::subject::{AttributeRef, Entry, Scalar, ScalarRef, Subject, TextRef};
use crate::table::{FoundFlag, Loaded, Slot, Table};

/// Hears what an evaluation passes, in the order it does. Nothing that it does can change the
/// decision.
pub(crate) trait Trace {
    /// A flag is about to be decided: the one asked for, or a prerequisite.
    fn flag(&mut self, _slot: u32) {}
    /// The flag that was begun last is decided.
    fn flag_done(&mut self, _decision: &Decision) {}
    /// A prerequisite, by its place, was found at a variant of that flag, or nowhere.
    fn prerequisite(&mut self, _place: usize, _found: Option<VariantRef>, _holds: bool) {}
    /// The subject has a variant of its own, or not.
    fn target(&mut self, _variant: Option<VariantRef>) {}
    /// A rule, by its place, is about to be tried.
    fn rule(&mut self, _place: usize) {}
    /// The rule that was begun last was tried: whether it serves.
    fn rule_done(&mut self, _holds: bool) {}
    /// A clause of the rule, by its place, was tried.
    fn clause(&mut self, _place: usize, _outcome: Option<bool>, _holds: bool) {}
    /// A segment is about to be decided.
    fn segment(&mut self, _slot: u32) {}
    /// The segment that was begun last is decided.
    fn segment_done(&mut self, _slot: u32, _by: Membership) {}
    /// A segment was decided before in this evaluation, or cannot be decided.
    fn segment_known(&mut self, _slot: u32, _within: Option<bool>) {}
    /// The subject was looked up in the holdout of an experiment.
    fn holdout(&mut self, _held_out: bool) {}
    /// The slot of the subject in the layer of an experiment, and whether it is in the range.
    fn layer(&mut self, _slot: Option<u32>, _within: bool) {}
    /// The bucket of the subject in a rollout or share.
    #[inline]
    fn bucket(&mut self, _bucket: Option<u32>) {}
}

/// Listens to nothing.
impl Trace for () {}

/// Why a subject is in a segment, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    Excluded,
    Included,
    /// By the rule of this place.
    Rule(usize),
    Nothing,
}

impl Membership {
    fn is_within(self) -> bool {
        matches!(self, Membership::Included | Membership::Rule(_))
    }
}

impl Snapshot {
    /// Decides a flag for a subject.
    pub fn evaluate<'a>(&'a self, flag: &str, subject: &Subject) -> Evaluation<'a> {
        self.answer(self.decide(flag, subject))
    }

    /// Decides a flag for a subject, by number; [`Snapshot::answer`] gives names and value.
    pub fn decide(&self, flag: &str, subject: &Subject) -> Decision {
        let Some((number, slot)) = self.table.flag_slot(flag) else {
            return Decision::NOT_FOUND;
        };
        if let Some(decision) = slot.constant() {
            return decision;
        }
        match slot.found(number) {
            Some(found) => decide(&self.table, &found, subject, &mut ()),
            None => Decision::NOT_FOUND,
        }
    }
}

/// Decides a flag that was found in the table.
pub(crate) fn decide<T: Trace>(
    table: &Table,
    found: &FoundFlag<'_>,
    subject: &Subject,
    trace: &mut T,
) -> Decision {
    let FoundFlag { number, slot, flag } = *found;
    let decision = match (slot.constant().is_some() || slot.sound, slot.heavy) {
        (false, _) => {
            Decision::of(flag.off_variant, Reason::PrerequisiteFailed).with(Detail::GraphUnsound)
        }
        (true, false) => Decider {
            table,
            subject,
            memo: None,
            trace,
        }
        .flag(number, slot, flag),
        (true, true) => decide_heavy(table, found, subject, trace),
    };
    decision.of_slot(number)
}

/// Apart, so that only an evaluation that needs the memory has it on its stack.
#[inline(never)]
fn decide_heavy<T: Trace>(
    table: &Table,
    found: &FoundFlag<'_>,
    subject: &Subject,
    trace: &mut T,
) -> Decision {
    let FoundFlag { number, slot, flag } = *found;
    let mut memo = Memo::new();
    Decider {
        table,
        subject,
        memo: Some(&mut memo),
        trace,
    }
    .flag(number, slot, flag)
}

/// Decides one flag for one subject, and what it uses.
///
/// Recursion goes no deeper than `DEPTH_MAX`, because only sound states are entered.
struct Decider<'a, T> {
    table: &'a Table,
    subject: &'a Subject,
    memo: Option<&'a mut Memo>,
    trace: &'a mut T,
}

/// The attributes that a state names, as far as they were looked up.
struct Frame<'a> {
    texts: &'a Texts,
    operands: &'a Operands,
    /// For each operand the place of the attribute in the subject, plus two; `ABSENT` or `UNKNOWN`.
    places: [u16; Frame::LEN],
}

impl<'a> Frame<'a> {
    /// So many are remembered; a state that names more looks the rest up each time.
    const LEN: usize = 16;
    const UNKNOWN: u16 = 0;
    const ABSENT: u16 = 1;

    fn new(texts: &'a Texts, operands: &'a Operands) -> Frame<'a> {
        Frame {
            texts,
            operands,
            places: [Self::UNKNOWN; Frame::LEN],
        }
    }

    #[inline(always)]
    fn attribute(&mut self, number: u32, subject: &'a Subject) -> Option<&'a Entry> {
        let known = self.places.get(number as usize);
        match known.copied().unwrap_or(Self::UNKNOWN) {
            Self::UNKNOWN => self.find(number, subject),
            Self::ABSENT => None,
            place => subject.entry(usize::from(place) - 2),
        }
    }

    #[cold]
    fn find(&mut self, number: u32, subject: &'a Subject) -> Option<&'a Entry> {
        let operand = self.operands.get(number as usize)?;
        let found = subject.find(self.texts.get(operand.name), operand.hash);
        let known = match found {
            Some(place) => u16::try_from(place + 2).unwrap_or(Self::UNKNOWN),
            None => Self::ABSENT,
        };
        if let Some(place) = self.places.get_mut(number as usize) {
            *place = known;
        }
        subject.entry(found?)
    }
}

impl<'a, T: Trace> Decider<'a, T> {
    /// The order of decision, from what comes after `FLAG_NOT_FOUND`.
    fn flag(&mut self, number: u32, slot: &'a Slot, flag: &'a Flag) -> Decision {
        self.trace.flag(number);
        let decision = self.decision(slot, flag);
        self.trace.flag_done(&decision);
        decision
    }

    #[inline(always)]
    fn decision(&mut self, slot: &'a Slot, flag: &'a Flag) -> Decision {
        if let Some(decision) = slot.constant() {
            if decision.rule().is_some() {
                self.trace.rule(0);
                self.trace.rule_done(true);
            }
            return decision;
        }
        if !self.prerequisites_hold(flag) {
            return Decision::of(flag.off_variant, Reason::PrerequisiteFailed);
        }
        if let Some(targets) = &flag.targets {
            let TextRef { text, hash } = self.subject.key_ref();
            let variant = targets.find(text, hash).map(VariantRef::from_bits);
            self.trace.target(variant);
            if let Some(variant) = variant {
                return Decision::of(variant, Reason::TargetMatch);
            }
        }
        let mut frame = Frame::new(&flag.texts, &flag.operands);
        let mut clauses = &*flag.clauses;
        for (place, rule) in flag.rules.iter().enumerate() {
            self.trace.rule(place);
            let when = next_clauses(&mut clauses, rule.clauses);
            let served = match self.all_hold(when, &mut frame) {
                true => self.serve(&rule.serve, Reason::RuleMatch, &mut frame),
                false => None,
            };
            self.trace.rule_done(served.is_some());
            if let Some(decision) = served {
                // A policy has far fewer rules.
                return decision.by_rule(place as u32);
            }
        }
        let reason = match flag.is_static {
            true => Reason::Static,
            false => Reason::Default,
        };
        // Only a rule can have an experiment, so the default always serves.
        self.serve(&flag.default, reason, &mut frame)
            .unwrap_or(Decision::of(flag.off_variant, reason))
    }

    fn prerequisites_hold(&mut self, flag: &'a Flag) -> bool {
        let mut prerequisites = flag.prerequisites.iter().enumerate();
        prerequisites.all(|(place, wanted)| {
            let found = self.variant_at(wanted.slot);
            let holds = found.is_some_and(|(other, variant)| {
                let at = other.variant_name(variant.index()).unwrap_or_default();
                let at = at.as_bytes();
                let mut accepted = wanted.variants.iter();
                accepted.any(|name| is_same(flag.texts.get(*name).as_bytes(), at))
            });
            let variant = found.map(|(_, variant)| variant);
            self.trace.prerequisite(place, variant, holds);
            holds
        })
    }

    /// The variant that a prerequisite is at; none when it is disabled or cannot be decided.
    fn variant_at(&mut self, number: u32) -> Option<(&'a Flag, VariantRef)> {
        let slot = self.table.at(number)?;
        let Loaded::Flag(loaded) = &slot.loaded else {
            return None;
        };
        let flag = &loaded.flag;
        if !slot.sound || flag.archived || !flag.enabled {
            return None;
        }
        if let Some(variant) = self.recall(number) {
            return Some((flag, VariantRef::from_bits(variant)));
        }
        let variant = self.flag(number, slot, flag).variant();
        self.remember(number, variant.bits());
        Some((flag, variant))
    }

    /// What a rule or the default serves; nothing when it has an experiment that the subject takes
    /// no part in.
    #[inline(always)]
    fn serve(&mut self, serve: &Serve, reason: Reason, frame: &mut Frame<'a>) -> Option<Decision> {
        match serve {
            Serve::Variant(variant) => Some(Decision::of(*variant, reason)),
            Serve::Split(split) => Some(self.split(split, frame)),
            Serve::Experiment(experiment) => self
                .takes_part(experiment, frame)
                .then(|| self.split(&experiment.split, frame)),
        }
    }

    fn takes_part(&mut self, experiment: &Experiment, frame: &mut Frame<'a>) -> bool {
        if let Some(holdout) = experiment.holdout {
            let held_out = self.in_segment(holdout).unwrap_or(true);
            self.trace.holdout(held_out);
            if held_out {
                return false;
            }
        }
        let Some(layer) = &experiment.layer else {
            return true;
        };
        let slot = self.bucket(experiment.split.by, layer.salt, LAYER_SLOTS, frame);
        let within = slot.is_some_and(|slot| (layer.start..layer.end).contains(&slot));
        self.trace.layer(slot, within);
        within
    }

    #[inline(always)]
    fn split(&mut self, split: &Split, frame: &mut Frame<'a>) -> Decision {
        let bucket = self.bucket(split.by, split.salt, split.total, frame);
        self.trace.bucket(bucket);
        let Some(bucket) = bucket else {
            let last = split
                .shares
                .last()
                .map_or(VariantRef::NONE, |share| share.variant);
            return Decision::of(last, Reason::Split).with(Detail::BucketingKeyMissing);
        };
        Decision::of(split.variant(bucket), Reason::Split).in_bucket(bucket) // I7
    }

    /// The bucket of the subject; none when it lacks what is bucketed.
    fn bucket(&self, by: Operand, salt: Salted, total: u32, frame: &mut Frame<'a>) -> Option<u32> {
        match self.operand(by, frame)? {
            AttributeRef::One(ScalarRef::String(TextRef { text: "", .. })) => None,
            AttributeRef::One(ScalarRef::String(value)) => Some(salt.bucket(value.text, total)),
            AttributeRef::One(ScalarRef::Number(number)) => {
                Decimal::of(number).map(|decimal| salt.bucket(decimal.as_str(), total))
            }
            AttributeRef::One(ScalarRef::Boolean(_)) | AttributeRef::Many(_) => None,
        }
    }

    #[inline(always)]
    fn operand(&self, operand: Operand, frame: &mut Frame<'a>) -> Option<AttributeRef<'a>> {
        match operand {
            Operand::SubjectKey => {
                Some(AttributeRef::One(ScalarRef::String(self.subject.key_ref())))
            }
            Operand::Attribute(number) => frame.attribute(number, self.subject).map(Entry::borrow),
        }
    }

    #[inline(always)]
    fn all_hold(&mut self, clauses: &'a [Clause], frame: &mut Frame<'a>) -> bool {
        for (place, clause) in clauses.iter().enumerate() {
            let (outcome, negate) = self.outcome(clause, frame);
            let holds = outcome.is_some_and(|outcome| outcome != negate);
            self.trace.clause(place, outcome, holds);
            if !holds {
                return false;
            }
        }
        true
    }

    /// What a clause comes to before it is turned round, and whether it is. Nothing when it cannot
    /// hold either way.
    #[inline(always)]
    fn outcome(&mut self, clause: &'a Clause, frame: &mut Frame<'a>) -> (Option<bool>, bool) {
        match clause {
            Clause::Test {
                operand,
                negate,
                test,
            } => {
                let operand = self.operand(*operand, frame);
                (operand.map(|o| passes(test, o, frame.texts)), *negate)
            }
            Clause::Exists { operand, negate } => {
                (Some(self.operand(*operand, frame).is_some()), *negate)
            }
            Clause::Segment { slot, negate } => (self.in_segment(*slot), *negate),
            Clause::Segments { any_of, negate } => (self.in_any(any_of), *negate),
        }
    }

    /// Says whether the subject is in any of the segments; nothing when it is in none that can be
    /// decided and some cannot.
    fn in_any(&mut self, any_of: &[u32]) -> Option<bool> {
        let mut within = Some(false);
        for slot in any_of {
            match self.in_segment(*slot) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => within = None,
            }
        }
        within
    }

    #[inline(always)]
    fn in_segment(&mut self, number: u32) -> Option<bool> {
        let slot = self.table.at(number)?;
        let Loaded::Segment(loaded) = &slot.loaded else {
            self.trace.segment_known(number, None);
            return None;
        };
        if !slot.sound {
            self.trace.segment_known(number, None);
            return None;
        }
        let segment = &loaded.segment;
        // Who is listed is known at once; only rules are worth remembering.
        if let Some(by) = self.listed(segment) {
            self.trace.segment(number);
            self.trace.segment_done(number, by);
            return Some(by.is_within());
        }
        Some(self.in_segment_by_rule(number, segment))
    }

    #[inline(always)]
    fn listed(&self, segment: &Segment) -> Option<Membership> {
        let TextRef { text, hash } = self.subject.key_ref();
        match segment.listed.find(text, hash) {
            Some(Segment::EXCLUDED) => Some(Membership::Excluded),
            Some(_) => Some(Membership::Included),
            None if segment.rules.is_empty() => Some(Membership::Nothing),
            None => None,
        }
    }

    #[inline(never)]
    fn in_segment_by_rule(&mut self, number: u32, segment: &'a Segment) -> bool {
        if let Some(within) = self.recall(number) {
            self.trace.segment_known(number, Some(within != 0));
            return within != 0;
        }
        self.trace.segment(number);
        let mut frame = Frame::new(&segment.texts, &segment.operands);
        let mut by = Membership::Nothing;
        let mut clauses = &*segment.clauses;
        for (place, rule) in segment.rules.iter().enumerate() {
            self.trace.rule(place);
            let share = rule.share.as_ref();
            let when = next_clauses(&mut clauses, rule.clauses);
            let within = self.all_hold(when, &mut frame)
                && share.is_none_or(|share| self.within(share, &mut frame));
            self.trace.rule_done(within);
            if within {
                by = Membership::Rule(place);
                break;
            }
        }
        self.trace.segment_done(number, by);
        self.remember(number, u32::from(by.is_within()));
        by.is_within()
    }

    fn within(&mut self, share: &Share, frame: &mut Frame<'a>) -> bool {
        let bucket = self.bucket(share.by, share.salt, share.of, frame);
        self.trace.bucket(bucket);
        bucket.is_some_and(|bucket| bucket < share.share)
    }

    fn recall(&self, slot: u32) -> Option<u32> {
        self.memo.as_ref()?.recall(slot)
    }

    fn remember(&mut self, slot: u32, outcome: u32) {
        if let Some(memo) = &mut self.memo {
            memo.remember(slot, outcome);
        }
    }
}

#[inline(always)]
fn passes(test: &Test, operand: AttributeRef<'_>, texts: &Texts) -> bool {
    match operand {
        AttributeRef::One(value) => passes_one(test, value, texts),
        AttributeRef::Many(values) => any_passes(test, values, texts),
    }
}

/// Apart, so that comparing one value stays in line.
#[inline(never)]
fn any_passes(test: &Test, values: &[Scalar], texts: &Texts) -> bool {
    let mut values = values.iter();
    values.any(|value| passes_one(test, value.borrow(), texts))
}

/// Compares a single value. One of another type than the test is for is a non-match.
#[inline(always)]
fn passes_one(test: &Test, value: ScalarRef<'_>, texts: &Texts) -> bool {
    match (test, value) {
        (Test::Text { hash, text }, ScalarRef::String(value)) => {
            *hash == value.hash && is_same(texts.get(*text).as_bytes(), value.text.as_bytes())
        }
        (Test::Texts(table), ScalarRef::String(value)) => {
            table.find(value.text, value.hash).is_some()
        }
        (Test::In(any), ScalarRef::String(value)) => {
            any.texts.find(value.text, value.hash).is_some()
        }
        (Test::In(any), ScalarRef::Number(number)) => {
            Number::new(number).is_some_and(|number| any.numbers.binary_search(&number).is_ok())
        }
        (Test::In(any), ScalarRef::Boolean(value)) => any.booleans[usize::from(value)],
        (Test::Number(comparison, bound), ScalarRef::Number(number)) => number
            .partial_cmp(bound)
            .is_some_and(|order| comparison.admits(order)),
        _ => passes_rarely(test, value, texts),
    }
}

/// The tests that take longer than a call.
#[inline(never)]
fn passes_rarely(test: &Test, value: ScalarRef<'_>, texts: &Texts) -> bool {
    match (test, value) {
        (Test::Contains(parts), ScalarRef::String(value)) => match &**parts {
            Contains::Few(parts) => parts
                .iter()
                .any(|part| value.text.contains(texts.get(*part))),
            Contains::Many(all) => all.is_match(value.text),
        },
        (Test::StartsWith(heads), ScalarRef::String(value)) => {
            // None of them begins with another, so only the last one not after the text can.
            let after = heads.partition_point(|head| texts.get(*head) <= value.text);
            let head = after.checked_sub(1).and_then(|n| heads.get(n));
            head.is_some_and(|head| value.text.starts_with(texts.get(*head)))
        }
        (Test::EndsWith(tails), ScalarRef::String(value)) => {
            let before = |tail: &str| tail.bytes().rev().le(value.text.bytes().rev());
            let after = tails.partition_point(|tail| before(texts.get(*tail)));
            let tail = after.checked_sub(1).and_then(|n| tails.get(n));
            tail.is_some_and(|tail| value.text.ends_with(texts.get(*tail)))
        }
        (Test::SemVer(comparison, versions), ScalarRef::String(value)) => {
            SemVerRef::parse(value.text).is_some_and(|version| match comparison {
                Comparison::Eq => versions
                    .binary_search_by(|one| one.borrow().cmp(&version))
                    .is_ok(),
                _ => versions
                    .iter()
                    .any(|bound| comparison.admits(version.cmp(&bound.borrow()))),
            })
        }
        (Test::Time(comparison, bound), ScalarRef::String(value)) => {
            let time = Instant::parse(value.text);
            time.is_some_and(|time| comparison.admits(time.cmp(bound)))
        }
        (Test::Time(comparison, bound), ScalarRef::Number(number)) => {
            let time = Instant::from_millis(number);
            time.is_some_and(|time| comparison.admits(time.cmp(bound)))
        }
        (Test::Networks(networks), ScalarRef::String(value)) => {
            networks.contains(value.text) == Some(true)
        }
        (Test::Pattern(pattern), ScalarRef::String(value)) => pattern.is_match(value.text),
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
