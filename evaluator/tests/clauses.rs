//! The table of every operator against what an attribute can be, negated and not; and what happens
//! to graphs that no Writer would let through.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, environment, object, serving, switch, version};
use pennon_evaluator::{
    ConfigSnapshot, Detail, EncodedState, FlagConfig, Op, References, Snapshot, Subject,
    TargetingPolicy, compile_flag,
};
use serde_json::{Value, json};

/// Whether a rule with this clause decides for a subject with these attributes.
fn holds(clause: &Value, attributes: &Value) -> bool {
    let policy = json!({"enabled": true, "rules": [{"when": [clause], "serve": {"variant": "on"}}],
                        "default": {"variant": "off"}});
    let world = World::default()
        .with_segment("in", 1, json!({"included": ["u"]}))
        .with_segment(
            "out",
            1,
            json!({"excluded": ["u"], "included": ["u"], "rules": [{"when": []}]}),
        )
        .with_flag("f", 1, switch(), policy);
    let snapshot = world.load();
    let subject = Subject::from_json("u", &object(attributes.clone())).unwrap();
    snapshot.evaluate("f", &subject).variant == Some("on")
}

/// An operator, a value for it, and attributes that match, do not match, and have the wrong type.
fn table() -> Vec<(Op, Value, Value, Value, Value)> {
    let row = |op, value, matching, other, wrong| (op, value, matching, other, wrong);
    let version = |op, matching: &str, other: &str| {
        row(op, json!("2.3"), json!(matching), json!(other), json!(2.3))
    };
    vec![
        row(Op::In, json!("1"), json!("1"), json!("2"), json!(1)),
        row(Op::In, json!(1), json!(1.0), json!(2), json!(true)),
        row(Op::In, json!(true), json!(true), json!(false), json!(1)),
        row(Op::In, json!(0), json!(-0.0), json!(1), json!("0")),
        row(Op::In, json!(""), json!(""), json!(" "), json!(0)),
        row(
            Op::Contains,
            json!("b"),
            json!("abc"),
            json!("aBc"),
            json!(1),
        ),
        row(
            Op::StartsWith,
            json!("ab"),
            json!("abc"),
            json!("cab"),
            json!(true),
        ),
        row(
            Op::EndsWith,
            json!("bc"),
            json!("abc"),
            json!("bca"),
            json!(7),
        ),
        row(Op::Lt, json!(2), json!(1.9), json!(2), json!("1")),
        row(Op::Lte, json!(2), json!(2), json!(2.1), json!("1")),
        row(Op::Gt, json!(2), json!(2.1), json!(2), json!("3")),
        row(Op::Gte, json!(2), json!(2), json!(1.9), json!(true)),
        version(Op::SemverEq, "v2.3.0+build", "2.3.0-rc.1"),
        version(Op::SemverLt, "2.3.0-rc.1", "2.3"),
        version(Op::SemverLte, "2.3", "2.3.1"),
        version(Op::SemverGt, "2.10", "2.3.0"),
        version(Op::SemverGte, "2.3", "2.3.0-rc.1"),
        row(
            Op::SemverGte,
            json!("2"),
            json!("3"),
            json!("1"),
            json!("no version"),
        ),
        row(
            Op::Matches,
            json!(r"^b+\d$"),
            json!("bb7"),
            json!("abb7"),
            json!(7),
        ),
        row(
            Op::Before,
            json!("2026-11-22T16:00:00Z"),
            json!("2026-11-22T16:59:59.999+01:00"),
            json!(1_795_363_200_000_u64),
            json!("2026-11-22"),
        ),
        row(
            Op::After,
            json!(1_000),
            json!("1970-01-01T00:00:01.001z"),
            json!(1_000),
            json!(true),
        ),
        row(
            Op::InCidr,
            json!("10.1.2.3/8"),
            json!("::ffff:10.255.0.1"),
            json!("11.0.0.0"),
            json!("10.1.2.3/8"),
        ),
        row(
            Op::InCidr,
            json!("2001:db8::/32"),
            json!("2001:DB8:1::"),
            json!("2001:db9::"),
            json!("2001:db8::%eth0"),
        ),
    ]
}

