//! Who is in the cluster and how they are, as the node that answers sees it.
//!
//! What must hold: what a member did not say is missing, and never a number; a word that this release
//! does not know is kept.

use std::time::Duration;

use http::{HeaderMap, Method};
use pennon_evaluator::Version;
use serde::Deserialize;

use super::Admin;
use super::objects::milliseconds;
use crate::error::Error;
use crate::http1::segment;

/// The one verdict that needs nothing done.
const HEALTHY: &str = "healthy";

/// The cluster as one node sees it.
///
/// ```
/// use pennon_client::admin::{Cluster, Role};
/// let cluster = r#"{"cluster_id": "c1", "leader": 1, "term": 3, "version": 90, "failure_tolerance": 1,
///     "verdict": "healthy", "members": [{"id": 1, "name": "n1", "api": "10.0.0.1:7400",
///     "peer": "10.0.0.1:7500", "role": "leader", "applied": 90, "lag": 0, "added_later": 1}]}"#;
/// let cluster: Cluster = serde_json::from_str(cluster)?;
/// assert!(cluster.is_healthy());
/// assert_eq!(cluster.member("n1").map(|member| &member.role), Some(&Role::Leader));
///
/// // Refused: a cluster without a verdict.
/// assert!(serde_json::from_str::<Cluster>(r#"{"cluster_id": "c1", "members": []}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Cluster {
    /// The id that the cluster gave itself when it was formed.
    pub cluster_id: String,
    /// The id of the leader, if this node knows one.
    pub leader: Option<u64>,
    /// The term of the log.
    pub term: u64,
    /// The version of the node that answers.
    pub version: Version,
    /// What may be used: the least that the release of any member knows.
    #[serde(default)]
    pub feature_level: u32,
    /// How many more voters may fail before writes stop; below 0 they have stopped.
    pub failure_tolerance: i64,
    /// `healthy`, or what is wrong in words for people; see [`Cluster::is_healthy`].
    pub verdict: String,
    /// Whether a change of members is not over yet. A leader that dies meanwhile leaves it to the next one.
    #[serde(default)]
    pub changing: bool,
    /// Every member.
    pub members: Vec<Member>,
}

/// One member. What it did not say in time is `None`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where its API is, as `host:port`.
    pub api: String,
    /// Where other members reach it, as `host:port`.
    pub peer: String,
    /// What it is at the moment.
    pub role: Role,
    /// Whether it has a vote; while that is changing, whether it had one before.
    #[serde(default)]
    pub voter: bool,
    /// Whether its vote is being given or taken.
    #[serde(default)]
    pub changing: bool,
    /// Whether it answered the node that answers, within a second.
    #[serde(default)]
    pub answers: bool,
    /// The version that it has.
    #[serde(default)]
    pub applied: Option<Version>,
    /// How many versions it is behind the newest member.
    #[serde(default)]
    pub lag: Option<u64>,
    /// How stale its answers are at most.
    #[serde(default, rename = "staleness_ms", deserialize_with = "milliseconds")]
    pub staleness: Option<Duration>,
    /// The digest of its state: the same for all members at one version.
    #[serde(default)]
    pub digest: Option<String>,
    /// How many streams are open to it.
    #[serde(default)]
    pub streams: Option<u64>,
    /// Its release.
    #[serde(default)]
    pub release: Option<String>,
    /// The highest feature level that its release knows.
    #[serde(default)]
    pub feature_level: Option<u32>,
}

/// What became of a member.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MemberChanged {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What it is now, as the node says it: `voter`, `learner`, `removed` or `leader`.
    pub role: String,
}

/// What a member is at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Role {
    /// It decides the order of writes.
    Leader,
    /// It has a vote, or is about to get one.
    Follower,
    /// It has no vote.
    Learner,
    /// A word that this release of the client does not know.
    Other(String),
}

impl From<String> for Role {
    fn from(word: String) -> Role {
        match word.as_str() {
            "leader" => Role::Leader,
            "follower" => Role::Follower,
            "learner" => Role::Learner,
            _ => Role::Other(word),
        }
    }
}

impl Cluster {
    /// Whether the node that answers has nothing to complain of.
    pub fn is_healthy(&self) -> bool {
        self.verdict == HEALTHY
    }

    /// Returns the member of a name, else of an id.
    pub fn member(&self, name_or_id: &str) -> Option<&Member> {
        let by_name = self.members.iter().find(|one| one.name == name_or_id);
        by_name.or_else(|| {
            let id: u64 = name_or_id.parse().ok()?;
            self.members.iter().find(|one| one.id == id)
        })
    }
}

