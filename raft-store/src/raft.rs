//! The one facade over openraft: start, propose, confirm, watch, serve peers, stop.
//!
//! Nothing of openraft shows here. A proposal that was handed over and got no answer has an
//! *unknown* outcome, and the error says so. No deadline is kept inside: callers give every call
//! their own. Reads are linearizable by ReadIndex with a quorum, never by a lease (no clock takes
//! part in correctness).
//!
//! Left out: who is a member, and changes of that (`raft/members.rs`).

mod members;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::metrics::RaftMetrics;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::{Config, EntryPayload, ReadPolicy, ServerState, Snapshot, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::adapter::LogAdapter;
use crate::changes::Changes;
use crate::command::ClusterId;
use crate::disk::Space;
use crate::history::History;
use crate::level::Features;
use crate::log::{LogId, LogStore};
use crate::machine::{Answer, View};
use crate::rpc::{Envelope, Network, SnapshotChunk, SnapshotReply, decode, encode};
use crate::snapshot_file::{SnapshotEncoder, SnapshotInfo, SnapshotReceiver, SnapshotStore};
use crate::state_machine::{
    Shared, SnapshotFile, StateMachine, header_of, read_meta, write_records,
};
use crate::types::{Payload, RaftEntry, RaftVote, TypeConfig, log_id};
use pennon_evaluator::Version;

pub use self::members::{Change, MemberChange, MemberStatus, Turn, Vote};
pub use crate::rpc::{BoxFuture, CallError, PeerTransport, Rpc};
pub use crate::state_machine::Blocking;

/// Room in the log that changes never take: hundreds of elections and changes of members.
const ROOM_KEPT: u64 = 2 << 20;

/// One member of the cluster, as the membership stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The name people gave it.
    pub name: String,
    /// Where its API is reached, `host:port`.
    pub api: String,
    /// Where its peers reach it, `host:port`.
    pub peer: String,
}

/// Times and sizes of consensus.
///
/// openraft makes the lease of a leader as long as `election_max`, and a follower stands for
/// election after the lease and a random time between the two: 1.4 to 1.8 s of silence by default,
/// so that writes go on within 2 s of a leader's death. Heartbeats are seven to nine times as
/// frequent, and a pre-vote keeps a node that only missed some from disturbing a leader.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Between heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest time, after the lease, until a follower stands for election.
    pub election_min: Duration,
    /// Longest such time, and the lease.
    pub election_max: Duration,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, so that a follower that was away needs no snapshot.
    pub keep_behind_snapshot: u64,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(900),
            snapshot_every: 20_000,
            keep_behind_snapshot: 20_000,
        }
    }
}

/// Everything a node's Raft is made of.
pub struct RaftParts {
    /// This node.
    pub node: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// Times and sizes.
    pub options: RaftOptions,
    /// The log and the vote.
    pub log: Arc<dyn LogStore>,
    /// Snapshot files.
    pub snapshots: SnapshotStore,
    /// The history.
    pub history: Arc<dyn History>,
    /// How peers are reached.
    pub transport: Arc<dyn PeerTransport>,
    /// Where blocking work runs.
    pub blocking: Blocking,
    /// How much may still be written to the disk of the log.
    pub space: Space,
    /// What this release knows: [`Features::THIS`], but for tests of mixed releases.
    pub features: Features,
}

/// A node's part in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decides.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Stands for election.
    Candidate,
    /// Receives everything, votes never; also a node that belongs to no cluster yet.
    Learner,
    /// Stopped.
    Stopped,
}

impl Role {
    /// The word used in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        }
    }
}

/// What this node's Raft says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: u64,
    /// The current term.
    pub term: u64,
    /// This node's part.
    pub role: Role,
    /// The leader, as far as this node knows.
    pub leader: Option<u64>,
    /// Index of the last entry in the log.
    pub last_log: Option<u64>,
    /// Index of the last applied entry.
    pub applied: Option<u64>,
    /// Index up to which a snapshot exists.
    pub snapshot: Option<u64>,
    /// Index up to which the log was purged.
    pub purged: Option<u64>,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// How far a change of them is.
    pub change: Change,
    /// Whether this node is one of them for sure: by what it knows to be committed.
    pub is_member: bool,
    /// Why the core stopped, if it did.
    pub fatal: Option<String>,
}

