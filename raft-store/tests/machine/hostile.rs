//! Entries that no leader makes: every node answers them alike.

use bytes::Bytes;
use pennon_evaluator::{StateKey, StateKind};
use pennon_raft_store::command::{
    Batch, Command, Expected, Item, ObjectId, Origin, Verdict, Write,
};
use pennon_raft_store::machine::Answer;

use crate::support::*;

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
