//! Disks that run full under whole nodes: changes are refused before anything is hurt, a full node keeps its
//! vote and everything else, and space that returns is all that is needed.

use pennon_node::writer::WriteError;

use super::*;

/// What nodes keep free unless told otherwise.
const MIN_FREE: u64 = pennon_node::settings::MIN_FREE_DEFAULT;
const MIB: u64 = 1 << 20;

/// Leaves this much on a disk.
fn leave(disk: &MemoryDisk, bytes: u64) {
    disk.set_capacity(Some(disk.used_bytes() + bytes));
}

fn full(outcome: Result<Outcome, WriteError>) -> bool {
    matches!(outcome, Err(WriteError::Full(_)))
}

/// Waits, in simulated time, for something that comes by itself.
async fn until(what: &str, mut look: impl FnMut() -> bool) {
    for _ in 0..400 {
        if look() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in time: {what}");
}

/// I4, I9: every node holds these.
async fn all_hold(cluster: &Cluster, acknowledged: &[(ObjectId, Version)]) {
    for at in 0..cluster.nodes.len() {
        let view = cluster.core(at).await.confirmed(WITHIN).await.unwrap();
        for (object, version) in acknowledged {
            let found = view.object(object).map(|found| found.version);
            assert_eq!(found, Some(*version), "{object} on n{at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_space_for_snapshots_lives_and_takes_them_later() {
    let disks = (0..3).map(|_| MemoryDisk::new()).collect();
    let cluster = Cluster::on(disks, often()).await;
    let leader = cluster.leader().await;
    let core = cluster.core(leader).await;
    let at = (leader + 1) % 3;
    let poor = cluster.core(at).await;
    leave(&cluster.disks[at], 0);
    let mut acknowledged = write_flags(&core, 0..60).await;
    all_hold(&cluster, &acknowledged).await;
    assert_eq!(poor.status().snapshot, None, "there is no space for one");
    assert!(core.status().snapshot.is_some());
    assert!(poor.complaint().unwrap().contains("nearly full"));
    cluster.disks[at].set_capacity(None);
    until("its snapshot", || poor.status().snapshot.is_some()).await;
    acknowledged.extend(write_flags(&core, 60..90).await);
    all_hold(&cluster, &acknowledged).await;
    assert_eq!((poor.complaint(), poor.status().fatal), (None, None));
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_leader_hands_over_and_a_full_cluster_refuses() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let core = cluster.core(leader).await;
    let mut acknowledged = write_flags(&core, 0..3).await;
    let named = environment();
    let all = [
        (ObjectId::environment_object(named.shared()), "{}"),
        (ObjectId::flag("kill"), FLAG),
        (ObjectId::policy(named, "kill"), POLICY),
    ];
    let all = all.map(|(object, json)| put(object, json, Expected::Any));
    core.write(request(all.into()), WITHIN).await.unwrap();
    leave(&cluster.disks[leader], MIN_FREE - MIB);
    // The writes wait for the next leader instead of failing.
    acknowledged.extend(write_flags(&core, 3..6).await);
    let next = cluster.leader().await;
    assert_ne!(next, leader);

    // With two of three full there is nobody to hand over to who could commit.
    leave(&cluster.disks[next], MIN_FREE - MIB);
    for at in 0..3 {
        let core = cluster.core(at).await;
        let one = request(vec![put(ObjectId::flag("no"), FLAG, Expected::Absent)]);
        let refused = core.write(one, WITHIN).await;
        assert!(full(refused.clone()), "{refused:?}");
        all_hold(&cluster, &acknowledged).await;
    }
    // But for the kill switch, for which the logs have room.
    let policy = ObjectId::policy(environment(), "kill");
    let mut switch = put(policy.clone(), POLICY, Expected::Any);
    switch.ask = Ask::Enable(false);
    let switched = core.write(request(vec![switch]), WITHIN).await.unwrap();
    acknowledged.retain(|(object, _)| *object != policy);
    acknowledged.push((policy, version_of(&switched)));
    all_hold(&cluster, &acknowledged).await;
    // A little more is not enough, so that it does not flicker.
    leave(&cluster.disks[next], MIN_FREE + MIB);
    let one = request(vec![put(ObjectId::flag("no"), FLAG, Expected::Absent)]);
    assert!(full(core.write(one, WITHIN).await));
    cluster.disks[next].set_capacity(None);
    until("space is seen", || core.shortage().is_none()).await;
    acknowledged.extend(write_flags(&core, 6..9).await);
    all_hold(&cluster, &acknowledged).await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_without_room_takes_no_changes_and_still_votes() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let core = cluster.core(leader).await;
    let mut acknowledged = write_flags(&core, 0..3).await;
    let at = (leader + 1) % 3;
    let poor = cluster.core(at).await;
    leave(&cluster.disks[at], 0);
    // More than a segment of the log.
    let value = format!(
        r#"{{"type":"string","variants":{{{}}},"off_variant":"v0"}}"#,
        (0..8)
            .map(|n| format!(r#""v{n}":"{}""#, "x".repeat(32 << 10)))
            .collect::<Vec<_>>()
            .join(",")
    );
    for n in 0..80 {
        let object = ObjectId::flag(format!("large-{n}"));
        let write = request(vec![put(object.clone(), &value, Expected::Absent)]);
        let outcome = core.write(write, WITHIN).await.unwrap();
        acknowledged.push((object, version_of(&outcome)));
    }
    let behind = poor.view().version();
    assert!(behind < core.view().version(), "it took everything");
    assert_eq!(poor.status().fatal, None);
    assert_eq!(poor.status().leader, Some(core.node()), "it still follows");

    // Its vote elects a leader when the old one goes.
    let node = cluster.nodes[leader].take().unwrap();
    cluster.network.cut(&format!("n{leader}"), true);
    node.shutdown().await;
    let other = (leader + 2) % 3;
    let third = cluster.core(other).await;
    until("a leader by the vote of the full node", || {
        third.status().role == Role::Leader
    })
    .await;
    cluster.disks[at].set_capacity(None);
    until("it catches up", || {
        poor.view().version() >= acknowledged[acknowledged.len() - 1].1
    })
    .await;
    assert_eq!(cluster.leader().await, other);
    cluster.start_node(leader).await;
    all_hold(&cluster, &acknowledged).await;
    cluster.stop().await;
}
