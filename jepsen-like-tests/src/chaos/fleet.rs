//! The nodes of a run: real processes, each of which reaches every other by a door of its own.
//!
//! What must hold: all traffic between nodes, and from clients to nodes, goes over the [`Net`]; what
//! the harness itself asks goes straight, so that it sees a node that is cut off; one fault at a time
//! has a node's process ([`Fleet::claim`]); what starts and ends is written into the history, and a
//! node that ends although nobody ended it is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::casualties::Casualties;
use crate::failure::{Failure, Result};
use crate::history::{Event, NodeEvent, NodeStage, Recorder};
use crate::http1::Call;
use crate::ports;
use crate::process::Process;
use crate::proxy::Net;
use crate::shim::undo::Lost;
use crate::shim::{Control, Library};

/// Longest wait for one answer of a node about itself.
pub const LOOK_MAX: Duration = Duration::from_secs(3);

/// Who leads, as far as the harness knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The term.
    pub term: u64,
    /// Which node.
    pub at: usize,
}

/// What the harness has done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never started, or removed and wiped.
    Spare,
    /// It should run.
    Up,
    /// It was stopped where it is.
    Paused,
    /// It was ended.
    Down,
}

/// One node, running or not.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where it serves clients.
    pub api: SocketAddr,
    peer: SocketAddr,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Process,
    state: State,
    claimed: bool,
    /// Counts its starts.
    starts: u64,
    /// When it is started again, if it ended by itself.
    again: Option<Instant>,
}

/// How nodes are started.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The binary under test.
    pub binary: PathBuf,
    /// Where everything is kept.
    pub directory: PathBuf,
    /// How many form the cluster.
    pub size: usize,
    /// How many may join later.
    pub spares: usize,
    /// How many clients there are, each with a way of its own to every node.
    pub clients: usize,
    /// Entries between two snapshots of a node.
    pub snapshot_every: u64,
    /// More arguments for every node.
    pub arguments: Vec<String>,
    /// Seeds the jitter of links.
    pub seed: u64,
    /// What stands between nodes and the system, if anything does.
    pub library: Option<Library>,
    /// Nodes of which it keeps what is not synced.
    pub power: BTreeSet<usize>,
}

impl Layout {
    /// So many nodes and one client, with nothing between nodes and the system, and snapshots far apart.
    pub fn plain(binary: PathBuf, directory: PathBuf, size: usize) -> Layout {
        Layout {
            binary,
            directory,
            size,
            spares: 0,
            clients: 1,
            snapshot_every: 1_000,
            arguments: Vec::new(),
            seed: 1,
            library: None,
            power: BTreeSet::new(),
        }
    }
}

/// All nodes of a run. They are killed with it.
#[derive(Debug)]
pub struct Fleet {
    layout: Layout,
    members: Vec<Member>,
    net: Net,
    recorder: Recorder,
    leader: watch::Sender<Option<Leader>>,
    /// Orders to what stands between a node and the system.
    controls: BTreeMap<usize, Control>,
    /// Lines that a node wrote because of a fault that has it end.
    excused: Mutex<BTreeSet<String>>,
    /// What a node may say once, from this byte of its log on, because of what was done to it.
    expected: Mutex<Vec<(usize, usize, &'static str)>>,
    /// Nodes that ended although nobody ended them.
    casualties: Mutex<Casualties>,
}

/// The right to end, stop and start one node; given back when dropped.
#[derive(Debug)]
pub struct Claim<'a> {
    fleet: &'a Fleet,
    /// Which node.
    pub at: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.fleet.inner(self.at).claimed = false;
    }
}

/// The name of a client as a host of the network.
pub fn client_host(client: usize) -> String {
    format!("c{client}")
}

/// The names of all nodes of a run, spares last.
pub fn names(size: usize, spares: usize) -> Vec<String> {
    (1..=size + spares).map(|n| format!("n{n}")).collect()
}

