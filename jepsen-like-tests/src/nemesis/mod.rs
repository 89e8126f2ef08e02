//! Faults: what is done to a running cluster, when, to whom, and what shows that it happened.
//!
//! [`schedule`] draws from the seed which kind begins when and for how long; whom it hits is decided
//! when it begins, because only then is known who leads. Faults overlap; a node's process is one
//! fault's at a time, and a wire does what the harshest of the faults on it says.
//!
//! What must hold: a fault that acted says what proves it (a process that is gone, bytes that were
//! lost, another leader), never that it was asked for; every fault takes back what it did, also when
//! the run ends before its time is over; nothing is left to chance but what the seed decides and what
//! the cluster does.

mod calls;
mod clocks;
mod damage;
mod kinds;
mod links;
mod members;
mod processes;
mod resources;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use kinds::{Family, Kind, parse};

use crate::chaos::fleet::Fleet;
use crate::failure::{Failure, Result};
use crate::history::{Event, Fault, FaultStage};
use crate::mounts::SmallDisk;
use crate::proxy::Mode;

/// The first fault begins this long after the clients.
const FIRST: Duration = Duration::from_secs(2);
/// Before a fault that hit nobody tries again.
const AGAIN: Duration = Duration::from_millis(500);
/// Longest wait of a fault for somebody whom it can hit.
const TARGET_MAX: Duration = Duration::from_secs(8);

/// One fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Counts the faults of a run.
    pub number: u64,
    /// What it is.
    pub kind: Kind,
    /// When it begins, from the start of the working phase.
    pub begins: Duration,
    /// How long it lasts.
    pub lasts: Duration,
}

/// Draws the faults of a run: each kind once before any comes again. What a fault needs fits in before the
/// end; where the run is too short for that, it is among the first.
pub fn schedule(seed: u64, run: Duration, kinds: &[Kind]) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x006e_656d_6573_6973);
    let mut planned = Vec::new();
    if kinds.is_empty() {
        return planned;
    }
    let last = run.saturating_sub(FIRST);
    let room = last.saturating_sub(FIRST).as_millis() as u64;
    // Every kind fits in, however short the run is; in a long one there is time to breathe.
    let gap = (room / kinds.len() as u64).clamp(50, 2_500);
    let slots = (0..).map(|number| FIRST + Duration::from_millis(gap * number));
    let slots: Vec<Duration> = slots.take_while(|slot| *slot < last).collect();
    for (round, slots) in slots.chunks(kinds.len()).enumerate() {
        let mut bag: Vec<(Kind, Duration)> = kinds
            .iter()
            .map(|kind| (*kind, kind.lasts(run, &mut random)))
            .collect();
        bag.shuffle(&mut random);
        let mut within = || Duration::from_millis(random.random_range(0..gap));
        let mut plan = |(kind, lasts), begins| {
            planned.push(Planned {
                number: 0,
                kind,
                begins,
                lasts,
            });
        };
        // From the last to the first: what fits late fits early, too.
        for slot in slots.iter().rev() {
            let begins = *slot + within();
            let fits = |(kind, lasts): &(Kind, Duration)| begins + kind.needs_max(*lasts) <= run;
            if let Some(at) = bag.iter().position(fits) {
                plan(bag.swap_remove(at), begins);
            }
        }
        if round == 0 {
            bag.into_iter()
                .for_each(|left| plan(left, FIRST + within()));
        }
    }
    planned.sort_by_key(|one| one.begins);
    for (number, one) in (1..).zip(&mut planned) {
        one.number = number;
    }
    planned
}

/// Where faults happen.
#[derive(Debug)]
pub struct Arena {
    fleet: Arc<Fleet>,
    seed: u64,
    stop: watch::Sender<bool>,
    links: links::Links,
    /// Small disks, by node.
    disks: BTreeMap<usize, SmallDisk>,
    /// Held by the one fault that has a node lose its directory: with two at a time, those left could
    /// decide nothing, not even who is a member.
    losing: tokio::sync::Mutex<()>,
    /// Held by the one fault that moves clocks.
    clocks: tokio::sync::Mutex<()>,
    tally: Mutex<Tally>,
}

