//! The form of a state that evaluation runs on: made from an EvaluationState when it is loaded.
//!
//! What must hold: it decides exactly as the state says, and asks for nothing that could have been
//! worked out before. A flag that gives everybody the same is that answer. Lists are hashed or
//! reduced (`lt` any of several bounds is `lt` the greatest), versions, times, networks and regular
//! expressions are parsed, salts are hashed, weights are cumulative, and other states are slots. The
//! attributes that a state names are numbered, so that each is looked up once (`decide.rs`).
//!
//! Texts of a state lie behind each other in one allocation and are named by where they are: a
//! snapshot holds thousands of short ones.
//!
//! Left out: slots and who is in them (`table.rs`).

use std::borrow::Cow;

use crate::bucket::Salted;
use crate::config::OnStale;
use crate::config::ValueType;
use crate::evaluate::{Decision, Detail, Reason, VariantRef};
use crate::ids::{FlagKey, SegmentKey, Version};
use crate::instant::Instant;
use crate::key_table::{KeyTable, text_hash};
use crate::network::Networks;
use crate::pattern::Pattern;
use crate::policy::{Algorithm, SUBJECT_KEY};
use crate::semver::SemVer;
use crate::state::{
    ClauseState, Comparison, ExperimentState, FlagState, Number, RolloutState, RuleState,
    SegmentState, ServeState, ShareState, TestState,
};
use crate::value::{Parsed, Reading, ValueRef};

mod texts;

use texts::TextsBuilder;
pub(crate) use texts::{Span, Texts};

/// Finds the slots of the states that a state names.
pub(crate) trait Slots {
    /// Returns the slot of a flag.
    fn flag(&mut self, key: &FlagKey) -> u32;
    /// Returns the slot of a segment.
    fn segment(&mut self, key: &SegmentKey) -> u32;
}

/// A flag, ready.
pub(crate) struct Flag {
    pub(crate) key: FlagKey,
    pub(crate) texts: Texts,
    pub(crate) variants: Box<[Variant]>,
    pub(crate) off_variant: VariantRef,
    pub(crate) enabled: bool,
    pub(crate) archived: bool,
    pub(crate) track: bool,
    pub(crate) on_stale: OnStale,
    pub(crate) prerequisites: Box<[Prerequisite]>,
    /// Subjects with a variant of their own, if there are any: its [`VariantRef::bits`].
    pub(crate) targets: Option<Box<KeyTable>>,
    pub(crate) operands: Operands,
    pub(crate) rules: Box<[Rule]>,
    /// Those of all rules, in their order.
    pub(crate) clauses: Box<[Clause]>,
    pub(crate) default: Serve,
    /// Whether there is no rule, target or rollout.
    pub(crate) is_static: bool,
    pub(crate) changed_at: Version,
}

pub(crate) struct Variant {
    pub(crate) name: Span,
    pub(crate) value: Value,
}

/// The value of a variant: what was parsed, and where the JSON text is.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    Boolean(bool),
    String { text: Span, json: Span },
    Number { number: f64, json: Span },
    Object { json: Span },
}

/// A flag that must be at one of these variants. They are names, because the indexes of that flag
/// change without this one.
pub(crate) struct Prerequisite {
    pub(crate) slot: u32,
    pub(crate) variants: Box<[Span]>,
}

pub(crate) struct Rule {
    pub(crate) id: Span,
    /// How many of the clauses are its own.
    pub(crate) clauses: u32,
    pub(crate) serve: Serve,
}

pub(crate) enum Serve {
    Variant(VariantRef),
    Split(Split),
    Experiment(Box<Experiment>),
}

/// A weighted split.
pub(crate) struct Split {
    pub(crate) by: Operand,
    pub(crate) salt: Salted,
    pub(crate) total: u32,
    /// Where each share ends, rising, and its variant. At least one.
    pub(crate) shares: Box<[ShareEnd]>,
}

