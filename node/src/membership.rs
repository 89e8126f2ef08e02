//! Members that come and go: a learner is taken in, gets a vote, loses it, leaves.
//!
//! What must hold: a change is made by the leader alone and never when the voters that would be left
//! could not decide anything; who gets a vote has caught up; a name stands for one member.
//!
//! Left out: forming a cluster (`formation.rs`).

use std::time::Duration;

use futures_util::future::join_all;
use pennon_raft_store::raft::{Member, MemberChange, MemberStatus, ProposeError, Role, Status};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::Core;
use crate::peer::PeerError;

/// Entries that a learner may lack when it gets a vote: it has them before the next heartbeat.
const LAG_MAX: u64 = 1_000;

/// Before a new leader is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The longest wait for a member that is asked whether it lives.
const ALIVE_MAX: Duration = Duration::from_secs(1);

/// Why a membership was not changed, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MembershipError {
    /// It cannot be done; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// There is no leader that can be reached; nothing was changed.
    #[error("no leader could be reached")]
    NoLeader,
    /// It may have been changed.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
}

impl Core {
    /// Changes what a member is, through the leader, wherever it is.
    ///
    /// # Errors
    /// See [`MembershipError`]; only `Unknown` leaves open whether it happened.
    pub async fn change_member(
        &self,
        node: u64,
        change: MemberChange,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let status = self.status();
        match status.leader_member() {
            Some(leader) if leader.id != self.node() => {
                let deadline = Instant::now() + within;
                let changed = self.peers.change_member(leader, node, change, deadline);
                match changed.await {
                    Ok(changed) => changed,
                    Err(PeerError::NotSent(_)) => Err(MembershipError::NoLeader),
                    Err(why) => Err(MembershipError::Unknown(why.to_string())),
                }
            }
            Some(_) => self.change_member_here(node, change, within).await,
            None => Err(MembershipError::NoLeader),
        }
    }

