//! Members that come and go: a learner is taken in, gets a vote, loses it, leaves.
//!
//! What must hold: a change is made by the leader alone, one after the other, and never when the voters that
//! would be left could not decide anything; who gets a vote has caught up; a name stands for one member. What
//! was begun is ended, whoever gives up waiting for it, and by the next leader if the one that began it is gone.
//!
//! Left out: forming a cluster (`formation.rs`).

use std::sync::Weak;
use std::time::Duration;

use futures_util::future::join_all;
use pennon_raft_store::raft::{
    Change, Member, MemberChange, MemberStatus, ProposeError, Role, Status, Turn, Vote,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::core::Core;
use crate::peer::PeerError;

/// Entries that a learner may lack when it gets a vote: it has them before the next heartbeat.
const LAG_MAX: u64 = 1_000;

/// Before a new leader is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The longest wait for what a leader has changed to show here: a few heartbeats.
const SEEN_MAX: Duration = Duration::from_secs(1);

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
                let asked = change.clone();
                let changed = self.peers.change_member(leader, node, asked, deadline);
                match changed.await {
                    Ok(Ok(())) => {
                        // Who asked this node finds it here, unless this node is behind.
                        let seen = self.seen(node, &change);
                        let _ = timeout_at(deadline.min(Instant::now() + SEEN_MAX), seen).await;
                        Ok(())
                    }
                    Ok(changed) => changed,
                    Err(PeerError::NotSent(_)) => Err(MembershipError::NoLeader),
                    Err(why) => Err(MembershipError::Unknown(why.to_string())),
                }
            }
            Some(_) => self.change_member_here(node, change, within).await,
            None => Err(MembershipError::NoLeader),
        }
    }

    /// Waits until this node shows what was changed.
    async fn seen(&self, node: u64, change: &MemberChange) {
        let shows = match change {
            MemberChange::Promote | MemberChange::Demote | MemberChange::Remove => true,
            // Nothing of it is in a membership, or the member says it itself.
            MemberChange::AddLearner(_) | MemberChange::Lead => false,
        };
        // Who leaves may never hear of it.
        if shows && node != self.node() {
            let mut statuses = self.statuses();
            let done = |now: &Status| now.change == Change::Settled && is_done(now, node, change);
            // It fails when this node stops.
            let _ = statuses.wait_for(done).await;
        }
    }

    /// The same on the leader.
    pub(crate) async fn change_member_here(
        &self,
        node: u64,
        change: MemberChange,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let deadline = Instant::now() + within;
        let asked = self.status();
        if asked.role != Role::Leader {
            return Err(MembershipError::NoLeader);
        }
        if change == MemberChange::Lead {
            return match refusal(&asked, node, &change) {
                Some(refused) => Err(MembershipError::Refused(refused)),
                None if node == self.node() => Ok(()),
                None => self
                    .raft
                    .transfer_leader(node)
                    .await
                    .map_err(MembershipError::Refused),
            };
        }
        let turn = timeout_at(deadline, self.settled()).await;
        let (turn, status) = turn.unwrap_or_else(|_| {
            Err(MembershipError::Refused(
                "another change of members is not over yet: it needs more voters that answer"
                    .into(),
            ))
        })?;
        // Whoever asks again for what is half-way is told how it ended.
        if asked.change != Change::Settled && is_done(&status, node, &change) {
            return Ok(());
        }
        let changing = self.change_in_turn(&turn, &status, node, change, deadline);
        timeout_at(deadline, changing)
            .await
            .unwrap_or_else(|_| Err(MembershipError::Unknown("it took too long".into())))
    }

    /// Waits for the turn to change members and until no earlier change is left.
    async fn settled(&self) -> Result<(Turn, Status), MembershipError> {
        let turn = self.raft.turn().await;
        self.raft.finish_change(&turn).await.map_err(outcome)?;
        let mut statuses = self.statuses();
        let settled =
            |status: &Status| status.change == Change::Settled || status.role != Role::Leader;
        match statuses.wait_for(settled).await.map(|now| now.clone()) {
            Ok(status) if status.role == Role::Leader => Ok((turn, status)),
            _ => Err(MembershipError::NoLeader),
        }
    }

    async fn change_in_turn(
        &self,
        turn: &Turn,
        status: &Status,
        node: u64,
        change: MemberChange,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        if let MemberChange::AddLearner(member) = &change {
            let same_name = |have: &&MemberStatus| have.member.name == member.name;
            let namesake = status.members.iter().find(same_name);
            match namesake {
                Some(have) if have.id == node && have.member == *member => return Ok(()),
                Some(have) if have.id == node => {
                    let moved = self.raft.set_member(turn, node, member.clone()).await;
                    return moved.map_err(outcome);
                }
                Some(have) if have.vote.counts() => {
                    return Err(MembershipError::Refused(format!(
                        "a voter is named {}: give this node another name, or remove that one",
                        member.name
                    )));
                }
                // The same learner with a new directory.
                Some(have) => self
                    .raft
                    .change_member(turn, have.id, MemberChange::Remove)
                    .await
                    .map_err(outcome)?,
                None => {}
            }
            self.check_level(member).await?;
        } else if let Some(refused) = refusal(status, node, &change) {
            return Err(MembershipError::Refused(refused));
        } else if takes_vote(status, node, &change) {
            self.check_quorum_without(status, node).await?;
            if node == self.node() {
                return self.hand_over(status, &change, deadline).await;
            }
        }
        let changed = self.raft.change_member(turn, node, change).await;
        changed.map_err(outcome)
    }

    /// Stores where a member is. Leader only; false when it was not stored, for now.
    pub(crate) async fn move_member(&self, node: u64, member: Member) -> bool {
        let turn = self.raft.turn().await;
        self.raft.set_member(&turn, node, member).await.is_ok()
    }

    /// Has another voter lead, which then takes this one's vote: a leader without a vote would go on
    /// leading.
    async fn hand_over(
        &self,
        status: &Status,
        change: &MemberChange,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
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
            member.vote.stays() && member.id != self.node() && Some(member.id) != status.leader
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
        if status.role != Role::Leader
            || status.members.iter().filter(|one| one.vote.stays()).count() < 2
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
                    one.vote.stays() && one.id == self.node() && status.leader != Some(one.id)
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
            .filter(|member| member.vote.counts() && member.id != node);
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

/// Has a change of members that a leader left half-way end, whenever this node leads.
pub(crate) async fn watch(core: Weak<Core>) {
    let Some(mut statuses) = core.upgrade().map(|core| core.statuses()) else {
        return;
    };
    let is_left = |status: &Status| status.role == Role::Leader && status.change == Change::Halfway;
    loop {
        if statuses.wait_for(is_left).await.is_err() {
            return;
        }
        let Some(here) = core.upgrade() else { return };
        // One that is under way here has the turn, and is over before this looks.
        let turn = here.raft.turn().await;
        match here.raft.finish_change(&turn).await {
            Ok(()) => {}
            Err(why) => tracing::info!(%why, "a change of members is still half-way"),
        }
        drop((turn, here));
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

fn vote(status: &Status, node: u64) -> Option<Vote> {
    let mut members = status.members.iter();
    Some(members.find(|member| member.id == node)?.vote)
}

/// Whether a member already is what it is to become.
fn is_done(status: &Status, node: u64, change: &MemberChange) -> bool {
    match (change, vote(status, node)) {
        (MemberChange::Promote, Some(vote)) => vote == Vote::Voter,
        (MemberChange::Demote, Some(vote)) => vote == Vote::None,
        (MemberChange::Remove, vote) => vote.is_none(),
        _ => false,
    }
}

fn takes_vote(status: &Status, node: u64, change: &MemberChange) -> bool {
    vote(status, node).is_some_and(Vote::counts)
        && matches!(change, MemberChange::Demote | MemberChange::Remove)
}

/// Why a change cannot be made, if so.
fn refusal(status: &Status, node: u64, change: &MemberChange) -> Option<String> {
    let Some(member) = status.members.iter().find(|member| member.id == node) else {
        return Some(format!("no member has the id {node}"));
    };
    let name = &member.member.name;
    match change {
        MemberChange::AddLearner(_) => None,
        MemberChange::Lead if !member.vote.stays() => {
            Some(format!("{name} has no vote: only a voter can lead"))
        }
        MemberChange::Lead => None,
        MemberChange::Promote if member.vote.counts() => Some(format!("{name} has a vote already")),
        MemberChange::Demote if !member.vote.counts() => Some(format!("{name} has no vote")),
        MemberChange::Promote => {
            let have = member.matched.unwrap_or(0);
            let lag = status.last_log.unwrap_or(0).saturating_sub(have);
            (lag > LAG_MAX).then(|| {
                format!("{name} lacks {lag} entries: it gets a vote when it has caught up")
            })
        }
        MemberChange::Demote | MemberChange::Remove => {
            let voters = status.members.iter().filter(|one| one.vote.counts());
            (member.vote.counts() && voters.count() == 1)
                .then(|| format!("{name} is the last voter"))
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
            vote: if *voter { Vote::Voter } else { Vote::None },
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
            change: Change::Settled,
            is_member: true,
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