impl Split {
    /// The variant of a bucket below the total.
    #[inline]
    pub(crate) fn variant(&self, bucket: u32) -> VariantRef {
        // Counting, because where a search would end is a matter of chance.
        let ended = self.shares.partition_point(|share| share.end <= bucket);
        let last = self.shares.len().saturating_sub(1);
        let share = self.shares.get(ended.min(last));
        share.map_or(VariantRef::NONE, |share| share.variant)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct ShareEnd {
    pub(crate) end: u32,
    pub(crate) variant: VariantRef,
}

/// A split for those who take part.
pub(crate) struct Experiment {
    pub(crate) key: Span,
    pub(crate) layer: Option<Layer>,
    /// The slot of the segment that is kept out.
    pub(crate) holdout: Option<u32>,
    pub(crate) split: Split,
}

pub(crate) struct Layer {
    pub(crate) salt: Salted,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// Takes the clauses of the next rule off those that are left.
#[inline]
pub(crate) fn next_clauses<'a>(left: &mut &'a [Clause], count: u32) -> &'a [Clause] {
    let (next, rest) = left.split_at((count as usize).min(left.len()));
    *left = rest;
    next
}

/// A segment, ready.
pub(crate) struct Segment {
    pub(crate) texts: Texts,
    /// Subject keys that are in it, or not, whatever the rules say: `INCLUDED` or `EXCLUDED`.
    pub(crate) listed: KeyTable,
    pub(crate) operands: Operands,
    pub(crate) rules: Box<[SegmentRule]>,
    /// Those of all rules, in their order.
    pub(crate) clauses: Box<[Clause]>,
    pub(crate) changed_at: Version,
}

pub(crate) struct SegmentRule {
    /// How many of the clauses are its own.
    pub(crate) clauses: u32,
    pub(crate) share: Option<Share>,
}

pub(crate) struct Share {
    pub(crate) by: Operand,
    pub(crate) salt: Salted,
    pub(crate) share: u32,
    pub(crate) of: u32,
}

/// The attributes that a state names, by number.
pub(crate) type Operands = Box<[OperandName]>;

pub(crate) struct OperandName {
    pub(crate) hash: u64,
    pub(crate) name: Span,
}

/// What a clause looks at or a rollout buckets by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    SubjectKey,
    /// The attribute of this number.
    Attribute(u32),
}

pub(crate) enum Clause {
    /// On the value of an operand.
    Test {
        operand: Operand,
        negate: bool,
        test: Test,
    },
    /// On an operand being there.
    Exists { operand: Operand, negate: bool },
    /// On membership in the segment of this slot.
    Segment { slot: u32, negate: bool },
    /// On membership in any of the segments of these slots.
    Segments { any_of: Box<[u32]>, negate: bool },
}

/// What an operand is compared with.
pub(crate) enum Test {
    /// Equal to one text.
    Text { hash: u64, text: Span },
    /// Equal to any of these texts.
    Texts(KeyTable),
    /// Equal to any of these.
    In(Box<InTest>),
    /// The text contains any of these.
    Contains(Box<Contains>),
    /// The text begins with one of these: sorted, and none begins with another.
    StartsWith(Box<[Span]>),
    /// The text ends with one of these: sorted by their bytes from the end, and none ends with
    /// another.
    EndsWith(Box<[Span]>),
    /// The number compares so with the bound.
    Number(Comparison, f64),
    /// The version compares so with any of these: sorted, and a single one unless for equality.
    SemVer(Comparison, Box<[SemVer]>),
    /// The time compares so with the bound.
    Time(Comparison, Instant),
    /// The address is in one of these.
    Networks(Box<Networks>),
    /// The text has a match of a regular expression.
    Pattern(Box<Pattern>),
    /// Nothing passes: what an empty list would be, if decoding let one through.
    Nothing,
}

pub(crate) struct InTest {
    pub(crate) texts: KeyTable,
    /// Sorted.
    pub(crate) numbers: Box<[Number]>,
    pub(crate) booleans: [bool; 2],
}

