//! What is asked, what is answered, and what must not change.

use bytes::Bytes;
use pennon_evaluator::Version;
use pennon_raft_store::command::{
    Batch, ClusterId, Command, Expected, Item, Origin, Outcome, Refusal, RequestId, Verdict, Write,
};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Answer, Entry, Machine, Since};
use pennon_raft_store::plan::{AskedWrite, Draft, Planned};

use crate::support::*;

#[test]
fn versions_are_log_indexes_and_conditions_ask_for_exactly_one() {
    let mut cluster = Cluster::with_flag();
    let created = cluster.machine.object(&flag("f")).unwrap().version;
    assert_eq!(created, cluster.machine.version());
    let at = |version| vec![if_at(put(flag("f"), FLAG), version)];
    let next = cluster.written(at(Expected::At(created)));
    assert_eq!(next.get(), created.get() + 1);
    for expected in [Expected::At(created), Expected::Absent] {
        let refusal = cluster.refused(at(expected));
        assert_eq!(
            refusal,
            Refusal::Conflict {
                object: flag("f"),
                expected,
                found: Some(next)
            }
        );
    }
    cluster.written(at(Expected::Present));
    let refusal = cluster.refused(vec![if_at(put(flag("g"), FLAG), Expected::Present)]);
    assert!(matches!(refusal, Refusal::Conflict { found: None, .. }));
}

