//! Restoring: what differs, written as one change set, onto exactly what it was found to differ from.

use std::collections::BTreeMap;
use std::sync::Arc;

use pennon_raft_store::backup::{Difference, differences};
use pennon_raft_store::command::{ObjectId, Outcome, Refusal};
use pennon_raft_store::machine::Machine;
use pennon_raft_store::plan::{ChangeRequest, WRITES_MAX};
use proptest::prelude::*;

use crate::property::{ask, step};
use crate::support::*;

fn objects(machine: &Machine) -> BTreeMap<ObjectId, Arc<str>> {
    let all = machine.all_objects();
    all.map(|(id, object)| (id.clone(), object.value.clone()))
        .collect()
}

fn restoring(now: &Machine, then: &BTreeMap<ObjectId, Arc<str>>) -> ChangeRequest {
    let differing = differences(now, then);
    ChangeRequest {
        onto: Some(now.digest()),
        ..request(differing.iter().map(Difference::write).collect())
    }
}

fn with_salt(salt: &str) -> String {
    FLAG.replacen('{', &format!("{{\"salt\":{salt:?},"), 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever was written before and after a backup: restoring it is accepted, and leaves the
    /// objects of the backup and no others, at versions that have risen (I2).
    #[test]
    fn any_earlier_state_can_be_restored(
        before in prop::collection::vec(step(), 0..30),
        after in prop::collection::vec(step(), 0..30),
    ) {
        let mut cluster = Cluster::with_flag();
        for (n, step) in before.iter().enumerate() {
            cluster.batch(&[request(ask(step, n + 1).writes)]);
        }
        let backup = objects(&cluster.machine);
        for (n, step) in after.iter().enumerate() {
            cluster.batch(&[request(ask(step, n + 100).writes)]);
        }
        let (version, request) = (cluster.machine.version(), restoring(&cluster.machine, &backup));
        let writes = request.writes.len();
        let outcome = cluster.batch(&[request]).remove(0);
        let Outcome::Written { version: restored, results } = outcome else {
            panic!("{outcome:?}")
        };
        prop_assert_eq!(objects(&cluster.machine), backup.clone());
        prop_assert_eq!(results.len(), writes);
        prop_assert_eq!(restored > version, writes > 0);
        prop_assert!(differences(&cluster.machine, &backup).is_empty());
    }
}

#[test]
fn only_onto_what_was_looked_at() {
    let mut cluster = Cluster::with_flag();
    let backup = objects(&cluster.machine);
    cluster.written(vec![switch("f", false)]);
    let restore = restoring(&cluster.machine, &backup);
    // Something that the restore does not even touch.
    cluster.written(vec![put(segment("s"), "{}")]);
    let digest = cluster.machine.digest();
    let refused = cluster.batch(std::slice::from_ref(&restore)).remove(0);
    let Outcome::Refused {
        refusal: Refusal::Moved,
        version,
    } = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (version, cluster.machine.digest()),
        (cluster.machine.version(), digest)
    );
    // Nor when it comes in the same batch.
    let restore = restoring(&cluster.machine, &backup);
    let answers = cluster.batch(&[request(vec![switch("f", true)]), restore]);
    let moved = |answer: &Outcome| {
        matches!(
            answer,
            Outcome::Refused {
                refusal: Refusal::Moved,
                ..
            }
        )
    };
    assert!(
        !moved(&answers[0]) && answers.iter().skip(1).all(moved),
        "{answers:?}"
    );
    let restore = restoring(&cluster.machine, &backup);
    cluster.batch(&[restore]);
    assert_eq!(objects(&cluster.machine), backup);
}

/// A flag may be a prerequisite before it has a policy in that environment; so it was, and so it is
/// again.
#[test]
fn a_prerequisite_that_had_no_policy_loses_it_again() {
    let mut cluster = Cluster::with_flag();
    let needs_g = r#"{"enabled":true,"prerequisites":[{"flag":"g","variants":["on"]}],"default":{"variant":"on"}}"#;
    cluster.written(vec![put(flag("g"), FLAG)]);
    cluster.written(vec![put(policy("f"), needs_g)]);
    let backup = objects(&cluster.machine);
    cluster.written(vec![switch("g", false)]);
    // Nobody takes it away in an ordinary change set.
    assert!(matches!(
        cluster.refused(vec![delete(policy("g"))]),
        Refusal::InUse { .. }
    ));
    let restore = restoring(&cluster.machine, &backup);
    let outcome = cluster.batch(&[restore]).remove(0);
    assert!(matches!(outcome, Outcome::Written { .. }), "{outcome:?}");
    assert_eq!(objects(&cluster.machine), backup);
}

#[test]
fn a_flag_made_anew_with_another_salt_gets_the_old_one_back() {
    let mut cluster = Cluster::with_flag();
    cluster.written(vec![put(flag("g"), &with_salt("old"))]);
    let backup = objects(&cluster.machine);
    cluster.written(vec![delete(flag("g"))]);
    cluster.written(vec![put(flag("g"), &with_salt("new"))]);
    let refusal = cluster.refused(vec![put(flag("g"), &with_salt("old"))]);
    assert!(matches!(refusal, Refusal::Invalid { .. }), "I7");
    let restore = restoring(&cluster.machine, &backup);
    cluster.batch(&[restore]);
    assert_eq!(objects(&cluster.machine), backup);
}

#[test]
fn a_restore_may_write_more_than_a_change_set() {
    let mut cluster = Cluster::with_flag();
    let mut wanted = objects(&cluster.machine);
    for n in 0..=WRITES_MAX {
        wanted.insert(flag(&format!("many-{n}")), FLAG.into());
    }
    let restore = restoring(&cluster.machine, &wanted);
    let outcome = cluster.batch(&[restore]).remove(0);
    assert!(matches!(outcome, Outcome::Written { .. }), "{outcome:?}");
    assert_eq!(objects(&cluster.machine), wanted);
}
