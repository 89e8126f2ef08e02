//! Experiments of several flags: what of them may stand side by side, and what they refer to.

use pennon_evaluator::{Snapshot, StateKey, StateKind, Subject};
use pennon_raft_store::command::{
    Batch, Command, CompiledChange, Item, ObjectId, Origin, Outcome, Refusal, Verdict,
};
use pennon_raft_store::machine::Since;
use pennon_raft_store::plan::{AskedWrite, Draft, Planned};

use crate::support::*;

const RANGE: &str = "/rules/0/serve/rollout/experiment/layer/range";

/// An experiment as it is written; `more` are further fields of the rollout, each with a comma.
fn rule(experiment: &str, more: &str) -> String {
    format!(
        r#"{{"when":[],"serve":{{"rollout":{{{more}"experiment":{experiment},
            "weights":[{{"variant":"on","weight":1}},{{"variant":"off","weight":1}}]}}}}}}"#
    )
}

fn rules(rules: &[String]) -> String {
    let rules = rules.join(",");
    format!(r#"{{"enabled":true,"rules":[{rules}],"default":{{"variant":"off"}}}}"#)
}

fn ranged(key: &str, layer: &str, range: [u32; 2]) -> String {
    format!(r#"{{"key":"{key}","layer":{{"key":"{layer}","range":{range:?}}}}}"#)
}

/// The policy of a flag with one experiment of the same key, in the layer `checkout`.
fn claims(name: &str, start: u32, end: u32) -> AskedWrite {
    let rule = rule(&ranged(name, "checkout", [start, end]), "");
    put(policy(name), &rules(&[rule]))
}

fn held_out(name: &str, holdout: &str) -> AskedWrite {
    let experiment = format!(r#"{{"key":"{name}","holdout":"{holdout}"}}"#);
    put(policy(name), &rules(&[rule(&experiment, "")]))
}

/// The environment `e` with these flags.
fn cluster(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.written(vec![put(env("e"), "{}")]);
    for name in flags {
        cluster.written(vec![put(flag(name), FLAG)]);
    }
    cluster
}

fn invalid(refusal: &Refusal) -> (u32, String) {
    let Refusal::Invalid { write, faults } = refusal else {
        panic!("{refusal:?}")
    };
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    (*write, faults.join("\n"))
}

#[track_caller]
fn assert_refused(outcome: &Outcome, write: u32, parts: &[&str]) {
    let Outcome::Refused { refusal, .. } = outcome else {
        panic!("{outcome:?}")
    };
    let (at, faults) = invalid(refusal);
    assert_eq!(at, write, "{faults}");
    for part in parts {
        assert!(faults.contains(part), "{part:?} is not in {faults}");
    }
}

fn named_by(cluster: &Cluster, kind: StateKind, key: &str) -> Vec<String> {
    let key = StateKey::new(kind, key).unwrap();
    let environment = e();
    let users = cluster.machine.users_of(&environment, &key);
    users.map(ToString::to_string).collect()
}

#[test]
fn what_is_judged_is_the_outcome_of_a_change_set() {
    let mut cluster = cluster(&["a", "b", "c"]);
    cluster.written(vec![claims("a", 0, 5000), claims("b", 5000, 10_000)]);
    let swapped = vec![claims("a", 5000, 10_000), claims("b", 0, 5000)];
    cluster.written(swapped);

    let overlap = vec![claims("a", 0, 5001), claims("b", 5000, 10_000)];
    let outcome = cluster.one(overlap);
    assert_refused(&outcome, 1, &[RANGE, "[0, 5001]", "flag \"a\""]);
    // What is freed in the change set can be taken in it, in any order.
    cluster.written(vec![claims("c", 5000, 10_000), delete(policy("a"))]);
    cluster.written(vec![claims("b", 0, 10), claims("c", 10, 10_000)]);
}

#[test]
fn a_later_change_set_of_a_batch_is_judged_against_the_earlier_ones() {
    let mut cluster = cluster(&["a", "b", "c"]);
    let outcomes = cluster.batch(&[
        request(vec![claims("a", 0, 6000)]),
        request(vec![claims("b", 5000, 10_000)]),
        request(vec![claims("c", 6000, 10_000)]),
    ]);
    assert!(matches!(outcomes[0], Outcome::Written { .. }));
    assert_refused(&outcomes[1], 0, &[RANGE, "flag \"a\""]);
    assert!(matches!(outcomes[2], Outcome::Written { .. }));
}

#[test]
fn a_clash_is_still_there_at_the_version_that_its_refusal_names() {
    let mut cluster = cluster(&["a", "b", "other"]);
    cluster.written(vec![claims("a", 0, 5000)]);
    for lost in [
        request(vec![claims("b", 0, 1)]),
        named("lost", 1, vec![claims("b", 0, 1)]),
    ] {
        let mut draft = Draft::on(&cluster.machine);
        assert!(matches!(
            draft.plan(&request(vec![put(policy("other"), POLICY)])),
            Planned::Batched(..)
        ));
        let (Planned::Answered(refused) | Planned::Batched(_, refused)) = draft.plan(&lost) else {
            panic!()
        };
        assert_refused(&refused, 0, &[RANGE, "flag \"a\""]);
        assert_eq!(refused.version(), cluster.machine.next_version());
        // The other one does not free its range in the same breath.
        let frees = request(vec![delete(policy("a"))]);
        assert_eq!(draft.plan(&frees), Planned::Later); // I2
    }
}

#[test]
fn every_rule_about_experiments_holds_across_flags() {
    let mut cluster = cluster(&["a", "b"]);
    let write = |name: &str, experiment: &str, more: &str| {
        put(policy(name), &rules(&[rule(experiment, more)]))
    };
    let first = ranged("k", "checkout", [0, 100]);
    cluster.written(vec![write("a", &first, "")]);
    let by_org = r#""bucket_by":"org","#;
    let cases = [
        (ranged("k", "checkout", [0, 101]), "", "experiment/layer"),
        (ranged("k", "basket", [0, 100]), "", "experiment/layer"),
        (r#"{"key":"k"}"#.to_owned(), "", "experiment/layer"),
        (first.clone(), by_org, "bucket_by"),
        (ranged("l", "checkout", [100, 200]), by_org, "bucket_by"),
        (ranged("l", "checkout", [99, 200]), "", "layer/range"),
    ];
    for (experiment, more, field) in &cases {
        let outcome = cluster.one(vec![write("b", experiment, more)]);
        let pointer = format!("/rules/0/serve/rollout/{field}");
        let pointer = match *field {
            "layer/range" => RANGE,
            _ => &pointer,
        };
        assert_refused(&outcome, 0, &[pointer, "flag \"a\""]);
    }
    for (experiment, more) in [
        (first.as_str(), ""),
        (&ranged("l", "checkout", [100, 200]), ""),
        (&ranged("l", "basket", [0, 100]), by_org),
        (r#"{"key":"l"}"#, by_org),
    ] {
        cluster.written(vec![write("b", experiment, more)]);
    }
    // A new attribute alone is judged too.
    cluster.written(vec![write("b", &first, "")]);
    let outcome = cluster.one(vec![write("b", &first, by_org)]);
    assert_refused(&outcome, 0, &["/rules/0/serve/rollout/bucket_by"]);
    // In another environment everything is free.
    cluster.written(vec![put(env("x"), "{}")]);
    let elsewhere = ObjectId::policy("x".parse().unwrap(), "b");
    let all = rules(&[rule(&ranged("k", "checkout", [0, 10_000]), "")]);
    cluster.written(vec![put(elsewhere, &all)]);
}

#[test]
fn a_policy_that_goes_away_has_freed_its_range() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.written(vec![claims("a", 0, 5000)]);
    let wanted = vec![claims("b", 4999, 5001)];
    cluster.refused(wanted.clone());
    assert_eq!(named_by(&cluster, StateKind::Layer, "checkout"), ["flag/a"]);
    cluster.written(vec![delete(policy("a"))]);
    for (kind, key) in [(StateKind::Layer, "checkout"), (StateKind::Experiment, "a")] {
        assert_eq!(named_by(&cluster, kind, key), [""; 0]);
    }
    cluster.written(wanted);
    // So has one that goes on without its experiment, or with its environment.
    cluster.refused(vec![claims("a", 0, 5000)]);
    cluster.written(vec![put(policy("b"), POLICY)]);
    cluster.written(vec![claims("a", 0, 5000)]);
    cluster.written(vec![
        delete(policy("a")),
        delete(policy("b")),
        delete(env("e")),
    ]);
    cluster.written(vec![put(env("e"), "{}")]);
    cluster.written(vec![claims("b", 0, 10_000)]);
}

#[test]
fn the_index_of_users_comes_back_with_a_snapshot() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.written(vec![claims("a", 0, 5000)]);
    cluster.machine = reload(&cluster.machine);
    assert_eq!(named_by(&cluster, StateKind::Experiment, "a"), ["flag/a"]);
    let outcome = cluster.one(vec![claims("b", 0, 1)]);
    assert_refused(&outcome, 0, &[RANGE, "flag \"a\""]);
}

/// An entry as no leader makes it brings two flags to the same slots. What does not touch their
/// claims goes on all the same.
#[test]
fn a_flag_config_and_a_kill_switch_are_never_refused_for_a_clash_that_was_there_before() {
    let mut cluster = cluster(&["a", "b", "c"]);
    cluster.written(vec![claims("a", 0, 5000)]);
    cluster.written(vec![put(env("x"), "{}")]);
    let (_, there) = (
        cluster.written(vec![claims("b", 5000, 6000)]),
        ObjectId::policy("x".parse().unwrap(), "b"),
    );
    let whole = rules(&[rule(&ranged("b", "checkout", [0, 10_000]), "")]);
    cluster.written(vec![put(there, &whole)]);
    force(&mut cluster, claims("b", 4000, 6000));

    let described = FLAG.replace("{\"type", "{\"description\":\"d\",\"type");
    cluster.written(vec![put(flag("b"), &described)]);
    cluster.written(vec![put(flag("a"), &described), put(flag("b"), FLAG)]);
    cluster.written(vec![switch("b", false)]);
    cluster.written(vec![switch("a", false), switch("b", true)]);
    // The claims are compared, and only they: weights may change, ranges only to what is free.
    let again = claims("b", 4000, 6000);
    let heavier = match &again.ask {
        pennon_raft_store::plan::Ask::Put(text) => text.replace("\"weight\":1", "\"weight\":2"),
        other => panic!("{other:?}"),
    };
    cluster.written(vec![put(policy("b"), &heavier)]);
    cluster.refused(vec![claims("b", 4001, 6000)]);
    cluster.refused(vec![claims("c", 4999, 5000)]);
    cluster.written(vec![claims("b", 5000, 6000)]);
    cluster.written(vec![claims("c", 6000, 6001)]);
}

/// Applies a write that the plan would refuse: planned on a machine where nothing is in its way.
fn force(cluster: &mut Cluster, write: AskedWrite) {
    let mut alone = Cluster::new();
    alone.written(vec![
        put(env("e"), "{}"),
        put(ObjectId::flag(write.object.key_arc()), FLAG),
    ]);
    let mut draft = Draft::on(&alone.machine);
    let Planned::Batched(item, _) = draft.plan(&request(vec![write])) else {
        panic!()
    };
    let (base, time_ms) = (cluster.machine.version(), 0);
    let items = vec![item];
    cluster.apply(Command::Batch(Batch {
        base,
        time_ms,
        items,
    }));
}

#[test]
fn a_holdout_is_a_segment_like_any_other() {
    let mut cluster = cluster(&["a", "b"]);
    let refused = cluster.one(vec![held_out("a", "h")]);
    assert_refused(&refused, 0, &["/experiment/holdout: there is no segment"]);
    let tenth = r#"{"rules":[{"when":[],"rollout":{"share":1,"of":10}}]}"#;
    cluster.written(vec![put(segment("h"), tenth), held_out("a", "h")]);
    cluster.written(vec![held_out("b", "h")]);
    let Refusal::InUse { object, users } = cluster.refused(vec![delete(segment("h"))]) else {
        panic!()
    };
    assert_eq!(object, segment("h"));
    assert_eq!(users, ["policy a in e", "policy b in e"]);
    cluster.written(vec![put(policy("b"), POLICY)]);
    cluster.written(vec![delete(segment("h")), delete(policy("a"))]);
}

#[test]
fn the_config_version_follows_the_holdout() {
    let mut cluster = cluster(&["a"]);
    cluster.written(vec![put(segment("inner"), "{}")]);
    let nested = r#"{"rules":[{"when":[{"op":"in_segment","values":["inner"]}]}]}"#;
    cluster.written(vec![put(segment("h"), nested)]);
    let own = cluster.written(vec![held_out("a", "h")]);
    let seen = |cluster: &Cluster| {
        let snapshot = cluster.machine.config_snapshot(&e()).unwrap();
        let snapshot = Snapshot::load(&snapshot).unwrap();
        let found = snapshot.evaluate("a", &Subject::new("ana"));
        (found.config_version, found.experiment.map(str::to_owned))
    };
    assert_eq!(seen(&cluster), (own, Some("a".into())));
    let outside = cluster.written(vec![put(segment("other"), "{}")]);
    assert_eq!(seen(&cluster).0, own, "nothing to do with it");
    let held = cluster.written(vec![put(segment("inner"), r#"{"included":["ana"]}"#)]);
    assert_eq!(seen(&cluster), (held, None));
    // A follower of changes gets the segment alone.
    let Since::Changes(delta) = cluster.machine.since(&e(), outside) else {
        panic!()
    };
    let changed: Vec<String> = delta
        .upserts
        .iter()
        .map(|s| s.state_key().to_string())
        .collect();
    assert_eq!(changed, ["segment/inner"]);
}

#[test]
fn a_holdout_is_a_step_of_a_chain_and_a_layer_is_none() {
    let mut cluster = cluster(&["a"]);
    let nested = |inner: usize| {
        format!(r#"{{"rules":[{{"when":[{{"op":"in_segment","values":["s{inner}"]}}]}}]}}"#)
    };
    cluster.written(vec![put(segment("s0"), "{}")]);
    for n in 1..=20 {
        cluster.written(vec![put(segment(&format!("s{n}")), &nested(n - 1))]);
    }
    // a -> s20 -> … -> s0 is 21 steps.
    let refused = cluster.one(vec![held_out("a", "s20")]);
    assert_refused(&refused, 0, &["deeper than 20"]);
    cluster.written(vec![held_out("a", "s19")]);
    // Nor can the chain grow at its lower end.
    cluster.written(vec![put(segment("below"), "{}")]);
    let grown = nested(0).replace("s0", "below");
    let refused = cluster.one(vec![put(segment("s0"), &grown)]);
    assert_refused(&refused, 0, &["policy a in e", "deeper than 20"]);

    // Twenty steps of prerequisites, and at their end an experiment in a layer.
    let mut cluster = Cluster::with_flag();
    cluster.written(vec![put(flag("p0"), FLAG), claims("p0", 0, 1)]);
    for n in 1..=20 {
        let below = n - 1;
        let needs = format!(
            r#"{{"enabled":true,"prerequisites":[{{"flag":"p{below}","variants":["on"]}}],"default":{{"variant":"on"}}}}"#
        );
        let name = format!("p{n}");
        cluster.written(vec![put(flag(&name), FLAG), put(policy(&name), &needs)]);
    }
    let rewritten = claims("p0", 1, 2);
    cluster.written(vec![rewritten]);
}

#[test]
fn layers_and_experiments_do_not_count_among_what_a_flag_uses() {
    // Twenty-one flags with a hundred experiments each, in layers of their own, name 4,200 things.
    let names: Vec<String> = (0..21).map(|n| format!("f{n}")).collect();
    let mut cluster = cluster(&["all"]);
    for name in &names {
        let each = |n| {
            let experiment = ranged(&format!("{name}-{n}"), &format!("l-{name}-{n}"), [0, 1]);
            rule(&experiment, "")
        };
        let text = rules(&(0..100).map(each).collect::<Vec<_>>());
        cluster.written(vec![put(flag(name), FLAG), put(policy(name), &text)]);
    }
    let needs = names
        .iter()
        .map(|flag| format!(r#"{{"flag":"{flag}","variants":["on"]}}"#));
    let needs = format!(
        r#"{{"enabled":true,"prerequisites":[{}],"default":{{"variant":"on"}}}}"#,
        needs.collect::<Vec<_>>().join(",")
    );
    cluster.written(vec![put(policy("all"), &needs)]);
}

/// Flags with these experiments, none in a layer: what creates them.
fn with_keys(prefix: &str, count: usize, keys: impl Fn(usize) -> Vec<String>) -> Vec<AskedWrite> {
    let writes = (0..count).flat_map(|n| {
        let each = keys(n);
        let each = each
            .iter()
            .map(|key| rule(&format!(r#"{{"key":"{key}"}}"#), ""));
        let text = rules(&each.collect::<Vec<_>>());
        let name = format!("{prefix}{n}");
        [put(flag(&name), FLAG), put(policy(&name), &text)]
    });
    writes.collect()
}

#[test]
fn a_change_set_is_compared_with_so_many_flags_and_what_is_there_can_still_be_switched() {
    let mut cluster = cluster(&[]);
    let some = |n: usize| vec![format!("k{}", n / 100)];
    let all = |_| (0..11).map(|n| format!("k{n}")).collect();
    cluster.written(with_keys("f", 1_001, some));
    let Refusal::Quota { what, max } = cluster.refused(with_keys("g", 1, all)) else {
        panic!()
    };
    assert!(what.contains("other flags"), "{what}");
    assert_eq!(max, 1_000);
    cluster.written(vec![delete(policy("f1000"))]);
    cluster.written(with_keys("g", 1, all));
    cluster.written(vec![put(policy("f1000"), POLICY)]);
    cluster.written(with_keys("h", 1, |_| vec!["k10".into()]));
    // By now g0 has 1,001 of them beside it.
    cluster.written(vec![switch("g0", false)]);
    cluster.written(vec![switch("g0", true)]);
    cluster.written(vec![delete(policy("g0"))]);
}

#[test]
fn so_many_comparisons_are_made_for_one_change_set() {
    let mut cluster = cluster(&[]);
    let hundred = |_| vec!["k".to_owned(); 100];
    // Eight flags are 28 pairs of 10,000 comparisons each.
    let Refusal::Quota { what, max } = cluster.refused(with_keys("f", 8, hundred)) else {
        panic!()
    };
    assert!(what.contains("comparisons"), "{what}");
    assert_eq!(max, 250_000);
    cluster.written(with_keys("f", 4, hundred));
}

/// A state that only another release can read may hold any range.
#[test]
fn beside_a_flag_that_cannot_be_read_nothing_is_taken() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.written(vec![claims("a", 0, 10)]);
    let here = cluster.machine.compiled(&e()).unwrap();
    let key = StateKey::new(StateKind::Flag, "a").unwrap();
    let state = here.state(&key).unwrap();
    let mut bytes = state.encoded.bytes().to_vec();
    bytes.push(0);
    let compiled = CompiledChange {
        environment: e(),
        key,
        state: Some(bytes.into()),
        uses: state.uses.to_vec(),
    };
    apply_compiled(&mut cluster, vec![compiled]);
    let outcome = cluster.one(vec![put(flag("c"), FLAG), claims("b", 5_000, 6_000)]);
    assert_refused(&outcome, 1, &["flag/a cannot be read"]);
    // Compiling it again mends it, and judges nothing that is not written.
    force(&mut cluster, claims("b", 5, 6));
    cluster.written(vec![put(flag("a"), FLAG)]);
    cluster.written(vec![claims("b", 5_000, 6_000)]);
}

/// A leader gone mad names a layer as a state: nobody has it, nobody hears of it.
#[test]
fn a_layer_is_never_a_state() {
    let mut cluster = Cluster::with_flag();
    let before = cluster.machine.clone();
    let compiled = [StateKind::Layer, StateKind::Experiment].map(|kind| CompiledChange {
        environment: e(),
        key: StateKey::new(kind, "x").unwrap(),
        state: None,
        uses: vec![StateKey::new(StateKind::Flag, "f").unwrap()],
    });
    apply_compiled(&mut cluster, compiled.to_vec());
    assert_eq!(cluster.machine.digest(), before.digest());
    assert_eq!(named_by(&cluster, StateKind::Flag, "f"), [""; 0]);
    assert!(matches!(
        cluster.machine.since(&e(), before.version()),
        Since::Nothing
    )); // I11
}

/// Applies compiled states as no leader makes them.
fn apply_compiled(cluster: &mut Cluster, compiled: Vec<CompiledChange>) {
    let verdict = Verdict::Commit {
        writes: vec![],
        compiled,
        unchanged: vec![],
    };
    let origin = Origin {
        actor: "mad".into(),
        request: None,
        reason: None,
    };
    let (base, time_ms) = (cluster.machine.version(), 0);
    let items = vec![Item { origin, verdict }];
    cluster.apply(Command::Batch(Batch {
        base,
        time_ms,
        items,
    }));
}
