//! The command line of a run, and what follows from its seed.

use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};
use crate::nemesis::{self, Kind};

/// What `--help` says.
pub const USAGE: &str = "\
Runs real nodes behind proxies, breaks what can be broken, and judges what clients were told.

Usage: scripts/chaos [--seconds N] [--seed S] [--nodes 3|5] [--workload W,…] [--nemesis N,…]
                     [--snapshot-every N] [--out DIR] [--html FILE]

  --seconds N         how long faults happen, 10 to 86400 [default: 60]
  --seed S            what everything follows from [default: by chance]
  --nodes N           how many form the cluster: 3 or 5 [default: by the seed]
  --workload W,…      registers, pairs, streams, evaluations, backups, hostile [default: all]
  --nemesis N,…       kinds or families of faults, or all [default: most of them, by the seed]
  --snapshot-every N  entries between two snapshots [default: by the seed]
  --out DIR           where history, logs and data go, a new directory; kept whatever the verdict
                      [default: a directory for temporary files, kept unless the verdict is valid]
  --html FILE         writes a report with plots

Exits with 0 when the run is valid, 1 when a promise was broken, 2 when it cannot be said.";

/// What clients can do.
pub const WORKLOADS: [&str; 6] = [
    "registers",
    "pairs",
    "streams",
    "evaluations",
    "backups",
    "hostile",
];

/// What no run here does, and why.
pub const LEFT_OUT: [&str; 6] = [
    "exposures (W6): no node takes any yet",
    "two releases (W8): there is one binary",
    "a restore into the running cluster (W9): it writes old values again, which the checkers cannot tell from lost ones",
    "failpoints (N6): the binary has none",
    "power cuts, failed fsync, read-only disks (N7, N9): left to the simulation and to scripts/damage",
    "clocks that jump (N10): libfaketime is not used",
];

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long faults happen.
    pub seconds: Duration,
    /// What everything follows from.
    pub seed: u64,
    /// How many nodes form the cluster.
    pub nodes: Option<usize>,
    /// What clients do.
    pub workloads: Vec<String>,
    /// What may happen; by the seed when nothing is said.
    pub kinds: Option<Vec<Kind>>,
    /// Entries between two snapshots.
    pub snapshot_every: Option<u64>,
    /// Where everything goes.
    pub out: Option<PathBuf>,
    /// Where the report goes.
    pub html: Option<PathBuf>,
}

impl Settings {
    /// Reads the command line; `None` when help is asked for.
    ///
    /// # Errors
    /// When it cannot be understood, with what is wrong.
    ///
    /// ```
    /// use jepsen_like_tests::chaos::settings::Settings;
    /// let read = |line: &str| Settings::read(line.split(' ').map(str::to_owned));
    /// assert_eq!(read("--seed 7 --nodes 5")?.unwrap().nodes, Some(5));
    /// assert!(read("--nodes 4").is_err());
    /// # Ok::<(), jepsen_like_tests::Failure>(())
    /// ```
    pub fn read(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
        let mut settings = Settings {
            seconds: Duration::from_secs(60),
            seed: u64::from(rand::make_rng::<StdRng>().random::<u32>()),
            nodes: None,
            workloads: WORKLOADS.map(str::to_owned).to_vec(),
            kinds: None,
            snapshot_every: None,
            out: None,
            html: None,
        };
        while let Some(argument) = arguments.next() {
            if matches!(argument.as_str(), "--help" | "-h") {
                return Ok(None);
            }
            let value = arguments
                .next()
                .ok_or_else(|| Failure::new(format!("{argument} needs a value")))?;
            match argument.as_str() {
                "--seconds" => {
                    settings.seconds = Duration::from_secs(number(&value, 10, 86_400)?);
                }
                "--seed" => settings.seed = number(&value, 0, u64::MAX)?,
                "--nodes" => settings.nodes = Some(nodes(&value)?),
                "--workload" => settings.workloads = workloads(&value)?,
                "--nemesis" if value == "none" => settings.kinds = Some(Vec::new()),
                "--nemesis" => settings.kinds = Some(nemesis::parse(&value)?),
                "--snapshot-every" => {
                    settings.snapshot_every = Some(number(&value, 10, 10_000_000)?);
                }
                "--html" => settings.html = Some(value.into()),
                "--out" => settings.out = Some(value.into()),
                other => return Err(Failure::new(format!("there is no option {other:?}"))),
            }
        }
        Ok(Some(settings))
    }
}

