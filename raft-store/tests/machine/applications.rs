//! Applications: which are stored, and what one needs of an environment.

use pennon_evaluator::{EnvironmentKey, FlagKey, Snapshot, Subject};
use pennon_raft_store::command::{
    Batch, Command, Expected, Item, ObjectKind, Origin, Refusal, Verdict, Write,
};
use pennon_raft_store::machine::Machine;

use crate::support::*;

/// What `shop` needs, as words.
fn members(machine: &Machine) -> String {
    let members = machine.members(&e(), "shop").unwrap();
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    members.join(" ")
}

fn shop(tags: &[&str]) -> pennon_raft_store::plan::AskedWrite {
    put(application("shop"), &format!("{{\"tags\":{tags:?}}}"))
}

/// A flag that is there for people, its policy, and what that needs: flags, segments in a rule.
fn needing(flags: &[&str], segments: &[&str]) -> String {
    let flags = flags
        .iter()
        .map(|flag| format!(r#"{{"flag":{flag:?},"variants":["on"]}}"#));
    let flags: Vec<String> = flags.collect();
    let when = match segments {
        [] => String::new(),
        some => format!(r#"{{"op":"in_segment","values":{some:?}}}"#),
    };
    format!(
        r#"{{"enabled":true,"prerequisites":[{}],"rules":[{{"when":[{when}],"serve":{{"variant":"off"}}}}],
            "default":{{"variant":"on"}}}}"#,
        flags.join(",")
    )
}

/// `cart` needs `stock` and `vip`; `stock` needs `base`, `vip` needs `staff`, `test` holds out
/// `held`. `other` needs `cart`.
fn furnished() -> Cluster {
    let mut cluster = Cluster::new();
    let nested = r#"{"rules":[{"when":[{"op":"in_segment","values":["staff"]}]}]}"#;
    let experiment = r#"{"enabled":true,"rules":[{"when":[],"serve":{"rollout":{
        "experiment":{"key":"x","layer":{"key":"l","range":[0,100]},"holdout":"held"},
        "weights":[{"variant":"on","weight":1}]}}}],"default":{"variant":"off"}}"#;
    let mut writes = vec![put(env("e"), "{}")];
    for key in ["staff", "held", "unused"] {
        writes.push(put(segment(key), "{}"));
    }
    writes.push(put(segment("vip"), nested));
    for (key, tags, json) in [
        ("base", &[][..], POLICY.to_owned()),
        ("stock", &[], needing(&["base"], &[])),
        ("cart", &["checkout"], needing(&["stock"], &["vip"])),
        ("test", &["trial"], experiment.to_owned()),
        ("other", &["misc", "x"], needing(&["cart"], &["unused"])),
    ] {
        writes.push(put(flag(key), &tagged(tags)));
        writes.push(put(policy(key), &json));
    }
    cluster.written(writes);
    cluster
}

const CART: &str = "flag/base flag/cart flag/stock segment/staff segment/vip";

#[test]
fn an_application_is_its_flags_and_all_they_use() {
    let mut cluster = furnished();
    cluster.written(vec![shop(&["checkout"])]);
    assert_eq!(members(&cluster.machine), CART);
    cluster.written(vec![shop(&["trial", "nobody has this"])]);
    assert_eq!(members(&cluster.machine), "flag/test segment/held");
    cluster.written(vec![shop(&["x", "misc", "trial"])]);
    let all = "flag/base flag/cart flag/other flag/stock flag/test segment/held segment/staff segment/unused segment/vip";
    assert_eq!(members(&cluster.machine), all);
    cluster.written(vec![shop(&["nobody has this"])]);
    assert_eq!(members(&cluster.machine), "");

    let machine = &cluster.machine;
    let nowhere: EnvironmentKey = "nowhere".parse().unwrap();
    assert_eq!(machine.members(&nowhere, "shop"), None);
    assert_eq!(machine.members(&e(), "shops"), None);
    cluster.written(vec![delete(application("shop"))]);
    assert_eq!(cluster.machine.members(&e(), "shop"), None);
}

#[test]
fn members_follow_tags_policies_and_what_those_use() {
    let mut cluster = furnished();
    cluster.written(vec![shop(&["checkout"])]);
    cluster.written(vec![put(flag("base"), &tagged(&["checkout", "x"]))]);
    cluster.written(vec![put(flag("cart"), &tagged(&["x"]))]);
    assert_eq!(members(&cluster.machine), "flag/base");
    cluster.written(vec![put(
        flag("cart"),
        &tagged(&["x", "checkout", "checkout"]),
    )]);
    assert_eq!(members(&cluster.machine), CART);
    cluster.written(vec![put(segment("vip"), "{}")]);
    assert_eq!(
        members(&cluster.machine),
        "flag/base flag/cart flag/stock segment/vip"
    );
    cluster.written(vec![put(policy("cart"), POLICY)]);
    assert_eq!(members(&cluster.machine), "flag/base flag/cart");
    // A flag without a policy here has no state here, whatever its tags.
    cluster.written(vec![
        put(flag("new"), &tagged(&["checkout"])),
        delete(policy("other")),
    ]);
    cluster.written(vec![delete(policy("cart"))]);
    assert_eq!(members(&cluster.machine), "flag/base");
    cluster.written(vec![put(policy("new"), &needing(&["cart"], &[]))]);
    assert_eq!(
        members(&cluster.machine),
        "flag/base flag/new",
        "cart has no state"
    );
    cluster.written(vec![delete(policy("new")), delete(flag("new"))]);
    cluster.written(vec![put(flag("base"), FLAG)]);
    assert_eq!(members(&cluster.machine), "");
}

