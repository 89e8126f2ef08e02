//! The power of a whole node is cut after every operation on its disk: writes, elections, snapshots taken and
//! received, purges, the first identity. What the disk may hold then is opened as the node opens it; it
//! must start, and everything that was acknowledged by then must be there. sled does not run on this disk:
//! `state/` is taken for lost each time, and the history has to be whole again all the same.

use std::collections::BTreeMap;

use pennon_raft_store::disk::{Kept, MemoryDisk};
use pennon_raft_store::raft::MemberChange;

use crate::damage::long;
use crate::world::{
    Acknowledged, CLUSTER, Network, flag, flag_json, holds, leads, lost, member, open, runtime,
    single, write,
};

/// What may survive of what was not synced.
const SURVIVES: [Kept; 5] = [
    Kept::Nothing,
    Kept::All,
    Kept::Prefix(512),
    Kept::Sectors(1),
    Kept::Sectors(2),
];

/// Opens every image after every operation; `check` says what is wrong with one.
fn every_image(
    node: u64,
    disk: &MemoryDisk,
    acknowledged: &[Acknowledged],
    check: impl AsyncFn(&MemoryDisk, &[Acknowledged]) -> Result<(), String>,
) -> usize {
    let journal = disk.journal();
    let now = MemoryDisk::new();
    let mut images = 0;
    for done in 0..=journal.len() {
        if done > 0 {
            now.replay(&journal[done - 1..done]);
        }
        let by_then = acknowledged
            .iter()
            .take_while(|one| one.operations.get(&node).is_some_and(|at| *at <= done))
            .count();
        for (n, kept) in SURVIVES.into_iter().enumerate() {
            // Between two syncs the images differ little; all of them in the long profile.
            if !long() && n > 0 && (done + n) % 4 != 0 {
                continue;
            }
            let image = now.crash(|_| kept);
            let checked = runtime().block_on(check(&image, &acknowledged[..by_then]));
            if let Err(why) = checked {
                panic!("after {done} operations, {kept:?} of what was not synced: {why}");
            }
            images += 1;
        }
    }
    images
}

#[test]
fn a_single_node_loses_nothing_whenever_its_power_goes() {
    let disk = MemoryDisk::new();
    disk.record();
    let acknowledged = runtime().block_on(async {
        let (raft, mut acknowledged) = single(&disk, CLUSTER, 1, 24, &Network::default()).await;
        raft.shutdown().await;
        // A second life: recovery is cut short as well.
        let raft = open(&disk, CLUSTER, 1, &Network::default()).await.unwrap();
        assert!(leads(&raft).await);
        for n in 0..6 {
            let version = write(&raft, &flag(n), &flag_json(n + 1)).await.unwrap();
            acknowledged.push(Acknowledged {
                object: flag(n),
                version,
                operations: BTreeMap::from([(1, disk.journal_len())]),
            });
        }
        let status = raft.status();
        assert!(status.purged.is_some() && status.snapshot.is_some());
        acknowledged
    });
    let images = every_image(1, &disk, &acknowledged, async |image, acknowledged| {
        let raft = open(image, CLUSTER, 1, &Network::default()).await?;
        if acknowledged.is_empty() && !raft.is_initialized().await? {
            return Ok(()); // It had not even formed its cluster.
        }
        if !leads(&raft).await {
            return Err("it does not lead".to_owned());
        }
        if let Some(lost) = lost(&raft, acknowledged) {
            return Err(format!("lost: {lost}")); // I9
        }
        write(&raft, &flag(99), &flag_json(0)).await.map(drop)
    });
    println!("{} operations, {images} images opened", disk.journal_len());
    assert!(images > 300, "{images}");
}

/// Node 2 joins when the log of node 1 begins behind a snapshot, so it gets that; then it votes, so
/// nothing is acknowledged without it.
async fn joined(one: &MemoryDisk, two: &MemoryDisk) -> Vec<Acknowledged> {
    let network = Network::default();
    let (first, _) = single(one, CLUSTER, 1, 30, &network).await;
    let second = open(two, CLUSTER, 2, &network).await.unwrap();
    let learner = MemberChange::AddLearner(member(2));
    let turn = first.turn().await;
    first.change_member(&turn, 2, learner).await.unwrap();
    let votes = first.change_member(&turn, 2, MemberChange::Promote);
    votes.await.unwrap();
    let mut acknowledged = Vec::new();
    for n in 0..30 {
        let version = write(&first, &flag(n % 20), &flag_json(n)).await.unwrap();
        acknowledged.push(Acknowledged {
            object: flag(n % 20),
            version,
            operations: BTreeMap::from([(2, two.journal_len())]),
        });
    }
    let status = second.status();
    assert!(status.purged.is_some(), "it purged by itself: {status:?}");
    acknowledged
}

#[test]
fn a_node_that_receives_a_snapshot_keeps_every_entry_it_counted_for() {
    let (one, two) = (MemoryDisk::new(), MemoryDisk::new());
    two.record();
    let acknowledged = runtime().block_on(joined(&one, &two));
    let snapshots = two.journal().into_iter().filter(|operation| {
        matches!(operation, pennon_raft_store::disk::Operation::Rename { to, .. } if to.ends_with(".snap"))
    });
    assert!(snapshots.count() >= 3, "one received, others taken");
    let images = every_image(2, &two, &acknowledged, async |image, acknowledged| {
        let raft = open(image, CLUSTER, 2, &Network::default()).await?;
        match acknowledged.last() {
            Some(last) => holds(&raft, last).await,
            None => Ok(()),
        }
    });
    println!("{} operations, {images} images opened", two.journal_len());
    assert!(images > 200, "{images}");
}
