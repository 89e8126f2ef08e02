//! The state machine and the leader's decisions, together: what is planned is what is applied, on
//! every machine alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may panic"
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use pennon_evaluator::{
    ConfigSnapshot, EnvironmentKey, EvaluationState, Limits, StateKey, StateKind, Version,
};
use pennon_raft_store::codec;
use pennon_raft_store::command::{
    Batch, ClusterId, Command, Expected, Item, ObjectId, ObjectKind, Origin, Outcome, Refusal,
    RequestId, Verdict, Write,
};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Answer, COMMAND_FORMAT, Entry, Machine, Since, SnapshotRecord};
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned, compile_one};
use proptest::prelude::*;

const FLAG: &str = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
const POLICY: &str = r#"{"enabled":true,"default":{"variant":"on"}}"#;

/// A leader and its log in the small.
struct Cluster {
    machine: Machine,
    log: Vec<Bytes>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            machine: Machine::new(ClusterId::new(7)),
            log: Vec::new(),
        }
    }

    /// A cluster with the environment `e` and the flag `f`.
    fn with_flag() -> Self {
        let mut cluster = Self::new();
        cluster.written(vec![
            put(env("e"), "{}"),
            put(flag("f"), FLAG),
            put(policy("f"), POLICY),
        ]);
        cluster
    }

    /// Plans requests as one batch, applies it, and checks that it went as predicted.
    fn batch(&mut self, requests: &[ChangeRequest]) -> Vec<Outcome> {
        let mut draft = Draft::new(&self.machine, Limits::default());
        let (mut items, mut predicted, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            match draft.plan(request) {
                Planned::Batched(item, outcome) => {
                    items.push(item);
                    predicted.push(outcome.clone());
                    answers.push(outcome);
                }
                Planned::Answered(outcome) => answers.push(outcome),
                Planned::Later => {}
            }
        }
        let base = draft.base();
        if !items.is_empty() {
            let answer = self.apply(Command::Batch(Batch {
                base,
                time_ms: 1000,
                items,
            }));
            assert_eq!(
                answer,
                Answer::Outcomes(predicted),
                "what the leader predicts is what is applied"
            );
        }
        answers
    }

    fn apply(&mut self, command: Command) -> Answer {
        let bytes = codec::encode(COMMAND_FORMAT, &command).unwrap();
        self.apply_bytes(bytes)
    }

    fn apply_bytes(&mut self, bytes: Bytes) -> Answer {
        self.log.push(bytes.clone());
        let id = LogId {
            term: 1,
            index: self.log.len() as u64,
        };
        self.machine.apply(id, Entry::Command(&bytes)).answer
    }

    fn one(&mut self, writes: Vec<AskedWrite>) -> Outcome {
        self.batch(&[request(writes)]).remove(0)
    }

    fn written(&mut self, writes: Vec<AskedWrite>) -> Version {
        match self.one(writes) {
            Outcome::Written { version, .. } => version,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, writes: Vec<AskedWrite>) -> Refusal {
        let before = self.machine.digest();
        match self.one(writes) {
            Outcome::Refused { refusal, version } => {
                assert!(
                    version <= self.machine.version(),
                    "a refusal says what it was decided at"
                ); // I2
                assert_eq!(before, self.machine.digest(), "a refusal changes nothing"); // I3
                refusal
            }
            other => panic!("{other:?}"),
        }
    }
}

fn e() -> EnvironmentKey {
    "e".parse().unwrap()
}

fn env(key: &str) -> ObjectId {
    ObjectId::environment_object(key)
}

fn flag(key: &str) -> ObjectId {
    ObjectId::flag(key)
}

fn policy(key: &str) -> ObjectId {
    ObjectId::policy(e(), key)
}

fn segment(key: &str) -> ObjectId {
    ObjectId::segment(e(), key)
}

fn put(object: ObjectId, json: &str) -> AskedWrite {
    AskedWrite {
        object,
        ask: Ask::Put(json.into()),
        expected: Expected::Any,
    }
}

fn delete(object: ObjectId) -> AskedWrite {
    AskedWrite {
        object,
        ask: Ask::Delete,
        expected: Expected::Any,
    }
}

fn switch(key: &str, on: bool) -> AskedWrite {
    AskedWrite {
        object: policy(key),
        ask: Ask::Enable(on),
        expected: Expected::Any,
    }
}

fn if_at(mut write: AskedWrite, expected: Expected) -> AskedWrite {
    write.expected = expected;
    write
}

