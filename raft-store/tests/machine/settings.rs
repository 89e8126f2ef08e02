//! The setting `limits`: what it allows and refuses, from when on, and what it leaves alone.

use std::fmt::Write as _;

use pennon_evaluator::{Limits, StateKey, StateKind};
use pennon_raft_store::command::{ObjectId, Outcome, Refusal};
use pennon_raft_store::plan::{AskedWrite, Draft, Planned, compile_one};
use serde_json::json;

use crate::support::{
    Cluster, FLAG, POLICY, delete, e, env, flag, named, policy, put, reload, request, segment,
    setting, switch,
};

fn limits(json: &str) -> AskedWrite {
    put(setting("limits"), json)
}

/// A policy with so many rules.
fn with_rules(count: usize) -> String {
    let rule = json!({"when": [], "serve": {"variant": "off"}});
    json!({"enabled": true, "rules": vec![rule; count], "default": {"variant": "on"}}).to_string()
}

/// A boolean flag with so many variants, the first of which are `off` and `on`.
fn with_variants(count: usize) -> String {
    let mut variants = String::from(r#""off":false,"on":true"#);
    for n in 2..count {
        write!(variants, r#","v{n}":true"#).unwrap();
    }
    format!(r#"{{"type":"boolean","variants":{{{variants}}},"off_variant":"off"}}"#)
}

/// The complaints about a write, as `pointer: message`.
fn faults(refusal: Refusal) -> Vec<String> {
    match refusal {
        Refusal::Invalid { faults, .. } => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn quota(refusal: &Refusal) -> (&str, u64) {
    match refusal {
        Refusal::Quota { what, max } => (what, *max),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_known_settings_with_sound_values_are_stored() {
    let mut cluster = Cluster::with_flag();
    let unknown = cluster.refused(vec![put(setting("limit"), "{}")]);
    assert_eq!(
        faults(unknown),
        ["there is no setting \"limit\"; there is: limits, history"]
    );
    let unsound = cluster.refused(vec![limits(r#"{"rules":0,"ruls":1}"#)]);
    assert_eq!(faults(unsound).len(), 2);
    cluster.written(vec![limits(r#"{ "rules": 7 }"#)]);
    let stored = cluster.machine.object(&setting("limits")).unwrap();
    assert_eq!(&*stored.value, r#"{"rules":7}"#);
    assert_eq!(cluster.machine.limits().rules_max, 7);
}

#[test]
fn limits_hold_from_the_change_set_on_that_sets_them() {
    let mut cluster = Cluster::with_flag();
    assert_eq!(cluster.machine.limits(), &Limits::default());
    cluster.written(vec![limits(r#"{"rules":2}"#)]);
    cluster.written(vec![put(policy("f"), &with_rules(2))]);
    let refused = faults(cluster.refused(vec![put(policy("f"), &with_rules(3))]));
    assert_eq!(refused, ["/rules: at most 2 rules are allowed, not 3"]);
    // Judged by the limits after it, whichever write comes first.
    for n in [3, 4] {
        let raise = limits(&format!(r#"{{"rules":{n}}}"#));
        let mut writes = vec![raise, put(policy("f"), &with_rules(n))];
        if n == 4 {
            writes.reverse();
        }
        cluster.written(writes);
    }
    for flip in [false, true] {
        let mut writes = vec![limits(r#"{"rules":3}"#), put(policy("f"), &with_rules(4))];
        if flip {
            writes.reverse();
        }
        let refusal = cluster.refused(writes);
        let Refusal::Invalid { write, .. } = &refusal else {
            panic!("{refusal:?}")
        };
        assert_eq!(*write, u32::from(!flip), "the fault is in the policy");
    }
    cluster.written(vec![delete(setting("limits"))]);
    cluster.written(vec![put(policy("f"), &with_rules(1000))]);
    cluster.refused(vec![put(policy("f"), &with_rules(1001))]);
}

#[test]
fn lowered_limits_leave_alone_what_is_there() {
    let mut cluster = Cluster::with_flag();
    let large = with_rules(3).replace(
        "\"rules\"",
        r#""prerequisites":[{"flag":"f","variants":["v2"]}],"rules""#,
    );
    cluster.written(vec![
        put(flag("f"), &with_variants(3)),
        put(policy("f"), &with_rules(3)),
        put(flag("g"), FLAG),
        put(policy("g"), &large),
        limits(r#"{"rules":3,"variants":3}"#),
    ]);
    cluster.written(vec![limits(r#"{"rules":1,"variants":2}"#)]);

    // What is stored stays, and every node still finds it sound.
    let sound = |cluster: &Cluster| {
        for key in ["f", "g"] {
            let key = StateKey::new(StateKind::Flag, key).unwrap();
            let here = cluster.machine.compiled(&e()).unwrap();
            let served = here.state(&key).unwrap().encoded.decode().unwrap();
            let again = compile_one(&cluster.machine, &e(), &key, served.changed_at());
            assert_eq!(again, Ok(Some(served)));
        }
    };
    sound(&cluster);
    // The kill switch works both ways, on a flag that is too large in every respect.
    cluster.written(vec![switch("f", false)]);
    cluster.written(vec![switch("f", true)]);
    // Neither of FlagConfig and policy is held to account for the other.
    cluster.written(vec![put(
        flag("g"),
        &FLAG.replacen('{', "{\"description\":\"x\",", 1),
    )]);
    cluster.written(vec![put(policy("f"), &with_rules(1))]);
    sound(&cluster);
    // `g` uses `f` and is too large itself; that does not speak against writing `f`.
    let two = r#"{"type":"boolean","variants":{"v2":true,"on":true},"off_variant":"v2"}"#;
    let serves = |text: String| text.replace("\"off\"", "\"v2\"");
    cluster.written(vec![
        put(flag("f"), two),
        put(policy("f"), &serves(with_rules(1))),
    ]);
    sound(&cluster);
    // What is written is held to account.
    let refused = faults(cluster.refused(vec![put(flag("f"), &with_variants(3))]));
    assert_eq!(
        refused,
        ["/variants: at most 2 variants are allowed, not 3"]
    );
    let refused = faults(cluster.refused(vec![put(policy("g"), &large)]));
    assert_eq!(refused, ["/rules: at most 1 rules are allowed, not 3"]);
    let both = r#"{"rules":[{"when":[]},{"when":[]}]}"#;
    let refused = faults(cluster.refused(vec![put(segment("s"), both)]));
    assert_eq!(refused, ["/rules: at most 1 rules are allowed, not 2"]);
}

#[test]
fn the_variants_of_a_flag_are_counted_without_a_policy() {
    let mut cluster = Cluster::new();
    cluster.written(vec![put(env("e"), "{}"), limits(r#"{"variants":2}"#)]);
    let refused = cluster.refused(vec![put(flag("f"), &with_variants(3))]);
    assert_eq!(faults(refused).len(), 1);
    cluster.written(vec![put(flag("f"), &with_variants(2))]);
}

#[test]
fn quotas_count_what_is_added() {
    let mut cluster = Cluster::with_flag();
    cluster.written(vec![limits(r#"{"flags":2,"environments":1}"#)]);
    cluster.written(vec![put(flag("g"), FLAG)]);
    assert_eq!(
        quota(&cluster.refused(vec![put(flag("h"), FLAG)])),
        ("flags", 2)
    );
    assert_eq!(
        quota(&cluster.refused(vec![put(env("x"), "{}")])),
        ("environments", 1)
    );
    // One for another, and what is there is written again, also when there are too many.
    cluster.written(vec![delete(flag("g")), put(flag("h"), FLAG)]);
    cluster.written(vec![limits(r#"{"flags":1}"#)]);
    cluster.written(vec![put(flag("h"), FLAG), put(env("x"), "{}")]);
    cluster.written(vec![delete(flag("h")), put(flag("i"), FLAG)]);
    assert_eq!(
        quota(&cluster.refused(vec![put(flag("h"), FLAG)])),
        ("flags", 1)
    );
    // In one change set with the limit, in both orders.
    let raised = [limits(r#"{"flags":3}"#), put(flag("h"), FLAG)];
    let lowered = [put(flag("k"), FLAG), limits(r#"{"flags":3}"#)];
    cluster.written(raised.to_vec());
    assert_eq!(quota(&cluster.refused(lowered.to_vec())), ("flags", 3));
    // A limit that is itself wrong is what is complained about.
    let wrong = vec![put(flag("k"), FLAG), limits(r#"{"flags":0}"#)];
    assert_eq!(faults(cluster.refused(wrong)).len(), 1);
}

#[test]
fn in_one_batch_each_change_set_has_the_limits_before_it() {
    let mut cluster = Cluster::with_flag();
    let three = request(vec![put(policy("f"), &with_rules(3))]);
    let lower = request(vec![limits(r#"{"rules":2}"#)]);
    let outcomes = cluster.batch(&[lower, three.clone()]);
    assert!(matches!(outcomes[0], Outcome::Written { .. }));
    assert!(matches!(outcomes[1], Outcome::Refused { .. }));
    // A refusal that names the batch's version must be true there: the limit is not raised in it.
    for (at, refused) in [three.clone(), named("r", 1, three.writes)]
        .into_iter()
        .enumerate()
    {
        let mut draft = Draft::on(&cluster.machine);
        let _ = draft.plan(&request(vec![put(flag("other"), FLAG)]));
        let refused = match draft.plan(&refused) {
            Planned::Answered(outcome) | Planned::Batched(_, outcome) => outcome,
            Planned::Later => panic!(),
        };
        assert!(matches!(refused, Outcome::Refused { .. }), "{at}");
        let raise = request(vec![limits(r#"{"rules":5}"#)]);
        assert_eq!(draft.plan(&raise), Planned::Later); // I2
    }
}

#[test]
fn limits_are_back_after_a_snapshot() {
    let mut cluster = Cluster::with_flag();
    cluster.written(vec![limits(r#"{"rules":2,"flags":5}"#)]);
    let loaded = reload(&cluster.machine);
    assert_eq!(loaded.limits(), cluster.machine.limits());
    assert_eq!(loaded.limits().rules_max, 2);
    assert_eq!(loaded.digest(), cluster.machine.digest());
    let listed: Vec<ObjectId> = loaded
        .objects(setting("x").kind(), None, None)
        .map(|(id, _)| id.clone())
        .collect();
    assert_eq!(listed, [setting("limits")]);
    // A policy is no setting.
    cluster.written(vec![put(policy("f"), POLICY)]);
    assert_eq!(cluster.machine.count(setting("x").kind()), 1);
}
