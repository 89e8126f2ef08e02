//! What nodes do for each other, on a listener of its own: Raft messages, forwarded writes,
//! read-index, status, and the formation of the cluster.
//!
//! Bodies are bincode behind the format tag, length and crc of `codec`, over HTTP/1.1 with kept
//! connections; what is small and frequent goes over one connection of its own (`peer/line.rs`). Every request is bounded in size and every call has a deadline. A forwarded write
//! says whether it certainly was not sent; everything else has an unknown outcome.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pennon_evaluator::{EnvironmentKey, Version};
use pennon_raft_store::codec;
use pennon_raft_store::command::ClusterId;
use pennon_raft_store::plan::ChangeRequest;
use pennon_raft_store::raft::{
    self, CallError, Member, MemberChange, MemberStatus, PeerTransport, Rpc,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::core::Core;
use crate::delivery::Said;
use crate::formation::{Hello, Invitation};
use crate::hub::receipts::Roll;
use crate::membership::MembershipError;
use crate::net::{BoxFuture, BoxedIo, Connect};
use crate::space::SpaceReport;
use crate::succession::{Judgement, Reign};
use crate::writer::Written;
use forward::{Outbox, WriteCall, WritesCall};
use line::Called;
use lines::Lines;

/// Longest body taken from a peer, in bytes: an entry of the largest batch with room to spare.
pub const BODY_LEN_MAX: usize = 256 << 20;

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// What a member gets on top of what it was asked to wait, to answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// The longest that a member waits for another.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Idle connections kept per peer.
const IDLE_CONNECTIONS_MAX: usize = 16;

mod forward;
pub(crate) mod line;
mod lines;
#[cfg(test)]
mod vectors;

type Http = Client<Connector, Full<Bytes>>;

const FORMAT: u8 = 1;

/// What a node says of itself to the others, many times a second if need be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its node id.
    pub node: u64,
    /// The version it has applied.
    pub version: Version,
    /// The digest over everything at that version (I4).
    pub digest: u128,
    /// How far it may lag behind at most, in milliseconds; `None` before the first proof.
    pub staleness_ms: Option<u64>,
    /// Open streams.
    pub streams: u64,
    /// Its release.
    pub release: String,
    /// Its part, as a word.
    pub role: String,
    /// What it found wrong with itself.
    pub complaint: Option<String>,
    /// The highest feature level that its release knows.
    pub feature_level: u32,
}

