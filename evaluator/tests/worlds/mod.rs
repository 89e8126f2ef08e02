//! Random worlds: flags, nested segments, experiments and subjects of every kind.
//!
//! What must hold: whatever the leader lets people write can come up, and what decides comes up
//! often: the values of clauses and attributes come from the same small pools, which hold what is
//! on either side of every border. Every world keeps the rules of experiments (one layer, range and
//! `bucket_by` each, disjoint in a layer).
//!
//! Some worlds go beyond: prerequisites in a circle, chains of about twenty segments, a dense graph
//! of segments, and states that were lost on the way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod pools;

use std::fmt;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::strategy::Union;
use serde_json::{Map, Value, json};

use crate::common::World;
use crate::slow::murmur3;
pub(crate) use pools::OPS;
use pools::{ATTRIBUTES, KEYS, NUMBERS, Pool, TEXTS};

const SEGMENTS: usize = 5;
const FLAGS: usize = 5;
/// Flags of one clause each, so that no other keeps it from being looked at.
const CLAUSES: usize = 10;
const EXPERIMENTS: usize = 5;
/// The number of values of a long list; a few of them will be the same.
const LONG_LIST: std::ops::Range<usize> = 12..20;
/// Names of attributes that one flag in a few worlds looks at.
const WIDE: usize = 20;
/// Subjects of a case. Each is evaluated on every flag.
const SUBJECTS: usize = 12;

/// A world and who is evaluated in it.
#[derive(Clone)]
pub(crate) struct Case {
    /// Everything that was written.
    pub(crate) written: World,
    /// The same without the states that were lost.
    pub(crate) left: World,
    /// Whether what is left is loaded by way of a delta.
    pub(crate) by_delta: bool,
    /// Keys and attributes.
    pub(crate) subjects: Vec<(String, Map<String, Value>)>,
}

/// A failure has said all there is to say about the case.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the one above")
    }
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let subjects = prop::collection::vec((key(), attributes()), SUBJECTS);
    let lost = prop_oneof![2 => Just(None), 1 => any::<Index>().prop_map(Some)];
    let case = (world(), extras(), lost, any::<bool>(), subjects);
    case.prop_map(|(mut written, extras, lost, by_delta, subjects)| {
        written.flags.extend(extras.flags);
        written.segments.extend(extras.segments);
        let mut left = written.clone();
        if let Some(index) = lost {
            // More often a segment, since more depends on those.
            match index.index(2 * SEGMENTS + FLAGS) {
                n if n < FLAGS => _ = left.flags.remove(&format!("f{n}")),
                n => _ = left.segments.remove(&format!("s{}", n % SEGMENTS)),
            }
        }
        Case {
            written,
            left,
            by_delta,
            subjects,
        }
    })
}

fn key() -> impl Strategy<Value = String> {
    select(&KEYS[..]).prop_map(str::to_owned)
}

/// A value that the operators of a pool can use, or nearly, or not at all.
fn scalar(pool: Pool) -> BoxedStrategy<Value> {
    let any_pool = Union::new(ATTRIBUTES.map(|(_, pool)| select(pool.good())));
    let others = prop_oneof![any_pool, any::<bool>().prop_map(Value::from)];
    prop_oneof![6 => select(pool.good()), 2 => select(pool.bad()), 1 => others].boxed()
}

fn attributes() -> impl Strategy<Value = Map<String, Value>> {
    let one = |(_, pool): (&str, Pool)| {
        let item = prop_oneof![6 => scalar(pool), 1 => Just(Value::Null)];
        let list = prop::collection::vec(item, 0..4).prop_map(Value::from);
        prop_oneof![
            6 => scalar(pool).prop_map(Some),
            3 => list.prop_map(Some),
            1 => Just(Some(Value::Null)),
            1 => Just(None),
        ]
    };
    let wide = prop::collection::vec((0..WIDE, 0..3), 0..4);
    (ATTRIBUTES.map(one), wide).prop_map(|(values, wide)| {
        let named = ATTRIBUTES.iter().zip(values);
        let given = named.filter_map(|((name, _), value)| Some(((*name).to_owned(), value?)));
        let wide = wide
            .into_iter()
            .map(|(n, value)| (wide_name(n), json!(value)));
        given.chain(wide).collect()
    })
}

fn wide_name(n: usize) -> String {
    format!("wide-{n}")
}

/// The name of an attribute; mostly that of the pool.
fn name(pool: Pool) -> impl Strategy<Value = &'static str> {
    let own = ATTRIBUTES.iter().find(|(_, own)| *own == pool).unwrap().0;
    let mut names = ATTRIBUTES.map(|(name, _)| name).to_vec();
    names.push("subject_key");
    prop_oneof![3 => Just(own), 1 => select(names)]
}

