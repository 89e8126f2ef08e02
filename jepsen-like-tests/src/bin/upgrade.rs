//! Upgrades a cluster of an older release node by node while clients read and write: `scripts/upgrade`.
//!
//! A node is asked to stop and is started with the newer binary on what it left; the next one's turn is
//! when it is ready and clients went on for a while. What must hold: the newer release starts on that
//! data and talks with the older one; what was acknowledged is there (I9) and everything is linearizable
//! throughout (I1, I2); the feature level of the cluster does not rise before the last node knows it, and
//! then does; at the end all nodes have one digest (I4).
//!
//! Nodes get no option that an older release may not know.
//!
//! Left out: going back, faults beside the upgrade, and so many writes that there are snapshots.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use jepsen_like_tests::checkers::judge::{Demand, Judgement, judge};
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::history::{Header, Operation, Recorder};
use jepsen_like_tests::http1::{Call, Dial};
use jepsen_like_tests::tool::{number, seconds};
use jepsen_like_tests::workloads::registers::{self, Plan};
use jepsen_like_tests::{Failure, Result, binary, tool, until};

const NODES: usize = 3;
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long a node may take to stop, the cluster to find a leader, and the level to rise.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Writes that must be acknowledged in each step.
const WRITES_MIN: usize = 20;

/// Upgrades three nodes of an older release one after the other while clients read and write
#[derive(Clone, Debug, Parser)]
#[command(
    name = "scripts/upgrade",
    bin_name = "scripts/upgrade",
    after_help = "Exits with 0 when everything held, 1 when it did not, 2 when that cannot be said."
)]
struct Settings {
    /// The `pennon` of the older release
    old: PathBuf,
    /// That of the newer one [default: that of this workspace]
    new: Option<PathBuf>,
    /// How long clients work before, between and after the steps
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds(1..=3_600))]
    seconds: Duration,
    /// Clients
    #[arg(long, value_name = "N", default_value = "8", value_parser = number::<u32>(1..=1_000))]
    clients: u32,
}

fn main() -> ExitCode {
    tool::judge(run)
}

async fn run(settings: Settings) -> Result<Judgement> {
    let new = match &settings.new {
        Some(new) => new.clone(),
        None => binary::pennon()?,
    };
    let options = Options {
        binary: Some(settings.old.clone()),
        ..Options::default()
    };
    let mut cluster = Cluster::start(NODES, options).await?;
    let recorder = Recorder::default();
    let plan = plan(&cluster, settings.clients);
    let clients = registers::start(&plan, &recorder);
    let upgraded = upgrade(&mut cluster, &new, &recorder, settings.seconds).await;
    clients.stop().await?;
    let agreed = match upgraded {
        Ok(()) => cluster.converged(STEP_MAX).await, // I4
        Err(why) => Err(why),
    };
    let (version, digest) = match agreed {
        Ok(agreed) => agreed,
        Err(why) => {
            cluster.keep_data();
            tool::print(format!("BROKEN: {why}\nverdict: {}", Judgement::Invalid))?;
            return Ok(Judgement::Invalid);
        }
    };
    tool::print(format!("digest {digest} at version {version}"))?;
    registers::read_all(&plan, &recorder).await?;
    let pause = longest_pause(&recorder.operations());
    tool::print(format!("longest time without a write: {pause:?}"))?;
    let demand = Demand {
        writes_min: WRITES_MIN * NODES,
        reads_min: WRITES_MIN,
        conflicts_min: 1,
        finals_min: plan.lasting.len() + plan.passing.len(),
        ..Demand::default()
    };
    let nodes = (1..=NODES).map(|at| format!("n{at}")).collect();
    let report = judge(&recorder.history(Header::new(plan.seed, nodes, demand)));
    tool::print(&report)?;
    if report.overall != Judgement::Valid {
        cluster.keep_data();
    }
    tool::print(format!("verdict: {}", report.overall))?;
    Ok(report.overall)
}