#[test]
fn every_operator_against_every_kind_of_attribute() {
    let mut ops: Vec<Op> = Vec::new();
    for (op, value, matching, other, wrong) in table() {
        ops.push(op);
        for negate in [false, true] {
            let clause =
                json!({"attribute": "a", "op": op.as_str(), "values": [value], "negate": negate});
            let holds = |attribute: Value| holds(&clause, &json!({"a": attribute}));
            let decoy = json!({"b": matching});
            assert!(!self::holds(&clause, &decoy), "missing: {clause}");
            assert!(!holds(Value::Null), "null: {clause}");
            assert_eq!(holds(matching.clone()), !negate, "match: {clause}");
            assert_eq!(holds(other.clone()), negate, "no match: {clause}");
            assert_eq!(holds(wrong.clone()), negate, "wrong type: {clause}");
            assert_eq!(
                holds(json!([wrong, other, matching])),
                !negate,
                "list, one: {clause}"
            );
            assert_eq!(holds(json!([wrong, other])), negate, "list, none: {clause}");
            assert_eq!(holds(json!([])), negate, "empty list: {clause}");
            assert_eq!(holds(json!([null])), negate, "list of null: {clause}");
        }
    }
    let others = [Op::InSegment, Op::Exists];
    assert!(
        Op::ALL
            .iter()
            .all(|op| ops.contains(op) || others.contains(op))
    );
}

#[test]
fn exists_is_about_being_there() {
    for negate in [false, true] {
        let clause = json!({"attribute": "a", "op": "exists", "negate": negate});
        assert_eq!(holds(&clause, &json!({})), negate);
        assert_eq!(holds(&clause, &json!({"a": null})), negate);
        for there in [json!(""), json!(0), json!(false), json!([])] {
            assert_eq!(holds(&clause, &json!({"a": there})), !negate, "{there}");
        }
        let clause = json!({"attribute": "subject_key", "op": "exists", "negate": negate});
        assert_eq!(holds(&clause, &json!({})), !negate);
    }
}

#[test]
fn segments_are_any_of_and_can_be_negated() {
    for negate in [false, true] {
        let clause =
            |values: Value| json!({"op": "in_segment", "values": values, "negate": negate});
        assert_eq!(holds(&clause(json!(["in"])), &json!({})), !negate);
        assert_eq!(holds(&clause(json!(["out", "in"])), &json!({})), !negate);
        assert_eq!(
            holds(&clause(json!(["out"])), &json!({})),
            negate,
            "excluded beats included beats rules"
        );
    }
}

#[test]
fn several_values_are_any_of_them() {
    let clause = json!({"attribute": "a", "op": "lt", "values": [1, 10]});
    assert!(holds(&clause, &json!({"a": 5})));
    let clause = json!({"attribute": "subject_key", "op": "starts_with", "values": ["x", "u"]});
    assert!(holds(&clause, &json!({})));
}

#[test]
fn numbers_that_json_has_not_match_nothing_but_bounds() {
    let world = |op: &str, negate: bool| {
        let clause = json!({"attribute": "a", "op": op, "values": [1], "negate": negate});
        let policy = json!({"enabled": true, "rules": [{"when": [clause], "serve": {"variant": "on"}}],
                            "default": {"variant": "off"}});
        World::default().with_flag("f", 1, switch(), policy).load()
    };
    let on = |snapshot: &Snapshot, number: f64| {
        snapshot
            .evaluate("f", &Subject::new("u").with("a", number))
            .variant
            == Some("on")
    };
    for op in ["in", "lt", "lte", "gt", "gte"] {
        assert!(!on(&world(op, false), f64::NAN), "{op}");
        assert!(on(&world(op, true), f64::NAN), "{op}");
    }
    assert!(on(&world("gt", false), f64::INFINITY));
    assert!(!on(&world("in", false), f64::INFINITY));
}

/// Everything exists, so that states can be compiled that no Writer would let through.
struct Anything;

impl References for Anything {
    fn segment_exists(&self, _: &pennon_evaluator::SegmentKey) -> bool {
        true
    }

    fn flag_variants(&self, _: &pennon_evaluator::FlagKey) -> Option<Vec<String>> {
        Some(vec!["on".to_owned(), "off".to_owned()])
    }
}