/// What came of the faults so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By kind: how many began, and how many of them acted.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
    /// Those under way, by number.
    pub now: BTreeMap<u64, &'static str>,
    /// What could not be done, and why.
    pub failures: Vec<String>,
    /// What the cluster did that it must not do.
    pub complaints: Vec<String>,
}

impl Arena {
    /// Makes one around a fleet, some of whose nodes have small disks.
    pub fn new(fleet: Arc<Fleet>, seed: u64, disks: BTreeMap<usize, SmallDisk>) -> Arc<Arena> {
        Arc::new(Arena {
            fleet,
            seed,
            stop: watch::channel(false).0,
            links: links::Links::default(),
            disks,
            losing: tokio::sync::Mutex::default(),
            clocks: tokio::sync::Mutex::default(),
            tally: Mutex::default(),
        })
    }

    /// Lets the faults of a schedule happen, until [`Arena::stop`] or the end of the schedule, and
    /// waits until each has taken back what it did.
    ///
    /// # Errors
    /// When a fault panicked.
    pub async fn run(self: Arc<Self>, planned: Vec<Planned>) -> Result<()> {
        let begin = Instant::now();
        let mut acts = JoinSet::new();
        let mut stop = self.stop.subscribe();
        for next in planned {
            let stopped = tokio::select! {
                () = tokio::time::sleep_until(begin + next.begins) => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if stopped {
                break;
            }
            acts.spawn(Act::new(Arc::clone(&self), next).perform());
        }
        while let Some(ended) = acts.join_next().await {
            ended.map_err(Failure::new)?;
        }
        Ok(())
    }

    /// The nodes.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Ends all nodes and small disks; what those held is copied to where they were.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn close(mut self: Arc<Self>) -> Result<()> {
        self.fleet.kill_all();
        let Some(arena) = Arc::get_mut(&mut self) else {
            return Err(Failure::new("a fault still goes on"));
        };
        let disks = std::mem::take(&mut arena.disks);
        disks.into_values().try_for_each(SmallDisk::replace_by_copy)
    }

    /// Has every fault take back what it did, now.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// What came of the faults so far.
    pub fn tally(&self) -> Tally {
        self.tallied().clone()
    }

