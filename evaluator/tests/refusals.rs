//! What is refused, with the place and a message that helps (limits included).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, serving, switch, version};
use pennon_evaluator::{
    Environment, EvaluationState, Fault, FlagConfig, FlagKey, Limits, SegmentPolicy,
    TargetingPolicy, compile_flag, compile_segment,
};
use serde_json::{Value, json};

fn key() -> FlagKey {
    "f".parse().unwrap()
}

/// Two other flags' worth of references.
fn world() -> World {
    World::default()
        .with_flag("other", 1, switch(), serving("on"))
        .with_segment("beta", 1, json!({}))
}

fn small() -> Limits {
    Limits {
        variants_max: 2,
        variant_value_len_max: 5,
        rules_max: 2,
        clauses_max: 2,
        values_max: 2,
        weights_max: 2,
        subjects_max: 2,
        patterns_max: 2,
        pattern_len_max: 5,
        ..Limits::default()
    }
}

fn flag(config: &Value, policy: &Value, limits: &Limits) -> Result<(), Vec<Fault>> {
    let config = FlagConfig::parse(&key(), &config.to_string())?;
    let policy = TargetingPolicy::parse(&policy.to_string())?;
    let at = version(1);
    compile_flag(&config, at, &policy, at, at, &world(), limits).map(|_| ())
}

fn segment(policy: &Value, limits: &Limits) -> Result<(), Vec<Fault>> {
    let policy = SegmentPolicy::parse(&policy.to_string())?;
    let key = "s".parse().unwrap();
    compile_segment(&key, &policy, version(1), version(1), &world(), limits).map(|_| ())
}

/// Asserts the faults, as pointer and part of the message, in order.
fn assert_faults(found: Result<(), Vec<Fault>>, wanted: &[(&str, &str)]) {
    let found = found.unwrap_err();
    let fits = found.len() == wanted.len()
        && found
            .iter()
            .zip(wanted)
            .all(|(f, (at, part))| f.pointer == *at && f.message.contains(part));
    assert!(fits, "\nfound {found:#?}\nwanted {wanted:#?}");
}

#[test]
fn a_config_gets_all_its_faults_at_once() {
    let config = json!({
        "key": "g", "type": "bool", "variants": [], "offvariant": "x", "description": 1, "tags": ["a", 2],
        "salt": true, "on_stale": "server", "archived": "no",
    });
    assert_faults(
        FlagConfig::parse(&key(), &config.to_string()).map(|_| ()),
        &[
            ("/offvariant", "did you mean \"off_variant\"?"),
            ("/key", "must be \"f\""),
            (
                "/type",
                "allowed: \"boolean\", \"string\", \"number\", \"object\"",
            ),
            (
                "/variants",
                "must be an object of variants by name, not a list",
            ),
            ("/off_variant", "required"),
            ("/description", "must be a string, not a number"),
            ("/tags/1", "must be a string"),
            ("/salt", "must be a string"),
            ("/on_stale", "did you mean \"serve\"?"),
            ("/archived", "must be true or false, not a string"),
        ],
    );
    for (text, message) in [
        ("[1]", "must be an object, not a list"),
        ("{", "not JSON"),
        ("{} {}", "not JSON"),
    ] {
        assert_faults(
            FlagConfig::parse(&key(), text).map(|_| ()),
            &[("", message)],
        );
    }
    let twice = r#"{"type":"boolean","type":"string"}"#;
    assert_faults(
        FlagConfig::parse(&key(), twice).map(|_| ()),
        &[("", "given twice")],
    );
}

#[test]
fn a_config_must_be_sound_in_itself() {
    let long = "n".repeat(257);
    let config = json!({
        "type": "number", "variants": {"a": 1, "b": "1", "": 2, long.clone(): 3, "c/~d": null, "e\n": 4},
        "off_variant": "x", "salt": "",
    });
    assert_faults(
        FlagConfig::parse(&key(), &config.to_string()).map(|_| ()),
        &[
            ("/variants/", "must not be empty"),
            (
                "/variants/b",
                "must be a value of the flag's type number, not a string",
            ),
            ("/variants/c~1~0d", "not null"),
            ("/variants/e\n", "control characters"),
            (&format!("/variants/{long}"), "at most 256 bytes"),
            ("/off_variant", "no variant \"x\""),
            ("/salt", "must not be empty"),
        ],
    );
    let empty = json!({"type": "boolean", "variants": {}, "off_variant": "a"});
    assert_faults(
        FlagConfig::parse(&key(), &empty.to_string()).map(|_| ()),
        &[("/variants", "at least one variant")],
    );
}

