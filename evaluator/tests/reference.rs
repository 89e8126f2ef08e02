//! Compiled evaluation equals a slow, obvious one, written straight from the specification and
//! working on the JSON that people write (I7). Random flags, nested segments, prerequisites and
//! subjects; at the end every operator, outcome and reason must have come up.
//!
//! `PROPTEST_RNG_SEED=<n> cargo test -p pennon-evaluator --test reference` runs other cases; without it
//! the seed is 1.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;
mod slow;

use std::cell::RefCell;
use std::collections::BTreeSet;

use common::{World, object};
use pennon_evaluator::{Op, Subject};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::{Value, json};

const TEXTS: [&str; 14] = [
    "",
    "x",
    "xy",
    "yx",
    "DE",
    "de",
    "1",
    "true",
    "1.2.3",
    "2",
    "v1.10",
    "2.0.0-rc.1",
    "2.0.0+b",
    "u1",
];
const VERSIONS: [&str; 7] = ["1", "1.2.3", "v1.10", "2", "2.0.0-rc.1", "2-rc.2+b", "3.1"];
const NAMES: [&str; 6] = ["a", "b", "n", "v", "list", "subject_key"];
const KEYS: [&str; 6] = ["u1", "u2", "x", "1", "1.2.3", ""];
const SEGMENTS: usize = 4;
const FLAGS: usize = 4;

fn number() -> impl Strategy<Value = Value> {
    let numbers = [
        json!(0),
        json!(-0.0),
        json!(1),
        json!(-1),
        json!(2),
        json!(2.5),
        json!(1e300),
    ];
    select(numbers.to_vec())
}

fn text() -> impl Strategy<Value = Value> {
    select(&TEXTS[..]).prop_map(|text| json!(text))
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![4 => text(), 2 => number(), 1 => any::<bool>().prop_map(|value| json!(value))]
}

fn attribute() -> impl Strategy<Value = Value> {
    let list = prop::collection::vec(prop_oneof![5 => scalar(), 1 => Just(Value::Null)], 0..3);
    prop_oneof![6 => scalar(), 2 => list.prop_map(Value::from), 1 => Just(Value::Null)]
}

fn attributes() -> impl Strategy<Value = Value> {
    let one = (select(&NAMES[..5]), attribute());
    prop::collection::vec(one, 0..6).prop_map(|list| {
        let named = list
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::Object(named.collect())
    })
}

/// A clause that may name the segments below `segments`.
fn clause(segments: usize) -> impl Strategy<Value = Value> {
    let ops = if segments > 0 {
        &Op::ALL[..]
    } else {
        &[Op::In, Op::Exists, Op::Lt, Op::Contains]
    };
    let rest = (select(&NAMES[..]), any::<bool>());
    (select(ops), rest).prop_flat_map(move |(op, (name, negate))| {
        let values = |of: BoxedStrategy<Value>| prop::collection::vec(of, 1..4).boxed();
        let values = match op {
            Op::In => values(scalar().boxed()),
            Op::Contains | Op::StartsWith | Op::EndsWith => values(text().boxed()),
            Op::Lt | Op::Lte | Op::Gt | Op::Gte => values(number().boxed()),
            Op::InSegment => values((0..segments).prop_map(|n| json!(format!("s{n}"))).boxed()),
            Op::Exists => Just(Vec::new()).boxed(),
            _ => values(
                select(&VERSIONS[..])
                    .prop_map(|version| json!(version))
                    .boxed(),
            ),
        };
        values.prop_map(move |values| {
            let mut clause = json!({"op": op.as_str(), "values": values, "negate": negate});
            if op != Op::InSegment {
                clause["attribute"] = json!(name);
            }
            clause
        })
    })
}

fn when(segments: usize) -> impl Strategy<Value = Value> {
    prop::collection::vec(clause(segments), 0..3).prop_map(Value::from)
}

fn salt() -> impl Strategy<Value = Value> {
    select(vec![Value::Null, json!("pepper")])
}

fn serve() -> impl Strategy<Value = Value> {
    let variant = || select(vec!["a", "b", "c"]);
    let weights = prop::collection::vec((variant(), 0_u32..4), 1..4).prop_map(|mut weights| {
        weights[0].1 += 1;
        let weights = weights
            .iter()
            .map(|(v, w)| json!({"variant": v, "weight": w}));
        weights.collect::<Vec<Value>>()
    });
    let rollout = (select(&NAMES[..]), salt(), weights).prop_map(|(by, salt, weights)| {
        json!({"rollout": {"bucket_by": by, "salt": salt, "weights": weights}})
    });
    prop_oneof![2 => variant().prop_map(|v| json!({"variant": v})), 1 => rollout]
}

