//! EvaluationState as JSON for people and for other languages.
//!
//! What must hold: everything that decides an evaluation is shown, with names instead of indexes,
//! in the words of the ground state. Field order is fixed.

use serde_json::{Map, Value, json};

use crate::encoding::{DecodeError, EncodedState};
use crate::ids::SegmentKey;
use crate::snapshot::Digest;
use crate::state::{
    ClauseState, Comparison, EvaluationState, FlagState, RolloutState, SegmentState, ServeState,
    TestState,
};

impl EvaluationState {
    /// Shows the state as JSON: `kind`, `key`, the versions it came from, and what it decides.
    pub fn to_json(&self) -> Value {
        match self {
            EvaluationState::Flag(flag) => flag_json(flag),
            EvaluationState::Segment(segment) => segment_json(segment),
        }
    }
}

impl EncodedState {
    /// Shows the state as JSON, with the `hash` that the digest sums up, as 32 hexadecimal digits.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn to_json(&self) -> Result<Value, DecodeError> {
        let mut json = self.decode()?.to_json();
        if let Value::Object(fields) = &mut json {
            fields.insert("hash".to_owned(), json!(Digest::new(self.hash())));
        }
        Ok(json)
    }
}

fn flag_json(flag: &FlagState) -> Value {
    let name = |index: u32| {
        flag.variants
            .get(index as usize)
            .map_or("", |v| v.name.as_str())
    };
    // The values were checked to be JSON when the state was compiled or decoded.
    let value = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let variants: Map<String, Value> = flag
        .variants
        .iter()
        .map(|v| (v.name.clone(), value(&v.value)))
        .collect();
    let prerequisites = flag.prerequisites.iter();
    let prerequisites: Vec<Value> = prerequisites
        .map(|p| json!({ "flag": p.flag, "variants": p.variants }))
        .collect();
    let rules = flag.rules.iter().map(|rule| {
        let when = clauses_json(&rule.when, &flag.segments);
        json!({ "id": rule.id, "when": when, "serve": serve_json(&rule.serve, &name, &flag.segments) })
    });
    json!({
        "kind": "flag",
        "key": flag.key,
        "changed_at": flag.changed_at,
        "config_at": flag.config_at,
        "policy_at": flag.policy_at,
        "type": flag.value_type,
        "variants": variants,
        "off_variant": name(flag.off_variant),
        "salt": flag.salt,
        "on_stale": flag.on_stale,
        "track": flag.track,
        "archived": flag.archived,
        "enabled": flag.enabled,
        "prerequisites": prerequisites,
        "targets": targets_json(flag, &name),
        "rules": rules.collect::<Vec<Value>>(),
        "default": serve_json(&flag.default, &name, &flag.segments),
    })
}

/// Targets by variant, as they are written.
fn targets_json<'a>(flag: &'a FlagState, name: &impl Fn(u32) -> &'a str) -> Vec<Value> {
    let mut targets = Vec::new();
    for index in (0..).take(flag.variants.len()) {
        let of_variant = flag.targets.iter().filter(|target| target.variant == index);
        let subjects: Vec<&str> = of_variant.map(|target| target.subject.as_str()).collect();
        if !subjects.is_empty() {
            targets.push(json!({ "variant": name(index), "subjects": subjects }));
        }
    }
    targets
}

fn serve_json<'a>(
    serve: &ServeState,
    name: &impl Fn(u32) -> &'a str,
    segments: &[SegmentKey],
) -> Value {
    match serve {
        ServeState::Variant(index) => json!({ "variant": name(*index) }),
        ServeState::Rollout(rollout) => json!({ "rollout": rollout_json(rollout, name) }),
        ServeState::Experiment(experiment) => {
            let mut rollout = rollout_json(&experiment.rollout, name);
            let mut shown = json!({ "key": experiment.key });
            if let Some(layer) = &experiment.layer {
                let range = [layer.start, layer.end];
                shown["layer"] = json!({ "key": layer.key, "salt": layer.salt, "range": range });
            }
            if let Some(index) = experiment.holdout {
                shown["holdout"] = json!(segments.get(index as usize));
            }
            rollout["experiment"] = shown;
            json!({ "rollout": rollout })
        }
    }
}