#[test]
fn an_environment_is_bounded() {
    let parse =
        |value: Value| Environment::parse(&"e".parse().unwrap(), &value.to_string()).map(|_| ());
    for bound in [1_000, 600_000] {
        assert_eq!(
            parse(json!({"key": "e", "staleness_bound_ms": bound, "name": "E", "protected": true})),
            Ok(())
        );
    }
    for bound in [
        json!(999),
        json!(600_001),
        json!(-1),
        json!(1_000.5),
        json!("1000"),
    ] {
        let wanted = [("/staleness_bound_ms", "a whole number from 1000 to 600000")];
        assert_faults(parse(json!({"staleness_bound_ms": bound})), &wanted);
    }
    assert_faults(
        parse(json!({"key": "x", "protcted": 1, "name": 1})),
        &[
            ("/protcted", "did you mean"),
            ("/key", "must be \"e\""),
            ("/name", "must be a string"),
        ],
    );
}

#[test]
fn a_policy_gets_all_its_faults_of_shape_at_once() {
    let policy = json!({
        "enabeld": true,
        "prerequisites": [{"flag": "a b", "variants": ["on"]}, {"flag": "x"}],
        "targets": [{"variant": "on", "subjects": "bob"}],
        "rules": [
            {"id": 1, "when": [{"attribute": "a", "op": "match", "values": ["x"]},
                               {"attribute": "a", "op": "start_with", "values": [null, ["x"]]}],
             "serve": {"variant": "on", "rollout": {"weights": []}}},
            {"when": [], "serve": {}},
            {"serve": {"rollout": {"algorithm": "murmur3-v2", "weights": [{"variant": "on", "weight": 1.5}]}}},
            {"when": [], "serve": {"rollout": {"weights": [{"variant": "on", "weight": 1}],
                                               "experiment": {"kye": "x", "holdout": 1}}}},
            {"when": [], "serve": {"rollout": {"weights": [{"variant": "on", "weight": 1}], "experiment": {
                "key": "x y", "layer": {"key": "", "range": [5000, 5000]}}}}},
            {"when": [], "serve": {"rollout": {"weights": [{"variant": "on", "weight": 1}], "experiment": {
                "key": "x", "layer": {"key": "l", "range": [0, 10_001]}}}}},
            {"when": [], "serve": {"rollout": {"weights": [{"variant": "on", "weight": 1}], "experiment": {
                "key": "x", "layer": {"key": "l"}}}}},
        ],
        "default": {"variants": "on"},
    });
    let experiment = |n: usize, rest: &str| format!("/rules/{n}/serve/rollout/experiment{rest}");
    let range = "such as [0, 5000], within 0 and 10000";
    assert_faults(
        TargetingPolicy::parse(&policy.to_string()).map(|_| ()),
        &[
            ("/enabeld", "did you mean \"enabled\"?"),
            ("/enabled", "required"),
            ("/prerequisites/0/flag", "' ' at byte 1"),
            ("/prerequisites/1/variants", "required"),
            ("/targets/0/subjects", "must be a list, not a string"),
            ("/rules/0/id", "must be a string"),
            ("/rules/0/when/0/op", "did you mean \"matches\"?"),
            (
                "/rules/0/when/1/values/0",
                "must be a string, number or boolean, not null",
            ),
            (
                "/rules/0/when/1/values/1",
                "must be a string, number or boolean, not a list",
            ),
            ("/rules/0/when/1/op", "did you mean \"starts_with\"?"),
            ("/rules/0/serve", "not both"),
            ("/rules/1/serve", "either \"variant\" or \"rollout\""),
            ("/rules/2/when", "required"),
            (
                "/rules/2/serve/rollout/weights/0/weight",
                "a whole number from 0 to 2147483647, not 1.5",
            ),
            (
                "/rules/2/serve/rollout/algorithm",
                "allowed: \"murmur3-v1\"",
            ),
            (&experiment(3, "/kye"), "did you mean \"key\"?"),
            (&experiment(3, "/holdout"), "must be a string, not a number"),
            (&experiment(4, "/layer/key"), "must not be empty"),
            (&experiment(4, "/layer/range"), range),
            (
                &experiment(5, "/layer/range/1"),
                "from 0 to 10000, not 10001",
            ),
            (&experiment(5, "/layer/range"), range),
            (&experiment(6, "/layer/range"), "required"),
            (&experiment(6, "/layer/range"), range),
            ("/default/variants", "did you mean \"variant\"?"),
            ("/default", "either \"variant\" or \"rollout\""),
        ],
    );
}

