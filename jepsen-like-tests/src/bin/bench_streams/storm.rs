//! A node dies under a fleet of clients: how long until each is with another node and FRESH, and
//! whether an evaluation ever failed meanwhile.
//!
//! Clients know all three nodes and choose by themselves. A node is killed (SIGKILL), one that does
//! not lead and then the one that does; what is measured are the clients that were with it. One
//! thread evaluates with every client all the time. For the next death the node is started again
//! and the clients are new ones, because nobody goes back to a node that returned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jepsen_like_tests::{Failure, Result, say, until};
use pennon_client::{Client, Endpoint, Freshness, Status, StatusWatch, Subject};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::propagation::OPENING_MAX;
use crate::settings::Streams;
use crate::store::{ANSWER_MAX, ENVIRONMENT, Store, Via};
use jepsen_like_tests::bench::figures::{Quantiles, median, ms, round, word};
use jepsen_like_tests::bench::machine::{self, Meter, Spent};

const FLAGS_DEFAULT: usize = 100;
/// What is evaluated, and by whom: somebody whom the flag's rule takes in.
const EVALUATED: &str = "flag-1";
/// Between two rounds of evaluations over all clients.
const EVALUATION_PAUSE: Duration = Duration::from_millis(10);

/// One death.
#[derive(Clone, Debug)]
struct Death {
    via: Via,
    /// Clients that were with the node.
    lost: usize,
    /// How long each of them took, in milliseconds.
    back: Quantiles,
    evaluations: u64,
    /// Without an answer, or with a wrong one.
    failed: u64,
    /// Right but beyond the staleness bound.
    stale: u64,
    spent: Spent,
    load: f64,
}

/// All deaths.
pub(crate) struct Storm {
    environment: Value,
    deaths: Vec<Death>,
}

pub(crate) async fn run(settings: &Streams, clients: usize) -> Result<Storm> {
    let flags = settings.flags.unwrap_or(FLAGS_DEFAULT).max(2);
    let mut store = Store::start(settings.asked.data.clone(), flags).await?;
    let mut environment = machine::environment(store.cluster.directory());
    environment["release"] = store.release().await?;
    environment["flags"] = json!(flags);
    environment["clients"] = json!(clients);
    environment["rounds"] = json!(settings.rounds);
    let mut deaths = Vec::new();
    for number in 0..settings.rounds {
        for via in [Via::Follower, Via::Leader] {
            // Anew each time: nobody goes back to a node just because it is there again.
            let fleet = open(&store, clients).await?;
            settled(&fleet).await?;
            say(format!("{clients} clients are connected"));
            deaths.push(death(&mut store, &fleet, via).await?);
            say(format!("round {}: {via:?} died", number + 1));
        }
    }
    Ok(Storm {
        environment,
        deaths,
    })
}

async fn open(store: &Store, clients: usize) -> Result<Arc<[Client]>> {
    let urls = store.cluster.urls();
    let (mut fleet, mut opening) = (Vec::new(), JoinSet::new());
    for n in 0..clients {
        if opening.len() >= OPENING_MAX
            && let Some(opened) = opening.join_next().await
        {
            let opened: Result<Client, pennon_client::Error> = opened.map_err(Failure::new)?;
            fleet.push(opened.map_err(Failure::new)?);
        }
        let builder = Client::builder(urls.clone())
            .environment(ENVIRONMENT)
            .client_id(format!("client-{n}"))
            .connect_deadline(ANSWER_MAX);
        opening.spawn(builder.connect());
    }
    while let Some(opened) = opening.join_next().await {
        let opened = opened.map_err(Failure::new)?;
        fleet.push(opened.map_err(Failure::new)?);
    }
    Ok(fleet.into())
}