impl Fleet {
    /// Opens all doors; no node is started.
    ///
    /// # Errors
    /// When ports run out or somebody takes one meanwhile.
    pub async fn new(layout: Layout, recorder: Recorder) -> Result<Fleet> {
        let names = names(layout.size, layout.spares);
        let net = Net::new(layout.seed);
        let count = names.len();
        let doors = count * (count - 1) + layout.clients * count;
        let ports = ports::free(2 * count + doors)?;
        let (own, mut doors) = (&ports[..2 * count], ports[2 * count..].iter());
        let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut members = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let (api, peer) = (address(own[at]), address(own[count + at]));
            for from in names.iter().filter(|from| *from != name) {
                let port = doors.next().copied().unwrap_or_default();
                net.open(from, name, port, peer).await?;
            }
            for client in 0..layout.clients {
                let port = doors.next().copied().unwrap_or_default();
                net.open(&client_host(client), name, port, api).await?;
            }
            let log = layout.directory.join(format!("{name}.log"));
            let inner = Inner {
                process: Process::new::<&str>("pennon", [], log),
                state: State::Spare,
                claimed: false,
                starts: 0,
                again: None,
            };
            members.push(Member {
                name: name.clone(),
                api,
                peer,
                inner: Mutex::new(inner),
            });
        }
        let controls = controls(&layout, &names)?;
        let casualties = Casualties::new(layout.seed);
        let fleet = Fleet {
            layout,
            members,
            net,
            recorder,
            leader: watch::channel(None).0,
            controls,
            excused: Mutex::default(),
            expected: Mutex::default(),
            casualties: Mutex::new(casualties),
        };
        for at in 0..fleet.members.len() {
            fleet.describe(at, at >= fleet.layout.size);
        }
        Ok(fleet)
    }

    /// Sets the command line of a node: one that forms the cluster, or one that joins it.
    pub fn describe(&self, at: usize, joins: bool) {
        let layout = &self.layout;
        let me = &self.members[at];
        let founders = &self.members[..layout.size];
        let join: Vec<String> = founders.iter().map(|one| one.peer.to_string()).collect();
        let others = self.members.iter().filter(|other| other.name != me.name);
        let via = others.filter_map(|other| {
            let door = self.net.door(&me.name, &other.name)?;
            Some(format!("{}={door}", other.peer))
        });
        let via: Vec<String> = via.collect();
        let data = self.data(at).to_string_lossy().into_owned();
        let mut arguments = vec!["serve".to_owned()];
        for (name, value) in [
            ("--name", me.name.clone()),
            ("--data", data),
            ("--listen", me.api.to_string()),
            ("--peer-listen", me.peer.to_string()),
            ("--join", join.join(",")),
            ("--peer-via", via.join(",")),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        match joins {
            true => arguments.push("--learner".to_owned()),
            false => arguments.extend(["--expect".to_owned(), layout.size.to_string()]),
        }
        arguments.extend([
            "--snapshot-every".to_owned(),
            layout.snapshot_every.to_string(),
        ]);
        arguments.extend(layout.arguments.iter().cloned());
        let log = layout.directory.join(format!("{}.log", me.name));
        let control = self.controls.get(&at);
        let environment = control.map(Control::environment).unwrap_or_default();
        let process = Process::new(&layout.binary, arguments, log);
        self.inner(at).process = process.with_environment(environment);
    }

    /// The network between all.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// All nodes, spares last.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How the run was laid out.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The history that everything is written into.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The name of a node.
    pub fn name(&self, at: usize) -> &str {
        &self.members[at].name
    }

    /// The data directory of a node.
    pub fn data(&self, at: usize) -> PathBuf {
        self.layout.directory.join(&self.members[at].name)
    }

    /// Where a client reaches the nodes that formed the cluster.
    pub fn ways(&self, client: usize) -> Vec<String> {
        let host = client_host(client);
        let founders = self.members[..self.layout.size].iter();
        let doors = founders.filter_map(|member| self.net.door(&host, &member.name));
        doors.map(|door| door.to_string()).collect()
    }

    /// Where nodes listen for each other, past all proxies.
    pub fn peers(&self) -> Vec<String> {
        let founders = self.members[..self.layout.size].iter();
        founders.map(|member| member.peer.to_string()).collect()
    }

    /// Nodes in this state that no fault has.
    pub fn free(&self, state: State) -> Vec<usize> {
        let all = 0..self.members.len();
        all.filter(|at| {
            let inner = self.inner(*at);
            inner.state == state && !inner.claimed
        })
        .collect()
    }

    /// Nodes that should run, those that a fault has and those that ended by themselves included.
    pub fn alive(&self) -> Vec<usize> {
        let all = 0..self.members.len();
        all.filter(|at| {
            let inner = self.inner(*at);
            inner.state == State::Up || inner.again.is_some()
        })
        .collect()
    }

    /// What was done with a node.
    pub fn state(&self, at: usize) -> State {
        self.inner(at).state
    }

    /// Takes a node for one fault; `None` while another has it.
    pub fn claim(&self, at: usize) -> Option<Claim<'_>> {
        let mut inner = self.inner(at);
        if inner.claimed {
            return None;
        }
        inner.claimed = true;
        Some(Claim { fleet: self, at })
    }

    /// Starts a node.
    ///
    /// # Errors
    /// When it runs, or the system does not start it.
    pub fn start(&self, at: usize) -> Result<()> {
        self.start_with(at, &mut self.inner(at))
    }

    fn start_with(&self, at: usize, inner: &mut Inner) -> Result<()> {
        inner.again = None;
        // Before the process: whatever it does comes after.
        self.note(at, NodeStage::Started);
        inner.process.start()?;
        inner.state = State::Up;
        inner.starts += 1;
        Ok(())
    }

    /// Kills a node (SIGKILL) and returns the process id it had.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, at: usize) -> Result<u32> {
        let mut inner = self.inner(at);
        let led = self.leader().is_some_and(|leader| leader.at == at);
        let id = inner
            .process
            .id()
            .ok_or_else(|| Failure::new(format!("{} does not run", self.members[at].name)))?;
        inner.state = State::Down;
        inner.process.kill()?;
        self.forget(at);
        let how = "killed".into();
        self.note(at, NodeStage::Ended { how, led });
        Ok(id)
    }

    /// Kills every node that runs; the run is over.
    pub fn kill_all(&self) {
        for at in 0..self.members.len() {
            // Those that do not run need no killing.
            let _ = self.inner(at).process.kill();
        }
    }

    /// Notes that a node has ended because a fault had it end; whether it had.
    pub fn has_ended(&self, at: usize, how: &str) -> bool {
        let mut inner = self.inner(at);
        if inner.process.is_running() {
            return false;
        }
        let led = self.leader().is_some_and(|leader| leader.at == at);
        inner.state = State::Down;
        inner.again = None;
        drop(inner);
        self.forget(at);
        let how = how.into();
        self.note(at, NodeStage::Ended { how, led });
        true
    }

    /// Orders to what stands between a node and the system; `None` when nothing does.
    pub fn control(&self, at: usize) -> Option<&Control> {
        self.controls.get(&at)
    }

    /// Takes what a node that does not run had not synced, as a power cut does.
    ///
    /// # Errors
    /// When it cannot be taken, or nothing was kept of this node.
    pub fn cut_power(&self, at: usize, random: &mut StdRng) -> Result<Lost> {
        let control = self.controls.get(&at);
        let control = control.ok_or_else(|| Failure::new("what is not synced was not kept"))?;
        control.cut_power(random)
    }

    /// Takes all that a node wrote as synced: its files were changed behind its back.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn forget_unsynced(&self, at: usize) -> Result<()> {
        self.controls.get(&at).map_or(Ok(()), Control::forget)
    }

    /// Takes no offence at what a node wrote from this byte of its log on, as far as it says that it
    /// stops; returns those lines.
    pub fn excuse(&self, at: usize, from: usize, what: &[&str]) -> Vec<String> {
        let log = self.log(at);
        let lines = log.get(from..).unwrap_or_default().lines();
        let found = lines.filter(|line| what.iter().any(|what| line.contains(what)));
        let found: Vec<String> = found.map(str::to_owned).collect();
        let mut excused = self.excused.lock().unwrap_or_else(PoisonError::into_inner);
        excused.extend(found.iter().cloned());
        found
    }

    /// Takes no offence at the first line with this in it that a node writes from this byte of its log on,
    /// whenever that is, nor at others before it is ready again.
    pub fn expect_once(&self, at: usize, from: usize, what: &'static str) {
        let expected = self.expected.lock();
        let mut expected = expected.unwrap_or_else(PoisonError::into_inner);
        expected.push((at, from, what));
    }

    /// What a node may say once, each from a byte of its log on.
    pub fn expected(&self, at: usize) -> Vec<(usize, &'static str)> {
        let expected = self.expected.lock();
        let expected = expected.unwrap_or_else(PoisonError::into_inner);
        let of_node = expected.iter().filter(|(of, ..)| *of == at);
        of_node.map(|(_, from, what)| (*from, *what)).collect()
    }

    /// Whether a line was excused.
    pub fn is_excused(&self, line: &str) -> bool {
        let excused = self.excused.lock().unwrap_or_else(PoisonError::into_inner);
        excused.contains(line)
    }

    /// Asks a node to stop and waits until it has.
    ///
    /// # Errors
    /// When it does not within the time; it is killed then.
    pub async fn stop(&self, at: usize, within: Duration) -> Result<()> {
        let mut process = {
            let mut inner = self.inner(at);
            inner.state = State::Down;
            inner.process.terminate()?;
            std::mem::replace(&mut inner.process, Process::new::<&str>("", [], ""))
        };
        let ended = process.ended(within).await;
        if ended.is_err() {
            // It is over either way.
            let _ = process.kill();
        }
        self.inner(at).process = process;
        self.forget(at);
        // It hands its leadership over first.
        let led = false;
        let how = match &ended {
            Ok(status) => status.to_string().into(),
            Err(_) => "killed: it did not stop".into(),
        };
        self.note(at, NodeStage::Ended { how, led });
        ended.map(drop)
    }

    /// Stops a node where it is (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, at: usize) -> Result<()> {
        let mut inner = self.inner(at);
        inner.process.pause()?;
        inner.state = State::Paused;
        Ok(())
    }

    /// Lets a node go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, at: usize) -> Result<()> {
        let mut inner = self.inner(at);
        inner.process.resume()?;
        inner.state = State::Up;
        Ok(())
    }

    /// The process id of a node while it runs.
    pub fn process_id(&self, at: usize) -> Option<u32> {
        self.inner(at).process.id()
    }

    /// How often a node was started.
    pub fn starts(&self, at: usize) -> u64 {
        self.inner(at).starts
    }

    /// Says that a node does not run and may: it was wiped, or it refused its data.
    pub fn set_state(&self, at: usize, state: State) {
        let mut inner = self.inner(at);
        inner.state = state;
        inner.again = None;
    }

    /// What a node wrote so far, the end of it.
    pub fn output(&self, at: usize) -> String {
        self.inner(at).process.output()
    }

    /// Everything a node wrote.
    pub fn log(&self, at: usize) -> String {
        let log = self
            .layout
            .directory
            .join(format!("{}.log", self.members[at].name));
        String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
    }

    /// Removes everything that a node keeps, inside its directory.
    ///
    /// # Errors
    /// When the system does not.
    pub fn wipe(&self, at: usize) -> Result<()> {
        for entry in std::fs::read_dir(self.data(at))? {
            let path = entry?.path();
            match path.is_dir() {
                true => std::fs::remove_dir_all(path)?,
                false => std::fs::remove_file(path)?,
            }
        }
        self.forget_unsynced(at)
    }

    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<Leader> {
        *self.leader.borrow()
    }

    /// Who leads, to wait on.
    pub fn leaders(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    /// Asks a node, past all proxies.
    ///
    /// # Errors
    /// When it does not answer in time, or not with JSON.
    pub async fn ask(&self, at: usize, call: &Call, within: Duration) -> Result<Value> {
        let answer = call.to(&self.members[at].api.to_string(), within).await?;
        match answer.status.is_success() {
            true => Ok(answer.json()),
            false => Err(Failure::new(answer.shown())),
        }
    }

    /// What went wrong with processes by themselves.
    pub fn casualties(&self) -> Vec<String> {
        self.dead().lines()
    }

    /// Looks at one node again and again: whether it is ready, whether it leads, whether it still
    /// runs. Runs until it is dropped.
    pub async fn watch(&self, at: usize) {
        let mut ready = 0;
        let mut led = BTreeSet::new();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.look_for_death(at);
            let (state, starts) = {
                let inner = self.inner(at);
                (inner.state, inner.starts)
            };
            if state != State::Up {
                continue;
            }
            if ready < starts && self.is_ready(at).await {
                ready = starts;
                self.dead().is_ready(at);
                self.note(at, NodeStage::Ready);
            }
            let call = Call::get("/v1/cluster");
            let Ok(cluster) = self.ask(at, &call, LOOK_MAX).await else {
                continue;
            };
            if let Some(term) = leads(&cluster, &self.members[at].name) {
                self.note_leader(Leader { term, at });
                if led.insert(term) {
                    self.note(at, NodeStage::Leads { term });
                }
            }
        }
    }

    /// Whether a node says that it is ready.
    pub async fn is_ready(&self, at: usize) -> bool {
        self.ask(at, &Call::get("/readyz"), LOOK_MAX).await.is_ok()
    }

    /// Notices a node that has ended by itself, and starts it again after a while: the run goes on with it.
    fn look_for_death(&self, at: usize) {
        let mut inner = self.inner(at);
        if inner.claimed {
            return;
        }
        let name = &self.members[at].name;
        if inner.state == State::Up && !inner.process.is_running() {
            inner.state = State::Down;
            let output = inner.process.output();
            let last: Vec<&str> = output.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let pause = self.dead().ended(at, name, last.join(" | "));
            inner.again = Some(Instant::now() + pause);
            self.forget(at);
            let how = "by itself".into();
            self.note(at, NodeStage::Ended { how, led: false });
        } else if inner.again.is_some_and(|again| again <= Instant::now())
            && let Err(why) = self.start_with(at, &mut inner)
        {
            self.dead().starts_not(name, why.to_string());
        }
    }

    fn note_leader(&self, leader: Leader) {
        self.leader.send_if_modified(|known| {
            let newer = known.is_none_or(|known| known.term < leader.term || known.at == leader.at);
            let changes = newer && *known != Some(leader);
            if changes {
                *known = Some(leader);
            }
            changes
        });
    }

    /// Who is gone leads no more.
    fn forget(&self, at: usize) {
        self.leader.send_if_modified(|known| {
            let was = known.is_some_and(|known| known.at == at);
            if was {
                *known = None;
            }
            was
        });
    }

    fn note(&self, at: usize, stage: NodeStage) {
        self.recorder.add_event(Event::Node(NodeEvent {
            at: self.recorder.now(),
            node: u32::try_from(at).unwrap_or(u32::MAX),
            stage,
        }));
    }

    fn inner(&self, at: usize) -> MutexGuard<'_, Inner> {
        let inner = &self.members[at].inner;
        inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dead(&self) -> MutexGuard<'_, Casualties> {
        self.casualties
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The orders to all nodes.
fn controls(layout: &Layout, names: &[String]) -> Result<BTreeMap<usize, Control>> {
    let Some(library) = &layout.library else {
        return Ok(BTreeMap::new());
    };
    let made = names.iter().enumerate().map(|(at, name)| {
        let data = layout.directory.join(name);
        Ok((
            at,
            Control::new(library, &data, layout.power.contains(&at))?,
        ))
    });
    made.collect()
}

