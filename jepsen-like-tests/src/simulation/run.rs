//! One seed from beginning to end: faults while clients work, then healing, then the reckoning.
//!
//! 1. The cluster forms; clients read and write.
//! 2. For the time that was asked for, faults begin and end.
//! 3. Everything is healed. Within [`RECOVER_MS`] a write must be acknowledged, and all nodes must be
//!    in one state behind one leader.
//! 4. Clients stop; every register is read through every node; the history is judged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::clients::Clients;
use super::cluster::{Cluster, addresses};
use super::faults::Faults;
use super::swarm::{Parameters, Planned};
use super::trace::Trace;
use super::universe::Universe;
use crate::checkers::judge::{self, Demand};
use crate::failure::Result;
use crate::history::{Header, Outcome, Recorder};

/// After healing, until writes go on and all nodes are in one state.
const RECOVER_MS: u64 = 10_000;

/// Longest time, from healing, until a node that is being replaced is a member again.
const REPLACED_MS: u64 = 30_000;

/// After that clients go on for as long, without faults.
const CALM_MS: u64 = 2_000;

/// Longest time for the last reads.
const LAST_READS_MS: u64 = 20_000;

/// A run of fewer acknowledged writes shows too little.
const WRITES_MIN: usize = 10;

/// How a seed is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the trace is written as text.
    pub trace: Option<PathBuf>,
    /// Numbers of planned faults that are left out.
    pub without: Vec<usize>,
}

/// What came of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Every promise was kept, and enough was seen.
    Valid,
    /// One was broken.
    Invalid,
    /// It cannot be said.
    Unknown,
}

/// A run, told.
#[derive(Clone, Debug)]
pub struct Report {
    /// The verdict.
    pub judgement: Judgement,
    /// What is wrong, or what is missing.
    pub complaints: Vec<String>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
    /// The digest over everything that happened, and of how many events.
    pub trace: (u64, u64),
    /// Simulated milliseconds.
    pub simulated_ms: u64,
}

/// The world of one seed.
struct World {
    universe: Universe,
    cluster: Cluster,
    clients: Clients,
    faults: Faults,
    recorder: Recorder,
}

/// The faults that a seed plans, as lines.
pub fn planned(parameters: &Parameters) -> Vec<String> {
    parameters.plan().iter().map(Planned::to_string).collect()
}

/// Runs a seed.
///
/// # Errors
/// When the simulation itself cannot run; that is no verdict.
pub fn run(parameters: &Parameters, options: &Options) -> Result<Report> {
    let panics = count_panics();
    super::log::watch_over();
    let trace = match &options.trace {
        Some(path) => Trace::to_file(path)?,
        None => Trace::default(),
    };
    pennon_raft_store::dice::load(parameters.seed);
    let mut world = World::new(parameters, options, trace)?;
    let mut complaints = world.play(parameters)?;
    let mut unknown = Vec::new();
    complaints.append(&mut world.cluster.seen.wrong);
    let panicked = panics.load(Ordering::Relaxed);
    if panicked > 0 {
        complaints.push(format!("{panicked} panics"));
    }
    world.judge(&mut complaints, &mut unknown);
    let judgement = match (complaints.is_empty(), unknown.is_empty()) {
        (false, _) => Judgement::Invalid,
        (true, false) => Judgement::Unknown,
        (true, true) => Judgement::Valid,
    };
    complaints.append(&mut unknown);
    let mut state = world.universe.lock();
    Ok(Report {
        judgement,
        complaints,
        counts: state.counts.clone(),
        trace: state.trace.digest(),
        simulated_ms: state.now_ms,
    })
}

/// Counts panics from now on, of nodes and clients alike; each is printed as usual.
fn count_panics() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let usual = std::panic::take_hook();
    let counted = count.clone();
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::Relaxed);
        usual(info);
    }));
    count
}

impl World {
    fn new(parameters: &Parameters, options: &Options, trace: Trace) -> Result<World> {
        let universe = Universe::new(parameters.seed, trace);
        universe.lock().net.usual.delay_ms = parameters.delay_ms;
        universe.note(format_args!("{parameters}"));
        let cluster = Cluster::new(&universe, parameters);
        let times = universe.clone();
        let recorder = Recorder::with_times(move || times.now());
        let mut world = World {
            cluster,
            clients: Clients::new(&universe, parameters, &recorder),
            faults: Faults::new(Vec::new(), Vec::new()),
            recorder,
            universe,
        };
        let machines = world
            .clients
            .hosts
            .iter()
            .map(|host| host.machine)
            .collect();
        let mut plan = parameters.plan();
        plan.retain(|planned| !options.without.contains(&planned.number));
        world.faults = Faults::new(plan, machines);
        Ok(world)
    }

