//! Who has disk space, and what follows: whether the cluster takes changes, and who should lead.
//!
//! A leader without space takes no changes; as long as a majority of the voters has space, it hands over to
//! one of those. A follower without space keeps its vote and takes what its log has room for, and the
//! cluster goes on without it; only when the voters known to have space are too few to commit anything
//! are changes refused, before they are proposed. Space that returns is seen at the next look: nothing
//! is started again.
//!
//! What must hold: a refusal means that nothing was proposed; nobody hands over to a voter without space,
//! so leadership does not go round. What is known of others may be a second old; who does not answer
//! has no space to count on, but stops nobody as long as all who answer have.
//!
//! Left out: the marks (`pennon_raft_store::disk::Space`), and what a full node still takes (`raft.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use pennon_raft_store::raft::{MemberStatus, Raft, Role, Status};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::peer::PeerClient;

/// Between two looks at who has space, when nobody waits for it.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks in any case.
const LOOK_MIN: Duration = Duration::from_millis(100);
/// The longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// What was heard longer ago counts for nothing.
const HEARD_MAX: Duration = Duration::from_secs(5);

/// Why no changes are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The names of the nodes without space.
    pub nodes: Vec<String>,
    /// The least that one of them has left, in bytes.
    pub free_bytes: u64,
    /// What that one keeps free, in bytes.
    pub min_free_bytes: u64,
    /// Whether it is over as soon as another node leads.
    pub passes: bool,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "too little disk space on {}: {} MiB free, {} MiB are kept (--min-free), and changes are refused",
            self.nodes.join(", "),
            self.free_bytes >> 20,
            self.min_free_bytes >> 20
        )
    }
}

/// What a node says of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpaceReport {
    pub(crate) low: bool,
    pub(crate) free_bytes: u64,
    pub(crate) min_free_bytes: u64,
}

/// Knows who has space. Its task ends with the node.
pub struct SpaceWatch {
    raft: Raft,
    peers: PeerClient,
    heard: Mutex<BTreeMap<u64, (Instant, SpaceReport)>>,
    wanted: Notify,
}

impl fmt::Debug for SpaceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceWatch")
            .field("own", &self.report())
            .finish_non_exhaustive()
    }
}