impl Status {
    /// The leader's member entry, if a leader is known.
    pub fn leader_member(&self) -> Option<&MemberStatus> {
        self.members
            .iter()
            .find(|member| Some(member.id) == self.leader)
    }
}

/// What a committed and applied proposal answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The version of the entry.
    pub version: Version,
    /// The machine's answer.
    pub answer: Answer,
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead; nothing was proposed.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<u64>,
    },
    /// Leadership was lost on the way: it may have happened.
    #[error("leadership was lost before the outcome was known")]
    Unknown,
    /// The core has stopped: it may have happened.
    #[error("consensus has stopped on this node: {0}")]
    Stopped(String),
}

/// Why a linearizable read cannot be confirmed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who does, if known.
        leader: Option<u64>,
    },
    /// No quorum confirmed the leadership.
    #[error("no quorum confirmed the leadership")]
    NoQuorum,
    /// The core has stopped.
    #[error("consensus has stopped on this node: {0}")]
    Stopped(String),
}

/// A running Raft. Cheap to clone.
#[derive(Clone)]
pub struct Raft {
    inner: openraft::Raft<TypeConfig, StateMachine>,
    cluster: ClusterId,
    log: Arc<dyn LogStore>,
    space: Space,
    shared: Arc<Shared>,
    views: watch::Receiver<View>,
    statuses: watch::Receiver<Status>,
    receiving: Arc<Mutex<Option<Receiving>>>,
    turns: Arc<Mutex<()>>,
    /// When entries or a heartbeat came last.
    heard: Arc<std::sync::Mutex<Option<Instant>>>,
}

/// A snapshot on its way in.
struct Receiving {
    from: u64,
    version: u64,
    offset: u64,
    file: SnapshotReceiver,
}

impl Raft {
    /// Loads what is on disk and starts.
    ///
    /// # Errors
    /// When the snapshot or the log cannot be read; the message names the file.
    pub async fn start(parts: RaftParts) -> io::Result<Self> {
        let RaftParts {
            node,
            cluster,
            options,
            log,
            snapshots,
            history,
            transport,
            blocking,
            space,
            features,
        } = parts;
        let config = config(cluster, &options)?;
        let opening = {
            blocking
                .run({
                    let (space, purged) = (space.clone(), log.state().purged);
                    move || {
                        StateMachine::open(
                            cluster, purged, snapshots, history, blocking, space, features,
                        )
                    }
                })
                .await?
        };
        let (machine, views) = opening?;
        let shared = machine.shared();
        let network = Network {
            cluster,
            node,
            transport,
            blocking,
        };
        let inner = openraft::Raft::new(
            node,
            Arc::new(config),
            network,
            LogAdapter::new(log.clone()),
            machine,
        )
        .await
        .map_err(io::Error::other)?;
        let statuses = watch_status(&inner);
        let receiving = Arc::new(Mutex::new(None));
        Ok(Self {
            inner,
            cluster,
            log,
            space,
            shared,
            views,
            statuses,
            receiving,
            turns: Arc::default(),
            heard: Arc::default(),
        })
    }

    /// The machine as this node has applied it.
    pub fn view(&self) -> View {
        self.views.borrow().clone()
    }

    /// Follows the machine.
    pub fn views(&self) -> watch::Receiver<View> {
        self.views.clone()
    }

    /// What this node's Raft says of itself.
    pub fn status(&self) -> Status {
        self.statuses.borrow().clone()
    }

