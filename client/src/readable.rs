//! Reading snapshots and deltas in the JSON that nodes show them in.
//!
//! What must hold: what is read is byte for byte what the cluster compiled, or it is refused. The
//! JSON speaks the words of what people write, so each state is compiled again, and the hash beside it
//! tells whether the outcome is the same (I4). A release that compiles differently cannot read the
//! state of another one this way; the stream can.
//!
//! Left out: where the text comes from (`builder.rs`, `transport.rs`), and what is done with it.

use std::collections::BTreeMap;

use pennon_evaluator::{
    ConfigSnapshot, Delta, Digest, EncodedState, EnvironmentKey, EvaluationState, Fault,
    FlagConfig, FlagKey, Limits, References, SegmentKey, SegmentPolicy, StateKey, TargetingPolicy,
    Version, compile_flag, compile_segment,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::Error;

/// What the answer to `…/snapshot?since=V` says.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Nothing changed up to this version.
    Nothing { version: Version },
    /// What changed.
    Changes(Delta),
    /// Everything.
    Full(ConfigSnapshot),
}

/// Reads the answer to `GET …/snapshot`, with or without `?since=`.
pub(crate) fn answer(text: &[u8], environment: &EnvironmentKey) -> Result<Answer, Error> {
    let shown: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| wrong(&format!("no JSON object: {e}")))?;
    let found: EnvironmentKey = field(&shown, "environment")?;
    if found != *environment {
        let why = format!("it is of environment {found}, not of {environment}");
        return Err(wrong(&why));
    }
    match shown.get("intent").map(Value::as_str) {
        None | Some(Some("full")) => full(&shown, environment).map(Answer::Full),
        Some(Some("changes")) => changes(&shown, environment).map(Answer::Changes),
        Some(Some("none")) => Ok(Answer::Nothing {
            version: field(&shown, "version")?,
        }),
        Some(_) => Err(wrong("its intent is none that this release knows")),
    }
}

fn full(shown: &Map<String, Value>, environment: &EnvironmentKey) -> Result<ConfigSnapshot, Error> {
    let version = field(shown, "version")?;
    let states = states(shown, "states", environment)?;
    let bytes = states.iter().map(|state| state.bytes().clone()).collect();
    let digest = field(shown, "digest")?;
    ConfigSnapshot::from_bytes(environment.clone(), version, bytes, digest) // I4
        .map_err(|e| wrong(&e.to_string()))
}

fn changes(shown: &Map<String, Value>, environment: &EnvironmentKey) -> Result<Delta, Error> {
    Ok(Delta {
        environment: environment.clone(),
        from: field(shown, "from")?,
        to: field(shown, "to")?,
        upserts: states(shown, "upserts", environment)?,
        removals: field::<Vec<StateKey>>(shown, "removals")?,
        digest: field(shown, "digest")?,
    })
}

fn states(
    shown: &Map<String, Value>,
    name: &str,
    environment: &EnvironmentKey,
) -> Result<Vec<EncodedState>, Error> {
    let shown: Vec<Map<String, Value>> = field(shown, name)?;
    let read = shown.iter().map(|state| read_state(state, environment));
    read.collect()
}

fn read_state(
    shown: &Map<String, Value>,
    environment: &EnvironmentKey,
) -> Result<EncodedState, Error> {
    let kind: String = field(shown, "kind")?;
    let state = match kind.as_str() {
        "flag" => read_flag(shown)?,
        "segment" => read_segment(shown)?,
        other => return Err(wrong(&format!("there is a state of kind {other:?}"))),
    };
    let state = EncodedState::new(environment, &state);
    let hash: Digest = field(shown, "hash")?;
    if Digest::new(state.hash()) != hash {
        let why = format!(
            "{} does not come out as the cluster compiled it",
            state.state_key()
        );
        return Err(wrong(&why)); // I4
    }
    Ok(state)
}

fn read_flag(shown: &Map<String, Value>) -> Result<EvaluationState, Error> {
    let key: FlagKey = field(shown, "key")?;
    let config = written(
        shown,
        &[
            "type",
            "variants",
            "off_variant",
            "salt",
            "on_stale",
            "track",
            "archived",
        ],
    );
    let mut policy = written(
        shown,
        &["enabled", "prerequisites", "targets", "rules", "default"],
    );
    // The salt of a layer follows from its key, so nobody writes it.
    for rule in policy["rules"].as_array_mut().into_iter().flatten() {
        let layer = rule.pointer_mut("/serve/rollout/experiment/layer");
        if let Some(layer) = layer.and_then(Value::as_object_mut) {
            layer.remove("salt");
        }
    }
    let config = FlagConfig::parse(&key, &config.to_string()).map_err(|f| faults(&key, &f))?;
    let parsed = TargetingPolicy::parse(&policy.to_string()).map_err(|f| faults(&key, &f))?;
    let compiled = compile_flag(
        &config,
        field(shown, "config_at")?,
        &parsed,
        field(shown, "policy_at")?,
        field(shown, "changed_at")?,
        &Named::by(&policy),
        &unlimited(),
    );
    compiled.map_err(|f| faults(&key, &f))
}