impl SpaceWatch {
    /// Starts to ask the other voters.
    pub fn start(raft: Raft, peers: PeerClient, stop: CancellationToken) -> Arc<Self> {
        let watch = Arc::new(Self {
            raft,
            peers,
            heard: Mutex::default(),
            wanted: Notify::new(),
        });
        let task = watch.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = stop.cancelled() => {}
            }
        });
        watch
    }

    /// Why the cluster takes no changes, as far as this node knows. Looks at its own disk now.
    pub fn shortage(&self) -> Option<Shortage> {
        let found = judge(&self.raft.status(), &self.reports());
        if found.is_some() {
            self.wanted.notify_one();
        }
        found
    }

    /// What is wrong with this node's own disk, in one sentence.
    pub(crate) fn complaint(&self) -> Option<String> {
        let own = self.report();
        own.low.then(|| {
            format!(
                "the disk is nearly full: {} MiB free, {} MiB are kept (--min-free)",
                own.free_bytes >> 20,
                own.min_free_bytes >> 20
            )
        })
    }

    pub(crate) fn report(&self) -> SpaceReport {
        let space = self.raft.space();
        SpaceReport {
            low: self.raft.is_short_of_space(),
            free_bytes: space.free_bytes().unwrap_or(0),
            min_free_bytes: space.min_free(),
        }
    }

    /// What is known of everybody.
    fn reports(&self) -> BTreeMap<u64, SpaceReport> {
        let now = Instant::now();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = heard
            .iter()
            .filter(|(_, (at, _))| now.duration_since(*at) <= HEARD_MAX);
        let mut reports: BTreeMap<u64, SpaceReport> =
            fresh.map(|(node, (_, report))| (*node, *report)).collect();
        drop(heard);
        reports.insert(self.raft.status().node, self.report());
        reports
    }

    async fn run(&self) {
        loop {
            let status = self.raft.status();
            let others = status
                .members
                .iter()
                .filter(|member| member.vote.counts() && member.id != status.node);
            let asked = join_all(others.map(|member| async {
                let deadline = Instant::now() + ANSWER_MAX;
                let report = self.peers.space(&member.member, deadline).await?;
                Some((member.id, (Instant::now(), report)))
            }))
            .await;
            self.heard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(asked.into_iter().flatten());
            self.hand_over().await;
            tokio::time::sleep(LOOK_MIN).await;
            tokio::select! {
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// A leader without space lets somebody lead who has it.
    async fn hand_over(&self) {
        let status = self.raft.status();
        let reports = self.reports();
        let Some(next) = successor(&status, &reports) else {
            return;
        };
        tracing::warn!(to = %next.member.name, "this node leads and its disk is nearly full: handing over");
        if let Err(why) = self.raft.transfer_leader(next.id).await {
            tracing::warn!(%why, "handing over failed");
        }
    }
}

fn voters(status: &Status) -> impl Iterator<Item = &MemberStatus> {
    status.members.iter().filter(|member| member.vote.counts())
}

fn judge(status: &Status, reports: &BTreeMap<u64, SpaceReport>) -> Option<Shortage> {
    let quorum = voters(status).count() / 2 + 1;
    let said = |member: &MemberStatus| reports.get(&member.id).map(|report| report.low);
    let low: Vec<_> = voters(status)
        .filter(|member| said(member) == Some(true))
        .collect();
    let well = voters(status).filter(|member| said(member) == Some(false));
    let enough = well.count() >= quorum;
    let leader_is_low = low.iter().any(|member| Some(member.id) == status.leader);
    if low.is_empty() || (enough && !leader_is_low) {
        return None;
    }
    let least = low
        .iter()
        .filter_map(|member| reports.get(&member.id))
        .min_by_key(|report| report.free_bytes)?;
    Some(Shortage {
        nodes: low
            .iter()
            .map(|member| member.member.name.clone())
            .collect(),
        free_bytes: least.free_bytes,
        min_free_bytes: least.min_free_bytes,
        passes: enough,
    })
}

/// Whom a leader without space should hand over to.
fn successor<'a>(
    status: &'a Status,
    reports: &BTreeMap<u64, SpaceReport>,
) -> Option<&'a MemberStatus> {
    if status.role != Role::Leader || !judge(status, reports)?.passes {
        return None;
    }
    let answered =
        |member: &&MemberStatus| reports.get(&member.id).is_some_and(|report| !report.low);
    voters(status)
        .filter(answered)
        .max_by_key(|member| member.matched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pennon_raft_store::raft::{Change, Member, Vote};

    fn status(leader: Option<u64>, voters: u64) -> Status {
        let member = |id| MemberStatus {
            id,
            member: Member {
                name: format!("n{id}"),
                ..Member::default()
            },
            vote: if id <= voters {
                Vote::Voter
            } else {
                Vote::None
            },
            matched: Some(10 * id),
        };
        Status {
            node: 1,
            term: 1,
            role: match leader {
                Some(1) => Role::Leader,
                _ => Role::Follower,
            },
            leader,
            last_log: None,
            applied: None,
            snapshot: None,
            purged: None,
            members: (1..=voters + 1).map(member).collect(),
            change: Change::Settled,
            is_member: true,
            fatal: None,
        }
    }

    fn reports(low: &[u64], well: &[u64]) -> BTreeMap<u64, SpaceReport> {
        let report = |low, free_bytes| SpaceReport {
            low,
            free_bytes,
            min_free_bytes: 100,
        };
        let low = low.iter().map(|node| (*node, report(true, *node)));
        let well = well.iter().map(|node| (*node, report(false, 1000)));
        low.chain(well).collect()
    }

    #[test]
    fn a_full_follower_stops_nobody() {
        assert_eq!(judge(&status(Some(1), 3), &reports(&[3], &[1, 2])), None);
        // Nor does a learner, or one that nobody heard of.
        assert_eq!(judge(&status(Some(1), 3), &reports(&[4], &[1])), None);
        // But with another one down nothing could be committed.
        assert!(judge(&status(Some(1), 3), &reports(&[3], &[1])).is_some());
    }

    #[test]
    fn a_full_leader_hands_over_to_the_furthest_with_space() {
        let (status, reports) = (status(Some(1), 5), reports(&[1, 5], &[2, 3, 4]));
        let shortage = judge(&status, &reports).unwrap();
        assert_eq!((shortage.nodes.len(), shortage.free_bytes), (2, 1));
        assert!(shortage.passes);
        assert_eq!(successor(&status, &reports).map(|next| next.id), Some(4));
    }

    #[test]
    fn without_a_majority_with_space_nothing_moves() {
        for leader in [1, 3] {
            let (status, reports) = (status(Some(leader), 3), reports(&[1, 2], &[3]));
            let shortage = judge(&status, &reports).unwrap();
            assert!(!shortage.passes);
            assert_eq!(shortage.nodes, ["n1", "n2"]);
            assert_eq!(successor(&status, &reports), None);
        }
    }

    #[test]
    fn nobody_hands_over_to_the_silent() {
        let (status, reports) = (status(Some(1), 3), reports(&[1], &[2]));
        assert!(!judge(&status, &reports).unwrap().passes);
        assert_eq!(successor(&status, &reports), None);
    }
}