#[test]
fn a_batch_decided_at_another_version_changes_nothing() {
    let mut cluster = Cluster::with_flag();
    let digest = cluster.machine.digest();
    let stale = cluster.machine.version();
    cluster
        .machine
        .apply(LogId { term: 2, index: 2 }, Entry::Blank);
    cluster.log.push(Bytes::new());
    let write = Write {
        object: flag("f"),
        value: None,
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
    let batch = Batch {
        base: stale,
        time_ms: 0,
        items: vec![Item { origin, verdict }],
    };
    assert_eq!(cluster.apply(Command::Batch(batch)), Answer::TryAgain);
    assert_eq!(cluster.machine.digest(), digest);
    assert_eq!(
        cluster.machine.version().get(),
        3,
        "the version rises all the same"
    );
}

#[test]
fn a_change_set_happens_as_a_whole_or_not_at_all() {
    let mut cluster = Cluster::with_flag();
    let refusal = cluster.refused(vec![
        put(flag("new"), FLAG),
        put(
            policy("new"),
            r#"{"enabled":true,"default":{"variant":"maybe"}}"#,
        ),
    ]);
    let Refusal::Invalid { write: 1, faults } = refusal else {
        panic!("{refusal:?}")
    };
    assert_eq!(faults[0].pointer, "/default/variant");
    assert!(cluster.machine.object(&flag("new")).is_none());
    let version = cluster.written(vec![put(flag("new"), FLAG), put(policy("new"), POLICY)]);
    for object in [flag("new"), policy("new")] {
        assert_eq!(cluster.machine.object(&object).unwrap().version, version);
    }
}

#[test]
fn two_change_sets_on_one_object_never_share_a_version() {
    let mut cluster = Cluster::with_flag();
    let requests = [
        request(vec![put(flag("f"), FLAG)]),
        request(vec![put(flag("f"), FLAG)]),
    ];
    assert_eq!(
        cluster.batch(&requests).len(),
        1,
        "the second waits for the next batch"
    ); // I2
}

#[test]
fn a_refusal_is_true_at_the_version_it_names() {
    let cluster = Cluster::with_flag();
    let base = cluster.machine.version();
    let lost = vec![if_at(put(flag("f"), FLAG), Expected::Absent)];
    let win = vec![if_at(put(flag("f"), FLAG), Expected::At(base))];
    // Nothing is in the batch yet: the refusal is about the base, and others may go on.
    let mut draft = Draft::on(&cluster.machine);
    let Planned::Answered(refused) = draft.plan(&request(lost.clone())) else {
        panic!()
    };
    assert_eq!(refused.version(), base); // I2
    assert!(matches!(
        draft.plan(&request(win.clone())),
        Planned::Batched(..)
    ));
    // Something is in it: the refusal is about the batch, which then leaves the object alone.
    for lost in [request(lost.clone()), named("lost", 1, lost)] {
        let mut draft = Draft::on(&cluster.machine);
        let _ = draft.plan(&request(vec![put(flag("other"), FLAG)]));
        let refused = match draft.plan(&lost) {
            Planned::Answered(outcome) | Planned::Batched(_, outcome) => outcome,
            Planned::Later => panic!(),
        };
        assert_eq!(refused.version(), cluster.machine.next_version());
        assert_eq!(draft.plan(&request(win.clone())), Planned::Later);
    }
    // What a refusal found missing is not made in the same breath.
    let mut draft = Draft::on(&cluster.machine);
    let _ = draft.plan(&request(vec![put(flag("other"), FLAG)]));
    assert!(matches!(
        draft.plan(&request(vec![put(policy("ghost"), POLICY)])),
        Planned::Answered(_)
    ));
    assert_eq!(
        draft.plan(&request(vec![put(flag("ghost"), FLAG)])),
        Planned::Later
    );
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_another_content_is_refused() {
    let mut cluster = Cluster::with_flag();
    let create = vec![if_at(put(flag("once"), FLAG), Expected::Absent)];
    let first = cluster.batch(&[named("r1", 1, create.clone())]).remove(0);
    assert!(matches!(first, Outcome::Written { .. }));
    cluster.written(vec![put(flag("other"), FLAG)]);
    assert_eq!(
        cluster.batch(&[named("r1", 1, create.clone())]).remove(0),
        first
    ); // I9
    let other = cluster.batch(&[named("r1", 2, create.clone())]).remove(0);
    assert!(matches!(
        other,
        Outcome::Refused {
            refusal: Refusal::IdempotencyMismatch { .. },
            ..
        }
    ));
    // A refusal is remembered too, although by now the answer would be another one.
    let refused = cluster.batch(&[named("r2", 1, create.clone())]).remove(0);
    assert!(matches!(
        refused,
        Outcome::Refused {
            refusal: Refusal::Conflict { .. },
            ..
        }
    ));
    cluster.written(vec![delete(flag("once"))]);
    assert_eq!(cluster.batch(&[named("r2", 1, create)]).remove(0), refused);
}

#[test]
fn the_leader_answers_without_an_entry_what_needs_none() {
    let mut cluster = Cluster::with_flag();
    let create = vec![if_at(put(flag("once"), FLAG), Expected::Absent)];
    let first = cluster.batch(&[named("r1", 1, create.clone())]).remove(0);
    let mut draft = Draft::on(&cluster.machine);
    assert_eq!(
        draft.plan(&named("r1", 1, create.clone())),
        Planned::Answered(first)
    );
    let conflict = draft.plan(&request(create));
    assert!(
        matches!(conflict, Planned::Answered(Outcome::Refused { .. })),
        "{conflict:?}"
    );
    let twice = draft.plan(&request(vec![switch("f", true)]));
    assert!(
        matches!(twice, Planned::Answered(Outcome::Written { .. })),
        "{twice:?}"
    );
}

#[test]
fn every_node_checks_again_what_the_leader_checked() {
    // Entries as a leader would never make them: the same request twice, and a condition that
    // does not hold.
    let mut cluster = Cluster::with_flag();
    let item = |request: Option<RequestId>, expected| {
        let write = Write {
            object: flag("x"),
            value: Some(FLAG.into()),
            expected,
        };
        let verdict = Verdict::Commit {
            writes: vec![write],
            compiled: vec![],
            unchanged: vec![],
        };
        Item {
            origin: Origin {
                actor: "t".into(),
                request,
                reason: None,
            },
            verdict,
        }
    };
    let once = RequestId {
        key: "once".into(),
        fingerprint: 1,
    };
    let apply = |cluster: &mut Cluster, item: Item| {
        let batch = Batch {
            base: cluster.machine.version(),
            time_ms: 0,
            items: vec![item],
        };
        match cluster.apply(Command::Batch(batch)) {
            Answer::Outcomes(mut outcomes) => outcomes.remove(0),
            other => panic!("{other:?}"),
        }
    };
    let first = apply(&mut cluster, item(Some(once.clone()), Expected::Any));
    assert_eq!(apply(&mut cluster, item(Some(once), Expected::Any)), first); // I9
    let version = cluster.machine.object(&flag("x")).unwrap().version;
    assert_eq!(version, first.version(), "it was written once");
    let refused = apply(&mut cluster, item(None, Expected::Absent));
    assert!(matches!(
        refused,
        Outcome::Refused {
            refusal: Refusal::Conflict { .. },
            ..
        }
    )); // I1
    assert_eq!(cluster.machine.object(&flag("x")).unwrap().version, version);
}

#[test]
fn what_is_no_longer_used_can_go_away() {
    let mut cluster = Cluster::with_flag();
    let uses_segment = r#"{"enabled":true,"rules":[{"when":[{"op":"in_segment","values":["s"]}],
                           "serve":{"variant":"on"}}],"default":{"variant":"off"}}"#;
    cluster.written(vec![
        put(segment("s"), "{}"),
        put(policy("f"), uses_segment),
    ]);
    cluster.written(vec![put(policy("f"), POLICY)]);
    cluster.written(vec![delete(segment("s"))]);
}

