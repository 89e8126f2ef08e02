//! Compiled evaluation equals a slow, obvious one, written straight from the specification and
//! working on the JSON that people write (I7): the whole answer, and whether an exposure is due.
//! Random worlds (`worlds/`); at the end every operator, outcome and reason must have come up.
//!
//! A case is one flag decided for one subject. `PENNON_CASES=<n>` runs that many cases instead of some
//! thousand and prints what came up how often; `PROPTEST_RNG_SEED=<n>` chooses other cases (without
//! it the seed is 1). So a million:
//!
//! ```text
//! PENNON_CASES=1000000 PROPTEST_RNG_SEED=7 cargo test --release -p pennon-evaluator --test reference -- --nocapture
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]
#![allow(clippy::print_stderr, reason = "a long run says what it did")]

mod common;
mod slow;
mod worlds;

use std::cell::Cell;
use std::collections::BTreeSet;

use common::{World, environment, version};
use pennon_evaluator::{
    ConfigSnapshot, EncodedState, Evaluation, EvaluationState, Op, Snapshot, StateKind, Subject,
    experiment_clashes,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::Value;
use slow::{Answer, Seen, Slow};
use worlds::{Case, OPS};

/// What is evaluated without `PENNON_CASES`.
const CASES_DEFAULT: u64 = 30_000;
/// So many cases apart, one is explained too.
const EXPLAINED_EVERY: u64 = 5;
/// There are at least so many cases in a world: fifteen flags and an unknown one for twelve
/// subjects.
const CASES_OF_A_WORLD: u64 = 192;

/// Compiles what was written and loads what is left of it, in one step or two.
fn load(case: &Case) -> Snapshot {
    let environment = environment();
    let written = case.written.states();
    assert_no_clash(&written);
    let written: Vec<EncodedState> = written
        .iter()
        .map(|state| EncodedState::new(&environment, state))
        .collect();
    let is_left = |state: &&EncodedState| match state.kind() {
        StateKind::Flag => case.left.flags.contains_key(state.key()),
        _ => case.left.segments.contains_key(state.key()),
    };
    let left: Vec<EncodedState> = written.iter().filter(is_left).cloned().collect();
    let snapshot = |at, states| ConfigSnapshot::new(environment.clone(), version(at), states);
    let after = snapshot(1_000, left.clone()).unwrap();
    if !case.by_delta {
        return Snapshot::load(&after).unwrap();
    }
    // Everything before something was lost, or else every other state.
    let before = match left.len() < written.len() {
        true => written,
        false => left.into_iter().step_by(2).collect(),
    };
    let before = snapshot(999, before).unwrap();
    let delta = ConfigSnapshot::diff(&before, &after);
    Snapshot::load(&before).unwrap().apply(&delta).unwrap()
}

/// The experiments of a world are such as can stand beside each other.
fn assert_no_clash(states: &[EvaluationState]) {
    let flags = states.iter().filter_map(|state| match state {
        EvaluationState::Flag(flag) if flag.experiments().next().is_some() => Some(flag),
        _ => None,
    });
    let flags: Vec<_> = flags.collect();
    for (n, flag) in flags.iter().enumerate() {
        for other in &flags[..n] {
            let clashes = experiment_clashes(flag, Some(other));
            assert!(clashes.is_empty(), "{clashes:?}");
        }
    }
}

/// Compares every flag, and one that is not there, for every subject. Returns how many it were.
fn compare(case: &Case, seen: &Seen) -> Result<u64, TestCaseError> {
    let snapshot = load(case);
    let slow = Slow::new(&case.left, seen);
    let mut cases = 0;
    for (key, attributes) in &case.subjects {
        let subject = Subject::from_json(key.clone(), attributes).unwrap();
        let flags = case.left.flags.keys().map(String::as_str);
        for flag in flags.chain(["unknown"]) {
            let found = snapshot.evaluate(flag, &subject);
            let wanted = slow.evaluate(flag, key, attributes);
            let explained =
                (cases % EXPLAINED_EVERY == 0).then(|| snapshot.explain(flag, &subject).evaluation);
            let compared = compare_answers(flag, &found, &wanted).and_then(|()| {
                prop_assert_eq!(explained.unwrap_or(found), found, "explained");
                Ok(())
            });
            compared.map_err(|error| {
                let attributes = Value::Object(attributes.clone());
                let world = shown(&case.left);
                let case = format!("{flag} for {key:?} {attributes} in\n{world}");
                TestCaseError::fail(format!("{error}\n{case}"))
            })?;
            cases += 1;
        }
    }
    Ok(cases)
}

/// Everything there is to an answer: the JSON, the typed value, whether an exposure is due. (I7)
fn compare_answers(
    flag: &str,
    found: &Evaluation<'_>,
    wanted: &Answer,
) -> Result<(), TestCaseError> {
    let json = found.to_json(flag);
    prop_assert_eq!(&json, &wanted.json);
    // As text, so that the order of the fields counts.
    prop_assert_eq!(json.to_string(), wanted.json.to_string());
    let typed = found.value;
    let typed = typed.map(|value| {
        (
            value.as_bool(),
            value.as_str(),
            value.as_f64(),
            value.as_json(),
        )
    });
    let value = &wanted.json["value"];
    let text = value.to_string();
    let wanted_typed = (
        value.as_bool(),
        value.as_str(),
        value.as_f64(),
        text.as_str(),
    );
    prop_assert_eq!(typed, (!value.is_null()).then_some(wanted_typed));
    prop_assert_eq!(found.exposure_due, wanted.exposure_due, "exposure due");
    Ok(())
}

fn shown(world: &World) -> String {
    let flags = world.flags.iter();
    let flags =
        flags.map(|(key, (at, config, policy))| format!("{key} at {at}: {config}\n  {policy}\n"));
    let segments = world.segments.iter();
    let segments = segments.map(|(key, (at, policy))| format!("{key} at {at}: {policy}\n"));
    flags.chain(segments).collect()
}

#[test]
fn compiled_evaluation_equals_the_slow_one() {
    let asked = std::env::var("PENNON_CASES").ok();
    let wanted_cases = asked.as_ref().map_or(CASES_DEFAULT, |n| n.parse().unwrap());
    let mut config = Config {
        cases: u32::try_from(wanted_cases.div_ceil(CASES_OF_A_WORLD)).unwrap(),
        failure_persistence: None,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    let seed = config.rng_seed;
    let (seen, cases) = (Seen::default(), Cell::new(0));
    let outcome = TestRunner::new(config).run(&worlds::case(), |case| {
        if cases.get() < wanted_cases {
            cases.set(cases.get() + compare(&case, &seen)?);
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("with the seed {seed:?}: {failure}");
    }
    if asked.is_some() {
        for (what, count) in &*seen.borrow() {
            eprintln!("{count:>10}  {what}");
        }
        eprintln!(
            "{:>10}  cases, all equal; the seed was {seed:?}",
            cases.get()
        );
    }
    let seen: BTreeSet<String> = seen.into_inner().into_keys().collect();
    let missing: Vec<String> = wanted().difference(&seen).cloned().collect();
    assert!(missing.is_empty(), "never came up: {missing:#?}");
}

#[test]
fn the_pools_know_every_operator() {
    let known: BTreeSet<&str> = Op::ALL.iter().map(|op| op.as_str()).collect();
    assert_eq!(known, BTreeSet::from(OPS));
}

/// What must have come up for the test to count.
fn wanted() -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for op in OPS {
        for outcome in outcomes(op) {
            wanted.insert(format!("{op}: {outcome}"));
            wanted.insert(format!("{op}: {outcome}, negated"));
        }
        if !["exists", "in_segment"].contains(&op) {
            wanted.insert(format!("{op}: long list, true"));
            wanted.insert(format!("{op}: long list, false"));
        }
        wanted.extend(
            unusable(op)
                .iter()
                .map(|kind| format!("{op}: wrong {kind}")),
        );
    }
    let kinds = ["string", "number", "boolean"];
    let pairs = kinds
        .iter()
        .flat_map(|a| kinds.map(|b| format!("in: {a} against {b}")));
    wanted.extend(pairs);
    wanted.extend(OTHERS.map(str::to_owned));
    wanted
}

fn outcomes(op: &str) -> &'static [&'static str] {
    match op {
        "in_segment" => &["match", "no match", "undecided"],
        "exists" => &["match", "missing", "null"],
        // Any type can equal.
        "in" => &[
            "match",
            "no match",
            "missing",
            "null",
            "match in a list",
            "no match in a list",
            "nothing in a list",
        ],
        _ => &[
            "match",
            "no match",
            "wrong type",
            "missing",
            "null",
            "match in a list",
            "no match in a list",
            "wrong type in a list",
            "nothing in a list",
        ],
    }
}

/// The types of values that an operator cannot use, or cannot always use.
fn unusable(op: &str) -> &'static [&'static str] {
    match op {
        "in" | "exists" | "in_segment" => &[],
        "contains" | "starts_with" | "ends_with" | "matches" => &["number", "boolean"],
        "lt" | "lte" | "gt" | "gte" => &["string", "boolean"],
        _ => &["string", "number", "boolean"],
    }
}

const OTHERS: [&str; 75] = [
    // Reasons and details.
    "FLAG_NOT_FOUND",
    "DISABLED",
    "PREREQUISITE_FAILED",
    "TARGET_MATCH",
    "RULE_MATCH",
    "SPLIT",
    "DEFAULT",
    "STATIC",
    "no detail",
    "BUCKETING_KEY_MISSING",
    "ARCHIVED",
    "GRAPH_UNSOUND",
    // Graphs.
    "prerequisite met",
    "prerequisite not met",
    "prerequisite disabled",
    "prerequisite ARCHIVED",
    "prerequisite missing",
    "prerequisite of a prerequisite",
    "segment in a segment",
    "a chain of 20 steps",
    "more than 64 states entered",
    "config version of what it uses",
    "config version of what it uses indirectly",
    "config version of a holdout",
    // Segments.
    "segment: excluded",
    "segment: included",
    "segment: rule",
    "segment: share in",
    "segment: share out",
    "segment: share without a value",
    // Bucketing.
    "bucket by nothing",
    "bucket by an empty text",
    "bucket by a text",
    "bucket by a boolean",
    "bucket by a list",
    "bucket by a fraction",
    "bucket by too large a number",
    "bucket by a whole number",
    // Experiments.
    "experiment: takes part",
    "experiment: takes part, at the first slot",
    "experiment: takes part, at the last slot",
    "experiment: takes part, without a layer",
    "experiment: before its range",
    "experiment: after its range",
    "experiment: without a slot",
    "experiment: held out",
    "experiment: held out because the holdout cannot be decided",
    "exposure:",
    "exposure: tracked",
    "exposure: experiment",
    "exposure: tracked experiment",
    "exposure: no bucket",
    "exposure: tracked no bucket",
    "exposure: experiment no bucket",
    "exposure: tracked experiment no bucket",
    // Times.
    "before: equal, written differently",
    "before: equal, text and milliseconds",
    "before: equal, both milliseconds",
    "after: equal, written differently",
    "after: equal, text and milliseconds",
    // Addresses.
    "in_cidr: v4 in v4, true",
    "in_cidr: v4 in one of v4, true",
    "in_cidr: v4 in everything of v4, true",
    "in_cidr: v4 in mapped, true",
    "in_cidr: v4 in everything of mapped, true",
    "in_cidr: mapped in v4, true",
    "in_cidr: mapped in one of mapped, true",
    "in_cidr: v6 in v6, true",
    "in_cidr: v6 in one of v6, true",
    "in_cidr: v6 in everything of v6, true",
    "in_cidr: v4 in everything of v6, false",
    "in_cidr: mapped in v6, false",
    "in_cidr: v6 in everything of v4, false",
    // Patterns.
    "matches: beyond ASCII, true",
    "matches: beyond ASCII, false",
];
