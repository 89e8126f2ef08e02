//! The catalogue of decisions (`testdata/decisions/`): the answers of an evaluator in another
//! language, worked out from the specification. Compiled evaluation gives them all, and so does the
//! slow one that other tests trust (I7).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;
mod slow;

use std::fs;
use std::path::Path;

use common::World;
use pennon_evaluator::{DEPTH_MAX, EvaluationState, Subject, check_graph, experiment_clashes};
use serde_json::{Map, Value};
use slow::{Seen, Slow};

/// A file of the catalogue.
struct Theme {
    name: String,
    world: World,
    decisions: Vec<Value>,
}

fn themes() -> Vec<Theme> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/decisions");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|ext| ext == "json"));
    files
        .map(|path| theme(&fs::read_to_string(path).unwrap()))
        .collect()
}

fn theme(text: &str) -> Theme {
    let theme: Value = serde_json::from_str(text).unwrap();
    let mut world = World::default();
    for (key, place) in theme["flags"].as_object().unwrap() {
        let (config, policy) = (place["config"].clone(), place["policy"].clone());
        world = world.with_flag(key, changed_at(place), config, policy);
    }
    for (key, place) in theme["segments"].as_object().unwrap() {
        world = world.with_segment(key, changed_at(place), place["policy"].clone());
    }
    Theme {
        name: theme["theme"].as_str().unwrap().to_owned(),
        world,
        decisions: theme["decisions"].as_array().unwrap().clone(),
    }
}

fn changed_at(place: &Value) -> u64 {
    place["changed_at"].as_u64().unwrap()
}

/// Flag, subject key, attributes, answer and exposure of a decision.
fn parts(decision: &Value) -> (&str, &str, &Map<String, Value>, &Value, bool) {
    let subject = &decision["subject"];
    (
        decision["flag"].as_str().unwrap(),
        subject["key"].as_str().unwrap(),
        subject["attributes"].as_object().unwrap(),
        &decision["answer"],
        decision["exposure_due"].as_bool().unwrap(),
    )
}

#[test]
fn compiled_evaluation_gives_every_answer() {
    let mut count = 0;
    for theme in themes() {
        let snapshot = theme.world.load();
        for decision in &theme.decisions {
            let (flag, key, attributes, answer, exposure_due) = parts(decision);
            let subject = Subject::from_json(key, attributes).unwrap();
            let found = snapshot.evaluate(flag, &subject);
            let json = found.to_json(flag);
            assert_eq!(&json, answer, "{}: {decision}", theme.name); // I7
            assert!(fields(&json).eq(fields(answer)), "{}: {json}", theme.name);
            assert_eq!(
                found.exposure_due, exposure_due,
                "{}: {decision}",
                theme.name
            );
            count += 1;
        }
    }
    assert_eq!(count, 1_172, "a theme or a decision is gone");
}

fn fields(answer: &Value) -> impl Iterator<Item = &String> {
    answer.as_object().unwrap().keys()
}

#[test]
fn the_slow_evaluator_gives_every_answer() {
    for theme in themes() {
        let seen = Seen::default();
        let slow = Slow::new(&theme.world, &seen);
        for decision in &theme.decisions {
            let (flag, key, attributes, answer, exposure_due) = parts(decision);
            let found = slow.evaluate(flag, key, attributes);
            assert_eq!(&found.json, answer, "{}: {decision}", theme.name);
            assert_eq!(
                found.exposure_due, exposure_due,
                "{}: {decision}",
                theme.name
            );
        }
    }
}

/// What a cluster would refuse is no example: experiments that clash, circles, chains too long.
#[test]
fn every_theme_could_be_written() {
    for theme in themes() {
        let states = theme.world.states();
        let flags = states.iter().filter_map(|state| match state {
            EvaluationState::Flag(flag) => Some(flag),
            EvaluationState::Segment(_) => None,
        });
        let flags: Vec<_> = flags.collect();
        for (n, flag) in flags.iter().enumerate() {
            for other in &flags[..n] {
                let clashes = experiment_clashes(flag, Some(other));
                assert!(clashes.is_empty(), "{}: {clashes:?}", theme.name);
            }
        }
        for state in &states {
            let uses = |key: &_| {
                let found = states.iter().find(|state| state.state_key() == *key);
                found.map_or_else(Vec::new, EvaluationState::uses)
            };
            check_graph(&state.state_key(), &uses, DEPTH_MAX).unwrap();
        }
    }
}
