//! A member that is away for long: the leader's log stays bounded, and what was sent of a snapshot is
//! not sent again.

use pennon_raft_store::disk::{Disk, Open};

use super::*;

/// Writes flags with a long description, so that a snapshot has several pieces.
async fn write_wide(core: &Core, count: u32) {
    let text = "x".repeat(600 << 10);
    for n in 0..count {
        let wide = FLAG.replacen('{', &format!(r#"{{"description":"{text}","#), 1);
        let object = ObjectId::flag(format!("wide-{n}"));
        let outcome = core
            .write(request(vec![put(object, &wide, Expected::Absent)]), WITHIN)
            .await;
        version_of(&outcome.unwrap());
    }
}

/// Waits until a node has purged its log beyond an index.
async fn purged(core: &Core, index: u64) {
    let mut statuses = core.statuses();
    let purged = statuses.wait_for(|status| status.purged.is_some_and(|purged| purged > index));
    let in_time = tokio::time::timeout(WITHIN, purged).await.is_ok();
    assert!(in_time, "{:?}", core.status());
}

/// The unfinished snapshot of a node: file and length.
fn unfinished(cluster: &Cluster, at: usize) -> Option<(String, u64)> {
    let disk = &cluster.disks[at];
    let names = disk.list("snapshots").unwrap();
    let name = names.into_iter().find(|name| name.ends_with(".aside"))?;
    let file = disk.open(&format!("snapshots/{name}"), Open::Existing);
    Some((name, file.unwrap().len().unwrap()))
}

/// Lets the others go on a little. Time only passes while everybody waits, and a whole transfer takes
/// none: so once it has begun it is looked at between any two steps.
async fn a_little(cluster: &Cluster, at: usize) {
    for _ in 0..200 {
        let before = unfinished(cluster, at);
        tokio::task::yield_now().await;
        if unfinished(cluster, at) != before {
            return;
        }
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_purges_while_a_member_is_away_and_a_cut_transfer_goes_on_where_it_was() {
    let mut cluster = Cluster::on((0..3).map(|_| MemoryDisk::new()).collect(), often()).await;
    let leader = cluster.leader().await;
    let core = cluster.core(leader).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    let away = (leader + 1) % 3;
    cluster.nodes[away].take().unwrap().shutdown().await;
    write_wide(&core, 8).await;
    let acknowledged = write_flags(&core, 0..120).await;
    purged(&core, 60).await;

    cluster.start_node(away).await;
    while unfinished(&cluster, away).is_none_or(|file| file.1 <= 3 << 20) {
        a_little(&cluster, away).await;
    }
    let name = format!("n{away}");
    cluster.network.cut(&name, true);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (file, length) = unfinished(&cluster, away).expect("it waits for the rest");
    cluster.network.cut(&name, false);
    // Until it has a name, it is the same file, and it only grows.
    let mut before = length;
    while let Some((now, length)) = unfinished(&cluster, away) {
        assert_eq!(now, file);
        assert!(length >= before, "{length} after {before}");
        before = length;
        a_little(&cluster, away).await;
    }
    let last = acknowledged.last().unwrap().1;
    let there = cluster.core(away).await;
    let view = there.at_least(last, WITHIN).await.unwrap();
    assert_eq!(view.digest(), core.view().digest()); // I4
    cluster.stop().await;
}