/// A clause of this operator, which may name the segments below `segments`.
fn clause_of(op: &'static str, segments: usize) -> BoxedStrategy<Value> {
    // Some lists are long, because those are searched in other ways; most of their values match
    // nothing that there is.
    let values = move |of: BoxedStrategy<Value>| {
        let mostly = prop_oneof![5 => pools::filler(op), 1 => of.clone()];
        let long = prop::collection::vec(mostly, LONG_LIST);
        prop_oneof![6 => prop::collection::vec(of, 1..4), 1 => long]
    };
    let on = move |pool: Pool, of: BoxedStrategy<Value>| {
        (name(pool), values(of), any::<bool>()).prop_map(move |(name, values, negate)| {
            json!({"attribute": name, "op": op, "values": values, "negate": negate})
        })
    };
    match op {
        "in" => {
            let one = |(_, pool): (&str, Pool)| {
                let anything = prop_oneof![
                    4 => select(pool.good()),
                    1 => select(pool.bad()),
                    1 => any::<bool>().prop_map(Value::from),
                    1 => select(TEXTS.map(Value::from).to_vec()),
                    1 => select(NUMBERS.map(Value::from).to_vec()),
                ];
                on(pool, anything.boxed())
            };
            Union::new(ATTRIBUTES.map(one)).boxed()
        }
        "exists" => (name(Pool::Text), any::<Option<bool>>())
            .prop_map(|(name, negate)| match negate {
                Some(negate) => json!({"attribute": name, "op": "exists", "negate": negate}),
                None => json!({"attribute": name, "op": "exists"}),
            })
            .boxed(),
        "in_segment" => {
            let keys = (0..segments).prop_map(|n| json!(format!("s{n}"))).boxed();
            (prop::collection::vec(keys, 1..4), any::<bool>())
                .prop_map(
                    |(keys, negate)| json!({"op": "in_segment", "values": keys, "negate": negate}),
                )
                .boxed()
        }
        "contains" | "starts_with" | "ends_with" => {
            let part = select(pools::PARTS.map(Value::from).to_vec());
            let part = prop_oneof![1 => part, 1 => select(Pool::Text.good())];
            on(Pool::Text, part.boxed()).boxed()
        }
        "matches" => on(Pool::Text, pattern().boxed()).boxed(),
        "in_cidr" => on(Pool::Address, select(pools::networks()).boxed()).boxed(),
        _ => {
            let pool = Pool::of(op);
            on(pool, select(pool.good()).boxed()).boxed()
        }
    }
}

/// A pattern: from the pool, or made of parts that meet in the texts of the pool.
fn pattern() -> impl Strategy<Value = Value> {
    let part = select(&pools::PATTERN_PARTS[..]).prop_map(str::to_owned);
    let made = part.prop_recursive(3, 8, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            3 => several.clone().prop_map(|parts| parts.concat()),
            2 => several.prop_map(|parts| format!("(?:{})", parts.join("|"))),
            2 => (inner.clone(), select(&["*", "+", "?", "*?", "{2}", "{0,2}"][..]))
                .prop_map(|(part, times)| format!("(?:{part}){times}")),
            1 => (inner, select(&["i", "s", "m", "im"][..]))
                .prop_map(|(part, flags)| format!("(?{flags}:{part})")),
        ]
    });
    prop_oneof![3 => select(pools::patterns()), 1 => made.prop_map(Value::from)]
}

/// A clause that may name the segments below `segments`.
fn clause(segments: usize) -> impl Strategy<Value = Value> {
    let ops = OPS
        .into_iter()
        .filter(|op| segments > 0 || *op != "in_segment");
    let weight = |op: &str| match op {
        "in_segment" => 6,
        "in_cidr" | "matches" | "before" | "after" => 3,
        "contains" | "starts_with" | "ends_with" => 3,
        _ => 2,
    };
    Union::new_weighted(
        ops.map(|op| (weight(op), clause_of(op, segments)))
            .collect(),
    )
}

fn when(segments: usize) -> impl Strategy<Value = Value> {
    prop::collection::vec(clause(segments), 0..3).prop_map(Value::from)
}

fn salt() -> impl Strategy<Value = Value> {
    select(vec![Value::Null, json!("pepper"), json!("größe")])
}

