//! A cluster of real processes on loopback: started, killed, paused, restarted, asked how it is.
//!
//! What must hold: every wait is for a condition and has a deadline, and a deadline that passes
//! says what was seen last and what the nodes wrote; all that was started is killed and waited for
//! when the cluster is dropped, also while a test panics; data of a failed test is kept and its
//! place printed.
//!
//! Left out: faults between nodes; `chaos/fleet.rs` has a proxy for each direction.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::failure::{Failure, Result, until};
use crate::http1::{Answer, Call};
use crate::places::Place;
use crate::process::Process;
use crate::{binary, ports, say};

/// How often a start is tried anew because somebody took a port.
const STARTS_MAX: usize = 5;
/// Longest wait for one answer while looking at a cluster.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What the text of a node that found its port taken says.
const PORT_TAKEN: &str = "in use";

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the nodes run; [`binary::pennon`] when nothing is said.
    pub binary: Option<PathBuf>,
    /// Longest wait until every node is ready.
    pub ready_max: Duration,
    /// More arguments for every node.
    pub arguments: Vec<String>,
    /// Where the data is; a directory that goes away with the cluster when there is none.
    pub data: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            binary: None,
            ready_max: Duration::from_secs(60),
            arguments: Vec::new(),
            data: None,
        }
    }
}

/// A node of the cluster.
#[derive(Debug)]
struct Node {
    name: String,
    api: String,
    process: Process,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its name.
    pub name: String,
    /// Its part.
    pub role: String,
    /// The term it is in.
    pub term: u64,
    /// The version it has applied.
    pub version: u64,
    /// The digest over everything at that version.
    pub digest: String,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // In this order: the processes end before their data goes.
    nodes: Vec<Node>,
    directory: Directory,
    options: Options,
    _place: Place,
}