fn plan(cluster: &Cluster, clients: u32) -> Plan {
    let names = |what: &str, count: usize| {
        let names = (0..count).map(|at| Arc::from(format!("{what}-{at}")));
        names.collect()
    };
    Plan {
        addresses: cluster.addresses(),
        own: Vec::new(),
        lasting: names("lasting", 4),
        passing: names("passing", 2),
        clients,
        retries_max: 5,
        pause: Duration::from_millis(10),
        seed: 1,
        dial: Dial::default(),
    }
}

/// Upgrades the nodes; fails when something that must hold does not.
async fn upgrade(
    cluster: &mut Cluster,
    new: &Path,
    recorder: &Recorder,
    between: Duration,
) -> Result<()> {
    work(recorder, between).await?;
    let before = level(cluster, 0).await?;
    tool::print(format!("three nodes of the older release, {before}"))?;
    for at in 0..NODES {
        let began = Instant::now();
        cluster.process(at).terminate()?;
        cluster.process(at).ended(STEP_MAX).await?;
        cluster.process(at).run_with(new);
        cluster.restart(at).await?;
        let away = began.elapsed();
        let last = at + 1 == NODES;
        if !last {
            work(recorder, between).await?;
        }
        let now = level(cluster, at).await?;
        tool::print(format!("n{} was away for {away:?}, then {now}", at + 1))?;
        if !last && now.cluster != before.cluster {
            return Err(Failure::new("the feature level rose before the last node"));
        }
    }
    let at = NODES - 1;
    let cluster = &*cluster;
    let risen = || async move {
        let now = level(cluster, at).await.map_err(|why| why.to_string())?;
        let done = now.cluster.is_some() && now.cluster == now.node;
        done.then_some(now).ok_or_else(|| now.to_string())
    };
    let risen = until("the feature level of the newer release", STEP_MAX, risen).await?;
    tool::print(format!("all are of the newer release, {risen}"))?;
    work(recorder, between).await
}

/// Lets clients work, and waits until they were heard.
async fn work(recorder: &Recorder, how_long: Duration) -> Result<()> {
    let before = recorder.count(Operation::is_acknowledged);
    tokio::time::sleep(how_long).await;
    let enough = || async {
        let more = recorder.count(Operation::is_acknowledged) - before;
        (more >= WRITES_MIN)
            .then_some(())
            .ok_or_else(|| format!("{more} writes"))
    };
    until("enough writes", STEP_MAX, enough).await
}

/// What the cluster is at and what one node knows, as it says; releases before there were levels say
/// nothing.
#[derive(Clone, Copy)]
struct Level {
    cluster: Option<u64>,
    node: Option<u64>,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word =
            |level: Option<u64>| level.map_or("unknown".to_owned(), |level| level.to_string());
        let (cluster, node) = (word(self.cluster), word(self.node));
        write!(f, "feature level {cluster}, the node knows {node}")
    }
}

async fn level(cluster: &Cluster, at: usize) -> Result<Level> {
    let answer = Call::get("/v1/cluster")
        .to(cluster.address(at), ANSWER_MAX)
        .await;
    let said = answer.map_err(Failure::new)?.json();
    let members = said["members"].as_array().into_iter().flatten();
    let name = format!("n{}", at + 1);
    let me = members.into_iter().find(|member| member["name"] == *name);
    Ok(Level {
        cluster: said["feature_level"].as_u64(),
        node: me.and_then(|me| me["feature_level"].as_u64()),
    })
}

/// Between two acknowledged writes.
fn longest_pause(operations: &[Operation]) -> Duration {
    let acknowledged = operations.iter().filter(|one| one.is_acknowledged());
    let mut times: Vec<u64> = acknowledged.map(|one| one.completed).collect();
    times.sort_unstable();
    let pauses = times.windows(2).map(|two| two[1] - two[0]);
    Duration::from_nanos(pauses.max().unwrap_or(0))
}
