//! etcd for comparison: three members on loopback, started here and gone with it, spoken to in
//! HTTP/2 and gRPC by hand (`grpc.rs`).
//!
//! Left out: everything that etcd's own clients add.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Request};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::Asked;
use super::grpc::{self, MemberStatus, Unframer};
use crate::process::Process;
use crate::{Failure, Result, ports, say, until};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
const BINARY: &str = "etcd";
const READY_MAX: Duration = Duration::from_secs(30);

/// Says which release is installed; `None` where there is none.
fn installed() -> Option<String> {
    let run = std::process::Command::new(BINARY).arg("--version").output();
    let text = String::from_utf8(run.ok()?.stdout).ok()?;
    let version = text.lines().next()?.strip_prefix("etcd Version: ")?;
    Some(version.to_owned())
}

/// Three members.
pub struct Etcd {
    // In this order: the processes end before their data goes.
    members: Vec<Process>,
    addresses: Vec<String>,
    /// Which of them leads.
    pub leader: usize,
    _directory: TempDir,
}

impl Etcd {
    /// Starts it as [`Etcd::start`] does where it is installed and may be compared with, and writes its
    /// release to the `environment` of a report.
    pub async fn if_asked(
        asked: &Asked,
        beside: &Path,
        environment: &mut Value,
    ) -> Result<Option<Etcd>> {
        match (asked.without_etcd, installed()) {
            (true, _) => Ok(None),
            (false, None) => {
                say("etcd is not installed: there is nothing to compare with");
                Ok(None)
            }
            (false, Some(release)) => {
                environment["etcd"] = release.into();
                Etcd::start(beside).await.map(Some)
            }
        }
    }

    /// Starts three members with their data beside that of the nodes, on the same disk.
    pub async fn start(beside: &Path) -> Result<Etcd> {
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
    pub async fn find_leader(&mut self) -> Result<usize> {
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

    /// Where a member is reached.
    pub fn address(&self, at: usize) -> &str {
        &self.addresses[at]
    }

    /// Members that do not lead, then the one that does.
    pub fn in_turn(&self) -> [usize; 3] {
        [
            (self.leader + 1) % 3,
            (self.leader + 2) % 3,
            self.leader % 3,
        ]
    }

    /// The process id of a member.
    pub fn id(&mut self, at: usize) -> Option<u32> {
        self.members[at].id()
    }

    /// Kills a member (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        self.members[at].kill()
    }

    /// Starts a member again on its data.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        self.members[at].start()
    }

    /// The process ids of all members.
    pub fn ids(&mut self) -> Vec<u32> {
        self.members.iter_mut().filter_map(Process::id).collect()
    }
}

async fn status(address: &str) -> Result<MemberStatus> {
    let mut caller = Caller::open(address).await?;
    let answer = caller
        .call("Maintenance/Status", grpc::status_request())
        .await?;
    grpc::read_member_status(&answer)
}

/// A connection for one call at a time.
pub struct Caller {
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
    /// Connects to a member.
    ///
    /// # Errors
    /// When that fails.
    pub async fn open(address: &str) -> Result<Caller> {
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
    ///
    /// # Errors
    /// When etcd refuses, or does not answer in time.
    pub async fn call(&mut self, method: &str, message: Bytes) -> Result<Bytes> {
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

/// Waits for something that needs the connection to be driven.
pub async fn beside<C, T>(connection: Pin<&mut C>, work: impl Future<Output = T>) -> Result<T>
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

/// Opens a connection, and what drives it.
///
/// # Errors
/// When that fails.
pub async fn connect(
    address: &str,
) -> Result<(
    SendRequest<Bytes>,
    impl Future<Output = Result<(), h2::Error>> + use<>,
)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Builder::new().handshake(stream).await.map_err(Failure::new)
}

/// The head of a request.
///
/// # Errors
/// When the method is none.
pub fn request(address: &str, method: &str) -> Result<Request<()>> {
    Request::post(format!("http://{address}/etcdserverpb.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(Failure::new)
}

/// Takes bytes that came and lets as many more come.
pub fn take(
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
pub fn check_status(headers: &HeaderMap) -> Result<()> {
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
