//! Who works on a simulated cluster: the workloads of this crate, as over sockets, and applications
//! with the client library, each on a machine of its own.
//!
//! At the end every workload reads what it wrote, through every node.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pennon_client::{Client, ClientBuilder, Freshness, Subject};
use rand::RngExt;
use serde_json::{Map, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cluster::addresses;
use super::control::Control;
use super::host::{Clocks, Host, Still};
use super::network::Wires;
use super::swarm::Parameters;
use super::universe::Universe;
use crate::failure::{Failure, Result};
use crate::history::{Evaluation, Event, Recorder, SubjectSeen};
use crate::http1::{Call, Connection, Dial};
use crate::workloads::registers::{self, Plan};
use crate::workloads::{Site, ended, pairs, streams};

const ENVIRONMENT: &str = "production";
/// Machines of workloads; the rest are applications.
const WORKLOADS: usize = 3;
const PAIR_WRITERS: u32 = 2;
const PAIR_READERS: u32 = 1;
const STREAMS: u32 = 4;
const SUBJECTS: usize = 6;

/// How often what is read at the end is tried.
const READ_TRIES_MAX: usize = 20;
const READ_PAUSE: Duration = Duration::from_millis(200);

/// What the clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Work,
    /// Stop, then read everything.
    Reckon,
}

/// All clients.
pub(crate) struct Clients {
    /// Registers, pairs, streams, then applications.
    pub(crate) hosts: Vec<Host>,
    universe: Universe,
    phase: watch::Sender<Phase>,
    site: Site,
    done: Done,
}

/// What came of each workload's last reads.
#[derive(Clone, Default)]
pub(crate) struct Done(Arc<Mutex<Vec<Result<()>>>>);

