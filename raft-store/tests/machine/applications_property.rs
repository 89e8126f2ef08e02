//! Whatever is written: what an application needs is what a slow reading of everything finds.

use std::collections::BTreeSet;

use pennon_evaluator::{EvaluationState, FlagConfig, StateKey, StateKind};
use pennon_raft_store::command::ObjectKind;
use pennon_raft_store::machine::Machine;
use pennon_raft_store::plan::AskedWrite;
use proptest::prelude::*;
use serde_json::Value;

use crate::support::*;

const TAGS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    /// A flag and a bit for each tag.
    Flag(u8, u8),
    DeleteFlag(u8),
    /// A policy, the flag and the segment that it may need, and whether it does.
    Policy(u8, Option<u8>, Option<u8>),
    DeletePolicy(u8),
    Segment(u8, Option<u8>),
    DeleteSegment(u8),
    Application(u8),
    Environment(bool),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    let other = || prop::option::of(0..6u8);
    prop_oneof![
        6 => (0..6u8, 0..16u8).prop_map(|(a, b)| Step::Flag(a, b)),
        1 => (0..6u8).prop_map(Step::DeleteFlag),
        6 => (0..6u8, other(), other()).prop_map(|(a, b, c)| Step::Policy(a, b, c)),
        2 => (0..6u8).prop_map(Step::DeletePolicy),
        4 => (0..6u8, other()).prop_map(|(a, b)| Step::Segment(a, b)),
        1 => (0..6u8).prop_map(Step::DeleteSegment),
        2 => (1..16u8).prop_map(Step::Application),
        1 => any::<bool>().prop_map(Step::Environment),
        1 => Just(Step::Reload),
    ]
}

fn some_tags(bits: u8) -> Vec<&'static str> {
    let tags = TAGS.into_iter().enumerate();
    tags.filter(|(n, _)| bits & (1 << n) != 0)
        .map(|(_, tag)| tag)
        .collect()
}

fn ask(step: &Step) -> AskedWrite {
    let in_segment = |n: &Option<u8>| match n {
        Some(n) => format!(r#"{{"op":"in_segment","values":["s{n}"]}}"#),
        None => String::new(),
    };
    match step {
        Step::Flag(k, tags) => put(flag(&format!("f{k}")), &tagged(&some_tags(*tags))),
        Step::DeleteFlag(k) => delete(flag(&format!("f{k}"))),
        Step::Policy(k, other, inner) => {
            let needed = other.map(|n| format!(r#"{{"flag":"f{n}","variants":["on"]}}"#));
            let json = format!(
                r#"{{"enabled":true,"prerequisites":[{}],"rules":[{{"when":[{}],"serve":{{"variant":"on"}}}}],
                    "default":{{"variant":"off"}}}}"#,
                needed.unwrap_or_default(),
                in_segment(inner)
            );
            put(policy(&format!("f{k}")), &json)
        }
        Step::DeletePolicy(k) => delete(policy(&format!("f{k}"))),
        Step::Segment(k, inner) => {
            let json = format!(r#"{{"rules":[{{"when":[{}]}}]}}"#, in_segment(inner));
            put(segment(&format!("s{k}")), &json)
        }
        Step::DeleteSegment(k) => delete(segment(&format!("s{k}"))),
        Step::Application(tags) => {
            let tags = some_tags(*tags);
            put(application("shop"), &format!("{{\"tags\":{tags:?}}}"))
        }
        Step::Environment(true) | Step::Reload => put(env("e"), "{}"),
        Step::Environment(false) => delete(env("e")),
    }
}

/// Reads every FlagConfig, then adds what any state names until nothing is new.
fn slow(machine: &Machine) -> Option<BTreeSet<StateKey>> {
    let here = machine.compiled(&e())?;
    let shop = machine.object(&application("shop"))?;
    let shop: Value = serde_json::from_str(&shop.value).unwrap();
    let mut found = BTreeSet::new();
    for (id, object) in machine.objects(ObjectKind::Flag, None, None) {
        let config = FlagConfig::parse(&id.key().parse().unwrap(), &object.value).unwrap();
        let wanted = shop["tags"].as_array().unwrap().iter();
        let mut wanted = wanted.filter_map(Value::as_str);
        if wanted.any(|tag| config.tags.iter().any(|have| have == tag)) {
            found.insert(StateKey::new(StateKind::Flag, id.key()).unwrap());
        }
    }
    found.retain(|key| here.state(key).is_some());
    loop {
        let before = found.len();
        for (key, state) in here.states() {
            let uses = match state.encoded.decode().unwrap() {
                _ if !found.contains(key) => continue,
                EvaluationState::Flag(state) => {
                    let flags = state
                        .prerequisites
                        .iter()
                        .map(|one| StateKey::flag(&one.flag));
                    let segments = state.segments.iter().map(StateKey::segment);
                    flags.chain(segments).collect::<Vec<_>>()
                }
                EvaluationState::Segment(state) => {
                    state.segments.iter().map(StateKey::segment).collect()
                }
            };
            found.extend(uses.into_iter().filter(|key| here.state(key).is_some()));
        }
        if found.len() == before {
            return Some(found);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn members_are_what_a_slow_reading_finds(
        steps in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..60),
    ) {
        let mut cluster = Cluster::new();
        let mut writes = vec![put(env("e"), "{}"), put(application("shop"), r#"{"tags":["a","b"]}"#)];
        for k in 0..6 {
            writes.push(put(flag(&format!("f{k}")), &tagged(&some_tags(k))));
            writes.push(put(segment(&format!("s{k}")), "{}"));
            writes.push(put(policy(&format!("f{k}")), POLICY));
        }
        cluster.written(writes);
        for batch in steps {
            // What is refused changes nothing, and that is seen too.
            let requests: Vec<_> = batch.iter().map(|step| request(vec![ask(step)])).collect();
            cluster.batch(&requests);
            let machine = match batch.iter().any(|step| matches!(step, Step::Reload)) {
                true => reload(&cluster.machine),
                false => cluster.machine.clone(),
            };
            let members = machine.members(&e(), "shop");
            prop_assert_eq!(&members, &slow(&machine));
            if let Some(members) = members {
                let part = machine.snapshot_of(&e(), &members).unwrap();
                let states: BTreeSet<_> = part.states().iter().map(|state| state.state_key().clone()).collect();
                prop_assert_eq!(states, members);
            }
        }
    }
}
