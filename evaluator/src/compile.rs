//! Ground state to EvaluationState.
//!
//! What must hold: a pure function of its arguments, byte for byte (I4): no clock, no chance, no
//! hash-map order. It gives a state or every fault it can find, each with a pointer into the
//! document it was found in: the policy, or for a fault of the FlagConfig alone the FlagConfig.
//! What it gives passes the checks of `encoding.rs`.
//!
//! Left out: cycles and depth (`graph.rs`), because they concern more than one state.

mod clauses;

use std::collections::{BTreeMap, BTreeSet};

use bincode::Options;

use crate::config::{FlagConfig, check_name};
use crate::encoding::{STATE_LEN_MAX, positional};
use crate::experiments;
use crate::fault::{self, At, Fault, Faults, check_count};
use crate::ids::{FlagKey, SegmentKey, Version};
use crate::limits::Limits;
use crate::policy::{
    Clause, Experiment, Op, Prerequisite, Rollout, Rule, SegmentPolicy, Serve, Target,
    TargetingPolicy, WEIGHT_SUM_MAX,
};
use crate::state::{
    EvaluationState, ExperimentState, FlagState, LayerState, PrerequisiteState, RolloutState,
    RuleState, SegmentState, ServeState, TargetState, VariantState, WeightState,
};
use clauses::Compiler;

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
    let segments = segment_table(clauses, policy.rules.iter().filter_map(holdout_of));
    let variants = compile_variants(config, limits, &mut faults);
    let mut flag = FlagCompiler {
        config,
        index: config
            .variants
            .keys()
            .map(String::as_str)
            .zip(0..)
            .collect(),
        shared: Compiler::new(faults, &segments, refs, limits),
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
        default: flag.default(&policy.default, &root.key("default")),
        segments: segments.clone(),
    };
    let mut faults = flag.shared.faults;
    for fault in experiments::clashes(&state, None) {
        faults.add(fault);
    }
    finish(EvaluationState::Flag(state), faults)
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
    let clauses = policy.rules.iter().flat_map(|rule| &rule.when);
    let segments = segment_table(clauses, std::iter::empty());
    let mut shared = Compiler::new(Faults::default(), &segments, refs, limits);
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

/// Lists the segments that clauses and holdouts name, sorted. Names that are not keys are left out
/// here and complained about where they are compiled.
fn segment_table<'a>(
    clauses: impl Iterator<Item = &'a Clause>,
    holdouts: impl Iterator<Item = &'a SegmentKey>,
) -> Vec<SegmentKey> {
    let clauses = clauses.filter(|clause| clause.op == Op::InSegment);
    let values = clauses.flat_map(|clause| &clause.values);
    let names = values.filter_map(serde_json::Value::as_str);
    let mut keys: Vec<SegmentKey> = names.filter_map(|name| name.parse().ok()).collect();
    keys.extend(holdouts.cloned());
    keys.sort();
    keys.dedup();
    keys
}

fn holdout_of(rule: &Rule) -> Option<&SegmentKey> {
    match &rule.serve {
        Serve::Rollout(rollout) => rollout.experiment.as_ref()?.holdout.as_ref(),
        Serve::Variant(_) => None,
    }
}

fn compile_variants(
    config: &FlagConfig,
    limits: &Limits,
    faults: &mut Faults,
) -> Vec<VariantState> {
    let variants = config.canonical_variants(limits, faults);
    let variants = variants.into_iter().map(|(name, value)| VariantState {
        name: name.to_owned(),
        value,
    });
    variants.collect()
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
    /// The places of the variants by name.
    index: BTreeMap<&'a str, u32>,
    shared: Compiler<'a>,
}

impl FlagCompiler<'_> {
    fn index_of(&self, variant: &str) -> Option<u32> {
        self.index.get(variant).copied()
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
            let names: BTreeSet<&str> = known.iter().copied().collect();
            let variants = at.key("variants");
            let unknown = one.variants.iter().enumerate();
            for (n, name) in unknown.filter(|(_, name)| !names.contains(name.as_str())) {
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
                let at = at.key("rollout");
                let state = self.rollout(rollout, &at);
                match &rollout.experiment {
                    None => ServeState::Rollout(state),
                    Some(experiment) => ServeState::Experiment(Box::new(self.experiment(
                        experiment,
                        state,
                        &at.key("experiment"),
                    ))),
                }
            }
        }
    }

    fn default(&mut self, serve: &Serve, at: &At<'_>) -> ServeState {
        let state = self.serve(serve, at);
        if let ServeState::Experiment(_) = state {
            let message = "an experiment belongs to a rule, so that who takes no part goes on to \
                           the next one";
            let faults = &mut self.shared.faults;
            faults.push(&at.key("rollout").key("experiment"), message);
        }
        state
    }

    fn experiment(
        &mut self,
        experiment: &Experiment,
        rollout: RolloutState,
        at: &At<'_>,
    ) -> ExperimentState {
        let layer = experiment.layer.as_ref().map(|layer| LayerState {
            key: layer.key.clone(),
            // No key has this character, so no flag's own salt is the same by default.
            salt: format!("layer={}", layer.key),
            start: layer.start,
            end: layer.end,
        });
        let holdout = experiment.holdout.as_ref();
        ExperimentState {
            key: experiment.key.clone(),
            layer,
            holdout: holdout.and_then(|key| self.shared.segment(key, &at.key("holdout"))),
            rollout,
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