    /// The same on the leader.
    pub(crate) async fn change_member_here(
        &self,
        node: u64,
        change: MemberChange,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err(MembershipError::NoLeader);
        }
        let changing = async {
            if let MemberChange::AddLearner(member) = &change {
                let same_name = |have: &&MemberStatus| have.member.name == member.name;
                let namesake = status.members.iter().find(same_name);
                match namesake {
                    Some(have) if have.id == node && have.member == *member => return Ok(()),
                    Some(have) if have.id == node => {
                        let moved = self.raft.set_member(node, member.clone()).await;
                        return moved.map_err(outcome);
                    }
                    Some(have) if have.voter => {
                        return Err(MembershipError::Refused(format!(
                            "a voter is named {}: give this node another name, or remove that one",
                            member.name
                        )));
                    }
                    // The same learner with a new directory.
                    Some(have) => self
                        .raft
                        .change_member(have.id, MemberChange::Remove)
                        .await
                        .map_err(outcome)?,
                    None => {}
                }
                self.check_level(member).await?;
            } else if let Some(refused) = refusal(&status, node, &change) {
                return Err(MembershipError::Refused(refused));
            } else if takes_vote(&status, node, &change) {
                self.check_quorum_without(&status, node).await?;
            }
            if node == self.node() && change == MemberChange::Lead {
                return Ok(());
            }
            if node == self.node() && takes_vote(&status, node, &change) {
                return self.hand_over(&status, &change, within).await;
            }
            let changed = self.raft.change_member(node, change.clone()).await;
            changed.map_err(outcome)
        };
        tokio::time::timeout(within, changing)
            .await
            .unwrap_or_else(|_| Err(MembershipError::Unknown("it took too long".into())))
    }

    /// Has another voter lead, which then takes this one's vote: a leader without a vote would go on
    /// leading.
    async fn hand_over(
        &self,
        status: &Status,
        change: &MemberChange,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let deadline = Instant::now() + within;
        let next = self.successor(status).await?;
        loop {
            let leader = self.give_way(&next).await?;
            let call = self
                .peers
                .change_member(&leader, self.node(), change.clone(), deadline);
            match call.await {
                // It has the votes, and does not know it yet.
                Ok(Err(MembershipError::NoLeader)) => tokio::time::sleep(RETRY_PAUSE).await,
                Ok(changed) => return changed,
                Err(why) => return Err(MembershipError::Unknown(why.to_string())),
            }
        }
    }

    /// The voter that is to lead after this one: of those that answer, the one with the longest log.
    async fn successor(&self, status: &Status) -> Result<MemberStatus, MembershipError> {
        let deadline = Instant::now() + ALIVE_MAX;
        let others = status.members.iter();
        let others = others.filter(|member| {
            member.voter && member.id != self.node() && Some(member.id) != status.leader
        });
        let asked = others.map(|member| async move {
            let alive = self.peers.is_alive(&member.member, deadline).await;
            alive.then(|| member.clone())
        });
        let alive = join_all(asked).await.into_iter().flatten();
        let next = alive.max_by_key(|member| member.matched);
        next.ok_or_else(|| {
            MembershipError::Refused("there is no other voter that answers and could lead".into())
        })
    }

    /// Has another voter lead, and waits until one does. Cancelling is how to give up.
    async fn give_way(&self, next: &MemberStatus) -> Result<MemberStatus, MembershipError> {
        let mut statuses = self.statuses();
        let other_leads = |status: &Status| status.leader.is_some_and(|id| id != self.node());
        let asked = self.raft.transfer_leader(next.id).await;
        asked.map_err(MembershipError::Refused)?;
        let handed = statuses.wait_for(other_leads).await;
        let leader = handed
            .ok()
            .and_then(|status| status.leader_member().cloned());
        leader.ok_or(MembershipError::NoLeader)
    }

    /// Has another voter lead if this node does, so that nobody waits for an election when it stops.
    pub(crate) async fn step_down(&self, within: Duration) {
        let status = self.status();
        if status.role != Role::Leader || status.members.iter().filter(|one| one.voter).count() < 2
        {
            return;
        }
        let handing_over = async {
            let next = self.successor(&status).await?;
            self.give_way(&next).await
        };
        match tokio::time::timeout(within, handing_over).await {
            Ok(Ok(leader)) => tracing::info!("{} leads now", leader.member.name),
            Ok(Err(why)) => tracing::warn!(%why, "nobody takes over: the others elect somebody"),
            Err(_) => tracing::warn!("nobody took over in time: the others elect somebody"),
        }
    }

    /// Has a voter lead, this node's choice if none is named; returns who that is.
    ///
    /// # Errors
    /// As [`Core::change_member`].
    pub async fn transfer_leader(
        &self,
        to: Option<MemberStatus>,
        within: Duration,
    ) -> Result<MemberStatus, MembershipError> {
        let deadline = Instant::now() + within;
        let status = self.status();
        let next = match to {
            Some(to) => to,
            None => {
                let here = |one: &&MemberStatus| {
                    one.voter && one.id == self.node() && status.leader != Some(one.id)
                };
                match status.members.iter().find(here) {
                    Some(here) => here.clone(),
                    None => self.successor(&status).await?,
                }
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        self.change_member(next.id, MemberChange::Lead, left)
            .await?;
        let mut statuses = self.statuses();
        let leads = statuses.wait_for(|status| status.leader == Some(next.id));
        match tokio::time::timeout_at(deadline, leads).await {
            Ok(Ok(_)) => Ok(next.clone()),
            _ => Err(MembershipError::Unknown(format!(
                "{} does not lead yet",
                next.member.name
            ))),
        }
    }

    /// A node that knows less than the cluster would have to stop at once.
    async fn check_level(&self, member: &Member) -> Result<(), MembershipError> {
        let deadline = Instant::now() + ALIVE_MAX;
        let Some(hello) = self.peers.hello(member, deadline).await else {
            return Err(MembershipError::Refused(format!(
                "{} does not answer at its peer address {}",
                member.name, member.peer
            )));
        };
        let level = self.view().level();
        match hello.feature_level >= level {
            true => Ok(()),
            false => Err(MembershipError::Refused(format!(
                "{} runs a release that knows feature level {}, and the cluster is at {level}: start it with the \
                 release that the members run",
                member.name, hello.feature_level
            ))),
        }
    }

    /// The voters that would be left must be able to decide something.
    async fn check_quorum_without(
        &self,
        status: &Status,
        node: u64,
    ) -> Result<(), MembershipError> {
        let left = status
            .members
            .iter()
            .filter(|member| member.voter && member.id != node);
        let deadline = Instant::now() + ALIVE_MAX;
        let alive = left.map(|member| async move {
            member.id == self.node() || self.peers.is_alive(&member.member, deadline).await
        });
        let alive = join_all(alive).await;
        let (answer, quorum) = (
            alive.iter().filter(|alive| **alive).count(),
            alive.len() / 2 + 1,
        );
        match answer >= quorum {
            true => Ok(()),
            false => Err(MembershipError::Refused(format!(
                "of the {} voters that would be left {answer} answer, and {quorum} are needed: nothing could be \
                 written any more",
                alive.len()
            ))),
        }
    }
}

fn outcome(why: ProposeError) -> MembershipError {
    match why {
        ProposeError::NotLeader { .. } => MembershipError::NoLeader,
        other => MembershipError::Unknown(other.to_string()),
    }
}

fn takes_vote(status: &Status, node: u64, change: &MemberChange) -> bool {
    let is_voter = status
        .members
        .iter()
        .any(|member| member.id == node && member.voter);
    is_voter && matches!(change, MemberChange::Demote | MemberChange::Remove)
}

/// Why a change cannot be made, if so.
fn refusal(status: &Status, node: u64, change: &MemberChange) -> Option<String> {
    let Some(member) = status.members.iter().find(|member| member.id == node) else {
        return Some(format!("no member has the id {node}"));
    };
    let name = &member.member.name;
    match change {
        MemberChange::AddLearner(_) => None,
        MemberChange::Lead if !member.voter => {
            Some(format!("{name} has no vote: only a voter can lead"))
        }
        MemberChange::Lead => None,
        MemberChange::Promote if member.voter => Some(format!("{name} has a vote already")),
        MemberChange::Demote if !member.voter => Some(format!("{name} has no vote")),
        MemberChange::Promote => {
            let have = member.matched.unwrap_or(0);
            let lag = status.last_log.unwrap_or(0).saturating_sub(have);
            (lag > LAG_MAX).then(|| {
                format!("{name} lacks {lag} entries: it gets a vote when it has caught up")
            })
        }
        MemberChange::Demote | MemberChange::Remove => {
            let last = status.members.iter().filter(|member| member.voter).count() == 1;
            (member.voter && last).then(|| format!("{name} is the last voter"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(members: &[(u64, bool, Option<u64>)]) -> Status {
        let members = members.iter().map(|(id, voter, matched)| MemberStatus {
            id: *id,
            member: Member {
                name: format!("n{id}"),
                ..Member::default()
            },
            voter: *voter,
            matched: *matched,
        });
        Status {
            node: 1,
            term: 1,
            role: Role::Leader,
            leader: Some(1),
            last_log: Some(5_000),
            applied: None,
            snapshot: None,
            purged: None,
            members: members.collect(),
            fatal: None,
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_reason() {
        let all = status(&[
            (1, true, None),
            (2, false, Some(4_999)),
            (3, false, Some(10)),
        ]);
        let why = |node, change| refusal(&all, node, &change).unwrap_or_default();
        assert_eq!(why(2, MemberChange::Promote), "");
        assert!(why(3, MemberChange::Promote).contains("lacks 4990 entries"));
        assert!(why(1, MemberChange::Promote).contains("already"));
        assert!(why(2, MemberChange::Demote).contains("no vote"));
        assert!(why(1, MemberChange::Demote).contains("last voter"));
        assert!(why(1, MemberChange::Remove).contains("last voter"));
        assert_eq!(why(3, MemberChange::Remove), "");
        assert!(why(9, MemberChange::Remove).contains("no member has the id 9"));
        assert!(takes_vote(&all, 1, &MemberChange::Remove));
        assert!(!takes_vote(&all, 2, &MemberChange::Remove));
    }
}
