//! Measures what a flag decision costs, Pennon's client beside other engines and a floor, all in
//! one process; see the library for what is compared and what must hold. `scripts/bench evaluator`
//! builds everything and runs this.
//!
//! Exits with 1 when a contestant decides anything wrong, when an answer of Pennon is not FRESH,
//! and when Pennon allocates in a decision. A goal that is missed is shown and changes nothing.

use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use pennon_bench_evaluator::node::Node;
use pennon_bench_evaluator::report::Report;
use pennon_bench_evaluator::rounds::{self, Effort};
use pennon_bench_evaluator::store::{FLAGS, Plan, SEGMENTS, Store, Workload};
use pennon_bench_evaluator::{Failure, Result, contestants, loading, pennon, threads};
use serde_json::{Value, json};

const USAGE: &str = "\
Usage: scripts/bench evaluator [--json] [--quick] [--rounds N]

  --rounds N   rounds; medians are shown [default: 21]
  --quick      three short rounds: shows that it works, not how fast it is
  --json       one JSON object instead of a table";

/// The releases whose figures are shown are those of the lock file.
const LOCK: &str = include_str!("../Cargo.lock");
const PEERS: [&str; 3] = [
    "unleash-yggdrasil",
    "launchdarkly-server-sdk-evaluation",
    "eppo_core",
];

struct Settings {
    json: bool,
    quick: bool,
    rounds: usize,
}

fn main() -> ExitCode {
    let settings = match settings(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => return said(USAGE, ExitCode::SUCCESS),
        Err(why) => return said(&format!("error: {why}\n{USAGE}"), ExitCode::from(2)),
    };
    let report = match run(&settings) {
        Ok(report) => report,
        Err(why) => return said(&format!("error: {why}"), ExitCode::FAILURE),
    };
    let text = if settings.json {
        report.json().to_string()
    } else {
        report.table()
    };
    if writeln!(std::io::stdout(), "{text}").is_err() {
        return ExitCode::FAILURE;
    }
    match report.allocating() {
        none if none.is_empty() => ExitCode::SUCCESS,
        found => said(
            &format!("error: Pennon allocates: {}", found.join(", ")),
            ExitCode::FAILURE,
        ),
    }
}

fn said(text: &str, code: ExitCode) -> ExitCode {
    // Nothing is left to be done about a closed terminal.
    let _ = writeln!(std::io::stderr(), "{text}");
    code
}

/// Reads the command line; `None` when help is asked for.
fn settings(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
    let mut settings = Settings {
        json: false,
        quick: false,
        rounds: 21,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--json" => settings.json = true,
            "--quick" => settings.quick = true,
            "--rounds" => {
                let number = arguments.next().ok_or("--rounds needs a value")?;
                let number = number
                    .parse()
                    .ok()
                    .filter(|number| (1..=1_000).contains(number));
                settings.rounds = number.ok_or("--rounds takes a number from 1 to 1000")?;
            }
            other => return Err(format!("there is no option {other:?}").into()),
        }
    }
    Ok(Some(settings))
}

fn run(settings: &Settings) -> Result<Report> {
    let effort = match settings.quick {
        true => Effort {
            rounds: 3,
            turn: Duration::from_millis(2),
        },
        false => Effort {
            rounds: settings.rounds,
            turn: Duration::from_millis(20),
        },
    };
    let environment = environment();
    // The client's background task has a thread of its own; this one decides.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let store = Store::new(FLAGS, &SEGMENTS);
    let node = Node::new(pennon::compile(&store)?);
    let client = runtime.block_on(pennon::connect(node.clone()))?;
    let lanes = contestants(&store, &client)?;
    let plans = Workload::ALL.map(|workload| Plan::new(&store, workload));
    let cells = rounds::decisions(&lanes, &plans, effort, || pennon::healthy(&client))?;
    let contexts = rounds::contexts(&lanes, effort);
    let mix = plans.last().ok_or("there is no workload")?;
    let (rounds, time) = (effort.rounds.min(9), effort.turn * 10);
    let threads = threads::measure(&store, mix, &client, &node, rounds, time)?;
    let loaded: Result<Vec<_>> = match settings.quick {
        true => [1_000, 10_000]
            .iter()
            .map(|flags| loading::measure(*flags, 3))
            .collect(),
        false => {
            let rounds = [(1_000, 41), (10_000, 21), (100_000, 7)];
            rounds
                .iter()
                .map(|(flags, rounds)| loading::measure(*flags, *rounds))
                .collect()
        }
    };
    Ok(Report {
        environment,
        effort,
        contestants: lanes.iter().map(|lane| lane.name()).collect(),
        cells,
        contexts,
        loaded: loaded?,
        threads,
        counted: counted()?,
    })
}

/// Runs `count_allocations`, which lies beside this program.
fn counted() -> Result<Value> {
    let program = std::env::current_exe()?.with_file_name("count_allocations");
    let named =
        |why: &dyn std::fmt::Display| -> Failure { format!("{}: {why}", program.display()).into() };
    let ran = Command::new(&program).output().map_err(|why| named(&why))?;
    match ran.status.success() {
        true => Ok(serde_json::from_slice(&ran.stdout)?),
        false => Err(named(&String::from_utf8_lossy(&ran.stderr))),
    }
}

fn environment() -> Value {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load
        .split(' ')
        .next()
        .and_then(|load| load.parse::<f64>().ok());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let releases: Vec<String> = PEERS
        .iter()
        .map(|peer| format!("{peer} {}", release(peer)))
        .collect();
    json!({
        "cores": cores,
        "cpu": cpu(),
        "load": load,
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "releases": releases.join(", "),
    })
}

/// The version of a package in the lock file.
fn release(package: &str) -> &'static str {
    let named = format!("name = \"{package}\"");
    let mut lines = LOCK.lines().skip_while(|line| *line != named).skip(1);
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("version = "));
    version.map_or("unknown", |version| version.trim_matches('"'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_releases() {
        let read = |line: &str| settings(line.split_whitespace().map(str::to_owned));
        let given = read("--json --rounds 7").unwrap_or(None);
        assert!(given.is_some_and(|given| given.json && !given.quick && given.rounds == 7));
        assert!(read("--help").is_ok_and(|settings| settings.is_none()));
        for wrong in ["--rounds", "--rounds 0", "-x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for peer in PEERS {
            assert!(
                release(peer).starts_with(|first: char| first.is_ascii_digit()),
                "{peer}"
            );
        }
    }
}