impl Admin {
    /// Reads who is in the cluster and how they are. The node asks every member, and waits a second at
    /// most.
    ///
    /// # Errors
    /// `is_unreachable()` when no node can be reached or none is in a cluster yet, or as
    /// [`Admin::request`].
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// use std::time::Duration;
    /// let cluster = admin.cluster().await?;
    /// println!("{}, version {}", cluster.verdict, cluster.version);
    /// for member in &cluster.members {
    ///     println!("{} {:?} {:?} versions behind", member.name, member.role, member.lag);
    /// }
    /// // Refused: nobody answers within no time at all.
    /// let refused = admin.with_timeout(Duration::ZERO).cluster().await;
    /// assert!(refused.is_err_and(|error| error.is_timeout()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        self.ask(Method::GET, "/v1/cluster", None).await
    }

    /// Gives a member a vote, by name or id, when it has caught up. It waits until the change is over, and goes on
    /// when this call is given up.
    ///
    /// # Errors
    /// `is_not_found()` when there is no such member, `is_membership_refused()` when it has a vote or lacks too
    /// much, or as [`Admin::request`].
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// // A new node takes the place of an old one: at no time are there fewer votes than before.
    /// admin.promote("n4").await?;
    /// admin.remove_member("n1").await?;
    /// // Refused: there is no such member any more.
    /// assert!(admin.remove_member("n1").await.is_err_and(|error| error.is_not_found()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn promote(&self, member: &str) -> Result<MemberChanged, Error> {
        self.change_member(Method::POST, member, ":promote").await
    }

    /// Takes the vote of a member; it goes on as a learner.
    ///
    /// # Errors
    /// `is_not_found()` when there is no such member, `is_membership_refused()` when it has no vote, or when the
    /// voters that would be left could decide nothing, or as [`Admin::request`].
    pub async fn demote(&self, member: &str) -> Result<MemberChanged, Error> {
        self.change_member(Method::POST, member, ":demote").await
    }

    /// Takes a member out of the cluster. It need not answer; its directory must be removed before it joins again.
    ///
    /// # Errors
    /// `is_not_found()` when there is no such member, `is_membership_refused()` when the voters that would be
    /// left could decide nothing, or as [`Admin::request`].
    pub async fn remove_member(&self, member: &str) -> Result<MemberChanged, Error> {
        self.change_member(Method::DELETE, member, "").await
    }

    /// Has another voter lead: the one that is named, else one that the cluster chooses. Waits until it does.
    ///
    /// # Errors
    /// `is_not_found()` when there is no such member, `is_membership_refused()` when it has no vote, or as
    /// [`Admin::request`].
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<MemberChanged, Error> {
        let to = to
            .map(|to| format!("?to={}", segment(to)))
            .unwrap_or_default();
        let path = format!("/v1/cluster:transfer-leader{to}");
        self.typed(Method::POST, &path, HeaderMap::new(), None)
            .await
    }

    async fn change_member(
        &self,
        method: Method,
        member: &str,
        what: &str,
    ) -> Result<MemberChanged, Error> {
        let path = format!("/v1/cluster/members/{}{what}", segment(member));
        self.typed(method, &path, HeaderMap::new(), None).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_member_that_says_nothing_has_no_numbers() {
        let cluster = json!({"cluster_id": "c", "leader": null, "term": 1, "version": 0,
        "failure_tolerance": -1, "verdict": "no leader", "members": [
            {"id": u64::MAX, "name": "n1", "api": "a:1", "peer": "p:1", "role": "witness", "voter": true,
                "answers": false, "applied": null, "lag": null, "staleness_ms": null, "digest": null,
                "streams": null, "release": null, "feature_level": null},
            {"id": 7, "name": "18446744073709551615", "api": "b:1", "peer": "q:1", "role": "learner",
                "staleness_ms": 1_500},
        ]});
        let cluster = Cluster::deserialize(cluster).unwrap();
        assert!(!cluster.is_healthy() && cluster.leader.is_none());
        let [silent, other] = &cluster.members[..] else {
            panic!("{cluster:?}")
        };
        assert_eq!(silent.role, Role::Other("witness".to_owned()));
        assert_eq!(
            (silent.applied, silent.lag, silent.staleness),
            (None, None, None)
        );
        assert_eq!(other.staleness, Some(Duration::from_millis(1_500)));
        // A name goes before an id.
        assert_eq!(cluster.member("18446744073709551615"), Some(other));
        assert_eq!(cluster.member("7"), Some(other));
        assert_eq!(cluster.member("n2"), None);
    }
}