#[test]
fn a_policy_must_fit_its_flag_and_what_it_refers_to() {
    let weights =
        |a: u64, b: u64| json!([{"variant": "on", "weight": a}, {"variant": "off", "weight": b}]);
    let policy = json!({
        "enabled": true,
        "prerequisites": [{"flag": "f", "variants": ["on"]}, {"flag": "nobody", "variants": ["on"]},
                          {"flag": "other", "variants": ["onn"]}, {"flag": "other", "variants": []}],
        "targets": [{"variant": "on", "subjects": ["ann", "bob", "ann"]},
                    {"variant": "of", "subjects": ["bob", ""]}],
        "rules": [
            {"id": "rule-2", "when": [], "serve": {"variant": "none"}},
            {"when": [], "serve": {"rollout": {"salt": "", "bucket_by": "", "weights": weights(0, 0)}}},
            {"id": "x", "when": [], "serve": {"rollout": {"weights": weights((1 << 31) - 1, 1)}}},
            {"id": "x", "when": [], "serve": {"rollout": {"weights": []}}},
            {"id": "", "when": [
                {"op": "in_segment", "attribute": "a", "values": ["beta", "gamma", "a b", 1]},
                {"op": "in_segment"},
                {"attribute": "a", "op": "exists", "values": [1]},
                {"op": "in", "values": [1]},
                {"attribute": "", "op": "in", "values": []},
                {"attribute": "a", "op": "contains", "values": ["x", 1, true]},
                {"attribute": "a", "op": "lt", "values": [1, "1"]},
                {"attribute": "a", "op": "semver_gte", "values": [2, "2.x", "2"]},
                {"attribute": "a", "op": "in", "values": [9_007_199_254_740_993_u64, -9_007_199_254_740_993_i64]},
                {"attribute": "a", "op": "matches", "values": ["ok", "a(b", r"\bx", r"(?:\w{1,100}){1,100}", 1]},
                {"attribute": "a", "op": "before", "values": ["2026-11-22T16:00:00Z", "2026-11-22", 1e300, true]},
                {"attribute": "a", "op": "in_cidr", "values": ["::1", "10.0.0.0/33", "10.0.0", 10]},
            ], "serve": {"variant": "on"}},
        ],
        "default": {"rollout": {"weights": weights(1, 1), "experiment": {"key": "x", "holdout": "gamma"}}},
    });
    let clauses = |n: usize, rest: &str| format!("/rules/4/when/{n}/{rest}");
    let sum = "a sum from 1 to 2147483647";
    assert_faults(
        flag(&switch(), &policy, &Limits::default()),
        &[
            ("/prerequisites/0/flag", "its own prerequisite"),
            ("/prerequisites/1/flag", "there is no flag \"nobody\""),
            ("/prerequisites/2/variants/0", "did you mean \"on\"?"),
            ("/prerequisites/3/variants", "at least one"),
            ("/targets/1/variant", "did you mean \"off\"?"),
            (
                "/targets/1/subjects/0",
                "\"bob\" is in the target /targets/0 already",
            ),
            ("/targets/1/subjects/1", "must not be empty"),
            ("/rules/0/serve/variant", "no variant \"none\""),
            ("/rules/1/id", "\"rule-2\" is that of /rules/0 already"),
            ("/rules/1/serve/rollout/weights", sum),
            ("/rules/1/serve/rollout/bucket_by", "must not be empty"),
            ("/rules/1/serve/rollout/salt", "must not be empty"),
            ("/rules/2/serve/rollout/weights", sum),
            ("/rules/3/id", "is that of /rules/2 already"),
            ("/rules/3/serve/rollout/weights", sum),
            ("/rules/4/id", "must not be empty"),
            (&clauses(0, "attribute"), "takes no attribute"),
            (&clauses(0, "values/1"), "there is no segment \"gamma\""),
            (&clauses(0, "values/2"), "' ' at byte 1"),
            (
                &clauses(0, "values/3"),
                "must be the key of a segment, not a number",
            ),
            (&clauses(1, "values"), "needs at least one value"),
            (&clauses(2, "values"), "takes no values"),
            (&clauses(3, "attribute"), "needs an attribute"),
            (&clauses(4, "values"), "needs at least one value"),
            (&clauses(4, "attribute"), "must not be empty"),
            (&clauses(5, "values/1"), "must be a string"),
            (&clauses(5, "values/2"), "must be a string"),
            (&clauses(6, "values/1"), "must be a number, not a string"),
            (&clauses(7, "values/0"), "as a string such as \"2.3.0\""),
            (&clauses(7, "values/1"), "is not a semantic version"),
            (&clauses(8, "values/0"), "cannot be compared exactly"),
            (&clauses(8, "values/1"), "cannot be compared exactly"),
            (&clauses(9, "values/4"), "must be a string, not a number"),
            (&clauses(9, "values/1"), "cannot be read at character 2"),
            (&clauses(9, "values/2"), r"write `(?-u:\b)`"),
            (&clauses(9, "values/3"), "too large an automaton"),
            (&clauses(10, "values/1"), "is not a time such as"),
            (&clauses(10, "values/2"), "is not a time such as"),
            (&clauses(10, "values/3"), "is not a time such as"),
            (&clauses(11, "values/1"), "is not a network such as"),
            (&clauses(11, "values/2"), "is not a network such as"),
            (&clauses(11, "values/3"), "is not a network such as"),
            (
                "/default/rollout/experiment/holdout",
                "there is no segment \"gamma\"",
            ),
            ("/default/rollout/experiment", "belongs to a rule"),
        ],
    );
}