/// Parts to look for in a text.
pub(crate) enum Contains {
    /// Few: one after the other.
    Few(Box<[Span]>),
    /// Many: all at once.
    Many(aho_corasick::AhoCorasick),
}

/// Makes flags and segments out of their states.
struct Compiler<'a> {
    texts: TextsBuilder,
    operands: Vec<OperandName>,
    clauses: Vec<Clause>,
    slots: &'a mut dyn Slots,
    /// Slots of the state's segments, by its own index.
    segments: Vec<u32>,
    /// The variants of a flag.
    variants: Vec<VariantRef>,
}

impl Flag {
    /// Makes the flag of a slot; `key` is the same as the state's, shared with the slot.
    pub(crate) fn new(key: FlagKey, state: &FlagState, slots: &mut dyn Slots) -> Flag {
        let mut compiler = Compiler::new(&state.segments, slots);
        compiler.variants = variant_refs(state);
        let variants = state.variants.iter().map(|variant| Variant {
            name: compiler.texts.add(&variant.name),
            value: compiler.value(state.value_type, &variant.value),
        });
        let variants = variants.collect();
        let prerequisites = state.prerequisites.iter().map(|one| Prerequisite {
            slot: compiler.slots.flag(&one.flag),
            variants: compiler.spans(&one.variants),
        });
        let prerequisites = prerequisites.collect();
        let rules = state.rules.iter().map(|rule| compiler.rule(rule)).collect();
        let default = compiler.serve(&state.default);
        let targets = state.targets.iter();
        let refs = &compiler.variants;
        let targets = targets.map(|one| (one.subject.as_str(), pick(refs, one.variant).bits()));
        let any_targets = !state.targets.is_empty();
        Flag {
            key,
            variants,
            off_variant: compiler.variant(state.off_variant),
            enabled: state.enabled,
            archived: state.archived,
            track: state.track,
            on_stale: state.on_stale,
            prerequisites,
            targets: any_targets.then(|| Box::new(KeyTable::new(targets))),
            rules,
            default,
            is_static: state.rules.is_empty()
                && state.targets.is_empty()
                && matches!(state.default, ServeState::Variant(_)),
            changed_at: state.changed_at,
            operands: compiler.operands.into(),
            clauses: compiler.clauses.into(),
            texts: compiler.texts.finish(),
        }
    }
}

impl Flag {
    /// Returns the name of a variant.
    #[inline]
    pub(crate) fn variant_name(&self, index: u16) -> Option<&str> {
        let variant = self.variants.get(usize::from(index))?;
        Some(self.texts.get(variant.name))
    }

    /// Returns the value of a variant.
    #[inline]
    pub(crate) fn value(&self, index: u16) -> Option<ValueRef<'_>> {
        let variant = self.variants.get(usize::from(index))?;
        let (read, json) = match variant.value {
            Value::Boolean(value) => return Some(ValueRef::boolean(value)),
            Value::String { text, json } => {
                (Reading::String(self.texts.get(text)), self.texts.get(json))
            }
            Value::Number { number, json } => (Reading::Number(number), self.texts.get(json)),
            Value::Object { json } => (Reading::Object, self.texts.get(json)),
        };
        Some(ValueRef { read, json })
    }
}

/// Numbers the variants of a flag. Decoding has seen that there are no more than fit.
fn variant_refs(state: &FlagState) -> Vec<VariantRef> {
    let variants = (0..).zip(&state.variants);
    let refs = variants.map(|(index, variant)| {
        let is_boolean = state.value_type == ValueType::Boolean;
        VariantRef::new(index, is_boolean.then(|| variant.value == "true"))
    });
    refs.collect()
}

/// The variant of an index. Decoding has seen that it is one.
fn pick(refs: &[VariantRef], index: u32) -> VariantRef {
    let found = refs.get(index as usize);
    found.copied().unwrap_or(VariantRef::NONE)
}

