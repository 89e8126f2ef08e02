//! JSON to begin with: documents as people write them, and attributes of subjects.
//!
//! What must hold: every field and operator is there, so that changing them a little reaches every
//! complaint; of the lists that say so the last document is to be refused.

use serde_json::{Value, json};

/// A FlagConfig that policies are compiled with.
pub(crate) fn config_text() -> &'static str {
    r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#
}

/// One clause for every operator, and some more patterns.
pub(super) fn clauses() -> Vec<Value> {
    let clause = |op: &str, values: Value| json!({"attribute": "a", "op": op, "values": values});
    let mut clauses = vec![
        clause("in", json!(["DE", "FR", 1, 2.5, true])),
        json!({"attribute": "subject_key", "op": "in", "values": ["user-42"], "negate": true}),
        clause("contains", json!(["@example.", "x"])),
        clause("starts_with", json!(["v1", "v2"])),
        clause("ends_with", json!([".com"])),
        clause("lt", json!([10, -1.5])),
        clause("lte", json!([1e9])),
        clause("gt", json!([0])),
        clause("gte", json!([7, 8])),
        json!({"op": "in_segment", "values": ["s", "t"], "negate": true}),
        json!({"attribute": "b", "op": "exists"}),
        clause("matches", json!(["^a.*z$", "(?i)x{2,3}"])),
        clause("in_cidr", json!(["10.0.0.0/8", "2001:db8::/32", "::1"])),
        clause(
            "before",
            json!(["2026-11-22T10:00:00Z", 1_790_000_000_000_u64]),
        ),
        clause("after", json!(["2020-01-01 00:00:00.5+02:00"])),
    ];
    let patterns = [
        r"(?i)^(a|\xe9)+?[^\d\s]{2,}\p{Greek}$",
        r"(?-u:\b)x(?m:^y$)|z*",
        r"(?s)[a-y&&[^b]]{0,3}.",
    ];
    clauses.extend(patterns.map(|pattern| clause("matches", json!([pattern]))));
    let semver = [
        "semver_eq",
        "semver_lt",
        "semver_lte",
        "semver_gt",
        "semver_gte",
    ];
    clauses.extend(semver.map(|op| clause(op, json!(["2.3.0-rc.1", "10"]))));
    clauses
}

/// Rules, targets, prerequisites, splits and an experiment in one.
pub(super) fn whole_policy() -> Value {
    let split = json!({"rollout": {"bucket_by": "a", "salt": "x", "algorithm": "murmur3-v1",
        "weights": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 99_999}]}});
    let mut experiment = split.clone();
    experiment["rollout"]["experiment"] =
        json!({"key": "e", "layer": {"key": "l", "range": [0, 5_000]}, "holdout": "s"});
    json!({
        "enabled": true,
        "prerequisites": [{"flag": "base", "variants": ["on", "off"]}, {"flag": "g", "variants": ["on"]}],
        "targets": [{"variant": "on", "subjects": ["user-42", "b"]}, {"variant": "off", "subjects": ["c"]}],
        "rules": [{"when": [clauses()[0]], "serve": split}, {"when": [], "serve": experiment}],
        "default": split,
    })
}

/// All but the last compile.
pub(super) fn policies() -> Vec<Value> {
    let (on, off) = (json!({"variant": "on"}), json!({"variant": "off"}));
    let alone = json!({"rollout": {"weights": [{"variant": "on", "weight": 1}],
        "experiment": {"key": "alone"}}});
    let rule = |when: &Value, serve: &Value| json!({"id": "r", "when": [when], "serve": serve});
    let mut policies: Vec<Value> = clauses()
        .iter()
        .map(|clause| json!({"enabled": true, "rules": [rule(clause, &on)], "default": off}))
        .collect();
    policies.push(whole_policy());
    policies.push(json!({"enabled": false, "rules": [rule(&clauses()[9], &on)], "default": on}));
    policies.push(json!({"enabled": true, "rules": [rule(&clauses()[10], &alone)], "default": on}));
    policies.push(json!({"enabled": true, "default": {"variant": "neither"}}));
    policies
}

pub(super) fn whole_segment() -> Value {
    json!({
        "included": ["a", "user-42"], "excluded": ["b", "c"],
        "rules": [{"when": [], "rollout": {"bucket_by": "b", "salt": "y", "share": 1, "of": 2}},
                  {"when": [clauses()[0], clauses()[9]], "rollout": {"share": 0, "of": 1}}],
    })
}

/// All but the last compile.
pub(super) fn segments() -> Vec<Value> {
    let mut segments: Vec<Value> = clauses()
        .iter()
        .map(|clause| json!({"rules": [{"when": [clause]}]}))
        .collect();
    segments.push(whole_segment());
    segments.push(json!({"included": [""]}));
    segments
}

pub(super) fn configs() -> Vec<Value> {
    vec![
        json!({"type": "string", "variants": {"a": "x", "b": "\u{e9}\"\n"}, "off_variant": "a", "track": true}),
        json!({"key": "f", "type": "number", "variants": {"a": 1.5e300, "b": -0.0, "c": 7}, "off_variant": "b",
               "salt": "s", "on_stale": "default", "archived": false}),
        json!({"type": "object", "variants": {"a": {}, "b": {"x": [1, null, {"y": "z"}]}}, "off_variant": "b",
               "description": "d", "tags": ["t", "u"], "on_stale": "serve", "archived": true}),
    ]
}

fn text(values: Vec<Value>) -> Vec<Vec<u8>> {
    let values = values.into_iter();
    values.map(|value| value.to_string().into_bytes()).collect()
}

pub(crate) fn flag_texts() -> Vec<Vec<u8>> {
    let mut inputs = text(configs());
    inputs.push(config_text().into());
    inputs
}

pub(crate) fn policy_texts() -> Vec<Vec<u8>> {
    text(policies())
}

pub(crate) fn segment_texts() -> Vec<Vec<u8>> {
    text(segments())
}

pub(crate) fn environment_texts() -> Vec<Vec<u8>> {
    let whole = json!({"key": "production", "name": "Production", "description": "d",
                       "protected": true, "staleness_bound_ms": 10_000});
    text(vec![
        whole,
        json!({}),
        json!({"staleness_bound_ms": 600_000}),
    ])
}

pub(crate) fn subject_texts() -> Vec<Vec<u8>> {
    text(vec![
        json!({"a": "DE", "b": ["x", 1, true, null], "n": null, "number": -1.5e-7}),
        json!({"a": "2.3.0-rc.1+build", "b": 9_007_199_254_740_993_u64, "ip": "10.1.2.3"}),
        json!({"a": ["2026-11-22T10:00:00Z", "::ffff:10.0.0.1"], "subject_key": "v"}),
        json!([1]),
        json!({}),
    ])
}

pub(crate) fn json_texts() -> Vec<Vec<u8>> {
    let mut inputs = [policy_texts(), flag_texts(), subject_texts()].concat();
    let odd = [
        r#"{"a":{"b":1,"b":2}}"#,
        "[[[[]]]]",
        "-0.0e+1",
        r#""\ud83d\ude00\u0000""#,
        "nul",
    ];
    inputs.extend(odd.map(|text| text.as_bytes().to_vec()));
    inputs.push("[".repeat(200).into());
    inputs
}