fn unchecked_flag(key: &str, policy: &Value) -> EncodedState {
    let config = FlagConfig::parse(&key.parse().unwrap(), &switch().to_string()).unwrap();
    let policy = TargetingPolicy::parse(&policy.to_string()).unwrap();
    let at = version(1);
    let state = compile_flag(&config, at, &policy, at, at, &Anything, &Default::default()).unwrap();
    EncodedState::new(&environment(), &state)
}

fn load(states: Vec<EncodedState>) -> Snapshot {
    Snapshot::load(&ConfigSnapshot::new(environment(), version(2), states).unwrap()).unwrap()
}

fn after(flag: &str) -> Value {
    json!({"enabled": true, "prerequisites": [{"flag": flag, "variants": ["on"]}], "default": {"variant": "on"}})
}

fn seen(snapshot: &Snapshot, flag: &str) -> (String, Option<Detail>) {
    let found = snapshot.evaluate(flag, &Subject::new("u"));
    (
        format!("{} {}", found.variant.unwrap_or("none"), found.reason),
        found.detail,
    )
}

#[test]
fn what_is_missing_fails_and_never_holds() {
    let rule = |negate: bool| {
        let clause = json!({"op": "in_segment", "values": ["nowhere"], "negate": negate});
        json!({"enabled": true, "rules": [{"when": [clause], "serve": {"variant": "on"}}], "default": {"variant": "off"}})
    };
    let snapshot = load(vec![
        unchecked_flag("a", &after("nobody")),
        unchecked_flag("b", &rule(false)),
        unchecked_flag("c", &rule(true)),
    ]);
    assert_eq!(
        seen(&snapshot, "a"),
        ("off PREREQUISITE_FAILED".to_owned(), None)
    );
    assert_eq!(seen(&snapshot, "b"), ("off DEFAULT".to_owned(), None));
    assert_eq!(seen(&snapshot, "c"), ("off DEFAULT".to_owned(), None));
}

#[test]
fn cycles_end() {
    let snapshot = load(vec![
        unchecked_flag("a", &after("b")),
        unchecked_flag("b", &after("a")),
        unchecked_flag("c", &after("b")),
        unchecked_flag("free", &serving("on")),
    ]);
    for flag in ["a", "b", "c"] {
        let unsound = Some(Detail::GraphUnsound);
        assert_eq!(
            seen(&snapshot, flag),
            ("off PREREQUISITE_FAILED".to_owned(), unsound),
            "{flag}"
        );
    }
    assert_eq!(seen(&snapshot, "free"), ("on STATIC".to_owned(), None));
}

#[test]
fn twenty_steps_are_followed_and_no_more() {
    let mut states = vec![unchecked_flag("f0", &serving("on"))];
    states.extend(
        (1..=5_000).map(|n| unchecked_flag(&format!("f{n}"), &after(&format!("f{}", n - 1)))),
    );
    let snapshot = load(states);
    assert_eq!(seen(&snapshot, "f20"), ("on STATIC".to_owned(), None));
    let unsound = (
        "off PREREQUISITE_FAILED".to_owned(),
        Some(Detail::GraphUnsound),
    );
    assert_eq!(seen(&snapshot, "f21"), unsound);
    assert_eq!(seen(&snapshot, "f5000"), unsound);
}

/// Every flag of a layer needs every flag of the layer below: 6^20 ways down, each walked once.
#[test]
fn evaluation_is_linear_in_what_is_used() {
    let mut states = Vec::new();
    for layer in 0..=20 {
        for n in 0..6 {
            let below = (0..6)
                .filter(|_| layer > 0)
                .map(|m| json!({"flag": format!("l{}-{m}", layer - 1), "variants": ["on"]}));
            let policy = json!({"enabled": true, "prerequisites": below.collect::<Vec<_>>(), "default": {"variant": "on"}});
            states.push(unchecked_flag(&format!("l{layer}-{n}"), &policy));
        }
    }
    let snapshot = load(states);
    assert_eq!(seen(&snapshot, "l20-0"), ("on STATIC".to_owned(), None));
}

