//! Measures conditional writes a second, and how long one takes, against three real processes with
//! real fsync on loopback. `scripts/bench writes` builds everything and runs this.
//!
//! Each writer has a flag of its own and one kept connection, and writes with the version from its
//! last answer (`If-Match`), the next as soon as the last is answered. Writers are spread over the
//! nodes, so two of three writes are forwarded to the leader, unless `--to leader` is given. Rounds
//! are interleaved over the numbers of writers, with a probe of the disk in each, and medians of
//! the rounds are shown, so that a slow minute of the machine does not hit one number alone.
//!
//! The load generator is bare hyper HTTP/1 with one request in flight per connection. The client
//! library's `Admin` keeps a pool of connections, makes request ids and parses every answer twice;
//! it runs on the same cores as the nodes, and its cost would be shown as theirs.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use jepsen_like_tests::cluster::{Cluster, Options};
use jepsen_like_tests::disk_probe::{self, DiskSpeed, WRITE_LEN};
use jepsen_like_tests::http1::{Call, Connection};
use jepsen_like_tests::{Failure, Result, say};
use serde_json::{Value, json};

const WRITERS: [usize; 4] = [1, 16, 64, 256];
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// At the start of each measurement, not counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// The longest time that is told apart: a minute.
const MICROS_MAX: u64 = 60_000_000;
const PROBE: Duration = Duration::from_secs(1);

const USAGE: &str = "\
Usage: scripts/bench writes [--json] [--seconds N] [--rounds N] [--to any|leader] [--data DIR]

  --seconds N   how long each number of writers writes in each round [default: 3]
  --rounds N    rounds; medians are shown [default: 3]
  --to WHERE    any: writers spread over the nodes [default]; leader: all write to the leader
  --data DIR    where the nodes keep their data: the disk that is measured [default: a new
                directory for temporary files, removed at the end]
  --json        one JSON object instead of a table";

struct Settings {
    json: bool,
    seconds: u64,
    rounds: usize,
    to_leader: bool,
    data: Option<PathBuf>,
}

/// One number of writers in one round.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
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

/// Reads the command line; `None` when help is asked for.
fn settings(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
    let mut settings = Settings {
        json: false,
        seconds: 3,
        rounds: 3,
        to_leader: false,
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
            "--seconds" => settings.seconds = number(&value()?)?,
            "--rounds" => {
                settings.rounds = usize::try_from(number(&value()?)?).map_err(Failure::new)?
            }
            "--data" => settings.data = Some(value()?.into()),
            "--to" => {
                settings.to_leader = match value()?.as_str() {
                    "any" => false,
                    "leader" => true,
                    other => {
                        return Err(Failure::new(format!(
                            "--to {other:?} is neither any nor leader"
                        )));
                    }
                }
            }
            other => return Err(Failure::new(format!("there is no option {other:?}"))),
        }
    }
    Ok(Some(settings))
}

fn number(text: &str) -> Result<u64> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=3_600).contains(number));
    number.ok_or_else(|| Failure::new(format!("{text:?} is not a number from 1 to 3600")))
}

async fn run(settings: &Settings) -> Result<()> {
    let options = Options {
        data: settings.data.clone(),
        ..Options::default()
    };
    let mut cluster = Cluster::start(3, options).await?;
    let leader = cluster.leader(ANSWER_MAX).await?;
    let addresses = match settings.to_leader {
        true => vec![cluster.address(leader).to_owned()],
        false => cluster.addresses(),
    };
    let (mut probes, mut measured) = (Vec::new(), vec![Vec::new(); WRITERS.len()]);
    let how_long = Duration::from_secs(settings.seconds);
    for round in 0..settings.rounds {
        let directory = cluster.directory().to_owned();
        let probe = tokio::task::spawn_blocking(move || disk_probe::measure(&directory, PROBE));
        probes.push(probe.await.map_err(Failure::new)??);
        for (at, writers) in WRITERS.into_iter().enumerate() {
            let name = format!("bench-{round}-{writers}");
            measured[at].push(measure(&addresses, &name, writers, how_long).await?);
        }
    }
    let (version, digest) = cluster.converged(ANSWER_MAX).await?;
    if cluster.leader(ANSWER_MAX).await? != leader {
        return Err(Failure::new(
            "the leader changed during the run: the figures say nothing",
        ));
    }
    let environment = environment(&cluster, settings).await?;
    let medians: Vec<Measured> = measured.iter().map(|rounds| median_of(rounds)).collect();
    let probe = median_probe(&probes);
    let text = match settings.json {
        true => json_of(&environment, probe, &medians, &measured).to_string(),
        false => table_of(&environment, probe, &medians, version, &digest),
    };
    writeln!(std::io::stdout(), "{text}").map_err(Failure::from)
}

/// Lets this many writers write for a while.
async fn measure(
    addresses: &[String],
    name: &str,
    writers: usize,
    how_long: Duration,
) -> Result<Measured> {
    let mut tasks = tokio::task::JoinSet::new();
    let begin = Instant::now() + WARM_UP;
    for writer in 0..writers {
        let address = addresses[writer % addresses.len()].clone();
        let flag = format!("{name}-{writer}");
        tasks.spawn(async move { write_until(&address, &flag, begin, begin + how_long).await });
    }
    let mut all: Histogram<u64> =
        Histogram::new_with_bounds(1, MICROS_MAX, 3).map_err(Failure::new)?;
    while let Some(ended) = tasks.join_next().await {
        all.add(ended.map_err(Failure::new)??)
            .map_err(Failure::new)?;
    }
    let ms = |quantile| all.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Measured {
        per_second: all.len() as f64 / how_long.as_secs_f64(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
    })
}