/// A rule with an experiment that buckets by `by`, in slots `range` of the layer `layer`.
fn experiment(key: &str, by: &str, layer: &str, range: [u32; 2]) -> Value {
    let weights = json!([{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}]);
    let layer = json!({"key": layer, "range": range});
    json!({"when": [], "serve": {"rollout": {
        "bucket_by": by, "weights": weights, "experiment": {"key": key, "layer": layer}}}})
}

#[test]
fn experiments_of_one_flag_do_not_get_in_each_others_way() {
    let rules =
        |rules: &[Value]| json!({"enabled": true, "rules": rules, "default": {"variant": "off"}});
    let found = |list: &[Value]| flag(&switch(), &rules(list), &Limits::default());
    let a = experiment("a", "org", "l", [0, 5_000]);
    for fine in [
        experiment("b", "org", "l", [5_000, 10_000]),
        experiment("b", "subject_key", "m", [0, 10_000]),
        a.clone(),
    ] {
        assert_eq!(found(&[a.clone(), fine]), Ok(()));
    }
    let at = |rest: &str| format!("/rules/1/serve/rollout/{rest}");
    let refused = |rule: Value, rest: &str, message: &str| {
        assert_faults(found(&[a.clone(), rule]), &[(&at(rest), message)]);
    };
    let range = "experiment/layer/range";
    let overlap = "overlaps the slots [0, 5000] that the experiment \"a\" has in /rules/0";
    refused(experiment("b", "org", "l", [4_999, 5_001]), range, overlap);
    refused(experiment("b", "org", "l", [0, 1]), range, overlap);
    refused(experiment("b", "org", "l", [0, 10_000]), range, overlap);
    let other = "\"a\" buckets by \"org\" in /rules/0";
    refused(
        experiment("b", "team", "l", [5_000, 6_000]),
        "bucket_by",
        other,
    );
    let same = "the experiment \"a\" has slots [0, 5000] of the layer \"l\" in /rules/0";
    refused(
        experiment("a", "org", "l", [0, 4_999]),
        "experiment/layer",
        same,
    );
    refused(
        experiment("a", "org", "m", [0, 5_000]),
        "experiment/layer",
        same,
    );
    let attribute = "the experiment \"a\" buckets by \"org\"";
    refused(
        experiment("a", "team", "l", [0, 5_000]),
        "bucket_by",
        attribute,
    );
}