/// As deep as allowed and wider than allowed: undecided rather than slow.
#[test]
fn too_many_states_are_not_walked() {
    let mut states = vec![unchecked_flag("f", &serving("on"))];
    let many: Vec<Value> = (0..5_000)
        .map(|n| json!({"flag": format!("p{n}"), "variants": ["on"]}))
        .collect();
    states.extend((0..5_000).map(|n| unchecked_flag(&format!("p{n}"), &serving("on"))));
    let wide = |count: usize| json!({"enabled": true, "prerequisites": many[..count], "default": {"variant": "on"}});
    states.push(unchecked_flag("allowed", &wide(4_096)));
    states.push(unchecked_flag("beyond", &wide(4_097)));
    let snapshot = load(states);
    assert_eq!(seen(&snapshot, "allowed"), ("on STATIC".to_owned(), None));
    assert_eq!(seen(&snapshot, "beyond").1, Some(Detail::GraphUnsound));
}

#[test]
fn values_are_read_by_their_type() {
    let flag = |kind: &str, value: Value| {
        let config = json!({"type": kind, "variants": {"v": value}, "off_variant": "v"});
        World::default()
            .with_flag("f", 1, config, serving("v"))
            .load()
    };
    let subject = Subject::new("u");
    let read = |snapshot: &Snapshot| {
        let value = snapshot.evaluate("f", &subject).value.unwrap();
        let texts = (
            value.as_str().map(str::to_owned),
            value.as_json().to_owned(),
        );
        (
            value.as_bool(),
            value.as_f64(),
            value.as_i64(),
            texts.0,
            texts.1,
        )
    };
    let text = Some("ü\"\n".to_owned());
    assert_eq!(
        read(&flag("boolean", json!(true))),
        (Some(true), None, None, None, "true".into())
    );
    assert_eq!(
        read(&flag("string", json!("ü\"\n"))),
        (None, None, None, text, r#""ü\"\n""#.into())
    );
    assert_eq!(
        read(&flag("number", json!(1.5))),
        (None, Some(1.5), None, None, "1.5".into())
    );
    assert_eq!(
        read(&flag("number", json!(7))),
        (None, Some(7.0), Some(7), None, "7".into())
    );
    let sorted = r#"{"a":{"c":1,"d":2},"b":[]}"#;
    let object = flag("object", json!({"b": [], "a": {"d": 2, "c": 1}}));
    assert_eq!(read(&object), (None, None, None, None, sorted.into()));
    assert_eq!(
        object.evaluate("f", &subject).to_json("f")["value"],
        json!({"a": {"c": 1, "d": 2}, "b": []})
    );
}

#[test]
fn growing_a_rollout_only_moves_subjects_into_the_growing_variant() {
    let split = |on: u32| {
        let weights =
            json!([{"variant": "on", "weight": on}, {"variant": "off", "weight": 100_000 - on}]);
        let policy = json!({"enabled": true, "default": {"rollout": {"weights": weights}}});
        World::default().with_flag("f", 1, switch(), policy).load()
    };
    let mut last = vec![false; 5_000];
    for on in [0, 1_000, 25_000, 50_000, 99_999, 100_000] {
        let snapshot = split(on);
        for (n, was_on) in last.iter_mut().enumerate() {
            let found = snapshot.evaluate("f", &Subject::new(format!("user-{n}")));
            let is_on = found.variant == Some("on");
            assert!(is_on || !*was_on, "I7: user-{n} fell out at {on}");
            *was_on = is_on;
        }
        let count = last.iter().filter(|on| **on).count();
        let wanted = 5_000 * on as usize / 100_000;
        assert!(count.abs_diff(wanted) < 150, "{count} of 5000 at {on}");
    }
}

#[test]
fn exposures_are_asked_for_by_flags_that_track() {
    let flag = |track: bool| {
        let mut config = switch();
        config["track"] = json!(track);
        config["on_stale"] = json!("default");
        let weights = json!([{"variant": "on", "weight": 1}]);
        let policy = json!({"enabled": true, "default": {"rollout": {"bucket_by": "org", "weights": weights}}});
        World::default().with_flag("f", 1, config, policy).load()
    };
    let (with, without) = (Subject::new("u").with("org", "o"), Subject::new("u"));
    assert!(flag(true).evaluate("f", &with).exposure_due);
    assert!(
        !flag(true).evaluate("f", &without).exposure_due,
        "no bucket, no exposure"
    );
    assert!(!flag(false).evaluate("f", &with).exposure_due);
    assert_eq!(
        flag(true).evaluate("f", &with).on_stale,
        pennon_evaluator::OnStale::Default
    );
}
