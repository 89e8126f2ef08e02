//! Ground state to EvaluationState.
//!
//! What must hold: a pure function of its arguments, byte for byte (I4): no clock, no chance, no
//! hash-map order. It gives a state or every fault it can find, each with a pointer into the
//! document it was found in: the policy, or for a fault of the FlagConfig alone the FlagConfig.
//! What it gives passes the checks of `encoding.rs`.
//!
//! Left out: cycles and depth (`graph.rs`), because they concern more than one state.

use std::collections::BTreeMap;

use bincode::Options;
use serde_json::Value;

use crate::config::{FlagConfig, check_name};
use crate::encoding::{STATE_LEN_MAX, positional};
use crate::fault::{self, At, Fault, Faults, wrong};
use crate::ids::{FlagKey, SegmentKey, Version};
use crate::json::json_kind;
use crate::limits::Limits;
use crate::policy::{
    Clause, Op, Prerequisite, Rollout, Rule, SegmentPolicy, SegmentRule, Serve, Share, Target,
    TargetingPolicy, WEIGHT_SUM_MAX,
};
use crate::semver::SemVer;
use crate::state::{
    ClauseState, Comparison, EvaluationState, FlagState, Number, PrerequisiteState, RolloutState,
    RuleState, SegmentRuleState, SegmentState, ServeState, ShareState, TargetState, TestState,
    VariantState, WeightState,
};

/// Answers what compiling asks about other objects of the same environment.
pub trait References {
    /// Says whether there is a segment of this key.
    fn segment_exists(&self, segment: &SegmentKey) -> bool;

    /// Returns the names of a flag's variants, or nothing when there is no such FlagConfig.
    fn flag_variants(&self, flag: &FlagKey) -> Option<Vec<String>>;
}

/// Nothing else exists.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReferences;

impl References for NoReferences {
    fn segment_exists(&self, _: &SegmentKey) -> bool {
        false
    }

    fn flag_variants(&self, _: &FlagKey) -> Option<Vec<String>> {
        None
    }
}

/// Compiles a flag. `changed_at` is the version of the write that makes this state.
///
/// # Errors
/// Every fault found.
///
/// ```
/// use pennon_evaluator::{FlagConfig, Limits, NoReferences, TargetingPolicy, Version, compile_flag};
/// let v = |n| Version::new(n).unwrap();
/// let text = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
/// let config = FlagConfig::parse(&"new-ui".parse().unwrap(), text).unwrap();
/// let compile = |policy| {
///     let policy = TargetingPolicy::parse(policy).unwrap();
///     compile_flag(&config, v(1), &policy, v(2), v(2), &NoReferences, &Limits::default())
/// };
/// assert!(compile(r#"{"enabled":true,"default":{"variant":"on"}}"#).is_ok());
///
/// let faults = compile(r#"{"enabled":true,"default":{"variant":"onn"}}"#).unwrap_err();
/// assert_eq!(faults[0].pointer, "/default/variant");
/// ```
pub fn compile_flag(
    config: &FlagConfig,
    config_at: Version,
    policy: &TargetingPolicy,
    policy_at: Version,
    changed_at: Version,
    refs: &dyn References,
    limits: &Limits,
) -> Result<EvaluationState, Vec<Fault>> {
    let mut faults = Faults::default();
    config.check(&mut faults);
    let clauses = policy.rules.iter().flat_map(|rule| &rule.when);
    let segments = segment_table(clauses);
    let variants = compile_variants(config, limits, &mut faults);
    let mut flag = FlagCompiler {
        config,
        shared: Compiler {
            faults,
            segments: &segments,
            refs,
            limits,
        },
    };
    let root = At::ROOT;
    let state = FlagState {
        key: config.key.clone(),
        config_at,
        policy_at,
        changed_at,
        value_type: config.value_type,
        variants,
        // A variant that does not exist is a fault, so this index is not used.
        off_variant: flag.index_of(&config.off_variant).unwrap_or_default(),
        salt: config.salt.clone(),
        on_stale: config.on_stale,
        track: config.track,
        archived: config.archived,
        enabled: policy.enabled,
        prerequisites: flag.prerequisites(&policy.prerequisites, &root.key("prerequisites")),
        targets: flag.targets(&policy.targets, &root.key("targets")),
        rules: flag.rules(&policy.rules, &root.key("rules")),
        default: flag.serve(&policy.default, &root.key("default")),
        segments: segments.clone(),
    };
    finish(EvaluationState::Flag(state), flag.shared.faults)
}