#[test]
fn a_segment_must_be_sound() {
    let policy = json!({
        "included": ["a", ""], "excluded": [1], "rule": [],
        "rules": [{"when": [], "rollout": {"share": 1, "of": 0}}, {"when": [], "rollout": {"share": -1}},
                  {"when": [], "id": "x"}],
    });
    assert_faults(
        segment(&policy, &Limits::default()),
        &[
            ("/rule", "did you mean \"rules\"?"),
            ("/excluded/0", "must be a string"),
            ("/rules/0/rollout/of", "from 1 to 2147483647, not 0"),
            ("/rules/1/rollout/share", "from 0 to 2147483647, not -1"),
            ("/rules/1/rollout/of", "required"),
            ("/rules/2/id", "no field"),
        ],
    );
    let policy = json!({"included": ["a", ""], "rules": [{"when": [], "rollout": {"share": 6, "of": 5, "salt": ""}}]});
    assert_faults(
        segment(&policy, &Limits::default()),
        &[
            ("/included/1", "must not be empty"),
            ("/rules/0/rollout/salt", "must not be empty"),
            ("/rules/0/rollout/share", "at most \"of\", which is 5"),
        ],
    );
}

#[test]
fn every_limit_is_refused_one_beyond_and_allowed_at_it() {
    let text = |len: usize| json!({"type": "string", "variants": {"on": "x".repeat(len), "off": ""}, "off_variant": "off"});
    let rule = |n: usize| json!({"id": n.to_string(), "when": [], "serve": {"variant": "on"}});
    let rules = |count| json!({"enabled": true, "rules": (0..count).map(rule).collect::<Vec<_>>(), "default": {"variant": "on"}});
    let when = |clauses: usize, values: usize| {
        let clause =
            json!({"attribute": "a", "op": "in", "values": (0..values).collect::<Vec<_>>()});
        json!({"enabled": true, "default": {"variant": "on"},
               "rules": [{"when": vec![clause; clauses], "serve": {"variant": "on"}}]})
    };
    let weights = |count: usize| json!({"enabled": true, "default": {"rollout": {"weights": vec![json!({"variant": "on", "weight": 1}); count]}}});
    let targets = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        json!({"enabled": true, "targets": [{"variant": "on", "subjects": names}], "default": {"variant": "on"}})
    };
    let patterns = |sources: &[&str]| {
        let clause = |source: &&str| json!({"attribute": "a", "op": "matches", "values": [source]});
        let clauses: Vec<Value> = sources.iter().map(clause).collect();
        let rule = |clause: &Value| json!({"when": [clause], "serve": {"variant": "on"}});
        json!({"enabled": true, "rules": clauses.iter().map(rule).collect::<Vec<_>>(), "default": {"variant": "on"}})
    };
    let three = json!({"type": "boolean", "variants": {"on": true, "off": false, "x": true}, "off_variant": "off"});
    let limits = small();
    for (config, policy) in [
        (text(3), rules(2)),
        (switch(), when(2, 2)),
        (switch(), weights(2)),
        (switch(), targets(2)),
        (switch(), patterns(&["abcde", "y"])),
    ] {
        assert_eq!(flag(&config, &policy, &limits), Ok(()));
    }
    let message = "at most 2";
    assert_faults(
        flag(&three, &serving("on"), &limits),
        &[("/variants", message)],
    );
    assert_faults(
        flag(&text(4), &serving("on"), &limits),
        &[("/variants/on", "at most 5 bytes, not 6")],
    );
    assert_faults(flag(&switch(), &rules(3), &limits), &[("/rules", message)]);
    assert_faults(
        flag(&switch(), &when(3, 1), &limits),
        &[("/rules/0/when", message)],
    );
    assert_faults(
        flag(&switch(), &when(1, 3), &limits),
        &[("/rules/0/when/0/values", message)],
    );
    assert_faults(
        flag(&switch(), &weights(3), &limits),
        &[("/default/rollout/weights", message)],
    );
    assert_faults(
        flag(&switch(), &targets(3), &limits),
        &[("/targets", message)],
    );
    assert_faults(
        flag(&switch(), &patterns(&["abcdef", "y"]), &limits),
        &[("/rules/0/when/0/values/0", "at most 5 bytes, not 6")],
    );
    let many = Limits {
        rules_max: 3,
        ..limits
    };
    assert_faults(
        flag(&switch(), &patterns(&["x", "y", "("]), &many),
        &[("/rules/2/when/0/values", "at most 2 regular expressions")],
    );
    let slow = Limits {
        pattern_steps_max: 1,
        ..Limits::default()
    };
    assert_faults(
        flag(&switch(), &patterns(&["x", "("]), &slow),
        &[("/rules/0/when/0/values/0", "too long to build together")],
    );
    assert_faults(
        flag(
            &switch(),
            &patterns(&[r"(?:\w{1,100}){1,100}", "("]),
            &Limits::default(),
        ),
        &[("/rules/0/when/0/values/0", "too large an automaton")],
    );
    let segment_of = |key: &str, count: usize| segment(&json!({key: vec!["a"; count]}), &limits);
    for key in ["included", "excluded"] {
        assert_eq!(segment_of(key, 2), Ok(()));
        assert_faults(segment_of(key, 3), &[(&format!("/{key}"), message)]);
    }
    let rules = json!({"rules": vec![json!({"when": []}); 3]});
    assert_faults(segment(&rules, &limits), &[("/rules", message)]);
}

