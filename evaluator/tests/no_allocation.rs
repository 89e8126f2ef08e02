//! `evaluate` allocates nothing, whatever decides. Its own file, because `allocation-counter` brings an allocator for
//! the whole process; it counts by thread.

mod common;

use std::collections::BTreeSet;

use common::{World, serving, switch};
use pennon_evaluator::{Reason, Subject};
use serde_json::{Value, json};

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

/// One rule for each operator, none of which holds, then a rollout.
fn every_operator() -> Value {
    let clause = |attribute: &str, op: &str, value: Value| {
        let when = json!([{"attribute": attribute, "op": op, "values": [value]}]);
        json!({"when": when, "serve": {"variant": "on"}})
    };
    let mut rules: Vec<Value> = ["in", "contains", "starts_with", "ends_with"]
        .into_iter()
        .map(|op| clause("text", op, json!("nothing like it")))
        .collect();
    rules.extend(["lt", "lte"].map(|op| clause("number", op, json!(-1))));
    rules.extend(["gt", "gte"].map(|op| clause("number", op, json!(1e9))));
    rules.extend(["semver_lt", "semver_lte"].map(|op| clause("version", op, json!("0.1"))));
    let late = json!("9.0.0-a-rather-long-pre-release.1");
    rules.extend(
        ["semver_eq", "semver_gt", "semver_gte"].map(|op| clause("version", op, late.clone())),
    );
    rules.push(
        json!({"when": [{"op": "in_segment", "values": ["nested"]}], "serve": {"variant": "on"}}),
    );
    rules
        .push(json!({"when": [{"attribute": "none", "op": "exists"}], "serve": {"variant": "on"}}));
    let weights = json!([{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}]);
    json!({"enabled": true, "rules": rules,
           "default": {"rollout": {"bucket_by": "number", "weights": weights}}})
}

/// Diamonds of segments: two a layer, each using both of the layer below.
fn diamonds(mut world: World) -> World {
    world = world.with_segment("l0-a", 1, json!({"included": ["nobody"]}));
    world = world.with_segment("l0-b", 1, json!({"included": ["nobody"]}));
    for layer in 1..=19 {
        let below = [format!("l{}-a", layer - 1), format!("l{}-b", layer - 1)];
        let rules = json!([{"when": [{"op": "in_segment", "values": below}]}]);
        for side in ["a", "b"] {
            world = world.with_segment(
                &format!("l{layer}-{side}"),
                1,
                json!({"rules": rules.clone()}),
            );
        }
    }
    world
}

#[test]
fn evaluating_allocates_nothing() {
    assert!(
        allocations(|| drop(std::hint::black_box(vec![1]))) > 0,
        "the allocator is not counted"
    );
    let rule = |when: Value| {
        json!({"enabled": true, "rules": [{"when": when, "serve": {"variant": "on"}}],
                                    "default": {"variant": "off"}})
    };
    let heavy = rule(json!([{"op": "in_segment", "values": ["l19-a", "l19-b"]}]));
    let targeted = json!({"enabled": true, "targets": [{"variant": "on", "subjects": ["user-42"]}],
                          "default": {"variant": "off"}});
    let failed = json!({"enabled": true, "prerequisites": [{"flag": "static", "variants": ["off"]}],
                        "default": {"variant": "on"}});
    let nested = json!({"rules": [{"when": [{"op": "in_segment", "values": ["inner"]}],
                                   "rollout": {"share": 0, "of": 10}}]});
    let world = diamonds(World::default())
        .with_segment("inner", 1, json!({"included": ["user-42"]}))
        .with_segment("nested", 1, nested)
        .with_flag("static", 1, switch(), serving("on"))
        .with_flag(
            "disabled",
            1,
            switch(),
            json!({"enabled": false, "default": {"variant": "on"}}),
        )
        .with_flag("failed", 1, switch(), failed)
        .with_flag("targeted", 1, switch(), targeted)
        .with_flag(
            "ruled",
            1,
            switch(),
            rule(json!([{"attribute": "list", "op": "in", "values": ["b"]}])),
        )
        .with_flag("operators", 1, switch(), every_operator())
        .with_flag("heavy", 1, switch(), heavy);
    let snapshot = world.load();
    let subject = Subject::new("user-42")
        .with(
            "text",
            "a text that is longer than any inline buffer would be",
        )
        .with("number", 42)
        .with(
            "version",
            "2.0.0-alpha.beta.gamma.delta.123456789+build.metadata",
        )
        .with("list", ["a", "b"]);
    let mut reasons = BTreeSet::new();
    for flag in [
        "unknown",
        "static",
        "disabled",
        "failed",
        "targeted",
        "ruled",
        "operators",
        "heavy",
    ] {
        let mut reason = Reason::FlagNotFound;
        let found = allocations(|| {
            let evaluation = snapshot.evaluate(flag, &subject);
            reason = evaluation.reason;
            std::hint::black_box(evaluation.value.and_then(|value| value.as_bool()));
        });
        assert_eq!(found, 0, "{flag}");
        reasons.insert(reason);
    }
    assert_eq!(reasons.len(), 8, "every reason was seen: {reasons:?}");
}
