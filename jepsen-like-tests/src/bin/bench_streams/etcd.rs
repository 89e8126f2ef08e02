//! etcd for comparison: three members on loopback, started here and gone with it, spoken to in
//! HTTP/2 and gRPC by hand (`grpc.rs`).
//!
//! A watcher is one connection with one watch, in one task: nothing stands between the bytes and
//! the moment at which an event is decoded. Left out: everything that etcd's own clients add.

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use jepsen_like_tests::process::Process;
use jepsen_like_tests::{Failure, Result, ports, until};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::board::Seat;
use crate::grpc::{self, MemberStatus, Unframer};
use crate::store::{ANSWER_MAX, Via};

/// What is watched and put.
pub(crate) const KEY: &[u8] = b"flags/bench/flag-0";
const BINARY: &str = "etcd";
const READY_MAX: Duration = Duration::from_secs(30);

/// Says which release is installed; `None` where there is none.
pub(crate) fn installed() -> Option<String> {
    let run = std::process::Command::new(BINARY).arg("--version").output();
    let text = String::from_utf8(run.ok()?.stdout).ok()?;
    let version = text.lines().next()?.strip_prefix("etcd Version: ")?;
    Some(version.to_owned())
}

/// Three members.
pub(crate) struct Etcd {
    // In this order: the processes end before their data goes.
    members: Vec<Process>,
    addresses: Vec<String>,
    pub(crate) leader: usize,
    _directory: TempDir,
}

impl Etcd {
    /// Starts three members with their data beside that of the nodes, on the same disk.
    pub(crate) async fn start(beside: &Path) -> Result<Etcd> {
        let parent = beside.parent().unwrap_or(beside);
        let directory = tempfile::Builder::new()
            .prefix("pennon-bench-etcd-")
            .tempdir_in(parent)?;
        let ports = ports::free(6)?;
        let (api, peers) = ports.split_at(3);
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(at, port)| format!("e{at}=http://127.0.0.1:{port}"))
            .collect();
        let members = api.iter().zip(peers).enumerate().map(|(at, (api, peer))| {
            let (api, peer) = (
                format!("http://127.0.0.1:{api}"),
                format!("http://127.0.0.1:{peer}"),
            );
            let name = format!("e{at}");
            let data = directory.path().join(&name).to_string_lossy().into_owned();
            let arguments = [
                ("--name", name.clone()),
                ("--data-dir", data),
                ("--listen-client-urls", api.clone()),
                ("--advertise-client-urls", api),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", cluster.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
                ("--logger", "zap".to_owned()),
                ("--log-level", "error".to_owned()),
            ];
            let arguments = arguments
                .into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value]);
            Process::new(
                BINARY,
                arguments,
                directory.path().join(format!("{name}.log")),
            )
        });
        let mut etcd = Etcd {
            members: members.collect(),
            addresses: api.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
            leader: 0,
            _directory: directory,
        };
        for member in &mut etcd.members {
            member.start()?;
        }
        etcd.leader = etcd.find_leader().await?;
        Ok(etcd)
    }

    /// Where the member is that all say leads.
    pub(crate) async fn find_leader(&mut self) -> Result<usize> {
        let addresses = &self.addresses;
        let look = || async move {
            let mut said = Vec::new();
            for address in addresses {
                said.push(status(address).await.map_err(|why| why.to_string())?);
            }
            let leads = |one: &MemberStatus| said.iter().all(|s| s.leader == one.header.member);
            said.iter()
                .position(leads)
                .ok_or_else(|| format!("{said:?}"))
        };
        let found = until("a leader of etcd", READY_MAX, look).await;
        found.map_err(|why| {
            let outputs: Vec<String> = self.members.iter().map(Process::output).collect();
            Failure::during(why, outputs.join("\n"))
        })
    }

    pub(crate) fn address(&self, at: usize) -> &str {
        &self.addresses[at]
    }

    /// Members that do not lead, then the one that does.
    pub(crate) fn in_turn(&self) -> [usize; 3] {
        [
            (self.leader + 1) % 3,
            (self.leader + 2) % 3,
            self.leader % 3,
        ]
    }

    pub(crate) fn id(&mut self, at: usize) -> Option<u32> {
        self.members[at].id()
    }

    pub(crate) fn ids(&mut self) -> Vec<u32> {
        self.members.iter_mut().filter_map(Process::id).collect()
    }

    pub(crate) async fn writers(&self) -> Result<Writers> {
        let [follower, _, leader] = self.in_turn();
        Ok(Writers {
            follower: Caller::open(self.address(follower)).await?,
            leader: Caller::open(self.address(leader)).await?,
        })
    }
}