async fn death(store: &mut Store, fleet: &Arc<[Client]>, via: Via) -> Result<Death> {
    store.leader = store.cluster.leader(ANSWER_MAX).await?;
    let [follower, _, leader] = store.in_turn();
    let at = match via {
        Via::Follower => follower,
        Via::Leader => leader,
    };
    let dead = Endpoint::parse(&store.cluster.urls()[at]).map_err(Failure::new)?;
    let lost: Vec<Client> = fleet
        .iter()
        .filter(|client| client.status().endpoint == dead)
        .cloned()
        .collect();
    if lost.is_empty() {
        return Err(Failure::new("no client was with the node that is to die"));
    }
    let mut waiting = JoinSet::new();
    let evaluating = Evaluating::start(fleet.clone());
    let (load, servers) = (machine::load(), store.ids());
    let survivors: Vec<u32> = servers
        .into_iter()
        .filter(|id| store.cluster.process(at).id() != Some(*id))
        .collect();
    for client in &lost {
        // Watched from before the death on, so that nothing is missed.
        let (watch, dead) = (client.status_watch(), dead.clone());
        waiting.spawn(back(watch, dead));
    }
    let meter = Meter::start(survivors);
    let killed = Instant::now();
    store.cluster.kill(at)?;
    let mut times = Vec::new();
    let returning = async {
        while let Some(back) = waiting.join_next().await {
            let back = back.map_err(Failure::new)?;
            let back = back.ok_or_else(|| Failure::new("a client is gone"))?;
            times.push(ms(back.saturating_duration_since(killed)));
        }
        Ok::<(), Failure>(())
    };
    let returned = tokio::time::timeout(ANSWER_MAX, returning).await;
    returned.map_err(|_| {
        Failure::new(format!(
            "not everybody is back within {ANSWER_MAX:?}: {} of {}",
            lost.len() - waiting.len(),
            lost.len()
        ))
    })??;
    let spent = meter.stop();
    let (evaluations, failed, stale) = evaluating.stop()?;
    settled(fleet).await?;
    store.cluster.restart(at).await?;
    Ok(Death {
        via,
        lost: lost.len(),
        back: Quantiles::of(times),
        evaluations,
        failed,
        stale,
        spent,
        load,
    })
}

/// Waits until a client is with another node and fresh; the moment at which it was.
async fn back(mut watch: StatusWatch, dead: Endpoint) -> Option<Instant> {
    let is_back =
        |status: &Status| status.is_connected() && status.endpoint != dead && status.is_fresh();
    loop {
        let status = watch.next().await?;
        if is_back(&status) {
            return Some(Instant::now());
        }
    }
}

/// Waits until every client is connected and fresh.
async fn settled(fleet: &[Client]) -> Result<()> {
    let look = || async move {
        let well = |status: Status| status.is_connected() && status.is_fresh();
        let ill = fleet.iter().filter(|client| !well(client.status())).count();
        match ill {
            0 => Ok(()),
            ill => Err(format!("{ill} are not")),
        }
    };
    until("everybody connected and fresh", ANSWER_MAX, look).await
}

/// A thread that evaluates with every client, again and again.
struct Evaluating {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    evaluations: AtomicU64,
    failed: AtomicU64,
    stale: AtomicU64,
}

impl Evaluating {
    fn start(fleet: Arc<[Client]>) -> Evaluating {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::<Counts>::default());
        let (stopped, counting) = (stop.clone(), counts.clone());
        let thread = std::thread::spawn(move || {
            let subject = Subject::new("user-42").with("country", "DE");
            while !stopped.load(Ordering::Relaxed) {
                for client in fleet.iter() {
                    evaluate(client, &subject, &counting);
                }
                std::thread::sleep(EVALUATION_PAUSE);
            }
        });
        Evaluating {
            stop,
            counts,
            thread,
        }
    }

    /// How many there were, how many failed, how many were stale.
    fn stop(self) -> Result<(u64, u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| Failure::new("the thread that evaluates panicked"))?;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        Ok((
            of(&counts.evaluations),
            of(&counts.failed),
            of(&counts.stale),
        ))
    }
}

fn evaluate(client: &Client, subject: &Subject, counts: &Counts) {
    let answer = client.evaluate(EVALUATED, subject);
    counts.evaluations.fetch_add(1, Ordering::Relaxed);
    if answer.variant() != Some("on") {
        counts.failed.fetch_add(1, Ordering::Relaxed);
    } else if answer.freshness() != Freshness::Fresh {
        counts.stale.fetch_add(1, Ordering::Relaxed);
    }
}

