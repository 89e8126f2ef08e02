//! Everybody who works on the cluster during a run: who there is, under which numbers, and how they
//! are stopped.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use super::fleet::Fleet;
use super::run::ENVIRONMENT;
use super::settings::{Parameters, Settings};
use crate::failure::Result;
use crate::http1::Dial;
use crate::workloads::{Site, backups, ended, evaluations, hostile, pairs, registers, streams};

/// Who writes change sets.
const PAIR_WRITERS: u32 = 3;
/// Who reads what they wrote.
const PAIR_READERS: u32 = 2;
/// Who holds a stream open; four habits.
const STREAMS: u32 = 8;
/// Applications with the client library.
const APPLICATIONS: u32 = 5;

/// Who has which numbers.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pair_writers: Range<u32>,
    pair_readers: Range<u32>,
    streams: Range<u32>,
    applications: Range<u32>,
    backups: u32,
    hostile: u32,
}

impl Numbers {
    /// Gives numbers out, behind those of the writers of registers.
    pub(super) fn new(writers: u32) -> Numbers {
        let mut next = writers;
        let mut take = |count: u32| {
            let from = next;
            next += count;
            from..next
        };
        Numbers {
            pair_writers: take(PAIR_WRITERS),
            pair_readers: take(PAIR_READERS),
            streams: take(STREAMS),
            applications: take(APPLICATIONS),
            backups: take(1).start,
            hostile: take(1).start,
        }
    }

    /// How many numbers there are, those of the writers included.
    pub(super) fn count(&self) -> usize {
        self.hostile as usize + 1
    }
}

/// Everybody at work.
#[derive(Debug)]
pub(super) struct Clients {
    site: Site,
    plan: registers::Plan,
    registers: Option<registers::Running>,
    others: Vec<JoinSet<Result<()>>>,
    pairs: Option<pairs::Pairs>,
    hostile: Arc<AtomicU64>,
}

impl Clients {
    /// Starts those that the settings ask for.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub(super) fn start(
        settings: &Settings,
        parameters: &Parameters,
        fleet: &Fleet,
    ) -> Result<Clients> {
        let numbers = Numbers::new(parameters.writers);
        let ways: Vec<Vec<String>> = (0..numbers.count())
            .map(|client| fleet.ways(client))
            .collect();
        let site = Site {
            recorder: fleet.recorder().clone(),
            environment: ENVIRONMENT.into(),
            ways: Arc::new(ways),
            dial: Dial::default(),
            seed: settings.seed,
            directory: fleet.layout().directory.clone(),
            stop: Arc::new(AtomicBool::new(false)),
            complaints: Arc::new(Mutex::default()),
        };
        let plan = plan(settings, parameters, fleet);
        let does = |name: &str| settings.workloads.iter().any(|one| one == name);
        let registers = does("registers").then(|| registers::start(&plan, &site.recorder));
        let mut clients = Clients {
            site,
            plan,
            registers,
            others: Vec::new(),
            pairs: None,
            hostile: Arc::default(),
        };
        let site = &clients.site;
        let list = |range: &Range<u32>| range.clone().collect::<Vec<u32>>();
        let changes = pairs::Pairs::default();
        if does("pairs") || does("streams") || does("evaluations") {
            let (writers, readers) = (list(&numbers.pair_writers), list(&numbers.pair_readers));
            clients
                .others
                .push(pairs::start(site, &writers, &readers, &changes));
            clients.pairs = Some(changes);
        }
        if does("streams") {
            clients
                .others
                .push(streams::start(site, &list(&numbers.streams))?);
        }
        if does("evaluations") {
            clients
                .others
                .push(evaluations::start(site, &list(&numbers.applications))?);
        }
        if does("backups") {
            let binary = fleet.layout().binary.clone();
            clients
                .others
                .push(backups::start(site, numbers.backups, binary));
        }
        if does("hostile") {
            let sent = Arc::clone(&clients.hostile);
            clients
                .others
                .push(hostile::start(site, numbers.hostile, fleet.peers(), sent));
        }
        Ok(clients)
    }

    /// Lets everybody finish what he is at.
    ///
    /// # Errors
    /// When one of them panicked or could not do his part.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.site.stop.store(true, Ordering::Relaxed);
        if let Some(registers) = self.registers.take() {
            registers.stop().await?;
        }
        for others in self.others.drain(..) {
            ended(others).await?;
        }
        Ok(())
    }

    /// Reads what is there at the end, from nodes that are whole and reached directly.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn read_end(&self, fleet: &Fleet) -> Result<()> {
        if self.site.recorder.count(|_| true) > 0 {
            registers::read_all(&self.plan, &self.site.recorder).await?;
        }
        if let Some(changes) = &self.pairs {
            let nodes: Vec<(u32, String)> = fleet
                .alive()
                .into_iter()
                .map(|at| (at as u32, fleet.members()[at].api.to_string()))
                .collect();
            pairs::read_end(&self.site, &nodes, changes).await?;
        }
        Ok(())
    }

    /// What must not be and no history shows.
    pub(super) fn complaints(&self) -> Vec<String> {
        let complaints = self.site.complaints.lock();
        complaints.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many hostile messages were sent.
    pub(super) fn hostile(&self) -> u64 {
        self.hostile.load(Ordering::Relaxed)
    }
}

fn plan(settings: &Settings, parameters: &Parameters, fleet: &Fleet) -> registers::Plan {
    let named = |kind: &str, count: u32| -> Vec<Arc<str>> {
        (0..count).map(|n| format!("{kind}-{n}").into()).collect()
    };
    let founders = fleet.members()[..fleet.layout().size].iter();
    registers::Plan {
        addresses: founders.map(|one| one.api.to_string()).collect(),
        own: (0..parameters.writers as usize)
            .map(|client| fleet.ways(client))
            .collect(),
        lasting: named("lasting", parameters.lasting),
        passing: named("passing", parameters.passing),
        clients: parameters.writers,
        retries_max: parameters.retries_max,
        pause: parameters.pause,
        seed: settings.seed,
        dial: Dial::default(),
    }
}