#[test]
fn the_documented_limits_are_the_default() {
    let limits = Limits::default();
    let found = (
        limits.rules_max,
        limits.clauses_max,
        limits.values_max,
        limits.variant_value_len_max,
    );
    assert_eq!(found, (1_000, 100, 100_000, 65_536));
    let found = (
        limits.flags_max,
        limits.environments_max,
        limits.attributes_max,
        limits.context_len_max,
    );
    assert_eq!(found, (100_000, 100, 256, 65_536));
    assert_eq!((limits.pattern_len_max, limits.patterns_max), (4_096, 100));
    assert_eq!(pennon_evaluator::DEPTH_MAX, 20);
}

#[test]
fn what_the_greatest_limits_allow_can_be_read_back() {
    let greatest = Limits::GREATEST;
    let compiled = |variants: usize, limits: &Limits| {
        let names = (0..variants).map(|n| (format!("v{n}"), Value::from(n % 2 == 0)));
        let names: serde_json::Map<String, Value> = names.collect();
        let config = json!({"type": "boolean", "off_variant": "v0", "variants": names});
        let config = FlagConfig::parse(&key(), &config.to_string()).unwrap();
        let weights = (0..greatest.weights_max)
            .map(|n| json!({"variant": format!("v{}", n % variants), "weight": 1}));
        let rollout = json!({"rollout": {"weights": weights.collect::<Vec<_>>()}});
        let policy = json!({"enabled": true, "default": rollout}).to_string();
        let (policy, at) = (TargetingPolicy::parse(&policy).unwrap(), version(1));
        compile_flag(&config, at, &policy, at, at, &world(), limits)
    };
    let state = compiled(greatest.variants_max, &greatest).unwrap();
    assert_eq!(EvaluationState::decode(&state.encode()), Ok(state));
    let beyond = Limits {
        variants_max: greatest.variants_max + 1,
        ..greatest
    };
    let state = compiled(beyond.variants_max, &beyond).unwrap();
    assert!(EvaluationState::decode(&state.encode()).is_err());
}
