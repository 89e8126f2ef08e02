//! What a node can do, for whoever speaks to people: reads at a stated freshness, writes through
//! the leader, streams, status. The HTTP layer and tests call this and nothing below it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pennon_evaluator::{Environment, EnvironmentKey, Snapshot, Version};
use pennon_raft_store::changes::Changes;
use pennon_raft_store::command::{Change, ClusterId, ObjectId, Outcome, Refusal};
use pennon_raft_store::machine::View;
use pennon_raft_store::plan::ChangeRequest;
use pennon_raft_store::raft::{Blocking, Member, Raft, Status};
use pennon_raft_store::snapshot_file::SnapshotInfo;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broken::Broken;
use crate::clock::Clock;
use crate::confirm::Confirm;
use crate::hub::Hub;
use crate::overview::ClusterView;
use crate::peer::PeerClient;
use crate::space::{Shortage, SpaceWatch};
use crate::writer::{WriteError, Writer};

/// Why a read at the asked freshness cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no leader that this node can reach, or it has no quorum.
    #[error("no leader with a quorum could be reached in time")]
    NoQuorum,
    /// This node has not reached the asked version in time.
    #[error("this node is at version {have}, {wanted} was asked for")]
    NotFreshEnough {
        /// The version asked for.
        wanted: Version,
        /// The version this node has.
        have: Version,
    },
    /// The node is not part of a cluster yet.
    #[error("this node does not belong to a cluster yet")]
    NotFormed,
}

/// A node's services.
pub struct Core {
    pub(crate) name: String,
    pub(crate) node: u64,
    pub(crate) raft: Raft,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) confirm: Confirm,
    pub(crate) writer: Writer,
    pub(crate) space: Arc<SpaceWatch>,
    pub(crate) peers: PeerClient,
    pub(crate) hub: Arc<Hub>,
    /// Who is connected to the other members.
    pub(crate) rolls: crate::delivery::Rolls,
    /// How this node finds out that the leader is gone.
    pub(crate) succession: crate::succession::Succession,
    /// Cancelled when the node drains: open streams say goodbye, readiness goes red.
    pub(crate) draining: CancellationToken,
    /// The first thing that this node found wrong with itself (I4).
    pub(crate) complaint: tokio::sync::watch::Receiver<Option<String>>,
    pub(crate) loaded: Mutex<BTreeMap<EnvironmentKey, Arc<Snapshot>>>,
    /// Where work runs that would hold up other requests.
    pub(crate) blocking: Blocking,
    /// What it breaks on purpose.
    pub(crate) broken: Option<Broken>,
}

