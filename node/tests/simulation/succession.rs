//! A leader that is gone is followed at once; one that lives is left alone, however it looks.

use pennon_raft_store::raft::Status;
use tokio::time::Instant;

use super::*;

async fn led(cluster: &Cluster) -> (usize, Status) {
    let leader = cluster.leader().await;
    let core = cluster.core(leader).await;
    core.write(first_writes(), WITHIN).await.unwrap();
    // Everybody follows, and has heard of it.
    for at in 0..cluster.disks.len() {
        cluster.core(at).await.proved(WITHIN).await.unwrap();
    }
    (leader, core.status())
}

#[tokio::test(start_paused = true)]
async fn the_others_go_on_soon_after_the_leaders_process_is_gone() {
    for size in [3, 5] {
        let mut cluster = Cluster::start(size).await;
        let (leader, before) = led(&cluster).await;
        cluster.nodes[leader].take().unwrap().shutdown().await;
        let gone = Instant::now();
        let survivor = cluster.core((leader + 1) % size).await;
        survivor.write(flag_on(1), WITHIN).await.unwrap();
        // The election timeout alone is beyond 1.4 s.
        let took = gone.elapsed();
        assert!(took < Duration::from_millis(600), "{size} nodes: {took:?}");
        assert!(survivor.status().term > before.term);
        cluster.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_stays_though_nobody_reaches_it() {
    let cluster = Cluster::start(3).await;
    let (leader, before) = led(&cluster).await;
    // It refuses connections and goes on sending heartbeats.
    cluster.network.cut(&peer(leader), true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let core = cluster.core(leader).await;
    let now = core.status();
    assert_eq!((now.role, now.term), (Role::Leader, before.term));
    core.write(flag_on(1), WITHIN).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_off_by_itself_deposes_nobody() {
    let cluster = Cluster::start(3).await;
    let (leader, before) = led(&cluster).await;
    let alone = (leader + 1) % 3;
    cluster.network.cut(&format!("n{alone}"), true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.network.cut(&format!("n{alone}"), false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let core = cluster.core(leader).await;
    let now = core.status();
    assert_eq!((now.role, now.term), (Role::Leader, before.term));
    let version = version_of(&core.write(flag_on(1), WITHIN).await.unwrap());
    let back = cluster.core(alone).await;
    back.at_least(version, WITHIN).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_first() {
    let mut cluster = Cluster::start(3).await;
    let (leader, before) = led(&cluster).await;
    let survivor = cluster.core((leader + 1) % 3).await;
    let node = cluster.nodes[leader].take().unwrap();
    let (began, stopping) = (Instant::now(), tokio::spawn(node.shutdown()));
    let mut statuses = survivor.statuses();
    let other_leads = |status: &Status| {
        status.term > before.term && status.leader.is_some_and(|id| id != before.node)
    };
    let led = statuses.wait_for(other_leads);
    tokio::time::timeout(WITHIN, led).await.unwrap().unwrap();
    // Not even a heartbeat was missed.
    let took = began.elapsed();
    assert!(took < Duration::from_millis(200), "{took:?}");
    survivor.write(flag_on(1), WITHIN).await.unwrap();
    stopping.await.unwrap();
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_to_whom_it_is_given_and_comes_back() {
    let cluster = Cluster::start(3).await;
    let (leader, _) = led(&cluster).await;
    let (here, there) = (
        cluster.core(leader).await,
        cluster.core((leader + 1) % 3).await,
    );
    let third = cluster.core((leader + 2) % 3).await;
    let member = |core: &Core| {
        let members = core.status().members;
        members.into_iter().find(|one| one.id == core.node())
    };
    // Asked through a node that has nothing to do with it.
    let leads = third.transfer_leader(member(&there), WITHIN).await.unwrap();
    assert_eq!(
        (leads.id, there.status().role),
        (there.node(), Role::Leader)
    );
    let version = version_of(&here.write(flag_on(1), WITHIN).await.unwrap());
    third.at_least(version, WITHIN).await.unwrap();
    // Whoever is asked takes it itself; who leads already has nothing to do.
    let leads = here.transfer_leader(None, WITHIN).await.unwrap();
    assert_eq!((leads.id, here.status().role), (here.node(), Role::Leader));
    here.transfer_leader(member(&here), WITHIN).await.unwrap();
    let leads = here.transfer_leader(None, WITHIN).await.unwrap();
    assert_ne!(leads.id, here.node());
    let version = version_of(&here.write(flag_on(2), WITHIN).await.unwrap());
    third.at_least(version, WITHIN).await.unwrap();
    cluster.stop().await;
}