fn flag(below: usize) -> impl Strategy<Value = (Value, Value)> {
    let values = select(vec![
        ("boolean", json!({"a": true, "b": false, "c": true})),
        ("string", json!({"a": "A", "b": "", "c": "ü"})),
        ("number", json!({"a": 1, "b": -2.5, "c": 0})),
        (
            "object",
            json!({"a": {"y": 1, "x": [null]}, "b": {}, "c": {"z": {}}}),
        ),
    ]);
    let archived = prop::bool::weighted(0.1);
    let config = (values, archived).prop_map(|((kind, variants), archived)| {
        json!({"type": kind, "variants": variants, "off_variant": "c", "archived": archived})
    });
    let wanted = prop::collection::vec(select(vec!["a", "b", "c"]), 1..3);
    let prerequisite = (0..below.max(1), wanted)
        .prop_map(|(n, variants)| json!({"flag": format!("f{n}"), "variants": variants}));
    let prerequisites = prop::collection::vec(prerequisite, 0..=below.min(2));
    let targets = prop::collection::btree_map(select(&KEYS[..5]), select(vec!["a", "b"]), 0..2);
    let rule =
        (when(SEGMENTS), serve()).prop_map(|(when, serve)| json!({"when": when, "serve": serve}));
    let rules = prop::collection::vec(rule, 0..4);
    let enabled = prop::bool::weighted(0.85);
    let policy = (enabled, prerequisites, targets, rules, serve());
    let policy = policy.prop_map(|(enabled, prerequisites, targets, rules, default)| {
        let targets = targets
            .iter()
            .map(|(s, v)| json!({"variant": v, "subjects": [s]}));
        json!({"enabled": enabled, "prerequisites": prerequisites, "rules": rules,
               "targets": targets.collect::<Vec<Value>>(), "default": default})
    });
    (config, policy)
}

fn segment(below: usize) -> impl Strategy<Value = Value> {
    let keys = || prop::collection::vec(select(&KEYS[..5]), 0..2);
    let share = (select(&NAMES[..]), salt(), 0_u32..4).prop_map(|(by, salt, share)| {
        json!({"bucket_by": by, "salt": salt, "share": share, "of": 3.max(share)})
    });
    let rollout = prop_oneof![Just(Value::Null), share];
    let rule = (when(below), rollout)
        .prop_map(|(when, rollout)| json!({"when": when, "rollout": rollout}));
    (keys(), keys(), prop::collection::vec(rule, 0..3)).prop_map(|(included, excluded, rules)| {
        json!({"included": included, "excluded": excluded, "rules": rules})
    })
}

fn world() -> impl Strategy<Value = World> {
    let segments: Vec<_> = (0..SEGMENTS).map(|n| segment(n).boxed()).collect();
    let flags: Vec<_> = (0..FLAGS).map(|n| flag(n).boxed()).collect();
    let versions = prop::collection::vec(1_u64..100, SEGMENTS + FLAGS);
    (segments, flags, versions).prop_map(|(segments, flags, versions)| {
        let mut world = World::default();
        for (n, policy) in segments.into_iter().enumerate() {
            world = world.with_segment(&format!("s{n}"), versions[n], policy);
        }
        for (n, (config, policy)) in flags.into_iter().enumerate() {
            world = world.with_flag(&format!("f{n}"), versions[SEGMENTS + n], config, policy);
        }
        world
    })
}

#[test]
fn compiled_evaluation_equals_the_slow_one() {
    let mut config = Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    let seen = RefCell::new(BTreeSet::new());
    let subjects = prop::collection::vec((select(&KEYS[..]), attributes()), 3);
    let outcome = TestRunner::new(config).run(&(world(), subjects), |(world, subjects)| {
        let snapshot = world.load();
        for (key, attributes) in subjects {
            let attributes = object(attributes);
            let subject = Subject::from_json(key, &attributes).unwrap();
            for flag in world.flags.keys().map(String::as_str).chain(["unknown"]) {
                let slow = slow::Slow {
                    world: &world,
                    key,
                    attributes: &attributes,
                    seen: &seen,
                };
                let mut found = snapshot.evaluate(flag, &subject).to_json(flag);
                // What the specification does not name is checked elsewhere.
                if found["detail"] != json!("BUCKETING_KEY_MISSING") {
                    found.as_object_mut().unwrap().shift_remove("detail");
                }
                prop_assert_eq!(
                    found,
                    slow.evaluate(flag),
                    "{} for {} {:?}",
                    flag,
                    key,
                    attributes
                );
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let missing: Vec<String> = wanted().difference(&seen.borrow()).cloned().collect();
    assert!(missing.is_empty(), "never came up: {missing:?}");
}

/// What must have come up for the test to count.
fn wanted() -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for op in Op::ALL {
        let outcomes: &[&str] = match op {
            Op::InSegment => &["match", "no match"],
            Op::Exists => &["match", "missing"],
            _ => &["match", "no match", "wrong type", "missing"],
        };
        for negate in [false, true] {
            wanted.extend(
                outcomes
                    .iter()
                    .map(|outcome| format!("{op} {outcome} {negate}")),
            );
        }
    }
    // Any type can equal.
    wanted.retain(|one| !one.starts_with("in wrong type"));
    let reasons = [
        "FLAG_NOT_FOUND",
        "DISABLED",
        "PREREQUISITE_FAILED",
        "TARGET_MATCH",
        "RULE_MATCH",
        "SPLIT",
        "DEFAULT",
        "STATIC",
    ];
    wanted.extend(reasons.map(str::to_owned));
    let others = [
        "BUCKETING_KEY_MISSING",
        "bucket by number",
        "segment in segment",
        "segment excluded",
        "segment included",
        "segment share out",
        "prerequisite of prerequisite",
        "list",
    ];
    wanted.extend(others.map(str::to_owned));
    wanted
}
