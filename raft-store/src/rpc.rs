//! What nodes say to each other: bytes in, bytes out.
//!
//! The node carries these bytes over whatever connection it likes; this file gives them meaning
//! for openraft. Every message names the cluster and both nodes, so that a misdirected one is
//! refused instead of believed. A snapshot travels as the chunks of its file: bounded memory, a
//! deadline a chunk, and after a cut link on from where it was.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, OptionalSend, Snapshot};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::pipeline::Answers;
use crate::codec;
use crate::command::ClusterId;
use crate::raft::Member;
use crate::snapshot_file::SnapshotReader;
use crate::state_machine::{Blocking, SnapshotFile};
use crate::types::{CommittedLeaderId, RaftVote, TypeConfig};

mod pipeline;
#[cfg(test)]
mod vectors;

const RPC_FORMAT: u8 = 1;

/// Bytes of a snapshot file sent at once.
const CHUNK_LEN: usize = 1 << 20;

/// Shortest deadline of a message with entries.
const ENTRIES_DEADLINE_MIN: Duration = Duration::from_secs(1);

/// The slowest network and disk that are waited for.
const ENTRIES_BYTES_PER_SECOND: f64 = 4.0 * 1024.0 * 1024.0;

/// Longest wait for one chunk of a snapshot to be stored.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);

/// Longest wait for the last chunk, after which the receiver loads the whole snapshot.
const INSTALL_DEADLINE: Duration = Duration::from_secs(120);

/// How long a node that takes a snapshot may be silent until the transfer is given up; openraft then
/// begins one with the newest snapshot.
const SNAPSHOT_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Between two attempts meanwhile.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(500);

/// The offset of no piece: how much is there?
const QUESTION: u64 = u64::MAX;

/// The kinds of message between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// Log entries and heartbeats.
    Append,
    /// Would you vote for me?
    PreVote,
    /// Vote for me.
    Vote,
    /// Take over as leader.
    TransferLeader,
    /// A piece of a snapshot file.
    Snapshot,
}

impl Rpc {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Append,
        Self::PreVote,
        Self::Vote,
        Self::TransferLeader,
        Self::Snapshot,
    ];

    /// The word used in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::PreVote => "pre-vote",
            Self::Vote => "vote",
            Self::TransferLeader => "transfer-leader",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Why a peer gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Not connected: refused, reset, unknown host.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer before the deadline.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// An answer that is no answer.
    #[error("refused: {0}")]
    Refused(String),
}

/// A future that can be stored.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Carries messages to other nodes. Implemented by the node over HTTP, or by a simulation.
pub trait PeerTransport: Send + Sync + 'static {
    /// Sends one message and waits for its answer, at most until the deadline.
    fn call(
        &self,
        to: &Member,
        rpc: Rpc,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<Result<Bytes, CallError>>;
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) cluster: ClusterId,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotChunk {
    pub(crate) vote: RaftVote,
    pub(crate) version: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    pub(crate) last: bool,
}

impl SnapshotChunk {
    /// Asks how much of a snapshot the other node has.
    fn question(vote: RaftVote, version: u64) -> Self {
        Self {
            vote,
            version,
            offset: QUESTION,
            bytes: Bytes::new(),
            last: false,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum SnapshotReply {
    More,
    Done(SnapshotResponse<TypeConfig>),
    /// The piece at this offset is wanted. Releases that do not know it take it for a refusal.
    At(u64),
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, String> {
    codec::encode(RPC_FORMAT, message).map_err(|why| why.to_string())
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    codec::decode(RPC_FORMAT, bytes).map_err(|why| why.to_string())
}

/// Makes one [`Peer`] per other node and purpose.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) cluster: ClusterId,
    pub(crate) node: u64,
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) blocking: Blocking,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        let envelope = Envelope {
            cluster: self.cluster,
            from: self.node,
            to: target,
        };
        Peer {
            envelope,
            member: node.clone(),
            network: self.clone(),
        }
    }
}

/// One other node as openraft sees it.
pub(crate) struct Peer {
    envelope: Envelope,
    member: Member,
    network: Network,
}

impl Peer {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        rpc: Rpc,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let body = encode(&(self.envelope, request)).map_err(CallError::Refused)?;
        let answer = self
            .network
            .transport
            .call(&self.member, rpc, body, deadline)
            .await?;
        let answer: Result<A, String> = decode(&answer).map_err(CallError::Refused)?;
        answer.map_err(CallError::Refused)
    }

    async fn rpc<Q: Serialize, A: DeserializeOwned>(
        &self,
        rpc: Rpc,
        kind: RPCTypes,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        self.call(rpc, request, deadline)
            .await
            .map_err(|why| self.rpc_error(kind, why))
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        offered: Duration,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let deadline = append_deadline(&request, offered);
        self.rpc(Rpc::Append, RPCTypes::AppendEntries, &request, deadline)
            .await
    }