#[test]
fn members_are_back_after_a_snapshot() {
    let mut cluster = furnished();
    cluster.written(vec![shop(&["checkout"]), put(setting("limits"), "{}")]);
    let loaded = reload(&cluster.machine);
    assert_eq!(members(&loaded), CART);
    assert_eq!(loaded.digest(), cluster.machine.digest());
    let listed = loaded.objects(ObjectKind::Application, None, None);
    let listed: Vec<_> = listed.map(|(id, _)| id.clone()).collect();
    assert_eq!(listed, [application("shop")]);
    assert_eq!(loaded.objects(ObjectKind::Setting, None, None).count(), 1);
}

#[test]
fn a_part_of_an_environment_decides_as_the_whole() {
    let mut cluster = furnished();
    cluster.written(vec![shop(&["checkout", "trial"])]);
    let machine = &cluster.machine;
    let keys = machine.members(&e(), "shop").unwrap();
    let part = machine.snapshot_of(&e(), &keys).unwrap();
    let whole = machine.config_snapshot(&e()).unwrap();
    assert_eq!(part.version(), whole.version());
    assert_eq!(part.states().len(), keys.len());
    assert_ne!(part.digest(), whole.digest());
    let again = machine.snapshot_of(&e(), &keys).unwrap();
    assert_eq!(part.digest(), again.digest());
    let (part, whole) = (
        Snapshot::load(&part).unwrap(),
        Snapshot::load(&whole).unwrap(),
    );
    for key in keys.iter().filter_map(|key| key.as_flag()) {
        let flag: &FlagKey = &key;
        for n in 0..50 {
            let subject = Subject::new(format!("u{n}"));
            assert_eq!(
                part.evaluate(flag.as_str(), &subject)
                    .to_json(flag.as_str()),
                whole
                    .evaluate(flag.as_str(), &subject)
                    .to_json(flag.as_str())
            );
        }
    }
    // Keys that have no state are left out; without an environment there is nothing.
    cluster.written(vec![delete(policy("test"))]);
    let part = cluster.machine.snapshot_of(&e(), &keys).unwrap();
    assert_eq!(part.states().len(), keys.len() - 1);
    let nowhere: EnvironmentKey = "nowhere".parse().unwrap();
    assert!(cluster.machine.snapshot_of(&nowhere, &keys).is_none());
}

#[test]
fn only_sound_applications_are_stored() {
    let mut cluster = furnished();
    let mut refused = |json: &str| match cluster.refused(vec![put(application("shop"), json)]) {
        Refusal::Invalid { faults, .. } => faults
            .iter()
            .map(|fault| fault.pointer.clone())
            .collect::<Vec<_>>()
            .join(" "),
        other => panic!("{other:?}"),
    };
    for (json, pointers) in [
        ("[]", ""),
        ("{}", "/tags"),
        (r#"{"tags":[]}"#, "/tags"),
        (r#"{"tags":"a"}"#, "/tags"),
        (
            r#"{"tags":["a","","b","a",7],"tag":1}"#,
            "/tag /tags/1 /tags/3 /tags/4",
        ),
        (
            r#"{"tags":["a"],"key":"shops","description":1}"#,
            "/key /description",
        ),
    ] {
        assert_eq!(refused(json), pointers, "{json}");
    }
    let long = |len: usize| format!("{{\"tags\":[{:?}]}}", "t".repeat(len));
    assert_eq!(refused(&long(257)), "/tags/0");
    let many = |count: usize| {
        let tags: Vec<String> = (0..count).map(|n| format!("t{n}")).collect();
        format!("{{\"tags\":{tags:?}}}")
    };
    assert_eq!(refused(&many(101)), "/tags");
    let same = many(101).replace(|c: char| c.is_ascii_digit(), "");
    assert_eq!(refused(&same), "/tags", "too many are not looked at");
    for json in [
        long(256),
        many(100),
        r#"{"key":"shop","tags":["a"],"description":"d"}"#.into(),
    ] {
        cluster.written(vec![put(application("shop"), &json)]);
    }
    let refused = cluster.refused(vec![put(application("a b"), r#"{"tags":["a"]}"#)]);
    assert!(matches!(refused, Refusal::Invalid { .. }));
}

#[test]
fn what_cannot_be_read_has_no_tags() {
    // Entries that no leader makes.
    let mut cluster = furnished();
    cluster.written(vec![shop(&["checkout"])]);
    for value in [
        "not json",
        r#"{"tags":["checkout",7]}"#,
        r#"{"tags":{"checkout":1}}"#,
        r#"{"tags":["checkout"],"tags":["checkout"]}"#,
    ] {
        for (object, left) in [(flag("cart"), ""), (application("shop"), "")] {
            let write = Write {
                object,
                value: Some(value.into()),
                expected: Expected::Any,
            };
            let verdict = Verdict::Commit {
                writes: vec![write],
                compiled: vec![],
                unchanged: vec![],
            };
            let origin = Origin {
                actor: "t".into(),
                request: None,
                reason: None,
            };
            cluster.apply(Command::Batch(Batch {
                base: cluster.machine.version(),
                time_ms: 0,
                items: vec![Item { origin, verdict }],
            }));
            assert_eq!(members(&cluster.machine), left, "{value}"); // I11
            assert_eq!(members(&reload(&cluster.machine)), left);
        }
        cluster.written(vec![
            put(flag("cart"), &tagged(&["checkout"])),
            shop(&["checkout"]),
        ]);
        assert_eq!(members(&cluster.machine), CART);
    }
}