impl Cluster {
    /// Starts this many nodes and waits until all are ready.
    ///
    /// # Errors
    /// When they are not in time; with what they wrote.
    pub async fn start(size: usize, options: Options) -> Result<Cluster> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => binary::pennon()?,
        };
        let place = Place::take().await?;
        let directory = Directory::new(options.data.as_deref())?;
        let binary = directory.keep_binary(&binary)?;
        let mut cluster = Cluster {
            nodes: Vec::new(),
            directory,
            options,
            _place: place,
        };
        let mut last = String::new();
        for _ in 0..STARTS_MAX {
            cluster.nodes = cluster.describe(size, &binary)?;
            for node in &mut cluster.nodes {
                node.process.start()?;
            }
            let ready_max = cluster.options.ready_max;
            match cluster.ready(ready_max).await {
                Ok(()) => return Ok(cluster),
                Err(why) => last = why.to_string(),
            }
            let taken = cluster
                .nodes
                .iter_mut()
                .any(|node| node.process.id().is_none())
                && cluster
                    .nodes
                    .iter()
                    .any(|node| node.process.output().contains(PORT_TAKEN));
            if !taken {
                break;
            }
            cluster.nodes.clear();
            cluster.directory.clear()?;
        }
        let text = cluster.outputs();
        cluster.directory.keep();
        Err(Failure::during(last, text))
    }

    fn describe(&self, size: usize, binary: &Path) -> Result<Vec<Node>> {
        let ports = ports::free(2 * size)?;
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let (api, peers) = ports.split_at(size);
        let join: Vec<String> = peers.iter().map(address).collect();
        let nodes = api.iter().zip(&join).enumerate().map(|(at, (api, peer))| {
            let (name, api) = (format!("n{}", at + 1), address(api));
            let data = self.directory.path().join(&name);
            let data = data.to_string_lossy();
            let (join, size) = (join.join(","), size.to_string());
            let arguments = [
                "serve",
                "--name",
                &name,
                "--data",
                &data,
                "--listen",
                &api,
                "--peer-listen",
                peer,
                "--join",
                &join,
                "--expect",
                &size,
            ];
            let more = self.options.arguments.iter().map(String::as_str);
            let log = self.directory.path().join(format!("{name}.log"));
            let process = Process::new(binary, arguments.into_iter().chain(more), log);
            Node { name, api, process }
        });
        Ok(nodes.collect())
    }

    /// How many nodes there are, running or not.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The API address of a node, `host:port`.
    pub fn address(&self, at: usize) -> &str {
        &self.nodes[at].api
    }

    /// All API addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.api.clone()).collect()
    }

    /// All URLs, for the client library.
    pub fn urls(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| format!("http://{}", node.api))
            .collect()
    }

    /// The data directory of a node.
    pub fn data(&self, at: usize) -> PathBuf {
        self.directory.path().join(&self.nodes[at].name)
    }

    /// The directory of the whole cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process of a node.
    pub fn process(&mut self, at: usize) -> &mut Process {
        &mut self.nodes[at].process
    }

    /// Kills a node (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        self.process(at).kill()
    }

    /// Kills every node that runs.
    pub fn kill_all(&mut self) {
        for node in &mut self.nodes {
            // Those that do not run need no killing.
            let _ = node.process.kill();
        }
    }

    /// Starts a node again with the same command line and waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn restart(&mut self, at: usize) -> Result<()> {
        self.process(at).start()?;
        let ready_max = self.options.ready_max;
        self.ready(ready_max).await
    }

    /// Starts every node that does not run and waits until all are ready.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn restart_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if !node.process.is_running() {
                node.process.start()?;
            }
        }
        let ready_max = self.options.ready_max;
        self.ready(ready_max).await
    }

    /// Waits until every node that is not paused and was not killed says that it is ready.
    ///
    /// # Errors
    /// When one of them ends, or does not say so in time.
    async fn ready(&mut self, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        for at in 0..self.nodes.len() {
            loop {
                let node = &mut self.nodes[at];
                let why = match look(&node.api, "/readyz").await {
                    Ok(answer) if answer.status == StatusCode::OK => break,
                    Ok(answer) => answer.shown(),
                    Err(why) => why.to_string(),
                };
                if !node.process.is_running() {
                    let text = node.process.output();
                    return Err(Failure::during(
                        format!("{} ended before it was ready", node.name),
                        text,
                    ));
                }
                if Instant::now() >= end {
                    return Err(Failure::during(
                        format!("{} is not ready within {within:?}", node.name),
                        why,
                    ));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// What every node that answers says of itself.
    ///
    /// # Errors
    /// When one of those that should answer does not.
    pub async fn said(&mut self) -> Result<Vec<Said>> {
        let mut all = Vec::new();
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.is_answering() {
                all.push(self.said_by(at).await?);
            }
        }
        Ok(all)
    }

    async fn said_by(&self, at: usize) -> Result<Said> {
        let Node { name, api, .. } = &self.nodes[at];
        let answer = look(api, "/v1/cluster").await?;
        let cluster = answer.json();
        let members = cluster["members"].as_array().cloned().unwrap_or_default();
        let me = members.into_iter().find(|member| member["name"] == **name);
        let said = me.and_then(|me| read_said(&cluster, &me));
        said.ok_or_else(|| {
            Failure::during(format!("{name} says nothing of itself"), answer.shown())
        })
    }

    /// Waits for a leader that says so itself, and returns where it is.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn leader(&mut self, within: Duration) -> Result<usize> {
        let end = Instant::now() + within;
        loop {
            let mut leaders = Vec::new();
            for at in 0..self.nodes.len() {
                if self.nodes[at].process.is_answering()
                    && let Ok(said) = self.said_by(at).await
                    && said.role == "leader"
                {
                    leaders.push((said.term, at));
                }
            }
            // One that was deposed may not know it yet.
            if let Some((_, at)) = leaders.into_iter().max() {
                return Ok(at);
            }
            if Instant::now() >= end {
                return Err(Failure::during(
                    format!("no leader within {within:?}"),
                    self.outputs(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all nodes that answer have the same digest at the same version (I4), and
    /// returns both.
    ///
    /// # Errors
    /// When they do not in time; at once when digests differ at one version.
    pub async fn converged(&mut self, within: Duration) -> Result<(u64, String)> {
        let end = Instant::now() + within;
        loop {
            let said = self.said().await;
            if let Ok(said) = &said {
                for (one, other) in said.iter().zip(said.iter().skip(1)) {
                    if one.version == other.version && one.digest != other.digest {
                        return Err(Failure::new(format!("digests differ: {said:?}"))); // I4
                    }
                }
                match said.first() {
                    Some(first) if said.iter().all(|one| one.version == first.version) => {
                        return Ok((first.version, first.digest.clone()));
                    }
                    _ => {}
                }
            }
            if Instant::now() >= end {
                return Err(Failure::new(format!(
                    "not converged within {within:?}: {said:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of what each node wrote.
    pub fn outputs(&self) -> String {
        let shown = self.nodes.iter().map(|node| {
            let text = node.process.output();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            format!(
                "\n--- {}\n{}",
                node.name,
                lines.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        });
        shown.collect()
    }

    /// Keeps the data when this is dropped.
    pub fn keep_data(&mut self) {
        self.directory.keep();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(self.outputs());
            self.directory.keep();
        }
        self.kill_all();
    }
}

async fn look(address: &str, path: &str) -> Result<Answer> {
    Call::get(path).to(address, ANSWER_MAX).await
}

fn read_said(cluster: &Value, me: &Value) -> Option<Said> {
    Some(Said {
        name: me["name"].as_str()?.to_owned(),
        role: me["role"].as_str()?.to_owned(),
        term: cluster["term"].as_u64()?,
        version: me["applied"].as_u64()?,
        digest: me["digest"].as_str()?.to_owned(),
    })
}

/// Waits until a request is answered with this status.
///
/// # Errors
/// With the last answer, when it is not in time.
pub async fn answered(
    call: &Call,
    address: &str,
    status: StatusCode,
    within: Duration,
) -> Result<Answer> {
    let ask = || async {
        match call.to(address, ANSWER_MAX).await {
            Ok(answer) if answer.status == status => Ok(answer),
            Ok(answer) => Err(answer.shown()),
            Err(why) => Err(why.to_string()),
        }
    };
    until(&format!("{status} from {address}"), within, ask).await
}

/// Where a cluster keeps everything.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Directory {
    fn new(given: Option<&Path>) -> Result<Directory> {
        if let Some(path) = given {
            std::fs::create_dir_all(path)?;
            return Ok(Directory {
                path: path.to_owned(),
                temporary: None,
            });
        }
        let temporary = tempfile::Builder::new().prefix("pennon-test-").tempdir()?;
        Ok(Directory {
            path: temporary.path().to_owned(),
            temporary: Some(temporary),
        })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Links the binary here, so that a build beside a running test changes nothing for it.
    fn keep_binary(&self, binary: &Path) -> Result<PathBuf> {
        let here = self.path.join("pennon");
        if std::fs::hard_link(binary, &here).is_err() {
            std::fs::copy(binary, &here)?;
        }
        Ok(here)
    }

    /// Removes what nodes have written.
    fn clear(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else if path.extension().is_some_and(|kind| kind == "log") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            say(format!(
                "data and logs are kept in {}",
                temporary.keep().display()
            ));
        }
    }
}
