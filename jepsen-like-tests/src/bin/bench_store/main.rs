//! Measures the store with three real processes on loopback, with real fsync, and etcd beside it in the
//! same run where that is installed: conditional writes a second, linearizable reads a second, how long
//! one takes, and how long nobody can write after the leader was killed. `scripts/bench` builds everything
//! and runs this.
//!
//! Workers ask the nodes in turn, so two of three writes are forwarded to the leader, unless
//! `--to leader` is given. Rounds are interleaved over the engines and the numbers of workers, with a
//! probe of the disk in each, and medians of the rounds are shown, so that a slow minute of the machine does
//! not hit one number alone.
//!
//! The load generator is bare HTTP/1.1 and bare HTTP/2 with one request in flight per connection. It runs
//! on the same cores as the nodes, and so does what it costs.

mod failover;
mod load;
mod report;
mod settings;

use std::process::ExitCode;
use std::time::Duration;

use jepsen_like_tests::bench::etcd::Etcd;
use jepsen_like_tests::bench::machine;
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::disk_probe::{self, DiskSpeed};
use jepsen_like_tests::{Failure, Result, tool};

use crate::load::{ANSWER_MAX, Engine, Measured, Work, measure};
use crate::report::Report;
use crate::settings::{Load, Settings, To};

const PROBE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    tool::run(run)
}

async fn run(settings: Settings) -> Result<()> {
    let asked = settings.asked();
    let options = Options {
        data: asked.data.clone(),
        ..Options::default()
    };
    let mut cluster = Cluster::start(3, options).await?;
    let mut environment = machine::environment(cluster.directory());
    let mut etcd = Etcd::if_asked(asked, cluster.directory(), &mut environment).await?;
    let report = match &settings {
        Settings::Writes(load) => rounds(load, &mut cluster, &mut etcd, Work::Write).await?,
        Settings::Reads(load) => rounds(load, &mut cluster, &mut etcd, Work::Read).await?,
        Settings::Failover(asked) => trials(asked.rounds, &mut cluster, &mut etcd).await?,
    };
    let (version, digest) = cluster.converged(ANSWER_MAX).await?;
    environment["converged"] = format!("digest {digest} at version {version}").into();
    match asked.json {
        true => tool::print(report.json(&settings, &environment)),
        false => tool::print(report.text(&settings, &environment)),
    }
}

async fn rounds(
    load: &Load,
    cluster: &mut Cluster,
    etcd: &mut Option<Etcd>,
    work: Work,
) -> Result<Report> {
    let leader = cluster.leader(ANSWER_MAX).await?;
    let ours = match load.to {
        To::Leader => vec![cluster.address(leader).to_owned()],
        To::Any => cluster.addresses(),
    };
    let mut engines = vec![(Engine::Pennon, ours)];
    if let Some(etcd) = etcd {
        let at = match load.to {
            To::Leader => vec![etcd.leader],
            To::Any => vec![0, 1, 2],
        };
        let theirs = at.into_iter().map(|at| etcd.address(at).to_owned());
        engines.push((Engine::Etcd, theirs.collect()));
    }
    let mut report = Report::default();
    for round in 0..load.rounds {
        report.probes.push(probe(cluster).await?);
        for workers in &load.workers {
            for (engine, addresses) in &engines {
                let name = format!("bench-{round}-{workers}");
                let measured: Measured =
                    measure(*engine, work, addresses, &name, *workers, load.seconds).await?;
                report.loads.push((*engine, *workers, measured));
            }
        }
    }
    if cluster.leader(ANSWER_MAX).await? != leader {
        let why = "the leader changed during the run: the figures say nothing";
        return Err(Failure::new(why));
    }
    Ok(report)
}

async fn trials(rounds: usize, cluster: &mut Cluster, etcd: &mut Option<Etcd>) -> Result<Report> {
    let leader = cluster.leader(ANSWER_MAX).await?;
    failover::prepare(cluster.address(leader)).await?;
    let mut report = Report::default();
    for _ in 0..rounds {
        let took = failover::of_pennon(cluster).await?;
        report.failovers.push((Engine::Pennon, took));
        if let Some(etcd) = etcd {
            let took = failover::of_etcd(etcd).await?;
            report.failovers.push((Engine::Etcd, took));
        }
    }
    Ok(report)
}

async fn probe(cluster: &Cluster) -> Result<DiskSpeed> {
    let directory = cluster.directory().to_owned();
    let probe = tokio::task::spawn_blocking(move || disk_probe::measure(&directory, PROBE));
    probe.await.map_err(Failure::new)?
}