async fn status(address: &str) -> Result<MemberStatus> {
    let mut caller = Caller::open(address).await?;
    let answer = caller
        .call("Maintenance/Status", grpc::status_request())
        .await?;
    grpc::read_member_status(&answer)
}

/// A connection to each kind of member.
pub(crate) struct Writers {
    follower: Caller,
    leader: Caller,
}

impl Writers {
    /// Puts a value as long as a small policy; returns its revision.
    pub(crate) async fn put(&mut self, via: Via, on: bool) -> Result<u64> {
        let value = format!(r#"{{"enabled":{on},"default":{{"variant":"on"}}}}"#);
        let caller = match via {
            Via::Follower => &mut self.follower,
            Via::Leader => &mut self.leader,
        };
        let request = grpc::put_request(KEY, value.as_bytes());
        let answer = caller.call("KV/Put", request).await?;
        Ok(grpc::read_put_answer(&answer)?.revision)
    }
}

/// A connection for one call at a time.
struct Caller {
    sender: SendRequest<Bytes>,
    address: String,
    driver: AbortHandle,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Caller {
    async fn open(address: &str) -> Result<Caller> {
        let (sender, connection) = connect(address).await?;
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer hears of its end.
            let _ = connection.await;
        });
        Ok(Caller {
            sender,
            address: address.to_owned(),
            driver: driver.abort_handle(),
        })
    }

    /// Sends one message and reads the one that answers it.
    async fn call(&mut self, method: &str, message: Bytes) -> Result<Bytes> {
        let exchange = async {
            let mut sender = self.sender.clone().ready().await.map_err(Failure::new)?;
            let (response, mut body) = sender
                .send_request(request(&self.address, method)?, false)
                .map_err(Failure::new)?;
            body.send_data(message, true).map_err(Failure::new)?;
            let (head, mut body) = response.await.map_err(Failure::new)?.into_parts();
            check_status(&head.headers)?;
            let mut unframer = Unframer::default();
            while let Some(data) = body.data().await {
                take(&mut body, &mut unframer, data)?;
            }
            let trailers = body.trailers().await.map_err(Failure::new)?;
            check_status(&trailers.unwrap_or_default())?;
            unframer
                .pull()?
                .ok_or_else(|| Failure::new("an answer without a message"))
        };
        match tokio::time::timeout(ANSWER_MAX, exchange).await {
            Ok(answer) => answer.map_err(|why| Failure::during(method, why)),
            Err(_) => Err(Failure::new(format!(
                "{method}: no answer within {ANSWER_MAX:?}"
            ))),
        }
    }
}

/// Watches the key and reports each event's revision; ends with the reason why it cannot go on.
/// Says when the watch stands.
pub(crate) async fn watch(address: String, mut seat: Seat, ready: oneshot::Sender<()>) -> Failure {
    let mut ready = Some(ready);
    match watch_on(&address, &mut seat, &mut ready).await {
        Ok(()) => Failure::new("the watch ended"),
        Err(why) => why,
    }
}

