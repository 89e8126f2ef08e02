//! What experiments of one environment must agree on: pure checks over compiled flags.
//!
//! What must hold: in one layer, two experiments have disjoint ranges and bucket by the same
//! attribute, or "each subject is in at most one" would not be true; and an experiment that is in
//! several rules or flags has one layer, one range and one attribute in all of them, or its figures
//! would be those of several experiments.
//!
//! Left out: finding the flags that name the same layer or experiment (the state machine's index of
//! users does), and who takes part (`decide.rs`).

use crate::fault::{FAULTS_MAX, Fault};
use crate::state::{ExperimentState, FlagState};

/// Finds where experiments of `flag` cannot stand beside each other or, when there is an `other`
/// flag of the same environment, beside those of that one. Pointers are into the policy of `flag`.
/// Stops soon after [`FAULTS_MAX`] faults.
///
/// ```
/// use pennon_evaluator::*;
/// let v = Version::new(1).unwrap();
/// let compile = |key: &str, range: &str| {
///     let config = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
///     let config = FlagConfig::parse(&key.parse().unwrap(), config).unwrap();
///     let policy = r#"{"enabled":true,"default":{"variant":"off"},"rules":[{"when":[],"serve":{"rollout":{
///         "weights":[{"variant":"on","weight":1},{"variant":"off","weight":1}],
///         "experiment":{"key":"KEY","layer":{"key":"checkout","range":RANGE}}}}}]}"#;
///     let policy = policy.replace("KEY", key).replace("RANGE", range);
///     let policy = TargetingPolicy::parse(&policy).unwrap();
///     match compile_flag(&config, v, &policy, v, v, &NoReferences, &Limits::default()).unwrap() {
///         EvaluationState::Flag(flag) => flag,
///         EvaluationState::Segment(_) => unreachable!(),
///     }
/// };
/// let (left, right) = (compile("left", "[0, 5000]"), compile("right", "[5000, 10000]"));
/// assert!(experiment_clashes(&left, Some(&right)).is_empty());
///
/// let faults = experiment_clashes(&compile("late", "[4999, 6000]"), Some(&left));
/// assert_eq!(faults[0].pointer, "/rules/0/serve/rollout/experiment/layer/range");
/// ```
pub fn clashes(flag: &FlagState, other: Option<&FlagState>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (n, ours) in flag.experiments() {
        // Within one flag each pair is looked at once, from its later rule.
        let earlier = |&(m, _): &(usize, &ExperimentState)| other.is_some() || m < n;
        let theirs = other.unwrap_or(flag).experiments().filter(earlier);
        for (m, theirs) in theirs {
            let place = || match other {
                Some(other) => format!("rule {:?} of flag {:?}", id(other, m), other.key.as_str()),
                None => format!("/rules/{m}"),
            };
            if faults.len() > FAULTS_MAX {
                return faults;
            }
            if let Some((field, message)) = clash(ours, theirs, &place) {
                let pointer = format!("/rules/{n}/serve/rollout/{field}");
                faults.push(Fault::new(pointer, message));
            }
        }
    }
    faults
}

fn id(flag: &FlagState, rule: usize) -> &str {
    flag.rules.get(rule).map_or("", |rule| rule.id.as_str())
}

/// Compares two experiments: the field at fault and why.
fn clash(
    ours: &ExperimentState,
    theirs: &ExperimentState,
    place: &dyn Fn() -> String,
) -> Option<(&'static str, String)> {
    let same_attribute = ours.rollout.bucket_by == theirs.rollout.bucket_by;
    let attribute = &theirs.rollout.bucket_by;
    if ours.key == theirs.key {
        let key = ours.key.as_str();
        if ours.layer != theirs.layer {
            let there = match &theirs.layer {
                Some(layer) => format!(
                    "slots [{}, {}] of the layer {:?}",
                    layer.start,
                    layer.end,
                    layer.key.as_str()
                ),
                None => "no layer".to_owned(),
            };
            let message = format!("the experiment {key:?} has {there} in {}", place());
            return Some(("experiment/layer", message));
        }
        let message = || {
            format!(
                "the experiment {key:?} buckets by {attribute:?} in {}",
                place()
            )
        };
        return (!same_attribute).then(|| ("bucket_by", message()));
    }
    let (our_layer, their_layer) = (ours.layer.as_ref()?, theirs.layer.as_ref()?);
    if our_layer.key != their_layer.key {
        return None;
    }
    if our_layer.start < their_layer.end && their_layer.start < our_layer.end {
        let message = format!(
            "overlaps the slots [{}, {}] that the experiment {:?} has in {}",
            their_layer.start,
            their_layer.end,
            theirs.key.as_str(),
            place()
        );
        return Some(("experiment/layer/range", message));
    }
    let message = || {
        format!(
            "experiments of one layer bucket by one attribute, or they would not exclude each \
             other; {:?} buckets by {attribute:?} in {}",
            theirs.key.as_str(),
            place()
        )
    };
    (!same_attribute).then(|| ("bucket_by", message()))
}