    /// Follows the status.
    pub fn statuses(&self) -> watch::Receiver<Status> {
        self.statuses.clone()
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Whether this node belongs to a formed cluster.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn is_initialized(&self) -> Result<bool, String> {
        self.inner
            .is_initialized()
            .await
            .map_err(|why| why.to_string())
    }

    /// Forms the cluster with these members; every one of them must be empty. Doing it again is
    /// no error.
    ///
    /// # Errors
    /// When the core has stopped or refuses the members.
    pub async fn initialize(&self, members: BTreeMap<u64, Member>) -> Result<(), String> {
        match self.inner.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Proposes an encoded command and waits until it is committed and applied here.
    ///
    /// # Errors
    /// See [`ProposeError`]: only `NotLeader` means that nothing happened.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        match self.inner.client_write(Payload(command)).await {
            Ok(done) => Ok(Proposed {
                version: done.data.version,
                answer: done.data.answer,
            }),
            Err(why) => Err(propose_error(why)),
        }
    }

    /// Confirms with a quorum that this node leads, and answers with the log id a read must have
    /// applied to be linearizable (I1).
    ///
    /// # Errors
    /// When it does not lead or cannot confirm it.
    pub async fn read_index(&self) -> Result<LogId, ReadError> {
        match self.inner.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(log_id(linearizer.read_log_id().log_id())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(ReadError::NotLeader {
                    leader: to.leader_id,
                })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadError::NoQuorum)
            }
            Err(RaftError::Fatal(why)) => Err(ReadError::Stopped(why.to_string())),
        }
    }

    /// Waits until this node has applied a log index. The caller sets the deadline.
    ///
    /// # Errors
    /// When the machine is gone.
    pub async fn applied(&self, index: u64) -> Result<View, ReadError> {
        let mut views = self.views.clone();
        let reached = views
            .wait_for(|view| view.applied().is_some_and(|id| id.index >= index))
            .await;
        reached
            .map(|view| view.clone())
            .map_err(|_| ReadError::Stopped("the state machine is gone".into()))
    }

    /// The history. Holds everything that a view taken before a read holds, as far as it is kept.
    pub fn changes(&self) -> Changes {
        Changes::new(self.shared.history.clone())
    }

    /// Why the history is no longer kept, if so.
    pub fn history_failed(&self) -> Option<String> {
        self.shared.history.failed()
    }

    /// Writes a backup of a view of this node: a snapshot with the history up to its version.
    /// Returns where it went.
    ///
    /// # Errors
    /// When `out` takes no more, or the history cannot be read.
    pub async fn backup<W: io::Write + Send + 'static>(
        &self,
        view: View,
        out: W,
    ) -> io::Result<(W, SnapshotInfo)> {
        let membership = self
            .inner
            .metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let history = self.shared.history.clone();
        let work = move || {
            let header = header_of(&view, &membership)?;
            let mut out = SnapshotEncoder::new(out, view.version().get(), &header)?;
            write_records(&view, history.as_ref(), &mut out)?;
            out.finish()
        };
        self.shared.blocking.run(work).await?
    }

    /// Takes a snapshot now.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn take_snapshot(&self) -> Result<(), String> {
        self.inner
            .trigger()
            .snapshot()
            .await
            .map_err(|why| why.to_string())
    }

    /// Stands for election now, without waiting for the silence.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn elect(&self) -> Result<(), String> {
        self.inner
            .trigger()
            .elect(false)
            .await
            .map_err(|why| why.to_string())
    }

    /// When a leader was heard of last: entries or a heartbeat came. `None` when none was since the
    /// start.
    pub fn heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last entry in the log.
    pub fn last_log(&self) -> Option<LogId> {
        self.log.state().last
    }

    /// Stands for election as if this leader had handed over to this node, without waiting for its
    /// lease to pass. The caller knows that it is gone.
    ///
    /// # Errors
    /// When the core has stopped, or this node has not taken anything from that leader.
    pub async fn succeed(&self, leader: u64, term: u64) -> Result<(), String> {
        let node = self.status().node;
        let vote = RaftVote::new_committed(term, leader);
        let request = TransferLeaderRequest::new(vote, node, None);
        let taken = self.inner.handle_transfer_leader(request).await;
        taken
            .map_err(|why| why.to_string())?
            .map_err(|why| why.to_string())
    }

    /// Hands leadership to another voter, if this node leads.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), String> {
        self.inner
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|why| why.to_string())
    }

    /// Waits until the core stops by itself and says why.
    pub async fn stopped(&self) -> String {
        let mut statuses = self.statuses.clone();
        match statuses.wait_for(|status| status.fatal.is_some()).await {
            Ok(status) => status.fatal.clone().unwrap_or_default(),
            Err(_) => "the raft core is gone".into(),
        }
    }

    /// Answers one message of a peer.
    ///
    /// # Errors
    /// When the message is not for this node or cannot be read: the text says why.
    pub async fn serve(&self, rpc: Rpc, body: &[u8]) -> Result<Bytes, String> {
        match rpc {
            Rpc::Append => {
                *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                let request: AppendEntriesRequest<TypeConfig> = self.open(body)?.1;
                self.check_room(&request, body.len() as u64)?;
                encode(
                    &self
                        .inner
                        .append_entries(request)
                        .await
                        .map_err(|why| why.to_string()),
                )
            }
            Rpc::PreVote => {
                let request: VoteRequest<TypeConfig> = self.open(body)?.1;
                encode(
                    &self
                        .inner
                        .pre_vote(request)
                        .await
                        .map_err(|why| why.to_string()),
                )
            }
            Rpc::Vote => {
                let request: VoteRequest<TypeConfig> = self.open(body)?.1;
                encode(
                    &self
                        .inner
                        .vote(request)
                        .await
                        .map_err(|why| why.to_string()),
                )
            }
            Rpc::TransferLeader => {
                let request: TransferLeaderRequest<TypeConfig> = self.open(body)?.1;
                encode(
                    &self
                        .inner
                        .handle_transfer_leader(request)
                        .await
                        .map_err(|why| why.to_string()),
                )
            }
            Rpc::Snapshot => {
                let (from, chunk) = self.open(body)?;
                encode(&self.receive(from, chunk).await)
            }
        }
    }

    /// Whether the log has room for so many bytes, whatever the disk has, beside what is kept for
    /// elections and members.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.log.room_bytes() >= ROOM_KEPT.saturating_add(bytes)
    }

    /// Whether there is no space for changes; entries without any (elections, members) still find theirs.
    pub fn is_short_of_space(&self) -> bool {
        self.log.is_starved() || self.space.is_low()
    }

    /// Returns what is watched for [`Raft::is_short_of_space`].
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Refuses changes that would take the last room of the log: a failed write would end it, and with
    /// it this node's vote. The leader takes that for silence and sends them again; what has no
    /// entries, or none with changes, passes, so that this node still follows, votes, and takes part in
    /// elections and changes of members.
    fn check_room(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        len: u64,
    ) -> Result<(), String> {
        let changes = |entry: &RaftEntry| matches!(entry.payload, EntryPayload::Normal(_));
        if !request.entries.iter().any(changes) || !self.is_short_of_space() {
            return Ok(());
        }
        if !self.has_room(len) {
            return Err("the disk of this node is full; it takes no changes".into());
        }
        Ok(())
    }

    fn open<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<(u64, T), String> {
        let (envelope, request): (Envelope, T) = decode(body)?;
        if envelope.cluster != self.cluster || envelope.to != *self.inner.node_id() {
            return Err(format!(
                "this is node {} of cluster {}, the message is for node {} of cluster {}",
                self.inner.node_id(),
                self.cluster,
                envelope.to,
                envelope.cluster
            ));
        }
        Ok((envelope.from, request))
    }

    async fn receive(&self, from: u64, chunk: SnapshotChunk) -> Result<SnapshotReply, String> {
        let mut slot = self.receiving.lock().await;
        if chunk.offset == 0 {
            let file = self
                .shared
                .snapshots
                .receive()
                .map_err(|why| why.to_string())?;
            *slot = Some(Receiving {
                from,
                version: chunk.version,
                offset: 0,
                file,
            });
        }
        // A leader that lost the link asks where to go on, or sends what has arrived already.
        let here = slot
            .as_mut()
            .filter(|here| (here.from, here.version) == (from, chunk.version));
        let here = match here {
            Some(here) if here.offset == chunk.offset => here,
            Some(here) => return Ok(SnapshotReply::At(here.offset)),
            None => return Ok(SnapshotReply::At(0)),
        };
        here.file
            .push(&chunk.bytes)
            .map_err(|why| why.to_string())?;
        here.offset += chunk.bytes.len() as u64;
        if !chunk.last {
            return Ok(SnapshotReply::More);
        }
        let Some(whole) = slot.take() else {
            return Err("no snapshot is on its way".into());
        };
        let shared = self.shared.clone();
        let cluster = self.cluster;
        let stored = shared.blocking.run({
            let shared = shared.clone();
            move || {
                let info = whole.file.finish().map_err(|why| why.to_string())?;
                let reader = shared
                    .snapshots
                    .open_version(info.version)
                    .map_err(|why| why.to_string())?;
                let meta = read_meta(cluster, &reader).map_err(|why| why.to_string())?;
                let snapshot = SnapshotFile {
                    store: shared.snapshots.clone(),
                    version: info.version,
                };
                Ok::<_, String>((meta, snapshot))
            }
        });
        let (meta, snapshot) = stored.await.map_err(|why| why.to_string())??;
        let installed = self
            .inner
            .install_full_snapshot(chunk.vote, Snapshot { meta, snapshot })
            .await;
        installed
            .map(SnapshotReply::Done)
            .map_err(|why| why.to_string())
    }

    /// Stops consensus, then the log and the history, so that everything accepted is on disk.
    pub async fn shutdown(&self) {
        self.space.end();
        if let Err(why) = self.inner.shutdown().await {
            tracing::error!(%why, "the raft core did not stop cleanly");
        }
        let (log, shared) = (self.log.clone(), self.shared.clone());
        let closed = self.shared.blocking.run(move || {
            log.close();
            shared.history.close();
        });
        if let Err(why) = closed.await {
            tracing::error!(%why, "closing the storage failed");
        }
    }
}