#[test]
fn what_is_still_used_cannot_go_away() {
    let mut cluster = Cluster::with_flag();
    let uses_segment = r#"{"enabled":true,"rules":[{"when":[{"op":"in_segment","values":["s"]}],
                           "serve":{"variant":"on"}}],"default":{"variant":"off"}}"#;
    let needs_f = r#"{"enabled":true,"prerequisites":[{"flag":"f","variants":["on"]}],"default":{"variant":"on"}}"#;
    let refusal = cluster.refused(vec![put(policy("f"), uses_segment)]);
    assert!(
        matches!(&refusal, Refusal::Invalid { faults, .. } if faults[0].message.contains("segment")),
        "{refusal:?}"
    );
    cluster.written(vec![
        put(segment("s"), r#"{"included":["alice"]}"#),
        put(policy("f"), uses_segment),
    ]);
    cluster.written(vec![put(flag("g"), FLAG), put(policy("g"), needs_f)]);
    for (gone, user) in [
        (delete(segment("s")), "policy f in e"),
        (delete(policy("f")), "policy g in e"),
    ] {
        let Refusal::InUse { users, .. } = cluster.refused(vec![gone]) else {
            panic!()
        };
        assert!(users.iter().any(|found| found.contains(user)), "{users:?}");
    }
    let renamed = r#"{"type":"boolean","variants":{"yes":true,"off":false},"off_variant":"off"}"#;
    let Refusal::InUse { users, .. } = cluster.refused(vec![put(flag("f"), renamed)]) else {
        panic!()
    };
    assert!(users[0].contains("policy f in e"), "{users:?}");
    let Refusal::InUse { .. } = cluster.refused(vec![delete(flag("f"))]) else {
        panic!()
    };
    let Refusal::InUse { .. } = cluster.refused(vec![delete(env("e"))]) else {
        panic!()
    };
    // All of it at once is fine.
    cluster.written(vec![
        delete(policy("g")),
        delete(policy("f")),
        delete(flag("f")),
        delete(flag("g")),
        delete(segment("s")),
        delete(env("e")),
    ]);
    assert_eq!(cluster.machine.all_objects().count(), 0);
    assert_eq!(
        cluster.machine.digest(),
        Machine::new(ClusterId::new(7)).digest()
    );
}

#[test]
fn a_cycle_is_refused_also_when_two_change_sets_of_one_batch_make_it() {
    let mut cluster = Cluster::with_flag();
    cluster.written(vec![put(flag("g"), FLAG), put(policy("g"), POLICY)]);
    let needs = |flag: &str| {
        format!(
            r#"{{"enabled":true,"prerequisites":[{{"flag":"{flag}","variants":["on"]}}],"default":{{"variant":"on"}}}}"#
        )
    };
    let outcomes = cluster.batch(&[
        request(vec![put(policy("f"), &needs("g"))]),
        request(vec![put(policy("g"), &needs("f"))]),
    ]);
    assert!(matches!(outcomes[0], Outcome::Written { .. }));
    let Outcome::Refused {
        refusal: Refusal::Invalid { faults, .. },
        ..
    } = &outcomes[1]
    else {
        panic!("{outcomes:?}")
    };
    assert!(faults[0].message.contains("cycle"), "{faults:?}");
}

