//! A change of members takes two steps, and a leader may be gone at any moment of it.

use pennon_raft_store::raft::{Change, MemberChange, Status, Vote};

use super::learners::{start_learner, start_learner_asking};
use super::*;

/// The first of them pass in no time, the others in a millisecond.
const TURNS_AT_ONCE: usize = 4;
/// Both steps reach everybody in fewer.
const TURNS_MAX: usize = 20;

/// Has the leader give a member of four a vote or take it, cuts the leader off after it and the others have had
/// so many turns, and returns how many of its steps those who are left have.
async fn leader_gone_after(turns: usize, change: MemberChange) -> u64 {
    let (mut cluster, leader, first, edge) = learners::with_learner().await;
    let id = edge.node();
    if change != MemberChange::Promote {
        let promoted = first.change_member(id, MemberChange::Promote, WITHIN);
        promoted.await.unwrap();
    }

    let vote = |core: &Core| {
        let members = core.status().members;
        let found = members.iter().find(|member| member.id == id);
        found.map_or(Vote::None, |member| member.vote)
    };

    let follower = cluster.core((leader + 1) % 3).await;
    let before = follower.status().last_log;
    let asked = tokio::spawn({
        let (first, change) = (first.clone(), change.clone());
        async move { first.change_member(id, change, WITHIN).await }
    });
    for turn in 0..turns {
        match turn < TURNS_AT_ONCE {
            true => tokio::task::yield_now().await,
            false => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    cluster.network.cut(&format!("n{leader}"), true);
    asked.abort();
    let gone = cluster.nodes[leader].take().unwrap();
    let steps = follower.status().last_log.unwrap() - before.unwrap();
    gone.shutdown().await;

    let next = cluster.leader().await;
    let next = cluster.core(next).await;
    // Nobody asks: what was begun is ended, and everybody shows it, but perhaps who is no member any more.
    let wanted = change == MemberChange::Promote;
    let hears = if change == MemberChange::Remove { 3 } else { 4 };
    for at in (0..hears).filter(|at| *at != leader) {
        let core = cluster.core(at).await;
        let mut statuses = core.statuses();
        let settled = statuses.wait_for(|status| status.change == Change::Settled);
        let settled = tokio::time::timeout(WITHIN, settled).await;
        settled.expect("a change is ended").unwrap();
    }
    // Asking again is how a person makes sure.
    if (vote(&next) == Vote::Voter) != wanted {
        let again = next.change_member(id, change.clone(), WITHIN).await;
        again.unwrap_or_else(|why| panic!("{turns} turns, {change:?}: {why}"));
    }
    // If that was the member, another one leads now.
    let next = cluster.leader().await;
    let next = cluster.core(next).await;
    let now = if wanted { Vote::Voter } else { Vote::None };
    assert_eq!(vote(&next), now, "{turns} turns, {change:?}");
    next.write(flag_on(1), WITHIN).await.unwrap();
    let view = next.cluster_view(Duration::from_secs(1)).await;
    assert!(!view.is_changing, "{view:?}");
    // Of three or four voters one is gone.
    assert_eq!(view.failure_tolerance, 0, "{view:?}");
    cluster.stop().await;
    steps
}

/// Has leaders go at all moments of a change.
async fn sweep(change: MemberChange) {
    let mut steps = Vec::new();
    for turns in 0..TURNS_MAX {
        steps.push(leader_gone_after(turns, change.clone()).await);
        if steps.last() == Some(&2) {
            break;
        }
    }
    steps.dedup();
    assert_eq!(steps, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_only_a_dead_leader_knows_asks_to_be_taken_in_again() {
    let (mut cluster, leader, _) = Cluster::written().await;
    // The leader hears everybody, and only the new node hears it.
    for other in (0..3).filter(|other| *other != leader) {
        let (from, to) = (format!("n{leader}"), format!("n{other}"));
        cluster.network.hole(&from, &to, true);
    }
    let order = [0, 1, 2].map(|turn| (leader + turn) % 3);
    start_learner_asking(&mut cluster, order).await;
    let edge = cluster.core(3).await;
    let heard = async {
        let mut statuses = edge.statuses();
        let heard = statuses.wait_for(|status| !status.members.is_empty());
        heard.await.unwrap().clone()
    };
    let heard = tokio::time::timeout(WITHIN, heard).await;
    let heard = heard.expect("the leader sends what it has");
    let known = |status: &Status| status.members.iter().any(|one| one.id == edge.node());
    assert!(known(&heard) && !heard.is_member, "{heard:?}");
    cluster.network.cut(&format!("n{leader}"), true);
    cluster.nodes[leader].take().unwrap().shutdown().await;

    let next = cluster.leader().await;
    let next = cluster.core(next).await;
    let mut statuses = next.statuses();
    let taken = statuses.wait_for(known);
    let taken = tokio::time::timeout(WITHIN, taken).await;
    taken.expect("it is taken in").unwrap();
    edge.proved(WITHIN).await.unwrap();
    // Who was taken in does not ask again, whatever becomes of it.
    let id = edge.node();
    let remove = next.change_member(id, MemberChange::Remove, WITHIN);
    remove.await.unwrap();
    drop(edge);
    cluster.nodes[3].take().unwrap().shutdown().await;
    start_learner(&mut cluster).await;
    tokio::time::sleep(WITHIN).await;
    let members = next.status().members;
    assert!(members.iter().all(|one| one.id != id), "{members:?}");
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_a_leader_began_to_give_is_given_by_the_next() {
    sweep(MemberChange::Promote).await;
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_a_leader_began_to_take_is_taken_by_the_next() {
    sweep(MemberChange::Demote).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_a_leader_began_to_remove_loses_its_vote_by_the_next() {
    sweep(MemberChange::Remove).await;
}