/// What is bucketed; null is the same as leaving it out.
fn bucket_by() -> impl Strategy<Value = Value> {
    let names = ["text", "number", "mixed"].map(Value::from).to_vec();
    prop_oneof![1 => Just(Value::Null), 2 => Just(json!("subject_key")), 3 => select(names)]
}

fn variant() -> impl Strategy<Value = &'static str> {
    select(&["a", "b", "c"][..])
}

fn rollout() -> impl Strategy<Value = Value> {
    let weights = prop::collection::vec((variant(), 0_u32..4), 1..5).prop_map(|mut weights| {
        weights[0].1 += u32::from(weights.iter().all(|(_, weight)| *weight == 0));
        let weights = weights.iter();
        let weights = weights.map(|(v, w)| json!({"variant": v, "weight": w}));
        weights.collect::<Vec<Value>>()
    });
    (bucket_by(), salt(), weights).prop_map(|(by, salt, weights)| {
        json!({"bucket_by": by, "salt": salt, "weights": weights, "algorithm": "murmur3-v1"})
    })
}

/// What a default serves.
fn serve() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => variant().prop_map(|v| json!({"variant": v})),
        1 => rollout().prop_map(|rollout| json!({"rollout": rollout})),
    ]
}

/// What a rule serves. Of an experiment only the number is here; `enter_experiments` does the rest.
fn rule_serve() -> impl Strategy<Value = Value> {
    let holdout = prop::option::of((0..SEGMENTS).prop_map(|n| format!("s{n}")));
    let experiment = (rollout(), 0..EXPERIMENTS, holdout).prop_map(|(mut rollout, n, holdout)| {
        rollout["experiment"] = json!({"key": n, "holdout": holdout});
        json!({"rollout": rollout})
    });
    prop_oneof![2 => serve(), 2 => experiment]
}

fn flag(below: usize) -> impl Strategy<Value = (Value, Value)> {
    let values = select(vec![
        ("boolean", json!({"a": true, "b": false, "c": true})),
        ("string", json!({"a": "A", "b": "", "c": "\"ü\"\n"})),
        ("number", json!({"a": 1, "b": -2.5, "c": 0})),
        (
            "object",
            json!({"a": {"y": 1, "x": [null, {"n": 2, "m": 1}]}, "b": {}, "c": {"z": {}}}),
        ),
    ]);
    let rare = || prop::bool::weighted(0.1);
    let config = (values, rare(), any::<bool>(), salt());
    let config = config.prop_map(|((kind, variants), archived, track, salt)| {
        json!({"type": kind, "variants": variants, "off_variant": "c", "archived": archived,
               "track": track, "salt": salt})
    });
    let wanted = subsequence(vec!["a", "b", "c"], 1..=3);
    let prerequisite = (0..below.max(1), wanted)
        .prop_map(|(n, variants)| json!({"flag": format!("f{n}"), "variants": variants}));
    let prerequisites = prop::collection::vec(prerequisite, 0..=below.min(2));
    let targets = prop::collection::btree_map(select(pools::known_keys()), variant(), 0..2);
    let rule = (when(SEGMENTS), rule_serve(), any::<bool>());
    let rules = prop::collection::vec(rule, 0..5);
    let policy = (rare(), prerequisites, targets, rules, serve());
    let policy = policy.prop_map(|(disabled, prerequisites, targets, rules, default)| {
        let targets = targets.iter();
        let targets = targets.map(|(s, v)| json!({"variant": v, "subjects": ["somebody else", s]}));
        let mut policy = json!({"enabled": !disabled, "prerequisites": prerequisites,
            "targets": targets.collect::<Vec<Value>>(), "default": default, "rules": []});
        for (n, (when, serve, named)) in rules.into_iter().enumerate() {
            let id = named.then(|| format!("the {n}th"));
            let rules = policy["rules"].as_array_mut().unwrap();
            rules.push(json!({"id": id, "when": when, "serve": serve}));
        }
        policy
    });
    (config, policy)
}

fn segment_rule(when: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let share = (bucket_by(), salt(), 0_u32..4).prop_map(|(by, salt, share)| {
        json!({"bucket_by": by, "salt": salt, "share": share, "of": 3.max(share)})
    });
    let rollout = prop_oneof![Just(Value::Null), share];
    (when, rollout).prop_map(|(when, rollout)| json!({"when": when, "rollout": rollout}))
}

fn segment(below: usize) -> impl Strategy<Value = Value> {
    let keys = || prop::collection::vec(select(pools::known_keys()), 0..2);
    let rules = prop::collection::vec(segment_rule(when(below).boxed()), 0..3);
    (keys(), keys(), rules).prop_map(|(included, excluded, rules)| {
        json!({"included": included, "excluded": excluded, "rules": rules})
    })
}