/// One writer. Returns the times, in microseconds, of the writes that were answered between two
/// moments.
async fn write_until(
    address: &str,
    flag: &str,
    begin: Instant,
    end: Instant,
) -> Result<Histogram<u64>> {
    let mut times = Histogram::new_with_bounds(1, MICROS_MAX, 3).map_err(Failure::new)?;
    let mut connection = Connection::open(address).await?;
    let path = format!("/v1/flags/{flag}");
    let config = json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off",
        "description": "written by scripts/bench writes", "tags": ["bench"]});
    let mut version = write(&mut connection, &Call::put(&path, &config).if_absent()).await?;
    while Instant::now() < end {
        let call = Call::put(&path, &config).if_at(version);
        let one = Instant::now();
        version = write(&mut connection, &call).await?;
        let done = Instant::now();
        if done >= begin && done < end {
            times.saturating_record(u64::try_from((done - one).as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(times)
}

/// One write that must succeed; returns the version it made.
async fn write(connection: &mut Connection, call: &Call) -> Result<u64> {
    let answer = connection
        .send(call, ANSWER_MAX)
        .await
        .map_err(Failure::new)?;
    let version = answer
        .status
        .is_success()
        .then(|| answer.decided())
        .flatten();
    version.ok_or_else(|| Failure::during("a write was not taken", answer.shown()))
}

async fn environment(cluster: &Cluster, settings: &Settings) -> Result<Value> {
    let answer = Call::get("/v1/cluster")
        .to(cluster.address(0), ANSWER_MAX)
        .await?
        .json();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(json!({
        "cores": cores,
        "cpu": cpu(),
        "disk": disk_of(cluster.directory()),
        "release": answer["members"][0]["release"],
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "nodes": cluster.size(),
        "writers_to": if settings.to_leader { "leader" } else { "any" },
        "seconds": settings.seconds,
        "rounds": settings.rounds,
    }))
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// Device and file system that a directory is on.
fn disk_of(directory: &std::path::Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        directory
            .starts_with(at)
            .then(|| (at.len(), format!("{device} {kind}")))
    });
    mounts
        .max()
        .map_or_else(|| "unknown".to_owned(), |(_, disk)| disk)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn median_of(rounds: &[Measured]) -> Measured {
    let of = |field: fn(&Measured) -> f64| median(rounds.iter().map(field).collect());
    Measured {
        per_second: of(|m| m.per_second),
        p50_ms: of(|m| m.p50_ms),
        p99_ms: of(|m| m.p99_ms),
    }
}

fn median_probe(probes: &[DiskSpeed]) -> Measured {
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let rounds: Vec<Measured> = probes
        .iter()
        .map(|probe| Measured {
            per_second: probe.per_second,
            p50_ms: ms(probe.p50),
            p99_ms: ms(probe.p99),
        })
        .collect();
    median_of(&rounds)
}

fn json_of(
    environment: &Value,
    probe: Measured,
    medians: &[Measured],
    rounds: &[Vec<Measured>],
) -> Value {
    let shown = |one: Measured| {
        let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
        json!({"per_second": one.per_second.round(), "p50_ms": round(one.p50_ms), "p99_ms": round(one.p99_ms)})
    };
    let writes = WRITERS
        .iter()
        .zip(medians)
        .zip(rounds)
        .map(|((writers, median), rounds)| {
            let mut line = shown(*median);
            line["writers"] = json!(writers);
            line["rounds"] = rounds.iter().map(|round| shown(*round)).collect();
            line
        });
    let writes: Vec<Value> = writes.collect();
    json!({"bench": "writes", "environment": environment, "disk_probe": shown(probe), "writes": writes})
}

fn table_of(
    environment: &Value,
    probe: Measured,
    medians: &[Measured],
    version: u64,
    digest: &str,
) -> String {
    let word = |name: &str| {
        environment[name]
            .as_str()
            .map_or_else(|| environment[name].to_string(), str::to_owned)
    };
    let mut text = format!(
        "conditional writes over HTTP, {} nodes, real fsync; {} cores ({}), disk {}, release {} ({} build)\n\
         writers write to {}, {} s each, medians of {} interleaved rounds\n\n\
         {:>10} {:>12} {:>10} {:>10} {:>14}\n",
        word("nodes"),
        word("cores"),
        word("cpu"),
        word("disk"),
        word("release"),
        word("build"),
        word("writers_to"),
        word("seconds"),
        word("rounds"),
        "writers",
        "writes/s",
        "p50 ms",
        "p99 ms",
        "per disk sync",
    );
    for (writers, one) in WRITERS.iter().zip(medians) {
        let ratio = one.per_second / probe.per_second;
        text += &format!(
            "{writers:>10} {:>12.0} {:>10.2} {:>10.2} {ratio:>14.2}\n",
            one.per_second, one.p50_ms, one.p99_ms
        );
    }
    text += &format!(
        "{:>10} {:>12.0} {:>10.2} {:>10.2}    write + fdatasync of {WRITE_LEN} B, same directory, same run\n\n\
         all nodes have digest {digest} at version {version}",
        "disk", probe.per_second, probe.p50_ms, probe.p99_ms,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_settings() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        let read = |line: &str| settings(line.split_whitespace().map(str::to_owned));
        let given = read("--json --seconds 7 --to leader").unwrap().unwrap();
        assert!(given.json && given.to_leader && given.seconds == 7);
        assert!(read("--help").unwrap().is_none());
        for wrong in ["--seconds", "--seconds 0", "--to follower", "-x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