#[test]
fn a_chain_may_not_grow_too_deep_from_either_end() {
    let mut cluster = Cluster::with_flag();
    let nested = |inner: &str| {
        format!(r#"{{"rules":[{{"when":[{{"op":"in_segment","values":["{inner}"]}}]}}]}}"#)
    };
    let chain = |cluster: &mut Cluster, name: &str, length: usize| {
        cluster.written(vec![put(segment(&format!("{name}0")), "{}")]);
        for n in 1..=length {
            let inner = nested(&format!("{name}{}", n - 1));
            cluster.written(vec![put(segment(&format!("{name}{n}")), &inner)]);
        }
    };
    chain(&mut cluster, "a", 10);
    chain(&mut cluster, "b", 10);
    // a10 -> … -> a0 -> b9 -> … -> b0 is 20 steps; with b10 it would be 21.
    let Refusal::Invalid { faults, .. } = cluster.refused(vec![put(segment("a0"), &nested("b10"))])
    else {
        panic!()
    };
    assert!(faults[0].message.contains("deeper than 20"), "{faults:?}");
    cluster.written(vec![put(segment("a0"), &nested("b9"))]);
}

#[test]
fn the_salt_is_fixed_at_creation() {
    let mut cluster = Cluster::with_flag();
    let salted = FLAG.replace("\"type\"", "\"salt\":\"x\",\"type\"");
    let Refusal::Invalid { faults, .. } = cluster.refused(vec![put(flag("f"), &salted)]) else {
        panic!()
    };
    assert_eq!(faults[0].pointer, "/salt"); // I7
}

#[test]
fn a_name_given_twice_is_refused_and_not_quietly_dropped() {
    let mut cluster = Cluster::with_flag();
    let twice = r#"{"enabled":true,"enabled":false,"default":{"variant":"on"}}"#;
    let Refusal::Invalid { faults, .. } = cluster.refused(vec![put(policy("f"), twice)]) else {
        panic!()
    };
    assert!(faults[0].message.contains("enabled"), "{faults:?}");
}

#[test]
fn a_change_set_that_no_entry_could_hold_is_refused_and_two_large_ones_wait_for_each_other() {
    let mut cluster = Cluster::with_flag();
    let wide = |name: &str, bytes: usize| {
        let value = "x".repeat(60 << 10);
        let variants: Vec<String> = (0..bytes >> 16)
            .map(|n| format!(r#""v{n}":"{value}""#))
            .collect();
        put(
            flag(name),
            &format!(
                r#"{{"type":"string","variants":{{{}}},"off_variant":"v0"}}"#,
                variants.join(",")
            ),
        )
    };
    let half = |name: &str| {
        (0..6)
            .map(|n| wide(&format!("{name}{n}"), 4 << 20))
            .collect::<Vec<_>>()
    };
    let all: Vec<AskedWrite> = half("a").into_iter().chain(half("b")).collect();
    assert!(matches!(cluster.refused(all), Refusal::Quota { .. }));
    let first = cluster.batch(&[request(half("a")), request(half("b"))]);
    assert_eq!(first.len(), 1, "the second goes into the next entry");
}

#[test]
fn the_switch_makes_a_policy_keeps_the_rest_and_does_nothing_twice() {
    let mut cluster = Cluster::with_flag();
    cluster.written(vec![put(flag("fresh"), FLAG)]);
    let on = cluster.written(vec![switch("fresh", true)]);
    let value = cluster
        .machine
        .object(&policy("fresh"))
        .unwrap()
        .value
        .clone();
    assert_eq!(&*value, r#"{"enabled":true,"default":{"variant":"off"}}"#);
    let again = cluster.one(vec![switch("fresh", true)]);
    let Outcome::Written { results, .. } = &again else {
        panic!("{again:?}")
    };
    assert_eq!(
        (results[0].version, results[0].previous),
        (on, Some(on)),
        "already on: no new version"
    );
    assert_eq!(cluster.machine.version(), on);
    cluster.written(vec![switch("fresh", false)]);
    assert!(matches!(
        cluster.refused(vec![switch("ghost", false)]),
        Refusal::NotFound { .. }
    ));
}

#[test]
fn after_a_restart_old_resumers_get_everything_and_new_ones_what_they_missed() {
    let mut cluster = Cluster::with_flag();
    let old = cluster.machine.version();
    cluster.written(vec![put(segment("s"), "{}")]);
    let mut again = reload(&cluster.machine);
    assert!(matches!(
        cluster.machine.since(&e(), old),
        Since::Changes(_)
    ));
    assert!(
        matches!(again.since(&e(), old), Since::Full),
        "what changed before the snapshot is not remembered"
    ); // I8
    let now = again.version();
    assert!(matches!(again.since(&e(), now), Since::Nothing));
    again.apply(
        LogId {
            term: 1,
            index: now.get() + 1,
        },
        Entry::Blank,
    );
    assert!(matches!(again.since(&e(), now), Since::Nothing));
    assert!(matches!(again.since(&e(), Version::MAX), Since::Ahead));
}