impl Storm {
    fn of(&self, via: Via) -> Vec<&Death> {
        self.deaths
            .iter()
            .filter(|death| death.via == via)
            .collect()
    }

    /// Whether an evaluation failed: then the figures say nothing.
    pub(crate) fn failed(&self) -> u64 {
        self.deaths.iter().map(|death| death.failed).sum()
    }

    pub(crate) fn json(&self) -> Value {
        let shown = |death: &&Death| {
            let mut line = death.back.json();
            line["lost"] = json!(death.lost);
            line["evaluations"] = json!(death.evaluations);
            line["failed"] = json!(death.failed);
            line["stale"] = json!(death.stale);
            line["cpu_ms"] =
                json!({"survivors": ms(death.spent.servers), "clients": ms(death.spent.clients)});
            line["others_share"] = json!(round(death.spent.others_share()));
            line["load"] = json!(death.load);
            line
        };
        let side = |via: Via| {
            let deaths = self.of(via);
            let mut side = Quantiles::medians(deaths.iter().map(|death| &death.back)).json();
            side["rounds"] = deaths.iter().map(shown).collect();
            side
        };
        json!({"environment": self.environment, "follower_dies": side(Via::Follower),
            "leader_dies": side(Via::Leader)})
    }

    pub(crate) fn table(&self) -> String {
        let word = |name: &str| word(&self.environment, name);
        let mut text = format!(
            "{} clients over three nodes, one of which is killed; {} flags, {} cores ({}), release {} ({} build)\n\
             until each client of that node is with another and FRESH, ms; medians of {} rounds\n\n\
             {:>10} {:>8} {:>8} {:>8} {:>8} {:>12} {:>7} {:>7} {:>7} {:>6}\n",
            word("clients"),
            word("flags"),
            word("cores"),
            word("cpu"),
            word("release"),
            word("build"),
            word("rounds"),
            "dies",
            "clients",
            "p50",
            "p99",
            "max",
            "evaluations",
            "failed",
            "stale",
            "others",
            "load",
        );
        for (name, via) in [("follower", Via::Follower), ("leader", Via::Leader)] {
            let deaths = self.of(via);
            let back = Quantiles::medians(deaths.iter().map(|death| &death.back));
            let by = |of: fn(&Death) -> f64| median(deaths.iter().map(|death| of(death)));
            let sum = |of: fn(&Death) -> u64| deaths.iter().map(|death| of(death)).sum::<u64>();
            text += &format!(
                "{name:>10} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>12} {:>7} {:>7} {:>6.0}% {:>6.2}\n",
                by(|death| death.lost as f64),
                back.p50,
                back.p99,
                back.max,
                sum(|death| death.evaluations),
                sum(|death| death.failed),
                sum(|death| death.stale),
                100.0 * by(|death| death.spent.others_share()),
                by(|death| death.load),
            );
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_told_apart_and_failures_added() {
        let death = |via, p50: f64, failed| Death {
            via,
            lost: 7,
            back: Quantiles::of([p50]),
            evaluations: 100,
            failed,
            stale: 0,
            spent: Spent::default(),
            load: 1.0,
        };
        let storm = Storm {
            environment: json!({"clients": 7}),
            deaths: vec![
                death(Via::Follower, 10.0, 0),
                death(Via::Leader, 2_000.0, 3),
                death(Via::Follower, 30.0, 1),
            ],
        };
        assert_eq!(storm.failed(), 4);
        let json = storm.json();
        assert_eq!(json["follower_dies"]["p50_ms"], json!(20.0));
        assert_eq!(json["leader_dies"]["rounds"][0]["failed"], json!(3));
    }

    #[tokio::test]
    async fn a_client_without_a_state_counts_as_failed() {
        let client = Client::builder(["http://127.0.0.1:1"])
            .environment(ENVIRONMENT)
            .start()
            .unwrap();
        let evaluating = Evaluating::start(vec![client].into());
        while evaluating.counts.evaluations.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let (evaluations, failed, _) = evaluating.stop().unwrap();
        assert!(failed > 0 && failed == evaluations);
    }
}