fn read_segment(shown: &Map<String, Value>) -> Result<EvaluationState, Error> {
    let key: SegmentKey = field(shown, "key")?;
    let policy = written(shown, &["included", "excluded", "rules"]);
    let parsed = SegmentPolicy::parse(&policy.to_string()).map_err(|f| faults(&key, &f))?;
    let compiled = compile_segment(
        &key,
        &parsed,
        field(shown, "policy_at")?,
        field(shown, "changed_at")?,
        &Named::by(&policy),
        &unlimited(),
    );
    compiled.map_err(|f| faults(&key, &f))
}

/// The fields that people write, out of those that are shown.
fn written(shown: &Map<String, Value>, names: &[&str]) -> Value {
    let fields = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), shown.get(*name)?.clone())));
    Value::Object(fields.collect())
}

/// What a policy names exists: the cluster checked that when it was written.
struct Named {
    variants: BTreeMap<String, Vec<String>>,
}

impl Named {
    fn by(policy: &Value) -> Named {
        let mut variants: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let prerequisites = policy["prerequisites"].as_array();
        for prerequisite in prerequisites.into_iter().flatten() {
            let names = prerequisite["variants"].as_array().into_iter().flatten();
            let names = names.filter_map(|name| Some(name.as_str()?.to_owned()));
            let flag = prerequisite["flag"].as_str().unwrap_or_default();
            variants.entry(flag.to_owned()).or_default().extend(names);
        }
        Named { variants }
    }
}

impl References for Named {
    fn segment_exists(&self, _: &SegmentKey) -> bool {
        true
    }

    fn flag_variants(&self, flag: &FlagKey) -> Option<Vec<String>> {
        self.variants.get(flag.as_str()).cloned()
    }
}

/// Sizes were checked when it was written, by limits of the cluster's own.
fn unlimited() -> Limits {
    Limits {
        variants_max: usize::MAX,
        variant_value_len_max: usize::MAX,
        rules_max: usize::MAX,
        clauses_max: usize::MAX,
        values_max: usize::MAX,
        patterns_max: usize::MAX,
        pattern_len_max: usize::MAX,
        pattern_steps_max: usize::MAX,
        weights_max: usize::MAX,
        subjects_max: usize::MAX,
        ..Limits::default()
    }
}

fn field<T: DeserializeOwned>(shown: &Map<String, Value>, name: &str) -> Result<T, Error> {
    let value = shown.get(name).unwrap_or(&Value::Null);
    T::deserialize(value).map_err(|e| wrong(&format!("its field {name:?}: {e}")))
}

fn faults(key: &impl std::fmt::Display, faults: &[Fault]) -> Error {
    let first = faults.first().map(ToString::to_string);
    wrong(&format!("{key}: {}", first.unwrap_or_default()))
}

