//! Learners: they serve like everybody, count for no quorum, and come and go without hurting anyone.

use pennon_client::Subject;
use pennon_node::membership::MembershipError;
use pennon_raft_store::raft::{Change, MemberChange, Vote};

use super::*;

/// Starts node 3 as a learner of the nodes 0 to 2.
pub(super) async fn start_learner(cluster: &mut Cluster) {
    start_learner_asking(cluster, [0, 1, 2]).await;
}

/// The same, where it asks the nodes in this order.
pub(super) async fn start_learner_asking(cluster: &mut Cluster, order: [usize; 3]) {
    if cluster.disks.len() == 3 {
        cluster.disks.push(MemoryDisk::new());
        cluster.nodes.push(None);
    }
    let options = NodeOptions {
        join: order.map(peer).to_vec(),
        learner: true,
        ..NodeOptions::single("n3")
    };
    cluster.start_with(3, options).await;
}

/// Three nodes with the first writes and a learner that serves: which of them leads, its core and the learner's.
pub(super) async fn with_learner() -> (Cluster, usize, Arc<Core>, Arc<Core>) {
    let (mut cluster, leader, core) = Cluster::written().await;
    start_learner(&mut cluster).await;
    let edge = cluster.core(3).await;
    edge.proved(WITHIN).await.unwrap();
    (cluster, leader, core, edge)
}

async fn client_of(cluster: &Cluster, at: usize) -> pennon_client::Client {
    pennon_client::Client::builder([format!("http://{}", api(at))])
        .environment("production")
        .client_id("edge")
        .connector(ClientNetwork(cluster.network.clone()))
        .clock(ClientClock(TokioClock::start()))
        .seed(9)
        .connect_deadline(WITHIN)
        .connect()
        .await
        .expect("a learner serves streams")
}

/// The member's part as the leader knows it: whether it votes; none when it is no member.
fn voter(core: &Core, id: u64) -> Option<bool> {
    let members = core.status().members;
    let found = members.iter().find(|member| member.id == id);
    found.map(|member| member.vote == Vote::Voter)
}

#[tokio::test(start_paused = true)]
async fn a_learner_joins_serves_leaves_and_comes_back() {
    let (mut cluster, leader, core, edge) = with_learner().await;
    assert_eq!(edge.status().role, Role::Learner);
    assert_eq!(voter(&core, edge.node()), Some(false));

    let client = client_of(&cluster, 3).await;
    let alice = Subject::new("alice");
    let version = version_of(&core.write(flag_on(1), WITHIN).await.unwrap());
    let delivery = core.delivery(&[environment()], version, WITHIN).await;
    assert!(
        delivery.is_delivered() && delivery.nodes.len() == 4,
        "{delivery:?}"
    );
    assert!(!client.is_enabled("checkout", &alice) && client.status().is_fresh());
    // A write through the learner goes to the leader, as through any node.
    let version = version_of(&edge.write(flag_on(2), WITHIN).await.unwrap());
    client.wait_for(version, WITHIN).await.unwrap();
    assert!(client.is_enabled("checkout", &alice));
    let digests = [&core, &edge].map(|core| core.view().digest());
    assert_eq!(digests[0], digests[1]); // I4

    // It goes without a word, and so does a voter: two of three voters decide.
    cluster.nodes[3].take().unwrap().shutdown().await;
    let follower = (leader + 1) % 3;
    cluster.nodes[follower].take().unwrap().shutdown().await;
    let view = core.cluster_view(Duration::from_secs(1)).await;
    assert_eq!(view.failure_tolerance, 0, "{}", view.verdict);
    let version = version_of(&core.write(flag_on(3), WITHIN).await.unwrap());

    start_learner(&mut cluster).await;
    let edge = cluster.core(3).await;
    edge.at_least(version, WITHIN).await.expect("it catches up");
    client
        .wait_for(version, WITHIN)
        .await
        .expect("and its client");
    drop(client);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_learner_gets_a_vote_loses_it_and_leaves() {
    let (mut cluster, leader, core, edge) = with_learner().await;
    let id = edge.node();
    // Through any node; the learner itself as well.
    edge.change_member(id, MemberChange::Promote, WITHIN)
        .await
        .unwrap();
    assert_eq!(voter(&core, id), Some(true));
    let again = core.change_member(id, MemberChange::Promote, WITHIN).await;
    assert!(
        matches!(again, Err(MembershipError::Refused(_))),
        "{again:?}"
    );

    // Of four voters one is gone: taking the vote of another would leave two of three, which is enough;
    // with two gone it is not.
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    cluster.nodes[others[0]].take().unwrap().shutdown().await;
    let third = cluster.core(others[1]).await;
    third
        .change_member(id, MemberChange::Demote, WITHIN)
        .await
        .unwrap();
    // The leader shows it, and the node that was asked.
    assert_eq!(
        (voter(&core, id), voter(&third, id)),
        (Some(false), Some(false))
    );
    assert_eq!(third.status().change, Change::Settled);
    let last = third.node();
    let refused = core.change_member(last, MemberChange::Remove, WITHIN).await;
    let Err(MembershipError::Refused(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains("nothing could be written"), "{why}");
    core.change_member(id, MemberChange::Remove, WITHIN)
        .await
        .unwrap();
    assert_eq!(voter(&core, id), None);
    core.write(flag_on(1), WITHIN).await.unwrap();
    // Who is no member any more proves nothing and says so.
    let stale = async {
        while edge
            .staleness()
            .is_some_and(|age| age < Duration::from_secs(10))
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(WITHIN, stale)
        .await
        .expect("it calls itself stale"); // I5
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_stands_for_one_member() {
    let (mut cluster, _, core, edge) = with_learner().await;
    let first = edge.node();
    drop(edge);
    // The same learner with an empty directory takes its own place.
    cluster.nodes[3].take().unwrap().shutdown().await;
    cluster.disks[3] = MemoryDisk::new();
    start_learner(&mut cluster).await;
    let edge = cluster.core(3).await;
    edge.proved(WITHIN).await.unwrap();
    assert_ne!(edge.node(), first);
    assert_eq!(
        (voter(&core, first), voter(&core, edge.node())),
        (None, Some(false))
    );
    let mut namesake = core.status().leader_member().unwrap().member.clone();
    namesake.api = "elsewhere:1".into();
    let taken = MemberChange::AddLearner(namesake);
    let refused = core.change_member(77, taken, WITHIN).await;
    assert!(
        matches!(refused, Err(MembershipError::Refused(_))),
        "{refused:?}"
    );
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_loses_its_vote_hands_over_first() {
    let (cluster, old, core) = Cluster::written().await;
    let demoted = core
        .change_member(core.node(), MemberChange::Demote, WITHIN)
        .await;
    demoted.unwrap();
    let new = cluster.leader().await;
    assert_ne!(new, old);
    let leader = cluster.core(new).await;
    assert_eq!(voter(&leader, core.node()), Some(false));
    let version = version_of(&core.write(flag_on(1), WITHIN).await.unwrap());
    core.at_least(version, WITHIN)
        .await
        .expect("it goes on as a learner");
    assert_ne!(core.status().role, Role::Leader);
    cluster.stop().await;
}
