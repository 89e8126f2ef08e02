//! Measures how long a node that was killed takes until it serves again, with a hundred thousand flags
//! over a hundred environments, and etcd with as many keys beside it in the same run.
//!
//! Both are three real processes on loopback with real fsync. A member that does not lead is killed with
//! SIGKILL and started again; the time runs from the start until it answers a linearizable read, which
//! both only do when they know a leader and have applied what it had. (For Pennon also `/readyz`, which
//! asks for the same.) Rounds are interleaved. Left out: cold files; what was written stays in the
//! page cache, for both.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use http::StatusCode;
use jepsen_like_tests::bench::etcd::{Caller, Etcd};
use jepsen_like_tests::bench::figures::{Quantiles, median, ms, word};
use jepsen_like_tests::bench::{Asked, grpc, machine};
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::{Call, Connection};
use jepsen_like_tests::tool::{self, number};
use jepsen_like_tests::{Failure, Result};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const ENVIRONMENTS: usize = 100;
const ANSWER_MAX: Duration = Duration::from_secs(60);
const READY_MAX: Duration = Duration::from_secs(120);
/// Flags of one change set while they are loaded.
const LOADED_AT_ONCE: usize = 100;
/// Written one by one after the load: what a restart applies again.
const TAIL: usize = 500;
/// Entries between two snapshots: fewer than the load has, so that a restart begins with a snapshot.
const SNAPSHOT_EVERY: &str = "800";
const ETCD_LOADERS: usize = 64;
const LOOK: Duration = Duration::from_millis(2);

/// Kills a node that has a hundred thousand flags, starts it again, and measures until it serves
#[derive(Clone, Debug, Parser)]
#[command(name = "scripts/bench restart", bin_name = "scripts/bench restart")]
struct Settings {
    /// Flags, and keys of etcd
    #[arg(long, value_name = "N", default_value = "100000", value_parser = number::<usize>(1..=1_000_000))]
    flags: usize,
    /// Restarts of each
    #[arg(long, value_name = "N", default_value = "5", value_parser = number::<usize>(1..=1_000_000))]
    rounds: usize,
    #[command(flatten)]
    asked: Asked,
}

fn main() -> ExitCode {
    tool::run(run)
}

async fn run(settings: Settings) -> Result<()> {
    let options = Options {
        data: settings.asked.data.clone(),
        arguments: vec!["--snapshot-every".into(), SNAPSHOT_EVERY.into()],
        ready_max: READY_MAX,
        ..Options::default()
    };
    let mut cluster = Cluster::start(3, options).await?;
    let mut environment = machine::environment(cluster.directory());
    let leader = cluster.leader(ANSWER_MAX).await?;
    load(cluster.address(leader), settings.flags).await?;
    cluster.converged(READY_MAX).await?;
    let directory = cluster.directory();
    let mut etcd = Etcd::if_asked(&settings.asked, directory, &mut environment).await?;
    if let Some(etcd) = &etcd {
        load_etcd(etcd, settings.flags).await?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        let leader = cluster.leader(ANSWER_MAX).await?;
        ours.push(ms(
            restart(&mut cluster, (leader + 1 + round % 2) % 3).await?
        ));
        if let Some(etcd) = &mut etcd {
            let at = etcd.in_turn()[round % 2];
            theirs.push(ms(restart_etcd(etcd, at).await?));
        }
    }
    let (version, digest) = cluster.converged(READY_MAX).await?;
    environment["converged"] = format!("digest {digest} at version {version}").into();
    match settings.asked.json {
        true => tool::print(
            json!({"bench": "restart", "flags": settings.flags, "environments": ENVIRONMENTS,
            "environment": environment, "pennon_ms": ours, "etcd_ms": theirs}),
        ),
        false => tool::print(report(&settings, &environment, &ours, &theirs)),
    }
}

fn report(settings: &Settings, environment: &Value, ours: &[f64], theirs: &[f64]) -> String {
    let line = |name: &str, times: &[f64]| {
        let times = Quantiles::of(times.iter().copied());
        format!("{name:>8} {:>10.0} {:>10.0}\n", times.p50, times.max)
    };
    let mut text = format!(
        "kill -9 of a follower until it answers a linearizable read; {} flags over {ENVIRONMENTS} environments, \
         {} cores, disk {}, load {} at the start, {} rounds\n\n{:>8} {:>10} {:>10}\n",
        settings.flags,
        word(environment, "cores"),
        word(environment, "disk"),
        word(environment, "load_at_start"),
        settings.rounds,
        "",
        "median ms",
        "most ms",
    );
    text += &line("pennon", ours);
    if !theirs.is_empty() {
        text += &line("etcd", theirs);
        let ratio = median(ours.iter().copied()) / median(theirs.iter().copied());
        text += &format!(
            "pennon takes {ratio:.2} times what etcd {} takes\n",
            word(environment, "etcd")
        );
    }
    text + &word(environment, "converged")
}