/// The experiments of a world: what each rollout that names one must have.
fn experiments() -> impl Strategy<Value = Vec<(Value, Value)>> {
    let border = prop_oneof![
        2 => (select(&KEYS[..]), 0..2_u64).prop_map(|(key, after)| slot("first", key) + after),
        1 => 0..10_000_u64,
    ];
    let borders = prop::collection::btree_set(border, 2).prop_map(|borders| {
        let borders: Vec<u64> = borders.into_iter().collect();
        [
            borders[0].min(9_999),
            borders[1].max(borders[0].min(9_999) + 1).min(10_000),
        ]
    });
    let second = (select(&KEYS[..]), any::<bool>()).prop_map(|(key, at)| {
        let slot = slot("second", key);
        if at { [slot, 10_000] } else { [0, slot + 1] }
    });
    let by = [bucket_by(), bucket_by(), bucket_by(), bucket_by()];
    (by, borders, second).prop_map(|([b1, b2, b3, b4], [x, y], second)| {
        let layer = |key: &str, range: [u64; 2]| json!({"key": key, "range": range});
        let before = if x == 0 {
            Value::Null
        } else {
            layer("first", [0, x])
        };
        let b0 = if x == 0 { b3.clone() } else { b1.clone() };
        vec![
            (b0, before),
            (b1, layer("first", [x, y])),
            (b2, layer("second", second)),
            (b3, Value::Null),
            (b4, Value::Null),
        ]
    })
}

fn slot(layer: &str, value: &str) -> u64 {
    let hash = murmur3(format!("layer={layer}{value}").as_bytes());
    (u64::from(hash) * 10_000) >> 32
}

/// Puts what belongs to the experiments into the rollouts that name one by number.
fn enter_experiments(policy: &mut Value, experiments: &[(Value, Value)]) {
    for rule in policy["rules"].as_array_mut().unwrap() {
        let rollout = &mut rule["serve"]["rollout"];
        if let Some(n) = rollout["experiment"]["key"].as_u64() {
            let (by, layer) = &experiments[usize::try_from(n).unwrap()];
            rollout["bucket_by"] = by.clone();
            rollout["experiment"]["key"] = json!(format!("e-{n}"));
            rollout["experiment"]["layer"] = layer.clone();
        }
    }
}

fn world() -> impl Strategy<Value = World> {
    let segments: Vec<_> = (0..SEGMENTS).map(|n| segment(n).boxed()).collect();
    let flags: Vec<_> = (0..FLAGS).map(|n| flag(n).boxed()).collect();
    // Networks have many kinds to meet.
    let of_any = prop_oneof![6 => clause(SEGMENTS), 1 => clause_of("in_cidr", 0)];
    let clauses = prop::collection::vec(of_any, CLAUSES);
    let versions = prop::collection::vec(1_u64..100, SEGMENTS + FLAGS);
    (segments, flags, clauses, versions, experiments()).prop_map(
        |(segments, flags, clauses, versions, experiments)| {
            let mut world = World::default();
            for (n, policy) in segments.into_iter().enumerate() {
                world = world.with_segment(&format!("s{n}"), versions[n], policy);
            }
            for (n, (config, mut policy)) in flags.into_iter().enumerate() {
                enter_experiments(&mut policy, &experiments);
                world = world.with_flag(&format!("f{n}"), versions[SEGMENTS + n], config, policy);
            }
            for (n, clause) in clauses.into_iter().enumerate() {
                let rules = json!([{"when": [clause], "serve": {"variant": "a"}}]);
                let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "c"}});
                world = world.with_flag(&format!("clause-{n}"), 1, switch(), policy);
            }
            world
        },
    )
}

/// What a few worlds have besides: graphs of other shapes.
fn extras() -> impl Strategy<Value = World> {
    prop_oneof![
        16 => Just(World::default()),
        1 => Just(circle()),
        2 => (19_usize..=21).prop_map(chain),
        1 => dense(),
        1 => Just(crowd()),
        1 => wide(),
    ]
}

fn switch() -> Value {
    json!({"type": "boolean", "variants": {"a": true, "c": false}, "off_variant": "c"})
}

fn in_segments(keys: &[String], negate: bool) -> Value {
    json!([{"op": "in_segment", "values": keys, "negate": negate}])
}

