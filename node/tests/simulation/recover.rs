//! A cluster that is lost for good, and the new one made from what is left of it.

use std::collections::BTreeMap;

use pennon_client::{Client, StalePolicy, Subject};
use pennon_raft_store::backup::{Backup, FirstNode, Recovered, Source, VERSIONS_SKIPPED, recover};
use pennon_raft_store::command::{Change, ClusterId};
use pennon_raft_store::disk::{Disk, Open};
use pennon_raft_store::machine::View;
use pennon_raft_store::raft::Member;

use super::*;

fn first() -> FirstNode {
    FirstNode {
        cluster: ClusterId::new(0xbeef),
        node: 77,
        member: Member {
            name: "n0".into(),
            ..Member::default()
        },
    }
}

fn recovered(source: &Source<'_>) -> (MemoryDisk, Recovered) {
    let disk = MemoryDisk::new();
    let to: Arc<dyn Disk> = Arc::new(disk.clone());
    let recovered = recover(source, &to, &first()).unwrap();
    // What it says is there is there after a power cut.
    (disk.crash_synced(), recovered)
}

fn objects(view: &View) -> BTreeMap<ObjectId, (Version, Arc<str>)> {
    let all = view.all_objects();
    all.map(|(id, object)| (id.clone(), (object.version, object.value.clone())))
        .collect()
}

/// A backup of what a node has now.
async fn backup_of(core: &Core) -> Backup {
    let (bytes, info) = core.backup(core.view(), Vec::new()).await.unwrap();
    assert_eq!(info.bytes, bytes.len() as u64);
    let disk = MemoryDisk::new();
    let file = disk.open("b", Open::CreateNew).unwrap();
    file.write_at(&bytes, 0).unwrap();
    Backup::open(&disk, "b").unwrap()
}

async fn history_of(core: &Core) -> Vec<Change> {
    let policy = ObjectId::policy(environment(), "checkout");
    core.history(&policy, None, 100).await.unwrap()
}

async fn client_of(cluster: &Cluster) -> Client {
    Client::builder((0..3).map(|at| format!("http://{}", api(at))))
        .environment("production")
        .stale_policy(StalePolicy::ServeLastGood)
        .connector(ClientNetwork(cluster.network.clone()))
        .clock(ClientClock(TokioClock::start()))
        .seed(11)
        .connect_deadline(WITHIN)
        .connect()
        .await
        .unwrap()
}

/// Stops everybody and starts the new cluster in the place of node 0.
async fn replace(cluster: &mut Cluster, disk: MemoryDisk) -> Arc<Core> {
    for node in &mut cluster.nodes {
        if let Some(node) = node.take() {
            node.shutdown().await;
        }
    }
    cluster.disks[0] = disk;
    cluster.start_with(0, NodeOptions::single("n0")).await;
    let core = cluster.core(0).await;
    core.proved(WITHIN).await.unwrap();
    core
}

#[tokio::test(start_paused = true)]
async fn a_survivor_goes_on_as_a_new_cluster_and_clients_go_with_it() {
    let raft = RaftOptions {
        snapshot_every: 4,
        keep_behind_snapshot: 1,
        ..RaftOptions::default()
    };
    let disks = (0..3).map(|_| MemoryDisk::new()).collect();
    let mut cluster = Cluster::on(disks, raft).await;
    let leader = cluster.leader().await;
    let core = cluster.core(leader).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    let client = client_of(&cluster).await;
    let mut version = Version::ZERO;
    for n in 1..=9 {
        version = version_of(&core.write(flag_on(n), WITHIN).await.unwrap());
    }
    client.wait_for(version, WITHIN).await.unwrap();
    let alice = Subject::new("alice");
    assert!(!client.is_enabled("checkout", &alice));
    let (before, history) = (objects(&core.view()), history_of(&core).await);
    let digest = core.view().digest();
    assert!(core.status().snapshot.is_some(), "a snapshot and a log");
    // All stop; the disk of one is left.
    for node in &mut cluster.nodes {
        node.take().unwrap().shutdown().await;
    }
    let left: Arc<dyn Disk> = Arc::new(cluster.disks[leader].copy());
    let (disk, made) = recovered(&Source::Node(&left));
    assert_eq!(made.old_cluster, core.cluster());
    assert!(made.old_version >= version);
    assert_eq!(
        made.version.get(),
        made.old_version.get() + VERSIONS_SKIPPED
    ); // I2
    let core = replace(&mut cluster, disk).await;
    assert_eq!(core.cluster(), first().cluster);
    assert_eq!(
        (objects(&core.view()), core.view().digest()),
        (before, digest)
    );
    assert_eq!(history_of(&core).await, history);
    assert!(core.view().version() >= made.version);
    // The client, which has been there all the time, goes on with it (I6).
    let version = version_of(&core.write(flag_on(10), WITHIN).await.unwrap());
    client.wait_for(version, WITHIN).await.unwrap();
    assert!(client.is_enabled("checkout", &alice));
    let named = client.status().cluster_id.clone();
    assert_eq!(named.as_deref(), Some(first().cluster.to_string().as_str()));
    // And the cluster grows again.
    let options = NodeOptions {
        join: vec![peer(0)],
        learner: true,
        ..NodeOptions::single("n1")
    };
    cluster.disks[1] = MemoryDisk::new();
    cluster.start_with(1, options).await;
    let second = cluster.core(1).await;
    second.proved(WITHIN).await.unwrap();
    let promote = pennon_raft_store::raft::MemberChange::Promote;
    core.change_member(second.node(), promote, WITHIN)
        .await
        .unwrap();
    let version = version_of(&second.write(flag_on(11), WITHIN).await.unwrap());
    core.at_least(version, WITHIN).await.unwrap();
    assert_eq!(
        core.view().digest(),
        second.at_least(version, WITHIN).await.unwrap().digest()
    ); // I4
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_backup_becomes_a_new_cluster_that_nobody_mistakes_for_the_old_one() {
    let (mut cluster, _, core) = Cluster::written().await;
    let backup = backup_of(&core).await;
    let client = client_of(&cluster).await;
    // The old cluster goes on for a while after the backup.
    let version = version_of(&core.write(flag_on(1), WITHIN).await.unwrap());
    client.wait_for(version, WITHIN).await.unwrap();
    let alice = Subject::new("alice");
    assert!(!client.is_enabled("checkout", &alice));
    let (disk, made) = recovered(&Source::Backup(&backup));
    let core = replace(&mut cluster, disk).await;
    client.wait_for(made.version, WITHIN).await.unwrap();
    assert!(
        client.is_enabled("checkout", &alice),
        "as it was in the backup"
    );
    // Whoever names a version of the old cluster, and not the cluster, gets everything (I8).
    let here = core.view();
    let since = here.since(&environment(), version);
    assert!(
        matches!(since, pennon_raft_store::machine::Since::Full),
        "{since:?}"
    );
    cluster.stop().await;
}

#[test]
fn nothing_is_written_where_something_was() {
    let disk = MemoryDisk::new();
    disk.open("notes.txt", Open::CreateNew).unwrap();
    let to: Arc<dyn Disk> = Arc::new(disk.clone());
    let empty: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let refused = recover(&Source::Node(&empty), &to, &first()).unwrap_err();
    assert!(refused.to_string().contains("notes.txt"), "{refused}");
    let to: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let refused = recover(&Source::Node(&empty), &to, &first()).unwrap_err();
    assert!(refused.to_string().contains("no node's data"), "{refused}");
}