fn number(text: &str, least: u64, most: u64) -> Result<u64> {
    let number = text.parse().ok();
    let number = number.filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Failure::new(format!("{text:?} is not a number from {least} to {most}")))
}

fn nodes(text: &str) -> Result<usize> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err(Failure::new(format!("--nodes is 3 or 5, not {text:?}"))),
    }
}

fn workloads(text: &str) -> Result<Vec<String>> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if text == "all" {
        return Ok(WORKLOADS.map(str::to_owned).to_vec());
    }
    match names
        .iter()
        .find(|name| !WORKLOADS.contains(&name.as_str()))
    {
        Some(name) => Err(Failure::new(format!(
            "there is no workload {name:?}; there are all, {}",
            WORKLOADS.join(", ")
        ))),
        None => Ok(names),
    }
}

/// What follows from the seed, where nothing else was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// How many nodes form the cluster.
    pub nodes: usize,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// What may happen.
    pub kinds: Vec<Kind>,
    /// Clients that write registers.
    pub writers: u32,
    /// Registers that are never deleted.
    pub lasting: u32,
    /// Registers that are.
    pub passing: u32,
    /// Between two operations of a client.
    pub pause: Duration,
    /// How often half of the clients send a request again.
    pub retries_max: u32,
    /// The staleness bound of the environment.
    pub bound: Duration,
}

impl Parameters {
    /// Draws them.
    pub fn new(settings: &Settings) -> Parameters {
        let mut random = StdRng::seed_from_u64(settings.seed);
        let nodes = if random.random_bool(0.6) { 3 } else { 5 };
        let snapshot_every = [50, 100, 200, 500, 1_000][random.random_range(0..5)];
        // So that a node that is away in a short run can lag behind the logs.
        let snapshot_every = snapshot_every.min(settings.seconds.as_secs().max(50));
        let kinds: Vec<Kind> = Kind::ALL
            .iter()
            .copied()
            .filter(|_| random.random_bool(0.8))
            .collect();
        Parameters {
            nodes: settings.nodes.unwrap_or(nodes),
            snapshot_every: settings.snapshot_every.unwrap_or(snapshot_every),
            kinds: settings.kinds.clone().unwrap_or(kinds),
            writers: random.random_range(6..=20),
            lasting: random.random_range(2..=7),
            passing: random.random_range(1..=3),
            pause: Duration::from_millis(random.random_range(5..=40)),
            retries_max: random.random_range(1..=5),
            bound: Duration::from_millis([1_000, 2_000, 5_000][random.random_range(0..3)]),
        }
    }

    /// For people and the header of the history.
    pub fn shown(&self, settings: &Settings) -> Map<String, Value> {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        let all = json!({
            "seconds": settings.seconds.as_secs(),
            "nodes": self.nodes,
            "snapshot_every": self.snapshot_every,
            "workloads": settings.workloads,
            "nemesis": kinds,
            "writers": self.writers,
            "lasting_registers": self.lasting,
            "passing_registers": self.passing,
            "pause_ms": self.pause.as_millis() as u64,
            "retries_max": self.retries_max,
            "bound_ms": self.bound.as_millis() as u64,
            "left_out": LEFT_OUT,
        });
        match all {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let read = |line: &str| Settings::read(line.split_whitespace().map(str::to_owned));
        let given = read("--seconds 90 --seed 3 --workload pairs,streams --nemesis pause")
            .unwrap()
            .unwrap();
        assert_eq!((given.seconds, given.seed), (Duration::from_secs(90), 3));
        assert_eq!(given.workloads, ["pairs", "streams"]);
        let parameters = Parameters::new(&given);
        assert_eq!(parameters.kinds.len(), 3);
        assert_eq!(parameters, Parameters::new(&given));
        assert!(read("-h").unwrap().is_none());
        for wrong in [
            "--seed",
            "--seconds 5",
            "--workload x",
            "--nemesis x",
            "--x 1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
