//! Whatever is asked, in whatever batches: machines agree, and deltas lead where snapshots do.

use std::collections::BTreeMap;

use pennon_evaluator::{ConfigSnapshot, EvaluationState, Version};
use pennon_raft_store::command::{ClusterId, ObjectKind};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Entry, Machine, Since};
use pennon_raft_store::plan::{ChangeRequest, compile_one};
use proptest::prelude::*;

use crate::support::*;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put(u8),
    Policy(u8, u8, bool),
    Switch(u8, bool),
    Delete(u8),
    DeletePolicy(u8),
    Segment(u8, u8),
    DeleteSegment(u8),
    Environment(bool),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5u8).prop_map(Step::Put),
        (0..5u8, 0..5u8, any::<bool>()).prop_map(|(a, b, c)| Step::Policy(a, b, c)),
        (0..5u8, any::<bool>()).prop_map(|(a, b)| Step::Switch(a, b)),
        (0..5u8).prop_map(Step::Delete),
        (0..5u8).prop_map(Step::DeletePolicy),
        (0..4u8, 0..4u8).prop_map(|(a, b)| Step::Segment(a, b)),
        (0..4u8).prop_map(Step::DeleteSegment),
        any::<bool>().prop_map(Step::Environment),
    ]
}

pub(crate) fn ask(step: &Step, n: usize) -> ChangeRequest {
    let name = |k: &u8| format!("f{k}");
    let writes = match step {
        Step::Put(k) => vec![put(
            flag(&name(k)),
            &FLAG.replace("{\"type", &format!("{{\"description\":\"{n}\",\"type")),
        )],
        Step::Policy(k, other, need) => {
            let json = if *need {
                format!(
                    r#"{{"enabled":true,"prerequisites":[{{"flag":"f{other}","variants":["on"]}}],"default":{{"variant":"on"}}}}"#
                )
            } else {
                format!(
                    r#"{{"enabled":true,"rules":[{{"when":[{{"op":"in_segment","values":["s{}"]}}],"serve":{{"variant":"on"}}}}],
                        "default":{{"rollout":{{"weights":[{{"variant":"on","weight":{n}}},{{"variant":"off","weight":1}}]}}}}}}"#,
                    other % 4
                )
            };
            vec![put(policy(&name(k)), &json)]
        }
        Step::Switch(k, on) => vec![switch(&name(k), *on)],
        Step::Delete(k) => vec![delete(flag(&name(k)))],
        Step::DeletePolicy(k) => vec![delete(policy(&name(k)))],
        Step::Segment(k, inner) if k == inner => vec![put(
            segment(&format!("s{k}")),
            &format!(r#"{{"included":["u{n}"]}}"#),
        )],
        Step::Segment(k, inner) => {
            let json = format!(
                r#"{{"rules":[{{"when":[{{"op":"in_segment","values":["s{inner}"]}}]}}]}}"#
            );
            vec![put(segment(&format!("s{k}")), &json)]
        }
        Step::DeleteSegment(k) => vec![delete(segment(&format!("s{k}")))],
        Step::Environment(true) => vec![put(env("e"), "{}")],
        Step::Environment(false) => vec![delete(env("e"))],
    };
    match n % 5 {
        0 => named(&format!("request-{}", n / 7), n as u128 % 2, writes),
        _ => request(writes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is asked, in whatever batches: a second machine that applies the same entries,
    /// reloading itself from a snapshot at random moments, has the same digest at every version
    /// (I4); every compiled state is what compiling the ground state gives (I4); and a client that
    /// looks only now and then arrives at the same snapshot by deltas (I8).
    #[test]
    fn machines_agree_and_deltas_lead_where_snapshots_do(
        steps in prop::collection::vec((step(), 1..4usize, any::<u8>()), 1..60),
    ) {
        let mut cluster = Cluster::new();
        cluster.written(vec![put(env("e"), "{}")]);
        for k in 0..4 {
            cluster.written(vec![put(flag(&format!("f{k}")), FLAG), put(segment(&format!("s{k}")), "{}")]);
        }
        let mut other = Machine::new(ClusterId::new(7));
        let mut applied = 0;
        let mut client: Option<ConfigSnapshot> = None;
        let mut n = 1;
        let mut steps = steps.into_iter();
        while let Some((first, more, dice)) = steps.next() {
            let mut requests = vec![ask(&first, n)];
            n += 1;
            for (step, _, _) in steps.by_ref().take(more - 1) {
                requests.push(ask(&step, n));
                n += 1;
            }
            cluster.batch(&requests);
            for bytes in &cluster.log[applied..] {
                applied += 1;
                other.apply(LogId { term: 1, index: applied as u64 }, Entry::Command(bytes));
                if dice % 4 == 0 {
                    other = reload(&other);
                }
            }
            prop_assert_eq!(other.digest(), cluster.machine.digest());
            prop_assert_eq!(other.version(), cluster.machine.version());
            if dice % 3 == 0 {
                client = look(&cluster.machine, client);
            }
            check_compiled(&cluster.machine);
        }
    }
}

fn look(machine: &Machine, client: Option<ConfigSnapshot>) -> Option<ConfigSnapshot> {
    let whole = machine.config_snapshot(&e())?;
    let have = client
        .as_ref()
        .map_or(Version::ZERO, ConfigSnapshot::version);
    let next = match (machine.since(&e(), have), client) {
        (Since::Changes(delta), Some(client)) => client.apply(&delta).unwrap(),
        (Since::Nothing, Some(client)) => client.with_version(machine.version()).unwrap(),
        _ => whole.clone(),
    };
    assert_eq!(next.digest(), whole.digest());
    assert!(
        next.states()
            .iter()
            .map(|s| s.bytes())
            .eq(whole.states().iter().map(|s| s.bytes()))
    );
    Some(next)
}

fn check_compiled(machine: &Machine) {
    for environment in machine.environments() {
        let here = machine.compiled(environment).unwrap();
        let mut seen = BTreeMap::new();
        for (key, state) in here.states() {
            let changed_at = state.encoded.decode().unwrap().changed_at();
            let again = compile_one(machine, environment, key, changed_at)
                .unwrap()
                .unwrap();
            assert_eq!(
                EvaluationState::encode(&again),
                state.encoded.bytes(),
                "{key}"
            );
            seen.insert(key.to_string(), ());
        }
        for kind in [ObjectKind::Policy, ObjectKind::Segment] {
            for (id, _) in machine.objects(kind, Some(environment), None) {
                let word = if kind == ObjectKind::Policy {
                    "flag"
                } else {
                    "segment"
                };
                assert!(
                    seen.contains_key(&format!("{word}/{}", id.key())),
                    "{id} has no compiled state"
                );
            }
        }
    }
}