/// Why a call to a peer has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// It was certainly not sent.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// The peer's release does not know it; nothing was done.
    #[error("the peer does not know this call")]
    NoSuchCall,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Announcement {
    cluster: ClusterId,
    node: u64,
    member: Member,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct AppliedCall {
    cluster: ClusterId,
    version: Version,
    within_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ReceiptsCall {
    cluster: ClusterId,
    environment: EnvironmentKey,
    version: Version,
    within_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct RollCall {
    cluster: ClusterId,
    known: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct MemberCall {
    cluster: ClusterId,
    node: u64,
    change: MemberChange,
    within_ms: u64,
    /// It was forwarded before: only the leader may answer.
    forwarded: bool,
}

/// Calls other nodes. Cheap to clone.
#[derive(Clone)]
pub struct PeerClient {
    http: Http,
    cluster: ClusterId,
    /// Where members were found (value) who are not where the membership says (key).
    found: Arc<RwLock<BTreeMap<Member, String>>>,
    outbox: Arc<Outbox>,
    lines: Lines,
}

impl PeerClient {
    /// Makes a client that connects by `connect`.
    pub fn new(connect: Arc<dyn Connect>, cluster: ClusterId) -> Self {
        Self {
            http: http_client(connect),
            cluster,
            found: Arc::default(),
            outbox: Arc::default(),
            lines: Lines::default(),
        }
    }

    /// Notes where a member of this name was found, if that is not where the membership says.
    pub(crate) fn learn(&self, members: &[MemberStatus], seen: &Member) {
        let stored = members
            .iter()
            .map(|member| &member.member)
            .find(|member| member.name == seen.name);
        if let Some(stored) = stored.filter(|stored| stored.peer != seen.peer) {
            let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
            found.insert(stored.clone(), seen.peer.clone());
        }
    }

    /// Where to reach a member.
    pub(crate) fn address(&self, member: &Member) -> String {
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        found.get(member).unwrap_or(&member.peer).clone()
    }

    /// Tells the leader where this node is; true when the membership says so now.
    pub(crate) async fn announce(
        &self,
        leader: &MemberStatus,
        node: u64,
        member: &Member,
        within: Duration,
    ) -> bool {
        let body = Announcement {
            cluster: self.cluster,
            node,
            member: member.clone(),
        };
        let deadline = Instant::now() + within;
        call(
            &self.http,
            &self.address(&leader.member),
            "announce",
            &body,
            deadline,
        )
        .await
        .unwrap_or(false)
    }

    /// Asks the leader for the index that everything committed so far is at or below.
    ///
    /// # Errors
    /// When it does not answer, does not lead, or has no quorum.
    pub async fn read_index(
        &self,
        leader: &MemberStatus,
        within: Duration,
    ) -> Result<u64, PeerError> {
        let deadline = Instant::now() + within;
        let to = self.address(&leader.member);
        let index: Option<u64> = self.ask(&to, "read-index", &self.cluster, deadline).await?;
        index.ok_or_else(|| PeerError::Unanswered("it has no quorum or does not lead".into()))
    }

    /// Forwards a write to the leader, once.
    pub(crate) async fn write(
        &self,
        leader: &MemberStatus,
        request: Arc<ChangeRequest>,
        deadline: Instant,
    ) -> Result<Written, PeerError> {
        self.forward(self.address(&leader.member), request, deadline)
            .await
    }

    /// Has the leader change what a member is.
    pub(crate) async fn change_member(
        &self,
        leader: &MemberStatus,
        node: u64,
        change: MemberChange,
        deadline: Instant,
    ) -> Result<Result<(), MembershipError>, PeerError> {
        let body = MemberCall {
            cluster: self.cluster,
            node,
            change,
            within_ms: left_ms(deadline),
            forwarded: true,
        };
        let to = self.address(&leader.member);
        call(&self.http, &to, "member", &body, deadline + ANSWER_MAX).await
    }

    /// Asks a member whether it applies a version before the deadline; `None` without an answer.
    pub(crate) async fn applied(
        &self,
        to: &Member,
        version: Version,
        deadline: Instant,
    ) -> Option<bool> {
        let body = AppliedCall {
            cluster: self.cluster,
            version,
            within_ms: left_ms(deadline),
        };
        let deadline = deadline + ANSWER_MAX;
        let to = self.address(to);
        call(&self.http, &to, "applied", &body, deadline).await.ok()
    }

    /// Asks a member who has a version in an environment, after it has waited until `waits_until`.
    pub(crate) async fn receipts(
        &self,
        to: &Member,
        environment: &EnvironmentKey,
        version: Version,
        waits_until: Instant,
    ) -> Option<Said> {
        let body = ReceiptsCall {
            cluster: self.cluster,
            environment: environment.clone(),
            version,
            within_ms: left_ms(waits_until),
        };
        let deadline = waits_until + ANSWER_MAX;
        let to = self.address(to);
        call(&self.http, &to, "receipts", &body, deadline)
            .await
            .ok()
    }

    /// Asks a voter whether it finds the leader gone; `None` without an answer.
    pub(crate) async fn judgement(
        &self,
        to: &Member,
        reign: Reign,
        deadline: Instant,
    ) -> Option<Judgement> {
        let body = (self.cluster, reign);
        let to = self.address(to);
        call(&self.http, &to, "judgement", &body, deadline)
            .await
            .ok()
    }

    /// Asks a member who is connected to it, if that changed; `None` without an answer.
    pub(crate) async fn roll(
        &self,
        to: &Member,
        known: Option<u64>,
        deadline: Instant,
    ) -> Option<Option<Roll>> {
        let body = RollCall {
            cluster: self.cluster,
            known,
        };
        let to = self.address(to);
        call(&self.http, &to, "roll", &body, deadline).await.ok()
    }

    /// Asks a member how much disk space it has; `None` without an answer.
    pub(crate) async fn space(&self, to: &Member, deadline: Instant) -> Option<SpaceReport> {
        let to = self.address(to);
        call(&self.http, &to, "space", &self.cluster, deadline)
            .await
            .ok()
    }

    /// Asks who listens at a member's address; `None` without an answer.
    pub(crate) async fn hello(&self, member: &Member, deadline: Instant) -> Option<Hello> {
        let to = self.address(member);
        call(&self.http, &to, "hello", &(), deadline).await.ok()
    }

    /// Whether a member answers.
    pub(crate) async fn is_alive(&self, member: &Member, deadline: Instant) -> bool {
        self.status(member, deadline).await.is_some()
    }

    /// Asks a member how it is; `None` without an answer.
    pub(crate) async fn status(&self, member: &Member, deadline: Instant) -> Option<PeerStatus> {
        call(
            &self.http,
            &self.address(member),
            "status",
            &self.cluster,
            deadline,
        )
        .await
        .ok()
    }
}

fn left_ms(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

impl PeerClient {
    /// Calls a peer over its line, if it has one and the call is not too long for it.
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        body: &Q,
        deadline: Instant,
    ) -> Result<A, PeerError> {
        let body =
            codec::encode(FORMAT, body).map_err(|why| PeerError::NotSent(why.to_string()))?;
        let answer = match self.carry(address, path, body, deadline).await {
            Ok(answer) => answer?,
            Err(Elapsed) => return Err(PeerError::Unanswered("the deadline passed".into())),
        };
        codec::decode(FORMAT, &answer).map_err(|why| PeerError::Unanswered(why.to_string()))
    }

    async fn carry(
        &self,
        address: &str,
        path: &str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Result<Bytes, PeerError>, Elapsed> {
        let lines = self.lines.call(&self.http, address, path, &body, deadline);
        match lines.await {
            Some(Called::Answered(status, body)) => Ok(read_answer(status, body)),
            Some(Called::Failed(why)) => Ok(Err(why)),
            Some(Called::Late) => Err(Elapsed),
            None => {
                let post = post(&self.http, address, path, body);
                let answer = tokio::time::timeout_at(deadline, post).await;
                answer.map_err(|_| Elapsed)
            }
        }
    }
}

/// The deadline passed; the message may have arrived.
struct Elapsed;

impl PeerTransport for PeerClient {
    fn call(
        &self,
        to: &Member,
        rpc: Rpc,
        body: Bytes,
        within: Duration,
    ) -> raft::BoxFuture<Result<Bytes, CallError>> {
        let (client, address) = (self.clone(), self.address(to));
        Box::pin(async move {
            let path = format!("raft/{}", rpc.as_str());
            let deadline = Instant::now() + within;
            let answer = match rpc {
                Rpc::Append => client.carry(&address, &path, body, deadline).await,
                // Seldom, and not to wait behind anything.
                Rpc::PreVote | Rpc::Vote | Rpc::TransferLeader | Rpc::Snapshot => {
                    let post = post(&client.http, &address, &path, body);
                    let answer = tokio::time::timeout_at(deadline, post).await;
                    answer.map_err(|_| Elapsed)
                }
            };
            match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(PeerError::NotSent(why))) => Err(CallError::Unreachable(why)),
                Ok(Err(why @ PeerError::NoSuchCall)) => Err(CallError::Refused(why.to_string())),
                Ok(Err(PeerError::Unanswered(why))) => Err(CallError::Refused(why)),
                Err(Elapsed) => Err(CallError::Timeout(within)),
            }
        })
    }
}

/// Asks whoever listens at an address who it is, before there is a cluster.
pub(crate) struct Greeter {
    http: Http,
}

impl Greeter {
    pub(crate) fn new(connect: Arc<dyn Connect>) -> Self {
        Self {
            http: http_client(connect),
        }
    }

    pub(crate) async fn hello(&self, address: &str, within: Duration) -> Result<Hello, PeerError> {
        call(&self.http, address, "hello", &(), Instant::now() + within).await
    }

    /// Asks a node of a cluster to have this node taken in as a learner.
    pub(crate) async fn ask_in(
        &self,
        address: &str,
        cluster: ClusterId,
        (node, member): (u64, &Member),
        within: Duration,
    ) -> Result<(), String> {
        let deadline = Instant::now() + within;
        let body = MemberCall {
            cluster,
            node,
            change: MemberChange::AddLearner(member.clone()),
            within_ms: left_ms(deadline),
            forwarded: false,
        };
        let reply: Result<Result<(), MembershipError>, PeerError> =
            call(&self.http, address, "member", &body, deadline + ANSWER_MAX).await;
        let reply = reply.map_err(|why| why.to_string())?;
        reply.map_err(|why| why.to_string())
    }

    /// Invites a node; Ok means that it stored the cluster id and runs its Raft.
    pub(crate) async fn invite(
        &self,
        address: &str,
        invitation: &Invitation,
        within: Duration,
    ) -> Result<(), String> {
        let reply: Result<Result<(), String>, PeerError> = call(
            &self.http,
            address,
            "join",
            invitation,
            Instant::now() + within,
        )
        .await;
        reply.map_err(|why| why.to_string())?
    }
}

async fn call<Q: Serialize, A: DeserializeOwned>(
    http: &Http,
    address: &str,
    path: &str,
    body: &Q,
    deadline: Instant,
) -> Result<A, PeerError> {
    let body = codec::encode(FORMAT, body).map_err(|why| PeerError::NotSent(why.to_string()))?;
    let answer = tokio::time::timeout_at(deadline, post(http, address, path, body)).await;
    let answer = answer.map_err(|_| PeerError::Unanswered("the deadline passed".into()))??;
    codec::decode(FORMAT, &answer).map_err(|why| PeerError::Unanswered(why.to_string()))
}

async fn post(http: &Http, address: &str, path: &str, body: Bytes) -> Result<Bytes, PeerError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/peer/{path}"))
        .body(Full::new(body))
        .map_err(|why| PeerError::NotSent(why.to_string()))?;
    let unanswered = |why: &dyn std::fmt::Display| PeerError::Unanswered(why.to_string());
    let response =
        http.request(request)
            .await
            .map_err(|why: ClientError| match why.is_connect() {
                true => PeerError::NotSent(chain(&why)),
                false => unanswered(&chain(&why)),
            })?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_LEN_MAX)
        .collect()
        .await;
    let body = body.map_err(|why| unanswered(&why))?.to_bytes();
    read_answer(status, body)
}

fn read_answer(status: StatusCode, body: Bytes) -> Result<Bytes, PeerError> {
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND => Err(PeerError::NoSuchCall),
        _ => {
            let why = format!("{status}: {}", String::from_utf8_lossy(&body));
            Err(PeerError::Unanswered(why))
        }
    }
}

