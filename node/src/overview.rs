//! The cluster as one node sees it: who is in it, how they are, one verdict.
//!
//! What must hold: what a member does not say is missing; while votes change hands, what may fail is counted
//! on both sides.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use pennon_evaluator::Version;
use pennon_raft_store::command::ClusterId;
use pennon_raft_store::raft::{Change, Role, Vote};
use tokio::time::Instant;

use crate::core::Core;
use crate::peer::{PeerStatus, own_status};

/// One member as `/v1/cluster` shows it.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Its node id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its API address.
    pub api: String,
    /// Its peer address.
    pub peer: String,
    /// Its part.
    pub role: Role,
    /// Its part in decisions.
    pub vote: Vote,
    /// What it says of itself; `None` when it did not answer.
    pub said: Option<PeerStatus>,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// The leader, if known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// The version this node has.
    pub version: Version,
    /// The feature level of the cluster at that version.
    pub level: u32,
    /// How many more voters may fail before writes stop.
    pub failure_tolerance: i64,
    /// One sentence: healthy, or what is wrong.
    pub verdict: String,
    /// Whether a change of the members is not over yet.
    pub is_changing: bool,
    /// The members.
    pub members: Vec<MemberView>,
}

/// Asks every member how it is.
pub(crate) async fn cluster_view(core: &Core, within: Duration) -> ClusterView {
    let status = core.status();
    let deadline = Instant::now() + within;
    let members = join_all(status.members.iter().map(|member| async {
        let said = match member.id == core.node {
            true => Some(own_status(core)),
            false => core.peers.status(&member.member, deadline).await,
        };
        let role = match (
            said.as_ref().map(|said| said.role.as_str()),
            member.vote.is_held(),
        ) {
            (Some("leader"), _) => Role::Leader,
            (_, false) => Role::Learner,
            // Who does not answer was perhaps the leader; now it leads nobody that we can see.
            (_, true) => Role::Follower,
        };
        MemberView {
            id: member.id,
            name: member.member.name.clone(),
            api: member.member.api.clone(),
            peer: member.member.peer.clone(),
            role,
            vote: member.vote,
            said,
        }
    }))
    .await;
    let (failure_tolerance, verdict) = verdict(status.leader, &members);
    let view = core.view();
    ClusterView {
        cluster: core.cluster(),
        leader: status.leader,
        term: status.term,
        version: view.version(),
        level: view.level(),
        failure_tolerance,
        verdict,
        is_changing: status.change != Change::Settled,
        members,
    }
}

/// How many more voters may fail, and one sentence for people.
fn verdict(leader: Option<u64>, members: &[MemberView]) -> (i64, String) {
    // While votes change hands, a majority of those before and one of those after are needed.
    let sides = [Vote::is_held, Vote::stays].map(|votes: fn(Vote) -> bool| {
        let voters = members.iter().filter(|member| votes(member.vote));
        let alive = voters.clone().filter(|member| member.said.is_some());
        let (voters, alive) = (voters.count() as i64, alive.count() as i64);
        (alive - (voters / 2 + 1), alive, voters)
    });
    let [before, after] = sides;
    let (tolerance, alive, voters) = before.min(after);
    let quorum = voters / 2 + 1;
    let silent: Vec<_> = members
        .iter()
        .filter(|member| member.said.is_none())
        .map(|member| member.name.as_str())
        .collect();
    let mut by_version: BTreeMap<Version, u128> = BTreeMap::new();
    let differs = members
        .iter()
        .filter_map(|member| member.said.as_ref())
        .any(|said| {
            *by_version.entry(said.version).or_insert(said.digest) != said.digest // I4
        });
    let complaint = members.iter().find_map(|member| {
        let complaint = member.said.as_ref()?.complaint.as_ref()?;
        Some(format!("{}: {complaint}", member.name))
    });
    let verdict = if let Some(complaint) = complaint {
        complaint // I4
    } else if differs {
        "DIVERGED: two nodes have different state at the same version; keep both data directories and report it".into()
    } else if tolerance < 0 {
        format!(
            "no quorum: {alive} of {voters} voters answer, {quorum} are needed; writes are refused"
        )
    } else if members
        .iter()
        .any(|member| Some(member.id) == leader && member.said.is_none())
    {
        format!(
            "no answer from the leader; the others elect another. {} of {voters} voters answer",
            alive
        )
    } else if leader.is_none() {
        "no leader at the moment; an election is under way".into()
    } else if !silent.is_empty() {
        format!(
            "degraded: no answer from {}; {tolerance} more may fail",
            silent.join(", ")
        )
    } else {
        "healthy".into()
    };
    (tolerance, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, vote: Vote, answers: bool) -> MemberView {
        let said = answers.then(|| PeerStatus {
            node: id,
            version: Version::ZERO,
            digest: 0,
            staleness_ms: None,
            streams: 0,
            release: String::new(),
            role: "follower".into(),
            complaint: None,
            feature_level: 1,
        });
        MemberView {
            id,
            name: format!("n{id}"),
            api: String::new(),
            peer: String::new(),
            role: Role::Follower,
            vote,
            said,
        }
    }

    #[test]
    fn while_votes_change_hands_both_sides_need_a_majority() {
        let tolerance = |members: &[MemberView]| verdict(Some(1), members).0;
        let three = |vote| {
            vec![
                member(1, Vote::Voter, true),
                member(2, Vote::Voter, true),
                member(3, vote, false),
            ]
        };
        assert_eq!(tolerance(&three(Vote::Voter)), 0);
        assert_eq!(tolerance(&three(Vote::None)), 0);
        // Two of two are needed when it will be gone, and two of three before that.
        assert_eq!(tolerance(&three(Vote::Losing)), 0);
        let four = |vote, answers| {
            let mut all = three(Vote::Voter);
            all.push(member(4, vote, answers));
            all
        };
        // Of four voters three are needed.
        assert_eq!(tolerance(&four(Vote::Gaining, true)), 0);
        assert_eq!(tolerance(&four(Vote::Gaining, false)), -1);
        assert_eq!(tolerance(&four(Vote::None, false)), 0);
        let (_, said) = verdict(Some(1), &four(Vote::Gaining, false));
        assert!(
            said.contains("2 of 4 voters answer, 3 are needed"),
            "{said}"
        );
    }
}