    fn step(&mut self) -> Result<u64> {
        self.universe.tick();
        let now_ms = self.universe.lock().now_ms;
        self.faults
            .tick(&mut self.cluster, &mut self.clients, now_ms);
        self.cluster.tick(now_ms)?;
        self.clients.tick();
        Ok(now_ms)
    }

    /// Steps until a condition holds; false when time is up first.
    fn step_until(&mut self, until_ms: u64, holds: impl Fn(&World) -> bool) -> Result<bool> {
        loop {
            if holds(self) {
                return Ok(true);
            }
            if self.step()? >= until_ms {
                return Ok(false);
            }
        }
    }

    fn acknowledged(&self) -> usize {
        self.recorder.count(|operation| operation.is_acknowledged())
    }

    /// All phases; what was wrong with liveness.
    fn play(&mut self, parameters: &Parameters) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        if !self.step_until(5_000, |world| world.cluster.converged())? {
            wrong.push("no cluster formed within 5 s".to_owned());
        }
        self.clients.start(parameters)?;
        self.step_until(parameters.seconds * 1000, |_| false)?;
        let healed_ms = self.universe.lock().now_ms;
        self.universe.note(format_args!("healed"));
        self.faults
            .heal(&mut self.cluster, &mut self.clients, healed_ms);
        let before = self.acknowledged();
        let recover_ms = healed_ms + RECOVER_MS;
        if !self.step_until(recover_ms, |world| world.acknowledged() > before)? {
            wrong.push(format!("no write within {RECOVER_MS} ms of healing"));
        }
        let written_ms = self.universe.lock().now_ms - healed_ms;
        self.universe
            .count("ms until a write after healing", written_ms);
        let replaced_ms = healed_ms + REPLACED_MS;
        if !self.step_until(replaced_ms, |world| world.cluster.is_whole())? {
            wrong.push(format!("no new member within {REPLACED_MS} ms of healing"));
        }
        self.step_until(healed_ms + written_ms + CALM_MS, |_| false)?;
        // The last reads are many; they need not be slow.
        self.universe.lock().net.all_quick();
        self.clients.reckon();
        let end_ms = self.universe.lock().now_ms + LAST_READS_MS;
        if !self.step_until(end_ms, |world| world.clients.are_done())? {
            wrong.push(format!("the last reads took more than {LAST_READS_MS} ms"));
        }
        let end_ms = self.universe.lock().now_ms + CALM_MS;
        if !self.step_until(end_ms, |world| world.cluster.converged())? {
            let states = self.cluster.states();
            wrong.push(format!("no convergence after healing: {states:?}"));
        }
        Ok(wrong)
    }

    fn judge(&self, complaints: &mut Vec<String>, unknown: &mut Vec<String>) {
        let operations = self.recorder.operations();
        let mut state = self.universe.lock();
        let mut count = |name: &str, holds: fn(&Outcome) -> bool| {
            let found = operations.iter().filter(|one| holds(&one.outcome)).count();
            state.count(name, found as u64);
        };
        count("writes", |outcome| {
            matches!(outcome, Outcome::Written { .. })
        });
        count("reads", |outcome| matches!(outcome, Outcome::Read { .. }));
        count("conflicts", |outcome| {
            matches!(outcome, Outcome::Conflict { .. })
        });
        count("unknown outcomes", |outcome| *outcome == Outcome::Unknown);
        count("not done", |outcome| *outcome == Outcome::NotDone);
        drop(state);
        let parameters = &self.cluster.parameters;
        let nodes = addresses(parameters.nodes);
        let demand = Demand {
            writes_min: WRITES_MIN,
            reads_min: 1,
            bound_ms: parameters.bound_at_most_ms(),
            clocks_off_ms: parameters.clocks_off_ms(),
            finals_min: parameters.lasting + parameters.passing,
            change_sets_min: 1,
            stream_items_min: 1,
            rises_min: 1,
            receipts_min: usize::from(parameters.settles()),
            ..Demand::default()
        };
        let header = Header::new(parameters.seed, nodes, demand);
        for line in judge::judge(&self.recorder.history(header)).lines {
            let said = || {
                let complaints = line.complaints.iter();
                let complaints = complaints.map(|(rule, what, _)| format!("\n  {rule}: {what}"));
                format!(
                    "{}: {}{}",
                    line.checker,
                    line.shows,
                    complaints.collect::<String>()
                )
            };
            match line.judgement {
                judge::Judgement::Invalid => complaints.push(said()),
                judge::Judgement::Unknown => unknown.push(said()),
                judge::Judgement::Valid | judge::Judgement::NotAsked => {}
            }
        }
        complaints.extend(self.clients.complaints());
        let terms = self.cluster.terms_led();
        if terms == 0 {
            unknown.push("nobody ever led".to_owned());
        }
    }
}