    fn tallied(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One fault while it happens.
struct Act {
    arena: Arc<Arena>,
    planned: Planned,
    random: StdRng,
    asked: bool,
    acted: bool,
}

impl Act {
    fn new(arena: Arc<Arena>, planned: Planned) -> Act {
        let seed = arena
            .seed
            .wrapping_mul(1_000_003)
            .wrapping_add(planned.number);
        Act {
            arena,
            planned,
            random: StdRng::seed_from_u64(seed),
            asked: false,
            acted: false,
        }
    }

    async fn perform(mut self) {
        let (number, kind) = (self.planned.number, self.planned.kind);
        {
            let mut tally = self.arena.tallied();
            tally.kinds.entry(kind.name()).or_default().0 += 1;
            tally.now.insert(number, kind.name());
        }
        // One that finds nobody to hit, or nobody who notices, tries again.
        let done = loop {
            let done = self.perform_once().await;
            let again = if done.is_ok() {
                !self.acted
            } else {
                !self.asked
            };
            if !again || self.is_over() {
                break done;
            }
            self.rest(AGAIN).await;
        };
        if self.asked {
            self.note(Vec::new(), FaultStage::Ended);
        }
        let mut tally = self.arena.tallied();
        tally.now.remove(&number);
        if let Err(why) = done {
            let text = format!("{} (fault {number}): {why}", kind.name());
            tally.failures.push(text);
        }
    }

    async fn perform_once(&mut self) -> Result<()> {
        let done = match self.planned.kind.family() {
            Family::Kill | Family::Pause => processes::perform(self).await,
            Family::Partition | Family::Link => links::perform(self).await,
            Family::Snapshot => snapshots::perform(self).await,
            Family::Damage => damage::perform(self).await,
            Family::Members | Family::Leader => members::perform(self).await,
            Family::Disk | Family::Resources => resources::perform(self).await,
            Family::Step | Family::Power | Family::Errors => calls::perform(self).await,
            Family::Clock => clocks::perform(self).await,
        };
        let number = self.planned.number;
        self.arena.links.clear(self.arena.fleet.net(), number);
        done
    }

    fn fleet(&self) -> &Fleet {
        &self.arena.fleet
    }

    fn asked(&mut self, targets: &[usize]) {
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        let names = targets.iter().map(|at| self.fleet().name(*at).into());
        self.note(names.collect(), FaultStage::Asked);
    }

    fn acted(&mut self, proof: impl Into<String>, count: u64) {
        if count > 0 && !self.acted {
            self.acted = true;
            let name = self.planned.kind.name();
            self.arena.tallied().kinds.entry(name).or_default().1 += 1;
        }
        let proof: String = proof.into();
        let proof = proof.into();
        self.note(Vec::new(), FaultStage::Acted { proof, count });
    }

    /// Notes what a node did that it must not do.
    fn complain(&self, what: String) {
        self.arena.tallied().complaints.push(what);
    }

    fn note(&self, targets: Vec<Arc<str>>, stage: FaultStage) {
        let recorder = self.fleet().recorder();
        recorder.add_event(Event::Fault(Fault {
            at: recorder.now(),
            fault: self.planned.number,
            kind: self.planned.kind.name().into(),
            targets,
            stage,
        }));
    }

    /// Waits, but not beyond the end of the run's working phase.
    async fn rest(&self, time: Duration) {
        let mut stop = self.arena.stop.subscribe();
        // Whichever comes first.
        let _ = tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await;
    }

    fn is_over(&self) -> bool {
        *self.arena.stop.borrow()
    }

    /// Looks again and again until there is something, or the time is over.
    async fn wait_for<T>(
        &self,
        within: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + within;
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            if Instant::now() >= end || self.is_over() {
                return None;
            }
            self.rest(Duration::from_millis(20)).await;
        }
    }

    fn chance(&mut self, of: u32) -> bool {
        self.random.random_range(0..of) == 0
    }

    /// How the bytes of a partition get lost, by chance.
    fn loss(&mut self) -> Mode {
        match self.chance(2) {
            true => Mode::Hold,
            false => Mode::Swallow,
        }
    }

    /// Who leads now.
    async fn leader(&self) -> Result<usize> {
        let found = self.wait_for(TARGET_MAX, || self.fleet().leader());
        let leader = found.await;
        leader
            .map(|leader| leader.at)
            .ok_or_else(|| Failure::new("nobody led"))
    }

    fn shuffled(&mut self, of: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut all: Vec<usize> = of.into_iter().collect();
        all.shuffle(&mut self.random);
        all
    }
}

/// Names of the kinds in a schedule: what the run has to show.
pub fn demanded(planned: &[Planned]) -> BTreeSet<String> {
    let names = planned.iter().map(|one| one.kind.name().to_owned());
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_follows_from_its_seed_and_has_every_kind() {
        let run = Duration::from_secs(60);
        let planned = schedule(7, run, Kind::ALL);
        assert_eq!(planned, schedule(7, run, Kind::ALL));
        assert_ne!(planned, schedule(8, run, Kind::ALL));
        assert!(planned.iter().all(|one| one.begins < run));
        let kinds: BTreeSet<Kind> = planned[..Kind::ALL.len()]
            .iter()
            .map(|one| one.kind)
            .collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
        assert_eq!(schedule(7, run, &[]), []);
    }

    #[test]
    fn what_a_fault_needs_fits_in_before_the_end_or_it_is_among_the_first() {
        for (seed, run) in (0..200).flat_map(|seed| [10, 24, 60, 120, 300].map(|run| (seed, run))) {
            let run = Duration::from_secs(run);
            let planned = schedule(seed, run, Kind::ALL);
            let kinds: BTreeSet<Kind> = planned.iter().map(|one| one.kind).collect();
            assert_eq!(kinds.len(), Kind::ALL.len());
            let gap = (run - 2 * FIRST) / u32::try_from(Kind::ALL.len()).unwrap();
            for one in planned {
                let fits = one.begins + one.kind.needs_max(one.lasts) <= run;
                assert!(fits || one.begins < FIRST + gap, "{run:?}, {seed}: {one:?}");
            }
        }
    }
}
