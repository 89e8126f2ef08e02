//! Measures the store with three real processes on loopback, with real fsync, and etcd beside it in the
//! same run where that is installed: conditional writes a second, linearizable reads a second, how long
//! one takes, and how long nobody can write after the leader was killed. `scripts/bench` builds everything
//! and runs this.
//!
//! Workers are spread over the nodes, so two of three writes are forwarded to the leader, unless
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

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use jepsen_like_tests::bench::etcd::{self, Etcd};
use jepsen_like_tests::bench::machine;
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::disk_probe::{self, DiskSpeed};
use jepsen_like_tests::{Failure, Result, say};
use serde_json::Value;

use crate::load::{ANSWER_MAX, Engine, Measured, Work, measure};
use crate::report::Report;
use crate::settings::{Bench, Settings, USAGE};

const PROBE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let settings = match Settings::read(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            say(format!("error: {why}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let run = runtime
        .map_err(Failure::new)
        .and_then(|runtime| runtime.block_on(run(&settings)));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format!("error: {why}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result<()> {
    let options = Options {
        data: settings.data.clone(),
        ..Options::default()
    };
    let mut cluster = Cluster::start(3, options).await?;
    let mut etcd = match (settings.etcd, etcd::installed()) {
        (true, Some(_)) => Some(Etcd::start(cluster.directory()).await?),
        _ => None,
    };
    let mut environment = machine::environment(cluster.directory());
    environment["etcd"] = match &etcd {
        Some(_) => etcd::installed().into(),
        None => Value::Null,
    };
    let report = match settings.bench {
        Bench::Writes => rounds(settings, &mut cluster, &mut etcd, Work::Write).await?,
        Bench::Reads => rounds(settings, &mut cluster, &mut etcd, Work::Read).await?,
        Bench::Failover => trials(settings, &mut cluster, &mut etcd).await?,
    };
    let (version, digest) = cluster.converged(ANSWER_MAX).await?;
    environment["converged"] = format!("digest {digest} at version {version}").into();
    let text = match settings.json {
        true => report.json(settings, &environment).to_string(),
        false => report.text(settings, &environment),
    };
    writeln!(std::io::stdout(), "{text}").map_err(Failure::from)
}

async fn rounds(
    settings: &Settings,
    cluster: &mut Cluster,
    etcd: &mut Option<Etcd>,
    work: Work,
) -> Result<Report> {
    let leader = cluster.leader(ANSWER_MAX).await?;
    let ours = match settings.to_leader {
        true => vec![cluster.address(leader).to_owned()],
        false => cluster.addresses(),
    };
    let mut engines = vec![(Engine::Pennon, ours)];
    if let Some(etcd) = etcd {
        let at = match settings.to_leader {
            true => vec![etcd.leader],
            false => vec![0, 1, 2],
        };
        let theirs = at.into_iter().map(|at| etcd.address(at).to_owned());
        engines.push((Engine::Etcd, theirs.collect()));
    }
    let mut report = Report::default();
    let how_long = Duration::from_secs(settings.seconds);
    for round in 0..settings.rounds {
        report.probes.push(probe(cluster).await?);
        for workers in &settings.workers {
            for (engine, addresses) in &engines {
                let name = format!("bench-{round}-{workers}");
                let measured: Measured =
                    measure(*engine, work, addresses, &name, *workers, how_long).await?;
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

async fn trials(
    settings: &Settings,
    cluster: &mut Cluster,
    etcd: &mut Option<Etcd>,
) -> Result<Report> {
    let leader = cluster.leader(ANSWER_MAX).await?;
    failover::prepare(cluster.address(leader)).await?;
    let mut report = Report::default();
    for _ in 0..settings.rounds {
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
