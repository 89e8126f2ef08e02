//! The simulated cluster: nodes on their machines, kept alive as a supervisor would, and watched.
//!
//! Watching looks at what nodes are, not at what they say: two leaders in one term, or two states at
//! one version (I4), are seen whenever they exist for a moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pennon_evaluator::Digest;
use pennon_node::http::App;
use pennon_node::server::{Node, NodeOptions, Storage, Surroundings};
use pennon_raft_store::disk::MemoryDisk;
use pennon_raft_store::raft::Role;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::disk::SimDisk;
use super::host::{Clocks, Host};
use super::network::Wires;
use super::operator::{Operator, Step};
use super::swarm::Parameters;
use super::universe::{Power, Universe};
use crate::failure::Result;

const API: u16 = 7400;
const PEER: u16 = 7500;

/// Until a process that ended is started again, in milliseconds.
const SUPERVISOR_MS: u64 = 1_000;

/// What one life of a node tells the outside.
#[derive(Clone, Default)]
struct Handle(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    app: Option<Arc<App>>,
    /// It stopped as it was told to.
    stopped: bool,
    /// It ended by itself.
    failed: Option<String>,
}

impl Handle {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node.
pub(crate) struct Member {
    pub(crate) host: Host,
    /// What the next life finds.
    memory: MemoryDisk,
    pub(crate) disk: Option<SimDisk>,
    handle: Handle,
    stop: CancellationToken,
    /// When it is started again; none while a fault keeps it down.
    start_at_ms: Option<u64>,
    /// Faults that keep it down.
    pub(crate) held: u32,
    /// Its disk was made to fail in this life, so it may end by itself.
    pub(crate) excused: bool,
    /// It has lost everything once, and joins the cluster without a vote.
    joins: bool,
    last_log: u64,
    snapshot: u64,
}

impl Member {
    /// Its disk has space again, fails no more and keeps its power; also the one of its next life.
    pub(crate) fn heal_disk(&self) {
        for memory in self.disk.iter().map(SimDisk::memory).chain([&self.memory]) {
            memory.heal();
            memory.set_capacity(None);
        }
        if let Some(disk) = &self.disk {
            disk.keep_power();
        }
    }
}

/// What was seen of the nodes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    leaders: BTreeMap<u64, usize>,
    states: BTreeMap<u64, (Digest, usize)>,
    /// What must never be.
    pub(crate) wrong: Vec<String>,
}

pub(crate) struct Cluster {
    pub(crate) universe: Universe,
    pub(crate) parameters: Parameters,
    pub(crate) members: Vec<Member>,
    operator: Operator,
    /// A node that is to leave: and whether it is kept down until then.
    leaving: Option<(usize, bool)>,
    pub(crate) seen: Seen,
}

/// Where clients reach each node.
pub(crate) fn addresses(nodes: usize) -> Vec<String> {
    (0..nodes).map(|at| format!("n{at}:{API}")).collect()
}

impl Cluster {
    pub(crate) fn new(universe: &Universe, parameters: &Parameters) -> Cluster {
        let members = (0..parameters.nodes).map(|at| Member {
            host: Host::new(universe, &format!("n{at}"), parameters.seed),
            memory: MemoryDisk::new(),
            disk: None,
            handle: Handle::default(),
            stop: CancellationToken::new(),
            start_at_ms: Some(1 + at as u64 * 20),
            held: 0,
            excused: false,
            joins: false,
            last_log: 0,
            snapshot: 0,
        });
        let members: Vec<Member> = members.collect();
        let operator = Operator::new(universe, addresses(members.len()), parameters.seed);
        Cluster {
            universe: universe.clone(),
            parameters: parameters.clone(),
            members,
            operator,
            leaving: None,
            seen: Seen::default(),
        }
    }