fn chain(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut source = why.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn http_client(connect: Arc<dyn Connect>) -> Http {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .build(Connector { connect })
}

/// hyper's connector over ours.
#[derive(Clone)]
struct Connector {
    connect: Arc<dyn Connect>,
}

impl tower::Service<http::Uri> for Connector {
    type Response = PeerIo;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<PeerIo>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let address = uri
            .authority()
            .map_or_else(String::new, ToString::to_string);
        let connecting = self.connect.connect(&address);
        Box::pin(async move {
            let late = |_| {
                std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("no connection to {address}"),
                )
            };
            let io = tokio::time::timeout(CONNECT_MAX, connecting)
                .await
                .map_err(late)??;
            Ok(PeerIo(TokioIo::new(io)))
        })
    }
}

/// A connection as hyper's pool wants it.
struct PeerIo(TokioIo<BoxedIo>);

impl Connection for PeerIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for PeerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for PeerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// What a node does when a peer calls it. Implemented by the server, which exists before there is
/// a Raft.
pub(crate) trait Answering: Send + Sync + 'static {
    fn core(&self) -> Option<Arc<Core>>;
    fn hello(&self) -> Hello;
    fn join(&self, invitation: Invitation) -> BoxFuture<'_, Result<(), String>>;
}

/// Answers one call of a peer: 200 with a body, or a status with one line of text.
pub(crate) async fn answer(
    node: &dyn Answering,
    path: &str,
    body: &[u8],
) -> Result<Bytes, (StatusCode, String)> {
    let bad = |why: codec::Unreadable| (StatusCode::BAD_REQUEST, why.to_string());
    match path {
        "hello" => return codec::encode(FORMAT, &node.hello()).map_err(bad),
        "join" => {
            let invitation = codec::decode(FORMAT, body).map_err(bad)?;
            return codec::encode(FORMAT, &node.join(invitation).await).map_err(bad);
        }
        _ => {}
    }
    let Some(core) = node.core() else {
        return Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "this node does not belong to a cluster yet".into(),
        ));
    };
    if let Some(rpc) = path.strip_prefix("raft/") {
        let rpc = Rpc::ALL.into_iter().find(|known| known.as_str() == rpc);
        let Some(rpc) = rpc else {
            return Err((StatusCode::NOT_FOUND, "no such message".into()));
        };
        return core
            .raft
            .serve(rpc, body)
            .await
            .map_err(|why| (StatusCode::CONFLICT, why));
    }
    let ours = |cluster: ClusterId| {
        let why = || {
            format!(
                "this node belongs to cluster {}, the caller to {cluster}",
                core.cluster()
            )
        };
        if cluster == core.cluster() {
            Ok(())
        } else {
            Err((StatusCode::CONFLICT, why()))
        }
    };
    match path {
        "read-index" => {
            ours(codec::decode(FORMAT, body).map_err(bad)?)?;
            let index = core.raft.read_index().await.ok().map(|id| id.index);
            codec::encode(FORMAT, &index).map_err(bad)
        }
        "status" => {
            ours(codec::decode(FORMAT, body).map_err(bad)?)?;
            codec::encode(FORMAT, &own_status(&core)).map_err(bad)
        }
        "member" => {
            let call: MemberCall = codec::decode(FORMAT, body).map_err(bad)?;
            ours(call.cluster)?;
            let within = Duration::from_millis(call.within_ms).min(WAIT_MAX);
            let changed = match call.forwarded {
                true => {
                    core.change_member_here(call.node, call.change, within)
                        .await
                }
                false => core.change_member(call.node, call.change, within).await,
            };
            codec::encode(FORMAT, &changed).map_err(bad)
        }
        "applied" => {
            let call: AppliedCall = codec::decode(FORMAT, body).map_err(bad)?;
            ours(call.cluster)?;
            let within = Duration::from_millis(call.within_ms).min(WAIT_MAX);
            let applied = core.at_least(call.version, within).await.is_ok();
            codec::encode(FORMAT, &applied).map_err(bad)
        }
        "receipts" => {
            let call: ReceiptsCall = codec::decode(FORMAT, body).map_err(bad)?;
            ours(call.cluster)?;
            let within = Duration::from_millis(call.within_ms).min(WAIT_MAX);
            let said = core.say(&call.environment, call.version, Instant::now() + within);
            codec::encode(FORMAT, &said.await).map_err(bad)
        }
        "roll" => {
            let call: RollCall = codec::decode(FORMAT, body).map_err(bad)?;
            ours(call.cluster)?;
            let roll = core.hub.receipts().roll(call.known, core.now());
            codec::encode(FORMAT, &roll).map_err(bad)
        }
        "space" => {
            ours(codec::decode(FORMAT, body).map_err(bad)?)?;
            codec::encode(FORMAT, &core.space.report()).map_err(bad)
        }
        "judgement" => {
            let (cluster, reign): (ClusterId, Reign) = codec::decode(FORMAT, body).map_err(bad)?;
            ours(cluster)?;
            codec::encode(FORMAT, &core.judge(reign).await).map_err(bad)
        }
        "announce" => {
            let call: Announcement = codec::decode(FORMAT, body).map_err(bad)?;
            ours(call.cluster)?;
            core.peers.learn(&core.status().members, &call.member);
            let stored = timeout(WAIT_MAX, core.move_member(call.node, call.member)).await;
            codec::encode(FORMAT, &stored.unwrap_or(false)).map_err(bad)
        }
        "write" => {
            let call: WriteCall = codec::decode(FORMAT, body).map_err(bad)?;
            ours(call.cluster)?;
            let reply = forward::write(&core.writer, call.within_ms, call.request).await;
            codec::encode(FORMAT, &reply).map_err(bad)
        }
        "writes" => {
            let call: WritesCall = codec::decode(FORMAT, body).map_err(bad)?;
            ours(call.cluster)?;
            let replies = forward::write_all(&core.writer, call.writes).await;
            codec::encode(FORMAT, &replies).map_err(bad)
        }
        _ => Err((StatusCode::NOT_FOUND, "no such call".into())),
    }
}

/// What this node says of itself.
pub(crate) fn own_status(core: &Core) -> PeerStatus {
    let view = core.view();
    PeerStatus {
        node: core.node,
        version: view.version(),
        digest: view.digest().get(),
        staleness_ms: core.staleness().map(|age| age.as_millis() as u64),
        streams: core.hub.streams(),
        release: env!("CARGO_PKG_VERSION").into(),
        role: core.status().role.as_str().into(),
        complaint: core.complaint(),
        feature_level: view.features().level(),
    }
}
