//! Measures how long a node that was killed takes until it serves again, with a hundred thousand flags
//! over a hundred environments, and etcd with as many keys beside it in the same run.
//!
//! Both are three real processes on loopback with real fsync. A member that does not lead is killed with
//! SIGKILL and started again; the time runs from the start until it answers a linearizable read, which
//! both only do when they know a leader and have applied what it had. (For Pennon also `/readyz`, which
//! asks for the same.) Rounds are interleaved. Left out: cold files; what was written stays in the
//! page cache, for both.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use http::StatusCode;
use jepsen_like_tests::bench::etcd::{self, Caller, Etcd};
use jepsen_like_tests::bench::figures::{Quantiles, median, ms, word};
use jepsen_like_tests::bench::{grpc, machine};
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::{Call, Connection};
use jepsen_like_tests::{Failure, Result, say};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const USAGE: &str = "\
Usage: scripts/bench restart [--json] [--flags N] [--rounds N] [--data DIR]

  --flags N     flags, and keys of etcd [default: 100000]
  --rounds N    restarts of each [default: 5]
  --data DIR    where the nodes keep their data [default: a new directory for temporary files]
  --json        one JSON object instead of a table";

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

struct Settings {
    json: bool,
    flags: usize,
    rounds: usize,
    data: Option<PathBuf>,
}

fn main() -> ExitCode {
    let settings = match settings(std::env::args().skip(1)) {
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

fn settings(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
    let mut settings = Settings {
        json: false,
        flags: 100_000,
        rounds: 5,
        data: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| Failure::new(format!("{argument} needs a value")))
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--json" => settings.json = true,
            "--flags" => settings.flags = number(&value()?)?,
            "--rounds" => settings.rounds = number(&value()?)?,
            "--data" => settings.data = Some(value()?.into()),
            other => return Err(Failure::new(format!("there is no option {other:?}"))),
        }
    }
    Ok(Some(settings))
}

fn number(text: &str) -> Result<usize> {
    let number = text.parse().ok().filter(|n| (1..=1_000_000).contains(n));
    number.ok_or_else(|| Failure::new(format!("{text:?} is not a number from 1 to 1000000")))
}

async fn run(settings: &Settings) -> Result<()> {
    let options = Options {
        data: settings.data.clone(),
        arguments: vec!["--snapshot-every".into(), SNAPSHOT_EVERY.into()],
        ready_max: READY_MAX,
    };
    let mut cluster = Cluster::start(3, options).await?;
    let mut environment = machine::environment(cluster.directory());
    let leader = cluster.leader(ANSWER_MAX).await?;
    load(cluster.address(leader), settings.flags).await?;
    cluster.converged(READY_MAX).await?;
    let mut etcd = match etcd::installed() {
        Some(release) => {
            environment["etcd"] = release.into();
            let etcd = Etcd::start(cluster.directory()).await?;
            load_etcd(&etcd, settings.flags).await?;
            Some(etcd)
        }
        None => None,
    };
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
    let text = match settings.json {
        true => json!({"bench": "restart", "flags": settings.flags, "environments": ENVIRONMENTS,
            "environment": environment, "pennon_ms": ours, "etcd_ms": theirs})
        .to_string(),
        false => report(settings, &environment, &ours, &theirs),
    };
    writeln!(std::io::stdout(), "{text}").map_err(Failure::from)
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
