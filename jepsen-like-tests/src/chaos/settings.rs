//! The command line of a run, and what follows from its seed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};
use crate::nemesis::{self, Kind};
use crate::tool::{number, seconds};

/// What clients can do.
pub const WORKLOADS: [&str; 6] = [
    "registers",
    "pairs",
    "streams",
    "evaluations",
    "backups",
    "hostile",
];

/// A kind of fault takes so much of a run.
const KIND_MIN: Duration = Duration::from_millis(2_400);

/// What no run here does, and why.
pub const LEFT_OUT: [&str; 5] = [
    "exposures (W6): no node takes any yet",
    "two releases (W8): scripts/upgrade has them",
    "a restore into the running cluster (W9): it writes old values again, which the checkers cannot tell from lost ones",
    "clocks that promises go by (N10) and that run at another rate: left to the simulation; the time of day is moved",
    "what a disk loses although it was synced (N7): left to damaged files",
];

/// Runs real nodes behind proxies, breaks what can be broken, and judges what clients were told
///
/// ```
/// use clap::Parser;
/// use jepsen_like_tests::chaos::settings::Settings;
/// let settings = Settings::try_parse_from(["chaos", "--seed", "7", "--nodes", "5"])?;
/// assert_eq!((settings.seed, settings.nodes), (7, Some(5)));
/// assert!(Settings::try_parse_from(["chaos", "--nodes", "4"]).is_err());
/// # Ok::<(), clap::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(
    name = "scripts/chaos",
    bin_name = "scripts/chaos",
    long_about = None,
    after_help = "Exits with 0 when the run is valid, 1 when a promise was broken, 2 when it cannot be said."
)]
pub struct Settings {
    /// How long faults happen
    #[arg(long, value_name = "N", default_value = "60", value_parser = seconds(10..=86_400))]
    pub seconds: Duration,
    /// What everything follows from [default: by chance]
    #[arg(long, value_name = "S", default_value_t = by_chance(), hide_default_value = true)]
    pub seed: u64,
    /// How many nodes form the cluster [default: by the seed]
    #[arg(long, value_name = "N", value_parser = PossibleValuesParser::new(["3", "5"]).try_map(|text| text.parse::<usize>()))]
    pub nodes: Option<usize>,
    /// What clients do: registers, pairs, streams, evaluations, backups, hostile, or all
    #[arg(long = "workload", value_name = "W,…", default_value = "all", value_parser = workloads)]
    pub workloads: Box<[String]>,
    /// Kinds or families of faults, all, or none [default: most of them, by the seed]
    #[arg(long = "nemesis", value_name = "N,…", value_parser = kinds)]
    pub kinds: Option<Box<[Kind]>>,
    /// Entries between two snapshots [default: by the seed]
    #[arg(long, value_name = "N", value_parser = number::<u64>(10..=10_000_000))]
    pub snapshot_every: Option<u64>,
    /// Where history, logs and data go, a new directory; kept whatever the verdict [default: a
    /// directory for temporary files, kept unless the verdict is valid]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Writes a report with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

fn by_chance() -> u64 {
    u64::from(rand::make_rng::<StdRng>().random::<u32>())
}

fn workloads(text: &str) -> Result<Box<[String]>> {
    if text == "all" {
        return Ok(WORKLOADS.map(str::to_owned).into());
    }
    let names = text.split(',').map(str::trim).map(str::to_owned);
    let names: Box<[String]> = names.collect();
    let known = |name: &&String| WORKLOADS.contains(&name.as_str());
    match names.iter().find(|name| !known(name)) {
        Some(name) => Err(Failure::new(format!(
            "there is no workload {name:?}; there are all, {}",
            WORKLOADS.join(", ")
        ))),
        None => Ok(names),
    }
}

fn kinds(text: &str) -> Result<Box<[Kind]>> {
    match text {
        "none" => Ok(Box::default()),
        names => nemesis::parse(names).map(Vec::into_boxed_slice),
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
        // Each has to find a node that no other fault has: in a short run there are fewer.
        let room = settings.seconds.as_millis() / KIND_MIN.as_millis();
        let most = usize::try_from(room).unwrap_or(usize::MAX);
        let mut kinds: Vec<Kind> = Kind::ALL.to_vec();
        kinds.shuffle(&mut random);
        kinds.truncate(most.min(kinds.len() * 4 / 5));
        kinds.sort_unstable();
        Parameters {
            nodes: settings.nodes.unwrap_or(nodes),
            snapshot_every: settings.snapshot_every.unwrap_or(snapshot_every),
            kinds: settings.kinds.clone().map_or(kinds, Vec::from),
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
        let read = |line: &str| {
            Settings::try_parse_from(["chaos"].into_iter().chain(line.split_whitespace()))
        };
        let given = read("--seconds 90 --seed 3 --workload pairs,streams --nemesis pause").unwrap();
        assert_eq!((given.seconds, given.seed), (Duration::from_secs(90), 3));
        assert_eq!(*given.workloads, ["pairs", "streams"]);
        let parameters = Parameters::new(&given);
        assert_eq!(parameters.kinds.len(), 3);
        assert_eq!(parameters, Parameters::new(&given));
        let short = read("--seconds 24 --seed 3").unwrap();
        assert_eq!(Parameters::new(&short).kinds.len(), 10);
        let all = read("--workload all --nemesis none").unwrap();
        assert_eq!(*all.workloads, WORKLOADS);
        assert_eq!(Parameters::new(&all).kinds, []);
        for wrong in [
            "--seed",
            "--nodes 4",
            "--seconds 5",
            "--workload x",
            "--nemesis x",
            "--x 1",
        ] {
            assert_eq!(read(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
