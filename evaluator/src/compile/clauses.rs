//! Clauses, segment rules and lists of subjects to their compiled form: what flags and segments
//! have in common.
//!
//! What must hold: lists that are searched come out sorted and without doubles; every value was
//! read as what its operator compares, or is a fault in its place.

use serde_json::Value;

use super::{References, check_count};
use crate::config::check_name;
use crate::fault::{self, At, Faults, wrong};
use crate::ids::SegmentKey;
use crate::instant::Instant;
use crate::json::json_kind;
use crate::limits::Limits;
use crate::network::Network;
use crate::pattern::{Pattern, PatternFault};
use crate::policy::{Clause, Op, SegmentRule, Share, WEIGHT_SUM_MAX};
use crate::semver::SemVer;
use crate::state::{ClauseState, Comparison, Number, SegmentRuleState, ShareState, TestState};

/// What flags and segments have in common.
pub(super) struct Compiler<'a> {
    pub(super) faults: Faults,
    /// The segments that are named, sorted.
    pub(super) segments: &'a [SegmentKey],
    pub(super) refs: &'a dyn References,
    pub(super) limits: &'a Limits,
    /// How many patterns there were so far, and the steps that building them takes.
    patterns: usize,
    pattern_steps: usize,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        faults: Faults,
        segments: &'a [SegmentKey],
        refs: &'a dyn References,
        limits: &'a Limits,
    ) -> Compiler<'a> {
        Compiler {
            faults,
            segments,
            refs,
            limits,
            patterns: 0,
            pattern_steps: 0,
        }
    }

    pub(super) fn bucketing(&mut self, bucket_by: &str, salt: &str, at: &At<'_>) {
        check_name(
            bucket_by,
            "the name of an attribute",
            &at.key("bucket_by"),
            &mut self.faults,
        );
        check_name(salt, "a salt", &at.key("salt"), &mut self.faults);
    }

    pub(super) fn subjects(&mut self, subjects: &[String], at: &At<'_>) -> Vec<String> {
        check_count(
            subjects.len(),
            self.limits.subjects_max,
            "subjects",
            at,
            &mut self.faults,
        );
        let empty = subjects.iter().position(String::is_empty);
        if let Some(n) = empty {
            self.faults
                .push(&at.index(n), "a subject key must not be empty");
        }
        let mut subjects = subjects.to_vec();
        subjects.sort();
        subjects.dedup();
        subjects
    }

    pub(super) fn segment_rules(
        &mut self,
        key: &SegmentKey,
        rules: &[SegmentRule],
        at: &At<'_>,
    ) -> Vec<SegmentRuleState> {
        check_count(
            rules.len(),
            self.limits.rules_max,
            "rules",
            at,
            &mut self.faults,
        );
        let mut states = Vec::with_capacity(rules.len());
        for (n, rule) in rules.iter().enumerate() {
            let at = at.index(n);
            let when = self.clauses(&rule.when, &at.key("when"));
            let rollout = rule.rollout.as_ref();
            let rollout = rollout.map(|share| self.share(key, share, &at.key("rollout")));
            states.push(SegmentRuleState { when, rollout });
        }
        states
    }

    fn share(&mut self, key: &SegmentKey, share: &Share, at: &At<'_>) -> ShareState {
        let salt = share.salt.as_deref().unwrap_or(key.as_str());
        self.bucketing(&share.bucket_by, salt, at);
        if !(1..=WEIGHT_SUM_MAX).contains(&share.of) {
            self.faults
                .push(&at.key("of"), format!("must be from 1 to {WEIGHT_SUM_MAX}"));
        }
        if share.share > share.of {
            let message = format!("must be at most \"of\", which is {}", share.of);
            self.faults.push(&at.key("share"), message);
        }
        ShareState {
            algorithm: share.algorithm,
            bucket_by: share.bucket_by.clone(),
            salt: salt.to_owned(),
            share: share.share,
            of: share.of,
        }
    }

    pub(super) fn clauses(&mut self, clauses: &[Clause], at: &At<'_>) -> Vec<ClauseState> {
        check_count(
            clauses.len(),
            self.limits.clauses_max,
            "clauses",
            at,
            &mut self.faults,
        );
        let states = clauses.iter().enumerate();
        states
            .map(|(n, clause)| self.clause(clause, &at.index(n)))
            .collect()
    }

    fn clause(&mut self, clause: &Clause, at: &At<'_>) -> ClauseState {
        let values = at.key("values");
        let (found, max) = (clause.values.len(), self.limits.values_max);
        check_count(found, max, "values", &values, &mut self.faults);
        let negate = clause.negate;
        match clause.op {
            Op::InSegment => {
                self.need_values(clause, &values);
                if clause.attribute.is_some() {
                    let message = "\"in_segment\" asks about the subject and takes no attribute";
                    self.faults.push(&at.key("attribute"), message);
                }
                ClauseState::Segments {
                    any_of: self.segments(&clause.values, &values),
                    negate,
                }
            }
            Op::Exists => {
                if !clause.values.is_empty() {
                    self.faults.push(&values, "\"exists\" takes no values");
                }
                ClauseState::Exists {
                    name: self.attribute(clause, at),
                    negate,
                }
            }
            _ => {
                self.need_values(clause, &values);
                let test = self.test(clause.op, &clause.values, &values);
                ClauseState::Attribute {
                    name: self.attribute(clause, at),
                    test,
                    negate,
                }
            }
        }
    }

    fn need_values(&mut self, clause: &Clause, at: &At<'_>) {
        if clause.values.is_empty() {
            let message = format!("{:?} needs at least one value", clause.op.as_str());
            self.faults.push(at, message);
        }
    }

    fn attribute(&mut self, clause: &Clause, at: &At<'_>) -> String {
        let at = at.key("attribute");
        match &clause.attribute {
            Some(name) => {
                check_name(name, "the name of an attribute", &at, &mut self.faults);
                name.clone()
            }
            None => {
                self.faults
                    .push(&at, format!("{:?} needs an attribute", clause.op.as_str()));
                String::new()
            }
        }
    }

    fn segments(&mut self, values: &[Value], at: &At<'_>) -> Vec<u32> {
        let mut indexes = Vec::with_capacity(values.len());
        for (n, value) in values.iter().enumerate() {
            let key = match value.as_str().map(SegmentKey::try_from) {
                Some(Ok(key)) => key,
                Some(Err(error)) => {
                    self.faults.push(&at.index(n), error.to_string());
                    continue;
                }
                None => {
                    self.faults
                        .push(&at.index(n), wrong("the key of a segment", value));
                    continue;
                }
            };
            indexes.extend(self.segment(&key, &at.index(n)));
        }
        rising(indexes)
    }

    /// Resolves a segment's key to its index.
    pub(super) fn segment(&mut self, key: &SegmentKey, at: &At<'_>) -> Option<u32> {
        if !self.refs.segment_exists(key) {
            let message = format!("there is no segment {:?}", key.as_str());
            self.faults.push(at, message);
        }
        let index = self.segments.binary_search(key).ok();
        index.and_then(|index| u32::try_from(index).ok())
    }

    fn test(&mut self, op: Op, values: &[Value], at: &At<'_>) -> TestState {
        match op {
            Op::Contains => TestState::Contains(self.texts(values, at)),
            Op::StartsWith => TestState::StartsWith(self.texts(values, at)),
            Op::EndsWith => TestState::EndsWith(self.texts(values, at)),
            Op::Lt => TestState::Number(Comparison::Lt, self.numbers(values, at)),
            Op::Lte => TestState::Number(Comparison::Lte, self.numbers(values, at)),
            Op::Gt => TestState::Number(Comparison::Gt, self.numbers(values, at)),
            Op::Gte => TestState::Number(Comparison::Gte, self.numbers(values, at)),
            Op::SemverEq => TestState::SemVer(Comparison::Eq, self.semvers(values, at)),
            Op::SemverLt => TestState::SemVer(Comparison::Lt, self.semvers(values, at)),
            Op::SemverLte => TestState::SemVer(Comparison::Lte, self.semvers(values, at)),
            Op::SemverGt => TestState::SemVer(Comparison::Gt, self.semvers(values, at)),
            Op::SemverGte => TestState::SemVer(Comparison::Gte, self.semvers(values, at)),
            Op::Matches => TestState::Matches(self.patterns(values, at)),
            Op::Before => TestState::Time(Comparison::Lt, self.times(values, at)),
            Op::After => TestState::Time(Comparison::Gt, self.times(values, at)),
            Op::InCidr => TestState::Networks(self.networks(values, at)),
            // The other two are no tests of an attribute's value; see `clause`.
            Op::In | Op::InSegment | Op::Exists => self.equals(values, at),
        }
    }

    fn equals(&mut self, values: &[Value], at: &At<'_>) -> TestState {
        let mut strings: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        strings.sort();
        strings.dedup();
        let given = |wanted: bool| values.iter().any(|value| value.as_bool() == Some(wanted));
        let booleans = [given(false), given(true)];
        let numbers = values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_number());
        let numbers = numbers
            .filter_map(|(n, value)| self.number(value, &at.index(n)))
            .collect();
        TestState::In {
            strings,
            numbers: rising(numbers),
            booleans,
        }
    }

    fn texts(&mut self, values: &[Value], at: &At<'_>) -> Vec<String> {
        let texts = values.iter().enumerate();
        let texts = texts.filter_map(|(n, v)| fault::string(v, &at.index(n), &mut self.faults));
        rising(texts.collect())
    }

    fn numbers(&mut self, values: &[Value], at: &At<'_>) -> Vec<Number> {
        let numbers = values.iter().enumerate();
        rising(
            numbers
                .filter_map(|(n, value)| self.number(value, &at.index(n)))
                .collect(),
        )
    }

    fn number(&mut self, value: &Value, at: &At<'_>) -> Option<Number> {
        // Beyond this a whole number has no f64 of its own, so "equal" would be a lie.
        const EXACT_MAX: u64 = 1 << 53;
        if value.as_i64().is_some_and(|n| n.unsigned_abs() > EXACT_MAX)
            || value.as_u64().is_some_and(|n| n > EXACT_MAX)
        {
            self.faults.push(
                at,
                format!("{value} cannot be compared exactly; whole numbers go to 2^53"),
            );
            return None;
        }
        let number = value.as_f64().and_then(Number::new);
        if number.is_none() {
            self.faults.push(at, wrong("a number", value));
        }
        number
    }

    fn patterns(&mut self, values: &[Value], at: &At<'_>) -> Vec<String> {
        let sources = self.texts(values, at);
        let (before, max) = (self.patterns, self.limits.patterns_max);
        self.patterns += sources.len();
        if self.patterns > max {
            // Checking one may take milliseconds, so those beyond the limit are not.
            if before <= max {
                let message = format!("a policy has at most {max} regular expressions");
                self.faults.push(at, message);
            }
            return sources;
        }
        for (n, value) in values.iter().enumerate() {
            if self.pattern_steps > self.limits.pattern_steps_max {
                break;
            }
            let source = value.as_str().unwrap_or_default();
            if let Err(message) = self.pattern(source) {
                self.faults.push(&at.index(n), message);
            }
        }
        sources
    }

    /// Checks one pattern, alone and as one of the policy's.
    fn pattern(&mut self, source: &str) -> Result<(), String> {
        let (len, max) = (source.len(), self.limits.pattern_len_max);
        if len > max {
            return Err(format!(
                "a regular expression has at most {max} bytes, not {len}"
            ));
        }
        match Pattern::check(source) {
            Ok(steps) => self.pattern_steps += steps,
            Err(fault) => {
                // Finding out that it is too large took as long as it may; once is enough.
                if fault == PatternFault::TooLarge {
                    self.pattern_steps = usize::MAX;
                }
                return Err(fault.to_string());
            }
        }
        if self.pattern_steps > self.limits.pattern_steps_max {
            let message = "the regular expressions of this policy take too long to build together; \
                           use fewer or simpler ones";
            return Err(message.to_owned());
        }
        Ok(())
    }

    fn times(&mut self, values: &[Value], at: &At<'_>) -> Vec<Instant> {
        let mut times = Vec::with_capacity(values.len());
        for (n, value) in values.iter().enumerate() {
            let time = match value {
                Value::String(text) => Instant::parse(text),
                value => value.as_f64().and_then(Instant::from_millis),
            };
            if time.is_none() {
                let message = format!(
                    "{value} is not a time such as \"2026-11-22T16:00:00Z\" (RFC 3339), nor a \
                     number of milliseconds since 1970 of at most 2^53"
                );
                self.faults.push(&at.index(n), message);
            }
            times.extend(time);
        }
        rising(times)
    }

    fn networks(&mut self, values: &[Value], at: &At<'_>) -> Vec<Network> {
        let mut networks = Vec::with_capacity(values.len());
        for (n, value) in values.iter().enumerate() {
            let network = value.as_str().and_then(Network::parse);
            if network.is_none() {
                let message = format!(
                    "{value} is not a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", nor \
                     an address"
                );
                self.faults.push(&at.index(n), message);
            }
            networks.extend(network);
        }
        rising(networks)
    }

    fn semvers(&mut self, values: &[Value], at: &At<'_>) -> Vec<SemVer> {
        let mut versions = Vec::with_capacity(values.len());
        for (n, value) in values.iter().enumerate() {
            match value.as_str().map(SemVer::parse) {
                Some(Some(version)) => versions.push(version),
                Some(None) => {
                    let message =
                        format!("{value} is not a semantic version such as \"2.3.0\" or \"2.3\"");
                    self.faults.push(&at.index(n), message);
                }
                None => {
                    let found = json_kind(value);
                    let message = format!(
                        "must be a semantic version as a string such as \"2.3.0\", not {found}"
                    );
                    self.faults.push(&at.index(n), message);
                }
            }
        }
        rising(versions)
    }
}

fn rising<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list.dedup();
    list
}