fn rollout_json<'a>(rollout: &RolloutState, name: &impl Fn(u32) -> &'a str) -> Value {
    let weights = rollout.weights.iter();
    let weights: Vec<Value> = weights
        .map(|share| json!({ "variant": name(share.variant), "weight": share.weight }))
        .collect();
    json!({
        "bucket_by": rollout.bucket_by,
        "algorithm": rollout.algorithm,
        "salt": rollout.salt,
        "weights": weights,
    })
}

fn segment_json(segment: &SegmentState) -> Value {
    let rules = segment.rules.iter().map(|rule| {
        let when = clauses_json(&rule.when, &segment.segments);
        match &rule.rollout {
            None => json!({ "when": when }),
            Some(share) => json!({ "when": when, "rollout": {
                "bucket_by": share.bucket_by,
                "algorithm": share.algorithm,
                "salt": share.salt,
                "share": share.share,
                "of": share.of,
            }}),
        }
    });
    json!({
        "kind": "segment",
        "key": segment.key,
        "changed_at": segment.changed_at,
        "policy_at": segment.policy_at,
        "included": segment.included,
        "excluded": segment.excluded,
        "rules": rules.collect::<Vec<Value>>(),
    })
}

fn clauses_json(clauses: &[ClauseState], segments: &[SegmentKey]) -> Vec<Value> {
    clauses
        .iter()
        .map(|clause| clause_json(clause, segments))
        .collect()
}

pub(crate) fn clause_json(clause: &ClauseState, segments: &[SegmentKey]) -> Value {
    let (mut json, negate) = match clause {
        ClauseState::Attribute { name, test, negate } => {
            let (op, values) = test_json(test);
            (
                json!({ "attribute": name, "op": op, "values": values }),
                negate,
            )
        }
        ClauseState::Segments { any_of, negate } => {
            let keys = any_of
                .iter()
                .filter_map(|index| segments.get(*index as usize));
            (
                json!({ "op": "in_segment", "values": keys.collect::<Vec<_>>() }),
                negate,
            )
        }
        ClauseState::Exists { name, negate } => {
            (json!({ "attribute": name, "op": "exists" }), negate)
        }
    };
    if let (true, Value::Object(fields)) = (negate, &mut json) {
        fields.insert("negate".to_owned(), Value::Bool(true));
    }
    json
}

fn test_json(test: &TestState) -> (&'static str, Vec<Value>) {
    let texts = |list: &[String]| list.iter().map(|text| json!(text)).collect();
    match test {
        TestState::In {
            strings,
            numbers,
            booleans,
        } => {
            let mut values: Vec<Value> = texts(strings);
            values.extend(numbers.iter().map(|number| json!(number.get())));
            let given = [false, true]
                .into_iter()
                .zip(booleans)
                .filter(|(_, given)| **given);
            values.extend(given.map(|(value, _)| json!(value)));
            ("in", values)
        }
        TestState::Contains(list) => ("contains", texts(list)),
        TestState::StartsWith(list) => ("starts_with", texts(list)),
        TestState::EndsWith(list) => ("ends_with", texts(list)),
        TestState::Number(comparison, list) => {
            let op = match comparison {
                Comparison::Lt => "lt",
                Comparison::Lte => "lte",
                Comparison::Gt => "gt",
                Comparison::Gte => "gte",
                Comparison::Eq => "eq",
            };
            (op, list.iter().map(|number| json!(number.get())).collect())
        }
        TestState::Matches(list) => ("matches", texts(list)),
        TestState::Time(comparison, list) => {
            let op = match comparison {
                Comparison::Lt => "before",
                _ => "after",
            };
            (
                op,
                list.iter().map(|time| json!(time.to_string())).collect(),
            )
        }
        TestState::Networks(list) => {
            let networks = list.iter().map(|network| json!(network.to_string()));
            ("in_cidr", networks.collect())
        }
        TestState::SemVer(comparison, list) => {
            let op = match comparison {
                Comparison::Lt => "semver_lt",
                Comparison::Lte => "semver_lte",
                Comparison::Gt => "semver_gt",
                Comparison::Gte => "semver_gte",
                Comparison::Eq => "semver_eq",
            };
            (
                op,
                list.iter()
                    .map(|version| json!(version.to_string()))
                    .collect(),
            )
        }
    }
}