/// The term in which this node leads, by its own words.
fn leads(cluster: &Value, name: &str) -> Option<u64> {
    let members = cluster["members"].as_array()?;
    let me = members.iter().find(|member| member["name"] == *name)?;
    (me["role"] == "leader")
        .then(|| cluster["term"].as_u64())
        .flatten()
}

/// Links the binary into a directory, so that a build beside a run changes nothing for it.
///
/// # Errors
/// When it can neither be linked nor copied.
pub fn keep_binary(binary: &Path, directory: &Path) -> Result<PathBuf> {
    let here = directory.join("pennon");
    if std::fs::hard_link(binary, &here).is_err() {
        std::fs::copy(binary, &here)?;
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_refuses_to_start_is_tried_ever_more_rarely_and_is_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::plain("false".into(), directory.path().to_owned(), 1);
        let fleet = Fleet::new(layout, Recorder::default()).await.unwrap();
        fleet.start(0).unwrap();
        for _ in 0..600 {
            while fleet.process_id(0).is_some() {
                std::thread::yield_now();
            }
            fleet.look_for_death(0);
            assert_eq!(fleet.alive(), [0], "it should run");
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let starts = fleet.starts(0);
        assert!((30..80).contains(&starts), "{starts} starts in a minute");
        let said = fleet.casualties();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&format!("{starts} times")), "{said:?}");
        // Whoever mends everything waits for nothing.
        while fleet.state(0) == State::Up {
            fleet.look_for_death(0);
        }
        crate::chaos::finish::mend(&fleet).unwrap();
        assert_eq!(fleet.starts(0), starts + 1);
    }
}