async fn watch_on(
    address: &str,
    seat: &mut Seat,
    ready: &mut Option<oneshot::Sender<()>>,
) -> Result<()> {
    let (mut sender, connection) = connect(address).await?;
    tokio::pin!(connection);
    let (response, mut request_body): (_, SendStream<Bytes>) = sender
        .send_request(request(address, "Watch/Watch")?, false)
        .map_err(Failure::new)?;
    request_body
        .send_data(grpc::watch_request(KEY), false)
        .map_err(Failure::new)?;
    let response = beside(connection.as_mut(), response).await?;
    let (head, mut body) = response.map_err(Failure::new)?.into_parts();
    check_status(&head.headers)?;
    let mut unframer = Unframer::default();
    while let Some(data) = beside(connection.as_mut(), body.data()).await? {
        take(&mut body, &mut unframer, data)?;
        while let Some(message) = unframer.pull()? {
            let answer = grpc::read_watch_answer(&message)?;
            if answer.canceled {
                return Err(Failure::new("the member canceled the watch"));
            }
            if let Some(revision) = answer.events.last() {
                seat.saw(*revision);
            }
            if let (true, Some(ready)) = (answer.created, ready.take()) {
                // Who opened it may have given up.
                let _ = ready.send(());
            }
        }
    }
    Ok(())
}

/// Waits for something that needs the connection to be driven.
async fn beside<C, T>(connection: Pin<&mut C>, work: impl Future<Output = T>) -> Result<T>
where
    C: Future<Output = Result<(), h2::Error>>,
{
    tokio::select! {
        biased;
        ended = connection => Err(match ended {
            Ok(()) => Failure::new("the member closed the connection"),
            Err(why) => Failure::new(why),
        }),
        done = work => Ok(done),
    }
}

async fn connect(
    address: &str,
) -> Result<(
    SendRequest<Bytes>,
    impl Future<Output = Result<(), h2::Error>> + use<>,
)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Builder::new().handshake(stream).await.map_err(Failure::new)
}

fn request(address: &str, method: &str) -> Result<Request<()>> {
    Request::post(format!("http://{address}/etcdserverpb.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(Failure::new)
}

/// Takes bytes that came and lets as many more come.
fn take(
    body: &mut RecvStream,
    unframer: &mut Unframer,
    data: Result<Bytes, h2::Error>,
) -> Result<()> {
    let data = data.map_err(Failure::new)?;
    let flow = body.flow_control();
    flow.release_capacity(data.len()).map_err(Failure::new)?;
    unframer.push(&data);
    Ok(())
}

/// A status of gRPC other than zero, wherever it stands.
fn check_status(headers: &HeaderMap) -> Result<()> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            let text = headers.get("grpc-message").and_then(|m| m.to_str().ok());
            Err(Failure::new(format!(
                "etcd refuses with status {status:?}: {}",
                text.unwrap_or_default()
            )))
        }
        _ => Ok(()),
    }
}

/// Watchers with one connection each, for as long as this lives.
pub(crate) struct Watchers {
    tasks: tokio::task::JoinSet<Failure>,
}

impl Watchers {
    /// Opens a watcher for each address, some at a time, and waits until all watches stand.
    pub(crate) async fn open(
        addresses: impl IntoIterator<Item = String>,
        seat: impl Fn(usize) -> Seat,
        at_a_time: usize,
    ) -> Result<Watchers> {
        let mut tasks = tokio::task::JoinSet::new();
        let mut opening = std::collections::VecDeque::new();
        let end = Instant::now() + ANSWER_MAX;
        for (n, address) in addresses.into_iter().enumerate() {
            let (ready, standing) = oneshot::channel();
            tasks.spawn(watch(address, seat(n), ready));
            opening.push_back(standing);
            if opening.len() >= at_a_time
                && let Some(standing) = opening.pop_front()
            {
                stands(&mut tasks, standing, end).await?;
            }
        }
        for standing in opening {
            stands(&mut tasks, standing, end).await?;
        }
        Ok(Watchers { tasks })
    }

    /// Fails with the reason of the first watcher that ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(ended.map_err(Failure::new)?),
        }
    }
}

async fn stands(
    tasks: &mut tokio::task::JoinSet<Failure>,
    standing: oneshot::Receiver<()>,
    end: Instant,
) -> Result<()> {
    let within = end.saturating_duration_since(Instant::now());
    match tokio::time::timeout(within, standing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => match tasks.join_next().await {
            Some(ended) => Err(ended.map_err(Failure::new)?),
            None => Err(Failure::new("a watcher is gone")),
        },
        Err(_) => Err(Failure::new("opening watches takes too long")),
    }
}