/// Finds out whether everybody gets the same answer of a flag.
pub(crate) fn constant(state: &FlagState) -> Option<Decision> {
    let index = |index| pick(&variant_refs(state), index);
    if state.archived {
        return Some(Decision::NOT_FOUND.with(Detail::Archived));
    }
    if !state.enabled {
        return Some(Decision::of(index(state.off_variant), Reason::Disabled));
    }
    if !state.prerequisites.is_empty() || !state.targets.is_empty() {
        return None;
    }
    match (state.rules.first(), &state.default) {
        (None, ServeState::Variant(variant)) => Some(Decision::of(index(*variant), Reason::Static)),
        (Some(rule), _) if rule.when.is_empty() => match &rule.serve {
            ServeState::Variant(variant) => {
                Some(Decision::of(index(*variant), Reason::RuleMatch).by_rule(0))
            }
            _ => None,
        },
        _ => None,
    }
}

impl Segment {
    pub(crate) const INCLUDED: u32 = 0;
    pub(crate) const EXCLUDED: u32 = 1;

    pub(crate) fn new(state: &SegmentState, slots: &mut dyn Slots) -> Segment {
        let mut compiler = Compiler::new(&state.segments, slots);
        let rules = state.rules.iter().map(|rule| SegmentRule {
            clauses: compiler.clauses(&rule.when),
            share: rule.rollout.as_ref().map(|share| compiler.share(share)),
        });
        let rules = rules.collect();
        Segment {
            listed: listed(state),
            rules,
            changed_at: state.changed_at,
            operands: compiler.operands.into(),
            clauses: compiler.clauses.into(),
            texts: compiler.texts.finish(),
        }
    }
}

/// Merges both lists; excluded beats included.
fn listed(state: &SegmentState) -> KeyTable {
    let is_excluded = |key: &String| state.excluded.binary_search(key).is_ok();
    let included = state.included.iter().filter(|key| !is_excluded(key));
    let included = included.map(|key| (key.as_str(), Segment::INCLUDED));
    let excluded = state.excluded.iter();
    let excluded = excluded.map(|key| (key.as_str(), Segment::EXCLUDED));
    let listed: Vec<(&str, u32)> = included.chain(excluded).collect();
    KeyTable::new(listed.iter().copied())
}