fn config(cluster: ClusterId, options: &RaftOptions) -> io::Result<Config> {
    let config = Config {
        cluster_name: cluster.to_string(),
        heartbeat_interval: options.heartbeat.as_millis() as u64,
        election_timeout_min: options.election_min.as_millis() as u64,
        election_timeout_max: options.election_max.as_millis() as u64,
        install_snapshot_timeout: options.election_min.as_millis() as u64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: options.keep_behind_snapshot,
        replication_lag_threshold: options.keep_behind_snapshot.max(options.snapshot_every) * 2,
        purge_batch_size: (options.snapshot_every / 8).clamp(1, 256),
        enable_pre_vote: Some(true),
        // A leader without a quorum falls silent for a while, so that those who can reach each
        // other elect one who has it.
        quorum_loss_probe_interval: Some(2 * options.election_max.as_millis() as u64 + 1),
        // The machine lives in memory and is rebuilt after a restart: leadership is won again.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}

fn propose_error(why: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match why {
        RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader {
            leader_id,
            ..
        })) => ProposeError::NotLeader { leader: leader_id },
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Unknown,
        RaftError::APIError(other) => ProposeError::Stopped(other.to_string()),
        RaftError::Fatal(why) => ProposeError::Stopped(why.to_string()),
    }
}

fn watch_status(raft: &openraft::Raft<TypeConfig, StateMachine>) -> watch::Receiver<Status> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(status(&metrics.borrow_watched()));
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            let now = status(&metrics.borrow_watched());
            sender.send_if_modified(|then| {
                let changed = *then != now;
                *then = now;
                changed
            });
        }
        sender.send_modify(|status| {
            status.role = Role::Stopped;
            status
                .fatal
                .get_or_insert_with(|| Fatal::<TypeConfig>::Stopped.to_string());
        });
    });
    receiver
}

fn status(metrics: &RaftMetrics<TypeConfig>) -> Status {
    Status {
        node: metrics.id,
        term: metrics.current_term,
        role: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        },
        leader: metrics.current_leader,
        last_log: metrics.last_log_index,
        applied: metrics.last_applied.as_ref().map(|id| id.index),
        snapshot: metrics.snapshot.as_ref().map(|id| id.index),
        purged: metrics.purged.as_ref().map(|id| id.index),
        members: members::of(metrics),
        change: members::change(metrics),
        is_member: members::is_member(metrics),
        fatal: metrics
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string),
    }
}