fn wrong(why: &str) -> Error {
    Error::protocol(format!("a snapshot as JSON is wrong: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::states::{environment, snapshot, version};

    /// Everything that a state can hold, as people write it.
    fn rich() -> ConfigSnapshot {
        let clause =
            |op: &str, values: Value| json!({"attribute": "a", "op": op, "values": values});
        let rollout = json!({
            "bucket_by": "device", "salt": "pepper",
            "weights": [{"variant": "b", "weight": 3}, {"variant": "a", "weight": 1}],
        });
        let mut experiment = rollout.clone();
        experiment["experiment"] = json!({
            "key": "exp", "layer": {"key": "checkout", "range": [100, 2_000]}, "holdout": "out",
        });
        let mut plain = rollout.clone();
        plain["experiment"] = json!({"key": "other"});
        let mut negated = clause("in", json!(["x", "é\"\n", 1, -0.5, 1e300, true, false]));
        negated["negate"] = json!(true);
        let policy = json!({
            "enabled": true,
            "prerequisites": [{"flag": "base", "variants": ["on", "dim"]}],
            "targets": [{"variant": "b", "subjects": ["u2", "u1"]}, {"variant": "a", "subjects": ["u0"]}],
            "rules": [
                {"id": "first", "when": [negated, {"attribute": "a", "op": "exists"}],
                 "serve": {"variant": "a"}},
                {"when": [
                    clause("contains", json!(["q", "p"])), clause("starts_with", json!(["p"])),
                    clause("ends_with", json!(["p"])), clause("lt", json!([3])),
                    clause("lte", json!([9_007_199_254_740_992_u64])), clause("gt", json!([0.1])),
                    clause("gte", json!([-3, 2.5])),
                    clause("semver_lt", json!(["v1.2"])), clause("semver_eq", json!(["1.2.3-rc.1+b"])),
                    clause("semver_gte", json!(["2"])), clause("semver_lte", json!(["2.0.0"])),
                    clause("semver_gt", json!(["0.1"])),
                    clause("matches", json!(["^a+$", "(?i)x\\d"])),
                    clause("before", json!(["2026-01-02t03:04:05.678901234+02:00", 17])),
                    clause("after", json!([-5, "1969-12-31T23:59:60Z"])),
                    clause("in_cidr", json!(["10.1.2.3/8", "::ffff:1.2.3.4", "fe80::/10"])),
                    {"op": "in_segment", "values": ["z", "s"], "negate": true},
                 ], "serve": {"rollout": rollout}},
                {"when": [], "serve": {"rollout": experiment}},
                {"when": [], "serve": {"rollout": plain}},
            ],
            "default": {"rollout": rollout},
        });
        let config = json!({
            "type": "object", "off_variant": "a", "salt": "s", "on_stale": "default", "track": true,
            "variants": {"b": {"z": [1.0, 1e-7, 12345678901234567890_u64, null], "a": "é\u{1}"}, "a": {}},
        });
        let segment = json!({
            "included": ["u3", "u1"], "excluded": ["u2"],
            "rules": [
                {"when": [{"op": "in_segment", "values": ["deeper"]}]},
                {"when": [clause("in", json!(["x"]))],
                 "rollout": {"bucket_by": "org", "salt": "q", "share": 5, "of": 1_000}},
            ],
        });
        let named = Named::by(&policy);
        let key = FlagKey::try_from("f").unwrap();
        let config = FlagConfig::parse(&key, &config.to_string()).unwrap();
        let parsed = TargetingPolicy::parse(&policy.to_string()).unwrap();
        let v = version;
        let flag = compile_flag(&config, v(3), &parsed, v(7), v(8), &named, &unlimited()).unwrap();
        let key = SegmentKey::try_from("s").unwrap();
        let parsed = SegmentPolicy::parse(&segment.to_string()).unwrap();
        let segment = compile_segment(&key, &parsed, v(5), v(6), &named, &unlimited()).unwrap();
        let states = [flag, segment].map(|state| EncodedState::new(&environment(), &state));
        ConfigSnapshot::new(environment(), v(9), states.to_vec()).unwrap()
    }

    fn read(shown: &Value) -> Result<Answer, Error> {
        answer(shown.to_string().as_bytes(), &environment())
    }

    // I4
    #[test]
    fn everything_that_is_shown_is_read_back_byte_for_byte() {
        for whole in [rich(), snapshot(0, 5), snapshot(1, 4)] {
            let mut shown = whole.to_json().unwrap();
            for intent in [None, Some("full")] {
                shown["intent"] = json!(intent);
                if intent.is_none() {
                    shown.as_object_mut().unwrap().remove("intent");
                }
                let Answer::Full(read) = read(&shown).unwrap() else {
                    panic!("{shown}");
                };
                assert_eq!(read, whole);
            }
        }
        let delta = ConfigSnapshot::diff(&snapshot(0, 5), &rich());
        let mut shown = delta.to_json().unwrap();
        shown["intent"] = json!("changes");
        let Answer::Changes(read_back) = read(&shown).unwrap() else {
            panic!("{shown}");
        };
        assert_eq!(read_back, delta);
        let nothing =
            json!({"intent": "none", "environment": "production", "version": 12, "digest": "0"});
        assert!(
            matches!(read(&nothing).unwrap(), Answer::Nothing { version } if version.get() == 12)
        );
    }

    /// Changes every leaf of a document, one after the other.
    fn each_leaf(value: &Value, at: &str, found: &mut Vec<String>) {
        let inner: Vec<(String, &Value)> = match value {
            Value::Array(items) => (0..).map(|n: usize| n.to_string()).zip(items).collect(),
            Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
            _ => return found.push(at.to_owned()),
        };
        for (name, value) in inner {
            each_leaf(value, &format!("{at}/{name}"), found);
        }
    }

    // I4
    #[test]
    fn whatever_is_changed_in_the_text_never_gives_another_state() {
        let shown = rich().to_json().unwrap();
        let mut leaves = Vec::new();
        each_leaf(&shown, "", &mut leaves);
        assert!(leaves.len() > 80, "{}", leaves.len());
        let mut taken = 0;
        for at in &leaves {
            for other in [json!("other"), json!(1), json!(true), Value::Null] {
                let mut changed = shown.clone();
                if std::mem::replace(changed.pointer_mut(at).unwrap(), other.clone()) == other {
                    continue;
                }
                if let Ok(Answer::Full(read)) = read(&changed) {
                    // A default can be said in two ways; what it says is the same.
                    assert_eq!(read.states(), rich().states(), "{at} as {other}");
                    // The version has no checksum in this form.
                    assert!(read.version().get() == 9 || at == "/version", "{at}");
                    taken += 1;
                }
            }
        }
        assert!(taken < 20, "{taken}");
        assert!(answer(b"[]", &environment()).is_err());
        let elsewhere = EnvironmentKey::try_from("staging").unwrap();
        let refusal = answer(shown.to_string().as_bytes(), &elsewhere).unwrap_err();
        assert!(
            refusal.to_string().contains("of environment production"),
            "{refusal}"
        );
    }
}