impl<'a> Compiler<'a> {
    fn new(segments: &[SegmentKey], slots: &'a mut dyn Slots) -> Compiler<'a> {
        Compiler {
            texts: TextsBuilder::default(),
            operands: Vec::new(),
            clauses: Vec::new(),
            segments: segments.iter().map(|key| slots.segment(key)).collect(),
            variants: Vec::new(),
            slots,
        }
    }

    fn value(&mut self, value_type: ValueType, json: &str) -> Value {
        let span = |texts: &mut TextsBuilder| texts.add(json);
        match Parsed::read(value_type, json) {
            Some(Parsed::Boolean(value)) => Value::Boolean(value),
            Some(Parsed::String(text)) => {
                let json = span(&mut self.texts);
                let text = match text {
                    Cow::Borrowed(_) => json.within_quotes(),
                    Cow::Owned(text) => self.texts.add(&text),
                };
                Value::String { text, json }
            }
            Some(Parsed::Number(number)) => Value::Number {
                number,
                json: span(&mut self.texts),
            },
            // Decoding has seen that every value can be read, so nothing else is left.
            Some(Parsed::Object) | None => Value::Object {
                json: span(&mut self.texts),
            },
        }
    }

    fn variant(&self, index: u32) -> VariantRef {
        pick(&self.variants, index)
    }

    fn spans(&mut self, list: &[String]) -> Box<[Span]> {
        list.iter().map(|text| self.texts.add(text)).collect()
    }

    fn operand(&mut self, name: &str) -> Operand {
        if name == SUBJECT_KEY {
            return Operand::SubjectKey;
        }
        let hash = text_hash(name);
        let texts = &self.texts;
        let known = |have: &OperandName| have.hash == hash && texts.get(have.name) == name;
        let place = self.operands.iter().position(known).unwrap_or_else(|| {
            let name = self.texts.add(name);
            self.operands.push(OperandName { hash, name });
            self.operands.len() - 1
        });
        Operand::Attribute(u32::try_from(place).unwrap_or(u32::MAX))
    }

    fn rule(&mut self, rule: &RuleState) -> Rule {
        Rule {
            id: self.texts.add(&rule.id),
            clauses: self.clauses(&rule.when),
            serve: self.serve(&rule.serve),
        }
    }

    fn serve(&mut self, serve: &ServeState) -> Serve {
        match serve {
            ServeState::Variant(variant) => Serve::Variant(self.variant(*variant)),
            ServeState::Rollout(rollout) => Serve::Split(self.split(rollout)),
            ServeState::Experiment(experiment) => {
                Serve::Experiment(Box::new(self.experiment(experiment)))
            }
        }
    }

    fn split(&mut self, rollout: &RolloutState) -> Split {
        let Algorithm::Murmur3V1 = rollout.algorithm;
        let mut end = 0_u32;
        let shares = rollout.weights.iter().map(|share| {
            // Their sum is below 2^31.
            end = end.saturating_add(share.weight);
            let variant = pick(&self.variants, share.variant);
            ShareEnd { end, variant }
        });
        Split {
            shares: shares.collect(),
            by: self.operand(&rollout.bucket_by),
            salt: Salted::new(&rollout.salt),
            total: rollout.total,
        }
    }

    fn experiment(&mut self, experiment: &ExperimentState) -> Experiment {
        let layer = experiment.layer.as_ref().map(|layer| Layer {
            salt: Salted::new(&layer.salt),
            start: layer.start,
            end: layer.end,
        });
        let holdout = experiment.holdout;
        Experiment {
            key: self.texts.add(experiment.key.as_str()),
            layer,
            holdout: holdout.and_then(|index| self.segments.get(index as usize).copied()),
            split: self.split(&experiment.rollout),
        }
    }

    fn share(&mut self, share: &ShareState) -> Share {
        let Algorithm::Murmur3V1 = share.algorithm;
        Share {
            by: self.operand(&share.bucket_by),
            salt: Salted::new(&share.salt),
            share: share.share,
            of: share.of,
        }
    }

    /// Adds the clauses of a rule and says how many there are.
    fn clauses(&mut self, clauses: &[ClauseState]) -> u32 {
        for clause in clauses {
            let clause = self.clause(clause);
            self.clauses.push(clause);
        }
        // An encoded state has fewer bytes.
        u32::try_from(clauses.len()).unwrap_or(u32::MAX)
    }

    fn clause(&mut self, clause: &ClauseState) -> Clause {
        match clause {
            ClauseState::Attribute { name, test, negate } => Clause::Test {
                operand: self.operand(name),
                negate: *negate,
                test: self.test(test),
            },
            ClauseState::Exists { name, negate } => Clause::Exists {
                operand: self.operand(name),
                negate: *negate,
            },
            ClauseState::Segments { any_of, negate } => {
                let slots = any_of.iter();
                let slots = slots.filter_map(|index| self.segments.get(*index as usize));
                let (slots, negate) = (slots.copied().collect::<Box<[u32]>>(), *negate);
                match *slots {
                    [slot] => Clause::Segment { slot, negate },
                    _ => Clause::Segments {
                        any_of: slots,
                        negate,
                    },
                }
            }
        }
    }

    fn test(&mut self, test: &TestState) -> Test {
        match test {
            TestState::In {
                strings,
                numbers,
                booleans,
            } => self.equals(strings, numbers, *booleans),
            TestState::Contains(parts) => Test::Contains(Box::new(self.contains(parts))),
            TestState::StartsWith(heads) => Test::StartsWith(self.heads(heads)),
            TestState::EndsWith(tails) => Test::EndsWith(self.tails(tails)),
            TestState::Number(comparison, numbers) => {
                let bound = decisive(*comparison, numbers);
                bound.map_or(Test::Nothing, |one| Test::Number(*comparison, one.get()))
            }
            TestState::SemVer(Comparison::Eq, versions) => {
                Test::SemVer(Comparison::Eq, versions.clone().into())
            }
            TestState::SemVer(comparison, versions) => {
                let bound = decisive(*comparison, versions);
                Test::SemVer(*comparison, bound.into_iter().cloned().collect())
            }
            TestState::Time(comparison, times) => {
                let bound = decisive(*comparison, times);
                bound.map_or(Test::Nothing, |one| Test::Time(*comparison, *one))
            }
            TestState::Networks(networks) => Test::Networks(Box::new(Networks::new(networks))),
            // What was stored is built within wider bounds than what is written, so this does not
            // fail; if it did, nothing would match.
            TestState::Matches(sources) => {
                Pattern::new(sources).map_or(Test::Nothing, |one| Test::Pattern(Box::new(one)))
            }
        }
    }

    fn equals(&mut self, strings: &[String], numbers: &[Number], booleans: [bool; 2]) -> Test {
        let texts = || KeyTable::new(strings.iter().map(|text| (text.as_str(), 0)));
        match (strings, numbers.is_empty() && booleans == [false; 2]) {
            ([text], true) => Test::Text {
                hash: text_hash(text),
                text: self.texts.add(text),
            },
            (_, true) => Test::Texts(texts()),
            (_, false) => Test::In(Box::new(InTest {
                texts: texts(),
                numbers: numbers.into(),
                booleans,
            })),
        }
    }

    fn contains(&mut self, parts: &[String]) -> Contains {
        /// Up to here looking for one after the other is as fast.
        const FEW_MAX: usize = 8;
        if parts.len() <= FEW_MAX {
            return Contains::Few(self.spans(parts));
        }
        let builder = aho_corasick::AhoCorasickBuilder::new()
            // A DFA of many parts would take much memory for little speed.
            .kind(Some(aho_corasick::AhoCorasickKind::ContiguousNFA))
            .build(parts);
        match builder {
            Ok(all) => Contains::Many(all),
            // Too large for its numbers, which no state of bounded size is.
            Err(_) => Contains::Few(self.spans(parts)),
        }
    }

    /// Sorted beginnings without those that begin with another.
    fn heads(&mut self, sorted: &[String]) -> Box<[Span]> {
        let mut kept: Vec<&str> = Vec::with_capacity(sorted.len());
        for head in sorted {
            if !kept.last().is_some_and(|last| head.starts_with(last)) {
                kept.push(head);
            }
        }
        kept.into_iter().map(|head| self.texts.add(head)).collect()
    }

    /// Endings sorted by their bytes from the end, without those that end with another.
    fn tails(&mut self, tails: &[String]) -> Box<[Span]> {
        let mut sorted: Vec<&str> = tails.iter().map(String::as_str).collect();
        sorted.sort_unstable_by(|a, b| a.bytes().rev().cmp(b.bytes().rev()));
        let mut kept: Vec<&str> = Vec::with_capacity(sorted.len());
        for tail in sorted {
            if !kept.last().is_some_and(|last| tail.ends_with(last)) {
                kept.push(tail);
            }
        }
        kept.into_iter().map(|tail| self.texts.add(tail)).collect()
    }
}

/// The bound of a rising list that decides for all of it: less than any is less than the greatest.
fn decisive<T>(comparison: Comparison, rising: &[T]) -> Option<&T> {
    match comparison {
        Comparison::Lt | Comparison::Lte => rising.last(),
        Comparison::Gt | Comparison::Gte => rising.first(),
        // Only versions are compared for equality, and those are searched.
        Comparison::Eq => rising.first(),
    }
}