    fn rpc_error(&self, action: RPCTypes, why: CallError) -> RPCError<TypeConfig> {
        match why {
            CallError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&why)),
            CallError::Refused(_) => RPCError::Network(NetworkError::new(&why)),
            CallError::Timeout(timeout) => RPCError::Timeout(Timeout {
                action,
                id: self.envelope.from,
                target: self.envelope.to,
                timeout,
            }),
        }
    }

    /// Sends a snapshot and goes on where the other node is, as long as it is heard of every now and then:
    /// a cut link costs what was under way, not what has arrived.
    async fn send_snapshot(
        &self,
        vote: RaftVote,
        file: &SnapshotFile,
    ) -> Result<SnapshotResponse<TypeConfig>, CallError> {
        // Opening reads the whole file once, to be sure of it.
        let opening = file.clone();
        let opened = self.network.blocking.run(move || opening.open()).await;
        let reader = opened.and_then(|opened| opened).map_err(refused)?;
        let length = reader.len_bytes();
        let (version, to) = (file.version, &self.member.name);
        let mut told = Told::default();
        // `None`: ask first.
        let mut offset = None;
        let mut heard = Instant::now();
        loop {
            let chunk = match offset {
                None => SnapshotChunk::question(vote, version),
                Some(offset) => piece(&reader, vote, version, offset)?,
            };
            let deadline = match chunk.last {
                true => INSTALL_DEADLINE,
                false => CHUNK_DEADLINE,
            };
            let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
            match self.call(Rpc::Snapshot, &chunk, deadline).await {
                Ok(SnapshotReply::Done(response)) => {
                    tracing::info!(version, to, bytes = length, "a snapshot was taken");
                    return Ok(response);
                }
                Ok(SnapshotReply::More) if chunk.last => {
                    return Err(CallError::Refused("no answer to the last chunk".into()));
                }
                Ok(SnapshotReply::More) => offset = Some(end),
                Ok(SnapshotReply::At(there)) if there < length => offset = Some(there),
                Ok(SnapshotReply::At(there)) => {
                    let text = format!("it has {there} bytes of a snapshot of {length}");
                    return Err(CallError::Refused(text));
                }
                // A release that cannot be asked is sent everything.
                Err(CallError::Refused(_)) if offset.is_none() => offset = Some(0),
                Err(CallError::Refused(why)) => return Err(CallError::Refused(why)),
                Err(why) if chunk.last || heard.elapsed() > SNAPSHOT_SILENCE_MAX => {
                    return Err(why);
                }
                Err(why) => {
                    tracing::info!(version, to, %why, "a snapshot waits for the link");
                    tokio::time::sleep(SNAPSHOT_PAUSE).await;
                    offset = None;
                    continue;
                }
            }
            heard = Instant::now();
            if let Some(percent) = told.news(offset, length) {
                tracing::info!(version, to, percent, bytes = length, "sending a snapshot");
            }
        }
    }
}

fn refused(why: impl std::fmt::Display) -> CallError {
    CallError::Refused(why.to_string())
}

/// The piece of a snapshot at an offset.
fn piece(
    reader: &SnapshotReader,
    vote: RaftVote,
    version: u64,
    offset: u64,
) -> Result<SnapshotChunk, CallError> {
    let length = reader.len_bytes();
    let mut bytes = vec![0; CHUNK_LEN.min((length - offset) as usize)];
    let read = reader.read_raw(offset, &mut bytes).map_err(refused)?;
    if read != bytes.len() {
        let end = offset + read as u64;
        return Err(refused(format!("snapshot {version} ends at {end}")));
    }
    Ok(SnapshotChunk {
        vote,
        version,
        offset,
        bytes: bytes.into(),
        last: offset + read as u64 == length,
    })
}

/// What was said of how far a snapshot is: the quarters of one that is long.
#[derive(Default)]
struct Told(u64);

impl Told {
    /// The percentage to tell of, if it is news.
    fn news(&mut self, offset: Option<u64>, length: u64) -> Option<u64> {
        let quarter = offset? * 4 / length.max(1);
        let is_news = quarter > self.0 && length > 4 * CHUNK_LEN as u64;
        self.0 = self.0.max(quarter);
        is_news.then_some(quarter * 25)
    }
}

/// openraft offers one heartbeat interval, which is too short for a large entry on a busy disk. A
/// heartbeat gets two; entries get a second and the time that their bytes need.
fn append_deadline(rpc: &AppendEntriesRequest<TypeConfig>, offered: Duration) -> Duration {
    if rpc.entries.is_empty() {
        return 2 * offered;
    }
    let bytes: usize = rpc
        .entries
        .iter()
        .map(|entry| match &entry.payload {
            EntryPayload::Normal(payload) => payload.0.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        })
        .sum();
    ENTRIES_DEADLINE_MIN + Duration::from_secs_f64(bytes as f64 / ENTRIES_BYTES_PER_SECOND)
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.append(rpc, option.hard_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> futures_util::future::BoxFuture<'s, Result<Answers<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let (peer, offered) = (&*self, option.hard_ttl());
        let answers = pipeline::answers(input, move |request| {
            Box::pin(peer.append(request, offered))
        });
        Box::pin(std::future::ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(Rpc::Vote, RPCTypes::Vote, &rpc, option.hard_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(Rpc::PreVote, RPCTypes::Vote, &rpc, option.hard_ttl())
            .await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(
            Rpc::TransferLeader,
            RPCTypes::TransferLeader,
            &rpc,
            option.hard_ttl(),
        )
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot<CommittedLeaderId, u64, Member, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, &snapshot.snapshot) => {
                sent.map_err(|why| self.rpc_error(RPCTypes::InstallSnapshot, why).into())
            }
        }
    }
}