/// As many keys, each with a value as long as a flag with its policy.
async fn load_etcd(etcd: &Etcd, keys: usize) -> Result<()> {
    let mut loading = JoinSet::new();
    for first in 0..ETCD_LOADERS {
        let address = etcd.address(etcd.leader).to_owned();
        loading.spawn(async move {
            let mut caller = Caller::open(&address).await?;
            for at in (first..keys).step_by(ETCD_LOADERS) {
                let value = Value::from(flag_and_policy(at).to_vec()).to_string();
                let put = grpc::put_request(key_of(at).as_bytes(), value.as_bytes());
                caller.call("KV/Put", put).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(loaded) = loading.join_next().await {
        loaded.map_err(Failure::new)??;
    }
    Ok(())
}

fn key_of(at: usize) -> String {
    format!("flag-{at}")
}

/// Kills a member, starts it, and returns how long it took until it answered a read.
async fn restart_etcd(etcd: &mut Etcd, at: usize) -> Result<Duration> {
    etcd.kill(at)?;
    let begin = Instant::now();
    etcd.restart(at)?;
    let address = etcd.address(at).to_owned();
    loop {
        let read = async {
            let mut caller = Caller::open(&address).await?;
            let answer = caller.call("KV/Range", grpc::get_request(key_of(0).as_bytes()));
            grpc::read_get_answer(&answer.await?)
        };
        match read.await {
            Ok(1) => return Ok(begin.elapsed()),
            _ if begin.elapsed() > READY_MAX => {
                return Err(Failure::new("the member did not come back"));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn load(address: &str, flags: usize) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let limits = json!({"flags": flags.max(1_000), "environments": ENVIRONMENTS});
    write(
        &mut connection,
        &Call::put("/v1/settings/limits", &limits).if_absent(),
    )
    .await?;
    let environments = (0..ENVIRONMENTS).map(|at| {
        json!({"op": "put", "kind": "environment", "key": format!("env-{at}"), "value": {}, "expected_version": 0})
    });
    let environments = Value::Array(environments.collect());
    write(&mut connection, &Call::post("/v1/changes", &environments)).await?;
    for first in (0..flags).step_by(LOADED_AT_ONCE) {
        let some = first..flags.min(first + LOADED_AT_ONCE);
        let change = Value::Array(some.flat_map(flag_and_policy).collect());
        write(&mut connection, &Call::post("/v1/changes", &change)).await?;
    }
    for at in 0..TAIL.min(flags) {
        let path = format!("/v1/flags/flag-{at}");
        let found = connection.send(&Call::get(&path), ANSWER_MAX).await;
        let version = found.map_err(Failure::new)?.json()["version"].as_u64();
        let call = Call::put(&path, &config(at, "changed")).if_at(version.unwrap_or(0));
        write(&mut connection, &call).await?;
    }
    Ok(())
}

fn config(at: usize, said: &str) -> Value {
    json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off",
        "description": format!("flag {at} of scripts/bench restart, {said}"), "tags": ["bench"]})
}

fn flag_and_policy(at: usize) -> [Value; 2] {
    let key = key_of(at);
    let policy = json!({"enabled": true,
        "rules": [{"id": "some-countries", "when": [{"attribute": "country", "op": "in", "values": ["DE", "FR"]}],
            "serve": {"variant": "on"}}],
        "default": {"rollout": {"weights": [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}]}}});
    let environment = format!("env-{}", at % ENVIRONMENTS);
    [
        json!({"op": "put", "kind": "flag", "key": key, "value": config(at, "loaded"), "expected_version": 0}),
        json!({"op": "put", "kind": "policy", "environment": environment, "key": key, "value": policy,
            "expected_version": 0}),
    ]
}

async fn write(connection: &mut Connection, call: &Call) -> Result<()> {
    let answer = connection.send(call, ANSWER_MAX).await;
    let answer = answer.map_err(Failure::new)?;
    match answer.status.is_success() {
        true => Ok(()),
        false => Err(Failure::during("a write was not taken", answer.shown())),
    }
}

/// Kills a node, starts it, and returns how long it took until it was ready and answered a read.
async fn restart(cluster: &mut Cluster, at: usize) -> Result<Duration> {
    cluster.kill(at)?;
    let begin = Instant::now();
    cluster.process(at).start()?;
    let address = cluster.address(at).to_owned();
    for path in ["/readyz", "/v1/flags/flag-0"] {
        loop {
            match Call::get(path).to(&address, ANSWER_MAX).await {
                Ok(answer) if answer.status == StatusCode::OK => break,
                _ if begin.elapsed() > READY_MAX => {
                    return Err(Failure::new("the node did not come back"));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }
    Ok(begin.elapsed())
}