impl Done {
    fn say(&self, what: Result<()>) {
        self.lock().push(what);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Result<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    pub(crate) fn new(
        universe: &Universe,
        parameters: &Parameters,
        recorder: &Recorder,
    ) -> Clients {
        let applications = (0..parameters.evaluators).map(|at| format!("e{at}"));
        let names = ["c0", "c1", "c2"].map(str::to_owned);
        let hosts = names
            .into_iter()
            .chain(applications)
            .map(|name| Host::new(universe, &name, parameters.seed));
        let count = parameters.clients as usize + (PAIR_WRITERS + PAIR_READERS + STREAMS) as usize;
        let site = Site {
            recorder: recorder.clone(),
            environment: ENVIRONMENT.into(),
            ways: Arc::new(vec![addresses(parameters.nodes); count]),
            dial: Dial::default(),
            seed: parameters.seed,
            directory: PathBuf::new(),
            stop: Arc::new(AtomicBool::new(false)),
            complaints: Arc::default(),
        };
        Clients {
            hosts: hosts.collect(),
            universe: universe.clone(),
            phase: watch::channel(Phase::Work).0,
            site,
            done: Done::default(),
        }
    }

    /// Lets everybody begin.
    pub(crate) fn start(&mut self, parameters: &Parameters) -> Result<()> {
        for subject in 0..SUBJECTS {
            self.site.recorder.add_event(Event::Subject(SubjectSeen {
                key: subject_key(subject).into(),
                attributes: Map::new(),
            }));
        }
        for at in 0..self.hosts.len() {
            let wires = Wires {
                universe: self.universe.clone(),
                machine: self.hosts[at].machine,
            };
            let site = Site {
                dial: Dial::by(Arc::new(wires.clone())),
                ..self.site.clone()
            };
            let (phase, done) = (self.phase.subscribe(), self.done.clone());
            let plan = plan(parameters, &site);
            let host = &mut self.hosts[at];
            let roll = host.roll();
            match at {
                0 => {
                    let bound_ms = parameters.bound_ms;
                    host.start(|_| work_on_registers(plan, bound_ms, site, phase, done))?;
                }
                1 => host.start(|_| work_on_pairs(plan.clients, site, phase, done))?,
                2 => {
                    let first = plan.clients + PAIR_WRITERS + PAIR_READERS;
                    host.start(|_| hold_streams(first, site, phase, done))?;
                }
                _ => {
                    let application = Application {
                        client: plan.clients + 100 + at as u32,
                        wires,
                        site,
                        seed: roll,
                        control: parameters.control,
                    };
                    host.start(|clocks| application.run(clocks, phase, done))?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn tick(&mut self) {
        for host in &mut self.hosts {
            host.tick();
        }
    }

    /// Has every application stand still; returns how many did.
    pub(crate) fn stand_still(&mut self, suspended: bool) -> u64 {
        let still = if suspended {
            Still::Suspended
        } else {
            Still::Stopped
        };
        let mut count = 0;
        for host in self.hosts.iter_mut().skip(WORKLOADS) {
            count += u64::from(host.is_up() && !host.is_still());
            host.stand_still(still);
        }
        count
    }

    /// Ends that.
    pub(crate) fn go_on(&mut self) {
        self.hosts.iter_mut().for_each(Host::go_on);
    }

    /// Has everybody stop and read what is there.
    pub(crate) fn reckon(&self) {
        self.site.stop.store(true, Ordering::Relaxed);
        self.phase.send_replace(Phase::Reckon);
    }

    /// Whether everybody is done.
    pub(crate) fn are_done(&self) -> bool {
        self.done.lock().len() >= self.hosts.len()
    }

    /// What went wrong with clients, in words.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaints = self.site.complaints.lock();
        let mut all = complaints.unwrap_or_else(PoisonError::into_inner).clone();
        let failed = self.done.lock();
        all.extend(failed.iter().filter_map(|done| {
            let why = done.as_ref().err()?;
            Some(format!("a workload: {why}"))
        }));
        all
    }
}

fn plan(parameters: &Parameters, site: &Site) -> Plan {
    let names = |prefix: &str, count| {
        let name = |at| Arc::from(format!("{prefix}{at}"));
        (0..count).map(name).collect::<Vec<Arc<str>>>()
    };
    let crowd = |client: u32| {
        // Turned so that this client begins at the first node, as all others do.
        let mut turned = addresses(parameters.nodes);
        turned.rotate_right(client as usize % parameters.nodes);
        turned
    };
    Plan {
        addresses: addresses(parameters.nodes),
        own: match parameters.crowded {
            true => (0..parameters.clients).map(crowd).collect(),
            false => Vec::new(),
        },
        lasting: names("lasting", parameters.lasting),
        passing: names("passing", parameters.passing),
        clients: parameters.clients,
        retries_max: 5,
        pause: parameters.pause,
        seed: parameters.seed,
        dial: site.dial.clone(),
    }
}

async fn until_reckoning(mut phase: watch::Receiver<Phase>) {
    // The world outlives its machines.
    let _ = phase.wait_for(|phase| *phase == Phase::Reckon).await;
}

/// Does something that needs every node to be ready again until it succeeds.
async fn again<F: Future<Output = Result<()>>>(mut attempt: impl FnMut() -> F) -> Result<()> {
    let mut last = Failure::new("never tried");
    for _ in 0..READ_TRIES_MAX {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(why) => last = why,
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
    Err(last)
}

async fn work_on_registers(
    plan: Plan,
    bound_ms: u64,
    site: Site,
    phase: watch::Receiver<Phase>,
    done: Done,
) {
    make_environment(&plan, &site, bound_ms).await;
    let running = registers::start(&plan, &site.recorder);
    until_reckoning(phase).await;
    let stopped = running.stop().await;
    let read = async {
        stopped?;
        for at in 0..plan.addresses.len() {
            let mut through = plan.clone();
            through.addresses.rotate_left(at);
            let read = async || {
                let read = registers::read_all(&through, &site.recorder).await;
                read.map(|_| ())
            };
            again(read).await?;
        }
        Ok(())
    };
    done.say(read.await);
}

/// Makes the environment, with its bound, and has the cluster keep every change of an object.
async fn make_environment(plan: &Plan, site: &Site, bound_ms: u64) {
    let bound = json!({"staleness_bound_ms": bound_ms});
    for (path, value) in [
        (
            "/v1/settings/history".to_owned(),
            json!({"per_object": 10_000}),
        ),
        (format!("/v1/environments/{}", site.environment), bound),
    ] {
        let call = Call::put(&path, &value).if_absent().request_id(&path);
        for address in plan.addresses.iter().cycle().take(100) {
            if let Ok(mut connection) = Connection::dial(&site.dial, address).await
                && let Ok(answer) = connection.send(&call, Duration::from_secs(2)).await
                && answer.status.is_success()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn work_on_pairs(first: u32, site: Site, phase: watch::Receiver<Phase>, done: Done) {
    let changes = pairs::Pairs::default();
    let writers: Vec<u32> = (first..first + PAIR_WRITERS).collect();
    let readers: Vec<u32> = (first + PAIR_WRITERS..first + PAIR_WRITERS + PAIR_READERS).collect();
    let working = pairs::start(&site, &writers, &readers, &changes);
    until_reckoning(phase).await;
    let nodes: Vec<(u32, String)> = (0..).zip(site.ways[0].iter().cloned()).collect();
    let read = async {
        ended(working).await?;
        again(|| pairs::read_end(&site, &nodes, &changes)).await
    };
    done.say(read.await);
}

async fn hold_streams(first: u32, site: Site, phase: watch::Receiver<Phase>, done: Done) {
    let clients: Vec<u32> = (first..first + STREAMS).collect();
    let holding: Result<JoinSet<Result<()>>> = streams::start(&site, &clients);
    until_reckoning(phase).await;
    done.say(async { ended(holding?).await }.await);
}

fn subject_key(subject: usize) -> String {
    format!("user-{subject}")
}

/// An application with the client library.
struct Application {
    client: u32,
    wires: Wires,
    site: Site,
    seed: u64,
    control: Option<Control>,
}

impl Application {
    async fn run(self, clocks: Clocks, phase: watch::Receiver<Phase>, done: Done) {
        let urls = self.site.ways[0].iter().map(|way| format!("http://{way}"));
        let client = Client::builder(urls)
            .environment(&*self.site.environment)
            .client_id(format!("application-{}", self.client))
            .connector(self.wires.clone())
            .clock(clocks)
            .seed(self.seed);
        let client = broken(client, self.control).start();
        let client = match client {
            Ok(client) => client,
            Err(why) => return done.say(Err(Failure::new(why))),
        };
        let mut random = self.site.random(self.client);
        let evaluating = async {
            loop {
                let flag = pairs::key(random.random_range(0..pairs::PAIRS));
                let subject = subject_key(random.random_range(0..SUBJECTS));
                self.evaluate(&client, flag, subject);
                let pause = Duration::from_millis(random.random_range(20..200));
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            biased;
            () = until_reckoning(phase) => done.say(Ok(())),
            () = evaluating => {}
        }
    }

    fn evaluate(&self, client: &Client, flag: String, subject: String) {
        let began = self.site.recorder.now();
        let answer = client.evaluate(&flag, &Subject::new(subject.clone()));
        let age = answer.age();
        self.site.recorder.add_event(Event::Evaluation(Evaluation {
            began,
            client: self.client,
            environment: self.site.environment.clone(),
            flag: flag.into(),
            subject: subject.into(),
            snapshot_version: answer.snapshot_version().map_or(0, |version| version.get()),
            config_version: answer.config_version().get(),
            variant: answer.variant().map(Arc::from),
            value: answer.value().map(|value| value.as_json().into()),
            reason: answer.reason().as_str().into(),
            fresh: answer.freshness() == Freshness::Fresh,
            age: age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        }));
    }
}

/// Breaks an application as the control says; a release build has no such thing.
fn broken(builder: ClientBuilder, control: Option<Control>) -> ClientBuilder {
    #[cfg(debug_assertions)]
    if let Some(broken) = control.and_then(Control::of_applications) {
        return builder.broken(broken);
    }
    #[cfg(not(debug_assertions))]
    let _ = control;
    builder
}
