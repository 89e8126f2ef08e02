//! A node whose consensus has ended says why and lets everybody else run.

use super::*;
use pennon_raft_store::disk::{Fault, FaultAt};

#[tokio::test(start_paused = true)]
async fn a_follower_whose_disk_fails_says_so_and_keeps_no_processor_busy() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    cluster.disks[follower].fail(Fault {
        at: FaultAt::Sync,
        nth: 1,
        errno: 5,
        sticky: true,
    });
    // Two of three are enough. All of it runs on one thread: whoever spins is never seen to end.
    let core = cluster.core(leader).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    let failed = cluster.nodes[follower].as_ref().unwrap().failed();
    let why = tokio::time::timeout(WITHIN, failed).await.unwrap();
    assert!(why.contains("the log has stopped"), "{why}");
    write_flags(&core, 0..20).await;
    cluster.stop().await;
}