/// Compiles a segment. `changed_at` is the version of the write that makes this state.
///
/// # Errors
/// Every fault found.
///
/// ```
/// use pennon_evaluator::{Limits, NoReferences, SegmentPolicy, Version, compile_segment};
/// let v = Version::new(3).unwrap();
/// let key = "beta".parse().unwrap();
/// let policy = SegmentPolicy::parse(r#"{"included":["alice"]}"#).unwrap();
/// assert!(compile_segment(&key, &policy, v, v, &NoReferences, &Limits::default()).is_ok());
///
/// let policy = SegmentPolicy::parse(r#"{"rules":[{"when":[{"op":"in_segment","values":["x"]}]}]}"#);
/// let faults = compile_segment(&key, &policy.unwrap(), v, v, &NoReferences, &Limits::default());
/// assert_eq!(faults.unwrap_err()[0].pointer, "/rules/0/when/0/values/0");
/// ```
pub fn compile_segment(
    key: &SegmentKey,
    policy: &SegmentPolicy,
    policy_at: Version,
    changed_at: Version,
    refs: &dyn References,
    limits: &Limits,
) -> Result<EvaluationState, Vec<Fault>> {
    let segments = segment_table(policy.rules.iter().flat_map(|rule| &rule.when));
    let mut shared = Compiler {
        faults: Faults::default(),
        segments: &segments,
        refs,
        limits,
    };
    let root = At::ROOT;
    let state = SegmentState {
        key: key.clone(),
        policy_at,
        changed_at,
        included: shared.subjects(&policy.included, &root.key("included")),
        excluded: shared.subjects(&policy.excluded, &root.key("excluded")),
        rules: shared.segment_rules(key, &policy.rules, &root.key("rules")),
        segments: segments.clone(),
    };
    finish(EvaluationState::Segment(state), shared.faults)
}

fn finish(state: EvaluationState, mut faults: Faults) -> Result<EvaluationState, Vec<Fault>> {
    // Without the format byte.
    let len = positional(u64::MAX)
        .serialized_size(&state)
        .unwrap_or(u64::MAX);
    if len >= STATE_LEN_MAX as u64 {
        let message =
            format!("compiled, this has {len} bytes; at most {STATE_LEN_MAX} are allowed");
        faults.push(&At::ROOT, message);
    }
    faults.finish(Some(state))
}

/// Lists the segments that clauses name, sorted. Names that are not keys are left out here and
/// complained about where they are compiled.
fn segment_table<'a>(clauses: impl Iterator<Item = &'a Clause>) -> Vec<SegmentKey> {
    let clauses = clauses.filter(|clause| clause.op == Op::InSegment);
    let names = clauses
        .flat_map(|clause| &clause.values)
        .filter_map(Value::as_str);
    let mut keys: Vec<SegmentKey> = names.filter_map(|name| name.parse().ok()).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn compile_variants(
    config: &FlagConfig,
    limits: &Limits,
    faults: &mut Faults,
) -> Vec<VariantState> {
    let root = At::ROOT;
    let at = root.key("variants");
    check_count(
        config.variants.len(),
        limits.variants_max,
        "variants",
        &at,
        faults,
    );
    let mut variants = Vec::with_capacity(config.variants.len());
    for (name, value) in &config.variants {
        let value = fault::canonical(value);
        if value.len() > limits.variant_value_len_max {
            let (len, max) = (value.len(), limits.variant_value_len_max);
            let message = format!("the value of a variant has at most {max} bytes, not {len}");
            faults.push(&at.key(name), message);
        }
        variants.push(VariantState {
            name: name.clone(),
            value,
        });
    }
    variants
}

fn check_count(found: usize, max: usize, what: &str, at: &At<'_>, faults: &mut Faults) {
    if found > max {
        faults.push(at, format!("at most {max} {what} are allowed, not {found}"));
    }
}

/// Adds weights up; nothing when the sum is not from 1 to 2^31 - 1.
fn total(weights: impl Iterator<Item = u32>) -> Option<u32> {
    let sum = weights.fold(0_u64, |sum, weight| sum.saturating_add(u64::from(weight)));
    u32::try_from(sum)
        .ok()
        .filter(|sum| (1..=WEIGHT_SUM_MAX).contains(sum))
}

/// What compiling a flag needs beyond the parts it shares with a segment.
struct FlagCompiler<'a> {
    config: &'a FlagConfig,
    shared: Compiler<'a>,
}