/// Two flags that need each other, one that needs them, and one that would if it were enabled.
fn circle() -> World {
    let needs = |flag: &str, enabled: bool| {
        json!({"enabled": enabled, "prerequisites": [{"flag": flag, "variants": ["a"]}],
               "default": {"variant": "a"}})
    };
    World::default()
        .with_flag("circle-1", 101, switch(), needs("circle-2", true))
        .with_flag("circle-2", 102, switch(), needs("circle-1", true))
        .with_flag("circle-user", 103, switch(), needs("circle-1", true))
        .with_flag("circle-off", 104, switch(), needs("circle-1", false))
}

/// A flag that uses a segment that uses a segment and so on, so many steps.
fn chain(steps: usize) -> World {
    let name = |n: usize| vec![format!("chain-{n}")];
    let mut world = World::default().with_segment("chain-1", 105, json!({"rules": [{"when": []}]}));
    for n in 2..=steps {
        let rules = json!([{"when": in_segments(&name(n - 1), n % 2 == 0)}]);
        world = world.with_segment(&format!("chain-{n}"), 1, json!({"rules": rules}));
    }
    let rules = json!([{"when": in_segments(&name(steps), false), "serve": {"variant": "a"}}]);
    let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "c"}});
    world.with_flag("chain", 2, switch(), policy)
}

/// A flag that names a hundred segments.
fn crowd() -> World {
    let keys: Vec<String> = (0..100).map(|n| format!("crowd-{n}")).collect();
    let mut world = World::default();
    for (n, key) in keys.iter().enumerate() {
        let rollout = json!({"share": 1, "of": 300});
        let rules = json!([{"when": [], "rollout": rollout}]);
        world = world.with_segment(key, 106 + n as u64, json!({"rules": rules}));
    }
    let rules = json!([{"when": in_segments(&keys, false), "serve": {"variant": "a"}}]);
    let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "c"}});
    world.with_flag("crowd", 2, switch(), policy)
}

/// A flag that looks at many attributes, some of them often.
fn wide() -> impl Strategy<Value = World> {
    let clause = (0..WIDE, 0..3, any::<bool>()).prop_map(|(n, value, negate)| {
        json!({"attribute": wide_name(n), "op": "in", "values": [value], "negate": negate})
    });
    let rule = (prop::collection::vec(clause, 1..4), variant());
    let rule = rule.prop_map(|(when, v)| json!({"when": when, "serve": {"variant": v}}));
    prop::collection::vec(rule, WIDE).prop_map(|mut rules| {
        // The first rule names them all, and holds for nobody.
        let all = (0..WIDE).map(|n| json!({"attribute": wide_name(n), "op": "exists"}));
        let nobody = json!({"attribute": "nobody", "op": "exists"});
        let when: Vec<Value> = all
            .map(|mut clause| {
                clause["negate"] = json!(true);
                clause
            })
            .chain([nobody])
            .collect();
        rules.insert(0, json!({"when": when, "serve": {"variant": "a"}}));
        let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "b"}});
        let variants = json!({"a": 1, "b": 2, "c": 3});
        let config = json!({"type": "number", "variants": variants, "off_variant": "c"});
        World::default().with_flag("wide", 5, config, policy)
    })
}

/// Segments of which each uses all that are below, more than once: there are far more ways down
/// than segments.
fn dense() -> impl Strategy<Value = World> {
    const DENSE: usize = 6;
    let segment = |n: usize| {
        let below: Vec<String> = (0..n).map(|n| format!("dense-{n}")).collect();
        let few = n.min(1)..=n;
        let when = (subsequence(below, few), any::<bool>());
        let when = when.prop_map(move |(keys, negate)| match n {
            0 => json!([]),
            _ => in_segments(&keys, negate),
        });
        prop::collection::vec(segment_rule(when.boxed()), 2..4).boxed()
    };
    let segments: Vec<_> = (0..DENSE).map(segment).collect();
    (segments, rollout()).prop_map(|(segments, rollout)| {
        let mut world = World::default();
        for (n, rules) in segments.into_iter().enumerate() {
            world = world.with_segment(&format!("dense-{n}"), 3, json!({"rules": rules}));
        }
        let top = [
            format!("dense-{}", DENSE - 1),
            format!("dense-{}", DENSE - 2),
        ];
        let held = json!({"key": "e-dense", "holdout": top[0]});
        let mut rollout = rollout;
        rollout["weights"] = json!([{"variant": "a", "weight": 1}, {"variant": "c", "weight": 1}]);
        rollout["experiment"] = held;
        let rules = json!([
            {"when": in_segments(&top, true), "serve": {"variant": "a"}},
            {"when": [], "serve": {"rollout": rollout}},
        ]);
        let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "c"}});
        world.with_flag("dense", 4, switch(), policy)
    })
}
