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
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::http1::{Call, Connection};
use jepsen_like_tests::{Failure, Result, say};
use serde_json::{Value, json};

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
    let leader = cluster.leader(ANSWER_MAX).await?;
    load(cluster.address(leader), settings.flags).await?;
    cluster.converged(READY_MAX).await?;
    let mut times = Vec::new();
    for round in 0..settings.rounds {
        let leader = cluster.leader(ANSWER_MAX).await?;
        let took = restart(&mut cluster, (leader + 1 + round % 2) % 3).await?;
        say(format!(
            "round {}: {:.0} ms",
            round + 1,
            took.as_secs_f64() * 1_000.0
        ));
        times.push(took);
    }
    let (version, digest) = cluster.converged(READY_MAX).await?;
    let text = format!("digest {digest} at version {version}");
    writeln!(std::io::stdout(), "{text}").map_err(Failure::from)
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
    let key = format!("flag-{at}");
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