    /// A millisecond in the life of all nodes.
    pub(crate) fn tick(&mut self, now_ms: u64) -> Result<()> {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            if member.start_at_ms.is_some_and(|start| start <= now_ms) && member.held == 0 {
                self.start(at)?;
            }
            self.members[at].host.tick();
            self.bury(at, now_ms);
        }
        self.operate(now_ms)?;
        if now_ms.is_multiple_of(20) {
            self.watch();
        }
        Ok(())
    }

    fn start(&mut self, at: usize) -> Result<()> {
        let parameters = &self.parameters;
        let options = NodeOptions {
            join: (0..parameters.nodes)
                .map(|at| format!("n{at}:{PEER}"))
                .collect(),
            expect: parameters.nodes as u32,
            learner: self.members[at].joins,
            raft: parameters.raft.clone(),
            segment_bytes: parameters.segment_bytes,
            min_free: parameters.min_free,
            broken: parameters.control.and_then(Control::of_nodes),
            ..NodeOptions::single(format!("n{at}"))
        };
        let member = &mut self.members[at];
        let disk = SimDisk::new(
            member.memory.clone(),
            member.host.machine,
            self.universe.clone(),
            member.host.roll(),
        );
        let disk = disk.that_takes(parameters.sync_ms);
        let disk = match parameters.control {
            Some(Control::Fsync) => disk.that_lies(),
            _ => disk,
        };
        member.disk = Some(disk.clone());
        member.handle = Handle::default();
        member.stop = CancellationToken::new();
        (member.start_at_ms, member.excused) = (None, false);
        (member.last_log, member.snapshot) = (u64::MAX, u64::MAX);
        let life = Life {
            options,
            disk,
            wires: Wires {
                universe: self.universe.clone(),
                machine: member.host.machine,
            },
            seed: member.host.roll(),
            handle: member.handle.clone(),
            stop: member.stop.clone(),
        };
        member.host.start(|clocks| life.live(clocks))
    }

    /// Cleans up after a life that ended by itself or with the power.
    fn bury(&mut self, at: usize, now_ms: u64) {
        let machine = self.members[at].host.machine;
        let doomed = {
            let mut state = self.universe.lock();
            let before = state.doomed.len();
            state.doomed.retain(|doomed| *doomed != machine);
            state.doomed.len() < before
        };
        if doomed {
            self.universe.count("fault power", 1);
            self.universe.count("power lost in the middle", 1);
            return self.end(at, Power::Off, now_ms);
        }
        let member = &self.members[at];
        let (stopped, failed) = {
            let told = member.handle.told();
            (told.stopped, told.failed.clone())
        };
        if !member.host.is_up() || !(stopped || failed.is_some()) {
            return;
        }
        if let Some(why) = failed {
            self.universe.note(format_args!("n{at} failed: {why}"));
            self.universe.count("nodes that ended by themselves", 1);
            if !member.excused {
                let wrong = format!("at {now_ms} ms n{at} ended by itself: {why}");
                self.seen.wrong.push(wrong);
            }
        }
        self.end(at, Power::NoProcess, now_ms);
    }

    /// Ends the life of a node; the supervisor starts it again when nothing holds it.
    pub(crate) fn end(&mut self, at: usize, power: Power, now_ms: u64) {
        let member = &mut self.members[at];
        if !member.host.is_up() {
            // A machine whose process was gone can still lose power.
            if power == Power::Off {
                self.universe.lock().machines[member.host.machine].power = Power::Off;
                member.memory = member.memory.crash_synced();
            }
            return;
        }
        // The power goes before the process notices anything.
        if power == Power::Off {
            self.universe.lock().machines[member.host.machine].mute = true;
            if let Some(disk) = &member.disk {
                member.memory = disk.without_power();
            }
        }
        member.host.end(power);
        if let Some(disk) = member.disk.take()
            && power != Power::Off
        {
            member.memory = disk.memory().copy();
        }
        member.handle = Handle::default();
        member.start_at_ms = Some(now_ms + SUPERVISOR_MS);
    }

    /// Begins to replace a node, if none is being replaced.
    pub(crate) fn replace(&mut self, at: usize, alive: bool, now_ms: u64) {
        if self.leaving.is_some() || !self.is_whole() {
            return;
        }
        if !alive {
            self.members[at].held += 1;
            self.end(at, Power::NoProcess, now_ms);
        }
        self.leaving = Some((at, !alive));
    }

    /// Whether nobody is on the way out of the cluster or into it.
    pub(crate) fn is_whole(&self) -> bool {
        self.leaving.is_none() && self.operator.is_idle()
    }

    /// What the operator does: a node leaves, is wiped, and gets a vote as another member.
    fn operate(&mut self, now_ms: u64) -> Result<()> {
        match self.operator.tick() {
            Some((at, Step::Leaves, old)) => {
                self.end(at, Power::NoProcess, now_ms);
                let member = &mut self.members[at];
                (member.memory, member.joins) = (MemoryDisk::new(), true);
                if self.leaving.take().is_some_and(|(_, held)| held) {
                    self.let_go(at, now_ms);
                }
                self.operator.begin(at, Step::Joins(old))
            }
            Some((at, Step::Joins(_), id)) => {
                self.universe.note(format_args!("n{at} is member {id:?}"));
                self.universe.count("fault members", 1);
                Ok(())
            }
            None => match self.leaving {
                Some((at, _)) if self.operator.is_idle() => self.operator.begin(at, Step::Leaves),
                _ => Ok(()),
            },
        }
    }

    /// Tells a node to stop; true when it is there to be told.
    pub(crate) fn tell_to_stop(&mut self, at: usize) -> bool {
        let member = &self.members[at];
        member.stop.cancel();
        member.host.is_up()
    }

    /// A node that nothing holds any more starts at once.
    pub(crate) fn let_go(&mut self, at: usize, now_ms: u64) {
        let member = &mut self.members[at];
        member.held = member.held.saturating_sub(1);
        if member.held == 0 && !member.host.is_up() {
            member.start_at_ms = Some(now_ms);
        }
    }

    fn app(&self, at: usize) -> Option<Arc<App>> {
        self.members[at].handle.told().app.clone()
    }

    /// The node that leads in the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leading = (0..self.members.len()).filter_map(|at| {
            let status = self.app(at)?.core()?.status();
            (status.role == Role::Leader).then_some((status.term, at))
        });
        leading.max().map(|(_, at)| at)
    }

    /// Version and digest of each node; none where there is no node or it belongs to nothing.
    pub(crate) fn states(&self) -> Vec<Option<(u64, Digest)>> {
        let state = |at| {
            let view = self.app(at)?.core()?.view();
            Some((view.version().get(), view.digest()))
        };
        (0..self.members.len()).map(state).collect()
    }

    /// Whether every node is there, in the same state, and follows one leader.
    pub(crate) fn converged(&self) -> bool {
        let states = self.states();
        let same = states
            .iter()
            .all(|state| state.is_some() && *state == states[0]);
        let leader = self
            .leader()
            .and_then(|at| Some(self.app(at)?.core()?.node()));
        let follows = |at| {
            let status = self.app(at)?.core()?.status();
            Some(status.leader == leader && status.members.len() == self.members.len())
        };
        let follow = (0..self.members.len()).all(|at| follows(at) == Some(true));
        same && leader.is_some() && follow
    }

    fn watch(&mut self) {
        for at in 0..self.members.len() {
            let Some(core) = self.app(at).and_then(|app| app.core()) else {
                continue;
            };
            let status = core.status();
            if status.role == Role::Leader {
                match self.seen.leaders.get(&status.term) {
                    None => {
                        self.seen.leaders.insert(status.term, at);
                        let mut state = self.universe.lock();
                        state.note(format_args!("n{at} leads term {}", status.term));
                        state.count("leaders", 1);
                    }
                    Some(other) if *other != at => self
                        .seen
                        .wrong
                        .push(format!("n{at} and n{other} both lead term {}", status.term)),
                    Some(_) => {}
                }
            }
            let view = core.view();
            let (version, digest) = (view.version().get(), view.digest());
            let (first, by) = *self.seen.states.entry(version).or_insert((digest, at));
            // I4
            if first != digest {
                self.seen.wrong.push(format!(
                    "at version {version} n{at} has the digest {digest:?}, n{by} {first:?}"
                ));
            }
            // That it is short of space is no fault of its own.
            let complaint = core.complaint();
            if let Some(complaint) = complaint.filter(|why| !why.contains("nearly full")) {
                self.seen
                    .wrong
                    .push(format!("n{at} complains: {complaint}"));
            }
            let member = &mut self.members[at];
            let purged = status.purged.unwrap_or(0);
            if purged > member.last_log {
                self.universe.count("snapshots installed", 1);
            }
            let snapshot = status.snapshot.unwrap_or(0);
            if snapshot > member.snapshot {
                self.universe.count("snapshots", 1);
            }
            (member.last_log, member.snapshot) = (status.last_log.unwrap_or(0), snapshot);
        }
        self.seen.wrong.dedup();
        self.seen.wrong.truncate(20);
    }

    /// The next term's worth of leaders so far.
    pub(crate) fn terms_led(&self) -> usize {
        self.seen.leaders.len()
    }
}

/// What one life of a node is given.
struct Life {
    options: NodeOptions,
    disk: SimDisk,
    wires: Wires,
    seed: u64,
    handle: Handle,
    stop: CancellationToken,
}

impl Life {
    async fn live(self, clocks: Clocks) {
        let surroundings = Surroundings {
            storage: Storage::Memory(Arc::new(self.disk)),
            clock: Arc::new(clocks),
            connect: Arc::new(self.wires.clone()),
            seed: self.seed,
            api: Box::new(self.wires.listen(API)),
            peer: Box::new(self.wires.listen(PEER)),
        };
        let node = match Node::start(self.options, surroundings).await {
            Ok(node) => node,
            Err(why) => {
                self.handle.told().failed = Some(format!("it does not start: {why}"));
                return;
            }
        };
        self.handle.told().app = Some(node.app().clone());
        tokio::select! {
            biased;
            why = node.failed() => self.handle.told().failed = Some(why),
            () = self.stop.cancelled() => {
                node.shutdown().await;
                self.handle.told().stopped = true;
            }
        }
    }
}