impl Core {
    /// The name people gave this node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This node's id.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.raft.cluster()
    }

    /// What this node has applied; may be behind (`?consistency=stale`).
    pub fn view(&self) -> View {
        self.raft.view()
    }

    /// Follows what this node has applied.
    pub fn views(&self) -> tokio::sync::watch::Receiver<View> {
        self.raft.views()
    }

    /// What consensus says here.
    pub fn status(&self) -> Status {
        self.raft.status()
    }

    /// Follows what consensus says here.
    pub fn statuses(&self) -> tokio::sync::watch::Receiver<Status> {
        self.raft.statuses()
    }

    /// How far this node may lag behind the cluster at most: `None` before the first proof (I5).
    pub fn staleness(&self) -> Option<Duration> {
        self.confirm
            .fresh_at()
            .map(|at| self.clock.monotonic().saturating_sub(at))
    }

    /// The node's monotonic clock.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The moment, on the node's monotonic clock, before which everything committed is in the
    /// view: `None` before the first proof (I5). Read it before the view it is to cover.
    pub fn fresh_at(&self) -> Option<Duration> {
        self.confirm.fresh_at()
    }

    /// What this node has applied and how far that may lag behind at most. The proof is read
    /// before the view, so that it covers it (I5).
    pub fn view_with_staleness(&self) -> (View, Option<Duration>) {
        let staleness = self.staleness();
        (self.view(), staleness)
    }

    /// Waits until this node is proved fresh for the first time since it started; before that it
    /// serves no streams and no evaluations.
    ///
    /// # Errors
    /// `NoQuorum` when that takes longer than `within`.
    pub async fn proved(&self, within: Duration) -> Result<(), ReadError> {
        tokio::time::timeout(within, self.confirm.first_proof())
            .await
            .map_err(|_| ReadError::NoQuorum)
    }

    /// A view that holds everything committed before this call (I1), at most after `within`.
    ///
    /// # Errors
    /// `NoQuorum` when that cannot be proved in time.
    pub async fn confirmed(&self, within: Duration) -> Result<View, ReadError> {
        self.confirm.confirmed(within).await
    }

    /// A view at this version or a later one, at most after `within`.
    ///
    /// # Errors
    /// `NotFreshEnough` when this node does not get there in time.
    pub async fn at_least(&self, version: Version, within: Duration) -> Result<View, ReadError> {
        let mut views = self.raft.views();
        let reached = views.wait_for(|view| view.version() >= version);
        match tokio::time::timeout(within, reached).await {
            Ok(Ok(view)) => Ok(view.clone()),
            _ => Err(ReadError::NotFreshEnough {
                wanted: version,
                have: self.view().version(),
            }),
        }
    }

    /// Writes through the leader, wherever it is.
    ///
    /// # Errors
    /// See [`WriteError`]; only some of them mean that nothing happened.
    pub async fn write(
        &self,
        request: ChangeRequest,
        within: Duration,
    ) -> Result<Outcome, WriteError> {
        let deadline = Instant::now() + within;
        // An older leader could not even read it.
        let needs = self.view().features().of_request(&request);
        if needs > self.view().level() {
            let confirmed = self.confirmed(within).await;
            let view = confirmed.map_err(|_| WriteError::NoQuorum)?; // I1
            let (version, level) = (view.version(), view.level());
            if needs > level {
                let refusal = Refusal::NotEnabled { needs, level };
                return Ok(Outcome::Refused { version, refusal });
            }
        }
        crate::writer::submit(&self.writer, &self.raft, &self.peers, request, deadline).await
    }

    /// The environment's settings in a view; `None` when it does not exist.
    pub fn environment(view: &View, key: &EnvironmentKey) -> Option<Environment> {
        let object = view.object(&ObjectId::environment_object(key.shared()))?;
        Some(Environment::parse(key, &object.value).unwrap_or_default())
    }

    /// The environment ready for evaluation, at the version of this view. Loaded once a version
    /// and shared.
    pub fn snapshot(&self, view: &View, environment: &EnvironmentKey) -> Option<Arc<Snapshot>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let have = loaded.get(environment).cloned();
        let snapshot = crate::hub::load(view, environment, have.as_ref())?;
        // A request that waited with an older view must not take the cache back.
        if have.is_none_or(|have| have.version() <= snapshot.version()) {
            loaded.insert(environment.clone(), snapshot.clone());
        }
        Some(snapshot)
    }

    /// The newest changes of one object with a version below `before`, newest first, at most
    /// `limit`. Holds everything that a view taken before this call holds, as far as it is kept.
    ///
    /// # Errors
    /// When the history cannot be read; one sentence.
    pub async fn history(
        &self,
        object: &ObjectId,
        before: Option<Version>,
        limit: usize,
    ) -> Result<Vec<Change>, String> {
        let object = object.clone();
        self.consult(move |changes| changes.of(&object, before, limit))
            .await
    }

    /// Reads the history. It holds everything that a view taken before this call holds, as far as
    /// it is kept, and may hold more.
    ///
    /// # Errors
    /// Those of `read`; one sentence.
    pub async fn consult<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Changes) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let changes = self.raft.changes();
        let read = self.blocking.run(move || read(&changes));
        read.await.flatten().map_err(|why| why.to_string())
    }

    /// Writes a backup of a view of this node, with the history up to its version; returns where it
    /// went.
    ///
    /// # Errors
    /// When `out` takes no more, or the history cannot be read.
    pub async fn backup<W: std::io::Write + Send + 'static>(
        &self,
        view: View,
        out: W,
    ) -> std::io::Result<(W, SnapshotInfo)> {
        self.raft.backup(view, out).await
    }

    /// Runs work that takes long enough to hold up other requests.
    ///
    /// # Errors
    /// When it panics; one sentence.
    pub async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        self.blocking.run(work).await.map_err(|why| why.to_string())
    }

    /// The streams.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// What this node found wrong with itself: compiled state that its ground state does not
    /// compile to, a history that cannot be kept, or a disk that is nearly full.
    pub fn complaint(&self) -> Option<String> {
        self.complaint
            .borrow()
            .clone()
            .or_else(|| self.raft.history_failed())
            .or_else(|| self.space.complaint())
    }

    /// Why the cluster takes no changes for want of disk space, as far as this node knows.
    pub fn shortage(&self) -> Option<Shortage> {
        self.space.shortage()
    }

    /// Cancelled when the node drains.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Has the leader store where this node is; false when that did not work, for now.
    pub async fn store_member(&self, member: Member, within: Duration) -> bool {
        let status = self.status();
        let done = async {
            match status.leader_member() {
                Some(leader) if leader.id == self.node => {
                    self.move_member(self.node, member.clone()).await
                }
                Some(leader) => {
                    self.peers
                        .announce(leader, self.node, &member, within)
                        .await
                }
                None => false,
            }
        };
        tokio::time::timeout(within, done).await.unwrap_or(false)
    }

    /// Asks every member how it is, at most for `within`.
    pub async fn cluster_view(&self, within: Duration) -> ClusterView {
        crate::overview::cluster_view(self, within).await
    }
}