impl FlagCompiler<'_> {
    fn index_of(&self, variant: &str) -> Option<u32> {
        let found = self.config.variants.keys().position(|name| name == variant);
        found.and_then(|index| u32::try_from(index).ok())
    }

    /// Resolves a variant's name. In case of a fault the index is not used.
    fn variant(&mut self, name: &str, at: &At<'_>) -> u32 {
        self.index_of(name).unwrap_or_else(|| {
            self.shared
                .faults
                .push_with(at, || self.config.no_variant(name));
            0
        })
    }

    fn prerequisites(&mut self, list: &[Prerequisite], at: &At<'_>) -> Vec<PrerequisiteState> {
        let states = list.iter().enumerate();
        states
            .map(|(n, one)| self.prerequisite(one, &at.index(n)))
            .collect()
    }

    fn prerequisite(&mut self, one: &Prerequisite, at: &At<'_>) -> PrerequisiteState {
        let faults = &mut self.shared.faults;
        if one.variants.is_empty() {
            faults.push(&at.key("variants"), "name at least one variant");
        }
        if one.flag == self.config.key {
            faults.push(&at.key("flag"), "a flag cannot be its own prerequisite");
        } else if let Some(known) = self.shared.refs.flag_variants(&one.flag) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let variants = at.key("variants");
            let unknown = one.variants.iter().enumerate();
            for (n, name) in unknown.filter(|(_, name)| !known.contains(&name.as_str())) {
                faults.push_with(&variants.index(n), || {
                    let offer = fault::offer(name, &known);
                    format!(
                        "the flag {:?} has no variant {name:?}; {offer}",
                        one.flag.as_str()
                    )
                });
            }
        } else {
            let message = format!("there is no flag {:?}", one.flag.as_str());
            faults.push(&at.key("flag"), message);
        }
        let mut variants = one.variants.clone();
        variants.sort();
        variants.dedup();
        PrerequisiteState {
            flag: one.flag.clone(),
            variants,
        }
    }

    fn targets(&mut self, targets: &[Target], at: &At<'_>) -> Vec<TargetState> {
        let mut owner: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
        for (n, target) in targets.iter().enumerate() {
            let at = at.index(n);
            let variant = self.variant(&target.variant, &at.key("variant"));
            let at = at.key("subjects");
            for (m, subject) in target.subjects.iter().enumerate() {
                let at = at.index(m);
                if subject.is_empty() {
                    self.shared
                        .faults
                        .push(&at, "a subject key must not be empty");
                }
                let (first, _) = *owner.entry(subject).or_insert((n, variant));
                if first != n {
                    let message = format!("{subject:?} is in the target /targets/{first} already");
                    self.shared.faults.push(&at, message);
                }
            }
        }
        let (found, max) = (owner.len(), self.shared.limits.subjects_max);
        check_count(found, max, "subjects", at, &mut self.shared.faults);
        let states = owner.into_iter();
        states
            .map(|(subject, (_, variant))| TargetState {
                subject: subject.to_owned(),
                variant,
            })
            .collect()
    }

    fn rules(&mut self, rules: &[Rule], at: &At<'_>) -> Vec<RuleState> {
        let (found, max) = (rules.len(), self.shared.limits.rules_max);
        check_count(found, max, "rules", at, &mut self.shared.faults);
        let mut ids = BTreeMap::new();
        let mut states = Vec::with_capacity(rules.len());
        for (n, rule) in rules.iter().enumerate() {
            let at = at.index(n);
            let id = rule.id.clone().unwrap_or_else(|| format!("rule-{}", n + 1));
            check_name(
                &id,
                "the id of a rule",
                &at.key("id"),
                &mut self.shared.faults,
            );
            let first = *ids.entry(id.clone()).or_insert(n);
            if first != n {
                let message = format!("the id {id:?} is that of /rules/{first} already");
                self.shared.faults.push(&at.key("id"), message);
            }
            states.push(RuleState {
                id,
                when: self.shared.clauses(&rule.when, &at.key("when")),
                serve: self.serve(&rule.serve, &at.key("serve")),
            });
        }
        states
    }

    fn serve(&mut self, serve: &Serve, at: &At<'_>) -> ServeState {
        match serve {
            Serve::Variant(name) => ServeState::Variant(self.variant(name, &at.key("variant"))),
            Serve::Rollout(rollout) => {
                ServeState::Rollout(self.rollout(rollout, &at.key("rollout")))
            }
        }
    }

    fn rollout(&mut self, rollout: &Rollout, at: &At<'_>) -> RolloutState {
        let weights_at = at.key("weights");
        let (found, max) = (rollout.weights.len(), self.shared.limits.weights_max);
        check_count(found, max, "weights", &weights_at, &mut self.shared.faults);
        let total = total(rollout.weights.iter().map(|weight| weight.weight));
        if total.is_none() {
            let message = format!("the weights must have a sum from 1 to {WEIGHT_SUM_MAX}");
            self.shared.faults.push(&weights_at, message);
        }
        let mut weights = Vec::with_capacity(rollout.weights.len());
        for (n, weight) in rollout.weights.iter().enumerate() {
            let variant = self.variant(&weight.variant, &weights_at.index(n).key("variant"));
            weights.push(WeightState {
                variant,
                weight: weight.weight,
            });
        }
        let salt = rollout.salt.as_ref().unwrap_or(&self.config.salt);
        self.shared.bucketing(&rollout.bucket_by, salt, at);
        RolloutState {
            algorithm: rollout.algorithm,
            bucket_by: rollout.bucket_by.clone(),
            salt: salt.clone(),
            weights,
            total: total.unwrap_or_default(),
        }
    }
}

/// What flags and segments have in common.
struct Compiler<'a> {
    faults: Faults,
    segments: &'a [SegmentKey],
    refs: &'a dyn References,
    limits: &'a Limits,
}

impl Compiler<'_> {
    fn bucketing(&mut self, bucket_by: &str, salt: &str, at: &At<'_>) {
        check_name(
            bucket_by,
            "the name of an attribute",
            &at.key("bucket_by"),
            &mut self.faults,
        );
        check_name(salt, "a salt", &at.key("salt"), &mut self.faults);
    }

    fn subjects(&mut self, subjects: &[String], at: &At<'_>) -> Vec<String> {
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

    fn segment_rules(
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

    fn clauses(&mut self, clauses: &[Clause], at: &At<'_>) -> Vec<ClauseState> {
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
            if !self.refs.segment_exists(&key) {
                self.faults.push(
                    &at.index(n),
                    format!("there is no segment {:?}", key.as_str()),
                );
            }
            let index = self.segments.binary_search(&key).ok();
            indexes.extend(index.and_then(|index| u32::try_from(index).ok()));
        }
        indexes.sort_unstable();
        indexes.dedup();
        indexes
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
