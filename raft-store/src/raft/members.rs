//! Members: their part in decisions, and changes of it, which take two steps.
//!
//! What must hold: one change at a time through a node; nobody is called a voter, or none, for sure before
//! that is committed; a change goes on when whoever asked for it gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::{Member, ProposeError, Raft, Role, Status, propose_error, status};
use crate::types::TypeConfig;

/// A member's part in decisions. While members are changed there are those before and those after, and
/// every decision needs a majority of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vote {
    /// Before and after.
    Voter,
    /// Not before, but after.
    Gaining,
    /// Before, but not after.
    Losing,
    /// Neither.
    #[default]
    None,
}

impl Vote {
    /// Whether decisions may depend on it now.
    pub fn counts(self) -> bool {
        self != Self::None
    }

    /// Whether it is sure to have one: it has had it since before the change that is under way, if there is
    /// one.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Voter | Self::Losing)
    }

    /// Whether it will have one when the change that is under way is over.
    pub fn stays(self) -> bool {
        matches!(self, Self::Voter | Self::Gaining)
    }

    /// Whether it is being given or taken.
    pub fn is_changing(self) -> bool {
        matches!(self, Self::Gaining | Self::Losing)
    }
}

/// How far a change of the members is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// There is none: the members are as committed.
    #[default]
    Settled,
    /// There is one of which this node does not know whether it is committed.
    Proposed,
    /// Its first step is committed: a majority of the old voters and one of the new are needed until the
    /// second step is.
    Halfway,
}

/// One member as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its node id.
    pub id: u64,
    /// Name and addresses.
    pub member: Member,
    /// Its part in decisions.
    pub vote: Vote,
    /// The last log index known to be on it; leaders know it of everybody.
    pub matched: Option<u64>,
}

/// What becomes of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// It receives everything and does not vote.
    AddLearner(Member),
    /// It votes from now on.
    Promote,
    /// It stays, but votes no more.
    Demote,
    /// It is no member any more.
    Remove,
    /// It leads, when it has caught up. Nothing is stored.
    Lead,
}

/// Who holds this is the only one who changes members through this node. Cheap to clone; it ends with the
/// last clone.
#[derive(Clone, Debug)]
pub struct Turn {
    _held: Arc<OwnedMutexGuard<()>>,
}

impl Raft {
    /// Waits for the turn to change members.
    pub async fn turn(&self) -> Turn {
        Turn {
            _held: Arc::new(Arc::clone(&self.turns).lock_owned().await),
        }
    }

    /// Changes a member's name or addresses. Leader only.
    ///
    /// # Errors
    /// When this node does not lead or the change was not committed.
    pub async fn set_member(
        &self,
        turn: &Turn,
        id: u64,
        member: Member,
    ) -> Result<(), ProposeError> {
        let change = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
        self.change_members(turn, change, true).await
    }

    /// Changes what a member is. Leader only. Waits until it is committed; the caller sets the
    /// deadline, after which it still goes on.
    ///
    /// # Errors
    /// When this node does not lead or the change was not committed.
    pub async fn change_member(
        &self,
        turn: &Turn,
        id: u64,
        change: MemberChange,
    ) -> Result<(), ProposeError> {
        let ids = BTreeSet::from([id]);
        let counts = |member: &MemberStatus| member.id == id && member.vote.counts();
        let counts = self.status().members.iter().any(counts);
        let (change, keep) = match change {
            MemberChange::AddLearner(member) => (
                ChangeMembers::AddNodes(BTreeMap::from([(id, member)])),
                true,
            ),
            MemberChange::Promote => (ChangeMembers::AddVoterIds(ids), true),
            MemberChange::Demote => (ChangeMembers::RemoveVoters(ids), true),
            MemberChange::Lead => {
                let asked = self.transfer_leader(id).await;
                return asked.map_err(ProposeError::Stopped);
            }
            MemberChange::Remove if counts => (ChangeMembers::RemoveVoters(ids), false),
            MemberChange::Remove => (ChangeMembers::RemoveNodes(ids), false),
        };
        self.change_members(turn, change, keep).await
    }

    /// Has a change of members that is half-way end with the new voters, if this node leads; one that
    /// was to leave stays without a vote, since nobody knows whether it was to leave or to lose its vote.
    ///
    /// # Errors
    /// When this node does not lead or the change was not committed.
    pub async fn finish_change(&self, turn: &Turn) -> Result<(), ProposeError> {
        let now = status(&self.inner.metrics().borrow_watched());
        match (now.role, now.change) {
            (Role::Leader, Change::Halfway) => {
                let same = ChangeMembers::AddVoterIds(BTreeSet::new());
                self.change_members(turn, same, true).await
            }
            _ => Ok(()),
        }
    }

    /// Runs by itself, so that who gives up waiting does not leave a change without its second step.
    async fn change_members(
        &self,
        turn: &Turn,
        change: ChangeMembers<u64, Member>,
        keep: bool,
    ) -> Result<(), ProposeError> {
        let (inner, turn, mut statuses) = (self.inner.clone(), turn.clone(), self.statuses());
        let changing = tokio::spawn(async move {
            let changed = inner.change_membership(change, keep).await;
            if let Ok(done) = &changed {
                // Who is told of it finds it in the status.
                let shows = |status: &Status| {
                    status.applied >= Some(done.log_id.index) && status.change != Change::Proposed
                };
                let shown = |status: &Status| shows(status) || status.role != Role::Leader;
                // It fails when the core has stopped: nobody asks the status then.
                let _ = statuses.wait_for(shown).await;
            }
            drop(turn);
            changed.map(drop).map_err(propose_error)
        });
        let changed = changing.await;
        changed.unwrap_or_else(|why| Err(ProposeError::Stopped(why.to_string())))
    }
}

/// The members as this node knows them.
pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> Vec<MemberStatus> {
    let members = metrics.membership_config.membership().nodes();
    let members = members.map(|(&id, member)| {
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|all| all.get(&id).cloned().flatten());
        MemberStatus {
            id,
            member: member.clone(),
            vote: vote(metrics, id),
            matched: matched.map(|id| id.index),
        }
    });
    members.collect()
}

/// How far a change of the members is.
pub(super) fn change(metrics: &RaftMetrics<TypeConfig>) -> Change {
    let stored = &metrics.membership_config;
    let is_committed = stored.log_id() == metrics.committed_membership_config.log_id();
    let sides = stored.membership().get_joint_config().len();
    match (is_committed, sides) {
        (true, 0 | 1) => Change::Settled,
        (true, _) => Change::Halfway,
        (false, _) => Change::Proposed,
    }
}

/// Whether this node is one of them, by what it knows to be committed.
pub(super) fn is_member(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let committed = metrics.committed_membership_config.membership();
    committed.get_node(&metrics.id).is_some()
}

/// What a member's part is, from what is committed, as far as this node knows it, and what follows.
fn vote(metrics: &RaftMetrics<TypeConfig>, id: u64) -> Vote {
    let committed = metrics.committed_membership_config.membership();
    let effective = metrics.membership_config.membership();
    let known = committed.get_joint_config().iter();
    let mut all = known.chain(effective.get_joint_config());
    let after = effective.get_joint_config().last();
    let after = after.is_some_and(|voters| voters.contains(&id));
    match (all.all(|voters| voters.contains(&id) == after), after) {
        (true, true) => Vote::Voter,
        (true, false) => Vote::None,
        (false, true) => Vote::Gaining,
        (false, false) => Vote::Losing,
    }
}