fn request(writes: Vec<AskedWrite>) -> ChangeRequest {
    ChangeRequest {
        writes,
        origin: Origin {
            actor: "t".into(),
            request: None,
            reason: None,
        },
    }
}

fn named(key: &str, fingerprint: u128, writes: Vec<AskedWrite>) -> ChangeRequest {
    let mut request = request(writes);
    request.origin.request = Some(RequestId {
        key: key.into(),
        fingerprint,
    });
    request
}

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
    let mut draft = Draft::new(&cluster.machine, Limits::default());
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
        let mut draft = Draft::new(&cluster.machine, Limits::default());
        let _ = draft.plan(&request(vec![put(flag("other"), FLAG)]));
        let refused = match draft.plan(&lost) {
            Planned::Answered(outcome) | Planned::Batched(_, outcome) => outcome,
            Planned::Later => panic!(),
        };
        assert_eq!(refused.version(), cluster.machine.next_version());
        assert_eq!(draft.plan(&request(win.clone())), Planned::Later);
    }
    // What a refusal found missing is not made in the same breath.
    let mut draft = Draft::new(&cluster.machine, Limits::default());
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
    let mut draft = Draft::new(&cluster.machine, Limits::default());
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
fn bytes_that_mean_nothing_get_one_answer_everywhere() {
    let mut one = Cluster::with_flag();
    let mut two = Cluster::with_flag();
    let good = one.log[0].clone();
    let mut hostile: Vec<Bytes> = vec![
        Bytes::new(),
        Bytes::from_static(b"\x09junk"),
        good.slice(..good.len() - 1),
    ];
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 0xff;
        hostile.push(bad.into());
    }
    for bytes in hostile {
        let (a, b) = (one.apply_bytes(bytes.clone()), two.apply_bytes(bytes));
        assert!(matches!(a, Answer::Unreadable(_)), "{a:?}");
        assert_eq!(a, b); // I11
    }
    assert_eq!(one.machine.digest(), two.machine.digest());
}

#[test]
fn a_well_formed_but_hostile_entry_leaves_a_state_that_a_snapshot_can_hold() {
    // A leader gone mad deletes an environment under its policies, writes a policy into none, and
    // names a state that the bytes do not.
    let mut cluster = Cluster::with_flag();
    let state = cluster
        .machine
        .compiled(&e())
        .unwrap()
        .states()
        .next()
        .unwrap()
        .1
        .encoded
        .bytes()
        .clone();
    let compiled = pennon_raft_store::command::CompiledChange {
        environment: e(),
        key: StateKey::new(StateKind::Segment, "other").unwrap(),
        state: Some(state),
        uses: vec![StateKey::new(StateKind::Flag, "ghost").unwrap()],
    };
    let writes = vec![
        Write {
            object: policy("x"),
            value: Some("not json".into()),
            expected: Expected::Any,
        },
        Write {
            object: env("e"),
            value: None,
            expected: Expected::Any,
        },
        Write {
            object: ObjectId::environment_object("bad key\n"),
            value: Some("1".into()),
            expected: Expected::Any,
        },
    ];
    let origin = Origin {
        actor: "mad".into(),
        request: None,
        reason: None,
    };
    let verdict = Verdict::Commit {
        writes,
        compiled: vec![compiled],
        unchanged: vec![],
    };
    let batch = Batch {
        base: cluster.machine.version(),
        time_ms: 1,
        items: vec![Item { origin, verdict }],
    };
    cluster.apply(Command::Batch(batch));
    let again = reload(&cluster.machine);
    assert_eq!(again.digest(), cluster.machine.digest()); // I11
    assert_eq!(
        cluster
            .machine
            .users_of(&e(), &StateKey::new(StateKind::Flag, "ghost").unwrap())
            .count(),
        0
    );
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

/// The machine as a snapshot would bring it back.
fn reload(machine: &Machine) -> Machine {
    let head = machine.head();
    let mut loaded = Machine::from_head(&head);
    for record in machine.records() {
        let bytes = codec::encode(1, &record).unwrap();
        loaded.load(codec::decode::<SnapshotRecord>(1, &bytes).unwrap());
    }
    loaded.loaded(&head).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Policy(u8, u8, bool),
    Switch(u8, bool),
    Delete(u8),
    DeletePolicy(u8),
    Segment(u8, u8),
    DeleteSegment(u8),
    Environment(bool),
}

fn step() -> impl Strategy<Value = Step> {
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

fn ask(step: &Step, n: usize) -> ChangeRequest {
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
